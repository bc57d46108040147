"""A zone with a seed, and what happens in it that is no leak: customers, gauges, meters, crews, the tank, clocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors.bank import Bank
from underway.model import DAY_US, HOUR_US, Channel, Finding, Quantity, ReadingBatch, Registry, Site, Zone, ZoneKind, from_us

Floats = NDArray[np.float64]

STEP_US = 300_000_000
STEPS_A_DAY = 288
START_US = 1_771_804_800_000_000  # 2026-02-23T00:00Z, a Monday
LEARN_DAYS = 28
TAIL_DAYS = 7  # the clocks go forward in its last night but one
TIMEZONE = "Europe/Amsterdam"
MEAN_M3PH = 40.0
GAUGES = 4
INLET, OTHER_INLET, FIRST_GAUGE = 1, 2, 3
TANK_LEVEL, TANK_FLOW = FIRST_GAUGE + GAUGES, FIRST_GAUGE + GAUGES + 1
BEGIN_H = 9.0
"""When a disturbance begins, in hours of the tail: Monday, 09:00 UTC."""
BURST_H = 81.0
"""When the burst of a control begins: three days later."""
BURST_M3PH = 12.0


def registry() -> Registry:
    """Return a zone with two inlets, four gauges, and a tank whose flow is metered."""

    def channel(number: int, device: str, quantity: Quantity, role: str, asset: str | None, resolution: float) -> Channel:
        return Channel(number, device, quantity.value, quantity, "", asset, "z1", role, -1e6, 1e6, 300.0, resolution)

    gauges = [channel(FIRST_GAUGE + i, f"pr-{i}", Quantity.PRESSURE, "zone_pressure", f"p-{i}", 0.1) for i in range(GAUGES)]
    channels = (
        channel(INLET, "fm-1", Quantity.FLOW, "zone_inflow", None, 0.01),
        channel(OTHER_INLET, "fm-2", Quantity.FLOW, "zone_inflow", None, 0.01),
        *gauges,
        channel(TANK_LEVEL, "tk-1", Quantity.LEVEL, "tank_level", None, 0.001),
        channel(TANK_FLOW, "tk-2", Quantity.FLOW, "tank_flow", None, 0.01),
    )
    return Registry(Site("town", "Town", TIMEZONE, 52, 4), (Zone("z1", "town", "Zone 1", ZoneKind.DMA),), (), (), channels)


@dataclass
class Series:
    """What the zone does in the tail, before it is measured; a disturbance changes it.

    Attributes
    ----------
    hour : ndarray, shape (n,)
        Hours since the tail began.
    use, draw, tank : ndarray, shape (n,)
        What customers take, what is lost or drawn besides, what the tank gives (less than nothing while it fills), m3/h.
    share : ndarray, shape (n,)
        Part of the inflow that comes by the first inlet.
    lift : ndarray, shape (n, gauges)
        Added to the pressures, kPa.
    pull : ndarray, shape (gauges,)
        How much a draw of 1 m3/h lowers each pressure, kPa.
    after : list of functions
        What meters make of the values: each changes the readings by channel, in place; NaN is no reading.
    """

    hour: Floats
    use: Floats
    draw: Floats
    tank: Floats
    share: Floats
    lift: Floats
    pull: Floats
    after: list[Callable[[dict[int, Floats], Floats], None]]


Disturb = Callable[[Series], None]


def _local_hours(at_us: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return (hour of the local day, whether it is a weekend) of instants."""
    local = [from_us(int(at)).astimezone(ZoneInfo(TIMEZONE)) for at in at_us]
    return np.array([t.hour + t.minute / 60 for t in local]), np.array([t.weekday() >= 5 for t in local])


@cache
def _customers(seed: int) -> tuple[NDArray[np.int64], Floats]:
    """Return (instants, use in m3/h) of all days: the hours of the day, another shape at weekends, days that differ by 2 %, readings by 3 %."""
    rng = np.random.default_rng([seed, 1])
    at = np.arange(START_US, START_US + (LEARN_DAYS + TAIL_DAYS) * DAY_US, STEP_US)
    hour, weekend = _local_hours(at)
    turn = 2 * np.pi * (hour - np.where(weekend, 2.0, 0.0)) / 24
    shape = 1 + 0.4 * np.sin(turn - 1.8) + 0.15 * np.sin(2 * turn)
    days = rng.normal(0, 0.02, LEARN_DAYS + TAIL_DAYS + 1)
    level = np.interp(np.arange(len(at)) / STEPS_A_DAY, np.arange(len(days)), days)
    return at, MEAN_M3PH * shape * (1 + level + rng.normal(0, 0.03, len(at)))


def _measure(seed: int, begin: int, end: int, disturbances: tuple[Disturb, ...]) -> ReadingBatch:
    """Return the readings of steps ``begin .. end``; the noise of a gauge is the same whatever the disturbances."""
    at, use = _customers(seed)
    at, use, n = at[begin:end], use[begin:end].copy(), end - begin
    rng = np.random.default_rng([seed, begin])
    hour = np.arange(n) / 12
    tank = 4 * np.sin(2 * np.pi * (hour - 6) / 24)
    zero = np.zeros(n)
    series = Series(hour, use, zero.copy(), tank, zero + 0.6, np.zeros((n, GAUGES)), np.array([0.3, 0.3, 1.2, 0.5]), [])
    noise = rng.normal(0, 0.4, (n, GAUGES))
    for disturb in disturbances:
        disturb(series)
    inflow = series.use + series.draw - series.tank
    column = {
        INLET: inflow * series.share,
        OTHER_INLET: inflow * (1 - series.share),
        TANK_LEVEL: 3 - 0.05 * np.cumsum(series.tank - series.tank.mean()) / 12 + rng.normal(0, 0.002, n),
        TANK_FLOW: series.tank + rng.normal(0, 0.02, n),
    }
    for i in range(GAUGES):
        column[FIRST_GAUGE + i] = 400 - 0.3 * series.use - series.pull[i] * series.draw + series.lift[:, i] + noise[:, i]
    for change in series.after:
        change(column, hour)
    parts = []
    for number, value in column.items():
        keep = np.isfinite(value)
        observed = at[keep] + number * 2_000_000
        none = np.zeros(len(observed), np.uint8)
        numbers = np.full(len(observed), number, np.int32)
        parts.append(ReadingBatch(numbers, observed, observed + 5_000_000, np.round(value[keep], 2), none, none, none))
    return ReadingBatch.concat(parts).in_event_order()


@cache
def learned(seed: int) -> bytes:
    """Return the state of a bank after four weeks in which nothing happened."""
    bank = Bank(registry())
    assert bank.step(_measure(seed, 0, LEARN_DAYS * STEPS_A_DAY, ())).findings == ()
    return bank.state()


def findings_of(seed: int, disturbances: tuple[Disturb, ...], hours: float = 24.0 * TAIL_DAYS) -> list[Finding]:
    """Return what the bank finds in the first `hours` after."""
    bank = Bank(registry())
    bank.restore(learned(seed))
    first, last = LEARN_DAYS * STEPS_A_DAY, LEARN_DAYS * STEPS_A_DAY + round(hours * 12)
    tail, found = _measure(seed, first, last, disturbances), list[Finding]()
    for start in range(0, len(tail), 2000):
        found += bank.step(tail.take(slice(start, start + 2000))).findings
    return found


def hours_of_tail(at_us: int) -> float:
    """Return an instant as hours of the tail."""
    return (at_us - START_US - LEARN_DAYS * DAY_US) / HOUR_US


def _while(hour: Floats, hours: float, begin_h: float = BEGIN_H) -> NDArray[np.bool_]:
    return (hour >= begin_h) & (hour < begin_h + hours)


def burst(m3ph: float = BURST_M3PH, begin_h: float = BURST_H) -> Disturb:
    """Return a pipe that breaks and stays broken."""
    return draw(m3ph, 1e6, begin_h)


def draw(m3ph: float, hours: float, begin_h: float = BEGIN_H) -> Disturb:
    """Return water that is drawn for some hours: a fire, a main that is flushed."""

    def disturb(s: Series) -> None:
        s.draw += np.where(_while(s.hour, hours, begin_h), m3ph, 0.0)

    return disturb


def demand(share: float, hours: float = 1e6) -> Disturb:
    """Return customers who take `share` more (or less) than usual for some hours."""

    def disturb(s: Series) -> None:
        s.use *= np.where(_while(s.hour, hours), 1 + share, 1.0)

    return disturb


def overflow(m3ph: float, hours: float) -> Disturb:
    """Return a tank that is filled beyond its rim: what runs in is metered and runs out again."""

    def disturb(s: Series) -> None:
        s.tank -= np.where(_while(s.hour, hours), m3ph, 0.0)

    return disturb


def valve(kpa: float, share: float, hours: float) -> Disturb:
    """Return a valve that is closed for some hours: two pressures fall, and the other inlet takes over part of the inflow."""

    def disturb(s: Series) -> None:
        shut = _while(s.hour, hours)
        s.lift[shut, :2] -= kpa
        s.share[shut] -= share

    return disturb


def meter(channel: int, change: Callable[[Floats, Floats, NDArray[np.bool_]], Floats], hours: float = 1e6) -> Disturb:
    """Return a meter that errs: `change` is given its readings, the hours since it began, and when it errs."""

    def after(column: dict[int, Floats], hour: Floats) -> None:
        column[channel] = change(column[channel], np.maximum(hour - BEGIN_H, 0.0), _while(hour, hours))

    return lambda s: s.after.append(after)


def drifting(channel: int, end: float, hours: float, relative: bool = False) -> Disturb:
    """Return a meter that drifts to an error of `end` (a share of what it reads, if `relative`), keeps it for the rest."""

    def change(value: Floats, since: Floats, errs: NDArray[np.bool_]) -> Floats:
        error = end * np.minimum(since / hours, 1.0)
        return value * (1 + error) if relative else value + error

    return meter(channel, change)


def stuck(channel: int, hours: float) -> Disturb:
    """Return a meter that repeats what it read at the begin."""
    return meter(channel, lambda value, since, errs: np.where(errs, value[np.argmax(errs)], value), hours)


def silent(channel: int, hours: float) -> Disturb:
    """Return a meter that says nothing."""
    return meter(channel, lambda value, since, errs: np.where(errs, np.nan, value), hours)


def patchy(seed: int, share: float) -> Disturb:
    """Return a network in which `share` of the readings is lost, of every meter on its own."""

    def after(column: dict[int, Floats], hour: Floats) -> None:
        rng = np.random.default_rng([seed, 3])
        for number in sorted(column):
            column[number] = np.where(rng.random(len(hour)) < share, np.nan, column[number])

    return lambda s: s.after.append(after)


def late_clock(channel: int, steps: int) -> Disturb:
    """Return a meter whose clock is `steps` readings off from the begin on."""
    return meter(channel, lambda value, since, errs: np.where(errs, np.roll(value, steps), value))
