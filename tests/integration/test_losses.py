"""What zones lose, on a real database, against examples that can be reckoned in the head, and against the functions of `detectors.water.losses`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
import pytest

from detectors.water.losses import leakage_index, legitimate_night_use_m3ph, recovered_by_repair
from underway.store import losses

pytestmark = pytest.mark.integration

BERLIN = ZoneInfo("Europe/Berlin")
FIRST, DAYS = date(2026, 3, 20), 40
"""The clocks change in it."""
PEOPLE, NIGHT_M3PH, DAY_M3PH, LEAK_M3PH = 10_000, 14.0, 60.0, 6.0
REPAIRED = FIRST + timedelta(days=20)


def town(conn: psycopg.Connection[Any], attributes: str) -> None:
    conn.execute("INSERT INTO site VALUES ('s', 'Site', 'Europe/Berlin', 52, 13)")
    conn.execute(
        "INSERT INTO zone VALUES ('a', 's', 'A', 'dma', NULL, %s), ('b', 's', 'B', 'dma', NULL, '{}'), ('r', 's', 'R', 'corridor', NULL, '{}')",
        (attributes,),
    )
    conn.execute("INSERT INTO asset VALUES ('p1', 's', 'a', 'pipe', 'P1', NULL, 2, '{\"length_m\": 100000}')")
    conn.execute(
        "INSERT INTO device (device_id, site_id, zone_id, model, dialect, registered_at) VALUES ('d', 's', 'a', 'm', 'native', now())"
    )
    for number, name, role, quantity, zone, also in (
        (1, "in", "zone_inflow", "flow", "a", None),
        (2, "on", "zone_inflow", "flow", "b", "a"),
        (3, "p", "zone_pressure", "pressure", "a", None),
    ):
        conn.execute(
            """INSERT INTO channel (channel_id, device_id, name, quantity, device_unit, zone_id, role, range_min, range_max, interval_s, also_zone_id)
               VALUES (%s, 'd', %s, %s, 'x', %s, %s, -1e6, 1e6, 900, %s)""",
            (number, name, quantity, zone, role, also),
        )


def readings(conn: psycopg.Connection[Any], channel_id: int, value: Any) -> None:
    """Store 40 days at 15 min; `value` is a function of the local time."""
    at = datetime.combine(FIRST, datetime.min.time(), BERLIN).astimezone(UTC)
    with (
        conn.cursor() as cur,
        cur.copy(
            "COPY reading (channel_id, observed_at, received_at, recorded_at, value, quality, reason, flags, batch_id) FROM STDIN"
        ) as copy,
    ):
        for k in range(DAYS * 96):
            moment = at + timedelta(minutes=15 * k)
            v = value(moment.astimezone(BERLIN))
            if v is not None:
                copy.write_row((channel_id, moment, moment, moment, v, 0, 0, 0, 1))


def inflow(local: datetime) -> float:
    leak = LEAK_M3PH if local.date() <= REPAIRED else 0.0
    return (NIGHT_M3PH if 2 <= local.hour < 4 else DAY_M3PH) + leak


def filled(conn: psycopg.Connection[Any], attributes: str = "{}") -> None:
    town(conn, attributes)
    readings(conn, 1, lambda local: inflow(local) + 5.0)
    readings(conn, 2, lambda local: None if local.date() == FIRST + timedelta(days=5) else 5.0)
    readings(conn, 3, lambda local: 490.3325)


def test_night_flow_by_local_time_with_legitimate_use_and_a_meter_between_two_zones(conn: psycopg.Connection[Any]) -> None:
    filled(conn, f'{{"people": {PEOPLE}, "night_use_m3ph": 1.5}}')
    found = losses.nights(conn, FIRST, FIRST + timedelta(days=DAYS), "a")
    assert len(found) == DAYS - 1
    assert {n.night for n in found} == {FIRST + timedelta(days=d) for d in range(DAYS)} - {FIRST + timedelta(days=5)}
    first, last = found[0], found[-1]
    assert first.inflow_m3ph == pytest.approx(NIGHT_M3PH + LEAK_M3PH)
    assert first.legitimate_m3ph == pytest.approx(legitimate_night_use_m3ph(PEOPLE, 1.5)) == pytest.approx(7.5)
    assert first.net_m3ph == pytest.approx(12.5)
    assert last.net_m3ph == pytest.approx(6.5)
    # 28 to 29 March: the hour from 02:00 to 03:00 does not exist, and half of the readings are there
    shares = {n.night: n.share for n in found}
    assert shares.pop(date(2026, 3, 29)) == pytest.approx(0.5)
    assert set(shares.values()) == {1.0}


def test_balance_and_index_are_those_of_the_functions(conn: psycopg.Connection[Any]) -> None:
    filled(
        conn, '{"people": 10000, "connections": 6000, "billed_m3_a_year": 400000, "unbilled_m3_a_year": 4000, "apparent_m3_a_year": 6000}'
    )
    first, after_last = FIRST + timedelta(days=22), FIRST + timedelta(days=36)
    zone = next(z for z in losses.zones(conn, first, after_last) if z.zone_id == "a")
    supplied = (2 * NIGHT_M3PH + 22 * DAY_M3PH) * 365
    assert zone.input_m3_a_year == pytest.approx(supplied)
    assert zone.nrw_m3_a_year == pytest.approx(supplied - 400_000)
    assert zone.nrw_share == pytest.approx(1 - 400_000 / supplied)
    index = leakage_index(supplied - 410_000, 100.0, 6000, 0.0, 50.0)
    assert (zone.carl_m3_a_year, zone.carl_from) == (pytest.approx(index.carl_m3_a_year), "balance")
    assert zone.uarl_m3_a_year == pytest.approx(index.uarl_m3_a_year) == pytest.approx(120_450.0)
    assert zone.ili == pytest.approx(index.ili)
    assert (zone.doubts, zone.missing) == ([], [])


def test_zone_of_which_little_is_known_says_what_is_missing_and_gives_what_it_can(conn: psycopg.Connection[Any]) -> None:
    filled(conn, '{"people": 10000, "connections": 150, "mains_km": 10}')
    zones = {z.zone_id: z for z in losses.zones(conn, FIRST, FIRST + timedelta(days=DAYS))}
    assert set(zones) == {"a", "b"}
    assert (zones["a"].carl_from, zones["a"].nrw_share, zones["a"].missing) == ("night flow", None, ["billed_m3_a_year"])
    assert zones["a"].doubts == ["few_connections", "sparse_connections"]
    assert zones["b"].missing == ["people", "connections", "mains_km", "billed_m3_a_year"]
    assert (zones["b"].ili, zones["b"].uarl_m3_a_year) == (None, None)


def order(conn: psycopg.Connection[Any], number: int, day: date) -> None:
    stopped = datetime.combine(day, datetime.min.time(), BERLIN) + timedelta(hours=15)
    conn.execute(
        """INSERT INTO incident (incident_id, site_id, zone_id, kind, title, state, onset_at, aware_at, stopped_at)
           VALUES (%s, 's', 'a', 'leak', 't', 'RESOLVED', %s, %s, %s)""",
        (number, stopped - timedelta(days=30), stopped - timedelta(days=20), stopped),
    )
    conn.execute(
        """INSERT INTO work_order (order_id, site_id, incident_id, asset_id, zone_id, order_type, title, priority, state, required_skill, created_at,
                                   aware_at, closed_at) VALUES (%s, 's', %s, 'p1', 'a', 'leak_repair', 't', 'high', 'CLOSED', 'x', %s, %s, %s)""",
        (number, number, stopped, stopped, stopped + timedelta(days=3)),
    )


def test_repair_gives_back_what_the_night_flow_fell_by(conn: psycopg.Connection[Any]) -> None:
    filled(conn)
    order(conn, 1, REPAIRED)
    (found,) = losses.repairs(conn, FIRST, FIRST + timedelta(days=DAYS))
    same = recovered_by_repair(np.full(14, NIGHT_M3PH + LEAK_M3PH), np.full(14, NIGHT_M3PH))
    assert same is not None
    assert (found.recovered_m3ph, found.sd_m3ph) == (pytest.approx(same.m3ph), pytest.approx(same.sd_m3ph))
    assert found.recovered_m3ph == pytest.approx(LEAK_M3PH)
    assert (found.nights_before, found.nights_after, found.doubts) == (14, 14, [])


def test_repair_beside_another_one_or_that_changed_nothing_says_so(conn: psycopg.Connection[Any]) -> None:
    filled(conn)
    order(conn, 1, REPAIRED)
    order(conn, 2, REPAIRED + timedelta(days=12))
    found = {r.order_id: r for r in losses.repairs(conn, FIRST, FIRST + timedelta(days=DAYS))}
    assert found[1].doubts == ["other_repair"]
    assert set(found[2].doubts) >= {"few_nights", "other_repair"}
