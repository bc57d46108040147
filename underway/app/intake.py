"""From messages to items: decoded once, by the dialect and by what the dialect remembers. Nothing here talks to the store."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ingest.decoded import Decoded
from ingest.dialects import NO_DIALECT, REPLAY_PREFIX, decode, sparkplug
from ingest.frames import FrameMemory
from ingest.mqtt_types import Greeting, Message, Publication
from ingest.sparkplug_host import Presence, SparkplugHost
from underway.model import Fault, FaultReason
from underway.store.memory import MemoryRow, PresenceRow

log = logging.getLogger("underway.ingest.intake")

FRAMES = "frames"
UNDATED = "undated"
UNDATED_MAX = 65_535
"""As many as MQTT has packet ids: one message without an instant for each."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """One message on its way into the store, with what a dialect remembers of it."""

    dialect: str
    decoded: Decoded
    received_us: int
    message: Message
    memory: tuple[MemoryRow, ...] = ()
    presence: tuple[PresenceRow, ...] = ()

    @property
    def special(self) -> bool:
        """Whether more than readings is to be stored."""
        return bool(self.memory or self.presence or self.decoded.announcement is not None)


class Intake:
    """Decodes messages, each exactly once, and remembers what some dialects need to understand the next one.

    What is remembered travels with the item and is stored in the transaction of its readings. A message that is tried again is not decoded
    again; after a crash `restore` gives back what was committed, and the broker delivers what was not.

    Parameters
    ----------
    host : SparkplugHost
    is_registered : callable (dialect, address) -> bool
        Frame counters are remembered of registered devices only, so that the quarantined frames of a device can be replayed once it is.

    Notes
    -----
    *A message without an instant* counts as observed when it was received, a microsecond after the one before it when both came at once. When the
    broker delivers it again (the DUP flag, the same packet id and the same bytes) it keeps the instant of its first delivery, so that it is stored
    once.
    """

    def __init__(self, host: SparkplugHost, is_registered: Callable[[str, str], bool] = lambda dialect, address: True) -> None:
        self.host = host
        self.is_registered = is_registered
        self.repeated_frames = 0
        self._frames = FrameMemory()
        self._undated: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        self._undated_us = 0

    def restore(self, rows: Iterable[MemoryRow], now_us: int) -> None:
        """Take back what was stored before a restart."""
        births: list[tuple[str, bytes]] = []
        for row in rows:
            if row.state is None:
                continue
            if row.dialect == FRAMES:
                self._frames.restore(row.key, row.state)
            elif row.dialect == UNDATED and len(row.state) == 40:
                digest, received_us = struct.unpack("<32sq", row.state)
                self._undated[int(row.key)] = digest, received_us
                self._undated_us = max(self._undated_us, received_us)
            elif row.dialect == sparkplug.NAME:
                births.append((row.key, row.state))
        self.host.restore(births, now_us)

    def take(self, messages: Sequence[Message]) -> list[Item]:
        """Return what messages say, in their order."""
        items: list[Item] = []
        append = items.append
        for message in messages:
            try:
                if message[0].startswith(REPLAY_PREFIX):
                    append(self._again(message))
                    continue
                dialect, decoded = decode(message[0], message[1])
                if decoded.more is None and decoded.counter is None and decoded.from_reception is None and message.size <= len(message[1]):
                    append(Item(dialect, decoded, message[2], message))
                else:
                    append(self._unusual(dialect, decoded, message))
            except Exception as error:
                # a fault of ours costs the message, not the process
                log.exception("a message on %r cannot be decoded", message.topic)
                fault = Fault(FaultReason.INTERNAL, f"we could not decode this message: {type(error).__name__}: {error}")
                append(Item(NO_DIALECT, Decoded(None, faults=(fault,)), message.received_us, message))
        return items

    def _unusual(self, dialect: str, decoded: Decoded, message: Message) -> Item:
        """Finish a message that came cut off, or that means something only together with what came before."""
        if message.size <= len(message.payload):
            return self._remembering(dialect, decoded, message)
        fault = Fault(
            FaultReason.PAYLOAD_TOO_LARGE,
            f"a payload must have at most 1 MiB, got {message.size} bytes; the beginning is kept (topic {message.topic[:160]!a})",
            decoded.device,
        )
        return Item(dialect, Decoded(decoded.device, faults=(fault,), site_id=decoded.site_id), message.received_us, message)

    def _again(self, message: Message) -> Item:
        """Take a message that comes from quarantine once more: it is read by what is known now, and nothing is remembered of it."""
        message = message._replace(topic=message.topic.removeprefix(REPLAY_PREFIX))
        dialect, decoded = decode(message.topic, message.payload)
        if dialect == sparkplug.NAME and decoded.more is not None:
            decoded = self.host.replay(decoded)
        return Item(dialect, decoded, message.received_us, message)

    def due(self, now_us: int) -> Sequence[Publication]:
        """Return what is to be published now: requests for births, our own state."""
        return self.host.due(now_us)

    def changes(self, now_us: int, *, everything: bool = False) -> tuple[list[MemoryRow], list[PresenceRow]]:
        """Return what is to be stored of what changed since the last call; `everything` before a stop."""
        memory = [MemoryRow(sparkplug.NAME, key, state) for key, state in self.host.memory_changes(now_us, everything=everything)]
        return memory, [_presence(change) for change in self.host.presence_changes()]

    def presence_of(self, addresses: Iterable[str]) -> list[PresenceRow]:
        """Return who of some Sparkplug addresses is there, as far as that was heard."""
        found = [self.host.presence_of(address) for address in addresses]
        return [_presence(presence) for presence in found if presence is not None]

    def greeting(self, now_us: int) -> Greeting:
        """Return the will of a connection, and what it says first."""
        return self.host.greeting(now_us)

    def farewell(self, now_us: int) -> Sequence[Publication]:
        """Return what is said before we go."""
        return self.host.farewell(now_us)

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {"repeated_frames": self.repeated_frames, "frame_devices": len(self._frames), "sparkplug": self.host.facts()}

    def _remembering(self, dialect: str, decoded: Decoded, message: Message) -> Item:
        """Finish a message that means something only together with what came before."""
        memory: list[MemoryRow] = []
        presence: list[PresenceRow] = []
        received_us = message.received_us
        if decoded.more is not None and dialect == sparkplug.NAME:
            decoded = self.host.observe(decoded, received_us, message.qos)
            memory, presence = self.changes(received_us)
        if decoded.counter is not None and decoded.device is not None and self.is_registered(dialect, decoded.device):
            key = f"{dialect} {decoded.device}"
            at_us = None if decoded.from_reception or not decoded.observed_us else max(decoded.observed_us)
            if self._frames.take(key, decoded.counter, at_us).taken:
                memory.append(MemoryRow(FRAMES, key, self._frames.dump(key)))
            else:
                self.repeated_frames += 1
                decoded = Decoded(decoded.device)
        if decoded.from_reception is not None:
            received_us = self._first_received_us(message, memory)
        return Item(dialect, decoded, received_us, message, tuple(memory), tuple(presence))

    def _first_received_us(self, message: Message, memory: list[MemoryRow]) -> int:
        """Return the instant for a message that has none of its own: that of its first delivery, and no two have the same."""
        digest = hashlib.sha256(message.topic.encode("utf-8", "replace") + b"\0" + message.payload).digest()
        known = self._undated.get(message.mid)
        if message.dup and message.mid and known is not None and known[0] == digest:
            return known[1]
        received_us = self._undated_us = max(message.received_us, self._undated_us + 1)
        if message.mid:
            self._undated[message.mid] = digest, received_us
            self._undated.move_to_end(message.mid)
            if len(self._undated) > UNDATED_MAX:
                self._undated.popitem(last=False)
            memory.append(MemoryRow(UNDATED, str(message.mid), struct.pack("<32sq", digest, received_us)))
        return received_us


def _presence(change: Presence) -> PresenceRow:
    return PresenceRow(sparkplug.NAME, change.address, change.online, change.since_us, change.reason)
