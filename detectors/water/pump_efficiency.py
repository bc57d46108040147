"""A pump that needs more power for the same work than it did when it was healthy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
ROLES = ("pump_flow", "pump_suction", "pump_discharge", "pump_power")
FLOW, SUCTION, DISCHARGE, POWER = range(4)
RUNNING_KW = 0.2
ETA_MIN, ETA_MAX = 0.02, 1.0
NOISE_ETA, FLOOR_ETA = 0.02, 0.002
EFFECT_ETA = 0.015
ROWS_MIN, LEARN_DAYS = 600, 5
YEARS_PER_FALSE = 30.0
WAIT_STEPS = 72
MEMORY, CLIP_SD, STATISTICS_MIN = 8640.0, 4.0, 100.0
RANGE_SHARE = 0.02
DUTY_GAIN = 1.0 / 864.0
READINGS_MIN, WINDOW_MIN, WINDOW_MAX = 12, 12, 576
UPDATE_US = 6 * 60 * MINUTE_US
WEAR_SHARE = 0.5


class PumpEfficiency(AdaptingDetector):
    """Find a loss of wire-to-water efficiency against the pump's own curve.

    Parameters
    ----------
    asset : Asset
    channels : sequence of Channel
        Flow (m3/h), suction pressure (kPa), discharge pressure (kPa) and electrical power (kW), in that order.

    Notes
    -----
    ``eta = rho g Q H / P = Q dp / (3600 P)`` with Q in m3/h, dp in kPa and P in kW. Expected is a square in ``phi = Q / sqrt(dp)``, which by
    the affinity laws stands for the operating point at any speed: a pump that moves along its curve, or turns slower, keeps the eta of its phi.
    Learned by `BayesForecast` six hours late and not while a condition or a hold is open. A phi outside what was learned is learned and not
    judged. Grid times beside a start or stop are left out. Residual downwards into `ShiftMonitor`, at least 1.5 points, once in 30 years of
    running by chance; judged after 5 days and 600 grid times of running. ``details["cause"]``: ``hydraulic`` where the head at this flow fell by
    half of the loss or more (wear, recirculation), else ``drive`` (motor, bearings, power meter). Cost 0.11 ms a grid time; state
    26 kB (`underway bench faults`).

    Blind to: wear in the first 5 days, and wear so slow that it is learned; a change that leaves the learned range of phi; a flow or pressure
    meter that drifts looks like a loss; a throttled valve behind the gauge is no loss of the pump; several pumps on one meter.

    Examples
    --------
    100 m3/h at 360 kPa with 14 kW: ten kilowatts of work, eta 0.71.

    >>> from underway.model import AssetClass, Quantity
    >>> kinds = (Quantity.FLOW, Quantity.PRESSURE, Quantity.PRESSURE, Quantity.POWER)
    >>> boxes = [Channel(i, "pu", r, q, "", "pu-1", "z1", r, 0, 1e4, 300) for i, (r, q) in enumerate(zip(ROLES, kinds, strict=True), start=1)]
    >>> pump = PumpEfficiency(Asset("pu-1", "town", "z1", AssetClass.PUMP, "Pump 1"), boxes)
    >>> round(pump.efficiency(np.array([100.0, 40.0, 400.0, 14.0])), 2)
    0.71
    """

    name = "pump-efficiency"
    version = "1"
    warm_up_us = 21 * DAY_US
    kinds = (FindingKind.PUMP_EFFICIENCY,)
    grid_us = GRID_US
    state_bytes_max = 120_000

    def __init__(self, asset: Asset, channels: Sequence[Channel]) -> None:
        self.asset = asset
        self.key = f"{self.name}@{self.version}/{asset.asset_id}"
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.signals = (Signal(f"asset/{asset.asset_id}/efficiency", asset.zone_id, asset.asset_id, "1"),)
        self.threshold = cusum_threshold(YEARS_PER_FALSE * 365 * DAY_US / GRID_US)
        self.monitor = ShiftMonitor(
            ShiftRules(self.threshold, (-1,), READINGS_MIN, EFFECT_ETA, WINDOW_MIN, WINDOW_MAX, UPDATE_US)
        )  # fmt: skip
        self.forecast, self.head = BayesForecast(3, NOISE_ETA), BayesForecast(3, NOISE_ETA)
        self.holds = HoldBook()
        self.pending = np.full(4, np.nan)
        self.pending_us, self.pending_late = NEVER_US, False
        self.steady = False
        self.first_us, self.frozen_us = NEVER_US, NEVER_US
        self.rows = 0
        self.scale = np.zeros(3)
        self.phi = np.array([math.inf, -math.inf])
        self.square, self.squares, self.offset, self.duty = 0.0, 0.0, 0.0, 0.0
        self.fallen = 0.0
        self.waiting: list[tuple[int, FloatArray, float]] = []

    @classmethod
    def plan(cls, assets: Mapping[str, Asset], channels: Sequence[Channel]) -> list[PumpEfficiency]:
        """Return one detector for every pump with all four quantities."""
        of: dict[str, dict[str, Channel]] = {}
        for c in channels:
            if c.role in ROLES and c.asset_id is not None and c.asset_id in assets:
                of.setdefault(c.asset_id, {}).setdefault(c.role, c)
        return [cls(assets[i], [mine[r] for r in ROLES]) for i, mine in of.items() if len(mine) == len(ROLES)]

    def _freeze(self, at_us: int) -> None:
        super()._freeze(at_us)
        self._forget_from(at_us)

    @staticmethod
    def efficiency(row: FloatArray) -> float:
        """Return eta of flow, suction, discharge and power; NaN where the pump stands or one is missing."""
        if not np.isfinite(row).all() or row[POWER] < RUNNING_KW or row[FLOW] <= 0.0 or row[DISCHARGE] <= row[SUCTION]:
            return math.nan
        return float(row[FLOW] * (row[DISCHARGE] - row[SUCTION]) / (3600.0 * row[POWER]))

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        out = OutputWriter(self.signals)
        for i in range(len(frames)):
            at, row = int(frames.at_us[i]), frames.value[i]
            if not np.isfinite(row).all():
                self.steady, self.pending_us = False, NEVER_US
                continue
            runs = math.isfinite(self.efficiency(row))
            self.duty += DUTY_GAIN * (float(row[POWER] >= RUNNING_KW) - self.duty)
            near = at - self.pending_us <= GRID_US
            # one grid time late: the last before a stop is left out as the first after a start is
            if runs and near and self.steady:
                self._one(self.pending_us, self.pending, self.pending_late, out)
            self.steady = runs and near
            self.pending, self.pending_us, self.pending_late = row.copy(), at if runs else NEVER_US, bool(frames.historical[i])
        return out.output()

    def _one(self, at: int, row: FloatArray, historical: bool, out: OutputWriter) -> None:
        eta, head = self.efficiency(row), float(row[DISCHARGE] - row[SUCTION])
        if not ETA_MIN <= eta <= ETA_MAX:
            return
        if self.first_us == NEVER_US:
            self.first_us, self.scale = at, np.array([row[FLOW] / math.sqrt(head), row[FLOW], head])
        phi = float(row[FLOW]) / math.sqrt(head) / float(self.scale[0])
        x = np.array([1.0, phi - 1.0, (phi - 1.0) ** 2])
        flow = float(row[FLOW]) / float(self.scale[1]) - 1.0
        known = self.phi[0] - RANGE_SHARE <= phi <= self.phi[1] + RANGE_SHARE
        mean, widen = self.forecast.predict(x)
        mean += self.offset
        sd = math.hypot(math.sqrt(self.square) * widen, FLOOR_ETA, NOISE_ETA * math.sqrt(max(widen**2 - 1.0, 0.0)))
        if self.squares >= STATISTICS_MIN and known:
            usual, _ = self.head.predict(np.array([1.0, flow, flow * flow]))
            self.fallen += (head / float(self.scale[2]) / max(usual, 0.1) - 1.0 - self.fallen) / WINDOW_MIN
            self._judge(at, row, (eta, mean, sd), historical, out)
        if not self.frozen:
            self.waiting.append((at, np.array([phi, flow, head / self.scale[2]]), eta - self.offset))
            while len(self.waiting) > WAIT_STEPS:
                self._learn(*self.waiting.pop(0)[1:])

    def _judge(self, at: int, row: FloatArray, law: tuple[float, float, float], historical: bool, out: OutputWriter) -> None:
        eta, mean, sd = law
        ready = at - self.first_us >= LEARN_DAYS * DAY_US and self.rows >= ROWS_MIN
        held = self.frozen
        report = self.monitor.judge(at, eta - mean, sd, eta, mean, ready, historical, learn=not self.holds)
        if report is not None and report.phase is FindingPhase.RAISE:
            if not held:
                self.frozen_us = report.onset_us
            self._forget_from(report.onset_us)
        out.expect(at, self._baseline(), 0, np.array([eta]), np.array([mean]), np.array([sd]))
        if report is not None:
            self._emit(at, report, float(row[POWER]), out)

    def _learn(self, point: FloatArray, eta: float) -> None:
        phi, flow, head = point.tolist()
        x = np.array([1.0, phi - 1.0, (phi - 1.0) ** 2])
        mean, widen = self.forecast.predict(x)
        error = eta - mean
        if self.squares >= STATISTICS_MIN and widen < 1.5:
            limit = CLIP_SD * max(math.sqrt(self.square) * widen, FLOOR_ETA)
            error = min(max(error, -limit), limit)
        self.squares = min(self.squares + 1.0, MEMORY)
        self.square += (error**2 / widen**2 - self.square) / self.squares
        self.rows += 1
        self.forecast.learn(x, mean + error)
        self.head.learn(np.array([1.0, flow, flow * flow]), head)
        self.phi = np.array([min(self.phi[0], phi), max(self.phi[1], phi)])

    def _emit(self, at: int, r: ShiftReport, power: float, out: OutputWriter) -> None:
        loss = r.expected - r.observed
        share = loss / max(r.expected, 0.01)
        wasted = power * share * 24.0 * self.duty
        cause = "hydraulic" if self.fallen <= -WEAR_SHARE * share else "drive"
        if r.phase is FindingPhase.CLEAR:
            summary = f"{self.asset.name} is back at an efficiency of {r.observed:.1%}, {r.expected:.1%} is expected here"
        else:
            why = "its head fell too: wear or recirculation" if cause == "hydraulic" else "its head did not: motor, bearings or a meter"
            summary = (
                f"{self.asset.name} has an efficiency of {r.observed:.1%} where {r.expected:.1%} is expected of this operating point, since "
                f"{from_us(r.onset_us):%d %b %H:%M} UTC; about {wasted:.0f} kWh a day more; {why}"
            )
        half = 3.0 * r.sd
        name, asset = f"{self.asset.asset_id} efficiency", self.asset
        details = {"cause": cause, "loss_kwh_per_day": round(wasted, 1), "head_change": round(self.fallen, 3), "readings": r.readings}
        evidence = Evidence(
            summary, r.observed, r.expected, r.expected - half, r.expected + half, "1", r.statistic, self.threshold, self._baseline(),
            (Driver(name, r.observed, r.expected, r.sd, "1", None),), (), details,
        )  # fmt: skip
        kind = FindingKind.PUMP_EFFICIENCY
        identity = finding_id(self.name, self.version, kind, r.phase, asset.asset_id, r.onset_us, at)
        out.findings.append(
            Finding(identity, kind, r.phase, asset.asset_id, asset.zone_id, self.name, self.version, r.score, r.onset_us, at, evidence, r.historical)
        )  # fmt: skip

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "waiting": [list(w) for w in self.waiting],
                "holds": self.holds.state(),
                "monitor": self.monitor.state(),
                "forecast": self.forecast.state(),
                "head": self.head.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s: dict[str, Any] = unpack(state)
        for name in _PLAIN:
            setattr(self, name, s[name])
        self.waiting = [(at, x, y) for at, x, y in s["waiting"]]
        self.holds.restore(s["holds"])
        self.monitor.restore(s["monitor"])
        self.forecast.restore(s["forecast"])
        self.head.restore(s["head"])


_PLAIN = (
    "pending", "pending_us", "pending_late", "steady", "first_us", "frozen_us", "rows", "scale", "phi", "square", "squares", "offset",
    "duty", "fallen",
)  # fmt: skip
