"""What happens to one zone over days and weeks: packs of history, a burst, a repair, holds, a slow leak, a dead sensor."""

from dataclasses import dataclass

import numpy as np
import pytest

from detectors.bank import Bank
from underway.model import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    Channel,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    Quantity,
    ReadingBatch,
    ReadingFlag,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

STEP_US = 300_000_000
START_US = 1_771_200_000_000_000
DAYS = 14
LIVE_US = START_US + DAYS * DAY_US
SENSORS = 4


def registry() -> Registry:
    flow = Channel(1, "fm-1", "flow", Quantity.FLOW, "m3/h", None, "z1", "zone_inflow", -500, 500, 300, 0.036)
    pressure = [
        Channel(2 + i, f"pr-{i}", "pressure", Quantity.PRESSURE, "kPa", f"p-{i}", "z1", "zone_pressure", 0, 900, 300, 0.1)
        for i in range(SENSORS)
    ]
    return Registry(Site("town", "Town", "UTC", 52, 4), (Zone("z1", "town", "Zone 1", ZoneKind.DMA),), (), (), (flow, *pressure))


@dataclass
class Town:
    """Readings of a zone with a leak that the caller may open and close."""

    seed: int

    def readings(self, from_us: int, to_us: int, leak_m3ph: float = 0.0, historical: bool = False) -> ReadingBatch:
        at = np.arange(from_us, to_us, STEP_US)
        n = len(at)
        rng = np.random.default_rng([self.seed, from_us // STEP_US])
        day = 2 * np.pi * ((at - START_US) % DAY_US) / DAY_US
        use = 30 * (1 + 0.4 * np.sin(day - 1.8) + 0.15 * np.sin(2 * day)) * (1 + rng.normal(0, 0.04, n))
        columns = [use + leak_m3ph] + [
            400 - 0.3 * use - leak_m3ph * (1.0 if i == 2 else 0.2) + rng.normal(0, 0.4, n) for i in range(SENSORS)
        ]
        value = np.round(np.column_stack(columns), 2)
        channel = np.tile(np.arange(1, SENSORS + 2), n)
        observed = np.repeat(at, SENSORS + 1) + (channel - 3) * 2_000_000
        received = np.full(len(observed), LIVE_US) if historical else observed + 5_000_000
        zero = np.zeros(len(observed), np.uint8)
        flags = np.where((received - observed) > HOUR_US, np.uint8(ReadingFlag.HISTORICAL), np.uint8(0)).astype(np.uint8)
        return ReadingBatch(channel.astype(np.int32), observed, received, value.ravel(), zero, zero, flags)


def packs(batch: ReadingBatch, hours: int = 6) -> ReadingBatch:
    """Return the readings as buffering devices send them: device A its 6 h, then device B the same 6 h."""
    pack = (batch.observed_us - START_US) // (hours * HOUR_US)
    return batch.take(np.lexsort((batch.observed_us, batch.channel_id, pack)))


@pytest.fixture(scope="module")
def learned() -> bytes:
    bank = Bank(registry())
    history = packs(Town(7).readings(START_US, LIVE_US, historical=True))
    findings: list[Finding] = []
    for start in range(0, len(history), 999):
        findings += bank.step(history.take(slice(start, start + 999))).findings
    assert findings == []
    assert bank.late_rows == 0
    return bank.state()


def after(learned: bytes) -> Bank:
    bank = Bank(registry())
    bank.restore(learned)
    return bank


def run(bank: Bank, batch: ReadingBatch) -> tuple[list[Finding], dict[str, np.ndarray]]:
    findings: list[Finding] = []
    rows: list[tuple[int, float, float, str]] = []
    for start in range(0, len(batch), 500):
        out = bank.step(batch.take(slice(start, start + 500)))
        findings += out.findings
        e = out.expectations
        rows += [
            (int(e.at_us[i]), float(e.observed[i]), float(e.expected[i]), e.baseline[int(e.signal[i])])
            for i in range(len(e))
            if e.signals[int(e.signal[i])].name == "zone/z1/inflow"
        ]
    return findings, {
        "at": np.array([r[0] for r in rows]),
        "rest": np.array([r[1] - r[2] for r in rows]),
        "base": np.array([r[3] for r in rows]),
    }


def test_history_in_packs_is_learned_as_well_as_history_in_order(learned: bytes) -> None:
    ordered = Bank(registry())
    ordered.step(Town(7).readings(START_US, LIVE_US, historical=True))
    tail = Town(7).readings(LIVE_US, LIVE_US + HOUR_US)
    ours, theirs = after(learned).step(tail).expectations, ordered.step(tail).expectations
    assert np.array_equal(ours.expected, theirs.expected)


@pytest.mark.parametrize("seed", range(8))
def test_burst_of_a_third_of_the_inflow_is_found_within_the_half_hour(learned: bytes, seed: int) -> None:
    bank, at = after(learned), LIVE_US + 3 * HOUR_US
    quiet, _ = run(bank, Town(seed).readings(LIVE_US, at))
    found, _ = run(bank, Town(seed).readings(at, at + 2 * HOUR_US, 10.0))
    assert quiet == []
    first = found[0]
    assert (first.kind, first.phase, first.historical) == (FindingKind.LEAK_BURST, FindingPhase.RAISE, False)
    assert first.detected_us - at <= 30 * MINUTE_US
    assert abs(first.onset_us - at) <= 15 * MINUTE_US
    assert first.evidence.band_low < first.evidence.expected < first.evidence.band_high < first.evidence.observed
    assert first.evidence.drivers[0].name == "pr-2"
    assert "pr-2" in first.evidence.summary
    assert first.evidence.candidates == ()
    updates = [f.detected_us for f in found if f.phase is FindingPhase.UPDATE]
    assert all(b - a >= 30 * MINUTE_US for a, b in zip([first.detected_us, *updates], updates, strict=False))


def test_open_leak_is_not_absorbed_in_four_weeks(learned: bytes) -> None:
    bank = after(learned)
    found, rows = run(bank, Town(3).readings(LIVE_US, LIVE_US + 28 * DAY_US, 6.0))
    assert next(f.phase for f in found if f.kind is FindingKind.LEAK_BURST) is FindingPhase.RAISE
    assert not [f for f in found if f.phase is FindingPhase.CLEAR]
    last_day = rows["rest"][-288:]
    assert 5.0 < last_day.mean() < 7.0


def test_repair_returns_the_residual_to_nothing_on_the_frozen_baseline(learned: bytes) -> None:
    bank = after(learned)
    run(bank, Town(3).readings(LIVE_US, LIVE_US + 2 * HOUR_US, 9.0))
    hold = Hold(1, "z1", "dma:z1", LIVE_US + HOUR_US)
    bank.hold([hold])
    run(bank, Town(3).readings(LIVE_US + 2 * HOUR_US, LIVE_US + 30 * HOUR_US, 9.0))
    found, rows = run(bank, Town(3).readings(LIVE_US + 30 * HOUR_US, LIVE_US + 36 * HOUR_US))
    clear = [f for f in found if f.phase is FindingPhase.CLEAR]
    assert len(clear) == 1
    assert clear[0].detected_us - (LIVE_US + 30 * HOUR_US) <= 90 * MINUTE_US
    assert abs(rows["rest"][-36:].mean()) < 1.0
    # cleared but still held: the same frozen baseline all the time
    assert len(set(rows["base"])) == 1
    assert not rows["base"][0].endswith("live")
    bank.hold([Hold(1, "z1", "dma:z1", hold.held_us, LIVE_US + 36 * HOUR_US, "repaired")])
    found, rows = run(bank, Town(3).readings(LIVE_US + 36 * HOUR_US, LIVE_US + 60 * HOUR_US))
    assert found == []
    assert rows["base"][-1].endswith("live")


def test_wrong_repair_does_not_clear(learned: bytes) -> None:
    bank = after(learned)
    run(bank, Town(5).readings(LIVE_US, LIVE_US + 2 * HOUR_US, 9.0))
    bank.hold([Hold(1, "z1", "dma:z1", LIVE_US + HOUR_US)])
    bank.hold([Hold(1, "z1", "dma:z1", LIVE_US + HOUR_US, LIVE_US + 2 * HOUR_US, "repaired")])
    found, rows = run(bank, Town(5).readings(LIVE_US + 2 * HOUR_US, LIVE_US + 2 * DAY_US, 9.0))
    assert not [f for f in found if f.phase is FindingPhase.CLEAR]
    assert rows["rest"][-12:].mean() > 7.0


def test_cancelled_order_makes_the_new_level_normal(learned: bytes) -> None:
    bank = after(learned)
    run(bank, Town(5).readings(LIVE_US, LIVE_US + 4 * HOUR_US, 9.0))
    bank.hold([Hold(1, "z1", "dma:z1", LIVE_US + HOUR_US)])
    bank.hold([Hold(1, "z1", "dma:z1", LIVE_US + HOUR_US, LIVE_US + 4 * HOUR_US, "cancelled")])
    found, rows = run(bank, Town(5).readings(LIVE_US + 4 * HOUR_US, LIVE_US + 2 * DAY_US, 9.0))
    burst = [f for f in found if f.kind is FindingKind.LEAK_BURST]
    assert [f.phase for f in burst] == [FindingPhase.CLEAR]
    assert abs(rows["rest"][-144:].mean()) < 1.0


def test_silence_during_a_leak_neither_clears_nor_updates_it(learned: bytes) -> None:
    bank = after(learned)
    run(bank, Town(5).readings(LIVE_US, LIVE_US + 2 * HOUR_US, 9.0))
    later = Town(5).readings(LIVE_US + 2 * HOUR_US, LIVE_US + 12 * HOUR_US, 0.0)
    found, _ = run(bank, later.take(later.channel_id != 1))
    assert [f for f in found if f.kind is not FindingKind.COMMS_LOST] == []
    assert not [f for f in bank.tick(LIVE_US + 30 * DAY_US).findings if f.kind is not FindingKind.COMMS_LOST]


@pytest.mark.parametrize("seed", range(9, 13))
def test_leak_that_grows_too_slowly_for_the_burst_path_is_found_by_night_flow(learned: bytes, seed: int) -> None:
    bank = after(learned)
    found: list[Finding] = []
    for day in range(24):
        found += run(bank, Town(seed).readings(LIVE_US + day * DAY_US, LIVE_US + (day + 1) * DAY_US, 0.12 * day))[0]
    first = found[0]
    assert (first.kind, first.phase) == (FindingKind.LEAK_BACKGROUND, FindingPhase.RAISE)
    assert first.detected_us - LIVE_US <= 16 * DAY_US
    assert first.evidence.details["nights"] >= 3


@pytest.mark.parametrize("seed", range(20, 28))
def test_two_quiet_weeks_after_learning_raise_nothing(learned: bytes, seed: int) -> None:
    found, _ = run(after(learned), Town(seed).readings(LIVE_US, LIVE_US + 14 * DAY_US))
    assert found == []


def test_dead_pressure_sensor_delays_its_zone_once_and_by_twenty_minutes_at_most(learned: bytes) -> None:
    bank = after(learned)
    batch = Town(2).readings(LIVE_US, LIVE_US + 3 * HOUR_US)
    batch = batch.take((batch.channel_id != 3) | (batch.observed_us < LIVE_US + HOUR_US))
    delay = []
    for i in range(len(batch)):
        out = bank.step(batch.take(slice(i, i + 1)))
        at = out.expectations.at_us
        delay += [(int(batch.observed_us[i]) - int(t)) / MINUTE_US for t in np.unique(at)]
    # what waited for the dead sensor, then the rest: judged when the last living sensor has spoken
    assert max(delay) <= 20.5
    assert np.median(delay) < 1.0
    assert np.mean(np.array(delay) > 1.0) < 0.15


def test_leak_in_history_that_still_runs_is_raised_again_when_live(learned: bytes) -> None:
    bank = Bank(registry())
    town = Town(7)
    bank.step(town.readings(START_US, LIVE_US - DAY_US, historical=True))
    found, _ = run(bank, town.readings(LIVE_US - DAY_US, LIVE_US - 2 * HOUR_US, 9.0, historical=True))
    assert found[0].phase is FindingPhase.RAISE
    assert found[0].historical
    found, _ = run(bank, town.readings(LIVE_US - 2 * HOUR_US, LIVE_US + HOUR_US, 9.0))
    live = [f for f in found if f.phase is FindingPhase.RAISE]
    assert [f.historical for f in live] == [False]
    assert len({f.finding_id for f in found}) == len(found)
