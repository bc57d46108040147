"""The benchmark of water quality: scores of made-up alarms, the simple methods, and the command as a whole on a short station."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from simulators.quality_station import DAY_S, STEP_S, Happening, HappeningKind, StationRun
from underway.app.bench.quality import HELD_OUT_SEEDS, TUNING_SEEDS, batches, make_registry, score, summary
from underway.app.bench.quality_baselines import fixed_limits, raised
from underway.app.cli import app

KIND = HappeningKind
HOUR = 3600
DAYS = 31


def made(value: np.ndarray | None = None) -> StationRun:
    at = np.arange(DAYS * DAY_S // STEP_S) * STEP_S
    happenings = (
        Happening(KIND.CONTAMINATION, 22 * DAY_S, 22 * DAY_S + HOUR, 22 * DAY_S + HOUR, 22 * DAY_S + 3 * HOUR, "salt", 1.0),
        Happening(KIND.FLUSH, 24 * DAY_S, 24 * DAY_S + HOUR, 24 * DAY_S, 24 * DAY_S + HOUR, "", 1.0),
        Happening(KIND.CALIBRATION, 26 * DAY_S, 26 * DAY_S + HOUR, 26 * DAY_S, 26 * DAY_S + HOUR, "ph", 7.0),
    )
    series = np.random.default_rng(1).normal(7.8, 0.01, len(at)) if value is None else value
    return StationRun("n1", DAYS, at, {"ph": series, "toc": np.full(len(at), 2.0)}, happenings)


def test_seeds_that_are_held_out_are_no_tuning_seeds() -> None:
    assert not set(HELD_OUT_SEEDS) & set(TUNING_SEEDS)
    assert len(HELD_OUT_SEEDS) >= 8


def test_score_counts_once_what_is_found_and_names_the_cause_of_what_is_false() -> None:
    arrives = 22 * DAY_S + HOUR
    alarms = [5 * DAY_S, 22 * DAY_S, arrives + 600, arrives + 1200, 24 * DAY_S + 60, 26 * DAY_S + 60, 28 * DAY_S]
    one = score("m", 7, made(), alarms, 1.0)
    assert (one.contaminations, one.found, one.delays_min) == (1, 1, (10.0,))
    assert one.false_by == {"operation": 1, "probe": 1, "nothing": 2}
    assert one.months == pytest.approx(10 / 30)
    assert one.false_a_month == pytest.approx(12.0)
    (all_of_it,) = summary([one, score("m", 8, made(), [], 1.0)])
    assert (all_of_it.found, all_of_it.contaminations, all_of_it.found_share) == (1, 2, (0.5, 0.0, 1.0))


def test_limits_need_three_of_four_and_one_hour_before_they_speak_again() -> None:
    run = made()
    value = run.signals["ph"].copy()
    for day, count in ((22, 2), (23, 3), (25, 30)):
        value[day * 288 : day * 288 + count] = 9.0
    assert [a // DAY_S for a in fixed_limits(made(value), 0.15)] == [23, 25]
    over = np.zeros(len(run.at_s), np.bool_)
    over[10:13] = over[18:21] = over[40:43] = True
    assert [a // STEP_S for a in raised(over, run)] == [12, 42]


def test_batches_are_hours_in_event_order_without_gaps() -> None:
    run = made()
    run.signals["ph"][3] = np.nan
    end, first = next(iter(batches(run)))
    assert end == HOUR
    assert len(first) == 23
    assert (np.diff(first.observed_us) >= 0).all()
    assert {c.role for c in make_registry(run).channels} == {"water_quality"}


def test_bench_quality_runs_every_method_on_a_short_station(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made()
    n = 25 * DAY_S // STEP_S
    rng = np.random.default_rng(2)
    signals = {"chlorine": rng.normal(0.8, 0.02, n).round(2), "toc": rng.normal(2.0, 0.04, n).round(2)}
    seen = whole.happenings[0]
    inside = slice(seen.seen_from_s // STEP_S, seen.seen_until_s // STEP_S)
    signals["chlorine"][inside] -= 0.3
    signals["toc"][inside] += 0.5
    short = StationRun("n1", 25, whole.at_s[:n], signals, whole.happenings[:1])
    monkeypatch.setattr("underway.app.bench.quality.simulate_station", lambda *_, **__: short)
    result = CliRunner().invoke(app, ["bench", "quality", "--seed", "1", "--days", "25", "--json"], catch_exceptions=False)
    facts = json.loads(result.stdout)
    assert facts["seeds"] == [1]
    assert [s["method"].split(",")[0] for s in facts["summary"]] == [
        "water-quality",
        "3 of 4 outside limits",
        "3 of 4 outside limits",
        "river regression",
        "river regression",
        "river half-space trees",
    ]
    ours = facts["scores"][0]
    assert (ours["found"], ours["contaminations"], ours["false_alarms"]) == (1, 1, 0)
    assert ours["delays_min"][0] <= 15.0
