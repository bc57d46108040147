"""Words of the work side: alarms (ISA-18.2), incidents, work orders, crews, verification, SLA clocks.

The lifecycles themselves, as tables, stand in ``workorders``; these are only the words that store, web and work side share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Role(StrEnum):
    """What a person may do; checked in one place (``web.auth``)."""

    OPERATOR = "operator"
    SUPERVISOR = "supervisor"
    CREW = "crew"
    ENGINEER = "engineer"


class Priority(StrEnum):
    """From consequence and time to respond: 15 min, 1 h, this shift, plan, no annunciation."""

    URGENT = "urgent"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    JOURNAL = "journal"


class AlarmCondition(StrEnum):
    """First stored fact of an alarm. ``unknown`` behaves as the last known condition and can never clear."""

    NORMAL = "normal"
    ACTIVE = "active"
    UNKNOWN = "unknown"


class AlarmAck(StrEnum):
    """Second stored fact."""

    ACKED = "acked"
    UNACKED = "unacked"


class AlarmSuppression(StrEnum):
    """Third stored fact."""

    NONE = "none"
    SHELVED = "shelved"
    BY_DESIGN = "by_design"
    OUT_OF_SERVICE = "out_of_service"


class AlarmState(StrEnum):
    """The seven derived states of ISA-18.2 (2016)."""

    NORM = "NORM"
    UNACK = "UNACK"
    ACKED = "ACKED"
    RTNUN = "RTNUN"
    SHLVD = "SHLVD"
    DSUPR = "DSUPR"
    OOSRV = "OOSRV"


class IncidentState(StrEnum):
    """States of an incident."""

    OPEN = "OPEN"
    INVESTIGATING = "INVESTIGATING"
    ACTION = "ACTION"
    VERIFYING = "VERIFYING"
    RESOLVED = "RESOLVED"
    FALSE_ALARM = "FALSE_ALARM"
    MERGED = "MERGED"


class OrderState(StrEnum):
    """States of a work order; CLOSED and CANCELLED are terminal."""

    NEW = "NEW"
    APPROVED = "APPROVED"
    SCHEDULED = "SCHEDULED"
    DISPATCHED = "DISPATCHED"
    ACCEPTED = "ACCEPTED"
    EN_ROUTE = "EN_ROUTE"
    IN_PROGRESS = "IN_PROGRESS"
    WAITING = "WAITING"
    DONE = "DONE"
    VERIFYING = "VERIFYING"
    CLOSED = "CLOSED"
    CANCELLED = "CANCELLED"


class WaitingReason(StrEnum):
    """Why an order waits; the only reasons that may pause a clock."""

    MATERIAL = "MATERIAL"
    CONDITION = "CONDITION"
    ACCESS = "ACCESS"
    PERMIT = "PERMIT"
    WEATHER = "WEATHER"
    THIRD_PARTY = "THIRD_PARTY"
    DAYLIGHT = "DAYLIGHT"


class VerificationOutcome(StrEnum):
    """What verification concluded."""

    PENDING = "PENDING"
    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    WAIVED = "WAIVED"


class SlaState(StrEnum):
    """State of one SLA clock."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    MET = "MET"
    BREACHED = "BREACHED"


class FindCode(StrEnum):
    """What the crew found (mandatory with DONE)."""

    LEAK_FOUND = "leak_found"
    DEFECT_FOUND = "defect_found"
    NONE_FOUND = "none_found"
    SENSOR_FAULT = "sensor_fault"
    PLANNED_OPERATION = "planned_operation"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm row; at most one live row per (site, asset, type)."""

    alarm_id: int
    site_id: str
    asset_id: str
    zone_id: str | None
    alarm_type: str
    priority: Priority
    condition: AlarmCondition
    ack: AlarmAck
    suppression: AlarmSuppression
    occurred_at: datetime
    detected_at: datetime
    raised_at: datetime
    occurrence: int = 1
    flaps: int = 0
    finding_id: UUID | None = None
    incident_id: int | None = None
    normal_at: datetime | None = None
    closed_at: datetime | None = None
    evidence_stale_since: datetime | None = None
    shelved_until: datetime | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True, slots=True)
class Incident:
    """Alarms, reports and orders with one cause."""

    incident_id: int
    site_id: str
    zone_id: str | None
    kind: str
    title: str
    state: IncidentState
    onset_at: datetime | None
    aware_at: datetime
    located_at: datetime | None = None
    stopped_at: datetime | None = None
    restored_at: datetime | None = None
    resolved_at: datetime | None = None
    volume_lost_m3: float | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """One work order row; ``order_id`` 412 is shown as ``WO-412``.

    ``location`` holds ``{"candidates": [{"asset_id", "probability"}], "point": [lon, lat]}``; ``plan`` is the verification plan, frozen at dispatch;
    ``verification`` the live progress; ``report`` what the crew reported with DONE.
    """

    order_id: int
    site_id: str
    incident_id: int
    asset_id: str
    zone_id: str | None
    order_type: str
    title: str
    priority: Priority
    state: OrderState
    required_skill: str
    created_at: datetime
    aware_at: datetime
    due_at: datetime | None = None
    crew_id: str | None = None
    waiting_reason: WaitingReason | None = None
    rework: int = 0
    touched: bool = False
    outcome: VerificationOutcome | None = None
    location: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    closed_at: datetime | None = None
    version: int = 1

    @property
    def label(self) -> str:
        """Return the name that people use, for example ``WO-412``."""
        return f"WO-{self.order_id}"


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One transition of an alarm, incident or order: who, when, why, from where to where; rows can be rebuilt from these.

    ``facts`` holds every changed field of the row, so that the event log alone rebuilds it.
    """

    subject_id: int
    seq: int
    event: str
    from_state: str
    to_state: str
    actor: str
    reason: str
    at: datetime
    action_id: UUID | None = None
    device_at: datetime | None = None
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shift:
    """When a crew works: half-open interval."""

    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Crew:
    """A crew with its skills, shifts, depot, and where it was last."""

    crew_id: str
    site_id: str
    name: str
    skills: tuple[str, ...]
    longitude_deg: float
    latitude_deg: float
    shifts: tuple[Shift, ...] = ()
    phone: str = ""
    language: str = "en"
    speed_kmph: float = 30.0
    busy_order_id: int | None = None


@dataclass(frozen=True, slots=True)
class SlaClock:
    """One SLA clock of an order: ``ack``, ``on_site``, ...; times are event times."""

    order_id: int
    name: str
    state: SlaState
    started_at: datetime
    due_at: datetime
    met_at: datetime | None = None
    paused_s: float = 0.0
    warned_pct: int = 0
