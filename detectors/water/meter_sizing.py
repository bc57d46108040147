"""Meters that are too large or too small for what flows through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, IntArray, OutputWriter, Rows, no_output
from detectors.water.meter_rows import METER_ROLE, ColumnState, Registers, attribute_of, rounds
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
)

ROLES = (METER_ROLE, "zone_inflow")
WEEK_US = 7 * DAY_US
WEEKS = 4
COVERED_SHARE = 0.8
"""Share of a week that readings must cover."""
STEADY_S_MAX = 900.0
"""The mean of a longer interval says nothing about low flows."""
RUN_SHARE = 0.7
"""So much of the time with flow must follow an interval with flow, else means of intervals are no flows but single uses of a household."""
LOW_VOLUME_SHARE = 0.05
NEAR_SHARE = 0.001
NEAR_Q3 = 0.5
ABOVE_SHARE = 0.01
KEEP = 0.7
"""A condition ends when what raised it falls below this share of its limit."""
Q2_TO_Q1, Q4_TO_Q3 = 1.6, 1.25
ERROR_Q1, ERROR_START = -0.05, -0.8
START_TO_Q1 = 0.5

NONE, OVER, UNDER = 0, 1, 2
_KINDS = (None, FindingKind.METER_OVERSIZED, FindingKind.METER_UNDERSIZED)
# what is added up of every week
HOURS, FLOWING_H, RUN_H, NEAR_H, ABOVE_H, VOLUME_L, LOW_L, LOST_L = range(8)
SUMS = 8


class MeterSizing(ColumnState):
    """Find meters whose flows lie below what they can measure, or above what they can bear.

    Parameters
    ----------
    channels : sequence of Channel
        Registers or flows of meters whose device or asset has ``q3_m3ph`` and ``ratio_r``, see `sizing_channels`.
    devices, assets : mapping of str
        By id; the attributes are read from the device, else from the asset.
    part : str
        Name of this part of the channels, in the key.

    Notes
    -----
    With Q3 the permanent flow and R its ratio: ``Q1 = Q3 / R``, ``Q2 = 1.6 Q1``, ``Q4 = 1.25 Q3``. The flow of an interval is the litres since the
    last reading over its time. Over four weeks, each covered to 80 %: OVERSIZED when at least 5 % of the volume came at flows below Q2, and at
    most 0.1 % of the time was above Q3 / 2; only for intervals of at most 15 min, a step that is smaller than Q1 times the interval, and a meter
    whose flow comes in long runs (70 % of the time with flow follows an interval with flow), for only then is the mean of an interval a flow.
    UNDERSIZED when at least 1 % of the time was above Q3, for any interval. CLEAR when what raised it is below 0.7 of its limit. Judged once a
    week. Nothing is learned, so nothing can be absorbed.

    Volume that was not registered: below Q1 a worn or large meter counts less and less; the error is taken as -5 % at Q1 and -80 % at Q1 / 2,
    linear in the logarithm of the flow, -5 % to -2 % up to Q2. On top, at most ``Q1 / 2`` for the time that the meter showed nothing. Cost about 0.4
    us a reading in passes over all channels; state about 360 bytes a channel.

    Blind to: households (single uses, seen as means of minutes or hours), for being oversized; peaks shorter than the interval; a meter whose
    attributes are wrong; a meter so oversized that what it still shows comes in single intervals; seasons shorter than four weeks.

    References
    ----------
    ISO 4064-1:2014, 3.3 and 4.1 (Q1 to Q4, preferred values of R), OIML R 49-1:2013.

    Examples
    --------
    Five weeks of 0.3 to 0.5 m3/h through a meter made for 63 m3/h with R = 80 (Q1 = 0.79 m3/h): everything flows below Q2.

    >>> from datetime import UTC, datetime
    >>> from underway.model import Quantity
    >>> box = Device("m-1", "t", "z1", None, "", "native", datetime(2026, 1, 1, tzinfo=UTC), attributes={"q3_m3ph": 63, "ratio_r": 80})
    >>> meter = Channel(1, "m-1", "flow", Quantity.FLOW, "m3/h", None, "z1", METER_ROLE, 0, 500, 900, 0.01)
    >>> at = np.arange(35 * 96) * 900_000_000
    >>> flow = 0.4 + 0.1 * np.sin(2 * np.pi * at / DAY_US)
    >>> rows = Rows(np.zeros(len(at), int), at, at, flow, np.zeros(len(at), bool))
    >>> found = MeterSizing([meter], {"m-1": box}, {}).step(rows).findings
    >>> [(f.kind.value, f.phase.value, f.evidence.observed) for f in found]
    [('meter.oversized', 'raise', 1.0)]
    """

    name = "meter-sizing"
    version = "1"
    kinds = (FindingKind.METER_OVERSIZED, FindingKind.METER_UNDERSIZED)
    signals: tuple[Signal, ...] = ()
    warm_up_us = (WEEKS + 1) * WEEK_US
    ARRAYS = ("registers.last", "registers.at_us", "sums", "flowed", "week", "open", "open_live", "onset_us")

    def __init__(self, channels: Sequence[Channel], devices: Mapping[str, Device], assets: Mapping[str, Asset], part: str = "all") -> None:
        self.channels = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        self.key = f"{self.name}@{self.version}/{part}"
        n = len(self.channels)
        self.state_bytes_max = 460 * n + 1000
        q3 = np.array([attribute_of(c, devices, assets, "q3_m3ph") or np.nan for c in channels])
        ratio = np.array([attribute_of(c, devices, assets, "ratio_r") or np.nan for c in channels])
        roll = np.array([attribute_of(c, devices, assets, "register_max_m3") or 0.0 for c in channels])
        self.registers = Registers(channels, q3 * 4.0, roll)  # an undersized meter passes more than its Q4
        self.q3_lph = 1000.0 * q3
        self.q1_lph = self.q3_lph / ratio
        hours = np.array([c.interval_s for c in channels]) / 3600.0
        step_lph = np.where(self.registers.is_flow, self.registers.step_l, self.registers.step_l / hours)
        self._fine = (hours * 3600.0 <= STEADY_S_MAX) & (step_lph < self.q1_lph)
        self.sums = np.zeros((n, WEEKS + 1, SUMS))
        self.flowed = np.zeros(n, np.bool_)
        self.week = np.full(n, NEVER_US, np.int64)
        self.open = np.zeros(n, np.int8)
        self.open_live = np.zeros(n, np.bool_)
        self.onset_us = np.full(n, NEVER_US, np.int64)

    def covers(self, hold: Hold) -> bool:
        """Return False: nothing is learned."""
        return False

    def hold(self, hold: Hold) -> None:
        """Do nothing, see `covers`."""

    def tick(self, now_us: int) -> BankOutput:
        """Do nothing: a week is judged when a reading of the next one comes."""
        return no_output()

    def step(self, rows: Rows) -> BankOutput:
        """Take readings in order; judge a meter when its week is over."""
        out = OutputWriter(())
        for r in rounds(rows.column):
            self._round(rows.column[r], rows.at_us[r], rows.value[r], rows.historical[r], out)
        return out.output()

    def _round(self, meter: IntArray, at: IntArray, value: FloatArray, historical: BoolArray, out: OutputWriter) -> None:
        moved = self.registers.take(meter, at, value)
        week = at // WEEK_US
        for i in np.flatnonzero((week > self.week[meter]) & (self.week[meter] != NEVER_US)).tolist():
            j = int(meter[i])
            self._judge(j, int(at[i]), bool(historical[i]), out)
            ahead = min(int(week[i] - self.week[j]), WEEKS + 1)
            self.sums[j] = np.concatenate((np.zeros((ahead, SUMS)), self.sums[j]))[: WEEKS + 1]
        self.week[meter] = np.maximum(self.week[meter], week)
        known = np.isfinite(moved.litres) & (moved.span_us > 0) & (moved.span_us <= self.registers.longest_us[meter])
        mine, hours, litres = meter[known], moved.span_us[known] / HOUR_US, np.abs(moved.litres[known])
        flow, q1, q3 = litres / hours, self.q1_lph[mine], self.q3_lph[mine]
        low = (flow > 0.0) & (flow < Q2_TO_Q1 * q1)
        more = np.zeros((len(mine), SUMS))
        more[:, HOURS] = hours
        more[:, FLOWING_H] = hours * (flow > 0.0)
        more[:, RUN_H] = hours * ((flow > 0.0) & self.flowed[mine])
        more[:, NEAR_H] = hours * (flow > NEAR_Q3 * q3)
        more[:, ABOVE_H] = hours * (flow > q3)
        more[:, VOLUME_L] = litres
        more[:, LOW_L] = litres * low
        more[:, LOST_L] = np.where(low, litres * _lost(flow, q1), 0.0)
        self.sums[mine, 0] += more
        self.flowed[meter] = False
        self.flowed[mine] = flow > 0.0

    def _judge(self, j: int, at: int, historical: bool, out: OutputWriter) -> None:
        weeks = self.sums[j, :WEEKS]
        if (weeks[:, HOURS] < COVERED_SHARE * 168.0).any() or weeks[:, VOLUME_L].sum() <= 0.0:
            return
        total = weeks.sum(axis=0)
        low, near, above = total[LOW_L] / total[VOLUME_L], total[NEAR_H] / total[HOURS], total[ABOVE_H] / total[HOURS]
        steady = bool(self._fine[j]) and total[RUN_H] >= RUN_SHARE * total[FLOWING_H]
        factor = {state: KEEP if self.open[j] == state else 1.0 for state in (OVER, UNDER)}
        if above >= ABOVE_SHARE * factor[UNDER]:
            found = UNDER
        elif steady and low >= LOW_VOLUME_SHARE * factor[OVER] and near <= NEAR_SHARE / factor[OVER]:
            found = OVER
        else:
            found = NONE
        before = int(self.open[j])
        if before not in (NONE, found):
            self._emit(FindingPhase.CLEAR, j, total, at, historical, out)
            self.open[j], before = NONE, NONE
        if found != NONE and (before == NONE or (not historical and not self.open_live[j])):
            if before == NONE:
                self.open[j], self.onset_us[j] = found, (int(self.week[j]) - WEEKS + 1) * WEEK_US
            self.open_live[j] = not historical
            self._emit(FindingPhase.RAISE, j, total, at, historical, out)

    def _emit(self, phase: FindingPhase, j: int, total: FloatArray, at: int, historical: bool, out: OutputWriter) -> None:
        channel, kind = self.channels[j], _KINDS[self.open[j]]
        assert kind is not None
        over = kind is FindingKind.METER_OVERSIZED
        observed = float(total[LOW_L] / total[VOLUME_L] if over else total[ABOVE_H] / total[HOURS])
        limit = LOW_VOLUME_SHARE if over else ABOVE_SHARE
        q1, q3 = self.q1_lph[j] / 1000.0, self.q3_lph[j] / 1000.0
        start = START_TO_Q1 * self.q1_lph[j]
        still_h = float(total[HOURS] - total[FLOWING_H])
        lost, more = float(total[LOST_L]) / 1000.0, still_h * start / 1000.0
        volume = float(total[VOLUME_L]) / 1000.0
        what = f"{observed:.0%} of the volume of meter {channel.device_id} came below {Q2_TO_Q1 * q1:.3g} m3/h (Q2)"
        if not over:
            what = f"Meter {channel.device_id} ran above its permanent flow of {q3:g} m3/h for {observed:.1%} of the time"
        tail = (
            f"; an estimated {lost:.0f} m3 beside {volume:.0f} m3 were not registered, and at most {more:.0f} m3 while it stood"
            if over
            else ""
        )
        summary = f"{what} in four weeks{tail}" if phase is FindingPhase.RAISE else f"Meter {channel.device_id} fits its flows again"
        evidence = Evidence(
            summary,
            round(observed, 4),
            0.0,
            0.0,
            limit,
            "1",
            observed,
            limit,
            f"{self.name}@{self.version}/{channel.channel_id}",
            (Driver(channel.device_id, round(observed, 4), 0.0, limit / 3.0, "1", channel.channel_id),),
            (),
            {
                "device_id": channel.device_id,
                "asset_id": channel.asset_id,
                "q1_m3ph": round(q1, 5),
                "q2_m3ph": round(Q2_TO_Q1 * q1, 5),
                "q3_m3ph": q3,
                "q4_m3ph": Q4_TO_Q3 * q3,
                "volume_m3": round(volume, 3),
                "unregistered_m3": round(lost, 3),
                "unregistered_m3_at_most": round(lost + more, 3),
                "hours_above_half_q3": round(float(total[NEAR_H]), 2),
            },
        )
        onset = int(self.onset_us[j])
        identity = finding_id(self.name, self.version, kind, phase, f"device:{channel.device_id}", onset, at)
        out.findings.append(
            Finding(
                identity,
                kind,
                phase,
                f"device:{channel.device_id}",
                channel.zone_id,
                self.name,
                self.version,
                observed / limit,
                onset,
                at,
                evidence,
                historical,
            )
        )


def _lost(flow_lph: FloatArray, q1_lph: FloatArray) -> FloatArray:
    """Return litres not registered for each that was, at flows below Q2.

    Examples
    --------
    At Q1 the error is -5 %: 1 L shown, 0.05 / 0.95 L missed.

    >>> _lost(np.array([100.0]), np.array([100.0])).round(4).tolist()
    [0.0526]
    """
    x = np.log(np.maximum(flow_lph / q1_lph, 1e-6))
    below = ERROR_Q1 + (ERROR_START - ERROR_Q1) * np.minimum(x / np.log(START_TO_Q1), 1.0)
    above = ERROR_Q1 + 0.03 * np.minimum(x / np.log(Q2_TO_Q1), 1.0)
    error = np.where(x < 0.0, below, above)
    return np.asarray(-error / (1.0 + error), np.float64)


def sizing_channels(channels: Sequence[Channel], devices: Mapping[str, Device], assets: Mapping[str, Asset]) -> list[Channel]:
    """Return the channels of meters whose Q3 and R are known."""
    return [c for c in channels if c.role in ROLES and all(attribute_of(c, devices, assets, name) for name in ("q3_m3ph", "ratio_r"))]
