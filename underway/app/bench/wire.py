"""A device's side of MQTT 3.1.1 as fast as a broker takes it: packets made beforehand, thousands unacknowledged at a time.

The client libraries cost more a message than the broker does; a benchmark that fills a backlog with them would wait for itself.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from underway.model import StoreUnavailable

WINDOW = 10_000
CHUNK_BYTES = 256 * 1024
MID_MAX = 65_535
PUBACK_BYTES = 4
ANSWER_S_MAX = 30.0


def varint(number: int) -> bytes:
    """Return a length as MQTT and protobuf write it: seven bits a byte, the lowest first.

    Examples
    --------
    >>> varint(5).hex(), varint(321).hex()
    ('05', 'c102')
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def connect_packet(client_id: str, *, clean: bool = True, keepalive_s: int = 0) -> bytes:
    """Return CONNECT of MQTT 3.1.1; a keepalive of 0 means that nobody watches."""
    name = client_id.encode()
    body = b"\x00\x04MQTT\x04" + bytes([2 if clean else 0]) + struct.pack(">H", keepalive_s) + struct.pack(">H", len(name)) + name
    return b"\x10" + varint(len(body)) + body


def subscribe_packet(topic_filter: str, qos: int, mid: int = 1) -> bytes:
    """Return SUBSCRIBE to one filter."""
    name = topic_filter.encode()
    body = struct.pack(">HH", mid, len(name)) + name + bytes([qos])
    return b"\x82" + varint(len(body)) + body


def publish_packet(topic: bytes, payload: bytes, mid: int) -> bytes:
    """Return PUBLISH at QoS 1.

    Examples
    --------
    >>> publish_packet(b"a", b"Hi", 7).hex()
    '320700016100074869'
    """
    return b"\x32" + varint(len(topic) + len(payload) + 4) + struct.pack(">H", len(topic)) + topic + struct.pack(">H", mid) + payload


def take_over(port: int, client_id: str) -> None:
    """Take the session of a client, whose connection the broker then closes, and leave at once; the session stays.

    Raises
    ------
    StoreUnavailable
        When the broker does not let us, or has no such session.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S_MAX) as connection:
        connection.sendall(connect_packet(client_id, clean=False))
        answer = connection.recv(4)
        if len(answer) != 4 or answer[:2] != b"\x20\x02" or answer[2:] != b"\x01\x00":
            raise StoreUnavailable(
                f"the broker on port {port} must have a session of '{client_id}', it answered {answer.hex() or 'nothing'}"
            )
        connection.sendall(b"\xe0\x00")


def packets(messages: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return one PUBLISH a (topic, payload), numbered 1, 2, .. 65535, 1, ..: fewer than that are ever unacknowledged."""
    return [publish_packet(topic, payload, index % MID_MAX + 1) for index, (topic, payload) in enumerate(messages)]


def chunks(all_packets: Sequence[bytes], size_bytes: int = CHUNK_BYTES) -> list[tuple[bytes, int]]:
    """Return packets joined to pieces of about `size_bytes`, each with the number of packets in it."""
    found: list[tuple[bytes, int]] = []
    first, size = 0, 0
    for index, packet in enumerate(all_packets):
        size += len(packet)
        if size >= size_bytes:
            found.append((b"".join(all_packets[first : index + 1]), index + 1 - first))
            first, size = index + 1, 0
    if first < len(all_packets):
        found.append((b"".join(all_packets[first:]), len(all_packets) - first))
    return found


@dataclass(frozen=True, slots=True)
class Due:
    """A piece of packets that is to be sent at an instant of ``time.perf_counter``."""

    at_s: float
    data: bytes
    count: int


class Publisher:
    """One connection that only publishes, at QoS 1.

    Parameters
    ----------
    port : int
        Of a broker on 127.0.0.1 that lets anybody in.
    client_id : str

    Raises
    ------
    StoreUnavailable
        When the broker refuses, closes the connection, or acknowledges nothing for 30 s.
    """

    def __init__(self, port: int, client_id: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0
        self._acked_bytes = 0
        self._socket.sendall(connect_packet(client_id))
        answer = self._socket.recv(4)
        if len(answer) != 4 or answer[0] != 0x20 or answer[3] != 0:
            raise StoreUnavailable(f"the broker on port {port} must accept the publisher of the benchmark, got {answer.hex() or 'nothing'}")
        self._socket.setblocking(False)

    @property
    def acked(self) -> int:
        """Return how many of the messages sent the broker has acknowledged: nothing else comes on this connection, so bytes tell."""
        return self._acked_bytes // PUBACK_BYTES

    def publish(self, pieces: Iterable[tuple[bytes, int]], window: int = WINDOW) -> float:
        """Send everything, at most about `window` messages unacknowledged, wait for the last acknowledgement; return the time in s."""
        began_s = time.perf_counter()
        for data, count in pieces:
            while self.sent - self.acked > window:
                self._wait(write=False)
            self._send(data, count)
        self._confirm()
        return time.perf_counter() - began_s

    def paced(self, pieces: Iterable[Due], stop: Callable[[], bool]) -> float:
        """Send each piece when it is due; return by how much the worst was late, in s. `stop` ends it early."""
        worst_s = 0.0
        for piece in pieces:
            if stop():
                break
            while (wait_s := piece.at_s - time.perf_counter()) > 0:
                self._wait(write=False, wait_s=wait_s)
            worst_s = max(worst_s, time.perf_counter() - piece.at_s)
            self._send(piece.data, piece.count)
        self._confirm()
        return worst_s

    def send_now(self, packet: bytes) -> float:
        """Send one message; return the instant of ``time.perf_counter`` just before."""
        at_s = time.perf_counter()
        self._send(packet, 1)
        self._take(0.0)
        return at_s

    def close(self) -> None:
        """Say goodbye."""
        self._socket.setblocking(True)
        self._socket.sendall(b"\xe0\x00")
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, data: bytes, count: int) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                self._wait(write=True)
        self.sent += count

    def _confirm(self) -> None:
        while self.acked < self.sent:
            self._wait(write=False)

    def _wait(self, *, write: bool, wait_s: float | None = None) -> None:
        """Wait for acknowledgements, or until there is room to write; `wait_s` None: the broker must answer in time."""
        readable, writable, _ = select.select(
            [self._socket], [self._socket] if write else [], [], ANSWER_S_MAX if wait_s is None else wait_s
        )
        if readable:
            self._take(None)
        elif not writable and wait_s is None:
            raise StoreUnavailable(f"the broker must acknowledge within {ANSWER_S_MAX:g} s, {self.sent - self.acked} messages wait")

    def _take(self, wait_s: float | None) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            if wait_s is None:
                raise
            return
        if not data:
            raise StoreUnavailable("the broker closed the connection of the benchmark's publisher")
        self._acked_bytes += len(data)
