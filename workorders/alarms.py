"""The alarm lifecycle of ISA-18.2 / IEC 62682: three stored facts, one derived state, T1 to T14 as a table.

References
----------
ANSI/ISA-18.2-2016, IEC 62682:2014. The three stored facts follow OPC UA Part 9: one stored status would lose the acknowledgement across a shelve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from underway.model import Alarm, AlarmAck, AlarmCondition, AlarmState, AlarmSuppression, Priority, Role
from workorders.lifecycle import Guard, Step, Table, Transition, When


class AlarmEvent(StrEnum):
    """What can happen to an alarm; the comment says who causes it."""

    RAISE = "raise"  # detector
    UPDATE = "update"  # detector
    CLEAR = "clear"  # detector, or verification that passed
    ACK = "ack"  # operator
    RE_ANNUNCIATE = "re_annunciate"  # severity up, ack timer, verification FAIL
    SHELVE = "shelve"  # operator
    UNSHELVE = "unshelve"  # operator
    SHELVE_EXPIRED = "shelve_expired"  # timer
    SUPPRESS = "suppress"  # rule
    RELEASE = "release"  # rule
    OUT_OF_SERVICE = "out_of_service"  # engineer
    RETURN_TO_SERVICE = "return_to_service"  # engineer
    DATA_STOPPED = "data_stopped"  # watchdog
    DATA_RESUMED = "data_resumed"  # watchdog
    GROUP = "group"  # policy
    COMMENT = "comment"  # anybody in the control room


class AlarmReason(StrEnum):
    """Why an alarm moved."""

    DETECTED = "detected"
    DETECTED_AGAIN = "detected_again"
    EVIDENCE_REFRESHED = "evidence_refreshed"
    DATA_SAY_NORMAL = "data_say_normal"
    VERIFIED_REPAIR = "verified_repair"
    ACKNOWLEDGED = "acknowledged"
    CAME_BACK = "came_back"
    SEVERITY_UP = "severity_up"
    NOT_ACKNOWLEDGED_IN_TIME = "not_acknowledged_in_time"
    VERIFICATION_FAILED = "verification_failed"
    SHELVED_BY_PERSON = "shelved_by_person"
    UNSHELVED_BY_PERSON = "unshelved_by_person"
    SHELF_TIME_OVER = "shelf_time_over"
    WORK_IN_PROGRESS = "work_in_progress"
    WORK_ENDED = "work_ended"
    SUPPRESSED_BY_RULE = "suppressed_by_rule"
    TAKEN_OUT_OF_SERVICE = "taken_out_of_service"
    RETURNED_TO_SERVICE = "returned_to_service"
    NO_DATA = "no_data"
    DATA_ARE_BACK = "data_are_back"
    COUNTED_WHILE_SUPPRESSED = "counted_while_suppressed"
    JOINED_INCIDENT = "joined_incident"
    NOTED = "noted"


class AlarmEffect(StrEnum):
    """What a move does besides changing the three facts."""

    NEW_OCCURRENCE = "new occurrence"
    FLAP = "count a flap"
    EVIDENCE = "keep the evidence"
    NOTIFY = "notify by priority"
    PROPOSE = "propose incident and order"
    STOP_ESCALATION = "stop escalation"
    SET_NORMAL = "remember since when normal"
    CLOSE = "close occurrence"
    START_SHELF = "start shelf timer"
    STOP_SHELF = "stop shelf timer"
    MARK_STALE = "mark evidence stale"
    MARK_FRESH = "mark evidence fresh"
    RELEARN = "start re-learning the baseline"


SHELVE_LIMIT: Mapping[Role, timedelta] = {
    Role.OPERATOR: timedelta(hours=8),
    Role.SUPERVISOR: timedelta(hours=72),
    Role.ENGINEER: timedelta(hours=72),
}
"""For how long a role may shelve."""

REASON_LENGTH_MAX = 500
SHELF_SPREAD_S = 120


@dataclass(frozen=True, slots=True)
class AlarmContext:
    """What guards of the alarm table look at; the desk fills in what it knows.

    ``role`` None is underway itself. ``shelve_until`` is the end of a shelf; ``occurred_at``/``detected_at`` are of the finding.
    """

    alarm: Alarm | None
    now_at: datetime
    role: Role | None = None
    actor: str = ""
    reason: str = ""
    historical: bool = False
    quality_good: bool = True
    on_delay_met: bool = True
    off_delay_met: bool = True
    evidence_fresh: bool = True
    verification_pending: bool = False
    realarm_s: float = 0.0
    shelvable: bool = True
    safety: bool = False
    shelve_until: datetime | None = None
    rule: str = ""
    reference: str = ""
    second_person: str = ""
    test_ok: bool = False
    occurred_at: datetime | None = None
    detected_at: datetime | None = None
    finding_id: UUID | None = None
    priority: Priority | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


def behaves_as(alarm: Alarm) -> AlarmCondition:
    """Return ``active`` or ``normal``: ``unknown`` behaves as the last known condition."""
    if alarm.condition is AlarmCondition.UNKNOWN:
        return AlarmCondition.NORMAL if alarm.normal_at is not None else AlarmCondition.ACTIVE
    return alarm.condition


def state_from(condition: AlarmCondition, ack: AlarmAck, suppression: AlarmSuppression) -> AlarmState:
    """Return the one ISA-18.2 state of the three facts (`condition` as `behaves_as` gives it).

    Examples
    --------
    >>> state_from(AlarmCondition.NORMAL, AlarmAck.UNACKED, AlarmSuppression.NONE).value
    'RTNUN'
    """
    match suppression:
        case AlarmSuppression.SHELVED:
            return AlarmState.SHLVD
        case AlarmSuppression.BY_DESIGN:
            return AlarmState.DSUPR
        case AlarmSuppression.OUT_OF_SERVICE:
            return AlarmState.OOSRV
        case AlarmSuppression.NONE:
            if condition is AlarmCondition.NORMAL:
                return AlarmState.NORM if ack is AlarmAck.ACKED else AlarmState.RTNUN
            return AlarmState.ACKED if ack is AlarmAck.ACKED else AlarmState.UNACK


def state_of(alarm: Alarm | None) -> AlarmState:
    """Return the derived state of an alarm; no live alarm is NORM."""
    return AlarmState.NORM if alarm is None else state_from(behaves_as(alarm), alarm.ack, alarm.suppression)


def _is_active(context: AlarmContext) -> bool:
    return context.alarm is not None and behaves_as(context.alarm) is AlarmCondition.ACTIVE


def _in_realarm_window(context: AlarmContext) -> bool:
    alarm = context.alarm
    at = context.detected_at or context.now_at
    return alarm is not None and alarm.normal_at is not None and at - alarm.normal_at <= timedelta(seconds=context.realarm_s)


def _role_in(*roles: Role) -> Guard[AlarmContext]:
    names = " or ".join(roles)
    return Guard(f"role {names}", lambda c: None if c.role in roles else f"needs role {names}, got {_role_name(c.role)}")


def _role_name(role: Role | None) -> str:
    return "the system" if role is None else repr(str(role))


def _shelf_limit(context: AlarmContext) -> str | None:
    limit = SHELVE_LIMIT.get(context.role) if context.role is not None else None
    if limit is None:
        return f"needs role operator or supervisor to shelve, got {_role_name(context.role)}"
    if context.shelve_until is None:
        return "'until' must say when the shelf ends"
    if context.shelve_until <= context.now_at:
        return f"'until' must be after now, got {context.shelve_until.isoformat()}"
    if context.shelve_until - context.now_at > limit:
        hours = limit.total_seconds() / 3600
        return f"role {str(context.role)!r} may shelve for at most {hours:.0f} h, asked until {context.shelve_until.isoformat()}"
    return None


def _reason_given(context: AlarmContext) -> str | None:
    if not context.reason.strip():
        return "a reason must be given"
    return (
        None
        if len(context.reason) <= REASON_LENGTH_MAX
        else f"the reason must have at most {REASON_LENGTH_MAX} characters, got {len(context.reason)}"
    )


def _stale(context: AlarmContext) -> str | None:
    unknown = context.alarm is not None and context.alarm.condition is AlarmCondition.UNKNOWN
    return "missing data can never clear an alarm" if unknown or not context.evidence_fresh else None


def _second_person(context: AlarmContext) -> str | None:
    if not context.safety:
        return None
    if context.second_person and context.second_person != context.actor:
        return None
    return "a safety alarm needs a second person who agrees"


ON_DELAY: Guard[AlarmContext] = Guard("on-delay met", lambda c: None if c.on_delay_met else "the on-delay is not over")
NOT_HISTORICAL: Guard[AlarmContext] = Guard("not historical", lambda c: "it rests on historical data" if c.historical else None)
QUALITY_GOOD: Guard[AlarmContext] = Guard("quality good", lambda c: None if c.quality_good else "it rests on data that are not good")
OFF_DELAY: Guard[AlarmContext] = Guard("off-delay met", lambda c: None if c.off_delay_met else "the off-delay is not over")
FRESH: Guard[AlarmContext] = Guard("evidence fresh", _stale)
NOT_VERIFYING: Guard[AlarmContext] = Guard(
    "no verification pending", lambda c: "a verification is pending and decides" if c.verification_pending else None
)
SHELVABLE: Guard[AlarmContext] = Guard("type shelvable", lambda c: None if c.shelvable else "this alarm type must not be shelved")
SHELF_LIMIT: Guard[AlarmContext] = Guard("role limit (operator 8 h, supervisor 72 h)", _shelf_limit)
REASON: Guard[AlarmContext] = Guard("reason given", _reason_given)
RULE: Guard[AlarmContext] = Guard("rule id", lambda c: None if c.rule else "the rule that suppresses must be named")
PROCESS_TYPE: Guard[AlarmContext] = Guard(
    "not a safety type", lambda c: "a safety alarm is never suppressed by a rule" if c.safety else None
)
ENGINEER = _role_in(Role.ENGINEER)
ACK_ROLE = _role_in(Role.OPERATOR, Role.SUPERVISOR, Role.ENGINEER)
REFERENCE: Guard[AlarmContext] = Guard(
    "order or permit reference", lambda c: None if c.reference else "an order or permit must be referred to"
)
SECOND_PERSON: Guard[AlarmContext] = Guard("second person for safety types", _second_person)
TEST_OK: Guard[AlarmContext] = Guard("test recorded", lambda c: None if c.test_ok else "a passed calibration or test must be recorded")

ACTIVE: When[AlarmContext] = When("active", _is_active)
NORMAL: When[AlarmContext] = When("normal", lambda c: not _is_active(c))
IN_WINDOW: When[AlarmContext] = When("within the re-alarm window", _in_realarm_window)
AFTER_WINDOW: When[AlarmContext] = When("after the re-alarm window", lambda c: not _in_realarm_window(c))

N, U, A, R = AlarmState.NORM, AlarmState.UNACK, AlarmState.ACKED, AlarmState.RTNUN
SH, DS, OO = AlarmState.SHLVD, AlarmState.DSUPR, AlarmState.OOSRV
SUPPRESSED = (SH, DS, OO)
E = AlarmEvent
X = AlarmEffect
_active, _normal = AlarmCondition.ACTIVE, AlarmCondition.NORMAL
_acked, _unacked = AlarmAck.ACKED, AlarmAck.UNACKED
_none = AlarmSuppression.NONE
AlarmTransition = Transition[AlarmState, AlarmEvent, AlarmContext]

RAISE_GUARDS = (ON_DELAY, QUALITY_GOOD, NOT_HISTORICAL)
CLEAR_GUARDS = (OFF_DELAY, FRESH, NOT_HISTORICAL)

ALARM_TABLE: Table[AlarmState, AlarmEvent, AlarmContext] = Table(
    name="alarm",
    states=tuple(AlarmState),
    initial=N,
    terminal=(),
    transitions=(
        AlarmTransition(
            "T1",
            (N,),
            E.RAISE,
            U,
            AlarmReason.DETECTED,
            RAISE_GUARDS,
            (X.NEW_OCCURRENCE, X.EVIDENCE, X.NOTIFY, X.PROPOSE),
            sets={"condition": _active, "ack": _unacked},
        ),
        AlarmTransition(
            "T1 again",
            (U, A),
            E.RAISE,
            None,
            AlarmReason.DETECTED_AGAIN,
            RAISE_GUARDS,
            (X.NEW_OCCURRENCE, X.EVIDENCE, X.MARK_FRESH),
            sets={"condition": _active},
        ),
        AlarmTransition("T2", (U,), E.ACK, A, AlarmReason.ACKNOWLEDGED, (ACK_ROLE,), (X.STOP_ESCALATION,), sets={"ack": _acked}),
        AlarmTransition("T3", (U,), E.CLEAR, R, AlarmReason.DATA_SAY_NORMAL, CLEAR_GUARDS, (X.SET_NORMAL,), sets={"condition": _normal}),
        AlarmTransition(
            "T4",
            (A,),
            E.CLEAR,
            N,
            AlarmReason.DATA_SAY_NORMAL,
            (*CLEAR_GUARDS, NOT_VERIFYING),
            (X.SET_NORMAL, X.CLOSE),
            sets={"condition": _normal},
        ),
        AlarmTransition("T5", (R,), E.ACK, N, AlarmReason.ACKNOWLEDGED, (ACK_ROLE,), (X.CLOSE,), sets={"ack": _acked}),
        AlarmTransition(
            "T6",
            (R,),
            E.RAISE,
            U,
            AlarmReason.CAME_BACK,
            RAISE_GUARDS,
            (X.FLAP, X.EVIDENCE, X.MARK_FRESH, X.NOTIFY),
            IN_WINDOW,
            {"condition": _active},
        ),
        AlarmTransition(
            "T6 late",
            (R,),
            E.RAISE,
            U,
            AlarmReason.DETECTED_AGAIN,
            RAISE_GUARDS,
            (X.NEW_OCCURRENCE, X.EVIDENCE, X.MARK_FRESH, X.NOTIFY, X.PROPOSE),
            AFTER_WINDOW,
            {"condition": _active},
        ),
        AlarmTransition("T7", (A,), E.RE_ANNUNCIATE, U, AlarmReason.SEVERITY_UP, (), (X.NOTIFY,), sets={"ack": _unacked}),
        AlarmTransition("T7 already", (U,), E.RE_ANNUNCIATE, None, AlarmReason.SEVERITY_UP, (), (X.NOTIFY,)),
        AlarmTransition(
            "T7 returned",
            (R,),
            E.RE_ANNUNCIATE,
            U,
            AlarmReason.VERIFICATION_FAILED,
            (),
            (X.FLAP, X.NOTIFY, X.MARK_FRESH),
            sets={"condition": _active},
        ),
        AlarmTransition(
            "T8",
            (N, U, A, R),
            E.SHELVE,
            SH,
            AlarmReason.SHELVED_BY_PERSON,
            (SHELVABLE, SHELF_LIMIT, REASON),
            (X.START_SHELF,),
            sets={"suppression": AlarmSuppression.SHELVED},
        ),
        AlarmTransition(
            "T9a",
            (SH,),
            E.UNSHELVE,
            A,
            AlarmReason.UNSHELVED_BY_PERSON,
            (ACK_ROLE,),
            (X.STOP_SHELF,),
            ACTIVE,
            {"suppression": _none, "ack": _acked},
        ),
        AlarmTransition(
            "T9a",
            (SH,),
            E.UNSHELVE,
            N,
            AlarmReason.UNSHELVED_BY_PERSON,
            (ACK_ROLE,),
            (X.STOP_SHELF, X.CLOSE),
            NORMAL,
            {"suppression": _none, "ack": _acked},
        ),
        AlarmTransition(
            "T9b",
            (SH,),
            E.SHELVE_EXPIRED,
            U,
            AlarmReason.SHELF_TIME_OVER,
            (),
            (X.STOP_SHELF, X.NOTIFY),
            ACTIVE,
            {"suppression": _none, "ack": _unacked},
        ),
        AlarmTransition(
            "T9b",
            (SH,),
            E.SHELVE_EXPIRED,
            N,
            AlarmReason.SHELF_TIME_OVER,
            (),
            (X.STOP_SHELF, X.CLOSE),
            NORMAL,
            {"suppression": _none, "ack": _acked},
        ),
        AlarmTransition(
            "T10",
            (N, U, A, R),
            E.SUPPRESS,
            DS,
            AlarmReason.SUPPRESSED_BY_RULE,
            (RULE, PROCESS_TYPE),
            sets={"suppression": AlarmSuppression.BY_DESIGN},
        ),
        AlarmTransition(
            "T10 counting",
            SUPPRESSED,
            E.RAISE,
            None,
            AlarmReason.COUNTED_WHILE_SUPPRESSED,
            RAISE_GUARDS,
            (X.NEW_OCCURRENCE, X.EVIDENCE, X.MARK_FRESH),
            sets={"condition": _active},
        ),
        AlarmTransition(
            "T10 counting",
            SUPPRESSED,
            E.CLEAR,
            None,
            AlarmReason.COUNTED_WHILE_SUPPRESSED,
            CLEAR_GUARDS,
            (X.SET_NORMAL,),
            sets={"condition": _normal},
        ),
        AlarmTransition(
            "T11", (DS,), E.RELEASE, U, AlarmReason.WORK_ENDED, (), (X.NOTIFY,), ACTIVE, {"suppression": _none, "ack": _unacked}
        ),
        AlarmTransition("T11", (DS,), E.RELEASE, N, AlarmReason.WORK_ENDED, (), (X.CLOSE,), NORMAL, {"suppression": _none, "ack": _acked}),
        AlarmTransition(
            "T12",
            (N, U, A, R, SH, DS),
            E.OUT_OF_SERVICE,
            OO,
            AlarmReason.TAKEN_OUT_OF_SERVICE,
            (ENGINEER, REFERENCE, SECOND_PERSON),
            (X.STOP_SHELF,),
            sets={"suppression": AlarmSuppression.OUT_OF_SERVICE},
        ),
        AlarmTransition(
            "T13",
            (OO,),
            E.RETURN_TO_SERVICE,
            U,
            AlarmReason.RETURNED_TO_SERVICE,
            (ENGINEER, TEST_OK),
            (X.NOTIFY, X.RELEARN),
            ACTIVE,
            {"suppression": _none, "ack": _unacked},
        ),
        AlarmTransition(
            "T13",
            (OO,),
            E.RETURN_TO_SERVICE,
            N,
            AlarmReason.RETURNED_TO_SERVICE,
            (ENGINEER, TEST_OK),
            (X.CLOSE, X.RELEARN),
            NORMAL,
            {"suppression": _none, "ack": _acked},
        ),
        AlarmTransition(
            "T14",
            (U, A, R, *SUPPRESSED),
            E.DATA_STOPPED,
            None,
            AlarmReason.NO_DATA,
            (),
            (X.MARK_STALE,),
            sets={"condition": AlarmCondition.UNKNOWN},
        ),
        AlarmTransition("T14 back", (U, A, R, *SUPPRESSED), E.DATA_RESUMED, None, AlarmReason.DATA_ARE_BACK, (), (X.MARK_FRESH,)),
        AlarmTransition("update", (U, A, R, *SUPPRESSED), E.UPDATE, None, AlarmReason.EVIDENCE_REFRESHED, (NOT_HISTORICAL,), (X.EVIDENCE,)),
        AlarmTransition("comment", (U, A, R, *SUPPRESSED), E.COMMENT, None, AlarmReason.NOTED, (ACK_ROLE, REASON)),
        AlarmTransition("group", (U, A, R, *SUPPRESSED), E.GROUP, None, AlarmReason.JOINED_INCIDENT),
    ),
)
"""The whole behaviour of an alarm. Rows beside T1 to T14 stay in their state: they count, refresh evidence or join an incident."""

AlarmStep = Step[AlarmState, AlarmEvent, AlarmContext]


def decide(context: AlarmContext, event: str, subject: str) -> tuple[AlarmStep, dict[str, Any]]:
    """Return the move of an alarm and the fields of its row that change.

    Parameters
    ----------
    context : AlarmContext
        ``context.alarm`` None means that no live alarm exists (NORM).

    Raises
    ------
    IllegalTransitionError, GuardError
        As `lifecycle.Table.step`.
    """
    step = ALARM_TABLE.step(subject, state_of(context.alarm), event, context)
    return step, changes_of(context, step)


def changes_of(context: AlarmContext, step: AlarmStep) -> dict[str, Any]:
    """Return the changed fields of the row: the three facts of the table row, and what its effects do."""
    alarm = context.alarm
    changes: dict[str, Any] = dict(step.transition.sets)
    for effect in step.transition.effects:
        match effect:
            case AlarmEffect.NEW_OCCURRENCE:
                changes["occurrence"] = 1 if alarm is None else alarm.occurrence + 1
                changes["normal_at"] = None
            case AlarmEffect.FLAP:
                changes["flaps"] = 0 if alarm is None else alarm.flaps + 1
                changes["normal_at"] = None
            case AlarmEffect.EVIDENCE:
                changes["evidence"] = dict(context.evidence)
                changes["finding_id"] = context.finding_id
            case AlarmEffect.SET_NORMAL:
                changes["normal_at"] = context.detected_at or context.now_at
            case AlarmEffect.CLOSE:
                changes["closed_at"] = context.now_at
            case AlarmEffect.START_SHELF:
                changes["shelved_until"] = context.shelve_until
            case AlarmEffect.STOP_SHELF:
                changes["shelved_until"] = None
            case AlarmEffect.MARK_STALE:
                if alarm is None or alarm.evidence_stale_since is None:
                    changes["evidence_stale_since"] = context.detected_at or context.now_at
            case AlarmEffect.MARK_FRESH:
                changes["evidence_stale_since"] = None
                if alarm is not None and "condition" not in changes:
                    changes["condition"] = behaves_as(alarm)
            case _:
                pass  # notify, propose, stop escalation, re-learn: the desk acts on these, no field of the row changes
    return changes


def shelf_ends_at(alarm_id: int, until_at: datetime) -> datetime:
    """Return when the timer lets a shelved alarm go: up to two minutes after its end, spread so that many at once are no flood.

    Examples
    --------
    >>> from datetime import UTC
    >>> shelf_ends_at(121, datetime(2026, 1, 1, tzinfo=UTC)).isoformat()
    '2026-01-01T00:00:01+00:00'
    """
    return until_at + timedelta(seconds=alarm_id % SHELF_SPREAD_S)
