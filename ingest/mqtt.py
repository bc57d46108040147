"""MQTT as a source of messages: QoS 1, persistent session, acknowledged by hand and only when told."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from underway.model import SettingsError

log = logging.getLogger("underway.ingest.mqtt")

QUEUE_COUNT_MAX = 20_000
QUEUE_BYTES_MAX = 64 * 2**20
RECEIVE_MAXIMUM = 65_535
SESSION_EXPIRY_S = 7 * 86_400
KEEPALIVE_S = 60
RECONNECT_S_MIN, RECONNECT_S_MAX = 1, 30
UNSUPPORTED_PROTOCOL = 132
CLOSED_BEFORE_CONNACK_MAX = 3
CONNACK_S_MIN, CONNACK_S_MAX = 2.0, 30.0
NOT_UTF8_TOPIC = "(the topic is not UTF-8)"


class Message(NamedTuple):
    """One message as it came; ``token`` belongs to the source that gave it."""

    topic: str
    payload: bytes
    received_us: int
    token: tuple[int, int]


class Source(Protocol):
    """Where messages come from: it holds back what is not acknowledged, and delivers that again after a crash."""

    def poll(self, count_max: int, wait_s: float) -> list[Message]:
        """Return at most `count_max` waiting messages; when none waits, wait at most `wait_s` for the first."""
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell that these are stored for good."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what people want to see of it: plain values."""
        ...

    def close(self) -> None:
        """Stop; what is not acknowledged stays with the broker."""
        ...


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where and how to reach a broker; the password is not part of its ``repr``."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """Return the address in ``mqtt://[user[:password]@]host[:port]``, or ``mqtts://`` for TLS.

        Raises
        ------
        SettingsError
            When `url` is not of that form.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("mqtt", "mqtts") or not host:
            raise SettingsError([f"the broker URL must look like 'mqtt://user:password@host:1883', got one with scheme {parts.scheme!r}"])
        tls = parts.scheme == "mqtts"
        user, secret = parts.username, parts.password
        return cls(host, port or (8883 if tls else 1883), tls, unquote(user) if user else None, unquote(secret) if secret else None)

    def __repr__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


class PahoSource:
    """Messages of one broker session, by paho-mqtt.

    Parameters
    ----------
    url : str
        ``mqtt://`` or ``mqtts://``.
    client_id : str
        Names the persistent session: two processes with the same name take the session away from each other.
    topic_filters : sequence of str
        Subscribed with QoS 1.
    now_us : callable
        The clock that stamps a message when it arrives, microseconds since 1970.
    queue_count_max, queue_bytes_max : int
        Messages and bytes of payload that wait here at most. At the limit the network thread stops reading, so that the broker keeps the rest;
        nothing is ever dropped. With MQTT 5 the broker is told the count as Receive Maximum and the limit is not reached.
    ca_file : str
        Certificate authority for ``mqtts://``; empty: the system's.

    Notes
    -----
    MQTT 5 with a session expiry of a week first; where the broker refuses that, closes the connection, or says nothing for 2 s (doubled each
    time), MQTT 3.1.1 with ``clean_session=False``. After a reconnect the broker delivers again what was not acknowledged, under the same
    packet ids; an acknowledgement for a message of an earlier connection is therefore not sent, it could hit another message.

    Blind to what a broker drops before it sends (a full queue of an offline session: Mosquitto's ``max_queued_messages``).
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        topic_filters: Sequence[str],
        now_us: Callable[[], int],
        *,
        queue_count_max: int = QUEUE_COUNT_MAX,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        ca_file: str = "",
    ) -> None:
        self._address = BrokerAddress.parse(url)
        self._client_id = client_id
        self._filters = tuple(topic_filters)
        self._now_us = now_us
        self._count_max = queue_count_max
        self._bytes_max = queue_bytes_max
        self._ca_file = ca_file
        self._queue: deque[Message] = deque()
        self._queue_bytes = 0
        self._ready = threading.Condition()
        self._closing = False
        # guards the generation: an acknowledgement is handed to paho either before a connection was lost, or not at all
        self._ack_lock = threading.Lock()
        self._generation = 0
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._protocol_wanted = self._protocol
        self._established = False
        self._closed_early = 0
        self._patience_s = CONNACK_S_MIN
        self._patience: threading.Timer | None = None
        self._state = "disconnected"
        self._subscribed = False
        self._session_present = False
        self._received = self._acknowledged = self._stale = self._connections = self._full = 0
        self._client = self._start()

    # the pipeline's side -------------------------------------------------------------------------------------------------------------

    def poll(self, count_max: int, wait_s: float) -> list[Message]:
        """Return at most `count_max` waiting messages; when none waits, wait at most `wait_s` for the first."""
        self._mend()
        with self._ready:
            if not self._queue and wait_s > 0:
                self._ready.wait(wait_s)
            queue = self._queue
            if len(queue) <= count_max:
                taken = list(queue)
                queue.clear()
                self._queue_bytes = 0
            else:
                taken = [queue.popleft() for _ in range(count_max)]
                self._queue_bytes -= sum(len(message.payload) for message in taken)
            if taken:
                self._ready.notify_all()
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Send PUBACK for messages of the present connection; those of an earlier one come again and are acknowledged then."""
        with self._ack_lock:
            ack, generation = self._client.ack, self._generation
            for message in messages:
                its_generation, mid = message.token
                if its_generation != generation:
                    self._stale += 1
                elif mid:
                    ack(mid, 1)
            self._acknowledged += len(messages)

    def facts(self) -> dict[str, Any]:
        """Return the state of the connection and what was counted."""
        return {
            "broker": repr(self._address),
            "state": self._state,
            "protocol": "5.0" if self._protocol is MQTTProtocolVersion.MQTTv5 else "3.1.1",
            "subscribed": self._subscribed,
            "session_present": self._session_present,
            "connections": self._connections,
            "received": self._received,
            "queued": len(self._queue),
            "unacked": max(0, self._received - self._acknowledged),
            "stale_acks": self._stale,
            "full": self._full,
        }

    def close(self) -> None:
        """Disconnect; the session and what is not acknowledged stay with the broker."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        self._stop_waiting()
        self._client.disconnect()
        self._client.loop_stop()
        self._state = "closed"

    # the connection ------------------------------------------------------------------------------------------------------------------

    def _start(self) -> paho.Client:
        """Start a client of the present protocol; its thread connects, and reconnects with growing delay."""
        is_5 = self._protocol is MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if is_5 else False,
            protocol=self._protocol,
            manual_ack=True,
        )
        address = self._address
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls:
            client.tls_set(ca_certs=self._ca_file or None)
        client.reconnect_delay_set(RECONNECT_S_MIN, RECONNECT_S_MAX)
        client.on_pre_connect = self._on_pre_connect
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        if is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho does not annotate it
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            properties.ReceiveMaximum = min(RECEIVE_MAXIMUM, self._count_max)
            client.connect_async(address.host, address.port, KEEPALIVE_S, clean_start=False, properties=properties)
        else:
            client.connect_async(address.host, address.port, KEEPALIVE_S)
        client.loop_start()
        return client

    def _mend(self) -> None:
        """Change to the other protocol when a callback asked for it, and replace a client whose thread died."""
        thread = getattr(self._client, "_thread", None)
        died = thread is not None and not thread.is_alive()
        if self._closing or (self._protocol_wanted is self._protocol and not died):
            return
        if died:
            log.error("the network thread of the MQTT client ended; starting another")
        self._client.disconnect()
        self._client.loop_stop()
        with self._ack_lock:
            self._generation += 1
        self._protocol = self._protocol_wanted
        self._client = self._start()

    def _on_pre_connect(self, client: paho.Client, userdata: Any) -> None:
        with self._ack_lock:
            self._generation += 1

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Give the broker some time for its first answer: some never answer to a protocol that they do not speak."""
        self._stop_waiting()
        self._patience = threading.Timer(self._patience_s, self._no_answer, (client, self._generation))
        self._patience.daemon = True
        self._patience.start()

    def _no_answer(self, client: paho.Client, generation: int) -> None:
        if client is self._client and generation == self._generation and self._state != "connected" and not self._closing:
            log.warning("broker %r does not answer to MQTT %s", self._address, self.facts()["protocol"])
            self._patience_s = min(2 * self._patience_s, CONNACK_S_MAX)
            self._other_protocol()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _on_connect(
        self, client: paho.Client, userdata: Any, flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._stop_waiting()
        if reason.is_failure:
            self._state = f"refused: {reason}"
            log.warning("broker %r refused the connection: %s", self._address, reason)
            if reason.value == UNSUPPORTED_PROTOCOL:
                self._other_protocol()
            return
        self._established, self._closed_early, self._patience_s = True, 0, CONNACK_S_MIN
        self._connections += 1
        self._session_present = bool(flags.session_present)
        self._state = "connected"
        if self._protocol is MQTTProtocolVersion.MQTTv5:
            client.subscribe([(name, SubscribeOptions(qos=1)) for name in self._filters])
        else:
            client.subscribe([(name, 1) for name in self._filters])
        log.info("connected to %r, MQTT %s, session present: %s", self._address, self.facts()["protocol"], self._session_present)

    def _on_subscribe(self, client: paho.Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None) -> None:
        refused = [name for name, reason in zip(self._filters, reasons, strict=False) if reason.is_failure]
        self._subscribed = not refused
        if refused:
            self._state = f"subscription refused: {', '.join(refused)}"
            log.error("broker %r refused the subscription to %s", self._address, ", ".join(refused))

    def _on_disconnect(
        self, client: paho.Client, userdata: Any, flags: paho.DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._ack_lock:
            self._generation += 1
        was_connected, self._subscribed = self._state == "connected", False
        if self._closing or self._state.startswith("refused"):
            return
        self._state = "disconnected"
        if was_connected:
            log.warning("lost the connection to %r: %s", self._address, reason)
        else:
            self._closed_early += 1
            if self._closed_early >= (CLOSED_BEFORE_CONNACK_MAX if self._established else 1):
                self._other_protocol()

    def _other_protocol(self) -> None:
        """Ask `_mend` for the other protocol: a client cannot change it, and its own thread cannot replace it."""
        self._closed_early = 0
        is_5 = self._protocol is MQTTProtocolVersion.MQTTv5
        self._protocol_wanted = MQTTProtocolVersion.MQTTv311 if is_5 else MQTTProtocolVersion.MQTTv5

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = NOT_UTF8_TOPIC
        item = Message(topic, bytes(message.payload), self._now_us(), (self._generation, message.mid if message.qos else 0))
        with self._ready:
            if len(self._queue) >= self._count_max or self._queue_bytes >= self._bytes_max:
                self._full += 1
                while (len(self._queue) >= self._count_max or self._queue_bytes >= self._bytes_max) and not self._closing:
                    self._ready.wait(1.0)
            self._received += 1
            self._queue.append(item)
            self._queue_bytes += len(item.payload)
            if len(self._queue) == 1:
                self._ready.notify_all()
