"""The processes of a measurement: the one that is measured, those that serve it, and what the kernel says of each."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from underway.app.bench.figures import parse_proc_stat, parse_proc_status
from underway.app.bench.wire import take_over
from underway.app.brokers import Broker
from underway.app.ingest_service import CLIENT_ID
from underway.app.settings import PREFIX, Settings
from underway.model import OperatorError, StoreUnavailable
from underway.store import measure

READY_S_MAX = 120.0
LOOK_S = 0.02
STOP_S_MAX = 20.0
NULL_CLIENT = "bench-null"
SETTLE_S = 0.3
"""How long a null subscriber gets to connect before anything is published."""


# what the kernel says --------------------------------------------------------------------------------------------------------------------


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far, in s; 0 when it is gone or this system does not tell."""
    try:
        return parse_proc_stat(Path(f"/proc/{pid}/stat").read_text(), _ticks_per_s()).own_s
    except (OSError, ValueError):
        return 0.0


def family_cpu_s(pid: int) -> float:
    """Return the CPU time of a process, its children, and those of its children that have ended, in s."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            times = parse_proc_stat(path.read_text(), _ticks_per_s())
        except (OSError, ValueError):
            continue
        if int(path.parent.name) == pid:
            total += times.own_s + times.children_s
        elif times.parent == pid:
            total += times.own_s
    return total


def memory_bytes(pid: int) -> dict[str, int]:
    """Return ``VmRSS`` and ``VmHWM`` of a process in bytes; empty where this system does not tell."""
    try:
        sizes = parse_proc_status(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return {}
    return {name: sizes[name] for name in ("VmRSS", "VmHWM") if name in sizes}


def postmaster_pid(conn: psycopg.Connection[Any]) -> int:
    """Return the process that all server processes of this connection's database descend from; 0 when it is not on this machine."""
    backend = int(measure.server_facts(conn)["backend_pid"])
    try:
        text = Path(f"/proc/{backend}/stat").read_text()
    except OSError:
        return 0
    return parse_proc_stat(text, _ticks_per_s()).parent if "postgres" in text else 0


@dataclass(frozen=True, slots=True)
class CpuWatch:
    """CPU times of the processes of a measurement, taken twice."""

    pids: Mapping[str, int]
    family: frozenset[str] = frozenset({"database"})

    def look(self) -> dict[str, float]:
        """Return CPU seconds so far, by name."""
        return {name: family_cpu_s(pid) if name in self.family else cpu_s(pid) for name, pid in self.pids.items() if pid}


# ingest ----------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ingest:
    """A running ingest process.

    Attributes
    ----------
    started_s : float
        ``time.perf_counter`` at exec.
    ready_s, ready_cpu_s : float
        From exec to the state "running": wall time, and CPU time of the process, in s.
    """

    process: subprocess.Popen[bytes]
    conn: psycopg.Connection[Any]
    log_path: Path
    started_s: float
    ready_s: float = 0.0
    ready_cpu_s: float = 0.0
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.process.pid

    def facts(self) -> Mapping[str, Any]:
        """Return what it last said of itself; a second old at most."""
        return measure.service_facts(self.conn, "ingest", self.pid)

    def check(self) -> None:
        """Raise when it has ended.

        Raises
        ------
        StoreUnavailable
            With the end of its log.
        """
        if self.process.poll() is not None:
            lines = self.log_path.read_text(errors="replace").splitlines()[-6:]
            raise StoreUnavailable(
                f"ingest must stay up while it is measured, it ended with code {self.process.returncode}: {'; '.join(lines)}"
            )

    def wait(self, condition: Callable[[Mapping[str, Any]], bool], seconds: float, look_s: float = 0.1) -> bool:
        """Wait until the facts meet a condition; False when `seconds` have passed."""
        ends_s = time.perf_counter() + seconds
        while not condition(self.facts()):
            self.check()
            if time.perf_counter() > ends_s:
                return False
            time.sleep(look_s)
        return True

    def freeze(self, broker: Broker) -> None:
        """Stop the process where it stands and take its connection to the broker away; its session and what comes for it stay there."""
        os.kill(self.pid, signal.SIGSTOP)
        if broker.kind == "mosquitto":  # amqtt does not hand a session over
            take_over(broker.port, CLIENT_ID)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


def ingest_environment(database_url: str, broker_url: str, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an ingest process: nothing of ours but what the measurement says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {f"{PREFIX}DATABASE_URL": database_url, f"{PREFIX}MQTT_URL": broker_url}
    if "metrics_port" in Settings.model_fields:
        environment[f"{PREFIX}METRICS_PORT"] = str(_free_port())
    return environment | dict(more)


@contextlib.contextmanager
def ingest_process(
    database_url: str, broker: Broker, folder: Path, *, more: Mapping[str, str] | None = None, profile: Path | None = None
) -> Iterator[Ingest]:
    """Run ``underway run --only ingest`` for the length of a ``with`` block; it is running and subscribed when the block begins.

    Parameters
    ----------
    database_url : str
    broker : Broker
    folder : Path
        For its log.
    more : mapping of str to str, optional
        Settings beyond the addresses.
    profile : Path or None
        Run it under cProfile and leave the profile there.

    Raises
    ------
    StoreUnavailable
        When it is not ready in time, or ended.
    """
    command = [sys.executable, "-m", "underway", "run", "--only", "ingest", "--stop-with-parent"]
    if profile is not None:
        command = [sys.executable, "-m", "underway.app.bench.profiled", str(profile)]
    log_path = folder / "ingest.log"
    from underway.store.connect import connect

    with log_path.open("ab") as log, connect(database_url, application_name="underway-bench") as conn:
        started_s = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 our own command
            command,
            env=ingest_environment(database_url, broker.url, more or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        ingest = Ingest(process, conn, log_path, started_s, settings=dict(more or {}))
        try:
            if not ingest.wait(lambda facts: facts.get("state") == "running", READY_S_MAX, LOOK_S):
                raise StoreUnavailable(
                    f"ingest must be running within {READY_S_MAX:g} s of its start, it says {ingest.facts().get('state')!r}"
                )
            ingest.ready_s, ingest.ready_cpu_s = time.perf_counter() - started_s, cpu_s(process.pid)
            if not ingest.wait(lambda facts: bool(facts.get("subscribed")), READY_S_MAX, LOOK_S):
                raise StoreUnavailable(f"ingest must have subscribed within {READY_S_MAX:g} s of its start")
            yield ingest
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours, frozen or not."""
    for sign in (signal.SIGCONT, signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(sign)
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# the null subscriber ---------------------------------------------------------------------------------------------------------------------


class NullSubscriber:
    """A subscriber at QoS 1 with a persistent session that does nothing with what it gets: what the broker can hand over at best.

    Parameters
    ----------
    broker : Broker
    topic_filter : str

    Notes
    -----
    ``mosquitto_sub`` where it is installed, with its output to /dev/null; else a subscriber of our own in Python, which is slower.
    """

    def __init__(self, broker: Broker, topic_filter: str) -> None:
        self._broker, self._filter = broker, topic_filter
        self._program = shutil.which("mosquitto_sub")
        self._start_s = 0.0

    @property
    def kind(self) -> str:
        """Return what it is."""
        return "mosquitto_sub" if self._program else "a null subscriber in Python"

    def subscribe(self) -> None:
        """Make the session anew, empty and subscribed; learn what starting, connecting and leaving takes."""
        times = []
        for persistent in (False, True):
            began_s = time.perf_counter()
            self._run(0, persistent=persistent, seconds_max=30.0)
            times.append(time.perf_counter() - began_s)
        self._start_s = min(times)

    def forget(self) -> None:
        """Remove the session: the broker need keep nothing for it any more."""
        self._run(0, persistent=False, seconds_max=30.0)

    def drain(self, count: int, seconds_max: float) -> tuple[float | None, float]:
        """Take `count` messages; return wall time without what starting takes (None: not in time), and CPU time, in s.

        Raises
        ------
        OperatorError
            When it ends otherwise.
        """
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began_s = time.perf_counter()
        try:
            self._run(count, persistent=True, seconds_max=seconds_max)
        except subprocess.TimeoutExpired:
            return None, 0.0
        wall_s = time.perf_counter() - began_s - self._start_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def follow(self, count: int, publish: Callable[[], object], seconds_max: float) -> float | None:
        """Take `count` messages while they are published; return wall time from the first publish to its end, in s (None: not in time)."""
        process = subprocess.Popen(self._command(count, persistent=True), stdout=subprocess.DEVNULL)  # noqa: S603 our own command
        late = threading.Timer(seconds_max, process.kill)
        try:
            time.sleep(SETTLE_S)
            late.start()
            began_s = time.perf_counter()
            publish()
            code = process.wait()  # without a limit of its own, which would look every 50 ms
            return time.perf_counter() - began_s if code == 0 else None
        finally:
            late.cancel()
            _stop(process)

    def _run(self, count: int, *, persistent: bool, seconds_max: float) -> None:
        done = subprocess.run(  # noqa: S603 our own command
            self._command(count, persistent=persistent),
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=seconds_max,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-200:]
            raise OperatorError(f"{self.kind} must end with code 0, got {done.returncode}: {said or 'it said nothing'}")

    def _command(self, count: int, *, persistent: bool) -> list[str]:
        if self._program is None:
            words = [sys.executable, "-m", "underway.app.bench.null_subscriber", str(self._broker.port), NULL_CLIENT, self._filter]
            return [*words, str(count), "persistent" if persistent else "clean"]
        command = [self._program, "-h", "127.0.0.1", "-p", str(self._broker.port), "-q", "1", "-i", NULL_CLIENT, "-t", self._filter]
        return command + (["-c"] if persistent else []) + (["-C", str(count)] if count else ["-E"])
