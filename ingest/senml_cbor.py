"""CBOR (RFC 8949) as a SenML pack uses it, with what could hurt a reader kept out."""

from __future__ import annotations

import io
from typing import Any

import cbor2

DEPTH_MAX = 16
KEYS_CHECKED_BYTES_MIN = 16 * 1024
"""Shorter payloads have too few keys to hurt."""
EXPONENT_MAX = 1000


class NotCborError(ValueError):
    """The bytes are not CBOR, or hold what a pack may not hold; the message says which."""


def read_cbor(payload: bytes) -> Any:
    """Return the one item that `payload` is.

    Parameters
    ----------
    payload : bytes
        Bounded by the caller.

    Raises
    ------
    NotCborError
        What is no CBOR; more than one item; more than 16 levels; a tag that is no decimal fraction (tag 4), because the others make
        instants, bignums, patterns or cycles; a map key that is a container, because such keys can be made to collide.

    Examples
    --------
    >>> read_cbor(bytes.fromhex("81a200616102c4822119 0c1c"))
    [{0: 'a', 2: 31.0}]
    """
    if len(payload) > KEYS_CHECKED_BYTES_MIN and not has_plain_keys(payload):
        raise NotCborError("it is cut off, too deep, or has a map key that is no number and no text")
    decoder = cbor2.CBORDecoder(io.BytesIO(payload), max_depth=DEPTH_MAX, semantic_decoders=_DECODERS, tag_hook=_refuse)
    try:
        item = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError, OverflowError, RecursionError) as error:
        raise NotCborError(_said(error)) from None
    try:
        decoder.read(1)
    except cbor2.CBORDecodeEOF:
        return item
    raise NotCborError("more bytes follow after the first item")


def _said(error: BaseException) -> str:
    """Return the first words of why."""
    text = str(error.__cause__ if isinstance(error.__cause__, NotCborError) else error)
    return ascii(text[:80])[1:-1]


def _fraction(pair: object, immutable: bool) -> float:
    """Return a decimal fraction, ``[exponent, mantissa]``, as the nearest float."""
    if not isinstance(pair, list | tuple) or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not int:
        raise NotCborError("a decimal fraction must be two integers")
    if abs(pair[0]) > EXPONENT_MAX:
        raise NotCborError(f"the exponent of a decimal fraction must be at most {EXPONENT_MAX}")
    return float(f"{pair[1]}e{pair[0]}")


def _refuse(*_: object) -> Any:
    raise NotCborError("the only tag that a pack may hold is 4, a decimal fraction")


# every tag that the parser would otherwise act on; those that it does not know go to the hook
_DECODERS: dict[int, Any] = dict.fromkeys((0, 1, 2, 3, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000), _refuse) | {
    4: _fraction
}


def has_plain_keys(payload: bytes) -> bool:
    """Return whether no map key in `payload` is an array, a map or a tag, by walking over the heads of its items.

    Notes
    -----
    About 0.2 us an item, so it is asked only of long payloads: 12,000 keys of two chosen integers each, all of one hash, keep a dict busy
    for seconds.

    Examples
    --------
    >>> has_plain_keys(bytes.fromhex("81a100820102")), has_plain_keys(bytes.fromhex("81a182010200"))
    (True, False)
    """
    at, end = 0, len(payload)
    left: list[int] = []  # items still to come in each open container; negative where a break ends it
    keyed: list[int] = []  # in each open container: 0 an array, 1 a map whose key is next, 2 a map whose value is next
    tags = 0  # that stand before the item in hand
    while at < end:
        head = payload[at]
        at += 1
        if head == 0xFF:
            if not left or left[-1] >= 0:
                return False
            left.pop()
            keyed.pop()
            continue
        major, more = head >> 5, head & 31
        if more < 24:
            argument = more
        elif more < 28:
            width = 1 << (more - 24)
            argument = int.from_bytes(payload[at : at + width], "big")
            at += width
        elif more == 31 and 2 <= major <= 5:
            argument = -1
        else:
            return False
        if left and not tags:
            if keyed[-1] == 1 and major in (4, 5, 6):
                return False
            if keyed[-1]:
                keyed[-1] = 3 - keyed[-1]
            if left[-1] > 0:
                left[-1] -= 1
        tags = tags + 1 if major == 6 else 0
        if tags > DEPTH_MAX:
            return False
        if major in (4, 5) or (argument < 0 and major in (2, 3)):
            if len(left) >= DEPTH_MAX:
                return False
            left.append(argument * 2 if major == 5 and argument > 0 else argument)
            keyed.append(1 if major == 5 else 0)
        elif major in (2, 3):
            at += argument
        while left and left[-1] == 0 and not tags:
            left.pop()
            keyed.pop()
        if not left and not tags:
            break
    return 0 < at <= end and not left and not tags
