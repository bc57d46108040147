"""Which lanes are saved together: parts of bounded size with names that stay."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from underway.model import InternalError

STATE_BYTES_TARGET = 3_000_000
"""Most bytes of state of a part, as its lanes promise; one with a single greater lane, or one that lanes registered anew have joined, is greater."""


class PartPlan:
    """Lanes in parts.

    Parameters
    ----------
    lanes : sequence of (str, int)
        Key and greatest state in bytes of every lane, in a stable order.
    bytes_target : int
        Parts are filled up to this.

    Notes
    -----
    A part is named after its first lane. A lane that was stored in some part stays there (`keep`), for a part has one last batch for all its lanes.
    Lanes that begin anew go where the plan would put them, and need no particular batch to begin with.

    Examples
    --------
    >>> plan = PartPlan([("a", 3), ("b", 3), ("c", 3)], 6)
    >>> plan.names, plan.keys("a")
    (('a', 'c'), ('a', 'b'))
    >>> plan.keep("old", ["b"])
    >>> plan.names, plan.keys("old")
    (('a', 'old', 'c'), ('b',))
    """

    def __init__(self, lanes: Sequence[tuple[str, int]], bytes_target: int) -> None:
        self._part: dict[str, str] = {}
        name, size = "", bytes_target + 1
        for key, size_max in lanes:
            if size + size_max > bytes_target:
                name, size = key, 0
            self._part[key] = name
            size += size_max
        self._keys: dict[str, tuple[str, ...]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all parts."""
        return tuple(self._by_part())

    def keys(self, name: str) -> tuple[str, ...]:
        """Return the keys of the lanes of a part.

        Raises
        ------
        InternalError
            When there is no such part.
        """
        parts = self._by_part()
        if name not in parts:
            raise InternalError(f"expected one of {len(parts)} parts of the detectors, got {name!r}")
        return parts[name]

    def keep(self, name: str, keys: Collection[str]) -> None:
        """Note that lanes were stored in part `name`."""
        for key in keys:
            self._part[key] = name
        self._keys = None

    def _by_part(self) -> dict[str, tuple[str, ...]]:
        if self._keys is None:
            parts: dict[str, list[str]] = {}
            for key, name in self._part.items():
                parts.setdefault(name, []).append(key)
            self._keys = {name: tuple(keys) for name, keys in parts.items()}
        return self._keys
