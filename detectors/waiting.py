"""Rows that wait for their grid time: one pool for all channels, a chain of rows for each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detectors.contract import BoolArray, FloatArray, IntArray
from detectors.segments import Once, first_of_each

_FIRST_ROWS = 256


class Waiting(NamedTuple):
    """Rows as columns; inside one cell in order of arrival."""

    cell: IntArray
    at_us: IntArray
    value: FloatArray
    behind: BoolArray


class RowPool:
    """Hold rows of many cells; put in and taken out in numpy passes.

    Parameters
    ----------
    cells : int
        Number of cells (a channel of a lane is a cell).

    Notes
    -----
    Every cell has a chain through the pool, newest row first. Putting in costs one stable sort, taking out as many passes as the longest chain
    has rows. The pool doubles when it is full; 21 bytes a row.

    Examples
    --------
    >>> pool = RowPool(3)
    >>> pool.put(np.array([2, 0, 2]), np.array([10, 11, 12]), np.array([1.0, 2.0, 3.0]), np.zeros(3, bool))
    >>> rows = pool.take(np.array([2]))
    >>> rows.cell.tolist(), rows.at_us.tolist(), len(pool)
    ([2, 2], [10, 12], 1)
    """

    def __init__(self, cells: int) -> None:
        self._head = np.full(cells, -1, np.int32)
        self._once = Once(cells)
        self._next = np.empty(0, np.int32)
        self._at = np.empty(0, np.int64)
        self._value = np.empty(0, np.float64)
        self._behind = np.empty(0, np.bool_)
        self._free = np.empty(0, np.int32)
        self._free_count = 0

    def __len__(self) -> int:
        return len(self._at) - self._free_count

    def put(self, cell: IntArray, at_us: IntArray, value: FloatArray, behind: BoolArray) -> None:
        """Take rows in, in order of arrival."""
        n = len(cell)
        if not n:
            return
        while self._free_count < n:
            self._grow()
        self._free_count -= n
        place = self._free[self._free_count : self._free_count + n].copy()
        if self._once(cell):
            self._at[place], self._value[place], self._behind[place] = at_us, value, behind
            self._next[place] = self._head[cell]
            self._head[cell] = place
            return
        order = np.argsort(cell, kind="stable")
        cell = cell[order]
        self._at[place], self._value[place], self._behind[place] = at_us[order], value[order], behind[order]
        first = first_of_each(cell)
        chain = np.empty(n, np.int32)
        chain[1:] = place[:-1]
        chain[first] = self._head[cell[first]]
        self._next[place] = chain
        last = np.ones(n, np.bool_)
        last[:-1] = first[1:]
        self._head[cell[last]] = place[last]

    def take(self, cells: IntArray) -> Waiting:
        """Return all rows of `cells` and forget them."""
        cell, place = self._walk(cells)
        self._head[cells] = -1
        rows = Waiting(cell, self._at[place], self._value[place], self._behind[place])
        self._free[self._free_count : self._free_count + len(place)] = place
        self._free_count += len(place)
        return rows

    def look(self, cells: IntArray) -> Waiting:
        """Return all rows of `cells` by (cell, instant), the first of two with the same instant."""
        cell, place = self._walk(cells)
        at = self._at[place]
        order = np.lexsort((at, cell))
        cell, at, place = cell[order], at[order], place[order]
        keep = first_of_each(cell) | first_of_each(at)
        return Waiting(cell[keep], at[keep], self._value[place[keep]], self._behind[place[keep]])

    def _walk(self, cells: IntArray) -> tuple[IntArray, IntArray]:
        own, place = cells, self._head[cells]
        owners, places = [], []
        while True:
            there = place >= 0
            if not there.all():
                own, place = own[there], place[there]
            if not len(place):
                break
            owners.append(own)
            places.append(place)
            place = self._next[place]
        if not places:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        if len(places) == 1:
            return owners[0], places[0]
        return np.concatenate(owners[::-1]), np.concatenate(places[::-1])

    def _grow(self) -> None:
        old = len(self._at)
        more = max(old, _FIRST_ROWS)
        self._next = np.concatenate((self._next, np.empty(more, np.int32)))
        self._at = np.concatenate((self._at, np.empty(more, np.int64)))
        self._value = np.concatenate((self._value, np.empty(more, np.float64)))
        self._behind = np.concatenate((self._behind, np.empty(more, np.bool_)))
        free = np.empty(old + more, np.int32)
        free[: self._free_count] = self._free[: self._free_count]
        free[self._free_count : self._free_count + more] = np.arange(old + more - 1, old - 1, -1)
        self._free = free
        self._free_count += more
