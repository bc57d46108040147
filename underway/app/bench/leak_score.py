"""Economic score of leak detections, by the rules of BattLeDIM 2020 (Vrachimis et al. 2022, doi 10.1061/(ASCE)WR.1943-5452.0001601).

A crew that digs within 300 m (along the pipes, middle to middle) of a leak that runs and was not found before wins 0.80 EUR for each m3 that it would
still have lost, less 500 EUR x distance / 300 m. A leak that was found already gives nothing (a repeat), anything else costs 500 EUR (a false dig).
``share_strict`` is the part of what a perfect detector would get, with 500 EUR for each repeat too.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

REACH_M, EUR_M3, DIG_EUR, DRY_EUR = 300.0, 0.80, 500.0, 5000.0
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class TrueLeak:
    """One leak of the truth; instants in seconds since 1970, flow as hourly means (m3/h) from `flow_begin_s` on."""

    pipe: str
    start_s: float
    end_s: float
    abrupt: bool
    flow_begin_s: float
    flow_m3ph: NDArray[np.float64]

    def lost_after_m3(self, at_s: float) -> float:
        """Return what is lost from an instant on, m3.

        Examples
        --------
        >>> TrueLeak("p", 0.0, 7200.0, True, 0.0, np.array([10.0, 20.0])).lost_after_m3(1800.0)
        25.0
        """
        hour = max(0.0, (at_s - self.flow_begin_s) / HOUR_S)
        whole = int(hour)
        if whole >= len(self.flow_m3ph):
            return 0.0
        return float(self.flow_m3ph[whole:].sum() - self.flow_m3ph[whole] * (hour - whole))


@dataclass(frozen=True, slots=True)
class Found:
    """A leak that was found: by which dig, how far off, how late, worth what."""

    pipe: str
    dug: str
    kind: str
    carried: bool
    distance_m: float
    delay_h: float
    eur: float


@dataclass(frozen=True, slots=True)
class Score:
    """What a list of digs is worth; delays in hours (median), distance in m (mean); None where there is nothing to average."""

    share_strict: float | None
    share: float | None
    eur: float
    eur_at_5000: float
    perfect_eur: float
    digs: int
    leaks: int
    found: int
    false_digs: int
    repeats: int
    carried: int
    carried_found: int
    abrupt: int
    abrupt_found: int
    abrupt_delay_h: float | None
    incipient: int
    incipient_found: int
    incipient_delay_h: float | None
    distance_m: float | None
    missed: tuple[str, ...] = ()
    detail: tuple[Found, ...] = field(default=())

    def plain(self) -> dict[str, object]:
        """Return the score as plain values."""
        return asdict(self)


def pipe_distance_m(ends: Mapping[str, tuple[str, str]], length_m: Mapping[str, float]) -> tuple[dict[str, int], NDArray[np.float64]]:
    """Return (number of each pipe, distances between the middles of pipes along the pipes).

    Examples
    --------
    Three pipes of 100 m in a row:

    >>> number, far = pipe_distance_m({"a": ("1", "2"), "b": ("2", "3"), "c": ("3", "4")}, {"a": 100.0, "b": 100.0, "c": 100.0})
    >>> far[number["a"]].tolist()
    [0.0, 100.0, 200.0]
    """
    names = list(ends)
    node: dict[str, int] = {}
    for a, b in ends.values():
        node.setdefault(a, len(node))
        node.setdefault(b, len(node))
    first, second = (np.array([node[ends[p][k]] for p in names]) for k in (0, 1))
    length = np.array([length_m[p] for p in names])
    between = dijkstra(coo_matrix((np.maximum(length, 1e-6), (first, second)), shape=(len(node),) * 2).tocsr(), directed=False)
    near = np.min([between[np.ix_(a, b)] for a in (first, second) for b in (first, second)], axis=0)
    far = near + (length[:, None] + length[None, :]) / 2
    np.fill_diagonal(far, 0.0)
    return {p: i for i, p in enumerate(names)}, far


def score(
    digs: Sequence[tuple[float, str]], leaks: Sequence[TrueLeak], number: Mapping[str, int], distance_m: NDArray[np.float64], since_s: float
) -> Score:
    """Return what digs are worth.

    Parameters
    ----------
    digs : sequence of (float, str)
        Time (seconds since 1970) and pipe of each crew that went out.
    leaks : sequence of TrueLeak
    number, distance_m
        As `pipe_distance_m` gives them.
    since_s : float
        Begin of the judged time; earlier digs and leaks that had ended by then do not count.
    """
    leaks = [leak for leak in leaks if leak.end_s > since_s]
    found: dict[int, Found] = {}
    false = repeats = 0
    eur = 0.0
    judged = sorted((d for d in digs if d[0] >= since_s), key=lambda d: d[0])
    for at_s, pipe in judged:
        near = sorted(
            (float(distance_m[number[leak.pipe], number[pipe]]), j)
            for j, leak in enumerate(leaks)
            if pipe in number and leak.start_s <= at_s <= leak.end_s and distance_m[number[leak.pipe], number[pipe]] <= REACH_M
        )
        new = [x for x in near if x[1] not in found]
        if new:
            far, j = new[0]
            leak = leaks[j]
            won = leak.lost_after_m3(at_s) * EUR_M3 - far / REACH_M * DIG_EUR
            carried = leak.start_s < since_s
            kind = "abrupt" if leak.abrupt else "incipient"
            found[j] = Found(
                leak.pipe, pipe, kind, carried, round(far, 1), round((at_s - max(leak.start_s, since_s)) / HOUR_S, 1), round(won)
            )
            eur += won
        elif near:
            repeats += 1
        else:
            false += 1
            eur -= DIG_EUR
    perfect = sum(leak.lost_after_m3(max(leak.start_s, since_s)) * EUR_M3 for leak in leaks)
    new_leaks = [leak for leak in leaks if leak.start_s >= since_s]

    def delays(kind: str) -> list[float]:
        return [f.delay_h for f in found.values() if f.kind == kind and not f.carried]

    def median(values: list[float]) -> float | None:
        return round(float(np.median(values)), 1) if values else None

    return Score(
        share_strict=round((eur - DIG_EUR * repeats) / perfect, 3) if perfect else None,
        share=round(eur / perfect, 3) if perfect else None,
        eur=round(eur),
        eur_at_5000=round(eur - (DRY_EUR - DIG_EUR) * false),
        perfect_eur=round(perfect),
        digs=len(judged),
        leaks=len(leaks),
        found=len(found),
        false_digs=false,
        repeats=repeats,
        carried=len(leaks) - len(new_leaks),
        carried_found=sum(f.carried for f in found.values()),
        abrupt=sum(leak.abrupt for leak in new_leaks),
        abrupt_found=len(delays("abrupt")),
        abrupt_delay_h=median(delays("abrupt")),
        incipient=sum(not leak.abrupt for leak in new_leaks),
        incipient_found=len(delays("incipient")),
        incipient_delay_h=median(delays("incipient")),
        distance_m=round(float(np.mean([f.distance_m for f in found.values()])), 1) if found else None,
        missed=tuple(leak.pipe for j, leak in enumerate(leaks) if j not in found),
        detail=tuple(found.values()),
    )


def hits(
    digs: Sequence[tuple[float, str]], leaks: Sequence[TrueLeak], number: Mapping[str, int], distance_m: NDArray[np.float64]
) -> list[bool]:
    """Return of each dig whether a leak runs within reach of it, found before or not: what its stated probability is about."""
    return [
        pipe in number and any(x.start_s <= at_s <= x.end_s and distance_m[number[x.pipe], number[pipe]] <= REACH_M for x in leaks)
        for at_s, pipe in digs
    ]


def read_truth(folder: Path) -> list[TrueLeak] | None:
    """Return the leaks of a town, None when its folder does not tell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    leaks, flows = folder / "truth" / "leaks.csv", folder / "truth" / "leakflow.parquet"
    if not (leaks.is_file() and flows.is_file()):
        return None
    table = pq.read_table(flows)
    time = next((n for n in ("time", "timestamp", "__index_level_0__") if n in table.column_names), table.column_names[-1])
    at = np.asarray(table.column(time).cast(pa.timestamp("us", tz="UTC")).cast("int64").to_numpy(), np.float64) / 1e6

    def seconds(text: str) -> float:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    with leaks.open(newline="", encoding="utf-8") as file:
        return [
            TrueLeak(
                r["pipe"], seconds(r["start"]), seconds(r["end"]), r["kind"] == "abrupt", float(at[0]),
                np.nan_to_num(np.asarray(table.column(r["pipe"]).to_numpy(), np.float64)),
            )
            for r in csv.DictReader(file)
        ]  # fmt: skip
