from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from underway.model import (
    Alarm,
    AlarmAck,
    AlarmCondition,
    AlarmSuppression,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    OrderState,
    Priority,
    WorkOrder,
    to_us,
)
from workorders.alarm_types import load_policy
from workorders.alarms import AlarmEvent
from workorders.policy import OrderProposal, Route, candidates_of, location_moved, may_self_clear, propose, route

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
POLICY = load_policy()
BURST = POLICY.alarms["leak.burst"]
EVIDENCE = Evidence("s", 2.0, 1.0, 0.5, 1.5, "m3/h", 9.0, 5.0, "b")
FINDING = Finding(UUID(int=1), FindingKind.LEAK_BURST, FindingPhase.RAISE, "dma:z", "z", "d", "1", 2.0, to_us(NOON), to_us(NOON), EVIDENCE)
LIVE = Alarm(
    1, "s", "dma:z", "z", "leak.burst", Priority.URGENT, AlarmCondition.ACTIVE, AlarmAck.UNACKED, AlarmSuppression.NONE, NOON, NOON, NOON
)
RETURNED = replace(LIVE, condition=AlarmCondition.NORMAL, normal_at=NOON)
ORDER = WorkOrder(1, "s", 1, "dma:z", "z", "leak_repair", "t", Priority.URGENT, OrderState.NEW, "leak_repair", NOON, NOON)


@pytest.mark.parametrize(
    ("finding", "live", "on_delay_s", "expected"),
    [
        (FINDING, None, 0, (Route.ALARM, AlarmEvent.RAISE)),
        (FINDING, None, 60, (Route.DELAY, AlarmEvent.RAISE)),
        (FINDING, LIVE, 60, (Route.ALARM, AlarmEvent.RAISE)),
        (FINDING, RETURNED, 60, (Route.DELAY, AlarmEvent.RAISE)),
        (replace(FINDING, historical=True), None, 0, (Route.RECORD_ONLY, None)),
        (replace(FINDING, historical=True, phase=FindingPhase.CLEAR), LIVE, 0, (Route.RECORD_ONLY, None)),
        (replace(FINDING, phase=FindingPhase.UPDATE), LIVE, 0, (Route.ALARM, AlarmEvent.UPDATE)),
        (replace(FINDING, phase=FindingPhase.UPDATE), None, 0, (Route.IGNORE, None)),
        (replace(FINDING, phase=FindingPhase.CLEAR), LIVE, 0, (Route.DELAY, AlarmEvent.CLEAR)),
        (replace(FINDING, phase=FindingPhase.CLEAR), RETURNED, 0, (Route.IGNORE, None)),
        (replace(FINDING, phase=FindingPhase.CLEAR), None, 0, (Route.IGNORE, None)),
    ],
    ids=[
        "raise",
        "raise-delayed",
        "raise-again",
        "raise-returned",
        "historical-raise",
        "historical-clear",
        "update",
        "update-none",
        "clear",
        "clear-normal",
        "clear-none",
    ],
)
def test_route_finding(finding: Finding, live: Alarm | None, on_delay_s: float, expected: tuple[Route, AlarmEvent | None]) -> None:
    routed = route(finding, replace(BURST, on_delay_s=on_delay_s), live)
    assert (routed.route, routed.event) == expected


@pytest.mark.parametrize(
    ("kind", "open_order", "expected"),
    [
        ("leak.burst", None, OrderProposal.CREATE_AND_DISPATCH),
        ("road.roughness", None, OrderProposal.CREATE_AND_DISPATCH),
        ("leak.background", None, OrderProposal.CREATE_AND_ASK),
        ("pressure.low", None, OrderProposal.NONE),
        ("leak.burst", ORDER, OrderProposal.ATTACH),
    ],
)
def test_propose_order_by_policy(kind: str, open_order: WorkOrder | None, expected: OrderProposal) -> None:
    assert propose(POLICY.alarms[kind], POLICY.alarms[kind].priority, open_order) is expected


def test_self_clear_only_untouched_and_before_work() -> None:
    assert may_self_clear(ORDER)
    assert not may_self_clear(replace(ORDER, touched=True))
    assert not may_self_clear(replace(ORDER, state=OrderState.ACCEPTED))


def test_candidates_are_sorted_and_bad_ones_left_out() -> None:
    found = candidates_of(
        {"candidates": [{"asset_id": "a", "probability": 0.1}, {"asset_id": "b", "probability": 0.9}, {"probability": 1}, "x"]}
    )
    assert [c["asset_id"] for c in found] == ["b", "a"]
    assert candidates_of({"candidates": "no"}) == []


def test_location_moved_by_first_place_or_probability() -> None:
    old = {"candidates": [{"asset_id": "a", "probability": 0.5}]}
    assert not location_moved(old, [{"asset_id": "a", "probability": 0.52}])
    assert location_moved(old, [{"asset_id": "a", "probability": 0.6}])
    assert location_moved(old, [{"asset_id": "b", "probability": 0.5}])
    assert not location_moved(old, [])
