"""Clocks: the system's, and one that follows a simulated town (decision 0005)."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg

from underway.model import StoreUnavailable
from underway.store.clock import ClockRow, read_clock
from underway.store.connect import connect

REFRESH_S = 0.1
REFRESH_STANDING_S = 0.02
"""The same while the clock stands and is set by hand: nothing is interpolated then, and who sets it waits for this long."""


def town_now(row: ClockRow, wall_at: datetime) -> datetime:
    """Return the town's time at a wall time: the last known one, run on at its speed, at most ``ahead_s_max`` ahead.

    Examples
    --------
    >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    >>> row = ClockRow(town_at=noon, wall_at=noon, speed=600.0, ahead_s_max=300.0)
    >>> town_now(row, noon + timedelta(seconds=0.1)).strftime("%H:%M"), town_now(row, noon + timedelta(hours=1)).strftime("%H:%M")
    ('12:01', '12:05')
    """
    elapsed_s = (wall_at - row.wall_at).total_seconds() * row.speed
    return row.town_at + timedelta(seconds=min(max(elapsed_s, 0.0), row.ahead_s_max))


class SystemClock:
    """The machine's clock."""

    def now_at(self) -> datetime:
        """Return the present instant, aware and UTC."""
        return datetime.now(UTC)


class TownClock:
    """Follows the one row of table ``town_clock``; between two looks it interpolates, never beyond ``ahead_s_max``.

    The town moves its clock only as fast as the pipeline stores what was published (back-pressure), so a slow machine
    gives a slow town and the same story. It never runs backwards. Thread-safe.

    Parameters
    ----------
    database_url : str
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._lock = threading.Lock()
        self._conn: psycopg.Connection | None = None
        self._row: ClockRow | None = None
        self._looked = 0.0
        self._last: datetime | None = None

    def now_at(self) -> datetime:
        """Return the town's present instant; before a town has begun, the system's."""
        with self._lock:
            standing = self._row is not None and self._row.speed == 0
            if time.monotonic() - self._looked > (REFRESH_STANDING_S if standing else REFRESH_S):
                self._look()
            wall_at = datetime.now(UTC)
            now_at = wall_at if self._row is None else town_now(self._row, wall_at)
            if self._row is not None:
                if self._last is not None and now_at < self._last:
                    now_at = self._last
                self._last = now_at
            return now_at

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            if self._conn is None or self._conn.closed:
                self._conn = connect(self._url, application_name="underway-clock", autocommit=True)
            self._row = read_clock(self._conn)
        except (psycopg.Error, StoreUnavailable):
            # the store is away: go on from the last row; whoever needs the store reports it
            if self._conn is not None:
                self._conn.close()
            self._conn = None
