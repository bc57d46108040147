"""Devices that spoke and are not registered: who, since when, how often, with what; until an engineer accepts or ignores them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

PENDING_MAX = 2000
"""Most devices of one site on the list; those that were silent longest are forgotten, ignored ones last."""
CHANNELS_MAX = 200
"""Most channels that are kept of one device; also most details."""
TEXT_CHARS_MAX = 300


class PendingStatus(StrEnum):
    """What an engineer said to it."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """A device that announced itself or spoke, once or several times.

    Attributes
    ----------
    kind : str
        ``birth``, ``join`` or ``uplink``.
    first_at, last_at : datetime
        When it was heard, aware.
    model : str
    details : mapping
        Plain JSON values.
    channels : mapping of str to mapping
        By address, ``{"unit": "bar", "example": 3.4}``; both may be missing.
    """

    dialect: str
    address: str
    kind: str
    first_at: datetime
    last_at: datetime
    topic: str
    count: int = 1
    site_id: str | None = None
    model: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    channels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A device on the list."""

    entry: PendingEntry
    status: PendingStatus


def note_pending(conn: Connection[Any], entries: Sequence[PendingEntry], pending_max: int = PENDING_MAX) -> int:
    """Note devices on the list, and return how many were new there.

    One that is registered by now is not noted; one that is ignored stays ignored; one that was accepted and is not registered any more waits again.

    Parameters
    ----------
    conn : Connection
        In a transaction of ours (a savepoint inside the caller's).
    entries : sequence of PendingEntry
        Several of one device count together.
    pending_max : int
        Most rows of one site, and of no site.
    """
    merged = _merged(entries)
    if not merged:
        return 0
    columns: list[list[Any]] = [
        [e.dialect for e in merged],
        [e.address for e in merged],
        [e.site_id for e in merged],
        [e.kind for e in merged],
        [e.first_at for e in merged],
        [e.last_at for e in merged],
        [e.count for e in merged],
        [_text(e.topic) for e in merged],
        [Jsonb(_plain({"model": e.model, "details": e.details, "channels": e.channels})) for e in merged],
    ]
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        fresh = cursor.execute(_NOTE, columns).fetchall()
        new = [row[0] for row in fresh if row[1]]
        for site_id in dict.fromkeys(new):
            cursor.execute(_FORGET, {"site_id": site_id, "rows": pending_max})
    return len(new)


_NOTE = f"""
INSERT INTO device_pending AS old (dialect, address, site_id, kind, first_at, last_at, count, topic, announcement)
SELECT told.dialect, told.address, site.site_id, told.kind, told.first_at, told.last_at, told.count, told.topic, told.announcement
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::text[], %s::jsonb[])
    AS told (dialect, address, site_id, kind, first_at, last_at, count, topic, announcement)
LEFT JOIN site ON site.site_id = told.site_id
WHERE NOT EXISTS (
    SELECT FROM device
    WHERE device.dialect = told.dialect
    AND (device.address = told.address OR (device.address = '' AND device.device_id = told.address))
)
ORDER BY told.dialect, told.address
ON CONFLICT (dialect, address) DO UPDATE SET
    site_id = coalesce(excluded.site_id, old.site_id),
    kind = CASE WHEN excluded.kind = 'uplink' THEN old.kind ELSE excluded.kind END,
    first_at = least(old.first_at, excluded.first_at),
    last_at = greatest(old.last_at, excluded.last_at),
    count = old.count + excluded.count,
    topic = excluded.topic,
    status = CASE WHEN old.status = 'accepted' THEN 'pending' ELSE old.status END,
    announcement = jsonb_build_object(
        'model', coalesce(nullif(excluded.announcement->>'model', ''), old.announcement->>'model', ''),
        'details', coalesce(old.announcement->'details', '{{}}') || (excluded.announcement->'details'),
        'channels', CASE
            WHEN (
                SELECT count(*) FROM jsonb_object_keys(coalesce(old.announcement->'channels', '{{}}') || (excluded.announcement->'channels'))
            ) <= {CHANNELS_MAX}
            THEN coalesce(old.announcement->'channels', '{{}}') || (excluded.announcement->'channels')
            ELSE excluded.announcement->'channels'
        END
    )
RETURNING site_id, xmax = 0
""".encode()  # noqa: S608 constants only

_FORGET = b"""
DELETE FROM device_pending WHERE (dialect, address) IN (
    SELECT dialect, address FROM device_pending WHERE site_id IS NOT DISTINCT FROM %(site_id)s
    ORDER BY status = 'ignored' DESC, last_at DESC, dialect, address OFFSET %(rows)s
)
"""


def list_pending(
    conn: Connection[Any], site_id: str | None = None, status: PendingStatus | None = PendingStatus.PENDING
) -> tuple[PendingRow, ...]:
    """Return the devices on the list, the one heard last first.

    Parameters
    ----------
    conn : Connection
    site_id : str or None
        None: of every site. A device whose topic names no site is in every list.
    status : PendingStatus or None
        None: all.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            f"SELECT {_COLUMNS} FROM device_pending WHERE (%(site)s::text IS NULL OR site_id IS NULL OR site_id = %(site)s)"  # noqa: S608 constants only
            " AND (%(status)s::text IS NULL OR status = %(status)s) ORDER BY last_at DESC, dialect, address".encode(),
            {"site": site_id, "status": status},
        )
        return tuple(_pending_row(row) for row in rows)


def find_pending(conn: Connection[Any], dialect: str, address: str) -> PendingRow | None:
    """Return one device of the list, or None."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM device_pending WHERE dialect = %s AND address = %s".encode(),  # noqa: S608 constants only
            (dialect, address),
        ).fetchone()
    return None if row is None else _pending_row(row)


def mark_pending(conn: Connection[Any], dialect: str, address: str, status: PendingStatus) -> bool:
    """Say what becomes of a device of the list; False when it is not there."""
    cursor = conn.execute("UPDATE device_pending SET status = %s WHERE dialect = %s AND address = %s", (status, dialect, address))
    return cursor.rowcount == 1


_COLUMNS = "dialect, address, kind, first_at, last_at, topic, count, site_id, announcement, status"


def _pending_row(row: Sequence[Any]) -> PendingRow:
    dialect, address, kind, first_at, last_at, topic, count, site_id, said, status = row
    model, details, channels = said.get("model", ""), said.get("details", {}), said.get("channels", {})
    entry = PendingEntry(dialect, address, kind, first_at, last_at, topic, count, site_id, model, details, channels)
    return PendingRow(entry, PendingStatus(status))


def _merged(entries: Sequence[PendingEntry]) -> list[PendingEntry]:
    """Return one entry a device."""
    found: dict[tuple[str, str], PendingEntry] = {}
    for entry in entries:
        if "\x00" in entry.address or not entry.address.isprintable():
            continue  # no device that anybody could name
        key = entry.dialect, entry.address
        before = found.get(key)
        found[key] = _capped(entry) if before is None else merge(before, entry)
    return list(found.values())


def merge(before: PendingEntry, now: PendingEntry) -> PendingEntry:
    """Return what two entries of one device say together; what is said later counts, at most `CHANNELS_MAX` channels are kept."""
    channels = {**before.channels, **now.channels}
    return _capped(
        PendingEntry(
            now.dialect,
            now.address,
            before.kind if now.kind == "uplink" else now.kind,
            min(before.first_at, now.first_at),
            max(before.last_at, now.last_at),
            now.topic,
            before.count + now.count,
            now.site_id or before.site_id,
            now.model or before.model,
            {**before.details, **now.details},
            channels if len(channels) <= CHANNELS_MAX else now.channels,
        )
    )


def _capped(entry: PendingEntry) -> PendingEntry:
    if len(entry.channels) <= CHANNELS_MAX:
        return entry
    return replace(entry, channels=dict(list(entry.channels.items())[:CHANNELS_MAX]))


def _plain(value: Any) -> Any:
    """Return JSON values as the database takes them: bounded texts without zero bytes, finite numbers."""
    if isinstance(value, Mapping):
        return {_text(str(name)): _plain(item) for name, item in list(value.items())[:CHANNELS_MAX]}
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float)) else _text(str(value))


def _text(value: str) -> str:
    return value[:TEXT_CHARS_MAX].replace("\x00", "?").encode("utf-8", "replace").decode()
