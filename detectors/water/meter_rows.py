"""What detectors of meters share: rows in rounds, registers to increments, and state by columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from detectors.contract import NEVER_US, BoolArray, FloatArray, IntArray
from detectors.segments import first_of_each
from detectors.snapshot import pack, unpack
from underway.model import HOUR_US, Asset, Channel, Device, Hold, Quantity

METER_ROLE = "customer_meter"
Q3_M3PH = 2.5
"""Permanent flow where nobody said one: the usual meter of a household."""
GAP_INTERVALS = 2.0
"""A flow is taken to last for this many intervals at most; what was before a longer gap nobody knows."""
CAP_FACTOR = 1.2
RISE_LPH = 125_000.0
"""A rise is believed up to this flow for any meter: one without attributes may be a large one."""


def rounds(column: IntArray) -> Iterator[IntArray]:
    """Yield rows so that each column comes at most once a round, its rows in their order.

    Examples
    --------
    >>> [r.tolist() for r in rounds(np.array([4, 7, 4, 4, 9]))]
    [[0, 1, 4], [2], [3]]
    """
    order = np.argsort(column, kind="stable")
    begin = np.flatnonzero(first_of_each(column[order]))
    rank = np.arange(len(column)) - np.repeat(begin, np.diff(np.append(begin, len(column))))
    place = np.empty(len(column), np.int64)
    place[order] = rank
    by_rank = np.argsort(place, kind="stable")
    count = np.bincount(place) if len(place) else np.empty(0, np.int64)
    ends = np.cumsum(count)
    for first, last in zip(ends - count, ends, strict=True):
        yield by_rank[first:last]


def attribute_of(channel: Channel, devices: Mapping[str, Device], assets: Mapping[str, Asset], name: str) -> float | None:
    """Return a number above 0 that the device of a channel, else its asset, has as an attribute; None where there is none."""
    device, asset = devices.get(channel.device_id), assets.get(channel.asset_id or "")
    for holder in (device, asset):
        value = None if holder is None else holder.attributes.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < np.inf:
            return float(value)
    return None


@dataclass(frozen=True, slots=True)
class Increments:
    """What went through some meters since their last reading.

    Attributes
    ----------
    litres : ndarray of float64, shape (m,)
        Negative: backwards; NaN where nothing can be said (the first reading, a new register).
    span_us : ndarray of int64, shape (m,)
        Since the last reading; 0 at the first one.
    renewed : ndarray of bool, shape (m,)
        A register that went on at another place: the meter was replaced, or reset.
    """

    litres: FloatArray
    span_us: IntArray
    renewed: BoolArray


class Registers:
    """Turns readings of registers (m3) and of flows (m3/h) into litres since the last reading, channel by channel.

    Parameters
    ----------
    channels : sequence of Channel
        Of the quantity volume or flow.
    q3_m3ph : ndarray of float64, shape (n,)
        Permanent flow of each meter, m3/h.
    roll_m3 : ndarray of float64, shape (n,)
        Where a register begins anew at 0, m3; 0: at the power of ten above what it shows.

    Notes
    -----
    A meter cannot pass more than ``Q4 = 1.25 Q3`` (ISO 4064-1) for long: a register that falls by more than 1.2 times that since its last reading
    did not count water, nor one that rises by more than 150 m3/h (a meter without attributes may be a large one). When it moves so after going
    over its end it *rolled over*, forwards or backwards, and the range is taken off. Else, and also when it falls to less than a fiftieth of what
    it showed, it was *renewed*: replaced or reset. A reading of flow stands for the time since the one before, at most two intervals.

    Blind to a replacement by a meter whose register stands within reach of the old one, and to one during an outage so long that the fall could
    be water, unless it falls to about 0.

    Examples
    --------
    A register of five digits at 99,999.9 m3 and 0.2 m3 an hour later: 300 L.

    >>> meter = Channel(1, "m", "volume", Quantity.VOLUME, "m3", None, "z", METER_ROLE, 0, 1e6, 3600, 0.001)
    >>> registers = Registers([meter], np.array([2.5]), np.array([0.0]))
    >>> one = np.array([0])
    >>> _ = registers.take(one, np.array([0]), np.array([99_999.9]))
    >>> registers.take(one, np.array([3_600_000_000]), np.array([0.2])).litres.round(3).tolist()
    [300.0]
    """

    def __init__(self, channels: Sequence[Channel], q3_m3ph: FloatArray, roll_m3: FloatArray) -> None:
        n = len(channels)
        self.q4_lph = 1250.0 * q3_m3ph
        self.is_flow = np.array([c.quantity is Quantity.FLOW for c in channels], np.bool_)
        self.step_l = np.array([1000.0 * c.resolution for c in channels])
        self.longest_us = np.array([round(GAP_INTERVALS * c.interval_s * 1e6) for c in channels], np.int64)
        self.roll_m3 = roll_m3
        self.last = np.full(n, np.nan)
        self.at_us = np.full(n, NEVER_US, np.int64)

    def take(self, meter: IntArray, at_us: IntArray, value: FloatArray) -> Increments:
        """Take one reading of each of some meters; `meter` holds no number twice."""
        before, last = self.at_us[meter], self.last[meter]
        first = before == NEVER_US
        span = np.where(first, 0, at_us - before)
        hours = span / HOUR_US
        flowing = self.is_flow[meter]
        litres = np.where(flowing, value * 1000.0 * np.minimum(span, self.longest_us[meter]) / HOUR_US, (value - last) * 1000.0)
        cap = CAP_FACTOR * self.q4_lph[meter] * hours + 2.0 * self.step_l[meter]
        rise = np.maximum(cap, CAP_FACTOR * RISE_LPH * np.minimum(hours, 24.0))
        jumped = ~flowing & ((litres < -cap) | (litres > rise))
        if jumped.any():
            roll = self.roll_m3[meter]
            tens = 10.0 ** np.ceil(np.log10(np.maximum(np.maximum(value, last), 1.0) + 1e-9))
            roll = np.where(roll > 0.0, roll, tens) * 1000.0
            litres = np.where(jumped & (litres < 0) & (np.abs(litres + roll) <= cap), litres + roll, litres)
            litres = np.where(jumped & (litres > 0) & (np.abs(litres - roll) <= cap), litres - roll, litres)
            jumped &= np.abs(litres) > cap
        renewed = jumped | (~flowing & (litres < 0) & (value <= last / 50.0) & (last >= 1.0))
        self.last[meter], self.at_us[meter] = value, at_us
        return Increments(np.where(first | renewed, np.nan, litres), span, renewed)


class MeterHolds:
    """Which holds are on which meters: on the device, or on the asset that it stands at."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._of: dict[str, list[int]] = {}
        for j, c in enumerate(channels):
            self._of.setdefault(f"device:{c.device_id}", []).append(j)
            if c.asset_id is not None:
                self._of.setdefault(c.asset_id, []).append(j)
        self._meters: dict[int, list[int]] = {}
        self.held = np.zeros(len(channels), np.bool_)

    def of(self, hold: Hold) -> list[int]:
        """Return the meters that a hold is on."""
        return self._of.get(hold.asset_id, [])

    def take(self, hold: Hold) -> list[int]:
        """Note a hold or its release; return the meters that no hold is on any more. Telling twice changes nothing."""
        if hold.released_us is None:
            self._meters.setdefault(hold.hold_id, list(self.of(hold)))
            self._mark()
            return []
        freed = self._meters.pop(hold.hold_id, [])
        self._mark()
        return [j for j in freed if not self.held[j]]

    def _mark(self) -> None:
        self.held[:] = False
        for meters in self._meters.values():
            self.held[meters] = True

    def state(self) -> list[list[int]]:
        """Return pairs of hold and meter."""
        return [[i, j] for i, meters in sorted(self._meters.items()) for j in meters]

    def restore(self, pairs: list[list[int]], moved: Mapping[int, int] | None = None) -> None:
        """Take back what `state` returned; `moved` says which meter each is now, when the meters are others."""
        for i, j in pairs:
            to = j if moved is None else moved.get(j)
            if to is not None:
                self._meters.setdefault(i, []).append(to)
        self._mark()


class ColumnState:
    """State that is arrays with one row a channel: to bytes and back, and over a change of the registry.

    ``ARRAYS`` names the attributes; one in another object is written with a dot.
    """

    ARRAYS: ClassVar[tuple[str, ...]] = ()

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack({name: self._of(name) for name in self.ARRAYS} | self._more())

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        for name in self.ARRAYS:
            self._of(name)[:] = s[name]
        self._take_more(s, None)

    def adopt(self, state: bytes, old: IntArray, new: IntArray) -> None:
        """Take over channels ``old`` of a state saved for other channels as channels ``new`` of this detector."""
        s = unpack(state)
        for name in self.ARRAYS:
            self._of(name)[new] = s[name][old]
        self._take_more(s, dict(zip(old.tolist(), new.tolist(), strict=True)))

    def _more(self) -> dict[str, object]:
        """Return state that is no array with a row a channel."""
        return {}

    def _take_more(self, state: Mapping[str, Any], moved: Mapping[int, int] | None) -> None:
        """Take back what `_more` returned; `moved` says which channel each is now, None where they are the same."""

    def _of(self, name: str) -> Any:
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return value


class HeldColumnState(ColumnState):
    """`ColumnState` of a detector that some holds keep from learning."""

    holds: MeterHolds

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on one of the devices, or on the asset of one."""
        return bool(self.holds.of(hold))

    def _more(self) -> dict[str, object]:
        return {"holds": self.holds.state()}

    def _take_more(self, state: Mapping[str, Any], moved: Mapping[int, int] | None) -> None:
        self.holds.restore(state["holds"], moved)
