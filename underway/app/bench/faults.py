"""``underway bench faults``: simulated stations through the bank of detectors, beside fixed limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from detectors.bank import Bank
from detectors.water.pump_efficiency import PumpEfficiency
from detectors.water.tank_level import TankLevel
from simulators.prv_station import PRV_FAULTS
from simulators.water_faults import AREA_M2, DAY_STEPS, FAULTS, LOW_M, OVERFLOW_M, QUIET_DAYS, STEP_S, FaultRun, Mishap, simulate_faults
from underway.app.bench.fault_replay import AFTER_STEPS, Alarm, Cost, begins, judged_by, lasting
from underway.app.bench.prv import KIND as PRV_KIND
from underway.app.bench.prv import run_prv
from underway.model import (
    CANONICAL_UNIT,
    Asset,
    AssetClass,
    Channel,
    FindingKind,
    Quantity,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

HELD_OUT_SEEDS = (201, 202, 203, 204, 205, 206, 207, 208)
"""On these nothing was tuned."""
OURS, BASELINE = "detectors", "fixed limits"
KIND_OF = {
    Mishap.OVERFLOW: "tank.overflow",
    Mishap.EMPTYING: "tank.low",
    Mishap.TANK_LEAK: "tank.balance",
    Mishap.GAUGE_STUCK: "tank.balance",
    Mishap.PUMP_WEAR: "pump.efficiency",
}
KINDS = tuple(dict.fromkeys(KIND_OF.values()))
FIXED_HIGH_M, FIXED_LOW_M, FIXED_GAP_M3PH, FIXED_ETA_LOSS = OVERFLOW_M - 0.05, LOW_M, 12.0, 0.03
CHANNELS = (
    ("level", Quantity.LEVEL, "tank_level", "tk-1", 1, 0.001), ("inflow", Quantity.FLOW, "tank_flow", "tk-1", -1, 0.1),
    ("outflow", Quantity.FLOW, "tank_flow", "tk-1", 1, 0.1), ("inflow", Quantity.FLOW, "pump_flow", "pu-1", 1, 0.1),
    ("suction", Quantity.PRESSURE, "pump_suction", "pu-1", 1, 0.1), ("discharge", Quantity.PRESSURE, "pump_discharge", "pu-1", 1, 0.1),
    ("power", Quantity.POWER, "pump_power", "pu-1", 1, 0.01),
)  # fmt: skip


def make_registry() -> Registry:
    """Return a registry with one tank and one pump."""
    channels = tuple(
        Channel(i, asset, f"{role}-{i}", quantity, CANONICAL_UNIT[quantity], asset, "z1", role, -1e4, 1e5, STEP_S, resolution, sign)
        for i, (_, quantity, role, asset, sign, resolution) in enumerate(CHANNELS, start=1)
    )
    facts = {"area_m2": AREA_M2, "overflow_m": OVERFLOW_M, "low_m": LOW_M}
    assets = (
        Asset("tk-1", "bench", "z1", AssetClass.TANK, "Tank", attributes=facts),
        Asset("pu-1", "bench", "z1", AssetClass.PUMP, "Pump"),
    )
    return Registry(Site("bench", "Bench", "UTC", 0.0, 0.0), (Zone("z1", "bench", "Zone 1", ZoneKind.CORRIDOR),), assets, (), channels)


def our_alarms(run: FaultRun) -> tuple[list[Alarm], dict[str, Cost]]:
    """Return (kind, step) of every RAISE of the bank's detectors of tanks and pumps, and what each of them cost."""
    whole = Bank(make_registry())
    alarms: list[Alarm] = []
    costs: dict[str, Cost] = {}
    for key, detector in whole.detectors.items():
        if isinstance(detector, TankLevel | PumpEfficiency):
            mine, costs[detector.name] = judged_by(whole.only([key]), np.column_stack([run.signals[name] for name, *_ in CHANNELS]))
            alarms += mine
    return alarms, costs


def fixed_alarms(run: FaultRun) -> list[Alarm]:
    """Return (kind, step) where fixed limits are passed: levels twice, the hourly gap three hours, six hours of efficiency."""
    s = run.signals
    hourly = np.nanmean(np.nan_to_num(s["inflow"] - s["outflow"]).reshape(-1, 12), axis=1)
    level = s["level"][::12]
    gap = hourly[:-1] - AREA_M2 * np.diff(level)
    with np.errstate(divide="ignore", invalid="ignore"):
        eta = s["inflow"] * (s["discharge"] - s["suction"]) / 3600 / s["power"]
    eta = np.where(s["power"] > 1.0, eta, np.nan)[: len(eta)]
    usual = float(np.nanmedian(eta[: QUIET_DAYS * DAY_STEPS]))
    runs = np.flatnonzero(np.isfinite(eta))
    smooth = np.convolve(eta[runs], np.full(72, 1 / 72))[: len(runs)]
    worn = np.zeros(len(eta), np.bool_)
    worn[runs[72:]] = smooth[72:] < usual - FIXED_ETA_LOSS
    return [
        *begins("tank.overflow", lasting(s["level"] > FIXED_HIGH_M, 2), 1),
        *begins("tank.low", lasting(s["level"] < FIXED_LOW_M, 2), 1),
        *begins("tank.balance", lasting(np.abs(gap) > FIXED_GAP_M3PH, 3), 12),
        *begins("pump.efficiency", worn, 1),
    ]


@dataclass(frozen=True, slots=True)
class FaultScore:
    """What the alarms of one method are worth for one fault; delays in minutes."""

    method: str
    fault: str
    happened: int
    found: int
    delay_min: float | None


@dataclass(frozen=True, slots=True)
class FaultReport:
    """All seeds together; false findings a station-year by kind; the dearest station of each detector."""

    seeds: tuple[int, ...]
    days: int
    scores: tuple[FaultScore, ...]
    false_a_year: dict[str, dict[str, float]]
    costs: dict[str, Cost]

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def is_true(run: FaultRun, alarm: Alarm) -> bool:
    """Return whether an alarm names a fault that is there, or a consequence of one (a tank that a leak empties is low)."""
    kind, step = alarm
    for h in run.happened:
        if h.what in FAULTS and h.begin <= step <= h.end + AFTER_STEPS and KIND_OF[h.what] == kind:
            return True
    near = run.level_true_m[max(step - 1, 0) : step + 24]
    return (kind == "tank.overflow" and bool((near >= OVERFLOW_M).any()) and not _rests(run, step)) or (
        kind == "tank.low" and bool((near < LOW_M).any())
    )


def _rests(run: FaultRun, step: int) -> bool:
    return any(h.what is Mishap.FULL_REST and h.begin <= step <= h.end + AFTER_STEPS for h in run.happened)


def run_faults(seeds: Sequence[int], days: int, told: Callable[[str], None] = lambda what: None) -> FaultReport:
    """Simulate stations, let both methods judge them, and score from the end of the quiet days on."""
    delays: dict[tuple[str, Mishap], list[float | None]] = {(m, f): [] for m in (OURS, BASELINE) for f in FAULTS}
    false = {m: dict.fromkeys(KINDS, 0) for m in (OURS, BASELINE)}
    costs: dict[str, Cost] = {}
    for seed in seeds:
        told(f"seed {seed}")
        run = simulate_faults(seed, days)
        ours, spent = our_alarms(run)
        costs = {name: c if name not in costs else c.dearest(costs[name]) for name, c in spent.items()}
        for method, alarms in ((OURS, ours), (BASELINE, fixed_alarms(run))):
            judged = sorted((a for a in alarms if a[1] >= QUIET_DAYS * DAY_STEPS), key=lambda a: a[1])
            for h in run.happened:
                if h.what in FAULTS:
                    hit = [a for k, a in judged if k == KIND_OF[h.what] and h.begin <= a <= h.end + AFTER_STEPS]
                    delays[method, h.what].append((hit[0] - h.begin) * STEP_S / 60 if hit else None)
            for alarm in judged:
                false[method][alarm[0]] += not is_true(run, alarm)
    years = len(seeds) * (days - QUIET_DAYS) / 365
    scores = []
    for (method, fault), all_of in delays.items():
        found = [d for d in all_of if d is not None]
        scores.append(FaultScore(method, fault.value, len(all_of), len(found), float(np.median(found)) if found else None))
    rates = {m: {k: round(n / years, 2) for k, n in of.items()} for m, of in false.items()}
    ours_prv, fixed_prv, costs["prv"] = run_prv(seeds, days, told)
    for method, valves in ((OURS, ours_prv), (BASELINE, fixed_prv)):
        rates[method][PRV_KIND] = round(sum(v.false for v in valves) / years, 2)
        for event in PRV_FAULTS:
            all_of = [d for v in valves for d in v.delays[event]]
            found = [d for d in all_of if d is not None]
            scores.append(FaultScore(method, event.value, len(all_of), len(found), float(np.median(found)) if found else None))
    return FaultReport(tuple(seeds), days, tuple(scores), rates, costs)


def print_faults(console: Console, report: FaultReport) -> None:
    """Print both methods side by side."""
    table = Table(title="Faults found, median delay")
    for name in ("fault", "kind", OURS, BASELINE):
        table.add_column(name)
    of = {(s.method, s.fault): s for s in report.scores}
    kinds = [(fault.value, KIND_OF[fault]) for fault in FAULTS] + [(event.value, PRV_KIND) for event in PRV_FAULTS]
    for fault, kind in kinds:
        cells = []
        for method in (OURS, BASELINE):
            s = of[method, fault]
            cells.append(f"{s.found} of {s.happened}" + ("" if s.delay_min is None else f", {s.delay_min:.0f} min"))
        table.add_row(fault, kind, *cells)
    console.print(table)
    false = Table(title="False findings a station-year")
    for name in ("kind", OURS, BASELINE):
        false.add_column(name)
    for kind in (*KINDS, PRV_KIND):
        false.add_row(FindingKind(kind).value, *(f"{report.false_a_year[m][kind]:.2f}" for m in (OURS, BASELINE)))
    console.print(false)
    cost = Table(title="Cost of the detectors, lane included")
    for name in ("detector", "us of CPU a grid time", "state, bytes"):
        cost.add_column(name, justify="right" if name != "detector" else "left")
    for name, c in report.costs.items():
        cost.add_row(name, f"{c.us_a_step:.0f}", f"{c.state_bytes:,}")
    console.print(cost)
