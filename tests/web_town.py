"""A small made-up state of the database, so that pages can be looked at and tested without a running town.

``python tests/web_town.py --port 8090`` starts an embedded PostgreSQL, fills it and serves the pages in demo mode.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from underway import desk
from underway.model import Candidate, Driver, Evidence, Finding, FindingKind, FindingPhase, Role, finding_id, to_us
from underway.store.status import write_status
from underway.store.telemetry import save_findings

NOW_AT = datetime(2026, 3, 11, 4, 40, tzinfo=UTC)
LATITUDE_DEG, LONGITUDE_DEG = 48.137, 11.575
COLUMNS, ROWS = 9, 5
ZONES = (("z1", "Northgate"), ("z2", "Old Town"), ("z3", "Riverside"))
BURST_PIPE = "p-2-2-e"


@dataclass
class StillClock:
    """A clock that stands still, or runs on from its instant when `speed` is given."""

    at: datetime = NOW_AT

    def now_at(self) -> datetime:
        return self.at


def _position(x_m: float, y_m: float) -> list[float]:
    return [
        round(LONGITUDE_DEG + x_m / (111_320 * math.cos(math.radians(LATITUDE_DEG))), 6),
        round(LATITUDE_DEG + y_m / 111_320, 6),
    ]


def clear(conn: psycopg.Connection[Any]) -> None:
    """Empty every table of the public schema except the list of applied migrations."""
    with conn.transaction():
        tables = conn.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '%migration%' AND tablename NOT LIKE 'schema%'"
        ).fetchall()
        conn.execute("SET LOCAL session_replication_role = replica")  # the event logs refuse to be emptied
        conn.execute("TRUNCATE " + ", ".join(f'"{name}"' for (name,) in tables) + " RESTART IDENTITY CASCADE")


def fill_registry(conn: psycopg.Connection[Any]) -> None:
    """Write a site, three zones, about seventy pipes, roads, a bridge, a culvert, sensors, crews."""
    rng = np.random.default_rng(7)
    nodes = {
        (c, r): (c * 210 + rng.uniform(-45, 45) + 30 * math.sin(r), r * 190 + rng.uniform(-40, 40) + 25 * math.sin(c * 0.8))
        for c in range(COLUMNS)
        for r in range(ROWS)
    }
    zone_of = {(c, r): ZONES[min(2, c // 3)][0] for c in range(COLUMNS) for r in range(ROWS)}

    def asset(
        asset_id: str, zone_id: str | None, kind: str, name: str, geometry: dict[str, Any] | None, attributes: dict[str, Any] | None = None
    ) -> None:
        conn.execute(
            "INSERT INTO asset (asset_id, site_id, zone_id, asset_class, name, geometry, attributes) VALUES (%s, 'town', %s, %s, %s, %s, %s)",
            (asset_id, zone_id, kind, name, Jsonb(geometry) if geometry else None, Jsonb(attributes or {})),
        )

    def device(
        device_id: str, zone_id: str, asset_id: str, model: str, role: str, quantity: str, unit: str, at: tuple[float, float]
    ) -> None:
        conn.execute(
            "INSERT INTO device (device_id, site_id, zone_id, asset_id, model, dialect, registered_at, geometry)"
            " VALUES (%s, 'town', %s, %s, %s, 'native', %s, %s)",
            (device_id, zone_id, asset_id, model, NOW_AT - timedelta(days=30), Jsonb({"type": "Point", "coordinates": _position(*at)})),
        )
        conn.execute(
            "INSERT INTO channel (device_id, name, quantity, device_unit, asset_id, zone_id, role, range_min, range_max, interval_s)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, -1000, 100000, 300)",
            (device_id, quantity, quantity, unit, asset_id, zone_id, role),
        )

    conn.execute("INSERT INTO site VALUES ('town', 'Anytown', 'Europe/Berlin', %s, %s)", (LATITUDE_DEG, LONGITUDE_DEG))
    for index, (zone_id, name) in enumerate(ZONES):
        inside = [nodes[(c, r)] for (c, r) in nodes if zone_of[(c, r)] == zone_id]
        x0, x1 = min(p[0] for p in inside) - 60, max(p[0] for p in inside) + 60
        y0, y1 = min(p[1] for p in inside) - 60, max(p[1] for p in inside) + 60
        ring = [(x0, y0), (x1 - 20 * index, y0 + 10), (x1, y1), (x0 + 15, y1 - 12), (x0, y0)]
        conn.execute(
            "INSERT INTO zone (zone_id, site_id, name, kind, geometry, attributes) VALUES (%s, 'town', %s, 'dma', %s, %s)",
            (
                zone_id,
                name,
                Jsonb({"type": "Polygon", "coordinates": [[_position(*p) for p in ring]]}),
                Jsonb({"mains_km": 5.2, "connections": 640}),
            ),
        )
        asset(f"dma:{zone_id}", zone_id, "network", f"Network {name}", None)
    for (c, r), here in nodes.items():
        for dc, dr, tag in ((1, 0, "e"), (0, 1, "n")):
            there = nodes.get((c + dc, r + dr))
            crosses = zone_of.get((c + dc, r + dr)) != zone_of[(c, r)]
            if there is None or (crosses and r != 2) or (not crosses and rng.random() < 0.12 and f"p-{c}-{r}-{tag}" != BURST_PIPE):
                continue
            middle = ((here[0] + there[0]) / 2 + rng.uniform(-14, 14), (here[1] + there[1]) / 2 + rng.uniform(-14, 14))
            line = {"type": "LineString", "coordinates": [_position(*p) for p in (here, middle, there)]}
            asset(
                f"p-{c}-{r}-{tag}",
                zone_of[(c, r)],
                "pipe",
                f"Main {c}{r}{tag.upper()}",
                line,
                {"diameter_mm": 300 if r == 2 else 150, "length_m": 205},
            )
    for r in (1, 2, 3):
        for c in range(COLUMNS - 1):
            a, b = nodes[(c, r)], nodes[(c + 1, r)]
            line = {"type": "LineString", "coordinates": [_position(a[0], a[1] + 9), _position(b[0], b[1] + 9)]}
            asset(f"r-{c}-{r}", zone_of[(c, r)], "road_section", f"Road {c}{r}", line)
    tank = nodes[(0, 2)]
    asset("tank-1", "z1", "tank", "Hill tank", {"type": "Point", "coordinates": _position(tank[0] - 130, tank[1] + 40)})
    bridge_a, bridge_b = nodes[(6, 2)], nodes[(7, 2)]
    asset(
        "br-1",
        "z3",
        "bridge",
        "Mill bridge",
        {"type": "Point", "coordinates": _position((bridge_a[0] + bridge_b[0]) / 2, (bridge_a[1] + bridge_b[1]) / 2 + 9)},
    )
    asset(
        "cu-1",
        "z3",
        "culvert",
        "Station culvert",
        {"type": "Point", "coordinates": _position(nodes[(7, 1)][0] + 40, nodes[(7, 1)][1] - 35)},
    )
    for index, (zone_id, _) in enumerate(ZONES):
        device(f"fm-{zone_id}-a", zone_id, f"dma:{zone_id}", "flow-a", "zone_inflow", "flow", "L/s", nodes[(index * 3, 2)])
        for n, (dc, r) in enumerate(((0, 0), (1, 4), (2, 1), (1, 3))):
            where = nodes[(index * 3 + dc, r)]
            asset(f"j-{zone_id}-{n}", zone_id, "junction", f"Junction {zone_id}-{n}", {"type": "Point", "coordinates": _position(*where)})
            device(f"pr-{zone_id}-{n}", zone_id, f"j-{zone_id}-{n}", "logger-5", "zone_pressure", "pressure", "kPa", where)
    device("br-1", "z3", "br-1", "accel-2", "bridge_frequency", "frequency", "Hz", ((bridge_a[0] + bridge_b[0]) / 2, bridge_a[1] + 12))
    device("dr-1", "z3", "cu-1", "level-1", "drain_level", "level", "m", (nodes[(7, 1)][0] + 40, nodes[(7, 1)][1] - 35))
    conn.execute(
        "INSERT INTO skill VALUES ('leak_repair', 'Leak repair'), ('structures', 'Structures'), ('instrumentation', 'Sensors') ON CONFLICT DO NOTHING"
    )
    for crew_id, name, language, skill, at in (
        ("c1", "Crew Blue", "en", "leak_repair", (420, -60)),
        ("c2", "Crew Green", "de", "leak_repair", (1500, 900)),
        ("c3", "Crew Amber", "es", "structures", (1000, -90)),
    ):
        longitude_deg, latitude_deg = _position(*at)
        conn.execute(
            "INSERT INTO crew (crew_id, site_id, name, longitude_deg, latitude_deg, phone, language) VALUES (%s, 'town', %s, %s, %s, '', %s)",
            (crew_id, name, longitude_deg, latitude_deg, language),
        )
        conn.execute("INSERT INTO crew_skill (crew_id, skill) VALUES (%s, %s)", (crew_id, skill))
        conn.execute(
            "INSERT INTO shift (crew_id, starts_at, ends_at) VALUES (%s, %s, %s)",
            (crew_id, NOW_AT - timedelta(hours=4), NOW_AT + timedelta(hours=8)),
        )


def _day_shape(hour: float) -> float:
    return (
        0.45
        + 0.55 * math.exp(-((hour - 7.3) ** 2) / 5)
        + 0.48 * math.exp(-((hour - 19) ** 2) / 9)
        + 0.28 * math.exp(-((hour - 12.5) ** 2) / 10)
    )


def fill_expectations(
    conn: psycopg.Connection[Any], excess_m3ph: float = 0.0, onset_at: datetime | None = None, fixed_at: datetime | None = None
) -> None:
    """Write inflow and pressures of every zone and the bridge's frequency, from two days before now to 26 hours after it."""
    rng = np.random.default_rng(11)
    start_at = NOW_AT - timedelta(hours=48)

    def signal(name: str, zone_id: str, asset_id: str | None, unit: str) -> int:
        row = conn.execute(
            "INSERT INTO signal (name, zone_id, asset_id, unit) VALUES (%s, %s, %s, %s) RETURNING signal_id",
            (name, zone_id, asset_id, unit),
        ).fetchone()
        assert row is not None
        return int(row[0])

    with conn.cursor() as cur:
        rows: list[tuple[Any, ...]] = []
        for index, (zone_id, _) in enumerate(ZONES):
            flow = signal(f"zone/{zone_id}/inflow", zone_id, None, "m3/h")
            pressures = [signal(f"asset/j-{zone_id}-{n}/pressure", zone_id, f"j-{zone_id}-{n}", "kPa") for n in range(4)]
            noise = 0.0
            for step in range(74 * 12 + 1):
                at = start_at + timedelta(minutes=5 * step)
                expected = (52 + 11 * index) * _day_shape((at.hour + at.minute / 60 + 1) % 24)
                noise = 0.6 * noise + rng.normal(0, 0.9)
                leaking = zone_id == "z1" and onset_at is not None and at >= onset_at and (fixed_at is None or at < fixed_at)
                extra = excess_m3ph * min(1.0, (at - onset_at).total_seconds() / 900) if leaking and onset_at else 0.0
                rows.append((flow, at, expected + noise + extra, expected, 1.5, f"{zone_id}-b14"))
                for n, channel in enumerate(pressures):
                    level = 420 + 12 * n - 0.5 * expected
                    fall = extra * (0.9 if n == 2 else 0.35)
                    rows.append((channel, at, level + rng.normal(0, 1.4) - fall, level, 2.0, f"{zone_id}-b14"))
        bridge = signal("asset/br-1/frequency", "z3", "br-1", "Hz")
        for step in range(74 * 2):
            at = start_at + timedelta(minutes=30 * step)
            expected = 3.42 + 0.015 * math.sin(step / 24 * math.pi)
            rows.append((bridge, at, expected + rng.normal(0, 0.004), expected, 0.006, "br-1-b3"))
        with cur.copy("COPY expectation (signal_id, at, observed, expected, sigma, baseline_id) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        channels = cur.execute("SELECT channel_id FROM channel").fetchall()
        with cur.copy(
            "COPY reading (channel_id, observed_at, received_at, recorded_at, value, quality, reason, flags, batch_id) FROM STDIN"
        ) as copy:
            for (channel_id,) in channels:
                at = NOW_AT - timedelta(minutes=4)
                copy.write_row((channel_id, at, at, at, 1.0, 0, 0, 0, 1))


def fill_status(conn: psycopg.Connection[Any]) -> None:
    """Write what services say of themselves, a town clock, and one quarantined message."""
    for service, facts in (
        ("ingest", {"readings_per_s": 1240.0, "queue": 3, "broker": "connected"}),
        ("workorders", {"findings_waiting": 0}),
    ):
        write_status(conn, service, 100, NOW_AT - timedelta(hours=50), facts)
    conn.execute("INSERT INTO town_clock (town_at, wall_at, speed, ahead_s_max) VALUES (%s, %s, 600, 300)", (NOW_AT, NOW_AT))
    conn.execute(
        "INSERT INTO quarantine (received_at, last_at, dialect, topic, device_id, reason, message, payload, payload_bytes, payload_sha, count)"
        " VALUES (%s, %s, 'native', 'uw/town/pr-99/telemetry', 'pr-99', 'device_unknown', %s, %s, 41, 'x', 3)",
        (NOW_AT, NOW_AT, "no device 'pr-99'; nearest known: 'pr-z1-0'", b'{"at":"2026-03-11T04:00:00Z","values":<b>}'),
    )


EVIDENCE = {
    "summary": "Inflow of Northgate has been 17.8 m3/h above what is expected for this hour since 03:05, and pressure fell most at Junction z1-2",
    "observed": 42.1,
    "expected": 24.3,
    "band_low": 20.1,
    "band_high": 28.5,
    "unit": "m3/h",
    "statistic": 11.9,
    "threshold": 5.0,
    "baseline_id": "z1-b14",
    "drivers": [
        {"name": "zone/z1/inflow", "observed": 42.1, "expected": 24.3, "sigma": 1.5, "unit": "m3/h", "channel_id": 1},
        {"name": "asset/j-z1-2/pressure", "observed": 415.8, "expected": 431.9, "sigma": 2.0, "unit": "kPa", "channel_id": 4},
        {"name": "asset/j-z1-1/pressure", "observed": 413.6, "expected": 419.9, "sigma": 2.0, "unit": "kPa", "channel_id": 3},
    ],
    "candidates": [
        {"asset_id": BURST_PIPE, "probability": 0.46},
        {"asset_id": "p-2-1-n", "probability": 0.22},
        {"asset_id": "p-1-2-e", "probability": 0.14},
    ],
    "details": {"night_flow_m3ph": 38.0},
}


CLOSED_BODY = {
    "find_code": "leak_found",
    "asset_id": BURST_PIPE,
    "problem": "ELP",
    "cause": "corrosion",
    "remedy": "clamp",
    "checklist": {"traffic_safe": True, "isolated": True, "restored": True},
    "note": "Clamp set, trench still open",
}
STEPS = (("accept", 74, {}), ("depart", 70, {}), ("arrive", 55, {}), ("done", 20, CLOSED_BODY))


def _evidence(evidence: dict[str, Any]) -> Evidence:
    return Evidence(
        **{
            **evidence,
            "drivers": tuple(Driver(**d) for d in evidence["drivers"]),
            "candidates": tuple(Candidate(**c) for c in evidence["candidates"]),
        }
    )


def raise_finding(
    conn: psycopg.Connection[Any],
    kind: FindingKind,
    asset_id: str,
    zone_id: str,
    evidence: Evidence,
    onset_min_ago: float,
    detected_min_ago: float,
) -> None:
    """Write a finding as a detector would, and let the desk take it at the minute in which it was detected."""
    onset_at, detected_at = NOW_AT - timedelta(minutes=onset_min_ago), NOW_AT - timedelta(minutes=detected_min_ago)
    onset_us, detected_us = to_us(onset_at), to_us(detected_at)
    finding = Finding(
        finding_id("made-up", "1.0", kind, FindingPhase.RAISE, asset_id, onset_us, detected_us),
        kind,
        FindingPhase.RAISE,
        asset_id,
        zone_id,
        "zone-inflow" if kind is FindingKind.LEAK_BURST else "made-up",
        "1.0",
        2.4,
        onset_us,
        detected_us,
        evidence,
    )
    save_findings(conn, [finding], 1, detected_at)
    desk.take_new_findings(conn, detected_at)


def raise_burst(conn: psycopg.Connection[Any]) -> tuple[int, int]:
    """Raise a burst in zone z1; returns (alarm_id, order_id)."""
    raise_finding(conn, FindingKind.LEAK_BURST, "dma:z1", "z1", _evidence(EVIDENCE), 95, 80)
    row = conn.execute(
        "SELECT a.alarm_id, o.order_id FROM alarm a JOIN work_order o USING (incident_id) WHERE a.alarm_type = 'leak.burst'"
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def act(conn: psycopg.Connection[Any], order_id: int, event: str, minutes_ago: float, body: dict[str, Any]) -> None:
    """Let the assigned crew act on the order."""
    row = conn.execute("SELECT crew_id, version FROM work_order WHERE order_id = %s", (order_id,)).fetchone()
    assert row is not None
    at = NOW_AT - timedelta(minutes=minutes_ago)
    desk.act_on_order(conn, order_id, event, f"crew/{row[0]}", Role.CREW, uuid4(), row[1], at, body, at)


def raise_others(conn: psycopg.Connection[Any]) -> None:
    """Raise a bridge alarm and a silent sensor, which somebody has acknowledged."""
    plain = {"band_low": 3.36, "band_high": 3.43, "statistic": 3.1, "threshold": 2.0, "baseline_id": "br-1-b3"}
    summary = "First frequency of Mill bridge is 0.05 Hz below what its temperature explains, 3 days in a row"
    raise_finding(
        conn,
        FindingKind.BRIDGE_FREQUENCY_SHIFT,
        "br-1",
        "z3",
        Evidence(summary=summary, observed=3.35, expected=3.40, unit="Hz", **plain),
        340,
        300,
    )
    summary = "pr-z2-1 has been silent for 2 h 10 min; it reports every 5 min"
    silent = {**plain, "band_low": 0.0, "band_high": 15.0, "baseline_id": ""}
    raise_finding(
        conn,
        FindingKind.COMMS_LOST,
        "j-z2-1",
        "z2",
        Evidence(summary=summary, observed=130.0, expected=5.0, unit="min", **silent),
        130,
        120,
    )
    row = conn.execute("SELECT alarm_id FROM alarm WHERE alarm_type = 'comms.lost'").fetchone()
    assert row is not None
    desk.act_on_alarm(conn, row[0], "ack", "ada", Role.OPERATOR, action_id=uuid4(), now_at=NOW_AT - timedelta(minutes=118))
    desk.tick(conn, NOW_AT - timedelta(minutes=117))


SCENES = ("calm", "new", "dispatched", "accepted", "driving", "on_site", "verifying")


def fill(conn: psycopg.Connection[Any], scene: str = "dispatched", fixed_min: float | None = None) -> None:
    """Write a whole scene, one of `SCENES`; the burst goes on until ``fixed_min`` minutes after now (None: as the scene has it)."""
    fill_registry(conn)
    fill_status(conn)
    if scene == "calm":
        fill_expectations(conn)
        return
    if fixed_min is None:
        fixed_min = -35.0 if scene == "verifying" else 1e6
    fill_expectations(conn, 17.8, NOW_AT - timedelta(minutes=95), NOW_AT + timedelta(minutes=fixed_min))
    if scene == "new":
        conn.execute("DELETE FROM shift")
    raise_others(conn)
    _, order_id = raise_burst(conn)
    for event, minutes_ago, body in STEPS[: max(0, SCENES.index(scene) - 2)]:
        act(conn, order_id, event, minutes_ago, body)
    if scene == "verifying":
        desk.tick(conn, NOW_AT)


def _serve() -> None:
    import argparse
    import tempfile
    from pathlib import Path

    import uvicorn

    from underway.desk import crew_link
    from underway.store.connect import connect
    from underway.store.embedded import embedded_postgres
    from underway.store.migrate import migrate
    from web.app import WebConfig, create_app
    from web.auth import create_account

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--scene", default="dispatched", choices=SCENES)
    parser.add_argument("--no-demo", action="store_true")
    args = parser.parse_args()
    secret = "looked-at-only-0123456789abcdef"
    with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder)) as url:
        migrate(url, NOW_AT)
        with connect(url) as conn:
            fill(conn, args.scene)
            create_account(conn, "ada", "Ada Operator", Role.OPERATOR, "correct horse battery")
        config = WebConfig(url, secret, StillClock(), demo=not args.no_demo)
        page = f"http://127.0.0.1:{args.port}"
        print(
            json.dumps({"url": page, "crew": f"{page}/crew/{crew_link(secret, 'c1', NOW_AT + timedelta(days=2))}", "database": url}),
            flush=True,
        )
        uvicorn.run(create_app(config), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    _serve()
