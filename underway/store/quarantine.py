"""What could not be taken in, with the reason: rows that count up, and what a full share left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from psycopg import Connection
from psycopg.rows import tuple_row

from underway.model import Fault, to_us
from underway.store.telemetry import MESSAGE_CHARS_MAX, safe_text

PAYLOAD_KEPT_BYTES = 2048
TOPIC_CHARS_MAX = 500
OVERFLOW_ROWS_MAX = 20_000

_COUNT_UP = (
    "UPDATE quarantine AS q SET count = q.count + again.count, last_at = greatest(q.last_at, again.last_at)"
    " FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[]) AS again (topic, reason, sha, count, last_at)"
    " WHERE q.topic = again.topic AND q.reason = again.reason AND q.payload_sha = again.sha RETURNING q.topic, q.reason, q.payload_sha"
)
_INSERT = (
    "INSERT INTO quarantine"
    " (received_at, last_at, dialect, topic, device_id, reason, message, payload, payload_bytes, payload_sha, count)"
    " VALUES (%(first_at)s, %(last_at)s, %(dialect)s, %(topic)s, %(device_id)s, %(reason)s, %(message)s, %(payload)b, %(bytes)s, %(sha)s,"
    " %(count)s) ON CONFLICT (topic, reason, payload_sha) DO UPDATE SET count = quarantine.count + excluded.count,"
    " last_at = greatest(quarantine.last_at, excluded.last_at)"
)
_OVERFLOW = (
    "INSERT INTO quarantine_overflow AS o (source, reason, first_at, last_at, count)"
    " SELECT source, reason, at, at, count FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::bigint[]) AS more (source, reason, at, count)"
    " ON CONFLICT (source, reason) DO UPDATE SET count = o.count + excluded.count, last_at = greatest(o.last_at, excluded.last_at)"
)


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One fault of one message, with the bytes as they came.

    Attributes
    ----------
    size : int
        Bytes of the payload as it was sent, when more than came through; 0: `payload` is all of it.
    """

    received_at: datetime
    dialect: str
    topic: str
    payload: bytes
    fault: Fault
    size: int = 0


class RowDecision(Protocol):
    """What a budget says of one new row."""

    @property
    def keep(self) -> bool:
        """Whether it is written."""
        ...

    @property
    def source(self) -> str:
        """Whose share it is."""
        ...


class RowBudget(Protocol):
    """Decides which new rows are written, as `ingest.quarantine.QuarantineBudget`."""

    def decide(self, device_id: str | None, topic: str, now_us: int) -> RowDecision:
        """Return whether one more new row may be written now."""
        ...


def save_quarantine(conn: Connection[Any], entries: Sequence[QuarantineEntry], budget: RowBudget, now_at: datetime) -> dict[str, int]:
    """Store faults within the budget; the same topic, reason and payload again only counts up.

    Parameters
    ----------
    conn : Connection
        Inside the caller's transaction, or not.
    entries : sequence of QuarantineEntry
    budget : RowBudget
        Asked once for each row that would be new. What it refuses is counted by source and reason in ``quarantine_overflow``.
    now_at : datetime
        The present for `budget`, aware.

    Returns
    -------
    dict of str to int
        Entries by reason, whether kept, counted up or left out.

    Notes
    -----
    The first `PAYLOAD_KEPT_BYTES` of the payload are kept, with the length of all of it and the SHA-256 of what came through. At most three
    statements, whatever the entries are: one counts up, one writes new rows, one writes the overflow.
    """
    if not entries:
        return {}
    rows = _grouped(entries)
    now_us = to_us(now_at)
    overflow: Counter[tuple[str, str]] = Counter()
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        columns = zip(*((*key, row["count"], row["last_at"]) for key, row in sorted(rows.items())), strict=True)
        known = set(cursor.execute(_COUNT_UP, [list(column) for column in columns]).fetchall())
        fresh: list[dict[str, Any]] = []
        for key, row in rows.items():
            if key in known:
                continue
            decision = budget.decide(row["device_id"], row["topic"], now_us)
            if decision.keep:
                fresh.append(row)
            else:
                overflow[safe_text(decision.source, TOPIC_CHARS_MAX), row["reason"]] += row["count"]
        if fresh:
            cursor.executemany(_INSERT, fresh)
        if overflow:
            sources, reasons, counts = zip(*((*key, count) for key, count in sorted(overflow.items())), strict=True)
            cursor.execute(_OVERFLOW, (list(sources), list(reasons), [now_at] * len(sources), list(counts)))
    return dict(Counter(entry.fault.reason.value for entry in entries))


def _grouped(entries: Sequence[QuarantineEntry]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return one row for each topic, reason and payload, in the order in which they came."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    digests: dict[bytes, str] = {}
    for entry in entries:
        sha = digests.get(entry.payload)
        if sha is None:
            sha = digests[entry.payload] = hashlib.sha256(entry.payload).hexdigest()
        topic = safe_text(entry.topic, TOPIC_CHARS_MAX)
        row = rows.get((topic, entry.fault.reason.value, sha))
        if row is not None:
            row["count"] += 1
            row["first_at"] = min(row["first_at"], entry.received_at)
            row["last_at"] = max(row["last_at"], entry.received_at)
            continue
        rows[topic, entry.fault.reason.value, sha] = {
            "first_at": entry.received_at,
            "last_at": entry.received_at,
            "dialect": entry.dialect,
            "topic": topic,
            "device_id": None if entry.fault.device_id is None else safe_text(entry.fault.device_id, TOPIC_CHARS_MAX),
            "reason": entry.fault.reason.value,
            "message": safe_text(entry.fault.message, MESSAGE_CHARS_MAX),
            "payload": entry.payload[:PAYLOAD_KEPT_BYTES],
            "bytes": max(entry.size, len(entry.payload)),
            "sha": sha,
            "count": 1,
        }
    return rows


def prune_quarantine(conn: Connection[Any], rows_max: int, overflow_rows_max: int = OVERFLOW_ROWS_MAX) -> int:
    """Delete the entries seen longest ago beyond `rows_max`, and the same of the overflow; return how many entries."""
    conn.execute(
        "DELETE FROM quarantine_overflow WHERE (source, reason) IN"
        " (SELECT source, reason FROM quarantine_overflow ORDER BY last_at DESC, source, reason OFFSET %s)",
        (overflow_rows_max,),
    )
    return conn.execute(
        "DELETE FROM quarantine WHERE quarantine_id IN"
        " (SELECT quarantine_id FROM quarantine ORDER BY last_at DESC, quarantine_id DESC OFFSET %s)",
        (rows_max,),
    ).rowcount
