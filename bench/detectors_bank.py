"""What the detectors cost: microseconds a reading by shape of batch, size of state, resident memory, time to build and to restore.

    python bench/detectors_bank.py --zones 100 --channels 50 --days 12
    python bench/detectors_bank.py --zones 2000 --channels 50 --days 0 --fill

Times are CPU times of this process, so that a busy machine matters less. Every zone has one inlet meter and pressures, each with a reading every
5 min; values wander by day, as a zone does. ``--fill`` marks every slot of every profile as learned, which gives the memory of a bank that has run
for weeks without feeding weeks. Batches are in event order, as ingest gives them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detectors.bank import Bank
from detectors.water.zone_inflow import ZoneInflow
from underway.model import DAY_US, EPOCH_AT, Channel, Device, Quantity, ReadingBatch, Registry, Site, Zone, ZoneKind

STEP_US = 300_000_000
START_US = 1_767_225_600_000_000


def make_registry(zones: int, channels: int) -> Registry:
    """Return a registry of zones with one flow meter and pressures."""
    devices, found = [], []
    for z in range(zones):
        for k in range(channels):
            device = f"d{z}-{k}"
            devices.append(Device(device, "town", f"z{z}", None, "meter", "native", EPOCH_AT))
            quantity, role, unit = (Quantity.PRESSURE, "zone_pressure", "kPa") if k else (Quantity.FLOW, "zone_inflow", "m3/h")
            number = len(found) + 1
            found.append(Channel(number, device, quantity.value, quantity, unit, None, f"z{z}", role, -1e6, 1e6, 300.0, 0.1))
    named = tuple(Zone(f"z{z}", "town", f"Zone {z}", ZoneKind.DMA) for z in range(zones))
    return Registry(Site("town", "Town", "UTC", 0.0, 0.0), named, (), tuple(devices), tuple(found))


class Feed:
    """Readings of all channels, grid time after grid time."""

    def __init__(self, count: int, seed: int) -> None:
        self.ids = np.arange(1, count + 1, dtype=np.int32)
        self.jitter = np.random.default_rng(seed).integers(0, STEP_US // 3, count)
        self.rng = np.random.default_rng(seed + 1)
        self.step = 0

    def frames(self, count: int) -> ReadingBatch:
        """Return the next `count` grid times in event order."""
        n = len(self.ids)
        steps = np.arange(self.step, self.step + count)
        self.step += count
        at = (START_US + steps[:, None] * STEP_US + self.jitter).ravel()
        value = 100 + 20 * np.sin(2 * np.pi * np.repeat(steps, n) / 288) + self.rng.normal(0, 2, count * n)
        zero = np.zeros(count * n, np.uint8)
        return ReadingBatch(np.tile(self.ids, count), at, at + 2_000_000, np.round(value, 1), zero, zero, zero).in_event_order()


def resident_mb() -> float:
    """Return the resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def fill(bank: Bank) -> None:
    """Touch every slot of every profile."""
    fleets = {id(d.fleet): d.fleet for d in bank.detectors.values() if isinstance(d, ZoneInflow)}
    for fleet in fleets.values():
        fleet.profile.mean[:] = 100.0
        fleet.profile.count[:] = 16
        fleet.profile.square[:] = 4.0
        fleet.profile.squares[:] = 100


def pieces(batch: ReadingBatch, size: int) -> Iterator[ReadingBatch]:
    """Return the batch in pieces of `size` rows."""
    for start in range(0, len(batch), size):
        yield batch.take(slice(start, start + size))


def timed(bank: Bank, feed: Feed, size: int, readings: int, parts: tuple[str, ...] | None = None) -> float:
    """Return microseconds a reading for batches of `size` rows, over at least `readings` rows."""
    done, spent = 0, 0.0
    while done < readings:
        batch = feed.frames(max(1, -(-size // len(feed.ids))))
        done += len(batch)
        cut = list(pieces(batch, size))
        began = time.process_time()
        for piece in cut:
            bank.step(piece, parts)
        spent += time.process_time() - began
    return 1e6 * spent / done


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    empty_mb = resident_mb()
    registry = make_registry(args.zones, args.channels)
    registry_mb = resident_mb() - empty_mb
    began = time.process_time()
    bank = Bank(registry)
    build_s = time.process_time() - began
    count = args.zones * args.channels
    feed = Feed(count, args.seed)
    began, steps = time.process_time(), round(args.days * DAY_US / STEP_US)
    at_once = max(min(12, 20_000 // count), 1)
    for start in range(0, steps, at_once):
        for piece in pieces(feed.frames(min(at_once, steps - start)), 5000 if at_once == 1 else 20_000):
            bank.step(piece)
    train_us = 1e6 * (time.process_time() - began) / max(steps * count, 1)
    if args.fill:
        fill(bank)
    shapes = {f"batches of {size}": timed(bank, feed, size, args.readings) for size in args.sizes}
    batch = feed.frames(1)
    late = list(pieces(batch, 5000))
    began = time.process_time()
    for piece in late:
        bank.late(piece)
    late_us = 1e6 * (time.process_time() - began) / len(batch)
    gc.collect()
    bank_mb = resident_mb() - empty_mb - registry_mb
    part_s: list[float] = []
    sizes: list[int] = []
    states: dict[str, bytes] = {}
    for name in bank.parts():
        began = time.process_time()
        state = bank.part_state(name)
        part_s.append(time.process_time() - began)
        sizes.append(len(state))
        if args.restore:
            states[name] = state
    result: dict[str, Any] = {
        "zones": args.zones,
        "channels": count,
        "build_s": round(build_s, 2),
        "train_us_per_reading": round(train_us, 3),
        "us_per_reading": {k: round(v, 3) for k, v in shapes.items()},
        "late_us_per_reading": round(late_us, 3),
        "resident_mb": {"imports": round(empty_mb), "registry": round(registry_mb), "bank": round(bank_mb)},
        "parts": len(sizes),
        "state_mb": round(sum(sizes) / 1e6, 1),
        "part_mb_max": round(max(sizes, default=0) / 1e6, 2),
        "part_ms_max": round(1e3 * max(part_s, default=0.0), 1),
        "state_s": round(sum(part_s), 2),
    }
    if args.restore:
        del bank
        gc.collect()
        began = time.process_time()
        other = Bank(registry)
        for name in list(states):
            other.restore_part(name, states.pop(name))
        result["build_and_restore_s"] = round(time.process_time() - began, 2)
        result["lanes_kept"] = len(other.restored.kept)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zones", type=int, default=100, help="number of zones")
    parser.add_argument("--channels", type=int, default=50, help="channels a zone")
    parser.add_argument("--days", type=float, default=12.0, help="days that are learned first")
    parser.add_argument("--fill", action="store_true", help="mark every slot of every profile as learned")
    parser.add_argument("--restore", action="store_true", help="also build a second bank and restore all parts (needs the memory for it)")
    parser.add_argument("--readings", type=int, default=100_000, help="readings timed for each shape of batch")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 5000, 20000], help="batch sizes that are timed, in rows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    result = measure(parser.parse_args())
    if "--json" in sys.argv:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:24} {value}")


if __name__ == "__main__":
    main()
