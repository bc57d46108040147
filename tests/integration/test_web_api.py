"""The API on a real database with the real desk: who may what, what actions do, what errors look like."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
import web_town
from fastapi.testclient import TestClient
from httpx import Response

from underway import desk
from underway.model import OperatorError, Role
from underway.store import views
from underway.store.connect import connect
from web.app import WebConfig, create_app
from web.auth import create_account

pytestmark = pytest.mark.integration

SECRET = "integration-only-0123456789abcdef"
PASSWORD = "correct horse battery"
LOCAL = ("127.0.0.1", 50000)
AWAY = ("192.0.2.7", 50000)


@dataclass
class Site:
    """A scene behind an application."""

    url: str
    conn: psycopg.Connection[Any]
    clock: web_town.StillClock = field(default_factory=web_town.StillClock)
    now_s: float = 0.0
    opened: list[TestClient] = field(default_factory=list)

    def client(self, *, demo: bool = False, away: bool = False, token: str | None = None, **options: Any) -> TestClient:
        config = WebConfig(self.url, SECRET, self.clock, demo=demo, poll_s=0.05, monotonic_s=lambda: self.now_s, **options)
        headers = {"X-Underway": "1"} | ({"Authorization": f"Bearer {token}"} if token else {})
        client = TestClient(
            create_app(config), base_url="http://127.0.0.1", client=AWAY if away else LOCAL, headers=headers, raise_server_exceptions=False
        )
        client.__enter__()
        self.opened.append(client)
        return client

    def signed_in(self, account: str) -> TestClient:
        client = self.client()
        assert client.post("/api/login", json={"account": account, "password": PASSWORD}).status_code == 200
        return client

    def crew(self, crew_id: str = "c1", **options: Any) -> TestClient:
        return self.client(token=desk.crew_link(SECRET, crew_id, web_town.NOW_AT + timedelta(hours=8)), **options)

    def one(self, sql: str) -> Any:
        row = self.conn.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]

    @property
    def leak_order_id(self) -> int:
        return int(self.one("SELECT order_id FROM work_order WHERE order_type = 'leak_repair'"))

    @property
    def burst_id(self) -> int:
        return int(self.one("SELECT alarm_id FROM alarm WHERE alarm_type = 'leak.burst'"))


@pytest.fixture(scope="module")
def filled_url(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """The scene, filled once; every test works on a copy."""
    with new_database() as url:
        with connect(url) as conn:
            web_town.fill(conn, "dispatched")
            for account_id, role, crew_id in (
                ("ada", Role.OPERATOR, None),
                ("sue", Role.SUPERVISOR, None),
                ("eve", Role.ENGINEER, None),
                ("cy", Role.CREW, "c1"),
            ):
                create_account(conn, account_id, account_id.title(), role, PASSWORD, crew_id)
        yield url


@pytest.fixture
def site(filled_url: str, embedded_admin_url: str) -> Iterator[Site]:
    template = urlsplit(filled_url).path[1:]
    name = f"{template}_copy"
    with psycopg.connect(embedded_admin_url, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        url = urlunsplit(urlsplit(filled_url)._replace(path=f"/{name}"))
        with connect(url) as conn:
            made = Site(url, conn)
            try:
                yield made
            finally:
                for client in made.opened:
                    client.__exit__(None, None, None)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def error(answer: Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"code", "message", "allowed", "unmet", "problems"}
    return body


def action(event: str, **more: Any) -> dict[str, Any]:
    return {"event": event, "action_id": str(uuid4()), **more}


READABLE = [
    "/api/overview",
    "/api/network",
    "/api/alarms",
    "/api/orders",
    "/api/findings",
    "/api/quarantine",
    "/api/incidents",
    "/api/crews",
]
READABLE += ["/api/signals", "/api/reviews", "/api/zones/z1/series", "/api/events"]


def test_nobody_gets_in_without_a_login_a_link_or_the_demo(site: Site) -> None:
    client = site.client()
    for path in READABLE:
        answer = client.get(path)
        assert (path, answer.status_code) == (path, 401)
        assert error(answer)["code"] == "login_required"
    assert client.get("/", follow_redirects=False).headers["location"] == "/login"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/login").status_code == 200
    assert client.get("/api/door").json() == {"title": "underway", "demo": False}


def test_demo_reads_from_loopback_only_and_signs_in_by_one_click(site: Site) -> None:
    here, away = site.client(demo=True), site.client(demo=True, away=True)
    assert here.get("/api/overview").status_code == 200
    assert away.get("/api/overview").status_code == 401
    assert away.post("/api/demo-login", json={"role": "operator"}).status_code == 403
    refused = here.post(f"/api/alarms/{site.burst_id}/actions", json=action("ack"))
    assert (refused.status_code, error(refused)["code"]) == (403, "demo_read_only")
    assert here.post("/api/demo-login", json={"role": "operator"}).status_code == 200
    assert here.post(f"/api/alarms/{site.burst_id}/actions", json=action("ack")).json()["state"] == "ACKED"
    assert here.get("/api/me").json()["actor"] == "demo:operator"


def test_demo_session_means_nothing_outside_of_the_demo(site: Site) -> None:
    here = site.client(demo=True)
    here.post("/api/demo-login", json={"role": "supervisor"})
    cookie = here.cookies["underway_session"]
    elsewhere = site.client()
    elsewhere.cookies.set("underway_session", cookie)
    assert elsewhere.get("/api/overview").status_code == 401
    assert elsewhere.post("/api/demo-login", json={"role": "supervisor"}).status_code == 403


def test_demo_opens_a_crews_phone_from_loopback_only(site: Site) -> None:
    here = site.client(demo=True)
    opened = here.get("/demo/crew/c1", follow_redirects=False)
    assert opened.status_code == 303
    token = opened.headers["location"].removeprefix("/crew/")
    day = here.get("/api/crew", headers={"Authorization": f"Bearer {token}"})
    assert (day.status_code, day.json()["crew"]["name"]) == (200, "Crew Blue")
    for closed in (site.client(demo=True, away=True), site.client()):
        assert closed.get("/demo/crew/c1", follow_redirects=False).status_code == 403


def test_login_cookie_is_for_this_site_only_and_logout_ends_it(site: Site) -> None:
    client = site.client(secure_cookies=True)
    answer = client.post("/api/login", json={"account": "ada", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    for word in ("httponly", "samesite=strict", "secure", "path=/", "max-age=43200"):
        assert word in cookie
    assert "max-age=0" in client.post("/api/logout", json={}).headers["set-cookie"].lower()
    assert answer.headers["strict-transport-security"]


def test_login_failures_are_slowed_down_and_look_alike(site: Site) -> None:
    client = site.client()
    answers = [
        client.post("/api/login", json={"account": name, "password": "wrong password"}) for name in ("ada", "ghost", "ada", "ghost", "ada")
    ]
    assert {a.status_code for a in answers} == {401}
    assert len({error(a)["message"] for a in answers}) == 1
    waiting = client.post("/api/login", json={"account": "ada", "password": PASSWORD})
    assert waiting.status_code == 429
    assert waiting.headers["retry-after"] == "300"
    site.now_s = 301.0
    assert client.post("/api/login", json={"account": "ada", "password": PASSWORD}).status_code == 200


def test_session_ends_with_a_new_password_a_disabled_account_or_a_changed_cookie(site: Site) -> None:
    client = site.signed_in("ada")
    assert client.get("/api/me").json()["role"] == "operator"
    create_account(site.conn, "ada", "Ada", Role.SUPERVISOR, "another password", None)
    assert client.get("/api/overview").status_code == 401
    other = site.signed_in("sue")
    site.conn.execute("UPDATE account SET disabled_at = now() WHERE account_id = 'sue'")
    assert other.get("/api/overview").status_code == 401
    assert site.client().post("/api/login", json={"account": "sue", "password": PASSWORD}).status_code == 401
    third = site.signed_in("eve")
    third.cookies.set("underway_session", third.cookies["underway_session"][:-2] + "xx")
    assert third.get("/api/overview").status_code == 401


def test_create_account_crew_and_role_must_fit(site: Site) -> None:
    with pytest.raises(OperatorError, match="no crew 'c9' is registered"):
        create_account(site.conn, "x", "X", Role.CREW, PASSWORD, "c9")
    with pytest.raises(OperatorError, match="an account of role 'crew' needs a crew"):
        create_account(site.conn, "x", "X", Role.OPERATOR, PASSWORD, "c1")


def test_changing_request_from_another_site_is_refused(site: Site) -> None:
    client = site.signed_in("ada")
    path = f"/api/alarms/{site.burst_id}/actions"
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.post(path, json=action("ack"), headers=headers)
        assert (answer.status_code, error(answer)["code"]) == (403, "cross_site")
    del client.headers["X-Underway"]
    assert error(client.post(path, json=action("ack")))["code"] == "cross_site"
    assert site.one("SELECT ack FROM alarm WHERE alarm_type = 'leak.burst'") == "unacked"


def test_every_answer_carries_the_security_headers(site: Site) -> None:
    client = site.client()
    for path in ("/login", "/static/app.css", "/api/overview", "/healthz", "/no/such/page", "/crew/x"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/overview").headers["cache-control"] == "no-store"


def test_overview_says_what_where_since_when_and_who(site: Site) -> None:
    overview = site.signed_in("ada").get("/api/overview").json()
    assert overview["clock"] == {"now_at": "2026-03-11T04:40:00Z", "speed": 600.0, "ahead_s_max": 300.0}
    assert overview["lag_s"] == 240.0
    assert overview["readings_per_s"] == 1240.0
    first = overview["alarms"][0]
    assert (first["alarm_type"], first["state"], first["zone_name"], first["crew_name"]) == (
        "leak.burst",
        "UNACK",
        "Northgate",
        "Crew Blue",
    )
    assert first["occurred_at"] == "2026-03-11T03:05:00Z"
    assert first["evidence"]["summary"].startswith("Inflow of Northgate")
    assert first["order_state"] == "DISPATCHED"
    assert first["detector"] == "zone-inflow"
    order = overview["orders"][0]
    assert (order["label"], order["crew_name"], {c["name"] for c in order["clocks"]}) == (
        f"WO-{order['order_id']}",
        "Crew Blue",
        {"ack", "on_site"},
    )
    assert overview["events"][0]["at"] >= overview["events"][-1]["at"]
    assert overview["counts"]["alarms_unacked"] == 2


def test_network_is_compact_and_answers_304_to_what_is_known(site: Site) -> None:
    client = site.signed_in("ada")
    answer = client.get("/api/network")
    network = answer.json()
    assert {a["class"] for a in network["assets"]} >= {"pipe", "road_section", "tank", "bridge", "culvert"}
    assert {z["name"] for z in network["zones"]} == {"Northgate", "Old Town", "Riverside"}
    assert any("zone_pressure" in d["roles"] for d in network["devices"])
    again = client.get("/api/network", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_zone_series_columns_have_one_length_and_end_now(site: Site) -> None:
    body = site.signed_in("ada").get("/api/zones/z1/series?hours=24").json()
    inflow = body["inflow"][0]
    assert {len(inflow[c]) for c in ("at_ms", "observed", "expected", "sigma")} == {288}
    assert inflow["at_ms"][-1] == int(web_town.NOW_AT.timestamp() * 1000)
    assert (inflow["unit"], inflow["every"], inflow["baseline_id"]) == ("m3/h", 1, "z1-b14")
    assert len(body["pressures"]) == 4
    client = site.signed_in("ada")
    assert client.get("/api/signals/zone/z1/inflow/series?hours=1").json()["series"][0]["signal"] == "zone/z1/inflow"
    assert client.get("/api/assets/br-1/series").json()["series"][0]["unit"] == "Hz"
    assert client.get("/api/zones/z9/series").status_code == 404
    malformed = client.get("/api/zones/z1/series?hours=0")
    assert (malformed.status_code, error(malformed)["code"]) == (422, "malformed")


def test_alarm_ack_is_idempotent_and_illegal_afterwards(site: Site) -> None:
    client = site.signed_in("ada")
    path = f"/api/alarms/{site.burst_id}/actions"
    body = action("ack")
    first, again = client.post(path, json=body).json(), client.post(path, json=body).json()
    assert (first["result"], first["state"], again["result"]) == ("applied", "ACKED", "already_applied")
    assert "shelve" in first["allowed"]
    other = client.post(path, json=action("ack"))
    assert other.status_code == 409
    assert error(other)["code"] == "illegal_transition"
    assert "shelve" in error(other)["allowed"]


def test_alarm_shelve_needs_a_reason_and_stays_within_the_limit_of_the_role(site: Site) -> None:
    client = site.signed_in("ada")
    path = f"/api/alarms/{site.burst_id}/actions"
    answer = client.post(path, json=action("shelve", hours=20))
    assert answer.status_code == 422
    unmet = error(answer)["unmet"]
    assert len(unmet) == 2
    assert any("at most 8 h" in clause for clause in unmet)
    assert any("reason" in clause for clause in unmet)
    assert client.post(path, json=action("shelve", hours=2, reason="hydrant test")).json()["state"] == "SHLVD"
    assert client.post(path, json=action("unshelve", reason="over")).json()["state"] == "ACKED"
    assert client.post(path, json=action("comment", note="asked the fire brigade")).json()["result"] == "applied"
    detail = client.get(f"/api/alarms/{site.burst_id}").json()
    assert [e["event"] for e in detail["events"]][-3:] == ["shelve", "unshelve", "comment"]


def test_alarm_action_of_the_wrong_role_or_unknown_event_is_refused(site: Site) -> None:
    path = f"/api/alarms/{site.burst_id}/actions"
    assert site.signed_in("eve").post(path, json=action("shelve", hours=1, reason="x")).status_code == 403
    assert site.crew().post(path, json=action("ack")).status_code == 403
    unknown = site.signed_in("ada").post(path, json=action("raise"))
    assert (unknown.status_code, error(unknown)["code"]) == (422, "unknown_event")
    assert site.signed_in("ada").post("/api/alarms/999/actions", json=action("ack")).status_code == 404


def test_crew_link_goes_the_whole_way_to_verifying(site: Site) -> None:
    crew = site.crew()
    path = f"/api/orders/{site.leak_order_id}/actions"
    for event, state in (("accept", "ACCEPTED"), ("depart", "EN_ROUTE"), ("arrive", "IN_PROGRESS")):
        answer = crew.post(path, json=action(event))
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    missing = crew.post(path, json=action("done", body={"find_code": "leak_found"}))
    assert missing.status_code == 422
    assert len(error(missing)["unmet"]) == 4
    paused = crew.post(path, json=action("pause", body={"waiting_reason": "MATERIAL"}))
    assert paused.json()["state"] == "WAITING"
    crew.post(path, json=action("resume"))
    assert crew.post(path, json=action("done", body=web_town.CLOSED_BODY)).json()["state"] == "VERIFYING"
    day = crew.get("/api/crew").json()
    assert day["orders"][0]["order"]["state"] == "VERIFYING"
    assert day["orders"][0]["allowed"] == ["comment"]
    assert day["orders"][0]["checklist"] == ["traffic_safe", "isolated", "restored"]
    assert day["timezone"] == "Europe/Berlin"
    actors = site.conn.execute(
        "SELECT DISTINCT actor FROM order_event WHERE subject_id = %s AND event = 'accept'", (site.leak_order_id,)
    ).fetchall()
    assert actors == [("crew/c1",)]


def test_crew_link_carries_only_that_crews_rights(site: Site) -> None:
    other = site.crew("c2")
    path = f"/api/orders/{site.leak_order_id}"
    assert error(other.post(f"{path}/actions", json=action("accept")))["code"] == "not_your_order"
    assert other.get(path).status_code == 403
    assert other.get("/api/orders/99999").status_code == 403
    for reading in READABLE:
        assert (reading, other.get(reading).status_code) == (reading, 403)
    mine = site.crew("c1")
    assert mine.get(path).json()["order"]["crew_id"] == "c1"
    assert mine.post(f"{path}/actions", json=action("waive", body={"reason": "x"})).status_code == 403


def test_crew_link_expired_forged_or_of_no_crew_is_nobody_even_in_the_demo(site: Site) -> None:
    end = web_town.NOW_AT + timedelta(hours=1)
    tokens = [
        desk.crew_link(SECRET, "c1", web_town.NOW_AT),
        desk.crew_link("another secret of 16", "c1", end),
        desk.crew_link(SECRET, "c9", end),
        "x",
    ]
    for token in tokens:
        assert site.client(demo=True, token=token).get("/api/crew").status_code == 401
        assert site.client(demo=True, token=token).get("/api/overview").status_code == 401


def test_crew_account_sees_the_crew_page_not_the_town(site: Site) -> None:
    client = site.signed_in("cy")
    assert client.get("/", follow_redirects=False).headers["location"] == "/crew"
    assert client.get("/api/crew").json()["crew"]["name"] == "Crew Blue"
    assert client.get("/api/overview").status_code == 403
    assert client.post(f"/api/orders/{site.leak_order_id}/actions", json=action("accept")).json()["state"] == "ACCEPTED"


def test_order_action_in_conflict_becomes_a_review_item(site: Site) -> None:
    version = site.one("SELECT version FROM work_order WHERE order_type = 'leak_repair'")
    path = f"/api/orders/{site.leak_order_id}/actions"
    crew, desk_person = site.crew(), site.signed_in("sue")
    moved = desk_person.post(path, json=action("assign", body={"crew_id": "c2", "reason": "nearer"})).json()
    assert moved["state"] == "DISPATCHED"
    assert desk_person.post(path, json=action("assign", body={"crew_id": "c1", "reason": "back"})).json()["state"] == "DISPATCHED"
    answer = crew.post(path, json=action("accept", base_version=version))
    assert answer.status_code == 202
    assert answer.json()["result"] == "review"
    assert "was moved by sue" in answer.json()["message"]
    reviews = desk_person.get("/api/reviews").json()
    assert reviews[0]["event"] == "accept"
    assert desk_person.post(f"/api/reviews/{reviews[0]['review_id']}/resolve", json={}).json() == {"status": "resolved"}
    assert desk_person.get("/api/reviews").json() == []
    assert desk_person.post(f"/api/reviews/{reviews[0]['review_id']}/resolve", json={}).status_code == 404


def test_crew_report_on_an_order_that_was_taken_from_it_is_reviewed_and_nothing_else(site: Site) -> None:
    version = site.one("SELECT version FROM work_order WHERE order_type = 'leak_repair'")
    path = f"/api/orders/{site.leak_order_id}"
    crew, desk_person = site.crew(), site.signed_in("sue")
    assert desk_person.post(f"{path}/actions", json=action("assign", body={"crew_id": "c2", "reason": "nearer"})).status_code == 200
    late = crew.post(f"{path}/actions", json=action("accept", base_version=version))
    assert (late.status_code, late.json()["result"]) == (202, "review")
    assert site.one("SELECT crew_id FROM work_order WHERE order_type = 'leak_repair'") == "c2"
    seen = site.one("SELECT version FROM work_order WHERE order_type = 'leak_repair'")
    for event in ("accept", "comment"):
        refused = crew.post(f"{path}/actions", json=action(event, base_version=seen, body={"note": "x"}))
        assert (event, refused.status_code) in {("accept", 422), ("comment", 403)}
    assert error(crew.post(f"{path}/actions", json=action("accept")))["code"] == "not_your_order"
    assert crew.get(path).status_code == 403


def test_value_that_no_column_can_hold_is_a_malformed_request_not_our_fault(site: Site) -> None:
    client = site.signed_in("ada")
    answers = [
        client.get("/api/signals", params={"zone_id": "a\x00b"}),
        client.post(f"/api/alarms/{site.burst_id}/actions", json=action("comment", note="a\x00b")),
        client.post("/api/login", json={"account": "a\x00b", "password": "x"}),
    ]
    assert [(a.status_code, error(a)["code"]) for a in answers] == [(422, "malformed")] * len(answers)


def test_order_detail_has_transitions_reasons_and_who_was_chosen_why(site: Site) -> None:
    detail = site.signed_in("sue").get(f"/api/orders/{site.leak_order_id}").json()
    assert [e["to_state"] for e in detail["events"]][-1] == "DISPATCHED"
    assert detail["assignments"][0]["crew_name"] == "Crew Blue"
    assert "leak_repair" in detail["assignments"][0]["detail"]["sentence"]
    assert detail["order"]["plan"]["signals"][0]["name"] == "zone/z1/inflow"
    assert detail["places"][web_town.BURST_PIPE]["geometry"]["type"] == "LineString"
    assert set(detail["allowed"]) >= {"assign", "cancel", "reschedule"}
    assert site.signed_in("sue").get("/api/orders/99999").status_code == 404


def test_live_events_push_a_change_within_a_moment(site: Site) -> None:
    client = site.signed_in("ada")
    order_id = site.leak_order_id
    timer = threading.Timer(0.6, lambda: (web_town.act(site.conn, order_id, "accept", 5, {}), None)[1])
    stop = threading.Timer(4.0, lambda: client.app.state.web.hub.stop())  # type: ignore[attr-defined]
    timer.start()
    stop.start()
    with client.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        seen = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    timer.join()
    assert seen[0]["resync"] is True
    assert any("orders" in message["topics"] for message in seen[2:])


def test_database_away_is_503_in_the_one_shape() -> None:
    config = WebConfig("postgresql://nobody@127.0.0.1:1/none", SECRET, web_town.StillClock(), demo=True)
    with TestClient(create_app(config), base_url="http://127.0.0.1", client=LOCAL) as client:
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert error(answer)["code"] == "store_unavailable"
        assert answer.headers["retry-after"] == "3"


def test_openapi_describes_every_path_and_the_docs_page_loads_nothing_else(site: Site) -> None:
    client = site.client()
    spec = client.get("/api/openapi.json").json()
    assert {"/api/overview", "/api/orders/{order_id}/actions", "/api/events", "/api/crew"} <= set(spec["paths"])
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path} must say what it does"
    assert "ErrorAnswer" in spec["components"]["schemas"]
    assert client.get("/api/docs").status_code == 200
    assert client.get("/docs").status_code == 404


def test_views_answer_on_every_server(conn: psycopg.Connection[Any]) -> None:
    assert views.site(conn) is None
    assert views.latest_observed_at(conn) is None
    web_town.fill(conn, "verifying")
    now_at = web_town.NOW_AT
    assert {a.state for a in views.alarms(conn)} >= {"UNACK", "ACKED"}
    order = next(o for o in views.orders(conn) if o.order_type == "leak_repair")
    assert order.state == "VERIFYING"
    assert "residual" in order.verification["sentence"]
    assert [e.to_state for e in views.events_of(conn, "order", order.order_id)][-1] == "VERIFYING"
    assert {e.event for e in views.events(conn, moves_only=True) if e.from_state == e.to_state} == set()
    assert views.alarms_of_incident(conn, order.incident_id)[0].alarm_type == "leak.burst"
    assert next(c for c in views.crews(conn, now_at) if c.crew_id == "c2").on_shift
    assert views.latest_observed_at(conn) == now_at - timedelta(minutes=4)
    (few,) = views.series(conn, ["zone/z1/inflow", "no/such/signal"], now_at, 48, points_max=100)
    assert (few.every, len(few.at_ms) <= 100) == (6, True)
    before = views.change_marks(conn)
    desk.act_on_alarm(conn, views.alarms(conn)[0].alarm_id, "ack", "ada", Role.OPERATOR, action_id=uuid4(), now_at=now_at)
    after = views.change_marks(conn)
    assert before["alarms"] != after["alarms"]
    assert before["findings"] == after["findings"]
    assert views.quarantine(conn)[0].sample.startswith('{"at"')
    assert views.findings(conn, zone_id="z1")[0].detector == "zone-inflow"
    assert views.counts(conn).orders_open == 3
    assert {s.service for s in views.services(conn)} == {"ingest", "workorders"}


def test_losses_are_for_readers_and_name_what_is_missing(site: Site) -> None:
    assert site.client(away=True).get("/api/losses").status_code == 401
    client = site.signed_in("ada")
    found = client.get("/api/losses", params={"days": 7}).json()
    assert set(found) == {"first", "after_last", "zones", "repairs"}
    assert all("missing" in zone for zone in found["zones"])
    assert client.get("/api/zones/nowhere/nights").status_code == 404
    assert client.get("/api/losses", params={"days": 9999}).status_code == 422
