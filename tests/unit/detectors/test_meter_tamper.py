"""Homes whose use changes for honest reasons, and meters that count less."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
import pytest

from detectors.contract import Rows
from detectors.water.meter_tamper import MeterTamper
from underway.model import DAY_US, HOUR_US, Channel, Finding, FindingPhase, Hold, Quantity, from_us

HOMES, WEEKS, FROM = 14, 34, 20


def meters(step: float = 0.001) -> list[Channel]:
    return [Channel(i, f"m-{i}", "v", Quantity.VOLUME, "m3", f"c-{i}", "z1", "customer_meter", 0, 1e6, 3600.0, step) for i in range(HOMES)]


def uses(seed: int = 1, a_day: float = 10.0) -> np.ndarray:
    """Return how many uses there are, an hour and home; none at night."""
    hour = np.arange(WEEKS * 168) % 24
    rate = np.where((hour >= 6) & (hour < 23), a_day / 17.0, 0.0)
    return np.random.default_rng(seed).poisson(np.repeat(rate[:, None], HOMES, axis=1))


def litres(count: np.ndarray, seed: int = 2) -> np.ndarray:
    """Return 14 L a use, as they come."""
    return np.where(count > 0, np.random.default_rng(seed).gamma(np.maximum(count, 1) * 1.5, 14.0 / 1.5), 0.0)


def run(
    detector: MeterTamper, used_l: np.ndarray, first_h: int = 0, start_m3: np.ndarray | float = 5.0, step: float = 0.001
) -> list[Finding]:
    register = np.floor((start_m3 + np.cumsum(used_l, axis=0) / 1000.0) / step) * step
    at = np.repeat(first_h + np.arange(len(used_l)), used_l.shape[1]) * HOUR_US
    rows = Rows(np.tile(np.arange(HOMES), len(used_l)), at, at, register.ravel(), np.zeros(used_l.size, np.bool_))
    return list(detector.step(rows).findings)


def changed(how: str) -> np.ndarray:
    """Return litres that are counted an hour, with a change of home 3 from week 20 on."""
    count = uses()
    late = np.arange(WEEKS * 168) >= FROM * 168
    if how == "fewer-people":
        count[late, 3] = np.random.default_rng(5).binomial(count[late, 3], 0.45)
    value = litres(count)
    if how == "bypass":
        value[late, 3] *= 0.45
    elif how == "holiday":
        value[FROM * 168 : (FROM + 3) * 168, 3] = 0.0
    elif how == "everybody":
        value[late] *= 0.6
    elif how == "moved-out":
        value[late, 3] = 0.0
    elif how == "drip":
        value[late, 3] += 2.0
    return value


def test_water_past_the_meter_is_found_within_weeks_with_the_fall_and_clears_when_it_ends() -> None:
    value = changed("bypass")
    value[30 * 168 :, 3] /= 0.45
    found = run(MeterTamper(meters(), {}, {}), value)
    assert [(f.kind.value, f.phase.value, f.asset_id) for f in found] == [
        ("meter.tamper", "raise", "device:m-3"),
        ("meter.tamper", "clear", "device:m-3"),
    ]
    assert FROM * 7 <= found[0].onset_us // DAY_US <= (FROM + 1) * 7
    assert found[0].detected_us // DAY_US <= (FROM + 5) * 7
    assert found[0].evidence.details["fall_of_a_use"] == pytest.approx(0.5, abs=0.15)
    assert 30 * 7 < found[1].detected_us // DAY_US <= 34 * 7


@pytest.mark.parametrize("how", ["nothing", "fewer-people", "holiday", "everybody", "moved-out", "drip"])
def test_honest_change_is_no_tampering(how: str) -> None:
    assert run(MeterTamper(meters(), {}, {}), changed(how)) == []


def test_register_of_coarse_steps_is_not_judged() -> None:
    assert run(MeterTamper(meters(0.1), {}, {}), changed("bypass"), step=0.1) == []


def test_bypass_that_nobody_removes_is_never_taken_for_normal() -> None:
    detector = MeterTamper(meters(), {}, {})
    found = run(detector, changed("bypass"))
    assert [f.phase for f in found] == [FindingPhase.RAISE]
    assert detector.open[3]
    others = np.delete(np.arange(HOMES), 3)
    assert detector.level[3] == pytest.approx(np.median(detector.level[others]), abs=0.2)


def test_expected_total_of_a_week_stays_that_of_before_while_it_is_open() -> None:
    value = changed("bypass")
    detector = MeterTamper(meters(), {}, {})
    register = 5.0 + np.cumsum(value, axis=0) / 1000.0
    at = np.repeat(np.arange(len(value)), HOMES) * HOUR_US
    out = detector.step(Rows(np.tile(np.arange(HOMES), len(value)), at, at, register.ravel(), np.zeros(value.size, np.bool_)))
    e = out.expectations
    mine = [i for i in range(len(e)) if e.signals[e.signal[i]].name == "asset/device:m-3/volume" and e.at_us[i] > (FROM + 8) * 7 * DAY_US]
    assert len(mine) >= 3
    assert np.mean(e.expected[mine]) == pytest.approx(0.98, rel=0.2)
    for i in mine:
        assert e.observed[i] < 0.65 * e.expected[i]
        assert not e.baseline[e.signal[i]].endswith("live")


def test_cancelled_suspicion_makes_what_is_counted_now_normal() -> None:
    value = changed("bypass")
    half = 28 * 168
    detector = MeterTamper(meters(), {}, {})
    (raised,) = run(detector, value[:half])
    detector.hold(Hold(7, "z1", "c-3", raised.detected_us))
    detector.hold(Hold(7, "z1", "c-3", raised.detected_us, half * HOUR_US, "cancelled"))
    later = run(detector, value[half:], half, 5.0 + value[:half].sum(axis=0) / 1000.0)
    assert [f.phase for f in later] == [FindingPhase.CLEAR]
    assert not detector.open[3]


def test_meter_that_is_held_learns_nothing() -> None:
    value = changed("nothing")
    half = 20 * 168
    detector = MeterTamper(meters(), {}, {})
    run(detector, value[:half])
    detector.hold(Hold(7, "z1", "device:m-3", half * HOUR_US))
    before = detector.level.copy()
    run(detector, value[half:], half, 5.0 + value[:half].sum(axis=0) / 1000.0)
    assert detector.level[3] == before[3]
    assert detector.level[4] != before[4]


def test_flag_of_a_device_is_believed_at_the_second_reading_and_clears_a_day_after_the_last() -> None:
    flag = Channel(9, "m-1", "cover_removed", Quantity.FLAG, "flag", None, "z1", "tamper_flag", 0, 1, 3600.0, 1.0)
    value = np.array([0, 1, 0, 0, 1, 1, 1, *[0] * 30], float)
    at = np.arange(len(value)) * HOUR_US
    found = MeterTamper([flag], {}, {}).step(Rows(np.zeros(len(at), np.int64), at, at, value, np.zeros(len(at), np.bool_))).findings
    assert [(f.phase.value, f.onset_us // HOUR_US, f.detected_us // HOUR_US) for f in found] == [("raise", 4, 5), ("clear", 4, 31)]
    assert found[0].evidence.details["flags"] == ["cover_removed"]
    assert found[0].evidence.summary == f"Meter m-1 reports cover_removed since {datetime(1970, 1, 1, 4, tzinfo=UTC):%d %b %H:%M} UTC"


def test_evidence_about_a_home_names_no_hour_of_its_days() -> None:
    (found,) = run(MeterTamper(meters(), {}, {}), changed("bypass"))
    assert re.search(r"\d:\d\d", found.evidence.summary) is None
    assert found.onset_us % (7 * DAY_US) == 0
    assert from_us(found.detected_us).hour == 0
    assert set(found.evidence.details) == {"device_id", "asset_id", "fall_of_a_use", "fall_of_a_day", "weeks", "flags"}
