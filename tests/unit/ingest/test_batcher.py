from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.batcher import Batcher, BatchLimits, BatchReason, decide

LIMITS = BatchLimits(count_max=100, bytes_max=10_000, readings_max=1_000, age_s_max=0.25, linger_s=0.003)


@pytest.mark.parametrize(
    ("count", "size", "readings", "age_s", "idle_s", "expected"),
    [
        (0, 0, 0, 9.0, 9.0, BatchReason.EMPTY),
        (1, 10, 1, 0.0, 0.0, BatchReason.WAIT),
        (100, 10, 1, 0.0, 0.0, BatchReason.COUNT),
        (1, 10_000, 1, 0.0, 0.0, BatchReason.BYTES),
        (1, 10, 1_000, 0.0, 0.0, BatchReason.READINGS),
        (1, 10, 1, 0.25, 0.0, BatchReason.AGE),
        (1, 10, 1, 0.003, 0.003, BatchReason.IDLE),
    ],
)
def test_decide_each_limit_gives_its_reason(
    count: int, size: int, readings: int, age_s: float, idle_s: float, expected: BatchReason
) -> None:
    assert decide(LIMITS, count, size, readings, age_s, idle_s) is expected
    assert expected.is_take == (expected not in (BatchReason.EMPTY, BatchReason.WAIT))


def test_batcher_nothing_more_waiting_takes_after_the_linger() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    for number in range(20):
        batcher.add([f"m{number}"], 80, 1, 5.0)
    assert not batcher.decide(5.001).is_take
    assert batcher.wait_s(5.001, 1.0) == pytest.approx(0.002)
    assert batcher.decide(5.0031) is BatchReason.IDLE
    assert len(batcher.take()) == 20
    assert batcher.decide(5.0031) is BatchReason.EMPTY
    assert batcher.wait_s(5.0031, 1.0) == 1.0


def test_batcher_messages_that_keep_coming_are_taken_by_age() -> None:
    batcher: Batcher[int] = Batcher(LIMITS)
    now_s = 0.0
    while not batcher.decide(now_s).is_take:
        batcher.add([1], 1, 1, now_s)
        now_s += 0.0028
    assert batcher.decide(now_s) is BatchReason.AGE


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.01)), max_size=300))
def test_batcher_no_batch_exceeds_its_limits_by_more_than_one_message(arrivals: list[tuple[int, float]]) -> None:
    batcher: Batcher[tuple[int, float]] = Batcher(LIMITS)
    now_s, taken = 0.0, []
    for size, pause_s in arrivals:
        now_s += pause_s
        assert batcher.room() > 0
        batcher.add([(size, now_s)], size, 1, now_s)
        if batcher.decide(now_s).is_take:
            batch = batcher.take()
            assert len(batch) <= LIMITS.count_max
            assert sum(s for s, _ in batch[:-1]) < LIMITS.bytes_max
            assert batch[-2:][0][1] - batch[0][1] < LIMITS.age_s_max
            taken += batch
    taken += batcher.take()
    assert [size for size, _ in taken] == [size for size, _ in arrivals]
