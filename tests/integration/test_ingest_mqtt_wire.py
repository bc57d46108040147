"""The MQTT source against a broker that does what the test says: what goes over the wire, and when."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mqtt_world import Packet, Peer, ScriptedBroker, version_of, wait_until

from ingest.mqtt import Greeting, Message, MqttSource, Publication

pytestmark = pytest.mark.integration

FILTERS = ("uw/+/+/telemetry", "other/#")
NOW_US = 1_772_366_400_000_000


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    running = ScriptedBroker()
    yield running
    running.close()


SourceOn = Callable[..., MqttSource]


@pytest.fixture
def source_on(broker: ScriptedBroker) -> Iterator[SourceOn]:
    """Make sources that are closed when the test ends."""
    made: list[MqttSource] = []

    def make(**options: Any) -> MqttSource:
        made.append(MqttSource(broker.url, "wire", FILTERS, lambda: NOW_US, **options))
        return made[-1]

    yield make
    for source in made:
        threading.Thread(target=source.close, daemon=True).start()


def publish_5(payload: bytes, mid: int, qos: int = 1, topic: bytes = b"uw/town/pr-1/telemetry") -> bytes:
    body = struct.pack(">H", len(topic)) + topic + (struct.pack(">H", mid) if qos else b"") + b"\0" + payload
    size = len(body)
    length = b""
    while size > 127:
        length += bytes((size & 127 | 128,))
        size >>= 7
    return bytes((0x30 | qos << 1,)) + length + bytes((size,)) + body


def collect(source: MqttSource, count: int, seconds: float = 20.0) -> list[Message]:
    found: list[Message] = []
    end_s = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end_s:
        found += source.poll(100_000, 0.1)
    return found


def mids_of(packets: list[Packet]) -> list[int]:
    return [int.from_bytes(packet.body[:2], "big") for packet in packets]


def test_source_acknowledges_only_when_told_in_order_and_in_one_piece(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    peer = broker.accept()
    peer.greet()
    peer.send(b"".join(publish_5(b"%d" % mid, mid) for mid in range(1, 2001)))
    messages = collect(source, 2000)
    assert [m.payload for m in messages] == [b"%d" % mid for mid in range(1, 2001)]
    assert [m.mid for m in messages] == list(range(1, 2001))
    assert {m.received_us for m in messages} == {NOW_US}
    peer.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        peer.packet()
    peer.sock.settimeout(20)
    peer.pieces.clear()
    source.acknowledge(messages)
    acks = [peer.packet() for _ in range(2000)]
    assert {packet.head for packet in acks} == {0x40}
    assert mids_of(acks) == list(range(1, 2001))
    assert len(peer.pieces) <= 2
    facts = source.facts()
    assert (facts["acks_sent"], facts["acknowledged"], facts["unacked"], facts["received"]) == (2000, 2000, 0, 2000)


def test_source_acknowledgement_of_an_earlier_connection_is_not_sent(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    first = broker.accept()
    first.greet()
    first.send(publish_5(b"a", 7))
    before = collect(source, 1)
    first.close()
    second = broker.accept()
    second.greet()
    second.send(publish_5(b"b", 7))
    after = collect(source, 1)
    source.acknowledge(before)
    second.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        second.packet()
    second.sock.settimeout(20)
    source.acknowledge(after)
    assert mids_of([second.packet()]) == [7]
    assert source.facts()["stale_acks"] == 1
    assert source.facts()["reconnects"] == 1


def test_source_qos_2_of_an_old_session_is_acknowledged_in_both_steps(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    peer = broker.accept()
    peer.greet()
    peer.send(publish_5(b"a", 1) + publish_5(b"b", 2, qos=2) + publish_5(b"c", 3))
    source.acknowledge(collect(source, 3))
    assert sorted((packet.head, *mids_of([packet])) for packet in (peer.packet(), peer.packet(), peer.packet())) == [
        (0x40, 1),
        (0x40, 3),
        (0x50, 2),
    ]
    peer.send(b"\x62\x02\x00\x02")
    assert peer.packet() == (0x70, b"\x00\x02")


def test_source_filters_that_are_refused_are_named_and_stop_nothing_else(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    peer = broker.accept()
    peer.greet(granted=b"\x00\x87")
    wait_until(lambda: source.facts()["subscribed"])
    facts = source.facts()
    assert (facts["state"], facts["refused"], facts["at_qos_0"]) == ("connected", ["other/#"], ["uw/+/+/telemetry"])
    peer.send(publish_5(b"still", 0, qos=0))
    assert [m.payload for m in collect(source, 1)] == [b"still"]


def test_source_with_every_filter_refused_is_connected_and_not_subscribed(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on(greeting=lambda _: Greeting(None, (Publication("hello", b""),)))
    broker.accept().greet(granted=b"\x80\x80")
    wait_until(lambda: source.facts()["refused"])
    facts = source.facts()
    assert (facts["state"], facts["subscribed"], facts["published"]) == ("connected", False, 0)


def test_source_will_hello_and_farewell_go_out_in_their_places(broker: ScriptedBroker, source_on: SourceOn) -> None:
    asked: list[int] = []

    def greeting(now_us: int) -> Greeting:
        asked.append(now_us)
        return Greeting(Publication("state", b"off", 1, True), (Publication("state", b"on", 1, True), Publication("x", b"y")))

    source = source_on(greeting=greeting)
    peer = broker.accept()
    connect = peer.greet()
    assert connect.body[7] == 0x2C  # will, QoS 1, retained; the session is kept
    assert b"\x00\x05state\x00\x03off" in connect.body
    assert asked == [NOW_US]
    assert peer.packet() == (0x33, b"\x00\x05state\x00\x02\x00on")
    assert peer.packet() == (0x30, b"\x00\x01x\x00y")
    closer = threading.Thread(target=source.close, args=([Publication("state", b"bye", 1, True)],))
    closer.start()
    assert peer.packet() == (0x33, b"\x00\x05state\x00\x03\x00bye")
    peer.send(b"\x40\x02\x00\x02\x40\x02\x00\x03")
    assert peer.packet() == (0xE0, b"")
    with pytest.raises(EOFError):
        peer.packet()
    peer.close()
    closer.join(10)
    assert not closer.is_alive()
    assert source.facts()["state"] == "closed"


def test_source_publishes_within_the_limits_of_the_broker_and_counts_what_is_dropped(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    source.publish([Publication("early", b"")])
    peer = broker.accept()
    peer.packet()
    # receive maximum 1, no retained messages, packets of at most 100 bytes
    peer.send(b"\x20\x0d\x00\x00\x0a\x21\x00\x01\x25\x00\x27\x00\x00\x00\x64")
    subscribe = peer.packet()
    peer.send(b"\x90\x05" + subscribe.body[:2] + b"\x00\x01\x01")
    wait_until(lambda: source.facts()["subscribed"])
    source.publish(
        [Publication("a", b"1", 1, True), Publication("b", b"2", 1), Publication("c", bytes(200)), Publication("d", b"4", 0, True)]
    )
    assert peer.packet() == (0x32, b"\x00\x01a\x00\x02\x001")
    assert peer.packet() == (0x30, b"\x00\x01d\x004")
    facts = source.facts()
    assert (facts["published"], facts["publish_dropped"]) == (2, 3)
    peer.send(b"\x40\x02\x00\x02")
    wait_until(lambda: source._link is not None and not source._link.in_flight)
    source.publish([Publication("e", b"5", 1)])
    assert peer.packet() == (0x32, b"\x00\x01e\x00\x03\x005")


def test_source_tells_the_broker_how_much_may_be_in_flight(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source_on(queue_count_max=500)
    connect = broker.accept().packet()
    assert b"\x21\x01\xf4" in connect.body  # receive maximum 500
    assert b"\x11\x00\x09\x3a\x80" in connect.body  # session expiry of a week
    assert connect.body[8:10] == b"\x00\x14"  # keep alive 20 s


def test_source_full_of_what_is_not_acknowledged_reads_no_more_and_goes_on_after(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on(queue_count_max=10)
    peer = broker.accept()
    peer.greet()
    # the broker ignores the receive maximum: the limit is kept all the same
    peer.send(b"".join(publish_5(b"%d" % mid, mid) for mid in range(1, 101)))
    polled = collect(source, 10)
    time.sleep(0.3)
    assert source.poll(100, 0.0) == []
    facts = source.facts()
    assert (facts["held_count"], facts["paused"], facts["full_ratio"], len(polled)) == (10, True, 1.0, 10)
    source.acknowledge(polled[:4])
    more = collect(source, 4)
    assert [m.mid for m in more] == [11, 12, 13, 14]
    assert source.poll(100, 0.2) == []
    seen = polled + more
    waiting = polled[4:] + more
    while len(seen) < 100:
        source.acknowledge(waiting)
        waiting = collect(source, 1)
        seen += waiting
        assert source.facts()["held_count"] <= 10
    assert [m.mid for m in seen] == list(range(1, 101))
    assert source.facts()["full"] >= 2


def test_source_message_above_the_byte_limit_still_gets_through(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on(queue_bytes_max=1_000)
    peer = broker.accept()
    peer.greet()
    peer.send(publish_5(bytes(50_000), 1) + publish_5(b"next", 2))
    (large,) = collect(source, 1)
    assert len(large.payload) == large.size == 50_000
    assert source.poll(10, 0.2) == []
    assert source.facts()["full_ratio"] == 50.0
    source.acknowledge([large])
    assert [m.payload for m in collect(source, 1)] == [b"next"]


def test_source_broker_that_reads_nothing_while_we_acknowledge_blocks_nobody(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on(queue_count_max=1_000_000, queue_bytes_max=1 << 30)
    peer = broker.accept()
    peer.greet()
    # packet ids repeat, as the broker never reads our acknowledgements; far more of them than the sockets' buffers take
    one_round = b"".join(publish_5(b"", mid) for mid in range(1, 60_001))
    done = threading.Event()

    def flood() -> None:
        for _ in range(20):
            peer.send(one_round)
        done.set()

    peer.sock.settimeout(60)
    threading.Thread(target=flood, daemon=True).start()
    seen = 0
    end_s = time.monotonic() + 60
    while seen < 1_200_000 and time.monotonic() < end_s:
        messages = source.poll(20_000, 0.5)
        source.acknowledge(messages)
        seen += len(messages)
        link = source._link
        assert link is not None
        assert link.wire.out_bytes <= 2 * (1 << 20) + 80_000 * 4
        if not messages and source.facts()["paused"]:
            break
    # either everything came, or it holds back until the broker reads
    assert done.is_set() or source.facts()["paused"]
    acks = [peer.packet() for _ in range(1000)]
    assert mids_of(acks) == list(range(1, 1001))


def test_source_broker_that_closes_at_once_is_asked_in_the_older_protocol(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    first = broker.accept()
    assert version_of(first.packet()) == 5
    first.close()
    second = broker.accept()
    assert version_of(second.greet(version=4)) == 4
    wait_until(lambda: source.facts()["subscribed"])
    assert source.facts()["protocol"] == "3.1.1"


def test_source_broker_that_refuses_the_protocol_is_asked_in_the_older_one(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    first = broker.accept()
    first.packet()
    first.send(b"\x20\x02\x00\x01")
    assert version_of(broker.accept().greet(version=4)) == 4
    wait_until(lambda: source.facts()["subscribed"])


def test_source_broker_that_says_nothing_is_asked_in_the_older_protocol(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    silent = broker.accept()
    assert version_of(silent.packet()) == 5
    assert version_of(broker.accept().greet(version=4)) == 4
    wait_until(lambda: source.facts()["subscribed"])


def test_source_broker_replaced_by_one_of_mqtt_5_alone_is_found_again(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    broker.accept().close()
    old = broker.accept()
    assert version_of(old.greet(version=4)) == 4
    old.close()
    for _ in range(3):
        newer = broker.accept()
        assert version_of(newer.packet()) == 4
        newer.close()
    assert version_of(broker.accept().greet()) == 5
    wait_until(lambda: source.facts()["subscribed"])
    assert source.facts()["protocol"] == "5.0"


def test_source_refused_connection_says_why_and_tries_again(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    broker.accept().greet(reason=135)
    wait_until(lambda: source.facts()["state"] != "disconnected")
    assert source.facts()["state"] == "refused: not authorized"
    broker.accept().greet()
    wait_until(lambda: source.facts()["state"] == "connected")


def test_source_broker_that_speaks_no_mqtt_is_left_and_met_again(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    peer = broker.accept()
    peer.greet()
    peer.send(publish_5(b"good", 1))
    collect(source, 1)
    peer.send(b"\x00\x00\x00\x00")
    wait_until(lambda: source.facts()["why"])
    assert source.facts()["why"] == "a broker must send packets of MQTT 5.0 that we asked for, got one with first byte 0x00"
    broker.accept().greet()
    wait_until(lambda: source.facts()["state"] == "connected")


def test_source_broker_that_keeps_no_session_is_shown(
    broker: ScriptedBroker, source_on: SourceOn, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_on()
    peer = broker.accept()
    peer.packet()
    peer.send(b"\x20\x08\x00\x00\x05\x11\x00\x00\x00\x00")
    wait_until(lambda: source.facts()["state"] == "connected")
    wait_until(lambda: "keeps no session" in caplog.text)
    assert source.facts()["session_expiry_s"] == 0


def test_source_broker_that_ends_the_connection_is_quoted(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    peer = broker.accept()
    peer.greet()
    peer.send(b"\xe0\x02\x8b\x00")
    wait_until(lambda: source.facts()["why"])
    assert source.facts()["why"] == "the broker ended the connection: server shutting down"


def test_source_peer_that_falls_silent_is_left_within_half_a_minute(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    peer = broker.accept()
    peer.greet()
    wait_until(lambda: source.facts()["subscribed"])
    assert peer.packet() == (0xC0, b"")  # a ping, which nobody answers
    again: Peer = broker.accept()  # waits 20 s at most
    again.greet()
    wait_until(lambda: source.facts()["state"] == "connected")
    assert source.facts()["pings"] >= 1


def test_source_full_and_unread_is_not_taken_for_a_silent_peer(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on(queue_count_max=1)
    peer = broker.accept()
    peer.greet()
    peer.send(publish_5(b"a", 1) + publish_5(b"b", 2))
    messages = collect(source, 1)
    wait_until(lambda: source.facts()["paused"])
    peer.sock.settimeout(30)
    assert [peer.packet().head for _ in range(3)] == [0xC0] * 3  # 30 s of pings without an answer
    assert (source.facts()["state"], source.facts()["connections"]) == ("connected", 1)
    source.acknowledge(messages)
    assert [m.payload for m in collect(source, 1)] == [b"b"]


def test_source_that_met_a_fault_of_ours_says_so_and_connects_again(broker: ScriptedBroker, source_on: SourceOn) -> None:
    faults = [ValueError("no greeting today")]

    def greeting(_: int) -> Greeting:
        if faults:
            raise faults.pop()
        return Greeting()

    source = source_on(greeting=greeting)
    wait_until(lambda: source.facts()["why"])
    assert source.facts()["why"] == "ValueError: no greeting today"
    broker.accept()
    broker.accept().greet()
    wait_until(lambda: source.facts()["subscribed"])


def test_source_closed_while_nobody_answers_ends_soon(broker: ScriptedBroker, source_on: SourceOn) -> None:
    source = source_on()
    broker.accept()
    source.close()
    source.close()
    assert source.facts()["state"] == "closed"
    assert not source._thread.is_alive()
