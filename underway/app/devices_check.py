"""Records of a file against what is registered: every problem at once, and what is assumed where nothing is said. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from detectors.water.tank_level import tank_problems
from ingest.decoded import CHANNEL_PATTERN, DEVICE_PATTERN
from underway.app.devices_fields import (
    ASSUMED,
    DIALECT_NAMES,
    FLOW_ROLES,
    MODEL_CHARS_MAX,
    ROLES,
    UNUSUAL,
    address_problem,
    normal_address,
    unit_problem,
)
from underway.app.devices_read import (
    ASSET_FIELDS,
    CHANNEL_FIELDS,
    DEVICE_FIELDS,
    SITE_FIELDS,
    ZONE_FIELDS,
    DeviceRecord,
    Document,
    Problems,
    Record,
    shown,
)
from underway.app.devices_values import ABSENT, ID_CHARS_MAX, Absent, Fields, said
from underway.model import (
    CANONICAL_UNIT,
    Asset,
    AssetClass,
    Channel,
    Device,
    DeviceStatus,
    Quantity,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

T = TypeVar("T")


@dataclass(slots=True)
class Wanted:
    """What a file asks for: rows that are new or may have changed, and which fields of new ones were assumed."""

    registry: Registry
    assumed: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """By kind and id of the row, as in `underway.app.devices_plan.Row`."""


def check(document: Document, known: Registry | None, elsewhere: Mapping[str, str], now_at: datetime, problems: Problems) -> Wanted | None:
    """Return what a file asks for, or None with everything that is wrong added to `problems`.

    A field that the file leaves out keeps what is registered; of a new row it is assumed.

    Parameters
    ----------
    document : Document
    known : Registry or None
        What is registered for the site; None: there is no site yet, the file must bring it.
    elsewhere : mapping of str to str
        Ids that other sites use, each with its site: ``{"device pr-1": "town"}``.
    now_at : datetime
        When a new device is registered, unless the file says otherwise.
    problems : Problems
    """
    site = _site(document.site, known, problems)
    if site is None:
        return None
    checker = _Checker(site, known or Registry(site), elsewhere, now_at, problems)
    zones = checker.rows(document.zones, "zone_id", checker.zones, checker.zone)
    checker.zones.update({zone.zone_id: zone for zone in zones})
    assets = checker.rows(document.assets, "asset_id", checker.assets, checker.asset)
    checker.assets.update({asset.asset_id: asset for asset in assets})
    devices, channels = checker.all_devices(document.devices)
    if problems.count:
        return None
    return Wanted(Registry(site, tuple(zones), tuple(assets), tuple(devices), tuple(channels)), checker.assumed)


def _site(record: Record | None, known: Registry | None, problems: Problems) -> Site | None:
    before = None if known is None else known.site
    if record is None:
        if before is None:
            problems.add("", "site", "a site must be registered before its devices; begin with a YAML file that has a section 'site'")
        return before
    fields = Fields(record, SITE_FIELDS, problems, "a site")
    site_id, name, timezone = fields.text("site_id", 64), fields.text("name"), fields.text("timezone")
    latitude, longitude = fields.number("latitude", "degrees", -90, 90), fields.number("longitude", "degrees", -180, 180)
    if isinstance(timezone, str):
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            fields.bad("timezone", f"'timezone' must be a name of the time zone database like Europe/Berlin, got {shown(timezone)}")
    if isinstance(site_id, str):
        if DEVICE_PATTERN.fullmatch(site_id) is None:
            fields.bad("site_id", f"'site_id' must be 1..64 of a-z, 0-9, '-' and '_', got {shown(site_id)}")
        elif before is not None and site_id != before.site_id:
            fields.bad("site_id", f"'site_id' must be the site that is imported into, '{before.site_id}', got {shown(site_id)}")
    if before is None:
        missing = [n for n in ("site_id", "name", "timezone", "latitude", "longitude") if fields.raw(n) in (ABSENT, None)]
        for field_name in missing:
            fields.bad(field_name, f"a new site must have '{field_name}'")
        given = (site_id, name, timezone, latitude, longitude)
        if any(isinstance(value, Absent) or value is None for value in given):
            return None
        return Site(site_id, name, timezone, latitude, longitude)  # type: ignore[arg-type]  # none of them is absent
    return Site(
        before.site_id,
        said(name, before.name) or before.name,
        said(timezone, before.timezone) or before.timezone,
        said(latitude, before.latitude_deg),
        said(longitude, before.longitude_deg),
    )


def _along(channel: Channel | None, before: Device | None, now: Device) -> Channel | None:
    """Return a registered channel as it is after its device has moved: what was where the device was goes along."""
    if channel is None or before is None:
        return channel
    return replace(
        channel,
        zone_id=now.zone_id if channel.zone_id == before.zone_id else channel.zone_id,
        asset_id=now.asset_id if channel.asset_id == before.asset_id else channel.asset_id,
    )


class _Checker:
    """Checks rows against what is registered and what stands in the file."""

    def __init__(self, site: Site, known: Registry, elsewhere: Mapping[str, str], now_at: datetime, problems: Problems) -> None:
        self.site, self._elsewhere, self._now_at, self._problems = site, elsewhere, now_at, problems
        self.zones = {zone.zone_id: zone for zone in known.zones}
        self.assets = {asset.asset_id: asset for asset in known.assets}
        self.devices = {device.device_id: device for device in known.devices}
        self.channels: dict[str, dict[str, Channel]] = {}
        for channel in known.channels:
            self.channels.setdefault(channel.device_id, {})[channel.name] = channel
        self.assumed: dict[tuple[str, str], tuple[str, ...]] = {}

    def rows(self, records: Sequence[Record], key: str, known: Mapping[str, T], make: Callable[[Record, str, T | None], T]) -> list[T]:
        """Return the rows of a section; each id stands once."""
        found: list[T] = []
        first: dict[str, str] = {}
        what = key.removesuffix("_id")
        for record in records:
            row_id = Fields(record, tuple(record.fields), self._problems, what).text(key, ID_CHARS_MAX)
            if not isinstance(row_id, str):
                if record.fields.get(key) is None:
                    self._problems.add(record.place, key, f"a {what} must have '{key}'")
                continue
            if row_id in first:
                self._problems.add(record.where(key), key, f"{what} '{row_id}' must stand once, got it in {first[row_id]} too")
                continue
            first[row_id] = record.where(key)
            self._not_elsewhere(record, key, what, row_id)
            found.append(make(record, row_id, known.get(row_id)))
        return found

    def _not_elsewhere(self, record: Record, key: str, what: str, row_id: str) -> None:
        other = self._elsewhere.get(f"{what} {row_id}")
        if other is not None:
            self._problems.add(
                record.where(key), key, f"{what} '{row_id}' must be of site '{self.site.site_id}', it belongs to site '{other}'"
            )

    def _assume(self, kind: str, row_id: str, fields: Fields, names: Sequence[str]) -> None:
        """Note which of the fields of a new row the file does not say."""
        self.assumed[kind, row_id] = tuple(name for name in names if fields.raw(name) in (ABSENT, None))

    def zone(self, record: Record, zone_id: str, before: Zone | None) -> Zone:
        """Return a zone."""
        fields = Fields(record, ZONE_FIELDS, self._problems, "a zone")
        name, kind = fields.text("name"), fields.enum("kind", ZoneKind)
        if before is None and fields.raw("kind") in (ABSENT, None):
            fields.bad("kind", f"a new zone must have 'kind', one of {', '.join(ZoneKind)}")
        if before is None:
            self._assume("zone", zone_id, fields, ("name",))
        base = before or Zone(zone_id, self.site.site_id, zone_id, ZoneKind.DMA)
        return replace(
            base,
            name=said(name, base.name) or zone_id,
            kind=said(kind, base.kind),
            geometry=said(fields.geometry(), base.geometry),
            attributes=fields.attributes(base.attributes),
        )

    def asset(self, record: Record, asset_id: str, before: Asset | None) -> Asset:
        """Return an asset."""
        fields = Fields(record, ASSET_FIELDS, self._problems, "an asset")
        kind = fields.enum("asset_class", AssetClass)
        if before is None and fields.raw("asset_class") in (ABSENT, None):
            fields.bad("asset_class", f"a new asset must have 'asset_class', one of {', '.join(AssetClass)}")
        if before is None:
            self._assume("asset", asset_id, fields, ("name", "criticality"))
        base = before or Asset(asset_id, self.site.site_id, None, AssetClass.DEVICE, asset_id)
        criticality = fields.number("criticality", "", 1, 5)
        if not isinstance(criticality, Absent) and criticality != int(criticality):
            fields.bad("criticality", f"'criticality' must be a whole number in 1..5, got {shown(fields.raw('criticality'))}")
        attributes = fields.attributes(base.attributes)
        if said(kind, base.asset_class) is AssetClass.TANK:
            for problem in tank_problems(attributes):
                fields.bad("attributes", problem)
        return replace(
            base,
            zone_id=said(fields.reference("zone_id", self.zones, "zone"), base.zone_id),
            asset_class=said(kind, base.asset_class),
            name=said(fields.text("name"), base.name) or asset_id,
            geometry=said(fields.geometry(), base.geometry),
            criticality=base.criticality if isinstance(criticality, Absent) else int(criticality),
            attributes=attributes,
        )

    def all_devices(self, records: Sequence[DeviceRecord]) -> tuple[list[Device], list[Channel]]:
        """Return the devices and channels of a file, and look whether two would have one address."""
        channels: list[Channel] = []
        places: dict[str, DeviceRecord] = {}

        def make(record: Record, device_id: str, before: Device | None) -> Device:
            assert isinstance(record, DeviceRecord)
            places[device_id] = record
            device = self.device(record, device_id, before)
            channels.extend(self.channels_of(record, device))
            return device

        devices = self.rows(records, "device_id", self.devices, make)
        self._addresses(devices, places)
        return devices, channels

    def device(self, record: DeviceRecord, device_id: str, before: Device | None) -> Device:
        """Return a device."""
        fields = Fields(record, DEVICE_FIELDS, self._problems, "a device")
        if DEVICE_PATTERN.fullmatch(device_id) is None:
            fields.bad(
                "device_id", f"'device_id' must be 1..64 of a-z, 0-9, '-' and '_', and begin with a letter or digit, got {shown(device_id)}"
            )
        base = before or Device(device_id, self.site.site_id, None, None, "", "native", self._now_at)
        dialect = said(fields.choice("dialect", DIALECT_NAMES), base.dialect) or base.dialect
        address = fields.text("address")
        spoken = (base.address if isinstance(address, Absent) else address) or ""
        if isinstance(address, str):
            spoken = normal_address(dialect, address)
        wrong = address_problem(dialect, spoken or device_id) if dialect in DIALECT_NAMES else None
        if not spoken and DEVICE_PATTERN.fullmatch(device_id) is None:
            wrong = None  # said above
        if wrong is not None:
            got = shown(fields.raw("address")) if spoken else f"none, and the device_id {shown(device_id)}"
            fields.bad("address", f"'address' of a {dialect} device must be {wrong}, got {got}")
        if before is None:
            self._assume("device", device_id, fields, ("dialect", "status", "registered_at"))
        registered_at = fields.instant("registered_at", self.site.timezone)
        if isinstance(registered_at, datetime) and registered_at > self._now_at:
            fields.bad("registered_at", f"'registered_at' must not be in the future, got {shown(fields.raw('registered_at'))}")
        return replace(
            base,
            zone_id=said(fields.reference("zone_id", self.zones, "zone"), base.zone_id),
            asset_id=said(fields.reference("asset_id", self.assets, "asset"), base.asset_id),
            model=said(fields.text("model", MODEL_CHARS_MAX), base.model) or "",
            dialect=dialect,
            registered_at=said(registered_at, base.registered_at),
            status=said(fields.enum("status", DeviceStatus), base.status),
            geometry=said(fields.geometry(), base.geometry),
            attributes=fields.attributes(base.attributes),
            address="" if spoken == device_id else spoken,
        )

    def channels_of(self, record: DeviceRecord, device: Device) -> list[Channel]:
        """Return the channels of a device; names and addresses stand once."""
        known = self.channels.get(device.device_id, {})
        found: dict[str, Channel] = {}
        places: dict[str, Record] = {}
        for one in record.channels:
            fields = Fields(one, CHANNEL_FIELDS, self._problems, "a channel")
            name = fields.text("name")
            if not isinstance(name, str):
                if fields.raw("name") in (ABSENT, None):
                    self._problems.add(one.place, "name", f"a channel of device '{device.device_id}' must have a name")
                continue
            if CHANNEL_PATTERN.fullmatch(name) is None:
                fields.bad("name", f"the name of a channel must be 1..64 letters, digits, '_', '.' or '-', got {shown(name)}")
            if name in found:
                fields.bad("name", f"channel '{name}' of device '{device.device_id}' must stand once, got it in {places[name].place} too")
                continue
            channel = self.channel(fields, name, device, _along(known.get(name), self.devices.get(device.device_id), device))
            if channel is not None:
                found[name], places[name] = channel, one
        spoken: dict[str, str] = {}
        for name, channel in {**known, **found}.items():
            other = spoken.setdefault(channel.spoken_address, name)
            if other != name:
                place = places.get(name) or places[other]
                message = f"'{channel.spoken_address}' must be the address of one channel of device '{device.device_id}'"
                self._problems.add(place.where("address"), "address", f"{message}, got it for '{other}' and '{name}'")
        before = self.devices.get(device.device_id)
        stays = {name: _along(channel, before, device) for name, channel in known.items() if name not in found}
        return [*found.values(), *(channel for name, channel in stays.items() if channel is not None and channel != known[name])]

    def channel(self, fields: Fields, name: str, device: Device, before: Channel | None) -> Channel | None:
        """Return a channel, or None when its quantity is not known."""
        quantity = fields.enum("quantity", Quantity)
        if before is None and isinstance(quantity, Absent):
            if fields.raw("quantity") in (ABSENT, None):
                fields.bad("quantity", f"a new channel must have 'quantity', one of {', '.join(Quantity)}")
            return None
        of = quantity if isinstance(quantity, Quantity) else before.quantity  # type: ignore[union-attr]  # one of the two is there
        zone_id = said(fields.reference("zone_id", self.zones, "zone"), before.zone_id if before else device.zone_id)
        assumed = ASSUMED.get(of, UNUSUAL)
        zone = self.zones.get(zone_id or "")
        base = before or Channel(
            0,
            device.device_id,
            name,
            of,
            CANONICAL_UNIT[of],
            device.asset_id,
            zone_id,
            assumed.role_in(zone.kind if zone else None),
            assumed.range_min,
            assumed.range_max,
            assumed.interval_s,
        )
        unit = said(fields.text("unit"), base.device_unit) or base.device_unit
        wrong = unit_problem(unit, of)
        if wrong is not None:
            fields.bad("unit" if fields.raw("unit") is not ABSENT else "quantity", f"'unit' must be {wrong}, got {shown(unit)}")
        role = said(fields.choice("role", tuple(ROLES)), base.role) or base.role
        if role in ROLES and of not in ROLES[role]:
            fits = ", ".join(name for name, quantities in ROLES.items() if of in quantities)
            fields.bad("role", f"'role' of {of.value} must be one of {fits}, got {shown(role)}")
        canonical = CANONICAL_UNIT[of]
        low, high = (
            said(fields.number("range_min", canonical), base.range_min),
            said(fields.number("range_max", canonical), base.range_max),
        )
        if not low < high:
            fields.bad("range_max", f"'range_max' must be above 'range_min' {low:g} {canonical}, got {high:g}")
        interval_s = said(fields.number("interval_s", "s", 0, 366 * 86_400), base.interval_s)
        if interval_s <= 0:
            fields.bad("interval_s", f"'interval_s' must be above 0 s, got {shown(fields.raw('interval_s'))}")
        sign = fields.number("sign", "")
        if not isinstance(sign, Absent) and sign not in (-1.0, 1.0):
            fields.bad("sign", f"'sign' must be 1 (positive flow enters the zone) or -1, got {shown(fields.raw('sign'))}")
        also = said(fields.reference("also_zone_id", self.zones, "zone"), base.also_zone_id)
        if also is not None and (role not in FLOW_ROLES or also == zone_id):
            fields.bad(
                "also_zone_id",
                f"'also_zone_id' must be the other zone of a flow between two zones, got {shown(also)} for {role} of zone {shown(zone_id)}",
            )
        address = fields.text("address")
        spoken = base.address if isinstance(address, Absent) else address or ""
        if before is None:
            self._assume("channel", f"{device.device_id}/{name}", fields, ("unit", "role", "range_min", "range_max", "interval_s"))
        return replace(
            base,
            quantity=of,
            device_unit=unit,
            asset_id=said(fields.reference("asset_id", self.assets, "asset"), base.asset_id),
            zone_id=zone_id,
            role=role,
            range_min=low,
            range_max=high,
            interval_s=interval_s,
            resolution=said(fields.number("resolution", canonical, 0), base.resolution),
            sign=base.sign if isinstance(sign, Absent) else int(sign),
            also_zone_id=also,
            address="" if spoken == name else spoken,
        )

    def _addresses(self, devices: Sequence[Device], places: Mapping[str, DeviceRecord]) -> None:
        """Look for two devices that one dialect would call the same."""
        owner: dict[tuple[str, str], Device] = {}
        for device in {**self.devices, **{device.device_id: device for device in devices}}.values():
            other = owner.setdefault((device.dialect, device.spoken_address), device)
            if other is device:
                continue
            mine, theirs = (device, other) if device.device_id in places else (other, device)
            if mine.device_id not in places:
                continue  # both are registered already: not this file's matter
            where = places[theirs.device_id].place if theirs.device_id in places else f"registered, {theirs.status.value}"
            message = f"'{mine.spoken_address}' must be the address of one {mine.dialect} device"
            got = f"got it for '{mine.device_id}' and '{theirs.device_id}' ({where})"
            self._problems.add(places[mine.device_id].where("address"), "address", f"{message}, {got}")
