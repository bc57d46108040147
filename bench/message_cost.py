"""What a native message with one reading costs before it is judged and stored: to decode and to resolve, with and without a tuned garbage collector.

``python bench/message_cost.py [--batches N] [--root FOLDER]``; microseconds of CPU time a message, the mean of all batches. FOLDER is another version
of the repository, for example a ``git worktree``, so that both can be run in turn.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

DEVICES = 2_000
BATCH = 5_000
AT = datetime(2026, 1, 1, tzinfo=UTC)
NOW_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def measure(batches: int, tuned: bool) -> tuple[float, float]:
    """Return microseconds a message to decode and to resolve."""
    from ingest.mqtt_types import Message
    from ingest.resolve import Resolver
    from ingest.sparkplug_host import SparkplugHost
    from underway.app.intake import Intake
    from underway.model import Channel, Device, Quantity, Registry, Site, to_us

    numbers = range(DEVICES)
    devices = tuple(Device(f"pr-{n}", "town", None, None, "m", "native", AT) for n in numbers)
    channels = tuple(
        Channel(n + 1, f"pr-{n}", "pressure", Quantity.PRESSURE, "kPa", None, None, "zone_pressure", 0.0, 1000.0, 300.0) for n in numbers
    )
    resolver = Resolver(Registry(Site("town", "Town", "UTC", 0.0, 0.0), (), (), devices, channels))
    intake = Intake(SparkplugHost("underway"))
    now_us, threshold = to_us(NOW_AT), gc.get_threshold()
    if tuned:  # as the service does it
        gc.set_threshold(50_000, 20, 50)
        gc.collect()
        gc.freeze()
    decoding_s = resolving_s = 0.0
    for batch in range(batches):
        messages = [
            Message(
                f"uw/town/pr-{n * 7 % DEVICES}/telemetry",
                b'{"at":"2026-03-01T11:%02d:00Z","values":{"pressure":%d.5},"units":{"pressure":"kPa"}}'
                % ((batch * 3 + n // DEVICES) % 60, 300 + n % 50),
                now_us,
                (1, n + 1),
            )
            for n in range(BATCH)
        ]
        begin_s = time.thread_time()
        items = intake.take(messages)
        decoded_s = time.thread_time()
        resolved = resolver.resolve(items)
        resolving_s += time.thread_time() - decoded_s
        decoding_s += decoded_s - begin_s
        if resolved.faults:
            raise SystemExit(f"every message must be taken, got {resolved.faults[0]}")
    gc.unfreeze()
    gc.set_threshold(*threshold)
    return decoding_s / batches / BATCH * 1e6, resolving_s / batches / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    given = parser.parse_args()
    sys.path.insert(0, str(given.root.resolve()))
    for name, tuned in (("as Python does it", False), ("frozen, seldom", True)):
        decoding_us, resolving_us = measure(given.batches, tuned)
        print(f"garbage collection {name:18}: decode {decoding_us:5.2f}, resolve {resolving_us:5.2f} us a message")


if __name__ == "__main__":
    main()
