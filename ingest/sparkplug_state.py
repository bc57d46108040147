"""The STATE of our own Sparkplug host application: what edge nodes see of us."""

from __future__ import annotations

import msgspec

from ingest.mqtt_types import Greeting, Publication
from ingest.sparkplug_message import NAMESPACE, HostState, Seen
from underway.model import SECOND_US

PAUSE_S = 1
"""Shortest time between two corrections: another host with our name must not make a storm."""


class OwnState:
    """Says when to publish what on ``spBv1.0/STATE/{host_id}``; all of it at QoS 1, retained.

    Parameters
    ----------
    host_id : str
        1..64 printable characters without ``+ / #``, its own in the whole installation.

    Notes
    -----
    `greeting` may be called by the thread that keeps the connection while another one calls the rest: at worst a correction goes out that the
    greeting has made needless.

    Examples
    --------
    >>> state = OwnState("underway")
    >>> greeting = state.greeting(1_795_310_400_000_000)
    >>> greeting.will.payload, greeting.hello[0].payload
    (b'{"online":false,"timestamp":1795310400000}', b'{"online":true,"timestamp":1795310400000}')
    """

    def __init__(self, host_id: str) -> None:
        if not 0 < len(host_id) <= 64 or not host_id.isprintable() or set(host_id) & set("+/#"):
            raise ValueError(f"a host id must be 1..64 printable characters without '+', '/' and '#', got {host_id!a}")
        self.host_id = host_id
        self.topic = f"{NAMESPACE}/STATE/{host_id}"
        self.corrections = 0
        self.conflicts = 0
        self._greeted_ms: int | None = None
        self._leaving = False
        self._correct_us: int | None = None
        self._corrected_us: int | None = None

    def greeting(self, now_us: int) -> Greeting:
        """Return the will and the hello of a connection that is about to be made: both carry the same instant."""
        self._greeted_ms = max(now_us // 1000, self._greeted_ms or 0)
        self._leaving = False
        self._correct_us = None
        return Greeting(self._said(False, self._greeted_ms), (self._said(True, self._greeted_ms),))

    def farewell(self, now_us: int) -> tuple[Publication, ...]:
        """Return what to publish before a connection is closed on purpose."""
        self._leaving = True
        self._correct_us = None
        return (self._said(False, max(now_us // 1000, self._greeted_ms or 0)),)

    def heard(self, said: HostState, received_us: int) -> Seen:
        """Take note of a STATE that came; one that calls us offline is to be corrected."""
        if said.host_id != self.host_id:
            return Seen.STATE_OF_OTHER_HOST
        if self._leaving or self._greeted_ms is None:
            return Seen.NOTHING
        if not said.online:
            earliest_us = received_us if self._corrected_us is None else self._corrected_us + PAUSE_S * SECOND_US
            self._correct_us = max(received_us, earliest_us)
            return Seen.STATE_TO_CORRECT
        if said.timestamp_ms == self._greeted_ms:
            return Seen.STATE_AS_OURS
        self.conflicts += 1
        return Seen.STATE_CONFLICT

    def due(self, now_us: int) -> list[Publication]:
        """Return the correction that is to be published now, if any: online, with the instant of the greeting."""
        correct_us, greeted_ms = self._correct_us, self._greeted_ms
        if correct_us is None or now_us < correct_us or greeted_ms is None:
            return []
        self._corrected_us, self._correct_us = now_us, None
        self.corrections += 1
        return [self._said(True, greeted_ms)]

    def _said(self, online: bool, at_ms: int) -> Publication:
        return Publication(self.topic, msgspec.json.encode({"online": online, "timestamp": at_ms}), 1, True)
