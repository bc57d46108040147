"""The benchmark of tanks and pumps: same seed, same station; what counts as found and as false."""

import numpy as np

from simulators.prv_station import PRV_FAULTS, PrvEvent, PrvHappened, PrvRun, simulate_prv
from simulators.water_faults import QUIET_DAYS, FaultRun, Happened, Mishap, simulate_faults
from underway.app.bench import prv
from underway.app.bench.faults import is_true, run_faults


def test_simulate_faults_same_seed_gives_the_same_station_and_quiet_days_first() -> None:
    one, same, other = simulate_faults(1, 40), simulate_faults(1, 40), simulate_faults(2, 40)
    assert all(np.array_equal(v, same.signals[k], equal_nan=True) for k, v in one.signals.items())
    assert not np.array_equal(one.signals["level"], other.signals["level"], equal_nan=True)
    assert min(h.begin for h in one.happened) >= QUIET_DAYS * 288


def test_is_true_alarm_of_another_kind_or_at_another_time_is_false() -> None:
    run = FaultRun(1, {}, np.full(1000, 3.0), (Happened(Mishap.PUMP_WEAR, 100, 200, 0.1),))
    assert is_true(run, ("pump.efficiency", 150))
    assert not is_true(run, ("pump.efficiency", 90))
    assert not is_true(run, ("tank.balance", 150))


def test_run_faults_counts_each_fault_once_for_both_methods() -> None:
    report = run_faults([1], 45)
    faults = sum(h.what in {"overflow", "emptying", "tank-leak", "gauge-stuck", "pump-wear"} for h in simulate_faults(1, 45).happened)
    faults += sum(h.what in PRV_FAULTS for h in simulate_prv(1, 45).happened)
    assert sum(s.happened for s in report.scores) == 2 * faults
    assert all(0 <= s.found <= s.happened for s in report.scores)
    assert {name: c.us_a_step > 0 and c.state_bytes > 100 for name, c in report.costs.items()} == {
        "tank-level": True,
        "pump-efficiency": True,
        "prv": True,
    }


def test_prv_score_what_is_raised_for_a_failure_is_found_and_the_rest_is_false() -> None:
    begin = 25 * 288
    run = PrvRun(30, {}, (PrvHappened(PrvEvent.CLOGGED, begin, begin + 100, 0.2), PrvHappened(PrvEvent.FIRE_DRAW, 7800, 7836, 80.0)))
    found = prv.score(run, [("prv.fault", begin + 6), ("prv.fault", 7810), ("prv.fault", 10)])
    assert found.delays[PrvEvent.CLOGGED] == [30.0]
    assert found.false == 1
    assert prv.score(run, []).delays[PrvEvent.CLOGGED] == [None]


def test_simulate_prv_same_seed_gives_the_same_valve_and_quiet_days_first() -> None:
    one, same, other = simulate_prv(1, 40), simulate_prv(1, 40), simulate_prv(2, 40)
    assert all(np.array_equal(v, same.signals[k], equal_nan=True) for k, v in one.signals.items())
    assert not np.array_equal(one.signals["flow"], other.signals["flow"], equal_nan=True)
    assert min(h.begin for h in one.happened) >= 20 * 288
