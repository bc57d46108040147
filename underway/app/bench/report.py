"""The result of a benchmark as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_report(console: Console, facts: Mapping[str, Any]) -> None:
    """Print what was measured, what was promised, and where the time goes."""
    versions, machine = facts["versions"], facts["machine"]
    console.print(
        f"underway {versions['underway']}, Python {versions['python']}, {versions['broker']}, {versions['database']}"
        f" (TimescaleDB: {versions['timescaledb']})",
        highlight=False,
    )
    console.print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['at']}", highlight=False)
    console.print(_gates(facts))
    console.print(_figures(facts))
    for title, table in _cpu(facts):
        console.print(f"CPU time a reading, us, by {title}", style="bold", highlight=False)
        console.print(table)
    for name, part in facts["parts"].items():
        counts = ", ".join(f"{value:,} {what.replace('_', ' ')}" for what, value in part["counts"].items())
        console.print(f"{name}: {counts or 'nothing counted'}; {part['wall_s']} s", highlight=False, markup=False)
        for note in part["notes"]:
            console.print(f"  note: {note}", highlight=False, markup=False)
    verdict = "every gate holds" if facts["ok"] else "not every gate holds"
    console.print(f"{verdict}; {facts['wall_s']} s in all", style="bold green" if facts["ok"] else "bold red", highlight=False)


def _gates(facts: Mapping[str, Any]) -> Table:
    table = Table(title="gates", title_justify="left")
    for column in ("part", "gate", "measured", "wanted", ""):
        table.add_column(column, justify="right" if column == "measured" else "left", overflow="fold")
    for name, part in facts["parts"].items():
        for gate in part["gates"]:
            verdict = "[green]PASS[/green]" if gate["pass"] else f"[red]FAIL[/red] ({gate['reason']})"
            wanted = f"{gate['bound']} {number(gate['limit'])} {gate['unit']}".rstrip()
            table.add_row(name, gate["name"], f"{number(gate['value'])} {gate['unit']}".rstrip(), wanted, verdict)
    return table


def _figures(facts: Mapping[str, Any]) -> Table:
    table = Table(title="figures", title_justify="left")
    for column in ("part", "what", "median", "unit", "repetitions"):
        table.add_column(column, justify="right" if column == "median" else "left", overflow="fold")
    for name, part in facts["parts"].items():
        for figure in part["figures"]:
            repetitions = ", ".join(number(value) for value in figure["repetitions"]) if len(figure["repetitions"]) > 1 else ""
            table.add_row(name, figure["name"], number(figure["median"]), figure["unit"], repetitions or figure["note"])
    return table


def _cpu(facts: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """Return one table a kind of CPU time: processes or stages in rows, parts in columns."""
    found: list[tuple[str, Table]] = []
    for kind in ("process", "stage"):
        parts = {name: part["cpu_us_per_reading"].get(kind, {}) for name, part in facts["parts"].items()}
        parts = {name: by for name, by in parts.items() if by}
        if not parts:
            continue
        table = Table()
        table.add_column(kind)
        for name in parts:
            table.add_column(name, justify="right")
        for row in dict.fromkeys(row for by in parts.values() for row in by):
            table.add_row(row, *(number(by.get(row)) for by in parts.values()))
        found.append((kind, table))
    return found


def number(value: float | None) -> str:
    """Return a figure as people read it.

    Examples
    --------
    >>> number(18230.0), number(0.8123), number(12.0), number(None)
    ('18,230', '0.812', '12', '-')
    """
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
