"""The reorder window of row detectors, one rule a test; minutes on a virtual time axis."""

import numpy as np

from detectors.contract import BankOutput, Rows, no_output
from detectors.order import WAIT_ALL_MAX, WAIT_ROWS_MAX, ReorderLane
from underway.model import MINUTE_US, Channel, FindingKind, Hold, Quantity, Signal

KINDS: tuple[FindingKind, ...] = ()
SIGNALS: tuple[Signal, ...] = ()


class Recorder:
    """Keeps the rows that it is given as (channel, minute)."""

    name, version, key, kinds, signals, state_bytes_max, warm_up_us = "recorder", "1", "recorder", KINDS, SIGNALS, 10, 0

    def __init__(self, count: int) -> None:
        self.channel_ids = tuple(range(count))
        self.seen: list[tuple[int, int]] = []

    def step(self, rows: Rows) -> BankOutput:
        self.seen += zip(rows.column.tolist(), (rows.at_us // MINUTE_US).tolist(), strict=True)
        return no_output()

    def tick(self, now_us: int) -> BankOutput:
        return no_output()

    def covers(self, hold: Hold) -> bool:
        return False

    def hold(self, hold: Hold) -> None:
        raise AssertionError(hold)

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


def lane(count: int = 2) -> tuple[ReorderLane, Recorder]:
    recorder = Recorder(count)
    channels = [Channel(c, f"d-{c}", "x", Quantity.FLOW, "m3/h", None, "z", "zone_inflow", 0, 9, 300.0) for c in range(count)]
    return ReorderLane(recorder, channels), recorder


def feed(target: ReorderLane, *rows: tuple[int, int, float]) -> None:
    """Feed rows of (channel, minute observed, minute received)."""
    columns = [np.array(c) for c in zip(*rows, strict=True)]
    received = np.round(columns[2] * MINUTE_US).astype(np.int64)
    target.step(columns[0], columns[1] * MINUTE_US, received, np.ones(len(rows)), np.zeros(len(rows), bool))


def test_reorder_lane_rows_in_order_pass_at_once() -> None:
    target, seen = lane()
    feed(target, (0, 60, 60), (0, 65, 65), (1, 65, 65), (0, 70, 70))
    assert seen.seen == [(0, 60), (0, 65), (1, 65), (0, 70)]
    assert target.waiting_rows == 0


def test_reorder_lane_row_beyond_a_gap_waits_until_the_gap_is_filled() -> None:
    target, seen = lane()
    feed(target, (0, 60, 60), (0, 70, 70))
    assert (seen.seen, target.waiting_rows) == ([(0, 60)], 1)
    feed(target, (0, 65, 70.5))
    assert (seen.seen, target.waiting_rows, target.late_rows) == ([(0, 60), (0, 65), (0, 70)], 0, 0)


def test_reorder_lane_gap_that_is_not_filled_ends_by_the_reception_of_another_channel() -> None:
    target, seen = lane()
    feed(target, (0, 60, 60), (0, 70, 70), (1, 71, 71))
    assert seen.seen == [(0, 60), (0, 70), (1, 71)]


def test_reorder_lane_filler_that_comes_a_minute_too_late_is_late() -> None:
    target, seen = lane()
    feed(target, (0, 60, 60), (0, 70, 70))
    feed(target, (0, 65, 71))
    assert seen.seen == [(0, 60), (0, 70)]
    assert target.late_rows == 1


def test_reorder_lane_tick_is_a_clock_and_what_it_releases_the_next_row_would_release_too() -> None:
    ticked, one = lane()
    quiet, two = lane()
    for target in (ticked, quiet):
        feed(target, (0, 60, 60), (0, 70, 70))
    ticked.tick(round(70.9 * MINUTE_US))
    assert one.seen == [(0, 60)]
    ticked.tick(71 * MINUTE_US)
    assert one.seen == [(0, 60), (0, 70)]
    for target in (ticked, quiet):
        feed(target, (0, 65, 71.5), (0, 75, 75))
    assert one.seen == two.seen
    assert ticked.state() == quiet.state()


def test_reorder_lane_first_of_two_with_one_instant_stays() -> None:
    target, seen = lane()
    feed(target, (0, 60, 60), (0, 60, 60), (0, 70, 70), (0, 70, 70), (0, 65, 70))
    assert seen.seen == [(0, 60), (0, 65), (0, 70)]
    assert target.late_rows == 2


def test_reorder_lane_more_than_a_bounded_number_waits_no_longer() -> None:
    target, seen = lane()
    feed(target, (0, 0, 0), *((0, 20 + 10 * i, 20) for i in range(WAIT_ROWS_MAX)))
    assert (len(seen.seen), target.waiting_rows) == (1, WAIT_ROWS_MAX)
    feed(target, (0, 20 + 10 * WAIT_ROWS_MAX, 20))
    assert (seen.seen[1:], target.waiting_rows) == ([(0, 20)], WAIT_ROWS_MAX)


def test_reorder_lane_full_lane_passes_rows_on_at_once() -> None:
    target, seen = lane(WAIT_ALL_MAX + 1)
    count = WAIT_ALL_MAX + 1
    feed(target, *((c, 0, 0) for c in range(count)))
    feed(target, *((c, 20, 0.5) for c in range(count)))
    assert target.waiting_rows == WAIT_ALL_MAX
    assert seen.seen[count:] == [(WAIT_ALL_MAX, 20)]


def test_reorder_lane_restored_state_goes_on_with_what_was_waiting() -> None:
    first, _ = lane()
    feed(first, (0, 60, 60), (0, 70, 70))
    second, seen = lane()
    second.restore(first.state())
    assert second.state() == first.state()
    feed(second, (0, 65, 70))
    assert seen.seen == [(0, 65), (0, 70)]


def test_reorder_lane_late_is_a_look_and_changes_nothing() -> None:
    target, _ = lane()
    feed(target, (0, 60, 60), (0, 70, 70))
    state = target.state()
    at = np.array([55, 65, 70, 75]) * MINUTE_US
    late = target.late(np.zeros(4, np.int64), at, np.full(4, 70 * MINUTE_US))
    # 70 waits already: it is refused as a duplicate
    assert late.tolist() == [True, False, True, False]
    assert target.state() == state
