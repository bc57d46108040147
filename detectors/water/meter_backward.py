"""Meters that run backwards: mounted the wrong way round, or water that flows back into the main."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, IntArray, OutputWriter, Rows, no_output
from detectors.water.meter_rows import METER_ROLE, Q3_M3PH, ColumnState, Increments, Registers, attribute_of, rounds
from underway.model import (
    DAY_US,
    HOUR_US,
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

BULK_ROLE = "zone_inflow"
MOVES_MIN = 10
"""Readings that moved before a meter may be called backward."""
KNOWN_MOVES = 20
"""Readings that moved forwards before a fall can be backflow: the meter is known to be the right way round."""
BACK_SHARE = 0.95
BACK_L = 50.0
NEW_US = 6 * HOUR_US
"""Time since its first reading after which a meter that never ran forwards is called backward."""
TURNED_US = 3 * DAY_US
"""The same for one that ran forwards before."""
BACKFLOW_L = 20.0
STEPS_MIN = 3.0
ROUNDED_L = 1e-6
JITTER_FACTOR = 3.0
JITTER_L_MAX = 50.0
CLEAR_MOVES = 12
CLEAR_US = DAY_US
UPDATE_US = DAY_US

NONE, BACKWARD, BACKFLOW = 0, 1, 2
_KINDS = (None, FindingKind.METER_BACKWARD, FindingKind.BACKFLOW)


class MeterBackward(ColumnState):
    """Find meters that are mounted backwards, and water that flows back through a meter that is not.

    Parameters
    ----------
    channels : sequence of Channel
        Registers (m3) and flows (m3/h) of customer meters, and inflows of zones that have no zone on the other side.
    devices : mapping of str to Device
        By id; the attributes ``q3_m3ph`` and ``register_max_m3`` are read.
    assets : mapping of str to Asset
        By id; read where the device says nothing.
    part : str
        Name of this part of the channels, in the key.

    Notes
    -----
    Litres since the last reading come from `Registers`, which knows a register that rolls over and one that was replaced. ``D`` is what the
    register stands below its highest place: ``D = max(0, D - litres)``. BACKFLOW when ``D >= max(20 L, 3 steps of the register, 3 J)`` and at
    least 20 readings moved forwards before; J is the largest D that ended by itself (pressure that swings and water that warms up move a meter to
    and fro), at most 50 L. BACKWARD when of what moved since the register stood highest 95 % went backwards, at least 50 L in ten readings: six
    hours after the first reading of a meter that never ran forwards, after three days of another one, whose backflow is cleared then. Inflows of
    zones are only ever called backward, from their first reading on. CLEAR of a backflow after 12 readings that moved forwards and a day
    without a fall, of a backward meter after 12 readings in a row that moved forwards, or when it was replaced. What is learned (J) is learned only
    from falls below the limit, so that nothing adapts to a fault, held or not. Cost about 0.5 us a reading in passes over all channels; state 103
    bytes a channel.

    Blind to: water that flows back less than 20 L in all before the meter made it up; a meter with a check valve or a counter that does not count
    back; a meter turned round for nights only; a backward meter whose register counts up both ways; backflow during an outage that more forward
    flow hides; a replacement by a meter whose register stands close to the old one's.

    References
    ----------
    ISO 4064-1:2014, 4.2.7 (reverse flow); EN 1717 (protection against pollution by backflow).

    Examples
    --------
    Three days of 10 L an hour, then 15 L an hour flow back: found when 30 L are missing.

    >>> from underway.model import Quantity
    >>> meter = Channel(1, "m-1", "volume", Quantity.VOLUME, "m3", None, "z1", METER_ROLE, 0, 1e6, 3600, 0.001)
    >>> register = 500 + np.cumsum(np.r_[np.full(72, 0.010), np.full(6, -0.015)])
    >>> at = np.arange(78) * 3_600_000_000
    >>> found = MeterBackward([meter], {}, {}).step(Rows(np.zeros(78, int), at, at, register, np.zeros(78, bool))).findings
    >>> [(f.kind.value, f.phase.value, f.detected_us // 3_600_000_000 - 71, f.evidence.observed) for f in found]
    [('backflow', 'raise', 2, 0.03)]
    """

    name = "meter-backward"
    version = "1"
    kinds = (FindingKind.METER_BACKWARD, FindingKind.BACKFLOW)
    signals: tuple[Signal, ...] = ()
    warm_up_us = 14 * DAY_US
    ARRAYS = (
        "registers.last", "registers.at_us", "high_us", "fell_us", "fall_l", "total_l", "jitter_l", "ahead_l", "back_l", "moved_ahead",
        "moved_back", "in_row", "open", "open_live", "onset_us", "updated_us",
    )  # fmt: skip

    def __init__(self, channels: Sequence[Channel], devices: Mapping[str, Device], assets: Mapping[str, Asset], part: str = "all") -> None:
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.key = f"{self.name}@{self.version}/{part}"
        n = len(self.channels)
        self.state_bytes_max = 140 * n + 2000
        q3 = np.array([attribute_of(c, devices, assets, "q3_m3ph") or Q3_M3PH for c in channels])
        roll = np.array([attribute_of(c, devices, assets, "register_max_m3") or 0.0 for c in channels])
        self.registers = Registers(channels, q3, roll)
        self._bulk = np.array([c.role == BULK_ROLE for c in channels], np.bool_)
        self.high_us = np.full(n, NEVER_US, np.int64)
        self.fell_us = np.full(n, NEVER_US, np.int64)
        self.fall_l, self.total_l, self.jitter_l = np.zeros(n), np.zeros(n), np.zeros(n)
        self.ahead_l, self.back_l = np.zeros(n), np.zeros(n)
        self.moved_ahead, self.moved_back, self.in_row = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.open = np.zeros(n, np.int8)
        self.open_live = np.zeros(n, np.bool_)
        self.onset_us = np.full(n, NEVER_US, np.int64)
        self.updated_us = np.full(n, NEVER_US, np.int64)

    def covers(self, hold: Hold) -> bool:
        """Return False: nothing here adapts to a fault, see the class."""
        return False

    def hold(self, hold: Hold) -> None:
        """Do nothing, see `covers`."""

    def tick(self, now_us: int) -> BankOutput:
        """Do nothing: silence says nothing about the direction."""
        return no_output()

    def step(self, rows: Rows) -> BankOutput:
        """Judge readings in order."""
        out = OutputWriter(())
        for r in rounds(rows.column):
            self._round(rows.column[r], rows.at_us[r], rows.value[r], rows.historical[r], out)
        return out.output()

    def limit_l(self, meter: IntArray) -> FloatArray:
        """Return how far the register of some meters may fall, litres."""
        steps = np.where(self.registers.is_flow[meter], 0.0, STEPS_MIN * self.registers.step_l[meter])
        return np.maximum(np.maximum(BACKFLOW_L, steps), JITTER_FACTOR * self.jitter_l[meter])

    def _round(self, meter: IntArray, at: IntArray, value: FloatArray, historical: BoolArray, out: OutputWriter) -> None:
        moved = self.registers.take(meter, at, value)
        self._renew(meter, moved, at, historical, out)
        self._count(meter, moved, at)
        state = self.open[meter]
        backward, backflow = self._judge(meter, at)
        raised = np.where(backward, BACKWARD, np.where(backflow, BACKFLOW, state)).astype(np.int8)
        cleared = self._recovered(meter, at) & (state != NONE) & (raised == state)
        old = (at - self.updated_us[meter] >= UPDATE_US) & (self.fell_us[meter] > self.updated_us[meter])
        told = (raised != state) | cleared | ((state != NONE) & (old | (~self.open_live[meter] & ~historical)))
        for i in np.flatnonzero(told).tolist():
            self._tell(int(meter[i]), int(raised[i]), bool(cleared[i]), int(at[i]), bool(historical[i]), out)

    def _renew(self, meter: IntArray, moved: Increments, at: IntArray, historical: BoolArray, out: OutputWriter) -> None:
        """Begin anew with meters that were replaced, and with those that are seen for the first time."""
        new = moved.renewed | (self.high_us[meter] == NEVER_US)
        for i in np.flatnonzero(moved.renewed & (self.open[meter] != NONE)).tolist():
            self._close(int(meter[i]), int(at[i]), bool(historical[i]), out, " has a register that begins anew")
        begun = meter[new]
        self.high_us[begun] = at[new]
        for array in (self.fall_l, self.total_l, self.ahead_l, self.back_l, self.moved_ahead, self.moved_back, self.in_row):
            array[begun] = 0

    def _count(self, meter: IntArray, moved: Increments, at: IntArray) -> None:
        litres = np.where(np.isfinite(moved.litres), moved.litres, 0.0)
        ahead, back = litres > 0.0, litres < 0.0
        self.moved_ahead[meter] = np.minimum(self.moved_ahead[meter] + ahead, KNOWN_MOVES)
        self.moved_back[meter] = np.where(ahead, 0, np.minimum(self.moved_back[meter] + back, MOVES_MIN))
        self.in_row[meter] = np.where(back, 0, np.minimum(self.in_row[meter] + ahead, CLEAR_MOVES))
        self.fell_us[meter] = np.where(back, at, self.fell_us[meter])
        self.total_l[meter] -= np.where(back & (self.open[meter] != NONE), litres, 0.0)
        before = self.fall_l[meter]
        fall = before - litres
        fall = np.where(fall > ROUNDED_L, fall, 0.0)
        ended = (fall == 0.0) & (before > 0.0) & (self.open[meter] == NONE) & (before < self.limit_l(meter))
        self.jitter_l[meter] = np.where(ended, np.minimum(np.maximum(self.jitter_l[meter], before), JITTER_L_MAX), self.jitter_l[meter])
        self.fall_l[meter] = fall
        self.ahead_l[meter] = np.where(fall == 0.0, 0.0, self.ahead_l[meter] + np.where(ahead, litres, 0.0))
        self.back_l[meter] = np.where(fall == 0.0, 0.0, self.back_l[meter] - np.where(back, litres, 0.0))
        self.high_us[meter] = np.where(fall == 0.0, at, self.high_us[meter])

    def _judge(self, meter: IntArray, at: IntArray) -> tuple[BoolArray, BoolArray]:
        """Return which meters are found backward, and through which water flows back, that were not before."""
        state, back = self.open[meter], self.back_l[meter]
        known = self.moved_ahead[meter] >= KNOWN_MOVES
        mostly = (self.moved_back[meter] >= MOVES_MIN) & (back >= BACK_L) & (back >= BACK_SHARE * (back + self.ahead_l[meter]))
        long = at - self.high_us[meter] >= np.where(known, TURNED_US, NEW_US)
        backward = mostly & long & (state != BACKWARD) & ~(known & self._bulk[meter])
        flows = known & (self.fall_l[meter] >= self.limit_l(meter) - ROUNDED_L) & (state == NONE) & ~self._bulk[meter]
        return backward, flows & ~backward

    def _recovered(self, meter: IntArray, at: IntArray) -> BoolArray:
        calm = (self.open[meter] == BACKWARD) | (at - self.fell_us[meter] >= CLEAR_US)
        return np.asarray((self.in_row[meter] >= CLEAR_MOVES) & calm, np.bool_)

    def _tell(self, j: int, state: int, cleared: bool, at: int, historical: bool, out: OutputWriter) -> None:
        before = int(self.open[j])
        if cleared or (before != NONE and state != before):
            self._close(j, at, historical, out, " counts forwards again" if cleared else " runs backwards all the time")
        if cleared:
            return
        if state != before:
            self.open[j], self.open_live[j] = state, not historical
            self.onset_us[j] = self.high_us[j]
            self.total_l[j] = max(self.fall_l[j], self.back_l[j])
            phase = FindingPhase.RAISE
        elif not self.open_live[j] and not historical:
            self.open_live[j] = True
            phase = FindingPhase.RAISE
        else:
            phase = FindingPhase.UPDATE
        self.updated_us[j] = at
        self._emit(phase, j, at, historical, out, "")

    def _close(self, j: int, at: int, historical: bool, out: OutputWriter, why: str) -> None:
        self._emit(FindingPhase.CLEAR, j, at, historical, out, why)
        self.open[j], self.onset_us[j], self.fall_l[j], self.high_us[j] = NONE, NEVER_US, 0.0, at

    def _emit(self, phase: FindingPhase, j: int, at: int, historical: bool, out: OutputWriter, why: str) -> None:
        channel, kind = self.channels[j], _KINDS[self.open[j]]
        assert kind is not None
        asset_id, onset, total = f"device:{channel.device_id}", int(self.onset_us[j]), float(self.total_l[j])
        limit = float(self.limit_l(np.array([j]))[0]) if kind is FindingKind.BACKFLOW else BACK_L
        if phase is FindingPhase.CLEAR:
            summary = f"Meter {channel.device_id}{why}"
        else:
            what = "Water flows back through meter" if kind is FindingKind.BACKFLOW else "All water goes backwards through meter"
            summary = f"{what} {channel.device_id}: {total:.0f} L since {from_us(onset):%d %b %H:%M} UTC"
        share = float(self.back_l[j] / max(self.back_l[j] + self.ahead_l[j], 1e-9))
        evidence = Evidence(
            summary,
            round(total / 1000.0, 6),
            0.0,
            0.0,
            limit / 1000.0,
            "m3",
            total,
            limit,
            f"{self.name}@{self.version}/{channel.channel_id}",
            (Driver(channel.device_id, round(-total / 1000.0, 6), 0.0, limit / 3000.0, "m3", channel.channel_id),),
            (),
            {
                "device_id": channel.device_id,
                "asset_id": channel.asset_id,
                "share_backwards": round(share, 3),
                "register": float(self.registers.last[j]),
            },
        )
        identity = finding_id(self.name, self.version, kind, phase, asset_id, onset, at)
        out.findings.append(
            Finding(
                identity, kind, phase, asset_id, channel.zone_id, self.name, self.version, total / limit, onset, at, evidence, historical
            )
        )


def backward_channels(channels: Sequence[Channel]) -> list[Channel]:
    """Return the channels that have a direction: customer meters, and inflows of zones with no zone on the other side."""
    return [c for c in channels if c.role == METER_ROLE or (c.role == BULK_ROLE and c.also_zone_id is None)]
