from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from underway.app.brokers import Broker, embedded_broker
from underway.model import OperatorError

pytestmark = pytest.mark.integration

TOPIC = "uw/town/fm-1/telemetry"


class Receiver:
    """A client with a persistent session that acknowledges by hand, or not at all."""

    def __init__(
        self, broker: Broker, *, acknowledge: bool, client_id: str = "ingest", topic: str = "uw/+/+/telemetry", qos: int = 1
    ) -> None:
        self.got: list[paho.MQTTMessage] = []
        self.session_present = False
        self._subscribed = threading.Event()
        self._change = threading.Condition()
        self._acknowledge, self._topic, self._qos = acknowledge, topic, qos
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False, manual_ack=True)
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = self._message
        self.client.connect("127.0.0.1", broker.port, 60)
        self.client.loop_start()
        assert self._subscribed.wait(10)

    def _connected(self, client: paho.Client, _data: Any, flags: paho.ConnectFlags, _reason: Any, _properties: Any) -> None:
        self.session_present = bool(flags.session_present)
        client.subscribe(self._topic, self._qos)

    def _message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        if self._acknowledge and message.qos:
            client.ack(message.mid, message.qos)
        with self._change:
            self.got.append(message)
            self._change.notify_all()

    def payloads(self, count: int, wait_s: float = 30.0) -> list[bytes]:
        """Return what came, once `count` messages did or `wait_s` passed."""
        with self._change:
            self._change.wait_for(lambda: len(self.got) >= count, wait_s)
            return [message.payload for message in self.got]

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def die(self) -> None:
        """Break the connection without a word, as a killed process does."""
        sock = self.client.socket()
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()


def publish(broker: Broker, payloads: list[bytes], topic: str = TOPIC, *, retain: bool = False) -> None:
    """Publish with QoS 1 and wait until the broker has acknowledged all."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(200)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    for info in [client.publish(topic, payload, 1, retain=retain) for payload in payloads]:
        info.wait_for_publish(30)
        assert info.is_published()
    client.disconnect()
    client.loop_stop()


def numbered(count: int, begin: int = 0) -> list[bytes]:
    return [b"%06d" % i for i in range(begin, begin + count)]


def test_broker_says_what_it_is_and_listens_on_loopback_only(broker: Broker) -> None:
    assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
    assert (broker.kind, broker.mqtt_version, broker.survives_restart) in [("mosquitto", "5.0", True), ("amqtt", "3.1.1", False)]
    assert broker.version[0].isdigit()
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{broker.port:04X} 00000000:0000 0A" in listening
    assert f"00000000:{broker.port:04X}" not in listening


def test_broker_keeps_messages_while_a_persistent_receiver_is_away(broker: Broker) -> None:
    first = Receiver(broker, acknowledge=True)
    assert not first.session_present
    first.leave()
    publish(broker, numbered(3000))
    second = Receiver(broker, acknowledge=True)
    assert second.payloads(3000) == numbered(3000)
    assert second.session_present
    second.leave()


def test_broker_delivers_what_was_not_acknowledged_again_after_the_receiver_died(broker: Broker) -> None:
    first = Receiver(broker, acknowledge=False)
    publish(broker, numbered(2500))
    assert first.payloads(2500) == numbered(2500)
    first.die()
    publish(broker, numbered(10, 2500))
    second = Receiver(broker, acknowledge=True)
    assert second.payloads(2510) == numbered(2510)
    assert [message.dup for message in second.got] == [True] * 2500 + [False] * 10
    time.sleep(0.3)  # let the acknowledgements arrive
    second.die()
    third = Receiver(broker, acknowledge=True)
    assert third.payloads(1, 1.0) == []
    third.leave()


@pytest.mark.parametrize("broker", ["amqtt"], indirect=True)
def test_amqtt_waits_long_for_an_acknowledgement(broker: Broker) -> None:
    receiver = Receiver(broker, acknowledge=False)
    publish(broker, numbered(5))
    receiver.payloads(5)
    time.sleep(6)  # amqtt by itself gives up after 5 s
    receiver.die()
    again = Receiver(broker, acknowledge=False)
    assert again.payloads(5) == numbered(5)
    time.sleep(11)  # and after 10 s on a retry
    again.die()
    last = Receiver(broker, acknowledge=True)
    assert last.payloads(5) == numbered(5)
    last.leave()


def test_broker_leaves_many_messages_in_flight(broker: Broker) -> None:
    receiver = Receiver(broker, acknowledge=False)
    publish(broker, numbered(15_000))
    assert receiver.payloads(15_000, 60) == numbered(15_000)
    receiver.leave()


def test_broker_gives_a_taken_over_session_what_comes_next(broker: Broker) -> None:
    first = Receiver(broker, acknowledge=False)
    publish(broker, numbered(5))
    first.payloads(5)
    first.client.on_disconnect = lambda client, *_: client.loop_stop()
    second = Receiver(broker, acknowledge=True)
    time.sleep(0.5)
    publish(broker, numbered(5, 5))
    assert second.payloads(10) == numbered(10)
    first.client.disconnect()
    second.leave()


def test_broker_gives_a_retained_message_to_who_subscribes_and_to_nobody_else(broker: Broker) -> None:
    publish(broker, [b"order 1"], "uw/town/crew/c1/orders", retain=True)
    crew = Receiver(broker, acknowledge=True, client_id="crew", topic="uw/town/crew/+/orders")
    assert crew.payloads(1) == [b"order 1"]
    assert crew.got[0].retain
    for _ in range(2):
        other = Receiver(broker, acknowledge=True)
        assert other.payloads(1, 1.0) == []
        other.leave()
    crew.leave()


def test_broker_sends_a_message_once_to_a_receiver_with_overlapping_filters(broker: Broker) -> None:
    receiver = Receiver(broker, acknowledge=True)
    receiver.client.subscribe("uw/#", 1)
    time.sleep(0.3)
    publish(broker, numbered(3))
    time.sleep(0.5)
    assert sorted(set(receiver.payloads(3))) == numbered(3)
    receiver.leave()


def test_broker_serves_a_qos_0_receiver(broker: Broker) -> None:
    receiver = Receiver(broker, acknowledge=True, qos=0)
    publish(broker, numbered(20))
    assert sorted(receiver.payloads(20)) == numbered(20)
    receiver.leave()


def test_mosquitto_stopped_and_started_again_still_has_the_messages(tmp_path: Path, mosquitto: Broker) -> None:
    with embedded_broker(tmp_path / "other", kind="mosquitto") as running:
        Receiver(running, acknowledge=True).leave()
        publish(running, numbered(100))
    with embedded_broker(tmp_path / "other", kind="mosquitto") as running:
        receiver = Receiver(running, acknowledge=True)
        assert receiver.payloads(100) == numbered(100)
        receiver.leave()


def test_mosquitto_speaks_mqtt_5_with_a_large_receive_maximum(mosquitto: Broker) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, "five", protocol=MQTTProtocolVersion.MQTTv5)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    assert connected.wait(10)
    client.disconnect()
    client.loop_stop()


def test_broker_ends_with_its_block(tmp_path: Path) -> None:
    with embedded_broker(tmp_path, kind="amqtt") as running:
        pid = running.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_broker_on_a_taken_port_says_so(tmp_path: Path, broker: Broker) -> None:
    with pytest.raises(OperatorError) as caught, embedded_broker(tmp_path / "second", kind=broker.kind, port=broker.port):
        pass
    assert str(caught.value) == (
        f"the broker '{broker.kind}' cannot listen on 127.0.0.1:{broker.port}: the port is taken; name another one, or none for a free one"
    )


def test_broker_that_does_not_start_quotes_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underway.app.brokers.QUEUE_MAX", "1\nnonsense true")
    with (
        pytest.raises(OperatorError, match=r"^the broker 'mosquitto' did not start on 127\.0\.0\.1:\d+: .*nonsense"),
        embedded_broker(tmp_path, kind="mosquitto"),
    ):
        pass


def test_broker_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(OperatorError, match=r"^the broker must be 'auto', 'mosquitto' or 'amqtt', got 'hivemq'$"),
        embedded_broker(tmp_path, kind="hivemq"),
    ):
        pass


def test_broker_mosquitto_where_it_is_not_installed_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("underway.app.brokers._SBIN", ())
    with (
        pytest.raises(OperatorError, match=r"^the broker 'mosquitto' is not installed; apt-get install mosquitto, or use 'amqtt'$"),
        embedded_broker(tmp_path, kind="mosquitto"),
    ):
        pass
    with embedded_broker(tmp_path) as running:
        assert running.kind == "amqtt"


@pytest.mark.parametrize("stays", [False, True])
def test_amqtt_terminated_ends_quietly(tmp_path: Path, stays: bool) -> None:
    with embedded_broker(tmp_path, kind="amqtt") as running:
        receiver = Receiver(running, acknowledge=True)
        publish(running, numbered(10))
        assert len(receiver.payloads(10)) == 10
        if not stays:
            receiver.leave()
    receiver.leave()
    assert running.log_path.read_text() == ""
