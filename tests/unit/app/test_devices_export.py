from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underway.app.devices_check import check
from underway.app.devices_export import export
from underway.app.devices_plan import Change, plan
from underway.app.devices_read import Problems, json_or_text, read_document
from underway.model import Asset, AssetClass, Channel, Device, DeviceStatus, Quantity, Registry, Site, Zone, ZoneKind

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SITE = Site("town", "No", "Europe/Berlin", 52.5, 13.4)
POINT = {"type": "Point", "coordinates": [13.4, 52.5]}
LINE = {"type": "LineString", "coordinates": [[13.4, 52.5], [13.5, 52.6]]}


def channel(device_id: str, name: str, **more: Any) -> Channel:
    values = {"quantity": Quantity.FLOW, "device_unit": "L/s", "asset_id": None, "zone_id": "z1", "role": "zone_inflow"}
    return Channel(0, device_id, name, **(values | {"range_min": 0.0, "range_max": 500.0, "interval_s": 300.0} | more))


def registry(*devices: Device, channels: tuple[Channel, ...] = ()) -> Registry:
    zones = (
        Zone("r1", "town", "12", ZoneKind.CORRIDOR, LINE),
        Zone("z1", "town", "yes", ZoneKind.DMA, None, {"mains_km": 4.2, "a": "1e5"}),
    )
    assets = (Asset("pipe-1", "town", "z1", AssetClass.PIPE, "=Pipe", POINT, 4, {"material": "AC", "years": [1970, None, {"a": True}]}),)
    return Registry(SITE, zones, assets, devices, channels)


def again(kind: str, known: Registry) -> tuple[list[Any], tuple[str, ...]]:
    """Return what an import of the exported file would change, and what the file could not hold."""
    text, notes = export(kind, known)
    problems = Problems()
    document = read_document(f"a.{kind}", text.encode(), problems)
    wanted = check(document, known, {}, NOW_AT, problems)
    assert [str(problem) for problem in problems.kept] == []
    assert wanted is not None
    assert len(wanted.registry.devices) == len(known.devices)
    assert len(wanted.registry.channels) == len(known.channels)
    return [row for row in plan(known, wanted).rows if row.change is not Change.UNCHANGED], notes


each_kind = pytest.mark.parametrize("kind", ["csv", "geojson", "yaml"])
ODD = (
    "=1+1",
    "'=1+1",
    "''+49",
    "@x",
    "0042",
    "12",
    "no",
    "null",
    "~",
    "1e5",
    "1_000",
    '"q"',
    "[1]",
    "a: b",
    "# c",
    "2026-03-01",
    "ä, ö; ü",
)


@each_kind
def test_export_imported_again_changes_nothing(kind: str) -> None:
    devices = [
        Device(f"d-{i}", "town", "z1", None, text, "native", NOW_AT, attributes={"text": text, "n": 1}) for i, text in enumerate(ODD)
    ]
    devices.append(Device("lora", "town", None, "pipe-1", "", "chirpstack", NOW_AT, DeviceStatus.RETIRED, POINT, {}, "0004130110010530"))
    devices.append(
        Device("1e5", "town", "z1", None, "Logger", "native", NOW_AT - timedelta(microseconds=1), attributes={"f": -3.5, "z": False})
    )
    channels = (
        channel("lora", "flow", sign=-1, also_zone_id="r1", range_min=float("-inf"), range_max=float("inf"), address="=flow (m³/h)"),
        channel(
            "lora",
            "p",
            quantity=Quantity.PRESSURE,
            device_unit="bar",
            role="zone_pressure",
            resolution=0.1,
            asset_id="pipe-1",
            zone_id=None,
        ),
    )
    assert again(kind, registry(*devices, channels=channels)) == ([], ())


def test_export_csv_says_what_it_cannot_hold() -> None:
    devices = (
        Device("a", "town", None, None, "", "native", NOW_AT, geometry=LINE),
        Device("b", "town", None, None, "", "native", NOW_AT, attributes={f"a{i}": i for i in range(203)}),
    )
    text, notes = export("csv", registry(*devices))
    assert notes == (
        "1 devices have a geometry that is no point: a CSV file cannot hold it, GeoJSON and YAML can",
        "a CSV file holds at most 200 attributes, 3 were left out",
    )
    assert text.count("attributes.") == 200


def test_export_csv_runs_no_formula() -> None:
    device = Device("a", "town", None, None, "=HYPERLINK(1)", "native", NOW_AT, attributes={"phone": "+49 30", "depth_m": -3.5})
    text, _ = export("csv", registry(device))
    assert text.splitlines()[1].split(",")[3] == "'=HYPERLINK(1)"
    assert text.splitlines()[1].split(",")[-2:] == ["'+49 30", "-3.5"]


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12) | st.sampled_from(ODD)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS | st.just(""),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@each_kind
@given(model=TEXTS, address=TEXTS, attributes=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=3))
def test_export_any_texts_and_attributes_come_back(kind: str, model: str, address: str, attributes: dict[str, Any]) -> None:
    device = Device("a", "town", "z1", None, model, "native", NOW_AT, attributes=attributes)
    assert again(kind, registry(device, channels=(channel("a", "flow", address=address if address != "flow" else ""),)))[0] == []


@given(TEXTS)
def test_json_or_text_of_a_text_that_is_no_json_is_the_text(text: str) -> None:
    found = json_or_text(text)
    assert found == text or not isinstance(found, str) or text.startswith('"')
