"""What a benchmark asks of the tables: what came since a batch, the same rows as a COPY stream, what a service says, what is new in findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import Connection
from psycopg.rows import tuple_row

from underway.store.pgcopy import Kind, decode

_ROW_COLUMNS = {"channel_id": Kind.INT4, "observed_us": Kind.INSTANT, "value": Kind.FLOAT8}


def last_batch_id(conn: Connection[Any]) -> int:
    """Return the last batch id that was given out; 0 before the first."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM batch_seq").fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One committed batch: how many readings, when the store was told of it, when the first of them was received."""

    batch_id: int
    readings: int
    recorded_at: datetime
    received_at: datetime


def batches_after(conn: Connection[Any], batch_id: int) -> tuple[StoredBatch, ...]:
    """Return the stored batches later than `batch_id`, in order; one without readings is not among them."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT batch_id, count(*), max(recorded_at), min(received_at) FROM reading WHERE batch_id > %s GROUP BY batch_id ORDER BY batch_id",
            (batch_id,),
        ).fetchall()
    return tuple(StoredBatch(*row) for row in rows)


def rows_after(conn: Connection[Any], batch_id: int) -> dict[str, NDArray[Any]]:
    """Return channel, instant (us) and value of every reading of later batches, ordered by (channel, instant)."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        statement = b"COPY (SELECT channel_id, observed_at, value FROM reading WHERE batch_id > %s) TO STDOUT (FORMAT binary)"
        with cursor.copy(statement, (batch_id,)) as copy:
            columns = decode(b"".join(bytes(part) for part in copy), _ROW_COLUMNS)
    order = np.lexsort((columns["observed_us"], columns["channel_id"]))
    return {name: column[order] for name, column in columns.items()}


def copy_streams(conn: Connection[Any], batch_id: int) -> Iterator[bytes]:
    """Yield the binary COPY stream of each later batch, all columns of the table: what `copy_in` takes in another database."""
    for batch in batches_after(conn, batch_id):
        with conn.cursor(row_factory=tuple_row) as cursor:
            statement = b"COPY (SELECT * FROM reading WHERE batch_id = %s ORDER BY observed_at, channel_id) TO STDOUT (FORMAT binary)"
            with cursor.copy(statement, (batch.batch_id,)) as copy:
                yield b"".join(bytes(part) for part in copy)


def copy_in(conn: Connection[Any], stream: bytes) -> int:
    """Store a stream of `copy_streams` and nothing else; return the number of rows."""
    with conn.cursor() as cursor:
        with cursor.copy(b"COPY reading FROM STDIN (FORMAT binary)") as copy:
            copy.write(stream)
        return cursor.rowcount


def service_facts(conn: Connection[Any], service: str, pid: int) -> Mapping[str, Any]:
    """Return what a process last said of itself; nothing before it spoke."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT facts FROM service_status WHERE service = %s AND pid = %s", (service, pid)).fetchone()
    return {} if row is None else dict(row[0])


def finding_assets_after(conn: Connection[Any], seq: int) -> tuple[tuple[int, str, str], ...]:
    """Return (seq, asset, phase) of the findings after `seq`, in order."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute("SELECT seq, asset_id, phase FROM finding WHERE seq > %s ORDER BY seq", (seq,)).fetchall()
    return tuple((int(row[0]), str(row[1]), str(row[2])) for row in rows)


def quarantine_count(conn: Connection[Any]) -> int:
    """Return how often something went to quarantine."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT coalesce(sum(count), 0) FROM quarantine").fetchone()
    assert row is not None
    return int(row[0])


def server_facts(conn: Connection[Any]) -> dict[str, str]:
    """Return the settings of the server that decide how fast it commits, and how the process of this connection is numbered."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_level", "max_wal_size")
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = {name: str(row[0]) for name in names if (row := cursor.execute(f"SHOW {name}".encode()).fetchone()) is not None}
        row = cursor.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return {**found, "backend_pid": str(row[0])}


def has_reading(conn: Connection[Any], channel_id: int, observed_at: datetime) -> bool:
    """Return whether the reading of a channel at an instant is stored."""
    return (
        conn.execute("SELECT 1 FROM reading WHERE channel_id = %s AND observed_at = %s", (channel_id, observed_at)).fetchone() is not None
    )


def flagged_counts(conn: Connection[Any]) -> tuple[int, int]:
    """Return how many readings are stored, and how many of them are not good or carry a flag (late, historical); reads the whole table."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            "SELECT count(*), count(*) FILTER (WHERE flags <> 0 OR quality <> 0 OR clock_offset_ms <> 0) FROM reading"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
