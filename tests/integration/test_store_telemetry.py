from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from underway.model import (
    Candidate,
    Driver,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    InternalError,
    ReadingBatch,
    finding_id,
    to_us,
)
from underway.store import telemetry
from underway.store.clock import ClockRow, read_clock, write_clock
from underway.store.connect import connect
from underway.store.copy import append, next_batch_id
from underway.store.telemetry import (
    FINDING_CHANNEL,
    Checkpoint,
    announce_findings,
    findings_after,
    forget_checkpoints,
    holds_after,
    load_checkpoints,
    load_finding,
    mark_holds,
    pending_holds,
    readings_after,
    replay_after,
    save_checkpoint,
    save_findings,
)

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW_US = to_us(NOW_AT)
MINUTE_US = 60_000_000
EVIDENCE = Evidence(
    *("inflow of z1 is 12 m3/h above what is expected", 52.0, 40.0, 36.0, float("inf"), "m3/h", 9.0, 5.0, "frozen-1"),
    drivers=(Driver("zone/z1/inflow", 52.0, 40.0, 2.0, "m3/h"), Driver("pr-1", 300.0, 310.0, 1.5, "kPa", 7)),
    candidates=(Candidate("pipe-12", 0.6), Candidate("pipe-13", 0.4)),
    details={"night_flow_m3ph": 9.5, "hours": [1, 2]},
)


def finding(minute: int, phase: FindingPhase = FindingPhase.RAISE) -> Finding:
    onset_us, detected_us = NOW_US, NOW_US + minute * MINUTE_US
    identity = finding_id("zone-inflow", "1", FindingKind.LEAK_BURST, phase, "dma:z1", onset_us, detected_us)
    return Finding(identity, FindingKind.LEAK_BURST, phase, "dma:z1", "z1", "zone-inflow", "1", 1.8, onset_us, detected_us, EVIDENCE)


# findings


def test_save_findings_again_returns_only_what_is_new_in_order(conn: psycopg.Connection[Any]) -> None:
    first, second, third = finding(1), finding(2, FindingPhase.UPDATE), replace(finding(3), historical=True)
    assert save_findings(conn, [second, first], 5, NOW_AT) == (second, first)
    assert save_findings(conn, [first, third, second, third], 6, NOW_AT) == (third,)
    assert save_findings(conn, [], 7, NOW_AT) == ()
    found = findings_after(conn, 0)
    assert [item for _, item in found] == [second, first, third]
    assert [seq for seq, _ in found] == sorted(seq for seq, _ in found)
    assert findings_after(conn, found[0][0], limit=1) == found[1:2]
    assert load_finding(conn, third.finding_id) == third
    assert load_finding(conn, UUID(int=0)) is None
    assert conn.execute("SELECT batch_id, recorded_at FROM finding WHERE finding_id = %s", (third.finding_id,)).fetchone() == (6, NOW_AT)


def test_announce_findings_is_heard_at_commit_and_not_before(conn: psycopg.Connection[Any], database_url: str) -> None:
    with connect(database_url) as listener:
        listener.execute(f"LISTEN {FINDING_CHANNEL}".encode())
        with conn.transaction():
            announce_findings(conn, save_findings(conn, [finding(1)], 1, NOW_AT))
            assert list(listener.notifies(timeout=0.2)) == []
        assert [(note.channel, note.payload) for note in listener.notifies(timeout=5, stop_after=1)] == [(FINDING_CHANNEL, "1")]
        announce_findings(conn, [])
        assert list(listener.notifies(timeout=0.2)) == []


# checkpoints and the clock


def test_checkpoint_saved_again_replaces_its_part_alone(conn: psycopg.Connection[Any]) -> None:
    assert list(load_checkpoints(conn, "all")) == []
    first = Checkpoint("all", 5, NOW_AT, "1", bytes(range(256)), "a")
    other_part, other = replace(first, part="b", batch_id=3), replace(first, partition="other")
    latest = Checkpoint("all", 9, NOW_AT + timedelta(hours=1), "2", b"", "a")
    for checkpoint in (first, other_part, other, latest):
        save_checkpoint(conn, checkpoint)
    assert list(load_checkpoints(conn, "all")) == [latest, other_part]
    assert list(load_checkpoints(conn, "other")) == [other]
    assert forget_checkpoints(conn, "all", ["b", "c"]) == 1
    assert list(load_checkpoints(conn, "all")) == [other_part]


def test_checkpoint_of_unbounded_state_is_our_mistake(conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "STATE_BYTES_MAX", 10)
    with pytest.raises(InternalError, match=r"^the detector state of 'all' must have at most 10 bytes, got 11$"):
        save_checkpoint(conn, Checkpoint("all", 1, NOW_AT, "1", bytes(11)))


def test_clock_written_again_is_one_row(conn: psycopg.Connection[Any]) -> None:
    assert read_clock(conn) is None
    write_clock(conn, ClockRow(NOW_AT, NOW_AT, 600.0, 900.0))
    latest = ClockRow(NOW_AT + timedelta(hours=3), NOW_AT + timedelta(seconds=20), 1800.0, 60.0)
    write_clock(conn, latest)
    assert read_clock(conn) == latest


# replay


def batches(count: int, rng: np.random.Generator) -> list[ReadingBatch]:
    made = []
    for i in range(count):
        n = int(rng.integers(1, 30))
        observed = NOW_US + i * MINUTE_US + rng.permutation(n) * 1_000_003 - int(rng.integers(0, 2)) * 40 * 86_400_000_000
        made.append(
            ReadingBatch(
                rng.integers(1, 9, n).astype(np.int32),
                observed.astype(np.int64),
                (observed + rng.integers(0, 10**9, n)).astype(np.int64),
                rng.normal(size=n) * 10.0 ** rng.integers(-9, 9, n),
                *(rng.integers(0, 256, n).astype(np.uint8) for _ in range(3)),
                (rng.integers(0, 3, n) * 3_600_000).astype(np.int32),
            )
        )
    return made


def same(a: ReadingBatch, b: ReadingBatch) -> bool:
    names = ("channel_id", "observed_us", "received_us", "value", "quality", "reason", "flags", "clock_offset_ms")
    return all(getattr(a, name).dtype == getattr(b, name).dtype and np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.mark.parametrize("rows", [1, 50, 200_000], ids=["batch-by-batch", "small-windows", "one-window"])
def test_readings_after_returns_the_batches_bit_by_bit_as_they_were_stored(conn: psycopg.Connection[Any], rows: int) -> None:
    made = batches(60, np.random.default_rng(7))
    for i, batch in enumerate(made):
        conn.execute("SELECT setval('batch_seq', %s, false)", (10 + 3 * i,))  # transactions that were rolled back leave gaps
        assert append(conn, batch, next_batch_id(conn), NOW_AT).duplicates == 0
    found = list(readings_after(conn, 10 + 3 * 4, rows=rows))
    assert [batch_id for batch_id, _ in found] == [10 + 3 * i for i in range(5, 60)]
    assert all(same(made[i].in_event_time().in_event_order(), batch) for i, (_, batch) in enumerate(found, 5))
    assert list(readings_after(conn, 10 + 3 * 59, rows=rows)) == []


def test_readings_after_on_an_empty_table_yields_nothing(conn: psycopg.Connection[Any]) -> None:
    assert list(readings_after(conn, 0)) == []


def test_readings_after_leaves_the_connection_free_between_batches(conn: psycopg.Connection[Any]) -> None:
    for i in (1, 2):
        append(conn, ReadingBatch.from_columns([1], [NOW_US + i], [1.0]), next_batch_id(conn), NOW_AT)
    seen = []
    for batch_id, _ in readings_after(conn, 0):
        seen.append((batch_id, conn.execute("SELECT 5").fetchone()))
    assert seen == [(1, (5,)), (2, (5,))]


# holds


def place(conn: psycopg.Connection[Any], asset_id: str, minute: int) -> int:
    row = conn.execute(
        "INSERT INTO hold (zone_id, asset_id, held_at) VALUES ('z1', %s, %s) RETURNING hold_id",
        (asset_id, NOW_AT + timedelta(minutes=minute)),
    ).fetchone()
    assert row is not None
    return int(row[0])


def release(conn: psycopg.Connection[Any], hold_id: int, minute: int, verdict: str = "repaired") -> None:
    conn.execute(
        "UPDATE hold SET released_at = %s, verdict = %s WHERE hold_id = %s", (NOW_AT + timedelta(minutes=minute), verdict, hold_id)
    )


def test_pending_holds_come_until_they_are_marked_and_again_for_a_replay(conn: psycopg.Connection[Any]) -> None:
    a = place(conn, "a", 0)
    held = Hold(a, "z1", "a", NOW_US)
    assert pending_holds(conn, "town") == (held,)
    mark_holds(conn, pending_holds(conn, "town"), 11)
    assert pending_holds(conn, "town") == ()
    release(conn, a, 60)
    b = place(conn, "a", 61)
    released = Hold(a, "z1", "a", NOW_US, NOW_US + 60 * MINUTE_US, "repaired")
    again = Hold(b, "z1", "a", NOW_US + 61 * MINUTE_US)
    assert pending_holds(conn, "town") == (released, again)
    mark_holds(conn, pending_holds(conn, "town"), 15)
    assert pending_holds(conn, "town") == ()
    assert holds_after(conn, 0) == ((11, held), (15, released), (15, again))
    assert holds_after(conn, 11) == ((15, released), (15, again))
    assert holds_after(conn, 15) == ()


def test_pending_holds_of_a_hold_released_in_between_tell_both_steps(conn: psycopg.Connection[Any]) -> None:
    a = place(conn, "a", 0)
    release(conn, a, 5, "cancelled")
    assert pending_holds(conn, "town") == (Hold(a, "z1", "a", NOW_US), Hold(a, "z1", "a", NOW_US, NOW_US + 5 * MINUTE_US, "cancelled"))


def test_pending_holds_of_two_sites_each_tells_its_own(conn: psycopg.Connection[Any]) -> None:
    for site in ("town", "port"):
        conn.execute("INSERT INTO site (site_id, name, timezone, latitude_deg, longitude_deg) VALUES (%s, %s, 'UTC', 0, 0)", (site, site))
        conn.execute("INSERT INTO zone (zone_id, site_id, name, kind) VALUES (%s, %s, %s, 'dma')", (f"z-{site}", site, site))
        conn.execute(
            "INSERT INTO device (device_id, site_id, model, dialect, registered_at) VALUES (%s, %s, 'm', 'native', %s)",
            (f"d-{site}", site, NOW_AT),
        )
        conn.execute(
            "INSERT INTO asset (asset_id, site_id, zone_id, asset_class, name) VALUES (%s, %s, NULL, 'main', %s)", (f"p-{site}", site, site)
        )
    for zone_id, asset_id in (
        ("z-town", "pipe-1"),
        (None, "p-port"),
        ("z-port", "pipe-2"),
        (None, "p-town"),
        (None, "nobody's"),
        (None, "device:d-port"),
    ):
        conn.execute("INSERT INTO hold (zone_id, asset_id, held_at) VALUES (%s, %s, %s)", (zone_id, asset_id, NOW_AT))
    told = {site: [hold.asset_id for hold in pending_holds(conn, site)] for site in ("town", "port")}
    assert told == {"town": ["pipe-1", "p-town", "nobody's"], "port": ["p-port", "pipe-2", "nobody's", "device:d-port"]}


def test_mark_holds_that_is_rolled_back_leaves_them_pending(conn: psycopg.Connection[Any]) -> None:
    place(conn, "a", 0)
    with conn.transaction(force_rollback=True):
        mark_holds(conn, pending_holds(conn, "town"), 11)
    assert len(pending_holds(conn, "town")) == 1


def test_replay_after_tells_holds_before_the_batch_they_were_told_before(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT setval('batch_seq', 6)")
    for batch_id in (2, 4, 6):
        append(conn, ReadingBatch.from_columns([1], [NOW_US + batch_id], [float(batch_id)]), batch_id, NOW_AT)
    asset_of_batch = {1: "before", 4: "with", 5: "between", 9: "after"}
    for batch_id, asset_id in asset_of_batch.items():
        place(conn, asset_id, 0)
        mark_holds(conn, pending_holds(conn, "town"), batch_id)
    steps = [(step.batch_id, [hold.asset_id for hold in step.holds], step.readings.value.tolist()) for step in replay_after(conn, 0)]
    assert steps == [(1, ["before"], []), (2, [], [2.0]), (4, ["with"], [4.0]), (5, ["between"], []), (6, [], [6.0]), (9, ["after"], [])]
    assert [step.batch_id for step in replay_after(conn, 4)] == [5, 6, 9]
