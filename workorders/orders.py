"""The work order lifecycle as a table, with Maximo's cancel rule and the guards of DONE and CLOSED.

References
----------
IBM Maximo work order statuses: an order with labour, parts or work begun cannot be cancelled; it is closed with remedy "not required".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from underway.model import FindCode, OrderState, Priority, Role, VerificationOutcome, WaitingReason, WorkOrder
from workorders.lifecycle import Guard, Step, Table, Transition, When


class OrderEvent(StrEnum):
    """What can happen to a work order."""

    APPROVE = "approve"
    SCHEDULE = "schedule"
    DISPATCH = "dispatch"
    RECEIPT = "receipt"
    ACCEPT = "accept"
    DECLINE = "decline"
    NO_RECEIPT = "no_receipt"
    UNSCHEDULE = "unschedule"
    RESCHEDULE = "reschedule"
    DEPART = "depart"
    ARRIVE = "arrive"
    PAUSE = "pause"
    RESUME = "resume"
    DONE = "done"
    START_VERIFICATION = "start_verification"
    PROGRESS = "progress"
    SIGN_OFF = "sign_off"
    PASS = "pass"  # noqa: S105 -- the outcome of a verification, no secret
    FAIL = "fail"
    EXTEND = "extend"
    INCONCLUSIVE = "inconclusive"
    REJECT = "reject"
    WAIVE = "waive"
    CANCEL = "cancel"
    SELF_CLEARED = "self_cleared"
    NO_CREW = "no_crew"
    LOCATE = "locate"
    RAISE_PRIORITY = "raise_priority"
    COMMENT = "comment"


class OrderReason(StrEnum):
    """Why an order moved."""

    APPROVED_BY_PERSON = "approved_by_person"
    APPROVED_BY_POLICY = "approved_by_policy"
    EMERGENCY_APPROVED_BY_POLICY = "emergency_approved_by_policy"
    CREW_CHOSEN = "crew_chosen"
    SENT_TO_CREW = "sent_to_crew"
    CREW_CHOSEN_BY_PERSON = "crew_chosen_by_person"
    CREW_HAS_IT = "crew_has_it"
    CREW_ACCEPTS = "crew_accepts"
    CREW_DECLINES = "crew_declines"
    NO_ANSWER_IN_TIME = "no_answer_in_time"
    PLAN_CHANGED = "plan_changed"
    CREW_DRIVES = "crew_drives"
    CREW_ON_SITE = "crew_on_site"
    WAITS = "waits"
    WAIT_OVER = "wait_over"
    CREW_REPORTS_DONE = "crew_reports_done"
    SIGNALS_DECIDE = "signals_decide"
    MEASURED_AGAIN = "measured_again"
    SIGNED_OFF_WITHOUT_SIGNAL = "signed_off_without_signal"
    VERIFIED = "verified"
    NOT_FIXED = "not_fixed"
    NOT_FIXED_CREW_STAYS = "not_fixed_crew_stays"
    EVIDENCE_MISSING = "evidence_missing"
    NEEDS_A_PERSON = "needs_a_person"
    REJECTED_BY_PERSON = "rejected_by_person"
    WAIVED_BY_PERSON = "waived_by_person"
    CANCELLED_BY_PERSON = "cancelled_by_person"
    CONDITION_SELF_CLEARED = "condition_self_cleared"
    NO_CREW_AVAILABLE = "no_crew_available"
    LOCATION_REFINED = "location_refined"
    SEVERITY_UP = "severity_up"
    NOTED = "noted"


class OrderEffect(StrEnum):
    """What a move does besides changing the state."""

    ASSIGN = "assign crew"
    UNASSIGN = "end assignment"
    FREEZE_PLAN = "freeze verification plan"
    NOTIFY_CREW = "notify crew"
    RECALL_CREW = "recall crew"
    NOTIFY_OPERATORS = "notify operators"
    TOUCH = "mark touched"
    WORK_BEGAN = "remember that work began"
    SUPPRESS_ALARMS = "suppress process alarms"
    RELEASE_ALARMS = "release alarms"
    KEEP_REPORT = "keep the report"
    SET_WAITING = "set waiting reason"
    UNSET_WAITING = "unset waiting reason"
    REWORK = "rework + 1"
    RE_ANNUNCIATE = "re-annunciate alarms (T7)"
    CLEAR_ALARMS = "clear alarms"
    COUNT_EXTENSION = "extension + 1"
    CLOSE = "set closed_at"
    OUTCOME_WAIVED = "outcome WAIVED"
    OUTCOME_PASS = "outcome PASS"  # noqa: S105 -- the outcome of a verification, no secret
    OUTCOME_FAIL = "outcome FAIL"
    OUTCOME_INCONCLUSIVE = "outcome INCONCLUSIVE"
    RESTART_EVIDENCE = "forget the evidence of the last attempt"


EXTENSIONS_MAX = 2
CODE_LENGTH_MAX = 64
TEXT_LENGTH_MAX = 2000


@dataclass(frozen=True, slots=True)
class OrderContext:
    """What guards of the order table look at.

    Attributes
    ----------
    role, actor, crew_id
        Who asks; ``role`` None is underway itself; ``crew_id`` is the crew that the actor belongs to, if any.
    device_at : datetime or None
        When the device says that it happened, where that is plausible; None takes ``now_at``.
    body : Mapping
        What came with the action.
    chosen_crew_id : str or None
        Crew that dispatch, or a person, chose.
    plan : Mapping or None
        Verification plan, frozen; only needed to dispatch.
    outcome : VerificationOutcome or None
        What verification concluded now.
    checklist : tuple of str
        Items that must be true in the report of this order type.
    """

    order: WorkOrder
    now_at: datetime
    device_at: datetime | None = None
    role: Role | None = None
    actor: str = ""
    crew_id: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    chosen_crew_id: str | None = None
    plan: Mapping[str, Any] | None = None
    outcome: VerificationOutcome | None = None
    checklist: tuple[str, ...] = ()


def text_of(body: Mapping[str, Any], key: str, length_max: int = TEXT_LENGTH_MAX) -> str:
    """Return a text of an action's body, cut to `length_max` characters; "" when missing or no text."""
    value = body.get(key)
    return value.strip()[:length_max] if isinstance(value, str) else ""


def _person(role: Role | None) -> str:
    return "the system" if role is None else repr(str(role))


def _roles(*roles: Role, system: bool = False) -> Guard[OrderContext]:
    names = " or ".join([*roles, *(["system"] if system else [])])

    def unmet(context: OrderContext) -> str | None:
        if (context.role is None and system) or context.role in roles:
            return None
        return f"needs {names}, got {_person(context.role)}"

    return Guard(f"role {names}", unmet)


def _own_order(context: OrderContext) -> str | None:
    if context.role in (Role.OPERATOR, Role.SUPERVISOR):
        return None  # a person in the control room may report for a crew that phoned in; the actor is recorded
    if context.role is Role.CREW and context.crew_id is not None and context.crew_id == context.order.crew_id:
        return None
    if context.role is Role.CREW:
        return f"crew {context.crew_id!r} is not assigned, {context.order.crew_id!r} is"
    return f"needs the assigned crew, got {_person(context.role)}"


def _waiting_reason(context: OrderContext) -> str | None:
    value = context.body.get("waiting_reason")
    if value in set(WaitingReason):
        return None
    return f"'waiting_reason' must be one of {', '.join(WaitingReason)}, got {value!r}"


def _find_code(context: OrderContext) -> str | None:
    value = context.body.get("find_code")
    return None if value in set(FindCode) else f"'find_code' must be one of {', '.join(FindCode)}, got {value!r}"


def _code(name: str) -> Guard[OrderContext]:
    def unmet(context: OrderContext) -> str | None:
        value = context.body.get(name)
        if isinstance(value, str) and 0 < len(value.strip()) <= CODE_LENGTH_MAX:
            return None
        return f"{name!r} must be a code of 1 to {CODE_LENGTH_MAX} characters, got {value!r}"

    return Guard(f"{name} code", unmet)


def _checklist(context: OrderContext) -> str | None:
    given = context.body.get("checklist")
    ticked = given if isinstance(given, Mapping) else {}
    missing = [item for item in context.checklist if ticked.get(item) is not True]
    return f"checklist items not ticked: {', '.join(missing)}" if missing else None


def _no_work_began(context: OrderContext) -> str | None:
    report = context.order.report
    if report.get("work_began_at") or report.get("labour") or report.get("parts") or context.order.rework:
        return "work has begun, so it cannot be cancelled: report it done with remedy 'not_required'"
    return None


def _reason(context: OrderContext) -> str | None:
    return None if text_of(context.body, "reason") else "'reason' must say why"


def _name(context: OrderContext) -> str | None:
    return None if context.actor else "a name must stand behind it"


def _plan_has_signals(context: OrderContext) -> str | None:
    return None if context.order.plan.get("signals") else "the plan names no signal that could decide"


def _plan_has_no_signal(context: OrderContext) -> str | None:
    return "signals can decide, so verification must" if context.order.plan.get("signals") else None


def _extensions_left(context: OrderContext) -> str | None:
    used = int(context.order.verification.get("extensions", 0))
    return None if used < EXTENSIONS_MAX else f"it was extended {used} times already, at most {EXTENSIONS_MAX}"


def _outcome_is(outcome: VerificationOutcome) -> Guard[OrderContext]:
    return Guard(
        f"verification {outcome}",
        lambda c: None if c.outcome is outcome else f"verification must say {outcome}, it says {c.outcome or c.order.outcome or 'nothing'}",
    )


def _urgent(context: OrderContext) -> str | None:
    return None if context.order.priority is Priority.URGENT else f"only urgent orders skip approval, this one is {context.order.priority}"


def _untouched(context: OrderContext) -> str | None:
    return "a person has touched it" if context.order.touched else None


CONTROL_ROOM = _roles(Role.OPERATOR, Role.SUPERVISOR)
PLANNER = _roles(Role.OPERATOR, Role.SUPERVISOR, system=True)
SUPERVISOR = _roles(Role.SUPERVISOR)
SYSTEM = _roles(system=True)
OWN: Guard[OrderContext] = Guard("assigned crew (or control room for it)", _own_order)
CREW_CHOSEN: Guard[OrderContext] = Guard("crew chosen", lambda c: None if c.chosen_crew_id else "no crew is chosen")
PLAN_FROZEN: Guard[OrderContext] = Guard("verification plan", lambda c: None if c.plan is not None else "no verification plan is frozen")
URGENT: Guard[OrderContext] = Guard("priority URGENT", _urgent)
UNTOUCHED: Guard[OrderContext] = Guard("untouched", _untouched)
WAITING_REASON: Guard[OrderContext] = Guard("waiting reason", _waiting_reason)
FIND_CODE: Guard[OrderContext] = Guard("find code", _find_code)
CHECKLIST: Guard[OrderContext] = Guard("safety checklist", _checklist)
NO_WORK: Guard[OrderContext] = Guard("no labour, parts or work (Maximo)", _no_work_began)
REASON: Guard[OrderContext] = Guard("reason", _reason)
NAME: Guard[OrderContext] = Guard("name", _name)
HAS_SIGNALS: Guard[OrderContext] = Guard("plan has signals", _plan_has_signals)
NO_SIGNAL: Guard[OrderContext] = Guard("plan has no signal", _plan_has_no_signal)
EXTENSIONS: Guard[OrderContext] = Guard(f"extended less than {EXTENSIONS_MAX} times", _extensions_left)

CREW_STAYS: When[OrderContext] = When("crew stays on site", lambda c: c.order.report.get("staying") is True)
CREW_LEFT: When[OrderContext] = When("crew has left", lambda c: c.order.report.get("staying") is not True)

_S, _E, _R, _X = OrderState, OrderEvent, OrderReason, OrderEffect
OrderTransition = Transition[OrderState, OrderEvent, OrderContext]
_OPEN = tuple(s for s in OrderState if s not in (OrderState.CLOSED, OrderState.CANCELLED))
_BEFORE_WORK = (_S.NEW, _S.APPROVED, _S.SCHEDULED, _S.DISPATCHED)

ORDER_TABLE: Table[OrderState, OrderEvent, OrderContext] = Table(
    name="work order",
    states=tuple(OrderState),
    initial=_S.NEW,
    terminal=(_S.CLOSED, _S.CANCELLED),
    transitions=(
        OrderTransition("W1", (_S.NEW,), _E.APPROVE, _S.APPROVED, _R.APPROVED_BY_PERSON, (PLANNER,)),
        OrderTransition(
            "W2 emergency",
            (_S.NEW,),
            _E.DISPATCH,
            _S.DISPATCHED,
            _R.EMERGENCY_APPROVED_BY_POLICY,
            (PLANNER, URGENT, CREW_CHOSEN, PLAN_FROZEN),
            (_X.ASSIGN, _X.FREEZE_PLAN, _X.NOTIFY_CREW),
        ),
        OrderTransition("W3", (_S.APPROVED,), _E.SCHEDULE, _S.SCHEDULED, _R.CREW_CHOSEN, (PLANNER, CREW_CHOSEN), (_X.ASSIGN,)),
        OrderTransition("W4", (_S.SCHEDULED,), _E.UNSCHEDULE, _S.APPROVED, _R.PLAN_CHANGED, (PLANNER,), (_X.UNASSIGN,)),
        OrderTransition(
            "W5",
            (_S.SCHEDULED,),
            _E.DISPATCH,
            _S.DISPATCHED,
            _R.SENT_TO_CREW,
            (PLANNER, CREW_CHOSEN, PLAN_FROZEN),
            (_X.ASSIGN, _X.FREEZE_PLAN, _X.NOTIFY_CREW),
        ),
        OrderTransition("W6 receipt", (_S.DISPATCHED,), _E.RECEIPT, None, _R.CREW_HAS_IT, (OWN,)),
        OrderTransition("W7", (_S.DISPATCHED,), _E.ACCEPT, _S.ACCEPTED, _R.CREW_ACCEPTS, (OWN,), (_X.TOUCH,)),
        OrderTransition(
            "W8", (_S.DISPATCHED,), _E.DECLINE, _S.SCHEDULED, _R.CREW_DECLINES, (OWN, REASON), (_X.TOUCH, _X.UNASSIGN, _X.NOTIFY_OPERATORS)
        ),
        OrderTransition(
            "W9",
            (_S.DISPATCHED,),
            _E.NO_RECEIPT,
            _S.SCHEDULED,
            _R.NO_ANSWER_IN_TIME,
            (SYSTEM,),
            (_X.RECALL_CREW, _X.UNASSIGN, _X.NOTIFY_OPERATORS),
        ),
        OrderTransition("W10", (_S.ACCEPTED,), _E.DEPART, _S.EN_ROUTE, _R.CREW_DRIVES, (OWN,), (_X.TOUCH,)),
        OrderTransition(
            "W11",
            (_S.ACCEPTED, _S.EN_ROUTE),
            _E.ARRIVE,
            _S.IN_PROGRESS,
            _R.CREW_ON_SITE,
            (OWN,),
            (_X.TOUCH, _X.WORK_BEGAN, _X.SUPPRESS_ALARMS),
        ),
        OrderTransition("W12", (_S.IN_PROGRESS,), _E.PAUSE, _S.WAITING, _R.WAITS, (OWN, WAITING_REASON), (_X.SET_WAITING,)),
        OrderTransition("W13", (_S.WAITING,), _E.RESUME, _S.IN_PROGRESS, _R.WAIT_OVER, (OWN,), (_X.UNSET_WAITING,)),
        OrderTransition(
            "W14",
            (_S.DISPATCHED, _S.ACCEPTED, _S.EN_ROUTE),
            _E.RESCHEDULE,
            _S.SCHEDULED,
            _R.PLAN_CHANGED,
            (CONTROL_ROOM, REASON),
            (_X.RECALL_CREW, _X.UNASSIGN),
        ),
        OrderTransition(
            "W15",
            (_S.IN_PROGRESS, _S.WAITING),
            _E.RESCHEDULE,
            _S.SCHEDULED,
            _R.PLAN_CHANGED,
            (OWN, REASON),
            (_X.UNSET_WAITING, _X.RELEASE_ALARMS, _X.RECALL_CREW, _X.UNASSIGN),
        ),
        OrderTransition(
            "W16",
            (_S.IN_PROGRESS,),
            _E.DONE,
            _S.DONE,
            _R.CREW_REPORTS_DONE,
            (OWN, FIND_CODE, _code("problem"), _code("cause"), _code("remedy"), CHECKLIST),
            (_X.KEEP_REPORT, _X.RELEASE_ALARMS, _X.UNASSIGN),
        ),
        OrderTransition(
            "W17", (_S.DONE,), _E.START_VERIFICATION, _S.VERIFYING, _R.SIGNALS_DECIDE, (SYSTEM, HAS_SIGNALS), (_X.RESTART_EVIDENCE,)
        ),
        OrderTransition(
            "W18",
            (_S.DONE,),
            _E.SIGN_OFF,
            _S.CLOSED,
            _R.SIGNED_OFF_WITHOUT_SIGNAL,
            (SUPERVISOR, NO_SIGNAL, NAME, REASON),
            (_X.OUTCOME_WAIVED, _X.CLEAR_ALARMS, _X.CLOSE),
        ),
        OrderTransition("W19 progress", (_S.VERIFYING,), _E.PROGRESS, None, _R.MEASURED_AGAIN, (SYSTEM,)),
        OrderTransition(
            "W20",
            (_S.VERIFYING,),
            _E.PASS,
            _S.CLOSED,
            _R.VERIFIED,
            (SYSTEM, _outcome_is(VerificationOutcome.PASS)),
            (_X.OUTCOME_PASS, _X.CLEAR_ALARMS, _X.CLOSE),
        ),
        OrderTransition(
            "W21",
            (_S.VERIFYING,),
            _E.FAIL,
            _S.IN_PROGRESS,
            _R.NOT_FIXED_CREW_STAYS,
            (SYSTEM, _outcome_is(VerificationOutcome.FAIL)),
            (_X.OUTCOME_FAIL, _X.REWORK, _X.ASSIGN, _X.RE_ANNUNCIATE, _X.NOTIFY_OPERATORS, _X.NOTIFY_CREW),
            CREW_STAYS,
        ),
        OrderTransition(
            "W21",
            (_S.VERIFYING,),
            _E.FAIL,
            _S.SCHEDULED,
            _R.NOT_FIXED,
            (SYSTEM, _outcome_is(VerificationOutcome.FAIL)),
            (_X.OUTCOME_FAIL, _X.REWORK, _X.RE_ANNUNCIATE, _X.NOTIFY_OPERATORS),
            CREW_LEFT,
        ),
        OrderTransition(
            "W22",
            (_S.VERIFYING,),
            _E.EXTEND,
            None,
            _R.EVIDENCE_MISSING,
            (SYSTEM, _outcome_is(VerificationOutcome.INCONCLUSIVE), EXTENSIONS),
            (_X.COUNT_EXTENSION,),
        ),
        OrderTransition(
            "W23 a person decides",
            (_S.VERIFYING,),
            _E.INCONCLUSIVE,
            None,
            _R.NEEDS_A_PERSON,
            (SYSTEM, _outcome_is(VerificationOutcome.INCONCLUSIVE)),
            (_X.OUTCOME_INCONCLUSIVE, _X.NOTIFY_OPERATORS),
        ),
        OrderTransition(
            "W24",
            (_S.DONE, _S.VERIFYING),
            _E.REJECT,
            _S.SCHEDULED,
            _R.REJECTED_BY_PERSON,
            (SUPERVISOR, NAME, REASON),
            (_X.OUTCOME_FAIL, _X.REWORK, _X.RE_ANNUNCIATE),
        ),
        OrderTransition(
            "W25",
            (_S.VERIFYING,),
            _E.WAIVE,
            _S.CLOSED,
            _R.WAIVED_BY_PERSON,
            (SUPERVISOR, NAME, REASON),
            (_X.OUTCOME_WAIVED, _X.CLEAR_ALARMS, _X.CLOSE),
        ),
        OrderTransition(
            "W26",
            _BEFORE_WORK,
            _E.CANCEL,
            _S.CANCELLED,
            _R.CANCELLED_BY_PERSON,
            (CONTROL_ROOM, REASON, NO_WORK),
            (_X.RECALL_CREW, _X.UNASSIGN, _X.CLOSE),
        ),
        OrderTransition(
            "W27",
            _BEFORE_WORK,
            _E.SELF_CLEARED,
            _S.CANCELLED,
            _R.CONDITION_SELF_CLEARED,
            (SYSTEM, UNTOUCHED, NO_WORK),
            (_X.RECALL_CREW, _X.UNASSIGN, _X.CLOSE, _X.NOTIFY_OPERATORS),
        ),
        OrderTransition(
            "W28 nobody free",
            (_S.NEW, _S.APPROVED, _S.SCHEDULED),
            _E.NO_CREW,
            None,
            _R.NO_CREW_AVAILABLE,
            (SYSTEM,),
            (_X.NOTIFY_OPERATORS,),
        ),
        OrderTransition(
            "W29 location",
            (_S.NEW, _S.APPROVED, _S.SCHEDULED, _S.DISPATCHED, _S.ACCEPTED, _S.EN_ROUTE, _S.IN_PROGRESS, _S.WAITING),
            _E.LOCATE,
            None,
            _R.LOCATION_REFINED,
            (SYSTEM,),
        ),
        OrderTransition(
            "W30 priority",
            (_S.NEW, _S.APPROVED, _S.SCHEDULED, _S.DISPATCHED, _S.ACCEPTED, _S.EN_ROUTE, _S.IN_PROGRESS, _S.WAITING),
            _E.RAISE_PRIORITY,
            None,
            _R.SEVERITY_UP,
            (PLANNER,),
        ),
        OrderTransition(
            "W31 comment",
            _OPEN,
            _E.COMMENT,
            None,
            _R.NOTED,
            (_roles(Role.OPERATOR, Role.SUPERVISOR, Role.ENGINEER, Role.CREW),),
            (_X.TOUCH,),
        ),
    ),
)
"""The whole behaviour of a work order; anything else is refused with the list of what is allowed."""

OrderStep = Step[OrderState, OrderEvent, OrderContext]

CREW_EVENTS = (
    OrderEvent.RECEIPT,
    OrderEvent.ACCEPT,
    OrderEvent.DECLINE,
    OrderEvent.DEPART,
    OrderEvent.ARRIVE,
    OrderEvent.PAUSE,
    OrderEvent.RESUME,
    OrderEvent.DONE,
    OrderEvent.RESCHEDULE,
    OrderEvent.COMMENT,
)
"""What a crew may send."""

REPORT_KEYS = (
    "find_code",
    "asset_id",
    "problem",
    "cause",
    "remedy",
    "checklist",
    "note",
    "labour",
    "parts",
    "position",
    "photos",
    "staying",
    "surveyed",
)


def decide(context: OrderContext, event: str) -> tuple[OrderStep, dict[str, Any]]:
    """Return the move of an order and the fields of its row that change.

    Raises
    ------
    IllegalTransitionError, GuardError
        As `lifecycle.Table.step`.
    """
    order = context.order
    step = ORDER_TABLE.step(f"order {order.label}", order.state, event, context)
    return step, changes_of(context, step)


def changes_of(context: OrderContext, step: OrderStep) -> dict[str, Any]:
    """Return the changed fields of the order row."""
    order, body = context.order, context.body
    happened_at = context.device_at or context.now_at
    changes: dict[str, Any] = {} if step.to_state == step.from_state else {"state": step.to_state}
    for effect in step.transition.effects:
        match effect:
            case OrderEffect.ASSIGN:
                changes["crew_id"] = context.chosen_crew_id or order.crew_id
            case OrderEffect.UNASSIGN:
                if step.to_state is not OrderState.DONE:
                    changes["crew_id"] = None
            case OrderEffect.FREEZE_PLAN:
                changes["plan"] = dict(context.plan or {})
            case OrderEffect.TOUCH:
                changes["touched"] = True
            case OrderEffect.WORK_BEGAN:
                if not order.report.get("work_began_at"):
                    changes["report"] = {**order.report, "work_began_at": happened_at.isoformat()}
            case OrderEffect.KEEP_REPORT:
                kept = {key: body[key] for key in REPORT_KEYS if key in body}
                if "note" in kept:
                    kept["note"] = text_of(body, "note")
                changes["report"] = {**order.report, **kept, "done_at": happened_at.isoformat()}
            case OrderEffect.SET_WAITING:
                changes["waiting_reason"] = WaitingReason(str(body["waiting_reason"]))
            case OrderEffect.UNSET_WAITING:
                changes["waiting_reason"] = None
            case OrderEffect.REWORK:
                changes["rework"] = order.rework + 1
            case OrderEffect.COUNT_EXTENSION:
                changes["verification"] = {**order.verification, "extensions": int(order.verification.get("extensions", 0)) + 1}
            case OrderEffect.RESTART_EVIDENCE:
                changes["verification"] = {}
                changes["outcome"] = VerificationOutcome.PENDING
            case OrderEffect.OUTCOME_PASS:
                changes["outcome"] = VerificationOutcome.PASS
            case OrderEffect.OUTCOME_FAIL:
                changes["outcome"] = VerificationOutcome.FAIL
            case OrderEffect.OUTCOME_INCONCLUSIVE:
                changes["outcome"] = VerificationOutcome.INCONCLUSIVE
            case OrderEffect.OUTCOME_WAIVED:
                changes["outcome"] = VerificationOutcome.WAIVED
            case OrderEffect.CLOSE:
                changes["closed_at"] = context.now_at
            case _:
                pass  # assignments, notifications and alarms are other rows: the desk acts on these
    return {name: value for name, value in changes.items() if getattr(order, name) != value}
