"""A subscriber that only acknowledges, for machines without ``mosquitto_sub``: port, client id, filter, count, 'persistent' or 'clean'."""

from __future__ import annotations

import socket
import sys

from underway.app.bench.wire import connect_packet, subscribe_packet

RECEIVE_BYTES = 256 * 1024
KEEPALIVE_S = 600


def drain(port: int, client_id: str, topic_filter: str, count: int, *, clean: bool) -> None:
    """Subscribe at QoS 1, acknowledge `count` messages as they come, and leave; 0 subscribes only."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(connect_packet(client_id, clean=clean, keepalive_s=KEEPALIVE_S) + subscribe_packet(topic_filter, 1))
        buffer, subscribed, got = b"", False, 0
        while not subscribed or got < count:
            data = connection.recv(RECEIVE_BYTES)
            if not data:
                raise SystemExit("the broker closed the connection")
            buffer += data
            position, acks = 0, []
            while (end := packet_end(buffer, position)) is not None:
                kind = buffer[position]
                if kind & 0xF0 == 0x90:
                    subscribed = True
                elif kind & 0xF0 == 0x30:
                    got += 1
                    if kind & 0x06:
                        acks.append(b"\x40\x02" + _mid(buffer, position))
                position = end
            buffer = buffer[position:]
            if acks:
                connection.sendall(b"".join(acks))
        connection.sendall(b"\xe0\x00")


def packet_end(buffer: bytes, start: int) -> int | None:
    r"""Return where the packet at `start` ends; None when it is not complete.

    Examples
    --------
    >>> packet_end(b"\xd0\x00\x40\x02", 0), packet_end(b"\xd0\x00\x40\x02", 2)
    (2, None)
    """
    length, shift, at = 0, 0, start + 1
    while at < len(buffer):
        length |= (buffer[at] & 127) << shift
        at += 1
        if not buffer[at - 1] & 128:
            return at + length if at + length <= len(buffer) else None
        shift += 7
    return None


def _mid(buffer: bytes, start: int) -> bytes:
    at = start + 1
    while buffer[at] & 128:
        at += 1
    topic = int.from_bytes(buffer[at + 1 : at + 3], "big")
    return buffer[at + 3 + topic : at + 5 + topic]


if __name__ == "__main__":
    drain(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), clean=sys.argv[5] == "clean")
