"""SLA clocks in event time: they start when somebody could have known, not when we were told.

Notes
-----
``aware_at`` is the earlier of when the condition began (as far as we can tell) and when it was detected, so data that come late can
make us worse, honestly. The repair clock may pause for the listed waiting reasons; ``ack`` and ``on_site`` are risk clocks and never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from underway.model import Priority, SlaClock, SlaState
from workorders.alarm_types import SlaTarget
from workorders.orders import OrderEvent

WARN_PCT = (50, 80)


class ClockName(StrEnum):
    """The clocks of an order."""

    ACK = "ack"
    ON_SITE = "on_site"


MET_BY: Mapping[ClockName, frozenset[OrderEvent]] = {
    # the first person who answers: the crew that accepts; an operator who acknowledges the alarm stops it too (see the desk)
    ClockName.ACK: frozenset({OrderEvent.ACCEPT}),
    ClockName.ON_SITE: frozenset({OrderEvent.ARRIVE}),
}
"""Which order event stops which clock."""

PAUSABLE: frozenset[ClockName] = frozenset()
"""Clocks that WAITING may pause: none of these two, both measure risk."""


@dataclass(frozen=True, slots=True)
class Warn:
    """A share of a clock's time is used; 100 is a breach."""

    order_id: int
    clock: str
    used_pct: int


def aware_at(occurred_at: datetime, detected_at: datetime) -> datetime:
    """Return the earlier of onset and detection."""
    return min(occurred_at, detected_at)


def open_clocks(order_id: int, priority: Priority, started_at: datetime, targets: Mapping[Priority, SlaTarget]) -> tuple[SlaClock, ...]:
    """Return the running clocks of a new order, due by its priority."""
    target = targets[priority]
    minutes = {ClockName.ACK: target.ack_min, ClockName.ON_SITE: target.on_site_min}
    return tuple(
        SlaClock(order_id, name, SlaState.RUNNING, started_at, started_at + timedelta(minutes=amount)) for name, amount in minutes.items()
    )


def due_at(clock: SlaClock) -> datetime:
    """Return when the clock is due, its pauses added."""
    return clock.due_at + timedelta(seconds=clock.paused_s)


def meet(clock: SlaClock, at: datetime) -> SlaClock:
    """Return the clock stopped at an event time: MET, or BREACHED when that was too late; a stopped clock stays as it is."""
    if clock.met_at is not None:
        return clock
    return replace(clock, met_at=at, state=SlaState.MET if at <= due_at(clock) else SlaState.BREACHED)


def pause(clock: SlaClock) -> SlaClock:
    """Return the clock paused, if it runs and its name may pause."""
    return replace(clock, state=SlaState.PAUSED) if clock.state is SlaState.RUNNING and clock.name in PAUSABLE else clock


def resume(clock: SlaClock, paused_s: float) -> SlaClock:
    """Return the clock running again, due `paused_s` seconds later."""
    return replace(clock, state=SlaState.RUNNING, paused_s=clock.paused_s + paused_s) if clock.state is SlaState.PAUSED else clock


def look(clock: SlaClock, now_at: datetime) -> tuple[SlaClock, Warn | None]:
    """Return the clock at `now_at`, and what to warn of: each of 50, 80 and 100 % once, only the highest that is new.

    Examples
    --------
    >>> from datetime import UTC
    >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    >>> clock = SlaClock(1, "ack", SlaState.RUNNING, noon, noon + timedelta(minutes=10))
    >>> look(clock, noon + timedelta(minutes=9))[1]
    Warn(order_id=1, clock='ack', used_pct=80)
    >>> look(clock, noon + timedelta(minutes=11))[0].state.value
    'BREACHED'
    """
    if clock.state is not SlaState.RUNNING:
        return clock, None
    total_s = (clock.due_at - clock.started_at).total_seconds()
    used_pct = 100 * ((now_at - clock.started_at).total_seconds() - clock.paused_s) / total_s if total_s > 0 else 100
    if now_at > due_at(clock):
        return replace(clock, state=SlaState.BREACHED, warned_pct=100), Warn(clock.order_id, clock.name, 100)
    reached = max((pct for pct in WARN_PCT if pct <= used_pct), default=0)
    if reached <= clock.warned_pct:
        return clock, None
    return replace(clock, warned_pct=reached), Warn(clock.order_id, clock.name, reached)
