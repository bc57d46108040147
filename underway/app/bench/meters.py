"""``underway bench meters``: simulated years of customer meters through the bank of detectors, beside fixed limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from detectors.bank import Bank
from detectors.contract import Rows
from detectors.sensor.flat_line import FlatLine
from simulators.customer_meters import DAY_S, FAULTS, FAULTS_FROM_DAY, Happening, HappeningKind, MeterYear, simulate_customer_meters
from underway.app.bench.meters_baseline import STRICT, fixed_limits
from underway.model import (
    EPOCH_AT,
    Channel,
    Device,
    Finding,
    FindingKind,
    FindingPhase,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

TUNING_SEEDS = (1, 2, 3, 4)
"""On these the detectors were looked at while they were made."""
HELD_OUT_SEEDS = (101, 102, 103, 104, 105, 106, 107, 108)
"""On these nothing was."""
BEGIN_US = 1_771_200_000_000_000  # 2026-02-16T00:00Z, a Monday
OURS, FLAT, LIMITS, STRICT_LIMITS = "detectors", "flat-line", "fixed-limits", "strict-limits"
METER_DETECTORS = ("meter-backward", "meter-stopped", "meter-tamper")
GRACE_S = 7 * DAY_S
"""A fault that ended counts as found when it is raised up to a week after its end."""

K, F = HappeningKind, FindingKind
FOUND_BY: dict[HappeningKind, tuple[str, ...]] = {
    K.STOPPED: (F.METER_STOPPED, F.METER_STUCK),
    K.STICKY: (F.METER_STOPPED, F.METER_STUCK),
    K.BYPASS: (F.METER_TAMPER,),
    K.MAGNET: (F.METER_TAMPER, F.METER_STOPPED, F.METER_STUCK),
    K.BACKWARD: (F.METER_BACKWARD,),
    K.TURNED: (F.METER_BACKWARD, F.BACKFLOW),
    K.BACKFLOW: (F.BACKFLOW,),
}
"""Which kinds of finding name a fault."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm of one method: kind, device, seconds from the start."""

    kind: str
    device_id: str
    at_s: int


@dataclass(frozen=True, slots=True)
class MeterScore:
    """What the alarms of one method on one year are worth; by kind of fault, and false ones by kind of alarm."""

    method: str
    seed: int
    meter_years: float
    faults: dict[str, int]
    found: dict[str, int]
    delays_d: dict[str, list[float]]
    false: dict[str, int]
    false_behind: dict[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0


def make_registry(year: MeterYear) -> Registry:
    """Return a registry with the meters of a year: channel i + 1 is the register of meter i."""
    zones = tuple(Zone(z, "bench", z, ZoneKind.DMA) for z in sorted({m.zone_id for m in year.meters}))
    devices = tuple(
        Device(m.device_id, "bench", m.zone_id, None, "meter", "native", EPOCH_AT, attributes={"register_max_m3": m.register_max_m3})
        for m in year.meters
    )
    channels = tuple(
        Channel(
            i, m.device_id, "volume", Quantity.VOLUME, "m3", None, m.zone_id, "customer_meter", 0.0, 1e6, 3600.0, m.pulse_l / 1000.0
        )
        for i, m in enumerate(year.meters, start=1)
    )  # fmt: skip
    return Registry(Site("bench", "Bench", "UTC", 0.0, 0.0), zones, (), devices, channels)


def batches(year: MeterYear) -> Iterator[ReadingBatch]:
    """Yield readings by the day, in event order; a reading that is missing is none."""
    for first in range(0, len(year.at_s), 24):
        part = year.register_m3[:, first : first + 24].T
        row, column = np.nonzero(np.isfinite(part))
        at = BEGIN_US + year.at_s[first + row] * 1_000_000
        yield ReadingBatch.from_columns(column + 1, at, part[row, column])


def replay(year: MeterYear) -> list[Alarm]:
    """Send a year through the bank; return what its detectors of meters raised, in order."""
    bank = Bank(make_registry(year))
    bank = bank.only([key for key, d in bank.detectors.items() if d.name in METER_DETECTORS])
    raised = (f for batch in batches(year) for f in bank.step(batch).findings if f.phase is FindingPhase.RAISE)
    return [_alarm(f) for f in raised]


def score(method: str, year: MeterYear, alarms: Sequence[Alarm], cpu_s: float) -> MeterScore:
    """Say what alarms are worth: a fault is found by the first alarm of its kinds at its meter while it lasts; any alarm at another time is false.

    An alarm of another kind than the fault's at a meter that is at fault is neither.
    """
    of: dict[str, list[Happening]] = {}
    for h in year.happenings:
        of.setdefault(h.device_id, []).append(h)
    names = [k.value for k in FOUND_BY]
    faults, found, false, behind = dict.fromkeys(names, 0), dict.fromkeys(names, 0), {}, {}  # type: ignore[var-annotated]
    delays: dict[str, list[float]] = {name: [] for name in names}
    for h in year.faults:
        if h.kind not in FOUND_BY:
            continue
        faults[h.kind.value] += 1
        mine = [a.at_s for a in alarms if a.device_id == h.device_id and a.kind in FOUND_BY[h.kind] and _during(h, a)]
        if mine:
            found[h.kind.value] += 1
            delays[h.kind.value].append((min(mine) - h.begin_s) / DAY_S)
    for a in alarms:
        mine_all = of.get(a.device_id, [])
        if not any(h.kind in FAULTS and _during(h, a) for h in mine_all):
            false[a.kind] = false.get(a.kind, 0) + 1
            why = next((h.kind.value for h in mine_all if h.begin_s <= a.at_s), _customer(year, a.device_id))
            behind[f"{a.kind} {why}"] = behind.get(f"{a.kind} {why}", 0) + 1
    return MeterScore(method, year.seed, len(year.meters) * year.days / 365.0, faults, found, delays, false, behind, round(cpu_s, 1))


def _during(h: Happening, a: Alarm) -> bool:
    return h.begin_s <= a.at_s <= h.end_s + GRACE_S


def _customer(year: MeterYear, device_id: str) -> str:
    return next((m.customer.value for m in year.meters if m.device_id == device_id), "stranger")


def run_seed(seed: int, customers: int, days: int) -> list[MeterScore]:
    """Return the scores of all methods on one simulated year."""
    year = simulate_customer_meters(seed, customers=customers, days=days)
    scores = []
    for method, run in ((OURS, replay), (FLAT, _flat_line), (LIMITS, _limits), (STRICT_LIMITS, _strict_limits)):
        begin = time.process_time()
        alarms = run(year)
        scores.append(score(method, year, alarms, time.process_time() - begin))
    return scores


def _flat_line(year: MeterYear) -> list[Alarm]:
    """Return what the detector of values that stand would say of registers, which it is not fed."""
    detector = FlatLine(make_registry(year).channels)
    alarms = []
    for batch in batches(year):
        late = np.zeros(len(batch), np.bool_)
        found = detector.step(Rows(batch.channel_id - 1, batch.observed_us, batch.received_us, batch.value, late)).findings
        alarms += [_alarm(f) for f in found if f.phase is FindingPhase.RAISE]
    return alarms


def _alarm(f: Finding) -> Alarm:
    return Alarm(f.kind.value, f.asset_id.removeprefix("device:"), (f.detected_us - BEGIN_US) // 1_000_000)


def _limits(year: MeterYear) -> list[Alarm]:
    return [Alarm(*alarm) for alarm in fixed_limits(year)]


def _strict_limits(year: MeterYear) -> list[Alarm]:
    return [Alarm(*alarm) for alarm in fixed_limits(year, STRICT)]


def summary(scores: Sequence[MeterScore]) -> list[dict[str, Any]]:
    """Return one row a method and kind of fault: faults, found, share, median delay in days; and one a kind of alarm: false a 1,000 meter-years."""
    rows: list[dict[str, Any]] = []
    for method in dict.fromkeys(s.method for s in scores):
        mine = [s for s in scores if s.method == method]
        for name in mine[0].faults:
            delays = [d for s in mine for d in s.delays_d[name]]
            total, got = sum(s.faults[name] for s in mine), sum(s.found[name] for s in mine)
            rows.append({
                "method": method, "fault": name, "faults": total, "found": got, "share": round(got / total, 3) if total else None,
                "delay_d": round(float(np.median(delays)), 1) if delays else None,
            })  # fmt: skip
    return rows


def false_rates(scores: Sequence[MeterScore]) -> list[dict[str, Any]]:
    """Return how many false alarms of each kind each method raised in a year and 1,000 meters, and what was behind them."""
    rows = []
    for method in dict.fromkeys(s.method for s in scores):
        mine = [s for s in scores if s.method == method]
        years = sum(s.meter_years for s in mine)
        for kind in sorted({k for s in scores for k in s.false}):
            behind: dict[str, int] = {}
            for s in mine:
                for what, n in s.false_behind.items():
                    if what.startswith(f"{kind} "):
                        behind[what.removeprefix(f"{kind} ")] = behind.get(what.removeprefix(f"{kind} "), 0) + n
            count = sum(s.false.get(kind, 0) for s in mine)
            rows.append(
                {"method": method, "kind": kind, "false": count, "a_year_and_1000": round(1000.0 * count / years, 2), "behind": behind}
            )
    return rows


def as_plain(scores: Sequence[MeterScore], customers: int, days: int) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "customers": customers,
        "days": days,
        "faults_from_day": FAULTS_FROM_DAY,
        "seeds": list(dict.fromkeys(s.seed for s in scores)),
        "summary": summary(scores),
        "false": false_rates(scores),
        "scores": [asdict(s) for s in scores],
    }
