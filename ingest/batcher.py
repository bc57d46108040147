"""When a batch is full enough: a pure decision, and the list it decides about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchReason(StrEnum):
    """Why a batch is taken now, or why not yet."""

    EMPTY = "empty"
    WAIT = "wait"
    COUNT = "count"
    BYTES = "bytes"
    READINGS = "readings"
    AGE = "age"
    IDLE = "idle"

    @property
    def is_take(self) -> bool:
        """Return whether the batch is to be taken."""
        return self not in (BatchReason.EMPTY, BatchReason.WAIT)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one batch.

    Attributes
    ----------
    count_max : int
        Messages.
    bytes_max : int
        Bytes of payload.
    readings_max : int
        Readings, as far as one message allows: what a transaction holds and what a crash repeats.
    age_s_max : float
        Longest time that the first message of a batch waits, in s, while more keep coming.
    linger_s : float
        How long it waits, in s, when nothing more comes: a broker that allows few messages in flight sends the next ones only after the
        acknowledgement, so that waiting longer would only stall it.
    """

    count_max: int = 10_000
    bytes_max: int = 16 * 2**20
    readings_max: int = 20_000
    age_s_max: float = 0.05
    linger_s: float = 0.003


def decide(limits: BatchLimits, count: int, size_bytes: int, readings: int, age_s: float, idle_s: float) -> BatchReason:
    """Return whether a batch is taken now, and why.

    Parameters
    ----------
    limits : BatchLimits
    count, size_bytes, readings : int
        What is in it: messages, bytes of payload, readings.
    age_s, idle_s : float
        Time since its first and since its last message, in s.

    Examples
    --------
    >>> decide(BatchLimits(), 20, 2000, 20, 0.004, 0.0035), decide(BatchLimits(), 20, 2000, 20, 0.004, 0.001)
    (<BatchReason.IDLE: 'idle'>, <BatchReason.WAIT: 'wait'>)
    """
    if count == 0:
        return BatchReason.EMPTY
    if count >= limits.count_max:
        return BatchReason.COUNT
    if size_bytes >= limits.bytes_max:
        return BatchReason.BYTES
    if readings >= limits.readings_max:
        return BatchReason.READINGS
    if age_s >= limits.age_s_max:
        return BatchReason.AGE
    if idle_s >= limits.linger_s:
        return BatchReason.IDLE
    return BatchReason.WAIT


class Batcher(Generic[T]):
    """Collects items until a limit says that they are a batch; it is told the time.

    Parameters
    ----------
    limits : BatchLimits
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._items: list[T] = []
        self._bytes = 0
        self._readings = 0
        self._first_s = 0.0
        self._last_s = 0.0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def readings(self) -> int:
        """Return how many readings are in it."""
        return self._readings

    def add(self, items: Sequence[T], size_bytes: int, readings: int, now_s: float) -> None:
        """Add items that hold `size_bytes` and `readings` together, at the monotonic instant `now_s`."""
        if not items:
            return
        if not self._items:
            self._first_s = now_s
        self._last_s = now_s
        self._items.extend(items)
        self._bytes += size_bytes
        self._readings += readings

    def decide(self, now_s: float) -> BatchReason:
        """Return whether to `take` now."""
        return decide(self.limits, len(self._items), self._bytes, self._readings, now_s - self._first_s, now_s - self._last_s)

    def room(self) -> int:
        """Return how many more items fit; none when the bytes or the readings are used up."""
        if self._bytes >= self.limits.bytes_max or self._readings >= self.limits.readings_max:
            return 0
        return max(0, self.limits.count_max - len(self._items))

    def wait_s(self, now_s: float, idle_wait_s: float) -> float:
        """Return how long to wait for the next item, in s; `idle_wait_s` when there is none to be committed."""
        if not self._items:
            return idle_wait_s
        return max(0.0, min(self._first_s + self.limits.age_s_max, self._last_s + self.limits.linger_s) - now_s)

    def take(self) -> list[T]:
        """Return everything collected and begin anew."""
        items, self._items, self._bytes, self._readings = self._items, [], 0, 0
        return items
