"""What goes wrong and when, as a table: a story is timed events relative to the start of the live part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import numpy as np

from simulators.demand import diurnal
from simulators.hydraulics import STEP_S, Engine, Perturbation, orifice_area_m2, write_inp
from simulators.town import STREAM_STORY, Town
from simulators.world import World
from underway.model import HOUR_US, AssetClass, LeakSignatures, OperatorError, to_us

BURST_SHARE_OF_DEMAND = (0.35, 0.50)
BURST_M3PH = (20.0, 45.0)
BURST_SHARE_IN_BIG_ZONES = 0.15
LOCATABLE_M = 150.0
FALL_MIN_KPA = 4.0
SENSOR_SD_KPA, COMMON_SD_KPA, MODEL_SD = 0.5, 1.5, 0.12
PRESSURE_LEFT_MIN_KPA = 80.0


class StoryAction(StrEnum):
    """What an event does to the world."""

    BURST = "burst"
    BEARING = "bearing"
    ROUGHNESS = "roughness"
    BLOCKAGE = "blockage"
    SHOWER = "shower"


class CrewConduct(StrEnum):
    """How the simulated crews behave."""

    CAREFUL = "careful"
    WRONG_PIPE_FIRST = "wrong_pipe_first"


@dataclass(frozen=True, slots=True)
class Cue:
    """One line of a story: `after_h` hours after the live start do `action`; the town and its seed say where and how much."""

    after_h: float
    action: StoryAction


@dataclass(frozen=True, slots=True)
class StoryEvent:
    """One event with its place: ``size`` is m3/h, share of frequency, m/km, share blocked, or mm/h; ``hours`` only for a shower."""

    at_us: int
    action: StoryAction
    asset_id: str
    size: float
    hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Story:
    """A story for one town, in order of time."""

    name: str
    events: tuple[StoryEvent, ...]
    conduct: CrewConduct = CrewConduct.CAREFUL

    def schedule(self, world: World) -> None:
        """Hand all events to a world."""
        for event in self.events:
            ACTIONS[event.action](world, event)

    def first(self, action: StoryAction) -> StoryEvent | None:
        """Return the first event of a kind."""
        return next((e for e in self.events if e.action == action), None)


ACTIONS: Mapping[StoryAction, Callable[[World, StoryEvent], None]] = {
    StoryAction.BURST: lambda w, e: w.burst(e.asset_id, e.size, e.at_us),
    StoryAction.BEARING: lambda w, e: w.bearing_fault(e.asset_id, e.size, e.at_us),
    StoryAction.ROUGHNESS: lambda w, e: w.roughness_step(e.asset_id, e.size, e.at_us),
    StoryAction.BLOCKAGE: lambda w, e: w.blockage(e.asset_id, e.size, e.at_us),
    StoryAction.SHOWER: lambda w, e: w.shower(e.at_us, e.hours, e.size),
}

_BURST = Cue(2.0, StoryAction.BURST)
_BEARING, _ROUGHNESS = Cue(5.0, StoryAction.BEARING), Cue(5.0, StoryAction.ROUGHNESS)
# a road story follows the burst; the seed's parity says which
STORIES: Mapping[str, tuple[tuple[Cue, ...], tuple[Cue, ...], CrewConduct]] = {
    "burst": ((_BURST, _BEARING), (_BURST, _ROUGHNESS), CrewConduct.CAREFUL),
    "failed-repair": ((_BURST,), (_BURST,), CrewConduct.WRONG_PIPE_FIRST),
    "bridge": ((replace(_BEARING, after_h=2.0),), (replace(_BEARING, after_h=2.0),), CrewConduct.CAREFUL),
    "roughness": ((replace(_ROUGHNESS, after_h=2.0),), (replace(_ROUGHNESS, after_h=2.0),), CrewConduct.CAREFUL),
    "drain": (
        (Cue(1.0, StoryAction.BLOCKAGE), Cue(2.0, StoryAction.SHOWER)),
        (Cue(1.0, StoryAction.BLOCKAGE), Cue(2.0, StoryAction.SHOWER)),
        CrewConduct.CAREFUL,
    ),
    "quiet": ((), (), CrewConduct.CAREFUL),
}


def plan_story(town: Town, name: str, live_at: datetime, signatures: Sequence[LeakSignatures] | None = None) -> Story:
    """Return a story for a town.

    Parameters
    ----------
    town : Town
    name : str
        A key of `STORIES`.
    live_at : datetime
        When the live part begins; cues count from it.
    signatures : sequence of LeakSignatures, optional
        The town's, when the caller has them already (they take some seconds).

    Returns
    -------
    Story
        The same for the same town, name and start.

    Raises
    ------
    OperatorError
        When there is no such story, or no pipe of the town can burst visibly.

    Examples
    --------
    >>> sorted(STORIES)
    ['bridge', 'burst', 'drain', 'failed-repair', 'quiet', 'roughness']
    """
    if name not in STORIES:
        raise OperatorError(f"story must be one of {', '.join(STORIES)}, got {name!r}")
    even, odd, conduct = STORIES[name]
    rng = town.rng(STREAM_STORY)
    events = []
    for cue in even if town.seed % 2 == 0 else odd:
        at_us = to_us(live_at) + int(cue.after_h * HOUR_US)
        events.append(_place(town, cue.action, at_us, rng, signatures))
    return Story(name, tuple(events), conduct)


def _place(
    town: Town, action: StoryAction, at_us: int, rng: np.random.Generator, signatures: Sequence[LeakSignatures] | None
) -> StoryEvent:
    if action == StoryAction.BURST:
        pipe, flow = pick_burst(town, rng, signatures)
        return StoryEvent(at_us, action, pipe, flow)
    classes = {
        StoryAction.BEARING: (AssetClass.BRIDGE, (-0.10, -0.07)),
        StoryAction.ROUGHNESS: (AssetClass.ROAD_SECTION, (2.0, 3.5)),
        StoryAction.BLOCKAGE: (AssetClass.CULVERT, (0.75, 0.9)),
        StoryAction.SHOWER: (AssetClass.CULVERT, (8.0, 14.0)),
    }
    asset_class, (low, high) = classes[action]
    assets = town.assets_of(asset_class)
    chosen = assets[int(rng.integers(len(assets)))].asset_id
    return StoryEvent(at_us, action, chosen, round(float(rng.uniform(low, high)), 3), 5.0 if action == StoryAction.SHOWER else 0.0)


def expected_distances_m(town: Town, signature: LeakSignatures, flow_m3ph: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return how far off a location would be on average for a leak on each pipe of a zone, metres along pipes, shape (p,).

    Notes
    -----
    The posterior mean of the distance for a flat prior and a Gaussian error: 0.5 kPa and 12 % of the fall at each sensor (the model's error), and
    1.5 kPa that all sensors share (tank levels, demand). It says whether the zone's sensors can tell the pipes apart at all.
    """
    fall = signature.fall_kpa_per_m3ph * flow_m3ph
    row = {a: i for i, a in enumerate(town.pipe_of_asset)}
    here = [row[p] for p in signature.pipe_ids]
    out = np.empty(len(here))
    for i, pipe in enumerate(signature.pipe_ids):
        precision = 1.0 / (SENSOR_SD_KPA**2 + (MODEL_SD * fall[i]) ** 2)
        apart = fall - fall[i]
        shared = (apart * precision).sum(axis=1) ** 2 * COMMON_SD_KPA**2 / (1 + COMMON_SD_KPA**2 * precision.sum())
        weight = np.exp(-0.5 * ((apart**2 * precision).sum(axis=1) - shared))
        away = np.minimum(town.distances_m(pipe)[here], 5_000.0)
        out[i] = float((weight * away).sum() / weight.sum())
    return out


def pick_burst(town: Town, rng: np.random.Generator, signatures: Sequence[LeakSignatures] | None = None) -> tuple[str, float]:
    """Choose a main that can burst visibly, and how much it loses (m3/h).

    Returns
    -------
    tuple of str and float
        Pipe asset and flow.

    Raises
    ------
    OperatorError
        When no pipe qualifies.

    Notes
    -----
    A zone with at least 60 % of the mean zone's demand; a flow of 35 to 50 % of the zone's mean demand within 20 to 45 m3/h, in big zones 15 %
    (noise is about 4 %); a main inside the zone of at least 40 m and 100 mm whose burst lowers a sensor by 4 kPa or more and can be placed
    within 150 m (in a town without any: the ten best of a zone), and which still has 80 kPa at its ends at the morning peak with the leak open.
    The story is chosen to be tellable; `World.burst` takes any pipe.
    """
    if signatures is None:
        channels = tuple(replace(c, channel_id=i + 1) for i, c in enumerate(town.registry.channels))
        signatures = town.signatures(replace(town.registry, channels=channels))
    demand = {z.zone_id: float(z.attributes.get("mean_demand_m3ph", 0.0)) for z in town.registry.zones}
    usual = float(np.mean([demand[s.zone_id] for s in signatures])) if signatures else 0.0
    zones = [s for s in signatures if demand[s.zone_id] >= 0.6 * usual]
    offers: list[tuple[list[str], float]] = []
    fallback: list[tuple[list[str], float]] = []
    for position in rng.permutation(len(zones)):
        signature = zones[int(position)]
        share = float(rng.uniform(*BURST_SHARE_OF_DEMAND))
        low, high = BURST_M3PH
        high = max(high, BURST_SHARE_IN_BIG_ZONES * demand[signature.zone_id])
        flow = round(float(np.clip(share * demand[signature.zone_id], low, high)), 1)
        off_m = expected_distances_m(town, signature, flow)
        fits = np.array([_is_main(town, p, signature.zone_id) for p in signature.pipe_ids])
        seen = fits & (off_m <= LOCATABLE_M) & (signature.fall_kpa_per_m3ph.max(axis=1) * flow >= FALL_MIN_KPA)
        offers.append(([signature.pipe_ids[i] for i in np.nonzero(seen)[0]], flow))
        order = [i for i in np.argsort(off_m, kind="stable") if fits[i]]
        fallback.append(([signature.pipe_ids[i] for i in order[:10]], flow))
    with _Trial(town) as trial:
        for pipes, flow in (*offers, *fallback):
            for choice in rng.permutation(len(pipes))[:20]:
                if trial.bears(pipes[int(choice)], flow):
                    return pipes[int(choice)], flow
    raise OperatorError(
        f"a burst needs a main of 100 mm or more that keeps {PRESSURE_LEFT_MIN_KPA} kPa with the leak open, found none in {town.site_id!r}"
    )


def _is_main(town: Town, pipe: str, zone_id: str) -> bool:
    link = town.network.links[town.pipe_of_asset[pipe]]
    inside = town.zone_of_node.get(link.start) == zone_id and town.zone_of_node.get(link.end) == zone_id
    return inside and link.length_m >= 40.0 and link.diameter_mm >= 100.0


class _Trial:
    """A nominal town at its morning peak in which bursts are tried."""

    PEAK_S = 32 * 3600

    def __init__(self, town: Town) -> None:
        self._town = town
        inp = town.folder / "trial.inp"
        write_inp(town.network, town.zone_of_node, Perturbation.none(), inp)
        self._engine = Engine(inp, town.network)
        self._at_s = 0
        for at_s in range(0, self.PEAK_S + STEP_S, STEP_S):
            self._to(at_s, at_s / 3600 % 24)

    def __enter__(self) -> _Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def _to(self, at_s: int, hour: float) -> None:
        for zone in self._town.dma_ids:
            self._engine.set_demand_multiplier(zone, diurnal(hour, weekend=False))
        self._engine.step_to(at_s)
        self._at_s = at_s

    def bears(self, pipe: str, flow_m3ph: float) -> bool:
        """Open the leak for one second at the peak and tell whether enough pressure stays and most of the flow comes."""
        link_id = self._town.pipe_of_asset[pipe]
        link = self._town.network.links[link_id]
        ends = [n for n in (link.start, link.end) if n in self._town.zone_of_node]
        before = float(np.mean(self._engine.pressures_kpa(ends)))
        self._engine.set_leak(link_id, orifice_area_m2(flow_m3ph, before))
        self._to(self._at_s + 1, 8.0)
        left = float(self._engine.pressures_kpa(ends).min())
        lost = self._engine.leak_flow_m3ph(link_id)
        self._engine.set_leak(link_id, 0.0)
        self._to(self._at_s + 1, 8.0)
        return math.isfinite(left) and left >= PRESSURE_LEFT_MIN_KPA and lost >= 0.75 * flow_m3ph
