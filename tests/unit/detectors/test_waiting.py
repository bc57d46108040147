"""The pool of waiting rows against its rule, row by row, and grid lanes with more rows than there is room for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_grid_lanes import GRID_US, WIDTHS, lanes

from detectors.contract import NEVER_US
from detectors.grid import STALL_HISTORY_US, GridLanes, GridRows
from detectors.snapshot import pack, unpack
from detectors.waiting import LANE_ROWS_MAX, ROWS_A_SLOT_MAX, RowPool, rows_a_slot
from underway.model import HOUR_US, MINUTE_US

GRID, CELLS = 10, 4
MOST = np.array([1, 2, 3, 5])


def put(pool: RowPool, cell: np.ndarray, at: np.ndarray, value: np.ndarray, behind: np.ndarray) -> np.ndarray:
    return pool.put(cell, (at + GRID // 2) // GRID, at, value, behind)


class ByRule:
    """The rule of `detectors.waiting`, one row after the other."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, float]] = []

    def put(self, cell: int, at: int, value: float) -> bool:
        """Take a row in; return whether it is crowded."""
        mine = [a for c, a, _ in self.rows if c == cell and (a + GRID // 2) // GRID == (at + GRID // 2) // GRID]
        if at in mine:
            return False
        if len(mine) >= MOST[cell]:
            return True
        self.rows.append((cell, at, value))
        return False

    def take(self, cells: list[int], until: int) -> list[tuple[int, int, float]]:
        due = [r for r in self.rows if r[0] in cells and (r[1] + GRID // 2) // GRID <= until]
        self.rows = [r for r in self.rows if r not in due]
        return sorted(due, key=lambda r: r[0])


@pytest.mark.parametrize("disorder", [0, 4, 40])
@settings(max_examples=60, deadline=None)
@given(draw=st.data())
def test_row_pool_whatever_comes_and_goes_holds_what_the_rule_says(disorder: int, draw: st.DataObject) -> None:
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    pool, rule, closed, clock = RowPool(MOST), ByRule(), np.full(CELLS, -1), 5.0
    for size in draw.draw(st.lists(st.integers(0, 60), max_size=12)):
        clock += rng.integers(0, 30)
        cell = rng.integers(0, CELLS, size)
        at = (clock + np.sort(rng.integers(0, 30, size)) + rng.integers(-disorder, disorder + 1, size)).astype(np.int64)
        # of grid times that were taken out nothing comes again
        open_ = (at + GRID // 2) // GRID > closed[cell]
        cell, at = cell[open_], at[open_]
        value = rng.normal(size=len(at))
        crowded = put(pool, cell, at, value, value > 0)
        expected = [c for c, a, v in zip(cell.tolist(), at.tolist(), value.tolist(), strict=True) if rule.put(c, a, v)]
        assert sorted(crowded.tolist()) == sorted(expected)
        if rng.random() < 0.5:
            cells = np.flatnonzero(rng.random(CELLS) < 0.6)
            until = int(clock // GRID)
            closed[cells] = np.maximum(closed[cells], until)
            taken = pool.take(cells, closed[cells])
            due = [r for c in cells.tolist() for r in rule.take([c], int(closed[c]))]
            assert list(zip(taken.cell.tolist(), taken.at_us.tolist(), taken.value.tolist(), strict=True)) == due
            assert np.array_equal(taken.behind, taken.value > 0)
        seen = pool.look(np.arange(CELLS))
        assert list(zip(seen.cell.tolist(), seen.at_us.tolist(), seen.value.tolist(), strict=True)) == sorted(rule.rows)
        assert np.array_equal(seen.behind, seen.value > 0)
        assert np.array_equal(seen.slot, (seen.at_us + GRID // 2) // GRID)
        assert len(pool) == len(rule.rows)


def test_row_pool_duplicates_of_a_kept_row_take_no_room_and_are_not_counted() -> None:
    pool = RowPool(MOST)
    at = np.array([10, 10, 11, 11, 10, 12, 12])
    crowded = put(pool, np.ones(7, np.int64), at, np.arange(7.0), np.zeros(7, bool))
    assert crowded.tolist() == [1, 1]
    assert pool.look(np.arange(CELLS)).at_us.tolist() == [10, 11]
    assert pool.look(np.arange(CELLS)).value.tolist() == [0.0, 2.0]


def test_row_pool_cell_that_is_forgotten_takes_older_rows_again() -> None:
    pool = RowPool(MOST)
    put(pool, np.array([3, 2]), np.array([100, 100]), np.zeros(2), np.zeros(2, bool))
    pool.forget(np.array([3]))
    assert len(pool) == 1
    put(pool, np.array([3]), np.array([7]), np.array([1.0]), np.zeros(1, bool))
    assert pool.look(np.arange(CELLS)).at_us.tolist() == [100, 7]


@pytest.mark.parametrize("width", [1, 7, 50, 300, 4000])
@pytest.mark.parametrize("grid_us", [MINUTE_US, 5 * MINUTE_US, HOUR_US])
def test_rows_a_slot_lane_never_has_more_than_its_limit(width: int, grid_us: int) -> None:
    slots = STALL_HISTORY_US // grid_us + 2
    for interval_us in (1000, 1_000_000, grid_us, 10 * grid_us):
        most = rows_a_slot(np.full(width, interval_us), grid_us, slots)
        assert most.min() >= 1
        assert int(most.sum()) * slots <= max(LANE_ROWS_MAX, width * slots)


# -- in lanes -------------------------------------------------------------------------------------------------------------------------


def mad(seed: int, hours: float, every_us: int, behind: bool) -> GridRows:
    """Return rows of a channel that sends all the time beside one that is silent after its first reading, with duplicates and disorder."""
    rng = np.random.default_rng(seed)
    first = 20 * HOUR_US
    at = first + 1 + np.arange(0, round(hours * HOUR_US), every_us)
    at = np.r_[at, rng.choice(at, len(at) // 5)]
    place = at + np.where(rng.random(len(at)) < 0.1, rng.integers(0, 20 * MINUTE_US, len(at)), 0)
    at = np.r_[first, at[np.argsort(place, kind="stable")]]
    cell = np.r_[1, np.full(len(at) - 1, 2)]
    received = np.full(len(at), first + 24 * HOUR_US) if behind else np.maximum.accumulate(at) + 50_000
    return GridRows(cell, at, received, rng.normal(size=len(at)), np.full(len(at), behind))


def piece(rows: GridRows, begin: int, end: int) -> GridRows:
    return GridRows(*(column[begin:end] for column in rows))


def waiting(target: GridLanes) -> np.ndarray:
    s = unpack(target.state(1))
    return np.stack((s["column"], (s["at"] + GRID_US // 2) // GRID_US))


@pytest.mark.parametrize("behind", [False, True], ids=["live", "history"])
@pytest.mark.parametrize("seed", range(3))
def test_grid_lanes_crowded_rows_are_the_same_however_the_rows_are_cut(seed: int, behind: bool) -> None:
    rows = mad(seed, 1.5, 1_000_000, behind)
    whole, kept = lanes([300.0] * sum(WIDTHS))
    whole.step(rows)
    # live the silent channel is given up after 20 min, and then a grid time has no time to be crowded
    assert whole.crowded_rows[1] > 500
    rng = np.random.default_rng(seed)
    edges = [0, *np.sort(rng.integers(0, len(rows.cell), 60)).tolist(), len(rows.cell)]
    cut, pieces = lanes([300.0] * sum(WIDTHS))
    for a, b in itertools.pairwise(edges):
        cut.step(piece(rows, a, b))
        # and a restart after every piece
        state = cut.state(1)
        cut, again = lanes([300.0] * sum(WIDTHS))
        again[1].seen = pieces[1].seen
        pieces = again
        cut.restore(1, state)
        assert cut.state(1) == state
    assert [k.seen for k in kept] == [k.seen for k in pieces]
    assert whole.state(1) == cut.state(1)


def test_grid_lanes_crowded_grid_time_is_judged_by_the_first_rows_that_came() -> None:
    target, keepers = lanes([300.0] * sum(WIDTHS))
    n, first = ROWS_A_SLOT_MAX, 20 * HOUR_US
    # channels 1 and 2 cover the grid time at once, channel 3 later
    at = np.r_[first - GRID_US, first + np.arange(n + 50), first + 100, first + 200]
    cell = np.r_[3, np.full(n + 50, 1), 2, 3]
    value = np.r_[0.0, np.full(n, 2.0), np.full(50, 1e6), 3.0, 4.0]
    target.step(GridRows(cell, at, at + 1, value, np.zeros(len(at), bool)))
    assert keepers[1].seen == [(first - GRID_US, [-1.0, -1.0, 0.0], False), (first, [2.0, 3.0, 4.0], False)]
    assert target.crowded_rows.tolist() == [0, 50, 0]


def test_grid_lanes_channel_registered_to_send_every_second_is_not_crowded() -> None:
    target, keepers = lanes([1.0] * sum(WIDTHS))
    at = 20 * HOUR_US - GRID_US // 2 + np.arange(0, 2 * GRID_US, 1_000_000)
    target.step(GridRows(np.zeros(len(at), np.int64), at, at + 1, np.arange(600.0), np.zeros(len(at), bool)))
    assert keepers[0].seen[0] == (20 * HOUR_US, [149.5], False)
    assert target.crowded_rows.sum() == 0


def test_grid_lanes_day_of_history_that_waits_stays_within_the_limit() -> None:
    target, _ = lanes([300.0] * sum(WIDTHS))
    rows = mad(1, 23.9, 2_000_000, True)
    for begin in range(0, len(rows.cell), 5000):
        target.step(piece(rows, begin, begin + 5000))
    cell_and_slot, count = np.unique(waiting(target), axis=1, return_counts=True)
    assert count.max() == ROWS_A_SLOT_MAX
    assert 280 < cell_and_slot.shape[1] <= STALL_HISTORY_US // GRID_US + 2
    assert len(target.state(1)) < 21 * ROWS_A_SLOT_MAX * (STALL_HISTORY_US // GRID_US + 2) + 1000


def test_grid_lanes_state_saved_before_there_was_a_limit_is_cut_to_it() -> None:
    source, _ = lanes([300.0] * sum(WIDTHS))
    rows = mad(1, 0.1, 1_000_000, False)
    source.step(rows)
    s = unpack(source.state(1))
    old = {k: v for k, v in s.items() if k != "crowded"}
    at = 20 * HOUR_US + GRID_US + np.arange(1000)
    old |= {"column": np.full(1000, 1, np.int32), "at": at, "value": np.ones(1000), "behind": np.zeros(1000, bool)}
    target, _ = lanes([300.0] * sum(WIDTHS))
    target.restore(1, pack(old))
    new = unpack(target.state(1))
    assert new["at"].tolist() == at[:ROWS_A_SLOT_MAX].tolist()
    assert new["crowded"] == target.crowded_rows[1] == 1000 - ROWS_A_SLOT_MAX
    assert target.closed[1] > NEVER_US
