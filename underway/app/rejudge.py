"""Late data: its window is judged again by detectors of its own, from what is stored; what they find is dated and pages nobody."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import Event
from typing import Any, Protocol

import numpy as np

from underway.app.ingest_store import AddressBook, StepOutput
from underway.model import (
    HOUR_US,
    MINUTE_US,
    Clock,
    Finding,
    FindingPhase,
    Hold,
    LeakSignatures,
    ReadingBatch,
    ReadingFlag,
    Registry,
    StoreUnavailable,
)
from underway.store import memory, telemetry
from underway.store import registry as registry_store
from underway.store.connect import connect, store_errors
from underway.store.memory import LateWindow

log = logging.getLogger("underway.ingest.rejudge")

SETTLE_S = 60.0
"""A window waits until nothing was added to it for so long: more of a buffer may be on its way."""
LOOK_S = 1.0
CHUNK_ROWS = 2_000
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


class LaneBanks(Protocol):
    """What builds detectors for a lane."""

    def for_lane(
        self, registry: Registry, signatures: Sequence[LeakSignatures], lane: str, channel_ids: Sequence[int]
    ) -> tuple[WindowBank, Sequence[int], int] | None:
        """Return fresh detectors of a lane, the channels that feed them and how much history they want, microseconds.

        `channel_ids` are the late ones: they suffice where a lane looks at every channel on its own. None: there is no such lane any more.
        """
        ...


def judge_window(
    bank: WindowBank,
    readings: ReadingBatch,
    holds: Sequence[Hold],
    window: LateWindow,
    breathe: Callable[[], object] = lambda: None,
) -> list[Finding]:
    """Return what detectors say of a window once all of its readings are there.

    Parameters
    ----------
    bank : WindowBank
        Fresh; it learns from what comes before the window.
    readings : ReadingBatch
        From its history to some time after the window, in event order.
    holds : sequence of Hold
        Of these assets, with their times: told when the readings reach them.
    window : LateWindow
    breathe : callable
        Called between two chunks of readings, so that the live path goes first.

    Returns
    -------
    list of Finding
        Those whose event time lies in the window, all of them historical.
    """
    told = [(h.held_us, 0, dataclasses.replace(h, released_us=None, verdict="")) for h in holds]
    told += [(h.released_us, 1, h) for h in holds if h.released_us is not None]
    told.sort(key=lambda entry: entry[:2])
    flags = readings.flags | np.uint8(ReadingFlag.HISTORICAL)
    readings = dataclasses.replace(readings, flags=flags)
    found: list[Finding] = []
    for start in range(0, len(readings), CHUNK_ROWS):
        chunk = readings.take(slice(start, start + CHUNK_ROWS))
        while told and told[0][0] <= int(chunk.observed_us[0]):
            bank.hold([told.pop(0)[2]])
        found += [f for f in bank.step(chunk).findings if window.from_us <= f.detected_us < window.to_us + TAIL_US]
        breathe()
    return [dataclasses.replace(finding, historical=True) for finding in found]


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
        self.judged = self.found = self.waiting = 0
        self.last_error = ""

    def run(self, stop: Event) -> None:
        """Run until `stop` is set; a store that is away is waited for."""
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
                log.exception("a window of late data cannot be judged again")
                self.last_error = f"{type(error).__name__}: {error}"
                pause_s = BACKOFF_S_MAX
                self._close()
        self._close()

    def work(self) -> bool:
        """Judge the window that waits longest, if one has settled; return whether there was one."""
        with store_errors("judge late data again"):
            if self._conn is None or self._conn.closed:
                self._conn = connect(self._url, application_name="underway-rejudge")
            conn = self._conn
            self.waiting = memory.late_windows_waiting(conn)
            window = memory.take_late_window(conn, self._clock.now_at() - timedelta(seconds=self._settle_s))
            if window is None:
                return False
            book = self._read_book() if self._address_book is None else self._address_book()
            if book is None:
                return False
            made = self._banks.for_lane(book.registry, book.signatures, window.lane, window.channel_ids)
            findings = [] if made is None else self._judge(window, *made)
            now_at = self._clock.now_at()
            with conn.transaction():
                new = telemetry.save_findings(conn, findings, telemetry.last_batch_id(conn), now_at) if findings else ()
                telemetry.announce_findings(conn, new)
                done = memory.drop_late_window(conn, window)
            self.judged += 1
            self.found += len(new)
            log.info(
                "judged %d late readings of %s again: %d findings%s", window.readings, window.lane, len(new), "" if done else "; more came"
            )
            return True

    def _read_book(self) -> AddressBook:
        registry = registry_store.load_registry(self._conn, self._site_id)
        return AddressBook(registry, registry_store.load_leak_signatures(self._conn, registry.site.site_id))

    def _judge(self, window: LateWindow, bank: WindowBank, channel_ids: Sequence[int], warm_up_us: int) -> list[Finding]:
        conn = self._conn
        begin_us = window.from_us - warm_up_us
        readings = memory.readings_between(conn, channel_ids, begin_us, window.to_us + TAIL_US)
        holds = telemetry.holds_between(conn, begin_us, window.to_us + TAIL_US)
        found = judge_window(bank, readings, holds, window, _give_way)
        near = telemetry.raised_between(conn, {f.asset_id for f in found}, window.from_us - MERGE_US, window.to_us + MERGE_US)
        return [f for f in found if not _is_known(f, near)]

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {"waiting": self.waiting, "judged": self.judged, "found": self.found, "last_error": self.last_error}


def _is_known(finding: Finding, near: Sequence[tuple[str, str, int]]) -> bool:
    """Return whether the live detectors raised the same condition near that time."""
    return finding.phase is FindingPhase.RAISE and any(
        (asset_id, kind) == (finding.asset_id, finding.kind.value) and abs(at_us - finding.detected_us) <= MERGE_US
        for asset_id, kind, at_us in near
    )


def _give_way() -> None:
    """Let other threads of this process run: the live path goes first."""
    time.sleep(0.005)
