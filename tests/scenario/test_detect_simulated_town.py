"""A simulated town as the demo plays it: two weeks of history in packs, then a burst and a road fault, live."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from detectors.bank import Bank
from simulators.export import decode, with_ids
from simulators.stories import Story, plan_story
from simulators.town import Town, build_town
from simulators.world import World
from underway.model import DAY_US, HOUR_US, MINUTE_US, Finding, FindingKind, FindingPhase, ReadingBatch, ReadingFlag, to_us

SEED = 51
DAYS = 14


@dataclass(frozen=True)
class Played:
    town: Town
    story: Story
    live_us: int
    bank: Bank
    findings: Sequence[Finding]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder: Path = tmp_path_factory.mktemp("town")
    town = build_town(SEED, folder=folder)
    registry = with_ids(town.registry)
    signatures = town.signatures(registry)
    live_at = town.start_at + timedelta(days=DAYS)
    live_us = to_us(live_at)
    story = plan_story(town, "burst", live_at, signatures)
    bank = Bank(registry, signatures)
    findings: list[Finding] = []
    with World(town) as world:
        story.schedule(world)
        # the town's clock stands at the end of history while history comes in
        history = decode(list(world.advance(live_us, 21_600)), registry, live_us)
        old = live_us - history.observed_us > HOUR_US
        flags = np.where(old, np.uint8(ReadingFlag.HISTORICAL), np.uint8(0)).astype(np.uint8)
        history = replace(history, received_us=np.full(len(history), live_us), flags=flags)
        live = decode(list(world.advance(live_us + 8 * HOUR_US)), registry, live_us)
        live = replace(live, received_us=np.maximum(live.received_us, live.observed_us), flags=np.zeros(len(live), np.uint8))
    for batch, size in ((history, 5000), (live, 400)):
        for start in range(0, len(batch), size):
            part: ReadingBatch = batch.take(slice(start, start + size)).in_event_order()
            findings += bank.step(part).findings
    return Played(town, story, live_us, bank, findings)


def test_town_history_in_packs_loses_no_reading_to_the_detectors(played: Played) -> None:
    assert played.bank.late_rows == 0


def test_town_history_raises_sensor_faults_only_and_pages_nobody(played: Played) -> None:
    before = [f for f in played.findings if f.detected_us < played.live_us]
    assert {f.kind for f in before} <= {FindingKind.METER_STUCK}
    assert all(f.historical for f in before)


def test_town_burst_is_found_within_the_hour_and_located(played: Played) -> None:
    event = next(e for e in played.story.events if e.asset_id in played.town.pipe_of_asset)
    found = [f for f in played.findings if f.kind is FindingKind.LEAK_BURST]
    first, last = found[0], found[-1]
    assert first.phase is FindingPhase.RAISE
    assert not first.historical
    assert first.asset_id == f"dma:{played.town.assets[event.asset_id].zone_id}"
    assert 0 < first.detected_us - event.at_us <= 60 * MINUTE_US
    assert abs(first.onset_us - event.at_us) <= 15 * MINUTE_US
    assert {f.asset_id for f in found} == {first.asset_id}
    for f in (first, last):
        assert 1 <= len(f.evidence.candidates) <= 40
        assert sum(c.probability for c in f.evidence.candidates) <= 1.001
        best = min(played.town.distance_m(c.asset_id, event.asset_id) for c in f.evidence.candidates[:5])
        assert best <= 300.0


def test_town_road_fault_is_found_at_the_right_asset_and_nothing_else_is(played: Played) -> None:
    event = next(e for e in played.story.events if e.asset_id not in played.town.pipe_of_asset)
    live = [f for f in played.findings if f.detected_us >= played.live_us and f.phase is FindingPhase.RAISE]
    road = [f for f in live if f.asset_id == event.asset_id]
    assert len(road) == 1
    assert 0 < road[0].detected_us - event.at_us <= 0.25 * DAY_US
    assert {f.kind for f in live} == {FindingKind.LEAK_BURST, road[0].kind}
