"""The ASGI application: pages, API, live events. Secure by default, nothing loaded from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from underway.desk import crew_link
from underway.model import Role
from underway.store import views
from web import api, auth, errors, operations
from web.config import WebConfig
from web.live import Hub
from web.state import State

STATIC = Path(__file__).parent / "static"
BODY_BYTES_MAX = 64 * 1024
STATEMENT_TIMEOUT_MS = 10_000
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
CSRF_HEADER = "x-underway"
DEMO_CREW_LINK = timedelta(days=1)

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(self), camera=(), microphone=(), payment=()",
    "X-Frame-Options": "DENY",
}


def refusal(method: str, path: str, headers: Headers) -> JSONResponse | None:
    """Return why a changing request is refused before anyone reads it, None when it may go on.

    A changing request must be JSON of a bounded, declared length. One that could ride on a cookie (no bearer token) must also come from
    this site: with the header ``X-Underway``, which no form and no other site can send, and a matching Origin when there is one.
    """
    if method not in CHANGING:
        return None
    length = headers.get("content-length", "")
    if not length.isdigit():
        return errors.answer(411, "length_required", "a changing request must say its Content-Length")
    if int(length) > BODY_BYTES_MAX:
        return errors.answer(413, "too_large", f"a request may have at most {BODY_BYTES_MAX} bytes, got {length}")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return errors.answer(415, "not_json", "a changing request must be application/json")
    if headers.get("authorization", "").lower().startswith("bearer "):
        return None
    origin = headers.get("origin")
    foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != headers.get("host")
    )
    if foreign or CSRF_HEADER not in headers:
        return errors.answer(
            403, "cross_site", f"a changing request with a cookie must come from this site and carry the header {CSRF_HEADER}"
        )
    return None


class Gate:
    """Middleware: security headers on every answer, `refusal` before every changing request."""

    def __init__(self, app: ASGIApp, secure: bool) -> None:
        self.app, self.secure = app, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if self.secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
                else:
                    headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        refused = refusal(scope["method"], scope["path"], Headers(scope=scope))
        await (self.app if refused is None else refused)(scope, receive, send_secured)


def _options(database_url: str) -> str:
    given = conninfo_to_dict(database_url).get("options") or ""
    return f"{given} -c timezone=UTC -c statement_timeout={STATEMENT_TIMEOUT_MS}".strip()


def create_app(config: WebConfig) -> FastAPI:
    """Return the application; connections are opened when it starts, not before.

    Parameters
    ----------
    config : WebConfig
        What it is told, see there.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = ConnectionPool(
            config.database_url,
            min_size=1,
            max_size=config.pool_max,
            timeout=5.0,
            max_waiting=100,
            open=False,
            name="underway-web",
            kwargs={"application_name": "underway-web", "connect_timeout": 5, "options": _options(config.database_url)},
        )
        pool.open(wait=False)
        state = State(config, pool)

        def marks() -> dict[str, str]:
            with pool.connection() as conn:
                return views.change_marks(conn)

        state.hub = Hub(marks, config.poll_s, config.clients_max)
        state.hub.start(asyncio.get_running_loop())
        app.state.web = state
        try:
            yield
        finally:
            await asyncio.to_thread(state.hub.stop)
            await asyncio.to_thread(pool.close, 5.0)

    app = FastAPI(
        title="underway",
        version="1",
        description="Alarms, incidents, work orders and the town behind them. Errors have one shape, see `ErrorAnswer`.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    errors.install(app)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(Gate, secure=config.secure_cookies)
    app.include_router(api.router)
    app.include_router(operations.router)
    app.include_router(_pages(config))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _pages(config: WebConfig) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    def page(name: str) -> Response:
        return FileResponse(STATIC / name, media_type="text/html; charset=utf-8")

    @router.get("/")
    def operator_page(request: Request) -> Response:
        who = api.identify(request)
        if who is not None and who.role is Role.CREW:
            return RedirectResponse("/crew", status_code=303)
        if who is None or not who.may(auth.Permission.READ):
            return RedirectResponse("/login", status_code=303)
        return page("index.html")

    @router.get("/login")
    def login_page() -> Response:
        return page("login.html")

    @router.get("/api/docs")
    def docs_page() -> Response:
        return page("docs.html")

    @router.get("/crew")
    @router.get("/crew/{token}")
    def crew_page(token: str = "") -> Response:
        return page("crew.html")  # the page asks the API with the token of its own address

    @router.get("/demo/crew/{crew_id}")
    def demo_crew_page(crew_id: str, request: Request) -> Response:
        """Open a crew's phone without its link: only in the demo, only from this machine."""
        if not auth.demo_allowed(config, request):
            raise errors.ApiError(403, "no_demo", "a crew's page without its link exists only in the demo and only from this machine")
        token = crew_link(config.secret_key, crew_id, config.clock.now_at() + DEMO_CREW_LINK)
        return RedirectResponse(f"/crew/{token}", status_code=303)

    @router.get("/crew-worker.js")
    def crew_worker() -> Response:
        return FileResponse(STATIC / "crew-worker.js", media_type="text/javascript", headers={"Service-Worker-Allowed": "/crew"})

    @router.get("/favicon.ico")
    def favicon() -> Response:
        return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")

    return router
