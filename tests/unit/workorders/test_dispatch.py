from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from underway.model import Crew, Shift
from workorders.dispatch import Applicant, DispatchReason, by_person, choose, distance_km, middle

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
ON = (Shift(NOON - timedelta(hours=4), NOON + timedelta(hours=4)),)


def crew(name: str, lon: float = 0.0, skills: tuple[str, ...] = ("dig",), shifts: tuple[Shift, ...] = ON) -> Crew:
    return Crew(name, "s", name.capitalize(), skills, lon, 0.0, shifts, speed_kmph=30.0)


def test_choose_nearest_suited_crew_goes_and_says_why() -> None:
    decision = choose("dig", (0.0, 0.0), [Applicant(crew("far", 0.3)), Applicant(crew("near", 0.1))], NOON)
    assert (decision.crew_id, decision.reason) == ("near", DispatchReason.NEAREST)
    # 0.1 degree at the equator is 11.12 km, 14.46 km by road, 29 min at 30 km/h
    assert decision.sentence == (
        "Near: has the skill 'dig', on shift until 16:00Z, free, 29 min away (14.5 km), nearer than 1 other suited crew"
    )
    assert [r.reason for r in decision.ranking] == [DispatchReason.NEAREST, DispatchReason.FARTHER]


@pytest.mark.parametrize(
    ("applicant", "reason"),
    [
        (Applicant(crew("x", skills=())), DispatchReason.SKILL_MISSING),
        (Applicant(crew("x"), {"dig": NOON}), DispatchReason.SKILL_EXPIRED),
        (Applicant(crew("x", shifts=())), DispatchReason.OFF_SHIFT),
        (Applicant(crew("x", shifts=(Shift(NOON - timedelta(hours=1), NOON),))), DispatchReason.OFF_SHIFT),
        (Applicant(crew("x", lon=1.0)), DispatchReason.SHIFT_ENDS_FIRST),
        (Applicant(crew("x"), busy_with="WO-7"), DispatchReason.BUSY),
        (Applicant(crew("no")), DispatchReason.SAID_NO),
    ],
    ids=lambda v: str(v) if isinstance(v, DispatchReason) else "",
)
def test_choose_unsuited_crew_is_skipped_with_its_reason(applicant: Applicant, reason: DispatchReason) -> None:
    decision = choose("dig", (0.0, 0.0), [applicant], NOON, refused={"no": "declined: flu"})
    assert decision.crew_id is None
    assert decision.reason is DispatchReason.NOBODY
    assert [r.reason for r in decision.ranking] == [reason]
    assert decision.sentence.startswith("nobody can go: ")


def test_choose_nobody_registered_says_so() -> None:
    assert choose("dig", None, [], NOON).sentence == "nobody can go: no crew is registered"


def test_choose_place_unknown_still_sends_somebody() -> None:
    decision = choose("dig", None, [Applicant(crew("b")), Applicant(crew("a"))], NOON)
    assert decision.crew_id == "a"
    assert "distance unknown" in decision.sentence
    assert decision.as_json()["ranking"][0]["travel_min"] is None


def test_choose_skill_that_ends_later_counts() -> None:
    assert choose("dig", None, [Applicant(crew("a"), {"dig": NOON + timedelta(days=1)})], NOON).crew_id == "a"
    assert (
        choose("dig", None, [Applicant(crew("a"), {"dig": NOON + timedelta(days=1)})], NOON, skill_grace=timedelta(days=2)).crew_id is None
    )


def test_by_person_unsuited_crew_goes_with_a_note() -> None:
    decision = by_person("x", "dig", (0.0, 0.0), [Applicant(crew("x"), busy_with="WO-7")], NOON, "ann")
    assert (decision.crew_id, decision.sentence) == ("x", "X: chosen by ann; note: is busy with WO-7")


def test_distance_one_degree_of_longitude_at_60_north_is_half() -> None:
    assert distance_km(0, 60, 1, 60) == pytest.approx(distance_km(0, 0, 1, 0) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("geometry", "point"),
    [
        (None, None),
        ({}, None),
        ({"type": "Point", "coordinates": [5, 52]}, (5.0, 52.0)),
        ({"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 2], [0, 2]]]}, (1.0, 1.0)),
        ({"type": "Point", "coordinates": "north"}, None),
    ],
    ids=["none", "empty", "point", "polygon", "wrong"],
)
def test_middle_of_geometry(geometry: dict[str, object] | None, point: tuple[float, float] | None) -> None:
    assert middle(geometry) == point
