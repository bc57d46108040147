"""A pressure reducing valve: failures are found and named, what its network does is none, and what stays is not absorbed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.contract import Frames
from detectors.water.prv import DOWNSTREAM_ROLE, FLOW_ROLE, UPSTREAM_ROLE, PressureReducingValve
from underway.model import DAY_US, Asset, AssetClass, Channel, Finding, FindingPhase, Hold, Quantity

Values = NDArray[np.float64]
STEP_US, BEGIN = 300_000_000, 14 * 288
ROLES = ((UPSTREAM_ROLE, Quantity.PRESSURE), (DOWNSTREAM_ROLE, Quantity.PRESSURE), (FLOW_ROLE, Quantity.FLOW))


def valve(metered: bool = True) -> PressureReducingValve:
    boxes = [Channel(i, "v", r, q, "", "v-1", "z1", r, 0, 1e4, 300) for i, (r, q) in enumerate(ROLES[: 3 if metered else 2], start=1)]
    return PressureReducingValve(Asset("v-1", "town", "z1", AssetClass.VALVE, "Valve 1"), boxes, "UTC")


def water(
    begin: int, steps: int, seed: int, *, open_share: float = 0.0, shut: float = 0.0, seat_kpa: float = 0.0, clog: float = 0.0,
    scatter_kpa: float = 1.5, setting_kpa: float = 0.0, inlet_kpa: float = 600.0, more_m3ph: float = 0.0,
) -> Values:  # fmt: skip
    """Return upstream and downstream pressure and flow; lower at night."""
    rng = np.random.default_rng([seed, begin])
    t = np.arange(begin, begin + steps)
    hour = t / 12 % 24
    flow = np.maximum(50 - 35 * np.cos(2 * np.pi * (hour - 3) / 24) + rng.normal(0, 3, steps), 3.0) + more_m3ph
    inlet = inlet_kpa - 0.008 * flow**2
    held = np.where((hour >= 23) | (hour < 5), 330.0, 380.0) - 0.1 * flow + setting_kpa + seat_kpa * np.exp(-flow / 25) - clog * flow**2
    held = np.minimum(held + open_share * (inlet - held), inlet) * (1.0 - shut)
    return np.column_stack((inlet + rng.normal(0, 1.5, steps), held + rng.normal(0, scatter_kpa, steps), flow))


def frames(value: Values, begin: int) -> Frames:
    return Frames(np.arange(begin, begin + len(value), dtype=np.int64) * STEP_US, value, np.zeros(len(value), bool))


@cache
def _learned(metered: bool) -> bytes:
    detector = valve(metered)
    detector.step(frames(water(0, BEGIN, 1)[:, : 3 if metered else 2], 0))
    return detector.state()


def judged(value: Values, metered: bool = True) -> tuple[PressureReducingValve, tuple[Finding, ...]]:
    detector = valve(metered)
    detector.restore(_learned(metered))
    return detector, detector.step(frames(value[:, : 3 if metered else 2], BEGIN)).findings


def raises(findings: tuple[Finding, ...]) -> list[Finding]:
    return [f for f in findings if f.phase is FindingPhase.RAISE]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"open_share": 0.9}, "failed-open"),
        ({"shut": 0.7}, "failed-shut"),
        ({"seat_kpa": 60.0}, "seat-leaks"),
        ({"clog": 0.008}, "clogged"),
        ({"setting_kpa": 25.0}, "setting"),
        ({"setting_kpa": -25.0}, "setting"),
    ],
)
def test_prv_a_failure_is_raised_once_and_named(change: dict[str, float], cause: str) -> None:
    _, found = judged(water(BEGIN, 288, 2, **change))
    (first,) = raises(found)
    assert found[-1].evidence.details["cause"] == cause
    assert first.asset_id == "v-1"
    assert (first.evidence.observed > first.evidence.expected) is (
        cause in ("failed-open", "seat-leaks") or change.get("setting_kpa", 0) > 0
    )


def test_prv_that_hunts_is_told_by_its_steps() -> None:
    _, found = judged(water(BEGIN, 288, 3, scatter_kpa=9.0))
    assert "hunting" in {f.evidence.details["cause"] for f in raises(found)}
    assert "steps" in next(f for f in raises(found) if f.evidence.details["cause"] == "hunting").evidence.summary


@pytest.mark.parametrize(
    ("change", "steps"),
    [({}, 6 * 288), ({"inlet_kpa": 390.0}, 144), ({"more_m3ph": 10.0}, 288), ({"more_m3ph": 150.0}, 36), ({"inlet_kpa": 660.0}, 288)],
    ids=["nothing", "inlet-starves", "demand-step", "fire", "inlet-surges"],
)
def test_prv_what_the_network_does_is_no_failure(change: dict[str, float], steps: int) -> None:
    _, found = judged(water(BEGIN, steps, 4, **change))
    assert found == ()


def test_prv_gauge_that_repeats_itself_says_nothing() -> None:
    value = water(BEGIN, 288, 5)
    value[:, 1] = value[0, 1]
    assert judged(value)[1] == ()


def test_prv_without_a_flow_meter_is_watched_too() -> None:
    _, found = judged(water(BEGIN, 288, 6, open_share=0.9), metered=False)
    assert raises(found)
    assert judged(water(BEGIN, 288, 6), metered=False)[1] == ()


def test_prv_failure_that_stays_is_not_absorbed_and_a_repair_clears_it() -> None:
    detector, found = judged(water(BEGIN, 14 * 288, 7, setting_kpa=30.0))
    assert len(raises(found)) == 1
    assert detector.monitor.open is not None
    after = detector.step(frames(water(BEGIN + 14 * 288, 2 * 288, 7), BEGIN + 14 * 288)).findings
    assert [f.phase for f in after if f.phase is FindingPhase.CLEAR] == [FindingPhase.CLEAR]


def test_prv_new_setting_that_a_person_cancels_is_the_new_normal() -> None:
    detector, found = judged(water(BEGIN, 288, 8, setting_kpa=30.0))
    at = BEGIN + 288
    held = Hold(1, "z1", "v-1", at * STEP_US)
    detector.hold(held)
    detector.hold(Hold(1, "z1", "v-1", at * STEP_US, at * STEP_US + 1, "cancelled"))
    after = detector.step(frames(water(at, 3 * 288, 8, setting_kpa=30.0), at)).findings
    assert raises(found)
    assert raises(after) == []


def test_prv_is_not_judged_before_it_was_learned_for_a_week() -> None:
    detector = valve()
    assert detector.step(frames(water(0, 6 * 288, 9, setting_kpa=0.0), 0)).findings == ()
    assert detector.warm_up_us == 14 * DAY_US


def test_prv_plan_needs_a_gauge_on_both_sides() -> None:
    asset, channels = valve().asset, valve().channels
    assert len(PressureReducingValve.plan({"v-1": asset}, channels, "UTC")) == 1
    assert PressureReducingValve.plan({"v-1": asset}, channels[1:], "UTC") == []
    assert not PressureReducingValve.plan({"v-1": asset}, channels[:2], "UTC")[0].metered
