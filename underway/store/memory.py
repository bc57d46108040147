"""What ingest remembers between two starts, and what it says of devices: dialect memory, clocks, presence, windows of late data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

from underway.model import HOUR_US, from_us, to_us

TOUCH_US = HOUR_US
"""Windows of late data that are nearer to each other than this become one."""
PATIENCE_SETTLES = 10
"""A window to which something is added all the time waits so many times as long as one that is left alone."""
ATTEMPTS_MAX = 5
"""So often a window is tried before it is given up."""
BACKOFF_FIRST, BACKOFF_MAX = timedelta(seconds=30), timedelta(hours=1)
"""Until the second attempt; four times as long before each further one, up to the limit."""
GIVEN_UP_MAX = 1_000
"""Windows of a site that were given up and are kept to be seen."""
ERROR_CHARS_MAX = 1_000


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
    attempts: int = 0


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


def note_late_windows(conn: Connection[Any], windows: Sequence[LateWindow], noted_at: datetime, site_id: str) -> None:
    """Write down intervals of a site to be judged again; an interval that touches one that waits for the same lane widens it.

    One whose judgement has begun is left as it is: what comes now is a window of its own, so that no window grows for ever.

    Notes
    -----
    Three statements, however many windows there are. What waits is locked first, so that its judgement cannot begin before it is widened.
    """
    if not windows:
        return
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT lane, from_at, to_at, late_window_id FROM late_window WHERE site_id = %s AND lane = ANY(%s) AND attempts = 0"
            " ORDER BY late_window_id FOR UPDATE",
            (site_id, sorted({window.lane for window in windows})),
        ).fetchall()
        waiting = [LateWindow(lane, to_us(from_at), to_us(to_at), 0, (), None, number) for lane, from_at, to_at, number in rows]
        joined = join_windows(waiting, windows)
        widened = [window for window in joined if window.late_window_id]
        fresh = [window for window in joined if not window.late_window_id]
        if widened:
            cursor.execute(
                "UPDATE late_window AS w SET from_at = n.from_at, to_at = n.to_at, readings = w.readings + n.readings, noted_at = %s,"
                " channel_ids = ARRAY(SELECT DISTINCT unnest(w.channel_ids || n.channel_ids::integer[]) ORDER BY 1)"
                " FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::text[])"
                " AS n(late_window_id, from_at, to_at, readings, channel_ids) WHERE w.late_window_id = n.late_window_id",
                (noted_at, [window.late_window_id for window in widened], *_columns(widened)),
            )
        if fresh:
            cursor.execute(
                "INSERT INTO late_window (site_id, noted_at, first_noted_at, lane, from_at, to_at, readings, channel_ids)"
                " SELECT %s, %s, %s, lane, from_at, to_at, readings, channel_ids::integer[]"
                " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::text[])"
                " AS n(lane, from_at, to_at, readings, channel_ids)",
                (site_id, noted_at, noted_at, [window.lane for window in fresh], *_columns(fresh)),
            )


def join_windows(waiting: Sequence[LateWindow], windows: Sequence[LateWindow]) -> list[LateWindow]:
    """Return what changes when `windows` come: those of `waiting` that become wider, with what is added to them, and those that are new.

    Examples
    --------
    >>> hour = 3_600_000_000
    >>> waits = LateWindow("z1", 0, hour, 0, (), None, 5)
    >>> news = [LateWindow("z1", hour, 2 * hour, 3, (7,)), LateWindow("z1", 9 * hour, 9 * hour + 1, 1, (7,)), LateWindow("z2", 0, 1, 2, (8, 4))]
    >>> [(w.late_window_id, w.lane, w.to_us // hour, w.readings, w.channel_ids) for w in join_windows([waits], news)]
    [(5, 'z1', 2, 3, (7,)), (0, 'z1', 9, 1, (7,)), (0, 'z2', 0, 2, (4, 8))]
    """
    of_lane: dict[str, list[LateWindow]] = {}
    for window in waiting:
        of_lane.setdefault(window.lane, []).append(window)
    for new in windows:
        mine = of_lane.setdefault(new.lane, [])
        for i, old in enumerate(mine):
            if old.from_us <= new.to_us + TOUCH_US and old.to_us >= new.from_us - TOUCH_US:
                channels = tuple(sorted({*old.channel_ids, *new.channel_ids}))
                span = min(old.from_us, new.from_us), max(old.to_us, new.to_us)
                mine[i] = LateWindow(old.lane, *span, old.readings + new.readings, channels, None, old.late_window_id)
                break
        else:
            mine.append(replace(new, channel_ids=tuple(sorted({*new.channel_ids})), late_window_id=0))
    return [window for mine in of_lane.values() for window in mine if window.readings or not window.late_window_id]


def _columns(windows: Sequence[LateWindow]) -> tuple[list[datetime], list[datetime], list[int], list[str]]:
    """Return the columns of windows; PostgreSQL has no arrays of arrays of different lengths, so the channels of each are text."""
    return (
        [from_us(window.from_us) for window in windows],
        [from_us(window.to_us) for window in windows],
        [window.readings for window in windows],
        ["{" + ",".join(map(str, window.channel_ids)) + "}" for window in windows],
    )


def take_late_window(conn: Connection[Any], settled_before: datetime, now_at: datetime, site_id: str) -> LateWindow | None:
    """Begin an attempt at a window of a site that nothing was added to since `settled_before`, the longest waiting first.

    One to which something is added all the time is tried all the same once it has waited `PATIENCE_SETTLES` times as long: loggers that each
    send an hour's readings at a minute of their own leave a zone no quiet minute. It stays until `drop_late_window`. The attempt is counted and the
    next one put off before this one begins, so that a window that kills the process does so a few times only, and the others have their turn.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            "UPDATE late_window SET attempts = attempts + 1, next_at = %(now)s + least(%(longest)s, %(first)s * power(4, attempts))"
            " WHERE late_window_id ="
            " (SELECT late_window_id FROM late_window WHERE site_id = %(site)s AND (noted_at <= %(settled)s OR first_noted_at <= %(overdue)s)"
            " AND given_up_at IS NULL AND attempts < %(most)s AND (next_at IS NULL OR next_at <= %(now)s)"
            " ORDER BY coalesce(next_at, first_noted_at), late_window_id LIMIT 1 FOR UPDATE SKIP LOCKED)"
            " RETURNING lane, from_at, to_at, readings, channel_ids, noted_at, late_window_id, attempts",
            {
                "now": now_at,
                "longest": BACKOFF_MAX,
                "first": BACKOFF_FIRST,
                "site": site_id,
                "settled": settled_before,
                "overdue": now_at - PATIENCE_SETTLES * (now_at - settled_before),
                "most": ATTEMPTS_MAX,
            },
        ).fetchone()
    return None if row is None else LateWindow(row[0], to_us(row[1]), to_us(row[2]), row[3], tuple(row[4]), *row[5:])


def drop_late_window(conn: Connection[Any], window: LateWindow) -> None:
    """Forget a window that was judged."""
    conn.execute("DELETE FROM late_window WHERE late_window_id = %s", (window.late_window_id,))


def return_late_window(conn: Connection[Any], window: LateWindow) -> None:
    """Take an attempt back that was not brought to an end, by nobody's fault."""
    conn.execute(
        "UPDATE late_window SET attempts = greatest(attempts - 1, 0), next_at = NULL WHERE late_window_id = %s", (window.late_window_id,)
    )


def note_late_failure(conn: Connection[Any], window: LateWindow, error: str, now_at: datetime) -> None:
    """Note why an attempt failed, and count the time until the next one from now."""
    conn.execute(
        "UPDATE late_window SET last_error = %s, next_at = %s + least(%s, %s * power(4, attempts - 1)) WHERE late_window_id = %s",
        (error.replace("\0", "")[:ERROR_CHARS_MAX], now_at, BACKOFF_MAX, BACKOFF_FIRST, window.late_window_id),
    )


def give_up_late_windows(conn: Connection[Any], now_at: datetime, site_id: str) -> list[tuple[LateWindow, str]]:
    """Give windows of a site up that had all their attempts, while none is under way; return them with their last error.

    They stay in the table to be seen, the `GIVEN_UP_MAX` last ones.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "UPDATE late_window SET given_up_at = %s, last_error = coalesce(nullif(last_error, ''), 'ingest ended while it was judged')"
            " WHERE site_id = %s AND given_up_at IS NULL AND attempts >= %s"
            " RETURNING last_error, lane, from_at, to_at, readings, channel_ids, noted_at, late_window_id, attempts",
            (now_at, site_id, ATTEMPTS_MAX),
        ).fetchall()
        if rows:
            cursor.execute(
                "DELETE FROM late_window WHERE late_window_id IN (SELECT late_window_id FROM late_window"
                " WHERE site_id = %s AND given_up_at IS NOT NULL ORDER BY given_up_at DESC, late_window_id DESC OFFSET %s)",
                (site_id, GIVEN_UP_MAX),
            )
    return [(LateWindow(row[1], to_us(row[2]), to_us(row[3]), row[4], tuple(row[5]), *row[6:]), row[0]) for row in rows]


def count_late_windows(conn: Connection[Any], site_id: str) -> tuple[int, int]:
    """Return how many windows of a site wait, and how many were given up."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            "SELECT count(*) FILTER (WHERE given_up_at IS NULL), count(given_up_at) FROM late_window WHERE site_id = %s", (site_id,)
        ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))
