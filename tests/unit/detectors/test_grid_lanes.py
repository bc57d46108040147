"""The passes of `GridLanes` against its definition, row by row, on streams with every disorder."""

import numpy as np
import pytest

from detectors.contract import NEVER_US, BankOutput, Frames, no_output
from detectors.grid import GridLanes, GridRows, _Follower
from underway.model import HOUR_US, MINUTE_US, Channel, FindingKind, Hold, Quantity, Signal

GRID_US = 5 * MINUTE_US
WIDTHS = (1, 3, 6)
KINDS: tuple[FindingKind, ...] = ()
SIGNALS: tuple[Signal, ...] = ()


class Keeper:
    """Keeps the frames that it is given."""

    name, version, kinds, signals, state_bytes_max, warm_up_us, grid_us = "keeper", "1", KINDS, SIGNALS, 10, 0, GRID_US

    def __init__(self, key: str, channel_ids: tuple[int, ...]) -> None:
        self.key, self.channel_ids = key, channel_ids
        self.seen: list[tuple[int, list[float], bool]] = []

    def step(self, frames: Frames) -> BankOutput:
        rows = zip(frames.at_us.tolist(), np.nan_to_num(frames.value, nan=-1.0).tolist(), frames.historical.tolist(), strict=True)
        self.seen += list(rows)
        return no_output()

    def covers(self, hold: Hold) -> bool:
        return False

    def hold(self, hold: Hold) -> None:
        raise AssertionError(hold)

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


def lanes(intervals_s: list[float]) -> tuple[GridLanes, list[Keeper]]:
    keepers, group, number = [], [], 0
    for i, width in enumerate(WIDTHS):
        ids = tuple(range(number, number + width))
        channels = [Channel(c, f"d-{c}", "x", Quantity.FLOW, "m3/h", None, "z", "zone_inflow", 0, 9, intervals_s[c]) for c in ids]
        keepers.append(Keeper(f"k{i}", ids))
        group.append((keepers[-1], channels))
        number += width
    return GridLanes(GRID_US, group), keepers


def stream(seed: int) -> tuple[GridRows, list[float]]:
    """Return rows with jitter, dead channels, packs, duplicates, stragglers and irregular intervals, in order of arrival."""
    rng = np.random.default_rng(seed)
    cells = sum(WIDTHS)
    intervals_s = rng.choice([60.0, 300.0, 300.0, 300.0, 900.0], cells).tolist()
    rows: list[tuple[float, int, int, int, float, bool]] = []
    for c in range(cells):
        step = round(intervals_s[c] * 1e6)
        at = np.arange(20 * HOUR_US, 20 * HOUR_US + 9 * HOUR_US, step) + rng.integers(-step // 4, step // 4)
        begin = rng.integers(0, len(at))
        dead = slice(begin, begin + rng.integers(0, max(int(3 * HOUR_US // step), 1)))
        alive = np.ones(len(at), bool)
        alive[dead] = rng.random() < 0.5
        for t in at[alive].tolist():
            delay = 2_000_000 if rng.random() < 0.95 else int(rng.integers(0, 90 * MINUTE_US))
            behind = delay > HOUR_US
            rows.append((t + delay, c, t, t + delay, float(rng.normal()), behind))
            if rng.random() < 0.03:
                again = t + delay + int(rng.integers(0, 40 * MINUTE_US))
                rows.append((again, c, t, again, rows[-1][4], behind))
    rows.sort(key=lambda r: r[:2])
    columns = list(zip(*rows, strict=True))
    return GridRows(*(np.array(columns[i]) for i in (1, 2, 3, 4, 5))), intervals_s


def by_definition(rows: GridRows, intervals_s: list[float]) -> np.ndarray:
    """Return which rows are on time, one row after the other."""
    start, on_time = 0, np.zeros(len(rows.cell), bool)
    for width in WIDTHS:
        mine = np.flatnonzero((rows.cell >= start) & (rows.cell < start + width))
        interval = np.array([round(s * 1e6) for s in intervals_s[start : start + width]])
        first = int(mine[0])
        follower = _Follower(
            GRID_US,
            interval,
            int(rows.at_us[first]) - interval,
            np.full(width, int(rows.received_us[first])),
            NEVER_US,
            NEVER_US,
            int(rows.received_us[first]),
            NEVER_US,
        )
        for i in mine.tolist():
            one = slice(i, i + 1)
            on_time[i] = follower.follow(rows.cell[one] - start, rows.at_us[one], rows.received_us[one], rows.behind[one])[0]
        start += width
    return on_time


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
@pytest.mark.parametrize("seed", range(8))
def test_grid_lanes_in_passes_refuse_the_rows_that_the_definition_refuses(seed: int, size: int) -> None:
    rows, intervals_s = stream(seed)
    expected = by_definition(rows, intervals_s)
    target, _ = lanes(intervals_s)
    got = []
    for begin in range(0, len(rows.cell), size):
        part = GridRows(*(column[begin : begin + size] for column in rows))
        got.append(~target.late(part))
        target.step(part)
    assert np.array_equal(np.concatenate(got), expected)
    assert int(target.late_rows.sum()) == int((~expected).sum()) > 0


@pytest.mark.parametrize("seed", range(4))
def test_grid_lanes_give_the_same_frames_however_the_rows_are_cut(seed: int) -> None:
    rows, intervals_s = stream(seed)
    whole, kept = lanes(intervals_s)
    whole.step(rows)
    cut, pieces = lanes(intervals_s)
    for begin in range(0, len(rows.cell), 13):
        cut.step(GridRows(*(column[begin : begin + 13] for column in rows)))
    assert [k.seen for k in kept] == [k.seen for k in pieces]
    assert all(k.seen for k in kept)
    assert [whole.state(i) for i in range(3)] == [cut.state(i) for i in range(3)]


def test_grid_lanes_dead_channel_in_pure_history_is_given_up_after_a_day() -> None:
    target, keepers = lanes([300.0] * sum(WIDTHS))
    at = np.arange(0, 40 * HOUR_US, GRID_US)
    n = len(at)
    # the second lane: its first channel dies after an hour, the other two go on; all of it is history
    cell = np.concatenate((np.full(12, 1), np.full(n, 2), np.full(n, 3)))
    when = np.concatenate((at[:12], at, at))
    order = np.lexsort((cell, when))
    behind = np.ones(len(cell), bool)
    target.step(GridRows(cell[order], when[order], np.full(len(cell), 41 * HOUR_US), np.ones(len(cell)), behind))
    assert keepers[1].seen[-1][0] >= 14 * HOUR_US
    assert target.late_rows.sum() == 0


@pytest.mark.parametrize("seed", range(8))
def test_grid_lanes_long_batch_is_cut_and_judged_all_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, intervals_s = stream(seed)
    whole, kept = lanes(intervals_s)
    whole.step(rows)
    monkeypatch.setattr("detectors.grid.CUT_ROWS_MIN", 10)
    cut, pieces = lanes(intervals_s)
    assert len(cut._cuts(rows)) > 20
    cut.step(rows)
    assert [k.seen for k in kept] == [k.seen for k in pieces]
    assert [whole.state(i) for i in range(3)] == [cut.state(i) for i in range(3)]


@pytest.mark.parametrize("seed", range(4))
def test_grid_lanes_that_were_asked_for_late_rows_go_on_as_those_that_were_not(seed: int) -> None:
    rows, intervals_s = stream(seed)
    asked, plain = lanes(intervals_s)[0], lanes(intervals_s)[0]
    for begin in range(0, len(rows.cell), 100):
        part = GridRows(*(column[begin : begin + 100] for column in rows))
        # asked about these rows, about them with a flag that then changed, or about others: the step must take notice
        asked.late(part if begin % 300 else part._replace(behind=~part.behind))
        asked.step(part)
        plain.step(part)
    assert [asked.state(i) for i in range(3)] == [plain.state(i) for i in range(3)]
