"""The push against a real HTTP server on loopback that keeps state and checks what Grafana checks."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from grafana import GrafanaError, GrafanaUnreachable, push, render
from grafana.look import DATASOURCE_TYPE, DATASOURCE_UID

pytestmark = pytest.mark.integration

ADMIN, EDITOR, VIEWER = "glsa_admin", "glsa_editor", "glsa_viewer"
DATABASE_URL = "postgresql://reader:s%40cret@db.example:5433/underway?sslmode=verify-full"
UID = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass
class GrafanaState:
    """What this Grafana holds."""

    prefix: str = ""
    folders: dict[str, str] = field(default_factory=dict)
    datasources: dict[str, dict[str, Any]] = field(default_factory=dict)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    html: bool = False


class Handler(BaseHTTPRequestHandler):
    """The handful of endpoints of Grafana's HTTP API that a push uses, with its status codes and checks."""

    protocol_version = "HTTP/1.1"
    state: GrafanaState

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any] | None) -> None:
        status, content = self._route(body)
        payload = b"<html>hello</html>" if self.state.html else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if self.state.html else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _route(self, body: dict[str, Any] | None) -> tuple[int, object]:
        if not self.path.startswith(f"{self.state.prefix}/api/"):
            return 404, {"message": "Not found"}
        path = self.path.removeprefix(f"{self.state.prefix}/api")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (ADMIN, EDITOR, VIEWER):
            return 401, {"message": "Invalid API key"}
        if body is None:
            return self._read(path)
        if token == VIEWER or (path == "/datasources" and token != ADMIN):
            return 403, {"message": "You'll need additional permissions to perform this action"}
        self.state.writes.append(path)
        return self._write(path, body)

    def _read(self, path: str) -> tuple[int, object]:
        if path == "/frontend/settings":
            return 200, {"buildInfo": {"version": "12.2.0", "edition": "Open Source"}}
        kind, _, uid = path.strip("/").rpartition("/")
        if kind == "folders" and uid in self.state.folders:
            return 200, {"uid": uid, "title": self.state.folders[uid]}
        if kind == "datasources/uid" and uid in self.state.datasources:
            return 200, {key: value for key, value in self.state.datasources[uid].items() if key != "secureJsonData"}
        return 404, {"message": f"{kind} not found"}

    def _write(self, path: str, body: dict[str, Any]) -> tuple[int, object]:
        if path == "/folders":
            self.state.folders[body["uid"]] = body["title"]
            return 200, body
        if path == "/datasources":
            if any(source["name"] == body["name"] for source in self.state.datasources.values()):
                return 409, {"message": "data source with the same name already exists"}
            self.state.datasources[body["uid"]] = body
            return 200, {"message": "Datasource added", "datasource": body}
        if path == "/dashboards/db":
            return self._save_dashboard(body)
        return 404, {"message": "Not found"}

    def _save_dashboard(self, body: dict[str, Any]) -> tuple[int, object]:
        dashboard = body["dashboard"]
        problem = dashboard_problem(dashboard, set(self.state.datasources))
        if problem:
            return 400, {"message": problem}
        if body["folderUid"] not in self.state.folders:
            return 404, {"message": "folder not found"}
        before = self.state.dashboards.get(dashboard["uid"])
        if before and not body.get("overwrite"):
            return 412, {"message": "The dashboard has been changed by someone else"}
        version = before["version"] + 1 if before and before["body"] != dashboard else before["version"] if before else 1
        self.state.dashboards[dashboard["uid"]] = {"version": version, "body": dashboard, "folder": body["folderUid"]}
        return 200, {"uid": dashboard["uid"], "version": version, "status": "success", "url": f"{self.state.prefix}/d/{dashboard['uid']}/x"}


def dashboard_problem(dashboard: dict[str, Any], datasources: set[str]) -> str:
    """Return why Grafana would refuse or silently mangle a dashboard, empty when it would not."""
    if not UID.fullmatch(dashboard.get("uid", "")):
        return "uid contains illegal characters or is too long"
    if not dashboard.get("title") or dashboard.get("id") is not None:
        return "a pushed dashboard needs a title and must not carry an id"
    if not isinstance(dashboard.get("schemaVersion"), int) or dashboard["schemaVersion"] < 36:
        return "schemaVersion is missing or too old"
    ids = [panel.get("id") for panel in dashboard["panels"]]
    if len(set(ids)) != len(ids) or not all(isinstance(one, int) and one > 0 for one in ids):
        return "panel ids must be different positive integers"
    variables = {f"${{{variable['name']}}}" for variable in dashboard["templating"]["list"] if variable["type"] == "datasource"}
    for panel in dashboard["panels"]:
        if not {"type", "title", "gridPos"} <= set(panel):
            return "panel without type, title or gridPos"
        for target in panel.get("targets") or []:
            uid = target["datasource"]["uid"]
            if uid not in datasources and uid not in variables:
                return f"data source {target['datasource']['uid']} was not found"
    return ""


@dataclass
class Server:
    """A running server."""

    url: str
    state: GrafanaState


@pytest.fixture
def grafana_server() -> Iterator[Server]:
    state = GrafanaState()
    handler = type("BoundHandler", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", state)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_push_to_an_empty_grafana_creates_folder_data_source_and_dashboard(grafana_server: Server) -> None:
    report = push(grafana_server.url, ADMIN, database_url=DATABASE_URL, base_url="https://underway.example", timescale=True)
    assert (report.grafana_version, report.folder, report.datasource) == ("12.2.0", "created", "created")
    assert [(d.uid, d.version, d.url) for d in report.dashboards] == [
        (uid, 1, f"{grafana_server.url}/d/{uid}/x") for uid in ("underway-operations", "underway-ingest")
    ]
    source = grafana_server.state.datasources[DATASOURCE_UID]
    assert (source["type"], source["url"], source["user"]) == (DATASOURCE_TYPE, "db.example:5433", "reader")
    assert source["secureJsonData"] == {"password": "s@cret"}
    assert source["jsonData"] | {"database": "underway", "sslmode": "verify-full", "timescaledb": True} == source["jsonData"]
    stored = grafana_server.state.dashboards["underway-operations"]
    assert stored["folder"] == "underway"
    assert stored["body"] == render("https://underway.example")["underway-operations.json"]


def test_push_twice_changes_nothing_more(grafana_server: Server) -> None:
    push(grafana_server.url, ADMIN, database_url=DATABASE_URL)
    report = push(grafana_server.url, EDITOR)
    assert (report.folder, report.datasource, report.dashboards[0].version) == ("present", "present", 1)
    assert grafana_server.state.writes == ["/folders", "/datasources", *["/dashboards/db"] * 4]


def test_push_below_a_sub_path_finds_the_api(grafana_server: Server) -> None:
    grafana_server.state.prefix = "/ops/grafana"
    report = push(f"{grafana_server.url}/ops/grafana/", ADMIN, database_url=DATABASE_URL)
    assert report.dashboards[0].url == f"{grafana_server.url}/ops/grafana/d/underway-operations/x"


def test_push_with_another_data_source_uses_it_everywhere(grafana_server: Server) -> None:
    grafana_server.state.datasources["our-timescale"] = {"uid": "our-timescale", "name": "ours"}
    push(grafana_server.url, EDITOR, datasource_uid="our-timescale")
    text = json.dumps(grafana_server.state.dashboards["underway-operations"]["body"])
    assert DATASOURCE_UID not in text
    assert text.count('"uid": "our-timescale"') > 30


@pytest.mark.parametrize(
    ("token", "database_url", "status", "message"),
    [
        pytest.param(
            "glsa_wrong",
            DATABASE_URL,
            401,
            "grafana at '{url}' must accept the token, got 401; it is wrong, expired, or of another instance",
            id="wrong token",
        ),
        pytest.param(
            VIEWER,
            DATABASE_URL,
            403,
            "the token must be allowed to write folder 'underway' in grafana at '{url}', got 403; "
            "give its service account the role Editor (Admin for a data source)",
            id="viewer",
        ),
        pytest.param(
            EDITOR,
            DATABASE_URL,
            403,
            "the token must be allowed to write data source 'underway-postgres' in grafana at '{url}', got 403; "
            "give its service account the role Editor (Admin for a data source)",
            id="editor and a missing data source",
        ),
        pytest.param(
            ADMIN,
            "",
            404,
            "grafana at '{url}' must have a data source 'underway-postgres', got none; "
            "pass the database url of a read-only role so that it can be created",
            id="no database url",
        ),
        pytest.param(
            ADMIN,
            "postgresql://db.example",
            0,
            "the database url must look like postgresql://reader:password@host:5432/database, got 'postgresql://db.example/'",
            id="incomplete database url",
        ),
        pytest.param(
            " ",
            DATABASE_URL,
            0,
            "a service account token of grafana must be given, got ''; create one under Administration, Service accounts",
            id="no token",
        ),
    ],
)
def test_push_that_grafana_refuses_says_what_to_do(
    grafana_server: Server, token: str, database_url: str, status: int, message: str
) -> None:
    with pytest.raises(GrafanaError) as caught:
        push(grafana_server.url, token, database_url=database_url)
    assert str(caught.value) == message.format(url=grafana_server.url)
    assert caught.value.status == status
    assert "glsa" not in str(caught.value)


def test_push_of_a_dashboard_that_grafana_refuses_quotes_it(grafana_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["grafana.push"], "render", lambda base_url: {"x.json": {"uid": "no such uid!", "title": "x", "panels": []}}
    )
    with pytest.raises(GrafanaError) as caught:
        push(grafana_server.url, ADMIN, database_url=DATABASE_URL)
    assert str(caught.value) == (
        f"grafana at '{grafana_server.url}' must take dashboard 'no such uid!', got 400: uid contains illegal characters or is too long"
    )


def test_push_with_a_data_source_that_is_not_there_never_creates_it(grafana_server: Server) -> None:
    with pytest.raises(GrafanaError, match=r"^grafana at '.*' must have a data source 'missing', got none"):
        push(grafana_server.url, ADMIN, datasource_uid="missing", database_url=DATABASE_URL)
    assert grafana_server.state.datasources == {}


def test_push_where_nothing_listens_says_so() -> None:
    with pytest.raises(
        GrafanaUnreachable, match=r"^grafana must answer at 'http://127\.0\.0\.1:9', got ConnectionError; start it, or correct the address$"
    ):
        push("http://127.0.0.1:9", ADMIN, timeout_s=2)


@pytest.mark.parametrize("sub_path", ["", "/wrong"])
def test_push_to_something_that_is_no_grafana_says_so(grafana_server: Server, sub_path: str) -> None:
    grafana_server.state.html = not sub_path
    with pytest.raises(
        GrafanaUnreachable, match=r"^grafana must answer at '.*', got something else; is that the address of grafana, with its sub-path\?$"
    ):
        push(grafana_server.url + sub_path, ADMIN)


@pytest.mark.parametrize("url", ["grafana.example:3000", "ftp://grafana.example", "http://"])
def test_push_to_a_bad_address_says_how_it_must_look(url: str) -> None:
    with pytest.raises(GrafanaError, match=r"^the address of grafana must look like https://grafana\.example:3000, got '"):
        push(url, ADMIN)


def test_push_error_holds_no_credentials_of_the_address() -> None:
    with pytest.raises(GrafanaUnreachable) as caught:
        push("http://admin:hunter2@127.0.0.1:9/x?token=hunter3", ADMIN, timeout_s=2)
    assert "hunter" not in str(caught.value)
    assert caught.value.url == "http://127.0.0.1:9/x"
