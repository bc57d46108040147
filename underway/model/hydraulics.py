"""What a hydraulic model says about leaks: how much each pressure sensor falls for a leak on each pipe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LeakSignatures:
    """Pressure response of sensors to a leak, from the nominal model of a zone.

    Attributes
    ----------
    zone_id : str
    pipe_ids : tuple of str, length p
        Candidate pipes, as asset ids.
    channel_ids : tuple of int, length s
        Pressure channels.
    fall_kpa_per_m3ph : ndarray of float64, shape (p, s)
        Fall of pressure at each sensor for 1 m3/h lost in the middle of each pipe; positive is a fall.
    """

    zone_id: str
    pipe_ids: tuple[str, ...]
    channel_ids: tuple[int, ...]
    fall_kpa_per_m3ph: NDArray[np.float64]
