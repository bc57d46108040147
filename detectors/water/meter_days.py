"""Totals of meters by the day: litres, hours with flow, and whether the day is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.contract import NEVER_US, BoolArray, FloatArray, IntArray, Rows
from detectors.water.meter_rows import METER_ROLE, Q3_M3PH, Increments, Registers, attribute_of, rounds
from underway.model import DAY_US, HOUR_US, Asset, Channel, Device

KNOWN_US = 20 * HOUR_US
"""A day is known when readings cover so much of it."""


@dataclass(frozen=True, slots=True)
class Days:
    """Days that ended, one a meter.

    Attributes
    ----------
    row : ndarray of int64, shape (m,)
        Number of the reading, in what was taken, that ended the day.
    meter, day : ndarray of int64, shape (m,)
        ``day`` counts from 1970, UTC.
    litres, flowing_h : ndarray of float64, shape (m,)
        Total, and hours in which something flowed.
    known : ndarray of bool, shape (m,)
        Covered by readings of one register; else the total says nothing.
    skipped : ndarray of int64, shape (m,)
        Days after it without any reading.
    skipped_still : ndarray of bool, shape (m,)
        Nothing flowed in all of them.
    """

    row: IntArray
    meter: IntArray
    day: IntArray
    litres: FloatArray
    flowing_h: FloatArray
    known: BoolArray
    skipped: IntArray
    skipped_still: BoolArray


class DayTotals:
    """Adds the readings of meters up to UTC days; a meter's day ends with its first reading of a later one.

    Parameters
    ----------
    channels : sequence of Channel
    devices, assets : mapping of str
        For ``q3_m3ph`` and ``register_max_m3``, see `Registers`.

    Notes
    -----
    What flowed between two readings on both sides of midnight is split by the time. Between readings with whole days between them, a total of
    nothing is known for each day; any other total is known for none.

    Examples
    --------
    >>> from underway.model import Quantity
    >>> meter = Channel(1, "m", "volume", Quantity.VOLUME, "m3", None, "z", METER_ROLE, 0, 1e6, 21600, 0.001)
    >>> totals, one = DayTotals([meter], {}, {}), np.array([0])
    >>> for step in range(9):
    ...     days, _ = totals.take(one, np.array([step * 6 * 3_600_000_000]), np.array([70 + 0.02 * step]))
    >>> days.day.tolist(), days.litres.round(6).tolist(), days.flowing_h.tolist(), days.known.tolist()
    ([1], [80.0], [24.0], [True])
    """

    ARRAYS = ("registers.last", "registers.at_us", "day", "litres", "flowing_us", "covered_us")

    def __init__(self, channels: Sequence[Channel], devices: Mapping[str, Device], assets: Mapping[str, Asset]) -> None:
        n = len(channels)
        q3 = np.array([attribute_of(c, devices, assets, "q3_m3ph") or Q3_M3PH for c in channels])
        roll = np.array([attribute_of(c, devices, assets, "register_max_m3") or 0.0 for c in channels])
        self.registers = Registers(channels, q3, roll)
        self.day = np.full(n, NEVER_US, np.int64)
        self.litres = np.zeros(n)
        self.flowing_us = np.zeros(n, np.int64)
        self.covered_us = np.zeros(n, np.int64)

    def take(self, meter: IntArray, at_us: IntArray, value: FloatArray) -> tuple[Days, Increments]:
        """Take one reading of each of some meters; return the days that ended with them, and the increments."""
        moved = self.registers.take(meter, at_us, value)
        day = at_us // DAY_US
        ended = (day > self.day[meter]) & (self.day[meter] != NEVER_US)
        span = moved.span_us
        covered = np.where(self.registers.is_flow[meter], np.minimum(span, self.registers.longest_us[meter]), span)
        sure = np.isfinite(moved.litres)
        litres, flows = np.where(sure, moved.litres, 0.0), sure & (moved.litres != 0.0)
        covered = np.where(sure, covered, 0)
        late = np.where(ended, np.minimum(at_us - day * DAY_US, span), span)
        before = np.where(ended, np.minimum((self.day[meter] + 1) * DAY_US - (at_us - span), span), 0)
        share = before / np.maximum(span, 1)
        skipped = np.where(ended, day - self.day[meter] - 1, 0)
        vague = (skipped > 0) & flows
        out = self._ended(
            meter, ended, np.where(vague, 0.0, litres * share), np.where(flows, before, 0), np.minimum(before, covered), vague, skipped
        )
        rest = np.where(ended, late / np.maximum(span, 1), 1.0)
        mine = meter[ended]
        self.litres[mine], self.flowing_us[mine], self.covered_us[mine] = 0.0, 0, 0
        self.litres[meter] += np.where(vague, 0.0, litres * rest)
        self.flowing_us[meter] += np.where(flows & ~vague, late, 0)
        self.covered_us[meter] += np.where(vague, 0, np.minimum(late, covered))
        self.day[meter] = np.maximum(self.day[meter], day)
        return out, moved

    def _ended(
        self,
        meter: IntArray,
        ended: BoolArray,
        litres: FloatArray,
        flowing: IntArray,
        covered: IntArray,
        vague: BoolArray,
        skipped: IntArray,
    ) -> Days:
        row = np.flatnonzero(ended)
        mine = meter[row]
        still = ~vague[row] & (covered[row] > 0)
        return Days(
            row,
            mine,
            self.day[mine],
            self.litres[mine] + litres[row],
            (self.flowing_us[mine] + flowing[row]) / HOUR_US,
            ~vague[row] & (self.covered_us[mine] + covered[row] >= KNOWN_US),
            skipped[row],
            still,
        )


def day_rounds(rows: Rows, clock_day: int) -> Iterator[tuple[int, IntArray]]:
    """Yield (newest day so far, rows of a round): whatever the batches, all rows before the newest day begins come before it.

    Parameters
    ----------
    rows : Rows
    clock_day : int
        Newest day that was seen before; `NEVER_US` when none was.
    """
    newest = np.maximum(np.maximum.accumulate(rows.at_us // DAY_US), clock_day)
    edges = np.flatnonzero(np.diff(newest)) + 1
    for part in np.split(np.arange(len(rows)), edges):
        for r in rounds(rows.column[part]):
            yield int(newest[part[0]]), part[r]


def meter_channels(channels: Sequence[Channel]) -> list[Channel]:
    """Return the registers and flows of customers; of a device that has both, the first."""
    first: dict[str, Channel] = {}
    for c in channels:
        if c.role == METER_ROLE:
            first.setdefault(c.device_id, c)
    return list(first.values())
