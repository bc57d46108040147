"""Devices that wait to be accepted: what can be guessed from what they said. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from ingest.decoded import CHANNEL_CHARS_MAX, CHANNEL_PATTERN
from ingest.units import conversion
from underway.app.devices_fields import ROLES
from underway.app.devices_read import nearest
from underway.model import CANONICAL_UNIT, OperatorError, Quantity
from underway.store.pending import PendingRow

INTERVALS_S = (60, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200, 86_400)
MESSAGES_FOR_INTERVAL_MIN = 5


@dataclass(frozen=True, slots=True)
class Guess:
    """What a channel of a device that nobody registered may be."""

    name: str
    address: str
    quantity: Quantity
    unit: str


_WORDS: dict[str, Quantity] = {
    **dict.fromkeys(("flow", "flowrate", "discharge", "durchfluss", "debit", "caudal"), Quantity.FLOW),
    **dict.fromkeys(("pressure", "press", "druck", "pression", "presion"), Quantity.PRESSURE),
    **dict.fromkeys(("level", "waterlevel", "depth", "pegel", "niveau", "nivel"), Quantity.LEVEL),
    **dict.fromkeys(("iri", "roughness"), Quantity.ROUGHNESS),
    **dict.fromkeys(("frequency", "freq", "eigenfrequency"), Quantity.FREQUENCY),
    **dict.fromkeys(("strain", "microstrain"), Quantity.STRAIN),
    **dict.fromkeys(("tilt", "inclination", "neigung"), Quantity.TILT),
    **dict.fromkeys(("temperature", "temp", "temperatur"), Quantity.TEMPERATURE),
    **dict.fromkeys(("rain", "rainrate", "precipitation", "regen"), Quantity.RAIN_RATE),
    **dict.fromkeys(("battery", "batt", "bat", "vbat", "batv"), Quantity.BATTERY),
    **dict.fromkeys(("rssi",), Quantity.SIGNAL),
    **dict.fromkeys(("snr", "margin"), Quantity.SNR),
    **dict.fromkeys(("chlorine", "chlor", "chlore", "cloro", "cl2"), Quantity.CHLORINE),
    **dict.fromkeys(("turbidity", "turb", "truebung", "trübung", "turbidite"), Quantity.TURBIDITY),
    **dict.fromkeys(("ph",), Quantity.PH),
    **dict.fromkeys(("conductivity", "cond", "leitfaehigkeit", "leitfähigkeit", "conductivite"), Quantity.CONDUCTIVITY),
    **dict.fromkeys(("toc",), Quantity.TOC),
    **dict.fromkeys(("power", "activepower"), Quantity.POWER),
    **dict.fromkeys(("volume", "totalvolume", "index", "zaehlerstand"), Quantity.VOLUME),
}
_UNIT_WORDS = {
    "m3h": "m3/h",
    "m3ph": "m3/h",
    "lps": "L/s",
    "lph": "L/h",
    "lpm": "L/min",
    "mkm": "m/km",
    "mmh": "mm/h",
    "degc": "Cel",
    "mgl": "mg/L",
}
_WORD = re.compile(r"[A-Za-z][a-z]*|[A-Z]+(?![a-z])|[^\W\d_]+")
_TAIL = re.compile(r"^(?P<what>.*?)[\s_./(\[]+(?P<unit>[A-Za-zµ°%][A-Za-zµ°%0-9³/]*|[A-Za-z0-9³]+_per_[A-Za-z]+)[)\]]?$")


def guess_channel(address: str, unit: str | None) -> Guess | None:
    """Return what a channel may be, from its name and unit; None when nothing fits or two things do.

    Notes
    -----
    The unit that the device announced counts, else the one that its name ends in; a word of the name decides between quantities that share
    a unit. Without a unit, the canonical one is only assumed where a word names the quantity.

    Blind to names in other languages than the few of its table, and to units that a codec does not say: a pressure called ``pressure`` may be in
    bar. So a guess is shown before it is written.

    Examples
    --------
    >>> [guess_channel(*c) for c in (("Pressure/bar", None), ("level_mm", None), ("rssi", "dBm"), ("humidity", "%"))]
    [Guess(name='Pressure_bar', address='Pressure/bar', quantity=<Quantity.PRESSURE: 'pressure'>, unit='bar'), \
Guess(name='level_mm', address='level_mm', quantity=<Quantity.LEVEL: 'level'>, unit='mm'), \
Guess(name='rssi', address='rssi', quantity=<Quantity.SIGNAL: 'signal'>, unit='dBm'), None]
    """
    by_word = _quantities_named(address)
    told = [unit] if unit is not None else [word for word in _units_in(address) if _quantities_of(word)]
    for said in told:
        fits = _quantities_of(said)
        chosen = fits & by_word if by_word else fits & _PLAIN_BY_UNIT
        if len(chosen) == 1 and (by_word or len(fits) == 1):
            return Guess(channel_name(address), address, chosen.pop(), said)
    if not told and len(by_word) == 1:
        (quantity,) = by_word
        return Guess(channel_name(address), address, quantity, CANONICAL_UNIT[quantity])
    return None


_PLAIN_BY_UNIT = frozenset({Quantity.FLOW, Quantity.PRESSURE, Quantity.TEMPERATURE, Quantity.RAIN_RATE, Quantity.SIGNAL})
"""Quantities that a unit alone gives away; a length may be a level, a distance or a displacement."""


def _quantities_of(unit: str) -> set[Quantity]:
    return {quantity for quantity in Quantity if conversion(unit, CANONICAL_UNIT[quantity]) is not None}


def guess_interval_s(row: PendingRow) -> int | None:
    """Return how often a device sends, in s, from how often it was heard; None when that is not known yet."""
    entry = row.entry
    if entry.count < MESSAGES_FOR_INTERVAL_MIN:
        return None
    mean_s = (entry.last_at - entry.first_at).total_seconds() / (entry.count - 1)
    near = min(INTERVALS_S, key=lambda interval: abs(interval - mean_s))
    return near if 0.8 * near <= mean_s <= 1.25 * near else None


def channel_name(address: str) -> str:
    """Return the name under which a channel of that address can be registered.

    Examples
    --------
    >>> channel_name("pressure_bar.mean"), channel_name("Durchfluss (m³/h)"), channel_name("%")
    ('pressure_bar.mean', 'Durchfluss_m_h', 'channel')
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", address).strip("_.-")[:CHANNEL_CHARS_MAX]
    return name if CHANNEL_PATTERN.fullmatch(name) else "channel"


@dataclass(frozen=True, slots=True)
class ChannelWish:
    """A channel as an engineer names it on the command line; None: to be guessed."""

    name: str
    address: str
    quantity: str | None = None
    role: str | None = None
    unit: str | None = None


def parse_wish(text: str) -> ChannelWish:
    """Read ``NAME=ADDRESS[:QUANTITY[:ROLE[:UNIT]]]``; an address may hold colons of its own.

    Examples
    --------
    >>> parse_wish("pressure=p.0:pressure:zone_pressure:bar")
    ChannelWish(name='pressure', address='p.0', quantity='pressure', role='zone_pressure', unit='bar')
    >>> parse_wish("flow=urn:dev:mac:00:flow")
    ChannelWish(name='flow', address='urn:dev:mac:00', quantity='flow', role=None, unit=None)

    Raises
    ------
    OperatorError
        When it is not of that form.
    """
    name, equals, rest = text.partition("=")
    if not equals or not name.strip() or not rest.strip():
        raise OperatorError(f"a channel must be given as NAME=ADDRESS:QUANTITY:ROLE, got {text!r}")
    parts = rest.strip().split(":")
    quantities = {quantity.value for quantity in Quantity}
    for i in range(len(parts) - 1, max(0, len(parts) - 4), -1):
        tail = parts[i + 1 :]
        if parts[i] in quantities and (not tail or tail[0] in ROLES):
            unit = ":".join(tail[1:]) or None
            return ChannelWish(name.strip(), ":".join(parts[:i]), parts[i], tail[0] if tail else None, unit)
    if len(parts) in (2, 3):
        hint = nearest(parts[1], sorted(quantities)) if parts[1] not in quantities else nearest(parts[-1], list(ROLES))
        known = ", ".join(sorted(quantities)) if parts[1] not in quantities else ", ".join(ROLES)
        wrong, what = (parts[1], "quantity") if parts[1] not in quantities else (parts[-1], "role")
        if hint:
            raise OperatorError(f"the {what} of channel {name.strip()!r} must be one of {known}, got {wrong!r}{hint}")
    return ChannelWish(name.strip(), rest.strip())


def _quantities_named(address: str) -> set[Quantity]:
    words = [word.lower() for word in _WORD.findall(address)]
    pairs = [a + b for a, b in pairwise(words)]
    return {_WORDS[word] for word in (*words, *pairs) if word in _WORDS}


def _units_in(address: str) -> Iterable[str]:
    """Yield what the name of a channel may end in as its unit."""
    for piece in dict.fromkeys((address, *re.split(r"[./]", address))):
        found = _TAIL.match(piece)
        if found is not None:
            yield from _spellings(found["unit"])
    last = re.split(r"[/.]", address)[-1]
    if last != address:
        yield from _spellings(last)
    per = re.search(r"([A-Za-z0-9]+)_per_([A-Za-z]+)", address)
    if per is not None:
        yield f"{per[1]}/{per[2]}"


def _spellings(word: str) -> Iterable[str]:
    yield _UNIT_WORDS.get(word.lower(), word)
    if "_per_" in word:
        yield word.replace("_per_", "/")
