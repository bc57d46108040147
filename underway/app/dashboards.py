"""``underway grafana``: push the dashboards, and check their SQL on real data."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import grafana
from underway.app.settings import load_settings
from underway.store.connect import connect
from underway.store.timescale import detect


def push_dashboards(url: str, token: str, datasource_url: str = "") -> dict[str, Any]:
    """Create or update folder, data source and dashboards in an existing Grafana.

    `datasource_url` is the database as Grafana reaches it, with a role that only reads; needed when the data source is missing there.
    """
    settings = load_settings()
    timescale = False
    if datasource_url and settings.database_url:
        with connect(settings.database_url, application_name="underway-grafana-push") as conn:
            timescale = detect(conn).timescale_version is not None
    return asdict(
        grafana.push(url, token, database_url=datasource_url or None, base_url=settings.public_url, timescale=timescale),
    )


def check_dashboards(hours: float) -> dict[str, Any]:
    """Run every panel's SQL over the newest data and return rows and errors by panel."""
    with connect(load_settings(("database_url",)).database_url, application_name="underway-grafana-check") as conn:
        row = conn.execute("SELECT max(at) FROM expectation").fetchone()
        until_at = (row[0] if row else None) or datetime.now(UTC)
        results = grafana.check_panels(conn, until_at - timedelta(hours=hours), until_at)
    panels = [{"panel": r.title, "query": r.ref_id, "rows": r.rows, "problem": r.error or ("" if r.ok else "no rows")} for r in results]
    return {"ok": all(r.ok for r in results), "until": until_at.isoformat(), "panels": panels}
