"""Where is the leak: pressure falls since its onset, compared with what a hydraulic model says of a leak on every pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import BoolArray, FloatArray

MODEL_ERROR = 0.2
"""Relative error of a signature at one sensor, independent between sensors."""
SCALE_SD = 0.4
"""Relative error of a signature as a whole: it was computed for one hour of the day and one roughness."""
FLOOR_KPA = 0.3
SHRINK = 0.02
BLOCK_STEPS = 12
BLOCKS_KEPT = 240.0
MOMENTS_KEPT = 2880.0
BLOCKS_MIN = 24
BLOCKS_COUNTED = 4.0
"""Slow pressure changes do not average out: the mean since onset is never trusted more than this many hours of independent noise."""
MASS = 0.95
CANDIDATES_MAX = 40


@dataclass(frozen=True, slots=True)
class PressureEvidence:
    """Mean pressure residuals since onset, with what the inflow explains taken out.

    Attributes
    ----------
    fall_kpa : ndarray of float64, shape (s,)
        Positive is a fall beyond the usual; NaN where the sensor said nothing.
    usual_kpa_per_m3ph : ndarray of float64, shape (s,)
        Usual change of pressure with 1 m3/h more inflow (mostly negative); what was taken out.
    covariance : ndarray of float64, shape (s, s)
        Noise of ``fall_kpa``, kPa^2.
    """

    fall_kpa: FloatArray
    usual_kpa_per_m3ph: FloatArray
    covariance: FloatArray


def locate(
    evidence: PressureEvidence, excess_m3ph: float, excess_sd: float, fall_kpa_per_m3ph: FloatArray, prior: FloatArray | None = None
) -> FloatArray:
    """Return the posterior probability of every pipe, shape (p,), summing to 1.

    Parameters
    ----------
    evidence : PressureEvidence
    excess_m3ph, excess_sd : float
        Leak flow as the inflow shows it, and its standard error, m3/h.
    fall_kpa_per_m3ph : ndarray of float64, shape (p, s)
        Signatures, in the sensor order of `evidence`.
    prior : ndarray of float64, shape (p,), optional
        Weight of each pipe, above 0 (its length); uniform when left out.

    Notes
    -----
    For pipe k with signature ``s_k``, usual response ``b`` and leak flow Q the mean fall is ``Q (s_k + b)``. Its covariance is the noise, plus the
    error of the flow along ``s_k + b`` and of the signature's scale along ``s_k``, plus an independent model error ``(0.2 Q s_kj)^2`` a sensor, so
    that a model that is a fifth wrong does not point with certainty. Cost O(p s^3), about 1 ms for 200 pipes and 10 sensors. Blind to: two leaks in
    one zone (one place between them), a closed valve that the model has open, a leak that no sensor feels (the posterior stays near the prior),
    sensors that were moved.

    References
    ----------
    Poulakis, Valougeorgis, Papadimitriou (2003), Leakage detection in water pipe networks using a Bayesian probabilistic framework,
    doi 10.1016/S0266-8920(03)00045-6.

    Examples
    --------
    Two pipes, two sensors; each pipe pulls down its own sensor by 1 kPa a m3/h. With 10 m3/h lost sensor 1 fell by 10 kPa:

    >>> seen = PressureEvidence(np.array([10.0, 0.0]), np.zeros(2), np.eye(2))
    >>> locate(seen, 10.0, 1.0, np.eye(2)).round(3).tolist()
    [1.0, 0.0]
    """
    ok = np.isfinite(evidence.fall_kpa)
    weight = np.ones(len(fall_kpa_per_m3ph)) if prior is None else np.asarray(prior, np.float64)
    log_prior = np.log(weight / weight.sum())
    if not ok.any() or not np.isfinite(excess_m3ph) or excess_m3ph <= 0:
        return np.asarray(np.exp(log_prior), np.float64)
    signature = fall_kpa_per_m3ph[:, ok]
    direction = signature + evidence.usual_kpa_per_m3ph[ok]
    noise = evidence.covariance[np.ix_(ok, ok)]
    covariance = noise[None] + excess_sd**2 * direction[:, :, None] * direction[:, None, :]
    covariance += (SCALE_SD * excess_m3ph) ** 2 * signature[:, :, None] * signature[:, None, :]
    index = np.arange(int(ok.sum()))
    covariance[:, index, index] += (MODEL_ERROR * excess_m3ph * signature) ** 2 + FLOOR_KPA**2
    miss = evidence.fall_kpa[ok] - excess_m3ph * direction
    solved = np.linalg.solve(covariance, miss[:, :, None])[:, :, 0]
    _, log_det = np.linalg.slogdet(covariance)
    log_p = -0.5 * ((miss * solved).sum(axis=1) + log_det) + log_prior
    p = np.exp(log_p - log_p.max())
    return np.asarray(p / p.sum(), np.float64)


def most_probable(probability: FloatArray, mass: float = MASS, count_max: int = CANDIDATES_MAX) -> list[int]:
    """Return the indices of the most probable entries, best first, that together hold `mass`, at most `count_max`.

    Examples
    --------
    >>> most_probable(np.array([0.02, 0.6, 0.38]))
    [1, 2]
    """
    order = np.argsort(-probability, kind="stable")
    needed = int(np.searchsorted(np.cumsum(probability[order]), mass)) + 1
    return [int(i) for i in order[: min(needed, count_max)]]


class PressureTracker:
    """Learns how pressures usually go with inflow and tank levels, and sums up their residuals while a leak is open.

    Parameters
    ----------
    sensors, regressors : int
        Number of pressure channels s, and of explaining series r (net inflow first, then tank levels).
    floor_kpa : ndarray of float64, shape (s,)
        Resolution of each sensor over sqrt(12).

    Notes
    -----
    Regression by running second moments (memory 10 days), solved anew every hour; noise as the covariance of hourly means of what is left,
    shrunk by 0.02 to its diagonal. Cost O(s r^2) a step. State about s (r^2 + r + s) doubles.
    """

    def __init__(self, sensors: int, regressors: int, floor_kpa: FloatArray) -> None:
        self.floor = floor_kpa
        self.xx = np.zeros((sensors, regressors, regressors))
        self.xp = np.zeros((sensors, regressors))
        self.moments = np.zeros(sensors)
        self.slope = np.zeros((sensors, regressors))
        self.block = np.zeros(sensors)
        self.block_count = np.zeros(sensors)
        self.block_steps = 0
        self.noise = np.zeros((sensors, sensors))
        self.blocks = np.zeros((sensors, sensors))
        self.fall = np.zeros(sensors)
        self.flow = np.zeros(sensors)
        self.count = np.zeros(sensors)

    def left_over(self, pressure: FloatArray, explaining: FloatArray) -> FloatArray:
        """Return the pressure residuals less what the residuals of the explaining series usually do to them, shape (s,)."""
        return np.asarray(pressure - self.slope @ np.where(np.isfinite(explaining), explaining, 0.0), np.float64)

    def learn(self, pressure: FloatArray, explaining: FloatArray) -> None:
        """Take one row of residuals in, from a time without a leak."""
        if not np.isfinite(explaining).all():
            return
        good: BoolArray = np.isfinite(pressure)
        p = np.where(good, pressure, 0.0)
        rest = np.where(good, self.left_over(p, explaining), 0.0)
        self.moments += good
        gain = np.where(good, 1.0 / np.minimum(np.maximum(self.moments, 1.0), MOMENTS_KEPT), 0.0)
        self.xx += gain[:, None, None] * (np.outer(explaining, explaining)[None] - self.xx)
        self.xp += gain[:, None] * (p[:, None] * explaining[None] - self.xp)
        self.block += rest
        self.block_count += good
        self.block_steps += 1
        if self.block_steps == BLOCK_STEPS:
            self._close_block()

    def _close_block(self) -> None:
        full = self.block_count >= BLOCK_STEPS / 2
        mean = self.block / np.maximum(self.block_count, 1.0)
        pair = full[:, None] & full[None]
        if self.slope.any():
            self.blocks += pair
            gain = np.where(pair, 1.0 / np.minimum(np.maximum(self.blocks, 1.0), BLOCKS_KEPT), 0.0)
            self.noise += gain * (np.outer(mean, mean) - self.noise)
        self.block[:], self.block_count[:], self.block_steps = 0.0, 0.0, 0
        known = self.moments >= MOMENTS_KEPT / 10
        if known.any():
            diagonal = np.einsum("sii->si", self.xx)
            ridge = 1e-3 * diagonal + 1e-12
            ridged = self.xx + np.eye(self.xx.shape[1])[None] * ridge[:, :, None]
            solved = np.linalg.solve(ridged, self.xp[:, :, None])[:, :, 0]
            self.slope = np.where(known[:, None], solved, 0.0)

    def open(self) -> None:
        """Begin to sum up."""
        self.fall[:], self.flow[:], self.count[:] = 0.0, 0.0, 0.0

    def add(self, pressure: FloatArray, explaining: FloatArray) -> None:
        """Take one row of residuals in, from a time with a leak."""
        if not np.isfinite(explaining[0]):
            return
        good = np.isfinite(pressure)
        self.fall -= np.where(good, self.left_over(np.where(good, pressure, 0.0), explaining), 0.0)
        self.flow += np.where(good, explaining[0], 0.0)
        self.count += good

    def sd(self) -> FloatArray:
        """Return the standard deviation of an hourly mean of what is left of each sensor, kPa; floor where little is known."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.noise), 0.0) + self.floor**2 + FLOOR_KPA**2), np.float64)

    def evidence(self) -> PressureEvidence | None:
        """Return the evidence since `open`, None when too little was learned or seen."""
        seen = self.count > 0
        if not seen.any() or not (np.diag(self.blocks) >= BLOCKS_MIN).any():
            return None
        seen &= np.diag(self.blocks) >= BLOCKS_MIN
        n = np.where(seen, np.maximum(self.count, 1.0), 1.0)
        hours = np.minimum(n / BLOCK_STEPS, BLOCKS_COUNTED)
        spread = self.noise * (1.0 - SHRINK) + np.diag(np.diag(self.noise)) * SHRINK + np.diag(self.floor**2)
        covariance = spread / np.sqrt(np.outer(hours, hours))
        return PressureEvidence(np.where(seen, self.fall / n, np.nan), self.slope[:, 0], covariance)

    def state(self) -> dict[str, object]:
        """Return the arrays."""
        return {name: getattr(self, name) for name in _TRACKED}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        for name in _TRACKED:
            setattr(self, name, state[name])


_TRACKED: Sequence[str] = (
    "xx",
    "xp",
    "moments",
    "slope",
    "block",
    "block_count",
    "block_steps",
    "noise",
    "blocks",
    "fall",
    "flow",
    "count",
)


def align(pipe_channel_ids: Sequence[int], channel_ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (columns of the signatures, positions in `channel_ids`) of the channels that both know.

    Examples
    --------
    >>> [a.tolist() for a in align((7, 9, 11), (11, 7))]
    [[0, 2], [1, 0]]
    """
    where = {c: j for j, c in enumerate(channel_ids)}
    pairs = [(i, where[c]) for i, c in enumerate(pipe_channel_ids) if c in where]
    return np.array([i for i, _ in pairs], np.int64), np.array([j for _, j in pairs], np.int64)
