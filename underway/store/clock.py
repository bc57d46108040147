"""The one row that holds the clock of a simulated town; every service of a demo follows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row


@dataclass(frozen=True, slots=True)
class ClockRow:
    """At wall time ``wall_at`` it was ``town_at`` in the town, and town time runs ``speed`` times as fast.

    ``ahead_s_max`` is how far, in s of town time, a reader may run ahead of ``town_at`` when the writer is silent.
    """

    town_at: datetime
    wall_at: datetime
    speed: float
    ahead_s_max: float


def read_clock(conn: Connection[Any]) -> ClockRow | None:
    """Return the row, or None when no town was started on this database."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute("SELECT town_at, wall_at, speed, ahead_s_max FROM town_clock").fetchone()
    return None if row is None else ClockRow(*row)


def write_clock(conn: Connection[Any], row: ClockRow) -> None:
    """Set the row; committed at once when the connection is in autocommit mode."""
    conn.execute(
        "INSERT INTO town_clock (town_at, wall_at, speed, ahead_s_max) VALUES (%s, %s, %s, %s) ON CONFLICT (only_row) DO UPDATE"
        " SET town_at = excluded.town_at, wall_at = excluded.wall_at, speed = excluded.speed, ahead_s_max = excluded.ahead_s_max",
        (row.town_at, row.wall_at, row.speed, row.ahead_s_max),
    )
