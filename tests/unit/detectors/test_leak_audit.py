"""An audit on the line of pipes of the tracker's tests: growing leaks that overlap, a gauge that drifts, what a crew found, years that pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_leak_tracker import PIPES, SD, SIGNALS, line_of_pipes, noise

from detectors.snapshot import pack, unpack
from detectors.water import leak_audit
from detectors.water.leak_audit import BLOCK_DAYS, BLOCKS_MAX, FINE_DAYS, AuditRules, LeakAudit, bytes_max
from detectors.water.leak_tracker import Closing, Noise


def audit(rules: AuditRules | None = None) -> LeakAudit:
    signatures, distance = line_of_pipes()
    return LeakAudit(signatures, distance <= 300.0, np.ones(PIPES), noise(), rules or AuditRules())


def days_with(leaks: list[tuple[int, float, float, float, float]], days: int, seed: int = 1) -> Any:
    """Return daily means with leaks (pipe, m3/h, begin, full from, end)."""
    signatures, _ = line_of_pipes()
    found = np.random.default_rng(seed).normal(0, SD, (days, SIGNALS))
    at = np.arange(days) + 1.0
    for pipe, flow, begin, full, end in leaks:
        found += np.outer(flow * np.clip((at - begin) / max(full - begin, 1.0), 0, 1) * (at <= end), signatures[pipe])
    return found


def watch(found: LeakAudit, days: Any, first: int = 0) -> LeakAudit:
    for k, day in enumerate(days):
        found.step(86_400.0 * (first + k + 1), [day], True, 1)
    return found


def places(found: LeakAudit) -> list[int]:
    return sorted(int(np.argmax(found.near @ x.where)) for x in found.running())


@pytest.mark.parametrize("seed", range(5))
def test_audit_without_leaks_believes_in_none(seed: int) -> None:
    assert watch(audit(), days_with([], 150, seed)).leaks == []


@pytest.mark.parametrize("seed", range(3))
def test_audit_tells_apart_leaks_that_grow_at_the_same_time(seed: int) -> None:
    found = watch(audit(), days_with([(6, 6.0, 40, 90, 999), (20, 5.0, 55, 95, 999), (33, 4.0, 60, 110, 999)], 150, seed))
    assert [abs(a - b) <= 3 for a, b in zip(places(found), (6, 20, 33), strict=True)] == [True] * 3
    assert sum(found.flow(x) for x in found.running()) == pytest.approx(15.0, abs=1.5)


def test_audit_closes_what_has_ended_and_keeps_what_runs() -> None:
    found = watch(audit(), days_with([(8, 8.0, 30, 31, 100), (30, 6.0, 40, 60, 999)], 140))
    assert [abs(p - 30) <= 3 for p in places(found)] == [True]
    (ended,) = [x for x in found.leaks if x.end is not None]
    assert ended.closing is Closing.PATTERN_GONE
    assert ended.end == pytest.approx(100, abs=2)


def test_audit_leak_that_nobody_repairs_is_still_there_after_three_years() -> None:
    days = days_with([(20, 5.0, 40, 60, 9999)], 1100)
    found = watch(audit(AuditRules(every_days=28)), days)
    (leak,) = found.running()
    assert abs(leak.pipe - 20) <= 3
    assert found.flow(leak) == pytest.approx(5.0, abs=1.0)
    assert len(found.state()["rows"]) <= BLOCKS_MAX + FINE_DAYS + BLOCK_DAYS  # type: ignore[arg-type]


def test_audit_gauge_that_drifts_or_is_silent_is_no_leak() -> None:
    days = days_with([], 160)
    days[60:, 4] += np.linspace(0, 0.3, 100)
    days[30:50, 7] = np.nan
    found = watch(audit(), days)
    assert [x for x in found.running() if found.flow(x) > 1.0] == []


def test_audit_knows_the_hour_of_a_sudden_leak_and_of_its_end() -> None:
    """The first and the last day of a leak are mixed days: what is wrong by half a day of a large leak looks like another leak."""
    days = days_with([], 130)
    signatures, _ = line_of_pipes()
    for day, share in [(50, 0.3), *((d, 1.0) for d in range(51, 90)), (90, 0.75)]:
        days[day] += 15.0 * share * signatures[20]
    found = watch(audit(), days)
    (leak,) = found.leaks
    assert (leak.begin, leak.end) == (pytest.approx(50.7, abs=0.1), pytest.approx(90.75, abs=0.1))
    assert leak.full_m3ph == pytest.approx(15.0, abs=0.5)


def test_audit_signals_that_move_together_and_one_that_is_silent_are_no_leak() -> None:
    """A day on which all signals are off by the noise that they share says nothing of the one that is missing."""
    own, shared = np.full(SIGNALS, (0.1 * SD) ** 2), np.full((SIGNALS, SIGNALS), SD**2)
    signatures, distance = line_of_pipes()
    found = LeakAudit(signatures, distance <= 300.0, np.ones(PIPES), Noise(own, shared), AuditRules())
    rng = np.random.default_rng(3)
    days = rng.normal(0, SD, (120, 1)) * np.ones(SIGNALS) + rng.normal(0, 0.1 * SD, (120, SIGNALS))
    days[40:100, 5] = np.nan
    assert watch(found, days).leaks == []


def test_audit_of_which_nearly_all_signals_fall_silent_waits_and_goes_on() -> None:
    days = days_with([(20, 6.0, 40, 41, 999)], 260)
    days[60:130, 1:] = np.nan
    found = watch(audit(), days[:130])
    before = len(pack(found.state()))
    watch(found, days[130:], 130)
    assert len(pack(found.state())) < 3 * before
    (leak,) = found.running()
    assert abs(leak.pipe - 20) <= 3


def test_audit_takes_the_pipe_that_a_crew_found() -> None:
    days = days_with([(20, 6.0, 40, 41, 80)], 120)
    found = watch(audit(), days[:80])
    found.repaired(80 * 86_400.0, 22)
    watch(found, days[80:], 80)
    assert found.running() == []
    (leak,) = found.leaks
    assert (leak.pipe, leak.known, leak.closing) == (22, True, Closing.REPAIRED)
    assert leak.begin == pytest.approx(40, abs=2)


def test_audit_restored_goes_on_as_if_nothing_had_happened() -> None:
    days = days_with([(6, 6.0, 40, 90, 999), (20, 5.0, 55, 95, 130)], 200)
    days[70:75, 3] = np.nan
    whole, first = watch(audit(), days), watch(audit(), days[:100])
    second = audit()
    second.restore(unpack(pack(first.state())))
    watch(second, days[100:], 100)
    assert pack(second.state()) == pack(whole.state())


def test_audit_state_stays_bounded_while_leaks_come_and_go_for_years(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak_audit, "ENDED_MAX", 10)
    leaks = [(3 + (5 * k) % 34, 6.0, 20.0 + 7 * k, 21.0 + 7 * k, 26.0 + 7 * k) for k in range(25)]
    rules = AuditRules(every_days=28)
    found = watch(audit(rules), days_with(leaks, 200))
    ended = [x for x in found.leaks if x.end is not None]
    assert 5 <= len(ended) <= 10
    assert len(found.leaks) <= rules.leaks_max + 10
    assert len(pack(found.state())) <= bytes_max(PIPES, SIGNALS, rules)


def test_audit_one_gauge_that_drifts_slowly_and_far_is_left_out_and_buys_no_leak() -> None:
    days = days_with([(20, 6.0, 40, 60, 999)], 130)
    days[60:, 3] += 0.6 * SD * np.arange(70)
    found = watch(audit(), days)
    assert found.bad == [3]
    assert [abs(p - 20) <= 3 for p in places(found)] == [True]


def test_audit_steady_supply_that_shows_no_more_flow_keeps_a_wrong_pattern_from_being_a_leak() -> None:
    signatures, distance = line_of_pipes()
    rng = np.random.default_rng(3)
    pressures = days_with([(20, 1.2, 60, 61, 999)], 130)
    supply = rng.normal(0.0, 0.5, 130)

    def leaks(with_supply: bool, shown: float) -> list[float]:
        rows, a = pressures, signatures
        own = np.full(SIGNALS, SD**2)
        if with_supply:
            rows = np.column_stack((pressures, supply + shown * (np.arange(130) >= 60)))
            a, own = np.column_stack((signatures, np.ones(PIPES))), np.append(own, 0.25)
        known = Noise(own, np.zeros((len(own), len(own))), steady=with_supply)
        found = watch(LeakAudit(a, distance <= 300.0, np.ones(PIPES), known, AuditRules()), rows)
        return [found.flow(x) for x in found.running()]

    flow, seen, unseen = sum(leaks(False, 0.0)), sum(leaks(True, 1.2)), sum(leaks(True, 0.0))
    assert flow == pytest.approx(1.2, abs=0.3)
    assert seen == pytest.approx(1.2, abs=0.2)
    assert unseen < 0.8 * seen
