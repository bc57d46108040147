"""A simulated crew as a state machine: told of an order and of the time, it answers with timed actions. No I/O and no clock.

What it cannot know it asks of the ground through `Ground` (`simulators.world.World` is one): what a survey finds, whether a
repair helped, how far it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from simulators.stories import CrewConduct
from simulators.world import RepairResult, SurveyResult
from underway.model import MINUTE_US, SECOND_US, FindCode, WorkOrder

CANDIDATES_MAX = 12
ACCEPT_MIN, DEPART_MIN, SURVEY_MIN = (2.0, 6.0), (3.0, 8.0), (10.0, 15.0)
REPAIR_MIN: Mapping[str, tuple[float, float]] = {"leak_repair": (60.0, 120.0), "roads": (60.0, 150.0), "structures": (90.0, 150.0)}
REPAIR_OTHER_MIN = (45.0, 90.0)
WALK_KMPH = 20.0


class CrewState(StrEnum):
    """Where a crew stands with its order."""

    IDLE = "idle"
    READING = "reading"  # the phone rang
    GETTING_READY = "getting_ready"  # accepted
    DRIVING = "driving"
    SURVEYING = "surveying"
    REPAIRING = "repairing"
    REPORTED = "reported"  # done, and free again


class Ground(Protocol):
    """What a crew can find out only by being there."""

    def survey(self, asset_id: str, at_us: int) -> SurveyResult:
        """Look for something broken at or beside an asset."""
        ...

    def repair(self, asset_id: str, at_us: int) -> RepairResult:
        """Dig there and repair."""
        ...

    def travel_m(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        """Return metres of road between two (longitude, latitude) points."""
        ...

    def point_of(self, asset_id: str) -> tuple[float, float]:
        """Return (longitude, latitude) of an asset."""
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """An order as it reaches a crew's phone.

    ``candidates`` are asset ids, most probable first; ``on_site`` is True when the crew is there already (rework after a failed verification);
    ``rework`` counts failed verifications so far.
    """

    order_id: int
    required_skill: str
    asset_id: str
    candidates: tuple[str, ...] = ()
    on_site: bool = False
    rework: int = 0

    @classmethod
    def of(cls, order: WorkOrder, on_site: bool = False) -> Notice:
        """Return the notice of an order row."""
        rows: Sequence[Mapping[str, Any]] = order.location.get("candidates", ())
        return cls(order.order_id, order.required_skill, order.asset_id, tuple(str(r["asset_id"]) for r in rows), on_site, order.rework)


@dataclass(frozen=True, slots=True)
class CrewAction:
    """What a crew does with its phone: the event of the order's lifecycle, when, and the body of the action."""

    order_id: int
    event: str
    at_us: int
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Codes:
    """Failure codes that a crew reports (ISO 14224 idea: problem, cause, remedy)."""

    find_code: FindCode
    problem: str
    cause: str
    remedy: str


CODES: Mapping[str, Codes] = {
    "leak_repair": Codes(FindCode.LEAK_FOUND, "ELP", "CORR", "CLAMP"),
    "roads": Codes(FindCode.DEFECT_FOUND, "POT", "WEAR", "PATCH"),
    "structures": Codes(FindCode.DEFECT_FOUND, "BRG", "WEAR", "REPL"),
    "drainage": Codes(FindCode.DEFECT_FOUND, "PLU", "DEBRIS", "CLEAN"),
    "instruments": Codes(FindCode.SENSOR_FAULT, "ERO", "AGE", "REPL"),
}
NONE_FOUND = Codes(FindCode.NONE_FOUND, "NONE", "UNKNOWN", "NONE")
CHECKLIST: Mapping[str, bool] = {"traffic_safe": True, "isolated": True, "restored": True}


class SimulatedCrew:
    """One crew with its phone.

    Parameters
    ----------
    crew_id : str
    point : tuple of float
        Where it is, (longitude, latitude).
    rng : numpy.random.Generator
    speed_kmph : float
    conduct : CrewConduct
        With ``WRONG_PIPE_FIRST`` the first visit to each leak order repairs the first candidate that is not broken, in good faith (when the only
        candidate is the broken pipe, the clamp does not hold).

    Notes
    -----
    `tell` gives it an order, `poll` returns what it has done up to a time, in order. A leak is searched along the order's candidates in order of
    probability, 10 to 15 min each, and found when it lies within the survey's radius of one. Repair takes 60 to 120 min. One order at a time; further
    notices wait.
    """

    def __init__(
        self,
        crew_id: str,
        point: tuple[float, float],
        rng: np.random.Generator,
        speed_kmph: float = 40.0,
        conduct: CrewConduct = CrewConduct.CAREFUL,
    ) -> None:
        self.crew_id, self.point = crew_id, point
        self.state = CrewState.IDLE
        self.notice: Notice | None = None
        self._rng, self._speed_kmph, self._conduct = rng, speed_kmph, conduct
        self._due_us = 0
        self._waiting: list[Notice] = []
        self._route: list[str] = []
        self._target: str | None = None
        self._known: set[tuple[int, int]] = set()
        self._bluff = False
        self._surveyed: list[str] = []

    @property
    def due_us(self) -> int | None:
        """When it will do something next; None when idle."""
        return None if self.state in {CrewState.IDLE, CrewState.REPORTED} else self._due_us

    def tell(self, notice: Notice, at_us: int) -> None:
        """Give it an order; the same order with the same count of rework a second time changes nothing."""
        if (notice.order_id, notice.rework) in self._known:
            return
        self._known.add((notice.order_id, notice.rework))
        if self.notice is not None and self.state not in {CrewState.IDLE, CrewState.REPORTED}:
            self._waiting.append(notice)
            return
        self._start(notice, at_us)

    def forget(self, order_id: int) -> None:
        """Drop an order: it was cancelled or given to another crew."""
        self._waiting = [n for n in self._waiting if n.order_id != order_id]
        self._known = {k for k in self._known if k[0] != order_id}
        if self.notice is not None and self.notice.order_id == order_id:
            self.notice, self.state = None, CrewState.IDLE

    def poll(self, now_us: int, ground: Ground) -> tuple[CrewAction, ...]:
        """Return what it has done up to `now_us`, oldest first."""
        actions: list[CrewAction] = []
        while True:
            if self.state in {CrewState.IDLE, CrewState.REPORTED}:
                if not self._waiting:
                    return tuple(actions)
                self._start(self._waiting.pop(0), self._due_us)
            if self._due_us > now_us:
                return tuple(actions)
            actions += STEPS[self.state](self, ground)

    # --- one method a state; each is called when its time has come

    def _start(self, notice: Notice, at_us: int) -> None:
        self.notice = notice
        places = notice.candidates[:CANDIDATES_MAX] or (notice.asset_id,)
        self._route, self._target, self._surveyed, self._bluff = list(dict.fromkeys(places)), None, [], False
        if notice.on_site:
            self._go(CrewState.SURVEYING, at_us, self._minutes(SURVEY_MIN))
        else:
            self._go(CrewState.READING, at_us, self._minutes(ACCEPT_MIN))

    def _read(self, ground: Ground) -> list[CrewAction]:
        action = self._act("accept")
        self._go(CrewState.GETTING_READY, self._due_us, self._minutes(DEPART_MIN))
        return [action]

    def _leave(self, ground: Ground) -> list[CrewAction]:
        action = self._act("depart")
        place = ground.point_of(self._route[0]) if not self._route[0].startswith("dma:") else self.point
        hours = ground.travel_m(self.point, place) / 1000.0 / self._speed_kmph
        self.point = place
        self._go(CrewState.DRIVING, self._due_us, max(hours * 60.0, 1.0))
        return [action]

    def _arrive(self, ground: Ground) -> list[CrewAction]:
        action = self._act("arrive")
        self._go(CrewState.SURVEYING, self._due_us, self._minutes(SURVEY_MIN))
        return [action]

    def _survey(self, ground: Ground) -> list[CrewAction]:
        assert self.notice is not None
        here = self._route.pop(0)
        self._surveyed.append(here)
        found = ground.survey(here, self._due_us).found_asset_id
        if self._conduct == CrewConduct.WRONG_PIPE_FIRST and self.notice.required_skill == "leak_repair" and self.notice.rework == 0:
            # wet ground beside a sound pipe: they dig there, and stop looking
            sound = [p for p in (here, *self._route) if p != found]
            self._target, self._bluff = (sound[0], False) if sound else (here, True)
        elif found is not None:
            self._target = found
        if self._target is not None:
            span = REPAIR_MIN.get(self.notice.required_skill, REPAIR_OTHER_MIN)
            self._go(CrewState.REPAIRING, self._due_us, self._minutes(span))
            return []
        if self._route:
            walk_min = ground.travel_m(ground.point_of(here), ground.point_of(self._route[0])) / 1000.0 / WALK_KMPH * 60.0
            self.point = ground.point_of(self._route[0])
            self._go(CrewState.SURVEYING, self._due_us, walk_min + self._minutes(SURVEY_MIN))
            return []
        return [self._report(self.notice.asset_id, NONE_FOUND, f"looked at {len(self._surveyed)} places and found nothing")]

    def _finish(self, ground: Ground) -> list[CrewAction]:
        assert self.notice is not None
        assert self._target is not None
        if not self._bluff:
            ground.repair(self._target, self._due_us)
        codes = CODES.get(self.notice.required_skill, CODES["leak_repair"])
        return [self._report(self._target, codes, f"repaired {self._target}")]

    # --- helpers

    def _report(self, asset_id: str, codes: Codes, note: str) -> CrewAction:
        body = {
            "find_code": codes.find_code.value,
            "asset_id": asset_id,
            "problem": codes.problem,
            "cause": codes.cause,
            "remedy": codes.remedy,
            "checklist": dict(CHECKLIST),
            "surveyed": list(self._surveyed),
            "note": note,
        }
        action = replace(self._act("done"), body=body)
        self.state = CrewState.REPORTED
        return action

    def _act(self, event: str) -> CrewAction:
        assert self.notice is not None
        return CrewAction(self.notice.order_id, event, self._due_us)

    def _go(self, state: CrewState, from_us: int, minutes: float) -> None:
        self.state = state
        self._due_us = from_us + max(int(minutes * MINUTE_US), SECOND_US)

    def _minutes(self, span: tuple[float, float]) -> float:
        return float(self._rng.uniform(*span))


STEPS = {
    CrewState.READING: SimulatedCrew._read,
    CrewState.GETTING_READY: SimulatedCrew._leave,
    CrewState.DRIVING: SimulatedCrew._arrive,
    CrewState.SURVEYING: SimulatedCrew._survey,
    CrewState.REPAIRING: SimulatedCrew._finish,
}
