"""Samples to readings: which channel, which unit, is the time plausible, which grade."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ingest.decoded import Decoded
from ingest.grade import grade
from ingest.units import conversion
from underway.model import (
    CANONICAL_UNIT,
    DAY_US,
    HOUR_US,
    SECOND_US,
    Channel,
    Device,
    DeviceStatus,
    Fault,
    FaultReason,
    ReadingBatch,
    ReadingFlag,
    Registry,
    Sample,
    from_us,
    to_us,
)

FUTURE_S_MAX = 120
AGE_D_MAX = 30
HISTORICAL_S_MIN = 3600
ROUTES_MAX = 200_000
NEAREST_SEARCHES_MAX = 20
NEAREST_KEPT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Resolved:
    """What came of a sequence of messages.

    Attributes
    ----------
    batch : ReadingBatch
        In the order of the samples; not deduplicated.
    faults : tuple of (int, Fault)
        Index of the message, and what was wrong with it; those of the dialect come along.
    unknown_devices : frozenset of str
        Devices that the registry does not know: a reason to look whether it has changed.
    """

    batch: ReadingBatch
    faults: tuple[tuple[int, Fault], ...]
    unknown_devices: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Route:
    """Where the samples of one (device, channel, unit) go."""

    channel_id: int
    factor: float
    offset: float
    range_min: float
    range_max: float
    registered_us: int


class Resolver:
    """Resolves samples against one registry.

    Parameters
    ----------
    registry : Registry
        Devices and channels with their stored ids.

    Notes
    -----
    A sample costs one dictionary look-up and one list append; conversion, time rules and grading are numpy passes over the whole batch.
    The routes are found at their first sample and kept (at most `ROUTES_MAX`).

    Time rules, all against the instant of receiving: more than 120 s in the future, more than 30 days old, or from before the device was
    registered goes to quarantine and moves nothing; more than 1 h old is flagged ``HISTORICAL``.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._devices: dict[str, Device] = {device.device_id: device for device in registry.devices}
        self._channels: dict[str, dict[str, Channel]] = {}
        for channel in registry.channels:
            self._channels.setdefault(channel.device_id, {})[channel.name] = channel
        self._routes: dict[tuple[str, str, str | None], _Route | Fault] = {}
        self._nearest_device: dict[str, str] = {}
        self._searches_left = 0

    def resolve(self, messages: Sequence[tuple[Decoded, int]]) -> Resolved:
        """Return the readings and faults of messages.

        Parameters
        ----------
        messages : sequence of (Decoded, int)
            With the instant each was received, microseconds since 1970.
        """
        routes: list[_Route] = []
        samples: list[Sample] = []
        owner: list[int] = []
        received: list[int] = []
        faults: list[tuple[int, Fault]] = []
        unknown: set[str] = set()
        known = self._routes
        self._searches_left = NEAREST_SEARCHES_MAX
        for index, (decoded, received_us) in enumerate(messages):
            faults.extend((index, fault) for fault in decoded.faults)
            if not decoded.samples:
                continue
            stranger = self._stranger(decoded)
            if stranger is not None:
                if stranger.reason is FaultReason.DEVICE_UNKNOWN and decoded.device_id is not None:
                    unknown.add(decoded.device_id)
                faults.append((index, stranger))
                continue
            seen: set[tuple[str, str | None]] = set()
            for sample in decoded.samples:
                key = (sample.device_id, sample.channel, sample.unit)
                route = known.get(key)
                if route is None:
                    route = self._find(sample)
                    if len(known) < ROUTES_MAX:
                        known[key] = route
                if type(route) is _Route:
                    routes.append(route)
                    samples.append(sample)
                    owner.append(index)
                    received.append(received_us)
                elif isinstance(route, Fault) and (sample.channel, sample.unit) not in seen:
                    seen.add((sample.channel, sample.unit))
                    faults.append((index, route))
        if not routes:
            return Resolved(ReadingBatch.empty(), tuple(faults), frozenset(unknown))
        batch, refused = _columns(routes, samples, received)
        if refused.any():
            faults.extend(_refusals(np.flatnonzero(refused).tolist(), owner, samples, routes, received))
        return Resolved(batch if not refused.any() else batch.take(~refused), tuple(faults), frozenset(unknown))

    def _stranger(self, decoded: Decoded) -> Fault | None:
        """Return why nothing of this device may be taken, or None."""
        device_id = decoded.device_id or ""
        device = self._devices.get(device_id)
        if device is None:
            return Fault(FaultReason.DEVICE_UNKNOWN, f"no device '{device_id}' is registered{self._near_device(device_id)}", device_id)
        if decoded.site_id is not None and decoded.site_id != device.site_id:
            message = f"device '{device_id}' is registered at site '{device.site_id}', got a message for site '{decoded.site_id}'"
            return Fault(FaultReason.DEVICE_UNKNOWN, message, device_id)
        if device.status is not DeviceStatus.ACTIVE:
            return Fault(
                FaultReason.DEVICE_NOT_ACTIVE, f"device '{device_id}' must be active to be heard, it is {device.status.value}", device_id
            )
        return None

    def _near_device(self, device_id: str) -> str:
        """Return the hint for an unknown device; a search costs milliseconds, so their number in one call is limited."""
        hint = self._nearest_device.get(device_id)
        if hint is None:
            if self._searches_left <= 0:
                return ""
            self._searches_left -= 1
            hint = _nearest(device_id, self._devices)
            if len(self._nearest_device) < NEAREST_KEPT_MAX:
                self._nearest_device[device_id] = hint
        return hint

    def _find(self, sample: Sample) -> _Route | Fault:
        channels = self._channels.get(sample.device_id, {})
        channel = channels.get(sample.channel)
        if channel is None:
            message = f"device '{sample.device_id}' has no channel '{sample.channel}'{_nearest(sample.channel, channels)}"
            return Fault(FaultReason.CHANNEL_UNKNOWN, message, sample.device_id, sample.channel)
        canonical = CANONICAL_UNIT[channel.quantity]
        unit = channel.device_unit if sample.unit is None else sample.unit
        found = conversion(unit, canonical)
        if found is None:
            where = "the registry" if sample.unit is None else "the message"
            message = f"the unit of '{sample.channel}' must convert to {canonical}, {where} says {unit!a} (device '{sample.device_id}')"
            return Fault(FaultReason.UNIT_UNKNOWN, message, sample.device_id, sample.channel)
        registered_us = to_us(self._devices[sample.device_id].registered_at)
        return _Route(channel.channel_id, found[0], found[1], channel.range_min, channel.range_max, registered_us)


def _columns(routes: list[_Route], samples: list[Sample], received: list[int]) -> tuple[ReadingBatch, NDArray[np.bool_]]:
    """Return all rows as a batch, and a mask of those whose time or converted value is refused."""
    n = len(routes)
    observed_us = np.fromiter((s.observed_us for s in samples), np.int64, n)
    received_us = np.fromiter(received, np.int64, n)
    value = np.fromiter((s.value for s in samples), np.float64, n)
    factor = np.fromiter((r.factor for r in routes), np.float64, n)
    offset = np.fromiter((r.offset for r in routes), np.float64, n)
    with np.errstate(over="ignore"):
        value = value * factor + offset
    quality, reason = grade(
        value,
        np.fromiter((r.range_min for r in routes), np.float64, n),
        np.fromiter((r.range_max for r in routes), np.float64, n),
        np.fromiter((s.quality for s in samples), np.uint8, n),
        np.fromiter((s.reason for s in samples), np.uint8, n),
    )
    registered_us = np.fromiter((r.registered_us for r in routes), np.int64, n)
    age_us = received_us - observed_us
    refused = (age_us < -FUTURE_S_MAX * SECOND_US) | (age_us > AGE_D_MAX * DAY_US) | (observed_us < registered_us) | ~np.isfinite(value)
    flags = np.where(age_us > HISTORICAL_S_MIN * SECOND_US, np.uint8(ReadingFlag.HISTORICAL), np.uint8(ReadingFlag.NONE))
    channel_id = np.fromiter((r.channel_id for r in routes), np.int32, n)
    return ReadingBatch(channel_id, observed_us, received_us, value, quality, reason, flags), refused


def _refusals(
    rows: Sequence[int], owner: Sequence[int], samples: Sequence[Sample], routes: Sequence[_Route], received: Sequence[int]
) -> list[tuple[int, Fault]]:
    """Return one fault a message and reason: the first row's, with the number of further ones."""
    first: dict[tuple[int, FaultReason], Fault] = {}
    count: dict[tuple[int, FaultReason], int] = {}
    for row in rows:
        key = owner[row], _refusal_reason(samples[row], routes[row], received[row])
        if key not in first:
            first[key] = Fault(
                key[1], _refusal_message(key[1], samples[row], routes[row], received[row]), samples[row].device_id, samples[row].channel
            )
        count[key] = count.get(key, 0) + 1
    return [
        (key[0], fault if count[key] == 1 else replace(fault, message=f"{fault.message}; and {count[key] - 1} more of this message"))
        for key, fault in first.items()
    ]


def _refusal_reason(sample: Sample, route: _Route, received_us: int) -> FaultReason:
    age_us = received_us - sample.observed_us
    if age_us < -FUTURE_S_MAX * SECOND_US:
        return FaultReason.TIME_FUTURE
    if age_us > AGE_D_MAX * DAY_US or sample.observed_us < route.registered_us:
        return FaultReason.TIME_TOO_OLD
    return FaultReason.VALUE_NOT_FINITE


def _refusal_message(reason: FaultReason, sample: Sample, route: _Route, received_us: int) -> str:
    age_us = received_us - sample.observed_us
    at = _iso(sample.observed_us)
    where = f"(device '{sample.device_id}', channel '{sample.channel}')"
    if reason is FaultReason.TIME_FUTURE:
        return f"'at' must be at most {FUTURE_S_MAX} s after the message was received, got {at}, {_span(-age_us)} ahead {where}"
    if reason is FaultReason.VALUE_NOT_FINITE:
        return f"'{sample.channel}' must be finite in the canonical unit, got {sample.value!r} {sample.unit or ''} {where}"
    if age_us > AGE_D_MAX * DAY_US:
        return f"'at' must be at most {AGE_D_MAX} days old, got {at}, {_span(age_us)} old {where}"
    return f"'at' must not be before the device was registered at {_iso(route.registered_us)}, got {at} {where}"


def _iso(us: int) -> str:
    """Return an instant for people, to the second; what lies outside the years 1 to 9999 is shown as the nearest end."""
    return from_us(min(max(us, _FIRST_US), _LAST_US)).strftime("%Y-%m-%dT%H:%M:%SZ")


_FIRST_US = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_US = to_us(datetime.max.replace(tzinfo=UTC))


def _span(us: int) -> str:
    """Return a length of time for people.

    Examples
    --------
    >>> _span(150 * SECOND_US), _span(5 * HOUR_US), _span(40 * DAY_US)
    ('150 s', '5.0 h', '40.0 days')
    """
    if us < HOUR_US:
        return f"{us // SECOND_US} s"
    return f"{us / HOUR_US:.1f} h" if us < 2 * DAY_US else f"{us / DAY_US:.1f} days"


def _nearest(name: str, known: Sequence[str] | dict[str, Channel] | dict[str, Device]) -> str:
    """Return ``"; nearest known: 'x'"``, or nothing when nothing is near."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; nearest known: '{found[0]}'" if found else ""
