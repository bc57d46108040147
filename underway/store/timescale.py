"""What the TimescaleDB extension adds, and what was found of it.

Every feature of underway works on plain PostgreSQL, on TimescaleDB Apache edition (hypertables) and on its community edition (columnstore,
continuous aggregates too); the extension makes it faster and smaller. Queries therefore use ``date_bin`` (or our ``bin_at``) and the view
``reading_hourly``, which is a plain view or a continuous aggregate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

VERSION_MIN = (2, 18)
"""First release with the columnstore's present names."""


class Edition(StrEnum):
    """Which TimescaleDB a database has: none, or the one whose licence is in force."""

    NONE = "none"
    APACHE = "apache"
    COMMUNITY = "community"


@dataclass(frozen=True, slots=True)
class Hypertable:
    """A table that we cut into chunks by time."""

    name: str
    time_column: str
    chunk: str
    segment_by: str
    columnstore_after: str


HYPERTABLES = (
    Hypertable("reading", "observed_at", "7 days", "channel_id", "14 days"),
    Hypertable("expectation", "at", "30 days", "signal_id", "60 days"),
)
_HOURLY = "reading_hourly"


@dataclass(frozen=True, slots=True)
class DatabaseFeatures:
    """What was found in one database.

    Attributes
    ----------
    postgres_version : str
        ``"17.11"``.
    timescale_version : str or None
        Of the extension in this database; None when it is not installed there.
    timescale_offered : str or None
        The version that the server could install.
    hypertables, columnstore, continuous_aggregates : tuple of str
        Names of tables and views.
    retention : tuple of (str, str)
        Table and the age after which its chunks are dropped; never set by us.
    """

    postgres_version: str
    timescale_version: str | None
    timescale_offered: str | None
    edition: Edition
    hypertables: tuple[str, ...] = ()
    columnstore: tuple[str, ...] = ()
    continuous_aggregates: tuple[str, ...] = ()
    retention: tuple[tuple[str, str], ...] = ()

    def table(self) -> dict[str, str]:
        """Return what is there, or what would be needed, by the name of the feature: for people."""
        community = "not set up" if self.edition is Edition.COMMUNITY else "off: needs the community edition"
        extension = (
            "off: not on this server" if self.timescale_offered is None else f"off: {self.timescale_offered} is offered, not installed"
        )
        return {
            "PostgreSQL": self.postgres_version,
            "TimescaleDB": extension if self.timescale_version is None else f"{self.timescale_version}, {self.edition} edition",
            "hypertables": ", ".join(self.hypertables) or "off: plain tables",
            "columnstore": ", ".join(self.columnstore) or community,
            "continuous aggregates": ", ".join(self.continuous_aggregates) or f"{community}; {_HOURLY} is a plain view",
            "retention": ", ".join(f"{table} after {age}" for table, age in self.retention) or "off: nothing is dropped",
        }


@dataclass(frozen=True, slots=True)
class EnableReport:
    """What `enable` changed, and what it could not do and why; neither stops a migration."""

    done: tuple[str, ...]
    problems: tuple[str, ...]


def detect(conn: Connection[Any]) -> DatabaseFeatures:
    """Return what the database has; reads only."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        postgres = str(_one(cursor, "SELECT split_part(current_setting('server_version'), ' ', 1)"))
        offered = _one(cursor, "SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'")
        version = _one(cursor, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
        if version is None:
            return DatabaseFeatures(postgres, None, offered, Edition.NONE)
        licence = _one(cursor, "SELECT current_setting('timescaledb.license', true)")
        tables = cursor.execute(
            "SELECT hypertable_name::text, compression_enabled FROM timescaledb_information.hypertables"
            " WHERE hypertable_schema = current_schema() ORDER BY 1"
        ).fetchall()
        views = cursor.execute(
            "SELECT view_name::text FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema() ORDER BY 1"
        ).fetchall()
        retention = cursor.execute(
            "SELECT hypertable_name::text, config->>'drop_after' FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention' ORDER BY 1"
        ).fetchall()
    return DatabaseFeatures(
        postgres,
        version,
        offered,
        Edition.COMMUNITY if licence == "timescale" else Edition.APACHE,
        tuple(name for name, _ in tables),
        tuple(name for name, compressed in tables if compressed),
        tuple(name for (name,) in views),
        tuple((name, age) for name, age in retention),
    )


def enable(conn: Connection[Any]) -> EnableReport:
    """Turn on what the server offers; calling it again changes nothing.

    Parameters
    ----------
    conn : Connection
        In autocommit mode, as a user who owns the tables; installing the extension may need more rights.
    """
    done: list[str] = []
    problems: list[str] = []
    found = detect(conn)
    if found.timescale_offered is None and found.timescale_version is None:
        return EnableReport((), ())
    if found.timescale_version is None:
        problem = _install(conn)
        if problem is not None:
            return EnableReport((), (problem,))
        done.append(f"installed TimescaleDB {found.timescale_offered}")
        found = detect(conn)
    assert found.timescale_version is not None
    if tuple(int(part) for part in found.timescale_version.split("-")[0].split(".")[:2]) < VERSION_MIN:
        oldest = ".".join(str(part) for part in VERSION_MIN)
        return EnableReport(tuple(done), (f"TimescaleDB must be {oldest} or later to be used, got {found.timescale_version}",))
    for table in HYPERTABLES:
        if table.name not in found.hypertables:
            _attempt(conn, f"made '{table.name}' a hypertable", hypertable_statements(table), done, problems)
    if found.edition is Edition.COMMUNITY:
        for table in HYPERTABLES:
            if table.name not in found.columnstore:
                _attempt(conn, f"put old chunks of '{table.name}' into the columnstore", columnstore_statements(table), done, problems)
        if _HOURLY not in found.continuous_aggregates:
            _attempt(conn, f"made '{_HOURLY}' a continuous aggregate", continuous_aggregate_statements(), done, problems)
    return EnableReport(tuple(done), tuple(problems))


def hypertable_statements(table: Hypertable) -> tuple[str, ...]:
    """Return what turns a table into a hypertable (every edition); its rows move into chunks."""
    return (
        f"SELECT create_hypertable('{table.name}', by_range('{table.time_column}', INTERVAL '{table.chunk}'),"
        " create_default_indexes => false, if_not_exists => true, migrate_data => true)",
    )


def columnstore_statements(table: Hypertable) -> tuple[str, ...]:
    """Return what lets old chunks become columns (community edition).

    References
    ----------
    TimescaleDB API, ALTER TABLE (hypercore) and add_columnstore_policy, since 2.18.
    """
    return (
        f"ALTER TABLE {table.name} SET (timescaledb.enable_columnstore = true, timescaledb.segmentby = '{table.segment_by}',"
        f" timescaledb.orderby = '{table.time_column}')",
        f"CALL add_columnstore_policy('{table.name}', after => INTERVAL '{table.columnstore_after}', if_not_exists => true)",
    )


def continuous_aggregate_statements() -> tuple[str, ...]:
    """Return what replaces the plain view of hourly readings by a continuous aggregate with the same columns (community edition).

    It is real-time: hours that are not materialised yet are computed from the readings. The policy looks at the whole past, because late
    readings may change any hour; only hours that changed are computed again.

    References
    ----------
    TimescaleDB API, CREATE MATERIALIZED VIEW (continuous aggregate) and add_continuous_aggregate_policy.
    """
    return (
        f"DROP VIEW {_HOURLY}",
        f"CREATE MATERIALIZED VIEW {_HOURLY} WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS"  # noqa: S608 constants only
        " SELECT channel_id, time_bucket(INTERVAL '1 hour', observed_at) AS hour_at, avg(value) AS mean, min(value) AS low, max(value) AS high,"
        " count(*) AS readings FROM reading WHERE quality < 2 GROUP BY 1, 2 WITH NO DATA",
        f"SELECT add_continuous_aggregate_policy('{_HOURLY}', start_offset => NULL, end_offset => INTERVAL '1 hour',"
        " schedule_interval => INTERVAL '10 minutes', if_not_exists => true)",
    )


def _install(conn: Connection[Any]) -> str | None:
    """Install the extension; return the problem, or None."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        if _one(cursor, "SELECT current_setting('timescaledb.disable_load', true)") is None:
            # CREATE EXTENSION would end the session
            return "TimescaleDB is on the server but not loaded; add shared_preload_libraries = 'timescaledb' to postgresql.conf and restart it"
    try:
        conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except psycopg.errors.InsufficientPrivilege:
        return "this user may not install TimescaleDB; run CREATE EXTENSION timescaledb in this database as a superuser, then migrate again"
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):  # another session was first
        return None
    return None


def _attempt(conn: Connection[Any], what: str, statements: tuple[str, ...], done: list[str], problems: list[str]) -> None:
    """Run statements in one transaction and note how it went; a lost connection is not a matter of features and goes up."""
    try:
        with conn.transaction():
            for statement in statements:
                conn.execute(statement.encode())
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        problems.append(f"not {what}: {error.diag.message_primary or error}")
    else:
        done.append(what)


def _one(cursor: psycopg.Cursor[tuple[Any, ...]], statement: str) -> Any:
    """Return the one value of a query, or None."""
    row = cursor.execute(statement.encode()).fetchone()
    return None if row is None else row[0]
