"""Two days of a small town, written through the real store where it has the code, so that every panel has something to show."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg

from underway.model import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    Asset,
    AssetClass,
    Candidate,
    Channel,
    Crew,
    Device,
    Driver,
    Evidence,
    ExpectationBatch,
    Finding,
    FindingKind,
    FindingPhase,
    Quantity,
    ReadingBatch,
    ReadingFlag,
    Registry,
    Shift,
    Signal,
    Site,
    Zone,
    ZoneKind,
    finding_id,
    from_us,
    to_us,
)
from underway.store.copy import SignalIds, append, append_expectations, next_batch_id
from underway.store.registry import save_registry
from underway.store.telemetry import evidence_to_json, save_findings

NOW_AT = datetime(2026, 3, 11, 4, 40, tzinfo=UTC)
FROM_AT = NOW_AT - timedelta(hours=24)
LONGITUDE_DEG, LATITUDE_DEG = 11.575, 48.137
ZONES = ("z1", "z2")
SENSORS_PER_ZONE = 3
STEP_US = 5 * MINUTE_US
BURST_AT = NOW_AT - timedelta(hours=5)


@dataclass(frozen=True, slots=True)
class Town:
    """What was written."""

    registry: Registry
    readings: int
    findings: tuple[Finding, ...]


def _point(x_m: float, y_m: float) -> list[float]:
    return [LONGITUDE_DEG + x_m / (111_320 * math.cos(math.radians(LATITUDE_DEG))), LATITUDE_DEG + y_m / 111_320]


def registry() -> Registry:
    """Return two zones with a main each, a bridge, a drain and a road, and the devices on them."""
    begin_at = NOW_AT - timedelta(days=2)
    assets, devices, channels = [], [], []
    zones = tuple(Zone(zone, "town", f"Zone {zone}", ZoneKind.DMA, attributes={"mains_km": 3}) for zone in ZONES)

    def sensor(device_id: str, name: str, quantity: Quantity, unit: str, asset_id: str | None, zone: str, role: str, top: float) -> None:
        devices.append(Device(device_id, "town", zone, asset_id, "logger", "native", begin_at))
        channels.append(Channel(0, device_id, name, quantity, unit, asset_id, zone, role, 0, top, 300))

    for n, zone in enumerate(ZONES):
        assets.append(
            Asset(f"dma:{zone}", "town", zone, AssetClass.NETWORK, f"Network {zone}", {"type": "Point", "coordinates": _point(n * 900, 0)})
        )
        for k in range(SENSORS_PER_ZONE):
            corners = [_point(n * 900 + k * 200, 0), _point(n * 900 + k * 200 + 100, 60), _point(n * 900 + k * 200 + 200, 0)]
            line = {"type": "LineString", "coordinates": corners}
            assets.append(Asset(f"pipe-{zone}-{k}", "town", zone, AssetClass.PIPE, f"Main {zone} {k}", line))
            node = {"type": "Point", "coordinates": corners[1]}
            assets.append(Asset(f"node-{zone}-{k}", "town", zone, AssetClass.JUNCTION, f"Node {zone} {k}", node))
            sensor(f"pr-{zone}-{k}", "pressure", Quantity.PRESSURE, "kPa", f"node-{zone}-{k}", zone, "zone_pressure", 1000)
        sensor(f"fm-{zone}", "flow", Quantity.FLOW, "m3/h", None, zone, "zone_inflow", 500)
    point = {"type": "Point", "coordinates": _point(700, 300)}
    for asset_id, kind, name in (
        ("bridge-1", AssetClass.BRIDGE, "Mill bridge"),
        ("drain-1", AssetClass.CULVERT, "Mill drain"),
        ("road-1", AssetClass.ROAD_SECTION, "Mill road"),
    ):
        assets.append(Asset(asset_id, "town", "z1", kind, name, point))
    sensor("br-1", "frequency", Quantity.FREQUENCY, "Hz", "bridge-1", "z1", "bridge_frequency", 20)
    return Registry(Site("town", "Testing", "UTC", LATITUDE_DEG, LONGITUDE_DEG), zones, tuple(assets), tuple(devices), tuple(channels))


def _crews() -> Sequence[Crew]:
    shift = Shift(NOW_AT - timedelta(hours=6), NOW_AT + timedelta(hours=6))
    return (
        Crew("crew-1", "town", "Blue van", ("water_mains",), *_point(100, 200), shifts=(shift,)),
        Crew("crew-2", "town", "Green van", ("bridges",), *_point(900, 200), shifts=(shift,)),
    )


def _save_readings(conn: psycopg.Connection[Any], registry: Registry, rng: np.random.Generator) -> int:
    at_us = np.arange(to_us(NOW_AT) - DAY_US, to_us(NOW_AT), STEP_US, dtype=np.int64)
    count = 0
    for hour in range(24):
        now_us = at_us[at_us // HOUR_US == at_us[0] // HOUR_US + hour]
        parts = []
        for channel in registry.channels:
            n = len(now_us)
            quality = np.where(rng.uniform(size=n) < 0.05, 1, 0).astype(np.uint8)
            delay_us = rng.integers(1_000_000, 20_000_000, n)
            flags = np.full(n, ReadingFlag.HISTORICAL if hour < 6 else ReadingFlag.NONE, np.uint8)
            value = rng.normal(0.5 * channel.range_max, 1, n)
            parts.append(
                ReadingBatch(
                    np.full(n, channel.channel_id, np.int32), now_us, now_us + delay_us, value, quality, np.zeros(n, np.uint8), flags
                )
            )
        batch = ReadingBatch.concat(parts)
        with conn.transaction():
            result = append(conn, batch, next_batch_id(conn), from_us(int(batch.received_us.max()) + 400_000))
        count += int(result.inserted.sum())
    return count


def _save_expectations(conn: psycopg.Connection[Any], rng: np.random.Generator) -> None:
    signals = [Signal(f"zone/{zone}/inflow", zone, None, "m3/h") for zone in ZONES]
    signals += [
        Signal(f"asset/node-{zone}-{k}/pressure", zone, f"node-{zone}-{k}", "kPa") for zone in ZONES for k in range(SENSORS_PER_ZONE)
    ]
    signals += [
        Signal("asset/bridge-1/frequency", None, "bridge-1", "Hz"),
        Signal("asset/road-1/roughness", None, "road-1", "m/km"),
        Signal("asset/drain-1/level", None, "drain-1", "m"),
    ]
    at_us = np.arange(to_us(NOW_AT) - DAY_US, to_us(NOW_AT), STEP_US, dtype=np.int64)
    nights = [Signal(f"zone/{zone}/night_flow", zone, None, "m3/h") for zone in ZONES]
    index = np.repeat(np.arange(len(signals), dtype=np.int32), len(at_us))
    at = np.concatenate([np.tile(at_us, len(signals)), np.full(len(nights), at_us[-1])])
    index = np.concatenate([index, np.arange(len(signals), len(signals) + len(nights), dtype=np.int32)])
    expected = 30 + 8 * np.sin(2 * np.pi * (at % DAY_US) / DAY_US)
    burst = np.where((index == 0) & (at >= to_us(BURST_AT)), 14.0, 0.0)
    names = (*signals, *nights)
    batch = ExpectationBatch(
        names,
        ("2026-02-25/2026-03-10",) * len(names),
        index,
        at,
        expected + rng.normal(0, 1, len(at)) + burst,
        expected,
        np.full(len(at), 1.2),
    )
    with conn.transaction():
        append_expectations(conn, batch, SignalIds())


def evidence() -> Evidence:
    """Return the evidence of a burst with a place."""
    return Evidence(
        "inflow 44.1 m3/h, expected 30.2; 14 m3/h above for 25 min",
        44.1,
        30.2,
        26.6,
        33.8,
        "m3/h",
        9.1,
        5.0,
        "2026-02-25/2026-03-10",
        (Driver("zone/z1/inflow", 44.1, 30.2, 1.2, "m3/h"),),
        (Candidate("pipe-z1-1", 0.7), Candidate("pipe-z1-0", 0.2)),
    )


def _findings() -> tuple[Finding, ...]:
    onset_us = to_us(BURST_AT)
    detected_us = onset_us + 25 * MINUTE_US
    found = []
    for asset_id, kind, zone in (
        ("dma:z1", FindingKind.LEAK_BURST, "z1"),
        ("bridge-1", FindingKind.BRIDGE_FREQUENCY_SHIFT, None),
    ):
        identity = finding_id("zone-inflow", "1", kind, FindingPhase.RAISE, asset_id, onset_us, detected_us)
        found.append(
            Finding(identity, kind, FindingPhase.RAISE, asset_id, zone, "zone-inflow", "1", 1.8, onset_us, detected_us, evidence())
        )
    return tuple(found)


def _save_repaired_leak(conn: psycopg.Connection[Any]) -> None:
    at = NOW_AT - timedelta(hours=20)
    incident = conn.execute(
        """INSERT INTO incident (site_id, zone_id, kind, title, state, onset_at, aware_at, stopped_at, resolved_at)
           VALUES ('town', 'z2', 'leak.background', 'an old leak', 'RESOLVED', %s, %s, %s, %s) RETURNING incident_id""",
        (at - timedelta(days=9), at - timedelta(days=3), at, at),
    ).fetchone()
    assert incident is not None
    conn.execute(
        """INSERT INTO work_order (site_id, incident_id, asset_id, zone_id, order_type, title, priority, state, required_skill, created_at, aware_at,
                                   closed_at, outcome)
           VALUES ('town', %s, 'pipe-z2-1', 'z2', 'leak_repair', 'Repair leak', 'medium', 'CLOSED', 'water_mains', %s, %s, %s, 'PASS')""",
        (incident[0], at - timedelta(days=3), at - timedelta(days=3), at),
    )


def _save_work(conn: psycopg.Connection[Any], findings: Sequence[Finding]) -> None:
    raised_at = BURST_AT + timedelta(minutes=26)
    action = UUID(int=7)
    incidents = []
    for n, (finding, priority, closed) in enumerate(((findings[0], "urgent", False), (findings[1], "medium", True))):
        incidents.append(
            conn.execute(
                """INSERT INTO incident (site_id, zone_id, kind, title, state, onset_at, aware_at, restored_at, resolved_at)
                   VALUES ('town', %s, %s, %s, %s, %s, %s, %s, %s) RETURNING incident_id""",
                (
                    finding.zone_id,
                    finding.kind,
                    f"{finding.kind} at {finding.asset_id}",
                    "RESOLVED" if closed else "ACTION",
                    BURST_AT,
                    BURST_AT,
                    NOW_AT if closed else None,
                    NOW_AT if closed else None,
                ),
            ).fetchone()[0]
        )
        alarm_id = conn.execute(
            """INSERT INTO alarm (site_id, asset_id, zone_id, alarm_type, priority, condition, ack, suppression, occurred_at, detected_at,
                                  raised_at, finding_id, incident_id, normal_at, closed_at, flaps, evidence)
               VALUES ('town', %s, %s, %s, %s, %s, %s, 'none', %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING alarm_id""",
            (
                finding.asset_id,
                finding.zone_id,
                finding.kind,
                priority,
                "normal" if closed else "active",
                "acked" if closed else "unacked",
                BURST_AT,
                raised_at,
                raised_at,
                finding.finding_id,
                incidents[-1],
                NOW_AT if closed else None,
                NOW_AT if closed else None,
                n,
                json.dumps(evidence_to_json(finding.evidence)),
            ),
        ).fetchone()[0]
        log = [("raise", "NORM", "UNACK", raised_at)]
        if closed:
            log.append(("ack", "UNACK", "ACKED", raised_at + timedelta(minutes=9)))
        for seq, (event, before, after, at) in enumerate(log, start=1):
            conn.execute(
                """INSERT INTO alarm_event (subject_id, seq, event, from_state, to_state, actor, reason, at)
                   VALUES (%s, %s, %s, %s, %s, 'system', 'ON_DELAY_MET', %s)""",
                (alarm_id, seq, event, before, after, at),
            )
        order_id = conn.execute(
            """INSERT INTO work_order (site_id, incident_id, asset_id, zone_id, order_type, title, priority, state, required_skill, created_at,
                                       aware_at, due_at, crew_id, outcome, location, verification, closed_at)
               VALUES ('town', %s, %s, %s, 'repair', %s, %s, %s, 'water_mains', %s, %s, %s, %s, %s, %s, %s, %s) RETURNING order_id""",
            (
                incidents[-1],
                finding.asset_id,
                finding.zone_id,
                f"Repair: {finding.kind}",
                priority,
                "CLOSED" if closed else "VERIFYING",
                raised_at,
                BURST_AT,
                NOW_AT + timedelta(hours=2),
                f"crew-{n + 1}",
                "PASS" if closed else "PENDING",
                json.dumps({"candidates": [{"asset_id": "pipe-z1-1", "probability": 0.7}]}),
                json.dumps(
                    {
                        "residual": 5.0,
                        "excess": 14.0,
                        "threshold": 2.0,
                        "outcome": "PENDING",
                        "sentence": "residual 14.0 -> 5.0 m3/h, need < 2.0",
                    }
                ),
                NOW_AT - timedelta(minutes=5) if closed else None,
            ),
        ).fetchone()[0]
        for seq, (before, after) in enumerate(
            (("NEW", "DISPATCHED"), ("DISPATCHED", "IN_PROGRESS"), ("IN_PROGRESS", "VERIFYING")), start=1
        ):
            conn.execute(
                """INSERT INTO order_event (subject_id, seq, event, from_state, to_state, actor, reason, at, action_id)
                   VALUES (%s, %s, 'step', %s, %s, 'crew-1', 'CREW_SAYS', %s, %s)""",
                (order_id, seq, before, after, raised_at + timedelta(minutes=20 * seq), action if order_id == 0 else None),
            )
        conn.execute(
            "INSERT INTO incident_event (subject_id, seq, event, from_state, to_state, actor, reason, at) "
            "VALUES (%s, 1, 'open', 'OPEN', 'ACTION', 'system', 'ALARM', %s)",
            (incidents[-1], raised_at),
        )
        for name, state in (("ack", "MET"), ("on_site", "RUNNING" if not closed else "BREACHED")):
            conn.execute(
                "INSERT INTO sla_clock (order_id, name, state, started_at, due_at, met_at) VALUES (%s, %s, %s, %s, %s, %s)",
                (order_id, name, state, BURST_AT, NOW_AT + timedelta(minutes=30), raised_at if state == "MET" else None),
            )


def _save_health(conn: psycopg.Connection[Any]) -> None:
    for n, reason in enumerate(("device_unknown", "time_future", "schema")):
        conn.execute(
            """INSERT INTO quarantine (received_at, last_at, dialect, topic, device_id, reason, message, payload, payload_bytes, payload_sha, count)
               VALUES (%s, %s, 'native', %s, 'pr-9', %s, %s, '\\x7b7d', 2, %s, %s)""",
            (
                NOW_AT - timedelta(hours=n + 1),
                NOW_AT - timedelta(hours=n),
                f"uw/town/pr-{n}/telemetry",
                reason,
                f"{reason}: got 'x'",
                str(n),
                n + 1,
            ),
        )
    conn.execute(
        """INSERT INTO service_status (service, pid, started_at, updated_at, facts) VALUES ('ingest', 4711, now() - interval '1 hour', now(), %s)
           ON CONFLICT (service) DO NOTHING""",
        (json.dumps({"state": "running", "broker": "connected", "queued": 0, "commit_ms": 61.4, "readings": 12_000, "lag_s": 0.4}),),
    )
    devices = [row[0] for row in conn.execute("SELECT device_id FROM device WHERE status = 'active' ORDER BY device_id LIMIT 2")]
    conn.execute(
        "INSERT INTO device_presence VALUES (%s, false, %s, 'node_death'), (%s, true, %s, 'birth')",
        (devices[0], NOW_AT - timedelta(hours=2), devices[1], NOW_AT),
    )
    conn.execute("INSERT INTO device_clock VALUES (%s, 3600000, %s), (%s, 0, %s)", (devices[1], NOW_AT, devices[0], NOW_AT))
    conn.execute("INSERT INTO town_clock (town_at, wall_at, speed, ahead_s_max) VALUES (%s, now(), 1, 60)", (NOW_AT,))


def seed(conn: psycopg.Connection[Any]) -> Town:
    """Fill an empty, migrated database."""
    rng = np.random.default_rng(11)
    saved = save_registry(conn, registry(), _crews())
    readings = _save_readings(conn, saved, rng)
    _save_expectations(conn, rng)
    found = _findings()
    with conn.transaction():
        save_findings(conn, found, next_batch_id(conn), NOW_AT)
        _save_work(conn, found)
        _save_repaired_leak(conn)
        _save_health(conn)
    return Town(saved, readings, found)
