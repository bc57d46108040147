"""The steady part of the supply: what leaks in all, from how a day's flow differs from the usual one of its hours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectors.water.section_model import steady_part, steady_variance, usual_week

WEEK = np.arange(168)
USUAL = 140.0 * (1.0 - 0.5 * np.cos(2 * np.pi * (WEEK % 24 - 4) / 24)) * np.where(WEEK < 120, 1.0, 1.1)


def supply(days: int, leak: float, factor: float, seed: int = 1) -> Any:
    hours = np.arange(24 * days)
    return factor * USUAL[hours % 168] * (1.0 + np.random.default_rng(seed).normal(0.0, 0.015, len(hours))) + leak


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_steady_part_of_a_month_is_the_leak_whatever_the_demand(factor: float) -> None:
    flow = supply(28, 8.0, factor)
    days = [steady_part(flow[24 * d : 24 * d + 24], USUAL[(24 * d + np.arange(24)) % 168]) for d in range(28)]
    assert np.mean(days) == pytest.approx(8.0, abs=1.0)


def test_steady_part_with_too_few_hours_or_a_flow_that_never_moves_is_not_known() -> None:
    day = USUAL[:24].copy()
    day[:5] = np.nan
    assert np.isnan(steady_part(day, USUAL[:24]))
    assert np.isnan(steady_part(np.full(24, 9.0), np.full(24, 9.0)))


def test_steady_variance_is_that_of_days_judged_later() -> None:
    seen = [steady_variance(supply(14, 0.0, 1.0, seed), np.arange(336) % 168) for seed in range(30)]
    later = []
    for seed in range(30):
        usual = usual_week(supply(14, 0.0, 1.0, seed), np.arange(336) % 168)
        flow = supply(7, 0.0, 1.0, 1000 + seed)
        later += [steady_part(flow[24 * d : 24 * d + 24], usual[24 * d : 24 * d + 24]) for d in range(7)]
    assert np.mean(seen) == pytest.approx(np.var(later), rel=0.35)


def test_steady_variance_of_hours_that_are_hardly_known_is_infinite() -> None:
    flow = np.full(336, np.nan)
    flow[:24] = USUAL[:24]
    assert steady_variance(flow, np.arange(336) % 168) == np.inf
