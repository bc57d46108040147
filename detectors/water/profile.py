"""What is usual at this time of the day: mean and spread by slot of the local day, learned online, for all series of many zones at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from detectors.contract import FloatArray, IntArray
from underway.model import DAY_US, EPOCH_AT

SLOTS = 288
SLOT_US = DAY_US // SLOTS
DAYS_KEPT = (20, 8)
"""Memory in days of the kind: 4 weeks of working days, 4 of weekend days."""
KNOTS = SLOTS // 2
"""Means are kept each 10 min, and read between two of them."""
NEAR, FAR = 0.75, 0.25
BLOCK_SLOTS = 6
"""Spread is kept by half hours."""
BLOCKS = SLOTS // BLOCK_SLOTS
SQUARES_KEPT = sum(DAYS_KEPT) * BLOCK_SLOTS
CLIP_SD = 3.0
CLIP_FROM_DAYS = 4
_DAYS_KEPT = np.array(DAYS_KEPT, np.int64)


class LocalDay:
    """Local slot, kind of day and day number of instants at one site.

    Parameters
    ----------
    timezone : str
        IANA name. The offset is looked up once a quarter of an hour.
    """

    def __init__(self, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)
        self._quarter = -1
        self._offset_us = 0

    def __call__(self, at_us: int) -> tuple[int, int, int]:
        """Return (day number since 1970, kind of day: 0 working 1 weekend, slot 0..287) of an instant, local time.

        Examples
        --------
        >>> LocalDay("UTC")(0), LocalDay("Europe/Berlin")(2 * 86_400_000_000)
        ((0, 0, 0), (2, 1, 12))
        """
        quarter = at_us // 900_000_000
        if quarter != self._quarter:
            at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)
            offset = at.astimezone(self._zone).utcoffset()
            self._quarter, self._offset_us = quarter, 0 if offset is None else offset // timedelta(microseconds=1)
        day, in_day = divmod(at_us + self._offset_us, DAY_US)
        return day, int((day + EPOCH_AT.weekday()) % 7 >= 5), in_day // SLOT_US


class SlotProfile:
    """Mean by (kind of day, time of day) and spread by half hour, for m series.

    Parameters
    ----------
    floor : ndarray of float64, shape (m,)
        Smallest standard deviation, in the unit of each series (resolution of the meter).
    per_knot : ndarray of int64, shape (m,)
        Readings of a day that fall on one knot (10 min): 2, or 1 where a series comes less often than each 5 min.

    Notes
    -----
    Mean: running mean over days at knots 10 min apart, read linearly between the nearest two (weights 3/4 and 1/4, as a slot is 2.5 min off its
    knot); clipped at 3 standard deviations from the 4th day of a kind on, memory 4 weeks. Spread: running mean square of the one-day-ahead error,
    freed of the error of the mean by ``1 + 1/n``, of the half hour and of the nearer one beside it. A *base* is ``kind * 288 + slot``. Cost some
    fifty passes over the series of a step. State 1,680 bytes a series: single precision, counts as bytes.
    Blind to holidays: a public holiday is judged as the day of the week that it falls on.
    """

    def __init__(self, floor: FloatArray, per_knot: IntArray) -> None:
        self.width = len(floor)
        self.floor = floor
        self.per_knot = per_knot.astype(np.uint8)
        self.mean = np.zeros((2 * KNOTS, self.width), np.float32)
        self.count = np.zeros((2 * KNOTS, self.width), np.uint8)
        self.square = np.zeros((BLOCKS, self.width), np.float32)
        self.squares = np.zeros((BLOCKS, self.width), np.uint8)
        self._flat = (self.mean.reshape(-1), self.count.reshape(-1), self.square.reshape(-1), self.squares.reshape(-1))

    def expect(self, base: IntArray, series: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return (mean, standard deviation of one reading, days seen) of `series` at `base`; NaN where nothing is known."""
        means, counts, square, squares = self._flat
        kind, slot = np.divmod(base, SLOTS)
        knot = slot // 2
        near = (kind * KNOTS + knot) * self.width + series
        far = (kind * KNOTS + (knot + np.where(slot % 2, 1, -1)) % KNOTS) * self.width + series
        per = self.per_knot[series]
        days = (counts.take(near) // per).astype(np.float64)
        mean = means.take(near).astype(np.float64)
        mean = np.where(counts.take(far) >= per, NEAR * mean + FAR * means.take(far), mean)
        block = slot // BLOCK_SLOTS
        beside = (block + np.where(slot % BLOCK_SLOTS < BLOCK_SLOTS // 2, -1, 1)) % BLOCKS
        here, there = block * self.width + series, beside * self.width + series
        first, second = squares.take(here).astype(np.float64), squares.take(there).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            # nothing seen is 0 / 0: not a number, as it should be
            sd = np.sqrt((first * square.take(here) + second * square.take(there)) / (first + second))
        return np.where(days > 0, mean, np.nan), np.maximum(sd, self.floor[series]), days

    def learn(self, base: IntArray, series: IntArray, value: FloatArray, expected: FloatArray) -> None:
        """Take one value of each of `series` in; NaN is a gap. `expected` is mean and level of the day: the level is not learned as spread."""
        mean, sd, days = self.expect(base, series)
        means, counts, squared, squares = self._flat
        kind, slot = np.divmod(base, SLOTS)
        at = (kind * KNOTS + slot // 2) * self.width + series
        block = slot // BLOCK_SLOTS * self.width + series
        good = np.isfinite(value)
        known = good & (days > 0)
        before, count = means.take(at).astype(np.float64), counts.take(at).astype(np.int64)
        error = np.where(good, value - np.where(known, mean, before), 0.0)
        inflate = 1.0 + 1.0 / np.maximum(days, 1.0)
        limit = np.where((days >= CLIP_FROM_DAYS) & np.isfinite(sd), CLIP_SD * sd * np.sqrt(inflate), np.inf)
        around = np.where(known & np.isfinite(expected), value - expected, error)
        clipped = np.clip(around, -1.5 * limit, 1.5 * limit)
        more = np.minimum(squares.take(block).astype(np.int64) + known, SQUARES_KEPT)
        squares[block] = more.astype(np.uint8)
        square = squared.take(block).astype(np.float64)
        squared[block] = square + np.where(known, (clipped**2 / inflate - square) / np.maximum(more, 1), 0.0)
        after = np.minimum(count + good, _DAYS_KEPT[kind] * self.per_knot[series])
        moved = np.where(count > 0, before + np.clip(error, -limit, limit) / np.maximum(after, 1), value)
        means[at] = np.where(good, moved, before)
        counts[at] = after.astype(np.uint8)

    def state(self, part: slice = slice(None)) -> dict[str, object]:
        """Return the arrays of all series, or of a part of them."""
        return {name: getattr(self, name)[:, part] for name in _FIELDS}

    def restore(self, state: dict[str, Any], part: slice = slice(None)) -> None:
        """Take back what `state` returned."""
        for name in _FIELDS:
            getattr(self, name)[:, part] = state[name]


_FIELDS = ("mean", "count", "square", "squares")
