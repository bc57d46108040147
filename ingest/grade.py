"""The grade of a reading: good, suspect or bad, with the reason; the value is never changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from underway.model import Quality, QualityReason


def grade(
    value: NDArray[np.float64],
    range_min: NDArray[np.float64],
    range_max: NDArray[np.float64],
    device_quality: NDArray[np.uint8],
    device_reason: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return (quality, reason) of readings: the worse of what the device says and what the range says.

    Parameters
    ----------
    value, range_min, range_max : ndarray of float64, shape (n,)
        In the canonical unit; the limits themselves are inside the range.
    device_quality, device_reason : ndarray of uint8, shape (n,)
        `Quality` and `QualityReason` as the dialect read them.

    Returns
    -------
    tuple of two ndarray of uint8, shape (n,)

    Notes
    -----
    A value outside its physical range is bad whatever the device says, unless the device already said bad: then its reason stays.
    Blind to anything that needs more than one reading (stuck, spike, drift); detectors judge that.

    Examples
    --------
    >>> u8 = lambda *x: np.array(x, np.uint8)
    >>> quality, reason = grade(np.array([1.0, -3.0]), np.zeros(2), np.full(2, 10.0), u8(1, 0), u8(2, 0))
    >>> quality.tolist(), reason.tolist()
    ([1, 2], [2, 1])
    """
    outside = ~((value >= range_min) & (value <= range_max)) & (device_quality < Quality.BAD)
    quality = np.where(outside, np.uint8(Quality.BAD), device_quality)
    reason = np.where(outside, np.uint8(QualityReason.OUT_OF_RANGE), device_reason)
    return quality, reason
