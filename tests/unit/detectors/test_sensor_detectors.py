import numpy as np

from detectors.bank import Bank
from underway.model import EPOCH_AT, HOUR_US, MINUTE_US, Channel, Device, FindingPhase, Quantity, ReadingBatch, Registry, Site


def logger_registry(zones: dict[str, str], gateway: dict[str, str] | None = None) -> Registry:
    devices = tuple(
        Device(d, "town", z, None, "logger", "native", EPOCH_AT, attributes={"gateway_id": gateway[d]} if gateway else {})
        for d, z in zones.items()
    )
    channels = tuple(
        Channel(i, d, "pressure", Quantity.PRESSURE, "kPa", None, z, "zone_pressure", 0, 900, 300, 0.1)
        for i, (d, z) in enumerate(zones.items(), 1)
    )
    return Registry(Site("town", "Town", "UTC", 0, 0), (), (), devices, channels)


def series(count: int, minutes: range, silent: dict[int, range] | None = None, seed: int = 1) -> ReadingBatch:
    rng = np.random.default_rng(seed)
    rows = [(c, m) for m in minutes for c in range(1, count + 1) if m not in (silent or {}).get(c, ())]
    at = [m * MINUTE_US for _, m in rows]
    return ReadingBatch.from_columns([c for c, _ in rows], at, rng.normal(300, 5, len(rows)).tolist())


def said(findings: object) -> list[tuple[str, str, int]]:
    return [(f.phase.value, f.asset_id, f.detected_us // MINUTE_US) for f in findings]  # type: ignore[attr-defined]


def test_no_data_device_that_comes_back_clears() -> None:
    bank = Bank(logger_registry({"pr-1": "z1", "pr-2": "z1"}))
    found = bank.step(series(2, range(0, 300, 5), {2: range(65, 200)})).findings
    assert said(found) == [("raise", "device:pr-2", 90), ("clear", "device:pr-2", 200)]


def test_no_data_silence_of_a_whole_zone_is_one_finding() -> None:
    bank = Bank(logger_registry({f"pr-{i}": "z1" if i <= 5 else "z2" for i in range(1, 9)}))
    found = bank.step(series(8, range(0, 300, 5), {c: range(65, 400) for c in range(1, 6)})).findings
    assert said(found) == [("raise", "zone:z1", 90)]
    assert found[0].evidence.summary.startswith("5 of 5 devices of zone z1 are silent since")


def test_no_data_silence_of_a_gateway_is_one_finding_across_zones() -> None:
    zones = {f"pr-{i}": f"z{i % 2}" for i in range(1, 9)}
    bank = Bank(logger_registry(zones, {d: "gw-a" if int(d[3:]) <= 4 else "gw-b" for d in zones}))
    found = bank.step(series(8, range(0, 300, 5), {c: range(65, 400) for c in range(1, 5)})).findings
    assert said(found) == [("raise", "gateway:gw-a", 90)]


def test_no_data_silence_of_everything_is_said_by_the_tick_once_for_the_site() -> None:
    bank = Bank(logger_registry({f"pr-{i}": "z1" for i in range(1, 9)}))
    assert bank.step(series(8, range(0, 100, 5))).findings == ()
    assert bank.tick(95 * MINUTE_US + HOUR_US).findings == ()
    found = bank.tick(95 * MINUTE_US + 3 * HOUR_US).findings
    assert said(found) == [("raise", "site:town", 95 + 120)]
    assert bank.tick(95 * MINUTE_US + 4 * HOUR_US).findings == ()
    back = bank.step(series(8, range(400, 410, 5))).findings
    assert [(f.phase, f.asset_id) for f in back] == [(FindingPhase.CLEAR, "site:town")]


def test_no_data_tick_at_any_time_gives_the_same_id() -> None:
    first, second = (Bank(logger_registry({f"pr-{i}": "z1" for i in range(1, 4)})) for _ in range(2))
    for bank in (first, second):
        bank.step(series(3, range(0, 100, 5)))
    a, b = first.tick(400 * MINUTE_US).findings, second.tick(777 * MINUTE_US).findings
    assert [f.finding_id for f in a] == [f.finding_id for f in b]


def test_flat_line_valve_that_reads_zero_every_night_is_not_stuck() -> None:
    bank = Bank(logger_registry({"pr-1": "z1"}))
    minutes = np.arange(0, 10 * 1440, 5)
    value = np.where((minutes % 1440) < 480, 0.0, np.random.default_rng(2).normal(50, 3, len(minutes)))
    batch = ReadingBatch.from_columns(np.ones(len(minutes), int), minutes * MINUTE_US, value)
    assert bank.step(batch).findings == ()


def test_flat_line_clears_after_three_changes() -> None:
    bank = Bank(logger_registry({"pr-1": "z1"}))
    value = np.random.default_rng(2).normal(50, 3, 2000)
    value[1500:1600] = 47.1
    batch = ReadingBatch.from_columns(np.ones(2000, int), np.arange(2000) * 5 * MINUTE_US, value)
    found = bank.step(batch).findings
    assert [(f.phase, f.detected_us // (5 * MINUTE_US)) for f in found] == [(FindingPhase.RAISE, 1513), (FindingPhase.CLEAR, 1602)]
    assert found[0].onset_us == found[1].onset_us == 1500 * 5 * MINUTE_US
