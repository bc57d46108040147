"""Water quality events at one station: all probes against what is usual of them together, probes that rest, and operations that are known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, Frames, OutputWriter
from detectors.cusum import likeliest_begin
from detectors.snapshot import pack, unpack
from detectors.water import quality_words as words
from detectors.water.profile import LocalDay
from detectors.water.quality_baseline import LEVELS, RING, SCALES, STEPS, QualityBaseline
from detectors.water.quality_patterns import PATTERNS_MAX, ROWS_MAX, ROWS_MIN, OperationLibrary
from detectors.water.quality_records import LEFT_STEPS, Condition, Probes, Row, columns, rows_of
from underway.model import (
    CANONICAL_UNIT,
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
    Quantity,
    Signal,
    finding_id,
    from_us,
)

ROLES = ("water_quality",)
GRID_US = 5 * MINUTE_US
SIGNALS_MIN, SIGNALS_MAX = 2, 24
WAIT_STEPS = 36
LEARN_DAYS = 10
QUIET = 0.85
"""Below this share of its limit a score is quiet."""
CLEAR_STEPS, CALM_STEPS = 12, 72
PATIENCE = 3
ALONE_ROWS = 5
REST_CHANCE = 1e-3
MOVING_STEPS = 6
OFFSET_SDS_MIN, OFFSET_SDS_MAX = 3.0, 12.0
POSSIBLE_MIN = 0.7
STANDING_US = DAY_US
RELEVEL_US = 12 * HOUR_US
SHOWN_STEPS = 6
UPDATE_US, UPDATE_OFTEN_US = 30 * MINUTE_US, 6 * HOUR_US
BAND_SDS = 3.0
TURBIDITY_NTU = 0.02
SCORE_MAX = 100.0

# what a probe says in a calibration liquid or a zero gas: buffers of pH, potassium chloride, formazin, water without chlorine or carbon
STANDARDS: Mapping[Quantity, tuple[tuple[float, ...], float]] = {
    Quantity.CHLORINE: ((0.0,), 0.015),
    Quantity.TURBIDITY: ((0.0, 1.0, 10.0, 20.0, 100.0), 0.004),
    Quantity.PH: ((4.0, 4.01, 6.86, 7.0, 9.18, 10.0, 10.01), 0.02),
    Quantity.CONDUCTIVITY: ((0.0, 84.0, 147.0, 1413.0), 1.0),
    Quantity.TOC: ((0.0, 5.0, 10.0), 0.02),
}


class WaterQuality:
    """Watch the probes of one station together.

    Parameters
    ----------
    asset_id : str
        Station: the asset of its channels, or ``device:<id>``.
    channels : sequence of Channel
        Chlorine, turbidity, pH, conductivity, temperature, TOC in any combination, `SIGNALS_MIN` to `SIGNALS_MAX` of them.
    timezone : str
        IANA name; days are local.
    name : str, optional
        What people call it.

    Notes
    -----
    ``x`` is the median of three readings (turbidity as its logarithm). Of its residual from the day's profile and a level, what the other probes
    do not explain, in standard deviations of the half hour, is z: water that is mixed of two sources moves all probes along one line, and that is
    explained. Means of z over 5 min, 30 min and 2 h and two differences of means give ``T2 = m' C^-1 m`` (Hotelling) with the second moments C of
    quiet days, as a normal score w (`QualityBaseline`). RAISE where w reaches what its daily peaks reach once in thirty years. Then, in this
    order:

    Probes that *rest* (equal readings longer than their past allows), or stand at the value of a calibration liquid, are `quality.sensor` and are
    left out until they move; after a calibration the new level of that probe is taken. A change that matches a confirmed operation
    (`OperationLibrary`) is `quality.operation` as long as it matches; chlorine that falls alone and TOC that rises alone are never one.
    Everything else is `quality.event`. Which probes carry it is found by leaving out one after the other until the rest is quiet.

    Rows are learned 3 h late, none from the onset of an event or an operation on, nor while a hold lasts. While held without a condition of its
    own only what two probes show is raised. CLEAR after an hour in which the probes that carried it are quiet and where they stood before the
    onset, or after six hours in which they are quiet. A hold that is released with ``cancelled`` says that it was an operation: its shape is
    stored, and if it stands for a day it is the new normal.

    It speaks after 11 days. Cost about 0.6 ms a grid time; state about 10 kB a probe.

    Blind to: contamination in the first 11 days (it is learned); what changes over more than half a day (slow drift, of a probe or of the water);
    what moves the probes along the line of two sources; a contaminant that no probe answers to; a contamination that does what a confirmed
    operation does. A probe that jumps without resting looks like an event, and so does an operation that nobody confirmed before.

    References
    ----------
    Hotelling (1947), Multivariate quality control; Hart and McKenna (2012), CANARY User's Manual, EPA/600/R-08/040B, for the statuses; unlike CANARY
    it never takes a persistent event for the new normal by itself.

    Examples
    --------
    Twelve days of noise, then chlorine falls and TOC rises by six standard deviations; the second reading speaks.

    >>> kinds = (Quantity.CHLORINE, Quantity.TOC)
    >>> probes = [Channel(i, "s", q.value, q, "", "st", "z", "water_quality", 0, 1e4, 300, 0.001) for i, q in enumerate(kinds)]
    >>> value = np.random.default_rng(1).normal((0.8, 2.0), (0.02, 0.05), (12 * 288 + 4, 2))
    >>> value[-4:] += (-0.12, 0.3)
    >>> at = np.arange(len(value)) * 300_000_000
    >>> out = WaterQuality("st", probes, "UTC").step(Frames(at, value, np.zeros(len(at), bool)))
    >>> [(f.kind.value, f.phase.value, int(f.detected_us - at[-4]) // 60_000_000) for f in out.findings]
    [('quality.event', 'raise', 5)]
    """

    name = "water-quality"
    version = "1"
    kinds = (FindingKind.QUALITY_EVENT, FindingKind.QUALITY_SENSOR, FindingKind.QUALITY_OPERATION)
    grid_us = GRID_US
    warm_up_us = 16 * DAY_US

    def __init__(self, asset_id: str, channels: Sequence[Channel], timezone: str, name: str = "") -> None:
        self.asset_id, self.station = asset_id, name or asset_id
        self.channels = tuple(channels)
        self.zone_id = self.channels[0].zone_id
        self.key = f"{self.name}@{self.version}/{asset_id}"
        self.channel_ids = tuple(c.channel_id for c in self.channels)
        self.width = n = len(self.channels)
        seen: set[Quantity] = set()
        signals = []
        for c in self.channels:
            # two probes of one quantity: the first has the station's signal, the others their own
            tail = c.quantity.value if c.quantity not in seen else f"{c.quantity.value}/{c.device_id}"
            seen.add(c.quantity)
            signals.append(Signal(f"asset/{asset_id}/{tail}", c.zone_id, c.asset_id, CANONICAL_UNIT[c.quantity]))
        self.signals = tuple(signals)
        self._logarithm = np.array([c.quantity is Quantity.TURBIDITY for c in self.channels])
        self._resolution = np.array([max(c.resolution, 1e-6) for c in self.channels])
        floor = np.maximum(self._resolution / math.sqrt(12), 1e-4)
        floor = np.where(self._logarithm, np.maximum(floor / TURBIDITY_NTU, 0.01), floor)
        self.state_bytes_max = 30_000 + 20_000 * n + 200 * n * n + PATTERNS_MAX * ROWS_MAX * n * 4
        self.baseline = QualityBaseline(floor)
        self.library = OperationLibrary(n)
        self._local = LocalDay(timezone)
        self.first_us = self.last_us = NEVER_US
        self.raws = np.full((3, n), np.nan)
        self.last = np.full(n, np.nan)
        self.run = np.zeros(n, np.int64)
        self.repeats = np.full(n, 0.1)
        self.masked = np.zeros(n, np.bool_)
        self.recent: list[Row] = []
        self.waiting: list[Row] = []
        self.condition: Condition | None = None
        self.shape: list[FloatArray] = []
        self.past: list[FloatArray] = []
        self.past_us = NEVER_US
        self.probes: Probes | None = None
        self.holds: dict[int, int] = {}
        self.patience = 0
        self.steps = 0
        self.frozen_us = NEVER_US

    # -- holds ----------------------------------------------------------------------------------------------------------------

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on this station."""
        return hold.asset_id == self.asset_id

    def hold(self, hold: Hold) -> None:
        """Stop adapting; a release with ``cancelled`` says that what was seen was an operation."""
        if hold.released_us is None:
            self._freeze(hold.held_us)
            self.holds[hold.hold_id] = hold.held_us
            return
        held_us = self.holds.pop(hold.hold_id, None)
        if held_us is None:
            return
        if hold.verdict == "cancelled":
            self._confirm(held_us)
        if not self.holds and self.condition is None:
            self._relevel(np.ones(self.width, np.bool_), held_us)

    def _confirm(self, held_us: int) -> None:
        if self.condition is not None and self.condition.event:
            self.condition.dismissed = True
            self.condition.known = self.library.add(self._whitened(self.shape), self.last_us)
        elif self.past and self.past_us <= held_us:
            self.library.add(self._whitened(self.past), self.last_us)
        self.past = []

    @property
    def frozen(self) -> bool:
        """Whether nothing is learned now."""
        return self.condition is not None or bool(self.holds)

    def _freeze(self, at_us: int) -> None:
        """Forget what was not learned yet from `at_us` on."""
        if not self.frozen:
            self.frozen_us = at_us
            self.waiting = [w for w in self.waiting if w.at_us < at_us]

    def _relevel(self, which: BoolArray, since_us: int) -> None:
        """Begin to look anew; after a long time in which nothing was learned quiet probes stand where they stand."""
        rows = self.recent[-CLEAR_STEPS:]
        if self.last_us - since_us >= RELEVEL_US and len(rows) == CLEAR_STEPS:
            rest = np.array([r.rest for r in rows])
            good = which & (np.isfinite(rest).sum(0) >= CLEAR_STEPS // 2)
            self.baseline.level[good] += np.nanmean(rest[:, good], axis=0) if good.any() else 0.0
        self._restart()

    def _restart(self) -> None:
        self.baseline.forget(np.ones(self.width, np.bool_))
        self.baseline.again(self._use())
        self.recent = []

    def _name(self) -> str:
        when = f"{from_us(self.frozen_us):%Y-%m-%dT%H:%MZ}" if self.frozen else "live"
        return f"{self.name}@{self.version}/{self.asset_id}/{when}"

    # -- the step -------------------------------------------------------------------------------------------------------------

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        out = OutputWriter(self.signals)
        for i in range(len(frames)):
            self._one(int(frames.at_us[i]), frames.value[i], bool(frames.historical[i]), out)
        return out.output()

    def _transform(self, value: FloatArray) -> FloatArray:
        return np.where(self._logarithm, np.log(np.maximum(value, 0.0) + TURBIDITY_NTU), value)

    def _back(self, x: FloatArray, sd: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (value, standard deviation) in the unit of the channel."""
        with np.errstate(over="ignore"):
            plain = np.where(self._logarithm, np.exp(np.minimum(x, 20.0)), x)
        return np.where(self._logarithm, plain - TURBIDITY_NTU, x), np.where(self._logarithm, plain * sd, sd)

    def _one(self, at: int, value: FloatArray, historical: bool, out: OutputWriter) -> None:
        if self.first_us == NEVER_US:
            self.first_us = self.last_us = at
        missed = (at - self.last_us) // GRID_US - 1
        if missed > 0:
            for _ in range(min(missed, RING)):
                self.baseline.push(np.full(self.width, np.nan), 0, self._use())
            if missed >= 2:
                self.raws[:], self.last[:], self.run[:] = np.nan, np.nan, 0
        self.last_us = at
        self.steps += 1
        raw = self._transform(value)
        self.raws = np.concatenate((self.raws[1:], raw[None]))
        self._runs(value)
        day, _, slot = self._local(at)
        expected, sd = self.baseline.expect(slot)
        x = self._steady(expected)
        use = self._use()
        own = self.baseline.push(x - expected, slot, ~self.masked)
        means = self.baseline.means()
        row = Row(at, day, slot, x, expected, sd, own, self.baseline.wide[-1].copy(), means, self.baseline.scores(means, use))
        self.recent = [*self.recent, row][-ROWS_MAX:]
        if self.condition is not None and len(self.shape) < ROWS_MAX:
            self.shape.append(np.where(self.masked, np.nan, x - expected))
        if self.condition is not None or self.holds or self.steps % SHOWN_STEPS == 0:
            shown, spread = self._back(expected, sd)
            out.expect(at, self._name(), 0, value, shown, spread)
        if self.probes is not None:
            self._follow_probes(self.probes, row, historical, out)
        if self.condition is not None:
            self._follow(self.condition, row, historical, out)
        elif self.baseline.ready and at - self.first_us >= LEARN_DAYS * DAY_US:
            if self._share(row) >= 1.0:
                self._begin(row, historical, out)
            else:
                self.patience = 0
        if not self.frozen:
            self.waiting.append(row)
            while len(self.waiting) > WAIT_STEPS:
                self._learn(self.waiting.pop(0))

    def _learn(self, row: Row) -> None:
        if self._share(row) < 1.0:
            self.baseline.learn(row.day, row.slot, np.where(self.masked, np.nan, row.x), row.own, row.means, row.scores)

    def _use(self) -> BoolArray:
        return self.baseline.known & ~self.masked

    def _share(self, row: Row) -> float:
        """Return the greatest score over its limit."""
        share = row.scores / self.baseline.limit
        return float(share.max()) if np.isfinite(share).any() else 0.0

    def _steady(self, expected: FloatArray) -> FloatArray:
        """Return the median of the last three readings; of two, that which is nearer to what is expected; of one, none."""
        count = np.isfinite(self.raws).sum(0)
        filled = np.where(np.isfinite(self.raws), self.raws, np.nanmax(np.where(np.isfinite(self.raws), self.raws, -np.inf), axis=0))
        middle = np.sort(filled, axis=0)[1]
        with np.errstate(invalid="ignore"):
            away = np.abs(self.raws - np.where(np.isfinite(expected), expected, 0.0))
        near = np.take_along_axis(self.raws, np.argmin(np.where(np.isfinite(away), away, np.inf), axis=0)[None], axis=0)[0]
        steady = np.where(count == 3, middle, np.where(count == 2, near, np.nan))
        return np.where(np.isfinite(self.raws[-1]), steady, np.nan)

    def _runs(self, value: FloatArray) -> None:
        """Count equal readings of every probe, and learn how often one equals the one before."""
        good = np.isfinite(value)
        with np.errstate(invalid="ignore"):
            equal = good & (np.abs(value - self.last) < 0.5 * self._resolution)
        moved = good & ~equal
        if self.condition is None:
            learn = good & np.isfinite(self.last) & ~self.masked & (self.run < 3)
            self.repeats = np.where(learn, self.repeats + (equal - self.repeats) / 1000.0, self.repeats)
        self.run = np.where(equal, self.run + 1, np.where(moved, 1, self.run))
        self.last = np.where(good, value, self.last)

    def resting(self) -> BoolArray:
        """Return which probes repeat a value longer than chance allows."""
        p = np.clip(self.repeats, 0.03, 0.95)
        return np.asarray(self.run > np.maximum(np.ceil(np.log(REST_CHANCE) / np.log(p)), 2))

    def _standard(self) -> BoolArray:
        """Return which probes stand at the value of a calibration liquid, twice in a row."""
        out = np.zeros(self.width, np.bool_)
        for j, c in enumerate(self.channels):
            values, near = STANDARDS.get(c.quantity, ((), 0.0))
            out[j] = self.run[j] >= 2 and any(abs(self.last[j] - v) <= near for v in values)
        return out

    # -- a change begins ------------------------------------------------------------------------------------------------------

    def _affected(self, use: BoolArray) -> list[int]:
        """Return probes that carry a change, strongest first: left out one after the other until the rest is quiet."""
        left = use.copy()
        found: list[int] = []
        while left.any() and self.baseline.ratio(left) >= QUIET:
            of = [int(j) for j in np.flatnonzero(left)]
            without = []
            for j in of:
                left[j] = False
                without.append(self.baseline.ratio(left))
                left[j] = True
            first = of[int(np.argmin(without))]
            left[first] = False
            found.append(first)
        return found

    def _grave(self, affected: Sequence[int], row: Row) -> bool:
        """Return whether chlorine alone fell or organic carbon alone rose: no operation excuses that."""
        if len(affected) != 1:
            return False
        j = affected[0]
        quantity, rest = self.channels[j].quantity, float(row.own[j])
        return (quantity is Quantity.CHLORINE and rest < 0) or (quantity is Quantity.TOC and rest > 0)

    def _before(self, onset: int) -> FloatArray | None:
        """Return where the probes stood in the hour and a half before the onset."""
        rows = [r.rest for r in self.recent if onset - 90 * MINUTE_US <= r.at_us < onset]
        if len(rows) < MOVING_STEPS:
            return None
        rest = np.array(rows)
        count = np.isfinite(rest).sum(0)
        return np.where(count >= MOVING_STEPS, np.nan_to_num(rest).sum(0) / np.maximum(count, 1), np.nan)

    def _onset(self, row: Row) -> int:
        """Return the likeliest begin: where the residuals, seen along the present change, stand out most."""
        share = row.scores / self.baseline.limit
        scale = int(np.argmax(np.where(np.isfinite(share), share, -np.inf)))
        m = np.where(np.isfinite(row.means[scale]) & self._use(), row.means[scale], 0.0)
        along = np.linalg.solve(self.baseline.covariance()[scale], m)
        z = self.baseline.rows(np.array([r.rest for r in self.recent]), np.array([r.wide for r in self.recent]), self._use())
        seen = np.nan_to_num(z) @ along
        return self.recent[likeliest_begin(seen, 1)].at_us

    def _whitened(self, rows: Sequence[FloatArray]) -> FloatArray:
        if not rows:
            return np.empty((0, self.width))
        known = np.flatnonzero(self.baseline.known)
        # the symmetric root: each column stays that of its probe
        size, axes = np.linalg.eigh(self.baseline.used[np.ix_(known, known)])
        out = np.zeros((len(rows), self.width))
        out[:, known] = np.nan_to_num(np.array(rows)[:, known]) @ (axes / np.sqrt(np.maximum(size, 1e-12))) @ axes.T
        return out

    def _begin(self, row: Row, historical: bool, out: OutputWriter) -> None:
        use = self._use()
        affected = self._affected(use)
        # a probe that just jumped and repeats itself may be about to rest: a few minutes will tell
        rests = self.resting() | self._standard()
        idle = [j for j in affected if rests[j]]
        onset = self._onset(row)
        if idle:
            self._rest(idle, onset, row, historical, out)
            use = self._use()
            row.means = self.baseline.means()
            row.scores = self.baseline.scores(row.means, use)
            self.patience = 0
            if self._share(row) < 1.0:
                return
            affected = self._affected(use)
        if affected and all(self.run[j] >= 2 for j in affected) and self.patience < PATIENCE:
            self.patience += 1
            return
        if not affected or (self.holds and len(affected) < 2):
            return
        shape = [np.where(self.masked, np.nan, r.rest) for r in self.recent if r.at_us >= onset]
        number, match, short = -1, 0.0, False
        if not self._grave(affected, row):
            number, match, _ = self.library.match(self._whitened(shape))
            short = bool(len(self.library)) and len(shape) < (ALONE_ROWS if len(affected) == 1 else ROWS_MIN)
        if number < 0 and (match >= POSSIBLE_MIN or short) and self.patience < PATIENCE:
            self.patience += 1
            return
        self.patience = 0
        self._freeze(onset)
        self.condition = Condition(number < 0, onset, row.at_us, row.at_us, historical, affected, self._share(row), number, match)
        self.shape = shape[:ROWS_MAX]
        self.condition.before = self._before(onset)
        if number >= 0:
            self.library.note(number, row.at_us)
        else:
            # what was expected since the onset was shown by the half hour only
            for r in self.recent:
                if r.at_us >= onset and r.at_us < row.at_us:
                    shown, spread = self._back(r.expected, r.sd)
                    out.expect(r.at_us, self._name(), 0, self._back(r.x, r.sd)[0], shown, spread)
        self._emit_water(FindingPhase.RAISE, self.condition, row, historical, out)

    # -- probes that rest -----------------------------------------------------------------------------------------------------

    def _rest(self, idle: Sequence[int], onset: int, row: Row, historical: bool, out: OutputWriter) -> None:
        self.masked[list(idle)] = True
        self.baseline.again(self._use())
        self.waiting = [w for w in self.waiting if w.at_us < onset]
        if self.probes is None:
            cause = "calibration" if len(idle) == 1 or self._standard()[list(idle)].all() else "maintenance"
            self.probes = Probes(onset, row.at_us, historical, cause, dict.fromkeys(idle, 0))
            self._emit_probes(FindingPhase.RAISE, self.probes, row, historical, out)
        else:
            self.probes.moving.update(dict.fromkeys(idle, 0))
            if len(self.probes.moving) > 1:
                self.probes.cause = "maintenance"

    def _follow_probes(self, probes: Probes, row: Row, historical: bool, out: OutputWriter) -> None:
        resting = self.resting() | self._standard()
        quiet = self._share(row) < QUIET
        for j in list(probes.moving):
            if not math.isfinite(float(row.x[j])):
                continue
            probes.moving[j] = 0 if resting[j] else probes.moving[j] + 1
            if probes.moving[j] < MOVING_STEPS:
                continue
            rest = np.array([r.x[j] - r.expected[j] for r in self.recent[-MOVING_STEPS + 1 :]])
            offset, sd = float(np.nanmean(rest)), float(row.sd[j])
            if not math.isfinite(offset):
                del probes.moving[j]
                continue
            if abs(offset) > OFFSET_SDS_MAX * sd and quiet:
                continue  # it moves again and is far from where it should be
            if abs(offset) > OFFSET_SDS_MIN * sd and quiet and probes.cause == "calibration":
                self.baseline.level[j] += offset
            del probes.moving[j]
        back = self.masked.copy()
        self.masked[:] = False
        self.masked[list(probes.moving)] = True
        if (back & ~self.masked).any():
            self.baseline.forget(back & ~self.masked)
            self.baseline.again(self._use())
        if not probes.moving:
            self._emit_probes(FindingPhase.CLEAR, probes, row, historical, out)
            self.probes = None
        elif probes.historical and not historical:
            probes.historical, probes.updated_us = False, row.at_us
            self._emit_probes(FindingPhase.RAISE, probes, row, historical, out)
        elif row.at_us - probes.updated_us >= UPDATE_OFTEN_US:
            probes.updated_us = row.at_us
            self._emit_probes(FindingPhase.UPDATE, probes, row, historical, out)

    # -- a change goes on -----------------------------------------------------------------------------------------------------

    def _follow(self, c: Condition, row: Row, historical: bool, out: OutputWriter) -> None:
        use = self._use()
        of = np.zeros(self.width, np.bool_)
        of[c.affected] = True
        c.peak = max(c.peak, self._share(row))
        # the two short scales: two hours would remember what is over
        here = use & of
        there = bool(np.isfinite(row.x[here]).any())
        if there:
            level = self.baseline.ratio(here, LEVELS) < QUIET
            c.calm = c.calm + 1 if level else 0
            c.quiet = c.quiet + 1 if level and self._since(c, here) < QUIET else 0
        if c.dismissed and c.event:
            c.event, c.told = False, False
            self._emit_water(FindingPhase.CLEAR, c, row, historical, out, event=True)
            return
        if c.quiet >= CLEAR_STEPS or c.calm >= CALM_STEPS:
            self._close(c, row, of, historical, out)
            return
        if not c.event:
            self._follow_operation(c, row, use, historical, out)
            return
        if self.baseline.ratio(use & ~of) >= 1.0:
            c.affected.extend(j for j in self._affected(use & ~of) if j not in c.affected)
        if c.historical and not historical:
            c.historical, c.updated_us = False, row.at_us
            self._emit_water(FindingPhase.RAISE, c, row, historical, out)
        elif row.at_us - c.updated_us >= (UPDATE_US if row.at_us - c.raised_us <= UPDATE_OFTEN_US else UPDATE_OFTEN_US) and c.quiet == 0:
            c.updated_us = row.at_us
            self._emit_water(FindingPhase.UPDATE, c, row, historical, out)

    def _since(self, c: Condition, use: BoolArray) -> float:
        """Return how far the last half hour is from the time before the onset, as a share of the limit of such steps."""
        if c.before is None:
            return 0.0
        rest = self.baseline.rest[-MOVING_STEPS:]
        count = np.isfinite(rest).sum(0)
        now = np.where(count >= MOVING_STEPS // 2, np.nan_to_num(rest).sum(0) / np.maximum(count, 1), np.nan)
        means = np.full((len(SCALES), self.width), np.nan)
        means[STEPS] = self.baseline.partial(now - c.before, use) / self.baseline.wide[-1]
        return float(self.baseline.scores(means, use)[STEPS] / self.baseline.limit[STEPS])

    def _follow_operation(self, c: Condition, row: Row, use: BoolArray, historical: bool, out: OutputWriter) -> None:
        if row.at_us - c.onset_us >= STANDING_US:
            # a person said that this is normal, and it stays
            self._close(c, row, np.zeros(self.width, np.bool_), historical, out)
            return
        seen = [np.where(self.masked, np.nan, r.rest) for r in self.recent if r.at_us >= c.onset_us][-CLEAR_STEPS:]
        whole, last = self.library.match(self._whitened(self.shape)), self.library.match(self._whitened(seen))
        c.match = max(whole[1], last[1])
        strange = not c.dismissed and self.baseline.ratio(use, LEVELS) >= 1.0 and c.match < POSSIBLE_MIN
        # of the probes that the operation leaves alone two must go together
        free = use & ~self.library.touched(c.known)
        left = float((self.baseline.scores(row.means, free) / self.baseline.limit).max())
        strange = strange or (left >= 1.0 and self.baseline.ratio(free) >= 1.0 and len(self._affected(free)) >= 2)
        c.strange = c.strange + 1 if strange else 0
        if c.strange >= LEFT_STEPS:
            if c.told:
                self._emit_water(FindingPhase.CLEAR, c, row, historical, out)
            affected = self._affected(free) or self._affected(use) or c.affected
            onset = row.at_us - LEFT_STEPS * GRID_US
            share = self._share(row)
            self.condition = Condition(True, onset, row.at_us, row.at_us, historical, affected, share, -1, c.match, beyond=True)
            self._emit_water(FindingPhase.RAISE, self.condition, row, historical, out)

    def _close(self, c: Condition, row: Row, of: BoolArray, historical: bool, out: OutputWriter) -> None:
        if c.told:
            self._emit_water(FindingPhase.CLEAR, c, row, historical, out)
        if c.event:
            self.past, self.past_us = self.shape, c.onset_us
        self.condition, self.shape = None, []
        if not self.holds:
            self._relevel(~of, c.onset_us)
            self.frozen_us = NEVER_US

    # -- what is said ---------------------------------------------------------------------------------------------------------

    def _drivers(self, row: Row, of: Sequence[int]) -> tuple[Driver, ...]:
        share = row.scores / self.baseline.limit
        scale = int(np.argmax(np.where(np.isfinite(share), share, -np.inf)))
        span = self.recent[-SCALES[min(scale, 1)] :]
        expected, sd = self._back(row.expected, row.sd)
        drivers = []
        for j in of:
            values = [float(r.x[j]) for r in span if math.isfinite(float(r.x[j]))]
            if not values or not math.isfinite(float(expected[j])):
                continue
            x = np.full(self.width, np.mean(values))
            observed = float(self._back(x, row.sd)[0][j])
            channel = self.channels[j]
            drivers.append(
                Driver(channel.device_id, observed, float(expected[j]), float(sd[j]), CANONICAL_UNIT[channel.quantity], channel.channel_id)
            )
        return tuple(drivers)

    def _emit_water(
        self, phase: FindingPhase, c: Condition, row: Row, historical: bool, out: OutputWriter, event: bool | None = None
    ) -> None:
        is_event = c.event if event is None else event
        kind = FindingKind.QUALITY_EVENT if is_event else FindingKind.QUALITY_OPERATION
        drivers = self._drivers(row, c.affected)
        summary = words.of_water(self.station, c, is_event, phase, words.of_drivers(self.channels, drivers), len(self.library))
        details = {
            "verdict": "event" if is_event else "operation",
            "signals": [self.channels[j].quantity.value for j in c.affected],
            "match": round(c.match, 3),
            "operations_known": len(self.library),
        }
        self._emit(kind, phase, c.onset_us, row, drivers, summary, details, historical, out)

    def _emit_probes(self, phase: FindingPhase, p: Probes, row: Row, historical: bool, out: OutputWriter) -> None:
        expected, sd = self._back(row.expected, row.sd)
        drivers = tuple(
            Driver(c.device_id, float(self.last[j]), float(expected[j]), float(sd[j]), CANONICAL_UNIT[c.quantity], c.channel_id)
            for j, c in enumerate(self.channels)
            if j in p.moving and math.isfinite(float(self.last[j])) and math.isfinite(float(expected[j]))
        )
        summary = words.of_probes(self.station, p, phase, words.of_drivers(self.channels, drivers))
        names = [self.channels[j].quantity.value for j in p.moving]
        details = {"verdict": "sensor", "cause": p.cause, "signals": names}
        self._emit(FindingKind.QUALITY_SENSOR, phase, p.onset_us, row, drivers, summary, details, historical, out)

    def _emit(
        self,
        kind: FindingKind,
        phase: FindingPhase,
        onset: int,
        row: Row,
        drivers: tuple[Driver, ...],
        summary: str,
        details: Mapping[str, Any],
        historical: bool,
        out: OutputWriter,
    ) -> None:
        first = drivers[0] if drivers else Driver("", 0.0, 0.0, 0.0, "")
        half = BAND_SDS * first.sigma
        share = row.scores / self.baseline.limit
        scale = int(np.argmax(np.where(np.isfinite(share), share, -np.inf)))
        statistic, threshold = float(row.scores[scale]), float(self.baseline.limit[scale])
        evidence = Evidence(
            summary,
            first.observed,
            first.expected,
            first.expected - half,
            first.expected + half,
            first.unit,
            statistic if math.isfinite(statistic) else 0.0,
            threshold,
            self._name(),
            drivers,
            (),
            {**details, "scale_min": SCALES[scale] * 5},
        )
        score = min(max(self._share(row), 0.0), SCORE_MAX)
        identity = finding_id(self.name, self.version, kind, phase, self.asset_id, onset, row.at_us)
        out.findings.append(
            Finding(
                identity, kind, phase, self.asset_id, self.zone_id, self.name, self.version, score, onset, row.at_us, evidence, historical
            )
        )

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "recent": columns(self.recent),
                "waiting": columns(self.waiting),
                "condition": None if self.condition is None else asdict(self.condition),
                "probes": None if self.probes is None else {**asdict(self.probes), "moving": [list(x) for x in self.probes.moving.items()]},
                "shape": np.array(self.shape).reshape(-1, self.width),
                "past": np.array(self.past).reshape(-1, self.width),
                "holds": [[i, at] for i, at in sorted(self.holds.items())],
                "baseline": self.baseline.state(),
                "library": self.library.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s: dict[str, Any] = unpack(state)
        for name in _PLAIN:
            setattr(self, name, s[name])
        self.recent, self.waiting = rows_of(s["recent"]), rows_of(s["waiting"])
        self.condition = None if s["condition"] is None else Condition(**s["condition"])
        probes = s["probes"]
        self.probes = None if probes is None else Probes(**{**probes, "moving": {int(j): int(k) for j, k in probes["moving"]}})
        self.shape, self.past = list(s["shape"]), list(s["past"])
        self.holds = {int(i): int(at) for i, at in s["holds"]}
        self.baseline.restore(s["baseline"])
        self.library.restore(s["library"])


_PLAIN: Sequence[str] = (
    "first_us", "last_us", "raws", "last", "run", "repeats", "masked", "past_us", "patience", "steps", "frozen_us",
)  # fmt: skip


def stations(channels: Sequence[Channel], assets: Mapping[str, Asset], timezone: str) -> list[WaterQuality]:
    """Return a detector for every station: the quality channels of one asset, or of one device that stands at none.

    A station with one probe only is not watched: nothing would tell its water from its probe.
    """
    groups: dict[str, list[Channel]] = defaultdict(list)
    for c in channels:
        if c.role in ROLES:
            groups[c.asset_id or f"device:{c.device_id}"].append(c)
    return [
        WaterQuality(asset_id, mine[:SIGNALS_MAX], timezone, assets[asset_id].name if asset_id in assets else "")
        for asset_id, mine in groups.items()
        if len(mine) >= SIGNALS_MIN
    ]
