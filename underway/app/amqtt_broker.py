"""A broker for machines without Mosquitto: amqtt with a delivery that keeps what was not acknowledged.

``python -m underway.app.amqtt_broker PORT`` serves MQTT 3.1.1 on 127.0.0.1 until it is terminated.

amqtt 0.12 by itself gives up a QoS 1 message when its acknowledgement takes longer than 5 s or the receiver goes away, keeps no session for
anonymous clients, and on a reconnect sends retained messages that the client never subscribed to. `PatientBroker` replaces those parts: each
persistent session has one queue in order, a window of messages in flight, and gets again after a reconnect what it did not acknowledge.

It is blind to its own end: everything is in memory, so what it had accepted is lost with the process. QoS 2 subscriptions are served at QoS 1.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Any

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.mqtt.constants import QOS_0, QOS_1
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.puback import PubackPacket
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import ApplicationMessage, OutgoingApplicationMessage, Session

log = logging.getLogger("underway.broker")

IN_FLIGHT_MAX = 20_000
"""Messages that one session may leave unacknowledged."""
QUEUE_MAX = 1_000_000
"""Messages that wait for one session; further ones are dropped, which is logged."""


class EveryoneLocal(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Let everybody in, without marking the session as anonymous: amqtt would not keep messages for such a session."""

    async def authenticate(self, *, session: Session) -> bool:
        """Return True."""
        return True


class PatientHandler(BrokerProtocolHandler):  # type: ignore[misc]  # amqtt ships no types
    """One connection: sends the session's queue in order, a window at a time, and never gives a message up."""

    def __init__(self, plugins_manager: Any) -> None:
        super().__init__(plugins_manager)
        self.wake = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._gone = False

    async def start(self) -> None:
        """Start reading, send again what is in flight, then what waits."""
        await super().start()
        self._sender = asyncio.create_task(self._send_all())

    async def stop(self) -> None:
        """Stop sending; what is in flight stays in the session."""
        self._gone = True
        self.wake.set()
        if self._sender is not None and self._sender is not asyncio.current_task():
            self._sender.cancel()
        await super().stop()

    async def handle_disconnect(self, disconnect: Any) -> None:
        """Note that nothing more can be sent."""
        self._gone = True
        await super().handle_disconnect(disconnect)

    async def handle_puback(self, puback: PubackPacket) -> None:
        """Forget the message, and let the next one go."""
        if self.session is not None:
            self.session.inflight_out.pop(puback.variable_header.packet_id, None)
        self.wake.set()

    async def _retry_deliveries(self) -> None:
        """Leave it to `_send_all`: amqtt would wait for the acknowledgements, and give up after 10 s."""

    async def _send_all(self) -> None:
        session = self.session
        for message in list(session.inflight_out.values()):
            if self._gone:
                return
            await self._send_packet(message.build_publish_packet(dup=True))
        waiting = session.retained_messages
        while not self._gone:
            if waiting.empty() or len(session.inflight_out) >= IN_FLIGHT_MAX:
                self.wake.clear()
                await self.wake.wait()
                continue
            queued = waiting.get_nowait()
            message = OutgoingApplicationMessage(session.next_packet_id, queued.topic, QOS_1, queued.data, queued.retain)
            session.inflight_out[message.packet_id] = message
            await self._send_packet(message.build_publish_packet())


class PatientBroker(Broker):  # type: ignore[misc]  # amqtt ships no types
    """amqtt's broker with `PatientHandler` and one queue a session."""

    dropped = 0

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """Grant at most QoS 1."""
        topic_filter, qos = subscription
        granted: int = await super().add_subscription((topic_filter, min(qos, QOS_1)), session)
        return granted

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[PatientHandler, Session]:
        _, session = await super()._initialize_client_session(reader, writer, remote_address, remote_port)
        return PatientHandler(self.plugins_manager), session

    async def _run_broadcast(self, running_tasks: Any) -> None:
        """Hand one message to every session that subscribed to its topic, once a session."""
        broadcast = await self._broadcast_queue.get()
        served: dict[str, tuple[Session, int]] = {}
        for topic_filter, subscriptions in self._subscriptions.items():
            if self._matches(broadcast["topic"], topic_filter):
                for session, qos in subscriptions:
                    known = served.get(session.client_id)
                    served[session.client_id] = (session, max(qos, known[1]) if known else qos)
        for session, qos in served.values():
            self._deliver(session, broadcast["topic"], broadcast["data"], qos, retain=False, running_tasks=running_tasks)

    async def _publish_session_retained_messages(self, session: Session) -> None:
        """Leave it to the handler, which sends the session's queue."""

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Session) -> None:
        """Send the retained messages of a filter, to a session that subscribed to it."""
        topic_filter, qos = subscription
        if any(own is session for own, _ in self._subscriptions.get(topic_filter, ())):
            for message in list(self._retained_messages.values()):
                if self._matches(message.topic, topic_filter):
                    self._deliver(session, message.topic, message.data, min(qos, QOS_1), retain=True, running_tasks=self._tasks_queue)

    def _deliver(self, session: Session, topic: str, data: bytes, qos: int, *, retain: bool, running_tasks: Any) -> None:
        """Queue a message for a session, or send it at once when nothing has to be kept."""
        handler = self._get_handler(session)
        connected = isinstance(handler, PatientHandler) and not handler._gone and handler.session is not None
        if qos == QOS_0:
            if connected:
                running_tasks.append(asyncio.ensure_future(handler.mqtt_publish(topic, data, QOS_0, retain=retain)))
            return
        if not connected and session.clean_session:
            return
        if session.retained_messages.qsize() >= QUEUE_MAX:
            self.dropped += 1
            if self.dropped % 1000 == 1:
                log.error(
                    "the queue of session %s is full (%d messages): %d messages were dropped", session.client_id, QUEUE_MAX, self.dropped
                )
            return
        session.retained_messages.put_nowait(ApplicationMessage(None, topic, QOS_1, data, retain))
        if connected:
            handler.wake.set()


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process is told to end."""
    told = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, told.set)
    broker = PatientBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {f"{EveryoneLocal.__module__}.{EveryoneLocal.__name__}": {}},
        }
    )
    await broker.start()
    await told.wait()
    # the tasks of clients that are still there end by cancellation, which both report as an error
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    asyncio.get_running_loop().set_exception_handler(_unless_cancelled)


def _unless_cancelled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # amqtt tells of every acknowledgement and every closed connection
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    # under its importable name, which is the one that amqtt loads the plugin by
    from underway.app.amqtt_broker import serve as serve_as_module

    asyncio.run(serve_as_module(int(sys.argv[1])))
