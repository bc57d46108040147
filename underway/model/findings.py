"""Findings with their evidence, the expected values behind them, and what holds a baseline still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

FINDING_NAMESPACE = UUID("6f1d8e0a-8d0b-5c3e-9b53-3f6a1f0e7c21")


class FindingKind(StrEnum):
    """What can be wrong; the alarm type has the same name."""

    LEAK_BURST = "leak.burst"
    LEAK_BACKGROUND = "leak.background"
    PRESSURE_LOW = "pressure.low"
    METER_STUCK = "meter.stuck"
    METER_STOPPED = "meter.stopped"
    METER_TAMPER = "meter.tamper"
    METER_BACKWARD = "meter.backward"
    BACKFLOW = "backflow"
    METER_OVERSIZED = "meter.oversized"
    METER_UNDERSIZED = "meter.undersized"
    COMMS_LOST = "comms.lost"
    ROAD_ROUGHNESS = "road.roughness"
    ROAD_FLOOD = "road.flood"
    BRIDGE_FREQUENCY_SHIFT = "bridge.frequency_shift"
    QUALITY_EVENT = "quality.event"
    QUALITY_SENSOR = "quality.sensor"
    QUALITY_OPERATION = "quality.operation"
    TANK_OVERFLOW = "tank.overflow"
    TANK_LOW = "tank.low"
    TANK_BALANCE = "tank.balance"
    PUMP_EFFICIENCY = "pump.efficiency"
    PRV_FAULT = "prv.fault"


class FindingPhase(StrEnum):
    """Whether the condition began, was measured again, or went away; only data can say that it went away."""

    RAISE = "raise"
    UPDATE = "update"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Driver:
    """One contributing channel (or virtual signal) of a finding, with what was expected of it."""

    name: str
    observed: float
    expected: float
    sigma: float
    unit: str
    channel_id: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where the cause may be: an asset with its probability (0..1)."""

    asset_id: str
    probability: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a detector says so; the one JSON that map, phone, dashboard and text message render.

    ``expected``, ``observed``, ``band_low`` and ``band_high`` are in ``unit``; ``threshold`` is in the unit of the
    detector's statistic; ``drivers`` come strongest first; ``candidates`` most probable first (empty: no location).
    """

    summary: str
    observed: float
    expected: float
    band_low: float
    band_high: float
    unit: str
    statistic: float
    threshold: float
    baseline_id: str
    drivers: tuple[Driver, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one detector concludes about one asset over an interval.

    Attributes
    ----------
    finding_id : UUID
        Deterministic, see `finding_id`: a replay writes nothing twice.
    onset_us, detected_us : int
        Estimated begin of the condition, and the event time of the reading that made the detector speak.
    score : float
        Size of the statistic over its threshold, 1 at the threshold.
    historical : bool
        True when it rests on late or back-filled data: it is dated and pages nobody.
    """

    finding_id: UUID
    kind: FindingKind
    phase: FindingPhase
    asset_id: str
    zone_id: str | None
    detector: str
    detector_version: str
    score: float
    onset_us: int
    detected_us: int
    evidence: Evidence
    historical: bool = False


def finding_id(detector: str, version: str, kind: FindingKind, phase: FindingPhase, asset_id: str, onset_us: int, detected_us: int) -> UUID:
    """Return the deterministic id of a finding: same detector, same readings, same id.

    Examples
    --------
    >>> a = finding_id("zone-inflow", "1", FindingKind.LEAK_BURST, FindingPhase.RAISE, "z1", 0, 60)
    >>> a == finding_id("zone-inflow", "1", FindingKind.LEAK_BURST, FindingPhase.RAISE, "z1", 0, 60)
    True
    """
    return uuid5(FINDING_NAMESPACE, "|".join((detector, version, kind, phase, asset_id, str(onset_us), str(detected_us))))


@dataclass(frozen=True, slots=True)
class Signal:
    """A named series that a detector expects something of, for example the net inflow of a zone."""

    name: str
    zone_id: str | None
    asset_id: str | None
    unit: str


@dataclass(frozen=True, slots=True)
class ExpectationBatch:
    """What detectors expected, as columns of one length n; charts and verification read it.

    Attributes
    ----------
    signals : tuple of Signal
    signal : ndarray of int32, shape (n,)
        Index into ``signals``.
    at_us : ndarray of int64, shape (n,)
    observed, expected, sigma : ndarray of float64, shape (n,)
        In the signal's unit; ``expected`` comes from the baseline in force (frozen while an alarm or order is open).
    baseline : tuple of str
        Baseline id a signal.
    """

    signals: tuple[Signal, ...]
    baseline: tuple[str, ...]
    signal: NDArray[np.int32]
    at_us: NDArray[np.int64]
    observed: NDArray[np.float64]
    expected: NDArray[np.float64]
    sigma: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at_us)


@dataclass(frozen=True, slots=True)
class Hold:
    """While it lasts, detectors of ``zone_id`` / ``asset_id`` do not adapt: an alarm or an order is open there.

    ``released_us`` None means it lasts; ``verdict`` says how it ended (``repaired`` resets the detector to its frozen baseline,
    ``cancelled`` only lets it adapt again).
    """

    hold_id: int
    zone_id: str | None
    asset_id: str
    held_us: int
    released_us: int | None = None
    verdict: str = ""
