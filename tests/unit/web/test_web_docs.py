from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from fastapi.routing import APIRoute

from web import api, auth, operations
from web.app import create_app
from web.config import WebConfig

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text(encoding="utf-8")


class Still:
    def now_at(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)


def test_api_document_lists_exactly_the_paths_of_the_application() -> None:
    spec = create_app(WebConfig("", "0123456789abcdef", Still())).openapi()
    built = {(method.upper(), path) for path, methods in spec["paths"].items() for method in methods}
    written = set(re.findall(r"^\| `(GET|POST) (/\S*?)`", DOCUMENT, re.M))
    assert written == built


def test_api_document_names_every_event_and_error_code() -> None:
    for event in (*auth.ALARM_EVENT_PERMISSION, *auth.ORDER_EVENT_PERMISSION):
        assert f"`{event}`" in DOCUMENT
    sources = "".join(
        (Path(api.__file__).parent / name).read_text(encoding="utf-8")
        for name in ("api.py", "auth.py", "app.py", "errors.py", "operations.py")
    )
    for code in set(re.findall(r'(?:ApiError|answer)\(\s*\d{3}, "([a-z_]+)"', sources)):
        assert f"`{code}`" in DOCUMENT, code


def test_every_reading_endpoint_asks_for_a_permission() -> None:
    open_to_all = {"/healthz", "/readyz", "/api/door", "/api/me", "/api/login", "/api/demo-login", "/api/logout"}
    checked_inside = {"/api/orders/{order_id}", "/api/orders/{order_id}/actions", "/api/alarms/{alarm_id}/actions", "/api/events"}
    for route in (*api.router.routes, *operations.router.routes):
        assert isinstance(route, APIRoute)
        guarded = any("check" in getattr(d.call, "__qualname__", "") for d in route.dependant.dependencies)
        assert guarded or route.path in open_to_all | checked_inside, route.path
