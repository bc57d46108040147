"""A water network as plain values, read from any EPANET INP file through WNTR, and cut into district metered areas.

Coordinates come out in metres east and north of the middle of the network: the drawing unit of an INP file is unknown, so it is taken from the
median ratio of pipe length to drawn length.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import wntr
from numpy.typing import NDArray

from underway.model import OperatorError

EARTH_M_PER_DEG = 111_320.0
# Pipes of ky4 are all as good as new and its mains are wide for its demand, so that pressure hardly says where a leak is. Its town has
# aged and grown: roughness coefficient (Hazen-Williams) and demand are multiplied. Two of its tanks would be brim-full each night, and all
# pressures jump each time an inlet closes: they are given taller walls. Networks that are not named are taken as they are.
# Tank -> (level_max_m, level at the start).
TANKS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "ky4": {"T-1": (48.0, 42.0), "T-2": (42.0, 34.8), "T-3": (33.7, 29.2), "T-4": (32.4, 28.0)},
}
TUNING: Mapping[str, tuple[float, float]] = {"ky4": (0.6, 1.4)}
LIBRARY_NETWORKS: Mapping[str, str] = {"ky4": "ky4", "ky10": "ky10", "net1": "Net1", "net2": "Net2", "net3": "Net3", "net6": "Net6"}


class NetworkError(OperatorError):
    """The named network cannot be used."""


class LinkKind(StrEnum):
    """What a link is."""

    PIPE = "pipe"
    PUMP = "pump"
    VALVE = "valve"


class NodeKind(StrEnum):
    """What a node is."""

    JUNCTION = "junction"
    TANK = "tank"
    RESERVOIR = "reservoir"


@dataclass(frozen=True, slots=True)
class Node:
    """A node; ``demand_m3ph`` is its mean demand over the patterns of the INP file, negative where water is fed in."""

    node_id: str
    kind: NodeKind
    east_m: float
    north_m: float
    elevation_m: float
    demand_m3ph: float = 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """A link; ``line`` holds (east, north) in metres from start to end, at least two points."""

    link_id: str
    kind: LinkKind
    start: str
    end: str
    length_m: float
    diameter_mm: float
    line: tuple[tuple[float, float], ...]
    open: bool = True


@dataclass(frozen=True)
class Network:
    """A network: nodes and links by id, in the order of the INP file, and the WNTR model that they were read from."""

    name: str
    nodes: Mapping[str, Node]
    links: Mapping[str, Link]
    model: Any

    def of_kind(self, kind: LinkKind | NodeKind) -> tuple[Any, ...]:
        """Return all nodes or links of a kind, in order."""
        rows: Sequence[Any] = tuple(self.links.values()) if isinstance(kind, LinkKind) else tuple(self.nodes.values())
        return tuple(row for row in rows if row.kind == kind)

    def junction_graph(self) -> nx.Graph:
        """Return junctions as nodes and links between two junctions as edges (``link`` holds the ids of parallel links)."""
        graph = nx.Graph()
        for node in self.nodes.values():
            if node.kind == NodeKind.JUNCTION:
                graph.add_node(node.node_id)
        for link in self.links.values():
            if graph.has_node(link.start) and graph.has_node(link.end):
                if graph.has_edge(link.start, link.end):
                    graph[link.start][link.end]["links"].append(link.link_id)
                else:
                    graph.add_edge(link.start, link.end, links=[link.link_id])
        return graph


def network_path(network: str) -> Path:
    """Return the INP file of a library network's name (any case) or of a file path.

    Raises
    ------
    NetworkError
        When it is neither.
    """
    known = LIBRARY_NETWORKS.get(network.lower())
    path = Path(wntr.__file__).parent / "library" / "networks" / f"{known}.inp" if known else Path(network)
    if not path.is_file():
        raise NetworkError(f"network must be one of {', '.join(LIBRARY_NETWORKS)} or the path of an EPANET INP file, got {network!r}")
    return path


def load_network(network: str) -> Network:
    """Read a network.

    Parameters
    ----------
    network : str
        ``"ky4"``, ``"ky10"``, ``"net1"``, ``"net2"``, ``"net3"``, ``"net6"`` (they ship with WNTR) or the path of an INP file.

    Returns
    -------
    Network
        Lengths and coordinates in metres, diameters in mm, demands in m3/h.

    Raises
    ------
    NetworkError
        When there is no such file.

    Examples
    --------
    >>> net = load_network("net3")
    >>> len(net.of_kind(NodeKind.JUNCTION)), len(net.of_kind(LinkKind.PIPE)), len(net.of_kind(NodeKind.TANK))
    (92, 117, 3)
    """
    path = network_path(network)
    model = wntr.network.WaterNetworkModel(str(path))
    ageing, growth = TUNING.get(network.lower(), (1.0, 1.0))
    for _, pipe in model.pipes():
        pipe.roughness *= ageing
    for name, (level_max_m, level_m) in TANKS.get(network.lower(), {}).items():
        tank = model.get_node(name)
        tank.max_level, tank.init_level = level_max_m, level_m
    scale, middle = _scale(model)

    def at(point: Sequence[float]) -> tuple[float, float]:
        return (float(point[0] - middle[0]) * scale, float(point[1] - middle[1]) * scale)

    nodes: dict[str, Node] = {}
    for name, node in model.nodes():
        kind = NodeKind(node.node_type.lower())
        demand = 0.0
        if kind == NodeKind.JUNCTION:
            for entry in node.demand_timeseries_list:
                factor = float(np.mean(entry.pattern.multipliers)) if entry.pattern is not None and len(entry.pattern.multipliers) else 1.0
                demand += entry.base_value * factor * 3600.0
            demand *= float(model.options.hydraulic.demand_multiplier) * growth
        elevation = float(node.base_head) if kind == NodeKind.RESERVOIR else float(node.elevation)
        nodes[name] = Node(name, kind, *at(node.coordinates), elevation, demand)
    fed = -sum(min(n.demand_m3ph, 0.0) for n in nodes.values())
    if fed > 0 and not any(n.kind == NodeKind.RESERVOIR for n in nodes.values()):
        # what is fed in has nowhere to go when the tanks are full: feed what is taken
        taken = sum(max(n.demand_m3ph, 0.0) for n in nodes.values())
        nodes = {k: replace(n, demand_m3ph=n.demand_m3ph * taken / fed) if n.demand_m3ph < 0 else n for k, n in nodes.items()}
    links: dict[str, Link] = {}
    for name, link in model.links():
        kind_of_link = LinkKind(link.link_type.lower())
        line = tuple(at(p) for p in (link.start_node.coordinates, *link.vertices, link.end_node.coordinates))
        drawn = sum(math.dist(a, b) for a, b in itertools.pairwise(line))
        pipe = kind_of_link == LinkKind.PIPE
        length = float(link.length) if pipe else max(drawn, 1.0)
        diameter = float(link.diameter) * 1000.0 if kind_of_link != LinkKind.PUMP else 0.0
        is_open = str(link.initial_status).rsplit(".", 1)[-1].lower() not in {"closed", "0"}
        links[name] = Link(name, kind_of_link, link.start_node_name, link.end_node_name, length, diameter, line, is_open)
    return Network(path.stem.lower(), nodes, links, model)


def _scale(model: Any) -> tuple[float, tuple[float, float]]:
    ratios = []
    for _, pipe in model.pipes():
        points = [pipe.start_node.coordinates, *pipe.vertices, pipe.end_node.coordinates]
        drawn = sum(math.dist(a, b) for a, b in itertools.pairwise(points))
        if drawn > 0:
            ratios.append(pipe.length / drawn)
    xy = np.array([node.coordinates for _, node in model.nodes()])
    middle = (xy.min(axis=0) + xy.max(axis=0)) / 2
    return (float(np.median(ratios)) if ratios else 1.0), (float(middle[0]), float(middle[1]))


def plain_id(prefix: str, name: str) -> str:
    """Return an id of lower case letters, digits, '-' and '_' for a name from an INP file.

    Examples
    --------
    >>> plain_id("p", "P-12"), plain_id("p", "~@Pump 1"), plain_id("p", "20")
    ('p-12', 'p-pump-1', 'p-20')
    """
    bare = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")
    return bare if bare.startswith(f"{prefix}-") else f"{prefix}-{bare}"


def to_lonlat(east_m: float, north_m: float, latitude_deg: float, longitude_deg: float) -> list[float]:
    """Return [longitude, latitude] in degrees of a point east and north of an origin (equirectangular, good to metres over 20 km).

    Examples
    --------
    >>> to_lonlat(0.0, 111_320.0, 55.0, 3.0)
    [3.0, 56.0]
    """
    lon = longitude_deg + east_m / (EARTH_M_PER_DEG * math.cos(math.radians(latitude_deg)))
    return [round(float(lon), 6), round(float(latitude_deg + north_m / EARTH_M_PER_DEG), 6)]


def partition(network: Network, count: int, rng: np.random.Generator) -> dict[str, int]:
    """Cut the junctions into connected areas of similar demand with few links between them.

    Parameters
    ----------
    network : Network
    count : int
        Wanted number of areas; fewer come out when the network is too small or already falls into parts.
    rng : numpy.random.Generator
        Breaks ties, so that towns differ by seed.

    Returns
    -------
    dict of str to int
        Area 0.. of every junction; each area is connected.

    Notes
    -----
    Louvain communities (modularity keeps the cut small) are joined pairwise, always the pair with most links between them for its size, while the sum
    stays below 1.6 times the mean size; then single junctions on the border move to the neighbour when the cut shrinks and the area stays connected.
    Size is half demand, half number of junctions.
    """
    graph = network.junction_graph()
    total = max(sum(max(network.nodes[n].demand_m3ph, 0.0) for n in graph), 1e-9)
    size = {n: 0.5 * max(network.nodes[n].demand_m3ph, 0.0) / total + 0.5 / graph.number_of_nodes() for n in graph}
    area: dict[str, int] = {}
    for index, members in enumerate(nx.community.louvain_communities(graph, resolution=1.0, seed=int(rng.integers(2**31)))):
        area.update(dict.fromkeys(members, index))
    _join(graph, area, size, count)
    _trim(graph, area, size, count)
    # number the areas from west to east, so that names are stable to read
    east = {a: float(np.mean([network.nodes[n].east_m for n in area if area[n] == a])) for a in set(area.values())}
    order = {a: i for i, a in enumerate(sorted(east, key=lambda a: east[a]))}
    return {n: order[area[n]] for n in graph}


def _join(graph: nx.Graph, area: dict[str, int], size: Mapping[str, float], count: int) -> None:
    limit = 1.6 / count
    while True:
        weight: dict[int, float] = {}
        for n, a in area.items():
            weight[a] = weight.get(a, 0.0) + size[n]
        if len(weight) <= count:
            return
        cut: dict[tuple[int, int], int] = {}
        for u, v, data in graph.edges(data=True):
            a, b = sorted((area[u], area[v]))
            if a != b:
                cut[(a, b)] = cut.get((a, b), 0) + len(data["links"])
        if not cut:
            return
        allowed = [pair for pair in cut if weight[pair[0]] + weight[pair[1]] <= limit]
        if not allowed:
            limit *= 1.15
            continue
        keep, drop = max(allowed, key=lambda p: (cut[p] / math.sqrt(weight[p[0]] * weight[p[1]]), p))
        for n, a in area.items():
            if a == drop:
                area[n] = keep


def _trim(graph: nx.Graph, area: dict[str, int], size: Mapping[str, float], count: int) -> None:
    for _ in range(4):
        moved = 0
        for n in graph:
            around: dict[int, int] = {}
            for m in graph[n]:
                around[area[m]] = around.get(area[m], 0) + len(graph[n][m]["links"])
            here = area[n]
            best = max(around, key=lambda a: (around[a], -a), default=here)
            if best == here or around[best] <= around.get(here, 0):
                continue
            rest = [m for m in area if area[m] == here and m != n]
            if not rest or not nx.is_connected(graph.subgraph(rest)):
                continue
            area[n] = best
            moved += 1
        if not moved:
            return


def centres(network: Network) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return the ids of all pipes and their middle points (east, north) in metres, shape (p, 2)."""
    pipes = network.of_kind(LinkKind.PIPE)
    return tuple(p.link_id for p in pipes), np.array([middle_of(p.line) for p in pipes], dtype=np.float64).reshape(-1, 2)


def middle_of(line: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the point half way along a line.

    Examples
    --------
    >>> middle_of([(0.0, 0.0), (2.0, 0.0), (2.0, 2.0)])
    (2.0, 0.0)
    """
    steps = [math.dist(a, b) for a, b in itertools.pairwise(line)]
    left = sum(steps) / 2
    for (a, b), step in zip(itertools.pairwise(line), steps, strict=True):
        if step >= left and step > 0:
            f = left / step
            return (a[0] + f * (b[0] - a[0]), a[1] + f * (b[1] - a[1]))
        left -= step
    return line[0]
