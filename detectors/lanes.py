"""Lanes: what stands between a batch and a detector. They put rows on a grid, wait for the stragglers, drop duplicates and the late.

Lanes look at rows one after the other (in vectorised form), never at batches, so splitting a batch anywhere changes nothing.

The watermark of a grid lane
----------------------------
A channel *covers* the time up to its newest reading plus its nominal interval. A grid time is judged when every channel that is alive covers the
end of its bucket. A channel is not waited for once it is silent: its cover is `STALL_LIVE_US` behind the newest reading that came live, and nothing
was received from it for as long (plus its interval); or its cover is `STALL_HISTORY_US` behind the newest reading at all. So a dead sensor delays
its zone once, by 15 minutes, while packs of buffered history (one device after the other, six hours each, all received at about the same time) are
put together again before they are judged. Readings that come after their grid time was judged are late: counted, otherwise ignored. A logger that
sends in packs while the rest of its zone is live is therefore late always.

The lanes
---------
`detectors.grid.GridLanes` holds all grid lanes with one grid; `GridLane` is one alone. `detectors.order.ReorderLane` gives a row detector each
channel in event-time order, inside a window of a minute of reception; the rule stands there. `DirectLane` passes everything on as it comes, to a
detector that needs no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, FrameDetector, IntArray, RowDetector, Rows, no_output
from detectors.grid import STALL_HISTORY_US, STALL_LIVE_US, GridLanes, GridRows
from detectors.order import REORDER_US, ReorderLane
from underway.model import MINUTE_US, Channel, Hold, Quality, ReadingBatch, ReadingFlag

FUTURE_US_MAX = 10 * MINUTE_US
BEHIND = int(ReadingFlag.LATE | ReadingFlag.HISTORICAL)

__all__ = [
    "BEHIND",
    "FUTURE_US_MAX",
    "NEVER_US",
    "REORDER_US",
    "STALL_HISTORY_US",
    "STALL_LIVE_US",
    "DirectLane",
    "GridLane",
    "GridLanes",
    "GridRows",
    "ReorderLane",
    "RowLane",
    "usable",
]


class RowLane(Protocol):
    """A row detector with what feeds it."""

    late_rows: int

    @property
    def detector(self) -> RowDetector:
        """Detector that is fed."""
        ...

    def step(self, column: IntArray, at: IntArray, received: IntArray, value: FloatArray, behind: BoolArray) -> BankOutput:
        """Take rows in order of arrival; `column` says which of the detector's channels each belongs to."""
        ...

    def late(self, column: IntArray, at: IntArray, received: IntArray) -> BoolArray:
        """Return which rows `step` would refuse; changes nothing."""
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

    def adopt(self, state: bytes) -> bool:
        """Take over what a state saved for other channels knows of the channels here; return whether the detector can."""
        ...


def usable(batch: ReadingBatch) -> NDArray[np.bool_]:
    """Return which rows detectors may see: not bad, finite, and not from the future of their reception."""
    return (batch.quality < Quality.BAD) & np.isfinite(batch.value) & (batch.observed_us <= batch.received_us + FUTURE_US_MAX)


class GridLane:
    """Feed one frame detector alone; see the module's text for when a grid time is judged.

    Parameters
    ----------
    detector : FrameDetector
    channels : sequence of Channel
        In the order of the detector's ``channel_ids``.
    """

    def __init__(self, detector: FrameDetector, channels: Sequence[Channel]) -> None:
        self.detector = detector
        self._lanes = GridLanes(detector.grid_us, [(detector, channels)])

    @property
    def late_rows(self) -> int:
        """Return how many rows came after their grid time was judged."""
        return int(self._lanes.late_rows[0])

    def step(self, batch: ReadingBatch, column: IntArray) -> BankOutput:
        """Take the rows of this lane, `column` says which of the detector's channels each belongs to."""
        behind = (batch.flags & BEHIND) != 0
        return self._lanes.step(GridRows(column, batch.observed_us, batch.received_us, batch.value, behind))

    def state(self) -> bytes:
        """Return the state of the lane and of its detector."""
        return self._lanes.state(0)

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        self._lanes.restore(0, state)


class DirectLane:
    """Feed a detector that takes rows in any order and is its own judge of duplicates; nothing is late here."""

    def __init__(self, detector: RowDetector) -> None:
        self.detector = detector
        self.late_rows = 0

    def step(self, column: IntArray, at: IntArray, received: IntArray, value: FloatArray, behind: BoolArray) -> BankOutput:
        """Pass rows on."""
        return self.detector.step(Rows(column, at, received, value, behind)) if len(column) else no_output()

    def late(self, column: IntArray, at: IntArray, received: IntArray) -> BoolArray:
        """Return False for every row."""
        return np.zeros(len(column), np.bool_)

    def tick(self, now_us: int) -> BankOutput:
        """Pass the time on."""
        return self.detector.tick(now_us)

    def hold(self, hold: Hold) -> None:
        """Pass a hold on to a detector that it covers."""
        if self.detector.covers(hold):
            self.detector.hold(hold)

    def state(self) -> bytes:
        """Return the state of the detector."""
        return self.detector.state()

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        self.detector.restore(state)

    def adopt(self, state: bytes) -> bool:
        """Take over what a state saved for other devices knows of the devices here; return whether the detector can."""
        adopting = getattr(self.detector, "adopt", None)
        if adopting is None:
            return False
        adopting(state)
        return True
