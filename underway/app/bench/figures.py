"""What is made of measurements: medians, percentiles, gates, and the figures that the kernel keeps of a process. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LATENCY_SHARES = (0.5, 0.95, 0.99)


def median(values: Sequence[float]) -> float | None:
    """Return the median, or None of nothing.

    Examples
    --------
    >>> median([3.0, 1.0, 2.0]), median([])
    (2.0, None)
    """
    return float(statistics.median(values)) if values else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of all values do not exceed (nearest rank), or None of nothing.

    Examples
    --------
    >>> [percentile([10.0, 20.0, 30.0, 40.0], share) for share in (0.5, 0.75, 0.99, 0.0)]
    [20.0, 30.0, 40.0, 10.0]
    """
    if not values:
        return None
    ordered = sorted(values)
    rank = math.ceil(share * len(ordered) - 1e-9)
    return float(ordered[min(max(rank, 1), len(ordered)) - 1])


def ratio(part: float | None, whole: float | None) -> float | None:
    """Return `part` / `whole`; None when one is missing or there is nothing to divide by."""
    return None if part is None or not whole else part / whole


# gates -----------------------------------------------------------------------------------------------------------------------------------


class Bound(StrEnum):
    """On which side of its limit a figure must lie."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


class GateReason(StrEnum):
    """Why a gate holds or does not."""

    HELD = "held"
    MISSED = "missed"
    NOT_MEASURED = "not measured"
    ROWS_DIFFER = "published and stored differ"
    CUT_SHORT = "cut short"
    NOT_FULL_SIZE = "not at full size"

    @property
    def is_pass(self) -> bool:
        """Return whether the gate holds."""
        return self is GateReason.HELD


@dataclass(frozen=True, slots=True)
class Gate:
    """One promise: a figure, and the limit that it must keep. ``flaw`` says why the figure does not count, whatever it is."""

    name: str
    value: float | None
    bound: Bound
    limit: float
    unit: str = ""
    flaw: GateReason | None = None

    @property
    def reason(self) -> GateReason:
        """Return whether the gate holds, and why not.

        Examples
        --------
        >>> Gate("ratio", 0.81, Bound.AT_LEAST, 0.8).reason.value, Gate("p99", 500.0, Bound.AT_MOST, 400.0, "ms").reason.value
        ('held', 'missed')
        >>> Gate("ratio", 0.9, Bound.AT_LEAST, 0.8, flaw=GateReason.ROWS_DIFFER).reason.is_pass
        False
        """
        if self.flaw is not None:
            return self.flaw
        if self.value is None or not math.isfinite(self.value):
            return GateReason.NOT_MEASURED
        holds = self.value >= self.limit if self.bound is Bound.AT_LEAST else self.value <= self.limit
        return GateReason.HELD if holds else GateReason.MISSED

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "value": rounded(self.value),
            "bound": self.bound.value,
            "limit": self.limit,
            "unit": self.unit,
            "pass": self.reason.is_pass,
            "reason": self.reason.value,
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: what was measured, every repetition of it, and what it is compared with."""

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float | None:
        """Return the median of the repetitions."""
        return median(self.values)

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "repetitions": [rounded(v) for v in self.values],
            "median": rounded(self.median),
            "note": self.note,
        }


@dataclass(slots=True)
class Part:
    """What one part of the benchmark gave.

    Attributes
    ----------
    counts : dict of str to int
        What was published and what was found of it, and what else must not have happened.
    cpu_us : dict of str to (dict of str to float)
        CPU time a reading, in us: by process and by stage of the path.
    notes : list of str
        What a reader of the figures must know.
    """

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    cpu_us: dict[str, dict[str, float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def is_pass(self) -> bool:
        """Return whether every gate holds."""
        return all(gate.reason.is_pass for gate in self.gates)

    def count(self, name: str, more: int) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + more

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "title": self.title,
            "pass": self.is_pass,
            "gates": [gate.facts() for gate in self.gates],
            "figures": [figure.facts() for figure in self.figures],
            "counts": dict(self.counts),
            "cpu_us_per_reading": {k: {n: rounded(v) for n, v in by.items()} for k, by in self.cpu_us.items()},
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "wall_s": round(self.wall_s, 1),
        }


def rounded(value: float | None) -> float | None:
    """Return `value` with four digits that count, for people and for machines alike.

    Examples
    --------
    >>> rounded(18234.56), rounded(0.81234), rounded(None), rounded(float("nan"))
    (18230.0, 0.8123, None, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")


# the kernel's figures --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """CPU time of a process in s: its own, and that of its children that have ended."""

    parent: int
    own_s: float
    children_s: float


def parse_proc_stat(text: str, ticks_per_s: int) -> ProcessTimes:
    """Return what ``/proc/<pid>/stat`` says; the name in it may hold spaces and brackets.

    Examples
    --------
    >>> parse_proc_stat("7 (a (b) c) S 1 7 7 0 -1 0 0 0 0 0 150 50 30 20 20 0 1 0", 100)
    ProcessTimes(parent=1, own_s=2.0, children_s=0.5)
    """
    fields = text[text.rindex(")") + 1 :].split()
    utime, stime, cutime, cstime = (int(value) for value in fields[11:15])
    return ProcessTimes(int(fields[1]), (utime + stime) / ticks_per_s, (cutime + cstime) / ticks_per_s)


def parse_proc_status(text: str) -> dict[str, int]:
    r"""Return the sizes in ``/proc/<pid>/status`` in bytes, by name.

    Examples
    --------
    >>> parse_proc_status("Name: x\nVmHWM:    2048 kB\nVmRSS:\t1024 kB\nThreads: 4\n")
    {'VmHWM': 2097152, 'VmRSS': 1048576}
    """
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            sizes[name] = int(words[0]) * 1024
    return sizes


def stage_us(stages: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]], readings: int) -> dict[str, float]:
    """Return CPU time a reading in us by stage, between two looks at the facts of ingest.

    Examples
    --------
    >>> stage_us({"decode": {"cpu_s": 0.5}, "copy": {"cpu_s": 0.1}}, {"decode": {"cpu_s": 0.3}}, 100_000)
    {'decode': 2.0, 'copy': 1.0}
    """
    if readings <= 0:
        return {}
    return {
        name: round((float(now.get("cpu_s", 0.0)) - float(before.get(name, {}).get("cpu_s", 0.0))) * 1e6 / readings, 4)
        for name, now in stages.items()
    }
