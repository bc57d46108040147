"""Rows that wait for their grid time: one pool for all channels, a stretch of it for each, and a limit on the rows of a grid time.

The limit, row by row in order of arrival: an instant that its channel has waiting already is a duplicate and dropped; a row whose grid time has
room for no more rows of its channel is *crowded*, counted and dropped; any other is kept. The rows of a grid time leave the pool together, so a
full one stays full until it is judged. Which rows are kept therefore follows from the rows alone, however they are cut into batches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detectors.contract import NEVER_US, BoolArray, FloatArray, IntArray
from detectors.segments import Once, first_of_each, ranges

ROWS_A_SLOT_MAX = 64
"""Most rows that a channel has waiting for one grid time, unless it is registered to send more; see `rows_a_slot`."""
LANE_ROWS_MAX = 1 << 19
"""Most rows that wait in a lane (11 MB of state), as long as this gives every channel room for one row a grid time."""
_FIRST_ROWS = 256


def rows_a_slot(interval_us: IntArray, grid_us: int, slots: int) -> IntArray:
    """Return how many rows each channel of a lane may have waiting for one grid time, shape (c,).

    Parameters
    ----------
    interval_us : ndarray of int64, shape (c,)
        Nominal intervals of the channels, microseconds.
    grid_us : int
        Distance of grid times, microseconds.
    slots : int
        Most grid times that wait at the same time.

    Notes
    -----
    `ROWS_A_SLOT_MAX`, or what the channel is registered to send and one more where that is greater, but no more than an equal share of
    `LANE_ROWS_MAX`, and at least 1. So a lane holds ``max(LANE_ROWS_MAX, c * slots)`` rows at most.

    Examples
    --------
    >>> rows_a_slot(np.array([300_000_000, 1_000_000]), 300_000_000, 290).tolist()
    [64, 301]
    >>> rows_a_slot(np.full(100, 60_000_000), 300_000_000, 290).tolist()[:2]
    [18, 18]
    """
    share = LANE_ROWS_MAX // max(len(interval_us) * slots, 1)
    registered = grid_us // np.maximum(interval_us, 1) + 1
    return np.asarray(np.clip(np.maximum(registered, ROWS_A_SLOT_MAX), 1, max(share, 1)), np.int64)


class Waiting(NamedTuple):
    """Rows as columns."""

    cell: IntArray
    slot: IntArray
    at_us: IntArray
    value: FloatArray
    behind: BoolArray


class RowPool:
    """Hold rows of many cells; put in and taken out in numpy passes.

    Parameters
    ----------
    most : ndarray of int64, shape (c,)
        Most rows of one grid time, for each cell (a channel of a lane is a cell).

    Notes
    -----
    The rows of a cell stand one after the other in a stretch of the pool. A stretch that is full moves to the end of the pool and gets half as much
    room again; when the end is reached, the pool is packed into one twice as long. Everything costs a few passes over the rows in question. Rows
    that come in order (newer than all of their cell) need no look at those that wait; a cell with others costs a sort of its rows from their grid
    times on.
    25 bytes a row and 36 a cell.

    Examples
    --------
    >>> pool, no = RowPool(np.array([2, 2, 2])), np.zeros(3, bool)
    >>> pool.put(np.array([2, 0, 2]), np.array([1, 1, 1]), np.array([10, 11, 12]), np.array([1.0, 2.0, 3.0]), no).tolist()
    []
    >>> pool.put(np.array([2, 2]), np.array([1, 1]), np.array([10, 13]), np.array([1.0, 4.0]), no[:2]).tolist()
    [2]
    >>> rows = pool.take(np.array([2]), np.array([1]))
    >>> rows.cell.tolist(), rows.at_us.tolist(), len(pool)
    ([2, 2], [10, 12], 1)
    """

    def __init__(self, most: IntArray) -> None:
        cells = len(most)
        self._most = most
        self._begin = np.zeros(cells, np.int64)
        self._count = np.zeros(cells, np.int32)
        self._room = np.zeros(cells, np.int32)
        # the newest row that was kept, and how many rows its grid time has
        self._top_at = np.full(cells, NEVER_US, np.int64)
        self._top_slot = np.full(cells, NEVER_US, np.int64)
        self._top_count = np.zeros(cells, np.int32)
        self._once = Once(cells)
        self._slot = np.empty(0, np.int64)
        self._at = np.empty(0, np.int64)
        self._value = np.empty(0, np.float64)
        self._behind = np.empty(0, np.bool_)
        self._end = 0
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def put(self, cell: IntArray, slot: IntArray, at_us: IntArray, value: FloatArray, behind: BoolArray) -> IntArray:
        """Take rows in; return the cell of every crowded row.

        Parameters
        ----------
        cell, slot, at_us, value, behind : ndarray, shape (n,)
            In order of arrival. `slot` is the number of the grid time, which grows with the instant; none that was taken out comes again.
        """
        n = len(cell)
        if not n:
            return np.empty(0, np.int64)
        if self._once(cell):
            first = np.ones(n, np.bool_)
            in_order = at_us > self._top_at[cell]
        else:
            order = np.argsort(cell, kind="stable")
            cell, slot, at_us, value, behind = cell[order], slot[order], at_us[order], value[order], behind[order]
            first = first_of_each(cell)
            in_order = np.empty(n, np.bool_)
            np.greater(at_us[1:], at_us[:-1], out=in_order[1:])
            in_order[first] = at_us[first] > self._top_at[cell[first]]
        if in_order.all():
            keep = self._sort_ascending(cell, slot, at_us, first)
            if keep.all():
                self._append(cell, slot, at_us, value, behind, first)
                return np.empty(0, np.int64)
            full = ~keep
        else:
            begin = np.flatnonzero(first)
            odd = np.repeat(np.logical_or.reduceat(~in_order, begin), np.diff(np.append(begin, n)))
            even = ~odd
            keep, full = np.empty(n, np.bool_), np.empty(n, np.bool_)
            keep[even] = self._sort_ascending(cell[even], slot[even], at_us[even], first[even])
            full[even] = ~keep[even]
            keep[odd], full[odd] = self._sort_any(cell[odd], slot[odd], at_us[odd])
        if keep.any():
            kept = cell[keep]
            # without a sort every cell is there once, whatever the order
            self._append(kept, slot[keep], at_us[keep], value[keep], behind[keep], first_of_each(kept))
        return cell[full]

    def take(self, cells: IntArray, until: IntArray) -> Waiting:
        """Return the rows of the grid times up to number `until` of each of `cells`, and forget them; inside one cell in order of arrival."""
        there = self._count[cells] > 0
        if not there.all():
            cells, until = cells[there], until[there]
        count = self._count[cells]
        place, own = self._places(cells)
        slot = self._slot[place]
        due = slot <= (until if len(place) == len(cells) else np.repeat(until, count))
        self._rows -= int(due.sum())
        if due.all():
            self._count[cells] = 0
            return Waiting(own, slot, self._at[place], self._value[place], self._behind[place])
        gone = place[due]
        rows = Waiting(own[due], slot[due], self._at[gone], self._value[gone], self._behind[gone])
        rest = ~due
        left = np.add.reduceat(rest, np.cumsum(count) - count, dtype=np.int32)
        self._copy(place[rest], ranges(self._begin[cells], left))
        self._count[cells] = left
        return rows

    def forget(self, cells: IntArray) -> None:
        """Drop all rows of `cells`."""
        self._rows -= int(self._count[cells].sum())
        self._count[cells] = 0
        self._top_at[cells] = self._top_slot[cells] = NEVER_US

    def look(self, cells: IntArray) -> Waiting:
        """Return all rows of `cells` (ascending) by (cell, instant)."""
        place, cell = self._places(cells)
        at = self._at[place]
        if ((at[1:] <= at[:-1]) & (cell[1:] == cell[:-1])).any():
            order = np.lexsort((at, cell))
            place, at = place[order], at[order]
        return Waiting(cell, self._slot[place], at, self._value[place], self._behind[place])

    def _places(self, cells: IntArray) -> tuple[IntArray, IntArray]:
        """Return (place, cell) of all rows of `cells`, cell by cell in order of arrival."""
        count = self._count[cells]
        if (count == 1).all():
            return self._begin[cells], cells
        return ranges(self._begin[cells], count), np.repeat(cells, count)

    def _copy(self, old: IntArray, new: IntArray) -> None:
        """Copy rows from places to places."""
        for column in (self._slot, self._at, self._value, self._behind):
            column[new] = column[old]

    def _sort_ascending(self, cell: IntArray, slot: IntArray, at_us: IntArray, first: BoolArray) -> BoolArray:
        """Return which rows have room, for cells whose rows ascend from the newest that waits on; note the newest of each."""
        rank = np.where(slot == self._top_slot[cell], self._top_count[cell], 0)
        if not first.all():
            rank = rank + _rank(first | first_of_each(slot))
        keep = np.asarray(rank < self._most[cell], np.bool_)
        if not keep.all():
            cell, slot, at_us, rank = cell[keep], slot[keep], at_us[keep], rank[keep]
        # ascending, so what is written last is the newest
        self._top_at[cell], self._top_slot[cell], self._top_count[cell] = at_us, slot, rank + 1
        return keep

    def _sort_any(self, cell: IntArray, slot: IntArray, at_us: IntArray) -> tuple[BoolArray, BoolArray]:
        """Return (rows to keep, crowded rows) for cells with rows in any order, cell by cell in order of arrival; note the newest of each."""
        n = len(cell)
        begin = np.flatnonzero(first_of_each(cell))
        cells = cell[begin]
        place, own = self._places(cells)
        near = self._slot[place] >= np.repeat(np.minimum.reduceat(slot, begin), self._count[cells])
        place = place[near]
        # those that wait come before those that arrive
        cell, at_us, slot = np.append(own[near], cell), np.append(self._at[place], at_us), np.append(self._slot[place], slot)
        by_instant = np.lexsort((at_us, cell))
        head = first_of_each(cell[by_instant]) | first_of_each(at_us[by_instant])
        original = np.empty(len(cell), np.int64)
        original[by_instant] = by_instant[head][np.cumsum(head) - 1]
        heads = np.flatnonzero(original == np.arange(len(cell)))
        by_slot = heads[np.lexsort((slot[heads], cell[heads]))]
        rank = _rank(first_of_each(cell[by_slot]) | first_of_each(slot[by_slot]))
        keep = np.zeros(len(cell), np.bool_)
        keep[by_slot] = rank < self._most[cell[by_slot]]
        kept = by_instant[keep[by_instant]]
        self._top_at[cell[kept]], self._top_slot[cell[kept]] = at_us[kept], slot[kept]
        self._top_count[cell[kept]] = _rank(first_of_each(cell[kept]) | first_of_each(slot[kept])) + 1
        return keep[-n:], ~keep[original[-n:]]

    def _append(self, cell: IntArray, slot: IntArray, at_us: IntArray, value: FloatArray, behind: BoolArray, first: BoolArray) -> None:
        """Write rows at the end of the stretches of their cells; `first` is where the next cell begins."""
        if once := bool(first.all()):
            cells, count = cell, self._count[cell]
            need = count + np.int32(1)
        else:
            begin = np.flatnonzero(first)
            cells, more = cell[begin], np.diff(np.append(begin, len(cell)))
            need, count = self._count[cells] + more, self._count[cell]
        short = need > self._room[cells]
        if short.any():
            self._move(cells, need, short)
        place = self._begin[cell] + count
        if not once:
            place += _rank(first)
        self._slot[place], self._at[place], self._value[place], self._behind[place] = slot, at_us, value, behind
        self._count[cells] = need
        self._rows += len(cell)

    def _move(self, cells: IntArray, need: IntArray, short: BoolArray) -> None:
        """Give those of `cells` that are `short` of room new stretches at the end of the pool, with room for `need` rows and half as many."""
        moved, room = cells[short], need[short]
        room = room + room // 2
        total = int(room.sum())
        if self._end + total > len(self._at):
            self._pack(cells, need)
            return
        begin = self._end + np.cumsum(room) - room
        count = self._count[moved]
        self._copy(ranges(self._begin[moved], count), ranges(begin, count))
        self._begin[moved], self._room[moved] = begin, room
        self._end += total

    def _pack(self, cells: IntArray, need: IntArray) -> None:
        """Copy all stretches into a new pool, with room for `need` rows of `cells` and half as many; stretches without rows are given up."""
        room = self._count.copy()
        room[cells] = need
        room += room // 2
        begin = np.cumsum(room, dtype=np.int64) - room
        full = np.flatnonzero(self._count)
        old, new = ranges(self._begin[full], self._count[full]), ranges(begin[full], self._count[full])
        self._end = int(room.sum())
        for name in ("_slot", "_at", "_value", "_behind"):
            column = getattr(self, name)
            packed = np.empty(max(2 * self._end, _FIRST_ROWS), column.dtype)
            packed[new] = column[old]
            setattr(self, name, packed)
        self._begin, self._room = begin, room


def _rank(first: BoolArray) -> IntArray:
    """Return the number of every row inside its group, from 0 on; `first` is where a group begins.

    Examples
    --------
    >>> _rank(np.array([True, False, False, True])).tolist()
    [0, 1, 2, 0]
    """
    begin = np.flatnonzero(first)
    return np.asarray(np.arange(len(first)) - np.repeat(begin, np.diff(np.append(begin, len(first)))), np.int64)
