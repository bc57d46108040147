"""What a quality station remembers of its grid times, of its water and of its probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectors.contract import FloatArray

LEFT_STEPS = 3
"""So many grid times that do not look like a known operation end it."""


@dataclass(slots=True)
class Row:
    """One judged grid time, transformed values: residual ``own`` that other probes do not explain, its usual spread ``wide``."""

    at_us: int
    day: int
    slot: int
    x: FloatArray
    expected: FloatArray
    sd: FloatArray
    own: FloatArray
    wide: FloatArray
    means: FloatArray
    scores: FloatArray

    @property
    def rest(self) -> FloatArray:
        """Return observed less expected."""
        return self.x - self.expected

    def plain(self) -> list[object]:
        """Return the fields in order."""
        return [self.at_us, self.day, self.slot, self.x, self.expected, self.sd, self.own, self.wide, self.means, self.scores]


@dataclass(slots=True)
class Condition:
    """What is open with the water: an event, or a known operation (``known`` is its shape's number)."""

    event: bool
    onset_us: int
    raised_us: int
    updated_us: int
    historical: bool
    affected: list[int]
    peak: float
    known: int = -1
    match: float = 0.0
    quiet: int = 0
    calm: int = 0
    strange: int = 0
    before: FloatArray | None = None
    told: bool = True
    beyond: bool = False
    dismissed: bool = False


@dataclass(slots=True)
class Probes:
    """Probes that are off or rest, and how many moving readings each has had since."""

    onset_us: int
    updated_us: int
    historical: bool
    cause: str
    moving: dict[int, int] = field(default_factory=dict)


def columns(rows: Sequence[Row]) -> list[object]:
    """Return rows as columns of arrays."""
    return [np.array(column) for column in zip(*(r.plain() for r in rows), strict=True)] if rows else []


def rows_of(columns: Sequence[Any]) -> list[Row]:
    """Return the rows of columns."""
    if not columns:
        return []
    return [Row(int(r[0]), int(r[1]), int(r[2]), *r[3:]) for r in zip(*columns, strict=True)]
