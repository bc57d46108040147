from __future__ import annotations

import json

import pytest

from underway.app.devices_read import CSV_COLUMNS, PROBLEMS_MAX, Document, Problems, read_document


def read(name: str, text: str | bytes) -> tuple[Document, list[str]]:
    problems = Problems()
    document = read_document(name, text.encode() if isinstance(text, str) else text, problems)
    return document, [str(problem) for problem in problems.kept]


KNOWN = f"known: {', '.join(CSV_COLUMNS)} and attributes.<name>"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("a.xlsx", "x", "a file must be named .csv, .geojson or .yaml, got '.xlsx'", id="suffix"),
        pytest.param("devices", "x", "a file must be named .csv, .geojson or .yaml, got 'no suffix'", id="no-suffix"),
        pytest.param("a.csv", " \n", "a file must hold devices, got an empty one", id="empty"),
        pytest.param(
            "a.csv",
            "a\nb,\xe4".encode("latin-1"),
            "a file must be UTF-8 text, got byte 0xe4; it may be Windows-1252 or ISO 8859-1; save it as UTF-8 (line 2, byte 3)",
            id="latin-1",
        ),
        pytest.param(
            "a.csv", "device_id".encode("utf-16"), "a file must be UTF-8 text, got UTF-16; save it as UTF-8 (line 1)", id="utf-16"
        ),
        pytest.param(
            "a.csv",
            "device_id;zone_id\npr-1;z1\n",
            "the cells of a CSV file must be separated by ',' and numbers written with '.', got ';'; save it as comma separated, with a point in"
            " numbers (line 1)",
            id="semicolon",
        ),
        pytest.param(
            "a.csv",
            "device_id\tzone_id\n",
            "the cells of a CSV file must be separated by ',' and numbers written with '.', got tabs; save it as comma separated, with a point in"
            " numbers (line 1)",
            id="tab",
        ),
        pytest.param(
            "a.csv",
            "device_id,quantty\n",
            "a column must have a known name, got 'quantty'; nearest known: 'quantity' (line 1)",
            id="misspelt",
        ),
        pytest.param("a.csv", "device_id,xyz\n", f"a column must have a known name, got 'xyz'; {KNOWN} (line 1)", id="unknown-column"),
        pytest.param("a.csv", "device_id,unit,unit\n", "a column must stand once, got 'unit' twice (line 1)", id="twice"),
        pytest.param("a.csv", "device_id,,unit\n", "a column must have a name, got none for column 2 (line 1)", id="no-name"),
        pytest.param(
            "a.csv", "pr-1,z1\n", "the first line must name the columns ('device_id' and others), got 'pr-1', 'z1' (line 1)", id="no-header"
        ),
        pytest.param(
            "a.csv", "zone_id,unit\n", "the first line must name the columns, with 'device_id' among them (line 1)", id="no-device-id"
        ),
        pytest.param("a.csv", "device_id,unit\n", "a file must hold devices, got only a header", id="only-a-header"),
        pytest.param(
            "a.csv",
            "device_id,range_max\npr-1,3,5\n",
            "a row must have 2 cells as the header has, got 3; put a cell with a comma in quotes (line 2)",
            id="decimal-comma-makes-a-cell",
        ),
        pytest.param(
            "a.csv",
            "device_id,channel\n,flow\n",
            "'device_id' must say which device a row belongs to, got an empty one in the first row (line 2)",
            id="first-row-without-device",
        ),
        pytest.param(
            "a.csv",
            "device_id,zone_id,channel\npr-1,z1,flow\npr-1,z2,level\n",
            "'zone_id' of device 'pr-1' must be one, got 'z1' (line 2) and 'z2' (line 3)",
            id="device-cells-differ",
        ),
        pytest.param(
            "a.csv",
            'device_id,model\npr-1,"x\n',
            "a file must be CSV with '\"' around cells that hold commas or quotes: unexpected end of data (line 2)",
            id="open-quote",
        ),
        pytest.param(
            "a.csv",
            f"device_id,model\npr-1,{'x' * 10_001}\n",
            "'model' must have at most 10000 characters, got 10001 (line 2)",
            id="long-cell",
        ),
        pytest.param(
            "a.geojson",
            '{"type": "Feature"}',
            "a .geojson file must be a FeatureCollection with 'features', got 'Feature'",
            id="one-feature",
        ),
        pytest.param("a.geojson", "[1]", "a .geojson file must be a FeatureCollection with 'features', got list", id="array"),
        pytest.param("a.geojson", '{"type":', "a .geojson file must be JSON: Input data was truncated", id="cut-off"),
        pytest.param(
            "a.geojson", '{"type": "FeatureCollection", "features": []}', "'features' must hold 1..500000 devices, got 0", id="no-features"
        ),
        pytest.param(
            "a.geojson",
            '{"type": "FeatureCollection", "features": [{"type": "Feature"}]}',
            "a feature must have 'properties' with the fields of a device, got None (feature 1)",
            id="no-properties",
        ),
        pytest.param(
            "a.json",
            '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "EPSG:25833"}}, "features": [1]}',
            "coordinates must be longitude and latitude (WGS 84, CRS84), got {'type': 'name', 'properties': {'name': 'EPSG:25833'}};"
            " export them in EPSG:4326",
            id="other-coordinates",
        ),
        pytest.param(
            "a.geojson",
            '{"type": "FeatureCollection", "features": [{"properties": {"channels": {"flow": 1}}}]}',
            "'channels' must be a list of objects, got {'flow': 1} (feature 1)",
            id="channels-object",
        ),
        pytest.param(
            "a.geojson",
            '{"type": "FeatureCollection", "features": [{"properties": {"channels": ["flow"]}}]}',
            "a channel must be an object with 'name', got 'flow' (feature 1, channel 1)",
            id="channel-text",
        ),
        pytest.param("a.yaml", "devices:\n - {a: 1\n", "a file must be YAML: did not find expected ',' or '}' (line 3)", id="yaml-broken"),
        pytest.param(
            "a.yaml",
            "- device_id: a\n",
            "a YAML file must be a mapping with site, zones, assets, devices, got a list (line 1)",
            id="yaml-list",
        ),
        pytest.param(
            "a.yaml",
            "device:\n - device_id: a\n",
            "a section must be one of site, zones, assets, devices, got 'device'; nearest known: 'devices' (line 1)",
            id="yaml-section",
        ),
        pytest.param("a.yml", "devices: {device_id: a}\n", "'devices' must be a list, got a mapping (line 1)", id="yaml-no-list"),
        pytest.param("a.yml", "site: [a]\n", "'site' must be a mapping, got a list (line 1)", id="yaml-site"),
        pytest.param("a.yml", "devices:\n- pr-1\n", "an item of 'devices' must be a mapping, got a single value (line 2)", id="yaml-item"),
        pytest.param(
            "a.yml",
            "devices:\n- device_id: a\n  channels: flow\n",
            "'channels' must be a list of mappings, got a single value (line 3)",
            id="yaml-channels",
        ),
        pytest.param(
            "a.yml",
            "devices:\n- device_id: a\n  channels:\n  - flow\n",
            "a channel must be a mapping with 'name', got a single value (line 4)",
            id="yaml-channel",
        ),
        pytest.param(
            "a.yml",
            "devices:\n- device_id: a\n  device_id: b\n",
            "a field must stand once, got 'device_id' twice (line 3)",
            id="yaml-twice",
        ),
        pytest.param("a.yml", "devices:\n- [a]: b\n", "the name of a field must be a text, got a list (line 2)", id="yaml-key"),
        pytest.param("a.yml", "devices:\n- <<: b\n", "'<<' must name a mapping, got a single value (line 2)", id="yaml-merge"),
        pytest.param("a.yml", "devices:\n", "a file must hold a site, zones, assets or devices, got none", id="yaml-nothing"),
        pytest.param(
            "a.yml",
            "devices:\n- attributes: {a: [" + "1, " * 2000 + "1]}\n",
            "'attributes' must hold at most 2000 values in 32 levels, got more (line 2)",
            id="yaml-large",
        ),
        pytest.param(
            "a.yml",
            "[" * 100_000 + "\n",
            "a YAML file must have at most 32 levels of lists and mappings, got more (line 1)",
            id="yaml-brackets",
        ),
        pytest.param(
            "a.yml",
            "devices:\n- device_id: a\n  attributes: {a: " + "[" * 900 + "]" * 900 + "}\n",
            "a YAML file must have at most 32 levels of lists and mappings, got more (line 3)",
            id="yaml-deep",
        ),
        pytest.param(
            "a.yml",
            "x-a: &a [*a]\ndevices:\n- attributes: {a: *a}\n",
            "'attributes' must hold at most 2000 values in 32 levels, got more (line 3)",
            id="yaml-in-itself",
        ),
        pytest.param(
            "a.geojson",
            '{"type": ' + "[" * 900 + "]" * 900 + "}",
            "a .geojson file must be a FeatureCollection with 'features', got more than 32 levels",
            id="geojson-deep",
        ),
    ],
)
def test_read_document_wrong_file_says_what_was_expected(name: str, text: str | bytes, message: str) -> None:
    assert read(name, text)[1] == [message]


def test_read_document_many_problems_are_counted_and_the_first_kept() -> None:
    problems = Problems()
    read_document("a.csv", b"device_id,model\n" + b"pr-1,a,b\n" * 500, problems)
    assert (len(problems.kept), problems.count) == (PROBLEMS_MAX, 500)


def test_read_csv_takes_a_byte_order_mark_quotes_blank_lines_and_lines_in_a_cell() -> None:
    text = '\ufeffdevice_id,model,channel,channel_zone_id,attributes.a\r\n\r\n pr-1 ,"a,\n""b""",flow,z2,5\r\n,,level,,\r\nfm-1,,,,\r\n'
    document, problems = read("a.csv", text)
    assert problems == []
    pressure, meter = document.devices
    assert (pressure.place, pressure.fields) == ("line 3", {"device_id": "pr-1", "model": 'a,\n"b"', "attributes.a": "5"})
    assert [(c.place, c.fields) for c in pressure.channels] == [
        ("line 3", {"name": "flow", "zone_id": "z2"}),
        ("line 5", {"name": "level"}),
    ]
    assert (meter.place, meter.fields, meter.channels) == ("line 6", {"device_id": "fm-1"}, [])


def test_read_csv_formula_is_a_text() -> None:
    document, problems = read("a.csv", "device_id,model,attributes.a\npr-1,=HYPERLINK(1),'+49 30\n")
    assert problems == []
    assert document.devices[0].fields == {"device_id": "pr-1", "model": "=HYPERLINK(1)", "attributes.a": "+49 30"}


def test_read_geojson_geometry_and_channels_come_along() -> None:
    point = {"type": "Point", "coordinates": [13.4, 52.5]}
    feature = {"type": "Feature", "geometry": point, "properties": {"device_id": "a", "channels": [{"name": "flow"}]}}
    document, problems = read("a.json", json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert problems == []
    assert document.devices[0].fields == {"device_id": "a", "geometry": point}
    assert [(c.place, c.fields) for c in document.devices[0].channels] == [("feature 1, channel 1", {"name": "flow"})]


def test_read_yaml_scalars_stay_texts_references_are_followed_and_null_is_none() -> None:
    text = """
x-common: &common {dialect: chirpstack}
devices:
- &first
  <<: [{dialect: native}, *common]
  device_id: no
  address: 0004130110010530
  zone_id: null
  asset_id: "null"
  model:
  attributes: {serial: 0042, height: 3.5, on: true, text: "5"}
  channels: [{name: flow, range_min: 1_000}]
- {<<: *first, device_id: b}
"""
    document, problems = read("a.yaml", text)
    assert problems == []
    first, second = document.devices
    assert first.fields == {
        "device_id": "no",
        "address": "0004130110010530",
        "zone_id": None,
        "asset_id": "null",
        "attributes": {"serial": "0042", "height": 3.5, "on": True, "text": "5"},
        "dialect": "native",
    }
    assert (first.where("address"), first.where("status")) == ("line 7", "line 4")
    assert first.channels[0].fields == {"name": "flow", "range_min": "1_000"}
    assert (second.fields["device_id"], second.fields["address"]) == ("b", "0004130110010530")


def test_read_yaml_reference_bomb_costs_little() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    _, problems = read("a.yaml", bomb + "devices:\n- attributes: *i\n")
    assert problems[-1] == "'attributes' must hold at most 2000 values in 32 levels, got more (line 11)"
