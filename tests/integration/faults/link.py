"""A network link that breaks: a TCP proxy whose packets vanish, or that freezes, or that resets.

`Link.cut` is a network without packets. A socket filter that drops everything is put on each of the proxy's sockets and on the one that listens:
what a peer sends is not even acknowledged by the kernel, nobody gets a FIN or a RST, and a new connection finds no answer. `Link.freeze` is the
other kind of silence: the connection is there, the kernel acknowledges, and nothing comes through.
"""

from __future__ import annotations

import contextlib
import ctypes
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

from .ports import free_port

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
BPF_RET_K = 0x06
CHUNK_BYTES = 65_536
BUFFER_BYTES_MAX = 1 << 20
PERIOD_S = 0.02
SETTLE_S = 0.2


class _DropAll:
    """A classic BPF program of one instruction: accept 0 bytes of the packet."""

    def __init__(self) -> None:
        self._code = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET_K, 0, 0, 0))
        self.program = struct.pack("HL", 1, ctypes.addressof(self._code))


_DROP_ALL = _DropAll()


@dataclass
class _Pair:
    client: socket.socket
    server: socket.socket
    to_server: bytearray = field(default_factory=bytearray)
    to_client: bytearray = field(default_factory=bytearray)
    is_open: bool = True

    def both(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.server

    def with_room(self) -> list[socket.socket]:
        """Return the ends that may be read."""
        ends = ((self.client, self.to_server), (self.server, self.to_client))
        return [end for end, waiting in ends if len(waiting) < BUFFER_BYTES_MAX]


class Link:
    """Forward 127.0.0.1:`port` to 127.0.0.1:`target_port`, as long as the link is up."""

    def __init__(self, target_port: int) -> None:
        self.port, self._target = free_port(), target_port
        self._state = "up"
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self.accepted = 0
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Let every packet vanish, both ways."""
        with self._lock:
            self._state = "cut"
        time.sleep(SETTLE_S)  # what is under way is acknowledged, so that our own kernel repeats nothing into the dark
        with self._lock:
            for pair in self._pairs:
                for end in pair.both():
                    with contextlib.suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
                        end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _DROP_ALL.program)
            self._listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _DROP_ALL.program)

    def freeze(self) -> None:
        """Forward nothing and close nothing; the kernel goes on acknowledging."""
        with self._lock:
            self._state = "frozen"

    def heal(self) -> None:
        """Forward again, what waited included."""
        with self._lock:
            if self._state == "cut":
                self._listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
                for pair in self._pairs:
                    for end in pair.both():
                        with contextlib.suppress(OSError):
                            end.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
                            _watch(end)
            self._state = "up"

    def reset(self) -> None:
        """End every connection with a RST."""
        with self._lock:
            for pair in self._pairs:
                _end(pair, hard=True)
            self._pairs.clear()

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5)
        self.reset()
        self._listener.close()

    def _run(self) -> None:
        while not self._ends.is_set():
            with self._lock:
                moved = self._turn() if self._state == "up" else False
            if not moved:
                self._rest()

    def _rest(self) -> None:
        """Wait until something can be read, or a moment."""
        with self._lock:
            watched = [end for pair in self._pairs for end in pair.with_room()] if self._state == "up" else []
        if not watched:
            time.sleep(PERIOD_S)
            return
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            for end in (*watched, self._listener):
                selector.register(end, selectors.EVENT_READ)
            selector.select(PERIOD_S)

    def _turn(self) -> bool:
        moved = self._accept()
        for pair in self._pairs:
            moved |= _forward(pair, pair.client, pair.to_server, pair.server)
            moved |= _forward(pair, pair.server, pair.to_client, pair.client)
        self._pairs = [pair for pair in self._pairs if pair.is_open]
        return moved

    def _accept(self) -> bool:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return False
        server = socket.socket()
        try:
            server.connect(("127.0.0.1", self._target))
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            server.close()
            return True
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _watch(end)
        self._pairs.append(_Pair(client, server))
        self.accepted += 1
        return True


def _watch(end: socket.socket) -> None:
    """Find out soon that the other side is gone: a real network would carry its RST, we stand in between."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _forward(pair: _Pair, source: socket.socket, waiting: bytearray, sink: socket.socket) -> bool:
    """Move what there is; an end or an error of one side becomes that of the other."""
    if not pair.is_open:
        return False
    moved = False
    try:
        if len(waiting) < BUFFER_BYTES_MAX:
            chunk = source.recv(CHUNK_BYTES)
            if not chunk:
                with contextlib.suppress(OSError):
                    sink.sendall(waiting)
                _end(pair, hard=False)
                return True
            waiting += chunk
            moved = True
    except BlockingIOError:
        pass
    except OSError:
        _end(pair, hard=True)
        return True
    if waiting:
        try:
            sent = sink.send(waiting)
        except BlockingIOError:
            return moved
        except OSError:
            _end(pair, hard=True)
            return True
        del waiting[:sent]
        moved = True
    return moved


def _end(pair: _Pair, *, hard: bool) -> None:
    pair.is_open = False
    for end in pair.both():
        if hard:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
