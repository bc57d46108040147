"""The work side's loop: takes findings, lets time pass, delivers the outbox; survives restarts of the database and the broker."""

from __future__ import annotations

import json
import logging
import os
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import paho.mqtt.client as paho
import psycopg
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from ingest.mqtt import BrokerAddress
from underway import desk
from underway.desk import outbox
from underway.model import Clock, StoreUnavailable
from underway.store import work
from underway.store.connect import connect, store_errors
from underway.store.status import write_status
from underway.store.telemetry import FINDING_CHANNEL
from workorders.alarm_types import Policy, load_policy

SERVICE = "workorders"
CLIENT_ID = "underway-workorders"
PERIOD_S = 0.2
STATUS_S = 1.0
PUBLISH_S = 5.0
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
SEND_RETRY_MAX = timedelta(minutes=10)
SEND_ATTEMPTS_MAX = 1_000
FINDINGS_A_ROUND = 200
MESSAGES_A_ROUND = 100
LINK_LIFE = timedelta(days=7)
KEEPALIVE_S = 30

log = logging.getLogger("underway.workside")


def run(
    mqtt_url: str,
    database_url: str,
    clock: Clock,
    stop_event: Event,
    secret: str,
    base_url: str,
    *,
    policy: Policy | None = None,
    client_id: str = CLIENT_ID,
    ca_file: str = "",
) -> None:
    """Run the work side until `stop_event` is set.

    Parameters
    ----------
    mqtt_url : str
        ``mqtt://`` or ``mqtts://``; a broker that is away is waited for, its messages stay in the outbox.
    database_url : str
        A store that is away is waited for.
    clock : Clock
        Every decision is taken at its time.
    secret : str
        Signs crew links.
    base_url : str
        Address at which crews reach the web pages.
    policy : Policy or None
        None: the reviewed file that ships with underway.

    Raises
    ------
    SettingsError
        When the file of alarm types or `mqtt_url` is wrong.
    OperatorError
        When `database_url` is not a database URL.
    """
    rules = policy or load_policy()
    sender = Sender(mqtt_url, client_id, ca_file)
    side = WorkSide(database_url, clock, sender, secret, base_url, rules)
    failures = 0
    try:
        while not stop_event.is_set():
            try:
                side.open()
                while not stop_event.is_set():
                    side.round()
                    failures = 0
                    side.wait()
            except StoreUnavailable as error:
                side.close()
                pause_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                failures += 1
                log.warning("the store is away, trying again in %.1f s: %s", pause_s, error)
                stop_event.wait(pause_s)
    finally:
        side.close()
        sender.close()


class Sender:
    """Publishes with QoS 1 and tells whether the broker has confirmed; reconnects by itself.

    Parameters
    ----------
    mqtt_url : str
    client_id : str
    ca_file : str
        Certificate authority for ``mqtts://``; empty: the system's.
    """

    def __init__(self, mqtt_url: str, client_id: str = CLIENT_ID, ca_file: str = "") -> None:
        address = BrokerAddress.parse(mqtt_url)
        # 3.1.1 is all that this needs, and every broker speaks it
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True, protocol=MQTTProtocolVersion.MQTTv311
        )
        if address.username is not None:
            self._client.username_pw_set(address.username, address.password)
        if address.tls:
            self._client.tls_set_context(ssl.create_default_context(cafile=ca_file or None))
        self._client.reconnect_delay_set(1, 5)
        self._client.connect_async(address.host, address.port, KEEPALIVE_S)
        self._client.loop_start()

    @property
    def connected(self) -> bool:
        """Return whether the broker is there now."""
        return self._client.is_connected()

    def send(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Publish one message and return whether the broker confirmed it within `PUBLISH_S`."""
        if not self.connected:
            return False
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_NO_CONN):
            return False
        try:
            info.wait_for_publish(PUBLISH_S)
        except (RuntimeError, ValueError) as problem:
            log.warning("the broker did not take a message: %s", problem)
            return False
        return info.is_published()

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()


@dataclass(slots=True)
class WorkSide:
    """One round after another: findings, timers, outbox, status."""

    database_url: str
    clock: Clock
    sender: Sender
    secret: str
    base_url: str
    policy: Policy
    memory: desk.Memory = field(default_factory=desk.Memory)
    counts: Counter[str] = field(default_factory=Counter)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _conn: psycopg.Connection[Any] | None = None
    _ears: psycopg.Connection[Any] | None = None
    _status_s: float = float("-inf")
    _round_ms_max: float = 0.0

    def open(self) -> None:
        """Connect, and listen for hints.

        Raises
        ------
        StoreUnavailable
            When the store is away.
        """
        self.close()
        self._conn = connect(self.database_url, application_name="underway-workorders")
        self._ears = connect(self.database_url, application_name="underway-workorders-ears")
        with store_errors("listen for findings"):
            work.listen(self._ears, (FINDING_CHANNEL, work.WORK_CHANNEL))

    def close(self) -> None:
        """Let go of the store."""
        for conn in (self._conn, self._ears):
            if conn is not None:
                conn.close()
        self._conn = self._ears = None

    def wait(self) -> None:
        """Wait for a hint, at most `PERIOD_S`; the tables are looked at in any case."""
        assert self._ears is not None
        with store_errors("listen for findings"):
            for _ in self._ears.notifies(timeout=PERIOD_S, stop_after=1):
                break

    def round(self) -> None:
        """Do everything that there is to do now.

        Raises
        ------
        StoreUnavailable
            When the store went away; what was not committed is done again.
        """
        assert self._conn is not None
        begin = time.monotonic()
        with store_errors("do the work side's round"):
            self._take()
            for name, count in desk.tick(self._conn, self.clock.now_at(), policy=self.policy, memory=self.memory).counts.items():
                self.counts[name] += count
            self._deliver()
            self._round_ms_max = max(self._round_ms_max, 1000 * (time.monotonic() - begin))
            if begin - self._status_s >= STATUS_S:
                self._status_s = begin
                write_status(self._conn, SERVICE, os.getpid(), self.started_at, self.facts())
                self._round_ms_max = 0.0

    def _take(self) -> None:
        assert self._conn is not None
        for finding, taken in desk.take_new_findings(self._conn, self.clock.now_at(), limit=FINDINGS_A_ROUND, policy=self.policy):
            self.counts["findings"] += 1
            self.counts[f"findings_{taken.taken}"] += 1
            level = logging.INFO if taken.taken is desk.Taken.MOVED else logging.DEBUG
            log.log(level, "%s %s of %s: %s (%s)", finding.kind, finding.phase, finding.asset_id, taken.taken, taken.reason)

    def _deliver(self) -> None:
        """Publish what the outbox holds, in order; stop at the first that the broker does not confirm."""
        assert self._conn is not None
        if not self.sender.connected:
            return
        for message in work.unsent(self._conn, self.clock.now_at(), MESSAGES_A_ROUND):
            now_at = self.clock.now_at()
            if message.channel != "mqtt":
                work.mark_failed(
                    self._conn, message.notification_id, now_at, f"channel {message.channel!r} is not delivered by this service"
                )
                continue
            site_id = str(message.body.get("site_id", ""))
            payload = json.dumps(self._payload(message, now_at), separators=(",", ":")).encode()
            if self.sender.send(outbox.topic_of(site_id, message.recipient), payload, outbox.is_retained(message.recipient)):
                work.mark_sent(self._conn, message.notification_id, now_at, self.clock.now_at())
                self.counts["sent"] += 1
                continue
            self.counts["send_failed"] += 1
            gave_up = message.attempts + 1 >= SEND_ATTEMPTS_MAX
            pause = min(timedelta(seconds=2 ** min(message.attempts, 16)), SEND_RETRY_MAX)
            work.mark_failed(self._conn, message.notification_id, now_at + pause, "the broker never confirmed it" if gave_up else None)
            return

    def _payload(self, message: work.Notification, now_at: datetime) -> Mapping[str, Any]:
        body: Mapping[str, Any] = {**message.body, "key": message.idempotency_key}
        if message.recipient.startswith(outbox.CREW_PREFIX) and body.get("kind") == "order":
            token = desk.crew_link(self.secret, message.recipient.removeprefix(outbox.CREW_PREFIX), now_at + LINK_LIFE)
            return outbox.with_link(body, desk.link_of(self.base_url, token))
        return body

    def facts(self) -> dict[str, Any]:
        """Return what people want to see of this service."""
        assert self._conn is not None
        behind, waiting = work.backlog(self._conn, desk.READER)
        return {
            "now_at": self.clock.now_at().isoformat(),
            "broker_connected": self.sender.connected,
            "findings_behind": behind,
            "outbox_waiting": waiting,
            "round_ms_max": round(self._round_ms_max, 1),
            **self.counts,
        }
