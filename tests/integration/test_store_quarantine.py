from __future__ import annotations

import contextlib
import hashlib
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from ingest.quarantine import QuarantineBudget
from underway.app.ingest_store import PostgresStore
from underway.model import Fault, FaultReason
from underway.store.connect import connect
from underway.store.quarantine import QuarantineEntry, prune_quarantine, save_quarantine

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOPIC = "uw/town/fm-1/telemetry"


def entry(
    payload: bytes,
    minute: int = 0,
    message: str = "'flow' must be a number",
    topic: str = TOPIC,
    *,
    device: str | None = "fm-1",
    reason: FaultReason = FaultReason.VALUE_TYPE,
    size: int = 0,
) -> QuarantineEntry:
    return QuarantineEntry(NOW_AT + timedelta(minutes=minute), "native", topic, payload, Fault(reason, message, device, "flow"), size)


def test_save_quarantine_of_the_same_message_counts_up(conn: psycopg.Connection[Any]) -> None:
    budget = QuarantineBudget(at_once=2)
    assert save_quarantine(conn, [entry(b"x", 5), entry(b"x", 3), entry(b"y")], budget, NOW_AT) == {"value_type": 3}
    assert save_quarantine(conn, [entry(b"x", 9)], budget, NOW_AT) == {"value_type": 1}
    assert save_quarantine(conn, [], budget, NOW_AT) == {}
    rows = conn.execute("SELECT payload, count, received_at, last_at, reason, device_id FROM quarantine ORDER BY payload").fetchall()
    assert rows == [
        (b"x", 3, NOW_AT + timedelta(minutes=3), NOW_AT + timedelta(minutes=9), "value_type", "fm-1"),
        (b"y", 1, NOW_AT, NOW_AT, "value_type", "fm-1"),
    ]
    assert conn.execute("SELECT count(*) FROM quarantine_overflow").fetchone() == (0,)


def test_save_quarantine_beyond_the_share_of_a_device_only_counts_overflow(conn: psycopg.Connection[Any]) -> None:
    budget = QuarantineBudget(at_once=3, per_hour=60)
    mad = [entry(b"%d" % number) for number in range(10)]
    assert save_quarantine(conn, [*mad, entry(b"9")], budget, NOW_AT) == {"value_type": 11}
    assert save_quarantine(conn, [entry(b"x", device="fm-2"), entry(b"x", device=None, topic="a/b/c/d/e")], budget, NOW_AT) == {
        "value_type": 2
    }
    kept = conn.execute("SELECT device_id, payload FROM quarantine ORDER BY quarantine_id").fetchall()
    assert kept == [("fm-1", b"0"), ("fm-1", b"1"), ("fm-1", b"2"), ("fm-2", b"x"), (None, b"x")]
    later_at = NOW_AT + timedelta(minutes=1)
    save_quarantine(conn, [entry(b"0", 1), entry(b"10", 1), entry(b"11", 1, reason=FaultReason.SCHEMA)], budget, later_at)
    overflow = conn.execute("SELECT source, reason, count, first_at, last_at FROM quarantine_overflow ORDER BY reason").fetchall()
    assert overflow == [("fm-1", "schema", 1, later_at, later_at), ("fm-1", "value_type", 8, NOW_AT, NOW_AT)]
    assert conn.execute("SELECT count FROM quarantine WHERE payload = '0'").fetchone() == (2,)


def test_save_quarantine_of_a_huge_message_keeps_the_begin_the_digest_and_the_full_size(conn: psycopg.Connection[Any]) -> None:
    payload = bytes(range(256)) * 100
    save_quarantine(conn, [entry(payload), entry(payload[:5000], size=10_000_000)], QuarantineBudget(), NOW_AT)
    rows = conn.execute("SELECT payload, payload_bytes, payload_sha FROM quarantine ORDER BY quarantine_id").fetchall()
    assert rows == [
        (payload[:2048], 25_600, hashlib.sha256(payload).hexdigest()),
        (payload[:2048], 10_000_000, hashlib.sha256(payload[:5000]).hexdigest()),
    ]


def test_save_quarantine_takes_text_that_postgresql_would_refuse(conn: psycopg.Connection[Any]) -> None:
    odd = entry(b"\x00\xff", message="got \x00 and \ud800 " + "z" * 5000, topic="ü\x00" * 20_000, device="\x00")
    save_quarantine(conn, [odd, entry(b"y", topic="ü\x00" * 20_000, device=None)], QuarantineBudget(at_once=0), NOW_AT)
    sources = conn.execute("SELECT source FROM quarantine_overflow ORDER BY length(source)").fetchall()
    assert sources == [("\\x00",), ("ü\\x00" * 40,)]
    save_quarantine(conn, [odd], QuarantineBudget(), NOW_AT)
    row = conn.execute("SELECT topic, message, payload FROM quarantine").fetchone()
    assert row is not None
    assert row[0].startswith("ü\\x00ü")
    assert (len(row[0]), len(row[1]), row[2]) == (500, 1000, b"\x00\xff")
    assert row[1].startswith("got \\x00 and \\ud800 zzz")


def test_prune_quarantine_keeps_what_was_seen_last(conn: psycopg.Connection[Any]) -> None:
    save_quarantine(conn, [entry(bytes([i]), minute=i) for i in range(10)], QuarantineBudget(), NOW_AT)
    save_quarantine(conn, [entry(bytes([0]), minute=30)], QuarantineBudget(), NOW_AT)
    for minute in range(4):
        at = NOW_AT + timedelta(minutes=minute)
        save_quarantine(conn, [entry(b"new", device=f"fm-{minute}", topic="a/b")], QuarantineBudget(at_once=0), at)
    assert prune_quarantine(conn, 3, 2) == 7
    assert prune_quarantine(conn, 3, 2) == 0
    assert [row[0] for row in conn.execute("SELECT payload FROM quarantine ORDER BY last_at")] == [b"\x08", b"\x09", b"\x00"]
    assert [row[0] for row in conn.execute("SELECT source FROM quarantine_overflow ORDER BY last_at")] == ["fm-2", "fm-3"]


def test_transaction_that_fails_costs_its_sender_nothing_of_its_share(database_url: str) -> None:
    store = PostgresStore(database_url, None, os.getpid(), NOW_AT, QuarantineBudget(at_once=2))
    store.open()
    entries = [entry(b"a"), entry(b"b"), entry(b"c")]
    for _ in range(5):
        with contextlib.suppress(ValueError), store.transaction() as tx:
            tx.save_quarantine(entries, NOW_AT)
            raise ValueError("it failed")
    with store.transaction() as tx:
        tx.save_quarantine(entries, NOW_AT)
    with store.transaction() as tx:
        tx.save_quarantine([entry(b"d")], NOW_AT)
    store.close()
    with connect(database_url) as conn:
        assert conn.execute("SELECT payload FROM quarantine ORDER BY payload").fetchall() == [(b"a",), (b"b",)]
        assert conn.execute("SELECT source, count FROM quarantine_overflow").fetchall() == [("fm-1", 2)]
