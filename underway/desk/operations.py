"""Known operations as people tell them: planned work, fire-fighting, flushing. What detectors do with them: `detectors.operations`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection

from underway.desk.actions import NotFoundError
from underway.model import Operation, OperationKind, OperatorError, to_us
from underway.store import operations
from underway.store.operations import OperationView

LATE_MAX, AHEAD_MAX = timedelta(days=31), timedelta(days=366)
"""An operation that ended longer ago changes nothing any more; one that begins later is a slip of the pen."""


def tell_operation(
    conn: Connection[Any],
    kind: OperationKind,
    begin_at: datetime,
    end_at: datetime,
    actor: str,
    reason: str,
    action_id: UUID,
    now_at: datetime,
    *,
    zone_id: str | None = None,
    asset_id: str | None = None,
    flow_m3ph: float | None = None,
) -> tuple[OperationView, bool]:
    """Write what people do to the network on purpose; return it, and whether the same ``action_id`` had written it before.

    Parameters
    ----------
    begin_at, end_at, now_at : datetime
        With zone. An operation may be told before it begins, while it runs, or late.
    zone_id, asset_id : str, optional
        Where; one of them, or both where they fit.

    Raises
    ------
    OperatorError
        When the place is not registered, the times are not in order or too far away, the reason is empty, or ``action_id`` was used for
        another operation.
    """
    if not reason.strip():
        raise OperatorError("an operation must have a reason: the number of the permit or order, or what is done")
    if end_at < now_at - LATE_MAX:
        raise OperatorError(f"an operation must be told within {LATE_MAX.days} days of its end, this one ended {end_at.isoformat()}")
    if begin_at > now_at + AHEAD_MAX:
        raise OperatorError(
            f"an operation must begin within {AHEAD_MAX.days} days, this one begins {begin_at.isoformat()}: is the year right?"
        )
    with conn.transaction():
        _, zone = operations.place_of(conn, zone_id, asset_id)
        wanted = Operation(0, zone, kind, to_us(begin_at), to_us(end_at), asset_id, flow_m3ph, actor, reason.strip())
        before = operations.id_of_action(conn, action_id)
        operation_id = operations.record(conn, wanted, now_at, action_id)
        found = operations.view(conn, operation_id)
    assert found is not None
    if found.as_told() != wanted:
        raise OperatorError(
            f"action_id {action_id} must be a new one for a new operation, it was used for operation {operation_id}, which differs"
        )
    return found, before is not None


def withdraw_operation(conn: Connection[Any], operation_id: int, actor: str, reason: str, now_at: datetime) -> tuple[OperationView, bool]:
    """Write that an operation does not take place, or not any more; return it, and whether that was written before (by whoever).

    Raises
    ------
    NotFoundError
        When there is no such operation.
    OperatorError
        When the reason is empty.
    """
    if not reason.strip():
        raise OperatorError("a withdrawal must have a reason: why the operation does not take place")
    with conn.transaction():
        if operations.view(conn, operation_id) is None:
            raise NotFoundError(f"there is no operation {operation_id}")
        new = operations.withdraw(conn, operation_id, actor, reason.strip(), now_at)
        found = operations.view(conn, operation_id)
    assert found is not None
    return found, not new
