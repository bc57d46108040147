"""Lanes: what stands between a batch and a detector. They put rows on a grid, wait for the stragglers, drop duplicates and the late.

Both lanes look at rows one after the other (in vectorised form), never at batches, so splitting a batch anywhere changes nothing.

The watermark of a grid lane
----------------------------
A channel *covers* the time up to its newest reading plus its nominal interval. A grid time is judged when every channel that is alive covers the
end of its bucket. A channel is not waited for once it is silent: its cover is `STALL_LIVE_US` behind the newest reading that came live, and nothing
was received from it for as long (plus its interval); or its cover is `STALL_HISTORY_US` behind the newest reading at all. So a dead sensor delays
its zone once, by 15 minutes, while packs of buffered history (one device after the other, six hours each, all received at about the same time) are
put together again before they are judged. Readings that come after their grid time was judged are late: counted, otherwise ignored. A logger that
sends in packs while the rest of its zone is live is therefore late always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.contract import BankOutput, BoolArray, Detector, FloatArray, FrameDetector, Frames, IntArray, RowDetector, Rows, no_output
from detectors.snapshot import pack, unpack
from underway.model import HOUR_US, MINUTE_US, Channel, Hold, Quality, ReadingBatch, ReadingFlag

STALL_LIVE_US = 15 * MINUTE_US
STALL_HISTORY_US = 24 * HOUR_US
FUTURE_US_MAX = 10 * MINUTE_US
CHUNK_ROWS = 4096
NEVER_US = -(2**62)
"""An instant before everything; small enough that intervals can be added to it."""
BEHIND = int(ReadingFlag.LATE | ReadingFlag.HISTORICAL)


class Lane(Protocol):
    """A detector with what feeds it."""

    late_rows: int

    @property
    def detector(self) -> Detector:
        """Detector that is fed."""
        ...

    def step(self, batch: ReadingBatch, column: IntArray) -> BankOutput:
        """Take the rows of this lane, `column` says which of the detector's channels each belongs to."""
        ...

    def tick(self, now_us: int) -> BankOutput:
        """Take notice of the time."""
        ...

    def hold(self, hold: Hold) -> None:
        """Pass a hold on to a detector that it covers."""
        ...

    def state(self) -> bytes:
        """Return the state of the lane and of its detector."""
        ...

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        ...


def usable(batch: ReadingBatch) -> NDArray[np.bool_]:
    """Return which rows detectors may see: not bad, finite, and not from the future of their reception."""
    return (batch.quality < Quality.BAD) & np.isfinite(batch.value) & (batch.observed_us <= batch.received_us + FUTURE_US_MAX)


class GridLane:
    """Feeds `Frames` to a detector; see the module's text for when a grid time is judged.

    Parameters
    ----------
    detector : FrameDetector
    channels : sequence of Channel
        In the order of the detector's ``channel_ids``.

    Notes
    -----
    Cost: O(rows x channels) per batch, vectorised. State: the rows of grid times that are not judged yet (24 h at most while history comes
    in, 20 min at most while live), plus two instants a channel.
    """

    def __init__(self, detector: FrameDetector, channels: Sequence[Channel]) -> None:
        self.detector = detector
        self.interval_us = np.array([round(c.interval_s * 1e6) for c in channels], np.int64)
        self.width = len(channels)
        self.newest_us = np.full(self.width, NEVER_US, np.int64)
        self.received_us = np.full(self.width, NEVER_US, np.int64)
        self.live_us = NEVER_US
        self.any_us = NEVER_US
        self.closed = NEVER_US
        self.late_rows = 0
        self._column = np.empty(0, np.int64)
        self._at = np.empty(0, np.int64)
        self._value = np.empty(0, np.float64)
        self._behind = np.empty(0, np.bool_)

    def step(self, batch: ReadingBatch, column: IntArray) -> BankOutput:
        """Take rows, judge what can be judged now."""
        for start in range(0, len(batch), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            behind = (batch.flags[part] & BEHIND) != 0
            self._accept(column[part], batch.observed_us[part], batch.received_us[part], batch.value[part], behind)
        frames = self._due()
        return self.detector.step(frames) if len(frames) else no_output()

    def tick(self, now_us: int) -> BankOutput:
        """Do nothing: a grid lane lives by event time alone."""
        return no_output()

    def hold(self, hold: Hold) -> None:
        """Pass a hold on to a detector that it covers."""
        if self.detector.covers(hold):
            self.detector.hold(hold)

    def _accept(self, column: IntArray, at: IntArray, received: IntArray, value: FloatArray, behind: BoolArray) -> None:
        n, grid, half = len(at), self.detector.grid_us, self.detector.grid_us // 2
        if self.any_us == NEVER_US:
            # channels never seen are waited for from the first reading on
            self.newest_us[:] = int(at[0]) - self.interval_us
            self.received_us[:] = int(received[0])
        newest = _running(self.newest_us, column, at)
        live = np.maximum(np.maximum.accumulate(np.where(behind, NEVER_US, at)), self.live_us)
        seen = np.maximum(np.maximum.accumulate(at), self.any_us)
        cover = newest + self.interval_us
        waited_for = cover >= live[:, None] - STALL_LIVE_US
        if not waited_for.all():
            clock = np.maximum.accumulate(np.maximum(received, int(self.received_us.max())))
            heard = _running(self.received_us, column, received) + self.interval_us
            waited_for |= heard >= clock[:, None] - STALL_LIVE_US
            waited_for &= cover >= seen[:, None] - STALL_HISTORY_US
        np.maximum.at(self.received_us, column, received)
        watermark = np.where(waited_for, cover, 2**62).min(axis=1)
        watermark = np.where(waited_for.any(axis=1), watermark, NEVER_US)
        closed = np.maximum(np.maximum.accumulate((watermark - half) // grid), self.closed)
        bucket = (at + half) // grid
        before = np.empty(n, np.int64)
        before[0], before[1:] = self.closed, closed[:-1]
        on_time = bucket > before
        self.late_rows += int(n - on_time.sum())
        self.newest_us, self.live_us, self.any_us, self.closed = newest[-1].copy(), int(live[-1]), int(seen[-1]), int(closed[-1])
        self._column = np.concatenate((self._column, column[on_time]))
        self._at = np.concatenate((self._at, at[on_time]))
        self._value = np.concatenate((self._value, value[on_time]))
        self._behind = np.concatenate((self._behind, behind[on_time]))

    def _due(self) -> Frames:
        grid, half = self.detector.grid_us, self.detector.grid_us // 2
        bucket = (self._at + half) // grid
        due = bucket <= self.closed
        if not due.any():
            return Frames(np.empty(0, np.int64), np.empty((0, self.width)), np.empty(0, np.bool_))
        rest = ~due
        column, at, value, behind, bucket = self._column[due], self._at[due], self._value[due], self._behind[due], bucket[due]
        self._column, self._at, self._value, self._behind = self._column[rest], self._at[rest], self._value[rest], self._behind[rest]
        order = np.lexsort((at, column))
        column, at, value, behind, bucket = column[order], at[order], value[order], behind[order], bucket[order]
        first = np.ones(len(at), np.bool_)
        first[1:] = (column[1:] != column[:-1]) | (at[1:] != at[:-1])
        column, value, behind, bucket = column[first], value[first], behind[first], bucket[first]
        times, row = np.unique(bucket, return_inverse=True)
        cell = row * self.width + column
        size = len(times) * self.width
        count = np.bincount(cell, minlength=size)
        total = np.bincount(cell, weights=value, minlength=size)
        mean = np.full(size, np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        historical = np.bincount(row, weights=behind, minlength=len(times)) > 0
        return Frames(times * grid, mean.reshape(len(times), self.width), historical)

    def state(self) -> bytes:
        """Return the state of the lane and of its detector."""
        return pack(
            {
                "newest": self.newest_us,
                "received": self.received_us,
                "live": self.live_us,
                "any": self.any_us,
                "closed": self.closed,
                "late": self.late_rows,
                "column": self._column,
                "at": self._at,
                "value": self._value,
                "behind": self._behind,
                "detector": self.detector.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        self.newest_us, self.live_us, self.any_us, self.closed, self.late_rows = s["newest"], s["live"], s["any"], s["closed"], s["late"]
        self.received_us = s["received"]
        self._column, self._at, self._value, self._behind = s["column"], s["at"], s["value"], s["behind"]
        self.detector.restore(s["detector"])


def _running(before: IntArray, column: IntArray, instant: IntArray) -> IntArray:
    """Return the newest instant of every column after each row, shape (rows, columns)."""
    table = np.full((len(column) + 1, len(before)), NEVER_US, np.int64)
    table[0] = before
    table[np.arange(1, len(column) + 1), column] = instant
    return np.asarray(np.maximum.accumulate(table, axis=0)[1:], np.int64)


class RowLane:
    """Feeds `Rows` to a detector: inside a channel only readings newer than the newest so far, at once.

    Notes
    -----
    Cost: one stable sort a batch. State: one instant a channel.
    """

    def __init__(self, detector: RowDetector, channels: Sequence[Channel]) -> None:
        self.detector = detector
        self.newest_us = np.full(len(channels), NEVER_US, np.int64)
        self.late_rows = 0

    def step(self, batch: ReadingBatch, column: IntArray) -> BankOutput:
        """Take rows, pass on what is in order."""
        order = np.argsort(column, kind="stable")
        sorted_column, at = column[order], batch.observed_us[order]
        best = at.copy()
        starts = np.flatnonzero(np.r_[True, sorted_column[1:] != sorted_column[:-1]]) if len(at) else np.empty(0, np.int64)
        fresh = np.empty(len(at), np.bool_)
        for start, end in zip(starts, np.r_[starts[1:], len(at)], strict=True):
            c = sorted_column[start]
            run = np.maximum.accumulate(np.r_[self.newest_us[c], best[start:end]])
            fresh[start:end] = at[start:end] > run[:-1]
            self.newest_us[c] = run[-1]
        keep = np.sort(order[fresh])
        self.late_rows += len(at) - len(keep)
        if not len(keep):
            return no_output()
        behind = (batch.flags[keep] & BEHIND) != 0
        return self.detector.step(Rows(column[keep], batch.observed_us[keep], batch.received_us[keep], batch.value[keep], behind))

    def tick(self, now_us: int) -> BankOutput:
        """Pass the time on."""
        return self.detector.tick(now_us)

    def hold(self, hold: Hold) -> None:
        """Pass a hold on to a detector that it covers."""
        if self.detector.covers(hold):
            self.detector.hold(hold)

    def state(self) -> bytes:
        """Return the state of the lane and of its detector."""
        return pack({"newest": self.newest_us, "late": self.late_rows, "detector": self.detector.state()})

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        self.newest_us, self.late_rows = s["newest"], s["late"]
        self.detector.restore(s["detector"])
