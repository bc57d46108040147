"""What ingest remembers between two starts, on real servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

from underway.model import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    Channel,
    Device,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    to_us,
)
from underway.store import memory
from underway.store.copy import append, next_batch_id
from underway.store.ingest_health import load_ingest_health
from underway.store.memory import (
    ATTEMPTS_MAX,
    PATIENCE_SETTLES,
    ClockRow,
    LateWindow,
    MemoryRow,
    PresenceRow,
    count_late_windows,
    drop_late_window,
    give_up_late_windows,
    load_clocks,
    load_memory,
    note_late_failure,
    note_late_windows,
    return_late_window,
    save_clocks,
    save_memory,
    save_presence,
    take_late_window,
)
from underway.store.registry import save_registry
from underway.store.slices import SlicedReadings

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, tzinfo=UTC)
NOW_US = to_us(NOW_AT)


@pytest.fixture
def registered(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    device = Device("meter-7", "town", None, None, "m", "sparkplug", NOW_AT - timedelta(days=60), address="north/rtu-1/inlet")
    plain = Device("pr-1", "town", None, None, "m", "native", NOW_AT - timedelta(days=60))
    channel = Channel(0, "pr-1", "pressure", Quantity.PRESSURE, "kPa", None, None, "zone_pressure", 0.0, 1000.0, 300.0)
    save_registry(conn, Registry(Site("town", "Town", "UTC", 0.0, 0.0), (), (), (device, plain), (channel,)))
    return conn


def test_memory_last_of_several_holds_and_none_forgets(conn: psycopg.Connection[Any]) -> None:
    save_memory(conn, [MemoryRow("frames", "a", b"1"), MemoryRow("frames", "a", b"\x00\xff"), MemoryRow("sparkplug", "n/e", b"x")], NOW_AT)
    assert load_memory(conn) == [MemoryRow("frames", "a", b"\x00\xff"), MemoryRow("sparkplug", "n/e", b"x")]
    save_memory(conn, [MemoryRow("frames", "a", None)], NOW_AT)
    assert load_memory(conn) == [MemoryRow("sparkplug", "n/e", b"x")]


def test_presence_is_kept_of_registered_addresses_alone(registered: psycopg.Connection[Any]) -> None:
    rows = [
        PresenceRow("sparkplug", "north/rtu-1/inlet", True, NOW_US, "birth"),
        PresenceRow("sparkplug", "north/rtu-1/inlet", False, NOW_US + 5, "death"),
        PresenceRow("sparkplug", "nobody/at/all", True, NOW_US, "birth"),
        PresenceRow("native", "pr-1", True, NOW_US, "birth"),
    ]
    save_presence(registered, rows)
    found = registered.execute("SELECT device_id, online, reason FROM device_presence ORDER BY device_id").fetchall()
    assert found == [("meter-7", False, "death"), ("pr-1", True, "birth")]


def test_clocks_come_back_by_device_and_those_that_are_right_do_not(registered: psycopg.Connection[Any]) -> None:
    save_clocks(registered, [ClockRow("pr-1", 5_000, NOW_US), ClockRow("pr-1", 3_600_000, NOW_US), ClockRow("meter-7", 1, NOW_US)])
    save_clocks(registered, [ClockRow("meter-7", 0, NOW_US)])
    assert load_clocks(registered, "town") == {"pr-1": 3_600_000}


def taken(conn: psycopg.Connection[Any], at: datetime, site_id: str = "town", settled_at: datetime | None = None) -> LateWindow:
    window = take_late_window(conn, settled_at or at, at, site_id)
    assert window is not None
    return window


def test_late_windows_that_touch_become_one_and_others_stay_apart(conn: psycopg.Connection[Any]) -> None:
    first_two = [LateWindow("z1", NOW_US, NOW_US + HOUR_US, 3, (7, 3)), LateWindow("z2", NOW_US, NOW_US + 1, 1, (4,))]
    note_late_windows(conn, first_two, NOW_AT, "town")
    later_at = NOW_AT + timedelta(seconds=30)
    note_late_windows(conn, [LateWindow("z1", NOW_US + 90 * MINUTE_US, NOW_US + 2 * HOUR_US, 2, (3, 5))], later_at, "town")
    note_late_windows(conn, [LateWindow("z1", NOW_US - 2 * DAY_US, NOW_US - 2 * DAY_US + 1, 1)], later_at, "town")
    assert count_late_windows(conn, "town") == (3, 0)
    first = taken(conn, later_at, settled_at=NOW_AT)
    assert (first.lane, first.readings, first.channel_ids, first.attempts) == ("z2", 1, (4,), 1)
    drop_late_window(conn, first)
    widened = taken(conn, later_at)
    assert (widened.lane, widened.from_us, widened.to_us, widened.readings) == ("z1", NOW_US, NOW_US + 2 * HOUR_US, 5)
    assert widened.channel_ids == (3, 5, 7)


def test_late_windows_of_one_batch_that_touch_the_same_one_all_widen_it(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("z1", NOW_US, NOW_US + HOUR_US, 3, (7,))], NOW_AT, "town")
    more = [LateWindow("z1", NOW_US - HOUR_US, NOW_US - 9, 2, (1,)), LateWindow("z1", NOW_US + 2 * HOUR_US, NOW_US + 3 * HOUR_US, 4, (9,))]
    note_late_windows(conn, more, NOW_AT, "town")
    assert count_late_windows(conn, "town") == (1, 0)
    window = taken(conn, NOW_AT)
    assert (window.from_us, window.to_us, window.readings) == (NOW_US - HOUR_US, NOW_US + 3 * HOUR_US, 9)
    assert window.channel_ids == (1, 7, 9)


def test_note_late_windows_of_a_whole_site_sends_a_constant_number_of_statements(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        statements.append(str(query))
        return execute(self, query, *args, **kwargs)

    known = [LateWindow(f"z{i}", NOW_US, NOW_US + 1, 1, (i,)) for i in range(700)]
    note_late_windows(conn, known, NOW_AT, "town")
    windows = [LateWindow(f"z{i}", NOW_US + 5, NOW_US + 9, 2, (i, 5000 + i)) for i in range(2000)]
    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    note_late_windows(conn, windows, NOW_AT, "town")
    monkeypatch.undo()
    assert len(statements) == 3
    found = conn.execute("SELECT readings, array_length(channel_ids, 1), count(*) FROM late_window GROUP BY 1, 2 ORDER BY 1").fetchall()
    assert found == [(2, 2, 1300), (3, 2, 700)]


def test_late_window_under_way_is_left_as_it_is_and_what_comes_meanwhile_is_one_of_its_own(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("z1", NOW_US, NOW_US + 1, 1)], NOW_AT, "town")
    window = taken(conn, NOW_AT)
    note_late_windows(conn, [LateWindow("z1", NOW_US, NOW_US + 9, 4)], NOW_AT, "town")
    drop_late_window(conn, window)
    assert count_late_windows(conn, "town") == (1, 0)
    assert take_late_window(conn, NOW_AT - timedelta(seconds=1), NOW_AT, "town") is None, "it waits until nothing more comes"
    again = taken(conn, NOW_AT)
    assert (again.from_us, again.to_us, again.readings, again.attempts) == (NOW_US, NOW_US + 9, 4, 1)


def test_late_window_to_which_something_is_added_all_the_time_is_judged_all_the_same_and_grows_no_further(
    conn: psycopg.Connection[Any],
) -> None:
    settle, tried = timedelta(minutes=1), []
    for minute in range(35):
        at = NOW_AT + timedelta(minutes=minute)
        note_late_windows(conn, [LateWindow("z1", NOW_US + minute * MINUTE_US, NOW_US + minute * MINUTE_US + 1, 1)], at, "town")
        window = take_late_window(conn, at - settle, at, "town")
        if window is not None:
            tried.append((minute, (window.to_us - window.from_us) // MINUTE_US, window.readings))
            drop_late_window(conn, window)
    n = PATIENCE_SETTLES
    assert tried == [(n, n, n + 1), (2 * n + 1, n, n + 1), (3 * n + 2, n, n + 1)]


def test_late_window_that_waited_too_long_comes_before_one_that_settled_later(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("busy", NOW_US, NOW_US + 1, 1)], NOW_AT, "town")
    note_late_windows(conn, [LateWindow("calm", NOW_US, NOW_US + 1, 1)], NOW_AT + timedelta(minutes=3), "town")
    at = NOW_AT + timedelta(minutes=11)
    note_late_windows(conn, [LateWindow("busy", NOW_US, NOW_US + 2, 1)], at, "town")
    first = take_late_window(conn, at - timedelta(minutes=1), at, "town")
    assert first is not None
    assert (first.lane, first.readings) == ("busy", 2)


def test_late_window_of_another_site_is_left_to_it(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("all", NOW_US, NOW_US + 1, 1)], NOW_AT, "north")
    note_late_windows(conn, [LateWindow("all", NOW_US, NOW_US + 5, 2)], NOW_AT + timedelta(seconds=1), "south")
    assert count_late_windows(conn, "south") == (1, 0)
    assert taken(conn, NOW_AT + timedelta(seconds=1), "south").readings == 2
    assert take_late_window(conn, NOW_AT + timedelta(seconds=1), NOW_AT + timedelta(seconds=1), "south") is None
    assert taken(conn, NOW_AT, "north").readings == 1


def test_late_window_that_fails_lets_others_go_first_and_is_given_up_in_sight(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("bad", NOW_US, NOW_US + 1, 1)], NOW_AT, "town")
    note_late_windows(conn, [LateWindow("good", NOW_US, NOW_US + 1, 1)], NOW_AT + timedelta(seconds=1), "town")
    at = NOW_AT + timedelta(seconds=2)
    window = taken(conn, at)
    assert window.lane == "bad"
    note_late_failure(conn, window, "broken \0 " + "x" * 9999, at)
    drop_late_window(conn, taken(conn, at))  # the good one
    waits = []
    for attempt in range(2, ATTEMPTS_MAX + 1):
        assert give_up_late_windows(conn, at, "town") == []
        (next_at,) = conn.execute("SELECT next_at FROM late_window").fetchone() or (None,)
        assert next_at is not None
        assert take_late_window(conn, at, next_at - timedelta(milliseconds=1), "town") is None
        waits.append((next_at - at).total_seconds())
        at = next_at
        window = taken(conn, at)
        assert window.attempts == attempt
        note_late_failure(conn, window, f"broken {attempt}", at)
    assert waits == [30.0, 120.0, 480.0, 1920.0]
    assert [(lost.lane, why) for lost, why in give_up_late_windows(conn, at, "town")] == [("bad", f"broken {ATTEMPTS_MAX}")]
    assert give_up_late_windows(conn, at, "town") == []
    assert count_late_windows(conn, "town") == (0, 1)
    assert take_late_window(conn, at, at + timedelta(days=30), "town") is None
    note_late_windows(conn, [LateWindow("bad", NOW_US, NOW_US + 1, 1)], at, "town")
    assert count_late_windows(conn, "town") == (1, 1), "new data has its own chance"
    health = load_ingest_health(conn, NOW_AT)
    assert (health.late_windows, health.late_given_up, health.late_error) == (1, 1, f"broken {ATTEMPTS_MAX}")


def test_late_window_that_ends_the_process_each_time_is_given_up(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("bad", NOW_US, NOW_US + 1, 1)], NOW_AT, "town")
    at = NOW_AT
    for _ in range(ATTEMPTS_MAX):
        assert give_up_late_windows(conn, at, "town") == []
        taken(conn, at)  # and no word of it again
        at += timedelta(hours=2)
    ((lost, why),) = give_up_late_windows(conn, at, "town")
    assert (lost.lane, why) == ("bad", "ingest ended while it was judged")


def test_late_window_returned_is_as_if_never_taken(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("z1", NOW_US, NOW_US + 1, 1)], NOW_AT, "town")
    return_late_window(conn, taken(conn, NOW_AT))
    assert taken(conn, NOW_AT).attempts == 1


def test_give_up_late_windows_keeps_a_bounded_number(conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "GIVEN_UP_MAX", 2)
    note_late_windows(conn, [LateWindow(f"z{i}", NOW_US, NOW_US + 1, 1) for i in range(5)], NOW_AT, "town")
    conn.execute("UPDATE late_window SET attempts = %s", (ATTEMPTS_MAX,))
    assert len(give_up_late_windows(conn, NOW_AT, "town")) == 5
    assert count_late_windows(conn, "town") == (0, 2)


def test_sliced_readings_are_those_of_event_time(registered: psycopg.Connection[Any]) -> None:
    offset = np.array([0, 3_600_000, 0, 0, 3_600_000], np.int32)
    observed = [NOW_US, NOW_US + 30 + HOUR_US, NOW_US + 60, NOW_US + 1, NOW_US + 5]
    batch = ReadingBatch.from_columns([1, 1, 1, 2, 1], observed, [1.0, 2.0, 3.0, 9.0, 0.0])
    batch = ReadingBatch(
        batch.channel_id, batch.observed_us, batch.received_us, batch.value, batch.quality, batch.reason, batch.flags, offset
    )
    append(registered, batch, next_batch_id(registered), NOW_AT)
    save_clocks(registered, [ClockRow("pr-1", 3_600_000, NOW_US), ClockRow("pr-1", 0, NOW_US)])
    (found,) = SlicedReadings(registered, [1], NOW_US, NOW_US, NOW_US + 60)
    assert found.value.tolist() == [1.0, 2.0]
    assert found.observed_us.tolist() == [NOW_US, NOW_US + 30]


def test_sliced_readings_are_all_of_the_window_and_what_is_cut_is_before_it(registered: psycopg.Connection[Any]) -> None:
    at = NOW_US + np.arange(3000) * MINUTE_US
    offset = np.where(np.arange(3000) % 2, 0, 600_000).astype(np.int32)
    for channel, shift in ((1, offset), (2, np.zeros(3000, np.int32))):
        plain = ReadingBatch.from_columns([channel] * 3000, at + shift.astype(np.int64) * 1000, at.astype(float))
        batch = ReadingBatch(
            plain.channel_id, plain.observed_us, plain.received_us, plain.value, plain.quality, plain.reason, plain.flags, shift
        )
        append(registered, batch, next_batch_id(registered), NOW_AT)
    save_clocks(registered, [ClockRow("pr-1", 600_000, NOW_US)])
    whole = SlicedReadings(registered, [1, 2], NOW_US, int(at[2500]), int(at[-1]) + 1, rows=200)
    slices = list(whole)
    assert not whole.is_shortened
    assert max(map(len, slices)) <= 200
    found = ReadingBatch.concat(slices)
    assert found.observed_us.tolist() == np.repeat(at, 2).tolist()
    assert found.channel_id.tolist() == [1, 2] * 3000
    assert found.value.tolist() == np.repeat(at, 2).tolist()
    cut = SlicedReadings(registered, [1, 2], NOW_US, int(at[2500]), int(at[-1]) + 1, rows=200, warm_up_rows_max=1000)
    kept = ReadingBatch.concat(cut)
    assert cut.is_shortened
    assert kept.observed_us[-1000:].tolist() == np.repeat(at[2500:], 2).tolist(), "the window is whole"
    assert 600 <= len(kept) - 1000 <= 1000
    assert kept.observed_us.tolist() == np.repeat(at, 2).tolist()[-len(kept) :], "what is left is without gaps"
