"""What the MQTT source meets in tests: a broker that does what the test says, a silent network, a Mosquitto with settings of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


def wait_until(condition: Callable[[], object], seconds: float = 20.0, what: str = "") -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, f"waited {seconds:g} s in vain {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Packet(NamedTuple):
    """One packet of a client: its first byte and what follows its length."""

    head: int
    body: bytes


class Peer:
    """One accepted connection, read packet by packet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(20)
        self.pieces: list[int] = []
        self._data = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _more(self) -> bytes:
        data = self.sock.recv(65_536)
        self.pieces.append(len(data))
        if not data:
            raise EOFError
        return data

    def packet(self) -> Packet:
        """Return the next packet; EOFError when the client closed."""
        while True:
            length = shift = 0
            at = 1
            complete = False
            while at < len(self._data):
                byte = self._data[at]
                length |= (byte & 127) << shift
                shift, at = shift + 7, at + 1
                if byte < 128:
                    complete = True
                    break
            if complete and len(self._data) >= at + length:
                packet = Packet(self._data[0], self._data[at : at + length])
                self._data = self._data[at + length :]
                return packet
            self._data += self._more()

    def greet(self, version: int = 5, reason: int = 0, granted: bytes | None = None) -> Packet:
        """Answer CONNECT and SUBSCRIBE; return the CONNECT. `granted` is the answer for each filter, QoS 1 by default."""
        connect = self.packet()
        assert connect.head == 0x10
        self.send(bytes((0x20, 3, 0, reason, 0)) if version == 5 else bytes((0x20, 2, 0, reason)))
        if reason == 0:
            subscribe = self.packet()
            assert subscribe.head == 0x82
            answers = granted if granted is not None else b"\x01" * filters_of(subscribe, version)
            properties = b"\0" if version == 5 else b""
            self.send(bytes((0x90, 2 + len(properties) + len(answers))) + subscribe.body[:2] + properties + answers)
        return connect

    def close(self) -> None:
        self.sock.close()


def filters_of(subscribe: Packet, version: int) -> int:
    """Return how many filters a SUBSCRIBE names."""
    at, count = (3 if version == 5 else 2), 0
    while at < len(subscribe.body):
        at += 3 + int.from_bytes(subscribe.body[at : at + 2], "big")
        count += 1
    return count


def version_of(connect: Packet) -> int:
    """Return the protocol level of a CONNECT: 5, or 4 for 3.1.1."""
    return connect.body[6]


class ScriptedBroker:
    """Listens; the test accepts connections and plays the broker on them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._peers: list[Peer] = []

    def accept(self) -> Peer:
        sock, _ = self._listener.accept()
        self._peers.append(Peer(sock))
        return self._peers[-1]

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self._listener.close()


class Proxy:
    """Forwards to a broker until it is silenced: then nothing comes through either way, and no connection is closed."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._silent = threading.Event()
        self._socks: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def silence(self) -> None:
        """From now on nothing comes through on the connections that there are; new ones are served."""
        self._silent.set()
        self._silent = threading.Event()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._socks += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(one, other, self._silent), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = one.recv(65_536)
                if silent.is_set():
                    return
                if not data:
                    other.shutdown(socket.SHUT_WR)
                    return
                other.sendall(data)

    def close(self) -> None:
        """End every connection, as when the program at the other end dies."""
        for sock in (self._listener, *self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # a thread waits in it, and would keep it open
            sock.close()


class Mosquitto:
    """A Mosquitto with the lines of a test, that may be killed and started again."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        whoami = ["user root"] if os.geteuid() == 0 else []
        text = [f"listener {self.port} 127.0.0.1", *lines, *whoami, "allow_anonymous true", f"persistence_location {folder}/"]
        self._config.write_text("\n".join(text) + "\n")
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        assert program is not None
        self._process = subprocess.Popen([program, "-c", str(self._config)], stderr=subprocess.DEVNULL)

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        wait_until(listens, what="for mosquitto")

    def save(self) -> None:
        """Let it write its sessions, and wait until it has."""
        assert self._process is not None
        saved = self.folder / "mosquitto.db"
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        wait_until(lambda: saved.exists() and saved.stat().st_mtime_ns > before, what="for mosquitto to save")

    def kill(self) -> None:
        """End it as a power cut does: what is not saved is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None


@contextlib.contextmanager
def mosquitto_with(folder: Path, *lines: str) -> Iterator[Mosquitto]:
    broker = Mosquitto(folder, *lines)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
