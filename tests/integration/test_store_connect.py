"""A connection over a network that goes silent: it is noticed, on both sides, and said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from faults.link import Link
from faults.postgres import Postgres, wipe

from underway.model import StoreUnavailable
from underway.store.connect import LINK_SETTINGS, SERVER_LINK_SETTINGS, BoundedConnection, connect, store_errors

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tcp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server on TCP: the one that other tests share has a Unix socket only."""
    home = Path("/tmp") / f"underway-connect-{tmp_path_factory.getbasetemp().name}"
    server = Postgres(home)
    server.make()
    server.start()
    yield server
    server.stop("immediate")
    wipe(home)


@pytest.fixture
def link(tcp_server: Postgres) -> Iterator[Link]:
    made = Link(tcp_server.port)
    yield made
    made.heal()
    made.close()


def url_over(link: Link, parameters: str = "") -> str:
    return f"postgresql://postgres@127.0.0.1:{link.port}/postgres{parameters}"


def seconds_of(action: Callable[[], object], message: str) -> float:
    begin_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match=message), store_errors("ask"):
        action()
    return time.monotonic() - begin_s


def test_connect_over_a_frozen_link_ends_the_wait(link: Link) -> None:
    conn = connect(url_over(link), statement_timeout_s=0.5, answer_grace_s=0.5)
    assert conn.execute("SELECT 1").fetchone() == (1,)
    link.freeze()
    waited_s = seconds_of(
        lambda: conn.execute("SELECT 1"), r"^cannot ask now: the server did not answer within 1 s, the connection was closed$"
    )
    assert waited_s >= 1.0
    assert conn.closed


def test_connect_over_a_frozen_link_ends_a_transaction_with_copy(link: Link) -> None:
    conn = connect(url_over(link), statement_timeout_s=0.5, answer_grace_s=0.5)
    conn.execute("CREATE TEMP TABLE one (n integer)")

    def work() -> None:
        with conn.transaction(), conn.cursor() as cursor, cursor.copy("COPY one FROM STDIN") as copy:
            copy.write_row((1,))
            link.freeze()

    seconds_of(work, "the server did not answer within 1 s")
    assert conn.closed


def test_connect_over_a_cut_link_is_told_by_the_network(link: Link) -> None:
    quick = "?keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=2000"
    conn = connect(url_over(link, quick), answer_grace_s=60)
    link.cut()
    seconds_of(lambda: conn.execute("SELECT 1"), "cannot ask now: .*timed out")
    assert conn.closed


def test_connect_to_a_cut_link_gives_up(link: Link) -> None:
    link.cut()
    seconds_of(lambda: connect(url_over(link), connect_timeout_s=2), "no connection to .*timeout expired")


def test_connect_without_a_limit_waits(link: Link) -> None:
    conn = connect(url_over(link), statement_timeout_s=0)
    assert isinstance(conn, BoundedConnection)
    assert conn.answer_s_max is None
    assert conn.execute("SELECT 1 FROM pg_sleep(0.3)").fetchone() == (1,)


def test_connect_tells_the_server_to_notice_a_vanished_client(link: Link) -> None:
    conn = connect(url_over(link))
    for name, value in SERVER_LINK_SETTINGS.items():
        assert conn.execute("SELECT current_setting(%s)", (name,)).fetchone() == (value,)


def test_connect_options_of_the_url_win_over_ours_where_they_may(link: Link) -> None:
    conn = connect(url_over(link, "?options=-c%20tcp_keepalives_idle%3D7%20-c%20timezone%3DAsia/Tokyo&keepalives_idle=11"))
    shown = conn.execute("SELECT current_setting('tcp_keepalives_idle'), current_setting('timezone')").fetchone()
    assert shown == ("7", "UTC")
    used = {option.keyword.decode(): (option.val or b"").decode() for option in conn.pgconn.info}
    assert used["keepalives_idle"] == "11"
    assert used["tcp_user_timeout"] == LINK_SETTINGS["tcp_user_timeout"]


def test_connect_to_two_hosts_takes_the_one_that_can_write(tcp_server: Postgres) -> None:
    tcp_server.execute("ALTER ROLE postgres SET default_transaction_read_only = on", "postgres")
    both = f"postgresql://postgres@127.0.0.1:1,127.0.0.1:{tcp_server.port}/postgres?target_session_attrs=read-write"
    with pytest.raises(StoreUnavailable, match="session is read-only"):
        connect(both)
    with psycopg.connect(tcp_server.url("postgres"), autocommit=True) as admin:
        admin.execute("SET default_transaction_read_only = off")
        admin.execute("ALTER ROLE postgres RESET default_transaction_read_only")
    with connect(both) as conn:
        assert conn.info.port == tcp_server.port
