"""One world for one scenario: a database, a broker, ingest, and devices that publish all the time; each with its own links."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psycopg

from underway.store.connect import connect
from underway.store.migrate import migrate
from underway.store.registry import save_registry

from . import count
from .broker import RestartableBroker
from .count import Count
from .devices import Devices, registry
from .ingest import Ingest, wait_until
from .link import Link
from .postgres import Postgres

PER_S = 60.0
READY_S_MAX = 150.0  # limits, not expectations: a busy machine may take its time
DRAIN_S_MAX = 150.0


def make_template(folder: Path) -> Path:
    """Return the data folder of a stopped server with a migrated database and a registered site."""
    server = Postgres(folder / "template")
    server.make()
    server.start()
    try:
        server.execute("CREATE DATABASE underway", "postgres")
        migrate(server.url(), datetime(2026, 1, 1, tzinfo=UTC))
        with connect(server.url()) as conn:
            save_registry(conn, registry())
    finally:
        server.stop()
    return server.data


class World:
    """Everything that can break, and the count at the end.

    Parameters
    ----------
    folder : Path
        For this world alone; servers may run as another user, who must be able to come here.
    template : Path
        From `make_template`.
    seed : int
        Of `rng`, which decides what a scenario leaves to chance.
    """

    def __init__(self, folder: Path, template: Path, seed: int, *, broker: str = "mosquitto", per_s: float = PER_S) -> None:
        self.folder, self.template, self.seed, self.per_s = folder, template, seed, per_s
        self.rng = random.Random(seed)
        self.began_s = time.monotonic()
        self.facts: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self.database = Postgres(folder / "database")
        self.broker = RestartableBroker(folder / "broker", broker)
        self.database_url = self.database.url()
        self.mqtt_port = self.broker.port
        self.devices: Devices
        self.ingest: Ingest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def on_exit(self, action: Callable[[], object]) -> None:
        """Do this at the end, before what was set up earlier is undone."""
        self._stack.callback(action)

    # setting up ----------------------------------------------------------------------------------------------------------------------

    def start_servers(self) -> None:
        self.database.copy_of(self.template)
        self.database.start()
        self.on_exit(lambda: self.database.stop("immediate"))
        self.broker.start()
        self.on_exit(self.broker.stop)

    def link_to_database(self) -> Link:
        """Put a link that can break between ingest and the database."""
        link = Link(self.database.port)
        self.on_exit(link.close)
        self.database_url = f"postgresql://postgres@127.0.0.1:{link.port}/underway"
        return link

    def link_to_broker(self) -> Link:
        """Put a link that can break between ingest and the broker."""
        link = Link(self.broker.port)
        self.on_exit(link.close)
        self.mqtt_port = link.port
        return link

    def start_ingest(self, **settings: str) -> None:
        self.ingest = Ingest(self.folder, self.database_url, f"mqtt://127.0.0.1:{self.mqtt_port}", settings)
        self.on_exit(self.ingest.close)
        self.ingest.start()
        self.wait_until_running()

    def start_devices(self, qos: int = 1) -> None:
        self.devices = Devices(self.broker.port, self.per_s, qos)
        self.on_exit(self.devices.close)
        self.devices.start()

    def start(self) -> None:
        """Start everything, and wait until readings arrive."""
        self.start_servers()
        self.start_ingest()
        self.start_devices()
        self.wait_until_stored(50)

    # looking -------------------------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what ingest says of itself in the database; empty when that is away."""
        try:
            with psycopg.connect(self.database.url(), autocommit=True, connect_timeout=3) as conn:
                row = conn.execute("SELECT pid, facts FROM service_status WHERE service = 'ingest'").fetchone()
        except psycopg.Error:
            return {}
        return {} if row is None or row[0] != self.ingest.pid else row[1]

    def is_running(self) -> bool:
        found = self.status()
        return found.get("state") == "running" and bool(found.get("subscribed"))

    def stored(self) -> int:
        """Return the number of stored readings, -1 while the database does not say."""
        try:
            return count.stored(self.database.url())
        except psycopg.Error:
            return -1

    def wait_until_running(self, seconds: float = READY_S_MAX) -> float:
        def is_running() -> bool:
            assert len(self.ingest.ended_by_itself) < 5, f"ingest ends by itself: {self.ingest.ended_by_itself}"
            return self.is_running()

        return wait_until(is_running, seconds, "for ingest to run")

    def wait_until_stored(self, more: int, seconds: float = READY_S_MAX) -> float:
        """Wait until `more` readings than now are stored; return how long that took, in s."""
        before = self.stored()
        return wait_until(lambda: self.stored() >= before + more, seconds, f"for {more} readings beyond {before}")

    def wait_until_logged(self, text: str, seconds: float, since: int = 0) -> float:
        return wait_until(lambda: text in self.ingest.log()[since:], seconds, f"for {text!r} in the log of ingest")

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self.began_s:7.2f} s  {what}", flush=True)

    def sleep(self, seconds: float) -> None:
        """Let the world go on; for the length of a fault, not for a result."""
        time.sleep(seconds)

    # the end -------------------------------------------------------------------------------------------------------------------------

    def finish(self) -> Count:
        """Let everything arrive, stop ingest in peace, and count."""
        self.devices.finish()
        published = len(self.devices.said)
        self.say(f"published {published}, all acknowledged by the broker")
        # not a condition for the count: what is missing then is counted as missing
        with contextlib.suppress(AssertionError):
            self.facts["drain_s"] = round(wait_until(lambda: self.stored() >= published, DRAIN_S_MAX, "for the rest"), 1)
        with contextlib.suppress(AssertionError):
            wait_until(self.is_idle, 60, "for the acknowledgements")
        status = self.status()
        exit_code = self.ingest.stop()
        result = count.count(self.database.url(), self.devices.said)
        names = ("state", "unacked", "duplicates", "rebuilds", "retries", "messages", "protocol", "poison")
        self.facts |= {
            "ingest_starts": self.ingest.starts,
            "ended_by_itself": self.ingest.ended_by_itself,
            "exit_code": exit_code,
            "status": {name: status.get(name) for name in names},
        }
        self.say(f"{result}")
        return result

    def is_idle(self) -> bool:
        found = self.status()
        return found.get("unacked") == 0 and not found.get("queued")

    def verdict(self, result: Count) -> dict[str, Any]:
        return {"seed": self.seed, **asdict(result), **self.facts, "s": round(time.monotonic() - self.began_s, 1)}


def mount_tmpfs(folder: Path, size_kb: int, owner: Postgres) -> None:
    """Mount a small file system of its own for the server's user; raise OSError where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    owner_id = owner.home.stat()
    options = f"size={size_kb}k,mode=700,uid={owner_id.st_uid},gid={owner_id.st_gid}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError(f"cannot mount a tmpfs on '{folder}': there is no program 'mount'") from error
    if done.returncode != 0:
        raise OSError(f"cannot mount a tmpfs on '{folder}': {done.stderr.strip().partition(chr(10))[0]}")


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False)
