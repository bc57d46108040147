"""PostgreSQL servers that are killed, stopped, filled up and failed over; the programs are those of the project's own wheel."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from underway.store import embedded

from .ports import free_port

START_S_MAX = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "shared_buffers": "32MB",
    "max_connections": "30",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "5min",
    "dynamic_shared_memory_type": "mmap",
    "jit": "off",
    "synchronous_commit": "on",
    "autovacuum": "off",
    # processes die here, the machine does not: what was written survives without being flushed
    "fsync": "off",
    "max_worker_processes": "2",
    "max_logical_replication_workers": "0",
}


def user() -> str | None:
    """Return the user that servers run as, None for our own."""
    return embedded._unprivileged_user().pw_name if os.geteuid() == 0 else None


def run(home: Path, *command: str) -> None:
    """Run one of PostgreSQL's programs to its end, as the user of the servers."""
    who = embedded._unprivileged_user() if os.geteuid() == 0 else None
    with tempfile.TemporaryFile() as said:
        process = embedded._popen([str(embedded._programs(who) / "bin" / command[0]), *command[1:]], who, said)
        code = process.wait(START_S_MAX)
        said.seek(0)
        text = said.read().decode(errors="replace")
    if code != 0:
        raise RuntimeError(f"{command[0]} in '{home}' ended with {code}: {text[-2000:]}")


def wipe(folder: Path) -> None:
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


@dataclass
class Postgres:
    """One server with its own data folder and port; it may be down.

    The process ends with the thread that started it: start it from a thread that lives as long as it is needed.
    """

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log_path(self) -> Path:
        return self.home / "postgres.log"

    def url(self, database: str = "underway") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """Initialise an empty data folder."""
        who = self._prepare_home()
        embedded._initdb(embedded._programs(who), self.data, who)

    def copy_of(self, template: Path) -> None:
        """Take the data of a server that is stopped."""
        self._prepare_home()
        subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(self.data)], check=True)

    def standby_of(self, primary: Postgres, name: str) -> None:
        """Take a base backup and follow `primary`; its name is that of ``synchronous_standby_names``."""
        self._prepare_home()
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={name}"
        # a checkpoint that takes its time is not what is measured here
        run(self.home, "pg_basebackup", "-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", source)

    def start(self) -> None:
        """Start and wait until it answers; raise when it ends instead."""
        self.start_without_waiting()
        self.wait_until_ready()

    def start_without_waiting(self) -> None:
        assert not self.is_alive(), "the server runs already"
        who = embedded._unprivileged_user() if os.geteuid() == 0 else None
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = {**SETTINGS, **self.settings, "port": str(self.port)}
        command = [str(embedded._programs(who) / "bin/postgres"), "-D", str(self.data), *(f"--{k}={v}" for k, v in settings.items())]
        with self.log_path.open("ab") as log:
            self.process = embedded._popen(command, who, log)

    def wait_until_ready(self, seconds: float = START_S_MAX) -> None:
        end_s = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=3).close()
            except psycopg.OperationalError:
                if not self.is_alive() or time.monotonic() > end_s:
                    raise RuntimeError(f"the server in '{self.home}' did not start: {self.log()[-2000:]}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self, mode: str = "fast") -> None:
        """Stop as ``pg_ctl stop -m`` does: fast ends sessions and writes a checkpoint, immediate writes nothing."""
        if self.is_alive():
            assert self.process is not None
            self.process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
                return
            self.kill()

    def kill(self) -> None:
        """SIGKILL the server and every process of it, as when the machine goes away."""
        if not self.is_alive():
            return
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in [self.process.pid, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)

    def promote(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            assert conn.execute("SELECT pg_promote(true, 30)").fetchone() == (True,)

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def execute(self, statement: str, database: str = "underway") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _prepare_home(self) -> embedded.pwd.struct_passwd | None:
        self.home.mkdir(parents=True, exist_ok=True)
        who = embedded._unprivileged_user() if os.geteuid() == 0 else None
        if who is not None:
            os.chown(self.home, who.pw_uid, who.pw_gid)
        return who
