"""Can a leak be found at all: true pressures of a town against the signatures of its nominal model."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from simulators.export import with_ids
from simulators.stories import plan_story
from simulators.town import build_town
from simulators.world import World
from underway.model import HOUR_US


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_town_burst_true_pressure_fall_points_near_the_pipe(seed: int, tmp_path: Path) -> None:
    town = build_town(seed, "ky4", folder=tmp_path)
    registry = with_ids(town.registry)
    signatures = {s.zone_id: s for s in town.signatures(registry)}
    burst = plan_story(town, "burst", town.start_at + timedelta(hours=6), tuple(signatures.values())).events[0]
    signature = signatures[str(town.assets[burst.asset_id].zone_id)]
    node = {c.channel_id: s.target for c, s in zip(registry.channels, town.senses, strict=True)}
    with World(town, faults=()) as calm, World(town, faults=()) as world:
        world.burst(burst.asset_id, burst.size, burst.at_us)
        falls = []
        for at_us in range(burst.at_us + HOUR_US, burst.at_us + 5 * HOUR_US, HOUR_US):
            for w in (calm, world):
                for _ in w.advance(at_us):
                    pass
            falls.append([calm.pressure_kpa(node[c]) - world.pressure_kpa(node[c]) for c in signature.channel_ids])
    fall = np.mean(falls, axis=0)
    shape = signature.fall_kpa_per_m3ph
    weight = 1.0 / (0.5**2 + (0.15 * fall) ** 2)
    size = (shape * fall * weight).sum(axis=1) / (shape**2 * weight).sum(axis=1)
    misfit = ((fall - size[:, None] * shape) ** 2 * weight).sum(axis=1)
    first = np.argsort(misfit)[:10]
    nearest_m = min(town.distance_m(signature.pipe_ids[i], burst.asset_id) for i in first)
    assert nearest_m <= 150.0, (seed, burst, [signature.pipe_ids[i] for i in first])
