"""What dialects in JSON share: a payload as a document, a number, an instant, and where something stood."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec

from ingest.decoded import PAYLOAD_BYTES_MAX, FaultList, shown
from underway.model import EPOCH_AT, FaultReason

TOPIC_SHOWN_CHARS_MAX = 160
AT_CHARS_MAX = 40
UNREADABLE = msgspec.UNSET
"""Instead of a document: there is none, and the faults say why."""

_AT_PATTERN = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_MICROSECOND = timedelta(microseconds=1)

_decode_json = msgspec.json.Decoder().decode


def where(topic: str) -> str:
    """Return the topic as the message of a fault shows it."""
    return f"topic {topic[:TOPIC_SHOWN_CHARS_MAX]!a}"


def is_too_large(payload: bytes, topic: str, faults: FaultList) -> bool:
    """Return whether a payload is too large to be looked into; then a fault is added."""
    if len(payload) <= PAYLOAD_BYTES_MAX:
        return False
    faults.add(FaultReason.PAYLOAD_TOO_LARGE, f"a payload must have at most {PAYLOAD_BYTES_MAX} bytes, got {len(payload)} ({where(topic)})")
    return True


def read_json(payload: bytes, topic: str, faults: FaultList, what: str = "a payload", form: str = "JSON") -> Any:
    """Return the document of a payload, or `UNREADABLE` with a fault added.

    Parameters
    ----------
    payload : bytes
        Bounded by the caller.
    topic : str
    faults : FaultList
    what, form : str
        What must be what, for the message.

    Notes
    -----
    The strict parser refuses ``NaN``, ``Infinity`` and ``1e999``, and the whole with them; the lenient one that is asked then reads them, so
    that each costs one field.
    """
    try:
        return _decode_json(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(payload.decode())
    except UnicodeDecodeError as error:
        got = f"byte 0x{payload[error.start]:02x} at position {error.start}"
        faults.add(FaultReason.PAYLOAD_NOT_UTF8, f"{what} must be UTF-8 text, got {got} ({where(topic)})")
    except (ValueError, RecursionError):
        faults.add(FaultReason.PAYLOAD_NOT_JSON, f"{what} must be {form}, got {shown(bytes(payload[:40]))} ({where(topic)})")
    return UNREADABLE


def finite(value: object) -> float | None:
    """Return a number as a finite float, or None; true and false are not numbers.

    Examples
    --------
    >>> finite(2), finite(2.5), finite(float("inf")), finite(10**400), finite(True), finite("2")
    (2.0, 2.5, None, None, None, None)
    """
    if type(value) is float:
        return value if isfinite(value) else None
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return None
    return None


@lru_cache(maxsize=8192)
def instant_us(text: str) -> int | None:
    """Return microseconds since 1970 of an RFC 3339 instant with zone, or None; digits beyond the microsecond are cut off.

    Examples
    --------
    >>> instant_us("1970-01-01T00:00:02.000000999Z"), instant_us("1970-01-01T01:00:02+01:00"), instant_us("1970-01-01T00:00:02")
    (2000000, 2000000, None)
    """
    if len(text) > AT_CHARS_MAX or _AT_PATTERN.fullmatch(text) is None:
        return None
    try:
        return (datetime.fromisoformat(text.upper()) - EPOCH_AT) // _MICROSECOND
    except ValueError:
        return None  # 30 February, 25 o'clock


def instant_of(value: object) -> int | None:
    """Return `instant_us` of any document value; None for what is no text."""
    return instant_us(value) if type(value) is str else None
