"""Planned work through the API on a real database: told, told again, called off, refused, and what the detectors then know."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import web_town
from fastapi.testclient import TestClient
from httpx import Response
from test_web_api import Site, error, filled_url, site  # noqa: F401

from underway.model import Role
from underway.store.operations import pending_operations
from web.auth import create_account

pytestmark = pytest.mark.integration
NOW_AT = web_town.NOW_AT
FAR_AT, LONG_AGO_AT = NOW_AT + timedelta(days=900), NOW_AT - timedelta(days=60)


def told(**more: Any) -> dict[str, Any]:
    begin_at = NOW_AT + timedelta(hours=3)
    return {
        "action_id": str(uuid4()),
        "kind": "flushing",
        "zone_id": "z1",
        "begin_at": begin_at.isoformat(),
        "end_at": (begin_at + timedelta(hours=2)).isoformat(),
        "reason": "permit 2026-117",
    } | more


def signed_in(here: Site, role: Role) -> TestClient:
    create_account(here.conn, f"{role}-1", "Somebody", role, "correct horse battery")
    return here.signed_in(f"{role}-1")


def tell(client: TestClient, **more: Any) -> Response:
    return client.post("/api/operations", json=told(**more))


def test_operation_told_is_listed_and_pending_for_the_detectors_and_withdrawn_once(site: Site) -> None:  # noqa: F811
    client = signed_in(site, Role.OPERATOR)
    body = told(flow_m3ph=40.0)
    first = client.post("/api/operations", json=body)
    assert first.status_code == 200, first.text
    assert (first.json()["result"], first.json()["phase"]) == ("applied", "coming")
    number = first.json()["operation"]["operation_id"]
    again = client.post("/api/operations", json=body).json()
    assert (again["result"], again["operation"]["operation_id"]) == ("already_applied", number)
    assert [(o["operation_id"], o["actor"], o["told"]) for o in client.get("/api/operations").json()["operations"]] == [
        (number, first.json()["operation"]["actor"], False)
    ]
    assert [(o.operation_id, o.zone_id, o.flow_m3ph, o.withdrawn) for o in pending_operations(site.conn, "town")] == [
        (number, "z1", 40.0, False)
    ]
    off = client.post(f"/api/operations/{number}/withdraw", json={"reason": "rain"})
    assert (off.json()["result"], off.json()["phase"], off.json()["operation"]["withdrawn_reason"]) == ("applied", "withdrawn", "rain")
    twice = client.post(f"/api/operations/{number}/withdraw", json={"reason": "snow"}).json()
    assert (twice["result"], twice["operation"]["withdrawn_reason"]) == ("already_applied", "rain")
    assert [o.withdrawn for o in pending_operations(site.conn, "town")] == [False, True]


def test_operation_on_an_asset_belongs_to_its_zone_and_late_ones_say_so(site: Site) -> None:  # noqa: F811
    client = signed_in(site, Role.ENGINEER)
    found = tell(client, zone_id=None, asset_id=web_town.BURST_PIPE, begin_at=(NOW_AT - timedelta(hours=5)).isoformat(), kind="valve",
                 end_at=(NOW_AT - timedelta(hours=4)).isoformat()).json()  # fmt: skip
    assert found["phase"] == "over"
    zone_id = found["operation"]["zone_id"]
    listed = client.get("/api/operations", params={"zone_id": zone_id, "asset_id": web_town.BURST_PIPE}).json()["operations"]
    assert [o["operation_id"] for o in listed] == [found["operation"]["operation_id"]]
    assert client.get("/api/operations", params={"days": 0}).json()["operations"] == []
    running = tell(client, begin_at=(NOW_AT - timedelta(minutes=5)).isoformat()).json()
    assert running["phase"] == "running"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"zone_id": "nowhere"}, "refused", "no zone 'nowhere'"),
        ({"zone_id": None}, "refused", "must name its zone"),
        ({"asset_id": "nothing"}, "refused", "no asset 'nothing'"),
        ({"end_at": NOW_AT.isoformat()}, "refused", "must end after its begin"),
        ({"end_at": (NOW_AT + timedelta(days=40)).isoformat()}, "refused", "at most 31 days"),
        ({"begin_at": FAR_AT.isoformat(), "end_at": (FAR_AT + timedelta(days=1)).isoformat()}, "refused", "is the year right"),
        ({"begin_at": LONG_AGO_AT.isoformat(), "end_at": (LONG_AGO_AT + timedelta(days=1)).isoformat()}, "refused", "within 31 days"),
        ({"reason": "  "}, "refused", "must have a reason"),
        ({"reason": ""}, "malformed", "reason"),
        ({"begin_at": "2026-03-12T08:00:00"}, "malformed", "begin_at"),
        ({"kind": "party"}, "malformed", "kind"),
        ({"flow_m3ph": -1}, "malformed", "flow_m3ph"),
        ({"colour": "red"}, "malformed", "colour"),
    ],
)  # fmt: skip
def test_operation_that_cannot_be_is_refused_with_what_was_expected(site: Site, change: dict[str, Any], code: str, says: str) -> None:  # noqa: F811
    answer = tell(signed_in(site, Role.SUPERVISOR), **change)
    problem = error(answer)
    assert (answer.status_code, problem["code"]) == (422, code)
    assert says in " ".join([problem["message"], *problem["problems"]])
    assert pending_operations(site.conn, "town") == ()


def test_operation_action_used_for_another_one_is_refused_and_changes_nothing(site: Site) -> None:  # noqa: F811
    client = signed_in(site, Role.OPERATOR)
    body = told()
    number = client.post("/api/operations", json=body).json()["operation"]["operation_id"]
    refused = client.post("/api/operations", json=body | {"kind": "valve"})
    assert (refused.status_code, error(refused)["code"]) == (422, "refused")
    assert f"operation {number}" in error(refused)["message"]
    assert [o.kind for o in pending_operations(site.conn, "town")] == ["flushing"]


def test_operation_needs_the_right_and_a_number_that_exists(site: Site) -> None:  # noqa: F811
    assert tell(site.client()).status_code == 401
    assert tell(site.crew()).status_code == 403
    assert site.crew().get("/api/operations").status_code == 403
    missing = signed_in(site, Role.OPERATOR).post("/api/operations/999/withdraw", json={"reason": "never was"})
    assert (missing.status_code, error(missing)["message"]) == (404, "there is no operation 999")
