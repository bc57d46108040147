"""Known operations: written by people, told to detectors before a batch, told again there by a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, tuple_row

from underway.model import OPERATION_SETTLE_US, Operation, OperationKind, OperatorError, from_us, to_us

ROWS_MAX = 500

_STEPS = (
    "SELECT told.batch_id, told.withdrawn, o.operation_id, o.zone_id, o.kind, o.begin_at, o.end_at, o.asset_id, o.flow_m3ph, o.actor, o.reason FROM"
    " (SELECT operation_id, false AS withdrawn, told_batch_id AS batch_id FROM operation"
    " UNION ALL SELECT operation_id, true, told_batch_id FROM operation_withdrawal) AS told JOIN operation o USING (operation_id)"
)
_MARK = (
    (False, "UPDATE operation SET told_batch_id = %s WHERE operation_id = ANY(%s) AND told_batch_id IS NULL"),
    (True, "UPDATE operation_withdrawal SET told_batch_id = %s WHERE operation_id = ANY(%s) AND told_batch_id IS NULL"),
)


@dataclass(frozen=True, slots=True)
class OperationView:
    """An operation as people see it; ``withdrawn_at`` is None while it stands, ``told`` says whether detectors know."""

    operation_id: int
    site_id: str
    zone_id: str
    asset_id: str | None
    kind: str
    begin_at: datetime
    end_at: datetime
    flow_m3ph: float | None
    actor: str
    reason: str
    recorded_at: datetime
    told: bool
    withdrawn_at: datetime | None
    withdrawn_by: str | None
    withdrawn_reason: str | None

    def as_told(self) -> Operation:
        """Return it as it was told, without its number."""
        begin_us, end_us = to_us(self.begin_at), to_us(self.end_at)
        return Operation(
            0, self.zone_id, OperationKind(self.kind), begin_us, end_us, self.asset_id, self.flow_m3ph, self.actor, self.reason
        )


def place_of(conn: Connection[Any], zone_id: str | None, asset_id: str | None) -> tuple[str, str]:
    """Return (site, zone) of an operation on a zone or an asset.

    Raises
    ------
    OperatorError
        When neither is given, one is not registered, the asset has no zone, or it is in another zone.
    """
    if not zone_id and not asset_id:
        raise OperatorError("an operation must name its zone, or an asset that has one, got neither")
    with conn.cursor(row_factory=tuple_row) as cursor:
        if asset_id:
            found = cursor.execute("SELECT zone_id FROM asset WHERE asset_id = %s", (asset_id,)).fetchone()
            if found is None:
                raise OperatorError(f"there is no asset {asset_id!r}")
            if found[0] is None:
                raise OperatorError(f"asset {asset_id!r} is in no zone; name a zone instead")
            if zone_id and zone_id != found[0]:
                raise OperatorError(f"asset {asset_id!r} is in zone {found[0]!r}, got {zone_id!r}")
            zone_id = found[0]
        row = cursor.execute("SELECT site_id, zone_id FROM zone WHERE zone_id = %s", (zone_id,)).fetchone()
    if row is None:
        raise OperatorError(f"there is no zone {zone_id!r}")
    return str(row[0]), str(row[1])


def record(conn: Connection[Any], operation: Operation, recorded_at: datetime, action_id: UUID) -> int:
    """Write an operation; return its id. The same ``action_id`` again writes nothing and returns the id of then.

    Raises
    ------
    OperatorError
        As `place_of`.
    """
    site_id, zone_id = place_of(conn, operation.zone_id, operation.asset_id)
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            "INSERT INTO operation (site_id, zone_id, asset_id, kind, begin_at, end_at, flow_m3ph, actor, reason, recorded_at, action_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (action_id) DO NOTHING RETURNING operation_id",
            (
                *(site_id, zone_id, operation.asset_id, operation.kind.value, from_us(operation.begin_us), from_us(operation.end_us)),
                *(operation.flow_m3ph, operation.who, operation.reason, recorded_at, action_id),
            ),
        ).fetchone()
    found = id_of_action(conn, action_id) if row is None else int(row[0])
    assert found is not None
    return found


def id_of_action(conn: Connection[Any], action_id: UUID) -> int | None:
    """Return the operation that an action wrote, None when it wrote none yet."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT operation_id FROM operation WHERE action_id = %s", (action_id,)).fetchone()
    return None if row is None else int(row[0])


def withdraw(conn: Connection[Any], operation_id: int, actor: str, reason: str, recorded_at: datetime) -> bool:
    """Write that an operation does not take place, or not any more; False when that was written before.

    Raises
    ------
    OperatorError
        When there is no such operation.
    """
    if conn.execute("SELECT 1 FROM operation WHERE operation_id = %s", (operation_id,)).fetchone() is None:
        raise OperatorError(f"there is no operation {operation_id}")
    done = conn.execute(
        "INSERT INTO operation_withdrawal (operation_id, actor, reason, recorded_at) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (operation_id, actor, reason, recorded_at),
    )
    return done.rowcount == 1


_VIEW = (
    "SELECT o.operation_id, o.site_id, o.zone_id, o.asset_id, o.kind, o.begin_at, o.end_at, o.flow_m3ph, o.actor, o.reason, o.recorded_at,"
    " o.told_batch_id IS NOT NULL AS told, w.recorded_at AS withdrawn_at, w.actor AS withdrawn_by, w.reason AS withdrawn_reason"
    " FROM operation o LEFT JOIN operation_withdrawal w USING (operation_id)"
)


def view(conn: Connection[Any], operation_id: int) -> OperationView | None:
    """Return one operation, None when there is none of that number."""
    with conn.cursor(row_factory=class_row(OperationView)) as cursor:
        return cursor.execute(_VIEW + " WHERE o.operation_id = %s", (operation_id,)).fetchone()


def views(
    conn: Connection[Any], ended_after: datetime, limit: int = ROWS_MAX, *, zone_id: str | None = None, asset_id: str | None = None
) -> list[OperationView]:
    """Return operations that end after an instant, withdrawn ones too, in the order in which they begin; of one zone or asset when asked."""
    with conn.cursor(row_factory=class_row(OperationView)) as cursor:
        return cursor.execute(
            _VIEW + " WHERE o.end_at > %s AND (%s::text IS NULL OR o.zone_id = %s) AND (%s::text IS NULL OR o.asset_id = %s)"
            " ORDER BY o.begin_at, o.operation_id LIMIT %s",
            (ended_after, zone_id, zone_id, asset_id, asset_id, min(limit, ROWS_MAX)),
        ).fetchall()


def pending_operations(conn: Connection[Any], site_id: str) -> tuple[Operation, ...]:
    """Return operations and withdrawals that the detectors of a site were not told yet, in the order in which to tell them."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            _STEPS + " WHERE told.batch_id IS NULL AND o.site_id = %s ORDER BY o.operation_id, told.withdrawn", (site_id,)
        ).fetchall()
    return tuple(_operation(row) for row in rows)


def mark_operations(conn: Connection[Any], operations: Sequence[Operation], batch_id: int) -> None:
    """Note that detectors were told of `operations` before the batch `batch_id`; a replay tells them there again."""
    for withdrawn, mark in _MARK:
        told = [o.operation_id for o in operations if o.withdrawn is withdrawn]
        if told:
            conn.execute(mark, (batch_id, told))


def operations_after(conn: Connection[Any], batch_id: int) -> tuple[tuple[int, Operation], ...]:
    """Return what detectors were told before batches later than `batch_id`, each with its batch, in that order."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            _STEPS + " WHERE told.batch_id > %s ORDER BY told.batch_id, o.operation_id, told.withdrawn", (batch_id,)
        ).fetchall()
    return tuple((row[0], _operation(row)) for row in rows)


def operations_between(conn: Connection[Any], begin_us: int, end_us: int) -> tuple[Operation, ...]:
    """Return the operations that stand and touch an interval (with the hour after them), in the order in which they begin."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            _STEPS + " WHERE NOT told.withdrawn AND o.begin_at < %s AND o.end_at >= %s"
            " AND NOT EXISTS (SELECT FROM operation_withdrawal w WHERE w.operation_id = o.operation_id) ORDER BY o.begin_at, o.operation_id",
            (from_us(end_us), from_us(begin_us - OPERATION_SETTLE_US)),
        ).fetchall()
    return tuple(_operation(row) for row in rows)


def _operation(row: tuple[Any, ...]) -> Operation:
    _, withdrawn, operation_id, zone_id, kind, begin_at, end_at, asset_id, flow_m3ph, actor, reason = row
    return Operation(
        operation_id, zone_id, OperationKind(kind), to_us(begin_at), to_us(end_at), asset_id, flow_m3ph, actor, reason, withdrawn
    )
