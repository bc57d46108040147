"""A covariance as the sum of known parts of unknown size, by maximum likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.contract import FloatArray

ITERATIONS = 400
TOLERANCE = 1e-6


def fit_parts(rows: FloatArray, own: FloatArray, parts: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return (own variances, shared covariance) under which `rows` are likeliest.

    Parameters
    ----------
    rows : ndarray, shape (n, m)
        Independent, mean 0; rows with a gap are left out.
    own : ndarray, shape (m,)
        Variances that signals have for themselves, up to a common factor.
    parts : sequence of ndarray, shape (m, m)
        Shared covariances, each up to a factor; positive semidefinite.

    Notes
    -----
    Model: ``cov = a0 diag(own) + sum a_k parts[k]``, ``a >= 0``; multiplicative fixed-point steps of the score equations, which keep a positive.
    With no whole row, `own` and nothing shared. Cost O(iterations m^3).

    Examples
    --------
    Two signals that always move together, and nothing of their own:

    >>> rng = np.random.default_rng(1)
    >>> rows = 2.0 * rng.normal(size=(4000, 1)) * np.ones((1, 2)) + 0.1 * rng.normal(size=(4000, 2))
    >>> own, shared = fit_parts(rows, np.ones(2), [np.ones((2, 2))])
    >>> own.round(2).tolist(), shared.round(0).tolist()
    ([0.01, 0.01], [[4.0, 4.0], [4.0, 4.0]])
    """
    whole = rows[np.isfinite(rows).all(axis=1)]
    if not len(whole):
        return own.copy(), np.zeros((len(own), len(own)))
    scale = np.sqrt(own)
    seen = (whole.T @ whole) / len(whole) / scale / scale[:, None]
    known = [np.eye(len(own)), *(p / scale / scale[:, None] for p in parts)]
    size = np.array([1.0, *(0.1 * len(own) / max(float(np.trace(p)), 1e-300) for p in known[1:])])
    for _ in range(ITERATIONS):
        inverse = np.linalg.inv(sum((a * p for a, p in zip(size, known, strict=True)), np.zeros_like(seen)))
        around = inverse @ seen @ inverse
        ratio = np.array([np.sum(around * p) / max(float(np.sum(inverse * p)), 1e-300) for p in known])
        step = size * np.sqrt(np.maximum(ratio, 1e-12))
        done = np.max(np.abs(np.log(np.maximum(step, 1e-300) / size)) * (step * [np.trace(p) for p in known] > 1e-4)) < TOLERANCE
        size = step
        if done:
            break
    shared = sum((a * p for a, p in zip(size[1:], parts, strict=True)), np.zeros((len(own), len(own))))
    return size[0] * own, np.asarray(shared, np.float64)
