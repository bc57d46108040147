"""What the fields of a registration may be: dialects and their addresses, roles and their quantities, what is assumed when nothing is said."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ingest.decoded import ADDRESS_CHARS_MAX, DEVICE_PATTERN
from ingest.dialects import DIALECTS
from ingest.units import conversion, known_units
from underway.model import CANONICAL_UNIT, Quantity, ZoneKind

MODEL_CHARS_MAX = 200
NAME_CHARS_MAX = 200
UNITS_SHOWN_MAX = 8

DIALECT_NAMES = tuple(dialect.name for dialect in DIALECTS)

ROLES: dict[str, frozenset[Quantity]] = {
    "zone_inflow": frozenset({Quantity.FLOW}),
    "tank_flow": frozenset({Quantity.FLOW}),
    "zone_pressure": frozenset({Quantity.PRESSURE}),
    "tank_level": frozenset({Quantity.LEVEL}),
    "pump_flow": frozenset({Quantity.FLOW}),
    "pump_suction": frozenset({Quantity.PRESSURE}),
    "pump_discharge": frozenset({Quantity.PRESSURE}),
    "pump_power": frozenset({Quantity.POWER}),
    "prv_upstream": frozenset({Quantity.PRESSURE}),
    "prv_downstream": frozenset({Quantity.PRESSURE}),
    "prv_flow": frozenset({Quantity.FLOW}),
    "drain_level": frozenset({Quantity.LEVEL}),
    "roughness": frozenset({Quantity.ROUGHNESS}),
    "bridge_frequency": frozenset({Quantity.FREQUENCY}),
    "bridge_temperature": frozenset({Quantity.TEMPERATURE}),
    "bridge_tilt": frozenset({Quantity.TILT}),
    "bridge_strain": frozenset({Quantity.STRAIN}),
    "rain": frozenset({Quantity.RAIN_RATE}),
    "water_quality": frozenset(
        {Quantity.CHLORINE, Quantity.TURBIDITY, Quantity.PH, Quantity.CONDUCTIVITY, Quantity.TOC, Quantity.TEMPERATURE}
    ),
    "customer_meter": frozenset({Quantity.VOLUME, Quantity.FLOW}),
    "tamper_flag": frozenset({Quantity.FLAG}),
    "health": frozenset(Quantity),
}
"""What detectors use a channel for, and the quantities that it can be; ``health`` is for everything that is only kept and watched."""
ATTRIBUTE_NUMBERS: dict[str, tuple[str, float, float]] = {
    "q3_m3ph": (" m3/h", 0.1, 10_000.0),
    "ratio_r": ("", 10.0, 1_000.0),
    "register_max_m3": (" m3", 1.0, 1e12),
}
"""Attributes of meters that detectors read: unit, and the least and largest number."""
FLOW_ROLES = ("zone_inflow", "tank_flow")


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is assumed of a channel when nothing is said: range in the canonical unit, interval in s, role in a water zone and in a corridor."""

    range_min: float
    range_max: float
    interval_s: float
    role: str
    role_in_corridor: str

    def role_in(self, kind: ZoneKind | None) -> str:
        """Return the role in a zone of that kind; without a zone nobody can compare it with others."""
        if kind is None:
            return "health"
        return self.role_in_corridor if kind is ZoneKind.CORRIDOR else self.role


ASSUMED: dict[Quantity, Assumed] = {
    Quantity.FLOW: Assumed(-5000.0, 5000.0, 300.0, "zone_inflow", "health"),
    Quantity.PRESSURE: Assumed(-100.0, 2500.0, 300.0, "zone_pressure", "health"),
    Quantity.LEVEL: Assumed(-1.0, 50.0, 300.0, "tank_level", "drain_level"),
    Quantity.ROUGHNESS: Assumed(0.0, 25.0, 86_400.0, "health", "roughness"),
    Quantity.FREQUENCY: Assumed(0.0, 100.0, 600.0, "health", "bridge_frequency"),
    Quantity.STRAIN: Assumed(-10_000.0, 10_000.0, 600.0, "health", "bridge_strain"),
    Quantity.TILT: Assumed(-500.0, 500.0, 600.0, "health", "bridge_tilt"),
    Quantity.TEMPERATURE: Assumed(-50.0, 80.0, 600.0, "health", "bridge_temperature"),
    Quantity.RAIN_RATE: Assumed(0.0, 500.0, 300.0, "rain", "rain"),
    Quantity.BATTERY: Assumed(0.0, 40.0, 21_600.0, "health", "health"),
    Quantity.SIGNAL: Assumed(-150.0, 0.0, 900.0, "health", "health"),
    Quantity.SNR: Assumed(-40.0, 40.0, 900.0, "health", "health"),
    Quantity.CHARGE: Assumed(0.0, 100.0, 21_600.0, "health", "health"),
    Quantity.VOLUME: Assumed(0.0, 1e9, 3_600.0, "health", "health"),
    Quantity.CHLORINE: Assumed(0.0, 20.0, 300.0, "water_quality", "health"),
    Quantity.TURBIDITY: Assumed(0.0, 1000.0, 300.0, "water_quality", "health"),
    Quantity.PH: Assumed(0.0, 14.0, 300.0, "water_quality", "health"),
    Quantity.CONDUCTIVITY: Assumed(0.0, 20_000.0, 300.0, "water_quality", "health"),
    Quantity.TOC: Assumed(0.0, 100.0, 300.0, "water_quality", "health"),
    Quantity.FLAG: Assumed(0.0, 1.0, 3_600.0, "health", "health"),
    Quantity.POWER: Assumed(0.0, 20_000.0, 300.0, "health", "health"),
}
UNUSUAL = Assumed(-math.inf, math.inf, 900.0, "health", "health")
"""For a quantity that the table does not name."""

_EUI = re.compile(r"[0-9a-f]{16}")
_THINGS = re.compile(r"[0-9a-f]{16}|[^/\s]+/[^/\s]+")
_SPARKPLUG = re.compile(r"[^/+#]+/[^/+#]+(/[^/+#]+)?")
_SENML = re.compile(r"[^/+#]{1,64}/[^/+#]{1,64}")
_SERIES = re.compile(r"(?:Multi)?Datastreams\((?:0|-?[1-9][0-9]{0,18}|'(?:[^']|''){1,64}')\)")
_LOWER = frozenset({"chirpstack", "thethings"})
_SHAPES: dict[str, tuple[re.Pattern[str], str]] = {
    "native": (DEVICE_PATTERN, "1..64 of a-z, 0-9, '-' and '_', as in the topic"),
    "chirpstack": (_EUI, "the DevEUI, 16 hexadecimal digits"),
    "thethings": (_THINGS, "the DevEUI, 16 hexadecimal digits, or '{application}@{tenant}/{device}'"),
    "senml": (_SENML, "'{tenant}/{device}' of its topic, each 1..64 characters without '+' and '#'"),
    "sensorthings": (_SERIES, "a Datastream: 'Datastreams(5)', \"Datastreams('inlet')\" or 'MultiDatastreams(3)'"),
    "sparkplug": (_SPARKPLUG, "'{group}/{edge node}' or '{group}/{edge node}/{device}'"),
}


def normal_address(dialect: str, address: str) -> str:
    """Return an address as its dialect writes it: a DevEUI in lower case, without separators.

    Examples
    --------
    >>> normal_address("chirpstack", "70-B3-D5-49-9A-1B-2C-3D"), normal_address("native", "pr-113")
    ('70b3d5499a1b2c3d', 'pr-113')
    """
    if dialect in _LOWER and "/" not in address:
        return re.sub(r"[\s:-]", "", address).lower()
    return address


def address_problem(dialect: str, address: str) -> str | None:
    """Return what an address of a dialect must be when this is none, else None."""
    if len(address) > ADDRESS_CHARS_MAX or not address.isprintable():
        return f"at most {ADDRESS_CHARS_MAX} printable characters"
    pattern, what = _SHAPES.get(dialect, (None, ""))
    return what if pattern is not None and pattern.fullmatch(address) is None else None


def unit_problem(unit: str, quantity: Quantity) -> str | None:
    """Return what a unit of a quantity must be when this is none, else None.

    Examples
    --------
    >>> unit_problem("bar", Quantity.PRESSURE) is None, unit_problem("L/s", Quantity.PRESSURE)
    (True, 'a unit of pressure (kPa, Pa, hPa, MPa, bar, mbar, psi, [psi], ...); it is one of flow')
    """
    canonical = CANONICAL_UNIT[quantity]
    if conversion(unit, canonical) is not None:
        return None
    known = known_units(canonical)
    more = ", ..." if len(known) > UNITS_SHOWN_MAX else ""
    others = [other.value for other in Quantity if conversion(unit, CANONICAL_UNIT[other]) is not None]
    hint = f"; it is one of {', '.join(others)}" if others else ""
    return f"a unit of {quantity.value} ({', '.join(known[:UNITS_SHOWN_MAX])}{more}){hint}"
