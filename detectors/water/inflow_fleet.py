"""The quiet part of zone inflow for many zones at once: forecast, statistics and learning as arrays over all series of all zones.

A zone goes its own way, in `detectors.water.zone_inflow`, only where something is open, a statistic is over its threshold, or its night ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, IntArray, OutputRows
from detectors.cusum import cusum_threshold
from detectors.noise import NoiseModels
from detectors.segments import ranges
from detectors.standing import StandingGuard
from detectors.water.location import PressureTracker
from detectors.water.profile import SLOT_US, SLOTS, LocalDay, SlotProfile
from underway.model import DAY_US, HOUR_US

if TYPE_CHECKING:
    from detectors.water.zone_inflow import ZoneInflow

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
YEARS_PER_FALSE = 30.0
STEPS_MIN = 3
SCORE_MAX = 100.0
STANDING_STEPS = 6
NIGHT_FROM_SLOT, NIGHT_TO_SLOT = 24, 48
SHOWN_STEPS = 6
"""While all is quiet, pressures are written as means of this many grid times."""
_RING = WAIT_STEPS + 1


class Recent(NamedTuple):
    """The newest judged grid times of one zone, oldest first."""

    at_us: IntArray
    base: IntArray
    value: FloatArray
    expected: FloatArray


class InflowFleet:
    """Zones with the same number of tank levels, stepped together.

    Parameters
    ----------
    timezone : str
        IANA name; slots and nights are local.
    tanks : int
        Number of tank levels of every zone.

    Notes
    -----
    A series is the net inflow, a pressure or a tank level; those of a zone stand one after the other in this order, and its channels as flows,
    pressures, tank levels. Cost about 0.4 ms a call and 0.4 us a reading. State: see `ZoneInflow`.
    """

    def __init__(self, timezone: str, tanks: int) -> None:
        self.tanks = tanks
        self.zones: list[ZoneInflow] = []
        self._local = LocalDay(timezone)
        self.threshold = cusum_threshold(YEARS_PER_FALSE * 365 * DAY_US / SLOT_US, K_MIN)

    def add(self, zone: ZoneInflow) -> int:
        """Take a zone in; return its number. Call `build` after the last one."""
        self.zones.append(zone)
        return len(self.zones) - 1

    def build(self) -> None:
        """Make the arrays."""
        zones, tanks = self.zones, self.tanks
        n = len(zones)
        flows = np.array([len(z.flow_sign) for z in zones], np.int64)
        sensors = np.array([z.sensor_count for z in zones], np.int64)
        self._series = 1 + sensors + tanks
        self._series_start = np.cumsum(self._series) - self._series
        self._cells = flows + sensors + tanks
        self._cell_start = np.cumsum(self._cells) - self._cells
        total = int(self._series.sum())
        self._is_flow = np.zeros(int(self._cells.sum()), np.bool_)
        self._is_flow[ranges(self._cell_start, flows)] = True
        self._sign = np.zeros(len(self._is_flow))
        self._sign[self._is_flow] = np.concatenate([z.flow_sign for z in zones]) if n else []
        self._is_pressure = np.zeros(total, np.bool_)
        self._is_pressure[ranges(self._series_start + 1, sensors)] = True
        floor = np.concatenate([z.floor for z in zones]) if n else np.empty(0)
        self.standing = StandingGuard(len(self._is_flow), STANDING_STEPS)
        self.profile = SlotProfile(floor, np.concatenate([z.per_knot for z in zones]) if n else np.empty(0, np.int64))
        self.pressures = PressureTracker(sensors.tolist(), 1 + tanks, floor[self._is_pressure])
        self.noise = NoiseModels(n, K_MIN)
        self.offset = np.zeros(total)
        self.usual, self.usual_n = np.zeros(n), np.zeros(n)
        self.share, self.extra = np.zeros(n), np.zeros(n)
        self.first_us = np.full(n, NEVER_US, np.int64)
        self.statistic = np.zeros(n)
        self.onset_us = np.full(n, NEVER_US, np.int64)
        self.steps = np.zeros(n, np.int64)
        self.frozen, self.bursting = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.night_day = np.full(n, -1, np.int64)
        self.night_sum, self.night_count = np.zeros(n), np.zeros(n, np.int64)
        self.night_historical = np.zeros(n, np.bool_)
        self.night_at_us = np.full(n, NEVER_US, np.int64)
        self.rows, self.unlearned = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._ring_at = np.zeros((n, _RING), np.int64)
        self._ring_base = np.zeros((n, _RING), np.int64)
        self._ring_share = np.zeros((n, _RING))
        self._ring_value = np.zeros((_RING, total), np.float32)
        self._ring_expected = np.zeros((_RING, total), np.float32)

    # -- the step -------------------------------------------------------------------------------------------------------------

    def step(self, number: IntArray, at_us: IntArray, value: FloatArray, historical: BoolArray) -> BankOutput:
        """Judge one grid time of each of the zones `number`; see `detectors.contract.Fleet`."""
        z, n = number, len(number)
        out = OutputRows()
        first = self.first_us[z]
        self.first_us[z] = first = np.where(first == NEVER_US, at_us, first)
        series = ranges(self._series_start[z], self._series[z])
        zone = np.repeat(np.arange(n), self._series[z])
        net = np.cumsum(self._series[z]) - self._series[z]
        is_net = np.zeros(len(series), np.bool_)
        is_net[net] = True
        value = self._series_values(z, value, is_net)
        day, base = self._calendar(at_us)
        mean, sd, days = self.profile.expect(base[zone], series)
        scale = np.where(days[net] > 0, np.fmax(mean[net], 0.25 * self.usual[z]), 0.0)
        level = self.offset[series]
        level[net] = self.share[z] * scale + self.extra[z]
        expected = mean + level
        sd = sd * np.sqrt(1.0 + 1.0 / np.maximum(days, 1.0))
        shown = np.where(days >= DAYS_OF_KIND_MIN, expected, np.nan)
        net_value = value[net]
        self._push(z, at_us, base, series, zone, value, expected)
        self._write(z, at_us, base, (value, shown, sd), series, net, out)
        self._nights(z, at_us, day, base % SLOTS, net_value, historical, out)
        judged = np.isfinite(net_value) & np.isfinite(shown[net]) & np.isfinite(sd[net])
        if judged.any():
            self._judge(z, at_us, (net_value, expected[net], sd[net]), first, judged, historical, (net, value, expected), out)
        self._adapt(z, (series, zone, net, is_net), value, expected, sd, days, scale)
        return out.output()

    def _series_values(self, z: IntArray, value: FloatArray, is_net: BoolArray) -> FloatArray:
        """Return the values of the series: a standing meter is a gap, a missing meter makes the net inflow one."""
        cells = ranges(self._cell_start[z], self._cells[z])
        value = self.standing(value, cells)
        flow = self._is_flow[cells]
        of = np.repeat(np.arange(len(z)), self._cells[z])[flow]
        result = np.empty(len(is_net))
        result[is_net] = np.bincount(of, value[flow] * self._sign[cells[flow]], len(z))
        result[~is_net] = value[~flow]
        return result

    def _calendar(self, at_us: IntArray) -> tuple[IntArray, IntArray]:
        """Return (local day number, kind of day times 288 plus slot) of instants."""
        if (at_us == at_us[0]).all():
            day, kind, slot = self._local(int(at_us[0]))
            return np.full(len(at_us), day), np.full(len(at_us), kind * SLOTS + slot)
        instants, index = np.unique(at_us, return_inverse=True)
        found = np.array([self._local(at) for at in instants.tolist()], np.int64)[index]
        return found[:, 0], found[:, 1] * SLOTS + found[:, 2]

    def _push(
        self, z: IntArray, at_us: IntArray, base: IntArray, series: IntArray, zone: IntArray, value: FloatArray, expected: FloatArray
    ) -> None:
        place = self.rows[z] % _RING
        self._ring_at[z, place], self._ring_base[z, place], self._ring_share[z, place] = at_us, base, self.share[z]
        self._ring_value[place[zone], series] = value
        self._ring_expected[place[zone], series] = expected
        self.rows[z] += 1
        self.unlearned[z] += ~self.frozen[z]

    def _write(
        self,
        z: IntArray,
        at_us: IntArray,
        base: IntArray,
        columns: tuple[FloatArray, FloatArray, FloatArray],
        series: IntArray,
        net: IntArray,
        out: OutputRows,
    ) -> None:
        """Write what was expected: inflows always, pressures while something is open or held, else as half-hour means."""
        value, shown, sd = columns
        zones = self.zones
        known = np.isfinite(value[net]) & np.isfinite(shown[net]) & np.isfinite(sd[net])
        some = np.flatnonzero(known)
        if len(some):
            who, rows = z[some].tolist(), net[some]
            out.add([zones[i].signals[0] for i in who], [zones[i].baseline for i in who], at_us[some], value[rows], shown[rows], sd[rows])
        if self.frozen[z].any():
            width = self._series[z] - 1 - self.tanks
            for i in np.flatnonzero(self.frozen[z]).tolist():
                mine = slice(int(net[i]) + 1, int(net[i] + 1 + width[i]))
                zones[z[i]].write_pressures(int(at_us[i]), value[mine], shown[mine], sd[mine], zones[z[i]].baseline, out)
        quiet = (base % SHOWN_STEPS == 0) & ~self.frozen[z]
        if quiet.any():
            mine = self._is_pressure[series] & np.repeat(quiet, self._series[z])
            self._write_half_hours(z[quiet], at_us[quiet], series[mine], shown[mine], sd[mine], out)

    def _write_half_hours(self, z: IntArray, at_us: IntArray, series: IntArray, shown: FloatArray, sd: FloatArray, out: OutputRows) -> None:
        """Write pressures as means over the half hour that ends now, of the grid times with a reading."""
        width = self._series[z] - 1 - self.tanks
        zone = np.repeat(np.arange(len(z)), width)
        count, value, expected = np.zeros(len(series)), np.zeros(len(series)), np.zeros(len(series))
        for back in range(SHOWN_STEPS):
            place = (self.rows[z] - 1 - back) % _RING
            inside = (self.rows[z] > back) & (self._ring_at[z, place] > at_us - SHOWN_STEPS * SLOT_US)
            seen, wanted = self._ring_value[place[zone], series], self._ring_expected[place[zone], series]
            good = np.isfinite(seen) & np.isfinite(wanted) & inside[zone]
            count += good
            value += np.where(good, seen, 0.0)
            expected += np.where(good, wanted, 0.0)
        some = np.flatnonzero((count > 0) & np.isfinite(shown) & np.isfinite(sd))
        if not len(some):
            return
        count = count[some]
        signals = [s for i in z.tolist() for s in self.zones[i].signals[2:]]
        baseline = [self.zones[i].baseline for i in z[zone[some]].tolist()]
        out.add([signals[i] for i in some.tolist()], baseline, at_us[zone[some]], value[some] / count, expected[some] / count, sd[some])

    def _nights(
        self, z: IntArray, at_us: IntArray, day: IntArray, slot: IntArray, flow: FloatArray, historical: BoolArray, out: OutputRows
    ) -> None:
        inside = (slot >= NIGHT_FROM_SLOT) & (slot < NIGHT_TO_SLOT)
        over = (self.night_count[z] > 0) & (~inside | (day != self.night_day[z]))
        if over.any():
            for number in z[over].tolist():
                self.zones[number].night_over(out)
            self.night_sum[z[over]], self.night_count[z[over]], self.night_historical[z[over]] = 0.0, 0, False
        taken = inside & np.isfinite(flow)
        if taken.any():
            who = z[taken]
            self.night_day[who], self.night_at_us[who] = day[taken], at_us[taken]
            self.night_sum[who] += flow[taken]
            self.night_count[who] += 1
            self.night_historical[who] |= historical[taken]

    def _judge(
        self,
        z: IntArray,
        at_us: IntArray,
        inflow: tuple[FloatArray, FloatArray, FloatArray],
        first_us: IntArray,
        judged: BoolArray,
        historical: BoolArray,
        rows: tuple[IntArray, FloatArray, FloatArray],
        out: OutputRows,
    ) -> None:
        value, expected, sd = inflow
        c = self.noise.scale[z]
        score = np.where(judged, (value - expected) / sd, 0.0)
        ready = judged & (at_us - first_us >= LEARN_DAYS * DAY_US) & self.noise.ready()[z]
        if ready.any():
            statistic = self.statistic[z]
            begin = ready & (statistic <= 0.0)
            self.onset_us[z] = np.where(begin, at_us, self.onset_us[z])
            moved = np.maximum(0.0, statistic + np.clip(score / c, Z_MIN, Z_MAX) - self.noise.reference()[z])
            self.statistic[z] = np.where(ready, np.minimum(moved, SCORE_MAX * self.threshold), statistic)
            self.steps[z] = np.where(begin, 0, self.steps[z]) + ready
        over = ready & (self.statistic[z] >= self.threshold) & (self.steps[z] >= STEPS_MIN)
        for i in np.flatnonzero(judged & (over | self.bursting[z])).tolist():
            net, values, wanted = rows
            mine = slice(int(net[i]), int(net[i] + self._series[z[i]]))
            self.zones[int(z[i])].judge(
                int(at_us[i]), values[mine], wanted[mine], float(sd[i] * c[i]), bool(historical[i]), bool(over[i]), out
            )
        learning = judged & ~self.frozen[z]
        if learning.any():
            self.noise.learn(z[learning], score[learning])

    # -- learning -------------------------------------------------------------------------------------------------------------

    def _adapt(
        self,
        z: IntArray,
        places: tuple[IntArray, IntArray, IntArray, BoolArray],
        value: FloatArray,
        expected: FloatArray,
        sd: FloatArray,
        days: FloatArray,
        scale: FloatArray,
    ) -> None:
        series, zone, net, is_net = places
        free = ~self.frozen[z]
        active = free & (self.statistic[z] < self.threshold / 2)
        residual = value - expected
        known = (days >= TRACK_FROM_DAYS) & np.isfinite(residual) & np.isfinite(sd) & active[zone]
        if known.any():
            step = (SLOT_US / LEVEL_US) * np.clip(residual, -LEVEL_CLIP_SD * sd, LEVEL_CLIP_SD * sd)
            step = np.where(known, step, 0.0)
            follows = known[net] & (scale > 0)
            share = self.share[z]
            moved = np.clip(share + step[net] / np.where(follows, scale, 1.0), -LEVEL_MAX, LEVEL_MAX)
            self.share[z] = np.where(follows, moved, share)
            self.offset[series] += np.where(is_net, 0.0, step)
            learns = known[net]
            if learns.any():
                pressure = self._is_pressure[series] & learns[zone]
                explaining = residual[~self._is_pressure[series]].reshape(len(z), -1)[learns]
                self.pressures.learn(z[learns], np.where(known, residual, np.nan)[pressure], explaining)
        there = free & np.isfinite(value[net])
        if there.any():
            who = z[there]
            self.usual_n[who] = count = np.minimum(self.usual_n[who] + 1.0, MEMORY_STEPS)
            self.usual[who] += (value[net[there]] - self.extra[who] - self.usual[who]) / count
        due = free & (self.unlearned[z] > WAIT_STEPS)
        if due.all():
            self._learn(z, series, zone, net)
        elif due.any():
            some = np.flatnonzero(due)
            width = self._series[z[some]]
            self._learn(z[some], series[due[zone]], np.repeat(np.arange(len(some)), width), np.cumsum(width) - width)

    def _learn(self, z: IntArray, series: IntArray, zone: IntArray, net: IntArray) -> None:
        """Learn the rows that have waited long enough."""
        place = (self.rows[z] - 1 - WAIT_STEPS) % _RING
        base = self._ring_base[z, place][zone]
        value = self._ring_value[place[zone], series].astype(np.float64)
        expected = self._ring_expected[place[zone], series].astype(np.float64)
        value[net] -= self.extra[z]
        expected[net] -= self.extra[z]
        self.profile.learn(base, series, value, expected)
        self.unlearned[z] = WAIT_STEPS

    # -- one zone -------------------------------------------------------------------------------------------------------------

    def of(self, number: int) -> slice:
        """Return the series of a zone."""
        start = int(self._series_start[number])
        return slice(start, start + int(self._series[number]))

    def local_minute(self, at_us: int) -> int:
        """Return the minute of the local day."""
        return self._local(at_us)[2] * 5

    def recent(self, number: int, count: int = WAIT_STEPS) -> Recent:
        """Return the newest judged grid times of a zone, at most `count`."""
        rows = int(self.rows[number])
        place = np.arange(max(rows - min(count, WAIT_STEPS), 0), rows) % _RING
        of = self.of(number)
        return Recent(
            self._ring_at[number, place],
            self._ring_base[number, place],
            self._ring_value[place, of].astype(np.float64),
            self._ring_expected[place, of].astype(np.float64),
        )

    def spread(self, number: int, base: int) -> tuple[FloatArray, BoolArray]:
        """Return (standard deviation of a forecast, whether enough days were seen) of the series of a zone at a base."""
        of = self.of(number)
        series = np.arange(of.start, of.stop)
        _, sd, days = self.profile.expect(np.full(len(series), base), series)
        return sd * np.sqrt(1.0 + 1.0 / np.maximum(days, 1.0)), days >= DAYS_OF_KIND_MIN

    def roll_back(self, number: int, at_us: int) -> None:
        """Forget what a zone has not learned yet; the level is as it was at the first forgotten row from `at_us` on."""
        rows, count = int(self.rows[number]), int(self.unlearned[number])
        place = np.arange(rows - count, rows) % _RING
        dropped = place[self._ring_at[number, place] >= at_us]
        self.unlearned[number] = 0
        if not len(dropped):
            return
        row, of = int(dropped[0]), self.of(number)
        self.share[number] = self._ring_share[number, row]
        series = np.arange(of.start + 1, of.stop)
        mean, _, _ = self.profile.expect(np.full(len(series), self._ring_base[number, row]), series)
        offset = self._ring_expected[row, of][1:].astype(np.float64) - mean
        self.offset[series] = np.where(np.isfinite(offset), offset, self.offset[series])

    def forget_night(self, number: int, from_us: int) -> None:
        """Forget the night that is not over yet, if some of it was seen from `from_us` on."""
        if self.night_count[number] > 0 and self.night_at_us[number] >= from_us:
            self.night_sum[number], self.night_count[number], self.night_historical[number] = 0.0, 0, False

    def state(self, number: int) -> dict[str, object]:
        """Return the arrays of one zone."""
        of, cells = self.of(number), slice(int(self._cell_start[number]), int(self._cell_start[number] + self._cells[number]))
        kept = min(int(self.rows[number]), _RING)
        place = np.arange(int(self.rows[number]) - kept, int(self.rows[number])) % _RING
        return {
            **{name: getattr(self, name)[number].item() for name in _PLAIN},
            "offset": self.offset[of],
            "ring_at": self._ring_at[number, place],
            "ring_base": self._ring_base[number, place].astype(np.int16),
            "ring_share": self._ring_share[number, place],
            "ring_value": self._ring_value[place, of],
            "ring_expected": self._ring_expected[place, of],
            "standing": self.standing.state(cells),
            "noise": self.noise.state(number),
            "profile": self.profile.state(of),
            "pressures": self.pressures.state(number),
        }

    def restore(self, number: int, s: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        of, cells = self.of(number), slice(int(self._cell_start[number]), int(self._cell_start[number] + self._cells[number]))
        for name in _PLAIN:
            getattr(self, name)[number] = s[name]
        self.offset[of] = s["offset"]
        place = np.arange(s["rows"] - len(s["ring_at"]), s["rows"]) % _RING
        self._ring_at[number, place], self._ring_base[number, place] = s["ring_at"], s["ring_base"]
        self._ring_share[number, place] = s["ring_share"]
        self._ring_value[place, of], self._ring_expected[place, of] = s["ring_value"], s["ring_expected"]
        self.standing.restore(s["standing"], cells)
        self.noise.restore(number, s["noise"])
        self.profile.restore(s["profile"], of)
        self.pressures.restore(number, s["pressures"])


_PLAIN = (
    "usual",
    "usual_n",
    "share",
    "extra",
    "first_us",
    "statistic",
    "onset_us",
    "steps",
    "night_day",
    "night_sum",
    "night_count",
    "night_historical",
    "night_at_us",
    "rows",
    "unlearned",
)
