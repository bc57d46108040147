"""Stories of the work side on a real database and a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from work_world import DAY, World

from underway import desk
from underway.model import OrderState, VerificationOutcome

pytestmark = pytest.mark.integration

INFLOW = "zone/z1/inflow"
PRESSURE = "asset/jn-1/pressure"


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[World]:
    built = World.build(conn)
    yield built
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


def test_story_burst_is_repaired_verified_and_closed(world: World) -> None:
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
