"""A hundred thousand channels: how long ingest takes to be there, and how much memory it keeps."""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime

from underway.app.bench.drain import Drained, Meter, let_settle
from underway.app.bench.figures import Bound, Figure, Gate, GateReason, Part
from underway.app.bench.options import BenchOptions
from underway.app.bench.payloads import native_messages
from underway.app.bench.place import Place
from underway.app.bench.prepared import LEARN_ROUNDS, Say, register, save_bank, train
from underway.app.bench.processes import CpuWatch, ingest_process, memory_bytes
from underway.app.bench.town import ROUND_US, Mix, build_town
from underway.app.bench.wire import Publisher, chunks, packets
from underway.model import DAY_US, to_us
from underway.store.connect import connect

RESIDENT_MB_MAX = 600.0
READY_S_MAX = 10.0
FULL_ZONES = 2_000
ROW_ROUNDS_LARGE = 12
"""An hour: what flat-line and no-data keep has the same size from the first reading on."""
DRAIN_ROUNDS = 2
DRAIN_S_MAX = 120.0
MB = 2**20


def memory(place: Place, options: BenchOptions, deadline_s: float, say: Say, mix: Mix = Mix.LOGGERS) -> Part:
    """Prepare a large town with full detector state, start ingest from its checkpoint, let it take rounds of readings, and look."""
    zones, now_at = options.memory_zones, datetime.now(UTC)
    part = Part("memory", f"{zones * 50:,} channels in {zones:,} zones ({_WORDS[mix]})")
    town = build_town("large", mix, zones, now_at)
    say(f"memory: registering {town.size:,} channels")
    url = place.new_database(f"memory-{mix.value}")
    began_s = time.perf_counter()
    with connect(url, application_name="underway-bench") as conn:
        town = register(conn, town)
        registered_s = time.perf_counter() - began_s
        # history ends a few rounds before now
        first_us = to_us(now_at) // ROUND_US * ROUND_US - (LEARN_ROUNDS + DRAIN_ROUNDS + 1) * ROUND_US
        trained = train(town, first_us, ROW_ROUNDS_LARGE, deadline_s, say)
        say("memory: storing the checkpoint")
        began_s = time.perf_counter()
        state_bytes = save_bank(conn, town.registry.site.site_id, trained.bank)
        saved_s = time.perf_counter() - began_s
    complete, learned_s = trained.complete, trained.seconds
    del trained
    gc.collect()
    say("memory: starting ingest from the checkpoint")
    drained: list[Drained] = []
    with ingest_process(url, place.broker, place.folder, profile=place.profile) as ingest:
        let_settle(ingest)
        at_start = memory_bytes(ingest.pid)
        meter = Meter(ingest, CpuWatch({"ingest": ingest.pid}), town.channel_ids)
        for number in range(DRAIN_ROUNDS):
            published = town.rounds(first_us, LEARN_ROUNDS + number, 1)
            messages = native_messages(town, published)
            say(f"memory: round {number + 1} of {DRAIN_ROUNDS}, {len(messages):,} messages")
            ingest.freeze(place.broker)
            with Publisher(place.broker.port, "bench-publisher") as publisher:
                publisher.publish(chunks(packets(messages)))
            del messages
            drained.append(meter.drain(len(published), published, DRAIN_S_MAX))
            let_settle(ingest)
            if not drained[-1].complete or time.perf_counter() > deadline_s:
                break
        at_end = memory_bytes(ingest.pid)
        ready_s, ready_cpu_s = ingest.ready_s, ingest.ready_cpu_s
        meter.note(part, drained)
    part.figures = [
        Figure("from exec to running", "s", (ready_s,), note=f"{ready_cpu_s:.1f} s of CPU time"),
        Figure("resident after start", "MB", tuple(at_start[k] / MB for k in ("VmRSS",) if k in at_start)),
        Figure(f"resident after {len(drained)} rounds", "MB", tuple(at_end[k] / MB for k in ("VmRSS",) if k in at_end)),
        Figure("most ever resident", "MB", tuple(at_end[k] / MB for k in ("VmHWM",) if k in at_end)),
        Figure("checkpoint", "MB", (state_bytes / MB,), note=f"stored in {saved_s:.1f} s"),
        Figure("drained", "messages/s", tuple(one.rate_per_s for one in drained if one.rate_per_s is not None)),
    ]
    flaw = GateReason.NOT_FULL_SIZE if zones < FULL_ZONES else None if complete else GateReason.CUT_SHORT
    if any(one.differing or not one.complete for one in drained):
        flaw = GateReason.ROWS_DIFFER
    peak_mb = at_end["VmHWM"] / MB if "VmHWM" in at_end else None
    part.gates = [
        Gate("resident memory, its peak", peak_mb, Bound.AT_MOST, RESIDENT_MB_MAX, "MB", flaw=flaw),
        Gate("from exec to running", ready_s, Bound.AT_MOST, READY_S_MAX, "s", flaw=flaw),
    ]
    if len(drained) < DRAIN_ROUNDS:
        part.notes.append(f"{len(drained)} of {DRAIN_ROUNDS} rounds: the time did not suffice for more")
    part.settings = {
        "channels": town.size,
        "zones": zones,
        "devices": len(town.registry.devices),
        "mix": mix.value,
        "learned_days": round(LEARN_ROUNDS * ROUND_US / DAY_US, 2),
        "learned_in_s": round(learned_s, 1),
        "registered_s": round(registered_s, 1),
    }
    return part


_WORDS = {
    Mix.LOGGERS: "1 inflow meter and 49 pressure loggers a zone, each a device: the most for detectors",
    Mix.REALISTIC: "1 inflow meter, 15 pressure loggers and a tank a zone, with battery and signal",
    Mix.RTUS: "RTUs of 100 channels",
}
