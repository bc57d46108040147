"""Meters that somebody tampers with: less is counted of every use, while people use water as often, and the neighbours as much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, IntArray, OutputRows, Rows, no_output
from detectors.cusum import cusum_threshold
from detectors.water.meter_days import DayTotals, day_rounds, meter_channels
from detectors.water.meter_rows import HeldColumnState, MeterHolds
from underway.model import (
    DAY_US,
    Asset,
    Channel,
    Device,
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

FLAG_ROLE = "tamper_flag"
WEEK_DAYS = 7
WAIT_DAYS = 2
"""A week is judged so many days after it ended: a meter that sends once a day has told of it by then."""
KNOWN_DAYS_MIN, USED_DAYS_MIN = 5, 4
BASE_WEEKS = 8
WEEKS_PER_FALSE = 5200.0
"""One false alarm in a hundred years of one meter, as far as weeks are independent and normal."""
REFERENCE_SD = 0.5
THRESHOLD = cusum_threshold(WEEKS_PER_FALSE, REFERENCE_SD)
Z_MAX = 3.0
FALL_MIN = 0.25
"""Smallest fall of what is counted of a use, as a logarithm: about 22 %."""
TOTAL_FALL_MIN = 0.2
MEMORY_WEEKS = 26.0
LAG_WEEKS = 4
SD_MIN, SD_FIRST = 0.06, 0.2
PEERS_MIN = 10
WAKING_H = 18.0
"""Hours of a day over which uses are spread, about."""
STEADY_SHARE = 0.9
STEPS_A_USE = 5.0
"""Steps of the register in one use below which it is too coarse."""
HOURLY_S = 3600.0
CLEAR_WEEKS = 3
FLAG_CLEAR_US = DAY_US

LITRES, HOURS, KNOWN, USED = range(4)


class MeterTamper(HeldColumnState):
    """Find customer meters that count less of every use than they did, and those whose devices say that somebody is at them.

    Parameters
    ----------
    channels : sequence of Channel
        Registers and flows of customers at least once an hour, and flags (0 or 1) of their devices, role ``tamper_flag``.
    devices, assets : mapping of str
        By id; for the attributes of `DayTotals`.
    part : str
        Name of this part of the channels, in the key.

    Notes
    -----
    A week has litres V and, a day with use, h hours in which something flowed. As many uses as make h hours of 18 wet by chance are
    ``N = -18 ln(1 - h / 18)`` a day, so one use counts ``v = V / N`` litres: people who are away, are fewer, or use water less often change N and
    not v, a bypass changes v and hardly N. ``r = ln v - level - median of the others of the zone``. A one-sided CUSUM of ``-r / sd``, clipped at 3,
    with k = 0.5 and one false alarm in a hundred meter-years. RAISE when v fell by 22 % and the litres of a day with use by 18 % over the weeks
    since the onset, after 8 weeks. CLEAR after three weeks in which v is back by more than half, or a day after the last flag. A flag is believed
    when two readings in a row have it.

    Level and sd are learned 4 weeks late, with a memory of 26 weeks; not while the CUSUM is past half of its limit, a condition is open or a hold
    is on. Released as ``cancelled`` the present v is the new normal. Cost about 0.4 us a reading in passes over all channels; state about 290
    bytes a channel.

    Blind to: steps of the register above a fifth of a use (pulses of 10 and 100 L), readings less than hourly, meters that drip all day; a magnet
    that stops the meter altogether for days (looks like people who are away; `meter-stopped` sees it when it lasts); a fall below 22 %; what was
    tampered with in the first 8 weeks; smaller uses for an honest reason (a shower head that saves, a garden that is given up).

    References
    ----------
    Page (1954), doi 10.1093/biomet/41.1-2.100, for the CUSUM. Litres of a use from hours with flow is ours.

    Examples
    --------
    Twelve homes for 30 weeks, eight uses of about 14 L a day each; in week 20 half of the water of the first begins to go past its meter.

    >>> from underway.model import Quantity
    >>> rng, hours = np.random.default_rng(1), 30 * 168
    >>> meters = [Channel(i, f"m-{i}", "v", Quantity.VOLUME, "m3", None, "z", "customer_meter", 0, 1e6, 3600, 0.001) for i in range(12)]
    >>> used = rng.poisson(8 / 24, (hours, 12)) * rng.uniform(9, 19, (hours, 12)) / 1000
    >>> used[20 * 168 :, 0] *= 0.5
    >>> register, at = 5 + np.cumsum(used, axis=0), np.repeat(np.arange(hours), 12) * 3_600_000_000
    >>> rows = Rows(np.tile(np.arange(12), hours), at, at, register.ravel(), np.zeros(hours * 12, bool))
    >>> found = MeterTamper(meters, {}, {}).step(rows).findings
    >>> [(f.asset_id, f.phase.value, f.detected_us // DAY_US // 7) for f in found]
    [('device:m-0', 'raise', 23)]
    """

    name = "meter-tamper"
    version = "1"
    kinds = (FindingKind.METER_TAMPER,)
    warm_up_us = 20 * 7 * DAY_US
    ARRAYS = (
        *(f"totals.{name}" for name in DayTotals.ARRAYS), "sums", "weeks", "level", "square", "lag", "statistic", "steps", "fallen", "total_fallen",
        "base_total", "open", "open_live", "onset_us", "frozen_us", "calm", "flagged", "flag_us", "flag_off_us", "clock_day", "judged_week", "live",
    )  # fmt: skip

    def __init__(self, channels: Sequence[Channel], devices: Mapping[str, Device], assets: Mapping[str, Asset], part: str = "all") -> None:
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.key = f"{self.name}@{self.version}/{part}"
        n = len(self.channels)
        self.state_bytes_max = 520 * n + 3000
        self.signals = tuple(Signal(f"asset/device:{c.device_id}/volume", c.zone_id, c.asset_id, "m3") for c in channels)
        self.totals = DayTotals(channels, devices, assets)
        self._is_flag = np.array([c.role == FLAG_ROLE for c in channels], np.bool_)
        self._judged = ~self._is_flag & np.array([c.interval_s <= HOURLY_S for c in channels], np.bool_)
        names: dict[str | None, int] = {}
        self._zone = np.array([names.setdefault(c.zone_id, len(names)) for c in channels], np.int64)
        # of each channel the one that speaks for its device: its meter, else the flag itself
        meter = {c.device_id: j for j, c in reversed(list(enumerate(channels))) if c.role != FLAG_ROLE}
        self._speaker = np.array([meter.get(c.device_id, j) for j, c in enumerate(channels)], np.int64)
        # two weeks are open at a time, the older until the wait is over
        self.sums = np.zeros((n, 2, 4))
        self.weeks = np.zeros(n, np.int32)
        self.level, self.square = np.zeros(n), np.full(n, SD_FIRST**2)
        self.base_total = np.zeros(n)
        self.lag = np.full((n, LAG_WEEKS, 2), np.nan)
        self.statistic, self.steps = np.zeros(n), np.zeros(n, np.int32)
        self.fallen, self.total_fallen = np.zeros(n), np.zeros(n)
        self.open, self.open_live = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.onset_us, self.frozen_us = np.full(n, NEVER_US, np.int64), np.full(n, NEVER_US, np.int64)
        self.calm = np.zeros(n, np.int8)
        self.flagged = np.zeros(n, np.int8)
        self.flag_us, self.flag_off_us = np.full(n, NEVER_US, np.int64), np.full(n, NEVER_US, np.int64)
        self.clock_day, self.judged_week = np.full(n, NEVER_US, np.int64), np.full(n, NEVER_US, np.int64)
        self.live = np.zeros(n, np.bool_)
        self.holds = MeterHolds(channels)

    def hold(self, hold: Hold) -> None:
        """Stop learning of a meter; after a cancelled hold take what it counts now as normal."""
        for j in self.holds.take(hold):
            if hold.verdict == "cancelled" and self.open[j] and self.steps[j]:
                self.level[j] += self.fallen[j] / self.steps[j]
                self.base_total[j] += self.total_fallen[j] / self.steps[j]
            self.statistic[j] = 0.0
            self.lag[j] = np.nan

    def tick(self, now_us: int) -> BankOutput:
        """Do nothing: a week is judged when readings of the days after it come."""
        return no_output()

    def step(self, rows: Rows) -> BankOutput:
        """Take readings in order; judge all meters when a week is over."""
        out = OutputRows()
        for newest, r in day_rounds(rows, int(self.clock_day.max())):
            if newest > self.clock_day.max():
                self._advance(newest, out)
            channel, at, value, historical = rows.column[r], rows.at_us[r], rows.value[r], rows.historical[r]
            self.live[channel] = ~historical
            flag = self._is_flag[channel]
            if flag.any():
                self._flags(channel[flag], at[flag], value[flag], historical[flag], out)
            self._count(channel[~flag], at[~flag], value[~flag])
        return out.output()

    # -- flags ----------------------------------------------------------------------------------------------------------------

    def _flags(self, channel: IntArray, at: IntArray, value: FloatArray, historical: BoolArray, out: OutputRows) -> None:
        on = value >= 0.5
        was = self.flagged[channel]
        self.flag_us[channel] = np.where(on & (was == 0), at, self.flag_us[channel])
        self.flag_off_us[channel] = np.where(on, NEVER_US, np.where(self.flag_off_us[channel] == NEVER_US, at, self.flag_off_us[channel]))
        over = ~on & (was == 2) & (at - self.flag_off_us[channel] >= FLAG_CLEAR_US)
        self.flagged[channel] = np.where(on, np.minimum(was + 1, 2), np.where(over | (was < 2), 0, was))
        for i in np.flatnonzero(on & (was == 1)).tolist():
            j = int(self._speaker[channel[i]])
            if not self.open[j]:
                self._raise(j, int(self.flag_us[channel[i]]), int(at[i]), bool(historical[i]), int(channel[i]), out)
        for i in np.flatnonzero(over).tolist():
            j = int(self._speaker[channel[i]])
            others = (self._speaker == j) & (self.flagged == 2)
            if self.open[j] and not others.any() and self.statistic[j] < THRESHOLD:
                self._clear(j, int(at[i]), bool(historical[i]), out)

    # -- weeks ----------------------------------------------------------------------------------------------------------------

    def _count(self, meter: IntArray, at: IntArray, value: FloatArray) -> None:
        days, _ = self.totals.take(meter, at, value)
        if not len(days.row):
            return
        good = days.known & (days.litres >= 0.0) & (days.day // WEEK_DAYS > self.judged_week[days.meter])
        mine, place = days.meter[good], days.day[good] // WEEK_DAYS % 2
        used = days.flowing_h[good] > 0.0
        self.sums[mine, place] += np.stack((days.litres[good], days.flowing_h[good], np.ones(len(mine)), used.astype(float)), axis=1)

    def _advance(self, newest: int, out: OutputRows) -> None:
        """Judge the week whose wait is over when `newest` is the newest day; older ones that nobody saw end are dropped."""
        over = (newest - WAIT_DAYS) // WEEK_DAYS - 1
        before = int(self.judged_week.max())
        if before == NEVER_US:
            self.judged_week[:] = over
        elif over > before:
            self._judge(before + 1, newest, out)
            self.sums[:, (before + 1) % 2] = 0.0
            if over > before + 1:
                self.sums[:] = 0.0
            self.judged_week[:] = over
        self.clock_day[:] = newest

    def _judge(self, week: int, newest: int, out: OutputRows) -> None:
        sums = self.sums[:, week % 2]
        used = np.maximum(sums[:, USED], 1.0)
        hours = sums[:, HOURS] / used
        enough = self._judged & (sums[:, KNOWN] >= KNOWN_DAYS_MIN) & (sums[:, USED] >= USED_DAYS_MIN) & (sums[:, LITRES] > 0.0)
        enough &= hours < STEADY_SHARE * WAKING_H
        uses = -WAKING_H * np.log1p(-np.minimum(hours / WAKING_H, STEADY_SHARE))
        with np.errstate(divide="ignore", invalid="ignore"):
            use = np.where(enough, np.log(sums[:, LITRES] / (used * uses)), np.nan)
            total = np.where(enough, np.log(sums[:, LITRES] / used), np.nan)
        enough &= np.exp(np.where(enough, np.maximum(use, self.level), 0.0)) >= STEPS_A_USE * self.totals.registers.step_l
        known = enough & (self.weeks >= BASE_WEEKS)
        r = np.where(enough, use - self.level - self._peers(use - self.level, known), np.nan)
        fall = np.where(enough, total - self.base_total - self._peers(total - self.base_total, known), np.nan)
        self._first(enough & ~known, use, total)
        mine = np.flatnonzero(known)
        sd = np.sqrt(self.square[mine])
        self._expect(mine, r, sums[:, LITRES] / 1000.0, sd, week, out)
        step = np.clip(-r[mine] / sd, -Z_MAX, Z_MAX) - REFERENCE_SD
        begins = (self.statistic[mine] <= 0.0) & ~self.open[mine]
        self.onset_us[mine] = np.where(begins, week * WEEK_DAYS * DAY_US, self.onset_us[mine])
        for array in (self.fallen, self.total_fallen, self.steps):
            array[mine] = np.where(begins, 0, array[mine])
        self.statistic[mine] = np.clip(self.statistic[mine] + step, 0.0, 2.0 * THRESHOLD)
        self.fallen[mine] += np.where(self.open[mine], 0.0, r[mine])
        self.total_fallen[mine] += np.where(self.open[mine], 0.0, fall[mine])
        self.steps[mine] += ~self.open[mine]
        self._say(mine, r, newest * DAY_US, out)
        self._learn(mine, r, fall)

    def _peers(self, value: FloatArray, known: BoolArray) -> FloatArray:
        """Return the median of a value over the known meters of each zone, a meter; 0 where they are few."""
        out = np.zeros(len(value))
        for zone in range(int(self._zone.max()) + 1 if len(self._zone) else 0):
            mine = self._zone == zone
            peers = value[mine & known]
            if len(peers) >= PEERS_MIN:
                out[mine] = np.median(peers)
        return out

    def _first(self, meters: BoolArray, use: FloatArray, total: FloatArray) -> None:
        """Take the first weeks as they are: a plain mean."""
        mine = np.flatnonzero(meters & ~self.holds.held)
        count = self.weeks[mine] + 1
        self.level[mine] += (use[mine] - self.level[mine]) / count
        self.base_total[mine] += (total[mine] - self.base_total[mine]) / count
        self.weeks[mine] = count

    def _learn(self, mine: IntArray, r: FloatArray, fall: FloatArray) -> None:
        quiet = mine[~self.open[mine] & ~self.holds.held[mine] & (self.statistic[mine] < THRESHOLD / 2)]
        old = self.lag[quiet, -1]
        self.lag[quiet, 1:] = self.lag[quiet, :-1]
        self.lag[quiet, 0] = np.stack((r[quiet], fall[quiet]), axis=1)
        there = np.isfinite(old[:, 0])
        ready, old = quiet[there], old[there]
        sd = np.sqrt(self.square[ready])
        clipped = np.clip(old[:, 0], -Z_MAX * sd, Z_MAX * sd)
        self.level[ready] += clipped / MEMORY_WEEKS
        self.base_total[ready] += np.clip(old[:, 1], -0.5, 0.5) / MEMORY_WEEKS
        self.square[ready] = np.maximum(self.square[ready] + (clipped**2 - self.square[ready]) / MEMORY_WEEKS, SD_MIN**2)

    def _say(self, mine: IntArray, r: FloatArray, at: int, out: OutputRows) -> None:
        steps = np.maximum(self.steps[mine], 1)
        fell = (self.fallen[mine] / steps <= -FALL_MIN) & (self.total_fallen[mine] / steps <= -TOTAL_FALL_MIN)
        raised = ~self.open[mine] & fell & (self.statistic[mine] >= THRESHOLD)
        flagged = np.bincount(self._speaker[self.flagged == 2], minlength=len(self.channels))[mine] > 0
        half = 0.5 * self.fallen[mine] / steps
        self.calm[mine] = np.where(r[mine] > half, np.minimum(self.calm[mine] + 1, CLEAR_WEEKS), 0)
        cleared = self.open[mine] & (self.calm[mine] >= CLEAR_WEEKS) & ~flagged
        again = self.open[mine] & ~self.open_live[mine] & self.live[mine] & ~cleared
        for i in np.flatnonzero(raised | cleared | again).tolist():
            j = int(mine[i])
            if cleared[i]:
                self._clear(j, at, not self.live[j], out)
            else:
                self._raise(j, int(self.onset_us[j]), at, not self.live[j], None, out)

    def _expect(self, mine: IntArray, r: FloatArray, total_m3: FloatArray, sd: FloatArray, week: int, out: OutputRows) -> None:
        """Say what a week should have been: what was counted, without the fall."""
        if len(mine):
            expected = total_m3[mine] * np.exp(-r[mine])
            at = np.full(len(mine), (week + 1) * WEEK_DAYS * DAY_US, np.int64)
            names = [self._baseline(j) for j in mine.tolist()]
            out.add([self.signals[j] for j in mine.tolist()], names, at, total_m3[mine], expected, expected * sd)

    # -- findings -------------------------------------------------------------------------------------------------------------

    def _baseline(self, j: int) -> str:
        when = f"{from_us(int(self.frozen_us[j])):%Y-%m-%dT%H:%MZ}" if self.open[j] else "live"
        return f"{self.name}@{self.version}/{self.channels[j].channel_id}/{when}"

    def _raise(self, j: int, onset: int, at: int, historical: bool, flag: int | None, out: OutputRows) -> None:
        if not self.open[j]:
            self.open[j], self.onset_us[j], self.frozen_us[j], self.calm[j] = True, onset, onset, 0
            self.lag[j] = np.nan
        self.open_live[j] = not historical
        self._emit(FindingPhase.RAISE, j, at, historical, flag, out)

    def _clear(self, j: int, at: int, historical: bool, out: OutputRows) -> None:
        self._emit(FindingPhase.CLEAR, j, at, historical, None, out)
        self.open[j], self.statistic[j], self.steps[j] = False, 0.0, 0
        self.fallen[j] = self.total_fallen[j] = 0.0

    def _emit(self, phase: FindingPhase, j: int, at: int, historical: bool, flag: int | None, out: OutputRows) -> None:
        channel, kind, onset = self.channels[j], FindingKind.METER_TAMPER, int(self.onset_us[j])
        steps = max(int(self.steps[j]), 1)
        fell, total = (1.0 - math.exp(float(x) / steps) for x in (self.fallen[j], self.total_fallen[j]))
        usual = math.exp(float(self.base_total[j])) / 1000.0 if self.weeks[j] else 0.0
        device = channel.device_id
        if phase is FindingPhase.CLEAR:
            summary = f"Meter {device} counts as before"
        elif flag is not None:
            summary = f"Meter {device} reports {self.channels[flag].name} since {from_us(onset):%d %b %H:%M} UTC"
        else:
            summary = (
                f"Meter {device} counts {fell:.0%} less of what is used than it did, since the week of {from_us(onset):%d %b}: {total:.0%} less on a "
                f"day with use, while water is used as often and the others of the zone count as before"
            )
        observed = usual * (1.0 - total)
        evidence = Evidence(
            summary, round(observed, 4), round(usual, 4), round(usual * (1.0 - TOTAL_FALL_MIN), 4), round(usual * (1.0 + TOTAL_FALL_MIN), 4),
            "m3", float(self.statistic[j]), THRESHOLD, self._baseline(j),
            (Driver(device, round(observed, 4), round(usual, 4), round(usual * math.sqrt(float(self.square[j])), 4), "m3", channel.channel_id),), (),
            {
                "device_id": device, "asset_id": channel.asset_id, "fall_of_a_use": round(fell, 3), "fall_of_a_day": round(total, 3), "weeks": steps,
                "flags": [self.channels[k].name for k in np.flatnonzero((self._speaker == j) & (self.flagged == 2)).tolist()],
            },
        )  # fmt: skip
        identity = finding_id(self.name, self.version, kind, phase, f"device:{device}", onset, at)
        score = max(float(self.statistic[j]) / THRESHOLD, 1.0)
        out.findings.append(
            Finding(
                identity, kind, phase, f"device:{device}", channel.zone_id, self.name, self.version, score, onset, at, evidence, historical
            )
        )


def tamper_channels(channels: Sequence[Channel]) -> list[Channel]:
    """Return the meters of customers, and the flags of devices."""
    meters: list[Any] = meter_channels(channels)
    return sorted([*meters, *(c for c in channels if c.role == FLAG_ROLE)], key=lambda c: c.channel_id)
