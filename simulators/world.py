"""The town in motion: hydraulics, demand, road and weather advance together; devices publish what they saw; faults come and go.

The truth differs from the nominal model on purpose (roughness and base demands are drawn around it), so that a leak is located with a model that
is a little wrong, as every utility's is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.demand import ZoneDemand, diurnal
from simulators.hydraulics import STEP_S, Engine, Perturbation, orifice_area_m2, write_inp
from simulators.road import Bridge, Culvert, Pavement, Weather, passes_expected
from simulators.sensors import FaultKind, SensorFault, Sensors, draw_faults
from simulators.town import STREAM_DEMAND, STREAM_FAULT, STREAM_ROAD, STREAM_SENSOR, STREAM_TRUTH, Probe, Town
from underway.model import DAY_US, HOUR_US, MINUTE_US, SECOND_US, AssetClass, OperatorError, Quantity, from_us, to_us

READINGS_PER_MESSAGE_MAX = 500
BUFFER_MAX = 20_000
WARM_UP_S = 2 * 86_400
FAULT_HISTORY_DAYS = 11.0
SURVEY_RADIUS_M = 300.0  # how far along the pipes a crew with a correlator finds a leak, the reach that BattLeDIM 2020 grants it


class WorldFault(StrEnum):
    """What can be wrong in the world."""

    LEAK = "leak"
    BEARING = "bearing"
    ROUGHNESS = "roughness"
    BLOCKAGE = "blockage"


class RepairReason(StrEnum):
    """Why a repair did or did not help."""

    LEAK_CLOSED = "leak_closed"
    FAULT_CLEARED = "fault_cleared"
    NOTHING_THERE = "nothing_there"
    UNKNOWN_ASSET = "unknown_asset"


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What a repair did: `found` tells whether there was something to repair at that very asset."""

    found: bool
    reason: RepairReason


@dataclass(frozen=True, slots=True)
class SurveyResult:
    """What a survey on the spot found: the broken asset, or None."""

    found_asset_id: str | None
    distance_m: float


@dataclass(frozen=True, slots=True)
class Publication:
    """One MQTT message as a device sends it at `at_us`; `readings` counts the values in it."""

    topic: str
    payload: bytes
    at_us: int
    device_id: str
    readings: int


@dataclass(frozen=True, slots=True)
class RunningFault:
    """Something that is wrong now; ``size``: m3/h now for a leak, share of frequency, m/km, or share blocked."""

    kind: WorldFault
    asset_id: str
    zone_id: str | None
    since_us: int
    size: float


@dataclass
class _Running:
    kind: WorldFault
    asset_id: str
    zone_id: str | None
    since_us: int
    size: float


@dataclass
class _Buffer:
    samples: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seq: int = 0


class World:
    """A town in motion.

    Parameters
    ----------
    town : Town
    seed : int, optional
        Seed of demand, weather, sensors and truth; default the town's.
    faults : sequence of SensorFault, optional
        Default: a drawn record over the first 11 days, none later.

    Notes
    -----
    `advance` is a generator: nothing moves unless it is consumed, and actions take effect at the first step (5 min) at or after their time.
    State is one EPANET project and some arrays; ky4 takes about 1 ms a step (0.6 ms of it EPANET).
    """

    def __init__(self, town: Town, seed: int | None = None, faults: Sequence[SensorFault] | None = None) -> None:
        self.town = town
        self.seed = town.seed if seed is None else seed
        self.start_us = to_us(town.start_at)
        self.now_us = self.start_us - 1
        self.published_readings = 0
        self.published_messages = 0
        registry = town.registry
        truth = Perturbation.drawn(town.network, self._rng(STREAM_TRUTH))
        inp = town.folder / f"truth-{self.seed}.inp"
        write_inp(town.network, town.zone_of_node, truth, inp)
        self._engine = Engine(inp, town.network)
        self._warm_up()
        self._demand = {z: ZoneDemand(self._rng(STREAM_DEMAND, i), STEP_S) for i, z in enumerate(town.dma_ids)}
        if faults is None:
            faults = draw_faults(registry, self.start_us, FAULT_HISTORY_DAYS, self._rng(STREAM_FAULT))
        self.sensor_faults = tuple(faults)
        self._sensors = Sensors(registry.channels, town.senses, self._rng(STREAM_SENSOR), faults)
        self._weather = Weather(self._rng(STREAM_ROAD, 0), STEP_S)
        self._passes = self._rng(STREAM_ROAD, 1)
        self._bridges: dict[str, Bridge] = {}
        self._pavements = {a.asset_id: Pavement(float(a.attributes["iri_m_per_km"])) for a in town.assets_of(AssetClass.ROAD_SECTION)}
        self._culverts = {
            a.asset_id: Culvert(float(a.attributes["catchment_ha"]), float(a.attributes["depth_m"]))
            for a in town.assets_of(AssetClass.CULVERT)
        }
        self._running: dict[str, _Running] = {}
        self._later: list[tuple[int, int, WorldFault, str, float]] = []
        self._switches: list[tuple[int, int, str, bool]] = []
        self._order = 0
        self._buffers = [_Buffer() for _ in self._sensors.devices]
        self._plan_channels()
        self._encoder = msgspec.json.Encoder()
        self._truth_dirty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _warm_up(self) -> None:
        """Let two nominal days pass before the start, so that tanks stand where they belong."""
        for elapsed_s in range(0, WARM_UP_S, 2 * STEP_S):
            for zone in self.town.dma_ids:
                self._engine.set_demand_multiplier(zone, diurnal(elapsed_s / 3600 % 24, weekend=False))
            self._engine.step_to(elapsed_s)

    def _rng(self, stream: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, *more])

    def _plan_channels(self) -> None:
        registry, senses = self.town.registry, self.town.senses
        self._interval_s = np.array([c.interval_s for c in registry.channels])
        rows: list[list[int]] = [[] for _ in self._sensors.devices]
        for i, d in enumerate(self._sensors.device_of_channel):
            rows[int(d)].append(i)
        self._rows_of_device = rows
        self._names = [c.name for c in registry.channels]
        self._of_probe: dict[Probe, list[tuple[int, str]]] = {}
        for i, sense in enumerate(senses):
            self._of_probe.setdefault(sense.probe, []).append((i, sense.target))
        self._units = [{c.name: c.device_unit for c in (registry.channels[i] for i in own) if c.quantity == Quantity.FLOW} for own in rows]
        self._pass_device = [any(senses[i].probe == Probe.ROUGHNESS for i in own) for own in rows]
        self._milliseconds = [d.startswith("pr-") for d in self._sensors.devices]
        self._topics = [f"uw/{self.town.site_id}/{d}/telemetry" for d in self._sensors.devices]

    # --- actions

    def burst(self, pipe_id: str, flow_m3ph: float, at_us: int) -> None:
        """Open a hole in the middle of a pipe that would lose `flow_m3ph` at the pressure of that moment.

        The pressure falls when it opens, so the real loss is a little smaller; `faults` tells it.

        Raises
        ------
        OperatorError
            When `pipe_id` is not a pipe asset, or the flow is not in 0.1..500 m3/h.
        """
        if pipe_id not in self.town.pipe_of_asset:
            raise OperatorError(f"a burst needs the asset id of a pipe, got {pipe_id!r}")
        if not 0.1 <= flow_m3ph <= 500.0:
            raise OperatorError(f"a burst must lose 0.1..500 m3/h, got {flow_m3ph!r}")
        self._push(at_us, WorldFault.LEAK, pipe_id, flow_m3ph)

    def bearing_fault(self, bridge_id: str, shift: float, at_us: int) -> None:
        """Let a bearing of a bridge fail: `shift` is the change of its frequency as a share, for example -0.08."""
        self._push(at_us, WorldFault.BEARING, self._known(bridge_id, AssetClass.BRIDGE), shift)

    def roughness_step(self, section_id: str, step_m_per_km: float, at_us: int) -> None:
        """Let the pavement of a road section break."""
        self._push(at_us, WorldFault.ROUGHNESS, self._known(section_id, AssetClass.ROAD_SECTION), step_m_per_km)

    def blockage(self, culvert_id: str, share: float, at_us: int) -> None:
        """Block a culvert by a share of its capacity, 0..0.98."""
        self._push(at_us, WorldFault.BLOCKAGE, self._known(culvert_id, AssetClass.CULVERT), min(max(share, 0.0), 0.98))

    def shower(self, at_us: int, hours: float, peak_mmph: float) -> None:
        """Let it rain once more."""
        self._weather.shower((at_us - self.start_us) / SECOND_US, hours, peak_mmph)

    def set_link_open(self, link_id: str, is_open: bool, at_us: int) -> None:
        """Operate a pipe's valve or a pump (asset id, or the network's own link id)."""
        link = self.town.pipe_of_asset.get(link_id)
        if link is None:
            asset = self.town.assets.get(link_id)
            link = str(asset.attributes.get("network_id", link_id)) if asset else link_id
        if link not in self.town.network.links:
            raise OperatorError(f"a valve or pump operation needs a pipe, pump or valve, got {link_id!r}")
        self._order += 1
        heapq.heappush(self._switches, (at_us, self._order, link, is_open))

    def repair(self, asset_id: str, at_us: int) -> RepairResult:
        """Repair an asset: it helps only when the fault is at that very asset and began by `at_us`."""
        if asset_id not in self.town.assets:
            return RepairResult(False, RepairReason.UNKNOWN_ASSET)
        self._apply(at_us)
        running = self._running.get(asset_id)
        if running is None or running.since_us > at_us:
            return RepairResult(False, RepairReason.NOTHING_THERE)
        del self._running[asset_id]
        self._truth_dirty = True
        if running.kind == WorldFault.LEAK:
            self._engine.set_leak(self.town.pipe_of_asset[asset_id], 0.0)
            return RepairResult(True, RepairReason.LEAK_CLOSED)
        self._set_road(running.kind, asset_id, 0.0)
        return RepairResult(True, RepairReason.FAULT_CLEARED)

    def survey(self, asset_id: str, at_us: int, radius_m: float = SURVEY_RADIUS_M) -> SurveyResult:
        """Look on the spot: a leak is found within `radius_m` along the pipes (middle to middle), any other fault only at the asset itself."""
        here = self._running.get(asset_id)
        if here is not None and here.since_us <= at_us:
            return SurveyResult(asset_id, 0.0)
        if asset_id in self.town.pipe_of_asset:
            leaks = [r for r in self._running.values() if r.kind == WorldFault.LEAK and r.since_us <= at_us]
            near = sorted((self.town.distance_m(asset_id, r.asset_id), r.asset_id) for r in leaks)
            if near and near[0][0] <= radius_m:
                return SurveyResult(near[0][1], near[0][0])
        return SurveyResult(None, float("inf"))

    def travel_m(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        """Return metres of road between two (longitude, latitude) points."""
        return self.town.travel_m(start, end)

    def point_of(self, asset_id: str) -> tuple[float, float]:
        """Return (longitude, latitude) of an asset."""
        return self.town.point_of(asset_id)

    def _known(self, asset_id: str, asset_class: AssetClass) -> str:
        asset = self.town.assets.get(asset_id)
        if asset is None or asset.asset_class != asset_class:
            raise OperatorError(f"expected the asset id of a {asset_class.value}, got {asset_id!r}")
        return asset_id

    def _push(self, at_us: int, kind: WorldFault, asset_id: str, size: float) -> None:
        self._order += 1
        heapq.heappush(self._later, (at_us, self._order, kind, asset_id, size))

    def _apply(self, at_us: int) -> None:
        while self._later and self._later[0][0] <= at_us:
            since_us, _, kind, asset_id, size = heapq.heappop(self._later)
            zone_id = self.town.assets[asset_id].zone_id
            self._running[asset_id] = _Running(kind, asset_id, zone_id, since_us, size)
            self._truth_dirty = True
            if kind == WorldFault.LEAK:
                pipe = self.town.pipe_of_asset[asset_id]
                link = self.town.network.links[pipe]
                ends = [n for n in (link.start, link.end) if n in self.town.zone_of_node]
                pressure_kpa = float(np.mean([self._engine.pressure_kpa(n) for n in ends]))
                self._engine.set_leak(pipe, orifice_area_m2(size, pressure_kpa))
            else:
                self._set_road(kind, asset_id, size)
        while self._switches and self._switches[0][0] <= at_us:
            _, _, link_id, is_open = heapq.heappop(self._switches)
            self._engine.set_link_open(link_id, is_open)

    def _set_road(self, kind: WorldFault, asset_id: str, size: float) -> None:
        if kind == WorldFault.BEARING:
            self._bridge(asset_id).shift = size
            self._bridge(asset_id).tilt_fault_mrad = -15.0 * size
        elif kind == WorldFault.ROUGHNESS:
            self._pavements[asset_id].defect_m_per_km = size
        elif kind == WorldFault.BLOCKAGE:
            self._culverts[asset_id].blocked = size

    def _bridge(self, asset_id: str) -> Bridge:
        if asset_id not in self._bridges:
            self._bridges[asset_id] = Bridge(float(self.town.assets[asset_id].attributes["frequency_hz"]), self._weather.air_cel)
        return self._bridges[asset_id]

    # --- truth

    def faults(self) -> tuple[RunningFault, ...]:
        """Return what is wrong now, with the present loss of each leak."""
        result = []
        for r in self._running.values():
            size = self._engine.leak_flow_m3ph(self.town.pipe_of_asset[r.asset_id]) if r.kind == WorldFault.LEAK else r.size
            result.append(RunningFault(r.kind, r.asset_id, r.zone_id, r.since_us, round(size, 3)))
        return tuple(result)

    def zone_takes_m3ph(self, zone_id: str) -> float:
        """Return what leaves the network in a zone now: consumption and leaks."""
        return sum(self._engine.demand_m3ph(n) for n, z in self.town.zone_of_node.items() if z == zone_id)

    def zone_inflow_m3ph(self, zone_id: str) -> float:
        """Return the signed sum of a zone's meters now, without any meter error."""
        return sum(t.sign * self._engine.flow_m3ph(t.link) for t in self.town.balance[zone_id])

    def pressure_kpa(self, node: str) -> float:
        """Return the true pressure at a junction now."""
        return self._engine.pressure_kpa(node)

    @property
    def engine_warnings(self) -> Mapping[int, int]:
        """Return EPANET's warnings so far by code (6 is negative pressure)."""
        return self._engine.warnings

    # --- time

    def advance(self, until_us: int, pack_s: int | None = None) -> Iterator[Publication]:
        """Move the town to `until_us` and yield what its devices publish on the way, in time order.

        Parameters
        ----------
        until_us : int
            Last instant, inclusive; steps lie every 5 min from the start.
        pack_s : int, optional
            Devices keep their samples and send them in packs of this many seconds; what is left is sent at the end. Without it each
            sample is sent at once.

        Yields
        ------
        Publication
            Messages with telemetry, and the truth on ``uw/{site}/truth`` whenever something is wrong (each step) or changes, else hourly.
        """
        step_us = STEP_S * SECOND_US
        first = self.start_us if self.now_us < self.start_us else self.now_us - (self.now_us - self.start_us) % step_us + step_us
        for at_us in range(first, until_us + 1, step_us):
            last = at_us + step_us > until_us
            yield from self._step(at_us, pack_s, last)
        self.now_us = max(self.now_us, until_us)

    def _step(self, at_us: int, pack_s: int | None, last: bool) -> Iterator[Publication]:
        self._apply(at_us)
        elapsed_s = (at_us - self.start_us) // SECOND_US
        at = from_us(at_us)
        hour = at.hour + at.minute / 60 + at.second / 3600
        weekend = at.weekday() >= 5
        for zone, demand in self._demand.items():
            self._engine.set_demand_multiplier(zone, demand.next(hour, weekend))
        self._engine.step_to(WARM_UP_S + int(elapsed_s))
        self._weather.step(float(elapsed_s), hour, at.timetuple().tm_yday + hour / 24)
        for asset in self.town.assets_of(AssetClass.BRIDGE):
            self._bridge(asset.asset_id).step(self._weather.air_cel, STEP_S)
        for culvert in self._culverts.values():
            culvert.step(self._weather.rain_mmph, STEP_S)
        self.now_us = at_us
        value = self._sensors.measure(self._truth_values(at_us, int(elapsed_s)), at_us)
        self._sample(value, at_us, hour)
        out = self._flush(at_us, pack_s, last)
        if self._truth_dirty or self._running or elapsed_s % 3600 == 0:
            out.append(self._truth_message(at_us))
            self._truth_dirty = False
        out.sort(key=lambda p: (p.at_us, p.device_id))
        yield from out

    def _truth_values(self, at_us: int, elapsed_s: int) -> NDArray[np.float64]:
        truth = np.full(len(self._names), np.nan)
        due = elapsed_s % self._interval_s == 0
        engine = self._engine
        for i, target in self._of_probe.get(Probe.LINK_FLOW, ()):
            truth[i] = engine.flow_m3ph(target)
        for i, target in self._of_probe.get(Probe.NODE_PRESSURE, ()):
            truth[i] = engine.pressure_kpa(target)
        for i, target in self._of_probe.get(Probe.TANK_LEVEL, ()):
            truth[i] = engine.tank_level_m(target)
        for i, target in self._of_probe.get(Probe.ROUGHNESS, ()):
            truth[i] = self._pavements[target].iri_m_per_km(elapsed_s)
        for i, target in self._of_probe.get(Probe.FREQUENCY, ()):
            truth[i] = self._bridge(target).frequency_hz
        for i, target in self._of_probe.get(Probe.TILT, ()):
            truth[i] = self._bridge(target).tilt_mrad
        for i, _ in self._of_probe.get(Probe.AIR_TEMPERATURE, ()):
            truth[i] = self._weather.air_cel
        for i, target in self._of_probe.get(Probe.DRAIN_LEVEL, ()):
            truth[i] = self._culverts[target].level_m
        for i, _ in self._of_probe.get(Probe.RAIN, ()):
            truth[i] = self._weather.rain_mmph
        for i, target in self._of_probe.get(Probe.BATTERY, ()):
            truth[i] = self._sensors.battery_v(target, at_us)
        truth[~due] = np.nan
        return truth

    def _sample(self, value: NDArray[np.float64], at_us: int, hour: float) -> None:
        error = self._sensors.clock_error_us(at_us)
        # drawn for every device in every step, whether used or not
        ago_us = (self._passes.uniform(0.0, 850.0, len(self._buffers)) * SECOND_US).astype(np.int64)
        passed = self._passes.random(len(self._buffers)) < passes_expected(hour)
        numbers = value.tolist()
        there = np.isfinite(value).tolist()
        for d, rows in enumerate(self._rows_of_device):
            if self._pass_device[d] and not passed[d]:
                continue
            values = {self._names[i]: numbers[i] for i in rows if there[i]}
            if not values:
                continue
            observed_us = at_us + int(error[d])
            if self._pass_device[d]:
                observed_us = max(observed_us - int(ago_us[d]), self.start_us)
            samples = self._buffers[d].samples
            samples.append((observed_us, values))
            if len(samples) > BUFFER_MAX:
                del samples[0]

    def _flush(self, at_us: int, pack_s: int | None, last: bool) -> list[Publication]:
        silent = self._sensors.silent(at_us)
        out: list[Publication] = []
        count = len(self._buffers)
        slot = (at_us - self.start_us) // (STEP_S * SECOND_US)
        slots = max((pack_s or STEP_S) // STEP_S, 1)
        for d, buffer in enumerate(self._buffers):
            if not buffer.samples or self._sensors.devices[d] in silent:
                continue
            # devices take turns over the span of a pack
            if pack_s is not None and not last and (slot + d * slots // count) % slots != slots - 1:
                continue
            while buffer.samples:
                part, buffer.samples = buffer.samples[:READINGS_PER_MESSAGE_MAX], buffer.samples[READINGS_PER_MESSAGE_MAX:]
                out.append(self._message(d, part, at_us))
        return out

    def _message(self, d: int, part: Sequence[tuple[int, dict[str, float]]], at_us: int) -> Publication:
        buffer = self._buffers[d]
        buffer.seq += 1
        body: dict[str, Any]
        readings: list[dict[str, Any]] = [
            {"at": us // 1000 if self._milliseconds[d] else _rfc3339(us), "values": values} for us, values in part
        ]
        body = readings[0] if len(readings) == 1 else {"readings": readings}
        if self._units[d]:
            body["units"] = self._units[d]
        body["seq"] = buffer.seq
        count = sum(len(values) for _, values in part)
        self.published_readings += count
        self.published_messages += 1
        sent_us = at_us + int(self._sensors.latency_us[d])
        return Publication(self._topics[d], self._encoder.encode(body), sent_us, self._sensors.devices[d], count)

    def _truth_message(self, at_us: int) -> Publication:
        faults = self.faults()
        body = {
            "at": _rfc3339(at_us),
            "leaks": [
                {"pipe": f.asset_id, "zone": f.zone_id, "flow_m3ph": f.size, "since": _rfc3339(f.since_us)}
                for f in faults
                if f.kind == WorldFault.LEAK
            ],
            "faults": [
                {"asset": f.asset_id, "kind": f.kind.value, "size": f.size, "since": _rfc3339(f.since_us)}
                for f in faults
                if f.kind != WorldFault.LEAK
            ],
        }
        return Publication(f"uw/{self.town.site_id}/truth", self._encoder.encode(body), at_us, "truth", 0)


def _rfc3339(us: int) -> str:
    at = from_us(us)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


__all__ = [
    "DAY_US",
    "HOUR_US",
    "MINUTE_US",
    "FaultKind",
    "Publication",
    "RepairReason",
    "RepairResult",
    "RunningFault",
    "SurveyResult",
    "World",
    "WorldFault",
]
