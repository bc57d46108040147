"""A bridge's first frequency, freed of temperature: a regression on lagged temperature with a knee at 0 Cel, then a CUSUM on both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detectors.adapting import AdaptingDetector
from detectors.contract import NEVER_US, BankOutput, FloatArray, Frames, OutputWriter
from detectors.cusum import cusum_threshold
from detectors.regression import BayesForecast
from detectors.shift import HoldBook, ShiftMonitor, ShiftReport, ShiftRules
from detectors.snapshot import pack, unpack
from detectors.standing import StandingGuard
from underway.model import (
    DAY_US,
    HOUR_US,
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

LAGS_H = (3.0, 8.0, 20.0)
KNEE_CEL = 0.0
CEL_UNIT = 5.0
NOISE_PCT = 1.0
REFERENCE_READINGS = 36
LEARN_DAYS = 10
YEARS_PER_FALSE = 30.0
SHIFT_PCT_MIN = 0.5
WAIT_US = 6 * HOUR_US
WAIT_MAX = 256
MEMORY = 2880.0
GAP_US = 3 * HOUR_US
CLIP_SD = 4.0
STANDING_READINGS = 3


class BridgeFrequency(AdaptingDetector):
    """Find a lasting change of a bridge's frequency that temperature does not explain.

    Parameters
    ----------
    asset : Asset
        The bridge.
    frequency : Channel
    temperature : Channel, optional
        Air or structure; without it the forecast is a constant and the band takes the seasons in.

    Notes
    -----
    Target ``y = 100 (f / f_ref - 1)`` in percent, f_ref the median of the first 36 readings. Features: 1, and for low-passed temperatures of 3, 8
    and 20 h ``T/5`` and ``min(T, 0)/5`` (the knee: a frozen deck is stiffer; Z24). `BayesForecast` (river) forecasts, its spread widens where the
    temperature was never seen. Residual over spread goes into `ShiftMonitor`, both sides, one false alarm in thirty years; at least 0.5 % and 3
    readings. Readings are learned six hours late, clipped at four standard deviations, and not at all while a condition or a hold is open. It
    speaks after 10 days. Cost about 0.2 ms a reading (10 min apart). State about 25 kB.

    Blind to: a change slower than weeks in step with a season that it sees for the first time, damage that does not move the first mode; a change
    of mass (resurfacing) looks like damage. Before the first frost a frost is not judged (wide band).

    References
    ----------
    Peeters and De Roeck (2001), One-year monitoring of the Z24-Bridge, doi 10.1002/1096-9845(200102)30:2<149::AID-EQE1>3.0.CO;2-Z.

    Examples
    --------
    Twelve days with a daily swing of temperature, then 6 % less:

    >>> from underway.model import AssetClass, Quantity
    >>> bridge = Asset("br-1", "town", "road-1", AssetClass.BRIDGE, "Brook Bridge")
    >>> f = Channel(1, "br", "frequency", Quantity.FREQUENCY, "Hz", "br-1", "road-1", "bridge_frequency", 0.1, 20, 600)
    >>> t = Channel(2, "br", "temperature", Quantity.TEMPERATURE, "Cel", "br-1", "road-1", "bridge_temperature", -50, 70, 600)
    >>> at = np.arange(12 * 144 + 12)
    >>> warm = 10 + 5 * np.sin(2 * np.pi * at / 144)
    >>> noise = np.random.default_rng(1).normal(0, 0.015, len(at))
    >>> hz = 2.5 * (1 - 0.0007 * (warm - 10)) * np.where(at >= 12 * 144, 0.94, 1) + noise
    >>> frames = Frames(at * 600_000_000, np.column_stack((hz, warm)), np.zeros(len(at), bool))
    >>> [(x.kind.value, x.phase.value, int(x.detected_us // 60_000_000) - 12 * 1440) for x in BridgeFrequency(bridge, f, t).step(frames).findings][:1]
    [('bridge.frequency_shift', 'raise', 20)]
    """

    name = "bridge-frequency"
    version = "1"
    warm_up_us = 14 * DAY_US
    kinds = (FindingKind.BRIDGE_FREQUENCY_SHIFT,)
    state_bytes_max = 200_000

    def __init__(self, asset: Asset, frequency: Channel, temperature: Channel | None = None) -> None:
        self.asset = asset
        self.key = f"{self.name}@{self.version}/{asset.asset_id}/{frequency.device_id}.{frequency.name}"
        self.channels: Sequence[Channel] = (frequency,) if temperature is None else (frequency, temperature)
        self.channel_ids = tuple(c.channel_id for c in self.channels)
        self.grid_us = round(frequency.interval_s * 1e6)
        self.signals = (Signal(f"asset/{asset.asset_id}/frequency", asset.zone_id, asset.asset_id, "Hz"),)
        threshold = cusum_threshold(YEARS_PER_FALSE * 365 * DAY_US / self.grid_us)
        self.monitor = ShiftMonitor(ShiftRules(threshold, (1, -1), 3, SHIFT_PCT_MIN, 12, 144))
        self.forecast = BayesForecast(1 + 2 * len(LAGS_H) if temperature is not None else 1, NOISE_PCT)
        self.standing = StandingGuard(len(self.channels), STANDING_READINGS)
        self.holds = HoldBook()
        self.first_us = NEVER_US
        self.reference: list[float] = []
        self.reference_hz = 0.0
        self.warmth = np.full(len(LAGS_H), np.nan)
        self.warmth_us = NEVER_US
        self.square, self.squares = 0.0, 0.0
        self.offset = 0.0
        self.waiting: list[tuple[int, FloatArray, float]] = []
        self.frozen_us = NEVER_US

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        out = OutputWriter(self.signals)
        for i in range(len(frames)):
            at, row = int(frames.at_us[i]), self.standing(frames.value[i])
            if len(self.channels) > 1:
                self._warm(at, float(row[1]))
            if math.isfinite(row[0]):
                self._one(at, float(row[0]), bool(frames.historical[i]), out)
        return out.output()

    def _warm(self, at: int, celsius: float) -> None:
        if not math.isfinite(celsius):
            return
        if self.warmth_us == NEVER_US or at - self.warmth_us > GAP_US:
            self.warmth = np.full(len(LAGS_H), celsius) if self.warmth_us == NEVER_US else self.warmth
        keep = np.exp(-min(max(at - self.warmth_us, 0), 3 * DAY_US) / (np.array(LAGS_H) * HOUR_US))
        self.warmth = celsius + (self.warmth - celsius) * keep
        self.warmth_us = at

    def _features(self) -> FloatArray:
        if len(self.channels) == 1:
            return np.ones(1)
        return np.concatenate(([1.0], self.warmth / CEL_UNIT, np.minimum(self.warmth - KNEE_CEL, 0.0) / CEL_UNIT))

    def _one(self, at: int, hz: float, historical: bool, out: OutputWriter) -> None:
        if self.first_us == NEVER_US:
            self.first_us = at
        if len(self.channels) > 1 and at - self.warmth_us > GAP_US:
            return
        if len(self.reference) < REFERENCE_READINGS:
            self.reference.append(hz)
            self.reference_hz = float(np.median(self.reference))
            return
        x = self._features()
        y = 100.0 * (hz / self.reference_hz - 1.0)
        mean, widen = self.forecast.predict(x)
        mean += self.offset
        if self.squares >= REFERENCE_READINGS:
            sd = math.sqrt(max(self.square, 1e-6)) * widen
            unit = self.reference_hz / 100.0
            expected_hz = self.reference_hz + mean * unit
            out.expect(at, self._baseline(), 0, np.array([hz]), np.array([expected_hz]), np.array([sd * unit]))
            ready = at - self.first_us >= LEARN_DAYS * DAY_US and self.monitor.noise.ready
            held = self.frozen
            report = self.monitor.judge(at, y - mean, sd, hz, expected_hz, ready, historical, learn=not self.holds)
            if report is not None:
                if report.phase is FindingPhase.RAISE and not held:
                    self.frozen_us = report.onset_us
                    self._forget_from(report.onset_us)
                self._emit(at, report, out)
        if not self.frozen:
            self.waiting.append((at, x, y - self.offset))
            while self.waiting and (at - self.waiting[0][0] >= WAIT_US or len(self.waiting) > WAIT_MAX):
                self._learn(*self.waiting.pop(0)[1:])

    def _learn(self, x: FloatArray, y: float) -> None:
        mean, widen = self.forecast.predict(x)
        error = y - mean
        if self.squares >= REFERENCE_READINGS:
            limit = CLIP_SD * math.sqrt(max(self.square, 1e-6)) * widen
            error = min(max(error, -limit), limit)
        self.squares = min(self.squares + 1.0, MEMORY)
        self.square += (error**2 / widen**2 - self.square) / self.squares
        self.forecast.learn(x, mean + error)

    def _emit(self, at: int, r: ShiftReport, out: OutputWriter) -> None:
        kind, unit = FindingKind.BRIDGE_FREQUENCY_SHIFT, self.reference_hz / 100.0
        half = 3.0 * r.sd * unit
        change = 100.0 * (r.observed / r.expected - 1.0)
        driver = Driver(self.channels[0].device_id, r.observed, r.expected, r.sd * unit, "Hz", self.channels[0].channel_id)
        if r.phase is FindingPhase.CLEAR:
            summary = f"Frequency of {self.asset.name} is back at {r.observed:.3f} Hz, expected {r.expected:.3f} at this temperature"
        else:
            side = "below" if change < 0 else "above"
            summary = (
                f"Frequency of {self.asset.name} is {r.observed:.3f} Hz, {abs(change):.1f} % {side} the {r.expected:.3f} Hz "
                f"expected at this temperature (band {r.expected - half:.3f} to {r.expected + half:.3f}) since {from_us(r.onset_us):%d %b %H:%M} UTC"
            )
        evidence = Evidence(
            summary,
            r.observed,
            r.expected,
            r.expected - half,
            r.expected + half,
            "Hz",
            r.statistic,
            self.monitor.rules.threshold,
            self._baseline(),
            (driver,),
            (),
            {"shift_pct": round(r.shift, 2), "readings": r.readings, "temperature_cel": _rounded(self.warmth[0])},
        )
        identity = finding_id(self.name, self.version, kind, r.phase, self.asset.asset_id, r.onset_us, at)
        out.findings.append(
            Finding(
                identity,
                kind,
                r.phase,
                self.asset.asset_id,
                self.asset.zone_id,
                self.name,
                self.version,
                r.score,
                r.onset_us,
                at,
                evidence,
                r.historical,
            )
        )

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "waiting": [list(w) for w in self.waiting],
                "standing": self.standing.state(),
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
        self.standing.restore(s["standing"])
        self.holds.restore(s["holds"])
        self.monitor.restore(s["monitor"])
        self.forecast.restore(s["forecast"])


_PLAIN = ("first_us", "reference", "reference_hz", "warmth", "warmth_us", "square", "squares", "offset", "frozen_us")


def _rounded(value: float) -> float | None:
    return round(float(value), 1) if math.isfinite(value) else None
