"""What a dialect makes of one message, and the limits that hold for every dialect."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from underway.model import Fault, FaultReason, Sample

PAYLOAD_BYTES_MAX = 256 * 1024
READINGS_MAX = 1000
VALUES_MAX = 64
FAULTS_MAX = 20
CHANNEL_CHARS_MAX = 64
UNIT_CHARS_MAX = 16
SHOWN_CHARS_MAX = 40

DEVICE_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CHANNEL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one message says: the good half as samples, the bad half as faults.

    Attributes
    ----------
    device_id : str or None
        None when not even the topic says who speaks.
    site_id : str or None
        The site that the topic names, where the dialect's topics name one.
    """

    device_id: str | None
    samples: tuple[Sample, ...] = ()
    faults: tuple[Fault, ...] = ()
    site_id: str | None = None


Decode = Callable[[str, bytes], Decoded]


def shown(value: object) -> str:
    """Return `value` as it is shown in a message: short, on one line, at a cost that does not grow with it.

    Examples
    --------
    >>> shown("n/a"), shown(None), shown([1] * 99), shown(10**50)
    ("'n/a'", 'null', 'an array of 99', 'a number of more than 40 digits')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, int) and abs(value) >= _SHOWN_INT_MAX:
        return f"a number of more than {SHOWN_CHARS_MAX} digits"
    if isinstance(value, (str, bytes)):
        value = value[: SHOWN_CHARS_MAX + 1]
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


_SHOWN_INT_MAX = 10**SHOWN_CHARS_MAX


class FaultList:
    """Collects the faults of one message; keeps the first `FAULTS_MAX` and says how many more there were.

    Parameters
    ----------
    device_id : str or None
        Who spoke.
    """

    __slots__ = ("_device_id", "_faults", "_more")

    def __init__(self, device_id: str | None) -> None:
        self._device_id = device_id
        self._faults: list[Fault] = []
        self._more = 0

    def add(self, reason: FaultReason, message: str, channel: str | None = None) -> None:
        """Add one fault; `channel` is kept only when it is a legal channel name."""
        if len(self._faults) >= FAULTS_MAX:
            self._more += 1
            return
        legal = channel is not None and CHANNEL_PATTERN.fullmatch(channel) is not None
        self._faults.append(Fault(reason, message, self._device_id, channel if legal else None))

    def result(self) -> tuple[Fault, ...]:
        """Return what was collected."""
        if self._more:
            last = self._faults[-1]
            self._faults[-1] = Fault(
                last.reason, f"{last.message}; and {self._more} more faults in this message", last.device_id, last.channel
            )
            self._more = 0
        return tuple(self._faults)
