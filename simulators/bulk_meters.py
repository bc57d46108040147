"""Meters of blocks and small zones, drawn by somebody who did not always know how much would flow: too large, right, too small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP_S = 900
DAY_S = 86_400
PREFERRED_Q3 = (2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0, 100.0, 160.0, 250.0)
PREFERRED_R = (40.0, 80.0, 160.0)
RESOLUTION_M3PH = 0.001
LOST_SHARE = 0.015
"""A meter that misses more of what flows is too large."""
ABOVE_SHARE = 0.01
"""One above Q3 for more of the time is too small."""


@dataclass(frozen=True, slots=True)
class BulkMeter:
    """One meter with what it showed and the truth.

    Attributes
    ----------
    shown_m3ph : ndarray of float64, shape (t,)
        Means of 15 min; NaN where no reading came.
    true_m3, lost_m3 : float
        What flowed over the whole time, and what of it was not registered at flows below Q2, m3.
    above_share : float
        Share of the time in which the flow was really above Q3.
    """

    device_id: str
    q3_m3ph: float
    ratio_r: float
    shown_m3ph: Floats
    true_m3: float
    lost_m3: float
    above_share: float

    @property
    def lost_share(self) -> float:
        """Return the share of the volume that was not registered at low flows."""
        return self.lost_m3 / self.true_m3

    @property
    def truth(self) -> str:
        """Return ``oversized``, ``undersized`` or ``right``."""
        return "undersized" if self.above_share >= ABOVE_SHARE else "oversized" if self.lost_share >= LOST_SHARE else "right"


def simulate_bulk_meters(seed: int, *, count: int = 100, days: int = 70) -> tuple[BulkMeter, ...]:
    """Simulate meters of 15 to 600 people, 15 min means.

    Parameters
    ----------
    seed : int
        Same seed, same meters.
    count, days : int
        At least 1, and at least 35 days.

    Notes
    -----
    Demand in single uses that add up (so that few people flow unsteadily), day and night, weekend, and a leak at some. Q3 is the flow of the busiest
    hour times a factor from 0.4 to 25 (uniform in its logarithm), as the nearest preferred value of ISO 4064. Each meter has an error curve of its
    own: it stops below 0.2 to 0.8 of Q1, misses 2 to 10 % at Q1, and up to 2 % or minus 1 % above.

    Blind to: meters that wear out during the time, and air, pressure and temperature.
    """
    if count < 1 or days < 35:
        raise ValueError(f"expected at least 1 meter and 35 days, got {count!r} and {days!r}")
    rng = np.random.default_rng([seed, 49])
    return tuple(_meter(rng, f"bm-{i + 1:03d}", days) for i in range(count))


def _meter(rng: np.random.Generator, device_id: str, days: int) -> BulkMeter:
    t = np.arange(days * DAY_S // STEP_S)
    hour, day = t * STEP_S / 3600.0 % 24, t * STEP_S // DAY_S
    people = math.exp(rng.uniform(math.log(15.0), math.log(600.0)))
    shape = 0.12 + np.exp(-((hour - 7.5) ** 2) / 4.0) + 0.8 * np.exp(-((hour - 19.5) ** 2) / 9.0) + 0.3 * ((hour > 8) & (hour < 22))
    uses = (
        people
        * 8.5
        * shape
        / shape[:96].sum()
        * np.exp(rng.normal(0.0, 0.08, days))[day]
        * np.where(day % 7 >= 5, rng.uniform(0.8, 1.2), 1.0)
    )
    litres = rng.gamma(np.maximum(0.7 * rng.poisson(uses), 1e-9), 14.0 / 0.7)
    leak_lph = people * rng.exponential(0.5) if rng.random() < 0.5 else 0.0
    flow = litres * 3600.0 / STEP_S + leak_lph
    busiest = float(np.quantile(flow, 0.999)) / 1000.0
    wanted = busiest * math.exp(rng.uniform(math.log(0.4), math.log(25.0)))
    q3 = min(PREFERRED_Q3, key=lambda q: abs(math.log(q / wanted)))
    ratio = float(rng.choice(PREFERRED_R))
    q1 = 1000.0 * q3 / ratio
    shown = flow * (1.0 + _error(rng, flow / q1))
    shown_m3ph = np.round(np.maximum(shown, 0.0) / 1000.0 / RESOLUTION_M3PH) * RESOLUTION_M3PH
    missing = rng.random(len(t)) < rng.choice([0.002, 0.02, 0.08])
    hours = STEP_S / 3600.0
    lost = float((flow - shown)[flow < 1.6 * q1].sum()) * hours / 1000.0
    above = float((flow > 1000.0 * q3).mean())
    return BulkMeter(device_id, q3, ratio, np.where(missing, np.nan, shown_m3ph), float(flow.sum()) * hours / 1000.0, lost, above)


def _error(rng: np.random.Generator, x: Floats) -> Floats:
    """Return relative errors of one meter at flows of x times its Q1."""
    start, at_q1, above = rng.uniform(0.2, 0.8), rng.uniform(-0.10, -0.02), rng.uniform(-0.02, 0.01)
    level = np.log(np.maximum(x, 1e-9))
    below = -1.0 + (1.0 + at_q1) * (level - math.log(start)) / -math.log(start)
    near = at_q1 + (above - at_q1) * level / math.log(1.6)
    return np.asarray(np.where(x < start, -1.0, np.where(x < 1.0, below, np.where(x < 1.6, near, above))), np.float64)
