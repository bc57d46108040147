"""The incident lifecycle: the join of alarms, reports and orders with one cause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from underway.model import IncidentState
from workorders.lifecycle import Guard, Step, Table, Transition


class IncidentEvent(StrEnum):
    """What can happen to an incident."""

    INVESTIGATE = "investigate"
    ACT = "act"
    VERIFY = "verify"
    REWORK = "rework"
    RESOLVE = "resolve"
    FALSE_ALARM = "false_alarm"
    MERGE = "merge"
    LOCATED = "located"


class IncidentReason(StrEnum):
    """Why an incident moved."""

    SOMEONE_LOOKS = "someone_looks"
    CREW_WORKS = "crew_works"
    CREW_REPORTS_DONE = "crew_reports_done"
    VERIFICATION_FAILED = "verification_failed"
    ORDER_CLOSED = "order_closed"
    ALARMS_NORMAL = "alarms_normal"
    SELF_CLEARED = "self_cleared"
    NOTHING_FOUND = "nothing_found"
    SAME_CAUSE = "same_cause"
    CREW_LOCATED_IT = "crew_located_it"


class IncidentEffect(StrEnum):
    """Which instant of the incident a move sets."""

    LOCATED_AT = "set located_at"
    RESTORED_AT = "set restored_at"
    UNSET_RESTORED = "unset restored_at"
    RESOLVED_AT = "set resolved_at"


@dataclass(frozen=True, slots=True)
class IncidentContext:
    """What guards look at: orders still open on the incident, alarms still active on it."""

    at: datetime
    open_orders: int = 0
    active_alarms: int = 0


NO_OPEN_ORDER: Guard[IncidentContext] = Guard(
    "no open order", lambda c: None if c.open_orders == 0 else f"{c.open_orders} order(s) of it are still open"
)
NO_ACTIVE_ALARM: Guard[IncidentContext] = Guard(
    "no active alarm", lambda c: None if c.active_alarms == 0 else f"{c.active_alarms} alarm(s) of it are still active"
)

_O, _I, _A, _V = IncidentState.OPEN, IncidentState.INVESTIGATING, IncidentState.ACTION, IncidentState.VERIFYING
_E, _R, _X = IncidentEvent, IncidentReason, IncidentEffect
IncidentTransition = Transition[IncidentState, IncidentEvent, IncidentContext]

INCIDENT_TABLE: Table[IncidentState, IncidentEvent, IncidentContext] = Table(
    name="incident",
    states=tuple(IncidentState),
    initial=_O,
    terminal=(IncidentState.RESOLVED, IncidentState.FALSE_ALARM, IncidentState.MERGED),
    transitions=(
        IncidentTransition("I1", (_O,), _E.INVESTIGATE, _I, _R.SOMEONE_LOOKS),
        IncidentTransition("I2", (_O, _I, _V), _E.ACT, _A, _R.CREW_WORKS),
        IncidentTransition("I3", (_O, _I, _A), _E.VERIFY, _V, _R.CREW_REPORTS_DONE, (), (_X.RESTORED_AT,)),
        IncidentTransition("I4", (_V,), _E.REWORK, _A, _R.VERIFICATION_FAILED, (), (_X.UNSET_RESTORED,)),
        IncidentTransition(
            "I5", (_O, _I, _A, _V), _E.RESOLVE, IncidentState.RESOLVED, _R.ORDER_CLOSED, (NO_OPEN_ORDER,), (_X.RESOLVED_AT,)
        ),
        IncidentTransition(
            "I6",
            (_O, _I, _A, _V),
            _E.FALSE_ALARM,
            IncidentState.FALSE_ALARM,
            _R.NOTHING_FOUND,
            (NO_OPEN_ORDER, NO_ACTIVE_ALARM),
            (_X.RESOLVED_AT,),
        ),
        IncidentTransition("I7", (_O, _I, _A), _E.MERGE, IncidentState.MERGED, _R.SAME_CAUSE, (NO_OPEN_ORDER,), (_X.RESOLVED_AT,)),
        IncidentTransition("I8", (_O, _I, _A, _V), _E.LOCATED, None, _R.CREW_LOCATED_IT, (), (_X.LOCATED_AT,)),
    ),
)
"""The whole behaviour of an incident."""

IncidentStep = Step[IncidentState, IncidentEvent, IncidentContext]


def changes_of(context: IncidentContext, step: IncidentStep) -> dict[str, Any]:
    """Return the changed fields of the incident row."""
    changes: dict[str, Any] = {} if step.to_state == step.from_state else {"state": step.to_state}
    for effect in step.transition.effects:
        match effect:
            case IncidentEffect.LOCATED_AT:
                changes["located_at"] = context.at
            case IncidentEffect.RESTORED_AT:
                changes["restored_at"] = context.at
            case IncidentEffect.UNSET_RESTORED:
                changes["restored_at"] = None
            case _:
                changes["resolved_at"] = context.at
    return changes
