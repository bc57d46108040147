"""What ingest counts and times of itself."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

COMMIT_S_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_BOUNDS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0)
STAGES = ("receive", "decode", "resolve", "copy", "detect", "store", "checkpoint", "commit", "ack")


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound, as Prometheus wants them; the last count is everything above.

    Examples
    --------
    >>> h = Histogram((1.0, 10.0))
    >>> for value in (0.5, 10.0, 99.0): h.add(value)
    >>> h.counts, h.total
    ([1, 1, 1], 109.5)
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": round(self.total, 6)}


class Stages:
    """CPU and wall time by stage of the path, with the readings that went through it.

    A stage inside another one counts for itself alone: the times of all stages add up to what the threads took.
    """

    def __init__(self) -> None:
        self._inner = threading.local()
        self.cpu_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.wall_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.readings: Counter[str] = Counter()

    @contextmanager
    def timed(self, stage: str, readings: int = 0) -> Iterator[None]:
        """Add what the block takes, in the thread that runs it."""
        inner = self._inner
        outer: tuple[float, float] = getattr(inner, "spent", (0.0, 0.0))
        inner.spent = (0.0, 0.0)
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
            self.cpu_s[stage] += cpu_s - inner.spent[0]
            self.wall_s[stage] += wall_s - inner.spent[1]
            self.readings[stage] += readings
            inner.spent = outer[0] + cpu_s, outer[1] + wall_s

    def facts(self) -> dict[str, Any]:
        """Return plain values by stage."""
        return {
            stage: {"cpu_s": round(self.cpu_s[stage], 6), "wall_s": round(self.wall_s[stage], 6), "readings": self.readings[stage]}
            for stage in self.cpu_s
        }


@dataclass(slots=True)
class Metrics:
    """What was counted since the process began."""

    messages: int = 0
    readings: int = 0
    duplicates: int = 0
    late: int = 0
    findings: int = 0
    batches: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    dialect_messages: Counter[str] = field(default_factory=Counter)
    dialect_readings: Counter[str] = field(default_factory=Counter)
    batch_size: int = 0
    batch_readings: int = 0
    commit_s: float = 0.0
    last_commit_at: datetime | None = None
    newest_observed_us: int | None = None
    checkpoint_batch_id: int = 0
    checkpoints: int = 0
    rebuilds: int = 0
    replayed_batches: int = 0
    retries: int = 0
    poison: int = 0
    store_error: str = ""
    commit_times: Histogram = field(default_factory=lambda: Histogram(COMMIT_S_BOUNDS))
    batch_sizes: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    rates: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=6))

    def rate(self, now_s: float) -> tuple[float, float]:
        """Return messages and readings a wall second, over the last few calls."""
        self.rates.append((now_s, self.messages, self.readings))
        first_s, messages, readings = self.rates[0]
        span_s = now_s - first_s
        if span_s <= 0:
            return 0.0, 0.0
        return (self.messages - messages) / span_s, (self.readings - readings) / span_s
