"""The stored readings of an interval of event time, in slices of bounded size: no statement is long, and not all of them are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

from underway.model import HOUR_US, SECOND_US, ReadingBatch, from_us
from underway.store.pgcopy import Kind, decode

SLICE_ROWS = 100_000
"""Readings of one slice at most, as long as it is longer than a second."""
WARM_UP_ROWS_MAX = 10_000_000
"""Readings before a window that are read at most."""
AHEAD_US_MAX = 27 * HOUR_US
"""A clock is ahead by at most 26 h, and never behind: the stored key lies so much after the event at most."""

Slice = tuple[int, int]
"""From and to, microseconds of event time; the end is outside."""

_COLUMNS = {
    "channel_id": Kind.INT4,
    "observed_us": Kind.INSTANT,
    "received_us": Kind.INSTANT,
    "value": Kind.FLOAT8,
    "quality": Kind.INT2,
    "reason": Kind.INT2,
    "flags": Kind.INT2,
    "clock_offset_ms": Kind.INT4,
}
_RIGHT = b" FROM reading WHERE channel_id = ANY(%(right)s) AND observed_at >= %(begin)s AND observed_at < %(end)s"
_AHEAD = (
    b" FROM reading WHERE channel_id = ANY(%(ahead)s) AND observed_at >= %(begin)s AND observed_at < %(key_end)s"
    b" AND observed_at - clock_offset_ms * interval '1 millisecond' >= %(begin)s"
    b" AND observed_at - clock_offset_ms * interval '1 millisecond' < %(end)s"
)
_WHAT = b"SELECT channel_id, observed_at, received_at, value, quality, reason, flags, clock_offset_ms"
_COPY = b"COPY (" + _WHAT + _RIGHT + b" UNION ALL " + _WHAT + _AHEAD + b") TO STDOUT (FORMAT binary)"
_COUNT = b"SELECT count(*) FROM (SELECT 1" + _RIGHT + b" UNION ALL SELECT 1" + _AHEAD + b" LIMIT %(limit)s) AS found"


def plan_slices(
    count: Callable[[int, int], int],
    begin_us: int,
    window_us: int,
    end_us: int,
    rows: int = SLICE_ROWS,
    warm_up_rows_max: int = WARM_UP_ROWS_MAX,
) -> list[Slice]:
    """Cut an interval into slices of bounded size, from its end towards its beginning.

    Parameters
    ----------
    count : callable (begin_us, end_us) -> int
        How many readings there are; it may stop at ``rows + 1``.
    begin_us, window_us, end_us : int
        Where the warm-up begins, where the window begins, and where it ends.
    rows : int
        Readings of a slice at most; an interval of a second is not cut further.
    warm_up_rows_max : int
        Of readings before the window: when there are more, the slices begin later. The window is never cut short.

    Returns
    -------
    list of (int, int)
        Ascending, without gaps, up to `end_us`.

    Examples
    --------
    A reading a minute, 30 of them a slice at most, and 60 before the window:

    >>> minute = 60 * SECOND_US
    >>> found = plan_slices(lambda a, b: (b - a) // minute, 0, 100 * minute, 145 * minute, 30, 60)
    >>> [(a // minute, b // minute) for a, b in found]
    [(55, 77), (77, 100), (100, 122), (122, 145)]
    """
    found: list[Slice] = []
    stop_us, span_us, before = end_us, HOUR_US, 0
    while stop_us > begin_us:
        start_us = max(begin_us, stop_us - span_us)
        if start_us < window_us < stop_us:
            start_us = window_us
        n = count(start_us, stop_us)
        if n > rows and stop_us - start_us > SECOND_US:
            span_us = max((stop_us - start_us) // 2, SECOND_US)
            continue
        if stop_us <= window_us:
            before += n
            if before > warm_up_rows_max:
                break
        found.append((start_us, stop_us))
        stop_us = start_us
        span_us *= 4 if n < rows // 8 else 2 if n < rows // 2 else 1
    return found[::-1]


class SlicedReadings:
    """What is stored of some channels before and in a window, read slice by slice.

    Parameters
    ----------
    conn : Connection
        In autocommit mode; free for other statements between two slices.
    channel_ids : sequence of int
    begin_us, window_us, end_us : int
        As for `plan_slices`.
    rows, warm_up_rows_max : int
        As for `plan_slices`.

    Notes
    -----
    Of a device whose clock was ever ahead (it stands in ``device_clock``) the key of a reading is not its event time: there each slice looks up to
    `AHEAD_US_MAX` further for what belongs to it. The others are read by key alone.
    """

    def __init__(
        self,
        conn: Connection[Any],
        channel_ids: Sequence[int],
        begin_us: int,
        window_us: int,
        end_us: int,
        rows: int = SLICE_ROWS,
        warm_up_rows_max: int = WARM_UP_ROWS_MAX,
    ) -> None:
        self._conn = conn
        with conn.cursor(row_factory=tuple_row) as cursor:
            ahead = cursor.execute(
                "SELECT channel_id FROM channel JOIN device_clock USING (device_id) WHERE channel_id = ANY(%s)", (list(channel_ids),)
            ).fetchall()
        self._ahead = sorted(channel_id for (channel_id,) in ahead)
        self._right = sorted(set(channel_ids).difference(self._ahead))
        self._limit = rows + 1
        self.slices = plan_slices(self._count, begin_us, window_us, end_us, rows, warm_up_rows_max)
        self.begin_us = self.slices[0][0] if self.slices else end_us
        self.is_shortened = self.begin_us > begin_us

    def __iter__(self) -> Iterator[ReadingBatch]:
        """Yield the slices that hold readings, each in event order."""
        for begin_us, end_us in self.slices:
            with self._conn.cursor() as cursor, cursor.copy(_COPY, self._asked(begin_us, end_us)) as copy:
                columns = decode(b"".join(bytes(part) for part in copy), _COLUMNS)
            if len(columns["channel_id"]):
                columns.update({name: columns[name].astype("u1") for name in ("quality", "reason", "flags")})
                yield ReadingBatch(**columns).in_event_time().in_event_order()

    def _count(self, begin_us: int, end_us: int) -> int:
        with self._conn.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(_COUNT, self._asked(begin_us, end_us)).fetchone()
        return 0 if row is None else int(row[0])

    def _asked(self, begin_us: int, end_us: int) -> dict[str, Any]:
        return {
            "right": self._right,
            "ahead": self._ahead,
            "begin": from_us(begin_us),
            "end": from_us(end_us),
            "key_end": from_us(end_us + AHEAD_US_MAX),
            "limit": self._limit,
        }
