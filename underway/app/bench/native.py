"""The town whose loggers send one reading a message: trained once, then driven forward in event time by one part after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from underway.app.bench.drain import Drained, Meter, let_settle
from underway.app.bench.figures import Bound, Figure, Gate, GateReason, Part, median, ratio
from underway.app.bench.options import BenchOptions
from underway.app.bench.payloads import native_messages
from underway.app.bench.place import Place
from underway.app.bench.prepared import LEARN_ROUNDS, ROW_ROUNDS, Say, Trained, register, save_bank, train
from underway.app.bench.processes import CpuWatch, NullSubscriber, ingest_process
from underway.app.bench.town import ROUND_US, Mix, Rounds, Town, build_town
from underway.app.bench.wire import Publisher, chunks, packets
from underway.model import DAY_US, to_us
from underway.store.connect import connect

TOPIC_FILTER = "uw/+/+/telemetry"
RATIO_MIN = 0.8
DRAIN_S_MAX = 90.0
LIVE_SHARE = 2
"""A live stream has one in so many messages of a backlog."""
LIVE_LEVEL = "nl"
"""First level of the topics for the null subscriber; as long as ours."""


@dataclass(slots=True)
class NativeTown:
    """The town in its database, with a cursor in event time.

    Attributes
    ----------
    sustained_per_s : float or None
        At what rate it follows a live stream, as far as that was measured.
    """

    place: Place
    options: BenchOptions
    url: str
    town: Town
    trained: Trained
    first_us: int
    round: int
    state_bytes: int
    sustained_per_s: float | None = None
    settings: dict[str, object] = field(default_factory=dict)

    def next_rounds(self, count: int) -> Rounds:
        """Return the next `count` rounds of the town."""
        rounds = self.town.rounds(self.first_us, self.round, count)
        self.round += count
        return rounds

    def rounds_until_now(self) -> int:
        """Return how many rounds there are before the present: a later reading would come from the future."""
        return (to_us(datetime.now(UTC)) - self.first_us) // ROUND_US - self.round

    def watch(self, ingest_pid: int) -> CpuWatch:
        """Return the processes whose CPU time belongs to a measurement."""
        return CpuWatch({"ingest": ingest_pid, "broker": self.place.broker.pid, "database": self.place.postmaster})

    @property
    def flaw(self) -> GateReason | None:
        """Return why no figure of this town counts, if that is so."""
        return GateReason.CUT_SHORT if not self.trained.complete else None


def build_native(place: Place, options: BenchOptions, deadline_s: float, say: Say) -> NativeTown:
    """Register the town, let detectors learn its history, and store their state as a checkpoint."""
    now_at = datetime.now(UTC)
    url = place.new_database("native")
    zones = options.zones
    town = build_town("bench", Mix.LOGGERS, zones, now_at, marked=options.marked)
    with connect(url, application_name="underway-bench") as conn:
        town = register(conn, town)
        last_us = to_us(now_at) // ROUND_US * ROUND_US - options.native_rounds(town.size) * ROUND_US
        first_us = last_us - LEARN_ROUNDS * ROUND_US
        trained = train(town, first_us, ROW_ROUNDS, deadline_s, say)
        state_bytes = save_bank(conn, town.registry.site.site_id, trained.bank)
    settings: dict[str, object] = {
        "channels": town.size,
        "zones": zones,
        "learned_days": round(LEARN_ROUNDS * ROUND_US / DAY_US, 2),
        "learned_readings": trained.readings,
        "learning_us_a_reading": round(trained.seconds * 1e6 / max(trained.readings, 1), 2),
        "checkpoint_bytes": state_bytes,
    }
    return NativeTown(place, options, url, town, trained, first_us, trained.rounds, state_bytes, settings=settings)


@contextlib.contextmanager
def native_meter(native: NativeTown, more: Mapping[str, str] | None = None) -> Iterator[Meter]:
    """Run ingest on the town and yield what measures it."""
    place = native.place
    with ingest_process(native.url, place.broker, place.folder, more=more, profile=place.profile) as ingest:
        let_settle(ingest)
        yield Meter(ingest, native.watch(ingest.pid), native.town.channel_ids)


def one_reading(native: NativeTown, deadline_s: float, say: Say) -> Part:
    """Compare ingest with a null subscriber: both drain the same backlog of one-reading messages at QoS 1, and follow a live stream of them.

    Both ratios are gates. The backlog's is the harder one: nobody publishes meanwhile, so that the null subscriber has the broker and both cores to
    itself; the live stream's is of a rate at which messages can come.
    """
    part = Part("one-reading", "one reading a message, QoS 1, whole path, against a subscriber that does nothing")
    place, options = native.place, native.options
    rounds = max(2, options.one_reading_messages(place.broker.kind) // native.town.size)
    null = NullSubscriber(place.broker, TOPIC_FILTER)
    null_rates: list[float] = []
    drained: list[Drained] = []
    null_cpu: list[float] = []
    live: list[tuple[float | None, Drained]] = []
    payload_bytes = 0
    try:
        with native_meter(native) as meter:
            for repetition in range(options.repetitions):
                began_s = time.perf_counter()
                published = native.next_rounds(rounds)
                messages = native_messages(native.town, published)
                payload_bytes = round(sum(len(payload) for _, payload in messages) / len(messages))
                say(f"one-reading {repetition + 1}/{options.repetitions}: filling a backlog of {len(messages):,} messages")
                null.subscribe()
                meter.ingest.freeze(place.broker)
                with Publisher(place.broker.port, "bench-publisher") as publisher:
                    publisher.publish(chunks(packets(messages)))
                for who in ("null", "ingest") if repetition % 2 == 0 else ("ingest", "null"):
                    say(
                        f"one-reading {repetition + 1}/{options.repetitions}: {'the null subscriber' if who == 'null' else 'ingest'} drains"
                    )
                    if who == "null":
                        wall_s, cpu_s = null.drain(len(messages), DRAIN_S_MAX)
                        if wall_s is not None:
                            null_rates.append(len(messages) / wall_s)
                            null_cpu.append(cpu_s * 1e6 / len(messages))
                    else:
                        drained.append(meter.drain(len(messages), published, DRAIN_S_MAX))
                let_settle(meter.ingest)
                if drained[-1].complete:
                    say(f"one-reading {repetition + 1}/{options.repetitions}: both follow a live stream")
                    live.append(follow_live(native, meter, max(2, rounds // LIVE_SHARE), null_first=repetition % 2 == 0))
                    let_settle(meter.ingest)
                if not drained[-1].complete or time.perf_counter() + (time.perf_counter() - began_s) > deadline_s:
                    break
            meter.note(part, [*drained, *(one for _, one in live)])
    finally:
        null.forget()
    rates = [one.rate_per_s for one in drained if one.rate_per_s is not None]
    if len(drained) < options.repetitions:
        part.notes.append(f"{len(drained)} of {options.repetitions} repetitions: the time did not suffice for more")
    if len(rates) < len(drained) or len(null_rates) < len(drained):
        part.notes.append("a backlog was not drained in time, or in fewer than two batches: it has no rate")
    part.figures = [
        Figure(f"{null.kind}, backlog", "messages/s", tuple(null_rates)),
        Figure("ingest, whole path, backlog", "messages/s", tuple(rates)),
        Figure("ratio, backlog", "", tuple(b / a for a, b in zip(null_rates, rates, strict=False))),
    ]
    pairs = [(null_rate, one.rate_per_s) for null_rate, one in live if null_rate is not None and one.rate_per_s is not None]
    native.sustained_per_s = median([b for _, b in pairs])
    part.figures += [
        Figure(f"{null.kind}, live", "messages/s", tuple(a for a, _ in pairs)),
        Figure("ingest, whole path, live", "messages/s", tuple(b for _, b in pairs)),
        Figure("ratio, live", "", tuple(b / a for a, b in pairs)),
    ]
    if null_cpu:
        part.cpu_us.setdefault("process", {})["null subscriber"] = median(null_cpu) or 0.0
    flaw = flaw_of([*drained, *(one for _, one in live)], native.flaw)
    if len(pairs) < len(drained):
        part.notes.append(f"{len(drained) - len(pairs)} live streams were not followed to their end")
        flaw = flaw or GateReason.NOT_MEASURED
    followed = ratio(median([b for _, b in pairs]), median([a for a, _ in pairs]))
    emptied = ratio(median(rates), median(null_rates))
    part.gates = [
        Gate("ingest / null subscriber, live", followed, Bound.AT_LEAST, RATIO_MIN, flaw=flaw),
        Gate("ingest / null subscriber, backlog", emptied, Bound.AT_LEAST, RATIO_MIN, flaw=flaw),
    ]
    part.settings = {**native.settings, "messages": rounds * native.town.size, "payload_bytes": payload_bytes}
    if place.broker.kind == "amqtt":
        part.notes.append("mosquitto is not installed: the broker is amqtt, and the figures are the broker's")
    return part


def follow_live(native: NativeTown, meter: Meter, rounds: int, *, null_first: bool) -> tuple[float | None, Drained]:
    """Return the rate of a null subscriber, and what ingest did, while as many messages as the broker takes are published at QoS 1.

    One after the other, each on topics of its own, so that the broker serves one subscriber at a time. The clock of both starts before the first
    message is published.
    """
    published = native.next_rounds(rounds)
    messages = native_messages(native.town, published)
    null = NullSubscriber(native.place.broker, f"{LIVE_LEVEL}/+/+/telemetry")
    elsewhere = chunks(packets((LIVE_LEVEL.encode() + topic[len(LIVE_LEVEL) :], payload) for topic, payload in messages))

    def follow_null() -> float | None:
        null.subscribe()
        wall_s = null.follow(len(messages), lambda: publisher.publish(elsewhere), DRAIN_S_MAX)
        null.forget()
        return None if wall_s is None else len(messages) / wall_s

    with Publisher(native.place.broker.port, "bench-publisher") as publisher:
        null_rate = follow_null() if null_first else None
        followed = _follow(meter, publisher, published, messages)
        return null_rate if null_first else follow_null(), followed


def _follow(meter: Meter, publisher: Publisher, published: Rounds, messages: Sequence[tuple[bytes, bytes]]) -> Drained:
    """Return what ingest did while these were published."""
    pieces = chunks(packets(messages))
    before, begun_at = meter.watch.look(), datetime.now(UTC)
    publisher.publish(pieces)
    complete = meter.await_stored(len(messages), DRAIN_S_MAX)
    cpu = {name: s - before.get(name, 0.0) for name, s in meter.watch.look().items()}
    return meter.result(published, cpu, complete=complete, begun_at=begun_at)


def flaw_of(drained: list[Drained], flaw: GateReason | None) -> GateReason | None:
    """Return why the figures of these repetitions do not count, if that is so."""
    if not drained:
        return GateReason.NOT_MEASURED
    if any(one.differing for one in drained):
        return GateReason.ROWS_DIFFER
    return flaw


def measure_sustained(native: NativeTown, say: Say) -> float | None:
    """Return the rate at which ingest follows a live stream: for the part that needs it, when `one_reading` did not run."""
    say("measuring the sustained rate")
    rounds = max(2, native.options.one_reading_messages(native.place.broker.kind) // native.town.size)
    published = native.next_rounds(rounds)
    messages = native_messages(native.town, published)
    with native_meter(native) as meter, Publisher(native.place.broker.port, "bench-publisher") as publisher:
        native.sustained_per_s = _follow(meter, publisher, published, messages).rate_per_s
    return native.sustained_per_s
