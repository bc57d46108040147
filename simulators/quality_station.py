"""A water quality station in a network: chlorine, the share of a source and a contaminant come from EPANET's water quality, the rest is mapped.

Hydraulics are solved once, with demands that differ from day to day, flushing and a source that is taken off now and then; on them EPANET carries
three things to the station: chlorine that decays, the share of the second source, and what is injected at junctions upstream. The probes then see
a mixture of two waters and, while a contaminant passes, what a contaminant of its class does to them. On top come noise, spikes, gaps, drift,
calibration and maintenance.
"""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import wntr
from numpy.typing import NDArray
from wntr.epanet.toolkit import ENepanet

from simulators.hydraulics import EngineError
from simulators.network import Network, NetworkError, load_network

Floats = NDArray[np.float64]

STEP_S = 300
PATTERN_S = 1800
DAY_S = 86_400
LEARNING_DAYS = 21
SLOT_DAYS = 2.5
SEEN_SHARE = 0.05
"""The contaminant is at the station while its concentration is above this share of its peak there."""
REACHES_SHARE = 0.02
"""A junction from which less than this arrives, of what a full flow would bring, is not upstream."""
STATIONS: Mapping[str, str] = {"net3": "209"}
"""Station of the library's networks where none is named."""

# EPANET 2.2 toolkit codes (epanet2_enums.h)
EN_SOURCEQUAL, EN_SOURCEPAT, EN_SOURCETYPE, EN_QUALITY, EN_TANK_KBULK, EN_INITQUAL = 5, 6, 7, 12, 23, 4
EN_KBULK, EN_KWALL = 6, 7
EN_CHEM, EN_TRACE = 1, 3
EN_CONCEN, EN_MASS = 0, 1


class HappeningKind(StrEnum):
    """What happens to the water, or only to the probes."""

    CONTAMINATION = "contamination"
    SOURCE = "source"
    FLUSH = "flush"
    CALIBRATION = "calibration"
    DRIFT = "drift"
    MAINTENANCE = "maintenance"


OPERATIONS = (HappeningKind.SOURCE, HappeningKind.FLUSH)
PROBES = (HappeningKind.CALIBRATION, HappeningKind.DRIFT, HappeningKind.MAINTENANCE)


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened.

    Attributes
    ----------
    begin_s, end_s : int
        When it was done, seconds from the start.
    seen_from_s, seen_until_s : int
        When it stands at the station; equal when it never comes there.
    what : str
        Class of a contaminant, or the quantities of the probes.
    strength : float
        Peak at the station in units of its class, or size.
    node : str
        Where, empty at the station itself.
    """

    kind: HappeningKind
    begin_s: int
    end_s: int
    seen_from_s: int
    seen_until_s: int
    what: str
    strength: float
    node: str = ""


@dataclass(frozen=True, slots=True)
class StationRun:
    """What a station measured; readings each 5 min, NaN is a gap."""

    station: str
    days: int
    at_s: NDArray[np.int64]
    signals: Mapping[str, Floats]
    happenings: tuple[Happening, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """What one unit of a contaminant does to the probes: chlorine is multiplied by exp(-demand), the others are added to."""

    chlorine_demand: float
    toc_mgpl: float = 0.0
    conductivity_uspcm: float = 0.0
    turbidity_ntu: float = 0.0
    ph: float = 0.0
    temperature_c: float = 0.0


# Directions and relative sizes after Hall et al. (2007), doi 10.1002/j.1551-8833.2007.tb07847.x: free chlorine and TOC answer to most
# contaminants, conductivity to salts and sewage, turbidity and pH to few. The figures are ours.
CLASSES: Mapping[str, Response] = {
    "sewage": Response(1.2, 1.2, 30.0, 0.5, -0.06),
    "pesticide": Response(0.6, 1.0),
    "reducing-salt": Response(1.5, 0.0, 10.0, 0.0, 0.10),
    "salt": Response(0.0, 0.1, 45.0),
    "raw-groundwater": Response(0.9, 0.2, 60.0, 0.1, -0.15, -0.8),
}
NOISE_SD: Mapping[str, float] = {
    "chlorine": 0.015, "turbidity": 0.012, "ph": 0.012, "conductivity": 1.2, "temperature": 0.04, "toc": 0.03,
}  # fmt: skip
RESOLUTION: Mapping[str, float] = {
    "chlorine": 0.01, "turbidity": 0.001, "ph": 0.01, "conductivity": 0.1, "temperature": 0.01, "toc": 0.01,
}  # fmt: skip
STANDARDS: Mapping[str, tuple[float, ...]] = {
    "chlorine": (0.0, 1.0), "turbidity": (0.0, 1.0, 10.0), "ph": (4.01, 7.0, 9.18), "conductivity": (84.0, 1413.0),
    "temperature": (25.0,), "toc": (0.0, 5.0),
}  # fmt: skip
AIR: Mapping[str, float] = {"chlorine": 0.0, "turbidity": 0.0, "ph": 7.0, "conductivity": 0.5, "temperature": 19.0, "toc": 0.05}
DRIFT_PER_DAY: Mapping[str, float] = {
    "chlorine": -0.025,
    "turbidity": 0.02,
    "ph": 0.025,
    "conductivity": 3.0,
    "temperature": 0.0,
    "toc": 0.05,
}


def simulate_station(network: str, seed: int, *, station: str = "", days: int = 90, happenings: bool = True) -> StationRun:
    """Simulate a station.

    Parameters
    ----------
    network : str
        As `load_network` takes it: a library name or the path of an EPANET file.
    seed : int
        Same seed, same station.
    station : str, optional
        Junction; without it the one of `STATIONS`, or a junction that both sources reach.
    days : int
        At least 25; contaminations come after the first 21, all else from the third day on.
    happenings : bool
        False: nothing but noise, and water as usual.

    Notes
    -----
    Cost about 6 s a 90 days of 97 nodes. Blind to: reactions between the contaminant and chlorine on the way (they meet at the station only), probes
    that answer slowly, and more than two waters.
    """
    if days < LEARNING_DAYS + 4:
        raise ValueError(f"days must be at least {LEARNING_DAYS + 4}, got {days!r}")
    town = load_network(network)
    rng = np.random.default_rng([seed, 8191])
    with tempfile.TemporaryDirectory() as folder:
        plan = _Plan.drawn(town, rng, days, happenings)
        engine = _QualityEngine(Path(folder), town, plan, days)
        try:
            return _run(engine, town, plan, rng, station or STATIONS.get(town.name, ""), days)
        finally:
            engine.close()


@dataclass(frozen=True, slots=True)
class _Item:
    kind: HappeningKind
    begin_s: int
    end_s: int
    what: str
    strength: float


@dataclass(frozen=True, slots=True)
class _Plan:
    """What will happen, and the daily factors of demand."""

    items: tuple[_Item, ...]
    day_factor: Floats
    noise: Floats

    @classmethod
    def drawn(cls, town: Network, rng: np.random.Generator, days: int, happenings: bool) -> _Plan:
        factor = np.ones(days + 1)
        for i in range(1, days + 1):
            factor[i] = 1.0 + 0.6 * (factor[i - 1] - 1.0) + rng.normal(0.0, 0.03)
        noise = np.exp(rng.normal(0.0, 0.06, (days + 1) * DAY_S // PATTERN_S))
        return cls(tuple(_draw(rng, days)) if happenings else (), factor, noise)

    def of(self, kind: HappeningKind) -> list[_Item]:
        return [i for i in self.items if i.kind is kind]


def _draw(rng: np.random.Generator, days: int) -> list[_Item]:
    """Return what happens: a slot of 2.5 days holds one thing, in a shuffled order."""
    kinds = HappeningKind
    before = [kinds.SOURCE, kinds.FLUSH, kinds.CALIBRATION, kinds.SOURCE, kinds.FLUSH, kinds.CALIBRATION]
    cycle = [kinds.CONTAMINATION, kinds.SOURCE, kinds.CONTAMINATION, kinds.FLUSH, kinds.CALIBRATION, kinds.CONTAMINATION, kinds.SOURCE,
             kinds.CALIBRATION, kinds.FLUSH, kinds.CONTAMINATION, kinds.MAINTENANCE, kinds.SOURCE]  # fmt: skip
    items: list[_Item] = []
    slots = int((days - LEARNING_DAYS - 1.0) / SLOT_DAYS)
    order = [cycle[i % len(cycle)] for i in range(slots)]
    rng.shuffle(order)
    starts = [3.0 + i * 2.8 for i in range(len(before))] + [LEARNING_DAYS + 0.5 + i * SLOT_DAYS for i in range(slots)]
    classes = list(CLASSES)
    rng.shuffle(classes)
    spiked = 0
    for kind, start in zip([*before, *order], starts, strict=True):
        begin = int((start + rng.uniform(0.0, 0.7)) * DAY_S) // PATTERN_S * PATTERN_S
        if kind is kinds.CONTAMINATION:
            # every fourth lasts more than a day: nothing may learn it
            hours = float(rng.uniform(26, 34)) if spiked % 4 == 3 else float(np.exp(rng.uniform(np.log(1.0), np.log(8.0))))
            end = begin + max(1, round(hours * 2)) * PATTERN_S
            strength = float(np.exp(rng.uniform(np.log(0.25), np.log(1.5))))
            items.append(_Item(kind, begin, end, classes[spiked % len(classes)], strength))
            spiked += 1
        elif kind is kinds.SOURCE:
            items.append(_Item(kind, begin, begin + int(rng.integers(12, 33)) * PATTERN_S, "", 1.0))
        elif kind is kinds.FLUSH:
            items.append(_Item(kind, begin, begin + int(rng.integers(2, 5)) * PATTERN_S, "", float(rng.uniform(0.7, 1.3))))
        elif kind is kinds.CALIBRATION:
            what = str(rng.choice(list(NOISE_SD)))
            items.append(_Item(kind, begin, begin + int(rng.integers(4, 9)) * STEP_S, what, float(rng.choice(STANDARDS[what]))))
            if rng.random() < 0.4:
                items.append(_Item(kinds.DRIFT, begin - int(rng.integers(4, 10)) * DAY_S, begin, what, 1.0))
        else:
            items.append(_Item(kind, begin, begin + int(rng.integers(8, 19)) * STEP_S, "+".join(NOISE_SD), 1.0))
    return items


class _QualityEngine:
    """EPANET with hydraulics that are solved once, and water quality as often as there are species."""

    def __init__(self, folder: Path, town: Network, plan: _Plan, days: int) -> None:
        self.days, self.town, self.plan = days, town, plan
        inp = folder / "station.inp"
        self.sources = tuple(n for n, _ in town.model.reservoirs())
        self.second = self._second(town)
        _write(town, plan, days, self.second, inp)
        self._en = ENepanet(version=2.2)
        self._en.ENopen(str(inp), str(folder / "station.rpt"), str(folder / "station.bin"))
        self._lib, self._project = self._en.ENlib, self._en._project
        self._call("EN_solveH")
        self._patterns = 0

    def close(self) -> None:
        """Free the project."""
        if self._lib is not None:
            self._lib.EN_close(self._project)
            self._lib.EN_deleteproject(self._project)
            self._lib = None

    @staticmethod
    def _second(town: Network) -> str:
        """Return the source that is traced and taken off: the last reservoir of the file."""
        names = [n for n, _ in town.model.reservoirs()]
        if not names:
            raise NetworkError(f"a quality station needs a network with a reservoir, {town.name!r} has none")
        return str(names[-1])

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._lib, name)(self._project, *arguments)
        if code >= 100:
            raise EngineError(f"EPANET refused {name}, code {code}")

    def _node(self, name: str) -> int:
        index = ctypes.c_int()
        self._call("EN_getnodeindex", name.encode(), ctypes.byref(index))
        return index.value

    def _set(self, node: str, what: int, value: float) -> None:
        self._call("EN_setnodevalue", self._node(node), what, ctypes.c_double(value))

    def _pattern(self, values: Floats) -> int:
        self._patterns += 1
        name = f"species{self._patterns}".encode()
        index = ctypes.c_int()
        self._call("EN_addpattern", name)
        self._call("EN_getpatternindex", name, ctypes.byref(index))
        array = (ctypes.c_double * len(values))(*values.tolist())
        self._call("EN_setpattern", index.value, array, len(values))
        return index.value

    def _source(self, node: str, kind: int, strength: float, pattern: Floats | None) -> None:
        self._set(node, EN_SOURCEQUAL, strength)
        self._set(node, EN_SOURCETYPE, kind)
        if pattern is not None:
            self._set(node, EN_SOURCEPAT, self._pattern(pattern))

    def _run(self, nodes: Sequence[str]) -> Floats:
        """Return the quality at nodes, each 5 min: (steps, nodes)."""
        index = [self._node(n) for n in nodes]
        steps = self.days * DAY_S // STEP_S
        out = np.zeros((steps, len(index)))
        now, left, value = ctypes.c_long(), ctypes.c_long(1), ctypes.c_double()
        self._call("EN_openQ")
        self._call("EN_initQ", 0)
        while left.value > 0:
            self._call("EN_runQ", ctypes.byref(now))
            step = now.value // STEP_S
            if step < steps:
                for j, i in enumerate(index):
                    self._call("EN_getnodevalue", i, EN_QUALITY, ctypes.byref(value))
                    out[step, j] = value.value
            self._call("EN_stepQ", ctypes.byref(left))
        self._call("EN_closeQ")
        return out

    def share(self, nodes: Sequence[str]) -> Floats:
        """Return the share of the second source at nodes, 0..1."""
        self._call("EN_setqualtype", EN_TRACE, b"share", b"%", self.second.encode())
        return self._run(nodes) / 100.0

    def chlorine(self, station: str, dose: Floats) -> Floats:
        """Return chlorine at the station, mg/L."""
        self._call("EN_setqualtype", EN_CHEM, b"chlorine", b"mg/L", b"")
        for name in self.town.nodes:
            self._set(name, EN_INITQUAL, 0.5)
        for name in self.sources:
            self._source(name, EN_CONCEN, 1.0, dose)
        return self._run([station])[:, 0]

    def contaminant(self, station: str, injections: Sequence[tuple[str, int, int]]) -> Floats:
        """Return a conservative contaminant at the station, for injections of the same mass rate: (node, begin_s, end_s)."""
        self._call("EN_setqualtype", EN_CHEM, b"contaminant", b"mg/L", b"")
        for name in self.town.nodes:
            self._set(name, EN_INITQUAL, 0.0)
        for name in self.sources:
            self._source(name, EN_CONCEN, 0.0, None)
        count = ctypes.c_int()
        self._call("EN_getcount", 2, ctypes.byref(count))
        for link in range(1, count.value + 1):
            for what in (EN_KBULK, EN_KWALL):
                self._call("EN_setlinkvalue", link, what, ctypes.c_double(0.0))
        for name, _ in self.town.model.tanks():
            self._set(name, EN_TANK_KBULK, 0.0)
        by_node: dict[str, Floats] = {}
        for node, begin, end in injections:
            pattern = by_node.setdefault(node, np.zeros((self.days + 1) * DAY_S // PATTERN_S))
            pattern[begin // PATTERN_S : end // PATTERN_S] = 1.0
        for node, pattern in by_node.items():
            self._source(node, EN_MASS, 1000.0, pattern)
        return self._run([station])[:, 0]


def _write(town: Network, plan: _Plan, days: int, second: str, path: Path) -> None:
    """Write the network with patterns and controls of its own for every day."""
    model = wntr.network.from_dict(town.model.to_dict())
    old_step = int(model.options.time.pattern_timestep)
    steps = (days + 1) * DAY_S // PATTERN_S
    time_s = np.arange(steps) * PATTERN_S
    factor = plan.day_factor[np.minimum(time_s // DAY_S, days)] * plan.noise
    made: dict[str, str] = {}
    for _, junction in model.junctions():
        for entry in junction.demand_timeseries_list:
            old = entry.pattern.name if entry.pattern is not None else ""
            if old not in made:
                multipliers = np.asarray(entry.pattern.multipliers, float) if entry.pattern is not None else np.ones(1)
                name = made[old] = f"long{len(made)}"
                model.add_pattern(name, list(multipliers[time_s // old_step % len(multipliers)] * factor))
            entry.pattern_name = made[old]
    flushed = _flushed_node(town)
    opened = np.zeros(steps)
    total = sum(max(n.demand_m3ph, 0.0) for n in town.nodes.values())
    for item in plan.of(HappeningKind.FLUSH):
        opened[item.begin_s // PATTERN_S : item.end_s // PATTERN_S] = item.strength
    model.add_pattern("flush", list(opened))
    model.get_node(flushed).add_demand(0.04 * total / 3600.0, "flush")
    _control_sources(model, plan, days, second)
    options = model.options
    options.time.duration = days * DAY_S
    options.time.hydraulic_timestep = PATTERN_S
    options.time.pattern_timestep = PATTERN_S
    options.time.pattern_start = 0
    options.time.report_timestep = DAY_S
    options.time.quality_timestep = STEP_S
    options.quality.parameter = "CHEMICAL"
    options.reaction.bulk_coeff = -0.5 / DAY_S
    options.reaction.wall_coeff = -0.03 / DAY_S
    options.report.status = "NO"
    options.report.summary = "NO"
    wntr.network.write_inpfile(model, str(path), units="CMH", version=2.2)


def _flushed_node(town: Network) -> str:
    """Return where hydrants are opened: the junction with the most links."""
    degree: dict[str, int] = {}
    for link in town.links.values():
        for end in (link.start, link.end):
            if end in town.nodes and town.nodes[end].kind.value == "junction":
                degree[end] = degree.get(end, 0) + 1
    return max(degree, key=lambda n: (degree[n], n))


def _control_sources(model: Any, plan: _Plan, days: int, second: str) -> None:
    """Repeat the file's controls by time daily, and keep the second source closed while it is off."""
    controls = wntr.network.controls
    off = [(i.begin_s, i.end_s) for i in plan.of(HappeningKind.SOURCE)] if len(model.reservoir_name_list) > 1 else []
    links = set(model.get_links_for_node(second))

    def add(name: str, at_s: int, link: str, status: int) -> None:
        action = controls.ControlAction(model.get_link(link), "status", status)
        model.add_control(name, controls.Control(controls.SimTimeCondition(model, "=", at_s), action))

    daily: dict[str, list[tuple[int, int]]] = {}
    for name in list(model.control_name_list):
        control = model.get_control(name)
        if type(control.condition).__name__ != "SimTimeCondition":
            continue
        at_s = int(control.condition._threshold)
        action = control.actions()[0]
        link = action.target()[0].name
        if at_s < DAY_S:
            daily.setdefault(link, []).append((at_s, int(action._value)))
        model.remove_control(name)
    number = 0
    for link in sorted(set(daily) | links):
        changes = sorted((day * DAY_S + at_s, status) for day in range(days) for at_s, status in daily.get(link, []))
        for begin, end in off if link in links else ():
            before = [status for at_s, status in changes if at_s <= end]
            resumed = before[-1] if before else 1
            changes = sorted([*((at, status) for at, status in changes if not begin <= at <= end), (begin, 0), (end, resumed)])
        for at_s, status in changes:
            number += 1
            add(f"at{number}", at_s, link, status)


def _upstream(town: Network, station: str) -> list[str]:
    """Return junctions from which water may come: those not too far along the links, nearest first."""
    graph = nx.Graph()
    for link in town.links.values():
        graph.add_edge(link.start, link.end, weight=max(link.length_m, 1.0))
    far = nx.single_source_dijkstra_path_length(graph, station)
    junctions = [n for n in far if town.nodes[n].kind.value == "junction" and n != station]
    return sorted(junctions, key=lambda n: far[n])


def _station(engine: _QualityEngine, town: Network) -> str:
    """Return the junction at which the share of the second source varies most like a half."""
    junctions = [n.node_id for n in town.nodes.values() if n.kind.value == "junction" and n.demand_m3ph > 0]
    share = engine.share(junctions)[2 * DAY_S // STEP_S : 9 * DAY_S // STEP_S]
    return junctions[int(np.argmax(share.std(0) - 0.2 * np.abs(share.mean(0) - 0.5)))]


def _run(engine: _QualityEngine, town: Network, plan: _Plan, rng: np.random.Generator, station: str, days: int) -> StationRun:
    station = station or _station(engine, town)
    if station not in town.nodes:
        raise NetworkError(f"the station must be a junction of {town.name!r}, got {station!r}")
    n = days * DAY_S // STEP_S
    at_s = np.arange(n) * STEP_S
    share = engine.share([station])[:, 0]
    dose_at = np.arange((days + 1) * DAY_S // PATTERN_S)
    dose = 0.95 + 0.03 * _wander(rng, len(dose_at), 48.0)
    chlorine = engine.chlorine(station, dose)
    happenings: list[Happening] = []
    contaminant = {name: np.zeros(n) for name in CLASSES}
    spikes = plan.of(HappeningKind.CONTAMINATION)
    if spikes:
        _inject(engine, town, station, rng, spikes, contaminant, happenings, at_s)
    signals = _waters(rng, at_s, share, chlorine)
    _respond(signals, contaminant)
    for item in plan.items:
        if item.kind in (HappeningKind.SOURCE, HappeningKind.FLUSH):
            # what a source that comes or goes does arrives over hours
            until = item.end_s + (12 if item.kind is HappeningKind.SOURCE else 6) * 3600
            happenings.append(Happening(item.kind, item.begin_s, item.end_s, item.begin_s, until, item.what, item.strength))
        if item.kind is HappeningKind.FLUSH:
            lag = rng.uniform(0.1, 0.6) * 3600
            seen = (at_s >= item.begin_s + lag) & (at_s < item.end_s + lag)
            decay = np.exp(-np.maximum(at_s - item.end_s - lag, 0.0) / 2400.0) * (at_s >= item.begin_s + lag)
            rise = 1.0 - np.exp(-np.maximum(at_s - item.begin_s - lag, 0.0) / 900.0)
            signals["turbidity"] = signals["turbidity"] + 0.35 * item.strength * np.where(seen, rise, decay * rise)
    measured = _measure(rng, at_s, signals, plan, happenings)
    return StationRun(station, days, at_s, measured, tuple(sorted(happenings, key=lambda h: (h.begin_s, h.kind.value))))


def _inject(
    engine: _QualityEngine, town: Network, station: str, rng: np.random.Generator, spikes: Sequence[_Item],
    contaminant: Mapping[str, Floats], happenings: list[Happening], at_s: NDArray[np.int64],
) -> None:  # fmt: skip
    """Inject every contaminant at a junction from which it comes to the station; its peak there is then scaled to its strength."""
    near = _upstream(town, station)[: max(3, len(town.nodes) // 3)]
    nodes = [str(rng.choice(near)) for _ in spikes]
    for _ in range(6):
        carried = engine.contaminant(station, [(node, i.begin_s, i.end_s) for node, i in zip(nodes, spikes, strict=True)])
        ends = [i.begin_s for i in spikes[1:]] + [int(at_s[-1]) + STEP_S]
        spans = [slice(i.begin_s // STEP_S, min(end, i.end_s + 2 * DAY_S) // STEP_S) for i, end in zip(spikes, ends, strict=True)]
        peaks = [float(carried[s].max()) for s in spans]
        usual = float(np.median([p for p in peaks if p > 0] or [0.0]))
        missing = [k for k, p in enumerate(peaks) if p <= REACHES_SHARE * usual or p <= 0]
        if not missing:
            break
        for k in missing:
            nodes[k] = str(rng.choice(near[: max(3, len(near) // 3)]))
    for item, node, span, peak in zip(spikes, nodes, spans, peaks, strict=True):
        if peak <= 0:
            continue
        part = carried[span] / peak
        part = np.where(part < REACHES_SHARE, 0.0, part)
        contaminant[item.what][span] += item.strength * part
        seen = np.flatnonzero(part >= SEEN_SHARE)
        first, last = int(at_s[span][seen[0]]), int(at_s[span][seen[-1]]) + STEP_S
        happenings.append(Happening(item.kind, item.begin_s, item.end_s, first, last, item.what, item.strength, node))


def _wander(rng: np.random.Generator, n: int, steps: float) -> Floats:
    """Return slow noise with standard deviation 1 and a time constant in steps."""
    keep = math.exp(-1.0 / steps)
    kick = rng.normal(0.0, math.sqrt(1.0 - keep**2), n)
    out = np.empty(n)
    value = rng.normal()
    for i in range(n):
        value = keep * value + kick[i]
        out[i] = value
    return out


def _waters(rng: np.random.Generator, at_s: NDArray[np.int64], share: Floats, chlorine: Floats) -> dict[str, Floats]:
    """Return what clean probes would see: two waters, each with slow moods of its own."""
    n, day = len(at_s), at_s / DAY_S

    def mix(first: float, second: float, sd: float, days: float) -> Floats:
        a, b = (x + sd * _wander(rng, n, days * 288.0) for x in (first, second))
        return np.asarray((1.0 - share) * a + share * b, np.float64)

    season = 2.0 * np.sin(2 * np.pi * (day / 365.0 + rng.random()))
    daily = 0.25 * np.sin(2 * np.pi * (day - 0.4))
    return {
        "chlorine": np.maximum(chlorine, 0.0),
        "turbidity": 0.18 * np.exp(0.12 * _wander(rng, n, 60.0)) * (1.0 + 0.1 * share),
        "ph": mix(7.75, 7.95, 0.02, 4.0) + 0.01 * np.sin(2 * np.pi * (day - 0.6)),
        "conductivity": mix(430.0, 330.0, 3.0, 4.0),
        "temperature": mix(14.5, 13.2, 0.25, 5.0) + season + daily,
        "toc": mix(2.1, 1.6, 0.04, 3.0),
    }


def _respond(signals: dict[str, Floats], contaminant: Mapping[str, Floats]) -> None:
    for name, amount in contaminant.items():
        r = CLASSES[name]
        signals["chlorine"] = signals["chlorine"] * np.exp(-r.chlorine_demand * amount)
        for key, by in (("toc", r.toc_mgpl), ("conductivity", r.conductivity_uspcm), ("turbidity", r.turbidity_ntu), ("ph", r.ph),
                        ("temperature", r.temperature_c)):  # fmt: skip
            signals[key] = signals[key] + by * amount


def _measure(
    rng: np.random.Generator, at_s: NDArray[np.int64], signals: Mapping[str, Floats], plan: _Plan, happenings: list[Happening]
) -> dict[str, Floats]:
    n = len(at_s)
    out = {}
    gaps = [(int(rng.integers(0, n)), int(rng.integers(6, 36))) for _ in range(max(1, n // (288 * 12)))]
    for name, clean in signals.items():
        sd = NOISE_SD[name]
        value = clean + sd * rng.normal(size=n) + 0.7 * sd * _wander(rng, n, 12.0)
        spiky = 0.001 if name == "turbidity" else 0.0002
        value = value + np.where(rng.random(n) < spiky, 20.0 * sd * rng.exponential(size=n), 0.0)
        out[name] = value
    for item in plan.items:
        inside = (at_s >= item.begin_s) & (at_s < item.end_s)
        if item.kind is HappeningKind.DRIFT:
            slope = DRIFT_PER_DAY[item.what]
            out[item.what] = out[item.what] + np.where(inside, slope * (at_s - item.begin_s) / DAY_S, 0.0)
        elif item.kind is HappeningKind.CALIBRATION:
            out[item.what] = np.where(inside, item.strength, out[item.what])
        elif item.kind is HappeningKind.MAINTENANCE:
            for name in out:
                out[name] = np.where(inside, AIR[name], out[name])
        else:
            continue
        seen = (item.begin_s, item.end_s)
        happenings.append(Happening(item.kind, *seen, *seen, item.what, item.strength))
    for name, value in out.items():
        value = np.maximum(np.round(value / RESOLUTION[name]) * RESOLUTION[name], 0.0)
        value[rng.random(n) < 0.004] = np.nan
        for begin, length in gaps:
            value[begin : begin + length] = np.nan
        out[name] = value
    return out
