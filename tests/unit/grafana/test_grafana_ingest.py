"""The ingest dashboard: its queries name metrics that ingest has, its words commands and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from grafana.check import queries
from grafana.dashboards import INGEST_UID, OPERATIONS_UID, ingest, operations
from grafana.look import PROMETHEUS_TYPE, PROMETHEUS_UID
from underway.app.cli import app
from underway.app.metrics import INGEST_METRICS, Kind, Metric
from underway.app.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
PANELS: list[dict[str, Any]] = [panel for panel in ingest()["panels"] if panel["type"] != "row"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]
NAMES: dict[str, Metric] = {
    name: metric
    for metric in INGEST_METRICS
    for name in ([f"{metric.name}_{part}" for part in ("bucket", "count", "sum")] if metric.kind is Kind.HISTOGRAM else [metric.name])
}
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


@pytest.mark.parametrize(("panel", "target"), TARGETS, ids=[f"{panel['title']} {target['refId']}" for panel, target in TARGETS])
def test_query_names_metrics_that_ingest_has_and_asks_the_right_way(panel: dict[str, Any], target: dict[str, Any]) -> None:
    assert target["datasource"] == {"type": PROMETHEUS_TYPE, "uid": "${prometheus}"}
    expr = target["expr"]
    named = set(re.findall(r"\b(?:underway|process)_\w+", expr))
    assert named
    assert named <= set(NAMES) | PROCESS
    for name in named - PROCESS:
        counts = NAMES[name].kind in (Kind.COUNTER, Kind.HISTOGRAM)
        assert bool(re.search(rf"\b(?:rate|increase)\({name}\[\$__rate_interval\]\)", expr)) == counts, expr
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert label in {NAMES[name].label for name in named}
        assert f"by ({label})" in expr


def test_every_query_of_a_panel_has_its_own_reference() -> None:
    for panel in PANELS:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]


def test_overrides_name_series_that_the_queries_give() -> None:
    for panel in PANELS:
        words = {"source_spent", "all_spent"} | {target["legendFormat"] for target in panel["targets"]}
        assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= words, panel["title"]


def test_limits_are_drawn_where_something_fills_up() -> None:
    for title in ("Messages held", "Payload held"):
        panel = next(panel for panel in PANELS if panel["title"] == title)
        assert panel["targets"][-1]["legendFormat"] == "limit"
        assert panel["targets"][-1]["expr"].endswith("_limit)")
    full = next(panel for panel in PANELS if panel["title"] == "Memory for messages")
    assert [step["value"] for step in full["fieldConfig"]["defaults"]["thresholds"]["steps"]] == [None, 0.8, 1.0]


def test_descriptions_name_pages_settings_and_commands_that_exist() -> None:
    text = " ".join(panel["description"] for panel in PANELS)
    pages = set(re.findall(r"docs/[\w/.-]+\.md", text))
    assert len(pages) >= 2
    for page in pages:
        assert (ROOT / page).exists(), page
    for variable in re.findall(r"UNDERWAY_(\w+)", text):
        assert variable.lower() in Settings.model_fields
    root: Any = typer.main.get_command(app)
    for words in re.findall(r"'underway ([a-z ]+?)(?: --\w+)?'", text):
        group = root
        for word in words.split():
            group = group.commands[word]


def test_dashboards_lead_to_each_other() -> None:
    for dashboard, other in ((operations(), INGEST_UID), (ingest(), OPERATIONS_UID)):
        assert f"/d/{other}" in [link["url"] for link in dashboard["links"]]


def test_variable_chooses_among_the_prometheus_sources_and_begins_with_ours() -> None:
    (variable,) = ingest()["templating"]["list"]
    assert (variable["type"], variable["query"], variable["current"]["value"]) == ("datasource", PROMETHEUS_TYPE, PROMETHEUS_UID)


def test_check_of_sql_leaves_the_ingest_dashboard_alone() -> None:
    assert list(queries(ingest())) == []
