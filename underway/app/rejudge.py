"""Late data: its window is judged again by detectors of its own, from what is stored; what they find is dated and pages nobody."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from threading import Event
from typing import Any, Protocol

import numpy as np

from underway.app.ingest_store import AddressBook, StepOutput
from underway.model import (
    HOUR_US,
    MINUTE_US,
    Channel,
    Clock,
    Device,
    Finding,
    FindingPhase,
    Hold,
    LeakSignatures,
    NetworkModel,
    Operation,
    ReadingBatch,
    ReadingFlag,
    Registry,
    StoreUnavailable,
    from_us,
)
from underway.store import memory, telemetry
from underway.store import registry as registry_store
from underway.store.connect import connect, store_errors
from underway.store.memory import LateWindow
from underway.store.operations import operations_between
from underway.store.slices import SlicedReadings

log = logging.getLogger("underway.ingest.rejudge")

SETTLE_S = 60.0
"""A window waits until nothing was added to it for so long (more of a buffer may be on its way), ten times as long at most."""
LOOK_S = 1.0
CHUNK_ROWS = 2_000
CHANNELS_MAX = 200
"""So many channels of a lane that looks at each on its own are judged at a time."""
FINDINGS_AT_ONCE = 500
"""Findings written in one transaction: the live path waits for it when it has findings itself."""
TAIL_US = 30 * MINUTE_US
"""So much after the window is read too, so that its last grid time is judged."""
MERGE_US = 24 * HOUR_US
"""A RAISE is known already when the same condition was raised so near to it."""
BACKOFF_S_MAX = 30.0


class WindowBank(Protocol):
    """The detectors of one lane, as `detectors.bank.Bank` builds them for a window."""

    def step(self, batch: ReadingBatch) -> StepOutput:
        """Judge readings in event order."""
        ...

    def hold(self, holds: Sequence[Hold]) -> None:
        """Stop or resume adapting."""
        ...

    def operate(self, operations: Sequence[Operation]) -> None:
        """Take known operations into account."""
        ...


class LaneBanks(Protocol):
    """What builds detectors for a lane."""

    def for_lane(
        self,
        registry: Registry,
        signatures: Sequence[LeakSignatures],
        lane: str,
        channel_ids: Sequence[int],
        models: Sequence[NetworkModel] = (),
    ) -> tuple[WindowBank, Sequence[int], int] | None:
        """Return fresh detectors of a lane, the channels that feed them and how much history they want, microseconds.

        `channel_ids` are the late ones: they suffice where a lane looks at every channel on its own. None: there is no such lane any more.
        """
        ...


def judge_window(
    bank: WindowBank,
    slices: Iterable[ReadingBatch],
    holds: Sequence[Hold],
    window: LateWindow,
    breathe: Callable[[], object] = lambda: None,
    operations: Sequence[Operation] = (),
) -> list[Finding]:
    """Return what detectors say of a window once all of its readings are there.

    Parameters
    ----------
    bank : WindowBank
        Fresh; it learns from what comes before the window.
    slices : iterable of ReadingBatch
        From its history to some time after the window, in event order, one after the other.
    holds : sequence of Hold
        Of these assets, with their times: told when the readings reach them.
    window : LateWindow
    breathe : callable
        Called between two chunks of readings, so that the live path goes first.
    operations : sequence of Operation
        That stand and touch the time of the readings: known from the begin on.

    Returns
    -------
    list of Finding
        Those whose event time lies in the window, all of them historical.
    """
    told = [(h.held_us, 0, dataclasses.replace(h, released_us=None, verdict="")) for h in holds]
    told += [(h.released_us, 1, h) for h in holds if h.released_us is not None]
    told.sort(key=lambda entry: entry[:2])
    found: list[Finding] = []
    if operations:
        bank.operate(operations)
    for whole in slices:
        readings = dataclasses.replace(whole, flags=whole.flags | np.uint8(ReadingFlag.HISTORICAL))
        for start in range(0, len(readings), CHUNK_ROWS):
            chunk = readings.take(slice(start, start + CHUNK_ROWS))
            while told and told[0][0] <= int(chunk.observed_us[0]):
                bank.hold([told.pop(0)[2]])
            found += [f for f in bank.step(chunk).findings if window.from_us <= f.detected_us < window.to_us + TAIL_US]
            breathe()
    return [dataclasses.replace(finding, historical=True) for finding in found]


def device_groups(registry: Registry, channel_ids: Sequence[int], channels_max: int) -> list[Registry]:
    """Return parts of a registry with at most so many of some channels, all channels of a device in one part.

    A device speaks for its channels together, so they are not torn apart; one with more channels than that has a part of its own. Channels that
    are not registered any more are left out.
    """
    wanted = frozenset(channel_ids)
    count: dict[str, int] = {}
    for c in registry.channels:
        if c.channel_id in wanted:
            count[c.device_id] = count.get(c.device_id, 0) + 1
    group: dict[str, int] = {}
    number, size = -1, channels_max
    for device_id, n in count.items():
        if size + n > channels_max:
            number, size = number + 1, 0
        group[device_id] = number
        size += n
    channels: list[list[Channel]] = [[] for _ in range(number + 1)]
    for c in registry.channels:
        if c.device_id in group:
            channels[group[c.device_id]].append(c)
    devices: list[list[Device]] = [[] for _ in range(number + 1)]
    for d in registry.devices:
        if d.device_id in group:
            devices[group[d.device_id]].append(d)
    return [dataclasses.replace(registry, channels=tuple(c), devices=tuple(d)) for c, d in zip(channels, devices, strict=True)]


class _StoppedError(Exception):
    """The process is asked to end."""


class Rejudge:
    """Works off the windows of late data, one after the other, on a connection of its own.

    Parameters
    ----------
    database_url : str
    site_id : str or None
        None: the only site.
    banks : LaneBanks
    clock : Clock
    settle_s : float
        Time of the clock, in s, that a window waits for more.
    address_book : callable, optional
        Gives what the live path knows of the registry, or None while it knows nothing; without it the registry is read for each window.
    """

    def __init__(
        self,
        database_url: str,
        site_id: str | None,
        banks: LaneBanks,
        clock: Clock,
        settle_s: float = SETTLE_S,
        address_book: Callable[[], AddressBook | None] | None = None,
    ) -> None:
        self._url, self._site_id, self._banks, self._clock, self._settle_s = database_url, site_id, banks, clock, settle_s
        self._address_book = address_book
        self._conn: Any = None
        self._stop = Event()
        self.judged = self.found = self.waiting = self.given_up = self.failed = self.shortened = 0
        self.last_error = ""

    def run(self, stop: Event) -> None:
        """Run until `stop` is set; a store that is away is waited for."""
        self._stop = stop
        pause_s = LOOK_S
        while not stop.wait(pause_s):
            try:
                while not stop.is_set() and self.work():
                    pass
                pause_s = LOOK_S
            except StoreUnavailable as error:
                self.last_error = str(error)
                pause_s = min(2 * pause_s, BACKOFF_S_MAX)
                self._close()
            except Exception as error:
                # a fault of ours in judging the past must not stop the present
                log.exception("late data cannot be judged again")
                self.last_error = f"{type(error).__name__}: {error}"
                pause_s = BACKOFF_S_MAX
                self._close()
        self._close()

    def work(self) -> bool:
        """Try the window that waits longest, if one has settled or waited too long; return whether there was one.

        An attempt that fails is noted in the table and the window put off, so that the others have their turn.

        Raises
        ------
        StoreUnavailable
            When the store is away.
        """
        with store_errors("look for late data to be judged again"):
            book = self._book()
            if book is None:
                return False
            site_id, now_at = book.registry.site.site_id, self._clock.now_at()
            for lost, why in memory.give_up_late_windows(self._open(), now_at, site_id):
                log.error("late data of %s is given up after %d attempts: %s", lost.lane, lost.attempts, why, extra=_told(lost, site_id))
            self.waiting, self.given_up = memory.count_late_windows(self._open(), site_id)
            window = memory.take_late_window(self._open(), now_at - timedelta(seconds=self._settle_s), now_at, site_id)
            if window is None:
                return False
        try:
            with store_errors("judge late data again"):
                self._settle(window, book)
        except _StoppedError:
            with store_errors("put late data back"):
                memory.return_late_window(self._open(), window)
            return False
        except Exception as error:
            self._put_off(window, site_id, error)
        return True

    def _settle(self, window: LateWindow, book: AddressBook) -> None:
        """Judge one window, write what was found and forget the window."""
        findings = self._judge(window, book)
        conn, now_at, new = self._open(), self._clock.now_at(), 0
        for start in range(0, len(findings), FINDINGS_AT_ONCE):
            with conn.transaction():
                batch_id = telemetry.last_batch_id(conn)
                fresh = telemetry.save_findings(conn, findings[start : start + FINDINGS_AT_ONCE], batch_id, now_at)
                telemetry.announce_findings(conn, fresh)
            new += len(fresh)
        with conn.transaction():
            memory.drop_late_window(conn, window)
        self.judged += 1
        self.found += new
        log.info("judged %d late readings of %s again: %d findings", window.readings, window.lane, new)

    def _put_off(self, window: LateWindow, site_id: str, error: Exception) -> None:
        """Note a failed attempt; the next one waits longer each time."""
        self.failed += 1
        self.last_error = f"{type(error).__name__}: {error}"
        trace = None if isinstance(error, StoreUnavailable) else error
        log.warning(
            "late data of %s cannot be judged again at attempt %d of %d: %s",
            window.lane,
            window.attempts,
            memory.ATTEMPTS_MAX,
            self.last_error,
            exc_info=trace,
            extra=_told(window, site_id),
        )
        self._close()  # whatever it was in the middle of
        with store_errors("note that late data cannot be judged"):
            memory.note_late_failure(self._open(), window, self.last_error, self._clock.now_at())

    def _open(self) -> Any:
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._url, application_name="underway-rejudge")
        return self._conn

    def _book(self) -> AddressBook | None:
        if self._address_book is not None:
            return self._address_book()
        registry = registry_store.load_registry(self._open(), self._site_id)
        site_id, conn = registry.site.site_id, self._open()
        return AddressBook(
            registry, registry_store.load_leak_signatures(conn, site_id), models=registry_store.load_network_models(conn, site_id)
        )

    def _judge(self, window: LateWindow, book: AddressBook) -> list[Finding]:
        """Return what is new in a window; a lane that looks at each channel on its own is judged a group of channels at a time."""
        groups = device_groups(book.registry, window.channel_ids, CHANNELS_MAX)
        if len(groups) < 2:
            return self._judge_some(window, book, book.registry, window.channel_ids)[0]
        found: list[Finding] = []
        late = frozenset(window.channel_ids)
        for number, part in enumerate(groups):
            some = [c.channel_id for c in part.channels if c.channel_id in late]
            # whether other channels matter shows at the first group, with the whole registry
            more, feeding = self._judge_some(window, book, part if number else book.registry, some)
            found += more
            if not frozenset(feeding) <= frozenset(some):
                break
        return found

    def _judge_some(
        self, window: LateWindow, book: AddressBook, registry: Registry, channel_ids: Sequence[int]
    ) -> tuple[list[Finding], Sequence[int]]:
        """Judge a window with fresh detectors; return what was found and which channels they looked at."""
        made = self._banks.for_lane(registry, book.signatures, window.lane, channel_ids, book.models)
        if made is None:
            return [], ()
        bank, feeding, warm_up_us = made
        conn, end_us = self._open(), window.to_us + TAIL_US
        slices = SlicedReadings(conn, feeding, window.from_us - warm_up_us, window.from_us, end_us)
        if slices.is_shortened:
            self.shortened += 1
            short_h = (slices.begin_us - window.from_us + warm_up_us) / HOUR_US
            what = _told(window, registry.site.site_id) | {"shortened_h": round(short_h, 1)}
            log.warning("the detectors of %s learn from less history than they want: %.1f h are left out", window.lane, short_h, extra=what)
        holds = telemetry.holds_between(conn, slices.begin_us, end_us)
        known = operations_between(conn, slices.begin_us, end_us)
        found = judge_window(bank, slices, holds, window, self._give_way, known)
        near = telemetry.raised_between(conn, {f.asset_id for f in found}, window.from_us - MERGE_US, window.to_us + MERGE_US)
        return [f for f in found if not _is_known(f, near)], feeding

    def _give_way(self) -> None:
        """Let other threads of this process run: the live path goes first."""
        time.sleep(0.005)
        if self._stop.is_set():
            raise _StoppedError

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "waiting": self.waiting,
            "judged": self.judged,
            "found": self.found,
            "failed": self.failed,
            "given_up": self.given_up,
            "warm_up_shortened": self.shortened,
            "last_error": self.last_error,
        }


def _told(window: LateWindow, site_id: str) -> dict[str, Any]:
    """Return the fields of a log line about a window."""
    return {
        "site": site_id,
        "lane": window.lane,
        "late_window_id": window.late_window_id,
        "from": from_us(window.from_us).isoformat(),
        "to": from_us(window.to_us).isoformat(),
        "channels": len(window.channel_ids),
        "attempts": window.attempts,
    }


def _is_known(finding: Finding, near: Sequence[tuple[str, str, int]]) -> bool:
    """Return whether the live detectors raised the same condition near that time."""
    return finding.phase is FindingPhase.RAISE and any(
        (asset_id, kind) == (finding.asset_id, finding.kind.value) and abs(at_us - finding.detected_us) <= MERGE_US
        for asset_id, kind, at_us in near
    )
