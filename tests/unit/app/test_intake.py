"""What ingest remembers of messages: each is understood once, and a redelivery is the same message."""

from __future__ import annotations

import json
from typing import Any

from ingest.mqtt_types import Message
from ingest.sparkplug_host import SparkplugHost
from underway.app.intake import UNDATED, Intake, Item
from underway.app.strangers import Strangers
from underway.model import SECOND_US, FaultReason
from underway.store.memory import MemoryRow

NOW_US = 1_772_331_300_000_000


def intake() -> Intake:
    return Intake(SparkplugHost("here"))


def senml(mid: int, received_us: int, dup: bool = False, value: float = 1.5) -> Message:
    payload = json.dumps([{"n": "level", "u": "m", "v": value}]).encode()
    return Message("senml/north/tank-3", payload, received_us, (1, mid), len(payload), 1, False, dup, mid)


def uplink(counter: int, received_us: int, value: float = 2.5) -> Message:
    body: dict[str, Any] = {
        "deviceInfo": {"devEui": "0102030405060708"},
        "devAddr": "01ab23cd",
        "fCnt": counter,
        "time": "2026-03-01T02:15:00+00:00",
        "object": {"level": value},
    }
    payload = json.dumps(body).encode()
    return Message("application/7/device/0102030405060708/event/up", payload, received_us, (1, 5), len(payload), 1, False, False, 5)


def observed(item: Item) -> list[int]:
    decoded = item.decoded
    ours = decoded.from_reception or [False] * len(decoded)
    return [at + item.received_us if mine else at for at, mine in zip(decoded.observed_us, ours, strict=True)]


def test_intake_undated_message_delivered_again_keeps_its_first_instant() -> None:
    taker = intake()
    (first,) = taker.take([senml(7, NOW_US)])
    (again,) = taker.take([senml(7, NOW_US + 90 * SECOND_US, dup=True)])
    assert observed(first) == observed(again) == [NOW_US]


def test_intake_undated_message_delivered_again_after_a_crash_keeps_its_first_instant() -> None:
    (first,) = intake().take([senml(7, NOW_US)])
    assert [row.dialect for row in first.memory] == [UNDATED]
    restarted = intake()
    restarted.restore(first.memory, NOW_US)
    (again,) = restarted.take([senml(7, NOW_US + 90 * SECOND_US, dup=True)])
    assert observed(again) == [NOW_US]


def test_intake_undated_message_with_the_same_words_is_another_one_unless_delivered_again() -> None:
    taker = intake()
    later_us = NOW_US + 90 * SECOND_US
    taker.take([senml(7, NOW_US)])
    words = [senml(7, later_us), senml(8, later_us, dup=True), senml(7, later_us, dup=True, value=9.0)]
    assert [observed(item) for item in taker.take(words)] == [[later_us], [later_us + 1], [later_us + 2]]


def test_intake_undated_messages_that_come_at_once_have_instants_of_their_own() -> None:
    items = intake().take([senml(mid, NOW_US, value=float(mid)) for mid in range(1, 6)])
    assert len({at for item in items for at in observed(item)}) == 5


def test_intake_frame_that_comes_twice_is_taken_once_and_remembered_over_a_restart() -> None:
    taker = intake()
    first, again = taker.take([uplink(7, NOW_US), uplink(7, NOW_US + SECOND_US)])
    assert (len(first.decoded), len(again.decoded), taker.repeated_frames) == (1, 0, 1)
    assert not again.decoded.faults
    restarted = intake()
    restarted.restore(first.memory, NOW_US)
    assert [len(item.decoded) for item in restarted.take([uplink(7, NOW_US), uplink(8, NOW_US)])] == [0, 1]


def test_intake_frames_of_an_unregistered_device_can_be_replayed() -> None:
    taker = Intake(SparkplugHost("here"), lambda dialect, address: False)
    assert [len(item.decoded) for item in taker.take([uplink(7, NOW_US), uplink(7, NOW_US)])] == [1, 1]
    assert not any(item.memory for item in taker.take([uplink(7, NOW_US)]))


def test_strangers_are_noted_at_once_then_once_a_minute_with_a_count() -> None:
    strangers = Strangers()
    items = intake().take([uplink(i, NOW_US + i * SECOND_US) for i in range(61)])
    notes = [strangers.note(item, lambda dialect, address: False, "town") for item in items]
    assert [i for i, note in enumerate(notes) if note is not None] == [0, 60]
    assert (notes[0].count, notes[60].count) == (1, 60)  # type: ignore[union-attr]
    assert notes[0].channels["level"]["example"] == 2.5  # type: ignore[union-attr]
    assert strangers.note(items[0], lambda dialect, address: True, "town") is None


def test_intake_message_that_came_cut_off_is_too_large() -> None:
    (item,) = intake().take([Message("uw/town/pr-1/telemetry", b"x" * 100, NOW_US, (1, 1), 10_000_000)])
    (fault,) = item.decoded.faults
    assert fault.reason is FaultReason.PAYLOAD_TOO_LARGE
    assert fault.message == (
        "a payload must have at most 1 MiB, got 10000000 bytes; the beginning is kept (topic 'uw/town/pr-1/telemetry')"
    )


def test_intake_memory_that_cannot_be_read_is_left_out() -> None:
    taker = intake()
    taker.restore([MemoryRow("frames", "a", b"\xff"), MemoryRow(UNDATED, "7", b"short"), MemoryRow("sparkplug", "x", b"?")], NOW_US)
    assert len(taker.take([senml(7, NOW_US, dup=True)])) == 1
