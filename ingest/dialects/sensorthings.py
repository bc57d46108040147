"""OGC SensorThings 1.0 and 1.1: an Observation, created by publishing it (docs/dialects/sensorthings.md)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from ingest.decoded import ADDRESS_CHARS_MAX, VALUES_MAX, Decoded, FaultList, Samples, shown
from ingest.parts import TOPIC_SHOWN_CHARS_MAX, UNREADABLE, finite, instant_us, is_too_large, read_json, where
from underway.model import Fault, FaultReason, Quality, QualityReason

NAME = "sensorthings"
TOPIC_FILTERS = ("v1.1/Observations", "v1.1/+/Observations", "v1.0/Observations", "v1.0/+/Observations")
ID_CHARS_MAX = 64
RESULT = "result"
SERIES = ("Datastream", "MultiDatastream")

_TOPIC = re.compile(r"v1\.[01]/(?:(?P<set>Datastreams|MultiDatastreams|FeaturesOfInterest)\((?P<id>[^/]+)\)/)?Observations")
_INTEGER_ID = re.compile(r"-?[0-9]{1,19}")
_TEXT_ID = re.compile(r"'(?:[^']|'')+'")

Grade = tuple[Quality, QualityReason]
GOOD: Grade = (Quality.GOOD, QualityReason.NONE)
STALE: Grade = (Quality.SUSPECT, QualityReason.DEVICE_SAYS_STALE)
SUSPECT: Grade = (Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD)
BAD: Grade = (Quality.BAD, QualityReason.DEVICE_SAYS_BAD)
WORDS: dict[str, Grade] = {"good": GOOD, "suspect": SUSPECT, "uncertain": SUSPECT, "stale": STALE, "bad": BAD}
STALE_CODE = 500
ELEMENTS_MAX = 16
"""Most elements of one resultQuality that are looked at."""
MEASURES = frozenset(("quality", "status"))
"""Elements of a resultQuality under another ``nameOfMeasure`` (an accuracy, say) do not grade."""


class _Plain(msgspec.Struct):
    """The common observation on the topic of its Datastream, as the parser can check it by itself."""

    result: float
    at: str = msgspec.field(name="phenomenonTime")
    quality: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="resultQuality", default=msgspec.UNSET)
    one: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="Datastream", default=msgspec.UNSET)
    many: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="MultiDatastream", default=msgspec.UNSET)


_decode_plain = msgspec.json.Decoder(_Plain).decode


def decode(topic: str, payload: bytes) -> Decoded:
    """Return what one observation says; never raises.

    Parameters
    ----------
    topic : str
        ``v1.1/Datastreams(5)/Observations``, ``v1.1/MultiDatastreams(3)/Observations``; or ``v1.1/Observations`` and
        ``v1.1/FeaturesOfInterest(9)/Observations``, where the payload says which Datastream. The same under ``v1.0``.
    payload : bytes
        UTF-8 JSON, at most 256 kB: an Observation.

    Returns
    -------
    Decoded
        The device's address is the Datastream, ``Datastreams(5)``; a channel's is ``result``, or ``result.<key>`` and ``result.<index>`` for a
        result of several numbers (at most 64). No unit: it stands in the Datastream.

    Notes
    -----
    Observed is the phenomenonTime, of an interval its end; without one the resultTime; without that the instant of reception.

    References
    ----------
    OGC 18-088, SensorThings API part 1: Sensing, version 1.1.

    Examples
    --------
    >>> got = decode("v1.1/Datastreams(5)/Observations", b'{"phenomenonTime":"1970-01-01T00:00:02Z","result":41.72}')
    >>> got.device, got.channel, got.value, got.observed_us
    ('Datastreams(5)', ('result',), (41.72,), (2000000,))
    """
    series = _series_of(topic)
    if series is None:
        message = f"a topic must look like 'v1.1/Datastreams(5)/Observations', got {topic[:TOPIC_SHOWN_CHARS_MAX]!a}"
        return Decoded(None, faults=(Fault(FaultReason.TOPIC_UNKNOWN, message),))
    faults = FaultList(series or None)
    if is_too_large(payload, topic, faults):
        return Decoded(series or None, faults=faults.result())
    if series:
        found = _plain(series, payload)
        if found is not None:
            return found
    document = read_json(payload, topic, faults)
    if document is UNREADABLE:
        return Decoded(series or None, faults=faults.result())
    if not isinstance(document, dict):
        faults.add(FaultReason.SCHEMA, f"an observation must be a JSON object, got {shown(document)} ({where(topic)})")
        return Decoded(series or None, faults=faults.result())
    device = _device(document, series, topic, faults)
    if device is None:
        return Decoded(series or None, faults=faults.result())
    return _Observation(topic, device).decoded(document)


def _plain(device: str, payload: bytes) -> Decoded | None:
    """Return the sample of an observation with nothing unusual in it, else None."""
    try:
        plain = _decode_plain(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if plain.quality is not msgspec.UNSET or plain.one is not msgspec.UNSET or plain.many is not msgspec.UNSET:
        return None
    observed_us = instant_us(plain.at)
    value = finite(plain.result)
    if observed_us is None or value is None:
        return None
    return Decoded(device, _RESULT_ALONE, (observed_us,), (value,))


_RESULT_ALONE = (RESULT,)


@lru_cache(maxsize=16_384)
def _series_of(topic: str) -> str | None:
    """Return the Datastream that a topic names, the empty text when the payload must, or None when it is no topic of ours."""
    if len(topic) > ADDRESS_CHARS_MAX:
        return None
    found = _TOPIC.fullmatch(topic)
    if found is None:
        return None
    if found["set"] is None:
        return ""
    told = found["id"]
    if _INTEGER_ID.fullmatch(told) is not None:
        key = str(int(told))
    elif _TEXT_ID.fullmatch(told) is not None and len(told) <= ID_CHARS_MAX + 2 and told.isprintable():
        key = told
    else:
        return None
    return "" if found["set"] == "FeaturesOfInterest" else f"{found['set']}({key})"


def _device(document: dict[str, Any], series: str, topic: str, faults: FaultList) -> str | None:
    """Return the address of the Datastream that an observation belongs to, or None with a fault added."""
    named = [name for name in SERIES if document.get(name) is not None]
    if not named:
        if series:
            return series
        faults.add(
            FaultReason.SCHEMA,
            f"an observation must name its 'Datastream' with an '@iot.id' where the topic does not, got none ({where(topic)})",
        )
        return None
    link = document[named[0]]
    key = link.get("@iot.id") if isinstance(link, dict) else None
    address = None
    if type(key) is int and abs(key) < 10**19:
        address = f"{named[0]}s({key})"
    elif type(key) is str and 1 <= len(key) <= ID_CHARS_MAX and key.isprintable():
        quoted = key.replace("'", "''")
        address = f"{named[0]}s('{quoted}')"
    if len(named) > 1 or address is None:
        got = "both" if len(named) > 1 else shown(link) if not isinstance(link, dict) or "@iot.id" not in link else f"the id {shown(key)}"
        expected = f"an observation must name one 'Datastream' or 'MultiDatastream' by an '@iot.id' of 1..{ID_CHARS_MAX} characters"
        faults.add(FaultReason.SCHEMA, f"{expected}, got {got} ({where(topic)})")
        return None
    if series and address != series:
        message = f"topic and payload must name the same Datastream, got {series!a} and {address!a} ({where(topic)})"
        faults.add(FaultReason.SCHEMA, message)
        return None
    return address


class _Observation:
    """One observation, field by field."""

    def __init__(self, topic: str, device: str) -> None:
        self.topic, self.device = topic, device
        self.faults = FaultList(device)
        self.samples = Samples()

    def fault(self, reason: FaultReason, message: str, channel: str | None = None) -> None:
        self.faults.add(reason, f"{message} ({where(self.topic)})", channel)

    def decoded(self, document: dict[str, Any]) -> Decoded:
        """Return the samples and faults."""
        observed_us, known = self._observed(document)
        if known:
            self._result(document, 0 if observed_us is None else observed_us, _grade(document.get("resultQuality")))
        decoded = self.samples.decoded(self.device, self.faults.result())
        if observed_us is None and len(decoded):
            return msgspec.structs.replace(decoded, from_reception=(True,) * len(decoded))
        return decoded

    def _observed(self, document: dict[str, Any]) -> tuple[int | None, bool]:
        """Return the observed instant, None for that of reception, and whether the result may be taken at all."""
        for field in ("phenomenonTime", "resultTime"):
            told = document.get(field)
            if told is None:
                continue
            ends = told.split("/") if isinstance(told, str) and len(told) <= 2 * ADDRESS_CHARS_MAX else []
            found = [instant_us(end) for end in ends]
            if len(found) == 1 and found[0] is not None:
                return found[0], True
            # an interval is observed when it is over
            if len(found) == 2 and found[0] is not None and found[1] is not None and found[0] <= found[1]:
                return found[1], True
            expected = f"'{field}' must be an ISO 8601 instant with zone, or an interval 'start/end' of two"
            self.fault(FaultReason.TIME_INVALID, f"{expected}, got {shown(told)}")
            return None, False
        return None, True

    def _result(self, document: dict[str, Any], observed_us: int, grade: Grade) -> None:
        result = document.get(RESULT)
        if isinstance(result, dict):
            members: list[tuple[str, Any]] = [(key, value) for key, value in result.items() if value is not None]
        elif isinstance(result, list):
            members = [(str(index), value) for index, value in enumerate(result) if value is not None]
        elif RESULT not in document:
            self.fault(FaultReason.SCHEMA, f"an observation must have a '{RESULT}', got none", RESULT)
            return
        else:
            self._member(RESULT, result, observed_us, grade)
            return
        if not members:
            self.fault(FaultReason.SCHEMA, f"'{RESULT}' must be a number, or hold 1..{VALUES_MAX} numbers, got {shown(result)} without one")
            return
        if len(members) > VALUES_MAX:
            message = f"'{RESULT}' must hold at most {VALUES_MAX} numbers, got {len(members)}; the first {VALUES_MAX} were taken"
            self.fault(FaultReason.TOO_MANY_READINGS, message)
        for key, value in members[:VALUES_MAX]:
            channel = f"{RESULT}.{key}"
            if not key or len(channel) > ADDRESS_CHARS_MAX or not key.isprintable():
                expected = f"a key of '{RESULT}' must be 1..{ADDRESS_CHARS_MAX - len(RESULT) - 1} printable characters"
                self.fault(FaultReason.SCHEMA, f"{expected}, got {shown(key)}")
                continue
            self._member(channel, value, observed_us, grade)

    def _member(self, channel: str, told: object, observed_us: int, grade: Grade) -> None:
        value = finite(told)
        if value is None:
            reason = FaultReason.VALUE_NOT_FINITE if type(told) in (int, float) else FaultReason.VALUE_TYPE
            self.fault(reason, f"{shown(channel)} must be a finite number, got {shown(told)}", channel)
            return
        self.samples.add(channel, observed_us, value, None, *grade)


def _grade(told: object) -> Grade:
    """Return what a resultQuality says of the value: the worst of its elements.

    Examples
    --------
    >>> [_grade(told)[0].name for told in (None, 192, {"nameOfMeasure": "Quality", "value": 0}, "suspect", {"DQ_Result": {"value": "good"}})]
    ['GOOD', 'GOOD', 'BAD', 'SUSPECT', 'GOOD']
    """
    elements = told[:ELEMENTS_MAX] if isinstance(told, list) else [told]
    return max((_element(element) for element in elements), default=GOOD)


def _element(told: object) -> Grade:
    if isinstance(told, dict):
        measure = told.get("nameOfMeasure")
        if measure is not None and (not isinstance(measure, str) or measure.casefold() not in MEASURES):
            return GOOD
        inner = told.get("DQ_Result")
        told = inner.get("value") if isinstance(inner, dict) else told.get("value")
    if told is None:
        return GOOD
    if isinstance(told, str):
        return WORDS.get(told[:ID_CHARS_MAX].strip().casefold(), SUSPECT)
    code = finite(told)
    if code is None:
        return SUSPECT
    if code == STALE_CODE:
        return STALE
    # the classes of OPC: 192 and up good, below 64 bad, uncertain between
    return GOOD if 192 <= code < 256 else BAD if 0 <= code < 64 else SUSPECT
