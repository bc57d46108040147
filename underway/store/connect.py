"""Connect to the database, and say whose fault it is when that fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from underway.model import OperatorError, StoreUnavailable

STATEMENT_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5
ANSWER_GRACE_S = 10.0
"""A server that has not answered so long after the statement's own limit is taken for gone."""
LINK_SETTINGS: dict[str, str] = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",  # ms
}
"""Our side of a TCP connection: a network that swallows everything is noticed after 25 to 30 s. A URL that says otherwise wins."""
SERVER_LINK_SETTINGS: dict[str, str] = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",  # ms
}
"""The server's side of the same: until it notices, the vanished session holds its locks."""
NOT_THE_DATA = (
    psycopg.OperationalError,
    psycopg.ProgrammingError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    psycopg.NotSupportedError,
)
"""Errors of a statement that say nothing against the values in it: trying again later may help, giving the values up does not."""
_Answer = TypeVar("_Answer")
_IN_AUTHORITY = re.compile(r"(://[^:/@\s]*:)\S*@")
_IN_KEYWORD = re.compile(r"(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&]*)")


def redact_url(text: str) -> str:
    """Return `text`, a connection URL or a message that quotes one, without its passwords.

    Examples
    --------
    >>> redact_url("postgresql://app:s3cret@db:5432/underway")
    'postgresql://app:***@db:5432/underway'
    >>> redact_url("host=db password=s3cret user=app")
    'host=db password=*** user=app'
    """
    return _IN_KEYWORD.sub(r"\1***", _IN_AUTHORITY.sub(r"\1***@", text))


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn a lost, full or refusing server into `StoreUnavailable`; wrap a whole transaction in it.

    Parameters
    ----------
    what : str
        What was being done, for the message: ``"append a batch"``.

    Raises
    ------
    StoreUnavailable
        For every error that is the server's state and not what was written (connection lost, deadlock, timeout, disk full, a privilege or a table
        that is missing): the work was rolled back and may be tried again. Data and integrity errors pass through.
    """
    try:
        yield
    except NOT_THE_DATA as error:
        raise StoreUnavailable(f"cannot {what} now: {_one_line(error)}") from error


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that does not wait for ever for an answer.

    Attributes
    ----------
    answer_s_max : float or None
        Longest wait for one answer, in s; None: no limit.

    Notes
    -----
    The server ends a statement at its ``statement_timeout``, and TCP notices a network that swallows packets. Neither notices a server or a
    proxy that is frozen while its kernel still acknowledges what we send, nor a COMMIT that waits for a synchronous standby (no statement's
    limit counts there). So we end the wait: the connection is closed, and whether the last statement took effect is not known.

    Blind to a server that trickles: each answer starts the limit anew. ``notifies()`` needs its own timeout here.
    """

    answer_s_max: float | None = None

    def wait(self, gen: PQGen[_Answer], interval: float = 0.1, timeout: float | None = None) -> _Answer:
        """Wait for an answer as psycopg does; close the connection when it does not come in time."""
        if timeout is not None or self.answer_s_max is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_s_max)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"the server did not answer within {self.answer_s_max:g} s, the connection was closed"
            ) from error


def connect(
    url: str,
    *,
    application_name: str = "underway",
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    connect_timeout_s: int = CONNECT_TIMEOUT_S,
    answer_grace_s: float = ANSWER_GRACE_S,
    autocommit: bool = True,
) -> psycopg.Connection[Any]:
    """Return a connection in UTC with bounded waits; both ends notice a network that was cut.

    It is in autocommit mode, so that a transaction is exactly a ``with conn.transaction():`` block and nothing else.

    Parameters
    ----------
    url : str
        ``postgresql://user:password@host:port/database`` or a keyword string, as libpq takes it; with several hosts and
        ``target_session_attrs=read-write`` the one that is primary now.
    application_name : str
        Shown in ``pg_stat_activity``.
    statement_timeout_s : float
        Longest time of one statement, in s; 0 means no limit.
    connect_timeout_s : int
        Longest wait for each host, in s (at least 2, a limit of libpq).
    answer_grace_s : float
        The server is taken for gone when it does not answer so long after `statement_timeout_s`; without that limit it is waited for.

    Raises
    ------
    OperatorError
        When `url` is not a connection URL.
    StoreUnavailable
        When the server does not answer, refuses, or does not know the database or the user.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise OperatorError(
            f"the database URL must look like 'postgresql://user:password@host:5432/underway', got {redact_url(url)!r}"
        ) from error
    ours = {"timezone": "UTC", "statement_timeout": str(round(statement_timeout_s * 1000))}
    options = " ".join([_as_options(SERVER_LINK_SETTINGS), str(given.get("options") or ""), _as_options(ours)])
    link = {name: value for name, value in LINK_SETTINGS.items() if given.get(name) is None}
    whole = make_conninfo(url, application_name=application_name, connect_timeout=max(2, connect_timeout_s), options=options, **link)
    try:
        conn = BoundedConnection.connect(whole, autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"no connection to {redact_url(url)}: {_one_line(error)}") from error
    conn.answer_s_max = statement_timeout_s + answer_grace_s if statement_timeout_s else None
    return conn


def _as_options(settings: dict[str, str]) -> str:
    """Return settings as libpq's ``options`` takes them; of two with one name the later counts."""
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _one_line(error: Exception) -> str:
    """Return the message of a database error as one line without passwords."""
    return redact_url("; ".join(line.strip() for line in str(error).splitlines() if line.strip()))
