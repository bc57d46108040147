from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from underway.model import InternalError, OperatorError, StoreUnavailable
from underway.store import timescale
from underway.store.connect import connect
from underway.store.migrate import Migration, MigrationReport, migrate, packaged_migrations, status
from underway.store.timescale import HYPERTABLES, Edition, columnstore_statements, continuous_aggregate_statements, detect, enable

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LABELS = tuple(migration.label for migration in packaged_migrations())
ONE = Migration(1, "one", "CREATE TABLE one (x integer);")
TWO = Migration(2, "two", "CREATE TABLE two (x integer);")


def test_migrate_an_empty_database_applies_everything_once(empty_database_url: str) -> None:
    assert status(empty_database_url).pending == LABELS
    first = migrate(empty_database_url, NOW_AT)
    second = migrate(empty_database_url, NOW_AT + timedelta(days=1))
    assert (first.applied, first.already) == (LABELS, ())
    assert (second.applied, second.already) == ((), LABELS)
    assert second.timescale.done == ()
    found = status(empty_database_url)
    assert found.is_current
    assert (found.applied, found.pending, found.problems, found.last_applied_at) == (LABELS, (), (), NOW_AT)


def test_migrate_from_many_threads_applies_each_file_once(empty_database_url: str) -> None:
    reports: list[MigrationReport] = []
    errors: list[BaseException] = []
    together = threading.Barrier(4)

    def run() -> None:
        try:
            together.wait(10)
            reports.append(migrate(empty_database_url, NOW_AT))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(report.applied for report in reports) == [(), (), (), LABELS]


def test_migrate_from_two_processes_applies_each_file_once(empty_database_url: str) -> None:
    code = (
        "import sys; from datetime import UTC, datetime; from underway.store.migrate import migrate;"
        "print(len(migrate(sys.argv[1], datetime(2026, 3, 1, tzinfo=UTC)).applied))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, empty_database_url], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = sorted(int(process.communicate(timeout=60)[0]) for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert counts == [0, len(LABELS)]


def test_migrate_with_a_changed_applied_file_names_it(empty_database_url: str) -> None:
    migrate(empty_database_url, NOW_AT, [ONE])
    changed = Migration(1, "one", "CREATE TABLE one (x bigint);")
    message = "'0001_one.sql' was changed after it was applied: restore that file and put the change into a new one"
    with pytest.raises(OperatorError) as caught:
        migrate(empty_database_url, NOW_AT, [changed, TWO])
    assert str(caught.value) == f"the database was not migrated: {message}"
    found = status(empty_database_url, [changed, TWO])
    assert (found.problems, found.pending, found.is_current) == ((message,), ("0002_two.sql",), False)


def test_migrate_a_database_of_a_later_version_is_refused(empty_database_url: str) -> None:
    migrate(empty_database_url, NOW_AT, [ONE, TWO])
    with pytest.raises(OperatorError) as caught:
        migrate(empty_database_url, NOW_AT, [ONE])
    assert str(caught.value) == (
        "the database was not migrated: it has '0002_two.sql', which this version of underway does not know: install a later version"
    )


def test_migrate_with_a_failing_file_keeps_those_before_it_and_nothing_of_it(empty_database_url: str) -> None:
    broken = Migration(2, "two", "CREATE TABLE two (x integer); SELECT 1 / 0;")
    with pytest.raises(OperatorError) as caught:
        migrate(empty_database_url, NOW_AT, [ONE, broken])
    assert str(caught.value) == "migration '0002_two.sql' failed and was rolled back: division by zero"
    with connect(empty_database_url) as conn:
        assert conn.execute("SELECT to_regclass('one') IS NOT NULL, to_regclass('two') IS NOT NULL").fetchone() == (True, False)
    assert migrate(empty_database_url, NOW_AT, [ONE, TWO]).applied == ("0002_two.sql",)


def test_migrate_inside_a_transaction_is_our_mistake(conn: psycopg.Connection[Any]) -> None:
    with (
        conn.transaction(),
        pytest.raises(InternalError, match=r"^a migration needs a connection in autocommit mode, outside a transaction$"),
    ):
        migrate(conn, NOW_AT)


def test_migrate_while_another_one_does_not_end_gives_up(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underway.store.migrate.LOCK_S_MAX", 1)
    with connect(empty_database_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (0x756E646572776179,))
        with pytest.raises(StoreUnavailable, match=r"^cannot migrate the database now: canceling statement due to lock timeout"):
            migrate(empty_database_url, NOW_AT)
    assert migrate(empty_database_url, NOW_AT).applied == LABELS


def test_detect_finds_what_migrate_turned_on(conn: psycopg.Connection[Any]) -> None:
    found = detect(conn)
    if found.timescale_offered is None:
        assert (found.edition, found.hypertables) == (Edition.NONE, ())
    else:
        assert found.edition in (Edition.APACHE, Edition.COMMUNITY)
        assert found.hypertables == ("expectation", "reading")
        community = found.edition is Edition.COMMUNITY
        assert bool(found.columnstore) == bool(found.continuous_aggregates) == community
    assert enable(conn) == timescale.EnableReport((), ())


def test_enable_on_tables_with_rows_moves_them_into_chunks(empty_database_url: str) -> None:
    with connect(empty_database_url) as conn:
        for migration in packaged_migrations():
            conn.execute(migration.sql.encode())
        conn.execute(
            "INSERT INTO reading SELECT 7, at, at, at, extract(hour FROM at), 0, 0, 0, 1"
            " FROM generate_series(TIMESTAMPTZ '2026-01-01', '2026-01-31 23:00', INTERVAL '1 hour') AS at"
        )
        report = enable(conn)
        assert report.problems == ()
        assert conn.execute("SELECT count(*), sum(value) FROM reading").fetchone() == (31 * 24, 31 * 276.0)
        if report.done:
            chunks = conn.execute("SELECT num_chunks FROM timescaledb_information.hypertables WHERE hypertable_name = 'reading'").fetchone()
            assert chunks is not None
            assert chunks[0] >= 5


def test_enable_without_the_right_to_install_says_who_must_do_it(empty_database_url: str) -> None:
    with connect(empty_database_url) as conn:
        if detect(conn).timescale_offered is None:
            pytest.skip("this server does not offer TimescaleDB")
        conn.execute("CREATE ROLE underway_test_plain")
        try:
            conn.execute("SET ROLE underway_test_plain")
            report = enable(conn)
        finally:
            conn.execute("RESET ROLE")
            conn.execute("DROP ROLE underway_test_plain")
    assert report.done == ()
    assert report.problems == (
        "this user may not install TimescaleDB; run CREATE EXTENSION timescaledb in this database as a superuser, then migrate again",
    )


@pytest.mark.parametrize(
    "statement",
    [*(s for table in HYPERTABLES for s in columnstore_statements(table)), *continuous_aggregate_statements()[1:]],
    ids=["reading-columns", "reading-policy", "expectation-columns", "expectation-policy", "hourly-view", "hourly-policy"],
)
def test_community_statement_on_apache_edition_is_refused_for_the_licence_only(conn: psycopg.Connection[Any], statement: str) -> None:
    if detect(conn).edition is not Edition.APACHE:
        pytest.skip("this server is not TimescaleDB Apache edition")
    conn.execute("DROP VIEW reading_hourly")
    conn.execute("CREATE TABLE reading_hourly (x integer)" if statement.startswith("SELECT") else "SELECT 1")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="license"):
        conn.execute(statement.encode())


def test_reading_hourly_counts_what_is_not_bad(conn: psycopg.Connection[Any]) -> None:
    rows = [("10:00", 1.0, 0), ("10:20", 3.0, 1), ("10:40", 99.0, 2), ("11:00", 5.0, 0)]
    for clock, value, quality in rows:
        conn.execute(
            "INSERT INTO reading VALUES (7, '2026-03-01'::timestamptz + %s::interval, now(), now(), %s, %s, 0, 0, 1)",
            (clock, value, quality),
        )
    found = conn.execute("SELECT hour_at, mean, low, high, readings FROM reading_hourly WHERE channel_id = 7 ORDER BY hour_at").fetchall()
    assert found == [
        (datetime(2026, 3, 1, 10, tzinfo=UTC), 2.0, 1.0, 3.0, 2),
        (datetime(2026, 3, 1, 11, tzinfo=UTC), 5.0, 5.0, 5.0, 1),
    ]


@pytest.mark.parametrize(
    ("width", "expected"),
    [("15 minutes", "2026-03-05 17:30"), ("1 hour", "2026-03-05 17:00"), ("1 day", "2026-03-05"), ("7 days", "2026-03-02")],
    ids=["quarter", "hour", "day", "week-from-monday"],
)
def test_bin_at_gives_the_begin_of_the_bin(conn: psycopg.Connection[Any], width: str, expected: str) -> None:
    row = conn.execute("SELECT bin_at(%s::interval, '2026-03-05 17:38:12+00') = %s::timestamptz", (width, expected)).fetchone()
    assert row == (True,)
