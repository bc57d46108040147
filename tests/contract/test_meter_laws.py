"""The laws of detectors for those of meters, on months of readings, in which every one of them has something to find."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from detector_town import plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.bank import Bank
from underway.model import (
    EPOCH_AT,
    HOUR_US,
    Channel,
    Device,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

HOMES, PAST_H, TAIL_H = 24, 120 * 24, 50 * 24
START_US = 1_771_200_000_000_000  # 2026-02-16T00:00Z, a Monday
STOPPED, BYPASS, BACKFLOW, BACKWARD, BULK, FLAG = 3, 5, 8, 11, HOMES + 1, HOMES + 2
WANTED = {
    "meter-backward@1/all": {FindingKind.METER_BACKWARD, FindingKind.BACKFLOW},
    "meter-sizing@1/all": {FindingKind.METER_OVERSIZED},
    "meter-stopped@1/all": {FindingKind.METER_STOPPED},
    "meter-tamper@1/all": {FindingKind.METER_TAMPER},
}
NAMES = tuple(WANTED)
few = settings(max_examples=3, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))


def make_registry(without: int = 0) -> Registry:
    """Return homes, a bulk meter and a flag; `without` leaves a channel out."""
    homes = [
        Channel(i, f"m-{i}", "volume", Quantity.VOLUME, "m3", None, "z1", "customer_meter", 0, 1e9, 3600.0, 0.001)
        for i in range(1, HOMES + 1)
    ]
    bulk = Channel(BULK, "b-1", "flow", Quantity.FLOW, "m3/h", None, "z1", "customer_meter", -1e4, 1e4, 900.0, 0.001)
    flag = Channel(FLAG, "m-1", "magnet", Quantity.FLAG, "flag", None, "z1", "tamper_flag", 0, 1, 3600.0, 1.0)
    channels = tuple(c for c in (*homes, bulk, flag) if c.channel_id != without)
    sizes = {"b-1": {"q3_m3ph": 63.0, "ratio_r": 80.0}}
    devices = tuple(
        Device(d, "town", "z1", None, "m", "native", EPOCH_AT, attributes=sizes.get(d, {}))
        for d in dict.fromkeys(c.device_id for c in channels)
    )
    return Registry(Site("town", "Town", "UTC", 0, 0), (Zone("z1", "town", "z1", ZoneKind.DMA),), (), devices, channels)


@cache
def registers() -> np.ndarray:
    """Return what the registers of homes show, m3, an hour and home: all is well in the past, then some break."""
    rng = np.random.default_rng(7)
    hours = PAST_H + TAIL_H
    awake = (np.arange(hours) % 24 >= 6) & (np.arange(hours) % 24 < 23)
    count = rng.poisson(np.where(awake, 0.7, 0.0)[:, None], (hours, HOMES))
    litres = np.where(count > 0, rng.gamma(np.maximum(count, 1) * 1.5, 9.0), 0.0)
    for j in range(HOMES):
        begin = int(rng.integers(10, 100)) * 24
        litres[begin : begin + int(rng.integers(3, 9)) * 24, j] = 0.0
    litres[PAST_H:, STOPPED - 1] = 0.0
    litres[PAST_H:, BYPASS - 1] *= 0.35
    litres[PAST_H + 100 : PAST_H + 103, BACKFLOW - 1] = -40.0
    litres[PAST_H:, BACKWARD - 1] *= -1.0
    return np.round(50.0 + np.cumsum(litres, axis=0) / 1000.0, 3)


def batch_of(first: int, hours: int, broken: bool = True) -> ReadingBatch:
    """Return the readings of some hours, in event order; with `broken` false those of homes go on as they were in the past."""
    at_h = np.arange(first, first + hours)
    shown = registers()
    value = shown[at_h] if broken else shown[at_h % PAST_H] + (at_h // PAST_H)[:, None] * (shown[PAST_H - 1] - 50.0)
    columns = [(START_US + at_h * HOUR_US + i * 1_000_000, np.full(hours, i), value[:, i - 1]) for i in range(1, HOMES + 1)]
    quarters = np.arange(first * 4, (first + hours) * 4)
    flow = 0.4 + 0.1 * np.sin(2 * np.pi * quarters / 96) + np.where(quarters < (PAST_H - 10 * 24) * 4, 20.0, 0.0)
    columns.append((START_US + quarters * HOUR_US // 4, np.full(len(quarters), BULK), flow))
    columns.append((START_US + at_h * HOUR_US, np.full(hours, FLAG), (broken & (at_h > PAST_H + 300)).astype(float)))
    at, channel, reading = (np.concatenate(part) for part in zip(*columns, strict=True))
    return ReadingBatch.from_columns(channel, at, reading).in_event_order()


@cache
def learned(name: str) -> bytes:
    bank = Bank(make_registry()).only([name])
    bank.step(batch_of(0, PAST_H))
    return bank.state()


def experienced(name: str) -> Bank:
    bank = Bank(make_registry()).only([name])
    bank.restore(learned(name))
    return bank


@cache
def tail() -> ReadingBatch:
    return batch_of(PAST_H, TAIL_H)


def cuts(draw: st.DataObject, length: int) -> list[int]:
    return [0, *sorted(draw.draw(st.lists(st.integers(0, length), max_size=8), label="cuts")), length]


def raised(findings: tuple[Finding, ...]) -> set[FindingKind]:
    return {f.kind for f in findings if f.phase is FindingPhase.RAISE}


@pytest.mark.parametrize("name", NAMES)
def test_law_faults_of_meters_are_found_and_input_is_not_mutated(name: str) -> None:
    batch = tail()
    before = [getattr(batch, column).copy() for column in batch.__slots__]
    output = experienced(name).step(batch)
    assert raised(output.findings) == WANTED[name]
    assert all(np.array_equal(a, getattr(batch, column)) for a, column in zip(before, batch.__slots__, strict=True))
    assert plain([output]) == plain([experienced(name).step(batch)])


@pytest.mark.parametrize("name", NAMES)
@few
@given(draw=st.data())
def test_law_splitting_months_of_meters_anywhere_changes_nothing(name: str, draw: st.DataObject) -> None:
    batch = tail()
    whole, split = experienced(name), experienced(name)
    outputs = [split.step(batch.take(slice(a, b))) for a, b in itertools.pairwise(cuts(draw, len(batch)))]
    assert plain([whole.step(batch)]) == plain(outputs)
    assert whole.state() == split.state()


@pytest.mark.parametrize("name", NAMES)
@few
@given(draw=st.data())
def test_law_state_of_meters_survives_serialisation_at_any_index(name: str, draw: st.DataObject) -> None:
    batch = tail()
    steady, moved = experienced(name), experienced(name)
    hold = Hold(4, "z1", f"device:m-{STOPPED}", START_US + PAST_H * HOUR_US)
    expected, got = [], []
    for i, (a, b) in enumerate(itertools.pairwise(cuts(draw, len(batch)))):
        if i == 1:
            steady.hold([hold])
            moved.hold([hold, hold])
        expected.append(steady.step(batch.take(slice(a, b))))
        state = moved.state()
        moved = Bank(make_registry()).only([name])
        moved.restore(state)
        assert moved.state() == state
        got.append(moved.step(batch.take(slice(a, b))))
    assert plain(expected) == plain(got)
    assert steady.state() == moved.state()


@pytest.mark.parametrize("name", NAMES)
@few
@given(seed=st.integers(0, 2**16))
def test_law_duplicates_of_meters_change_nothing(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = tail()
    again = np.flatnonzero(rng.random(len(batch)) < 0.05)
    order = np.argsort(np.r_[np.arange(len(batch)), again + rng.integers(0, 400, len(again)) + 0.5], kind="stable")
    doubled = batch.take(np.r_[np.arange(len(batch)), again][order])
    assert plain([experienced(name).step(batch)]) == plain([experienced(name).step(doubled)])


@pytest.mark.parametrize("name", NAMES)
@few
@given(seed=st.integers(0, 2**16))
def test_law_a_gap_of_meters_is_not_an_event(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = batch_of(PAST_H, TAIL_H, broken=False)
    keep = batch.channel_id != BULK
    span = int(batch.observed_us[-1] - batch.observed_us[0])
    for _ in range(6):
        begin = batch.observed_us[0] + int(rng.random() * span)
        channels = rng.choice(np.arange(1, HOMES + 1), int(rng.integers(1, HOMES)), replace=False)
        inside = (batch.observed_us >= begin) & (batch.observed_us < begin + int(rng.random() * span / 2))
        keep &= ~(inside & np.isin(batch.channel_id, channels))
    assert experienced(name).step(batch.take(keep)).findings == ()


@pytest.mark.parametrize("name", NAMES)
def test_law_state_of_meters_is_bounded_while_everything_is_wrong(name: str) -> None:
    bank = experienced(name)
    bank.step(tail())
    detector = bank.detectors[name]
    assert len(detector.state()) <= detector.state_bytes_max


@pytest.mark.parametrize("name", NAMES)
def test_law_meters_know_after_a_change_of_the_registry_what_they_knew(name: str) -> None:
    other = Bank(make_registry(without=14)).only([name])
    for part in experienced(name).parts():
        other.restore_part(part, experienced(name).part_state(part))
    batch = tail()
    assert other.restored.fresh == ()
    assert raised(other.step(batch.take(batch.channel_id != 14)).findings) == WANTED[name]
