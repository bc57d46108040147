"""Meters that stand still: the same value longer than resolution and history allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detectors.contract import BankOutput, BoolArray, FloatArray, IntArray, OutputWriter, Rows, no_output
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

ROLES = ("zone_inflow", "tank_flow", "zone_pressure", "tank_level", "bridge_frequency", "bridge_temperature", "bridge_tilt", "roughness")
READINGS_MIN = 12
LEARN_DAYS = 3.0
LEARN_READINGS = 288
RUN_FACTOR = 3
CHANCE_MAX = 1e-9
CHANGES_TO_CLEAR = 3
NEVER_US = -(2**62)


class FlatLine:
    """Find channels that repeat one value.

    Parameters
    ----------
    channels : sequence of Channel
        Channels whose value should move, see `ROLES`; level in a dry drain and rain are rightly flat.

    Notes
    -----
    A run is a row of equal values. Learned of every channel: the longest run L that ended by itself, and the share p of readings that equal the one
    before. RAISE when the run is longer than ``max(12, 3 L, ln 1e-9 / ln p)`` readings, after 3 days and 288 readings in which it moved. So a
    closed valve that reads 0.0 every night is not stuck, and a meter with coarse steps gets the time that its steps ask for. CLEAR after 3 changes
    in a row of fresh readings. One finding a device: the first of its channels that stands still speaks. Cost about 1 us a
    reading. State 10 numbers a channel.

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

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.key = f"{self.name}@{self.version}/all"
        n = len(self.channels)
        self.state_bytes_max = 200 * n + 1000
        self.first_us = np.full(n, NEVER_US, np.int64)
        self.last = np.full(n, np.nan)
        self.run = np.zeros(n, np.int64)
        self.run_us = np.full(n, NEVER_US, np.int64)
        self.longest = np.zeros(n, np.int64)
        self.readings = np.zeros(n, np.int64)
        self.repeats = np.zeros(n, np.int64)
        self.stuck_us = np.full(n, NEVER_US, np.int64)
        self.stuck_live = np.zeros(n, np.bool_)
        self.changes = np.zeros(n, np.int64)
        devices = list(dict.fromkeys(c.device_id for c in channels))
        self._device = np.array([devices.index(c.device_id) for c in channels], np.int64)

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
        out = OutputWriter(())
        order = np.argsort(rows.column, kind="stable")
        column = rows.column[order]
        edges = np.flatnonzero(np.r_[True, column[1:] != column[:-1], True])
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            index = order[start:end]
            self._channel(int(column[start]), rows.value[index], rows.at_us[index], rows.historical[index], out)
        return out.output()

    def _channel(self, j: int, value: FloatArray, at: IntArray, historical: BoolArray, out: OutputWriter) -> None:
        if self.first_us[j] == NEVER_US:
            self.first_us[j] = at[0]
        same = value == np.r_[self.last[j], value[:-1]]
        self.last[j] = value[-1]
        place = np.arange(len(value))
        change = np.maximum.accumulate(np.where(same, -1, place))
        run = np.where(change >= 0, place - change, self.run[j] + place + 1)
        if self.stuck_us[j] == NEVER_US and run.max() < READINGS_MIN:
            # the common case, all at once: no run is long enough to matter
            ended = np.r_[self.run[j], run[:-1]][~same]
            self.longest[j] = max(int(self.longest[j]), int(ended.max(initial=0)))
            self.run[j] = run[-1]
            if change[-1] >= 0:
                self.run_us[j] = at[change[-1]]
            self.readings[j] += len(value)
            self.repeats[j] += int(same.sum())
            return
        for i in range(len(value)):
            self._reading(j, bool(same[i]), float(value[i]), int(at[i]), bool(historical[i]), out)
            if self.stuck_us[j] == NEVER_US:
                self.readings[j] += 1
                self.repeats[j] += int(same[i])

    def _reading(self, j: int, same: bool, value: float, at: int, historical: bool, out: OutputWriter) -> None:
        if same:
            self.run[j] += 1
            self.changes[j] = 0
            known = self.first_us[j] != NEVER_US and at - self.first_us[j] >= LEARN_DAYS * DAY_US and self.readings[j] >= LEARN_READINGS
            if self.stuck_us[j] == NEVER_US:
                if known and self.run[j] > self.limit(j):
                    first = not self._others(j)
                    self.stuck_us[j], self.stuck_live[j] = self.run_us[j], not historical
                    if first:
                        self._emit(FindingPhase.RAISE, j, value, at, historical, out)
            elif not self.stuck_live[j] and not historical:
                self.stuck_live[j] = True
                self._emit(FindingPhase.RAISE, j, value, at, historical, out)
            return
        if self.stuck_us[j] == NEVER_US:
            self.longest[j] = max(self.longest[j], self.run[j])
        else:
            self.changes[j] += 1
            if self.changes[j] >= CHANGES_TO_CLEAR:
                if not self._others(j):
                    self._emit(FindingPhase.CLEAR, j, value, at, historical, out)
                self.stuck_us[j] = NEVER_US
                self.changes[j] = 0
        self.run[j], self.run_us[j] = 0, at

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


_ARRAYS = ("first_us", "last", "run", "run_us", "longest", "readings", "repeats", "stuck_us", "stuck_live", "changes")
