"""How much water a zone takes: a daily shape, weekends, slow and fast noise."""

from __future__ import annotations

import math

import numpy as np

# Demand at each full hour of a working day and of a weekend day; `diurnal` scales it to mean 1
_WORKDAY = (
    0.46, 0.40, 0.37, 0.37, 0.44, 0.72, 1.18, 1.46, 1.42, 1.28, 1.18, 1.12,
    1.12, 1.10, 1.05, 1.04, 1.12, 1.30, 1.48, 1.46, 1.26, 1.02, 0.78, 0.58,
)  # fmt: skip
_WEEKEND = (
    0.52, 0.44, 0.39, 0.37, 0.39, 0.50, 0.74, 1.08, 1.40, 1.52, 1.46, 1.36,
    1.30, 1.22, 1.12, 1.08, 1.14, 1.26, 1.36, 1.34, 1.20, 1.04, 0.84, 0.66,
)  # fmt: skip


def diurnal(hour: float, weekend: bool) -> float:
    """Return the multiplier of mean demand at an hour of the day, 0 <= hour < 24, straight between full hours.

    Examples
    --------
    >>> round(diurnal(3.0, False), 2), diurnal(18.0, False) > diurnal(3.0, False), diurnal(9.0, True) > diurnal(6.0, True)
    (0.37, True, True)
    """
    table = _WEEKEND if weekend else _WORKDAY
    left = int(hour) % 24
    part = hour - math.floor(hour)
    value = table[left] * (1 - part) + table[(left + 1) % 24] * part
    return value * 24 / sum(table)


class ZoneDemand:
    """Demand multiplier of one zone, step by step.

    Parameters
    ----------
    rng : numpy.random.Generator
    step_s : int
        Time between two calls; the AR(1) noise has a time constant of 2 h, whatever the step.
    white_sd, slow_sd : float
        Standard deviations, as a share of demand, of the white and of the slow noise.

    Notes
    -----
    m(t) = shape(t - shift) (1 + a(t)) (1 + w(t)) with a an AR(1) process. Total noise of about 4 % per 5 min, as in networks of this size.
    """

    def __init__(self, rng: np.random.Generator, step_s: int, white_sd: float = 0.03, slow_sd: float = 0.018) -> None:
        self._rng = rng
        self._keep = math.exp(-step_s / 7200.0)
        self._white_sd, self._slow_sd = white_sd, slow_sd
        self._slow = float(rng.normal(0.0, slow_sd))
        self._shift_h = float(rng.uniform(-0.4, 0.4))
        self._weekend_shift_h = float(rng.uniform(-0.3, 0.3))
        self._level = float(np.exp(rng.normal(0.0, 0.04)))

    def next(self, hour: float, weekend: bool) -> float:
        """Return the multiplier for the next step, which lies at `hour` of a day."""
        self._slow = self._keep * self._slow + float(self._rng.normal(0.0, self._slow_sd * math.sqrt(1 - self._keep**2)))
        shift = self._weekend_shift_h if weekend else self._shift_h
        white = float(self._rng.normal(0.0, self._white_sd))
        return max(self._level * diurnal((hour + shift) % 24.0, weekend) * (1 + self._slow) * (1 + white), 0.0)
