"""The ingest service as an operator runs it: ``underway run --only ingest``, started again when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .ports import free_port

RESTART_S = 0.3


class Ingest:
    """One process at a time, under a supervisor that starts it again, as systemd or Docker do.

    Attributes
    ----------
    starts : int
        How often it was started; the first counts.
    ended_by_itself : list of int
        Exit codes of processes that ended though nobody killed them.
    """

    def __init__(self, folder: Path, database_url: str, mqtt_url: str, settings: dict[str, str] | None = None) -> None:
        self.log_path = folder / "ingest.log"
        self.metrics_port = free_port()
        self.starts = 0
        self.ended_by_itself: list[int] = []
        own = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERWAY_", "PG"))}
        self._environment = {
            **own,
            "UNDERWAY_DATABASE_URL": database_url,
            "UNDERWAY_MQTT_URL": mqtt_url,
            "UNDERWAY_CHECKPOINT_S": "2",
            "UNDERWAY_METRICS_PORT": str(self.metrics_port),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Start it, and keep it running from now on."""
        with self._lock:
            self._wanted = True
            self._spawn()

    def stop(self) -> int:
        """SIGTERM, and wait; return its exit code."""
        with self._lock:
            self._wanted = False
            process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def kill(self) -> bool:
        """SIGKILL; the supervisor starts the next. False when none was there: killed a moment ago, and not started again yet."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return False
        process.kill()
        process.wait()
        return True

    def kill_for_good(self) -> None:
        """SIGKILL, and start no other."""
        with self._lock:
            self._wanted = False
        self.kill()

    @property
    def pid(self) -> int:
        process = self._process
        return 0 if process is None else process.pid

    @property
    def is_alive(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    def metrics(self) -> str:
        """Return what it says to Prometheus; empty while it says nothing."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
        except OSError:
            return ""
        return text

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5)
        self.kill_for_good()

    def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "underway", "run", "--only", "ingest", "--stop-with-parent"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    def _supervise(self) -> None:
        while not self._ends.wait(RESTART_S):
            with self._lock:
                if not self._wanted:
                    continue
                if self._process is not None and (code := self._process.poll()) is not None:
                    self.ended_by_itself.append(code)
                    self._process = None
                if self._process is None:
                    self._spawn()


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> float:
    """Wait until `condition` is true; return how long that took, in s."""
    begin_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begin_s < seconds, f"waited {seconds:g} s in vain {what}"
        time.sleep(0.1)
    return time.monotonic() - begin_s
