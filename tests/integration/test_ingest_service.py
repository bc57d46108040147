"""The ingest process on a real broker and a real database: published on one side, stored on the other, both counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from underway.app.brokers import Broker
from underway.model import Channel, Device, Quantity, Registry, Site, Zone, ZoneKind
from underway.store.connect import connect
from underway.store.registry import save_registry

pytestmark = pytest.mark.integration

NOW_AT = datetime.now(UTC).replace(microsecond=0)
PROGRAM = """
import logging, os, signal, sys, threading
from underway.app.clock import SystemClock
from underway.app.ingest_service import IngestOptions, run
logging.basicConfig(level=logging.INFO)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run(os.environ["MQTT_URL"], os.environ["DATABASE_URL"], SystemClock(), stop, options=IngestOptions(checkpoint_s=0.5))
"""


def registry_of(count: int) -> Registry:
    zone = Zone("z1", "town", "Zone 1", ZoneKind.DMA)
    devices = tuple(Device(f"pr-{i}", "town", "z1", None, "m", "native", NOW_AT - timedelta(days=60)) for i in range(count))
    channels = tuple(
        Channel(0, f"pr-{i}", "pressure", Quantity.PRESSURE, "kPa", None, "z1", "zone_pressure", 0.0, 1000.0, 300.0) for i in range(count)
    )
    return Registry(Site("town", "Town", "UTC", 0.0, 0.0), (zone,), (), devices, channels)


def register(url: str, count: int) -> None:
    with connect(url) as conn:
        save_registry(conn, registry_of(count))


@contextmanager
def ingest(database_url: str, broker: Broker) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "MQTT_URL": broker.url, "DATABASE_URL": database_url}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class Publisher:
    """A device that keeps what the broker has not acknowledged."""

    def __init__(self, broker: Broker) -> None:
        address = urlsplit(broker.url)
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="devices", protocol=MQTTProtocolVersion.MQTTv311)
        self.client.max_inflight_messages_set(1000)
        self.client.connect(address.hostname or "", address.port or 1883)
        self.client.loop_start()
        self.waiting: list[paho.MQTTMessageInfo] = []

    def send(self, device: str, payload: bytes | dict[str, Any], site: str = "town") -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.waiting.append(self.client.publish(f"uw/{site}/{device}/telemetry", data, qos=1))

    def confirm(self) -> None:
        for info in self.waiting:
            info.wait_for_publish(60)
            assert info.is_published()
        self.waiting.clear()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def publisher(broker: Broker) -> Iterator[Publisher]:
    found = Publisher(broker)
    yield found
    found.close()


def wait_until(condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, f"waited {seconds} s in vain {what}"
        time.sleep(0.05)


def one(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(statement.encode()).fetchone()
    return None if row is None else row[0]


def facts(url: str, pid: int) -> dict[str, Any]:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute("SELECT facts FROM service_status WHERE service = 'ingest' AND pid = %s", (pid,)).fetchone()
    return {} if row is None else row[0]


def is_ready(url: str, pid: int) -> bool:
    found = facts(url, pid)
    return found.get("state") == "running" and bool(found.get("subscribed"))


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def test_ingest_killed_in_the_middle_stores_each_published_reading_once(database_url: str, broker: Broker, publisher: Publisher) -> None:
    devices, rounds = 10, 150
    register(database_url, devices)
    published: dict[tuple[str, int], float] = {}

    def publish(first: int, last: int) -> None:
        for step in range(first, last):
            at_ms = ms(NOW_AT - timedelta(minutes=2 * rounds - 2 * step))
            for device in range(devices):
                value = 300 + step / 100 + device
                published[f"pr-{device}", at_ms] = value
                publisher.send(f"pr-{device}", {"at": at_ms, "values": {"pressure": value}})
            time.sleep(0.004)

    with ingest(database_url, broker) as first:
        wait_until(lambda: is_ready(database_url, first.pid), what="for the first process")
        assert facts(database_url, first.pid)["protocol"] == broker.mqtt_version
        publish(0, 40)
        wait_until(lambda: one(database_url, "SELECT count(*) FROM reading") > 50)
        publish(40, 60)
        first.kill()
        first.wait()
    publish(60, 100)
    with ingest(database_url, broker) as second:
        wait_until(lambda: one(database_url, "SELECT count(*) FROM reading") > 500)
        second.kill()
        second.wait()
    with ingest(database_url, broker) as third:
        publish(100, rounds)
        publisher.confirm()
        wait_until(lambda: one(database_url, "SELECT count(*) FROM reading") >= len(published))
        wait_until(lambda: facts(database_url, third.pid).get("unacked") == 0, what="for the acknowledgements")
    with psycopg.connect(database_url) as conn:
        stored = {
            (row[0], ms(row[1])): row[2]
            for row in conn.execute("SELECT device_id, observed_at, value FROM reading JOIN channel USING (channel_id)").fetchall()
        }
    assert stored == published
    assert one(database_url, "SELECT count(*) FROM reading") == devices * rounds
    assert one(database_url, "SELECT count(*) FROM quarantine") == 0
    assert one(database_url, "SELECT facts->>'state' FROM service_status") == "stopped"


def test_ingest_second_process_stands_by_and_takes_over(database_url: str, broker: Broker, publisher: Publisher) -> None:
    register(database_url, 1)
    with ingest(database_url, broker) as first:
        wait_until(lambda: is_ready(database_url, first.pid), what="for the first process")
        with ingest(database_url, broker) as second:
            for minute in range(30, 20, -1):
                publisher.send("pr-0", {"at": ms(NOW_AT - timedelta(minutes=minute)), "values": {"pressure": 300.0}})
            wait_until(lambda: one(database_url, "SELECT count(*) FROM reading") == 10)
            assert facts(database_url, second.pid) == {}
            assert is_ready(database_url, first.pid)
            first.kill()
            first.wait()
            wait_until(lambda: is_ready(database_url, second.pid), what="for the second process to take over")
            publisher.send("pr-0", {"at": ms(NOW_AT), "values": {"pressure": 301.0}})
            wait_until(lambda: one(database_url, "SELECT count(*) FROM reading") == 11)


def test_ingest_poison_and_strangers_cost_one_message_each(database_url: str, broker: Broker, publisher: Publisher) -> None:
    register(database_url, 2)
    with ingest(database_url, broker) as process:
        wait_until(lambda: is_ready(database_url, process.pid))
        at = NOW_AT.isoformat()
        publisher.send("pr-0", {"at": at, "values": {"pressure": 1.0}})
        publisher.send("pr-0", b"\xff\xfe\x00 no JSON at all")
        publisher.send("pr-0", b'{"at": "' + at.encode() + b'", "values": {"press\\u0000ure": 1.0}}')
        publisher.send("pr-1", {"at": "1970-01-01T00:00:00Z", "values": {"pressure": 1.0}})
        publisher.send("pr-1", {"at": (NOW_AT + timedelta(days=400)).isoformat(), "values": {"pressure": 1.0}})
        publisher.send("pr-11", {"at": at, "values": {"pressure": 1.0}})
        publisher.send("pr-1", {"at": at, "values": {"pressure": "n/a", "flow": 1}})
        publisher.send("pr-1", {"at": at, "values": {"pressure": 2.0}}, site="other")
        publisher.send("pr-1", b"x" * 300_000)
        publisher.send("pr-1", {"at": at, "values": {"pressure": 3.41}, "units": {"pressure": "bar"}})
        publisher.confirm()

        def all_done() -> bool:
            found = facts(database_url, process.pid)
            return found["dialects"].get("native", {}).get("messages") == 10 and found["unacked"] == 0

        wait_until(all_done, what=str(facts(database_url, process.pid)))
        with psycopg.connect(database_url) as conn:
            reasons = sorted(row[0] for row in conn.execute("SELECT reason FROM quarantine").fetchall())
            values = sorted(row[0] for row in conn.execute("SELECT value FROM reading").fetchall())
            hint = conn.execute("SELECT message FROM quarantine WHERE device_id = 'pr-11'").fetchone()
    assert values == [1.0, 341.0]
    assert reasons == [
        "channel_unknown",
        "device_unknown",
        "device_unknown",
        "payload_not_utf8",
        "payload_too_large",
        "schema",
        "time_future",
        "time_too_old",
        "value_type",
    ]
    assert hint == ("no device 'pr-11' is registered; nearest known: 'pr-1'",)


def test_ingest_hears_a_device_registered_while_it_runs(database_url: str, mosquitto: Broker) -> None:
    publisher = Publisher(mosquitto)
    with ingest(database_url, mosquitto) as process:
        wait_until(lambda: facts(database_url, process.pid).get("state") == "waiting for a registered site")
        register(database_url, 1)
        wait_until(lambda: is_ready(database_url, process.pid))
        register(database_url, 2)
        publisher.send("pr-1", {"at": NOW_AT.isoformat(), "values": {"pressure": 5.0}})
        publisher.confirm()
        wait_until(lambda: one(database_url, "SELECT count(*) FROM reading") == 1)
    publisher.close()
    assert one(database_url, "SELECT count(*) FROM quarantine") == 0


def test_ingest_connection_to_the_store_lost_again_and_again_loses_nothing(database_url: str, mosquitto: Broker) -> None:
    register(database_url, 5)
    publisher = Publisher(mosquitto)
    with ingest(database_url, mosquitto) as process:
        wait_until(lambda: is_ready(database_url, process.pid))
        for step in range(100):
            for device in range(5):
                publisher.send(f"pr-{device}", {"at": ms(NOW_AT) - 1000 * step, "values": {"pressure": float(step)}})
            if step % 20 == 10:
                one(
                    database_url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'underway-ingest'"
                )
            time.sleep(0.02)
        publisher.confirm()
        wait_until(lambda: one(database_url, "SELECT count(*) FROM reading") == 500)
        wait_until(lambda: facts(database_url, process.pid).get("unacked") == 0)
        assert facts(database_url, process.pid)["retries"] >= 1
        assert facts(database_url, process.pid)["rebuilds"] >= 2
    publisher.close()
