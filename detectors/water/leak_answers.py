"""Which leaks no crew was sent for yet: a dig answers one leak, not all that run within its reach.

A crew that digs opens one pipe. Where a second leak runs near the first, or begins there later, a list of places alone takes it for the one that was
dug for. Here each dig is given to the leak that it was most probably sent to, as one audit sees the leaks; what is left over is unanswered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from detectors.contract import FloatArray

DAY_S = 86_400.0
ANSWER_MASS = 0.3
"""A dig may have been for a leak that has at least that probability within its reach,"""
ANSWER_LATE_DAYS = 3.0
"""and that began before it, or so much later: a begin is known to some days."""


class PlacedLeak(Protocol):
    """What is needed of a leak."""

    number: int
    where: FloatArray
    opened_s: float


L = TypeVar("L", bound=PlacedLeak)


def unanswered(leaks: Sequence[L], digs: Iterable[tuple[float, int]], near: FloatArray) -> list[L]:
    """Return the leaks that none of the digs was for.

    Parameters
    ----------
    leaks : sequence of PlacedLeak
        As one observer sees them.
    digs : iterable of (float, int)
        When (seconds since 1970) and at which pipe, in the order of time; each is for at most one leak.
    near : ndarray, shape (p, p)
        1 where a pipe lies within the reach of a dig at another, else 0.
    """
    left = list(leaks)
    for dug_s, pipe in digs:
        before = (x for x in left if x.opened_s <= dug_s + ANSWER_LATE_DAYS * DAY_S)
        chances = ((float(x.where @ near[pipe]), -x.number, x) for x in before)
        chance, _, leak = max(chances, key=lambda c: c[:2], default=(0.0, 0, None))
        if leak is not None and chance >= ANSWER_MASS:
            left.remove(leak)
    return left
