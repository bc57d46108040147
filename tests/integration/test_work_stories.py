"""Stories of the work side on a real database and a virtual clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from work_world import DAY, DONE_BODY, World, empty

from underway import desk
from underway.model import (
    AlarmCondition,
    AlarmState,
    AlarmSuppression,
    Candidate,
    FindingKind,
    FindingPhase,
    GuardError,
    IllegalTransitionError,
    OrderState,
    Role,
    VerificationOutcome,
)
from underway.store import work
from underway.store.connect import connect
from workorders.alarm_types import load_policy
from workorders.alarms import state_of

pytestmark = pytest.mark.integration

INFLOW = "zone/z1/inflow"
PRESSURE = "asset/jn-1/pressure"


@pytest.fixture(scope="module")
def shared_url(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    with new_database() as url:
        yield url


@pytest.fixture
def world(shared_url: str) -> Iterator[World]:
    """A new site in the module's database; in the end every row is what its event log says."""
    with connect(shared_url) as conn:
        empty(conn)
        yield World.build(conn)
        assert desk.differences(conn) == []


def burst(world: World) -> None:
    """A burst of 12 m3/h begins at 09:40 and is found at 10:00."""
    onset = DAY + timedelta(hours=9, minutes=40)
    for name, expected, sigma, unit in ((INFLOW, 40.0, 0.5, "m3/h"), (PRESSURE, 300.0, 2.0, "kPa")):
        world.feed(name, onset, 0.0, expected, sigma, unit)
    world.now_at = DAY + timedelta(hours=10)
    feed(world, 12.0, -6.0)
    world.finding()
    world.take()


def feed(world: World, excess: float, fall: float) -> None:
    world.feed(INFLOW, world.now_at, excess)
    world.feed(PRESSURE, world.now_at, fall, 300.0, 2.0, "kPa")


def live(world: World, hours: float, excess: float, fall: float = 0.0, step_min: float = 10) -> None:
    for _ in range(int(hours * 60 / step_min)):
        world.wait(step_min)
        feed(world, excess, fall)
        world.tick()


def test_story_burst_is_repaired_verified_and_closed(conn: psycopg.Connection[Any]) -> None:
    world = World.build(conn)  # on every server
    burst(world)
    order = world.order()
    assert (order.state, order.crew_id, order.priority) == (OrderState.DISPATCHED, "near", "urgent")
    assert [s["name"] for s in order.plan["signals"]] == [INFLOW]
    assert order.plan["pressures"]["names"] == [PRESSURE]
    done = world.work_through().order
    assert done.state is OrderState.VERIFYING
    live(world, 3, 0.2)
    order = world.order()
    assert "night window 02:00-04:00 still to come" in order.verification["sentence"]
    live(world, 15, 0.1)
    order = world.order()
    assert (order.state, order.outcome) == (OrderState.CLOSED, VerificationOutcome.PASS), order.verification
    assert world.log()[-1] == "pass"
    assert world.count("SELECT count(*) FROM hold WHERE released_at IS NULL") == 0
    assert world.count("SELECT count(*) FROM incident WHERE state = 'RESOLVED'") == 1
    lost = work.load_incident(conn, order.incident_id)
    assert lost is not None
    # 12 m3/h from 09:40, found at 10:00, done 87 minutes after that (the rows in between are written later, as repaired ones)
    assert lost.volume_lost_m3 == pytest.approx(4.0, abs=1.0)
    assert desk.differences(conn) == []


def test_story_backlog_counts_what_waits_and_what_is_due(world: World) -> None:
    burst(world)
    findings, waiting = work.backlog(world.conn, desk.READER)
    assert (findings, waiting > 0) == (0, True)
    assert work.backlog(world.conn, desk.READER, world.now_at) == (0, waiting)
    assert work.backlog(world.conn, desk.READER, world.now_at - timedelta(days=1)) == (0, 0)


def test_story_wrong_repair_fails_goes_back_and_passes(world: World) -> None:
    burst(world)
    world.work_through({**DONE_BODY, "asset_id": "p-8"})
    assert world.alarm().suppression is AlarmSuppression.NONE
    live(world, 2, 12.0, -6.0)
    order = world.order()
    assert (order.state, order.rework, order.outcome) == (OrderState.DISPATCHED, 1, VerificationOutcome.FAIL)
    assert "still there" in order.verification["sentence"]
    assert state_of(world.alarm()) is AlarmState.UNACK
    assert [e for e in world.log() if e in ("fail", "dispatch")] == ["dispatch", "fail", "dispatch"]
    world.work_through()
    live(world, 24, 0.0)
    order = world.order()
    assert (order.state, order.outcome, order.rework) == (OrderState.CLOSED, VerificationOutcome.PASS, 1)
    assert world.log("incident") == ["open", "investigate", "act", "verify", "located", "rework", "verify", "located", "resolve"]


def test_story_where_a_crew_looked_in_vain_is_less_likely_for_the_next_visit(world: World) -> None:
    burst(world)
    first, *others = [c["asset_id"] for c in world.order().location["candidates"]]
    world.work_through({**DONE_BODY, "find_code": "none_found", "asset_id": "dma:z1", "surveyed": [first]})
    live(world, 2, 12.0, -6.0)
    order = world.order()
    assert (order.state, order.rework) == (OrderState.DISPATCHED, 1)
    assert first in order.location["surveyed"]
    assert order.location["candidates"][0]["asset_id"] == others[0]
    # a later finding that insists does not send them back there
    world.finding(phase=FindingPhase.UPDATE, candidates=(Candidate(first, 0.7), Candidate(others[0], 0.3)))
    world.take()
    assert world.order().location["candidates"][0]["asset_id"] == others[0]


def test_story_after_too_many_failed_repairs_a_supervisor_decides(world: World) -> None:
    burst(world)
    for _ in range(5):
        world.work_through({**DONE_BODY, "asset_id": "p-8"})
        live(world, 2, 12.0, -6.0)
    order = world.order()
    assert (order.state, order.rework) == (OrderState.SCHEDULED, 5)
    last = work.last_event(world.conn, "order", order.order_id, ["no_crew"])
    assert last is not None
    assert last.note == "5 repairs did not help: a supervisor decides who goes and where"
    assert world.person_does("assign", {"crew_id": "near", "reason": "with the correlator"}).order.state is OrderState.DISPATCHED


def test_story_bridge_is_dispatched_and_verified(world: World) -> None:
    name = "asset/br-1/frequency"
    world.feed(name, DAY + timedelta(hours=5), 0.0, 3.2, 0.01, "Hz")
    world.now_at = DAY + timedelta(hours=6)
    world.feed(name, world.now_at, -0.15, 3.2, 0.01, "Hz")
    world.finding(FindingKind.BRIDGE_FREQUENCY_SHIFT, asset_id="br-1", zone_id="r1", observed=3.05, expected=3.2, unit="Hz")
    world.take()
    order = world.order()
    assert (order.state, order.crew_id, order.plan["signals"][0]["side"]) == (OrderState.DISPATCHED, "works", -1)
    world.work_through()
    assert world.alarm().suppression is AlarmSuppression.NONE  # a safety alarm is never suppressed
    assert "suppress" not in world.log("alarm")
    for _ in range(26):
        world.wait(60)
        world.feed(name, world.now_at, 0.0, 3.2, 0.01, "Hz")
        world.tick()
    assert world.order().outcome is VerificationOutcome.PASS, world.order().verification


def test_story_road_is_dispatched_and_verified_by_passes(world: World) -> None:
    name = "asset/rs-1/roughness"
    world.feed(name, DAY + timedelta(hours=5), 0.0, 2.5, 0.1, "m/km")
    world.now_at = DAY + timedelta(hours=6)
    world.feed(name, world.now_at, 1.5, 2.5, 0.1, "m/km")
    world.finding(FindingKind.ROAD_ROUGHNESS, asset_id="rs-1", zone_id="r1", observed=4.0, expected=2.5, unit="m/km")
    world.take()
    assert world.log() == ["open", "approve", "schedule", "dispatch"]
    world.work_through()
    for _ in range(6):
        world.wait(60)
        world.feed(name, world.now_at, 0.0, 2.5, 0.1, "m/km")
        world.tick()
    assert world.order().outcome is VerificationOutcome.PASS, world.order().verification


def test_story_self_cleared_untouched_order_cancels_itself(world: World) -> None:
    burst(world)
    world.wait(10)
    world.finding(phase=FindingPhase.CLEAR)
    assert [t.taken for t in world.take()] == [desk.Taken.DELAYED]
    world.wait(31)
    world.tick()
    assert world.order().state is OrderState.DISPATCHED, "no data newer than the off-delay: silence is not recovery"
    feed(world, 0.0, 0.0)
    world.tick()
    assert (world.order().state, world.log()[-1]) == (OrderState.CANCELLED, "self_cleared")
    assert state_of(world.alarm()) is AlarmState.RTNUN
    assert world.count("SELECT count(*) FROM hold WHERE released_at IS NULL") == 0
    assert world.count("SELECT count(*) FROM notification WHERE body ->> 'kind' = 'recall'") == 1
    world.alarm_act("ack")
    assert world.alarm().closed_at is not None


def test_story_self_cleared_touched_order_stays(world: World) -> None:
    burst(world)
    world.crew_does("accept")
    world.finding(phase=FindingPhase.CLEAR)
    world.take()
    world.wait(40)
    feed(world, 0.0, 0.0)
    world.tick()
    assert world.order().state is OrderState.ACCEPTED


def test_story_raise_during_off_delay_keeps_the_alarm(world: World) -> None:
    burst(world)
    world.finding(phase=FindingPhase.CLEAR)
    world.take()
    world.wait(10)
    world.finding(phase=FindingPhase.UPDATE)
    world.take()
    world.wait(40)
    feed(world, 12.0, -6.0)
    world.tick()
    assert state_of(world.alarm()) is AlarmState.UNACK


def test_story_historical_finding_is_dated_and_pages_nobody(world: World) -> None:
    world.finding(historical=True, onset_at=DAY - timedelta(days=5))
    assert [t.taken for t in world.take()] == [desk.Taken.DATED_ONLY]
    for table, rows in (("alarm", 0), ("work_order", 0), ("notification", 0), ("hold", 0), ("retro_alarm", 1)):
        assert world.count(f"SELECT count(*) FROM {table}") == rows, table


def test_story_finding_that_breaks_a_decision_costs_that_finding(world: World) -> None:
    policy = load_policy()
    broken = replace(policy, alarms={kind: rules for kind, rules in policy.alarms.items() if kind != FindingKind.METER_STUCK})
    world.finding(FindingKind.METER_STUCK, asset_id="rs-1", zone_id="r1")
    world.finding(FindingKind.BRIDGE_FREQUENCY_SHIFT, asset_id="br-1", zone_id="r1")
    taken = desk.take_new_findings(world.conn, world.now_at, policy=broken)
    assert [outcome.taken for _, outcome in taken] == ["set_aside", "moved"]
    assert world.take() == []


def test_story_silence_marks_the_alarm_and_never_clears_it(world: World) -> None:
    burst(world)
    world.wait(60 * 24)
    world.tick()
    alarm = world.alarm()
    assert (alarm.condition, state_of(alarm)) == (AlarmCondition.UNKNOWN, AlarmState.UNACK)
    assert alarm.evidence_stale_since is not None
    feed(world, 12.0, -6.0)
    world.wait(6)
    world.tick()
    assert world.alarm().condition is AlarmCondition.ACTIVE
    assert world.alarm().evidence_stale_since is None


def test_story_silence_after_done_is_inconclusive_then_a_person_waives(world: World) -> None:
    burst(world)
    world.work_through()
    for _ in range(30):
        world.wait(180)
        world.tick()
    order = world.order()
    assert (order.state, order.outcome) == (OrderState.VERIFYING, VerificationOutcome.INCONCLUSIVE)
    assert [e for e in world.log() if e in ("extend", "inconclusive")] == ["extend", "extend", "inconclusive"]
    with pytest.raises(GuardError, match="needs supervisor, got 'operator'; 'reason' must say why"):
        world.person_does("waive", role=Role.OPERATOR)
    closed = world.person_does("waive", {"reason": "looked at the dry pit myself"}).order
    assert (closed.state, closed.outcome) == (OrderState.CLOSED, VerificationOutcome.WAIVED)


def test_story_no_signal_needs_a_supervisor(world: World) -> None:
    world.finding(FindingKind.ROAD_FLOOD, asset_id="rs-1", zone_id="r1")
    world.take()
    world.work_through()
    assert world.order().state is OrderState.DONE
    assert world.person_does("sign_off", {"reason": "seen"}).order.outcome is VerificationOutcome.WAIVED


def test_story_declined_goes_to_the_next_crew_and_then_nobody(world: World) -> None:
    burst(world)
    world.crew_does("decline", {"reason": "pump broken"})
    order = world.order()
    assert (order.state, order.crew_id) == (OrderState.DISPATCHED, "far")
    world.crew_does("decline", {"reason": "flat tyre"})
    order = world.order()
    assert (order.state, order.crew_id, world.log()[-1]) == (OrderState.SCHEDULED, None, "no_crew")
    note = work.events_of(world.conn, "order", order.order_id)[-1].note
    assert "Near crew: was asked before: declined: pump broken" in note
    assert "Sleeping crew: is not on shift" in note
    world.wait(20)
    for _ in range(3):
        world.tick()
    assert world.log().count("no_crew") == 1, "told once"
    world.wait(60 * 8)
    world.tick()
    assert world.order().state is OrderState.DISPATCHED


def test_story_no_answer_goes_to_the_next_crew(world: World) -> None:
    burst(world)
    world.wait(46)
    world.tick()
    order = world.order()
    assert (order.state, order.crew_id) == (OrderState.DISPATCHED, "far")
    with pytest.raises(GuardError, match="crew 'near' is not assigned, 'far' is"):
        world.crew_does("accept", crew_id="near")


def test_story_same_action_again_changes_nothing_and_answers_the_same(world: World) -> None:
    burst(world)
    identity = uuid.uuid4()
    first = world.crew_does("accept", action_id=identity)
    world.crew_does("depart")
    again = world.crew_does("accept", action_id=identity)
    assert (again.order, again.events, again.replayed) == (first.order, first.events, True)
    assert world.log().count("accept") == 1


def test_story_done_again_answers_with_both_steps(world: World) -> None:
    burst(world)
    for event in ("accept", "arrive"):
        world.crew_does(event)
    identity = uuid.uuid4()
    first = world.crew_does("done", DONE_BODY, action_id=identity)
    again = world.crew_does("done", DONE_BODY, action_id=identity)
    assert [e.event for e in first.events] == ["done", "start_verification"]
    assert (again.order, again.events) == (first.order, first.events)


def test_story_conflict_becomes_a_review_item(world: World) -> None:
    burst(world)
    seen = world.order().version
    world.person_does("assign", {"crew_id": "far", "reason": "near is at lunch"}, Role.OPERATOR)
    identity = uuid.uuid4()
    result = world.crew_does("accept", crew_id="near", base_version=seen, action_id=identity)
    assert result.review_item is not None
    assert "was moved by ann" in result.review_item.problem
    assert world.order().crew_id == "far"
    assert world.crew_does("accept", crew_id="near", base_version=seen, action_id=identity).review_item == result.review_item
    assert world.count("SELECT count(*) FROM review_item") == 1


def test_story_offline_chain_with_one_base_version_is_no_conflict(world: World) -> None:
    burst(world)
    seen = world.order().version
    world.person_does("comment", {"note": "neighbour phoned"}, Role.OPERATOR)
    for event in ("accept", "depart", "arrive"):
        assert world.crew_does(event, base_version=seen).review_item is None
    done = world.crew_does("done", DONE_BODY, base_version=seen)
    assert done.order.state is OrderState.VERIFYING


def test_story_late_action_without_conflict_is_refused_with_what_is_allowed(world: World) -> None:
    burst(world)
    with pytest.raises(
        IllegalTransitionError, match=r"order WO-\d+ is 'DISPATCHED' and cannot 'done'; from 'DISPATCHED' allowed: receipt, accept"
    ):
        world.crew_does("done", DONE_BODY)


def test_story_second_alarm_of_the_zone_joins_incident_and_order(world: World) -> None:
    burst(world)
    world.finding(FindingKind.PRESSURE_LOW, asset_id="jn-1", zone_id="z1")
    world.take()
    assert world.count("SELECT count(*) FROM incident") == 1
    assert world.count("SELECT count(*) FROM work_order") == 1
    assert world.count("SELECT count(*) FROM alarm WHERE incident_id IS NOT NULL") == 2


def test_story_work_suppresses_and_counts_and_releases(world: World) -> None:
    burst(world)
    world.crew_does("accept")
    world.crew_does("arrive")
    assert state_of(world.alarm()) is AlarmState.DSUPR
    world.finding()
    world.take()
    assert (state_of(world.alarm()), world.alarm().occurrence) == (AlarmState.DSUPR, 2)
    world.crew_does("done", DONE_BODY)
    assert state_of(world.alarm()) is AlarmState.UNACK
    assert world.count("SELECT count(*) FROM notification WHERE recipient = 'role/operator' AND body ->> 'kind' = 'alarm'") == 1


def test_story_clear_during_verification_waits_for_the_verdict(world: World) -> None:
    burst(world)
    world.alarm_act("ack")
    world.work_through()
    world.alarm_act("ack")
    world.finding(phase=FindingPhase.CLEAR)
    world.take()
    world.wait(40)
    feed(world, 0.0, 0.0)
    world.tick()
    assert state_of(world.alarm()) is AlarmState.ACKED
    live(world, 20, 0.0)
    assert world.alarm().closed_at is not None
    assert world.log("alarm")[-1] == "clear"


def test_story_shelve_ends_by_timer_and_keeps_within_role_limit(world: World) -> None:
    burst(world)
    with pytest.raises(GuardError, match="role 'operator' may shelve for at most 8 h"):
        world.alarm_act("shelve", "hydrant test", until=world.now_at + timedelta(hours=9))
    world.alarm_act("shelve", "hydrant test", until=world.now_at + timedelta(hours=2))
    world.wait(121)
    feed(world, 12.0, -6.0)
    world.tick()
    assert state_of(world.alarm()) is AlarmState.SHLVD or world.alarm().alarm_id % 120 < 60
    world.wait(2)
    world.tick()
    assert state_of(world.alarm()) is AlarmState.UNACK


def test_story_sla_clocks_warn_once_and_breach(world: World) -> None:
    burst(world)
    for _ in range(30):
        world.wait(5)
        world.tick()
    clocks = {c.name: c for c in work.clocks_of(world.conn, world.order().order_id)}
    assert clocks["ack"].state == "BREACHED"
    assert clocks["on_site"].state == "BREACHED"
    assert world.count("SELECT count(*) FROM notification WHERE body ->> 'reason' = 'sla_breached'") == 2
    world.crew_does("accept")
    assert work.clocks_of(world.conn, world.order().order_id)[0].met_at == world.now_at


def test_story_update_refines_the_location_of_the_order(world: World) -> None:
    burst(world)
    assert world.order().location["candidates"][0]["asset_id"] == "p-7"
    world.finding(phase=FindingPhase.UPDATE, candidates=(Candidate("p-8", 0.9),))
    world.take()
    order = world.order()
    assert order.location["candidates"][0]["asset_id"] == "p-8"
    assert order.location["point"] == [5.021, 52.0]
    assert world.log()[-1] == "locate"


def test_story_cancel_before_work_only(world: World) -> None:
    burst(world)
    world.crew_does("accept")
    world.crew_does("arrive")
    with pytest.raises(IllegalTransitionError):
        world.person_does("cancel", {"reason": "false alarm"})
    world.crew_does("reschedule", {"reason": "next shift"})
    with pytest.raises(GuardError, match="work has begun"):
        world.person_does("cancel", {"reason": "false alarm"})
    world.finding(FindingKind.ROAD_FLOOD, asset_id="rs-1", zone_id="r1")
    world.take()
    assert world.person_does("cancel", {"reason": "it was a puddle"}, Role.OPERATOR).order.state is OrderState.CANCELLED
    assert world.count("SELECT count(*) FROM hold WHERE verdict = 'cancelled'") == 1


def test_story_same_pipe_again_names_the_order_that_did_not_last(world: World) -> None:
    burst(world)
    world.work_through()
    live(world, 22, 0.0)
    first = world.order()
    assert first.state is OrderState.CLOSED
    world.alarm_act("ack")
    world.finding()
    world.take()
    again = world.order()
    assert again.location["recurrence_of"] == first.label
    assert again.title.endswith(f"(again, see {first.label})")


@pytest.mark.parametrize("statement", ["UPDATE order_event SET reason = 'other'", "DELETE FROM order_event", "TRUNCATE order_event"])
def test_story_nobody_changes_the_event_log(world: World, statement: str) -> None:
    burst(world)
    with pytest.raises(psycopg.errors.RaiseException, match="the event log order_event only grows"):
        world.conn.execute(statement.encode())
    assert world.log()
