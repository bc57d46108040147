"""How log lines are written: for people, or as one JSON object a line for machines; the calls stay those of the standard library."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["text", "json"]
FIRST_FIELDS = ("timestamp", "level", "logger", "service", "event")
FIELD_CHARS_MAX = 4_000
"""Longest value of one field; a longer one keeps its beginning and its end."""
NOISY = {"httpx": logging.WARNING, "uvicorn.access": logging.WARNING}
"""Libraries that say too much, with the level from which they are heard."""


def configure_logs(log_format: LogFormat, service: str, stream: TextIO | None = None) -> None:
    """Write everything that is logged to one stream, in one form.

    Parameters
    ----------
    log_format : {'text', 'json'}
        ``text``: time, level, logger, sentence, then the fields. ``json``: one object a line with ``timestamp`` (UTC, ISO 8601), ``level``,
        ``logger``, ``service``, ``event``, what the call gave as ``extra``, and ``exception`` with the whole traceback in one field.
    service : str
        Name of what runs here.
    stream : text stream, optional
        Default: standard error.

    Notes
    -----
    A line break in what is logged is written escaped, so that nobody outside can write a line of ours; in ``text`` a traceback follows in lines
    of its own. Called again it replaces what it set before.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(log_format, service))
    root = logging.getLogger()
    for other in root.handlers[:]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name, level in NOISY.items():
        logging.getLogger(name).setLevel(level)


def formatter(log_format: LogFormat, service: str) -> logging.Formatter:
    """Return the formatter of one form."""

    def tell_service(_logger: Any, _name: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    told: list[Processor] = [
        # what a call gives as extra comes first, so that it cannot take the place of what we say ourselves
        _add_extra,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        tell_service,
        _add_timestamp,
        _add_exception,
        _bound,
    ]
    last: Processor = _as_json if log_format == "json" else _as_text
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=told, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
    )


_adder = structlog.stdlib.ExtraAdder()


def _add_extra(logger: Any, name: str, event: EventDict) -> EventDict:
    said = event["event"]
    event = _adder(logger, name, event)
    event["event"] = said
    return event


def _add_timestamp(_logger: Any, _name: str, event: EventDict) -> EventDict:
    record = event["_record"]
    event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return event


def _add_exception(_logger: Any, _name: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    if isinstance(found, tuple) and found[0] is not None:
        event["exception"] = "".join(traceback.format_exception(*found)).rstrip()
    return event


def _bound(_logger: Any, _name: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str) and len(value) > FIELD_CHARS_MAX:
            half = FIELD_CHARS_MAX // 2
            event[name] = f"{value[:half]} [{len(value) - 2 * half} characters left out] {value[-half:]}"
    return event


def _ordered(event: EventDict) -> list[tuple[str, Any]]:
    return [(name, event[name]) for name in FIRST_FIELDS if name in event] + [
        (name, value) for name, value in event.items() if name not in FIRST_FIELDS and not name.startswith("_")
    ]


def _as_json(_logger: Any, _name: str, event: EventDict) -> str:
    return json.dumps(dict(_ordered(event)), default=str, ensure_ascii=False)


def _as_text(_logger: Any, _name: str, event: EventDict) -> str:
    fields: Sequence[tuple[str, Any]] = [item for item in _ordered(event) if item[0] not in (*FIRST_FIELDS, "exception")]
    parts = [event["timestamp"], str(event["level"]).upper(), event["logger"], _one_line(str(event["event"]))]
    if fields:
        parts.append(" ".join(f"{name}={_one_line(value if isinstance(value, str) else str(value))}" for name, value in fields))
    exception = event.get("exception")
    return " ".join(parts) + (f"\n{exception}" if exception else "")


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
