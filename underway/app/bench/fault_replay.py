"""What the benchmarks of stations share: a replay through a bank, its cost, and fixed limits to compare with."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.bank import Bank
from simulators.water_faults import DAY_STEPS, STEP_S
from underway.model import FindingPhase, ReadingBatch

BEGIN_US = 1_771_200_000_000_000  # 2026-02-16T00:00Z, a Monday
AFTER_STEPS = 36
"""What is raised up to three hours after a fault ended still counts as found."""
Alarm = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a detector costs with its lane: microseconds of CPU a grid time, bytes of state at the end."""

    us_a_step: float
    state_bytes: int

    def dearest(self, other: Cost) -> Cost:
        """Return the larger of both figures each."""
        return Cost(max(self.us_a_step, other.us_a_step), max(self.state_bytes, other.state_bytes))


def judged_by(bank: Bank, value: NDArray[np.float64]) -> tuple[list[Alarm], Cost]:
    """Return (kind, step) of every RAISE of a bank that is fed ``value``, shape (steps, channels), channel ids from 1 on; and what it cost."""
    alarms: list[Alarm] = []
    cpu_s = 0.0
    for first in range(0, len(value), DAY_STEPS):
        row, column = np.nonzero(np.isfinite(value[first : first + DAY_STEPS]))
        at = BEGIN_US + (first + row) * STEP_S * 1_000_000
        batch = ReadingBatch.from_columns(column + 1, at, value[first + row, column])
        began = time.process_time()
        out = bank.step(batch)
        cpu_s += time.process_time() - began
        raised = [f for f in out.findings if f.phase is FindingPhase.RAISE]
        alarms += [(f.kind.value, (f.detected_us - BEGIN_US) // (STEP_S * 1_000_000)) for f in raised]
    state = sum(len(bank.part_state(name)) for name in bank.parts())
    return alarms, Cost(1e6 * cpu_s / len(value), state)


def lasting(on: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Return where something holds for the ``count``-th time in a row."""
    return np.convolve(on, np.ones(count))[: len(on)] >= count


def begins(kind: str, on: NDArray[np.bool_], steps: int) -> list[Alarm]:
    """Return where a condition begins, once a day at most; each element stands for so many ``steps``."""
    alarms: list[Alarm] = []
    for i in (np.flatnonzero(on) + 1) * steps:
        if not alarms or i - alarms[-1][1] >= DAY_STEPS:
            alarms.append((kind, int(i)))
    return alarms
