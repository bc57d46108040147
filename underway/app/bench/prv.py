"""The part of ``underway bench faults`` for pressure reducing valves: simulated valves through the bank, beside fixed limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.bank import Bank
from detectors.water.prv import DOWNSTREAM_ROLE, FLOW_ROLE, UPSTREAM_ROLE, PressureReducingValve
from simulators.prv_station import PRV_FAULTS, PrvEvent, PrvRun, simulate_prv
from simulators.water_faults import DAY_STEPS, QUIET_DAYS, STEP_S
from underway.app.bench.fault_replay import AFTER_STEPS, Alarm, Cost, begins, judged_by, lasting
from underway.model import CANONICAL_UNIT, Asset, AssetClass, Channel, Quantity, Registry, Site, Zone, ZoneKind

KIND = "prv.fault"
FIXED_BAND_KPA, FIXED_STEPS, FIXED_SCATTER_KPA = 60.0, 3, 15.0
"""Off by so much three times in a row, or so much scatter within an hour; chosen on seeds 1 to 8, where tighter ones gave 36 to 327 false
a year."""
CHANNELS = (
    ("upstream", Quantity.PRESSURE, UPSTREAM_ROLE),
    ("downstream", Quantity.PRESSURE, DOWNSTREAM_ROLE),
    ("flow", Quantity.FLOW, FLOW_ROLE),
)


def make_registry() -> Registry:
    """Return a registry with one valve."""
    channels = tuple(
        Channel(i, "v-1", name, quantity, CANONICAL_UNIT[quantity], "v-1", "z1", role, -1e4, 1e5, STEP_S, 0.1)
        for i, (name, quantity, role) in enumerate(CHANNELS, start=1)
    )
    valve = Asset("v-1", "bench", "z1", AssetClass.VALVE, "Valve")
    return Registry(Site("bench", "Bench", "UTC", 0.0, 0.0), (Zone("z1", "bench", "Zone 1", ZoneKind.CORRIDOR),), (valve,), (), channels)


def our_alarms(run: PrvRun) -> tuple[list[Alarm], Cost]:
    """Return (kind, step) of every RAISE, and what the detector cost."""
    bank = Bank(make_registry())
    mine = [key for key, detector in bank.detectors.items() if isinstance(detector, PressureReducingValve)]
    return judged_by(bank.only(mine), np.column_stack([run.signals[name] for name, *_ in CHANNELS]))


def fixed_alarms(run: PrvRun) -> list[Alarm]:
    """Return (kind, step) where fixed limits are passed: the usual pressure of the hour in the quiet days, and the scatter within an hour."""
    down = run.signals["downstream"]
    hour = np.arange(len(down)) // 12 % 24
    quiet = down[: QUIET_DAYS * DAY_STEPS]
    usual = np.array([np.nanmedian(quiet[hour[: len(quiet)] == h]) for h in range(24)])[hour]
    off = np.nan_to_num(np.abs(down - usual)) > FIXED_BAND_KPA
    step = np.nan_to_num(np.diff(down, prepend=down[0])) ** 2
    scatter = np.sqrt(np.convolve(step, np.full(12, 1 / 24))[: len(step)])
    return [*begins(KIND, lasting(off, FIXED_STEPS), 1), *begins(KIND, scatter > FIXED_SCATTER_KPA, 1)]


@dataclass(frozen=True, slots=True)
class PrvScore:
    """What one method found of one failure: delays in minutes, None where it was missed."""

    delays: dict[PrvEvent, list[float | None]]
    false: int


def is_true(run: PrvRun, step: int) -> bool:
    """Return whether a failure of the valve is there, or ended at most three hours ago."""
    return any(h.what in PRV_FAULTS and h.begin <= step <= h.end + AFTER_STEPS for h in run.happened)


def score(run: PrvRun, alarms: Sequence[Alarm]) -> PrvScore:
    """Score the alarms of one method from the end of the quiet days on."""
    steps = sorted(step for _, step in alarms if step >= QUIET_DAYS * DAY_STEPS)
    delays: dict[PrvEvent, list[float | None]] = {f: [] for f in PRV_FAULTS}
    for h in run.happened:
        if h.what in PRV_FAULTS:
            hit = next((s for s in steps if h.begin <= s <= h.end + AFTER_STEPS), None)
            delays[h.what].append(None if hit is None else (hit - h.begin) * STEP_S / 60)
    return PrvScore(delays, sum(not is_true(run, s) for s in steps))


def run_prv(
    seeds: Sequence[int], days: int, told: Callable[[str], None] = lambda what: None
) -> tuple[list[PrvScore], list[PrvScore], Cost]:
    """Return the scores of our detector and of fixed limits, one a seed, and the dearest cost."""
    ours, fixed, cost = [], [], Cost(0.0, 0)
    for seed in seeds:
        told(f"valve {seed}")
        run = simulate_prv(seed, days)
        alarms, spent = our_alarms(run)
        cost = cost.dearest(spent)
        ours.append(score(run, alarms))
        fixed.append(score(run, fixed_alarms(run)))
    return ours, fixed, cost
