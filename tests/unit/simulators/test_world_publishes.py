import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from simulators.sensors import FaultKind, SensorFault
from simulators.stories import plan_story
from simulators.town import Town
from simulators.world import Publication, RepairReason, World, WorldFault
from underway.model import HOUR_US, MINUTE_US, SECOND_US, AssetClass, OperatorError, to_us


def run(world: World, hours: float, pack_s: int | None = None) -> list[Publication]:
    begin = max(world.now_us, world.start_us)
    return list(world.advance(begin + int(hours * HOUR_US), pack_s))


@pytest.mark.parametrize("which", ["small_town", "big_town"])
def test_world_meters_balance_what_each_zone_takes(which: str, request: pytest.FixtureRequest) -> None:
    town: Town = request.getfixturevalue(which)
    with World(town, faults=()) as world:
        pipe = next(p for p in town.pipe_of_asset if town.assets[p].zone_id == "z1")
        world.burst(pipe, 20.0, world.start_us + 2 * HOUR_US)
        for hour in range(6):
            run(world, 1.0)
            for zone in town.dma_ids:
                assert world.zone_inflow_m3ph(zone) == pytest.approx(world.zone_takes_m3ph(zone), rel=2e-3, abs=0.05), (zone, hour)


def test_world_same_seed_same_bytes(small_town: Town) -> None:
    with World(small_town) as one, World(small_town) as two:
        assert run(one, 8) == run(two, 8)


def test_world_other_seed_other_bytes(small_town: Town) -> None:
    with World(small_town, seed=1) as one, World(small_town, seed=2) as two:
        assert [p.payload for p in run(one, 1)] != [p.payload for p in run(two, 1)]


def test_world_steps_split_anywhere_publish_the_same(small_town: Town) -> None:
    with World(small_town) as whole, World(small_town) as parts:
        expected = run(whole, 2)
        got: list[Publication] = []
        for minute in range(121):
            got += parts.advance(parts.start_us + minute * MINUTE_US)
        assert got == expected


def test_world_publications_come_in_time_order_and_are_counted(small_town: Town) -> None:
    with World(small_town) as world:
        out = run(world, 30, pack_s=21_600) + run(world, 2)
        assert [p.at_us for p in out] == sorted(p.at_us for p in out)
        assert world.published_readings == sum(p.readings for p in out)
        assert sum(p.device_id != "truth" for p in out) == world.published_messages


def test_world_payloads_are_native_and_known(small_town: Town) -> None:
    names = {(c.device_id, c.name): c for c in small_town.registry.channels}
    with World(small_town) as world:
        out = run(world, 26, pack_s=21_600) + run(world, 1)
    seen = Counter[tuple[str, str]]()
    shapes = set()
    for p in out:
        if p.topic == "uw/town/truth":
            continue
        assert p.topic == f"uw/town/{p.device_id}/telemetry"
        body = msgspec.json.decode(p.payload)
        rows = body.get("readings", [body])
        shapes.add(("readings" in body, isinstance(rows[0]["at"], int)))
        assert 1 <= len(rows) <= 1000
        assert isinstance(body["seq"], int)
        count = 0
        for row in rows:
            at = row["at"]
            us = at * 1000 if isinstance(at, int) else to_us(datetime.fromisoformat(at))
            assert us <= p.at_us + 30 * SECOND_US
            for name, value in row["values"].items():
                channel = names[(p.device_id, name)]
                seen[(p.device_id, name)] += 1
                assert isinstance(value, int | float)
                canonical = value * 3.6 if channel.device_unit == "L/s" else value
                assert channel.range_min <= canonical <= channel.range_max
                count += 1
        assert count == p.readings
        assert all(unit == "L/s" for unit in body.get("units", {}).values())
    assert set(seen) == set(names)
    assert shapes == {(False, False), (False, True), (True, False), (True, True)}


def test_world_device_repeats_no_instant(small_town: Town) -> None:
    with World(small_town) as world:
        out = run(world, 48, pack_s=21_600)
    for device in {p.device_id for p in out} - {"truth"}:
        stamps = []
        for p in out:
            if p.device_id == device:
                body = msgspec.json.decode(p.payload)
                stamps += [r["at"] for r in body.get("readings", [body])]
        assert len(set(stamps)) == len(stamps)
        assert stamps == sorted(stamps)


def test_world_burst_lowers_pressure_near_most_and_repair_restores(big_town: Town) -> None:
    story = plan_story(big_town, "burst", big_town.start_at + timedelta(hours=2))
    burst = story.events[0]
    zone = big_town.assets[burst.asset_id].zone_id
    sensors = [s for s in big_town.senses if s.probe == "node_pressure"]
    zone_of = {d.device_id: d.zone_id for d in big_town.registry.devices}
    with World(big_town, faults=()) as calm, World(big_town, faults=()) as world:
        world.burst(burst.asset_id, burst.size, burst.at_us)
        run(calm, 5)
        run(world, 5)
        fall = {s.device_id: calm.pressure_kpa(s.target) - world.pressure_kpa(s.target) for s in sensors}
        hit = max(fall, key=lambda d: fall[d])
        assert zone_of[hit] == zone
        assert fall[hit] > 3.0
        assert world.zone_inflow_m3ph(str(zone)) - calm.zone_inflow_m3ph(str(zone)) == pytest.approx(burst.size, rel=0.25)
        assert [(f.kind, f.asset_id) for f in world.faults()] == [(WorldFault.LEAK, burst.asset_id)]
        wrong = next(p for p in big_town.pipe_of_asset if p != burst.asset_id)
        assert world.repair(wrong, world.now_us).reason == RepairReason.NOTHING_THERE
        assert world.repair("nobody", world.now_us).reason == RepairReason.UNKNOWN_ASSET
        assert world.repair(burst.asset_id, world.now_us).reason == RepairReason.LEAK_CLOSED
        assert world.repair(burst.asset_id, world.now_us).reason == RepairReason.NOTHING_THERE
        run(calm, 1)
        run(world, 1)
        assert world.faults() == ()
        assert world.zone_inflow_m3ph(str(zone)) == pytest.approx(world.zone_takes_m3ph(str(zone)), rel=2e-3)
        assert world.zone_inflow_m3ph(str(zone)) == pytest.approx(calm.zone_inflow_m3ph(str(zone)), rel=0.01, abs=0.2)
        assert max(abs(calm.pressure_kpa(s.target) - world.pressure_kpa(s.target)) for s in sensors) < 5.0


def test_world_survey_finds_a_leak_within_its_radius_only(big_town: Town) -> None:
    pipes = list(big_town.pipe_of_asset)
    broken = pipes[200]
    away = sorted((big_town.distance_m(broken, p), p) for p in pipes if p != broken)
    with World(big_town, faults=()) as world:
        run(world, 0.1)
        world.burst(broken, 10.0, world.now_us)
        run(world, 0.1)
        assert world.survey(broken, world.now_us).found_asset_id == broken
        near, far = away[0], next(a for a in away if a[0] > 400)
        assert world.survey(near[1], world.now_us, radius_m=near[0] + 1).found_asset_id == broken
        assert world.survey(far[1], world.now_us).found_asset_id is None


def test_world_truth_topic_tells_the_leak(small_town: Town) -> None:
    pipe = "p-189"
    with World(small_town, faults=()) as world:
        world.burst(pipe, 40.0, world.start_us + HOUR_US)
        out = [msgspec.json.decode(p.payload) for p in run(world, 2) if p.topic == "uw/town/truth"]
    leaking = [t for t in out if t["leaks"]]
    assert leaking[0]["at"] == "2026-02-16T01:00:00.000Z"
    assert leaking[0]["leaks"][0]["pipe"] == pipe
    assert 25.0 < leaking[0]["leaks"][0]["flow_m3ph"] < 42.0


def test_world_road_faults_show_and_are_repaired(small_town: Town) -> None:
    section = small_town.assets_of(AssetClass.ROAD_SECTION)[0].asset_id

    def values(out: list[Publication], name: str) -> list[float]:
        rows = [r for p in out if p.device_id != "truth" for b in [msgspec.json.decode(p.payload)] for r in b.get("readings", [b])]
        return [r["values"][name] for r in rows if name in r["values"]]

    with World(small_town, faults=()) as world:
        before = run(world, 24, 21_600)
        world.bearing_fault("br-01", -0.08, world.now_us)
        world.roughness_step(section, 3.0, world.now_us)
        during = run(world, 24, 21_600)
        assert {f.kind for f in world.faults()} == {WorldFault.BEARING, WorldFault.ROUGHNESS}
        f0, f1 = (sum(values(o, "frequency")) / len(values(o, "frequency")) for o in (before, during))
        assert f1 / f0 == pytest.approx(0.92, abs=0.03)
        r0, r1 = (sum(values(o, "roughness")) / len(values(o, "roughness")) for o in (before, during))
        assert r1 > r0 + 2.0 / max(len(small_town.assets_of(AssetClass.ROAD_SECTION)), 1)
        assert world.repair("br-01", world.now_us).found
        assert world.repair(section, world.now_us).found
        assert world.faults() == ()


def test_world_blocked_culvert_rises_higher_in_the_same_rain(small_town: Town) -> None:
    def top(blocked: float) -> float:
        with World(small_town, faults=()) as world:
            if blocked:
                world.blockage("dr-01", blocked, world.start_us)
            world.shower(world.start_us + HOUR_US, 3.0, 10.0)
            rows = [msgspec.json.decode(p.payload)["values"] for p in run(world, 5) if p.device_id == "dr-1"]
        return max(float(r["level"]) for r in rows)

    free, blocked = top(0.0), top(0.85)
    assert 0.1 < free < 0.6
    assert blocked > 2 * free


def test_world_outage_buffers_and_sends_everything_later(small_town: Town) -> None:
    device = "pr-101"
    start = to_us(small_town.start_at)
    fault = SensorFault(FaultKind.OUTAGE, device, start + HOUR_US, start + 3 * HOUR_US)
    with World(small_town, faults=(fault,)) as broken, World(small_town, faults=()) as sound:
        late, fine = run(broken, 5), run(sound, 5)
    assert not [p for p in late if p.device_id == device and fault.starts_us <= p.at_us < fault.ends_us]
    assert sum(p.readings for p in late if p.device_id == device) == sum(p.readings for p in fine if p.device_id == device)
    assert max(p.readings for p in late if p.device_id == device) >= 20


def test_world_stuck_dropout_and_clock_faults_change_only_their_device(small_town: Town) -> None:
    start = to_us(small_town.start_at)
    faults = (
        SensorFault(FaultKind.STUCK, "pr-101", start + HOUR_US, start + 3 * HOUR_US, "pressure"),
        SensorFault(FaultKind.DROPOUT, "pr-102", start + HOUR_US, start + 3 * HOUR_US),
        SensorFault(FaultKind.CLOCK, "pr-103", start + HOUR_US, start + 3 * HOUR_US, None, 45.0),
    )
    with World(small_town, faults=faults) as broken, World(small_town, faults=()) as sound:
        late, fine = run(broken, 4), run(sound, 4)
    touched = {"pr-101", "pr-102", "pr-103"}
    assert [p for p in late if p.device_id not in touched] == [p for p in fine if p.device_id not in touched]
    inside = [p for p in late if fault_window(p, start)]
    stuck = {msgspec.json.decode(p.payload)["values"]["pressure"] for p in inside if p.device_id == "pr-101"}
    assert len(stuck) == 1
    assert not [p for p in inside if p.device_id == "pr-102"]
    shifted = next(p for p in inside if p.device_id == "pr-103")
    same = next(p for p in fine if p.device_id == "pr-103" and p.at_us == shifted.at_us)
    assert msgspec.json.decode(shifted.payload)["at"] - msgspec.json.decode(same.payload)["at"] == 45_000


def fault_window(p: Publication, start: int) -> bool:
    return start + HOUR_US <= p.at_us < start + 3 * HOUR_US


def test_world_default_clock_errors_stay_within_thirty_seconds(big_town: Town) -> None:
    with World(big_town, faults=()) as world:
        run(world, 0.1)
        errors = world._sensors.clock_error_us(world.start_us + 6 * 24 * HOUR_US)
        assert abs(errors).max() <= 30 * SECOND_US


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.burst("dma:z1", 5.0, 0), "a burst needs the asset id of a pipe, got 'dma:z1'"),
        (lambda w: w.burst("p-189", 0.0, 0), "a burst must lose 0.1..500 m3/h, got 0.0"),
        (lambda w: w.bearing_fault("rd-01", -0.1, 0), "expected the asset id of a bridge, got 'rd-01'"),
        (lambda w: w.set_link_open("nothing", True, 0), "a valve or pump operation needs a pipe, pump or valve, got 'nothing'"),
    ],
    ids=["no-pipe", "no-flow", "no-bridge", "no-link"],
)
def test_world_impossible_action_says_what_it_needs(small_town: Town, call: object, message: str) -> None:
    with World(small_town, faults=()) as world, pytest.raises(OperatorError, match="^" + re.escape(message) + "$"):
        call(world)  # type: ignore[operator]


def test_world_closed_pipe_carries_nothing_and_opens_again(small_town: Town) -> None:
    with World(small_town, faults=()) as world:
        run(world, 0.5)
        world.set_link_open("p-189", False, world.now_us)
        run(world, 0.1)
        assert abs(world._engine.flow_m3ph("189")) < 0.01
        world.set_link_open("p-189", True, world.now_us)
        run(world, 0.1)
        assert world._engine.is_open("189")


def test_world_starts_at_the_town_start(small_town: Town) -> None:
    with World(small_town) as world:
        first = run(world, 0.0)
        assert first
        assert min(p.at_us for p in first) >= to_us(small_town.start_at)
        assert small_town.start_at.tzinfo == UTC
