"""Where is the leak: pressure falls since its onset, compared with what a hydraulic model says of a leak on every pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import BoolArray, FloatArray, IntArray
from detectors.segments import ranges

MODEL_ERROR = 0.2
"""Relative error of a signature at one sensor, independent between sensors."""
SCALE_SD = 0.4
"""Relative error of a signature as a whole: it was computed for one hour of the day and one roughness."""
FLOOR_KPA = 0.3
SHRINK = 0.02
BLOCK_STEPS = 12
BLOCKS_KEPT = 240
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
    """Learns how the pressures of zones usually go with inflow and tank levels, and sums up their residuals while a leak is open.

    Parameters
    ----------
    sensors : sequence of int
        Number of pressure channels s of every zone; their series stand one zone after the other.
    regressors : int
        Number of explaining series r of every zone (net inflow first, then tank levels).
    floor_kpa : ndarray of float64
        Resolution of each sensor over sqrt(12).

    Notes
    -----
    Regression by running second moments (memory 10 days), solved anew every hour; noise as the covariance of hourly means of what is left,
    shrunk by 0.02 to its diagonal. Cost O(s r^2) a step, and O(s^2) a zone and hour. State about s (r^2 + r) doubles and 5 s^2 bytes a zone.
    """

    def __init__(self, sensors: Sequence[int], regressors: int, floor_kpa: FloatArray) -> None:
        self.count_of = np.array(sensors, np.int64)
        self.start = np.cumsum(self.count_of) - self.count_of
        total = int(self.count_of.sum())
        self.floor = floor_kpa
        self.xx = np.zeros((total, regressors, regressors))
        self.xp = np.zeros((total, regressors))
        self.moments = np.zeros(total)
        self.slope = np.zeros((total, regressors))
        self.block = np.zeros(total)
        self.block_count = np.zeros(total)
        self.block_steps = np.zeros(len(self.count_of), np.int64)
        self.noise = [np.zeros((s, s), np.float32) for s in sensors]
        self.blocks = [np.zeros((s, s), np.uint8) for s in sensors]
        self.fall = np.zeros(total)
        self.flow = np.zeros(total)
        self.count = np.zeros(total)

    def of(self, zone: int) -> slice:
        """Return the sensors of one zone."""
        start = int(self.start[zone])
        return slice(start, start + int(self.count_of[zone]))

    def learn(self, zones: IntArray, pressure: FloatArray, explaining: FloatArray) -> None:
        """Take residuals in, from a time without a leak.

        Parameters
        ----------
        zones : ndarray of int64, shape (n,)
            Ascending.
        pressure : ndarray of float64
            Of all sensors of the first zone, then of the second, and so on; NaN is a gap.
        explaining : ndarray of float64, shape (n, r)
        """
        whole = np.isfinite(explaining).all(axis=1)
        if not whole.all():
            pressure = pressure[np.repeat(whole, self.count_of[zones])]
            zones, explaining = zones[whole], explaining[whole]
        if not len(zones):
            return
        at = ranges(self.start[zones], self.count_of[zones])
        x = explaining.repeat(self.count_of[zones], axis=0)
        good: BoolArray = np.isfinite(pressure)
        p = np.where(good, pressure, 0.0)
        rest = np.where(good, p - (self.slope[at] * x).sum(axis=1), 0.0)
        moments = self.moments[at] + good
        self.moments[at] = moments
        gain = np.where(good, 1.0 / np.clip(moments, 1.0, MOMENTS_KEPT), 0.0)
        self.xx[at] += gain[:, None, None] * (x[:, :, None] * x[:, None, :] - self.xx[at])
        self.xp[at] += gain[:, None] * (p[:, None] * x - self.xp[at])
        self.block[at] += rest
        self.block_count[at] += good
        self.block_steps[zones] += 1
        full = zones[self.block_steps[zones] == BLOCK_STEPS]
        if len(full):
            self._close_blocks(full)

    def _close_blocks(self, zones: IntArray) -> None:
        for zone in zones.tolist():
            self._learn_noise(zone)
        self.block_steps[zones] = 0
        at = ranges(self.start[zones], self.count_of[zones])
        self.block[at], self.block_count[at] = 0.0, 0.0
        at = at[self.moments[at] >= MOMENTS_KEPT / 10]
        if len(at):
            xx = self.xx[at]
            index = np.arange(xx.shape[1])
            xx[:, index, index] += 1e-3 * xx[:, index, index] + 1e-12
            self.slope[at] = np.linalg.solve(xx, self.xp[at][:, :, None])[:, :, 0] if len(index) > 1 else self.xp[at] / xx[:, 0]

    def _learn_noise(self, zone: int) -> None:
        of = self.of(zone)
        if not self.slope[of].any():
            return
        count = self.block_count[of]
        full = count >= BLOCK_STEPS / 2
        mean = (self.block[of] / np.maximum(count, 1.0)).astype(np.float32)
        noise, blocks = self.noise[zone], self.blocks[zone]
        if full.all():
            np.minimum(blocks + np.uint8(1), BLOCKS_KEPT, out=blocks)
            noise += (np.outer(mean, mean) - noise) / blocks
            return
        pair = full[:, None] & full[None]
        np.minimum(blocks + pair, BLOCKS_KEPT, out=blocks, casting="unsafe")
        noise += np.where(pair, (np.outer(mean, mean) - noise) / np.maximum(blocks, 1), 0.0).astype(np.float32)

    def open(self, zone: int) -> None:
        """Begin to sum up."""
        of = self.of(zone)
        self.fall[of], self.flow[of], self.count[of] = 0.0, 0.0, 0.0

    def add(self, zone: int, pressure: FloatArray, explaining: FloatArray) -> None:
        """Take one row of residuals of a zone in, shapes (s,) and (r,), from a time with a leak."""
        if not np.isfinite(explaining[0]):
            return
        of = self.of(zone)
        good = np.isfinite(pressure)
        usual = (self.slope[of] * np.where(np.isfinite(explaining), explaining, 0.0)).sum(axis=1)
        self.fall[of] -= np.where(good, pressure - usual, 0.0)
        self.flow[of] += np.where(good, explaining[0], 0.0)
        self.count[of] += good

    def sd(self, zone: int) -> FloatArray:
        """Return the standard deviation of an hourly mean of what is left of each sensor, kPa; floor where little is known."""
        noise = np.diag(self.noise[zone]).astype(np.float64)
        return np.asarray(np.sqrt(np.maximum(noise, 0.0) + self.floor[self.of(zone)] ** 2 + FLOOR_KPA**2), np.float64)

    def evidence(self, zone: int) -> PressureEvidence | None:
        """Return the evidence since `open`, None when too little was learned or seen."""
        of = self.of(zone)
        count = self.count[of]
        seen = count > 0
        if not seen.any() or not (np.diag(self.blocks[zone]) >= BLOCKS_MIN).any():
            return None
        seen &= np.diag(self.blocks[zone]) >= BLOCKS_MIN
        n = np.where(seen, np.maximum(count, 1.0), 1.0)
        hours = np.minimum(n / BLOCK_STEPS, BLOCKS_COUNTED)
        noise = self.noise[zone].astype(np.float64)
        spread = noise * (1.0 - SHRINK) + np.diag(np.diag(noise)) * SHRINK + np.diag(self.floor[of] ** 2)
        covariance = spread / np.sqrt(np.outer(hours, hours))
        return PressureEvidence(np.where(seen, self.fall[of] / n, np.nan), self.slope[of, 0], covariance)

    def state(self, zone: int) -> dict[str, object]:
        """Return the arrays of one zone."""
        of = self.of(zone)
        own = {"steps": int(self.block_steps[zone]), "noise": self.noise[zone], "blocks": self.blocks[zone]}
        return {**{name: getattr(self, name)[of] for name in _TRACKED}, **own}

    def restore(self, zone: int, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        of = self.of(zone)
        for name in _TRACKED:
            getattr(self, name)[of] = state[name]
        self.block_steps[zone], self.noise[zone], self.blocks[zone] = state["steps"], state["noise"], state["blocks"]


_TRACKED: Sequence[str] = ("xx", "xp", "moments", "slope", "block", "block_count", "fall", "flow", "count")


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
