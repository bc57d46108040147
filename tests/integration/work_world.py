"""A small site for stories of the work side: a zone, pipes, a bridge, a road, crews; signals written as detectors would; a virtual clock."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from underway import desk
from underway.model import (
    Alarm,
    Asset,
    AssetClass,
    Candidate,
    Crew,
    Evidence,
    ExpectationBatch,
    Finding,
    FindingKind,
    FindingPhase,
    Registry,
    Role,
    Shift,
    Signal,
    Site,
    WorkOrder,
    Zone,
    ZoneKind,
    finding_id,
    to_us,
)
from underway.store import copy, registry, telemetry, work

DAY = datetime(2026, 3, 10, tzinfo=UTC)
STEP = timedelta(minutes=5)
CHECKLIST = {"traffic_safe": True, "isolated": True, "restored": True}
DONE_BODY = {"find_code": "leak_found", "asset_id": "p-7", "problem": "ELP", "cause": "COR", "remedy": "CLAMP", "checklist": CHECKLIST}


def empty(conn: psycopg.Connection[Any]) -> None:
    """Forget everything but the schema."""
    rows = conn.execute(
        "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables WHERE schemaname = current_schema() AND tablename <> 'schema_migration'"
    ).fetchone()
    assert rows is not None
    conn.execute("SET session_replication_role = replica")  # the event logs refuse to be emptied
    conn.execute(f"TRUNCATE {rows[0]} RESTART IDENTITY CASCADE".encode())
    conn.execute("SET session_replication_role = DEFAULT")


def line(lon: float, lat: float) -> dict[str, Any]:
    return {"type": "LineString", "coordinates": [[lon, lat], [lon + 0.002, lat]]}


def registry_of_town() -> Registry:
    assets = (
        Asset("dma:z1", "town", "z1", AssetClass.NETWORK, "Network of Hill", {"type": "Point", "coordinates": [5.0, 52.0]}),
        Asset("p-7", "town", "z1", AssetClass.PIPE, "Pipe 7", line(5.01, 52.01)),
        Asset("p-8", "town", "z1", AssetClass.PIPE, "Pipe 8", line(5.02, 52.0)),
        Asset("br-1", "town", "r1", AssetClass.BRIDGE, "Old bridge", {"type": "Point", "coordinates": [5.0, 52.0]}),
        Asset("rs-1", "town", "r1", AssetClass.ROAD_SECTION, "High street", line(5.0, 52.0)),
        Asset("jn-1", "town", "z1", AssetClass.JUNCTION, "Junction 1", {"type": "Point", "coordinates": [5.0, 52.0]}),
    )
    zones = (Zone("z1", "town", "Hill", ZoneKind.DMA), Zone("r1", "town", "High street corridor", ZoneKind.CORRIDOR))
    return Registry(Site("town", "Town", "Europe/Amsterdam", 52.0, 5.0), zones, assets)


def crews_of_town() -> tuple[Crew, ...]:
    shifts = (Shift(DAY - timedelta(days=10), DAY + timedelta(days=40)),)
    return (
        Crew("near", "town", "Near crew", ("leak_repair",), 5.01, 52.01, shifts),
        Crew("far", "town", "Far crew", ("leak_repair", "instruments"), 5.2, 52.1, shifts),
        Crew("works", "town", "Works crew", ("roads", "structures", "drainage"), 5.0, 52.0, shifts),
        Crew(
            "off", "town", "Sleeping crew", ("leak_repair", "roads"), 5.0, 52.0, (Shift(DAY - timedelta(days=9), DAY - timedelta(days=8)),)
        ),
    )


@dataclass
class World:
    """The store, a clock, and what detectors would write."""

    conn: psycopg.Connection[Any]
    now_at: datetime = DAY
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    written: dict[str, datetime] = field(default_factory=dict)
    signals: copy.SignalIds = field(default_factory=copy.SignalIds)
    memory: desk.Memory = field(default_factory=desk.Memory)
    counter: int = 0

    @classmethod
    def build(cls, conn: psycopg.Connection[Any]) -> World:
        registry.save_registry(conn, registry_of_town(), crews_of_town())
        return cls(conn)

    def feed(
        self, name: str, until: datetime, residual: float = 0.0, expected: float = 40.0, sigma: float = 0.5, unit: str = "m3/h"
    ) -> None:
        """Write rows of a signal up to `until`, with `residual` and noise of 0.6 sigma."""
        begin = self.written.get(name, until - timedelta(days=2))
        n = int((until - begin) / STEP)
        if n <= 0:
            return
        at_us = to_us(begin) + np.arange(1, n + 1) * int(STEP.total_seconds() * 1_000_000)
        zone_id, asset_id = (name.split("/")[1], None) if name.startswith("zone/") else (None, name.split("/")[1])
        if name.endswith("/pressure"):
            zone_id = "z1"
        batch = ExpectationBatch(
            (Signal(name, zone_id, asset_id, unit),),
            ("frozen",),
            np.zeros(n, np.int32),
            at_us.astype(np.int64),
            expected + residual + self.rng.normal(0, 0.6 * sigma, n),
            np.full(n, expected),
            np.full(n, sigma),
        )
        with self.conn.transaction():
            copy.append_expectations(self.conn, batch, self.signals)
        self.written[name] = begin + n * STEP

    def finding(
        self,
        kind: FindingKind = FindingKind.LEAK_BURST,
        phase: FindingPhase = FindingPhase.RAISE,
        asset_id: str = "dma:z1",
        zone_id: str | None = "z1",
        onset_at: datetime | None = None,
        historical: bool = False,
        candidates: tuple[Candidate, ...] = (Candidate("p-7", 0.6), Candidate("p-8", 0.2)),
        observed: float = 52.0,
        expected: float = 40.0,
        unit: str = "m3/h",
    ) -> Finding:
        """Store a finding as ingest would, and return it."""
        onset_us, detected_us = to_us(onset_at or self.now_at - timedelta(minutes=20)), to_us(self.now_at)
        self.counter += 1
        evidence = Evidence(
            f"{kind} seen",
            observed,
            expected,
            expected - 1,
            expected + 1,
            unit,
            9.0,
            5.0,
            "frozen",
            (),
            candidates if zone_id == "z1" else (),
        )
        identity = finding_id("test", str(self.counter), kind, phase, asset_id, onset_us, detected_us)
        made = Finding(identity, kind, phase, asset_id, zone_id, "test", "1", 2.0, onset_us, detected_us, evidence, historical)
        with self.conn.transaction():
            telemetry.save_findings(self.conn, [made], self.counter, self.now_at)
        return made

    def take(self) -> list[desk.TakenFinding]:
        """Let the work side take what is new."""
        return [taken for _, taken in desk.take_new_findings(self.conn, self.now_at)]

    def tick(self) -> desk.TickReport:
        return desk.tick(self.conn, self.now_at, memory=self.memory)

    def wait(self, minutes: float) -> None:
        self.now_at += timedelta(minutes=minutes)

    def order(self, order_id: int | None = None) -> WorkOrder:
        ids = work.subjects(self.conn, "order")
        found = work.load_order(self.conn, order_id or ids[-1])
        assert found is not None
        return found

    def crew_does(
        self,
        event: str,
        body: dict[str, Any] | None = None,
        crew_id: str | None = None,
        base_version: int | None = None,
        action_id: uuid.UUID | None = None,
    ) -> desk.Result:
        order = self.order()
        crew_id = crew_id or order.crew_id or "?"
        identity = action_id or uuid.uuid4()
        return desk.act_on_order(
            self.conn, order.order_id, event, f"crew/{crew_id}", Role.CREW, identity, base_version, self.now_at, body or {}, self.now_at
        )

    def person_does(self, event: str, body: dict[str, Any] | None = None, role: Role = Role.SUPERVISOR, name: str = "ann") -> desk.Result:
        return desk.act_on_order(self.conn, self.order().order_id, event, name, role, uuid.uuid4(), None, None, body or {}, self.now_at)

    def alarm(self, alarm_id: int | None = None) -> Alarm:
        found = work.load_alarm(self.conn, alarm_id or work.subjects(self.conn, "alarm")[-1])
        assert found is not None
        return found

    def alarm_act(self, event: str, reason: str = "", role: Role = Role.OPERATOR, **known: Any) -> desk.AlarmResult:
        return desk.act_on_alarm(self.conn, self.alarm().alarm_id, event, "olga", role, reason, now_at=self.now_at, **known)

    def work_through(self, body: dict[str, Any] | None = None) -> desk.Result:
        """Let the assigned crew accept, drive, arrive and report done."""
        for event, minutes in (("accept", 4), ("depart", 3), ("arrive", 20)):
            self.wait(minutes)
            self.crew_does(event)
        self.wait(60)
        return self.crew_does("done", body or DONE_BODY)

    def log(self, kind: str = "order", subject_id: int | None = None) -> list[str]:
        ids = work.subjects(self.conn, kind)
        return [e.event for e in work.events_of(self.conn, kind, subject_id or ids[-1])]

    def count(self, query: str) -> int:
        row = self.conn.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0
