"""Findings, checkpoints, holds, and the replay of stored readings."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from psycopg import Connection
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from underway.model import Evidence, Finding, FindingKind, FindingPhase, Hold, InternalError, Operation, ReadingBatch, from_us, to_us
from underway.store.operations import operations_after
from underway.store.pgcopy import Kind, decode

FINDING_CHANNEL = "underway_finding"
"""Channel of NOTIFY: a hint that there are new rows in ``finding``; the table is the truth."""
MESSAGE_CHARS_MAX = 1000
STATE_BYTES_MAX = 256 * 2**20
REPLAY_ROWS = 200_000
"""About how many readings a replay holds in memory at once (60 bytes each)."""

_INSERT_FINDING = (
    "INSERT INTO finding (finding_id, kind, phase, asset_id, zone_id, detector, detector_version, score, onset_at, detected_at, recorded_at,"
    " historical, evidence, batch_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (finding_id) DO NOTHING RETURNING finding_id"
)
_SELECT_FINDING = (
    "SELECT seq, finding_id, kind, phase, asset_id, zone_id, detector, detector_version, score, onset_at, detected_at, evidence, historical"
    " FROM finding"
)
_FINDING_LOCK = 0x756E6465  # the one lock under which finding.seq is given out


# Evidence <-> jsonb ---------------------------------------------------------------------------------------------------------------------


def evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    """Return plain JSON values; what JSON cannot say becomes null: NaN, and infinity (an open band).

    Examples
    --------
    >>> evidence_to_json(Evidence("x", 1.0, 2.0, 0.5, float("inf"), "kPa", 3.0, 1.0, "b1"))["band_high"] is None
    True
    """
    plain: dict[str, Any] = _clean(msgspec.to_builtins(evidence, enc_hook=_numpy_to_builtin))
    return plain


def evidence_from_json(value: Mapping[str, Any]) -> Evidence:
    """Return the evidence that `evidence_to_json` wrote; null is an open band (-inf, +inf) or NaN."""
    plain = dict(value)
    _restore(plain, _EVIDENCE_NULL)
    plain["drivers"] = [dict(driver) for driver in plain.get("drivers", ())]
    for driver in plain["drivers"]:
        _restore(driver, _DRIVER_NULL)
    return msgspec.convert(plain, Evidence)


_EVIDENCE_NULL = {
    **dict.fromkeys(("observed", "expected", "statistic", "threshold"), math.nan),
    "band_low": -math.inf,
    "band_high": math.inf,
}
_DRIVER_NULL = dict.fromkeys(("observed", "expected", "sigma"), math.nan)


def _numpy_to_builtin(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    # the error by which a hook of msgspec says that it does not know a type
    raise NotImplementedError(f"evidence must hold plain values or numpy ones, got {value!r}")


def _clean(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return safe_text(value, MESSAGE_CHARS_MAX)
    if isinstance(value, dict):
        return {_clean(key) if isinstance(key, str) else str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


def _restore(plain: dict[str, Any], null_means: Mapping[str, float]) -> None:
    for name, number in null_means.items():
        if plain.get(name) is None:
            plain[name] = number


def safe_text(text: str, chars_max: int) -> str:
    r"""Return `text` as PostgreSQL takes it: no NUL, no lone surrogate, at most `chars_max` characters.

    Examples
    --------
    >>> safe_text("a" + chr(0) + chr(0xD800), 20)
    'a\\x00\\ud800'
    """
    plain = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= chars_max else plain[: chars_max - 1] + "…"


# findings -------------------------------------------------------------------------------------------------------------------------------


def save_findings(conn: Connection[Any], findings: Sequence[Finding], batch_id: int, recorded_at: datetime) -> tuple[Finding, ...]:
    """Store findings and return those that were not there before, in order.

    Parameters
    ----------
    conn : Connection
        Inside the caller's transaction.
    findings : sequence of Finding
    batch_id : int
        The batch whose readings made the detectors speak.
    recorded_at : datetime
        When the store was told, aware.

    Notes
    -----
    A lock until commit makes ``seq`` grow in the order of commits, so that a reader who remembers the last ``seq`` misses nothing.
    """
    if not findings:
        return ()
    rows = [
        (
            finding.finding_id,
            finding.kind,
            finding.phase,
            finding.asset_id,
            finding.zone_id,
            finding.detector,
            finding.detector_version,
            float(finding.score),
            from_us(finding.onset_us),
            from_us(finding.detected_us),
            recorded_at,
            bool(finding.historical),
            Jsonb(evidence_to_json(finding.evidence)),
            batch_id,
        )
        for finding in findings
    ]
    fresh: list[Finding] = []
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_FINDING_LOCK,))
        cursor.executemany(_INSERT_FINDING, rows, returning=True)
        for finding, result in zip(findings, cursor.results(), strict=True):
            if result.fetchone() is not None:
                fresh.append(finding)
    return tuple(fresh)


def raised_between(conn: Connection[Any], asset_ids: Collection[str], begin_us: int, end_us: int) -> list[tuple[str, str, int]]:
    """Return (asset, kind, event time) of the conditions of some assets that were raised in an interval."""
    if not asset_ids:
        return []
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT asset_id, kind, detected_at FROM finding WHERE asset_id = ANY(%s) AND detected_at >= %s AND detected_at < %s"
            " AND phase = 'raise'",
            (list(asset_ids), from_us(begin_us), from_us(end_us)),
        ).fetchall()
    return [(asset_id, kind, to_us(at)) for asset_id, kind, at in rows]


def last_batch_id(conn: Connection[Any]) -> int:
    """Return the last batch id that was given out, 0 before the first."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        # not max(batch_id): the index on it knows ranges only, so that would read the whole table
        found = cursor.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM batch_seq").fetchone()
    return 0 if found is None else int(found[0])


def announce_findings(conn: Connection[Any], findings: Sequence[Finding]) -> None:
    """Tell listeners of `FINDING_CHANNEL` that there are new findings; inside a transaction they hear it at its commit."""
    if findings:
        conn.execute("SELECT pg_notify(%s, %s)", (FINDING_CHANNEL, str(len(findings))))


def findings_after(conn: Connection[Any], seq: int, limit: int = 500) -> tuple[tuple[int, Finding], ...]:
    """Return at most `limit` findings with a greater ``seq``, each with its ``seq``, in order."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(_SELECT_FINDING + " WHERE seq > %s ORDER BY seq LIMIT %s", (seq, limit)).fetchall()
    return tuple((row[0], _finding(row[1:])) for row in rows)


def load_finding(conn: Connection[Any], finding_id: UUID) -> Finding | None:
    """Return one finding, or None."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_SELECT_FINDING + " WHERE finding_id = %s", (finding_id,)).fetchone()
    return None if row is None else _finding(row[1:])


def _finding(row: tuple[Any, ...]) -> Finding:
    identity, kind, phase, asset_id, zone_id, detector, version, score, onset_at, detected_at, evidence, historical = row
    return Finding(
        identity,
        FindingKind(kind),
        FindingPhase(phase),
        asset_id,
        zone_id,
        detector,
        version,
        score,
        to_us(onset_at),
        to_us(detected_at),
        evidence_from_json(evidence),
        historical,
    )


# checkpoints ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of one part of the detectors of a partition after every batch up to ``batch_id``."""

    partition: str
    batch_id: int
    saved_at: datetime
    version: str
    state: bytes
    part: str = ""


def save_checkpoint(conn: Connection[Any], checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a part of a partition.

    Raises
    ------
    InternalError
        When the state is larger than `STATE_BYTES_MAX`: detector state must be bounded.
    """
    if len(checkpoint.state) > STATE_BYTES_MAX:
        raise InternalError(
            f"the detector state of '{checkpoint.partition}' must have at most {STATE_BYTES_MAX} bytes, got {len(checkpoint.state)}"
        )
    conn.execute(
        "INSERT INTO checkpoint (partition, part, batch_id, saved_at, version, state) VALUES (%s, %s, %s, %s, %s, %b)"
        " ON CONFLICT (partition, part) DO UPDATE"
        " SET batch_id = excluded.batch_id, saved_at = excluded.saved_at, version = excluded.version, state = excluded.state",
        (checkpoint.partition, checkpoint.part, checkpoint.batch_id, checkpoint.saved_at, checkpoint.version, checkpoint.state),
    )


def load_checkpoints(conn: Connection[Any], partition: str) -> Iterator[Checkpoint]:
    """Yield the parts of the checkpoint of a partition, one at a time: all of them together may be large."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        parts = [row[0] for row in cursor.execute("SELECT part FROM checkpoint WHERE partition = %s ORDER BY part", (partition,))]
        for part in parts:
            row = cursor.execute(
                "SELECT partition, batch_id, saved_at, version, state, part FROM checkpoint WHERE partition = %s AND part = %s",
                (partition, part),
                binary=True,
            ).fetchone()
            if row is not None:
                yield Checkpoint(*row)


def forget_checkpoints(conn: Connection[Any], partition: str, keep: Sequence[str]) -> int:
    """Delete the parts of a partition that are not in `keep`: they were cut differently before; return how many."""
    return conn.execute("DELETE FROM checkpoint WHERE partition = %s AND part <> ALL(%s)", (partition, list(keep))).rowcount


# replay ---------------------------------------------------------------------------------------------------------------------------------

_REPLAY_COLUMNS = {
    "batch_id": Kind.INT8,
    "channel_id": Kind.INT4,
    "observed_us": Kind.INSTANT,
    "received_us": Kind.INSTANT,
    "value": Kind.FLOAT8,
    "quality": Kind.INT2,
    "reason": Kind.INT2,
    "flags": Kind.INT2,
    "clock_offset_ms": Kind.INT4,
}
_COPY_OUT = (
    b"COPY (SELECT batch_id, channel_id, observed_at, received_at, value, quality, reason, flags, clock_offset_ms FROM reading"
    b" WHERE batch_id > %s AND batch_id <= %s ORDER BY batch_id, observed_at, channel_id) TO STDOUT (FORMAT binary)"
)


def readings_after(conn: Connection[Any], batch_id: int, *, rows: int = REPLAY_ROWS) -> Iterator[tuple[int, ReadingBatch]]:
    """Yield the stored readings of every later batch, in the order in which batches were stored, as detectors saw them.

    Inside a batch the order is that of `ReadingBatch.in_event_order`, in event time: the clock offset that ingest knew is taken off. A batch
    without new readings yields nothing.

    Parameters
    ----------
    conn : Connection
        Free for other statements between two items.
    batch_id : int
        The last batch that is already known; 0 for all.
    rows : int
        About how many readings are held in memory at once.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        last, span = last_batch_id(conn), 64
        while batch_id < last:
            upto = min(batch_id + span, last)
            with cursor.copy(_COPY_OUT, (batch_id, upto)) as copy:
                columns = decode(b"".join(bytes(part) for part in copy), _REPLAY_COLUMNS)
            batches = columns.pop("batch_id")
            columns.update({name: columns[name].astype(np.uint8) for name in ("quality", "reason", "flags")})
            window = ReadingBatch(**columns)
            starts = np.flatnonzero(np.diff(batches, prepend=-1))
            for start, stop in itertools.pairwise([*starts, len(batches)]):
                yield int(batches[start]), window.take(slice(start, stop)).in_event_time().in_event_order()
            batch_id = upto
            span = span * 2 if len(batches) < rows // 2 else max(1, span // 2) if len(batches) > rows else span


# holds ----------------------------------------------------------------------------------------------------------------------------------

_SELECT_HOLD_STEPS = (
    "SELECT batch_id, hold_id, zone_id, asset_id, held_at, released_at, verdict FROM"
    " (SELECT hold_id, 0 AS step, held_batch_id AS batch_id, zone_id, asset_id, held_at, NULL::timestamptz AS released_at, '' AS verdict FROM hold"
    " UNION ALL SELECT hold_id, 1, released_batch_id, zone_id, asset_id, held_at, released_at, verdict FROM hold WHERE released_at IS NOT NULL)"
    " AS told"
)


_SITE_OF_HOLD = (
    "coalesce((SELECT site_id FROM zone WHERE zone.zone_id = told.zone_id), (SELECT site_id FROM asset WHERE asset.asset_id = told.asset_id),"
    " (SELECT site_id FROM device WHERE 'device:' || device_id = told.asset_id), %s)"
)


def pending_holds(conn: Connection[Any], site_id: str) -> tuple[Hold, ...]:
    """Return the holds and releases that the detectors of a site were not told yet, in the order in which to tell them.

    A hold that was placed and released in between comes twice: first lasting, then released. A hold belongs to the site of its zone, else
    of its asset or device; one of none of them goes to the site that asks first.
    """
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            _SELECT_HOLD_STEPS + f" WHERE batch_id IS NULL AND {_SITE_OF_HOLD} = %s ORDER BY hold_id, step", (site_id, site_id)
        ).fetchall()
    return tuple(_hold(row[1:]) for row in rows)


def mark_holds(conn: Connection[Any], holds: Sequence[Hold], batch_id: int) -> None:
    """Note that detectors were told of `holds` before the batch `batch_id`; a replay tells them there again."""
    held = [hold.hold_id for hold in holds if hold.released_us is None]
    released = [hold.hold_id for hold in holds if hold.released_us is not None]
    with conn.transaction():
        if held:
            conn.execute("UPDATE hold SET held_batch_id = %s WHERE hold_id = ANY(%s) AND held_batch_id IS NULL", (batch_id, held))
        if released:
            conn.execute(
                "UPDATE hold SET released_batch_id = %s WHERE hold_id = ANY(%s) AND released_batch_id IS NULL", (batch_id, released)
            )


def holds_after(conn: Connection[Any], batch_id: int) -> tuple[tuple[int, Hold], ...]:
    """Return what detectors were told before batches later than `batch_id`, each with its batch, in that order."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(_SELECT_HOLD_STEPS + " WHERE batch_id > %s ORDER BY batch_id, hold_id, step", (batch_id,)).fetchall()
    return tuple((row[0], _hold(row[1:])) for row in rows)


def _hold(row: tuple[Any, ...]) -> Hold:
    hold_id, zone_id, asset_id, held_at, released_at, verdict = row
    return Hold(hold_id, zone_id, asset_id, to_us(held_at), None if released_at is None else to_us(released_at), verdict)


def holds_between(conn: Connection[Any], begin_us: int, end_us: int) -> tuple[Hold, ...]:
    """Return the holds that lasted at some time of an interval, in the order in which they began."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT hold_id, zone_id, asset_id, held_at, released_at, verdict FROM hold"
            " WHERE held_at < %s AND (released_at IS NULL OR released_at >= %s) ORDER BY held_at, hold_id",
            (from_us(end_us), from_us(begin_us)),
        ).fetchall()
    return tuple(_hold(row) for row in rows)


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """What to do again for one batch: first tell the holds and the operations, then step the readings (maybe none)."""

    batch_id: int
    holds: tuple[Hold, ...]
    readings: ReadingBatch
    operations: tuple[Operation, ...] = ()


def replay_after(conn: Connection[Any], batch_id: int) -> Iterator[ReplayStep]:
    """Yield holds, operations and readings of every later batch, merged in the order in which detectors saw them."""
    told: dict[int, tuple[list[Hold], list[Operation]]] = {}
    for number, hold in holds_after(conn, batch_id):
        told.setdefault(number, ([], []))[0].append(hold)
    for number, operation in operations_after(conn, batch_id):
        told.setdefault(number, ([], []))[1].append(operation)
    waiting = deque(sorted(told))
    for current, readings in readings_after(conn, batch_id):
        while waiting and waiting[0] < current:
            yield _step(waiting.popleft(), told, ReadingBatch.empty())
        if waiting and waiting[0] == current:
            waiting.popleft()
        yield _step(current, told, readings)
    while waiting:
        yield _step(waiting.popleft(), told, ReadingBatch.empty())


def _step(batch_id: int, told: Mapping[int, tuple[list[Hold], list[Operation]]], readings: ReadingBatch) -> ReplayStep:
    """Return a step with what was told before its batch."""
    holds, operations = told.get(batch_id, ([], []))
    return ReplayStep(batch_id, tuple(holds), readings, tuple(operations))
