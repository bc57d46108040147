"""From an HTTP action to the desk, where it is decided and written; nothing is decided here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from underway import desk
from underway.desk.moves import default_policy
from underway.model import OrderState
from web.auth import ALARM_EVENT_PERMISSION, ORDER_EVENT_PERMISSION, Permission, Principal
from web.state import State
from workorders.alarms import ALARM_TABLE, state_of
from workorders.orders import ORDER_TABLE

# ``assign`` is several steps of the order table at once, see `underway.desk.ASSIGN`
ASSIGNABLE = frozenset(
    {
        OrderState.NEW,
        OrderState.APPROVED,
        OrderState.SCHEDULED,
        OrderState.DISPATCHED,
        OrderState.ACCEPTED,
        OrderState.EN_ROUTE,
    }
)


@dataclass(frozen=True, slots=True)
class ActionAnswer:
    """What became of an action.

    ``result`` is ``applied``, ``already_applied`` (the same ``action_id`` again: nothing changed), or ``review`` (in conflict with what
    others did meanwhile: nothing changed, a person looks at ``review_id``). ``allowed`` is what the person who asked may do next.
    """

    result: str
    state: str
    version: int
    allowed: list[str] = field(default_factory=list)
    review_id: int | None = None
    message: str = ""


def _mine(who: Principal, allowed: Collection[str], table: Mapping[str, Permission]) -> list[str]:
    return [event for event in table if event in allowed and who.may(table[event])]


def allowed_on_alarm(who: Principal, state: str) -> list[str]:
    """Return the events that an alarm's state allows and this person may ask for."""
    return _mine(who, ALARM_TABLE.allowed(state), ALARM_EVENT_PERMISSION)


def allowed_on_order(who: Principal, state: str) -> list[str]:
    """Return the events that an order's state allows and this person may ask for."""
    allowed = ORDER_TABLE.allowed(state)
    return _mine(who, [*allowed, desk.ASSIGN] if state in ASSIGNABLE else allowed, ORDER_EVENT_PERMISSION)


def checklist_of(order_type: str) -> list[str]:
    """Return the items that must be ticked before an order of this type is done (none for an unknown type)."""
    found = default_policy().orders.get(order_type)
    return list(found.checklist) if found else []


def on_alarm(
    state: State,
    who: Principal,
    alarm_id: int,
    event: str,
    *,
    action_id: UUID,
    text: str = "",
    until: datetime | None = None,
    hours: float | None = None,
    body: Mapping[str, Any] | None = None,
) -> ActionAnswer:
    """Let a person act on an alarm; ``hours`` from now is another way to say ``until``.

    Raises
    ------
    NotFoundError, IllegalTransitionError, GuardError
        As the desk says.
    """
    now_at = state.config.clock.now_at()
    if until is None and hours is not None:
        until = now_at + timedelta(hours=hours)
    more = body or {}
    with state.pool.connection() as conn:
        done = desk.act_on_alarm(
            conn,
            alarm_id,
            event,
            who.actor,
            who.role,
            text,
            until,
            action_id,
            now_at,
            reference=str(more.get("reference", ""))[:200],
            second_person=str(more.get("second_person", ""))[:64],
            test_ok=more.get("test_ok") is True,
        )
    now = str(state_of(done.alarm))
    return ActionAnswer("already_applied" if done.replayed else "applied", now, done.alarm.version, allowed_on_alarm(who, now))


def on_order(
    state: State,
    who: Principal,
    order_id: int,
    event: str,
    *,
    action_id: UUID,
    base_version: int | None = None,
    device_at: datetime | None = None,
    body: Mapping[str, Any] | None = None,
) -> ActionAnswer:
    """Let a person or a crew act on an order.

    Raises
    ------
    NotFoundError, IllegalTransitionError, GuardError
        As the desk says.
    """
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        done = desk.act_on_order(
            conn, order_id, event, who.actor, who.role, action_id, base_version, device_at, body, now_at, crew_id=who.crew_id
        )
    order = done.order
    allowed = allowed_on_order(who, order.state)
    if done.review_item is not None:
        return ActionAnswer("review", order.state, order.version, allowed, done.review_item.review_id, done.review_item.problem)
    return ActionAnswer("already_applied" if done.replayed else "applied", order.state, order.version, allowed)


def resolve_review(state: State, who: Principal, review_id: int) -> bool:
    """Note that a person has looked at a review item; False when it was resolved already or is not there."""
    with state.pool.connection() as conn:
        return desk.resolve_review(conn, review_id, who.actor, state.config.clock.now_at())
