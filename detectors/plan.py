"""Which detectors a registry asks for, and which channels feed each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from detectors.contract import FrameDetector, RowDetector
from detectors.road.bridge_frequency import BridgeFrequency
from detectors.road.drain_level import DrainLevel
from detectors.road.roughness_step import RoughnessStep
from detectors.sensor.flat_line import CHANNELS_MAX as FLAT_CHANNELS_MAX
from detectors.sensor.flat_line import ROLES as FLAT_ROLES
from detectors.sensor.flat_line import FlatLine
from detectors.sensor.no_data import NoData
from detectors.water.inflow_fleet import InflowFleet
from detectors.water.leak_committee import DigRules
from detectors.water.meter_backward import MeterBackward, backward_channels
from detectors.water.meter_days import meter_channels
from detectors.water.meter_sizing import MeterSizing, sizing_channels
from detectors.water.meter_stopped import MeterStopped
from detectors.water.meter_tamper import MeterTamper, tamper_channels
from detectors.water.network_leaks import NetworkLeaks
from detectors.water.prv import PressureReducingValve
from detectors.water.pump_efficiency import PumpEfficiency
from detectors.water.quality import stations
from detectors.water.tank_level import TankLevel
from detectors.water.zone_inflow import FLOW_ROLES, PRESSURE_ROLES, TANK_ROLES, ZoneInflow
from underway.model import Asset, AssetClass, Channel, Device, LeakSignatures, NetworkModel, Registry, ZoneKind

MeterDetector = Callable[[Sequence[Channel], Mapping[str, Device], Mapping[str, Asset], str], RowDetector]
"""Makes a detector of meters from channels, devices, assets and the name of a part."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One detector, and what feeds it: `frames` or `rows` is set."""

    key: str
    channels: tuple[Channel, ...]
    frames: FrameDetector | None = None
    rows: RowDetector | None = None


def plan_lanes(
    registry: Registry,
    signatures: Sequence[LeakSignatures] = (),
    keys: Collection[str] | None = None,
    channel_ids: Collection[int] | None = None,
    models: Sequence[NetworkModel] = (),
    digs: DigRules | None = None,
) -> list[Planned]:
    """Return every detector that `registry` has channels for, in a stable order.

    Parameters
    ----------
    registry : Registry
    signatures : sequence of LeakSignatures
        One a zone, where there is a hydraulic model.
    keys : collection of str, optional
        Only the detectors with these keys.
    channel_ids : collection of int, optional
        Only these channels are seen by detectors that look at every channel on its own (flat-line, roughness).
    models : sequence of NetworkModel
        Hydraulic models; each section of one that can be balanced is watched with it.
    digs : DigRules, optional
        When a crew is sent for a leak.
    """
    channels = tuple(sorted(registry.channels, key=lambda c: c.channel_id))
    plan = [
        *_network(registry, channels, models, digs),
        *_quality(registry, channels),
        *_meters(registry, channels, channel_ids),
        *_stations(registry, channels),
        *_road(registry, channels, channel_ids),
        *_sensor(registry, channels, channel_ids),
    ]
    if keys is not None:
        wanted = frozenset(keys)
        plan = [p for p in plan if p.key in wanted]
    return [*_water(registry, channels, signatures, keys), *plan]


def _water(
    registry: Registry, channels: Sequence[Channel], signatures: Sequence[LeakSignatures], keys: Collection[str] | None
) -> list[Planned]:
    of_zone = {s.zone_id: s for s in signatures}
    length = {
        a.asset_id: float(a.attributes["length_m"])
        for a in registry.assets
        if a.asset_class is AssetClass.PIPE and isinstance(a.attributes.get("length_m"), int | float)
    }
    names: dict[int, str] = {}
    taken: set[str] = set()
    touching: dict[str | None, list[Channel]] = defaultdict(list)
    for c in channels:
        if c.role in PRESSURE_ROLES:
            # two loggers at one pipe: the first has the pipe's signal, the others their own
            name = f"asset/{c.asset_id or c.device_id}/pressure"
            names[c.channel_id] = name if name not in taken else f"device/{c.device_id}/pressure"
            taken.add(names[c.channel_id])
        if c.role in FLOW_ROLES + PRESSURE_ROLES + TANK_ROLES:
            touching[c.zone_id].append(c)
        if c.role in FLOW_ROLES and c.also_zone_id is not None and c.also_zone_id != c.zone_id:
            touching[c.also_zone_id].append(c)
    plan: list[Planned] = []
    fleets: dict[int, InflowFleet] = {}
    wanted = None if keys is None else frozenset(keys)
    for zone in registry.zones:
        mine = touching[zone.zone_id]
        if zone.kind is not ZoneKind.DMA or not any(c.role in FLOW_ROLES for c in mine):
            continue
        if wanted is not None and ZoneInflow.key_of(zone) not in wanted:
            continue
        tanks = sum(c.role in TANK_ROLES for c in mine)
        fleet = fleets.setdefault(tanks, InflowFleet(registry.site.timezone, tanks))
        detector = ZoneInflow(zone, mine, registry.site.timezone, of_zone.get(zone.zone_id), length, names, fleet)
        plan.append(Planned(detector.key, detector.channels, frames=detector))
    for fleet in fleets.values():
        fleet.build()
    return plan


def _network(registry: Registry, channels: Sequence[Channel], models: Sequence[NetworkModel], digs: DigRules | None) -> list[Planned]:
    assets = {a.asset_id: a for a in registry.assets}
    detectors = [d for model in models for d in NetworkLeaks.plan(channels, model, registry.site.timezone, assets, digs)]
    return [Planned(d.key, d.channels, frames=d) for d in detectors]


def _quality(registry: Registry, channels: Sequence[Channel]) -> list[Planned]:
    detectors = stations(channels, {a.asset_id: a for a in registry.assets}, registry.site.timezone)
    return [Planned(d.key, d.channels, frames=d) for d in detectors]


def _meters(registry: Registry, channels: Sequence[Channel], channel_ids: Collection[int] | None) -> list[Planned]:
    devices, assets = {d.device_id: d for d in registry.devices}, {a.asset_id: a for a in registry.assets}
    wanted = None if channel_ids is None else frozenset(channel_ids)
    kinds: tuple[tuple[MeterDetector, list[Channel]], ...] = (
        (MeterBackward, backward_channels(channels)),
        (MeterSizing, sizing_channels(channels, devices, assets)),
        (MeterStopped, meter_channels(channels)),
        (MeterTamper, tamper_channels(channels)),
    )
    plan: list[Planned] = []
    for kind, fed in kinds:
        for part, members in _flat_parts(fed):
            mine = [c for c in members if wanted is None or c.channel_id in wanted]
            if mine:
                detector = kind(mine, devices, assets, _part_name(part))
                plan.append(Planned(detector.key, tuple(mine), rows=detector))
    return plan


def _part_name(part: int) -> str:
    return f"all-{part + 1}" if part else "all"


def _stations(registry: Registry, channels: Sequence[Channel]) -> list[Planned]:
    assets = {a.asset_id: a for a in registry.assets}
    tanks = TankLevel.plan({i: a for i, a in assets.items() if a.asset_class is AssetClass.TANK}, channels)
    pumps = PumpEfficiency.plan({i: a for i, a in assets.items() if a.asset_class is AssetClass.PUMP}, channels)
    valves = {i: a for i, a in assets.items() if a.asset_class is AssetClass.VALVE}
    reducing = PressureReducingValve.plan(valves, channels, registry.site.timezone)
    found: list[TankLevel | PumpEfficiency | PressureReducingValve] = [*tanks, *pumps, *reducing]
    return [Planned(d.key, d.channels, frames=d) for d in found]


def _road(registry: Registry, channels: Sequence[Channel], channel_ids: Collection[int] | None) -> list[Planned]:
    assets = {a.asset_id: a for a in registry.assets}
    wanted = None if channel_ids is None else frozenset(channel_ids)
    by_role: dict[str, list[Channel]] = defaultdict(list)
    rough: dict[str | None, list[Channel]] = defaultdict(list)
    for c in channels:
        by_role[c.role].append(c)
        if c.role == "roughness" and c.asset_id in assets and (wanted is None or c.channel_id in wanted):
            rough[c.zone_id].append(c)
    plan: list[Planned] = []
    for mine in rough.values():
        roughness = RoughnessStep(mine, [assets[str(c.asset_id)] for c in mine])
        plan.append(Planned(roughness.key, tuple(mine), rows=roughness))
    warmth, rain = _Nearest(by_role["bridge_temperature"]), _Nearest(by_role["rain"])
    # by number, so that the order is that of the channels whatever their roles
    for c in sorted(by_role["bridge_frequency"] + by_role["drain_level"], key=lambda c: c.channel_id):
        if c.asset_id not in assets:
            continue
        asset = assets[str(c.asset_id)]
        beside = (warmth if c.role == "bridge_frequency" else rain).of(c)
        fed = (c,) if beside is None else (c, beside)
        detector: FrameDetector = BridgeFrequency(asset, c, beside) if c.role == "bridge_frequency" else DrainLevel(asset, c, beside)
        plan.append(Planned(detector.key, fed, frames=detector))
    return plan


class _Nearest:
    """Finds the channel of a role on the same device, else at the same asset, else in the same zone."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._device: Mapping[str, Channel] = {c.device_id: c for c in reversed(channels)}
        self._asset: Mapping[str | None, Channel] = {c.asset_id: c for c in reversed(channels)}
        self._zone: Mapping[str | None, Channel] = {c.zone_id: c for c in reversed(channels) if c.zone_id is not None}

    def of(self, channel: Channel) -> Channel | None:
        """Return the channel nearest to `channel`."""
        return self._device.get(channel.device_id) or self._asset.get(channel.asset_id) or self._zone.get(channel.zone_id)


def _sensor(registry: Registry, channels: Sequence[Channel], channel_ids: Collection[int] | None) -> list[Planned]:
    plan: list[Planned] = []
    flat = [c for c in channels if c.role in FLAT_ROLES]
    wanted = None if channel_ids is None else frozenset(channel_ids)
    for part, members in _flat_parts(flat):
        mine = members if wanted is None else [c for c in members if c.channel_id in wanted]
        if mine:
            line = FlatLine(mine, _part_name(part))
            plan.append(Planned(line.key, line.channels, rows=line))
    if channels:
        silence = NoData(registry)
        plan.append(Planned(silence.key, silence.channels, rows=silence))
    return plan


def _flat_parts(channels: Sequence[Channel]) -> list[tuple[int, list[Channel]]]:
    """Return (number, channels) of parts of `FLAT_CHANNELS_MAX` ids, all channels of a device in one, the same ones as the registry grows."""
    first: dict[str, int] = {}
    parts: dict[int, list[Channel]] = {}
    for c in channels:
        parts.setdefault(first.setdefault(c.device_id, c.channel_id) // FLAT_CHANNELS_MAX, []).append(c)
    return sorted(parts.items())
