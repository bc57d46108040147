"""What follows from what: finding -> alarm event -> incident -> order, and how order and alarms are coupled. Tables and pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from underway.model import Alarm, AlarmCondition, Finding, FindingPhase, OrderState, Priority, WorkOrder, from_us
from workorders.alarm_types import AlarmType, OrderPolicy, OrderType
from workorders.alarms import AlarmEvent, AlarmReason, behaves_as
from workorders.incidents import IncidentEvent, IncidentReason
from workorders.orders import OrderEffect, OrderEvent

PRIORITY_RANK: Mapping[Priority, int] = {p: rank for rank, p in enumerate(reversed(list(Priority)))}
LOCATION_SHIFT_MIN = 0.05
CANDIDATES_MAX = 40
SURVEYED_MAX = 200
SURVEY_MISS = 0.1
"""Probability that a crew which looked at the right place did not see it."""


class Route(StrEnum):
    """Where a finding goes."""

    ALARM = "alarm"
    DELAY = "delay"
    RECORD_ONLY = "record_only"
    IGNORE = "ignore"


class RouteReason(StrEnum):
    """Why a finding goes there."""

    HISTORICAL_IS_ONLY_DATED = "historical_is_only_dated"
    ON_DELAY_RUNS = "on_delay_runs"
    OFF_DELAY_RUNS = "off_delay_runs"
    CONDITION_BEGAN = "condition_began"
    MEASURED_AGAIN = "measured_again"
    CONDITION_WENT_AWAY = "condition_went_away"
    NOTHING_IS_OPEN = "nothing_is_open"


@dataclass(frozen=True, slots=True)
class Routed:
    """What a finding means for the alarm of its asset and type: ``due_at`` is set when a delay runs first."""

    route: Route
    reason: RouteReason
    event: AlarmEvent | None = None
    due_at: datetime | None = None


def route(finding: Finding, alarm_type: AlarmType, live: Alarm | None) -> Routed:
    """Return what to do with a finding.

    Parameters
    ----------
    live : Alarm or None
        The live alarm of the same asset and type.

    Notes
    -----
    An UPDATE without a live alarm is ignored: the alarm was closed by a person or by verification, and only a RAISE opens another.
    """
    if finding.historical:
        return Routed(Route.RECORD_ONLY, RouteReason.HISTORICAL_IS_ONLY_DATED)
    detected_at = from_us(finding.detected_us)
    if finding.phase is FindingPhase.RAISE:
        active = live is not None and behaves_as(live) is AlarmCondition.ACTIVE
        if alarm_type.on_delay_s > 0 and not active:
            return Routed(Route.DELAY, RouteReason.ON_DELAY_RUNS, AlarmEvent.RAISE, detected_at + timedelta(seconds=alarm_type.on_delay_s))
        return Routed(Route.ALARM, RouteReason.CONDITION_BEGAN, AlarmEvent.RAISE)
    if live is None:
        return Routed(Route.IGNORE, RouteReason.NOTHING_IS_OPEN)
    if finding.phase is FindingPhase.UPDATE:
        return Routed(Route.ALARM, RouteReason.MEASURED_AGAIN, AlarmEvent.UPDATE)
    if behaves_as(live) is AlarmCondition.NORMAL:
        return Routed(Route.IGNORE, RouteReason.NOTHING_IS_OPEN)
    if alarm_type.off_delay_s > 0:
        return Routed(Route.DELAY, RouteReason.OFF_DELAY_RUNS, AlarmEvent.CLEAR, detected_at + timedelta(seconds=alarm_type.off_delay_s))
    return Routed(Route.ALARM, RouteReason.CONDITION_WENT_AWAY, AlarmEvent.CLEAR)


class OrderProposal(StrEnum):
    """What an alarm of an incident does about a work order."""

    ATTACH = "attach"
    CREATE_AND_DISPATCH = "create_and_dispatch"
    CREATE_AND_ASK = "create_and_ask"
    NONE = "none"


def propose(alarm_type: AlarmType, priority: Priority, open_order: WorkOrder | None) -> OrderProposal:
    """Return what to do about an order: attach to the open one, else by policy; only URGENT and HIGH go without a person."""
    if open_order is not None:
        return OrderProposal.ATTACH
    if alarm_type.order is OrderPolicy.NONE:
        return OrderProposal.NONE
    if alarm_type.order is OrderPolicy.AUTOMATIC and priority in (Priority.URGENT, Priority.HIGH):
        return OrderProposal.CREATE_AND_DISPATCH
    return OrderProposal.CREATE_AND_ASK


@dataclass(frozen=True, slots=True)
class Follow:
    """What an order event does to its incident."""

    event: IncidentEvent
    reason: IncidentReason


INCIDENT_FOLLOWS: Mapping[OrderEvent, Follow] = {
    OrderEvent.ACCEPT: Follow(IncidentEvent.INVESTIGATE, IncidentReason.SOMEONE_LOOKS),
    OrderEvent.ARRIVE: Follow(IncidentEvent.ACT, IncidentReason.CREW_WORKS),
    OrderEvent.DONE: Follow(IncidentEvent.VERIFY, IncidentReason.CREW_REPORTS_DONE),
    OrderEvent.FAIL: Follow(IncidentEvent.REWORK, IncidentReason.VERIFICATION_FAILED),
    OrderEvent.REJECT: Follow(IncidentEvent.REWORK, IncidentReason.VERIFICATION_FAILED),
    OrderEvent.PASS: Follow(IncidentEvent.RESOLVE, IncidentReason.ORDER_CLOSED),
    OrderEvent.WAIVE: Follow(IncidentEvent.RESOLVE, IncidentReason.ORDER_CLOSED),
    OrderEvent.SIGN_OFF: Follow(IncidentEvent.RESOLVE, IncidentReason.ORDER_CLOSED),
    OrderEvent.SELF_CLEARED: Follow(IncidentEvent.RESOLVE, IncidentReason.SELF_CLEARED),
    OrderEvent.CANCEL: Follow(IncidentEvent.FALSE_ALARM, IncidentReason.NOTHING_FOUND),
}
"""Order event -> incident event; a move that the incident's table does not allow (another order is still open) is not made."""

HOLD_VERDICTS: Mapping[OrderEvent, str] = {
    OrderEvent.PASS: "repaired",
    # a person vouches, or the data are normal again: the detectors go back to the frozen baseline, so a fault that is still there is found again
    OrderEvent.WAIVE: "repaired",
    OrderEvent.SIGN_OFF: "repaired",
    OrderEvent.SELF_CLEARED: "repaired",
    # a person says that nothing is wrong: the detectors may take the present level for normal
    OrderEvent.CANCEL: "cancelled",
}
"""How the hold on the detectors ends with the order."""

COUPLING: Mapping[OrderEffect, tuple[AlarmEvent, AlarmReason]] = {
    OrderEffect.SUPPRESS_ALARMS: (AlarmEvent.SUPPRESS, AlarmReason.WORK_IN_PROGRESS),
    OrderEffect.RELEASE_ALARMS: (AlarmEvent.RELEASE, AlarmReason.WORK_ENDED),
    OrderEffect.RE_ANNUNCIATE: (AlarmEvent.RE_ANNUNCIATE, AlarmReason.VERIFICATION_FAILED),
    OrderEffect.CLEAR_ALARMS: (AlarmEvent.CLEAR, AlarmReason.VERIFIED_REPAIR),
}
"""Effect of an order's move -> what happens to the alarms of its incident."""


def may_self_clear(order: WorkOrder) -> bool:
    """Return whether an order whose condition went away is cancelled by itself: only before work, and only untouched by people."""
    return not order.touched and order.state in (OrderState.NEW, OrderState.APPROVED, OrderState.SCHEDULED, OrderState.DISPATCHED)


def more_urgent(one: Priority, other: Priority) -> bool:
    """Return whether `one` is more urgent than `other`.

    Examples
    --------
    >>> more_urgent(Priority.URGENT, Priority.HIGH), more_urgent(Priority.LOW, Priority.LOW)
    (True, False)
    """
    return PRIORITY_RANK[one] > PRIORITY_RANK[other]


def incident_title(alarm_type: AlarmType, place: str) -> str:
    """Return a title for people."""
    return f"{str(alarm_type.kind).replace('.', ' ').replace('_', ' ')} in {place}".capitalize()


def order_title(order_type: OrderType, place: str, rework_of: str = "") -> str:
    """Return a title for people."""
    return f"{order_type.title}: {place}" + (f" (again, see {rework_of})" if rework_of else "")


def same_place(order: WorkOrder, places: set[str]) -> bool:
    """Return whether a closed order was about one of `places`: what the crew repaired, or the order's asset when it did not say."""
    return str(order.report.get("asset_id") or order.asset_id) in places


def candidates_of(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the places of an evidence, most probable first, as an order's location holds them."""
    found = evidence.get("candidates")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    places = [dict(c) for c in found if isinstance(c, Mapping) and isinstance(c.get("asset_id"), str)]
    return sorted(places, key=lambda c: -float(c.get("probability") or 0.0))[:CANDIDATES_MAX]


def after_survey(candidates: Sequence[Mapping[str, Any]], surveyed: Collection[str]) -> list[dict[str, Any]]:
    """Return the places as likely as they are once a crew has looked at some of them in vain, most probable first.

    Notes
    -----
    Bayes: a place that was surveyed (or repaired without effect) keeps `SURVEY_MISS` of its probability; what it loses goes to all others,
    those that are not listed included.

    Examples
    --------
    >>> after_survey([{"asset_id": "a", "probability": 0.8}, {"asset_id": "b", "probability": 0.2}], {"a"})
    [{'asset_id': 'b', 'probability': 0.7143}, {'asset_id': 'a', 'probability': 0.2857}]
    """
    weights = [float(c.get("probability") or 0.0) * (SURVEY_MISS if c["asset_id"] in surveyed else 1.0) for c in candidates]
    unlisted = max(0.0, 1.0 - sum(float(c.get("probability") or 0.0) for c in candidates))
    total = sum(weights) + unlisted
    if total <= 0.0:
        return [dict(c) for c in candidates]
    weighed = [{**c, "probability": round(weight / total, 4)} for c, weight in zip(candidates, weights, strict=True)]
    return sorted(weighed, key=lambda c: -float(c["probability"]))


def surveyed_of(location: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """Return where crews have looked or worked in vain so far, after a repair that did not help."""
    looked = [str(a) for a in report.get("surveyed") or [] if isinstance(a, str)]
    worked = [str(report["asset_id"])] if report.get("asset_id") else []
    return list(dict.fromkeys([*location.get("surveyed", []), *looked, *worked]))[:SURVEYED_MAX]


def location_moved(old: Mapping[str, Any], new: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a new location differs enough to tell: another first candidate, or its probability moved by 0.05."""
    before = old.get("candidates") or []
    if not new:
        return False
    if not before or before[0]["asset_id"] != new[0]["asset_id"]:
        return True
    return abs(float(before[0].get("probability") or 0.0) - float(new[0].get("probability") or 0.0)) >= LOCATION_SHIFT_MIN
