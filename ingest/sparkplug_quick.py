"""The usual Sparkplug data, read quickly: whole columns at a time, without a question of presence a metric.

Each way returns None where a message is not of its shape; then the next one tries, and `ingest.sparkplug_reader` reads whatever there is. All ways
say the same of the same message (a test compares them).
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from google.protobuf.message import DecodeError

from ingest.decoded import SAMPLES_MAX, Decoded
from ingest.sparkplug_message import AT_MS_MAX, NUMERIC, SEQ_COUNT, Kind, SparkplugMessage, signed
from ingest.sparkplug_names import ALIAS_MAX, alias_channels, is_control, name_problem, named_channels, unit_in_name
from ingest.sparkplug_schema import ABSENT, AliasedPayload, NamedPayload, NumberPayload, TypedPayload

_WIDTH = {"int_value": 32, "long_value": 64}


def quick(kind: Kind, node: str, device: str, address: str, payload: bytes) -> Decoded | None:
    """Return what a data message says when it is of a usual shape, or None.

    Notes
    -----
    Floating-point metrics that all are told by alias, with or without their type, or all by name; else any numbers, of any age.
    """
    about = kind, node, device
    try:
        message = AliasedPayload.FromString(payload)
        if not 0 < len(message.metrics) <= SAMPLES_MAX:
            return None
        if _is_whole(message, payload):
            found = _floats_by_alias(message, about, address)
        elif message.metrics[0].alias == ABSENT:
            found = _floats_by_name(payload, about, address)
        else:
            found = _typed_floats_by_alias(payload, about, address)
        return _numbers(payload, about, address) if found is None else found
    except DecodeError:
        return None


def _is_whole(message: Any, payload: bytes) -> bool:
    """Return whether a message has nothing beyond what its class declares."""
    message.DiscardUnknownFields()
    return bool(message.ByteSize() == len(payload))


def _finished(
    message: Any,
    columns: tuple[tuple[str, ...], tuple[int, ...], tuple[float, ...], tuple[str | None, ...] | None],
    about: tuple[Kind, str, str],
    address: str,
    aliases: tuple[int, ...] | None,
    width: bytes | None = None,
    historical: list[bool] | None = None,
) -> Decoded | None:
    channel, at_ms, values, unit = columns
    sent_ms, seq = message.timestamp, message.seq
    if sent_ms > AT_MS_MAX and sent_ms != ABSENT:
        return None
    if max(at_ms) == ABSENT:
        at_ms = tuple([sent_ms if at == ABSENT else at for at in at_ms])
    if not isfinite(sum(values)) or max(at_ms) > AT_MS_MAX or seq >= SEQ_COUNT or (seq == 0 and not message.HasField("seq")):
        return None
    kind, node, device = about
    said = SparkplugMessage(kind, node, device, None if sent_ms == ABSENT else sent_ms, seq, aliases=aliases, width=width)
    return Decoded(address, channel, [at * 1000 for at in at_ms], values, unit, historical=historical, more=said)


def _with_floats(values: tuple[float, ...], metrics: Any) -> tuple[float, ...]:
    """Return the values with floats where there is no double; NaN where there is neither."""
    total = sum(values)
    return values if total == total else tuple([v if v == v else m.float_value for v, m in zip(values, metrics, strict=True)])


def _floats_by_alias(message: Any, about: tuple[Kind, str, str], address: str) -> Decoded | None:
    aliases, at_ms, values = zip(*[(m.alias, m.timestamp, m.double_value) for m in message.metrics], strict=True)
    if max(aliases) > ALIAS_MAX:  # also ABSENT
        return None
    columns = alias_channels(aliases), at_ms, _with_floats(values, message.metrics), None
    return _finished(message, columns, about, address, aliases)


def _typed_floats_by_alias(payload: bytes, about: tuple[Kind, str, str], address: str) -> Decoded | None:
    message = TypedPayload.FromString(payload)
    if not _is_whole(message, payload) or not NUMERIC.issuperset([m.datatype for m in message.metrics]):
        return None
    return _floats_by_alias(message, about, address)


def _floats_by_name(payload: bytes, about: tuple[Kind, str, str], address: str) -> Decoded | None:
    message = NamedPayload.FromString(payload)
    if not _is_whole(message, payload):
        return None
    names, at_ms, values = zip(*[(m.name, m.timestamp, m.double_value) for m in message.metrics], strict=True)
    shape = named_channels(names)
    if shape is None:
        return None
    columns = shape[0], at_ms, _with_floats(values, message.metrics), shape[1]
    return _finished(message, columns, about, address, None)


def _numbers(payload: bytes, about: tuple[Kind, str, str], address: str) -> Decoded | None:
    message = NumberPayload.FromString(payload)
    if not _is_whole(message, payload):
        return None
    channel: list[str] = []
    aliases: list[int] = []
    at_ms: list[int] = []
    values: list[float] = []
    unit: list[str | None] = []
    width = bytearray()
    historical: list[bool] = []
    for m in message.metrics:
        name, alias, datatype, field = m.name, m.alias, m.datatype, m.WhichOneof("value")
        if field is None or (datatype and datatype not in NUMERIC) or (alias > ALIAS_MAX and (alias != ABSENT or not name)):
            return None
        if name:
            if name_problem(name) is not None or is_control(name):
                return None
            channel.append(name)
            aliases.append(-1)
            unit.append(unit_in_name(name))
        else:
            channel.append(f"#{alias}")
            aliases.append(alias)
            unit.append(None)
        value = getattr(m, field)
        bits = _WIDTH.get(field, 0)
        if bits and datatype:
            value, bits = signed(value, datatype, bits), 0
            if value is None:
                return None
        values.append(value if bits else float(value))
        width.append(bits)
        at_ms.append(m.timestamp)
        historical.append(m.is_historical)
    columns = tuple(channel), tuple(at_ms), tuple(values), tuple(unit) if any(unit) else None
    by_name = max(aliases) < 0
    return _finished(
        message,
        columns,
        about,
        address,
        None if by_name else tuple(aliases),
        bytes(width) if any(width) else None,
        historical if any(historical) else None,
    )
