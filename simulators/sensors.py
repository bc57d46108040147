"""What a sensor makes of the truth: noise, quantisation, lost samples, a tired battery, a clock that is a little wrong, a buffer.

All of it is columnar over the channels of a town and draws the same random numbers in every step, so that a fault or an action changes only what it
is meant to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from simulators.town import Sense
from underway.model import DAY_US, HOUR_US, SECOND_US, Channel, OperatorError, Registry

# device unit -> (value in the canonical unit) times this
TO_DEVICE: dict[str, float] = {
    "L/s": 1 / 3.6,
    "m3/h": 1.0,
    "kPa": 1.0,
    "m": 1.0,
    "m/km": 1.0,
    "Hz": 1.0,
    "mrad": 1.0,
    "Cel": 1.0,
    "mm/h": 1.0,
    "V": 1.0,
}
CLOCK_ERROR_MAX_S = 30.0
LOST_SHARE = 0.002
BATTERY_FULL_V = 3.65


class FaultKind(StrEnum):
    """What can be wrong with a sensor for a while."""

    STUCK = "stuck"  # repeats the value it had
    DROPOUT = "dropout"  # measures nothing
    OUTAGE = "outage"  # measures, but cannot send: sends all when it is over
    CLOCK = "clock"  # its clock is off by `size` seconds


@dataclass(frozen=True, slots=True)
class SensorFault:
    """One fault of one device (of one channel when `channel` is given), half-open in time."""

    kind: FaultKind
    device_id: str
    starts_us: int
    ends_us: int
    channel: str | None = None
    size: float = 0.0


def draw_faults(registry: Registry, start_us: int, days: float, rng: np.random.Generator) -> tuple[SensorFault, ...]:
    """Return a seeded record of sensor faults: one of each kind a week, of 2 to 8 hours, on pressure loggers and road probes.

    Parameters
    ----------
    registry : Registry
    start_us : int
        Microseconds since 1970 of the span's begin.
    days : float
        Length of the span.
    rng : numpy.random.Generator

    Returns
    -------
    tuple of SensorFault
        In order of their begin. Flow meters have none, so that a zone's balance has no holes.
    """
    loggers = sorted({c.device_id for c in registry.channels if c.role in {"zone_pressure", "roughness"}})
    if not loggers:
        return ()
    faults = []
    for _week in range(max(round(days / 7), 1)):
        for kind in FaultKind:
            begin = start_us + int(rng.uniform(0.05, 0.95) * days * DAY_US)
            end = begin + int(rng.uniform(2, 8) * HOUR_US)
            device_id = loggers[int(rng.integers(len(loggers)))]
            size = float(rng.choice([-1.0, 1.0]) * rng.uniform(20, 60)) if kind == FaultKind.CLOCK else 0.0
            faults.append(SensorFault(kind, device_id, begin, min(end, start_us + int(days * DAY_US)), None, size))
    return tuple(sorted(faults, key=lambda f: (f.starts_us, f.device_id, f.kind)))


class Sensors:
    """All sensors of a town.

    Parameters
    ----------
    channels : sequence of Channel
    senses : sequence of Sense
        One a channel, in the same order.
    rng : numpy.random.Generator
    faults : sequence of SensorFault

    Raises
    ------
    OperatorError
        When a channel's device unit is unknown here, or a fault names an unknown device.
    """

    def __init__(
        self, channels: Sequence[Channel], senses: Sequence[Sense], rng: np.random.Generator, faults: Sequence[SensorFault] = ()
    ) -> None:
        problems = sorted({c.device_unit for c in channels} - set(TO_DEVICE))
        if problems:
            raise OperatorError(f"a device unit must be one of {', '.join(TO_DEVICE)}, got {problems!r}")
        self.devices: tuple[str, ...] = tuple(dict.fromkeys(c.device_id for c in channels))
        row = {d: i for i, d in enumerate(self.devices)}
        unknown = sorted({f.device_id for f in faults} - set(row))
        if unknown:
            raise OperatorError(f"a sensor fault must name a device of the town, got {unknown!r}")
        self._rng = rng
        self._faults = tuple(faults)
        self._row = row
        self.device_of_channel: NDArray[np.intp] = np.array([row[c.device_id] for c in channels], dtype=np.intp)
        self._name = [c.name for c in channels]
        self._noise = np.array([s.noise for s in senses])
        self._ratio = np.array([s.noise_ratio for s in senses])
        self._step = np.array([max(c.resolution, 1e-6) for c in channels])
        self._factor = np.array([TO_DEVICE[c.device_unit] for c in channels])
        # the decimals that the device prints
        self._scale = 10.0 ** np.array(
            [max(0, int(np.ceil(-np.log10(s * f) - 1e-9))) for s, f in zip(self._step, self._factor, strict=True)]
        )
        n = len(self.devices)
        self._offset_s = np.clip(rng.normal(0.0, 2.0, n), -6.0, 6.0)
        self._drift_s_per_day = rng.normal(0.0, 0.4, n)
        self.latency_us: NDArray[np.int64] = (rng.uniform(1.0, 20.0, n) * SECOND_US).astype(np.int64)
        self._battery_v = BATTERY_FULL_V - rng.uniform(0.0, 0.25, n)
        self._decay_v_per_day = rng.uniform(0.0004, 0.0016, n)
        self._last: NDArray[np.float64] = np.full(len(channels), np.nan)
        self._start_us: int | None = None

    def battery_v(self, device_id: str, at_us: int) -> float:
        """Return a battery's voltage, before noise: it decays by about 1 mV a day."""
        i = self._row[device_id]
        days = (at_us - (self._start_us or at_us)) / DAY_US
        return float(self._battery_v[i] - self._decay_v_per_day[i] * days)

    def clock_error_us(self, at_us: int) -> NDArray[np.int64]:
        """Return what each device's clock shows too much, in microseconds, shape (devices,).

        Within 30 s, put right once a week, plus clock faults.
        """
        days = ((at_us - (self._start_us or at_us)) / DAY_US) % 7.0
        error = np.clip(self._offset_s + self._drift_s_per_day * days, -CLOCK_ERROR_MAX_S, CLOCK_ERROR_MAX_S)
        for fault in self._active(at_us, FaultKind.CLOCK):
            error[self._row[fault.device_id]] += fault.size
        result: NDArray[np.int64] = (error * SECOND_US).astype(np.int64)
        return result

    def measure(self, truth: NDArray[np.float64], at_us: int) -> NDArray[np.float64]:
        """Return what the devices say, in their own units, shape (channels,).

        Parameters
        ----------
        truth : ndarray of float64, shape (channels,)
            True values in canonical units; NaN where a channel does not sample now.
        at_us : int

        Returns
        -------
        ndarray of float64
            NaN where there is no sample, for whatever reason.
        """
        if self._start_us is None:
            self._start_us = at_us
        wobble = self._rng.standard_normal(len(truth))
        lost = self._rng.random(len(self.devices)) < LOST_SHARE
        value = truth + wobble * (self._noise + self._ratio * np.abs(truth))
        value = np.rint(value / self._step) * self._step
        value = np.rint(value * self._factor * self._scale) / self._scale + 0.0
        value[lost[self.device_of_channel]] = np.nan
        for fault in self._active(at_us, FaultKind.STUCK):
            rows = self._rows_of(fault)
            value[rows] = np.where(np.isnan(value[rows]), np.nan, self._last[rows])
        for fault in self._active(at_us, FaultKind.DROPOUT):
            value[self._rows_of(fault)] = np.nan
        self._last = np.where(np.isnan(value), self._last, value)
        result: NDArray[np.float64] = value
        return result

    def silent(self, at_us: int) -> frozenset[str]:
        """Return the devices that cannot send now; they keep their samples."""
        return frozenset(f.device_id for f in self._active(at_us, FaultKind.OUTAGE))

    def _active(self, at_us: int, kind: FaultKind) -> list[SensorFault]:
        return [f for f in self._faults if f.kind == kind and f.starts_us <= at_us < f.ends_us]

    def _rows_of(self, fault: SensorFault) -> NDArray[np.intp]:
        rows = np.nonzero(self.device_of_channel == self._row[fault.device_id])[0]
        if fault.channel is not None:
            rows = np.array([r for r in rows if self._name[r] == fault.channel], dtype=np.intp)
        result: NDArray[np.intp] = rows
        return result
