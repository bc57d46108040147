"""A tank: water over its weir, a reserve that is used up, and a volume that its flows do not explain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detectors.contract import NEVER_US, BankOutput, FloatArray, Frames, OutputWriter
from detectors.shift import HoldBook, ShiftReport
from detectors.snapshot import pack, unpack
from detectors.water.tank_balance import TankBalance
from underway.model import (
    DAY_US,
    HOUR_US,
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
LEVEL_ROLE, FLOW_ROLE = "tank_level", "tank_flow"
ATTRIBUTES_M = ("overflow_m", "low_m")
RATE_ROWS, RATE_ROWS_MIN, RATE_US = 6, 4, 35 * MINUTE_US
RATE_SDS = 3.0
AHEAD_MIN = 60.0
EXTREME_DAYS, EXTREME_DAYS_MIN = 30, 7
DAY_ROWS_MIN = 200
MARGIN_M, WEIR_M, BACK_M = 0.02, 0.01, 0.05
ON_STEPS, OFF_STEPS = 2, 6
INFLOW_RISE_MPH = 0.01
UPDATE_US = 30 * MINUTE_US
OVERFLOW, LOW, BALANCE = FindingKind.TANK_OVERFLOW, FindingKind.TANK_LOW, FindingKind.TANK_BALANCE


def tank_problems(attributes: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the attributes of a tank, a sentence each.

    Parameters
    ----------
    attributes : mapping
        ``area_m2`` or ``diameter_m`` (of a round tank), ``overflow_m`` (level of the weir) and ``low_m`` (level of the reserve for fire and
        failure), levels as the gauge says them. Each may be left out; what needs it is then not watched.

    Examples
    --------
    >>> tank_problems({"area_m2": 400.0, "overflow_m": 4.5, "low_m": 1.5})
    []
    >>> tank_problems({"area_m2": -1, "overflow_m": 1.0, "low_m": 1.5})
    ["'area_m2' must be a number above 0 in m2, got -1", "'low_m' must be below 'overflow_m' (1.0 m), got 1.5"]
    """
    found = []
    for name, unit in (("area_m2", "m2"), ("diameter_m", "m"), *((name, "m") for name in ATTRIBUTES_M)):
        value = attributes.get(name)
        if value is not None and not _positive(value):
            found.append(f"{name!r} must be a number above 0 in {unit}, got {value!r}")
    low, overflow = attributes.get("low_m"), attributes.get("overflow_m")
    if _positive(low) and _positive(overflow) and float(str(low)) >= float(str(overflow)):
        found.append(f"'low_m' must be below 'overflow_m' ({overflow!r} m), got {low!r}")
    return found


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _attribute(attributes: Mapping[str, Any], name: str) -> float:
    value = attributes.get(name)
    return float(str(value)) if _positive(value) else math.nan


def tank_area_m2(attributes: Mapping[str, Any]) -> float:
    """Return the area of the water in m2, NaN when neither ``area_m2`` nor ``diameter_m`` says it."""
    area = _attribute(attributes, "area_m2")
    return area if math.isfinite(area) else math.pi / 4.0 * _attribute(attributes, "diameter_m") ** 2


@dataclass(slots=True)
class _Condition:
    """An open `tank.overflow` or `tank.low`."""

    onset_us: int
    updated_us: int
    historical: bool
    cause: str
    quiet: int = 0


@dataclass(slots=True)
class _Now:
    """What is known of the tank at one grid time; flows in m3/h, NaN where not known."""

    at: int
    level: float
    flow: float
    rate: float
    rate_sd: float
    historical: bool


class TankLevel:
    """Find an overflow and an empty tank before they come, and a volume that the flows do not explain.

    Parameters
    ----------
    asset : Asset
        Tank, with the attributes that `tank_problems` names; one that is not right counts as left out.
    level : Channel
    flows : sequence of Channel
        Role ``tank_flow``: sign +1 where positive flow leaves the tank, -1 where it enters. Without any, only the level is watched.

    Notes
    -----
    Rate: least squares over the last 30 min of level, believed above 3 of its standard deviations. `tank.overflow`: level at the weir
    (``overflow_m`` less 1 cm) for 2 grid times, and, where flows are known, an inflow that goes on: net inflow above ``A x 1 cm/h`` (a full tank
    that rests is no overflow). Or, ahead of it: at the present rate the weir is reached within 60 min, and the level is above what the last 30 days
    reached. `tank.low`: the same downwards with ``low_m``. CLEAR after 6 grid times 5 cm inside, or at rest. `tank.balance`: see `TankBalance`.
    Days with a condition or a hold are not taken into the usual range. Cost 0.14 ms a grid time; state 5 kB (`underway bench faults`).

    Blind to: a weir that takes water below ``overflow_m`` (wrong attribute); an overflow while the gauge stands low (the balance sees it, later);
    a forecast in the first 7 days (the level itself is judged at once); what `TankBalance` is blind to.

    Examples
    --------
    The weir is at 4 m. Water stands there while 60 m3/h still come in: overflow. With no inflow it is a full tank.

    >>> from underway.model import AssetClass, Quantity
    >>> tank = Asset("tk-1", "town", "z1", AssetClass.TANK, "Hill tank", attributes={"area_m2": 100.0, "overflow_m": 4.0})
    >>> gauge = Channel(1, "tk", "level", Quantity.LEVEL, "m", "tk-1", "z1", "tank_level", 0, 5, 300)
    >>> meter = Channel(2, "tk", "in", Quantity.FLOW, "m3/h", "tk-1", "z1", "tank_flow", 0, 500, 300, sign=-1)
    >>> at, level = np.arange(5) * 300_000_000, np.array([3.9, 3.95, 4.0, 4.0, 4.0])
    >>> for inflow in (60.0, 0.0):
    ...     frames = Frames(at, np.column_stack((level, np.full(5, inflow))), np.zeros(5, bool))
    ...     found = TankLevel(tank, gauge, [meter]).step(frames).findings
    ...     print([(f.kind.value, f.phase.value, f.evidence.details["spill_m3ph"]) for f in found])
    [('tank.overflow', 'raise', 60.0)]
    []
    """

    name = "tank-level"
    version = "1"
    warm_up_us = 14 * DAY_US
    kinds = (OVERFLOW, LOW, BALANCE)
    grid_us = GRID_US
    state_bytes_max = 60_000

    def __init__(self, asset: Asset, level: Channel, flows: Sequence[Channel] = ()) -> None:
        self.asset = asset
        self.key = f"{self.name}@{self.version}/{asset.asset_id}"
        self.channels = (level, *flows)
        self.channel_ids = tuple(c.channel_id for c in self.channels)
        self.area_m2 = tank_area_m2(asset.attributes)
        self.overflow_m = _attribute(asset.attributes, "overflow_m")
        self.low_m = _attribute(asset.attributes, "low_m")
        if self.low_m >= self.overflow_m:
            self.low_m = math.nan
        self.noise_m = max(level.resolution, 0.001)
        self.into = np.array([-c.sign for c in flows], np.float64)
        where = f"asset/{asset.asset_id}"
        self.signals = (
            Signal(f"{where}/level", asset.zone_id, asset.asset_id, "m"),
            Signal(f"{where}/balance", asset.zone_id, asset.asset_id, "m3/h"),
        )
        known = bool(flows) and math.isfinite(self.area_m2)
        self.balance = TankBalance(self.area_m2, self.noise_m) if known else None
        self.holds = HoldBook()
        self.open: dict[str, _Condition] = {}
        self.on = {OVERFLOW.value: 0, LOW.value: 0}
        self.on_us = {OVERFLOW.value: NEVER_US, LOW.value: NEVER_US}
        self.recent = np.empty((0, 2))
        self.days = np.empty((0, 2))
        self.today, self.today_rows, self.today_good = -1, 0, True
        self.today_low, self.today_high = math.inf, -math.inf
        self.frozen_us = NEVER_US

    @classmethod
    def plan(cls, assets: Mapping[str, Asset], channels: Sequence[Channel]) -> list[TankLevel]:
        """Return one detector for every tank with a level gauge of which enough is known to judge anything."""
        found = []
        gauges: dict[str, Channel] = {}
        for c in channels:
            if c.role == LEVEL_ROLE and c.asset_id is not None and c.asset_id in assets:
                gauges.setdefault(c.asset_id, c)
        for asset_id, gauge in gauges.items():
            tank = cls(assets[asset_id], gauge, [c for c in channels if c.role == FLOW_ROLE and c.asset_id == asset_id])
            if tank.balance is not None or math.isfinite(tank.overflow_m) or math.isfinite(tank.low_m):
                found.append(tank)
        return found

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on this tank."""
        return hold.asset_id == self.asset.asset_id

    def hold(self, hold: Hold) -> None:
        """Stop adapting, or take the release into account."""
        if hold.released_us is None:
            self._freeze(hold.held_us)
            self.holds.take(hold.hold_id, hold.held_us)
        elif self.holds.release(hold.hold_id) and self.balance is not None:
            self.balance.released(hold.verdict == "cancelled")

    @property
    def frozen(self) -> bool:
        """Whether nothing is learned now."""
        return bool(self.holds) or bool(self.open) or (self.balance is not None and self.balance.monitor.open is not None)

    def _freeze(self, at_us: int) -> None:
        if not self.frozen:
            self.frozen_us = at_us
        self.today_good = False
        if self.balance is not None:
            self.balance.forget(at_us)

    def _baseline(self) -> str:
        when = f"{from_us(self.frozen_us):%Y-%m-%dT%H:%MZ}" if self.frozen else "live"
        return f"{self.name}@{self.version}/{self.asset.asset_id}/{when}"

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        out = OutputWriter(self.signals)
        for i in range(len(frames)):
            at, row = int(frames.at_us[i]), frames.value[i]
            if math.isfinite(row[0]):
                self._one(at, row, bool(frames.historical[i]), out)
        return out.output()

    def _one(self, at: int, row: FloatArray, historical: bool, out: OutputWriter) -> None:
        level = float(row[0])
        parts = self.into * row[1:]
        flow = float(parts.sum()) if len(parts) else math.nan
        self.recent = np.concatenate((self.recent, [[float(at), level]]))[-RATE_ROWS:]
        now = _Now(at, level, flow, *self._rate(at), historical)
        self._remember(at, level)
        self._overflow(now, out)
        self._low(now, out)
        inside = min(max(level, _or(self.low_m, level)), _or(self.overflow_m - BACK_M, level))
        out.expect(at, self._baseline(), 0, np.array([level]), np.array([inside]), np.array([3.0 * self.noise_m]))
        if self.balance is not None:
            at_weir = level >= _or(self.overflow_m - MARGIN_M, math.inf)
            self._balanced(now, self.balance, parts, at_weir, out)

    def _rate(self, at: int) -> tuple[float, float]:
        """Return the rise in m/h over the last half hour and its standard deviation; NaN when there is too little."""
        near = self.recent[self.recent[:, 0] > at - RATE_US]
        if len(near) < RATE_ROWS_MIN:
            return math.nan, math.nan
        t = (near[:, 0] - near[:, 0].mean()) / HOUR_US
        spread = float((t * t).sum())
        rate = float((t * near[:, 1]).sum()) / spread
        # a jump of the gauge is no rate: most of the steps must go the same way
        step = float(np.median(np.diff(near[:, 1]) / np.diff(near[:, 0]))) * HOUR_US
        if step * rate <= 0.0 or abs(step) < abs(rate) / 2.0:
            return 0.0, self.noise_m / math.sqrt(spread)
        rest = near[:, 1] - near[:, 1].mean() - rate * t
        sd = max(self.noise_m, math.sqrt(float((rest * rest).sum()) / (len(near) - 2)))
        return rate, sd / math.sqrt(spread)

    def _remember(self, at: int, level: float) -> None:
        """Keep the lowest and highest level of every day on which nothing was wrong."""
        day = at // DAY_US
        if day != self.today:
            if self.today_good and self.today_rows >= DAY_ROWS_MIN:
                self.days = np.concatenate((self.days, [[self.today_low, self.today_high]]))[-EXTREME_DAYS:]
            self.today, self.today_rows, self.today_good = day, 0, not self.frozen
            self.today_low, self.today_high = math.inf, -math.inf
        self.today_rows += 1
        self.today_low, self.today_high = min(self.today_low, level), max(self.today_high, level)

    def _usual(self) -> tuple[float, float]:
        """Return lowest and highest level of the last days, NaN while too few were seen."""
        if len(self.days) < EXTREME_DAYS_MIN:
            return math.nan, math.nan
        return float(self.days[:, 0].min()), float(self.days[:, 1].max())

    # -- overflow and low -----------------------------------------------------------------------------------------------------

    def _inflow_min(self) -> float:
        return INFLOW_RISE_MPH * _or(self.area_m2, 100.0)

    def _overflow(self, now: _Now, out: OutputWriter) -> None:
        if not math.isfinite(self.overflow_m):
            return
        resting = math.isfinite(now.flow) and now.flow <= self._inflow_min()
        full = now.level >= self.overflow_m - WEIR_M and not resting
        rising = now.rate > RATE_SDS * now.rate_sd and now.level > self._usual()[1] + MARGIN_M and not resting
        ahead = rising and (self.overflow_m - now.level) / now.rate * 60.0 <= AHEAD_MIN
        away = now.level < self.overflow_m - BACK_M and not ahead
        self._judge(OVERFLOW, now, "at_weir" if full else "ahead" if ahead else "", away or resting, out)

    def _low(self, now: _Now, out: OutputWriter) -> None:
        if not math.isfinite(self.low_m):
            return
        under = now.level < self.low_m
        falling = now.rate < -RATE_SDS * now.rate_sd and now.level < self._usual()[0] - MARGIN_M
        ahead = falling and (now.level - self.low_m) / -now.rate * 60.0 <= AHEAD_MIN
        away = now.level > self.low_m + BACK_M and not ahead
        self._judge(LOW, now, "under_reserve" if under else "ahead" if ahead else "", away, out)

    def _judge(self, kind: FindingKind, now: _Now, cause: str, quiet: bool, out: OutputWriter) -> None:
        name, condition = kind.value, self.open.get(kind.value)
        if condition is None:
            self.on[name] = self.on[name] + 1 if cause else 0
            if self.on[name] == 1:
                self.on_us[name] = now.at
            if self.on[name] >= ON_STEPS:
                self._freeze(self.on_us[name])
                self.open[name] = _Condition(self.on_us[name], now.at, now.historical, cause)
                self._emit_level(kind, FindingPhase.RAISE, now, self.open[name], out)
            return
        condition.quiet = condition.quiet + 1 if quiet else 0
        if condition.quiet >= OFF_STEPS:
            self._emit_level(kind, FindingPhase.CLEAR, now, condition, out)
            del self.open[name]
            self.on[name] = 0
        elif condition.historical and not now.historical and cause:
            condition.historical = False
            self._emit_level(kind, FindingPhase.RAISE, now, condition, out)
        elif cause and (now.at - condition.updated_us >= UPDATE_US or (condition.cause == "ahead" and cause != "ahead")):
            condition.updated_us, condition.cause = now.at, cause
            self._emit_level(kind, FindingPhase.UPDATE, now, condition, out)

    def _emit_level(self, kind: FindingKind, phase: FindingPhase, now: _Now, condition: _Condition, out: OutputWriter) -> None:
        limit = self.overflow_m if kind is OVERFLOW else self.low_m
        usual = self._usual()[1 if kind is OVERFLOW else 0]
        minutes = (limit - now.level) / now.rate * 60.0 if math.isfinite(now.rate) and now.rate else math.nan
        # water that stands at the weir hardly rises: what comes in goes over
        spill = now.flow if condition.cause == "at_weir" else math.nan
        empty = now.level / -now.rate * 60.0 if now.rate < 0 else math.nan
        evidence = Evidence(
            self._words(kind, phase, now, condition.cause, limit, minutes, spill),
            now.level,
            _or(usual, limit),
            0.0 if kind is OVERFLOW else limit,
            limit if kind is OVERFLOW else max(limit, now.level),
            "m",
            now.level,
            limit,
            self._baseline(),
            (Driver(self.channels[0].device_id, now.level, _or(usual, limit), self.noise_m, "m", self.channels[0].channel_id),),
            (),
            {
                "cause": condition.cause,
                "limit_m": limit,
                "rate_mph": _figure(now.rate),
                "limit_in_min": _figure(minutes) if condition.cause == "ahead" else None,
                "empty_in_min": _figure(empty) if kind is LOW else None,
                "spill_m3ph": _figure(spill),
            },
        )
        score = now.level / limit if kind is OVERFLOW else limit / max(now.level, self.noise_m)
        self._emit(kind, phase, score, condition.onset_us, now.at, evidence, now.historical, out)

    def _words(
        self, kind: FindingKind, phase: FindingPhase, now: _Now, cause: str, limit: float, minutes: float, spill: float
    ) -> str:  # fmt: skip
        name, what = self.asset.name, "its weir" if kind is OVERFLOW else "the reserve"
        if phase is FindingPhase.CLEAR:
            return f"{name} is at {now.level:.2f} m and no longer {'overflows' if kind is OVERFLOW else 'short of water'}"
        if cause == "ahead":
            return f"{name} is at {now.level:.2f} m and reaches {what} ({limit:.2f} m) in about {max(minutes, 0.0):.0f} min at {now.rate:+.2f} m/h"
        if kind is OVERFLOW:
            lost = f", about {spill:.0f} m3/h are lost" if math.isfinite(spill) else "; its flows are not known"
            return f"{name} stands at {now.level:.2f} m, its weir is at {limit:.2f} m{lost}"
        return f"{name} is at {now.level:.2f} m, below the reserve of {limit:.2f} m"

    # -- balance --------------------------------------------------------------------------------------------------------------

    def _balanced(self, now: _Now, balance: TankBalance, parts: FloatArray, at_weir: bool, out: OutputWriter) -> None:
        held = self.frozen
        verdict = balance.step(now.at, now.level, parts, at_weir, now.historical, held, bool(self.holds))
        if verdict is None:
            return
        report = verdict.report
        if report is not None and report.phase is FindingPhase.RAISE:
            if not held:
                self.frozen_us = report.onset_us
            self.today_good = False
            balance.forget(report.onset_us)
        row = (verdict.observed, verdict.expected, verdict.sd)
        out.expect(now.at, self._baseline(), 1, *(np.array([v]) for v in row))
        if report is None:
            return
        self._emit_balance(now, balance, report, out)

    def _emit_balance(self, now: _Now, balance: TankBalance, r: ShiftReport, out: OutputWriter) -> None:
        cause = balance.cause(r.side)
        gap, half = r.observed - r.expected, 3.0 * r.sd
        if r.phase is FindingPhase.CLEAR:
            summary = f"The balance of {self.asset.name} closes again: {gap:+.1f} m3/h over the last {r.readings} h"
        else:
            why = {"gauge_stands": "the level gauge stands still", "missing": "a leak of the tank, or a gauge or meter that lies"}
            summary = (
                f"{abs(gap):.1f} m3/h {'go missing' if r.side > 0 else 'come in unmetered'} at {self.asset.name} since "
                f"{from_us(r.onset_us):%d %b %H:%M} UTC: {why.get(cause, 'an inflow without a meter, or a gauge or meter that lies')}"
            )
        drivers = [Driver(f"{self.asset.asset_id} balance", r.observed, r.expected, r.sd, "m3/h", None)]
        details = {"cause": cause, "gap_m3ph": round(gap, 2), "readings": r.readings}
        evidence = Evidence(
            summary, r.observed, r.expected, r.expected - half, r.expected + half, "m3/h", r.statistic, balance.threshold,
            self._baseline(), tuple(drivers), (), details,
        )  # fmt: skip
        self._emit(BALANCE, r.phase, r.score, r.onset_us, now.at, evidence, r.historical, out)

    def _emit(
        self, kind: FindingKind, phase: FindingPhase, score: float, onset: int, at: int, evidence: Evidence, late: bool, out: OutputWriter
    ) -> None:  # fmt: skip
        asset = self.asset
        identity = finding_id(self.name, self.version, kind, phase, asset.asset_id, onset, at)
        out.findings.append(
            Finding(identity, kind, phase, asset.asset_id, asset.zone_id, self.name, self.version, score, onset, at, evidence, late)
        )

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "open": {kind: asdict(condition) for kind, condition in sorted(self.open.items())},
                "holds": self.holds.state(),
                "balance": None if self.balance is None else self.balance.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s: dict[str, Any] = unpack(state)
        for name in _PLAIN:
            setattr(self, name, s[name])
        self.open = {kind: _Condition(**c) for kind, c in s["open"].items()}
        self.holds.restore(s["holds"])
        if self.balance is not None and s["balance"] is not None:
            self.balance.restore(s["balance"])


_PLAIN = ("on", "on_us", "recent", "days", "today", "today_rows", "today_good", "today_low", "today_high", "frozen_us")


def _or(value: float, other: float) -> float:
    """Return `value`, or `other` where it is not known."""
    return value if math.isfinite(value) else other


def _figure(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
