"""Distances along the pipes of a section, and the hull of points on a map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from detectors.contract import FloatArray
from detectors.water.sections import Section


@lru_cache(maxsize=32)
def pipe_distance_m(section: Section) -> FloatArray:
    """Return the distance between the middles of every two pipes along the pipes, shape (p, p); the rule of BattLeDIM."""
    ends = section.ends.copy()
    count = len(section.nodes)
    for row, column in zip(*np.nonzero(ends < 0), strict=True):
        ends[row, column] = count  # a tank or a reservoir: a node of its own
        count += 1
    length = np.maximum(section.length_m, 1e-6)
    graph = coo_matrix((length, (ends[:, 0], ends[:, 1])), shape=(count, count)).tocsr()
    between = dijkstra(graph, directed=False)
    near = np.min([between[np.ix_(ends[:, a], ends[:, b])] for a in (0, 1) for b in (0, 1)], axis=0)
    distance = near + (length[:, None] + length[None, :]) / 2
    np.fill_diagonal(distance, 0.0)
    return np.asarray(distance, np.float64)


def hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the convex hull of some points, against the clock; fewer than three corners as they are.

    Examples
    --------
    >>> hull([(0.0, 0.0), (2.0, 0.0), (1.0, 0.5), (2.0, 2.0), (0.0, 2.0)])
    [(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)]
    """
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered

    def half(row: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for x, y in row:
            while len(kept) > 1 and (kept[-1][0] - kept[-2][0]) * (y - kept[-2][1]) <= (kept[-1][1] - kept[-2][1]) * (x - kept[-2][0]):
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return half(ordered) + half(ordered[::-1])
