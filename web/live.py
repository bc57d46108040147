"""Tell every open page that something changed: the database is asked once for all of them.

A message names topics, never content; a page then reads what it shows. Each client has a short queue; when it is full the
oldest message goes and the client is told to read everything (``resync``). Nobody is asked while nobody listens.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from underway.model import StoreUnavailable

log = logging.getLogger("underway.web")

QUEUE_MAX = 16
BACKOFF_S_MAX = 10.0

Message = dict[str, Any]
Queue = asyncio.Queue[Message | None]
"""None says that there will be no more messages."""


def changed_topics(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the topics whose mark differs, sorted.

    Examples
    --------
    >>> changed_topics({"alarms": "1", "orders": "4"}, {"alarms": "2", "orders": "4"})
    ['alarms']
    """
    return sorted(topic for topic, mark in after.items() if before.get(topic) != mark)


def offer(queue: Queue, message: Message | None) -> None:
    """Put `message` into a bounded queue; a full one loses its oldest and the message becomes a ``resync``."""
    if queue.full():
        queue.get_nowait()
        message = message and {**message, "resync": True}
    queue.put_nowait(message)


class Hub:
    """One poller, many listeners.

    Parameters
    ----------
    marks : callable
        Returns one mark a topic, see `underway.store.views.change_marks`; called in the hub's own thread.
    poll_s : float
        Wall seconds between two questions.
    clients_max : int
        Listeners at a time.
    """

    def __init__(self, marks: Callable[[], Mapping[str, str]], poll_s: float, clients_max: int) -> None:
        self._marks, self._poll_s, self._clients_max = marks, poll_s, clients_max
        self._queues: set[Queue] = set()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._seq = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the poller; messages are handed over in `loop`."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="underway-web-live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every stream, stop the poller and wait for it, at most five seconds; any thread may call it, more than once."""
        self._stop.set()
        self._wake.set()
        self._hand_over(None)
        if self._thread is not None:
            self._thread.join(timeout=5)

    @property
    def full(self) -> bool:
        """Whether no listener more is taken."""
        return len(self._queues) >= self._clients_max

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Queue]:
        """Listen until the block ends; ask `full` first."""
        queue: Queue = asyncio.Queue(QUEUE_MAX)
        self._queues.add(queue)
        self._wake.set()
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    def _run(self) -> None:
        last: Mapping[str, str] = {}
        failures = 0
        while not self._stop.is_set():
            if not self._queues:
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                marks = self._marks()
            except (psycopg.OperationalError, PoolTimeout, StoreUnavailable) as exc:
                failures += 1
                log.warning("live pages: the database cannot be reached (%s)", type(exc).__name__)
                self._send({"topics": [], "store": "unavailable"})
                self._stop.wait(min(self._poll_s * 2**failures, BACKOFF_S_MAX))
                continue
            topics = changed_topics(last, marks)
            if topics or failures:
                self._send({"topics": topics, "store": "ok"})
            failures = 0
            last = marks
            self._stop.wait(self._poll_s)

    def _send(self, message: Message) -> None:
        self._seq += 1
        self._hand_over({"seq": self._seq, **message})

    def _hand_over(self, message: Message | None) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, message)

    def _deliver(self, message: Message | None) -> None:
        for queue in self._queues:
            offer(queue, message)
