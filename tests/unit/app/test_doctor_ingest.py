"""What ``doctor`` says of ingest: nothing when all is well, one sentence for each thing that is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from underway.app.doctor_ingest import ingest_section
from underway.store.ingest_health import GoneDevice, IngestHealth

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SOURCE: dict[str, Any] = {
    "state": "connected",
    "protocol": "5.0",
    "refused": [],
    "held_count": 100,
    "held_count_max": 20_000,
    "held_bytes": 2**20,
    "held_bytes_max": 64 * 2**20,
    "paused": False,
}
FACTS: dict[str, Any] = {
    "state": "running",
    "batch_size": 250,
    "commit_ms": 12.5,
    "source": SOURCE,
    "sparkplug": {"nodes": 3, "nodes_online": 2},
}
WELL = IngestHealth(
    pid=42,
    status_age_s=0.8,
    facts=FACTS,
    quarantine={"schema": 3, "device_unknown": 1},
    late_windows=2,
    late_oldest_at=NOW_AT - timedelta(minutes=5),
    clocks=4,
    clock_offset_s=3600.0,
    pending=7,
    worst_clocks=(("pr-1", 3600.0), ("pr-2", 90.4)),
    gone=1,
    gone_newest=(GoneDevice("rtu-7", NOW_AT - timedelta(hours=2), "node_death"),),
)
RUNBOOK = "see docs/runbook/ingest-is-behind-or-stopped-what-do-i-do.md"


def told(found: IngestHealth) -> list[str]:
    return ingest_section(found, NOW_AT)[1]


def with_source(**changes: Any) -> IngestHealth:
    return replace(WELL, facts={**FACTS, "source": {**SOURCE, **changes}})


def test_section_of_an_ingest_that_is_well_has_every_line_and_no_problem() -> None:
    section, problems = ingest_section(WELL, NOW_AT)
    assert problems == []
    assert section == {
        "state": "running",
        "broker": "connected, MQTT 5.0",
        "held": "100 of 20000 messages (0 %), 1.0 of 64 MiB (2 %)",
        "last batch": "250 messages in 12.5 ms",
        "sparkplug": "2 of 3 edge nodes online",
        "quarantine": "in the last hour: schema 3, device_unknown 1",
        "late data": "2 windows wait to be judged again",
        "clocks": "4 devices with a wrong clock, at most 3600 s: pr-1 +3600 s; pr-2 +90 s; and 2 more",
        "gone devices": "1 devices are offline by their death: rtu-7 since 2026-03-01 10:00:00 UTC (node_death)",
        "pending devices": "7",
    }


def test_section_before_ingest_ever_ran_is_no_problem() -> None:
    section, problems = ingest_section(IngestHealth(), NOW_AT)
    assert problems == []
    assert (section["state"], section["quarantine"]) == ("has never reported", "in the last hour: nothing")


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        pytest.param(
            with_source(held_count=16_001),
            f"ingest's memory for messages must stay below 80%, it holds 16001 of 20000 messages (80 %), 1.0 of 64 MiB (2 %); {RUNBOOK}",
            id="nearly-full-of-messages",
        ),
        pytest.param(
            with_source(held_bytes=63 * 2**20),
            f"ingest's memory for messages must stay below 80%, it holds 100 of 20000 messages (0 %), 63.0 of 64 MiB (98 %); {RUNBOOK}",
            id="nearly-full-of-bytes",
        ),
        pytest.param(
            with_source(held_count=20_000, paused=True),
            "ingest has stopped reading because its memory for messages is full (20000 of 20000 messages (100 %), 1.0 of 64 MiB (2 %));"
            f" nothing is lost, {RUNBOOK}",
            id="paused",
        ),
        pytest.param(
            with_source(refused=["spBv1.0/#"]),
            "the broker must let ingest subscribe, it refused spBv1.0/#; let its account read these topics, or leave their dialects out",
            id="refused",
        ),
        pytest.param(
            with_source(state="disconnected", why="no answer"),
            "ingest must be connected to the broker, it is disconnected (no answer); is the broker up, are UNDERWAY_MQTT_URL and the account right?",
            id="broker-away",
        ),
        pytest.param(
            replace(WELL, facts={**FACTS, "state": "store away", "store_error": "cannot connect now: no"}),
            f"ingest cannot reach the database (cannot connect now: no); {RUNBOOK}",
            id="store-away",
        ),
        pytest.param(
            replace(WELL, status_age_s=11.4),
            "ingest (pid 42) must report at least every 10 s until it stops, it has not for 11 s: it was killed, hangs, or cannot reach"
            " the database; look at its log and start it again: nothing is lost",
            id="killed-or-hangs",
        ),
        pytest.param(
            replace(WELL, late_oldest_at=NOW_AT - timedelta(minutes=90)),
            "late data must be judged again within an hour, the oldest of 2 windows waits for 1.5 h;"
            " is ingest running, and does its log name an error of it?",
            id="late-data-waits",
        ),
        pytest.param(
            replace(WELL, overflow=[("mad-1", "schema", 900)]),
            "in the last hour senders used up their share of quarantine, so that some of what they sent is only counted"
            " (in all: mad-1: 900 x schema); mend or disable these devices, see 'underway quarantine list'",
            id="overflow",
        ),
    ],
)
def test_section_of_one_thing_that_is_wrong_says_it_in_one_sentence(found: IngestHealth, sentence: str) -> None:
    assert told(found) == [sentence]


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(
            replace(WELL, status_age_s=999.0, facts={"state": "stopped", "source": {"state": "disconnected"}}),
            id="stopped-and-its-pid-used-again",
        ),
        pytest.param(replace(WELL, facts={}), id="an-older-version"),
    ],
)
def test_section_of_what_is_no_problem_says_none(found: IngestHealth) -> None:
    assert told(found) == []


def test_section_late_data_that_was_given_up_is_counted_and_told_with_its_error() -> None:
    lost = replace(WELL, late_given_up=3, late_error="ZeroDivisionError: no flow")
    section, (problem,) = ingest_section(lost, NOW_AT)
    assert section["late data"] == "2 windows wait to be judged again, 3 given up"
    assert problem.startswith("late data must be judged again, 3 windows of it are given up (the last for: ZeroDivisionError: no flow);")
