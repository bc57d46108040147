"""Which parts of a network can be balanced: cut at its metered pumps, each part with what feeds it, what it gives away, and what measures it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from detectors.contract import FloatArray
from underway.model import Channel, NetworkModel, Quantity

DRAWN = "underway-drawn"
"""Pattern of what is drawn at a node beyond its nominal demand: 1 always."""
CUSTOMER_ROLE = "customer_flow"


class NotModelled(StrEnum):
    """Why a section cannot be watched with its model."""

    NO_GAUGE = "no_gauge"
    SUPPLY_NOT_METERED = "supply_not_metered"
    TANK_NOT_METERED = "tank_not_metered"


@dataclass(frozen=True, slots=True)
class Meter:
    """A metered link that feeds the section or takes from it; `channel` is where its flow stands."""

    link: str
    node: str
    sign: int
    channel: Channel


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the network that is balanced on its own.

    Attributes
    ----------
    name : str
        Its first node in the order of the model.
    nodes, pipes : tuple of str
        Junctions and pipes, EPANET ids.
    ends : ndarray of int64, shape (p, 2)
        Places in `nodes` of the two ends of each pipe; -1 is a tank or a reservoir.
    length_m, diameter_m : ndarray, shape (p,)
    inlets : tuple of Meter
        Links from a reservoir, positive into the section.
    pumps : tuple of Meter
        Metered pumps at its edge: +1 brings water in (at `node`), -1 takes it out.
    gauges, metered_links : tuple of str
        Nodes with a pressure gauge; links inside whose flow is a signal (all inlets but the last, and meters further in).
    gauge_channels, link_channels, tank_channels, customer_channels : tuple of Channel
    tanks : tuple of str
    tank_area_m2 : ndarray
    customer_places : tuple of int
        Places in `nodes` of metered customers; empty: the demand is the balance, spread as the model spreads it.
    """

    name: str
    nodes: tuple[str, ...]
    pipes: tuple[str, ...]
    ends: Any
    length_m: FloatArray
    diameter_m: FloatArray
    inlets: tuple[Meter, ...]
    pumps: tuple[Meter, ...]
    gauges: tuple[str, ...]
    gauge_channels: tuple[Channel, ...]
    metered_links: tuple[str, ...]
    link_sign: tuple[int, ...]
    link_channels: tuple[Channel, ...]
    tanks: tuple[str, ...]
    tank_area_m2: FloatArray
    tank_channels: tuple[Channel, ...]
    customer_places: tuple[int, ...]
    customer_channels: tuple[Channel, ...]
    base_m3ph: Mapping[str, FloatArray]
    profile: Mapping[str, FloatArray]
    _model: Any = field(repr=False, default=None)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return the patterns whose multipliers a load sets: the nominal kinds of demand, then the pumps."""
        return (*self.base_m3ph, *(f"pump-{i}" for i in range(len(self.pumps))))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Return what a detector of this section is fed: gauges, meters further in, inlets, pumps, tanks, customers."""
        return (
            *self.gauge_channels, *self.link_channels, *(m.channel for m in self.inlets), *(m.channel for m in self.pumps), *self.tank_channels,
            *self.customer_channels,
        )  # fmt: skip

    def share_of(self, factors: Mapping[str, float]) -> FloatArray:
        """Return the part of the nominal demand that each node draws when the kinds of demand are multiplied by `factors`."""
        drawn = sum((factors.get(kind, 0.0) * base for kind, base in self.base_m3ph.items()), np.zeros(len(self.nodes)))
        total = float(drawn.sum())
        return drawn / total if total > 0 else np.zeros(len(self.nodes))

    def factors(self, demand_m3ph: float, week_hour: int) -> dict[str, float]:
        """Return multipliers of the kinds of demand that together draw `demand_m3ph`, in the proportions of an hour of the week."""
        usual = {kind: float(self.profile[kind][week_hour]) for kind in self.base_m3ph}
        total = sum(usual[kind] * float(base.sum()) for kind, base in self.base_m3ph.items())
        return {kind: demand_m3ph / total * value for kind, value in usual.items()} if total > 0 else usual

    def build(self, accuracy: float) -> Any:
        """Return the section as a model of its own, one step long, with demands that `Engine.load` can set."""
        import copy

        model = copy.deepcopy(self._model)
        keep = {*self.nodes, *self.tanks, *(r for r in model.reservoir_name_list)}
        inside = set(self.nodes) | set(self.tanks)
        for name in list(model.control_name_list):
            model.remove_control(name)
        pumps = {m.link for m in self.pumps}
        for name, link in list(model.links()):
            if name in pumps or not ({link.start_node_name, link.end_node_name} & inside):
                model.remove_link(name)
        for name, _ in list(model.nodes()):
            if name not in keep or not model.get_links_for_node(name):
                model.remove_node(name, with_control=True)
        model.add_pattern(DRAWN, [1.0])
        for pattern in self.patterns:
            if pattern not in model.pattern_name_list:
                model.add_pattern(pattern, [1.0])
        place = {name: i for i, name in enumerate(self.nodes)}
        for name, junction in model.junctions():
            junction.demand_timeseries_list.clear()
            junction.add_demand(0.0, DRAWN)
            junction.emitter_coefficient = None
            for kind, base in self.base_m3ph.items():
                if base[place[name]]:
                    junction.add_demand(float(base[place[name]]) / 3600.0, kind)
            for i, pump in enumerate(self.pumps):
                if pump.node == name:
                    junction.add_demand(-pump.sign / 3600.0, f"pump-{i}")
        for _, pattern in model.patterns():
            pattern.multipliers = [1.0]
        model.options.hydraulic.demand_multiplier = 1.0
        model.options.time.duration = 0
        model.options.hydraulic.accuracy = accuracy
        model.options.hydraulic.demand_model = "DDA"
        return model


def sections(channels: Iterable[Channel], model: NetworkModel) -> tuple[list[Section], list[tuple[str, NotModelled]]]:
    """Return the sections that can be balanced, and (first node, reason) of those that cannot.

    Parameters
    ----------
    channels : iterable of Channel
        Those whose asset is an element of the model are used: pressures at nodes, flows in links, levels of tanks, and flows of customers (role
        ``customer_flow``) at nodes.
    model : NetworkModel
    """
    network = _read(model.inp)
    at: dict[Quantity, dict[str, Channel]] = {Quantity.FLOW: {}, Quantity.PRESSURE: {}, Quantity.LEVEL: {}}
    customers: dict[str, Channel] = {}
    for c in sorted(channels, key=lambda c: c.channel_id):
        element = model.element_of.get(c.asset_id or "")
        if element is None:
            continue
        if c.role == CUSTOMER_ROLE:
            customers.setdefault(element, c)
        elif c.quantity in at:
            at[c.quantity].setdefault(element, c)
    cut = {name for name in network.pump_name_list if name in at[Quantity.FLOW]}
    found: list[Section] = []
    refused: list[tuple[str, NotModelled]] = []
    for members in _parts(network, cut):
        section = _section(network, members, cut, at, customers)
        if isinstance(section, NotModelled):
            refused.append((members[0], section))
        else:
            found.append(section)
    return found, refused


@lru_cache(maxsize=2)
def _read(inp: str) -> Any:
    """Return the model; nobody changes it, see `Section.build`."""
    import tempfile
    from pathlib import Path

    import wntr

    with tempfile.TemporaryDirectory(prefix="underway-inp-") as folder:
        path = Path(folder) / "network.inp"
        path.write_text(inp, encoding="utf-8")
        return wntr.network.WaterNetworkModel(str(path))


def _parts(network: Any, cut: set[str]) -> list[list[str]]:
    """Return junctions and tanks that hang together without the links in `cut` and without passing through a reservoir, in the model's order."""
    reservoirs = set(network.reservoir_name_list)
    names = [n for n in network.node_name_list if n not in reservoirs]
    beside: dict[str, list[str]] = {n: [] for n in names}
    for name, link in network.links():
        a, b = link.start_node_name, link.end_node_name
        if name not in cut and a in beside and b in beside:
            beside[a].append(b)
            beside[b].append(a)
    left, parts = dict.fromkeys(names), []
    while left:
        seed = next(iter(left))
        reached, queue = {seed}, [seed]
        while queue:
            for other in beside[queue.pop()]:
                if other not in reached:
                    reached.add(other)
                    queue.append(other)
        parts.append([n for n in names if n in reached])
        left = {n: None for n in left if n not in reached}
    return parts


def _section(
    network: Any, members: Sequence[str], cut: set[str], at: Mapping[Quantity, Mapping[str, Channel]], customers: Mapping[str, Channel]
) -> Section | NotModelled:
    inside = set(members)
    tanks = tuple(n for n in members if n in set(network.tank_name_list))
    nodes = tuple(n for n in members if n not in set(tanks))
    reservoirs = set(network.reservoir_name_list)
    flow, pressure, level = at[Quantity.FLOW], at[Quantity.PRESSURE], at[Quantity.LEVEL]
    inlets: list[Meter] = []
    pumps: list[Meter] = []
    for name, link in network.links():
        a, b = link.start_node_name, link.end_node_name
        if name in cut:
            pumps += [Meter(name, node, sign, flow[name]) for node, sign in ((a, -1), (b, 1)) if node in inside]
        elif (a in reservoirs and b in inside) or (b in reservoirs and a in inside):
            if name not in flow:
                return NotModelled.SUPPLY_NOT_METERED
            inlets.append(Meter(name, b if a in reservoirs else a, 1 if a in reservoirs else -1, flow[name]))
    if any(t not in level for t in tanks):
        return NotModelled.TANK_NOT_METERED
    if not (inlets or any(p.sign > 0 for p in pumps)):
        return NotModelled.SUPPLY_NOT_METERED
    gauges = tuple(n for n in nodes if n in pressure)
    if not gauges:
        return NotModelled.NO_GAUGE
    place = {n: i for i, n in enumerate(nodes)}
    pipes = tuple(
        name for name, pipe in network.pipes() if (pipe.start_node_name in inside or pipe.end_node_name in inside) and name not in cut
    )
    links = [network.get_link(name) for name in pipes]
    within = [
        (name, flow[name], 1) for name, link in network.links()
        if name in flow and name not in cut and link.start_node_name in inside and link.end_node_name in inside
    ]  # fmt: skip
    signals = [*((m.link, m.channel, m.sign) for m in inlets[:-1]), *within]
    metered = tuple(place[n] for n in nodes if n in customers)
    base, profile = _demands(network, nodes)
    if metered:
        base, profile = {}, {}
    areas = np.array([np.pi / 4 * network.get_node(t).diameter ** 2 for t in tanks])
    return Section(
        nodes[0], nodes, pipes,
        np.array([[place.get(k.start_node_name, -1), place.get(k.end_node_name, -1)] for k in links], np.int64).reshape(-1, 2),
        np.array([k.length for k in links]), np.array([k.diameter for k in links]),
        tuple(inlets), tuple(pumps), gauges, tuple(pressure[n] for n in gauges),
        tuple(s[0] for s in signals), tuple(s[2] for s in signals), tuple(s[1] for s in within),
        tanks, areas, tuple(level[t] for t in tanks), metered, tuple(customers[nodes[i]] for i in metered), base, profile, network,
    )  # fmt: skip


def _demands(network: Any, nodes: Sequence[str]) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the nominal demand of each node by kind (pattern), m3/h, and the kinds' means by hour of the week."""
    from detectors.water.epanet import week_profile

    default = network.options.hydraulic.pattern
    step_s = float(network.options.time.pattern_timestep)
    base: dict[str, FloatArray] = {}
    for i, name in enumerate(nodes):
        for demand in network.get_node(name).demand_timeseries_list:
            kind = demand.pattern_name or default or "constant"
            value = float(demand.base_value) * 3600.0
            if value:
                base.setdefault(str(kind), np.zeros(len(nodes)))[i] += value
    patterns = set(network.pattern_name_list)
    profile = {
        kind: week_profile(network.get_pattern(kind).multipliers, step_s) if kind in patterns else np.ones(168) for kind in base
    }  # fmt: skip
    return base, profile
