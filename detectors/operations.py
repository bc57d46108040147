"""The known operations of one lane: which grid times nobody shall judge or learn."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from detectors.contract import BoolArray, IntArray
from underway.model import DAY_US, Operation

OPERATIONS_MAX = 200
"""Most operations that a lane remembers; of more, those told last are counted in `Operations.crowded` and judged as usual."""
REMEMBERED_US = 2 * DAY_US
"""How long after its end an operation is remembered, so that it is known when it is told again."""


class Told(StrEnum):
    """What became of an operation that was told."""

    KNOWN = "known"
    AHEAD = "ahead"
    LATE = "late"
    WITHDRAWN = "withdrawn"
    CROWDED = "crowded"


class Operations:
    """What a lane was told; intervals may overlap, each counts until it is over or withdrawn.

    Notes
    -----
    State 24 bytes an operation, at most `OPERATIONS_MAX`. Blind to what an operation does after the hour that follows its end.

    Examples
    --------
    >>> from underway.model import HOUR_US, OperationKind
    >>> known = Operations()
    >>> known.tell(Operation(1, "z1", OperationKind.FLUSHING, 2 * HOUR_US, 3 * HOUR_US), 0).value
    'ahead'
    >>> known.cover(np.array([1, 2, 4, 5]) * HOUR_US).tolist()
    [False, True, True, False]
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}
        self.crowded = 0

    def __bool__(self) -> bool:
        return bool(self._known)

    def tell(self, operation: Operation, judged_us: int) -> Told:
        """Take an operation or its withdrawal in; `judged_us` is the grid time that was judged last."""
        self._forget(judged_us)
        number, interval = operation.operation_id, (operation.begin_us, operation.quiet_until_us)
        if operation.withdrawn:
            return Told.WITHDRAWN if self._known.pop(number, None) is not None else Told.KNOWN
        if self._known.get(number) == interval:
            return Told.KNOWN
        if len(self._known) >= OPERATIONS_MAX:
            self.crowded += 1
            return Told.CROWDED
        self._known[number] = interval
        return Told.LATE if operation.begin_us <= judged_us else Told.AHEAD

    def cover(self, at_us: IntArray) -> BoolArray:
        """Return which instants lie in an operation or in the hour after it, shape (n,)."""
        covered = np.zeros(len(at_us), np.bool_)
        for begin_us, end_us in self._known.values():
            covered |= (at_us >= begin_us) & (at_us <= end_us)
        return covered

    def _forget(self, judged_us: int) -> None:
        self._known = {i: (a, b) for i, (a, b) in self._known.items() if b + REMEMBERED_US > judged_us}

    def state(self, judged_us: int) -> list[list[int]]:
        """Return what is still to be remembered, as (id, begin, end of the hour after it)."""
        return [[i, a, b] for i, (a, b) in sorted(self._known.items()) if b + REMEMBERED_US > judged_us]

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        """Take back what `state` returned."""
        self._known = {int(i): (int(a), int(b)) for i, a, b in state}
