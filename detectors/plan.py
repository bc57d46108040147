"""Which detectors a registry asks for, and which channels feed each."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.lanes import GridLane, Lane, RowLane
from detectors.road.bridge_frequency import BridgeFrequency
from detectors.road.drain_level import DrainLevel
from detectors.road.roughness_step import RoughnessStep
from detectors.sensor.flat_line import ROLES as FLAT_ROLES
from detectors.sensor.flat_line import FlatLine
from detectors.sensor.no_data import NoData
from detectors.water.zone_inflow import FLOW_ROLES, PRESSURE_ROLES, TANK_ROLES, ZoneInflow
from underway.model import AssetClass, Channel, LeakSignatures, Registry, ZoneKind

Planned = tuple[str, Lane, tuple[Channel, ...]]


def plan_lanes(registry: Registry, signatures: Sequence[LeakSignatures] = ()) -> list[Planned]:
    """Return (key, lane, channels) of every detector that `registry` has channels for, in a stable order."""
    channels = tuple(sorted(registry.channels, key=lambda c: c.channel_id))
    return [*_water(registry, channels, signatures), *_road(registry, channels), *_sensor(registry, channels)]


def _water(registry: Registry, channels: Sequence[Channel], signatures: Sequence[LeakSignatures]) -> list[Planned]:
    of_zone = {s.zone_id: s for s in signatures}
    length = {
        a.asset_id: float(a.attributes["length_m"])
        for a in registry.assets
        if a.asset_class is AssetClass.PIPE and isinstance(a.attributes.get("length_m"), int | float)
    }
    names: dict[int, str] = {}
    for c in channels:
        if c.role in PRESSURE_ROLES:
            # two loggers at one pipe: the first has the pipe's signal, the others their own
            name = f"asset/{c.asset_id or c.device_id}/pressure"
            names[c.channel_id] = name if name not in names.values() else f"device/{c.device_id}/pressure"
    plan: list[Planned] = []
    roles = FLOW_ROLES + PRESSURE_ROLES + TANK_ROLES
    for zone in registry.zones:
        if zone.kind is not ZoneKind.DMA:
            continue
        mine = tuple(
            c
            for c in channels
            if c.role in roles and (c.zone_id == zone.zone_id or (c.also_zone_id == zone.zone_id and c.role in FLOW_ROLES))
        )
        if any(c.role in FLOW_ROLES for c in mine):
            detector = ZoneInflow(zone, mine, registry.site.timezone, of_zone.get(zone.zone_id), length, names)
            plan.append((detector.key, GridLane(detector, mine), mine))
    return plan


def _road(registry: Registry, channels: Sequence[Channel]) -> list[Planned]:
    assets = {a.asset_id: a for a in registry.assets}
    plan: list[Planned] = []
    zones = list(dict.fromkeys(c.zone_id for c in channels if c.role == "roughness" and c.asset_id in assets))
    for zone_id in zones:
        mine = tuple(c for c in channels if c.role == "roughness" and c.zone_id == zone_id and c.asset_id in assets)
        roughness = RoughnessStep(mine, [assets[str(c.asset_id)] for c in mine])
        plan.append((roughness.key, RowLane(roughness, mine), mine))
    for c in channels:
        if c.asset_id not in assets:
            continue
        asset = assets[str(c.asset_id)]
        if c.role == "bridge_frequency":
            warmth = _nearest(channels, "bridge_temperature", c)
            bridge = BridgeFrequency(asset, c, warmth)
            fed = (c,) if warmth is None else (c, warmth)
            plan.append((bridge.key, GridLane(bridge, fed), fed))
        elif c.role == "drain_level":
            rain = _nearest(channels, "rain", c)
            drain = DrainLevel(asset, c, rain)
            fed = (c,) if rain is None else (c, rain)
            plan.append((drain.key, GridLane(drain, fed), fed))
    return plan


def _nearest(channels: Sequence[Channel], role: str, of: Channel) -> Channel | None:
    """Return the channel of a role on the same device, else at the same asset, else in the same zone."""
    mine = [c for c in channels if c.role == role]
    for same in (
        [c for c in mine if c.device_id == of.device_id],
        [c for c in mine if c.asset_id == of.asset_id],
        [c for c in mine if of.zone_id is not None and c.zone_id == of.zone_id],
    ):
        if same:
            return same[0]
    return None


def _sensor(registry: Registry, channels: Sequence[Channel]) -> list[Planned]:
    plan: list[Planned] = []
    flat = tuple(c for c in channels if c.role in FLAT_ROLES)
    if flat:
        line = FlatLine(flat)
        plan.append((line.key, RowLane(line, flat), flat))
    if channels:
        silence = NoData(registry)
        plan.append((silence.key, RowLane(silence, silence.channels), silence.channels))
    return plan
