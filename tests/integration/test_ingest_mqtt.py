"""The MQTT source on real brokers: what is not acknowledged comes again, nothing is dropped at the limit, the protocol fits the broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import paho.mqtt.publish as paho_publish
import pytest

from ingest.mqtt import Message, MqttSource
from underway.app.brokers import Broker, embedded_broker

pytestmark = pytest.mark.integration

FILTERS = ("uw/+/+/telemetry",)


def source_on(broker: Broker, client_id: str = "test-source", queue_count_max: int = 1000, queue_bytes_max: int = 1 << 20) -> MqttSource:
    return MqttSource(broker.url, client_id, FILTERS, lambda: 7, queue_count_max=queue_count_max, queue_bytes_max=queue_bytes_max)


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)


def subscribed(source: MqttSource) -> bool:
    source.poll(0, 0.0)
    return bool(source.facts()["subscribed"])


def publish(broker: Broker, payloads: list[bytes]) -> None:
    address = urlsplit(broker.url)
    messages = [("uw/town/pr-1/telemetry", payload, 1, False) for payload in payloads]
    paho_publish.multiple(messages, hostname=address.hostname or "", port=address.port or 1883, client_id="test-devices")


def collect(source: MqttSource, count: int, seconds: float = 20.0) -> list[Message]:
    found: list[Message] = []
    end_s = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end_s:
        found += source.poll(100, 0.1)
    return found


def test_source_speaks_the_newest_protocol_of_the_broker(broker: Broker) -> None:
    source = source_on(broker)
    wait_until(lambda: subscribed(source))
    assert source.facts()["protocol"] == broker.mqtt_version
    assert source.facts()["state"] == "connected"
    source.close()


def test_source_unacknowledged_messages_come_again_acknowledged_do_not(broker: Broker) -> None:
    source = source_on(broker)
    wait_until(lambda: subscribed(source))
    publish(broker, [b"%d" % i for i in range(10)])
    first = collect(source, 10)
    assert [m.payload for m in first] == [b"%d" % i for i in range(10)]
    assert {m.received_us for m in first} == {7}
    source.acknowledge(first[:6])
    time.sleep(0.3)
    source.close()
    publish(broker, [b"while away"])
    again = source_on(broker)
    second = collect(again, 5)
    assert sorted(m.payload for m in second) == [b"6", b"7", b"8", b"9", b"while away"]
    assert again.facts()["session_present"]
    again.acknowledge(second)
    time.sleep(0.3)
    again.close()
    third = source_on(broker)
    wait_until(lambda: subscribed(third))
    assert third.poll(10, 0.5) == []
    third.close()


@pytest.mark.parametrize("limit", ["count", "bytes"])
def test_source_at_its_limit_stops_reading_and_drops_nothing(broker: Broker, limit: str) -> None:
    source = source_on(broker, queue_count_max=10) if limit == "count" else source_on(broker, queue_bytes_max=500)
    wait_until(lambda: subscribed(source))
    payloads = [b"%03d" % i + bytes(60) for i in range(200)]
    publish(broker, payloads)
    time.sleep(0.5)
    assert source.facts()["queued"] <= 11
    found: list[Message] = []
    end_s = time.monotonic() + 20
    while len(found) < 200 and time.monotonic() < end_s:
        taken = source.poll(7, 0.1)
        source.acknowledge(taken)
        found += taken
    assert [m.payload for m in found] == payloads
    source.close()


def test_source_after_a_broken_connection_does_not_acknowledge_what_came_before(mosquitto: Broker) -> None:
    source = source_on(mosquitto)
    wait_until(lambda: subscribed(source))
    publish(mosquitto, [b"a", b"b", b"c"])
    before = collect(source, 3)
    other = source_on(mosquitto)  # the same client id takes the session over, and the first connects again
    wait_until(lambda: subscribed(other))
    other.close()
    wait_until(lambda: subscribed(source))
    after = collect(source, 3)
    assert sorted(m.payload for m in after) == [b"a", b"b", b"c"]
    source.acknowledge(before)
    assert source.facts()["stale_acks"] == 3
    source.acknowledge(after)
    source.close()


def test_source_broker_that_starts_later_and_restarts_is_found_again(tmp_path: object, mosquitto: Broker) -> None:
    from pathlib import Path
    from shutil import rmtree

    folder = Path(str(tmp_path)) / "late"
    with embedded_broker(folder, kind="mosquitto") as probe:
        port = probe.port
    rmtree(folder)
    source = MqttSource(f"mqtt://127.0.0.1:{port}", "late", FILTERS, lambda: 0)
    assert not subscribed(source)
    with embedded_broker(folder, kind="mosquitto", port=port) as broker:
        wait_until(lambda: subscribed(source))
        publish(broker, [b"before the restart"])
        assert [m.payload for m in collect(source, 1)] == [b"before the restart"]
    with embedded_broker(folder, kind="mosquitto", port=port) as broker:
        wait_until(lambda: subscribed(source))
        found = collect(source, 1)
        assert [m.payload for m in found] == [b"before the restart"]
        source.acknowledge(found)
    source.close()
