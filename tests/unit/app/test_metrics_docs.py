"""docs/metrics.md lists every metric as the code has it."""

from __future__ import annotations

import re
from pathlib import Path

from underway.app.metrics import INGEST_METRICS, Kind

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(underway_ingest_\w+)`(?: by `(\w+)`)? \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.M)


def test_metrics_page_lists_each_metric_with_kind_unit_and_meaning() -> None:
    shown = {Kind.COUNTER: "counter", Kind.HISTOGRAM: "histogram"}
    table = [(metric.name, metric.label, shown.get(metric.kind, "gauge"), metric.unit, metric.help) for metric in INGEST_METRICS]
    assert ROW.findall(PAGE) == table


def test_metrics_page_asks_only_for_metrics_that_exist() -> None:
    names = {metric.name for metric in INGEST_METRICS}
    asked = set(re.findall(r"\bunderway_ingest_\w+", PAGE))
    assert {name.removesuffix("_bucket") for name in asked} == names
