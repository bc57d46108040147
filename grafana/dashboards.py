"""The dashboards as code, and the files that provision it into a Grafana."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from grafana import ingest_panels, loss_panels, panels
from grafana.look import (
    DATASOURCE_NAME,
    DATASOURCE_TYPE,
    DATASOURCE_UID,
    PROMETHEUS_NAME,
    PROMETHEUS_TYPE,
    PROMETHEUS_UID,
    PROMETHEUS_VARIABLE,
    SqlQuery,
    datasource,
)

OPERATIONS_FILE = "underway-operations.json"
OPERATIONS_UID = "underway-operations"
INGEST_FILE = "underway-ingest.json"
INGEST_UID = "underway-ingest"
SCRAPE_INTERVAL = "5s"
"""How often our Prometheus asks; a rate wants four of these, which Grafana takes care of."""
FOLDER_TITLE = "underway"
FOLDER_UID = "underway"
DEFAULT_BASE_URL = "http://127.0.0.1:8080"

Row = tuple[str, Sequence[Builder[models.Panel]]]


def _rows(base_url: str) -> list[Row]:
    return [
        (
            "",
            [
                panels.alarms_now(),
                panels.orders_now(),
                panels.clocks_now(),
                panels.data_now(),
                panels.town_map(),
                panels.alarm_list(base_url),
            ],
        ),
        ("Work", [panels.order_list(base_url), panels.sla_list(), panels.event_feed()]),
        ("Zones", [panels.zone_inflow()]),
        ("Pressure and night flow", [panels.pressure_residuals(), panels.pressure_now(), panels.night_flow()]),
        ("Losses", [loss_panels.zone_losses(), loss_panels.repairs_gave_back()]),
        ("Roads, bridges, drains and what detectors say", [panels.road_deviations(), panels.finding_list()]),
        (
            "How well the alarms serve",
            [panels.response_times(), panels.alarm_quality(), panels.alarm_rate(), panels.alarm_sources(), panels.priority_mix()],
        ),
        (
            "Data",
            [
                panels.reading_rate(),
                panels.lag(),
                panels.batches(),
                panels.completeness(),
                panels.quarantine(),
                panels.services(),
                panels.devices_in_trouble(),
            ],
        ),
    ]


def _ingest_rows() -> list[Row]:
    return [
        ("", [ingest_panels.state_now(), ingest_panels.broker_now(), ingest_panels.full_now(), ingest_panels.lag_now()]),
        ("How much, how late", [ingest_panels.messages(), ingest_panels.readings(), ingest_panels.lag()]),
        ("Batches", [ingest_panels.commits(), ingest_panels.batch_sizes(), ingest_panels.stages()]),
        ("What is held", [ingest_panels.held_messages(), ingest_panels.held_bytes(), ingest_panels.broker()]),
        ("What is refused", [ingest_panels.quarantined(), ingest_panels.not_kept(), ingest_panels.troubles()]),
        ("Order and clocks", [ingest_panels.late(), ingest_panels.waiting(), ingest_panels.clocks()]),
        ("Sparkplug and the process", [ingest_panels.sparkplug(), ingest_panels.memory(), ingest_panels.cpu()]),
    ]


def _zone_variable() -> builders.QueryVariable:
    return (
        builders.QueryVariable("zone")
        .label("Zone")
        .description("District metered areas to show")
        .datasource(datasource())
        .query(panels.zone_options())
        .refresh(models.VariableRefresh.ON_DASHBOARD_LOAD)
        .sort(models.VariableSort.DISABLED)
        .multi(True)
        .include_all(True)
        .allow_custom_value(False)
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _band_variable() -> builders.CustomVariable:
    choices = ["2", "3", "4"]
    return (
        builders.CustomVariable("band")
        .label("Band, sigma")
        .description("Width of the expected band in standard deviations")
        .values(",".join(choices))
        .allow_custom_value(False)
        .options([models.VariableOption(selected=choice == "3", text=choice, value=choice) for choice in choices])
        .current(models.VariableOption(selected=True, text="3", value="3"))
    )


def operations(base_url: str = DEFAULT_BASE_URL) -> dict[str, Any]:
    """Return the operations dashboard as Grafana stores it.

    Parameters
    ----------
    base_url : str
        Where people reach underway's own pages; links lead there.

    Returns
    -------
    dict
        Dashboard JSON (schema of Grafana 11, read by 11 and later), the same for the same arguments.
    """
    board = (
        builders.Dashboard("underway operations")
        .uid(OPERATIONS_UID)
        .description("What is wrong, where, since when, who is on it, and whether the repair holds. Colour means: a person is needed.")
        .tags(["underway", "operations"])
        .editable()
        .timezone("browser")
        .time("now-24h", "now")
        .refresh("5s")
        .timepicker(builders.TimePicker().refresh_intervals(["5s", "10s", "30s", "1m", "5m"]))
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(builders.DashboardLink("underway").type(models.DashboardLinkType.LINK).url(base_url).icon("external link").target_blank(True))
        .link(_dashboard_link("ingest", INGEST_UID))
        .with_variable(_zone_variable())
        .with_variable(_band_variable())
    )
    encoded = _encoded(board, _rows(base_url))
    encoded["annotations"] = {"list": json.loads(json.dumps(_annotations(), cls=JSONEncoder))}
    return encoded


def ingest(base_url: str = DEFAULT_BASE_URL) -> dict[str, Any]:
    """Return the dashboard of ingest, which reads Prometheus, as Grafana stores it.

    Parameters
    ----------
    base_url : str
        Where people reach underway's own pages.
    """
    board = (
        builders.Dashboard("underway ingest")
        .uid(INGEST_UID)
        .description("Whether messages come in, how fast, how full, and what is refused. Colour means: a person is needed.")
        .tags(["underway", "ingest"])
        .editable()
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("10s")
        .timepicker(builders.TimePicker().refresh_intervals(["5s", "10s", "30s", "1m", "5m"]))
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(builders.DashboardLink("underway").type(models.DashboardLinkType.LINK).url(base_url).icon("external link").target_blank(True))
        .link(_dashboard_link("operations", OPERATIONS_UID))
        .with_variable(_prometheus_variable())
    )
    return _encoded(board, _ingest_rows())


def _encoded(board: builders.Dashboard, rows: Sequence[Row]) -> dict[str, Any]:
    """Return a dashboard with its rows of panels as plain values; panels are numbered from 1."""
    for title, members in rows:
        if title:
            board = board.with_row(builders.Row(title))
        for member in members:
            board = board.with_panel(member)
    encoded: dict[str, Any] = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    encoded["annotations"] = {"list": []}
    for number, panel in enumerate(encoded["panels"], start=1):
        panel["id"] = number
    return encoded


def _dashboard_link(title: str, uid: str) -> builders.DashboardLink:
    return builders.DashboardLink(title).type(models.DashboardLinkType.LINK).url(f"/d/{uid}").icon("dashboard").keep_time(True)


def _prometheus_variable() -> builders.DatasourceVariable:
    return (
        builders.DatasourceVariable(PROMETHEUS_VARIABLE)
        .label("Metrics")
        .description("Prometheus that asks ingest for its metrics")
        .type(PROMETHEUS_TYPE)
        .multi(False)
        .include_all(False)
        .current(models.VariableOption(selected=True, text=PROMETHEUS_NAME, value=PROMETHEUS_UID))
    )


def _annotations() -> list[dict[str, Any]]:
    # the builder library knows only the tag query of Grafana's own annotations, not a data source's
    return [
        {
            "name": name,
            "enable": True,
            "iconColor": color,
            "datasource": {"type": DATASOURCE_TYPE, "uid": DATASOURCE_UID},
            "target": SqlQuery("Anno", sql.strip(), "table"),
        }
        for name, (color, sql) in panels.ANNOTATIONS.items()
    ]


def render(base_url: str = DEFAULT_BASE_URL) -> dict[str, dict[str, Any]]:
    """Return every dashboard: file name -> dashboard JSON."""
    return {OPERATIONS_FILE: operations(base_url), INGEST_FILE: ingest(base_url)}


def render_provisioning() -> dict[str, str]:
    """Return the provisioning files of Grafana: path below ``provisioning/`` -> YAML text.

    Notes
    -----
    The data source takes address, database, user and password from the environment of the Grafana process
    (``UNDERWAY_GRAFANA_DB_*``); the user should be a role that has only ``board_grant``. The address of Prometheus comes from
    ``UNDERWAY_GRAFANA_PROMETHEUS_URL``.
    """
    return {
        "datasources/underway.yaml": f"""apiVersion: 1
prune: true
datasources:
  - name: {DATASOURCE_NAME}
    uid: {DATASOURCE_UID}
    type: {DATASOURCE_TYPE}
    access: proxy
    isDefault: true
    editable: false
    url: $UNDERWAY_GRAFANA_DB_HOST
    user: $UNDERWAY_GRAFANA_DB_USER
    jsonData:
      database: $UNDERWAY_GRAFANA_DB_NAME
      sslmode: $UNDERWAY_GRAFANA_DB_SSLMODE
      postgresVersion: 1500
      timescaledb: true
      maxOpenConns: 8
      maxIdleConns: 4
      connMaxLifetime: 3600
    secureJsonData:
      password: $UNDERWAY_GRAFANA_DB_PASSWORD
  - name: {PROMETHEUS_NAME}
    uid: {PROMETHEUS_UID}
    type: {PROMETHEUS_TYPE}
    access: proxy
    editable: false
    url: $UNDERWAY_GRAFANA_PROMETHEUS_URL
    jsonData:
      httpMethod: POST
      timeInterval: {SCRAPE_INTERVAL}
""",
        "dashboards/underway.yaml": f"""apiVersion: 1
providers:
  - name: underway
    orgId: 1
    folder: {FOLDER_TITLE}
    folderUid: {FOLDER_UID}
    type: file
    disableDeletion: true
    allowUiUpdates: false
    updateIntervalSeconds: 30
    options:
      path: /etc/grafana/provisioning/dashboards
""",
    }


def dashboard_text(dashboard: dict[str, Any]) -> str:
    """Return dashboard JSON as text, stable for a version control system."""
    return json.dumps(dashboard, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def render_to(folder: Path | str, base_url: str = DEFAULT_BASE_URL) -> list[Path]:
    """Write the dashboards' JSON files into `folder` and return their paths.

    The folder is created when it is missing; files of the same name are replaced, others are left alone.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, dashboard in render(base_url).items():
        path = target / name
        path.write_text(dashboard_text(dashboard), encoding="utf-8")
        written.append(path)
    return written


def render_provisioning_to(folder: Path | str, base_url: str = DEFAULT_BASE_URL) -> list[Path]:
    """Write a whole provisioning folder (data source, provider, dashboards) and return the paths."""
    root = Path(folder)
    written = []
    for name, text in render_provisioning().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written + render_to(root / "dashboards", base_url)
