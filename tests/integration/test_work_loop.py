"""The loop of the work side against a real database and a real broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from work_world import World

from underway import desk
from underway.app import workside
from underway.app.brokers import Broker, embedded_broker
from underway.store import telemetry

pytestmark = pytest.mark.integration

SECRET = "a secret of at least thirty-two characters"


class FixedClock:
    def __init__(self, world: World) -> None:
        self.world = world

    def now_at(self) -> Any:
        return self.world.now_at


class Listener:
    def __init__(self, broker: Broker) -> None:
        self.got: list[tuple[str, dict[str, Any], bool]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _c, _u, m: self.got.append((m.topic, json.loads(m.payload), m.retain))
        self.client.connect("127.0.0.1", broker.port)
        self.client.subscribe([("uw/+/crew/+/orders", 1), ("uw/+/ops/notifications", 1)])
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def eventually(what: Callable[[], Any], seconds: float = 15) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
    return found


@pytest.fixture
def running(conn: psycopg.Connection[Any], database_url: str, broker: Broker) -> Iterator[tuple[World, Listener]]:
    world = World.build(conn)
    listener, stop = Listener(broker), threading.Event()
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            workside.run(broker.url, database_url, FixedClock(world), stop, SECRET, "http://127.0.0.1:8080/")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    yield world, listener
    stop.set()
    thread.join(20)
    listener.close()
    assert not thread.is_alive()
    assert not errors, errors


def card(listener: Listener) -> dict[str, Any] | None:
    return next((body for topic, body, _ in listener.got if topic == "uw/town/crew/near/orders" and body["kind"] == "order"), None)


def test_workside_finding_reaches_the_crew_and_the_operators(running: tuple[World, Listener]) -> None:
    world, listener = running
    made = world.finding()
    telemetry.announce_findings(world.conn, [made])
    got = eventually(lambda: card(listener))
    assert got["title"].startswith("Repair leak")
    assert got["candidates"][0]["asset_id"] == "p-7"
    assert got["priority"] == "urgent"
    token = got["link"].removeprefix("http://127.0.0.1:8080/crew/")
    assert desk.read_crew_link(SECRET, token, world.now_at) == "near"
    eventually(lambda: [b for t, b, _ in listener.got if t == "uw/town/ops/notifications" and b["kind"] == "alarm"])
    eventually(lambda: world.count("SELECT count(*) FROM notification WHERE sent_at IS NULL") == 0)
    eventually(
        lambda: world.count("SELECT count(*) FROM service_status WHERE service = 'workorders' AND facts ->> 'findings_behind' = '0'")
    )


def test_workside_store_connections_killed_goes_on(running: tuple[World, Listener]) -> None:
    world, listener = running
    eventually(lambda: world.count("SELECT count(*) FROM service_status WHERE service = 'workorders'"))
    world.conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'underway-workorders%'")
    world.finding()
    assert eventually(lambda: card(listener))["order_id"] == world.order().order_id


def test_workside_broker_restarts_the_outbox_is_delivered(conn: psycopg.Connection[Any], database_url: str, tmp_path: Path) -> None:
    world, stop = World.build(conn), threading.Event()
    with embedded_broker(tmp_path / "first", kind="auto") as first:
        thread = threading.Thread(
            target=workside.run, args=(first.url, database_url, FixedClock(world), stop, SECRET, "http://127.0.0.1:8080"), daemon=True
        )
        thread.start()
        connected = "SELECT count(*) FROM service_status WHERE service = 'workorders' AND facts ->> 'broker_connected' = 'true'"
        eventually(lambda: world.count(connected))
    eventually(lambda: not world.count(connected))
    world.finding()
    eventually(lambda: world.count("SELECT count(*) FROM notification WHERE sent_at IS NULL") >= 2)
    with embedded_broker(tmp_path / "second", kind="auto", port=first.port) as second:
        eventually(lambda: world.count("SELECT count(*) FROM notification WHERE sent_at IS NULL") == 0, 30)
        late = Listener(second)  # the card is retained: a phone that comes later still gets it
        got = eventually(lambda: card(late))
        late.close()
        stop.set()
        thread.join(20)
    assert got["order_id"] == world.order().order_id
    assert not thread.is_alive()
