"""``underway db``: bring the schema up to date, and say how it stands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from underway.app.settings import load_settings
from underway.store.connect import connect, redact_url
from underway.store.migrate import migrate, status
from underway.store.timescale import detect


def migrate_database() -> dict[str, Any]:
    """Apply what is pending and return what was done."""
    url = load_settings(("database_url",)).database_url
    with connect(url, application_name="underway-migrate") as conn:
        report = migrate(conn, datetime.now(UTC))
        return {
            "database": redact_url(url),
            "applied": list(report.applied),
            "turned on": list(report.timescale.done),
            "problems": list(report.timescale.problems),
            "features": detect(conn).table(),
        }


def database_status() -> dict[str, Any]:
    """Return the applied and pending migrations and the features in force."""
    url = load_settings(("database_url",)).database_url
    with connect(url, application_name="underway-status") as conn:
        report = status(conn)
        return {
            "database": redact_url(url),
            "applied": list(report.applied),
            "pending": list(report.pending),
            "problems": list(report.problems),
            "features": detect(conn).table(),
        }
