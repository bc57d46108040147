from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from simulators.bulk_meters import simulate_bulk_meters
from simulators.customer_meters import (
    DAY_S,
    FAULTS_FROM_DAY,
    HOUR_S,
    Customer,
    HappeningKind,
    MeterYear,
    simulate_customer_meters,
)

KIND = HappeningKind


@cache
def year(seed: int = 3, faults: bool = True) -> MeterYear:
    return simulate_customer_meters(seed, customers=300, days=300, faults=faults)


def shown(y: MeterYear, device_id: str) -> np.ndarray:
    return y.register_m3[[m.device_id for m in y.meters].index(device_id)]


def test_year_same_seed_is_the_same_and_another_is_not() -> None:
    again = simulate_customer_meters(3, customers=300, days=300)
    assert np.array_equal(year().register_m3, again.register_m3, equal_nan=True)
    assert year().happenings == again.happenings
    assert year(4).happenings != again.happenings


def test_households_use_about_what_people_use_and_vacant_homes_next_to_nothing() -> None:
    y = year(faults=False)
    daily = y.drawn_l.sum(axis=1) / y.days
    people = np.array([m.people for m in y.meters])
    home = np.array([m.customer is Customer.HOUSEHOLD for m in y.meters])
    vacant = np.array([m.customer is Customer.VACANT for m in y.meters])
    assert 80.0 < daily[home].sum() / people[home].sum() < 150.0
    assert np.median(daily[vacant]) < 3.0


def test_faults_begin_when_meters_are_known_and_none_is_there_without_them() -> None:
    assert year(faults=False).faults == ()
    faults = year().faults
    assert {h.kind for h in faults} == {KIND.STOPPED, KIND.STICKY, KIND.BACKWARD, KIND.TURNED, KIND.BACKFLOW, KIND.BYPASS, KIND.MAGNET}
    assert min(h.begin_s for h in faults) >= FAULTS_FROM_DAY * DAY_S
    assert len({h.device_id for h in faults}) == len(faults)


def test_stopped_meter_stands_and_a_turned_one_falls() -> None:
    y = year()
    for h in y.faults:
        inside = shown(y, h.device_id)[h.begin_s // HOUR_S + 1 : h.end_s // HOUR_S]
        inside = inside[np.isfinite(inside)]
        meter = next(m for m in y.meters if m.device_id == h.device_id)
        if h.kind is KIND.STOPPED:
            assert inside.max() - inside.min() <= 1e-9
        if h.kind is KIND.TURNED and meter.customer is Customer.HOUSEHOLD:
            assert inside[-1] <= inside[0]


def test_register_counts_in_its_steps() -> None:
    y = year()
    for i, m in enumerate(y.meters):
        steps = y.register_m3[i][np.isfinite(y.register_m3[i])] * 1000.0 / m.pulse_l
        assert np.abs(steps - np.round(steps)).max() < 0.01


@pytest.mark.parametrize(("customers", "days"), [(5, 365), (100, 120)], ids=["few-customers", "short"])
def test_year_too_small_says_what_is_expected(customers: int, days: int) -> None:
    with pytest.raises(ValueError, match=f"expected at least 20 customers and 200 days, got {customers} and {days}"):
        simulate_customer_meters(1, customers=customers, days=days)


def test_bulk_meters_too_large_miss_what_flows_and_too_small_ones_run_above_their_flow() -> None:
    meters = simulate_bulk_meters(2, count=80)
    assert {m.truth for m in meters} == {"oversized", "undersized", "right"}
    large = [m for m in meters if m.truth == "oversized"]
    assert np.median([m.q3_m3ph / np.nanmean(m.shown_m3ph) for m in large]) > 20
    assert all(0.0 < m.lost_m3 < m.true_m3 for m in large)
    assert all(np.nanmax(m.shown_m3ph) > m.q3_m3ph for m in meters if m.truth == "undersized")


def test_bulk_meters_too_short_says_what_is_expected() -> None:
    with pytest.raises(ValueError, match="expected at least 1 meter and 35 days, got 3 and 10"):
        simulate_bulk_meters(1, count=3, days=10)
