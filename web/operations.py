"""Planned work in the network by HTTP: what runs and comes, telling of it, calling it off. Decided and written by the desk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from underway import desk
from underway.model import TEXT_CHARS_MAX, OperationKind
from underway.store import operations
from underway.store.operations import OperationView
from web.api import REFUSALS, Limit, Reader, Shared, needs
from web.auth import Permission, Principal

DAYS_BACK_MAX = 366

router = APIRouter(responses=REFUSALS, tags=["operations"])
Teller = Annotated[Principal, Depends(needs(Permission.OPERATION_TELL))]
Text = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS_MAX)]
Place = Annotated[str, Field(min_length=1, max_length=200)]


class NewOperation(BaseModel):
    """What is done to a zone, or to an asset of it, on purpose; may be told before it begins, while it runs, or late.

    ``action_id`` makes it safe to send again; times carry a zone; ``flow_m3ph`` is what is drawn, where it is known.
    """

    model_config = ConfigDict(extra="forbid")
    action_id: UUID
    kind: OperationKind
    begin_at: AwareDatetime
    end_at: AwareDatetime
    reason: Text
    zone_id: Place | None = None
    asset_id: Place | None = None
    flow_m3ph: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Withdrawal(BaseModel):
    """Why an operation does not take place, or not any more; an ``action_id`` may come along, once is enough without it."""

    model_config = ConfigDict(extra="forbid")
    reason: Text
    action_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class OperationAnswer:
    """``result`` is ``applied``, or ``already_applied``: nothing changed. ``phase`` is ``coming``, ``running``, ``over`` or ``withdrawn``."""

    result: str
    phase: str
    operation: OperationView


@dataclass(frozen=True, slots=True)
class PlannedWork:
    """Operations in the order in which they begin; detectors leave out what is measured from the begin to an hour after the end."""

    now_at: datetime
    operations: list[OperationView]


def phase_of(operation: OperationView, now_at: datetime) -> str:
    """Return whether an operation is coming, running, over, or withdrawn."""
    if operation.withdrawn_at is not None:
        return "withdrawn"
    if now_at < operation.begin_at:
        return "coming"
    return "running" if now_at < operation.end_at else "over"


@router.get("/api/operations")
def planned_work(
    state: Shared,
    _: Reader,
    zone_id: str | None = None,
    asset_id: str | None = None,
    days: Annotated[int, Query(ge=0, le=DAYS_BACK_MAX, description="how far back, in days")] = 1,
    limit: Limit = 200,
) -> PlannedWork:
    """Return what runs, comes, and ended within the last ``days``, withdrawn operations too."""
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        rows = operations.views(conn, now_at - timedelta(days=days), limit, zone_id=zone_id, asset_id=asset_id)
    return PlannedWork(now_at, rows)


@router.post("/api/operations")
def tell(body: NewOperation, state: Shared, who: Teller) -> OperationAnswer:
    """Tell of planned work, a fire-fighting draw or a valve that is turned, so that no detector takes it for a leak."""
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        found, replayed = desk.tell_operation(
            conn, body.kind, body.begin_at, body.end_at, who.actor, body.reason, body.action_id, now_at, zone_id=body.zone_id,
            asset_id=body.asset_id, flow_m3ph=body.flow_m3ph,
        )  # fmt: skip
    return OperationAnswer("already_applied" if replayed else "applied", phase_of(found, now_at), found)


@router.post("/api/operations/{operation_id}/withdraw")
def call_off(operation_id: int, body: Withdrawal, state: Shared, who: Teller) -> OperationAnswer:
    """Say that an operation does not take place, or not any more: nothing that comes from now on is left out."""
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        found, replayed = desk.withdraw_operation(conn, operation_id, who.actor, body.reason, now_at)
    return OperationAnswer("already_applied" if replayed else "applied", phase_of(found, now_at), found)
