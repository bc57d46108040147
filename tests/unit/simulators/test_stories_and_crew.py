import re
from datetime import timedelta

import numpy as np
import pytest

from simulators.crew import CODES, CrewAction, CrewState, Notice, SimulatedCrew
from simulators.stories import STORIES, CrewConduct, StoryAction, plan_story
from simulators.town import Town
from simulators.world import RepairReason, RepairResult, SurveyResult
from underway.model import HOUR_US, MINUTE_US, FindCode, OperatorError, to_us


class Meadow:
    """A ground whose pipes lie on a line, 1 km apart (1 degree is 100 km); one is broken."""

    def __init__(self, broken: str | None, beside: str = "") -> None:
        self.broken, self.beside = broken, beside
        self.repaired: list[str] = []

    def survey(self, asset_id: str, at_us: int) -> SurveyResult:
        found = self.broken if self.broken is not None and asset_id in (self.broken, self.beside) else None
        return SurveyResult(found, 0.0)

    def repair(self, asset_id: str, at_us: int) -> RepairResult:
        self.repaired.append(asset_id)
        hit = asset_id == self.broken
        return RepairResult(hit, RepairReason.LEAK_CLOSED if hit else RepairReason.NOTHING_THERE)

    def travel_m(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        return 100_000.0 * (abs(start[0] - end[0]) + abs(start[1] - end[1]))

    def point_of(self, asset_id: str) -> tuple[float, float]:
        return (0.01 * int(asset_id.rsplit("-", 1)[1]), 0.0)


NOTICE = Notice(7, "leak_repair", "dma:z1", ("p-10", "p-11", "p-12"))


def crew(conduct: CrewConduct = CrewConduct.CAREFUL) -> SimulatedCrew:
    return SimulatedCrew("water-day", (0.0, 0.0), np.random.default_rng(1), 40.0, conduct)


def work(crew: SimulatedCrew, ground: Meadow, hours: float = 12.0) -> list[CrewAction]:
    actions: list[CrewAction] = []
    for minute in range(int(hours * 60)):
        actions += crew.poll(minute * MINUTE_US, ground)
    return actions


def test_crew_finds_the_second_candidate_and_repairs_it() -> None:
    one, ground = crew(), Meadow("p-11")
    one.tell(NOTICE, 0)
    actions = work(one, ground)
    assert [a.event for a in actions] == ["accept", "depart", "arrive", "done"]
    accept, depart, arrive, done = (a.at_us / MINUTE_US for a in actions)
    assert 2 <= accept <= 6
    # 10 km at 40 km/h
    assert arrive - depart == pytest.approx(15.0, abs=0.1)
    assert 60 + 2 * 10 <= done - arrive <= 120 + 2 * 15 + 5
    assert ground.repaired == ["p-11"]
    body = actions[-1].body
    assert body["find_code"] == FindCode.LEAK_FOUND
    assert body["asset_id"] == "p-11"
    assert body["checklist"] == {"traffic_safe": True, "isolated": True, "restored": True}
    assert one.state == CrewState.REPORTED
    assert one.due_us is None


def test_crew_reports_the_true_pipe_when_it_lies_beside_a_candidate() -> None:
    one, ground = crew(), Meadow("p-99", beside="p-10")
    one.tell(NOTICE, 0)
    assert work(one, ground)[-1].body["asset_id"] == "p-99"
    assert ground.repaired == ["p-99"]


def test_crew_finds_nothing_and_says_so() -> None:
    one, ground = crew(), Meadow(None)
    one.tell(NOTICE, 0)
    done = work(one, ground)[-1]
    assert done.event == "done"
    assert done.body["find_code"] == FindCode.NONE_FOUND
    assert done.body["surveyed"] == ["p-10", "p-11", "p-12"]
    assert ground.repaired == []


@pytest.mark.parametrize("broken", ["p-10", "p-11", "p-99"])
def test_crew_wrong_pipe_first_repairs_the_right_one_on_rework(broken: str) -> None:
    one, ground = crew(CrewConduct.WRONG_PIPE_FIRST), Meadow(broken, beside="p-12")
    one.tell(NOTICE, 0)
    first = work(one, ground)[-1]
    assert first.body["find_code"] == FindCode.LEAK_FOUND
    assert ground.repaired[0] != broken
    one.tell(Notice(7, "leak_repair", "dma:z1", NOTICE.candidates, on_site=True, rework=1), 13 * HOUR_US)
    second = one.poll(30 * HOUR_US, ground)
    assert [a.event for a in second] == ["done"]
    assert ground.repaired[-1] == broken


def test_crew_wrong_pipe_first_with_one_candidate_leaves_it_broken() -> None:
    one, ground = crew(CrewConduct.WRONG_PIPE_FIRST), Meadow("p-10")
    one.tell(Notice(7, "leak_repair", "dma:z1", ("p-10",)), 0)
    assert work(one, ground)[-1].event == "done"
    assert ground.repaired == []


def test_crew_same_notice_twice_changes_nothing() -> None:
    one, other = crew(), crew()
    one.tell(NOTICE, 0)
    other.tell(NOTICE, 0)
    other.tell(NOTICE, 0)
    assert work(one, Meadow("p-11")) == work(other, Meadow("p-11"))
    other.tell(NOTICE, 13 * HOUR_US)
    assert other.poll(30 * HOUR_US, Meadow("p-11")) == ()


def test_crew_second_order_waits_for_the_first() -> None:
    one, ground = crew(), Meadow("p-10")
    one.tell(NOTICE, 0)
    one.tell(Notice(8, "roads", "rd-20"), MINUTE_US)
    actions = work(one, ground, 24)
    assert [a.order_id for a in actions] == [7] * 4 + [8] * 4
    assert [a.at_us for a in actions] == sorted(a.at_us for a in actions)


def test_crew_forgotten_order_is_dropped_and_may_come_again() -> None:
    one = crew()
    one.tell(NOTICE, 0)
    one.forget(7)
    assert one.poll(10 * HOUR_US, Meadow("p-10")) == ()
    one.tell(NOTICE, 10 * HOUR_US)
    assert one.poll(20 * HOUR_US, Meadow("p-10"))[0].event == "accept"


def test_crew_polled_once_late_does_the_same_as_polled_often() -> None:
    often, late = crew(), crew()
    often.tell(NOTICE, 0)
    late.tell(NOTICE, 0)
    assert tuple(work(often, Meadow("p-12"))) == late.poll(12 * HOUR_US, Meadow("p-12"))


def test_crew_zone_without_candidates_finds_nothing(small_town: Town) -> None:
    ground = Meadow(None)
    ground.point_of = small_town.point_of  # type: ignore[method-assign]
    one = crew()
    one.tell(Notice(9, "leak_repair", "dma:z1"), 0)
    assert work(one, ground)[-1].body["find_code"] == FindCode.NONE_FOUND


def test_codes_every_skill_of_the_town_has_its_codes(small_town: Town) -> None:
    assert set(CODES) == {s for c in small_town.crews for s in c.skills}


@pytest.mark.parametrize("name", sorted(STORIES))
def test_plan_story_same_town_same_events(small_town: Town, name: str) -> None:
    live_at = small_town.start_at + timedelta(days=2)
    story = plan_story(small_town, name, live_at)
    assert story == plan_story(small_town, name, live_at)
    assert all(e.at_us > to_us(live_at) for e in story.events)
    assert all(e.asset_id in small_town.assets for e in story.events)
    assert [e.at_us for e in story.events] == sorted(e.at_us for e in story.events)


def test_plan_story_parity_of_the_seed_chooses_the_road_story(small_town: Town) -> None:
    story = plan_story(small_town, "burst", small_town.start_at)
    assert story.first(StoryAction.ROUGHNESS) is not None
    assert story.first(StoryAction.BEARING) is None


def test_plan_story_unknown_name_says_what_is_known(small_town: Town) -> None:
    message = "story must be one of burst, failed-repair, bridge, roughness, drain, quiet, got 'flood'"
    with pytest.raises(OperatorError, match="^" + re.escape(message) + "$"):
        plan_story(small_town, "flood", small_town.start_at)
