"""``underway bench leaks``: replay towns through the bank of detectors, and say what its digs are worth."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from detectors.bank import Bank
from detectors.water.leak_committee import DigRules
from detectors.water.network_leaks import NetworkLeaks
from underway.app.bench.leak_score import Score, hits, pipe_distance_m, read_truth, score
from underway.app.bench.leak_town import BenchTown, read_town
from underway.app.bench.leaks_via_mqtt import LiveReplay, differences, replay_live
from underway.model import Finding, OperatorError, from_us, to_us

STATED_BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
COLUMNS = ("time", "pipe", "alarm_at", "flow_m3ph", "mass_300m", "evidence")


@dataclass(frozen=True, slots=True)
class Dig:
    """A crew that is sent: when, where, since when it is known, what for."""

    at_us: int
    pipe: str
    alarm_us: int
    flow_m3ph: float
    mass_300m: float
    evidence: str

    def row(self) -> tuple[str, str, str, str, str, str]:
        """Return the line of the file."""
        at, alarm = from_us(self.at_us).isoformat(), from_us(self.alarm_us).isoformat()
        return at, self.pipe, alarm, f"{self.flow_m3ph:.2f}", f"{self.mass_300m:.3f}", self.evidence


@dataclass(frozen=True, slots=True)
class LivePath:
    """Which broker (auto, mosquitto or amqtt) and which database server (empty: an embedded one) a town is sent through."""

    broker: str = "auto"
    database: str = ""


@dataclass(frozen=True, slots=True)
class TownResult:
    """What came of one town: digs, score (None without truth), wall time and CPU time of the replay in seconds, whether each dig hit a leak.

    `live` is None for a direct replay. `differing` names the rows in which the two replays differ, None where they were not compared.
    """

    town: str
    digs: tuple[Dig, ...]
    score: Score | None
    replay_s: float
    cpu_s: float
    readings: int
    baseline: Score | None = None
    hits: tuple[bool, ...] = ()
    live: LiveReplay | None = None
    differing: tuple[str, ...] | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "town": self.town,
            "digs": [asdict(d) for d in self.digs],
            "score": None if self.score is None else self.score.plain(),
            "baseline": None if self.baseline is None else self.baseline.plain(),
            "replay_s": round(self.replay_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            "readings": self.readings,
            "hits": list(self.hits),
        } | ({} if self.live is None else {"via_mqtt": self._plain_live(self.live)})

    def _plain_live(self, live: LiveReplay) -> dict[str, Any]:
        return {
            "broker": live.broker,
            "messages": live.messages,
            "readings_per_s": round(live.readings / live.wall_s),
            "stored": live.stored,
            "flagged": live.flagged,
            "quarantined": live.quarantined,
            "findings": len(live.findings),
            "ingest_cpu_s": round(live.ingest_cpu_s, 1),
            "differing": None if self.differing is None else list(self.differing),
        }


def digs_of(findings: Sequence[Finding]) -> list[Dig]:
    """Return the digs that findings of `NetworkLeaks` ask for, in the order of time."""
    found = []
    for f in findings:
        details = f.evidence.details
        if f.detector == NetworkLeaks.name and details.get("dig") and details.get("dig_asset_id"):
            where = (f.detected_us, str(details["dig_asset_id"]), int(details["alarm_us"]))
            found.append(Dig(*where, float(details["flow_m3ph"]), float(details["mass_300m"]), evidence_line(f)))
    return sorted(found, key=lambda d: (d.at_us, d.pipe))


def evidence_line(finding: Finding) -> str:
    """Return the evidence of a finding in one line: which sensors carry it, expected against observed, and what would speak against it."""
    carried = "; ".join(f"{d.name} {d.observed:.2f} {d.unit} instead of {d.expected:.2f}" for d in finding.evidence.drivers[:3])
    return " | ".join(x for x in (finding.evidence.summary, carried, str(finding.evidence.details.get("doubt", ""))) if x)


def replay(
    town: BenchTown, digs_from: datetime, until: datetime | None = None, told: Callable[[float], None] = lambda share: None
) -> tuple[list[Finding], int]:
    """Send a town through the bank, day by day, as the pipeline would; return the findings of the network's detectors and the count of readings.

    Raises
    ------
    OperatorError
        When no section of the network can be balanced.
    """
    bank = Bank(town.registry, models=[town.model], digs=DigRules(from_us=to_us(digs_from)))
    # lanes do not know of each other: those of other detectors change no dig, and are left out
    mine = [key for key, detector in bank.detectors.items() if isinstance(detector, NetworkLeaks)]
    bank = bank.only(mine)
    if not mine:
        raise OperatorError(f"no part of {town.folder} can be balanced: each needs a pressure gauge, and a meter on all that feeds it")
    bank.hold(town.repairs)
    findings: list[Finding] = []
    readings, days = 0, town.days(until)
    for day, batch in enumerate(town.batches(until)):
        readings += len(batch)
        findings += [f for f in bank.step(batch).findings if f.detector == NetworkLeaks.name]
        told((day + 1) / days)
    return findings, readings


def _rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """Return what two replays must have in common: the digs as they are written, and every finding."""
    said = [(from_us(f.detected_us).isoformat(), f.phase.value, f.kind.value, f.asset_id, str(f.finding_id)) for f in findings]
    return [*(d.row() for d in digs_of(findings)), *said]


def run_town(
    folder: Path,
    digs_from: datetime,
    until: datetime | None,
    baseline: bool,
    told: Callable[[float], None] = lambda share: None,
    *,
    days: int | None = None,
    path: LivePath | None = None,
    check: bool = False,
) -> TownResult:
    """Replay one town and score it.

    Parameters
    ----------
    folder : Path
    digs_from, until, told
        As `replay`.
    baseline : bool
        Whether the simple baseline runs beside it.
    days : int, optional
        Only so many days from the first reading on.
    path : LivePath, optional
        Send it through the live path; directly through the bank when left out.
    check : bool
        Also replay it directly, and compare.
    """
    began, cpu = time.perf_counter(), time.process_time()
    town = read_town(folder)
    if days is not None:
        cut = town.begin_at() + timedelta(days=days)
        until = cut if until is None else min(until, cut)
    live: LiveReplay | None = None
    differing: tuple[str, ...] | None = None
    if path is None:
        findings, readings = replay(town, digs_from, until, told)
        wall, used = time.perf_counter() - began, time.process_time() - cpu
    else:
        live = replay_live(town, digs_from, until, told, broker=path.broker, database=path.database)
        findings, readings, wall, used = list(live.findings), live.readings, live.wall_s, live.ingest_cpu_s
        if check:
            direct, _ = replay(town, digs_from, until, told)
            differing = tuple(differences(_rows(direct), _rows(findings)))
    digs = digs_of(findings)
    truth = read_truth(folder)
    found = simple = None
    hit: list[bool] = []
    if truth is not None:
        number, distance = pipe_distance_m(town.pipe_ends, town.pipe_length_m)
        since = to_us(digs_from) / 1e6
        found = score([(d.at_us / 1e6, d.pipe) for d in digs], truth, number, distance, since)
        hit = hits([(d.at_us / 1e6, d.pipe) for d in digs], truth, number, distance)
        if baseline:
            from underway.app.bench.leak_baseline import baseline_digs

            simple = score(baseline_digs(town, since, until), truth, number, distance, since)
    return TownResult(folder.name, tuple(digs), found, wall, used, readings, simple, tuple(hit), live, differing)


def write_digs(path: Path, digs: Sequence[Dig]) -> None:
    """Write digs as the benchmark wants them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(d.row() for d in digs)


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the table: a figure of a score, the gate and the goal for its median, and whether more is better."""

    name: str
    unit: str
    gate: float
    goal: float
    more: bool

    def of(self, result: TownResult, which: Score | None) -> float | None:
        """Return the figure of one town."""
        if self.name == "replay":
            return result.replay_s if result.live is None else None  # the gate is one for the direct replay
        if which is None:
            return None
        if self.name == "abrupt_found_share":
            return which.abrupt_found / which.abrupt if which.abrupt else None
        if self.name == "incipient_found_share":
            return which.incipient_found / which.incipient if which.incipient else None
        value = getattr(which, self.name)
        return None if value is None else float(value)


MEASURES = (
    Measure("share_strict", "of perfect", 0.75, 0.90, True),
    Measure("false_digs", "", 5, 2, False),
    Measure("repeats", "", 5, 2, False),
    Measure("abrupt_found_share", "", 0.80, 0.95, True),
    Measure("abrupt_delay_h", "h", 24, 6, False),
    Measure("incipient_found_share", "", 0.50, 0.75, True),
    Measure("incipient_delay_h", "h", float("nan"), float("nan"), False),
    Measure("distance_m", "m", 120, 80, False),
    Measure("eur_at_5000", "EUR", float("nan"), float("nan"), True),
    Measure("replay", "s", 180, 60, False),
)


def reliability(stated: Sequence[float], hit: Sequence[bool]) -> list[dict[str, float]]:
    """Return, by the probability that was stated, how many digs there were, what was stated on average, and how often a leak was in reach.

    Examples
    --------
    >>> reliability([0.45, 0.55, 0.95, 0.97], [False, True, True, True])[-1]
    {'from': 0.9, 'to': 1.0, 'digs': 2, 'stated': 0.96, 'seen': 1.0}
    """
    rows = []
    for low, high in itertools.pairwise(STATED_BINS):
        mine = [(p, h) for p, h in zip(stated, hit, strict=True) if low <= p < high or (high == 1.0 and p >= 1.0)]
        if mine:
            told, seen = (round(float(np.mean(x)), 3) for x in zip(*mine, strict=True))
            rows.append({"from": low, "to": high, "digs": len(mine), "stated": told, "seen": seen})
    return rows


def summary(results: Sequence[TownResult]) -> list[dict[str, Any]]:
    """Return one row a measure: of every town, the median and the spread, the baseline, gate, goal and whether the median keeps them."""
    rows = []
    for measure in MEASURES:
        values = [measure.of(r, r.score) for r in results]
        simple = [measure.of(r, r.baseline) for r in results] if measure.name != "replay" else []
        known = [v for v in values if v is not None]
        median = float(np.median(known)) if known else None
        sense = 1 if measure.more else -1

        def kept(limit: float, median: float | None = median, sense: int = sense) -> bool | None:
            return None if median is None or np.isnan(limit) else bool(sense * (median - limit) >= 0)

        plain = [v for v in simple if v is not None]
        rows.append(
            {
                "measure": measure.name,
                "unit": measure.unit,
                "towns": dict(zip((r.town for r in results), values, strict=True)),
                "median": median,
                "min": min(known, default=None),
                "max": max(known, default=None),
                "baseline_median": float(np.median(plain)) if plain else None,
                "gate": None if np.isnan(measure.gate) else measure.gate,
                "goal": None if np.isnan(measure.goal) else measure.goal,
                "gate_kept": kept(measure.gate),
                "goal_reached": kept(measure.goal),
            }
        )
    return rows
