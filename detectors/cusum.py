"""Cumulative sums, and the threshold that a budget of false alarms asks for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def cusum_threshold(false_every_samples: float, reference_sd: float = 0.5) -> float:
    """Return the decision limit h of a one-sided CUSUM, in standard deviations.

    Parameters
    ----------
    false_every_samples : float
        Wanted mean number of samples between two false alarms on independent normal noise, at least 10.
    reference_sd : float
        Reference value k, half of the shift to be found, in standard deviations, above 0.

    Notes
    -----
    Solves ``ARL0 = (exp(2 k b) - 2 k b - 1) / (2 k^2)`` with ``b = h + 1.166`` by bisection.

    References
    ----------
    Siegmund, D. (1985), Sequential Analysis, Springer, ch. 2, doi 10.1007/978-1-4757-1862-1.

    Examples
    --------
    The textbook pair k = 0.5, h = 5 has an average run length of about 938 (exact: 930).

    >>> round(cusum_threshold(938), 2)
    5.0
    """
    if false_every_samples < 10 or reference_sd <= 0:
        raise ValueError(f"expected at least 10 samples and a reference above 0 sd, got {false_every_samples!r} and {reference_sd!r}")
    low, high = 0.0, 200.0
    for _ in range(80):
        b = (low + high) / 2
        x = min(2 * reference_sd * b, 700.0)
        if (math.exp(x) - x - 1) / (2 * reference_sd**2) < false_every_samples:
            low = b
        else:
            high = b
    return max(low - 1.166, 0.0)


def likeliest_begin(residual: NDArray[np.float64], count_min: int) -> int:
    """Return the index from which on a rise of the mean is most likely, leaving at least `count_min` values after it.

    Parameters
    ----------
    residual : ndarray of float64, shape (n,)
        Positive in the direction of the change.
    count_min : int
        At least 1.

    Notes
    -----
    Maximum likelihood for a step of unknown size in independent normal noise: the largest ``sum(r[j:]) / sqrt(n - j)``.

    References
    ----------
    Hinkley (1970), Inference about the change-point in a sequence of random variables, doi 10.1093/biomet/57.1.1.

    Examples
    --------
    >>> likeliest_begin(np.array([0.2, 0.0, 0.3, 5.0, 4.0, 6.0]), 3)
    3
    """
    last = max(len(residual) - count_min, 0)
    tail = np.cumsum(residual[::-1])[::-1]
    return int(np.argmax((tail / np.sqrt(np.arange(len(residual), 0, -1)))[: last + 1]))
