"""Packets of the benchmark's publisher, read back by the codec of ingest; the null subscriber's reading of packets."""

import itertools

import pytest

from ingest.mqtt_codec import Parser, Version
from underway.app.bench.null_subscriber import packet_end
from underway.app.bench.wire import MID_MAX, chunks, packets, publish_packet, varint


@pytest.mark.parametrize(("number", "expected"), [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001")])
def test_varint_is_the_standards(number: int, expected: str) -> None:
    assert varint(number).hex() == expected


@pytest.mark.parametrize("size", [1, 90, 5_000, 70_000])
def test_publish_packet_read_by_ingest_is_the_message(size: int) -> None:
    parser = Parser(Version.V311, 1)
    parser.feed(publish_packet(b"uw/town/pr-1/telemetry", b"x" * size, 513), 42)
    (message,) = parser.parse().messages
    assert (message.topic, len(message.payload), message.mid, message.qos) == ("uw/town/pr-1/telemetry", size, 513, 1)


def test_packets_numbers_begin_anew_after_the_last_and_are_never_zero() -> None:
    made = packets((b"t", b"p") for _ in range(MID_MAX + 2))
    mids = [int.from_bytes(packet[5:7], "big") for packet in made]
    assert mids[:2] == [1, 2]
    assert mids[-3:] == [MID_MAX, 1, 2]


@pytest.mark.parametrize("size", [1, 10, 25, 10_000])
def test_chunks_hold_every_packet_once_in_order(size: int) -> None:
    made = packets((b"t", bytes([k])) for k in range(9))
    pieces = chunks(made, size)
    assert b"".join(data for data, _ in pieces) == b"".join(made)
    assert sum(count for _, count in pieces) == 9


def test_packet_end_walks_from_packet_to_packet_and_waits_for_the_rest() -> None:
    made = packets([(b"a", b"x" * 200), (b"b", b"")])
    data = b"\x90\x03\x00\x01\x01" + b"".join(made)
    ends: list[int | None] = [0]
    while ends[-1] is not None:
        ends.append(packet_end(data, ends[-1]))
    found = [end for end in ends if end is not None]
    assert [stop - start for start, stop in itertools.pairwise(found)] == [5, len(made[0]), len(made[1])]
    assert packet_end(data[:100], 5) is None
