"""The event log is the truth: a row is what its log says."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from underway.model import Alarm, Incident, InternalError, WorkOrder
from underway.store import work
from underway.store.work import Kind


def rebuild_until(conn: Connection[Any], kind: Kind, subject_id: int, seq_max: int | None = None) -> Alarm | Incident | WorkOrder:
    """Return a row as its event log says that it was after step `seq_max` (None: now).

    Raises
    ------
    InternalError
        When the log has no first step, or a gap.
    """
    facts: dict[str, Any] = {}
    for position, event in enumerate(work.events_of(conn, kind, subject_id), start=1):
        if event.seq != position:
            raise InternalError(f"the event log of {kind} {subject_id} must have step {position}, got {event.seq}")
        if seq_max is not None and event.seq > seq_max:
            break
        facts.update({name: value for name, value in event.facts.items() if not name.startswith("@")})
        facts["version"] = event.seq
    if not facts:
        raise InternalError(f"the event log of {kind} {subject_id} must have a first step, got none")
    return work.from_facts(kind, facts)


def rebuild(conn: Connection[Any], subject: tuple[Kind, int]) -> Alarm | Incident | WorkOrder:
    """Return a row rebuilt from its event log alone.

    Parameters
    ----------
    subject : (kind, id)
        ``("order", 1001)``, ``("alarm", 3)`` or ``("incident", 2)``.
    """
    return rebuild_until(conn, *subject)


def differences(conn: Connection[Any]) -> list[str]:
    """Return every row that is not what its event log says; empty when all are."""
    found = []
    for subject_id in work.subjects(conn, "alarm"):
        found += _different("alarm", subject_id, work.load_alarm(conn, subject_id), rebuild(conn, ("alarm", subject_id)))
    for subject_id in work.subjects(conn, "incident"):
        found += _different("incident", subject_id, work.load_incident(conn, subject_id), rebuild(conn, ("incident", subject_id)))
    for subject_id in work.subjects(conn, "order"):
        found += _different("order", subject_id, work.load_order(conn, subject_id), rebuild(conn, ("order", subject_id)))
    return found


def _different(kind: str, subject_id: int, row: object, said: object) -> list[str]:
    return [] if row == said else [f"{kind} {subject_id}: the row says {row!r}, its log {said!r}"]
