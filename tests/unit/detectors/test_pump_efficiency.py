"""Stories of one pump: wear, another operating point, another speed, and that nothing is absorbed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.contract import Frames
from detectors.water.pump_efficiency import ROLES, PumpEfficiency
from underway.model import Asset, AssetClass, Channel, Finding, FindingPhase, Quantity

STEP_US = 300_000_000
BEGIN = 12 * 288
KINDS = (Quantity.FLOW, Quantity.PRESSURE, Quantity.PRESSURE, Quantity.POWER)
Values = NDArray[np.float64]


def pump() -> PumpEfficiency:
    boxes = [Channel(i, "pu", r, q, "", "pu-1", "z1", r, 0, 1e4, 300) for i, (r, q) in enumerate(zip(ROLES, KINDS, strict=True), start=1)]
    return PumpEfficiency(Asset("pu-1", "town", "z1", AssetClass.PUMP, "Pump 1"), boxes)


def water(
    begin: int, steps: int, seed: int, flow_m3ph: float = 100.0, speed: float = 1.0, loss: float = 0.0, worn_head: float = 0.0
) -> Values:
    """Return flow, suction, discharge, power; the pump stands from 2 to 4 at night."""
    rng = np.random.default_rng([seed, begin])
    t = np.arange(begin, begin + steps)
    flow = (flow_m3ph + 15 * np.sin(2 * np.pi * t / 288)) * speed
    head = (420 - 0.006 * (flow / speed) ** 2) * speed**2 * (1 - worn_head)
    eta = (0.70 - 4e-5 * (flow / speed - 100) ** 2) * (1 - loss)
    power = flow * head / 3600 / eta
    value = np.column_stack((flow, np.full(steps, 40.0), 40 + head, power)) * (1 + rng.normal(0, 0.006, (steps, 4)))
    value[(t % 288 >= 24) & (t % 288 < 48)] = (0.0, 40.0, 40.0, 0.0)
    return value


def frames(value: Values, begin: int) -> Frames:
    return Frames(np.arange(begin, begin + len(value), dtype=np.int64) * STEP_US, value, np.zeros(len(value), bool))


@cache
def _learned() -> bytes:
    detector = pump()
    detector.step(frames(water(0, BEGIN, 1), 0))
    return detector.state()


def judged(value: Values) -> tuple[PumpEfficiency, tuple[Finding, ...]]:
    detector = pump()
    detector.restore(_learned())
    return detector, detector.step(frames(value, BEGIN)).findings


def raises(findings: tuple[Finding, ...]) -> list[Finding]:
    return [f for f in findings if f.phase is FindingPhase.RAISE]


def test_wear_is_found_within_a_day_with_what_it_costs() -> None:
    _, found = judged(water(BEGIN, 288, 2, loss=0.06))
    (first,) = raises(found)
    details = found[-1].evidence.details
    # some 14.6 kW, 6 % more, 22 of 24 h
    assert 10 < details["loss_kwh_per_day"] < 40
    assert details["cause"] == "drive"
    assert first.evidence.observed < first.evidence.expected


def test_wear_that_takes_head_too_is_named_hydraulic() -> None:
    _, found = judged(water(BEGIN, 288, 3, loss=0.06, worn_head=0.06))
    assert found[-1].evidence.details["cause"] == "hydraulic"


@pytest.mark.parametrize(("flow", "speed"), [(108.0, 1.0), (92.0, 1.0), (100.0, 0.9)], ids=["more-flow", "less-flow", "slower"])
def test_another_operating_point_is_no_fault(flow: float, speed: float) -> None:
    _, found = judged(water(BEGIN, 4 * 288, 4, flow_m3ph=flow, speed=speed))
    assert found == ()


def test_wear_that_stays_is_not_absorbed_and_a_repair_clears_it() -> None:
    detector, found = judged(water(BEGIN, 14 * 288, 5, loss=0.06))
    assert len(raises(found)) == 1
    assert detector.monitor.open is not None
    after = detector.step(frames(water(BEGIN + 14 * 288, 288, 5), BEGIN + 14 * 288)).findings
    assert [f.phase for f in after if f.phase is FindingPhase.CLEAR] == [FindingPhase.CLEAR]


def test_silence_during_wear_says_nothing() -> None:
    detector, _ = judged(water(BEGIN, 288, 6, loss=0.06))
    assert detector.step(frames(np.full((200, 4), np.nan), BEGIN + 288)).findings == ()


def test_plan_pump_without_power_is_not_watched() -> None:
    assert PumpEfficiency.plan({"pu-1": pump().asset}, pump().channels[:3]) == []
    assert len(PumpEfficiency.plan({"pu-1": pump().asset}, pump().channels)) == 1
