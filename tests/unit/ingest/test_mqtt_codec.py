"""The codec: each packet as the standard writes it, in whatever pieces; large and broken packets cost a bound."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.mqtt_codec import (
    HEADER_BYTES_MAX,
    KEPT_BYTES,
    NOT_UTF8_TOPIC,
    PINGREQ,
    TOPIC_BYTES_MAX,
    ConnAck,
    Control,
    Disconnect,
    Parser,
    PingResp,
    Property,
    ProtocolError,
    PubAck,
    PubRel,
    SubAck,
    Version,
    connect_packet,
    disconnect_packet,
    fuzz,
    is_wrong_version,
    puback_packets,
    pubcomp_packet,
    publish_packet,
    pubrec_packets,
    reason_text,
    subscribe_packet,
)
from ingest.mqtt_types import Message, Publication
from underway.model import InternalError, StoreUnavailable

BOTH = pytest.mark.parametrize("version", list(Version), ids=lambda version: version.text)


def parse(stream: Iterable[bytes], version: Version, **limits: int) -> tuple[list[Message], list[Control]]:
    parser = Parser(version, 9, **limits)
    messages: list[Message] = []
    controls: list[Control] = []
    for piece in stream:
        parser.feed(piece, 5)
        found = parser.parse()
        assert found.size == sum(len(message.payload) for message in found.messages)
        messages += found.messages
        controls += found.controls
    return messages, controls


def with_properties(packet: bytes, topic: str, properties: bytes) -> bytes:
    """Put properties of less than 128 bytes into a PUBLISH of MQTT 5 at QoS 1 of less than 128 bytes."""
    at = 2 + 2 + len(topic) + 2
    assert packet[at] == 0
    return packet[:1] + bytes((packet[1] + len(properties),)) + packet[2:at] + bytes((len(properties),)) + properties + packet[at + 1 :]


# what we say -------------------------------------------------------------------------------------------------------------------------------


def test_connect_311_is_as_the_standard_writes_it() -> None:
    packet = connect_packet(Version.V311, "me", 20, username="u", password="pw")
    assert packet == b"\x10\x15\x00\x04MQTT\x04\xc0\x00\x14\x00\x02me\x00\x01u\x00\x02pw"


def test_connect_311_with_a_will_carries_it_before_the_user() -> None:
    will = Publication("state", b"off", 1, True)
    packet = connect_packet(Version.V311, "me", 20, username="u", will=will)
    assert packet == b"\x10\x1d\x00\x04MQTT\x04\xac\x00\x14\x00\x02me\x00\x05state\x00\x03off\x00\x01u"


def test_connect_5_keeps_the_session_and_bounds_what_is_in_flight() -> None:
    packet = connect_packet(Version.V5, "me", 20, session_expiry_s=604_800, receive_maximum=500, will=Publication("s", b"off"))
    assert packet == b"\x10\x20\x00\x04MQTT\x05\x04\x00\x14\x08\x11\x00\x09\x3a\x80\x21\x01\xf4\x00\x02me\x00\x00\x01s\x00\x03off"


def test_connect_with_a_will_that_is_too_long_is_refused() -> None:
    with pytest.raises(InternalError, match=r"^a will must have at most 65535 bytes, got 65536 \(topic 's'\)$"):
        connect_packet(Version.V5, "me", 20, will=Publication("s", bytes(65_536)))


def test_publish_with_a_topic_that_is_too_long_is_refused() -> None:
    with pytest.raises(InternalError, match=r"^the topic must have at most 65535 bytes, got 65536$"):
        publish_packet(Version.V5, Publication("s" * 65_536, b""), 1)


def test_subscribe_asks_for_all_filters_in_one_packet() -> None:
    assert subscribe_packet(Version.V311, 1, ["a/+", "b/#"]) == b"\x82\x0e\x00\x01\x00\x03a/+\x01\x00\x03b/#\x01"
    assert subscribe_packet(Version.V5, 1, ["a/+"]) == b"\x82\x09\x00\x01\x00\x00\x03a/+\x01"


def test_small_packets_are_as_the_standard_writes_them() -> None:
    assert puback_packets([1, 65_535]) == b"\x40\x02\x00\x01\x40\x02\xff\xff"
    assert puback_packets([]) == b""
    assert pubrec_packets([1, 2]) == b"\x50\x02\x00\x01\x50\x02\x00\x02"
    assert pubcomp_packet(258) == b"\x70\x02\x01\x02"
    assert disconnect_packet(Version.V311, 4) == disconnect_packet(Version.V5) == b"\xe0\x00"
    assert disconnect_packet(Version.V5, 4) == b"\xe0\x01\x04"
    assert PINGREQ == b"\xc0\x00"


# what the broker says ----------------------------------------------------------------------------------------------------------------------

CONTROLS = [
    pytest.param(Version.V311, b"\x20\x02\x01\x00", ConnAck(True, 0, {}), id="connack-3.1.1"),
    pytest.param(Version.V5, b"\x20\x02\x00\x01", ConnAck(False, 1, {}), id="connack-of-an-old-broker"),
    pytest.param(
        Version.V5,
        b"\x20\x1d\x00\x00\x1a\x21\x00\x14\x24\x00\x25\x00\x27\x00\x01\x00\x00\x13\x00\x0a\x26\x00\x01a\x00\x01b\x1f\x00\x01x",
        ConnAck(
            False,
            0,
            {
                Property.RECEIVE_MAXIMUM: 20,
                Property.MAXIMUM_QOS: 0,
                Property.RETAIN_AVAILABLE: 0,
                Property.MAXIMUM_PACKET_SIZE: 65_536,
                Property.SERVER_KEEP_ALIVE: 10,
                38: ("a", "b"),
                Property.REASON_STRING: "x",
            },
        ),
        id="connack-5",
    ),
    pytest.param(Version.V311, b"\x90\x04\x00\x01\x01\x80", SubAck(1, (1, 128)), id="suback-3.1.1"),
    pytest.param(Version.V5, b"\x90\x05\x00\x01\x00\x01\x87", SubAck(1, (1, 135)), id="suback-5"),
    pytest.param(Version.V311, b"\x40\x02\x00\x07", PubAck(7, 0), id="puback-3.1.1"),
    pytest.param(Version.V5, b"\x40\x04\x00\x07\x87\x00", PubAck(7, 135), id="puback-5"),
    pytest.param(Version.V5, b"\x62\x02\x00\x07", PubRel(7), id="pubrel"),
    pytest.param(Version.V311, b"\xd0\x00", PingResp(), id="pingresp"),
    pytest.param(Version.V5, b"\xe0\x02\x8e\x00", Disconnect(142), id="disconnect"),
    pytest.param(Version.V5, b"\xe0\x00", Disconnect(0), id="disconnect-short"),
]


@pytest.mark.parametrize(("version", "packet", "expected"), CONTROLS)
def test_parser_reads_control_packet_split_at_every_byte(version: Version, packet: bytes, expected: Control) -> None:
    for cut in range(len(packet) + 1):
        assert parse([packet[:cut], packet[cut:] + packet], version) == ([], [expected, expected]), cut


@BOTH
@pytest.mark.parametrize("qos", [0, 1])
def test_publish_round_trip_split_at_every_byte(version: Version, qos: int) -> None:
    packet = publish_packet(version, Publication("uw/town/pr-1/telemetry", b"{}" * 70, qos, True), 513)
    expected = Message("uw/town/pr-1/telemetry", b"{}" * 70, 5, (9, 513 if qos else 0), 140, qos, True, False, 513 if qos else 0)
    for cut in range(len(packet) + 1):
        assert parse([packet[:cut], packet[cut:]], version) == ([expected], []), cut
    assert parse([bytes((byte,)) for byte in packet * 3], version) == ([expected] * 3, [])


def test_parser_skips_the_properties_of_a_message() -> None:
    packet = publish_packet(Version.V5, Publication("a/b", b"payload", 1), 3)
    long_way = with_properties(packet, "a/b", b"\x03\x00\x10application/json\x26\x00\x01k\x00\x01v")
    assert parse([long_way], Version.V5) == parse([packet], Version.V5)


def test_parser_message_delivered_again_says_so() -> None:
    packet = publish_packet(Version.V311, Publication("a", b"x", 1), 3)
    (message,), _ = parse([bytes((packet[0] | 8,)) + packet[1:]], Version.V311)
    assert (message.dup, message.retain, message.qos, message.mid) == (True, False, 1, 3)


def test_parser_message_of_qos_2_is_noted() -> None:
    parser = Parser(Version.V311, 1)
    parser.feed(b"\x34\x06\x00\x01a\x00\x09x", 0)
    assert [(m.qos, m.mid) for m in parser.parse().messages] == [(2, 9)]
    assert parser.qos_2 == {9}


def test_parser_topic_that_is_no_text_costs_its_name_only() -> None:
    packet = b"\x30\x05\x00\x02\xff\xfex" + publish_packet(Version.V311, Publication("good", b"y"), 0)
    messages, _ = parse([packet], Version.V311)
    assert [(m.topic, m.payload) for m in messages] == [(NOT_UTF8_TOPIC, b"x"), ("good", b"y")]


def test_parser_remembers_topics_once_and_no_long_ones() -> None:
    topics: dict[bytes, str] = {}
    parser = Parser(Version.V311, 1, topics=topics)
    long = "x" * (TOPIC_BYTES_MAX + 1)
    parser.feed(b"".join(publish_packet(Version.V311, Publication(name, b""), 0) for name in ("a", long, "a")), 0)
    first, second, third = parser.parse().messages
    assert first.topic is third.topic
    assert second.topic == long
    assert topics == {b"a": "a"}


def test_parser_forgets_topics_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.mqtt_codec.TOPICS_MAX", 3)
    topics: dict[bytes, str] = {}
    parser = Parser(Version.V311, 1, topics=topics)
    parser.feed(b"".join(publish_packet(Version.V311, Publication(f"t{i}", b""), 0) for i in range(10)), 0)
    assert [m.topic for m in parser.parse().messages] == [f"t{i}" for i in range(10)]
    assert len(topics) <= 3


# limits ------------------------------------------------------------------------------------------------------------------------------------


def test_parse_stops_at_the_count_and_goes_on_where_it_stopped() -> None:
    parser = Parser(Version.V311, 1)
    parser.feed(b"".join(publish_packet(Version.V311, Publication("t", b"%d" % i, 1), i + 1) for i in range(7)) + b"\xd0\x00", 0)
    assert ([m.payload for m in parser.parse(3).messages], parser.stopped) == ([b"0", b"1", b"2"], True)
    assert (parser.parse(0), parser.stopped) == (([], 0, []), True)
    parser.feed(b"\xd0\x00", 0)
    rest = parser.parse()
    assert [m.payload for m in rest.messages] == [b"3", b"4", b"5", b"6"]
    assert (rest.controls, parser.stopped) == ([PingResp(), PingResp()], False)


def test_parse_stops_once_the_bytes_are_reached_which_the_last_may_exceed() -> None:
    parser = Parser(Version.V311, 1)
    parser.feed(publish_packet(Version.V311, Publication("t", bytes(60)), 0) * 5, 0)
    first = parser.parse(bytes_max=100)
    assert (len(first.messages), first.size, parser.stopped) == (2, 120, True)
    assert len(parser.parse().messages) == 3


@BOTH
@pytest.mark.parametrize("piece_bytes", [1 << 30, 65_536, 1_000])
@pytest.mark.parametrize("qos", [0, 1])
def test_parser_payload_above_the_limit_is_cut_and_its_size_told(version: Version, piece_bytes: int, qos: int) -> None:
    body = bytes(range(256)) * 4_000  # 1,024,000 bytes
    stream = (
        publish_packet(version, Publication("before", b"1", qos), 1)
        + publish_packet(version, Publication("large", body, qos), 2)
        + publish_packet(version, Publication("after", b"2", qos), 3)
    )
    messages, _ = parse([stream[i : i + piece_bytes] for i in range(0, len(stream), piece_bytes)], version, payload_bytes_max=200_000)
    assert [(m.topic, m.size, m.mid) for m in messages] == [("before", 1, qos * 1), ("large", 1_024_000, qos * 2), ("after", 1, qos * 3)]
    assert messages[1].payload == body[:KEPT_BYTES]


def test_parser_payload_at_the_limit_is_whole() -> None:
    messages, _ = parse([publish_packet(Version.V311, Publication("t", bytes(1_000)), 0)], Version.V311, payload_bytes_max=1_000)
    assert len(messages[0].payload) == messages[0].size == 1_000


def test_parser_large_message_streaming_in_is_never_held() -> None:
    parser = Parser(Version.V311, 1, payload_bytes_max=100_000)
    piece = bytes(50_000)
    parser.feed(publish_packet(Version.V311, Publication("t", bytes(20_000_000), 1), 1)[:50_000], 0)
    for _ in range(300):
        assert parser.parse().messages == []
        held = len(parser._data) + sum(map(len, parser._parts))
        assert parser._oversize is not None
        held += len(parser._oversize.lead) + len(parser._oversize.kept)
        assert held <= KEPT_BYTES + len(piece)
        parser.feed(piece, 0)


def test_parser_long_properties_before_a_small_payload_cost_nothing_of_it() -> None:
    properties = b"".join(b"\x26\x00\x01k" + struct.pack(">H", 60_000) + bytes(60_000) for _ in range(5))
    length = len(properties)
    field = bytes((length & 127 | 128, length >> 7 & 127 | 128, length >> 14))
    body = b"\x00\x01t" + b"\x00\x05" + field + properties + b"payload"
    size = len(body)
    packet = bytes((0x32, size & 127 | 128, size >> 7 & 127 | 128, size >> 14)) + body
    assert size > HEADER_BYTES_MAX + 100_000
    for step in (len(packet), 10_000):
        messages, _ = parse([packet[i : i + step] for i in range(0, len(packet), step)], Version.V5, payload_bytes_max=100_000)
        assert [(m.topic, m.payload, m.size, m.mid) for m in messages] == [("t", b"payload", 7, 5)]


UNASKED = "a broker must send packets of MQTT {} that we asked for, got one with first byte {}"
TORN = "the broker must send whole MQTT packets, got one that ends inside a field"
QOS = "a message must have QoS 0, 1 or 2 and then a packet id, got QoS {} and id {}"
BROKEN = [
    pytest.param(Version.V311, b"\x00\x00", UNASKED.format("3.1.1", "0x00"), id="type-0"),
    pytest.param(Version.V311, b"\x10\x00", UNASKED.format("3.1.1", "0x10"), id="connect"),
    pytest.param(Version.V311, b"\xe0\x00", UNASKED.format("3.1.1", "0xe0"), id="disconnect-3.1.1"),
    pytest.param(Version.V5, b"\xf0\x00", UNASKED.format("5.0", "0xf0"), id="auth"),
    pytest.param(Version.V311, b"\x30\xff\xff\xff\xff\x01", "a length must have at most 4 bytes, got one that goes on", id="length"),
    pytest.param(Version.V311, b"\x30\x00", TORN, id="no-topic"),
    pytest.param(Version.V311, b"\x30\x03\x00\x05a" + bytes(50), TORN, id="topic"),
    pytest.param(Version.V311, b"\x36\x05\x00\x01a\x00\x01", QOS.format(3, 1), id="qos-3"),
    pytest.param(Version.V311, b"\x32\x05\x00\x01a\x00\x00", QOS.format(1, 0), id="packet-id-0"),
    pytest.param(Version.V5, b"\x30\x04\x00\x01a\x05" + bytes(9), TORN, id="properties"),
    pytest.param(Version.V5, b"\x20\x05\x00\x00\x02\x63\x00", "a property must be one of MQTT 5.0, got number 99", id="property"),
    pytest.param(Version.V5, b"\x20\x05\x00\x00\x02\x21\x00", TORN, id="short-property"),
    pytest.param(Version.V311, b"\x40\x01\x00", TORN, id="puback"),
]


@pytest.mark.parametrize(("version", "stream", "message"), BROKEN)
def test_parser_broken_packet_is_a_fault_of_the_connection_and_stays_one(version: Version, stream: bytes, message: str) -> None:
    parser = Parser(version, 1)
    parser.feed(stream, 0)
    for _ in range(2):
        with pytest.raises(ProtocolError) as refused:
            parser.parse()
        assert str(refused.value) == message
        parser.feed(b"\xd0\x00", 0)
    assert isinstance(refused.value, StoreUnavailable)


def test_parser_control_packet_above_its_limit_is_refused_before_it_is_here() -> None:
    parser = Parser(Version.V311, 1)
    parser.feed(b"\x90\x81\x80\x04", 0)
    with pytest.raises(
        ProtocolError, match=r"^a control packet of the broker must have at most 65536 bytes, got 65537 \(first byte 0x90\)$"
    ):
        parser.parse()


@pytest.mark.parametrize(
    ("version", "reason", "text"),
    [
        (Version.V5, 135, "not authorized"),
        (Version.V5, 1, "unsupported protocol version"),
        (Version.V311, 5, "not authorized"),
        (Version.V5, 99, "reason 99"),
    ],
)
def test_reason_text_names_what_it_knows(version: Version, reason: int, text: str) -> None:
    assert reason_text(version, reason) == text


def test_is_wrong_version_hears_the_words_of_either_protocol() -> None:
    assert [reason for reason in range(256) if is_wrong_version(reason)] == [1, 132]


# laws --------------------------------------------------------------------------------------------------------------------------------------

publications = st.builds(
    Publication,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.binary(max_size=400),
    st.sampled_from([0, 1]),
    st.booleans(),
)


@given(st.sampled_from(list(Version)), st.lists(publications, max_size=8), st.data())
@settings(max_examples=150, deadline=None)
def test_law_pieces_change_nothing_and_every_message_comes_through(version: Version, sent: list[Publication], data: st.DataObject) -> None:
    stream = b"".join(publish_packet(version, one, mid) for mid, one in enumerate(sent, 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    messages, controls = parse(pieces, version)
    assert [Publication(m.topic, m.payload, m.qos, m.retain) for m in messages] == sent
    assert [m.mid for m in messages] == [mid if one.qos else 0 for mid, one in enumerate(sent, 1)]
    assert controls == []


@given(st.binary(max_size=200))
@example(b"\x00\x30\x82\x01\x00\x01a" + bytes(100))
@settings(max_examples=300, deadline=None)
def test_law_arbitrary_bytes_raise_nothing_but_a_protocol_error(stream: bytes) -> None:
    fuzz(stream)
    assert fuzz(b"") is None


@given(st.sampled_from([case.values for case in CONTROLS]), st.integers(0, 40), st.integers(0, 255), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_law_damaged_packets_raise_nothing_but_a_protocol_error(
    case: tuple[Version, bytes, Control], place: int, byte: int, seed: int
) -> None:
    packet = bytearray(case[1])
    packet[place % len(packet)] = byte
    fuzz(bytes((seed | (case[0] is Version.V5),)) + bytes(packet))
    parser = Parser(case[0], 1)
    parser.feed(bytes(packet), 0)
    try:
        found = parser.parse()
    except ProtocolError:
        return
    assert len(found.controls) + len(found.messages) <= 1 + len(packet) // 2
