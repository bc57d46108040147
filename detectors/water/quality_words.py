"""What a quality station says, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectors.water.quality_records import LEFT_STEPS, Condition, Probes
from underway.model import Channel, Driver, FindingPhase, Quantity, from_us

_NAMES: Mapping[Quantity, str] = {Quantity.PH: "pH", Quantity.TOC: "TOC"}


def of_drivers(channels: Sequence[Channel], drivers: Sequence[Driver]) -> str:
    """Return what probes say instead of what was expected."""
    quantity = {c.channel_id: _NAMES.get(c.quantity, c.quantity.value) for c in channels}
    return ", ".join(
        f"{quantity[d.channel_id or 0]} {d.observed:.3g} instead of {d.expected:.3g}{'' if d.unit == 'pH' else ' ' + d.unit}"
        for d in drivers
    )


def of_water(station: str, c: Condition, is_event: bool, phase: FindingPhase, drivers: str, operations: int) -> str:
    """Return what is said of a condition of the water; `operations` is how many are known."""
    since = f"{from_us(c.onset_us):%d %b %H:%M} UTC"
    if phase is FindingPhase.CLEAR:
        why = "a person said that it is an operation" if c.dismissed else "the probes are back"
        if not c.dismissed and not is_event and c.strange >= LEFT_STEPS:
            why = "it no longer looks like it"
        return f"{'The change' if is_event else 'The known operation'} at {station} since {since} is over: {why}"
    if not is_event:
        return f"Water at {station} changed since {since} as in a known operation (match {c.match:.2f}): {drivers}"
    known = f"no known operation does this (best match {c.match:.2f})" if operations else "no operation is known yet"
    known = "that is more than the known operation which goes on" if c.beyond else known
    return f"Water at {station} changed since {since}: {drivers}; {known}"


def of_probes(station: str, p: Probes, phase: FindingPhase, drivers: str) -> str:
    """Return what is said of probes that are off or rest."""
    since = f"{from_us(p.onset_us):%d %b %H:%M} UTC"
    if phase is FindingPhase.CLEAR:
        return f"The probes at {station} that rested since {since} move again"
    return f"Only probes at {station}, not its water ({p.cause}), since {since}: {drivers}"
