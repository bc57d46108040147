"""Whose turn it is to be written: the state of the detectors is saved one part at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class CheckpointTurns:
    """Whose turn it is to be written: one part at a time, so that all of them are written within the interval.

    Parameters
    ----------
    interval_s : float
        Each part is written once in it, wall time in s.
    batches, readings : int
        Or once in so many.
    now_s : float
        Monotonic.

    Examples
    --------
    >>> turns = CheckpointTurns(10.0, 1_000, 1_000_000, 0.0)
    >>> turns.begin(["a", "b"], 0.0)
    >>> turns.due(4.0, 9), turns.due(5.0, 9), turns.done("a", 5.0), turns.due(10.0, 9)
    (None, 'a', None, 'b')
    """

    def __init__(self, interval_s: float, batches: int, readings: int, now_s: float) -> None:
        self._interval_s, self._batches_max, self._readings_max = interval_s, batches, readings
        self._waiting: deque[str] = deque()
        self._dirty: set[str] = set()
        self._last_s = now_s
        self._batches = self._readings = 0

    def begin(self, parts: Sequence[str], now_s: float) -> None:
        """Take the parts of a bank that was built just now: nothing of it is unsaved but what a replay brought."""
        self._waiting, self._dirty = deque(parts), set(parts)
        self._last_s, self._batches, self._readings = now_s, 0, 0

    def due(self, now_s: float, readings: int) -> str | None:
        """Note a batch; return the part that is to be written with it, if one is."""
        self._batches += 1
        self._readings += readings
        self._dirty.update(self._waiting)
        if not self._waiting:
            return None
        share = 1.0 / len(self._waiting)
        if (
            self._batches >= self._batches_max * share
            or self._readings >= self._readings_max * share
            or now_s - self._last_s >= self._interval_s * share
        ):
            return self._waiting[0]
        return None

    def done(self, part: str, now_s: float) -> None:
        """Note that a part is written: it is the last in the row now."""
        self._dirty.discard(part)
        self._waiting.remove(part)
        self._waiting.append(part)
        self._last_s, self._batches, self._readings = now_s, 0, 0

    def unsaved(self) -> list[str]:
        """Return the parts that changed since they were written."""
        return sorted(self._dirty)
