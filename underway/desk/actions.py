"""What people do: act on alarms and orders. Idempotent on ``action_id``; a conflict becomes a review item, never a silent overwrite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection

from underway.desk.moves import CAUSE, Desk, Who, point_of, transaction
from underway.desk.rebuild import rebuild_until
from underway.model import (
    Alarm,
    GuardError,
    IllegalTransitionError,
    LifecycleEvent,
    OperatorError,
    OrderState,
    Priority,
    Role,
    WorkOrder,
)
from underway.store import work
from underway.store.work import ReviewItem
from workorders import dispatch
from workorders.alarm_types import Policy
from workorders.alarms import AlarmEvent
from workorders.orders import ORDER_TABLE, OrderEvent, OrderReason, text_of

DEVICE_AHEAD_MAX = timedelta(minutes=10)
DEVICE_BEHIND_MAX = timedelta(days=7)
ASSIGN = "assign"
"""An order event that is not one row of the table: schedule and dispatch to a crew that a person names in ``body['crew_id']``."""

PEOPLE_ALARM_EVENTS = frozenset(
    {AlarmEvent.ACK, AlarmEvent.SHELVE, AlarmEvent.UNSHELVE, AlarmEvent.OUT_OF_SERVICE, AlarmEvent.RETURN_TO_SERVICE, AlarmEvent.COMMENT}
)
PEOPLE_ORDER_EVENTS = frozenset(
    {
        OrderEvent.APPROVE,
        OrderEvent.UNSCHEDULE,
        OrderEvent.RECEIPT,
        OrderEvent.ACCEPT,
        OrderEvent.DECLINE,
        OrderEvent.DEPART,
        OrderEvent.ARRIVE,
        OrderEvent.PAUSE,
        OrderEvent.RESUME,
        OrderEvent.RESCHEDULE,
        OrderEvent.DONE,
        OrderEvent.SIGN_OFF,
        OrderEvent.REJECT,
        OrderEvent.WAIVE,
        OrderEvent.CANCEL,
        OrderEvent.COMMENT,
    }
)


class NotFoundError(OperatorError):
    """What was asked for does not exist."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an action on an order did.

    Attributes
    ----------
    order : WorkOrder
        As it was right after the action (a replay gives the same).
    events : tuple of LifecycleEvent
        Every step of the order that the action made, first its own.
    review_item : ReviewItem or None
        Set when the action conflicted with what others had done meanwhile: nothing was changed, a person looks at it.
    replayed : bool
        True when this ``action_id`` had been taken before.
    """

    order: WorkOrder
    events: tuple[LifecycleEvent, ...]
    review_item: ReviewItem | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class AlarmResult:
    """What an action on an alarm did; fields as in `Result`."""

    alarm: Alarm
    events: tuple[LifecycleEvent, ...]
    replayed: bool = False


def act_on_alarm(
    conn: Connection[Any],
    alarm_id: int,
    event: str,
    actor: str,
    role: Role,
    reason: str = "",
    until: datetime | None = None,
    action_id: UUID | None = None,
    now_at: datetime | None = None,
    *,
    reference: str = "",
    second_person: str = "",
    test_ok: bool = False,
    policy: Policy | None = None,
) -> AlarmResult:
    """Let a person act on an alarm; one transaction.

    Parameters
    ----------
    event : str
        ``ack``, ``shelve`` (with `reason` and `until`), ``unshelve``, ``comment``, ``out_of_service`` (with `reference`, for safety types
        also `second_person`), ``return_to_service`` (with `test_ok`).
    now_at : datetime
        The present instant; required.

    Raises
    ------
    NotFoundError
        When there is no such alarm.
    IllegalTransitionError, GuardError
        As the alarm table says.
    """
    if now_at is None:
        raise ValueError("now_at must be given: the desk has no clock")
    with conn.transaction():
        found = work.load_alarm(conn, alarm_id)
        if found is None:
            raise NotFoundError(f"there is no alarm {alarm_id}")
        with transaction(conn, found.site_id, now_at, policy, action_id) as desk:
            alarm = work.load_alarm(conn, alarm_id, lock=True)
            assert alarm is not None
            if action_id is not None and (replay := _alarm_replay(desk, alarm, action_id)) is not None:
                return replay
            if alarm.closed_at is not None:
                raise IllegalTransitionError(f"alarm {alarm_id}", "closed", event, ())
            if event not in PEOPLE_ALARM_EVENTS:
                raise GuardError(f"alarm {alarm_id}", event, [f"people may {', '.join(sorted(PEOPLE_ALARM_EVENTS))}"])
            who = Who(actor, role, None, action_id)
            moved = desk.move_alarm(
                alarm,
                AlarmEvent(event),
                who,
                note=reason,
                reason_text=reason,
                shelve_until=until,
                reference=reference,
                second_person=second_person,
                test_ok=test_ok,
            )
            return AlarmResult(moved, tuple(e for e in desk.events_of("alarm") if e.subject_id == alarm_id))


def act_on_order(
    conn: Connection[Any],
    order_id: int,
    event: str,
    actor: str,
    role: Role,
    action_id: UUID,
    base_version: int | None = None,
    device_at: datetime | None = None,
    body: Mapping[str, Any] | None = None,
    now_at: datetime | None = None,
    *,
    crew_id: str | None = None,
    policy: Policy | None = None,
) -> Result:
    """Let a person or a crew act on an order; one transaction.

    Parameters
    ----------
    event : str
        One of `PEOPLE_ORDER_EVENTS`, or ``assign`` with ``body['crew_id']``.
    action_id : UUID
        Made by the device; the same one again changes nothing and returns the same result.
    base_version : int or None
        Version of the order that the person saw. When somebody else has moved the order since then, the action becomes a review item.
    device_at : datetime or None
        When it happened by the device's clock; believed from 10 minutes ahead of `now_at` to 7 days behind it, recorded in any case.
    crew_id : str or None
        The crew that the actor belongs to; for role CREW it defaults to what follows ``crew/`` in `actor`.
    now_at : datetime
        The present instant; required.

    Raises
    ------
    NotFoundError
        When there is no such order.
    IllegalTransitionError, GuardError
        As the order table says.
    """
    if now_at is None:
        raise ValueError("now_at must be given: the desk has no clock")
    given = dict(body or {})
    with conn.transaction():
        found = work.load_order(conn, order_id)
        if found is None:
            raise NotFoundError(f"there is no order WO-{order_id}")
        with transaction(conn, found.site_id, now_at, policy, action_id) as desk:
            order = work.load_order(conn, order_id, lock=True)
            assert order is not None
            replay = _order_replay(desk, order, action_id)
            if replay is not None:
                return replay
            if role is Role.CREW and crew_id is None:
                crew_id = actor.removeprefix("crew/")
            problem = _conflict(desk, order, event, base_version, actor, crew_id)
            if problem is not None:
                item = _review(desk, order, action_id, actor, event, base_version, device_at, problem, given)
                return Result(order, (), item)
            who = Who(actor, role, crew_id, action_id, _believed(device_at, now_at, order))
            moved = _act(desk, order, event, who, given)
            return Result(moved, tuple(e for e in desk.events_of("order") if e.subject_id == order_id))


def _believed(device_at: datetime | None, now_at: datetime, order: WorkOrder) -> datetime | None:
    if device_at is None or device_at > now_at + DEVICE_AHEAD_MAX or device_at < max(now_at - DEVICE_BEHIND_MAX, order.created_at):
        return None
    return min(device_at, now_at)


def _act(desk: Desk, order: WorkOrder, event: str, who: Who, body: Mapping[str, Any]) -> WorkOrder:
    if event == ASSIGN:
        return _assign(desk, order, who, body)
    if event not in PEOPLE_ORDER_EVENTS:
        raise IllegalTransitionError(
            f"order {order.label}", order.state, event, [e for e in ORDER_TABLE.allowed(order.state) if e in PEOPLE_ORDER_EVENTS]
        )
    note = text_of(body, "reason") or text_of(body, "note")
    moved = desk.move_order(order, OrderEvent(event), who, note=note, body=body)
    match OrderEvent(event):
        case OrderEvent.APPROVE | OrderEvent.DECLINE | OrderEvent.REJECT:
            return desk.try_dispatch(moved)
        case OrderEvent.RESCHEDULE if body.get("crew_id"):
            return _assign(desk, moved, Who(who.actor, who.role, who.crew_id), body)
        case OrderEvent.DONE if moved.plan.get("signals"):
            return desk.move_order(moved, OrderEvent.START_VERIFICATION, Who())
        case _:
            return moved


def _assign(desk: Desk, order: WorkOrder, who: Who, body: Mapping[str, Any]) -> WorkOrder:
    """Let a person choose the crew: approve, take back and schedule as far as the state needs it, then dispatch."""
    crew_id = body.get("crew_id")
    applicants = desk.applicants()
    if not isinstance(crew_id, str) or crew_id not in {a.crew.crew_id for a in applicants}:
        known = ", ".join(a.crew.crew_id for a in applicants)
        raise GuardError(f"order {order.label}", ASSIGN, [f"'crew_id' must be one of {known or 'no crew is registered'}, got {crew_id!r}"])
    decision = dispatch.by_person(crew_id, order.required_skill, point_of(order), applicants, desk.now_at, who.actor)
    then = Who(who.actor, who.role, who.crew_id)
    first = who
    if order.state is OrderState.NEW and order.priority is not Priority.URGENT:
        order, first = desk.move_order(order, OrderEvent.APPROVE, first, note="approved by assigning a crew"), then
    if order.state in (OrderState.DISPATCHED, OrderState.ACCEPTED, OrderState.EN_ROUTE):
        reason = text_of(body, "reason") or f"given to {crew_id}"
        order, first = desk.move_order(order, OrderEvent.RESCHEDULE, first, note=reason, body={"reason": reason}), then
    if order.state is OrderState.APPROVED:
        order = desk.move_order(
            order, OrderEvent.SCHEDULE, first, note=decision.sentence, decision=decision, reason=OrderReason.CREW_CHOSEN_BY_PERSON
        )
        first = then
    return desk.dispatch_to(order, decision, first, OrderReason.CREW_CHOSEN_BY_PERSON)


def override_dispatch(
    conn: Connection[Any],
    order_id: int,
    crew_id: str,
    actor: str,
    role: Role,
    action_id: UUID,
    base_version: int | None,
    reason: str,
    now_at: datetime,
) -> Result:
    """Give an order to a crew that a person names, whatever dispatch would say; the same as the event ``assign``."""
    return act_on_order(conn, order_id, ASSIGN, actor, role, action_id, base_version, None, {"crew_id": crew_id, "reason": reason}, now_at)


def resolve_review(conn: Connection[Any], review_id: int, actor: str, now_at: datetime) -> bool:
    """Note that a person has looked at a review item; False when it was resolved already or is not there."""
    with conn.transaction():
        return work.resolve_review(conn, review_id, actor, now_at)


# -- repetition and conflict -------------------------------------------------------------------------------------------------------------


def _conflict(desk: Desk, order: WorkOrder, event: str, base_version: int | None, actor: str, crew_id: str | None) -> str | None:
    """Return what is in the way when others moved the order since the version that the person saw, or None.

    Notes
    -----
    Steps that change neither the state nor the crew (a comment, a better location) are no conflict, and neither are the person's own:
    a phone that was offline sends a whole chain with one base version.
    """
    if base_version is None or base_version >= order.version or event == OrderEvent.COMMENT:
        return None
    mine = {actor, f"crew/{crew_id}"} if crew_id else {actor}
    caused = _caused_by(desk, order, mine)
    for step in work.events_of(desk.conn, "order", order.order_id):
        moved = step.from_state != step.to_state or "crew_id" in step.facts
        if step.seq > base_version and moved and step.actor not in mine and step.facts.get(CAUSE) not in caused:
            return (
                f"{order.label} was moved by {step.actor} ({step.event}: {step.from_state} -> {step.to_state}) after version {base_version},"
                f" which this {event!r} rests on; it is at version {order.version} now"
            )
    return None


def _caused_by(desk: Desk, order: WorkOrder, actors: set[str]) -> set[str]:
    """Return the actions of some actors: what underway did because of them is theirs too."""
    return {str(e.action_id) for e in work.events_of(desk.conn, "order", order.order_id) if e.actor in actors and e.action_id is not None}


def _review(
    desk: Desk,
    order: WorkOrder,
    action_id: UUID,
    actor: str,
    event: str,
    base_version: int | None,
    device_at: datetime | None,
    problem: str,
    body: Mapping[str, Any],
) -> ReviewItem:
    limit = desk.policy.review_items_open_max
    if work.open_review_count(desk.conn, desk.site_id) >= limit:
        raise GuardError(f"order {order.label}", event, [problem, f"and {limit} review items are open already: resolve some first"])
    return work.insert_review(
        desk.conn, ReviewItem(0, order.order_id, action_id, actor, event, base_version, device_at, desk.now_at, problem, dict(body))
    )


def _order_replay(desk: Desk, order: WorkOrder, action_id: UUID) -> Result | None:
    item = work.review_by_action(desk.conn, action_id)
    if item is not None:
        _same_subject("order", order.order_id, item.order_id, action_id)
        return Result(order, (), item, True)
    step = work.event_by_action(desk.conn, "order", action_id)
    if step is None:
        return None
    _same_subject("order", order.order_id, step.subject_id, action_id)
    made = tuple(
        e for e in work.events_of(desk.conn, "order", order.order_id) if e.action_id == action_id or e.facts.get(CAUSE) == str(action_id)
    )
    was = rebuild_until(desk.conn, "order", order.order_id, made[-1].seq)
    assert isinstance(was, WorkOrder)
    return Result(was, made, None, True)


def _alarm_replay(desk: Desk, alarm: Alarm, action_id: UUID) -> AlarmResult | None:
    step = work.event_by_action(desk.conn, "alarm", action_id)
    if step is None:
        return None
    _same_subject("alarm", alarm.alarm_id, step.subject_id, action_id)
    was = rebuild_until(desk.conn, "alarm", alarm.alarm_id, step.seq)
    assert isinstance(was, Alarm)
    return AlarmResult(was, (step,), True)


def _same_subject(kind: str, asked: int, known: int, action_id: UUID) -> None:
    if asked != known:
        raise GuardError(f"{kind} {asked}", "repeat", [f"action {action_id} was taken on {kind} {known}"])
