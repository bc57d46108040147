"""One transaction of the desk: load, let the tables decide, write rows, event logs, clocks, holds and the outbox.

Notes
-----
Decisions of one site are taken one after another: every transaction first takes the lock of its site. That rules out deadlocks and
lost updates by construction and costs nothing at the work side's rates (a decision takes a few milliseconds); the partial unique
indexes and the version of each row stand behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any
from uuid import UUID

from psycopg import Connection

from underway.desk import outbox
from underway.model import (
    Alarm,
    AlarmAck,
    AlarmCondition,
    AlarmSuppression,
    Crew,
    Finding,
    GuardError,
    IllegalTransitionError,
    Incident,
    IncidentState,
    InternalError,
    LifecycleEvent,
    OrderState,
    Priority,
    Role,
    VerificationOutcome,
    WorkOrder,
    from_us,
)
from underway.store import work
from underway.store.telemetry import evidence_to_json
from workorders import alarms, dispatch, incidents, orders, sla, verification
from workorders import policy as rules
from workorders.alarm_types import AlarmType, GroupBy, Policy, load_policy
from workorders.alarms import AlarmContext, AlarmEffect, AlarmEvent
from workorders.incidents import IncidentContext, IncidentEvent, IncidentReason
from workorders.orders import OrderContext, OrderEffect, OrderEvent, OrderReason

SYSTEM = "system"
DECLINED_FOR = timedelta(hours=8)
SILENT_FOR = timedelta(minutes=30)
CAUSE = "@cause"
"""Key in the facts of an event that another action caused; keys with '@' are no fields of the row."""


@cache
def default_policy() -> Policy:
    """Return the policy that ships with underway, read once."""
    return load_policy()


@dataclass(frozen=True, slots=True)
class Who:
    """Who moves something: ``role`` None is underway itself; ``action_id`` makes a repetition harmless."""

    actor: str = SYSTEM
    role: Role | None = None
    crew_id: str | None = None
    action_id: UUID | None = None
    device_at: datetime | None = None


@dataclass(slots=True)
class Desk:
    """The state of one transaction of the desk."""

    conn: Connection[Any]
    site_id: str
    now_at: datetime
    policy: Policy
    cause: UUID | None = None
    events: list[tuple[str, LifecycleEvent]] = field(default_factory=list)

    # -- rows and their logs -------------------------------------------------------------------------------------------------

    def _log(
        self,
        row: Alarm | Incident | WorkOrder,
        event: str,
        states: tuple[str, str],
        reason: str,
        facts: Mapping[str, Any],
        who: Who,
        note: str,
    ) -> None:
        caused = {} if self.cause is None or who.action_id is not None else {CAUSE: str(self.cause)}
        entry = LifecycleEvent(
            subject_id=work.id_of(row),
            seq=row.version,
            event=event,
            from_state=states[0],
            to_state=states[1],
            actor=who.actor,
            reason=reason,
            at=self.now_at,
            action_id=who.action_id,
            device_at=who.device_at,
            note=note,
            facts={**{name: work.plain(value) for name, value in facts.items()}, **caused},
        )
        work.append_event(self.conn, work.kind_of(row), entry)
        self.events.append((work.kind_of(row), entry))

    def _opened(
        self, row: Alarm | Incident | WorkOrder, event: str, states: tuple[str, str], reason: str, who: Who, note: str = ""
    ) -> None:
        """Log the first step of a row: its facts are the whole row."""
        whole = {name: getattr(row, name) for name in work.column_names(work.kind_of(row))}
        self._log(row, event, states, reason, whole, who, note)

    def events_of(self, kind: str) -> tuple[LifecycleEvent, ...]:
        """Return the steps that this transaction made for one kind of row."""
        return tuple(event for of, event in self.events if of == kind)

    # -- alarms --------------------------------------------------------------------------------------------------------------

    def alarm_type(self, alarm_type: str) -> AlarmType:
        """Return the reviewed settings of an alarm type."""
        found = self.policy.alarms.get(alarm_type)
        if found is None:
            raise InternalError(f"alarm type {alarm_type!r} must stand in the file of alarm types")
        return found

    def alarm_context(self, alarm: Alarm | None, kind: AlarmType, who: Who, **known: Any) -> AlarmContext:
        """Return what the guards of the alarm table look at."""
        pending = alarm is not None and alarm.incident_id is not None and self._verification_pending(alarm.incident_id)
        facts: dict[str, Any] = {
            "alarm": alarm,
            "now_at": self.now_at,
            "role": who.role,
            "actor": who.actor,
            "realarm_s": kind.realarm_s,
            "shelvable": kind.shelvable,
            "safety": kind.safety,
            "verification_pending": pending,
        }
        return AlarmContext(**{**facts, **known})

    def _verification_pending(self, incident_id: int) -> bool:
        return any(o.state in (OrderState.DONE, OrderState.VERIFYING) for o in work.open_orders_of(self.conn, incident_id))

    def move_alarm(
        self,
        alarm: Alarm,
        event: AlarmEvent,
        who: Who,
        *,
        reason: StrEnum | None = None,
        note: str = "",
        quiet: bool = False,
        reason_text: str = "",
        also: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> Alarm:
        """Move an alarm by its table, and do what the move asks for.

        Raises
        ------
        IllegalTransitionError, GuardError
            As the table says.
        """
        kind = self.alarm_type(alarm.alarm_type)
        context = self.alarm_context(alarm, kind, who, reason=reason_text, **known)
        step, changes = alarms.decide(context, event, f"alarm {alarm.alarm_id}")
        changes.update(also or {})
        changes = {name: value for name, value in changes.items() if getattr(alarm, name) != value}
        moved = work.update(self.conn, alarm, changes)
        self._log(moved, event, (step.from_state, step.to_state), str(reason or step.transition.reason), changes, who, note)
        return self._after_alarm(moved, step, str(reason or step.transition.reason), quiet)

    def open_alarm(self, finding: Finding, kind: AlarmType, who: Who) -> Alarm:
        """Raise an alarm (T1), or count the raise on the live one; the unique index decides which.

        Raises
        ------
        GuardError
            When a guard of T1 is not met.
        """
        evidence = evidence_to_json(finding.evidence)
        known: dict[str, Any] = {
            "historical": finding.historical,
            "evidence": evidence,
            "finding_id": finding.finding_id,
            "occurred_at": from_us(finding.onset_us),
            "detected_at": from_us(finding.detected_us),
        }
        for _ in range(5):
            live = work.live_alarm(self.conn, self.site_id, finding.asset_id, finding.kind)
            if live is not None:
                return self.move_alarm(live, AlarmEvent.RAISE, who, **known)
            context = self.alarm_context(None, kind, who, **known)
            step, changes = alarms.decide(context, AlarmEvent.RAISE, f"alarm {finding.kind} of {finding.asset_id}")
            row = work.insert(
                self.conn,
                "alarm",
                {
                    "site_id": self.site_id,
                    "asset_id": finding.asset_id,
                    "zone_id": finding.zone_id,
                    "alarm_type": str(finding.kind),
                    "priority": kind.priority,
                    "suppression": AlarmSuppression.NONE,
                    "occurred_at": known["occurred_at"],
                    "detected_at": known["detected_at"],
                    "raised_at": self.now_at,
                    **changes,
                },
            )
            if row is not None:
                assert isinstance(row, Alarm)
                self._opened(row, AlarmEvent.RAISE, (step.from_state, step.to_state), step.transition.reason, who)
                return self._after_alarm(row, step, step.transition.reason, quiet=False)
        raise InternalError(f"an alarm {finding.kind} of {finding.asset_id} is neither live nor can it be opened")

    def place_alarm(
        self, asset_id: str, zone_id: str | None, kind: AlarmType, event: AlarmEvent, who: Who, note: str = "", **known: Any
    ) -> Alarm:
        """Shelve, suppress or take out of service an alarm that is NORM: it gets a row so that raises are counted on it."""
        live = work.live_alarm(self.conn, self.site_id, asset_id, kind.kind)
        if live is not None:
            return self.move_alarm(live, event, who, note=note, **known)
        step, changes = alarms.decide(self.alarm_context(None, kind, who, **known), event, f"alarm {kind.kind} of {asset_id}")
        row = work.insert(
            self.conn,
            "alarm",
            {
                "site_id": self.site_id,
                "asset_id": asset_id,
                "zone_id": zone_id,
                "alarm_type": str(kind.kind),
                "priority": kind.priority,
                "condition": AlarmCondition.NORMAL,
                "ack": AlarmAck.ACKED,
                "suppression": AlarmSuppression.NONE,
                "occurred_at": self.now_at,
                "detected_at": self.now_at,
                "raised_at": self.now_at,
                "occurrence": 0,
                "normal_at": self.now_at,
                **changes,
            },
        )
        assert isinstance(row, Alarm)  # the lock of the site rules out that another appeared
        self._opened(row, event, (step.from_state, step.to_state), step.transition.reason, who, note)
        return row

    def _after_alarm(self, alarm: Alarm, step: alarms.AlarmStep, reason: str, quiet: bool) -> Alarm:
        effects = step.transition.effects
        if AlarmEffect.PROPOSE in effects:
            alarm = self._propose(alarm)
        if step.transition.event is AlarmEvent.RAISE:
            self._hold(alarm)
        if AlarmEffect.NOTIFY in effects and not quiet and alarm.priority is not Priority.JOURNAL:
            subject, body = outbox.alarm_message(alarm, reason, self.now_at)
            work.post(self.conn, f"alarm:{alarm.alarm_id}:{alarm.version}", outbox.OPERATORS, subject, body, self.now_at)
        if step.transition.event is AlarmEvent.ACK and alarm.incident_id is not None:
            self._acknowledged(alarm.incident_id)
        if step.transition.event is AlarmEvent.CLEAR or AlarmEffect.CLOSE in effects:
            self._calmed(alarm)
        return alarm

    def _hold(self, alarm: Alarm) -> None:
        """Keep the baseline still; what is grouped by asset (a sensor, a bridge) does not hold the whole zone."""
        zone_id = alarm.zone_id if self.alarm_type(alarm.alarm_type).group_by is GroupBy.ZONE else None
        work.open_hold(self.conn, zone_id, alarm.asset_id, self.now_at)

    def _acknowledged(self, incident_id: int) -> None:
        self.follow(incident_id, rules.Follow(IncidentEvent.INVESTIGATE, IncidentReason.SOMEONE_LOOKS), self.now_at)
        for order in work.open_orders_of(self.conn, incident_id):
            self.meet(order, sla.ClockName.ACK, self.now_at)

    def _calmed(self, alarm: Alarm) -> None:
        """Do what follows when a condition went away: cancel an untouched order, let the detectors go, resolve the incident."""
        if alarms.behaves_as(alarm) is AlarmCondition.ACTIVE:
            return
        if alarm.incident_id is None:
            work.release_holds(self.conn, [alarm.asset_id], self.now_at, "repaired")
            return
        if any(alarms.behaves_as(a) is AlarmCondition.ACTIVE for a in work.alarms_of_incident(self.conn, alarm.incident_id)):
            return
        for order in work.open_orders_of(self.conn, alarm.incident_id):
            if rules.may_self_clear(order):
                self.move_order(order, OrderEvent.SELF_CLEARED, Who(), note="the condition cleared before anybody had touched the order")
        if not work.open_orders_of(self.conn, alarm.incident_id):
            self.release_incident_holds(alarm.incident_id, "repaired")
            self.follow(alarm.incident_id, rules.Follow(IncidentEvent.RESOLVE, IncidentReason.ALARMS_NORMAL), self.now_at)

    def release_incident_holds(self, incident_id: int, verdict: str, also: Sequence[str] = ()) -> None:
        """Let the detectors of everything that an incident concerns adapt again."""
        assets = {a.asset_id for a in work.alarms_of_incident(self.conn, incident_id, live_only=False)} | set(also)
        work.release_holds(self.conn, sorted(assets), self.now_at, verdict)

    # -- incidents -----------------------------------------------------------------------------------------------------------

    def follow(self, incident_id: int, what: rules.Follow, at: datetime, also: Mapping[str, Any] | None = None) -> None:
        """Move an incident after its orders or alarms; a move that its table does not allow now is not made."""
        incident = work.load_incident(self.conn, incident_id, lock=True)
        if incident is None:
            raise InternalError(f"incident {incident_id} must exist")
        active = sum(alarms.behaves_as(a) is AlarmCondition.ACTIVE for a in work.alarms_of_incident(self.conn, incident_id))
        context = IncidentContext(at, len(work.open_orders_of(self.conn, incident_id)), active)
        try:
            step = incidents.INCIDENT_TABLE.step(f"incident {incident_id}", incident.state, what.event, context)
        except (IllegalTransitionError, GuardError):
            return  # an incident with several orders goes with the slowest; its own log shows what was made
        changes = {**incidents.changes_of(context, step), **(also or {})}
        if not changes:
            return
        moved = work.update(self.conn, incident, changes)
        self._log(moved, what.event, (step.from_state, step.to_state), what.reason, changes, Who(), "")

    def _propose(self, alarm: Alarm) -> Alarm:
        """Join an alarm to an incident, and see to an order."""
        kind = self.alarm_type(alarm.alarm_type)
        place = work.place_of(self.conn, alarm.asset_id, alarm.zone_id)
        where = self._where(alarm.asset_id, alarm.zone_id, place, by_zone=kind.group_by is GroupBy.ZONE)
        aware_at = sla.aware_at(alarm.occurred_at, alarm.detected_at)
        since_at = alarm.detected_at - timedelta(seconds=kind.group_window_s)
        by_asset = alarm.asset_id if kind.group_by is GroupBy.ASSET or alarm.zone_id is None else None
        incident = work.open_incident(self.conn, self.site_id, kind.incident, alarm.zone_id, by_asset, since_at)
        if incident is None:
            row = work.insert(
                self.conn,
                "incident",
                {
                    "site_id": self.site_id,
                    "zone_id": alarm.zone_id,
                    "kind": kind.incident,
                    "title": rules.incident_title(kind, where),
                    "state": IncidentState.OPEN,
                    "onset_at": alarm.occurred_at,
                    "aware_at": aware_at,
                },
            )
            assert isinstance(row, Incident)
            self._opened(row, "open", ("", IncidentState.OPEN), "alarm_raised", Who())
            incident = row
        if alarm.incident_id != incident.incident_id:
            alarm = self.move_alarm(
                alarm,
                AlarmEvent.GROUP,
                Who(),
                note=f"incident {incident.incident_id}: same {kind.incident}, same {kind.group_by}",
                also={"incident_id": incident.incident_id},
            )
        open_order = next((o for o in work.open_orders_of(self.conn, incident.incident_id) if o.order_type == kind.order_type), None)
        proposal = rules.propose(kind, alarm.priority, open_order)
        if proposal is rules.OrderProposal.ATTACH and open_order is not None:
            self._attach(alarm, open_order)
        elif proposal in (rules.OrderProposal.CREATE_AND_DISPATCH, rules.OrderProposal.CREATE_AND_ASK):
            self._create_order(alarm, kind, incident, where, place, aware_at, automatic=proposal is rules.OrderProposal.CREATE_AND_DISPATCH)
        return alarm

    def _attach(self, alarm: Alarm, order: WorkOrder) -> None:
        """Let an open order of the incident take an alarm over: a more urgent one raises its priority."""
        if rules.more_urgent(alarm.priority, order.priority):
            try:
                order = self.move_order(
                    order, OrderEvent.RAISE_PRIORITY, Who(), note=f"alarm {alarm.alarm_id} joined", also={"priority": alarm.priority}
                )
            except IllegalTransitionError:
                return  # done or being verified: the verification decides
        if order.state in (OrderState.NEW, OrderState.APPROVED) and self.alarm_type(alarm.alarm_type).order == "automatic":
            self.approve_and_dispatch(order)

    def _where(self, asset_id: str, zone_id: str | None, place: work.Place | None, *, by_zone: bool) -> str:
        if place is None:
            return asset_id
        return (place.zone_name if by_zone else None) or place.asset_name or place.zone_name or asset_id

    # -- orders --------------------------------------------------------------------------------------------------------------

    def _create_order(
        self,
        alarm: Alarm,
        kind: AlarmType,
        incident: Incident,
        where: str,
        place: work.Place | None,
        aware_at: datetime,
        *,
        automatic: bool,
    ) -> None:
        order_type = self.policy.orders[kind.order_type]
        on_site = timedelta(minutes=self.policy.sla[alarm.priority].on_site_min)
        location = self.location(alarm, place)
        again = self._recurrence(alarm, order_type.name, location)
        row = work.insert(
            self.conn,
            "order",
            {
                "site_id": self.site_id,
                "incident_id": incident.incident_id,
                "asset_id": alarm.asset_id,
                "zone_id": alarm.zone_id,
                "order_type": order_type.name,
                "title": rules.order_title(order_type, where, again),
                "priority": alarm.priority,
                "state": OrderState.NEW,
                "required_skill": order_type.skill,
                "created_at": self.now_at,
                "aware_at": aware_at,
                "due_at": aware_at + on_site,
                "location": {**location, "recurrence_of": again} if again else location,
            },
        )
        if row is None:
            return  # work_order_live: another order of this type is open on the incident
        assert isinstance(row, WorkOrder)
        self._opened(row, "open", ("", OrderState.NEW), "policy_automatic" if automatic else "policy_proposes", Who())
        work.save_clocks(self.conn, sla.open_clocks(row.order_id, row.priority, aware_at, self.policy.sla))
        self._hold(alarm)
        work.open_hold(self.conn, None, alarm.asset_id, self.now_at, row.order_id)
        if automatic:
            self.approve_and_dispatch(row)

    def _recurrence(self, alarm: Alarm, order_type: str, location: Mapping[str, Any]) -> str:
        """Return the label of the order that closed here within the warranty window: its repair did not last; "" when there is none."""
        places = {alarm.asset_id} | {str(c["asset_id"]) for c in location["candidates"]}
        since_at = self.now_at - self.policy.warranty
        for order in reversed(work.closed_orders(self.conn, self.site_id, order_type, alarm.asset_id, since_at)):
            if rules.same_place(order, places):
                return order.label
        return ""

    def location(self, alarm: Alarm, place: work.Place | None, surveyed: Sequence[str] = ()) -> dict[str, Any]:
        """Return where the work is: the candidates of the evidence, weighed by what crews surveyed in vain, and one point for the map."""
        candidates = rules.after_survey(rules.candidates_of(alarm.evidence), surveyed)
        point = None
        if candidates:
            point = dispatch.middle(work.asset_geometry(self.conn, candidates[0]["asset_id"]))
        if point is None and place is not None:
            point = dispatch.middle(place.geometry) or dispatch.middle(place.zone_geometry) or place.site_point
        found = {"candidates": candidates, "point": None if point is None else [round(point[0], 7), round(point[1], 7)]}
        return {**found, "surveyed": list(surveyed)} if surveyed else found

    def order_context(self, order: WorkOrder, who: Who, **known: Any) -> OrderContext:
        """Return what the guards of the order table look at."""
        order_type = self.policy.orders.get(order.order_type)
        facts: dict[str, Any] = {
            "order": order,
            "now_at": self.now_at,
            "device_at": who.device_at,
            "role": who.role,
            "actor": who.actor,
            "crew_id": who.crew_id,
            "checklist": order_type.checklist if order_type is not None else (),
        }
        return OrderContext(**{**facts, **known})

    def move_order(
        self,
        order: WorkOrder,
        event: OrderEvent,
        who: Who,
        *,
        reason: StrEnum | None = None,
        note: str = "",
        decision: dispatch.Decision | None = None,
        also: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> WorkOrder:
        """Move an order by its table, and do what the move asks for.

        Raises
        ------
        IllegalTransitionError, GuardError
            As the table says.
        """
        if decision is not None:
            known["chosen_crew_id"] = decision.crew_id
        context = self.order_context(order, who, **known)
        step, changes = orders.decide(context, event)
        changes.update({name: value for name, value in (also or {}).items() if getattr(order, name) != value})
        moved = work.update(self.conn, order, changes)
        why = str(reason or step.transition.reason)
        aside = {"@crew_id": order.crew_id} if event in (OrderEvent.DECLINE, OrderEvent.NO_RECEIPT) else {}
        self._log(moved, event, (step.from_state, step.to_state), why, {**changes, **aside}, who, note)
        return self._after_order(order, moved, step, why, note, context, decision)

    def _after_order(
        self,
        before: WorkOrder,
        order: WorkOrder,
        step: orders.OrderStep,
        reason: str,
        note: str,
        context: OrderContext,
        decision: dispatch.Decision | None,
    ) -> WorkOrder:
        event, effects = step.transition.event, step.transition.effects
        happened_at = context.device_at or self.now_at
        if event in rules.INCIDENT_FOLLOWS:
            lost = self._volume_lost(order) if event is OrderEvent.PASS else {}
            self.follow(order.incident_id, rules.INCIDENT_FOLLOWS[event], happened_at, lost)
        for effect in effects:
            match effect:
                case OrderEffect.ASSIGN if order.crew_id is not None:
                    detail = decision.as_json() if decision is not None else {"reason": reason, "sentence": note}
                    work.assign(self.conn, order.order_id, order.crew_id, self.now_at, str(detail["reason"]), detail)
                case OrderEffect.UNASSIGN:
                    work.end_assignment(self.conn, order.order_id, self.now_at)
                case OrderEffect.NOTIFY_CREW if order.crew_id is not None:
                    self._send_card(order, decision.sentence if decision is not None else note)
                case OrderEffect.RECALL_CREW if before.crew_id is not None:
                    card = outbox.recall_card(order, before.crew_id, note or reason, self.now_at)
                    key = f"order:{order.order_id}:{order.version}:recall:{before.crew_id}"
                    work.post(self.conn, key, f"crew/{before.crew_id}", f"{order.label} is taken back", card, self.now_at)
                case OrderEffect.NOTIFY_OPERATORS:
                    subject, body = outbox.order_message(order, reason, note, self.now_at)
                    work.post(self.conn, f"order:{order.order_id}:{order.version}:ops", outbox.OPERATORS, subject, body, self.now_at)
                case OrderEffect.SUPPRESS_ALARMS | OrderEffect.RELEASE_ALARMS | OrderEffect.RE_ANNUNCIATE | OrderEffect.CLEAR_ALARMS:
                    self._couple(order, OrderEffect(effect))
                case _:
                    pass  # a field of the row: `orders.changes_of` has written it
        for name, stops in sla.MET_BY.items():
            if event in stops:
                self.meet(order, name, happened_at)
        if event is OrderEvent.DONE and isinstance(order.report.get("asset_id"), str):
            self.follow(order.incident_id, rules.Follow(IncidentEvent.LOCATED, IncidentReason.CREW_LOCATED_IT), happened_at)
        if event in rules.HOLD_VERDICTS and not work.open_orders_of(self.conn, order.incident_id):
            self.release_incident_holds(order.incident_id, rules.HOLD_VERDICTS[event], [order.asset_id])
        return order

    def _volume_lost(self, order: WorkOrder) -> dict[str, Any]:
        """Return what a verified leak has cost, for the incident; empty when no flow signal says."""
        signals, onset = order.plan.get("signals") or [], order.plan.get("onset_at")
        if not signals or signals[0]["unit"] != "m3/h" or not onset:
            return {}
        onset_at, done_at = datetime.fromisoformat(str(onset)), self.done_at(order)
        series = read_series(self.conn, [signals[0]["name"]], onset_at, done_at)
        volume = verification.volume_m3(series[signals[0]["name"]], onset_at, done_at) if series else None
        return {} if volume is None else {"volume_lost_m3": volume}

    def meet(self, order: WorkOrder, name: str, at: datetime) -> None:
        """Stop an SLA clock of an order at an event time."""
        for clock in work.clocks_of(self.conn, order.order_id):
            if clock.name == name and clock.met_at is None:
                work.save_clocks(self.conn, [sla.meet(clock, at)])

    def _send_card(self, order: WorkOrder, why: str) -> None:
        place = work.place_of(self.conn, order.asset_id, order.zone_id)
        alarm = self.alarm_behind(order)
        checklist = self.policy.orders[order.order_type].checklist if order.order_type in self.policy.orders else ()
        where = self._where(order.asset_id, order.zone_id, place, by_zone=False)
        card = outbox.crew_card(order, alarm.evidence if alarm is not None else {}, why, checklist, where, self.now_at)
        key = f"order:{order.order_id}:{order.version}:crew:{order.crew_id}"
        work.post(self.conn, key, f"crew/{order.crew_id}", f"{order.label}: {order.title}", card, self.now_at)

    def alarm_behind(self, order: WorkOrder) -> Alarm | None:
        """Return the alarm that an order is about: the most urgent one of its incident, on its asset first."""
        found = work.alarms_of_incident(self.conn, order.incident_id, live_only=False)
        rank = rules.PRIORITY_RANK
        return max(found, key=lambda a: (a.asset_id == order.asset_id, rank[a.priority], a.alarm_id), default=None)

    def _couple(self, order: WorkOrder, effect: OrderEffect) -> None:
        """Let the alarms of an order's incident follow its move; those whose table does not allow it stay as they are."""
        event, reason = rules.COUPLING[effect]
        for alarm in work.alarms_of_incident(self.conn, order.incident_id):
            if event not in alarms.ALARM_TABLE.allowed(alarms.state_of(alarm)):
                continue
            if event is AlarmEvent.SUPPRESS and self.alarm_type(alarm.alarm_type).safety:
                continue
            if event is AlarmEvent.CLEAR:
                if alarm.condition is AlarmCondition.UNKNOWN:
                    alarm = self.move_alarm(alarm, AlarmEvent.DATA_RESUMED, Who())
                if alarms.behaves_as(alarm) is AlarmCondition.NORMAL:
                    continue
            self.move_alarm(
                alarm,
                event,
                Who(),
                reason=reason,
                note=order.label,
                quiet=event
                is AlarmEvent.RELEASE,  # the work is done and verification is about to say; ringing again would tell nothing new
                rule=order.label,
                verification_pending=False,
            )

    # -- approval and dispatch -----------------------------------------------------------------------------------------------

    def approve_and_dispatch(self, order: WorkOrder) -> WorkOrder:
        """Approve an order by policy and send it to a crew; an URGENT one goes at once."""
        if order.state is OrderState.NEW and order.priority is Priority.URGENT:
            decision = self.choose_crew(order)
            if decision.crew_id is not None:
                return self.dispatch_to(order, decision, Who(), reason=OrderReason.EMERGENCY_APPROVED_BY_POLICY)
        if order.state is OrderState.NEW:
            order = self.move_order(order, OrderEvent.APPROVE, Who(), reason=OrderReason.APPROVED_BY_POLICY)
        return self.try_dispatch(order)

    def try_dispatch(self, order: WorkOrder) -> WorkOrder:
        """Send an approved or scheduled order to the best crew, or note once why nobody can go."""
        decision = self.choose_crew(order) if order.rework <= self.policy.rework_auto_max else dispatch.for_a_supervisor(order.rework)
        if decision.crew_id is None:
            last = work.last_event(self.conn, "order", order.order_id, [OrderEvent.NO_CREW])
            since = work.last_event(self.conn, "order", order.order_id, [OrderEvent.NO_RECEIPT, OrderEvent.DECLINE, OrderEvent.FAIL])
            told = last is not None and last.note == decision.sentence and (since is None or since.seq < last.seq)
            return order if told else self.move_order(order, OrderEvent.NO_CREW, Who(), note=decision.sentence)
        if order.state is OrderState.APPROVED:
            order = self.move_order(order, OrderEvent.SCHEDULE, Who(), note=decision.sentence, decision=decision)
        return self.dispatch_to(order, decision, Who())

    def dispatch_to(self, order: WorkOrder, decision: dispatch.Decision, who: Who, reason: OrderReason | None = None) -> WorkOrder:
        """Freeze the verification plan and send an order to the crew of a decision."""
        plan = self.freeze_plan(order)
        return self.move_order(order, OrderEvent.DISPATCH, who, reason=reason, note=decision.sentence, decision=decision, plan=plan)

    def applicants(self) -> tuple[dispatch.Applicant, ...]:
        """Return the crews of the site as dispatch sees them."""
        return tuple(
            dispatch.Applicant(
                Crew(
                    row.crew_id,
                    self.site_id,
                    row.name,
                    tuple(row.skills),
                    row.longitude_deg,
                    row.latitude_deg,
                    row.shifts,
                    row.phone,
                    row.language,
                    row.speed_kmph,
                    row.busy_order_id,
                ),
                row.skills,
                "" if row.busy_order_id is None else f"WO-{row.busy_order_id}",
            )
            for row in work.crew_rows(self.conn, self.site_id, self.now_at)
        )

    def choose_crew(self, order: WorkOrder) -> dispatch.Decision:
        """Return who goes, with reasons."""
        return dispatch.choose(
            order.required_skill,
            point_of(order),
            self.applicants(),
            self.now_at,
            refused=work.refusals(self.conn, order.order_id, self.now_at - DECLINED_FOR, self.now_at - SILENT_FOR),
            detour_factor=self.policy.detour_factor,
            skill_grace=self.policy.skill_grace,
        )

    def freeze_plan(self, order: WorkOrder) -> dict[str, Any]:
        """Return the verification plan of an order; a rework keeps the plan of the first dispatch: the baseline is the same."""
        if order.plan.get("signals"):
            return dict(order.plan)
        alarm = self.alarm_behind(order)
        if alarm is None:
            return {"signals": [], "frozen_at": self.now_at.isoformat()}
        spec = self.alarm_type(alarm.alarm_type).verification
        place = work.place_of(self.conn, alarm.asset_id, alarm.zone_id)
        from_at = alarm.occurred_at - verification.BEFORE_SPAN
        primary = read_series(self.conn, verification.signal_names(spec, alarm.zone_id, alarm.asset_id), from_at, self.now_at)
        names = work.pressure_signals(self.conn, alarm.zone_id) if spec.pressures_of_zone and alarm.zone_id else ()
        pressures = read_series(self.conn, names, from_at, self.now_at)
        timezone = place.timezone if place is not None else "UTC"
        plan = verification.freeze(spec, primary, pressures, alarm.occurred_at, self.now_at, timezone, alarm.evidence)
        return {**plan, "alarm_id": alarm.alarm_id, "finding_id": None if alarm.finding_id is None else str(alarm.finding_id)}

    # -- verification --------------------------------------------------------------------------------------------------------

    def done_at(self, order: WorkOrder) -> datetime:
        """Return when the crew reported done."""
        return datetime.fromisoformat(str(order.report["done_at"]))

    def evaluate(self, order: WorkOrder) -> verification.Progress:
        """Return what the signals say of an order now."""
        plan = order.plan
        names = [s["name"] for s in plan.get("signals", ())] + list(plan.get("pressures", {}).get("names", ()))
        from_at = self.done_at(order) - timedelta(hours=1)
        series = read_series(self.conn, names, from_at, self.now_at)
        return verification.evaluate(plan, series, self.done_at(order), self.now_at, int(order.verification.get("extensions", 0)))

    def apply_progress(self, order: WorkOrder, progress: verification.Progress) -> WorkOrder:
        """Move an order by what verification concluded."""
        facts = {"verification": {**order.verification, **progress.as_json(), "evaluated_at": self.now_at.isoformat()}}
        note = progress.sentence
        match progress.outcome:
            case VerificationOutcome.PASS:
                return self.move_order(order, OrderEvent.PASS, Who(), note=note, outcome=progress.outcome, also=facts)
            case VerificationOutcome.FAIL:
                facts["location"] = self._elsewhere(order)
                failed = self.move_order(order, OrderEvent.FAIL, Who(), note=note, outcome=progress.outcome, also=facts)
                return self.try_dispatch(failed) if failed.state is OrderState.SCHEDULED else failed
            case VerificationOutcome.INCONCLUSIVE:
                if int(order.verification.get("extensions", 0)) < orders.EXTENSIONS_MAX:
                    count = int(order.verification.get("extensions", 0)) + 1
                    facts["verification"]["extensions"] = count
                    return self.move_order(order, OrderEvent.EXTEND, Who(), note=note, outcome=progress.outcome, also=facts)
                if order.outcome is VerificationOutcome.INCONCLUSIVE:
                    return order
                return self.move_order(order, OrderEvent.INCONCLUSIVE, Who(), note=note, outcome=progress.outcome, also=facts)
            case _:
                return self.move_order(order, OrderEvent.PROGRESS, Who(), note=note, also=facts)

    def _elsewhere(self, order: WorkOrder) -> dict[str, Any]:
        """Return the location of an order whose repair did not help: where the crew looked and worked is less likely now."""
        if not order.location.get("candidates"):
            return dict(order.location)
        surveyed = rules.surveyed_of(order.location, order.report)
        alarm = self.alarm_behind(order)
        if alarm is None or not rules.candidates_of(alarm.evidence):
            new = [a for a in surveyed if a not in order.location.get("surveyed", ())]
            return {**order.location, "candidates": rules.after_survey(order.location["candidates"], new), "surveyed": surveyed}
        return {**order.location, **self.location(alarm, work.place_of(self.conn, alarm.asset_id, alarm.zone_id), surveyed)}


def point_of(order: WorkOrder) -> tuple[float, float] | None:
    """Return the map point of an order."""
    point = order.location.get("point")
    return None if not point else (float(point[0]), float(point[1]))


def read_series(conn: Connection[Any], names: Sequence[str], from_at: datetime, to_at: datetime) -> dict[str, verification.Series]:
    """Return the stored rows of signals as verification reads them."""
    return {
        name: verification.Series(r.at_us, r.observed, r.expected, r.sigma, r.baseline, r.unit)
        for name, r in work.read_signals(conn, names, from_at, to_at).items()
    }


@contextmanager
def transaction(conn: Connection[Any], site_id: str, now_at: datetime, policy_: Policy | None, cause: UUID | None = None) -> Iterator[Desk]:
    """Open one transaction of the desk: the lock of the site is held until it ends."""
    with conn.transaction():
        work.lock_site(conn, site_id)
        yield Desk(conn, site_id, now_at, policy_ or default_policy(), cause)
