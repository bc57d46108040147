"""Start the services as processes of their own, notice when one dies, and start it again with backoff."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from underway.model import OperatorError

RESTART_S = (0.2, 0.5, 1.0, 2.0, 5.0)
HEALTHY_AFTER_S = 30.0
STOP_S = 8.0
TAIL_LINES = 15


@dataclass(slots=True)
class Service:
    """One service process.

    Attributes
    ----------
    name : str
        ``ingest``, ``workorders`` or ``web``.
    restarts : int
        How often it was started again.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    failures: int = 0
    next_start: float = 0.0
    log: IO[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        """Return the process id, or None when it does not run."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def tail(self) -> str:
        """Return the last lines of its log."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])


class Supervisor:
    """Keeps services running until it is stopped.

    Parameters
    ----------
    folder : Path
        Where logs go, one file a service.
    env : mapping
        Environment of all services, beside the present one.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = {**os.environ, **env}
        self._services: dict[str, Service] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    @property
    def services(self) -> tuple[Service, ...]:
        """Return the services in the order in which they were started."""
        return tuple(self._services.values())

    def start(self, name: str) -> Service:
        """Start ``underway run --only <name>`` and keep it running."""
        command = (sys.executable, "-m", "underway", "run", "--only", name, "--stop-with-parent")
        service = Service(name, command, self._env, self._folder / f"{name}.log")
        with self._lock:
            self._services[name] = service
            self._launch(service)
            if not self._thread.is_alive():
                self._thread.start()
        return service

    def kill(self, name: str) -> None:
        """Send SIGKILL to a service; it is started again like after any crash."""
        process = self._services[name].process
        if process is not None:
            process.kill()

    def check(self) -> None:
        """Raise when a service cannot stay up, with the end of its log.

        Raises
        ------
        OperatorError
        """
        for service in self.services:
            if service.failures > len(RESTART_S):
                raise OperatorError(
                    f"service '{service.name}' died {service.failures} times in a row; the end of {service.log_path}:\n{service.tail()}"
                )

    def stop(self) -> None:
        """Stop all services, last started first: SIGTERM, then SIGKILL after a while."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_S)
        with self._lock:
            running = [s for s in reversed(self._services.values()) if s.pid is not None]
            for service in running:
                assert service.process is not None
                with contextlib.suppress(ProcessLookupError):
                    service.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_S
            for service in running:
                assert service.process is not None
                try:
                    service.process.wait(timeout=max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    service.process.kill()
                    service.process.wait()
            for service in self._services.values():
                if service.log is not None:
                    service.log.close()

    def _launch(self, service: Service) -> None:
        if service.log is None:
            service.log = service.log_path.open("ab")
        service.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own command
            service.command,
            env=dict(service.env),
            stdin=subprocess.DEVNULL,
            stdout=service.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        service.started = time.monotonic()

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            with self._lock:
                for service in self._services.values():
                    self._tend(service)

    def _tend(self, service: Service) -> None:
        now = time.monotonic()
        if service.process is None:
            if now >= service.next_start:
                service.restarts += 1
                self._launch(service)
        elif service.process.poll() is not None:
            service.failures = 1 if now - service.started > HEALTHY_AFTER_S else service.failures + 1
            service.next_start = now + RESTART_S[min(service.failures, len(RESTART_S)) - 1]
            service.process = None


@contextlib.contextmanager
def supervised(folder: Path, env: Mapping[str, str]) -> Iterator[Supervisor]:
    """Yield a supervisor; on leaving, whatever happened, no process stays behind."""
    supervisor = Supervisor(folder, env)
    try:
        yield supervisor
    finally:
        supervisor.stop()
