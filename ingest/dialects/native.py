"""The native dialect: one JSON object a message on ``uw/{site_id}/{device_id}/telemetry`` (docs/dialects/native.md)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from ingest.decoded import (
    CHANNEL_CHARS_MAX,
    CHANNEL_PATTERN,
    DEVICE_PATTERN,
    PAYLOAD_BYTES_MAX,
    READINGS_MAX,
    SAMPLES_MAX,
    UNIT_CHARS_MAX,
    VALUES_MAX,
    Decoded,
    FaultList,
    Samples,
    shown,
)
from ingest.parts import UNREADABLE, finite, instant_us, is_too_large, read_json, where
from underway.model import Fault, FaultReason, Quality, QualityReason

NAME = "native"
TOPIC_FILTERS = ("uw/+/+/telemetry",)
TOPIC_CHARS_MAX = 160
AT_MS_MAX = 253_402_300_799_999
QUALITIES: dict[str, tuple[Quality, QualityReason]] = {
    "good": (Quality.GOOD, QualityReason.NONE),
    "suspect": (Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD),
    "bad": (Quality.BAD, QualityReason.DEVICE_SAYS_BAD),
}
GOOD = QUALITIES["good"]


class _Plain(msgspec.Struct):
    """The common message, as the parser can check it by itself; anything else is looked at field by field."""

    at: str | int
    values: dict[str, float]
    units: dict[str, str] = {}
    readings: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_plain = msgspec.json.Decoder(_Plain).decode


def decode(topic: str, payload: bytes) -> Decoded:
    """Return what one message says; never raises.

    A bad field costs a field, a bad reading a reading, a bad message the message; whatever is lost is a fault with one readable sentence.

    Parameters
    ----------
    topic : str
        ``uw/{site_id}/{device_id}/telemetry``.
    payload : bytes
        UTF-8 JSON, at most 256 kB: ``{"at", "values", "units"}`` or ``{"readings": [{"at", "values"}, ...], "units"}``; at most 1000 readings
        of 64 values each, 10,000 values in all.

    Returns
    -------
    Decoded
        ``unit`` of a sample is None when the message names none; ``observed_us`` is not judged here.

    Notes
    -----
    Blind to what is registered: whether device and channel exist, whether a unit fits, whether an instant is plausible. `ingest.resolve` knows.

    Examples
    --------
    >>> got = decode("uw/town/pr-113/telemetry", b'{"at":"1970-01-01T00:00:02Z","values":{"pressure":341.5,"battery":"n/a"},"units":{"battery":"V"}}')
    >>> got.device, got.channel, got.value, got.observed_us
    ('pr-113', ('pressure',), [341.5], [2000000])
    >>> got.faults[0].message
    "'battery' must be a finite number in V, got 'n/a' (topic 'uw/town/pr-113/telemetry', field 2 of 2)"
    """
    address = _address(topic) if len(topic) <= TOPIC_CHARS_MAX else None
    if address is None:
        message = f"a topic must look like 'uw/{{site}}/{{device}}/telemetry', got {topic[:TOPIC_CHARS_MAX]!a}"
        return Decoded(None, faults=(Fault(FaultReason.TOPIC_UNKNOWN, message),))
    site_id, device_id = address
    if len(payload) <= PAYLOAD_BYTES_MAX:
        try:
            plain = _decode_plain(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        else:
            found = _plain(device_id, site_id, plain)
            if found is not None:
                return found
    faults = FaultList(device_id)
    document = _document(topic, payload, faults)
    samples = Samples()
    if document is not None:
        _message(topic, document, samples, faults)
    return samples.decoded(device_id, faults.result(), site_id)


def _plain(device_id: str, site_id: str, plain: _Plain) -> Decoded | None:
    """Return the samples of a message with nothing unusual in it, else None; the parser has refused numbers that are not finite."""
    at, values = plain.at, plain.values
    observed_us = _milliseconds_us(at) if type(at) is int else instant_us(at)
    shape = _shape(tuple(values), tuple(plain.units.items()))
    if observed_us is None or shape is None or plain.readings is not msgspec.UNSET:
        return None
    names, unit = shape
    return Decoded(device_id, names, (observed_us,) * len(names), tuple(values.values()), unit, None, None, None, None, (), site_id)


@lru_cache(maxsize=4096)
def _shape(names: tuple[str, ...], units: tuple[tuple[str, str], ...]) -> tuple[tuple[str, ...], tuple[str | None, ...] | None] | None:
    """Return channels and units of a message, always the same object for the same words; None when something is wrong with them."""
    if not 1 <= len(names) <= VALUES_MAX or not all(CHANNEL_PATTERN.fullmatch(name) for name in names):
        return None
    if not all(1 <= len(unit) <= UNIT_CHARS_MAX for _, unit in units):
        return None
    told = dict(units)
    return names, tuple([told.get(name) for name in names]) if told else None


@lru_cache(maxsize=16_384)
def _address(topic: str) -> tuple[str, str] | None:
    parts = topic.split("/", 4)
    if len(parts) != 4 or parts[0] != "uw" or parts[3] != "telemetry":
        return None
    if DEVICE_PATTERN.fullmatch(parts[1]) is None or DEVICE_PATTERN.fullmatch(parts[2]) is None:
        return None
    return parts[1], parts[2]


def _got(value: object, topic: str) -> str:
    return f"got {shown(value)} ({where(topic)})"


def _document(topic: str, payload: bytes, faults: FaultList) -> dict[str, Any] | None:
    """Return the JSON object of a message, or None with a fault added."""
    if is_too_large(payload, topic, faults):
        return None
    document = read_json(payload, topic, faults)
    if document is UNREADABLE:
        return None
    if not isinstance(document, dict):
        faults.add(FaultReason.SCHEMA, f"a message must be a JSON object, {_got(document, topic)}")
        return None
    return document


def _message(topic: str, document: dict[str, Any], samples: Samples, faults: FaultList) -> None:
    units: dict[str, str] = document.get("units", _NO_UNITS)
    if not isinstance(units, dict):
        # without its unit a value could be read wrong by a factor: better no value
        faults.add(
            FaultReason.SCHEMA, f"'units' must be an object of channel to unit, {_got(units, topic)}; no value of the message was taken"
        )
        return
    unreadable: set[str] = set()
    for channel, unit in units.items():
        if type(unit) is not str or not 1 <= len(unit) <= UNIT_CHARS_MAX:
            faults.add(
                FaultReason.SCHEMA,
                f"the unit of {shown(channel)} must be a text of 1..{UNIT_CHARS_MAX} characters, {_got(unit, topic)}; its values were not taken",
                channel,
            )
            unreadable.add(channel)
    if "readings" not in document:
        _reading(topic, document, units, unreadable, samples, faults, "")
        return
    readings = document["readings"]
    if "values" in document or "at" in document:
        faults.add(
            FaultReason.SCHEMA,
            f"a message must have either 'readings' or 'at' and 'values', got both; 'readings' were taken ({where(topic)})",
        )
    if not isinstance(readings, list) or not readings:
        faults.add(FaultReason.SCHEMA, f"'readings' must be an array of 1..{READINGS_MAX} objects, {_got(readings, topic)}")
        return
    total = len(readings)
    if total > READINGS_MAX:
        faults.add(
            FaultReason.TOO_MANY_READINGS,
            f"'readings' must hold at most {READINGS_MAX} readings, got {total}; the first {READINGS_MAX} were taken ({where(topic)})",
        )
    for number, reading in enumerate(readings[:READINGS_MAX], 1):
        place = f", reading {number} of {total}"
        if len(samples) >= SAMPLES_MAX:
            faults.add(
                FaultReason.TOO_MANY_READINGS,
                f"a message must hold at most {SAMPLES_MAX} values, got more; taken up to reading {number - 1} of {total} ({where(topic)})",
            )
            return
        if isinstance(reading, dict):
            _reading(topic, reading, units, unreadable, samples, faults, place)
        else:
            faults.add(
                FaultReason.SCHEMA, f"a reading must be an object with 'at' and 'values', got {shown(reading)} ({where(topic)}{place})"
            )


_NO_UNITS: dict[str, str] = {}


def _reading(
    topic: str,
    reading: dict[str, Any],
    units: dict[str, str],
    unreadable: set[str],
    samples: Samples,
    faults: FaultList,
    place: str,
) -> None:
    at = reading.get("at")
    observed_us = instant_us(at) if type(at) is str else _milliseconds_us(at)
    if observed_us is None:
        got = shown(at) if "at" in reading else "nothing"
        faults.add(
            FaultReason.TIME_INVALID,
            f"'at' must be an RFC 3339 instant with zone or whole milliseconds since 1970, got {got} ({where(topic)}{place})",
        )
        return
    values = reading.get("values")
    if not isinstance(values, dict) or not values:
        got = shown(values) if "values" in reading else "nothing"
        faults.add(FaultReason.SCHEMA, f"'values' must be an object of 1..{VALUES_MAX} channels, got {got} ({where(topic)}{place})")
        return
    number = 0
    for channel, value in values.items():
        number += 1
        if number > VALUES_MAX:
            faults.add(
                FaultReason.TOO_MANY_READINGS,
                f"'values' must hold at most {VALUES_MAX} channels, got {len(values)}; the first {VALUES_MAX} were taken ({where(topic)}{place})",
            )
            return
        if channel in unreadable:
            continue
        problem: tuple[FaultReason, str] | None = None
        quality = GOOD
        if len(channel) > CHANNEL_CHARS_MAX or not _is_channel_name(channel):
            problem = (
                FaultReason.SCHEMA,
                f"a channel name must be 1..{CHANNEL_CHARS_MAX} letters, digits, '_', '.' or '-', got {shown(channel)}",
            )
        elif type(value) is dict and "v" in value:
            said = value.get("q", "good")
            graded = QUALITIES.get(said) if type(said) is str else None
            value = value["v"]
            if graded is None:
                problem = FaultReason.SCHEMA, f"'q' of '{channel}' must be 'good', 'suspect' or 'bad', got {shown(said)}"
            else:
                quality = graded
        taken = finite(value)
        if taken is None and problem is None:
            reason = FaultReason.VALUE_NOT_FINITE if type(value) in (float, int) else FaultReason.VALUE_TYPE
            unit = units.get(channel)
            in_unit = f" in {unit}" if unit is not None and unit.isprintable() else ""
            problem = reason, f"'{channel}' must be a finite number{in_unit}, got {shown(value)}"
        if problem is not None or taken is None:
            assert problem is not None
            faults.add(problem[0], f"{problem[1]} ({where(topic)}{place}, field {number} of {len(values)})", channel)
            continue
        samples.add(channel, observed_us, taken, units.get(channel), quality[0], quality[1])


@lru_cache(maxsize=4096)
def _is_channel_name(channel: str) -> bool:
    return CHANNEL_PATTERN.fullmatch(channel) is not None


def _milliseconds_us(at: object) -> int | None:
    """Return microseconds since 1970 of whole milliseconds, or None."""
    if type(at) is float and at.is_integer():
        at = int(at)
    if type(at) is not int or not 0 <= at <= AT_MS_MAX:
        return None
    return at * 1000
