"""How ingest is, for people: what it says of itself and what the tables say, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from underway.store.ingest_health import IngestHealth

STATUS_AGE_S_MAX = 10.0
FULL_RATIO_MAX = 0.8
LATE_AGE_MAX = timedelta(hours=1)
LOOK_BACK = timedelta(hours=1)
"""Of quarantine and its overflow, what came in this time is news."""
RUNBOOK = "docs/runbook/ingest-is-behind-or-stopped-what-do-i-do.md"
MIB = 2**20


def ingest_section(found: IngestHealth, now_at: datetime) -> tuple[dict[str, str], list[str]]:
    """Return what to show of ingest, and its problems as sentences that say what to do.

    Parameters
    ----------
    found : IngestHealth
    now_at : datetime
        By the clock that stamps receptions, aware.
    """
    problems: list[str] = []
    section: dict[str, str] = {}
    if found.pid is not None:
        section |= _process(found, problems)
    else:
        section["state"] = "has never reported"
    section["quarantine"] = f"in the last hour: {_counts(found.quarantine) or 'nothing'}"
    if found.overflow:
        told = ", ".join(f"{source}: {count} x {reason}" for source, reason, count in found.overflow)
        section["not kept"] = told
        problems.append(
            f"in the last hour senders used up their share of quarantine, so that some of what they sent is only counted (in all: {told});"
            " mend or disable these devices, see 'underway quarantine list'"
        )
    section["late data"] = f"{found.late_windows} windows wait to be judged again"
    if found.late_given_up:
        section["late data"] += f", {found.late_given_up} given up"
        problems.append(
            f"late data must be judged again, {found.late_given_up} windows of it are given up (the last for: {found.late_error});"
            " the log of ingest names them; set attempts to 0, next_at and given_up_at to NULL in late_window to have them tried again,"
            " or delete them"
        )
    if found.late_oldest_at is not None and now_at - found.late_oldest_at > LATE_AGE_MAX:
        age_h = (now_at - found.late_oldest_at).total_seconds() / 3600
        problems.append(
            f"late data must be judged again within an hour, the oldest of {found.late_windows} windows waits for {age_h:.1f} h;"
            " is ingest running, and does its log name an error of it?"
        )
    section["clocks"] = f"{found.clocks} devices with a wrong clock" + (f", at most {found.clock_offset_s:.0f} s" if found.clocks else "")
    if found.worst_clocks:
        section["clocks"] += ": " + _named([f"{device} {offset_s:+.0f} s" for device, offset_s in found.worst_clocks], found.clocks)
    section["gone devices"] = f"{found.gone} devices are offline by their death"
    if found.gone_newest:
        named = [
            f"{device.device_id} since {device.since_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({device.reason})"
            for device in found.gone_newest
        ]
        section["gone devices"] += ": " + _named(named, found.gone)
    section["pending devices"] = str(found.pending)
    return section, problems


def _process(found: IngestHealth, problems: list[str]) -> dict[str, str]:
    """Return what the process says of itself; of what it said long ago only that it said nothing since is a problem.

    Whether a process of its id runs is not asked: in containers that is somebody else's, or nobody's.
    """
    facts: Mapping[str, Any] = found.facts
    state = str(facts.get("state", "unknown"))
    if state == "stopped":
        return {"state": state}
    if found.status_age_s > STATUS_AGE_S_MAX:
        problems.append(
            f"ingest (pid {found.pid}) must report at least every {STATUS_AGE_S_MAX:g} s until it stops, it has not for {found.status_age_s:.0f} s:"
            " it was killed, hangs, or cannot reach the database; look at its log and start it again: nothing is lost"
        )
        return {"state": f"not heard of for {found.status_age_s:.0f} s, was: {state}"}
    raw = facts.get("source")
    source: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    section = {"state": state}
    if state == "store away":
        problems.append(f"ingest cannot reach the database ({facts.get('store_error') or 'no reason given'}); see {RUNBOOK}")
    section["broker"] = f"{source.get('state', 'unknown')}, MQTT {source.get('protocol', '?')}"
    if source.get("state", "connected") != "connected":
        problems.append(
            f"ingest must be connected to the broker, it is {source.get('state')}"
            + (f" ({source['why']})" if source.get("why") else "")
            + "; is the broker up, are UNDERWAY_MQTT_URL and the account right?"
        )
    refused = source.get("refused") or []
    if refused:
        problems.append(
            f"the broker must let ingest subscribe, it refused {', '.join(map(str, refused))};"
            " let its account read these topics, or leave their dialects out"
        )
    section |= _held(source, problems)
    if "batch_size" in facts:
        section["last batch"] = f"{facts['batch_size']} messages in {facts.get('commit_ms', 0)} ms"
    sparkplug = facts.get("sparkplug")
    if isinstance(sparkplug, Mapping) and sparkplug.get("nodes"):
        section["sparkplug"] = f"{sparkplug.get('nodes_online', 0)} of {sparkplug['nodes']} edge nodes online"
    return section


def _held(source: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    """Return how full the memory for messages is."""
    if not source.get("held_count_max") or not source.get("held_bytes_max"):
        return {}
    count, count_max = source.get("held_count", 0), source["held_count_max"]
    size, size_max = source.get("held_bytes", 0), source["held_bytes_max"]
    held = (
        f"{count} of {count_max} messages ({100 * count / count_max:.0f} %),"
        f" {size / MIB:.1f} of {size_max / MIB:.0f} MiB ({100 * size / size_max:.0f} %)"
    )
    if source.get("paused"):
        problems.append(f"ingest has stopped reading because its memory for messages is full ({held}); nothing is lost, see {RUNBOOK}")
        held += ", paused"
    elif max(count / count_max, size / size_max) > FULL_RATIO_MAX:
        problems.append(f"ingest's memory for messages must stay below {FULL_RATIO_MAX:.0%}, it holds {held}; see {RUNBOOK}")
    return {"held": held}


def _named(names: Sequence[str], count: int) -> str:
    return "; ".join(names) + (f"; and {count - len(names)} more" if count > len(names) else "")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())
