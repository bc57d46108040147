"""Towns to measure with: an address book, and what its channels would read at any time; same seed, same town."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from underway.model import (
    DAY_US,
    MINUTE_US,
    Channel,
    Device,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    Zone,
    ZoneKind,
    from_us,
)

ROUND_US = 5 * MINUTE_US
"""Every channel speaks once a round."""
CHANNELS_A_ZONE = 50
CHANNELS_A_RTU = 100
REGISTERED_BEFORE = timedelta(days=60)
JITTER_US = 60_000_000
"""Within a round each logger has an instant of its own, at most half of this from the full five minutes."""
KINDS_OF_ZONE = 4
"""Zones are of four kinds in turn; two of one kind differ in their noise alone, so that what detectors learned of one holds for the other."""
MARKED_EVERY_ROUNDS = 3
MARKED_MOVING = 300
MARKED_EQUAL = 13
MARKED_INTERVAL_S = 7 * 86_400.0
"""Marked channels pause between their history and the measurement; this long interval says that they may."""


class Mix(StrEnum):
    """What stands in a zone of 50 channels."""

    LOGGERS = "loggers"
    """1 inflow meter and 49 pressure loggers, each a device of its own with one channel: the most that detectors can be given to do."""
    RTUS = "rtus"
    """The same channels at remote terminal units that read 100 channels of two zones."""
    REALISTIC = "realistic"
    """1 inflow meter, 15 pressure loggers, each with battery and signal, and 1 level meter of a tank with its battery."""


@dataclass(frozen=True, slots=True)
class Town:
    """A registry with what its channels read.

    Attributes
    ----------
    registry : Registry
        With ids from the store, or 0.
    level, swing, noise : ndarray of float64, shape (n,)
        Mean, daily amplitude and standard deviation of each channel of `registry.channels`, in the canonical unit; marked channels have none.
    offset_us : ndarray of int64, shape (n,)
        When in its round a channel speaks.
    marked : int
        How many channels at the end are marked: they speak only when told to.
    seed : int
    """

    registry: Registry
    level: NDArray[np.float64]
    swing: NDArray[np.float64]
    noise: NDArray[np.float64]
    offset_us: NDArray[np.int64]
    marked: int
    seed: int

    @property
    def size(self) -> int:
        """Return how many channels speak in every round."""
        return len(self.level) - self.marked

    @property
    def channel_ids(self) -> NDArray[np.int32]:
        """Return the ids of all channels."""
        return np.array([c.channel_id for c in self.registry.channels], np.int32)

    def registered(self, registry: Registry) -> Town:
        """Return the same town with the ids of a saved registry."""
        return replace(self, registry=registry)

    def quarter(self, zones: int) -> Town:
        """Return the town of the first zones alone, without marked channels."""
        n = zones * CHANNELS_A_ZONE
        kept = self.registry.channels[:n]
        devices = {c.device_id for c in kept}
        registry = replace(
            self.registry,
            zones=self.registry.zones[:zones],
            devices=tuple(d for d in self.registry.devices if d.device_id in devices),
            channels=kept,
        )
        return Town(registry, self.level[:n], self.swing[:n], self.noise[:n], self.offset_us[:n], 0, self.seed)

    def rounds(self, first_us: int, first: int, count: int) -> Rounds:
        """Return what all channels read in rounds `first` .. `first + count - 1`, round 0 at `first_us`; ordered by instant, then by channel."""
        rng = np.random.default_rng([self.seed, first, count])
        n = self.size
        at = (first_us + (first + np.arange(count, dtype=np.int64)) * ROUND_US)[:, None] + self.offset_us[None, :n]
        day = np.sin(at % DAY_US * (2 * np.pi / DAY_US))
        value = self.level[:n] + self.swing[:n] * day + self.noise[:n] * rng.standard_normal((count, n))
        index = np.broadcast_to(np.arange(n), (count, n)).ravel()
        order = np.lexsort((index, at.ravel()))
        return Rounds(index[order], at.ravel()[order], np.round(value, 3).ravel()[order])


@dataclass(frozen=True, slots=True)
class Rounds:
    """Readings as columns: index of the channel in the town, instant in us, value in the canonical unit."""

    index: NDArray[np.int64]
    at_us: NDArray[np.int64]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.index)

    def readings(self, channel_ids: NDArray[np.int32]) -> ReadingBatch:
        """Return them as a batch that was received a second later."""
        zeros = np.zeros(len(self), np.uint8)
        return ReadingBatch(channel_ids[self.index], self.at_us, self.at_us + 1_000_000, self.value, zeros, zeros, zeros)


def build_town(
    site_id: str, mix: Mix, zones: int, now_at: datetime, *, dialect: str = "native", marked: int = 0, seed: int = 1, spread: bool = True
) -> Town:
    """Return a town of `zones` zones with 50 channels each.

    Parameters
    ----------
    site_id : str
    mix : Mix
    zones : int
        Even for `Mix.RTUS`.
    now_at : datetime
        The devices were registered 60 days before.
    dialect : str
        What all devices speak; with ``sparkplug`` and ``senml`` they have the address that `payloads` uses.
    marked : int
        Additional devices with one tilt channel each, outside all zones.
    seed : int
    spread : bool
        Whether each channel has an instant of its own in a round; an RTU reads all of its channels at once.
    """
    registered_at = now_at - REGISTERED_BEFORE
    rng = np.random.default_rng(seed)
    zone_list, devices, channels = [], [], []
    level: list[float] = []
    swing: list[float] = []
    noise: list[float] = []

    def device(device_id: str, zone_id: str | None, address: str = "") -> None:
        devices.append(Device(device_id, site_id, zone_id, None, "bench", dialect, registered_at, address=address))

    def channel(
        device_id: str, name: str, quantity: Quantity, zone_id: str | None, role: str, unit: str, interval_s: float = 300.0
    ) -> None:
        low, high = _RANGE[quantity]
        channels.append(Channel(0, device_id, name, quantity, unit, None, zone_id, role, low, high, interval_s, 0.001))
        base, amplitude, sd = _SHAPE[quantity]
        level.append(base * float(rng.uniform(0.8, 1.2)))
        swing.append(amplitude)
        noise.append(sd)

    for z in range(zones):
        zone_id = f"{site_id}-z{z:04d}"
        zone_list.append(Zone(zone_id, site_id, f"Zone {z}", ZoneKind.DMA))
        rng = np.random.default_rng([seed, z % KINDS_OF_ZONE])
        _FILL[mix](site_id, z, zone_id, dialect, device, channel)
    rng = np.random.default_rng([seed, marked])
    for m in range(marked):
        device(f"{site_id}-mk-{m:04d}", None)
        channel(f"{site_id}-mk-{m:04d}", "tilt", Quantity.TILT, None, "bridge_tilt", "mrad", MARKED_INTERVAL_S)
    n = len(channels)
    rng = np.random.default_rng([seed, n])
    offset_us = rng.integers(0, JITTER_US // 1_000_000, n) * 1_000_000 - JITTER_US // 2 if spread else np.zeros(n, np.int64)
    registry = Registry(Site(site_id, "Town of the benchmark", "UTC", 0.0, 0.0), tuple(zone_list), (), tuple(devices), tuple(channels))
    return Town(registry, np.array(level), np.array(swing), np.array(noise), offset_us.astype(np.int64), marked, seed)


_RANGE: dict[Quantity, tuple[float, float]] = {
    Quantity.FLOW: (0.0, 1000.0),
    Quantity.PRESSURE: (0.0, 1000.0),
    Quantity.LEVEL: (0.0, 20.0),
    Quantity.BATTERY: (0.0, 10.0),
    Quantity.SIGNAL: (-150.0, 0.0),
    Quantity.TILT: (-1000.0, 1000.0),
}
_SHAPE: dict[Quantity, tuple[float, float, float]] = {
    Quantity.FLOW: (40.0, 6.0, 1.0),
    Quantity.PRESSURE: (350.0, 8.0, 0.6),
    Quantity.LEVEL: (4.0, 0.4, 0.02),
    Quantity.BATTERY: (3.6, 0.0, 0.01),
    Quantity.SIGNAL: (-90.0, 0.0, 2.0),
    Quantity.TILT: (5.0, 0.0, 0.1),
}
"""Level, daily swing and noise, in the canonical unit: the ordinary, in which nothing is to be found."""
_UNIT = {Quantity.FLOW: "m3/h", Quantity.PRESSURE: "kPa", Quantity.LEVEL: "m", Quantity.BATTERY: "V", Quantity.SIGNAL: "dBm"}

_Device = Callable[..., None]
_Channel = Callable[..., None]


def _loggers(site_id: str, z: int, zone_id: str, dialect: str, device: _Device, channel: _Channel) -> None:
    for k in range(CHANNELS_A_ZONE):
        is_flow = k == 0
        device_id = f"{site_id}-{'fm' if is_flow else 'pr'}-{z:04d}-{k:02d}"
        device(device_id, zone_id)
        if is_flow:
            channel(device_id, "flow", Quantity.FLOW, zone_id, "zone_inflow", "m3/h")
        else:
            channel(device_id, "pressure", Quantity.PRESSURE, zone_id, "zone_pressure", "kPa")


def _rtus(site_id: str, z: int, zone_id: str, dialect: str, device: _Device, channel: _Channel) -> None:
    zones_a_device = CHANNELS_A_RTU // CHANNELS_A_ZONE
    number, part = divmod(z, zones_a_device)
    device_id = f"{site_id}-rtu-{number:03d}"
    if part == 0:
        device(device_id, zone_id, rtu_address(site_id, dialect, number))
    for k in range(CHANNELS_A_ZONE):
        name = f"p{part * CHANNELS_A_ZONE + k:03d}"
        if k == 0:
            channel(device_id, name, Quantity.FLOW, zone_id, "zone_inflow", "m3/h")
        else:
            channel(device_id, name, Quantity.PRESSURE, zone_id, "zone_pressure", "kPa")


def _realistic(site_id: str, z: int, zone_id: str, dialect: str, device: _Device, channel: _Channel) -> None:
    boxes = [("fm", "flow", Quantity.FLOW, "zone_inflow")]
    boxes += [("pr", "pressure", Quantity.PRESSURE, "zone_pressure")] * 15
    for k, (prefix, name, quantity, role) in enumerate(boxes):
        device_id = f"{site_id}-{prefix}-{z:04d}-{k:02d}"
        device(device_id, zone_id)
        channel(device_id, name, quantity, zone_id, role, _UNIT[quantity])
        channel(device_id, "battery", Quantity.BATTERY, zone_id, "health", "V")
        channel(device_id, "signal", Quantity.SIGNAL, zone_id, "health", "dBm")
    device_id = f"{site_id}-tk-{z:04d}"
    device(device_id, zone_id)
    channel(device_id, "level", Quantity.LEVEL, zone_id, "tank_level", "m")
    channel(device_id, "battery", Quantity.BATTERY, zone_id, "health", "V")


_FILL = {Mix.LOGGERS: _loggers, Mix.RTUS: _rtus, Mix.REALISTIC: _realistic}


def rtu_address(site_id: str, dialect: str, number: int) -> str:
    """Return what a dialect calls RTU `number`; empty where that is its device id."""
    if dialect == "senml":
        return f"{site_id}/rtu-{number:03d}"
    if dialect == "sparkplug":
        return f"{site_id}/edge-{number // RTUS_AN_EDGE}/rtu-{number:03d}"
    return ""


RTUS_AN_EDGE = 5


def marked_history(town: Town, end_us: int) -> Rounds:
    """Return the history of the marked channels up to `end_us`: three days that move, then one value so often that once more is too often.

    The flat-line detector lets 12 repetitions pass and raises at the next.
    """
    count = MARKED_MOVING + MARKED_EQUAL
    rng = np.random.default_rng([town.seed, 77])
    first = town.size
    at = end_us - (count - 1 - np.arange(count, dtype=np.int64))[:, None] * MARKED_EVERY_ROUNDS * ROUND_US + np.zeros(town.marked, np.int64)
    value = town.level[first:] + town.noise[first:] * rng.standard_normal((count, town.marked))
    value[MARKED_MOVING:] = value[MARKED_MOVING]
    value[MARKED_MOVING - 1] = value[MARKED_MOVING] + 0.5  # the run begins here, whatever chance would have
    index = np.broadcast_to(first + np.arange(town.marked), (count, town.marked)).ravel()
    return Rounds(index, at.ravel(), np.round(value, 3).ravel())


def last_values(history: Rounds, town: Town) -> dict[int, float]:
    """Return the value at which each marked channel stands, by its place in the town."""
    return {int(i): float(v) for i, v in zip(history.index[-town.marked :], history.value[-town.marked :], strict=True)}


def text_of(us: int) -> str:
    """Return an instant as devices write it."""
    return f"{from_us(us):%Y-%m-%dT%H:%M:%SZ}"
