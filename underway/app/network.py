"""Take a utility's hydraulic model in."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from detectors.water.sections import sections
from underway.app.clock import SystemClock
from underway.app.quarantine import open_store
from underway.app.settings import load_settings
from underway.model import NetworkModel, OperatorError
from underway.store.registry import load_registry, save_network_model


def import_network(inp: Path, site_id: str | None, *, dry_run: bool = False) -> dict[str, Any]:
    """Store a model for a site and say which sections can be watched with it.

    Raises
    ------
    OperatorError
        When no asset is an element of the model, or EPANET's file cannot be read.
    """
    settings = load_settings(("database_url",))
    with open_store(settings) as conn:
        return take_model(conn, inp, site_id or settings.site_id or None, SystemClock().now_at(), dry_run=dry_run)


def take_model(conn: psycopg.Connection[Any], inp: Path, site_id: str | None, now_at: datetime, *, dry_run: bool = False) -> dict[str, Any]:
    """Store a model for a site of an open store; as `import_network`."""
    registry = load_registry(conn, site_id)
    element_of = {a.asset_id: str(a.attributes.get("element") or a.asset_id) for a in registry.assets}
    model = NetworkModel(registry.site.site_id, inp.read_text(encoding="utf-8", errors="replace"), element_of)
    try:
        found, refused = sections(registry.channels, model)
    except Exception as error:  # what WNTR raises on a bad file has no common class
        raise OperatorError(f"{inp} must be an EPANET 2.2 input file: {error}") from error
    if not (found or refused):
        raise OperatorError(f"{inp} must have a junction, got none")
    if not dry_run:
        save_network_model(conn, model, now_at)
    return {
        "site": registry.site.site_id,
        "digest": model.digest,
        "assets": len(registry.assets),
        "elements": len(set(element_of.values())),
        "watched": [
            {"name": s.name, "pipes": len(s.pipes), "gauges": len(s.gauges), "meters": len(s.inlets) + len(s.pumps) + len(s.link_channels)}
            for s in found
        ],
        "refused": [[name, reason.value] for name, reason in refused],
    }
