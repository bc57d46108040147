"""Rows of the work side: alarms, incidents, orders, their event logs, clocks, crews, holds, the outbox. Nothing is decided here.

A row changes only by `update`, which checks its version, and every change is appended to an event log by `append_event`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString, TypeVar
from uuid import UUID

import msgspec
import numpy as np
from psycopg import Connection, sql
from psycopg.rows import dict_row, scalar_row, tuple_row
from psycopg.types.json import Jsonb

from underway.model import Alarm, Incident, InternalError, LifecycleEvent, Shift, SlaClock, WorkOrder

Kind = Literal["alarm", "incident", "order"]
Row = TypeVar("Row", Alarm, Incident, WorkOrder)

WORK_CHANNEL = "underway_work"
"""Channel of NOTIFY: a hint that the work side changed a row; the tables are the truth."""
SERIES_ROWS_MAX = 50_000
LIST_MAX = 200
TEXT_MAX = 2_000


@dataclass(frozen=True, slots=True)
class _Shape:
    table: LiteralString
    log: LiteralString
    key: LiteralString
    type: type


_SHAPES: dict[str, _Shape] = {
    "alarm": _Shape("alarm", "alarm_event", "alarm_id", Alarm),
    "incident": _Shape("incident", "incident_event", "incident_id", Incident),
    "order": _Shape("work_order", "order_event", "order_id", WorkOrder),
}
_KIND: dict[type, Kind] = {Alarm: "alarm", Incident: "incident", WorkOrder: "order"}


def kind_of(row: Alarm | Incident | WorkOrder) -> Kind:
    """Return ``alarm``, ``incident`` or ``order``."""
    return _KIND[type(row)]


def id_of(row: Alarm | Incident | WorkOrder) -> int:
    """Return the id of a row."""
    return int(getattr(row, _SHAPES[kind_of(row)].key))


# values <-> columns ---------------------------------------------------------------------------------------------------------------------


def _utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _typed(columns: Mapping[str, Any], wanted: type[Row]) -> Row:
    return msgspec.convert({name: _utc(value) for name, value in columns.items()}, wanted)


def _column(value: Any) -> Any:
    return Jsonb(value) if isinstance(value, Mapping) else value


def plain(value: Any) -> Any:
    """Return a value of a row as it stands in the facts of an event."""
    return msgspec.to_builtins(_utc(value))


def from_facts(kind: Kind, facts: Mapping[str, Any]) -> Alarm | Incident | WorkOrder:
    """Return the row that the facts of its whole event log say."""
    row: Alarm | Incident | WorkOrder = msgspec.convert(dict(facts), _SHAPES[kind].type)
    return row


# rows -----------------------------------------------------------------------------------------------------------------------------------


def lock_site(conn: Connection[Any], site_id: str) -> None:
    """Wait until no other transaction decides for this site; released at the end of the transaction."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('underway work'), hashtext(%s))", (site_id,))


def sites(conn: Connection[Any]) -> tuple[str, ...]:
    """Return the ids of all sites."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        return tuple(cursor.execute("SELECT site_id FROM site ORDER BY site_id").fetchall())


def _one(conn: Connection[Any], wanted: type[Row], where: LiteralString, params: Sequence[Any], lock: bool = False) -> Row | None:
    shape = _SHAPES[_KIND[wanted]]
    query = sql.SQL("SELECT * FROM {} WHERE {}{}").format(
        sql.Identifier(shape.table), sql.SQL(where), sql.SQL(" FOR UPDATE" if lock else "")
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, params).fetchone()
    return None if row is None else _typed(row, wanted)


def _many(conn: Connection[Any], wanted: type[Row], where: LiteralString, params: Sequence[Any], limit: int = LIST_MAX) -> tuple[Row, ...]:
    shape = _SHAPES[_KIND[wanted]]
    query = sql.SQL("SELECT * FROM {} WHERE {} ORDER BY {} LIMIT %s").format(
        sql.Identifier(shape.table), sql.SQL(where), sql.Identifier(shape.key)
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, [*params, limit]).fetchall()
    return tuple(_typed(row, wanted) for row in rows)


def load_alarm(conn: Connection[Any], alarm_id: int, *, lock: bool = False) -> Alarm | None:
    """Return an alarm."""
    return _one(conn, Alarm, "alarm_id = %s", (alarm_id,), lock)


def load_incident(conn: Connection[Any], incident_id: int, *, lock: bool = False) -> Incident | None:
    """Return an incident."""
    return _one(conn, Incident, "incident_id = %s", (incident_id,), lock)


def load_order(conn: Connection[Any], order_id: int, *, lock: bool = False) -> WorkOrder | None:
    """Return a work order."""
    return _one(conn, WorkOrder, "order_id = %s", (order_id,), lock)


def live_alarm(conn: Connection[Any], site_id: str, asset_id: str, alarm_type: str) -> Alarm | None:
    """Return the live alarm of an asset and type, locked."""
    return _one(
        conn, Alarm, "site_id = %s AND asset_id = %s AND alarm_type = %s AND closed_at IS NULL", (site_id, asset_id, alarm_type), True
    )


def alarms_of_incident(conn: Connection[Any], incident_id: int, *, live_only: bool = True) -> tuple[Alarm, ...]:
    """Return the alarms of an incident."""
    if live_only:
        return _many(conn, Alarm, "incident_id = %s AND closed_at IS NULL", (incident_id,))
    return _many(conn, Alarm, "incident_id = %s", (incident_id,))


def open_orders_of(conn: Connection[Any], incident_id: int) -> tuple[WorkOrder, ...]:
    """Return the orders of an incident that are neither closed nor cancelled."""
    return _many(conn, WorkOrder, "incident_id = %s AND state NOT IN ('CLOSED', 'CANCELLED')", (incident_id,))


def closed_orders(conn: Connection[Any], site_id: str, order_type: str, asset_id: str, since_at: datetime) -> tuple[WorkOrder, ...]:
    """Return the orders of a type on an asset that were closed since an instant, oldest first."""
    where: LiteralString = "site_id = %s AND order_type = %s AND asset_id = %s AND state = 'CLOSED' AND closed_at >= %s"
    return _many(conn, WorkOrder, where, (site_id, order_type, asset_id, since_at))


def open_incident(
    conn: Connection[Any], site_id: str, kind: str, zone_id: str | None, asset_id: str | None, since_at: datetime
) -> Incident | None:
    """Return the newest unresolved incident of a kind in a zone (or, with `asset_id`, on an asset) that someone knew of since `since_at`."""
    found = _many(
        conn,
        Incident,
        "site_id = %s AND kind = %s AND resolved_at IS NULL AND (aware_at >= %s OR EXISTS (SELECT FROM work_order w"
        " WHERE w.incident_id = incident.incident_id AND w.state NOT IN ('CLOSED', 'CANCELLED')))"
        " AND CASE WHEN %s::text IS NULL THEN zone_id IS NOT DISTINCT FROM %s"
        " ELSE EXISTS (SELECT FROM alarm a WHERE a.incident_id = incident.incident_id AND a.asset_id = %s) END",
        (site_id, kind, since_at, asset_id, zone_id, asset_id),
    )
    return found[-1] if found else None


def insert(conn: Connection[Any], kind: Kind, columns: Mapping[str, Any]) -> Alarm | Incident | WorkOrder | None:
    """Insert a row and return it, or None when a unique index says that a live one is there already."""
    shape = _SHAPES[kind]
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING RETURNING *").format(
        sql.Identifier(shape.table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, [_column(v) for v in columns.values()]).fetchone()
    return None if row is None else _typed(row, shape.type)


def update(conn: Connection[Any], row: Row, changes: Mapping[str, Any]) -> Row:
    """Write `changes` and the next version; return the new row.

    Raises
    ------
    InternalError
        When the row is not at the version that was read: somebody changed it without the lock of its site.
    """
    shape = _SHAPES[kind_of(row)]
    columns: list[str] = list(changes)
    query = sql.SQL("UPDATE {} SET {} WHERE {} = %s AND version = %s RETURNING *").format(
        sql.Identifier(shape.table),
        sql.SQL(", ").join([sql.SQL("{} = %s").format(sql.Identifier(n)) for n in columns] + [sql.SQL("version = version + 1")]),
        sql.Identifier(shape.key),
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query, [*(_column(changes[n]) for n in columns), id_of(row), row.version]).fetchone()
    if found is None:
        raise InternalError(
            f"{kind_of(row)} {id_of(row)} must be at version {row.version}: somebody changed it without the lock of its site"
        )
    return _typed(found, type(row))


# event logs -----------------------------------------------------------------------------------------------------------------------------


def append_event(conn: Connection[Any], kind: Kind, event: LifecycleEvent) -> None:
    """Append one step to the event log, and hint listeners at it."""
    query = sql.SQL(
        "INSERT INTO {} (subject_id, seq, event, from_state, to_state, actor, reason, at, action_id, device_at, note, facts)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    ).format(sql.Identifier(_SHAPES[kind].log))
    conn.execute(
        query,
        (
            event.subject_id,
            event.seq,
            event.event,
            event.from_state,
            event.to_state,
            event.actor,
            event.reason,
            event.at,
            event.action_id,
            event.device_at,
            event.note[:TEXT_MAX],
            Jsonb(dict(event.facts)),
        ),
    )
    conn.execute("SELECT pg_notify(%s, %s)", (WORK_CHANNEL, f"{kind} {event.subject_id} {event.event}"))


def _event(row: Mapping[str, Any]) -> LifecycleEvent:
    return LifecycleEvent(**{name: _utc(value) for name, value in row.items()})


def events_of(conn: Connection[Any], kind: Kind, subject_id: int) -> tuple[LifecycleEvent, ...]:
    """Return the whole event log of a row, oldest first."""
    query = sql.SQL("SELECT * FROM {} WHERE subject_id = %s ORDER BY seq").format(sql.Identifier(_SHAPES[kind].log))
    with conn.cursor(row_factory=dict_row) as cursor:
        return tuple(_event(row) for row in cursor.execute(query, (subject_id,)).fetchall())


def event_by_action(conn: Connection[Any], kind: Kind, action_id: UUID) -> LifecycleEvent | None:
    """Return the step that an action made, if it was made."""
    query = sql.SQL("SELECT * FROM {} WHERE action_id = %s").format(sql.Identifier(_SHAPES[kind].log))
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, (action_id,)).fetchone()
    return None if row is None else _event(row)


def subjects(conn: Connection[Any], kind: Kind) -> tuple[int, ...]:
    """Return the ids of all rows of a kind."""
    shape = _SHAPES[kind]
    query = sql.SQL("SELECT {} FROM {} ORDER BY 1").format(sql.Identifier(shape.key), sql.Identifier(shape.table))
    with conn.cursor(row_factory=scalar_row) as cursor:
        return tuple(cursor.execute(query).fetchall())


# review items ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """An action that conflicted with what had happened meanwhile; a person looks at it."""

    review_id: int
    order_id: int
    action_id: UUID
    actor: str
    event: str
    base_version: int | None
    device_at: datetime | None
    at: datetime
    problem: str
    body: Mapping[str, Any]
    resolved_at: datetime | None = None
    resolved_by: str | None = None


def _review(row: Mapping[str, Any] | None) -> ReviewItem | None:
    return None if row is None else ReviewItem(**{name: _utc(value) for name, value in row.items()})


def review_by_action(conn: Connection[Any], action_id: UUID) -> ReviewItem | None:
    """Return the review item of an action, if it became one."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return _review(cursor.execute("SELECT * FROM review_item WHERE action_id = %s", (action_id,)).fetchone())


def open_review_count(conn: Connection[Any], site_id: str) -> int:
    """Return how many review items of a site nobody has resolved."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        query = "SELECT count(*) FROM review_item r JOIN work_order w USING (order_id) WHERE w.site_id = %s AND r.resolved_at IS NULL"
        return int(cursor.execute(query, (site_id,)).fetchone() or 0)


def insert_review(conn: Connection[Any], item: ReviewItem) -> ReviewItem:
    """Store a review item and return it with its id."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "INSERT INTO review_item (order_id, action_id, actor, event, base_version, device_at, at, problem, body)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING *",
            (
                item.order_id,
                item.action_id,
                item.actor,
                item.event,
                item.base_version,
                item.device_at,
                item.at,
                item.problem[:TEXT_MAX],
                Jsonb(dict(item.body)),
            ),
        ).fetchone()
    stored = _review(row)
    assert stored is not None
    return stored


def resolve_review(conn: Connection[Any], review_id: int, actor: str, at: datetime) -> bool:
    """Mark a review item as looked at; False when it was already, or is not there."""
    query = "UPDATE review_item SET resolved_at = %s, resolved_by = %s WHERE review_id = %s AND resolved_at IS NULL"
    return conn.execute(query, (at, actor, review_id)).rowcount == 1


# SLA clocks -----------------------------------------------------------------------------------------------------------------------------


def _clock(row: Mapping[str, Any]) -> SlaClock:
    clock: SlaClock = msgspec.convert({name: _utc(value) for name, value in row.items()}, SlaClock)
    return clock


def save_clocks(conn: Connection[Any], clocks: Sequence[SlaClock]) -> None:
    """Insert or update SLA clocks."""
    for clock in clocks:
        conn.execute(
            "INSERT INTO sla_clock (order_id, name, state, started_at, due_at, met_at, paused_s, warned_pct)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (order_id, name) DO UPDATE SET state = EXCLUDED.state,"
            " started_at = EXCLUDED.started_at, due_at = EXCLUDED.due_at, met_at = EXCLUDED.met_at, paused_s = EXCLUDED.paused_s,"
            " warned_pct = EXCLUDED.warned_pct",
            (clock.order_id, clock.name, clock.state, clock.started_at, clock.due_at, clock.met_at, clock.paused_s, clock.warned_pct),
        )


def clocks_of(conn: Connection[Any], order_id: int) -> tuple[SlaClock, ...]:
    """Return the clocks of an order."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return tuple(_clock(r) for r in cursor.execute("SELECT * FROM sla_clock WHERE order_id = %s ORDER BY name", (order_id,)).fetchall())


def orders_with_running_clocks(conn: Connection[Any], site_id: str, after_id: int = 0) -> tuple[int, ...]:
    """Return the ids of at most `LIST_MAX` open orders of a site with a running clock and a greater id than `after_id`, ascending."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        rows = cursor.execute(
            "SELECT order_id FROM work_order w WHERE site_id = %s AND order_id > %s AND state NOT IN ('CLOSED', 'CANCELLED')"
            " AND EXISTS (SELECT FROM sla_clock k WHERE k.order_id = w.order_id AND k.state = 'RUNNING') ORDER BY order_id LIMIT %s",
            (site_id, after_id, LIST_MAX),
        ).fetchall()
    return tuple(rows)


# places and crews -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of where an asset is: ``geometry`` and ``zone_geometry`` are GeoJSON."""

    site_id: str
    timezone: str
    site_point: tuple[float, float]
    asset_name: str | None
    zone_name: str | None
    geometry: Mapping[str, Any] | None
    zone_geometry: Mapping[str, Any] | None


def place_of(conn: Connection[Any], asset_id: str, zone_id: str | None) -> Place | None:
    """Return where an asset is; None when neither the asset nor the zone nor a single site tells whose it is."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            "SELECT s.site_id, s.timezone, s.longitude_deg, s.latitude_deg, a.name, z.name, a.geometry, z.geometry"
            " FROM site s LEFT JOIN asset a ON a.asset_id = %(asset)s AND a.site_id = s.site_id"
            " LEFT JOIN zone z ON z.zone_id = coalesce(%(zone)s, a.zone_id) AND z.site_id = s.site_id"
            " WHERE a.asset_id IS NOT NULL OR z.zone_id IS NOT NULL OR (SELECT count(*) FROM site) = 1"
            " ORDER BY a.asset_id IS NULL, z.zone_id IS NULL LIMIT 1",
            {"asset": asset_id, "zone": zone_id},
        ).fetchone()
    if row is None:
        return None
    return Place(row[0], row[1], (row[2], row[3]), row[4], row[5], row[6], row[7])


def asset_geometry(conn: Connection[Any], asset_id: str) -> Mapping[str, Any] | None:
    """Return the GeoJSON of an asset."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        geometry: Mapping[str, Any] | None = cursor.execute("SELECT geometry FROM asset WHERE asset_id = %s", (asset_id,)).fetchone()
    return geometry


@dataclass(frozen=True, slots=True)
class CrewRow:
    """A crew with skills and their ends, the shifts around now, and what it is busy with ("" free)."""

    crew_id: str
    name: str
    longitude_deg: float
    latitude_deg: float
    phone: str
    language: str
    speed_kmph: float
    skills: Mapping[str, datetime | None]
    shifts: tuple[Shift, ...]
    busy_order_id: int | None


def crew_rows(conn: Connection[Any], site_id: str, now_at: datetime) -> tuple[CrewRow, ...]:
    """Return the crews of a site as dispatch needs them."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT c.*, coalesce((SELECT jsonb_object_agg(k.skill, k.expires_at) FROM crew_skill k WHERE k.crew_id = c.crew_id), '{}') AS skills,"
            " (SELECT s.starts_at FROM shift s WHERE s.crew_id = c.crew_id AND s.starts_at <= %(now)s AND s.ends_at > %(now)s"
            "  ORDER BY s.ends_at DESC LIMIT 1) AS shift_from,"
            " (SELECT s.ends_at FROM shift s WHERE s.crew_id = c.crew_id AND s.starts_at <= %(now)s AND s.ends_at > %(now)s"
            "  ORDER BY s.ends_at DESC LIMIT 1) AS shift_to,"
            " (SELECT a.order_id FROM assignment a WHERE a.crew_id = c.crew_id AND a.ended_at IS NULL"
            "  ORDER BY a.assigned_at LIMIT 1) AS busy_order_id"
            " FROM crew c WHERE c.site_id = %(site)s ORDER BY c.crew_id LIMIT 1000",
            {"site": site_id, "now": now_at},
        ).fetchall()
    return tuple(
        CrewRow(
            r["crew_id"],
            r["name"],
            r["longitude_deg"],
            r["latitude_deg"],
            r["phone"],
            r["language"],
            r["speed_kmph"],
            {skill: None if ends is None else datetime.fromisoformat(ends) for skill, ends in r["skills"].items()},
            () if r["shift_from"] is None else (Shift(_utc(r["shift_from"]), _utc(r["shift_to"])),),
            r["busy_order_id"],
        )
        for r in rows
    )


def assign(conn: Connection[Any], order_id: int, crew_id: str, at: datetime, reason: str, detail: Mapping[str, Any]) -> None:
    """End the live assignment of an order, if any, and begin another."""
    end_assignment(conn, order_id, at)
    conn.execute(
        "INSERT INTO assignment (order_id, crew_id, assigned_at, reason, detail) VALUES (%s, %s, %s, %s, %s)",
        (order_id, crew_id, at, reason, Jsonb(dict(detail))),
    )


def end_assignment(conn: Connection[Any], order_id: int, at: datetime) -> None:
    """End the live assignment of an order, if any."""
    conn.execute("UPDATE assignment SET ended_at = %s WHERE order_id = %s AND ended_at IS NULL", (at, order_id))


# holds ----------------------------------------------------------------------------------------------------------------------------------


def open_hold(conn: Connection[Any], zone_id: str | None, asset_id: str, at: datetime, order_id: int | None = None) -> None:
    """Ask the detectors of an asset (and zone) to stop adapting, unless they were asked already."""
    conn.execute(
        "INSERT INTO hold (zone_id, asset_id, held_at, order_id) VALUES (%s, %s, %s, %s) ON CONFLICT (asset_id) WHERE released_at IS NULL"
        " DO UPDATE SET order_id = coalesce(hold.order_id, EXCLUDED.order_id)",
        (zone_id, asset_id, at, order_id),
    )


def release_holds(conn: Connection[Any], asset_ids: Sequence[str], at: datetime, verdict: str) -> int:
    """Let the detectors of assets adapt again; returns how many holds ended."""
    query = "UPDATE hold SET released_at = %s, verdict = %s WHERE asset_id = ANY(%s) AND released_at IS NULL"
    return conn.execute(query, (at, verdict, list(asset_ids))).rowcount


# delays, retro alarms -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delay:
    """An on-delay or off-delay that runs."""

    site_id: str
    asset_id: str
    alarm_type: str
    event: str
    finding_id: UUID
    due_at: datetime


def start_delay(conn: Connection[Any], delay: Delay) -> None:
    """Start a delay; a delay of the same event that runs already keeps its time."""
    conn.execute(
        "INSERT INTO alarm_delay (site_id, asset_id, alarm_type, event, finding_id, due_at) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (site_id, asset_id, alarm_type) DO UPDATE SET event = EXCLUDED.event, finding_id = EXCLUDED.finding_id,"
        " due_at = EXCLUDED.due_at WHERE alarm_delay.event <> EXCLUDED.event",
        (delay.site_id, delay.asset_id, delay.alarm_type, delay.event, delay.finding_id, delay.due_at),
    )


def stop_delay(conn: Connection[Any], site_id: str, asset_id: str, alarm_type: str) -> None:
    """Forget the delay that runs for an asset and type, if any."""
    conn.execute("DELETE FROM alarm_delay WHERE site_id = %s AND asset_id = %s AND alarm_type = %s", (site_id, asset_id, alarm_type))


def due_delays(conn: Connection[Any], site_id: str, now_at: datetime) -> tuple[Delay, ...]:
    """Return the delays that are over."""
    with conn.cursor(row_factory=dict_row) as cursor:
        query = "SELECT * FROM alarm_delay WHERE site_id = %s AND due_at <= %s ORDER BY due_at LIMIT %s"
        rows = cursor.execute(query, (site_id, now_at, LIST_MAX)).fetchall()
    return tuple(Delay(**{name: _utc(value) for name, value in row.items()}) for row in rows)


def record_retro(
    conn: Connection[Any],
    finding_id: UUID,
    site_id: str,
    asset_id: str,
    alarm_type: str,
    phase: str,
    occurred_at: datetime,
    detected_at: datetime,
    recorded_at: datetime,
) -> None:
    """Keep what a historical finding says, dated; a replay writes nothing twice."""
    conn.execute(
        "INSERT INTO retro_alarm (finding_id, site_id, asset_id, alarm_type, phase, occurred_at, detected_at, recorded_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (finding_id, site_id, asset_id, alarm_type, phase, occurred_at, detected_at, recorded_at),
    )


# cursor ---------------------------------------------------------------------------------------------------------------------------------


def cursor_position(conn: Connection[Any], reader: str, *, lock: bool = False) -> int:
    """Return how far a reader has come; 0 in the beginning."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        if lock:
            cursor.execute("INSERT INTO cursor_position (reader, position) VALUES (%s, 0) ON CONFLICT DO NOTHING", (reader,))
            position = cursor.execute("SELECT position FROM cursor_position WHERE reader = %s FOR UPDATE", (reader,)).fetchone()
        else:
            position = cursor.execute("SELECT position FROM cursor_position WHERE reader = %s", (reader,)).fetchone()
    return int(position or 0)


def move_cursor(conn: Connection[Any], reader: str, position: int) -> None:
    """Note how far a reader has come."""
    conn.execute("UPDATE cursor_position SET position = %s WHERE reader = %s AND position < %s", (position, reader, position))


# signals for verification ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignalRows:
    """Expectation rows of one signal as columns, in time order, oldest first."""

    name: str
    unit: str
    at_us: np.ndarray[Any, np.dtype[np.int64]]
    observed: np.ndarray[Any, np.dtype[np.float64]]
    expected: np.ndarray[Any, np.dtype[np.float64]]
    sigma: np.ndarray[Any, np.dtype[np.float64]]
    baseline: tuple[str, ...]


def read_signals(conn: Connection[Any], names: Sequence[str], from_at: datetime, to_at: datetime) -> dict[str, SignalRows]:
    """Return the rows of signals in (from, to], at most the newest `SERIES_ROWS_MAX` of each; signals without rows are left out."""
    result = {}
    with conn.cursor(row_factory=tuple_row) as cursor:
        known = cursor.execute("SELECT signal_id, name, unit FROM signal WHERE name = ANY(%s) ORDER BY name", (list(names),)).fetchall()
        for signal_id, name, unit in known:
            rows = cursor.execute(
                "SELECT (extract(epoch FROM at) * 1000000)::bigint, observed, expected, sigma, baseline_id FROM expectation"
                " WHERE signal_id = %s AND at > %s AND at <= %s ORDER BY at DESC LIMIT %s",
                (signal_id, from_at, to_at, SERIES_ROWS_MAX),
            ).fetchall()
            if not rows:
                continue
            rows.reverse()
            at_us, observed, expected, sigma, baseline = zip(*rows, strict=True)
            result[name] = SignalRows(
                name,
                unit,
                np.array(at_us, np.int64),
                np.array(observed, np.float64),
                np.array(expected, np.float64),
                np.array(sigma, np.float64),
                baseline,
            )
    return result


def pressure_signals(conn: Connection[Any], zone_id: str) -> tuple[str, ...]:
    """Return the names of the pressure signals of a zone."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        query = "SELECT name FROM signal WHERE zone_id = %s AND name LIKE 'asset/%%/pressure' ORDER BY name LIMIT 50"
        return tuple(cursor.execute(query, (zone_id,)).fetchall())


def newest_signal_at(conn: Connection[Any], asset_id: str, zone_id: str | None) -> datetime | None:
    """Return the time of the newest expectation row that concerns an asset: its own signals, else the zone's; None without any signal."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        newest = cursor.execute(
            "SELECT max(e.at) FROM (SELECT signal_id FROM signal WHERE asset_id = %(asset)s UNION ALL SELECT signal_id FROM signal"
            " WHERE zone_id = %(zone)s AND asset_id IS NULL AND NOT EXISTS (SELECT FROM signal WHERE asset_id = %(asset)s)) s,"
            " LATERAL (SELECT at FROM expectation WHERE signal_id = s.signal_id ORDER BY at DESC LIMIT 1) e",
            {"asset": asset_id, "zone": zone_id},
        ).fetchone()
    return None if newest is None else newest.astimezone(UTC)


# what a timer looks for -----------------------------------------------------------------------------------------------------------------


def live_alarms(conn: Connection[Any], site_id: str, after_id: int = 0) -> tuple[Alarm, ...]:
    """Return at most `LIST_MAX` live alarms of a site with a greater id than `after_id`, oldest first."""
    return _many(conn, Alarm, "site_id = %s AND closed_at IS NULL AND alarm_id > %s", (site_id, after_id))


def shelved_alarms(conn: Connection[Any], site_id: str, now_at: datetime) -> tuple[Alarm, ...]:
    """Return the alarms whose shelf time is over."""
    return _many(conn, Alarm, "site_id = %s AND closed_at IS NULL AND suppression = 'shelved' AND shelved_until <= %s", (site_id, now_at))


def orders_in(conn: Connection[Any], site_id: str, states: Sequence[str], after_id: int = 0) -> tuple[WorkOrder, ...]:
    """Return at most `LIST_MAX` orders of a site in some states with a greater id than `after_id`, oldest first."""
    return _many(conn, WorkOrder, "site_id = %s AND state = ANY(%s) AND order_id > %s", (site_id, list(states), after_id))


def last_event(conn: Connection[Any], kind: Kind, subject_id: int, names: Sequence[str]) -> LifecycleEvent | None:
    """Return the newest step of some events."""
    query = sql.SQL("SELECT * FROM {} WHERE subject_id = %s AND event = ANY(%s) ORDER BY seq DESC LIMIT 1").format(
        sql.Identifier(_SHAPES[kind].log)
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, (subject_id, list(names))).fetchone()
    return None if row is None else _event(row)


def refusals(conn: Connection[Any], order_id: int, declined_since: datetime, silent_since: datetime) -> dict[str, str]:
    """Return the crews that declined an order, or did not answer, since some instants, with what happened."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT facts ->> '@crew_id', event, note FROM order_event WHERE subject_id = %s AND facts ? '@crew_id'"
            " AND ((event = 'decline' AND at >= %s) OR (event = 'no_receipt' AND at >= %s)) ORDER BY seq",
            (order_id, declined_since, silent_since),
        ).fetchall()
    return {crew_id: (f"declined: {note}" if event == "decline" else "did not answer") for crew_id, event, note in rows}


# outbox ---------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notification:
    """One row of the outbox."""

    notification_id: int
    idempotency_key: str
    channel: str
    recipient: str
    subject: str
    body: Mapping[str, Any]
    created_at: datetime
    attempts: int


def post(
    conn: Connection[Any], key: str, recipient: str, subject: str, body: Mapping[str, Any], at: datetime, channel: str = "mqtt"
) -> bool:
    """Put a notification into the outbox; False when one with this key is there already."""
    return (
        conn.execute(
            "INSERT INTO notification (idempotency_key, channel, recipient, subject, body, created_at, next_try_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (key[:500], channel, recipient, subject[:TEXT_MAX], Jsonb(dict(body)), at, at),
        ).rowcount
        == 1
    )


def unsent(conn: Connection[Any], now_at: datetime, limit: int = 100) -> tuple[Notification, ...]:
    """Return notifications whose turn it is, oldest first."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT notification_id, idempotency_key, channel, recipient, subject, body, created_at, attempts FROM notification"
            " WHERE sent_at IS NULL AND failed_reason IS NULL AND next_try_at <= %s ORDER BY notification_id LIMIT %s",
            (now_at, limit),
        ).fetchall()
    return tuple(Notification(**{name: _utc(value) for name, value in row.items()}) for row in rows)


def mark_sent(conn: Connection[Any], notification_id: int, sent_at: datetime, delivered_at: datetime) -> None:
    """Note that the broker has a notification."""
    conn.execute(
        "UPDATE notification SET sent_at = %s, delivered_at = %s, attempts = attempts + 1 WHERE notification_id = %s",
        (sent_at, delivered_at, notification_id),
    )


def mark_failed(conn: Connection[Any], notification_id: int, next_try_at: datetime, failed_reason: str | None) -> None:
    """Note an attempt that failed; with a reason it is given up."""
    conn.execute(
        "UPDATE notification SET attempts = attempts + 1, next_try_at = %s, failed_reason = %s WHERE notification_id = %s",
        (next_try_at, failed_reason, notification_id),
    )


def backlog(conn: Connection[Any], reader: str, due_at: datetime | None = None) -> tuple[int, int]:
    """Return how many findings a reader has not taken (at most), and how many notifications wait; with `due_at` those that are due by then."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(
            "SELECT greatest(coalesce((SELECT max(seq) FROM finding), 0)"
            " - coalesce((SELECT position FROM cursor_position WHERE reader = %s), 0), 0),"
            " (SELECT count(*) FROM notification WHERE sent_at IS NULL AND failed_reason IS NULL"
            " AND next_try_at <= coalesce(%s::timestamptz, 'infinity'))",
            (reader, due_at),
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def listen(conn: Connection[Any], channels: Sequence[str]) -> None:
    """Let a connection in autocommit mode hear NOTIFY on some channels."""
    for channel in channels:
        conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))


def column_names(kind: Kind) -> tuple[str, ...]:
    """Return the columns of a row's table, as its dataclass has them."""
    shape = _SHAPES[kind].type
    assert is_dataclass(shape)
    return tuple(f.name for f in fields(shape))
