from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decoded import ADDRESS_CHARS_MAX, FAULTS_MAX, Decoded
from ingest.dialects import chirpstack, thethings
from ingest.lorawan import DETAIL_CHARS_MAX, DETAILS_MAX, OBJECT_VALUES_MAX, best_reception, clean, details
from ingest.parts import instant_of
from underway.model import FaultReason

EUI = "70b3d5499a1b2c3d"
Decoder = Callable[..., Decoded]


def chirp(values: Any, event: str = "up", **more: Any) -> Decoded:
    document = {"time": "1970-01-01T00:00:02Z", "deviceInfo": {"devEui": EUI}, "devAddr": "01ab", "fCnt": 1, "object": values} | more
    return chirpstack.decode(f"application/a/device/{EUI}/event/{event}", json.dumps(document).encode())


def things(values: Any, **more: Any) -> Decoded:
    uplink = {"session_key_id": "s", "f_cnt": 1, "received_at": "1970-01-01T00:00:02Z", "decoded_payload": values} | more
    document = {"end_device_ids": {"dev_eui": EUI}, "uplink_message": uplink}
    return thethings.decode("v3/a@t/devices/d/up", json.dumps(document).encode())


both = pytest.mark.parametrize("decode", [chirp, things])


@both
def test_lorawan_more_values_than_the_limit_are_a_fault_and_the_first_are_kept(decode: Decoder) -> None:
    got = decode({f"v{i}": i for i in range(OBJECT_VALUES_MAX + 9)})
    assert len(got) == OBJECT_VALUES_MAX
    assert [f.reason for f in got.faults] == [FaultReason.TOO_MANY_READINGS]


@both
def test_lorawan_names_that_no_channel_can_have_are_a_fault_each(decode: Decoder) -> None:
    got = decode({"": 1, "a\n": 2, " b": 3, "c" * (ADDRESS_CHARS_MAX + 1): 4, "Durchfluss (m³/h)": 5, "e\x00": "text", "f\x00": None})
    assert (got.channel, list(got.value)) == (("Durchfluss (m³/h)",), [5.0])
    assert [f.reason for f in got.faults] == [FaultReason.SCHEMA] * 4


@both
def test_lorawan_long_keys_around_many_values_cost_one_fault(decode: Decoder) -> None:
    got = decode({"k" * 100_000: {f"v{i}": i for i in range(5000)}, "flow": 1})
    assert (got.channel, [f.reason for f in got.faults]) == (("flow",), [FaultReason.SCHEMA])


@both
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("12", FaultReason.VALUE_TYPE),
        ("-1,5", FaultReason.VALUE_TYPE),
        (" 1e3 ", FaultReason.VALUE_TYPE),
        ("-inf", FaultReason.VALUE_NOT_FINITE),
        ("1.2.3", None),
        ("open", None),
        ("", None),
        ("9" * 41, None),
    ],
)
def test_lorawan_text_is_a_fault_only_when_it_is_a_number(decode: Decoder, text: str, reason: FaultReason | None) -> None:
    got = decode({"a": text, "b": 1})
    assert [f.reason for f in got.faults] == ([] if reason is None else [reason])
    assert [f.channel for f in got.faults] == ([] if reason is None else ["a"])


@both
@pytest.mark.parametrize("counter", [-1, 2**32, "7", 1.5, True, []])
def test_lorawan_counter_that_is_none_costs_the_counter(decode: Decoder, counter: object) -> None:
    got = decode({"b": 1}, **{"fCnt" if decode is chirp else "f_cnt": counter})
    assert (len(got), got.counter, [f.reason for f in got.faults]) == (1, None, [FaultReason.SCHEMA])


def test_thethings_without_session_key_counts_by_the_device_address() -> None:
    document = {"end_device_ids": {"dev_eui": EUI, "dev_addr": "260B1904"}, "uplink_message": {"f_port": 1, "decoded_payload": {"a": 1}}}
    got = thethings.decode("v3/a@t/devices/d/up", json.dumps(document).encode())
    assert got.counter is not None
    assert (got.counter.session, got.counter.counter) == ("260B1904", 0)


def test_thethings_simulated_uplink_has_no_counter_and_pages_nobody() -> None:
    document = {"end_device_ids": {"dev_eui": EUI}, "simulated": True, "uplink_message": {"f_cnt": 9, "decoded_payload": {"a": 1}}}
    got = thethings.decode("v3/a@t/devices/d/up", json.dumps(document).encode())
    assert (got.counter, got.historical, got.quality) == (None, [True], [1])


def test_chirpstack_status_without_a_battery_level_says_nothing_of_a_battery() -> None:
    assert chirp(None, "status", margin=0, batteryLevelUnavailable=True, batteryLevel=0).channel == ("margin",)
    assert chirp(None, "status").channel == ()


@pytest.mark.parametrize(
    "text", ["2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00+25:00", "2026-01-01", "", "x" * 99, None, 5]
)
def test_instant_that_is_none_is_none(text: object) -> None:
    assert instant_of(text) is None


def test_best_reception_of_odd_gateways_is_nothing() -> None:
    assert best_reception(None) == best_reception([1, {}, {"rssi": "x", "snr": True}]) == (None, None)
    assert best_reception([{"snr": 1}, {"snr": 4.5}]) == (None, 4.5)


def test_details_are_few_short_and_plain() -> None:
    tags = {f"t{i}": "x" * 999 for i in range(99)}
    found = details(("a", "b\x00" + "c" * 999), ("n", 5.0), ("z", None), ("e", ""), ("o", {}), tags=tags)
    assert len(found) == DETAILS_MAX
    assert found["a"] == "b?" + "c" * (DETAIL_CHARS_MAX - 2)
    assert found["n"] == 5
    assert set(found) >= {"tag t0"}
    assert not set(found) & {"z", "e", "o"}
    assert clean("\ud800") == "?"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
FIELDS = (
    "time",
    "object",
    "fCnt",
    "fPort",
    "devAddr",
    "data",
    "rxInfo",
    "margin",
    "batteryLevel",
    "location",
    "level",
    "code",
    "description",
)
PARTS = (
    "decoded_payload",
    "normalized_payload",
    "decoded_payload_warnings",
    "rx_metadata",
    "settings",
    "received_at",
    "f_cnt",
    "frm_payload",
)


@given(
    st.sampled_from(chirpstack.EVENTS),
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.dictionaries(st.sampled_from(["tags", "deviceName"]), JSON),
)
def test_chirpstack_any_fields_never_raise_and_something_comes(event: str, fields: dict[str, Any], info: dict[str, Any]) -> None:
    document = fields | {"deviceInfo": {"devEui": EUI} | info}
    got = chirpstack.decode(f"application/a/device/{EUI}/event/{event}", json.dumps(document).encode())
    assert got.announcement is not None
    assert len(got.channel) == len(got.value) == len(got.observed_us)
    assert len(got.faults) <= FAULTS_MAX
    json.dumps(got.announcement.details, allow_nan=False).encode()


@given(st.sampled_from(thethings.EVENTS), st.dictionaries(st.sampled_from(PARTS), JSON), JSON)
def test_thethings_any_fields_never_raise_and_something_comes(event: str, fields: dict[str, Any], other: Any) -> None:
    uplink = fields | {"f_port": 1}
    document = {
        "end_device_ids": {"dev_eui": EUI},
        "uplink_message": uplink,
        "join_accept": other,
        "location_solved": other,
        "simulated": other,
    }
    got = thethings.decode(f"v3/a@t/devices/d/{event}", json.dumps(document).encode())
    assert got.announcement is not None or got.faults
    assert len(got.channel) == len(got.value) == len(got.observed_us)
    assert len(got.faults) <= FAULTS_MAX
