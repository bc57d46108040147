"""The writer of readings and expected values: binary COPY, idempotent on the natural key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import Connection, Cursor
from psycopg.rows import tuple_row

from underway.model import ExpectationBatch, InternalError, ReadingBatch, Signal, from_us, to_us
from underway.store.pgcopy import HEADER, TRAILER, Column, Kind, encode

ROWS_MAX = 1_000_000
"""Most rows of one call: 90 MB on the wire."""
PIECE_ROWS = 2_048
_EARLIEST_US, _LATEST_US = -2_208_988_800_000_000, 4_102_444_800_000_000  # 1900 to 2100

_READING_COLUMNS = "channel_id, observed_at, received_at, recorded_at, value, quality, reason, flags, batch_id, clock_offset_ms"
_COPY_READING = f"COPY reading ({_READING_COLUMNS}) FROM STDIN (FORMAT binary)"
_STAGE_READING = "CREATE TEMP TABLE IF NOT EXISTS reading_stage (ordinal integer, LIKE reading) ON COMMIT DELETE ROWS"
_COPY_STAGED_READING = f"COPY pg_temp.reading_stage (ordinal, {_READING_COLUMNS}) FROM STDIN (FORMAT binary)"
_INSERT_STAGED_READING = f"""
    WITH fresh AS (
        INSERT INTO reading ({_READING_COLUMNS}) SELECT {_READING_COLUMNS} FROM pg_temp.reading_stage ORDER BY ordinal
        ON CONFLICT (channel_id, observed_at) DO NOTHING RETURNING channel_id, observed_at)
    SELECT coalesce(array_agg(ordinal), '{{}}') FROM fresh JOIN pg_temp.reading_stage USING (channel_id, observed_at)"""  # noqa: S608 constants only

_EXPECTATION_COLUMNS = "signal_id, at, observed, expected, sigma, baseline_id"
_COPY_EXPECTATION = f"COPY expectation ({_EXPECTATION_COLUMNS}) FROM STDIN (FORMAT binary)"
_STAGE_EXPECTATION = "CREATE TEMP TABLE IF NOT EXISTS expectation_stage (LIKE expectation) ON COMMIT DELETE ROWS"
_COPY_STAGED_EXPECTATION = f"COPY pg_temp.expectation_stage ({_EXPECTATION_COLUMNS}) FROM STDIN (FORMAT binary)"
_INSERT_STAGED_EXPECTATION = f"""
    INSERT INTO expectation ({_EXPECTATION_COLUMNS}) SELECT {_EXPECTATION_COLUMNS} FROM pg_temp.expectation_stage
    ON CONFLICT (signal_id, at) DO NOTHING"""  # noqa: S608 constants only


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What `append` wrote.

    Attributes
    ----------
    inserted : ndarray of bool, shape (n,)
        True where the row of the batch is new; pass ``batch.take(result.inserted)`` on to detectors.
    duplicates : int
        Rows that were there before, in the table or earlier in the same batch.
    """

    inserted: NDArray[np.bool_]
    duplicates: int


def next_batch_id(conn: Connection[Any]) -> int:
    """Return the next batch id; ids only grow, and a transaction that is rolled back leaves a gap."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT nextval('batch_seq')").fetchone()
    assert row is not None
    return int(row[0])


def first_occurrence(*key: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of the rows whose key did not occur in an earlier row.

    Examples
    --------
    >>> first_occurrence(np.array([1, 1, 2]), np.array([5, 5, 5])).tolist()
    [True, False, True]
    """
    order = np.lexsort(key)
    again = np.ones(max(len(order) - 1, 0), bool)
    for column in key:
        ordered = column[order]
        again &= ordered[1:] == ordered[:-1]
    mask = np.ones(len(order), bool)
    mask[order[1:][again]] = False
    return mask


def append(conn: Connection[Any], batch: ReadingBatch, batch_id: int, recorded_at: datetime) -> AppendResult:
    """Store the readings that are not there yet; the first of two with the same channel and observed time stays.

    Parameters
    ----------
    conn : Connection
        Inside the caller's transaction; a savepoint of our own keeps that transaction usable.
    batch : ReadingBatch
        At most `ROWS_MAX` rows, times between 1900 and 2100.
    batch_id : int
        From `next_batch_id`: a replay reads batches in this order, up to the last id that was given out.
    recorded_at : datetime
        When the store was told, aware.

    Raises
    ------
    InternalError
        When the batch is too large or holds a time that ingest must not let pass.

    Notes
    -----
    One COPY when nothing is a duplicate, which is the rule. Otherwise the COPY is undone and the rows go through a temporary table and
    ``INSERT ... ON CONFLICT DO NOTHING``, which takes several times as long (docs/decisions/0003). Of two writers with the same key, the
    second waits for the first.
    """
    n = len(batch)
    if n == 0:
        return AppendResult(np.zeros(0, bool), 0)
    _check(n, "readings", batch.observed_us, batch.received_us)
    inserted = first_occurrence(batch.observed_us, batch.channel_id)
    rows = batch if inserted.all() else batch.take(inserted)
    columns: list[Column] = [
        (Kind.INT4, rows.channel_id),
        (Kind.INSTANT, rows.observed_us),
        (Kind.INSTANT, rows.received_us),
        (Kind.INSTANT, np.array([to_us(recorded_at)])),
        (Kind.FLOAT8, rows.value),
        (Kind.INT2, rows.quality),
        (Kind.INT2, rows.reason),
        (Kind.INT2, rows.flags),
        (Kind.INT8, np.array([batch_id])),
        (Kind.INT4, rows.clock_offset_ms),
    ]
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        try:
            with conn.transaction():
                _copy(cursor, _COPY_READING, _pieces(columns, len(rows)))
        except psycopg.errors.UniqueViolation:
            cursor.execute(_STAGE_READING)
            ordinal: Column = (Kind.INT4, np.flatnonzero(inserted))
            _copy(cursor, _COPY_STAGED_READING, _pieces([ordinal, *columns], len(rows)))
            found = cursor.execute(_INSERT_STAGED_READING, binary=True).fetchone()
            cursor.execute("DELETE FROM pg_temp.reading_stage")
            assert found is not None
            inserted = np.zeros(n, bool)
            inserted[found[0]] = True
    return AppendResult(inserted, n - int(inserted.sum()))


def newest_observed_us(conn: Connection[Any], channel_ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the newest stored key of channels, microseconds since 1970; of a channel without readings the smallest number.

    One look at the end of the index a channel.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT newest.observed_at FROM unnest(%s::integer[]) WITH ORDINALITY AS wanted (channel_id, place) LEFT JOIN LATERAL"
            " (SELECT observed_at FROM reading WHERE reading.channel_id = wanted.channel_id ORDER BY observed_at DESC LIMIT 1) AS newest"
            " ON true ORDER BY place",
            (channel_ids.tolist(),),
        ).fetchall()
    return np.array([np.iinfo(np.int64).min if row[0] is None else to_us(row[0]) for row in rows], np.int64)


@dataclass(slots=True)
class SignalIds:
    """The ids of signals by name, kept between batches; one a connection.

    A signal that this connection created itself is looked up again until it was seen in a later transaction: the one that created it may
    have been rolled back.
    """

    known: dict[str, int] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)
    """Name -> id of the transaction in which it was created."""

    def ids(self, conn: Connection[Any], signals: Sequence[Signal]) -> NDArray[np.int32]:
        """Return the ids of `signals`, in their order; unknown ones are registered."""
        wanted = {signal.name: signal for signal in signals if signal.name not in self.known}
        here = dict(self.known) if wanted else self.known
        if wanted:
            with conn.cursor(row_factory=tuple_row) as cursor:
                found = cursor.execute(
                    "SELECT signal_id, name, pg_current_xact_id()::text FROM signal WHERE name = ANY(%s)", (list(wanted),)
                ).fetchall()
                for signal_id, name, transaction in found:
                    here[name] = signal_id
                    if self.unsure.get(name) != transaction:
                        self.known[name] = signal_id
                        self.unsure.pop(name, None)
                for name, signal in wanted.items():
                    if name in here:
                        continue
                    row = cursor.execute(
                        "INSERT INTO signal (name, zone_id, asset_id, unit) VALUES (%s, %s, %s, %s)"
                        " ON CONFLICT (name) DO UPDATE SET unit = signal.unit RETURNING signal_id, pg_current_xact_id()::text",
                        (name, signal.zone_id, signal.asset_id, signal.unit),
                    ).fetchone()
                    assert row is not None
                    here[name], self.unsure[name] = row
        return np.array([here[signal.name] for signal in signals], np.int32)


def append_expectations(conn: Connection[Any], batch: ExpectationBatch, signals: SignalIds) -> int:
    """Store what detectors expected; the first of two with the same signal and time stays.

    Parameters
    ----------
    conn : Connection
        Inside the caller's transaction.
    batch : ExpectationBatch
        At most `ROWS_MAX` rows.
    signals : SignalIds
        Kept by the caller between batches.

    Returns
    -------
    int
        Rows that are new.
    """
    if len(batch) == 0:
        return 0
    _check(len(batch), "expected values", batch.at_us)
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        signal_id = signals.ids(conn, batch.signals)[batch.signal]
        fresh = first_occurrence(batch.at_us, signal_id)
        data = _expectation_rows(batch, signal_id, fresh)
        try:
            with conn.transaction():
                _copy(cursor, _COPY_EXPECTATION, [data])
        except psycopg.errors.UniqueViolation:
            cursor.execute(_STAGE_EXPECTATION)
            _copy(cursor, _COPY_STAGED_EXPECTATION, [data])
            written = cursor.execute(_INSERT_STAGED_EXPECTATION).rowcount
            cursor.execute("DELETE FROM pg_temp.expectation_stage")
            return written
    return int(fresh.sum())


def _expectation_rows(batch: ExpectationBatch, signal_id: NDArray[np.int32], fresh: NDArray[np.bool_]) -> bytes:
    """Return the COPY rows of `batch`: one numpy pass for each byte length that a baseline id has."""
    baseline = [(name or "-").encode() for name in batch.baseline]
    length = np.array([len(name) for name in baseline])[batch.signal]
    parts: list[bytes] = []
    for width in np.unique(length[fresh]):
        rows = np.flatnonzero(fresh & (length == width))
        names = np.array([name if len(name) == width else b"" for name in baseline], f"S{width}")
        text = names[batch.signal[rows]]
        columns: list[Column] = [
            (Kind.INT4, signal_id[rows]),
            (Kind.INSTANT, batch.at_us[rows]),
            (Kind.FLOAT8, batch.observed[rows]),
            (Kind.FLOAT8, batch.expected[rows]),
            (Kind.FLOAT8, batch.sigma[rows]),
            (Kind.TEXT, text),
        ]
        parts.append(encode(columns, len(rows)))
    return b"".join(parts)


def _copy(cursor: Cursor[Any], statement: str, rows: Iterable[bytes]) -> None:
    """Send a binary stream."""
    with cursor.copy(statement.encode()) as copy:
        copy.write(HEADER)
        for piece in rows:
            copy.write(piece)
        copy.write(TRAILER)


def _pieces(columns: Sequence[Column], n: int) -> Iterator[bytes]:
    """Yield the rows in pieces: the server works on the first while the next is made."""
    for start in range(0, n, PIECE_ROWS):
        part = slice(start, start + PIECE_ROWS)
        yield encode([(kind, values if len(values) == 1 else values[part]) for kind, values in columns], min(PIECE_ROWS, n - start))


def _check(n: int, what: str, *instants_us: NDArray[np.int64]) -> None:
    """Refuse what PostgreSQL would refuse later, in our words."""
    if n > ROWS_MAX:
        raise InternalError(f"a batch must have at most {ROWS_MAX} {what}, got {n}")
    for column in instants_us:
        for us in (int(column.min()), int(column.max())):
            if not _EARLIEST_US <= us <= _LATEST_US:
                raise InternalError(
                    f"times of {what} must lie between {from_us(_EARLIEST_US):%Y} and {from_us(_LATEST_US):%Y}, got {us} us"
                )
