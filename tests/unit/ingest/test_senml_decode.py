from __future__ import annotations

import json
import struct
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.decoded import PAYLOAD_BYTES_MAX, SAMPLES_MAX, Decoded, FaultList
from ingest.dialects import senml
from ingest.dialects.senml import decode
from ingest.senml_cbor import KEYS_CHECKED_BYTES_MIN, NotCborError, has_plain_keys, read_cbor
from ingest.senml_pack import LABELS, NAME_CHARS_MAX, Pack, named
from ingest.units import conversion
from underway.model import FaultReason

TOPIC = "senml/north/pr-113"
LABEL_OF = {name: label for label, name in LABELS.items()}
BASE = {"bn": "urn:dev:mac:0024befffe804ff1:", "bt": 1772331300}


def in_cbor(records: list[dict[str, Any]]) -> bytes:
    return cbor2.dumps([{LABEL_OF.get(field, field): value for field, value in record.items()} for record in records])


def one_by_one(payload: bytes) -> Decoded:
    """Return what the path for unusual packs makes of a payload."""
    faults = FaultList("north/pr-113")
    pack = Pack(TOPIC, "north/pr-113", faults)
    is_cbor = payload[:1] >= b"\x80"
    records = senml._cbor_records(TOPIC, payload, faults) if is_cbor else senml._json_records(TOPIC, payload, faults)
    if records is not None:
        pack.read(named(records) if is_cbor else records, len(records))
    return pack.decoded()


def columns(decoded: Decoded) -> tuple[Any, ...]:
    n = len(decoded)
    return (
        decoded.device,
        decoded.channel,
        list(decoded.observed_us),
        list(decoded.value),
        list(decoded.unit or [None] * n),
        [bool(away) for away in decoded.from_reception or [False] * n],
        decoded.faults,
    )


NAMES = st.sampled_from(["flow", "battery", "a-b:c/d.e_f", "", "1", "/flow", "_x", "flöw", "bn"])
NUMBERS = (
    st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0, -0.0, 2**28, 2**28 - 1, 1e308])
)
RECORDS = st.fixed_dictionaries(
    {"v": NUMBERS},
    optional={
        "n": NAMES,
        "u": st.sampled_from(["m3/s", "Pa", "", "a unit that is too long"]) | st.none(),
        "t": st.integers(-(2**29), 2**29) | NUMBERS,
        "x": st.booleans(),
        "s": NUMBERS,
    },
)
FIRST = st.fixed_dictionaries(
    {},
    optional={
        "bn": NAMES | st.none(),
        "bt": st.sampled_from([0, 1772331300, 1772331300.123456, 2**28, 253402300799, 1e300, -(2**28)]) | NUMBERS,
        "bu": st.sampled_from(["m", "", None]),
        "bver": st.sampled_from([5, 10, 11, 26, 10.0, True]),
        "bv": NUMBERS,
    },
)


@settings(max_examples=300)
@example(first={"bu": ""}, records=[{"v": 0, "n": "flow", "u": "m3/s"}], later=False)
@given(first=FIRST, records=st.lists(RECORDS, min_size=1, max_size=4), later=st.booleans())
def test_decode_by_column_and_record_by_record_agree(first: dict[str, Any], records: list[dict[str, Any]], later: bool) -> None:
    at = min(1, len(records) - 1) if later else 0
    records[at] = first | records[at]
    for payload in (json.dumps(records).encode(), in_cbor(records)):
        assert columns(decode(TOPIC, payload)) == columns(one_by_one(payload))


@pytest.mark.parametrize(
    "pack", [[{"n": "a", "v": 1.5}], [BASE | {"n": "flow", "u": "l/s", "v": 2}, {"n": "flow", "t": -60, "v": 3, "u": "l/s"}]]
)
def test_decode_common_pack_is_taken_by_column(pack: list[dict[str, Any]]) -> None:
    text, bits = json.dumps(pack).encode(), in_cbor(pack)
    assert senml._plain_json("x", text) is not None
    assert senml._plain_json("x", b" \n" + text.replace(b"}, {", b"} ,\n {").replace(b"}]", b"} ] ")) is not None
    assert senml._plain_cbor("x", bits, read_cbor(bits)) is not None
    assert columns(decode(TOPIC, text)) == columns(decode(TOPIC, bits))


@pytest.mark.parametrize(
    "text", [b'[{"n":"a","v":1},]', b'[{"n":"a","v":1}', b'[{"n":"a","v":1}]]', b'{"n":"a","v":1}]', b'[[{"n":"a","v":1}]']
)
def test_decode_json_that_is_nearly_a_pack_is_a_fault(text: bytes) -> None:
    got = decode(TOPIC, text)
    assert not len(got)
    assert [fault.reason for fault in got.faults] == [FaultReason.PAYLOAD_NOT_JSON]


def test_decode_packs_of_one_shape_share_the_tuple_of_channels() -> None:
    one = decode(TOPIC, json.dumps([BASE | {"n": "flow", "v": 1}, {"n": "level", "v": 2}]).encode())
    other = decode("senml/north/pr-114", json.dumps([{"bn": "urn:x:", "n": "flow", "v": 5}, {"n": "level", "v": 6}]).encode())
    assert one.channel is other.channel


def test_decode_brace_inside_a_text_is_no_end_of_a_record() -> None:
    got = decode(TOPIC, b'[{"n":"a","u":"}","v":1},{"n":"b","u":"{","v":2}]')
    assert got.channel == ("a", "b")
    assert got.unit == ("}", "{")


@pytest.mark.parametrize(
    ("topic", "device"),
    [
        ("senml/North/PR-113", "North/PR-113"),
        ("senml/a b/ü", "a b/ü"),
        ("senml/" + "x" * 64 + "/y", "x" * 64 + "/y"),
        ("senml/" + "x" * 65 + "/y", None),
        ("senml//y", None),
        ("senml/x/", None),
        ("senml/x", None),
        ("senml/x/y/z", None),
        ("senml/x/y\n", None),
        ("senml/+/y", None),
        ("senmlx/x/y", None),
    ],
)
def test_decode_topic_names_the_device(topic: str, device: str | None) -> None:
    got = decode(topic, b'[{"n":"a","v":1}]')
    assert got.device == device
    assert [f.reason for f in got.faults] == ([] if device else [FaultReason.TOPIC_UNKNOWN])


@pytest.mark.parametrize(
    ("time", "observed_us", "away"),
    [
        (2**28, 2**28 * 1_000_000, False),
        (2**28 - 1, (2**28 - 1) * 1_000_000, True),
        (0, 0, True),
        (-0.25, -250_000, True),
        (1772331300.123456, 1772331300123456, False),
        (253_402_300_799, 253_402_300_799_000_000, False),
    ],
)
def test_decode_time_counts_from_1970_or_from_reception(time: float, observed_us: int, away: bool) -> None:
    for base, own in ((time, 0), (0, time)):
        got = decode(TOPIC, json.dumps([{"bt": base, "n": "a", "t": own, "v": 1}]).encode())
        assert list(got.observed_us) == [observed_us]
        assert bool(got.from_reception) == away


@pytest.mark.parametrize("time", [253_402_300_800, -(2**28), 1e300, -1e300, "1772331300", None, True])
def test_decode_impossible_time_costs_the_record(time: object) -> None:
    got = decode(TOPIC, json.dumps([{"n": "a", "t": time, "v": 1}, {"n": "b", "v": 2}]).encode())
    assert got.channel == ("b",)
    assert [f.reason for f in got.faults] == [FaultReason.TIME_INVALID]


def test_decode_sum_of_finite_value_and_base_that_overflows_is_a_fault() -> None:
    (fault,) = decode(TOPIC, b'[{"bv":1.7e308,"n":"a","u":"m","v":1.7e308}]').faults
    assert fault.reason is FaultReason.VALUE_NOT_FINITE
    assert fault.message == "'a' must be a finite number in m, got inf as 'v' (topic 'senml/north/pr-113', record 1 of 1)"


def test_decode_payload_above_the_limit_is_refused() -> None:
    (fault,) = decode(TOPIC, b" " * (PAYLOAD_BYTES_MAX + 1)).faults
    assert fault.reason is FaultReason.PAYLOAD_TOO_LARGE
    assert fault.message == "a payload must have at most 262144 bytes, got 262145 (topic 'senml/north/pr-113')"


@pytest.mark.parametrize("record", [b'{"n":"a","v":1}', b'{"n":"a","v":1,"s":1}'], ids=["by column", "record by record"])
def test_decode_more_values_than_allowed_keeps_the_first(record: bytes) -> None:
    got = decode(TOPIC, b"[" + b",".join([record] * (SAMPLES_MAX + 5)) + b"]")
    assert len(got) == SAMPLES_MAX
    assert {f.reason for f in got.faults} == {FaultReason.TOO_MANY_READINGS}


def test_decode_name_at_the_limit_is_taken_and_above_it_is_not() -> None:
    for name, channel in (("n" * NAME_CHARS_MAX, ("n" * NAME_CHARS_MAX,)), ("n" * (NAME_CHARS_MAX + 1), ())):
        assert decode(TOPIC, json.dumps([{"n": name, "v": 1}]).encode()).channel == channel
        assert decode(TOPIC, json.dumps([{"n": name, "v": 1, "s": 1}]).encode()).channel[:1] == channel


@pytest.mark.parametrize(
    "item",
    [
        cbor2.CBORTag(1, 1772331300),
        cbor2.CBORTag(2, b"\x01"),
        cbor2.CBORTag(5, [1, 1]),
        cbor2.CBORTag(30, [1, 3]),
        cbor2.CBORTag(35, "(a+)+$"),
        cbor2.CBORTag(37, b"0" * 16),
        cbor2.CBORTag(258, [1]),
        cbor2.CBORTag(4711, 1),
        cbor2.CBORTag(4, [2**40, 1]),
        cbor2.CBORTag(4, [1]),
        cbor2.CBORTag(4, 7),
    ],
    ids=repr,
)
def test_read_cbor_other_tag_is_refused(item: object) -> None:
    with pytest.raises(NotCborError, match=r"decimal fraction"):
        read_cbor(cbor2.dumps([{0: "a", 2: item}]))


@pytest.mark.parametrize(("pair", "expected"), [([-2, 231], 2.31), ([3, -5], -5000.0), ([-1000, 1], 0.0), ([1000, 1], float("inf"))])
def test_read_cbor_decimal_fraction_is_the_nearest_float(pair: list[int], expected: float) -> None:
    assert read_cbor(cbor2.dumps(cbor2.CBORTag(4, pair))) == expected


def colliding_keys(count: int) -> bytes:
    """Return a map whose keys are arrays of two integers that all have one hash in CPython."""
    lane, mix, begin, mask = 14029467366897019727, 11400714785074694791, 2870177450012600261, 2**64 - 1
    keys, a = [], 0
    while len(keys) < count:
        a += 1
        first = (begin + a * lane) & mask
        first = ((first << 31) | (first >> 33)) & mask
        b = ((12345 - first * mix) * pow(lane, -1, 2**64)) & mask
        b = b if b < 2**63 else b - 2**64
        if abs(b) < 2**61 - 1 and b != -1:
            keys.append((a, b))
    assert len({hash(key) for key in keys[:50]}) == 1
    return b"\x81\xb9" + struct.pack(">H", count) + b"".join(cbor2.dumps(list(key)) + b"\x00" for key in keys)


def test_read_cbor_long_map_with_colliding_keys_is_refused_before_it_is_built() -> None:
    payload = colliding_keys(12_000)
    assert KEYS_CHECKED_BYTES_MIN < len(payload) <= PAYLOAD_BYTES_MAX
    with pytest.raises(NotCborError, match="a map key that is no number and no text"):
        read_cbor(payload)


CBOR = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=30) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3) | st.integers(-9, 300), inner, max_size=5),
    max_leaves=30,
)


@given(item=CBOR, indefinite=st.booleans())
def test_has_plain_keys_item_without_odd_keys_is_plain_and_its_beginning_is_not(item: object, indefinite: bool) -> None:
    payload = cbor2.dumps(item, indefinite_containers=indefinite)
    assert has_plain_keys(payload)
    assert not any(has_plain_keys(payload[:end]) for end in range(len(payload)))


@pytest.mark.parametrize(
    "text",
    ["a1800000", "81a18000", "a1a000", "a1c10000", "a1f6a18000", "a200a1800001", "bf8000ff", "ff", "a100ff", "1c", "ff00", "c1"],
)
def test_has_plain_keys_odd_key_or_broken_item_is_not_plain(text: str) -> None:
    assert not has_plain_keys(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("text", "plain"), [("c18100", True), ("a100c18100", True), ("d9d9f781a10001", True), ("5f4101ff", True), ("9f9fffff", True)]
)
def test_has_plain_keys_tag_and_indefinite_item_are_walked(text: str, plain: bool) -> None:
    assert has_plain_keys(bytes.fromhex(text)) is plain


def test_read_cbor_long_pack_with_plain_keys_is_read() -> None:
    payload = in_cbor([BASE | {"n": "flow", "v": 1.5}] + [{"n": "flow", "t": -i, "v": 1.5 + i} for i in range(2000)])
    assert len(payload) > KEYS_CHECKED_BYTES_MIN
    assert len(decode(TOPIC, payload)) == 2001


@pytest.mark.parametrize(
    ("unit", "canonical", "expected"),
    [
        ("m3/s", "m3/h", 3600.0), ("l/s", "m3/h", 3.6), ("Pa", "kPa", 0.001), ("hPa", "kPa", 0.1), ("m", "m", 1.0), ("mm", "m", 0.001),
        ("cm", "m", 0.01), ("km", "m", 1000.0), ("Hz", "Hz", 1.0), ("1/s", "Hz", 1.0), ("1/min", "Hz", 1 / 60), ("MHz", "Hz", 1e6),
        ("rad", "mrad", 1000.0), ("deg", "mrad", 17.453292519943), ("Cel", "Cel", 1.0), ("K", "Cel", -272.15), ("m/s", "mm/h", 3.6e6),
        ("m/h", "mm/h", 1000.0), ("mm/h", "mm/h", 1.0), ("V", "V", 1.0), ("mV", "V", 0.001), ("dBm", "dBm", 1.0), ("dBW", "dBm", 31.0),
        ("/", "ue", 1e6), ("%", "ue", 1e4), ("/100", "ue", 1e4), ("/1000", "ue", 1000.0), ("ppm", "ue", 1.0), ("/", "m/km", 1000.0),
        ("/1000", "m/km", 1.0), ("/100", "m/km", 10.0), ("ppm", "m/km", 0.001),
    ],
)  # fmt: skip
def test_conversion_one_of_each_registered_senml_unit(unit: str, canonical: str, expected: float) -> None:
    found = conversion(unit, canonical)
    assert found is not None
    assert found[0] + found[1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unit", ["%EL", "EL", "%RH", "m3", "l", "s", "lat", "J"])
def test_conversion_senml_unit_of_no_quantity_of_ours_is_none(unit: str) -> None:
    assert all(
        conversion(unit, canonical) is None for canonical in ("m3/h", "kPa", "m", "m/km", "Hz", "ue", "mrad", "Cel", "mm/h", "V", "dBm")
    )
