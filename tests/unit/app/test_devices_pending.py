from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from underway.app.devices_fields import ROLES, normal_address
from underway.app.devices_pending import channel_name, guess_channel, guess_interval_s, parse_wish
from underway.model import OperatorError, Quantity
from underway.store.pending import PendingEntry, PendingRow, PendingStatus, merge

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def entry(**more: object) -> PendingEntry:
    return replace(PendingEntry("native", "pr-9", "uplink", NOW_AT, NOW_AT, "t"), **more)  # type: ignore[arg-type]  # the field decides


@pytest.mark.parametrize(
    ("address", "unit", "quantity", "in_unit"),
    [
        ("Flow/m3h", None, "flow", "m3/h"),
        ("Pressure/bar", None, "pressure", "bar"),
        ("Level/m", None, "level", "m"),
        ("Iri/mkm", None, "roughness", "m/km"),
        ("pressure_bar.mean", None, "pressure", "bar"),
        ("flow_L_per_h", None, "flow", "L/h"),
        ("battery", None, "battery", "V"),
        ("waterLevel", None, "level", "m"),
        ("pressure", "m", "pressure", "m"),
        ("depth", "m", "level", "m"),
        ("x", "L/s", "flow", "L/s"),
        ("rssi", "dBm", "signal", "dBm"),
    ],
)
def test_guess_channel_from_name_and_unit(address: str, unit: str | None, quantity: str, in_unit: str) -> None:
    guess = guess_channel(address, unit)
    assert guess is not None
    assert (guess.quantity, guess.unit) == (Quantity(quantity), in_unit)


@pytest.mark.parametrize(
    ("address", "unit"),
    [
        ("distance_mm", None),
        ("Displacement/mm", None),
        ("x", "m"),
        ("rain.total_mm", None),
        ("batteryLevel", "%"),
        ("loudness", "dB"),
        ("level", "kPa"),
        ("pulses", None),
        ("flow_pressure", None),
        ("", None),
    ],
)
def test_guess_channel_that_could_be_anything_is_no_guess(address: str, unit: str | None) -> None:
    assert guess_channel(address, unit) is None


@pytest.mark.parametrize(
    ("count", "hours", "interval_s"), [(4, 1, None), (5, 1, 900), (25, 24, 3600), (100, 24, 900), (97, 24.5, 900), (5, 1000, None)]
)
def test_guess_interval_from_how_often_it_was_heard(count: int, hours: float, interval_s: int | None) -> None:
    row = PendingRow(entry(count=count, last_at=NOW_AT + timedelta(hours=hours)), PendingStatus.PENDING)
    assert guess_interval_s(row) == interval_s


def test_merge_keeps_the_birth_the_first_and_the_newest() -> None:
    birth = entry(kind="birth", channels={"a": {"unit": "bar"}}, model="RTU", details={"x": 1})
    later = entry(
        last_at=NOW_AT + timedelta(hours=1), first_at=NOW_AT + timedelta(hours=1), channels={"b": {"example": 1.0}}, details={"x": 2}
    )
    both = merge(birth, later)
    assert (both.kind, both.count, both.first_at, both.last_at, both.model) == ("birth", 2, NOW_AT, NOW_AT + timedelta(hours=1), "RTU")
    assert (both.channels, both.details) == ({"a": {"unit": "bar"}, "b": {"example": 1.0}}, {"x": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow", "a channel must be given as NAME=ADDRESS:QUANTITY:ROLE, got 'flow'"),
        ("=flow", "a channel must be given as NAME=ADDRESS:QUANTITY:ROLE, got '=flow'"),
        (
            "p=p.0:presure",
            f"the quantity of channel 'p' must be one of {', '.join(sorted(Quantity))}, got 'presure'; nearest known: 'pressure'",
        ),
        (
            "p=p.0:pressure:zone_presure",
            f"the role of channel 'p' must be one of {', '.join(ROLES)}, got 'zone_presure'; nearest known: 'zone_pressure'",
        ),
    ],
)
def test_parse_wish_that_is_none_says_how(text: str, message: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_wish(text)
    assert str(caught.value) == message


def test_parse_wish_without_quantity_is_to_be_guessed() -> None:
    assert parse_wish("flow=urn:dev:mac:1:x").quantity is None
    assert parse_wish("flow=urn:dev:mac:1:x").address == "urn:dev:mac:1:x"
    assert parse_wish("flow=a:b:flow:health:m3/h") == replace(parse_wish("flow=a:b:flow"), role="health", unit="m3/h")


def test_channel_name_is_always_legal() -> None:
    assert [channel_name(a) for a in ("a/b", "ä", "_x", "x" * 99)] == ["a_b", "channel", "x", "x" * 64]


def test_normal_address_is_what_the_dialect_writes() -> None:
    assert normal_address("thethings", "town@ttn/Level-7") == "town@ttn/Level-7"
    assert normal_address("thethings", "70B3 D549 9A1B 2C3D") == "70b3d5499a1b2c3d"
