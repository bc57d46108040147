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
from underway.store.copy import append, next_batch_id
from underway.store.memory import (
    ClockRow,
    LateWindow,
    MemoryRow,
    PresenceRow,
    drop_late_window,
    late_windows_waiting,
    load_clocks,
    load_memory,
    note_late_windows,
    readings_between,
    save_clocks,
    save_memory,
    save_presence,
    take_late_window,
)
from underway.store.registry import save_registry

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


def test_late_windows_that_touch_become_one_and_others_stay_apart(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("z1", NOW_US, NOW_US + HOUR_US, 3, (7, 3)), LateWindow("z2", NOW_US, NOW_US + 1, 1, (4,))], NOW_AT)
    later_at = NOW_AT + timedelta(seconds=30)
    note_late_windows(conn, [LateWindow("z1", NOW_US + 90 * MINUTE_US, NOW_US + 2 * HOUR_US, 2, (3, 5))], later_at)
    note_late_windows(conn, [LateWindow("z1", NOW_US - 2 * DAY_US, NOW_US - 2 * DAY_US + 1, 1)], later_at)
    assert late_windows_waiting(conn) == 3
    first = take_late_window(conn, NOW_AT)
    assert first is not None
    assert (first.lane, first.readings) == ("z2", 1)
    assert drop_late_window(conn, first)
    widened = take_late_window(conn, later_at)
    assert widened is not None
    assert (widened.lane, widened.from_us, widened.to_us, widened.readings) == ("z1", NOW_US, NOW_US + 2 * HOUR_US, 5)
    assert widened.channel_ids == (3, 5, 7)


def test_late_window_that_grew_while_it_was_judged_is_judged_once_more(conn: psycopg.Connection[Any]) -> None:
    note_late_windows(conn, [LateWindow("z1", NOW_US, NOW_US + 1, 1)], NOW_AT)
    taken = take_late_window(conn, NOW_AT)
    assert taken is not None
    note_late_windows(conn, [LateWindow("z1", NOW_US, NOW_US + 9, 4)], NOW_AT)
    assert not drop_late_window(conn, taken)
    assert late_windows_waiting(conn) == 1
    assert take_late_window(conn, NOW_AT - timedelta(seconds=1)) is None, "it waits until nothing more comes"


def test_readings_between_are_those_of_event_time(registered: psycopg.Connection[Any]) -> None:
    offset = np.array([0, 0, 3_600_000, 0], np.int32)
    batch = ReadingBatch.from_columns([1, 1, 1, 2], [NOW_US, NOW_US + 60, NOW_US + 30 + HOUR_US, NOW_US + 1], [1.0, 3.0, 2.0, 9.0])
    batch = ReadingBatch(batch.channel_id, batch.observed_us, batch.received_us, batch.value, batch.quality, batch.reason, batch.flags, offset)
    append(registered, batch, next_batch_id(registered), NOW_AT)
    found = readings_between(registered, [1], NOW_US, NOW_US + 60)
    assert found.value.tolist() == [1.0, 2.0]
    assert found.observed_us.tolist() == [NOW_US, NOW_US + 30]
