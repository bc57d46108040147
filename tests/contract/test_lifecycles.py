"""Laws of the three lifecycles, checked on every row and on random sequences of events."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underway.model import (
    Alarm,
    AlarmAck,
    AlarmCondition,
    AlarmState,
    AlarmSuppression,
    GuardError,
    IllegalTransitionError,
    IncidentState,
    OrderState,
    Priority,
    Role,
    VerificationOutcome,
    WorkOrder,
)
from workorders import alarms, incidents, orders, pictures
from workorders.alarms import ALARM_TABLE, AlarmContext, AlarmEvent, state_from
from workorders.incidents import INCIDENT_TABLE, IncidentContext, IncidentEvent
from workorders.lifecycle import Table
from workorders.orders import ORDER_TABLE, OrderContext, OrderEvent

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
TABLES = [pytest.param(t, id=t.name) for t in (ALARM_TABLE, INCIDENT_TABLE, ORDER_TABLE)]
AnyTable = Table[Any, Any, Any]


# -- every table -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_table_every_state_is_reachable(table: AnyTable) -> None:
    reached, before = {table.initial}, set()
    while reached != before:
        before = set(reached)
        reached |= {row.to for row in table.transitions if row.to is not None and reached & set(row.from_states)}
    assert reached == set(table.states)


@pytest.mark.parametrize("table", TABLES)
def test_table_terminal_states_allow_nothing(table: AnyTable) -> None:
    assert all(table.allowed(state) == () for state in table.terminal)
    assert all(table.allowed(state) for state in table.states if state not in table.terminal)


@pytest.mark.parametrize("table", TABLES)
def test_table_several_rows_of_one_event_all_say_when(table: AnyTable) -> None:
    for state, event in itertools.product(table.states, {row.event for row in table.transitions}):
        rows = table.rows(state, event)
        if len(rows) > 1:
            assert all(row.when is not None for row in rows), (state, event)


@pytest.mark.parametrize("table", TABLES)
def test_table_illegal_event_names_what_is_allowed(table: AnyTable) -> None:
    with pytest.raises(IllegalTransitionError) as caught:
        table.step("thing 1", table.initial, "no such event", None)
    assert caught.value.allowed == table.allowed(table.initial)


def test_docs_lifecycles_are_drawn_from_the_tables() -> None:
    page = Path(__file__).parents[2] / "docs" / "lifecycles.md"
    assert page.read_text("utf-8") == pictures.render(), "run: python -m workorders.pictures > docs/lifecycles.md"


def test_tables_hold_every_transition_of_the_specification() -> None:
    labels = {row.label for row in ALARM_TABLE.transitions}
    assert {f"T{n}" for n in range(1, 15) if n != 9} | {"T9a", "T9b"} <= labels
    specified = {
        "NEW": {"APPROVED", "CANCELLED", "DISPATCHED"},
        "APPROVED": {"SCHEDULED", "CANCELLED"},
        "SCHEDULED": {"DISPATCHED", "APPROVED", "CANCELLED"},
        "DISPATCHED": {"ACCEPTED", "SCHEDULED", "CANCELLED"},
        "ACCEPTED": {"EN_ROUTE", "IN_PROGRESS", "SCHEDULED"},
        "EN_ROUTE": {"IN_PROGRESS", "SCHEDULED"},
        "IN_PROGRESS": {"WAITING", "DONE", "SCHEDULED"},
        "WAITING": {"IN_PROGRESS", "SCHEDULED"},
        "DONE": {"VERIFYING", "CLOSED", "SCHEDULED"},
        "VERIFYING": {"CLOSED", "IN_PROGRESS", "SCHEDULED"},
        "CLOSED": set(),
        "CANCELLED": set(),
    }
    ours = {
        str(state): {str(row.to) for row in ORDER_TABLE.transitions if state in row.from_states and row.to not in (None, state)}
        for state in OrderState
    }
    # DONE -> SCHEDULED is ours: a supervisor who sees at once that it is not done does not have to wait for verification
    assert ours == specified


# -- alarms ------------------------------------------------------------------------------------------------------------------------------


def alarm(condition: AlarmCondition, ack: AlarmAck, suppression: AlarmSuppression, normal_at: datetime | None = None) -> Alarm:
    return Alarm(1, "s", "a", "z", "leak.burst", Priority.URGENT, condition, ack, suppression, NOON, NOON, NOON, normal_at=normal_at)


ALL_FACTS = [
    (condition, ack, suppression, normal_at)
    for condition, ack, suppression in itertools.product(AlarmCondition, AlarmAck, AlarmSuppression)
    for normal_at in ((NOON,) if condition is AlarmCondition.NORMAL else (None,) if condition is AlarmCondition.ACTIVE else (None, NOON))
]


def generous(live: Alarm | None, **known: Any) -> AlarmContext:
    """A context in which every guard is met for the right role."""
    facts: dict[str, Any] = {
        "alarm": live,
        "now_at": NOON + timedelta(hours=1),
        "actor": "ann",
        "reason": "because",
        "shelve_until": NOON + timedelta(hours=3),
        "rule": "WO-1",
        "reference": "WO-1",
        "second_person": "bob",
        "test_ok": True,
    }
    return AlarmContext(**{**facts, **known})


@pytest.mark.parametrize("row", ALARM_TABLE.transitions, ids=lambda r: f"{r.label} {r.when.says if r.when else ''}".strip())
def test_alarm_row_changes_facts_so_that_the_derived_state_is_its_to(row: Any) -> None:
    seen = 0
    for facts in ALL_FACTS:
        live = alarm(*facts)
        if alarms.state_of(live) not in row.from_states:
            continue
        for role, realarm_s in itertools.product((None, *Role), (0.0, 1e9)):
            try:
                step, changes = alarms.decide(generous(live, role=role, realarm_s=realarm_s), row.event, "alarm 1")
            except GuardError:
                continue
            if step.transition is row:
                seen += 1
                assert alarms.state_of(dataclasses.replace(live, **changes)) is step.to_state
    assert seen or row.from_states == (AlarmState.NORM,)


def test_alarm_state_every_combination_of_facts_has_one() -> None:
    for condition, ack, suppression, normal_at in ALL_FACTS:
        assert alarms.state_of(alarm(condition, ack, suppression, normal_at)) in set(AlarmState)
    assert state_from(AlarmCondition.ACTIVE, AlarmAck.UNACKED, AlarmSuppression.SHELVED) is AlarmState.SHLVD


alarm_contexts = st.fixed_dictionaries(
    {
        "role": st.sampled_from([None, *Role]),
        "historical": st.booleans(),
        "on_delay_met": st.booleans(),
        "off_delay_met": st.booleans(),
        "quality_good": st.booleans(),
        "evidence_fresh": st.booleans(),
        "verification_pending": st.booleans(),
        "realarm_s": st.sampled_from([0.0, 1e9]),
        "shelvable": st.booleans(),
        "safety": st.booleans(),
        "reason": st.sampled_from(["", "because"]),
        "test_ok": st.booleans(),
        "rule": st.sampled_from(["", "WO-1"]),
        "reference": st.sampled_from(["", "WO-1"]),
        "second_person": st.sampled_from(["", "ann", "bob"]),
        "minutes": st.integers(1, 600),
    }
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(AlarmEvent)), alarm_contexts), max_size=40))
def test_alarm_random_events_keep_the_invariants(sequence: list[tuple[AlarmEvent, Mapping[str, Any]]]) -> None:
    live: Alarm | None = None
    now_at = NOON
    for event, drawn in sequence:
        known = dict(drawn)
        now_at += timedelta(minutes=known.pop("minutes"))
        context = AlarmContext(alarm=live, now_at=now_at, actor="ann", shelve_until=now_at + timedelta(hours=2), **known)
        before = alarms.state_of(live)
        try:
            step, changes = alarms.decide(context, event, "alarm 1")
        except (IllegalTransitionError, GuardError):
            continue
        if live is None:
            fresh = alarm(AlarmCondition.NORMAL, AlarmAck.ACKED, AlarmSuppression.NONE, now_at)
            moved = dataclasses.replace(fresh, **changes)
        else:
            moved = dataclasses.replace(live, **changes)
        assert alarms.state_of(moved) is step.to_state
        assert (moved.closed_at is not None) == (step.to_state is AlarmState.NORM), "NORM and closed are the same"
        if event is AlarmEvent.RAISE:
            assert not context.historical, "historical data never reach T1"
            assert context.on_delay_met
        if live is not None and live.condition is AlarmCondition.UNKNOWN:
            assert event is not AlarmEvent.CLEAR, "unknown never clears"
        if event in (AlarmEvent.SHELVE, AlarmEvent.SUPPRESS, AlarmEvent.OUT_OF_SERVICE) and live is not None:
            assert moved.ack is live.ack, "an acknowledgement is not lost by a shelve"
            assert moved.condition is live.condition
        if event is AlarmEvent.DATA_STOPPED:
            assert step.to_state is before, "missing data move nothing"
        if event is AlarmEvent.SUPPRESS:
            assert not context.safety
        if event is AlarmEvent.SHELVE:
            assert context.role in (Role.OPERATOR, Role.SUPERVISOR, Role.ENGINEER)
        live = None if moved.closed_at is not None else moved


# -- orders ------------------------------------------------------------------------------------------------------------------------------


ORDER = WorkOrder(1, "s", 1, "a", "z", "leak_repair", "t", Priority.URGENT, OrderState.NEW, "leak_repair", NOON, NOON)
CHECKLIST = ("traffic_safe", "isolated")
BODIES: list[dict[str, Any]] = [
    {},
    {"reason": "because"},
    {"waiting_reason": "MATERIAL"},
    {"waiting_reason": "LUNCH"},
    {"find_code": "leak_found", "problem": "P", "cause": "C", "remedy": "R", "checklist": {"traffic_safe": True}},
    {"find_code": "leak_found", "problem": "P", "cause": "C", "remedy": "R", "checklist": dict.fromkeys(CHECKLIST, True)},
    {"find_code": "leak_found", "problem": "P", "cause": "C", "remedy": "R", "checklist": dict.fromkeys(CHECKLIST, True), "staying": True},
]
order_steps = st.tuples(
    st.sampled_from(list(OrderEvent)),
    st.sampled_from([None, *Role]),
    st.sampled_from(["c1", "c2"]),
    st.sampled_from(BODIES),
    st.sampled_from([None, *VerificationOutcome]),
    st.sampled_from([None, {}, {"signals": [{"name": "s"}]}]),
)
# the way to the end, so that random walks come far: each is tried now and then in place of a random step
ROAD: list[tuple[Any, ...]] = [
    (OrderEvent.DISPATCH, None, "c1", {}, None, {"signals": [{"name": "s"}]}),
    (OrderEvent.ACCEPT, Role.CREW, "c1", {}, None, None),
    (OrderEvent.ARRIVE, Role.CREW, "c1", {}, None, None),
    (OrderEvent.DONE, Role.CREW, "c1", BODIES[5], None, None),
    (OrderEvent.START_VERIFICATION, None, "c1", {}, None, None),
    (OrderEvent.FAIL, None, "c1", {}, VerificationOutcome.FAIL, None),
    (OrderEvent.PASS, None, "c1", {}, VerificationOutcome.PASS, None),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(order_steps, st.sampled_from(ROAD)), max_size=60))
def test_order_random_events_keep_the_invariants(sequence: list[tuple[Any, ...]]) -> None:
    order, now_at, work_began, extensions = ORDER, NOON, False, 0
    for event, role, crew_id, body, outcome, plan in sequence:
        now_at += timedelta(minutes=5)
        context = OrderContext(
            order, now_at, None, role, "ann", crew_id, body, chosen_crew_id=crew_id, plan=plan, outcome=outcome, checklist=CHECKLIST
        )
        try:
            step, changes = orders.decide(context, event)
        except (IllegalTransitionError, GuardError):
            continue
        assert order.state not in (OrderState.CLOSED, OrderState.CANCELLED), "the end is immutable"
        moved = dataclasses.replace(order, **changes)
        assert moved.state is step.to_state
        work_began = work_began or moved.state is OrderState.IN_PROGRESS
        extensions += event is OrderEvent.EXTEND
        if moved.state is OrderState.CANCELLED:
            assert not work_began, "Maximo: no cancel once work began"
        if moved.state is OrderState.CLOSED:
            assert moved.outcome in (VerificationOutcome.PASS, VerificationOutcome.WAIVED)
            assert moved.closed_at == now_at
            if moved.outcome is VerificationOutcome.WAIVED:
                assert role is Role.SUPERVISOR
                assert body.get("reason")
        if moved.state is OrderState.DONE and order.state is not OrderState.DONE:
            assert all(moved.report["checklist"][item] is True for item in CHECKLIST)
            assert moved.report["find_code"]
        if moved.state is OrderState.DISPATCHED:
            assert moved.crew_id is not None
        if moved.state is OrderState.WAITING:
            assert moved.waiting_reason is not None
        else:
            assert moved.waiting_reason is None
        if role is Role.CREW and event is not OrderEvent.COMMENT:
            assert crew_id == order.crew_id, "a crew moves only its own order"
        assert moved.rework - order.rework == (event in (OrderEvent.FAIL, OrderEvent.REJECT))
        assert (
            extensions <= orders.EXTENSIONS_MAX
            or event is not OrderEvent.EXTEND
            or moved.verification["extensions"] <= orders.EXTENSIONS_MAX
        )
        assert moved.touched or not order.touched
        order = moved


def test_order_emergency_only_urgent_skips_approval() -> None:
    high = dataclasses.replace(ORDER, priority=Priority.HIGH)
    context = OrderContext(high, NOON, chosen_crew_id="c1", plan={})
    with pytest.raises(GuardError, match=r"^order WO-1 cannot 'dispatch' yet: only urgent orders skip approval, this one is high$"):
        orders.decide(context, OrderEvent.DISPATCH)


def test_order_done_lists_everything_that_is_missing() -> None:
    busy = dataclasses.replace(ORDER, state=OrderState.IN_PROGRESS, crew_id="c1")
    with pytest.raises(GuardError) as caught:
        orders.decide(OrderContext(busy, NOON, None, Role.CREW, "crew/c1", "c1", {}, checklist=CHECKLIST), OrderEvent.DONE)
    assert len(caught.value.unmet) == 5
    assert "checklist items not ticked: traffic_safe, isolated" in caught.value.unmet


# -- incidents ---------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(IncidentEvent)), st.integers(0, 1), st.integers(0, 1)), max_size=30))
def test_incident_random_events_keep_the_invariants(sequence: list[tuple[IncidentEvent, int, int]]) -> None:
    state, row = IncidentState.OPEN, {"resolved_at": None, "restored_at": None}
    for event, open_orders, active in sequence:
        context = IncidentContext(NOON, open_orders, active)
        try:
            step = INCIDENT_TABLE.step("incident 1", state, event, context)
        except (IllegalTransitionError, GuardError):
            continue
        assert row["resolved_at"] is None, "a resolved incident is immutable"
        row.update(incidents.changes_of(context, step))
        state = step.to_state
        assert (row["resolved_at"] is not None) == (state in INCIDENT_TABLE.terminal)
        if state in INCIDENT_TABLE.terminal:
            assert open_orders == 0
        if state is IncidentState.FALSE_ALARM:
            assert active == 0
