"""Sums of ranges and running maxima over groups of rows, without a Python loop a group."""

from __future__ import annotations

import numpy as np

from detectors.contract import NEVER_US, BoolArray, IntArray


def ranges(start: IntArray, count: IntArray) -> IntArray:
    """Return the numbers ``start[i] .. start[i] + count[i] - 1`` of all i, one range after the other.

    Examples
    --------
    >>> ranges(np.array([5, 20]), np.array([3, 2])).tolist()
    [5, 6, 7, 20, 21]
    """
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(start - (ends - count), count), np.int64)


def first_of_each(key: IntArray) -> BoolArray:
    """Return where a new group begins in `key`, which is sorted.

    Examples
    --------
    >>> first_of_each(np.array([3, 3, 7])).tolist()
    [True, False, True]
    """
    first = np.ones(len(key), np.bool_)
    np.not_equal(key[1:], key[:-1], out=first[1:])
    return first


def newest_before(first: BoolArray, at_us: IntArray) -> IntArray:
    """Return the newest instant among the earlier rows of the same group, `NEVER_US` for the first row of one.

    Parameters
    ----------
    first : ndarray of bool, shape (n,)
        Where a group begins.
    at_us : ndarray of int64, shape (n,)
        In order of arrival inside each group.

    Notes
    -----
    One shift when every group ascends, which is how batches come; else a running maximum over ranks.

    Examples
    --------
    >>> newest_before(np.array([True, False, False, True]), np.array([5, 9, 7, 1])).tolist() == [NEVER_US, 5, 9, NEVER_US]
    True
    """
    n = len(at_us)
    before = np.empty(n, np.int64)
    if not n:
        return before
    before[1:] = at_us[:-1]
    if ((at_us[1:] < at_us[:-1]) & ~first[1:]).any():
        values, rank = np.unique(at_us, return_inverse=True)
        floor = (np.cumsum(first) - 1) * (n + 1)
        before[1:] = values[np.minimum(np.maximum.accumulate(floor + rank)[:-1] - floor[:-1], len(values) - 1)]
    before[first] = NEVER_US
    return before


class Once:
    """Finds out whether every number of an array is there once, which spares a sort; the common case of small batches.

    Examples
    --------
    >>> once = Once(5)
    >>> once(np.array([4, 0, 2])), once(np.array([4, 0, 4]))
    (True, False)
    """

    def __init__(self, size: int) -> None:
        self._mark = np.zeros(size, np.int32)

    def __call__(self, number: IntArray) -> bool:
        """Return whether no entry of `number` (0 .. size - 1) comes twice."""
        if len(number) > len(self._mark):
            return False
        rank = np.arange(len(number), dtype=np.int32)
        self._mark[number] = rank
        return bool((self._mark[number] == rank).all())
