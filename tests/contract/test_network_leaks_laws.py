"""The laws of detectors, and what it is for, on the detector that has a hydraulic model."""

import itertools

import numpy as np
import pytest
from network_town import GAUGES, LEAK_M3PH, LEAK_PIPE, LEARNING_DAYS, experienced, make_bank, readings, section, tail

from detectors.contract import BankOutput
from detectors.water.leak_committee import DigRules
from detectors.water.pipe_map import pipe_distance_m
from underway.model import Finding, FindingKind, FindingPhase, Hold, ReadingBatch

DAY_US = 86_400_000_000


def findings(outputs: list[BankOutput]) -> list[Finding]:
    return [f for o in outputs for f in o.findings]


def raised(batch: ReadingBatch) -> list[Finding]:
    return [f for f in experienced().step(batch).findings if f.phase is FindingPhase.RAISE]


def test_network_leaks_a_leak_is_found_within_a_day_near_where_it_is() -> None:
    found = experienced().step(tail()).findings
    first = found[0]
    assert first.phase is FindingPhase.RAISE
    assert first.kind in (FindingKind.LEAK_BURST, FindingKind.LEAK_BACKGROUND)
    assert (first.detected_us - (tail().observed_us[0] + 0.6 * DAY_US)) / DAY_US < 1.0
    dig = next(f for f in found if f.evidence.details["dig"])
    pipes = section().pipes
    distance = pipe_distance_m(section())
    assert distance[pipes.index(LEAK_PIPE), pipes.index(dig.evidence.details["dig_asset_id"])] <= 400.0
    last = found[-1].evidence.details
    assert last["flow_m3ph"] == pytest.approx(LEAK_M3PH, rel=0.35)
    assert sum(c.probability for c in dig.evidence.candidates) == pytest.approx(1.0, abs=0.06)
    assert len(dig.evidence.drivers) == 5
    assert {d.unit for d in dig.evidence.drivers} <= {"kPa", "m3/h"}
    assert dig.evidence.details["doubt"]


def test_network_leaks_without_a_leak_nothing_is_raised() -> None:
    for seed in (1, 2, 3):
        assert not raised(tail(seed, None))


def test_network_leaks_one_leak_is_one_alarm_and_one_dig() -> None:
    found = experienced().step(tail(days=20)).findings
    assert sum(f.phase is FindingPhase.RAISE for f in found) == 1
    assert sum(bool(f.evidence.details["dig"]) for f in found) == 1


def test_network_leaks_six_months_unrepaired_is_still_there() -> None:
    bank = experienced()
    found = bank.step(tail(days=190)).findings
    assert not [f for f in found if f.phase is FindingPhase.CLEAR]
    detector = next(iter(bank.detectors.values()))
    places = detector._committee.running()  # type: ignore[union-attr]
    assert len(places) == 1
    assert places[0].flow_m3ph == pytest.approx(LEAK_M3PH, rel=0.35)


@pytest.mark.parametrize("days", [16, 50])
def test_network_leaks_a_reported_repair_closes_the_leak_and_raises_nothing(days: int) -> None:
    bank = experienced()
    batch = tail(leak_until=6.0, days=days)
    repaired_us = int(batch.observed_us[0]) + 6 * DAY_US
    bank.hold([Hold(1, "z", LEAK_PIPE, repaired_us, repaired_us, "repaired")])
    found = bank.step(batch).findings
    clears = [f for f in found if f.phase is FindingPhase.CLEAR]
    assert len(clears) == 1
    assert 0 <= clears[0].detected_us - repaired_us <= DAY_US
    assert "repair" in clears[0].evidence.summary
    assert not [f for f in found if f.phase is FindingPhase.RAISE and f.detected_us > repaired_us]


def test_network_leaks_a_repair_that_nobody_reports_is_noticed() -> None:
    batch = tail(leak_until=6.0, days=12)
    clear = next(f for f in experienced().step(batch).findings if f.phase is FindingPhase.CLEAR)
    assert 0 <= clear.detected_us - (batch.observed_us[0] + 6 * DAY_US) <= 5 * DAY_US
    assert "pattern" in clear.evidence.summary


def test_network_leaks_a_stuck_gauge_is_no_leak() -> None:
    batch = tail(2, None, days=10)
    stuck = (batch.channel_id == 3) & (batch.observed_us > batch.observed_us[0] + 2 * DAY_US)
    value = batch.value.copy()
    value[stuck] = value[stuck][0]
    columns = {n: getattr(batch, n) for n in batch.__slots__} | {"value": value}
    assert not raised(ReadingBatch(**columns))


def test_network_leaks_a_gauge_that_jumps_alone_is_no_leak() -> None:
    batch = tail(2, None, days=10)
    value = batch.value.copy()
    value[(batch.channel_id == 2) & (batch.observed_us > batch.observed_us[0] + 2 * DAY_US)] -= 40.0
    columns = {n: getattr(batch, n) for n in batch.__slots__} | {"value": value}
    digs = [f for f in experienced().step(ReadingBatch(**columns)).findings if f.evidence.details["dig"]]
    assert not digs


def test_network_leaks_a_gap_of_all_sensors_is_no_leak() -> None:
    batch = tail(3, None, days=8)
    hidden = (batch.observed_us > batch.observed_us[0] + 2 * DAY_US) & (batch.observed_us < batch.observed_us[0] + 3 * DAY_US)
    assert not raised(batch.take(~hidden))


def test_law_network_leaks_same_readings_same_findings_and_input_not_mutated() -> None:
    batch = tail()
    before = [getattr(batch, column).copy() for column in batch.__slots__]
    first, second = experienced(), experienced()
    assert first.step(batch).findings == second.step(batch).findings
    assert first.state() == second.state()
    assert all(np.array_equal(a, getattr(batch, column)) for a, column in zip(before, batch.__slots__, strict=True))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_law_network_leaks_splitting_and_restarting_anywhere_changes_nothing(seed: int) -> None:
    batch = tail(seed, days=4)
    rng = np.random.default_rng(seed)
    edges = [0, *sorted(rng.integers(0, len(batch), 6).tolist()), len(batch)]
    whole, split, moved = experienced(), experienced(), experienced()
    parts, restarted = [], []
    for a, b in itertools.pairwise(edges):
        part = batch.take(slice(a, b))
        parts.append(split.step(part))
        state = moved.state()
        moved = make_bank()
        moved.restore(state)
        assert moved.state() == state
        restarted.append(moved.step(part))
    expected = whole.step(batch).findings
    assert expected
    assert findings(parts) == list(expected)
    assert findings(restarted) == list(expected)
    assert whole.state() == split.state() == moved.state()


def test_law_network_leaks_a_restart_while_it_learns_changes_nothing() -> None:
    batch = readings(LEARNING_DAYS)
    whole, moved = make_bank(), make_bank()
    whole.step(batch)
    for a, b in itertools.pairwise([0, 9_000, 30_001, len(batch)]):
        state = moved.state()
        moved = make_bank()
        moved.restore(state)
        moved.step(batch.take(slice(a, b)))
    assert whole.state() == moved.state()


def test_law_network_leaks_duplicates_change_nothing() -> None:
    batch = tail(days=3)
    rng = np.random.default_rng(5)
    again = np.flatnonzero(rng.random(len(batch)) < 0.1)
    order = np.argsort(np.r_[np.arange(len(batch)), again + 0.5], kind="stable")
    doubled = batch.take(np.r_[np.arange(len(batch)), again][order])
    assert experienced().step(batch).findings == experienced().step(doubled).findings


def test_law_network_leaks_cut_at_any_date_the_findings_before_are_the_same() -> None:
    batch = tail(days=6)
    whole = experienced().step(batch).findings
    for share in (0.3, 0.55, 0.8):
        cut_us = int(batch.observed_us[int(len(batch) * share)])
        cut = experienced().step(batch.take(batch.observed_us < cut_us)).findings
        assert list(cut) == [f for f in whole if f.detected_us <= max((c.detected_us for c in cut), default=0)]
        assert len(cut) >= len([f for f in whole if f.detected_us < cut_us - 3_600_000_000])


def test_law_network_leaks_state_is_bounded() -> None:
    bank = experienced()
    detector = next(iter(bank.detectors.values()))
    for days in (1, 30):
        bank.step(tail(days=days))
        assert len(detector.state()) <= detector.state_bytes_max


def test_network_leaks_before_it_may_dig_it_raises_and_sends_nobody() -> None:
    later = DigRules(from_us=int(tail().observed_us[0]) + 4 * DAY_US)
    bank = make_bank(later)
    found = [*bank.step(readings(LEARNING_DAYS)).findings, *bank.step(tail()).findings]
    digs = [f for f in found if f.evidence.details["dig"]]
    assert len(digs) == 1
    assert digs[0].detected_us >= later.from_us
    assert next(f for f in found if f.phase is FindingPhase.RAISE).detected_us < later.from_us


def test_network_leaks_gauges_are_the_towns() -> None:
    assert section().gauges == tuple(sorted(GAUGES))
    assert section().metered_links == ("in-1",)
