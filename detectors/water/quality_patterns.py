"""Known operations: what probes did when a person said that it was one, and whether they do it again."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectors.contract import BoolArray, FloatArray

PATTERNS_MAX = 12
ROWS_MAX = 36
ROWS_MIN = 2
LAG_MAX = 6
MATCH_MIN = 0.85
ALONE = 0.9
TOUCHED_SDS, TOUCHED_SHARE = 4.0, 0.15
SAME_MIN = 0.97
"""Patterns that agree this well are one: the newer one is kept."""
SIZE_MIN, SIZE_MAX = 0.3, 3.0


class OperationLibrary:
    """Shapes of confirmed operations: residuals of all probes over the three hours after the onset.

    Notes
    -----
    Rows are residuals, whitened by the joint variation of quiet days, so that what the probes do together anyway counts little. A shape
    matches by the correlation ``<Y, P> / (|Y| |P|)`` of what is seen since the onset with the stored rows, shifted by up to half an hour, at least
    0.85, of a size between 0.3 and 3 times that of the stored one; or, whatever its course in time, when that share of it lies in the stored
    direction, unless that is the direction of one probe. At most 12 shapes; the one that matched longest ago goes first. Cost 0.1 ms a shape.

    Examples
    --------
    >>> library = OperationLibrary(2)
    >>> library.add(np.array([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]]), 0)
    0
    >>> round(library.match(np.array([[1.0, -1.1], [2.0, -2.0]]))[1], 2), library.match(np.array([[1.0, 1.0], [2.0, 2.0]]))[0]
    (1.0, -1)
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = np.full((0, ROWS_MAX, width), np.nan)
        self.used_us = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: FloatArray, at_us: int) -> int:
        """Store what was seen since the onset, at most three hours of it; return its number, -1 when that is too little."""
        if len(rows) < ROWS_MIN or not np.isfinite(rows).any():
            return -1
        same, how, _ = self.match(rows[:ROWS_MAX])
        padded = np.full((1, ROWS_MAX, self.width), np.nan)
        # as it will be stored: single precision
        padded[0, : min(len(rows), ROWS_MAX)] = rows[:ROWS_MAX].astype(np.float32)
        if same >= 0 and how >= SAME_MIN:
            self.rows[same], self.used_us[same] = padded[0], at_us
            return same
        if len(self) >= PATTERNS_MAX:
            oldest = int(np.argmin(self.used_us))
            self.rows, self.used_us = np.delete(self.rows, oldest, 0), np.delete(self.used_us, oldest)
        self.rows = np.concatenate((self.rows, padded))
        self.used_us = np.concatenate((self.used_us, [at_us]))
        return len(self) - 1

    def touched(self, number: int) -> BoolArray:
        """Return which probes a shape moves; none for -1."""
        if number < 0:
            return np.zeros(self.width, np.bool_)
        most = np.nanmax(np.abs(self.rows[number]), axis=0)
        return np.asarray(most > max(TOUCHED_SDS, TOUCHED_SHARE * float(most.max())))

    def match(self, seen: FloatArray) -> tuple[int, float, float]:
        """Return (number of the best shape or -1, its correlation, size as a multiple of the stored one) of what is seen since an onset."""
        best = (-1, 0.0, 0.0)
        k = len(seen)
        if k < ROWS_MIN:
            return best
        for number, stored in enumerate(self.rows):
            length = int(np.isfinite(stored).any(1).sum())
            for lag in range(-LAG_MAX, LAG_MAX + 1):
                a, b = max(0, lag), min(length, k + lag)
                if b - a < min(k, ROWS_MIN) or b - a < 0.6 * min(k, length):
                    continue
                how, size = _agreement(seen[a - lag : b - lag], stored[a:b])
                if how > best[1] and SIZE_MIN <= size <= SIZE_MAX:
                    best = (number, how, size)
            how, size = _direction(seen, stored[:length])
            # an operation may begin slowly
            if how > best[1] and SIZE_MIN / 3.0 <= size <= SIZE_MAX:
                best = (number, how, size)
        return best if best[1] >= MATCH_MIN else (-1, best[1], best[2])

    def note(self, number: int, at_us: int) -> None:
        """Say that a shape was seen again."""
        self.used_us[number] = at_us

    def state(self) -> dict[str, object]:
        """Return the shapes; single precision."""
        return {"rows": self.rows.astype(np.float32), "used": self.used_us}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.rows, self.used_us = state["rows"].astype(np.float64), state["used"]


def _agreement(seen: FloatArray, stored: FloatArray) -> tuple[float, float]:
    good = np.isfinite(seen) & np.isfinite(stored)
    y, p = np.where(good, seen, 0.0), np.where(good, stored, 0.0)
    yy, pp, yp = float((y * y).sum()), float((p * p).sum()), float((y * p).sum())
    if yy <= 0.0 or pp <= 0.0 or yp <= 0.0:
        return 0.0, 0.0
    return yp / float(np.sqrt(yy * pp)), yp / pp


def _direction(seen: FloatArray, stored: FloatArray) -> tuple[float, float]:
    """Return (share of what is seen in the main direction of a shape, size), 0 when it goes the other way."""
    p = np.nan_to_num(stored)
    _, _, axes = np.linalg.svd(p, full_matrices=False)
    axis = axes[0] * (1.0 if float((p @ axes[0]).sum()) >= 0 else -1.0)
    if np.abs(axis).max() > ALONE:
        return 0.0, 0.0
    y = np.nan_to_num(seen)
    along, there = y @ axis, float(np.abs(p @ axis).max())
    energy = float((y * y).sum())
    if energy <= 0.0 or there <= 0.0 or float(along.sum()) <= 0.0:
        return 0.0, 0.0
    return float(np.sqrt((along * along).sum() / energy)), float(along.max()) / there
