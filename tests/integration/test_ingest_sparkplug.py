"""The Sparkplug host on a real Mosquitto, with a real edge node: what each sees of the other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import paho.mqtt.publish as paho_publish
import pytest
from mqtt_world import Proxy
from sparkplug_edge import EdgeNode, Watcher, wait_until

from ingest.decoded import Decoded
from ingest.dialects.sparkplug import TOPIC_FILTERS, decode
from ingest.mqtt import MqttSource
from ingest.sparkplug_host import Presence, SparkplugHost
from ingest.sparkplug_message import PresenceReason, Seen
from ingest.sparkplug_rebirth import rebirth_request
from underway.app.brokers import Broker
from underway.model import FaultReason

pytestmark = pytest.mark.integration

STATE = "spBv1.0/STATE/underway"
NODE, DEVICE = "north/rtu-017", "north/rtu-017/inlet"
REORDER_S = 0.5


def now_us() -> int:
    return time.time_ns() // 1000


class Running:
    """A host over the MQTT source, driven as the pipeline drives it."""

    def __init__(self, url: str, rows: dict[str, bytes] | None = None) -> None:
        self.rows = {} if rows is None else rows
        self.host = SparkplugHost("underway", reorder_s=REORDER_S)
        self.host.restore(list(self.rows.items()), now_us())
        self.values: list[tuple[str | None, str, float]] = []
        self.messages: list[Decoded] = []
        self.own_states: list[tuple[Seen, bool]] = []
        self.presence: dict[str, Presence] = {}
        self.error: Exception | None = None
        self.source = MqttSource(url, "underway-ingest", TOPIC_FILTERS, now_us, greeting=self.host.greeting)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: self.source.facts()["subscribed"])

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                messages = self.source.poll(1000, 0.05)
                for message in messages:
                    got = self.host.observe(decode(message.topic, message.payload), message.received_us)
                    self.messages.append(got)
                    if message.topic == STATE:
                        self.own_states.append((self.host.last_seen, message.retain))
                    self.values += [(got.device, *row) for row in zip(got.channel, got.value, strict=True)]
                self.source.publish(self.host.due(now_us()))
                self._keep(everything=False)
                self.source.acknowledge(messages)
        except Exception as error:
            self.error = error

    def _keep(self, everything: bool) -> None:
        for key, state in self.host.memory_changes(now_us(), everything=everything):
            if state is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = state
        self.presence |= {change.address: change for change in self.host.presence_changes()}

    def flows(self) -> list[float]:
        return [value for device, channel, value in self.values if (device, channel) == (DEVICE, "Flow/m3h")]

    def end(self, farewell: bool = True) -> None:
        self._stop.set()
        self._thread.join()
        self._keep(everything=True)
        self.source.close(self.host.farewell(now_us()) if farewell else ())
        assert self.error is None


@pytest.fixture
def running(mosquitto: Broker) -> Iterator[Running]:
    host = Running(mosquitto.url)
    yield host
    if not host._stop.is_set():
        host.end()


@pytest.fixture
def edge(mosquitto: Broker) -> Iterator[EdgeNode]:
    node = EdgeNode(mosquitto.port)
    yield node
    node.close()


def states(watcher: Watcher) -> list[dict[str, Any]]:
    return [json.loads(said) for topic, said, _, _ in watcher.seen if topic == STATE]


def test_host_session_is_told_by_state(mosquitto: Broker) -> None:
    watcher = Watcher(mosquitto.port, [STATE])
    before_ms = time.time_ns() // 1_000_000
    host = Running(mosquitto.url)
    wait_until(lambda: states(watcher))
    late = Watcher(mosquitto.port, ["spBv1.0/STATE/#"])  # takes the watcher's session over: the STATE is kept for who comes later
    wait_until(lambda: late.seen)
    ((topic, said, qos, retained),) = late.seen
    birth = json.loads(said)
    assert (topic, qos, retained, birth["online"]) == (STATE, 1, True, True)
    assert set(birth) == {"online", "timestamp"}
    assert before_ms <= birth["timestamp"] <= time.time_ns() // 1_000_000
    wait_until(lambda: host.own_states)
    assert host.own_states == [(Seen.STATE_AS_OURS, False)], "it was subscribed when the STATE was published: it came live"
    host.end()
    wait_until(lambda: len(late.seen) >= 2)
    death = json.loads(late.seen[-1][1])
    assert death["online"] is False
    assert death["timestamp"] >= birth["timestamp"]
    time.sleep(0.2)
    assert len(late.seen) == 2, "after a clean end the will is not published"
    late.close()
    watcher.close()


def test_host_that_breaks_off_is_offline_by_its_will(mosquitto: Broker) -> None:
    proxy = Proxy(mosquitto.port)
    watcher = Watcher(mosquitto.port, [STATE])
    host = Running(f"mqtt://127.0.0.1:{proxy.port}")
    wait_until(lambda: states(watcher))
    proxy.close()
    wait_until(lambda: len(states(watcher)) >= 2)
    birth, will = states(watcher)
    assert birth["online"] is True
    assert will == {"online": False, "timestamp": birth["timestamp"]}
    host.end()
    watcher.close()


def test_host_corrects_its_state(mosquitto: Broker, running: Running) -> None:
    watcher = Watcher(mosquitto.port, [STATE])
    wait_until(lambda: states(watcher))
    ours = states(watcher)[0]
    stranger = json.dumps({"online": False, "timestamp": 5}).encode()
    paho_publish.single(STATE, stranger, qos=1, retain=True, hostname="127.0.0.1", port=mosquitto.port)
    wait_until(lambda: len(states(watcher)) >= 3)
    assert states(watcher)[1:] == [{"online": False, "timestamp": 5}, ours]
    watcher.close()


def test_births_and_data_of_an_edge_become_readings(running: Running, edge: EdgeNode) -> None:
    edge.birth()
    edge.data(41.5, 41.75)
    edge.data(42.0)
    wait_until(lambda: running.flows() == [40.0, 41.5, 41.75, 42.0])
    wait_until(lambda: running.presence.keys() == {NODE, DEVICE})
    assert all(change.online for change in running.presence.values())
    assert not any(message.faults for message in running.messages)
    assert edge.requests == []


def test_edge_that_was_there_before_the_host_is_asked_for_its_birth(mosquitto: Broker, edge: EdgeNode) -> None:
    edge.birth()
    host = Running(mosquitto.url)
    edge.data(41.5)
    wait_until(lambda: edge.requests)
    wait_until(lambda: 40.0 in host.flows())
    assert [f.reason for m in host.messages for f in m.faults] == [FaultReason.BIRTH_MISSING]
    edge.data(42.0)
    wait_until(lambda: 42.0 in host.flows())
    host.end()


def test_gap_makes_the_host_ask_and_the_edge_is_born_again(running: Running, edge: EdgeNode) -> None:
    edge.birth()
    edge.data(41.0)
    edge.data(99.0, lost=True)
    edge.data(42.0)
    wait_until(lambda: running.flows()[-1:] == [42.0])
    wait_until(lambda: edge.requests)
    wait_until(lambda: running.flows() == [40.0, 41.0, 42.0, 40.0])
    ((request, qos, retained),) = edge.requests
    decoded = decode(edge.topic("NCMD"), request)
    assert decoded.more is not None
    assert request == rebirth_request(decoded.more.timestamp_ms)  # type: ignore[attr-defined]  # a SparkplugMessage
    assert (qos, retained) == (0, False)
    edge.data(43.0)
    wait_until(lambda: running.flows()[-1:] == [43.0])
    facts = running.host.facts()
    assert (facts["gaps"], facts["missed"], facts["rebirths_asked"], facts["rebirths_wanted"]) == (1, 1, 1, 0)
    assert running.presence[DEVICE].online


def test_edge_that_breaks_off_dies_by_its_will(mosquitto: Broker, running: Running) -> None:
    edge = EdgeNode(mosquitto.port)
    edge.birth()
    wait_until(lambda: DEVICE in running.presence)
    began_us = now_us()
    edge.break_off()
    wait_until(lambda: not running.presence[DEVICE].online)
    assert {(c.address, c.online, c.reason) for c in running.presence.values()} == {
        (NODE, False, PresenceReason.NODE_DEATH),
        (DEVICE, False, PresenceReason.NODE_DEATH),
    }
    assert began_us <= running.presence[DEVICE].since_us <= now_us()
    again = EdgeNode(mosquitto.port)
    again.birth()
    wait_until(lambda: running.presence[DEVICE].online)
    again.close()
    wait_until(lambda: not running.presence[DEVICE].online)


def test_death_while_the_host_is_away_is_heard_when_it_is_back(mosquitto: Broker) -> None:
    host = Running(mosquitto.url)
    edge = EdgeNode(mosquitto.port)
    edge.birth()
    wait_until(lambda: DEVICE in host.presence)
    host.end()
    edge.break_off()
    again = Running(mosquitto.url, host.rows)
    wait_until(lambda: DEVICE in again.presence)
    assert not again.presence[DEVICE].online
    again.end()


def test_host_started_again_reads_data_by_the_births_that_were_kept(mosquitto: Broker, edge: EdgeNode) -> None:
    host = Running(mosquitto.url)
    edge.birth()
    edge.data(41.0)
    wait_until(lambda: host.flows() == [40.0, 41.0])
    host.end()
    again = Running(mosquitto.url, host.rows)
    edge.data(42.0)
    wait_until(lambda: again.flows() == [42.0])
    time.sleep(2 * REORDER_S)
    assert edge.requests == [], "nothing was missed, so nobody is asked"
    again.end()
