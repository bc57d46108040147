"""The tables of ``underway bench quality``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from underway.app.bench.quality import OURS, Score, summary


def print_quality(console: Console, scores: Sequence[Score]) -> None:
    """Print all methods side by side with the spread over seeds, every seed, and what was found by class."""
    rows = summary(scores)
    table = Table(title="Water quality: all seeds together (lowest to highest seed)")
    for name in ("method", "found", "share", "delay median, 90 %, min", "false a station-month", "by operation, probe, nothing", "CPU s"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for r in rows:
        delay = "-" if r.delay_min is None or r.delay_p90_min is None else f"{r.delay_min:.0f}, {r.delay_p90_min:.0f}"
        share = f"{r.found_share[0]:.2f} ({r.found_share[1]:.2f} to {r.found_share[2]:.2f})"
        rate = f"{r.false_a_month[0]:.2f} ({r.false_a_month[1]:.2f} to {r.false_a_month[2]:.2f})"
        causes = ", ".join(str(r.false_by.get(k, 0)) for k in ("operation", "probe", "nothing"))
        table.add_row(r.method, f"{r.found} of {r.contaminations}", share, delay, rate, causes, f"{r.cpu_s:.0f}")
    console.print(table)
    seeds = list(dict.fromkeys(s.seed for s in scores))
    every = Table(title="Every seed: found, false alarms")
    every.add_column("method")
    for seed in seeds:
        every.add_column(str(seed), justify="right")
    for r in rows:
        of = {s.seed: s for s in scores if s.method == r.method}
        every.add_row(r.method, *(f"{of[n].found}/{of[n].contaminations}, {of[n].false_alarms}" for n in seeds))
    console.print(every)
    classes = Table(title="Found by class of contaminant")
    classes.add_column("method")
    names = sorted({what for r in rows for what in r.found_classes})
    for name in names:
        classes.add_column(name, justify="right")
    for r in rows:
        classes.add_row(r.method, *("{1} of {0}".format(*r.found_classes.get(name, [0, 0])) for name in names))
    console.print(classes)
    ours = next((r for r in rows if r.method == OURS), None)
    if ours is not None:
        console.print(
            f"{OURS}: {ours.probes_told} of {ours.probes} calibrations and maintenances told as such; "
            f"{ours.operations_told} changes told as known operations",
            highlight=False,
        )
