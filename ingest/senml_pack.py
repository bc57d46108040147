"""A SenML pack (RFC 8428) record by record: base fields as they come, and one fault for each thing that is wrong."""

from __future__ import annotations

import re
from functools import lru_cache
from math import isfinite
from typing import Any

from ingest.decoded import ADDRESS_CHARS_MAX, SAMPLES_MAX, UNIT_CHARS_MAX, Decoded, FaultList, shown
from ingest.parts import finite, where
from underway.model import FaultReason

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

BASE_FIELDS = frozenset(("bn", "bt", "bu", "bv", "bs", "bver"))
VALUE_FIELDS = ("v", "vb", "vs", "vd")
FIELDS = BASE_FIELDS | {"n", "u", "v", "vs", "vb", "vd", "s", "t", "ut"}
LABELS: dict[object, str] = {
    -6: "bs", -5: "bv", -4: "bu", -3: "bt", -2: "bn", -1: "bver",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip


@lru_cache(maxsize=4096)
def is_base_name(name: str) -> bool:
    """Return whether a name that is not empty may stand before others, or alone."""
    return len(name) <= NAME_CHARS_MAX and NAME_PATTERN.fullmatch(name) is not None


def named(records: list[Any]) -> list[Any]:
    """Return CBOR records, as many as are read, with the names of their labels; what is no label stays as it is."""
    return [
        {LABELS.get(key, key) if isinstance(key, int) else key: value for key, value in record.items()}
        if isinstance(record, dict)
        else record
        for record in records[:SAMPLES_MAX]
    ]


class Pack:
    """One pack: the base fields as they stand, and what was found so far.

    Parameters
    ----------
    topic, device : str
        Where it was said, and by whom.
    faults : FaultList
        Collects what is wrong.
    """

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
            if not isinstance(name, str) or (name != "" and not is_base_name(name)):
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
