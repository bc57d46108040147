"""Put folder, data source and dashboards into an existing Grafana over its HTTP API."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import niquests
from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException, GrafanaUnauthorizedError

from grafana.dashboards import DEFAULT_BASE_URL, FOLDER_TITLE, FOLDER_UID, render
from grafana.look import DATASOURCE_NAME, DATASOURCE_TYPE, DATASOURCE_UID
from underway.model import OperatorError, StoreUnavailable

TIMEOUT_S = 10.0
T = TypeVar("T")


class GrafanaError(OperatorError):
    """Grafana answered, but it cannot be done that way: the token, its rights, or what was asked is wrong.

    Attributes
    ----------
    url : str
        Address of Grafana, without credentials.
    status : int
        HTTP status, 0 when there was none.
    """

    def __init__(self, message: str, url: str, status: int = 0) -> None:
        super().__init__(message)
        self.url, self.status = url, status


class GrafanaUnreachable(StoreUnavailable):
    """Nothing that speaks Grafana's API answered in time."""

    def __init__(self, message: str, url: str) -> None:
        super().__init__(message)
        self.url = url


@dataclass(frozen=True, slots=True)
class PushedDashboard:
    """One dashboard as Grafana has it now."""

    uid: str
    title: str
    url: str
    version: int


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did.

    Attributes
    ----------
    grafana_version : str
        As Grafana reports it.
    folder, datasource : str
        ``created`` or ``present``.
    dashboards : tuple of PushedDashboard
    """

    grafana_version: str
    folder: str
    datasource: str
    dashboards: tuple[PushedDashboard, ...]


def push(
    url: str,
    token: str,
    *,
    database_url: str | None = None,
    datasource_uid: str = DATASOURCE_UID,
    base_url: str = DEFAULT_BASE_URL,
    timescale: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> PushReport:
    """Create or update the dashboards in a Grafana; doing it twice changes nothing more.

    Parameters
    ----------
    url : str
        Address of Grafana, with its sub-path when it has one, for example ``https://grafana.example/ops``.
    token : str
        Service account token with the role Editor, and Admin when the data source is missing.
    database_url : str
        ``postgresql://reader:password@host:5432/database`` as Grafana reaches it; needed only when the data source is missing.
        Use a role that has nothing but ``board_grant``.
    datasource_uid : str
        Data source to use; another uid than the provisioned one must exist already.
    base_url : str
        Where people reach underway's own pages.
    timescale : bool
        Mark a created data source as TimescaleDB.
    timeout_s : float
        Longest wait for one answer, in seconds.

    Raises
    ------
    GrafanaUnreachable
        Nothing answers at `url`, or not in time, or it is no Grafana.
    GrafanaError
        Token or rights are wrong, the data source is missing and cannot be created, or Grafana refuses a dashboard.
    """
    shown = _shown(url)
    api = _api(url, shown, token, timeout_s)
    version = _version(api, shown)
    folder = _ensure_folder(api, shown)
    datasource = _ensure_datasource(api, shown, datasource_uid, database_url, timescale)
    pushed = []
    for dashboard in render(base_url).values():
        body = {"dashboard": _with_datasource(dashboard, datasource_uid), "folderUid": FOLDER_UID, "overwrite": True, "message": "underway"}
        answer = _ask(shown, f"dashboard '{dashboard['uid']}'", partial(api.dashboard.update_dashboard, body))
        pushed.append(PushedDashboard(str(answer["uid"]), dashboard["title"], _join(shown, str(answer["url"])), int(answer["version"])))
    return PushReport(version, folder, datasource, tuple(pushed))


def _api(url: str, shown: str, token: str, timeout_s: float) -> Any:  # the client library has no annotations
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise GrafanaError(f"the address of grafana must look like https://grafana.example:3000, got {shown!r}", shown)
    if not token.strip():
        raise GrafanaError(
            "a service account token of grafana must be given, got ''; create one under Administration, Service accounts", shown
        )
    path = parts.path.strip("/")
    untyped: Any = GrafanaApi
    return untyped(
        token.strip(),
        protocol=parts.scheme,
        host=parts.hostname,
        port=parts.port,
        url_path_prefix=f"{path}/" if path else "",
        timeout=timeout_s,
    )


def _shown(url: str) -> str:
    # what may stand in a message: no user, no password, no query
    parts = urlsplit(url)
    if not parts.hostname:
        return url.rpartition("@")[2]
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/")


def _join(shown: str, path: str) -> str:
    parts = urlsplit(shown)
    return f"{parts.scheme}://{parts.netloc}{path}"


def _ask(url: str, what: str, call: Callable[[], T]) -> T:
    """Return what Grafana answers, or say in one sentence what is wrong and what to do."""
    try:
        return call()
    except GrafanaUnauthorizedError as error:
        raise GrafanaError(
            f"grafana at '{url}' must accept the token, got 401; it is wrong, expired, or of another instance", url, 401
        ) from error
    except GrafanaClientError as error:
        if error.status_code == 403:
            raise GrafanaError(
                f"the token must be allowed to write {what} in grafana at '{url}', got 403; give its service account the role Editor "
                "(Admin for a data source)",
                url,
                403,
            ) from error
        raise GrafanaError(
            f"grafana at '{url}' must take {what}, got {error.status_code}: {_message(error)}", url, error.status_code
        ) from error
    except GrafanaException as error:
        raise GrafanaUnreachable(f"grafana must answer at '{url}', got {error.message or 'no answer'}; is it up?", url) from error
    except niquests.exceptions.RequestException as error:
        raise GrafanaUnreachable(
            f"grafana must answer at '{url}', got {type(error).__name__}; start it, or correct the address", url
        ) from error


def _message(error: GrafanaException) -> str:
    response = error.response
    return str(response["message"]) if isinstance(response, dict) and "message" in response else str(error.message)


def _version(api: Any, url: str) -> str:
    try:
        answer = _ask(url, "the token", lambda: api.client.GET("/frontend/settings"))
    except GrafanaError as error:
        if error.status != 404:
            raise
        answer = None
    build = answer.get("buildInfo") if isinstance(answer, dict) else None
    if not isinstance(build, dict):
        raise GrafanaUnreachable(
            f"grafana must answer at '{url}', got something else; is that the address of grafana, with its sub-path?", url
        )
    return str(build.get("version", "unknown"))


def _missing(url: str, what: str, call: Callable[[], Any]) -> bool:
    try:
        _ask(url, what, call)
    except GrafanaError as error:
        if error.status == 404:
            return True
        raise
    return False


def _ensure_folder(api: Any, url: str) -> str:
    if _missing(url, f"folder '{FOLDER_UID}'", lambda: api.folder.get_folder(FOLDER_UID)):
        _ask(url, f"folder '{FOLDER_UID}'", lambda: api.folder.create_folder(FOLDER_TITLE, FOLDER_UID))
        return "created"
    return "present"


def _ensure_datasource(api: Any, url: str, uid: str, database_url: str | None, timescale: bool) -> str:
    what = f"data source '{uid}'"
    if not _missing(url, what, lambda: api.datasource.get_datasource_by_uid(uid)):
        return "present"
    if uid != DATASOURCE_UID or not database_url:
        raise GrafanaError(
            f"grafana at '{url}' must have a data source '{uid}', got none; pass the database url of a read-only role so that it can be created",
            url,
            404,
        )
    _ask(url, what, lambda: api.datasource.create_datasource(datasource_body(database_url, timescale)))
    return "created"


def datasource_body(database_url: str, timescale: bool = False) -> dict[str, Any]:
    """Return the body that creates the data source.

    Parameters
    ----------
    database_url : str
        ``postgresql://user:password@host:port/database?sslmode=...``; ``sslmode`` defaults to ``require`` off loopback.
    timescale : bool
        Let Grafana group times with ``time_bucket``.

    Raises
    ------
    GrafanaError
        When host, database or user is missing.

    Examples
    --------
    >>> body = datasource_body("postgresql://reader:s3@db.example/underway")
    >>> body["url"], body["user"], body["jsonData"]["sslmode"]
    ('db.example:5432', 'reader', 'require')
    """
    parts = urlsplit(database_url)
    database = parts.path.strip("/")
    if parts.scheme not in ("postgresql", "postgres") or not (parts.hostname and database and parts.username):
        shown = f"{parts.scheme}://{parts.hostname or ''}/{database}"
        raise GrafanaError(f"the database url must look like postgresql://reader:password@host:5432/database, got {shown!r}", shown)
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    sslmode = parse_qs(parts.query).get("sslmode", ["disable" if loopback else "require"])[0]
    return {
        "uid": DATASOURCE_UID,
        "name": DATASOURCE_NAME,
        "type": DATASOURCE_TYPE,
        "access": "proxy",
        "url": f"{parts.hostname}:{parts.port or 5432}",
        "user": unquote(parts.username),
        "jsonData": {
            "database": unquote(database),
            "sslmode": sslmode,
            "postgresVersion": 1500,
            "timescaledb": timescale,
            "maxOpenConns": 8,
            "maxIdleConns": 4,
            "connMaxLifetime": 3600,
        },
        "secureJsonData": {"password": unquote(parts.password or "")},
    }


def _with_datasource(dashboard: Mapping[str, Any], uid: str) -> dict[str, Any]:
    text = json.dumps(dashboard)
    replaced: dict[str, Any] = json.loads(text.replace(f'"uid": "{DATASOURCE_UID}"', f'"uid": "{uid}"'))
    return replaced
