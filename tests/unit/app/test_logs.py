"""Log lines: what every line has, what a call adds, and what nobody can forge."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from underway.app.logs import FIELD_CHARS_MAX, LogFormat, configure_logs


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def written(log_format: LogFormat) -> io.StringIO:
    stream = io.StringIO()
    configure_logs(log_format, "ingest", stream)
    return stream


def only_json(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_json_line_has_time_level_logger_service_event_and_what_the_call_adds() -> None:
    stream = written("json")
    logging.getLogger("underway.ingest").warning("%d messages on %r", 3, "uw/t", extra={"batch_id": 7, "devices": ["pr-1"]})
    found = only_json(stream)
    assert list(found)[:5] == ["timestamp", "level", "logger", "service", "event"]
    assert datetime.fromisoformat(found.pop("timestamp")).utcoffset() is not None
    assert found == {
        "level": "warning",
        "logger": "underway.ingest",
        "service": "ingest",
        "event": "3 messages on 'uw/t'",
        "batch_id": 7,
        "devices": ["pr-1"],
    }


def test_json_line_of_an_error_holds_the_traceback_in_one_field() -> None:
    stream = written("json")
    try:
        raise ValueError("no such thing\nsecond line")
    except ValueError:
        logging.getLogger("underway").exception("it failed")
    found = only_json(stream)
    assert found["event"] == "it failed"
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: no such thing\nsecond line")


def test_json_line_of_what_json_does_not_know_is_its_text() -> None:
    stream = written("json")
    logging.getLogger("underway").info("x", extra={"at": datetime.fromisoformat("2026-03-01T12:00+00:00"), "pair": {1}})
    assert (only_json(stream)["at"], only_json(stream)["pair"]) == ("2026-03-01 12:00:00+00:00", "{1}")


def test_extra_cannot_take_the_place_of_our_own_fields() -> None:
    stream = written("json")
    logging.getLogger("underway").info("true", extra={"service": "forged", "level": "forged", "timestamp": "forged", "event": "forged"})
    found = only_json(stream)
    assert (found["service"], found["level"], found["event"]) == ("ingest", "info", "true")
    assert found["timestamp"] != "forged"


def test_text_line_is_one_line_that_a_person_reads() -> None:
    stream = written("text")
    logging.getLogger("underway.ingest").error("broken\nINFO forged", extra={"topic": "a\nb"})
    (line,) = stream.getvalue().splitlines()
    assert line.partition(" ")[2] == "ERROR underway.ingest broken\\nINFO forged topic=a\\nb"


def test_text_line_of_an_error_is_followed_by_the_traceback() -> None:
    stream = written("text")
    try:
        raise ValueError("gone")
    except ValueError:
        logging.getLogger("underway").exception("it failed")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("ERROR underway it failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: gone"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_field_that_is_too_long_keeps_begin_and_end(log_format: LogFormat) -> None:
    stream = written(log_format)
    logging.getLogger("underway").info("x", extra={"payload": "a" * 9_000 + "z"})
    line = stream.getvalue()
    assert f"[{9_001 - FIELD_CHARS_MAX} characters left out]" in line
    assert len(line) < FIELD_CHARS_MAX + 400
    assert "z" in line


def test_configure_again_writes_each_line_once_and_quiets_the_noisy() -> None:
    written("json")
    stream = written("text")
    logging.getLogger("underway").info("once")
    logging.getLogger("httpx").info("a request")
    assert len(stream.getvalue().splitlines()) == 1
