"""Connect to the database, and say whose fault it is when that fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from underway.model import OperatorError, StoreUnavailable

STATEMENT_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5
NOT_THE_DATA = (
    psycopg.OperationalError,
    psycopg.ProgrammingError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    psycopg.NotSupportedError,
)
"""Errors of a statement that say nothing against the values in it: trying again later may help, giving the values up does not."""
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


def connect(
    url: str,
    *,
    application_name: str = "underway",
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    connect_timeout_s: int = CONNECT_TIMEOUT_S,
    autocommit: bool = True,
) -> psycopg.Connection[Any]:
    """Return a connection in UTC with bounded waits.

    It is in autocommit mode, so that a transaction is exactly a ``with conn.transaction():`` block and nothing else.

    Parameters
    ----------
    url : str
        ``postgresql://user:password@host:port/database`` or a keyword string, as libpq takes it.
    application_name : str
        Shown in ``pg_stat_activity``.
    statement_timeout_s : float
        Longest time of one statement, in s; 0 means no limit.
    connect_timeout_s : int
        Longest wait for the server, in s (at least 2, a limit of libpq).

    Raises
    ------
    OperatorError
        When `url` is not a connection URL.
    StoreUnavailable
        When the server does not answer, refuses, or does not know the database or the user.
    """
    try:
        options = conninfo_to_dict(url).get("options") or ""
    except psycopg.ProgrammingError as error:
        raise OperatorError(
            f"the database URL must look like 'postgresql://user:password@host:5432/underway', got {redact_url(url)!r}"
        ) from error
    options = f"{options} -c timezone=UTC -c statement_timeout={round(statement_timeout_s * 1000)}".strip()
    try:
        return psycopg.connect(
            url, autocommit=autocommit, application_name=application_name, connect_timeout=max(2, connect_timeout_s), options=options
        )
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"no connection to {redact_url(url)}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """Return the message of a database error as one line without passwords."""
    return redact_url("; ".join(line.strip() for line in str(error).splitlines() if line.strip()))
