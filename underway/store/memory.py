"""What ingest remembers between two starts, and what it says of devices: dialect memory, clocks, presence, windows of late data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

from underway.model import ReadingBatch, from_us, to_us
from underway.store.pgcopy import Kind, decode

WINDOW_ROWS_MAX = 2_000_000
"""Readings of one window, with what comes before it, that are read at most."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """What a dialect remembers under a key of its own; ``state`` None forgets it."""

    dialect: str
    key: str
    state: bytes | None


@dataclass(frozen=True, slots=True)
class PresenceRow:
    """A device says that it is there, or that it is gone."""

    dialect: str
    address: str
    online: bool
    since_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClockRow:
    """How far the clock of a device is ahead, from an instant on."""

    device_id: str
    offset_ms: int
    since_us: int


@dataclass(frozen=True, slots=True)
class LateWindow:
    """An interval of event time in which late readings of a lane lie, and of which channels they are."""

    lane: str
    from_us: int
    to_us: int
    readings: int
    channel_ids: tuple[int, ...] = ()
    noted_at: datetime | None = None
    late_window_id: int = 0


def save_memory(conn: Connection[Any], rows: Sequence[MemoryRow], saved_at: datetime) -> None:
    """Replace what is remembered; of several rows with one key the last holds."""
    last = {(row.dialect, row.key): row.state for row in rows}
    kept = [(dialect, key, saved_at, state) for (dialect, key), state in last.items() if state is not None]
    gone = [(dialect, key) for (dialect, key), state in last.items() if state is None]
    with conn.cursor() as cursor:
        if kept:
            cursor.executemany(
                "INSERT INTO dialect_memory (dialect, key, saved_at, state) VALUES (%s, %s, %s, %b)"
                " ON CONFLICT (dialect, key) DO UPDATE SET saved_at = excluded.saved_at, state = excluded.state",
                kept,
            )
        if gone:
            cursor.executemany("DELETE FROM dialect_memory WHERE dialect = %s AND key = %s", gone)


def load_memory(conn: Connection[Any]) -> list[MemoryRow]:
    """Return everything that is remembered, what was saved first comes first."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute("SELECT dialect, key, state FROM dialect_memory ORDER BY saved_at, dialect, key", binary=True).fetchall()
    return [MemoryRow(*row) for row in rows]


def save_presence(conn: Connection[Any], rows: Sequence[PresenceRow]) -> None:
    """Note who is there and who is gone; an address that is not registered is passed over."""
    if rows:
        last = {(row.dialect, row.address): row for row in rows}
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO device_presence (device_id, online, since_at, reason)"
                " SELECT device_id, %s, %s, %s FROM device WHERE dialect = %s AND coalesce(nullif(address, ''), device_id) = %s"
                " ON CONFLICT (device_id) DO UPDATE SET online = excluded.online, since_at = excluded.since_at, reason = excluded.reason",
                [(r.online, from_us(r.since_us), r.reason, r.dialect, r.address) for r in last.values()],
            )


def save_clocks(conn: Connection[Any], rows: Sequence[ClockRow]) -> None:
    """Note the clock offsets that changed."""
    if rows:
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO device_clock (device_id, offset_ms, since_at) VALUES (%s, %s, %s)"
                " ON CONFLICT (device_id) DO UPDATE SET offset_ms = excluded.offset_ms, since_at = excluded.since_at",
                [(row.device_id, row.offset_ms, from_us(row.since_us)) for row in {r.device_id: r for r in rows}.values()],
            )


def load_clocks(conn: Connection[Any], site_id: str) -> dict[str, int]:
    """Return the clock offsets of a site that are not 0, ms by device id."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return dict(
            cursor.execute(
                "SELECT device_id, offset_ms FROM device_clock JOIN device USING (device_id) WHERE site_id = %s AND offset_ms <> 0",
                (site_id,),
            ).fetchall()
        )


# windows of late data ------------------------------------------------------------------------------------------------------------------


def note_late_windows(conn: Connection[Any], windows: Sequence[LateWindow], noted_at: datetime) -> None:
    """Write down intervals to be judged again; an interval that touches one that waits for the same lane widens it."""
    with conn.cursor() as cursor:
        for window in windows:
            cursor.execute(
                "UPDATE late_window SET from_at = least(from_at, %(from)s), to_at = greatest(to_at, %(to)s), readings = readings + %(n)s,"
                " channel_ids = ARRAY(SELECT DISTINCT unnest(channel_ids || %(channels)s::integer[]) ORDER BY 1), noted_at = %(at)s"
                " WHERE late_window_id ="
                " (SELECT late_window_id FROM late_window WHERE lane = %(lane)s AND from_at <= %(to)s + interval '1 hour'"
                " AND to_at >= %(from)s - interval '1 hour' ORDER BY late_window_id LIMIT 1)",
                _window(window, noted_at),
            )
            if cursor.rowcount == 0:
                cursor.execute(
                    "INSERT INTO late_window (lane, from_at, to_at, noted_at, readings, channel_ids)"
                    " VALUES (%(lane)s, %(from)s, %(to)s, %(at)s, %(n)s, %(channels)s)",
                    _window(window, noted_at),
                )


def _window(window: LateWindow, noted_at: datetime) -> dict[str, Any]:
    return {
        "lane": window.lane,
        "from": from_us(window.from_us),
        "to": from_us(window.to_us),
        "at": noted_at,
        "n": window.readings,
        "channels": list(window.channel_ids),
    }


def take_late_window(conn: Connection[Any], settled_before: datetime) -> LateWindow | None:
    """Return a window that nothing was added to since `settled_before`, the longest waiting first; it stays until `drop_late_window`."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            "SELECT lane, from_at, to_at, readings, channel_ids, noted_at, late_window_id FROM late_window WHERE noted_at <= %s"
            " ORDER BY noted_at, late_window_id LIMIT 1",
            (settled_before,),
        ).fetchone()
    return None if row is None else LateWindow(row[0], to_us(row[1]), to_us(row[2]), row[3], tuple(row[4]), *row[5:])


def drop_late_window(conn: Connection[Any], window: LateWindow) -> bool:
    """Forget a window that was judged; False when something was added to it meanwhile: then it is judged once more."""
    return (
        conn.execute(
            "DELETE FROM late_window WHERE late_window_id = %s AND noted_at = %s AND readings = %s",
            (window.late_window_id, window.noted_at, window.readings),
        ).rowcount
        > 0
    )


def late_windows_waiting(conn: Connection[Any]) -> int:
    """Return how many windows wait."""
    row = conn.execute("SELECT count(*) FROM late_window").fetchone()
    return 0 if row is None else int(row[0])


_WINDOW_COLUMNS = {
    "channel_id": Kind.INT4,
    "observed_us": Kind.INSTANT,
    "received_us": Kind.INSTANT,
    "value": Kind.FLOAT8,
    "quality": Kind.INT2,
    "reason": Kind.INT2,
    "flags": Kind.INT2,
    "clock_offset_ms": Kind.INT4,
}
_COPY_WINDOW = (
    b"COPY (SELECT channel_id, observed_at, received_at, value, quality, reason, flags, clock_offset_ms FROM reading"
    b" WHERE channel_id = ANY(%s) AND observed_at >= %s AND observed_at < %s ORDER BY observed_at, channel_id LIMIT %s)"
    b" TO STDOUT (FORMAT binary)"
)


def readings_between(conn: Connection[Any], channel_ids: Sequence[int], begin_us: int, end_us: int) -> ReadingBatch:
    """Return the stored readings of some channels in an interval of event time, in event order; `end_us` is outside.

    At most `WINDOW_ROWS_MAX` rows come, the first ones.
    """
    # what the clock was ahead by is at most a day and some hours: the stored key lies that much later
    margin_us = 27 * 3_600_000_000
    with (
        conn.cursor() as cursor,
        cursor.copy(_COPY_WINDOW, (list(channel_ids), from_us(begin_us), from_us(end_us + margin_us), WINDOW_ROWS_MAX)) as copy,
    ):
        columns = decode(b"".join(bytes(part) for part in copy), _WINDOW_COLUMNS)
    columns.update({name: columns[name].astype("u1") for name in ("quality", "reason", "flags")})
    batch = ReadingBatch(**columns).in_event_time()
    return batch.take((batch.observed_us >= begin_us) & (batch.observed_us < end_us)).in_event_order()
