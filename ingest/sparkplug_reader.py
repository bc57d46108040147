"""Sparkplug messages read with care: a bad metric costs that metric, and every loss is said in a sentence."""

from __future__ import annotations

import zlib
from math import isfinite
from typing import Any

from google.protobuf.message import DecodeError

from ingest.decoded import PAYLOAD_BYTES_MAX, SAMPLES_MAX, AnnouncedChannel, Announcement, Decoded, FaultList, shown
from ingest.sparkplug_message import (
    AT_MS_MAX,
    BD_SEQ,
    BIRTHS,
    COMMANDS,
    NUMBERED,
    NUMERIC,
    SEQ_COUNT,
    BornMetric,
    Kind,
    SparkplugMessage,
    signed,
)
from ingest.sparkplug_names import ALIAS_MAX, is_control, name_problem, unit_of
from ingest.sparkplug_schema import ABSENT, DataType, Payload
from underway.model import FaultReason, Quality, QualityReason

ANNOUNCED_MAX = 5000
"""Most metrics of one birth; more are a fault."""
DETAILS_MAX = 10
PROPERTIES_MAX = 32
COMPRESSED_UUID = "SPBV1.0_COMPRESSED"
QUALITIES = {
    0: (int(Quality.BAD), int(QualityReason.DEVICE_SAYS_BAD)),
    192: (int(Quality.GOOD), int(QualityReason.NONE)),
    500: (int(Quality.SUSPECT), int(QualityReason.DEVICE_SAYS_STALE)),
}
OTHER_QUALITY = (int(Quality.SUSPECT), int(QualityReason.DEVICE_SAYS_BAD))
_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN, _STRING = "int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value"


class Reader:
    """Reads one message with care: a bad metric costs that metric."""

    def __init__(self, topic: str, kind: Kind, node: str, device: str, address: str) -> None:
        self.topic, self.kind, self.node, self.device, self.address = topic, kind, node, device, address
        self.faults = FaultList(address)
        self.sent_ms: int | None = None
        self.channel: list[str] = []
        self.aliases: list[int] = []
        self.observed_us: list[int] = []
        self.value: list[float] = []
        self.unit: list[str | None] = []
        self.quality: list[tuple[int, int]] = []
        self.from_reception: list[bool] = []
        self.historical: list[bool] = []
        self.width = bytearray()
        self.born: list[BornMetric] = []
        self.details: dict[str, str | int | float | bool | None] = {}
        self.bd_seq: int | None = None
        self.ignored = 0
        self.nulls = 0

    def read(self, payload: bytes) -> Decoded:
        """Return what the message says."""
        message = self._message(payload)
        if message is None:
            return Decoded(self.address, faults=self.faults.result())
        if message.HasField("timestamp") and message.timestamp != ABSENT:
            self.sent_ms = self._instant(message.timestamp, "the payload")
        seq = self._seq(message)
        if self.kind in COMMANDS:
            more = SparkplugMessage(self.kind, self.node, self.device, self.sent_ms, ignored=len(message.metrics))
            return Decoded(self.address, faults=self.faults.result(), more=more)
        metrics = message.metrics
        most = ANNOUNCED_MAX if self.kind in BIRTHS else SAMPLES_MAX
        if len(metrics) > most:
            self.fault(
                FaultReason.TOO_MANY_READINGS,
                f"{self.kind} must have at most {most} metrics, got {len(metrics)}; those beyond were not taken",
            )
        for number, metric in enumerate(metrics, 1):
            if number > most:
                break
            self._metric(metric, number)
        if self.kind in (Kind.NBIRTH, Kind.NDEATH) and self.bd_seq is None:
            self.fault(FaultReason.SCHEMA, f"{self.kind} must have the metric 'bdSeq' with a whole number, got none")
        return self._result(seq)

    def fault(self, reason: FaultReason, message: str, channel: str | None = None) -> None:
        """Note something wrong."""
        self.faults.add(reason, f"{message} (topic {self.topic[:160]!a})", channel)

    def _message(self, payload: bytes) -> Any:
        """Return the protobuf message, unpacked where it is compressed, or None with a fault added."""
        message = self._parsed(payload)
        if message is None or message.uuid != COMPRESSED_UUID:
            return message
        unpacked = self._unpacked(message)
        if unpacked is None:
            return None
        inner = self._parsed(unpacked)
        if inner is None:
            return None
        if inner.uuid == COMPRESSED_UUID:
            self.fault(FaultReason.SCHEMA, "a compressed payload must hold a plain one, got another compressed one")
            return None
        for name in ("timestamp", "seq"):
            if message.HasField(name) and not inner.HasField(name):
                setattr(inner, name, getattr(message, name))
        return inner

    def _parsed(self, payload: bytes) -> Any:
        try:
            return Payload.FromString(payload)
        except DecodeError:
            self.fault(FaultReason.PAYLOAD_NOT_PROTOBUF, f"a payload must be protobuf of Sparkplug B, got {shown(bytes(payload[:40]))}")
            return None

    def _unpacked(self, message: Any) -> bytes | None:
        """Return the body of a compressed message; never more than the limit is unpacked."""
        told = next((m.string_value for m in message.metrics[:PROPERTIES_MAX] if m.name == "algorithm"), "DEFLATE")
        ways = _WINDOWS.get(told if isinstance(told, str) else "")
        if ways is None:
            self.fault(FaultReason.SCHEMA, f"the algorithm of a compressed payload must be 'DEFLATE' or 'GZIP', got {shown(told)}")
            return None
        for window in ways:
            unpacker = zlib.decompressobj(window)
            try:
                unpacked = unpacker.decompress(message.body, PAYLOAD_BYTES_MAX + 1)
            except zlib.error:
                continue
            if len(unpacked) > PAYLOAD_BYTES_MAX:
                self.fault(
                    FaultReason.PAYLOAD_TOO_LARGE,
                    f"a payload must have at most {PAYLOAD_BYTES_MAX} bytes when unpacked, got more from {len(message.body)}",
                )
                return None
            if unpacker.eof:
                return unpacked
        self.fault(
            FaultReason.PAYLOAD_NOT_PROTOBUF, f"a compressed payload must be whole {told} data, got {shown(bytes(message.body[:40]))}"
        )
        return None

    def _instant(self, at_ms: int, whose: str) -> int | None:
        if at_ms <= AT_MS_MAX:
            return at_ms
        self.fault(FaultReason.TIME_INVALID, f"the timestamp of {whose} must be ms since 1970 up to the year 9999, got {shown(at_ms)}")
        return None

    def _seq(self, message: Any) -> int | None:
        if self.kind not in NUMBERED:
            return None
        got = message.seq if message.HasField("seq") else None
        if got is None or got >= SEQ_COUNT:
            self.fault(FaultReason.SCHEMA, f"'seq' of {self.kind} must be 0..{SEQ_COUNT - 1}, got {shown(got)}")
            return None
        seq = int(got)
        if self.kind is Kind.NBIRTH and seq != 0:
            self.fault(FaultReason.SCHEMA, f"'seq' of NBIRTH must be 0, got {seq}; the birth was taken")
        return seq

    def _metric(self, metric: Any, number: int) -> None:
        name = metric.name
        alias = -1
        if metric.HasField("alias"):
            if metric.alias > ALIAS_MAX:
                self.fault(FaultReason.SCHEMA, f"an alias must be at most {ALIAS_MAX}, got {metric.alias} (metric {number})")
                return
            alias = metric.alias
        if name or alias < 0 or self.kind in BIRTHS:
            problem = name_problem(name)
            if problem is not None:
                self.fault(FaultReason.SCHEMA, f"{problem} (metric {number})")
                return
        datatype = metric.datatype
        field = None if metric.is_null else metric.WhichOneof("value")
        if name == BD_SEQ and not self.device:
            if field in (_INT, _LONG):
                self.bd_seq = int(getattr(metric, field))
            return
        properties = self._properties(metric) if metric.HasField("properties") else _NO_PROPERTIES
        unit = unit_of(properties, name)
        if self.kind in BIRTHS:
            self.born.append(BornMetric(name, alias, datatype, unit))
            if field == _STRING and name.startswith("Properties/") and len(self.details) < DETAILS_MAX and type(metric.string_value) is str:
                self.details[name.removeprefix("Properties/")[:64]] = metric.string_value[:64]
        elif self.kind not in (Kind.NDATA, Kind.DDATA):
            return  # a death has nothing to say of values
        if name and is_control(name):
            self.ignored += 1
        elif metric.is_null:
            self.nulls += 1
        elif field is None:
            told = f"'{name}'" if name else f"alias {alias}"
            self.fault(
                FaultReason.VALUE_TYPE, f"a metric must have a value or say that it is null, {told} has neither (metric {number})", name
            )
        elif field not in _MEASURED or datatype not in NUMERIC:
            self.ignored += 1
        else:
            self._sample(metric, number, name, alias, datatype, field, unit, properties)

    def _sample(
        self, metric: Any, number: int, name: str, alias: int, datatype: int, field: str, unit: str | None, properties: dict[str, Any]
    ) -> None:
        value = getattr(metric, field)
        told = name or f"#{alias}"
        width = 0
        if field in (_INT, _LONG):
            width = 32 if field == _INT else 64
            if datatype != DataType.UNKNOWN:
                read = signed(value, datatype, width)
                if read is None:
                    self.fault(
                        FaultReason.VALUE_TYPE,
                        f"'{told}' must be a number of type {DataType(datatype).name}, got {value} (metric {number})",
                        name,
                    )
                    return
                value, width = read, 0
        elif field != _BOOLEAN and not isfinite(value):
            unit_told = f" in {unit}" if unit is not None else ""
            self.fault(FaultReason.VALUE_NOT_FINITE, f"'{told}' must be a finite number{unit_told}, got {value} (metric {number})", name)
            return
        at_ms = self.sent_ms
        if metric.HasField("timestamp") and metric.timestamp != ABSENT:
            at_ms = self._instant(metric.timestamp, f"'{told}'")
            if at_ms is None:
                return
        self.channel.append(told)
        self.aliases.append(-1 if name else alias)
        self.observed_us.append(0 if at_ms is None else at_ms * 1000)
        self.from_reception.append(at_ms is None)
        self.value.append(value if width else float(value))
        self.width.append(width)
        self.unit.append(unit)
        self.historical.append(metric.is_historical)
        self.quality.append(_quality(properties))

    def _properties(self, metric: Any) -> dict[str, Any]:
        """Return the properties that we know, by lower-case key."""
        found: dict[str, Any] = {}
        for key, value in zip(metric.properties.keys[:PROPERTIES_MAX], metric.properties.values[:PROPERTIES_MAX], strict=False):
            if type(key) is str and not value.is_null:
                field = value.WhichOneof("value")
                if field is not None:
                    found[key.lower()] = getattr(value, field)
        return found

    def _result(self, seq: int | None) -> Decoded:
        announcement = None
        if self.kind in BIRTHS:
            channels = tuple([AnnouncedChannel(m.name, m.unit, _type_name(m.datatype)) for m in self.born if m.is_measurement])
            announcement = Announcement("birth", channels, str(self.details.get("Hardware Model", "")), self.details)
        more = SparkplugMessage(
            self.kind,
            self.node,
            self.device,
            self.sent_ms,
            seq,
            self.bd_seq,
            tuple(self.born),
            None if all(alias < 0 for alias in self.aliases) else tuple(self.aliases),
            bytes(self.width) if any(self.width) else None,
            self.ignored,
            self.nulls,
        )
        good = all(grade == QUALITIES[192] for grade in self.quality)
        return Decoded(
            self.address,
            tuple(self.channel),
            self.observed_us,
            self.value,
            tuple(self.unit) if any(unit is not None for unit in self.unit) else None,
            None if good else [quality for quality, _ in self.quality],
            None if good else [reason for _, reason in self.quality],
            self.from_reception if any(self.from_reception) else None,
            self.historical if any(self.historical) else None,
            self.faults.result(),
            announcement=announcement,
            more=more,
        )


_MEASURED = frozenset({_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN})
_NO_PROPERTIES: dict[str, Any] = {}
_WINDOWS = {"DEFLATE": (zlib.MAX_WBITS, -zlib.MAX_WBITS), "GZIP": (16 + zlib.MAX_WBITS,)}


def _type_name(datatype: int) -> str:
    return DataType(datatype).name.lower() if datatype in _DATATYPES else f"type {datatype}"


_DATATYPES = frozenset(DataType)


def _quality(properties: dict[str, Any]) -> tuple[int, int]:
    code = properties.get("quality")
    if code is None:
        return QUALITIES[192]
    return QUALITIES.get(code, OTHER_QUALITY) if type(code) is int else OTHER_QUALITY
