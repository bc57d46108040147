"""What ``doctor`` reads of ingest from a real database."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from ingest.quarantine import QuarantineBudget
from underway.app.doctor import examine
from underway.model import Fault, FaultReason
from underway.store.ingest_health import GoneDevice, IngestHealth, load_ingest_health
from underway.store.quarantine import QuarantineEntry, save_quarantine
from underway.store.status import write_status

pytestmark = pytest.mark.integration

NOW_AT = datetime.now(UTC)
HOUR = timedelta(hours=1)


def fill(conn: psycopg.Connection[Any]) -> None:
    for minute, payload in ((-5, b"a"), (-5, b"a"), (-6, b"b"), (-90, b"c")):
        at = NOW_AT + timedelta(minutes=minute)
        entry = QuarantineEntry(at, "native", "uw/t/d/telemetry", payload, Fault(FaultReason.SCHEMA, "no", "d"))
        save_quarantine(conn, [entry], QuarantineBudget(), at)
        save_quarantine(conn, [QuarantineEntry(at, "native", "x", payload + b"!", entry.fault)], QuarantineBudget(at_once=0), at)
    conn.execute("INSERT INTO site (site_id, name, timezone, latitude_deg, longitude_deg) VALUES ('t', 'T', 'UTC', 0, 0)")
    conn.execute(
        "INSERT INTO device (device_id, site_id, model, dialect, status, registered_at) VALUES ('d', 't', 'm', 'native', 'active', %s),"
        " ('e', 't', 'm', 'native', 'active', %s), ('old', 't', 'm', 'native', 'retired', %s)",
        (NOW_AT, NOW_AT, NOW_AT),
    )
    conn.execute("INSERT INTO device_clock VALUES ('d', 90000, %s), ('e', 0, %s), ('old', 500000, %s)", (NOW_AT, NOW_AT, NOW_AT))
    conn.execute(
        "INSERT INTO device_presence VALUES ('d', true, %s, 'birth'), ('e', false, %s, 'node_death'), ('old', false, %s, 'node_death')",
        (NOW_AT, NOW_AT - HOUR, NOW_AT),
    )
    conn.execute(
        "INSERT INTO late_window (lane, from_at, to_at, first_noted_at, noted_at, readings, channel_ids)"
        " VALUES ('l', %s, %s, %s, %s, 5, '{}'), ('m', %s, %s, %s, %s, 5, '{}')",
        (NOW_AT - HOUR, NOW_AT, NOW_AT - 3 * HOUR, NOW_AT, NOW_AT - HOUR, NOW_AT, NOW_AT, NOW_AT),
    )
    conn.execute(
        "INSERT INTO device_pending (dialect, address, kind, first_at, last_at, topic, status)"
        " VALUES ('native', 'n1', 'uplink', %s, %s, 't', 'pending'),"
        " ('native', 'n2', 'uplink', %s, %s, 't', 'ignored')",
        (NOW_AT,) * 4,
    )


def test_load_ingest_health_of_an_empty_database_is_nothing(conn: psycopg.Connection[Any]) -> None:
    assert load_ingest_health(conn, NOW_AT - HOUR) == IngestHealth(overflow=[], worst_clocks=[], gone_newest=[])


def test_load_ingest_health_counts_what_is_news_and_what_waits(conn: psycopg.Connection[Any]) -> None:
    fill(conn)
    write_status(conn, "ingest", 77, NOW_AT, {"state": "running"})
    found = load_ingest_health(conn, NOW_AT - HOUR)
    assert found.status_age_s < 60
    assert (found.pid, found.facts, found.quarantine, found.overflow) == (77, {"state": "running"}, {"schema": 3}, [("d", "schema", 4)])
    assert (found.late_windows, found.late_oldest_at) == (2, NOW_AT - 3 * HOUR)
    assert (found.clocks, found.clock_offset_s, found.worst_clocks, found.pending) == (1, 90.0, [("d", 90.0)], 1)
    assert (found.gone, found.gone_newest) == (1, [GoneDevice("e", NOW_AT - HOUR, "node_death")])


def test_load_ingest_health_names_at_most_five_devices_and_counts_all(conn: psycopg.Connection[Any]) -> None:
    fill(conn)
    conn.execute(
        "INSERT INTO device (device_id, site_id, model, dialect, status, registered_at)"
        " SELECT 'x' || n, 't', 'm', 'native', 'active', %s FROM generate_series(1, 7) n",
        (NOW_AT,),
    )
    conn.execute("INSERT INTO device_clock SELECT 'x' || n, n * 10000, %s FROM generate_series(1, 7) n", (NOW_AT,))
    conn.execute(
        "INSERT INTO device_presence SELECT 'x' || n, false, %s - n * interval '1 minute', 'device_death' FROM generate_series(1, 7) n",
        (NOW_AT,),
    )
    found = load_ingest_health(conn, NOW_AT - HOUR)
    assert (found.clocks, found.worst_clocks) == (8, [("d", 90.0), ("x7", 70.0), ("x6", 60.0), ("x5", 50.0), ("x4", 40.0)])
    assert (found.gone, [device.device_id for device in found.gone_newest]) == (8, ["x1", "x2", "x3", "x4", "x5"])


def test_doctor_shows_ingest_and_its_problems(conn: psycopg.Connection[Any], database_url: str) -> None:
    fill(conn)
    write_status(conn, "ingest", os.getpid(), NOW_AT, {"state": "running", "source": {"state": "connected", "refused": ["uw/#"]}})
    report = examine({"UNDERWAY_DATABASE_URL": database_url})
    assert report["sections"]["ingest"]["not kept"] == "d: 4 x schema"
    assert report["sections"]["ingest"]["pending devices"] == "1"
    assert report["sections"]["ingest"]["clocks"] == "1 devices with a wrong clock, at most 90 s: d +90 s"
    assert report["sections"]["ingest"]["gone devices"].startswith("1 devices are offline by their death: e since ")
    assert [problem.split(",")[0] for problem in report["problems"]] == [
        "the broker must let ingest subscribe",
        "in the last hour senders used up their share of quarantine",
        "late data must be judged again within an hour",
    ]


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["its-pid-runs-here", "its-pid-does-not"])
def test_doctor_of_an_ingest_that_was_killed_makes_a_problem_of_it(conn: psycopg.Connection[Any], database_url: str, pid: int) -> None:
    write_status(conn, "ingest", pid, NOW_AT, {"state": "running"})
    conn.execute("UPDATE service_status SET updated_at = clock_timestamp() - interval '12 seconds'")
    (problem,) = examine({"UNDERWAY_DATABASE_URL": database_url})["problems"]
    assert problem.startswith(f"ingest (pid {pid}) must report at least every 10 s until it stops, it has not for 12 s: it was killed")
    write_status(conn, "ingest", pid, NOW_AT, {"state": "stopped"})
    conn.execute("UPDATE service_status SET updated_at = clock_timestamp() - interval '12 seconds'")
    assert examine({"UNDERWAY_DATABASE_URL": database_url})["problems"] == []
