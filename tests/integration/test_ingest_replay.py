"""The pipeline with the real bank on a real database: crashes at every point of a batch change no reading and no finding."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import psycopg
import pytest

from detectors.bank import Bank
from ingest.batcher import BatchLimits
from ingest.mqtt_types import Message, Publication
from underway.app import ingest_store as store_module
from underway.app.ingest_service import LaneBanks
from underway.app.ingest_store import PostgresStore, Writer
from underway.app.pipeline import Pipeline
from underway.app.pipeline_settings import PipelineSettings
from underway.app.rejudge import Rejudge
from underway.model import (
    HOUR_US,
    MINUTE_US,
    Asset,
    AssetClass,
    Channel,
    Device,
    Fault,
    FaultReason,
    Hold,
    Quantity,
    Registry,
    Site,
    StoreUnavailable,
    Zone,
    ZoneKind,
    from_us,
    to_us,
)
from underway.store.connect import connect
from underway.store.quarantine import QuarantineEntry
from underway.store.registry import load_registry, save_registry
from underway.store.telemetry import replay_after

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 20, tzinfo=UTC)
SETTINGS = PipelineSettings(limits=BatchLimits(count_max=400, linger_s=0.0), checkpoint_batches=2, checkpoint_s=1e9, idle_wait_s=0.0)


class Crash(BaseException):
    """The process is gone."""


class FixedClock:
    def __init__(self, at: datetime = NOW_AT) -> None:
        self.at = at

    def now_at(self) -> datetime:
        return self.at


class ListSource:
    """Gives again what was not acknowledged, to every new process; received now, or `live`: two seconds after it was observed."""

    def __init__(self, messages: Sequence[tuple[str, bytes]], live: bool = False) -> None:
        self.left = dict(enumerate(messages))
        self.given: set[int] = set()
        self.live = live

    def connect(self) -> ListSource:
        self.given.clear()
        return self

    def poll(self, count_max: int, wait_s: float) -> list[Message]:
        found = [n for n in self.left if n not in self.given][: min(count_max, 350)]
        self.given.update(found)
        return [Message(*self.left[n], self._received_us(self.left[n][1]), (0, n)) for n in found]

    def _received_us(self, payload: bytes) -> int:
        return observed_ms(payload) * 1000 + 2_000_000 if self.live else to_us(NOW_AT)

    def acknowledge(self, messages: Sequence[Message]) -> None:
        for message in messages:
            del self.left[message.token[1]]

    def facts(self) -> dict[str, Any]:
        return {"subscribed": True}

    def publish(self, publications: Sequence[Publication]) -> None:
        pass

    def close(self, farewell: Sequence[Publication] = ()) -> None:
        pass


def observed_ms(payload: bytes) -> int:
    return int(payload[6:19])


class FaultyStore(PostgresStore):
    """Loses a transaction before its commit, or the answer to it, or the whole process, from one seed."""

    def __init__(self, url: str, rng: np.random.Generator) -> None:
        super().__init__(url, None, os.getpid(), NOW_AT)
        self.rng = rng
        self.faults = 0

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        draw = self.rng.random()
        with super().transaction() as tx:
            yield tx
            if draw < 0.1:
                self.faults += 1
                raise StoreUnavailable("cannot commit now")
            if draw < 0.2:
                self.faults += 1
                raise Crash
        if draw < 0.3:
            self.faults += 1
            raise StoreUnavailable("cannot hear of the commit now")
        if draw < 0.35:
            self.faults += 1
            raise Crash


def small_town() -> Registry:
    zone = Zone("z1", "town", "Zone 1", ZoneKind.DMA, attributes={"mains_km": 4.0, "connections": 300})
    assets = (Asset("dma:z1", "town", "z1", AssetClass.NETWORK, "Zone 1"), Asset("rs-1", "town", None, AssetClass.ROAD_SECTION, "Road 1"))
    since = NOW_AT - timedelta(days=60)
    devices = tuple(Device(d, "town", "z1", "dma:z1", "m", "native", since) for d in ("fm-1", "pr-1", "pr-2"))
    channels = (
        Channel(0, "fm-1", "flow", Quantity.FLOW, "m3/h", "dma:z1", "z1", "zone_inflow", -500.0, 500.0, 300.0),
        Channel(0, "pr-1", "pressure", Quantity.PRESSURE, "kPa", "dma:z1", "z1", "zone_pressure", 0.0, 1000.0, 300.0, 0.1),
        Channel(0, "pr-2", "pressure", Quantity.PRESSURE, "kPa", "dma:z1", "z1", "zone_pressure", 0.0, 1000.0, 300.0, 0.1),
    )
    return Registry(Site("town", "Town", "UTC", 0.0, 0.0), (zone,), assets, devices, channels)


def three_weeks() -> list[tuple[str, bytes]]:
    """Return messages of a meter and two gauges: a daily pattern, a stuck gauge, a burst on the last day, a silent gauge at the end."""
    rng = np.random.default_rng(5)
    messages = []
    start_us = to_us(NOW_AT) - 21 * 24 * HOUR_US
    stuck = 0.0
    for step in range(21 * 288):
        at_us = start_us + step * 5 * MINUTE_US
        hour = step / 12 % 24
        flow = 30 + 12 * np.sin((hour - 6) / 24 * 2 * np.pi) + rng.normal(0, 0.6)
        burst = step > 20 * 288
        for device, name, value in (
            ("fm-1", "flow", flow + 18 * burst),
            ("pr-1", "pressure", 350 - flow / 5 - 25 * burst + rng.normal(0, 0.4)),
            ("pr-2", "pressure", 340 - flow / 5 - 9 * burst + rng.normal(0, 0.4)),
        ):
            if device == "pr-2":
                if 10 * 288 < step < 13 * 288:
                    value = stuck = stuck or value
                if step > 21 * 288 - 200:
                    continue
            payload = b'{"at":%d,"values":{"%s":%.6f}}' % (at_us // 1000, name.encode(), value)
            messages.append((f"uw/town/{device}/telemetry", payload))
    return messages


def finished(source: ListSource, store: PostgresStore, turns: int = 3000) -> int:
    crashes = 0
    while turns:
        pipeline = Pipeline(source.connect(), store, Bank, FixedClock(), SETTINGS, wait=lambda _: None)
        try:
            while turns and source.left:
                turns -= 1
                try:
                    pipeline.turn()
                except StoreUnavailable as error:
                    pipeline.lose_store(error)
            store.close()
            return crashes
        except Crash:
            crashes += 1
            store.close()
    raise AssertionError(f"{len(source.left)} messages are left")


def findings(url: str) -> set[tuple[Any, ...]]:
    with psycopg.connect(url) as conn:
        return set(conn.execute("SELECT finding_id, kind, phase, asset_id, onset_at, historical FROM finding").fetchall())


@pytest.mark.parametrize("seed", [1, 2])
def test_pipeline_with_the_real_bank_crashes_change_nothing(database_url: str, seed: int) -> None:
    with connect(database_url) as conn:
        save_registry(conn, small_town())
        conn.execute(
            "INSERT INTO hold (zone_id, asset_id, held_at) VALUES ('z1', 'dma:z1', %s)", (from_us(to_us(NOW_AT) - 3 * 24 * HOUR_US),)
        )
    messages = three_weeks()
    source = ListSource(messages)
    store = FaultyStore(database_url, np.random.default_rng(seed))
    crashes = finished(source, store)
    assert crashes >= 2
    assert store.faults > crashes
    with connect(database_url) as conn:
        row = conn.execute("SELECT count(*) FROM reading").fetchone()
        assert row == (len(messages),)
        (held,) = conn.execute("SELECT held_batch_id FROM hold").fetchone() or (None,)
        assert held is not None
        bank, found = Bank(load_registry(conn)), []
        for step in replay_after(conn, 0):
            bank.hold(step.holds)
            if len(step.readings):
                found += bank.step(step.readings).findings
    assert {f.finding_id for f in found} == {row[0] for row in findings(database_url)}
    assert found, "a burst must be found, otherwise the test shows nothing"


def with_late_meter() -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    """Return the messages of `three_weeks` in the order in which they arrive, and those of the last day's meter, which come late."""
    begin_ms = (to_us(NOW_AT) - 24 * HOUR_US) // 1000
    live, late = [], []
    for topic, payload in three_weeks():
        is_late = topic.startswith("uw/town/fm-1/") and observed_ms(payload) > begin_ms
        (late if is_late else live).append((topic, payload))
    return live, late


def test_late_data_is_flagged_judged_again_and_dated(database_url: str) -> None:
    with connect(database_url) as conn:
        save_registry(conn, small_town())
    live, late = with_late_meter()
    store = PostgresStore(database_url, None, os.getpid(), NOW_AT)
    finished(ListSource(live, live=True), store)
    assert not {row for row in findings(database_url) if row[1] == "leak.burst"}, "without its meter the burst is not seen"
    finished(ListSource(late), store)
    with connect(database_url) as conn:
        flagged = conn.execute(
            "SELECT count(*) FROM reading JOIN channel USING (channel_id) WHERE device_id = 'fm-1' AND flags & 1 = 1"
        ).fetchone()
        windows = conn.execute("SELECT lane, readings FROM late_window ORDER BY lane").fetchall()
    assert flagged is not None
    assert flagged[0] >= len(late) - 3, "the first readings of the day are inside the window that the zone waits"
    assert [lane for lane, _ in windows] == ["zone-inflow@1/z1"], "the meter itself comes in order: its own detectors see it as it is"

    rejudge = Rejudge(database_url, None, LaneBanks(), FixedClock())
    assert not rejudge.work(), "more may be on its way"
    rejudge = Rejudge(database_url, None, LaneBanks(), FixedClock(NOW_AT + timedelta(minutes=2)))
    assert rejudge.work()
    assert not rejudge.work()
    found = {row for row in findings(database_url) if row[1] == "leak.burst"}
    assert {phase for _, _, phase, _, _, _ in found} >= {"raise"}
    assert all(historical for *_, historical in found)
    begin_at = NOW_AT - timedelta(days=1)
    assert all(begin_at - timedelta(hours=1) <= onset_at <= NOW_AT for _, _, _, _, onset_at, _ in found)
    with connect(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM late_window").fetchone() == (0,)


def test_late_window_judged_twice_writes_nothing_twice(database_url: str) -> None:
    with connect(database_url) as conn:
        save_registry(conn, small_town())
    live, late = with_late_meter()
    store = PostgresStore(database_url, None, os.getpid(), NOW_AT)
    finished(ListSource(live, live=True), store)
    finished(ListSource(late), store)
    later = FixedClock(NOW_AT + timedelta(minutes=2))
    with connect(database_url) as conn:
        kept = conn.execute(
            "SELECT site_id, lane, from_at, to_at, first_noted_at, noted_at, readings, channel_ids FROM late_window"
        ).fetchall()
    assert Rejudge(database_url, None, LaneBanks(), later).work()
    first = findings(database_url)
    with connect(database_url) as conn, conn.cursor() as cursor:
        # as after a crash between judging and forgetting
        cursor.executemany(
            "INSERT INTO late_window (site_id, lane, from_at, to_at, first_noted_at, noted_at, readings, channel_ids)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            kept,
        )
    assert Rejudge(database_url, None, LaneBanks(), later).work()
    assert findings(database_url) == first


def test_pipeline_hold_told_between_batches_is_replayed_at_its_batch(database_url: str) -> None:
    class RecordingBank(Bank):
        told: ClassVar[list[tuple[int, ...]]] = []
        stepped = 0

        def step(self, batch: Any, parts: Collection[str] | None = None) -> Any:
            RecordingBank.stepped += 1
            return super().step(batch, parts)

        def hold(self, holds: Sequence[Hold], parts: Collection[str] | None = None) -> None:
            RecordingBank.told.append((RecordingBank.stepped, *(h.hold_id for h in holds)))
            super().hold(holds, parts)

    with connect(database_url) as conn:
        save_registry(conn, small_town())
    store = PostgresStore(database_url, None, os.getpid(), NOW_AT)
    messages = three_weeks()[:2000]
    source = ListSource(messages)
    pipeline = Pipeline(source.connect(), store, RecordingBank, FixedClock(), SETTINGS, wait=lambda _: None)
    for turn in range(4):
        if turn == 2:
            with connect(database_url) as conn:
                conn.execute("INSERT INTO hold (zone_id, asset_id, held_at) VALUES ('z1', 'dma:z1', %s)", (NOW_AT,))
        pipeline.turn()
    live = list(RecordingBank.told)
    assert [told[1:] for told in live] == [(1,)]
    RecordingBank.told.clear()
    RecordingBank.stepped = 0
    with connect(database_url) as conn:
        conn.execute("DELETE FROM checkpoint")
    again = Pipeline(source.connect(), store, RecordingBank, FixedClock(), SETTINGS, wait=lambda _: None)
    again.turn()
    assert RecordingBank.told[:1] == live
    store.close()


def test_store_quarantine_keeps_a_bounded_number_of_rows(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "QUARANTINE_ROWS_MAX", 5)
    monkeypatch.setattr(store_module, "QUARANTINE_PRUNE_EVERY", 10)
    store = PostgresStore(database_url, None, os.getpid(), NOW_AT)
    store.open()
    fault = Fault(FaultReason.PAYLOAD_NOT_JSON, "a payload must be JSON")
    for number in range(40):
        with store.transaction() as tx:
            tx.save_quarantine([QuarantineEntry(NOW_AT, "native", "uw/town/pr-1/telemetry", b"%d" % number, fault)], NOW_AT)
    store.close()
    with connect(database_url) as conn:
        (rows,) = conn.execute("SELECT count(*) FROM quarantine").fetchone() or (0,)
    assert 5 <= rows < 5 + 10


def test_store_registry_that_does_not_know_the_site_says_so_once(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with connect(database_url) as conn:
        save_registry(conn, small_town())
    store = PostgresStore(database_url, "twon", os.getpid(), NOW_AT)
    store.open()
    assert store.address_book() is None
    assert store.address_book() is None
    store.close()
    assert caplog.messages == ["waiting for a site: no site 'twon' is registered; registered: 'town'"]
