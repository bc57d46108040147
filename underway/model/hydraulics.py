"""Hydraulic models: the model itself, and what it says of leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class NetworkModel:
    """A utility's hydraulic model, and what its elements are called in the registry.

    Attributes
    ----------
    site_id : str
    inp : str
        Text of the EPANET 2.2 input file, with its nominal demands, patterns, tanks, pumps and valves.
    element_of : mapping of str to str
        EPANET id of every asset that the model knows, by asset id: links (pipes, pumps, valves) and nodes (junctions, tanks, reservoirs).
        A channel belongs to the element of its asset.
    """

    site_id: str
    inp: str
    element_of: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Return 12 hex digits that change when the model or its names change."""
        text = "|".join((self.inp, *(f"{asset}={element}" for asset, element in sorted(self.element_of.items()))))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
