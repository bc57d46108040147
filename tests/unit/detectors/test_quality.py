"""Stories of one quality station: what is an event, what is only a probe, what is a known operation, and that nothing is absorbed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.contract import Frames
from detectors.water.quality import WaterQuality, stations
from detectors.water.quality_patterns import PATTERNS_MAX, OperationLibrary
from underway.model import DAY_US, Asset, AssetClass, Channel, Finding, FindingKind, FindingPhase, Hold, Quantity

STEP_US = 300_000_000
PAST_DAYS = 16
KINDS = (Quantity.CHLORINE, Quantity.TURBIDITY, Quantity.PH, Quantity.CONDUCTIVITY, Quantity.TEMPERATURE, Quantity.TOC)
CHLORINE, TURBIDITY, PH, CONDUCTIVITY, TEMPERATURE, TOC = range(6)
RESOLUTION = (0.01, 0.001, 0.001, 0.1, 0.01, 0.01)
EVENT, SENSOR, OPERATION = FindingKind.QUALITY_EVENT, FindingKind.QUALITY_SENSOR, FindingKind.QUALITY_OPERATION
RAISE, CLEAR = FindingPhase.RAISE, FindingPhase.CLEAR
Values = NDArray[np.float64]


def channels() -> list[Channel]:
    return [
        Channel(i, "qs", q.value, q, "", "st", "z", "water_quality", 0, 1e5, 300, r)
        for i, (q, r) in enumerate(zip(KINDS, RESOLUTION, strict=True), start=1)
    ]


def station() -> WaterQuality:
    return WaterQuality("st", channels(), "UTC", "Mill Lane")


def water(begin: int, steps: int, seed: int) -> Values:
    """Return readings of a station whose conductivity, temperature and TOC follow the mixture of two waters."""
    rng = np.random.default_rng([seed, begin])
    t = np.arange(begin, begin + steps)
    mix = 0.5 + 0.3 * np.sin(2 * np.pi * t / 288 + 0.1 * np.sin(t / 1000.0))
    clean = np.column_stack((0.8 - 0.05 * mix, np.full(steps, 0.2), 7.8 + 0.05 * mix, 400.0 - 60 * mix, 14.0 - 1.0 * mix, 2.0 - 0.3 * mix))
    value = clean + rng.normal(size=clean.shape) * (0.012, 0.01, 0.01, 1.0, 0.05, 0.03)
    return np.round(value / RESOLUTION) * RESOLUTION


def frames(value: Values, begin: int, historical: bool = False) -> Frames:
    at = np.arange(begin, begin + len(value), dtype=np.int64) * STEP_US
    return Frames(at, value, np.full(len(value), historical))


@cache
def _learned() -> bytes:
    detector = station()
    detector.step(frames(water(0, PAST_DAYS * 288, 1), 0))
    return detector.state()


def experienced() -> WaterQuality:
    detector = station()
    detector.restore(_learned())
    return detector


BEGIN = PAST_DAYS * 288


def tail(steps: int, change: Callable[[Values], None] | None = None, seed: int = 2, begin: int = BEGIN) -> Frames:
    value = water(begin, steps, seed)
    if change is not None:
        change(value)
    return frames(np.round(value / RESOLUTION) * RESOLUTION, begin)


def contaminated(begin: int, end: int) -> Callable[[Values], None]:
    def change(value: Values) -> None:
        value[begin:end, CHLORINE] *= 0.6
        value[begin:end, TOC] += 0.5

    return change


def operated(begin: int, end: int) -> Callable[[Values], None]:
    def change(value: Values) -> None:
        rise = np.minimum(np.arange(end - begin) / 6.0, 1.0)
        value[begin:end, TEMPERATURE] += 1.2 * rise
        value[begin:end, PH] -= 0.2 * rise

    return change


def told(found: tuple[Finding, ...]) -> list[tuple[FindingKind, FindingPhase]]:
    return [(f.kind, f.phase) for f in found if f.phase is not FindingPhase.UPDATE]


def minutes(finding: Finding, index: int, begin: int = BEGIN) -> int:
    return (finding.detected_us - (begin + index) * STEP_US) // 60_000_000


@pytest.mark.parametrize("seed", range(2, 8))
def test_quality_quiet_weeks_say_nothing(seed: int) -> None:
    assert experienced().step(tail(21 * 288, seed=seed)).findings == ()


def test_quality_contamination_is_an_event_with_what_each_probe_should_read() -> None:
    found = experienced().step(tail(60, contaminated(30, 60))).findings
    first = found[0]
    assert (first.kind, first.phase) == (EVENT, RAISE)
    assert 0 <= minutes(first, 30) <= 15
    assert abs(minutes(first, 30) - (first.detected_us - first.onset_us) // 60_000_000) <= 10
    assert set(first.evidence.details["signals"]) == {"chlorine", "toc"}
    drivers = {d.unit: d for d in first.evidence.drivers if d.channel_id == 1}
    assert drivers["mg/L"].observed == pytest.approx(0.47, abs=0.1)
    assert drivers["mg/L"].expected == pytest.approx(0.77, abs=0.05)
    assert "Water at Mill Lane changed since" in first.evidence.summary
    assert "no operation is known yet" in first.evidence.summary


def test_quality_persistent_contamination_is_not_absorbed_in_four_weeks_and_clears_when_it_ends() -> None:
    detector = experienced()
    weeks = 28 * 288
    out = detector.step(tail(weeks + 144, contaminated(30, weeks)))
    changes = [f for f in out.findings if f.phase is not FindingPhase.UPDATE]
    assert [(f.kind, f.phase) for f in changes] == [(EVENT, RAISE), (EVENT, CLEAR)]
    assert 0 <= minutes(changes[1], weeks) <= 120
    chlorine = [i for i, s in enumerate(out.expectations.signals) if s.name == "asset/st/chlorine"]
    rows = np.isin(out.expectations.signal, chlorine) & (out.expectations.at_us > (BEGIN + 14 * 288) * STEP_US)
    rows &= out.expectations.at_us < (BEGIN + weeks) * STEP_US
    assert out.expectations.expected[rows].mean() == pytest.approx(0.775, abs=0.02)
    assert (out.expectations.observed - out.expectations.expected)[rows].mean() == pytest.approx(-0.31, abs=0.03)


def test_quality_calibration_is_the_probe_and_its_new_level_is_taken() -> None:
    def calibrated(value: Values) -> None:
        value[30:36, PH] = 7.0
        value[36:, PH] += 0.06

    found = experienced().step(tail(288, calibrated)).findings
    assert told(found) == [(SENSOR, RAISE), (SENSOR, CLEAR)]
    assert found[0].evidence.details["cause"] == "calibration"
    assert found[0].evidence.details["signals"] == ["ph"]
    assert 0 <= minutes(found[0], 30) <= 20
    assert 0 <= minutes(found[1], 36) <= 60


def test_quality_a_probe_that_rests_at_no_standard_is_the_probe_too() -> None:
    def stuck(value: Values) -> None:
        value[30:45, CONDUCTIVITY] = 512.3

    assert told(experienced().step(tail(100, stuck)).findings) == [(SENSOR, RAISE), (SENSOR, CLEAR)]


def test_quality_maintenance_of_all_probes_is_no_event() -> None:
    def in_air(value: Values) -> None:
        value[30:42] = (0.0, 0.0, 7.0, 0.5, 19.0, 0.05)

    found = experienced().step(tail(288, in_air)).findings
    assert told(found) == [(SENSOR, RAISE), (SENSOR, CLEAR)]
    assert len(found[0].evidence.details["signals"]) >= 4


def test_quality_contamination_while_a_probe_is_calibrated_is_found() -> None:
    def both(value: Values) -> None:
        value[30:40, PH] = 7.0
        contaminated(34, 60)(value)

    found = experienced().step(tail(60, both)).findings
    assert (EVENT, RAISE) in told(found)
    assert "ph" not in next(f for f in found if f.kind is EVENT).evidence.details["signals"]


def confirmed() -> WaterQuality:
    """Return a station that has seen an operation once, which a person confirmed."""
    detector = experienced()
    found = detector.step(tail(60, operated(30, 60))).findings
    assert told(found) == [(EVENT, RAISE)]
    at = found[0].detected_us
    detector.hold(Hold(1, "z", "st", at))
    detector.hold(Hold(1, "z", "st", at, at + 7_200_000_000, "cancelled"))
    later = detector.step(tail(3 * 288, seed=3, begin=BEGIN + 60)).findings
    assert told(later) == [(EVENT, CLEAR)]
    assert "a person said that it is an operation" in later[0].evidence.summary
    assert len(detector.library) == 1
    return detector


def test_quality_a_confirmed_operation_is_known_the_next_time() -> None:
    begin = BEGIN + 60 + 3 * 288
    found = confirmed().step(tail(200, operated(100, 140), seed=4, begin=begin)).findings
    assert told(found) == [(OPERATION, RAISE), (OPERATION, CLEAR)]
    assert found[0].evidence.details["match"] >= 0.85


def test_quality_contamination_is_an_event_though_an_operation_is_known() -> None:
    begin = BEGIN + 60 + 3 * 288
    found = confirmed().step(tail(200, contaminated(100, 200), seed=4, begin=begin)).findings
    assert told(found) == [(EVENT, RAISE)]
    assert "no known operation does this" in found[0].evidence.summary


def test_quality_contamination_that_hides_in_an_operation_is_an_event() -> None:
    def both(value: Values) -> None:
        operated(100, 200)(value)
        contaminated(130, 200)(value)

    begin = BEGIN + 60 + 3 * 288
    found = confirmed().step(tail(200, both, seed=4, begin=begin)).findings
    assert told(found) == [(OPERATION, RAISE), (OPERATION, CLEAR), (EVENT, RAISE)]
    event = next(f for f in found if f.kind is EVENT)
    assert 0 <= minutes(event, 130, begin) <= 30
    assert {"chlorine", "toc"} <= set(event.evidence.details["signals"])
    assert "more than the known operation" in event.evidence.summary


def test_quality_chlorine_that_falls_alone_is_excused_by_no_operation() -> None:
    detector = experienced()
    shape = np.zeros((36, 6))
    shape[:, CHLORINE] = -0.3
    detector.library.add(detector._whitened(list(shape)), 0)

    def fallen(value: Values) -> None:
        value[30:, CHLORINE] -= 0.3

    assert told(detector.step(tail(60, fallen)).findings) == [(EVENT, RAISE)]


def test_quality_an_operation_that_stands_for_a_day_is_the_new_normal() -> None:
    detector = experienced()
    first = detector.step(tail(60, operated(30, 60))).findings[0]
    detector.hold(Hold(1, "z", "st", first.detected_us))
    detector.hold(Hold(1, "z", "st", first.detected_us, first.detected_us + 1, "cancelled"))
    found = detector.step(tail(5 * 288, operated(-6 + 6, 5 * 288), seed=3, begin=BEGIN + 60)).findings
    assert told(found)[0] == (EVENT, CLEAR)
    assert detector.condition is None


def test_quality_while_held_one_probe_says_nothing_and_two_do() -> None:
    def one(value: Values) -> None:
        value[30:, TEMPERATURE] += 2.0

    alone, together = experienced(), experienced()
    for detector in (alone, together):
        detector.hold(Hold(1, "z", "st", BEGIN * STEP_US))
    assert alone.step(tail(60, one)).findings == ()
    assert told(together.step(tail(60, contaminated(30, 60))).findings) == [(EVENT, RAISE)]


def test_quality_hold_of_another_asset_is_none_of_its_business() -> None:
    assert not station().covers(Hold(1, "z", "dma:z", 0))
    assert station().covers(Hold(1, "z", "st", 0))


def test_quality_event_in_history_is_raised_again_by_a_live_reading() -> None:
    detector = experienced()
    value = water(BEGIN, 60, 2)
    contaminated(30, 60)(value)
    detector.step(frames(value[:50], BEGIN, historical=True))
    found = detector.step(frames(value[50:], BEGIN + 50)).findings
    assert [(f.phase, f.historical) for f in found[:1]] == [(RAISE, False)]


def test_quality_spike_of_one_reading_is_nothing() -> None:
    def spike(value: Values) -> None:
        value[30, TURBIDITY] = 5.0
        value[60, CHLORINE] = 3.0

    assert experienced().step(tail(100, spike)).findings == ()


def test_stations_are_the_probes_of_one_asset_and_one_probe_is_none() -> None:
    lone = Channel(90, "alone", "ph", Quantity.PH, "", "other", "z", "water_quality", 0, 14, 300, 0.01)
    second = Channel(91, "qs-b", "ph", Quantity.PH, "", "st", "z", "water_quality", 0, 14, 300, 0.01)
    asset = Asset("st", "town", "z", AssetClass.JUNCTION, "Mill Lane")
    (found,) = stations([*channels(), lone, second], {"st": asset}, "UTC")
    assert found.key == "water-quality@1/st"
    assert found.signals[-1].name == "asset/st/ph/qs-b"
    assert found.station == "Mill Lane"


def test_library_is_bounded_and_the_one_that_matched_longest_ago_goes() -> None:
    library = OperationLibrary(20)
    for i in range(PATTERNS_MAX + 3):
        shape = np.zeros((6, 20))
        shape[:, i] = np.arange(6.0)
        shape[:, (i + 1) % 20] = 1.0 - np.arange(6.0)
        library.add(shape, i * DAY_US)
    assert len(library) == PATTERNS_MAX
    assert int(library.used_us.min()) == 3 * DAY_US
