from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decoded import Decoded
from ingest.resolve import Resolver
from underway.model import (
    DAY_US,
    HOUR_US,
    SECOND_US,
    Channel,
    Device,
    DeviceStatus,
    Fault,
    FaultReason,
    Quality,
    QualityReason,
    Quantity,
    ReadingFlag,
    Registry,
    Site,
    to_us,
)

REGISTERED_AT = datetime(2026, 1, 1, tzinfo=UTC)
NOW_US = to_us(datetime(2026, 3, 1, 12, tzinfo=UTC))


class Item(NamedTuple):
    dialect: str
    decoded: Decoded
    received_us: int


def device(device_id: str, status: DeviceStatus = DeviceStatus.ACTIVE, registered_at: datetime = REGISTERED_AT) -> Device:
    return Device(device_id, "town", None, None, "m", "native", registered_at, status)


def channel(channel_id: int, device_id: str, name: str, quantity: Quantity, unit: str) -> Channel:
    return Channel(channel_id, device_id, name, quantity, unit, None, None, "zone_pressure", 0.0, 1000.0, 300.0)


RESOLVER = Resolver(
    Registry(
        Site("town", "Town", "UTC", 0.0, 0.0),
        (),
        (),
        (
            device("pr-113"),
            device("fm-1"),
            device("old-1", DeviceStatus.RETIRED),
            device("new-1", registered_at=datetime(2026, 3, 1, 11, tzinfo=UTC)),
        ),
        (
            channel(1, "pr-113", "pressure", Quantity.PRESSURE, "bar"),
            channel(2, "fm-1", "flow", Quantity.FLOW, "m3/h"),
            channel(3, "fm-1", "odd", Quantity.FLOW, "furlong"),
            channel(4, "new-1", "pressure", Quantity.PRESSURE, "kPa"),
            channel(5, "old-1", "pressure", Quantity.PRESSURE, "kPa"),
        ),
    )
)


def said(device_id: str, name: str, value: float, at_us: int = NOW_US, unit: str | None = None, site_id: str | None = "town") -> Item:
    units = None if unit is None else (unit,)
    return Item("native", Decoded(device_id, (name,), [at_us], [value], units, site_id=site_id), NOW_US)


def only_fault(message: Item) -> Fault:
    got = RESOLVER.resolve([message])
    assert len(got.batch) == 0
    ((index, fault),) = got.faults
    assert index == 0
    return fault


def test_resolve_registered_unit_is_converted_to_the_canonical_one() -> None:
    batch = RESOLVER.resolve([said("pr-113", "pressure", 3.41)]).batch
    assert batch.channel_id.tolist() == [1]
    assert batch.value.tolist() == [341.0]
    assert batch.received_us.tolist() == [NOW_US]
    assert batch.quality.tolist() == [Quality.GOOD]


def test_resolve_unit_of_the_message_beats_the_registered_one() -> None:
    assert RESOLVER.resolve([said("fm-1", "flow", 10.0, unit="L/s")]).batch.value.tolist() == [36.0]


@pytest.mark.parametrize(
    ("message", "reason", "text"),
    [
        (said("pr-13", "pressure", 1.0), FaultReason.DEVICE_UNKNOWN, "no device 'pr-13' is registered; nearest known: 'pr-113'"),
        (said("zzz", "pressure", 1.0), FaultReason.DEVICE_UNKNOWN, "no device 'zzz' is registered"),
        (
            said("pr-113", "pressure", 1.0, site_id="north"),
            FaultReason.DEVICE_UNKNOWN,
            "device 'pr-113' is registered at site 'town', got a message for site 'north'",
        ),
        (said("old-1", "pressure", 1.0), FaultReason.DEVICE_NOT_ACTIVE, "device 'old-1' must be active to be heard, it is retired"),
        (said("fm-1", "flo", 1.0), FaultReason.CHANNEL_UNKNOWN, "device 'fm-1' has no channel 'flo'; nearest known: 'flow'"),
        (
            said("fm-1", "flow", 1.0, unit="kPa"),
            FaultReason.UNIT_UNKNOWN,
            "the unit of 'flow' must convert to m3/h, the message says 'kPa' (device 'fm-1')",
        ),
        (
            said("fm-1", "odd", 1.0),
            FaultReason.UNIT_UNKNOWN,
            "the unit of 'odd' must convert to m3/h, the registry says 'furlong' (device 'fm-1')",
        ),
        (
            said("fm-1", "flow", 1.0, NOW_US + 121 * SECOND_US),
            FaultReason.TIME_FUTURE,
            "the observed time must be at most 120 s after reception, got 2026-03-01T12:02:01Z, 121 s ahead (device 'fm-1', channel 'flow')",
        ),
        (
            said("fm-1", "flow", 1.0, NOW_US - 31 * DAY_US),
            FaultReason.TIME_TOO_OLD,
            "the observed time must be at most 30 days old, got 2026-01-29T12:00:00Z, 31.0 days old (device 'fm-1', channel 'flow')",
        ),
        (
            said("new-1", "pressure", 1.0, NOW_US - 2 * HOUR_US),
            FaultReason.TIME_TOO_OLD,
            "the observed time must not be before the device was registered at 2026-03-01T11:00:00Z, got 2026-03-01T10:00:00Z"
            " (device 'new-1', channel 'pressure')",
        ),
        (
            said("fm-1", "flow", 1e308, unit="m3/s"),
            FaultReason.VALUE_NOT_FINITE,
            "'flow' must be finite in the canonical unit, got 1e+308 m3/s (device 'fm-1', channel 'flow')",
        ),
    ],
    ids=lambda value: value.value if isinstance(value, FaultReason) else None,
)
def test_resolve_what_cannot_be_taken_says_why(message: Item, reason: FaultReason, text: str) -> None:
    fault = only_fault(message)
    assert (fault.reason, fault.message) == (reason, text)


@pytest.mark.parametrize(
    "at_us", [-(2**62), 0, 2**62, to_us(datetime.min.replace(tzinfo=UTC)) - HOUR_US], ids=["early", "1970", "late", "before-year-1"]
)
def test_resolve_impossible_instant_is_a_fault_and_moves_nothing(at_us: int) -> None:
    assert only_fault(said("fm-1", "flow", 1.0, at_us)).reason in (FaultReason.TIME_TOO_OLD, FaultReason.TIME_FUTURE)


@pytest.mark.parametrize(
    ("age_us", "flag"),
    [
        (-120 * SECOND_US, ReadingFlag.NONE),
        (0, ReadingFlag.NONE),
        (HOUR_US, ReadingFlag.NONE),
        (HOUR_US + 1, ReadingFlag.HISTORICAL),
        (30 * DAY_US, ReadingFlag.HISTORICAL),
    ],
)
def test_resolve_age_decides_the_historical_flag(age_us: int, flag: ReadingFlag) -> None:
    assert RESOLVER.resolve([said("fm-1", "flow", 1.0, NOW_US - age_us)]).batch.flags.tolist() == [flag]


def test_resolve_value_out_of_range_is_bad_and_unchanged() -> None:
    batch = RESOLVER.resolve([said("fm-1", "flow", -3.0)]).batch
    assert (batch.value[0], batch.quality[0], batch.reason[0]) == (-3.0, Quality.BAD, QualityReason.OUT_OF_RANGE)


def test_resolve_many_refused_rows_of_a_message_are_one_fault_with_a_count() -> None:
    decoded = Decoded("fm-1", ("flow",) * 50, list(range(50)), [1.0] * 50)
    ((_, fault),) = RESOLVER.resolve([Item("native", decoded, NOW_US)]).faults
    assert fault.message.endswith("; and 49 more of this message")


def test_resolve_good_and_bad_together_keeps_the_good_and_names_the_message() -> None:
    got = RESOLVER.resolve([said("nobody", "x", 1.0), said("fm-1", "flow", 1.0), said("fm-1", "flow", 2.0, 0)])
    assert got.batch.value.tolist() == [1.0]
    assert [index for index, _ in got.faults] == [0, 2]
    assert got.strangers == {("native", "nobody")}


def test_resolve_address_of_the_dialect_finds_device_and_channel() -> None:
    meter = replace(device("meter-7"), dialect="sparkplug", address="north/rtu-1/inlet")
    flow = replace(channel(9, "meter-7", "flow", Quantity.FLOW, "m3/h"), address="Flow/m3h")
    resolver = Resolver(Registry(RESOLVER.registry.site, (), (), (meter,), (flow,)))
    spoken = Decoded("north/rtu-1/inlet", ("Flow/m3h",), [NOW_US], [41.7])
    assert resolver.resolve([Item("sparkplug", spoken, NOW_US)]).batch.channel_id.tolist() == [9]
    ((_, fault),) = resolver.resolve([Item("native", spoken, NOW_US)]).faults
    assert fault.message == "no device 'north/rtu-1/inlet' is registered for the dialect 'native'; it is registered for another one"


def test_resolve_shapes_that_take_turns_go_where_they_belong() -> None:
    one, two = said("fm-1", "flow", 1.0), said("fm-1", "flow", 2.0, unit="L/s")
    assert RESOLVER.resolve([one, two, one, two, one]).batch.value.tolist() == [1.0, 7.2, 1.0, 7.2, 1.0]


def test_resolve_quality_and_time_from_reception_of_one_message_stay_with_it() -> None:
    graded = Decoded("fm-1", ("flow", "flow"), [-5 * SECOND_US, NOW_US], [1.0, 2.0], None, [1, 0], [2, 0], [True, False])
    batch = RESOLVER.resolve([said("fm-1", "flow", 3.0), Item("native", graded, NOW_US), said("fm-1", "flow", 4.0)]).batch
    assert batch.observed_us.tolist() == [NOW_US, NOW_US - 5 * SECOND_US, NOW_US, NOW_US]
    assert batch.quality.tolist() == [0, 1, 0, 0]


def test_resolve_device_says_historical_flags_it() -> None:
    told = Decoded("fm-1", ("flow", "flow"), [NOW_US, NOW_US - 1], [1.0, 2.0], historical=[True, False])
    assert RESOLVER.resolve([Item("native", told, NOW_US)]).batch.flags.tolist() == [ReadingFlag.HISTORICAL, 0]


def test_resolve_clock_an_hour_ahead_is_quarantined_until_it_is_known_and_taken_then() -> None:
    resolver, taken = Resolver(RESOLVER.registry), []
    for minute in range(7):
        now_us = NOW_US + minute * 60 * SECOND_US
        spoken = Decoded("fm-1", ("flow",), [now_us + HOUR_US], [1.0])
        got = resolver.resolve([Item("native", spoken, now_us)])
        resolver.learn(got)
        taken.append(len(got.batch))
    assert taken == [0, 0, 0, 0, 0, 1, 1]
    assert got.batch.observed_us.tolist() == [now_us + HOUR_US], "the key is what the device said"
    assert got.batch.in_event_time().observed_us.tolist() == [now_us]
    assert (got.batch.quality[0], got.batch.reason[0]) == (Quality.SUSPECT, QualityReason.CLOCK_OFFSET)
    ahead = Decoded("fm-1", ("flow",), [now_us + HOUR_US + 121 * SECOND_US], [1.0])
    ((_, fault),) = resolver.resolve([Item("native", ahead, now_us)]).faults
    assert fault.message == (
        "the observed time must be at most 120 s after reception, with its clock 1.0 h ahead, got 2026-03-01T13:08:01Z, 121 s ahead"
        " (device 'fm-1', channel 'flow')"
    )


def test_resolve_flood_of_unknown_devices_searches_few_names() -> None:
    names = [f"pr-113{i}" for i in range(100)]
    faults = Resolver(RESOLVER.registry).resolve([said(name, "pressure", 1.0) for name in names]).faults
    assert sum("nearest" in fault.message for _, fault in faults) == 20


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pr-113", "fm-1", "old-1", "nobody"]),
            st.sampled_from(["pressure", "flow", "odd"]),
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-(2**62), 2**62) | st.integers(NOW_US - DAY_US, NOW_US),
            st.sampled_from([None, "bar", "L/s", "?"]),
        ),
        max_size=20,
    )
)
def test_resolve_every_sample_is_a_reading_or_belongs_to_a_fault(rows: list[tuple[str, str, float, int, str | None]]) -> None:
    messages = [said(name, what, value, at_us, unit) for name, what, value, at_us, unit in rows]
    got = RESOLVER.resolve(messages)
    assert len(got.batch) + len(got.faults) == len(messages)
    assert np.isfinite(got.batch.value).all()
    assert (np.abs(got.batch.received_us - got.batch.observed_us) <= timedelta(days=30) // timedelta(microseconds=1)).all()
