"""Two simulated years of a network with leaks, in the shape of the leak benchmark: SCADA, customers' meters, repairs, and the truth.

From a folder with a network (an EPANET file, ``pipes.csv``, ``nodes.csv``, ``sensors.csv``) and a seed comes a folder with ``scada.parquet`` (5 min),
``amr.parquet`` (hourly means, stamped at the hour's end, L/h), ``repairs_year1.csv``, and ``truth/`` (``leaks.csv``, ``leakflow.parquet``), which a
detector never reads. The network is not the nominal one: its roughness is off in one direction and by pipe, its demand is spread otherwise, drifts,
steps, has seasons and holidays; one gauge drifts, others stick, readings drop out.
"""

from __future__ import annotations

import csv
import ctypes
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import wntr
from numpy.typing import NDArray
from wntr.epanet.toolkit import ENepanet

from simulators.disturbances import Disturbance, Draw, GaugeFault
from simulators.hydraulics import DISCHARGE, EN_BASEDEMAND, EN_FLOW, EN_PRESSURE, EN_TANKLEVEL, GRAVITY_MPS2, EngineError
from underway.model import OperatorError

Floats = NDArray[np.float64]

STEP_MIN = 5
DAYS = 730
BEGIN = np.datetime64("2024-01-01T00:00:00", "s")
YEAR_2 = np.datetime64("2025-01-01T00:00:00", "s")
END_DAY = 729.99
QUIET_DAYS = 20
"""No leak begins so early: what watches the network learns meanwhile."""
HELD_OUT_SEEDS = (201, 202, 203, 204, 205, 206)
"""Towns of these seeds are for judging; nothing is ever tuned on them."""
LEAKS_A_YEAR = (13, 16)
EN_BASE_CATEGORY = 1
DRAWN = "drawn"
GAUGE_SD_M, FLOW_SD_SHARE, LEVEL_DECIMALS = 0.018, 0.005, 3
DROPOUT_GAUGE, DROPOUT_FLOW = 0.004, 0.001
DEMAND_SD = 0.05
"""White noise of the whole demand from one 5 min to the next, as a share of it."""
PUMP_M3PH, PUMP_PER_M = 44.3, 0.4
LEVEL_MIN_M = 0.3
"""A tank is not drained further: customers would have no water."""
HOLIDAYS = ((1, 1), (5, 1), (12, 25), (12, 26))


@dataclass(frozen=True, slots=True)
class SimulatedLeak:
    """One leak: days since the begin of the simulation; a growing one reaches its full hole at `peak_day`."""

    pipe: str
    start_day: float
    peak_day: float
    end_day: float
    diameter_m: float
    repaired: bool

    @property
    def abrupt(self) -> bool:
        """Whether it came at once."""
        return self.peak_day == self.start_day

    def area_m2(self, day: Floats) -> Floats:
        """Return the area of the hole at each instant; it grows linearly.

        Examples
        --------
        >>> leak = SimulatedLeak("p1", 10.0, 20.0, 30.0, 0.01, True)
        >>> (leak.area_m2(np.array([9.0, 15.0, 25.0, 31.0])) / leak.area_m2(np.array([25.0]))).round(2).tolist()
        [0.0, 0.5, 1.0, 0.0]
        """
        grown = np.clip((day - self.start_day) / (self.peak_day - self.start_day), 0.0, 1.0) if not self.abrupt else 1.0
        runs = (day >= self.start_day) & (day < self.end_day)
        return np.asarray(np.pi / 4 * self.diameter_m**2 * grown * runs, np.float64)


def draw_leaks(rng: np.random.Generator, pipes: Sequence[str], length_m: Floats) -> list[SimulatedLeak]:
    """Draw the leaks of two years: half came at once; the larger half is reported and repaired, the others run on."""
    leaks = []
    weight = length_m / length_m.sum()
    for year in (0, 1):
        for _ in range(int(rng.integers(*LEAKS_A_YEAR))):
            pipe = str(rng.choice(np.asarray(pipes), p=weight))
            start = float(rng.uniform(QUIET_DAYS if year == 0 else 366.0, 366.0 * (year + 1) - 25 * year - 10))
            abrupt, large = rng.random() < 0.5, rng.random() < (0.72 if year == 0 else 0.42)
            growth = 0.0 if abrupt else float(rng.uniform(8.0, 95.0))
            diameter = float(rng.uniform(0.0115, 0.0195) if large else rng.uniform(0.008, 0.0131))
            ends = start + growth + float(rng.uniform(10.0, 60.0)) if large else END_DAY
            leaks.append(SimulatedLeak(pipe, start, start + growth, min(ends, END_DAY), diameter, large and ends < END_DAY))
    return sorted(leaks, key=lambda leak: leak.start_day)


@dataclass(frozen=True, slots=True)
class _Files:
    folder: Path
    pipes: list[dict[str, str]]
    nodes: list[dict[str, str]]
    sensors: list[dict[str, str]]

    @classmethod
    def read(cls, folder: Path) -> _Files:
        """Read the tables of a network; an `OperatorError` lists all that is missing."""
        missing = [n for n in ("pipes.csv", "nodes.csv", "sensors.csv") if not (folder / n).is_file()]
        if not list(folder.glob("*.inp")):
            missing.append("*.inp")
        if missing:
            raise OperatorError(
                f"a network's folder must hold pipes.csv, nodes.csv, sensors.csv and an INP file; {folder} lacks {', '.join(missing)}"
            )
        tables = []
        for name in ("pipes", "nodes", "sensors"):
            with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
                tables.append(list(csv.DictReader(file)))
        return cls(folder, *tables)

    def elements(self, kind: str) -> list[str]:
        """Return the elements of one kind of sensor, in order."""
        return [s["element"] for s in self.sensors if s["kind"] == kind]

    def columns(self, kind: str) -> list[str]:
        """Return the columns of one kind of sensor, in order."""
        return [s["column"] for s in self.sensors if s["kind"] == kind]


class _Truth:
    """The network as it really is, in EPANET, with its pump cut out."""

    def __init__(self, files: _Files, rng: np.random.Generator, customers: Sequence[str]) -> None:
        model = wntr.network.WaterNetworkModel(str(next(iter(sorted(files.folder.glob("*.inp"))))))
        for name in list(model.control_name_list):
            model.remove_control(name)
        systematic = rng.uniform(-0.17, -0.03)
        for _, pipe in model.pipes():
            pipe.roughness *= float(np.exp(systematic + rng.normal(0.0, 0.06)))
        self.step_s = float(model.options.time.pattern_timestep)
        self.kinds: dict[str, Floats] = {}
        self.base: dict[str, Floats] = {}
        names = list(model.junction_name_list)
        self.names, metered = names, set(customers)
        for i, name in enumerate(names):
            junction = model.get_node(name)
            demands = [(d.base_value * 3600.0, str(d.pattern_name or "constant")) for d in junction.demand_timeseries_list]
            junction.demand_timeseries_list.clear()
            factor = float(np.exp(rng.normal(0.0, 0.2)))
            for value, kind in demands:
                if value and name not in metered:
                    self.base.setdefault(kind, np.zeros(len(names)))[i] += value * factor
        for kind in self.base:
            multipliers = model.get_pattern(kind).multipliers if kind in model.pattern_name_list else [1.0]
            self.kinds[kind] = np.asarray(multipliers, np.float64)
        model.add_pattern(DRAWN, [1.0])
        for _, junction in model.junctions():
            junction.add_demand(0.0, DRAWN)
        self.pumps = [(p, model.get_link(p).start_node_name) for p in model.pump_name_list if p in set(files.elements("flow_m3h"))]
        for pump, _ in self.pumps:
            model.remove_link(pump)
        for _, pattern in model.patterns():
            pattern.multipliers = [1.0]
        self.tanks = list(model.tank_name_list)
        self.tank_area_m2 = {t: np.pi / 4 * model.get_node(t).diameter ** 2 for t in self.tanks}
        model.options.time.duration, model.options.hydraulic.accuracy, model.options.hydraulic.demand_multiplier = 0, 1e-4, 1.0
        model.options.hydraulic.demand_model = "DDA"
        self._folder = tempfile.TemporaryDirectory(prefix="underway-town-")
        path = Path(self._folder.name)
        wntr.network.write_inpfile(model, str(path / "town.inp"), units="CMH")
        self._toolkit = ENepanet(version=2.2)
        self._toolkit.ENopen(*(str(path / f"town.{end}") for end in ("inp", "rpt", "bin")))
        self._lib, self._project = self._toolkit.ENlib, self._toolkit._project
        self._lib.EN_openH(self._project)
        self.node = {n: self._index("EN_getnodeindex", n) for n in (*names, *self.tanks)}
        self.link = {n: self._index("EN_getlinkindex", n) for n in (*model.pipe_name_list, *model.valve_name_list)}
        self._order = np.array([self.node[n] for n in names])
        self._last = np.full(len(names), np.nan)
        self._value = ctypes.c_double()

    def close(self) -> None:
        """Give the engine back."""
        self._lib.EN_closeH(self._project)
        self._toolkit.ENclose()
        self._folder.cleanup()

    def _index(self, call: str, name: str) -> int:
        index = ctypes.c_int()
        if getattr(self._lib, call)(self._project, name.encode(), ctypes.byref(index)) >= 100:
            raise EngineError(f"EPANET does not know {name!r}")
        return index.value

    def solve(self, drawn_m3ph: Floats, levels: Mapping[str, float]) -> None:
        """Solve for what is drawn at every junction and the level of every tank."""
        for place in np.flatnonzero(drawn_m3ph != self._last):
            self._lib.EN_setnodevalue(self._project, int(self._order[place]), EN_BASEDEMAND, ctypes.c_double(float(drawn_m3ph[place])))
        self._last = drawn_m3ph.copy()
        for tank, level in levels.items():
            self._lib.EN_setnodevalue(self._project, self.node[tank], EN_TANKLEVEL, ctypes.c_double(level))
        self._lib.EN_initH(self._project, 0)
        elapsed = ctypes.c_long()
        code = self._lib.EN_runH(self._project, ctypes.byref(elapsed))
        if code >= 100:
            raise EngineError(f"EPANET cannot solve the town, code {code}")

    def pressure_m(self, name: str) -> float:
        """Return the pressure at a node."""
        self._lib.EN_getnodevalue(self._project, self.node[name], EN_PRESSURE, ctypes.byref(self._value))
        return self._value.value

    def flow_m3ph(self, name: str) -> float:
        """Return the flow in a link."""
        self._lib.EN_getlinkvalue(self._project, self.link[name], EN_FLOW, ctypes.byref(self._value))
        return self._value.value


@dataclass(frozen=True, slots=True)
class LeakTown:
    """What came out: columns of the SCADA at 5 min, customers by hour (L/h), leaks and their flows by hour (m3/h)."""

    at: NDArray[np.datetime64]
    scada: Mapping[str, Floats]
    hours: NDArray[np.datetime64]
    customers: Mapping[str, Floats]
    leaks: tuple[SimulatedLeak, ...]
    leak_flow_m3ph: Mapping[str, Floats]


def simulate_town(
    folder: Path,
    seed: int,
    *,
    leaks: Sequence[SimulatedLeak] | None = None,
    days: int = DAYS,
    solve_every_min: int = STEP_MIN,
    disturbances: Sequence[Disturbance] = (),
    told: Callable[[float], None] = lambda share: None,
) -> LeakTown:
    """Simulate a town.

    Parameters
    ----------
    folder : Path
        Of the network.
    seed : int
        Same seed, same town.
    leaks : sequence of SimulatedLeak, optional
        Drawn from the seed when left out; empty for a town without leaks.
    days : int
    solve_every_min : int
        5, 15 or 60: how often the hydraulics are solved; between, pressures and flows are straight lines plus the noise of demand.
    disturbances : sequence of Disturbance
        What else happens, see `simulators.disturbances`.
    told : callable
        Called with the share that is done.

    Notes
    -----
    A leak draws ``0.75 A sqrt(2 g p)`` at the ends of its pipe, with the pressure of the step before, which changes by a few percent a step. Pumps
    that have a flow meter fill the first tank from 2.4 to 3.9 m. Cost 0.4 ms a solution of 800 pipes.
    """
    files = _Files.read(folder)
    rng = np.random.default_rng(seed)
    customers = files.elements("amr_demand_Lh")
    truth = _Truth(files, rng, customers)
    try:
        return _simulate(files, truth, rng, seed, leaks, days, solve_every_min, disturbances, told)
    finally:
        truth.close()


def _demand_factor(rng: np.random.Generator, day: Floats) -> Floats:
    """Return the factor of the whole demand: season, drift, steps, day-to-day noise, holidays."""
    n = int(day[-1]) + 2
    season = 1.0 + rng.uniform(0.09, 0.13) * np.sin(2 * np.pi * (day - rng.uniform(0, 365)) / 365.0)
    noise = np.zeros(n)
    for i in range(1, n):
        noise[i] = 0.55 * noise[i - 1] + rng.normal(0.0, 0.011)
    drift = 1.0 + rng.normal(0.0, 0.03) * day / 730.0
    for _ in range(int(rng.integers(1, 4))):
        drift = drift * np.where(day >= rng.uniform(30, 700), 1.0 + rng.normal(0.0, 0.012), 1.0)
    factor = season * drift * (1.0 + np.interp(day, np.arange(n) + 0.5, noise))
    dates = (BEGIN + (day * 86_400).astype("timedelta64[s]")).astype("datetime64[D]")
    months, days_of = dates.astype("datetime64[M]").astype(int) % 12 + 1, (dates - dates.astype("datetime64[M]")).astype(int) + 1
    for month, of_month in HOLIDAYS:
        factor = np.where((months == month) & (days_of == of_month), factor * 0.9, factor)
    return np.asarray(factor, np.float64)


def _simulate(
    files: _Files, truth: _Truth, rng: np.random.Generator, seed: int, given: Sequence[SimulatedLeak] | None, days: int, solve_every_min: int,
    disturbances: Sequence[Disturbance], told: Callable[[float], None],
) -> LeakTown:  # fmt: skip
    pipes = [p["pipe"] for p in files.pipes]
    ends_of = {p["pipe"]: (p["n1"], p["n2"]) for p in files.pipes}
    drawn = draw_leaks(rng, pipes, np.array([float(p["length_m"]) for p in files.pipes]))
    leaks = tuple(drawn if given is None else given)
    n = days * 24 * 60 // solve_every_min
    day = np.arange(n) * solve_every_min / 1440.0
    # between two solutions lies a straight line, which keeps two thirds of the variance of a mean
    white = DEMAND_SD * np.sqrt(1.5 * STEP_MIN / solve_every_min) if solve_every_min > STEP_MIN else DEMAND_SD
    factor = _demand_factor(rng, day) * (1.0 + np.random.default_rng((seed, 1)).normal(0.0, white, n))
    place = {name: i for i, name in enumerate(truth.names)}
    shape = {k: m[((day * 86_400.0) // truth.step_s).astype(np.int64) % len(m)] for k, m in truth.kinds.items()}
    # how demand moves between nodes: slowly, by group of neighbours in the list
    groups = np.arange(len(truth.names)) // 40
    months = np.arange(0, days + 60, 30)
    wander = np.cumsum(rng.normal(0.0, 0.012, (len(months), int(groups.max()) + 1)), axis=0)
    amr = _customers(rng, files, day, days)
    level = dict.fromkeys(truth.tanks, 3.0)
    running = True
    gauges, flows, tanks = files.elements("pressure_m"), files.elements("flow_m3h"), files.elements("level_m")
    pump_names = {p for p, _ in truth.pumps}
    out: dict[str, Floats] = {name: np.empty(n) for name in (*gauges, *flows, *tanks)}
    lost = {leak.pipe: np.zeros(n) for leak in leaks}
    openings = [
        (leak, [e for e in ends_of[leak.pipe] if e in place], 3600.0 * DISCHARGE * leak.area_m2(day) * np.sqrt(2 * GRAVITY_MPS2)) for leak in leaks
    ]  # fmt: skip
    draws = [(d, d.flow_m3ph(day)) for d in disturbances if isinstance(d, Draw)]
    last_pressure = dict.fromkeys({e for _, ends, _ in openings for e in ends}, 45.0)
    customer_nodes = [place[c] for c in files.elements("amr_demand_Lh")]
    area_c = _fed_by_tank(files, truth)
    in_area = np.array(sorted(area_c), np.int64)
    today, slow = -1, np.ones(len(truth.names))
    for k in range(n):
        at = np.zeros(len(truth.names))
        if int(day[k]) != today:
            today = int(day[k])
            slow = np.exp([np.interp(today, months, wander[:, g]) for g in range(wander.shape[1])])[groups]
        for kind, base in truth.base.items():
            at += base * slow * (factor[k] * shape[kind][k])
        at[customer_nodes] += amr[:, int(day[k] * 24 + 1e-9)] / 1000.0
        for pump, node in truth.pumps:
            out[pump][k] = (PUMP_M3PH - PUMP_PER_M * (level[truth.tanks[0]] - 2.4)) if running and truth.tanks else 0.0
            at[place[node]] += out[pump][k]
        in_c = float(at[in_area].sum())
        for leak, ends, strength in openings:
            if strength[k] > 0 and ends:
                each = [strength[k] / len(ends) * np.sqrt(max(last_pressure[e], 0.0)) for e in ends]
                for e, q in zip(ends, each, strict=True):
                    at[place[e]] += q
                    in_c += q if place[e] in area_c else 0.0
                lost[leak.pipe][k] += sum(each)
        for draw, flow in draws:
            at[place[draw.node]] += flow[k]
            in_c += float(flow[k]) if place[draw.node] in area_c else 0.0
        truth.solve(at, level)
        for e in last_pressure:
            last_pressure[e] = truth.pressure_m(e)
        for name in gauges:
            out[name][k] = truth.pressure_m(name)
        for name in flows:
            if name not in pump_names:
                out[name][k] = truth.flow_m3ph(name)
        for tank in tanks:
            out[tank][k] = level[tank]
        if truth.tanks and truth.pumps:
            tank = truth.tanks[0]
            pumped = sum(float(out[p][k]) for p, _ in truth.pumps)
            level[tank] = max(level[tank] + (pumped - in_c) * solve_every_min / 60.0 / truth.tank_area_m2[tank], LEVEL_MIN_M)
            running = level[tank] < 3.9 if running else level[tank] < 2.4
        if k % max(1, n // 200) == 0:
            told(k / n)
    return _measured(files, rng, day, days, out, amr, leaks, lost, disturbances)


def _fed_by_tank(files: _Files, truth: _Truth) -> set[int]:
    """Return places of the junctions that the first tank feeds: those that hang together with it now that the pump is out."""
    if not truth.tanks:
        return set()
    beside: dict[str, set[str]] = {}
    for p in files.pipes:
        beside.setdefault(p["n1"], set()).add(p["n2"])
        beside.setdefault(p["n2"], set()).add(p["n1"])
    reached, queue = {truth.tanks[0]}, [truth.tanks[0]]
    while queue:
        for other in beside.get(queue.pop(), ()):
            if other not in reached:
                reached.add(other)
                queue.append(other)
    place = {name: i for i, name in enumerate(truth.names)}
    return {place[name] for name in reached if name in place}


def _customers(rng: np.random.Generator, files: _Files, day: Floats, days: int) -> Floats:
    """Return hourly use of the metered customers, L/h, shape (customers, hours)."""
    names = files.elements("amr_demand_Lh")
    hours = np.arange(days * 24 + 1)
    of_day = np.array(
        [
            0.92,
            0.76,
            0.6,
            0.48,
            0.42,
            0.39,
            0.48,
            0.84,
            1.14,
            1.24,
            1.28,
            1.29,
            1.28,
            1.26,
            1.24,
            1.19,
            1.12,
            1.11,
            1.15,
            1.18,
            1.2,
            1.2,
            1.18,
            1.05,
        ]
    )
    season = 1.0 + 0.1 * np.sin(2 * np.pi * (hours / 24 - rng.uniform(0, 365)) / 365.0)
    level = 224.0 * np.exp(rng.normal(0.0, 0.35, len(names)))
    noise = np.exp(rng.normal(0.0, 0.3, (len(names), len(hours))) - 0.045)
    return np.asarray(level[:, None] * of_day[hours % 24] * season * noise, np.float64)


def _measured(
    files: _Files, rng: np.random.Generator, day: Floats, days: int, out: Mapping[str, Floats], amr: Floats, leaks: Sequence[SimulatedLeak],
    lost: Mapping[str, Floats], disturbances: Sequence[Disturbance],
) -> LeakTown:  # fmt: skip
    """Return the readings: noise, rounding, dropouts, faults of gauges."""
    fine = np.arange(days * 288) * STEP_MIN / 1440.0
    scada: dict[str, Floats] = {}
    gauges = set(files.elements("pressure_m"))
    pulse = rng.normal(0.0, 0.006, len(fine))
    faulty = rng.choice(sorted(gauges), size=min(3, len(gauges)), replace=False)
    faults: list[GaugeFault] = [
        GaugeFault.drifting(str(faulty[0]), float(rng.uniform(60, 500)), float(rng.uniform(60, 200)), float(rng.normal(0, 0.15)))
    ]
    faults += [GaugeFault.stuck(str(name), float(rng.uniform(40, DAYS - 20)), float(rng.uniform(1.5, 4.5))) for name in faulty[1:]]
    faults += [d for d in disturbances if isinstance(d, GaugeFault)]
    for s in files.sensors:
        name, kind = s["element"], s["kind"]
        if kind == "amr_demand_Lh":
            continue
        value = np.interp(fine, day, out[name])
        if kind == "pressure_m":
            value = value + rng.normal(0.0, GAUGE_SD_M, len(fine))
            for fault in faults:
                if fault.node == name:
                    value = fault.apply(fine, value, rng)
            value = np.where(rng.random(len(fine)) < DROPOUT_GAUGE, np.nan, value.round(2))
        elif kind == "flow_m3h":
            steady = value > 1.0
            value = np.where(steady, value * (1.0 + pulse * 0.9 + rng.normal(0.0, FLOW_SD_SHARE, len(fine))), 0.0)
            value = np.where(rng.random(len(fine)) < DROPOUT_FLOW, np.nan, value.round(2))
        else:
            value = value.round(LEVEL_DECIMALS)
        scada[s["column"]] = value
    hours = np.arange(days * 24)
    flow = {p: q.reshape(len(hours), -1).mean(1) for p, q in lost.items()}
    customers = {c: amr[i, : len(hours)].round(2) for i, c in enumerate(files.columns("amr_demand_Lh"))}
    at = BEGIN + (fine * 86_400).round().astype("timedelta64[s]")
    return LeakTown(at, scada, BEGIN + (hours * 3600).astype("timedelta64[s]"), customers, tuple(leaks), flow)


def write_town(town: LeakTown, folder: Path) -> None:
    """Write a town as the benchmark's files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def stamps(at: NDArray[np.datetime64]) -> Any:
        return pa.array(at.astype("datetime64[us]").astype(np.int64), pa.timestamp("us", tz="UTC"))

    def table(at: NDArray[np.datetime64], columns: Mapping[str, Floats]) -> Any:
        found = pa.table({**{k: pa.array(v, pa.float64(), from_pandas=True) for k, v in columns.items()}, "time": stamps(at)})
        # readers with pandas take the column for the index, as in the benchmark's own files
        fields = [{"name": k, "field_name": k, "pandas_type": "float64", "numpy_type": "float64", "metadata": None} for k in columns]
        when = {
            "name": "time",
            "field_name": "time",
            "pandas_type": "datetimetz",
            "numpy_type": "datetime64[us]",
            "metadata": {"timezone": "UTC"},
        }
        told = {"index_columns": ["time"], "column_indexes": [], "columns": [*fields, when]}
        return found.replace_schema_metadata({"pandas": json.dumps(told)})

    (folder / "truth").mkdir(parents=True, exist_ok=True)
    pq.write_table(table(town.at, town.scada), folder / "scada.parquet")
    pq.write_table(table(town.hours + np.timedelta64(3600, "s"), town.customers), folder / "amr.parquet")
    pq.write_table(table(town.hours, town.leak_flow_m3ph), folder / "truth" / "leakflow.parquet")

    def instant(day: float) -> str:
        return str((BEGIN + np.timedelta64(round(day * 288) * 300, "s")).astype("datetime64[s]")).replace("T", " ") + "+00:00"

    with (folder / "truth" / "leaks.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("pipe", "start", "end", "peak", "kind", "diameter_m"))
        for x in town.leaks:
            rows.writerow(
                (
                    x.pipe,
                    instant(x.start_day),
                    instant(x.end_day),
                    instant(x.peak_day),
                    "abrupt" if x.abrupt else "incipient",
                    round(x.diameter_m, 5),
                )
            )
    with (folder / "repairs_year1.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("pipe", "repaired_at"))
        for x in sorted(town.leaks, key=lambda leak: leak.end_day):
            if x.repaired and x.end_day < 366.0:
                rows.writerow((x.pipe, instant(np.floor(x.end_day * 24) / 24)))
