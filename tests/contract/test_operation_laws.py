"""Laws of known operations, on both leak detectors: they are a gap, survive a restore, and telling them again changes nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import network_town
import numpy as np
import pytest
from detector_town import BANK, experienced, faulty_tail, make_subject, plain

from detectors.bank import Bank
from underway.model import HOUR_US, MINUTE_US, FindingKind, FindingPhase, Operation, OperationKind, ReadingBatch

LEAK = "network"
ZONE = "zone-inflow@1/z1"
NAMES = (ZONE, BANK, LEAK)


def subject(name: str) -> Bank:
    return network_town.make_bank() if name == LEAK else make_subject(name)


def learned(name: str) -> Bank:
    return network_town.experienced() if name == LEAK else experienced(name)


def tail(name: str) -> ReadingBatch:
    return network_town.tail(days=3) if name == LEAK else faulty_tail(1)


def operation(name: str, batch: ReadingBatch, number: int = 1, begin_h: float = 1.0, hours: float = 3.0) -> Operation:
    begin_us = int(batch.observed_us.min()) + int(begin_h * HOUR_US)
    zone_id = "z" if name == LEAK else "z1"
    return Operation(number, zone_id, OperationKind.FLUSHING, begin_us, begin_us + int(hours * HOUR_US), who="crew", reason="yearly")


@pytest.mark.parametrize("name", NAMES)
def test_law_splitting_and_restoring_anywhere_changes_nothing_with_an_operation(name: str) -> None:
    batch = tail(name)
    known = [operation(name, batch), operation(name, batch, 2, 3.0, 2.0)]
    rng = np.random.default_rng(7)
    edges = [0, *sorted(rng.integers(0, len(batch), 8).tolist()), len(batch)]
    whole, moved = learned(name), learned(name)
    whole.operate(known)
    moved.operate(known)
    outputs = []
    for a, b in itertools.pairwise(edges):
        state = moved.state()
        moved = subject(name)
        moved.restore(state)
        assert moved.state() == state
        outputs.append(moved.step(batch.take(slice(a, b))))
    assert plain([whole.step(batch)]) == plain(outputs)
    assert whole.state() == moved.state()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("begin_h", [-2.0, 1.0])
def test_law_telling_an_operation_twice_changes_nothing(name: str, begin_h: float) -> None:
    batch = tail(name)
    known = [operation(name, batch, begin_h=begin_h)]
    once, twice = learned(name), learned(name)
    once.operate(known)
    twice.operate(known)
    twice.operate(known)
    assert once.state() == twice.state()


@pytest.mark.parametrize("name", NAMES)
def test_law_an_operation_that_is_withdrawn_before_it_begins_changes_nothing(name: str) -> None:
    batch = tail(name)
    known = operation(name, batch)
    plainly, withdrawn = learned(name), learned(name)
    withdrawn.operate([known])
    withdrawn.operate([replace(known, withdrawn=True)])
    assert plain([plainly.step(batch)]) == plain([withdrawn.step(batch)])
    assert plainly.state() == withdrawn.state()


@pytest.mark.parametrize("name", [ZONE, LEAK])
def test_law_an_operation_elsewhere_changes_nothing(name: str) -> None:
    batch = tail(name)
    plainly, told = learned(name), learned(name)
    told.operate([replace(operation(name, batch), zone_id="elsewhere")])
    assert plain([plainly.step(batch)]) == plain([told.step(batch)])
    assert plainly.state() == told.state()


@pytest.mark.parametrize("name", [ZONE, LEAK])
def test_law_readings_in_an_operation_and_the_hour_after_do_not_matter(name: str) -> None:
    batch = tail(name)
    known = operation(name, batch)
    inside = (batch.observed_us >= known.begin_us + 5 * MINUTE_US) & (batch.observed_us <= known.quiet_until_us - 5 * MINUTE_US)
    assert inside.any()
    wild = replace(batch, value=np.where(inside, batch.value * 1.7, batch.value))
    first, second = learned(name), learned(name)
    first.operate([known])
    second.operate([known])
    assert plain([first.step(batch)]) == plain([second.step(wild)])


def test_law_a_burst_that_outlasts_an_operation_is_found_after_it() -> None:
    batch = tail(ZONE)
    begin_us = int(batch.observed_us.min())
    end_us = int(batch.observed_us.max()) - 3 * HOUR_US
    bank = learned(ZONE)
    bank.operate([Operation(1, "z1", OperationKind.VALVE, begin_us, end_us)])
    raised = [f for f in bank.step(batch).findings if f.phase is FindingPhase.RAISE]
    assert [f.kind for f in raised] == [FindingKind.LEAK_BURST]
    assert raised[0].detected_us > end_us + HOUR_US
