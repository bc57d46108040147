"""The ingest process as an operator sees it: its metrics, its log, its quarantine, and messages that are sent again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from underway.app.brokers import Broker
from underway.app.cli import app
from underway.app.metrics import INGEST_METRICS
from underway.model import Channel, Device, Quantity, Registry, Site, Zone, ZoneKind
from underway.store.connect import connect
from underway.store.registry import save_registry

pytestmark = pytest.mark.integration

NOW_AT = datetime.now(UTC).replace(microsecond=0)
AT_ONCE = 10
# what a process shows only after its event: nothing is refused in that story
NOT_YET = {"underway_ingest_quarantined_total"}


def register(url: str, *devices: str) -> None:
    zone = Zone("z1", "town", "Zone 1", ZoneKind.DMA)
    known = tuple(Device(name, "town", "z1", None, "m", "native", NOW_AT - timedelta(days=60)) for name in devices)
    channels = tuple(
        Channel(0, name, "pressure", Quantity.PRESSURE, "kPa", None, "z1", "zone_pressure", 0.0, 1000.0, 300.0) for name in devices
    )
    with connect(url) as conn:
        save_registry(conn, Registry(Site("town", "Town", "UTC", 0.0, 0.0), (zone,), (), known, channels))


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def one(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(statement.encode()).fetchone()
    return None if row is None else row[0]


@dataclass
class Running:
    """An ingest process with everything that an operator has of it."""

    database_url: str
    broker: Broker
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def metrics(self) -> dict[tuple[str, str], float]:
        """Return what Prometheus would see: (name, value of the only label) -> number."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).raise_for_status().text
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def is_ready(self) -> bool:
        """Return whether messages are taken."""
        try:
            found = self.metrics()
        except httpx.HTTPError:
            return False
        return ("underway_ingest_state", "running") in found and found["underway_ingest_broker_subscribed", ""] == 1

    def send(self, device: str, payloads: list[bytes]) -> None:
        """Publish as a device, and wait for the broker."""
        address = urlsplit(self.broker.url)
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect(address.hostname or "", address.port or 1883)
        client.loop_start()
        for info in [client.publish(f"uw/town/{device}/telemetry", payload, qos=1) for payload in payloads]:
            info.wait_for_publish(30)
        client.disconnect()
        client.loop_stop()

    def took(self, messages: int) -> bool:
        """Return whether so many messages are done with."""
        return self.metrics().get(("underway_ingest_acknowledged_messages_total", ""), 0) >= messages


@pytest.fixture
def running(
    new_database: Callable[[], AbstractContextManager[str]], mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    """An ingest process that knows the device pr-1."""
    with new_database() as database_url:
        register(database_url, "pr-1")
        monkeypatch.setenv("UNDERWAY_DATABASE_URL", database_url)
        monkeypatch.setenv("UNDERWAY_MQTT_URL", mosquitto.url)
        with started(database_url, mosquitto, tmp_path / "log") as found:
            wait_until(found.is_ready, "ingest")
            yield found


@contextmanager
def started(database_url: str, broker: Broker, log: Path) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    told = {
        "UNDERWAY_METRICS_PORT": str(port),
        "UNDERWAY_LOG_FORMAT": "json",
        "UNDERWAY_QUARANTINE_AT_ONCE": str(AT_ONCE),
        "UNDERWAY_QUARANTINE_PER_HOUR": "1",
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "underway", "run", "--only", "ingest"], env=os.environ | told, stderr=stderr, stdout=stderr
        )
        try:
            yield Running(database_url, broker, port, log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def reading(value: float, minutes: int = 1) -> bytes:
    return json.dumps({"at": (NOW_AT - timedelta(minutes=minutes)).isoformat(), "values": {"pressure": value}}).encode()


def test_metrics_of_a_real_process_have_every_row_of_the_table(running: Running) -> None:
    running.send("pr-1", [reading(310.0), reading(310.0)])
    wait_until(lambda: running.took(2), "two messages")
    wait_until(lambda: running.metrics()["underway_ingest_stored_readings_total", ""] == 1, "one reading")
    shown = running.metrics()
    names = {name for name, _ in shown}
    missing = {m.name for m in INGEST_METRICS} - names - {name.removesuffix("_bucket") for name in names} - NOT_YET
    assert missing == set()
    assert shown["underway_ingest_readings_total", "native"] == 2
    assert shown["underway_ingest_duplicates_total", ""] == 1
    assert shown["underway_ingest_commit_seconds_count", ""] >= 1
    assert shown["underway_ingest_held_messages", ""] == 0
    assert shown["underway_ingest_stage_cpu_seconds_total", "decode"] >= 0
    health = httpx.get(f"http://127.0.0.1:{running.port}/healthz", timeout=10)
    assert (health.status_code, health.text) == (200, "running\n")


def test_mad_device_fills_its_share_of_quarantine_and_costs_the_others_nothing(running: Running) -> None:
    running.send("mad", [b"not json %d" % number for number in range(200)])
    running.send("pr-1", [reading(311.0), b"also wrong"])
    wait_until(lambda: running.took(202), "all messages")
    shown = running.metrics()
    assert one(running.database_url, "SELECT count(*) FROM quarantine WHERE device_id = 'mad'") == AT_ONCE
    assert one(running.database_url, "SELECT count FROM quarantine_overflow WHERE source = 'mad'") == 200 - AT_ONCE
    assert one(running.database_url, "SELECT count(*) FROM quarantine WHERE device_id = 'pr-1'") == 1
    assert one(running.database_url, "SELECT count(*) FROM reading") == 1
    assert shown["underway_ingest_quarantined_total", "payload_not_json"] == 201
    assert shown["underway_ingest_quarantine_refused_rows_total", "source_spent"] == 200 - AT_ONCE
    doctor = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert any("share of quarantine" in problem and f"mad: {200 - AT_ONCE} x payload_not_json" in problem for problem in doctor["problems"])


def test_messages_of_a_device_that_is_registered_later_are_stored_once_by_replay(running: Running) -> None:
    running.send("pr-2", [reading(200.0 + minute, minute) for minute in range(1, 6)])
    wait_until(lambda: running.took(5), "five messages")
    assert one(running.database_url, "SELECT count(*) FROM reading") == 0
    again = CliRunner().invoke(app, ["quarantine", "replay", "--reason", "device_unknown"])
    assert "5 messages sent again (5 entries)" in again.output
    wait_until(lambda: running.took(10), "the first replay")
    assert "(failed again)" in CliRunner().invoke(app, ["quarantine", "list"], env={"COLUMNS": "200"}).output
    register(running.database_url, "pr-1", "pr-2")
    for total in (15, 20):
        ids = ["1", "2", "3", "4", "5"] if total == 20 else ["--device", "pr-2"]
        sent = CliRunner().invoke(app, ["quarantine", "replay", *ids])
        assert "5 messages sent again" in sent.output
        wait_until(lambda total=total: running.took(total), "the next replay")  # type: ignore[misc]
    assert one(running.database_url, "SELECT count(*) FROM reading") == 5
    assert one(running.database_url, "SELECT sum(count) FROM quarantine") == 10
    listed = json.loads(CliRunner().invoke(app, ["quarantine", "list", "--json"]).output)
    assert {entry["state"] for entry in listed["entries"]} == {"replayed"}


def test_log_of_a_real_process_is_json_line_by_line(running: Running) -> None:
    lines = [json.loads(line) for line in running.log.read_text(encoding="utf-8").splitlines()]
    assert lines
    for line in lines:
        assert {"timestamp", "level", "logger", "service", "event"} <= set(line)
        assert line["service"] == "ingest"
