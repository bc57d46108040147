"""Decoded messages to readings: which channel, which unit, is the time plausible, which grade."""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.clocks import ClockBook
from ingest.decoded import Decoded
from ingest.grade import grade
from ingest.instants import (
    HISTORICAL_S_MIN,
    TimeRules,
    refusal_message,
    refusal_reason,
)
from ingest.units import conversion
from underway.model import (
    CANONICAL_UNIT,
    SECOND_US,
    Channel,
    Device,
    DeviceStatus,
    Fault,
    FaultReason,
    Quality,
    QualityReason,
    ReadingBatch,
    ReadingFlag,
    Registry,
    to_us,
)

SHAPES_MAX = 50_000
NEAREST_SEARCHES_MAX = 20
NEAREST_KEPT_MAX = 1000
CLOCK_SHOWN_US_MIN = 120 * SECOND_US
"""From this offset on a reading is graded suspect for its clock."""


class Item(Protocol):
    """A decoded message: the name of its dialect, what that made of it, and when it was received, microseconds since 1970."""

    @property
    def dialect(self) -> str:
        """Name of the dialect."""
        ...

    @property
    def decoded(self) -> Decoded:
        """What it says."""
        ...

    @property
    def received_us(self) -> int:
        """When it was received."""
        ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """What came of a sequence of messages.

    Attributes
    ----------
    batch : ReadingBatch
        In the order of the samples; not deduplicated.
    faults : tuple of (int, Fault)
        Index of the message, and what was wrong with it; those of the dialect come along.
    strangers : frozenset of (str, str)
        Dialect and address of devices that the registry does not know: a reason to look whether it has changed.
    device, ahead_us, received_us : ndarray of int64, shape (m,)
        One row a message with instants of its own, for `Resolver.learn`: device number, newest observed instant minus reception, reception.
    """

    batch: ReadingBatch
    faults: tuple[tuple[int, Fault], ...]
    strangers: frozenset[tuple[str, str]]
    device: NDArray[np.int64]
    ahead_us: NDArray[np.int64]
    received_us: NDArray[np.int64]


class _Known:
    """A registered device as ingest sees it, with the shape of its last message and the routes that belong to it."""

    __slots__ = ("active", "channel", "device", "faults", "number", "routes", "site_id", "unit")

    def __init__(self, device: Device, number: int) -> None:
        self.device = device
        self.number = number
        self.site_id = device.site_id
        self.active = device.status is DeviceStatus.ACTIVE
        self.channel: tuple[str, ...] | None = None
        self.unit: tuple[str | None, ...] | None = None
        self.routes: tuple[int, ...] = ()
        self.faults: tuple[Fault, ...] = ()


NO_ROUTE = -1


class Resolver:
    """Resolves messages against one registry.

    Parameters
    ----------
    registry : Registry
        Devices and channels with their stored ids.
    rules : TimeRules, optional
    clock_offset_ms : mapping of str to int, optional
        By device, what was learned before a restart.
    before : Resolver, optional
        Of the registry as it was: what it saw of the clocks is taken over.

    Notes
    -----
    A message shaped like the last one of its device costs one dictionary look-up and a few list extensions; conversion, time rules and grading are
    numpy passes over the whole batch. A route is a row of arrays: channel, factor, offset, range, and when its device was registered; it is made
    when its first sample comes.

    Time rules, against the instant of receiving and after the clock offset was taken off (`ingest.clocks`): too far in the future, too old, or from
    before the device was registered goes to quarantine and moves nothing; more than 1 h old is flagged ``HISTORICAL``.
    """

    def __init__(
        self,
        registry: Registry,
        rules: TimeRules | None = None,
        clock_offset_ms: Mapping[str, int] | None = None,
        before: Resolver | None = None,
    ) -> None:
        self.registry = registry
        self.rules = rules or TimeRules()
        self._known: dict[tuple[str, str | None], _Known] = {}
        by_id: dict[str, int] = {}
        for number, device in enumerate(registry.devices):
            self._known[device.dialect, device.spoken_address] = _Known(device, number)
            by_id[device.device_id] = number
        self._channel_at: list[list[int]] = [[] for _ in registry.devices]
        for place, channel in enumerate(registry.channels):
            if channel.device_id in by_id:
                self._channel_at[by_id[channel.device_id]].append(place)
        self.clocks = ClockBook(len(registry.devices))
        for device_id, offset_ms in (clock_offset_ms or {}).items():
            if device_id in by_id:
                self.clocks.restore(by_id[device_id], offset_ms)
        if before is not None:
            stay = [(by_id[d.device_id], i) for i, d in enumerate(before.registry.devices) if d.device_id in by_id]
            pairs = np.array(stay, np.int64).reshape(-1, 2)
            self.clocks.carry(pairs[:, 0], before.clocks, pairs[:, 1])
        self._routes = _Routes()
        self._shapes: dict[tuple[int, tuple[str, ...], tuple[str | None, ...] | None], tuple[tuple[int, ...], tuple[Fault, ...]]] = {}
        self._words: dict[tuple[str | None, ...], tuple[str | None, ...]] = {}
        self._nearest_device: dict[str, str] = {}
        self._searches_left = 0

    def knows(self, dialect: str, address: str) -> bool:
        """Return whether a device is registered and active."""
        known = self._known.get((dialect, address))
        return known is not None and known.active

    def resolve(self, items: Sequence[Item]) -> Resolved:
        """Return the readings and faults of messages."""
        routes: list[int] = []
        observed: list[int] = []
        values: list[float] = []
        counts: list[int] = []
        numbers: list[int] = []
        received: list[int] = []
        owner: list[int] = []
        unusual: list[tuple[int, int, Decoded]] = []
        faults: list[tuple[int, Fault]] = []
        strangers: set[tuple[str, str]] = set()
        known, n = self._known, 0
        self._searches_left = NEAREST_SEARCHES_MAX
        for index, item in enumerate(items):
            dialect, decoded = item.dialect, item.decoded
            if decoded.faults:
                faults.extend((index, fault) for fault in decoded.faults)
            value = decoded.value
            if not value:
                continue
            device = known.get((dialect, decoded.device))
            site_id = decoded.site_id
            if device is None or not device.active or (site_id is not None and site_id != device.site_id):
                faults.append((index, self._refuse(dialect, decoded, device)))
                if device is None and decoded.device is not None:
                    strangers.add((dialect, decoded.device))
                continue
            channel, unit = decoded.channel, decoded.unit
            if (channel is not device.channel and channel != device.channel) or (unit is not device.unit and unit != device.unit):
                self._reshape(device, decoded)
            if device.faults:
                faults.extend((index, fault) for fault in device.faults)
            count = len(value)
            if decoded.quality is not None or decoded.reason is not None or decoded.from_reception or decoded.historical:
                unusual.append((n, n + count, decoded))
            routes += device.routes
            observed += decoded.observed_us
            values += value
            counts.append(count)
            numbers.append(device.number)
            received.append(item.received_us)
            owner.append(index)
            n += count
        nothing = np.empty(0, np.int64)
        if not n:
            return Resolved(ReadingBatch.empty(), tuple(faults), frozenset(strangers), nothing, nothing, nothing)
        rows = _Rows(np.array(routes, np.int64), np.array(values, np.float64), np.array(counts, np.int64), np.array(received, np.int64))
        rows.observed_us = _instants(observed)
        return self._judge(items, rows, np.array(numbers, np.int64), unusual, owner, faults, strangers)

    def learn(self, resolved: Resolved) -> list[tuple[str, int, int]]:
        """Take in the clocks of committed messages; return (device id, offset in ms, since when) of those that changed."""
        if not len(resolved.device):
            return []
        changes = self.clocks.learn(resolved.device, resolved.ahead_us, resolved.received_us)
        return [(self.registry.devices[change.device].device_id, change.offset_ms, change.since_us) for change in changes]

    def _judge(
        self,
        items: Sequence[Item],
        rows: _Rows,
        numbers: NDArray[np.int64],
        unusual: Sequence[tuple[int, int, Decoded]],
        owner: Sequence[int],
        faults: list[tuple[int, Fault]],
        strangers: set[tuple[str, str]],
    ) -> Resolved:
        """Apply units, time rules and grades to all rows at once."""
        n, counts, received_us = len(rows.route), rows.count, rows.received_us
        single = len(counts) == n
        each_received = received_us if single else np.repeat(received_us, counts)
        each_offset = self.clocks.offset_ms(numbers) if single else np.repeat(self.clocks.offset_ms(numbers), counts)
        quality, reason = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        history = np.zeros(n, np.bool_)
        own_time = np.ones(n, np.bool_)
        for start, stop, decoded in unusual:
            if decoded.quality is not None:
                quality[start:stop] = decoded.quality
            if decoded.reason is not None:
                reason[start:stop] = decoded.reason
            if decoded.historical:
                history[start:stop] = decoded.historical
            if decoded.from_reception:
                ours = np.array(decoded.from_reception, np.bool_)
                own_time[start:stop] = ~ours
                rows.observed_us[start:stop] += np.where(ours, each_received[start:stop], 0)
        if not own_time.all():
            each_offset = np.where(own_time, each_offset, np.int32(0))
        observed_us = rows.observed_us
        table = self._routes.table()
        route = rows.route
        with np.errstate(over="ignore"):
            value = rows.value * table.factor[route] + table.offset[route]
        quality, reason = grade(value, table.range_min[route], table.range_max[route], quality, reason)
        age_us = each_received - observed_us
        if each_offset.any():
            age_us = age_us + each_offset.astype(np.int64) * 1000
            wrong_clock = (each_offset.astype(np.int64) * 1000 >= CLOCK_SHOWN_US_MIN) & (quality == Quality.GOOD)
            quality = np.where(wrong_clock, np.uint8(Quality.SUSPECT), quality)
            reason = np.where(wrong_clock, np.uint8(QualityReason.CLOCK_OFFSET), reason)
        rules = self.rules
        refused = (age_us < -rules.future_us_max) | (age_us > rules.age_us_max) | (observed_us < table.registered_us[route])
        refused |= ~np.isfinite(value)
        no_route = route == NO_ROUTE
        history |= age_us > HISTORICAL_S_MIN * SECOND_US
        flags = np.where(history, np.uint8(ReadingFlag.HISTORICAL), np.uint8(ReadingFlag.NONE))
        batch = ReadingBatch(
            table.channel_id[route], observed_us, each_received, value, quality, reason, flags, each_offset.astype(np.int32)
        )
        refused_rows = np.flatnonzero(refused & ~no_route)
        if len(refused_rows):
            of_message = np.repeat(np.arange(len(counts)), counts)
            starts = np.cumsum(counts) - counts
            faults.extend(self._refusals(items, refused_rows, of_message, starts, owner, observed_us, each_received, each_offset))
        keep = ~(refused | no_route)
        newest = np.maximum.reduceat(np.where(own_time & ~no_route, observed_us, np.iinfo(np.int64).min // 2), np.cumsum(counts) - counts)
        timed = newest > np.iinfo(np.int64).min // 4
        return Resolved(
            batch if keep.all() else batch.take(keep),
            tuple(faults),
            frozenset(strangers),
            numbers[timed],
            newest[timed] - received_us[timed],
            received_us[timed],
        )

    def _refusals(
        self,
        items: Sequence[Item],
        rows: NDArray[np.int64],
        of_message: NDArray[np.int64],
        starts: NDArray[np.int64],
        owner: Sequence[int],
        observed_us: NDArray[np.int64],
        received_us: NDArray[np.int64],
        offset_ms: NDArray[np.int32],
    ) -> list[tuple[int, Fault]]:
        """Return one fault a message and reason: the first row's, with the number of further ones."""
        first: dict[tuple[int, FaultReason], str] = {}
        count: dict[tuple[int, FaultReason], int] = {}
        where: dict[tuple[int, FaultReason], tuple[str, str]] = {}
        for row in rows.tolist():
            message = int(of_message[row])
            decoded = items[owner[message]].decoded
            device = self._known[items[owner[message]].dialect, decoded.device].device
            place = row - int(starts[message])
            event_us = int(observed_us[row]) - int(offset_ms[row]) * 1000
            reason = refusal_reason(self.rules, event_us, int(observed_us[row]), int(received_us[row]), to_us(device.registered_at))
            key = owner[message], reason
            count[key] = count.get(key, 0) + 1
            if key not in first:
                unit = None if decoded.unit is None else decoded.unit[place]
                first[key] = refusal_message(
                    self.rules,
                    reason,
                    device,
                    decoded.channel[place],
                    float(decoded.value[place]),
                    unit,
                    event_us,
                    int(observed_us[row]),
                    int(received_us[row]),
                )
                where[key] = device.device_id, decoded.channel[place]
        return [
            (key[0], Fault(key[1], text if count[key] == 1 else f"{text}; and {count[key] - 1} more of this message", *where[key]))
            for key, text in first.items()
        ]

    def _refuse(self, dialect: str, decoded: Decoded, known: _Known | None) -> Fault:
        """Return why nothing of this device may be taken."""
        address = decoded.device or ""
        if known is None:
            return Fault(FaultReason.DEVICE_UNKNOWN, f"no device '{address}' is registered{self._near_device(dialect, address)}", address)
        device = known.device
        if decoded.site_id not in (None, device.site_id):
            message = f"device '{address}' is registered at site '{device.site_id}', got a message for site '{decoded.site_id}'"
            return Fault(FaultReason.DEVICE_UNKNOWN, message, device.device_id)
        message = f"device '{address}' must be active to be heard, it is {device.status.value}"
        return Fault(FaultReason.DEVICE_NOT_ACTIVE, message, device.device_id)

    def _near_device(self, dialect: str, address: str) -> str:
        """Return the hint for an unknown device; a search costs milliseconds, so their number in one call is limited."""
        hint = self._nearest_device.get(address)
        if hint is None:
            if self._searches_left <= 0:
                return ""
            self._searches_left -= 1
            hint = _nearest(address, [spoken for spoken_in, spoken in self._known if spoken_in == dialect and spoken])
            if not hint and any(spoken == address for _, spoken in self._known):
                hint = f" for the dialect '{dialect}'; it is registered for another one"
            if len(self._nearest_device) < NEAREST_KEPT_MAX:
                self._nearest_device[address] = hint
        return hint

    def _reshape(self, device: _Known, decoded: Decoded) -> None:
        """Find the routes of a message that is not shaped like the last one of its device."""
        key = device.number, decoded.channel, decoded.unit
        found = self._shapes.get(key)
        if found is None:
            found = self._find(device, decoded)
            if len(self._shapes) < SHAPES_MAX and device.channel is not None:
                self._shapes[key] = found
        device.channel = self._word(decoded.channel)  # type: ignore[assignment]  # no channel is None
        device.unit = None if decoded.unit is None else self._word(decoded.unit)
        device.routes, device.faults = found

    def _word(self, word: tuple[str | None, ...]) -> tuple[str | None, ...]:
        """Return the one copy of a tuple that many devices send."""
        if len(self._words) >= SHAPES_MAX:
            return word
        return self._words.setdefault(word, word)

    def _find(self, known: _Known, decoded: Decoded) -> tuple[tuple[int, ...], tuple[Fault, ...]]:
        channels = {c.spoken_address: c for c in (self.registry.channels[i] for i in self._channel_at[known.number])}
        routes: list[int] = []
        faults: dict[tuple[str, str | None], Fault] = {}
        units = decoded.unit or (None,) * len(decoded.channel)
        for name, unit in zip(decoded.channel, units, strict=True):
            route = self._route(known.device, channels, name, unit)
            if isinstance(route, Fault):
                faults.setdefault((name, unit), route)
                routes.append(NO_ROUTE)
            else:
                routes.append(route)
        return tuple(routes), tuple(faults.values())

    def _route(self, device: Device, channels: Mapping[str, Channel], name: str, unit: str | None) -> int | Fault:
        channel = channels.get(name)
        if channel is None:
            message = f"device '{device.device_id}' has no channel '{name}'{_nearest(name, channels)}"
            return Fault(FaultReason.CHANNEL_UNKNOWN, message, device.device_id, name)
        canonical = CANONICAL_UNIT[channel.quantity]
        spoken = channel.device_unit if unit is None else unit
        found = conversion(spoken, canonical)
        if found is None:
            where = "the registry" if unit is None else "the message"
            message = f"the unit of '{name}' must convert to {canonical}, {where} says {spoken!a} (device '{device.device_id}')"
            return Fault(FaultReason.UNIT_UNKNOWN, message, device.device_id, name)
        return self._routes.number(channel, found, to_us(device.registered_at))


class _Rows:
    """The columns of a call while they are judged."""

    __slots__ = ("count", "observed_us", "received_us", "route", "value")

    def __init__(
        self, route: NDArray[np.int64], value: NDArray[np.float64], count: NDArray[np.int64], received_us: NDArray[np.int64]
    ) -> None:
        self.route, self.value, self.count, self.received_us = route, value, count, received_us
        self.observed_us = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Table:
    """Routes as arrays; the last row stands for `NO_ROUTE`."""

    channel_id: NDArray[np.int32]
    factor: NDArray[np.float64]
    offset: NDArray[np.float64]
    range_min: NDArray[np.float64]
    range_max: NDArray[np.float64]
    registered_us: NDArray[np.int64]


class _Routes:
    """Where samples go: rows found by channel and unit, handed out as arrays."""

    def __init__(self) -> None:
        self._number: dict[tuple[float, float], dict[int, int]] = {}
        self._channel_id, self._registered_us = array("i"), array("q")
        self._factor, self._offset, self._range_min, self._range_max = array("d"), array("d"), array("d"), array("d")
        self._table: _Table | None = None

    def number(self, channel: Channel, conversion: tuple[float, float], registered_us: int) -> int:
        """Return the row of a channel that is spoken to in one unit."""
        by_channel = self._number.setdefault(conversion, {})
        found = by_channel.get(channel.channel_id)
        if found is None:
            found = by_channel[channel.channel_id] = len(self._channel_id)
            factor, offset = conversion
            self._append(channel.channel_id, factor, offset, channel.range_min, channel.range_max, registered_us)
            self._table = None
        return found

    def _append(self, channel_id: int, factor: float, offset: float, range_min: float, range_max: float, registered_us: int) -> None:
        self._channel_id.append(channel_id)
        self._factor.append(factor)
        self._offset.append(offset)
        self._range_min.append(range_min)
        self._range_max.append(range_max)
        self._registered_us.append(registered_us)

    def table(self) -> _Table:
        """Return the arrays; made anew only after a route was added."""
        if self._table is None:
            self._table = _Table(
                np.append(np.array(self._channel_id, np.int32), np.int32(0)),
                np.append(np.array(self._factor, np.float64), 1.0),
                np.append(np.array(self._offset, np.float64), 0.0),
                np.append(np.array(self._range_min, np.float64), -np.inf),
                np.append(np.array(self._range_max, np.float64), np.inf),
                np.append(np.array(self._registered_us, np.int64), np.iinfo(np.int64).min),
            )
        return self._table


def _instants(observed: list[int]) -> NDArray[np.int64]:
    """Return instants as an array; what does not fit 64 bits is as far away as can be."""
    try:
        return np.array(observed, np.int64)
    except OverflowError:
        low, high = -(2**62), 2**62
        return np.array([min(max(at, low), high) for at in observed], np.int64)


def _nearest(name: str, known: Sequence[str] | Mapping[str, Channel]) -> str:
    """Return ``"; nearest known: 'x'"``, or nothing when nothing is near."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; nearest known: '{found[0]}'" if found else ""
