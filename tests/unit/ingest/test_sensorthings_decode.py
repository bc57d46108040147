from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decoded import FAULTS_MAX, VALUES_MAX
from ingest.dialects import sensorthings
from ingest.dialects.sensorthings import decode
from underway.model import FaultReason, Quality, QualityReason

TOPIC = "v1.1/Datastreams(5)/Observations"
AT = "2026-11-22T02:15:00Z"
AT_US = 1_795_313_700_000_000


def observation(**more: Any) -> bytes:
    return json.dumps({"phenomenonTime": AT, "result": 1.5} | more).encode()


@pytest.mark.parametrize(
    ("topic", "device"),
    [
        ("v1.1/Datastreams(5)/Observations", "Datastreams(5)"),
        ("v1.0/Datastreams(-5)/Observations", "Datastreams(-5)"),
        ("v1.1/Datastreams(005)/Observations", "Datastreams(5)"),
        ("v1.1/Datastreams('inlet')/Observations", "Datastreams('inlet')"),
        ("v1.1/Datastreams('the ''old'' inlet')/Observations", "Datastreams('the ''old'' inlet')"),
        ("v1.1/Datastreams('a)(b')/Observations", "Datastreams('a)(b')"),
        ("v1.1/MultiDatastreams(3)/Observations", "MultiDatastreams(3)"),
        ("v1.1/Datastreams('it's')/Observations", None),
        ("v1.1/Datastreams('')/Observations", None),
        ("v1.1/Datastreams()/Observations", None),
        ("v1.1/Datastreams(5.0)/Observations", None),
        ("v1.1/Datastreams(inlet)/Observations", None),
        ("v1.1/Datastreams(99999999999999999999)/Observations", None),
        ("v1.1/Datastreams('a\\nb')/Observations".replace("\\n", chr(10)), None),
        ("v1.1/Datastreams('" + "x" * 65 + "')/Observations", None),
        ("v1.1/Things(5)/Observations", None),
        ("v1.2/Datastreams(5)/Observations", None),
        ("v1.1/Datastreams(5)/Observations/", None),
        ("v1.1/Datastreams(5)", None),
    ],
)
def test_decode_topic_names_the_datastream(topic: str, device: str | None) -> None:
    got = decode(topic, observation())
    assert got.device == device
    assert [f.reason for f in got.faults] == ([] if device else [FaultReason.TOPIC_UNKNOWN])


@pytest.mark.parametrize(
    ("link", "device"),
    [
        ({"Datastream": {"@iot.id": 5}}, "Datastreams(5)"),
        ({"Datastream": {"@iot.id": "it's"}}, "Datastreams('it''s')"),
        ({"MultiDatastream": {"@iot.id": 3, "name": "inlet"}}, "MultiDatastreams(3)"),
        ({"Datastream": None, "MultiDatastream": {"@iot.id": 3}}, "MultiDatastreams(3)"),
        ({"Datastream": {"@iot.id": 5}, "MultiDatastream": {"@iot.id": 3}}, None),
        ({"Datastream": {"@iot.id": True}}, None),
        ({"Datastream": {"@iot.id": 5.0}}, None),
        ({"Datastream": {"@iot.id": ""}}, None),
        ({"Datastream": {"@iot.id": "x" * 65}}, None),
        ({"Datastream": {"@iot.id": 10**30}}, None),
        ({"Datastream": 5}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("topic", ["v1.1/Observations", "v1.0/FeaturesOfInterest(9)/Observations"])
def test_decode_payload_names_the_datastream_where_the_topic_does_not(topic: str, link: dict[str, Any], device: str | None) -> None:
    got = decode(topic, observation(**link))
    assert got.device == device
    assert [f.reason for f in got.faults] == ([] if device else [FaultReason.SCHEMA])


def test_decode_datastream_of_topic_and_payload_must_be_one() -> None:
    assert len(decode(TOPIC, observation(Datastream={"@iot.id": 5}))) == 1
    (fault,) = decode(TOPIC, observation(Datastream={"@iot.id": "5"})).faults
    assert (
        fault.message == f"topic and payload must name the same Datastream, got 'Datastreams(5)' and \"Datastreams('5')\" (topic '{TOPIC}')"
    )


@pytest.mark.parametrize(
    ("times", "observed_us"),
    [
        ({"phenomenonTime": AT}, AT_US),
        ({"phenomenonTime": "2026-11-22T03:15:00.000001+01:00"}, AT_US + 1),
        ({"phenomenonTime": f"2026-11-22T00:00:00Z/{AT}"}, AT_US),
        ({"phenomenonTime": f"{AT}/{AT}"}, AT_US),
        ({"phenomenonTime": None, "resultTime": AT}, AT_US),
        ({"phenomenonTime": AT, "resultTime": "nonsense"}, AT_US),
        ({"phenomenonTime": None, "resultTime": None}, None),
    ],
)
def test_decode_observed_is_the_phenomenon_then_the_result_then_reception(times: dict[str, Any], observed_us: int | None) -> None:
    got = decode(TOPIC, observation(**times))
    assert (list(got.observed_us), bool(got.from_reception)) == ([observed_us or 0], observed_us is None)


@pytest.mark.parametrize(
    "told",
    [
        "2026-11-22T02:15:00",
        "2026-02-30T02:15:00Z",
        f"{AT}/",
        f"/{AT}",
        f"{AT}/{AT}/{AT}",
        f"{AT}/2026-11-22T02:14:59Z",
        "",
        1795313700,
        [AT],
        "Z" * 500,
    ],
)
def test_decode_time_that_is_none_costs_the_message(told: object) -> None:
    got = decode(TOPIC, observation(phenomenonTime=told, resultTime=AT))
    assert not len(got)
    assert [f.reason for f in got.faults] == [FaultReason.TIME_INVALID]


@pytest.mark.parametrize(
    ("told", "quality", "reason"),
    [
        (None, Quality.GOOD, QualityReason.NONE),
        ([], Quality.GOOD, QualityReason.NONE),
        (192, Quality.GOOD, QualityReason.NONE),
        ("Good", Quality.GOOD, QualityReason.NONE),
        ({"nameOfMeasure": "accuracy", "value": 0}, Quality.GOOD, QualityReason.NONE),
        ({"nameOfMeasure": "Status", "value": 64}, Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD),
        ({"value": 500}, Quality.SUSPECT, QualityReason.DEVICE_SAYS_STALE),
        ({"DQ_Result": {"value": "stale"}}, Quality.SUSPECT, QualityReason.DEVICE_SAYS_STALE),
        ("estimated", Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD),
        (True, Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD),
        (-1, Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD),
        (256, Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD),
        (63, Quality.BAD, QualityReason.DEVICE_SAYS_BAD),
        ([192, {"value": 500}, "bad"], Quality.BAD, QualityReason.DEVICE_SAYS_BAD),
    ],
)
def test_decode_result_quality_grades_the_value(told: object, quality: Quality, reason: QualityReason) -> None:
    got = decode(TOPIC, observation(resultQuality=told))
    assert (got.quality or [0])[0] == quality
    assert (got.reason or [0])[0] == reason
    assert list(got.value) == [1.5]


def test_decode_more_numbers_than_allowed_keeps_the_first() -> None:
    got = decode(TOPIC, observation(result=list(range(VALUES_MAX + 1))))
    assert list(got.value) == list(range(VALUES_MAX))
    assert [f.reason for f in got.faults] == [FaultReason.TOO_MANY_READINGS]


def test_decode_key_that_is_no_name_costs_its_value() -> None:
    got = decode(TOPIC, observation(result={"": 1, "x" * 200: 2, "a\tb": 3, "flow m3/h": 4}))
    assert got.channel == ("result.flow m3/h",)
    assert [f.reason for f in got.faults] == [FaultReason.SCHEMA] * 3


def test_decode_many_bad_members_are_counted() -> None:
    got = decode(TOPIC, observation(result=["a"] * VALUES_MAX))
    assert len(got.faults) == FAULTS_MAX
    assert "more faults in this message" in got.faults[-1].message


@given(
    value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70) | st.booleans() | st.text(max_size=3),
    at=st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat()) | st.text(max_size=10),
    more=st.dictionaries(
        st.sampled_from(["resultTime", "validTime", "parameters", "x"]), st.none() | st.integers() | st.just(AT), max_size=2
    ),
)
def test_decode_common_observation_as_a_whole_and_field_by_field_agree(value: Any, at: str, more: dict[str, Any]) -> None:
    document = {"phenomenonTime": at, "result": value} | more
    payload = json.dumps(document).encode()
    plain = sensorthings._plain("Datastreams(5)", payload)
    if plain is not None:
        slow = sensorthings._Observation(TOPIC, "Datastreams(5)").decoded(document)
        assert (plain.channel, list(plain.observed_us), list(plain.value)) == (slow.channel, list(slow.observed_us), list(slow.value))
        assert not slow.faults
