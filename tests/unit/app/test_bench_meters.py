"""The benchmark of customer meters: scores of made-up alarms, the fixed limits, and the command as a whole on a small year."""

from __future__ import annotations

import json

import numpy as np
from typer.testing import CliRunner

from simulators.customer_meters import DAY_S, Customer, Happening, HappeningKind, MeterYear, SimulatedMeter
from underway.app.bench.meter_sizes import SizeScore, loss_ratio, size_summary
from underway.app.bench.meters import HELD_OUT_SEEDS, TUNING_SEEDS, Alarm, batches, false_rates, score, summary
from underway.app.bench.meters_baseline import fixed_limits
from underway.app.cli import app

KIND = HappeningKind
DAYS = 120


def year(litres_a_day: np.ndarray, *happenings: Happening) -> MeterYear:
    """Return a year of meters that count so many litres on each day, the same every hour."""
    hourly = np.repeat(litres_a_day / 24.0, 24, axis=1)
    meters = tuple(SimulatedMeter(f"m-{i}", "z1", Customer.HOUSEHOLD, 2.0, 1.0, 1e5) for i in range(len(hourly)))
    register = 10.0 + np.cumsum(hourly, axis=1) / 1000.0
    return MeterYear(7, DAYS, meters, (np.arange(DAYS * 24) + 1) * 3600, register, hourly, happenings)


def test_seeds_that_are_held_out_are_no_tuning_seeds() -> None:
    assert not set(HELD_OUT_SEEDS) & set(TUNING_SEEDS)
    assert len(HELD_OUT_SEEDS) >= 8


def test_score_counts_a_fault_once_and_names_what_is_behind_false_alarms() -> None:
    stopped = Happening(KIND.STOPPED, "m-0", 50 * DAY_S, 100 * DAY_S)
    saving = Happening(KIND.SAVING, "m-1", 30 * DAY_S, 120 * DAY_S)
    alarms = [
        Alarm("meter.stopped", "m-0", 40 * DAY_S),
        Alarm("meter.stopped", "m-0", 62 * DAY_S),
        Alarm("meter.stopped", "m-0", 70 * DAY_S),
        Alarm("meter.tamper", "m-0", 71 * DAY_S),
        Alarm("meter.tamper", "m-1", 60 * DAY_S),
        Alarm("meter.stopped", "m-2", 60 * DAY_S),
    ]
    one = score("m", year(np.ones((3, DAYS)), stopped, saving), alarms, 1.0)
    assert (one.faults["stopped"], one.found["stopped"], one.delays_d["stopped"]) == (1, 1, [12.0])
    assert one.false == {"meter.stopped": 2, "meter.tamper": 1}
    assert one.false_behind == {"meter.stopped household": 2, "meter.tamper saving": 1}
    assert next(r for r in summary([one]) if r["fault"] == "stopped")["share"] == 1.0
    rate = next(r for r in false_rates([one]) if r["kind"] == "meter.stopped")
    assert rate["a_year_and_1000"] == round(2000.0 / (3 * DAYS / 365.0), 2)


def test_limits_raise_once_for_each_of_four_conditions() -> None:
    use = np.full((5, DAYS), 240.0)
    use[0, 80:] = 0.0
    use[1, 80:] = 100.0
    use[2, 80:85] = -240.0
    use[3, 80] = -960.0
    found = [(kind, device) for kind, device, _ in fixed_limits(year(use))]
    assert sorted(set(found)) == sorted(found)
    assert ("meter.stopped", "m-0") in found
    assert ("meter.tamper", "m-1") in found
    assert ("meter.backward", "m-2") in found
    assert ("backflow", "m-3") in found
    assert not [f for f in found if f[1] == "m-4"]


def test_batches_are_days_in_event_order_without_missing_readings() -> None:
    made = year(np.full((2, DAYS), 240.0))
    made.register_m3[1, 5] = np.nan
    first = next(iter(batches(made)))
    assert len(first) == 47
    assert (np.diff(first.observed_us) >= 0).all()


def test_sizes_are_counted_by_truth_and_by_what_was_said() -> None:
    scores = [
        SizeScore(1, ("oversized", "right", "undersized"), ("oversized", "oversized", "right"), ("right",) * 3, ((10.0, 12.0, 20.0),))
    ]
    ours = {r["kind"]: r for r in size_summary(scores) if r["method"] == "detectors"}
    assert (ours["oversized"]["found"], ours["oversized"]["meters"], ours["oversized"]["false"]) == (1, 1, 1)
    assert (ours["undersized"]["found"], ours["undersized"]["others"]) == (0, 2)
    assert loss_ratio(scores) == {"low": 1.2, "median": 1.2, "high": 1.2, "below_limit": 0.0}
    assert loss_ratio([SizeScore(1, (), (), (), ())]) is None


def test_bench_meters_runs_every_method_on_a_small_year() -> None:
    command = ["bench", "meters", "--seed", "1", "--customers", "24", "--days", "200", "--json"]
    facts = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert facts["seeds"] == [1]
    assert list(dict.fromkeys(r["method"] for r in facts["summary"])) == ["detectors", "flat-line", "fixed-limits", "strict-limits"]
    assert {r["kind"] for r in facts["sizes"]} == {"oversized", "undersized"}
    again = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert again["summary"] == facts["summary"]
    assert again["false"] == facts["false"]
