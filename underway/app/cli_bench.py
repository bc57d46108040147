"""``underway bench``: measure on this machine what the product promises."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from underway.model import OperatorError

WIDTH = 140
"""Columns of the tables where no terminal says how many there are."""

JUDGED_FROM = datetime(2025, 1, 1, tzinfo=UTC)

bench_app = typer.Typer(help="Measure this installation against what it could reach at best.", no_args_is_help=True, rich_markup_mode=None)


class PartName(StrEnum):
    """A part of the benchmark of ingest; `underway.app.bench.options.PARTS` has the same names."""

    ONE_READING = "one-reading"
    PACK_SENML = "pack-senml"
    PACK_SPARKPLUG = "pack-sparkplug"
    MEMORY = "memory"
    LATENCY = "latency"


class Via(StrEnum):
    """How a town's readings reach the detectors."""

    DIRECT = "direct"
    MQTT = "mqtt"


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


@bench_app.command("leaks")
def leaks(
    town: Annotated[
        list[Path], typer.Option(help="Folder of a town (scada.parquet; the network's files one level up). May be given more than once.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where the digs go (CSV); with several towns, a folder.")] = None,
    judged_from: Annotated[datetime, typer.Option("--from", help="Begin of the judged time, UTC: no crew is sent before.")] = JUDGED_FROM,
    until: Annotated[datetime | None, typer.Option(help="Cut the town here, UTC: nothing at or after it is read.")] = None,
    baseline: Annotated[bool, typer.Option(help="Run the simple baseline beside it.")] = True,
    days: Annotated[int | None, typer.Option(help="Only so many days from the first reading on.", min=1)] = None,
    via: Annotated[
        Via, typer.Option(help="direct: readings straight into the bank. mqtt: devices, broker, ingest and database, as in life.")
    ] = Via.DIRECT,
    check: Annotated[
        bool, typer.Option("--check", help="With --via mqtt: replay directly too, compare, exit code 1 where they differ.")
    ] = False,
    broker: Annotated[str, typer.Option(help="With --via mqtt: auto, mosquitto or amqtt.")] = "auto",
    database: Annotated[
        str,
        typer.Option(
            envvar="UNDERWAY_BENCH_DATABASE_URL",
            help="With --via mqtt: server to use, where databases may be created; default: an embedded one.",
        ),
    ] = "",
    leak_by_leak: Annotated[
        bool, typer.Option("--leaks", help="List every leak: found by which dig, how late, how far off, or missed.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Replay towns of the leak benchmark through the bank of detectors, and say what its digs are worth.

    A town has `scada.parquet`, `amr.parquet` and `repairs_year1.csv`; `pipes.csv`, `nodes.csv`, `sensors.csv` and the EPANET file stand one level up.
    Where it also has `truth/`, its digs are scored. The exit code is 0 when every gate is kept, or nothing is scored;
    with `--check`, when both replays found the same and every reading went through as in life. How: docs/bench.md.
    """
    from underway.app.bench.leak_report import as_plain, print_leaks, print_reliability, print_summary, told_of_live
    from underway.app.bench.leaks import LivePath, run_town, write_digs

    if check and via is not Via.MQTT:
        raise OperatorError("'--check' compares '--via mqtt' with the direct replay: give both")
    path = LivePath(broker, database) if via is Via.MQTT else None

    console = Console(stderr=True)
    results = []
    for folder in town:
        with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as progress:
            bar = progress.add_task(f"town {folder.name}", total=1.0)
            result = run_town(
                folder, judged_from.replace(tzinfo=UTC), None if until is None else until.replace(tzinfo=UTC), baseline,
                lambda share, bar=bar, progress=progress: progress.update(bar, completed=share),  # type: ignore[misc]
                days=days, path=path, check=check,
            )  # fmt: skip
        results.append(result)
        if out is not None:
            write_digs(out if len(town) == 1 else out / f"{folder.name}.csv", result.digs)
        console.print(
            f"town {folder.name}: {len(result.digs)} digs, {result.readings:,} readings in {result.replay_s:.0f} s", highlight=False
        )
        said = told_of_live(result)
        if said:
            console.print(said, highlight=False, markup=False)
    facts = as_plain(results)
    if check:
        facts["ok"] = not any(r.differing or (r.live is not None and r.live.complaint()) for r in results)
    if json_output:
        typer.echo(json.dumps(facts, indent=2))
    else:
        screen = Console()
        screen = screen if screen.is_terminal else Console(width=WIDTH)
        print_summary(screen, results)
        print_reliability(screen, results)
        for result in results if leak_by_leak else ():
            print_leaks(screen, result)
    raise typer.Exit(0 if facts["ok"] else 1)


@bench_app.command("quality")
def quality(
    network: Annotated[str, typer.Option(help="A library network (net3, ky4, ...) or the path of an EPANET file.")] = "net3",
    station: Annotated[str, typer.Option(help="Junction of the station; default: one that two sources reach.")] = "",
    seed: Annotated[
        list[int] | None, typer.Option(help="Seeds; may be given more than once. Default: the eight that nothing was tuned on.")
    ] = None,
    days: Annotated[int, typer.Option(help="Days a station; the first 21 are for learning.", min=25)] = 90,
    confirm: Annotated[bool, typer.Option(help="Whether a person cancels events that are none, so that operations become known.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Let simulated water quality stations be judged by the bank of detectors, by fixed limits and by river's models, side by side.

    Contaminants are carried to the station by EPANET; operations, calibration, drift and maintenance come between. How: docs/bench.md.
    """
    from underway.app.bench.quality import HELD_OUT_SEEDS, as_plain, run_seed
    from underway.app.bench.quality_report import print_quality

    console = Console(stderr=True)
    scores = []
    for number in seed or HELD_OUT_SEEDS:
        said = console.status(f"seed {number}")
        with said:
            _, found = run_seed(number, network, station, days, confirm, said.update)
        scores += found
    if json_output:
        typer.echo(json.dumps(as_plain(scores, network, station, days), indent=2))
    else:
        screen = Console()
        print_quality(screen if screen.is_terminal else Console(width=WIDTH), scores)


@bench_app.command("meters")
def meters(
    seed: Annotated[
        list[int] | None, typer.Option(help="Seeds; may be given more than once. Default: the eight that nothing was tuned on.")
    ] = None,
    customers: Annotated[int, typer.Option(help="Customer meters a seed.", min=20)] = 400,
    days: Annotated[int, typer.Option(help="Days a seed; faults begin after 150.", min=200)] = 365,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Let simulated years of customer meters be judged by the bank of detectors and by fixed limits, side by side.

    People are away, move out and save water, meters are replaced and read badly; about a sixth of the meters has a fault. How: docs/bench.md.
    """
    from underway.app.bench.meter_sizes import run_sizes, sizes_as_plain
    from underway.app.bench.meters import HELD_OUT_SEEDS, as_plain, run_seed
    from underway.app.bench.meters_report import print_meters, print_sizes

    console = Console(stderr=True)
    scores, sizes = [], []
    for number in seed or HELD_OUT_SEEDS:
        with console.status(f"seed {number}"):
            scores += run_seed(number, customers, days)
            sizes.append(run_sizes(number))
    if json_output:
        typer.echo(json.dumps(as_plain(scores, customers, days) | sizes_as_plain(sizes), indent=2))
    else:
        screen = Console()
        print_meters(screen if screen.is_terminal else Console(width=WIDTH), scores)
        print_sizes(screen if screen.is_terminal else Console(width=WIDTH), sizes)


@bench_app.command("faults")
def faults(
    seed: Annotated[
        list[int] | None, typer.Option(help="Seeds; may be given more than once. Default: the eight that nothing was tuned on.")
    ] = None,
    days: Annotated[int, typer.Option(help="Days a station; the first 20 are for learning.", min=30)] = 120,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Let simulated stations (a tank and a pump, a pressure reducing valve) be judged by the bank of detectors and by fixed limits, side by side."""
    from underway.app.bench.faults import HELD_OUT_SEEDS, print_faults, run_faults

    with Console(stderr=True).status("faults") as said:
        report = run_faults(seed or HELD_OUT_SEEDS, days, said.update)
    if json_output:
        typer.echo(json.dumps(report.plain(), indent=2))
    else:
        screen = Console()
        print_faults(screen if screen.is_terminal else Console(width=WIDTH), report)


@bench_app.command("town")
def make_town(
    network: Annotated[Path, typer.Argument(help="Folder with an EPANET file, pipes.csv, nodes.csv and sensors.csv.")],
    out: Annotated[Path, typer.Option(help="Folder to write; put it into the network's folder.")],
    seed: Annotated[int, typer.Option(help="Same seed, same town.")] = 1,
    leaks_drawn: Annotated[bool, typer.Option("--leaks/--no-leaks", help="Whether anything leaks.")] = True,
    solve_every_min: Annotated[int, typer.Option(help="5, 15 or 60: how often the hydraulics are solved.")] = 5,
) -> None:
    """Simulate a town of the leak benchmark: two years of SCADA, meters, repairs, and the truth."""
    from simulators.leak_town import simulate_town, write_town

    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(f"seed {seed}", total=1.0)
        made = simulate_town(
            network,
            seed,
            leaks=None if leaks_drawn else (),
            solve_every_min=solve_every_min,
            told=lambda share: progress.update(bar, completed=share),
        )
    write_town(made, out)
    console.print(f"{out}: {len(made.leaks)} leaks", highlight=False)
