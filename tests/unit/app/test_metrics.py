"""Metrics over plain facts: every row of the table, and what a fact that is missing or odd does."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from underway.app.metrics import INGEST_METRICS, LABEL_VALUES_MAX, OTHERS, FactsCollector, Kind, Metric, family_of
from underway.app.metrics_http import TURN_S_MAX, Health, health


def facts_with(metric: Metric, value: Any) -> dict[str, Any]:
    """Return facts that hold `value` at the path of a metric."""
    for key in reversed([key.replace("*", "some") for key in metric.path.split(".")]):
        value = {key: value}
    assert isinstance(value, dict)
    return value


SAID: dict[Kind, tuple[Any, float]] = {
    Kind.COUNTER: (7, 7.0),
    Kind.GAUGE: (0.5, 0.5),
    Kind.INSTANT: ("1970-01-01T00:01:00+00:00", 60.0),
    Kind.STATE: ("running", 1.0),
    Kind.HISTOGRAM: ({"bounds": [1.0], "counts": [2, 1], "sum": 9.0}, 2.0),
}


@pytest.mark.parametrize("metric", INGEST_METRICS, ids=lambda metric: metric.name)
def test_metric_of_the_table_shows_its_fact_in_the_text_that_prometheus_reads(metric: Metric) -> None:
    said, shown = SAID[metric.kind]
    if metric.word:
        said, shown = metric.word, 1.0
    registry = CollectorRegistry()
    registry.register(FactsCollector(lambda: facts_with(metric, said), INGEST_METRICS))
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    family = families[metric.name.removesuffix("_total")]
    sample = family.samples[0]
    assert sample.value == shown
    assert set(sample.labels) == ({metric.label} if metric.label else {"le"} if metric.kind is Kind.HISTOGRAM else set())
    assert family.documentation == metric.help


def test_table_keeps_the_conventions_of_names() -> None:
    assert len({metric.name for metric in INGEST_METRICS}) == len(INGEST_METRICS)
    for metric in INGEST_METRICS:
        assert re.fullmatch(r"underway_ingest_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert ("*" in metric.path or metric.kind is Kind.STATE) == bool(metric.label), metric.name
        assert (metric.unit in ("s", "s since 1970")) == ("seconds" in metric.name), metric.name
        assert metric.help.endswith(".")


@pytest.mark.parametrize("value", [None, "words", math.nan, math.inf, {}, {"bounds": [1], "counts": [1]}], ids=repr)
def test_family_of_a_fact_that_does_not_fit_is_nothing(value: Any) -> None:
    for kind in (Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM):
        assert family_of(Metric("x_total", kind, "1", "a.b", "Help."), {"a": {"b": value}}) is None
    assert family_of(Metric("x_total", Kind.COUNTER, "1", "a.b", "Help."), {"a": 3}) is None


def test_family_of_truth_list_and_word_are_numbers() -> None:
    gauge = Metric("x", Kind.GAUGE, "1", "a", "Help.")
    values = [family_of(gauge, {"a": value}) for value in (True, False, ["b", "c"], [])]
    assert [family.samples[0].value for family in values if family is not None] == [1.0, 0.0, 2.0, 0.0]
    connected = Metric("x", Kind.GAUGE, "1", "a", "Help.", word="connected")
    words = [family_of(connected, {"a": value}) for value in ("connected", "disconnected")]
    assert [family.samples[0].value for family in words if family is not None] == [1.0, 0.0]


def test_family_of_histogram_cumulates_and_ends_in_infinity() -> None:
    family = family_of(Metric("x_seconds", Kind.HISTOGRAM, "s", "h", "Help."), {"h": {"bounds": [0.1, 1], "counts": [3, 2, 1], "sum": 4.5}})
    assert family is not None
    assert [(s.name, s.labels.get("le"), s.value) for s in family.samples] == [
        ("x_seconds_bucket", "0.1", 3),
        ("x_seconds_bucket", "1.0", 5),
        ("x_seconds_bucket", "+Inf", 6),
        ("x_seconds_count", None, 6),
        ("x_seconds_sum", None, 4.5),
    ]


def test_family_of_many_labels_adds_up_the_rest() -> None:
    many = {f"d{number:04d}": 1 for number in range(LABEL_VALUES_MAX + 50)}
    family = family_of(Metric("x_total", Kind.COUNTER, "1", "a.*", "Help.", "d"), {"a": many})
    assert family is not None
    assert len(family.samples) == LABEL_VALUES_MAX + 1
    assert (family.samples[-1].labels, family.samples[-1].value) == ({"d": OTHERS}, 50.0)


def test_health_waiting_is_well_with_the_reason_and_hanging_is_not() -> None:
    assert health({"state": "running", "turn_age_s": 0.1, "store_error": "an old one"}) == Health(True, "running")
    assert health({"state": "store away", "store_error": "cannot connect now"}) == Health(True, "store away: cannot connect now")
    assert health({}) == Health(True, "unknown")
    assert health({"state": "replaying", "turn_age_s": TURN_S_MAX}).well
    assert health({"state": "running", "turn_age_s": 75.2}) == Health(
        False, "hangs: the loop must come round within 60 s, it has not for 75 s (running)"
    )
