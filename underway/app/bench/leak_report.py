"""The tables of ``underway bench leaks``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from underway.app.bench.leaks import TownResult, reliability, summary


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    if unit == "EUR":
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 and value != int(value) else f"{value:g}" if value == int(value) else f"{value:.1f}"


def print_summary(console: Console, results: Sequence[TownResult]) -> None:
    """Print every figure of every town, median, spread, baseline, gate and goal."""
    table = Table(title="Leaks: every town, median and spread, the simple baseline, gate and goal")
    table.add_column("measure")
    for r in results:
        table.add_column(r.town, justify="right")
    for name in ("median", "min", "max", "baseline", "gate", "goal"):
        table.add_column(name, justify="right")
    for row in summary(results):
        unit = str(row["unit"])
        gate = _figure(row["gate"], unit)
        if row["gate_kept"] is not None:
            gate += " kept" if row["gate_kept"] else " MISSED"
        goal = _figure(row["goal"], unit) + (" reached" if row["goal_reached"] else "")
        towns = [_figure(v, unit) for v in row["towns"].values()]
        spread = [_figure(row[name], unit) for name in ("median", "min", "max", "baseline_median")]
        table.add_row(f"{row['measure']} {unit}".strip(), *towns, *spread, gate, goal)
    console.print(table)


def _reliability(results: Sequence[TownResult]) -> list[dict[str, float]]:
    scored = [r for r in results if r.score is not None]
    return reliability([d.mass_300m for r in scored for d in r.digs], [h for r in scored for h in r.hits])


def print_reliability(console: Console, results: Sequence[TownResult]) -> None:
    """Print what was stated of the digs of all towns, and what was true."""
    table = Table(title="Is what is stated true? Digs of all towns by the probability of a leak within 300 m")
    for name in ("stated, from", "to", "digs", "stated, mean", "a leak was there"):
        table.add_column(name, justify="right")
    for row in _reliability(results):
        table.add_row(f"{row['from']:.1f}", f"{row['to']:.1f}", f"{row['digs']:.0f}", f"{row['stated']:.2f}", f"{row['seen']:.2f}")
    console.print(table)


def print_leaks(console: Console, result: TownResult) -> None:
    """Print which leaks of a town were found, by which dig, and which were missed."""
    if result.score is None:
        return
    table = Table(title=f"Town {result.town}: leak by leak")
    for name in ("leak", "kind", "carried over", "dug at", "off by, m", "after, h", "EUR"):
        table.add_column(name, justify="left" if name in ("leak", "kind", "dug at") else "right")
    for f in result.score.detail:
        table.add_row(f.pipe, f.kind, "yes" if f.carried else "", f.dug, f"{f.distance_m:.0f}", f"{f.delay_h:.0f}", f"{f.eur:,.0f}")
    for pipe in result.score.missed:
        table.add_row(pipe, "missed", "", "", "", "", "")
    console.print(table)


def as_plain(results: Sequence[TownResult]) -> dict[str, Any]:
    """Return everything as plain values."""
    rows = summary(results)
    told = _reliability(results)
    return {
        "towns": [r.plain() for r in results],
        "summary": rows,
        "reliability": told,
        "ok": all(r["gate_kept"] is not False for r in rows),
    }


def told_of_live(result: TownResult) -> str:
    """Return what is to be said of a replay through the live path; empty for a direct one."""
    live = result.live
    if live is None:
        return ""
    rate = live.readings / live.wall_s
    lines = [
        f"{live.messages:,} messages through {live.broker}: {rate:,.0f} readings/s; CPU of ingest {live.ingest_cpu_s:.0f} s, of the publisher"
        f" {live.own_cpu_s:.0f} s"
    ]
    if live.complaint():
        lines.append(f"NOT as in life: {live.complaint()}")
    if result.differing is not None:
        lines.append(f"{len(result.differing)} rows differ from the direct replay" if result.differing else "the same as the direct replay")
        lines += result.differing
    return "\n".join(lines)
