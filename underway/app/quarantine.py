"""``underway quarantine``: look at what could not be taken in, and forget it."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from psycopg import Connection

from ingest.decoded import Decoded
from ingest.dialects import DIALECTS, NO_DIALECT, decode
from ingest.sparkplug_message import Kind, SparkplugMessage
from underway.app.settings import Settings, load_settings
from underway.model import OperatorError, from_us
from underway.store.connect import connect
from underway.store.quarantine import PAYLOAD_KEPT_BYTES, TOPIC_CHARS_MAX
from underway.store.quarantine_rows import (
    QuarantineFilter,
    QuarantineRow,
    count_quarantine,
    find_overflow,
    find_quarantine,
    forget_quarantine,
)

OVERFLOW_SHOWN = 20
SAMPLES_SHOWN = 20


# looking -------------------------------------------------------------------------------------------------------------------------------


def list_entries(wanted: QuarantineFilter, limit: int) -> dict[str, Any]:
    """Return entries, how many there are in all, and what overflowed.

    Parameters
    ----------
    wanted : QuarantineFilter
    limit : int
        Most entries.
    """
    with open_store(load_settings(("database_url",))) as conn:
        rows = find_quarantine(conn, wanted, limit)
        return {
            "entries": [_summary(row) for row in rows],
            "total": count_quarantine(conn, wanted),
            "overflow": [dataclasses.asdict(row) for row in find_overflow(conn, wanted, OVERFLOW_SHOWN)],
        }


def show_entry(quarantine_id: int) -> dict[str, Any]:
    """Return everything about one entry, and what today's decoder makes of it.

    Raises
    ------
    OperatorError
        When there is no such entry.
    """
    with open_store(load_settings(("database_url",))) as conn:
        rows = find_quarantine(conn, QuarantineFilter(ids=[quarantine_id]), 1)
    if not rows:
        raise OperatorError(f"an entry of quarantine must exist, got {quarantine_id}; see 'underway quarantine list'")
    return shown_entry(rows[0])


def shown_entry(row: QuarantineRow) -> dict[str, Any]:
    """Return one entry as plain values: the payload as text where it is text, else as a hex dump."""
    text = _as_text(row.payload)
    return _summary(row) | {
        "first_at": row.received_at,
        "replayed_at": row.replayed_at,
        "payload_bytes": row.payload_bytes,
        "payload_kept": len(row.payload),
        "payload_sha256": row.payload_sha,
        "payload_text": text,
        "payload_hex": None if text is not None else hex_dump(row.payload),
        "decoded_now": decoded_now(row),
        "replay": why_not(row) or "possible",
    }


def _summary(row: QuarantineRow) -> dict[str, Any]:
    return {
        "id": row.quarantine_id,
        "last_at": row.last_at,
        "count": row.count,
        "reason": row.reason,
        "state": row.state.value,
        "dialect": row.dialect,
        "device": row.device_id,
        "topic": row.topic,
        "message": row.message,
    }


def decoded_now(row: QuarantineRow) -> dict[str, Any]:
    """Return what today's decoder says of the payload that was kept; what the registry says of it shows only when it is sent again."""
    if not row.whole:
        return {"note": f"only the first {len(row.payload)} of {row.payload_bytes} bytes were kept, so it cannot be decoded"}
    dialect, decoded = decode(row.topic, row.payload)
    samples = zip(decoded.channel, decoded.observed_us, decoded.value, strict=True)
    relative = decoded.from_reception or [False] * len(decoded)
    units = decoded.unit or [None] * len(decoded)
    return {
        "dialect": dialect,
        "device": decoded.device,
        "samples": len(decoded),
        "first_samples": [
            f"{channel} = {value:g} {unit or ''}".rstrip() + (" when received" if late else f" at {_instant(observed_us)}")
            for (channel, observed_us, value), unit, late in list(zip(samples, units, relative, strict=True))[:SAMPLES_SHOWN]
        ],
        "faults": [f"{fault.reason.value}: {fault.message}" for fault in decoded.faults],
        "announces": None if decoded.announcement is None else decoded.announcement.kind,
    }


def _instant(at_us: int) -> str:
    try:
        return from_us(at_us).isoformat()
    except (ValueError, OverflowError):
        return f"{at_us} us"


def _as_text(payload: bytes) -> str | None:
    r"""Return a payload as text, or None when it is none.

    Examples
    --------
    >>> _as_text(b'{"a": 1}'), _as_text(b"caf\xc3"), _as_text(b"\x00\x01")
    ('{"a": 1}', None, None)
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter in "\r\n\t" for letter in text) else None


def hex_dump(payload: bytes, width: int = 16) -> str:
    """Return lines of an offset, bytes in hex, and the letters among them.

    Examples
    --------
    >>> print(hex_dump(bytes.fromhex("0a05666c6f77"), 4))
    0000  0a 05 66 6c  ..fl
    0004  6f 77        ow
    """
    lines = []
    for start in range(0, len(payload), width):
        part = payload[start : start + width]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:04x}  {part.hex(' '):<{width * 3 - 1}}  {letters}")
    return "\n".join(lines)


def why_not(row: QuarantineRow) -> str:
    """Return why a message cannot be sent again as it was, or an empty text when it can."""
    if not row.whole:
        return f"only the first {len(row.payload)} of {row.payload_bytes} bytes were kept (at most {PAYLOAD_KEPT_BYTES} are)"
    if not row.topic or len(row.topic) >= TOPIC_CHARS_MAX or any(letter in row.topic for letter in "+#\x00") or row.topic[0] in "($":
        return "its topic was not kept as it was, or is none to publish on"
    decoded: Decoded = decode(row.topic, row.payload)[1]
    if decoded.more is not None and (dated := _of_an_edge_node(decoded.more)):
        return dated
    if decoded.from_reception is not None and any(decoded.from_reception):
        return "it names no time, so that its readings would count as measured now"
    return ""


def _of_an_edge_node(message: object) -> str:
    """Return why a Sparkplug message cannot be sent again: births and data that are dated can, they are recognised as older ones."""
    if not isinstance(message, SparkplugMessage) or message.kind not in _SENT_AGAIN:
        return "it says what is with an edge node now (a death, a state, a command), which was true only then"
    if message.timestamp_ms is None:
        return "it does not say when it was sent, so that it would look like the newest message of its edge node"
    return ""


_SENT_AGAIN = frozenset({Kind.NBIRTH, Kind.DBIRTH, Kind.NDATA, Kind.DDATA})


# forgetting ----------------------------------------------------------------------------------------------------------------------------


def matching(wanted: QuarantineFilter) -> int:
    """Return how many entries there are."""
    with open_store(load_settings(("database_url",))) as conn:
        return count_quarantine(conn, wanted)


def forget(wanted: QuarantineFilter) -> int:
    """Delete entries for good; return how many."""
    with open_store(load_settings(("database_url",))) as conn:
        return forget_quarantine(conn, wanted)


def since(text: str, now_at: datetime) -> datetime:
    """Return the instant that a person means by an ISO 8601 time with a zone, or by an age: 30m, 12h, 7d.

    Raises
    ------
    OperatorError

    Examples
    --------
    >>> since("12h", datetime.fromisoformat("2026-03-02T12:00+00:00")).isoformat()
    '2026-03-02T00:00:00+00:00'
    """
    text = text.strip()
    unit_s = {"m": 60, "h": 3600, "d": 86_400}.get(text[-1:], 0)
    try:
        if unit_s:
            age_s = float(text[:-1]) * unit_s
            if age_s < 0:
                raise ValueError("an age is not negative")
            return datetime.fromtimestamp(now_at.timestamp() - age_s, now_at.tzinfo)
        at: datetime | None = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        at = None
    if at is None or at.tzinfo is None:
        raise OperatorError(f"a time must be ISO 8601 with a zone, or an age like 30m, 12h or 7d, got {text!r}")
    return at


def known_dialect(name: str) -> str:
    """Return the name of a dialect, or that of none.

    Raises
    ------
    OperatorError
        When there is no such dialect: a filter by it would find nothing and not say why.

    Examples
    --------
    >>> known_dialect("senml")
    'senml'
    """
    known = [*(dialect.name for dialect in DIALECTS), NO_DIALECT]
    if name not in known:
        raise OperatorError(f"a dialect must be one of {', '.join(known)}, got {name!r}")
    return name


def open_store(settings: Settings) -> Connection[Any]:
    """Return a connection in autocommit."""
    return connect(settings.database_url, application_name="underway-quarantine", autocommit=True)
