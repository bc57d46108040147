"""Take findings: raise, refresh or clear the alarm of their asset and type, or only date them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import Connection

from underway.desk.moves import Desk, Who, transaction
from underway.model import (
    Alarm,
    AlarmCondition,
    Finding,
    FindingPhase,
    GuardError,
    IllegalTransitionError,
    LifecycleEvent,
    OrderState,
    from_us,
)
from underway.store import telemetry, work
from underway.store.connect import NOT_THE_DATA
from underway.store.telemetry import evidence_to_json
from workorders import policy as rules
from workorders.alarm_types import Policy
from workorders.alarms import AlarmEvent
from workorders.orders import OrderEvent
from workorders.policy import Route

READER = "workorders"

log = logging.getLogger("underway.desk")


class Taken(StrEnum):
    """What became of a finding."""

    MOVED = "moved"
    DELAYED = "delayed"
    DATED_ONLY = "dated_only"
    IGNORED = "ignored"
    REFUSED = "refused"
    NO_SITE = "no_site"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True)
class TakenFinding:
    """What became of a finding, why, and every step that it made (subject kind, step)."""

    taken: Taken
    reason: str
    alarm: Alarm | None = None
    events: tuple[tuple[str, LifecycleEvent], ...] = ()


def take_finding(conn: Connection[Any], finding: Finding, now_at: datetime, *, policy: Policy | None = None) -> TakenFinding:
    """Take one finding that the store holds; one transaction.

    Notes
    -----
    Idempotent for RAISE in effect: a second raise is counted on the live alarm, never opens another. A historical finding is dated and
    reaches no alarm.
    """
    with conn.transaction():
        place = work.place_of(conn, finding.asset_id, finding.zone_id)
        if place is None:
            return TakenFinding(Taken.NO_SITE, f"neither asset {finding.asset_id!r} nor zone {finding.zone_id!r} is registered")
        with transaction(conn, place.site_id, now_at, policy) as desk:
            return _take(desk, finding)


def take_new_findings(
    conn: Connection[Any], now_at: datetime, *, limit: int = 500, policy: Policy | None = None
) -> tuple[tuple[Finding, TakenFinding], ...]:
    """Take what the detectors wrote since last time, in order; each finding and the cursor behind it are one transaction.

    A finding that breaks a decision of ours costs that finding: it is logged, stays in its table, and the next one is taken.

    Returns
    -------
    tuple
        Empty when there was nothing new; of length `limit` when there may be more.
    """
    taken = []
    for seq, finding in telemetry.findings_after(conn, work.cursor_position(conn, READER), limit):
        with conn.transaction():
            if work.cursor_position(conn, READER, lock=True) >= seq:
                continue  # another worker was faster
            try:
                with conn.transaction():
                    outcome = take_finding(conn, finding, now_at, policy=policy)
            except NOT_THE_DATA:
                raise  # the store is away: nothing against the finding
            except Exception as error:
                log.exception("finding %s (%s of %s) cannot be taken and is set aside", finding.finding_id, finding.kind, finding.asset_id)
                outcome = TakenFinding(Taken.SET_ASIDE, f"{type(error).__name__}: {error}")
            taken.append((finding, outcome))
            work.move_cursor(conn, READER, seq)
    return tuple(taken)


def _take(desk: Desk, finding: Finding) -> TakenFinding:
    kind = desk.alarm_type(finding.kind)
    live = work.live_alarm(desk.conn, desk.site_id, finding.asset_id, finding.kind)
    routed = rules.route(finding, kind, live)
    match routed.route:
        case Route.RECORD_ONLY:
            work.record_retro(
                desk.conn,
                finding.finding_id,
                desk.site_id,
                finding.asset_id,
                finding.kind,
                finding.phase,
                from_us(finding.onset_us),
                from_us(finding.detected_us),
                desk.now_at,
            )
            return TakenFinding(Taken.DATED_ONLY, routed.reason, live)
        case Route.IGNORE:
            work.stop_delay(desk.conn, desk.site_id, finding.asset_id, finding.kind)
            return TakenFinding(Taken.IGNORED, routed.reason, live)
        case Route.DELAY if routed.event is not None and routed.due_at is not None:
            live = _fresh(desk, live, finding)
            if routed.event is AlarmEvent.CLEAR and live is None:
                return TakenFinding(Taken.IGNORED, routed.reason)
            delay = work.Delay(desk.site_id, finding.asset_id, finding.kind, routed.event, finding.finding_id, routed.due_at)
            work.start_delay(desk.conn, delay)
            return TakenFinding(Taken.DELAYED, routed.reason, live, tuple(desk.events))
        case _:
            pass
    # whatever the data say now overtakes a delay that runs
    work.stop_delay(desk.conn, desk.site_id, finding.asset_id, finding.kind)
    try:
        alarm = apply_finding(desk, finding, live)
    except (GuardError, IllegalTransitionError) as refusal:
        return TakenFinding(Taken.REFUSED, str(refusal), live, tuple(desk.events))
    return TakenFinding(Taken.MOVED, routed.reason, alarm, tuple(desk.events))


def _fresh(desk: Desk, live: Alarm | None, finding: Finding) -> Alarm | None:
    """Let an alarm whose data had stopped know that they are back: a finding rests on data."""
    since = live.evidence_stale_since if live is not None else None
    if live is not None and live.condition is AlarmCondition.UNKNOWN and (since is None or from_us(finding.detected_us) > since):
        return desk.move_alarm(live, AlarmEvent.DATA_RESUMED, _who(finding))
    return live


def _who(finding: Finding) -> Who:
    return Who(actor=f"detector/{finding.detector}")


def apply_finding(desk: Desk, finding: Finding, live: Alarm | None) -> Alarm | None:
    """Move the alarm of a finding whose delay, if it had one, is over.

    Raises
    ------
    GuardError, IllegalTransitionError
        As the alarm table says; nothing is written then.
    """
    before = len(desk.events)
    try:
        with desk.conn.transaction():
            return _apply(desk, finding, live)
    except (GuardError, IllegalTransitionError):
        del desk.events[before:]
        raise


def _apply(desk: Desk, finding: Finding, live: Alarm | None) -> Alarm | None:
    kind, who = desk.alarm_type(finding.kind), _who(finding)
    live = _fresh(desk, live, finding)
    if finding.phase is FindingPhase.RAISE:
        return desk.open_alarm(finding, kind, who)
    if live is None:
        return None
    if finding.phase is FindingPhase.CLEAR:
        detected_at = from_us(finding.detected_us)
        return desk.move_alarm(
            live, AlarmEvent.CLEAR, who, detected_at=detected_at, historical=finding.historical, note=finding.evidence.summary
        )
    evidence = evidence_to_json(finding.evidence)
    if not evidence.get("candidates") and live.evidence.get("candidates"):
        evidence["candidates"] = live.evidence["candidates"]  # an update without a location does not forget the one we have
    alarm = desk.move_alarm(live, AlarmEvent.UPDATE, who, evidence=evidence, finding_id=finding.finding_id, historical=finding.historical)
    _relocate(desk, alarm)
    return alarm


LOCATED_STATES = (
    OrderState.NEW,
    OrderState.APPROVED,
    OrderState.SCHEDULED,
    OrderState.DISPATCHED,
    OrderState.ACCEPTED,
    OrderState.EN_ROUTE,
    OrderState.IN_PROGRESS,
    OrderState.WAITING,
)


def _relocate(desk: Desk, alarm: Alarm) -> None:
    """Let open orders of the alarm's asset know a better location, when it differs enough to tell."""
    if alarm.incident_id is None:
        return
    for order in work.open_orders_of(desk.conn, alarm.incident_id):
        if order.asset_id != alarm.asset_id or order.state not in LOCATED_STATES:
            continue
        surveyed = order.location.get("surveyed", ())
        found = rules.after_survey(rules.candidates_of(alarm.evidence), surveyed)
        if rules.location_moved(order.location, found):
            location = desk.location(alarm, work.place_of(desk.conn, alarm.asset_id, alarm.zone_id), surveyed)
            first = found[0]
            note = f"most probable now {first['asset_id']} ({float(first.get('probability') or 0):.0%})"
            desk.move_order(order, OrderEvent.LOCATE, Who(), note=note, also={"location": location})


def end_delay(desk: Desk, delay: work.Delay, stale_after: timedelta) -> bool:
    """Do what a delay waited for, when the data still say so; returns whether it is over.

    Notes
    -----
    Silence is not recovery: an off-delay ends only when data newer than its end have come, wherever the asset has signals at all.
    """
    finding = telemetry.load_finding(desk.conn, delay.finding_id)
    live = work.live_alarm(desk.conn, desk.site_id, delay.asset_id, delay.alarm_type)
    if finding is None or (delay.event == AlarmEvent.CLEAR and live is None):
        work.stop_delay(desk.conn, desk.site_id, delay.asset_id, delay.alarm_type)
        return True
    if delay.event == AlarmEvent.CLEAR:
        assert live is not None
        newest_at = work.newest_signal_at(desk.conn, live.asset_id, live.zone_id)
        if newest_at is not None and newest_at < delay.due_at:
            return False
        if live.condition is AlarmCondition.UNKNOWN and newest_at is not None and desk.now_at - newest_at <= stale_after:
            live = desk.move_alarm(live, AlarmEvent.DATA_RESUMED, Who())
    work.stop_delay(desk.conn, desk.site_id, delay.asset_id, delay.alarm_type)
    try:
        apply_finding(desk, replace(finding, historical=False), live)
    except (GuardError, IllegalTransitionError):
        return True  # a verification is pending, or a person moved the alarm meanwhile: they decide
    return True
