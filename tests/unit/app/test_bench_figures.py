"""Figures, gates and what the kernel says of a process."""

import pytest

from underway.app.bench.figures import (
    Bound,
    Figure,
    Gate,
    GateReason,
    Part,
    ProcessTimes,
    median,
    parse_proc_stat,
    parse_proc_status,
    percentile,
    ratio,
    stage_us,
)

STAT = (
    "4711 (postgres: under (bench) x) S 4700 4711 4711 0 -1 4194304 1201 77 3 0 512 88 31 19 20 0 1 0 123456 234881024 5120"
    " 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0"
)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)], ids=["p50", "p95", "p99", "most", "least"]
)
def test_percentile_of_a_hundred_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(v) for v in range(100, 0, -1)], share) == expected


def test_percentile_of_few_is_never_below_a_share_of_them() -> None:
    assert percentile([1.0, 2.0, 900.0], 0.99) == 900.0
    assert percentile([], 0.99) is None


def test_median_of_an_even_number_lies_between() -> None:
    assert median([1.0, 4.0, 2.0, 3.0]) == 2.5
    assert median([]) is None


def test_ratio_with_something_missing_is_missing() -> None:
    assert ratio(8.0, 10.0) == 0.8
    assert (ratio(None, 10.0), ratio(8.0, None), ratio(8.0, 0.0)) == (None, None, None)


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        (Gate("r", 0.8, Bound.AT_LEAST, 0.8), GateReason.HELD),
        (Gate("r", 0.7999, Bound.AT_LEAST, 0.8), GateReason.MISSED),
        (Gate("ms", 400.0, Bound.AT_MOST, 400.0), GateReason.HELD),
        (Gate("ms", 400.1, Bound.AT_MOST, 400.0), GateReason.MISSED),
        (Gate("r", None, Bound.AT_LEAST, 0.8), GateReason.NOT_MEASURED),
        (Gate("r", float("nan"), Bound.AT_MOST, 0.8), GateReason.NOT_MEASURED),
        (Gate("r", 0.9, Bound.AT_LEAST, 0.8, flaw=GateReason.ROWS_DIFFER), GateReason.ROWS_DIFFER),
        (Gate("MB", 1.0, Bound.AT_MOST, 600.0, flaw=GateReason.NOT_FULL_SIZE), GateReason.NOT_FULL_SIZE),
    ],
    ids=["at-limit", "below", "at-most-limit", "above", "nothing", "not-a-number", "rows-differ", "small-town"],
)
def test_gate_figure_and_flaw_give_a_reason(gate: Gate, reason: GateReason) -> None:
    assert gate.reason is reason
    assert gate.facts()["pass"] is (reason is GateReason.HELD)


def test_part_with_one_missed_gate_does_not_pass() -> None:
    part = Part("p", "title", figures=[Figure("x", "ms", (3.0, 1.0, 2.0))])
    part.gates = [Gate("a", 1.0, Bound.AT_LEAST, 0.5), Gate("b", 1.0, Bound.AT_LEAST, 2.0)]
    part.count("stored", 3)
    part.count("stored", 4)
    facts = part.facts()
    assert facts["pass"] is False
    assert [gate["pass"] for gate in facts["gates"]] == [True, False]
    assert facts["figures"][0]["repetitions"] == [3.0, 1.0, 2.0]
    assert facts["figures"][0]["median"] == 2.0
    assert facts["counts"] == {"stored": 7}


def test_parse_proc_stat_name_with_brackets_and_spaces_is_passed_over() -> None:
    assert parse_proc_stat(STAT, 100) == ProcessTimes(4700, 6.0, 0.5)


def test_parse_proc_status_takes_sizes_and_nothing_else() -> None:
    text = "Name:\tpython\nUid:\t0\t0\t0\t0\nVmHWM:\t  614400 kB\nVmRSS:\t  512000 kB\nThreads:\t5\n"
    assert parse_proc_status(text) == {"VmHWM": 614400 * 1024, "VmRSS": 512000 * 1024}


def test_stage_us_counts_only_what_was_spent_since() -> None:
    before = {"decode": {"cpu_s": 1.0, "wall_s": 2.0}}
    now = {"decode": {"cpu_s": 1.5, "wall_s": 9.0}, "copy": {"cpu_s": 0.25, "wall_s": 1.0}}
    assert stage_us(now, before, 100_000) == {"decode": 5.0, "copy": 2.5}
    assert stage_us(now, before, 0) == {}
