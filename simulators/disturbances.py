"""What happens in a network that is no leak: water that is drawn for a while, and gauges that err."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Draw:
    """Water drawn at a node: a fire, a main that is flushed, a tank that overflows, a new customer (``days`` very long and ``by_day``).

    Attributes
    ----------
    node : str
    start_day, days : float
        When it begins, in days since the begin of the simulation, and how long it lasts.
    m3ph : float
        Mean flow.
    by_day : bool
        Whether it follows the hours of the day as customers do (0.3 of the mean at night), instead of running steadily.
    """

    node: str
    start_day: float
    days: float
    m3ph: float
    by_day: bool = False

    def flow_m3ph(self, day: Floats) -> Floats:
        """Return what is drawn at each instant.

        Examples
        --------
        >>> Draw("n1", 1.0, 0.5, 60.0).flow_m3ph(np.array([0.9, 1.0, 1.4, 1.5])).tolist()
        [0.0, 60.0, 60.0, 0.0]
        """
        runs = (day >= self.start_day) & (day < self.start_day + self.days)
        shape = 1.0 - 0.7 * np.cos(2 * np.pi * (day - 3.0 / 24)) if self.by_day else np.ones(len(day))
        return np.asarray(np.where(runs, self.m3ph * shape, 0.0), np.float64)


@dataclass(frozen=True, slots=True)
class GaugeFault:
    """A gauge that errs: `apply` changes its readings."""

    node: str
    start_day: float
    days: float
    change: Callable[[Floats, Floats, np.random.Generator], Floats]

    def apply(self, day: Floats, value_m: Floats, rng: np.random.Generator) -> Floats:
        """Return the readings as the gauge gives them; `day` are their instants."""
        hit = (day >= self.start_day) & (day < self.start_day + self.days)
        found = value_m.copy()
        if hit.any():
            found[hit] = self.change(day[hit] - self.start_day, value_m[hit], rng)
        return found

    @classmethod
    def drifting(cls, node: str, start_day: float, days: float, end_m: float) -> GaugeFault:
        """Return a gauge that drifts to an error of `end_m` and is then set right."""
        return cls(node, start_day, days, lambda since, value, rng: value + end_m * since / days)

    @classmethod
    def stuck(cls, node: str, start_day: float, days: float) -> GaugeFault:
        """Return a gauge that repeats what it read at the begin."""
        return cls(node, start_day, days, lambda since, value, rng: np.full(len(value), value[0]))

    @classmethod
    def silent(cls, node: str, start_day: float, days: float) -> GaugeFault:
        """Return a gauge that says nothing."""
        return cls(node, start_day, days, lambda since, value, rng: np.full(len(value), np.nan))

    @classmethod
    def late_clock(cls, node: str, start_day: float, days: float, steps: int) -> GaugeFault:
        """Return a gauge whose clock is `steps` readings behind."""
        return cls(node, start_day, days, lambda since, value, rng: np.roll(value, steps))


Disturbance = Draw | GaugeFault
