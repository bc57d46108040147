from __future__ import annotations

from datetime import UTC, datetime, timedelta

from underway.model import Priority, SlaClock, SlaState
from workorders import sla
from workorders.alarm_types import load_policy

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def minutes(n: float) -> datetime:
    return NOON + timedelta(minutes=n)


def clock(name: str = "ack") -> SlaClock:
    return SlaClock(1, name, SlaState.RUNNING, NOON, minutes(100))


def test_clocks_open_from_aware_at_by_priority() -> None:
    clocks = {c.name: c for c in sla.open_clocks(7, Priority.URGENT, NOON, load_policy().sla)}
    assert (clocks["ack"].due_at, clocks["on_site"].due_at) == (minutes(15), minutes(120))


def test_aware_at_is_the_earlier_one() -> None:
    assert sla.aware_at(minutes(3), NOON) == NOON


def test_meet_in_time_is_met_and_late_is_breached_and_first_counts() -> None:
    assert sla.meet(clock(), minutes(100)).state is SlaState.MET
    assert sla.meet(clock(), minutes(101)).state is SlaState.BREACHED
    assert sla.meet(sla.meet(clock(), minutes(5)), minutes(500)).met_at == minutes(5)


def test_look_warns_once_at_50_and_80_and_breach() -> None:
    now, warned = clock(), []
    for minute in range(0, 130, 5):
        now, warn = sla.look(now, minutes(minute))
        warned += [] if warn is None else [(minute, warn.used_pct)]
    assert warned == [(50, 50), (80, 80), (105, 100)]
    assert now.state is SlaState.BREACHED


def test_look_after_a_long_gap_warns_only_of_the_highest() -> None:
    assert sla.look(clock(), minutes(90))[1] == sla.Warn(1, "ack", 80)


def test_pause_risk_clocks_do_not_pause() -> None:
    assert sla.pause(clock()) == clock()


def test_resume_paused_clock_is_due_later() -> None:
    paused = SlaClock(1, "repair", SlaState.PAUSED, NOON, minutes(100))
    assert sla.due_at(sla.resume(paused, 600)) == minutes(110)
