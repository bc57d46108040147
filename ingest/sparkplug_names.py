"""Names of Sparkplug metrics: what is one, what is no measurement, and which unit it tells."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ingest.decoded import ADDRESS_CHARS_MAX, UNIT_CHARS_MAX, shown
from ingest.sparkplug_message import BD_SEQ, CONTROL_PREFIXES

ALIAS_MAX = 2**63 - 1
SHAPE_CACHED_MAX = 256
"""Most samples of a message whose shape is kept, so that 1024 shapes stay small."""
UNIT_PROPERTIES = ("engunit", "engineering units", "unit")
"""Properties that tell a unit, in lower case; the first that is there counts."""
UNIT_IN_NAME = {
    "m3h": "m3/h",
    "m3s": "m3/s",
    "ls": "L/s",
    "mgL": "mg/L",
    "mkm": "m/km",
    "mmh": "mm/h",
    **{unit: unit for unit in ("ue", "mrad", "mm", "m", "bar", "mbar", "kPa", "NTU", "V", "mV", "Hz", "Cel", "degC", "dBm")},
}
"""The last level of a metric's name, where it is a unit: ``Flow/m3h``."""


def alias_channels(aliases: tuple[int, ...]) -> tuple[str, ...]:
    """Return the channels of samples that are told by alias, until the host knows their names."""
    return _cached_alias_channels(aliases) if len(aliases) <= SHAPE_CACHED_MAX else tuple([f"#{alias}" for alias in aliases])


@lru_cache(maxsize=1024)
def _cached_alias_channels(aliases: tuple[int, ...]) -> tuple[str, ...]:
    return tuple([f"#{alias}" for alias in aliases])


def named_channels(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str | None, ...] | None] | None:
    """Return channels and units of samples that are told by name, or None when a name is none or no measurement."""
    return _cached_named_channels(names) if len(names) <= SHAPE_CACHED_MAX else _cached_named_channels.__wrapped__(names)


@lru_cache(maxsize=256)
def _cached_named_channels(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str | None, ...] | None] | None:
    if any(name_problem(name) is not None or is_control(name) for name in names):
        return None
    units = tuple([unit_in_name(name) for name in names])
    return names, (None if all(unit is None for unit in units) else units)


def name_problem(name: Any) -> str | None:
    """Return why `name` cannot be a metric's name, or None; what is not UTF-8 comes as bytes."""
    if type(name) is str and 0 < len(name) <= ADDRESS_CHARS_MAX and name.isprintable():
        return None
    return f"the name of a metric must be 1..{ADDRESS_CHARS_MAX} printable characters of UTF-8, got {shown(name)}"


def is_control(name: str) -> bool:
    """Return whether a metric of that name is a command, or the number of a session."""
    return name == BD_SEQ or name.startswith(CONTROL_PREFIXES)


@lru_cache(maxsize=4096)
def unit_in_name(name: str) -> str | None:
    """Return the unit that a metric's name ends with, or None.

    Examples
    --------
    >>> unit_in_name("Inlet/Flow/m3h"), unit_in_name("Pressure"), unit_in_name("Pressure/high")
    ('m3/h', None, None)
    """
    start, _, last = name.rpartition("/")
    return UNIT_IN_NAME.get(last) if start else None


def unit_of(properties: dict[str, Any], name: str) -> str | None:
    """Return the unit that a property tells, else the one in the name, else None."""
    for key in UNIT_PROPERTIES:
        told = properties.get(key)
        if type(told) is str and 0 < len(told) <= UNIT_CHARS_MAX and told.isprintable():
            return UNIT_IN_NAME.get(told, told)
    return unit_in_name(name) if name else None
