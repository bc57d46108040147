"""What the running application holds: settings, connections, the hub, the login limiter, a very short memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from psycopg_pool import ConnectionPool

from web.auth import LoginLimiter
from web.config import WebConfig
from web.live import Hub


class Brief:
    """Remember one answer for a moment, so that many pages that ask at once cost one question.

    Parameters
    ----------
    keep_s : float
        Wall seconds for which an answer is given again.
    """

    def __init__(self, keep_s: float, monotonic_s: Callable[[], float]) -> None:
        self._keep_s, self._monotonic_s = keep_s, monotonic_s
        self._lock = threading.Lock()
        self._answer: Any = None
        self._until_s = float("-inf")

    def get(self, ask: Callable[[], Any]) -> Any:
        """Return the remembered answer, or ask; who comes while somebody asks waits for that answer."""
        with self._lock:
            if self._monotonic_s() >= self._until_s:
                self._answer = ask()
                self._until_s = self._monotonic_s() + self._keep_s
            return self._answer

    def forget(self) -> None:
        """Ask again next time."""
        with self._lock:
            self._until_s = float("-inf")


class State:
    """Everything that requests share."""

    hub: Hub

    def __init__(self, config: WebConfig, pool: ConnectionPool[Any]) -> None:
        self.config, self.pool = config, pool
        self.limiter = LoginLimiter()
        self.overview = Brief(0.3, config.monotonic_s)
        self.network = Brief(60.0, config.monotonic_s)
