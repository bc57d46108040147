"""What services say of themselves, and the hint that the address book changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

REGISTRY_CHANNEL = "underway_registry"
"""Channel of NOTIFY: triggers on the tables of the registry tell it."""


def write_status(conn: Connection[Any], service: str, pid: int, started_at: datetime, facts: Mapping[str, Any]) -> None:
    """Replace the row of one service; ``updated_at`` is the database's own clock."""
    conn.execute(
        "INSERT INTO service_status (service, pid, started_at, updated_at, facts) VALUES (%s, %s, %s, clock_timestamp(), %s)"
        " ON CONFLICT (service) DO UPDATE SET pid = excluded.pid, started_at = excluded.started_at, updated_at = excluded.updated_at,"
        " facts = excluded.facts",
        (service, pid, started_at, Jsonb(dict(facts))),
    )


def listen_registry(conn: Connection[Any], changed: Callable[[], None]) -> None:
    """Call `changed` whenever a statement on `conn` brings the news that the registry was written to."""
    conn.add_notify_handler(lambda notice: changed() if notice.channel == REGISTRY_CHANNEL else None)
    conn.execute(f"LISTEN {REGISTRY_CHANNEL}")


def take_notices(conn: Connection[Any]) -> None:
    """Send an empty statement: the answer brings the notices that wait."""
    conn.execute("SELECT 1")


def alone(conn: Connection[Any], what: str) -> bool:
    """Take the right to do `what` alone, for as long as this connection lives; False when another one has it.

    A session lock: it is gone when the process is, killed or not. `underway.store.connect` has told the server to notice a vanished client soon.
    """
    row = conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"underway {what}",)).fetchone()
    return row is not None and bool(row[0])
