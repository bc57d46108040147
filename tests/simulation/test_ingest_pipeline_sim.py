"""Seeded worlds: a broker that delivers again and out of order, a store that loses commits, a process that dies anywhere. Both sides are counted."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import numpy as np
import pytest

from ingest.batcher import BatchLimits
from ingest.mqtt_types import Message, Publication
from underway.app.ingest_store import AddressBook, BatchFacts
from underway.app.pipeline import Pipeline
from underway.app.pipeline_settings import PipelineSettings, PipelineState
from underway.model import (
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    Channel,
    Device,
    Evidence,
    ExpectationBatch,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    InternalError,
    LeakSignatures,
    Operation,
    OperationKind,
    Quantity,
    ReadingBatch,
    Registry,
    Signal,
    Site,
    StoreUnavailable,
    finding_id,
    from_us,
    to_us,
)
from underway.store.memory import LateWindow, MemoryRow
from underway.store.quarantine import QuarantineEntry
from underway.store.telemetry import Checkpoint, ReplayStep

START_AT = datetime(2026, 3, 1, tzinfo=UTC)
UNDATED_CHANNEL = 99
SITE = Site("town", "Town", "UTC", 0.0, 0.0)


def registry_of(count: int) -> Registry:
    devices = tuple(Device(f"pr-{i}", "town", None, None, "m", "native", START_AT - timedelta(days=60)) for i in range(count))
    channels = tuple(
        Channel(i + 1, f"pr-{i}", "pressure", Quantity.PRESSURE, "kPa", None, None, "zone_pressure", 0.0, 1000.0, 300.0)
        for i in range(count)
    )
    # a level sensor that has no clock: its messages carry no instant
    tank = Device("tank-3", "town", None, None, "m", "senml", START_AT - timedelta(days=60), address="north/tank-3")
    level = Channel(UNDATED_CHANNEL, "tank-3", "level", Quantity.LEVEL, "m", None, None, "tank_level", 0.0, 10_000.0, 300.0)
    return Registry(SITE, (), (), (*devices, tank), (*channels, level))


class Crash(BaseException):
    """The process is gone: nothing of ours may catch it."""


@dataclass
class Faults:
    """Raises at named points with a probability, from one seed; the record is the whole story."""

    rng: np.random.Generator
    probability: float
    quiet: bool = False
    record: list[str] = field(default_factory=list)

    def at(self, point: str) -> None:
        if self.quiet or self.rng.random() >= self.probability:
            return
        kind = "crash" if self.rng.random() < 0.5 else "away"
        self.record.append(f"{point}:{kind}")
        if kind == "crash":
            raise Crash(point)
        raise StoreUnavailable(f"cannot {point} now")


@dataclass
class World:
    """Time moves only when somebody waits."""

    now_us: int = to_us(START_AT)
    wall_s: float = 0.0

    def now_at(self) -> datetime:
        return from_us(self.now_us)

    def monotonic_s(self) -> float:
        self.wall_s += 1e-4
        return self.wall_s

    def wait(self, seconds: float) -> None:
        self.wall_s += seconds


class Broker:
    """QoS 1 with a persistent session: what is not acknowledged comes again after a reconnect, some of it out of order, some of it twice."""

    def __init__(self, world: World, rng: np.random.Generator, in_flight_max: int) -> None:
        self.world, self.rng, self.in_flight_max = world, rng, in_flight_max
        self.waiting: list[tuple[str, bytes, int]] = []
        self.in_flight: dict[int, tuple[str, bytes]] = {}
        self.mid = 0
        self.delivered = self.acknowledged = 0

    def publish(self, topic: str, payload: bytes) -> None:
        self.waiting.append((topic, payload, 0))

    def connect(self) -> BrokerSession:
        self.waiting = [(topic, payload, mid) for mid, (topic, payload) in self.in_flight.items()] + self.waiting
        self.in_flight.clear()
        return BrokerSession(self)

    @property
    def drained(self) -> bool:
        return not self.waiting and not self.in_flight


class BrokerSession:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def poll(self, count_max: int, wait_s: float) -> list[Message]:
        broker = self.broker
        room = min(count_max, broker.in_flight_max - len(broker.in_flight), 1 + int(broker.rng.integers(0, 6)))
        if room <= 0 or not broker.waiting:
            broker.world.wait(wait_s)
            return []
        taken = []
        for _ in range(min(room, len(broker.waiting))):
            place = int(broker.rng.integers(0, min(4, len(broker.waiting))))
            topic, payload, again = broker.waiting.pop(place)
            broker.mid += not again
            mid = again or broker.mid
            broker.in_flight[mid] = (topic, payload)
            taken.append(Message(topic, payload, broker.world.now_us, (1, mid), len(payload), 1, False, bool(again), mid))
            broker.delivered += 1
            if broker.rng.random() < 0.05 and topic.startswith("uw/"):
                broker.waiting.append((topic, payload, 0))
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        for message in messages:
            del self.broker.in_flight[message.token[1]]
            self.broker.acknowledged += 1

    def publish(self, publications: Sequence[Publication]) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {"queued": 0, "subscribed": True, "state": "connected"}

    def close(self, farewell: Sequence[Publication] = ()) -> None:
        pass


@dataclass
class Tables:
    """Everything that is committed."""

    next_batch: int = 1
    readings: dict[tuple[int, int], tuple[int, ReadingBatch]] = field(default_factory=dict)
    findings: dict[Any, Finding] = field(default_factory=dict)
    expectations: int = 0
    quarantine: list[QuarantineEntry] = field(default_factory=list)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    holds: list[list[Any]] = field(default_factory=list)
    operations: list[list[Any]] = field(default_factory=list)
    memory: dict[tuple[str, str], MemoryRow] = field(default_factory=dict)
    late: list[LateWindow] = field(default_factory=list)

    def copy(self) -> Tables:
        return Tables(
            self.next_batch,
            dict(self.readings),
            dict(self.findings),
            self.expectations,
            list(self.quarantine),
            dict(self.checkpoints),
            [list(h) for h in self.holds],
            [list(o) for o in self.operations],
            dict(self.memory),
            list(self.late),
        )


class ModelStore:
    """A store in memory with the transactional meaning of the real one, and faults."""

    def __init__(self, registry: Registry, faults: Faults) -> None:
        self.tables, self.faults, self.registry = Tables(), faults, registry
        self.read: Registry | None = None
        self.refuses: bytes | None = None
        self.said: dict[str, Any] = {}

    def open(self) -> None:
        self.faults.at("open")

    def close(self) -> None:
        pass

    def address_book(self) -> AddressBook | None:
        self.read = self.registry
        return AddressBook(self.registry)

    def memory(self) -> Sequence[MemoryRow]:
        return list(self.tables.memory.values())

    def registry_changed(self, *, ask: bool = False) -> bool:
        return self.registry is not self.read

    def checkpoints(self, partition: str) -> Iterator[Checkpoint]:
        self.faults.at("read the checkpoint")
        yield from self.tables.checkpoints.values()

    def forget_checkpoints(self, partition: str, keep: Sequence[str]) -> None:
        self.tables.checkpoints = {part: saved for part, saved in self.tables.checkpoints.items() if part in keep}

    def replay_after(self, batch_id: int) -> Iterator[ReplayStep]:
        batches: dict[int, list[ReadingBatch]] = {}
        for number, row in self.tables.readings.values():
            batches.setdefault(number, []).append(row)
        told: dict[int, list[Hold]] = {}
        for hold, number in self.tables.holds:
            if number is not None:
                told.setdefault(number, []).append(hold)
        known: dict[int, list[Operation]] = {}
        for operation, number in self.tables.operations:
            if number is not None:
                known.setdefault(number, []).append(operation)
        for number in sorted({*batches, *told, *known}):
            if number > batch_id:
                self.faults.at("replay")
                readings = ReadingBatch.concat(batches.get(number, [])).in_event_order()
                yield ReplayStep(number, tuple(told.get(number, ())), readings, tuple(known.get(number, ())))

    @contextmanager
    def transaction(self) -> Iterator[ModelWriter]:
        self.faults.at("begin")
        work = self.tables.copy()
        yield ModelWriter(work, self)
        self.faults.at("commit")
        work.next_batch = max(work.next_batch, self.tables.next_batch)
        self.tables = work
        self.faults.at("hear of the commit")

    def write_status(self, facts: Mapping[str, Any]) -> None:
        self.said = dict(facts)


@dataclass
class ModelWriter:
    tables: Tables
    store: ModelStore

    def next_batch_id(self) -> int:
        self.store.tables.next_batch += 1
        return self.store.tables.next_batch

    def pending_holds(self, site_id: str) -> Sequence[Hold]:
        return [hold for hold, number in self.tables.holds if number is None]

    def mark_holds(self, holds: Sequence[Hold], batch_id: int) -> None:
        for row in self.tables.holds:
            if row[1] is None and row[0] in holds:
                row[1] = batch_id

    def pending_operations(self, site_id: str) -> Sequence[Operation]:
        return [operation for operation, number in self.tables.operations if number is None]

    def mark_operations(self, told: Sequence[Operation], batch_id: int) -> None:
        for row in self.tables.operations:
            if row[1] is None and row[0] in told:
                row[1] = batch_id

    def begin_append(self, batch: ReadingBatch, batch_id: int, recorded_at: datetime) -> Callable[[], Mask]:
        return lambda: self.append(batch, batch_id)

    def append(self, batch: ReadingBatch, batch_id: int) -> Mask:
        self.store.faults.at("append")
        new = np.zeros(len(batch), bool)
        for i in range(len(batch)):
            key = int(batch.channel_id[i]), int(batch.observed_us[i])
            if key not in self.tables.readings:
                self.tables.readings[key] = batch_id, batch.take(slice(i, i + 1))
                new[i] = True
        return new

    def newest_observed_us(self, channel_ids: Any) -> Any:
        self.store.faults.at("ask for the newest")
        newest = {channel: np.iinfo(np.int64).min for channel in channel_ids.tolist()}
        for channel, at_us in self.tables.readings:
            newest[channel] = max(newest.get(channel, at_us), at_us)
        return np.array([newest[channel] for channel in channel_ids.tolist()], np.int64)

    def save_expectations(self, expectations: ExpectationBatch) -> None:
        self.tables.expectations += len(expectations)

    def save_findings(self, findings: Sequence[Finding], batch_id: int, recorded_at: datetime) -> Sequence[Finding]:
        self.store.faults.at("save findings")
        fresh = [f for f in findings if f.finding_id not in self.tables.findings]
        self.tables.findings.update({f.finding_id: f for f in fresh})
        return fresh

    def save_quarantine(self, entries: Sequence[QuarantineEntry], now_at: datetime) -> None:
        self.tables.quarantine.extend(entries)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.store.faults.at("save the checkpoint")
        self.tables.checkpoints[checkpoint.part] = checkpoint

    def save_facts(self, facts: BatchFacts, now_at: datetime) -> None:
        self.store.faults.at("save facts")
        self.tables.memory.update({(row.dialect, row.key): row for row in facts.memory})
        self.tables.late.extend(facts.late)


Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Output:
    findings: tuple[Finding, ...]
    expectations: ExpectationBatch


class Chain:
    """A hash over everything ever seen, in order; it stands in every finding, so that the smallest difference shows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.chain, self.count = b"", 0

    def feed(self, words: bytes) -> None:
        self.chain = hashlib.sha256(self.chain + words).digest()

    def state(self) -> list[Any]:
        return [self.chain.hex(), self.count]

    def restore(self, state: list[Any]) -> None:
        self.chain, self.count = bytes.fromhex(state[0]), state[1]


class ChainBank:
    """Two chains, for even and for odd channels, each a part of the checkpoint of its own; and a judge of silence in the first part."""

    version = "chain-1"
    poison: float | None = None

    def __init__(self, registry: Registry, signatures: Sequence[LeakSignatures] = (), models: Sequence[object] = ()) -> None:
        self.chains = {"even": Chain("even"), "odd": Chain("odd")}
        self.known = {channel.channel_id for channel in registry.channels}
        self.newest_us, self.silent = 0, False

    @property
    def count(self) -> int:
        return sum(chain.count for chain in self.chains.values())

    def step(self, batch: ReadingBatch, parts: Collection[str] | None = None) -> Output:
        findings = []
        for channel, at_us, value in zip(batch.channel_id.tolist(), batch.observed_us.tolist(), batch.value.tolist(), strict=True):
            if value == self.poison:
                raise ValueError("this detector has a bug")
            assert channel in self.known, f"channel {channel} is not registered as far as this bank knows"
            chain = self.chains["odd" if channel % 2 else "even"]
            if parts is not None and chain.name not in parts:
                continue
            chain.feed(struct.pack("<qqd", channel, at_us, value))
            chain.count += 1
            if chain.name == "even" or parts is None:
                self.newest_us, self.silent = max(self.newest_us, at_us), False
            if chain.count % 5 == 0:
                findings.append(self._finding(FindingKind.METER_STUCK, f"asset-{channel}-{chain.chain.hex()[:12]}", at_us))
        n = len(batch)
        flat = np.zeros(n)
        signal = Signal("asset/x/pressure", None, "x", "kPa")
        return Output(tuple(findings), ExpectationBatch((signal,), ("b",), np.zeros(n, np.int32), batch.observed_us, flat, flat, flat))

    def tick(self, now_us: int) -> Output:
        empty = np.empty(0)
        none = ExpectationBatch((), (), np.empty(0, np.int32), np.empty(0, np.int64), empty, empty, empty)
        if self.silent or now_us - self.newest_us < HOUR_US:
            return Output((), none)
        self.silent = True
        return Output((self._finding(FindingKind.COMMS_LOST, "all", self.newest_us + HOUR_US),), none)

    def late_lanes(self, batch: ReadingBatch) -> Sequence[tuple[str, np.ndarray[Any, np.dtype[np.int64]]]]:
        return ()

    def hold(self, holds: Sequence[Hold], parts: Collection[str] | None = None) -> None:
        for hold in holds:
            for chain in self.chains.values():
                if parts is None or chain.name in parts:
                    chain.feed(repr(hold).encode())

    def operate(self, operations: Sequence[Operation], parts: Collection[str] | None = None) -> None:
        for operation in operations:
            for chain in self.chains.values():
                if parts is None or chain.name in parts:
                    chain.feed(repr(operation).encode())

    def lane_channels(self, lane_key: str) -> Sequence[int]:
        return ()

    def parts(self) -> Sequence[str]:
        return tuple(self.chains)

    def tick_parts(self) -> Sequence[str]:
        return ("even",)

    def facts(self) -> dict[str, Any]:
        return {"count": self.count}

    def part_state(self, part: str) -> bytes:
        return json.dumps([*self.chains[part].state(), self.newest_us, self.silent]).encode()

    def restore_part(self, part: str, state: bytes) -> None:
        chain, count, newest_us, silent = json.loads(state)
        self.chains[part].restore([chain, count])
        if part == "even":
            self.newest_us, self.silent = newest_us, silent

    def _finding(self, kind: FindingKind, asset_id: str, at_us: int) -> Finding:
        evidence = Evidence("", 0.0, 0.0, 0.0, 0.0, "kPa", 0.0, 0.0, "b")
        identity = finding_id("chain", "1", kind, FindingPhase.RAISE, asset_id, at_us, at_us)
        return Finding(identity, kind, FindingPhase.RAISE, asset_id, None, "chain", "1", 1.0, at_us, at_us, evidence)


def telemetry(device: int, at_us: int, value: object) -> tuple[str, bytes]:
    return f"uw/town/pr-{device}/telemetry", json.dumps({"at": at_us // 1000, "values": {"pressure": value}}).encode()


def undated(value: float) -> tuple[str, bytes]:
    return "senml/north/tank-3", json.dumps([{"n": "level", "u": "m", "v": value}]).encode()


SETTINGS = PipelineSettings(
    limits=BatchLimits(count_max=9, age_s_max=1.0, linger_s=0.003), checkpoint_batches=4, status_s=0.5, tick_us=MINUTE_US
)


def live(world: World, store: ModelStore, broker: Broker, turns: int = 20_000) -> int:
    """Run processes one after the other until the broker has nothing left; return how many there were."""
    processes = 0
    while turns > 0:
        processes += 1
        pipeline = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
        try:
            while turns > 0:
                turns -= 1
                if turns < 4_000:
                    store.faults.quiet = True
                try:
                    pipeline.turn()
                except StoreUnavailable as error:
                    pipeline.lose_store(error)
                if broker.drained and pipeline.state == PipelineState.RUNNING:
                    return processes
        except Crash:
            continue
    raise AssertionError(f"the broker is not drained: {len(broker.waiting)} waiting, {len(broker.in_flight)} in flight")


@pytest.mark.parametrize("seed", range(40))
def test_pipeline_under_loss_replay_reorder_and_crashes_stores_each_reading_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = World()
    faults = Faults(rng, probability=0.06)
    store = ModelStore(registry_of(5), faults)
    broker = Broker(world, rng, in_flight_max=int(rng.integers(1, 25)))
    published: dict[tuple[int, int], float] = {}
    poison = 0
    levels: list[float] = []
    for step in range(60):
        at_us = world.now_us - (60 - step) * MINUTE_US // 2
        if step % 6 == 0:
            levels.append(step / 10)
            broker.publish(*undated(step / 10))
        for device in range(5):
            draw = rng.random()
            if draw < 0.05:
                broker.publish(*telemetry(device, at_us, "n/a"))
                poison += 1
                continue
            value = round(float(rng.normal(300, 5)), 3)
            published[device + 1, at_us // 1000 * 1000] = value
            broker.publish(*telemetry(device, at_us, value))
    for number in range(6):
        store.tables.holds.append([Hold(number, None, f"asset-{number}", world.now_us), None])
        flushing = Operation(number, "z1", OperationKind.FLUSHING, world.now_us, world.now_us + HOUR_US)
        store.tables.operations.append([flushing, None])

    live(world, store, broker)

    stored = {key: float(row.value[0]) for key, (_, row) in store.tables.readings.items()}
    dateless = [value for (channel, _), value in stored.items() if channel == UNDATED_CHANNEL]
    assert sorted(dateless) == levels, f"seed {seed}: {faults.record}"
    assert {key: value for key, value in stored.items() if key[0] != UNDATED_CHANNEL} == published, f"seed {seed}: {faults.record}"
    assert len({(e.topic, e.payload) for e in store.tables.quarantine}) == poison, f"seed {seed}: {faults.record}"
    assert all(number is not None for _, number in [*store.tables.holds, *store.tables.operations])
    assert found_by_replay(store) == set(store.tables.findings), f"seed {seed}: {faults.record}"
    odd = sum(channel % 2 for channel, _ in stored)
    assert len(store.tables.findings) == odd // 5 + (len(stored) - odd) // 5


def found_by_replay(store: ModelStore) -> set[Any]:
    """Return the ids of the findings that a fresh bank makes of what is stored."""
    store.faults.quiet = True
    bank, found = ChainBank(store.registry), set()
    for step in store.replay_after(0):
        bank.hold(step.holds)
        bank.operate(step.operations)
        found |= {f.finding_id for f in bank.step(step.readings).findings}
    return found


POINTS = (
    "open",
    "read the checkpoint",
    "replay",
    "begin",
    "append",
    "save findings",
    "save the checkpoint",
    "save facts",
    "ask for the newest",
    "commit",
    "hear of the commit",
)


@dataclass
class OneFault(Faults):
    """Exactly one fault: the `visit`-th time that `point` is reached."""

    point: str = ""
    kind: str = "crash"
    visit: int = 0

    def at(self, point: str) -> None:
        if self.quiet or point != self.point:
            return
        self.visit -= 1
        if self.visit == 0:
            self.record.append(point)
            if self.kind == "crash":
                raise Crash(point)
            raise StoreUnavailable(f"cannot {point} now")


@pytest.mark.parametrize("kind", ["crash", "away"])
@pytest.mark.parametrize("point", POINTS)
def test_pipeline_one_fault_at_each_point_changes_no_reading_and_no_finding(point: str, kind: str) -> None:
    runs = []
    for visit in (1, 2, 3, 7, 11, 10**6):
        rng = np.random.default_rng(1)
        world = World()
        faults = OneFault(rng, 0.0, point=point, kind=kind, visit=visit)
        store = ModelStore(registry_of(3), faults)
        broker = Broker(world, rng, in_flight_max=7)
        for step in range(50):
            broker.publish(*telemetry(step % 3, world.now_us - (50 - step) * MINUTE_US, 300.0 + step))
            if step % 10 == 0:
                broker.publish(*undated(step / 10))
        live(world, store, broker)
        # when a message without an instant is received depends on the fault: count its values
        runs.append(
            sorted((key if key[0] != UNDATED_CHANNEL else (99, 0), float(row.value[0])) for key, (_, row) in store.tables.readings.items())
        )
        assert found_by_replay(store) == set(store.tables.findings), (point, kind, visit)
        assert len(store.tables.findings) == 10
    assert all(run == runs[-1] for run in runs)
    assert len(runs[-1]) == 55


def quiet_world(count: int = 3) -> tuple[World, ModelStore, Broker, np.random.Generator]:
    rng = np.random.default_rng(3)
    world = World()
    return world, ModelStore(registry_of(count), Faults(rng, 0.0)), Broker(world, rng, 10), rng


def test_pipeline_message_that_breaks_a_detector_costs_that_message(monkeypatch: pytest.MonkeyPatch) -> None:
    world, store, broker, _ = quiet_world()
    monkeypatch.setattr(ChainBank, "poison", 666.0)
    for step in range(40):
        broker.publish(*telemetry(step % 3, world.now_us - (50 - step) * MINUTE_US, 666.0 if step == 17 else 300.0 + step))
    live(world, store, broker)
    assert len(store.tables.readings) == 39
    assert {e.fault.reason.value for e in store.tables.quarantine} == {"internal"}
    assert "this detector has a bug" in store.tables.quarantine[0].fault.message
    assert found_by_replay(store) == set(store.tables.findings)


def test_pipeline_many_poison_messages_in_a_row_stops_without_acknowledging(monkeypatch: pytest.MonkeyPatch) -> None:
    world, store, broker, _ = quiet_world()
    monkeypatch.setattr(ChainBank, "poison", 666.0)
    for step in range(40):
        broker.publish(*telemetry(step % 3, world.now_us - (50 - step) * MINUTE_US, 666.0))
    with pytest.raises(InternalError, match="messages in a row cannot be taken"):
        live(world, store, broker)
    assert len(store.tables.quarantine) <= SETTINGS.poison_max
    assert broker.acknowledged == 0


def test_pipeline_registered_later_device_is_heard_without_restart() -> None:
    world, store, broker, _ = quiet_world(1)
    pipeline = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
    broker.publish(*telemetry(0, world.now_us, 1.0))
    broker.publish(*telemetry(1, world.now_us, 1.0))
    for _ in range(40):
        pipeline.turn()
    assert [e.fault.reason.value for e in store.tables.quarantine] == ["device_unknown"]
    store.registry = registry_of(2)
    world.wait(10)
    broker.publish(*telemetry(1, world.now_us, 2.0))
    for _ in range(40):
        pipeline.turn()
    assert (2, world.now_us) in store.tables.readings
    assert store.said["quarantine"] == {"device_unknown": len(store.tables.quarantine)}


def test_pipeline_device_registered_in_the_middle_is_judged_by_detectors_that_know_it() -> None:
    world, store, broker, _ = quiet_world(1)
    pipeline = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
    for step in range(12):
        if step == 6:
            store.registry = registry_of(2)
        broker.publish(*telemetry(0, world.now_us - (50 - step) * MINUTE_US, 1.0 + step))
        broker.publish(*telemetry(1, world.now_us - (50 - step) * MINUTE_US, 1.0 + step))
        for _ in range(6):
            pipeline.turn()
    assert sum(channel == 2 for channel, _ in store.tables.readings) >= 5
    assert pipeline._bank is not None
    fresh = ChainBank(store.registry)
    store.faults.quiet = True
    for replayed in store.replay_after(0):
        fresh.step(replayed.readings)
    assert {name: c.state() for name, c in pipeline._bank.chains.items()} == {name: c.state() for name, c in fresh.chains.items()}  # type: ignore[attr-defined]


def test_pipeline_device_that_sends_stored_readings_again_after_a_restart_costs_no_rebuild() -> None:
    world, store, broker, _ = quiet_world(1)
    spoken = [telemetry(0, world.now_us - (50 - step) * MINUTE_US, 1.0 + step) for step in range(20)]
    for message in spoken:
        broker.publish(*message)
    live(world, store, broker)
    pipeline = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
    for message in spoken:
        broker.publish(*message)
        for _ in range(3):
            pipeline.turn()
    assert pipeline.metrics.duplicates == 20
    assert (pipeline.metrics.rebuilds, pipeline.metrics.retries) == (1, 0)


def test_pipeline_backlog_of_large_messages_is_cut_into_batches() -> None:
    world, store, broker, _ = quiet_world(1)
    broker.in_flight_max = 1000
    for number in range(40):
        at_ms = (world.now_us - (5000 - 100 * number) * SECOND_US) // 1000
        readings = [{"at": at_ms + 1000 * i, "values": {"pressure": float(i)}} for i in range(100)]
        broker.publish("uw/town/pr-0/telemetry", json.dumps({"readings": readings}).encode())
    limits = BatchLimits(count_max=5000, readings_max=500, age_s_max=1.0, linger_s=0.003)
    pipeline = Pipeline(broker.connect(), store, ChainBank, world, replace(SETTINGS, limits=limits), world.monotonic_s, world.wait)
    for _ in range(200):
        pipeline.turn()
    assert len(store.tables.readings) == 4000
    sizes = Counter(number for number, _ in store.tables.readings.values())
    assert max(sizes.values()) <= 500 + 64 * 100


def test_pipeline_silence_after_live_data_is_found_once_and_survives_a_restart() -> None:
    world, store, broker, _ = quiet_world(1)
    pipeline = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
    broker.publish(*telemetry(0, world.now_us, 1.0))
    for _ in range(40):
        pipeline.turn()
    world.now_us += 2 * HOUR_US
    for _ in range(60):
        pipeline.turn()
    assert [f.kind for f in store.tables.findings.values()] == [FindingKind.COMMS_LOST]
    again = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
    for _ in range(60):
        again.turn()
    assert len(store.tables.findings) == 1
    assert json.loads(store.tables.checkpoints["even"].state)[3] is True


def test_pipeline_back_filled_history_is_not_silence() -> None:
    world, store, broker, _ = quiet_world(1)
    pipeline = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
    for day in range(14, 0, -1):
        broker.publish(*telemetry(0, world.now_us - day * 24 * HOUR_US, 1.0))
    for _ in range(100):
        pipeline.turn()
    assert len(store.tables.readings) == 14
    assert [f.kind for f in store.tables.findings.values() if f.kind is FindingKind.COMMS_LOST] == []


def test_pipeline_other_detector_version_replays_everything_and_dates_what_it_finds() -> None:
    world, store, broker, _ = quiet_world(1)
    for step in range(10):
        broker.publish(*telemetry(0, world.now_us - (3 * HOUR_US if step < 5 else 0) + step, float(step)))
        world.now_us += MINUTE_US
    live(world, store, broker)
    before = set(store.tables.findings)
    for part in ("even", "odd"):
        store.tables.checkpoints[part] = Checkpoint("town", store.tables.next_batch, world.now_at(), "chain-0", b"not ours", part)
    store.tables.findings.clear()
    pipeline = Pipeline(broker.connect(), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait)
    pipeline.turn()
    assert set(store.tables.findings) == before
    assert any(f.historical for f in store.tables.findings.values())


def test_pipeline_run_stops_with_a_last_checkpoint() -> None:
    world, store, broker, _ = quiet_world(1)
    stop = Event()

    class StopWhenDrained(BrokerSession):
        def poll(self, count_max: int, wait_s: float) -> list[Message]:
            if self.broker.drained:
                stop.set()
            return super().poll(count_max, wait_s)

    broker.publish(*telemetry(0, world.now_us, 1.0))
    Pipeline(StopWhenDrained(broker), store, ChainBank, world, SETTINGS, world.monotonic_s, world.wait).run(stop)
    assert sum(json.loads(saved.state)[1] for saved in store.tables.checkpoints.values()) == 1
    assert store.said["state"] == "stopped"
