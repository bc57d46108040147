"""From publish to committed finding, while ingest carries half of what it can."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from underway.app.bench.drain import Meter, join
from underway.app.bench.figures import LATENCY_SHARES, Bound, Figure, Gate, GateReason, Part, percentile
from underway.app.bench.native import NativeTown, measure_sustained, native_meter
from underway.app.bench.payloads import native_messages
from underway.app.bench.prepared import Say
from underway.app.bench.town import ROUND_US, Rounds, last_values, marked_history
from underway.app.bench.wire import Due, Publisher, packets
from underway.model import StoreUnavailable, to_us
from underway.store import measure
from underway.store.connect import connect
from underway.store.status import write_status
from underway.store.telemetry import FINDING_CHANNEL

P99_MS_MAX = 400.0
LOAD_SHARE = 0.5
CHECKPOINT_S = 2.0
"""More often than the default of 30 s, so that a short run holds several."""
PIECE_S = 0.01
COMMITS = 40
LOOK_S = 0.5
LEAD_S = 1.5
"""The load is on for so long before the first marked message."""
AFTER_S_MAX = 10.0
DRAIN_S_MAX = 60.0


@dataclass(slots=True)
class FindingWatch:
    """Listens for committed findings on a connection of its own and notes when each device's first RAISE could be read."""

    url: str
    seen_s: dict[str, float] = field(default_factory=dict)
    others: int = 0
    error: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _ready: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> FindingWatch:
        self._thread = threading.Thread(target=self._run, name="finding-watch", daemon=True)
        self._thread.start()
        if not self._ready.wait(10.0):
            raise StoreUnavailable(f"the benchmark must hear of findings, got: {self.error or 'no answer'}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(10.0)

    def _run(self) -> None:
        try:
            with connect(self.url, application_name="underway-bench-listen") as conn:
                conn.execute(f"LISTEN {FINDING_CHANNEL}".encode())
                seq = max((row[0] for row in measure.finding_assets_after(conn, 0)), default=0)
                self._ready.set()
                while not self._stop.is_set():
                    # the whole list first: while the notifications are taken the connection takes no question
                    if not list(conn.notifies(timeout=0.2, stop_after=1)):
                        continue
                    found = measure.finding_assets_after(conn, seq)
                    # after the answer, not before the question: what is read here was certainly committed by now
                    now_s = time.perf_counter()
                    for number, asset_id, phase in found:
                        seq = number
                        if phase == "raise" and asset_id not in self.seen_s:
                            self.seen_s[asset_id] = now_s
                        else:
                            self.others += 1
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"


def latency(native: NativeTown, say: Say) -> Part:
    """Publish a steady load and marked messages that must each cause a finding; measure until each can be read."""
    part = Part("latency", "from publish to committed finding, at half of the rate of a live stream of one-reading messages")
    sustained = native.sustained_per_s or measure_sustained(native, say)
    if sustained is None:
        part.gates = [Gate("p99", None, Bound.AT_MOST, P99_MS_MAX, "ms", flaw=GateReason.NOT_MEASURED)]
        part.notes.append("the sustained rate could not be measured")
        return part
    town, options = native.town, native.options
    rate = LOAD_SHARE * sustained
    rounds = max(1, min(round(rate * options.latency_s / town.size), native.rounds_until_now()))
    load = native.next_rounds(rounds)
    say(f"latency: {rate:,.0f} messages/s for {len(load) / rate:.0f} s, {town.marked} of them marked")
    commit_ms = empty_commits_ms(native.url)
    load_packets = packets(native_messages(town, load))
    piece = max(1, round(rate * PIECE_S))
    stands = last_values(marked_history(town, native.first_us + (native.trained.rounds - 1) * ROUND_US), town)
    more = {"UNDERWAY_CHECKPOINT_S": f"{CHECKPOINT_S:g}"}
    with native_meter(native, more) as meter, FindingWatch(native.url) as watch:
        run = _Run(meter, native.place.broker.port)
        sent_s, marked = run.go(load_packets, piece, rate, town.registry.site.site_id, stands, native)
        ends_s = time.perf_counter() + AFTER_S_MAX
        while len(watch.seen_s) < len(sent_s) and time.perf_counter() < ends_s:
            time.sleep(0.02)
        complete = meter.await_stored(len(load_packets) + len(marked), DRAIN_S_MAX)
        drained = meter.result(join([load, marked]), {}, complete=complete)
        meter.note(part, [drained])
        if watch.error:
            part.notes.append(f"the listener ended: {watch.error}")
        waits_ms = [(watch.seen_s[asset] - at) * 1000 for asset, at in sent_s.items() if asset in watch.seen_s]
        part.counts |= {
            "marked": len(sent_s),
            "findings": len(waits_ms),
            "other_findings": watch.others + len(set(watch.seen_s) - set(sent_s)),
            "checkpoints": len(run.checkpoints) - 1,
        }
    part.figures = [
        Figure(f"p{share * 100:g}", "ms", tuple(v for v in [percentile(waits_ms, share)] if v is not None)) for share in LATENCY_SHARES
    ]
    part.figures.append(Figure("slowest", "ms", (max(waits_ms),) if waits_ms else ()))
    part.figures.append(Figure("commit of one row, ingest at rest", "ms", (commit_ms,)))
    part.figures.append(Figure("load", "messages/s", (rate,), note=f"{LOAD_SHARE:g} of {sustained:,.0f} messages/s"))
    flaw = native.flaw
    if drained.differing or len(waits_ms) < len(sent_s):
        flaw = GateReason.ROWS_DIFFER
    part.gates = [
        Gate("p99", percentile(waits_ms, 0.99), Bound.AT_MOST, P99_MS_MAX, "ms", flaw=flaw),
        Gate("checkpoints during the run", float(len(run.checkpoints) - 1), Bound.AT_LEAST, 1.0),
    ]
    if run.late_s > 0.1:
        part.notes.append(f"the publisher of the load was up to {run.late_s:.2f} s behind its plan")
    part.settings = {**native.settings, "checkpoint_s": CHECKPOINT_S, "seconds": round(len(load) / rate, 1)}
    return part


def empty_commits_ms(url: str) -> float:
    """Return the median time of a transaction that writes one small row, in ms: what this server's disk asks for at least."""
    took: list[float] = []
    with connect(url, application_name="underway-bench") as conn:
        for number in range(COMMITS):
            began_s = time.perf_counter()
            write_status(conn, "bench", os.getpid(), datetime.now(UTC), {"number": number})
            took.append((time.perf_counter() - began_s) * 1000)
    return percentile(took, 0.5) or 0.0


class _Run:
    """Sends load and marked messages side by side."""

    def __init__(self, meter: Meter, port: int) -> None:
        self._meter, self._port = meter, port
        self.checkpoints: set[int] = set()
        self._looked_s = 0.0
        self.late_s = 0.0
        self._failed = threading.Event()

    def go(
        self, load: list[bytes], piece: int, rate: float, site_id: str, stands: Mapping[int, float], native: NativeTown
    ) -> tuple[dict[str, float], Rounds]:
        """Return when each marked device's message was published, and the marked readings."""
        joined = [(b"".join(load[i : i + piece]), len(load[i : i + piece])) for i in range(0, len(load), piece)]
        self._look()
        begin_s = time.perf_counter() + 0.2
        dues = [Due(begin_s + k * piece / rate, data, count) for k, (data, count) in enumerate(joined)]
        span_s = len(load) / rate
        rng = np.random.default_rng([native.town.seed, 5])
        whens = np.sort(begin_s + LEAD_S + rng.uniform(0, max(0.5, span_s - LEAD_S - 1.0), len(stands))).tolist()
        sent_s: dict[str, float] = {}
        at_us: list[int] = []
        index: list[int] = []
        values: list[float] = []
        channels = native.town.registry.channels
        with Publisher(self._port, "bench-load") as load_publisher, Publisher(self._port, "bench-marked") as publisher:
            thread = threading.Thread(target=self._load, args=(load_publisher, dues), name="bench-load")
            thread.start()
            for number, (place, when_s) in enumerate(zip(rng.permutation(list(stands)).tolist(), whens, strict=True)):
                self._wait(when_s)
                channel, now_us = channels[place], to_us(datetime.now(UTC)) // 1_000_000 * 1_000_000
                moment = Rounds(np.array([place]), np.array([now_us]), np.array([stands[place]]))
                packet = packets(native_messages(native.town, moment))[0]
                sent_s[f"device:{channel.device_id}"] = publisher.send_now(packet)
                index.append(place)
                at_us.append(now_us)
                values.append(stands[place])
                if self._failed.is_set():
                    raise StoreUnavailable(f"the load must go on for {span_s:.0f} s, its publisher failed after {number} marked messages")
            self._wait(begin_s + span_s)
            thread.join(DRAIN_S_MAX)
        return sent_s, Rounds(np.array(index), np.array(at_us), np.array(values))

    def _load(self, publisher: Publisher, dues: list[Due]) -> None:
        try:
            self.late_s = publisher.paced(dues, self._failed.is_set)
        except Exception:  # in a thread of its own: whatever it is, those that wait are told that there is no load any more
            self._failed.set()

    def _wait(self, until_s: float) -> None:
        """Wait, and now and then note which checkpoint ingest wrote last."""
        while (wait_s := until_s - time.perf_counter()) > 0:
            if time.perf_counter() - self._looked_s > LOOK_S:
                self._looked_s = time.perf_counter()
                self._look()
            else:
                time.sleep(min(wait_s, LOOK_S))

    def _look(self) -> None:
        facts: Mapping[str, Any] = self._meter.ingest.facts()
        self.checkpoints.add(int(facts.get("checkpoint_batch_id", 0)))
