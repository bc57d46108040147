"""Write a town's readings to a file, for work on detectors without a broker or a database: ``python -m simulators.export --help``.

The readings go through the same devices and payloads as in the demo; they are decoded here in the plainest way (no grading), with channel ids 1..n.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from simulators.sensors import TO_DEVICE
from simulators.stories import STORIES, Story, plan_story
from simulators.town import DEFAULT_START_AT, Town, build_town
from simulators.world import Publication, World
from underway.model import LeakSignatures, ReadingBatch, ReadingFlag, Registry, to_us


@dataclass(frozen=True)
class Dataset:
    """A recorded town: registry with ids, readings in event order, signatures, the story, and the true state of things at each hour."""

    registry: Registry
    readings: ReadingBatch
    signatures: tuple[LeakSignatures, ...]
    story: Story
    live_us: int
    truth: tuple[dict[str, Any], ...]


def with_ids(registry: Registry) -> Registry:
    """Return the registry with channel ids 1..n in its order, as a store would give them."""
    return replace(registry, channels=tuple(replace(c, channel_id=i) for i, c in enumerate(registry.channels, start=1)))


def decode(publications: Sequence[Publication], registry: Registry, live_us: int) -> ReadingBatch:
    """Return the readings of native payloads in canonical units, in the order of publication.

    Readings sent more than an hour after they were observed carry `ReadingFlag.HISTORICAL`, those before `live_us` too.
    """
    key = {(c.device_id, c.name): (c.channel_id, 1.0 / TO_DEVICE[c.device_unit]) for c in registry.channels}
    rows: list[tuple[int, int, int, float]] = []
    for p in publications:
        if p.device_id == "truth":
            continue
        body = msgspec.json.decode(p.payload)
        for reading in body.get("readings", [body]):
            at = reading["at"]
            us = at * 1000 if isinstance(at, int) else to_us(datetime.fromisoformat(at))
            for name, value in reading["values"].items():
                channel, factor = key[(p.device_id, name)]
                rows.append((channel, us, p.at_us, value * factor))
    if not rows:
        return ReadingBatch.empty()
    channel_id, observed, received, value_column = zip(*rows, strict=True)
    observed_us, received_us = np.array(observed, np.int64), np.array(received, np.int64)
    old = (received_us - observed_us > 3_600_000_000) | (observed_us < live_us)
    flags = np.where(old, np.uint8(ReadingFlag.HISTORICAL), np.uint8(0))
    return ReadingBatch.from_columns(channel_id, observed_us, value_column, received_us, flags=flags)


def record(town: Town, days: float, story_name: str = "burst", history_days: float = 14.0, pack_s: int | None = 21_600) -> Dataset:
    """Run a town for some days and return everything; the live part begins after `history_days`."""
    registry = with_ids(town.registry)
    signatures = town.signatures(registry)
    live_at = town.start_at + timedelta(days=history_days)
    live_us = to_us(live_at)
    story = plan_story(town, story_name, live_at, signatures)
    end_us = to_us(town.start_at + timedelta(days=days))
    publications: list[Publication] = []
    with World(town) as world:
        story.schedule(world)
        publications += world.advance(min(live_us, end_us), pack_s)
        if end_us > live_us:
            publications += world.advance(end_us)
    truth = tuple(msgspec.json.decode(p.payload) for p in publications if p.device_id == "truth")
    return Dataset(registry, decode(publications, registry, live_us).in_event_order(), signatures, story, live_us, truth)


def save(data: Dataset, path: Path) -> None:
    """Write a dataset as one .npz file; `load` reads it back."""
    arrays: dict[str, Any] = {name: getattr(data.readings, name) for name in data.readings.__slots__}
    arrays["registry_json"] = np.frombuffer(msgspec.json.encode(data.registry), np.uint8)
    arrays["story_json"] = np.frombuffer(msgspec.json.encode(data.story), np.uint8)
    arrays["truth_json"] = np.frombuffer(msgspec.json.encode(data.truth), np.uint8)
    arrays["live_us"] = np.array(data.live_us, np.int64)
    arrays["signature_zones"] = np.array([s.zone_id for s in data.signatures])
    for s in data.signatures:
        arrays[f"signature_{s.zone_id}_pipes"] = np.array(s.pipe_ids)
        arrays[f"signature_{s.zone_id}_channels"] = np.array(s.channel_ids, np.int32)
        arrays[f"signature_{s.zone_id}_falls"] = s.fall_kpa_per_m3ph
    np.savez_compressed(path, **arrays)


def load(path: Path) -> Dataset:
    """Read a dataset that `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        readings = ReadingBatch(**{name: file[name] for name in ReadingBatch.__slots__})
        signatures = tuple(
            LeakSignatures(
                str(z),
                tuple(str(p) for p in file[f"signature_{z}_pipes"]),
                tuple(int(c) for c in file[f"signature_{z}_channels"]),
                file[f"signature_{z}_falls"],
            )
            for z in file["signature_zones"]
        )
        return Dataset(
            msgspec.json.decode(file["registry_json"].tobytes(), type=Registry),
            readings,
            signatures,
            msgspec.json.decode(file["story_json"].tobytes(), type=Story),
            int(file["live_us"]),
            tuple(msgspec.json.decode(file["truth_json"].tobytes())),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m simulators.export", description="record a simulated town to an .npz file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--network", default="ky4")
    parser.add_argument("--days", type=float, default=16.0, help="days in all")
    parser.add_argument("--history-days", type=float, default=14.0, help="days before the live part begins")
    parser.add_argument("--story", choices=sorted(STORIES), default="burst")
    parser.add_argument("--start", type=datetime.fromisoformat, default=DEFAULT_START_AT, help="first instant, ISO 8601 with zone")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    town = build_town(args.seed, args.network, start_at=args.start)
    data = record(town, args.days, args.story, args.history_days)
    save(data, args.out)
    print(f"{args.out}: {len(data.readings)} readings of {len(data.registry.channels)} channels")
    for event in data.story.events:
        print(f"{event.action}: {event.asset_id} size {event.size} at {event.at_us} us")


if __name__ == "__main__":
    main()
