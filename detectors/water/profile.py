"""What is usual at this time of the day: mean and spread by slot of the local day, learned online, for several series at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from detectors.contract import FloatArray
from underway.model import DAY_US, EPOCH_AT

SLOTS = 288
SLOT_US = DAY_US // SLOTS
DAYS_KEPT = (20.0, 8.0)
"""Memory in days of the kind: 4 weeks of working days, 4 of weekend days."""
SPREAD_SLOTS = 6
CLIP_SD = 3.0
CLIP_FROM_DAYS = 4


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
    """Mean by (kind of day, slot) and spread by slot, for m series.

    Parameters
    ----------
    width : int
        Number of series m.
    floor : ndarray of float64, shape (m,)
        Smallest standard deviation, in the unit of each series (resolution of the meter).

    Notes
    -----
    Mean: running mean over days, clipped at 3 standard deviations from the 4th day of a kind on, memory 4 weeks. Spread: running mean square of the
    one-day-ahead error, freed of the error of the mean by ``1 + 1/n``, averaged over +-30 min. Cost O(13 m) a step. State 2 x 288 x 3 x m doubles.
    Blind to holidays: a public holiday is judged as the day of the week that it falls on.
    """

    def __init__(self, width: int, floor: FloatArray) -> None:
        self.floor = floor
        self.mean = np.zeros((2, SLOTS, width))
        self.days = np.zeros((2, SLOTS, width))
        self.square = np.zeros((SLOTS, width))
        self.squares = np.zeros((SLOTS, width))
        self._near = (np.arange(SLOTS)[:, None] + np.arange(-SPREAD_SLOTS, SPREAD_SLOTS + 1)) % SLOTS

    def expect(self, kind: int, slot: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return (mean, standard deviation of one reading, days seen), each of shape (m,); NaN where nothing is known."""
        days = self.days[kind, slot]
        weight = self.squares[self._near[slot]]
        total = weight.sum(axis=0)
        square = (weight * self.square[self._near[slot]]).sum(axis=0)
        known = total > 0
        sd = np.full(len(self.floor), np.nan)
        sd[known] = np.sqrt(square[known] / total[known])
        return np.where(days > 0, self.mean[kind, slot], np.nan), np.maximum(sd, self.floor), days

    def learn(self, kind: int, slot: int, value: FloatArray, level: FloatArray) -> None:
        """Take one row in; NaN is a gap. `level` is how far the day runs above the profile: it is not learned as spread."""
        mean, sd, days = self.expect(kind, slot)
        good = np.isfinite(value)
        known = good & (days > 0)
        error = np.where(known, value - np.where(days > 0, mean, 0.0), 0.0)
        inflate = 1.0 + 1.0 / np.maximum(days, 1.0)
        limit = np.where((days >= CLIP_FROM_DAYS) & np.isfinite(sd), CLIP_SD * sd * np.sqrt(inflate), np.inf)
        around = error - level
        clipped = np.clip(around, -1.5 * limit, 1.5 * limit)
        self.squares[slot] = np.where(known, np.minimum(self.squares[slot] + 1.0, sum(DAYS_KEPT)), self.squares[slot])
        gain = np.where(known, 1.0 / np.maximum(self.squares[slot], 1.0), 0.0)
        self.square[slot] += gain * (clipped**2 / inflate - self.square[slot])
        step = np.where(good & ~known, value, np.clip(error, -limit, limit))
        count = np.minimum(days + 1.0, DAYS_KEPT[kind])
        self.mean[kind, slot] += np.where(good, np.where(np.isfinite(step), step, 0.0) / count, 0.0)
        self.days[kind, slot] = np.where(good, count, days)

    def level_of(self, kind: int) -> FloatArray:
        """Return the mean of the profile over the day, shape (m,); 0 where nothing is known."""
        seen = self.days[kind] > 0
        return np.asarray((self.mean[kind] * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1), np.float64)

    def state(self) -> dict[str, object]:
        """Return the arrays."""
        return {"mean": self.mean, "days": self.days, "square": self.square, "squares": self.squares}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.mean, self.days, self.square, self.squares = state["mean"], state["days"], state["square"], state["squares"]
