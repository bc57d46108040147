"""The path of one batch: one transaction from readings to findings, acknowledged only after its commit."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from operator import attrgetter, itemgetter
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.batcher import Batcher
from ingest.dialects import sparkplug
from ingest.mqtt_types import Message, Source
from ingest.resolve import Resolved, Resolver
from ingest.sparkplug_host import SparkplugHost
from underway.app.batch import Newest, flagged, in_order, late_mask, late_windows, quarantine_entries, quarantine_entry
from underway.app.checkpoint_turns import CheckpointTurns
from underway.app.ingest_metrics import Metrics, Stages
from underway.app.ingest_store import AddressBook, Bank, BankFactory, BatchFacts, StandingBy, StepOutput, Store, Writer
from underway.app.intake import Intake, Item
from underway.app.pipeline_settings import PipelineSettings, PipelineState
from underway.app.strangers import Strangers
from underway.model import (
    HOUR_US,
    SECOND_US,
    Clock,
    Fault,
    FaultReason,
    Finding,
    InternalError,
    LeakSignatures,
    NetworkModel,
    ReadingBatch,
    ReadingFlag,
    Registry,
    StoreUnavailable,
    from_us,
    to_us,
)
from underway.store.memory import ClockRow, MemoryRow, PresenceRow
from underway.store.quarantine import QuarantineEntry
from underway.store.telemetry import Checkpoint

log = logging.getLogger("underway.pipeline")

TICK_LOOK_S = 0.02
DECODED_AT_ONCE = 64
"""Messages decoded between two looks at how full the batch is: it exceeds its readings by those of so many messages at most."""
_PAYLOAD, _DIALECT, _VALUE, _MESSAGE = itemgetter(1), attrgetter("dialect"), attrgetter("decoded.value"), attrgetter("message")


class Pipeline:
    """Moves messages from a source into the store and through the detectors, each exactly once in effect.

    Parameters
    ----------
    source : Source
    store : Store
    bank_factory : callable (registry, signatures, models) -> Bank
    clock : Clock
        Stamps what is recorded and judges silence.
    settings : PipelineSettings
    monotonic_s, wait : callable
        Measure and spend waits, in s; passed in so that a simulation is the same every time.
    intake : Intake, optional
        Decodes, and remembers what dialects need.
    stages : Stages, optional
        Where time is counted.
    settle : callable, optional
        Called when the detectors stand: what was built then stays for long.

    Notes
    -----
    *One transaction a batch.* Holds that detectors were not told yet, readings, findings, expectations, quarantine, what dialects remember and now
    and then a part of the state of the bank are written together; the source is told after the commit.

    *At the same time.* While the store takes the readings of a batch, the messages of the next batch are decoded, and the bank judges the rows, when
    it is certain that all of them are new: each newer than anything stored of its channel (`Newest`). Otherwise it waits for the store's word.

    *A failed transaction.* The bank may have stepped, so it is thrown away and built again as after a start: last committed checkpoint, then
    every later stored batch, with the holds at the batches at which they were told; the findings of that replay have their old ids and are
    there already. The same messages are then tried again; if the lost commit had in fact succeeded, they are all duplicates and nothing
    happens twice.

    *A poison message.* When a batch fails for another reason than an absent store, it is halved until the one message stands alone; that one goes
    to quarantine. Many in a row mean that the fault is ours, and the process ends without acknowledging them.

    *Late data.* Readings whose time a detector has judged already are stored with a flag, and their interval is noted in the same transaction:
    `underway.app.rejudge` judges it again.

    *Silence.* Judged once a minute of the clock. While messages keep coming the newest reading is the present, not the clock: an ingest
    that is behind must not take its own delay for the devices' silence, and while history comes nobody is silent. A tick with findings writes a
    checkpoint, so that a restart knows them. Blind to silence between a restart and the first live reading.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        bank_factory: BankFactory,
        clock: Clock,
        settings: PipelineSettings | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
        intake: Intake | None = None,
        stages: Stages | None = None,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings or PipelineSettings()
        self.metrics = Metrics()
        self.stages = stages or Stages()
        self.state = PipelineState.STARTING
        self._source = source
        self._store = store
        self._bank_factory = bank_factory
        self._clock = clock
        self._monotonic_s = monotonic_s
        self._wait = wait
        self._settle = settle
        self._intake = intake or Intake(SparkplugHost("underway"))
        self._remembered = False
        self._strangers = Strangers()
        self._batcher: Batcher[Item] = Batcher(self.settings.limits)
        self._undecoded: deque[Message] = deque()
        self._todo: deque[list[Item]] = deque()
        self._registry: Registry | None = None
        self._signatures: tuple[LeakSignatures, ...] = ()
        self._models: tuple[NetworkModel, ...] = ()
        self._resolver: Resolver | None = None
        self._newest = Newest()
        self._heard: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None
        self._carried = BatchFacts()  # learned between batches, stored with the next one
        self._bank: Bank | None = None
        self._parts = CheckpointTurns(
            self.settings.checkpoint_s, self.settings.checkpoint_batches, self.settings.checkpoint_readings, monotonic_s()
        )
        self._batch_id = 0
        self._tick_us = 0
        self._tick_look_s = -1e9
        self._live = self._history = False
        self._newest_received_us = 0
        self._last_message_s = self._turn_s = monotonic_s()
        self._status_s = -1e9
        self._rates = (0.0, 0.0)
        self._registry_s = -1e9
        self._poison_in_a_row = 0
        self._aside: list[Item] = []

    # the loop -----------------------------------------------------------------------------------------------------------------------

    def run(self, stop: Event) -> None:
        """Run until `stop` is set; what is not committed by then stays with the source.

        Raises
        ------
        StandingBy
            When another process took the site over while the store was away: the session at the broker is its own then.
        InternalError
            When messages cannot be taken for a reason that lies with us.
        """
        backoff_s = self.settings.backoff_s_min
        while not stop.is_set():
            try:
                self.turn()
                backoff_s = self.settings.backoff_s_min
            except StandingBy as error:
                self.lose_store(error)
                raise
            except StoreUnavailable as error:
                self.lose_store(error)
                stop.wait(backoff_s)
                backoff_s = min(2 * backoff_s, self.settings.backoff_s_max)
        self._finish()

    def turn(self) -> None:
        """Do the next thing: get ready, commit what is collected, or collect.

        Raises
        ------
        StoreUnavailable
            The turn changed nothing that a later one does not do again.
        """
        self._turn_s = self._monotonic_s()
        if not self._ready():
            return
        if self._todo:
            self._work_off()
            if self._todo:
                return
        now_s = self._monotonic_s()
        if not self._batcher.decide(now_s).is_take:
            self._collect(self._batcher.wait_s(now_s, self.settings.idle_wait_s))
            now_s = self._monotonic_s()
        if self._batcher.decide(now_s).is_take:
            self._todo.append(self._batcher.take())
            self._work_off()
        elif self._aside and now_s - self._last_message_s >= self.settings.aside_s:
            self._let_go()
        self._keep_house(now_s)

    def lose_store(self, error: Exception) -> None:
        """Take note that the store went away in the middle of something."""
        if self.state != PipelineState.STORE_AWAY:
            log.warning("%s; nothing is acknowledged, trying again", error, extra={"retries": self.metrics.retries})
        self.state = PipelineState.STORE_AWAY
        self.metrics.store_error = str(error)
        self.metrics.retries += 1
        self._bank = None
        self._store.close()

    def _collect(self, wait_s: float) -> None:
        """Take waiting messages in, as many as fit into the batch that is being collected; wait for the first at most `wait_s`."""
        batcher = self._batcher
        if not self._undecoded:
            room = batcher.room()
            self._undecoded.extend(self._source.poll(room, wait_s) if room else ())
        # a few at a time: only decoding tells how many readings a message holds
        while self._undecoded and batcher.room():
            messages = [self._undecoded.popleft() for _ in range(min(len(self._undecoded), batcher.room(), DECODED_AT_ONCE))]
            with self.stages.timed("decode"):
                items = self._intake.take(messages)
            size = sum(map(len, map(_PAYLOAD, messages)))
            readings = sum(map(len, map(_VALUE, items)))
            self._count_dialects(items, readings)
            now_s = self._last_message_s = self._monotonic_s()
            batcher.add(items, size, readings, now_s)

    def _count_dialects(self, items: list[Item], readings: int) -> None:
        counts, metrics = Counter(map(_DIALECT, items)), self.metrics
        metrics.dialect_messages.update(counts)
        self.stages.readings["decode"] += readings
        if len(counts) == 1:
            metrics.dialect_readings[items[0].dialect] += readings
        else:
            for item in items:
                metrics.dialect_readings[item.dialect] += len(item.decoded.value)

    def _ready(self) -> bool:
        """Connect, read the registry and build the bank, as far as that is not done; return whether messages may be taken."""
        if self._bank is not None:
            return True
        self._store.open()
        self._registry_s = self._monotonic_s()
        found = self._store.address_book()
        if found is None:
            self.state = PipelineState.WAITING_FOR_REGISTRY
            self._say(self._monotonic_s())
            self._wait(self.settings.idle_wait_s)
            return False
        self._take_address_book(found)
        if not self._remembered:
            self._intake.restore(self._store.memory(), to_us(self._clock.now_at()))
            self._remembered = True
        self._build()
        return True

    def _take_address_book(self, book: AddressBook) -> None:
        self._registry, self._signatures, self._models = book.registry, book.signatures, book.models
        # what was learned and is not stored yet is newer than what was read
        offsets = {**book.clock_offset_ms, **{row.device_id: row.offset_ms for row in self._carried.clocks}}
        self._resolver = Resolver(book.registry, self.settings.times, offsets, self._resolver)
        self._intake.is_registered = self._resolver.knows

    def _build(self) -> None:
        """Build the bank from the last committed checkpoint and every stored batch after it."""
        assert self._registry is not None
        self.state = PipelineState.REPLAYING
        self.metrics.rebuilds += 1
        bank = self._bank_factory(self._registry, self._signatures, models=self._models)
        stored = self._restore(bank)
        # lanes that are new begin where the others are, and from the first batch when there are none
        newest = max(stored.values(), default=0)
        marks = {part: stored.get(part, newest) for part in bank.parts()}
        batch_id = min(marks.values(), default=0)
        for step in self._store.replay_after(batch_id):
            # a part whose state holds this batch already does not see it again
            behind = [part for part, mark in marks.items() if mark < step.batch_id]
            parts = None if len(behind) == len(marks) else behind
            if step.holds:
                bank.hold(step.holds, parts)
            if step.operations:
                bank.operate(step.operations, parts)
            if len(step.readings):
                self._save_again(bank.step(step.readings, parts).findings, step.batch_id)
                self._see(step.readings)
            batch_id = step.batch_id
            self.metrics.replayed_batches += 1
            self._say(self._monotonic_s())
        self._batch_id = max([batch_id, *marks.values()])
        self._parts.begin(bank.parts(), self._monotonic_s())
        # all that was never written, at once and before anything new comes: otherwise a crash would find some parts and not what the others saw
        unwritten = [part for part in marks if part not in stored]
        if unwritten:
            self._save_parts(bank, unwritten)
        self._store.forget_checkpoints(self._partition, list(marks))
        self._bank = bank
        self._settle()
        self.state = PipelineState.RUNNING
        self.metrics.store_error = ""

    def _restore(self, bank: Bank) -> dict[str, int]:
        """Give the bank the parts of the checkpoint; return the last batch that each of them holds."""
        stored: dict[str, int] = {}
        for saved in self._store.checkpoints(self._partition):
            if saved.version != bank.version:
                log.warning("a checkpoint is of detectors '%s', these are '%s': replaying everything", saved.version, bank.version)
                continue
            bank.restore_part(saved.part, saved.state)
            stored[saved.part] = saved.batch_id
        return stored

    def _save_again(self, findings: Sequence[Finding], batch_id: int) -> None:
        """Store findings of a replay: those of the same detectors are all there; what a changed registry or version makes of old readings is not."""
        if not findings:
            return
        now_at = self._clock.now_at()
        old_us = to_us(now_at) - HOUR_US
        dated = [dataclasses.replace(f, historical=True) if f.detected_us < old_us else f for f in findings]
        with self._store.transaction() as tx:
            self.metrics.findings += len(tx.save_findings(dated, batch_id, now_at))

    @property
    def address_book(self) -> AddressBook | None:
        """Return what is known of the registry; None before it was read."""
        return None if self._registry is None else AddressBook(self._registry, self._signatures, models=self._models)

    def lane_channels(self, lane: str) -> Collection[int] | None:
        """Return the channels that feed a lane of the detectors; None while there are no detectors."""
        bank = self._bank
        return None if bank is None else bank.lane_channels(lane)

    @property
    def _partition(self) -> str:
        assert self._registry is not None
        return self._registry.site.site_id

    # one batch ----------------------------------------------------------------------------------------------------------------------

    def _work_off(self) -> None:
        """Commit and acknowledge what is collected; halve what cannot be taken as a whole."""
        while self._todo:
            if not self._ready():
                return
            items = self._todo[0]
            try:
                self._commit(items)
            except StoreUnavailable:
                raise
            except Exception as error:
                self._bank = None
                if len(items) > 1:
                    what = {"messages": len(items)}
                    log.warning(
                        "a batch of %d messages cannot be taken, halving it: %s: %s", len(items), type(error).__name__, error, extra=what
                    )
                    half = len(items) // 2
                    self._todo.popleft()
                    self._todo.appendleft(items[half:])
                    self._todo.appendleft(items[:half])
                    continue
                self._set_aside(items[0], error)
                self._aside.append(items[0])
                self._todo.popleft()
                continue
            # what was set aside is acknowledged only now that another message went through: when nothing does, the fault is not theirs
            with self.stages.timed("ack"):
                self._source.acknowledge([*map(_MESSAGE, self._aside), *map(_MESSAGE, items)])
            self._aside.clear()
            self._poison_in_a_row = 0
            self._todo.popleft()

    def _commit(self, items: list[Item]) -> None:
        """Resolve, and write everything of these messages in one transaction."""
        began_s = self._monotonic_s()
        stages = self.stages
        self._heard = None
        with stages.timed("resolve"):
            resolved = self._resolve(items)
            # only now: a device that was registered a moment ago has made resolving build the detectors anew
            bank = self._bank
            assert bank is not None
            batch = in_order(resolved.batch)
            late = bank.late_lanes(batch.in_event_time())
            batch = flagged(batch, late)
            event = batch.in_event_time()
            entries = quarantine_entries(items, resolved.faults)
        stages.readings["resolve"] += len(batch)
        facts = self._facts_of(items, resolved)
        recorded_at = self._clock.now_at()
        committing = self.stages.timed("commit")
        with committing, self._store.transaction() as tx:
            batch_id = tx.next_batch_id()
            holds = tx.pending_holds(self._partition)
            if holds:
                tx.mark_holds(holds, batch_id)
                bank.hold(holds)
            operations = tx.pending_operations(self._partition)
            if operations:
                tx.mark_operations(operations, batch_id)
                bank.operate(operations)
            new = np.ones(len(batch), np.bool_)
            findings: Sequence[Finding] = ()
            if len(batch):
                new, findings = self._append_and_judge(tx, bank, batch, event, batch_id, recorded_at)
            facts.late = late_windows(event, late, new)
            if entries:
                tx.save_quarantine(entries, recorded_at)
            if facts:
                tx.save_facts(facts, recorded_at)
            part = self._parts.due(self._monotonic_s(), int(new.sum()))
            if part is not None:
                self._save_part(tx, bank, part, batch_id, recorded_at)
        self._batch_id = batch_id
        if part is not None:
            self._part_done(part, batch_id)
        self._carried = BatchFacts()
        self._learn_clocks(resolved)
        if self._heard is not None:
            self._newest.learn(*self._heard)
        self._newest.take(batch)
        self._see(event)
        self._count(items, resolved, new, late, findings, entries)
        metrics = self.metrics
        metrics.commit_s = self._monotonic_s() - began_s
        metrics.commit_times.add(metrics.commit_s)
        metrics.last_commit_at = recorded_at

    def _append_and_judge(
        self, tx: Writer, bank: Bank, batch: ReadingBatch, event: ReadingBatch, batch_id: int, recorded_at: datetime
    ) -> tuple[NDArray[np.bool_], Sequence[Finding]]:
        """Let the store take the readings and the bank judge the new ones, at once where that is safe; return which were new, and findings."""
        stages = self.stages
        certain, unheard = self._newest.is_before(batch), self._newest.unheard(batch)
        output: StepOutput | None = None
        appended = tx.begin_append(batch, batch_id, recorded_at)
        try:
            if certain:
                with stages.timed("detect", len(event)):
                    output = bank.step(event)
            self._collect(0.0)
        finally:
            new = appended()
        if output is None:
            with stages.timed("detect", len(event)):
                output = bank.step(event if new.all() else event.take(new))
        elif not new.all():
            self._newest.forget()
            raise StoreUnavailable("a reading that had to be new was in the store: the detectors are built again")
        if len(unheard):
            self._heard = unheard, tx.newest_observed_us(unheard)
        with stages.timed("store", len(event)):
            return new, self._save_output(tx, output, batch_id, recorded_at)

    def _resolve(self, items: list[Item]) -> Resolved:
        """Resolve; when an unknown device speaks, look first whether it was registered meanwhile."""
        assert self._resolver is not None
        resolved = self._resolver.resolve(items)
        if resolved.strangers:
            now_s = self._monotonic_s()
            known_to_change = self._store.registry_changed(ask=True)
            if (known_to_change or now_s - self._registry_s >= self.settings.unknown_look_s) and self._look_at_registry(now_s):
                resolved = self._resolver.resolve(items)
        return resolved

    def _facts_of(self, items: list[Item], resolved: Resolved) -> BatchFacts:
        """Return what is to be stored with the readings of these messages."""
        carried = self._carried
        facts = BatchFacts(list(carried.memory), list(carried.presence), list(carried.clocks), site_id=self._partition)
        speaking = resolved.strangers
        for item in items if speaking else [item for item in items if item.special]:
            facts.memory.extend(item.memory)
            facts.presence.extend(item.presence)
            if item.decoded.announcement is not None or (item.dialect, item.decoded.device) in speaking:
                note = self._strangers.note(item, self._intake.is_registered, self._partition)
                if note is not None:
                    facts.pending.append(note)
        return facts

    def _learn_clocks(self, resolved: Resolved) -> None:
        """Take in what the committed messages say of their devices' clocks; what changed is stored with the next batch."""
        assert self._resolver is not None
        for device_id, offset_ms, since_us in self._resolver.learn(resolved):
            what = {"device": device_id, "offset_s": offset_ms / 1000}
            log.warning("the clock of device '%s' is %.0f s ahead", device_id, offset_ms / 1000, extra=what)
            self._carried.clocks.append(ClockRow(device_id, offset_ms, since_us))

    def _save_output(self, tx: Writer, output: StepOutput, batch_id: int, recorded_at: datetime) -> Sequence[Finding]:
        if len(output.expectations):
            tx.save_expectations(output.expectations)
        return tx.save_findings(output.findings, batch_id, recorded_at) if output.findings else ()

    def _count(
        self,
        items: list[Item],
        resolved: Resolved,
        new: NDArray[np.bool_],
        late: Sequence[tuple[str, NDArray[np.integer[Any]]]],
        findings: Sequence[Finding],
        entries: Sequence[QuarantineEntry],
    ) -> None:
        metrics, stored = self.metrics, int(new.sum())
        metrics.batches += 1
        metrics.messages += len(items)
        metrics.readings += stored
        metrics.duplicates += len(resolved.batch) - stored
        metrics.late += int(late_mask(len(new), late)[new].sum()) if late else 0
        metrics.findings += len(findings)
        metrics.batch_size = len(items)
        metrics.batch_readings = stored
        metrics.batch_sizes.add(float(len(items)))
        metrics.quarantined.update(entry.fault.reason.value for entry in entries)

    def _let_go(self) -> None:
        """Acknowledge what was set aside though nothing came after it: a broker may send nothing more before it is told.

        Raises
        ------
        InternalError
            When so many were set aside in a row that the fault must be ours: nothing is acknowledged then.
        """
        if self._poison_in_a_row >= self.settings.poison_max:
            raise InternalError(
                f"{self._poison_in_a_row} messages in a row cannot be taken and no other one comes; none of them was acknowledged"
            )
        self._source.acknowledge([item.message for item in self._aside])
        self._aside.clear()

    def _set_aside(self, item: Item, error: Exception) -> None:
        """Quarantine one message that neither store nor detectors can take."""
        message = item.message
        if self._poison_in_a_row >= self.settings.poison_max:
            raise InternalError(
                f"{self._poison_in_a_row + 1} messages in a row cannot be taken, the last from topic {message.topic!r}:"
                f" {type(error).__name__}: {error}"
            ) from error
        what = {"topic": message.topic, "dialect": item.dialect, "payload_bytes": len(message.payload)}
        log.error("message on %r cannot be taken and goes to quarantine", message.topic, exc_info=error, extra=what)
        fault = Fault(FaultReason.INTERNAL, f"we could not take this message: {type(error).__name__}: {error}")
        now_at = self._clock.now_at()
        with self._store.transaction() as tx:
            tx.save_quarantine([quarantine_entry(item, fault)], now_at)
            if item.memory or item.presence:
                tx.save_facts(BatchFacts(memory=list(item.memory), presence=list(item.presence)), now_at)
        self._poison_in_a_row += 1
        self.metrics.poison += 1
        self.metrics.messages += 1
        self.metrics.quarantined[fault.reason.value] += 1

    def _see(self, batch: ReadingBatch) -> None:
        """Remember the newest observed instant, and whether what comes is life or history."""
        if len(batch):
            newest_us = int(batch.observed_us.max())
            if self.metrics.newest_observed_us is None or newest_us > self.metrics.newest_observed_us:
                self.metrics.newest_observed_us = newest_us
            self._newest_received_us = max(self._newest_received_us, int(batch.received_us.max()))
            historical = (batch.flags & ReadingFlag.HISTORICAL) != 0
            self._history = bool(historical.any())
            self._live = self._live or not historical.all()

    # checkpoints --------------------------------------------------------------------------------------------------------------------

    def _save_part(self, tx: Writer, bank: Bank, part: str, batch_id: int, at: datetime) -> None:
        with self.stages.timed("checkpoint"):
            tx.save_checkpoint(Checkpoint(self._partition, batch_id, at, bank.version, bank.part_state(part), part))

    def _part_done(self, part: str, batch_id: int) -> None:
        self._parts.done(part, self._monotonic_s())
        self.metrics.checkpoints += 1
        self.metrics.checkpoint_batch_id = batch_id

    def _save_parts(self, bank: Bank, parts: Collection[str]) -> None:
        """Write some parts at once, in a transaction of their own."""
        now_at = self._clock.now_at()
        with self._store.transaction() as tx:
            for part in parts:
                self._save_part(tx, bank, part, self._batch_id, now_at)
        for part in parts:
            self._part_done(part, self._batch_id)

    def _finish(self) -> None:
        """Write a last checkpoint and status, when the store is there."""
        self.state = PipelineState.STOPPED
        try:
            if self._bank is not None:
                for part in self._parts.unsaved():
                    self._save_parts(self._bank, [part])
                now_at = self._clock.now_at()
                self._carry(*self._intake.changes(to_us(now_at), everything=True))
                if self._carried:
                    with self._store.transaction() as tx:
                        tx.save_facts(self._carried, now_at)
                self._store.write_status(self.facts())
        except StoreUnavailable as error:
            log.warning("no last checkpoint: %s", error)
        self._store.close()

    # between batches ------------------------------------------------------------------------------------------------------------------

    def _keep_house(self, now_s: float) -> None:
        if self._store.registry_changed() and now_s - self._registry_s >= self.settings.registry_look_s:
            self._look_at_registry(now_s)
        self._tick(now_s)
        self._say(now_s)

    def _look_at_registry(self, now_s: float) -> bool:
        """Read the registry again; return whether it had changed."""
        self._registry_s = now_s
        found = self._store.address_book()
        if found is None:
            return False
        same = found.registry == self._registry and found.models == self._models
        if same and _same_signatures(found.signatures, self._signatures):
            return False
        log.info("the registry changed: %d devices, %d channels", len(found.registry.devices), len(found.registry.channels))
        known = self._intake.is_registered
        self._take_address_book(found)
        fresh = [d.spoken_address for d in found.registry.devices if d.dialect == sparkplug.NAME and not known(d.dialect, d.spoken_address)]
        self._carry((), self._intake.presence_of(fresh))
        self._build()
        return True

    def _tick(self, now_s: float) -> None:
        """Judge silence and let the dialects speak, once in a while; silence never while behind."""
        if now_s - self._tick_look_s < TICK_LOOK_S:
            return
        self._tick_look_s = now_s
        clock_us = to_us(self._clock.now_at())
        self._let_dialects_speak(clock_us)
        present_us = self._present_us(now_s, clock_us)
        if present_us is None or present_us - self._tick_us < self.settings.tick_us:
            return
        bank = self._bank
        assert bank is not None
        try:
            output = bank.tick(present_us)
            if output.findings or len(output.expectations):
                now_at = from_us(clock_us)
                parts = bank.tick_parts()
                with self._store.transaction() as tx:
                    batch_id = tx.next_batch_id()
                    new = self._save_output(tx, output, batch_id, now_at)
                    for part in parts:
                        self._save_part(tx, bank, part, batch_id, now_at)
                self._batch_id = batch_id
                for part in parts:
                    self._part_done(part, batch_id)
                self.metrics.findings += len(new)
        except BaseException:
            self._bank = None
            raise
        self._tick_us = present_us

    def _let_dialects_speak(self, clock_us: int) -> None:
        """Publish what a dialect has to say now, and store what it noticed by the mere passing of time."""
        said = self._intake.due(clock_us)
        if said:
            self._source.publish(said)
        self._carry(*self._intake.changes(clock_us))
        if self._carried and self._bank is not None and not self._todo:
            with self._store.transaction() as tx:
                tx.save_facts(self._carried, from_us(clock_us))
            self._carried = BatchFacts()

    def _carry(self, memory: Sequence[MemoryRow], presence: Sequence[PresenceRow]) -> None:
        self._carried.memory.extend(memory)
        self._carried.presence.extend(presence)

    def _present_us(self, now_s: float, clock_us: int) -> int | None:
        """Return the instant up to which silence may be judged now, or None."""
        newest_us = self.metrics.newest_observed_us
        if self._bank is None or newest_us is None or not self._live or self._todo:
            return None
        source = self._source.facts()
        caught_up = source.get("queued", 0) == 0 and source.get("subscribed", True) and not len(self._batcher) and not self._undecoded
        quiet_s = self.settings.history_quiet_s if self._history else self.settings.quiet_s
        if caught_up and now_s - self._last_message_s >= quiet_s:
            return clock_us
        if self._history:
            return None
        # behind, or busy: what came last is the present; when that is long ago, nobody is silent now
        present_us = min(newest_us, self._newest_received_us, clock_us)
        return None if clock_us - present_us > HOUR_US else present_us

    def _say(self, now_s: float) -> None:
        if now_s - self._status_s >= self.settings.status_s:
            self._status_s = now_s
            self._rates = self.metrics.rate(now_s)
            self._store.write_status(self.facts())

    def facts(self) -> dict[str, Any]:
        """Return what people want to see: plain values, by name, reason, dialect or stage."""
        metrics = self.metrics
        source = self._source.facts()
        self.stages.cpu_s["receive"] = source.get("cpu_s") or 0.0
        self.stages.readings["receive"] = self.stages.readings["decode"]
        messages_per_s, readings_per_s = self._rates
        newest_us = metrics.newest_observed_us
        offsets = np.empty(0, np.int32) if self._resolver is None else self._resolver.clocks.offsets
        return {
            "state": self.state,
            "store_error": metrics.store_error,
            "readings_per_s": round(readings_per_s, 1),
            "messages_per_s": round(messages_per_s, 1),
            "lag_s": None if newest_us is None else round((to_us(self._clock.now_at()) - newest_us) / SECOND_US, 3),
            "newest_observed_at": None if newest_us is None else from_us(newest_us).isoformat(),
            "messages": metrics.messages,
            "readings": metrics.readings,
            "duplicates": metrics.duplicates,
            "late": metrics.late,
            "quarantined": sum(metrics.quarantined.values()),
            "findings": metrics.findings,
            "batches": metrics.batches,
            "batch_size": metrics.batch_size,
            "batch_readings": metrics.batch_readings,
            "commit_ms": round(metrics.commit_s * 1000, 2),
            "last_commit_at": None if metrics.last_commit_at is None else metrics.last_commit_at.isoformat(),
            "batch_id": self._batch_id,
            "checkpoint_batch_id": metrics.checkpoint_batch_id,
            "checkpoints": metrics.checkpoints,
            "unacked": source.get("unacked", 0),
            "queued": source.get("queued", 0),
            "full_ratio": source.get("full_ratio", 0.0),
            "broker": source.get("state", ""),
            "protocol": source.get("protocol", ""),
            "subscribed": source.get("subscribed", False),
            "rebuilds": metrics.rebuilds,
            "replayed_batches": metrics.replayed_batches,
            "retries": metrics.retries,
            "poison": metrics.poison,
            "site": "" if self._registry is None else self._registry.site.site_id,
            "devices": 0 if self._registry is None else len(self._registry.devices),
            "channels": 0 if self._registry is None else len(self._registry.channels),
            "clocks": {"devices": int((offsets != 0).sum()), "offset_s_max": float(np.abs(offsets).max(initial=0)) / 1000},
            "quarantine": dict(metrics.quarantined),
            "dialects": {
                name: {"messages": count, "readings": metrics.dialect_readings[name]} for name, count in metrics.dialect_messages.items()
            },
            "commit_times": metrics.commit_times.facts(),
            "batch_sizes": metrics.batch_sizes.facts(),
            "stages": self.stages.facts(),
            "source": source,
            "bank": {} if self._bank is None else self._bank.facts(),
            "turn_age_s": round(self._monotonic_s() - self._turn_s, 3),
        } | self._intake.facts()


def _same_signatures(one: Sequence[LeakSignatures], other: Sequence[LeakSignatures]) -> bool:
    return len(one) == len(other) and all(
        a.zone_id == b.zone_id
        and a.pipe_ids == b.pipe_ids
        and a.channel_ids == b.channel_ids
        and np.array_equal(a.fall_kpa_per_m3ph, b.fall_kpa_per_m3ph)
        for a, b in zip(one, other, strict=True)
    )
