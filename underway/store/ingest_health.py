"""What the tables say of ingest: its last words, what it refused, what waits, whose clocks are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

OVERFLOW_SHOWN = 5


@dataclass(frozen=True, slots=True)
class IngestHealth:
    """What was found.

    Attributes
    ----------
    pid : int or None
        Of the process that reported last; None: none ever did.
    status_age_s : float
        Since its last report, by the database's clock, in s.
    facts : mapping
        Its last report.
    quarantine : mapping of str to int
        Messages in quarantine by reason that came since `since_at`.
    overflow : sequence of (source, reason, count)
        What went beyond the share of its sender, of what did so since `since_at`; the largest first, at most `OVERFLOW_SHOWN`.
    late_windows, late_oldest_at
        Windows of late data that wait to be judged again, and since when the oldest does.
    clocks, clock_offset_s
        Devices whose clock is corrected, and the largest offset, without its sign, in s.
    pending : int
        Devices that spoke and wait to be accepted.
    """

    pid: int | None = None
    status_age_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)
    overflow: Sequence[tuple[str, str, int]] = ()
    late_windows: int = 0
    late_oldest_at: datetime | None = None
    clocks: int = 0
    clock_offset_s: float = 0.0
    pending: int = 0


def load_ingest_health(conn: Connection[Any], since_at: datetime) -> IngestHealth:
    """Return how ingest is, by the tables of this version's schema."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        status = cursor.execute(
            "SELECT pid, extract(epoch FROM clock_timestamp() - updated_at)::double precision, facts FROM service_status WHERE service = 'ingest'"
        ).fetchone()
        reasons = cursor.execute(
            "SELECT reason, sum(count)::bigint FROM quarantine WHERE last_at >= %s GROUP BY reason ORDER BY 2 DESC, 1", (since_at,)
        ).fetchall()
        overflow = cursor.execute(
            "SELECT source, reason, count FROM quarantine_overflow WHERE last_at >= %s ORDER BY count DESC, source, reason LIMIT %s",
            (since_at, OVERFLOW_SHOWN),
        ).fetchall()
        late = cursor.execute("SELECT count(*), min(noted_at) FROM late_window").fetchone()
        clocks = cursor.execute(
            "SELECT count(*), coalesce(max(abs(offset_ms)), 0)::double precision / 1000 FROM device_clock WHERE offset_ms <> 0"
        ).fetchone()
        pending = cursor.execute("SELECT count(*) FROM device_pending WHERE status = 'pending'").fetchone()
    assert late is not None
    assert clocks is not None
    assert pending is not None
    pid, age_s, facts = status or (None, 0.0, {})
    return IngestHealth(pid, age_s, facts, dict(reasons), [(s, r, n) for s, r, n in overflow], *late, *clocks, *pending)
