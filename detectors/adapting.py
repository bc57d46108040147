"""What detectors with a baseline of their own share: when they learn, when they do not, and what a hold does to them."""

from __future__ import annotations

from detectors.contract import FloatArray
from detectors.shift import HoldBook, ShiftMonitor
from underway.model import Asset, Hold, from_us


class AdaptingDetector:
    """One asset with a baseline that is learned late, and frozen while a condition is open or a hold is on.

    Who derives from it sets the attributes; `waiting` holds what was seen and is not learned yet, its instant (microseconds) first.
    """

    name: str
    version: str
    asset: Asset
    holds: HoldBook
    monitor: ShiftMonitor
    offset: float
    frozen_us: int
    waiting: list[tuple[int, FloatArray, float]]

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on this asset."""
        return hold.asset_id == self.asset.asset_id

    def hold(self, hold: Hold) -> None:
        """Stop adapting, or take the release into account."""
        if hold.released_us is None:
            self._freeze(hold.held_us)
            self.holds.take(hold.hold_id, hold.held_us)
        elif self.holds.release(hold.hold_id):
            if hold.verdict == "cancelled":
                self.offset += self.monitor.dismiss()
            if self.monitor.open is None:
                self.monitor.reset()

    @property
    def frozen(self) -> bool:
        """Whether nothing is learned now."""
        return bool(self.holds) or self.monitor.open is not None

    def _freeze(self, at_us: int) -> None:
        if not self.frozen:
            self.frozen_us = at_us
            self._forget_from(at_us)

    def _forget_from(self, at_us: int) -> None:
        """Drop what came from an instant on and was not learned yet."""
        self.waiting = [w for w in self.waiting if w[0] < at_us]

    def _baseline(self) -> str:
        when = f"{from_us(self.frozen_us):%Y-%m-%dT%H:%MZ}" if self.frozen else "live"
        return f"{self.name}@{self.version}/{self.asset.asset_id}/{when}"
