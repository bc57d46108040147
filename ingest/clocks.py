"""How far the clock of each device is ahead, estimated from pairs of (observed, received)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from underway.model import HOUR_US, SECOND_US

PAIRS = 5
AGREE_US = 30 * SECOND_US
SPAN_US_MIN = 10 * SECOND_US
BUCKET_US = 3 * SECOND_US
"""Messages of a device within so long are one witness, so that the last five of one that sends often span enough."""
OFFSET_US_MIN = 5 * SECOND_US
OFFSET_US_MAX = 26 * HOUR_US
"""A day and a wrong time zone; what is further ahead is no clock that runs."""
STEP_US = 2 * SECOND_US
_NONE = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class ClockChange:
    """A device whose estimated offset changed, from ``offset_ms`` on."""

    device: int
    offset_ms: int
    since_us: int


class ClockBook:
    """Offsets of the clocks of n devices, by device number.

    Parameters
    ----------
    size : int
        Number of devices n.

    Notes
    -----
    Nothing can be observed after it was received, so the newest observation of a message minus its reception is the offset of the clock minus
    the delay on the way, and the largest of the last five such differences is the estimate, one in 3 s at most. It is believed when the five
    agree within 30 s and were received over at least 10 s: what a buffer sends after an outage does not agree, it catches up. Below 5 s,
    and when negative, it is 0.

    `offset_ms` answers from what was learned before; `learn` is called after the commit, so that a batch that is tried again is learned once.

    Cost about ten numpy passes over the messages of a batch. State 100 bytes a device.

    Blind to a clock that is behind: that looks like a slow way, and moving old data forward would page people for it. Blind to a jump for the
    first five messages: until then what is more than two minutes ahead is quarantined.

    Examples
    --------
    >>> book = ClockBook(1)
    >>> for minute in range(5):
    ...     changes = book.learn(np.array([0]), np.array([3_600_000_000]), np.array([minute * 60_000_000]))
    >>> book.offset_ms(np.array([0])).tolist(), changes[0].offset_ms
    ([3600000], 3600000)
    """

    def __init__(self, size: int) -> None:
        self._ahead_us = np.full((size, PAIRS), _NONE, np.int64)
        self._received_us = np.full((size, PAIRS), _NONE, np.int64)
        self._next = np.zeros(size, np.int64)
        self._bucket = np.full(size, _NONE, np.int64)
        self._offset_ms = np.zeros(size, np.int32)
        self._any = False

    def offset_ms(self, device: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return how far the clock of each device is ahead, in ms; `device` has shape (n,)."""
        return self._offset_ms[device]

    @property
    def offsets(self) -> NDArray[np.int32]:
        """All offsets in ms, by device number."""
        return self._offset_ms

    def carry(self, place: NDArray[np.int64], before: ClockBook, place_before: NDArray[np.int64]) -> None:
        """Take the pairs over that an earlier book had, device by device; both places have shape (n,)."""
        self._ahead_us[place] = before._ahead_us[place_before]
        self._received_us[place] = before._received_us[place_before]
        self._next[place] = before._next[place_before]
        self._bucket[place] = before._bucket[place_before]

    def restore(self, device: int, offset_ms: int) -> None:
        """Take back what `learn` told before a restart."""
        self._offset_ms[device] = offset_ms
        self._any = self._any or offset_ms != 0

    def learn(self, device: NDArray[np.int64], ahead_us: NDArray[np.int64], received_us: NDArray[np.int64]) -> Sequence[ClockChange]:
        """Take the pairs of a batch of messages in, in the order in which they were received.

        Parameters
        ----------
        device : ndarray of int64, shape (m,)
            Device number of each message.
        ahead_us : ndarray of int64, shape (m,)
            Newest observed instant of the message minus its reception, microseconds.
        received_us : ndarray of int64, shape (m,)

        Returns
        -------
        sequence of ClockChange
            To be stored.
        """
        sane = ahead_us <= OFFSET_US_MAX
        if not sane.all():
            device, ahead_us, received_us = device[sane], ahead_us[sane], received_us[sane]
        if not len(device):
            return ()
        order = np.argsort(device, kind="stable")
        device, ahead_us, received_us = device[order], ahead_us[order], received_us[order]
        # of messages that follow each other within one bucket of time the last is the witness
        bucket = received_us // BUCKET_US
        ends = np.flatnonzero(np.append((device[1:] != device[:-1]) | (bucket[1:] != bucket[:-1]), True))
        device, ahead_us, received_us, bucket = device[ends], ahead_us[ends], received_us[ends], bucket[ends]
        last = np.flatnonzero(np.append(device[1:] != device[:-1], True))
        count = np.diff(last, prepend=-1)
        first = last - count + 1
        again = bucket[first] == self._bucket[device[first]]
        number = np.arange(len(device)) - np.repeat(first, count)
        # the last five witnesses of each device are enough
        kept = np.repeat(count, count) - number <= PAIRS
        place = (self._next[device] + number - np.repeat(again, count)) % PAIRS
        device_kept, place = device[kept], place[kept]
        self._ahead_us[device_kept, place] = ahead_us[kept]
        self._received_us[device_kept, place] = received_us[kept]
        seen = device[last]
        self._next[seen] = (self._next[seen] + count - again) % PAIRS
        self._bucket[seen] = bucket[last]
        ahead = self._ahead_us[seen]
        most = ahead.max(axis=1)
        # the rule: a clock that is right is the common case, and nothing has to be looked at
        if not self._any and most.max() < OFFSET_US_MIN:
            return ()
        least, received = ahead.min(axis=1), self._received_us[seen]
        believed = (least != _NONE) & (most - np.maximum(least, most - 2 * AGREE_US) <= AGREE_US)
        believed &= received.max(axis=1) - received.min(axis=1) >= SPAN_US_MIN
        wanted = np.where(most >= OFFSET_US_MIN, (most + SECOND_US // 2) // SECOND_US * 1000, 0)
        now = self._offset_ms[seen].astype(np.int64)
        changed = believed & ((np.abs(wanted - now) * 1000 > STEP_US) | ((wanted == 0) & (now != 0)))
        if not changed.any():
            return ()
        index = np.flatnonzero(changed)
        self._offset_ms[seen[index]] = wanted[index]
        self._any = bool(self._offset_ms.any())
        newest = received.max(axis=1)
        return [ClockChange(int(seen[i]), int(wanted[i]), int(newest[i])) for i in index]
