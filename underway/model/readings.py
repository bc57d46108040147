"""Samples, faults, readings, and the columnar batch in which readings travel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag, StrEnum

import numpy as np
from numpy.typing import NDArray


class Quality(IntEnum):
    """Grade of a reading; the value itself is never changed."""

    GOOD = 0
    SUSPECT = 1
    BAD = 2


class QualityReason(IntEnum):
    """Why a reading is not good."""

    NONE = 0
    OUT_OF_RANGE = 1
    DEVICE_SAYS_BAD = 2
    DEVICE_SAYS_STALE = 3
    CLOCK_OFFSET = 4
    LATE = 5
    BATTERY_LOW = 6


class ReadingFlag(IntFlag):
    """Facts about how a reading came; ``LATE`` and ``HISTORICAL`` readings page nobody."""

    NONE = 0
    LATE = 1
    HISTORICAL = 2
    REPLAYED = 4


class FaultReason(StrEnum):
    """Why a message, or a part of one, went to quarantine."""

    TOPIC_UNKNOWN = "topic_unknown"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    PAYLOAD_NOT_UTF8 = "payload_not_utf8"
    PAYLOAD_NOT_JSON = "payload_not_json"
    PAYLOAD_NOT_CBOR = "payload_not_cbor"
    PAYLOAD_NOT_PROTOBUF = "payload_not_protobuf"
    SCHEMA = "schema"
    VALUE_NOT_FINITE = "value_not_finite"
    VALUE_TYPE = "value_type"
    UNIT_UNKNOWN = "unit_unknown"
    TIME_INVALID = "time_invalid"
    TIME_FUTURE = "time_future"
    TIME_TOO_OLD = "time_too_old"
    DEVICE_UNKNOWN = "device_unknown"
    DEVICE_NOT_ACTIVE = "device_not_active"
    CHANNEL_UNKNOWN = "channel_unknown"
    TOO_MANY_READINGS = "too_many_readings"
    BIRTH_MISSING = "birth_missing"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a message or a part of it; ``message`` is one readable sentence."""

    reason: FaultReason
    message: str
    device_id: str | None = None
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class ReadingBatch:
    """Readings as columns, one row a reading; all columns have the same length n.

    Attributes
    ----------
    channel_id : ndarray of int32, shape (n,)
    observed_us, received_us : ndarray of int64, shape (n,)
        Microseconds since 1970-01-01T00:00Z.
    value : ndarray of float64, shape (n,)
        In the canonical unit of the channel's quantity.
    quality, reason, flags : ndarray of uint8, shape (n,)
        `Quality`, `QualityReason`, `ReadingFlag`.
    clock_offset_ms : ndarray of int32, shape (n,)
        How far the device's clock was ahead, as estimated; 0 when left out. See `in_event_time`.
    """

    channel_id: NDArray[np.int32]
    observed_us: NDArray[np.int64]
    received_us: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    clock_offset_ms: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def __post_init__(self) -> None:
        if len(self.clock_offset_ms) == 0 and len(self.channel_id):
            object.__setattr__(self, "clock_offset_ms", np.zeros(len(self.channel_id), np.int32))
        lengths = {name: len(getattr(self, name)) for name in COLUMN_DTYPE}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a batch must have one length, got {lengths!r}")

    def __len__(self) -> int:
        return len(self.channel_id)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> ReadingBatch:
        """Return the rows that `index` (positions, mask or slice) names."""
        return ReadingBatch(**{name: getattr(self, name)[index] for name in COLUMN_DTYPE})

    def in_event_order(self) -> ReadingBatch:
        """Return the rows sorted by (observed_us, channel_id), stable."""
        return self.take(np.lexsort((self.channel_id, self.observed_us)))

    def in_event_time(self) -> ReadingBatch:
        """Return the rows with the clock offset taken off ``observed_us``: when it happened, as well as we know.

        The store keeps what the device said, which is the key; detectors get this.

        Examples
        --------
        >>> batch = replace(ReadingBatch.from_columns([7], [3_600_000_000], [1.5]), clock_offset_ms=np.array([3_600_000], np.int32))
        >>> batch.in_event_time().observed_us.tolist(), batch.observed_us.tolist()
        ([0], [3600000000])
        """
        if not self.clock_offset_ms.any():
            return self
        shifted = self.observed_us - self.clock_offset_ms.astype(np.int64) * 1000
        return replace(self, observed_us=shifted, clock_offset_ms=np.zeros(len(self), np.int32))

    @classmethod
    def empty(cls) -> ReadingBatch:
        """Return a batch without rows."""
        return cls(**{name: np.empty(0, dtype) for name, dtype in COLUMN_DTYPE.items()})

    @classmethod
    def from_columns(
        cls,
        channel_id: Iterable[int],
        observed_us: Iterable[int],
        value: Iterable[float],
        received_us: Iterable[int] | None = None,
        quality: Iterable[int] | None = None,
        reason: Iterable[int] | None = None,
        flags: Iterable[int] | None = None,
    ) -> ReadingBatch:
        """Return a batch of plain columns; what is left out is good, unflagged and received when observed.

        Examples
        --------
        >>> batch = ReadingBatch.from_columns([7, 7], [0, 60_000_000], [1.5, 1.6])
        >>> len(batch), batch.value.tolist(), batch.quality.tolist()
        (2, [1.5, 1.6], [0, 0])
        """
        channel = np.fromiter(channel_id, np.int32)
        observed = np.fromiter(observed_us, np.int64)
        n = len(channel)

        def column(values: Iterable[int] | None) -> NDArray[np.uint8]:
            return np.zeros(n, np.uint8) if values is None else np.fromiter(values, np.uint8)

        return cls(
            channel,
            observed,
            observed.copy() if received_us is None else np.fromiter(received_us, np.int64),
            np.fromiter(value, np.float64),
            column(quality),
            column(reason),
            column(flags),
        )

    @classmethod
    def concat(cls, batches: Iterable[ReadingBatch]) -> ReadingBatch:
        """Return one batch with the rows of all `batches`, in their order."""
        parts = list(batches)
        if not parts:
            return cls.empty()
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in COLUMN_DTYPE})


COLUMN_DTYPE: dict[str, type[np.generic]] = {
    "channel_id": np.int32,
    "observed_us": np.int64,
    "received_us": np.int64,
    "value": np.float64,
    "quality": np.uint8,
    "reason": np.uint8,
    "flags": np.uint8,
    "clock_offset_ms": np.int32,
}
