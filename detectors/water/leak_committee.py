"""Several trackers with different beliefs watch one section; what most of them see at one place is a leak, and what is worth it is dug for.

One filter is brittle: after a wrong step it explains the next leaks by the wrong one. Filters that differ in how much they let the biases drift, how
sure they must be, and how much they forgive the model where a leak ends go wrong at different times. The share of them that has a leak within the
reach of a dig is a better probability than what any of them states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from detectors.contract import FloatArray
from detectors.water import leak_audit, leak_tracker
from detectors.water.leak_answers import unanswered
from detectors.water.leak_audit import AuditRules, LeakAudit
from detectors.water.leak_tracker import Closing, LeakTracker, Noise, Rules

MEMBERS: tuple[Rules, ...] = (
    Rules(growth_m3ph=0.2),
    Rules(drift=0.33, threshold=45.0, growth_m3ph=0.2),
    Rules(close_error=0.15, unsettled_m3ph=15.0, growth_m3ph=0.3),
    Rules(close_error=0.15, unexplained=6.0, slowing=True),
    Rules(drift=0.2, threshold=45.0, close_error=0.15, slowing=True),
)
AUDITS: tuple[AuditRules, ...] = (AuditRules(phase_days=1), AuditRules(phase_days=3, error_directions=31))
"""What looks at all that was seen, see `detectors.water.leak_audit`."""
AUDIT_WEIGHT, AUDIT_WEIGHT_BEFORE = 3.0, 1.0
"""An audit counts as so many trackers; before it has looked at what may have begun since, it may not have seen it and counts less."""
SAY_DAYS = 2.0
"""An audit that looked so long after a leak began should have seen it."""
DAY_S = 86_400.0
RAISE_MASS = 0.4
JOIN_MASS, JOIN_MASS_LATE = 0.3, 0.5
JOIN_DAYS = 5.0
NEW_DAYS, NEW_REACHES = 10.0, 2.5
"""So long after an alarm, what shows within so many reaches of a dig is taken for the same leak, placed wrong."""
CONFIRM_DAYS = 13.0
"""What few trackers see is believed when the audit has seen it for so long."""
FORGET_DAYS = 60.0
FAINT_DAYS, FAINT_M3PH, FAINT_SHARE = 3.0, 0.3, 0.15
"""A leak that old with less flow than that is not counted."""
OWN_FLOW_M3PH, SETTLED_DAYS = 4.0, 3.0
"""Near a known leak, only what has more flow than that within some days is another leak; less is growth of the known one."""
AGAIN_DAYS, AGAIN_MASS = 365.0, 0.45
"""Where a crew was sent and no repair was reported, as long as that leak runs and so long after its end, a second crew goes out within reach only
where that much probability lies: on six towns of development 27 of 52 such digs met the first leak once more, and none of the other 25 had less."""
ALONE_MASS, ALONE_FLOW_M3PH, ALONE_WAIT_DAYS = 0.5, 1.0, 30.0
"""Where all audits have a leak that no dig was for, with that much probability together, a crew goes out whatever the trackers see, and however near
another dig was; but not so soon after that one: an audit may still move its leak."""
ENDED_PLACES_MAX = 100
"""So many places that have ended are kept."""
MOVED_SHARE = 0.9
REPAIR_MASS_MIN = 0.15
LEFT_SHARE = 0.4
"""A place that fewer of its trackers still see has ended."""
UPDATE_SHARE = 0.25
LEFT_OVER_SHARE = 0.5
"""What shows soon after a repair with less flow than that part of what was repaired waits for `NEW_DAYS`."""


class SeenLeak(Protocol):
    """A leak as one member sees it."""

    number: int
    where: FloatArray
    opened_s: float
    alarm_s: float
    abrupt: bool
    closing: Closing | None


class Member(Protocol):
    """What sits on the committee: a tracker or an audit."""

    leaks: Any

    def running(self) -> Sequence[Any]:
        """Return the leaks that run."""

    def flow(self, leak: Any) -> float:
        """Return a flow in m3/h."""

    def step(self, now_s: float, recent: Sequence[FloatArray], end_of_day: bool, per_day: int, judging: bool = True) -> None:
        """Take a daily mean in."""

    def repaired(self, now_s: float, pipe: int) -> Any:
        """Take note of a repair."""

    def let_go(self, leak: Any, now_s: float, why: Closing, pipe: int | None = None) -> None:
        """Believe that a leak has ended."""

    def state(self) -> dict[str, object]:
        """Return the state."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state back."""


class PlaceChange(StrEnum):
    """What became of a place at a step."""

    RAISED = "raised"
    MEASURED = "measured"
    DIG = "dig"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class DigRules:
    """When a crew is sent.

    A dig at a place where the leak lies with probability P saves ``P * flow * price * 24 * horizon`` and costs ``dig``, and ``dry`` besides where it
    finds nothing: a road was closed and dug up in vain, and the next call is believed less.

    Attributes
    ----------
    from_us : int
        No dig before: a utility that only learns.
    price_eur_m3, dig_eur, dry_eur, reach_m : float
    horizon_days : float
        How long a leak would run on if nobody came.
    """

    from_us: int = -(2**62)
    price_eur_m3: float = 0.80
    dig_eur: float = 500.0
    dry_eur: float = 5000.0
    horizon_days: float = 75.0
    reach_m: float = 300.0

    def worth_eur(self, probability: float, flow_m3ph: float) -> float:
        """Return what a dig is expected to bring.

        Examples
        --------
        One m3/h for 75 days at 0.80 EUR are 1440 EUR; a sure dig costs 500, a dry one 5000 besides:

        >>> DigRules().worth_eur(1.0, 1.0), DigRules().worth_eur(0.0, 1.0)
        (940.0, -5500.0)
        """
        saved = probability * max(flow_m3ph, 0.0) * 24.0 * self.horizon_days * self.price_eur_m3
        return saved - self.dig_eur - (1.0 - probability) * self.dry_eur


@dataclass(eq=False, slots=True)
class Place:
    """A leak as the committee sees it.

    Attributes
    ----------
    number : int
    pipe : int
        Most probable pipe at the alarm; its name from then on.
    alarm_s, opened_s : float
        Time of the alarm and likely begin, seconds since 1970.
    members : set of (int, int)
        (tracker, leak) of those that see it.
    where : ndarray, shape (p,)
        Probability of each pipe, together `seen` (the weight of those that see it).
    flow_m3ph, told_m3ph, peak_m3ph : float
        Now, when it was last told, and at most.
    abrupt : bool
    dig_pipe, mass : int and float
        Pipe within whose reach most probability lies, and how much.
    dug_s, ended_s : float or None
    most : float
        How many saw it at most, by their weight.
    """

    number: int
    pipe: int
    alarm_s: float
    opened_s: float
    members: set[tuple[int, int]]
    where: FloatArray
    seen: float = 0.0
    flow_m3ph: float = 0.0
    told_m3ph: float = 0.0
    peak_m3ph: float = 0.0
    abrupt: bool = False
    dig_pipe: int = 0
    mass: float = 0.0
    dug_s: float | None = None
    dug_pipe: int = -1
    most: float = 0.0
    ended_s: float | None = None
    closing: Closing | None = None


class Committee:
    """Trackers of one section, and the places that they agree on.

    Parameters
    ----------
    signatures : ndarray, shape (p, m)
    distance_m : ndarray, shape (p, p)
        Between the middles of pipes, along the pipes.
    length_m : ndarray, shape (p,)
    noise : Noise
    digs : DigRules
    members : sequence of Rules
    audits : sequence of AuditRules
    """

    def __init__(
        self,
        signatures: FloatArray,
        distance_m: FloatArray,
        length_m: FloatArray,
        noise: Noise,
        digs: DigRules,
        members: Sequence[Rules] = MEMBERS,
        audits: Sequence[AuditRules] = AUDITS,
    ) -> None:
        self.distance, self.near, self.digs = distance_m, distance_m <= digs.reach_m, digs
        self._near = self.near.astype(np.float64)
        self.trackers: list[Member] = [LeakTracker(signatures, self.near, length_m, noise, rules) for rules in members]
        self.trackers += [LeakAudit(signatures, self.near, length_m, noise, rules) for rules in audits]
        self._weight = np.array([1.0] * len(members) + [AUDIT_WEIGHT] * len(audits))
        self._weight_before = np.array([1.0] * len(members) + [AUDIT_WEIGHT_BEFORE] * len(audits))
        self._audits = frozenset(range(len(members), len(self.trackers)))
        self._tracking = len(members)
        self.places: list[Place] = []
        self.count = 0
        self._placed: set[tuple[int, int]] = set()

    def running(self) -> list[Place]:
        """Return the places whose leak runs."""
        return [p for p in self.places if p.ended_s is None]

    def repaired(self, now_s: float, pipe: int) -> None:
        """Take note of a repair that a crew reported."""
        chance, _, place = max(
            ((float(p.where @ self._near[pipe]), -p.number, p) for p in self.running()), default=(0.0, 0, None), key=lambda c: c[:2]
        )
        for k, tracker in enumerate(self.trackers):
            mine = (
                []
                if place is None or chance < REPAIR_MASS_MIN
                else [x for x in tracker.running() if self._part_of(place, (k, x.number), x, now_s)]
            )
            for leak in mine:
                tracker.let_go(leak, now_s, Closing.REPAIRED, pipe)
            if not mine:
                tracker.repaired(now_s, pipe)

    def step(
        self, now_s: float, recent: Sequence[FloatArray], end_of_day: bool, per_day: int, judging: bool = True
    ) -> list[tuple[PlaceChange, Place]]:
        """Take the newest daily mean in, see `LeakTracker.step`; return what changed, in order."""
        believed = self._believed(recent)
        for k, tracker in enumerate(self.trackers):
            tracker.step(now_s, recent if k in self._audits else believed, end_of_day, per_day, judging)
        changes: list[tuple[PlaceChange, Place]] = []
        leaks = {(k, leak.number): leak for k, tracker in enumerate(self.trackers) for leak in tracker.running()}
        self._join(leaks)
        raised = self._raise(now_s, leaks)
        for place in self.running():
            mine = {key: leaks[key] for key in place.members if key in leaks}
            left = float(sum(self._weight[k] for k in {k for (k, n), leak in mine.items() if not self._faint((k, n), leak, now_s)}))
            place.most = max(place.most, left)
            if left < LEFT_SHARE * place.most or not left:
                place.ended_s, place.closing = now_s, self._closing(place)
                changes.append((PlaceChange.ENDED, place))
                continue
            if end_of_day or place in raised:
                self._measure(place, mine)
                place.peak_m3ph = max(place.peak_m3ph, place.flow_m3ph)
                faint = place.flow_m3ph < max(FAINT_M3PH, FAINT_SHARE * place.peak_m3ph)
                if faint and now_s - place.alarm_s > FAINT_DAYS * DAY_S:
                    for (k, _), leak in mine.items():
                        self.trackers[k].let_go(leak, now_s, Closing.PATTERN_GONE)
                    place.ended_s, place.closing = now_s, Closing.PATTERN_GONE
                    changes.append((PlaceChange.ENDED, place))
                    continue
            if place in raised:
                place.told_m3ph = place.flow_m3ph
                if place.dug_s is None:
                    place.pipe = place.dig_pipe
                changes.append((PlaceChange.RAISED, place))
            elif end_of_day and abs(place.flow_m3ph - place.told_m3ph) > UPDATE_SHARE * max(place.told_m3ph, 1.0):
                place.told_m3ph = place.flow_m3ph
                changes.append((PlaceChange.MEASURED, place))
            if place.dug_s is None and now_s * 1e6 >= self.digs.from_us and self._worth(place):
                place.dug_s, place.dug_pipe = now_s, place.dig_pipe
                changes.append((PlaceChange.DIG, place))
        if end_of_day and now_s * 1e6 >= self.digs.from_us:
            while (found := self._overlooked(now_s)) is not None:
                changes += found
        self._forget(now_s)
        return changes

    def _overlooked(self, now_s: float) -> list[tuple[PlaceChange, Place]] | None:
        """Send a crew where all audits have a leak that no dig was for, and say so; None where there is no such leak.

        A filter that took a second leak for growth of the first stays wrong; an audit finds it when it looks again.
        """
        digs = sorted((p.dug_s, p.dug_pipe) for p in self.places if p.dug_s is not None and p.closing is not Closing.REPAIRED)
        seen = {
            (k, leak.number): leak
            for k in sorted(self._audits)
            for leak in unanswered(self.trackers[k].running(), digs, self._near)
            if now_s - leak.alarm_s >= CONFIRM_DAYS * DAY_S and self.trackers[k].flow(leak) >= ALONE_FLOW_M3PH
        }
        if not seen:
            return None
        share = self._share(seen, np.array([float(k in self._audits) for k in range(len(self.trackers))]))
        pipe, mass = self._aim(share)
        mine = {key: leak for key, leak in seen.items() if float(leak.where @ self._near[pipe]) > JOIN_MASS}
        lately = now_s - ALONE_WAIT_DAYS * DAY_S
        if mass < ALONE_MASS or {k for k, _ in mine} != self._audits:
            return None
        flow = self._flow(mine)
        if self.digs.worth_eur(mass, flow) <= 0.0 or any(at > lately and self.near[pipe, where] for at, where in digs):
            return None
        for other in self.running():
            other.members -= mine.keys()
        place = next((p for p in self.running() if p.dug_s is None and self.near[p.dig_pipe, pipe]), None)
        raised = place is None
        if place is None:
            self.count += 1
            opened = float(np.median([leak.opened_s for leak in mine.values()]))
            abrupt = sum(2 * leak.abrupt - 1 for leak in mine.values()) > 0
            place = Place(self.count, pipe, now_s, opened, set(), share, abrupt=abrupt)
            self.places.append(place)
        place.members |= mine.keys()
        self._placed |= mine.keys()
        place.where, place.seen, place.dig_pipe, place.mass = share, 1.0, pipe, mass
        place.flow_m3ph = place.told_m3ph = flow
        place.peak_m3ph = max(place.peak_m3ph, flow)
        place.dug_s, place.dug_pipe = now_s, pipe
        return [*([(PlaceChange.RAISED, place)] if raised else []), (PlaceChange.DIG, place)]

    def _believed(self, recent: Sequence[FloatArray]) -> Sequence[FloatArray]:
        """Return the means without the signals that every audit has left out: a filter cannot tell a slow drift from a leak."""
        audits = [t for t in self.trackers if isinstance(t, LeakAudit)]
        bad = sorted(set.intersection(*(set(a.bad) for a in audits))) if audits else []
        if not bad:
            return recent
        rows = np.array(recent)
        rows[:, bad] = np.nan
        return list(rows)

    def _faint(self, key: tuple[int, int], leak: SeenLeak, now_s: float) -> bool:
        return now_s - leak.alarm_s > FAINT_DAYS * DAY_S and self.trackers[key[0]].flow(leak) < FAINT_M3PH

    def _join(self, leaks: dict[tuple[int, int], SeenLeak]) -> None:
        """Give leaks that other trackers see at a known place, at about the same time, to that place."""
        for key, leak in leaks.items():
            if key in self._placed:
                continue
            for place in self.running():
                if key[0] in self._audits:
                    # an audit sees late what it sees: a place has one leak of it
                    if float(leak.where @ self._near[place.pipe]) > JOIN_MASS_LATE and not any(
                        k == key[0] and (k, n) in leaks for k, n in place.members
                    ):
                        place.members.add(key)
                        self._placed.add(key)
                        break
                    continue
                if abs(leak.alarm_s - place.alarm_s) < JOIN_DAYS * DAY_S and float(leak.where @ self._near[place.pipe]) > JOIN_MASS_LATE:
                    place.members.add(key)
                    self._placed.add(key)
                    break

    def _raise(self, now_s: float, leaks: dict[tuple[int, int], SeenLeak]) -> list[Place]:
        """Return new places: where most of the trackers have a leak that belongs to none yet."""
        free = {key: leak for key, leak in leaks.items() if key not in self._placed and not self._faint(key, leak, now_s)}
        found: list[Place] = []
        new = {key: leak for key, leak in free.items() if (self._weights(leak.opened_s) < self._weight).any()}
        if new:
            found += self._raise_of(now_s, leaks, new, self._weight_before)
            free = {key: leak for key, leak in free.items() if key not in self._placed}
        return found + self._raise_of(now_s, leaks, free, self._weight)

    def _weights(self, opened_s: float) -> FloatArray:
        """Return how much each member counts where a leak began at an instant."""
        looked = np.array([getattr(t, "looked_s", np.inf) for t in self.trackers])
        return np.where(looked < opened_s + SAY_DAYS * DAY_S, self._weight_before, self._weight)

    def _raise_of(
        self, now_s: float, leaks: dict[tuple[int, int], SeenLeak], free: dict[tuple[int, int], SeenLeak], weight: FloatArray
    ) -> list[Place]:
        found: list[Place] = []
        while free:
            share = self._share(free, weight)
            mass = self._near @ share
            j = int(np.argmax(mass))
            if mass[j] < RAISE_MASS:
                break
            mine = {key for key, leak in free.items() if float(leak.where @ self._near[j]) > JOIN_MASS}
            if not mine:
                break
            young = {(k, n) for k, n in mine if k in self._audits and now_s - free[k, n].alarm_s < CONFIRM_DAYS * DAY_S}
            if young and len({k for k, _ in mine} - self._audits) < RAISE_MASS * self._tracking:
                free = {key: leak for key, leak in free.items() if key not in young}
                continue
            abrupt = bool(sum((2.0 * free[k, n].abrupt - 1.0) * weight[k] for k, n in mine) > 0.0)
            known = next((p for p in self.running() if self._same(p, j, now_s)), None)
            settled = now_s - float(np.median([free[key].alarm_s for key in mine])) >= SETTLED_DAYS * DAY_S
            if self._left_over(mine, leaks, now_s):
                pass
            elif known is not None and self._added(known, mine, leaks) < OWN_FLOW_M3PH:
                # growth of the known leak, or another one: that is told when the flow stands
                if settled:
                    known.members |= mine
                    self._placed |= mine
            else:
                self._placed |= mine
                self.count += 1
                opened = float(np.median([free[key].opened_s for key in mine]))
                place = Place(self.count, j, now_s, opened, mine, share, abrupt=abrupt)
                self.places.append(place)
                found.append(place)
            free = {key: leak for key, leak in free.items() if key not in mine}
        return found

    def _same(self, place: Place, pipe: int, now_s: float) -> bool:
        """Return whether what shows at a pipe may be the leak of a place: near it, or not far while that place is new and may be wrong."""
        far = min(self.distance[pipe, p] for p in (place.pipe, place.dig_pipe, place.dug_pipe) if p >= 0)
        reach = self.digs.reach_m
        return bool(far <= (NEW_REACHES * reach if now_s - place.alarm_s < NEW_DAYS * DAY_S else reach))

    def _worth(self, place: Place) -> bool:
        """Return whether a crew is worth sending; where one was sent and no repair was reported, a second one only if it is probable enough."""
        sent = any(
            p.dug_s is not None and p.closing is not Closing.REPAIRED and self.distance[p.dug_pipe, place.dig_pipe] <= self.digs.reach_m
            for p in self.places
        )
        return (not sent or place.mass >= AGAIN_MASS) and self.digs.worth_eur(place.mass, place.flow_m3ph) > 0.0

    def _left_over(self, new: set[tuple[int, int]], leaks: dict[tuple[int, int], SeenLeak], now_s: float) -> bool:
        """Return whether something new may be what the model got wrong of a leak that was just repaired: then it has to stay."""
        mended = [p.peak_m3ph for p in self.places if p.closing is Closing.REPAIRED and now_s - (p.ended_s or 0.0) < NEW_DAYS * DAY_S]
        flow = float(np.mean([max(self.trackers[k].flow(leaks[k, n]), 0.0) for k, n in new]))
        return any(flow < LEFT_OVER_SHARE * peak for peak in mended)

    def _added(self, known: Place, new: set[tuple[int, int]], leaks: dict[tuple[int, int], SeenLeak]) -> float:
        """Return how much more those that see something new near a place see in both together than the place alone ever lost."""

        def flow(keys: set[tuple[int, int]], member: int) -> float:
            return sum(max(self.trackers[k].flow(leaks[k, n]), 0.0) for k, n in keys if k == member and (k, n) in leaks)

        members = {k for k, _ in new}
        alone = float(np.mean([flow(new, k) for k in members]))
        together = float(np.mean([flow(new, k) + flow(known.members, k) for k in members]))
        return min(alone, together - known.peak_m3ph)

    def _part_of(self, place: Place, key: tuple[int, int], leak: SeenLeak, now_s: float) -> bool:
        """Return whether a leak belongs to a place, or was held back near it as a part of it."""
        return key in place.members or (key not in self._placed and self._same(place, int(np.argmax(leak.where)), now_s))

    def _share(self, leaks: dict[tuple[int, int], SeenLeak], weight: FloatArray) -> FloatArray:
        """Return for each pipe the share of trackers that have one of these leaks there."""
        total = np.zeros(len(self.near))
        for k in range(len(self.trackers)):
            mine = [leak.where for (tracker, _), leak in leaks.items() if tracker == k]
            if mine:
                total += weight[k] * np.minimum(np.sum(mine, axis=0), 1.0)
        return np.asarray(total / weight.sum(), np.float64)

    def _measure(self, place: Place, mine: dict[tuple[int, int], SeenLeak]) -> None:
        weight = self._weights(place.opened_s)
        place.where = self._share(mine, weight)
        place.seen = float(sum(weight[k] for k in {k for k, _ in mine}) / weight.sum())
        place.flow_m3ph = max(self._flow(mine), 0.0)
        place.dig_pipe, place.mass = self._aim(place.where)

    def _flow(self, leaks: Mapping[tuple[int, int], SeenLeak]) -> float:
        """Return what those that see leaks see in all of them together, as a median."""
        seeing = sorted({k for k, _ in leaks})
        return float(np.median([sum(self.trackers[k].flow(leak) for (k, _), leak in leaks.items() if k == t) for t in seeing]))

    def _aim(self, where: FloatArray) -> tuple[int, float]:
        """Return the pipe to dig at, and how much of a probability lies within its reach.

        Of all pipes whose reach holds nearly as much: the one from which it is not far to what is probable.
        """
        mass = self._near @ where
        j = int(np.argmax(mass))
        inside = np.flatnonzero(self.near[j])
        middle = int(inside[np.argmin(self.distance[np.ix_(inside, inside)] @ where[inside])])
        pipe = middle if mass[middle] >= MOVED_SHARE * mass[j] else j
        return pipe, min(float(mass[pipe]), 1.0)

    def _closing(self, place: Place) -> Closing | None:
        reasons = [
            leak.closing
            for k, t in enumerate(self.trackers)
            for leak in t.leaks
            if (k, leak.number) in place.members and leak.closing is not None
        ]
        return max(set(reasons), key=reasons.count) if reasons else None

    def _forget(self, now_s: float) -> None:
        """Drop places that ended long ago, and of the others that ended all but what a later dig is compared with."""
        ended = [p for p in self.places if p.ended_s is not None]
        for place in ended:
            kept = AGAIN_DAYS if place.dug_s is not None and place.closing is not Closing.REPAIRED else FORGET_DAYS
            if now_s - (place.ended_s or now_s) > kept * DAY_S or place in ended[:-ENDED_PLACES_MAX]:
                self.places.remove(place)
                self._placed -= place.members
            elif place.ended_s != now_s:  # what has just ended is still told, with where it was
                place.where = np.zeros(0)
        # what a member has forgotten never comes again: its numbers only grow
        known = {(k, leak.number) for k, tracker in enumerate(self.trackers) for leak in tracker.leaks}
        self._placed &= known
        for place in self.places:
            place.members &= known

    # -- state ----------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Return everything that the next step depends on."""
        return {
            "trackers": [t.state() for t in self.trackers],
            "places": [
                {
                    **{name: getattr(p, name) for name in _PLACE},
                    "members": sorted(list(key) for key in p.members),
                    "where": p.where,
                    "closing": None if p.closing is None else p.closing.value,
                }
                for p in self.places
            ],
            "count": self.count,
            "placed": sorted(list(key) for key in self._placed),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        for tracker, own in zip(self.trackers, state["trackers"], strict=True):
            tracker.restore(own)
        self.places = [
            Place(
                **{name: p[name] for name in _PLACE},
                members={(k, n) for k, n in p["members"]},
                where=p["where"],
                closing=None if p["closing"] is None else Closing(p["closing"]),
            )
            for p in state["places"]
        ]
        self.count = state["count"]
        self._placed = {(k, n) for k, n in state["placed"]}


_PLACE = (
    "number", "pipe", "alarm_s", "opened_s", "seen", "flow_m3ph", "told_m3ph", "peak_m3ph", "abrupt", "dig_pipe", "mass", "dug_s",
    "dug_pipe", "most", "ended_s",
)  # fmt: skip


def bytes_max(pipes: int, signals: int) -> int:
    """Return an upper limit of the packed state of a committee of `MEMBERS` and `AUDITS`."""
    trackers = len(MEMBERS) * leak_tracker.bytes_max(pipes, signals)
    audits = sum(leak_audit.bytes_max(pipes, signals, rules) for rules in AUDITS)
    running = len(MEMBERS) * leak_tracker.LEAKS_MAX + sum(rules.leaks_max + leak_audit.NEW_MAX for rules in AUDITS)
    return trackers + audits + running * (8 * pipes + 400) + ENDED_PLACES_MAX * 400 + 20_000
