"""A device's share of quarantine: never more than the budget, whatever comes, and in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.quarantine import OTHERS, Decision, QuarantineBudget, Room, source_of
from underway.model import HOUR_US, MINUTE_US, SECOND_US

KEEP, SOURCE_SPENT, ALL_SPENT = Room


def rooms(budget: QuarantineBudget, device: str, now_us: int, times: int) -> list[Room]:
    return [budget.decide(device, "t", now_us).room for _ in range(times)]


@pytest.mark.parametrize(
    ("device", "topic", "source"),
    [
        pytest.param("pr-11", "uw/town/pr-11/telemetry", "pr-11", id="device"),
        pytest.param(None, "application/7/device/0102/event/up", "application/7/device", id="first-levels"),
        pytest.param("", "a", "a", id="short-topic"),
        pytest.param(None, "x" * 999, "x" * 200, id="long-topic"),
        pytest.param("d" * 999, "t", "d" * 200, id="long-device"),
    ],
)
def test_source_of_a_message_is_its_device_or_where_it_came_from(device: str | None, topic: str, source: str) -> None:
    assert source_of(device, topic) == source


def test_budget_at_once_then_by_the_hour_and_never_more_than_at_once() -> None:
    budget = QuarantineBudget(at_once=3, per_hour=60)
    assert rooms(budget, "a", 0, 5) == [KEEP] * 3 + [SOURCE_SPENT] * 2
    assert rooms(budget, "a", MINUTE_US - 1, 1) == [SOURCE_SPENT]
    assert rooms(budget, "a", MINUTE_US, 2) == [KEEP, SOURCE_SPENT]
    assert rooms(budget, "a", 9 * HOUR_US, 5) == [KEEP] * 3 + [SOURCE_SPENT] * 2


def test_budget_of_a_mad_device_leaves_the_others_theirs() -> None:
    budget = QuarantineBudget(at_once=2, all_at_once=1000)
    assert rooms(budget, "mad", 0, 100).count(KEEP) == 2
    assert rooms(budget, "well", 0, 2) == [KEEP, KEEP]


def test_budget_of_all_together_stops_one_that_invents_names() -> None:
    budget = QuarantineBudget(at_once=2, all_at_once=10, all_per_hour=60)
    assert [budget.decide(f"d{n}", "t", 0).room for n in range(20)] == [KEEP] * 10 + [ALL_SPENT] * 10
    # what was refused to all was not taken off the source's own share
    assert rooms(budget, "d15", MINUTE_US, 2) == [KEEP, ALL_SPENT]
    assert budget.facts()["refused"] == {"source_spent": 0, "all_spent": 11}


def test_budget_beyond_its_sources_shares_one_bucket_until_an_old_one_is_whole_again() -> None:
    budget = QuarantineBudget(at_once=1, per_hour=60, sources_max=2)
    assert [budget.decide(name, "t", 0) for name in "abcd"] == [
        Decision(KEEP, "a"),
        Decision(KEEP, "b"),
        Decision(KEEP, OTHERS),
        Decision(SOURCE_SPENT, OTHERS),
    ]
    budget.settle()
    assert budget.decide("c", "t", MINUTE_US) == Decision(KEEP, "c")
    assert (budget.sources, budget.facts()["sources"], budget.facts()["sources_max"]) == (2, 2, 2)


def test_budget_undo_gives_back_what_was_not_settled() -> None:
    budget = QuarantineBudget(at_once=2, per_hour=60, sources_max=1)
    assert rooms(budget, "a", 0, 1) == [KEEP]
    budget.settle()
    for _ in range(20):
        assert rooms(budget, "a", 0, 2) == [KEEP, SOURCE_SPENT]
        assert rooms(budget, "b", 0, 3) == [KEEP, KEEP, SOURCE_SPENT]
        budget.undo()
    assert budget.facts()["refused"] == {"source_spent": 0, "all_spent": 0}
    assert rooms(budget, "a", 0, 2) == [KEEP, SOURCE_SPENT]
    budget.settle()
    budget.undo()
    assert rooms(budget, "a", 0, 1) == [SOURCE_SPENT]


def test_budget_when_the_clock_is_put_back_refills_nothing_and_goes_on_from_there() -> None:
    budget = QuarantineBudget(at_once=1, per_hour=60)
    assert rooms(budget, "a", 9 * HOUR_US, 2) == [KEEP, SOURCE_SPENT]
    assert rooms(budget, "a", 0, 1) == [SOURCE_SPENT]
    assert rooms(budget, "a", MINUTE_US, 1) == [KEEP]


Step = tuple[str, int, bool]
STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 90 * SECOND_US), st.booleans()), max_size=200)


@given(STEPS, st.integers(1, 5), st.integers(1, 300), st.integers(1, 8), st.integers(1, 400), st.integers(1, 4))
def test_budget_law_never_more_than_its_shares_and_bounded_memory(
    steps: list[Step], at_once: int, per_hour: int, all_at_once: int, all_per_hour: int, sources_max: int
) -> None:
    budget = QuarantineBudget(at_once, per_hour, all_at_once=all_at_once, all_per_hour=all_per_hour, sources_max=sources_max)
    now_us = 0
    kept: list[tuple[str, int]] = []
    since: list[tuple[str, int]] = []
    for source, wait_us, fails in steps:
        now_us += wait_us
        decision = budget.decide(source, "t", now_us)
        if decision.keep:
            since.append((decision.source, now_us))
        assert decision.source in (source, OTHERS)
        assert budget.sources <= sources_max
        if fails:
            budget.undo()
        else:
            budget.settle()
            kept += since
        since = []
    for name in [*{source for source, _ in kept}, None]:
        at = [at_us for source, at_us in kept if name in (None, source)]
        burst, rate = (all_at_once, all_per_hour) if name is None else (at_once, per_hour)
        for first in range(len(at)):
            for last in range(first, len(at)):
                assert (last - first + 1) * HOUR_US <= burst * HOUR_US + (at[last] - at[first]) * rate
