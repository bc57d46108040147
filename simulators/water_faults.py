"""A small station with a seed: a tank with a daily demand and a pump that fills it, what their gauges say, faults and things that only look like one.

The pump runs by the level of the tank (on below, off above), on a curve of head and efficiency; the demand differs from day to day. In a slot of
five days at most one thing happens, after the first `QUIET_DAYS`. Equations are those of continuity and of a parabolic pump curve; figures are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP_S = 300
DAY_STEPS = 288
QUIET_DAYS = 20
SLOT_DAYS = 5
AREA_M2, OVERFLOW_M, LOW_M = 250.0, 5.0, 1.2
PUMP_ON_M, PUMP_OFF_M = 2.6, 4.4
G_KPA_PER_M = 9.81


class Mishap(StrEnum):
    """What happens; the first five are faults."""

    OVERFLOW = "overflow"
    EMPTYING = "emptying"
    TANK_LEAK = "tank-leak"
    GAUGE_STUCK = "gauge-stuck"
    PUMP_WEAR = "pump-wear"
    DEMAND_STEP = "demand-step"
    OPERATING_POINT = "operating-point"
    NOISY_GAUGE = "noisy-gauge"
    OUTAGE = "outage"
    FULL_REST = "full-rest"


FAULTS = (Mishap.OVERFLOW, Mishap.EMPTYING, Mishap.TANK_LEAK, Mishap.GAUGE_STUCK, Mishap.PUMP_WEAR)


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing that happened: from and until when (steps), and its size (m3/h, or a share)."""

    what: Mishap
    begin: int
    end: int
    size: float


@dataclass(frozen=True, slots=True)
class FaultRun:
    """What a station measured; readings each 5 min, NaN is a gap. Flows in m3/h, pressures in kPa, power in kW, level in m.

    ``level_true_m`` is the level that no gauge says.
    """

    days: int
    signals: Mapping[str, Floats]
    level_true_m: Floats
    happened: tuple[Happened, ...]


def _schedule(rng: np.random.Generator, days: int) -> tuple[Happened, ...]:
    """Draw one thing a slot, each as likely as the others."""
    found = []
    for day in range(QUIET_DAYS, days - SLOT_DAYS, SLOT_DAYS):
        what = tuple(Mishap)[int(rng.integers(len(Mishap)))]
        begin = day * DAY_STEPS + int(rng.integers(0, DAY_STEPS))
        hours, low, high = {
            Mishap.OVERFLOW: (8, 1.0, 1.0),
            Mishap.EMPTYING: (10, 60.0, 160.0),
            Mishap.TANK_LEAK: (72, 1.0, 14.0),
            Mishap.GAUGE_STUCK: (30, 1.0, 1.0),
            Mishap.PUMP_WEAR: (72, 0.01, 0.10),
            Mishap.DEMAND_STEP: (72, 5.0, 25.0),
            Mishap.OPERATING_POINT: (72, 0.85, 0.95),
            Mishap.NOISY_GAUGE: (24, 0.01, 0.03),
            Mishap.OUTAGE: (12, 1.0, 1.0),
            Mishap.FULL_REST: (4, 1.0, 1.0),
        }[what]
        found.append(Happened(what, begin, begin + hours * 12, float(rng.uniform(low, high))))
    return tuple(found)


def simulate_faults(seed: int, days: int = 120) -> FaultRun:
    """Return one station.

    Parameters
    ----------
    seed : int
    days : int
        More than `QUIET_DAYS` + `SLOT_DAYS`.
    """
    rng = np.random.default_rng(seed)
    happened = _schedule(rng, days)
    steps = days * DAY_STEPS
    at: dict[Mishap, Floats] = {what: np.zeros(steps) for what in Mishap}
    for h in happened:
        at[h.what][h.begin : h.end] = h.size
    hour = np.arange(steps) / 12 % 24
    shape = 1 - 0.5 * np.cos(2 * np.pi * (hour - 3) / 24) + 0.25 * np.cos(4 * np.pi * (hour - 8) / 24)
    day_factor = np.repeat(rng.normal(1.0, 0.06, days), DAY_STEPS)
    demand = 55 * np.maximum(shape, 0.1) * day_factor * np.exp(rng.normal(0, 0.08, steps)) + at[Mishap.DEMAND_STEP]
    level, running = 3.5, True
    true, into, gross, power, head_m = (np.zeros(steps) for _ in range(5))
    drift = np.cumsum(rng.normal(0, 0.01, steps)) * 0.1
    speed_usual = np.repeat(rng.choice([0.94, 1.0], days), DAY_STEPS)
    for i in range(steps):
        stuck_on, cut = at[Mishap.OVERFLOW][i] > 0, at[Mishap.EMPTYING][i] > 0
        running = (running or level < PUMP_ON_M) and level < PUMP_OFF_M
        if at[Mishap.FULL_REST][i] > 0:
            running = level < OVERFLOW_M - 0.005
            demand[i] = 0.0
        on = (running or stuck_on) and not cut
        if on:
            speed = speed_usual[i] * (at[Mishap.OPERATING_POINT][i] or 1.0)
            wear = at[Mishap.PUMP_WEAR][i]
            # a parabolic curve on a system of static head and friction
            rest = 58 * speed**2 * (1 - wear / 2) - (28 + level + 0.3 * math.sin(drift[i]))
            flow = math.sqrt(max(rest, 0.1) / (0.0011 + 0.0009))
            head = 58 * speed**2 * (1 - wear / 2) - 0.0011 * flow**2
            eta = (0.72 - 0.000025 * (flow / speed - 115) ** 2) * (1 - wear / 2)
            into[i], head_m[i], power[i] = flow, head, G_KPA_PER_M * head * flow / 3600 / eta
        gross[i] = demand[i] + at[Mishap.EMPTYING][i]
        gross[i] = gross[i] if level > 0.05 else min(gross[i], into[i])
        level = min(max(level + (into[i] - gross[i] - at[Mishap.TANK_LEAK][i]) / 12 / AREA_M2, 0.0), OVERFLOW_M + 0.02)
        true[i] = level
    gauge = true + rng.normal(0, 0.004, steps) + rng.normal(0, 1, steps) * at[Mishap.NOISY_GAUGE]
    for h in happened:
        if h.what is Mishap.GAUGE_STUCK:
            gauge[h.begin : h.end] = gauge[h.begin]
    gains = rng.normal(1.0, 0.015, 2)
    signals = {
        "level": gauge,
        "inflow": into * gains[0] * (1 + rng.normal(0, 0.006, steps)),
        "outflow": gross * gains[1] * (1 + rng.normal(0, 0.006, steps)),
        "suction": 60 + rng.normal(0, 1.5, steps),
        "power": power * (1 + rng.normal(0, 0.01, steps)),
    }
    signals["discharge"] = signals["suction"] + G_KPA_PER_M * head_m + rng.normal(0, 2.0, steps)
    away = rng.random(steps) < 0.005
    away |= at[Mishap.OUTAGE] > 0
    for name, resolution in (("level", 0.001), ("inflow", 0.1), ("outflow", 0.1), ("suction", 0.1), ("discharge", 0.1), ("power", 0.01)):
        signals[name] = np.where(away, np.nan, np.round(signals[name] / resolution) * resolution)
    return FaultRun(days, signals, true, happened)
