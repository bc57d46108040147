"""Instants: aware UTC datetimes for people, int64 microseconds since 1970 for columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH_AT = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US


class Clock(Protocol):
    """Who is asked for the time; only ``underway.app`` knows an implementation."""

    def now_at(self) -> datetime:
        """Return the present instant, aware and UTC."""
        ...


def to_us(at: datetime) -> int:
    """Return microseconds since 1970-01-01T00:00Z of an aware instant.

    Raises
    ------
    ValueError
        When `at` has no time zone.

    Examples
    --------
    >>> to_us(datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC))
    2000000
    """
    if at.tzinfo is None:
        raise ValueError(f"an instant must have a time zone, got {at!r}")
    return (at - EPOCH_AT) // MICROSECOND


def from_us(us: int) -> datetime:
    """Return the aware UTC instant of microseconds since 1970.

    Examples
    --------
    >>> from_us(2_000_000).isoformat()
    '1970-01-01T00:00:02+00:00'
    """
    return EPOCH_AT + timedelta(microseconds=int(us))
