"""Known operations: what people do to a network on purpose, which detectors must not take for a fault."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from underway.model.errors import OperatorError
from underway.model.instants import DAY_US, HOUR_US, from_us

OPERATION_SETTLE_US = HOUR_US
"""A network needs so long after an operation until its flows and pressures are its own again."""
OPERATION_US_MAX = 31 * DAY_US
TEXT_CHARS_MAX = 500


class OperationKind(StrEnum):
    """What is done."""

    PERMIT = "permit"
    FLUSHING = "flushing"
    FIRE_FIGHTING = "fire_fighting"
    VALVE = "valve"
    HYDRANT_TEST = "hydrant_test"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that people do to a zone, or to an asset of it, from ``begin_us`` to ``end_us``.

    Parameters
    ----------
    operation_id : int
    zone_id : str
        Where; of an operation on an asset, the zone of the asset.
    kind : OperationKind
    begin_us, end_us : int
        Microseconds since 1970; the end after the begin, at most 31 days.
    asset_id : str, optional
    flow_m3ph : float, optional
        What is drawn, where it is known, m3/h.
    who, reason : str
    withdrawn : bool
        It does not take place, or not any more.

    Raises
    ------
    OperatorError
        When the zone is missing, the end is not after the begin, it lasts too long, or the flow is not a number from 0 on.

    Examples
    --------
    >>> Operation(1, "z1", OperationKind.FLUSHING, 0, 3_600_000_000).quiet_until_us // 3_600_000_000
    2
    """

    operation_id: int
    zone_id: str
    kind: OperationKind
    begin_us: int
    end_us: int
    asset_id: str | None = None
    flow_m3ph: float | None = None
    who: str = ""
    reason: str = ""
    withdrawn: bool = False

    def __post_init__(self) -> None:
        if not self.zone_id:
            raise OperatorError("an operation must name its zone, or an asset that has one, got neither")
        if self.end_us <= self.begin_us:
            raise OperatorError(f"an operation must end after its begin {from_us(self.begin_us)}, got {from_us(self.end_us)}")
        if self.end_us - self.begin_us > OPERATION_US_MAX:
            days = (self.end_us - self.begin_us) / DAY_US
            raise OperatorError(
                f"an operation must last at most {OPERATION_US_MAX // DAY_US} days, got {days:.1f}; write the next one then"
            )
        if self.flow_m3ph is not None and not 0 <= self.flow_m3ph < float("inf"):
            raise OperatorError(f"the flow of an operation must be a number from 0 on in m3/h, got {self.flow_m3ph!r}")

    @property
    def quiet_until_us(self) -> int:
        """Return until when detectors take no notice of readings: an hour after its end."""
        return self.end_us + OPERATION_SETTLE_US
