"""Sites, zones, assets, devices and channels: what we watch, and with what.

Field terms: zone is a district metered area (IWA) or a road corridor; asset classes follow ISO 14224's idea of an
equipment class; a channel is one measured quantity of one device (OGC SensorThings calls it a datastream).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class ZoneKind(StrEnum):
    """What a zone is cut out of."""

    DMA = "dma"
    CORRIDOR = "corridor"


class AssetClass(StrEnum):
    """Equipment class of an asset."""

    PIPE = "pipe"
    JUNCTION = "junction"
    PUMP = "pump"
    VALVE = "valve"
    TANK = "tank"
    RESERVOIR = "reservoir"
    ROAD_SECTION = "road_section"
    BRIDGE = "bridge"
    CULVERT = "culvert"
    NETWORK = "network"
    GATEWAY = "gateway"
    DEVICE = "device"


class Quantity(StrEnum):
    """A measured quantity; its one unit inside underway stands in `CANONICAL_UNIT`."""

    FLOW = "flow"
    PRESSURE = "pressure"
    LEVEL = "level"
    ROUGHNESS = "roughness"
    FREQUENCY = "frequency"
    STRAIN = "strain"
    TILT = "tilt"
    TEMPERATURE = "temperature"
    RAIN_RATE = "rain_rate"
    BATTERY = "battery"
    SIGNAL = "signal"
    SNR = "snr"
    CHARGE = "charge"
    VOLUME = "volume"
    CHLORINE = "chlorine"
    TURBIDITY = "turbidity"
    PH = "ph"
    CONDUCTIVITY = "conductivity"
    TOC = "toc"
    FLAG = "flag"
    POWER = "power"


CANONICAL_UNIT: Mapping[Quantity, str] = {
    Quantity.FLOW: "m3/h",
    Quantity.PRESSURE: "kPa",
    Quantity.LEVEL: "m",
    Quantity.ROUGHNESS: "m/km",
    Quantity.FREQUENCY: "Hz",
    Quantity.STRAIN: "ue",
    Quantity.TILT: "mrad",
    Quantity.TEMPERATURE: "Cel",
    Quantity.RAIN_RATE: "mm/h",
    Quantity.BATTERY: "V",
    Quantity.SIGNAL: "dBm",
    Quantity.SNR: "dB",
    Quantity.CHARGE: "%",
    Quantity.VOLUME: "m3",
    Quantity.CHLORINE: "mg/L",
    Quantity.TURBIDITY: "NTU",
    Quantity.PH: "pH",
    Quantity.CONDUCTIVITY: "uS/cm",
    Quantity.TOC: "mg/L",
    Quantity.FLAG: "flag",
    Quantity.POWER: "kW",
}


class DeviceStatus(StrEnum):
    """Whether readings of a device are taken."""

    ACTIVE = "active"
    PENDING = "pending"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Site:
    """A utility or an authority.

    ``latitude_deg``/``longitude_deg`` is the map origin; geometries are GeoJSON in WGS 84 (longitude, latitude).
    """

    site_id: str
    name: str
    timezone: str
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True, slots=True)
class Zone:
    """A district metered area or a road corridor; detectors that look at several channels look inside one zone.

    ``attributes`` holds what is known of it, for a DMA ``{"mains_km": .., "connections": .., "people": ..}``.
    """

    zone_id: str
    site_id: str
    name: str
    kind: ZoneKind
    geometry: Mapping[str, Any] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asset:
    """A thing we maintain. ``geometry`` is GeoJSON (Point, LineString or Polygon); ``criticality`` is 1 (low) to 5."""

    asset_id: str
    site_id: str
    zone_id: str | None
    asset_class: AssetClass
    name: str
    geometry: Mapping[str, Any] | None = None
    criticality: int = 2
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device:
    """A box with an address.

    ``dialect`` is how it speaks, ``address`` what that dialect calls it (docs/dialects): a LoRaWAN DevEUI, a Sparkplug ``group/edge/device``.
    Empty: the ``device_id`` itself.
    """

    device_id: str
    site_id: str
    zone_id: str | None
    asset_id: str | None
    model: str
    dialect: str
    registered_at: datetime
    status: DeviceStatus = DeviceStatus.ACTIVE
    geometry: Mapping[str, Any] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""

    @property
    def spoken_address(self) -> str:
        """Return what its dialect calls it."""
        return self.address or self.device_id


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity of one device.

    Attributes
    ----------
    channel_id : int
        0 until the store has given it one.
    device_unit : str
        Unit in which the device speaks when its payload names none; converted at the door to the canonical unit.
    range_min, range_max : float
        Physically possible values in the canonical unit; a reading outside is graded bad, its value never changed.
    interval_s : float
        Nominal time between two readings.
    role : str
        What detectors use it for: ``zone_inflow``, ``tank_flow``, ``zone_pressure``, ``tank_level``, ``roughness``, ``bridge_frequency``,
        ``bridge_temperature``, ``drain_level``, ``rain``, ``water_quality``, ``customer_meter``, ``tamper_flag``,
        ``pump_flow``, ``pump_suction``, ``pump_discharge``, ``pump_power``, ``prv_upstream``,
        ``prv_downstream``, ``prv_flow``, ``health``.
    sign : int
        For ``zone_inflow``: +1 when positive flow enters ``zone_id``, -1 when it leaves it.
        A boundary meter between two zones has one channel a zone (``flow`` and ``flow_other``), or two roles through ``also_zone_id``.
    also_zone_id : str or None
        The zone on the other side of a boundary meter; there the sign is the opposite.
    address : str
        What the device calls it, for example ``Flow/m3h``; empty: the ``name`` itself.
    """

    channel_id: int
    device_id: str
    name: str
    quantity: Quantity
    device_unit: str
    asset_id: str | None
    zone_id: str | None
    role: str
    range_min: float
    range_max: float
    interval_s: float
    resolution: float = 0.0
    sign: int = 1
    also_zone_id: str | None = None
    address: str = ""

    @property
    def spoken_address(self) -> str:
        """Return what its device calls it."""
        return self.address or self.name


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything that is registered: the address book that ingest, detectors and the work side share."""

    site: Site
    zones: tuple[Zone, ...] = ()
    assets: tuple[Asset, ...] = ()
    devices: tuple[Device, ...] = ()
    channels: tuple[Channel, ...] = ()
