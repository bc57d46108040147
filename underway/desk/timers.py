"""What time does: delays, shelves, dispatch again, no answer, SLA clocks, verification, missing data. All in the time that is passed in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from psycopg import Connection

from underway.desk import outbox
from underway.desk.findings import end_delay
from underway.desk.moves import Desk, Who, transaction
from underway.model import (
    AlarmCondition,
    AlarmSuppression,
    GuardError,
    IllegalTransitionError,
    OrderState,
    Priority,
    SlaState,
    VerificationOutcome,
)
from underway.store import work
from underway.store.connect import NOT_THE_DATA
from workorders import alarms, sla
from workorders.alarm_types import OrderPolicy, Policy
from workorders.alarms import AlarmEvent, AlarmReason
from workorders.orders import OrderEvent

EVALUATE_EVERY = timedelta(minutes=2)
PROGRESS_EVERY = timedelta(minutes=30)
WATCH_EVERY = timedelta(minutes=5)
SHELVES_A_TICK = 20
TIMED_STATES = (OrderState.APPROVED, OrderState.SCHEDULED, OrderState.DISPATCHED, OrderState.VERIFYING)
"""States of an order in which time alone can move it."""

T = TypeVar("T")


log = logging.getLogger("underway.desk")
BROKEN_MAX = 1_000


@dataclass(slots=True)
class Memory:
    """What the loop remembers between ticks so that idle ticks are cheap; losing it costs nothing but a look."""

    evaluated_at: dict[int, datetime] = field(default_factory=dict)
    watched_at: dict[str, datetime] = field(default_factory=dict)
    broken: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class TickReport:
    """How often each timer did something; ``refused`` are moves that a table did not allow when their turn came, ``broken`` faults of ours."""

    counts: Mapping[str, int]

    def __bool__(self) -> bool:
        return any(self.counts.values())


def tick(conn: Connection[Any], now_at: datetime, *, policy: Policy | None = None, memory: Memory | None = None) -> TickReport:
    """Do everything whose time has come, in every site; each step is one transaction.

    Parameters
    ----------
    memory : Memory or None
        Kept by a loop between its ticks; None looks at everything.
    """
    counts: Counter[str] = Counter()
    remembered = memory or Memory()
    for site_id in work.sites(conn):
        _Tick(conn, site_id, now_at, policy, remembered, counts).run()
    return TickReport(dict(counts))


@dataclass(slots=True)
class _Tick:
    conn: Connection[Any]
    site_id: str
    now_at: datetime
    policy: Policy | None
    memory: Memory
    counts: Counter[str]

    def run(self) -> None:
        self._watch()
        self._each("delay", work.due_delays(self.conn, self.site_id, self.now_at), self._delay)
        due = [a for a in work.shelved_alarms(self.conn, self.site_id, self.now_at) if self._shelf_over(a.alarm_id, a.shelved_until)]
        self._each("shelf", [a.alarm_id for a in due[:SHELVES_A_TICK]], self._shelf)
        by_state: dict[OrderState, list[int]] = {}
        for order in self._all(lambda after: work.orders_in(self.conn, self.site_id, TIMED_STATES, after), lambda order: order.order_id):
            by_state.setdefault(order.state, []).append(order.order_id)
        self._each("no_receipt", by_state.get(OrderState.DISPATCHED, []), self._no_receipt)
        self._each("dispatch", [*by_state.get(OrderState.APPROVED, []), *by_state.get(OrderState.SCHEDULED, [])], self._dispatch)
        self._each("verification", [o for o in by_state.get(OrderState.VERIFYING, []) if self._evaluate_now(o)], self._verify)
        running = self._all(lambda after: work.orders_with_running_clocks(self.conn, self.site_id, after), lambda order_id: order_id)
        self._each("sla", list(running), self._sla)

    def _all(self, page: Callable[[int], Sequence[T]], key: Callable[[T], int]) -> Iterator[T]:
        """Go through everything that there is, a page at a time: however many stand before it, the newest has its turn too."""
        after = 0
        while found := page(after):
            yield from found
            after = key(found[-1])

    def _each(self, what: str, subjects: Iterable[T], act: Callable[[Desk, T], bool]) -> None:
        for subject in subjects:
            try:
                with transaction(self.conn, self.site_id, self.now_at, self.policy) as desk:
                    self.counts[what] += act(desk, subject)
            except (GuardError, IllegalTransitionError):
                self.counts["refused"] += 1  # somebody moved it between our look and our lock; the next tick looks again
            except NOT_THE_DATA:
                raise
            except Exception:
                # one row that breaks us must not keep the others from being looked at; it is looked at again in the next tick
                self.counts["broken"] += 1
                if (what, str(subject)) not in self.memory.broken and len(self.memory.broken) < BROKEN_MAX:
                    self.memory.broken.add((what, str(subject)))
                    log.exception("%s of %s cannot be looked at", what, subject)

    # -- alarms --------------------------------------------------------------------------------------------------------------

    def _delay(self, desk: Desk, delay: work.Delay) -> bool:
        return end_delay(desk, delay, timedelta(seconds=desk.alarm_type(delay.alarm_type).stale_after_s))

    def _shelf_over(self, alarm_id: int, until: datetime | None) -> bool:
        return until is not None and alarms.shelf_ends_at(alarm_id, until) <= self.now_at

    def _shelf(self, desk: Desk, alarm_id: int) -> bool:
        alarm = work.load_alarm(desk.conn, alarm_id, lock=True)
        if alarm is None or alarm.suppression is not AlarmSuppression.SHELVED or not self._shelf_over(alarm_id, alarm.shelved_until):
            return False
        desk.move_alarm(alarm, AlarmEvent.SHELVE_EXPIRED, Who("system/timer"))
        return True

    def _watch(self) -> None:
        """Mark alarms whose data stopped or came back (T14), and ring again for what was acknowledged and forgotten (T7)."""
        last = self.memory.watched_at.get(self.site_id)
        if last is not None and timedelta(0) <= self.now_at - last < WATCH_EVERY:
            return  # a clock that was set back makes us look
        self.memory.watched_at[self.site_id] = self.now_at
        live = self._all(lambda after: work.live_alarms(self.conn, self.site_id, after), lambda alarm: alarm.alarm_id)
        self._each("watch", [alarm.alarm_id for alarm in live], self._watch_one)

    def _watch_one(self, desk: Desk, alarm_id: int) -> bool:
        alarm = work.load_alarm(desk.conn, alarm_id, lock=True)
        if alarm is None or alarm.closed_at is not None:
            return False
        kind = desk.alarm_type(alarm.alarm_type)
        newest_at = work.newest_signal_at(desk.conn, alarm.asset_id, alarm.zone_id)
        if newest_at is not None:
            stale = desk.now_at - newest_at > timedelta(seconds=kind.stale_after_s)
            event = AlarmEvent.DATA_STOPPED if stale else AlarmEvent.DATA_RESUMED
            if stale != (alarm.condition is AlarmCondition.UNKNOWN) and event in alarms.ALARM_TABLE.allowed(alarms.state_of(alarm)):
                desk.move_alarm(alarm, event, Who("system/watchdog"), detected_at=newest_at)
                return True
        return self._forgotten(desk, alarm_id)

    def _forgotten(self, desk: Desk, alarm_id: int) -> bool:
        alarm = work.load_alarm(desk.conn, alarm_id, lock=True)
        if alarm is None or alarms.state_of(alarm) != "ACKED" or alarm.priority not in (Priority.URGENT, Priority.HIGH):
            return False
        if desk.alarm_type(alarm.alarm_type).order is OrderPolicy.NONE:
            return False
        if alarm.incident_id is not None and work.open_orders_of(desk.conn, alarm.incident_id):
            return False
        acked = work.last_event(desk.conn, "alarm", alarm_id, [AlarmEvent.ACK, AlarmEvent.UNSHELVE])
        if acked is None or desk.now_at - acked.at < desk.policy.alarm_ack_timer:
            return False
        desk.move_alarm(alarm, AlarmEvent.RE_ANNUNCIATE, Who("system/timer"), reason=AlarmReason.NOT_ACKNOWLEDGED_IN_TIME)
        return True

    # -- orders --------------------------------------------------------------------------------------------------------------

    def _dispatch(self, desk: Desk, order_id: int) -> bool:
        order = work.load_order(desk.conn, order_id, lock=True)
        if order is None or order.state not in (OrderState.APPROVED, OrderState.SCHEDULED):
            return False
        last = work.last_event(desk.conn, "order", order_id, [OrderEvent.NO_CREW])
        if last is not None and last.seq == order.version and desk.now_at - last.at < desk.policy.dispatch_retry:
            return False
        return desk.try_dispatch(order).version != order.version

    def _no_receipt(self, desk: Desk, order_id: int) -> bool:
        order = work.load_order(desk.conn, order_id, lock=True)
        if order is None or order.state is not OrderState.DISPATCHED:
            return False
        sent = work.last_event(desk.conn, "order", order_id, [OrderEvent.DISPATCH, OrderEvent.RECEIPT])
        if sent is None or desk.now_at - sent.at < desk.policy.no_receipt[order.priority]:
            return False
        minutes = desk.policy.no_receipt[order.priority].total_seconds() / 60
        note = f"crew {order.crew_id} did not answer within {minutes:.0f} min"
        desk.try_dispatch(desk.move_order(order, OrderEvent.NO_RECEIPT, Who("system/timer"), note=note))
        return True

    def _evaluate_now(self, order_id: int) -> bool:
        last = self.memory.evaluated_at.get(order_id)
        return last is None or not timedelta(0) <= self.now_at - last < EVALUATE_EVERY

    def _verify(self, desk: Desk, order_id: int) -> bool:
        order = work.load_order(desk.conn, order_id, lock=True)
        if order is None or order.state is not OrderState.VERIFYING:
            self.memory.evaluated_at.pop(order_id, None)
            return False
        self.memory.evaluated_at[order_id] = self.now_at
        progress = desk.evaluate(order)
        if progress.outcome is VerificationOutcome.PENDING:
            said, before = order.verification.get("evaluated_at"), order.verification
            fresh = said is not None and self.now_at - datetime.fromisoformat(str(said)) < PROGRESS_EVERY
            same = before.get("sentence") == progress.sentence
            if same or (fresh and before.get("quiet_at") == progress.facts.get("quiet_at")):
                return False
        moved = desk.apply_progress(order, progress)
        if moved.state is not OrderState.VERIFYING:
            self.memory.evaluated_at.pop(order_id, None)
        return moved.version != order.version

    def _sla(self, desk: Desk, order_id: int) -> bool:
        changed = False
        order = work.load_order(desk.conn, order_id)
        for clock in work.clocks_of(desk.conn, order_id):
            looked, warn = sla.look(clock, desk.now_at)
            if looked != clock:
                work.save_clocks(desk.conn, [looked])
                changed = True
            if warn is not None and order is not None:
                late = looked.state is SlaState.BREACHED
                sentence = (
                    f"{warn.clock} is late, it was due {sla.due_at(clock):%H:%M}Z"
                    if late
                    else f"{warn.used_pct} % of the time for {warn.clock} is used"
                )
                subject, body = outbox.order_message(order, "sla_breached" if late else "sla_warning", sentence, desk.now_at)
                work.post(desk.conn, f"sla:{order_id}:{warn.clock}:{warn.used_pct}", outbox.OPERATORS, subject, body, desk.now_at)
        return changed
