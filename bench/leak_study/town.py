"""A town of the benchmark as hourly arrays: what its sensors said, without spells in which a gauge was stuck."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

Floats = NDArray[np.float64]

STUCK_STEPS = 24
"""Equal values in a row (two hours at two decimals) that no moving pressure shows."""
DIG_REACH_M = 300.0


@dataclass(frozen=True)
class Network:
    """Pipes, nodes and sensors of a folder; `distance_m` between the middles of two pipes, along the pipes."""

    folder: Path
    pipes: Any
    nodes: Any
    sensors: Any
    distance_m: Floats

    @classmethod
    def read(cls, folder: Path) -> Network:
        """Read ``pipes.csv``, ``nodes.csv`` and ``sensors.csv``."""
        pipes, nodes, sensors = (pd.read_csv(folder / f"{name}.csv") for name in ("pipes", "nodes", "sensors"))
        number = {name: i for i, name in enumerate(pd.unique(pipes[["n1", "n2"]].to_numpy().ravel()))}
        ends = [pipes[column].map(number).to_numpy() for column in ("n1", "n2")]
        length = pipes["length_m"].to_numpy(np.float64)
        graph = coo_matrix((np.maximum(length, 1e-6), ends), shape=(len(number),) * 2).tocsr()
        between = dijkstra(graph, directed=False)
        distance = np.min([between[np.ix_(a, b)] for a in ends for b in ends], axis=0) + (length[:, None] + length[None, :]) / 2
        np.fill_diagonal(distance, 0.0)
        return cls(folder, pipes, nodes.set_index("node"), sensors, distance)

    def pressure_nodes(self, areas: str) -> list[str]:
        """Return the nodes with a pressure gauge in some areas."""
        chosen = (self.sensors["kind"] == "pressure_m") & self.sensors["area"].isin(list(areas))
        return list(self.sensors.loc[chosen, "element"])


@dataclass(frozen=True)
class Hourly:
    """Hourly means; `begin_s` of each hour, seconds since 1970. Flows in m3/h, pressures and level in m, customers in L/h."""

    begin_s: NDArray[np.int64]
    week_hour: NDArray[np.int64]
    pressure: dict[str, Floats]
    inlet_1: Floats
    inlet_2: Floats
    pump: Floats
    level: Floats
    customers: Any
    repairs: list[tuple[float, str]]

    @classmethod
    def read(cls, town: Path) -> Hourly:
        """Read ``scada.parquet``, ``amr.parquet`` and ``repairs_year1.csv``."""
        raw = pd.read_parquet(town / "scada.parquet")
        for name in raw.columns:
            if name.startswith("P_"):
                raw[name] = without_stuck(raw[name].to_numpy(np.float64))
        hours = raw.resample("1h").mean()
        level = raw["L_T1"].resample("1h").first()
        customers = pd.read_parquet(town / "amr.parquet")
        customers.index = customers.index - pd.Timedelta("1h")  # stamped at the end of the hour
        repairs = pd.read_csv(town / "repairs_year1.csv")
        return cls(
            hours.index.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64),
            (hours.index.day_of_week * 24 + hours.index.hour).to_numpy(),
            {name[2:]: hours[name].to_numpy(np.float64) for name in hours.columns if name.startswith("P_")},
            *(hours[name].to_numpy(np.float64) for name in ("Q_p227", "Q_p235", "Q_PUMP_1")),
            level.to_numpy(np.float64),
            customers.reindex(hours.index),
            sorted((pd.Timestamp(at).timestamp(), pipe) for at, pipe in zip(repairs["repaired_at"], repairs["pipe"], strict=True)),
        )


def without_stuck(value: Floats) -> Floats:
    """Return the values with NaN where the same one came `STUCK_STEPS` times or more in a row."""
    run = np.cumsum(np.r_[True, value[1:] != value[:-1]]) - 1
    return np.where(np.bincount(run)[run] >= STUCK_STEPS, np.nan, value)
