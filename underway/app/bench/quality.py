"""``underway bench quality``: simulated quality stations through the bank of detectors, beside fixed limits and a river model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from detectors.bank import Bank
from detectors.water.quality import WaterQuality
from simulators.quality_station import (
    DAY_S,
    LEARNING_DAYS,
    OPERATIONS,
    PROBES,
    RESOLUTION,
    STEP_S,
    Happening,
    HappeningKind,
    StationRun,
    simulate_station,
)
from underway.app.bench.quality_baselines import (
    LIMIT_MARGINS,
    REGRESSION_QUANTILES,
    TREES_QUANTILE,
    fixed_limits,
    over_quantile,
    regression_statistic,
    trees_statistic,
)
from underway.model import (
    CANONICAL_UNIT,
    Asset,
    AssetClass,
    Channel,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

TUNING_SEEDS = (1, 2, 3, 4)
"""On these everything was tuned: constants of the detector, limits of the others."""
HELD_OUT_SEEDS = (101, 102, 103, 104, 105, 106, 107, 108)
"""On these nothing was."""
BEGIN_US = 1_771_200_000_000_000  # 2026-02-16T00:00Z, a Monday
HOUR_S = 3600
LATE_S = 2 * HOUR_S
"""A contamination that is raised up to two hours after it left the station counts as found."""
LOOK_S = 2 * HOUR_S
"""A person has looked at an event that was none after two hours, and cancels it."""
MONTH_S = 30 * DAY_S
OURS = "water-quality"


@dataclass(frozen=True, slots=True)
class Score:
    """What the alarms of one method on one station are worth; delays in minutes from when the contaminant is at the station."""

    method: str
    seed: int
    contaminations: int
    found: int
    delays_min: tuple[float, ...]
    months: float
    false_alarms: int
    false_by: dict[str, int] = field(default_factory=dict)
    found_classes: dict[str, list[int]] = field(default_factory=dict)
    probes: int = 0
    probes_told: int = 0
    operations_told: int = 0
    cpu_s: float = 0.0

    @property
    def false_a_month(self) -> float:
        """Return false alarms a station and month."""
        return self.false_alarms / self.months

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "false_a_month": round(self.false_a_month, 3)}


def make_registry(run: StationRun) -> Registry:
    """Return a registry with one station: its probes are channels 1..n of one device."""
    station = f"qs-{run.station.lower()}"
    site, zone = Site("bench", "Bench", "UTC", 0.0, 0.0), Zone("z1", "bench", "Zone 1", ZoneKind.DMA)
    channels = tuple(
        Channel(
            i, station, name, Quantity(name), CANONICAL_UNIT[Quantity(name)], station, "z1", "water_quality", -100.0, 1e5, STEP_S,
            RESOLUTION[name],
        )
        for i, name in enumerate(run.signals, start=1)
    )  # fmt: skip
    return Registry(site, (zone,), (Asset(station, "bench", "z1", AssetClass.JUNCTION, f"Station {run.station}"),), (), channels)


def batches(run: StationRun) -> Iterator[tuple[int, ReadingBatch]]:
    """Yield (end, readings) by the hour, in event order; a gap is no reading."""
    value = np.column_stack(list(run.signals.values()))
    rows = HOUR_S // STEP_S
    for first in range(0, len(value), rows):
        part = value[first : first + rows]
        row, column = np.nonzero(np.isfinite(part))
        at = BEGIN_US + run.at_s[first + row] * 1_000_000
        yield int(run.at_s[first]) + HOUR_S, ReadingBatch.from_columns(column + 1, at, part[row, column])


def replay(run: StationRun, confirm: bool = True) -> list[Finding]:
    """Send a station through the bank, by the hour, with a person who looks at each event; return its findings.

    An event that is a contamination is held until two hours after it left the station; every other one is cancelled after two hours, and so
    becomes a known operation; without `confirm` nobody touches anything.
    """
    bank = Bank(make_registry(run))
    bank = bank.only([key for key, d in bank.detectors.items() if isinstance(d, WaterQuality)])
    spikes = [h for h in run.happenings if h.kind is HappeningKind.CONTAMINATION]
    findings: list[Finding] = []
    open_holds: list[tuple[int, Hold, str]] = []
    for end_s, batch in batches(run):
        found = [f for f in bank.step(batch).findings if f.detector == WaterQuality.name]
        findings += found
        due = [h for h in open_holds if h[0] <= end_s]
        open_holds = [h for h in open_holds if h[0] > end_s]
        told = []
        for at_s, hold, verdict in due:
            told.append(Hold(hold.hold_id, hold.zone_id, hold.asset_id, hold.held_us, BEGIN_US + at_s * 1_000_000, verdict))
        for f in found:
            if confirm and f.phase is FindingPhase.RAISE and f.kind is FindingKind.QUALITY_EVENT:
                real = _cause(spikes, (f.detected_us - BEGIN_US) // 1_000_000)
                until = (real.seen_until_s if real is not None else end_s) + LOOK_S
                hold = Hold(len(findings) * 1000 + len(told) + len(open_holds) + end_s, "z1", f.asset_id, f.detected_us)
                told.append(hold)
                open_holds.append((until, hold, "repaired" if real is not None else "cancelled"))
        if told:
            bank.hold(told)
    return findings


def _cause(happenings: Sequence[Happening], at_s: int) -> Happening | None:
    """Return what is at the station at an instant, or left it less than two hours before."""
    return next((h for h in happenings if h.seen_from_s <= at_s <= h.seen_until_s + LATE_S), None)


def score(method: str, seed: int, run: StationRun, alarms_s: Sequence[int], cpu_s: float, findings: Sequence[Finding] = ()) -> Score:
    """Score alarms from the end of the learning on."""
    begin = LEARNING_DAYS * DAY_S
    judged = sorted(at for at in alarms_s if at >= begin)
    spikes = [h for h in run.happenings if h.kind is HappeningKind.CONTAMINATION]
    delays: list[float] = []
    classes: dict[str, list[int]] = {}
    for h in spikes:
        first = next((at for at in judged if h.seen_from_s <= at <= h.seen_until_s + LATE_S), None)
        seen, got = classes.setdefault(h.what, [0, 0])
        classes[h.what] = [seen + 1, got + (first is not None)]
        if first is not None:
            delays.append((first - h.seen_from_s) / 60.0)
    false_by = dict.fromkeys(("operation", "probe", "nothing"), 0)
    for at in judged:
        if _cause(spikes, at) is not None:
            continue
        others = [h for h in run.happenings if h.kind is not HappeningKind.DRIFT and h.seen_from_s <= at <= h.seen_until_s + LATE_S]
        kinds = {h.kind for h in others}
        false_by["operation" if kinds & set(OPERATIONS) else "probe" if kinds & set(PROBES) else "nothing"] += 1
    rests = [h for h in run.happenings if h.kind in (HappeningKind.CALIBRATION, HappeningKind.MAINTENANCE) and h.seen_from_s >= begin]
    at_of = {
        kind: [(f.detected_us - BEGIN_US) // 1_000_000 for f in findings if f.kind is kind and f.phase is FindingPhase.RAISE]
        for kind in (FindingKind.QUALITY_SENSOR, FindingKind.QUALITY_OPERATION)
    }
    told = sum(any(h.seen_from_s <= at <= h.seen_until_s + STEP_S for at in at_of[FindingKind.QUALITY_SENSOR]) for h in rests)
    operations = sum(at >= begin for at in at_of[FindingKind.QUALITY_OPERATION])
    months = (run.days * DAY_S - begin) / MONTH_S
    return Score(
        method, seed, len(spikes), len(delays), tuple(delays), months, sum(false_by.values()), false_by, classes, len(rests), told,
        operations, round(cpu_s, 2),
    )  # fmt: skip


def run_seed(
    seed: int, network: str, station: str, days: int, confirm: bool = True, told: Callable[[str], None] = lambda what: None
) -> tuple[StationRun, list[Score]]:
    """Simulate one station and let every method judge it."""
    told(f"seed {seed}: simulate")
    run = simulate_station(network, seed, station=station, days=days)
    scores = []
    told(f"seed {seed}: {OURS}")
    began = time.process_time()
    findings = replay(run, confirm)
    used = time.process_time() - began
    events = [
        (f.detected_us - BEGIN_US) // 1_000_000 for f in findings if f.kind is FindingKind.QUALITY_EVENT and f.phase is FindingPhase.RAISE
    ]
    scores.append(score(OURS, seed, run, events, used, findings))
    for margin in LIMIT_MARGINS:
        began = time.process_time()
        alarms = fixed_limits(run, margin)
        scores.append(score(f"3 of 4 outside limits, {margin:.0%} margin", seed, run, alarms, time.process_time() - began))
    told(f"seed {seed}: river")
    for name, statistic_of, quantiles in (
        ("river regression", regression_statistic, REGRESSION_QUANTILES), ("river half-space trees", trees_statistic, (TREES_QUANTILE,)),
    ):  # fmt: skip
        began = time.process_time()
        statistic = statistic_of(run)
        used = time.process_time() - began
        for quantile in quantiles:
            alarms = over_quantile(statistic, run, quantile)
            scores.append(score(f"{name}, {quantile:.1%}, 3 of 4", seed, run, alarms, used))
    return run, scores


@dataclass(frozen=True, slots=True)
class Summary:
    """All seeds of one method together, and the spread over them."""

    method: str
    contaminations: int
    found: int
    found_share: tuple[float, float, float]
    delay_min: float | None
    delay_p90_min: float | None
    false_a_month: tuple[float, float, float]
    false_by: dict[str, int]
    found_classes: dict[str, list[int]]
    probes: int
    probes_told: int
    operations_told: int
    cpu_s: float

    @classmethod
    def of(cls, method: str, scores: Sequence[Score]) -> Summary:
        """Sum the scores of one method up; shares and rates as (all together, lowest seed, highest seed)."""
        delays = [d for s in scores for d in s.delays_min]
        shares = [s.found / s.contaminations for s in scores if s.contaminations]
        total, found = sum(s.contaminations for s in scores), sum(s.found for s in scores)
        rates = [s.false_a_month for s in scores]
        false_by: dict[str, int] = {}
        classes: dict[str, list[int]] = {}
        for s in scores:
            for cause, n in s.false_by.items():
                false_by[cause] = false_by.get(cause, 0) + n
            for what, (seen, got) in s.found_classes.items():
                before = classes.get(what, [0, 0])
                classes[what] = [before[0] + seen, before[1] + got]
        return cls(
            method, total, found,
            (found / total if total else 0.0, min(shares, default=0.0), max(shares, default=0.0)),
            float(np.median(delays)) if delays else None, float(np.quantile(delays, 0.9)) if delays else None,
            (sum(s.false_alarms for s in scores) / sum(s.months for s in scores), min(rates), max(rates)),
            false_by, classes, sum(s.probes for s in scores), sum(s.probes_told for s in scores), sum(s.operations_told for s in scores),
            round(sum(s.cpu_s for s in scores), 1),
        )  # fmt: skip


def summary(scores: Sequence[Score]) -> list[Summary]:
    """Return one summary a method, in the order in which they ran."""
    methods = list(dict.fromkeys(s.method for s in scores))
    return [Summary.of(m, [s for s in scores if s.method == m]) for m in methods]


def as_plain(scores: Sequence[Score], network: str, station: str, days: int) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "network": network,
        "station": station,
        "days": days,
        "seeds": list(dict.fromkeys(s.seed for s in scores)),
        "scores": [s.plain() for s in scores],
        "summary": [asdict(s) for s in summary(scores)],
    }
