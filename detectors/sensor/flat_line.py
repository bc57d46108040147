"""Meters that stand still: the same value longer than resolution and history allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, IntArray, OutputWriter, Rows, no_output
from detectors.segments import Once, first_of_each
from detectors.snapshot import pack, unpack
from underway.model import (
    DAY_US,
    Channel,
    Driver,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    Signal,
    finding_id,
)

ROLES = (
    "zone_inflow",
    "tank_flow",
    "zone_pressure",
    "tank_level",
    "bridge_frequency",
    "bridge_temperature",
    "bridge_tilt",
    "roughness",
    "water_quality",
)
READINGS_MIN = 12
LEARN_DAYS = 3.0
LEARN_READINGS = 288
RUN_FACTOR = 3
CHANCE_MAX = 1e-9
CHANGES_TO_CLEAR = 3
CHANNELS_MAX = 50_000
"""Most channels of one such detector: it bounds its state."""


class FlatLine:
    """Find channels that repeat one value.

    Parameters
    ----------
    channels : sequence of Channel
        Channels whose value should move, see `ROLES`; level in a dry drain and rain are rightly flat.
    part : str
        Name of this part of the channels, in the key.

    Notes
    -----
    A run is a row of equal values. Learned of every channel: the longest run L that ended by itself, and the share p of readings that equal the one
    before. RAISE when the run is longer than ``max(12, 3 L, ln 1e-9 / ln p)`` readings, after 3 days and 288 readings in which it moved. So a
    closed valve that reads 0.0 every night is not stuck, and a meter with coarse steps gets the time that its steps ask for. CLEAR after 3 changes
    in a row of fresh readings. One finding a device: the first of its channels that stands still speaks. Cost about 0.2 us a
    reading in passes over all rows, and 5 us a reading of a channel that is stuck or may be. State 54 bytes a channel.

    Blind to: a meter that is stuck from the first day (it never moved: nothing says that it should), stuck with noise on top, frozen to a value
    that toggles between two neighbours.

    Examples
    --------
    Four days that move, then 20 readings of 41.7: found at the 13th repetition.

    >>> from underway.model import Quantity
    >>> meter = Channel(1, "fm-1", "flow", Quantity.FLOW, "m3/h", None, "z1", "zone_inflow", 0, 500, 300)
    >>> value = np.r_[np.random.default_rng(1).normal(40, 5, 4 * 288), np.full(20, 41.7)]
    >>> at = np.arange(len(value)) * 300_000_000
    >>> found = FlatLine([meter]).step(Rows(np.zeros(len(at), int), at, at, value, np.zeros(len(at), bool))).findings
    >>> [(f.kind.value, f.phase.value, f.detected_us // 300_000_000 - 4 * 288) for f in found]
    [('meter.stuck', 'raise', 13)]
    """

    name = "flat-line"
    version = "1"
    kinds = (FindingKind.METER_STUCK,)
    signals: tuple[Signal, ...] = ()

    warm_up_us = 4 * DAY_US

    def __init__(self, channels: Sequence[Channel], part: str = "all") -> None:
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.key = f"{self.name}@{self.version}/{part}"
        n = len(self.channels)
        self.state_bytes_max = 60 * n + 1000
        self.first_us = np.full(n, NEVER_US, np.int64)
        self.last = np.full(n, np.nan)
        self.run = np.zeros(n, np.int32)
        self.run_us = np.full(n, NEVER_US, np.int64)
        self.longest = np.zeros(n, np.int32)
        self.readings = np.zeros(n, np.int32)
        self.repeats = np.zeros(n, np.int32)
        self.stuck_us = np.full(n, NEVER_US, np.int64)
        self.stuck_live = np.zeros(n, np.bool_)
        self.changes = np.zeros(n, np.int8)
        number: dict[str, int] = {}
        self._once = Once(n)
        self._device = np.array([number.setdefault(c.device_id, len(number)) for c in channels], np.int32)
        self._stuck = 0

    def covers(self, hold: Hold) -> bool:
        """Return False: nothing here adapts to a fault, the longest run is learned only when it ends by itself."""
        return False

    def hold(self, hold: Hold) -> None:
        """Do nothing, see `covers`."""

    def tick(self, now_us: int) -> BankOutput:
        """Do nothing: silence is not standing still."""
        return no_output()

    def limit(self, number: int) -> int:
        """Return how many equal readings in a row of a channel are still possible."""
        share = min(max(self.repeats[number] + 1.0, 1.0) / (self.readings[number] + 2.0), 0.999)
        return int(max(READINGS_MIN, RUN_FACTOR * int(self.longest[number]), math.ceil(math.log(CHANCE_MAX) / math.log(share))))

    def step(self, rows: Rows) -> BankOutput:
        """Judge readings in order."""
        if self._once(rows.column):
            order = begin = np.arange(len(rows))
            count = np.ones(len(rows), np.int64)
            column, value, at = rows.column, rows.value, rows.at_us
            mine = column
            same = value == self.last[mine]
            run = np.where(same, self.run[mine] + 1, 0)
        else:
            order = np.argsort(rows.column, kind="stable")
            column, value, at = rows.column[order], rows.value[order], rows.at_us[order]
            begin = np.flatnonzero(first_of_each(column))
            count = np.diff(np.append(begin, len(column)))
            mine = column[begin]
            before = np.empty(len(value))
            before[1:] = value[:-1]
            before[begin] = self.last[mine]
            same = value == before
            run = self._runs(same, begin, count, mine)
        new = self.first_us[mine] == NEVER_US
        if new.any():
            self.first_us[mine[new]] = at[begin[new]]
        suspect = self._suspects(run, same, begin, mine, at)
        if not suspect.any():
            self._learn(slice(None), mine, value, at, same, run, begin, count)
            return no_output()
        quiet = ~suspect
        of_row = np.repeat(suspect, count)
        if quiet.any():
            rest = ~of_row
            width = count[quiet]
            self._learn(rest, mine[quiet], value, at, same, run, np.cumsum(width) - width, width)
        out = OutputWriter(())
        # a device's channels share one finding: what may be stuck is gone through in order of arrival
        for i in np.sort(order[of_row]).tolist():
            j, now = int(rows.column[i]), float(rows.value[i])
            self._reading(j, bool(now == self.last[j]), now, int(rows.at_us[i]), bool(rows.historical[i]), out)
            self.last[j] = now
        return out.output()

    def _runs(self, same: BoolArray, begin: IntArray, count: IntArray, mine: IntArray) -> IntArray:
        """Return how often the value of every row has been repeated."""
        place = np.arange(len(same))
        start = np.repeat(begin, count)
        change = np.maximum.accumulate(np.where(same, -1, place))
        return np.where(change >= start, place - change, np.repeat(self.run[mine], count) + (place - start) + 1)

    def _suspects(self, run: IntArray, same: BoolArray, begin: IntArray, mine: IntArray, at: IntArray) -> BoolArray:
        """Return which channels are stuck, or may be found stuck by these rows: the limit taken as low as it can be."""
        longest = np.maximum.reduceat(np.where(same, run, 0), begin)
        suspect = longest > np.maximum(READINGS_MIN, RUN_FACTOR * self.longest[mine])
        if suspect.any():
            count = np.diff(np.append(begin, len(run)))
            readings = self.readings[mine] + count
            share = np.minimum((self.repeats[mine] + 1.0) / (readings + 2.0), 0.999)
            suspect &= (readings >= LEARN_READINGS) & (longest > np.ceil(math.log(CHANCE_MAX) / np.log(share)) - 1)
        if self._stuck:
            suspect |= self.stuck_us[mine] != NEVER_US
        return suspect

    def _learn(
        self,
        part: BoolArray | slice,
        mine: IntArray,
        value: FloatArray,
        at: IntArray,
        same: BoolArray,
        run: IntArray,
        begin: IntArray,
        count: IntArray,
    ) -> None:
        """Take in the rows of channels that are not stuck; `begin` and `count` say where each has its own among the rows of `part`."""
        value, at, same, run = value[part], at[part], same[part], run[part]
        last = begin + count - 1
        ended = np.empty(len(run), np.int64)
        ended[1:] = run[:-1]
        ended[begin] = self.run[mine]
        self.longest[mine] = np.maximum(self.longest[mine], np.maximum.reduceat(np.where(same, 0, ended), begin))
        changed = np.maximum.reduceat(np.where(same, NEVER_US, at), begin)
        self.run_us[mine] = np.where(changed == NEVER_US, self.run_us[mine], changed)
        self.run[mine], self.last[mine] = run[last], value[last]
        self.readings[mine] += count.astype(np.int32)
        self.repeats[mine] += np.add.reduceat(same.astype(np.int32), begin)

    def _reading(self, j: int, same: bool, value: float, at: int, historical: bool, out: OutputWriter) -> None:
        stuck = self.stuck_us[j] != NEVER_US
        if same:
            self.run[j] += 1
            self.changes[j] = 0
            known = at - self.first_us[j] >= LEARN_DAYS * DAY_US and self.readings[j] >= LEARN_READINGS
            if not stuck and known and self.run[j] > self.limit(j):
                first = not self._others(j)
                self.stuck_us[j], self.stuck_live[j] = self.run_us[j], not historical
                self._stuck += 1
                if first:
                    self._emit(FindingPhase.RAISE, j, value, at, historical, out)
            elif stuck and not self.stuck_live[j] and not historical:
                self.stuck_live[j] = True
                self._emit(FindingPhase.RAISE, j, value, at, historical, out)
        else:
            if not stuck:
                self.longest[j] = max(self.longest[j], self.run[j])
            else:
                self.changes[j] += 1
                if self.changes[j] >= CHANGES_TO_CLEAR:
                    if not self._others(j):
                        self._emit(FindingPhase.CLEAR, j, value, at, historical, out)
                    self.stuck_us[j] = NEVER_US
                    self._stuck -= 1
                    self.changes[j] = 0
            self.run[j], self.run_us[j] = 0, at
        if self.stuck_us[j] == NEVER_US:
            self.readings[j] += 1
            self.repeats[j] += same

    def _others(self, j: int) -> bool:
        """Return whether another channel of the same device is stuck."""
        mates = self._device == self._device[j]
        mates[j] = False
        return bool((self.stuck_us[mates] != NEVER_US).any())

    def _emit(self, phase: FindingPhase, j: int, value: float, at: int, historical: bool, out: OutputWriter) -> None:
        channel, kind = self.channels[j], FindingKind.METER_STUCK
        asset_id, onset, unit = f"device:{channel.device_id}", int(self.stuck_us[j]), channel.device_unit
        count, limit = int(self.run[j]), self.limit(j)
        what = channel.quantity.value.replace("_", " ")
        if phase is FindingPhase.CLEAR:
            summary = f"The {what} of {channel.device_id} moves again"
        else:
            minutes = (at - onset) // 60_000_000
            summary = (
                f"The {what} of {channel.device_id} has stood at {value:g} for {count + 1} readings ({minutes} min); its longest run so far was "
                f"{int(self.longest[j]) + 1}"
            )
        evidence = Evidence(
            summary,
            float(count + 1),
            float(self.longest[j] + 1),
            0.0,
            float(limit + 1),
            "readings",
            float(count),
            float(limit),
            f"{self.name}@{self.version}/{channel.channel_id}",
            (Driver(channel.device_id, value, value, channel.resolution, unit, channel.channel_id),),
            (),
            {"device_id": channel.device_id, "channel": channel.name, "asset_id": channel.asset_id},
        )
        identity = finding_id(self.name, self.version, kind, phase, asset_id, onset, at)
        score = count / max(limit, 1)
        out.findings.append(
            Finding(identity, kind, phase, asset_id, channel.zone_id, self.name, self.version, score, onset, at, evidence, historical)
        )

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack({name: getattr(self, name) for name in _ARRAYS})

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        for name in _ARRAYS:
            setattr(self, name, s[name])
        self._stuck = int((self.stuck_us != NEVER_US).sum())

    def adopt(self, state: bytes, old: IntArray, new: IntArray) -> None:
        """Take over channels ``old`` of a state saved for other channels as channels ``new`` of this detector."""
        s = unpack(state)
        for name in _ARRAYS:
            getattr(self, name)[new] = s[name][old]
        self._stuck = int((self.stuck_us != NEVER_US).sum())


_ARRAYS = ("first_us", "last", "run", "run_us", "longest", "readings", "repeats", "stuck_us", "stuck_live", "changes")
