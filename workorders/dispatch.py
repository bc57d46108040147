"""Who goes: skill, shift, busy, travel time; the choice explains itself.

Notes
-----
Travel is the straight distance times a detour factor over the crew's speed: blind to the road graph, to traffic and to closed roads.
The nearest suited crew is taken; no plan is optimised over several orders. Cost: one pass over the crews.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from underway.model import Crew

EARTH_RADIUS_KM = 6371.0088
POINTS_MAX = 10_000


class DispatchReason(StrEnum):
    """Why a crew was chosen, or was not."""

    NEAREST = "nearest"
    CHOSEN_BY_PERSON = "chosen_by_person"
    FARTHER = "farther"
    SKILL_MISSING = "skill_missing"
    SKILL_EXPIRED = "skill_expired"
    OFF_SHIFT = "off_shift"
    SHIFT_ENDS_FIRST = "shift_ends_first"
    BUSY = "busy"
    SAID_NO = "said_no"
    NOBODY = "nobody"
    REWORK_LIMIT = "rework_limit"


@dataclass(frozen=True, slots=True)
class Applicant:
    """A crew with what its row alone does not say.

    Attributes
    ----------
    skill_expires_at : Mapping
        When a skill ends; None or missing: never.
    busy_with : str
        Label of the order that it is on, "" when it is free.
    """

    crew: Crew
    skill_expires_at: Mapping[str, datetime | None] = field(default_factory=dict)
    busy_with: str = ""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One crew in the ranking; ``travel_min`` is inf when nobody knows where the work is."""

    crew_id: str
    name: str
    reason: DispatchReason
    explanation: str
    travel_min: float
    distance_km: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Who goes and why; ``crew_id`` None: nobody can."""

    crew_id: str | None
    reason: DispatchReason
    sentence: str
    ranking: tuple[Ranked, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the decision as plain values, for the assignment row and the event log."""
        return {
            "crew_id": self.crew_id,
            "reason": str(self.reason),
            "sentence": self.sentence,
            "ranking": [
                {
                    "crew_id": r.crew_id,
                    "name": r.name,
                    "reason": str(r.reason),
                    "explanation": r.explanation,
                    "travel_min": round(r.travel_min, 1) if math.isfinite(r.travel_min) else None,
                    "distance_km": round(r.distance_km, 2) if math.isfinite(r.distance_km) else None,
                }
                for r in self.ranking
            ],
        }


def for_a_supervisor(rework: int) -> Decision:
    """Return that nobody is sent again by policy: so many repairs did not help that a person must look."""
    return Decision(None, DispatchReason.REWORK_LIMIT, f"{rework} repairs did not help: a supervisor decides who goes and where", ())


def distance_km(lon_a: float, lat_a: float, lon_b: float, lat_b: float) -> float:
    """Return the great-circle distance in km of two WGS 84 points in degrees (haversine).

    Examples
    --------
    >>> round(distance_km(0.0, 0.0, 0.0, 1.0), 1)
    111.2
    """
    phi_a, phi_b = math.radians(lat_a), math.radians(lat_b)
    half = math.sin((phi_b - phi_a) / 2) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(math.radians(lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, half)))


def _points(value: Any) -> Iterator[tuple[float, float]]:
    if isinstance(value, list | tuple):
        if len(value) >= 2 and all(isinstance(v, int | float) for v in value[:2]):
            yield float(value[0]), float(value[1])
        else:
            for part in value:
                yield from _points(part)


def middle(geometry: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Return a point (longitude, latitude) in degrees in the middle of a GeoJSON geometry: the mean of its vertices; None without one.

    Examples
    --------
    >>> middle({"type": "LineString", "coordinates": [[0, 0], [2, 4]]})
    (1.0, 2.0)
    """
    points = list(_points(geometry.get("coordinates")))[:POINTS_MAX] if geometry else []
    if not points:
        return None
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


def choose(
    skill: str,
    point: tuple[float, float] | None,
    applicants: Sequence[Applicant],
    now_at: datetime,
    *,
    refused: Mapping[str, str] | None = None,
    detour_factor: float = 1.3,
    skill_grace: timedelta = timedelta(0),
) -> Decision:
    """Return who goes, with every other crew's reason.

    Parameters
    ----------
    skill : str
        Required skill.
    point : tuple or None
        Longitude and latitude of the work in degrees; None when nobody knows.
    refused : Mapping of crew id to text
        Crews that declined or did not answer in this round.
    detour_factor : float
        Road distance over straight distance.
    skill_grace : timedelta
        A skill that ends within this time counts as ended.
    """
    ranked = [_rank(skill, point, a, now_at, refused or {}, detour_factor, skill_grace) for a in applicants]
    ranked.sort(key=lambda r: (r.reason is not DispatchReason.NEAREST, r.travel_min, r.crew_id))
    if not ranked or ranked[0].reason is not DispatchReason.NEAREST:
        why = "; ".join(f"{r.name}: {r.explanation}" for r in ranked) or "no crew is registered"
        return Decision(None, DispatchReason.NOBODY, f"nobody can go: {why}", tuple(ranked))
    first = ranked[0]
    others = [
        Ranked(r.crew_id, r.name, DispatchReason.FARTHER, f"suited, {_travel(r)} away", r.travel_min, r.distance_km)
        if r.reason is DispatchReason.NEAREST
        else r
        for r in ranked[1:]
    ]
    suited = sum(r.reason is DispatchReason.FARTHER for r in others)
    than = f", nearer than {suited} other suited crew{'s' if suited > 1 else ''}" if suited else ", the only suited crew that is free"
    return Decision(first.crew_id, DispatchReason.NEAREST, f"{first.name}: {first.explanation}{than}", (first, *others))


def by_person(
    crew_id: str, skill: str, point: tuple[float, float] | None, applicants: Sequence[Applicant], now_at: datetime, who: str
) -> Decision:
    """Return the decision that a person made, with what dispatch would have said of each crew."""
    automatic = choose(skill, point, applicants, now_at)
    chosen = next((r for r in automatic.ranking if r.crew_id == crew_id), None)
    name = chosen.name if chosen is not None else crew_id
    doubt = (
        f"; note: {chosen.explanation}"
        if chosen is not None and chosen.reason not in (DispatchReason.NEAREST, DispatchReason.FARTHER)
        else ""
    )
    return Decision(crew_id, DispatchReason.CHOSEN_BY_PERSON, f"{name}: chosen by {who}{doubt}", automatic.ranking)


def _travel(ranked: Ranked) -> str:
    return f"{ranked.travel_min:.0f} min" if math.isfinite(ranked.travel_min) else "an unknown distance"


def _rank(
    skill: str,
    point: tuple[float, float] | None,
    applicant: Applicant,
    now_at: datetime,
    refused: Mapping[str, str],
    detour_factor: float,
    skill_grace: timedelta,
) -> Ranked:
    crew = applicant.crew
    straight_km = math.inf if point is None else distance_km(crew.longitude_deg, crew.latitude_deg, *point)
    road_km = straight_km * detour_factor
    travel_min = 60 * road_km / crew.speed_kmph

    def result(reason: DispatchReason, explanation: str) -> Ranked:
        return Ranked(crew.crew_id, crew.name, reason, explanation, travel_min, road_km)

    if skill not in crew.skills:
        return result(DispatchReason.SKILL_MISSING, f"has not the skill {skill!r}")
    expires_at = applicant.skill_expires_at.get(skill)
    if expires_at is not None and expires_at <= now_at + skill_grace:
        return result(DispatchReason.SKILL_EXPIRED, f"its skill {skill!r} ended {expires_at:%Y-%m-%d %H:%M}Z")
    shift = next((s for s in crew.shifts if s.starts_at <= now_at < s.ends_at), None)
    if shift is None:
        return result(DispatchReason.OFF_SHIFT, "is not on shift")
    if math.isfinite(travel_min) and now_at + timedelta(minutes=travel_min) >= shift.ends_at:
        return result(DispatchReason.SHIFT_ENDS_FIRST, f"its shift ends {shift.ends_at:%H:%M}Z, before it would arrive")
    if applicant.busy_with:
        return result(DispatchReason.BUSY, f"is busy with {applicant.busy_with}")
    if crew.crew_id in refused:
        return result(DispatchReason.SAID_NO, f"was asked before: {refused[crew.crew_id]}")
    away = f", {travel_min:.0f} min away ({road_km:.1f} km)" if math.isfinite(travel_min) else ", distance unknown"
    return result(DispatchReason.NEAREST, f"has the skill {skill!r}, on shift until {shift.ends_at:%H:%M}Z, free{away}")
