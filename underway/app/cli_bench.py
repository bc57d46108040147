"""``underway bench``: measure on this machine what the product promises."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

WIDTH = 140
"""Columns of the tables where no terminal says how many there are."""

bench_app = typer.Typer(help="Measure this installation against what it could reach at best.", no_args_is_help=True, rich_markup_mode=None)


class PartName(StrEnum):
    """A part of the benchmark of ingest; `underway.app.bench.options.PARTS` has the same names."""

    ONE_READING = "one-reading"
    PACK_SENML = "pack-senml"
    PACK_SPARKPLUG = "pack-sparkplug"
    MEMORY = "memory"
    LATENCY = "latency"


@bench_app.callback()
def _root() -> None:
    """Measure this installation against what it could reach at best."""


@bench_app.command("ingest")
def ingest(
    seconds: Annotated[float, typer.Option(help="Wall time of the whole run; below 120 everything shrinks in proportion.", min=10)] = 180.0,
    only: Annotated[list[PartName] | None, typer.Option(help="Run these parts only; may be given more than once.")] = None,
    database: Annotated[
        str,
        typer.Option(
            envvar="UNDERWAY_BENCH_DATABASE_URL",
            help="Server to use, where databases may be created; default: an embedded one with its settings for durable data.",
        ),
    ] = "",
    broker: Annotated[str, typer.Option(help="auto, mosquitto or amqtt.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    profile: Annotated[Path | None, typer.Option(hidden=True, help="Run ingest under cProfile and leave the profile here.")] = None,
) -> None:
    """Measure ingest: against a null subscriber, against a bare COPY, its memory, its latency.

    Starts a broker and a database of its own, runs everything side by side, and prints every figure with what was promised. The exit code is 0 when
    every promise holds, else 1. What is measured how: docs/bench.md.
    """
    from underway.app.bench.options import BenchOptions
    from underway.app.bench.report import print_report
    from underway.app.bench.run import run_bench

    console = Console(stderr=True)
    options = BenchOptions(seconds, tuple(name.value for name in only or ()), database, broker, profile)
    facts = run_bench(options, lambda sentence: console.print(sentence, markup=False, highlight=False))
    if json_output:
        typer.echo(json.dumps(facts, indent=2))
    else:
        screen = Console()
        print_report(screen if screen.is_terminal else Console(width=WIDTH), facts)
    raise typer.Exit(0 if facts["ok"] else 1)
