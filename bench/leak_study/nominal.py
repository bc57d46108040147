"""The nominal EPANET model, cut into what the inlets feed (areas A and B) and what the tank feeds (area C): pressures for a load, and signatures."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import wntr
from numpy.typing import NDArray
from town import Hourly, Network
from wntr.epanet.toolkit import ENepanet

Floats = NDArray[np.float64]

EN_BASEDEMAND, EN_EMITTER, EN_TANKLEVEL, EN_PRESSURE, EN_FLOW = 1, 3, 8, 11, 8
INLETS, PUMP, PUMP_NODE, TANK = ("p227", "p235"), "PUMP_1", "n54", "T1"
LOADS = ((160.0, 0.0), (230.0, 0.0), (160.0, 45.0), (230.0, 45.0))
"""Demand and pump flow, m3/h, over which signatures are averaged."""
PROBE_M3PH = 6.0
TYPICAL_PRESSURE_M = 50.0
TYPICAL_HOURS = 14 * 24


class Nominal:
    """The model without its controls: the pump is shut and its flow drawn at its node, so that A and B are one problem and C is another."""

    def __init__(self, network: Network) -> None:
        self.network = network
        model = wntr.network.WaterNetworkModel(str(network.folder / "L-TOWN.inp"))
        for name in list(model.control_name_list):
            model.remove_control(name)
        self._kinds = {
            kind: np.asarray(model.get_pattern(name).multipliers)[:2016].reshape(-1, 12).mean(1)
            for kind, name in (("R", "P-Residential"), ("C", "P-Commercial"))
        }
        base = {"R": 0.0, "C": 0.0}
        for kind in "RCU":
            model.add_pattern(kind, [1.0])
        in_c = network.nodes["area"] == "C"
        for name, junction in model.junctions():
            demands = [(d.base_value, d.pattern_name) for d in junction.demand_timeseries_list]
            junction.demand_timeseries_list.clear()
            if in_c[name]:
                junction.add_demand(0.0, None)
                continue
            for value, pattern in demands:
                kind = {"P-Residential": "R", "P-Commercial": "C"}.get(pattern)
                if kind is not None and value:
                    junction.add_demand(value, kind)
                    base[kind] += value * 3600
            if name == PUMP_NODE:
                junction.add_demand(1 / 3600, "U")
        self._base = base
        model.get_link(PUMP).initial_status = "Closed"
        model.options.time.duration = 0
        model.options.hydraulic.accuracy = 1e-4
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name)
        wntr.network.write_inpfile(model, str(path / "town.inp"), units="CMH")
        self._engine = ENepanet(version=2.2)
        self._engine.ENopen(*(str(path / f"town.{end}") for end in ("inp", "rpt", "bin")))
        self._engine.ENopenH()
        self._engine.ENinitH(0)
        self._pattern = {kind: self._pattern_index(kind) for kind in "RCU"}
        self._node = {name: self._engine.ENgetnodeindex(name) for name in [*network.nodes.index]}
        self._inlet = [self._engine.ENgetlinkindex(name) for name in INLETS]
        self.gauges_ab, self.gauges_c = network.pressure_nodes("AB"), network.pressure_nodes("C")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._engine.ENcloseH()
        self._engine.ENclose()
        self._folder.cleanup()

    def _pattern_index(self, name: str) -> int:
        index = ctypes.c_int()
        assert self._engine.ENlib.EN_getpatternindex(self._engine._project, name.encode(), ctypes.byref(index)) == 0
        return index.value

    # -- areas A and B --------------------------------------------------------------------------------------------------------------

    def _load_ab(self, demand: float, pump: float, residential: float = 1.0, commercial: float = 1.0) -> None:
        scale = demand / (self._base["R"] * residential + self._base["C"] * commercial)
        for kind, value in (("R", scale * residential), ("C", scale * commercial), ("U", pump)):
            self._engine.ENlib.EN_setpatternvalue(self._engine._project, self._pattern[kind], 1, ctypes.c_double(value))

    def _solve(self, gauges: list[str], inlets: bool) -> Floats:
        engine = self._engine
        engine.ENinitH(0)
        engine.ENrunH()
        found = [engine.ENgetnodevalue(self._node[name], EN_PRESSURE) for name in gauges]
        return np.array(found + ([engine.ENgetlinkvalue(link, EN_FLOW) for link in self._inlet] if inlets else []))

    def hours_ab(self, hourly: Hourly, told: Callable[[float], None]) -> Floats:
        """Return, for each hour, pressures at the gauges of A and B and the flow of the first inlet, with the demand that the meters saw."""
        inflow, found = hourly.inlet_1 + hourly.inlet_2, np.full((len(hourly.begin_s), len(self.gauges_ab) + 1), np.nan)
        for k in np.flatnonzero(np.isfinite(inflow + hourly.pump)):
            hour = hourly.week_hour[k]
            self._load_ab(max(inflow[k] - hourly.pump[k], 5.0), max(hourly.pump[k], 0.0), self._kinds["R"][hour], self._kinds["C"][hour])
            found[k] = self._solve(self.gauges_ab, inlets=True)[:-1]
            if k % 2000 == 0:
                told(k / len(inflow))
        return found

    def signatures_ab(self) -> Floats:
        """Return, for each pipe, the change of each signal for 1 m3/h lost there while the inflow stays; NaN outside of A and B."""
        per_node = {}
        bases = []
        for demand, pump in LOADS:
            self._load_ab(demand, pump)
            bases.append(self._solve(self.gauges_ab, inlets=True))
        for name, index in self._node.items():
            if name not in self.network.nodes.index or self.network.nodes.at[name, "area"] == "C":
                continue
            self._engine.ENsetnodevalue(index, EN_EMITTER, PROBE_M3PH / TYPICAL_PRESSURE_M**0.5)
            changes = []
            for (demand, pump), base in zip(LOADS, bases, strict=True):
                lost = PROBE_M3PH
                for _ in range(2):
                    self._load_ab(demand - lost, pump)
                    found = self._solve(self.gauges_ab, inlets=True)
                    lost = found[-1] + found[-2] - pump - (demand - lost)
                changes.append((found - base)[:-1] / lost)
            per_node[name] = np.mean(changes, axis=0)
            self._engine.ENsetnodevalue(index, EN_EMITTER, 1e-7)
        return self._of_pipes(per_node, len(self.gauges_ab) + 1)

    # -- area C ---------------------------------------------------------------------------------------------------------------------

    def hours_c(self, hourly: Hourly) -> Floats:
        """Return, for each hour, pressures at the gauges of C with the demand that customers' meters saw and the level of the tank."""
        names = [column.removeprefix("D_") for column in hourly.customers.columns]
        demand = hourly.customers.to_numpy(np.float64) / 1000.0
        found = np.full((len(hourly.begin_s), len(self.gauges_c)), np.nan)
        for k in np.flatnonzero(np.isfinite(demand).all(1) & np.isfinite(hourly.level)):
            self._load_c(names, demand[k], hourly.level[k])
            found[k] = self._solve(self.gauges_c, inlets=False)
        self._typical = names, np.nanmean(demand[:TYPICAL_HOURS], 0), float(np.nanmean(hourly.level[:TYPICAL_HOURS]))
        return found

    def _load_c(self, names: list[str], demand: Floats, level: float) -> None:
        for name, value in zip(names, demand, strict=True):
            self._engine.ENsetnodevalue(self._node[name], EN_BASEDEMAND, float(value))
        self._engine.ENsetnodevalue(self._engine.ENgetnodeindex(TANK), EN_TANKLEVEL, float(level))

    def signatures_c(self) -> Floats:
        """Return, for each pipe, the change of the balance (1) and of each gauge for 1 m3/h lost there; NaN outside of C. After `hours_c`."""
        self._load_c(*self._typical)
        base = self._solve(self.gauges_c, inlets=False)
        per_node = {}
        demand = dict(zip(*self._typical[:2], strict=True))
        for name, index in self._node.items():
            if name in self.network.nodes.index and self.network.nodes.at[name, "area"] == "C":
                self._engine.ENsetnodevalue(index, EN_BASEDEMAND, float(demand.get(name, 0.0) + PROBE_M3PH))
                per_node[name] = np.r_[1.0, (self._solve(self.gauges_c, inlets=False) - base) / PROBE_M3PH]
                self._engine.ENsetnodevalue(index, EN_BASEDEMAND, float(demand.get(name, 0.0)))
        return self._of_pipes(per_node, len(self.gauges_c) + 1)

    def _of_pipes(self, per_node: dict[str, Any], width: int) -> Floats:
        nothing = np.full(width, np.nan)
        ends = (self.network.pipes[column] for column in ("n1", "n2"))
        return np.array([(per_node.get(a, nothing) + per_node.get(b, nothing)) / 2 for a, b in zip(*ends, strict=True)])
