from __future__ import annotations

import pytest

from ingest.units import CONVERSIONS, conversion, known_units
from underway.model import CANONICAL_UNIT


@pytest.mark.parametrize(
    ("value", "unit", "canonical", "expected"),
    [
        (1.0, "L/s", "m3/h", 3.6),
        (1.0, "m3/s", "m3/h", 3600.0),
        (100.0, "l/min", "m3/h", 6.0),
        (1.0, "gpm", "m3/h", 0.2271247),
        (1.0, "MGD", "m3/h", 157.7255),
        (1.0, "cfs", "m3/h", 101.9406),
        (3.4, "bar", "kPa", 340.0),
        (10.0, "mH2O", "kPa", 98.0665),
        (341_000.0, "Pa", "kPa", 341.0),
        (1.0, "psi", "kPa", 6.894757),
        (1013.25, "hPa", "kPa", 101.325),
        (2310.0, "mm", "m", 2.31),
        (1.0, "ft", "m", 0.3048),
        (63.36, "in/mi", "m/km", 1.0),
        (180.0, "deg", "mrad", 3141.592654),
        (212.0, "degF", "Cel", 100.0),
        (273.15, "K", "Cel", 0.0),
        (1.0, "in/h", "mm/h", 25.4),
        (3610.0, "mV", "V", 3.61),
        (120.0, "1/min", "Hz", 2.0),
        (1e-6, "strain", "ue", 1.0),
    ],
)
def test_conversion_known_unit_gives_the_textbook_value(value: float, unit: str, canonical: str, expected: float) -> None:
    found = conversion(unit, canonical)
    assert found is not None
    assert value * found[0] + found[1] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("canonical", sorted(set(CANONICAL_UNIT.values())))
def test_conversion_canonical_unit_converts_to_itself(canonical: str) -> None:
    assert conversion(canonical, canonical) == (1.0, 0.0)
    assert canonical in known_units(canonical)


def test_conversion_case_is_forgiven_only_where_it_cannot_mislead() -> None:
    assert conversion("BAR", "kPa") == (100.0, 0.0)
    assert conversion("MPa", "kPa") == (1000.0, 0.0)
    assert conversion("mpa", "kPa") is None
    assert conversion("ml/d", "m3/h") is None


@pytest.mark.parametrize("unit", ["", "kPa", "furlong", "m3/h\x00", "\ud800"])
def test_conversion_other_unit_is_none(unit: str) -> None:
    assert conversion(unit, "m3/h") is None


def test_conversions_are_linear_and_increasing() -> None:
    for table in CONVERSIONS.values():
        assert all(factor > 0 for factor, _ in table.values())
