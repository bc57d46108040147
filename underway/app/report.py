"""What a demo run has come to: the snapshot for the terminal and the JSON object at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from underway.app.live import AlarmLine, FeedLine, OrderLine, Snapshot
from underway.store import views

MEASUREMENTS = frozenset({"progress"})  # verification measured again: in the event log, but no transition
QUIET_STATES = frozenset({"ACKED", "SHLVD", "DSUPR", "OOSRV", "NORM"})


@dataclass(frozen=True, slots=True)
class Truth:
    """What really happened, for the score beside what was found.

    ``began_us`` is the begin of the first water fault (microseconds since 1970), ``pipe_id`` the asset it sits on.
    """

    pipe_id: str | None
    began_us: int | None
    distance_m: Callable[[str, str], float]
    orders_expected: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """What only the town knows."""

    published: int
    town_at: datetime
    speed: float
    readings_per_s: float


class StoredCount:
    """How many readings are stored, counted batch by batch so that asking often stays cheap.

    Parameters
    ----------
    conn : Connection
        In autocommit mode; used by one thread at a time.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._batch_id = -1
        self._count = 0

    def __call__(self) -> int:
        """Return the number of readings stored so far."""
        row = self._conn.execute("SELECT count(*), max(batch_id) FROM reading WHERE batch_id > %s", (self._batch_id,)).fetchone()
        assert row is not None
        if row[0]:
            self._count += int(row[0])
            self._batch_id = int(row[1])
        return self._count


def snapshot(conn: psycopg.Connection[Any], title: str, url: str, progress: Progress, services: str, stored: int) -> Snapshot:
    """Return what the terminal shows now."""
    newest_at = views.latest_observed_at(conn)
    counts = views.counts(conn)
    return Snapshot(
        title=title,
        town_at=progress.town_at,
        speed=progress.speed,
        published=progress.published,
        stored=stored,
        readings_per_s=progress.readings_per_s,
        lag=max(timedelta(0), progress.town_at - newest_at) if newest_at else timedelta(0),
        quarantined=counts.quarantined,
        services=services,
        url=url,
        alarms=[
            AlarmLine(
                a.priority,
                a.state,
                a.alarm_type,
                a.zone_name or a.asset_name,
                a.occurred_at,
                str(a.evidence.get("summary", "")),
                a.state not in QUIET_STATES,
            )
            for a in views.alarms(conn)
        ],
        orders=[
            OrderLine(o.label, o.state, o.title, o.crew_name or "nobody yet", o.since_at, str(o.verification.get("sentence", "")))
            for o in views.orders(conn)
        ],
        feed=[
            FeedLine(
                e.at,
                f"{e.subject} {e.subject_id}",
                f"{e.from_state} -> {e.to_state} ({e.event}) by {e.actor}: {e.reason}" + (f" - {e.note}" if e.note else ""),
            )
            for e in sorted(views.events(conn, limit=60), key=lambda e: (e.at, e.seq))
            if e.event not in MEASUREMENTS
        ],
    )


def closed_orders(conn: psycopg.Connection[Any]) -> list[tuple[int, str | None]]:
    """Return (order id, outcome) of every closed order, in the order in which they were closed."""
    rows = conn.execute("SELECT order_id, outcome FROM work_order WHERE state = 'CLOSED' ORDER BY closed_at, order_id").fetchall()
    return [(int(order_id), outcome) for order_id, outcome in rows]


def open_order_count(conn: psycopg.Connection[Any]) -> int:
    """Return how many orders are neither closed nor cancelled."""
    row = conn.execute("SELECT count(*) FROM work_order WHERE state NOT IN ('CLOSED', 'CANCELLED')").fetchone()
    assert row is not None
    return int(row[0])


def result(conn: psycopg.Connection[Any], seed: int, story: str, published: int, stored: int, truth: Truth) -> dict[str, Any]:
    """Return the JSON object of a finished run.

    Returns
    -------
    dict
        ``readings`` (published, stored), ``findings``/``alarms``/``orders`` counts, ``detection_delay_min`` (simulated minutes from the
        begin of the burst to the first leak finding), ``located_pipe`` and ``location_distance_m`` (most probable pipe when the crew was
        sent, along the pipes to the true one), and every order with its transitions and reasons. None where nothing was found.
    """
    counts = views.counts(conn)
    orders = [_order(conn, o) for o in sorted(views.orders(conn, open_only=False), key=lambda o: o.order_id)]
    alarms = conn.execute("SELECT count(*), count(*) FILTER (WHERE closed_at IS NULL) FROM alarm").fetchone()
    assert alarms is not None
    raised = conn.execute(
        "SELECT extract(epoch FROM min(detected_at)) FROM finding WHERE kind LIKE 'leak.%%' AND phase = 'raise' AND NOT historical"
        " AND detected_at >= to_timestamp(%s)",
        ((truth.began_us or 0) / 1e6,),
    ).fetchone()
    located = next((o["located"] for o in orders if o["located"] and o["type"].startswith("leak")), None)
    delay_min = (float(raised[0]) - truth.began_us / 1e6) / 60 if raised and raised[0] and truth.began_us else None
    return {
        "seed": seed,
        "story": story,
        "readings": {"published": published, "stored": stored},
        "quarantined": counts.quarantined,
        "findings": counts.findings,
        "alarms": {"raised": int(alarms[0]), "open": int(alarms[1])},
        "orders_closed": counts.orders_closed,
        "detection_delay_min": None if delay_min is None else round(delay_min, 1),
        "true_pipe": truth.pipe_id,
        "located_pipe": located,
        "location_distance_m": round(truth.distance_m(located, truth.pipe_id), 1) if located and truth.pipe_id else None,
        "orders": orders,
    }


def _order(conn: psycopg.Connection[Any], order: views.OrderView) -> dict[str, Any]:
    candidates = order.location.get("candidates") or []
    return {
        "order": order.label,
        "type": order.order_type,
        "title": order.title,
        "state": order.state,
        "outcome": order.outcome,
        "rework": order.rework,
        "crew": order.crew_name,
        "located": candidates[0]["asset_id"] if candidates else None,
        "verification": order.verification.get("sentence"),
        "measured": {name: value for name, value in order.verification.items() if name != "sentence"},
        "transitions": [
            {
                "at": e.at.isoformat(),
                "from": e.from_state,
                "to": e.to_state,
                "event": e.event,
                "actor": e.actor,
                "reason": e.reason,
                "note": e.note,
            }
            for e in views.events_of(conn, "order", order.order_id)
            if e.event not in MEASUREMENTS
        ],
    }


def summary(facts: dict[str, Any]) -> list[str]:
    """Return the result as sentences for people."""
    readings = facts["readings"]
    lines = [
        f"readings: {readings['stored']:,} stored of {readings['published']:,} published; {facts['quarantined']} messages in quarantine"
    ]
    if facts["detection_delay_min"] is not None:
        place = (
            f", located at {facts['located_pipe']}, {facts['location_distance_m']:.0f} m from the true pipe"
            if facts["located_pipe"]
            else ""
        )
        lines.append(f"the burst was found after {facts['detection_delay_min']:.0f} simulated minutes{place}")
    for order in facts["orders"]:
        outcome = f" by {order['outcome']}" if order["outcome"] else ""
        lines.append(
            f"{order['order']} {order['title']}: {order['state']}{outcome}" + (f", {order['rework']} rework" if order["rework"] else "")
        )
    return lines
