from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decoded import FrameCounter
from ingest.frames import RETRANSMISSION_S_MAX, SAME_FRAME_S_MAX, WINDOW_FRAMES, FrameMemory, FrameVerdict

SECOND_US = 1_000_000
EVERY_US = 900 * SECOND_US
NEW, REPEATED, OUT_OF_ORDER, REJOINED, RESET = FrameVerdict


def frame(counter: int, session: str = "s1") -> FrameCounter:
    return FrameCounter(session, counter)


def fed(*counters: int, session: str = "s1") -> FrameMemory:
    memory = FrameMemory()
    for counter in counters:
        memory.take("d", frame(counter, session), counter * EVERY_US)
    return memory


@pytest.mark.parametrize(
    ("counter", "observed_us", "verdict"),
    [
        pytest.param(frame(101), 101 * EVERY_US, NEW, id="counts-on"),
        pytest.param(frame(5000), 101 * EVERY_US, NEW, id="many-were-lost"),
        pytest.param(frame(100), 100 * EVERY_US, REPEATED, id="redelivered"),
        pytest.param(frame(100), 100 * EVERY_US + RETRANSMISSION_S_MAX * SECOND_US, REPEATED, id="retransmitted"),
        pytest.param(frame(100), 101 * EVERY_US, RESET, id="same-counter-much-later"),
        pytest.param(frame(98), 98 * EVERY_US, REPEATED, id="older-one-redelivered"),
        pytest.param(frame(98), 98 * EVERY_US + SAME_FRAME_S_MAX * SECOND_US, REPEATED, id="second-integration"),
        pytest.param(frame(99), 99 * EVERY_US, OUT_OF_ORDER, id="was-missing"),
        pytest.param(frame(50), 50 * EVERY_US, OUT_OF_ORDER, id="older-than-the-window"),
        pytest.param(frame(98), 101 * EVERY_US, RESET, id="restarted-inside-the-window"),
        pytest.param(frame(0), 101 * EVERY_US, RESET, id="restarted"),
        pytest.param(frame(0, "s2"), 101 * EVERY_US, REJOINED, id="rejoined"),
        pytest.param(frame(101, "s2"), 101 * EVERY_US, REJOINED, id="rejoined-and-counts-on"),
        pytest.param(frame(98), None, REPEATED, id="no-instant-inside-the-window"),
        pytest.param(frame(99), None, OUT_OF_ORDER, id="no-instant-was-missing"),
        pytest.param(frame(100 - WINDOW_FRAMES), None, RESET, id="no-instant-below-the-window"),
    ],
)
def test_frame_memory_after_97_98_100_judges(counter: FrameCounter, observed_us: int | None, verdict: FrameVerdict) -> None:
    memory = fed(97, 98, 100)
    before = memory.dump("d")
    assert memory.judge("d", counter, observed_us) is verdict
    assert memory.dump("d") == before
    assert memory.take("d", counter, observed_us) is verdict


def test_frame_memory_of_a_device_that_it_does_not_know_says_new() -> None:
    assert fed(5).judge("other", frame(5), 0) is NEW


def test_frame_memory_after_a_restart_counts_from_there() -> None:
    memory = fed(4000)
    at_us = 4001 * EVERY_US
    assert [memory.take("d", frame(n), at_us + n * EVERY_US) for n in (0, 1, 1, 2)] == [RESET, NEW, REPEATED, NEW]


def test_frame_memory_device_without_join_that_restarts_at_each_frame_loses_nothing() -> None:
    memory = FrameMemory()
    assert [memory.take("d", frame(0), n * EVERY_US) for n in range(3)] == [NEW, RESET, RESET]


def test_frame_memory_frame_of_the_session_before_is_still_known() -> None:
    memory = fed(97, 98, 100)
    assert memory.take("d", frame(0, "s2"), 101 * EVERY_US) is REJOINED
    assert memory.take("d", frame(98), 98 * EVERY_US) is REPEATED
    assert memory.take("d", frame(99), 99 * EVERY_US) is OUT_OF_ORDER
    assert memory.take("d", frame(99), 99 * EVERY_US) is REPEATED
    assert memory.take("d", frame(1, "s2"), 102 * EVERY_US) is NEW
    assert memory.take("d", frame(101), 103 * EVERY_US) is REJOINED


def test_frame_verdict_only_a_repeated_frame_is_not_taken() -> None:
    assert [verdict for verdict in FrameVerdict if not verdict.taken] == [REPEATED]


@pytest.mark.parametrize(
    "state", [b"", b"\xff", b"\x93\x02\x01\xc0", b"\x93\x09\x94\xa1s\x01\x01\xc0\xc0"], ids=["empty", "no", "wrong", "newer"]
)
def test_frame_memory_restore_of_what_it_cannot_read_begins_anew(state: bytes) -> None:
    memory = FrameMemory()
    assert memory.restore("d", state) is False
    assert memory.dump("d") is None


def test_frame_memory_beyond_its_limit_forgets_the_most_silent() -> None:
    memory = FrameMemory(devices_max=2)
    for device in ("a", "b", "a", "c"):
        memory.take(device, frame(1), 0)
    assert (len(memory), memory.forgotten, memory.dump("b")) == (2, 1, None)


@given(st.lists(st.integers(0, WINDOW_FRAMES - 2), max_size=60), st.booleans())
def test_frame_memory_any_redelivery_inside_the_window_takes_each_frame_once(back: list[int], with_instant: bool) -> None:
    """After each new frame an older one comes once more; every frame is taken exactly once, dumped and restored in between."""
    memory, taken = FrameMemory(), []
    for newest, steps in enumerate(back):
        came = (newest, max(newest - steps, 0))
        taken += [n for n in came if memory.take("d", frame(n), n * EVERY_US if with_instant else None).taken]
        restored = FrameMemory()
        assert restored.restore("d", memory.dump("d") or b"")
        memory = restored
    assert taken == list(range(len(back)))
