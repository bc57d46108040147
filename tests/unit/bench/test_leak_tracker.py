"""The tracker of the leak study on a network that is made up: it finds, tells apart, closes and is not fooled by a gauge."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

PIPES, SIGNALS, DAYS = 40, 12, 60
NOISE = 0.002


@pytest.fixture(scope="module")
def study() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "bench" / "leak_study" / "tracker.py"
    spec = importlib.util.spec_from_file_location("leak_study_tracker", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def line_of_pipes() -> tuple[Any, Any]:
    """Return signatures and who is near whom, for pipes along a line with gauges spread over it: a leak lowers what is near it."""
    pipe, gauge = np.linspace(0, 1, PIPES)[:, None], np.linspace(0, 1, SIGNALS)[None, :]
    return -0.01 * np.exp(-(((pipe - gauge) / 0.15) ** 2)), np.abs(np.subtract.outer(np.arange(PIPES), np.arange(PIPES))) <= 3


def tracked(study: ModuleType, leaks: list[tuple[int, float, int, int]], spoil: Any = None, seed: int = 1) -> Any:
    """Return the tracker after `DAYS` with leaks (pipe, m3/h, first day, day after the last)."""
    signatures, near = line_of_pipes()
    rules = study.Rules(np.full(SIGNALS, NOISE), np.full(SIGNALS, NOISE / 4))
    tracker = study.Tracker(signatures, near, np.ones(PIPES), rules)
    rng = np.random.default_rng(seed)
    days = rng.normal(0, NOISE, (DAYS, SIGNALS))
    for pipe, flow, first, end in leaks:
        days[first:end] += flow * signatures[pipe]
    if spoil is not None:
        spoil(days)
    for day in range(DAYS):
        tracker.step(86_400.0 * (day + 1), [*days[max(0, day - 33) : day + 1]], True, 1)
    return tracker


@pytest.mark.parametrize("seed", range(5))
def test_tracker_without_leaks_is_quiet(study: ModuleType, seed: int) -> None:
    assert tracked(study, [], seed=seed).leaks == []


@pytest.mark.parametrize("pipe", [5, 20, 33])
def test_tracker_finds_a_leak_near_its_pipe_with_its_flow(study: ModuleType, pipe: int) -> None:
    tracker = tracked(study, [(pipe, 8.0, 25, DAYS)])
    (leak,) = tracker.leaks
    found, mass = tracker.best(leak)
    assert abs(found - pipe) <= 3
    assert mass > 0.8
    assert 26 <= leak.alarm_s / 86_400 <= 28
    assert tracker.flow(leak) == pytest.approx(8.0, abs=1.5)
    assert leak.closed_s is None


def test_tracker_tells_two_leaks_apart_and_closes_the_one_that_ends(study: ModuleType) -> None:
    tracker = tracked(study, [(8, 8.0, 20, 45), (30, 6.0, 30, DAYS)])
    first, second = tracker.leaks
    assert abs(tracker.best(first)[0] - 8) <= 3
    assert abs(tracker.best(second)[0] - 30) <= 3
    assert 45 <= first.closed_s / 86_400 <= 49
    assert second.closed_s is None


def test_tracker_repair_that_is_reported_closes_its_leak_and_opens_none(study: ModuleType) -> None:
    signatures, near = line_of_pipes()
    tracker = study.Tracker(signatures, near, np.ones(PIPES), study.Rules(np.full(SIGNALS, NOISE), np.full(SIGNALS, NOISE / 4)))
    days = np.random.default_rng(3).normal(0, NOISE, (DAYS, SIGNALS))
    days[20:40] += 8.0 * signatures[12]
    for day in range(DAYS):
        if day == 40:
            assert tracker.repaired(86_400.0 * 40, 13) is tracker.leaks[0]
        tracker.step(86_400.0 * (day + 1), [*days[max(0, day - 33) : day + 1]], True, 1)
    assert [leak.closed_s for leak in tracker.leaks] == [86_400.0 * 40]


def test_tracker_one_gauge_that_jumps_or_is_silent_is_no_leak(study: ModuleType) -> None:
    def spoil(days: Any) -> None:
        days[30:, 4] += 0.2
        days[20:28, 7] = np.nan

    assert tracked(study, [], spoil).leaks == []
