"""Sparkplug messages to columns: the golden payloads, the two ways of reading, and the limits."""

from __future__ import annotations

import math
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparkplug_builder import (
    AT_MS,
    BOOLEAN,
    DATETIME,
    DOUBLE,
    FLOAT,
    FOLDER,
    INT16,
    INT32,
    INT64,
    cases,
    compressed,
    field,
    metric,
    node_birth,
    payload,
)

from ingest.decoded import FAULTS_MAX, PAYLOAD_BYTES_MAX, SAMPLES_MAX, Decoded
from ingest.dialects import sparkplug
from ingest.dialects.sparkplug import decode
from ingest.sparkplug_message import DEVICE_KINDS, HostState, Kind, SparkplugMessage, signed
from ingest.sparkplug_quick import quick
from ingest.sparkplug_reader import Reader
from ingest.sparkplug_schema import DataType, Payload
from underway.model import FaultReason, Quality, QualityReason

DDATA = "spBv1.0/north/DDATA/rtu-017/inlet"
NDATA = "spBv1.0/north/NDATA/rtu-017"


def more_of(decoded: Decoded) -> SparkplugMessage:
    assert isinstance(decoded.more, SparkplugMessage)
    return decoded.more


@pytest.mark.parametrize("name", cases())
def test_golden_payload_is_what_the_builder_builds(name: str) -> None:
    topic, message = cases()[name]
    assert (FOLDER / name / "topic.txt").read_text() == topic + "\n"
    assert (FOLDER / name / "payload.bin").read_bytes() == message


def test_golden_folders_are_all_of_the_builder() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(cases())


def test_schema_writes_what_the_wire_format_says() -> None:
    message = Payload(timestamp=AT_MS, seq=7)
    message.metrics.add(name="Flow/m3h", alias=2, timestamp=AT_MS, datatype=DOUBLE, double_value=41.5)
    message.metrics.add(alias=3, is_historical=True, is_null=True)
    told = message.metrics.add(alias=4, float_value=1.5)
    told.properties.keys.append("Quality")
    told.properties.values.add(type=INT32, int_value=500)
    expected = payload(
        [
            metric("Flow/m3h", 2, AT_MS, DOUBLE, double_value=41.5),
            metric(alias=3, historical=True, null=True),
            metric(alias=4, told={"Quality": 500}, float_value=1.5),
        ],
        seq=7,
    )
    assert message.SerializeToString() == expected


# which way a message is read


def careful(topic: str, message: bytes) -> Decoded:
    """Read a message the slow way."""
    where = sparkplug._address(topic)
    assert where is not None
    kind, node, device, address = where
    assert kind is not None
    return Reader(topic, kind, node, device, address).read(message)


def same(a: Decoded, b: Decoded) -> None:
    for name in ("device", "channel", "unit", "quality", "reason", "from_reception", "historical", "faults", "more"):
        assert getattr(a, name) == getattr(b, name), name
    assert list(a.observed_us) == list(b.observed_us)
    assert list(a.value) == list(b.value)


ATS = st.none() | st.just(0) | st.integers(1, 2 * AT_MS) | st.sampled_from([2**63, 2**64 - 1])
NUMBERS = st.floats() | st.just(41.5)
VALUES = st.one_of(
    st.builds(lambda v: {"double_value": v}, NUMBERS),
    st.builds(lambda v: {"float_value": v}, st.floats(width=32)),
    st.builds(lambda v: {"int_value": v}, st.integers(0, 2**32 - 1)),
    st.builds(lambda v: {"long_value": v}, st.integers(0, 2**64 - 1)),
    st.builds(lambda v: {"boolean_value": v}, st.booleans()),
    st.builds(lambda v: {"string_value": v}, st.text(max_size=5)),
    st.just({"null": True}),
    st.just({}),
)
OPTIONAL = {
    "historical": st.booleans(),
    "datatype": st.integers(0, 40),
    "told": st.dictionaries(st.sampled_from(["Quality", "engUnit", "x"]), st.sampled_from([0, 192, 500, "bar", 1.5]), max_size=2),
}
TOLD_BY = st.one_of(
    st.builds(lambda a: {"alias": a}, st.integers(0, 300) | st.sampled_from([2**63, 2**64 - 1])),
    st.builds(lambda n: {"name": n}, st.sampled_from(["Flow/m3h", "bdSeq", "Node Control/Rebirth", "", "a\x00b", b"\xff", "x" * 201])),
    st.just({"name": "Flow/m3h", "alias": 2}),
)
METRICS = st.builds(
    lambda who, at_ms, value, more: metric(**who, at_ms=at_ms, **value, **more),
    TOLD_BY,
    ATS,
    VALUES,
    st.fixed_dictionaries({}, optional=OPTIONAL),
)
USUAL = st.lists(
    st.builds(
        lambda alias, at_ms, value: metric(alias=alias, at_ms=at_ms, double_value=value),
        st.integers(0, 300),
        st.integers(1, AT_MS),
        NUMBERS,
    ),
    min_size=1,
    max_size=6,
)
MESSAGES = st.builds(
    payload, USUAL | st.lists(METRICS, max_size=6), st.none() | st.just(AT_MS) | st.just(0), st.none() | st.integers(0, 300)
)


@settings(max_examples=500, deadline=None)
@given(message=MESSAGES)
def test_decode_the_quick_way_and_the_careful_way_say_the_same(message: bytes) -> None:
    usual = quick(Kind.DDATA, "north/rtu-017", "inlet", "north/rtu-017/inlet", message)
    if usual is not None:
        same(usual, careful(DDATA, message))


@pytest.mark.parametrize(
    "message",
    [
        payload([metric(alias=2, at_ms=AT_MS, double_value=1.5)], seq=3),
        payload([metric(alias=2, at_ms=AT_MS, datatype=DOUBLE, double_value=1.5), metric(alias=3, double_value=2.5)], seq=255),
        payload([metric(alias=2, float_value=1.5), metric(alias=3, at_ms=AT_MS, double_value=1.5)], seq=0),
        payload([metric("Flow/m3h", at_ms=AT_MS, double_value=1.5), metric("Door open", at_ms=AT_MS, float_value=1.5)], seq=3),
        payload([metric(alias=2, at_ms=AT_MS, historical=True, double_value=1.5), metric("Door open", 3, boolean_value=True)], seq=3),
        payload([metric(alias=2, at_ms=AT_MS, int_value=2**32 - 1), metric("Level/m", datatype=INT64, long_value=2**64 - 1)], seq=3),
    ],
    ids=["alias", "typed", "float-and-double", "named", "history", "integers"],
)
def test_decode_usual_message_goes_the_quick_way(message: bytes) -> None:
    usual = quick(Kind.DDATA, "north/rtu-017", "inlet", "north/rtu-017/inlet", message)
    assert usual is not None
    same(usual, careful(DDATA, message))


@pytest.mark.parametrize(
    "unusual",
    [
        {"told": {"Quality": 0}},
        {"null": True},
        {"null": False},
        {"name": "bdSeq"},
        {"name": b"\xff"},
        {"datatype": INT16, "double_value": None, "int_value": 70_000},
        {"datatype": DATETIME},
        {"datatype": 12},
        {"datatype": 99},
        {"string_value": "x"},
        {"at_ms": 2**63},
        {"double_value": math.inf},
        {"alias": 2**64 - 1},
    ],
    ids=str,
)
def test_decode_unusual_metric_among_usual_ones_is_read_with_care(unusual: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"alias": 2, "at_ms": AT_MS, "double_value": 1.5}
    message = payload([metric(**usual), metric(**{**usual, **unusual})], seq=3)
    assert quick(Kind.DDATA, "north/rtu-017", "inlet", "north/rtu-017/inlet", message) is None
    assert decode(DDATA, message).value[0] == 1.5, "the usual one is taken"


# what a value means


@pytest.mark.parametrize(
    ("value", "datatype", "width", "expected"),
    [
        (2**32 - 1, DataType.INT8, 32, -1),
        (255, DataType.INT8, 32, -1),
        (127, DataType.INT8, 32, 127),
        (256, DataType.INT8, 32, None),
        (2**32 - 129, DataType.INT8, 32, None),
        (2**32 - 32_768, DataType.INT16, 32, -32_768),
        (2**31, DataType.INT32, 32, -(2**31)),
        (2**64 - 5, DataType.INT32, 64, -5),
        (2**64 - 1, DataType.INT64, 64, -1),
        (2**63 - 1, DataType.INT64, 64, 2**63 - 1),
        (2**32 - 1, DataType.UINT32, 32, 2**32 - 1),
        (2**64 - 1, DataType.UINT64, 64, 2**64 - 1),
        (7, DataType.DOUBLE, 32, 7),
    ],
)
def test_signed_bits_are_read_by_their_type(value: int, datatype: int, width: int, expected: int | None) -> None:
    assert signed(value, datatype, width) == expected


@given(value=st.integers(-(2**63), 2**63 - 1), bits=st.sampled_from([8, 16, 32, 64]))
def test_signed_two_s_complement_comes_back(value: int, bits: int) -> None:
    value = (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
    datatype = {8: DataType.INT8, 16: DataType.INT16, 32: DataType.INT32, 64: DataType.INT64}[bits]
    width = 64 if bits == 64 else 32
    assert signed(value % (1 << width), datatype, width) == value


def test_decode_boolean_is_one_or_zero() -> None:
    message = payload([metric("Door open", datatype=BOOLEAN, boolean_value=v) for v in (True, False)], seq=1)
    assert list(decode(DDATA, message).value) == [1.0, 0.0]


def test_decode_negative_int64_by_its_told_type_is_exact() -> None:
    message = payload([metric("Balance", datatype=INT64, long_value=2**64 - 1)], seq=1)
    assert list(decode(DDATA, message).value) == [-1.0]


def test_decode_integer_without_type_keeps_its_bits_for_the_birth() -> None:
    decoded = decode(DDATA, payload([metric(alias=4, int_value=2**32 - 4), metric(alias=2, double_value=1.5)], seq=1))
    assert list(decoded.value) == [2**32 - 4, 1.5]
    assert more_of(decoded).width == bytes([32, 0])


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"Quality": 0}, (Quality.BAD, QualityReason.DEVICE_SAYS_BAD)),
        ({"quality": 500}, (Quality.SUSPECT, QualityReason.DEVICE_SAYS_STALE)),
        ({"Quality": 192}, (Quality.GOOD, QualityReason.NONE)),
        ({"Quality": 64}, (Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD)),
        ({"Quality": "good"}, (Quality.SUSPECT, QualityReason.DEVICE_SAYS_BAD)),
        ({"Other": 0}, (Quality.GOOD, QualityReason.NONE)),
    ],
    ids=str,
)
def test_decode_quality_property_grades_the_sample(told: dict[str, Any], expected: tuple[Quality, QualityReason]) -> None:
    decoded = decode(DDATA, payload([metric(alias=2, told=told, double_value=1.5)], seq=1))
    quality, reason = decoded.quality or [0], decoded.reason or [0]
    assert (quality[0], reason[0]) == expected


@pytest.mark.parametrize(
    ("name", "told", "unit"),
    [
        ("Flow/m3h", {}, "m3/h"),
        ("Chlorine/mgL", {}, "mg/L"),
        ("Iri/mkm", {}, "m/km"),
        ("Strain/ue", {}, "ue"),
        ("m3h", {}, None),
        ("Flow/whatever", {}, None),
        ("Flow", {"engUnit": "L/s"}, "L/s"),
        ("Flow/m3h", {"Engineering Units": "L/s"}, "L/s"),
        ("Flow", {"engUnit": "m3h"}, "m3/h"),
        ("Flow", {"engUnit": "a unit that is much too long"}, None),
        ("Flow", {"engUnit": 7}, None),
    ],
)
def test_decode_unit_comes_from_a_property_or_the_name(name: str, told: dict[str, Any], unit: str | None) -> None:
    decoded = decode(DDATA, payload([metric(name, told=told, double_value=1.5)], seq=1))
    assert (decoded.unit or (None,)) == (unit,)


@pytest.mark.parametrize(
    ("metric_ms", "sent_ms", "expected"),
    [(AT_MS, 5, (AT_MS * 1000, False)), (None, 5, (5000, False)), (None, None, (0, True))],
    ids=["own", "of-the-payload", "reception"],
)
def test_decode_instant_is_the_metric_s_else_the_payload_s_else_reception(
    metric_ms: int | None, sent_ms: int | None, expected: tuple[int, bool]
) -> None:
    decoded = decode(DDATA, payload([metric(alias=2, at_ms=metric_ms, double_value=1.5)], sent_ms, 1))
    assert (decoded.observed_us[0], (decoded.from_reception or [False])[0]) == expected


def test_decode_transient_metric_is_stored_like_any_other() -> None:
    decoded = decode(DDATA, payload([metric("Flow/m3h", double_value=1.5) + field(6, True)], seq=1))
    assert list(decoded.value) == [1.5]
    assert not decoded.faults


def test_decode_birth_announces_measurements_and_keeps_every_alias() -> None:
    message = node_birth(
        metrics=[
            metric("Battery/V", 1, AT_MS, FLOAT, float_value=3.5),
            metric("Firmware", 9, AT_MS, 12, string_value="2.4"),
            metric("Level", 10, AT_MS, INT16, null=True),
            metric("Node Control/Next Server", 11, AT_MS, BOOLEAN, boolean_value=False),
        ]
    )
    decoded = decode("spBv1.0/north/NBIRTH/rtu-017", message)
    assert decoded.channel == ("Battery/V",)
    assert decoded.announcement is not None
    assert [(c.address, c.unit, c.kind) for c in decoded.announcement.channels] == [("Battery/V", "V", "float"), ("Level", None, "int16")]
    assert {m.alias: m.name for m in more_of(decoded).metrics if m.alias >= 0} == {
        1: "Battery/V",
        9: "Firmware",
        10: "Level",
        11: "Node Control/Next Server",
    }
    assert (more_of(decoded).bd_seq, more_of(decoded).seq, more_of(decoded).nulls) == (3, 0, 1)


# limits, and who means harm


@pytest.mark.parametrize(
    "topic",
    [
        "spBv1.0",
        "spBv1.0/north",
        "spBv1.0/north/STATE",
        "spBv1.0/north/XDATA/rtu",
        "spBv1.0/north/NDATA/rtu/inlet",
        "spBv1.0/north/DDATA/rtu",
        "spBv1.0/north/DDATA/rtu/a/b",
        "spBv1.0//NDATA/rtu",
        "spBv1.0/north/NDATA/",
        "spBv1.0/north/NDATA/a+b",
        "spBv1.0/STATE/a\nb",
        "spBv1.0/north/NDATA/" + "x" * 65,
        "spBv1.0/north/NDATA/" + "x" * 100_000,
        "spAv1.0/north/NDATA/rtu",
    ],
    ids=lambda t: t[:40],
)
def test_decode_other_topic_is_a_fault(topic: str) -> None:
    decoded = decode(topic, payload(seq=1))
    assert decoded.device is None
    assert [f.reason for f in decoded.faults] == [FaultReason.TOPIC_UNKNOWN]
    assert len(decoded.faults[0].message) < 300


def test_decode_topic_fault_says_what_was_expected() -> None:
    (fault,) = decode("spBv1.0/north/DDATA/rtu", b"").faults
    assert fault.message == "a topic must look like 'spBv1.0/{group}/{kind}/{edge}[/{device}]', got 'spBv1.0/north/DDATA/rtu'"


def test_decode_million_metrics_take_what_is_allowed() -> None:
    decoded = decode(DDATA, b"\x12\x00" * (PAYLOAD_BYTES_MAX // 2))
    assert len(decoded) == 0
    assert len(decoded.faults) == FAULTS_MAX
    assert decoded.faults[0].reason is FaultReason.TOO_MANY_READINGS or decoded.faults[0].reason is FaultReason.SCHEMA
    many = payload([metric(alias=1, double_value=1.5)] * (SAMPLES_MAX + 1), seq=1)
    assert len(decode(DDATA, many)) == SAMPLES_MAX
    assert [f.reason for f in decode(DDATA, many).faults] == [FaultReason.TOO_MANY_READINGS]


def test_decode_bomb_unpacks_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, window: int) -> None:
            self.inner = real(window)

        def decompress(self, data: bytes, most: int) -> bytes:
            got = self.inner.decompress(data, most)
            unpacked.append(len(got))
            return got

        @property
        def eof(self) -> bool:
            return self.inner.eof

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    decoded = decode(DDATA, compressed(zlib.compress(bytes(100_000_000)), "DEFLATE"))
    assert [f.reason for f in decoded.faults] == [FaultReason.PAYLOAD_TOO_LARGE]
    assert unpacked == [PAYLOAD_BYTES_MAX + 1]


def test_decode_raw_deflate_without_header_is_understood() -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(payload([metric(alias=2, double_value=1.5)], seq=1)) + packer.flush()
    assert list(decode(DDATA, compressed(body, "DEFLATE")).value) == [1.5]


def test_decode_compressed_seq_of_the_wrapper_counts_when_the_inner_has_none() -> None:
    body = zlib.compress(payload([metric(alias=2, double_value=1.5)], None))
    wrapper = payload([], AT_MS, 77, "SPBV1.0_COMPRESSED", body)
    assert (more_of(decode(DDATA, wrapper)).seq, more_of(decode(DDATA, wrapper)).timestamp_ms) == (77, AT_MS)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"OFFLINE",
        b'{"online":true}',
        b'{"online":"true","timestamp":1}',
        b'{"online":true,"timestamp":-1}',
        b'{"online":true,"timestamp":9' + b"9" * 30 + b"}",
        b"[" * 500,
        b'{"online":true,"timestamp":1,"x":"' + b"x" * 1000 + b'"}',
        b"\xff",
    ],
    ids=range(9),
)
def test_decode_state_that_is_none_is_a_fault(said: bytes) -> None:
    decoded = decode("spBv1.0/STATE/underway", said)
    assert decoded.more is None
    assert [f.reason for f in decoded.faults] == [FaultReason.SCHEMA]


def test_decode_state_says_who_is_there() -> None:
    assert decode("spBv1.0/STATE/scada", b'{"timestamp":7,"online":true,"more":1}').more == HostState("scada", True, 7)


@settings(deadline=None)
@given(message=st.binary(max_size=400) | MESSAGES, kind=st.sampled_from(list(Kind)))
def test_decode_anything_of_any_kind_never_raises_and_keeps_the_limits(message: bytes, kind: Kind) -> None:
    topic = f"spBv1.0/g/{kind}/e" + ("/d" if kind in DEVICE_KINDS else "")
    decoded = decode(topic, message)
    assert decoded.faults or decoded.more is not None
    assert len(decoded.channel) == len(decoded.value) == len(decoded.observed_us)
    assert all(map(math.isfinite, decoded.value))
    assert len(decoded.faults) <= FAULTS_MAX
