"""What one Sparkplug message says beyond its samples: handed from the pure decoder to the host that remembers."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ingest.sparkplug_schema import DataType

NAMESPACE = "spBv1.0"
REBIRTH = "Node Control/Rebirth"
BD_SEQ = "bdSeq"
SEQ_COUNT = 256
AT_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""
CONTROL_PREFIXES = ("Node Control/", "Device Control/")
"""Metrics below these are commands, not measurements; `BD_SEQ` is the third that is none."""

SIGNED_BITS = {DataType.INT8: 8, DataType.INT16: 16, DataType.INT32: 32, DataType.INT64: 64}
NUMERIC = frozenset(
    {
        DataType.UNKNOWN,
        *SIGNED_BITS,
        DataType.UINT8,
        DataType.UINT16,
        DataType.UINT32,
        DataType.UINT64,
        DataType.FLOAT,
        DataType.DOUBLE,
        DataType.BOOLEAN,
    }
)
"""Types whose values are measurements; a type that nobody told is taken by its value."""


class Kind(StrEnum):
    """What a message is; the third level of its topic."""

    NBIRTH = "NBIRTH"
    NDEATH = "NDEATH"
    NDATA = "NDATA"
    NCMD = "NCMD"
    DBIRTH = "DBIRTH"
    DDEATH = "DDEATH"
    DDATA = "DDATA"
    DCMD = "DCMD"


DEVICE_KINDS = frozenset({Kind.DBIRTH, Kind.DDEATH, Kind.DDATA, Kind.DCMD})
BIRTHS = frozenset({Kind.NBIRTH, Kind.DBIRTH})
COMMANDS = frozenset({Kind.NCMD, Kind.DCMD})
NUMBERED = frozenset({Kind.NBIRTH, Kind.DBIRTH, Kind.NDATA, Kind.DDATA, Kind.DDEATH})
"""Kinds that count the node's sequence number on."""


class BornMetric(msgspec.Struct, frozen=True, array_like=True):
    """A metric as its birth announces it; `alias` is -1 without one, `datatype` a number of `DataType` or one that we do not know."""

    name: str
    alias: int
    datatype: int
    unit: str | None

    @property
    def is_measurement(self) -> bool:
        """Return whether its values may become readings."""
        return self.datatype in NUMERIC and self.name != BD_SEQ and not self.name.startswith(CONTROL_PREFIXES)


class SparkplugMessage(msgspec.Struct, frozen=True):
    """One message of an edge node.

    Attributes
    ----------
    kind : Kind
    node, device : str
        ``group/edge``, and the id of the device or empty.
    timestamp_ms : int or None
        When it was sent, as its sender says.
    seq : int or None
        0..255; None when the message has none.
    bd_seq : int or None
        Of a birth or death of a node.
    metrics : tuple of BornMetric
        What a birth announces.
    aliases : tuple of int, length n, or None
        Alias of each sample in the `Decoded`, -1 where it is told by name; None when all are.
    width : bytes of length n, or None
        32 or 64 where the value is an integer whose type was not told: the bits as they came, to be read by the type in the birth; None: nowhere.
    ignored : int
        Metrics that are no measurement: texts, instants, data sets, templates, commands.
    nulls : int
        Metrics that say that they have no value.
    """

    kind: Kind
    node: str
    device: str = ""
    timestamp_ms: int | None = None
    seq: int | None = None
    bd_seq: int | None = None
    metrics: tuple[BornMetric, ...] = ()
    aliases: tuple[int, ...] | None = None
    width: bytes | None = None
    ignored: int = 0
    nulls: int = 0

    @property
    def address(self) -> str:
        """Return what the dialect calls the device, or the node itself."""
        return f"{self.node}/{self.device}" if self.device else self.node


class HostState(msgspec.Struct, frozen=True):
    """A host application says whether it is there."""

    host_id: str
    online: bool
    timestamp_ms: int


class Seen(StrEnum):
    """What a message did to what the host knows: why it was, or was not, heeded."""

    BORN = "born"
    BORN_AGAIN = "born_again"
    NO_ROOM = "no_room"
    UNBORN = "unborn"
    IN_ORDER = "in_order"
    GAP_OPENED = "gap_opened"
    AHEAD_OF_GAP = "ahead_of_gap"
    GAP_FILLED = "gap_filled"
    OUT_OF_ORDER = "out_of_order"
    LAPPED = "lapped"
    NO_SEQ = "no_seq"
    DIED = "died"
    DEATH_OF_OTHER_SESSION = "death_of_other_session"
    DEATH_WITHOUT_SESSION = "death_without_session"
    DEATH_OF_THE_DEAD = "death_of_the_dead"
    COMMAND = "command"
    STATE_OF_OTHER_HOST = "state_of_other_host"
    STATE_AS_OURS = "state_as_ours"
    STATE_TO_CORRECT = "state_to_correct"
    STATE_CONFLICT = "state_conflict"
    REPLAYED = "replayed"
    NOTHING = "nothing"


class Why(StrEnum):
    """Why a node is asked for its births."""

    NODE_UNBORN = "node_unborn"
    DEVICE_UNBORN = "device_unborn"
    ALIAS_UNKNOWN = "alias_unknown"
    GAP = "gap"


class PresenceReason(StrEnum):
    """Why a device counts as there or not there."""

    BIRTH = "birth"
    NODE_DEATH = "node_death"
    DEVICE_DEATH = "device_death"
    NOT_BORN_AGAIN = "not_born_again"


def signed(value: int, datatype: int, width: int) -> int | None:
    """Return an integer as its type means it, or None when it is beyond that type.

    Sparkplug carries signed numbers as two's complement in fields of 32 or 64 unsigned bits; some senders fill only the bits of the type.

    Parameters
    ----------
    value : int
        0 .. 2^width - 1, as it came.
    datatype : int
        `DataType`; what is not signed is returned as it is.
    width : int
        32 or 64.

    Examples
    --------
    >>> signed(2**32 - 41, DataType.INT16, 32), signed(65495, DataType.INT16, 32), signed(70_000, DataType.INT16, 32)
    (-41, -41, None)
    """
    bits = _BITS.get(datatype)
    if bits is None:
        return value
    half = 1 << (bits - 1)
    if value < half:
        return value
    if value < half << 1:
        return value - (half << 1)
    lowest = (1 << width) - half
    return value - (1 << width) if value >= lowest else None


_BITS: dict[int, int] = {int(kind): bits for kind, bits in SIGNED_BITS.items()}
