"""A dig answers one leak: what no crew was sent for is looked for again, and one leak is dug for once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from detectors.contract import FloatArray
from detectors.water.leak_answers import unanswered
from detectors.water.leak_committee import Committee, DigRules, PlaceChange
from detectors.water.leak_tracker import Noise

DAY_S = 86_400.0
PIPES, SIGNALS, SD = 40, 12, 0.002
NEAR = (np.abs(np.subtract.outer(np.arange(PIPES), np.arange(PIPES))) <= 3).astype(np.float64)


@dataclass(frozen=True)
class Seen:
    number: int
    where: FloatArray
    opened_s: float = 0.0


def seen(number: int, *at: tuple[int, float], opened_day: float = 0.0) -> Seen:
    where = np.zeros(PIPES)
    for pipe, probability in at:
        where[pipe] = probability
    return Seen(number, where, opened_day * DAY_S)


def left(leaks: list[Seen], *digs: tuple[float, int]) -> list[int]:
    return [x.number for x in unanswered(leaks, [(day * DAY_S, pipe) for day, pipe in digs], NEAR)]


def test_unanswered_a_dig_is_for_the_leak_that_is_most_probable_there_and_leaves_the_other() -> None:
    leaks = [seen(1, (10, 0.6), (30, 0.4)), seen(2, (11, 1.0))]
    assert left(leaks, (5, 10)) == [1]
    assert left(leaks, (5, 10), (6, 10)) == []
    assert left(leaks) == [1, 2]


def test_unanswered_a_leak_that_began_after_the_dig_or_lies_elsewhere_is_left() -> None:
    assert left([seen(1, (10, 1.0), opened_day=9)], (5, 10)) == [1]
    assert left([seen(1, (10, 1.0), opened_day=7)], (5, 10)) == []  # a begin is known to some days
    assert left([seen(1, (20, 1.0))], (5, 10)) == [1]
    assert left([seen(1, (10, 0.29), (20, 0.71))], (5, 10)) == [1]


def line_of_pipes() -> tuple[Any, Any]:
    """Return signatures and distances of pipes of 100 m on a line, each gauge lowered by what leaks near it."""
    pipe, gauge = np.linspace(0, 1, PIPES)[:, None], np.linspace(0, 1, SIGNALS)[None, :]
    return -0.01 * np.exp(-(((pipe - gauge) / 0.15) ** 2)), 100.0 * np.abs(np.subtract.outer(np.arange(PIPES), np.arange(PIPES)))


def said_by_a_committee(
    leaks: list[tuple[int, float, int, int]], days: int, repaired: dict[int, int] | None = None
) -> list[tuple[int, int]]:
    """Return (day, pipe) of the digs for leaks of (pipe, m3/h, day of begin, days until it has grown)."""
    signatures, distance = line_of_pipes()
    watching = Committee(signatures, distance, np.ones(PIPES), Noise(np.full(SIGNALS, SD**2), np.zeros((SIGNALS, SIGNALS))), DigRules())
    rows = np.random.default_rng(3).normal(0, SD, (days, SIGNALS))
    for pipe, flow, begin, growth in leaks:
        end = next((d for d, p in (repaired or {}).items() if p == pipe), days)
        rows[:end] += np.clip((np.arange(end)[:, None] - begin) / growth, 0.0, 1.0) * flow * signatures[pipe]
    digs = []
    for day in range(days):
        if repaired and day in repaired:
            watching.repaired(DAY_S * day, repaired[day])
        changes = watching.step(DAY_S * (day + 1), rows[max(0, day - 41) : day + 1], True, 1, day > 14)
        digs += [(day, place.dug_pipe) for change, place in changes if change is PlaceChange.DIG]
    return digs


@pytest.mark.parametrize("growth", [1, 40])
def test_committee_one_leak_that_runs_on_for_months_is_dug_for_once(growth: int) -> None:
    ((_, pipe),) = said_by_a_committee([(20, 8.0, 25, growth)], 180)
    assert abs(pipe - 20) <= 3


def test_committee_a_second_leak_within_reach_of_a_dig_that_nobody_answered_is_dug_for_too() -> None:
    # both grow slowly: the filters take the second for more of the first, and without the second look nobody is sent again
    digs = said_by_a_committee([(20, 6.0, 25, 30), (23, 6.0, 60, 40)], 180)
    assert len(digs) == 2
    assert digs[0][0] < 60 < digs[1][0]
    assert abs(digs[1][1] - 23) <= 3


def test_committee_a_repair_answers_its_dig_and_sends_nobody_again() -> None:
    assert len(said_by_a_committee([(20, 8.0, 25, 1)], 150, {60: 20})) == 1
