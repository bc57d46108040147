from __future__ import annotations

import json

import pytest

from ingest.decoded import FAULTS_MAX, PAYLOAD_BYTES_MAX, READINGS_MAX, VALUES_MAX
from ingest.dialects import topic_matches
from ingest.dialects.native import decode
from underway.model import FaultReason

TOPIC = "uw/north/pr-113/telemetry"
AT = "2026-03-01T02:15:00Z"


def test_decode_bad_field_says_unit_value_topic_and_place() -> None:
    payload = {"at": AT, "values": {"flow": 1.0, "pressure": "n/a", "battery": 3.6}, "units": {"pressure": "kPa"}}
    got = decode(TOPIC, json.dumps(payload).encode())
    assert got.channel == ("flow", "battery")
    assert [f.message for f in got.faults] == [
        "'pressure' must be a finite number in kPa, got 'n/a' (topic 'uw/north/pr-113/telemetry', field 2 of 3)"
    ]
    assert (got.device, got.site_id) == ("pr-113", "north")


def test_decode_payload_at_the_limit_is_taken_and_above_it_is_not() -> None:
    start = b'{"at":1,"values":{"a":1},"pad":"'
    at_limit = start + b"x" * (PAYLOAD_BYTES_MAX - len(start) - 2) + b'"}'
    assert len(at_limit) == PAYLOAD_BYTES_MAX
    assert len(decode(TOPIC, at_limit))
    (fault,) = decode(TOPIC, at_limit + b" ").faults
    assert fault.reason is FaultReason.PAYLOAD_TOO_LARGE
    assert fault.message == "a payload must have at most 262144 bytes, got 262145 (topic 'uw/north/pr-113/telemetry')"


def test_decode_more_readings_than_allowed_keeps_the_first() -> None:
    readings = [{"at": i, "values": {"a": i}} for i in range(READINGS_MAX + 5)]
    got = decode(TOPIC, json.dumps({"readings": readings}).encode())
    assert list(got.value) == list(range(READINGS_MAX))
    assert [f.reason for f in got.faults] == [FaultReason.TOO_MANY_READINGS]


def test_decode_more_values_than_allowed_keeps_the_first() -> None:
    got = decode(TOPIC, json.dumps({"at": AT, "values": {f"c{i}": i for i in range(VALUES_MAX + 5)}}).encode())
    assert len(got) == VALUES_MAX
    assert [f.reason for f in got.faults] == [FaultReason.TOO_MANY_READINGS]


def test_decode_many_faults_are_limited_and_the_rest_counted() -> None:
    got = decode(TOPIC, json.dumps({"readings": [{"at": "?", "values": {}}] * 500}).encode())
    assert len(got.faults) == FAULTS_MAX
    assert got.faults[-1].message.endswith("; and 480 more faults in this message")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "uw",
        "uw/town/pr-1",
        "uw/town/pr-1/telemetry/x",
        "xx/town/pr-1/telemetry",
        "uw//pr-1/telemetry",
        "uw/town/Pr-1/telemetry",
        "uw/" + "t" * 500,
        "uw/town/pr\x00/telemetry",
        "uw/town/\ud800/telemetry",
    ],
)
def test_decode_other_topic_is_unknown_and_can_be_stored(topic: str) -> None:
    got = decode(topic, b"{}")
    assert got.device is None
    assert [f.reason for f in got.faults] == [FaultReason.TOPIC_UNKNOWN]
    got.faults[0].message.encode()
    assert "\x00" not in got.faults[0].message


@pytest.mark.parametrize(
    ("at", "us"),
    [
        (AT, 1_772_331_300_000_000),
        ("2026-03-01T03:15:00+01:00", 1_772_331_300_000_000),
        ("2026-03-01 02:15:00z", 1_772_331_300_000_000),
        ("2026-03-01T02:15:00.1234569Z", 1_772_331_300_123_456),
        (1_772_331_300_000, 1_772_331_300_000_000),
        (1_772_331_300_000.0, 1_772_331_300_000_000),
        ("2026-03-01T02:15:00", None),
        ("2026-03-01", None),
        ("20260301T021500Z", None),
        ("2026-03-01T02:15Z", None),
        ("2026-03-01T02:15:60Z", None),
        ("2026-02-29T02:15:00Z", None),
        ("\uff12026-03-01T02:15:00Z", None),
        (AT + "\n", None),
        (-1, None),
        (1.5, None),
        (True, None),
        (2**63, None),
        (None, None),
        ([AT], None),
    ],
)
def test_decode_instant_is_rfc_3339_with_zone_or_milliseconds(at: object, us: int | None) -> None:
    got = decode(TOPIC, json.dumps({"at": at, "values": {"a": 1}}).encode())
    if us is None:
        assert [f.reason for f in got.faults] == [FaultReason.TIME_INVALID]
    else:
        assert list(got.observed_us) == [us]


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("uw/+/+/telemetry", "uw/a/b/telemetry", True),
        ("uw/+/+/telemetry", "uw/a/b/c/telemetry", False),
        ("uw/+/+/telemetry", "uw/a/b/truth", False),
        ("uw/#", "uw/a/b", True),
        ("uw/a/#", "uw/a", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("+", "a", True),
        ("+", "a/b", False),
    ],
)
def test_topic_matches_as_mqtt_says(topic_filter: str, topic: str, matches: bool) -> None:
    assert topic_matches(topic_filter, topic) is matches
