"""How far residuals wander by themselves: short autocorrelation, and slow ups and downs that no detector may take for a fault."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detectors.contract import BoolArray, FloatArray, IntArray

LAGS = 12
MEMORY = 2880.0
READINGS_MIN = 500
SLOW_GAIN = 1.0 / 18.0
SLOW_SDS = 3.0
Z_LEARN = 4.0


class NoiseModel:
    """Two figures of a standardised residual, learned while all is quiet.

    Attributes
    ----------
    scale : float
        c >= 1: sums of residuals spread c times as wide as independent ones would (square root of the sum of autocorrelations up to 12 lags).
    reference : float
        k for a CUSUM of ``z / c``: three standard deviations of the running mean over about 36 readings, at least `k_min`. White noise gives 0.5.

    Notes
    -----
    Bartlett weights; memory 2,880 readings; |z| is clipped to 4. Cost about 10 us a reading, state 40 doubles.

    References
    ----------
    Newey and West (1987), doi 10.2307/1913610.

    Examples
    --------
    White noise needs no widening; noise with correlation 0.5 needs about sqrt(3) = 1.7:

    >>> rng, white, red, last = np.random.default_rng(0), NoiseModel(), NoiseModel(), 0.0
    >>> for w in rng.normal(size=6000):
    ...     last = 0.5 * last + 0.75**0.5 * w
    ...     white.learn(w)
    ...     red.learn(last)
    >>> white.scale < 1.15, 1.4 < red.scale < 1.9, 0.5 <= white.reference < 0.65
    (True, True, True)
    """

    def __init__(self, k_min: float = 0.5) -> None:
        self.k_min = k_min
        self.recent = np.full(LAGS, np.nan)
        self.acov = np.zeros(LAGS + 1)
        self.count = np.zeros(LAGS + 1)
        self.slow = 0.0
        self.slow_square = 0.0
        self.slow_count = 0.0
        self._weight = np.concatenate(([1.0], 2.0 * (1.0 - np.arange(1, LAGS + 1) / (LAGS + 1))))

    @property
    def ready(self) -> bool:
        """Whether enough was seen."""
        return bool(self.count[0] >= READINGS_MIN)

    @property
    def scale(self) -> float:
        """Return c."""
        if not self.ready:
            return 1.0
        return math.sqrt(max(float((self.acov * self._weight).sum()), 1.0))

    @property
    def reference(self) -> float:
        """Return k."""
        return max(self.k_min, SLOW_SDS * math.sqrt(self.slow_square))

    def learn(self, z: float) -> None:
        """Take in a standardised residual."""
        c = self.scale
        z = min(max(z, -Z_LEARN), Z_LEARN)
        product = np.concatenate(([z * z], z * self.recent))
        good = np.isfinite(product)
        self.count = np.minimum(self.count + good, MEMORY)
        self.acov += np.where(good, (np.where(good, product, 0.0) - self.acov) / np.maximum(self.count, 1.0), 0.0)
        self.recent = np.concatenate(([z], self.recent[:-1]))
        self.slow += SLOW_GAIN * (z / c - self.slow)
        self.slow_count = min(self.slow_count + 1.0, MEMORY)
        self.slow_square += (self.slow**2 - self.slow_square) / self.slow_count

    def state(self) -> dict[str, object]:
        """Return the figures."""
        return {name: getattr(self, name) for name in _FIELDS}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        for name in _FIELDS:
            setattr(self, name, state[name])


class NoiseModels:
    """`NoiseModel` for many series at once: every figure is an array over them.

    Examples
    --------
    >>> many, one = NoiseModels(2), NoiseModel()
    >>> for w in np.random.default_rng(0).normal(size=600):
    ...     many.learn(np.array([0, 1]), np.array([w, w / 2]))
    ...     one.learn(w)
    >>> bool(many.scale[0] == one.scale), bool(many.reference()[0] == one.reference)
    (True, True)
    """

    def __init__(self, count: int, k_min: float = 0.5) -> None:
        self.k_min = k_min
        self.recent = np.full((count, LAGS), np.nan)
        self.acov = np.zeros((count, LAGS + 1))
        self.count = np.zeros((count, LAGS + 1))
        self.slow = np.zeros(count)
        self.slow_square = np.zeros(count)
        self.slow_count = np.zeros(count)
        self.scale = np.ones(count)
        self._weight = np.concatenate(([1.0], 2.0 * (1.0 - np.arange(1, LAGS + 1) / (LAGS + 1))))

    def ready(self) -> BoolArray:
        """Return of which series enough was seen."""
        return self.count[:, 0] >= READINGS_MIN

    def reference(self) -> FloatArray:
        """Return k of every series."""
        return np.maximum(self.k_min, SLOW_SDS * np.sqrt(self.slow_square))

    def learn(self, index: IntArray, z: FloatArray) -> None:
        """Take in a standardised residual of each of the series `index`."""
        c = self.scale[index]
        z = np.clip(z, -Z_LEARN, Z_LEARN)
        row = np.concatenate((z[:, None], self.recent[index]), axis=1)
        product = z[:, None] * row
        good = np.isfinite(product)
        count = np.minimum(self.count[index] + good, MEMORY)
        acov = self.acov[index]
        acov += np.where(good, (product - acov) / np.maximum(count, 1.0), 0.0)
        self.acov[index], self.count[index], self.recent[index] = acov, count, row[:, :-1]
        slow = self.slow[index]
        slow += SLOW_GAIN * (z / c - slow)
        n = np.minimum(self.slow_count[index] + 1.0, MEMORY)
        self.slow[index], self.slow_count[index] = slow, n
        self.slow_square[index] += (slow**2 - self.slow_square[index]) / n
        self._scale(index)

    def _scale(self, index: IntArray | int) -> None:
        """Work out c anew."""
        wide = np.sqrt(np.maximum((self.acov[index] * self._weight).sum(axis=-1), 1.0))
        self.scale[index] = np.where(self.count[index][..., 0] >= READINGS_MIN, wide, 1.0)

    def state(self, number: int) -> dict[str, object]:
        """Return the figures of one series."""
        figures = {name: getattr(self, name)[number] for name in _FIELDS}
        return {name: figure if np.ndim(figure) else float(figure) for name, figure in figures.items()}

    def restore(self, number: int, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        for name in _FIELDS:
            getattr(self, name)[number] = state[name]
        self._scale(number)


_FIELDS = ("recent", "acov", "count", "slow", "slow_square", "slow_count")
