"""Which errors are a person's to mend: they are told in one sentence, without a traceback."""

from __future__ import annotations

import psycopg

from underway.model import OperatorError, StoreUnavailable

_OLD_SCHEMA = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)


def told(error: BaseException) -> str | None:
    """Return the sentence that says what a person has to do about an error, or None when it is a defect of ours.

    Examples
    --------
    >>> told(OperatorError("a port must be a number, got 'x'")), told(KeyError("x"))
    ("OperatorError: a port must be a number, got 'x'", None)
    """
    if isinstance(error, (OperatorError, StoreUnavailable)):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, _OLD_SCHEMA):
        said = error.diag.message_primary or str(error)
        return f"OperatorError: the database must have the tables of this version of underway ({said}); run 'underway db migrate'"
    return None
