from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models import barchart, common, geomap, stat, table, timeseries, units
from grafana_foundation_sdk.models import dashboard as models

import grafana
from grafana.check import named_columns, queries
from grafana.dashboards import DEFAULT_BASE_URL, INGEST_FILE, OPERATIONS_FILE, dashboard_text, ingest, operations
from grafana.look import ALARM_STATE_TEXT, DATASOURCE_TYPE, DATASOURCE_UID, PRIORITY_COLOR, PROMETHEUS_TYPE, PROMETHEUS_UID
from grafana.panels import MAY_BE_EMPTY, NO_TILE
from underway.model import AlarmState, Priority, Quality, SlaState, VerificationOutcome

PROVISIONING = Path(grafana.__file__).parent / "provisioning"
OPTIONS = {
    "stat": stat.Options,
    "table": table.Options,
    "timeseries": timeseries.Options,
    "barchart": barchart.Options,
    "geomap": geomap.Options,
}
CUSTOM = {"table": common.TableFieldOptions, "timeseries": timeseries.FieldConfig, "barchart": barchart.FieldConfig}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return operations()


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


def test_render_twice_gives_the_same_text() -> None:
    assert dashboard_text(operations()) == dashboard_text(operations())


def test_provisioning_folder_is_what_the_code_renders() -> None:
    for name, text in grafana.render_provisioning().items():
        assert (PROVISIONING / name).read_text(encoding="utf-8") == text, f"{name}: run `underway grafana render`"
    for name, rendered in grafana.render().items():
        assert (PROVISIONING / "dashboards" / name).read_text(encoding="utf-8") == dashboard_text(rendered), (
            f"{name}: run `underway grafana render`"
        )


def test_render_to_writes_files_that_read_back(tmp_path: Path) -> None:
    paths = grafana.render_to(tmp_path / "new" / "folder", base_url="https://underway.example")
    assert [path.name for path in paths] == [OPERATIONS_FILE, INGEST_FILE]
    assert json.loads(paths[0].read_text(encoding="utf-8")) == operations("https://underway.example")


def test_render_base_url_reaches_every_link() -> None:
    text = dashboard_text(operations("https://underway.example"))
    assert "https://underway.example" in text
    assert DEFAULT_BASE_URL not in text


@pytest.mark.parametrize("dashboard", [operations(), ingest()], ids=lambda dashboard: dashboard["uid"])
def test_panels_have_unique_titles_and_say_what_to_do(dashboard: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles)
    for panel in panels(dashboard):
        assert len(panel["description"]) > 80, panel["title"]
        assert panel["description"].endswith((".", "?")), panel["title"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("dashboard", [operations(), ingest()], ids=lambda dashboard: dashboard["uid"])
def test_panels_lie_inside_the_grid_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        assert 0 <= grid["x"] <= grid["x"] + grid["w"] <= 24, panel["title"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_every_query_asks_the_provisioned_data_source(dashboard: dict[str, Any]) -> None:
    source = {"type": DATASOURCE_TYPE, "uid": DATASOURCE_UID}
    for panel in panels(dashboard):
        assert panel["datasource"] == source
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert target["format"] in ("table", "time_series")
            assert target["rawQuery"] is True
    assert all(annotation["datasource"] == source for annotation in dashboard["annotations"]["list"])


def test_every_query_of_a_list_has_a_limit_or_groups_time(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        one_row = not re.search(r"\bGROUP BY\b|\bORDER BY\b", query.sql)
        bounded = "LIMIT" in query.sql or "$__timeGroupAlias" in query.sql or "VALUES" in query.sql
        assert one_row or bounded or query.title in ("Response", "Alarm load"), query.title


def test_queries_change_nothing_and_read_no_secret(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        words = set(re.findall(r"[a-z_]+", query.sql.lower()))
        assert not words & {
            "insert",
            "update",
            "delete",
            "truncate",
            "drop",
            "grant",
            "account",
            "password_hash",
            "notification",
            "phone",
        }, query.title


def test_dashboard_asks_no_other_host(dashboard: dict[str, Any]) -> None:
    hosts = {found for text in texts([dashboard, ingest()]) for found in re.findall(r"https?://[^/\"' ]+", text)}
    assert hosts == {DEFAULT_BASE_URL}
    where = next(panel for panel in panels(dashboard) if panel["type"] == "geomap")
    assert where["options"]["basemap"] == {"type": "xyz", "name": "no tiles", "config": {"url": NO_TILE, "attribution": ""}}


def test_may_be_empty_names_queries_that_exist(dashboard: dict[str, Any]) -> None:
    there = {(query.title, query.ref_id) for query in queries(dashboard)}
    assert set(MAY_BE_EMPTY) <= there


def test_colors_cover_the_words_of_the_model() -> None:
    assert set(PRIORITY_COLOR) == set(Priority)
    assert set(ALARM_STATE_TEXT) == set(AlarmState)
    shown = json.dumps(operations())
    for word in (*SlaState, *VerificationOutcome):
        assert f'"{word}": {{"text"' in shown, word
    rate = next(panel for panel in panels(operations()) if panel["title"] == "Readings per minute")
    assert {o["matcher"]["options"] for o in rate["fieldConfig"]["overrides"]} == {quality.name.lower() for quality in Quality}


@pytest.mark.parametrize("panel", [*panels(operations()), *panels(ingest())], ids=lambda panel: panel["title"])
def test_panel_options_are_known_to_its_plugin(panel: dict[str, Any]) -> None:
    _same_keys(panel["options"], OPTIONS[panel["type"]].from_json(panel["options"]).to_json(), panel["title"])
    custom = panel["fieldConfig"]["defaults"].get("custom") or {}
    known = set(vars(CUSTOM[panel["type"]]())) if panel["type"] in CUSTOM else set()
    for name in [*custom, *(p["id"].removeprefix("custom.") for p in _properties(panel) if p["id"].startswith("custom."))]:
        assert re.sub(r"(?<!^)([A-Z])", lambda m: "_" + m[1].lower(), name) in known, f"{panel['title']}: custom.{name}"


@pytest.mark.parametrize("panel", [*panels(operations()), *panels(ingest())], ids=lambda panel: panel["title"])
def test_panel_reads_back_through_the_schema(panel: dict[str, Any]) -> None:
    read = models.Panel.from_json({key: content for key, content in panel.items() if key != "targets"}).to_json()
    assert set(panel) - set(read) <= {"targets"}
    defaults = {"unit", "decimals", "min", "max", "mappings", "thresholds", "color", "noValue", "links", "displayName"}
    for prop in _properties(panel):
        assert prop["id"].startswith("custom.") or prop["id"] in defaults, f"{panel['title']}: {prop['id']}"


@pytest.mark.parametrize("dashboard", [operations(), ingest()], ids=lambda dashboard: dashboard["uid"])
def test_units_are_known_to_grafana_or_shown_as_they_are(dashboard: dict[str, Any]) -> None:
    known = {text for name, text in vars(units).items() if not name.startswith("_") and isinstance(text, str)}
    used = {panel["fieldConfig"]["defaults"].get("unit") for panel in panels(dashboard)} - {None}
    used |= {prop["value"] for panel in panels(dashboard) for prop in _properties(panel) if prop["id"] == "unit"}
    assert used - known <= {"m3/h"}  # Grafana writes a unit that it does not know behind the number


def _properties(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return [prop for override in panel["fieldConfig"]["overrides"] for prop in override["properties"]]


def _same_keys(given: object, read: object, where: str) -> None:
    if hasattr(read, "to_json"):
        read = read.to_json()
    if isinstance(given, dict) and isinstance(read, dict):
        for key, content in given.items():
            assert key in read, f"{where}: {key}"
            _same_keys(content, read[key], f"{where}.{key}")
    elif isinstance(given, list) and isinstance(read, list):
        for n, (one, other) in enumerate(zip(given, read, strict=True)):
            _same_keys(one, other, f"{where}[{n}]")


def test_named_columns_of_the_map_go_to_the_layer_that_reads_them(dashboard: dict[str, Any]) -> None:
    where = next(panel for panel in panels(dashboard) if panel["type"] == "geomap")
    assert named_columns(where, "edges") == ("rank", "source", "target")
    assert named_columns(where, "nodes") == ("id", "latitude", "longitude")
    assert named_columns(where, "alarms") == ("latitude", "longitude", "rank", "what")


def test_named_columns_of_a_band_include_its_lower_edge(dashboard: dict[str, Any]) -> None:
    inflow = next(panel for panel in panels(dashboard) if panel["title"] == "Inflow, $zone")
    assert named_columns(inflow, "A") == ("band high", "band low", "expected", "observed", "outside")
    assert inflow["repeat"] == "zone"


def test_provisioned_data_source_takes_its_secret_from_the_environment() -> None:
    source, metrics = yaml.safe_load(grafana.render_provisioning()["datasources/underway.yaml"])["datasources"]
    assert (metrics["uid"], metrics["type"], metrics["editable"]) == (PROMETHEUS_UID, PROMETHEUS_TYPE, False)
    assert metrics["url"] == "$UNDERWAY_GRAFANA_PROMETHEUS_URL"
    assert source["uid"] == DATASOURCE_UID
    assert source["type"] == DATASOURCE_TYPE
    assert source["secureJsonData"] == {"password": "$UNDERWAY_GRAFANA_DB_PASSWORD"}
    assert source["editable"] is False


def test_provisioned_dashboards_cannot_be_changed_in_the_browser() -> None:
    provider = yaml.safe_load(grafana.render_provisioning()["dashboards/underway.yaml"])["providers"][0]
    assert provider["allowUiUpdates"] is False
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"
