"""Which detectors a registry asks for, and which channels feed each."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.lanes import GridLane, Lane
from detectors.water.zone_inflow import FLOW_ROLES, PRESSURE_ROLES, TANK_ROLES, ZoneInflow
from underway.model import AssetClass, Channel, LeakSignatures, Registry, ZoneKind

Planned = tuple[str, Lane, tuple[Channel, ...]]


def plan_lanes(registry: Registry, signatures: Sequence[LeakSignatures] = ()) -> list[Planned]:
    """Return (key, lane, channels) of every detector that `registry` has channels for, in a stable order."""
    channels = tuple(sorted(registry.channels, key=lambda c: c.channel_id))
    return _water(registry, channels, signatures)


def _water(registry: Registry, channels: Sequence[Channel], signatures: Sequence[LeakSignatures]) -> list[Planned]:
    of_zone = {s.zone_id: s for s in signatures}
    length = {
        a.asset_id: float(a.attributes["length_m"])
        for a in registry.assets
        if a.asset_class is AssetClass.PIPE and isinstance(a.attributes.get("length_m"), int | float)
    }
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
            detector = ZoneInflow(zone, mine, registry.site.timezone, of_zone.get(zone.zone_id), length)
            plan.append((detector.key, GridLane(detector, mine), mine))
    return plan
