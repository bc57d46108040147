"""The tables of ``underway bench meters``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from underway.app.bench.meter_sizes import SizeScore, loss_ratio, size_summary
from underway.app.bench.meters import MeterScore, false_rates, summary


def print_meters(console: Console, scores: Sequence[MeterScore]) -> None:
    """Print what each method found of every kind of fault, and what it raised that was none."""
    methods = list(dict.fromkeys(s.method for s in scores))
    rows = summary(scores)
    found = Table(title="Faults of meters: found of all, median delay in days")
    found.add_column("fault")
    for method in methods:
        found.add_column(method, justify="right")
    for fault in dict.fromkeys(r["fault"] for r in rows):
        of = {r["method"]: r for r in rows if r["fault"] == fault}
        found.add_row(fault, *(_found(of[m]) for m in methods))
    console.print(found)
    false = Table(title="False alarms a year and 1,000 meters (how many, what was behind most of them)")
    false.add_column("alarm")
    for method in methods:
        false.add_column(method, justify="right")
    rates = false_rates(scores)
    for kind in dict.fromkeys(r["kind"] for r in rates):
        by = {r["method"]: r for r in rates if r["kind"] == kind}
        false.add_row(kind, *(_false(by[m]) for m in methods))
    console.print(false)
    cpu = ", ".join(f"{m} {sum(s.cpu_s for s in scores if s.method == m):.0f} s" for m in methods)
    years = sum(s.meter_years for s in scores if s.method == methods[0])
    console.print(f"{years:.0f} meter-years a method; CPU: {cpu}", highlight=False)


def print_sizes(console: Console, scores: Sequence[SizeScore]) -> None:
    """Print which meters were found too large or too small, and which were said to be although they were not."""
    rows = size_summary(scores)
    methods = list(dict.fromkeys(r["method"] for r in rows))
    table = Table(title="Sizes of bulk meters: found of all; false of all others")
    table.add_column("meter is")
    for method in methods:
        table.add_column(method, justify="right")
    for kind in dict.fromkeys(r["kind"] for r in rows):
        by = {r["method"]: r for r in rows if r["kind"] == kind}
        table.add_row(kind, *("{found} of {meters}; {false} of {others}".format(**by[m]) for m in methods))
    console.print(table)
    ratio = loss_ratio(scores)
    if ratio is not None:
        console.print("volume not registered, estimated over true: {median} (quartiles {low} to {high})".format(**ratio), highlight=False)


def _found(row: dict[str, object]) -> str:
    delay = "-" if row["delay_d"] is None else f"{row['delay_d']:g}"
    return f"{row['found']} of {row['faults']}, {delay}"


def _false(row: dict[str, object]) -> str:
    behind = row["behind"]
    assert isinstance(behind, dict)
    most = ", ".join(f"{what} {n}" for what, n in sorted(behind.items(), key=lambda kv: (-kv[1], kv[0]))[:2])
    return f"{row['a_year_and_1000']:g} ({row['false']}{': ' + most if most else ''})"
