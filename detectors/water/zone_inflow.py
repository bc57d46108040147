"""Bursts and background leaks from the net inflow of a zone: forecast residual with a CUSUM, night flow over several nights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detectors.contract import BankOutput, FloatArray, Frames, OutputWriter
from detectors.cusum import cusum_threshold, likeliest_begin
from detectors.noise import NoiseModel
from detectors.snapshot import pack, unpack
from detectors.standing import StandingGuard
from detectors.water.location import PressureTracker, align, locate, most_probable
from detectors.water.profile import SLOT_US, LocalDay, SlotProfile
from underway.model import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    Candidate,
    Channel,
    Driver,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    LeakSignatures,
    Signal,
    Zone,
    finding_id,
    from_us,
)

FLOW_ROLES = ("zone_inflow", "tank_flow")
PRESSURE_ROLES = ("zone_pressure",)
TANK_ROLES = ("tank_level",)

LEARN_DAYS = 10
"""Days of readings before the method speaks: ten days in a row hold two weekend days."""
DAYS_OF_KIND_MIN = 2
TRACK_FROM_DAYS = 3
LEVEL_US = 12 * HOUR_US
LEVEL_MAX = 0.25
LEVEL_CLIP_SD = 1.5
WAIT_STEPS = 36
"""Rows are learned three hours after they came, so that the hours before a finding are not learned."""
MEMORY_STEPS = 2880.0
Z_MAX = 6.0
Z_MIN = -4.0
K_MIN = 0.5
BAND_SDS = 3.0
YEARS_PER_FALSE = 30.0
STEPS_MIN = 3
EXCESS_SHARE_MIN = 0.02
SEPARATION = 6.0
WINDOW_MIN, WINDOW_MAX = 12, 288
CLEAR_SHARE = 0.3
SCORE_MAX = 100.0
UPDATE_US = 30 * MINUTE_US
UPDATE_OFTEN_US = 6 * HOUR_US

NIGHT_FROM_SLOT, NIGHT_TO_SLOT = 24, 48
NIGHT_STEPS_MIN = 12
NIGHTS_KEPT = 28
NIGHTS_MIN = 10
NIGHT_Z_MAX = 3.0
NIGHT_FALSE_NIGHTS = 365.0 * YEARS_PER_FALSE
NIGHT_SD_SHARE_MIN = 0.01
NIGHT_CLEAR_NIGHTS = 2
NIGHT_LEARN_Z_MAX = 2.5
STANDING_STEPS = 6
NEVER_US = -(2**62)


@dataclass(slots=True)
class _Condition:
    """An open condition; ``historical`` says that nothing live has confirmed it yet."""

    onset_us: int
    raised_us: int
    updated_us: int
    excess: float
    historical: bool
    top: str = ""
    rebased: bool = False
    quiet_nights: int = 0


@dataclass(slots=True)
class _Row:
    """One judged grid time: what was seen and expected of every series, and the level at that time."""

    at_us: int
    kind: int
    slot: int
    share: float
    offset: FloatArray
    value: FloatArray
    expected: FloatArray


class ZoneInflow:
    """Watch the net inflow of one zone for bursts and background leaks, and say where.

    Parameters
    ----------
    zone : Zone
    channels : sequence of Channel
        All flow, pressure and tank level channels that touch the zone.
    timezone : str
        IANA name; slots and nights are local.
    signatures : LeakSignatures, optional
        Pressure response to a leak on each pipe; without them there is no candidate pipe, only the sensors that fell most.
    pipe_length_m : mapping of str to float, optional
        Prior weight of the pipes; uniform when left out.
    pressure_names : mapping of int to str, optional
        Signal name of each pressure channel; default ``asset/<asset_id>/pressure``.

    Notes
    -----
    Net inflow ``q_t`` is the sum of ``sign * flow`` over inlet, boundary and tank meters; one missing meter makes a gap. Forecast
    ``e_t = m[kind of day, slot] (1 + a_t)``: a mean over days, and a level ``a`` that follows the day with a time constant of 12 h.
    Standardised residual ``z_t = (q_t - e_t) / (c s[slot] sqrt(1 + 1/n))``, where c >= 1 is the square root of the sum of autocorrelations up to 1
    h. Burst: ``S_t = max(0, S_{t-1} + z_t - k)`` with z clipped to -4..6, and a RAISE at S >= h, after at least 3 readings (15 min) and 2 % of the
    mean inflow. k is 0.5 or three standard deviations of the 3 h mean of z, whichever is more; h makes white noise raise once in thirty years (13.1).
    Background leak: mean of 02:00 to 04:00 local against median and MAD of up to 28 quiet nights, CUSUM with k = 0.5 and z clipped to 3, at least 3
    nights. From a RAISE on nothing is learned until the residual returned (mean over 1 h to 24 h, long enough that the leak would stand out by 6
    standard deviations, below 0.3 of the largest excess) and every hold is released. Rows are learned 3 h late, so the hours before a RAISE never
    are. A release with ``cancelled`` while the residual stands means a person says that this is the new normal: the level is moved there.

    It speaks after 10 days of readings, two of them weekend days. Cost about 0.1 ms a grid time. State about 60 kB plus 20 kB a pressure channel.

    Blind to: leaks during the first 10 days (they are learned), slow leaks below about one standard deviation of the night flow, leaks while an
    inlet meter is silent, losses upstream of the inlets. A step of demand (a new customer, a hydrant test, a holiday, a heat wave of more than the
    usual day-to-day spread) looks like a leak and is raised; a person cancels it.

    References
    ----------
    Page (1954), Continuous inspection schemes, doi 10.1093/biomet/41.1-2.100. Farley and Trow (2003), Losses in Water Distribution Networks
    (minimum night flow). House rules in docs/detectors/zone-inflow.md.

    Examples
    --------
    Twelve days at 30 m3/h with 1 m3/h of noise, then 12 m3/h more; the fourth reading at the latest speaks.

    >>> from underway.model import Quantity, ZoneKind
    >>> zone = Zone("z1", "town", "Zone 1", ZoneKind.DMA)
    >>> meter = Channel(1, "fm-1", "flow", Quantity.FLOW, "m3/h", None, "z1", "zone_inflow", 0, 500, 300)
    >>> noise = np.random.default_rng(1).normal(0, 1, 12 * 288 + 4)
    >>> flow = 30 + noise + np.where(np.arange(len(noise)) >= 12 * 288, 12, 0)
    >>> at = np.arange(len(flow)) * 300_000_000
    >>> out = ZoneInflow(zone, [meter], "UTC").step(Frames(at, flow[:, None], np.zeros(len(at), bool)))
    >>> [(f.kind.value, f.phase.value, int(f.detected_us - at[12 * 288]) // 60_000_000) for f in out.findings]
    [('leak.burst', 'raise', 10)]
    """

    name = "zone-inflow"
    version = "1"
    kinds = (FindingKind.LEAK_BURST, FindingKind.LEAK_BACKGROUND)
    grid_us = SLOT_US
    state_bytes_max = 4_000_000

    def __init__(
        self,
        zone: Zone,
        channels: Sequence[Channel],
        timezone: str,
        signatures: LeakSignatures | None = None,
        pipe_length_m: Mapping[str, float] | None = None,
        pressure_names: Mapping[int, str] | None = None,
    ) -> None:
        self.zone = zone
        self.asset_id = f"dma:{zone.zone_id}"
        self.key = f"{self.name}@{self.version}/{zone.zone_id}"
        self.channel_ids = tuple(c.channel_id for c in channels)
        self._flow = np.array([j for j, c in enumerate(channels) if c.role in FLOW_ROLES], np.int64)
        self._sign = np.array(
            [-c.sign if c.also_zone_id == zone.zone_id and c.zone_id != zone.zone_id else c.sign for c in channels if c.role in FLOW_ROLES],
            np.float64,
        )
        self._pressure = np.array([j for j, c in enumerate(channels) if c.role in PRESSURE_ROLES], np.int64)
        self._tank = np.array([j for j, c in enumerate(channels) if c.role in TANK_ROLES], np.int64)
        self._sensor = [channels[j] for j in self._pressure]
        s, t = len(self._pressure), len(self._tank)
        floor = np.array(
            [max(math.sqrt(sum(max(channels[j].resolution, 1e-3) ** 2 for j in self._flow) / 12), 1e-3)]
            + [max(channels[j].resolution / math.sqrt(12), 0.05) for j in self._pressure]
            + [max(channels[j].resolution / math.sqrt(12), 1e-3) for j in self._tank]
        )
        self._local = LocalDay(timezone)
        self._signatures = signatures
        self._pipes: tuple[str, ...] = () if signatures is None else signatures.pipe_ids
        self._prior: FloatArray | None = None
        if signatures is not None:
            self._column, self._position = align(signatures.channel_ids, [c.channel_id for c in self._sensor])
            if pipe_length_m:
                self._prior = np.array([max(pipe_length_m.get(p, 1.0), 1.0) for p in self._pipes])
        self._h = cusum_threshold(YEARS_PER_FALSE * 365 * DAY_US / SLOT_US, K_MIN)
        self._night_h = cusum_threshold(NIGHT_FALSE_NIGHTS, K_MIN)
        self.signals = (
            Signal(f"zone/{zone.zone_id}/inflow", zone.zone_id, None, "m3/h"),
            Signal(f"zone/{zone.zone_id}/night_flow", zone.zone_id, None, "m3/h"),
            *(
                Signal(
                    (pressure_names or {}).get(c.channel_id) or f"asset/{c.asset_id or c.device_id}/pressure",
                    zone.zone_id,
                    c.asset_id,
                    "kPa",
                )
                for c in self._sensor
            ),
        )
        self._series = 1 + s + t
        self.standing = StandingGuard(len(channels), STANDING_STEPS)
        self.profile = SlotProfile(self._series, floor)
        self.pressures = PressureTracker(s, 1 + t, floor[1 : 1 + s])
        self.usual = 0.0
        self.usual_n = 0.0
        self.share = 0.0
        self.extra = 0.0
        self.offset = np.zeros(self._series - 1)
        self.first_us = NEVER_US
        self.frozen_us = NEVER_US
        self.holds: dict[int, int] = {}
        self.recent: list[_Row] = []
        self.unlearned: list[_Row] = []
        self.statistic = 0.0
        self.onset_us = NEVER_US
        self.steps = 0
        self.noise = NoiseModel(K_MIN)
        self.burst: _Condition | None = None
        self.window = np.empty((0, 4))
        self.background: _Condition | None = None
        self.nights: list[float] = []
        self.night_day = -1
        self.night_sum = 0.0
        self.night_count = 0
        self.night_historical = False
        self.night_at_us = NEVER_US
        self.night_statistic = 0.0
        self.night_steps = 0
        self.night_onset_us = NEVER_US

    # -- holds ----------------------------------------------------------------------------------------------------------------

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on this zone."""
        return hold.asset_id == self.asset_id or hold.zone_id == self.zone.zone_id

    def hold(self, hold: Hold) -> None:
        """Stop adapting; on release start the statistics anew, and on ``cancelled`` take the present level as the new normal."""
        if hold.released_us is None:
            self._freeze(hold.held_us)
            self.holds[hold.hold_id] = hold.held_us
            return
        if self.holds.pop(hold.hold_id, None) is None or self.holds:
            return
        if hold.verdict == "cancelled":
            self._rebase()
        if self.burst is None:
            self.statistic, self.steps = 0.0, 0
        if self.background is None:
            self.night_statistic, self.night_steps = 0.0, 0
        self._thaw()

    @property
    def frozen(self) -> bool:
        """Whether nothing is learned now."""
        return self.burst is not None or self.background is not None or bool(self.holds)

    def _freeze(self, at_us: int) -> None:
        """Stop learning, and forget what was not learned yet from `at_us` on."""
        if self.frozen:
            return
        self.frozen_us = at_us
        dropped = [r for r in self.unlearned if r.at_us >= at_us]
        if dropped:
            self.share, self.offset = dropped[0].share, dropped[0].offset.copy()
            self.unlearned = self.unlearned[: -len(dropped)]

    def _thaw(self) -> None:
        if not self.frozen:
            self.frozen_us = NEVER_US

    def _rebase(self) -> None:
        """Take what stands now as normal: a person said that nothing leaks."""
        if self.burst is not None and len(self.window):
            self.extra += float(self.window[-WINDOW_MIN:, 1].mean())
            self.window = np.empty((0, 4))
            self.burst.rebased = True
        if self.background is not None:
            self.background.rebased = True

    # -- the step -------------------------------------------------------------------------------------------------------------

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        out = OutputWriter(self.signals)
        for i in range(len(frames)):
            self._one(int(frames.at_us[i]), frames.value[i], bool(frames.historical[i]), out)
        return out.output()

    def _one(self, at: int, row: FloatArray, historical: bool, out: OutputWriter) -> None:
        if self.first_us == NEVER_US:
            self.first_us = at
        s = len(self._sensor)
        row = self.standing(row)
        value = np.empty(self._series)
        value[0] = float(self._sign @ row[self._flow]) if len(self._flow) else np.nan
        value[1 : 1 + s] = row[self._pressure]
        value[1 + s :] = row[self._tank]
        day, kind, slot = self._local(at)
        mean, sd, days = self.profile.expect(kind, slot)
        scale = max(float(mean[0]), 0.25 * self.usual) if days[0] > 0 else 0.0
        level = np.empty(self._series)
        level[0] = self.share * scale + self.extra
        level[1:] = self.offset
        expected = mean + level
        sd = sd * np.sqrt(1.0 + 1.0 / np.maximum(days, 1.0))
        known = days >= DAYS_OF_KIND_MIN
        shown = np.where(known, expected, np.nan)
        out.expect(at, self._baseline(), 0, value[:1], shown[:1], sd[:1])
        if s:
            out.expect(at, self._baseline(), 2, value[1 : 1 + s], shown[1 : 1 + s], sd[1 : 1 + s])
        judged = _Row(at, kind, slot, self.share, self.offset.copy(), value, expected)
        self.recent.append(judged)
        if len(self.recent) > WAIT_STEPS:
            del self.recent[0]
        if not self.frozen:
            self.unlearned.append(judged)
        self._night(at, day, slot, float(value[0]), historical, out)
        if known[0] and np.isfinite(value[0]) and np.isfinite(sd[0]):
            self._judge(judged, float(sd[0]), historical, out)
        if not self.frozen:
            self._adapt(judged, mean, sd, days, scale)

    def _baseline(self) -> str:
        base = f"{self.name}@{self.version}/{self.zone.zone_id}/"
        return base + (f"{from_us(self.frozen_us):%Y-%m-%dT%H:%MZ}" if self.frozen else "live")

    # -- learning -------------------------------------------------------------------------------------------------------------

    def _adapt(self, row: _Row, mean: FloatArray, sd: FloatArray, days: FloatArray, scale: float) -> None:
        residual = row.value - row.expected
        gain = SLOT_US / LEVEL_US
        if self.statistic < self._h / 2:
            known = (days >= TRACK_FROM_DAYS) & np.isfinite(residual) & np.isfinite(sd)
            step = gain * np.clip(np.where(known, residual, 0.0), -LEVEL_CLIP_SD * sd, LEVEL_CLIP_SD * sd)
            if known[0] and scale > 0:
                self.share = float(np.clip(self.share + step[0] / scale, -LEVEL_MAX, LEVEL_MAX))
            self.offset += np.where(known[1:], step[1:], 0.0)
            if np.all(known[:1]):
                self.pressures.learn(*self._explained(residual, known))
        if np.isfinite(row.value[0]):
            self.usual_n = min(self.usual_n + 1.0, MEMORY_STEPS)
            self.usual += (float(row.value[0]) - self.extra - self.usual) / self.usual_n
        while len(self.unlearned) > WAIT_STEPS:
            old = self.unlearned.pop(0)
            then = old.value.copy()
            then[0] -= self.extra
            seen = (self.profile.days[old.kind, old.slot] > 0) & np.isfinite(old.expected)
            level = np.where(seen, old.expected - self.profile.mean[old.kind, old.slot], 0.0)
            level[0] -= self.extra
            self.profile.learn(old.kind, old.slot, then, level)

    def _explained(self, residual: FloatArray, known: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> tuple[FloatArray, FloatArray]:
        """Return residuals of (pressures, what explains them: net inflow and tank levels)."""
        s = len(self._sensor)
        pressure = residual[1 : 1 + s]
        if known is not None:
            pressure = np.where(known[1 : 1 + s], pressure, np.nan)
        return pressure, np.concatenate((residual[:1], residual[1 + s :]))

    # -- bursts ---------------------------------------------------------------------------------------------------------------

    def _judge(self, row: _Row, sd: float, historical: bool, out: OutputWriter) -> None:
        at = row.at_us
        residual = float(row.value[0] - row.expected[0])
        z, c = residual / sd, self.noise.scale
        ready = at - self.first_us >= LEARN_DAYS * DAY_US and self.noise.ready
        if ready:
            k = self.noise.reference
            if self.statistic <= 0.0:
                self.onset_us, self.steps = at, 0
            self.statistic = min(max(0.0, self.statistic + min(max(z / c, Z_MIN), Z_MAX) - k), SCORE_MAX * self._h)
            self.steps += 1
        if self.burst is not None:
            self._follow(self.burst, row, sd * c, historical, out)
        elif ready and self.statistic >= self._h and self.steps >= STEPS_MIN:
            self._raise(row, sd * c, historical, out)
        if not self.frozen:
            self.noise.learn(z)

    def _raise(self, row: _Row, sd: float, historical: bool, out: OutputWriter) -> None:
        since = [r for r in self.recent if r.at_us >= self.onset_us and np.isfinite(r.value[0]) and np.isfinite(r.expected[0])]
        residual = np.array([r.value[0] - r.expected[0] for r in since])
        # the statistic may have left zero before the change: the likeliest begin is where the mean from there on stands out most
        since = since[likeliest_begin(residual, STEPS_MIN) :]
        self.onset_us = since[0].at_us
        window = np.array([(r.at_us, r.value[0] - r.expected[0], r.expected[0], r.value[0]) for r in since])
        excess = float(window[:, 1].mean())
        if excess < EXCESS_SHARE_MIN * self.usual:
            return
        self._freeze(self.onset_us)
        self.window = window
        self.burst = _Condition(self.onset_us, row.at_us, row.at_us, excess, historical)
        self.pressures.open()
        for r in since:
            self.pressures.add(*self._explained(r.value - r.expected))
        self._emit_burst(FindingPhase.RAISE, self.burst, row, sd, historical, out)

    def _follow(self, burst: _Condition, row: _Row, sd: float, historical: bool, out: OutputWriter) -> None:
        at = row.at_us
        entry = np.array([[at, row.value[0] - row.expected[0], row.expected[0], row.value[0]]])
        self.window = np.concatenate((self.window, entry))[-WINDOW_MAX:]
        size = int(min(max(math.ceil((SEPARATION * sd / max(burst.excess, 1e-9)) ** 2), WINDOW_MIN), WINDOW_MAX))
        residual = self.window[:, 1]
        if not burst.rebased:
            if len(residual) >= size:
                burst.excess = max(burst.excess, float(residual[-size:].mean()))
            if residual[-STEPS_MIN:].mean() > 0.5 * burst.excess:
                self.pressures.add(*self._explained(row.value - row.expected))
        fresh = len(residual) >= size and at - self.window[-size, 0] <= 2 * size * SLOT_US
        if fresh and residual[-size:].mean() < CLEAR_SHARE * burst.excess and residual[-WINDOW_MIN:].mean() < 0.5 * burst.excess:
            self._emit_burst(FindingPhase.CLEAR, burst, row, sd, historical, out)
            self.burst, self.window = None, np.empty((0, 4))
            self.statistic, self.steps = 0.0, 0
            self._thaw()
            return
        if burst.historical and not historical:
            burst.historical, burst.updated_us = False, at
            self._emit_burst(FindingPhase.RAISE, burst, row, sd, historical, out)
        elif at - burst.updated_us >= UPDATE_US and residual[-STEPS_MIN:].mean() > 0.5 * burst.excess and not burst.rebased:
            often = at - burst.raised_us <= UPDATE_OFTEN_US or at - burst.updated_us >= UPDATE_OFTEN_US
            top = burst.top
            if often or self._top() != top:
                burst.updated_us = at
                self._emit_burst(FindingPhase.UPDATE, burst, row, sd, historical, out)

    def _posterior(self) -> FloatArray | None:
        if self._signatures is None or not len(self._column):
            return None
        evidence = self.pressures.evidence()
        if evidence is None:
            return None
        excess, sd = self._excess()
        picked = type(evidence)(
            evidence.fall_kpa[self._position],
            evidence.usual_kpa_per_m3ph[self._position],
            evidence.covariance[np.ix_(self._position, self._position)],
        )
        return locate(picked, excess, sd, self._signatures.fall_kpa_per_m3ph[:, self._column], self._prior)

    def _excess(self) -> tuple[float, float]:
        """Return mean leak flow over the rows that the pressures were summed over, and its standard error, m3/h."""
        seen = self.pressures.count > 0
        n = float(self.pressures.count.max()) if seen.any() else 1.0
        flow = float((self.pressures.flow[seen] / self.pressures.count[seen]).mean()) if seen.any() else float("nan")
        spread = self.window[:, 1].std() if len(self.window) > 1 else abs(flow)
        return flow, float(spread / math.sqrt(min(max(n, 1.0), 48.0)) + 0.02 * abs(flow))

    def _top(self) -> str:
        p = self._posterior()
        return "" if p is None else self._pipes[int(np.argmax(p))]

    def _drivers(self, row: _Row) -> tuple[tuple[Driver, ...], str]:
        """Return the three sensors that fell most, strongest first, and the name of the first if it fell for certain."""
        evidence = self.pressures.evidence()
        if evidence is None:
            return (), ""
        z = evidence.fall_kpa / np.sqrt(np.diag(evidence.covariance) + self.pressures.floor**2 + 1e-4)
        order = [int(j) for j in np.argsort(-np.where(np.isfinite(z), z, -np.inf), kind="stable") if np.isfinite(z[j])][:3]
        sd = self.pressures.sd()
        drivers = []
        for j in order:
            channel, observed = self._sensor[j], float(row.value[1 + j])
            if not math.isfinite(observed):
                observed = float(row.expected[1 + j] - evidence.fall_kpa[j])
            drivers.append(Driver(channel.device_id, observed, float(row.expected[1 + j]), float(sd[j]), "kPa", channel.channel_id))
        strongest = self._sensor[order[0]].device_id if order and z[order[0]] > 2.0 else ""
        return tuple(drivers), strongest

    def _emit_burst(self, phase: FindingPhase, burst: _Condition, row: _Row, sd: float, historical: bool, out: OutputWriter) -> None:
        at = row.at_us
        last = (
            self.window[-WINDOW_MIN:] if phase is not FindingPhase.RAISE else self.window[self.window[:, 0] >= burst.onset_us][-WINDOW_MIN:]
        )
        expected, observed = float(last[:, 2].mean()), float(last[:, 3].mean())
        half = BAND_SDS * sd / math.sqrt(len(last))
        drivers, strongest = self._drivers(row)
        candidates: tuple[Candidate, ...] = ()
        posterior = self._posterior()
        if posterior is not None:
            candidates = tuple(Candidate(self._pipes[i], round(float(posterior[i]), 4)) for i in most_probable(posterior))
            burst.top = candidates[0].asset_id
        since = self._clock(burst.onset_us)
        if phase is FindingPhase.CLEAR:
            why = "after it was declared normal" if burst.rebased else f"within {abs(observed - expected):.1f} of it"
            summary = (
                f"Net inflow of {self.zone.name} is back at its expected {expected:.1f} m3/h ({why}); the excess since {since} is gone"
            )
        else:
            tail = f"; strongest fall at {strongest}" if strongest else ""
            summary = (
                f"Net inflow of {self.zone.name} is {observed:.1f} m3/h, {observed - expected:.1f} above the expected {expected:.1f} "
                f"(band {expected - half:.1f} to {expected + half:.1f}) since {since}{tail}"
            )
        evidence = Evidence(
            summary,
            observed,
            expected,
            expected - half,
            expected + half,
            "m3/h",
            self.statistic,
            self._h,
            self._baseline(),
            drivers,
            candidates,
            {
                "excess_m3ph": round(burst.excess, 3),
                "lost_m3": round(max(burst.excess, 0.0) * (at - burst.onset_us) / HOUR_US, 1),
                "noise_scale": round(self.noise.scale, 2),
                "located_by": "signatures" if candidates else "sensors",
                "readings": int(self.pressures.count.max()) if len(self.pressures.count) else 0,
            },
        )
        self._emit(FindingKind.LEAK_BURST, phase, min(self.statistic / self._h, SCORE_MAX), burst.onset_us, at, evidence, historical, out)

    def _emit(
        self,
        kind: FindingKind,
        phase: FindingPhase,
        score: float,
        onset: int,
        at: int,
        evidence: Evidence,
        historical: bool,
        out: OutputWriter,
    ) -> None:
        identity = finding_id(self.name, self.version, kind, phase, self.asset_id, onset, at)
        zone_id = self.zone.zone_id
        out.findings.append(
            Finding(identity, kind, phase, self.asset_id, zone_id, self.name, self.version, score, onset, at, evidence, historical)
        )

    def _clock(self, at_us: int) -> str:
        minute = self._local(at_us)[2] * 5
        return f"{minute // 60:02d}:{minute % 60:02d}"

    # -- night flow -----------------------------------------------------------------------------------------------------------

    def _night(self, at: int, day: int, slot: int, flow: float, historical: bool, out: OutputWriter) -> None:
        inside = NIGHT_FROM_SLOT <= slot < NIGHT_TO_SLOT
        if self.night_count and (not inside or day != self.night_day):
            self._night_over(out)
            self.night_sum, self.night_count, self.night_historical = 0.0, 0, False
        if inside and math.isfinite(flow):
            self.night_day, self.night_at_us = day, at
            self.night_sum += flow
            self.night_count += 1
            self.night_historical |= historical

    def _night_over(self, out: OutputWriter) -> None:
        if self.night_count < NIGHT_STEPS_MIN:
            return
        at, flow, n = self.night_at_us, self.night_sum / self.night_count, len(self.nights)
        if n < NIGHTS_MIN:
            if not self.frozen:
                self.nights.append(flow)
            return
        nights = np.array(self.nights)
        expected = float(np.median(nights))
        sd = float(1.4826 * np.median(np.abs(nights - expected)))
        sd = max(sd, NIGHT_SD_SHARE_MIN * abs(expected), 1e-3) * math.sqrt(1.0 + math.pi / 2 / n) * (1.0 + 2.0 / n)
        out.expect(at, self._baseline(), 1, np.array([flow]), np.array([expected]), np.array([sd]))
        if self.burst is not None:
            return
        z = (flow - expected) / sd
        if self.night_statistic <= 0.0:
            self.night_onset_us, self.night_steps = at, 0
        self.night_statistic = min(max(0.0, self.night_statistic + min(max(z, Z_MIN), NIGHT_Z_MAX) - K_MIN), SCORE_MAX * self._night_h)
        self.night_steps += 1
        excess = flow - expected
        condition = self.background
        if condition is not None:
            self._follow_night(condition, at, flow, expected, sd, out)
        elif self.night_statistic >= self._night_h and self.night_steps >= STEPS_MIN and excess >= EXCESS_SHARE_MIN * self.usual:
            self._freeze(self.night_onset_us)
            self.background = _Condition(self.night_onset_us, at, at, excess, self.night_historical)
            self._emit_night(FindingPhase.RAISE, self.background, at, flow, expected, sd, out)
        elif not self.frozen and z < NIGHT_LEARN_Z_MAX and self.night_statistic < self._night_h / 2:
            self.nights = [*self.nights, flow][-NIGHTS_KEPT:]

    def _follow_night(self, condition: _Condition, at: int, flow: float, expected: float, sd: float, out: OutputWriter) -> None:
        excess = flow - expected
        condition.excess = max(condition.excess, excess)
        quiet = condition.rebased or excess < max(CLEAR_SHARE * condition.excess, sd)
        condition.quiet_nights = condition.quiet_nights + 1 if quiet else 0
        if condition.quiet_nights >= NIGHT_CLEAR_NIGHTS:
            self._emit_night(FindingPhase.CLEAR, condition, at, flow, expected, sd, out)
            if condition.rebased:
                self.nights = []
            self.background, self.night_statistic, self.night_steps = None, 0.0, 0
            self._thaw()
        elif condition.historical and not self.night_historical:
            condition.historical = False
            self._emit_night(FindingPhase.RAISE, condition, at, flow, expected, sd, out)
        elif not quiet:
            self._emit_night(FindingPhase.UPDATE, condition, at, flow, expected, sd, out)

    def _emit_night(self, phase: FindingPhase, c: _Condition, at: int, flow: float, expected: float, sd: float, out: OutputWriter) -> None:
        half = BAND_SDS * sd
        name = self.zone.name
        if phase is FindingPhase.CLEAR:
            summary = f"Night flow of {name} is back at {flow:.1f} m3/h, expected {expected:.1f}, for {c.quiet_nights} nights"
        else:
            summary = (
                f"Night flow (02:00 to 04:00) of {name} is {flow:.1f} m3/h, {flow - expected:.1f} above the expected {expected:.1f} "
                f"(band {expected - half:.1f} to {expected + half:.1f}) for {self.night_steps} nights"
            )
        evidence = Evidence(
            summary,
            flow,
            expected,
            expected - half,
            expected + half,
            "m3/h",
            self.night_statistic,
            self._night_h,
            self._baseline(),
            details={"excess_m3ph": round(c.excess, 3), "nights": self.night_steps, "located_by": "none"},
        )
        score = min(self.night_statistic / self._night_h, SCORE_MAX)
        self._emit(FindingKind.LEAK_BACKGROUND, phase, score, c.onset_us, at, evidence, self.night_historical, out)

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "holds": [[i, at] for i, at in sorted(self.holds.items())],
                "recent": _rows_out(self.recent),
                "unlearned": _rows_out(self.unlearned),
                "burst": None if self.burst is None else asdict(self.burst),
                "background": None if self.background is None else asdict(self.background),
                "standing": self.standing.state(),
                "noise": self.noise.state(),
                "profile": self.profile.state(),
                "pressures": self.pressures.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        for name in _PLAIN:
            setattr(self, name, s[name])
        self.holds = {int(i): int(at) for i, at in s["holds"]}
        self.recent, self.unlearned = _rows_in(s["recent"]), _rows_in(s["unlearned"])
        self.burst = None if s["burst"] is None else _Condition(**s["burst"])
        self.background = None if s["background"] is None else _Condition(**s["background"])
        self.standing.restore(s["standing"])
        self.noise.restore(s["noise"])
        self.profile.restore(s["profile"])
        self.pressures.restore(s["pressures"])


_PLAIN: Sequence[str] = (
    "usual",
    "usual_n",
    "share",
    "extra",
    "offset",
    "first_us",
    "frozen_us",
    "statistic",
    "onset_us",
    "steps",
    "window",
    "nights",
    "night_day",
    "night_sum",
    "night_count",
    "night_historical",
    "night_at_us",
    "night_statistic",
    "night_steps",
    "night_onset_us",
)


def _rows_out(rows: Sequence[_Row]) -> list[object]:
    return [[r.at_us, r.kind, r.slot, r.share, r.offset, r.value, r.expected] for r in rows]


def _rows_in(rows: Sequence[Sequence[Any]]) -> list[_Row]:
    return [_Row(*r) for r in rows]
