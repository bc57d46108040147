"""A small network with a hydraulic model: a grid of mains between two reservoirs, six gauges, two metered inlets; and weeks of readings from it."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors.bank import Bank
from detectors.water.epanet import Engine
from detectors.water.leak_committee import DigRules
from detectors.water.sections import Section, sections
from underway.model import Asset, AssetClass, Channel, NetworkModel, Quantity, ReadingBatch, Registry, Site, Zone, ZoneKind

KPA_PER_M = 9.80665
SIDE, SPACING_M = 5, 180.0
GAUGES = ("j-0-2", "j-1-0", "j-2-4", "j-3-1", "j-4-3", "j-2-2")
INLETS = ("in-1", "in-2")
BEGIN_US = 1_767_571_200_000_000  # 2026-01-05T00:00Z, a Monday
LEARNING_DAYS, TAIL_DAYS = 19, 6
LEAK_PIPE, LEAK_M3PH = "h-3-2", 9.0


def _inp() -> str:
    lines = ["[JUNCTIONS]"]
    lines += [f" j-{r}-{c} {10 + r} {1.2 + 0.1 * ((r * 3 + c) % 4)} daily" for r in range(SIDE) for c in range(SIDE)]
    lines += ["[RESERVOIRS]", " r-1 70", " r-2 69.6", "[PIPES]"]
    lines += [f" h-{r}-{c} j-{r}-{c} j-{r}-{c + 1} {SPACING_M} 65 120 0 Open" for r in range(SIDE) for c in range(SIDE - 1)]
    lines += [f" v-{r}-{c} j-{r}-{c} j-{r + 1}-{c} {SPACING_M} 65 120 0 Open" for r in range(SIDE - 1) for c in range(SIDE)]
    lines += [" in-1 r-1 j-0-0 50 200 130 0 Open", " in-2 r-2 j-4-4 50 200 130 0 Open", "[PATTERNS]"]
    lines += [" daily " + " ".join(f"{1 + 0.6 * np.sin((h - 9) / 24 * 2 * np.pi):.4f}" for h in range(24))]
    lines += ["[TIMES]", " Duration 24:00", " Hydraulic Timestep 1:00", " Pattern Timestep 1:00"]
    lines += ["[OPTIONS]", " Units CMH", " Headloss H-W", "[COORDINATES]"]
    lines += [f" j-{r}-{c} {c * SPACING_M} {r * SPACING_M}" for r in range(SIDE) for c in range(SIDE)]
    return "\n".join([*lines, " r-1 -50 0", " r-2 1500 1400", "[END]", ""])


def write_network(folder: Path) -> None:
    """Write the network as the leak benchmark has it: an EPANET file, pipes, nodes and sensors."""
    (folder / "grid.inp").write_text(_inp(), encoding="utf-8")
    pipes = [(f"h-{r}-{c}", f"j-{r}-{c}", f"j-{r}-{c + 1}") for r in range(SIDE) for c in range(SIDE - 1)]
    pipes += [(f"v-{r}-{c}", f"j-{r}-{c}", f"j-{r + 1}-{c}") for r in range(SIDE - 1) for c in range(SIDE)]
    pipes += [("in-1", "r-1", "j-0-0"), ("in-2", "r-2", "j-4-4")]
    nodes = [(f"j-{r}-{c}", c * SPACING_M, r * SPACING_M) for r in range(SIDE) for c in range(SIDE)]
    tables = {
        "pipes": [
            ("pipe", "n1", "n2", "length_m", "diameter_m", "roughness_hw", "area"),
            *((*p, SPACING_M, 0.065, 120, "A") for p in pipes),
        ],
        "nodes": [("node", "x", "y", "elevation_m", "area"), *((*n, 10, "A") for n in nodes)],
        "sensors": [
            ("column", "kind", "element", "x", "y", "elevation_m", "area"),
            *((f"P_{g}", "pressure_m", g, 0, 0, 0, "A") for g in GAUGES),
            *((f"Q_{m}", "flow_m3h", m, 0, 0, 0, "A") for m in INLETS),
        ],
    }
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


@cache
def network() -> tuple[Registry, NetworkModel]:
    """Return the registry and the model of the town."""
    pipes = [f"h-{r}-{c}" for r in range(SIDE) for c in range(SIDE - 1)] + [f"v-{r}-{c}" for r in range(SIDE - 1) for c in range(SIDE)]
    assets = [Asset(p, "town", "z", AssetClass.PIPE, p) for p in (*pipes, *INLETS)]
    assets += [Asset(g, "town", "z", AssetClass.JUNCTION, g) for g in GAUGES]
    channels = [
        Channel(i, g, "pressure", Quantity.PRESSURE, "kPa", g, "z", "zone_pressure", 0, 2000, 300.0, 0.1)
        for i, g in enumerate(GAUGES, start=1)
    ]
    first = len(GAUGES) + 1
    channels += [
        Channel(first + i, m, "flow", Quantity.FLOW, "m3/h", m, "z", "zone_inflow", -500, 500, 300.0, 0.01) for i, m in enumerate(INLETS)
    ]
    model = NetworkModel("town", _inp(), {a.asset_id: a.asset_id for a in assets})
    return Registry(
        Site("town", "Town", "UTC", 0.0, 0.0), (Zone("z", "town", "Z", ZoneKind.DMA),), tuple(assets), (), tuple(channels)
    ), model


@cache
def section() -> Section:
    """Return the one section of the town."""
    registry, model = network()
    found, refused = sections(registry.channels, model)
    assert len(found) == 1
    assert not refused
    return found[0]


@cache
def _answers() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the true signals of 24 hours without and with the leak: (24, gauges + inlets), the network rougher than its model."""
    part = section()
    engine = Engine(part)
    engine.set_roughness(engine.roughness * 0.9)
    found = []
    ends = [int(e) for e in part.ends[part.pipes.index(LEAK_PIPE)]]
    for leak in (0.0, LEAK_M3PH):
        rows = []
        for hour in range(24):
            for e in ends:
                engine.draw(e, leak / 2)
            demand = 40.0 * part.profile["daily"][hour]
            engine.load(part.factors(demand, hour), {})
            signals = engine.solve()
            rows.append([*signals[: len(GAUGES)] * KPA_PER_M, signals[-1], demand + leak - signals[-1]])
        for e in ends:
            engine.draw(e, 0.0)
        found.append(np.array(rows))
    engine.close()
    return found[0], found[1]


@cache
def readings(days: int, seed: int = 0, leak_from: float | None = None, leak_until: float = 1e9, offset: float = 0.0) -> ReadingBatch:
    """Return readings of `days` days at 5 min; the leak runs between two days; `offset` days of noise are left out (for tails)."""
    quiet, leaky = _answers()
    n = days * 288
    day = offset + np.arange(n) / 288
    hour = (day * 24).astype(int) % 24
    runs = (day >= (1e9 if leak_from is None else leak_from)) & (day < leak_until)
    value = np.where(runs[:, None], leaky[hour], quiet[hour])
    rng = np.random.default_rng([seed, int(offset)])
    load = 1.0 + 0.01 * rng.normal(size=n)
    value = value + rng.normal(size=value.shape) * np.r_[np.full(len(GAUGES), 0.15), 0.1, 0.1]
    value[:, len(GAUGES) :] *= load[:, None]
    at = BEGIN_US + (day * 86_400e6).round().astype(np.int64)
    width = value.shape[1]
    return ReadingBatch.from_columns(np.tile(np.arange(1, width + 1), n), np.repeat(at, width), value.round(3).ravel())


def make_bank(digs: DigRules | None = None) -> Bank:
    """Return a fresh bank with the network's detector only."""
    registry, model = network()
    bank = Bank(registry, models=[model], digs=digs)
    return bank.only([k for k in bank.lane_keys if k.startswith("network-leaks")])


@cache
def _learned() -> bytes:
    bank = make_bank()
    bank.step(readings(LEARNING_DAYS))
    return bank.state()


def experienced() -> Bank:
    """Return a bank that has learned and seen some quiet days."""
    bank = make_bank()
    bank.restore(_learned())
    return bank


def tail(seed: int = 1, leak_from: float | None = 0.6, leak_until: float = 1e9, days: int = TAIL_DAYS) -> ReadingBatch:
    """Return the readings after what `experienced` has seen; times of the leak count from there."""
    begin = None if leak_from is None else LEARNING_DAYS + leak_from
    return readings(days, seed, begin, LEARNING_DAYS + leak_until, float(LEARNING_DAYS))
