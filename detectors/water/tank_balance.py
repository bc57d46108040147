"""The balance of a tank by the hour: what came in, less what went out, less what the level says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.contract import NEVER_US, FloatArray
from detectors.cusum import cusum_threshold
from detectors.regression import BayesForecast
from detectors.shift import ShiftMonitor, ShiftReport, ShiftRules
from underway.model import DAY_US, HOUR_US, MINUTE_US

JOIN_US = 10 * MINUTE_US
LEARN_DAYS = 10
LATE_HOURS = 6
YEARS_PER_FALSE = 30.0
HOURS_MIN = 3
UNIT_MPH = 0.1
EFFECT_MPH = 0.005
PRIOR_SD = 0.05
JUMP_M = 0.05
CLIP_SD, MEMORY, STATISTICS_MIN = 4.0, 1440.0, 100.0
STANDS_HOURS = 3


@dataclass(frozen=True, slots=True)
class HourVerdict:
    """What one hour gave: missing water in m3/h as seen, as expected, its spread, and what happened, if anything."""

    observed: float
    expected: float
    sd: float
    report: ShiftReport | None


class TankBalance:
    """Watch ``r = sum(q) - A dh/dt`` over full hours for a lasting gap.

    Parameters
    ----------
    area_m2 : float
        Above 0.
    noise_m : float
        Least noise of the gauge.

    Notes
    -----
    Volumes by the trapezoid rule between readings at most 10 min apart; the level at the full hour is the median of three. ``r`` is expected to be
    ``b0 + b1 V_in + b2 V_out`` (an offset, and gain errors of the meters), learned by `BayesForecast` six hours late and not while anything is open.
    The residual goes to `ShiftMonitor`, both sides, at least ``A x 5 mm/h`` and 3 h, once in 30 years by chance. An hour with a gap, at the
    weir, or in which the gauge jumps by 5 cm, is not judged.

    Blind to: a leak in the first 10 days (it is learned) or one that grows over weeks; a leak below ``A x 5 mm/h``; a gauge that jumps once and is
    right afterwards; which of gauge, meter and tank it is, except where the gauge stands still.

    Examples
    --------
    100 m2; 50 m3/h go in and the level rises by 0.5 m/h: it closes.

    >>> balance = TankBalance(100.0, 0.001)
    >>> hours = [balance.step(i * 300_000_000, 1 + i / 24, np.array([50.0]), False, False, False, False) for i in range(27)]
    >>> [round(abs(v.observed), 6) for v in hours if v is not None]
    [0.0]
    """

    def __init__(self, area_m2: float, noise_m: float) -> None:
        self.area_m2, self.noise_m = area_m2, noise_m
        self.unit = UNIT_MPH * area_m2
        self.threshold = cusum_threshold(YEARS_PER_FALSE * 365 * 24)
        self.monitor = ShiftMonitor(ShiftRules(self.threshold, (1, -1), HOURS_MIN, EFFECT_MPH / UNIT_MPH, 4, 48))
        self.forecast = BayesForecast(3, PRIOR_SD)
        self.volume = np.zeros(2)
        self.last_us = NEVER_US
        self.last = np.zeros(2)
        self.unfit_us = NEVER_US
        self.recent = np.empty((0, 4))
        self.edge_us = NEVER_US
        self.edge_m = math.nan
        self.edges = np.empty(0)
        self.first_us = NEVER_US
        self.square, self.squares, self.offset = 0.0, 0.0, 0.0
        self.waiting: list[tuple[int, FloatArray, float]] = []

    def step(
        self, at: int, level: float, parts: FloatArray, at_weir: bool, historical: bool, frozen: bool, held: bool
    ) -> HourVerdict | None:  # fmt: skip
        """Take one grid time; at a full hour say what the hour gave.

        Parameters
        ----------
        at : int
        level : float
            In m.
        parts : ndarray of float64
            Flow of every meter in m3/h, into the tank positive; NaN is a gap.
        at_weir, historical, frozen, held : bool
        """
        if self.first_us == NEVER_US:
            self.first_us = at
        flow = np.array([np.maximum(parts, 0.0).sum(), np.minimum(parts, 0.0).sum()])
        if not np.isfinite(flow).all():
            return None
        if self.last_us == NEVER_US or at - self.last_us > JOIN_US:
            self.recent, self.edge_us = np.empty((0, 4)), NEVER_US
        else:
            more = (flow + self.last) / 2.0 * ((at - self.last_us) / HOUR_US)
            self.volume = self.volume + more
            # no leak takes so much in minutes: the gauge jumped, and the hour says nothing
            jumped = abs(level - self.recent[-1, 1] - more.sum() / self.area_m2) > JUMP_M
            at_weir = at_weir or jumped
        self.last_us, self.last = at, flow
        if at_weir:
            self.unfit_us = at
        self.recent = np.concatenate((self.recent, [[float(at), level, *self.volume]]))[-3:]
        # the median of three stands at the middle one, five minutes ago
        return self._edge(at, historical, frozen, held) if at % HOUR_US == 0 else None

    def _edge(self, at: int, historical: bool, frozen: bool, held: bool) -> HourVerdict | None:
        if len(self.recent) < 3:
            self.edge_us = NEVER_US
            return None
        level, before = float(np.median(self.recent[:, 1])), self.recent[1, 2:].copy()
        volume, rise, fit = before, level - self.edge_m, self.edge_us == at - HOUR_US and self.unfit_us < self.edge_us
        # volumes begin anew at every edge, so that they stay small
        self.volume = self.volume - before
        self.recent[:, 2:] -= before
        self.edge_us, self.edge_m = at, level
        self.edges = np.append(self.edges, level)[-STANDS_HOURS - 1 :]
        return self._hour(at, volume, rise, historical, frozen, held) if fit else None

    def _hour(self, at: int, volume: FloatArray, rise: float, historical: bool, frozen: bool, held: bool) -> HourVerdict | None:
        x = np.concatenate(([1.0], volume / self.unit))
        y = (float(volume.sum()) - self.area_m2 * rise) / self.unit
        mean, widen = self.forecast.predict(x)
        mean += self.offset
        floor = 1.5 * self.noise_m / UNIT_MPH
        sd = math.hypot(math.sqrt(self.square) * widen, floor, PRIOR_SD * math.sqrt(max(widen**2 - 1.0, 0.0)))
        report = None
        # a gauge that still stands cannot say that the gap closed
        waits = self.monitor.open is not None and self.stands
        if self.squares >= STATISTICS_MIN and not waits:
            ready = at - self.first_us >= LEARN_DAYS * DAY_US
            report = self.monitor.judge(at, y - mean, sd, y * self.unit, mean * self.unit, ready, historical, learn=not held)
        frozen = frozen or self.monitor.open is not None
        if not frozen:
            self.waiting.append((at, x, y - self.offset))
            while len(self.waiting) > LATE_HOURS:
                self._learn(*self.waiting.pop(0)[1:], floor)
        if self.squares < STATISTICS_MIN:
            return HourVerdict(y * self.unit, math.nan, math.nan, None)
        if report is not None:
            report.sd *= self.unit
        return HourVerdict(y * self.unit, mean * self.unit, sd * self.unit, report)

    def _learn(self, x: FloatArray, y: float, floor: float) -> None:
        mean, widen = self.forecast.predict(x)
        error = y - mean
        if self.squares >= STATISTICS_MIN:
            limit = CLIP_SD * max(math.sqrt(self.square) * widen, floor)
            error = min(max(error, -limit), limit)
        self.squares = min(self.squares + 1.0, MEMORY)
        self.square += (error**2 / widen**2 - self.square) / self.squares
        self.forecast.learn(x, mean + error)

    @property
    def stands(self) -> bool:
        """Whether the gauge said the same at the last full hours."""
        return len(self.edges) > STANDS_HOURS and float(np.ptp(self.edges)) <= self.noise_m

    def cause(self, side: int) -> str:
        """Return ``gauge_stands``, ``missing`` or ``unmetered``."""
        if self.stands:
            return "gauge_stands"
        return "missing" if side > 0 else "unmetered"

    def forget(self, at_us: int) -> None:
        """Drop what is not learned yet from `at_us` on."""
        self.waiting = [w for w in self.waiting if w[0] < at_us]

    def released(self, cancelled: bool) -> None:
        """Take the end of the last hold into account; `cancelled` says that a gap that stands is normal."""
        if cancelled:
            self.offset += self.monitor.dismiss()
        if self.monitor.open is None:
            self.monitor.reset()

    def state(self) -> dict[str, object]:
        """Return everything that the next step depends on."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "waiting": [list(w) for w in self.waiting],
            "monitor": self.monitor.state(),
            "forecast": self.forecast.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.waiting = [(at, x, y) for at, x, y in state["waiting"]]
        self.monitor.restore(state["monitor"])
        self.forecast.restore(state["forecast"])


_PLAIN = (
    "volume", "last_us", "last", "unfit_us", "recent", "edge_us", "edge_m", "edges", "first_us", "square", "squares", "offset",
)  # fmt: skip
