"""Real servers for tests: PostgreSQL (embedded, and those that UNDERWAY_TEST_DATABASE_URLS names) and MQTT brokers.

UNDERWAY_TEST_DATABASE_URLS holds URLs of databases in which the user may CREATE DATABASE, separated by commas or spaces; a name may stand in
front: ``timescale-apache=postgresql://postgres@127.0.0.1:5433/postgres``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import psycopg
import pytest
from needs import missing

from underway.app.brokers import Broker, embedded_broker
from underway.store.connect import connect
from underway.store.embedded import start_embedded
from underway.store.migrate import migrate
from underway.store.timescale import detect, enable

# no test asserts a wall-clock time, and machines are shared
hypothesis.settings.register_profile("underway", deadline=None)
hypothesis.settings.load_profile("underway")

MIGRATED_AT = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Server:
    """A server that tests make databases on; the embedded one has no URL until it is started."""

    name: str
    url: str | None = None


@contextlib.contextmanager
def database_on(admin_url: str) -> Iterator[str]:
    """Give the URL of a new, empty database; drop it afterwards."""
    name = f"underway_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"'.encode())
    try:
        yield urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(admin_url, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def _name_of(url: str) -> str:
    """Return what runs there, for the test's id; the edition of TimescaleDB shows only where it is installed."""
    try:
        with database_on(url) as fresh, connect(fresh) as conn:
            enable(conn)
            features = detect(conn)
    except Exception:  # the tests that need it fail with the reason, the others run
        return "unreachable"
    return f"timescale-{features.edition}" if features.timescale_version else f"postgres-{features.postgres_version.split('.')[0]}"


def _servers() -> list[Server]:
    servers = [Server("embedded")]
    for entry in re.split(r"[,\s]+", os.environ.get("UNDERWAY_TEST_DATABASE_URLS", "").strip()):
        if entry:
            named = re.fullmatch(r"(?:([a-z0-9-]+)=)?(postgres(?:ql)?://.*)", entry)
            if named is None:
                raise pytest.UsageError(
                    f"UNDERWAY_TEST_DATABASE_URLS must hold 'postgresql://...' or 'name=postgresql://...', got {entry!r}"
                )
            servers.append(Server(named[1] or _name_of(named[2]), named[2]))
    return servers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a database on every server."""
    if "server" in metafunc.fixturenames:
        servers = _servers_once()
        metafunc.parametrize("server", servers, ids=[server.name for server in servers], indirect=True, scope="session")


_found: list[Server] = []


def _servers_once() -> list[Server]:
    if not _found:
        _found.extend(_servers())
    return _found


@pytest.fixture(scope="session")
def embedded_admin_url() -> Iterator[str]:
    """The embedded PostgreSQL, one a session."""
    folder = Path(tempfile.mkdtemp(prefix="underway-test-"))
    folder.chmod(0o755)  # as root the server runs as another user
    try:
        with start_embedded(folder, durable=False) as embedded:
            yield embedded.url_of("postgres")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """One of the servers; its URL is that of a database for administration."""
    chosen: Server = request.param
    return Server(chosen.name, chosen.url or request.getfixturevalue("embedded_admin_url"))


@pytest.fixture
def empty_database_url(server: Server) -> Iterator[str]:
    """A new database without tables, on each server."""
    assert server.url is not None
    with database_on(server.url) as url:
        yield url


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """A new, migrated database for this test, on each server."""
    migrate(empty_database_url, MIGRATED_AT)
    return empty_database_url


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of ours (autocommit, UTC) to a new, migrated database, on each server."""
    with connect(database_url, application_name="underway-test") as connection:
        yield connection


@pytest.fixture(scope="session")
def new_database(embedded_admin_url: str) -> Callable[[], AbstractContextManager[str]]:
    """Return a context manager that gives a new, migrated database on the embedded server: for fixtures of a wider scope."""

    @contextlib.contextmanager
    def make() -> Iterator[str]:
        with database_on(embedded_admin_url) as url:
            migrate(url, MIGRATED_AT)
            yield url

    return make


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    """A real Mosquitto of this test's own."""
    if not _has_mosquitto():
        missing("mosquitto is not installed (apt-get install mosquitto)")
    with embedded_broker(tmp_path / "broker", kind="mosquitto") as running:
        yield running


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """A broker of this test's own, of each kind."""
    if request.param == "mosquitto" and not _has_mosquitto():
        missing("mosquitto is not installed (apt-get install mosquitto)")
    with embedded_broker(tmp_path / "broker", kind=request.param) as running:
        yield running


def _has_mosquitto() -> bool:
    return bool(shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin"))
