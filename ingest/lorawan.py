"""What the uplinks of LoRaWAN network servers have in common: a decoded object, reception at gateways, a counter, who the device is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ingest.decoded import (
    ADDRESS_CHARS_MAX,
    AnnouncedChannel,
    Announcement,
    Decoded,
    FaultList,
    FrameCounter,
    shown,
)
from ingest.parts import UNREADABLE, finite, is_too_large, read_json, where
from underway.model import FaultReason, Quality, QualityReason

OBJECT_VALUES_MAX = 500
"""Most values of one decoded object; a frame carries at most 242 bytes."""
DEPTH_MAX = 8
GATEWAYS_MAX = 64
DETAILS_MAX = 24
DETAIL_CHARS_MAX = 100
COUNTER_MAX = 2**32 - 1
SESSION_CHARS_MAX = 64
SHAPE_NAMES_MAX = 32
"""Messages with at most this many values are recognised by their names; larger ones are looked at each time."""
RSSI, SNR, BATTERY, MARGIN = "rssi", "snr", "batteryLevel", "margin"
HEALTH_UNITS: Mapping[str, str] = {RSSI: "dBm", SNR: "dB", BATTERY: "%", MARGIN: "dB"}
"""Channels that the network server adds to those of the device, with their units."""

EUI_PATTERN = re.compile(r"[0-9a-fA-F]{16}")
_NUMBER_TEXT = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_NOT_FINITE_TEXT = frozenset({"nan", "inf", "infinity", "-inf", "-infinity", "+inf", "+infinity"})
_NUMBER_CHARS_MAX = 40


class Uplink:
    """Collects what one message of a network server says.

    Parameters
    ----------
    topic : str
        For the messages of faults.
    device : str
        Address of the device.
    """

    __slots__ = ("_away", "_names", "_observed", "_units", "_values", "counter", "device", "faults", "topic")

    def __init__(self, topic: str, device: str) -> None:
        self.topic, self.device = topic, device
        self.faults = FaultList(device)
        self.counter: FrameCounter | None = None
        self._names: list[str] = []
        self._values: list[float] = []
        self._observed: list[int] = []
        self._away: list[bool] = []
        self._units: list[str | None] = []

    @property
    def announced(self) -> tuple[AnnouncedChannel, ...]:
        """Return the channels of the samples so far."""
        return _shape(tuple(self._names), tuple(self._units)).announced

    def fault(self, reason: FaultReason, message: str, channel: str | None = None) -> None:
        """Add a fault; the message is completed by the topic."""
        self.faults.add(reason, f"{message} ({where(self.topic)})", channel)

    def add(self, channel: str, value: float, observed_us: int | None, unit: str | None = None) -> None:
        """Add one finite sample; None is the instant of reception."""
        self._names.append(channel)
        self._values.append(value)
        self._observed.append(0 if observed_us is None else observed_us)
        self._away.append(observed_us is None)
        self._units.append(unit)

    def add_health(self, channel: str, value: object, observed_us: int | None) -> None:
        """Add a number of the network server's own unless it is missing, or the device has a channel of that name."""
        if channel not in self._names and (number := finite(value)) is not None:
            self.add(channel, number, observed_us, HEALTH_UNITS[channel])

    def add_object(self, document: Mapping[str, Any], observed_us: int | None, root: str) -> int:
        """Add every number of a decoded object as a sample, and return how many there were.

        What stands deeper is named by its path: ``tank.level``, ``port.0``. Booleans are 0 and 1. Null and texts are no measurements, but for
        a text that is a number: it is a fault, for a measurement may hide there.
        """
        taken = 0
        for path, value in _leaves(document, self, root):
            kind = type(value)
            if kind is bool:
                number: float | None = 1.0 if value else 0.0
            elif kind is float or kind is int:
                number = finite(value)
                if number is None:
                    self.fault(FaultReason.VALUE_NOT_FINITE, f"'{path}' must be a finite number, got {shown(value)}", path)
                    continue
            else:
                if value is not None:
                    self._text(path, value)
                continue
            if taken >= OBJECT_VALUES_MAX:
                self.fault(
                    FaultReason.TOO_MANY_READINGS,
                    f"{root!r} must hold at most {OBJECT_VALUES_MAX} numbers, got more; the first {OBJECT_VALUES_MAX} were taken",
                )
                break
            self.add(path, number, observed_us)  # type: ignore[arg-type]  # a bool or checked above
            taken += 1
        return taken

    def _text(self, path: str, value: str) -> None:
        if len(value) > _NUMBER_CHARS_MAX:
            return
        if value.strip().lower() in _NOT_FINITE_TEXT:
            self.fault(FaultReason.VALUE_NOT_FINITE, f"'{path}' must be a finite number, got {shown(value)}", path)
        elif _NUMBER_TEXT.fullmatch(value):
            self.fault(
                FaultReason.VALUE_TYPE, f"'{path}' must be a number, got the text {shown(value)}; let the codec return a number", path
            )

    def count(self, session: object, counter: object, name: str) -> None:
        """Note the frame counter; absent is 0, as the JSON of protobuf leaves zero out."""
        number = 0 if counter is None else counter
        if type(number) is float and number.is_integer():
            number = int(number)
        if type(number) is not int or not 0 <= number <= COUNTER_MAX:
            self.fault(FaultReason.SCHEMA, f"'{name}' must be a whole number in 0..{COUNTER_MAX}, got {shown(counter)}")
            return
        self.counter = FrameCounter(clean(session[:SESSION_CHARS_MAX]) if type(session) is str else "", number)

    def decoded(self, announcement: Announcement | None, simulated: bool = False) -> Decoded:
        """Return what was collected; a simulated message is history, and its values are suspect."""
        shape = _shape(tuple(self._names), tuple(self._units))
        if not shape.distinct:
            self._keep_first_of_each()
            shape = _shape(tuple(self._names), tuple(self._units))
        n = len(self._values)
        return Decoded(
            self.device,
            shape.names,
            self._observed,
            self._values,
            shape.unit,
            [int(Quality.SUSPECT)] * n if simulated and n else None,
            [int(QualityReason.DEVICE_SAYS_BAD)] * n if simulated and n else None,
            self._away if any(self._away) else None,
            [True] * n if simulated and n else None,
            self.faults.result(),
            None,
            self.counter,
            announcement,
        )

    def _keep_first_of_each(self) -> None:
        """Keep the first value of each channel and instant; the others are a fault each."""
        seen: set[tuple[str, int]] = set()
        kept: list[int] = []
        for i, key in enumerate(zip(self._names, self._observed, strict=True)):
            if key in seen:
                self.fault(FaultReason.SCHEMA, f"two values of a message must not both be called '{key[0]}'; the first was taken", key[0])
            else:
                seen.add(key)
                kept.append(i)
        self._observed = [self._observed[i] for i in kept]
        self._values = [self._values[i] for i in kept]
        self._away = [self._away[i] for i in kept]
        self._units = [self._units[i] for i in kept]
        self._names = [self._names[i] for i in kept]


def read_object(payload: bytes, uplink: Uplink) -> dict[str, Any] | None:
    """Return the JSON object of a message, or None with a fault added."""
    if is_too_large(payload, uplink.topic, uplink.faults):
        return None
    document = read_json(payload, uplink.topic, uplink.faults)
    if document is UNREADABLE:
        return None
    if type(document) is not dict:
        uplink.fault(FaultReason.SCHEMA, f"a message must be a JSON object, got {shown(document)}")
        return None
    return document


def part(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object under a name; an empty one when there is none."""
    found = document.get(name)
    return found if type(found) is dict else {}


def best_reception(gateways: object) -> tuple[float | None, float | None]:
    """Return RSSI in dBm and SNR in dB at the gateway that heard the device best; what it did not say is None, and not zero.

    Examples
    --------
    >>> best_reception([{"rssi": -110, "snr": 3.5}, {"rssi": -97, "snr": -2}, {"snr": 9}])
    (-97.0, -2.0)
    """
    best: tuple[float | None, float | None] = None, None
    if type(gateways) is not list:
        return best
    for gateway in gateways[:GATEWAYS_MAX]:
        if type(gateway) is not dict:
            continue
        rssi, snr = finite(gateway.get("rssi")), finite(gateway.get("snr"))
        if rssi is not None and (best[0] is None or rssi > best[0]):
            best = rssi, snr
        elif best[0] is None and snr is not None and (best[1] is None or snr > best[1]):
            best = None, snr
    return best


def base64_bytes(text: object) -> int:
    """Return how many bytes a base64 text holds, without looking into it.

    Examples
    --------
    >>> base64_bytes("AQID"), base64_bytes("AQI="), base64_bytes(None)
    (3, 2, 0)
    """
    if type(text) is not str:
        return 0
    return max(0, len(text) * 3 // 4 - text[-2:].count("="))


def details(*pairs: tuple[str, object], tags: object = None) -> dict[str, str | int | float | bool | None]:
    """Return what helps an engineer to recognise a device: plain values, short, few; what is missing is left out."""
    found: dict[str, str | int | float | bool | None] = {}
    for name, value in pairs:
        if value is not None and value != "" and (plain := _plain(value)) is not None:
            found[name] = plain
    if type(tags) is dict:
        for name, value in tags.items():
            if len(found) >= DETAILS_MAX:
                break
            plain = _plain(value)
            if plain is not None and len(name) <= DETAIL_CHARS_MAX:
                found[f"tag {clean(name)}"] = plain
    return found


def announce(
    kind: str, channels: tuple[AnnouncedChannel, ...], model: object, told: dict[str, str | int | float | bool | None]
) -> Announcement:
    """Return the announcement of a device with the channels it just used."""
    text = clean(model[:DETAIL_CHARS_MAX]) if type(model) is str else ""
    return Announcement(kind, channels, text, told)


def clean(text: str) -> str:
    """Return a text of the wire as one that every store and terminal takes.

    Examples
    --------
    >>> clean("Zone Ä"), clean("a" + chr(0) + "b")
    ('Zone Ä', 'a?b')
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _plain(value: object) -> str | int | float | bool | None:
    if type(value) is str:
        return clean(value[:DETAIL_CHARS_MAX])
    if type(value) is bool:
        return value
    number = finite(value)
    return None if number is None else int(number) if number.is_integer() and abs(number) < 2**53 else number


class _Shape(NamedTuple):
    """What follows from the names and units of a message alone."""

    names: tuple[str, ...]
    unit: tuple[str | None, ...] | None
    distinct: bool
    announced: tuple[AnnouncedChannel, ...]


def _shape(names: tuple[str, ...], units: tuple[str | None, ...]) -> _Shape:
    return _known_shape(names, units) if len(names) <= SHAPE_NAMES_MAX else _new_shape(names, units)


def _new_shape(names: tuple[str, ...], units: tuple[str | None, ...]) -> _Shape:
    different = dict(zip(reversed(names), reversed(units), strict=True))
    announced = tuple(AnnouncedChannel(name, different[name]) for name in dict.fromkeys(names))
    return _Shape(names, units if any(units) else None, len(different) == len(names), announced)


_known_shape = lru_cache(maxsize=1024)(_new_shape)


def _leaves(document: Mapping[str, Any], uplink: Uplink, root: str, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield path and value of everything in an object that is no container."""
    for key, value in document.items():
        path = prefix + key
        kind = type(value)
        if kind is dict or kind is list:
            if depth >= DEPTH_MAX or len(path) > ADDRESS_CHARS_MAX:
                limit = f"at most {DEPTH_MAX} levels deep, with paths of at most {ADDRESS_CHARS_MAX} characters"
                uplink.fault(FaultReason.SCHEMA, f"{root!r} must be {limit}, got more in {shown(path)}")
                continue
            inner = value if kind is dict else {str(i): item for i, item in enumerate(value[: OBJECT_VALUES_MAX + 1])}
            yield from _leaves(inner, uplink, root, path + ".", depth + 1)
        elif len(path) <= ADDRESS_CHARS_MAX and _is_channel(path):
            yield path, value
        elif kind is not str and value is not None:
            uplink.fault(
                FaultReason.SCHEMA,
                f"the name of a value must have 1..{ADDRESS_CHARS_MAX} printable characters, got {shown(path)}",
            )


@lru_cache(maxsize=8192)
def _is_channel(path: str) -> bool:
    return path.isprintable() and path.strip() == path != ""
