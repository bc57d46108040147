"""A small town with a seed: a water network cut into zones, a road along its mains, sensors, crews.

Everything here is a function of the arguments: the same seed, network and start give the same town to the last digit.
"""

from __future__ import annotations

import itertools
import math
import string
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import ConvexHull

from simulators.network import Link, LinkKind, Network, NodeKind, load_network, middle_of, partition, plain_id, to_lonlat
from simulators.signatures import SIGNATURE_HOURS, node_falls
from underway.model import (
    Asset,
    AssetClass,
    Channel,
    Crew,
    Device,
    LeakSignatures,
    OperatorError,
    Quantity,
    Registry,
    Shift,
    Site,
    Zone,
    ZoneKind,
)

DEFAULT_START_AT = datetime(2026, 2, 16, tzinfo=UTC)
INSTALLED_BEFORE = timedelta(days=1)  # a device is registered before it speaks; its clock may be a little slow
ORIGIN_LATITUDE_DEG, ORIGIN_LONGITUDE_DEG = 54.7, 2.6  # the Dogger Bank: dry land once, nobody's town today
STREAM_TOWN, STREAM_TRUTH, STREAM_DEMAND, STREAM_SENSOR, STREAM_ROAD, STREAM_FAULT, STREAM_STORY, STREAM_CREW = range(8)
ZONE_NAMES = ("Westmark", "Fenside", "Millgate", "Harrow Lea", "Northfield", "Saltings", "Eastbourne Rise", "Quarry Hill")
LITRES_PER_PERSON_DAY = 150.0
PEOPLE_PER_CONNECTION = 2.4
ZONES_MAX = 8
SENSOR_PER_JUNCTIONS = 26
SENSORS_PER_ZONE_MAX = 12


class Probe(StrEnum):
    """What a channel of the town senses; ``target`` of `Sense` says of which thing."""

    LINK_FLOW = "link_flow"
    NODE_PRESSURE = "node_pressure"
    TANK_LEVEL = "tank_level"
    ROUGHNESS = "roughness"
    FREQUENCY = "frequency"
    TILT = "tilt"
    AIR_TEMPERATURE = "air_temperature"
    DRAIN_LEVEL = "drain_level"
    RAIN = "rain"
    BATTERY = "battery"


@dataclass(frozen=True, slots=True)
class Sense:
    """One channel of a device and what it senses; noise is one standard deviation in the canonical unit (``noise_ratio``: of the value)."""

    device_id: str
    channel: str
    probe: Probe
    target: str
    noise: float
    noise_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class BalanceTerm:
    """One meter of a zone's water balance: ``sign`` times its flow enters the zone."""

    device_id: str
    channel: str
    link: str
    sign: int


@dataclass(frozen=True)
class Town:
    """A town; made by `build_town`.

    Attributes
    ----------
    seed : int
    registry : Registry
        With channel ids 0: the store gives them.
    crews : tuple of Crew
    network : Network
        The nominal network; truth differs from it (see `simulators.world`).
    start_at : datetime
        First instant of its history.
    senses : tuple of Sense
        What each channel senses, in the order of the registry's channels.
    zone_of_node : mapping of str to str
        DMA of each junction.
    pipe_of_asset : mapping of str to str
        Link of the network of each pipe asset.
    balance : mapping of str to tuple of BalanceTerm
        Meters of each DMA: the signed sum is its consumption and losses.
    folder : Path
        Where EPANET's files go.
    """

    seed: int
    registry: Registry
    crews: tuple[Crew, ...]
    network: Network
    start_at: datetime
    senses: tuple[Sense, ...]
    zone_of_node: Mapping[str, str]
    pipe_of_asset: Mapping[str, str]
    balance: Mapping[str, tuple[BalanceTerm, ...]]
    folder: Path
    keep: Any = field(default=None, repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def site_id(self) -> str:
        """Return the site's id."""
        return self.registry.site.site_id

    @property
    def dma_ids(self) -> tuple[str, ...]:
        """Return the ids of the district metered areas."""
        return tuple(z.zone_id for z in self.registry.zones if z.kind == ZoneKind.DMA)

    @property
    def assets(self) -> Mapping[str, Asset]:
        """Return the assets by id."""
        if "assets" not in self._cache:
            self._cache["assets"] = {a.asset_id: a for a in self.registry.assets}
        result: Mapping[str, Asset] = self._cache["assets"]
        return result

    def assets_of(self, asset_class: AssetClass) -> tuple[Asset, ...]:
        """Return the assets of a class, in order."""
        return tuple(a for a in self.registry.assets if a.asset_class == asset_class)

    def rng(self, stream: int, *more: int) -> np.random.Generator:
        """Return the generator of one stream of randomness of this town; streams do not disturb each other."""
        return np.random.default_rng([self.seed, stream, *more])

    def point_of(self, asset_id: str) -> tuple[float, float]:
        """Return (longitude, latitude) in degrees of the middle of an asset.

        Raises
        ------
        OperatorError
            When there is no such asset or it has no geometry.
        """
        asset = self.assets.get(asset_id)
        if asset is None or asset.geometry is None:
            raise OperatorError(f"asset must be one with a place in site {self.site_id!r}, got {asset_id!r}")
        shape = asset.geometry
        if shape["type"] == "Point":
            return (shape["coordinates"][0], shape["coordinates"][1])
        points = shape["coordinates"] if shape["type"] == "LineString" else shape["coordinates"][0]
        return middle_of([(p[0], p[1]) for p in points])

    def travel_m(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        """Return metres of road between two (longitude, latitude) points: straight line times 1.3."""
        lat = math.radians((start[1] + end[1]) / 2)
        return 1.3 * 111_320.0 * math.hypot((end[0] - start[0]) * math.cos(lat), end[1] - start[1])

    def distance_m(self, pipe_a: str, pipe_b: str) -> float:
        """Return metres along pipes between the middles of two pipes (asset ids); infinite when no path joins them.

        Raises
        ------
        OperatorError
            When either is not a pipe.
        """
        return float(self.distances_m(pipe_a)[self._pipe_row(pipe_b)])

    def distances_m(self, pipe: str) -> NDArray[np.float64]:
        """Return metres along pipes from the middle of a pipe to the middles of all, in the order of `pipe_of_asset`."""
        row = self._pipe_row(pipe)
        key = f"distances {pipe}"
        if key not in self._cache:
            graph, start, end, length = self._graph()
            far = dijkstra(graph, directed=False, indices=[start[row], end[row]])
            half = length / 2
            away = np.minimum(np.minimum(far[0][start], far[0][end]), np.minimum(far[1][start], far[1][end])) + half + half[row]
            away[row] = 0.0
            self._cache[key] = away
        result: NDArray[np.float64] = self._cache[key]
        return result

    def _pipe_row(self, pipe: str) -> int:
        if "row" not in self._cache:
            self._cache["row"] = {a: i for i, a in enumerate(self.pipe_of_asset)}
        row: int | None = self._cache["row"].get(pipe)
        if row is None:
            raise OperatorError(f"pipe must be the asset id of a pipe in site {self.site_id!r}, got {pipe!r}")
        return row

    def _graph(self) -> tuple[Any, NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
        if "graph" not in self._cache:
            number = {n: i for i, n in enumerate(self.network.nodes)}
            links = list(self.network.links.values())
            size = len(number)
            shortest: dict[tuple[int, int], float] = {}
            for link in links:
                pair = (number[link.start], number[link.end])
                shortest[pair] = min(shortest.get(pair, math.inf), max(link.length_m, 1e-3))
            pairs = np.array(list(shortest), dtype=np.intp).reshape(-1, 2)
            graph = csr_array((np.array(list(shortest.values())), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
            pipes = [self.network.links[p] for p in self.pipe_of_asset.values()]
            self._cache["graph"] = (
                graph,
                np.array([number[p.start] for p in pipes], dtype=np.intp),
                np.array([number[p.end] for p in pipes], dtype=np.intp),
                np.array([p.length_m for p in pipes]),
            )
        result: tuple[Any, NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]] = self._cache["graph"]
        return result

    def signatures(self, registry: Registry) -> tuple[LeakSignatures, ...]:
        """Return the pressure response of each DMA's sensors to a loss in the middle of each of its pipes, from the nominal model.

        Parameters
        ----------
        registry : Registry
            This town's registry as the store gave it back: its channels have ids.

        Returns
        -------
        tuple of LeakSignatures
            One a DMA that has pressure sensors.

        Notes
        -----
        A steady solve for each junction with 30 % of its zone's mean demand more, minus one without, at 03:00, 09:00, 15:00 and 20:00 with the tank
        levels of a nominal day; a pipe's row is the mean of its two ends and of the hours. 959 junctions take about 4 s; the result
        depends on the town only.
        Blind to what the nominal model does not know: true roughness, true demands, closed valves, other leaks.
        """
        ids = {(c.device_id, c.name): c.channel_id for c in registry.channels}
        pressure = [s for s in self.senses if s.probe == Probe.NODE_PRESSURE]
        if "falls" not in self._cache:
            self._cache["falls"] = node_falls(
                self.network, self.zone_of_node, sorted({s.target for s in pressure}), SIGNATURE_HOURS, self.folder / "nominal.inp"
            )
        falls: Mapping[str, Mapping[str, float]] = self._cache["falls"]
        zone_of_device = {d.device_id: d.zone_id for d in self.registry.devices}
        result = []
        for zone in self.dma_ids:
            sensors = [s for s in pressure if zone_of_device[s.device_id] == zone]
            pipes = [a for a in self.assets_of(AssetClass.PIPE) if a.zone_id == zone]
            if not sensors or not pipes:
                continue
            table = np.zeros((len(pipes), len(sensors)))
            for row, asset in enumerate(pipes):
                link = self.network.links[self.pipe_of_asset[asset.asset_id]]
                ends = [falls[n] for n in (link.start, link.end) if n in falls]
                for column, sense in enumerate(sensors):
                    table[row, column] = sum(e[sense.target] for e in ends) / max(len(ends), 1)
            result.append(
                LeakSignatures(zone, tuple(a.asset_id for a in pipes), tuple(ids[(s.device_id, s.channel)] for s in sensors), table),
            )
        return tuple(result)


def build_town(
    seed: int,
    network: str = "ky4",
    site_id: str = "town",
    start_at: datetime = DEFAULT_START_AT,
    zones: int | None = None,
    span_days: int = 60,
    folder: Path | None = None,
) -> Town:
    """Build a town from a seed.

    Parameters
    ----------
    seed : int
    network : str
        ``"ky4"`` (default), another library network, or the path of an INP file.
    site_id : str
    start_at : datetime
        First instant of history, aware; midnight is a good choice.
    zones : int, optional
        Wanted number of DMAs, 1..8; default one for about 170 junctions, 3..7.
    span_days : int
        Days for which crews have shifts.
    folder : Path, optional
        Where EPANET's files go; default a temporary folder that lives as long as the town.

    Returns
    -------
    Town

    Raises
    ------
    NetworkError
        When the network cannot be read.
    OperatorError
        When an argument is out of range.
    """
    if start_at.tzinfo is None:
        raise OperatorError(f"start_at must have a time zone, got {start_at!r}")
    if zones is not None and not 1 <= zones <= ZONES_MAX:
        raise OperatorError(f"zones must be in 1..{ZONES_MAX}, got {zones!r}")
    keep = None
    if folder is None:
        keep = tempfile.TemporaryDirectory(prefix="underway-town-")
        folder = Path(keep.name)
    folder.mkdir(parents=True, exist_ok=True)
    net = load_network(network)
    rng = np.random.default_rng([seed, STREAM_TOWN])
    junctions = net.of_kind(NodeKind.JUNCTION)
    count = zones if zones is not None else int(np.clip(round(len(junctions) / 170), 3, 7))
    area = partition(net, count, rng)
    zone_of_node = {n: f"z{a + 1}" for n, a in area.items()}
    builder = _Builder(net, site_id, start_at, zone_of_node, rng)
    builder.lay_zones()
    builder.lay_pipes()
    builder.lay_boundary_meters()
    builder.lay_tanks_and_pumps()
    builder.lay_pressure_sensors()
    builder.lay_road()
    site = Site(site_id, f"Dogger town {seed} (fictitious)", "UTC", ORIGIN_LATITUDE_DEG, ORIGIN_LONGITUDE_DEG)
    registry = Registry(site, tuple(builder.zones), tuple(builder.assets), tuple(builder.devices), tuple(builder.channels))
    return Town(
        seed=seed,
        registry=registry,
        crews=builder.crews(span_days),
        network=net,
        start_at=start_at,
        senses=tuple(builder.senses),
        zone_of_node=zone_of_node,
        pipe_of_asset=builder.pipe_of_asset,
        balance={z: tuple(t) for z, t in builder.balance.items()},
        folder=folder,
        keep=keep,
    )


class _Builder:
    """Collects the registry of a town, one kind of thing a method; order matters and is that of `build_town`."""

    def __init__(self, net: Network, site_id: str, start_at: datetime, zone_of_node: Mapping[str, str], rng: np.random.Generator) -> None:
        self.net, self.site_id, self.start_at, self.zone_of_node, self.rng = net, site_id, start_at, zone_of_node, rng
        self.zones: list[Zone] = []
        self.assets: list[Asset] = []
        self.devices: list[Device] = []
        self.channels: list[Channel] = []
        self.senses: list[Sense] = []
        self.pipe_of_asset: dict[str, str] = {}
        self.asset_of_link: dict[str, str] = {}
        self.balance: dict[str, list[BalanceTerm]] = {z: [] for z in sorted(set(zone_of_node.values()))}

    # --- small helpers

    def lonlat(self, point: Sequence[float]) -> list[float]:
        return to_lonlat(point[0], point[1], ORIGIN_LATITUDE_DEG, ORIGIN_LONGITUDE_DEG)

    def point(self, node: str) -> dict[str, Any]:
        n = self.net.nodes[node]
        return {"type": "Point", "coordinates": self.lonlat((n.east_m, n.north_m))}

    def line(self, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
        return {"type": "LineString", "coordinates": [self.lonlat(p) for p in points]}

    def zone_of_link(self, link: Link) -> str | None:
        return self.zone_of_node.get(link.start) or self.zone_of_node.get(link.end)

    def add_device(
        self, device_id: str, zone_id: str | None, asset_id: str | None, model: str, geometry: Mapping[str, Any], **attributes: Any
    ) -> None:
        self.devices.append(
            Device(
                device_id,
                self.site_id,
                zone_id,
                asset_id,
                model,
                "native",
                self.start_at - INSTALLED_BEFORE,
                geometry=geometry,
                attributes=attributes,
            )
        )

    def add_channel(
        self,
        device_id: str,
        name: str,
        quantity: Quantity,
        unit: str,
        role: str,
        limits: tuple[float, float],
        interval_s: float,
        resolution: float,
        sense: tuple[Probe, str, float] | tuple[Probe, str, float, float],
        sign: int = 1,
        also_zone_id: str | None = None,
    ) -> None:
        device = next(d for d in reversed(self.devices) if d.device_id == device_id)
        self.channels.append(
            Channel(
                0,
                device_id,
                name,
                quantity,
                unit,
                device.asset_id,
                device.zone_id,
                role,
                *limits,
                interval_s,
                resolution,
                sign,
                also_zone_id,
            )
        )
        self.senses.append(Sense(device_id, name, *sense))

    # --- water

    def lay_zones(self) -> None:
        names = [ZONE_NAMES[int(i)] for i in self.rng.permutation(len(ZONE_NAMES))]
        for index, zone in enumerate(sorted(set(self.zone_of_node.values()))):
            members = [n for n, z in self.zone_of_node.items() if z == zone]
            mains = [k for k in self.net.of_kind(LinkKind.PIPE) if self.zone_of_link(k) == zone]
            demand = sum(max(self.net.nodes[n].demand_m3ph, 0.0) for n in members)
            people = round(demand * 24_000 / LITRES_PER_PERSON_DAY)
            xy = np.array([p for k in mains for p in k.line] + [(self.net.nodes[n].east_m, self.net.nodes[n].north_m) for n in members])
            shape = self.hull(xy)
            attributes = {
                "mains_km": round(sum(k.length_m for k in mains) / 1000, 2),
                "connections": round(people / PEOPLE_PER_CONNECTION),
                "people": people,
                "mean_demand_m3ph": round(demand, 2),
            }
            name = names[index % len(names)]
            self.zones.append(Zone(zone, self.site_id, name, ZoneKind.DMA, shape, attributes))
            self.assets.append(Asset(f"dma:{zone}", self.site_id, zone, AssetClass.NETWORK, f"Network of {name}", shape, 4, attributes))

    def hull(self, xy: NDArray[np.float64]) -> dict[str, Any] | None:
        if len(xy) < 3 or np.linalg.matrix_rank(xy - xy[0]) < 2:
            return None
        corners = xy[ConvexHull(xy).vertices]
        middle = corners.mean(axis=0)
        ring = [self.lonlat(middle + (c - middle) * (1 + 40 / max(float(np.linalg.norm(c - middle)), 1.0))) for c in corners]
        return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}

    def lay_pipes(self) -> None:
        for link in self.net.of_kind(LinkKind.PIPE):
            asset_id = plain_id("p", link.link_id)
            while asset_id in self.pipe_of_asset:
                asset_id += "-b"
            big = 5 if link.diameter_mm >= 400 else 4 if link.diameter_mm >= 250 else 3 if link.diameter_mm >= 150 else 2
            attributes = {"length_m": round(link.length_m, 1), "diameter_mm": round(link.diameter_mm), "network_id": link.link_id}
            name = f"Main {link.link_id}, {round(link.diameter_mm)} mm"
            self.assets.append(
                Asset(asset_id, self.site_id, self.zone_of_link(link), AssetClass.PIPE, name, self.line(link.line), big, attributes)
            )
            self.pipe_of_asset[asset_id] = link.link_id
            self.asset_of_link[link.link_id] = asset_id

    def lay_boundary_meters(self) -> None:
        """Meter every link that joins two zones or a zone and a reservoir (or nothing); tanks have theirs in `lay_tanks_and_pumps`."""
        used: dict[str, int] = {}
        for link in self.net.links.values():
            ends = (self.net.nodes[link.start], self.net.nodes[link.end])
            if any(e.kind == NodeKind.TANK for e in ends):
                continue
            here, there = self.zone_of_node.get(link.end), self.zone_of_node.get(link.start)
            if here == there or (here is None and there is None):
                continue
            zone, other, sign = (here, there, 1) if here is not None else (there, None, -1)
            assert zone is not None
            stem = f"fm-{other}-{zone}" if other else f"fm-in-{zone}"
            used[stem] = used.get(stem, 0) + 1
            device_id = f"{stem}-{string.ascii_lowercase[(used[stem] - 1) % 26]}"
            far = link.end if here is not None else link.start
            area_m2 = math.pi * (max(link.diameter_mm, 300.0) / 1000) ** 2 / 4
            top = math.ceil(area_m2 * 4.0 * 3600)
            self.add_device(
                device_id,
                zone,
                self.asset_of_link.get(link.link_id),
                "electromagnetic flow meter",
                self.point(far),
                network_id=link.link_id,
            )
            self.add_channel(
                device_id,
                "flow",
                Quantity.FLOW,
                "L/s",
                "zone_inflow",
                (-float(top), float(top)),
                300.0,
                0.036,
                (Probe.LINK_FLOW, link.link_id, 0.05, 0.004),
                sign,
                other,
            )
            self.balance[zone].append(BalanceTerm(device_id, "flow", link.link_id, sign))
            if other:
                self.balance[other].append(BalanceTerm(device_id, "flow", link.link_id, -sign))

    def lay_tanks_and_pumps(self) -> None:
        for tank in self.net.of_kind(NodeKind.TANK):
            asset_id = plain_id("t", tank.node_id)
            links = [k for k in self.net.links.values() if tank.node_id in (k.start, k.end)]
            zone = next((z for k in links if (z := self.zone_of_link(k)) is not None), None)
            model = self.net.model.get_node(tank.node_id)
            attributes = {
                "network_id": tank.node_id,
                "level_max_m": round(float(model.max_level), 2),
                "level_min_m": round(float(model.min_level), 2),
            }
            self.assets.append(
                Asset(asset_id, self.site_id, zone, AssetClass.TANK, f"Tank {tank.node_id}", self.point(tank.node_id), 5, attributes)
            )
            device_id = plain_id("tk", asset_id)
            self.add_device(device_id, zone, asset_id, "tank station", self.point(tank.node_id), network_id=tank.node_id)
            limits = (-0.5, math.ceil(float(model.max_level)) + 1.0)
            self.add_channel(
                device_id, "level", Quantity.LEVEL, "m", "tank_level", limits, 300.0, 0.001, (Probe.TANK_LEVEL, tank.node_id, 0.003)
            )
            for number, link in enumerate(links):
                other = link.start if link.end == tank.node_id else link.end
                owner = self.zone_of_node.get(other)
                if owner is None:
                    continue
                # positive flow runs from start to end: it enters the zone when the tank is the start
                sign = 1 if link.start == tank.node_id else -1
                name = "flow" if number == 0 else f"flow_{number + 1}"
                top = math.ceil(math.pi * (max(link.diameter_mm, 300.0) / 1000) ** 2 / 4 * 4.0 * 3600)
                if owner != zone:
                    device_id = f"{plain_id('tk', asset_id)}-{owner}"
                    self.add_device(device_id, owner, asset_id, "tank station", self.point(tank.node_id), network_id=tank.node_id)
                self.add_channel(
                    device_id,
                    name,
                    Quantity.FLOW,
                    "L/s",
                    "tank_flow",
                    (-float(top), float(top)),
                    300.0,
                    0.036,
                    (Probe.LINK_FLOW, link.link_id, 0.05, 0.004),
                    sign,
                )
                self.balance[owner].append(BalanceTerm(device_id, name, link.link_id, sign))
        for source in self.net.of_kind(NodeKind.RESERVOIR):
            self.assets.append(
                Asset(
                    plain_id("r", source.node_id),
                    self.site_id,
                    None,
                    AssetClass.RESERVOIR,
                    f"Source {source.node_id}",
                    self.point(source.node_id),
                    5,
                    {"network_id": source.node_id},
                )
            )
        for pump in self.net.of_kind(LinkKind.PUMP):
            asset_id = plain_id("pump", pump.link_id)
            self.assets.append(
                Asset(
                    asset_id,
                    self.site_id,
                    self.zone_of_link(pump),
                    AssetClass.PUMP,
                    f"Pump {pump.link_id.strip('~@')}",
                    self.point(pump.end),
                    5,
                    {"network_id": pump.link_id},
                )
            )
            self.asset_of_link[pump.link_id] = asset_id

    def lay_pressure_sensors(self) -> None:
        """Spread sensors over each zone: at its first inlet, then always at the junction farthest (along pipes) from all sensors so far."""
        graph = nx.Graph()
        for link in self.net.links.values():
            if link.start in self.zone_of_node and link.end in self.zone_of_node:
                graph.add_edge(link.start, link.end, weight=max(link.length_m, 1.0))
        serial = 101
        for zone in sorted(self.balance):
            members = [n for n, z in self.zone_of_node.items() if z == zone and graph.has_node(n)]
            if not members:
                continue
            inside = graph.subgraph(members)
            want = int(np.clip(2 + round(len(members) / SENSOR_PER_JUNCTIONS), 3, SENSORS_PER_ZONE_MAX))
            want = min(want, len(members))
            doors = [n for t in self.balance[zone] for n in (self.net.links[t.link].start, self.net.links[t.link].end) if n in inside]
            chosen = [doors[0] if doors else members[0]]
            away = dict.fromkeys(members, math.inf)
            while True:
                for n, d in nx.single_source_dijkstra_path_length(inside, chosen[-1]).items():
                    away[n] = min(away[n], d)
                if len(chosen) >= want:
                    break
                # not the very tip of a dead end: one step back sees more
                far = max(members, key=lambda n: (away[n] if math.isfinite(away[n]) else 0.0, n))
                if inside.degree(far) == 1:
                    neighbour = next(iter(inside[far]))
                    far = neighbour if neighbour not in chosen else far
                if far in chosen:
                    break
                chosen.append(far)
            for node in chosen:
                near = min(
                    (k for k in self.net.of_kind(LinkKind.PIPE) if node in (k.start, k.end)),
                    key=lambda k: (-k.diameter_mm, k.link_id),
                    default=None,
                )
                device_id = f"pr-{serial}"
                serial += 1
                asset_id = self.asset_of_link[near.link_id] if near is not None else None
                self.add_device(device_id, zone, asset_id, "pressure logger", self.point(node), network_id=node)
                self.add_channel(
                    device_id,
                    "pressure",
                    Quantity.PRESSURE,
                    "kPa",
                    "zone_pressure",
                    (-100.0, 2500.0),
                    300.0,
                    0.1,
                    (Probe.NODE_PRESSURE, node, 0.35),
                )
                if serial % 2:  # the others stand at a lamp post
                    continue
                self.add_channel(
                    device_id, "battery", Quantity.BATTERY, "V", "health", (0.0, 5.0), 21_600.0, 0.01, (Probe.BATTERY, device_id, 0.004)
                )

    # --- road

    def lay_road(self) -> None:
        """Lay one corridor along a long path of big mains: about ten sections, a bridge, a culvert, a weather station."""
        graph = self.net.junction_graph()
        for u, v, data in graph.edges(data=True):
            pipes = [self.net.links[k] for k in data["links"]]
            best = min(pipes, key=lambda k: k.length_m)
            data["weight"] = best.length_m / max(best.diameter_mm, 50.0)
            data["best"] = best.link_id
            data["pair"] = (u, v)
        parts = sorted(nx.connected_components(graph), key=lambda c: (-len(c), min(c)))
        inside = graph.subgraph(parts[0])
        first = sorted(inside)[int(self.rng.integers(len(inside)))]
        ends = []
        for _ in range(2):
            far = nx.single_source_dijkstra_path_length(inside, first, weight="weight")
            first = max(far, key=lambda n: (far[n], n))
            ends.append(first)
        path = nx.dijkstra_path(inside, ends[0], ends[1], weight="weight")
        total = sum(self.net.links[inside[u][v]["best"]].length_m for u, v in itertools.pairwise(path))
        middle = self.middle_part(path, inside, min(total, 6000.0))
        corridor = "road-1"
        wanted_m = max(sum(self.net.links[inside[u][v]["best"]].length_m for u, v in itertools.pairwise(middle)) / 10, 60.0)
        sections: list[tuple[list[tuple[float, float]], list[str], float]] = []
        points: list[tuple[float, float]] = []
        pipes_here: list[str] = []
        length = 0.0
        for u, v in itertools.pairwise(middle):
            link = self.net.links[inside[u][v]["best"]]
            line = list(link.line if link.start == u else reversed(link.line))
            points += line if not points else line[1:]
            if link.link_id in self.asset_of_link:
                pipes_here.append(self.asset_of_link[link.link_id])
            length += link.length_m
            if length >= wanted_m:
                sections.append((points, pipes_here, length))
                points, pipes_here, length = [line[-1]], [], 0.0
        if length > wanted_m / 2 or not sections:
            sections.append((points, pipes_here, length))
        hull = self.hull(np.array([p for s in sections for p in s[0]]))
        self.zones.append(
            Zone(corridor, self.site_id, "Sand Road", ZoneKind.CORRIDOR, hull, {"length_km": round(sum(s[2] for s in sections) / 1000, 2)})
        )
        for number, (points, pipes_here, length) in enumerate(sections, start=1):
            asset_id = f"rd-{number:02d}"
            attributes = {"length_m": round(length, 1), "pipes": pipes_here, "iri_m_per_km": round(float(self.rng.uniform(1.4, 2.6)), 2)}
            self.assets.append(
                Asset(
                    asset_id,
                    self.site_id,
                    corridor,
                    AssetClass.ROAD_SECTION,
                    f"Sand Road, section {number}",
                    self.line(points),
                    3,
                    attributes,
                )
            )
            device_id = f"rp-s{number:02d}"
            self.add_device(
                device_id, corridor, asset_id, "probe vehicles", {"type": "Point", "coordinates": self.lonlat(middle_of(points))}
            )
            self.add_channel(
                device_id,
                "roughness",
                Quantity.ROUGHNESS,
                "m/km",
                "roughness",
                (0.0, 30.0),
                900.0,
                0.01,
                (Probe.ROUGHNESS, asset_id, 0.0, 0.06),
            )
        self.lay_bridge_and_culvert(corridor, [s[0] for s in sections])

    def middle_part(self, path: Sequence[str], graph: nx.Graph, length_m: float) -> list[str]:
        """Return a part of a path of about `length_m` whose start the seed chooses."""
        steps = [self.net.links[graph[u][v]["best"]].length_m for u, v in itertools.pairwise(path)]
        spare = max(sum(steps) - length_m, 0.0) * float(self.rng.uniform(0.2, 0.8))
        start = 0
        while start < len(steps) - 1 and spare > steps[start]:
            spare -= steps[start]
            start += 1
        end, run = start, 0.0
        while end < len(steps) and run < length_m:
            run += steps[end]
            end += 1
        return list(path[start : end + 1])

    def lay_bridge_and_culvert(self, corridor: str, lines: Sequence[list[tuple[float, float]]]) -> None:
        at_bridge, at_culvert = lines[len(lines) // 2], lines[max(len(lines) // 4, 0)]
        x, y = middle_of(at_bridge)
        span = [(x - 30.0, y), (x + 30.0, y)]
        base_hz = round(float(self.rng.uniform(2.1, 2.9)), 3)
        self.assets.append(
            Asset(
                "br-01",
                self.site_id,
                corridor,
                AssetClass.BRIDGE,
                "Brook Bridge",
                self.line(span),
                5,
                {"frequency_hz": base_hz, "length_m": 60.0},
            )
        )
        self.add_device("br-1", corridor, "br-01", "bridge monitor", {"type": "Point", "coordinates": self.lonlat((x, y))})
        self.add_channel(
            "br-1",
            "frequency",
            Quantity.FREQUENCY,
            "Hz",
            "bridge_frequency",
            (0.1, 20.0),
            600.0,
            0.001,
            (Probe.FREQUENCY, "br-01", 0.0, 0.007),
        )
        self.add_channel(
            "br-1",
            "temperature",
            Quantity.TEMPERATURE,
            "Cel",
            "bridge_temperature",
            (-50.0, 70.0),
            600.0,
            0.1,
            (Probe.AIR_TEMPERATURE, "br-01", 0.1),
        )
        self.add_channel("br-1", "tilt", Quantity.TILT, "mrad", "bridge_tilt", (-50.0, 50.0), 600.0, 0.01, (Probe.TILT, "br-01", 0.03))
        x, y = middle_of(at_culvert)
        place = {"type": "Point", "coordinates": self.lonlat((x, y))}
        self.assets.append(
            Asset(
                "dr-01", self.site_id, corridor, AssetClass.CULVERT, "Sand Road culvert", place, 3, {"depth_m": 1.2, "catchment_ha": 18.0}
            )
        )
        self.add_device("dr-1", corridor, "dr-01", "culvert gauge", place)
        self.add_channel(
            "dr-1", "level", Quantity.LEVEL, "m", "drain_level", (-0.1, 5.0), 300.0, 0.001, (Probe.DRAIN_LEVEL, "dr-01", 0.004)
        )
        self.add_device("rn-1", corridor, "dr-01", "rain gauge", place)
        self.add_channel("rn-1", "rain", Quantity.RAIN_RATE, "mm/h", "rain", (0.0, 300.0), 300.0, 0.2, (Probe.RAIN, "rn-01", 0.0))

    # --- people

    def crews(self, span_days: int) -> tuple[Crew, ...]:
        """Return four crews: water and works, day and night; shifts overlap by half an hour."""
        nodes = [self.net.nodes[n] for n in self.zone_of_node]
        xy = np.array([(n.east_m, n.north_m) for n in nodes])
        middle = xy.mean(axis=0)
        depots = [middle + (xy[int(self.rng.integers(len(xy)))] - middle) * 0.3 for _ in range(2)]
        midnight = self.start_at.replace(hour=0, minute=0, second=0, microsecond=0)
        day = tuple(
            Shift(midnight + timedelta(days=d, hours=6), midnight + timedelta(days=d, hours=18, minutes=30)) for d in range(span_days + 1)
        )
        night = tuple(
            Shift(midnight + timedelta(days=d, hours=18), midnight + timedelta(days=d + 1, hours=6, minutes=30))
            for d in range(-1, span_days + 1)
        )
        rows: tuple[tuple[str, str, tuple[str, ...], int, tuple[Shift, ...], str], ...] = (
            ("water-day", "Water crew, day", ("leak_repair", "instruments"), 0, day, "en"),
            ("water-night", "Water crew, night", ("leak_repair", "instruments"), 0, night, "en"),
            ("works-day", "Works crew, day", ("roads", "structures", "drainage"), 1, day, "en"),
            ("works-night", "Works crew, night", ("roads", "structures", "drainage", "instruments"), 1, night, "en"),
        )
        result = []
        for number, (crew_id, name, skills, depot, shifts, language) in enumerate(rows, start=1):
            lon, lat = self.lonlat(depots[depot])
            result.append(Crew(crew_id, self.site_id, name, skills, lon, lat, shifts, f"+44 7700 90010{number}", language, 40.0))
        return tuple(result)
