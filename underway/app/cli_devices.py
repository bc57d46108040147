"""``underway device ...``: the command line of registration."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from underway.app.devices_plan import Change, Plan, details
from underway.model import DeviceStatus
from underway.store.pending import PendingStatus

ROWS_SHOWN_MAX = 200
CHANNELS_SHOWN_MAX = 12

device_app = typer.Typer(
    help="Register devices by file, and accept those that announced themselves.", no_args_is_help=True, rich_markup_mode=None
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
SiteOption = Annotated[str | None, typer.Option(help="Site; default: that of the file or the settings, else the only one.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


@device_app.command("import")
def device_import(
    file: Annotated[Path, typer.Argument(help="CSV, GeoJSON or YAML; docs/devices.md shows each.")],
    dry_run: DryRunOption = False,
    site: SiteOption = None,
    json_output: JsonOption = False,
) -> None:
    """Register the devices of a file: all of them, or none and every problem."""
    from underway.app.devices import RegistrationError, import_devices

    def told(text: str) -> None:
        if not json_output and sys.stderr.isatty():
            typer.echo(text, err=True)

    try:
        found = import_devices(file, site, dry_run, told)
    except RegistrationError as error:
        if not json_output:
            raise
        _print_json(error.plain())
        raise typer.Exit(2) from error
    _show_plan(found, dry_run, json_output)


@device_app.command("export")
def device_export(
    file: Annotated[Path, typer.Argument(help="File to write; its suffix .csv, .geojson or .yaml says what.")],
    site: SiteOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write what is registered into a file that an import takes back."""
    from underway.app.devices import export_devices

    report = export_devices(file, site)
    if json_output:
        _print_json(report)
        return
    typer.echo(f"{report['devices']} devices with {report['channels']} channels of site '{report['site']}' are in {report['file']}")
    for note in report["left out"]:
        typer.echo(note)


@device_app.command("list")
def device_list(
    status: Annotated[DeviceStatus | None, typer.Option(help="Only these.")] = None,
    site: SiteOption = None,
    json_output: JsonOption = False,
) -> None:
    """List the registered devices."""
    from underway.app.devices import list_devices

    report = list_devices(site, status)
    if json_output:
        _print_json(report)
        return
    table = _table(
        f"{len(report['devices'])} devices of site '{report['site']}'",
        "device",
        "dialect",
        "address",
        "model",
        "zone",
        "status",
        "presence (UTC)",
        "clock",
        "channels",
    )
    for device in report["devices"]:
        names = ", ".join(channel["name"] for channel in device["channels"])
        who = (device["id"], device["dialect"], device["address"], device["model"], device["zone"] or "", device["status"])
        _row(table, *who, _presence(device), _clock(device), names)
    _console().print(table)


@device_app.command("pending")
def device_pending(
    status: Annotated[PendingStatus, typer.Option(help="Only these.")] = PendingStatus.PENDING,
    site: SiteOption = None,
    json_output: JsonOption = False,
) -> None:
    """List the devices that spoke and are not registered: who, since when, how often, with what."""
    from underway.app.devices import pending_devices

    report = pending_devices(site, status)
    if json_output:
        _print_json(report)
        return
    if not report["devices"]:
        typer.echo(f"no device is {status.value}")
        return
    table = _table(
        f"{len(report['devices'])} devices are {status.value}", "dialect", "address", "heard", "who", "channels (* what it may be)"
    )
    for device in report["devices"]:
        who = [device["model"], *(f"{name} {value}" for name, value in device["details"].items())]
        heard = f"{device['kind']}, {device['count']} times, {device['first_at'][:16]} to {device['last_at'][:16]}"
        said = [_channel(channel) for channel in device["channels"][:CHANNELS_SHOWN_MAX]]
        if len(device["channels"]) > CHANNELS_SHOWN_MAX:
            said.append(f"and {len(device['channels']) - CHANNELS_SHOWN_MAX} more")
        _row(table, device["dialect"], device["address"], heard, "\n".join(filter(None, who)), "\n".join(said))
    _console().print(table)
    typer.echo("accept one: underway device accept DIALECT ADDRESS --id ID --zone ZONE --dry-run")


@device_app.command("accept")
def device_accept(
    dialect: Annotated[str, typer.Argument(help="As 'underway device pending' shows it.")],
    address: Annotated[str, typer.Argument(help="As 'underway device pending' shows it.")],
    device_id: Annotated[str, typer.Option("--id", help="What the device is called from now on.")],
    zone: Annotated[str | None, typer.Option(help="Zone that it stands in.")] = None,
    asset: Annotated[str | None, typer.Option(help="Asset that it measures.")] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ADDRESS:QUANTITY:ROLE, and :UNIT where it is not told; once a channel. None: all that can be guessed."),
    ] = None,
    site: SiteOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Register a device that is pending; it is heard at once."""
    from underway.app.devices import RegistrationError, accept_device

    try:
        found, replay = accept_device(dialect, address, device_id, zone, asset, channel or [], site, dry_run)
    except RegistrationError as error:
        if not json_output:
            raise
        _print_json(error.plain())
        raise typer.Exit(2) from error
    _show_plan(found, dry_run, json_output, {} if dry_run else {"replay": replay})
    if not dry_run and not json_output:
        typer.echo(f"what it said before is in quarantine; send it again: {replay}")


@device_app.command("ignore")
def device_ignore(
    dialect: Annotated[str, typer.Argument(help="As 'underway device pending' shows it.")],
    address: Annotated[str, typer.Argument(help="As 'underway device pending' shows it.")],
    json_output: JsonOption = False,
) -> None:
    """Take a device off the list for good; accepting it later is still possible."""
    from underway.app.devices import ignore_device

    report = ignore_device(dialect, address)
    if json_output:
        _print_json(report)
    else:
        typer.echo(f"ignored: {report['ignored']}")


def _presence(device: dict[str, Any]) -> str:
    """Return since when a device says that it is there or not; empty when it never did."""
    if device["online"] is None:
        return ""
    return f"{'online' if device['online'] else 'offline'} since {device['online_since'][:16]} ({device['online_reason']})"


def _clock(device: dict[str, Any]) -> str:
    """Return how far the clock of a device is off; empty when it is not."""
    offset_s = device["clock_offset_s"]
    return f"{abs(offset_s):g} s {'ahead' if offset_s > 0 else 'behind'}" if offset_s else ""


def _show_plan(found: Plan, dry_run: bool, json_output: bool, more: Mapping[str, str] = MappingProxyType({})) -> None:
    written = not dry_run and found.to_write is not None
    if json_output:
        _print_json(found.plain() | {"dry_run": dry_run, "written": written, **more})
        return
    order = {Change.NEW: 0, Change.CHANGED: 1, Change.UNCHANGED: 2}
    rows = sorted(
        (row for row in found.rows if row.kind != "site" or row.change is not Change.UNCHANGED), key=lambda row: order[row.change]
    )
    title = f"site '{found.site_id}': what {'would be' if dry_run else 'was'} done"
    table = _table(title, "", "what", "id", "details (* assumed: the file does not say)")
    for row in rows[:ROWS_SHOWN_MAX]:
        _row(table, row.change.value, row.kind, row.row_id, details(row))
    _console().print(table)
    if len(rows) > ROWS_SHOWN_MAX:
        typer.echo(f"and {len(rows) - ROWS_SHOWN_MAX} more rows; --json shows all")
    for kind, counts in found.counts().items():
        if kind != "site":
            typer.echo(f"{kind}s: " + ", ".join(f"{count} {change}" for change, count in counts.items()))
    typer.echo("written" if written else "nothing was written: this is a dry run" if dry_run else "nothing to write")


def _channel(channel: dict[str, Any]) -> str:
    example = f" {channel['example']:g}" if "example" in channel else ""
    unit = f" {channel['unit']}" if channel.get("unit") else ""
    guess = channel["guess"]
    return f"{channel['address']}{example}{unit}" + ("" if guess is None else f" *{guess['quantity']} in {guess['unit']}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Add a row of plain text: what a file or a device says is shown, never styled or run."""
    table.add_row(*(Text("".join(c if c.isprintable() or c == "\n" else "?" for c in cell)) for cell in cells))


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _print_json(report: dict[str, Any]) -> None:
    typer.echo(json.dumps(report, indent=2, default=str, ensure_ascii=False))
