"""The command line: every command prints for people, and with ``--json`` one JSON object for machines."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from underway import __version__
from underway.app.cli_bench import bench_app
from underway.app.cli_devices import device_app
from underway.app.cli_network import network_app
from underway.app.cli_quarantine import quarantine_app
from underway.app.mistakes import told

app = typer.Typer(
    name="underway",
    help="Watch water networks and roads: from MQTT bytes to a verified repair.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
db_app = typer.Typer(help="Create and inspect the database schema.", no_args_is_help=True, rich_markup_mode=None)
grafana_app = typer.Typer(help="Render, check and push the Grafana dashboards.", no_args_is_help=True, rich_markup_mode=None)
account_app = typer.Typer(help="People who may sign in to the web pages.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(db_app, name="db")
app.add_typer(grafana_app, name="grafana")
app.add_typer(account_app, name="account")
app.add_typer(device_app, name="device")
app.add_typer(bench_app, name="bench")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(network_app, name="network")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class ServiceName(StrEnum):
    """A service that can run on its own."""

    INGEST = "ingest"
    WORKORDERS = "workorders"
    WEB = "web"


class StoryName(StrEnum):
    """A story that the town can tell; `simulators.stories` has the same names."""

    BURST = "burst"
    FAILED_REPAIR = "failed-repair"
    BRIDGE = "bridge"
    ROUGHNESS = "roughness"
    DRAIN = "drain"
    QUIET = "quiet"


class Until(StrEnum):
    """What ends the demo by itself."""

    CLOSED = "closed"
    ALL_CLOSED = "all-closed"
    LIVE = "live"


def _version(show: bool) -> None:
    if show:
        typer.echo(f"underway {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Watch water networks and roads: from MQTT bytes to a verified repair."""


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of the town, its weather, its faults and its sensors.", min=0)] = 1,
    story: Annotated[StoryName, typer.Option(help="What happens in the town.")] = StoryName.BURST,
    speed: Annotated[
        float, typer.Option(help="Simulated seconds a wall second while live; slower when the machine is slow.", min=1, max=7200)
    ] = 900,
    history_days: Annotated[int, typer.Option(help="Days of history that are filled in first.", min=8, max=60)] = 14,
    until: Annotated[
        Until | None, typer.Option(help="End by itself: when the first order, all orders are closed, or the town is live.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="With --until: give up after this many wall seconds (exit code 1).", min=1)] = 600,
    network: Annotated[str, typer.Option(help="EPANET network: ky4, ky10, net3, or the path of an INP file.")] = "ky4",
    broker: Annotated[str, typer.Option(help="auto, mosquitto or amqtt.")] = "auto",
    port: Annotated[int, typer.Option(help="Port of the web page; 0 takes a free one.", min=0, max=65535)] = 8080,
    folder: Annotated[Path | None, typer.Option(help="Where data and logs go; default: a temporary folder that is removed.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Run a simulated town with everything in it: no services, no set-up.

    Starts PostgreSQL, a broker, ingest, the work side and the web page, fills in two weeks of history and tells a story, live:
    http://127.0.0.1:8080
    """
    from underway.app.demo import DemoOptions, run_demo

    options = DemoOptions(
        seed=seed,
        story=story.value,
        speed=speed,
        history_days=history_days,
        until=None if until is None else until.value,
        timeout_s=timeout,
        network=network,
        broker=broker,
        port=port,
        folder=folder,
        json_output=json_output,
    )
    raise typer.Exit(run_demo(options))


@app.command()
def run(
    only: Annotated[ServiceName | None, typer.Option(help="Run one service; without it all three run.")] = None,
    stop_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run the services against a real broker and a real database (UNDERWAY_MQTT_URL, UNDERWAY_DATABASE_URL)."""
    from underway.app.services import run_services

    run_services(None if only is None else only.value, stop_with_parent=stop_with_parent)


@app.command()
def simulate(
    mqtt_url: Annotated[str, typer.Option(help="Broker to publish to, mqtt://user:password@host:1883.")],
    seed: Annotated[int, typer.Option(help="Seed of the town.", min=0)] = 1,
    story: Annotated[StoryName, typer.Option(help="What happens in the town.")] = StoryName.BURST,
    speed: Annotated[float, typer.Option(help="Simulated seconds a wall second; 1 is real time.", min=0.1, max=7200)] = 1.0,
    history_days: Annotated[int, typer.Option(help="Days of history to publish first, as fast as it goes.", min=0, max=60)] = 0,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this many simulated minutes; default: until interrupted.", min=1)
    ] = None,
    network: Annotated[str, typer.Option(help="EPANET network: ky4, ky10, net3, or the path of an INP file.")] = "ky4",
    register: Annotated[str, typer.Option(help="Database URL in which the town's devices and crews are registered first.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Publish a simulated town to any broker, as its devices would."""
    from underway.app.simulate import SimulateOptions, run_simulate

    options = SimulateOptions(mqtt_url, seed, story.value, speed, history_days, minutes, network, register)
    report = run_simulate(options, quiet=json_output)
    if json_output:
        _print_json(report)


@app.command()
def doctor(json_output: JsonOption = False) -> None:
    """Say what was found: versions, database edition and features, broker features, clock, services, settings."""
    from underway.app.doctor import examine

    report = examine()
    if json_output:
        _print_json(report)
    else:
        console = Console()
        for section, facts in report["sections"].items():
            table = Table(title=section, title_justify="left", show_header=False, min_width=60)
            table.add_column(style="bold")
            table.add_column(overflow="fold")
            for name, value in facts.items():
                table.add_row(name, str(value))
            console.print(table)
        for problem in report["problems"]:
            console.print(f"problem: {problem}", style="red", markup=False)
        if not report["problems"]:
            console.print("no problems found")
    raise typer.Exit(1 if report["problems"] else 0)


@db_app.command("migrate")
def db_migrate(json_output: JsonOption = False) -> None:
    """Bring the schema up to date; safe to run twice and at the same time from several machines."""
    from underway.app.database import migrate_database

    _report(migrate_database(), json_output)


@db_app.command("status")
def db_status(json_output: JsonOption = False) -> None:
    """Show which migrations are applied and which database features are on."""
    from underway.app.database import database_status

    _report(database_status(), json_output)


@grafana_app.command("render")
def grafana_render(
    folder: Annotated[Path, typer.Option(help="Where the dashboard files go.")] = Path("grafana/provisioning/dashboards"),
    json_output: JsonOption = False,
) -> None:
    """Write the dashboards as JSON files for Grafana's file provisioning."""
    from grafana import render_to

    _report({"written": [str(path) for path in render_to(folder)]}, json_output)


@grafana_app.command("push")
def grafana_push(
    url: Annotated[str, typer.Option(help="Address of Grafana, https://grafana.example:3000.")],
    token: Annotated[
        str, typer.Option(envvar="GRAFANA_TOKEN", help="Service account token (better in GRAFANA_TOKEN than on the command line).")
    ],
    datasource_url: Annotated[
        str, typer.Option(envvar="UNDERWAY_GRAFANA_DATABASE_URL", help="Database as Grafana reaches it, with a role that only reads.")
    ] = "",
    json_output: JsonOption = False,
) -> None:
    """Create or update the dashboards in an existing Grafana."""
    from underway.app.dashboards import push_dashboards

    _report(push_dashboards(url, token, datasource_url), json_output)


@grafana_app.command("check")
def grafana_check(
    hours: Annotated[float, typer.Option(help="Look at the last so many hours of the newest data.", min=0.1)] = 24,
    json_output: JsonOption = False,
) -> None:
    """Run every panel's SQL against the database; exit 1 when one fails or is empty."""
    from underway.app.dashboards import check_dashboards

    report = check_dashboards(hours)
    _report(report, json_output)
    raise typer.Exit(0 if report["ok"] else 1)


@account_app.command("add")
def account_add(
    account_id: Annotated[str, typer.Argument(help="Name to sign in with.")],
    role: Annotated[str, typer.Option(help="operator, supervisor, crew or engineer.")],
    name: Annotated[str, typer.Option(help="Full name, shown in the event log.")] = "",
    crew: Annotated[str, typer.Option(help="For the role crew: which crew.")] = "",
    password: Annotated[str, typer.Option(envvar="UNDERWAY_NEW_PASSWORD", prompt=True, hide_input=True, confirmation_prompt=True)] = "",
) -> None:
    """Create an account, or change its password and role."""
    from underway.app.accounts import add_account

    add_account(account_id, role, name or account_id, crew or None, password)
    typer.echo(f"account '{account_id}' may sign in as {role}")


def _print_json(report: Any) -> None:
    typer.echo(json.dumps(report, indent=2, default=str))


def _report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(report)
        return
    for key, value in report.items():
        if isinstance(value, list):
            typer.echo(f"{key}:" if value else f"{key}: none")
            for item in value:
                typer.echo(f"  {_line(item)}")
        elif isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, inner in value.items():
                typer.echo(f"  {name}: {_line(inner)}")
        else:
            typer.echo(f"{key}: {_line(value)}")


def _line(item: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in item.items()) if isinstance(item, dict) else str(item)


def main() -> None:
    """Run the command line; a mistake of the operator ends in one readable line and exit code 2."""
    try:
        app()
    except Exception as error:
        sentence = told(error)
        if sentence is None:
            raise
        typer.echo(sentence, err=True)
        sys.exit(2)
