"""Grid lanes of many detectors at once: instants, watermarks and waiting rows as arrays over all channels of all lanes with one grid.

When a grid time is judged is written in `detectors.lanes`, row by row. Here the same is reached in passes over the rows of a batch:

- A channel that is waited for at the first and at the last row of the batch is waited for all the time, for everything that decides about it only
  grows; so it is with one that is waited for at neither end. Then the watermark after the batch is one minimum a lane.
- A row whose grid time was judged before the batch is late. One beyond what its own channel covered before it came is on time, for the watermark
  never passes a channel that is waited for.

Lanes with a row or a channel for which that says nothing (a dead channel just now given up, a duplicate, a straggler) are followed row by row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from detectors.contract import (
    NEVER_US,
    BankOutput,
    BoolArray,
    FleetDetector,
    FloatArray,
    FrameDetector,
    Frames,
    IntArray,
    Operated,
    merge_outputs,
)
from detectors.operations import Operations, Told
from detectors.segments import Once, first_of_each, newest_before, ranges
from detectors.snapshot import pack, unpack
from detectors.waiting import RowPool, Waiting, rows_a_slot
from underway.model import HOUR_US, MINUTE_US, Channel, Hold, Operation

STALL_LIVE_US = 15 * MINUTE_US
STALL_HISTORY_US = 24 * HOUR_US
TABLE_CELLS_MAX = 1 << 21
"""Most cells (rows times channels) that are followed row by row at once."""
CUT_US = 10 * MINUTE_US
CUT_ROWS_MIN = 500
_FAR_US = 2**62


class GridRows(NamedTuple):
    """Rows for grid lanes, in order of arrival; a cell is a channel of a lane."""

    cell: IntArray
    at_us: IntArray
    received_us: IntArray
    value: FloatArray
    behind: BoolArray


@dataclass(slots=True)
class _Verdict:
    """What a batch would do: which rows are on time, and what becomes of the lanes that it touches."""

    lanes: IntArray
    lane_of_row: IntArray
    cells: IntArray
    on_time: BoolArray
    bucket: IntArray
    newest_us: IntArray
    received_us: IntArray
    live_us: IntArray
    any_us: IntArray
    clock_us: IntArray
    closed: IntArray


class GridLanes:
    """Feed the detectors that share one grid.

    Parameters
    ----------
    grid_us : int
        Distance of grid times, microseconds.
    lanes : sequence of (FrameDetector, channels)
        Channels in the order of the detector's ``channel_ids``.

    Notes
    -----
    Cost: some thirty passes over the rows and over the channels of the lanes that a batch touches; row by row only where the module's text says so.
    State: 24 bytes a channel, and the rows of grid times that are not judged yet (24 h at most while history comes in, 20 min while live), 21 bytes
    each. Of one grid time a channel has `detectors.waiting.rows_a_slot` rows at most, the first that came, and a lane `LANE_ROWS_MAX` in all or one
    a channel and grid time; what is beyond is counted in `crowded_rows` and not judged. It moves the watermark as every row does.
    """

    def __init__(self, grid_us: int, lanes: Sequence[tuple[FrameDetector, Sequence[Channel]]]) -> None:
        self.grid_us, self.half_us = grid_us, grid_us // 2
        self.detectors = tuple(detector for detector, _ in lanes)
        self.width = np.array([len(channels) for _, channels in lanes], np.int64)
        self.start = np.cumsum(self.width) - self.width
        cells = int(self.width.sum())
        self.lane_of_cell = np.repeat(np.arange(len(lanes)), self.width)
        self.interval_us = np.array([round(c.interval_s * 1e6) for _, channels in lanes for c in channels], np.int64)
        self.newest_us = np.full(cells, NEVER_US, np.int64)
        self.received_us = np.full(cells, NEVER_US, np.int64)
        self.live_us = np.full(len(lanes), NEVER_US, np.int64)
        self.any_us = np.full(len(lanes), NEVER_US, np.int64)
        self.clock_us = np.full(len(lanes), NEVER_US, np.int64)
        self.closed = np.full(len(lanes), NEVER_US, np.int64)
        self.late_rows = np.zeros(len(lanes), np.int64)
        self.crowded_rows = np.zeros(len(lanes), np.int64)
        # the watermark is 24 h behind the newest reading at most, its bucket and the newest one may have begun
        slots = STALL_HISTORY_US // grid_us + 2
        shares = [rows_a_slot(self.interval_us[a : a + n], grid_us, slots) for a, n in zip(self.start, self.width, strict=True)]
        self._pool = RowPool(np.concatenate(shares) if shares else np.empty(0, np.int64))
        self._once = Once(cells)
        # what `late` has worked out, for the step that follows with the same rows
        self._looked: tuple[GridRows, _Verdict] | None = None
        self._place = np.zeros(len(lanes), np.int64)
        self._operations = tuple(Operations() for _ in lanes)
        fleets = dict.fromkeys(d.fleet for d in map(_as_fleet, self.detectors) if d is not None)
        self._fleets = tuple(fleets)
        number = {fleet: i for i, fleet in enumerate(self._fleets)}
        self._fleet_of = np.array([-1 if (d := _as_fleet(x)) is None else number[d.fleet] for x in self.detectors], np.int64)
        self._number = np.array([0 if (d := _as_fleet(x)) is None else d.number for x in self.detectors], np.int64)

    # -- rows -----------------------------------------------------------------------------------------------------------------

    def step(self, rows: GridRows) -> BankOutput:
        """Take rows, judge what can be judged now."""
        edges = self._cuts(rows)
        if len(edges) > 2:
            pieces = (slice(a, b) for a, b in itertools.pairwise(edges))
            cell, at, received, value, behind = rows
            return merge_outputs([self._step(GridRows(cell[p], at[p], received[p], value[p], behind[p])) for p in pieces])
        return self._step(rows)

    def _cuts(self, rows: GridRows) -> list[int]:
        """Return where to cut a long batch: a channel is surely waited for only while the batch spans less than the stall."""
        n = len(rows.cell)
        if n < 2 * CUT_ROWS_MIN or int(rows.at_us[-1]) - int(rows.at_us[0]) < CUT_US or rows.behind.all():
            return [0, n]
        newest = np.maximum.accumulate(rows.at_us)
        edges = np.flatnonzero(np.diff((newest - newest[0]) // CUT_US)) + 1
        return [0, *edges.tolist(), n] if len(edges) * CUT_ROWS_MIN <= n else [0, n]

    def _step(self, rows: GridRows) -> BankOutput:
        if not len(rows.cell):
            return merge_outputs(())
        looked, self._looked = self._looked, None
        v = looked[1] if looked is not None and _same(looked[0], rows) else self._look(rows)
        lanes = v.lanes
        late = ~v.on_time
        if late.any():
            self.late_rows += np.bincount(lanes[v.lane_of_row[late]], minlength=len(self.width))
            keep = v.on_time
            self._put(rows.cell[keep], v.bucket[keep], rows.at_us[keep], rows.value[keep], rows.behind[keep])
        else:
            self._put(rows.cell, v.bucket, rows.at_us, rows.value, rows.behind)
        self.newest_us[v.cells], self.received_us[v.cells] = v.newest_us, v.received_us
        self.live_us[lanes], self.any_us[lanes], self.clock_us[lanes] = v.live_us, v.any_us, v.clock_us
        moved = lanes[v.closed > self.closed[lanes]]
        self.closed[lanes] = v.closed
        return self._judge(moved) if len(moved) and len(self._pool) else merge_outputs(())

    def _put(self, cell: IntArray, bucket: IntArray, at: IntArray, value: FloatArray, behind: BoolArray) -> None:
        crowded = self._pool.put(cell, bucket, at, value, behind)
        if len(crowded):
            self.crowded_rows += np.bincount(self.lane_of_cell[crowded], minlength=len(self.width))

    def late(self, rows: GridRows) -> BoolArray:
        """Return which rows `step` would refuse because their grid time is judged; changes nothing."""
        if not len(rows.cell):
            return np.zeros(0, np.bool_)
        verdict = self._look(rows)
        self._looked = (rows, verdict)
        return ~verdict.on_time

    def _look(self, rows: GridRows) -> _Verdict:
        """Return what `rows` would do, without doing it."""
        cell, at, received, behind = rows.cell, rows.at_us, rows.received_us, rows.behind
        n = len(cell)
        lane = self.lane_of_cell[cell]
        touched = np.zeros(len(self.width), np.bool_)
        touched[lane] = True
        lanes = np.flatnonzero(touched)
        self._place[lanes] = np.arange(len(lanes))
        mine = self._place[lane]
        width = self.width[lanes]
        cells = ranges(self.start[lanes], width)
        offset = np.cumsum(width) - width
        of_cell = np.repeat(np.arange(len(lanes)), width)
        own = offset[mine] + (cell - self.start[lane])
        interval = self.interval_us[cells]
        newest, heard = self.newest_us[cells], self.received_us[cells]
        live, seen, clock, closed = self.live_us[lanes], self.any_us[lanes], self.clock_us[lanes], self.closed[lanes]
        new = seen == NEVER_US
        if new.any():
            # channels never seen are waited for from the first reading of their lane on
            first = np.empty(len(lanes), np.int64)
            first[mine[::-1]] = np.arange(n - 1, -1, -1)
            fresh = new[of_cell]
            newest = np.where(fresh, at[first][of_cell] - interval, newest)
            heard = np.where(fresh, received[first][of_cell], heard)
            clock = np.where(new, received[first], clock)
        live_end, seen_end, clock_end = live.copy(), seen.copy(), clock.copy()
        if behind.any():
            np.maximum.at(live_end, mine, np.where(behind, NEVER_US, at))
        else:
            np.maximum.at(live_end, mine, at)
        np.maximum.at(seen_end, mine, at)
        np.maximum.at(clock_end, mine, received)
        newest_end, heard_end = newest.copy(), heard.copy()
        np.maximum.at(newest_end, own, at)
        np.maximum.at(heard_end, own, received)
        cover, cover_end = newest + interval, newest_end + interval
        always = cover >= np.maximum(live_end - STALL_LIVE_US, seen_end - STALL_HISTORY_US)[of_cell]
        slow = np.zeros(len(lanes), np.bool_)
        if not always.all():
            always |= (heard + interval >= (clock_end - STALL_LIVE_US)[of_cell]) & (cover >= (seen_end - STALL_HISTORY_US)[of_cell])
            never = cover_end < (live - STALL_LIVE_US)[of_cell]
            never &= heard_end + interval < (clock - STALL_LIVE_US)[of_cell]
            never |= cover_end < (seen - STALL_HISTORY_US)[of_cell]
            slow[of_cell[~(always | never)]] = True
        watermark = np.minimum.reduceat(np.where(always, cover_end, _FAR_US), offset)
        watermark = np.where(watermark == _FAR_US, NEVER_US, watermark)
        closed_end = np.maximum(closed, (watermark - self.half_us) // self.grid_us)
        bucket = (at + self.half_us) // self.grid_us
        on_time = bucket > closed_end[mine]
        if not on_time.all():
            before = newest[own]
            if not self._once(cell):
                order = np.argsort(own, kind="stable")
                before[order] = np.maximum(before[order], newest_before(first_of_each(own[order]), at[order]))
            bound = (before + interval[own] - self.half_us) // self.grid_us
            judged = bucket <= closed[mine]
            sure = always[own] & (bucket > bound) & ~judged
            unclear = ~(on_time | judged | sure)
            on_time |= sure
            if unclear.any():
                slow[mine[unclear]] = True
        verdict = _Verdict(lanes, mine, cells, on_time, bucket, newest_end, heard_end, live_end, seen_end, clock_end, closed_end)
        if slow.any():
            self._follow(rows, verdict, np.flatnonzero(slow), offset, own, (newest, heard, live, seen, clock, closed))
        return verdict

    def _follow(
        self, rows: GridRows, verdict: _Verdict, slow: IntArray, offset: IntArray, own: IntArray, begin: Sequence[IntArray]
    ) -> None:
        """Go through the rows of a few lanes one after the other."""
        newest, heard, live, seen, clock, closed = begin
        order = np.argsort(verdict.lane_of_row, kind="stable")
        edges = np.searchsorted(verdict.lane_of_row[order], np.stack((slow, slow + 1)))
        for i, start, end in zip(slow.tolist(), edges[0].tolist(), edges[1].tolist(), strict=True):
            index = order[start:end]
            a, b = int(offset[i]), int(offset[i] + self.width[verdict.lanes[i]])
            follower = _Follower(
                self.grid_us, self.interval_us[verdict.cells[a:b]], newest[a:b], heard[a:b], live[i], seen[i], clock[i], closed[i]
            )
            chunk = max(TABLE_CELLS_MAX // (b - a), 1)
            for first in range(0, len(index), chunk):
                part = index[first : first + chunk]
                verdict.on_time[part] = follower.follow(own[part] - a, rows.at_us[part], rows.received_us[part], rows.behind[part])
            verdict.closed[i] = follower.closed

    # -- grid times -----------------------------------------------------------------------------------------------------------

    def _judge(self, moved: IntArray) -> BankOutput:
        """Make the frames of the grid times that are due in lanes whose watermark moved, and have them judged."""
        cells = ranges(self.start[moved], self.width[moved])
        cell, bucket, at, value, behind = self._pool.take(cells, self.closed[self.lane_of_cell[cells]])
        if not len(cell):
            return merge_outputs(())
        lane = self.lane_of_cell[cell]
        left_out = self._left_out(lane, bucket * self.grid_us)
        if left_out.any():
            keep = ~left_out
            cell, bucket, at, value, behind, lane = cell[keep], bucket[keep], at[keep], value[keep], behind[keep], lane[keep]
            if not len(cell):
                return merge_outputs(())
        low = int(bucket.min())
        span = int(bucket.max()) - low + 1
        frame_key = lane * span + (bucket - low)
        if not ((frame_key[1:] >= frame_key[:-1]).all() and (cell[1:] > cell[:-1]).all()):
            order = np.lexsort((at, cell, frame_key))
            cell, value, behind, frame_key = cell[order], value[order], behind[order], frame_key[order]
        first = first_of_each(frame_key)
        frame = np.cumsum(first) - 1
        frame_lane, frame_at = np.divmod(frame_key[first], span)
        frame_at = (frame_at + low) * self.grid_us
        width = self.width[frame_lane]
        offset = np.cumsum(width) - width
        place = offset[frame] + (cell - self.start[frame_lane][frame])
        size = int(width.sum())
        count = np.bincount(place, minlength=size)
        total = np.bincount(place, weights=value, minlength=size)
        mean = np.full(size, np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        historical = np.zeros(len(frame_lane), np.bool_)
        historical[frame[behind]] = True
        return self._feed(frame_lane, frame_at, historical, offset, mean)

    def _left_out(self, lane: IntArray, at_us: IntArray) -> BoolArray:
        """Return which rows lie in a known operation: for the detector it is as if nothing had come."""
        left_out = np.zeros(len(lane), np.bool_)
        for i, operations in enumerate(self._operations):
            if operations:
                mine = np.flatnonzero(lane == i)
                left_out[mine] = operations.cover(at_us[mine])
        return left_out

    def _feed(self, lane: IntArray, at: IntArray, historical: BoolArray, offset: IntArray, value: FloatArray) -> BankOutput:
        outputs: list[BankOutput] = []
        fleet_of = self._fleet_of[lane]
        for number, fleet in enumerate(self._fleets):
            mine = np.flatnonzero(fleet_of == number)
            if not len(mine):
                continue
            # the next grid time of every zone at once, then the one after that
            first = np.flatnonzero(first_of_each(lane[mine]))
            turn = np.arange(len(mine)) - np.repeat(first, np.diff(np.append(first, len(mine))))
            turns = int(turn.max()) + 1
            order = mine if turns == 1 else mine[np.argsort(turn, kind="stable")]
            edges = np.append(0, np.cumsum(np.bincount(turn)))
            for i in range(turns):
                now = order[edges[i] : edges[i + 1]]
                values = value if len(now) == len(lane) else value[ranges(offset[now], self.width[lane[now]])]
                outputs.append(fleet.step(self._number[lane[now]], at[now], values, historical[now]))
        alone = np.flatnonzero(fleet_of < 0)
        if len(alone):
            first = np.flatnonzero(first_of_each(lane[alone]))
            for a, b in zip(first.tolist(), [*first[1:].tolist(), len(alone)], strict=True):
                now, j = alone[a:b], int(lane[alone[a]])
                width = int(self.width[j])
                begin = int(offset[now[0]])
                frames = Frames(at[now], value[begin : begin + len(now) * width].reshape(-1, width), historical[now])
                outputs.append(self.detectors[j].step(frames))
        return merge_outputs(outputs)

    # -- lanes ----------------------------------------------------------------------------------------------------------------

    def hold(self, lane: int, hold: Hold) -> None:
        """Pass a hold on to a detector that it covers."""
        if self.detectors[lane].covers(hold):
            self.detectors[lane].hold(hold)

    def operate(self, lane: int, operation: Operation) -> None:
        """Take a known operation in, or its withdrawal, where it disturbs what the detector watches."""
        detector = _as_operated(self.detectors[lane])
        if detector is None or not detector.touched_by(operation):
            return
        if self._operations[lane].tell(operation, self._judged_us(lane)) is Told.LATE:
            detector.told_late(operation)

    @property
    def crowded_operations(self) -> int:
        """Return how often an operation found no room since the start, over all lanes."""
        return sum(operations.crowded for operations in self._operations)

    def _judged_us(self, lane: int) -> int:
        return NEVER_US if self.closed[lane] == NEVER_US else int(self.closed[lane]) * self.grid_us

    def state(self, lane: int) -> bytes:
        """Return the state of one lane and of its detector."""
        a = int(self.start[lane])
        b = a + int(self.width[lane])
        rows = self._pool.look(np.arange(a, b))
        return pack(
            {
                "newest": self.newest_us[a:b],
                "received": self.received_us[a:b],
                "live": int(self.live_us[lane]),
                "any": int(self.any_us[lane]),
                "clock": int(self.clock_us[lane]),
                "closed": int(self.closed[lane]),
                "late": int(self.late_rows[lane]),
                "crowded": int(self.crowded_rows[lane]),
                "column": (rows.cell - a).astype(np.int32),
                "at": rows.at_us,
                "value": rows.value,
                "behind": rows.behind,
                "operations": self._operations[lane].state(self._judged_us(lane)),
                "detector": self.detectors[lane].state(),
            }
        )

    def restore(self, lane: int, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        self._looked = None
        a = int(self.start[lane])
        b = a + int(self.width[lane])
        self.newest_us[a:b], self.received_us[a:b] = s["newest"], s["received"]
        self.live_us[lane], self.any_us[lane], self.clock_us[lane] = s["live"], s["any"], s["clock"]
        self.closed[lane], self.late_rows[lane] = s["closed"], s["late"]
        # a state without the count was saved before there was a limit: it may hold more rows than there is room for
        self.crowded_rows[lane] = s.get("crowded", 0)
        self._pool.forget(np.arange(a, b))
        self._put(s["column"].astype(np.int64) + a, (s["at"] + self.half_us) // self.grid_us, s["at"], s["value"], s["behind"])
        # a state without operations was saved before there were any
        self._operations[lane].restore(s.get("operations", []))
        self.detectors[lane].restore(s["detector"])


def _same(one: GridRows, other: GridRows) -> bool:
    """Return whether rows are the same in everything that the watermark depends on."""
    pairs = ((one.cell, other.cell), (one.at_us, other.at_us), (one.received_us, other.received_us), (one.behind, other.behind))
    return all(a is b or np.array_equal(a, b) for a, b in pairs)


class _Follower:
    """One lane, row by row (as a table of rows and channels): the definition of the watermark, and what the passes must agree with."""

    def __init__(
        self,
        grid_us: int,
        interval_us: IntArray,
        newest_us: IntArray,
        received_us: IntArray,
        live_us: int,
        any_us: int,
        clock_us: int,
        closed: int,
    ) -> None:
        self.grid_us, self.interval_us = grid_us, interval_us
        self.newest_us, self.received_us = newest_us, received_us
        self.live_us, self.any_us, self.clock_us, self.closed = int(live_us), int(any_us), int(clock_us), int(closed)

    def follow(self, column: IntArray, at: IntArray, received: IntArray, behind: BoolArray) -> BoolArray:
        """Take rows; return which are on time."""
        half = self.grid_us // 2
        newest = _running(self.newest_us, column, at)
        live = np.maximum(np.maximum.accumulate(np.where(behind, NEVER_US, at)), self.live_us)
        seen = np.maximum(np.maximum.accumulate(at), self.any_us)
        clock = np.maximum(np.maximum.accumulate(received), self.clock_us)
        cover = newest + self.interval_us
        heard = _running(self.received_us, column, received)
        waited_for = cover >= live[:, None] - STALL_LIVE_US
        waited_for |= heard + self.interval_us >= clock[:, None] - STALL_LIVE_US
        waited_for &= cover >= seen[:, None] - STALL_HISTORY_US
        watermark = np.where(waited_for, cover, _FAR_US).min(axis=1)
        watermark = np.where(waited_for.any(axis=1), watermark, NEVER_US)
        closed = np.maximum(np.maximum.accumulate((watermark - half) // self.grid_us), self.closed)
        before = np.append(self.closed, closed[:-1])
        self.newest_us, self.received_us = newest[-1], heard[-1]
        self.live_us, self.any_us, self.clock_us, self.closed = int(live[-1]), int(seen[-1]), int(clock[-1]), int(closed[-1])
        return np.asarray((at + half) // self.grid_us > before, np.bool_)


def _running(before: IntArray, column: IntArray, instant: IntArray) -> IntArray:
    """Return the newest instant of every column after each row, shape (rows, columns)."""
    table = np.full((len(column) + 1, len(before)), NEVER_US, np.int64)
    table[0] = before
    table[np.arange(1, len(column) + 1), column] = instant
    return np.asarray(np.maximum.accumulate(table, axis=0)[1:], np.int64)


def _as_fleet(detector: FrameDetector) -> FleetDetector | None:
    return cast("FleetDetector", detector) if hasattr(detector, "fleet") else None


def _as_operated(detector: FrameDetector) -> Operated | None:
    return cast("Operated", detector) if hasattr(detector, "touched_by") else None


__all__ = ["STALL_HISTORY_US", "STALL_LIVE_US", "GridLanes", "GridRows", "Waiting"]
