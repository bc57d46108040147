"""Where a benchmark runs: a broker, a server with databases of its own, a folder; all of it is gone afterwards."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from underway import __version__
from underway.app.bench.processes import postmaster_pid
from underway.app.brokers import Broker, embedded_broker
from underway.store import measure
from underway.store.connect import connect
from underway.store.embedded import start_embedded
from underway.store.migrate import migrate
from underway.store.timescale import detect

PACKAGES = ("msgspec", "numpy", "psycopg", "protobuf")


@dataclass(slots=True)
class Place:
    """A running broker and database server.

    Attributes
    ----------
    admin_url : str
        A database of the server in which CREATE DATABASE is allowed.
    postmaster : int
        Process of the server; 0 when it is on another machine.
    """

    folder: Path
    broker: Broker
    admin_url: str
    database_kind: str
    postmaster: int = 0
    profile: Path | None = None
    facts: dict[str, str] = field(default_factory=dict)
    _made: list[str] = field(default_factory=list)

    def new_database(self, name: str) -> str:
        """Return the URL of a new, migrated database."""
        database = f"underway_bench_{os.getpid()}_{len(self._made)}_{name.replace('-', '_')}"
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            admin.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database)))
        self._made.append(database)
        url = urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{database}"))
        with connect(url, application_name="underway-bench") as conn:
            migrate(conn, datetime.now(UTC))
            self.facts["timescaledb"] = detect(conn).edition.value
        return url

    def drop_databases(self) -> None:
        """Drop what was made."""
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            for database in self._made:
                admin.execute(psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(psycopg.sql.Identifier(database)))
        self._made.clear()

    def machine(self) -> dict[str, Any]:
        """Return what the figures depend on."""
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": _memory_gb(),
            "load_before": round(os.getloadavg()[0], 2),
        }

    def versions(self) -> dict[str, str]:
        """Return versions of what takes part."""
        found = {"underway": __version__, "python": platform.python_version()}
        found |= {package: importlib.metadata.version(package) for package in PACKAGES}
        found["broker"] = f"{self.broker.kind} {self.broker.version}, MQTT {self.broker.mqtt_version}"
        found["database"] = f"PostgreSQL {self.facts.get('server_version', '?')} ({self.database_kind})"
        found["timescaledb"] = self.facts.get("timescaledb", "none")
        return found


@contextlib.contextmanager
def bench_place(
    database_url: str | None, broker_kind: str = "auto", profile: Path | None = None, *, durable: bool = True
) -> Iterator[Place]:
    """Start what is needed; yield it; put everything away.

    Parameters
    ----------
    database_url : str or None
        A server to use instead of an embedded one; databases of our own are made beside the one named, and dropped.
    broker_kind : str
        As `underway.app.brokers.embedded_broker` takes it.
    profile : Path or None
        Where ingest leaves its profile.
    durable : bool
        Whether commits of the embedded server survive the end of the machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="underway-bench-"))
    folder.chmod(0o755)  # as root the server runs as another user
    try:
        with contextlib.ExitStack() as stack:
            if database_url:
                admin_url, kind = database_url, "given"
            else:
                server = stack.enter_context(start_embedded(folder / "postgres", durable=durable))
                admin_url, kind = server.url_of("postgres"), "embedded, durable" if durable else "embedded"
            broker = stack.enter_context(embedded_broker(folder / "broker", kind=broker_kind))
            place = Place(folder, broker, admin_url, kind, profile=profile)
            with connect(admin_url, application_name="underway-bench") as conn:
                place.facts |= measure.server_facts(conn)
                place.postmaster = postmaster_pid(conn)
            try:
                yield place
            finally:
                place.drop_databases()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Budget:
    """The wall time of the whole run, shared out by weight.

    Examples
    --------
    >>> budget = Budget(100.0, {"a": 3.0, "b": 1.0}, began_s=0.0)
    >>> budget.deadline_s("a", now_s=20.0), budget.deadline_s("b", now_s=90.0)
    (80.0, 100.0)
    """

    seconds: float
    weights: dict[str, float]
    began_s: float = field(default_factory=time.perf_counter)

    @property
    def ends_s(self) -> float:
        """Return when the run should have ended."""
        return self.began_s + self.seconds

    def deadline_s(self, name: str, now_s: float | None = None) -> float:
        """Return until when the part `name` may run, as ``time.perf_counter``: its share of what is left; it is not asked for again."""
        now_s = time.perf_counter() if now_s is None else now_s
        own = self.weights.pop(name)
        return now_s + max(0.0, self.ends_s - now_s) * own / (own + sum(self.weights.values()))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None
