"""A value that stands still carries no news: rows of a stuck sensor become gaps before a process detector judges them."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectors.contract import FloatArray

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
    process detectors are protected here; `detectors.sensor.flat_line` is who tells people. Cost about 10 us a row, state 4 numbers a column.

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

    def __call__(self, row: FloatArray) -> FloatArray:
        """Return `row`, shape (width,), with standing columns as NaN."""
        there = np.isfinite(row)
        same = there & (row == self.last)
        moved = there & ~same
        self.last = np.where(there, row, self.last)
        self.run += same
        share = (self.repeats + 1.0) / (self.repeats + self.moves + 2.0)
        stands = (
            same
            & (self.run > np.maximum(self.run_min, RUN_FACTOR * self.longest))
            & (self.run * np.log(share) < LOG_CHANCE_MAX)
            & (row != 0.0)
        )
        self.longest = np.where(moved, np.maximum(self.run, self.longest), self.longest)
        self.run = np.where(moved, 0.0, self.run)
        self.moves += moved
        self.repeats += same
        return np.where(stands, np.nan, row)

    def state(self) -> dict[str, object]:
        """Return the counts."""
        return {name: getattr(self, name) for name in _FIELDS}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        for name in _FIELDS:
            setattr(self, name, state[name])


_FIELDS = ("last", "run", "longest", "moves", "repeats")
