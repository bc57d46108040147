"""MQTT 5.0 and 3.1.1 as a subscriber speaks it: bytes in, packets out, and packets into bytes. No I/O, no clock.

`Parser` takes what a socket gives, in whatever pieces, and returns messages and control packets; the functions build what we send. References are to
the OASIS standards MQTT 5.0 and MQTT 3.1.1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from ingest.mqtt_types import Message, Publication
from underway.model import InternalError, StoreUnavailable

PAYLOAD_BYTES_MAX = 2**20
KEPT_BYTES = 64 * 2**10
"""What is kept of a payload above the limit."""
CONTROL_BYTES_MAX = 64 * 2**10
HEADER_BYTES_MAX = 128 * 2**10
TOPICS_MAX = 131_072
"""Topics remembered as text; one more, and all are forgotten."""
TOPIC_BYTES_MAX = 256
"""Longer ones are not remembered."""
NOT_UTF8_TOPIC = "(the topic is not UTF-8)"
WILL_BYTES_MAX = 65_535
REMAINING_MAX = 268_435_455
PINGREQ = b"\xc0\x00"


class ProtocolError(StoreUnavailable):
    """The broker sent what is no MQTT: the connection is of no use any more."""


class Version(IntEnum):
    """The protocol level in CONNECT."""

    V311 = 4
    V5 = 5

    @property
    def text(self) -> str:
        """Return it as people write it."""
        return "5.0" if self is Version.V5 else "3.1.1"

    @property
    def other(self) -> Version:
        """Return the one that this is not."""
        return Version.V311 if self is Version.V5 else Version.V5


# what the broker says --------------------------------------------------------------------------------------------------------------------

PropertyValue = int | str | bytes | tuple[str, str]


class ConnAck(NamedTuple):
    """The answer to CONNECT; `reason` 0 is yes. Of a property that may repeat the last is kept."""

    session_present: bool
    reason: int
    properties: dict[int, PropertyValue]


class SubAck(NamedTuple):
    """The answer to SUBSCRIBE: for each filter the QoS granted, or a reason of 128 and more."""

    mid: int
    reasons: tuple[int, ...]


class PubAck(NamedTuple):
    """The broker has a publication of ours at QoS 1."""

    mid: int
    reason: int


class PubRel(NamedTuple):
    """The broker heard that we have its message of QoS 2."""

    mid: int


class PingResp(NamedTuple):
    """The broker lives."""


class Disconnect(NamedTuple):
    """The broker ends the connection, MQTT 5."""

    reason: int


Control = ConnAck | SubAck | PubAck | PubRel | PingResp | Disconnect


class Parsed(NamedTuple):
    """What `Parser.parse` found: messages and the bytes of payload they hold, and control packets, each in order."""

    messages: list[Message]
    size: int
    controls: list[Control]


class Property(IntEnum):
    """Properties that we send or read (MQTT 5.0, section 2.2.2.2)."""

    SESSION_EXPIRY = 17
    SERVER_KEEP_ALIVE = 19
    REASON_STRING = 31
    RECEIVE_MAXIMUM = 33
    MAXIMUM_QOS = 36
    RETAIN_AVAILABLE = 37
    MAXIMUM_PACKET_SIZE = 39


_BYTE, _TWO, _FOUR, _VARINT, _BINARY, _TEXT, _PAIR = range(7)
_PROPERTY_KIND = {
    1: _BYTE, 2: _FOUR, 3: _TEXT, 8: _TEXT, 9: _BINARY, 11: _VARINT, 17: _FOUR, 18: _TEXT, 19: _TWO, 21: _TEXT, 22: _BINARY,
    23: _BYTE, 24: _FOUR, 25: _BYTE, 26: _TEXT, 28: _TEXT, 31: _TEXT, 33: _TWO, 34: _TWO, 35: _TWO, 36: _BYTE, 37: _BYTE, 38: _PAIR,
    39: _FOUR, 40: _BYTE, 41: _BYTE, 42: _BYTE,
}  # fmt: skip

_REASONS = {
    0: "success", 4: "disconnect with will", 128: "unspecified error", 129: "malformed packet", 130: "protocol error",
    131: "implementation specific error", 132: "unsupported protocol version", 133: "client id not valid", 134: "bad user name or password",
    135: "not authorized", 136: "server unavailable", 137: "server busy", 138: "banned", 139: "server shutting down",
    140: "bad authentication method", 141: "keep alive timeout", 142: "session taken over", 143: "topic filter invalid",
    144: "topic name invalid", 145: "packet id in use", 146: "packet id not found", 147: "receive maximum exceeded", 148: "topic alias invalid",
    149: "packet too large", 150: "message rate too high", 151: "quota exceeded", 152: "administrative action", 153: "payload format invalid",
    154: "retain not supported", 155: "QoS not supported", 156: "use another server", 157: "server moved",
    158: "shared subscriptions not supported", 159: "connection rate exceeded", 160: "maximum connect time",
    161: "subscription ids not supported", 162: "wildcard subscriptions not supported",
}  # fmt: skip
_REASONS_311 = {
    0: "success", 1: "unsupported protocol version", 2: "client id not valid", 3: "server unavailable", 4: "bad user name or password",
    5: "not authorized", 128: "failure",
}  # fmt: skip


def reason_text(version: Version, reason: int) -> str:
    """Return a reason code as words.

    Examples
    --------
    >>> reason_text(Version.V5, 135), reason_text(Version.V311, 5), reason_text(Version.V5, 250)
    ('not authorized', 'not authorized', 'reason 250')
    """
    # a broker that does not speak MQTT 5 answers in the words of 3.1.1
    known = _REASONS_311 if version is Version.V311 or 0 < reason < 4 else _REASONS
    return known.get(reason, f"reason {reason}")


def is_wrong_version(reason: int) -> bool:
    """Return whether a CONNACK says that the protocol is the wrong one: in the words of either, for a broker may know only one."""
    return reason in (1, 132)


# the parser ------------------------------------------------------------------------------------------------------------------------------


class Parser:
    """Turns the bytes of one connection into messages and control packets.

    Parameters
    ----------
    version : Version
    generation : int
        Number of the connection: first half of the messages' token.
    payload_bytes_max : int
        Of a larger payload the first 64 kB are kept and the rest is skipped as it streams in, in bytes.
    topics : dict or None
        Topics known as text, by their bytes; shared by the connections of one source. Bounded by `TOPICS_MAX`.

    Raises
    ------
    ProtocolError
        From `parse`, and then from each later call: what came is no MQTT. Never anything else, whatever comes.

    Notes
    -----
    A message costs a handful of slices of the chunk that it came in. Bytes of a packet that is not complete wait as a list of chunks and are joined
    once, so that work grows with the bytes and not with their square, whatever the pieces. What is held is bounded: one packet of at most
    `payload_bytes_max` + 128 kB, and one chunk.

    Blind to properties of messages (content type, user properties, expiry): skipped unread. A topic alias is not asked for, so none may come; a
    topic may then be empty, which is for the reader to refuse.

    Examples
    --------
    >>> parser = Parser(Version.V311, 1)
    >>> parser.feed(bytes.fromhex("320700016100074869"), 5)
    >>> [(m.topic, m.payload, m.mid) for m in parser.parse().messages]
    [('a', b'Hi', 7)]
    """

    def __init__(
        self, version: Version, generation: int, payload_bytes_max: int = PAYLOAD_BYTES_MAX, topics: dict[bytes, str] | None = None
    ) -> None:
        self.version = version
        self._generation = generation
        self._payload_max = payload_bytes_max
        self._packet_max = payload_bytes_max + HEADER_BYTES_MAX
        self._topics = {} if topics is None else topics
        self._received_us = 0
        self._data, self._pos = b"", 0
        self._parts: list[bytes] = []
        self._have = self._need = 0
        self._oversize: _Oversize | None = None
        self._failed: ProtocolError | None = None
        self.stopped = False
        """Whether `parse` stopped at a limit, with more to be parsed."""
        self.qos_2: set[int] = set()
        """Packet ids of messages that came with QoS 2; we never ask for it, but a session may hold an old subscription."""
        self.oversized = 0
        """Messages above the limit so far."""

    def feed(self, data: bytes, received_us: int) -> None:
        """Take what came from the socket at `received_us`; nothing is parsed yet."""
        self._received_us = received_us
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
        elif self._pos < len(self._data):
            data = self._data[self._pos :] + data
        self._data, self._pos = data, 0

    def parse(self, count_max: int = 1 << 62, bytes_max: int = 1 << 62) -> Parsed:
        """Return what is complete; stop once there are `count_max` messages or `bytes_max` bytes of payload, which the last may exceed.

        Raises
        ------
        ProtocolError
            See the class.
        """
        if self._failed is not None:
            raise self._failed
        try:
            return self._parse(count_max, bytes_max)
        except IndexError:
            self._failed = ProtocolError("the broker must send whole MQTT packets, got one that ends inside a field")
            raise self._failed from None
        except ProtocolError as error:
            self._failed = error
            raise

    def _parse(self, count_max: int, bytes_max: int) -> Parsed:
        messages: list[Message] = []
        controls: list[Control] = []
        self.stopped = False
        if self._parts:
            return Parsed(messages, 0, controls)
        data, pos, limit = self._data, self._pos, len(self._data)
        size = need = 0
        if self._oversize is not None and pos < limit:
            pos = self._oversize.take(data, pos)
            size += self._finish_oversize(messages)
        topics, payload_max, generation, received_us = self._topics, self._payload_max, self._generation, self._received_us
        is_5 = self.version is Version.V5
        append, new = messages.append, tuple.__new__
        while pos + 2 <= limit:
            head, length, start = data[pos], data[pos + 1], pos + 2
            if length > 127:
                found = _varint(data, pos + 1, limit)
                if found is None:
                    break
                length, start = found
            end = start + length
            is_publish = 0x30 <= head < 0x40
            if not is_publish and length > CONTROL_BYTES_MAX:
                raise ProtocolError(
                    f"a control packet of the broker must have at most {CONTROL_BYTES_MAX} bytes, got {length} (first byte 0x{head:02x})"
                )
            if end > limit:
                if is_publish and length > self._packet_max:
                    self._oversize = _Oversize(head, length, is_5, payload_max)
                    pos = self._oversize.take(data, start)
                else:
                    need = end - pos
                break
            if not is_publish:
                controls.append(self._control(head, data[start:end]))
                pos = end
                continue
            if len(messages) >= count_max or size >= bytes_max:
                self.stopped = True
                break
            at = start + 2
            after = at + (data[start] << 8 | data[start + 1])
            raw = data[at:after]
            topic = topics.get(raw)
            if topic is None:
                topic = self._topic(raw)
            qos = head >> 1 & 3
            mid = 0
            if qos:
                mid = data[after] << 8 | data[after + 1]
                after += 2
                if mid == 0 or qos > 1:
                    self._check(qos, mid)
            if is_5:
                skipped = data[after]
                after += 1
                if skipped > 127:
                    found = _varint(data, after - 1, end)
                    if found is None:
                        raise IndexError
                    skipped, after = found
                after += skipped
            if after > end:
                raise IndexError
            payload = data[after:end]
            full = end - after
            if full > payload_max:
                payload = payload[: min(KEPT_BYTES, payload_max)]
                self.oversized += 1
            size += len(payload)
            append(new(Message, (topic, payload, received_us, (generation, mid), full, qos, head & 1 == 1, head & 8 == 8, mid)))
            pos = end
        if self.stopped:
            self._pos = pos
        else:
            self._data, self._pos = b"", 0
            if pos < limit:
                self._parts = [data[pos:]]
                self._have = limit - pos
                self._need = need or self._have + 1
        return Parsed(messages, size, controls)

    def _finish_oversize(self, messages: list[Message]) -> int:
        """Add the message above the limit when its end has come; return the bytes kept of it."""
        big = self._oversize
        if big is None or big.left:
            return 0
        self._oversize = None
        raw, mid, kept, full = big.result()
        self.oversized += full > self._payload_max
        topic = self._topics.get(raw) or self._topic(raw)
        qos = big.head >> 1 & 3
        if qos:
            self._check(qos, mid)
        messages.append(
            Message(topic, kept, self._received_us, (self._generation, mid), full, qos, big.head & 1 == 1, big.head & 8 == 8, mid)
        )
        return len(kept)

    def _check(self, qos: int, mid: int) -> None:
        """Refuse what no broker may send, and note a message of QoS 2."""
        if mid == 0 or qos == 3:
            raise ProtocolError(f"a message must have QoS 0, 1 or 2 and then a packet id, got QoS {qos} and id {mid}")
        if qos == 2:
            self.qos_2.add(mid)

    def _topic(self, raw: bytes) -> str:
        """Return a topic as text, and remember it."""
        try:
            topic = raw.decode()
        except UnicodeDecodeError:
            return NOT_UTF8_TOPIC
        if len(raw) <= TOPIC_BYTES_MAX:
            if len(self._topics) >= TOPICS_MAX:
                self._topics.clear()
            self._topics[raw] = topic
        return topic

    def _control(self, head: int, body: bytes) -> Control:
        """Return a packet that is no message; `body` is all that follows its length."""
        is_5 = self.version is Version.V5
        if head == 0x40:
            return PubAck(_mid(body), body[2] if is_5 and len(body) > 2 else 0)
        if head == 0xD0:
            return PingResp()
        if head == 0x90:
            mid, at = _mid(body), 2
            if is_5:
                _, at = _properties(body, 2)
            return SubAck(mid, tuple(body[at:]))
        if head == 0x20:
            # a broker that speaks only 3.1.1 answers a CONNECT of MQTT 5 without properties
            properties = _properties(body, 2)[0] if is_5 and len(body) > 2 else {}
            return ConnAck(body[0] & 1 == 1, body[1], properties)
        if head == 0x62:
            return PubRel(_mid(body))
        if head == 0xE0 and is_5:
            return Disconnect(body[0] if body else 0)
        raise ProtocolError(
            f"a broker must send packets of MQTT {self.version.text} that we asked for, got one with first byte 0x{head:02x}"
        )


@dataclass(slots=True)
class _Oversize:
    """A message above the limit that streams in: its topic and packet id, the first bytes of its payload, and how many come still."""

    head: int
    left: int
    is_5: bool
    payload_max: int
    lead: bytearray = field(default_factory=bytearray)
    kept: bytearray = field(default_factory=bytearray)
    raw: bytes = b""
    mid: int = 0
    skip: int = -1
    full: int = 0
    keep: int = 0

    def take(self, data: bytes, pos: int) -> int:
        """Take what of `data` after `pos` belongs to this packet; return where the next begins."""
        end = min(len(data), pos + self.left)
        piece = data[pos:end]
        self.left -= len(piece)
        if self.skip < 0:
            self.lead += piece
            body_at = self._read_header()
            if body_at is None:
                if self.left == 0:
                    raise IndexError
                return end
            piece = bytes(self.lead[body_at:])
            self.lead.clear()
        skipped = min(self.skip, len(piece))
        self.skip -= skipped
        room = self.keep - len(self.kept)
        if room > 0:
            self.kept += piece[skipped : skipped + room]
        return end

    def _read_header(self) -> int | None:
        """Read topic, packet id and the length of the properties; return where they begin, or None when that is not here yet."""
        lead, have = self.lead, len(self.lead)
        if have < 2:
            return None
        after = 2 + (lead[0] << 8 | lead[1])
        qos = self.head >> 1 & 3
        topic_end = after
        after += 2 if qos else 0
        if have < after:
            return None
        if qos:
            self.mid = lead[after - 2] << 8 | lead[after - 1]
        skip = 0
        if self.is_5:
            found = _varint(lead, after, have)
            if found is None:
                return None
            skip, after = found
        self.raw = bytes(lead[2:topic_end])
        self.full = have + self.left - after - skip
        if self.full < 0:
            raise IndexError
        # long properties may stand before a payload that is not above the limit
        self.keep = self.full if self.full <= self.payload_max else min(KEPT_BYTES, self.payload_max)
        self.skip = skip
        return after

    def result(self) -> tuple[bytes, int, bytes, int]:
        """Return topic, packet id, what is kept of the payload, and its full size."""
        return self.raw, self.mid, bytes(self.kept), self.full


def _varint(data: bytes | bytearray, pos: int, limit: int) -> tuple[int, int] | None:
    """Return a variable byte integer and where it ends (section 1.5.5), or None when it goes beyond `limit`."""
    value = shift = 0
    while pos < limit:
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, pos
        shift += 7
        if shift > 21:
            raise ProtocolError("a length must have at most 4 bytes, got one that goes on")
    return None


def _mid(body: bytes) -> int:
    return body[0] << 8 | body[1]


def _properties(body: bytes, pos: int) -> tuple[dict[int, PropertyValue], int]:
    """Return properties and where they end (section 2.2.2)."""
    found = _varint(body, pos, len(body))
    if found is None:
        raise IndexError
    length, pos = found
    end = pos + length
    if end > len(body):
        raise IndexError
    values: dict[int, PropertyValue] = {}
    while pos < end:
        key = body[pos]
        pos += 1
        kind = _PROPERTY_KIND.get(key)
        if kind is None:
            raise ProtocolError(f"a property must be one of MQTT 5.0, got number {key}")
        value: PropertyValue
        if kind == _BYTE:
            value, pos = body[pos], pos + 1
        elif kind in (_TWO, _FOUR):
            width = 2 if kind == _TWO else 4
            if pos + width > end:
                raise IndexError
            value, pos = int.from_bytes(body[pos : pos + width], "big"), pos + width
        elif kind == _VARINT:
            found = _varint(body, pos, end)
            if found is None:
                raise IndexError
            value, pos = found
        elif kind == _BINARY:
            value, pos = _binary(body, pos)
        else:
            raw, pos = _binary(body, pos)
            value = raw.decode(errors="replace")
            if kind == _PAIR:
                raw, pos = _binary(body, pos)
                value = (value, raw.decode(errors="replace"))
        values[key] = value
    if pos > end:
        raise IndexError
    return values, end


def _binary(body: bytes, pos: int) -> tuple[bytes, int]:
    end = pos + 2 + (body[pos] << 8 | body[pos + 1])
    if end > len(body):
        raise IndexError
    return body[pos + 2 : end], end


# what we say -----------------------------------------------------------------------------------------------------------------------------


def connect_packet(
    version: Version,
    client_id: str,
    keepalive_s: int,
    *,
    username: str | None = None,
    password: str | None = None,
    will: Publication | None = None,
    session_expiry_s: int = 0,
    receive_maximum: int = 65_535,
) -> bytes:
    """Return CONNECT for a session that outlives the connection.

    Parameters
    ----------
    keepalive_s : int
        0..65535 s; the broker ends a connection on which nothing comes for one and a half of it.
    session_expiry_s : int
        How long the broker keeps a session that is away, in s; MQTT 5 only (3.1.1: as long as the broker likes).
    receive_maximum : int
        Most unacknowledged messages that the broker may send, 1..65535; MQTT 5 only.

    Raises
    ------
    InternalError
        When a text or the will is longer than the protocol can say.
    """
    is_5 = version is Version.V5
    flags = 0
    body = _text(client_id, "client id")
    if is_5:
        properties = struct.pack(">BIBH", Property.SESSION_EXPIRY, session_expiry_s, Property.RECEIVE_MAXIMUM, receive_maximum)
        body = _length(len(properties)) + properties + body
    if will is not None:
        if len(will.payload) > WILL_BYTES_MAX:
            raise InternalError(f"a will must have at most {WILL_BYTES_MAX} bytes, got {len(will.payload)} (topic {will.topic!r})")
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        body += (b"\x00" if is_5 else b"") + _text(will.topic, "topic of the will") + struct.pack(">H", len(will.payload)) + will.payload
    if username is not None:
        flags |= 0x80
        body += _text(username, "user name")
        if password is not None:
            flags |= 0x40
            body += _text(password, "password")
    # 3.1.1: bit 1 is 'clean session', which is not set; MQTT 5: 'clean start', the same
    return _packet(0x10, b"\x00\x04MQTT" + struct.pack(">BBH", version, flags, keepalive_s) + body)


def subscribe_packet(version: Version, mid: int, filters: Sequence[str], qos: int = 1) -> bytes:
    """Return one SUBSCRIBE for all `filters`."""
    body = struct.pack(">H", mid) + (b"\x00" if version is Version.V5 else b"")
    return _packet(0x82, body + b"".join(_text(name, "topic filter") + bytes((qos,)) for name in filters))


def publish_packet(version: Version, publication: Publication, mid: int) -> bytes:
    """Return PUBLISH; `mid` counts at QoS 1 only."""
    topic, payload, qos, retain = publication
    body = _text(topic, "topic")
    if qos:
        body += struct.pack(">H", mid)
    if version is Version.V5:
        body += b"\x00"
    return _packet(0x30 | qos << 1 | retain, body + payload)


def puback_packets(mids: Sequence[int]) -> bytes:
    """Return PUBACK for each packet id, in order, as one piece.

    Examples
    --------
    >>> puback_packets([1, 258]).hex(" ", 4)
    '40020001 40020102'
    """
    return struct.pack(f">{len(mids)}I", *[0x40020000 | mid for mid in mids])


def pubrec_packets(mids: Sequence[int]) -> bytes:
    """Return PUBREC for each packet id: the first half of acknowledging QoS 2."""
    return struct.pack(f">{len(mids)}I", *[0x50020000 | mid for mid in mids])


def pubcomp_packet(mid: int) -> bytes:
    """Return PUBCOMP: the second half of acknowledging QoS 2."""
    return struct.pack(">I", 0x70020000 | mid)


def disconnect_packet(version: Version, reason: int = 0) -> bytes:
    """Return DISCONNECT; the broker then forgets the will, unless `reason` says otherwise (MQTT 5)."""
    return bytes((0xE0, 1, reason)) if version is Version.V5 and reason else b"\xe0\x00"


def _packet(head: int, body: bytes) -> bytes:
    if len(body) > REMAINING_MAX:
        raise InternalError(f"a packet must have at most {REMAINING_MAX} bytes, got {len(body)}")
    return bytes((head,)) + _length(len(body)) + body


def _length(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(text: str, what: str) -> bytes:
    raw = text.encode(errors="replace")
    if len(raw) > 65_535:
        raise InternalError(f"the {what} must have at most 65535 bytes, got {len(raw)}")
    return struct.pack(">H", len(raw)) + raw


# for the fuzzer --------------------------------------------------------------------------------------------------------------------------


def fuzz(data: bytes) -> None:
    """Parse arbitrary bytes: the first chooses the protocol and the pieces. Only `ProtocolError` may come, and pieces must change nothing.

    Raises
    ------
    AssertionError
        When the pieces changed what was found.
    """
    if not data:
        return
    version, step, stream = (Version.V5 if data[0] & 1 else Version.V311), 1 + (data[0] >> 1) % 23, data[1:]
    outcomes = []
    for pieces in ([stream], [stream[i : i + step] for i in range(0, len(stream), step)]):
        # small limits, so that the ways for large messages are walked too
        parser = Parser(version, 1, payload_bytes_max=64)
        found: list[Message] = []
        controls: list[Control] = []
        failed = False
        for piece in pieces:
            parser.feed(piece, 0)
            try:
                parsed = parser.parse()
            except ProtocolError:
                failed = True
                break
            found += parsed.messages
            controls += parsed.controls
        outcomes.append((failed, found, controls))
    (whole_failed, whole, whole_controls), (split_failed, split, split_controls) = outcomes
    # a fault in the middle costs what stood before it in the same piece: then the pieces may know more
    assert whole_failed == split_failed, (whole_failed, split_failed)
    if not whole_failed:
        assert (whole, whole_controls) == (split, split_controls)
