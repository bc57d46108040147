"""Packs of 100 readings a message against a bare binary COPY of the rows that came of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from underway.app.bench.drain import Drained, Meter, join, let_settle
from underway.app.bench.figures import Bound, Figure, Gate, GateReason, Part, median, ratio
from underway.app.bench.native import flaw_of
from underway.app.bench.options import BenchOptions
from underway.app.bench.payloads import Messages, SparkplugFleet, senml_messages
from underway.app.bench.place import Place
from underway.app.bench.prepared import LEARN_ROUNDS, ROW_ROUNDS, Say, Trained, register, save_bank, train
from underway.app.bench.processes import CpuWatch, ingest_process
from underway.app.bench.town import CHANNELS_A_RTU, ROUND_US, Mix, Rounds, Town, build_town
from underway.app.bench.wire import Publisher, chunks, packets
from underway.model import DAY_US, to_us
from underway.store import measure
from underway.store.connect import connect

RATIO_MIN = 0.6
READINGS_PER_S_MIN = 100_000.0
DRAIN_S_MAX = 60.0
WINDOW_PACKS = 2_000


@dataclass(slots=True)
class PackTown:
    """A trained town of RTUs; each dialect registers it anew under the same ids, so that one training serves both."""

    trained: Trained
    now_at: datetime
    first_us: int
    zones: int
    rounds: int
    settings: dict[str, object]

    def town(self, dialect: str) -> Town:
        """Return the town as it speaks a dialect."""
        return build_town("bench", Mix.RTUS, self.zones, self.now_at, dialect=dialect, spread=False)


def build_packs(place: Place, options: BenchOptions, deadline_s: float, say: Say) -> PackTown:
    """Let detectors learn the history of the town."""
    now_at, zones = datetime.now(UTC), options.zones
    town = build_town("bench", Mix.RTUS, zones, now_at, spread=False)
    rounds = max(2, options.pack_readings // town.size)
    with connect(place.new_database("packs"), application_name="underway-bench") as conn:
        town = register(conn, town)
    last_us = to_us(now_at) // ROUND_US * ROUND_US - options.repetitions * (rounds + 1) * ROUND_US
    first_us = last_us - LEARN_ROUNDS * ROUND_US
    trained = train(town, first_us, ROW_ROUNDS, deadline_s, say)
    settings: dict[str, object] = {
        "channels": town.size,
        "zones": zones,
        "readings_a_message": CHANNELS_A_RTU,
        "learned_days": round(LEARN_ROUNDS * ROUND_US / DAY_US, 2),
        "learning_us_a_reading": round(trained.seconds * 1e6 / max(trained.readings, 1), 2),
    }
    return PackTown(trained, now_at, first_us, zones, rounds, settings)


def pack_senml(place: Place, options: BenchOptions, packs: PackTown, deadline_s: float, say: Say) -> Part:
    """Measure SenML JSON packs."""
    part = Part("pack-senml", "100 readings a SenML pack, QoS 1, against a bare COPY of the same rows")
    town = packs.town("senml")

    def backlog(first: int) -> tuple[Messages, Rounds]:
        rounds = town.rounds(packs.first_us, first, packs.rounds)
        return senml_messages(town, rounds), rounds

    return _measure(part, place, options, packs, town, backlog, packs.rounds, deadline_s, say)


def pack_sparkplug(place: Place, options: BenchOptions, packs: PackTown, deadline_s: float, say: Say) -> Part:
    """Measure Sparkplug DDATA with aliases; each backlog begins with the births."""
    part = Part("pack-sparkplug", "100 readings a Sparkplug DDATA with aliases, against a bare COPY of the same rows")
    part.notes.append("published at QoS 1, so that the broker keeps a backlog; edge nodes publish at QoS 0 (which costs ingest less)")
    town = packs.town("sparkplug")
    fleet = SparkplugFleet(town)

    def backlog(first: int) -> tuple[Messages, Rounds]:
        born, rounds = town.rounds(packs.first_us, first, 1), town.rounds(packs.first_us, first + 1, packs.rounds)
        return fleet.births(born) + fleet.data(rounds), join([born, rounds])

    return _measure(part, place, options, packs, town, backlog, packs.rounds + 1, deadline_s, say)


def _measure(
    part: Part,
    place: Place,
    options: BenchOptions,
    packs: PackTown,
    town: Town,
    backlog: Callable[[int], tuple[Messages, Rounds]],
    rounds_each: int,
    deadline_s: float,
    say: Say,
) -> Part:
    """Drain a backlog, copy the rows that came of it, and so on in turn."""
    url, copy_url = place.new_database(part.name), place.new_database(f"{part.name}-copy")
    drained: list[Drained] = []
    copied: list[float] = []
    payload_bytes = messages_each = 0
    with connect(url, application_name="underway-bench") as conn, connect(copy_url, application_name="underway-bench-copy") as copy_conn:
        town = register(conn, town)
        register(copy_conn, town)
        save_bank(conn, town.registry.site.site_id, packs.trained.bank)
        with ingest_process(url, place.broker, place.folder, profile=place.profile) as ingest:
            let_settle(ingest)
            watch = CpuWatch({"ingest": ingest.pid, "broker": place.broker.pid, "database": place.postmaster})
            meter = Meter(ingest, watch, town.channel_ids)
            for repetition in range(options.repetitions):
                began_s = time.perf_counter()
                messages, published = backlog(packs.trained.rounds + repetition * rounds_each)
                payload_bytes = round(sum(len(payload) for _, payload in messages) / len(messages))
                messages_each = len(messages)
                name = f"{part.name} {repetition + 1}/{options.repetitions}"
                say(f"{name}: filling a backlog of {len(messages):,} messages, {len(published):,} readings")
                ingest.freeze(place.broker)
                with Publisher(place.broker.port, "bench-publisher") as publisher:
                    publisher.publish(chunks(packets(messages)), WINDOW_PACKS)
                say(f"{name}: ingest drains")
                before_id = meter.batch_id
                drained.append(meter.drain(len(messages), published, DRAIN_S_MAX))
                if not drained[-1].complete:
                    break
                say(f"{name}: the same rows by COPY")
                copied.append(bare_copy(conn, copy_conn, before_id))
                let_settle(ingest)
                if time.perf_counter() + (time.perf_counter() - began_s) > deadline_s:
                    break
            meter.note(part, drained)
    rates = [one.rate_per_s for one in drained if one.rate_per_s is not None]
    if len(rates) < options.repetitions:
        part.notes.append(f"{len(rates)} of {options.repetitions} repetitions: the time did not suffice for more")
    part.figures = [
        Figure("bare COPY", "readings/s", tuple(copied)),
        Figure("ingest, whole path", "readings/s", tuple(rates)),
        Figure("ratio", "", tuple(b / a for a, b in zip(copied, rates, strict=False))),
    ]
    flaw = flaw_of(drained, None if packs.trained.complete else GateReason.CUT_SHORT)
    part.gates = [
        Gate("ingest / bare COPY", ratio(median(rates), median(copied)), Bound.AT_LEAST, RATIO_MIN, flaw=flaw),
        Gate("ingest", median(rates), Bound.AT_LEAST, READINGS_PER_S_MIN, "readings/s", flaw=flaw),
    ]
    part.settings = {**packs.settings, "messages": messages_each, "payload_bytes": payload_bytes}
    return part


def bare_copy(source: psycopg.Connection, target: psycopg.Connection, after_batch_id: int) -> float:
    """Return rows a second of a COPY that does nothing else: the rows of later batches, one transaction a batch, as bytes made beforehand."""
    streams = list(measure.copy_streams(source, after_batch_id))
    rows, began_s = 0, time.perf_counter()
    for stream in streams:
        with target.transaction():
            rows += measure.copy_in(target, stream)
    return rows / (time.perf_counter() - began_s)
