"""What the pipeline talks to: the detectors, the store and one open transaction; and the store on PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import psycopg
from numpy.typing import NDArray

from ingest.quarantine import QuarantineBudget
from underway.app.ingest_metrics import Stages
from underway.model import (
    ExpectationBatch,
    Finding,
    Hold,
    LeakSignatures,
    NetworkModel,
    Operation,
    OperatorError,
    ReadingBatch,
    Registry,
    StoreUnavailable,
)
from underway.store import copy, memory, operations, telemetry
from underway.store import registry as registry_store
from underway.store.connect import connect, store_errors
from underway.store.copy import SignalIds
from underway.store.memory import ClockRow, LateWindow, MemoryRow, PresenceRow
from underway.store.pending import PendingEntry, note_pending
from underway.store.quarantine import QuarantineEntry, prune_quarantine, save_quarantine
from underway.store.status import alone, listen_registry, take_notices, write_status
from underway.store.telemetry import Checkpoint, ReplayStep

log = logging.getLogger("underway.ingest.store")

SERVICE = "ingest"
QUARANTINE_ROWS_MAX = 200_000
QUARANTINE_PRUNE_EVERY = 1_000


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

    def step(self, batch: ReadingBatch, parts: Collection[str] | None = None) -> StepOutput:
        """Judge new readings, in event order; only in the named parts when some are named."""
        ...

    def late_lanes(self, batch: ReadingBatch) -> Sequence[tuple[str, NDArray[np.integer[Any]]]]:
        """Return the lanes that judged the time of some rows already, each with the positions of these rows; changes nothing."""
        ...

    def hold(self, holds: Sequence[Hold], parts: Collection[str] | None = None) -> None:
        """Stop or resume adapting, before the next batch."""
        ...

    def operate(self, operations: Sequence[Operation], parts: Collection[str] | None = None) -> None:
        """Take known operations and withdrawals into account, before the next batch."""
        ...

    def tick(self, now_us: int) -> StepOutput:
        """Judge silence."""
        ...

    def tick_parts(self) -> Collection[str]:
        """Return the parts whose state a tick may change."""
        ...

    def lane_channels(self, lane_key: str) -> Collection[int]:
        """Return the channels that feed a lane; none when there is no such lane."""
        ...

    def parts(self) -> Sequence[str]:
        """Return the names of the parts in which the state is kept."""
        ...

    def part_state(self, name: str) -> bytes:
        """Return everything that the next step of a part depends on."""
        ...

    def restore_part(self, name: str, state: bytes) -> object:
        """Take back what `part_state` returned, before the first step; `parts` may change by it."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what people want to see of it: plain values."""
        ...


class BankFactory(Protocol):
    """What builds the detectors of a registry."""

    def __call__(self, registry: Registry, signatures: Sequence[LeakSignatures], *, models: Sequence[NetworkModel]) -> Bank:
        """Return a fresh bank."""
        ...


class Writer(Protocol):
    """One open transaction."""

    def next_batch_id(self) -> int:
        """Return an id greater than every one before."""
        ...

    def pending_holds(self, site_id: str) -> Sequence[Hold]:
        """Return what the detectors of a site were not told yet."""
        ...

    def mark_holds(self, holds: Sequence[Hold], batch_id: int) -> None:
        """Note that detectors were told before this batch."""
        ...

    def pending_operations(self, site_id: str) -> Sequence[Operation]:
        """Return the known operations and withdrawals that the detectors of a site were not told yet."""
        ...

    def mark_operations(self, told: Sequence[Operation], batch_id: int) -> None:
        """Note that detectors were told of them before this batch."""
        ...

    def begin_append(self, batch: ReadingBatch, batch_id: int, recorded_at: datetime) -> Callable[[], NDArray[np.bool_]]:
        """Begin to store readings; the answer waits for the end and returns which were new. Nothing else may be asked until then."""
        ...

    def newest_observed_us(self, channel_ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the newest stored key of channels that have one, those of this transaction too."""
        ...

    def save_expectations(self, expectations: ExpectationBatch) -> None:
        """Store what detectors expected."""
        ...

    def save_findings(self, findings: Sequence[Finding], batch_id: int, recorded_at: datetime) -> Sequence[Finding]:
        """Store findings, tell listeners at commit; return those that are new."""
        ...

    def save_quarantine(self, entries: Sequence[QuarantineEntry], now_at: datetime) -> None:
        """Store what could not be taken, as far as its device may fill the quarantine."""
        ...

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint of one part."""
        ...

    def save_facts(self, facts: BatchFacts, now_at: datetime) -> None:
        """Store what messages said beside their readings."""
        ...


@dataclass(slots=True)
class BatchFacts:
    """What the messages of a batch said beside readings, to be stored with them."""

    memory: list[MemoryRow] = field(default_factory=list)
    presence: list[PresenceRow] = field(default_factory=list)
    clocks: list[ClockRow] = field(default_factory=list)
    pending: list[PendingEntry] = field(default_factory=list)
    late: list[LateWindow] = field(default_factory=list)
    site_id: str = ""

    def __bool__(self) -> bool:
        return bool(self.memory or self.presence or self.clocks or self.pending or self.late)


@dataclass(frozen=True, slots=True)
class AddressBook:
    """What is registered, and what was learned of it."""

    registry: Registry
    signatures: tuple[LeakSignatures, ...] = ()
    clock_offset_ms: Mapping[str, int] = field(default_factory=dict)
    models: tuple[NetworkModel, ...] = ()


class Store(Protocol):
    """Where readings are kept. Every method raises `StoreUnavailable` when it is worth trying again later."""

    def open(self) -> None:
        """Connect, if not connected."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...

    def address_book(self) -> AddressBook | None:
        """Return what is registered, or None while no site is."""
        ...

    def registry_changed(self, *, ask: bool = False) -> bool:
        """Return whether the registry was written to since it was read last, as far as is known; `ask` makes sure."""
        ...

    def memory(self) -> Sequence[MemoryRow]:
        """Return what dialects remember."""
        ...

    def checkpoints(self, partition: str) -> Iterator[Checkpoint]:
        """Yield the parts of the last committed checkpoint."""
        ...

    def forget_checkpoints(self, partition: str, keep: Sequence[str]) -> None:
        """Delete parts that are no longer cut like that."""
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
    budget : QuarantineBudget, optional
        How much each device may fill the quarantine.
    stages : Stages, optional
        Where the time of its own thread is counted.
    """

    def __init__(
        self,
        url: str,
        site_id: str | None,
        pid: int,
        started_at: datetime,
        budget: QuarantineBudget | None = None,
        stages: Stages | None = None,
    ) -> None:
        self._url, self._site_id, self._pid, self._started_at = url, site_id, pid, started_at
        self._budget = budget or QuarantineBudget()
        self._stages = stages or Stages()
        self._conn: psycopg.Connection[Any] | None = None
        self._signals = SignalIds()
        self._changed = False
        self._unpruned = QUARANTINE_PRUNE_EVERY
        self._waiting_for = ""
        # COPY waits for the server in a thread of its own, while detectors judge the same rows in this one
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="copy")

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

    def address_book(self) -> AddressBook | None:
        """Return what is registered, or None while no site is."""
        with store_errors("read the registry"):
            self._changed = False
            try:
                with self._live.transaction():
                    registry = registry_store.load_registry(self._live, self._site_id)
                    signatures = registry_store.load_leak_signatures(self._live, registry.site.site_id)
                    models = registry_store.load_network_models(self._live, registry.site.site_id)
                    return AddressBook(registry, signatures, memory.load_clocks(self._live, registry.site.site_id), models)
            except OperatorError as error:
                if str(error) != self._waiting_for:
                    log.warning("waiting for a site: %s", error)
                    self._waiting_for = str(error)
                return None
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
                raise OperatorError(
                    "the database must have the tables of this version of underway, got others or none; run 'underway db migrate'"
                ) from error

    def registry_changed(self, *, ask: bool = False) -> bool:
        """Return whether the registry was written to since it was read last; news comes with any statement, `ask` sends an empty one."""
        if ask and not self._changed:
            with store_errors("ask for news"):
                take_notices(self._live)
        return self._changed

    def memory(self) -> Sequence[MemoryRow]:
        """Return what dialects remember."""
        with store_errors("read what dialects remember"):
            return memory.load_memory(self._live)

    def checkpoints(self, partition: str) -> Iterator[Checkpoint]:
        """Yield the parts of the last committed checkpoint."""
        with store_errors("read the checkpoint"):
            yield from telemetry.load_checkpoints(self._live, partition)

    def forget_checkpoints(self, partition: str, keep: Sequence[str]) -> None:
        """Delete parts that are no longer cut like that."""
        with store_errors("clear the checkpoint"):
            telemetry.forget_checkpoints(self._live, partition, keep)

    def replay_after(self, batch_id: int) -> Iterator[ReplayStep]:
        """Yield what detectors saw in later batches."""
        with store_errors("replay"):
            yield from telemetry.replay_after(self._live, batch_id)

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Begin; commit at the end of the block, roll back when it raises."""
        try:
            with store_errors("store a batch"), self._live.transaction():
                writer = _PostgresWriter(self._live, self._signals, self._copier, self._budget, self._stages)
                yield writer
                self._unpruned += writer.quarantined
                if writer.quarantined and self._unpruned >= QUARANTINE_PRUNE_EVERY:
                    prune_quarantine(self._live, QUARANTINE_ROWS_MAX)
                    self._unpruned = 0
        except BaseException:
            self._budget.undo()  # what is tried again costs its sender only once
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
    copier: ThreadPoolExecutor
    budget: QuarantineBudget
    stages: Stages
    quarantined: int = 0

    def next_batch_id(self) -> int:
        return copy.next_batch_id(self.conn)

    def pending_holds(self, site_id: str) -> Sequence[Hold]:
        return telemetry.pending_holds(self.conn, site_id)

    def mark_holds(self, holds: Sequence[Hold], batch_id: int) -> None:
        telemetry.mark_holds(self.conn, holds, batch_id)

    def pending_operations(self, site_id: str) -> Sequence[Operation]:
        return operations.pending_operations(self.conn, site_id)

    def mark_operations(self, told: Sequence[Operation], batch_id: int) -> None:
        operations.mark_operations(self.conn, told, batch_id)

    def begin_append(self, batch: ReadingBatch, batch_id: int, recorded_at: datetime) -> Callable[[], NDArray[np.bool_]]:
        return self.copier.submit(self._append, batch, batch_id, recorded_at).result

    def _append(self, batch: ReadingBatch, batch_id: int, recorded_at: datetime) -> NDArray[np.bool_]:
        with self.stages.timed("copy", len(batch)):
            return copy.append(self.conn, batch, batch_id, recorded_at).inserted

    def newest_observed_us(self, channel_ids: NDArray[np.int32]) -> NDArray[np.int64]:
        return copy.newest_observed_us(self.conn, channel_ids)

    def save_expectations(self, expectations: ExpectationBatch) -> None:
        copy.append_expectations(self.conn, expectations, self.signals)

    def save_findings(self, findings: Sequence[Finding], batch_id: int, recorded_at: datetime) -> Sequence[Finding]:
        fresh = telemetry.save_findings(self.conn, findings, batch_id, recorded_at)
        telemetry.announce_findings(self.conn, fresh)
        return fresh

    def save_quarantine(self, entries: Sequence[QuarantineEntry], now_at: datetime) -> None:
        self.quarantined += sum(save_quarantine(self.conn, entries, self.budget, now_at).values())

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        telemetry.save_checkpoint(self.conn, checkpoint)

    def save_facts(self, facts: BatchFacts, now_at: datetime) -> None:
        memory.save_memory(self.conn, facts.memory, now_at)
        memory.save_presence(self.conn, facts.presence)
        memory.save_clocks(self.conn, facts.clocks)
        memory.note_late_windows(self.conn, facts.late, now_at, facts.site_id)
        note_pending(self.conn, facts.pending)
