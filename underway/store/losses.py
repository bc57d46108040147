"""Named read-only queries for what zones lose; the formulas stand in migration 0014 and, one by one, in `detectors.water.losses`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

DAYS_MAX = 366


@dataclass(frozen=True, slots=True)
class NightView:
    """One zone in one night, 02:00 to 04:00 local time, m3/h; None while one of its meters had nothing."""

    zone_id: str
    zone: str
    night: date
    inflow_m3ph: float | None
    legitimate_m3ph: float
    net_m3ph: float | None
    share: float


@dataclass(frozen=True, slots=True)
class ZoneLossView:
    """The water balance of a zone, made a year of; ``doubts`` says why ``ili`` is not what UARL is stated for, ``missing`` what nobody has said."""

    zone_id: str
    zone: str
    nights: int
    input_m3_a_year: float | None
    nrw_m3_a_year: float | None
    nrw_share: float | None
    night_m3ph: float | None
    net_night_m3ph: float | None
    carl_m3_a_year: float | None
    carl_from: str | None
    uarl_m3_a_year: float | None
    ili: float | None
    pressure_m: float | None
    doubts: list[str]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class RecoveredView:
    """What the repair of one closed order gave back, m3/h, and why the figure may not be that of the repair."""

    order_id: int
    zone_id: str
    asset_id: str
    closed_at: datetime
    before_m3ph: float | None
    after_m3ph: float | None
    recovered_m3ph: float | None
    sd_m3ph: float | None
    nights_before: int
    nights_after: int
    doubts: list[str]


def nights(conn: Connection[Any], first: date, after_last: date, zone_id: str | None = None) -> list[NightView]:
    """Return night flows, by zone and night."""
    with conn.cursor(row_factory=class_row(NightView)) as cur:
        cur.execute(
            """SELECT zone_id, zone, night, inflow_m3ph, legitimate_m3ph, net_m3ph, share FROM loss_night(%(first)s, %(after_last)s)
               WHERE %(zone_id)s::text IS NULL OR zone_id = %(zone_id)s ORDER BY zone_id, night""",
            {"first": first, "after_last": after_last, "zone_id": zone_id},
        )
        return cur.fetchall()


def zones(conn: Connection[Any], first: date, after_last: date) -> list[ZoneLossView]:
    """Return the balance of every zone, the worst index first."""
    with conn.cursor(row_factory=class_row(ZoneLossView)) as cur:
        cur.execute(
            """SELECT zone_id, zone, nights, input_m3_a_year, nrw_m3_a_year, nrw_share, night_m3ph, net_night_m3ph, carl_m3_a_year, carl_from,
                      uarl_m3_a_year, ili, pressure_m, doubts, missing
               FROM loss_zone(%s, %s) ORDER BY ili DESC NULLS LAST, zone_id""",
            (first, after_last),
        )
        return cur.fetchall()


def repairs(conn: Connection[Any], first: date, after_last: date) -> list[RecoveredView]:
    """Return what repairs gave back, newest first."""
    with conn.cursor(row_factory=class_row(RecoveredView)) as cur:
        cur.execute(
            """SELECT order_id, zone_id, asset_id, closed_at, before_m3ph, after_m3ph, recovered_m3ph, sd_m3ph, nights_before, nights_after, doubts
               FROM loss_repair(%s, %s) ORDER BY closed_at DESC, order_id""",
            (first, after_last),
        )
        return cur.fetchall()
