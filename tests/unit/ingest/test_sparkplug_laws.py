"""Whatever edge nodes say, in whatever order: the Sparkplug host never raises, keeps its limits, and a restart changes nothing."""

from __future__ import annotations

import math
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sparkplug_builder import AT_MS, DOUBLE, INT16, device_birth, metric, node_birth, node_death, payload

from ingest.decoded import FAULTS_MAX
from ingest.dialects.sparkplug import decode
from ingest.sparkplug_host import BIRTH_GRACE_S, STRANGERS_MAX, SparkplugHost
from ingest.sparkplug_order import Order
from underway.model import SECOND_US

AT_US = AT_MS * 1000
NODES_MAX, METRICS_MAX, REBIRTHS_PER_S_MAX = 3, 12, 2

SEQS = st.none() | st.integers(0, 5) | st.sampled_from([127, 128, 254, 255, 256])
BD_SEQS = st.none() | st.integers(0, 3)
METRICS = st.lists(
    st.builds(
        lambda name, alias, datatype, value: metric(name, alias, AT_MS, datatype, **value),
        st.sampled_from(["", "Flow/m3h", "Level/m", "bdSeq", "Node Control/Rebirth"]),
        st.none() | st.integers(0, 4),
        st.sampled_from([None, DOUBLE, INT16, 12, 13, 99]),
        st.sampled_from(
            [{"double_value": 1.5}, {"int_value": 2**32 - 1}, {"long_value": 70_000}, {"null": True}, {"string_value": "x"}, {}]
        ),
    ),
    max_size=4,
)
NODES = st.sampled_from([f"g/e{i}" for i in range(5)])
DEVICES = st.sampled_from(["a", "b"])


def at(kind: str, node: str, device: str) -> str:
    group, edge = node.split("/")
    return f"spBv1.0/{group}/{kind}/{edge}" + (f"/{device}" if kind.startswith("D") else "")


MESSAGES = st.one_of(
    st.builds(lambda n, b, s, m: (at("NBIRTH", n, ""), node_birth(b, s, AT_MS, m)), NODES, BD_SEQS, SEQS, METRICS),
    st.builds(lambda n, d, s, m: (at("DBIRTH", n, d), device_birth(s, AT_MS, m)), NODES, DEVICES, SEQS, METRICS),
    st.builds(lambda n, b: (at("NDEATH", n, ""), node_death(b)), NODES, BD_SEQS),
    st.builds(
        lambda k, n, d, s, m: (at(k, n, d), payload(m, seq=s)),
        st.sampled_from(["NDATA", "DDATA", "DDEATH", "NCMD"]),
        NODES,
        DEVICES,
        SEQS,
        METRICS,
    ),
    st.builds(
        lambda t, b: (t, b), st.sampled_from(["spBv1.0/STATE/underway", "spBv1.0/STATE/x", "spBv1.0/g/DDATA/e0/a"]), st.binary(max_size=20)
    ),
    st.just(("spBv1.0/STATE/underway", b'{"online":false,"timestamp":1}')),
)
STEPS = st.lists(st.tuples(MESSAGES, st.integers(0, 90)), max_size=40)


def new_host() -> SparkplugHost:
    return SparkplugHost("underway", nodes_max=NODES_MAX, metrics_max=METRICS_MAX, rebirths_per_s_max=REBIRTHS_PER_S_MAX)


def keep(rows: dict[str, bytes], host: SparkplugHost, now_us: int) -> None:
    changes = host.memory_changes(now_us, everything=True)
    assert len({change.key for change in changes}) == len(changes), "each key once"
    for key, state in changes:
        if state is None:
            rows.pop(key, None)
        else:
            rows[key] = state


def known(host: SparkplugHost) -> Any:
    """Return what a host knows for good."""
    return {
        key: (node.bd_seq, node.order.head, {d: (b.valid, b.online, b.since_us, b.metrics) for d, b in node.births.items()})
        for key, node in host._nodes.items()
    }


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_host_any_messages_never_raise_and_keep_the_limits(steps: list[tuple[tuple[str, bytes], int]]) -> None:
    host = new_host()
    host.greeting(AT_US)
    now_us = AT_US
    for (topic, message), wait_s in steps:
        got = host.observe(decode(topic, message), now_us)
        assert len(got.channel) == len(got.value) == len(got.observed_us)
        for column in (got.unit, got.quality, got.reason, got.from_reception, got.historical):
            assert column is None or len(column) == len(got)
        assert type(got.channel) is tuple
        assert got.unit is None or type(got.unit) is tuple
        assert all(map(math.isfinite, got.value))
        assert not any(name.startswith("#") for name in got.channel), "every alias has its name, or is gone"
        assert len(got.faults) <= FAULTS_MAX
        for fault in got.faults:
            assert fault.device_id == got.device
            assert fault.message.isprintable()
        now_us += wait_s * SECOND_US // 10
        assert len(host.due(now_us)) <= REBIRTHS_PER_S_MAX + 1
        facts = host.facts()
        assert facts["nodes"] <= NODES_MAX
        assert facts["metrics"] == sum(len(b.metrics) for n in host._nodes.values() for b in n.births.values()) <= METRICS_MAX
        assert facts["strangers"] <= STRANGERS_MAX
        assert all(len(node.order.missing) < 256 for node in host._nodes.values())


@settings(max_examples=80, deadline=None)
@given(steps=STEPS, rest=STEPS)
def test_host_restored_from_what_was_kept_knows_the_same(steps: Any, rest: Any) -> None:
    host, rows = new_host(), {}
    now_us = AT_US
    for (topic, message), wait_s in steps:
        host.observe(decode(topic, message), now_us)
        now_us += wait_s * SECOND_US // 10
        host.due(now_us)
        keep(rows, host, now_us)
    again = new_host()
    again.restore(rows.items(), now_us)
    assert known(again) == known(host)
    for (topic, message), _ in rest:
        a, b = host.observe(decode(topic, message), now_us), again.observe(decode(topic, message), now_us)
        assert (a.channel, list(a.value), a.unit) == (b.channel, list(b.value), b.unit)
    assert known(again) == known(host)


@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
def test_host_that_is_left_in_peace_stops_watching_all_but_those_it_asks(steps: Any) -> None:
    host = new_host()
    now_us = AT_US
    for (topic, message), _ in steps:
        host.observe(decode(topic, message), now_us)
    for _ in range(3):
        now_us += (BIRTH_GRACE_S + 1) * SECOND_US
        host.due(now_us)
    assert all(node.asking.why is not None for node in host._watched.values())
    assert not any(node.awaited for node in host._nodes.values())


@given(start=st.integers(0, 255), lost=st.sets(st.integers(1, 100)), seed=st.integers(0, 2**32))
def test_order_whatever_comes_late_inside_the_window_leaves_nothing_missing(start: int, lost: set[int], seed: int) -> None:
    order = random.Random(seed)
    counter = Order()
    counter.restart(start)
    numbers = list(range(1, 101))
    # every message at most 30 places from its own
    numbers.sort(key=lambda n: n + order.uniform(0, 30))
    for number in numbers:
        if number not in lost:
            counter.count((start + number) % 256, number)
    newest = max((n for n in numbers if n not in lost), default=0)
    assert set(counter.missing) == {(start + n) % 256 for n in lost if n < newest}
