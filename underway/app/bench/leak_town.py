"""A town of the leak benchmark: a folder of parquet files as a registry, a hydraulic model, repairs, and readings in the order of their time."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.water.sections import CUSTOMER_ROLE, sections
from underway.model import (
    DAY_US,
    Asset,
    AssetClass,
    Channel,
    Hold,
    NetworkModel,
    OperatorError,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    Zone,
    ZoneKind,
    from_us,
    to_us,
)

KPA_PER_M = 9.80665
SCADA, AMR, REPAIRS = "scada.parquet", "amr.parquet", "repairs_year1.csv"
ROLES: Mapping[str, tuple[Quantity, str, str, float, float, float]] = {
    "pressure_m": (Quantity.PRESSURE, "kPa", "zone_pressure", KPA_PER_M, 300.0, 0.098),
    "flow_m3h": (Quantity.FLOW, "m3/h", "zone_inflow", 1.0, 300.0, 0.01),
    "level_m": (Quantity.LEVEL, "m", "tank_level", 1.0, 300.0, 0.001),
    "amr_demand_Lh": (Quantity.FLOW, "m3/h", CUSTOMER_ROLE, 1e-3, 3600.0, 0.001),
}
"""Kind of a sensor: quantity, canonical unit, role, factor to the unit, interval in s, resolution in the unit."""


@dataclass(frozen=True, slots=True)
class BenchTown:
    """A town as the bank sees it.

    Attributes
    ----------
    folder, inp : Path
        Of the town; the EPANET file of its network.
    registry : Registry
    model : NetworkModel
    repairs : tuple of Hold
        Repairs that crews reported, as holds that were released.
    pipe_length_m : mapping of str to float
    pipe_ends : mapping of str to (str, str)
    """

    folder: Path
    inp: Path
    registry: Registry
    model: NetworkModel
    repairs: tuple[Hold, ...]
    pipe_length_m: Mapping[str, float]
    pipe_ends: Mapping[str, tuple[str, str]]
    _factor: Mapping[str, tuple[int, float]]

    def days(self, until: datetime | None = None) -> int:
        """Return over how many days the readings go."""
        at = self._times(SCADA)
        end = int(at[-1]) if until is None else min(int(at[-1]), to_us(until))
        return max(1, -(-(end - int(at[0])) // DAY_US))

    def begin_at(self) -> datetime:
        """Return the instant of the first reading."""
        return from_us(int(self._times(SCADA)[0]))

    def _times(self, name: str) -> NDArray[np.int64]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / name, columns=[_time_column(self.folder / name)])
        return np.asarray(table.column(0).cast(pa.timestamp("us", tz="UTC")).cast("int64").to_numpy(), np.int64)

    def batches(self, until: datetime | None = None) -> Iterator[ReadingBatch]:
        """Yield the readings in event order, a day at a time; what is missing is no reading.

        Parameters
        ----------
        until : datetime, optional
            Nothing at or after this instant.
        """
        stop = 2**62 if until is None else to_us(until)
        files = [_Columns.read(self.folder / name, self._factor) for name in (SCADA, AMR) if (self.folder / name).is_file()]
        first = min(int(f.at_us[0]) for f in files) // DAY_US
        last = max(int(f.at_us[-1]) for f in files) // DAY_US
        for day in range(first, last + 1):
            parts = [f.rows(day * DAY_US, min((day + 1) * DAY_US, stop)) for f in files]
            at = np.concatenate([p[0] for p in parts])
            if not len(at):
                continue
            channel, value = np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts])
            order = np.lexsort((channel, at))
            zeros = np.zeros(len(at), np.uint8)
            yield ReadingBatch(
                channel[order].astype(np.int32), at[order], at[order].copy(), value[order], zeros, zeros.copy(), zeros.copy()
            )


@dataclass(frozen=True, slots=True)
class _Columns:
    """One parquet file: times, and the columns that are channels, in their canonical unit."""

    at_us: NDArray[np.int64]
    channel_id: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path, factor: Mapping[str, tuple[int, float]]) -> _Columns:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        name = _time_column(path)
        at = np.asarray(table.column(name).cast(pa.timestamp("us", tz="UTC")).cast("int64").to_numpy(), np.int64)
        known = [c for c in table.column_names if c in factor]
        value = np.zeros((len(at), len(known)))
        for i, c in enumerate(known):
            value[:, i] = np.asarray(table.column(c).cast("float64").to_numpy(), np.float64) * factor[c][1]
        return cls(at, np.array([factor[c][0] for c in known], np.int64), value)

    def rows(self, begin_us: int, end_us: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return (times, channels, values) of what is there from `begin_us` to before `end_us`."""
        a, b = np.searchsorted(self.at_us, (begin_us, max(begin_us, end_us)))
        value = self.value[a:b]
        row, column = np.nonzero(np.isfinite(value))
        return self.at_us[a:b][row], self.channel_id[column], value[row, column]


def _time_column(path: Path) -> str:
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    for name in ("time", "timestamp", "__index_level_0__"):
        if name in names:
            return name
    raise OperatorError(f"{path} must have a column 'time', got {names[:5]!r}")


def read_town(folder: Path) -> BenchTown:
    """Read a town's folder, and the network's files in the folder above.

    Raises
    ------
    OperatorError
        Naming every file that is missing, or what in a file is not as expected.
    """
    above = folder.resolve().parent
    wanted = [folder / SCADA, *(above / f"{name}.csv" for name in ("pipes", "nodes", "sensors"))]
    missing = [str(path) for path in wanted if not path.is_file()]
    inps = sorted(path for path in above.glob("*.*") if path.suffix.lower() == ".inp")
    if not inps:
        missing.append(str(above / "*.inp"))
    if missing:
        raise OperatorError(
            f"a town needs {SCADA}, and pipes.csv, nodes.csv, sensors.csv and an INP file one level up; missing: {', '.join(missing)}"
        )
    pipes, nodes, sensors = (_table(above / f"{name}.csv") for name in ("pipes", "nodes", "sensors"))
    site = Site("bench", folder.name, "UTC", 0.0, 0.0)
    where = {n["node"]: (float(n["x"]) / 111_320.0, float(n["y"]) / 111_320.0) for n in nodes}
    assets: dict[str, Asset] = {}
    for p in pipes:
        ends = [where[p[e]] for e in ("n1", "n2") if p[e] in where]
        geometry: dict[str, Any] | None = {"type": "LineString", "coordinates": [list(e) for e in ends]} if len(ends) == 2 else None
        assets[p["pipe"]] = Asset(
            p["pipe"], site.site_id, None, AssetClass.PIPE, p["pipe"], geometry, 2, {"length_m": float(p["length_m"])}
        )
    channels: list[Channel] = []
    factor: dict[str, tuple[int, float]] = {}
    for number, s in enumerate(sensors, start=1):
        if s["kind"] not in ROLES:
            raise OperatorError(
                f"{above / 'sensors.csv'}: the kind of a sensor must be one of {', '.join(ROLES)}, got {s['kind']!r} for {s['column']!r}"
            )
        quantity, unit, role, by, interval_s, resolution = ROLES[s["kind"]]
        element = s["element"]
        if element not in assets:
            assets[element] = Asset(element, site.site_id, None, AssetClass.JUNCTION, element)
        channels.append(Channel(number, s["column"], s["column"], quantity, unit, element, None, role, -1e9, 1e9, interval_s, resolution))
        factor[s["column"]] = (number, by)
    model = NetworkModel(site.site_id, inps[0].read_text(encoding="utf-8", errors="replace"), {a: a for a in assets})
    zones, channels, zone_of = _zones(channels, model, site)
    placed = tuple(replace(a, zone_id=zone_of.get(a.asset_id)) for a in assets.values())
    registry = Registry(site, zones, placed, (), tuple(channels))
    repairs = tuple(
        Hold(i, zone_of.get(r["pipe"]), r["pipe"], at, at, "repaired")
        for i, r in enumerate(_table(folder / REPAIRS) if (folder / REPAIRS).is_file() else [], start=1)
        for at in [to_us(_instant(r["repaired_at"]))]
    )
    lengths = {p["pipe"]: float(p["length_m"]) for p in pipes}
    return BenchTown(folder, inps[0], registry, model, repairs, lengths, {p["pipe"]: (p["n1"], p["n2"]) for p in pipes}, factor)


def _zones(channels: list[Channel], model: NetworkModel, site: Site) -> tuple[tuple[Zone, ...], list[Channel], dict[str, str]]:
    """Return a zone for each section of the network, and channels and elements with their zones; a pump counts where it takes water from."""
    found, _ = sections(channels, model)
    zone_of: dict[str, str] = {}
    sign: dict[int, int] = {}
    other: set[int] = set()
    for section in found:
        zone_id = f"zone-{section.name}"
        for element in (*section.nodes, *section.tanks, *section.pipes):
            zone_of[element] = zone_id
        for pump in section.pumps:
            if pump.sign < 0:
                zone_of[pump.link], sign[pump.channel.channel_id] = zone_id, -1
        for meter in section.inlets:
            sign[meter.channel.channel_id] = meter.sign
        other |= {c.channel_id for c in section.link_channels}
    placed = [
        replace(
            c, zone_id=zone_of.get(c.asset_id or ""), sign=sign.get(c.channel_id, 1), role="district_flow" if c.channel_id in other else c.role
        )
        for c in channels
    ]  # fmt: skip
    zones = tuple(Zone(f"zone-{s.name}", site.site_id, f"Zone of {s.name}", ZoneKind.DMA) for s in found)
    return zones, placed, zone_of


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
