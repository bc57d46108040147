"""A town of the leak benchmark sent through the whole live path: devices, broker, ingest in a process of its own, PostgreSQL, findings read back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from psycopg import Connection

from detectors.water.network_leaks import NetworkLeaks
from detectors.water.sections import CUSTOMER_ROLE
from underway.app.bench.leak_town import BenchTown
from underway.app.bench.place import Place, bench_place
from underway.app.bench.processes import Ingest, cpu_s, ingest_process
from underway.app.bench.wire import Publisher, chunks, packets
from underway.app.clock import REFRESH_STANDING_S
from underway.app.network import take_model
from underway.model import HOUR_US, Channel, Device, Finding, Hold, OperatorError, ReadingBatch, Registry, StoreUnavailable, from_us
from underway.store import measure, telemetry, work
from underway.store.clock import ClockRow, write_clock
from underway.store.connect import connect
from underway.store.registry import load_registry, save_registry

CHANNELS_A_DEVICE = 60
"""A message of the native dialect holds 64 values of an instant at most."""
CLOCK_MARGIN_S = 0.005
"""Beyond the time after which ingest looks at a standing clock again."""
STORED_S_MAX = 120.0
"""Longest wait for an hour of readings to be stored: learning takes a transaction of half a minute."""
LOOK_S = 0.002
BATCH_AGE_S = "0.01"


@dataclass(frozen=True, slots=True)
class LiveReplay:
    """What came of it.

    Attributes
    ----------
    findings : tuple of Finding
        Of the network's detectors, as the database has them.
    readings, messages : int
        Published.
    stored, flagged, quarantined : int
        Readings that are stored; those of them that are late, historical, not good or of a wrong clock; messages in quarantine.
    wall_s, ingest_cpu_s, own_cpu_s : float
        From the first publish to the last finding read; CPU time of ingest and of the publisher meanwhile.
    """

    findings: tuple[Finding, ...]
    readings: int
    messages: int
    stored: int
    flagged: int
    quarantined: int
    wall_s: float
    ingest_cpu_s: float
    own_cpu_s: float
    broker: str

    def complaint(self) -> str:
        """Return what was not as in life, empty when all was: then nothing can be said of the detectors."""
        if (self.stored, self.flagged, self.quarantined) == (self.readings, 0, 0):
            return ""
        return (
            f"{self.readings:,} readings were published, {self.stored:,} are stored, {self.flagged:,} of them late, historical or suspect,"
            f" and {self.quarantined:,} messages are in quarantine"
        )


def outstations(registry: Registry, registered_at: datetime) -> Registry:
    """Return the registry with its channels at outstations: of each zone one for SCADA and one for customers' meters, more where they do not fit."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, channel in enumerate(registry.channels):
        kind = "amr" if channel.role == CUSTOMER_ROLE else "rtu"
        groups.setdefault((kind, channel.zone_id or ""), []).append(place)
    channels: list[Channel] = list(registry.channels)
    devices: list[Device] = []
    for (kind, zone_id), places in sorted(groups.items()):
        for first in range(0, len(places), CHANNELS_A_DEVICE):
            device_id = f"{kind}-{len(devices) + 1}"
            devices.append(Device(device_id, registry.site.site_id, zone_id or None, None, "outstation", "native", registered_at))
            for place in places[first : first + CHANNELS_A_DEVICE]:
                channels[place] = replace(channels[place], device_id=device_id)
    return replace(registry, devices=tuple(devices), channels=tuple(channels))


class Messages:
    """Makes messages of readings: one for each outstation and instant, in the order of time.

    Parameters
    ----------
    registry : Registry
        With outstations.
    stored : Registry
        The same as the store has it.
    numbers : sequence of int
        Channel ids that the batches to come use, in the order of `registry.channels`.
    """

    def __init__(self, registry: Registry, stored: Registry, numbers: Sequence[int]) -> None:
        size = max(numbers) + 1
        self._name, self._device, self._stored_id = [""] * size, np.zeros(size, np.int64), np.zeros(size, np.int64)
        number = {d.device_id: i for i, d in enumerate(registry.devices)}
        ids = {(c.device_id, c.name): c.channel_id for c in stored.channels}
        self._topic = [f"uw/{d.site_id}/{d.device_id}/telemetry".encode() for d in registry.devices]
        for channel, at in zip(registry.channels, numbers, strict=True):
            self._name[at] = json.dumps(channel.name)
            self._device[at] = number[channel.device_id]
            self._stored_id[at] = ids[channel.device_id, channel.name]

    def hours(self, batch: ReadingBatch) -> Iterator[tuple[int, int, list[tuple[bytes, bytes]], tuple[int, int]]]:
        """Yield (hour since 1970, readings, [(topic, payload)], (stored channel id, instant) of the last reading) of a batch in event order."""
        order = np.lexsort((self._device[batch.channel_id], batch.observed_us))
        at, channel, value = batch.observed_us[order], batch.channel_id[order], batch.value[order]
        device, hour = self._device[channel], at // HOUR_US
        starts = np.flatnonzero(np.r_[True, (at[1:] != at[:-1]) | (device[1:] != device[:-1])])
        edges = np.r_[starts, len(at)]
        hour_of_message = hour[starts]
        for h in np.unique(hour_of_message).tolist():
            first, last = np.searchsorted(hour_of_message, (h, h + 1))
            found = []
            for m in range(int(first), int(last)):
                a, b = int(edges[m]), int(edges[m + 1])
                said = ",".join(
                    f"{self._name[c]}:{v!r}" for c, v in zip(channel[a:b].tolist(), value[a:b].tolist(), strict=True)
                )  # fmt: skip
                when = int(at[a])
                stamp = str(when // 1000) if when % 1000 == 0 else json.dumps(from_us(when).isoformat())
                found.append((self._topic[int(device[a])], f'{{"at":{stamp},"values":{{{said}}}}}'.encode()))
            end = int(edges[int(last)])
            yield h, end - int(edges[int(first)]), found, (int(self._stored_id[channel[end - 1]]), int(at[end - 1]))


def replay_live(
    town: BenchTown,
    digs_from: datetime,
    until: datetime | None = None,
    told: Callable[[float], None] = lambda share: None,
    *,
    broker: str = "auto",
    database: str = "",
) -> LiveReplay:
    """Send a town through broker, ingest and database; return what its detectors found.

    Parameters
    ----------
    town : BenchTown
    digs_from, until, told
        As `underway.app.bench.leaks.replay`.
    broker : str
        ``auto``, ``mosquitto`` or ``amqtt``.
    database : str
        A server on which a database may be created; empty: an embedded one.

    Notes
    -----
    The town's clock (decision 0005) stands at the end of an hour of event time while the readings of this hour are published, and goes on when the
    last of them is stored: so none is from the future, none is older than an hour, and no more than an hour is in flight. Messages come in the order
    of their instants; what was repaired in the hour is released in the table of holds before, as the work side does it.

    Raises
    ------
    StoreUnavailable
        When ingest ends, or an hour is not stored in `STORED_S_MAX`.
    """
    batches = town.batches(until)
    first = next(batches, None)
    if first is None:
        raise OperatorError(f"{town.folder} has no reading before {until}")
    begin_us = int(first.observed_us[0]) // HOUR_US * HOUR_US
    with bench_place(database or None, broker, durable=False) as place:
        url = place.new_database("leaks")
        with connect(url, application_name="underway-bench", autocommit=True) as conn:
            write_clock(conn, ClockRow(from_us(begin_us), datetime.now(UTC), 0.0, 0.0))
            registry = outstations(town.registry, from_us(begin_us))
            save_registry(conn, registry)
            stored = load_registry(conn, registry.site.site_id)
            messages = Messages(registry, stored, [c.channel_id for c in town.registry.channels])
            taken = take_model(conn, town.inp, registry.site.site_id, from_us(begin_us))
            if not taken["watched"]:
                raise OperatorError(
                    f"no part of {town.folder} can be balanced: each needs a pressure gauge, and a meter on all that feeds it"
                )
            more = {
                "UNDERWAY_CLOCK": "town",
                "UNDERWAY_SITE_ID": registry.site.site_id,
                "UNDERWAY_BATCH_AGE_S": BATCH_AGE_S,
                "UNDERWAY_DIGS_FROM": digs_from.astimezone(UTC).isoformat(),
            }
            with ingest_process(url, place.broker, place.folder, more=more) as ingest:
                days = town.days(until)
                with _Live(conn, place, ingest, messages, town.repairs) as live:
                    live.send(first)
                    told(1 / days)
                    for day, batch in enumerate(batches, start=2):
                        live.send(batch)
                        told(min(1.0, day / days))
                    return live.result()


class _Live:
    """A publisher with the town's clock in its hand."""

    def __init__(self, conn: Connection[Any], place: Place, ingest: Ingest, messages: Messages, repairs: Sequence[Hold]) -> None:
        self._conn, self._place, self._ingest, self._messages = conn, place, ingest, messages
        self._repairs = sorted(repairs, key=lambda hold: hold.held_us)
        self._publisher = Publisher(place.broker.port, "bench-town")
        self._began_s, self._own_s, self._ingest_s = time.perf_counter(), time.process_time(), cpu_s(ingest.pid)
        self._readings = self._sent = 0

    def __enter__(self) -> _Live:
        return self

    def __exit__(self, *_: object) -> None:
        self._publisher.close()

    def send(self, batch: ReadingBatch) -> None:
        """Publish a batch, hour by hour."""
        for hour, readings, messages, last in self._messages.hours(batch):
            end_us = (hour + 1) * HOUR_US
            while self._repairs and self._repairs[0].held_us < end_us:
                self._report(self._repairs.pop(0))
            write_clock(self._conn, ClockRow(from_us(end_us), datetime.now(UTC), 0.0, 0.0))
            time.sleep(REFRESH_STANDING_S + CLOCK_MARGIN_S)
            self._publisher.publish(chunks(packets(messages)))
            self._readings += readings
            self._sent += len(messages)
            self._wait_until_stored(*last)

    def _report(self, repair: Hold) -> None:
        """Do what the work side does to the table of holds when an alarm is raised and its order is closed as repaired."""
        at = from_us(repair.held_us)
        with self._conn.transaction():
            work.open_hold(self._conn, repair.zone_id, repair.asset_id, at)
            work.release_holds(self._conn, [repair.asset_id], at, repair.verdict)

    def _wait_until_stored(self, channel_id: int, observed_us: int) -> None:
        at, ends_s = from_us(observed_us), time.perf_counter() + STORED_S_MAX
        while not measure.has_reading(self._conn, channel_id, at):
            self._ingest.check()
            if time.perf_counter() > ends_s:
                raise StoreUnavailable(
                    f"an hour of readings must be stored within {STORED_S_MAX:g} s, that of channel {channel_id} at {at.isoformat()} is not;"
                    f" ingest says {self._ingest.facts().get('state')!r}, {measure.quarantine_count(self._conn)} messages are in quarantine"
                )
            time.sleep(LOOK_S)

    def result(self) -> LiveReplay:
        """Read back what was found."""
        findings: list[Finding] = []
        seq = 0
        while rows := telemetry.findings_after(self._conn, seq):
            seq = rows[-1][0]
            findings += [finding for _, finding in rows if finding.detector == NetworkLeaks.name]
        wall_s = time.perf_counter() - self._began_s
        own_s, ingest_s = time.process_time() - self._own_s, cpu_s(self._ingest.pid) - self._ingest_s
        stored, flagged = measure.flagged_counts(self._conn)
        quarantined = measure.quarantine_count(self._conn)
        broker = self._place.broker
        return LiveReplay(
            tuple(findings), self._readings, self._sent, stored, flagged, quarantined, wall_s, ingest_s, own_s, f"{broker.kind} {broker.version}"
        )  # fmt: skip


def differences(direct: Sequence[tuple[str, ...]], live: Sequence[tuple[str, ...]]) -> list[str]:
    """Return one line for each row that only one of two replays has, in the order of time.

    Examples
    --------
    >>> differences([("1", "a"), ("2", "b")], [("1", "a"), ("2", "c")])
    ['only direct: 2,b', 'only via mqtt: 2,c']
    """
    left, right = Counter(direct), Counter(live)
    marked = [(row, "only direct") for row in (left - right).elements()] + [(row, "only via mqtt") for row in (right - left).elements()]
    return [f"{which}: {','.join(row)}" for row, which in sorted(marked)]
