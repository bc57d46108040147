"""``underway quarantine replay``: send messages to the broker again, as they were."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from psycopg import Connection

from ingest.dialects import REPLAY_PREFIX
from underway.app.clock import SystemClock, TownClock
from underway.app.quarantine import open_store, why_not
from underway.app.settings import load_settings
from underway.model import Clock, OperatorError, StoreUnavailable
from underway.store.connect import redact_url
from underway.store.quarantine_rows import QuarantineFilter, QuarantineRow, count_quarantine, find_quarantine, mark_replayed

REPLAY_MAX = 10_000
"""Most entries that one call sends again; what is left over is said."""
PUBLISH_WAIT_S = 10.0
CONNECT_WAIT_S = 10.0

Publish = Callable[[str, bytes], str]
"""Sends one message at QoS 1; returns an empty text, or why the broker did not take it."""


@dataclass(slots=True)
class ReplayReport:
    """What was sent again and what was not.

    Attributes
    ----------
    sent : list of int
        Ids of the entries whose message the broker took.
    cannot : dict of int to str
        Ids with the reason why the message was not sent.
    refused : dict of int to str
        Ids with the reason why the broker did not take it.
    messages : int
        Messages sent: one may have several entries, one for each reason.
    left_over : int
        Entries beyond the limit of one call.
    dry_run : bool
        Nothing was sent; `sent` says what would have been.
    """

    sent: list[int] = field(default_factory=list)
    cannot: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    messages: int = 0
    left_over: int = 0
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Return whether everything that was asked for was sent."""
        return not (self.cannot or self.refused or self.left_over)


def by_message(rows: Iterable[QuarantineRow]) -> list[list[QuarantineRow]]:
    """Return entries of the same message together, seen first first."""
    messages: dict[tuple[str, str], list[QuarantineRow]] = {}
    for row in sorted(rows, key=lambda row: (row.received_at, row.quarantine_id)):
        messages.setdefault((row.topic, row.payload_sha), []).append(row)
    return list(messages.values())


def replay_rows(
    conn: Connection[Any], rows: Sequence[QuarantineRow], publish: Publish, clock: Clock, *, dry_run: bool = False
) -> ReplayReport:
    """Send messages again on their topics behind `REPLAY_PREFIX`, so that they go the whole way of a new one, and note when.

    Parameters
    ----------
    conn : Connection
        In autocommit: what was sent is noted at once.
    rows : sequence of QuarantineRow
    publish : callable (topic, payload) -> str
    clock : Clock
        The one that stamps receptions, so that a later failure shows as later.
    dry_run : bool
        Only say what would be sent.

    Notes
    -----
    Sending twice stores nothing twice. A message that fails again counts up its entry, or gets a further one with its new reason.
    """
    report = ReplayReport(dry_run=dry_run)
    for message in by_message(rows):
        ids = [row.quarantine_id for row in message]
        reason = why_not(message[0])
        if reason:
            report.cannot |= dict.fromkeys(ids, reason)
            continue
        if not dry_run:
            at = clock.now_at()
            refusal = publish(REPLAY_PREFIX + message[0].topic, message[0].payload)
            if refusal:
                report.refused |= dict.fromkeys(ids, refusal)
                continue
            mark_replayed(conn, ids, at)
        report.messages += 1
        report.sent += ids
    return report


def replay(wanted: QuarantineFilter, *, dry_run: bool = False, limit: int = REPLAY_MAX) -> ReplayReport:
    """Send entries again through the broker of the settings.

    Raises
    ------
    OperatorError
        When an id is not there, or the broker refuses us.
    StoreUnavailable
        When database or broker cannot be reached.
    """
    settings = load_settings(("database_url",) if dry_run else ("database_url", "mqtt_url"))
    clock: Clock = TownClock(settings.database_url) if settings.clock == "town" else SystemClock()
    with open_store(settings) as conn:
        rows = find_quarantine(conn, wanted, limit)
        missing = sorted(set(wanted.ids) - {row.quarantine_id for row in rows})
        if missing and len(rows) < limit:
            raise OperatorError(f"entries of quarantine must exist, got {', '.join(map(str, missing))}; see 'underway quarantine list'")
        if dry_run or not rows:
            report = replay_rows(conn, rows, lambda topic, payload: "", clock, dry_run=True)
            report.dry_run = dry_run
        else:
            with Publisher(settings.mqtt_url, settings.mqtt_ca_file) as publisher:
                report = replay_rows(conn, rows, publisher.publish, clock)
        report.left_over = max(0, count_quarantine(conn, wanted) - len(rows)) if len(rows) == limit else 0
    return report


class Publisher:
    """A connection to the broker for a few messages, each waited for.

    Parameters
    ----------
    url : str
        ``mqtt://`` or ``mqtts://``.
    ca_file : str
        Certificate authority for ``mqtts://``; empty: the system's.

    Notes
    -----
    MQTT 5 is tried first: there a broker says when it does not let us publish. Over 3.1.1 it takes such a message and drops it.
    """

    def __init__(self, url: str, ca_file: str = "") -> None:
        self._url, self._ca_file = url, ca_file
        self._client: paho.Client | None = None
        self._refusals: dict[int, str] = {}

    def __enter__(self) -> Publisher:
        problems = []
        for version in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            problem = self._connect(version)
            if not problem:
                return self
            problems.append(problem)
        raise StoreUnavailable(f"the broker at {redact_url(self._url)} must accept a connection, got: {problems[-1]}")

    def __exit__(self, *_: object) -> None:
        self._close()

    def publish(self, topic: str, payload: bytes) -> str:
        """Publish at QoS 1 and wait for the broker; return why it did not take the message, or an empty text."""
        assert self._client is not None
        try:
            info = self._client.publish(topic, payload, qos=1)
            info.wait_for_publish(PUBLISH_WAIT_S)
        except (ValueError, RuntimeError) as error:
            return str(error)
        if not info.is_published():
            return f"the broker did not answer within {PUBLISH_WAIT_S:g} s"
        return self._refusals.pop(info.mid, "")

    def _connect(self, version: MQTTProtocolVersion) -> str:
        parts = urlsplit(self._url)
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="", protocol=version)
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            try:
                client.tls_set(ca_certs=self._ca_file or None)
            except OSError as error:  # ssl.SSLError is one
                return f"UNDERWAY_MQTT_CA_FILE must name a readable file of certificates, got {self._ca_file!r} ({error.strerror or error})"
        answer: list[str] = []

        def connected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            answer.append(str(reason) if reason.is_failure else "")

        def published(_client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                self._refusals[mid] = f"the broker refused it: {reason}; may this account publish on that topic?"

        client.on_connect, client.on_publish = connected, published
        self._client = client
        try:
            client.connect(parts.hostname or "", parts.port or (8883 if parts.scheme == "mqtts" else 1883), keepalive=20)
        except OSError as error:
            return str(error)
        client.loop_start()
        until_s = time.monotonic() + CONNECT_WAIT_S
        while not answer and time.monotonic() < until_s:
            time.sleep(0.01)
        if answer == [""]:
            return ""
        self._close()
        return answer[0] if answer else f"no answer to MQTT {version.name} within {CONNECT_WAIT_S:g} s"

    def _close(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
