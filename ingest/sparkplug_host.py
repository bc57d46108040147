"""The memory of the Sparkplug dialect: a host application as a state machine without input or output (docs/dialects/sparkplug.md).

It reads aliases by births, counts sequence numbers, knows who is there, and says what to publish: requests for a birth, and its own STATE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ingest.decoded import Decoded
from ingest.mqtt_types import Greeting, Publication
from ingest.sparkplug_births import Birth, read, read_birth
from ingest.sparkplug_message import BornMetric, HostState, Kind, PresenceReason, Seen, SparkplugMessage, Why
from ingest.sparkplug_order import Order
from ingest.sparkplug_rebirth import PER_S_MAX, Asking, Rebirths
from ingest.sparkplug_state import OwnState
from underway.model import DAY_US, SECOND_US, Fault, FaultReason

NODES_MAX = 10_000
DEVICES_MAX = 1000
"""Most devices of one node."""
METRICS_MAX = 300_000
"""Most metrics of all births together."""
STRANGERS_MAX = 1000
"""Most nodes that spoke without a birth and are asked for one."""
REORDER_S = 5.0
BIRTH_GRACE_S = 60
"""How long a device may take to be born again after its node."""
LOOK_US = 100_000
"""Shortest time between two looks at the nodes that wait for something, µs."""
SAVE_S = 5
"""How often the sequence numbers of the nodes that spoke are saved; births and deaths are saved at once."""


class Presence(NamedTuple):
    """Whether a device, or a node by itself, is there: after a death every value of it is stale."""

    address: str
    online: bool
    since_us: int
    reason: PresenceReason


class MemoryChange(NamedTuple):
    """A row of ``dialect_memory`` to be written; `state` None: to be deleted."""

    key: str
    state: bytes | None


class _Node:
    """One edge node; its own birth stands under the device ``""``."""

    __slots__ = ("asking", "awaited", "bd_seq", "births", "key", "newest_ms", "order", "unconfirmed")

    def __init__(self, key: str) -> None:
        self.key = key
        self.bd_seq: int | None = None
        self.order = Order()
        self.newest_ms = 0  # when the newest message of this session was sent, as the node says
        self.births: dict[str, Birth] = {}
        self.awaited: dict[str, int] = {}  # device -> until when its birth may follow that of the node
        self.asking = Asking()
        self.unconfirmed = 0  # messages that were read while others, maybe a birth, were missing

    @property
    def birth(self) -> Birth:
        """Return the birth of the node itself."""
        return self.births[""]


class _SavedNode(msgspec.Struct, array_like=True):
    bd_seq: int | None = None
    head: int | None = None
    newest_ms: int = 0


class _SavedBirth(msgspec.Struct, array_like=True):
    valid: bool
    online: bool
    since_us: int
    reason: PresenceReason
    metrics: tuple[BornMetric, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode_node = msgspec.msgpack.Decoder(_SavedNode).decode
_decode_birth = msgspec.msgpack.Decoder(_SavedBirth).decode


class SparkplugHost:
    """A Sparkplug host application.

    Parameters
    ----------
    host_id : str
        Its id in ``spBv1.0/STATE/{host_id}``: 1..64 printable characters without ``+ / #``, its own in the whole installation.
    reorder_s : float
        How long a missing message is waited for before a birth is asked for, s.
    nodes_max, metrics_max : int
        How much is remembered: nodes, and metrics of all births together.
    rebirths_per_s_max : int
        Requests for a birth that all nodes together get in a second.

    Notes
    -----
    All instants are microseconds since 1970 and are told. `observe` is called once for each message, in the order of receiving; what it
    changed is fetched by `presence_changes` and `memory_changes` and written in the transaction that stores the readings. After a crash
    `restore` gives the last committed state to a new object.

    Two lanes: a message that comes out of order gives its readings at once (they carry their own time, and detectors see event time), but the
    counter of sequence numbers waits `reorder_s` for what is missing.

    Blind to a birth that was lost together with as many messages as bring the counter round: 256 in a row, inside `reorder_s`, are no gap.
    """

    def __init__(
        self,
        host_id: str,
        *,
        reorder_s: float = REORDER_S,
        nodes_max: int = NODES_MAX,
        metrics_max: int = METRICS_MAX,
        rebirths_per_s_max: int = PER_S_MAX,
    ) -> None:
        self.state = OwnState(host_id)
        self._reorder_us = round(reorder_s * SECOND_US)
        self._nodes_max = nodes_max
        self._metrics_max = metrics_max
        self._nodes: dict[str, _Node] = {}
        self._strangers: dict[str, _Node] = {}  # spoke without a birth of the node
        self._watched: dict[str, _Node] = {}  # something is missing, wanted or awaited
        self._metrics = 0
        self._rebirths = Rebirths(rebirths_per_s_max)
        self._presence: dict[str, Presence] = {}
        self._dirty: dict[str, tuple[_Node, str]] = {}
        self._sessions: dict[str, _Node] = {}  # to be saved at once
        self._moved: dict[str, _Node] = {}  # whose sequence numbers went on
        self._saved_us = 0
        self._looked_us: int | None = None
        self._gone: dict[str, None] = {}
        self._counts = dict.fromkeys(_COUNTS, 0)
        self.last_seen = Seen.NOTHING
        """What the last message did."""

    # --- what comes in

    def observe(self, decoded: Decoded, received_us: int, qos: int = 0) -> Decoded:
        """Return `decoded` with the names, units and types of the births in place; remember what the message says.

        Parameters
        ----------
        decoded : Decoded
            As `ingest.dialects.sparkplug.decode` gave it.
        received_us : int
            When the message was received.
        qos : int
            Quality of service at which it came. Edge nodes send births and data at 0, what comes from quarantine is published at 1: such a
            message, when the node has sent newer ones, is read as `replay` does.

        Returns
        -------
        Decoded
            With `FaultReason.BIRTH_MISSING`, and without the samples, where no birth explains them.
        """
        more = decoded.more
        if type(more) is not SparkplugMessage:
            self.last_seen = self.state.heard(more, received_us) if type(more) is HostState else Seen.NOTHING
            return decoded
        self._counts["ignored_values"] += more.ignored
        self._counts["null_values"] += more.nulls
        node = self._nodes.get(more.node)
        kind = more.kind
        if qos and node is not None and more.timestamp_ms is not None and more.timestamp_ms < node.newest_ms and kind is not Kind.NDEATH:
            return self.replay(decoded)
        if kind is Kind.NDATA or kind is Kind.DDATA:
            return self._data(decoded, more, node, received_us)
        if kind is Kind.NBIRTH:
            return self._node_birth(decoded, more, node, received_us)
        if kind is Kind.DBIRTH:
            return self._device_birth(decoded, more, node, received_us)
        if kind is Kind.NDEATH:
            self.last_seen = self._node_death(more, node, received_us)
        elif kind is Kind.DDEATH:
            self.last_seen = self._device_death(more, node, received_us)
        else:
            self.last_seen = Seen.COMMAND
        return decoded

    def replay(self, decoded: Decoded) -> Decoded:
        """Return a message from quarantine with the names that its aliases have now; nothing is remembered, nobody is asked.

        Notes
        -----
        Right while the birth that counts now gives the aliases that counted when the message was sent.
        """
        more = decoded.more
        self.last_seen = Seen.REPLAYED
        if type(more) is not SparkplugMessage:
            return decoded
        if more.kind is not Kind.NDATA and more.kind is not Kind.DDATA:
            return read_birth(decoded, more)
        node = self._nodes.get(more.node)
        return read(decoded, more, None if node is None else node.births.get(more.device))[0]

    def _data(self, decoded: Decoded, more: SparkplugMessage, node: _Node | None, received_us: int) -> Decoded:
        if node is None:
            node = self._unborn(more.node)
            result, why = read(decoded, more, None)
        else:
            self._count(node, more, received_us)
            result, why = read(decoded, more, node.births.get(more.device))
        if why is None:
            if node.unconfirmed or node.order.missing:
                node.unconfirmed += 1
            if len(result) != len(decoded) and len(result.faults) == len(decoded.faults):
                self._counts["ignored_values"] += len(decoded) - len(result)
            return result
        if len(result.faults) > len(decoded.faults):
            self._counts["unresolved"] += 1
        self._want(node, why if node.births and node.birth.valid else Why.NODE_UNBORN)
        return result

    def _node_birth(self, decoded: Decoded, more: SparkplugMessage, node: _Node | None, received_us: int) -> Decoded:
        new = node is None
        if node is None:
            node = self._room_for(more.node)
            if node is None:
                return self._not_remembered(decoded, more, f"{self._nodes_max} edge nodes")
        again = not new and node.birth.online and node.bd_seq == more.bd_seq
        doubt = node.unconfirmed
        result = self._born(decoded, more, node, received_us, doubt)
        if result is None:
            if new:
                self._forget(node)
            return self._not_remembered(decoded, more, f"{self._metrics_max} metrics of all nodes")
        node.bd_seq = more.bd_seq
        node.order.restart(more.seq)
        node.newest_ms = more.timestamp_ms or 0
        node.asking.settle()
        node.unconfirmed = 0
        for device, birth in node.births.items():
            if device:
                birth.end()
                birth.doubt = max(birth.doubt, doubt)
                if birth.online:
                    node.awaited[device] = received_us + BIRTH_GRACE_S * SECOND_US
                self._note(node, device)
        if node.awaited:
            self._watched[node.key] = node
        self._sessions[node.key] = node
        self.last_seen = Seen.BORN_AGAIN if again else Seen.BORN
        return result

    def _device_birth(self, decoded: Decoded, more: SparkplugMessage, node: _Node | None, received_us: int) -> Decoded:
        if node is None:
            self._want(self._unborn(more.node), Why.NODE_UNBORN)
            return read_birth(decoded, more)
        self._count(node, more, received_us)
        before = node.births.get(more.device)
        result = self._born(decoded, more, node, received_us, node.unconfirmed if before is None else max(before.doubt, node.unconfirmed))
        if result is None:
            return self._not_remembered(decoded, more, f"{DEVICES_MAX} devices of a node and {self._metrics_max} metrics of all nodes")
        node.awaited.pop(more.device, None)
        if node.birth.valid:
            node.asking.settle(Why.DEVICE_UNBORN, Why.ALIAS_UNKNOWN)
        else:
            self._want(node, Why.NODE_UNBORN)
        return result

    def _born(self, decoded: Decoded, more: SparkplugMessage, node: _Node, received_us: int, doubt: int) -> Decoded | None:
        """Remember a birth and return its samples, or None when there is no room for it."""
        birth = node.births.get(more.device)
        had = 0 if birth is None else len(birth.metrics)
        if (birth is None and len(node.births) > DEVICES_MAX) or self._metrics - had + len(more.metrics) > self._metrics_max:
            return None
        faults: tuple[Fault, ...] = ()
        if birth is None:
            birth = node.births[more.device] = Birth()
        elif doubt and birth.renames(more.metrics):
            message = (
                f"an alias must keep its name between two births that were seen, '{more.address}' gave one another name while messages were"
                f" missing; values of up to {doubt} messages before this birth may stand under a wrong name"
            )
            faults = (Fault(FaultReason.BIRTH_MISSING, message, more.address),)
            self._counts["renamed_unseen"] += 1
        self._metrics += len(more.metrics) - had
        birth.announce(more.metrics)
        self._present(node, more.device, True, received_us, PresenceReason.BIRTH)
        self._note(node, more.device)
        self._counts["births"] += 1
        return read_birth(decoded, more, *faults)

    def _not_remembered(self, decoded: Decoded, more: SparkplugMessage, limit: str) -> Decoded:
        self.last_seen = Seen.NO_ROOM
        self._counts["not_remembered"] += 1
        message = f"a birth must be remembered to read the data after it, that of '{more.address}' was not: at most {limit} are"
        return read_birth(decoded, more, Fault(FaultReason.BIRTH_MISSING, message, more.address))

    def _node_death(self, more: SparkplugMessage, node: _Node | None, received_us: int) -> Seen:
        if node is None or not node.birth.online or more.bd_seq != node.bd_seq:
            self._counts["deaths_ignored"] += 1
            if node is None or not node.birth.online:
                return Seen.DEATH_OF_THE_DEAD
            return Seen.DEATH_WITHOUT_SESSION if more.bd_seq is None else Seen.DEATH_OF_OTHER_SESSION
        for device, birth in node.births.items():
            birth.end()
            self._present(node, device, False, received_us, PresenceReason.NODE_DEATH)
            self._note(node, device)
        node.order.restart(None)
        node.asking.settle()
        node.awaited.clear()
        node.unconfirmed = 0
        self._sessions[node.key] = node
        self._counts["deaths"] += 1
        return Seen.DIED

    def _device_death(self, more: SparkplugMessage, node: _Node | None, received_us: int) -> Seen:
        if node is None:
            self._want(self._unborn(more.node), Why.NODE_UNBORN)
            return Seen.UNBORN
        seen = self._count(node, more, received_us)
        if not node.birth.valid:
            self._want(node, Why.NODE_UNBORN)
        birth = node.births.get(more.device)
        if birth is None or not birth.online:
            self._counts["deaths_ignored"] += 1
            return seen
        # the specification dates this death by its sender; a clock that cannot be right does not date anything
        told_us = received_us if more.timestamp_ms is None else more.timestamp_ms * 1000
        since_us = told_us if received_us - DAY_US <= told_us <= received_us else received_us
        birth.end()
        node.awaited.pop(more.device, None)
        self._present(node, more.device, False, since_us, PresenceReason.DEVICE_DEATH)
        self._note(node, more.device)
        self._counts["deaths"] += 1
        return seen

    def _count(self, node: _Node, more: SparkplugMessage, received_us: int) -> Seen:
        """Count a message of a node by its sequence number."""
        seq, sent_ms = more.seq, more.timestamp_ms
        if sent_ms is not None and sent_ms > node.newest_ms:
            node.newest_ms = sent_ms
        if seq is None:
            self.last_seen = Seen.NO_SEQ
            self._counts["without_seq"] += 1
            return Seen.NO_SEQ
        seen = self.last_seen = node.order.count(seq, received_us)
        self._moved[node.key] = node
        if seen is Seen.IN_ORDER:
            node.unconfirmed = 0
            return seen
        if seen is Seen.GAP_FILLED:
            node.unconfirmed = 0
            node.asking.settle(Why.GAP)
        elif seen is Seen.LAPPED:
            self._want(node, Why.GAP)
        elif seen is Seen.GAP_OPENED:
            self._counts["gaps"] += 1
            self._watched[node.key] = node
        self._counts["missed"] += node.order.skipped
        self._counts["out_of_order"] += seen is Seen.OUT_OF_ORDER or seen is Seen.GAP_FILLED
        return seen

    # --- what goes out

    def greeting(self, now_us: int) -> Greeting:
        """Return the will and the hello of a connection that is about to be made: both carry the same instant."""
        return self.state.greeting(now_us)

    def farewell(self, now_us: int) -> tuple[Publication, ...]:
        """Return what to publish before a connection is closed on purpose."""
        return self.state.farewell(now_us)

    def due(self, now_us: int) -> list[Publication]:
        """Return what to publish now: our own STATE where somebody set it offline, and requests for a birth.

        Call it a few times a second; it may be called oftener, and then mostly does nothing.
        """
        publications = self.state.due(now_us)
        if self._looked_us is not None and 0 <= now_us - self._looked_us < LOOK_US:
            return publications
        self._looked_us = now_us
        for node in list(self._watched.values()):
            self._look_at(node, now_us)
            if self._rebirths.may_ask(node.asking, now_us):
                publications.append(self._rebirths.ask(node.key, node.asking, now_us))
                self._watched[node.key] = self._watched.pop(node.key)  # to the end: others come first next time
        return publications

    def _look_at(self, node: _Node, now_us: int) -> None:
        """Do what time brings for a node, and stop watching it when time brings nothing."""
        missed_us = node.order.missed_since_us()
        if missed_us is not None and now_us >= missed_us + self._reorder_us:
            node.asking.want(Why.GAP)
        for device in [device for device, until_us in node.awaited.items() if now_us >= until_us]:
            del node.awaited[device]
            self._present(node, device, False, now_us, PresenceReason.NOT_BORN_AGAIN)
            self._note(node, device)
        if missed_us is None and node.asking.why is None and not node.awaited:
            del self._watched[node.key]

    def _want(self, node: _Node, why: Why) -> None:
        node.asking.want(why)
        self._watched[node.key] = node

    # --- who is known

    def _unborn(self, key: str) -> _Node:
        """Return a node that spoke without a birth; the one that did so first is forgotten when there are too many."""
        self.last_seen = Seen.UNBORN
        node = self._strangers.get(key)
        if node is None:
            if len(self._strangers) >= STRANGERS_MAX:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                self._watched.pop(oldest, None)
                self._counts["strangers_forgotten"] += 1
            node = self._strangers[key] = _Node(key)
        return node

    def _room_for(self, key: str) -> _Node | None:
        """Return a node that is remembered from now on, or None when there is no room: the one that is dead for longest makes room."""
        if len(self._nodes) >= self._nodes_max:
            dead = [node for node in self._nodes.values() if not node.birth.online]
            if not dead:
                return None
            self._forget(min(dead, key=lambda node: node.birth.since_us))
            self._counts["nodes_forgotten"] += 1
        stranger = self._strangers.pop(key, None)
        node = self._nodes[key] = _Node(key) if stranger is None else stranger
        return node

    def _forget(self, node: _Node) -> None:
        del self._nodes[node.key]
        self._watched.pop(node.key, None)
        self._moved.pop(node.key, None)
        self._sessions.pop(node.key, None)
        self._gone[node.key] = None
        for device, birth in node.births.items():
            key = f"{node.key}/{device}"
            self._metrics -= len(birth.metrics)
            self._dirty.pop(key, None)
            self._gone[key] = None

    def _present(self, node: _Node, device: str, online: bool, since_us: int, reason: PresenceReason) -> None:
        birth = node.births[device]
        if birth.online != online:
            birth.online, birth.since_us, birth.reason = online, since_us, reason
            address = f"{node.key}/{device}" if device else node.key
            self._presence[address] = Presence(address, online, since_us, reason)

    def presence_of(self, address: str) -> Presence | None:
        """Return whether ``group/edge`` or ``group/edge/device`` is there, or None when it was never born."""
        group, _, rest = address.partition("/")
        edge, _, device = rest.partition("/")
        node = self._nodes.get(f"{group}/{edge}")
        birth = None if node is None else node.births.get(device)
        return None if birth is None else Presence(address, birth.online, birth.since_us, birth.reason)

    # --- what is kept

    def _note(self, node: _Node, device: str) -> None:
        self._dirty[f"{node.key}/{device}"] = (node, device)

    def presence_changes(self) -> tuple[Presence, ...]:
        """Return what changed since the last call: the last state of each address. Keep it until it is committed."""
        changes = tuple(self._presence.values())
        self._presence.clear()
        return changes

    def memory_changes(self, now_us: int, *, everything: bool = False) -> tuple[MemoryChange, ...]:
        """Return the rows of ``dialect_memory`` to write, each key once; keep them until they are committed.

        Parameters
        ----------
        now_us : int
        everything : bool
            Also the sequence numbers, which otherwise come every `SAVE_S`: before a stop.

        Notes
        -----
        A node has one small row with its session (key ``group/edge``) and one row a birth (``group/edge/`` for its own, ``group/edge/device``).
        """
        if everything or not 0 <= now_us - self._saved_us < SAVE_S * SECOND_US:
            self._sessions |= self._moved
            self._moved.clear()
            self._saved_us = now_us
        if not (self._gone or self._dirty or self._sessions):
            return ()
        changes: dict[str, bytes | None] = dict.fromkeys(self._gone)
        for key, (node, device) in self._dirty.items():
            birth = node.births[device]
            changes[key] = _encode(_SavedBirth(birth.valid, birth.online, birth.since_us, birth.reason, birth.metrics))
        for key, node in self._sessions.items():
            changes[key] = _encode(_SavedNode(node.bd_seq, node.order.head, node.newest_ms))
            self._moved.pop(key, None)
        self._gone.clear()
        self._dirty.clear()
        self._sessions.clear()
        return tuple([MemoryChange(key, state) for key, state in changes.items()])

    def restore(self, rows: Iterable[tuple[str, bytes]], now_us: int) -> None:
        """Take up what was saved, into a new object; a row that cannot be read is counted and left out.

        Notes
        -----
        What a node says next is read by its saved aliases at once. What it said while nobody listened is missing, so its counter will not fit,
        and after `reorder_s` it is asked for a birth; if that shows other aliases, the birth carries a fault that says so.
        """
        sessions: dict[str, _SavedNode] = {}
        births: dict[str, dict[str, _SavedBirth]] = {}
        for key, state in rows:
            try:
                group, edge, *rest = key.split("/", 2)
                if rest:
                    births.setdefault(f"{group}/{edge}", {})[rest[0]] = _decode_birth(state)
                else:
                    sessions[key] = _decode_node(state)
            except (msgspec.MsgspecError, ValueError):
                self._counts["unreadable_memory"] += 1
        for key, saved in births.items():
            size = sum(len(birth.metrics) for birth in saved.values())
            if "" not in saved or len(self._nodes) >= self._nodes_max or self._metrics + size > self._metrics_max:
                self._counts["unreadable_memory"] += len(saved)
                continue
            node = self._nodes[key] = _Node(key)
            session = sessions.get(key, _SavedNode())
            node.bd_seq, node.newest_ms = session.bd_seq, session.newest_ms
            node.order.restart(session.head)
            node.unconfirmed = 1
            self._metrics += size
            for device, row in saved.items():
                birth = node.births[device] = Birth()
                birth.announce(row.metrics)
                birth.valid, birth.online, birth.since_us, birth.reason = row.valid, row.online, row.since_us, row.reason
                if device and row.online and not row.valid:
                    node.awaited[device] = now_us + BIRTH_GRACE_S * SECOND_US
                    self._watched[key] = node

    # --- what people see

    def facts(self) -> dict[str, int | dict[str, int]]:
        """Return what people want to see: plain values; counts since the start."""
        births = [birth for node in self._nodes.values() for device, birth in node.births.items() if device]
        return {
            "nodes": len(self._nodes),
            "nodes_online": sum(node.birth.online for node in self._nodes.values()),
            "nodes_max": self._nodes_max,
            "devices": len(births),
            "devices_online": sum(birth.online for birth in births),
            "metrics": self._metrics,
            "metrics_max": self._metrics_max,
            "strangers": len(self._strangers),
            "watched": len(self._watched),
            "rebirths_wanted": sum(node.asking.why is not None for node in self._watched.values()),
            "rebirths_asked": sum(self._rebirths.count.values()),
            "rebirths_asked_why": {why.value: count for why, count in self._rebirths.count.items()},
            "state_corrections": self.state.corrections,
            "state_conflicts": self.state.conflicts,
            **self._counts,
        }


_COUNTS = (
    "births",
    "deaths",
    "deaths_ignored",
    "gaps",
    "missed",
    "out_of_order",
    "without_seq",
    "unresolved",
    "renamed_unseen",
    "ignored_values",
    "null_values",
    "not_remembered",
    "nodes_forgotten",
    "strangers_forgotten",
    "unreadable_memory",
)
