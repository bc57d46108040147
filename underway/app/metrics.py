"""What services say of themselves, as metrics: a table of names over plain facts, and the collector that reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

LABEL_VALUES_MAX = 100
LABEL_CHARS_MAX = 100
OTHERS = "(others)"

Facts = Callable[[], Mapping[str, Any]]


class Kind(StrEnum):
    """What a metric is, and what its fact must hold."""

    COUNTER = "counter"
    """A number that only grows until the process begins anew."""
    GAUGE = "gauge"
    """A number, or true and false as 1 and 0; of a list its length."""
    INSTANT = "instant"
    """An instant in ISO 8601, shown as seconds since 1970."""
    STATE = "state"
    """A word: the metric is 1 with the word as its label."""
    HISTOGRAM = "histogram"
    """``bounds``, ``counts`` (one more, not cumulated) and ``sum``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with the unit, and where its fact stands.

    Attributes
    ----------
    name : str
        As Prometheus shows it; a counter ends in ``_total``.
    unit : str
        For people; the name says it too.
    path : str
        Keys joined by dots. A ``*`` stands for every key of a mapping; that key is the value of `label`.
    label : str
        Name of the label, where `path` has a ``*`` or the kind is `Kind.STATE`.
    word : str
        Where not empty: the metric is 1 when the fact is this word, else 0.
    """

    name: str
    kind: Kind
    unit: str
    path: str
    help: str
    label: str = ""
    word: str = ""
    scale: float = 1.0


def table(prefix: str, rows: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return `rows` with names that begin with `prefix`."""
    return tuple(Metric(prefix + row.name, row.kind, row.unit, row.path, row.help, row.label, row.word, row.scale) for row in rows)


_C, _G, _I, _S, _H = Kind.COUNTER, Kind.GAUGE, Kind.INSTANT, Kind.STATE, Kind.HISTOGRAM

INGEST_METRICS: tuple[Metric, ...] = table(
    "underway_ingest_",
    (
        # the path
        Metric("state", _S, "1", "state", "What ingest is doing, as the label.", "state"),
        Metric("messages_total", _C, "messages", "dialects.*.messages", "Messages taken in.", "dialect"),
        Metric("readings_total", _C, "readings", "dialects.*.readings", "Readings in them, duplicates and refused ones too.", "dialect"),
        Metric("stored_readings_total", _C, "readings", "readings", "Readings stored for the first time."),
        Metric("duplicates_total", _C, "readings", "duplicates", "Readings that were stored already: a redelivery, or a device that repeats."),
        Metric("late_readings_total", _C, "readings", "late", "Readings that came after detectors had judged their time; stored, and judged again."),
        Metric("findings_total", _C, "findings", "findings", "New findings."),
        Metric("lag_seconds", _G, "s", "lag_s", "How far the newest observed instant is behind the clock."),
        Metric("newest_observed_timestamp_seconds", _I, "s since 1970", "newest_observed_at", "Newest observed instant."),
        Metric("last_commit_timestamp_seconds", _I, "s since 1970", "last_commit_at", "When a batch was committed last."),
        Metric("batch_messages", _H, "messages", "batch_sizes", "Messages of one transaction."),
        Metric("commit_seconds", _H, "s", "commit_times", "From the first decoding to the end of the commit of one batch."),
        Metric("stage_cpu_seconds_total", _C, "s", "stages.*.cpu_s", "CPU time by stage of the path.", "stage"),
        Metric("stage_wall_seconds_total", _C, "s", "stages.*.wall_s", "Wall time by stage of the path.", "stage"),
        Metric("stage_readings_total", _C, "readings", "stages.*.readings", "Readings that went through a stage.", "stage"),
        # what is held
        Metric("held_messages", _G, "messages", "source.held_count", "Messages received and not yet acknowledged."),
        Metric("held_messages_limit", _G, "messages", "source.held_count_max", "Limit of held messages; at it, reading stops and the broker waits."),
        Metric("held_bytes", _G, "bytes", "source.held_bytes", "Payload bytes received and not yet acknowledged."),
        Metric("held_bytes_limit", _G, "bytes", "source.held_bytes_max", "Limit of held bytes."),
        Metric("full_ratio", _G, "1", "source.full_ratio", "How full the memory for messages is: the larger of both parts of their limits."),
        Metric("queued_messages", _G, "messages", "source.queued", "Messages received that the path has not yet taken up."),
        Metric("paused", _G, "0 or 1", "source.paused", "Whether reading from the broker stands still because memory is full."),
        Metric("pauses_total", _C, "pauses", "source.full", "How often memory was full."),
        # the broker
        Metric("broker_connected", _G, "0 or 1", "source.state", "Whether the connection to the broker stands.", word="connected"),
        Metric("broker_subscribed", _G, "0 or 1", "source.subscribed", "Whether the broker granted a subscription."),
        Metric("broker_refused_filters", _G, "filters", "source.refused", "Topic filters that the broker refused."),
        Metric("broker_reconnects_total", _C, "connections", "source.reconnects", "Connections after the first."),
        Metric("received_messages_total", _C, "messages", "source.received", "Messages that came over the network, redeliveries too."),
        Metric("received_bytes_total", _C, "bytes", "source.bytes_in", "Bytes that came over the network."),
        Metric("acknowledged_messages_total", _C, "messages", "source.acknowledged", "Messages that are done with, after their commit."),
        Metric("oversized_messages_total", _C, "messages", "source.oversized", "Messages above the limit: only their beginning was kept."),
        # what was refused
        Metric("quarantined_total", _C, "faults", "quarantine.*", "Faults that went to quarantine, kept or only counted.", "reason"),
        Metric(
            "quarantine_refused_rows_total", _C, "rows", "quarantine_budget.refused.*",
            "New rows that quarantine did not keep because a share was used up.", "room",
        ),
        Metric("quarantine_sources", _G, "sources", "quarantine_budget.sources", "Sources whose share of quarantine is watched."),
        Metric("poison_messages_total", _C, "messages", "poison", "Messages that neither store nor detectors could take, one by one."),
        # the store and the detectors
        Metric("store_retries_total", _C, "attempts", "retries", "Times the store could not take a batch and it was tried again."),
        Metric("rebuilds_total", _C, "rebuilds", "rebuilds", "Times the detectors were built again from checkpoint and stored readings."),
        Metric("replayed_batches_total", _C, "batches", "replayed_batches", "Stored batches shown to detectors again after a start or a rebuild."),
        Metric("checkpoints_total", _C, "parts", "checkpoints", "Parts of the state of detectors that were written."),
        Metric("reorder_waiting_readings", _G, "readings", "bank.waiting", "Readings that wait in the reorder window for one that is missing."),
        Metric("late_windows", _G, "windows", "late_windows", "Windows of late data that wait to be judged again."),
        # clocks, frames, Sparkplug
        Metric("clock_offset_devices", _G, "devices", "clocks.devices", "Devices whose clock is known to be wrong and is corrected."),
        Metric("clock_offset_max_seconds", _G, "s", "clocks.offset_s_max", "Largest of these offsets, without its sign."),
        Metric("devices", _G, "devices", "devices", "Devices that are registered."),
        Metric("repeated_frames_total", _C, "frames", "repeated_frames", "Frames that a network server delivered again, by their counter."),
        Metric("sparkplug_nodes", _G, "nodes", "sparkplug.nodes", "Sparkplug edge nodes that are remembered."),
        Metric("sparkplug_nodes_online", _G, "nodes", "sparkplug.nodes_online", "Sparkplug edge nodes that are online by their births and deaths."),
        Metric("sparkplug_gaps_total", _C, "gaps", "sparkplug.gaps", "Gaps in the sequence numbers of Sparkplug nodes."),
        Metric("sparkplug_rebirths_total", _C, "requests", "sparkplug.rebirths_asked", "Births that were asked for."),
        Metric("sparkplug_unresolved_total", _C, "messages", "sparkplug.unresolved", "Messages whose birth is not known."),
    ),
)  # fmt: skip


class FactsCollector(Collector):
    """Turns facts into metrics whenever it is asked; a fact that is not there (yet) is no metric.

    Parameters
    ----------
    facts : callable () -> mapping
        Called once a scrape, in the thread that serves it.
    metrics : sequence of Metric
    """

    def __init__(self, facts: Facts, metrics: Sequence[Metric]) -> None:
        self._facts, self._metrics = facts, tuple(metrics)

    def describe(self) -> list[Family]:
        """Return nothing: what there is shows when it is asked for."""
        return []

    def collect(self) -> Iterator[Family]:
        """Yield what the facts say now."""
        facts = self._facts()
        for metric in self._metrics:
            family = family_of(metric, facts)
            if family is not None:
                yield family


def family_of(metric: Metric, facts: Mapping[str, Any]) -> Family | None:
    """Return the samples of one metric, or None when its fact is missing or is not what its kind says.

    Examples
    --------
    >>> family = family_of(Metric("x_seconds", Kind.GAUGE, "s", "a.*.ms", "Help.", "of", scale=0.001), {"a": {"b": {"ms": 250}}})
    >>> [(sample.name, sample.labels, sample.value) for sample in family.samples]
    [('x_seconds', {'of': 'b'}, 0.25)]
    """
    found = _found(facts, metric.path.split("."))
    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, found[0][1]) if found else None
    if metric.kind is Kind.STATE:
        words = [str(value)[:LABEL_CHARS_MAX] for _, value in found if isinstance(value, str) and value]
        return _family(metric, [(word, 1.0) for word in words])
    samples = [(label, number * metric.scale) for label, value in found if (number := _number(metric, value)) is not None]
    return _family(metric, samples)


def _found(facts: Any, keys: Sequence[str], label: str = "") -> list[tuple[str, Any]]:
    """Return what stands at a path, each with the key that a ``*`` stood for."""
    if not keys:
        return [] if facts is None else [(label, facts)]
    if not isinstance(facts, Mapping):
        return []
    if keys[0] == "*":
        # a service adds keys while it is asked: look at one moment
        return [item for key, value in sorted(dict(facts).items()) for item in _found(value, keys[1:], str(key)[:LABEL_CHARS_MAX])]
    return _found(facts.get(keys[0]), keys[1:], label)


def _number(metric: Metric, value: Any) -> float | None:
    if metric.word:
        return float(value == metric.word)
    if metric.kind is Kind.INSTANT:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    if isinstance(value, (list, tuple)):
        return float(len(value))
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def _family(metric: Metric, samples: Sequence[tuple[str, float]]) -> Family | None:
    if not samples:
        return None
    labels = (metric.label,) if metric.label else ()
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        family = CounterMetricFamily(metric.name, metric.help, labels=labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.help, labels=labels)
    rest = samples[LABEL_VALUES_MAX:]
    for value, number in [*samples[:LABEL_VALUES_MAX], *([(OTHERS, sum(number for _, number in rest))] if rest else [])]:
        family.add_metric([value] if labels else [], number)
    return family


def _histogram(metric: Metric, value: Any) -> Family | None:
    if not isinstance(value, Mapping) or len(value.get("counts", ())) != len(value.get("bounds", ())) + 1:
        return None
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip([*value["bounds"], math.inf], value["counts"], strict=True):
        below += count
        buckets.append(("+Inf" if bound == math.inf else repr(float(bound)), below))
    family = HistogramMetricFamily(metric.name, metric.help)
    family.add_metric([], buckets, float(value["sum"]))
    return family
