"""MQTT as a source of messages: QoS 1, persistent session, acknowledged only when told, as fast as the broker hands over."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from ingest.mqtt_address import BrokerAddress
from ingest.mqtt_codec import (
    NOT_UTF8_TOPIC,
    PAYLOAD_BYTES_MAX,
    PINGREQ,
    ConnAck,
    Control,
    Disconnect,
    Parsed,
    Parser,
    Property,
    ProtocolError,
    PubAck,
    PubRel,
    SubAck,
    Version,
    connect_packet,
    disconnect_packet,
    is_wrong_version,
    puback_packets,
    pubcomp_packet,
    publish_packet,
    pubrec_packets,
    reason_text,
    subscribe_packet,
)
from ingest.mqtt_policy import Outcome, Policy
from ingest.mqtt_types import Greeting, Message, Publication, Source
from ingest.mqtt_wire import Wake, Wire, open_wire
from underway.model import SettingsError

__all__ = ["NOT_UTF8_TOPIC", "BrokerAddress", "Greeting", "Message", "MqttSource", "Publication", "Source"]

log = logging.getLogger("underway.ingest.mqtt")

QUEUE_COUNT_MAX = 20_000
QUEUE_BYTES_MAX = 64 * 2**20
RECEIVE_MAXIMUM = 65_535
SESSION_EXPIRY_S = 7 * 86_400
KEEPALIVE_S = 20
PING_S = 10.0
SILENCE_S_MAX = 20.0
OUT_BYTES_MAX = 2**20
IN_FLIGHT_MAX = 1_000
"""Publications at QoS 1 that the broker has not confirmed."""
GATHER_S = 0.001
GATHER_BYTES = 16 * 2**10
FAREWELL_S_MAX = 2.0
DRAIN_S_MAX = 1.0
JOIN_S_MAX = 15.0
_PAYLOAD, _TOKEN = itemgetter(1), itemgetter(3)


class _Ended(Exception):  # noqa: N818 an end, not an error
    """The connection, or the attempt, is over."""

    def __init__(self, outcome: Outcome, why: str) -> None:
        self.outcome, self.why = outcome, why
        super().__init__(why)


class MqttSource:
    """Messages of one broker session, by a network thread of its own.

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
        Messages, and bytes of their payloads, that are held at most: received and not acknowledged, whether they wait here or were polled.
        At the limit nothing is read from the socket, so that the broker keeps the rest; nothing is ever dropped. The last message may exceed
        the bytes. MQTT 5 tells the count to the broker as Receive Maximum.
    ca_file : str
        Certificate authority for ``mqtts://``; empty: the system's.
    greeting : callable or None
        Asked with `now_us` before each CONNECT for the will, and for what is published as soon as a subscription is granted.
    payload_bytes_max : int
        Of a larger payload the first 64 kB are kept; ``Message.size`` tells how large it was, in bytes.
    monotonic_s : callable
        Measures keepalive and waiting, in s.

    Raises
    ------
    SettingsError
        When `url` is not of that form, or `ca_file` holds no certificate.

    Notes
    -----
    MQTT 5 with a session expiry of a week first; where the broker does not like that, MQTT 3.1.1 with ``clean_session`` off, and back
    (`ingest.mqtt_policy`). After a reconnect the broker delivers again what was not acknowledged, under packet ids of its choice; an acknowledgement
    for a message of an earlier connection is therefore not sent, it could hit another message.

    A PINGREQ goes out every 10 s. A connection on which nothing came for 20 s is given up, unless we do not read for want of room; then the
    kernel's own timeout ends it, 25 s after a PINGREQ that nobody confirmed.

    While messages stream in, the thread rests 1 ms between two looks at the socket: fewer and larger pieces cost less CPU.

    Blind to what a broker drops before it sends: a full queue of an offline session (Mosquitto's ``max_queued_messages``), a message above its own
    limit, QoS 0 while we are away (unless it keeps that too: ``queue_qos0_messages``) or hold back. Blind to subscriptions that an earlier version
    left in the session, and to which of the filters is wrong for a broker that closes the connection instead of refusing one.
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
        greeting: Callable[[int], Greeting] | None = None,
        payload_bytes_max: int = PAYLOAD_BYTES_MAX,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = BrokerAddress.parse(url)
        self._tls = _tls_context(ca_file) if self._address.tls else None
        self._client_id = client_id
        self._filters = tuple(dict.fromkeys(topic_filters))
        self._now_us = now_us
        self._monotonic_s = monotonic_s
        self._count_max, self._bytes_max, self._payload_max = queue_count_max, queue_bytes_max, payload_bytes_max
        self._greeting = greeting
        self._policy = Policy(client_id)
        self._topics: dict[bytes, str] = {}
        # what waits to be polled, in the pieces in which it came
        self._ready = threading.Condition(threading.Lock())
        self._chunks: deque[list[Message]] = deque()
        self._queued = 0
        # guards the connection: an acknowledgement goes to the connection that its message came by, or nowhere
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self._generation = 0
        self._released = self._released_bytes = 0
        self._received = self._received_bytes = 0
        self._paused = self._closing = self._closed = False
        self._stop = threading.Event()
        self._wake = Wake()
        self._state, self._why = "disconnected", ""
        self._subscribed = self._session_present = False
        self._session_expiry_s: int | None = None
        self._refused: tuple[str, ...] = ()
        self._at_qos_0: tuple[str, ...] = ()
        self._counts = dict.fromkeys(("connections", "stale_acks", "full", "acks_sent", "pings", "oversized", "bytes_in"), 0)
        self._published = self._publish_dropped = 0
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{client_id}", daemon=True)
        self._thread.start()

    # the pipeline's side -------------------------------------------------------------------------------------------------------------

    def poll(self, count_max: int, wait_s: float) -> list[Message]:
        """Return at most `count_max` waiting messages; when none waits, wait at most `wait_s` for the first."""
        with self._ready:
            chunks = self._chunks
            if not chunks and wait_s > 0 and count_max > 0:
                self._ready.wait(wait_s)
            if not chunks or count_max <= 0:
                return []
            taken = chunks.popleft()
            while chunks and len(taken) + len(chunks[0]) <= count_max:
                taken += chunks.popleft()
            if len(taken) > count_max:
                chunks.appendleft(taken[count_max:])
                del taken[count_max:]
            elif chunks and len(taken) < count_max:
                rest = chunks[0]
                room = count_max - len(taken)
                taken += rest[:room]
                chunks[0] = rest[room:]
            self._queued -= len(taken)
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Send PUBACK for messages of the present connection; those of an earlier one come again and are acknowledged then. Each message once."""
        if not messages:
            return
        size = sum(map(len, map(_PAYLOAD, messages)))
        with self._lock:
            link = self._link
            current = -1 if link is None else link.generation
            mids = [mid for generation, mid in map(_TOKEN, messages) if generation == current]
            self._counts["stale_acks"] += len(messages) - len(mids)
            if link is not None:
                self._counts["acks_sent"] += link.acknowledge(mids)
            self._released += len(messages)
            self._released_bytes += size
        if self._paused:
            self._wake.set()

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish, best effort: dropped, and counted, when there is no connection or the broker does not take it.

        Raises
        ------
        InternalError
            When a topic is longer than the protocol can say.
        """
        with self._lock:
            sent = 0 if self._link is None else self._link.publish(publications)
            self._published += sent
            self._publish_dropped += len(publications) - sent

    def facts(self) -> dict[str, Any]:
        """Return the state of the connection and what was counted: plain values.

        ``held_count`` and ``held_bytes`` are what is received and not acknowledged; ``full_ratio`` is the larger of their parts of the limits,
        0..1, more when the last message exceeded the bytes; ``session_expiry_s`` is how long the broker keeps our session, None when it does
        not tell (MQTT 3.1.1).
        """
        link, counts = self._link, self._counts
        held, held_bytes = self._held()
        return {
            "broker": repr(self._address),
            "state": self._state,
            "why": self._why,
            "protocol": self._policy.version.text,
            "subscribed": self._subscribed,
            "refused": list(self._refused),
            "at_qos_0": list(self._at_qos_0),
            "session_present": self._session_present,
            "session_expiry_s": self._session_expiry_s,
            "connections": counts["connections"],
            "reconnects": max(0, counts["connections"] - 1),
            "received": self._received,
            "acknowledged": self._released,
            "queued": self._queued,
            "unacked": held,
            "held_count": held,
            "held_bytes": held_bytes,
            "held_count_max": self._count_max,
            "held_bytes_max": self._bytes_max,
            "full_ratio": round(max(held / self._count_max, held_bytes / self._bytes_max), 4),
            "paused": self._paused,
            "full": counts["full"],
            "stale_acks": counts["stale_acks"],
            "acks_sent": counts["acks_sent"],
            "bytes_in": counts["bytes_in"] + (0 if link is None else link.wire.bytes_in),
            "pings": counts["pings"],
            "oversized": counts["oversized"] + (0 if link is None else link.parser.oversized),
            "published": self._published,
            "publish_dropped": self._publish_dropped,
            "cpu_s": self._cpu_s(),
        }

    def _cpu_s(self) -> float | None:
        """Return the CPU time of the network thread, s; None where the system does not tell."""
        if not hasattr(time, "pthread_getcpuclockid") or self._thread.ident is None or not self._thread.is_alive():
            return None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def close(self, farewell: Sequence[Publication] = ()) -> None:
        """Publish `farewell` and disconnect, which takes at most a few seconds; the session and what is not acknowledged stay with the broker."""
        if self._closed:
            return
        self._closed = True
        if farewell:
            self.publish(farewell)
        self._closing = True
        self._stop.set()
        self._wake.set()
        self._thread.join(JOIN_S_MAX)
        self._state, self._subscribed = "closed", False
        if not self._thread.is_alive():
            self._wake.close()

    # the network thread --------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Connect, converse, and begin anew, until closed."""
        while not self._closing:
            began_s = self._monotonic_s()
            try:
                outcome, why = self._attempt()
            except Exception as error:
                # nothing of the broker's may end this thread; what is ours shows in the log and in the facts
                log.exception("the connection to %r met a fault of ours; connecting again", self._address)
                outcome, why = Outcome.LOST, f"{type(error).__name__}: {error}"
            if self._closing:
                return
            self._subscribed, self._why = False, why
            self._state = f"refused: {why}" if outcome in (Outcome.REFUSED, Outcome.WRONG_VERSION) else "disconnected"
            version = self._policy.version
            delay_s = self._policy.after(outcome, self._monotonic_s() - began_s if outcome is Outcome.LOST else 0.0)
            log.warning("broker %r, MQTT %s, %s: %s; trying again in %.1f s", self._address, version.text, outcome, why, delay_s)
            self._stop.wait(delay_s)

    def _attempt(self) -> tuple[Outcome, str]:
        """Connect and converse; return how it ended."""
        address = self._address
        try:
            wire = open_wire(address.host, address.port, self._tls, self._wake)
        except OSError as error:
            return Outcome.UNREACHABLE, str(error) or type(error).__name__
        self._generation += 1
        link = _Link(wire, self._policy.version, self._generation, self._payload_max, self._topics)
        try:
            greeting = Greeting() if self._greeting is None else self._greeting(self._now_us())
            wire.send(
                connect_packet(
                    link.version,
                    self._client_id,
                    KEEPALIVE_S,
                    username=address.username,
                    password=address.password,
                    will=greeting.will,
                    session_expiry_s=SESSION_EXPIRY_S,
                    receive_maximum=max(1, min(RECEIVE_MAXIMUM, self._count_max)),
                )
            )
            self._converse(link, greeting)
            self._say_goodbye(link)
            return Outcome.LOST, "closed by us"
        except _Ended as end:
            return end.outcome, end.why
        except (OSError, ProtocolError) as error:
            return (Outcome.LOST if link.established else Outcome.CLOSED_EARLY), str(error) or type(error).__name__
        finally:
            with self._lock:
                self._link = None
            self._counts["bytes_in"] += wire.bytes_in
            self._counts["oversized"] += link.parser.oversized
            self._paused = False
            wire.close()

    def _converse(self, link: _Link, greeting: Greeting) -> None:
        """Read, parse and hand over until closed.

        Raises
        ------
        _Ended, OSError, ProtocolError
            When the connection is over.
        """
        wire, parser, clock = link.wire, link.parser, self._monotonic_s
        last_in_s = looked_s = clock()
        patient_until_s = last_in_s + self._policy.patience_s
        ping_s = last_in_s + PING_S
        while not self._closing:
            if wire.out_bytes:
                wire.flush()
            held, held_bytes = self._held()
            count_room, bytes_room = self._count_max - held, self._bytes_max - held_bytes
            # before the broker's yes nothing is taken, and its yes must be read
            reading = not link.established or (count_room > 0 and bytes_room > 0 and wire.out_bytes < OUT_BYTES_MAX)
            if reading is self._paused:
                self._paused = not reading
                if reading:
                    last_in_s = clock()
                else:
                    self._counts["full"] += 1
                    continue  # looks once more: an acknowledgement may have come before it could see that we pause
            data = None
            if reading:
                if not parser.stopped:
                    data = wire.receive()
                    if data is not None:
                        if not data:
                            raise ConnectionResetError("the broker closed the connection")
                        parser.feed(data, self._now_us())
                if data is not None or parser.stopped:
                    self._take(link, greeting, parser.parse(count_room, bytes_room) if link.established else parser.parse(0))
            now_s = clock()
            if now_s >= ping_s and link.established:
                wire.send(PINGREQ)
                self._counts["pings"] += 1
                ping_s = now_s + min(PING_S, link.ping_s)
            if data is not None:
                last_in_s = now_s
                # a stream: let some more come
                if len(data) < GATHER_BYTES and now_s - looked_s < 3 * GATHER_S:
                    self._wake.wait(GATHER_S)
                looked_s = now_s
                continue
            if parser.stopped and reading:
                continue
            if not link.established:
                if now_s >= patient_until_s:
                    raise _Ended(Outcome.SILENT, f"no answer within {self._policy.patience_s:g} s")
                wire.wait(patient_until_s - now_s, reading=True)
                continue
            if reading and now_s - last_in_s >= SILENCE_S_MAX:
                raise _Ended(Outcome.LOST, f"nothing came for {SILENCE_S_MAX:g} s, not even the answer to a ping")
            wire.wait(min(ping_s - now_s, last_in_s + SILENCE_S_MAX - now_s if reading else PING_S), reading)

    def _take(self, link: _Link, greeting: Greeting, parsed: Parsed) -> None:
        """Hand messages over and answer control packets."""
        messages, size, controls = parsed
        if messages:
            self._received += len(messages)
            self._received_bytes += size
            with self._ready:
                self._chunks.append(messages)
                self._queued += len(messages)
                self._ready.notify()
        for control in controls:
            self._answer(link, greeting, control)
        if link.parser.stopped and not link.established:
            raise ProtocolError("the broker must answer CONNECT before it sends a message, got a message first")

    def _answer(self, link: _Link, greeting: Greeting, control: Control) -> None:
        if isinstance(control, ConnAck) is link.established:
            raise ProtocolError(f"the broker must answer CONNECT first and once, got {type(control).__name__}")
        if isinstance(control, ConnAck):
            self._welcome(link, greeting, control)
        elif isinstance(control, SubAck):
            if control.mid == link.subscribe_mid:
                self._granted(link, greeting, control.reasons)
        elif isinstance(control, PubAck):
            with self._lock:
                link.in_flight.discard(control.mid)
            if control.reason >= 128:
                log.warning("broker %r refused a publication: %s", self._address, reason_text(link.version, control.reason))
        elif isinstance(control, PubRel):
            link.wire.send(pubcomp_packet(control.mid))
        elif isinstance(control, Disconnect):
            raise _Ended(Outcome.LOST, f"the broker ended the connection: {reason_text(link.version, control.reason)}")

    def _welcome(self, link: _Link, greeting: Greeting, answer: ConnAck) -> None:
        """Take the broker's yes or no, and subscribe."""
        if answer.reason:
            outcome = Outcome.WRONG_VERSION if is_wrong_version(answer.reason) else Outcome.REFUSED
            raise _Ended(outcome, reason_text(link.version, answer.reason))
        self._policy.connected()
        link.welcome(answer)
        said = answer.properties.get(Property.SESSION_EXPIRY, SESSION_EXPIRY_S)
        self._session_expiry_s = said if link.version is Version.V5 and isinstance(said, int) else None
        if self._session_expiry_s == 0:
            log.error("broker %r keeps no session: what comes while ingest is away is lost", self._address)
        self._counts["connections"] += 1
        self._session_present, self._state, self._why = answer.session_present, "connected", ""
        self._refused = self._at_qos_0 = ()
        with self._lock:
            self._link = link
        log.info("connected to %r, MQTT %s, session present: %s", self._address, link.version.text, answer.session_present)
        if self._filters:
            link.wire.send(subscribe_packet(link.version, link.subscribe_mid, self._filters))
        else:
            self._granted(link, greeting, ())

    def _granted(self, link: _Link, greeting: Greeting, reasons: Sequence[int]) -> None:
        """Note what may be heard, and say hello when it is anything."""
        answers = list(zip(self._filters, reasons, strict=False))
        self._refused = tuple(name for name, reason in answers if reason >= 128)
        self._at_qos_0 = tuple(name for name, reason in answers if reason == 0)
        if self._refused:
            log.error("broker %r refused the subscription to %s", self._address, ", ".join(self._refused))
        if self._at_qos_0:
            log.warning("broker %r grants only QoS 0, which may lose messages, to %s", self._address, ", ".join(self._at_qos_0))
        if len(self._refused) < len(self._filters) or not self._filters:
            self.publish(greeting.hello)
            self._subscribed = True

    def _say_goodbye(self, link: _Link) -> None:
        """Let what was published go out and be confirmed, within 2 s, then disconnect; what still comes is left to the broker."""
        wire, parser = link.wire, link.parser
        if not link.established:
            return
        end_s = self._monotonic_s() + FAREWELL_S_MAX
        while (link.in_flight or wire.out_bytes) and (left_s := end_s - self._monotonic_s()) > 0:
            wire.flush()
            data = wire.receive()
            if data == b"":
                return
            if data is not None or parser.stopped:
                if data is not None:
                    parser.feed(data, 0)
                for control in parser.parse().controls:
                    if isinstance(control, PubAck):
                        link.in_flight.discard(control.mid)
            else:
                wire.wait(left_s, reading=True)
        with self._lock:
            self._link = None
        wire.send(disconnect_packet(link.version))
        wire.flush()
        # bytes left unread would make the kernel reset the connection, and the broker miss what we said last
        wire.end_sending()
        end_s = self._monotonic_s() + DRAIN_S_MAX
        while (left_s := end_s - self._monotonic_s()) > 0:
            data = wire.receive()
            if data == b"":
                return
            if data is None:
                wire.wait(left_s, reading=True)

    def _held(self) -> tuple[int, int]:
        """Return how many messages and bytes are received and not acknowledged."""
        return max(0, self._received - self._released), max(0, self._received_bytes - self._released_bytes)


class _Link:
    """One connection: its socket and parser, what we may publish by it, and which packet ids are taken."""

    def __init__(self, wire: Wire, version: Version, generation: int, payload_bytes_max: int, topics: dict[bytes, str]) -> None:
        self.wire, self.version, self.generation = wire, version, generation
        self.parser = Parser(version, generation, payload_bytes_max, topics)
        self.established = False
        self.subscribe_mid = 1
        self.in_flight: set[int] = set()
        self.ping_s = PING_S
        self._mid = self.subscribe_mid
        self._in_flight_max, self._qos_max, self._retains, self._packet_max = IN_FLIGHT_MAX, 1, True, 1 << 62

    def welcome(self, answer: ConnAck) -> None:
        """Take what the broker said of its limits."""
        self.established = True
        said = answer.properties

        def number(key: Property, default: int) -> int:
            value = said.get(key, default)
            return value if isinstance(value, int) else default

        self._in_flight_max = min(IN_FLIGHT_MAX, number(Property.RECEIVE_MAXIMUM, IN_FLIGHT_MAX))
        self._qos_max = number(Property.MAXIMUM_QOS, 1)
        self._retains = number(Property.RETAIN_AVAILABLE, 1) == 1
        self._packet_max = number(Property.MAXIMUM_PACKET_SIZE, 1 << 62)
        self.ping_s = max(1.0, number(Property.SERVER_KEEP_ALIVE, KEEPALIVE_S) / 2) if number(Property.SERVER_KEEP_ALIVE, 1) else PING_S

    def acknowledge(self, mids: Sequence[int]) -> int:
        """Acknowledge messages in this order, in one send; return how many there were to acknowledge."""
        qos_2 = self.parser.qos_2
        if qos_2:
            twice = [mid for mid in mids if mid in qos_2]
            mids = [mid for mid in mids if mid not in qos_2]
            qos_2.difference_update(twice)
            if twice:
                self.wire.send(pubrec_packets(twice))
        else:
            twice = []
        once = [mid for mid in mids if mid]
        if once:
            self.wire.send(puback_packets(once))
        return len(once) + len(twice)

    def publish(self, publications: Sequence[Publication]) -> int:
        """Send what the broker takes; return how many."""
        pieces: list[bytes] = []
        waiting = self.wire.out_bytes
        for publication in publications:
            qos = min(publication.qos, self._qos_max)
            if qos and len(self.in_flight) >= self._in_flight_max:
                continue
            mid = self._next_mid() if qos else 0
            fitting = publication._replace(qos=qos, retain=publication.retain and self._retains)
            packet = publish_packet(self.version, fitting, mid)
            waiting += len(packet)
            if len(packet) > self._packet_max or waiting > OUT_BYTES_MAX:
                waiting -= len(packet)
                continue
            if mid:
                self.in_flight.add(mid)
            pieces.append(packet)
        if pieces:
            self.wire.send(b"".join(pieces))
        return len(pieces)

    def _next_mid(self) -> int:
        """Return a packet id that is not in flight; there is one, for fewer than all are."""
        while True:
            self._mid = self._mid % 65_535 + 1
            if self._mid not in self.in_flight and self._mid != self.subscribe_mid:
                return self._mid


def _tls_context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError([f"the certificate authority must be a readable PEM file, got {ca_file!r} ({error})"]) from error
