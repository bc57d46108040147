"""One JSON shape for every error that the API answers with.

``{"error": {"code", "message", "allowed", "unmet", "problems"}}``: ``allowed`` is filled with a 409 (what the state allows),
``unmet`` with a 422 from a guard (every one of them), ``problems`` with a 422 from a malformed request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from underway.desk import NotFoundError
from underway.model import GuardError, IllegalTransitionError, OperatorError, StoreUnavailable

log = logging.getLogger("underway.web")


class ErrorBody(BaseModel):
    """What went wrong, for a program (``code``) and for a person (``message``)."""

    code: str
    message: str
    allowed: list[str] = []
    unmet: list[str] = []
    problems: list[str] = []


class ErrorAnswer(BaseModel):
    """The one error shape."""

    error: ErrorBody


class ApiError(Exception):
    """An answer other than success.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        A word that programs compare.
    message : str
        One readable sentence.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s
        super().__init__(message)


def answer(
    status: int,
    code: str,
    message: str,
    *,
    allowed: Sequence[str] = (),
    unmet: Sequence[str] = (),
    problems: Sequence[str] = (),
    retry_after_s: int | None = None,
) -> JSONResponse:
    """Return the JSON answer of an error."""
    body = ErrorAnswer(error=ErrorBody(code=code, message=message, allowed=list(allowed), unmet=list(unmet), problems=list(problems)))
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


CODE_BY_STATUS = {400: "bad_request", 401: "login_required", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def _http(_: Request, exc: HTTPException) -> JSONResponse:
    return answer(exc.status_code, CODE_BY_STATUS.get(exc.status_code, "error"), str(exc.detail))


def _api(_: Request, exc: ApiError) -> JSONResponse:
    return answer(exc.status, exc.code, exc.message, retry_after_s=exc.retry_after_s)


def _malformed(_: Request, exc: RequestValidationError) -> JSONResponse:
    problems = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in exc.errors()[:20]]
    return answer(422, "malformed", f"the request has {len(problems)} problem(s): " + "; ".join(problems), problems=problems)


def _illegal(_: Request, exc: IllegalTransitionError) -> JSONResponse:
    return answer(409, "illegal_transition", str(exc), allowed=exc.allowed)


def _guard(_: Request, exc: GuardError) -> JSONResponse:
    return answer(422, "guard_unmet", str(exc), unmet=exc.unmet)


def _missing(_: Request, exc: NotFoundError) -> JSONResponse:
    return answer(404, "not_found", str(exc))


def _internal(_: Request, exc: Exception) -> JSONResponse:
    return answer(500, "internal", "something is broken here; the log says what")


def _operator(_: Request, exc: OperatorError) -> JSONResponse:
    return answer(422, "refused", str(exc))


def _unfit(_: Request, exc: psycopg.DataError) -> JSONResponse:
    return answer(422, "malformed", f"a value in the request cannot be stored or compared ({type(exc).__name__})")


def _store(_: Request, exc: Exception) -> JSONResponse:
    log.warning("the database cannot be reached: %s", type(exc).__name__)
    return answer(503, "store_unavailable", "the database cannot be reached now; try again in a few seconds", retry_after_s=3)


Handler = Callable[[Request, Exception], Response | Awaitable[Response]]


def install(app: FastAPI) -> None:
    """Make `app` answer every error in the one shape."""
    table: dict[type[Exception], Callable[..., JSONResponse]] = {
        HTTPException: _http,
        ApiError: _api,
        RequestValidationError: _malformed,
        IllegalTransitionError: _illegal,
        GuardError: _guard,
        NotFoundError: _missing,
        OperatorError: _operator,
        StoreUnavailable: _store,
        psycopg.DataError: _unfit,  # a NUL in a text, a number beyond the column's
        psycopg.OperationalError: _store,
        PoolTimeout: _store,
        PoolClosed: _store,
        TooManyRequests: _store,
        Exception: _internal,
    }
    for kind, handler in table.items():
        app.add_exception_handler(kind, handler)
