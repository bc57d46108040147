"""Count both sides: what devices said, and what the database holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from .devices import Said


@dataclass(frozen=True, slots=True)
class Count:
    """Published against stored.

    Attributes
    ----------
    missing : int
        Published and acknowledged by the broker, and not stored.
    extra : int
        Stored, and never published.
    twice : int
        Rows beyond the first of a channel and time.
    differing : int
        Stored with another value than the published one.
    """

    published: int
    stored: int
    missing: int
    extra: int
    twice: int
    differing: int
    quarantined: int
    findings: int

    @property
    def is_exact(self) -> bool:
        return self.published == self.stored and not (self.missing or self.extra or self.twice or self.differing or self.quarantined)


_COMPARE = """
    SELECT (SELECT count(*) FROM said), (SELECT count(*) FROM stored),
           count(*) FILTER (WHERE stored.value IS NULL), count(*) FILTER (WHERE said.value IS NULL),
           (SELECT count(*) FROM stored) - (SELECT count(*) FROM (SELECT DISTINCT device_id, at_ms FROM stored) AS once),
           count(*) FILTER (WHERE stored.value <> said.value),
           (SELECT coalesce(sum(1), 0) FROM quarantine), (SELECT count(*) FROM finding)
    FROM said FULL JOIN stored USING (device_id, at_ms)"""


def count(url: str, said: Sequence[Said]) -> Count:
    """Compare what was said with the table of readings, in the database."""
    with _compared(url, said) as conn:
        row = conn.execute(_COMPARE).fetchone()
    assert row is not None
    return Count(*map(int, row))


def missing(url: str, said: Sequence[Said]) -> list[Said]:
    """Return what was said and is not stored."""
    with _compared(url, said) as conn:
        rows = conn.execute(
            "SELECT device_id, at_ms, said.value FROM said LEFT JOIN stored USING (device_id, at_ms) WHERE stored.value IS NULL ORDER BY at_ms"
        ).fetchall()
    return [Said(*row) for row in rows]


def stored(url: str) -> int:
    """Return the number of readings."""
    with psycopg.connect(url, connect_timeout=3) as conn:
        row = conn.execute("SELECT count(*) FROM reading").fetchone()
    assert row is not None
    return int(row[0])


def _compared(url: str, said: Sequence[Said]) -> psycopg.Connection[tuple[object, ...]]:
    """Return a connection that sees `said` and `stored` as tables."""
    conn = psycopg.connect(url)
    conn.execute("CREATE TEMP TABLE said (device_id text, at_ms bigint, value float8)")
    with conn.cursor().copy("COPY said FROM STDIN") as copy:
        for one in said:
            copy.write_row((one.device, one.at_ms, one.value))
    conn.execute(
        "CREATE TEMP VIEW stored AS SELECT device_id, (extract(epoch FROM observed_at) * 1000)::bigint AS at_ms, value"
        " FROM reading JOIN channel USING (channel_id)"
    )
    return conn
