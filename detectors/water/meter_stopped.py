"""Meters that stopped: a customer who used water day by day, and then not one litre for longer than people are away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, IntArray, OutputWriter, Rows, no_output
from detectors.water.meter_days import Days, DayTotals, day_rounds
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

LENGTHS = np.array([2, 3, 4, 6, 8, 11, 14, 18, 22, 28, 36, 48, 64, 90, 128, 180])
"""Lengths of runs that are told apart, days."""
FALSE_A_YEAR = 0.1
"""Runs that ended by themselves and would have been found, a meter and year: the budget."""
KNOWN_DAYS = 60
USED_SHARE = 0.5
"""Share of the known days with use below which a meter says too little: homes that are mostly empty."""
OWN_FACTOR = 1.5
GENERAL_A_YEAR = np.array([8, 4, 2.5, 1.5, 1.0, 0.6, 0.35, 0.15, 0.06, 0.03, 0.02, 0.014, 0.01, 0.007, 0.004, 0.002])
"""Runs of at least those lengths a home and year, as far as nothing is known: holidays of two weeks are usual, of more than three rare."""
GENERAL_DAYS = 20 * 365.0
"""Days of homes that this guess counts as much as."""
AWAY_DAYS, AWAY_KNOWN_DAYS = 3, 30
AWAY_SHARE, AWAY_MEMORY_DAYS = 0.06, 180.0
"""Share of homes without use for three days, as far as nothing is known, and over how many days it is learned."""
PRIOR_DAYS = 365.0
"""Days of the others that count as much as the days of one's own."""
GROUPS = np.array([0.9, 0.6])
"""Customers are compared with those who use water as often: on 90 % of the days on which they are not away, on 60 %, on fewer."""
CLEAR_DAYS = 2


class MeterStopped(HeldColumnState):
    """Find meters that stand still although their customers would use water.

    Parameters
    ----------
    channels : sequence of Channel
        Registers or flows of customers.
    devices, assets : mapping of str
        By id; for the attributes of `DayTotals`.
    part : str
        Name of this part of the channels, in the key.

    Notes
    -----
    A run is a row of known days without any flow. Of every meter it is counted how many runs of at least 2, 3, 4, 6, .. 180 days ended by
    themselves. The rate of such runs is that of the meter, drawn towards that of the meters with days of use as often:
    ``r(L) = (own count + 365 g(L)) / (own days + 365)``, g the runs a day of the group, drawn in turn towards a general guess that counts as much
    as 20 years of one home. RAISE when the meter is known for 60 days, flowed on half of them, its run is 1.5 times as long as its longest one,
    and ``365 r(L) s <= 0.1``: so many false ones in a year a meter may raise; s, at least 1, is the share of homes that are away for three days
    now over what is usual, so that holidays have their season. CLEAR after two days with flow. A day that is not known ends the run
    without counting it. The rates of groups are looked at once a day.

    What is learned are runs that ended by themselves, also those that were found: else the rates would forget what people do. A run that ends
    while a hold is on is learned when the hold is released, unless as ``repaired``; one whose hold is released as ``cancelled`` (the home is empty)
    is quiet until something flows. Cost about 0.4 us a reading in passes over all channels; state 310 bytes a channel.

    Blind to: a meter at a home that is mostly empty, or was so for its first 60 days; a home that somebody left for longer than anybody before
    looks like a stopped meter, and only billing knows better; a meter that sticks and moves a little now and then; a meter that stopped before it
    was read. It cannot be faster than people are away.

    References
    ----------
    Counts drawn towards those of a group: Gelman et al. (2013), Bayesian Data Analysis, ch. 2.7.

    Examples
    --------
    Forty meters for 200 days with a weekend away now and then; the first one stops on day 150.

    >>> from underway.model import Quantity
    >>> rng = np.random.default_rng(1)
    >>> meters = [Channel(i, f"m-{i}", "v", Quantity.VOLUME, "m3", None, "z", "customer_meter", 0, 1e6, 86400, 0.001) for i in range(40)]
    >>> used = np.where((rng.random((200, 40)) < 0.05), 0.0, 0.2)
    >>> used[150:, 0] = 0.0
    >>> register, day = 5 + np.cumsum(used, axis=0), np.arange(200)
    >>> at = np.repeat(day, 40) * DAY_US
    >>> rows = Rows(np.tile(np.arange(40), 200), at, at, register.ravel(), np.zeros(8000, bool))
    >>> found = MeterStopped(meters, {}, {}).step(rows).findings
    >>> [(f.asset_id, f.kind.value, f.onset_us // DAY_US, f.detected_us // DAY_US) for f in found]
    [('device:m-0', 'meter.stopped', 149, 167)]
    """

    name = "meter-stopped"
    version = "1"
    kinds = (FindingKind.METER_STOPPED,)
    signals: tuple[Signal, ...] = ()
    warm_up_us = 150 * DAY_US
    ARRAYS = (
        *(f"totals.{name}" for name in DayTotals.ARRAYS), "ended", "days", "used", "run", "run_day", "longest", "rate", "open", "open_live",
        "onset_us", "moving", "dismissed", "mended", "away", "waiting", "clock_day", "usual", "season",
    )  # fmt: skip

    def __init__(self, channels: Sequence[Channel], devices: Mapping[str, Device], assets: Mapping[str, Asset], part: str = "all") -> None:
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.key = f"{self.name}@{self.version}/{part}"
        n = len(self.channels)
        self.state_bytes_max = 500 * n + 2000
        self.totals = DayTotals(channels, devices, assets)
        self.ended = np.zeros((n, len(LENGTHS)), np.int32)
        self.days, self.used = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.run, self.longest = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.run_day = np.full(n, NEVER_US, np.int64)
        self.rate = np.ones((n, len(LENGTHS)))
        self.open, self.open_live = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.onset_us = np.full(n, NEVER_US, np.int64)
        self.moving = np.zeros(n, np.int8)
        self.dismissed, self.mended = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.away = np.zeros(n, np.int32)
        self.waiting = np.zeros(n, np.int32)
        self.clock_day = np.full(n, NEVER_US, np.int64)
        self.usual, self.season = np.full(n, AWAY_SHARE), np.ones(n)
        self.holds = MeterHolds(channels)

    def hold(self, hold: Hold) -> None:
        """Learn no run of a meter that is held; take a run whose hold is cancelled for one that people make."""
        for j in self.holds.take(hold):
            if hold.verdict == "repaired":
                self.mended[j] = self.open[j]
            else:
                self._learn(np.array([j]), self.waiting[[j]])
                self.dismissed[j] |= self.open[j] and hold.verdict == "cancelled"
            self.waiting[j] = 0

    def tick(self, now_us: int) -> BankOutput:
        """Do nothing: silence is not standing still."""
        return no_output()

    def step(self, rows: Rows) -> BankOutput:
        """Take readings in order; judge a meter when its day is over."""
        out = OutputWriter(())
        for newest, r in day_rounds(rows, int(self.clock_day.max())):
            if newest > self.clock_day[0]:
                self._compare()
                self.clock_day[:] = newest
            days, _ = self.totals.take(rows.column[r], rows.at_us[r], rows.value[r])
            if len(days.row):
                self._days(days, rows.at_us[r][days.row], rows.historical[r][days.row], out)
        return out.output()

    def _compare(self) -> None:
        """Look at the rates of runs anew, of every meter and of those like it."""
        past = np.maximum(self.days - self.run, 0)
        share = self.used / np.maximum(past, 1)
        at_home = self.used / np.maximum(past - self.away, 1)
        group = (at_home[:, None] < GROUPS).sum(axis=1)
        for g in range(len(GROUPS) + 1):
            mine = group == g
            ended = self.ended[mine].sum(axis=0) + GENERAL_DAYS / 365.0 * GENERAL_A_YEAR
            rate = ended / (past[mine].sum() + GENERAL_DAYS)
            self.rate[mine] = (self.ended[mine] + PRIOR_DAYS * rate) / (past[mine, None] + PRIOR_DAYS)
        known = (past >= AWAY_KNOWN_DAYS) & (share >= USED_SHARE)
        away = float((self.run[known] >= AWAY_DAYS).mean()) if known.any() else AWAY_SHARE
        usual = float(self.usual.max())
        self.usual[:] = usual + (away - usual) / AWAY_MEMORY_DAYS
        self.season[:] = max(away / max(usual, AWAY_SHARE / 3.0), 1.0)

    def _days(self, days: Days, at: IntArray, historical: BoolArray, out: OutputWriter) -> None:
        meter, flows = days.meter, days.flowing_h > 0.0
        still = days.known & ~flows
        self._end(meter[days.known & flows])
        self.run[meter[~days.known]] = 0
        begins = still & (self.run[meter] == 0)
        self.run_day[meter] = np.where(begins, days.day, self.run_day[meter])
        self.run[meter] += still
        self.days[meter] += days.known
        self.used[meter] += days.known & flows
        self.moving[meter] = np.where(days.known, np.where(flows, np.minimum(self.moving[meter] + 1, CLEAR_DAYS), 0), self.moving[meter])
        gap = days.skipped > 0
        quiet = gap & days.skipped_still
        self.run_day[meter] = np.where(quiet & (self.run[meter] == 0), days.day + 1, self.run_day[meter])
        self.run[meter] = np.where(gap & ~quiet, 0, self.run[meter] + np.where(quiet, days.skipped, 0))
        self.days[meter] += np.where(quiet, days.skipped, 0).astype(np.int32)
        self.dismissed[meter] &= ~(days.known & flows)
        raised = self._stands(meter) & ~self.open[meter] & ~self.dismissed[meter]
        cleared = self.open[meter] & (self.moving[meter] >= CLEAR_DAYS)
        again = self.open[meter] & ~self.open_live[meter] & ~historical & still & ~cleared
        for i in np.flatnonzero(raised | cleared | again).tolist():
            self._tell(int(meter[i]), bool(cleared[i]), int(at[i]), bool(historical[i]), out)

    def _end(self, meter: IntArray) -> None:
        """Learn the runs that end with a day of flow by themselves: not after a repair, and while a hold is on only when it is released."""
        ran = meter[self.run[meter] > 0]
        held = self.holds.held[ran]
        self.waiting[ran] = np.where(held & ~self.mended[ran], np.maximum(self.waiting[ran], self.run[ran]), self.waiting[ran])
        free = ran[~held & ~self.mended[ran]]
        self._learn(free, self.run[free])
        self.run[meter] = 0

    def _learn(self, meter: IntArray, run: IntArray) -> None:
        self.ended[meter] += run[:, None] >= LENGTHS
        self.longest[meter] = np.maximum(self.longest[meter], run)
        self.away[meter] += np.where(run >= AWAY_DAYS, run, 0).astype(np.int32)

    def _stands(self, meter: IntArray) -> BoolArray:
        run = self.run[meter]
        past = self.days[meter] - run
        place = np.searchsorted(LENGTHS, run, side="right") - 1
        rare = (place >= 0) & (365.0 * self.rate[meter, np.maximum(place, 0)] * self.season[meter] <= FALSE_A_YEAR)
        used = self.used[meter] >= USED_SHARE * past
        return np.asarray(rare & (past >= KNOWN_DAYS) & used & (run >= OWN_FACTOR * self.longest[meter]), np.bool_)

    def _tell(self, j: int, cleared: bool, at: int, historical: bool, out: OutputWriter) -> None:
        if cleared:
            self._emit(FindingPhase.CLEAR, j, at, historical, out)
            self.open[j] = self.dismissed[j] = self.mended[j] = False
            return
        if not self.open[j]:
            self.open[j], self.onset_us[j] = True, int(self.run_day[j]) * DAY_US
        self.open_live[j] = not historical
        self._emit(FindingPhase.RAISE, j, at, historical, out)

    def _emit(self, phase: FindingPhase, j: int, at: int, historical: bool, out: OutputWriter) -> None:
        channel, kind, onset, run = self.channels[j], FindingKind.METER_STOPPED, int(self.onset_us[j]), int(self.run[j])
        place = max(int(np.searchsorted(LENGTHS, run, side="right")) - 1, 0)
        rate, past = 365.0 * float(self.rate[j, place] * self.season[j]), max(int(self.days[j]) - run, 1)
        share = self.used[j] / past
        if phase is FindingPhase.CLEAR:
            summary = f"Meter {channel.device_id} counts again"
        else:
            summary = (
                f"Meter {channel.device_id} has not counted for {run} days, since {from_us(onset):%d %b}; before, there was use on {share:.0%} of "
                f"{past} days, and the longest time without was {int(self.longest[j])} days"
            )
        asset_id = f"device:{channel.device_id}"
        evidence = Evidence(
            summary,
            float(run),
            float(self.longest[j]),
            0.0,
            OWN_FACTOR * float(self.longest[j]),
            "d",
            rate,
            FALSE_A_YEAR,
            f"{self.name}@{self.version}/{channel.channel_id}",
            (Driver(channel.device_id, float(run), float(self.longest[j]), 0.0, "d", channel.channel_id),),
            (),
            {
                "device_id": channel.device_id,
                "asset_id": channel.asset_id,
                "such_runs_a_year": round(rate, 4),
                "share_of_days_with_use": round(float(share), 3),
            },
        )  # fmt: skip
        identity = finding_id(self.name, self.version, kind, phase, asset_id, onset, at)
        score = FALSE_A_YEAR / max(rate, 1e-6)
        out.findings.append(
            Finding(identity, kind, phase, asset_id, channel.zone_id, self.name, self.version, score, onset, at, evidence, historical)
        )
