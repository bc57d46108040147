"""Leak signatures: how much each pressure sensor falls for a loss at each junction, from steady solves of the nominal model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simulators.demand import diurnal
from simulators.hydraulics import STEP_S, Engine, Perturbation, write_inp
from simulators.network import Network, NodeKind

SIGNATURE_HOURS: tuple[float, ...] = (3.0, 9.0, 15.0, 20.0)
SIGNATURE_SHARE = 0.3
SIGNATURE_LOSS_M3PH = (3.0, 30.0)


def node_falls(
    network: Network,
    zone_of_node: Mapping[str, str],
    sensors: Sequence[str],
    hours: Sequence[float],
    inp: Path,
    share: float = SIGNATURE_SHARE,
) -> dict[str, dict[str, float]]:
    """Return the fall of pressure at each sensor for a loss at each junction.

    Parameters
    ----------
    network : Network
    zone_of_node : mapping of str to str
    sensors : sequence of str
        Junctions with a pressure sensor.
    hours : sequence of float
        Hours of a nominal weekday over which the fall is averaged.
    inp : Path
        Where the nominal model is written.
    share : float
        Size of the loss as a share of the zone's mean demand, kept within 3 to 30 m3/h. Head loss grows with flow to the 1.85, so the fall is a
        secant, and at a dead end it doubles with the size: it must be taken near the size of the bursts that one wants to locate.

    Returns
    -------
    dict of str to dict of str to float
        ``falls[junction][sensor]`` in kPa a m3/h; positive is a fall.
    """
    write_inp(network, zone_of_node, Perturbation.none(), inp)
    demand_m3ph = dict.fromkeys(zone_of_node.values(), 0.0)
    for node, zone in zone_of_node.items():
        demand_m3ph[zone] += network.nodes[node].demand_m3ph
    low, high = SIGNATURE_LOSS_M3PH
    loss_m3ph = {zone: min(max(share * total, low), high) for zone, total in demand_m3ph.items()}
    zones = sorted(set(zone_of_node.values()))
    tanks = [t.node_id for t in network.of_kind(NodeKind.TANK)]
    levels: dict[float, dict[str, float]] = {}
    with Engine(inp, network) as engine:
        last = int(24 + max(hours)) * 3600
        for elapsed in range(0, last + STEP_S, 2 * STEP_S):
            hour = elapsed / 3600 % 24
            for zone in zones:
                engine.set_demand_multiplier(zone, diurnal(hour, weekend=False))
            engine.step_to(elapsed)
            if elapsed >= 86_400 and hour in hours:
                levels[hour] = {t: engine.tank_level_m(t) for t in tanks}
    falls = {n: dict.fromkeys(sensors, 0.0) for n in zone_of_node}
    with Engine(inp, network) as engine:
        for hour in hours:
            factor = diurnal(hour, weekend=False)
            for zone in zones:
                engine.set_demand_multiplier(zone, factor)
            for tank, level in levels[hour].items():
                engine.set_tank_level(tank, level)
            engine.solve()
            calm = engine.pressures_kpa(sensors)
            for node, zone in zone_of_node.items():
                loss = loss_m3ph[zone]
                base = network.nodes[node].demand_m3ph
                engine.set_demand(node, base + loss / factor)
                engine.solve()
                fall = (calm - engine.pressures_kpa(sensors)) / (loss * len(hours))
                engine.set_demand(node, base)
                for sensor, value in zip(sensors, fall, strict=True):
                    falls[node][sensor] += float(value)
    return falls
