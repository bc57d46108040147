"""Sparkplug B 3.0: protobuf on ``spBv1.0/{group}/{kind}/{edge}[/{device}]``, JSON on ``spBv1.0/STATE/{host}`` (docs/dialects/sparkplug.md).

What a message says by itself is decoded here; aliases, sequence numbers and sessions need a memory: `ingest.sparkplug_host`.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from ingest.decoded import (
    ADDRESS_CHARS_MAX,
    PAYLOAD_BYTES_MAX,
    SAMPLES_MAX,
    UNIT_CHARS_MAX,
    AnnouncedChannel,
    Announcement,
    Decoded,
    FaultList,
    shown,
)
from ingest.sparkplug_message import (
    BD_SEQ,
    CONTROL_PREFIXES,
    NAMESPACE,
    NUMERIC,
    SEQ_COUNT,
    BornMetric,
    HostState,
    Kind,
    SparkplugMessage,
    signed,
)
from ingest.sparkplug_schema import ABSENT, AliasedPayload, DataType, NamedPayload, Payload
from underway.model import Fault, FaultReason, Quality, QualityReason

NAME = "sparkplug"
TOPIC_FILTERS = (f"{NAMESPACE}/#",)
TOPIC_CHARS_MAX = 250
ID_CHARS_MAX = 64
ALIAS_MAX = 2**63 - 1
AT_MS_MAX = 253_402_300_799_999
STATE_BYTES_MAX = 1000
ANNOUNCED_MAX = 5000
"""Most metrics of one birth; more are a fault."""
DETAILS_MAX = 10
SHAPE_CACHED_MAX = 256
"""Most samples of a message whose shape is kept, so that 1024 shapes stay small."""
PROPERTIES_MAX = 32
COMPRESSED_UUID = "SPBV1.0_COMPRESSED"
UNIT_PROPERTIES = ("engunit", "engineering units", "unit")
"""Properties that tell a unit, in lower case; the first that is there counts."""
UNIT_IN_NAME = {
    "m3h": "m3/h",
    "m3s": "m3/s",
    "ls": "L/s",
    "mgL": "mg/L",
    "mkm": "m/km",
    "mmh": "mm/h",
    **{unit: unit for unit in ("ue", "mrad", "mm", "m", "bar", "mbar", "kPa", "NTU", "V", "mV", "Hz", "Cel", "degC", "dBm")},
}
"""The last level of a metric's name, where it is a unit: ``Flow/m3h``."""
QUALITIES = {
    0: (int(Quality.BAD), int(QualityReason.DEVICE_SAYS_BAD)),
    192: (int(Quality.GOOD), int(QualityReason.NONE)),
    500: (int(Quality.SUSPECT), int(QualityReason.DEVICE_SAYS_STALE)),
}
OTHER_QUALITY = (int(Quality.SUSPECT), int(QualityReason.DEVICE_SAYS_BAD))
DEVICE_KINDS = frozenset({Kind.DBIRTH, Kind.DDEATH, Kind.DDATA, Kind.DCMD})
BIRTHS = frozenset({Kind.NBIRTH, Kind.DBIRTH})
COMMANDS = frozenset({Kind.NCMD, Kind.DCMD})
NUMBERED = frozenset({Kind.NBIRTH, Kind.DBIRTH, Kind.NDATA, Kind.DDATA, Kind.DDEATH})
"""Kinds that count the node's sequence number on."""
_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN, _STRING = "int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value"


def decode(topic: str, payload: bytes) -> Decoded:
    """Return what one message says; never raises.

    Parameters
    ----------
    topic : str
        ``spBv1.0/{group}/{kind}/{edge}``, with a further ``/{device}`` for the kinds that begin with D, or ``spBv1.0/STATE/{host}``.
    payload : bytes
        Protobuf, also compressed (GZIP, DEFLATE); at most 256 kB, also when unpacked. JSON for STATE.

    Returns
    -------
    Decoded
        ``device`` is ``group/edge`` or ``group/edge/device``. A sample that is told by its alias alone has the channel ``#{alias}`` until
        `ingest.sparkplug_host` has looked the alias up. ``more`` is a `SparkplugMessage` or a `HostState`, None when the message is lost.

    Notes
    -----
    A message of floating-point metrics that all are told by alias, or all by name, is read through a class of its own that needs no question of
    presence: 100 metrics cost 60 us against 300 us.

    Blind to order, to aliases and to who is alive.

    Examples
    --------
    >>> message = Payload(timestamp=1000, seq=7)
    >>> _ = message.metrics.add(name="Flow/m3h", timestamp=2000, double_value=41.5)
    >>> got = decode("spBv1.0/north/DDATA/rtu-017/inlet", message.SerializeToString())
    >>> got.device, got.channel, got.observed_us, got.value, got.unit, got.more.seq
    ('north/rtu-017/inlet', ('Flow/m3h',), [2000000], (41.5,), ('m3/h',), 7)
    """
    where = _address(topic) if len(topic) <= TOPIC_CHARS_MAX else None
    if where is None:
        message = f"a topic must look like '{NAMESPACE}/{{group}}/{{kind}}/{{edge}}[/{{device}}]', got {topic[:160]!a}"
        return Decoded(None, faults=(Fault(FaultReason.TOPIC_UNKNOWN, message),))
    kind, node, device, address = where
    if kind is None:
        return _state(topic, node, payload)
    if len(payload) > PAYLOAD_BYTES_MAX:
        return _lost(
            address, FaultReason.PAYLOAD_TOO_LARGE, f"a payload must have at most {PAYLOAD_BYTES_MAX} bytes, got {len(payload)}", topic
        )
    if kind is Kind.NDATA or kind is Kind.DDATA:
        plain = _plain(kind, node, device, address, payload)
        if plain is not None:
            return plain
    return _Reader(topic, kind, node, device, address).read(payload)


@lru_cache(maxsize=16_384)
def _address(topic: str) -> tuple[Kind | None, str, str, str] | None:
    """Return (kind, ``group/edge``, device, address) of a topic, (None, host, "", "") for STATE, or None."""
    levels = topic.split("/", 5)
    if levels[0] != NAMESPACE or not 3 <= len(levels) <= 5 or not all(_is_id(level) for level in levels[1:]):
        return None
    if len(levels) == 3:
        return (None, levels[2], "", "") if levels[1] == "STATE" else None
    kind = _KINDS.get(levels[2])
    if kind is None or (kind in DEVICE_KINDS) != (len(levels) == 5):
        return None
    node = f"{levels[1]}/{levels[3]}"
    if len(levels) == 4:
        return kind, node, "", node
    return kind, node, levels[4], f"{node}/{levels[4]}"


_KINDS = {kind.value: kind for kind in Kind}


def _is_id(text: str) -> bool:
    return 0 < len(text) <= ID_CHARS_MAX and text.isprintable() and "+" not in text and "#" not in text


def _where(topic: str) -> str:
    return f"topic {topic[:160]!a}"


def _lost(address: str, reason: FaultReason, message: str, topic: str) -> Decoded:
    return Decoded(address, faults=(Fault(reason, f"{message} ({_where(topic)})", address),))


def _state(topic: str, host_id: str, payload: bytes) -> Decoded:
    try:
        said = _decode_state(payload) if len(payload) <= STATE_BYTES_MAX else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = None
    if said is None or not 0 <= said.timestamp <= AT_MS_MAX:
        message = f"a STATE must be JSON with 'online' and 'timestamp' in ms, got {shown(bytes(payload[:40]))} ({_where(topic)})"
        return Decoded(None, faults=(Fault(FaultReason.SCHEMA, message),))
    return Decoded(None, more=HostState(host_id, said.online, said.timestamp))


class _State(msgspec.Struct):
    online: bool
    timestamp: int


_decode_state = msgspec.json.Decoder(_State).decode


def _plain(kind: Kind, node: str, device: str, address: str, payload: bytes) -> Decoded | None:
    """Return the message when it is of the usual shape, or None when it must be looked at with care."""
    aliases: tuple[int, ...] | None = None
    try:
        message = AliasedPayload.FromString(payload)
        metrics = message.metrics
        count = len(metrics)
        if not 0 < count <= SAMPLES_MAX:
            return None
        if metrics[0].alias != ABSENT:
            rows = [(m.alias, m.timestamp, m.double_value) for m in metrics]
            aliases, at_ms, values = zip(*rows, strict=True)
            if max(aliases) > ALIAS_MAX:  # also ABSENT
                return None
            channel = _alias_channels(aliases)
            unit = None
        else:
            message = NamedPayload.FromString(payload)
            metrics = message.metrics
            names, at_ms, values = zip(*[(m.name, m.timestamp, m.double_value) for m in metrics], strict=True)
            shape = _named_channels(names)
            if shape is None:
                return None
            channel, unit = shape
    except DecodeError:
        return None
    total = sum(values)
    if total != total:
        # where the double is missing a float may stand
        values = tuple([v if v == v else m.float_value for v, m in zip(values, metrics, strict=True)])
        total = sum(values)
    sent_ms = message.timestamp
    if sent_ms > AT_MS_MAX and sent_ms != ABSENT:
        return None
    if max(at_ms) == ABSENT:
        at_ms = tuple([sent_ms if at == ABSENT else at for at in at_ms])
    seq = message.seq
    if not isfinite(total) or max(at_ms) > AT_MS_MAX or seq >= SEQ_COUNT or (seq == 0 and not message.HasField("seq")):
        return None
    message.DiscardUnknownFields()
    if message.ByteSize() != len(payload):
        return None  # there was more: a quality, a history flag, an integer
    more = SparkplugMessage(kind, node, device, None if sent_ms == ABSENT else sent_ms, seq, aliases=aliases)
    return Decoded(address, channel, [at * 1000 for at in at_ms], values, unit, more=more)


def _alias_channels(aliases: tuple[int, ...]) -> tuple[str, ...]:
    return _cached_alias_channels(aliases) if len(aliases) <= SHAPE_CACHED_MAX else tuple([f"#{alias}" for alias in aliases])


@lru_cache(maxsize=1024)
def _cached_alias_channels(aliases: tuple[int, ...]) -> tuple[str, ...]:
    return tuple([f"#{alias}" for alias in aliases])


def _named_channels(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str | None, ...] | None] | None:
    return _cached_named_channels(names) if len(names) <= SHAPE_CACHED_MAX else _cached_named_channels.__wrapped__(names)


@lru_cache(maxsize=256)
def _cached_named_channels(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str | None, ...] | None] | None:
    """Return channels and units of samples that are told by name, or None when a name is none or no measurement."""
    if any(_name_problem(name) is not None or _is_control(name) for name in names):
        return None
    units = tuple([unit_in_name(name) for name in names])
    return names, (None if all(unit is None for unit in units) else units)


def _name_problem(name: Any) -> str | None:
    """Return why `name` cannot be a metric's name, or None; what is not UTF-8 comes as bytes."""
    if type(name) is str and 0 < len(name) <= ADDRESS_CHARS_MAX and name.isprintable():
        return None
    return f"the name of a metric must be 1..{ADDRESS_CHARS_MAX} printable characters of UTF-8, got {shown(name)}"


def _is_control(name: str) -> bool:
    return name == BD_SEQ or name.startswith(CONTROL_PREFIXES)


def unit_in_name(name: str) -> str | None:
    """Return the unit that a metric's name ends with, or None.

    Examples
    --------
    >>> unit_in_name("Inlet/Flow/m3h"), unit_in_name("Pressure"), unit_in_name("Pressure/high")
    ('m3/h', None, None)
    """
    start, _, last = name.rpartition("/")
    return UNIT_IN_NAME.get(last) if start else None


class _Reader:
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
        self.faults.add(reason, f"{message} ({_where(self.topic)})", channel)

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
            problem = _name_problem(name)
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
        unit = _unit(properties, name)
        if self.kind in BIRTHS:
            self.born.append(BornMetric(name, alias, datatype, unit))
            if field == _STRING and name.startswith("Properties/") and len(self.details) < DETAILS_MAX and type(metric.string_value) is str:
                self.details[name.removeprefix("Properties/")[:64]] = metric.string_value[:64]
        elif self.kind not in (Kind.NDATA, Kind.DDATA):
            return  # a death has nothing to say of values
        if name and _is_control(name):
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


def _unit(properties: dict[str, Any], name: str) -> str | None:
    for key in UNIT_PROPERTIES:
        told = properties.get(key)
        if type(told) is str and 0 < len(told) <= UNIT_CHARS_MAX and told.isprintable():
            return UNIT_IN_NAME.get(told, told)
    return unit_in_name(name) if name else None


def _quality(properties: dict[str, Any]) -> tuple[int, int]:
    code = properties.get("quality")
    if code is None:
        return QUALITIES[192]
    return QUALITIES.get(code, OTHER_QUALITY) if type(code) is int else OTHER_QUALITY
