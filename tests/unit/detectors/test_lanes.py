import numpy as np
import pytest

from detectors.contract import BankOutput, Frames, no_output
from detectors.lanes import STALL_LIVE_US, GridLane
from underway.model import HOUR_US, MINUTE_US, Channel, FindingKind, Hold, Quantity, ReadingBatch, ReadingFlag, Signal

GRID_US = 5 * MINUTE_US


class Recorder:
    """Keeps the frames that it is given."""

    name, version, key, kinds, signals, state_bytes_max = "recorder", "1", "recorder", (), (), 10
    grid_us = GRID_US

    def __init__(self, count: int) -> None:
        self.channel_ids = tuple(range(1, count + 1))
        self.seen: list[tuple[int, list[float], bool]] = []

    def step(self, frames: Frames) -> BankOutput:
        self.seen += [
            (int(a) // MINUTE_US, v.tolist(), bool(h)) for a, v, h in zip(frames.at_us, frames.value, frames.historical, strict=True)
        ]
        return no_output()

    def covers(self, hold: Hold) -> bool:
        return False

    def hold(self, hold: Hold) -> None:
        raise AssertionError(hold)

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


KINDS: tuple[FindingKind, ...] = ()
SIGNALS: tuple[Signal, ...] = ()


def lane(count: int, interval_s: float = 300.0) -> tuple[GridLane, Recorder]:
    recorder = Recorder(count)
    channels = [Channel(i, f"d-{i}", "x", Quantity.FLOW, "m3/h", None, "z", "zone_inflow", 0, 9, interval_s) for i in recorder.channel_ids]
    return GridLane(recorder, channels), recorder


def rows(*rows: tuple[int, float, float], behind: bool = False, received_min: float | None = None) -> ReadingBatch:
    """Return rows of (channel, minute, value)."""
    flag = int(ReadingFlag.HISTORICAL) if behind else 0
    at = [round(m * MINUTE_US) for _, m, _ in rows]
    received = None if received_min is None else [round(received_min * MINUTE_US)] * len(rows)
    return ReadingBatch.from_columns([c for c, _, _ in rows], at, [v for _, _, v in rows], received, flags=[flag] * len(rows))


def feed(target: GridLane, batch: ReadingBatch) -> None:
    target.step(batch, batch.channel_id.astype(np.int64) - 1)


def test_grid_lane_judges_a_grid_time_as_soon_as_every_channel_has_spoken() -> None:
    target, seen = lane(2)
    feed(target, rows((1, 60, 1.0)))
    assert seen.seen == []
    feed(target, rows((2, 60, 2.0)))
    assert seen.seen == [(60, [1.0, 2.0], False)]


def test_grid_lane_clock_error_of_a_device_rounds_to_the_grid() -> None:
    target, seen = lane(2)
    feed(target, rows((1, 59.7, 1.0), (2, 60.4, 2.0)))
    assert seen.seen == [(60, [1.0, 2.0], False)]


def test_grid_lane_missing_reading_is_a_gap_and_waits_for_the_next_of_its_channel() -> None:
    target, seen = lane(2)
    feed(target, rows((1, 60, 1.0), (2, 60, 2.0), (1, 65, 3.0), (1, 70, 4.0)))
    assert [t for t, _, _ in seen.seen] == [60]
    feed(target, rows((2, 70, 5.0)))
    assert seen.seen[1][0] == 65
    assert np.isnan(seen.seen[1][1][1])
    assert seen.seen[2] == (70, [4.0, 5.0], False)


def test_grid_lane_dead_channel_is_waited_for_no_longer_than_the_stall() -> None:
    target, seen = lane(2)
    feed(target, rows((1, 60, 1.0), (2, 60, 2.0)))
    for minute in range(65, 100, 5):
        feed(target, rows((1, minute, 1.0)))
        newest = seen.seen[-1][0]
        assert minute - newest <= (STALL_LIVE_US + GRID_US) / MINUTE_US
    assert seen.seen[-1][0] == 95


def test_grid_lane_reading_after_its_grid_time_was_judged_is_late() -> None:
    target, seen = lane(2)
    feed(target, rows((1, 60, 1.0), (2, 60, 2.0), (1, 65, 1.0), (2, 65, 2.0), (1, 60.5, 9.0)))
    assert target.late_rows == 1
    assert seen.seen[0] == (60, [1.0, 2.0], False)


def test_grid_lane_several_readings_of_one_grid_time_are_averaged_and_duplicates_count_once() -> None:
    target, seen = lane(1, interval_s=60.0)
    feed(target, rows((1, 59, 1.0), (1, 60, 2.0), (1, 60, 2.0), (1, 61, 6.0), (1, 62, 3.0), (1, 64, 0.0)))
    assert seen.seen[0] == (60, [3.0], False)


@pytest.mark.parametrize("frozen_clock", [True, False], ids=["all received at once", "received pack by pack"])
def test_grid_lane_packs_of_history_are_put_together_again(frozen_clock: bool) -> None:
    target, seen = lane(3)
    for pack in range(0, 24, 6):
        for channel in (1, 2, 3):
            minutes = range(pack * 60, (pack + 6) * 60, 5)
            received = 24 * 60 if frozen_clock else (pack + 6) * 60
            feed(target, rows(*((channel, m, float(channel)) for m in minutes), behind=True, received_min=received))
    assert target.late_rows == 0
    assert len(seen.seen) == 24 * 12
    assert all(v == [1.0, 2.0, 3.0] and h for _, v, h in seen.seen)


def test_grid_lane_last_packs_of_history_whose_end_counts_as_live_are_not_torn() -> None:
    target, seen = lane(3)
    end = 12 * 60
    for pack in (0, 6):
        for channel in (1, 2, 3):
            for m in range(pack * 60, (pack + 6) * 60, 5):
                feed(target, rows((channel, m, 1.0), behind=end - m > 60, received_min=end))
    assert target.late_rows == 0
    assert len(seen.seen) == 12 * 12


def test_grid_lane_restored_state_goes_on_with_what_was_waiting() -> None:
    first, _ = lane(2)
    feed(first, rows((1, 60, 1.0)))
    second, seen = lane(2)
    second.restore(first.state())
    feed(second, rows((2, 60, 2.0)))
    assert seen.seen == [(60, [1.0, 2.0], False)]


def test_grid_lane_slow_channel_covers_its_interval() -> None:
    target, seen = lane(1, interval_s=HOUR_US / 1e6)
    feed(target, rows((1, 60, 1.0)))
    assert [t for t, _, _ in seen.seen] == [60]
