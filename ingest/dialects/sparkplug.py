"""Sparkplug B 3.0: protobuf on ``spBv1.0/{group}/{kind}/{edge}[/{device}]``, JSON on ``spBv1.0/STATE/{host}`` (docs/dialects/sparkplug.md).

What a message says by itself is decoded here; aliases, sequence numbers and sessions need a memory: `ingest.sparkplug_host`.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from ingest.decoded import PAYLOAD_BYTES_MAX, Decoded, shown
from ingest.sparkplug_message import AT_MS_MAX, DEVICE_KINDS, NAMESPACE, HostState, Kind
from ingest.sparkplug_quick import quick
from ingest.sparkplug_reader import Reader
from underway.model import Fault, FaultReason

NAME = "sparkplug"
TOPIC_FILTERS = (f"{NAMESPACE}/#",)
TOPIC_CHARS_MAX = 250
ID_CHARS_MAX = 64
STATE_BYTES_MAX = 1000


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
    Data messages of a usual shape are read by whole columns (`ingest.sparkplug_quick`), all others metric by metric (`ingest.sparkplug_reader`).

    Blind to order, to aliases and to who is alive.

    Examples
    --------
    >>> from ingest.sparkplug_schema import Payload
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
        usual = quick(kind, node, device, address, payload)
        if usual is not None:
            return usual
    return Reader(topic, kind, node, device, address).read(payload)


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
