"""A pressure reducing valve with a seed: what its gauges and its meter say, failures of it, and things that only look like one.

The valve holds a set pressure, lower at night, that falls a little with the flow; the inlet falls with the square of the flow. In a slot of
five days at most one thing happens, after the first `QUIET_DAYS`. Figures are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from simulators.water_faults import DAY_STEPS, QUIET_DAYS, SLOT_DAYS, Floats

INLET_KPA, INLET_LOSS = 620.0, 0.008
SET_DAY_KPA, SET_NIGHT_KPA, DROOP_KPA_PER_M3PH = 380.0, 330.0, 0.12
VALVE_LOSS = 0.006
"""Head that the wide open valve takes, kPa at 1 (m3/h)^2."""


class PrvEvent(StrEnum):
    """What happens; the first five are failures of the valve."""

    FAILED_OPEN = "failed-open"
    FAILED_SHUT = "failed-shut"
    SEAT_LEAKS = "seat-leaks"
    CLOGGED = "clogged"
    HUNTING = "hunting"
    INLET_STARVES = "inlet-starves"
    DEMAND_STEP = "demand-step"
    FIRE_DRAW = "fire-draw"
    GAUGE_STUCK = "gauge-stuck"
    INLET_SURGES = "inlet-surges"
    OUTAGE = "outage"


PRV_FAULTS = (PrvEvent.FAILED_OPEN, PrvEvent.FAILED_SHUT, PrvEvent.SEAT_LEAKS, PrvEvent.CLOGGED, PrvEvent.HUNTING)
_DRAWN = {  # hours, and limits of the size: a part, kPa, or m3/h
    PrvEvent.FAILED_OPEN: (10, 0.02, 0.6),
    PrvEvent.FAILED_SHUT: (10, 0.01, 0.6),
    PrvEvent.SEAT_LEAKS: (72, 2.0, 40.0),
    PrvEvent.CLOGGED: (72, 0.01, 0.3),
    PrvEvent.HUNTING: (24, 1.0, 12.0),
    PrvEvent.INLET_STARVES: (12, 150.0, 300.0),
    PrvEvent.DEMAND_STEP: (72, 5.0, 30.0),
    PrvEvent.FIRE_DRAW: (3, 60.0, 90.0),
    PrvEvent.GAUGE_STUCK: (12, 1.0, 1.0),
    PrvEvent.INLET_SURGES: (24, 30.0, 80.0),
    PrvEvent.OUTAGE: (12, 1.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class PrvHappened:
    """One thing that happened: from and until when (steps), and its size."""

    what: PrvEvent
    begin: int
    end: int
    size: float


@dataclass(frozen=True, slots=True)
class PrvRun:
    """What a valve's gauges measured, kPa and m3/h, each 5 min; NaN is a gap."""

    days: int
    signals: Mapping[str, Floats]
    happened: tuple[PrvHappened, ...]


def simulate_prv(seed: int, days: int = 120) -> PrvRun:
    """Return one valve.

    Parameters
    ----------
    seed : int
        Same seed, same valve.
    days : int
        More than `QUIET_DAYS` + `SLOT_DAYS`.
    """
    rng = np.random.default_rng(seed)
    happened = []
    for day in range(QUIET_DAYS, days - SLOT_DAYS, SLOT_DAYS):
        what = tuple(PrvEvent)[int(rng.integers(len(PrvEvent)))]
        begin = day * DAY_STEPS + int(rng.integers(0, DAY_STEPS))
        hours, low, high = _DRAWN[what]
        happened.append(PrvHappened(what, begin, begin + hours * 12, float(rng.uniform(low, high))))
    steps = days * DAY_STEPS
    at: dict[PrvEvent, Floats] = {what: np.zeros(steps) for what in PrvEvent}
    for h in happened:
        at[h.what][h.begin : h.end] = h.size
    hour = np.arange(steps) / 12 % 24
    shape = np.maximum(1 - 0.6 * np.cos(2 * np.pi * (hour - 3) / 24) + 0.25 * np.cos(4 * np.pi * (hour - 8) / 24), 0.12)
    flow = 60 * shape * np.repeat(rng.normal(1.0, 0.06, days), DAY_STEPS) * np.exp(rng.normal(0, 0.08, steps))
    flow += at[PrvEvent.DEMAND_STEP] + at[PrvEvent.FIRE_DRAW]
    slow = np.cumsum(rng.normal(0, 0.6, steps))
    slow -= np.convolve(slow, np.ones(DAY_STEPS) / DAY_STEPS, mode="same")
    inlet = INLET_KPA - INLET_LOSS * flow**2 + slow - at[PrvEvent.INLET_STARVES] + at[PrvEvent.INLET_SURGES]
    target = np.where((hour >= 23) | (hour < 5), SET_NIGHT_KPA, SET_DAY_KPA) - DROOP_KPA_PER_M3PH * flow
    # a seat that leaks cannot hold where little flows; one that is clogged takes more the more flows; the pilot follows its inlet a little
    target += at[PrvEvent.SEAT_LEAKS] * np.exp(-flow / 40.0) + 0.02 * (inlet - INLET_KPA)
    target -= at[PrvEvent.CLOGGED] * VALVE_LOSS * 10 * flow**2
    open_kpa = inlet - VALVE_LOSS * flow**2
    held = np.minimum(target + at[PrvEvent.FAILED_OPEN] * (open_kpa - target), open_kpa)
    held = held * (1.0 - at[PrvEvent.FAILED_SHUT]) + rng.normal(0, 1.0, steps) * np.sqrt(2.5**2 + at[PrvEvent.HUNTING] ** 2)
    signals: dict[str, Floats] = {
        "upstream": np.round(inlet + rng.normal(0, 1.5, steps), 1),
        "downstream": np.round(np.maximum(held, 0.0), 1).astype(np.float64),
        "flow": np.round(np.maximum(flow * (1 + rng.normal(0, 0.01, steps)), 0.0), 1).astype(np.float64),
    }
    for h in happened:
        if h.what is PrvEvent.GAUGE_STUCK:
            signals["downstream"][h.begin : h.end] = signals["downstream"][h.begin]
        if h.what is PrvEvent.OUTAGE:
            for values in signals.values():
                values[h.begin : h.end] = np.nan
    for values in signals.values():
        values[rng.random(steps) < 0.004] = np.nan
    return PrvRun(days, signals, tuple(happened))
