from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grafana_seed
import psycopg
import pytest
from psycopg.rows import dict_row

from grafana import PanelResult, check_panels, render
from grafana.check import queries
from grafana.macros import Scope, expand
from underway.store.migrate import migrate, packaged_migrations

pytestmark = pytest.mark.integration

READER = f"grafana_test_reader_{os.getpid()}"


@pytest.fixture(scope="module")
def town_url(server: Any) -> Iterator[str]:
    """A database on each server, filled once for this module."""
    name = f"underway_grafana_{os.getpid()}"
    url = urlunsplit(urlsplit(server.url)._replace(path=f"/{name}"))
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    try:
        migrate(url, datetime.now(UTC))
        with psycopg.connect(url, autocommit=True) as connection:
            grafana_seed.seed(connection)
        yield url
    finally:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def conn(town_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(town_url, autocommit=True) as connection:
        yield connection


def bad(results: list[PanelResult]) -> list[str]:
    return [f"{r.title} {r.ref_id}: {r.error or 'no rows'}" for r in results if r.error is not None or r.rows == 0]


def test_every_panel_on_a_full_town_shows_something(conn: psycopg.Connection[Any]) -> None:
    results = check_panels(conn, grafana_seed.FROM_AT, grafana_seed.NOW_AT)
    assert len(results) > 30
    assert bad(results) == []


def test_every_panel_for_a_read_only_role_shows_the_same(conn: psycopg.Connection[Any]) -> None:
    everything = check_panels(conn, grafana_seed.FROM_AT, grafana_seed.NOW_AT)
    conn.execute(f"CREATE ROLE {READER}".encode())
    try:
        conn.execute(f"SELECT board_grant('{READER}')".encode())
        conn.execute(f"SET ROLE {READER}".encode())
        assert check_panels(conn, grafana_seed.FROM_AT, grafana_seed.NOW_AT) == everything
        for secret in (
            "SELECT * FROM account",
            "SELECT phone FROM crew",
            "SELECT * FROM notification",
            f"SELECT board_grant('{READER}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(secret.encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("UPDATE alarm SET ack = 'acked'")
    finally:
        conn.execute("RESET ROLE")
        conn.execute(f"DROP OWNED BY {READER}".encode())
        conn.execute(f"DROP ROLE {READER}".encode())


def test_every_panel_on_an_empty_range_fails_nowhere(conn: psycopg.Connection[Any]) -> None:
    long_ago_at = grafana_seed.NOW_AT - timedelta(days=900)
    assert [r for r in check_panels(conn, long_ago_at, long_ago_at + timedelta(hours=1)) if r.error] == []


def test_check_panels_names_the_column_that_an_override_misses(conn: psycopg.Connection[Any]) -> None:
    dashboards = render()
    panel = next(p for p in dashboards["underway-operations.json"]["panels"] if p["title"] == "Service clocks")
    panel["targets"][0]["rawSql"] = panel["targets"][0]["rawSql"].replace('AS "Used"', 'AS "Spent"')
    broken = [r for r in check_panels(conn, grafana_seed.FROM_AT, grafana_seed.NOW_AT, dashboards=dashboards) if not r.ok]
    assert [(r.title, r.error) for r in broken] == [
        (
            "Service clocks",
            "the panel names columns that its query does not return: Used; it returns Order, Clock, State, Due, Spent, Paused",
        )
    ]


def test_check_panels_reports_what_the_database_says_and_goes_on(conn: psycopg.Connection[Any]) -> None:
    dashboards = render()
    panel = next(p for p in dashboards["underway-operations.json"]["panels"] if p["title"] == "Findings")
    panel["targets"][0]["rawSql"] = "SELECT * FROM no_such_table"
    results = check_panels(conn, grafana_seed.FROM_AT, grafana_seed.NOW_AT, dashboards=dashboards)
    assert [r.error for r in results if not r.ok] == ['relation "no_such_table" does not exist']


def test_alarm_map_places_a_leak_on_its_most_probable_pipe(conn: psycopg.Connection[Any]) -> None:
    row = conn.execute(
        "SELECT b.point, board_point(a.geometry) FROM board_alarm b, asset a WHERE b.closed_at IS NULL AND a.asset_id = 'pipe-z1-1'"
    )
    here, pipe = row.fetchone() or (None, None)
    assert pipe is not None
    assert here == pipe


@pytest.mark.parametrize(
    ("condition", "ack", "suppression", "normal", "state"),
    [
        ("active", "unacked", "none", False, "UNACK"),
        ("active", "acked", "none", False, "ACKED"),
        ("normal", "unacked", "none", True, "RTNUN"),
        ("normal", "acked", "none", True, "NORM"),
        ("unknown", "unacked", "none", False, "UNACK"),
        ("unknown", "unacked", "none", True, "RTNUN"),
        ("active", "acked", "shelved", False, "SHLVD"),
        ("active", "unacked", "by_design", False, "DSUPR"),
        ("normal", "acked", "out_of_service", True, "OOSRV"),
    ],
)
def test_board_alarm_derives_the_state_of_isa_18_2(
    conn: psycopg.Connection[Any], condition: str, ack: str, suppression: str, normal: bool, state: str
) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(
            """INSERT INTO alarm (site_id, asset_id, alarm_type, priority, condition, ack, suppression, occurred_at, detected_at, raised_at,
                                  normal_at)
               VALUES ('town', 'other', 'test', 'low', %s, %s, %s, now(), now(), now(), CASE WHEN %s THEN now() END)""",
            (condition, ack, suppression, normal),
        )
        assert conn.execute("SELECT state, rank FROM board_alarm WHERE alarm_type = 'test'").fetchone() == (state, 1)


def test_devices_in_trouble_are_the_active_ones_that_are_gone_or_ahead(conn: psycopg.Connection[Any]) -> None:
    query = next(q for q in queries(render()["underway-operations.json"]) if q.title == "Devices that are gone or whose clock is wrong")
    sql = expand(query.sql, Scope(grafana_seed.FROM_AT, grafana_seed.NOW_AT)).encode()
    first, second = [row[0] for row in conn.execute("SELECT device_id FROM device ORDER BY device_id LIMIT 2")]
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=dict_row) as cursor:
        shown = [(row["Device"], row["What"], row["Clock ahead"], row["Why"]) for row in cursor.execute(sql)]
        assert shown == [
            (first, "gone", None, "node_death"),
            (second, "wrong clock", 3600.0, "its messages come before their own time"),
        ]
        cursor.execute("UPDATE device SET status = 'retired' WHERE device_id = %s", (first,))
        assert [row["Device"] for row in cursor.execute(sql)] == [second]


def test_migrate_gives_readers_of_the_dashboards_the_tables_that_came_later(conn: psycopg.Connection[Any], empty_database_url: str) -> None:
    later = next(n for n, migration in enumerate(packaged_migrations()) if migration.label.endswith("_board_devices.sql"))
    conn.execute(f"CREATE ROLE {READER}".encode())
    try:
        with psycopg.connect(empty_database_url, autocommit=True) as other:
            for number, migration in enumerate(packaged_migrations()):
                if number == later:
                    other.execute(f"SELECT board_grant('{READER}')".encode())
                other.execute(migration.sql.encode())
            other.execute(f"SET ROLE {READER}".encode())
            assert other.execute("SELECT (SELECT count(*) FROM device_presence) + (SELECT count(*) FROM device_clock)").fetchone() == (0,)
            other.execute("RESET ROLE")
            other.execute(f"DROP OWNED BY {READER}".encode())
    finally:
        conn.execute(f"DROP ROLE {READER}".encode())


def test_board_now_follows_the_town_and_never_runs_ahead_of_it(conn: psycopg.Connection[Any]) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE town_clock SET wall_at = now() - interval '10 seconds', speed = 600, ahead_s_max = 300")
        assert conn.execute("SELECT board_now()").fetchone() == (grafana_seed.NOW_AT + timedelta(seconds=300),)
        conn.execute("UPDATE town_clock SET wall_at = now() - interval '10 seconds', speed = 2")
        assert conn.execute("SELECT board_now()").fetchone() == (grafana_seed.NOW_AT + timedelta(seconds=20),)
        conn.execute("DELETE FROM town_clock")
        assert conn.execute("SELECT board_now() = now()").fetchone() == (True,)


def test_verified_share_is_what_of_the_excess_is_gone(conn: psycopg.Connection[Any]) -> None:
    query = next(q for q in queries(render()["underway-operations.json"]) if q.title == "Work orders")
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(expand(query.sql, Scope(grafana_seed.FROM_AT, grafana_seed.NOW_AT)).encode())
        shares = {row["State"]: (row["Verified"], row["Because"]) for row in cursor}
    assert shares["VERIFYING"] == (pytest.approx(0.75), "residual 14.0 -> 5.0 m3/h, need < 2.0")
    assert shares["CLOSED"][0] == 1


@pytest.mark.parametrize(
    ("state", "paused_s", "met_min", "used"),
    [("RUNNING", 0, None, 0.5), ("RUNNING", 600, None, 1 / 3), ("MET", 0, 15, 0.25), ("BREACHED", 0, None, 0.5), ("PAUSED", 0, None, 0.5)],
)
def test_board_sla_counts_the_time_that_runs(
    conn: psycopg.Connection[Any], state: str, paused_s: float, met_min: float | None, used: float
) -> None:
    begin_at = grafana_seed.NOW_AT - timedelta(minutes=30)
    met_at = None if met_min is None else begin_at + timedelta(minutes=met_min)
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE town_clock SET speed = 0")
        order_id = conn.execute("SELECT min(order_id) FROM work_order").fetchone()
        assert order_id is not None
        conn.execute(
            "INSERT INTO sla_clock (order_id, name, state, started_at, due_at, met_at, paused_s) VALUES (%s, 'test', %s, %s, %s, %s, %s)",
            (order_id[0], state, begin_at, begin_at + timedelta(hours=1), met_at, paused_s),
        )
        row = conn.execute("SELECT used, due_at FROM board_sla WHERE name = 'test'").fetchone()
    assert row is not None
    assert float(row[0]) == pytest.approx(used)
    assert row[1] == begin_at + timedelta(hours=1, seconds=paused_s)


def test_every_query_of_a_full_town_sorts_in_memory(conn: psycopg.Connection[Any]) -> None:
    # a sort or hash on disk for one small town would mean that a query reads far more than it shows
    conn.execute("SET temp_file_limit = 0")
    try:
        assert bad(check_panels(conn, grafana_seed.FROM_AT, grafana_seed.NOW_AT)) == []
    finally:
        conn.execute("RESET temp_file_limit")
    assert all(query.sql for query in queries(render()["underway-operations.json"]))


@pytest.mark.parametrize(("vertices", "segments"), [(2, 1), (6, 5), (7, 3), (42, 5), (43, 5)])
def test_board_segment_draws_a_long_line_with_few_segments_that_join(conn: psycopg.Connection[Any], vertices: int, segments: int) -> None:
    line = {"type": "LineString", "coordinates": [[n / 1000, n % 5 / 1000] for n in range(vertices)]}
    with conn.transaction(force_rollback=True):
        conn.execute(
            "INSERT INTO asset (asset_id, site_id, asset_class, name, geometry) VALUES ('long', 'town', 'pipe', 'long', %s)",
            (json.dumps(line),),
        )
        rows = conn.execute(
            "SELECT longitude, latitude, to_longitude, to_latitude FROM board_segment WHERE asset_id = 'long' ORDER BY n"
        ).fetchall()
    assert len(rows) == segments
    assert [float(c) for c in rows[0][:2]] == line["coordinates"][0]
    assert [float(c) for c in rows[-1][2:]] == line["coordinates"][-1]
    assert all(one[2:] == other[:2] for one, other in pairwise(rows))


def test_every_end_of_a_map_segment_is_a_node(conn: psycopg.Connection[Any]) -> None:
    found = {q.ref_id: q.sql for q in queries(render()["underway-operations.json"]) if q.title == "Where"}
    nodes = {row[0] for row in conn.execute(found["nodes"].encode())}
    edges = conn.execute(found["edges"].encode()).fetchall()
    assert edges
    assert {end for edge in edges for end in edge[1:3]} == nodes
    assert {edge[3] for edge in edges if edge[5] == 4} == {"Main z1 0", "Main z1 1"}
