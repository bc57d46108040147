"""The desk: the only place that moves alarms, incidents and orders. Each public function is one transaction (`tick`: one a step)."""

from underway.desk.actions import (
    ASSIGN,
    PEOPLE_ALARM_EVENTS,
    PEOPLE_ORDER_EVENTS,
    AlarmResult,
    NotFoundError,
    Result,
    act_on_alarm,
    act_on_order,
    override_dispatch,
    resolve_review,
)
from underway.desk.findings import READER, Taken, TakenFinding, take_finding, take_new_findings
from underway.desk.links import crew_link, link_of, read_crew_link
from underway.desk.operations import tell_operation, withdraw_operation
from underway.desk.rebuild import differences, rebuild
from underway.desk.timers import Memory, TickReport, tick

__all__ = [
    "ASSIGN",
    "PEOPLE_ALARM_EVENTS",
    "PEOPLE_ORDER_EVENTS",
    "READER",
    "AlarmResult",
    "Memory",
    "NotFoundError",
    "Result",
    "Taken",
    "TakenFinding",
    "TickReport",
    "act_on_alarm",
    "act_on_order",
    "crew_link",
    "differences",
    "link_of",
    "override_dispatch",
    "read_crew_link",
    "rebuild",
    "resolve_review",
    "take_finding",
    "take_new_findings",
    "tell_operation",
    "tick",
    "withdraw_operation",
]
