"""A broker that ends and comes back on the same port, with the settings of the demonstration's."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from underway.app.brokers import Broker, embedded_broker

from .ports import free_port


class RestartableBroker:
    """Mosquitto or amqtt, up or down."""

    def __init__(self, folder: Path, kind: str = "mosquitto") -> None:
        self.folder, self.kind, self.port = folder, kind, free_port()
        self._stack = contextlib.ExitStack()
        self._running: Broker | None = None
        self.log_text = ""

    def start(self) -> Broker:
        assert self._running is None, "the broker runs already"
        self._running = self._stack.enter_context(embedded_broker(self.folder, kind=self.kind, port=self.port))
        return self._running

    @property
    def running(self) -> Broker:
        assert self._running is not None, "the broker is down"
        return self._running

    def stop(self) -> None:
        """SIGTERM: Mosquitto writes its sessions."""
        if self._running is not None:
            self._stack.close()
            self.log_text += self._running.log_path.read_text(errors="replace")
            self._running = None

    def kill(self) -> None:
        """SIGKILL: what was not written is gone."""
        os.kill(self.running.pid, signal.SIGKILL)
        self.stop()

    def save(self) -> None:
        """Let Mosquitto write its sessions now, and wait until it has."""
        path = self.folder / "mosquitto.db"
        before = path.stat().st_mtime_ns if path.exists() else 0
        os.kill(self.running.pid, signal.SIGUSR1)
        end_s = time.monotonic() + 60
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert time.monotonic() < end_s, "the broker wrote no sessions within 60 s"
            time.sleep(0.02)
