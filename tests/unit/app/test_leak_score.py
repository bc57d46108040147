"""The rules of the leak benchmark on cases whose result can be reckoned in the head."""

import numpy as np
import pytest

from underway.app.bench.leak_score import TrueLeak, hits, pipe_distance_m, score

# five pipes of 200 m in a row: middles 200 m apart
ENDS = {f"p{i}": (f"n{i}", f"n{i + 1}") for i in range(5)}
NUMBER, FAR = pipe_distance_m(ENDS, dict.fromkeys(ENDS, 200.0))
DAY_S = 86_400.0


def leak(pipe: str, start_d: float, end_d: float, flow: float = 10.0, abrupt: bool = True) -> TrueLeak:
    hours = np.arange(20 * 24) / 24.0
    return TrueLeak(pipe, start_d * DAY_S, end_d * DAY_S, abrupt, 0.0, np.where((hours >= start_d) & (hours < end_d), flow, 0.0))


def of(digs: list[tuple[float, str]], leaks: list[TrueLeak], since_d: float = 5.0):
    return score([(d * DAY_S, p) for d, p in digs], leaks, NUMBER, FAR, since_d * DAY_S)


def test_score_dig_at_the_pipe_at_once_is_all_of_it() -> None:
    # 5 days of 10 m3/h are 1200 m3, 960 EUR
    found = of([(10.0, "p1")], [leak("p1", 10.0, 15.0)])
    assert (found.share_strict, found.eur, found.perfect_eur, found.distance_m) == (1.0, 960.0, 960.0, 0.0)


def test_score_dig_200_m_off_and_a_day_late_pays_for_both() -> None:
    # four days left: 768 EUR, less 500 * 200 / 300
    found = of([(11.0, "p2")], [leak("p1", 10.0, 15.0)])
    assert found.eur == round(768 - 500 * 2 / 3)
    assert (found.abrupt_found, found.abrupt_delay_h) == (1, 24.0)


def test_score_dig_400_m_off_before_or_after_the_leak_or_at_no_pipe_is_false() -> None:
    found = of([(11.0, "p3"), (9.0, "p1"), (15.5, "p1"), (11.0, "nowhere")], [leak("p1", 10.0, 15.0)])
    assert (found.false_digs, found.found, found.eur, found.eur_at_5000) == (4, 0, -2000.0, -20_000.0)
    assert found.missed == ("p1",)


def test_score_second_dig_at_a_found_leak_is_a_repeat_that_only_the_strict_share_charges() -> None:
    found = of([(10.0, "p1"), (11.0, "p1")], [leak("p1", 10.0, 15.0)])
    assert (found.repeats, found.share) == (1, 1.0)
    assert found.share_strict == pytest.approx((960 - 500) / 960, abs=1e-3)


def test_score_two_leaks_in_reach_are_found_by_two_digs_nearest_first() -> None:
    found = of([(11.0, "p1"), (11.0, "p1")], [leak("p1", 10.0, 15.0), leak("p2", 10.0, 15.0)])
    assert [(f.pipe, f.distance_m) for f in found.detail] == [("p1", 0.0), ("p2", 200.0)]


def test_score_carried_over_leak_counts_from_the_begin_of_the_judged_time() -> None:
    found = of([(3.0, "p1"), (5.0, "p1")], [leak("p1", 1.0, 10.0), leak("p3", 1.0, 4.0)])
    assert (found.digs, found.leaks, found.carried, found.carried_found, found.share) == (1, 1, 1, 1, 1.0)
    assert (found.abrupt, found.abrupt_delay_h) == (0, None)


def test_score_town_without_leaks_has_no_share() -> None:
    found = of([(6.0, "p1")], [])
    assert (found.share_strict, found.false_digs, found.distance_m) == (None, 1, None)


def test_hits_counts_a_running_leak_in_reach_also_when_it_was_found_before() -> None:
    leaks = [leak("p1", 10.0, 15.0)]
    digs = [(9.9 * DAY_S, "p1"), (10.1 * DAY_S, "p1"), (11.0 * DAY_S, "p2"), (11.0 * DAY_S, "p4"), (11.0 * DAY_S, "nowhere")]
    assert hits(digs, leaks, NUMBER, FAR) == [False, True, True, False, False]
