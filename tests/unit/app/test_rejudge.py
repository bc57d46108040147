"""Late data judged again: what detectors are given, and what is kept of what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np

from detectors.contract import BankOutput, no_output
from underway.app.ingest_service import LaneBanks
from underway.app.rejudge import CHUNK_ROWS, TAIL_US, device_groups, judge_window
from underway.model import (
    DAY_US,
    MINUTE_US,
    Asset,
    AssetClass,
    Channel,
    Device,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    Quantity,
    ReadingBatch,
    ReadingFlag,
    Registry,
    Site,
    to_us,
)
from underway.store.memory import LateWindow

NOW_AT = datetime(2026, 3, 1, tzinfo=UTC)
NOW_US = to_us(NOW_AT)


def finding_at(at_us: int) -> Finding:
    evidence = Evidence("", 0.0, 0.0, 0.0, 0.0, "", 0.0, 0.0, "", (), (), {})
    return Finding(UUID(int=at_us), FindingKind.METER_STUCK, FindingPhase.RAISE, "a", None, "d", "1", 1.0, at_us, at_us, evidence, False)


@dataclass
class EveryReading:
    """Finds something at every reading, and writes down what it is told."""

    seen: list[ReadingBatch] = field(default_factory=list)
    told: list[tuple[int, bool]] = field(default_factory=list)

    def step(self, batch: ReadingBatch) -> BankOutput:
        self.seen.append(batch)
        return BankOutput(tuple(finding_at(at) for at in batch.observed_us.tolist()), no_output().expectations)

    def hold(self, holds: Sequence[Hold]) -> None:
        self.told += [(sum(map(len, self.seen)), h.released_us is not None) for h in holds]


def minutes(first: int, stop: int) -> ReadingBatch:
    at = NOW_US + np.arange(first, stop) * MINUTE_US
    return ReadingBatch.from_columns([1] * len(at), at, at * 0.0)


def test_judge_window_steps_slice_by_slice_and_keeps_what_lies_in_the_window() -> None:
    bank = EveryReading()
    breaths: list[None] = []
    window = LateWindow("lane", NOW_US + 4000 * MINUTE_US, NOW_US + 4010 * MINUTE_US, 10)
    asked: list[int] = []

    def slices() -> Iterator[ReadingBatch]:
        for first, stop in ((0, 2500), (2500, 2500), (2500, 4005), (4005, 5000)):
            asked.append(sum(map(len, bank.seen)))
            yield minutes(first, stop)

    found = judge_window(bank, slices(), (), window, lambda: breaths.append(None))
    assert asked == [0, 2500, 2500, 4005], "a slice is read when those before it are judged"
    assert [len(b) for b in bank.seen] == [CHUNK_ROWS, 500, 1505, 995]
    assert len(breaths) == len(bank.seen)
    assert ReadingBatch.concat(bank.seen).observed_us.tolist() == minutes(0, 5000).observed_us.tolist()
    assert all((b.flags & ReadingFlag.HISTORICAL).all() for b in bank.seen)
    tail = TAIL_US // MINUTE_US
    assert [f.detected_us for f in found] == minutes(4000, 4010 + tail).observed_us.tolist()
    assert all(f.historical for f in found)


def test_judge_window_tells_holds_when_the_readings_reach_them() -> None:
    bank = EveryReading()
    window = LateWindow("lane", NOW_US, NOW_US + DAY_US, 1)
    hold = Hold(1, None, "a", NOW_US + 150 * MINUTE_US, NOW_US + 350 * MINUTE_US, "cancelled")
    judge_window(bank, [minutes(n, n + 100) for n in range(0, 500, 100)], [hold], window)
    assert bank.told == [(200, False), (400, True)], "before the first chunk that begins after it"


def town() -> Registry:
    devices = tuple(Device(f"d{i}", "town", None, None, "m", "native", NOW_AT - timedelta(days=60)) for i in range(5))
    channels = tuple(
        Channel(1 + i, f"d{i // 2}", f"c{i % 2}", Quantity.ROUGHNESS, "m/km", f"rd-{i}", "road", "roughness", 0, 30, 900) for i in range(10)
    )
    assets = tuple(Asset(f"rd-{i}", "town", "road", AssetClass.ROAD_SECTION, f"Section {i}") for i in range(10))
    return Registry(Site("town", "Town", "UTC", 0.0, 0.0), (), assets, devices, channels)


def test_device_groups_do_not_tear_the_channels_of_a_device_apart() -> None:
    groups = device_groups(town(), [1, 3, 4, 5, 6, 10, 99], 3)
    assert [[d.device_id for d in g.devices] for g in groups] == [["d0", "d1"], ["d2", "d4"]]
    assert [[c.channel_id for c in g.channels] for g in groups] == [[1, 2, 3, 4], [5, 6, 9, 10]], "their other channels come along"


def test_device_groups_device_with_more_channels_than_a_group_has_one_of_its_own() -> None:
    assert [[d.device_id for d in g.devices] for g in device_groups(town(), range(1, 11), 1)] == [[f"d{i}"] for i in range(5)]
    assert device_groups(town(), [99], 1) == []


def test_for_lane_roughness_of_some_sections_looks_at_these_alone() -> None:
    made = LaneBanks().for_lane(town(), (), "roughness-step@1/road", [3, 7])
    assert made is not None
    assert list(made[1]) == [3, 7]
