"""What people do with quarantine: look, take messages out to send them again, forget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, tuple_row

_WHERE = (
    " WHERE (%(ids)s::bigint[] IS NULL OR quarantine_id = ANY(%(ids)s::bigint[])) AND (%(reason)s::text IS NULL OR reason = %(reason)s)"
    " AND (%(device)s::text IS NULL OR device_id = %(device)s) AND (%(dialect)s::text IS NULL OR dialect = %(dialect)s)"
    " AND (%(since)s::timestamptz IS NULL OR last_at >= %(since)s)"
    " AND NOT (%(not_replayed)s AND replayed_at IS NOT NULL AND last_at <= replayed_at)"
)
_SELECT = (
    "SELECT quarantine_id, received_at, last_at, dialect, topic, device_id, reason, message, payload, payload_bytes, payload_sha, count,"
    " replayed_at FROM quarantine"
)
_NEWEST = " ORDER BY last_at DESC, quarantine_id DESC LIMIT %(limit)s"
_COUNT = "SELECT count(*) FROM quarantine"
_FORGET = "DELETE FROM quarantine"


class QuarantineState(StrEnum):
    """What became of an entry."""

    OPEN = "open"
    REPLAYED = "replayed"
    FAILED_AGAIN = "failed again"


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Which entries are meant; what is None or empty does not restrict.

    Attributes
    ----------
    ids : sequence of int
    reason, device, dialect : str or None
        Exactly these.
    since_at : datetime or None
        Seen at this instant or later, aware.
    not_replayed : bool
        Without those that were sent again and did not fail since.
    """

    ids: Sequence[int] = ()
    reason: str | None = None
    device: str | None = None
    dialect: str | None = None
    since_at: datetime | None = None
    not_replayed: bool = False

    def values(self) -> dict[str, Any]:
        """Return the values of the condition."""
        return {
            "ids": list(self.ids) or None,
            "reason": self.reason or None,
            "device": self.device or None,
            "dialect": self.dialect,
            "since": self.since_at,
            "not_replayed": self.not_replayed,
        }


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """One entry as it is stored.

    Attributes
    ----------
    payload : bytes
        All of it when it has ``payload_bytes`` bytes, else its beginning.
    replayed_at : datetime or None
        When it was sent again last.
    """

    quarantine_id: int
    received_at: datetime
    last_at: datetime
    dialect: str
    topic: str
    device_id: str | None
    reason: str
    message: str
    payload: bytes
    payload_bytes: int
    payload_sha: str
    count: int
    replayed_at: datetime | None

    @property
    def whole(self) -> bool:
        """Return whether the whole payload was kept."""
        return len(self.payload) == self.payload_bytes

    @property
    def state(self) -> QuarantineState:
        """Return whether it was sent again, and whether it came once more since."""
        if self.replayed_at is None:
            return QuarantineState.OPEN
        return QuarantineState.FAILED_AGAIN if self.last_at > self.replayed_at else QuarantineState.REPLAYED


@dataclass(frozen=True, slots=True)
class OverflowRow:
    """What one source sent beyond its share, by reason."""

    source: str
    reason: str
    first_at: datetime
    last_at: datetime
    count: int


def find_quarantine(conn: Connection[Any], wanted: QuarantineFilter, limit: int) -> list[QuarantineRow]:
    """Return at most `limit` entries, seen last first."""
    with conn.cursor(row_factory=class_row(QuarantineRow)) as cursor:
        return cursor.execute(_SELECT + _WHERE + _NEWEST, wanted.values() | {"limit": limit}).fetchall()


def count_quarantine(conn: Connection[Any], wanted: QuarantineFilter) -> int:
    """Return how many entries there are."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_COUNT + _WHERE, wanted.values()).fetchone()
    assert row is not None
    return int(row[0])


def find_overflow(conn: Connection[Any], wanted: QuarantineFilter, limit: int) -> list[OverflowRow]:
    """Return at most `limit` sources and reasons that overflowed, the largest first.

    Of what is only counted neither id nor dialect is known: who asks for one of these gets nothing. The source is the device where one is known.
    """
    if wanted.ids or wanted.dialect:
        return []
    with conn.cursor(row_factory=class_row(OverflowRow)) as cursor:
        return cursor.execute(
            "SELECT source, reason, first_at, last_at, count FROM quarantine_overflow WHERE (%(reason)s::text IS NULL OR reason = %(reason)s)"
            " AND (%(device)s::text IS NULL OR source = %(device)s) AND (%(since)s::timestamptz IS NULL OR last_at >= %(since)s)"
            " ORDER BY count DESC, source, reason LIMIT %(limit)s",
            wanted.values() | {"limit": limit},
        ).fetchall()


def mark_replayed(conn: Connection[Any], ids: Sequence[int], at: datetime) -> None:
    """Note that the message of these entries was sent again at that instant."""
    conn.execute("UPDATE quarantine SET replayed_at = %s WHERE quarantine_id = ANY(%s)", (at, list(ids)))


def forget_quarantine(conn: Connection[Any], wanted: QuarantineFilter) -> int:
    """Delete entries for good; return how many."""
    return conn.execute(_FORGET + _WHERE, wanted.values()).rowcount
