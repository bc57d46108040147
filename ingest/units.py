"""Units at the door: linear conversions into the canonical unit of a quantity.

A unit is looked up exactly as the device wrote it (UCUM codes, the registered SenML units with the secondary ones of RFC 8798, and the common
spellings), then without regard to case where that is not ambiguous. Factors are exact where the unit is defined exactly (BIPM SI brochure,
9th edition; NIST SP 811 appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

US_GALLON_M3 = 3.785411784e-3
CUBIC_FOOT_M3 = 0.028316846592
WATER_COLUMN_M_KPA = 9.80665
PSI_KPA = 6.894757293168361
FOOT_M = 0.3048
INCH_M = 0.0254
MILE_KM = 1.609344

# canonical unit -> {unit as devices write it: (factor, offset)}; canonical = value * factor + offset
CONVERSIONS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "m3/h": {
        **dict.fromkeys(("m3/h", "m³/h", "m^3/h", "m3ph", "cmh"), (1.0, 0.0)),
        **dict.fromkeys(("m3/s", "m³/s", "m^3/s", "cms"), (3600.0, 0.0)),
        **dict.fromkeys(("m3/min", "m³/min"), (60.0, 0.0)),
        **dict.fromkeys(("m3/d", "m³/d", "cmd"), (1 / 24, 0.0)),
        **dict.fromkeys(("L/s", "l/s", "lps", "dm3/s"), (3.6, 0.0)),
        **dict.fromkeys(("L/min", "l/min", "lpm"), (0.06, 0.0)),
        **dict.fromkeys(("L/h", "l/h", "lph"), (0.001, 0.0)),
        **dict.fromkeys(("ML/d", "mld"), (1000 / 24, 0.0)),
        **dict.fromkeys(("gpm", "[gal_us]/min", "gal/min"), (US_GALLON_M3 * 60, 0.0)),
        **dict.fromkeys(("mgd", "MGD"), (US_GALLON_M3 * 1e6 / 24, 0.0)),
        **dict.fromkeys(("ft3/s", "cfs", "[cft_i]/s"), (CUBIC_FOOT_M3 * 3600, 0.0)),
    },
    "kPa": {
        "kPa": (1.0, 0.0),
        "Pa": (0.001, 0.0),
        "hPa": (0.1, 0.0),
        "MPa": (1000.0, 0.0),
        "bar": (100.0, 0.0),
        "mbar": (0.1, 0.0),
        **dict.fromkeys(("psi", "[psi]", "psig"), (PSI_KPA, 0.0)),
        **dict.fromkeys(("mH2O", "m[H2O]", "mwc", "mWC", "mca", "m"), (WATER_COLUMN_M_KPA, 0.0)),
        **dict.fromkeys(("cmH2O", "cm[H2O]"), (WATER_COLUMN_M_KPA / 100, 0.0)),
        **dict.fromkeys(("ftH2O", "[ft_i'H2O]"), (WATER_COLUMN_M_KPA * FOOT_M, 0.0)),
        "atm": (101.325, 0.0),
    },
    "kW": {
        "kW": (1.0, 0.0),
        "W": (0.001, 0.0),
        "MW": (1000.0, 0.0),
    },
    "m": {
        "m": (1.0, 0.0),
        "mm": (0.001, 0.0),
        "cm": (0.01, 0.0),
        "dm": (0.1, 0.0),
        "km": (1000.0, 0.0),
        **dict.fromkeys(("ft", "[ft_i]"), (FOOT_M, 0.0)),
        **dict.fromkeys(("in", "[in_i]", "inch"), (INCH_M, 0.0)),
    },
    "m/km": {
        **dict.fromkeys(("m/km", "mm/m"), (1.0, 0.0)),
        **dict.fromkeys(("m/m", "/"), (1000.0, 0.0)),
        "/1000": (1.0, 0.0),
        **dict.fromkeys(("%", "/100"), (10.0, 0.0)),
        "ppm": (0.001, 0.0),
        **dict.fromkeys(("in/mi", "[in_i]/[mi_i]"), (INCH_M / MILE_KM, 0.0)),
    },
    "Hz": {"Hz": (1.0, 0.0), "mHz": (0.001, 0.0), "kHz": (1000.0, 0.0), "MHz": (1e6, 0.0), "1/s": (1.0, 0.0), "1/min": (1 / 60, 0.0)},
    "ue": {
        **dict.fromkeys(("ue", "µe", "με", "µε", "um/m", "µm/m", "microstrain", "ppm"), (1.0, 0.0)),
        **dict.fromkeys(("strain", "m/m", "1", "/"), (1e6, 0.0)),
        **dict.fromkeys(("mm/m", "me", "/1000"), (1000.0, 0.0)),
        **dict.fromkeys(("%", "/100"), (1e4, 0.0)),
    },
    "mrad": {
        "mrad": (1.0, 0.0),
        "rad": (1000.0, 0.0),
        **dict.fromkeys(("urad", "µrad"), (0.001, 0.0)),
        **dict.fromkeys(("deg", "°"), (1000 * math.pi / 180, 0.0)),
        **dict.fromkeys(("arcsec", "''"), (1000 * math.pi / 180 / 3600, 0.0)),
        "mm/m": (1.0, 0.0),
    },
    "Cel": {
        **dict.fromkeys(("Cel", "degC", "°C", "C", "celsius"), (1.0, 0.0)),
        **dict.fromkeys(("degF", "[degF]", "°F", "F", "fahrenheit"), (5 / 9, -160 / 9)),
        **dict.fromkeys(("K", "kelvin"), (1.0, -273.15)),
    },
    "mm/h": {
        "mm/h": (1.0, 0.0),
        "mm/min": (60.0, 0.0),
        "mm/s": (3600.0, 0.0),
        "mm/d": (1 / 24, 0.0),
        **dict.fromkeys(("in/h", "[in_i]/h"), (25.4, 0.0)),
        "m/s": (3.6e6, 0.0),
        "m/h": (1000.0, 0.0),
    },
    "V": {"V": (1.0, 0.0), "mV": (0.001, 0.0)},
    "dB": {"dB": (1.0, 0.0)},
    "%": {**dict.fromkeys(("%", "%EL"), (1.0, 0.0)), **dict.fromkeys(("/", "1"), (100.0, 0.0))},
    "m3": {
        **dict.fromkeys(("m3", "m³", "m^3"), (1.0, 0.0)),
        **dict.fromkeys(("L", "l", "dm3"), (0.001, 0.0)),
        **dict.fromkeys(("mL", "ml"), (1e-6, 0.0)),
        **dict.fromkeys(("hL", "hl"), (0.1, 0.0)),
        **dict.fromkeys(("gal", "[gal_us]"), (US_GALLON_M3, 0.0)),
        **dict.fromkeys(("ft3", "[cft_i]", "cf"), (CUBIC_FOOT_M3, 0.0)),
    },
    "flag": {**dict.fromkeys(("flag", "bool"), (1.0, 0.0))},
    "dBm": {"dBm": (1.0, 0.0), "dBW": (1.0, 30.0)},
    "mg/L": {
        **dict.fromkeys(("mg/L", "mg/l", "g/m3", "g/m³"), (1.0, 0.0)),
        **dict.fromkeys(("ug/L", "ug/l", "µg/L", "µg/l"), (0.001, 0.0)),
        **dict.fromkeys(("kg/m3", "g/L"), (1000.0, 0.0)),
    },
    "NTU": {**dict.fromkeys(("NTU", "FNU", "[NTU]", "FTU"), (1.0, 0.0)), "mNTU": (0.001, 0.0)},
    "pH": {**dict.fromkeys(("pH", "[pH]"), (1.0, 0.0))},
    "uS/cm": {
        **dict.fromkeys(("uS/cm", "µS/cm"), (1.0, 0.0)),
        "mS/cm": (1000.0, 0.0),
        "S/m": (10_000.0, 0.0),
        "mS/m": (10.0, 0.0),
    },
}


def _folded(table: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Return `table` by case-folded name, without the names that would then mean two things (mPa and MPa)."""
    by_name: dict[str, set[tuple[float, float]]] = {}
    for unit, conversion in table.items():
        by_name.setdefault(unit.casefold(), set()).add(conversion)
    return {name: found.pop() for name, found in by_name.items() if len(found) == 1 and name not in _CASE_MATTERS}


_CASE_MATTERS = frozenset({"mpa", "mhz", "mv", "mrad", "me", "k", "mld", "ml/d"})
_FOLDED = {canonical: _folded(table) for canonical, table in CONVERSIONS.items()}


@lru_cache(maxsize=4096)
def conversion(unit: str, canonical: str) -> tuple[float, float] | None:
    """Return (factor, offset) with ``canonical = value * factor + offset``, or None when `unit` is not a unit of that quantity.

    Parameters
    ----------
    unit : str
        As the device or the registry writes it.
    canonical : str
        A value of `underway.model.CANONICAL_UNIT`.

    Examples
    --------
    >>> conversion("L/s", "m3/h"), conversion("bar", "kPa"), conversion("Bar", "kPa"), conversion("kPa", "m3/h")
    ((3.6, 0.0), (100.0, 0.0), (100.0, 0.0), None)
    """
    table = CONVERSIONS.get(canonical)
    if table is None:
        return None
    written = unit.strip()
    return table.get(written) or _FOLDED[canonical].get(written.casefold())


def known_units(canonical: str) -> tuple[str, ...]:
    """Return every spelling that converts to `canonical`, in the order of the table."""
    return tuple(CONVERSIONS.get(canonical, ()))
