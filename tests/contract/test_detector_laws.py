"""Laws that every detector obeys, alone and in the bank. A failure prints the example and its seed."""

import doctest
import importlib
import inspect
import itertools

import numpy as np
import pytest
from detector_town import (
    BANK,
    LANE_KEYS,
    PAST_DAYS,
    SUBJECTS,
    experienced,
    faulty_tail,
    make_batch,
    make_registry,
    make_signatures,
    make_subject,
    plain,
    quiet_tail,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from detectors.bank import Bank
from underway.model import FindingKind, FindingPhase, Hold, Quality, ReadingBatch

few = settings(max_examples=6, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**16)
SLOW = {
    FindingKind.LEAK_BACKGROUND,
    FindingKind.PRESSURE_LOW,
    FindingKind.QUALITY_OPERATION,
    FindingKind.METER_OVERSIZED,
    FindingKind.METER_STOPPED,
    FindingKind.METER_UNDERSIZED,
}
"""Kinds that the tail of half a day cannot show."""
PROCESS = frozenset(FindingKind) - {FindingKind.COMMS_LOST}


def cuts(draw: st.DataObject, length: int) -> list[int]:
    return [0, *sorted(draw.draw(st.lists(st.integers(0, length), max_size=12), label="cuts")), length]


@pytest.mark.parametrize("name", SUBJECTS)
def test_law_input_is_not_mutated(name: str) -> None:
    batch = faulty_tail(1)
    before = [getattr(batch, column).copy() for column in batch.__slots__]
    experienced(name).step(batch)
    assert all(np.array_equal(a, getattr(batch, column)) for a, column in zip(before, batch.__slots__, strict=True))


@pytest.mark.parametrize("name", SUBJECTS)
def test_law_same_readings_same_findings(name: str) -> None:
    first, second = experienced(name), experienced(name)
    assert plain([first.step(faulty_tail(2))]) == plain([second.step(faulty_tail(2))])
    assert first.state() == second.state()


@pytest.mark.parametrize("name", SUBJECTS)
def test_law_the_faulty_tail_is_found(name: str) -> None:
    output = experienced(name).step(faulty_tail(3))
    kinds = {f.kind for f in output.findings if f.phase is FindingPhase.RAISE}
    wanted = {
        "zone-inflow@1/z1": {FindingKind.LEAK_BURST},
        "zone-inflow@1/z2": set(),
        "roughness-step@1/road": {FindingKind.ROAD_ROUGHNESS},
        "bridge-frequency@1/br-01/br-1.frequency": {FindingKind.BRIDGE_FREQUENCY_SHIFT},
        "drain-level@1/dr-01/dr-1.level": {FindingKind.ROAD_FLOOD},
        "flat-line@1/all": {FindingKind.METER_STUCK},
        "meter-backward@1/all": {FindingKind.METER_BACKWARD, FindingKind.BACKFLOW},
        "meter-sizing@1/all": set(),
        "meter-stopped@1/all": set(),
        "meter-tamper@1/all": {FindingKind.METER_TAMPER},
        "no-data@1/town": {FindingKind.COMMS_LOST},
        "water-quality@1/qs-01": {FindingKind.QUALITY_EVENT, FindingKind.QUALITY_SENSOR},
        "tank-level@1/tk-01": {FindingKind.TANK_OVERFLOW},
        "tank-level@1/tk-02": {FindingKind.TANK_LOW, FindingKind.TANK_BALANCE},
        "pump-efficiency@1/pu-01": {FindingKind.PUMP_EFFICIENCY},
        "prv@1/v-01": {FindingKind.PRV_FAULT},
        BANK: set(FindingKind) - SLOW,
    }
    assert kinds == wanted[name]


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(draw=st.data(), seed=st.integers(0, 3))
def test_law_splitting_a_batch_anywhere_changes_nothing(name: str, draw: st.DataObject, seed: int) -> None:
    batch = faulty_tail(seed)
    whole, split = experienced(name), experienced(name)
    edges = cuts(draw, len(batch))
    outputs = [split.step(batch.take(slice(a, b))) for a, b in itertools.pairwise(edges)]
    assert plain([whole.step(batch)]) == plain(outputs)
    assert whole.state() == split.state()


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(draw=st.data(), seed=st.integers(0, 3))
def test_law_state_survives_serialisation_at_any_index(name: str, draw: st.DataObject, seed: int) -> None:
    batch = faulty_tail(seed)
    edges = cuts(draw, len(batch))
    steady, moved = experienced(name), experienced(name)
    expected, got = [], []
    for a, b in itertools.pairwise(edges):
        part = batch.take(slice(a, b))
        expected.append(steady.step(part))
        state = moved.state()
        moved = make_subject(name)
        moved.restore(state)
        assert moved.state() == state
        got.append(moved.step(part))
    assert plain(expected) == plain(got)
    assert steady.state() == moved.state()


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(seed=seeds)
def test_law_duplicates_change_nothing(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = faulty_tail(seed % 4)
    # every tenth row comes again, at once or up to 400 rows later
    again = np.flatnonzero(rng.random(len(batch)) < 0.1)
    place = np.r_[np.arange(len(batch)), again + rng.integers(0, 400, len(again)) + 0.5]
    order = np.argsort(place, kind="stable")
    doubled = batch.take(np.r_[np.arange(len(batch)), again][order])
    assert len(doubled) > len(batch)
    assert plain([experienced(name).step(batch)]) == plain([experienced(name).step(doubled)])


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(seed=seeds)
def test_law_a_gap_is_not_an_event(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = quiet_tail(seed % 4)
    keep = np.ones(len(batch), bool)
    span = int(batch.observed_us[-1] - batch.observed_us[0])
    every = np.array([c.channel_id for c in make_registry().channels])
    for _ in range(4):
        begin = batch.observed_us[0] + int(rng.random() * span)
        channels = rng.choice(every, int(rng.integers(1, len(every))), replace=False)
        inside = (batch.observed_us >= begin) & (batch.observed_us < begin + int(rng.random() * span / 2))
        keep &= ~(inside & np.isin(batch.channel_id, channels))
    findings = experienced(name).step(batch.take(keep)).findings
    assert not [f for f in findings if f.kind in PROCESS]


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(seed=seeds)
def test_law_silent_on_a_noisy_steady_signal(name: str, seed: int) -> None:
    assert not experienced(name).step(make_batch(PAST_DAYS * 288, 288, seed)).findings


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(seed=seeds)
def test_law_bad_readings_move_nothing(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = quiet_tail(seed % 4)
    n = 200
    where = np.sort(rng.integers(0, len(batch), n))
    bad = batch.take(where)
    value = np.where(rng.random(n) < 0.3, np.nan, bad.value * 100)
    ahead = rng.random(n) < 0.5
    observed = np.where(ahead, bad.observed_us + 90 * 86_400_000_000, bad.observed_us)
    quality = np.where(np.isnan(value) | ahead, 0, int(Quality.BAD)).astype(np.uint8)
    bad = ReadingBatch(bad.channel_id, observed, bad.received_us, value, quality, bad.reason, bad.flags)
    order = np.argsort(np.r_[np.arange(len(batch)), where + 0.5], kind="stable")
    mixed = ReadingBatch.concat([batch, bad]).take(order)
    assert plain([experienced(name).step(batch)]) == plain([experienced(name).step(mixed)])


@pytest.mark.parametrize("name", LANE_KEYS)
def test_law_state_is_bounded(name: str) -> None:
    bank = experienced(name)
    detector = bank.detectors[name]
    bank.step(faulty_tail(1))
    assert len(detector.state()) <= detector.state_bytes_max
    for day in range(3):
        bank.step(make_batch((PAST_DAYS + 1 + day) * 288, 288, day, faults=True))
    # at most what a longer window holds, nothing that grows with every reading
    assert len(detector.state()) <= detector.state_bytes_max


@pytest.mark.parametrize("name", LANE_KEYS)
def test_law_the_docstring_names_costs_blind_spots_and_a_textbook_case_that_holds(name: str) -> None:
    detector = type(make_subject(name).detectors[name])
    text = (inspect.getdoc(detector) or "").lower()
    assert [word for word in ("cost", "state", "blind to", ">>>") if word not in text] == []
    module = importlib.import_module(detector.__module__)
    tests = doctest.DocTestFinder(recurse=False).find(detector, module=module, globs=dict(vars(module)))
    runner = doctest.DocTestRunner()
    assert sum(runner.run(t).attempted for t in tests) > 0
    assert runner.failures == 0


@pytest.mark.parametrize("name", SUBJECTS)
def test_law_telling_a_hold_twice_changes_nothing(name: str) -> None:
    holds = [
        Hold(1, "z1", "dma:z1", 1),
        Hold(2, "road", "br-01", 1),
        Hold(3, "road", "rd-1", 1),
        Hold(4, "road", "dr-01", 1),
        Hold(5, "z1", "qs-01", 1),
        Hold(6, "z1", "device:cm-1", 1),
        Hold(8, "st", "tk-01", 1),
        Hold(7, "st", "pu-01", 1),
    ]
    once, twice = experienced(name), experienced(name)
    once.hold(holds)
    twice.hold(holds)
    twice.hold(holds)
    assert once.state() == twice.state()


def test_bank_restore_after_a_change_of_the_registry_keeps_untouched_lanes() -> None:
    bank = experienced(BANK)
    less = bank.registry
    changed = type(less)(less.site, less.zones, less.assets, less.devices, tuple(c for c in less.channels if c.channel_id != 3))
    other = Bank(changed)
    other.restore(bank.state())
    assert "zone-inflow@1/z2" in other.restored.kept
    assert set(other.restored.fresh) == {"zone-inflow@1/z1"}
    assert other.registry_fingerprint != bank.registry_fingerprint


# -- late rows, the reorder window, and parts -------------------------------------------------------------------------------------


def disordered(batch: ReadingBatch, seed: int, share: float = 0.03) -> ReadingBatch:
    """Return the rows in an order in which some come up to 600 rows later than they should, with a reception to match."""
    rng = np.random.default_rng(seed)
    n = len(batch)
    place = np.arange(n) + np.where(rng.random(n) < share, rng.integers(0, 600, n), 0)
    order = np.argsort(place, kind="stable")
    moved = batch.take(order)
    received = np.maximum.accumulate(moved.received_us)
    return ReadingBatch(moved.channel_id, moved.observed_us, received, moved.value, moved.quality, moved.reason, moved.flags)


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(draw=st.data(), seed=seeds)
def test_law_splitting_a_batch_in_disorder_anywhere_changes_nothing(name: str, draw: st.DataObject, seed: int) -> None:
    batch = disordered(faulty_tail(seed % 4), seed)
    whole, split = experienced(name), experienced(name)
    edges = cuts(draw, len(batch))
    outputs = [split.step(batch.take(slice(a, b))) for a, b in itertools.pairwise(edges)]
    assert plain([whole.step(batch)]) == plain(outputs)
    assert whole.state() == split.state()


def crowded(batch: ReadingBatch, channel_id: int, silent_id: int, times: int) -> ReadingBatch:
    """Return the rows with many more of one channel, each at an instant of its own, while another is silent now and then; in event order."""
    hour = (batch.observed_us - batch.observed_us[0]) // 3_600_000_000
    batch = batch.take((batch.channel_id != silent_id) | (hour % 2 == 0))
    few = batch.take(batch.channel_id == channel_id)
    n = len(few)
    many = few.take(np.repeat(np.arange(n), times))
    more = np.tile(np.arange(1, times + 1) * 500_000, n)
    many = ReadingBatch(
        many.channel_id, many.observed_us + more, many.received_us + more, many.value, many.quality, many.reason, many.flags
    )
    return ReadingBatch.concat([batch, many]).in_event_order()


@pytest.mark.parametrize("name", [BANK, "zone-inflow@1/z1", "drain-level@1/dr-01/dr-1.level"])
@few
@given(draw=st.data(), seed=seeds)
def test_law_splitting_a_crowded_batch_anywhere_changes_nothing_nor_do_duplicates(name: str, draw: st.DataObject, seed: int) -> None:
    tail = faulty_tail(seed % 4)
    mad, silent = (12, 13) if name.startswith("drain") else (3, 2)
    batch = crowded(tail.take(slice(0, len(tail) // 3)), mad, silent, 150)
    batch = disordered(batch, seed, 0.01)
    whole, split, doubled = experienced(name), experienced(name), experienced(name)
    edges = cuts(draw, len(batch))
    expected = plain([whole.step(batch)])
    assert whole.crowded_rows > 100
    assert whole.facts()["crowded_rows"] == whole.crowded_rows
    assert plain([split.step(batch.take(slice(a, b))) for a, b in itertools.pairwise(edges)]) == expected
    assert whole.state() == split.state()
    again = np.flatnonzero(np.random.default_rng(seed).random(len(batch)) < 0.1)
    order = np.argsort(np.r_[np.arange(len(batch)), again + 200.5], kind="stable")
    twice = batch.take(np.r_[np.arange(len(batch)), again][order])
    assert plain([doubled.step(twice)]) == expected


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(draw=st.data(), seed=seeds)
def test_law_late_says_what_step_then_refuses(name: str, draw: st.DataObject, seed: int) -> None:
    batch = disordered(faulty_tail(seed % 4), seed)
    bank = experienced(name)
    edges = cuts(draw, len(batch))
    refused = 0
    for a, b in itertools.pairwise(edges):
        part, state, before = batch.take(slice(a, b)), bank.state(), bank.late_rows
        lanes, late = bank.late_lanes(part), bank.late(part)
        assert bank.state() == state
        bank.step(part)
        assert sum(len(rows) for _, rows in lanes) == bank.late_rows - before
        assert late.sum() == len(set(np.concatenate([np.empty(0, np.int64), *(rows for _, rows in lanes)]).tolist()))
        refused += int(late.sum())
    if name != "no-data@1/town":
        assume(refused > 0)  # an example in which nothing came late says nothing


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "no-data@1/town"])
def test_law_late_has_something_to_say(name: str) -> None:
    batch = disordered(faulty_tail(0), 0)
    assert experienced(name).late(batch).any()


@pytest.mark.parametrize("name", ["flat-line@1/all", BANK])
@few
@given(seed=seeds)
def test_law_rows_of_a_channel_shuffled_within_the_window_give_the_same_findings(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = faulty_tail(seed % 4)
    # four grid times are received at one instant, each channel's rows in an order of its own: nothing is judged between them
    group = (batch.observed_us - batch.observed_us[0] + 60_000_000) // (4 * 300_000_000)
    received = batch.observed_us[0] + (group + 1) * 4 * 300_000_000
    mixed = np.lexsort((rng.random(len(batch)), group))
    # roughness is irregular: rows within 1.5 intervals are taken as they come, see `detectors.order`
    still = np.isin(batch.channel_id, (8, 9))
    order = mixed.copy()
    order[still[mixed]] = np.flatnonzero(still)
    batch = ReadingBatch(batch.channel_id, batch.observed_us, received, batch.value, batch.quality, batch.reason, batch.flags)
    ours, theirs = experienced(name), experienced(name)
    kinds = {FindingKind.METER_STUCK}
    expected = [f for f in ours.step(batch).findings if f.kind in kinds]
    got = [f for f in theirs.step(batch.take(order)).findings if f.kind in kinds]
    assert expected
    assert sorted(map(repr, expected)) == sorted(map(repr, got))


@pytest.mark.parametrize("name", SUBJECTS)
@few
@given(draw=st.data(), seed=st.integers(0, 3))
def test_law_state_by_parts_at_any_index_equals_the_whole(name: str, draw: st.DataObject, seed: int) -> None:
    batch = faulty_tail(seed)
    edges = cuts(draw, len(batch))
    steady, saved, mark = experienced(name), {}, {}
    batches = [batch.take(slice(a, b)) for a, b in itertools.pairwise(edges)]
    expected = []
    for i, part in enumerate(batches):
        # as ingest does it: one part at a time, each with its own mark
        turn = steady.parts()[i % len(steady.parts())]
        saved[turn], mark[turn] = steady.part_state(turn), i
        expected.append(steady.step(part))
    for turn in steady.parts():
        if turn not in saved:
            saved[turn], mark[turn] = experienced(name).part_state(turn), 0
    moved = make_subject(name)
    for turn in draw.draw(st.permutations(sorted(saved)), label="order"):
        moved.restore_part(turn, saved[turn])
    assert sorted(moved.parts()) == sorted(saved)
    assert moved.restored.fresh == ()
    got = []
    for i, part in enumerate(batches):
        behind = [turn for turn in moved.parts() if mark[turn] <= i]
        if behind:
            got.append(moved.step(part, behind))
    assert steady.state() == moved.state()
    assert set(plain(got).findings) <= set(plain(expected).findings)


def test_bank_parts_lane_stays_in_the_part_in_which_it_was_stored_when_the_registry_grows() -> None:
    bank = experienced(BANK)
    less = bank.registry
    smaller = type(less)(less.site, less.zones[:1], less.assets, less.devices, tuple(c for c in less.channels if c.zone_id == "z1"))
    old = Bank(smaller)
    old.step(make_batch(0, 288, 1))
    names = old.parts()
    stored = {name: old.part_state(name) for name in names}
    new = Bank(type(less)(less.site, less.zones, less.assets, less.devices, less.channels))
    for name, state in stored.items():
        new.restore_part(name, state)
    # channel 2 touches zone 1, so its lane begins anew; every lane is in one part, and every part has a lane
    assert "zone-inflow@1/z1" in new.restored.fresh
    assert sorted(key for key in new.lane_keys) == sorted(set(new.restored.kept) | set(new.restored.fresh))
    again = Bank(new.registry)
    for name in new.parts():
        again.restore_part(name, new.part_state(name))
    assert again.restored.fresh == ()
    assert again.state() == new.state()


def test_bank_of_some_lanes_judges_as_the_whole_bank_does() -> None:
    whole, some = experienced(BANK), Bank(make_registry(), make_signatures()).only(["zone-inflow@1/z1", "flat-line@1/all"], [4])
    assert set(some.lane_keys) == {"zone-inflow@1/z1", "flat-line@1/all"}
    some.step(make_batch(0, PAST_DAYS * 288, 1))
    ours, theirs = some.step(faulty_tail(1)).findings, whole.step(faulty_tail(1)).findings
    assert {repr(f) for f in ours} == {repr(f) for f in theirs if f.kind is FindingKind.LEAK_BURST or (f.asset_id == "device:pr-2")}
    assert some.warm_up_us("zone-inflow@1/z1") == 14 * 86_400_000_000


@pytest.mark.parametrize("name", ["flat-line@1/all", "no-data@1/town"])
def test_bank_detectors_of_single_channels_know_after_a_change_of_the_registry_what_they_knew(name: str) -> None:
    before = experienced(name)
    before.step(faulty_tail(1))
    full = before.registry
    # channel 3 is taken away; channel 4 is stuck and device pr-3 (channel 5) is silent
    less = type(full)(full.site, full.zones, full.assets, full.devices, tuple(c for c in full.channels if c.channel_id != 3))
    after = Bank(less, make_signatures()).only([name])
    for part in before.parts():
        after.restore_part(part, before.part_state(part))
    assert after.restored.fresh == ()
    quiet = make_batch(PAST_DAYS * 288 + 168, 48, 9)
    kept = quiet.take(quiet.channel_id != 3)
    ours, theirs = after.step(kept).findings, before.step(quiet).findings
    assert [f.phase for f in ours if f.phase is FindingPhase.CLEAR]
    assert {repr(f) for f in ours} == {repr(f) for f in theirs}
