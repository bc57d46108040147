import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from simulators.export import with_ids
from simulators.town import Town, build_town
from underway.model import CANONICAL_UNIT, AssetClass, OperatorError, ZoneKind

ROLES = {
    "zone_inflow", "tank_flow", "zone_pressure", "tank_level", "roughness", "bridge_frequency", "bridge_temperature", "bridge_tilt",
    "drain_level", "rain", "health",
}  # fmt: skip


def test_build_town_same_seed_same_town(big_town: Town, tmp_path: Path) -> None:
    again = build_town(1, "ky4", folder=tmp_path)
    assert again.registry == big_town.registry
    assert again.crews == big_town.crews


def test_build_town_other_seed_other_town(big_town: Town, tmp_path: Path) -> None:
    other = build_town(2, "ky4", folder=tmp_path)
    assert other.zone_of_node != big_town.zone_of_node
    assert other.crews[0].longitude_deg != big_town.crews[0].longitude_deg


@pytest.mark.parametrize("which", ["small_town", "big_town"])
def test_build_town_registry_is_whole(which: str, request: pytest.FixtureRequest) -> None:
    town: Town = request.getfixturevalue(which)
    registry = town.registry
    zones = {z.zone_id for z in registry.zones}
    assets = {a.asset_id for a in registry.assets}
    devices = {d.device_id: d for d in registry.devices}
    assert len(assets) == len(registry.assets)
    assert len(devices) == len(registry.devices)
    assert len({(c.device_id, c.name) for c in registry.channels}) == len(registry.channels) == len(town.senses)
    assert all(a.zone_id is None or a.zone_id in zones for a in registry.assets)
    assert all(d.asset_id is None or d.asset_id in assets for d in registry.devices)
    assert all(re.fullmatch(r"[a-z0-9_-]+", d) for d in devices)
    assert {c.role for c in registry.channels} <= ROLES
    assert all(c.range_min < c.range_max and c.quantity in CANONICAL_UNIT for c in registry.channels)
    assert all(c.zone_id == devices[c.device_id].zone_id for c in registry.channels)
    for zone in town.dma_ids:
        assert f"dma:{zone}" in assets
        assert sum(c.role == "zone_pressure" and c.zone_id == zone for c in registry.channels) >= 3
    classes = {a.asset_class for a in registry.assets}
    assert {AssetClass.PIPE, AssetClass.TANK, AssetClass.PUMP, AssetClass.NETWORK} <= classes
    assert {AssetClass.ROAD_SECTION, AssetClass.BRIDGE, AssetClass.CULVERT} <= classes
    assert sum(z.kind == ZoneKind.CORRIDOR for z in registry.zones) == 1


def test_build_town_ky4_has_the_size_of_a_demo(big_town: Town) -> None:
    assert 4 <= len(big_town.dma_ids) <= 8
    assert 60 <= len(big_town.registry.channels) <= 130
    assert len(big_town.assets_of(AssetClass.PIPE)) == 1156
    assert len(big_town.assets_of(AssetClass.ROAD_SECTION)) >= 5


def test_build_town_pipe_geometry_has_the_length_of_the_pipe(big_town: Town) -> None:
    ratios = []
    for asset in big_town.assets_of(AssetClass.PIPE):
        assert asset.geometry is not None
        points = [(p[0], p[1]) for p in asset.geometry["coordinates"]]
        drawn = sum(big_town.travel_m(a, b) / 1.3 for a, b in itertools.pairwise(points))
        if drawn > 50:
            ratios.append(asset.attributes["length_m"] / drawn)
    assert 0.97 < float(np.median(ratios)) < 1.03


def test_distance_is_a_metric_along_pipes(big_town: Town) -> None:
    pipes = list(big_town.pipe_of_asset)[::97]
    for a in pipes:
        assert big_town.distance_m(a, a) == 0.0
        for b in pipes:
            assert big_town.distance_m(a, b) == pytest.approx(big_town.distance_m(b, a))
            straight = big_town.travel_m(big_town.point_of(a), big_town.point_of(b)) / 1.3
            assert big_town.distance_m(a, b) >= 0.9 * straight - 30.0


def test_distance_neighbours_half_of_both_lengths(big_town: Town) -> None:
    links = list(big_town.pipe_of_asset.items())
    first_asset, first = links[0]
    a = big_town.network.links[first]
    for asset, name in links[1:]:
        b = big_town.network.links[name]
        if b.start in (a.start, a.end) or b.end in (a.start, a.end):
            assert big_town.distance_m(first_asset, asset) == pytest.approx((a.length_m + b.length_m) / 2)


def test_distance_unknown_pipe_is_refused(small_town: Town) -> None:
    with pytest.raises(OperatorError, match=r"^pipe must be the asset id of a pipe in site 'town', got 'dma:z1'$"):
        small_town.distance_m("dma:z1", next(iter(small_town.pipe_of_asset)))


def test_crews_cover_every_hour_with_every_skill_that_matters(small_town: Town) -> None:
    skills = {s for c in small_town.crews for s in c.skills}
    assert skills == {"leak_repair", "roads", "structures", "drainage", "instruments"}
    for hours in range(0, 24 * 20, 1):
        at = small_town.start_at + timedelta(hours=hours)
        on = {s for c in small_town.crews for s in c.skills if any(w.starts_at <= at < w.ends_at for w in c.shifts)}
        assert on == skills


def test_build_town_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(OperatorError, match=r"^zones must be in 1\.\.8, got 9$"):
        build_town(1, "net3", zones=9)
    with pytest.raises(OperatorError, match=r"^start_at must have a time zone, got "):
        build_town(1, "net3", start_at=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None))


@pytest.mark.parametrize("which", ["small_town", "big_town"])
def test_signatures_carry_stored_ids_and_sane_falls(which: str, request: pytest.FixtureRequest) -> None:
    town: Town = request.getfixturevalue(which)
    registry = with_ids(town.registry)
    by_id = {c.channel_id: c for c in registry.channels}
    signatures = town.signatures(registry)
    assert {s.zone_id for s in signatures} == set(town.dma_ids)
    for s in signatures:
        assert s.fall_kpa_per_m3ph.shape == (len(s.pipe_ids), len(s.channel_ids))
        assert all(by_id[c].role == "zone_pressure" and by_id[c].zone_id == s.zone_id for c in s.channel_ids)
        assert np.isfinite(s.fall_kpa_per_m3ph).all()
        assert (s.fall_kpa_per_m3ph > -0.01).all()
        # a pipe beside a tank lowers no pressure
        assert (s.fall_kpa_per_m3ph.max(axis=1) > 1e-3).mean() > 0.9
    renumbered = replace(registry, channels=tuple(replace(c, channel_id=c.channel_id + 500) for c in registry.channels))
    assert town.signatures(renumbered)[0].channel_ids == tuple(c + 500 for c in signatures[0].channel_ids)
