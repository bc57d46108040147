"""A registry with one of everything that detectors watch, and series for it: a quiet past, a quiet tail, a tail full of faults."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from detectors.bank import Bank
from detectors.contract import BankOutput
from underway.model import (
    EPOCH_AT,
    Asset,
    AssetClass,
    Channel,
    Device,
    LeakSignatures,
    Quantity,
    ReadingBatch,
    ReadingFlag,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

STEP_US = 300_000_000
START_US = 1_771_200_000_000_000  # 2026-02-16T00:00Z, a Monday
PAST_DAYS = 12
TAIL_STEPS = 168


def _channel(number: int, device: str, name: str, quantity: Quantity, role: str, zone: str, asset: str | None, **more: object) -> Channel:
    facts: dict[str, object] = {"range_min": -1e6, "range_max": 1e6, "interval_s": 300.0, "resolution": 0.01} | more
    return Channel(number, device, name, quantity, "", asset, zone, role, **facts)  # type: ignore[arg-type]


def make_registry() -> Registry:
    """Return the registry: two zones with a boundary meter, pressures, a tank, a station, meters; a corridor with sections, a bridge, a culvert."""
    q = Quantity
    channels = (
        _channel(1, "fm-in", "flow", q.FLOW, "zone_inflow", "z1", None),
        _channel(2, "fm-12", "flow", q.FLOW, "zone_inflow", "z2", None, also_zone_id="z1"),
        _channel(3, "pr-1", "pressure", q.PRESSURE, "zone_pressure", "z1", "p-1", resolution=0.1),
        _channel(4, "pr-2", "pressure", q.PRESSURE, "zone_pressure", "z1", "p-2", resolution=0.1),
        _channel(5, "pr-3", "pressure", q.PRESSURE, "zone_pressure", "z2", "p-4", resolution=0.1),
        _channel(6, "tk-1", "level", q.LEVEL, "tank_level", "z1", None, resolution=0.001),
        _channel(7, "tk-1", "flow", q.FLOW, "tank_flow", "z1", None),
        _channel(8, "rp-1", "roughness", q.ROUGHNESS, "roughness", "road", "rd-1", interval_s=900.0),
        _channel(9, "rp-2", "roughness", q.ROUGHNESS, "roughness", "road", "rd-2", interval_s=900.0),
        _channel(10, "br-1", "frequency", q.FREQUENCY, "bridge_frequency", "road", "br-01", interval_s=600.0, resolution=0.001),
        _channel(11, "br-1", "temperature", q.TEMPERATURE, "bridge_temperature", "road", "br-01", interval_s=600.0, resolution=0.1),
        _channel(12, "dr-1", "level", q.LEVEL, "drain_level", "road", "dr-01", resolution=0.001),
        _channel(13, "rn-1", "rain", q.RAIN_RATE, "rain", "road", "dr-01", resolution=0.2),
        _channel(14, "qs-1", "chlorine", q.CHLORINE, "water_quality", "z1", "qs-01"),
        _channel(15, "qs-1", "turbidity", q.TURBIDITY, "water_quality", "z1", "qs-01", resolution=0.001),
        _channel(16, "qs-1", "ph", q.PH, "water_quality", "z1", "qs-01", resolution=0.001),
        _channel(17, "qs-1", "conductivity", q.CONDUCTIVITY, "water_quality", "z1", "qs-01", resolution=0.1),
        _channel(18, "qs-1", "toc", q.TOC, "water_quality", "z1", "qs-01"),
        _channel(19, "cm-1", "volume", q.VOLUME, "customer_meter", "z1", None, resolution=0.001),
        _channel(20, "cm-2", "volume", q.VOLUME, "customer_meter", "z1", None, resolution=0.001),
        _channel(21, "cm-1", "cover_removed", q.FLAG, "tamper_flag", "z1", None, resolution=1.0),
        _channel(31, "tk-01", "level", q.LEVEL, "tank_level", "st", "tk-01", resolution=0.001),
        _channel(32, "tk-01", "inflow", q.FLOW, "tank_flow", "st", "tk-01", sign=-1),
        _channel(33, "tk-01", "outflow", q.FLOW, "tank_flow", "st", "tk-01"),
        _channel(34, "tk-02", "level", q.LEVEL, "tank_level", "st", "tk-02", resolution=0.001),
        _channel(35, "tk-02", "flow", q.FLOW, "tank_flow", "st", "tk-02"),
        _channel(41, "pu-01", "flow", q.FLOW, "pump_flow", "st", "pu-01"),
        _channel(42, "pu-01", "suction", q.PRESSURE, "pump_suction", "st", "pu-01"),
        _channel(43, "pu-01", "discharge", q.PRESSURE, "pump_discharge", "st", "pu-01"),
        _channel(44, "pu-01", "power", q.POWER, "pump_power", "st", "pu-01"),
        _channel(45, "v-01", "upstream", q.PRESSURE, "prv_upstream", "st", "v-01"),
        _channel(46, "v-01", "downstream", q.PRESSURE, "prv_downstream", "st", "v-01"),
        _channel(47, "v-01", "flow", q.FLOW, "prv_flow", "st", "v-01"),
    )
    assets = (
        *(Asset(f"p-{i}", "town", "z1", AssetClass.PIPE, f"Main {i}", attributes={"length_m": 100.0}) for i in (1, 2, 3)),
        *(Asset(f"rd-{i}", "town", "road", AssetClass.ROAD_SECTION, f"Section {i}") for i in (1, 2)),
        Asset("br-01", "town", "road", AssetClass.BRIDGE, "Brook Bridge"),
        Asset("qs-01", "town", "z1", AssetClass.JUNCTION, "Quality station"),
        Asset("tk-01", "town", "st", AssetClass.TANK, "Hill tank", attributes={"diameter_m": 12.0, "overflow_m": 4.5, "low_m": 1.0}),
        Asset("tk-02", "town", "st", AssetClass.TANK, "Low tank", attributes={"area_m2": 100.0, "overflow_m": 4.5, "low_m": 1.0}),
        Asset("pu-01", "town", "st", AssetClass.PUMP, "Pump 1"),
        Asset("v-01", "town", "st", AssetClass.VALVE, "Valve 1"),
        Asset("dr-01", "town", "road", AssetClass.CULVERT, "Culvert", attributes={"depth_m": 1.2}),
    )
    ids = dict.fromkeys(c.device_id for c in channels)
    zone_of = {c.device_id: c.zone_id for c in channels}
    sizes = {"cm-1": {"q3_m3ph": 2.5, "ratio_r": 160.0}}
    devices = tuple(Device(d, "town", zone_of[d], None, "box", "native", EPOCH_AT, attributes=sizes.get(d, {})) for d in ids)
    zones = (
        Zone("z1", "town", "Zone 1", ZoneKind.DMA),
        Zone("z2", "town", "Zone 2", ZoneKind.DMA),
        Zone("st", "town", "Station", ZoneKind.CORRIDOR),
        Zone("road", "town", "Sand Road", ZoneKind.CORRIDOR),
    )
    return Registry(Site("town", "Town", "Europe/Amsterdam", 52.0, 4.0), zones, assets, devices, channels)


def make_signatures() -> tuple[LeakSignatures, ...]:
    """Return signatures of zone 1: each of three pipes pulls differently at its two sensors."""
    return (LeakSignatures("z1", ("p-1", "p-2", "p-3"), (3, 4), np.array([[1.0, 0.2], [0.2, 1.0], [0.5, 0.5]])),)


def make_batch(first: int, steps: int, seed: int, faults: bool = False, historical: bool = False) -> ReadingBatch:
    """Return readings of grid steps ``first .. first + steps``; with `faults` everything breaks after a sixth of them."""
    rng = np.random.default_rng([seed, first, steps])
    t = np.arange(first, first + steps)
    broken = faults & (np.arange(steps) >= steps // 6)
    day = 2 * np.pi * t / 288

    def noise(sd: float) -> np.ndarray:
        return rng.normal(0.0, sd, steps)

    leak = np.where(broken, 9.0, 0.0)
    use1 = 30 * (1 + 0.4 * np.sin(day - 1)) * (1 + noise(0.03))
    use2 = 20 * (1 + 0.3 * np.sin(day - 1.2)) * (1 + noise(0.03))
    tank = 3 * np.sin(day)
    rain = np.maximum(0.0, 8 * np.sin(2 * np.pi * t / 700) - 4)
    wet = np.convolve(rain, np.exp(-np.arange(60) / 12) / 12)[:steps]
    warm = 10 + 4 * np.sin(day - 2)
    into, spilled = 25 + noise(0.2), np.where(broken, np.minimum(0.04 * (np.arange(steps) - steps // 6), 2.0), 0.0)
    lost = np.where(broken, 0.04 * (np.arange(steps) - steps // 6), 0.0)
    columns: dict[int, np.ndarray] = {
        1: use1 + use2 + leak - tank,
        2: use2,
        3: 400 - 0.3 * use1 - 1.0 * leak + noise(0.3),
        4: 380 - 0.2 * use1 - 0.2 * leak + noise(0.3),
        5: 350 - 0.2 * use2 + noise(0.3),
        6: 3 + np.cos(day) + noise(0.002),
        7: tank + noise(0.02),
        8: np.where(broken, 3.0, 2.0) * np.exp(noise(0.06)),
        9: 1.8 * np.exp(noise(0.06)),
        10: 2.5 * (1 - 0.0007 * (warm - 10)) * np.where(broken, 0.94, 1.0) + noise(0.015),
        11: warm + noise(0.1),
        12: 0.03 + 0.12 * wet ** (2 / 3) + np.where(broken, 1.1, 0.0) + noise(0.004),
        13: rain,
        14: 0.8 + 0.05 * np.sin(day) - np.where(broken, 0.3, 0.0) + noise(0.03),
        15: 0.2 * np.exp(noise(0.05)),
        16: np.where(broken, 7.0, 7.8 + 0.02 * np.sin(day + 1) + noise(0.01)),
        17: 350 + 20 * np.sin(day + 2) + noise(2.0),
        18: 2.0 + 0.1 * np.sin(day + 2) + np.where(broken, 0.6, 0.0) + noise(0.05),
        19: 400 + 0.01 * t - np.where(broken, 0.03 * (np.arange(steps) - steps // 6 + 1), 0.0) + rng.uniform(0.0, 0.004, steps),
        21: broken.astype(float),
        20: 900 - 0.012 * t + rng.uniform(0.0, 0.004, steps),
    }
    swing = 0.8 * 2 * np.pi / 24 * np.cos(day)
    columns |= {
        31: np.minimum(3 + 0.8 * np.sin(day) + spilled, 4.51) + noise(0.002),
        32: into + np.where(broken, 60.0, 0.0),
        33: into - 113.1 * swing + noise(0.2),
        34: np.maximum(3 + 0.8 * np.sin(day) - lost, 0.2) + noise(0.002),
        35: -100.0 * swing + noise(0.2),
    }
    pumped = 100 + 15 * np.sin(day) + noise(0.5)
    head = 420 - 0.006 * pumped**2 + noise(1.0)
    columns |= {
        41: pumped,
        42: 40 + noise(0.5),
        43: 40 + head,
        44: pumped * head / 3600 / (0.7 - 0.00004 * (pumped - 100) ** 2) * np.where(broken, 1.15, 1.0) * (1 + noise(0.004)),
    }
    reduced = 40 + 20 * np.sin(day) + noise(0.5)
    columns |= {
        45: 600 - 0.01 * reduced**2 + noise(1.5),
        46: 380 - 0.1 * reduced + np.where(broken, 60.0, 0.0) + noise(1.5),
        47: reduced,
    }
    resolution = {c.channel_id: c.resolution for c in make_registry().channels}
    every = {8: 3, 9: 3, 10: 2, 11: 2}
    if faults:
        columns[4] = np.where(broken, np.round(columns[4][0], 1), columns[4])
    parts = []
    for channel, value in columns.items():
        keep = t % every.get(channel, 1) == 0
        if faults and channel == 5:
            keep &= ~broken
        if channel == 20:
            keep &= broken  # a meter that is new, and mounted the wrong way round
        at = START_US + t[keep] * STEP_US + (channel * 7 % 11 - 5) * 1_000_000
        value = np.round(value[keep] / resolution[channel]) * resolution[channel]
        n = len(at)
        flags = np.full(n, int(ReadingFlag.HISTORICAL) if historical else 0, np.uint8)
        zero = np.zeros(n, np.uint8)
        received = np.full(n, START_US + (first + steps) * STEP_US) if historical else at + 3_000_000
        parts.append(ReadingBatch(np.full(n, channel, np.int32), at, received, value, zero, zero, flags))
    batch = ReadingBatch.concat(parts)
    return batch if historical else batch.in_event_order()


BANK = "bank"
LANE_KEYS = Bank(make_registry(), make_signatures()).lane_keys
SUBJECTS = (BANK, *LANE_KEYS)


def make_subject(name: str) -> Bank:
    """Return a fresh bank, or a bank with one of its lanes alone."""
    bank = Bank(make_registry(), make_signatures())
    return bank if name == BANK else bank.only([name])


@cache
def learned(name: str) -> bytes:
    """Return the state of a subject after `PAST_DAYS` quiet days."""
    subject = make_subject(name)
    subject.step(make_batch(0, PAST_DAYS * 288, 1))
    return subject.state()


def experienced(name: str) -> Bank:
    """Return a subject that has `PAST_DAYS` quiet days behind it."""
    subject = make_subject(name)
    subject.restore(learned(name))
    return subject


@cache
def faulty_tail(seed: int) -> ReadingBatch:
    """Return the tail in which everything breaks."""
    return make_batch(PAST_DAYS * 288, TAIL_STEPS, seed, faults=True)


@cache
def quiet_tail(seed: int) -> ReadingBatch:
    """Return a tail in which nothing happens."""
    return make_batch(PAST_DAYS * 288, TAIL_STEPS, seed)


@dataclass(frozen=True)
class Plain:
    """An output in a form that can be compared: findings and expectation rows as sorted text."""

    findings: tuple[str, ...]
    rows: tuple[tuple[str, str, int, float, float, float], ...]


def plain(outputs: list[BankOutput]) -> Plain:
    """Return what a run gave, whatever the batches were."""
    findings = sorted(repr(f) for o in outputs for f in o.findings)
    rows = []
    for o in outputs:
        e = o.expectations
        for i in range(len(e)):
            s = int(e.signal[i])
            rows.append((e.signals[s].name, e.baseline[s], int(e.at_us[i]), float(e.observed[i]), float(e.expected[i]), float(e.sigma[i])))
    return Plain(tuple(findings), tuple(sorted(rows)))
