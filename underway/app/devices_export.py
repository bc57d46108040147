"""A registry as a file that an import takes back unchanged: CSV, GeoJSON, YAML. Pure."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from underway.app.devices_read import json_or_text
from underway.model import Asset, Channel, Device, Registry, Zone

ATTRIBUTE_COLUMNS_MAX = 200
_FORMULA = re.compile(r"'*[=+\-@\t]")


def export(kind: str, registry: Registry) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, and what it could not hold.

    Parameters
    ----------
    kind : str
        ``csv``, ``geojson`` or ``yaml``; only YAML holds site, zones and assets too.
    registry : Registry
    """
    channels: dict[str, list[Channel]] = {}
    for channel in registry.channels:
        channels.setdefault(channel.device_id, []).append(channel)
    if kind == "csv":
        return _csv(registry.devices, channels)
    if kind == "geojson":
        features = [_feature(device, channels.get(device.device_id, [])) for device in registry.devices]
        return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, indent=1) + "\n", ()
    return _yaml(registry, channels), ()


def _device_fields(device: Device) -> dict[str, Any]:
    return _present(
        device_id=device.device_id,
        dialect=device.dialect,
        address=device.address,
        model=device.model,
        zone_id=device.zone_id,
        asset_id=device.asset_id,
        registered_at=device.registered_at.isoformat().replace("+00:00", "Z"),
        status=device.status.value,
    )


def _channel_fields(channel: Channel) -> dict[str, Any]:
    return _present(
        name=channel.name,
        address=channel.address,
        quantity=channel.quantity.value,
        unit=channel.device_unit,
        role=channel.role,
        range_min=_number(channel.range_min),
        range_max=_number(channel.range_max),
        interval_s=_number(channel.interval_s),
        resolution=_number(channel.resolution),
        sign=channel.sign,
        asset_id=channel.asset_id,
        zone_id=channel.zone_id,
        also_zone_id=channel.also_zone_id,
    )


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _number(value: float) -> float | int | str:
    """Return a number as a file says it: whole ones without a point, infinite ones as text, for JSON has none."""
    if value in (float("inf"), float("-inf")):
        return str(value)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


# GeoJSON


def _feature(device: Device, channels: Iterable[Channel]) -> dict[str, Any]:
    properties = _device_fields(device)
    if device.attributes:
        properties["attributes"] = dict(device.attributes)
    properties["channels"] = [_channel_fields(channel) for channel in channels]
    return {"type": "Feature", "geometry": device.geometry, "properties": properties}


# YAML


class _Text(str):
    """A text that would be read as something else without its quotes."""

    __slots__ = ()


_Dumper: Any = type("_Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {"ignore_aliases": lambda self, data: True})
_Dumper.add_representer(_Text, lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:str", str(data), style='"'))


def _yaml(registry: Registry, channels: Mapping[str, list[Channel]]) -> str:
    site = registry.site
    document: dict[str, Any] = {
        "site": {
            "site_id": site.site_id,
            "name": _Text(site.name),
            "timezone": site.timezone,
            "latitude": site.latitude_deg,
            "longitude": site.longitude_deg,
        },
        "zones": [_zone(zone) for zone in registry.zones],
        "assets": [_asset(asset) for asset in registry.assets],
        "devices": [_device(device, channels.get(device.device_id, [])) for device in registry.devices],
    }
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def _zone(zone: Zone) -> dict[str, Any]:
    return _present(zone_id=zone.zone_id, name=_Text(zone.name), kind=zone.kind.value) | _place(zone)


def _asset(asset: Asset) -> dict[str, Any]:
    found = _present(asset_id=asset.asset_id, zone_id=asset.zone_id, asset_class=asset.asset_class.value, name=_Text(asset.name))
    return found | {"criticality": asset.criticality} | _place(asset)


def _device(device: Device, channels: Iterable[Channel]) -> dict[str, Any]:
    found = _device_fields(device)
    for name in ("address", "model"):
        if name in found:
            found[name] = _Text(found[name])
    return found | _place(device) | {"channels": [_channel_fields(channel) for channel in channels]}


def _place(thing: Zone | Asset | Device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if thing.geometry is not None:
        found["geometry"] = dict(thing.geometry)
    if thing.attributes:
        found["attributes"] = _quoted(dict(thing.attributes))
    return found


def _quoted(value: Any) -> Any:
    """Return plain JSON values with those texts marked that would not come back as texts."""
    if isinstance(value, dict):
        return {name: _quoted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return _Text(value) if isinstance(value, str) else value


# CSV


def _csv(devices: Iterable[Device], channels: Mapping[str, list[Channel]]) -> tuple[str, tuple[str, ...]]:
    devices = tuple(devices)
    names = dict.fromkeys(name for device in devices for name in device.attributes)
    attributes = list(names)[:ATTRIBUTE_COLUMNS_MAX]
    columns = [
        *("device_id", "dialect", "address", "model", "zone_id", "asset_id", "registered_at", "status", "latitude", "longitude"),
        *("channel", "channel_address", "quantity", "unit", "role", "range_min", "range_max", "interval_s", "resolution", "sign"),
        *("channel_asset_id", "channel_zone_id", "also_zone_id"),
        *(f"attributes.{name}" for name in attributes),
    ]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    no_point = 0
    for device in devices:
        row: dict[str, Any] = _device_fields(device)
        geometry = device.geometry
        if geometry is not None and geometry.get("type") == "Point":
            row["longitude"], row["latitude"] = geometry["coordinates"][:2]
        elif geometry is not None:
            no_point += 1
        for name in attributes:
            if name in device.attributes:
                row[f"attributes.{name}"] = _attribute(device.attributes[name])
        mine: list[Channel | None] = [*channels.get(device.device_id, [])] or [None]
        for channel in mine:
            if channel is not None:
                said = _channel_fields(channel)
                row["channel"] = said.pop("name")
                for name in ("address", "asset_id", "zone_id"):
                    if name in said:
                        row[f"channel_{name}"] = said.pop(name)
                row |= said
            writer.writerow({name: _cell(value) for name, value in row.items()})
            row = {"device_id": device.device_id}
    notes = []
    if no_point:
        notes.append(f"{no_point} devices have a geometry that is no point: a CSV file cannot hold it, GeoJSON and YAML can")
    if len(names) > len(attributes):
        notes.append(f"a CSV file holds at most {ATTRIBUTE_COLUMNS_MAX} attributes, {len(names) - len(attributes)} were left out")
    return out.getvalue(), tuple(notes)


def _attribute(value: Any) -> str:
    """Return an attribute as a cell: a text as it is unless it would be read as something else, anything else as JSON."""
    if isinstance(value, str) and json_or_text(value) == value and value.strip() == value and value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> Any:
    """Return a cell that no spreadsheet runs as a formula; the import takes the quote away."""
    return "'" + value if isinstance(value, str) and _FORMULA.match(value) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    return isinstance(json_or_text(text), (int, float)) or text in ("inf", "-inf")
