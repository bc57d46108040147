"""A value that stands still carries no news: rows of a stuck sensor become gaps before a process detector judges them."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectors.contract import FloatArray, IntArray

LOG_CHANCE_MAX = float(np.log(1e-6))
RUN_FACTOR = 2


class StandingGuard:
    """Turn readings of columns that repeat one value for too long into NaN.

    Parameters
    ----------
    width : int
        Number of columns.
    run_min : int
        Repetitions that are always let through.

    Notes
    -----
    A column stands when it has repeated its value more often than ``max(run_min, 2 L)`` times, L its longest run that ended, and a run of that
    length has a chance below 1e-6 given the share of repetitions so far. Zero is let through: a closed valve reads zero. A column that never moved
    never stands, and one that often stands soon stands rightly: the guard may err for a while, it cannot blind a detector for good. Only the
    process detectors are protected here; `detectors.sensor.flat_line` is who tells people. Cost some fifteen passes, state 5 numbers a column.

    Examples
    --------
    >>> guard, rng = StandingGuard(1, 3), np.random.default_rng(1)
    >>> for value in rng.normal(50, 3, 100):
    ...     _ = guard(np.array([value]))
    >>> [bool(np.isnan(guard(np.array([47.1]))[0])) for _ in range(6)]
    [False, False, False, False, False, True]
    """

    def __init__(self, width: int, run_min: int) -> None:
        self.run_min = run_min
        self.last = np.full(width, np.nan)
        self.run = np.zeros(width)
        self.longest = np.zeros(width)
        self.moves = np.zeros(width)
        self.repeats = np.zeros(width)

    def __call__(self, row: FloatArray, index: IntArray | slice = slice(None)) -> FloatArray:
        """Return `row` with standing columns as NaN; `index` says which columns it holds, all of them when left out."""
        last, run, repeats, moves = self.last[index], self.run[index], self.repeats[index], self.moves[index]
        there = np.isfinite(row)
        same = row == last
        moved = there & ~same
        self.last[index] = np.where(there, row, last)
        run = run + same
        stands = same & (run > np.maximum(self.run_min, RUN_FACTOR * self.longest[index])) & (row != 0.0)
        if stands.any():
            share = (repeats + 1.0) / (repeats + moves + 2.0)
            stands &= run * np.log(share) < LOG_CHANCE_MAX
            row = np.where(stands, np.nan, row)
        self.longest[index] = np.where(moved, np.maximum(run, self.longest[index]), self.longest[index])
        self.run[index] = np.where(moved, 0.0, run)
        self.moves[index] = moves + moved
        self.repeats[index] = repeats + same
        return row

    def state(self, part: slice = slice(None)) -> dict[str, object]:
        """Return the counts of all columns, or of a part of them."""
        return {name: getattr(self, name)[part] for name in _FIELDS}

    def restore(self, state: dict[str, Any], part: slice = slice(None)) -> None:
        """Take back what `state` returned."""
        for name in _FIELDS:
            getattr(self, name)[part] = state[name]


_FIELDS = ("last", "run", "longest", "moves", "repeats")
