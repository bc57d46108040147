"""``underway quarantine ...``: the commands, what they print, and their exit codes."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from underway.model import FaultReason, OperatorError
from underway.store.quarantine_rows import QuarantineFilter

quarantine_app = typer.Typer(help="Messages that could not be taken in, and why.", no_args_is_help=True, rich_markup_mode=None)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ReasonOption = Annotated[FaultReason | None, typer.Option(help="Only this reason.")]
DeviceOption = Annotated[str, typer.Option(help="Only this device.")]
DialectOption = Annotated[str, typer.Option(help="Only this dialect.")]
SinceOption = Annotated[str, typer.Option(help="Only what was seen since: an age (30m, 12h, 7d) or a time with its zone.")]
ID_MAX = 2**63 - 1
IdsArgument = Annotated[list[int] | None, typer.Argument(help="Ids, as 'list' shows them.", min=0, max=ID_MAX)]
AllOption = Annotated[bool, typer.Option("--all", help="All entries.")]


@quarantine_app.command("list")
def list_command(
    reason: ReasonOption = None,
    device: DeviceOption = "",
    dialect: DialectOption = "",
    since: SinceOption = "",
    limit: Annotated[int, typer.Option(help="Most entries.", min=1, max=1000)] = 50,
    json_output: JsonOption = False,
) -> None:
    """List what is in quarantine, seen last first, and which devices sent more than is kept of them."""
    from underway.app.quarantine import list_entries

    report = list_entries(_filter(None, reason, device, dialect, since), limit)
    if json_output:
        _print_json(report)
        return
    console = Console()
    table = Table(show_edge=False)
    for name in ("id", "last seen (UTC)", "count", "reason", "from", "message"):
        table.add_column(name, justify="right" if name in ("id", "count") else "left", overflow="fold", no_wrap=name in ("id", "count"))
    for entry in report["entries"]:
        state = "" if entry["state"] == "open" else f" ({entry['state']})"
        who = entry["device"] or entry["topic"]
        table.add_row(*map(_plain, (entry["id"], _at(entry["last_at"]), entry["count"], entry["reason"] + state, who, entry["message"])))
    if report["entries"]:
        console.print(table)
    console.print(f"{len(report['entries'])} of {report['total']} entries", markup=False)
    if report["overflow"]:
        console.print("not kept, because the share of the sender was used up:", markup=False)
        for row in report["overflow"]:
            console.print(f"  {row['source']}: {row['count']} x {row['reason']}, last {_at(row['last_at'])}", markup=False)


@quarantine_app.command("show")
def show_command(
    entry_id: Annotated[int, typer.Argument(help="Id, as 'list' shows it.", min=0, max=ID_MAX)], json_output: JsonOption = False
) -> None:
    """Show everything about one entry, and what today's decoder makes of it."""
    from underway.app.quarantine import show_entry

    report = show_entry(entry_id)
    if json_output:
        _print_json(report)
        return
    text, dump, decoded = report.pop("payload_text"), report.pop("payload_hex"), report.pop("decoded_now")
    for name, value in report.items():
        typer.echo(f"{name}: {_at(value) if isinstance(value, datetime) else '-' if value is None else value}")
    typer.echo("payload:")
    typer.echo("\n".join(f"  {line}" for line in (text if text is not None else dump).splitlines()))
    typer.echo("decoded now:")
    for name, value in decoded.items():
        if isinstance(value, list):
            typer.echo(f"  {name}:" if value else f"  {name}: none")
            for item in value:
                typer.echo(f"    {item}")
        else:
            typer.echo(f"  {name}: {'-' if value is None else value}")


@quarantine_app.command("replay")
def replay_command(
    ids: IdsArgument = None,
    reason: ReasonOption = None,
    device: DeviceOption = "",
    dialect: DialectOption = "",
    since: SinceOption = "",
    everything: AllOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Send messages to the broker again, so that they are taken in as if they came now; what is stored already is not stored twice.

    Entries that were sent again before and did not fail since are left out, unless named by id. Exit 1 when something was not sent.
    """
    from underway.app.quarantine_replay import replay

    wanted = _chosen(ids, reason, device, dialect, since, everything)
    report = replay(wanted if ids else dataclasses.replace(wanted, not_replayed=True), dry_run=dry_run)
    if json_output:
        _print_json(dataclasses.asdict(report) | {"ok": report.ok})
    else:
        would = "would be sent" if dry_run else "sent"
        typer.echo(f"{report.messages} messages {would} again ({len(report.sent)} entries)")
        for what, found in (("cannot be sent again", report.cannot), ("not taken by the broker", report.refused)):
            for entry_id, why in found.items():
                typer.echo(f"  {entry_id} {what}: {why}")
        if report.left_over:
            typer.echo(f"{report.left_over} entries are left over: run it again")
    raise typer.Exit(0 if report.ok else 1)


@quarantine_app.command("forget")
def forget_command(
    ids: IdsArgument = None,
    reason: ReasonOption = None,
    device: DeviceOption = "",
    dialect: DialectOption = "",
    since: SinceOption = "",
    everything: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Delete entries for good; asks first."""
    from underway.app.quarantine import forget, matching

    wanted = _chosen(ids, reason, device, dialect, since, everything)
    if not yes:
        typer.confirm(f"delete {matching(wanted)} entries for good?", abort=True)
    deleted = forget(wanted)
    if json_output:
        _print_json({"deleted": deleted})
    else:
        typer.echo(f"{deleted} entries deleted")


def _filter(ids: list[int] | None, reason: FaultReason | None, device: str, dialect: str, since_text: str) -> QuarantineFilter:
    from underway.app.quarantine import known_dialect, since

    since_at = since(since_text, datetime.now(UTC)) if since_text else None
    return QuarantineFilter(
        tuple(ids or ()), reason.value if reason else None, device or None, known_dialect(dialect) if dialect else None, since_at
    )


def _chosen(
    ids: list[int] | None, reason: FaultReason | None, device: str, dialect: str, since_text: str, everything: bool
) -> QuarantineFilter:
    """Return what was chosen; nothing at all is a mistake, not everything."""
    narrowed = bool(ids or reason or device or dialect or since_text)
    if narrowed == everything:
        raise OperatorError(
            "name entries by id or by --reason, --device, --dialect, --since, or take --all of them, got "
            + ("both" if everything else "neither")
        )
    return _filter(ids, reason, device, dialect, since_text)


def _at(value: Any) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)


def _plain(value: Any) -> str:
    from rich.markup import escape

    return escape(str(value))


def _print_json(report: Any) -> None:
    typer.echo(json.dumps(report, indent=2, default=str))
