"""What the tables say of ingest: its last words, what it refused, what waits, whose clocks are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

OVERFLOW_SHOWN = 5
DEVICES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class GoneDevice:
    """A device that is offline by its death, or by that of its edge node."""

    device_id: str
    since_at: datetime
    reason: str


_WRONG_CLOCKS = " FROM device_clock JOIN device USING (device_id) WHERE offset_ms <> 0 AND status = 'active'"
_GONE = " FROM device_presence JOIN device USING (device_id) WHERE NOT online AND status = 'active'"


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
        Active devices whose clock is corrected, and the largest offset, without its sign, in s.
    worst_clocks : sequence of (device id, offset)
        The largest of them, in s, positive when the clock is ahead; at most `DEVICES_SHOWN`.
    gone, gone_newest
        Active devices that are offline by their death, and those that went last, at most `DEVICES_SHOWN`.
    pending : int
        Devices that spoke and wait to be accepted.
    late_given_up, late_error
        Windows of late data that could not be judged and are not tried again, and why the last of them could not.
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
    worst_clocks: Sequence[tuple[str, float]] = ()
    gone: int = 0
    gone_newest: Sequence[GoneDevice] = ()
    late_given_up: int = 0
    late_error: str = ""


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
        late = cursor.execute("SELECT count(*), min(first_noted_at) FROM late_window WHERE given_up_at IS NULL").fetchone()
        given_up = cursor.execute(
            "SELECT count(*), coalesce((array_agg(last_error ORDER BY given_up_at DESC, late_window_id DESC))[1], '') FROM late_window"
            " WHERE given_up_at IS NOT NULL"
        ).fetchone()
        clocks = cursor.execute(
            "SELECT count(*), coalesce(max(abs(offset_ms::bigint)), 0)::double precision / 1000" + _WRONG_CLOCKS
        ).fetchone()
        worst = cursor.execute(
            "SELECT device_id, offset_ms::double precision / 1000" + _WRONG_CLOCKS + " ORDER BY abs(offset_ms::bigint) DESC, 1 LIMIT %s",
            (DEVICES_SHOWN,),
        ).fetchall()
        gone = cursor.execute("SELECT count(*)" + _GONE).fetchone()
        newest = cursor.execute(
            "SELECT device_id, since_at, reason" + _GONE + " ORDER BY since_at DESC, 1 LIMIT %s", (DEVICES_SHOWN,)
        ).fetchall()
        pending = cursor.execute("SELECT count(*) FROM device_pending WHERE status = 'pending'").fetchone()
    assert late is not None
    assert given_up is not None
    assert clocks is not None
    assert gone is not None
    assert pending is not None
    pid, age_s, facts = status or (None, 0.0, {})
    return IngestHealth(
        pid=pid,
        status_age_s=age_s,
        facts=facts,
        quarantine=dict(reasons),
        overflow=[(source, reason, count) for source, reason, count in overflow],
        late_windows=late[0],
        late_oldest_at=late[1],
        clocks=clocks[0],
        clock_offset_s=clocks[1],
        pending=pending[0],
        worst_clocks=[(device, offset_s) for device, offset_s in worst],
        gone=gone[0],
        gone_newest=[GoneDevice(*row) for row in newest],
        late_given_up=given_up[0],
        late_error=given_up[1],
    )
