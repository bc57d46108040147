"""How much water a zone loses, and how good or bad that is: night flow, water balance, unavoidable losses, what a repair gave back.

Terms and formulas of the International Water Association (IWA): system input volume (SIV), current annual real losses (CARL), non-revenue water
(NRW), unavoidable annual real losses (UARL), infrastructure leakage index (ILI = CARL / UARL).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NIGHT_BEGIN_H, NIGHT_END_H = 2, 4
ACTIVE_AT_NIGHT, FLUSH_L = 0.06, 10.0
"""SANFLOW: part of the people that is awake in an hour of the night, and what each uses."""
UARL_MAINS, UARL_CONNECTIONS, UARL_PRIVATE = 18.0, 0.8, 25.0
"""L/day for each metre of pressure: a km of mains, a connection, a km of private pipe beyond the edge of the street (Lambert et al. 1999)."""
CONNECTIONS_MIN, CONNECTIONS_PER_KM_MIN = 5000, 20.0
PRESSURE_MIN_M, PRESSURE_MAX_M = 25.0, 100.0
NIGHTS_SHARE_MIN = 0.5
UNDECIDABLE_SD = 2.0


class Doubt(StrEnum):
    """Why a figure is given but is not valid as it is stated."""

    FEW_CONNECTIONS = "few_connections"
    SPARSE_CONNECTIONS = "sparse_connections"
    PRESSURE_LOW = "pressure_low"
    PRESSURE_HIGH = "pressure_high"
    FEW_NIGHTS = "few_nights"
    OTHER_REPAIR = "other_repair"
    WITHIN_NOISE = "within_noise"


@dataclass(frozen=True, slots=True)
class NightFlow:
    """Night flow of a zone, m3/h: what came in, what customers may use, what is left; `share` of the readings that were there (0..1)."""

    minimum_m3ph: float
    legitimate_m3ph: float
    net_m3ph: float
    share: float


def legitimate_night_use_m3ph(people: float, metered_m3ph: float = 0.0) -> float:
    """Return what customers use in an hour of the night: 6 % of the people at 10 L (SANFLOW), and metered users.

    Examples
    --------
    10,000 people: 600 flushes of 10 L an hour.

    >>> legitimate_night_use_m3ph(10_000)
    6.0
    """
    return people * ACTIVE_AT_NIGHT * FLUSH_L / 1000.0 + metered_m3ph


def night_flow(inflow_m3ph: Floats, local_hour: Floats, people: float, metered_m3ph: float = 0.0) -> NightFlow | None:
    """Return the night flow of one night; None without a reading from 02:00 to 04:00.

    Parameters
    ----------
    inflow_m3ph : ndarray, shape (n,)
        Net inflow of the zone; NaN is a gap.
    local_hour : ndarray, shape (n,)
        Hour of the day of each reading, local time, 0 to 24.
    people : float
    metered_m3ph : float
        Use of metered customers in these hours.

    Examples
    --------
    >>> flow = night_flow(np.array([30.0, 12.0, 14.0, 40.0]), np.array([1.0, 2.0, 3.0, 4.0]), 10_000, 1.0)
    >>> flow.minimum_m3ph, flow.legitimate_m3ph, flow.net_m3ph, flow.share
    (13.0, 7.0, 6.0, 1.0)
    """
    night = (local_hour >= NIGHT_BEGIN_H) & (local_hour < NIGHT_END_H)
    seen = night & np.isfinite(inflow_m3ph)
    if not seen.any():
        return None
    mean = float(inflow_m3ph[seen].mean())
    used = legitimate_night_use_m3ph(people, metered_m3ph)
    return NightFlow(mean, used, mean - used, float(seen.sum() / night.sum()))


def daily_leakage_m3(net_night_m3ph: float, pressure_m: Sequence[float], n1: float = 1.0) -> float:
    """Return what leaks in a day from what leaks at night: leakage goes with pressure to the power N1 (0.5 bursts, 1.5 background).

    Parameters
    ----------
    net_night_m3ph : float
    pressure_m : sequence of float, length 24
        Mean pressure of the zone in each hour of the day.
    n1 : float

    Examples
    --------
    The same pressure all day; then half of it outside of the night, with N1 = 1:

    >>> daily_leakage_m3(2.0, [40.0] * 24), daily_leakage_m3(2.0, [20.0] * 2 + [40.0] * 2 + [20.0] * 20)
    (48.0, 26.0)
    """
    if len(pressure_m) != 24:
        raise ValueError(f"pressure_m must have a value for each of 24 hours, got {len(pressure_m)}")
    night = float(np.mean(pressure_m[NIGHT_BEGIN_H:NIGHT_END_H]))
    return float(net_night_m3ph * sum((p / night) ** n1 for p in pressure_m))


@dataclass(frozen=True, slots=True)
class Balance:
    """Water balance of a period (IWA), m3.

    Attributes
    ----------
    input_m3 : float
        System input volume.
    billed_m3, unbilled_m3 : float
        Authorised consumption.
    apparent_m3 : float
        Losses on paper: theft, meters that run slow.
    days : float
        Length of the period.
    """

    input_m3: float
    billed_m3: float
    unbilled_m3: float
    apparent_m3: float
    days: float

    @property
    def nrw_m3(self) -> float:
        """Return non-revenue water: input less billed.

        Examples
        --------
        >>> balance = Balance(1000.0, 700.0, 20.0, 30.0, 365.0)
        >>> balance.nrw_m3, balance.nrw_share, balance.real_m3
        (300.0, 0.3, 250.0)
        """
        return self.input_m3 - self.billed_m3

    @property
    def nrw_share(self) -> float | None:
        """Return non-revenue water as a part of the input; None without input."""
        return self.nrw_m3 / self.input_m3 if self.input_m3 > 0 else None

    @property
    def real_m3(self) -> float:
        """Return real losses: what physically leaks."""
        return self.input_m3 - self.billed_m3 - self.unbilled_m3 - self.apparent_m3

    @property
    def carl_m3_a_year(self) -> float:
        """Return current annual real losses."""
        return self.real_m3 * 365.0 / self.days


def uarl_m3_a_year(mains_km: float, connections: float, private_km: float, pressure_m: float) -> float:
    """Return unavoidable annual real losses: ``(18 Lm + 0.8 Nc + 25 Lp) P`` L/day.

    Examples
    --------
    100 km, 6,000 connections, no private pipe, 50 m: (1800 + 4800) * 50 L/day = 330 m3/day.

    >>> uarl_m3_a_year(100.0, 6000, 0.0, 50.0)
    120450.0
    """
    return (UARL_MAINS * mains_km + UARL_CONNECTIONS * connections + UARL_PRIVATE * private_km) * pressure_m / 1000.0 * 365.0


@dataclass(frozen=True, slots=True)
class Index:
    """Infrastructure leakage index with what speaks against it; valid without doubts."""

    ili: float | None
    carl_m3_a_year: float
    uarl_m3_a_year: float
    doubts: tuple[Doubt, ...]


def leakage_index(carl_m3_a_year: float, mains_km: float, connections: float, private_km: float, pressure_m: float) -> Index:
    """Return ILI = CARL / UARL; stated for more than 5,000 connections, more than 20 a km, and 25 to 100 m of pressure.

    Examples
    --------
    >>> index = leakage_index(240_900.0, 100.0, 6000, 0.0, 50.0)
    >>> index.ili, index.doubts
    (2.0, ())
    >>> leakage_index(1000.0, 10.0, 150, 0.0, 20.0).doubts
    (<Doubt.FEW_CONNECTIONS: 'few_connections'>, <Doubt.SPARSE_CONNECTIONS: 'sparse_connections'>, <Doubt.PRESSURE_LOW: 'pressure_low'>)
    """
    uarl = uarl_m3_a_year(mains_km, connections, private_km, pressure_m)
    doubts = []
    if connections <= CONNECTIONS_MIN:
        doubts.append(Doubt.FEW_CONNECTIONS)
    if mains_km <= 0 or connections / mains_km <= CONNECTIONS_PER_KM_MIN:
        doubts.append(Doubt.SPARSE_CONNECTIONS)
    if pressure_m < PRESSURE_MIN_M:
        doubts.append(Doubt.PRESSURE_LOW)
    if pressure_m > PRESSURE_MAX_M:
        doubts.append(Doubt.PRESSURE_HIGH)
    return Index(carl_m3_a_year / uarl if uarl > 0 else None, carl_m3_a_year, uarl, tuple(doubts))


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a repair gave back, m3/h with its standard error, and what speaks against the figure."""

    m3ph: float
    sd_m3ph: float
    doubts: tuple[Doubt, ...]


def recovered_by_repair(before_m3ph: Floats, after_m3ph: Floats, other_repairs: int = 0) -> Recovered | None:
    """Return how much night flow fell with a repair; None when a side has no night.

    Parameters
    ----------
    before_m3ph, after_m3ph : ndarray
        Night flows of the nights before and after; NaN is a night without readings.
    other_repairs : int
        Repairs in the same zone within these nights: what fell is then theirs too, and cannot be told apart.

    Notes
    -----
    Difference of the medians; its standard error from the scatter on both sides (1.4826 MAD, 1.2533 for a median).

    Examples
    --------
    >>> back = recovered_by_repair(np.array([20.0, 21.0, 19.0, 20.0]), np.array([12.0, 13.0, 11.0, 12.0]))
    >>> back.m3ph, back.sd_m3ph < 1.0, back.doubts
    (8.0, True, ())
    """
    sides = [x[np.isfinite(x)] for x in (before_m3ph, after_m3ph)]
    if not (len(sides[0]) and len(sides[1])):
        return None
    middle = [float(np.median(x)) for x in sides]
    error = [1.2533 * 1.4826 * float(np.median(np.abs(x - m))) / math.sqrt(len(x)) for x, m in zip(sides, middle, strict=True)]
    fell, sd = middle[0] - middle[1], math.hypot(*error)
    doubts = []
    if any(len(x) < NIGHTS_SHARE_MIN * len(whole) for x, whole in zip(sides, (before_m3ph, after_m3ph), strict=True)):
        doubts.append(Doubt.FEW_NIGHTS)
    if other_repairs:
        doubts.append(Doubt.OTHER_REPAIR)
    if fell < UNDECIDABLE_SD * sd:
        doubts.append(Doubt.WITHIN_NOISE)
    return Recovered(fell, sd, tuple(doubts))
