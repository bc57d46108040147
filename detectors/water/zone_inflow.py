"""Bursts and background leaks from the net inflow of a zone: forecast residual with a CUSUM, night flow over several nights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from detectors.contract import NEVER_US, BankOutput, FloatArray, Frames, OutputRows, merge_outputs
from detectors.cusum import cusum_threshold, likeliest_begin
from detectors.snapshot import pack, unpack
from detectors.water.inflow_fleet import K_MIN, SCORE_MAX, SHOWN_STEPS, STEPS_MIN, YEARS_PER_FALSE, Z_MIN, InflowFleet, Recent
from detectors.water.location import PressureEvidence, align, locate, most_probable
from detectors.water.profile import SLOT_US
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
    Operation,
    Signal,
    Zone,
    finding_id,
    from_us,
)

FLOW_ROLES = ("zone_inflow", "tank_flow")
PRESSURE_ROLES = ("zone_pressure",)
TANK_ROLES = ("tank_level",)

BAND_SDS = 3.0
EXCESS_SHARE_MIN = 0.02
SEPARATION = 6.0
WINDOW_MIN, WINDOW_MAX = 12, 288
CLEAR_SHARE = 0.3
UPDATE_US = 30 * MINUTE_US
UPDATE_OFTEN_US = 6 * HOUR_US

NIGHT_STEPS_MIN = 12
NIGHTS_KEPT = 28
NIGHTS_MIN = 10
NIGHT_Z_MAX = 3.0
NIGHT_FALSE_NIGHTS = 365.0 * YEARS_PER_FALSE
NIGHT_SD_SHARE_MIN = 0.01
NIGHT_CLEAR_NIGHTS = 2
NIGHT_LEARN_Z_MAX = 2.5


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


@dataclass(frozen=True, slots=True)
class _Row:
    """One judged grid time: what was seen and expected of every series, and the spread of the inflow's forecast."""

    at_us: int
    value: FloatArray
    expected: FloatArray
    sd: float

    @property
    def rest(self) -> float:
        """Return the residual of the inflow."""
        return float(self.value[0] - self.expected[0])


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
    fleet : InflowFleet, optional
        Zones that are stepped together; its maker calls its ``build``. Without it the zone is a fleet of one.

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

    It speaks after 10 days of readings, two of them weekend days. The quiet part runs for all zones of a fleet at once (`InflowFleet`); expectations
    of pressures are written at every grid time while something is open or held (at a RAISE also those since the onset), else as half-hour means.
    Cost about 0.5 us a reading in a fleet, 0.5 ms a grid time alone. State about 2.1 kB a series, and 5 bytes a pair of pressure channels.

    Known operations in the zone (`Operation`) and the hour after each count as a gap.

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
    warm_up_us = 14 * DAY_US

    def __init__(
        self,
        zone: Zone,
        channels: Sequence[Channel],
        timezone: str,
        signatures: LeakSignatures | None = None,
        pipe_length_m: Mapping[str, float] | None = None,
        pressure_names: Mapping[int, str] | None = None,
        fleet: InflowFleet | None = None,
    ) -> None:
        self.zone = zone
        self.asset_id = f"dma:{zone.zone_id}"
        self.key = self.key_of(zone)
        flows = [c for c in channels if c.role in FLOW_ROLES]
        sensors = [c for c in channels if c.role in PRESSURE_ROLES]
        tanks = [c for c in channels if c.role in TANK_ROLES]
        self.channels = (*flows, *sensors, *tanks)
        self.channel_ids = tuple(c.channel_id for c in self.channels)
        self.flow_sign = np.array(
            [-c.sign if c.also_zone_id == zone.zone_id and c.zone_id != zone.zone_id else c.sign for c in flows], np.float64
        )
        self._sensor = sensors
        self.sensor_count = s = len(sensors)
        self.floor = np.array(
            [max(math.sqrt(sum(max(c.resolution, 1e-3) ** 2 for c in flows) / 12), 1e-3)]
            + [max(c.resolution / math.sqrt(12), 0.05) for c in sensors]
            + [max(c.resolution / math.sqrt(12), 1e-3) for c in tanks]
        )
        slowest_s = [max((c.interval_s for c in flows), default=0.0), *(c.interval_s for c in (*sensors, *tanks))]
        self.per_knot = np.array([2 if interval_s * 1e6 <= SLOT_US else 1 for interval_s in slowest_s], np.int64)
        self._signatures = signatures
        self._pipes: tuple[str, ...] = () if signatures is None else signatures.pipe_ids
        self._prior: FloatArray | None = None
        if signatures is not None:
            self._column, self._position = align(signatures.channel_ids, [c.channel_id for c in self._sensor])
            if pipe_length_m:
                self._prior = np.array([max(pipe_length_m.get(p, 1.0), 1.0) for p in self._pipes])
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
        series = 1 + s + len(tanks)
        self.state_bytes_max = 60_000 + 2_500 * series + 6 * s * s + 200 * s * (1 + len(tanks)) ** 2
        self.frozen_us = NEVER_US
        self.baseline = ""
        self.holds: dict[int, int] = {}
        self.burst: _Condition | None = None
        self.window = np.empty((0, 4))
        self.background: _Condition | None = None
        self.nights: list[float] = []
        self.night_statistic = 0.0
        self.night_steps = 0
        self.night_onset_us = NEVER_US
        self.fleet = fleet or InflowFleet(timezone, len(tanks))
        self.number = self.fleet.add(self)
        if fleet is None:
            self.fleet.build()
        self._name_baseline()

    @classmethod
    def key_of(cls, zone: Zone) -> str:
        """Return the key of the detector of a zone."""
        return f"{cls.name}@{cls.version}/{zone.zone_id}"

    # -- holds ----------------------------------------------------------------------------------------------------------------

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on this zone."""
        return hold.asset_id == self.asset_id or hold.zone_id == self.zone.zone_id

    def hold(self, hold: Hold) -> None:
        """Stop adapting; on release start the statistics anew, and on ``cancelled`` take the present level as the new normal."""
        if hold.released_us is None:
            before = self.frozen
            self._freeze(hold.held_us)
            self.holds[hold.hold_id] = hold.held_us
            if not before:
                self._settle()
            return
        if self.holds.pop(hold.hold_id, None) is None or self.holds:
            return
        if hold.verdict == "cancelled":
            self._rebase()
        if self.burst is None:
            self._reset()
        if self.background is None:
            self.night_statistic, self.night_steps = 0.0, 0
        self._settle()

    # -- known operations -----------------------------------------------------------------------------------------------------

    def touched_by(self, operation: Operation) -> bool:
        """Return whether `operation` is in this zone."""
        return operation.zone_id == self.zone.zone_id

    def told_late(self, operation: Operation) -> None:
        """Forget what was not learned yet (3 h at most), the statistic of bursts unless one is raised, and the night that it falls into."""
        if not self.frozen:
            self.fleet.roll_back(self.number, operation.begin_us)
        if self.burst is None:
            self._reset()
        self.fleet.forget_night(self.number, operation.begin_us)

    @property
    def frozen(self) -> bool:
        """Whether nothing is learned now."""
        return self.burst is not None or self.background is not None or bool(self.holds)

    def _freeze(self, at_us: int) -> None:
        """Forget what was not learned yet, and the drift of the level from `at_us` on. The caller opens what it freezes for, then calls `_settle`."""
        if self.frozen:
            return
        self.frozen_us = at_us
        self.fleet.roll_back(self.number, at_us)

    def _settle(self) -> None:
        """Tell the fleet what is open or held."""
        if not self.frozen:
            self.frozen_us = NEVER_US
        self.fleet.frozen[self.number] = self.frozen
        self.fleet.bursting[self.number] = self.burst is not None
        self._name_baseline()

    def _name_baseline(self) -> None:
        base = f"{self.name}@{self.version}/{self.zone.zone_id}/"
        self.baseline = base + (f"{from_us(self.frozen_us):%Y-%m-%dT%H:%MZ}" if self.frozen else "live")

    def _rebase(self) -> None:
        """Take what stands now as normal: a person said that nothing leaks."""
        if self.burst is not None and len(self.window):
            self.fleet.extra[self.number] += float(self.window[-WINDOW_MIN:, 1].mean())
            self.window = np.empty((0, 4))
            self.burst.rebased = True
        if self.background is not None:
            self.background.rebased = True

    def _reset(self) -> None:
        """Start the statistic of bursts anew."""
        self.fleet.statistic[self.number], self.fleet.steps[self.number] = 0.0, 0

    # -- the step -------------------------------------------------------------------------------------------------------------

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order; only for a zone that is alone in its fleet, which otherwise steps itself."""
        number = np.array([self.number])
        at, late = frames.at_us, frames.historical
        return merge_outputs([self.fleet.step(number, at[i : i + 1], frames.value[i], late[i : i + 1]) for i in range(len(frames))])

    def write_pressures(
        self, at_us: int, observed: FloatArray, expected: FloatArray, sd: FloatArray, baseline: str, out: OutputRows
    ) -> None:
        """Write what was expected of the pressures at one instant."""
        signals = self.signals[2:]
        out.add(signals, [baseline] * len(signals), np.full(len(signals), at_us), observed, expected, sd)

    def _explained(self, residual: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return residuals of (pressures, what explains them: net inflow and tank levels)."""
        s = self.sensor_count
        return residual[1 : 1 + s], np.concatenate((residual[:1], residual[1 + s :]))

    # -- bursts ---------------------------------------------------------------------------------------------------------------

    def judge(self, at_us: int, value: FloatArray, expected: FloatArray, sd: float, historical: bool, over: bool, out: OutputRows) -> None:
        """Look closer at one grid time: a burst is open, or (`over`) the statistic is over its threshold. `sd` is c times that of the forecast."""
        row = _Row(at_us, value, expected, sd)
        if self.burst is not None:
            self._follow(self.burst, row, historical, out)
        elif over:
            self._raise(row, historical, out)

    def _raise(self, row: _Row, historical: bool, out: OutputRows) -> None:
        fleet, i = self.fleet, self.number
        recent = fleet.recent(i)
        rest = recent.value[:, 0] - recent.expected[:, 0]
        since = np.flatnonzero((recent.at_us >= fleet.onset_us[i]) & np.isfinite(rest))
        # the statistic may have left zero before the change: the likeliest begin is where the mean from there on stands out most
        since = since[likeliest_begin(rest[since], STEPS_MIN) :]
        onset_us = int(recent.at_us[since[0]])
        fleet.onset_us[i] = onset_us
        excess = float(rest[since].mean())
        if excess < EXCESS_SHARE_MIN * fleet.usual[i]:
            return
        before = self.frozen
        self._freeze(onset_us)
        self.window = np.column_stack((recent.at_us[since], rest[since], recent.expected[since, 0], recent.value[since, 0]))
        self.burst = _Condition(onset_us, row.at_us, row.at_us, excess, historical)
        self._settle()
        fleet.pressures.open(i)
        for j in since.tolist():
            fleet.pressures.add(i, *self._explained(recent.value[j] - recent.expected[j]))
        if not before:
            self._write_since(recent, onset_us, out)
        self._emit_burst(FindingPhase.RAISE, self.burst, row, historical, out)

    def _write_since(self, recent: Recent, onset_us: int, out: OutputRows) -> None:
        """Write the pressures since the onset that were not written while all was quiet."""
        pressures = slice(1, 1 + self.sensor_count)
        for j in np.flatnonzero((recent.at_us >= onset_us) & (recent.base % SHOWN_STEPS != 0)).tolist():
            sd, known = self.fleet.spread(self.number, int(recent.base[j]))
            expected = np.where(known, recent.expected[j], np.nan)[pressures]
            self.write_pressures(int(recent.at_us[j]), recent.value[j, pressures], expected, sd[pressures], self.baseline, out)

    def _follow(self, burst: _Condition, row: _Row, historical: bool, out: OutputRows) -> None:
        at = row.at_us
        entry = np.array([[at, row.rest, row.expected[0], row.value[0]]])
        self.window = np.concatenate((self.window, entry))[-WINDOW_MAX:]
        size = int(min(max(math.ceil((SEPARATION * row.sd / max(burst.excess, 1e-9)) ** 2), WINDOW_MIN), WINDOW_MAX))
        residual = self.window[:, 1]
        if not burst.rebased:
            if len(residual) >= size:
                burst.excess = max(burst.excess, float(residual[-size:].mean()))
            if residual[-STEPS_MIN:].mean() > 0.5 * burst.excess:
                self.fleet.pressures.add(self.number, *self._explained(row.value - row.expected))
        fresh = len(residual) >= size and at - self.window[-size, 0] <= 2 * size * SLOT_US
        if fresh and residual[-size:].mean() < CLEAR_SHARE * burst.excess and residual[-WINDOW_MIN:].mean() < 0.5 * burst.excess:
            self._emit_burst(FindingPhase.CLEAR, burst, row, historical, out)
            self.burst, self.window = None, np.empty((0, 4))
            self._reset()
            self._settle()
            return
        if burst.historical and not historical:
            burst.historical, burst.updated_us = False, at
            self._emit_burst(FindingPhase.RAISE, burst, row, historical, out)
        elif at - burst.updated_us >= UPDATE_US and residual[-STEPS_MIN:].mean() > 0.5 * burst.excess and not burst.rebased:
            often = at - burst.raised_us <= UPDATE_OFTEN_US or at - burst.updated_us >= UPDATE_OFTEN_US
            top = burst.top
            if often or self._top() != top:
                burst.updated_us = at
                self._emit_burst(FindingPhase.UPDATE, burst, row, historical, out)

    def _posterior(self) -> FloatArray | None:
        if self._signatures is None or not len(self._column):
            return None
        evidence = self.fleet.pressures.evidence(self.number)
        if evidence is None:
            return None
        excess, sd = self._excess()
        picked = PressureEvidence(
            evidence.fall_kpa[self._position],
            evidence.usual_kpa_per_m3ph[self._position],
            evidence.covariance[np.ix_(self._position, self._position)],
        )
        return locate(picked, excess, sd, self._signatures.fall_kpa_per_m3ph[:, self._column], self._prior)

    def _excess(self) -> tuple[float, float]:
        """Return mean leak flow over the rows that the pressures were summed over, and its standard error, m3/h."""
        of = self.fleet.pressures.of(self.number)
        total, count = self.fleet.pressures.flow[of], self.fleet.pressures.count[of]
        seen = count > 0
        n = float(count.max()) if seen.any() else 1.0
        flow = float((total[seen] / count[seen]).mean()) if seen.any() else float("nan")
        spread = self.window[:, 1].std() if len(self.window) > 1 else abs(flow)
        return flow, float(spread / math.sqrt(min(max(n, 1.0), 48.0)) + 0.02 * abs(flow))

    def _top(self) -> str:
        p = self._posterior()
        return "" if p is None else self._pipes[int(np.argmax(p))]

    def _drivers(self, row: _Row) -> tuple[tuple[Driver, ...], str]:
        """Return the three sensors that fell most, strongest first, and the name of the first if it fell for certain."""
        pressures = self.fleet.pressures
        evidence = pressures.evidence(self.number)
        if evidence is None:
            return (), ""
        z = evidence.fall_kpa / np.sqrt(np.diag(evidence.covariance) + pressures.floor[pressures.of(self.number)] ** 2 + 1e-4)
        order = [int(j) for j in np.argsort(-np.where(np.isfinite(z), z, -np.inf), kind="stable") if np.isfinite(z[j])][:3]
        sd = pressures.sd(self.number)
        drivers = []
        for j in order:
            channel, observed = self._sensor[j], float(row.value[1 + j])
            if not math.isfinite(observed):
                observed = float(row.expected[1 + j] - evidence.fall_kpa[j])
            drivers.append(Driver(channel.device_id, observed, float(row.expected[1 + j]), float(sd[j]), "kPa", channel.channel_id))
        strongest = self._sensor[order[0]].device_id if order and z[order[0]] > 2.0 else ""
        return tuple(drivers), strongest

    def _emit_burst(self, phase: FindingPhase, burst: _Condition, row: _Row, historical: bool, out: OutputRows) -> None:
        at = row.at_us
        last = (
            self.window[-WINDOW_MIN:] if phase is not FindingPhase.RAISE else self.window[self.window[:, 0] >= burst.onset_us][-WINDOW_MIN:]
        )
        expected, observed = float(last[:, 2].mean()), float(last[:, 3].mean())
        half = BAND_SDS * row.sd / math.sqrt(len(last))
        statistic, threshold = float(self.fleet.statistic[self.number]), self.fleet.threshold
        count = self.fleet.pressures.count[self.fleet.pressures.of(self.number)]
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
            statistic,
            threshold,
            self.baseline,
            drivers,
            candidates,
            {
                "excess_m3ph": round(burst.excess, 3),
                "lost_m3": round(max(burst.excess, 0.0) * (at - burst.onset_us) / HOUR_US, 1),
                "noise_scale": round(float(self.fleet.noise.scale[self.number]), 2),
                "located_by": "signatures" if candidates else "sensors",
                "readings": int(count.max()) if len(count) else 0,
            },
        )
        self._emit(FindingKind.LEAK_BURST, phase, min(statistic / threshold, SCORE_MAX), burst.onset_us, at, evidence, historical, out)

    def _emit(
        self,
        kind: FindingKind,
        phase: FindingPhase,
        score: float,
        onset: int,
        at: int,
        evidence: Evidence,
        historical: bool,
        out: OutputRows,
    ) -> None:
        identity = finding_id(self.name, self.version, kind, phase, self.asset_id, onset, at)
        zone_id = self.zone.zone_id
        out.findings.append(
            Finding(identity, kind, phase, self.asset_id, zone_id, self.name, self.version, score, onset, at, evidence, historical)
        )

    def _clock(self, at_us: int) -> str:
        minute = self.fleet.local_minute(at_us)
        return f"{minute // 60:02d}:{minute % 60:02d}"

    # -- night flow -----------------------------------------------------------------------------------------------------------

    def night_over(self, out: OutputRows) -> None:
        """Judge the night that ended, from what the fleet summed up."""
        fleet, i = self.fleet, self.number
        if fleet.night_count[i] < NIGHT_STEPS_MIN:
            return
        at, historical = int(fleet.night_at_us[i]), bool(fleet.night_historical[i])
        flow, n = float(fleet.night_sum[i] / fleet.night_count[i]), len(self.nights)
        if n < NIGHTS_MIN:
            if not self.frozen:
                self.nights.append(flow)
            return
        nights = np.array(self.nights)
        expected = float(np.median(nights))
        sd = float(1.4826 * np.median(np.abs(nights - expected)))
        sd = max(sd, NIGHT_SD_SHARE_MIN * abs(expected), 1e-3) * math.sqrt(1.0 + math.pi / 2 / n) * (1.0 + 2.0 / n)
        out.add(self.signals[1:2], [self.baseline], np.array([at]), np.array([flow]), np.array([expected]), np.array([sd]))
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
            self._follow_night(condition, at, flow, expected, sd, historical, out)
        elif self.night_statistic >= self._night_h and self.night_steps >= STEPS_MIN and excess >= EXCESS_SHARE_MIN * fleet.usual[i]:
            self._freeze(self.night_onset_us)
            self.background = _Condition(self.night_onset_us, at, at, excess, historical)
            self._settle()
            self._emit_night(FindingPhase.RAISE, self.background, at, flow, expected, sd, historical, out)
        elif not self.frozen and z < NIGHT_LEARN_Z_MAX and self.night_statistic < self._night_h / 2:
            self.nights = [*self.nights, flow][-NIGHTS_KEPT:]

    def _follow_night(
        self, condition: _Condition, at: int, flow: float, expected: float, sd: float, historical: bool, out: OutputRows
    ) -> None:
        excess = flow - expected
        condition.excess = max(condition.excess, excess)
        quiet = condition.rebased or excess < max(CLEAR_SHARE * condition.excess, sd)
        condition.quiet_nights = condition.quiet_nights + 1 if quiet else 0
        if condition.quiet_nights >= NIGHT_CLEAR_NIGHTS:
            self._emit_night(FindingPhase.CLEAR, condition, at, flow, expected, sd, historical, out)
            if condition.rebased:
                self.nights = []
            self.background, self.night_statistic, self.night_steps = None, 0.0, 0
            self._settle()
        elif condition.historical and not historical:
            condition.historical = False
            self._emit_night(FindingPhase.RAISE, condition, at, flow, expected, sd, historical, out)
        elif not quiet:
            self._emit_night(FindingPhase.UPDATE, condition, at, flow, expected, sd, historical, out)

    def _emit_night(
        self, phase: FindingPhase, c: _Condition, at: int, flow: float, expected: float, sd: float, historical: bool, out: OutputRows
    ) -> None:
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
            self.baseline,
            details={"excess_m3ph": round(c.excess, 3), "nights": self.night_steps, "located_by": "none"},
        )
        score = min(self.night_statistic / self._night_h, SCORE_MAX)
        self._emit(FindingKind.LEAK_BACKGROUND, phase, score, c.onset_us, at, evidence, historical, out)

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "holds": [[i, at] for i, at in sorted(self.holds.items())],
                "burst": None if self.burst is None else asdict(self.burst),
                "background": None if self.background is None else asdict(self.background),
                "fleet": self.fleet.state(self.number),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        for name in _PLAIN:
            setattr(self, name, s[name])
        self.holds = {int(i): int(at) for i, at in s["holds"]}
        self.burst = None if s["burst"] is None else _Condition(**s["burst"])
        self.background = None if s["background"] is None else _Condition(**s["background"])
        self.fleet.restore(self.number, s["fleet"])
        self._settle()


_PLAIN: Sequence[str] = ("frozen_us", "window", "nights", "night_statistic", "night_steps", "night_onset_us")
