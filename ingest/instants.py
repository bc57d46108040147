"""Which instants are plausible, and the sentence that says why one is not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from underway.model import DAY_US, HOUR_US, SECOND_US, Device, FaultReason, from_us, to_us

HISTORICAL_S_MIN = 3600
"""Older than this at reception, a reading is history: judged and dated, paging nobody."""


@dataclass(frozen=True, slots=True)
class TimeRules:
    """Bounds of an observed instant at reception.

    Attributes
    ----------
    future_s_max : float
        Furthest ahead of reception, in s, after the offset of the device's clock was taken off.
    age_d_max : float
        Oldest late data, in days.
    """

    future_s_max: float = 120.0
    age_d_max: float = 30.0

    @property
    def future_us_max(self) -> int:
        """Return the bound in microseconds."""
        return round(self.future_s_max * SECOND_US)

    @property
    def age_us_max(self) -> int:
        """Return the bound in microseconds."""
        return round(self.age_d_max * DAY_US)


def refusal_reason(rules: TimeRules, event_us: int, observed_us: int, received_us: int, registered_us: int) -> FaultReason:
    """Return why a reading was refused; what is left is its value.

    Examples
    --------
    >>> refusal_reason(TimeRules(), 200 * SECOND_US, 200 * SECOND_US, 0, 0).value
    'time_future'
    """
    age_us = received_us - event_us
    if age_us < -rules.future_us_max:
        return FaultReason.TIME_FUTURE
    if age_us > rules.age_us_max or observed_us < registered_us:
        return FaultReason.TIME_TOO_OLD
    return FaultReason.VALUE_NOT_FINITE


def refusal_message(
    rules: TimeRules,
    reason: FaultReason,
    device: Device,
    channel: str,
    value: float,
    unit: str | None,
    event_us: int,
    observed_us: int,
    received_us: int,
) -> str:
    """Return the sentence for people: what was expected, what came, where."""
    age_us = received_us - event_us
    at = iso(observed_us)
    where = f"(device '{device.device_id}', channel '{channel}')"
    clock = f", with its clock {span(observed_us - event_us)} ahead" if observed_us != event_us else ""
    if reason is FaultReason.TIME_FUTURE:
        return f"the observed time must be at most {rules.future_s_max:g} s after reception{clock}, got {at}, {span(-age_us)} ahead {where}"
    if reason is FaultReason.VALUE_NOT_FINITE:
        return f"'{channel}' must be finite in the canonical unit, got {value!r} {unit or ''} {where}"
    if age_us > rules.age_us_max:
        return f"the observed time must be at most {rules.age_d_max:g} days old, got {at}, {span(age_us)} old {where}"
    return f"the observed time must not be before the device was registered at {iso(to_us(device.registered_at))}, got {at} {where}"


def iso(us: int) -> str:
    """Return an instant for people, to the second; what lies outside the years 1 to 9999 is shown as the nearest end."""
    return from_us(min(max(us, _FIRST_US), _LAST_US)).strftime("%Y-%m-%dT%H:%M:%SZ")


_FIRST_US = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_US = to_us(datetime.max.replace(tzinfo=UTC))


def span(us: int) -> str:
    """Return a length of time for people.

    Examples
    --------
    >>> span(150 * SECOND_US), span(5 * HOUR_US), span(40 * DAY_US)
    ('150 s', '5.0 h', '40.0 days')
    """
    if us < HOUR_US:
        return f"{us // SECOND_US} s"
    return f"{us / HOUR_US:.1f} h" if us < 2 * DAY_US else f"{us / DAY_US:.1f} days"
