"""Files of devices as they stand: CSV, GeoJSON and YAML become records of fields, each with its place for messages. Pure."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import msgspec
import yaml

FILE_BYTES_MAX = 256 * 1024 * 1024
RECORDS_MAX = 500_000
PROBLEMS_MAX = 200
CELL_CHARS_MAX = 10_000
SHOWN_CHARS_MAX = 60
NESTED_MAX = 2_000
"""Most values inside one attribute or geometry of a YAML file, where a reference may stand for many."""
DEPTH_MAX = 32
"""Most levels of lists and mappings in a YAML file, and inside one value of any file."""

SUFFIXES = {".csv": "csv", ".geojson": "geojson", ".json": "geojson", ".yaml": "yaml", ".yml": "yaml"}

SITE_FIELDS = ("site_id", "name", "timezone", "latitude", "longitude")
ZONE_FIELDS = ("zone_id", "name", "kind", "geometry", "attributes")
ASSET_FIELDS = ("asset_id", "zone_id", "asset_class", "name", "latitude", "longitude", "geometry", "criticality", "attributes")
DEVICE_FIELDS = (
    *("device_id", "dialect", "address", "model", "zone_id", "asset_id", "registered_at", "status"),
    *("latitude", "longitude", "geometry", "attributes"),
)
CHANNEL_FIELDS = (
    *("name", "address", "quantity", "unit", "role", "range_min", "range_max", "interval_s", "resolution", "sign"),
    *("asset_id", "zone_id", "also_zone_id"),
)
CSV_CHANNEL = {
    **{name: name for name in CHANNEL_FIELDS},
    "channel": "name",
    "channel_address": "address",
    "channel_asset_id": "asset_id",
    "channel_zone_id": "zone_id",
}
"""Columns of a CSV file that belong to the channel; those that a device has too carry a prefix."""
CSV_COLUMNS = (
    *(name for name in DEVICE_FIELDS if name not in ("geometry", "attributes")),
    *("channel", "channel_address", "quantity", "unit", "role", "range_min", "range_max", "interval_s", "resolution", "sign"),
    *("channel_asset_id", "channel_zone_id", "also_zone_id"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file: where (``line 3``), which field, and a sentence that says what was expected and what came."""

    place: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} ({self.place})" if self.place else self.message


class Problems:
    """Collects problems; keeps the first `PROBLEMS_MAX` and counts all."""

    def __init__(self) -> None:
        self.kept: list[Problem] = []
        self.count = 0

    def add(self, place: str, name: str, message: str) -> None:
        """Add a problem."""
        self.count += 1
        if len(self.kept) < PROBLEMS_MAX:
            self.kept.append(Problem(place, name, message))


@dataclass(slots=True)
class Record:
    """Fields as they stand in the file: texts (CSV, YAML), or plain JSON values (GeoJSON); what is left empty is absent, None is said to be none."""

    place: str
    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def where(self, name: str) -> str:
        """Return the place of one field."""
        return f"line {self.lines[name]}" if name in self.lines else self.place


@dataclass(slots=True)
class DeviceRecord(Record):
    """A device, and its channels."""

    channels: list[Record] = field(default_factory=list)


@dataclass(slots=True)
class Document:
    """What a file holds."""

    site: Record | None = None
    zones: list[Record] = field(default_factory=list)
    assets: list[Record] = field(default_factory=list)
    devices: list[DeviceRecord] = field(default_factory=list)


def read_document(name: str, data: bytes, problems: Problems) -> Document:
    r"""Return what stands in a file; what cannot be read is a problem.

    Parameters
    ----------
    name : str
        Its suffix says what it is: ``.csv``, ``.geojson`` or ``.json``, ``.yaml`` or ``.yml``.
    data : bytes
        UTF-8, with or without a byte order mark, at most 256 MB.
    problems : Problems

    Examples
    --------
    >>> document = read_document("a.csv", b"device_id,channel,unit\npr-1,pressure,bar\n,battery,V\n", Problems())
    >>> [(d.fields, [(c.place, c.fields["name"]) for c in d.channels]) for d in document.devices]
    [({'device_id': 'pr-1'}, [('line 2', 'pressure'), ('line 3', 'battery')])]
    """
    suffix = PurePath(name).suffix.lower()
    kind = SUFFIXES.get(suffix)
    if kind is None:
        problems.add("", "", f"a file must be named .csv, .geojson or .yaml, got {suffix or 'no suffix'!r}")
        return Document()
    if len(data) > FILE_BYTES_MAX:
        problems.add("", "", f"a file must have at most {FILE_BYTES_MAX // 2**20} MB, got {len(data) / 2**20:.0f} MB; import it in parts")
        return Document()
    text = _text(data, problems)
    if text is None:
        return Document()
    if not text.strip():
        problems.add("", "", "a file must hold devices, got an empty one")
        return Document()
    if kind == "csv":
        return _csv(text, problems)
    return _geojson(text, problems) if kind == "geojson" else _yaml(text, problems)


def shown(value: object) -> str:
    """Return a value as a message shows it: short, on one line."""
    text = f"more than {DEPTH_MAX} levels" if is_deep(value) else repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


def is_deep(value: object) -> bool:
    """Return whether a plain JSON value has more than `DEPTH_MAX` levels of lists and mappings.

    Examples
    --------
    >>> deep = 1
    >>> for _ in range(DEPTH_MAX + 1):
    ...     deep = [deep]
    >>> is_deep(deep), is_deep(deep[0]), is_deep({"a": "b"})
    (True, False, False)
    """
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())]
        if not level:
            return False
    return True


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ``"; nearest known: 'x'"``, or nothing when nothing is near."""
    found = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"; nearest known: '{found[0]}'" if found else ""


def _text(data: bytes, problems: Problems) -> str | None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        problems.add("line 1", "", "a file must be UTF-8 text, got UTF-16; save it as UTF-8")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        hint = "it may be Windows-1252 or ISO 8859-1; save it as UTF-8"
        problems.add(f"line {line}, byte {column}", "", f"a file must be UTF-8 text, got byte 0x{data[error.start]:02x}; {hint}")
        return None


# CSV


def _csv(text: str, problems: Problems) -> Document:
    document = Document()
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    device: DeviceRecord | None = None
    rows = 0
    line = 1
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _header(cells, begin, problems)
                if columns is None:
                    return document
                continue
            rows += 1
            if rows > RECORDS_MAX:
                problems.add(f"line {begin}", "", f"a file must hold at most {RECORDS_MAX} rows; import it in parts")
                break
            if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                problems.add(
                    f"line {begin}",
                    "",
                    f"a row must have {len(columns)} cells as the header has, got {len(cells)}; put a cell with a comma in quotes",
                )
                continue
            device = _row(columns, cells, f"line {begin}", device, document, problems)
    except csv.Error as error:
        problems.add(f"line {reader.line_num}", "", f"a file must be CSV with '\"' around cells that hold commas or quotes: {error}")
    if columns is not None and not rows and not problems.count:
        problems.add("", "", "a file must hold devices, got only a header")
    return document


def _header(cells: Sequence[str], line: int, problems: Problems) -> list[str] | None:
    """Return the names of the columns, or None when the first line is no header."""
    place = f"line {line}"
    if len(cells) == 1:
        for sign, called in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
            if sign in cells[0]:
                problems.add(
                    place,
                    "",
                    f"the cells of a CSV file must be separated by ',' and numbers written with '.', got {called};"
                    " save it as comma separated, with a point in numbers",
                )
                return None
    names: list[str] = []
    bad = False
    if not any(cell.strip() in CSV_COLUMNS or nearest(cell.strip(), CSV_COLUMNS) for cell in cells):
        got = ", ".join(shown(cell.strip()) for cell in cells[:3])
        problems.add(place, "", f"the first line must name the columns ('device_id' and others), got {got}")
        return None
    for number, cell in enumerate(cells, 1):
        name = cell.strip()
        if name.startswith("attributes.") and len(name) > len("attributes."):
            pass
        elif name not in CSV_COLUMNS:
            bad = True
            if name:
                what = nearest(name, CSV_COLUMNS) or f"; known: {', '.join(CSV_COLUMNS)} and attributes.<name>"
                problems.add(place, name, f"a column must have a known name, got {shown(name)}{what}")
            else:
                problems.add(place, "", f"a column must have a name, got none for column {number}")
        if name and name in names:
            bad = True
            problems.add(place, name, f"a column must stand once, got {shown(name)} twice")
        names.append(name)
    if "device_id" not in names and not bad:
        bad = True
        problems.add(place, "device_id", "the first line must name the columns, with 'device_id' among them")
    return None if bad else names


def _row(
    columns: Sequence[str], cells: Sequence[str], place: str, device: DeviceRecord | None, document: Document, problems: Problems
) -> DeviceRecord | None:
    """Take one row; return the device that it belongs to."""
    mine: dict[str, Any] = {}
    channel: dict[str, Any] = {}
    for name, cell in zip(columns, cells, strict=False):
        value = cell.strip()
        if value == "":
            continue
        if len(value) > CELL_CHARS_MAX:
            problems.add(place, name, f"'{name}' must have at most {CELL_CHARS_MAX} characters, got {len(value)}")
            continue
        if name in CSV_CHANNEL and name not in DEVICE_FIELDS:
            channel[CSV_CHANNEL[name]] = plain_text(value)
        else:
            mine[name] = plain_text(value)
    device_id = mine.get("device_id")
    if device_id is None and device is None:
        problems.add(place, "device_id", "'device_id' must say which device a row belongs to, got an empty one in the first row")
        return None
    if device is None or device_id not in (None, device.fields["device_id"]):
        device = DeviceRecord(place, mine)
        document.devices.append(device)
    else:
        for name, value in mine.items():
            before = device.fields.setdefault(name, value)
            if before != value:
                said = f"{shown(before)} ({device.place}) and {shown(value)}"
                problems.add(place, name, f"'{name}' of device '{device.fields['device_id']}' must be one, got {said}")
    if channel:
        device.channels.append(Record(place, channel))
    return device


_QUOTED_FORMULA = re.compile(r"'+[=+\-@\t]")


def plain_text(value: str) -> str:
    """Return a cell without the quote that keeps a spreadsheet from running it as a formula; nothing is ever computed here.

    Examples
    --------
    >>> plain_text("'=1+1"), plain_text("=1+1"), plain_text("'quoted'")
    ('=1+1', '=1+1', "'quoted'")
    """
    return value[1:] if _QUOTED_FORMULA.match(value) else value


# GeoJSON


def _geojson(text: str, problems: Problems) -> Document:
    document = Document()
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        problems.add("", "", f"a .geojson file must be JSON: {error}")
        return document
    if not isinstance(found, dict) or found.get("type") != "FeatureCollection" or not isinstance(found.get("features"), list):
        got = shown(found.get("type")) if isinstance(found, dict) else type(found).__name__
        problems.add("", "type", f"a .geojson file must be a FeatureCollection with 'features', got {got}")
        return document
    crs = found.get("crs")
    if crs is not None and (is_deep(crs) or not any(word in str(crs) for word in ("CRS84", "4326"))):
        problems.add("", "crs", f"coordinates must be longitude and latitude (WGS 84, CRS84), got {shown(crs)}; export them in EPSG:4326")
        return document
    features = found["features"]
    if not features or len(features) > RECORDS_MAX:
        problems.add("", "features", f"'features' must hold 1..{RECORDS_MAX} devices, got {len(features)}")
        return document
    for number, feature in enumerate(features, 1):
        place = f"feature {number}"
        properties = feature.get("properties") if isinstance(feature, dict) else None
        if not isinstance(properties, dict):
            problems.add(place, "properties", f"a feature must have 'properties' with the fields of a device, got {shown(properties)}")
            continue
        fields = dict(properties)
        if feature.get("geometry") is not None:
            fields["geometry"] = feature["geometry"]
        channels = fields.pop("channels", [])
        record = DeviceRecord(place, fields)
        record.channels = list(_listed(channels, place, problems))
        document.devices.append(record)
    return document


def _listed(channels: object, place: str, problems: Problems) -> Iterator[Record]:
    if not isinstance(channels, list):
        problems.add(place, "channels", f"'channels' must be a list of objects, got {shown(channels)}")
        return
    for number, channel in enumerate(channels, 1):
        where = f"{place}, channel {number}"
        if isinstance(channel, dict):
            yield Record(where, dict(channel))
        else:
            problems.add(where, "channels", f"a channel must be an object with 'name', got {shown(channel)}")


# YAML: composed, not constructed, so that an address of digits stays the text that it is

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SECTIONS = ("site", "zones", "assets", "devices")


def _yaml(text: str, problems: Problems) -> Document:
    document = Document()
    try:
        deep = _too_deep(text)
        root = None if deep else _root(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}"
        problems.add(place, "", f"a file must be YAML: {getattr(error, 'problem', None) or error}")
        return document
    if deep:
        problems.add(deep, "", f"a YAML file must have at most {DEPTH_MAX} levels of lists and mappings, got more")
        return document
    if not isinstance(root, yaml.MappingNode):
        problems.add("line 1", "", f"a YAML file must be a mapping with {', '.join(_SECTIONS)}, got a {_called(root)}")
        return document
    for key, value in _pairs(root, problems):
        place = _line(key)
        if key.value.startswith("x-"):
            continue  # a place for what others refer to
        if key.value not in _SECTIONS:
            problems.add(
                place, key.value, f"a section must be one of {', '.join(_SECTIONS)}, got {shown(key.value)}{nearest(key.value, _SECTIONS)}"
            )
        elif key.value == "site":
            if isinstance(value, yaml.MappingNode):
                document.site = _record(value, problems)
            else:
                problems.add(place, "site", f"'site' must be a mapping, got a {_called(value)}")
        elif not isinstance(value, yaml.SequenceNode):
            if not (isinstance(value, yaml.ScalarNode) and value.value in ("", "null", "~")):
                problems.add(place, key.value, f"'{key.value}' must be a list, got a {_called(value)}")
        elif len(value.value) > RECORDS_MAX:
            problems.add(place, key.value, f"'{key.value}' must hold at most {RECORDS_MAX} items, got {len(value.value)}")
        else:
            _section(key.value, value, document, problems)
    if not (document.site or document.zones or document.assets or document.devices) and not problems.count:
        problems.add("", "", "a file must hold a site, zones, assets or devices, got none")
    return document


def _too_deep(text: str) -> str:
    """Return the place where lists and mappings stand in more than `DEPTH_MAX` levels, else the empty text: nodes are composed by recursion."""
    level = 0
    for event in yaml.parse(text, Loader=_Loader):
        kind = type(event)
        if kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            level += 1
            if level > DEPTH_MAX:
                return "line 1" if event.start_mark is None else f"line {event.start_mark.line + 1}"
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            level -= 1
    return ""


def _root(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        found: yaml.Node | None = loader.get_single_node()
        return found
    finally:
        loader.dispose()


def _section(name: str, items: yaml.SequenceNode, document: Document, problems: Problems) -> None:
    channels = 0
    for item in items.value:
        if channels > RECORDS_MAX:
            problems.add(_line(item), "channels", f"a file must hold at most {RECORDS_MAX} channels; import it in parts")
            return
        if not isinstance(item, yaml.MappingNode):
            problems.add(_line(item), name, f"an item of '{name}' must be a mapping, got a {_called(item)}")
        elif name == "devices":
            document.devices.append(_device(item, problems))
            channels += len(document.devices[-1].channels)
        else:
            (document.zones if name == "zones" else document.assets).append(_record(item, problems))


def _device(node: yaml.MappingNode, problems: Problems) -> DeviceRecord:
    found = _record(node, problems, skip="channels")
    device = DeviceRecord(found.place, found.fields, found.lines)
    for key, value in _pairs(node, Problems()):  # what is wrong with a key was said above
        if key.value != "channels":
            continue
        if not isinstance(value, yaml.SequenceNode):
            problems.add(_line(key), "channels", f"'channels' must be a list of mappings, got a {_called(value)}")
            continue
        for item in value.value:
            if isinstance(item, yaml.MappingNode):
                device.channels.append(_record(item, problems))
            else:
                problems.add(_line(item), "channels", f"a channel must be a mapping with 'name', got a {_called(item)}")
    return device


def _record(node: yaml.MappingNode, problems: Problems, skip: str = "") -> Record:
    record = Record(_line(node))
    for key, value in _pairs(node, problems):
        name = key.value
        if name == skip:
            continue
        if name in record.fields:
            problems.add(_line(key), name, f"a field must stand once, got {shown(name)} twice")
            continue
        record.lines[name] = key.start_mark.line + 1
        if isinstance(value, yaml.ScalarNode):
            if _is_plain(value) and value.value == "":
                continue
            record.fields[name] = None if _is_plain(value) and value.value in ("null", "~") else value.value
        else:
            budget = [NESTED_MAX]
            plain = _plain(value, budget)
            if budget[0] < 0:
                problems.add(_line(key), name, f"'{name}' must hold at most {NESTED_MAX} values in {DEPTH_MAX} levels, got more")
            else:
                record.fields[name] = plain
    return record


def _pairs(node: yaml.MappingNode, problems: Problems) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """Yield the pairs of a mapping; what ``<<`` brings in comes after, where it is not said anew."""
    said: set[str] = set()
    merged: list[yaml.MappingNode] = []
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            problems.add(_line(key), "", f"the name of a field must be a text, got a {_called(key)}")
        elif key.value == "<<" and _is_plain(key):
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(part, yaml.MappingNode):
                    merged.append(part)
                else:
                    problems.add(_line(key), "<<", f"'<<' must name a mapping, got a {_called(part)}")
        else:
            said.add(key.value)
            yield key, value
    for part in merged:
        for key, value in part.value:
            if isinstance(key, yaml.ScalarNode) and key.value not in said and key.value != "<<":
                said.add(key.value)
                yield key, value


def _plain(node: yaml.Node, budget: list[int], level: int = 0) -> Any:
    """Return a node as plain JSON values, at most `budget` of them; more, or more than `DEPTH_MAX` levels, leave the budget below 0."""
    budget[0] = -1 if level > DEPTH_MAX else budget[0] - 1  # a reference may nest what stands flat, even in itself
    if budget[0] < 0:
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, budget, level + 1) for item in node.value if budget[0] >= 0]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value)[:SHOWN_CHARS_MAX]: _plain(value, budget, level + 1) for key, value in node.value if budget[0] >= 0}
    return json_or_text(node.value) if _is_plain(node) else node.value


def _is_plain(node: yaml.Node) -> bool:
    """Return whether a scalar stands without quotes."""
    return not getattr(node, "style", None)


def json_or_text(text: str) -> Any:
    """Return a text as the number, truth value, null, list, object or quoted text of JSON that it is; any other text as it is.

    Examples
    --------
    >>> [json_or_text(t) for t in ("3.0", "true", "0042", '"3.0"', "A-7", "NaN")]
    [3.0, True, '0042', '3.0', 'A-7', 'NaN']
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _called(node: yaml.Node | None) -> str:
    return {"MappingNode": "mapping", "SequenceNode": "list"}.get(type(node).__name__, "single value")
