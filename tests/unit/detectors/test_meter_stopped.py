"""Meters that stand still: stopped ones, and homes whose people are away."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.contract import Rows
from detectors.water.meter_days import DayTotals
from detectors.water.meter_stopped import FALSE_A_YEAR, MeterStopped
from underway.model import DAY_US, HOUR_US, Channel, Finding, FindingPhase, Hold, Quantity

METERS, PAST = 60, 200


def meters(count: int = METERS) -> list[Channel]:
    return [
        Channel(i, f"m-{i}", "v", Quantity.VOLUME, "m3", f"c-{i}", "z1", "customer_meter", 0, 1e6, 86400.0, 0.001) for i in range(count)
    ]


def used(days: int, seed: int = 1) -> np.ndarray:
    """Return m3 a day and meter: a weekend of two days away now and then, and every meter one journey of ten days."""
    rng = np.random.default_rng(seed)
    value = np.full((days, METERS), 0.2)
    for j in range(METERS):
        for begin in rng.integers(0, days, days // 30):
            value[begin : begin + 2, j] = 0.0
        begin = int(rng.integers(0, PAST - 30))
        value[begin : begin + 10, j] = 0.0
    return value


def run(
    detector: MeterStopped, value: np.ndarray, first: int = 0, start: np.ndarray | float = 5.0, historical: bool = False
) -> list[Finding]:
    register = start + np.cumsum(value, axis=0)
    at = np.repeat(first + np.arange(len(value)), value.shape[1]) * DAY_US
    column = np.tile(np.arange(value.shape[1]), len(value))
    keep = np.isfinite(register.ravel())
    rows = Rows(column[keep], at[keep], at[keep], register.ravel()[keep], np.full(keep.sum(), historical))
    return list(detector.step(rows).findings)


def said(findings: list[Finding]) -> list[tuple[str, str, int]]:
    return [(f.phase.value, f.asset_id, f.detected_us // DAY_US) for f in findings]


def test_meter_that_stops_is_found_after_longer_than_people_are_away_and_clears_when_it_counts() -> None:
    value = used(320)
    value[PAST:, 7] = 0.0
    value[290:, 7] = 0.2
    found = run(MeterStopped(meters(), {}, {}), value)
    assert [(f.phase.value, f.asset_id) for f in found] == [("raise", "device:m-7"), ("clear", "device:m-7")]
    raised, cleared = (f.detected_us // DAY_US for f in found)
    assert PAST + 10 < raised <= PAST + 40
    assert cleared == 291
    assert found[0].onset_us // DAY_US in (PAST - 1, PAST)
    assert found[0].evidence.details["such_runs_a_year"] <= FALSE_A_YEAR


def test_home_whose_people_are_often_away_gets_longer_than_one_where_water_is_used_every_day() -> None:
    value = used(330)
    for begin in range(5, PAST, 40):
        value[begin : begin + 16, 3] = 0.0
    value[PAST:, 3] = value[PAST:, 8] = 0.0
    found = {f.asset_id: f.detected_us // DAY_US for f in run(MeterStopped(meters(), {}, {}), value)}
    assert found["device:m-8"] < found.get("device:m-3", 1000)


@pytest.mark.parametrize("share", [0.0, 0.2], ids=["vacant", "mostly-empty"])
def test_home_that_is_mostly_empty_is_never_called_stopped(share: float) -> None:
    value = used(330)
    value[:, 5] = np.where(np.random.default_rng(2).random(330) < share, 0.2, 0.0)
    assert run(MeterStopped(meters(), {}, {}), value) == []


def test_days_without_readings_are_no_days_without_water() -> None:
    value = used(330)
    register = 5 + np.cumsum(value, axis=0)
    register[PAST + 1 : 320, 7] = np.nan
    at = np.repeat(np.arange(330), METERS) * DAY_US
    keep = np.isfinite(register.ravel())
    column = np.tile(np.arange(METERS), 330)
    rows = Rows(column[keep], at[keep], at[keep], register.ravel()[keep], np.zeros(keep.sum(), np.bool_))
    assert MeterStopped(meters(), {}, {}).step(rows).findings == ()


def test_home_whose_alarm_is_cancelled_is_quiet_until_water_flows_and_learned_then() -> None:
    detector = MeterStopped(meters(), {}, {})
    value = used(400)
    value[PAST:370, 7] = 0.0
    found = run(detector, value[:300])
    (raised,) = found
    detector.hold(Hold(1, "z1", "device:m-7", raised.detected_us))
    detector.hold(Hold(1, "z1", "device:m-7", raised.detected_us, 300 * DAY_US, "cancelled"))
    later = run(detector, value[300:], 300, 5 + value[:300].sum(axis=0))
    assert [f.phase for f in later] == [FindingPhase.CLEAR]
    assert detector.longest[7] >= 168


def test_run_of_a_meter_that_was_repaired_is_not_learned() -> None:
    detector = MeterStopped(meters(), {}, {})
    value = used(400)
    value[PAST:300, 7] = 0.0
    (raised,) = run(detector, value[:300])
    detector.hold(Hold(1, "z1", "c-7", raised.detected_us))
    detector.hold(Hold(1, "z1", "c-7", raised.detected_us, 300 * DAY_US, "repaired"))
    longest = int(detector.longest[7])
    run(detector, value[300:], 300, 5 + value[:300].sum(axis=0))
    assert detector.longest[7] == longest < 30


def test_run_that_ends_while_held_is_learned_when_the_hold_is_released_without_a_repair() -> None:
    detector = MeterStopped(meters(), {}, {})
    value = used(400)
    value[PAST:300, 7] = 0.0
    (raised,) = run(detector, value[:299])
    detector.hold(Hold(1, "z1", "device:m-7", raised.detected_us))
    run(detector, value[299:320], 299, 5 + value[:299].sum(axis=0))
    assert detector.longest[7] < 30
    detector.hold(Hold(1, "z1", "device:m-7", raised.detected_us, 320 * DAY_US))
    assert detector.longest[7] >= 98


def test_day_totals_split_what_flowed_over_midnight_and_know_nothing_of_days_between() -> None:
    totals, one = DayTotals(meters(1), {}, {}), np.array([0])
    taken = []
    for hour, register in ((0, 1.0), (18, 1.1), (30, 1.2), (100, 1.3), (124, 1.3), (200, 1.3)):
        days, _ = totals.take(one, np.array([hour * HOUR_US]), np.array([register]))
        taken += list(zip(days.day.tolist(), days.litres.round(3).tolist(), days.known.tolist(), days.skipped_still.tolist(), strict=True))
    # days 0 and 1 have 100 L and 50 L each side of midnight; 100 L came somewhen on days 1 to 4; of day 4 the 20 hours after it are known
    assert taken == [(0, 150.0, True, True), (1, 50.0, False, False), (4, 0.0, True, True), (5, 0.0, True, True)]
