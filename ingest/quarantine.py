"""How much a device may write into quarantine: a budget of new rows, so that a mad device cannot fill the disk."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from underway.model import HOUR_US

NEW_ROWS_AT_ONCE = 60
NEW_ROWS_PER_HOUR = 600
ALL_ROWS_AT_ONCE = 2_000
ALL_ROWS_PER_HOUR = 20_000
SOURCES_MAX = 10_000
TOPIC_LEVELS = 3
SOURCE_CHARS_MAX = 200
OTHERS = "(others)"
"""Stands for every source beyond `SOURCES_MAX`; they share one share."""


class Room(StrEnum):
    """Whether there is room for one more new row, and if not, whose share is used up."""

    KEEP = "keep"
    SOURCE_SPENT = "source_spent"
    ALL_SPENT = "all_spent"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer for one new row, and the source it was counted against."""

    room: Room
    source: str

    @property
    def keep(self) -> bool:
        """Return whether the row is written; otherwise it only counts as overflow."""
        return self.room is Room.KEEP


@dataclass(slots=True)
class _Bucket:
    """Rows left, times `HOUR_US` (so that refilling is exact in integers), at an instant."""

    left: int
    at_us: int

    def refill(self, now_us: int, at_once: int, per_hour: int) -> None:
        self.left = min(at_once * HOUR_US, self.left + max(0, now_us - self.at_us) * per_hour)
        self.at_us = now_us


def source_of(device_id: str | None, topic: str) -> str:
    """Return who pays: the device, or the first levels of the topic where no device is known.

    Examples
    --------
    >>> source_of("pr-11", "uw/town/pr-11/telemetry"), source_of(None, "uw/town/pr-11/telemetry/x")
    ('pr-11', 'uw/town/pr-11')
    """
    if device_id:
        return device_id[:SOURCE_CHARS_MAX]
    return "/".join(topic.split("/", TOPIC_LEVELS)[:TOPIC_LEVELS])[:SOURCE_CHARS_MAX]


class QuarantineBudget:
    """Decide which new rows of quarantine are written: a token bucket a source, and one over all of them.

    Parameters
    ----------
    at_once, per_hour : int
        New rows of one source: the most in one burst, and how many come back in an hour.
    all_at_once, all_per_hour : int
        The same over all sources together, against one that invents names.
    sources_max : int
        Sources remembered. A source that used nothing for so long that its share is whole again is forgotten first; when there is none,
        newcomers share the bucket `OTHERS`.

    Notes
    -----
    What is identical to a row that is there already asks for no room: it only counts up.

    A decision is provisional until `settle`, because the transaction that it belongs to may fail; `undo` takes back all since then.

    At most ``at_once + per_hour * t / 1 h`` rows of a source are kept in any time t, exactly. A clock that is put back refills nothing.
    Blind to a restart: shares are whole again after it.

    Examples
    --------
    >>> budget = QuarantineBudget(at_once=2, per_hour=60)
    >>> [budget.decide("pr-1", "uw/t/pr-1/telemetry", 0).room.value for _ in range(3)]
    ['keep', 'keep', 'source_spent']
    >>> budget.decide("pr-2", "uw/t/pr-2/telemetry", 0).keep, budget.decide("pr-1", "uw/t/pr-1/telemetry", 60_000_000).keep
    (True, True)
    """

    def __init__(
        self,
        at_once: int = NEW_ROWS_AT_ONCE,
        per_hour: int = NEW_ROWS_PER_HOUR,
        *,
        all_at_once: int = ALL_ROWS_AT_ONCE,
        all_per_hour: int = ALL_ROWS_PER_HOUR,
        sources_max: int = SOURCES_MAX,
    ) -> None:
        self._at_once, self._per_hour = at_once, per_hour
        self._all_at_once, self._all_per_hour = all_at_once, all_per_hour
        self._sources_max = sources_max
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the one used longest ago stands first
        self._others: _Bucket | None = None
        self._all: _Bucket | None = None
        self._spent: Counter[str] = Counter()  # since `settle`, as the next
        self._refused: Counter[Room] = Counter()
        self._refused_before: Counter[Room] = Counter()

    @property
    def sources(self) -> int:
        """Return how many sources are remembered."""
        return len(self._buckets)

    def decide(self, device_id: str | None, topic: str, now_us: int) -> Decision:
        """Return whether one new row may be written now, and take it off the share of its source if so.

        Parameters
        ----------
        device_id : str or None
            Who sent the message, where that is known.
        topic : str
        now_us : int
            Microseconds since 1970.
        """
        source, bucket = self._bucket(source_of(device_id, topic), now_us)
        everyone = self._all = self._all or _Bucket(self._all_at_once * HOUR_US, now_us)
        bucket.refill(now_us, self._at_once, self._per_hour)
        everyone.refill(now_us, self._all_at_once, self._all_per_hour)
        if bucket.left < HOUR_US:
            return self._refuse(Room.SOURCE_SPENT, source)
        if everyone.left < HOUR_US:
            return self._refuse(Room.ALL_SPENT, source)
        bucket.left -= HOUR_US
        everyone.left -= HOUR_US
        self._spent[source] += 1
        return Decision(Room.KEEP, source)

    def _refuse(self, room: Room, source: str) -> Decision:
        self._refused[room] += 1
        return Decision(room, source)

    def settle(self) -> None:
        """Make the decisions since the last call final: their transaction is committed."""
        self._spent.clear()
        self._refused_before.update(self._refused)
        self._refused.clear()

    def undo(self) -> None:
        """Give back what was decided since `settle`: its transaction failed and will be tried again."""
        for source, rows in self._spent.items():
            bucket = self._others if source == OTHERS else self._buckets.get(source)
            if bucket is not None:
                bucket.left += rows * HOUR_US
            if self._all is not None:
                self._all.left += rows * HOUR_US
        self._spent.clear()
        self._refused.clear()

    def facts(self) -> dict[str, Any]:
        """Return what people want to see: sources remembered and their limit, and the rows refused so far by `Room`."""
        refused = self._refused_before + self._refused
        return {
            "sources": self.sources,
            "sources_max": self._sources_max,
            "refused": {room.value: refused[room] for room in Room if room is not Room.KEEP},
        }

    def _bucket(self, source: str, now_us: int) -> tuple[str, _Bucket]:
        bucket = self._buckets.get(source)
        if bucket is not None:
            self._buckets.move_to_end(source)
            return source, bucket
        if len(self._buckets) >= self._sources_max:
            oldest, used = next(iter(self._buckets.items()))
            used.refill(now_us, self._at_once, self._per_hour)
            if used.left < self._at_once * HOUR_US or oldest in self._spent:
                self._others = self._others or _Bucket(self._at_once * HOUR_US, now_us)
                return OTHERS, self._others
            del self._buckets[oldest]
        bucket = self._buckets[source] = _Bucket(self._at_once * HOUR_US, now_us)
        return source, bucket
