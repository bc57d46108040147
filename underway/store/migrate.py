"""Bring a database to the schema that this version of underway expects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from underway.model import InternalError, OperatorError
from underway.store.connect import connect, store_errors
from underway.store.timescale import DatabaseFeatures, EnableReport, detect, enable

LOCK_S_MAX = 300
_LOCK = 0x756E646572776179  # "underway": one migration at a time in a database
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migration (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     text NOT NULL,
        applied_at timestamptz NOT NULL
    )"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file; it runs in one transaction, so it cannot hold CREATE INDEX CONCURRENTLY and its like."""

    version: int
    name: str
    sql: str

    @property
    def label(self) -> str:
        """Return the file name."""
        return f"{self.version:04d}_{self.name}.sql"

    @property
    def sha256(self) -> str:
        """Return the digest of the text, the same for both line endings."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What `migrate` did: the files it applied, those that were there before, and what the extension gave."""

    applied: tuple[str, ...]
    already: tuple[str, ...]
    timescale: EnableReport


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Where a database stands: applied and pending files, why it cannot be migrated, and when that was done last."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    problems: tuple[str, ...]
    last_applied_at: datetime | None
    features: DatabaseFeatures

    @property
    def is_current(self) -> bool:
        """Say whether this version of underway can work with the database."""
        return not self.pending and not self.problems


def packaged_migrations() -> tuple[Migration, ...]:
    """Return the migrations of this package, by version.

    Raises
    ------
    InternalError
        When a file is not named ``0001_what.sql`` or two have one number.
    """
    found: dict[int, Migration] = {}
    for file in resources.files("underway.store").joinpath("migrations").iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise InternalError(f"a migration must be named like '0001_what.sql', got {file.name!r}")
        migration = Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        if migration.version in found:
            raise InternalError(f"two migrations have one number: {found[migration.version].label!r} and {file.name!r}")
        found[migration.version] = migration
    return tuple(found[version] for version in sorted(found))


def migrate(database: Connection[Any] | str, now_at: datetime, migrations: Sequence[Migration] | None = None) -> MigrationReport:
    """Apply what is missing, each file in its own transaction, then turn on what TimescaleDB offers.

    Parameters
    ----------
    database : Connection or str
        A connection in autocommit mode, or a URL.
    now_at : datetime
        Aware; noted with each file.
    migrations : sequence of Migration, optional
        Default: those of the package.

    Raises
    ------
    OperatorError
        When an applied file was changed, the database is newer than this version of underway, or a file fails (the ones before it stay).
    StoreUnavailable
        When the server is lost, or another migration runs for longer than `LOCK_S_MAX`.
    """
    plan = packaged_migrations() if migrations is None else tuple(migrations)
    with _session(database) as conn, _alone(conn):
        conn.execute(_TABLE.encode())
        applied = _applied(conn)
        problems = _problems(applied, plan)
        if problems:
            raise OperatorError("the database was not migrated: " + "; ".join(problems))
        fresh: list[str] = []
        for migration in plan:
            if migration.version in applied:
                continue
            try:
                with conn.transaction():
                    conn.execute(migration.sql.encode())
                    conn.execute(
                        "INSERT INTO schema_migration (version, name, sha256, applied_at) VALUES (%s, %s, %s, %s)",
                        (migration.version, migration.name, migration.sha256, now_at),
                    )
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                raise OperatorError(
                    f"migration '{migration.label}' failed and was rolled back: {error.diag.message_primary or error}"
                ) from error
            fresh.append(migration.label)
        already = tuple(m.label for m in plan if m.version in applied)
        return MigrationReport(tuple(fresh), already, enable(conn))


def status(database: Connection[Any] | str, migrations: Sequence[Migration] | None = None) -> MigrationStatus:
    """Return where the database stands; changes nothing."""
    plan = packaged_migrations() if migrations is None else tuple(migrations)
    with _session(database) as conn:
        with conn.cursor(row_factory=tuple_row) as cursor:
            there = cursor.execute("SELECT to_regclass('schema_migration') IS NOT NULL").fetchone()
        applied = _applied(conn) if there == (True,) else {}
        return MigrationStatus(
            tuple(f"{version:04d}_{name}.sql" for version, (name, _, _) in sorted(applied.items())),
            tuple(m.label for m in plan if m.version not in applied),
            tuple(_problems(applied, plan)),
            max((applied_at for _, _, applied_at in applied.values()), default=None),
            detect(conn),
        )


def _applied(conn: Connection[Any]) -> dict[int, tuple[str, str, datetime]]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute("SELECT version, name, sha256, applied_at FROM schema_migration").fetchall()
    return {version: (name, sha256, applied_at) for version, name, sha256, applied_at in rows}


def _problems(applied: dict[int, tuple[str, str, datetime]], plan: Sequence[Migration]) -> list[str]:
    """Return why this plan does not fit what was applied."""
    ours = {migration.version: migration for migration in plan}
    problems: list[str] = []
    for version, (name, sha256, _) in sorted(applied.items()):
        label = f"{version:04d}_{name}.sql"
        if version not in ours:
            problems.append(f"it has '{label}', which this version of underway does not know: install a later version")
        elif (ours[version].name, ours[version].sha256) != (name, sha256):
            problems.append(f"'{label}' was changed after it was applied: restore that file and put the change into a new one")
    return problems


@contextmanager
def _session(database: Connection[Any] | str) -> Iterator[Connection[Any]]:
    """Give a connection in autocommit mode, ours or the caller's."""
    if isinstance(database, str):
        with connect(database, application_name="underway migrate", statement_timeout_s=0) as conn, store_errors("migrate the database"):
            yield conn
        return
    if not database.autocommit or database.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
        raise InternalError("a migration needs a connection in autocommit mode, outside a transaction")
    with store_errors("migrate the database"):
        yield database


@contextmanager
def _alone(conn: Connection[Any]) -> Iterator[None]:
    """Hold the database's migration lock; wait for another migration at most `LOCK_S_MAX`."""
    with conn.transaction():  # SET LOCAL ends with it, the lock does not
        conn.execute(f"SET LOCAL lock_timeout = '{LOCK_S_MAX}s'".encode())
        conn.execute("SET LOCAL statement_timeout = 0")
        conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        yield
    finally:
        if not conn.broken:
            conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
