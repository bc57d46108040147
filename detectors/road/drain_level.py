"""Water before a culvert: too high for the road, or higher than the rain explains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detectors.adapting import AdaptingDetector
from detectors.contract import NEVER_US, BankOutput, FloatArray, Frames, OutputWriter
from detectors.cusum import cusum_threshold
from detectors.regression import BayesForecast
from detectors.shift import HoldBook, ShiftMonitor, ShiftReport, ShiftRules
from detectors.snapshot import pack, unpack
from underway.model import (
    DAY_US,
    MINUTE_US,
    Asset,
    Channel,
    Driver,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    Signal,
    finding_id,
    from_us,
)

GRID_US = 5 * MINUTE_US
LAGS_MIN = (20.0, 40.0, 80.0, 160.0)
RAIN_UNIT_MMPH = 5.0
LEVEL_POWER = 2.0 / 3.0
NOISE_M = 0.02
LEARN_DAYS = 10
YEARS_PER_FALSE = 30.0
FLOOD_SHARE, DRY_SHARE = 0.8, 0.7
ON_STEPS, OFF_STEPS = 2, 6
RISE_MIN_M = 0.05
MODEL_ERROR = 0.25
WAIT_STEPS = 36
MEMORY = 2880.0
STATISTICS_MIN = 100.0
GAP_US = 60 * MINUTE_US
UPDATE_US = 30 * MINUTE_US
CLIP_SD = 4.0


@dataclass(slots=True)
class _Flood:
    onset_us: int
    updated_us: int
    historical: bool
    low: int = 0


class DrainLevel(AdaptingDetector):
    """Find a level that threatens the road, and one that the rain does not explain (a blockage).

    Parameters
    ----------
    asset : Asset
        Culvert or drain; ``attributes["depth_m"]`` (or ``diameter_m``) is the height at which the road floods.
    level : Channel
    rain : Channel, optional
        Without it the forecast is the usual level.

    Notes
    -----
    Flood: level at or above 0.8 of the depth for 2 grid times (10 min); clear below 0.7 for 6. Blockage: ``level = w . x`` with x = 1 and the rain
    low-passed with 20, 40, 80 and 160 min to the power 2/3 (level over a weir of flow), learned by `BayesForecast` (river) three hours late and not
    while a condition or a hold is open; residual over ``sqrt(s^2 + (0.25 rise)^2)`` into `ShiftMonitor`, upwards, at least 5 cm. Both are
    `road.flood`; ``details["cause"]`` tells which. Blockages are judged after 10 days; the flood level at once. Cost about 0.2 ms a grid time;
    state about 25 kB.

    Blind to: a blockage while the rain is heavier than any it has learned from (the band is wide then), backwater from downstream (looks like a
    blockage), rain that falls on the catchment but not on the gauge, snow melt.

    Examples
    --------
    The road floods at 1.2 m: 1 m for ten minutes is a warning.

    >>> from underway.model import AssetClass, Quantity
    >>> culvert = Asset("dr-1", "town", "road-1", AssetClass.CULVERT, "Sand Road culvert", attributes={"depth_m": 1.2})
    >>> gauge = Channel(1, "dr", "level", Quantity.LEVEL, "m", "dr-1", "road-1", "drain_level", -0.1, 5, 300)
    >>> at = np.arange(6) * 300_000_000
    >>> frames = Frames(at, np.array([[0.1], [0.3], [0.98], [1.0], [1.02], [1.02]]), np.zeros(6, bool))
    >>> [(f.kind.value, f.phase.value, f.detected_us // 60_000_000) for f in DrainLevel(culvert, gauge).step(frames).findings]
    [('road.flood', 'raise', 15)]
    """

    name = "drain-level"
    version = "1"
    warm_up_us = 14 * DAY_US
    kinds = (FindingKind.ROAD_FLOOD,)
    grid_us = GRID_US
    state_bytes_max = 200_000

    def __init__(self, asset: Asset, level: Channel, rain: Channel | None = None) -> None:
        self.asset = asset
        self.key = f"{self.name}@{self.version}/{asset.asset_id}/{level.device_id}.{level.name}"
        self.channels: Sequence[Channel] = (level,) if rain is None else (level, rain)
        self.channel_ids = tuple(c.channel_id for c in self.channels)
        depth = asset.attributes.get("depth_m", asset.attributes.get("diameter_m"))
        self.depth_m = float(depth) if isinstance(depth, int | float) and depth > 0 else math.inf
        self.signals = (Signal(f"asset/{asset.asset_id}/level", asset.zone_id, asset.asset_id, "m"),)
        self.floor_m = max(level.resolution, 0.001)
        threshold = cusum_threshold(YEARS_PER_FALSE * 365 * DAY_US / GRID_US)
        self.monitor = ShiftMonitor(ShiftRules(threshold, (1,), 3, RISE_MIN_M, 12, 144))
        self.forecast = BayesForecast(1 + len(LAGS_MIN) if rain is not None else 1, NOISE_M)
        self.holds = HoldBook()
        self.flood: _Flood | None = None
        self.high = 0
        self.high_us = NEVER_US
        self.first_us = NEVER_US
        self.wet = np.zeros(len(LAGS_MIN))
        self.wet_us = NEVER_US
        self.square, self.squares = 0.0, 0.0
        self.offset = 0.0
        self.waiting: list[tuple[int, FloatArray, float]] = []
        self.frozen_us = NEVER_US
        self.threshold = threshold

    @property
    def frozen(self) -> bool:
        """Whether nothing is learned now."""
        return super().frozen or self.flood is not None

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        out = OutputWriter(self.signals)
        for i in range(len(frames)):
            at, row = int(frames.at_us[i]), frames.value[i]
            if len(self.channels) > 1:
                self._rain(at, float(row[1]))
            if math.isfinite(row[0]):
                self._one(at, float(row[0]), bool(frames.historical[i]), out)
        return out.output()

    def _rain(self, at: int, mmph: float) -> None:
        if not math.isfinite(mmph):
            return
        if self.wet_us != NEVER_US:
            keep = np.exp(-min(at - self.wet_us, DAY_US) / (np.array(LAGS_MIN) * MINUTE_US))
            self.wet = mmph + (self.wet - mmph) * keep
        self.wet_us = at

    def _one(self, at: int, level: float, historical: bool, out: OutputWriter) -> None:
        if self.first_us == NEVER_US:
            self.first_us = at
        rain_known = len(self.channels) == 1 or at - self.wet_us <= GAP_US
        expected, sd = math.nan, math.nan
        if rain_known:
            x = np.ones(1) if len(self.channels) == 1 else np.concatenate(([1.0], (self.wet / RAIN_UNIT_MMPH) ** LEVEL_POWER))
            mean, widen = self.forecast.predict(x)
            dry, _ = self.forecast.predict(np.concatenate(([1.0], np.zeros(len(x) - 1))))
            expected = mean + self.offset
            sd = math.hypot(math.sqrt(self.square) * widen, MODEL_ERROR * max(mean - dry, 0.0), self.floor_m)
            # what heavier rain than ever learned would add is not known
            sd = math.hypot(sd, NOISE_M * math.sqrt(max(widen**2 - 1.0, 0.0)))
            if self.squares >= STATISTICS_MIN:
                out.expect(at, self._baseline(), 0, np.array([level]), np.array([expected]), np.array([sd]))
                ready = at - self.first_us >= LEARN_DAYS * DAY_US
                held = self.frozen
                report = self.monitor.judge(at, level - expected, sd, level, expected, ready, historical, learn=not self.holds)
                if report is not None:
                    if report.phase is FindingPhase.RAISE and not held:
                        self.frozen_us = report.onset_us
                        self._forget_from(report.onset_us)
                    self._blocked(at, report, out)
            if not self.frozen:
                self.waiting.append((at, x, level - self.offset))
                while len(self.waiting) > WAIT_STEPS:
                    self._learn(*self.waiting.pop(0)[1:])
        self._flooded(at, level, expected, sd, historical, out)

    def _learn(self, x: FloatArray, y: float) -> None:
        mean, widen = self.forecast.predict(x)
        error = y - mean
        wet = float(x[1:].sum()) if len(x) > 1 else 0.0
        if wet < 0.05:
            # the spread is that of dry weather: while it rains the model's own error counts
            limit = CLIP_SD * max(math.sqrt(self.square) * widen, self.floor_m)
            if self.squares >= STATISTICS_MIN:
                error = min(max(error, -limit), limit)
            self.squares = min(self.squares + 1.0, MEMORY)
            self.square += (error**2 / widen**2 - self.square) / self.squares
        self.forecast.learn(x, mean + error)

    # -- findings -------------------------------------------------------------------------------------------------------------

    def _flooded(self, at: int, level: float, expected: float, sd: float, historical: bool, out: OutputWriter) -> None:
        limit = FLOOD_SHARE * self.depth_m
        if self.flood is None:
            if level < limit:
                self.high = 0
                return
            self.high += 1
            if self.high == 1:
                self.high_us = at
            if self.high >= ON_STEPS:
                self._freeze(self.high_us)
                self.flood = _Flood(self.high_us, at, historical)
                if self.monitor.open is None:
                    self._emit_flood(FindingPhase.RAISE, at, level, expected, sd, self.flood, historical, out)
            return
        flood = self.flood
        flood.low = flood.low + 1 if level < DRY_SHARE * self.depth_m else 0
        if flood.low >= OFF_STEPS:
            self.flood, self.high = None, 0
            if self.monitor.open is None:
                self._emit_flood(FindingPhase.CLEAR, at, level, expected, sd, flood, historical, out)
        elif flood.historical and not historical:
            flood.historical = False
            self._emit_flood(FindingPhase.RAISE, at, level, expected, sd, flood, historical, out)
        elif at - flood.updated_us >= UPDATE_US and level >= limit:
            flood.updated_us = at
            self._emit_flood(FindingPhase.UPDATE, at, level, expected, sd, flood, historical, out)

    def _emit_flood(
        self, phase: FindingPhase, at: int, level: float, expected: float, sd: float, flood: _Flood, historical: bool, out: OutputWriter
    ) -> None:
        limit, known = FLOOD_SHARE * self.depth_m, math.isfinite(expected) and self.squares >= STATISTICS_MIN
        usual = expected if known else 0.0
        if phase is FindingPhase.CLEAR:
            summary = f"Water at {self.asset.name} is down to {level:.2f} m, below {DRY_SHARE * self.depth_m:.2f} m for 30 min"
        else:
            tail = f", {usual:.2f} m expected of this rain" if known else ""
            summary = f"Water at {self.asset.name} is at {level:.2f} m{tail}; the road floods at {self.depth_m:.2f} m"
        evidence = Evidence(
            summary,
            level,
            usual,
            0.0,
            limit,
            "m",
            level,
            limit,
            self._baseline(),
            (Driver(self.channels[0].device_id, level, usual, sd if math.isfinite(sd) else 0.0, "m", self.channels[0].channel_id),),
            (),
            {"cause": "flood_level", "depth_m": self.depth_m},
        )
        self._emit(phase, level / limit, flood.onset_us, at, evidence, historical, out)

    def _blocked(self, at: int, r: ShiftReport, out: OutputWriter) -> None:
        half = 3.0 * r.sd
        if r.phase is FindingPhase.CLEAR:
            if self.flood is not None:
                return
            summary = f"Water at {self.asset.name} is back at {r.observed:.2f} m, what this rain explains is {r.expected:.2f} m"
        else:
            summary = (
                f"Water at {self.asset.name} is at {r.observed:.2f} m, {r.observed - r.expected:.2f} m above what the rain explains "
                f"({r.expected:.2f} m, band {max(r.expected - half, 0.0):.2f} to {r.expected + half:.2f}) "
                f"since {from_us(r.onset_us):%d %b %H:%M} UTC: blocked?"
            )
        evidence = Evidence(
            summary,
            r.observed,
            r.expected,
            r.expected - half,
            r.expected + half,
            "m",
            r.statistic,
            self.threshold,
            self._baseline(),
            (Driver(self.channels[0].device_id, r.observed, r.expected, r.sd, "m", self.channels[0].channel_id),),
            (),
            {"cause": "unexplained_level", "readings": r.readings},
        )
        if r.phase is FindingPhase.RAISE and self.flood is not None:
            return
        self._emit(r.phase, r.score, r.onset_us, at, evidence, r.historical, out)

    def _emit(
        self, phase: FindingPhase, score: float, onset: int, at: int, evidence: Evidence, historical: bool, out: OutputWriter
    ) -> None:
        kind, asset = FindingKind.ROAD_FLOOD, self.asset
        identity = finding_id(self.name, self.version, kind, phase, asset.asset_id, onset, at)
        out.findings.append(
            Finding(identity, kind, phase, asset.asset_id, asset.zone_id, self.name, self.version, score, onset, at, evidence, historical)
        )

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "waiting": [list(w) for w in self.waiting],
                "flood": None if self.flood is None else asdict(self.flood),
                "holds": self.holds.state(),
                "monitor": self.monitor.state(),
                "forecast": self.forecast.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s: dict[str, Any] = unpack(state)
        for name in _PLAIN:
            setattr(self, name, s[name])
        self.waiting = [(at, x, y) for at, x, y in s["waiting"]]
        self.flood = None if s["flood"] is None else _Flood(**s["flood"])
        self.holds.restore(s["holds"])
        self.monitor.restore(s["monitor"])
        self.forecast.restore(s["forecast"])


_PLAIN = ("high", "high_us", "first_us", "wet", "wet_us", "square", "squares", "offset", "frozen_us")
