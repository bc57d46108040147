"""One repetition: a backlog that waits for a process at the broker, from the first message that comes of it to the last commit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from underway.app.bench.figures import Part, stage_us
from underway.app.bench.processes import CpuWatch, Ingest
from underway.app.bench.town import Rounds
from underway.store import measure
from underway.store.measure import StoredBatch

VALUE_RTOL = 1e-9
"""Units are converted on the way: a value may come back different in its last digits."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What ingest made of a backlog.

    Attributes
    ----------
    rate_per_s : float or None
        Readings a second, see `steady_rate`; None when it did not get through.
    differing : int
        Published readings that are not in the table as published, plus stored ones that nobody published.
    complete : bool
        Whether ingest said in time that it has stored every message.
    """

    rate_per_s: float | None
    readings: int
    stored: int
    differing: int
    batches: int
    complete: bool
    cpu_s: Mapping[str, float]
    stages: Mapping[str, float]


def steady_rate(batches: Sequence[StoredBatch], begun_at: datetime | None = None) -> float | None:
    """Return readings a second from `begun_at`, else from the reception of the first message, to the begin of the last transaction.

    The readings of the last batch are not counted: when it was committed is not written down.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> def at(second):
    ...     return datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
    >>> steady_rate([StoredBatch(1, 50, at(1), at(0)), StoredBatch(2, 50, at(2), at(1)), StoredBatch(3, 7, at(4), at(3))])
    25.0
    >>> steady_rate([StoredBatch(1, 50, at(1), at(0))]) is None
    True
    """
    if len(batches) < 2:
        return None
    last = max(batches, key=lambda batch: batch.recorded_at)
    elapsed_s = (last.recorded_at - (begun_at or min(batch.received_at for batch in batches))).total_seconds()
    return (sum(batch.readings for batch in batches) - last.readings) / elapsed_s if elapsed_s > 0 else None


def differing_rows(published: Rounds, channel_ids: NDArray[np.int32], stored: Mapping[str, NDArray[Any]]) -> int:
    """Return how many readings are on one side only, or have another value on the other.

    Examples
    --------
    >>> sent = Rounds(np.array([0, 0, 1]), np.array([10, 20, 10]), np.array([1.0, 2.0, 3.0]))
    >>> stored = {"channel_id": np.array([7, 7]), "observed_us": np.array([10, 20]), "value": np.array([1.0, 2.5])}
    >>> differing_rows(sent, np.array([7, 8], np.int32), stored)
    2
    """
    ids = channel_ids[published.index]
    order = np.lexsort((published.at_us, ids))
    channel, at = ids[order].astype(np.int64), published.at_us[order]
    if np.array_equal(channel, stored["channel_id"]) and np.array_equal(at, stored["observed_us"]):
        return int((~np.isclose(published.value[order], stored["value"], rtol=VALUE_RTOL, atol=0.0)).sum())
    sent = dict(zip(zip(channel.tolist(), at.tolist(), strict=True), published.value[order].tolist(), strict=True))
    wrong = 0
    for c, us, value in zip(stored["channel_id"].tolist(), stored["observed_us"].tolist(), stored["value"].tolist(), strict=True):
        expected = sent.pop((c, us), None)
        wrong += expected is None or abs(expected - value) > VALUE_RTOL * abs(expected)
    return wrong + len(sent)


def join(parts: Sequence[Rounds]) -> Rounds:
    """Return all readings of `parts`, one after the other."""
    return Rounds(
        np.concatenate([p.index for p in parts]), np.concatenate([p.at_us for p in parts]), np.concatenate([p.value for p in parts])
    )


class Meter:
    """Measures one ingest process, backlog after backlog.

    Parameters
    ----------
    ingest : Ingest
    watch : CpuWatch
        Of the processes whose CPU time belongs to the measurement.
    channel_ids : ndarray of int32
        By place in the town.
    """

    def __init__(self, ingest: Ingest, watch: CpuWatch, channel_ids: NDArray[np.int32]) -> None:
        self.ingest, self.watch, self._ids = ingest, watch, channel_ids
        self.messages = int(ingest.facts().get("messages", 0))
        self._duplicates = int(ingest.facts().get("duplicates", 0))
        self.batch_id = measure.last_batch_id(ingest.conn)
        self.quarantined = measure.quarantine_count(ingest.conn)
        self._stages: Mapping[str, Mapping[str, float]] = dict(ingest.facts().get("stages", {}))

    def drain(self, messages: int, published: Rounds, seconds_max: float) -> Drained:
        """Let the frozen process go, wait until it has stored `messages`, and compare what it stored with what was published."""
        before = self.watch.look()
        self.ingest.thaw()
        complete = self.await_stored(messages, seconds_max)
        cpu = {name: s - before.get(name, 0.0) for name, s in self.watch.look().items()}
        return self.result(published, cpu, complete=complete)

    def await_stored(self, messages: int, seconds_max: float) -> bool:
        """Wait until ingest says that it has stored `messages` more; False when it did not in time."""
        self.messages += messages
        return self.ingest.wait(lambda facts: int(facts.get("messages", 0)) >= self.messages, seconds_max)

    def result(self, published: Rounds, cpu_s: Mapping[str, float], *, complete: bool, begun_at: datetime | None = None) -> Drained:
        """Return what came since the last look, and remember this one; see `steady_rate` for `begun_at`."""
        conn = self.ingest.conn
        batches = measure.batches_after(conn, self.batch_id)
        stored = measure.rows_after(conn, self.batch_id)
        differing = differing_rows(published, self._ids, stored)
        stages: Mapping[str, Mapping[str, float]] = dict(self.ingest.facts().get("stages", {}))
        by_stage = stage_us(stages, self._stages, len(published))
        self._stages = stages
        self.batch_id = measure.last_batch_id(conn)
        rate = steady_rate(batches, begun_at) if complete else None
        return Drained(rate, len(published), len(stored["value"]), differing, len(batches), complete, dict(cpu_s), by_stage)

    def note(self, part: Part, drained: Sequence[Drained]) -> None:
        """Add counts and CPU times of the repetitions to a part."""
        for one in drained:
            part.count("published", one.readings)
            part.count("stored", one.stored)
            part.count("differing", one.differing)
            part.count("batches", one.batches)
        part.counts["quarantined"] = measure.quarantine_count(self.ingest.conn) - self.quarantined
        part.counts["delivered_again"] = int(self.ingest.facts().get("duplicates", 0)) - self._duplicates
        readings = sum(one.readings for one in drained)
        if readings:
            names = {name for one in drained for name in one.cpu_s}
            part.cpu_us["process"] = {name: sum(one.cpu_s.get(name, 0.0) for one in drained) * 1e6 / readings for name in sorted(names)}
            stages = list(dict.fromkeys(name for one in drained for name in one.stages))
            by_stage = {name: sum(one.stages.get(name, 0.0) * one.readings for one in drained) / readings for name in stages}
            if by_stage and "ingest" in names:
                by_stage["not told"] = part.cpu_us["process"]["ingest"] - sum(by_stage.values())
            part.cpu_us["stage"] = by_stage
        if not part.cpu_us.get("stage"):
            part.notes.append("this ingest does not tell its CPU time by stage")
        if part.counts["delivered_again"]:
            part.notes.append("the broker delivered readings twice while ingest was measured: it lost its connection")


def let_settle(ingest: Ingest, seconds: float = 1.2) -> None:
    """Wait until its facts are of a time at which it had nothing to do."""
    time.sleep(seconds)
    ingest.check()
