"""Which messages can be sent again without changing what they mean, and which entries are one message."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from underway.app.quarantine import why_not
from underway.app.quarantine_replay import by_message
from underway.store.quarantine_rows import QuarantineRow, QuarantineState

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PAYLOADS = Path(__file__).resolve().parents[2] / "data" / "payloads"
GOOD = b'{"at": "2026-03-01T12:00:00Z", "values": {"pressure": 310}}'
ROW = QuarantineRow(1, AT, AT, "native", "uw/town/pr-1/telemetry", "pr-1", "schema", "a sentence", GOOD, len(GOOD), "sha", 1, None)
ONLY_THEN = "it says what is with an edge node now (a death, a state, a command), which was true only then"
NO_INSTANT = "it does not say when it was sent, so that it would look like the newest message of its edge node"
NO_TIME = "it names no time, so that its readings would count as measured now"
NO_TOPIC = "its topic was not kept as it was, or is none to publish on"


def golden(dialect: str, case: str) -> QuarantineRow:
    folder = PAYLOADS / dialect / case
    payload = next(path for path in folder.iterdir() if path.name.startswith("payload")).read_bytes()
    topic = (folder / "topic.txt").read_text(encoding="utf-8").strip()
    return replace(ROW, dialect=dialect, topic=topic, payload=payload, payload_bytes=len(payload))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param(ROW, "", id="dated"),
        pytest.param(replace(ROW, payload=b"not json", payload_bytes=8), "", id="not-understood"),
        pytest.param(replace(ROW, payload_bytes=9_000), f"only the first {len(GOOD)} of 9000 bytes were kept (at most 2048 are)", id="cut"),
        pytest.param(replace(ROW, topic="(the topic is not UTF-8)"), NO_TOPIC, id="topic-not-text"),
        pytest.param(replace(ROW, topic="x" * 500), NO_TOPIC, id="topic-cut"),
        pytest.param(replace(ROW, topic="uw/+/x"), NO_TOPIC, id="topic-with-wildcard"),
        pytest.param(replace(ROW, topic="$SYS/x"), NO_TOPIC, id="topic-of-the-broker"),
        pytest.param(replace(ROW, topic=""), NO_TOPIC, id="no-topic"),
        pytest.param(
            replace(ROW, topic="senml/town/dev-1", payload=b'[{"n":"flow","u":"m3/h","v":1}]', payload_bytes=31),
            NO_TIME,
            id="names-no-time",
        ),
        pytest.param(golden("sparkplug", "alias-data"), "", id="sparkplug-data"),
        pytest.param(golden("sparkplug", "node-birth"), "", id="sparkplug-birth"),
        pytest.param(golden("sparkplug", "node-death"), ONLY_THEN, id="sparkplug-death"),
        pytest.param(golden("sparkplug", "no-timestamps"), NO_INSTANT, id="sparkplug-without-an-instant"),
    ],
)
def test_why_not_names_what_would_change_the_meaning_of_a_message(row: QuarantineRow, reason: str) -> None:
    assert why_not(row) == reason


def test_by_message_joins_the_entries_of_one_message_seen_first_first() -> None:
    later = replace(ROW, quarantine_id=2, reason="value_type", received_at=AT + timedelta(minutes=1))
    other = replace(ROW, quarantine_id=3, payload_sha="other", received_at=AT - timedelta(minutes=1))
    elsewhere = replace(ROW, quarantine_id=4, topic="uw/town/pr-2/telemetry", received_at=AT + timedelta(minutes=2))
    found = [[row.quarantine_id for row in message] for message in by_message([elsewhere, later, ROW, other])]
    assert found == [[3], [1, 2], [4]]


def test_state_of_an_entry_follows_when_it_was_seen_last() -> None:
    states = [replace(ROW, replayed_at=at).state for at in (None, AT, AT - timedelta(seconds=1))]
    assert states == [QuarantineState.OPEN, QuarantineState.REPLAYED, QuarantineState.FAILED_AGAIN]
