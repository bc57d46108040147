"""Windows of late data on a real database: one that cannot be judged does not keep the others from it, and each site judges its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pytest

from detectors.contract import BankOutput, no_output
from underway.app import rejudge as rejudge_module
from underway.app.ingest_store import AddressBook
from underway.app.rejudge import Rejudge
from underway.model import (
    DAY_US,
    MINUTE_US,
    Channel,
    Device,
    Hold,
    LeakSignatures,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    StoreUnavailable,
    to_us,
)
from underway.store import memory
from underway.store.connect import connect
from underway.store.copy import append, next_batch_id
from underway.store.memory import ATTEMPTS_MAX, LateWindow, note_late_windows
from underway.store.registry import load_registry, save_registry
from underway.store.slices import SlicedReadings

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 20, tzinfo=UTC)
NOW_US = to_us(NOW_AT)
LATER_AT = NOW_AT + timedelta(minutes=2)


@dataclass
class Hand:
    """A clock that is set by hand."""

    at: datetime = LATER_AT

    def now_at(self) -> datetime:
        return self.at


@dataclass
class Lanes:
    """Lanes by name: what each does at a step, and of those in `whole` the channels that it is fed; others look at each channel on its own."""

    acts: dict[str, Callable[[], object]] = field(default_factory=dict)
    whole: dict[str, Sequence[int]] = field(default_factory=dict)
    made: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    seen: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)

    def for_lane(
        self, registry: Registry, signatures: Sequence[LeakSignatures], lane: str, channel_ids: Sequence[int], models: Sequence[object] = ()
    ) -> tuple[Any, Sequence[int], int] | None:
        self.made.append((lane, tuple(channel_ids)))
        return _Bank(self, lane), self.whole.get(lane, channel_ids), DAY_US

    def rows(self) -> dict[tuple[int, ...], int]:
        """Return how many rows were stepped, by the channels that were in them."""
        count: dict[tuple[int, ...], int] = {}
        for _, channels, rows in self.seen:
            count[channels] = count.get(channels, 0) + rows
        return count


@dataclass
class _Bank:
    lanes: Lanes
    lane: str

    def step(self, batch: ReadingBatch) -> BankOutput:
        self.lanes.acts.get(self.lane, lambda: None)()
        self.lanes.seen.append((self.lane, tuple(np.unique(batch.channel_id).tolist()), len(batch)))
        return no_output()

    def hold(self, holds: Sequence[Hold]) -> None:
        pass


def fail(error: Exception) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def save_town(url: str, site_id: str = "town", devices: int = 1) -> AddressBook:
    """Register devices of two channels each; store an hour of readings of them."""
    since = NOW_AT - timedelta(days=60)
    names = [f"{site_id}-{i}" for i in range(devices)]
    channels = tuple(
        Channel(0, name, part, Quantity.PRESSURE, "kPa", None, None, "zone_pressure", 0.0, 1000.0, 300.0) for name in names for part in "ab"
    )
    registry = Registry(
        Site(site_id, site_id, "UTC", 0.0, 0.0),
        (),
        (),
        tuple(Device(n, site_id, None, None, "m", "native", since) for n in names),
        channels,
    )
    with connect(url) as conn:
        save_registry(conn, registry)
        saved = load_registry(conn, site_id)
        for c in saved.channels:
            at = NOW_US - np.arange(60) * MINUTE_US
            append(conn, ReadingBatch.from_columns([c.channel_id] * 60, at, at * 0.0), next_batch_id(conn), NOW_AT)
    return AddressBook(saved)


def note(url: str, lane: str, channel_ids: Sequence[int], seconds: int = 0, site_id: str = "town") -> None:
    with connect(url) as conn:
        window = LateWindow(lane, NOW_US - 10 * MINUTE_US, NOW_US, 10, tuple(channel_ids))
        note_late_windows(conn, [window], NOW_AT + timedelta(seconds=seconds), site_id)


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault of ours"), StoreUnavailable("canceling statement due to statement timeout")])
def test_window_that_fails_lets_the_others_be_judged_and_is_given_up_in_sight(
    database_url: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    book = save_town(database_url)
    one = book.registry.channels[0].channel_id
    note(database_url, "bad", [one])
    note(database_url, "good", [one], 1)
    lanes, clock = Lanes({"bad": fail(error)}), Hand()
    rejudge = Rejudge(database_url, "town", lanes, clock, address_book=lambda: book)
    assert rejudge.work()
    assert rejudge.work()
    assert not rejudge.work()
    assert [lane for lane, _ in lanes.made] == ["bad", "good"]
    assert {lane for lane, *_ in lanes.seen} == {"good"}
    for _ in range(20):
        clock.at += timedelta(minutes=40)
        while rejudge.work():
            pass
    assert [lane for lane, _ in lanes.made].count("bad") == ATTEMPTS_MAX
    facts = rejudge.facts()
    assert (facts["waiting"], facts["given_up"], facts["failed"], facts["judged"]) == (0, 1, ATTEMPTS_MAX, 1)
    with connect(database_url) as conn:
        row = conn.execute("SELECT lane, attempts, last_error, given_up_at IS NOT NULL FROM late_window").fetchone()
    assert row == ("bad", ATTEMPTS_MAX, f"{type(error).__name__}: {error}", True)
    (told,) = [r for r in caplog.records if "given up" in r.message]
    assert (told.levelname, vars(told)["lane"], vars(told)["site"], vars(told)["attempts"]) == ("ERROR", "bad", "town", ATTEMPTS_MAX)


def test_window_of_another_site_in_the_same_database_is_left_to_it(database_url: str) -> None:
    books = {site_id: save_town(database_url, site_id) for site_id in ("north", "south")}
    for number, (site_id, book) in enumerate(books.items()):
        note(database_url, f"lane of {site_id}", [book.registry.channels[0].channel_id], number, site_id)
    lanes = Lanes()
    rejudge = Rejudge(database_url, "south", lanes, Hand(), address_book=lambda: books["south"])
    assert rejudge.work()
    assert not rejudge.work()
    assert [lane for lane, _ in lanes.made] == ["lane of south"]
    with connect(database_url) as conn:
        assert conn.execute("SELECT site_id, attempts FROM late_window").fetchall() == [("north", 0)]


def test_window_of_many_channels_is_judged_in_groups_where_each_is_looked_at_on_its_own(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejudge_module, "CHANNELS_MAX", 4)
    book = save_town(database_url, devices=5)
    ids = [c.channel_id for c in book.registry.channels]
    note(database_url, "each", ids)
    note(database_url, "zone", ids, 1)
    lanes = Lanes(whole={"zone": ids})
    rejudge = Rejudge(database_url, "town", lanes, Hand(), address_book=lambda: book)
    assert rejudge.work()
    assert lanes.rows() == {tuple(part): 60 * len(part) for part in (ids[:4], ids[4:8], ids[8:])}
    lanes.seen.clear()
    assert rejudge.work()
    assert lanes.rows() == {tuple(ids): 60 * len(ids)}, "a zone is judged as a whole, and once"
    assert rejudge.facts()["judged"] == 2


def test_window_in_work_when_the_process_ends_is_put_back(database_url: str) -> None:
    book = save_town(database_url)
    note(database_url, "slow", [c.channel_id for c in book.registry.channels])
    stop, lanes = Event(), Lanes()
    lanes.acts["slow"] = stop.set
    rejudge = Rejudge(database_url, "town", lanes, Hand(), address_book=lambda: book)
    rejudge.run(stop)
    assert lanes.seen
    with connect(database_url) as conn:
        assert conn.execute("SELECT attempts, next_at, last_error FROM late_window").fetchall() == [(0, None, "")]
        assert memory.count_late_windows(conn, "town") == (1, 0)


def test_window_with_too_much_history_is_judged_with_less_of_it_and_counted(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rejudge_module, "SlicedReadings", partial(SlicedReadings, rows=20, warm_up_rows_max=30))
    book = save_town(database_url)
    note(database_url, "lane", [book.registry.channels[0].channel_id])
    lanes = Lanes()
    rejudge = Rejudge(database_url, "town", lanes, Hand(), address_book=lambda: book)
    assert rejudge.work()
    assert rejudge.facts()["warm_up_shortened"] == 1
    assert 11 <= sum(n for *_, n in lanes.seen) <= 11 + 30, "the window whole, of what is before it at most 30"
    assert any("less history" in r.message and vars(r)["shortened_h"] > 0 for r in caplog.records)
