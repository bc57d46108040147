"""Cumulative sums, and the threshold that a budget of false alarms asks for."""

from __future__ import annotations

import math


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
