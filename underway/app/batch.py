"""What is decided about one batch before and after it is stored: pure functions over its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from underway.app.intake import Item
from underway.model import Fault, FaultReason, ReadingBatch, ReadingFlag, from_us
from underway.store.copy import first_occurrence
from underway.store.memory import LateWindow
from underway.store.quarantine import QuarantineEntry

Late = Sequence[tuple[str, NDArray[np.integer[Any]]]]
"""Lanes that judged the time of some rows already, each with the positions of these rows."""


class Newest:
    """The newest stored key of each channel: what is newer is certain to be new.

    Cost one numpy pass a batch. State 8 bytes a channel. A channel is certain once the store was asked for its newest key (`unheard`, `learn`).

    Examples
    --------
    >>> newest, batch = Newest(), ReadingBatch.from_columns([3], [100], [1.5])
    >>> newest.is_before(batch), newest.unheard(batch).tolist()
    (False, [3])
    >>> newest.learn(np.array([3]), np.array([90]))
    >>> newest.is_before(batch), newest.take(batch), newest.is_before(batch)
    (True, None, False)
    """

    def __init__(self) -> None:
        self._observed_us = np.empty(0, np.int64)

    def is_before(self, batch: ReadingBatch) -> bool:
        """Return whether every row is newer than everything stored of its channel; rows with one key do not come twice."""
        known = self._observed_us
        return len(known) > int(batch.channel_id.max(initial=0)) and bool((batch.observed_us > known[batch.channel_id]).all())

    def unheard(self, batch: ReadingBatch) -> NDArray[np.int32]:
        """Return the channels of which the store has not been asked yet."""
        known = self._observed_us
        inside = batch.channel_id < len(known)
        asked = np.zeros(len(batch), np.bool_)
        asked[inside] = known[batch.channel_id[inside]] != _UNKNOWN
        return np.unique(batch.channel_id[~asked])

    def learn(self, channel_id: NDArray[np.int32], observed_us: NDArray[np.int64]) -> None:
        """Take in the newest stored key of channels."""
        size = int(channel_id.max(initial=-1)) + 1
        if size > len(self._observed_us):
            more = np.full(max(size, 2 * len(self._observed_us)), _UNKNOWN, np.int64)
            more[: len(self._observed_us)] = self._observed_us
            self._observed_us = more
        self._observed_us[channel_id] = observed_us

    def take(self, batch: ReadingBatch) -> None:
        """Note what was stored, of channels that are known."""
        known = self._observed_us
        inside = batch.channel_id < len(known)
        channel_id, observed_us = batch.channel_id[inside], batch.observed_us[inside]
        asked = known[channel_id] != _UNKNOWN
        np.maximum.at(known, channel_id[asked], observed_us[asked])

    def forget(self) -> None:
        """Be certain of nothing."""
        self._observed_us = np.empty(0, np.int64)


_UNKNOWN = np.iinfo(np.int64).max


def in_order(batch: ReadingBatch) -> ReadingBatch:
    """Return the rows in event order, of several with one key the first that came."""
    if len(batch) < 2:
        return batch
    first = first_occurrence(batch.observed_us, batch.channel_id)
    if not first.all():
        batch = batch.take(first)
    event_us = batch.in_event_time().observed_us
    return batch.take(np.lexsort((batch.channel_id, event_us)))


def late_mask(n: int, late: Late) -> NDArray[np.bool_]:
    """Return which of n rows are late for some lane."""
    mask = np.zeros(n, np.bool_)
    for _, rows in late:
        mask[rows] = True
    return mask


def flagged(batch: ReadingBatch, late: Late) -> ReadingBatch:
    """Return the batch with the late rows flagged."""
    if not late:
        return batch
    flags = batch.flags | np.where(late_mask(len(batch), late), np.uint8(ReadingFlag.LATE), np.uint8(0))
    return dataclasses.replace(batch, flags=flags)


def late_windows(event: ReadingBatch, late: Late, new: NDArray[np.bool_]) -> list[LateWindow]:
    """Return the intervals to be judged again: of each lane the span of its late rows that were not there before."""
    windows: list[LateWindow] = []
    for lane, rows in late:
        fresh = rows[new[rows]]
        if len(fresh):
            at_us = event.observed_us[fresh]
            channels = tuple(np.unique(event.channel_id[fresh]).tolist())
            windows.append(LateWindow(lane, int(at_us.min()), int(at_us.max()) + 1, len(fresh), channels))
    return windows


def quarantine_entry(item: Item, fault: Fault) -> QuarantineEntry:
    """Return a fault with the message that it is about."""
    message = item.message
    return QuarantineEntry(
        from_us(message.received_us), item.dialect, message.topic, message.payload, fault, message.size or len(message.payload)
    )


def quarantine_entries(items: Sequence[Item], faults: Sequence[tuple[int, Fault]]) -> list[QuarantineEntry]:
    """Return one entry a message and reason: the first fault, with the number of further ones of that reason."""
    if not faults:
        return []
    grouped: dict[tuple[int, FaultReason], list[Fault]] = {}
    for index, fault in faults:
        grouped.setdefault((index, fault.reason), []).append(fault)
    entries: list[QuarantineEntry] = []
    for (index, _), found in grouped.items():
        fault = found[0]
        if len(found) > 1:
            fault = dataclasses.replace(fault, message=f"{fault.message}; and {len(found) - 1} more of this kind")
        entries.append(quarantine_entry(items[index], fault))
    return entries
