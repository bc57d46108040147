from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from underway.app.devices_check import Wanted, check
from underway.app.devices_fields import ASSUMED, DIALECT_NAMES, ROLES
from underway.app.devices_plan import Change, Plan, Row, details, plan
from underway.app.devices_read import Problems, read_document
from underway.model import Asset, AssetClass, Channel, Device, DeviceStatus, Quantity, Registry, Site, Zone, ZoneKind

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
THEN_AT = datetime(2026, 1, 1, tzinfo=UTC)
SITE = Site("town", "Our Town", "Europe/Berlin", 52.5, 13.4)
ZONES = (
    Zone("z1", "town", "Zone 1", ZoneKind.DMA),
    Zone("z2", "town", "Zone 2", ZoneKind.DMA),
    Zone("r1", "town", "Road", ZoneKind.CORRIDOR),
)
ASSETS = (Asset("pipe-1", "town", "z1", AssetClass.PIPE, "Pipe 1"),)
DEVICES = (
    Device("fm-1", "town", "z1", None, "Meter", "native", THEN_AT, attributes={"serial": "7", "height_m": 3.0}),
    Device("pr-1", "town", "z1", "pipe-1", "Logger", "chirpstack", THEN_AT, DeviceStatus.RETIRED, address="70b3d5499a1b2c3d"),
)
FLOW = Channel(1, "fm-1", "flow", Quantity.FLOW, "L/s", None, "z1", "zone_inflow", 0.0, 500.0, 300.0)
KNOWN = Registry(SITE, ZONES, ASSETS, DEVICES, (FLOW,))
ELSEWHERE = {"device fm-9": "city", "zone z9": "city"}


def checked(name: str, text: str, known: Registry | None = KNOWN) -> tuple[Wanted | None, list[str]]:
    problems = Problems()
    document = read_document(name, text.encode(), problems)
    assert not problems.count
    wanted = check(document, known, ELSEWHERE, NOW_AT, problems)
    return wanted, [str(problem) for problem in problems.kept]


def good(name: str, text: str, known: Registry | None = KNOWN) -> Wanted:
    wanted, problems = checked(name, text, known)
    assert problems == []
    assert wanted is not None
    return wanted


def device_csv(**cells: str) -> str:
    cells = {"device_id": "pr-9"} | cells
    return ",".join(cells) + "\n" + ",".join(f'"{cell}"' for cell in cells.values()) + "\n"


def channel_csv(**cells: str) -> str:
    return device_csv(**({"zone_id": "z1", "channel": "p", "quantity": "pressure"} | cells))


DIALECTS, ROLE_NAMES, QUANTITIES = ", ".join(DIALECT_NAMES), ", ".join(ROLES), ", ".join(Quantity)
SHORT = "1..64 of a-z, 0-9, '-' and '_'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            device_csv(device_id="PR 1"), f"'device_id' must be {SHORT}, and begin with a letter or digit, got 'PR 1'", id="device-id"
        ),
        pytest.param(device_csv(device_id="fm-9"), "device 'fm-9' must be of site 'town', it belongs to site 'city'", id="other-site"),
        pytest.param(
            device_csv(dialect="chirpstak"),
            f"'dialect' must be one of {DIALECTS}, got 'chirpstak'; nearest known: 'chirpstack'",
            id="dialect",
        ),
        pytest.param(
            device_csv(dialect="chirpstack", address="70b3"),
            "'address' of a chirpstack device must be the DevEUI, 16 hexadecimal digits, got '70b3'",
            id="deveui",
        ),
        pytest.param(
            device_csv(dialect="chirpstack"),
            "'address' of a chirpstack device must be the DevEUI, 16 hexadecimal digits, got none, and the device_id 'pr-9'",
            id="no-deveui",
        ),
        pytest.param(
            device_csv(dialect="thethings", address="70b3"),
            "'address' of a thethings device must be the DevEUI, 16 hexadecimal digits, or '{application}@{tenant}/{device}', got '70b3'",
            id="thethings-address",
        ),
        pytest.param(
            device_csv(dialect="senml", address="north"),
            "'address' of a senml device must be '{tenant}/{device}' of its topic, each 1..64 characters without '+' and '#', got 'north'",
            id="senml-address",
        ),
        pytest.param(
            device_csv(dialect="senml"),
            "'address' of a senml device must be '{tenant}/{device}' of its topic, each 1..64 characters without '+' and '#', got none,"
            " and the device_id 'pr-9'",
            id="no-senml-address",
        ),
        *(
            pytest.param(
                device_csv(dialect="sensorthings", address=address),
                "'address' of a sensorthings device must be a Datastream: 'Datastreams(5)', \"Datastreams('inlet')\" or 'MultiDatastreams(3)',"
                f" got {address!r}",
                id=f"sensorthings-{address}",
            )
            for address in ("5", "Datastreams(05)", "Datastreams(inlet)", "Datastreams('')", "Things(5)")
        ),
        pytest.param(
            device_csv(address="a/b"), f"'address' of a native device must be {SHORT}, as in the topic, got 'a/b'", id="native-address"
        ),
        pytest.param(
            device_csv(dialect="chirpstack", address="70B3D5499A1B2C3D"),
            "'70b3d5499a1b2c3d' must be the address of one chirpstack device, got it for 'pr-9' and 'pr-1' (registered, retired)",
            id="address-taken",
        ),
        pytest.param(
            device_csv(address="fm-1"),
            "'fm-1' must be the address of one native device, got it for 'pr-9' and 'fm-1' (registered, active)",
            id="address-is-an-id",
        ),
        pytest.param(device_csv(zone_id="Z1"), "'zone_id' must be a zone that is registered, got 'Z1'; nearest known: 'z1'", id="zone"),
        pytest.param(device_csv(asset_id="pump"), "'asset_id' must be an asset that is registered, got 'pump'; known: pipe-1", id="asset"),
        pytest.param(device_csv(status="on"), "'status' must be one of active, pending, retired, got 'on'", id="status"),
        pytest.param(
            device_csv(registered_at="1.3.2026"),
            "'registered_at' must be an RFC 3339 instant with zone, or a day like 2026-03-01, got '1.3.2026'",
            id="registered",
        ),
        pytest.param(
            device_csv(registered_at="2026-03-01T10:00:00"),
            "'registered_at' must be an RFC 3339 instant with zone, or a day like 2026-03-01, got '2026-03-01T10:00:00'",
            id="registered-no-zone",
        ),
        *(
            pytest.param(
                device_csv(registered_at=at), f"'registered_at' must be in the years 1 to 9999 of UTC, got '{at}'", id=f"registered-{at}"
            )
            for at in ("0001-01-01", "9999-12-31T23:59:59-05:00")
        ),
        pytest.param(
            device_csv(**{"attributes.a": "[" * 900 + "]" * 900}),
            "the attribute 'a' must have at most 32 levels of lists and mappings, got more",
            id="attribute-deep",
        ),
        pytest.param(
            device_csv(**{"attributes.q3_m3ph": "2.5 m3/h"}),
            "the attribute 'q3_m3ph' must be a number in 0.1..10000 m3/h, got '2.5 m3/h'",
            id="attribute-of-a-meter-with-a-unit",
        ),
        pytest.param(
            device_csv(**{"attributes.ratio_r": "2"}),
            "the attribute 'ratio_r' must be a number in 10..1000, got 2",
            id="attribute-of-a-meter-too-small",
        ),
        pytest.param(
            device_csv(registered_at="2026-03-01T13:00:00Z"),
            "'registered_at' must not be in the future, got '2026-03-01T13:00:00Z'",
            id="future",
        ),
        pytest.param(device_csv(latitude="52.5"), "'latitude' and 'longitude' must come together, got only one of them", id="half-a-place"),
        pytest.param(
            device_csv(latitude="52,5", longitude="13.4"),
            "'latitude' must be a number in degrees, got '52,5'; write 52.5 (with a point)",
            id="decimal-comma",
        ),
        pytest.param(device_csv(latitude="91", longitude="13.4"), "'latitude' must be in -90..90 in degrees, got '91'", id="latitude"),
        pytest.param(channel_csv(quantity=""), f"a new channel must have 'quantity', one of {QUANTITIES}", id="no-quantity"),
        pytest.param(
            channel_csv(quantity="presure"),
            f"'quantity' must be one of {QUANTITIES}, got 'presure'; nearest known: 'pressure'",
            id="quantity",
        ),
        pytest.param(
            channel_csv(unit="L/s"),
            "'unit' must be a unit of pressure (kPa, Pa, hPa, MPa, bar, mbar, psi, [psi], ...); it is one of flow, got 'L/s'",
            id="unit",
        ),
        pytest.param(
            channel_csv(unit="Torr"),
            "'unit' must be a unit of pressure (kPa, Pa, hPa, MPa, bar, mbar, psi, [psi], ...), got 'Torr'",
            id="torr",
        ),
        pytest.param(
            channel_csv(role="inflow"), f"'role' must be one of {ROLE_NAMES}, got 'inflow'; nearest known: 'zone_inflow'", id="role"
        ),
        pytest.param(
            channel_csv(role="rain"),
            "'role' of pressure must be one of zone_pressure, pump_suction, pump_discharge, prv_upstream, prv_downstream, health, got 'rain'",
            id="role-of-quantity",
        ),
        pytest.param(
            channel_csv(range_min="5", range_max="5"),
            "'range_max' must be above 'range_min' 5 kPa, got 5",
            id="range",
        ),
        pytest.param(channel_csv(range_min="0 bar"), "'range_min' must be a number in kPa, got '0 bar'", id="range-no-number"),
        pytest.param(channel_csv(interval_s="0"), "'interval_s' must be above 0 s, got '0'", id="interval"),
        pytest.param(channel_csv(resolution="-1"), "'resolution' must be at least 0 in kPa, got '-1'", id="resolution"),
        pytest.param(channel_csv(sign="2"), "'sign' must be 1 (positive flow enters the zone) or -1, got '2'", id="sign"),
        pytest.param(
            channel_csv(also_zone_id="z2"),
            "'also_zone_id' must be the other zone of a flow between two zones, got 'z2' for zone_pressure of zone 'z1'",
            id="also-zone",
        ),
        pytest.param(
            channel_csv(channel="p/1"), "the name of a channel must be 1..64 letters, digits, '_', '.' or '-', got 'p/1'", id="name"
        ),
        pytest.param(channel_csv(channel=""), "a channel of device 'pr-9' must have a name", id="no-name"),
        pytest.param(
            channel_csv(channel_zone_id="z7"), "'zone_id' must be a zone that is registered, got 'z7'; known: r1, z1, z2", id="channel-zone"
        ),
    ],
)
def test_check_wrong_cell_says_what_was_expected(text: str, message: str) -> None:
    wanted, problems = checked("a.csv", text)
    assert problems == [f"{message} (line 2)"]
    assert wanted is None


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("dialect", "address"),
    [
        ("senml", "north/pr-113"),
        ("senml", "lake-works/PL-0042"),
        ("sensorthings", "Datastreams(5)"),
        ("sensorthings", "Datastreams(-1)"),
        ("sensorthings", "Datastreams('inlet')"),
        ("sensorthings", "Datastreams('the mayor''s')"),
        ("sensorthings", "MultiDatastreams(3)"),
    ],
)
def test_check_address_that_a_decoder_gives_is_taken_as_it_is(dialect: str, address: str) -> None:
    (device,) = good("a.csv", device_csv(dialect=dialect, address=address)).registry.devices
    assert device.spoken_address == address


def test_check_attribute_of_as_many_levels_as_the_limit_is_taken_and_of_one_more_is_not() -> None:
    (device,) = good("a.geojson", feature(device_id="a", attributes={"a": nested(32)})).registry.devices
    assert device.attributes == {"a": nested(32)}
    assert checked("a.geojson", feature(device_id="a", attributes={"a": [nested(900)]}, model=nested(900)))[1] == [
        "'model' must be a text, got more than 32 levels (feature 1)",
        "the attribute 'a' must have at most 32 levels of lists and mappings, got more (feature 1)",
    ]


def feature(**properties: Any) -> str:
    geometry = properties.pop("geometry", None)
    return json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": geometry, "properties": properties}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(feature(zone_id="z1"), "a device must have 'device_id' (feature 1)", id="no-id"),
        pytest.param(feature(device_id=["a"]), "'device_id' must be a text, got ['a'] (feature 1)", id="id-type"),
        pytest.param(
            feature(device_id="a", zone="z1"),
            "a field of a device must be known, got 'zone'; nearest known: 'zone_id' (feature 1)",
            id="field",
        ),
        pytest.param(
            feature(device_id="a", model="x\ny"),
            "'model' must be a text of 1..200 printable characters, got 'x\\ny' (feature 1)",
            id="text",
        ),
        pytest.param(
            feature(device_id="a", attributes=[1]),
            "'attributes' must be a mapping of names to values, got [1] (feature 1)",
            id="attributes",
        ),
        pytest.param(
            feature(device_id="a", geometry={"type": "Circle"}),
            "'geometry' must be a GeoJSON geometry of the type Point, MultiPoint, LineString, MultiLineString, Polygon, MultiPolygon,"
            " got {'type': 'Circle'} (feature 1)",
            id="geometry-type",
        ),
        pytest.param(
            feature(device_id="a", geometry={"type": "Point", "coordinates": [400123.0, 5820000.0]}),
            "'geometry' must be in degrees, longitude first (WGS 84), got the position [400123.0, 5820000.0] (feature 1)",
            id="metres",
        ),
        pytest.param(
            feature(device_id="a", geometry={"type": "LineString", "coordinates": [13.4, 52.5]}),
            "'geometry' must be a LineString with positions of longitude and latitude, got 13.4 (feature 1)",
            id="positions",
        ),
        pytest.param(
            feature(device_id="a", geometry={"type": "Polygon", "coordinates": []}),
            "'geometry' must be a Polygon with its 'coordinates', got [] (feature 1)",
            id="no-coordinates",
        ),
        pytest.param(
            feature(device_id="a", geometry={"type": "Point", "coordinates": [13.4, 52.5]}, latitude=52.5, longitude=13.4),
            "a place must be either 'geometry' or 'latitude' and 'longitude', got both (feature 1)",
            id="two-places",
        ),
        pytest.param(
            feature(device_id="a", channels=[{"name": "p", "quantity": "pressure"}, {"name": "p", "quantity": "pressure"}]),
            "channel 'p' of device 'a' must stand once, got it in feature 1, channel 1 too (feature 1, channel 2)",
            id="channel-twice",
        ),
        pytest.param(
            feature(device_id="a", channels=[{"name": "p", "quantity": "pressure"}, {"name": "q", "address": "p", "quantity": "pressure"}]),
            "'p' must be the address of one channel of device 'a', got it for 'p' and 'q' (feature 1, channel 2)",
            id="channel-address",
        ),
        pytest.param(
            feature(device_id="a", channels=[{"name": "p", "quantity": "pressure", "range_max": True}]),
            "'range_max' must be a number in kPa, got True (feature 1, channel 1)",
            id="truth-is-no-number",
        ),
    ],
)
def test_check_wrong_feature_says_what_was_expected(text: str, message: str) -> None:
    assert checked("a.geojson", text)[1] == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("zones: [{name: x}]", "a zone must have 'zone_id' (line 1)", id="zone-id"),
        pytest.param("zones: [{zone_id: z8}]", "a new zone must have 'kind', one of dma, corridor (line 1)", id="zone-kind"),
        pytest.param(
            "zones: [{zone_id: z9, kind: dma}]", "zone 'z9' must be of site 'town', it belongs to site 'city' (line 1)", id="zone-elsewhere"
        ),
        pytest.param(
            "assets:\n- asset_id: a\n  asset_class: pipes\n",
            f"'asset_class' must be one of {', '.join(AssetClass)}, got 'pipes'; nearest known: 'pipe' (line 3)",
            id="asset-class",
        ),
        pytest.param(
            "assets: [{asset_id: a}]", f"a new asset must have 'asset_class', one of {', '.join(AssetClass)} (line 1)", id="asset-no-class"
        ),
        pytest.param(
            "assets: [{asset_id: tk-1, asset_class: tank, attributes: {overflow_m: 4.0, low_m: 5.0}}]",
            "'low_m' must be below 'overflow_m' (4.0 m), got 5.0 (line 1)",
            id="tank-attributes",
        ),
        pytest.param(
            "assets: [{asset_id: pipe-1, criticality: 2.5}]",
            "'criticality' must be a whole number in 1..5, got '2.5' (line 1)",
            id="criticality",
        ),
        pytest.param("site: {site_id: city}", "'site_id' must be the site that is imported into, 'town', got 'city' (line 1)", id="site"),
        pytest.param(
            "site: {site_id: town, timezone: Berlin}",
            "'timezone' must be a name of the time zone database like Europe/Berlin, got 'Berlin' (line 1)",
            id="timezone",
        ),
        pytest.param(
            "devices:\n- device_id: a\n- device_id: a\n", "device 'a' must stand once, got it in line 2 too (line 3)", id="device-twice"
        ),
        pytest.param(
            "devices:\n- {device_id: a, dialect: sparkplug, address: g/e}\n- {device_id: b, dialect: sparkplug, address: g/e}\n",
            "'g/e' must be the address of one sparkplug device, got it for 'b' and 'a' (line 2) (line 3)",
            id="address-twice",
        ),
    ],
)
def test_check_wrong_yaml_says_what_was_expected(text: str, message: str) -> None:
    if "sparkplug" in text and "sparkplug" not in DIALECT_NAMES:
        text, message = (t.replace("sparkplug", "native").replace("g/e", "g") for t in (text, message))
    assert checked("a.yaml", text)[1] == [message]


def test_check_without_a_site_says_how_to_begin() -> None:
    message = "a site must be registered before its devices; begin with a YAML file that has a section 'site'"
    assert checked("a.csv", "device_id\npr-1\n", None)[1] == [message]


def test_check_new_site_that_is_not_whole_names_what_is_missing() -> None:
    assert checked("a.yaml", "site: {site_id: A, name: x, latitude: 1}", None)[1] == [
        "'site_id' must be 1..64 of a-z, 0-9, '-' and '_', got 'A' (line 1)",
        "a new site must have 'timezone' (line 1)",
        "a new site must have 'longitude' (line 1)",
    ]


def test_check_every_problem_is_reported_at_once() -> None:
    text = "device_id,zone_id,channel,quantity,unit\npr-8,z7,p,pressure,L/s\npr-9,z1,q,flo,\n"
    assert [line.rsplit(" (", 1)[1] for line in checked("a.csv", text)[1]] == ["line 2)", "line 2)", "line 3)"]


def test_check_new_channels_are_assumed_by_quantity_and_kind_of_zone() -> None:
    text = "device_id,zone_id,channel,quantity\n" + "".join(
        f"d-{z or 'no'},{z},{q.value},{q.value}\n" for z in ("z1", "r1", "") for q in Quantity
    )
    wanted = good("a.csv", text)
    roles = {(c.zone_id, c.quantity): c.role for c in wanted.registry.channels}
    assert roles["z1", Quantity.FLOW] == "zone_inflow"
    assert (roles["z1", Quantity.LEVEL], roles["r1", Quantity.LEVEL]) == ("tank_level", "drain_level")
    assert (roles["r1", Quantity.ROUGHNESS], roles["z1", Quantity.ROUGHNESS]) == ("roughness", "health")
    assert {role for (zone, _), role in roles.items() if zone is None} == {"health"}
    assert all(c.quantity in ROLES[c.role] for c in wanted.registry.channels)
    for c in wanted.registry.channels:
        assumed = ASSUMED[c.quantity]
        assert (c.range_min, c.range_max, c.interval_s) == (assumed.range_min, assumed.range_max, assumed.interval_s)
        assert wanted.assumed["channel", f"{c.device_id}/{c.name}"] == ("unit", "role", "range_min", "range_max", "interval_s")


def test_check_what_the_file_leaves_out_stays_and_null_takes_away() -> None:
    wanted = good(
        "a.yaml",
        "devices:\n- device_id: fm-1\n  attributes: {serial: null, floor: 2}\n  channels: [{name: flow, range_max: 900}]\n"
        "- {device_id: pr-1, asset_id: null}\n",
    )
    meter, logger = wanted.registry.devices
    assert meter == Device("fm-1", "town", "z1", None, "Meter", "native", THEN_AT, attributes={"height_m": 3.0, "floor": 2})
    assert (logger.asset_id, logger.address, logger.status) == (None, "70b3d5499a1b2c3d", DeviceStatus.RETIRED)
    (flow,) = wanted.registry.channels
    assert (flow.range_min, flow.range_max, flow.device_unit, flow.role) == (0.0, 900.0, "L/s", "zone_inflow")
    assert wanted.assumed == {}


def test_check_device_that_moves_takes_its_channels_along() -> None:
    wanted = good("a.csv", "device_id,zone_id\nfm-1,z2\n")
    assert [(c.name, c.zone_id) for c in wanted.registry.channels] == [("flow", "z2")]


def test_check_day_is_the_first_moment_at_the_site() -> None:
    (device,) = good("a.csv", device_csv(registered_at="2026-02-01", latitude="52.5", longitude="13.4")).registry.devices
    assert device.registered_at == datetime(2026, 1, 31, 23, 0, tzinfo=UTC)
    assert device.geometry == {"type": "Point", "coordinates": [13.4, 52.5]}


def test_check_address_that_is_the_id_is_not_kept_twice() -> None:
    text = "device_id,dialect,address,channel,channel_address,quantity\n70b3d5499a1b2c99,chirpstack,70-B3-D5-49-9A-1B-2C-99,p,p,pressure\n"
    wanted = good("a.csv", text)
    assert (wanted.registry.devices[0].address, wanted.registry.channels[0].address) == ("", "")


def planned(name: str, text: str, known: Registry | None = KNOWN) -> Plan:
    return plan(known, good(name, text, known))


def test_plan_says_new_changed_and_unchanged_and_writes_only_what_differs() -> None:
    text = "device_id,model,channel,quantity,unit,range_max\nfm-1,Meter,flow,,,900\npr-1,Logger,p,pressure,bar,\nfm-1,,battery,battery,,\n"
    text = text.replace("\nfm-1,,battery", "\n,,battery")  # of pr-1
    found = planned("a.csv", text)
    assert found.counts() == {
        "site": {"new": 0, "changed": 0, "unchanged": 1},
        "device": {"new": 0, "changed": 0, "unchanged": 2},
        "channel": {"new": 2, "changed": 1, "unchanged": 0},
    }
    changed = next(row for row in found.rows if row.change is Change.CHANGED)
    assert changed == Row("channel", "fm-1/flow", Change.CHANGED, {"range_max": (500.0, 900.0)})
    assert details(changed) == "range_max 500 -> 900"
    new = next(row for row in found.rows if row.row_id == "pr-1/p")
    assert details(new) == "pressure in bar, zone_pressure*, -100..2500 kPa*, every 300 s*, zone z1"
    assert found.to_write is not None
    assert [d.device_id for d in found.to_write.devices] == ["fm-1", "pr-1"]
    assert [c.name for c in found.to_write.channels] == ["flow", "p", "battery"]
    assert json.loads(json.dumps(found.plain(), allow_nan=False))["rows"][3]["fields"] == {"range_max": [500.0, 900.0]}


def test_plan_marks_what_a_file_does_not_say_of_new_rows() -> None:
    found = planned(
        "a.yaml",
        "zones:\n- {zone_id: z8, kind: dma}\nassets:\n- {asset_id: p-8, asset_class: pipe, name: P 8}\n"
        "devices:\n- {device_id: n-1, status: active}\n- {device_id: s-1, dialect: senml, address: a/b, registered_at: 2026-02-01T00:00:00Z}\n",
    )
    assert {row.row_id: details(row) for row in found.rows if row.kind != "site"} == {
        "z8": "name z8*, kind dma",
        "p-8": "name P 8, asset_class pipe",
        "n-1": "dialect native*, status active, registered_at 2026-03-01T12:00:00Z*",
        "s-1": "dialect senml, address a/b, status active*, registered_at 2026-02-01T00:00:00Z",
    }
    assert [row.get("assumed") for row in found.plain()["rows"] if row["kind"] == "device"] == [["dialect", "registered_at"], ["status"]]


def test_plan_of_what_is_registered_writes_nothing() -> None:
    assert planned("a.csv", "device_id,zone_id\nfm-1,z1\n").to_write is None
