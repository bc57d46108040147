"""The MQTT source on real brokers: what is not acknowledged comes again, nothing is dropped at the limit, the protocol fits the broker."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import paho.mqtt.publish as paho_publish
import paho.mqtt.subscribe as paho_subscribe
import pytest
from faults.link import Link
from mqtt_world import Proxy, mosquitto_with, wait_until
from paho.mqtt.enums import CallbackAPIVersion

from ingest.mqtt import Greeting, Message, MqttSource, Publication
from ingest.mqtt_codec import KEPT_BYTES
from underway.app.brokers import Broker, embedded_broker
from underway.model import SettingsError

pytestmark = pytest.mark.integration

FILTERS = ("uw/+/+/telemetry",)


def source_on(broker: Broker, client_id: str = "test-source", queue_count_max: int = 1000, queue_bytes_max: int = 1 << 20) -> MqttSource:
    return MqttSource(broker.url, client_id, FILTERS, lambda: 7, queue_count_max=queue_count_max, queue_bytes_max=queue_bytes_max)


def source_at(url: str, client_id: str = "test-source", **options: Any) -> MqttSource:
    return MqttSource(url, client_id, FILTERS, lambda: 7, **options)


def subscribed(source: MqttSource) -> bool:
    source.poll(0, 0.0)
    return bool(source.facts()["subscribed"])


def publish(broker: Broker | str, payloads: list[bytes]) -> None:
    address = urlsplit(broker if isinstance(broker, str) else broker.url)
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


def test_source_broker_that_starts_later_and_restarts_is_found_again(tmp_path: Path, mosquitto: Broker) -> None:
    folder = tmp_path / "late"
    with embedded_broker(folder, kind="mosquitto") as probe:
        port = probe.port
    rmtree(folder)
    source = source_at(f"mqtt://127.0.0.1:{port}", "late")
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


def test_source_flood_that_nobody_polls_stays_in_its_bounds_and_loses_nothing(mosquitto: Broker) -> None:
    source = source_on(mosquitto, queue_count_max=20_000, queue_bytes_max=4 << 20)
    wait_until(lambda: subscribed(source))
    filler = paho.Client(CallbackAPIVersion.VERSION2, client_id="flood")
    filler.max_inflight_messages_set(1_000)
    address = urlsplit(mosquitto.url)
    filler.connect(address.hostname or "", address.port or 1883)
    filler.loop_start()
    count, body = 3_000, bytes(20_000)  # 60 MB, fifteen times the limit
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent = [filler.publish("uw/town/pr-1/telemetry", b"%06d" % i + body, qos=1) for i in range(count // 10)]
    for i in range(count // 10, count):
        sent[-1].wait_for_publish(30)  # our own publisher shall not hold it all
        sent.append(filler.publish("uw/town/pr-1/telemetry", b"%06d" % i + body, qos=1))
    sent[-1].wait_for_publish(30)
    facts = source.facts()
    assert facts["paused"]
    assert facts["held_bytes"] <= (4 << 20) + 20_006
    # what the kernel, the parser and the publisher hold is in it too
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 40_000
    seen: list[bytes] = []
    end_s = time.monotonic() + 60
    while len(seen) < count and time.monotonic() < end_s:
        messages = source.poll(50, 0.1)
        source.acknowledge(messages)
        seen += [message.payload[:6] for message in messages]
    assert seen == [b"%06d" % i for i in range(count)]
    assert source.facts()["held_count"] == 0
    filler.disconnect()
    filler.loop_stop()
    source.close()


def test_source_payload_of_10_mb_costs_its_beginning(mosquitto: Broker) -> None:
    source = source_on(mosquitto)
    wait_until(lambda: subscribed(source))
    large = b"x" * 10_000_000
    publish(mosquitto, [b"before", large, b"after"])
    found = collect(source, 3)
    assert [(m.size, len(m.payload)) for m in found] == [(6, 6), (10_000_000, KEPT_BYTES), (5, 5)]
    assert source.facts()["oversized"] == 1
    source.acknowledge(found)
    source.close()
    again = source_on(mosquitto)
    wait_until(lambda: subscribed(again))
    assert again.poll(10, 0.5) == []
    again.close()


def test_source_broker_killed_and_started_again_delivers_all_that_was_not_acknowledged(tmp_path: Path) -> None:
    lines = ("persistence true", "max_inflight_messages 1000")
    with mosquitto_with(tmp_path / "killed", *lines) as broker:
        source = source_at(broker.url)
        wait_until(lambda: subscribed(source))
        publish(broker.url, [b"%d" % i for i in range(50)])
        first = collect(source, 50)
        assert len(first) == 50
        broker.save()
        broker.kill()
        wait_until(lambda: source.facts()["state"] == "disconnected")
        source.acknowledge(first[:20])  # nobody is there to hear it
        broker.start()
        wait_until(lambda: source.facts()["state"] == "connected")
        again = collect(source, 50)
        assert sorted(m.payload for m in again) == sorted(b"%d" % i for i in range(50))
        assert {m.token[0] for m in again} != {m.token[0] for m in first}
        source.acknowledge(again)
        publish(broker.url, [b"life goes on"])
        assert [m.payload for m in collect(source, 1)] == [b"life goes on"]
        source.close()


def test_source_gets_what_came_at_qos_0_while_away_from_a_broker_that_keeps_it(tmp_path: Path) -> None:
    with mosquitto_with(tmp_path / "keeps", "queue_qos0_messages true", "max_inflight_messages 1000") as broker:
        source = source_at(broker.url)
        wait_until(lambda: subscribed(source))
        source.close()
        address = urlsplit(broker.url)
        messages = [("uw/town/pr-1/telemetry", b"%d" % i, 0, False) for i in range(20)]
        paho_publish.multiple(messages, hostname=address.hostname or "", port=address.port or 1883, client_id="test-devices")
        again = source_at(broker.url)
        found = collect(again, 20)
        assert [(m.payload, m.qos) for m in found] == [(b"%d" % i, 0) for i in range(20)]
        again.acknowledge(found)
        assert (again.facts()["held_count"], again.facts()["acks_sent"]) == (0, 0)
        again.close()


def test_source_network_that_falls_silent_is_noticed_and_left(mosquitto: Broker) -> None:
    proxy = Proxy(mosquitto.port)
    source = source_at(f"mqtt://127.0.0.1:{proxy.port}")
    wait_until(lambda: subscribed(source))
    publish(mosquitto, [b"before"])
    before = collect(source, 1)
    proxy.silence()
    began_s = time.monotonic()
    publish(mosquitto, [b"meanwhile"])
    source.acknowledge(before)  # lost on the way
    found = collect(source, 2, 40.0)
    assert time.monotonic() - began_s < 35
    assert sorted(m.payload for m in found) == [b"before", b"meanwhile"]
    assert source.facts()["reconnects"] == 1
    assert source.facts()["why"] == ""
    source.close()
    proxy.close()


def test_source_full_and_cut_off_is_ended_by_the_kernel_and_comes_back(mosquitto: Broker) -> None:
    link = Link(mosquitto.port)
    source = source_at(f"mqtt://127.0.0.1:{link.port}", queue_count_max=1)
    wait_until(lambda: subscribed(source))
    publish(mosquitto, [b"a", b"b"])
    # over MQTT 5 the broker keeps to one in flight; once paused nothing is read, so no answer can be missed
    wait_until(lambda: source.facts()["held_count"] == 1 and source.facts()["paused"])
    link.cut()
    wait_until(lambda: source.facts()["state"] == "disconnected", 60.0)
    link.heal()
    wait_until(lambda: source.facts()["state"] == "connected")
    seen: set[bytes] = set()
    while seen != {b"a", b"b"}:
        messages = source.poll(10, 5.0)
        assert messages
        source.acknowledge(messages)
        seen |= {message.payload for message in messages}
    source.close()
    link.close()


def test_source_publishes_and_says_hello(broker: Broker) -> None:
    address = urlsplit(broker.url)
    greeting = Greeting(Publication("state/me", b"gone", 1, True), (Publication("state/me", b"here", 1, True),))
    source = source_at(broker.url, greeting=lambda _: greeting)
    wait_until(lambda: subscribed(source))

    def state() -> bytes:
        message = paho_subscribe.simple("state/me", hostname=address.hostname or "", port=address.port or 1883, keepalive=5)
        payload: bytes = message.payload
        return payload

    wait_until(lambda: source._link is not None and not source._link.in_flight)  # the broker has it
    assert state() == b"here"
    source.publish([Publication("uw/town/me/telemetry", b"to myself", 1), Publication("uw/town/me/telemetry", b"at QoS 0")])
    found = collect(source, 2)
    assert sorted(m.payload for m in found) == [b"at QoS 0", b"to myself"]
    source.acknowledge(found)
    source.close([Publication("state/me", b"bye", 1, True)])
    assert state() == b"bye"


def test_source_lost_connection_lets_the_broker_publish_the_will(mosquitto: Broker) -> None:
    listener = source_at(mosquitto.url, "listener")
    wait_until(lambda: subscribed(listener))
    will = Publication("uw/town/will/telemetry", b"gone", 1)
    proxy = Proxy(mosquitto.port)
    source = source_at(f"mqtt://127.0.0.1:{proxy.port}", "mortal", greeting=lambda _: Greeting(will))
    wait_until(lambda: subscribed(source))
    proxy.close()  # a connection that ends without goodbye
    assert [m.payload for m in collect(listener, 1)] == [b"gone"]
    source.close()
    listener.close()


def test_source_over_tls_takes_a_backlog_and_refuses_a_stranger(tmp_path: Path) -> None:
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words, *names], capture_output=True, timeout=60, check=True)
    lines = (f"certfile {certificate}", f"keyfile {key}", "max_inflight_messages 1000")
    with mosquitto_with(tmp_path / "tls", *lines) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        stranger = source_at(url, "stranger")
        wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in stranger.facts()["why"])
        stranger.close()
        source = source_at(url, ca_file=str(certificate))
        wait_until(lambda: subscribed(source))
        sent = [b"%05d" % i + bytes(500) for i in range(5_000)]
        seen: list[bytes] = []
        for first in range(0, len(sent), 500):
            source.publish([Publication("uw/town/me/telemetry", payload, 1) for payload in sent[first : first + 500]])
            end_s = time.monotonic() + 20
            while len(seen) < first + 500 and time.monotonic() < end_s:
                messages = source.poll(100, 0.1)
                source.acknowledge(messages)
                seen += [message.payload for message in messages]
        assert seen == sent
        source.close()


def test_source_certificate_authority_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "missing.pem"
    with pytest.raises(SettingsError, match=r"^1 problem: the certificate authority must be a readable PEM file, got '.*missing\.pem'"):
        source_at("mqtts://127.0.0.1:1", ca_file=str(path))
