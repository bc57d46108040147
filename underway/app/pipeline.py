"""The path of one batch: one transaction from readings to findings, acknowledged only after its commit."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from typing import Any, Protocol

import numpy as np
import psycopg
from numpy.typing import NDArray

from ingest.batcher import Batcher, BatchLimits
from ingest.decoded import Decoded
from ingest.dialects import decode
from ingest.mqtt import Message, Source
from ingest.quarantine import QuarantineBudget
from ingest.resolve import Resolved, Resolver
from underway.model import (
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    Clock,
    ExpectationBatch,
    Fault,
    FaultReason,
    Finding,
    Hold,
    InternalError,
    LeakSignatures,
    OperatorError,
    ReadingBatch,
    ReadingFlag,
    Registry,
    StoreUnavailable,
    from_us,
    to_us,
)
from underway.store import copy, quarantine, telemetry
from underway.store import registry as registry_store
from underway.store.connect import connect, store_errors
from underway.store.copy import SignalIds
from underway.store.quarantine import QuarantineEntry
from underway.store.status import alone, listen_registry, take_notices, write_status
from underway.store.telemetry import Checkpoint, ReplayStep

log = logging.getLogger("underway.pipeline")

SERVICE = "ingest"
QUARANTINE_ROWS_MAX = 200_000
QUARANTINE_PRUNE_EVERY = 1_000
TICK_LOOK_S = 0.02


# what the pipeline talks to ---------------------------------------------------------------------------------------------------------------


class StepOutput(Protocol):
    """What the bank answers."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings in order."""
        ...

    @property
    def expectations(self) -> ExpectationBatch:
        """What was expected."""
        ...


class Bank(Protocol):
    """The detectors of one site, as `detectors.bank.Bank`: same readings and holds in the same batches, same findings."""

    version: str

    def step(self, batch: ReadingBatch) -> StepOutput:
        """Judge new readings, in event order."""
        ...

    def hold(self, holds: Sequence[Hold]) -> None:
        """Stop or resume adapting, before the next batch."""
        ...

    def tick(self, now_us: int) -> StepOutput:
        """Judge silence."""
        ...

    def state(self) -> bytes:
        """Return everything the next step depends on."""
        ...

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        ...


BankFactory = Callable[[Registry, Sequence[LeakSignatures]], Bank]


class Writer(Protocol):
    """One open transaction."""

    def next_batch_id(self) -> int:
        """Return an id greater than every one before."""
        ...

    def pending_holds(self) -> Sequence[Hold]:
        """Return what detectors were not told yet."""
        ...

    def mark_holds(self, holds: Sequence[Hold], batch_id: int) -> None:
        """Note that detectors were told before this batch."""
        ...

    def append(self, batch: ReadingBatch, batch_id: int, recorded_at: datetime) -> NDArray[np.bool_]:
        """Store readings; return which were new."""
        ...

    def save_expectations(self, expectations: ExpectationBatch) -> None:
        """Store what detectors expected."""
        ...

    def save_findings(self, findings: Sequence[Finding], batch_id: int, recorded_at: datetime) -> Sequence[Finding]:
        """Store findings, tell listeners at commit; return those that are new."""
        ...

    def save_quarantine(self, entries: Sequence[QuarantineEntry]) -> None:
        """Store what could not be taken."""
        ...

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        ...


class Store(Protocol):
    """Where readings are kept. Every method raises `StoreUnavailable` when it is worth trying again later."""

    def open(self) -> None:
        """Connect, if not connected."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...

    def registry(self) -> tuple[Registry, Sequence[LeakSignatures]] | None:
        """Return the address book, or None while no site is registered."""
        ...

    def registry_changed(self, *, ask: bool = False) -> bool:
        """Return whether the registry was written to since it was read last, as far as is known; `ask` makes sure."""
        ...

    def checkpoint(self, partition: str) -> Checkpoint | None:
        """Return the last committed checkpoint."""
        ...

    def replay_after(self, batch_id: int) -> Iterator[ReplayStep]:
        """Yield what detectors saw in later batches."""
        ...

    def transaction(self) -> AbstractContextManager[Writer]:
        """Begin; commit at the end of the block, roll back when it raises."""
        ...

    def write_status(self, facts: Mapping[str, Any]) -> None:
        """Say how it goes."""
        ...


class StandingBy(StoreUnavailable):
    """Another process does this work; it is taken over when that one is gone."""


class PostgresStore:
    """The store of `underway.store`, on one connection that is opened again after it was lost.

    Parameters
    ----------
    url : str
    site_id : str or None
        None: the only site.
    pid : int
        Of this process, for ``service_status``.
    started_at : datetime
        For ``service_status``, aware.
    """

    def __init__(self, url: str, site_id: str | None, pid: int, started_at: datetime) -> None:
        self._url, self._site_id, self._pid, self._started_at = url, site_id, pid, started_at
        self._conn: psycopg.Connection[Any] | None = None
        self._signals = SignalIds()
        self._changed = False
        self._budget = QuarantineBudget()
        self._unpruned = QUARANTINE_PRUNE_EVERY
        self._waiting_for = ""

    def open(self) -> None:
        """Connect, if not connected."""
        if self._conn is not None and not self._conn.closed:
            return
        with store_errors("connect"):
            conn = connect(self._url, application_name="underway-ingest")
            if not alone(conn, f"{SERVICE} {self._site_id or '*'}"):
                conn.close()
                raise StandingBy(f"another ingest process serves site {self._site_id or '(the only one)'}: this one stands by")
            self._conn = conn
            self._signals = SignalIds()
            # what happened while nobody listened is not known
            self._changed = True
            listen_registry(self._conn, self._hear)

    def _hear(self) -> None:
        self._changed = True

    def close(self) -> None:
        """Drop the connection."""
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    @property
    def _live(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            raise StoreUnavailable("the connection to the store is closed")
        return self._conn

    def registry(self) -> tuple[Registry, Sequence[LeakSignatures]] | None:
        """Return the address book, or None while no site is registered."""
        with store_errors("read the registry"):
            self._changed = False
            try:
                with self._live.transaction():
                    registry = registry_store.load_registry(self._live, self._site_id)
                    return registry, registry_store.load_leak_signatures(self._live, registry.site.site_id)
            except OperatorError as error:
                if str(error) != self._waiting_for:
                    log.warning("waiting for a site: %s", error)
                    self._waiting_for = str(error)
                return None
            except psycopg.errors.UndefinedTable as error:
                raise OperatorError("the database must have the tables of underway, got one without; run 'underway db migrate'") from error

    def registry_changed(self, *, ask: bool = False) -> bool:
        """Return whether the registry was written to since it was read last; news comes with any statement, `ask` sends an empty one."""
        if ask and not self._changed:
            with store_errors("ask for news"):
                take_notices(self._live)
        return self._changed

    def checkpoint(self, partition: str) -> Checkpoint | None:
        """Return the last committed checkpoint."""
        with store_errors("read the checkpoint"):
            return telemetry.load_checkpoint(self._live, partition)

    def replay_after(self, batch_id: int) -> Iterator[ReplayStep]:
        """Yield what detectors saw in later batches."""
        with store_errors("replay"):
            yield from telemetry.replay_after(self._live, batch_id)

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Begin; commit at the end of the block, roll back when it raises."""
        try:
            with store_errors("store a batch"), self._live.transaction():
                writer = _PostgresWriter(self._live, self._signals, self._budget)
                yield writer
                self._unpruned += writer.quarantined
                if writer.quarantined and self._unpruned >= QUARANTINE_PRUNE_EVERY:
                    quarantine.prune_quarantine(self._live, QUARANTINE_ROWS_MAX)
                    self._unpruned = 0
        except BaseException:
            self._budget.undo()
            raise
        self._budget.settle()

    def write_status(self, facts: Mapping[str, Any]) -> None:
        """Say how it goes."""
        with store_errors("write the service status"):
            write_status(self._live, SERVICE, self._pid, self._started_at, facts)


@dataclass(slots=True)
class _PostgresWriter:
    conn: psycopg.Connection[Any]
    signals: SignalIds
    budget: QuarantineBudget
    quarantined: int = 0

    def next_batch_id(self) -> int:
        return copy.next_batch_id(self.conn)

    def pending_holds(self) -> Sequence[Hold]:
        return telemetry.pending_holds(self.conn)

    def mark_holds(self, holds: Sequence[Hold], batch_id: int) -> None:
        telemetry.mark_holds(self.conn, holds, batch_id)

    def append(self, batch: ReadingBatch, batch_id: int, recorded_at: datetime) -> NDArray[np.bool_]:
        return copy.append(self.conn, batch, batch_id, recorded_at).inserted

    def save_expectations(self, expectations: ExpectationBatch) -> None:
        copy.append_expectations(self.conn, expectations, self.signals)

    def save_findings(self, findings: Sequence[Finding], batch_id: int, recorded_at: datetime) -> Sequence[Finding]:
        fresh = telemetry.save_findings(self.conn, findings, batch_id, recorded_at)
        telemetry.announce_findings(self.conn, fresh)
        return fresh

    def save_quarantine(self, entries: Sequence[QuarantineEntry]) -> None:
        now_at = max(entry.received_at for entry in entries)
        self.quarantined += sum(quarantine.save_quarantine(self.conn, entries, self.budget, now_at).values())

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        telemetry.save_checkpoint(self.conn, checkpoint)


# settings and metrics -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """Bounds of the pipeline; times are wall time in s unless the name says otherwise.

    Attributes
    ----------
    checkpoint_s, checkpoint_batches, checkpoint_readings
        A checkpoint is written when one of these has passed since the last: it bounds what a restart replays.
    tick_us : int
        Silence is judged once in this time of the clock, in microseconds.
    quiet_s : float
        How long nothing must have come before the clock itself, not the newest reading, is the present.
    history_quiet_s : float
        The same when what came last was history: more of it may be on its way.
    registry_look_s, unknown_look_s : float
        The registry is read again at most so often after news of a change, and for the sake of an unknown device without news.
    aside_s : float
        What was set aside is acknowledged when another message went through, or when nothing came for so long.
    poison_max : int
        So many messages in a row that neither store nor detectors can take end the process: then the fault is ours.
    """

    limits: BatchLimits = field(default_factory=BatchLimits)
    idle_wait_s: float = 0.1
    status_s: float = 1.0
    checkpoint_s: float = 30.0
    checkpoint_batches: int = 2_000
    checkpoint_readings: int = 1_000_000
    tick_us: int = MINUTE_US
    quiet_s: float = 1.0
    history_quiet_s: float = 60.0
    registry_look_s: float = 1.0
    unknown_look_s: float = 5.0
    backoff_s_min: float = 0.1
    backoff_s_max: float = 10.0
    aside_s: float = 5.0
    poison_max: int = 10


class PipelineState:
    """Words for what the pipeline is doing."""

    STARTING = "starting"
    WAITING_FOR_REGISTRY = "waiting for a registered site"
    REPLAYING = "replaying"
    RUNNING = "running"
    STORE_AWAY = "store away"
    STOPPED = "stopped"


@dataclass(slots=True)
class Metrics:
    """What was counted since the process began."""

    messages: int = 0
    readings: int = 0
    duplicates: int = 0
    findings: int = 0
    batches: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    batch_size: int = 0
    commit_s: float = 0.0
    last_commit_at: datetime | None = None
    newest_observed_us: int | None = None
    checkpoint_batch_id: int = 0
    rebuilds: int = 0
    replayed_batches: int = 0
    retries: int = 0
    poison: int = 0
    rates: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=6))

    def rate(self, now_s: float) -> tuple[float, float]:
        """Return messages and readings a wall second, over the last few calls."""
        self.rates.append((now_s, self.messages, self.readings))
        first_s, messages, readings = self.rates[0]
        span_s = now_s - first_s
        if span_s <= 0:
            return 0.0, 0.0
        return (self.messages - messages) / span_s, (self.readings - readings) / span_s


# the pipeline ---------------------------------------------------------------------------------------------------------------------------


class Pipeline:
    """Moves messages from a source into the store and through the detectors, each exactly once in effect.

    Parameters
    ----------
    source : Source
    store : Store
    bank_factory : callable (registry, signatures) -> Bank
    clock : Clock
        Stamps what is recorded and judges silence.
    settings : PipelineSettings
    monotonic_s, wait : callable
        Measure and spend waits, in s; passed in so that a simulation is the same every time.

    Notes
    -----
    *One transaction a batch.* Holds that detectors were not told yet, readings, findings, expectations, quarantine and now and then the state of
    the bank are written together; the source is told after the commit.

    *A failed transaction.* The bank may have stepped, so it is thrown away and built again as after a start: last committed checkpoint, then
    every later stored batch, with the holds at the batches at which they were told; the findings of that replay have their old ids and are
    there already. The same messages are then tried again; if the lost commit had in fact succeeded, they are all duplicates and nothing
    happens twice.

    *A poison message.* When a batch fails for another reason than an absent store, it is halved until the one message stands alone; that one goes
    to quarantine. Many in a row mean that the fault is ours, and the process ends without acknowledging them.

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
    ) -> None:
        self.settings = settings or PipelineSettings()
        self.metrics = Metrics()
        self.state = PipelineState.STARTING
        self._source = source
        self._store = store
        self._bank_factory = bank_factory
        self._clock = clock
        self._monotonic_s = monotonic_s
        self._wait = wait
        self._batcher: Batcher[Message] = Batcher(self.settings.limits)
        self._todo: deque[list[Message]] = deque()
        self._registry: Registry | None = None
        self._signatures: tuple[LeakSignatures, ...] = ()
        self._resolver: Resolver | None = None
        self._bank: Bank | None = None
        self._batch_id = 0
        self._tick_us = 0
        self._tick_look_s = -1e9
        self._live = self._history = False
        self._last_message_s = monotonic_s()
        self._status_s = -1e9
        self._registry_s = -1e9
        self._checkpoint_s = monotonic_s()
        self._since_batches = 0
        self._since_readings = 0
        self._poison_in_a_row = 0
        self._aside: list[Message] = []

    # the loop -----------------------------------------------------------------------------------------------------------------------

    def run(self, stop: Event) -> None:
        """Run until `stop` is set; what is not committed by then stays with the source.

        Raises
        ------
        InternalError
            When messages cannot be taken for a reason that lies with us.
        """
        backoff_s = self.settings.backoff_s_min
        while not stop.is_set():
            try:
                self.turn()
                backoff_s = self.settings.backoff_s_min
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
        if not self._ready():
            return
        if self._todo:
            self._work_off()
            if self._todo:
                return
        now_s = self._monotonic_s()
        wait_s = self._batcher.wait_s(now_s, self.settings.idle_wait_s)
        messages = self._source.poll(self._batcher.room(), wait_s)
        now_s = self._monotonic_s()
        if messages:
            self._last_message_s = now_s
            for message in messages:
                self._batcher.add(message, len(message.payload), now_s)
        if self._batcher.decide(now_s).is_take:
            self._todo.append(self._batcher.take())
            self._work_off()
        elif self._aside and now_s - self._last_message_s >= self.settings.aside_s:
            self._let_go()
        self._keep_house(now_s)

    def lose_store(self, error: Exception) -> None:
        """Take note that the store went away in the middle of something."""
        if self.state != PipelineState.STORE_AWAY:
            log.warning("%s; trying again", error)
        self.state = PipelineState.STORE_AWAY
        self.metrics.retries += 1
        self._bank = None
        self._store.close()

    def _ready(self) -> bool:
        """Connect, read the registry and build the bank, as far as that is not done; return whether messages may be taken."""
        if self._bank is not None:
            return True
        self._store.open()
        self._registry_s = self._monotonic_s()
        found = self._store.registry()
        if found is None:
            self.state = PipelineState.WAITING_FOR_REGISTRY
            self._say(self._monotonic_s())
            self._wait(self.settings.idle_wait_s)
            return False
        self._take_registry(*found)
        self._build()
        return True

    def _take_registry(self, registry: Registry, signatures: Sequence[LeakSignatures]) -> None:
        self._registry, self._signatures = registry, tuple(signatures)
        self._resolver = Resolver(registry)

    def _build(self) -> None:
        """Build the bank from the last committed checkpoint and every stored batch after it."""
        assert self._registry is not None
        self.state = PipelineState.REPLAYING
        self.metrics.rebuilds += 1
        bank = self._bank_factory(self._registry, self._signatures)
        batch_id = 0
        saved = self._store.checkpoint(self._partition)
        if saved is not None and saved.version == bank.version:
            bank.restore(saved.state)
            batch_id = saved.batch_id
        elif saved is not None:
            log.warning("the checkpoint is of detectors '%s', these are '%s': replaying everything", saved.version, bank.version)
        for step in self._store.replay_after(batch_id):
            if step.holds:
                bank.hold(step.holds)
            if len(step.readings):
                self._save_again(bank.step(step.readings).findings, step.batch_id)
                self._see(step.readings)
            batch_id = step.batch_id
            self.metrics.replayed_batches += 1
            self._say(self._monotonic_s())
        self._bank, self._batch_id = bank, batch_id
        self.state = PipelineState.RUNNING

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
    def _partition(self) -> str:
        assert self._registry is not None
        return self._registry.site.site_id

    # one batch ----------------------------------------------------------------------------------------------------------------------

    def _work_off(self) -> None:
        """Commit and acknowledge what is collected; halve what cannot be taken as a whole."""
        while self._todo:
            if not self._ready():
                return
            messages = self._todo[0]
            try:
                self._commit(messages)
            except StoreUnavailable:
                raise
            except Exception as error:
                self._bank = None
                if len(messages) > 1:
                    log.warning("a batch of %d messages cannot be taken, halving it: %s: %s", len(messages), type(error).__name__, error)
                    half = len(messages) // 2
                    self._todo.popleft()
                    self._todo.appendleft(messages[half:])
                    self._todo.appendleft(messages[:half])
                    continue
                self._set_aside(messages[0], error)
                self._aside.append(messages[0])
                self._todo.popleft()
                continue
            # what was set aside is acknowledged only now that another message went through: when nothing does, the fault is not theirs
            self._source.acknowledge([*self._aside, *messages])
            self._aside.clear()
            self._poison_in_a_row = 0
            self._todo.popleft()

    def _commit(self, messages: list[Message]) -> None:
        """Decode, resolve, and write everything of these messages in one transaction."""
        began_s = self._monotonic_s()
        dialects: list[str] = []
        decoded: list[tuple[Decoded, int]] = []
        for message in messages:
            dialect, found = decode(message.topic, message.payload)
            dialects.append(dialect)
            decoded.append((found, message.received_us))
        resolved = self._resolve(decoded)
        bank = self._bank
        assert bank is not None
        entries = _quarantine(messages, dialects, resolved.faults)
        recorded_at = self._clock.now_at()
        with self._store.transaction() as tx:
            batch_id = tx.next_batch_id()
            holds = tx.pending_holds()
            if holds:
                tx.mark_holds(holds, batch_id)
                bank.hold(holds)
            new = resolved.batch
            if len(new):
                new = new.take(tx.append(new, batch_id, recorded_at)).in_event_order()
            findings: Sequence[Finding] = ()
            if len(new):
                output = bank.step(new)
                findings = self._save_output(tx, output, batch_id, recorded_at)
            if entries:
                tx.save_quarantine(entries)
            checkpoint = self._checkpoint_due(len(new))
            if checkpoint:
                self._save_checkpoint(tx, bank, batch_id, recorded_at)
        self._batch_id = batch_id
        if checkpoint:
            self._checkpoint_done(batch_id)
        else:
            self._since_batches += 1
            self._since_readings += len(new)
        self._see(resolved.batch)
        metrics = self.metrics
        metrics.batches += 1
        metrics.messages += len(messages)
        metrics.readings += len(new)
        metrics.duplicates += len(resolved.batch) - len(new)
        metrics.findings += len(findings)
        metrics.batch_size = len(messages)
        metrics.commit_s = self._monotonic_s() - began_s
        metrics.last_commit_at = recorded_at
        metrics.quarantined.update(entry.fault.reason.value for entry in entries)

    def _resolve(self, decoded: list[tuple[Decoded, int]]) -> Resolved:
        """Resolve; when an unknown device speaks, look first whether it was registered meanwhile."""
        assert self._resolver is not None
        resolved = self._resolver.resolve(decoded)
        if resolved.unknown_devices:
            now_s = self._monotonic_s()
            known_to_change = self._store.registry_changed(ask=True)
            if (known_to_change or now_s - self._registry_s >= self.settings.unknown_look_s) and self._look_at_registry(now_s):
                resolved = self._resolver.resolve(decoded)
        return resolved

    def _save_output(self, tx: Writer, output: StepOutput, batch_id: int, recorded_at: datetime) -> Sequence[Finding]:
        if len(output.expectations):
            tx.save_expectations(output.expectations)
        return tx.save_findings(output.findings, batch_id, recorded_at) if output.findings else ()

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
        self._source.acknowledge(self._aside)
        self._aside.clear()

    def _set_aside(self, message: Message, error: Exception) -> None:
        """Quarantine one message that neither store nor detectors can take."""
        self._poison_in_a_row += 1
        if self._poison_in_a_row > self.settings.poison_max:
            raise InternalError(
                f"{self._poison_in_a_row} messages in a row cannot be taken, the last from topic {message.topic!r}: {type(error).__name__}: {error}"
            ) from error
        log.error("message on %r cannot be taken and goes to quarantine", message.topic, exc_info=error)
        fault = Fault(FaultReason.INTERNAL, f"we could not take this message: {type(error).__name__}: {error}")
        with self._store.transaction() as tx:
            tx.save_quarantine([QuarantineEntry(from_us(message.received_us), "", message.topic, message.payload, fault)])
        self.metrics.poison += 1
        self.metrics.messages += 1
        self.metrics.quarantined[fault.reason.value] += 1

    def _see(self, batch: ReadingBatch) -> None:
        """Remember the newest observed instant, and whether what comes is life or history."""
        if len(batch):
            newest_us = int(batch.observed_us.max())
            if self.metrics.newest_observed_us is None or newest_us > self.metrics.newest_observed_us:
                self.metrics.newest_observed_us = newest_us
            historical = (batch.flags & ReadingFlag.HISTORICAL) != 0
            self._history = bool(historical.any())
            self._live = self._live or not historical.all()

    # checkpoints --------------------------------------------------------------------------------------------------------------------

    def _checkpoint_due(self, readings: int) -> bool:
        settings = self.settings
        return (
            self._since_batches + 1 >= settings.checkpoint_batches
            or self._since_readings + readings >= settings.checkpoint_readings
            or self._monotonic_s() - self._checkpoint_s >= settings.checkpoint_s
        )

    def _save_checkpoint(self, tx: Writer, bank: Bank, batch_id: int, at: datetime) -> None:
        tx.save_checkpoint(Checkpoint(self._partition, batch_id, at, bank.version, bank.state()))

    def _checkpoint_done(self, batch_id: int) -> None:
        self._checkpoint_s = self._monotonic_s()
        self._since_batches = self._since_readings = 0
        self.metrics.checkpoint_batch_id = batch_id

    def _finish(self) -> None:
        """Write a last checkpoint and status, when the store is there."""
        self.state = PipelineState.STOPPED
        try:
            if self._bank is not None and self._since_batches:
                now_at = self._clock.now_at()
                with self._store.transaction() as tx:
                    self._save_checkpoint(tx, self._bank, self._batch_id, now_at)
                self._checkpoint_done(self._batch_id)
            if self._bank is not None:
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
        found = self._store.registry()
        if found is None:
            return False
        registry, signatures = found
        if registry == self._registry and _same_signatures(signatures, self._signatures):
            return False
        log.info("the registry changed: %d devices, %d channels", len(registry.devices), len(registry.channels))
        self._take_registry(registry, signatures)
        self._build()
        return True

    def _tick(self, now_s: float) -> None:
        """Judge silence, once in a while and never while behind."""
        if now_s - self._tick_look_s < TICK_LOOK_S:
            return
        self._tick_look_s = now_s
        bank, newest_us = self._bank, self.metrics.newest_observed_us
        if bank is None or newest_us is None or not self._live or self._todo:
            return
        clock_us = to_us(self._clock.now_at())
        source = self._source.facts()
        caught_up = source.get("queued", 0) == 0 and source.get("subscribed", True) and not len(self._batcher)
        quiet_s = self.settings.history_quiet_s if self._history else self.settings.quiet_s
        if caught_up and now_s - self._last_message_s >= quiet_s:
            present_us = clock_us
        elif self._history:
            return
        else:
            # behind, or busy: what came last is the present; when that is long ago, nobody is silent now
            present_us = min(newest_us, clock_us)
            if clock_us - present_us > HOUR_US:
                return
        if present_us - self._tick_us < self.settings.tick_us:
            return
        try:
            output = bank.tick(present_us)
            if output.findings or len(output.expectations):
                now_at = from_us(clock_us)
                with self._store.transaction() as tx:
                    batch_id = tx.next_batch_id()
                    new = self._save_output(tx, output, batch_id, now_at)
                    self._save_checkpoint(tx, bank, batch_id, now_at)
                self._batch_id = batch_id
                self._checkpoint_done(batch_id)
                self.metrics.findings += len(new)
        except BaseException:
            self._bank = None
            raise
        self._tick_us = present_us

    def _say(self, now_s: float) -> None:
        if now_s - self._status_s >= self.settings.status_s:
            self._status_s = now_s
            self._store.write_status(self.facts())

    def facts(self) -> dict[str, Any]:
        """Return what people want to see: plain values, flat but for ``quarantine`` (count by reason) and ``source``."""
        metrics = self.metrics
        source = self._source.facts()
        messages_per_s, readings_per_s = metrics.rate(self._monotonic_s())
        newest_us = metrics.newest_observed_us
        return {
            "state": self.state,
            "readings_per_s": round(readings_per_s, 1),
            "messages_per_s": round(messages_per_s, 1),
            "lag_s": None if newest_us is None else round((to_us(self._clock.now_at()) - newest_us) / SECOND_US, 3),
            "newest_observed_at": None if newest_us is None else from_us(newest_us).isoformat(),
            "messages": metrics.messages,
            "readings": metrics.readings,
            "duplicates": metrics.duplicates,
            "quarantined": sum(metrics.quarantined.values()),
            "findings": metrics.findings,
            "batches": metrics.batches,
            "batch_size": metrics.batch_size,
            "commit_ms": round(metrics.commit_s * 1000, 2),
            "last_commit_at": None if metrics.last_commit_at is None else metrics.last_commit_at.isoformat(),
            "batch_id": self._batch_id,
            "checkpoint_batch_id": metrics.checkpoint_batch_id,
            "unacked": source.get("unacked", 0),
            "queued": source.get("queued", 0),
            "broker": source.get("state", ""),
            "protocol": source.get("protocol", ""),
            "subscribed": source.get("subscribed", False),
            "rebuilds": metrics.rebuilds,
            "replayed_batches": metrics.replayed_batches,
            "retries": metrics.retries,
            "poison": metrics.poison,
            "site": "" if self._registry is None else self._registry.site.site_id,
            "devices": 0 if self._registry is None else len(self._registry.devices),
            "quarantine": dict(metrics.quarantined),
            "source": source,
        }


def _quarantine(messages: Sequence[Message], dialects: Sequence[str], faults: Sequence[tuple[int, Fault]]) -> list[QuarantineEntry]:
    """Return one entry a message and reason: the first fault, with the number of further ones of that reason."""
    grouped: dict[tuple[int, FaultReason], list[Fault]] = {}
    for index, fault in faults:
        grouped.setdefault((index, fault.reason), []).append(fault)
    entries: list[QuarantineEntry] = []
    for (index, _), found in grouped.items():
        fault = found[0]
        if len(found) > 1:
            fault = dataclasses.replace(fault, message=f"{fault.message}; and {len(found) - 1} more of this kind")
        message = messages[index]
        entries.append(QuarantineEntry(from_us(message.received_us), dialects[index], message.topic, message.payload, fault))
    return entries


def _same_signatures(one: Sequence[LeakSignatures], other: Sequence[LeakSignatures]) -> bool:
    return len(one) == len(other) and all(
        a.zone_id == b.zone_id
        and a.pipe_ids == b.pipe_ids
        and a.channel_ids == b.channel_ids
        and np.array_equal(a.fall_kpa_per_m3ph, b.fall_kpa_per_m3ph)
        for a, b in zip(one, other, strict=True)
    )
