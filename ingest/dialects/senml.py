"""SenML: a pack of records in JSON or CBOR on ``senml/{tenant}/{device}`` (RFC 8428; docs/dialects/senml.md)."""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec
import numpy as np

from ingest.decoded import SAMPLES_MAX, UNIT_CHARS_MAX, Decoded, FaultList, shown
from ingest.parts import TOPIC_SHOWN_CHARS_MAX, UNREADABLE, is_too_large, read_json, where
from ingest.senml_cbor import NotCborError, read_cbor
from ingest.senml_pack import (
    AT_S_MAX,
    NAME_CHARS_MAX,
    NAME_END_PATTERN,
    NAME_PATTERN,
    RELATIVE_S_BELOW,
    VERSION,
    VERSIONS,
    Pack,
    is_base_name,
    named,
)
from underway.model import Fault, FaultReason

NAME = "senml"
TOPIC_FILTERS = ("senml/+/+",)
ID_CHARS_MAX = 64
JSON_SPACE = b" \t\r\n"
SHAPE_RECORDS_MAX = 256
"""Packs of more records are not remembered by their names."""


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The common record, as the parser can check it by itself; a pack with any other goes record by record."""

    v: float
    n: str = ""
    t: float = 0.0
    u: str | None = None


class _First(_Plain, forbid_unknown_fields=True, gc=False):
    """The first record of a common pack: it alone has base fields."""

    bn: str = ""
    bt: float = 0.0
    bu: str | None = None
    bver: int = VERSION


_decode_first = msgspec.json.Decoder(_First).decode
_decode_plain = msgspec.json.Decoder(list[_Plain]).decode


def decode(topic: str, payload: bytes) -> Decoded:
    """Return what one pack says; never raises.

    A bad record costs a record; a bad base field costs the records from there on, which would be wrong without it; a field that must be
    understood, and is not, costs the pack.

    Parameters
    ----------
    topic : str
        ``senml/{tenant}/{device}``: the device's address is ``{tenant}/{device}``.
    payload : bytes
        An array of records, at most 256 kB: CBOR when its first byte is 0x80 or more, else JSON. At most 10,000 values.

    Returns
    -------
    Decoded
        A channel's address is what follows the pack's first base name, or the whole resolved name where it does not begin with that. The
        sum of a record that has a value too is the channel ``name.sum``. Times below 2**28 s count from reception.

    Notes
    -----
    A pack of plain records (name, value, unit, time; base fields in the first) is taken by column, about 0.7 us a record in JSON; anything
    else goes record by record, about 5 us. ``ut`` is not looked at. Blind to what is registered, and to whether a unit fits.

    References
    ----------
    RFC 8428 (SenML), RFC 8798 (units), RFC 9100 (versions).

    Examples
    --------
    >>> pack = b'[{"bn":"urn:dev:mac:0024befffe804ff1:","bt":1e9,"n":"flow","u":"m3/s","v":0.5},{"n":"level","t":-60,"v":2}]'
    >>> got = decode("senml/north/pr-113", pack)
    >>> got.device, got.channel, got.value, got.unit
    ('north/pr-113', ('flow', 'level'), [0.5, 2.0], ('m3/s', None))
    >>> got.observed_us
    [1000000000000000, 999999940000000]
    """
    device = _address(topic)
    if device is None:
        message = f"a topic must look like 'senml/{{tenant}}/{{device}}', got {topic[:TOPIC_SHOWN_CHARS_MAX]!a}"
        return Decoded(None, faults=(Fault(FaultReason.TOPIC_UNKNOWN, message),))
    faults = FaultList(device)
    if is_too_large(payload, topic, faults):
        return Decoded(device, faults=faults.result())
    if payload[:1] >= b"\x80":
        records = _cbor_records(topic, payload, faults)
        found = _plain_cbor(device, payload, records) if records else None
        if found is not None:
            return found
        total = len(records or ())
        records = None if records is None else named(records)
    else:
        found = _plain_json(device, payload)
        if found is not None:
            return found
        records = _json_records(topic, payload, faults)
        total = len(records or ())
    pack = Pack(topic, device, faults)
    if records is not None:
        pack.read(records, total)
    return pack.decoded()


@lru_cache(maxsize=16_384)
def _address(topic: str) -> str | None:
    first, _, rest = topic.partition("/")
    tenant, _, device = rest.partition("/")
    if first != "senml" or "/" in device:
        return None
    for part in (tenant, device):
        if not 1 <= len(part) <= ID_CHARS_MAX or not part.isprintable() or "+" in part or "#" in part:
            return None
    return rest


# what is common, by column


def _plain_json(device: str, payload: bytes) -> Decoded | None:
    """Return the samples of a JSON pack with nothing unusual in it, else None."""
    begin, end = payload.find(b"{"), payload.find(b"}") + 1
    if payload[:begin].strip(JSON_SPACE) != b"[" or end <= begin or b"null" in payload:
        return None
    rest = payload[end:].lstrip(JSON_SPACE)
    try:
        # a brace inside a text leaves the text open, which the parser refuses
        first = _decode_first(payload[begin:end])
        if rest[:1] == b",":
            records = _decode_plain(b"[" + rest[1:])
            if not records:
                return None  # a comma before the end
        elif rest.rstrip(JSON_SPACE) == b"]":
            records = []
        else:
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if len(records) >= SAMPLES_MAX or first.bver not in VERSIONS:
        return None
    records.insert(0, first)
    return _columns(
        device,
        first.bn,
        first.bt,
        first.bu,
        tuple([r.n for r in records]),
        [r.v for r in records],
        [r.t for r in records],
        [r.u for r in records],
    )


_PLAIN_LABELS = frozenset((0, 1, 2, 6))
_PLAIN_FIRST_LABELS = _PLAIN_LABELS | {-1, -2, -3, -4}
_NUMBERS = frozenset((int, float))
_TEXTS = frozenset((str, type(None)))


def _plain_cbor(device: str, payload: bytes, records: list[Any]) -> Decoded | None:
    """Return the samples of a CBOR pack with nothing unusual in it, else None."""
    if set(map(type, records)) != {dict} or len(records) > SAMPLES_MAX:
        return None
    first: dict[object, Any] = records[0]
    if not _PLAIN_FIRST_LABELS.issuperset(first) or not _PLAIN_LABELS.issuperset(set().union(*records[1:])):
        return None
    base_name, base_time, base_unit = first.get(-2, ""), first.get(-3, 0), first.get(-4)
    if (
        type(base_name) is not str
        or type(base_time) not in _NUMBERS
        or type(base_unit) not in _TEXTS
        or (base_unit is None and -4 in first)
    ):
        return None
    version = first.get(-1, VERSION)
    if type(version) is not int or version not in VERSIONS:
        return None
    names = tuple([r.get(0, "") for r in records])
    values = [r.get(2) for r in records]
    times = [r.get(6, 0) for r in records]
    units = [r.get(1) for r in records]
    if not (set(map(type, names)) == {str} and _NUMBERS.issuperset(map(type, values)) and _NUMBERS.issuperset(map(type, times))):
        return None
    if not _TEXTS.issuperset(map(type, units)) or (b"\xf6" in payload and any(1 in r and r[1] is None for r in records)):
        return None
    return _columns(device, base_name, base_time, base_unit, names, list(map(float, values)), times, units)


def _columns(
    device: str,
    base_name: str,
    base_time: float,
    base_unit: str | None,
    names: tuple[str, ...],
    values: list[float],
    times: list[float],
    units: list[str | None],
) -> Decoded | None:
    """Return the columns, or None when one value in them is unusual."""
    channel = _shape(names, base_name != "") if len(names) <= SHAPE_RECORDS_MAX else _shape.__wrapped__(names, base_name != "")
    if channel is None or (base_name and not is_base_name(base_name)):
        return None
    if not isfinite(sum(values)) or not isfinite(sum(times)):
        return None
    n = len(values)
    early, late = base_time + min(times), base_time + max(times)
    relative = late < RELATIVE_S_BELOW
    if not (early > -RELATIVE_S_BELOW if relative else early >= RELATIVE_S_BELOW and late <= AT_S_MAX):
        return None
    if early == late:
        observed_us = [round(early * 1_000_000)] * n
    else:
        observed_us = np.rint((np.array(times, np.float64) + base_time) * 1e6).astype(np.int64).tolist()
    unit: tuple[str | None, ...] | None
    if base_unit is not None and not 1 <= len(base_unit) <= UNIT_CHARS_MAX:
        return None
    if units.count(None) == n:
        unit = None if base_unit is None else (base_unit,) * n
    else:
        unit = tuple(units) if base_unit is None else tuple([base_unit if u is None else u for u in units])
        if any(u is not None and not 1 <= len(u) <= UNIT_CHARS_MAX for u in set(unit)):
            return None
    return Decoded(device, channel, observed_us, values, unit, from_reception=(True,) * n if relative else None)


@lru_cache(maxsize=1024)
def _shape(names: tuple[str, ...], has_base: bool) -> tuple[str, ...] | None:
    """Return `names` when each is legal behind a base name (or, without one, as a whole); the same object for the same names."""
    pattern = NAME_END_PATTERN if has_base else NAME_PATTERN
    ok = all(len(name) <= NAME_CHARS_MAX and pattern.fullmatch(name) is not None for name in names)
    return names if ok else None


# the document


def _json_records(topic: str, payload: bytes, faults: FaultList) -> list[Any] | None:
    """Return the array of a JSON pack, or None with a fault added."""
    document = read_json(payload, topic, faults, "a pack", "JSON or CBOR")
    return None if document is UNREADABLE else _array(topic, document, faults)


def _cbor_records(topic: str, payload: bytes, faults: FaultList) -> list[Any] | None:
    """Return the array of a CBOR pack with its labels as they are, or None with a fault added."""
    try:
        document = read_cbor(payload)
    except NotCborError as error:
        faults.add(FaultReason.PAYLOAD_NOT_CBOR, f"a pack must be CBOR, got {shown(bytes(payload[:40]))}: {error} ({where(topic)})")
        return None
    return _array(topic, document, faults)


def _array(topic: str, document: object, faults: FaultList) -> list[Any] | None:
    if isinstance(document, list):
        return document
    faults.add(FaultReason.SCHEMA, f"a pack must be an array of records, got {shown(document)} ({where(topic)})")
    return None
