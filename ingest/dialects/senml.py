"""SenML: a pack of records in JSON or CBOR on ``senml/{tenant}/{device}`` (RFC 8428; docs/dialects/senml.md)."""

from __future__ import annotations

import re
from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec
import numpy as np

from ingest.decoded import ADDRESS_CHARS_MAX, SAMPLES_MAX, UNIT_CHARS_MAX, Decoded, FaultList, shown
from ingest.dialects.senml_cbor import NotCborError, read_cbor
from ingest.parts import TOPIC_SHOWN_CHARS_MAX, UNREADABLE, finite, is_too_large, read_json, where
from underway.model import Fault, FaultReason

NAME = "senml"
TOPIC_FILTERS = ("senml/+/+",)
ID_CHARS_MAX = 64
RELATIVE_S_BELOW = 2**28
"""A resolved time below this counts from now (RFC 8428, section 4.5.3)."""
AT_S_MAX = 253_402_300_799
VERSION = 10
VERSIONS = frozenset((10, 26))
"""RFC 8428, and the same with secondary units (RFC 9100: the bits of 10, and 16)."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*")
NAME_END_PATTERN = re.compile(r"[A-Za-z0-9:./_-]+")
SUM_SUFFIX = ".sum"
NAME_CHARS_MAX = ADDRESS_CHARS_MAX - len(SUM_SUFFIX)
JSON_SPACE = b" \t\r\n"
SHAPE_RECORDS_MAX = 256
"""Packs of more records are not remembered by their names."""

BASE_FIELDS = frozenset(("bn", "bt", "bu", "bv", "bs", "bver"))
VALUE_FIELDS = ("v", "vb", "vs", "vd")
FIELDS = BASE_FIELDS | {"n", "u", "v", "vs", "vb", "vd", "s", "t", "ut"}
LABELS: dict[object, str] = {
    -6: "bs", -5: "bv", -4: "bu", -3: "bt", -2: "bn", -1: "bver",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip


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
        records = None if records is None else _named(records)
    else:
        found = _plain_json(device, payload)
        if found is not None:
            return found
        records = _json_records(topic, payload, faults)
        total = len(records or ())
    pack = _Pack(topic, device, faults)
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
    if channel is None or (base_name and not _is_base_name(base_name)):
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


@lru_cache(maxsize=4096)
def _is_base_name(name: str) -> bool:
    return len(name) <= NAME_CHARS_MAX and NAME_PATTERN.fullmatch(name) is not None


# what is unusual, record by record


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


def _named(records: list[Any]) -> list[Any]:
    """Return CBOR records, as many as are read, with the names of their labels; what is no label stays as it is."""
    return [
        {LABELS.get(key, key) if isinstance(key, int) else key: value for key, value in record.items()}
        if isinstance(record, dict)
        else record
        for record in records[:SAMPLES_MAX]
    ]


class _Pack:
    """One pack, record by record: the base fields as they stand, and what was found so far."""

    def __init__(self, topic: str, device: str, faults: FaultList) -> None:
        self.topic, self.device, self.faults = topic, device, faults
        self.own_base: str | None = None
        self.base_name = ""
        self.base_time: float = 0
        self.base_unit: str | None = None
        self.base_value: float | None = None
        self.base_sum: float | None = None
        self.channel: list[str] = []
        self.observed_us: list[int] = []
        self.value: list[float] = []
        self.unit: list[str | None] = []
        self.from_reception: list[bool] = []
        self.number, self.total = 0, 0

    @property
    def place(self) -> str:
        """Return where the record in hand stands."""
        return f"({where(self.topic)}, record {self.number} of {self.total})"

    def read(self, records: list[Any], total: int) -> None:
        """Take every record that can be taken of `records`, the first of `total`."""
        self.total = total
        if self.total > SAMPLES_MAX:
            message = f"a pack must have at most {SAMPLES_MAX} records, got {self.total}; the first {SAMPLES_MAX} were taken ({where(self.topic)})"
            self.faults.add(FaultReason.TOO_MANY_READINGS, message)
            del records[SAMPLES_MAX:]
        if not self._is_understood(records):
            return
        said = False
        for self.number, record in enumerate(records, 1):
            if len(self.value) >= SAMPLES_MAX:
                message = f"a pack must have at most {SAMPLES_MAX} values; the first {SAMPLES_MAX} were taken {self.place}"
                self.faults.add(FaultReason.TOO_MANY_READINGS, message)
                return
            if not isinstance(record, dict):
                self.faults.add(FaultReason.SCHEMA, f"a record must be an object, got {shown(record)} {self.place}")
                said = True
                continue
            if not self._rebase(record):
                return
            if not BASE_FIELDS.issuperset(record):
                self._record(record)
                said = True
        if not said:
            message = f"a pack must have at least one record with a value, got {self.total} without ({where(self.topic)})"
            self.faults.add(FaultReason.SCHEMA, message)

    def decoded(self) -> Decoded:
        """Return what was found."""
        return Decoded(
            self.device,
            tuple(self.channel),
            self.observed_us,
            self.value,
            tuple(self.unit) if any(unit is not None for unit in self.unit) else None,
            from_reception=self.from_reception if any(self.from_reception) else None,
            faults=self.faults.result(),
        )

    def _is_understood(self, records: list[Any]) -> bool:
        """Return whether the pack may be read at all: its version, and the fields that must be understood."""
        for self.number, record in enumerate(records, 1):
            if not isinstance(record, dict):
                continue
            version = record.get("bver", VERSION)
            if type(version) is not int or version < 1 or (version > VERSION and version not in VERSIONS):
                allowed = " or ".join(map(str, sorted(VERSIONS)))
                self.faults.add(FaultReason.SCHEMA, f"'bver' must be {allowed}, got {shown(version)}; nothing was taken {self.place}")
                return False
            if FIELDS.issuperset(record):
                continue
            unknown = next((key for key in record if isinstance(key, str) and key.endswith("_")), None)
            if unknown is not None:
                message = f"a field that ends in '_' must be understood, and {shown(unknown)} is not; nothing was taken {self.place}"
                self.faults.add(FaultReason.SCHEMA, message)
                return False
        return True

    def _rebase(self, record: dict[Any, Any]) -> bool:
        """Take over the base fields of a record; return whether what follows can be read with them."""
        if BASE_FIELDS.isdisjoint(record):
            return True
        for field in ("bt", "bv", "bs"):
            if field in record:
                number = finite(record[field])
                if number is None:
                    return self._bad_base(field, "a finite number", record[field])
                if field == "bt":
                    self.base_time = number
                elif field == "bv":
                    self.base_value = number
                else:
                    self.base_sum = number
        if "bu" in record:
            if not _is_unit(record["bu"]):
                return self._bad_base("bu", f"a text of 1..{UNIT_CHARS_MAX} characters", record["bu"])
            self.base_unit = record["bu"]
        if "bn" in record:
            name = record["bn"]
            if not isinstance(name, str) or (name != "" and not _is_base_name(name)):
                return self._bad_base("bn", f"a name of at most {NAME_CHARS_MAX} characters", name)
            self.base_name = name
            if self.own_base is None:
                self.own_base = name
        return True

    def _bad_base(self, field: str, expected: str, got: object) -> bool:
        message = f"'{field}' must be {expected}, got {shown(got)}; no record from here on was taken {self.place}"
        self.faults.add(FaultReason.TIME_INVALID if field == "bt" else FaultReason.SCHEMA, message)
        return False

    def _record(self, record: dict[Any, Any]) -> None:
        address = self._channel_address(record)
        if address is None:
            return
        at = self._instant(record, address)
        if at is None:
            return
        unit = record.get("u", self.base_unit)
        if not (_is_unit(unit) or (unit is None and "u" not in record)):
            expected = f"the unit of {shown(address)} must be a text of 1..{UNIT_CHARS_MAX} characters"
            self.faults.add(FaultReason.SCHEMA, f"{expected}, got {shown(unit)} {self.place}", address)
            return
        given = [field for field in VALUE_FIELDS if field in record]
        if len(given) > 1:
            message = f"{shown(address)} must have one value, got '{given[0]}' and '{given[1]}' {self.place}"
            self.faults.add(FaultReason.SCHEMA, message, address)
            return
        if given:
            self._value(address, given[0], record[given[0]], at, unit)
        if "s" in record:
            # with a value beside it, a sum is a series of its own; its unit is the value's times a second, which is registered
            self._number(f"{address}{SUM_SUFFIX}" if given else address, "s", record["s"], self.base_sum, at, None if given else unit)
        elif not given:
            # a missing value counts as zero where a base is there to be added to it
            if self.base_value is not None:
                self._number(address, "v", 0, self.base_value, at, unit)
            elif self.base_sum is not None:
                self._number(address, "s", 0, self.base_sum, at, unit)
            else:
                self.faults.add(
                    FaultReason.SCHEMA, f"{shown(address)} must have a value 'v' or a sum 's', got neither {self.place}", address
                )

    def _channel_address(self, record: dict[Any, Any]) -> str | None:
        name = record.get("n", "")
        if isinstance(name, str) and len(name) <= NAME_CHARS_MAX:
            resolved = self.base_name + name
            own = self.own_base or ""
            address = resolved[len(own) :] if own and resolved.startswith(own) and len(resolved) > len(own) else resolved
            if len(address) <= NAME_CHARS_MAX and NAME_PATTERN.fullmatch(resolved) is not None:
                return address
        expected = f"a name must be letters, digits or '-:./_', begin with a letter or digit and have at most {NAME_CHARS_MAX} characters"
        got = shown(self.base_name + name) if isinstance(name, str) else shown(name)
        self.faults.add(FaultReason.SCHEMA, f"{expected}, got {got} {self.place}")
        return None

    def _instant(self, record: dict[Any, Any], address: str) -> tuple[int, bool] | None:
        """Return the microseconds, and whether they count from reception; None with a fault added."""
        told = record.get("t", 0)
        number = finite(told)
        if number is not None:
            at_s = self.base_time + number
            if -RELATIVE_S_BELOW < at_s <= AT_S_MAX:
                return round(at_s * 1_000_000), at_s < RELATIVE_S_BELOW
            told = at_s
        message = f"the time of {shown(address)} must be seconds since 1970 or, below 2**28, from now, got {shown(told)} {self.place}"
        self.faults.add(FaultReason.TIME_INVALID, message, address)
        return None

    def _value(self, address: str, field: str, told: object, at: tuple[int, bool], unit: str | None) -> None:
        if field == "v":
            self._number(address, "v", told, self.base_value, at, unit)
        elif field == "vb" and isinstance(told, bool):
            self._take(address, float(told), at, None)  # a switch has no unit
        else:
            expected = "true or false" if field == "vb" else "a number to be a measurement"
            message = f"{shown(address)} must be {expected}, got {shown(told)} as '{field}' {self.place}"
            self.faults.add(FaultReason.VALUE_TYPE, message, address)

    def _number(self, address: str, field: str, told: object, base: float | None, at: tuple[int, bool], unit: str | None) -> None:
        number = finite(told)
        total = None if number is None else number + (base or 0)
        if total is None or not isfinite(total):
            reason = FaultReason.VALUE_NOT_FINITE if type(told) in (int, float) else FaultReason.VALUE_TYPE
            in_unit = f" in {unit}" if unit is not None and unit.isprintable() and unit.isascii() else ""
            got = told if number is None else total
            self.faults.add(
                reason, f"{shown(address)} must be a finite number{in_unit}, got {shown(got)} as '{field}' {self.place}", address
            )
            return
        self._take(address, total, at, unit)

    def _take(self, address: str, value: float, at: tuple[int, bool], unit: str | None) -> None:
        if len(self.value) >= SAMPLES_MAX:
            return  # a sum beside the last value that is allowed; the next record says so
        self.channel.append(address)
        self.observed_us.append(at[0])
        self.value.append(value)
        self.unit.append(unit)
        self.from_reception.append(at[1])


def _is_unit(unit: object) -> bool:
    return isinstance(unit, str) and 1 <= len(unit) <= UNIT_CHARS_MAX
