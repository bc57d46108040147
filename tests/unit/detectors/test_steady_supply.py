"""The steady part of the supply: what leaks in all, from how a day's flow differs from the usual one of its hours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_leak_tracker import PIPES, SD, SIGNALS, line_of_pipes

from detectors.water.leak_audit import AuditRules, LeakAudit
from detectors.water.leak_tracker import LeakTracker, Noise, Rules
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


@pytest.mark.parametrize("flow", [np.where(np.arange(336) < 24, 140.0, np.nan), np.full(336, 90.0)], ids=["one day", "no hours"])
def test_steady_variance_that_is_not_known_is_all_that_flows_and_finite(flow: Any) -> None:
    assert steady_variance(flow, np.arange(336) % 168) == pytest.approx(np.nanmean(flow) ** 2)


def test_tracker_and_audit_go_on_without_a_steady_part_that_is_ever_known() -> None:
    signatures, distance = line_of_pipes()
    rng = np.random.default_rng(1)
    flat = steady_variance(np.full(336, 90.0), np.arange(336) % 168)
    known = Noise(np.append(np.full(SIGNALS, SD**2), flat), np.zeros((SIGNALS + 1, SIGNALS + 1)), steady=True)
    a, near = np.column_stack((signatures, np.ones(PIPES))), distance <= 300.0
    tracker, audit = LeakTracker(a, near, np.ones(PIPES), known, Rules()), LeakAudit(a, near, np.ones(PIPES), known, AuditRules())
    rows: list[Any] = []
    for day in range(60):
        rows.append(np.append(rng.normal(0.0, SD, SIGNALS) + (day > 30) * 6.0 * signatures[20], np.nan))
        tracker.step(86_400.0 * (day + 1), rows, True, 1)
        audit.step(86_400.0 * (day + 1), rows, True, 1)
    for member in (tracker, audit):
        assert [bool(near[20, int(np.argmax(x.where))]) for x in member.running()] == [True]
        assert sum(member.flow(x) for x in member.running()) == pytest.approx(6.0, abs=0.8)
