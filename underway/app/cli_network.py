"""``underway network ...``: the hydraulic model of a site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

network_app = typer.Typer(help="The hydraulic model of a site.", no_args_is_help=True, rich_markup_mode=None)


@network_app.command("import")
def import_command(
    inp: Annotated[Path, typer.Argument(help="EPANET 2.2 input file.", exists=True, dir_okay=False)],
    site: Annotated[str, typer.Option(help="Site; not needed where there is one.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Say what would be watched, and store nothing.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Give the detectors a hydraulic model.

    An element belongs to the asset that has its id, or names it in the attribute `element`. Ingest takes the model over by itself
    and begins to learn.
    """
    from underway.app.network import import_network

    report = import_network(inp, site or None, dry_run=dry_run)
    if json_output:
        typer.echo(json.dumps(report, indent=2))
        return
    typer.echo(f"{report['elements']} elements of {report['assets']} assets" + (" (nothing stored)" if dry_run else ""))
    for section in report["watched"]:
        typer.echo(
            f"watched: section of {section['name']}, {section['pipes']} pipes, {section['gauges']} gauges, {section['meters']} meters"
        )
    for name, reason in report["refused"]:
        typer.echo(f"not watched: section of {name}: {reason}")
