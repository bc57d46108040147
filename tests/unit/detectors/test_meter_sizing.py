"""Weeks of flow through meters that are too large, right and too small."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from detectors.contract import Rows
from detectors.water.meter_sizing import MeterSizing, sizing_channels
from underway.model import DAY_US, Asset, AssetClass, Channel, Device, Finding, Quantity

QUARTER_US = 900_000_000


def meter(interval_s: float = 900.0, quantity: Quantity = Quantity.FLOW, step: float = 0.001) -> Channel:
    return Channel(1, "m-1", quantity.value, quantity, "", "c-1", "z1", "customer_meter", -1e6, 1e6, interval_s, step)


def device(**attributes: object) -> dict[str, Device]:
    return {"m-1": Device("m-1", "town", "z1", None, "meter", "native", datetime(2026, 1, 1, tzinfo=UTC), attributes=attributes)}


def run(flow: np.ndarray, q3: float, ratio: float = 80.0, channel: Channel | None = None, every_us: int = QUARTER_US) -> list[Finding]:
    detector = MeterSizing([channel or meter()], device(q3_m3ph=q3, ratio_r=ratio), {})
    at = np.arange(len(flow)) * every_us
    return list(detector.step(Rows(np.zeros(len(flow), np.int64), at, at, flow, np.zeros(len(flow), np.bool_))).findings)


def days(count: int, low: float, high: float) -> np.ndarray:
    """Return quarters of an hour of a flow that swings between two values every day."""
    t = np.arange(count * 96) / 96.0
    return low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * t))


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.kind.value, f.phase.value) for f in findings]


def test_meter_far_larger_than_its_flows_is_oversized_with_the_volume_it_missed() -> None:
    (found,) = run(days(40, 0.2, 1.0), q3=63.0)
    assert said([found]) == [("meter.oversized", "raise")]
    details = found.evidence.details
    assert (details["q1_m3ph"], details["q2_m3ph"], details["q4_m3ph"]) == (0.7875, 1.26, 78.75)
    assert details["volume_m3"] == pytest.approx(0.6 * 24 * 28, rel=0.01)
    # between -80 % at the lowest and -2 % at the highest flow
    assert 0.1 * 0.6 * 24 * 28 < details["unregistered_m3"] < 0.6 * 24 * 28


def test_meter_that_fits_says_nothing() -> None:
    assert run(days(60, 1.0, 10.0), q3=16.0) == []


def test_meter_with_low_flows_at_night_that_is_near_its_permanent_flow_by_day_is_not_oversized() -> None:
    assert run(days(60, 0.05, 12.0), q3=16.0, ratio=16.0) == []


def test_meter_above_its_permanent_flow_for_hours_is_undersized_at_any_interval() -> None:
    hourly = Channel(1, "m-1", "volume", Quantity.VOLUME, "m3", None, "z1", "customer_meter", 0, 1e9, 3600.0, 0.01)
    register = np.cumsum(days(60, 1.0, 8.0)[::4])
    (found,) = run(register, 4.0, channel=hourly, every_us=4 * QUARTER_US)
    assert said([found]) == [("meter.undersized", "raise")]
    assert found.evidence.observed == pytest.approx(0.545, abs=0.01)


def test_means_of_an_hour_say_nothing_about_low_flows() -> None:
    assert run(days(60, 0.2, 1.0)[::4], 63.0, channel=meter(3600.0), every_us=4 * QUARTER_US) == []


def test_single_uses_of_a_household_are_no_low_flow() -> None:
    uses = np.where(np.random.default_rng(1).random(60 * 96) < 0.25, 0.02, 0.0)
    assert run(uses, 2.5) == []


def test_meter_that_was_changed_for_a_smaller_one_clears() -> None:
    detector = MeterSizing([meter()], device(q3_m3ph=63.0, ratio_r=80.0), {})
    flow = np.r_[days(35, 0.2, 1.0), days(60, 20.0, 40.0)]
    at = np.arange(len(flow)) * QUARTER_US
    found = detector.step(Rows(np.zeros(len(flow), np.int64), at, at, flow, np.zeros(len(flow), np.bool_))).findings
    assert said(list(found)) == [("meter.oversized", "raise"), ("meter.oversized", "clear")]


def test_weeks_without_enough_readings_are_not_judged() -> None:
    flow = days(80, 0.2, 1.0)
    at = np.arange(len(flow)) * QUARTER_US
    keep = (at // (3 * DAY_US)) % 2 == 0
    detector = MeterSizing([meter()], device(q3_m3ph=63.0, ratio_r=80.0), {})
    rows = Rows(np.zeros(keep.sum(), np.int64), at[keep], at[keep], flow[keep], np.zeros(keep.sum(), np.bool_))
    assert detector.step(rows).findings == ()


@pytest.mark.parametrize(
    ("on_device", "on_asset", "judged"),
    [
        ({"q3_m3ph": 4.0, "ratio_r": 80}, {}, True),
        ({}, {"q3_m3ph": 4.0, "ratio_r": 80}, True),
        ({"q3_m3ph": 4.0}, {"ratio_r": 80}, True),
        ({"q3_m3ph": 4.0}, {}, False),
        ({"q3_m3ph": "4", "ratio_r": 80}, {}, False),
        ({"q3_m3ph": True, "ratio_r": 80}, {}, False),
    ],
    ids=["device", "asset", "both", "no-ratio", "text", "truth-value"],
)
def test_meter_is_judged_where_its_size_is_known(on_device: dict[str, object], on_asset: dict[str, object], judged: bool) -> None:
    asset = Asset("c-1", "town", "z1", AssetClass.JUNCTION, "Connection", attributes=on_asset)
    assert bool(sizing_channels([meter()], device(**on_device), {"c-1": asset})) is judged
