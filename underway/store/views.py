"""Named read-only queries for pages and the live terminal: rows become typed values, nothing here writes.

Every list has a limit, every series a number of points; a caller that reaches one sees it in ``truncated`` or in the length.
Instants are aware UTC datetimes, except the ``at_ms`` columns of a series, which are integer milliseconds since 1970 because a
browser reads them so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, dict_row, scalar_row

ROWS_MAX = 500
SERIES_POINTS_MAX = 2_000
SERIES_HOURS_MAX = 24 * 31
SIGNALS_MAX = 40

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SiteView:
    """The site that the pages show."""

    site_id: str
    name: str
    timezone: str
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True, slots=True)
class AlarmView:
    """One alarm with the names a person knows, and who is on it.

    ``state`` is the ISA-18.2 state derived from condition, ack and suppression; ``order_since_at`` says since when the order is
    in ``order_state``; ``acked_by`` is the actor of the last acknowledgement.
    """

    alarm_id: int
    alarm_type: str
    priority: str
    state: str
    condition: str
    ack: str
    suppression: str
    asset_id: str
    asset_name: str
    zone_id: str | None
    zone_name: str | None
    occurred_at: datetime
    detected_at: datetime
    raised_at: datetime
    occurrence: int
    flaps: int
    normal_at: datetime | None
    closed_at: datetime | None
    evidence_stale_since: datetime | None
    shelved_until: datetime | None
    evidence: JsonObject
    incident_id: int | None
    order_id: int | None
    order_state: str | None
    order_since_at: datetime | None
    crew_id: str | None
    crew_name: str | None
    acked_by: str | None
    acked_at: datetime | None
    detector: str | None
    detector_version: str | None
    version: int


@dataclass(frozen=True, slots=True)
class SlaView:
    """One service clock of an order."""

    name: str
    state: str
    started_at: datetime
    due_at: datetime
    met_at: datetime | None
    paused_s: float


@dataclass(frozen=True, slots=True)
class OrderView:
    """One work order with names, its state's begin, and its service clocks."""

    order_id: int
    label: str
    incident_id: int
    order_type: str
    title: str
    priority: str
    state: str
    since_at: datetime | None
    since_reason: str | None
    asset_id: str
    asset_name: str
    zone_id: str | None
    zone_name: str | None
    required_skill: str
    created_at: datetime
    aware_at: datetime
    due_at: datetime | None
    crew_id: str | None
    crew_name: str | None
    waiting_reason: str | None
    rework: int
    outcome: str | None
    location: JsonObject
    plan: JsonObject
    verification: JsonObject
    report: JsonObject
    closed_at: datetime | None
    version: int
    clocks: list[SlaView] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class IncidentView:
    """One incident with what belongs to it."""

    incident_id: int
    kind: str
    title: str
    state: str
    zone_id: str | None
    zone_name: str | None
    onset_at: datetime | None
    aware_at: datetime
    located_at: datetime | None
    stopped_at: datetime | None
    restored_at: datetime | None
    resolved_at: datetime | None
    volume_lost_m3: float | None
    alarm_ids: list[int]
    order_ids: list[int]
    version: int


@dataclass(frozen=True, slots=True)
class EventView:
    """One transition of any lifecycle; ``subject`` is ``alarm``, ``incident`` or ``order``."""

    subject: str
    subject_id: int
    seq: int
    event: str
    from_state: str
    to_state: str
    actor: str
    reason: str
    at: datetime
    device_at: datetime | None
    note: str
    action_id: UUID | None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class AssignmentView:
    """Why a crew was chosen for an order."""

    crew_id: str
    crew_name: str
    assigned_at: datetime
    ended_at: datetime | None
    reason: str
    detail: JsonObject


@dataclass(frozen=True, slots=True)
class ReviewView:
    """A conflicting action that waits for a person."""

    review_id: int
    order_id: int
    actor: str
    event: str
    at: datetime
    problem: str
    body: JsonObject
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class CrewView:
    """A crew: where it was last, whether it is on shift, what it works on."""

    crew_id: str
    name: str
    longitude_deg: float
    latitude_deg: float
    language: str
    skills: list[str]
    on_shift: bool
    order_id: int | None
    order_state: str | None


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What a service said of itself last, and for how many wall seconds it has been silent since."""

    service: str
    pid: int
    started_at: datetime
    updated_at: datetime
    silent_s: float
    facts: JsonObject


@dataclass(frozen=True, slots=True)
class FindingView:
    """One finding of a detector."""

    finding_id: UUID
    seq: int
    kind: str
    phase: str
    asset_id: str
    zone_id: str | None
    detector: str
    detector_version: str
    score: float
    onset_at: datetime
    detected_at: datetime
    historical: bool
    evidence: JsonObject


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """One kind of message that could not be taken, with the first of its bytes as text."""

    quarantine_id: int
    received_at: datetime
    last_at: datetime
    dialect: str
    topic: str
    device_id: str | None
    reason: str
    message: str
    sample: str
    payload_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class SeriesView:
    """What was observed and what was expected of one signal, as columns of one length.

    Attributes
    ----------
    at_ms : list of int
        Milliseconds since 1970, rising.
    observed, expected, sigma : list of float or None
        In ``unit``; None where a detector had no finite value.
    every : int
        1 when every stored value is there, n when only every n-th is (more would not fit on a screen).
    """

    signal: str
    unit: str
    zone_id: str | None
    asset_id: str | None
    asset_name: str | None
    baseline_id: str | None
    every: int
    at_ms: list[int]
    observed: list[float | None]
    expected: list[float | None]
    sigma: list[float | None]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of each there are now."""

    alarms_open: int
    alarms_unacked: int
    alarms_shelved: int
    orders_open: int
    orders_closed: int
    incidents_open: int
    findings: int
    quarantined: int
    reviews_open: int


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account as the login needs it."""

    account_id: str
    name: str
    role: str
    crew_id: str | None
    password_hash: str
    disabled_at: datetime | None


ALARM_STATE_SQL: LiteralString = """
    CASE a.suppression WHEN 'shelved' THEN 'SHLVD' WHEN 'by_design' THEN 'DSUPR' WHEN 'out_of_service' THEN 'OOSRV' ELSE
        CASE WHEN a.condition = 'active' OR (a.condition = 'unknown' AND a.normal_at IS NULL)
             THEN CASE a.ack WHEN 'unacked' THEN 'UNACK' ELSE 'ACKED' END
             ELSE CASE a.ack WHEN 'unacked' THEN 'RTNUN' ELSE 'NORM' END END END
"""

ALARM_SQL: LiteralString = """
SELECT a.alarm_id, a.alarm_type, a.priority, ALARM_STATE AS state, a.condition, a.ack, a.suppression,
       a.asset_id, coalesce(s.name, a.asset_id) AS asset_name, a.zone_id, z.name AS zone_name,
       a.occurred_at, a.detected_at, a.raised_at, a.occurrence, a.flaps, a.normal_at, a.closed_at, a.evidence_stale_since,
       a.shelved_until, a.evidence, a.incident_id,
       o.order_id, o.state AS order_state, oe.at AS order_since_at, o.crew_id, c.name AS crew_name,
       ae.actor AS acked_by, ae.at AS acked_at, f.detector, f.detector_version, a.version
FROM alarm a
LEFT JOIN asset s USING (asset_id)
LEFT JOIN zone z ON z.zone_id = a.zone_id
LEFT JOIN finding f ON f.finding_id = a.finding_id
LEFT JOIN LATERAL (SELECT * FROM work_order w WHERE w.incident_id = a.incident_id
                   ORDER BY (w.state IN ('CLOSED', 'CANCELLED')), w.order_id DESC LIMIT 1) o ON true
LEFT JOIN crew c ON c.crew_id = o.crew_id
LEFT JOIN LATERAL (SELECT e.at FROM order_event e WHERE e.subject_id = o.order_id AND e.to_state = o.state AND e.from_state <> e.to_state
                   ORDER BY e.seq DESC LIMIT 1) oe ON true
LEFT JOIN LATERAL (SELECT e.actor, e.at FROM alarm_event e WHERE e.subject_id = a.alarm_id AND e.event LIKE '%%ack' AND a.ack = 'acked'
                   ORDER BY e.seq DESC LIMIT 1) ae ON true
""".replace("ALARM_STATE", ALARM_STATE_SQL)

ORDER_SQL: LiteralString = """
SELECT o.order_id, 'WO-' || o.order_id AS label, o.incident_id, o.order_type, o.title, o.priority, o.state,
       oe.at AS since_at, oe.reason AS since_reason, o.asset_id, coalesce(s.name, o.asset_id) AS asset_name, o.zone_id, z.name AS zone_name,
       o.required_skill, o.created_at, o.aware_at, o.due_at, o.crew_id, c.name AS crew_name, o.waiting_reason, o.rework, o.outcome,
       o.location, o.plan, o.verification, o.report, o.closed_at, o.version
FROM work_order o
LEFT JOIN asset s USING (asset_id)
LEFT JOIN zone z ON z.zone_id = o.zone_id
LEFT JOIN crew c ON c.crew_id = o.crew_id
LEFT JOIN LATERAL (SELECT e.at, e.reason FROM order_event e WHERE e.subject_id = o.order_id AND e.to_state = o.state
                   AND e.from_state <> e.to_state ORDER BY e.seq DESC LIMIT 1) oe ON true
"""

INCIDENT_SQL: LiteralString = """
SELECT i.incident_id, i.kind, i.title, i.state, i.zone_id, z.name AS zone_name, i.onset_at, i.aware_at, i.located_at, i.stopped_at,
       i.restored_at, i.resolved_at, i.volume_lost_m3,
       ARRAY(SELECT a.alarm_id FROM alarm a WHERE a.incident_id = i.incident_id ORDER BY 1 LIMIT 100) AS alarm_ids,
       ARRAY(SELECT w.order_id FROM work_order w WHERE w.incident_id = i.incident_id ORDER BY 1 LIMIT 100) AS order_ids, i.version
FROM incident i LEFT JOIN zone z ON z.zone_id = i.zone_id
"""

# urgent first, then what a person has not seen yet, then the newest
ALARM_ORDER_SQL: LiteralString = """
ORDER BY array_position(ARRAY['urgent', 'high', 'medium', 'low', 'journal'], a.priority), (a.suppression <> 'none'), (a.ack = 'acked'),
         a.raised_at DESC, a.alarm_id DESC LIMIT %(limit)s
"""


def _limit(limit: int) -> int:
    return max(1, min(limit, ROWS_MAX))


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def site(conn: Connection[Any]) -> SiteView | None:
    """Return the site (the first by id when there are several), None when nothing is registered."""
    with conn.cursor(row_factory=class_row(SiteView)) as cur:
        cur.execute("SELECT site_id, name, timezone, latitude_deg, longitude_deg FROM site ORDER BY site_id LIMIT 1")
        return cur.fetchone()


def alarms(conn: Connection[Any], *, open_only: bool = True, limit: int = 200) -> list[AlarmView]:
    """Return alarms, most urgent first; with ``open_only`` False also the closed ones (newest first within a priority)."""
    where: LiteralString = "WHERE a.closed_at IS NULL" if open_only else ""
    with conn.cursor(row_factory=class_row(AlarmView)) as cur:
        cur.execute(ALARM_SQL + where + ALARM_ORDER_SQL, {"limit": _limit(limit)})
        return cur.fetchall()


def alarm(conn: Connection[Any], alarm_id: int) -> AlarmView | None:
    """Return one alarm, None when there is none with this id."""
    with conn.cursor(row_factory=class_row(AlarmView)) as cur:
        cur.execute(ALARM_SQL + "WHERE a.alarm_id = %s", (alarm_id,))
        return cur.fetchone()


def alarms_of_incident(conn: Connection[Any], incident_id: int) -> list[AlarmView]:
    """Return the alarms of one incident, open or not, most urgent first."""
    with conn.cursor(row_factory=class_row(AlarmView)) as cur:
        cur.execute(ALARM_SQL + "WHERE a.incident_id = %(incident_id)s" + ALARM_ORDER_SQL, {"incident_id": incident_id, "limit": 100})
        return cur.fetchall()


def _with_clocks(conn: Connection[Any], rows: list[dict[str, Any]]) -> list[OrderView]:
    clocks: dict[int, list[SlaView]] = {row["order_id"]: [] for row in rows}
    if clocks:
        with conn.cursor(row_factory=dict_row) as cur:
            cur.execute(
                """SELECT order_id, name, state, started_at, due_at, met_at, paused_s FROM sla_clock
                   WHERE order_id = ANY(%s) ORDER BY due_at, name""",
                (list(clocks),),
            )
            for row in cur:
                clocks[row.pop("order_id")].append(SlaView(**row))
    return [OrderView(**row, clocks=clocks[row["order_id"]]) for row in rows]


def orders(
    conn: Connection[Any], *, open_only: bool = True, crew_id: str | None = None, closed_since: datetime | None = None, limit: int = 100
) -> list[OrderView]:
    """Return work orders, open ones first, most urgent first, then the newest.

    Parameters
    ----------
    open_only : bool
        Leave out CLOSED and CANCELLED orders, except those closed after ``closed_since`` when it is given.
    crew_id : str or None
        Only orders of this crew.
    """
    where: LiteralString = """
    WHERE (%(all)s OR o.state NOT IN ('CLOSED', 'CANCELLED') OR o.closed_at >= %(closed_since)s)
      AND (%(crew_id)s::text IS NULL OR o.crew_id = %(crew_id)s)
    ORDER BY (o.state IN ('CLOSED', 'CANCELLED')), CASE WHEN o.closed_at IS NULL
             THEN array_position(ARRAY['urgent', 'high', 'medium', 'low', 'journal'], o.priority) END,
             o.closed_at DESC NULLS LAST, o.created_at DESC, o.order_id DESC LIMIT %(limit)s
    """
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute(ORDER_SQL + where, {"all": not open_only, "closed_since": closed_since, "crew_id": crew_id, "limit": _limit(limit)})
        return _with_clocks(conn, cur.fetchall())


def order(conn: Connection[Any], order_id: int) -> OrderView | None:
    """Return one work order, None when there is none with this id."""
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute(ORDER_SQL + "WHERE o.order_id = %s", (order_id,))
        found = _with_clocks(conn, cur.fetchall())
    return found[0] if found else None


def order_crew_id(conn: Connection[Any], order_id: int) -> tuple[bool, str | None]:
    """Return whether the order exists, and the crew it is assigned to."""
    row = conn.execute("SELECT crew_id FROM work_order WHERE order_id = %s", (order_id,)).fetchone()
    return (False, None) if row is None else (True, row[0])


def former_crew_id(conn: Connection[Any], order_id: int, crew_id: str | None) -> str | None:
    """Return `crew_id` when that crew was ever assigned to the order, else None."""
    row = conn.execute("SELECT crew_id FROM assignment WHERE order_id = %s AND crew_id = %s LIMIT 1", (order_id, crew_id)).fetchone()
    return None if row is None else str(row[0])


def incidents(conn: Connection[Any], *, open_only: bool = True, limit: int = 50) -> list[IncidentView]:
    """Return incidents, newest first."""
    where: LiteralString = "WHERE i.resolved_at IS NULL " if open_only else ""
    with conn.cursor(row_factory=class_row(IncidentView)) as cur:
        cur.execute(INCIDENT_SQL + where + "ORDER BY i.aware_at DESC, i.incident_id DESC LIMIT %s", (_limit(limit),))
        return cur.fetchall()


def incident(conn: Connection[Any], incident_id: int) -> IncidentView | None:
    """Return one incident, None when there is none with this id."""
    with conn.cursor(row_factory=class_row(IncidentView)) as cur:
        cur.execute(INCIDENT_SQL + "WHERE i.incident_id = %s", (incident_id,))
        return cur.fetchone()


EVENT_SQL: Mapping[str, LiteralString] = {
    "alarm": """SELECT 'alarm' AS subject, e.subject_id, e.seq, e.event, e.from_state, e.to_state, e.actor, e.reason, e.at, e.device_at,
                       e.note, e.action_id, a.alarm_type || ' ' || coalesce(z.name, s.name, a.asset_id) AS title
                FROM alarm_event e JOIN alarm a ON a.alarm_id = e.subject_id
                LEFT JOIN zone z ON z.zone_id = a.zone_id LEFT JOIN asset s ON s.asset_id = a.asset_id""",
    "incident": """SELECT 'incident' AS subject, e.subject_id, e.seq, e.event, e.from_state, e.to_state, e.actor, e.reason, e.at,
                          e.device_at, e.note, e.action_id, i.title
                   FROM incident_event e JOIN incident i ON i.incident_id = e.subject_id""",
    "order": """SELECT 'order' AS subject, e.subject_id, e.seq, e.event, e.from_state, e.to_state, e.actor, e.reason, e.at, e.device_at,
                       e.note, e.action_id, o.title
                FROM order_event e JOIN work_order o ON o.order_id = e.subject_id""",
}


def events(conn: Connection[Any], *, limit: int = 50, moves_only: bool = False) -> list[EventView]:
    """Return the latest transitions of all lifecycles, newest first; with ``moves_only`` only changes of state and comments."""
    moves: LiteralString = " WHERE e.from_state <> e.to_state OR e.event = 'comment'" if moves_only else ""
    latest: LiteralString = moves + " ORDER BY e.at DESC, e.subject_id DESC, e.seq DESC LIMIT %(limit)s)"
    parts: LiteralString = " UNION ALL ".join(("(" + sql + latest) for sql in EVENT_SQL.values())
    with conn.cursor(row_factory=class_row(EventView)) as cur:
        cur.execute(
            "SELECT * FROM (" + parts + ") AS e ORDER BY e.at DESC, e.subject, e.subject_id DESC, e.seq DESC LIMIT %(limit)s",  # noqa: S608 - literals only
            {"limit": _limit(limit)},
        )
        return cur.fetchall()


def events_of(conn: Connection[Any], subject: str, subject_id: int, *, limit: int = ROWS_MAX) -> list[EventView]:
    """Return the history of one ``alarm``, ``incident`` or ``order``, oldest first (the last ``limit`` steps).

    Raises
    ------
    KeyError
        For another subject.
    """
    sql: LiteralString = EVENT_SQL[subject] + " WHERE e.subject_id = %s ORDER BY e.seq DESC LIMIT %s"
    with conn.cursor(row_factory=class_row(EventView)) as cur:
        cur.execute(sql, (subject_id, _limit(limit)))
        return cur.fetchall()[::-1]


def assignments_of(conn: Connection[Any], order_id: int) -> list[AssignmentView]:
    """Return who was assigned to an order and why, oldest first."""
    with conn.cursor(row_factory=class_row(AssignmentView)) as cur:
        cur.execute(
            """SELECT a.crew_id, c.name AS crew_name, a.assigned_at, a.ended_at, a.reason, a.detail
               FROM assignment a JOIN crew c USING (crew_id) WHERE a.order_id = %s ORDER BY a.assignment_id LIMIT %s""",
            (order_id, ROWS_MAX),
        )
        return cur.fetchall()


def reviews(conn: Connection[Any], *, order_id: int | None = None, limit: int = 50) -> list[ReviewView]:
    """Return review items: those of one order, or the open ones of all."""
    with conn.cursor(row_factory=class_row(ReviewView)) as cur:
        cur.execute(
            """SELECT review_id, order_id, actor, event, at, problem, body, resolved_at FROM review_item
               WHERE CASE WHEN %(order_id)s::bigint IS NULL THEN resolved_at IS NULL ELSE order_id = %(order_id)s END
               ORDER BY review_id DESC LIMIT %(limit)s""",
            {"order_id": order_id, "limit": _limit(limit)},
        )
        return cur.fetchall()


def crews(conn: Connection[Any], now_at: datetime) -> list[CrewView]:
    """Return the crews with their skills valid at ``now_at``, whether they are on shift then, and their live order."""
    with conn.cursor(row_factory=class_row(CrewView)) as cur:
        cur.execute(
            """SELECT c.crew_id, c.name, c.longitude_deg, c.latitude_deg, c.language,
                      ARRAY(SELECT k.skill FROM crew_skill k
                            WHERE k.crew_id = c.crew_id AND (k.expires_at IS NULL OR k.expires_at > %(now)s) ORDER BY 1) AS skills,
                      EXISTS (SELECT FROM shift h
                              WHERE h.crew_id = c.crew_id AND h.starts_at <= %(now)s AND h.ends_at > %(now)s) AS on_shift,
                      o.order_id, o.state AS order_state
               FROM crew c
               LEFT JOIN LATERAL (SELECT w.order_id, w.state FROM work_order w WHERE w.crew_id = c.crew_id
                                  AND w.state IN ('DISPATCHED', 'ACCEPTED', 'EN_ROUTE', 'IN_PROGRESS', 'WAITING')
                                  ORDER BY w.order_id DESC LIMIT 1) o ON true
               ORDER BY c.crew_id LIMIT %(limit)s""",
            {"now": now_at, "limit": ROWS_MAX},
        )
        return cur.fetchall()


def crew(conn: Connection[Any], crew_id: str, now_at: datetime) -> CrewView | None:
    """Return one crew, None when it is not registered."""
    return next((c for c in crews(conn, now_at) if c.crew_id == crew_id), None)


def services(conn: Connection[Any]) -> list[ServiceView]:
    """Return what every service said of itself last."""
    with conn.cursor(row_factory=class_row(ServiceView)) as cur:
        cur.execute(
            """SELECT service, pid, started_at, updated_at, facts,
                      greatest(0, extract(epoch FROM clock_timestamp() - updated_at))::float8 AS silent_s
               FROM service_status ORDER BY service LIMIT 50"""
        )
        return cur.fetchall()


def findings(conn: Connection[Any], *, zone_id: str | None = None, kind: str | None = None, limit: int = 100) -> list[FindingView]:
    """Return findings, newest first."""
    with conn.cursor(row_factory=class_row(FindingView)) as cur:
        cur.execute(
            """SELECT finding_id, seq, kind, phase, asset_id, zone_id, detector, detector_version, score, onset_at, detected_at, historical,
                      evidence FROM finding
               WHERE (%(zone_id)s::text IS NULL OR zone_id = %(zone_id)s) AND (%(kind)s::text IS NULL OR kind = %(kind)s)
               ORDER BY seq DESC LIMIT %(limit)s""",
            {"zone_id": zone_id, "kind": kind, "limit": _limit(limit)},
        )
        return cur.fetchall()


def quarantine(conn: Connection[Any], *, limit: int = 100) -> list[QuarantineView]:
    """Return what could not be taken, newest first; ``sample`` is the beginning of the payload, unreadable bytes escaped."""
    with conn.cursor(row_factory=class_row(QuarantineView)) as cur:
        cur.execute(
            """SELECT quarantine_id, received_at, last_at, dialect, topic, device_id, reason, message,
                      encode(substring(payload FROM 1 FOR 400), 'escape') AS sample, payload_bytes, count
               FROM quarantine ORDER BY last_at DESC, quarantine_id DESC LIMIT %s""",
            (_limit(limit),),
        )
        return cur.fetchall()


def counts(conn: Connection[Any]) -> Counts:
    """Return how many alarms, orders, incidents, findings and quarantined messages there are."""
    with conn.cursor(row_factory=class_row(Counts)) as cur:
        cur.execute(
            """SELECT (SELECT count(*) FROM alarm WHERE closed_at IS NULL) AS alarms_open,
                      (SELECT count(*) FROM alarm WHERE closed_at IS NULL AND ack = 'unacked' AND suppression = 'none') AS alarms_unacked,
                      (SELECT count(*) FROM alarm WHERE closed_at IS NULL AND suppression = 'shelved') AS alarms_shelved,
                      (SELECT count(*) FROM work_order WHERE state NOT IN ('CLOSED', 'CANCELLED')) AS orders_open,
                      (SELECT count(*) FROM work_order WHERE state = 'CLOSED') AS orders_closed,
                      (SELECT count(*) FROM incident WHERE resolved_at IS NULL) AS incidents_open,
                      (SELECT coalesce(max(seq), 0) FROM finding) AS findings,
                      (SELECT coalesce(sum(count), 0)::bigint FROM quarantine) AS quarantined,
                      (SELECT count(*) FROM review_item WHERE resolved_at IS NULL) AS reviews_open"""
        )
        row = cur.fetchone()
    assert row is not None
    return row


def latest_observed_at(conn: Connection[Any]) -> datetime | None:
    """Return the event time of the newest reading, None without readings.

    One descent of the primary key's index a channel, so the cost grows with channels, not with readings.
    """
    with conn.cursor(row_factory=scalar_row) as cur:
        cur.execute(
            """SELECT max(r.observed_at) FROM channel c CROSS JOIN LATERAL
               (SELECT observed_at FROM reading WHERE channel_id = c.channel_id ORDER BY observed_at DESC LIMIT 1) r"""
        )
        latest: datetime | None = cur.fetchone()
        return latest


def change_marks(conn: Connection[Any]) -> dict[str, str]:
    """Return one short mark a topic; a mark differs from the last one when something of that topic changed.

    Cheap enough to ask once a second: it looks only at open rows and at the ends of indexes.
    """
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute(
            """SELECT (SELECT concat_ws('/', count(*), sum(version), max(alarm_id)) FROM alarm WHERE closed_at IS NULL) AS alarms,
                      (SELECT concat_ws('/', count(*), sum(version), max(order_id),
                                        (SELECT concat_ws('/', count(*), max(review_id)) FROM review_item WHERE resolved_at IS NULL))
                       FROM work_order WHERE state NOT IN ('CLOSED', 'CANCELLED')) AS orders,
                      (SELECT concat_ws('/', count(*), sum(version), max(incident_id)) FROM incident
                       WHERE resolved_at IS NULL) AS incidents,
                      (SELECT coalesce(max(seq), 0)::text FROM finding) AS findings,
                      (SELECT coalesce(max(updated_at)::text, '') FROM service_status) AS services"""
        )
        row = cur.fetchone()
    assert row is not None
    return {name: str(mark) for name, mark in row.items()}


def zone_exists(conn: Connection[Any], zone_id: str) -> bool:
    """Return whether a zone is registered."""
    return conn.execute("SELECT FROM zone WHERE zone_id = %s", (zone_id,)).fetchone() is not None


def signals(conn: Connection[Any], *, zone_id: str | None = None, asset_id: str | None = None) -> list[str]:
    """Return names of signals of a zone or an asset (all when neither is given), sorted, at most `ROWS_MAX`."""
    with conn.cursor(row_factory=scalar_row) as cur:
        cur.execute(
            """SELECT name FROM signal
               WHERE (%(zone)s::text IS NULL OR zone_id = %(zone)s) AND (%(asset)s::text IS NULL OR asset_id = %(asset)s)
               ORDER BY name LIMIT %(limit)s""",
            {"zone": zone_id, "asset": asset_id, "limit": ROWS_MAX},
        )
        return [str(name) for name in cur]


def series(
    conn: Connection[Any], names: Sequence[str], until_at: datetime, hours: float, *, points_max: int = SERIES_POINTS_MAX
) -> list[SeriesView]:
    """Return observed, expected and sigma of signals over the ``hours`` before ``until_at``.

    Parameters
    ----------
    names : sequence of str
        Signal names; unknown ones are left out, only the first `SIGNALS_MAX` are read.
    hours : float
        0 < hours <= `SERIES_HOURS_MAX`, in hours.
    points_max : int
        When a series has more points, every n-th is kept, always with the last one.
    """
    hours = min(max(hours, 0.1), SERIES_HOURS_MAX)
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute(
            """SELECT s.signal_id, s.name, s.unit, s.zone_id, s.asset_id, a.name AS asset_name
               FROM signal s LEFT JOIN asset a USING (asset_id) WHERE s.name = ANY(%s) ORDER BY array_position(%s, s.name)""",
            (list(names[:SIGNALS_MAX]), list(names[:SIGNALS_MAX])),
        )
        found = cur.fetchall()
    result: list[SeriesView] = []
    for row in found:
        points = conn.execute(
            """SELECT (extract(epoch FROM at) * 1000)::bigint, observed, expected, sigma, baseline_id FROM expectation
               WHERE signal_id = %s AND at > %s AND at <= %s ORDER BY at DESC LIMIT 100000""",
            (row["signal_id"], until_at - timedelta(hours=hours), until_at),
        ).fetchall()
        every = max(1, -(-len(points) // points_max))
        points = points[::every][::-1]
        result.append(
            SeriesView(
                signal=row["name"],
                unit=row["unit"],
                zone_id=row["zone_id"],
                asset_id=row["asset_id"],
                asset_name=row["asset_name"],
                baseline_id=points[-1][4] if points else None,
                every=every,
                at_ms=[int(p[0]) for p in points],
                observed=[_finite(p[1]) for p in points],
                expected=[_finite(p[2]) for p in points],
                sigma=[_finite(p[3]) for p in points],
            )
        )
    return result


def network(conn: Connection[Any], *, assets_max: int = 20_000) -> JsonObject:
    """Return what the map draws: zones, assets and devices with their geometry, as plain lists.

    An asset is ``{"id", "class", "zone", "name", "g"}`` with ``g`` its GeoJSON coordinates (a position, or a list of positions);
    attributes stay out except a pipe's ``diameter_mm``.
    """
    with conn.cursor(row_factory=dict_row) as cur:
        zones = cur.execute("SELECT zone_id AS id, name, kind, geometry, attributes FROM zone ORDER BY zone_id LIMIT 2000").fetchall()
        assets = cur.execute(
            """SELECT asset_id AS id, asset_class AS class, zone_id AS zone, name, geometry->'coordinates' AS g, geometry->>'type' AS t,
                      attributes->'diameter_mm' AS d
               FROM asset WHERE geometry IS NOT NULL ORDER BY asset_id LIMIT %s""",
            (assets_max + 1,),
        ).fetchall()
        devices = cur.execute(
            """SELECT d.device_id AS id, d.zone_id AS zone, d.asset_id AS asset, d.model, d.status,
                      coalesce(d.geometry, a.geometry)->'coordinates' AS g, coalesce(d.geometry, a.geometry)->>'type' AS t,
                      ARRAY(SELECT DISTINCT c.role FROM channel c WHERE c.device_id = d.device_id ORDER BY 1) AS roles
               FROM device d LEFT JOIN asset a USING (asset_id) WHERE coalesce(d.geometry, a.geometry) IS NOT NULL
               ORDER BY d.device_id LIMIT %s""",
            (assets_max,),
        ).fetchall()
    return {
        "zones": zones,
        "assets": [{key: value for key, value in row.items() if value is not None} for row in assets[:assets_max]],
        "devices": devices,
        "truncated": len(assets) > assets_max,
    }


def geometries(conn: Connection[Any], asset_ids: Sequence[str]) -> dict[str, JsonObject]:
    """Return name and GeoJSON geometry of some assets, by id."""
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute("SELECT asset_id, name, geometry FROM asset WHERE asset_id = ANY(%s)", (list(asset_ids[:ROWS_MAX]),))
        return {row["asset_id"]: {"name": row["name"], "geometry": row["geometry"]} for row in cur}


def surroundings(conn: Connection[Any], zone_id: str) -> list[JsonObject]:
    """Return pipes and roads of a zone for a small map: ``{"id", "class", "g"}``, at most 2000."""
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute(
            """SELECT asset_id AS id, asset_class AS class, geometry->'coordinates' AS g FROM asset
               WHERE zone_id = %s AND geometry->>'type' = 'LineString' ORDER BY asset_id LIMIT 2000""",
            (zone_id,),
        )
        return cur.fetchall()


def account(conn: Connection[Any], account_id: str) -> AccountRow | None:
    """Return one account, None when there is none with this id."""
    with conn.cursor(row_factory=class_row(AccountRow)) as cur:
        cur.execute("SELECT account_id, name, role, crew_id, password_hash, disabled_at FROM account WHERE account_id = %s", (account_id,))
        return cur.fetchone()
