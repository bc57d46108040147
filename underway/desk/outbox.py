"""The pure part of delivery: who gets what, as plain JSON values. Sending happens in the loop of ``underway.app.workside``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from underway.model import Alarm, WorkOrder

CREW_PREFIX = "crew/"
OPERATORS = "role/operator"
EVIDENCE_LENGTH_MAX = 500


def topic_of(site_id: str, recipient: str) -> str:
    """Return the MQTT topic of a recipient.

    Examples
    --------
    >>> topic_of("town", "crew/c1"), topic_of("town", "role/operator")
    ('uw/town/crew/c1/orders', 'uw/town/ops/notifications')
    """
    if recipient.startswith(CREW_PREFIX):
        return f"uw/{site_id}/crew/{recipient.removeprefix(CREW_PREFIX)}/orders"
    return f"uw/{site_id}/ops/notifications"


def is_retained(recipient: str) -> bool:
    """Return whether the broker keeps the last message: a crew's phone that comes back must see its order."""
    return recipient.startswith(CREW_PREFIX)


def crew_card(
    order: WorkOrder, evidence: Mapping[str, Any], why: str, checklist: tuple[str, ...], place: str, now_at: datetime
) -> dict[str, Any]:
    """Return the card that a crew gets with an order; the link is added when it is sent.

    Parameters
    ----------
    evidence : Mapping
        Of the alarm behind the order.
    why : str
        One sentence: why this crew.
    """
    return {
        "kind": "order",
        "site_id": order.site_id,
        "order_id": order.order_id,
        "label": order.label,
        "version": order.version,
        "base_version": order.version,
        "state": str(order.state),
        "crew_id": order.crew_id,
        "title": order.title,
        "order_type": order.order_type,
        "required_skill": order.required_skill,
        "priority": str(order.priority),
        "due_at": None if order.due_at is None else order.due_at.isoformat(),
        "rework": order.rework,
        "asset_id": order.asset_id,
        "zone_id": order.zone_id,
        "place": place,
        "candidates": list(order.location.get("candidates") or []),
        "point": order.location.get("point"),
        "evidence": str(evidence.get("summary", ""))[:EVIDENCE_LENGTH_MAX],
        "why_you": why,
        "last_verification": order.verification.get("sentence") if order.rework else None,
        "last_repaired": order.report.get("asset_id") if order.rework else None,
        "checklist": list(checklist),
        "sent_at": now_at.isoformat(),
    }


def recall_card(order: WorkOrder, crew_id: str, why: str, now_at: datetime) -> dict[str, Any]:
    """Return what a crew gets when an order is taken from it."""
    return {
        "kind": "recall",
        "site_id": order.site_id,
        "order_id": order.order_id,
        "label": order.label,
        "version": order.version,
        "state": str(order.state),
        "crew_id": crew_id,
        "title": order.title,
        "why": why,
        "sent_at": now_at.isoformat(),
    }


def alarm_message(alarm: Alarm, reason: str, now_at: datetime) -> tuple[str, dict[str, Any]]:
    """Return subject and body of what operators get of an alarm."""
    summary = str(alarm.evidence.get("summary", ""))[:EVIDENCE_LENGTH_MAX]
    body = {
        "kind": "alarm",
        "site_id": alarm.site_id,
        "alarm_id": alarm.alarm_id,
        "alarm_type": alarm.alarm_type,
        "priority": str(alarm.priority),
        "asset_id": alarm.asset_id,
        "zone_id": alarm.zone_id,
        "occurred_at": alarm.occurred_at.isoformat(),
        "reason": reason,
        "evidence": summary,
        "sent_at": now_at.isoformat(),
    }
    return f"{alarm.priority.upper()} {alarm.alarm_type} at {alarm.asset_id}: {summary or reason}", body


def order_message(order: WorkOrder, reason: str, sentence: str, now_at: datetime) -> tuple[str, dict[str, Any]]:
    """Return subject and body of what operators get of an order."""
    body = {
        "kind": "order",
        "site_id": order.site_id,
        "order_id": order.order_id,
        "label": order.label,
        "state": str(order.state),
        "priority": str(order.priority),
        "title": order.title,
        "reason": reason,
        "sentence": sentence[:EVIDENCE_LENGTH_MAX],
        "sent_at": now_at.isoformat(),
    }
    return f"{order.label} {order.title}: {sentence or reason}", body


def with_link(body: Mapping[str, Any], link: str) -> dict[str, Any]:
    """Return a crew's card with the address of its page."""
    return {**body, "link": link}
