"""The town's side of MQTT: publishes what devices say (QoS 1, again until acknowledged) and hears what crews are sent."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import aiomqtt

from ingest.mqtt import BrokerAddress
from underway.model import StoreUnavailable

IN_FLIGHT_MAX = 200
INBOX_MAX = 1_000
CONFIRM_S = 20.0
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)


class Outgoing(Protocol):
    """What a device publishes."""

    @property
    def topic(self) -> str:
        """Return the topic."""
        ...

    @property
    def payload(self) -> bytes:
        """Return the payload."""
        ...


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message for a crew's phone."""

    topic: str
    payload: bytes


class TownLink:
    """One connection for all simulated devices and crew phones of a town.

    A publication that the broker has not acknowledged is published again after a reconnect, as a device with a memory
    would; ingest is idempotent, so nothing is doubled.

    Parameters
    ----------
    mqtt_url : str
        ``mqtt://user:password@host:port``; ``mqtts`` for TLS.
    subscriptions : sequence of str
        Topic filters whose messages go to ``inbox``.
    attempts : int
        How many reconnects in a row before giving up.

    Raises
    ------
    SettingsError
        When `mqtt_url` is not of that form.
    """

    def __init__(self, mqtt_url: str, subscriptions: Sequence[str] = (), attempts: int = 30) -> None:
        self._address = BrokerAddress.parse(mqtt_url)
        self._subscriptions = tuple(subscriptions)
        self._attempts = attempts
        self._client: aiomqtt.Client | None = None
        self._listener: asyncio.Task[None] | None = None
        self.inbox: asyncio.Queue[Incoming] = asyncio.Queue(INBOX_MAX)
        self.confirmed = 0

    async def __aenter__(self) -> TownLink:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all `messages`, in order of acceptance by the broker; returns when each is acknowledged.

        Raises
        ------
        StoreUnavailable
            When the broker stays away.
        """
        for begin in range(0, len(messages), IN_FLIGHT_MAX):
            waiting = list(messages[begin : begin + IN_FLIGHT_MAX])
            while waiting:
                client = self._client
                if client is None:
                    await self._connect()
                    continue
                results = await asyncio.gather(
                    *(client.publish(m.topic, m.payload, qos=1, timeout=CONFIRM_S) for m in waiting), return_exceptions=True
                )
                for result in results:
                    if isinstance(result, BaseException) and not isinstance(result, aiomqtt.MqttError):
                        raise result
                failed = [m for m, result in zip(waiting, results, strict=True) if result is not None]
                self.confirmed += len(waiting) - len(failed)
                waiting = failed
                if failed:
                    await self._close()

    async def _connect(self) -> None:
        problem = ""
        for attempt in range(self._attempts):
            client = aiomqtt.Client(
                self._address.host,
                self._address.port,
                username=self._address.username,
                password=self._address.password,
                tls_context=ssl.create_default_context() if self._address.tls else None,
                max_inflight_messages=IN_FLIGHT_MAX,
                max_concurrent_outgoing_calls=IN_FLIGHT_MAX + 8,
                keepalive=60,
            )
            client.pending_calls_threshold = IN_FLIGHT_MAX + 8  # many calls in flight are wanted here, not worth a warning
            try:
                await client.__aenter__()
                for topic in self._subscriptions:
                    await client.subscribe(topic, qos=1)
            except aiomqtt.MqttError as error:
                problem = str(error)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                continue
            self._client = client
            self._listener = asyncio.create_task(self._listen(client))
            return
        raise StoreUnavailable(f"the broker at {self._address!r} must accept connections, got: {problem}")

    async def _listen(self, client: aiomqtt.Client) -> None:
        try:
            async for message in client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else str(message.payload).encode()
                await self.inbox.put(Incoming(str(message.topic), payload))
        except aiomqtt.MqttError:
            self._client = None

    async def _close(self) -> None:
        client, self._client = self._client, None
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        if client is not None:
            try:
                await client.__aexit__(None, None, None)
            except aiomqtt.MqttError:
                return
