"""What a dialect makes of one message, and the limits that hold for every dialect."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from underway.model import Fault, FaultReason, Quality, QualityReason

PAYLOAD_BYTES_MAX = 256 * 1024
"""Most bytes of a payload that a dialect looks into; also of one that it unpacks."""
READINGS_MAX = 1000
VALUES_MAX = 64
SAMPLES_MAX = 10_000
"""Most samples of one message, in any dialect."""
FAULTS_MAX = 20
CHANNEL_CHARS_MAX = 64
ADDRESS_CHARS_MAX = 200
UNIT_CHARS_MAX = 16
SHOWN_CHARS_MAX = 40

DEVICE_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CHANNEL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class AnnouncedChannel(msgspec.Struct, frozen=True):
    """A channel as its device announces it: the name on the wire, and the unit where one is told."""

    address: str
    unit: str | None = None
    kind: str = ""


class Announcement(msgspec.Struct, frozen=True):
    """A device says that it exists: a Sparkplug birth, a LoRaWAN join, or what an unknown device speaks.

    ``kind`` is ``birth``, ``join`` or ``uplink``; ``details`` holds plain JSON values that help an engineer to recognise it.
    """

    kind: str
    channels: tuple[AnnouncedChannel, ...] = ()
    model: str = ""
    details: dict[str, str | int | float | bool | None] = {}


class FrameCounter(msgspec.Struct, frozen=True, gc=False):
    """The counter by which a network tells the frames of a device apart: a counter that comes again in one session is the same frame."""

    session: str
    counter: int


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """What one message says: the good half as columns of one length n, the bad half as faults.

    Attributes
    ----------
    device : str or None
        Address of the device as the dialect names it (docs/dialects); None when not even the topic says who speaks.
    channel : tuple of str, length n
        Address of each sample's channel as the device names it. A tuple, so that a message shaped like an earlier one is recognised.
    observed_us : sequence of int, length n
        Microseconds since 1970; not judged here.
    value : sequence of float, length n
        Finite.
    unit : tuple of (str or None), length n, or None
        None for a sample: the unit that is registered. None for all: the message names no unit.
    quality, reason : sequence of int, length n, or None
        `Quality` and `QualityReason` as the device says; None: all good.
    from_reception : sequence of bool, length n, or None
        Where true, ``observed_us`` counts from the instant at which the message was received (0: then; negative: before).
    historical : sequence of bool, length n, or None
        Where true, the device says that it is history: it pages nobody.
    faults : tuple of Fault
        At most `FAULTS_MAX`.
    site_id : str or None
        The site that the topic names, where the dialect's topics name one.
    counter : FrameCounter or None
    announcement : Announcement or None
    more : object
        What a dialect with a memory (Sparkplug) hands on to the object that remembers; None for all others.
    """

    device: str | None
    channel: tuple[str, ...] = ()
    observed_us: Sequence[int] = ()
    value: Sequence[float] = ()
    unit: tuple[str | None, ...] | None = None
    quality: Sequence[int] | None = None
    reason: Sequence[int] | None = None
    from_reception: Sequence[bool] | None = None
    historical: Sequence[bool] | None = None
    faults: tuple[Fault, ...] = ()
    site_id: str | None = None
    counter: FrameCounter | None = None
    announcement: Announcement | None = None
    more: object = None

    def __len__(self) -> int:
        return len(self.value)


Decode = Callable[[str, bytes], Decoded]


class Samples:
    """Collects the samples of one message, one at a time: for what is unusual; the common message is made of whole columns."""

    __slots__ = ("_channel", "_observed_us", "_quality", "_reason", "_unit", "_value")

    def __init__(self) -> None:
        self._channel: list[str] = []
        self._observed_us: list[int] = []
        self._value: list[float] = []
        self._unit: list[str | None] = []
        self._quality: list[int] = []
        self._reason: list[int] = []

    def __len__(self) -> int:
        return len(self._value)

    def add(
        self,
        channel: str,
        observed_us: int,
        value: float,
        unit: str | None = None,
        quality: Quality = Quality.GOOD,
        reason: QualityReason = QualityReason.NONE,
    ) -> None:
        """Add one sample."""
        self._channel.append(channel)
        self._observed_us.append(observed_us)
        self._value.append(value)
        self._unit.append(unit)
        self._quality.append(int(quality))
        self._reason.append(int(reason))

    def decoded(self, device: str | None, faults: tuple[Fault, ...] = (), site_id: str | None = None) -> Decoded:
        """Return what was collected; columns that say nothing are None."""
        return Decoded(
            device,
            tuple(self._channel),
            self._observed_us,
            self._value,
            tuple(self._unit) if any(unit is not None for unit in self._unit) else None,
            self._quality if any(self._quality) else None,
            self._reason if any(self._reason) else None,
            faults=faults,
            site_id=site_id,
        )


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
    device : str or None
        Who spoke.
    """

    __slots__ = ("_device", "_faults", "_more")

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._faults: list[Fault] = []
        self._more = 0

    def add(self, reason: FaultReason, message: str, channel: str | None = None) -> None:
        """Add one fault; `channel` is kept only when it is a legal channel name."""
        if len(self._faults) >= FAULTS_MAX:
            self._more += 1
            return
        legal = channel is not None and CHANNEL_PATTERN.fullmatch(channel) is not None
        self._faults.append(Fault(reason, message, self._device, channel if legal else None))

    def result(self) -> tuple[Fault, ...]:
        """Return what was collected."""
        if self._more:
            last = self._faults[-1]
            self._faults[-1] = Fault(
                last.reason, f"{last.message}; and {self._more} more faults in this message", last.device_id, last.channel
            )
            self._more = 0
        return tuple(self._faults)
