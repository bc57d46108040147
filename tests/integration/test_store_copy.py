from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from underway.model import ExpectationBatch, InternalError, ReadingBatch, Signal, from_us, to_us
from underway.store.connect import connect
from underway.store.copy import SignalIds, append, append_expectations, next_batch_id

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW_US = to_us(NOW_AT)
MINUTE_US = 60_000_000


def batch_of(*rows: tuple[int, int, float]) -> ReadingBatch:
    """Rows of (channel, minute, value)."""
    return ReadingBatch.from_columns([r[0] for r in rows], [NOW_US + r[1] * MINUTE_US for r in rows], [r[2] for r in rows])


def stored(conn: psycopg.Connection[Any]) -> list[tuple[int, int, float, int]]:
    rows = conn.execute("SELECT channel_id, observed_at, value, batch_id FROM reading ORDER BY channel_id, observed_at").fetchall()
    return [(c, (to_us(at) - NOW_US) // MINUTE_US, value, batch) for c, at, value, batch in rows]


def test_append_new_readings_stores_every_column_exactly(conn: psycopg.Connection[Any]) -> None:
    batch = ReadingBatch(
        np.array([7, 2**31 - 1], np.int32),
        np.array([NOW_US + 1, NOW_US - 3], np.int64),
        np.array([NOW_US + 10, NOW_US + 11], np.int64),
        np.array([0.1 + 0.2, -1e300]),
        np.array([0, 2], np.uint8),
        np.array([0, 1], np.uint8),
        np.array([3, 255], np.uint8),
    )
    result = append(conn, batch, 42, NOW_AT)
    assert (result.inserted.tolist(), result.duplicates) == ([True, True], 0)
    rows = conn.execute(
        "SELECT channel_id, observed_at, received_at, recorded_at, value, quality, reason, flags, batch_id FROM reading ORDER BY 1"
    ).fetchall()
    assert rows == [
        (7, from_us(NOW_US + 1), from_us(NOW_US + 10), NOW_AT, 0.1 + 0.2, 0, 0, 3, 42),
        (2**31 - 1, from_us(NOW_US - 3), from_us(NOW_US + 11), NOW_AT, -1e300, 2, 1, 255, 42),
    ]


def test_append_the_same_batch_again_stores_nothing(conn: psycopg.Connection[Any]) -> None:
    batch = batch_of((1, 0, 1.0), (1, 5, 2.0), (2, 0, 3.0))
    append(conn, batch, 1, NOW_AT)
    again = append(conn, batch, 2, NOW_AT)
    assert (again.inserted.tolist(), again.duplicates) == ([False] * 3, 3)
    assert stored(conn) == [(1, 0, 1.0, 1), (1, 5, 2.0, 1), (2, 0, 3.0, 1)]


def test_append_a_mixed_batch_says_which_rows_are_new_and_the_first_stays(conn: psycopg.Connection[Any]) -> None:
    append(conn, batch_of((1, 0, 1.0), (2, 0, 2.0)), 1, NOW_AT)
    result = append(conn, batch_of((3, 0, 30.0), (1, 0, 10.0), (2, 5, 20.0), (3, 0, 31.0)), 2, NOW_AT)
    assert (result.inserted.tolist(), result.duplicates) == ([True, False, True, False], 2)
    assert stored(conn) == [(1, 0, 1.0, 1), (2, 0, 2.0, 1), (2, 5, 20.0, 2), (3, 0, 30.0, 2)]


def test_append_of_nothing_does_nothing(conn: psycopg.Connection[Any]) -> None:
    result = append(conn, ReadingBatch.empty(), 1, NOW_AT)
    assert (result.inserted.tolist(), result.duplicates) == ([], 0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.floats(-9, 9)), max_size=8), max_size=5))
def test_append_of_any_batches_keeps_the_first_value_of_each_key(
    conn: psycopg.Connection[Any], batches: list[list[tuple[int, int, float]]]
) -> None:
    conn.execute("TRUNCATE reading")
    model: dict[tuple[int, int], tuple[float, int]] = {}
    for batch_id, rows in enumerate(batches, 1):
        expected = []
        for channel, minute, value in rows:
            expected.append((channel, minute) not in model)
            model.setdefault((channel, minute), (value, batch_id))
        with conn.transaction():
            result = append(conn, batch_of(*rows), batch_id, NOW_AT)
        assert result.inserted.tolist() == expected
        assert result.duplicates == expected.count(False)
    assert stored(conn) == [(*key, *model[key]) for key in sorted(model)]


def test_append_twice_with_duplicates_in_one_transaction_keeps_it_usable(conn: psycopg.Connection[Any]) -> None:
    append(conn, batch_of((1, 0, 1.0)), 1, NOW_AT)
    with conn.transaction():
        first = append(conn, batch_of((1, 0, 9.0), (1, 1, 2.0)), 2, NOW_AT)
        second = append(conn, batch_of((1, 1, 9.0), (1, 2, 3.0)), 3, NOW_AT)
        conn.execute("INSERT INTO cursor_position VALUES ('test', 1)")
    assert (first.inserted.tolist(), second.inserted.tolist()) == ([False, True], [False, True])
    assert [row[:3] for row in stored(conn)] == [(1, 0, 1.0), (1, 1, 2.0), (1, 2, 3.0)]
    assert conn.execute("SELECT count(*) FROM cursor_position WHERE reader = 'test'").fetchone() == (1,)


def test_append_rolled_back_by_the_caller_leaves_nothing(conn: psycopg.Connection[Any]) -> None:
    with conn.transaction(force_rollback=True):
        append(conn, batch_of((1, 0, 1.0)), 1, NOW_AT)
    assert stored(conn) == []
    assert append(conn, batch_of((1, 0, 2.0)), 2, NOW_AT).duplicates == 0


def test_append_from_two_writers_with_the_same_readings_stores_each_once(database_url: str) -> None:
    batch = batch_of(*((channel, minute, 1.0) for minute in range(20) for channel in range(20)))
    counts: list[int] = []
    together = threading.Barrier(2)

    def run(batch_id: int) -> None:
        with connect(database_url) as mine:
            together.wait(10)
            with mine.transaction():
                counts.append(int(append(mine, batch, batch_id, NOW_AT).inserted.sum()))

    threads = [threading.Thread(target=run, args=(i,)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) == 400
    with connect(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM reading").fetchone() == (400,)


@pytest.mark.parametrize("us", [-(2**62), 2**62], ids=["long-ago", "far-ahead"])
def test_append_a_time_out_of_range_is_our_mistake(conn: psycopg.Connection[Any], us: int) -> None:
    with pytest.raises(InternalError, match=rf"^times of readings must lie between 1900 and 2100, got {us} us$"):
        append(conn, ReadingBatch.from_columns([1], [us], [1.0]), 1, NOW_AT)


def test_append_too_many_rows_is_our_mistake(conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underway.store.copy.ROWS_MAX", 2)
    with pytest.raises(InternalError, match=r"^a batch must have at most 2 readings, got 3$"):
        append(conn, batch_of((1, 0, 1.0), (1, 1, 1.0), (1, 2, 1.0)), 1, NOW_AT)


def test_next_batch_id_only_grows(conn: psycopg.Connection[Any]) -> None:
    first = next_batch_id(conn)
    with conn.transaction(force_rollback=True):
        second = next_batch_id(conn)
    assert first < second < next_batch_id(conn)


INFLOW = Signal("zone/z1/inflow", "z1", None, "m3/h")
PRESSURE = Signal("asset/p1/pressure", "z1", "p1", "kPa")


def expected_of(*rows: tuple[int, int, float], baseline: tuple[str, ...] = ("b1", "baseline-ü-2")) -> ExpectationBatch:
    """Rows of (signal, minute, observed)."""
    signal, minute, observed = (np.array([row[i] for row in rows]) for i in range(3))
    at_us = NOW_US + minute.astype(np.int64) * MINUTE_US
    values = observed.astype(np.float64)
    return ExpectationBatch((INFLOW, PRESSURE), baseline, signal.astype(np.int32), at_us, values, values + 1, np.full(len(rows), 0.5))


def expectations(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute(
        "SELECT name, at, observed, expected, sigma, baseline_id FROM expectation JOIN signal USING (signal_id) ORDER BY at, name"
    ).fetchall()


def test_append_expectations_registers_signals_and_keeps_the_first(conn: psycopg.Connection[Any]) -> None:
    ids = SignalIds()
    assert append_expectations(conn, expected_of((0, 0, 1.0), (1, 0, 2.0), (0, 0, 9.0)), ids) == 2
    assert append_expectations(conn, expected_of((0, 0, 9.0), (0, 1, 3.0)), ids) == 1
    assert append_expectations(conn, expected_of((0, 2, 4.0), baseline=("", "")), SignalIds()) == 1
    minute = [from_us(NOW_US + i * MINUTE_US) for i in range(3)]
    assert expectations(conn) == [
        (PRESSURE.name, minute[0], 2.0, 3.0, 0.5, "baseline-ü-2"),
        (INFLOW.name, minute[0], 1.0, 2.0, 0.5, "b1"),
        (INFLOW.name, minute[1], 3.0, 4.0, 0.5, "b1"),
        (INFLOW.name, minute[2], 4.0, 5.0, 0.5, "-"),
    ]
    assert conn.execute("SELECT name, zone_id, asset_id, unit FROM signal ORDER BY signal_id").fetchall() == [
        ("zone/z1/inflow", "z1", None, "m3/h"),
        ("asset/p1/pressure", "z1", "p1", "kPa"),
    ]


def test_append_expectations_after_a_rollback_registers_the_signal_again(conn: psycopg.Connection[Any]) -> None:
    ids = SignalIds()
    with conn.transaction(force_rollback=True):
        append_expectations(conn, expected_of((0, 0, 1.0)), ids)
    append_expectations(conn, expected_of((0, 0, 1.0)), ids)
    assert [row[0] for row in expectations(conn)] == [INFLOW.name]


def test_signal_ids_seen_in_a_later_transaction_are_not_asked_for_again(conn: psycopg.Connection[Any]) -> None:
    ids = SignalIds()
    for minute in range(3):
        assert (INFLOW.name in ids.known) == (minute > 1)
        append_expectations(conn, expected_of((0, minute, 1.0)), ids)
    assert set(ids.known) == {INFLOW.name, PRESSURE.name}
    assert ids.unsure == {}
