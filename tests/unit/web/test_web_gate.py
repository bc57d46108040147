from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from starlette.datastructures import Headers

from web.app import BODY_BYTES_MAX, SECURITY_HEADERS, refusal

GOOD = {"host": "here", "content-length": "2", "content-type": "application/json", "x-underway": "1"}
CASES: list[tuple[str, Mapping[str, str | None], int | None]] = [
    ("same-site", {}, None),
    ("json-with-charset", {"content-type": "application/json; charset=utf-8"}, None),
    ("origin-fits", {"origin": "http://here"}, None),
    ("bearer-needs-no-header", {"x-underway": None, "authorization": "Bearer x"}, None),
    ("no-length", {"content-length": None}, 411),
    ("chunked", {"content-length": None, "transfer-encoding": "chunked"}, 411),
    ("negative-length", {"content-length": "-1"}, 411),
    ("too-large", {"content-length": str(BODY_BYTES_MAX + 1)}, 413),
    ("form", {"content-type": "application/x-www-form-urlencoded"}, 415),
    ("text", {"content-type": "text/plain"}, 415),
    ("no-header", {"x-underway": None}, 403),
    ("foreign-origin", {"origin": "http://elsewhere"}, 403),
    ("opaque-origin", {"origin": "null"}, 403),
    ("cross-site", {"sec-fetch-site": "cross-site"}, 403),
    ("same-site-other-host", {"sec-fetch-site": "same-site"}, 403),
    ("basic-is-no-bearer", {"x-underway": None, "authorization": "Basic x"}, 403),
]


@pytest.mark.parametrize(("change", "status"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_refusal_of_a_post(change: Mapping[str, str | None], status: int | None) -> None:
    headers = Headers({k: v for k, v in {**GOOD, **change}.items() if v is not None})
    answer = refusal("POST", "/api/x", headers)
    assert (answer.status_code if answer else None) == status
    if answer:
        assert set(json.loads(bytes(answer.body))["error"]) == {"code", "message", "allowed", "unmet", "problems"}


def test_refusal_reading_needs_nothing() -> None:
    assert refusal("GET", "/", Headers({})) is None


def test_security_headers_allow_no_inline_and_no_other_site() -> None:
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
