"""Many at once: one live alarm, one order, one accept; and a random walk in which the event logs rebuild every row."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from work_world import DAY, DONE_BODY, World

from underway import desk
from underway.model import (
    AlarmAck,
    AlarmCondition,
    AlarmSuppression,
    FindingKind,
    FindingPhase,
    GuardError,
    IllegalTransitionError,
    Priority,
    Role,
)
from underway.store import work
from underway.store.connect import connect
from workorders.orders import ORDER_TABLE

pytestmark = pytest.mark.integration

THREADS = 52
CONNECTIONS = 26
"""Half as many connections as threads: the embedded server takes 60."""


def at_once(url: str, act: Callable[[psycopg.Connection[Any], int], Any]) -> list[Any]:
    """Run `act` in many threads that start together; two threads a connection."""
    barrier, results = threading.Barrier(THREADS), []
    conns = [connect(url) for _ in range(CONNECTIONS)]
    locks = [threading.Lock() for _ in conns]

    def one(number: int) -> None:
        barrier.wait()
        with locks[number % CONNECTIONS]:
            try:
                results.append(act(conns[number % CONNECTIONS], number))
            except Exception as error:
                results.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for conn in conns:
        conn.close()
    return results


def test_index_many_inserts_at_once_one_live_alarm(conn: psycopg.Connection[Any], database_url: str) -> None:
    World.build(conn)
    columns: dict[str, Any] = {
        "site_id": "town",
        "asset_id": "dma:z1",
        "alarm_type": "leak.burst",
        "priority": Priority.URGENT,
        "condition": AlarmCondition.ACTIVE,
        "ack": AlarmAck.UNACKED,
        "suppression": AlarmSuppression.NONE,
        "occurred_at": DAY,
        "detected_at": DAY,
        "raised_at": DAY,
    }
    results = at_once(database_url, lambda c, _: work.insert(c, "alarm", columns))
    assert sum(r is not None for r in results) == 1
    assert not [r for r in results if isinstance(r, Exception)]


def test_desk_many_raises_at_once_one_alarm_one_order(conn: psycopg.Connection[Any], database_url: str) -> None:
    world = World.build(conn)
    findings = [world.finding() for _ in range(THREADS)]
    results = at_once(database_url, lambda c, n: desk.take_finding(c, findings[n], DAY))
    assert [r for r in results if not isinstance(r, desk.TakenFinding)] == []
    assert world.count("SELECT count(*) FROM alarm") == 1
    assert world.alarm().occurrence == THREADS
    assert world.count("SELECT count(*) FROM work_order") == 1
    assert world.count("SELECT count(*) FROM incident") == 1
    assert world.count("SELECT count(*) FROM notification WHERE recipient = 'crew/near'") == 1
    assert desk.differences(conn) == []


def test_desk_same_action_many_times_at_once_is_taken_once(conn: psycopg.Connection[Any], database_url: str) -> None:
    world = World.build(conn)
    world.finding()
    world.take()
    order_id, action_id = world.order().order_id, uuid.uuid4()
    results = at_once(
        database_url,
        lambda c, _: desk.act_on_order(c, order_id, "accept", "crew/near", Role.CREW, action_id, None, DAY, {}, DAY + timedelta(minutes=1)),
    )
    assert sum(not r.replayed for r in results) == 1
    assert {r.order.version for r in results} == {results[0].order.version}
    assert world.log().count("accept") == 1


def test_cursor_many_workers_at_once_take_each_finding_once(conn: psycopg.Connection[Any], database_url: str) -> None:
    world = World.build(conn)
    for _ in range(40):
        world.finding()
    at_once(database_url, lambda c, _: desk.take_new_findings(c, DAY))
    assert world.alarm().occurrence == 40


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_desk_random_walk_keeps_rows_and_logs_equal(new_database: Callable[[], AbstractContextManager[str]], seed: int) -> None:
    rng = random.Random(seed)
    with new_database() as url, connect(url) as conn:
        world = World.build(conn)
        made = 0
        for _ in range(150):
            world.wait(rng.choice((1, 10, 45, 200)))
            what = rng.random()
            try:
                if what < 0.15:
                    kind, asset, zone = rng.choice(
                        (
                            (FindingKind.LEAK_BURST, "dma:z1", "z1"),
                            (FindingKind.PRESSURE_LOW, "jn-1", "z1"),
                            (FindingKind.BRIDGE_FREQUENCY_SHIFT, "br-1", "r1"),
                            (FindingKind.METER_STUCK, "jn-1", "z1"),
                        )
                    )
                    world.finding(kind, rng.choice(list(FindingPhase)), asset, zone, historical=rng.random() < 0.1)
                    world.take()
                elif what < 0.3:
                    world.feed("zone/z1/inflow", world.now_at, rng.choice((0.0, 12.0)))
                elif what < 0.4 and (live := work.live_alarms(conn, "town")):
                    alarm, role = rng.choice(live), rng.choice(list(Role))
                    event = rng.choice(sorted(desk.PEOPLE_ALARM_EVENTS))
                    known: dict[str, Any] = {"reference": "P-1", "second_person": "bo", "test_ok": True, "now_at": world.now_at}
                    desk.act_on_alarm(conn, alarm.alarm_id, event, "olga", role, "why", world.now_at + timedelta(hours=2), **known)
                    made += 1
                elif what < 0.9 and work.subjects(conn, "order"):
                    order = world.order(rng.choice(work.subjects(conn, "order")))
                    allowed = [e for e in ORDER_TABLE.allowed(order.state) if e in desk.PEOPLE_ORDER_EVENTS]
                    event = (
                        rng.choice(allowed or ["accept"])
                        if rng.random() < 0.8
                        else rng.choice([*sorted(desk.PEOPLE_ORDER_EVENTS), "assign"])
                    )
                    role = rng.choice((Role.CREW, Role.CREW, Role.OPERATOR, Role.SUPERVISOR))
                    body = {**DONE_BODY, "reason": "why", "crew_id": rng.choice(("near", "far", "works")), "waiting_reason": "MATERIAL"}
                    base = rng.choice((None, order.version, max(order.version - 3, 1)))
                    desk.act_on_order(
                        conn, order.order_id, event, f"crew/{order.crew_id}", role, uuid.uuid4(), base, world.now_at, body, world.now_at
                    )
                    made += 1
                else:
                    world.tick()
            except (IllegalTransitionError, GuardError):
                continue
        assert made > 5
        assert desk.differences(conn) == []
        twice = "SELECT FROM alarm WHERE closed_at IS NULL GROUP BY site_id, asset_id, alarm_type HAVING count(*) > 1"
        assert world.count(f"SELECT count(*) FROM ({twice})") == 0
        ended = "a.ended_at IS NULL AND w.state IN ('DONE', 'VERIFYING', 'CLOSED', 'CANCELLED')"
        assert world.count(f"SELECT count(*) FROM assignment a JOIN work_order w USING (order_id) WHERE {ended}") == 0
        orphans = "released_at IS NULL AND NOT EXISTS (SELECT FROM alarm a WHERE a.asset_id = hold.asset_id)"
        assert world.count(f"SELECT count(*) FROM hold WHERE {orphans}") == 0


def test_tick_behind_many_open_orders_the_newest_has_its_turn_too(conn: psycopg.Connection[Any]) -> None:
    world = World.build(conn)
    many = work.LIST_MAX + 5
    conn.execute(
        "INSERT INTO incident (incident_id, site_id, zone_id, kind, title, state, aware_at)"
        " SELECT n, 'town', 'z1', 'leak', 'Leak', 'OPEN', %s FROM generate_series(1, %s) n",
        (DAY, many),
    )
    conn.execute(
        "INSERT INTO work_order (site_id, incident_id, asset_id, zone_id, order_type, title, priority, state, required_skill, created_at, aware_at)"
        " SELECT 'town', n, 'dma:z1', 'z1', 'leak_repair', 'Repair leak', 'high', 'APPROVED',"
        " CASE WHEN n = %(last)s THEN 'leak_repair' ELSE 'diving' END, %(at)s, %(at)s FROM generate_series(1, %(last)s) n ORDER BY n",
        {"last": many, "at": DAY},
    )
    conn.execute(
        "INSERT INTO sla_clock (order_id, name, state, started_at, due_at) SELECT order_id, 'on_site', 'RUNNING', %s, %s FROM work_order",
        (DAY, DAY + timedelta(minutes=1)),
    )
    desk.tick(conn, DAY + timedelta(minutes=2), memory=world.memory)
    newest = conn.execute("SELECT state FROM work_order ORDER BY order_id DESC LIMIT 1").fetchone()
    assert newest == ("DISPATCHED",)
    late = conn.execute("SELECT count(*) FROM sla_clock WHERE state = 'BREACHED'").fetchone()
    assert late == (many,)
