"""A tracker and a committee on a made-up line of pipes: they find, tell apart, close, and are not fooled by a gauge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detectors.water.leak_committee import ENDED_PLACES_MAX, Committee, DigRules, Place, PlaceChange
from detectors.water.leak_tracker import Closing, LeakTracker, Noise, Rules

PIPES, SIGNALS, DAYS = 40, 12, 60
SD = 0.002


def line_of_pipes() -> tuple[Any, Any]:
    """Return signatures, and distances, for pipes of 100 m along a line with gauges spread over it: a leak lowers what is near it."""
    pipe, gauge = np.linspace(0, 1, PIPES)[:, None], np.linspace(0, 1, SIGNALS)[None, :]
    return -0.01 * np.exp(-(((pipe - gauge) / 0.15) ** 2)), 100.0 * np.abs(np.subtract.outer(np.arange(PIPES), np.arange(PIPES)))


def noise() -> Noise:
    return Noise(np.full(SIGNALS, SD**2), np.zeros((SIGNALS, SIGNALS)))


def readings(leaks: list[tuple[int, float, int, int]], spoil: Callable[[Any], None] = lambda days: None, seed: int = 1) -> Any:
    """Return daily means with leaks (pipe, m3/h, first day, day after the last)."""
    signatures, _ = line_of_pipes()
    days = np.random.default_rng(seed).normal(0, SD, (DAYS, SIGNALS))
    for pipe, flow, first, end in leaks:
        days[first:end] += flow * signatures[pipe]
    spoil(days)
    return days


def tracked(leaks: list[tuple[int, float, int, int]], seed: int = 1, spoil: Callable[[Any], None] = lambda days: None) -> LeakTracker:
    signatures, distance = line_of_pipes()
    tracker = LeakTracker(signatures, distance <= 300.0, np.ones(PIPES), noise(), Rules())
    days = readings(leaks, spoil, seed)
    for day in range(DAYS):
        tracker.step(86_400.0 * (day + 1), days[max(0, day - 41) : day + 1], True, 1, day > 14)
    return tracker


@pytest.mark.parametrize("seed", range(5))
def test_tracker_without_leaks_is_quiet(seed: int) -> None:
    assert tracked([], seed).leaks == []


@pytest.mark.parametrize("pipe", [5, 20, 33])
def test_tracker_finds_a_leak_near_its_pipe_with_its_flow(pipe: int) -> None:
    tracker = tracked([(pipe, 8.0, 25, DAYS)])
    (leak,) = tracker.leaks
    assert abs(int(np.argmax(tracker.near @ leak.where)) - pipe) <= 3
    assert 25 <= leak.alarm_s / 86_400 <= 28
    assert tracker.flow(leak) == pytest.approx(8.0, abs=1.5)
    assert leak.closed_s is None


def test_tracker_closes_the_leak_that_ends_and_not_the_other() -> None:
    tracker = tracked([(8, 8.0, 20, 55), (30, 6.0, 30, DAYS)])
    first, second = tracker.leaks
    assert abs(int(np.argmax(first.where)) - 8) <= 3
    assert abs(int(np.argmax(second.where)) - 30) <= 3
    assert first.closing is Closing.PATTERN_GONE
    assert 55 <= float(first.closed_s or 0) / 86_400 <= 58
    assert second.closed_s is None


def test_tracker_one_gauge_that_jumps_or_is_silent_is_no_leak() -> None:
    def spoil(days: Any) -> None:
        days[30:, 4] += 0.2
        days[20:28, 7] = np.nan

    assert tracked([], 1, spoil).leaks == []


def test_tracker_with_too_few_signals_judges_nothing() -> None:
    def spoil(days: Any) -> None:
        days[:, 2:] = np.nan

    assert tracked([(20, 30.0, 30, DAYS)], 1, spoil).leaks == []


def committee(
    digs: DigRules, leaks: list[tuple[int, float, int, int]], repairs: dict[int, int] | None = None
) -> list[tuple[int, PlaceChange, int]]:
    """Return (day, change, pipe) of what a committee says."""
    signatures, distance = line_of_pipes()
    watching = Committee(signatures, distance, np.ones(PIPES), noise(), digs)
    days, said = readings(leaks), []
    for day in range(DAYS):
        if repairs and day in repairs:
            watching.repaired(86_400.0 * day, repairs[day])
        for change, place in watching.step(86_400.0 * (day + 1), days[max(0, day - 41) : day + 1], True, 1, day > 14):
            said.append((day, change, place.dig_pipe))
    return said


def test_committee_raises_once_digs_once_and_ends_with_the_repair() -> None:
    said = committee(DigRules(), [(20, 8.0, 25, 45)], {45: 21})
    assert [c for _, c, _ in said if c is not PlaceChange.MEASURED] == [PlaceChange.RAISED, PlaceChange.DIG, PlaceChange.ENDED]
    raised = next(x for x in said if x[1] is PlaceChange.RAISED)
    assert raised[0] <= 27
    assert abs(raised[2] - 20) <= 3
    assert next(x for x in said if x[1] is PlaceChange.ENDED)[0] == 45


def test_committee_a_small_leak_is_known_and_nobody_is_sent() -> None:
    said = committee(DigRules(horizon_days=3.0), [(20, 4.0, 25, DAYS)])
    assert PlaceChange.RAISED in [c for _, c, _ in said]
    assert PlaceChange.DIG not in [c for _, c, _ in said]


def committee_after_a_dig(closing: Closing | None) -> Committee:
    """Return a committee that sent a crew to pipe 20, and that knows how that leak ended (None: it runs)."""
    signatures, distance = line_of_pipes()
    found = Committee(signatures, distance, np.ones(PIPES), noise(), DigRules())
    where = np.zeros(PIPES)
    found.places.append(
        Place(1, 20, 0.0, 0.0, set(), where, dug_s=0.0, dug_pipe=20, closing=closing, ended_s=None if closing is None else 1.0)
    )
    return found


@pytest.mark.parametrize(
    ("closing", "pipe", "mass", "sent"),
    [
        (None, 22, 0.5, True),
        (None, 22, 0.4, False),
        (None, 30, 0.4, True),
        (Closing.PATTERN_GONE, 22, 0.4, False),
        (Closing.REPAIRED, 22, 0.4, True),
    ],
)
def test_committee_sends_a_second_crew_near_an_unanswered_dig_only_when_it_is_probable(
    closing: Closing | None, pipe: int, mass: float, sent: bool
) -> None:
    place = Place(2, pipe, 0.0, 0.0, set(), np.zeros(PIPES), flow_m3ph=20.0, dig_pipe=pipe, mass=mass)
    assert committee_after_a_dig(closing)._worth(place) is sent


def test_committee_keeps_few_of_the_places_that_ended_and_not_where_they_were() -> None:
    found = committee_after_a_dig(Closing.PATTERN_GONE)
    for k in range(2 * ENDED_PLACES_MAX):
        found.places.append(Place(k + 2, 5, 0.0, 0.0, set(), np.ones(PIPES), dug_s=0.0, dug_pipe=5, ended_s=2.0 + k))
    found.step(86_400.0, [np.zeros(SIGNALS)], True, 1)
    assert [p.number for p in found.places] == list(range(ENDED_PLACES_MAX + 2, 2 * ENDED_PLACES_MAX + 2))
    assert sum(len(p.where) for p in found.places) == 0
