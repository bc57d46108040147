"""Stories of one meter that runs backwards, and of registers that fall although it does not."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from detectors.contract import Rows
from detectors.water.meter_backward import MeterBackward
from detectors.water.meter_rows import Registers
from underway.model import HOUR_US, Channel, Device, Finding, Quantity

FLOW, VOLUME = Quantity.FLOW, Quantity.VOLUME


def meter(quantity: Quantity = VOLUME, role: str = "customer_meter", step: float = 0.001, number: int = 1) -> Channel:
    unit = "m3" if quantity is VOLUME else "m3/h"
    return Channel(number, f"m-{number}", quantity.value, quantity, unit, None, "z1", role, -1e6, 1e6, 3600.0, step)


def device(**attributes: float) -> dict[str, Device]:
    return {"m-1": Device("m-1", "town", "z1", None, "meter", "native", datetime(2026, 1, 1, tzinfo=UTC), attributes=attributes)}


def run(detector: MeterBackward, value: np.ndarray, historical: bool = False, first: int = 0) -> list[Finding]:
    at = (first + np.arange(len(value))) * HOUR_US
    rows = Rows(np.zeros(len(value), np.int64), at, at, value, np.full(len(value), historical))
    return list(detector.step(rows).findings)


def said(findings: list[Finding]) -> list[tuple[str, str, int]]:
    return [(f.kind.value, f.phase.value, f.detected_us // HOUR_US) for f in findings if f.phase.value != "update"]


def steps(*parts: tuple[int, float], begin: float = 300.0) -> np.ndarray:
    """Return a register after so many hours of so many litres."""
    return begin + np.cumsum(np.concatenate([np.full(n, litres / 1000.0) for n, litres in parts]))


def test_meter_mounted_backwards_from_the_first_reading_is_found_after_six_hours_and_ten_moves() -> None:
    found = run(MeterBackward([meter()], {}, {}), steps((48, -8.0)))
    assert said(found) == [("meter.backward", "raise", 10)]
    assert found[0].onset_us == 0
    assert found[0].evidence.details["share_backwards"] == 1.0


def test_water_that_flows_back_is_backflow_with_the_volume_and_clears_a_day_after_it_ended() -> None:
    found = run(MeterBackward([meter()], {}, {}), steps((100, 10.0), (4, -30.0), (60, 10.0)))
    assert said(found) == [("backflow", "raise", 100), ("backflow", "clear", 127)]
    assert found[0].onset_us == 99 * HOUR_US
    assert found[-1].evidence.observed == pytest.approx(0.12)


def test_meter_that_was_turned_round_is_backflow_first_and_backward_after_three_days() -> None:
    found = run(MeterBackward([meter()], {}, {}), steps((100, 10.0), (120, -10.0), (30, 10.0)))
    assert said(found) == [
        ("backflow", "raise", 101),
        ("backflow", "clear", 171),
        ("meter.backward", "raise", 171),
        ("meter.backward", "clear", 231),
    ]
    assert found[-1].evidence.summary == "Meter m-1 counts forwards again"


@pytest.mark.parametrize(
    ("after", "attributes"),
    [
        (np.r_[9_999.99, 0.004, 0.014, 0.024], {}),
        (np.r_[1_999.99, 0.004, 0.014, 0.024], {"register_max_m3": 2000.0}),
        (np.r_[812.0, 0.0, 0.01, 0.02], {}),
        (np.r_[812.0, 0.4, 0.41, 0.42], {}),
        (np.r_[812.0, 300.0, 300.01, 300.02], {}),
    ],
    ids=["roll-over", "roll-over-of-a-named-range", "reset", "replaced", "replaced-by-a-used-one"],
)
def test_register_that_falls_once_and_counts_on_is_not_water(after: np.ndarray, attributes: dict[str, float]) -> None:
    before = after[0] - 0.01 * np.arange(100, 0, -1)
    rest = after[-1] + 0.01 * np.arange(1, 60)
    assert run(MeterBackward([meter()], device(**attributes), {}), np.r_[before, after, rest]) == []


def test_meter_replaced_by_one_that_is_mounted_backwards_is_found_and_said_to_be_backward_only() -> None:
    found = run(MeterBackward([meter()], {}, {}), np.r_[steps((100, 10.0)), steps((30, -10.0), begin=0.5)])
    assert said(found) == [("meter.backward", "raise", 110)]
    assert found[0].onset_us == 100 * HOUR_US


def test_backward_meter_that_is_replaced_clears_with_the_new_register() -> None:
    found = run(MeterBackward([meter()], {}, {}), np.r_[steps((40, -10.0)), steps((5, 10.0), begin=0.02)])
    assert said(found) == [("meter.backward", "raise", 10), ("meter.backward", "clear", 40)]


def test_meter_that_swings_to_and_fro_widens_its_limit_and_raises_nothing() -> None:
    rng = np.random.default_rng(3)
    swing = rng.uniform(0.0, 0.018, 400)
    later = rng.uniform(0.0, 0.040, 400)
    assert run(MeterBackward([meter()], {}, {}), 300 + 0.002 * np.arange(800) + np.r_[swing, later]) == []


def test_meter_that_counts_in_steps_of_a_hundred_litres_needs_three_steps() -> None:
    base = np.repeat(steps((40, 100.0)), 2)
    back = base[-1] - 0.1 * np.array([1, 2, 2, 3])
    found = run(MeterBackward([meter(step=0.1)], {}, {}), np.r_[base, back])
    assert said(found) == [("backflow", "raise", 83)]


def test_flow_that_is_negative_counts_as_its_time_and_at_most_two_intervals_of_it() -> None:
    registers = Registers([meter(FLOW)], np.array([2.5]), np.array([0.0]))
    one = np.array([0])
    taken = [float(registers.take(one, np.array([h * HOUR_US]), np.array([-0.02])).litres[0]) for h in (0, 1, 10)]
    assert np.isnan(taken[0])
    assert taken[1:] == pytest.approx([-20.0, -40.0])


def test_inflow_of_a_zone_that_turns_after_it_ran_forwards_is_an_operation_and_not_a_meter() -> None:
    inflow = meter(FLOW, "zone_inflow")
    assert run(MeterBackward([inflow], {}, {}), np.r_[np.full(100, 30.0), np.full(200, -30.0)]) == []
    found = run(MeterBackward([inflow], {}, {}), np.full(100, -30.0))
    assert said(found) == [("meter.backward", "raise", 10)]


def test_finding_from_history_is_raised_again_by_a_live_reading() -> None:
    detector = MeterBackward([meter()], {}, {})
    series = steps((60, 10.0), (4, -30.0))
    found = run(detector, series[:62], historical=True) + run(detector, series[62:], first=62)
    assert [(f.phase.value, f.historical) for f in found] == [("raise", True), ("raise", False)]


def test_large_meter_without_attributes_that_counts_forwards_is_no_new_register() -> None:
    registers = Registers([meter()], np.array([2.5]), np.array([0.0]))
    one = np.array([0])
    registers.take(one, np.array([0]), np.array([100.0]))
    moved = registers.take(one, np.array([HOUR_US]), np.array([140.0]))
    assert moved.litres.tolist() == [40_000.0]
    assert not moved.renewed.any()
