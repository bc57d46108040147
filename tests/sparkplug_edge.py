"""An edge node of Sparkplug B for integration tests, by paho, with one device; it does what the specification asks of an edge."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from sparkplug_builder import DOUBLE, device_birth, metric, node_birth, node_death, payload

REBIRTH = b"Node Control/Rebirth"
ALIAS = 2


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)


class EdgeNode:
    """One node with one device, ``north/{name}/inlet``, which measures ``Flow/m3h`` under the alias 2.

    Parameters
    ----------
    port : int
        Of a broker on 127.0.0.1.
    """

    sessions = itertools.count(1)

    def __init__(self, port: int, name: str = "rtu-017") -> None:
        self.name = name
        self.bd_seq = next(self.sessions) % 256
        self.requests: list[tuple[bytes, int, bool]] = []
        self._seq = 0
        self._lock = threading.Lock()
        self._subscribed = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"edge-{name}-{self.bd_seq}", clean_session=True)
        client.will_set(self.topic("NDEATH"), node_death(self.bd_seq, now_ms()), qos=1, retain=False)
        client.on_connect = lambda *_: client.subscribe(self.topic("NCMD"), qos=1)
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_message = self._commanded
        self.client = client
        client.connect("127.0.0.1", port, keepalive=10)
        client.loop_start()
        assert self._subscribed.wait(10)

    def topic(self, kind: str) -> str:
        return f"spBv1.0/north/{kind}/{self.name}" + ("/inlet" if kind.startswith("D") else "")

    def birth(self) -> None:
        """Publish the births, which begin the count of messages anew."""
        with self._lock:
            at_ms = now_ms()
            self._publish("NBIRTH", node_birth(self.bd_seq, 0, at_ms))
            self._publish("DBIRTH", device_birth(1, at_ms, [metric("Flow/m3h", ALIAS, at_ms, DOUBLE, double_value=40.0)]))
            self._seq = 1

    def data(self, *values: float, lost: bool = False) -> None:
        """Publish values by alias; a lost message is counted and not sent."""
        with self._lock:
            self._seq = (self._seq + 1) % 256
            if not lost:
                at_ms = now_ms()
                self._publish(
                    "DDATA", payload([metric(alias=ALIAS, at_ms=at_ms + i, double_value=v) for i, v in enumerate(values)], at_ms, self._seq)
                )

    def break_off(self) -> None:
        """Lose the connection without a goodbye: the broker publishes the will."""
        self.client.on_disconnect = None
        sock: Any = self.client.socket()
        self.client.loop_stop()
        sock.close()

    def close(self) -> None:
        self.client.publish(self.topic("NDEATH"), node_death(self.bd_seq, now_ms()), qos=1).wait_for_publish(5)
        self.client.disconnect()
        self.client.loop_stop()

    def _publish(self, kind: str, message: bytes) -> None:
        self.client.publish(self.topic(kind), message, qos=0, retain=False)

    def _commanded(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.requests.append((message.payload, message.qos, message.retain))
        if REBIRTH in message.payload:
            self.birth()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Watcher:
    """Sees what is said on some topics: (topic, payload, qos, retained before it came)."""

    def __init__(self, port: int, filters: Sequence[str]) -> None:
        self.seen: list[tuple[str, bytes, int, bool]] = []
        subscribed = threading.Event()
        self.client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id="watcher")
        client.on_connect = lambda *_: client.subscribe([(f, 1) for f in filters])
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _c, _d, m: self.seen.append((m.topic, m.payload, m.qos, m.retain))
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert subscribed.wait(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
