"""State to bytes and back: a flat map of names to arrays and plain values, as MessagePack. Same state, same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from underway.model import InternalError

_MARK = "\x00nd"


def _encode(value: object) -> object:
    if isinstance(value, np.ndarray):
        return [_MARK, value.dtype.str, list(value.shape), np.ascontiguousarray(value).tobytes()]
    raise TypeError(f"a state holds arrays and plain values, got {type(value).__name__}")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        if len(value) == 4 and value[0] == _MARK:
            return np.frombuffer(value[3], np.dtype(value[1])).reshape(value[2]).copy()
        return [_decode(v) for v in value]
    if isinstance(value, dict):
        return {k: _decode(v) for k, v in value.items()}
    return value


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode)
_DECODER = msgspec.msgpack.Decoder()


def pack(state: Mapping[str, object]) -> bytes:
    """Return `state` as MessagePack bytes; arrays keep dtype and shape.

    Examples
    --------
    >>> unpack(pack({"n": 3, "x": np.array([1.5, 2.0])}))["x"].tolist()
    [1.5, 2.0]
    """
    return _ENCODER.encode(dict(state))


def unpack(state: bytes) -> dict[str, Any]:
    """Return what `pack` was given.

    Raises
    ------
    InternalError
        When `state` is not a packed map.
    """
    try:
        decoded = _DECODER.decode(state)
    except msgspec.DecodeError as error:
        raise InternalError(f"expected detector state in MessagePack, got {len(state)} bytes that do not decode: {error}") from error
    if not isinstance(decoded, dict):
        raise InternalError(f"expected detector state as a map, got {type(decoded).__name__}")
    return {str(k): _decode(v) for k, v in decoded.items()}
