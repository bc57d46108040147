"""What happens on and beside the road: weather, pavement, a bridge, a culvert; each is stepped and told its generator."""

from __future__ import annotations

import math

import numpy as np


class Weather:
    """Air temperature and rain, step by step.

    Notes
    -----
    Temperature: a yearly wave (mean 8.5, amplitude 8.5 Cel, coldest on 20 January), a daily wave (amplitude 3.5), and weather that comes and goes in
    days (AR(1), 3 Cel). Rain: showers that arrive every 2.5 days on average, 1 to 5 h long, 2 to 12 mm/h, rising and falling as a half sine.
    """

    def __init__(self, rng: np.random.Generator, step_s: int) -> None:
        self._rng, self._step_s = rng, step_s
        self._slow = float(rng.normal(0.0, 2.0))
        self._showers: list[tuple[float, float, float]] = []
        self._next_s = float(rng.exponential(2.5 * 86_400))
        self.air_cel = 0.0
        self.rain_mmph = 0.0

    def shower(self, starts_s: float, hours: float, peak_mmph: float) -> None:
        """Add a shower that begins at `starts_s` on the simulator's own time axis."""
        self._showers.append((starts_s, hours * 3600.0, peak_mmph))

    def step(self, elapsed_s: float, hour: float, day_of_year: float) -> None:
        """Move to a time."""
        keep = math.exp(-self._step_s / (2 * 86_400))
        self._slow = keep * self._slow + float(self._rng.normal(0.0, 3.0 * math.sqrt(1 - keep**2)))
        year = 8.5 - 8.5 * math.cos(2 * math.pi * (day_of_year - 20) / 365.25)
        day = -3.5 * math.cos(2 * math.pi * (hour - 3.0) / 24)
        self.air_cel = year + day + self._slow
        while self._next_s <= elapsed_s:
            self.shower(self._next_s, float(self._rng.uniform(1, 5)), float(self._rng.uniform(2, 12)))
            self._next_s += float(self._rng.exponential(2.5 * 86_400)) + 3600.0
        self._showers = [s for s in self._showers if s[0] + s[1] > elapsed_s]
        self.rain_mmph = sum(p * math.sin(math.pi * (elapsed_s - a) / n) for a, n, p in self._showers if a <= elapsed_s)


class Bridge:
    """First natural frequency and tilt of a bridge.

    Notes
    -----
    f(T) = f0 (1 - 0.0007 (T - 10)) above 0 Cel and four times the slope below (Z24: frozen asphalt stiffens the deck; bilinear, knee near 0 Cel).
    The structure's temperature is the air's through a low pass of 8 h. A bearing fault lowers f0 by `shift` and tilts the deck.
    """

    SLOPE_WARM, SLOPE_COLD, REFERENCE_CEL, LAG_S = -0.0007, -0.0028, 10.0, 8 * 3600.0

    def __init__(self, frequency_hz: float, air_cel: float) -> None:
        self.frequency_at_reference_hz = frequency_hz
        self.structure_cel = air_cel
        self.shift = 0.0
        self.tilt_fault_mrad = 0.0

    def step(self, air_cel: float, step_s: float) -> None:
        """Let the structure follow the air."""
        self.structure_cel += (air_cel - self.structure_cel) * (1 - math.exp(-step_s / self.LAG_S))

    @property
    def frequency_hz(self) -> float:
        """Return the frequency, before identification noise.

        Examples
        --------
        >>> round(Bridge(2.5, 10.0).frequency_hz, 4), Bridge(2.5, -5.0).frequency_hz > Bridge(2.5, 0.0).frequency_hz
        (2.5, True)
        """
        t = self.structure_cel
        bend = self.SLOPE_WARM * (max(t, 0.0) - self.REFERENCE_CEL) + self.SLOPE_COLD * min(t, 0.0)
        return self.frequency_at_reference_hz * (1 + bend) * (1 + self.shift)

    @property
    def tilt_mrad(self) -> float:
        """Return the tilt: some from temperature, the rest from a bearing fault."""
        return 0.02 * (self.structure_cel - self.REFERENCE_CEL) + self.tilt_fault_mrad


class Pavement:
    """Roughness of one road section (IRI); it grows by about 0.05 m/km a year and in steps when something breaks."""

    def __init__(self, iri_m_per_km: float) -> None:
        self.sound_m_per_km = iri_m_per_km
        self.defect_m_per_km = 0.0

    def iri_m_per_km(self, elapsed_s: float) -> float:
        """Return the roughness that a vehicle with a perfect sensor would find."""
        return self.sound_m_per_km + 0.05 * elapsed_s / (365.25 * 86_400) + self.defect_m_per_km


class Culvert:
    """Level before a culvert: one tank between a catchment and a pipe that may be blocked.

    Notes
    -----
    Rain runs off with a delay of 40 min (linear reservoir) from `catchment_ha` (half of it sealed); outflow = (1 - blocked) K h^1.5 with K such that
    4,300 m3/h pass at 1 m; the tank has 350 m2. Solved in steps of at most 30 s.
    """

    CAPACITY_M3PH, AREA_M2, DELAY_S, RUNOFF, BASE_M3PH = 4300.0, 350.0, 2400.0, 0.5, 20.0

    def __init__(self, catchment_ha: float, depth_m: float) -> None:
        self.catchment_ha, self.depth_m = catchment_ha, depth_m
        self.blocked = 0.0
        self._inflow_m3ph = self.BASE_M3PH
        self.level_m = (self.BASE_M3PH / self.CAPACITY_M3PH) ** (2 / 3)

    def step(self, rain_mmph: float, step_s: float) -> None:
        """Let it rain for a step."""
        count = max(math.ceil(step_s / 30.0), 1)
        dt = step_s / count
        goal = self.BASE_M3PH + self.RUNOFF * rain_mmph * self.catchment_ha * 10.0
        for _ in range(count):
            self._inflow_m3ph += (goal - self._inflow_m3ph) * (1 - math.exp(-dt / self.DELAY_S))
            out = (1 - self.blocked) * self.CAPACITY_M3PH * max(self.level_m, 0.0) ** 1.5
            # above the brim the road floods: a wide area
            area = self.AREA_M2 if self.level_m < self.depth_m else 10 * self.AREA_M2
            self.level_m = max(self.level_m + (self._inflow_m3ph - out) / 3600.0 * dt / area, 0.0)


def passes_expected(hour: float) -> float:
    """Return the expected number of probe vehicles a quarter of an hour on a section: 1.2 by day, 0.35 at night.

    Examples
    --------
    >>> passes_expected(3.0), passes_expected(12.0)
    (0.35, 1.2)
    """
    return 1.2 if 6.0 <= hour < 22.0 else 0.35
