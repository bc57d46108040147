"""What a source of messages is, and the values that go through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Message(NamedTuple):
    """One message as it came.

    Attributes
    ----------
    topic : str
        `NOT_UTF8_TOPIC` when it is no text.
    payload : bytes
        Of a message above the limit only the beginning: then ``size > len(payload)``.
    received_us : int
        When its bytes arrived, microseconds since 1970.
    token : (int, int)
        Belongs to the source that gave it: the number of the connection, and the packet id (0: nothing to acknowledge).
    size : int
        Bytes of the payload as it was sent; 0 where a source does not tell.
    qos : int
        0, 1 or 2.
    retain : bool
        The broker had kept it, from before we subscribed.
    dup : bool
        The broker delivers it again.
    mid : int
        Its packet id in this connection, 0 at QoS 0.
    """

    topic: str
    payload: bytes
    received_us: int
    token: tuple[int, int]
    size: int = 0
    qos: int = 1
    retain: bool = False
    dup: bool = False
    mid: int = 0


class Publication(NamedTuple):
    """One message to be published.

    Attributes
    ----------
    topic : str
        1 to 65,535 bytes of UTF-8, no wildcard.
    payload : bytes
        At most 65,535 bytes when it is a will.
    qos : int
        0 or 1.
    retain : bool
        The broker keeps it for those who subscribe later.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


class Greeting(NamedTuple):
    """What a connection says of itself.

    Attributes
    ----------
    will : Publication or None
        The broker publishes it when the connection is lost.
    hello : tuple of Publication
        Published as soon as a subscription is granted.
    """

    will: Publication | None = None
    hello: tuple[Publication, ...] = ()


class Source(Protocol):
    """Where messages come from: it holds back what is not acknowledged, and delivers that again after a crash."""

    def poll(self, count_max: int, wait_s: float) -> list[Message]:
        """Return at most `count_max` waiting messages; when none waits, wait at most `wait_s` for the first."""
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell that these are stored for good; each once."""
        ...

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish, best effort: what cannot go out now is dropped, and counted."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what people want to see of it: plain values."""
        ...

    def close(self, farewell: Sequence[Publication] = ()) -> None:
        """Publish `farewell` and stop; what is not acknowledged stays with the broker."""
        ...
