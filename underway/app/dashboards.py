"""``underway grafana``: push the dashboards, and check their SQL on real data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grafana
from underway.app.settings import load_settings
from underway.store.connect import connect


def push_dashboards(url: str, token: str) -> dict[str, Any]:
    """Create or update folder, data source and dashboards in an existing Grafana."""
    settings = load_settings()
    return grafana.push(url, token, database_url=settings.database_url or None)


def check_dashboards(hours: float) -> dict[str, Any]:
    """Run every panel's SQL over the newest data and return rows and errors by panel."""
    with connect(load_settings(("database_url",)).database_url, application_name="underway-grafana-check") as conn:
        row = conn.execute("SELECT max(at) FROM expectation").fetchone()
        until_at = (row[0] if row else None) or datetime.now(UTC)
        results = grafana.check_panels(conn, until_at - timedelta(hours=hours), until_at)
    panels = [{"panel": r.title, "rows": r.rows, "error": r.error or ""} for r in results]
    return {"ok": all(r.rows and not r.error for r in results), "until": until_at.isoformat(), "panels": panels}
