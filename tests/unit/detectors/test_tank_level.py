"""Stories of one tank: what comes before an overflow, a full tank that rests, a leak, a gauge that lies, and that nothing is absorbed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.contract import Frames
from detectors.water.tank_level import TankLevel, tank_area_m2, tank_problems
from underway.model import Asset, AssetClass, Channel, Finding, FindingKind, FindingPhase, Hold, Quantity

STEP_US = 300_000_000
PAST_DAYS = 14
BEGIN = PAST_DAYS * 288
AREA_M2 = 200.0
OVERFLOW, LOW, BALANCE = FindingKind.TANK_OVERFLOW, FindingKind.TANK_LOW, FindingKind.TANK_BALANCE
RAISE, CLEAR = FindingPhase.RAISE, FindingPhase.CLEAR
Values = NDArray[np.float64]


def tank() -> TankLevel:
    attributes = {"area_m2": AREA_M2, "overflow_m": 5.0, "low_m": 1.0}
    asset = Asset("tk-1", "town", "z1", AssetClass.TANK, "Hill tank", attributes=attributes)
    return TankLevel(
        asset,
        Channel(1, "tk", "level", Quantity.LEVEL, "m", "tk-1", "z1", "tank_level", 0, 9, 300, 0.001),
        [
            Channel(2, "tk", "inflow", Quantity.FLOW, "m3/h", "tk-1", "z1", "tank_flow", 0, 900, 300, 0.1, sign=-1),
            Channel(3, "tk", "outflow", Quantity.FLOW, "m3/h", "tk-1", "z1", "tank_flow", 0, 900, 300, 0.1),
        ],
    )


def water(
    begin: int, steps: int, seed: int, level_m: float = 3.0, more_in: float = 0.0, more_out: float = 0.0, leak: float = 0.0
) -> Values:
    """Return level, inflow and outflow: the tank swings by 0.8 m a day; `more_in` and `more_out` are metered, `leak` is not (m3/h)."""
    rng = np.random.default_rng([seed, begin])
    t = np.arange(begin, begin + steps)
    out = 60 * (1 - 0.4 * np.cos(2 * np.pi * t / 288)) + more_out
    into = np.full(steps, 60.0 + more_in)

    level = level_m + np.concatenate(([0.0], np.cumsum(into - out - leak)[:-1])) / 12 / AREA_M2
    level = np.clip(level, 0.0, 5.0)
    value = np.column_stack(
        (level + rng.normal(0, 0.003, steps), into * 1.01 + rng.normal(0, 0.5, steps), out * 0.99 + rng.normal(0, 0.5, steps))
    )
    return np.round(value, 3)


def frames(value: Values, begin: int, historical: bool = False) -> Frames:
    return Frames(np.arange(begin, begin + len(value), dtype=np.int64) * STEP_US, value, np.full(len(value), historical))


@cache
def _learned() -> bytes:
    detector = tank()
    detector.step(frames(water(0, BEGIN, 1), 0))
    return detector.state()


def experienced() -> TankLevel:
    detector = tank()
    detector.restore(_learned())
    return detector


def of(findings: tuple[Finding, ...], kind: FindingKind, phase: FindingPhase = RAISE) -> list[Finding]:
    return [f for f in findings if f.kind is kind and f.phase is phase]


def test_quiet_days_give_nothing_and_the_balance_is_learned() -> None:
    detector = experienced()
    out = detector.step(frames(water(BEGIN, 5 * 288, 3), BEGIN))
    assert out.findings == ()
    assert {s.name for s in out.expectations.signals} == {"asset/tk-1/level", "asset/tk-1/balance"}


def test_overflow_inflow_that_does_not_stop_is_told_before_the_weir_and_then_with_what_is_lost() -> None:
    value = water(BEGIN, 120, 4, level_m=3.8, more_in=120.0)
    found = experienced().step(frames(value, BEGIN)).findings
    (first,) = of(found, OVERFLOW)
    at_weir = int(np.argmax(value[:, 0] >= 4.99))
    warned = (BEGIN + at_weir) * 5 - first.detected_us // 60_000_000
    assert first.evidence.details["cause"] == "ahead"
    assert 30 <= warned <= 120
    assert 30 <= first.evidence.details["limit_in_min"] <= 60
    later = of(found, OVERFLOW, FindingPhase.UPDATE)[-1]
    assert later.evidence.details["cause"] == "at_weir"
    assert later.evidence.details["spill_m3ph"] > 80
    assert not of(found, BALANCE)


def test_overflow_a_full_tank_that_rests_is_none() -> None:
    value = water(BEGIN, 60, 5)
    value[:, 0] = 5.0
    value[:, 1:] = 0.0
    assert not of(experienced().step(frames(value, BEGIN)).findings, OVERFLOW)


def test_overflow_level_back_in_the_band_clears_and_silence_does_not() -> None:
    detector = experienced()
    value = water(BEGIN, 40, 6)
    value[:, 0], value[:, 1] = 5.0, 200.0
    assert of(detector.step(frames(value, BEGIN)).findings, OVERFLOW)
    gap = np.full((60, 3), np.nan)
    assert detector.step(frames(gap, BEGIN + 40)).findings == ()
    cleared = detector.step(frames(water(BEGIN + 100, 12, 6), BEGIN + 100)).findings
    assert of(cleared, OVERFLOW, CLEAR)


def test_low_draw_beyond_what_comes_in_is_told_before_the_reserve() -> None:
    found = experienced().step(frames(water(BEGIN, 120, 7, level_m=2.2, more_out=150.0), BEGIN)).findings
    (first,) = of(found, LOW)
    assert first.evidence.details["cause"] == "ahead"
    assert first.evidence.observed > 1.0
    assert of(found, LOW, FindingPhase.UPDATE)[-1].evidence.details["cause"] == "under_reserve"


def test_balance_a_leak_of_the_tank_is_found_with_its_size_and_never_absorbed() -> None:
    detector = experienced()
    value = water(BEGIN, 21 * 288, 8, level_m=3.0)
    leak = 6.0
    value[:, 2] -= leak  # what leaks is drawn from the tank and passes no meter
    found = detector.step(frames(value, BEGIN)).findings
    (first,) = of(found, BALANCE)
    assert first.evidence.details["cause"] == "missing"
    assert first.detected_us - BEGIN * STEP_US < 24 * 3600 * 1_000_000
    assert detector.balance is not None
    assert detector.balance.monitor.open is not None
    assert abs(of(found, BALANCE, FindingPhase.UPDATE)[-1].evidence.details["gap_m3ph"] - leak) < 2.5


def test_balance_a_gauge_that_stands_still_is_named() -> None:
    value = water(BEGIN, 288, 9)
    value[:, 0] = 3.211
    (first,) = of(experienced().step(frames(value, BEGIN)).findings, BALANCE)
    assert first.evidence.details["cause"] == "gauge_stands"
    assert "gauge stands still" in first.evidence.summary


def test_balance_meter_gains_and_a_larger_demand_are_no_leak() -> None:
    value = water(BEGIN, 2 * 288, 10, level_m=3.2, more_in=20.0, more_out=20.0)
    assert not of(experienced().step(frames(value, BEGIN)).findings, BALANCE)


def test_balance_cancelled_hold_takes_the_gap_for_normal() -> None:
    detector = experienced()
    value = water(BEGIN, 2 * 288, 11)
    value[:, 2] -= 8.0
    (first,) = of(detector.step(frames(value, BEGIN)).findings, BALANCE)
    detector.hold(Hold(1, "z1", "tk-1", first.detected_us))
    detector.hold(Hold(1, "z1", "tk-1", first.detected_us, (BEGIN + 576) * STEP_US, "cancelled"))
    more = water(BEGIN + 576, 288, 11)
    more[:, 2] -= 8.0
    assert of(detector.step(frames(more, BEGIN + 576)).findings, BALANCE, CLEAR)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"area_m2": 0}, "'area_m2' must be a number above 0 in m2, got 0"),
        ({"diameter_m": "wide"}, "'diameter_m' must be a number above 0 in m, got 'wide'"),
        ({"overflow_m": True}, "'overflow_m' must be a number above 0 in m, got True"),
        ({"low_m": 3.0, "overflow_m": 2.0}, "'low_m' must be below 'overflow_m' (2.0 m), got 3.0"),
    ],
    ids=["no-area", "text", "truth", "low-above-overflow"],
)
def test_tank_problems_wrong_attribute_is_named_with_its_unit(attributes: dict[str, object], words: str) -> None:
    assert tank_problems(attributes) == [words]


def test_tank_area_round_tank_follows_from_its_diameter() -> None:
    assert tank_area_m2({"diameter_m": 2.0}) == pytest.approx(np.pi)


def test_plan_tank_without_attributes_is_not_watched() -> None:
    gauge = Channel(1, "tk", "level", Quantity.LEVEL, "m", "tk-1", "z1", "tank_level", 0, 9, 300)
    bare = Asset("tk-1", "town", "z1", AssetClass.TANK, "Bare")
    assert TankLevel.plan({"tk-1": bare}, [gauge]) == []
    assert len(TankLevel.plan({"tk-1": Asset("tk-1", "town", "z1", AssetClass.TANK, "T", attributes={"low_m": 1.0})}, [gauge])) == 1
