"""The fixed limits beside which detectors of meters are measured: what a spreadsheet with the readings of a day would find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.customer_meters import DAY_S, MeterYear

Floats = NDArray[np.float64]

BASE_DAYS = 56


@dataclass(frozen=True, slots=True)
class Limits:
    """One setting: a fall of the register, days of nothing, and days below a share of the 56 days before."""

    back_m3: float
    zero_days: int
    low_share: float
    low_days: int


USUAL, STRICT = Limits(0.02, 14, 0.5, 14), Limits(0.1, 60, 0.3, 28)
"""What one would begin with, and what is left when somebody has had enough of false alarms."""


def fixed_limits(year: MeterYear, limits: Limits = USUAL) -> list[tuple[str, str, int]]:
    """Return alarms as (kind, device, seconds from the start), one while a condition lasts.

    ``backflow``: a register falls by more than 20 L (strict: 100 L) between two readings. ``meter.backward``: its day ends below where it began, two
    days in a row. ``meter.stopped``: nothing for 14 (60) days after something in the 56 before. ``meter.tamper``: 14 days below half (28 days below
    0.3) of the 56 before.
    """
    filled = _filled(year.register_m3)
    days = filled[:, 23::24]
    litres = np.diff(days, axis=1, prepend=days[:, :1]) * 1000.0
    alarms: list[tuple[str, str, int]] = []
    falls = np.diff(filled, axis=1, prepend=filled[:, :1]) < -limits.back_m3
    hourly = np.zeros_like(litres, dtype=np.bool_)
    hourly |= falls.reshape(len(falls), -1, 24).any(axis=2)
    back = (litres < 0.0) & (np.roll(litres, 1, axis=1) < 0.0)
    used = np.maximum(litres, 0.0)
    total = np.cumsum(np.pad(used, ((0, 0), (1, 0))), axis=1)
    recent, before = _window(total, limits.low_days, 0), _window(total, BASE_DAYS, limits.low_days)
    zero = (_window(total, limits.zero_days, 0) <= 0.0) & (_window(total, BASE_DAYS, limits.zero_days) > 0.0)
    low = ~zero & (recent / limits.low_days < limits.low_share * before / BASE_DAYS)
    for kind, on in (("backflow", hourly), ("meter.backward", back), ("meter.stopped", zero), ("meter.tamper", low)):
        begins = on & ~np.roll(on, 1, axis=1)
        begins[:, 0] = False
        for i, day in np.argwhere(begins).tolist():
            alarms.append((kind, year.meters[i].device_id, (day + 1) * DAY_S))
    return sorted(alarms, key=lambda a: (a[2], a[1], a[0]))


def _filled(register: Floats) -> Floats:
    """Return registers with the last reading where one is missing."""
    there = np.isfinite(register)
    place = np.maximum.accumulate(np.where(there, np.arange(register.shape[1]), 0), axis=1)
    filled = np.take_along_axis(register, place, axis=1)
    first = np.take_along_axis(register, there.argmax(axis=1)[:, None], axis=1)
    return np.asarray(np.where(np.isfinite(filled), filled, first), np.float64)


def _window(total: Floats, days: int, back: int) -> Floats:
    """Return sums over `days` days that ended `back` days ago, NaN where there are not enough."""
    out = np.full((len(total), total.shape[1] - 1), np.nan)
    first = days + back
    n = total.shape[1]
    out[:, first - 1 :] = total[:, first - back : n - back] - total[:, : n - first]
    return out
