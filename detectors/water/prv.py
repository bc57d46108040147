"""A pressure reducing valve (PRV) that no longer holds its downstream pressure, or holds it restlessly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

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
    Hold,
    Signal,
    finding_id,
    from_us,
)

GRID_US = 5 * MINUTE_US
UPSTREAM_ROLE, DOWNSTREAM_ROLE, FLOW_ROLE = "prv_upstream", "prv_downstream", "prv_flow"
UPSTREAM, DOWNSTREAM, FLOW = range(3)
HOURS = 24
NOISE, FLOOR_KPA = 0.02, 1.0
EFFECT_KPA = 8.0
MARGIN_KPA = 25.0
"""Closer than that to what it should hold, the inlet starves the valve, which is then no fault of it."""
OPEN_SHARE = 0.6
"""A valve that takes less than that part of what it usually takes, and lets too little through, stands open."""
USUAL_TIMES = 1.1
"""More flow than so many times the largest that was learned at that hour is a draw beyond what the valve is there for, a fire that is fought."""
SAME_MAX = 6
"""A gauge that repeats itself so often is not believed."""
LEARN_DAYS, ROWS_MIN = 7, 1200
YEARS_PER_FALSE = 30.0
WAIT_STEPS = 72
MEMORY, CLIP_SD, STATISTICS_MIN = 8640.0, 4.0, 200.0
READINGS_MIN, WINDOW_MIN, WINDOW_MAX = 6, 288, 576
"""It clears after a day: a seat that leaks shows at night only, a strainer by day."""
UPDATE_US = 6 * 60 * MINUTE_US
HUNT_EFFECT, HUNT_READINGS, HUNT_WINDOW = 1.6, 6, 24
"""Natural logarithm of the squared step from one reading to the next: 1.6 is a step 2.2 times as large."""
FOLLOW_SHARE, ALONE_TIMES, SHUT_SHARE, SINCE_GAIN = 0.6, 2.0, 0.5, 1.0 / 36.0


class PressureReducingValve(AdaptingDetector):
    """Find a PRV that has failed open or shut, leaks when it should be shut, clogs, was set otherwise, or hunts.

    Parameters
    ----------
    asset : Asset
    channels : sequence of Channel
        Upstream and downstream pressure (kPa), and flow (m3/h) where there is a meter, in that order.
    timezone : str
        IANA name; a valve that is set lower at night is set so by local hours.

    Notes
    -----
    A valve that regulates holds ``p2 = set(hour) - droop q``. Expected is that line, learned by `BayesForecast` with one level for each hour
    of the day and one slope, six hours late and not while a condition or a hold is open. Residual up and down into a `ShiftMonitor`, at least
    8 kPa, once in 30 years by chance; the logarithm of the squared step from one reading to the next into another: a valve that hunts shows
    larger steps. Left out: an inlet less than 25 kPa above what is expected; too little downstream although the valve takes less than 0.6 of
    what it usually takes (it starves, or no valve could hold that draw); a flow of more than 1.1 times the largest that its hour had; a gauge
    that repeats itself; steps, while the level is off.
    ``details["cause"]``: ``failed-open`` where the rise is 0.6 of what lies between the two sides, ``failed-shut`` where less than half is left,
    ``seat-leaks`` where the rise is twice as large below the mean flow as above, ``clogged`` where the fall is twice as large above,
    ``hunting``, else ``setting``. Judged after 7 days and 1200 grid times. Cost and state: `underway bench faults`.

    Blind to: what it does in the first 7 days; a setting that creeps so slowly that it is learned; which of setting, seat and strainer it is
    where there is no flow meter; a large draw of hours that the valve nearly holds, which looks like a clogged one; an hour whose setting was
    not learned yet (the change of the clocks shifts a schedule that runs by UTC); oscillation slower than an hour; a valve that fails open
    while its inlet starves.

    References
    ----------
    Prescott and Ulanicki (2003), Dynamic modeling of pressure reducing valves, doi 10.1061/(ASCE)0733-9429(2003)129:10(804).

    Examples
    --------
    >>> from underway.model import AssetClass, Quantity
    >>> boxes = [Channel(i, "d", r, Quantity.PRESSURE, "", "v-1", "z1", r, 0, 1e4, 300) for i, r in enumerate((UPSTREAM_ROLE, DOWNSTREAM_ROLE), 1)]
    >>> valve = PressureReducingValve(Asset("v-1", "town", "z1", AssetClass.VALVE, "PRV 1"), boxes, "UTC")
    >>> valve.key, [s.name for s in valve.signals]
    ('prv@1/v-1', ['asset/v-1/prv-pressure', 'asset/v-1/prv-restlessness'])
    """

    name = "prv"
    version = "1"
    warm_up_us = 14 * DAY_US
    kinds = (FindingKind.PRV_FAULT,)
    grid_us = GRID_US
    state_bytes_max = 160_000

    def __init__(self, asset: Asset, channels: Sequence[Channel], timezone: str) -> None:
        self.asset, self.zone = asset, ZoneInfo(timezone)
        self.key = f"{self.name}@{self.version}/{asset.asset_id}"
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.metered = len(channels) > FLOW
        place = (asset.zone_id, asset.asset_id)
        self.signals = (
            Signal(f"asset/{asset.asset_id}/prv-pressure", *place, "kPa"),
            Signal(f"asset/{asset.asset_id}/prv-restlessness", *place, "1"),
        )
        self.threshold = cusum_threshold(YEARS_PER_FALSE * 365 * DAY_US / GRID_US)
        self.monitor = ShiftMonitor(ShiftRules(self.threshold, (1, -1), READINGS_MIN, EFFECT_KPA, WINDOW_MIN, WINDOW_MAX, UPDATE_US))
        self.hunt = ShiftMonitor(ShiftRules(self.threshold, (1,), HUNT_READINGS, HUNT_EFFECT, HUNT_WINDOW, WINDOW_MAX, UPDATE_US))
        self.forecast = BayesForecast(HOURS + 1, NOISE)
        self.holds = HoldBook()
        self.first_us, self.frozen_us, self.last_us = NEVER_US, NEVER_US, NEVER_US
        self.last, self.same = np.full(2, np.nan), np.zeros(2)
        self.last_left = math.nan
        self.scale = np.ones(2)  # of the downstream pressure and of the flow: weights are about 1 then
        self.flow_max, self.flow_mean = np.zeros(HOURS), 1.0
        self.square, self.squares, self.offset, self.rows = 0.0, 0.0, 0.0, 0
        self.between = 0.0  # mean of what the valve takes, kPa
        self.step_mean, self.step_square = 0.0, 1.0
        self.hunt_offset = 0.0
        self.since = np.zeros(3)  # mean residual of late: below and above the mean flow, and what lies between the two sides
        self.waiting: list[tuple[int, FloatArray, float]] = []

    @classmethod
    def plan(cls, assets: Mapping[str, Asset], channels: Sequence[Channel], timezone: str) -> list[PressureReducingValve]:
        """Return one detector for every valve with a gauge on both sides."""
        of: dict[str, dict[str, Channel]] = {}
        for c in channels:
            if c.role in (UPSTREAM_ROLE, DOWNSTREAM_ROLE, FLOW_ROLE) and c.asset_id is not None and c.asset_id in assets:
                of.setdefault(c.asset_id, {}).setdefault(c.role, c)
        fed = {i: [mine[r] for r in (UPSTREAM_ROLE, DOWNSTREAM_ROLE, FLOW_ROLE) if r in mine] for i, mine in of.items()}
        return [cls(assets[i], mine, timezone) for i, mine in fed.items() if {UPSTREAM_ROLE, DOWNSTREAM_ROLE} <= of[i].keys()]

    # -- holds ----------------------------------------------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether nothing is learned now."""
        return super().frozen or self.hunt.open is not None

    def hold(self, hold: Hold) -> None:
        """Stop adapting, or take the release into account."""
        last = hold.released_us is not None and set(self.holds.holds) == {hold.hold_id}
        super().hold(hold)
        if last:
            if hold.verdict == "cancelled":
                self.hunt_offset += self.hunt.dismiss()
            if self.hunt.open is None:
                self.hunt.reset()

    # -- the step -------------------------------------------------------------------------------------------------------------------

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        out = OutputWriter(self.signals)
        for i in range(len(frames)):
            row = frames.value[i] if self.metered else np.append(frames.value[i], 0.0)
            self._one(int(frames.at_us[i]), row, bool(frames.historical[i]), out)
        return out.output()

    def _one(self, at: int, row: FloatArray, historical: bool, out: OutputWriter) -> None:
        seen = np.isfinite(row[:2])
        self.same = np.where(seen & (row[:2] == self.last), self.same + 1, np.where(seen, 0.0, self.same))
        self.last = np.where(seen, row[:2], self.last)
        before, near = self.last_left, at - self.last_us <= GRID_US
        self.last_left = math.nan
        if not np.isfinite(row).all() or (self.same >= SAME_MAX).any():
            return
        if self.first_us == NEVER_US:
            self.first_us = at
            self.scale = np.array([max(float(row[DOWNSTREAM]), 1.0), max(abs(float(row[FLOW])), 1.0)])
            self.flow_mean = float(row[FLOW])
        hour = datetime.fromtimestamp(at / 1e6, self.zone).hour
        x = self._features(hour, float(row[FLOW]))
        mean, widen = self.forecast.predict(x)
        expected = mean * float(self.scale[0]) + self.offset
        learned = self.squares >= STATISTICS_MIN
        left, between = float(row[DOWNSTREAM]) - expected, float(row[UPSTREAM] - row[DOWNSTREAM])
        # too little comes through although the valve takes less than usual: it stands open as it should, the inlet or the draw is to blame
        wide_open = left < 0.0 and between < OPEN_SHARE * self.between
        if learned and (row[UPSTREAM] < expected + MARGIN_KPA or wide_open):
            return
        self.last_left, self.last_us = left, at
        # without a step from the reading before, restlessness is not known
        step = math.log((left - before) ** 2 + (0.25 * FLOOR_KPA) ** 2) if near and math.isfinite(before) else math.nan
        usual = learned and (not self.metered or row[FLOW] <= USUAL_TIMES * self.flow_max[hour])
        if usual:
            unknown = NOISE * float(self.scale[0]) * math.sqrt(max(widen**2 - 1.0, 0.0))
            sd = math.hypot(math.sqrt(self.square) * widen, FLOOR_KPA, unknown)
            k = 0 if row[FLOW] < self.flow_mean else 1
            self.since[k] += SINCE_GAIN * (left - self.since[k])
            self.since[2] += SINCE_GAIN * (float(row[UPSTREAM]) - expected - self.since[2])
            self._judge(at, (float(row[DOWNSTREAM]), expected, sd), step, historical, out)
        if not self.frozen:
            self.waiting.append((at, np.array([hour, row[FLOW], step, between]), float(row[DOWNSTREAM]) - self.offset))
            while len(self.waiting) > WAIT_STEPS:
                self._learn(*self.waiting.pop(0)[1:])

    def _features(self, hour: int, flow: float) -> FloatArray:
        x = np.zeros(HOURS + 1)
        x[hour], x[HOURS] = 1.0, flow / float(self.scale[1]) if self.metered else 0.0
        return x

    def _judge(self, at: int, law: tuple[float, float, float], step: float, historical: bool, out: OutputWriter) -> None:
        observed, expected, sd = law
        ready = at - self.first_us >= LEARN_DAYS * DAY_US and self.rows >= ROWS_MIN
        held = self.frozen
        usual, spread = self.step_mean + self.hunt_offset, math.sqrt(self.step_square)
        learn, reports = not self.holds, []
        reports.append(self.monitor.judge(at, observed - expected, sd, observed, expected, ready, historical, learn=learn))
        # a valve whose level is off also steps otherwise: that is one failure, not two
        if math.isfinite(step) and (self.monitor.open is None or self.hunt.open is not None):
            reports.append(self.hunt.judge(at, step - usual, spread, step, usual, ready, historical, learn=learn))
        begun = [r.onset_us for r in reports if r is not None and r.phase is FindingPhase.RAISE]
        if begun:
            if not held:
                self.frozen_us = min(begun)
            self._forget_from(min(begun))
        out.expect(at, self._baseline(), 0, np.array([observed, step]), np.array([expected, usual]), np.array([sd, spread]))
        for number, report in enumerate(reports):
            if report is not None:
                self._emit(at, report, number == 1, out)

    def _learn(self, point: FloatArray, pressure: float) -> None:
        hour, flow, step, between = point.tolist()
        x, scale = self._features(int(hour), flow), float(self.scale[0])
        mean, widen = self.forecast.predict(x)
        error = pressure - mean * scale
        if self.squares >= STATISTICS_MIN and widen < 1.5:
            limit = CLIP_SD * max(math.sqrt(self.square) * widen, FLOOR_KPA)
            error = min(max(error, -limit), limit)
        self.squares = min(self.squares + 1.0, MEMORY)
        self.square += (error**2 / widen**2 - self.square) / self.squares
        self.rows += 1
        self.forecast.learn(x, mean + error / scale)
        self.flow_max[int(hour)] = max(float(self.flow_max[int(hour)]), flow)
        self.between += (between - self.between) / self.squares
        self.flow_mean += (flow - self.flow_mean) / self.squares
        if math.isfinite(step):
            self.step_mean += (step - self.step_mean) / self.squares
            self.step_square += ((step - self.step_mean) ** 2 - self.step_square) / self.squares

    # -- findings -------------------------------------------------------------------------------------------------------------------

    def _cause(self, r: ShiftReport) -> str:
        """Return what the shift looks like most."""
        low, high, between = self.since.tolist()
        if r.side > 0:
            if r.shift >= FOLLOW_SHARE * max(between, MARGIN_KPA):
                return "failed-open"
            return "seat-leaks" if self.metered and low > ALONE_TIMES * max(high, 0.0) and low > 0.5 * EFFECT_KPA else "setting"
        if r.observed < SHUT_SHARE * r.expected:
            return "failed-shut"
        return "clogged" if self.metered and high < ALONE_TIMES * min(low, 0.0) and high < -0.5 * EFFECT_KPA else "setting"

    def _emit(self, at: int, r: ShiftReport, hunting: bool, out: OutputWriter) -> None:
        cause = "hunting" if hunting else self._cause(r)
        since = f"{from_us(r.onset_us):%d %b %H:%M} UTC"
        unit = "1" if hunting else "kPa"
        if r.phase is FindingPhase.CLEAR:
            summary = f"{self.asset.name} {'is steady' if hunting else 'holds its pressure'} again"
        elif hunting:
            times = math.exp((r.observed - r.expected) / 2.0)
            summary = f"{self.asset.name} hunts since {since}: its pressure steps {times:.1f} times as far as usual from reading to reading"
        else:
            summary = f"{self.asset.name} holds {r.observed:.0f} kPa where {r.expected:.0f} kPa is expected, since {since}: {_WORDS[cause]}"
        number = int(hunting)
        half, name, asset = 3.0 * r.sd, self.signals[number].name, self.asset
        details = {"cause": cause, "change": round(r.observed - r.expected, 2), "readings": r.readings, "doubt": _DOUBTS[cause]}
        evidence = Evidence(
            summary, r.observed, r.expected, r.expected - half, r.expected + half, unit, r.statistic, self.threshold, self._baseline(),
            (Driver(name, r.observed, r.expected, r.sd, unit, self.channel_ids[DOWNSTREAM]),), (), details,
        )  # fmt: skip
        kind = FindingKind.PRV_FAULT
        identity = finding_id(self.name, f"{self.version}{'h' if hunting else ''}", kind, r.phase, asset.asset_id, r.onset_us, at)
        out.findings.append(
            Finding(identity, kind, r.phase, asset.asset_id, asset.zone_id, self.name, self.version, r.score, r.onset_us, at, evidence, r.historical)
        )  # fmt: skip

    # -- state ----------------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "waiting": [list(w) for w in self.waiting],
                "holds": self.holds.state(),
                "monitor": self.monitor.state(),
                "hunt": self.hunt.state(),
                "forecast": self.forecast.state(),
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
        self.hunt.restore(s["hunt"])
        self.forecast.restore(s["forecast"])


_PLAIN = (
    "first_us", "frozen_us", "last_us", "last", "same", "last_left", "scale", "flow_max", "flow_mean", "square", "squares", "offset",
    "rows", "between", "step_mean", "step_square", "hunt_offset", "since",
)  # fmt: skip
_WORDS = {
    "failed-open": "the pressure goes through, it has failed open",
    "failed-shut": "little comes through, it has failed shut",
    "seat-leaks": "most where little flows, its seat leaks",
    "clogged": "most where much flows, it or its strainer is clogged",
    "setting": "it was set otherwise, or its pilot has moved",
}
_DOUBTS = {
    "failed-open": "a bypass that somebody opened looks the same",
    "failed-shut": "a closed valve beside it, or a gauge that is shut off, looks the same",
    "seat-leaks": "a setting that is higher at these hours looks the same",
    "clogged": "a large draw close behind it looks the same",
    "setting": "a gauge that has shifted looks the same; compare it with another behind the valve",
    "hunting": "a customer who opens and closes fast, or a loose gauge, looks the same",
}
