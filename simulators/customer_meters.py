"""Customer meters of a zone or two for a year: people who are at home, away, gone or careful, meters that are read badly, and meters at fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HOUR_S = 3600
DAY_S = 86_400
FAULTS_FROM_DAY = 150
"""Faults begin from here on; before, every meter has time to be known."""
DRAW_L = 14.0
"""Litres that one use of water takes, on average."""
PERSON_L = 115.0


class Customer(StrEnum):
    """Who is behind a meter."""

    HOUSEHOLD = "household"
    COMMUTER = "commuter"
    BUSINESS = "business"
    HOLIDAY_HOME = "holiday-home"
    VACANT = "vacant"


class HappeningKind(StrEnum):
    """What happens to a meter or behind it; those of `FAULTS` are faults."""

    STOPPED = "stopped"
    STICKY = "sticky"
    BACKWARD = "backward"
    TURNED = "turned"
    BACKFLOW = "backflow"
    BYPASS = "bypass"
    MAGNET = "magnet"
    REPLACED = "replaced"
    RESET = "reset"
    MOVED_OUT = "moved-out"
    FEWER_PEOPLE = "fewer-people"
    SAVING = "saving"
    OUTAGE = "outage"


FAULTS = (
    HappeningKind.STOPPED,
    HappeningKind.STICKY,
    HappeningKind.BACKWARD,
    HappeningKind.TURNED,
    HappeningKind.BACKFLOW,
    HappeningKind.BYPASS,
    HappeningKind.MAGNET,
)


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened; ``strength`` is the share that goes past the meter, or litres that flow back."""

    kind: HappeningKind
    device_id: str
    begin_s: int
    end_s: int
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class SimulatedMeter:
    """A meter: who is behind it, litres of a step of its register, and where the register begins anew, m3."""

    device_id: str
    zone_id: str
    customer: Customer
    people: float
    pulse_l: float
    register_max_m3: float


@dataclass(frozen=True, slots=True)
class MeterYear:
    """What the meters said.

    Attributes
    ----------
    at_s : ndarray of int64, shape (t,)
        Hours, seconds from the start.
    register_m3 : ndarray of float64, shape (n, t)
        NaN where no reading came.
    drawn_l : ndarray of float64, shape (n, t)
        What was really used in the hour before, litres: the truth.
    """

    seed: int
    days: int
    meters: tuple[SimulatedMeter, ...]
    at_s: NDArray[np.int64]
    register_m3: Floats
    drawn_l: Floats
    happenings: tuple[Happening, ...]

    @property
    def faults(self) -> tuple[Happening, ...]:
        """Return what is really wrong."""
        return tuple(h for h in self.happenings if h.kind in FAULTS)


def simulate_customer_meters(seed: int, *, customers: int = 400, days: int = 365, faults: bool = True) -> MeterYear:
    """Simulate hourly registers of customers of two zones.

    Parameters
    ----------
    seed : int
        Same seed, same year.
    customers : int
        At least 20.
    days : int
        At least 200; faults begin after `FAULTS_FROM_DAY`.
    faults : bool
        False: only what is no fault, such as people who move out, meters that are replaced, readings that are missing.

    Notes
    -----
    Water is drawn in uses of 14 L on average, as many as people, season, weekday and hour ask for. Households go away (more of them in summer),
    commuters are there on weekdays only, businesses close at weekends, holiday homes are empty most of the time; one in eight drips for weeks.
    Registers count in steps of 1, 10 or 100 L, some swing to and fro with the pressure or a vessel behind them, some roll over, are replaced or
    reset; readings are missing one by one and for days. Faults come to about a sixth of the meters, one each, whoever is behind them.

    Blind to: leaks behind the meter larger than a drip, meters that grow slower with age, and people who change what they do because they know of
    the meter. The day starts at midnight of the site's clock, there is no change to summer time.
    """
    if customers < 20 or days < FAULTS_FROM_DAY + 50:
        raise ValueError(f"expected at least 20 customers and {FAULTS_FROM_DAY + 50} days, got {customers!r} and {days!r}")
    rng = np.random.default_rng([seed, 4064])
    meters = _meters(rng, customers)
    happenings = _happenings(rng, meters, days, faults)
    drawn = _drawn(rng, meters, happenings, days)
    register = _registers(rng, meters, happenings, drawn)
    at_s = (np.arange(days * 24, dtype=np.int64) + 1) * HOUR_S
    return MeterYear(seed, days, meters, at_s, register, drawn, tuple(happenings))


def _meters(rng: np.random.Generator, n: int) -> tuple[SimulatedMeter, ...]:
    who = rng.choice(list(Customer), n, p=[0.74, 0.06, 0.10, 0.05, 0.05])
    people = np.where(
        who == Customer.BUSINESS, np.exp(rng.normal(1.2, 0.8, n)), rng.choice([1, 2, 3, 4, 5], n, p=[0.34, 0.33, 0.15, 0.13, 0.05])
    )
    pulse = rng.choice([1.0, 10.0, 100.0], n, p=[0.6, 0.3, 0.1])
    roll = rng.choice([1e4, 1e5], n)
    return tuple(
        SimulatedMeter(f"cm-{i + 1:04d}", f"z{i % 2 + 1}", Customer(who[i]), float(people[i]), float(pulse[i]), float(roll[i]))
        for i in range(n)
    )


def _happenings(rng: np.random.Generator, meters: Sequence[SimulatedMeter], days: int, faults: bool) -> list[Happening]:
    kinds, out = HappeningKind, []
    harmless = [kinds.REPLACED, kinds.RESET, kinds.MOVED_OUT, kinds.FEWER_PEOPLE, kinds.SAVING, kinds.OUTAGE]
    for meter in meters:
        if faults and rng.random() < 1 / 6:
            out += _fault(rng, meter, FAULTS[int(rng.integers(len(FAULTS)))], days)
        elif rng.random() < 0.35:
            kind = harmless[int(rng.integers(len(harmless)))]
            begin = int(rng.integers(30, days - 20)) * DAY_S + int(rng.integers(24)) * HOUR_S
            last = {kinds.REPLACED: 0.0, kinds.RESET: 0.0, kinds.OUTAGE: rng.uniform(1, 25), kinds.MOVED_OUT: rng.uniform(14, 150)}
            share = {kinds.FEWER_PEOPLE: rng.uniform(0.3, 0.7), kinds.SAVING: rng.uniform(0.1, 0.3)}
            end = begin + int(last.get(kind, 1e4) * 24) * HOUR_S
            out.append(Happening(kind, meter.device_id, begin, min(end, days * DAY_S), float(share.get(kind, 1.0))))
    return out


def _fault(rng: np.random.Generator, meter: SimulatedMeter, kind: HappeningKind, days: int) -> list[Happening]:
    kinds, name, until = HappeningKind, meter.device_id, days * DAY_S
    begin = int(rng.integers(FAULTS_FROM_DAY, days - 40)) * DAY_S + int(rng.integers(24)) * HOUR_S
    if kind is kinds.BACKWARD:
        # a new meter, put in the wrong way round
        return [Happening(kinds.REPLACED, name, begin, begin), Happening(kind, name, begin, until)]
    if kind is kinds.TURNED:
        return [Happening(kind, name, begin, min(until, begin + int(rng.integers(5, 25)) * DAY_S))]
    if kind is kinds.BACKFLOW:
        litres = float(np.exp(rng.uniform(math.log(10.0), math.log(400.0))))
        return [Happening(kind, name, begin, begin + int(rng.integers(1, 7)) * HOUR_S, litres)]
    share = {kinds.BYPASS: rng.uniform(0.3, 0.95), kinds.MAGNET: rng.uniform(0.4, 1.0)}.get(kind, 1.0)
    return [Happening(kind, name, begin, until, float(share))]


def _hours(h: Happening, total: int) -> slice:
    return slice(min(h.begin_s // HOUR_S, total), min(h.end_s // HOUR_S, total))


def _drawn(rng: np.random.Generator, meters: Sequence[SimulatedMeter], happenings: Sequence[Happening], days: int) -> Floats:
    """Return litres drawn in every hour, shape (n, t)."""
    n, total = len(meters), days * 24
    day = np.arange(days)
    weekday, hour = day % 7, np.arange(24)
    season = 1.0 + 0.10 * np.sin(2 * np.pi * (day - 100) / 365.0)
    weather = np.exp(_ar1(rng, days, 0.7, 0.04)) * season
    summer = (day % 365 > 180) & (day % 365 < 235)
    of = {h.device_id: h for h in happenings}
    drawn = np.zeros((n, total))
    for i, m in enumerate(meters):
        presence = _presence(rng, m.customer, weekday, summer)
        own = np.exp(_ar1(rng, days, 0.6, 0.18) + 0.05 * _ar1(rng, days, 0.99, 0.1))
        h = of.get(m.device_id)
        if h is not None and h.kind is HappeningKind.MOVED_OUT:
            empty = slice(h.begin_s // DAY_S, h.end_s // DAY_S)
            presence[empty] = np.where(rng.random(len(presence[empty])) < 0.1, 0.1, 0.0)  # somebody looks in now and then
        rate = m.people * PERSON_L * rng.lognormal(0.0, 0.25) / DRAW_L
        shape = _shape(rng, m.customer, hour)
        if m.customer is Customer.HOUSEHOLD and rng.random() < 0.2:
            own = own * np.where(summer, rng.uniform(1.2, 2.0), 1.0)  # a garden
        uses = np.outer(presence * own * weather, shape).ravel() * rate
        if h is not None and h.kind in (HappeningKind.FEWER_PEOPLE, HappeningKind.SAVING):
            uses[_hours(h, total)] *= 1.0 - h.strength
        count = rng.poisson(uses)
        litres = np.where(count > 0, rng.gamma(0.7 * np.maximum(count, 1), DRAW_L / 0.7), 0.0)
        if rng.random() < 0.125:
            begin = int(rng.integers(total))
            litres[begin : begin + int(rng.integers(7, 90)) * 24] += rng.uniform(0.5, 5.0)
        drawn[i] = litres
    return drawn


def _presence(rng: np.random.Generator, customer: Customer, weekday: NDArray[np.int64], summer: Bools) -> Floats:
    """Return the share of people who are there, a day."""
    days = len(weekday)
    there = np.ones(days)
    if customer is Customer.VACANT:
        return np.where(rng.random(days) < 0.01, 0.1, 0.0)
    if customer is Customer.HOLIDAY_HOME:
        there[:] = 0.0
        for _ in range(int(rng.integers(2, 9))):
            begin = int(rng.integers(days))
            there[begin : begin + int(rng.integers(2, 21))] = 1.0
        return there
    if customer is Customer.BUSINESS:
        there[weekday >= (5 if rng.random() < 0.7 else 6)] = 0.0
        holidays = [(int(rng.integers(days)), int(rng.integers(1, 4))) for _ in range(5)]
        if rng.random() < 0.5 and summer.any():
            holidays.append((int(rng.choice(np.flatnonzero(summer))), int(rng.integers(7, 22))))
    else:
        if customer is Customer.COMMUTER:
            there[weekday >= 5] = 0.0
        trips = int(rng.poisson(2.5))
        starts = [
            int(rng.choice(np.flatnonzero(summer))) if rng.random() < 0.5 and summer.any() else int(rng.integers(days))
            for _ in range(trips)
        ]
        holidays = []
        for s in sorted(starts):
            # a journey begins after the one before ended
            if not holidays or s > sum(holidays[-1]) + 14:
                holidays.append((s, int(rng.integers(3, 22))))
        holidays += [(int(s), 2) for s in np.flatnonzero((weekday == 5) & (rng.random(days) < rng.uniform(0.0, 0.25)))]
        if rng.random() < 0.02:
            holidays.append((int(rng.integers(days)), int(rng.integers(30, 90))))  # in hospital, abroad
    for begin, length in holidays:
        there[begin : begin + length] = 0.0
    return there


def _shape(rng: np.random.Generator, customer: Customer, hour: NDArray[np.int64]) -> Floats:
    """Return how the uses of a day lie over its hours; sums to 1."""
    if customer is Customer.BUSINESS:
        begin, end = int(rng.integers(6, 10)), int(rng.integers(16, 22))
        weight = np.where((hour >= begin) & (hour < end), 1.0, 0.01)
    else:
        morning, evening = rng.normal(7.3, 0.9), rng.normal(19.5, 1.2)
        weight = (
            0.03 + np.exp(-((hour - morning) ** 2) / 4.0) + 0.8 * np.exp(-((hour - evening) ** 2) / 9.0) + 0.25 * ((hour > 8) & (hour < 22))
        )
        weight = weight * np.exp(rng.normal(0.0, 0.2, 24))
    return np.asarray(weight / weight.sum(), np.float64)


def _ar1(rng: np.random.Generator, n: int, keep: float, sd: float) -> Floats:
    kick = rng.normal(0.0, sd * math.sqrt(1.0 - keep**2), n)
    out, value = np.empty(n), rng.normal(0.0, sd)
    for i in range(n):
        value = keep * value + kick[i]
        out[i] = value
    return out


def _registers(rng: np.random.Generator, meters: Sequence[SimulatedMeter], happenings: Sequence[Happening], drawn: Floats) -> Floats:
    n, total = drawn.shape
    register = np.empty((n, total))
    of: dict[str, list[Happening]] = {}
    for h in happenings:
        of.setdefault(h.device_id, []).append(h)
    for i, m in enumerate(meters):
        mine = of.get(m.device_id, [])
        counted = drawn[i].copy()
        if rng.random() < 0.05:
            # pressure that swings, or an expansion vessel behind the meter
            swing = (rng.uniform(0.5, 4.0) if rng.random() < 0.7 else rng.uniform(10.0, 60.0)) * rng.random(total)
            counted += np.diff(np.append(0.0, swing))
        for h in mine:
            _count(rng, h, counted)
        near_end = rng.random() < 0.03
        begin_m3 = m.register_max_m3 - rng.uniform(2.0, 30.0) if near_end else float(np.exp(rng.uniform(math.log(5.0), math.log(3000.0))))
        litres = begin_m3 * 1000.0 + np.cumsum(counted)
        for h in mine:
            if h.kind in (HappeningKind.REPLACED, HappeningKind.RESET):
                at = min(h.begin_s // HOUR_S, total - 1)
                start = rng.uniform(0.0, 500.0) if h.kind is HappeningKind.REPLACED else 0.0
                litres[at:] += start - litres[at - 1]
        shown = np.floor(litres / m.pulse_l) * m.pulse_l / 1000.0 % m.register_max_m3
        missing = rng.random(total) < rng.choice([0.002, 0.02, 0.1], p=[0.7, 0.25, 0.05])
        if rng.random() < 0.05:
            at = int(rng.integers(total))
            missing[at : at + int(rng.integers(1, 12)) * 24] = True
        for h in mine:
            if h.kind is HappeningKind.OUTAGE:
                missing[_hours(h, total)] = True
        register[i] = np.where(missing, np.nan, np.round(shown, 4))
    return register


def _count(rng: np.random.Generator, h: Happening, counted: Floats) -> None:
    """Change what a meter counts, in place, litres an hour."""
    kinds, span = HappeningKind, _hours(h, len(counted))
    part = counted[span]
    if h.kind is kinds.STOPPED:
        part[:] = 0.0
    elif h.kind is kinds.STICKY:
        part[:] = np.where(rng.random(len(part)) < 0.004, np.minimum(part, 20.0), 0.0)
    elif h.kind in (kinds.BACKWARD, kinds.TURNED):
        part[:] = -part
    elif h.kind is kinds.BACKFLOW:
        part[:] = -h.strength / max(len(part), 1)
    elif h.kind is kinds.BYPASS:
        part *= 1.0 - h.strength
    elif h.kind is kinds.MAGNET:
        # on for some days of the week, off when the reader may come
        on = np.repeat(rng.random(len(part) // 24 + 1) < h.strength, 24)[: len(part)]
        part[on] = 0.0
