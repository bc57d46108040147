"""Requests for a birth: who is to be asked, how often, and how many in a second."""

from __future__ import annotations

from collections import deque

from ingest.mqtt_types import Publication
from ingest.sparkplug_message import NAMESPACE, REBIRTH, Why
from ingest.sparkplug_schema import DataType, Payload
from underway.model import SECOND_US

PAUSE_S_MIN, PAUSE_S_MAX = 10, 640
CALM_S = 1800
"""After so long without a request the pause of a node is short again."""
PER_S_MAX = 10


class Asking:
    """Whether one node is to be asked for its births, and when it may be."""

    __slots__ = ("asked_us", "next_us", "pause_s", "why")

    def __init__(self) -> None:
        self.why: Why | None = None
        self.asked_us: int | None = None
        self.next_us = 0
        self.pause_s = 0

    def want(self, why: Why) -> None:
        """Have the node asked, for the first reason that was given."""
        if self.why is None:
            self.why = why

    def settle(self, *reasons: Why) -> None:
        """Ask no more for `reasons`, or for none at all when none is given."""
        if not reasons or self.why in reasons:
            self.why = None


class Rebirths:
    """Asks, with a pause that doubles for each node and a limit for all.

    Parameters
    ----------
    per_s_max : int
        Requests of all nodes together in a second.
    """

    def __init__(self, per_s_max: int = PER_S_MAX) -> None:
        self._asked: deque[int] = deque(maxlen=max(1, per_s_max))
        self.count = dict.fromkeys(Why, 0)

    def may_ask(self, asking: Asking, now_us: int) -> bool:
        """Return whether a node is to be asked now."""
        if asking.why is None or now_us < asking.next_us:
            return False
        return len(self._asked) < (self._asked.maxlen or 1) or now_us - self._asked[0] >= SECOND_US

    def ask(self, node: str, asking: Asking, now_us: int) -> Publication:
        """Return the request to a node (``group/edge``), and make the pause before its next one longer."""
        assert asking.why is not None
        calm = asking.asked_us is None or now_us - asking.asked_us >= CALM_S * SECOND_US
        asking.pause_s = PAUSE_S_MIN if calm else min(2 * asking.pause_s, PAUSE_S_MAX)
        asking.asked_us, asking.next_us = now_us, now_us + asking.pause_s * SECOND_US
        self._asked.append(now_us)
        self.count[asking.why] += 1
        group, _, edge = node.partition("/")
        return Publication(f"{NAMESPACE}/{group}/NCMD/{edge}", rebirth_request(now_us // 1000), 0, False)


def rebirth_request(at_ms: int) -> bytes:
    """Return the payload of an NCMD that asks an edge node for its births: ``Node Control/Rebirth`` true, no sequence number."""
    payload = Payload(timestamp=at_ms)
    payload.metrics.add(name=REBIRTH, timestamp=at_ms, datatype=DataType.BOOLEAN, boolean_value=True)
    encoded: bytes = payload.SerializeToString()
    return encoded
