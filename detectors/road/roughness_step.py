"""A step of road roughness: every pass of a probe vehicle against a robust baseline of its section."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detectors.contract import BankOutput, OutputWriter, Rows, no_output
from detectors.cusum import cusum_threshold
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
    Hold,
    Signal,
    finding_id,
    from_us,
)

PASSES_PER_FALSE = 1e7
BASE_PASSES = 30
READY_PASSES = 200
PASSES_MIN = 5
STEP_MIN = 0.1
"""Smallest step of the logarithm, about 10 %."""
MEMORY = 400.0
WAIT_PASSES = 24
CLIP_SD = 3.0
SD_MIN = 0.02
ROUGHNESS_MIN = 0.05
STANDING_PASSES = 3


class _Section:
    """State of one road section; roughness is worked on as its logarithm."""

    def __init__(self) -> None:
        rules = ShiftRules(cusum_threshold(PASSES_PER_FALSE), (1,), PASSES_MIN, STEP_MIN, 12, 100, 6 * HOUR_US)
        self.monitor = ShiftMonitor(rules)
        self.standing = StandingGuard(1, STANDING_PASSES)
        self.holds = HoldBook()
        self.first: list[float] = []
        self.mean = 0.0
        self.square = 0.0
        self.passes = 0.0
        self.frozen_us = 0
        self.waiting: list[tuple[int, float]] = []

    @property
    def frozen(self) -> bool:
        return bool(self.holds) or self.monitor.open is not None

    def learn(self, y: float) -> None:
        if len(self.first) < BASE_PASSES:
            self.first.append(y)
            if len(self.first) == BASE_PASSES:
                self.mean = float(np.median(self.first))
                self.square = max(1.4826 * float(np.median(np.abs(np.array(self.first) - self.mean))), SD_MIN) ** 2
                self.passes = float(BASE_PASSES)
            return
        limit = CLIP_SD * math.sqrt(self.square)
        error = min(max(y - self.mean, -limit), limit)
        self.passes = min(self.passes + 1.0, MEMORY)
        self.mean += error / self.passes
        self.square = max(self.square + (error**2 - self.square) / self.passes, SD_MIN**2)

    def state(self) -> dict[str, object]:
        return {
            **{n: getattr(self, n) for n in _PLAIN},
            "waiting": [list(w) for w in self.waiting],
            "monitor": self.monitor.state(),
            "standing": self.standing.state(),
            "holds": self.holds.state(),
        }

    def restore(self, s: dict[str, Any]) -> None:
        for n in _PLAIN:
            setattr(self, n, s[n])
        self.waiting = [(at, y) for at, y in s["waiting"]]
        self.monitor.restore(s["monitor"])
        self.standing.restore(s["standing"])
        self.holds.restore(s["holds"])


_PLAIN = ("first", "mean", "square", "passes", "frozen_us")


class RoughnessStep:
    """Find a lasting step of the roughness of road sections, section by section.

    Parameters
    ----------
    channels : sequence of Channel
        Roughness channels of one corridor, each with an asset.
    assets : sequence of Asset
        The sections, in the order of the channels.

    Notes
    -----
    ``y = ln(IRI)`` of every pass; baseline: median and MAD of 30 passes, then a mean and variance clipped at 3 standard deviations with a memory
    of 400 passes, learned 24 passes late and not at all while a condition or a hold is open. Residual into `ShiftMonitor`, upwards, one false alarm
    in ten million passes and section; at least 5 passes and about 10 %. It speaks after 200 passes. Cost about 50 us a pass. State at most 10 kB a
    section.

    Blind to: slow wear (absorbed over 400 passes; a trend test over visits belongs to planning), a pothole that vehicles avoid, a single bad
    vehicle that makes most passes. Resurfacing is learned over the memory, not reported.

    References
    ----------
    ASTM E1926 (IRI); FHWA: a section is acceptable below 2.68 m/km.

    Examples
    --------
    250 passes at 2 m/km with 6 % of noise, then 2.8 m/km: found at the fifth pass.

    >>> from underway.model import AssetClass, Quantity
    >>> section = Asset("rd-1", "town", "road-1", AssetClass.ROAD_SECTION, "Sand Road, section 1")
    >>> probe = Channel(1, "rp-1", "roughness", Quantity.ROUGHNESS, "m/km", "rd-1", "road-1", "roughness", 0, 30, 900)
    >>> rough = np.where(np.arange(260) < 250, 2.0, 2.8) * np.exp(np.random.default_rng(1).normal(0, 0.06, 260))
    >>> at = np.arange(260) * 900_000_000
    >>> rows = Rows(np.zeros(260, int), at, at, rough, np.zeros(260, bool))
    >>> [(f.phase.value, int(f.detected_us // 900_000_000) - 249) for f in RoughnessStep([probe], [section]).step(rows).findings][:1]
    [('raise', 5)]
    """

    name = "roughness-step"
    version = "1"
    warm_up_us = 28 * DAY_US
    kinds = (FindingKind.ROAD_ROUGHNESS,)

    def __init__(self, channels: Sequence[Channel], assets: Sequence[Asset]) -> None:
        self.channels, self.assets = tuple(channels), tuple(assets)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.key = f"{self.name}@{self.version}/{channels[0].zone_id}"
        self.signals = tuple(Signal(f"asset/{a.asset_id}/roughness", a.zone_id, a.asset_id, "m/km") for a in assets)
        self.state_bytes_max = 20_000 * len(self.channels) + 1000
        self.sections = [_Section() for _ in channels]

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on one of the sections."""
        return any(a.asset_id == hold.asset_id for a in self.assets)

    def hold(self, hold: Hold) -> None:
        """Stop adapting on one section, or take the release into account."""
        for asset, s in zip(self.assets, self.sections, strict=True):
            if asset.asset_id != hold.asset_id:
                continue
            if hold.released_us is None:
                if not s.frozen:
                    s.frozen_us = hold.held_us
                    s.waiting = [w for w in s.waiting if w[0] < hold.held_us]
                s.holds.take(hold.hold_id, hold.held_us)
            elif s.holds.release(hold.hold_id):
                if hold.verdict == "cancelled":
                    s.mean += s.monitor.dismiss()
                if s.monitor.open is None:
                    s.monitor.reset()

    def step(self, rows: Rows) -> BankOutput:
        """Judge passes in order."""
        out = OutputWriter(self.signals)
        for i in range(len(rows)):
            if rows.value[i] > ROUGHNESS_MIN:
                self._one(int(rows.column[i]), int(rows.at_us[i]), float(rows.value[i]), bool(rows.historical[i]), out)
        return out.output()

    def tick(self, now_us: int) -> BankOutput:
        """Do nothing: a road without passes says nothing."""
        return no_output()

    def _baseline(self, number: int) -> str:
        s = self.sections[number]
        when = f"{from_us(s.frozen_us):%Y-%m-%dT%H:%MZ}" if s.frozen else "live"
        return f"{self.name}@{self.version}/{self.assets[number].asset_id}/{when}"

    def _one(self, number: int, at: int, rough: float, historical: bool, out: OutputWriter) -> None:
        s, y = self.sections[number], math.log(rough)
        if math.isnan(s.standing(np.array([rough]))[0]):
            return
        if s.passes:
            sd = math.sqrt(s.square * (1.0 + 1.0 / s.passes))
            expected = math.exp(s.mean)
            out.expect(at, self._baseline(number), number, np.array([rough]), np.array([expected]), np.array([expected * sd]))
            held = s.frozen
            report = s.monitor.judge(at, y - s.mean, sd, rough, expected, s.passes >= READY_PASSES, historical, learn=not s.holds)
            if report is not None:
                if report.phase is FindingPhase.RAISE and not held:
                    s.frozen_us = report.onset_us
                    s.waiting = [w for w in s.waiting if w[0] < report.onset_us]
                self._emit(number, at, report, out)
        if not s.frozen:
            s.waiting.append((at, y))
            wait = WAIT_PASSES if s.passes else 0
            while len(s.waiting) > wait:
                s.learn(s.waiting.pop(0)[1])

    def _emit(self, number: int, at: int, r: ShiftReport, out: OutputWriter) -> None:
        asset, channel, kind = self.assets[number], self.channels[number], FindingKind.ROAD_ROUGHNESS
        sd = r.sd * r.expected
        low, high = r.expected - 3 * sd, r.expected + 3 * sd
        if r.phase is FindingPhase.CLEAR:
            summary = f"Roughness of {asset.name} is back at {r.observed:.2f} m/km, expected {r.expected:.2f}, over {r.readings} passes"
        else:
            summary = (
                f"Roughness of {asset.name} is {r.observed:.2f} m/km over {r.readings} passes, "
                f"{r.observed - r.expected:.2f} above the usual {r.expected:.2f} "
                f"(band {low:.2f} to {high:.2f}) since {from_us(r.onset_us):%d %b %H:%M} UTC"
            )
        evidence = Evidence(
            summary,
            r.observed,
            r.expected,
            low,
            high,
            "m/km",
            r.statistic,
            self.sections[number].monitor.rules.threshold,
            self._baseline(number),
            (Driver(channel.device_id, r.observed, r.expected, sd, "m/km", channel.channel_id),),
            (),
            {"passes": r.readings, "step_m_per_km": round(r.expected * (math.exp(r.shift) - 1.0), 2)},
        )
        identity = finding_id(self.name, self.version, kind, r.phase, asset.asset_id, r.onset_us, at)
        out.findings.append(
            Finding(
                identity,
                kind,
                r.phase,
                asset.asset_id,
                asset.zone_id,
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
        return pack({"sections": [s.state() for s in self.sections]})

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        for section, saved in zip(self.sections, unpack(state)["sections"], strict=True):
            section.restore(saved)
