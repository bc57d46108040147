"""Which leaks run in a section, where, and how large: a Kalman filter over the biases of the signals and the flows of the known leaks.

The signals of a step are means over a day of what a calibrated hydraulic model does not explain. A leak of q m3/h in pipe j adds ``q S[j]`` to them.
State: the bias of each signal, which hardly drifts, and the flow of each known leak, which wanders while it grows and hardly at all when it came at
once. A new leak is what turns the difference between the mean of the last days and what the state of some days ago foresaw into the signature of
one pipe, for one of six spans of days (generalised likelihood ratio, Willsky and Jones 1976). What is known of a leak is not exact: as it comes,
grows and ends, the biases take in what a pipe nearby would have shown, and a part of its own pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from detectors.contract import BoolArray, FloatArray

SPANS_DAYS = (1, 2, 4, 8, 16, 32)
DAYS_KEPT = 42
SETTLE_DAYS = 2
"""After a change the mean over a day is a mixture of before and after; so long nothing is judged against it."""
DAYS_MIN = 3
REFINE_DAYS_ABRUPT, REFINE_DAYS = 3, 15
CLOSE_FLOW_M3PH = 1.0
REPAIR_CHANCE_MIN = 0.15
CLOSED_KEPT_DAYS = 8
TOP_PIPES = 25
SIGNALS_MIN = 3
"""With fewer signals nothing is judged."""
STEADY_DRIFT = 0.2
LEAKS_MAX = 40
"""A tracker that knows so many has lost its way; what comes then goes into the biases."""


class Closing(StrEnum):
    """Why a leak is believed to have ended."""

    REPAIRED = "repaired"
    PATTERN_GONE = "pattern_gone"


@dataclass(frozen=True, slots=True)
class Noise:
    """Covariance of a daily mean.

    Attributes
    ----------
    own : ndarray, shape (m,)
        Variance that each signal has for itself.
    shared : ndarray, shape (m, m)
        What signals have in common, because demand moved or a meter errs: it lasts `days`.
    steady : bool
        Whether the last signal is the steady part of the supply: every leak shows in it with all its flow, its noise is large and comes anew every
        day, and its bias drifts by `STEADY_DRIFT` of what those of others do.
    """

    own: FloatArray
    shared: FloatArray
    days: float = 3.0
    steady: bool = False

    def of(self, days: int) -> FloatArray:
        """Return the covariance of a mean over some days."""
        return np.asarray(np.diag(self.own / days) + self.shared * (min(days, self.days) / days), np.float64)

    @property
    def learned_from(self) -> FloatArray:
        """Return the covariance with which one day counts when day after day is learned from: the shared part comes again tomorrow."""
        return np.asarray(np.diag(self.own) + 2.0 * self.shared, np.float64)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a tracker believes.

    Attributes
    ----------
    drift : float
        Step of a bias from one day to the next, in parts of the noise of a daily mean.
    threshold : float
        Likelihood ratio (twice its logarithm) from which on a leak is believed.
    pattern_error, place_error : float
        Part of a signature that the model gets wrong, signal by signal; part of the spread of signatures near the place that stays open.
    close_error : float
        The same as `pattern_error`, where a leak ends.
    growth_m3ph, steady_m3ph, unsettled_m3ph : float
        Standard deviation of the flow's step from one day to the next: of a growing leak, of one that came at once, of one that just came or ended.
    slowing : bool
        Whether a leak that has stopped growing is held to be steadier.
    abrupt_m3ph : float
        From this flow within two days on a leak came at once.
    unexplained : float
        Chi-square for each signal that a pipe leaves, from which on a change is no leak.
    fault_z : float
        A signal that lies so many deviations off is faulty when the others are not.
    """

    drift: float = 0.1
    threshold: float = 60.0
    pattern_error: float = 0.05
    place_error: float = 0.35
    close_error: float = 0.0
    growth_m3ph: float = 0.45
    steady_m3ph: float = 0.08
    unsettled_m3ph: float = 6.0
    slowing: bool = False
    abrupt_m3ph: float = 3.0
    unexplained: float = 1e9
    fault_z: float = 8.0


@dataclass(frozen=True, slots=True)
class State:
    """Mean and covariance after `day` days: biases, then the flow of each leak in `numbers`."""

    day: int
    mean: FloatArray
    cov: FloatArray
    numbers: tuple[int, ...] = ()


@dataclass(eq=False, slots=True)
class Leak:
    """A leak that is believed.

    Attributes
    ----------
    number : int
        Counts the leaks of a tracker.
    where : ndarray, shape (p,)
        Probability of each pipe.
    pattern, spread : ndarray, shapes (m,) and (m, m)
        Mean signature where it may be, and how the true one may differ.
    opened_s, alarm_s : float
        Likely begin and time of the alarm, seconds since 1970.
    abrupt : bool
        Whether it came at once.
    walk_m3ph, calm_m3ph : float
        Standard deviation of its flow's step from one day to the next, now and from `calm_day` on.
    begin : State or None
        State before it began, while it is still being placed (until `refine_day`).
    closed_s, closing, closed_day
        When and why it ended; None while it runs.
    """

    number: int
    where: FloatArray
    pattern: FloatArray
    spread: FloatArray
    opened_s: float
    alarm_s: float
    abrupt: bool
    walk_m3ph: float
    calm_m3ph: float
    calm_day: int
    refine_day: int
    begin: State | None
    closed_s: float | None = None
    closing: Closing | None = None
    closed_day: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The best new leak at a step: likelihood ratio, what it leaves, flows and ratios by pipe, span in days, differences (0: left out)."""

    ratio: float
    unexplained: float
    flow_m3ph: FloatArray
    ratios: FloatArray
    span: int
    left: FloatArray


class LeakTracker:
    """Leaks of one section, as one set of rules sees them.

    Parameters
    ----------
    signatures : ndarray, shape (p, m)
        Change of each signal for 1 m3/h lost in each pipe.
    near : ndarray of bool, shape (p, p)
        Whether two pipes lie within the reach of a dig.
    length_m : ndarray, shape (p,)
        A priori the chance of a leak.
    noise : Noise
    rules : Rules
    """

    def __init__(self, signatures: FloatArray, near: BoolArray, length_m: FloatArray, noise: Noise, rules: Rules) -> None:
        self.signatures, self.near, self.length, self.noise, self.rules = signatures, near, length_m, noise, rules
        self._share = near / np.maximum(near.sum(1, keepdims=True), 1)
        self.m = signatures.shape[1]
        first = noise.of(1)
        self._drift = (rules.drift**2) * np.diag(first)
        if noise.steady:
            self._drift[-1] *= STEADY_DRIFT**2
        self._one, self._learned = first, noise.learned_from
        self.leaks: list[Leak] = []
        self.day = 0
        self.now = State(0, np.zeros(self.m), first)
        self._past: list[State] = []
        self._days: list[FloatArray] = []
        self._changed = self._quiet_until = -9
        self.count = 0

    # -- what is known --------------------------------------------------------------------------------------------------------------

    def running(self) -> list[Leak]:
        """Return the leaks that are believed to run."""
        return [leak for leak in self.leaks if leak.closed_s is None]

    def flow(self, leak: Leak) -> float:
        """Return the present flow of a leak in m3/h."""
        return float(self.now.mean[self._at(self.now, leak)])

    def _at(self, state: State, leak: Leak) -> int:
        return int(self.m + state.numbers.index(leak.number))

    def _known(self, state: State) -> Iterator[tuple[int, Leak]]:
        by_number = {leak.number: leak for leak in self.leaks}
        for k, number in enumerate(state.numbers):
            if number in by_number:
                yield self.m + k, by_number[number]

    # -- one step -------------------------------------------------------------------------------------------------------------------

    def step(self, now_s: float, recent: Sequence[FloatArray], end_of_day: bool, per_day: int, judging: bool = True) -> None:
        """Judge the newest daily mean in `recent` (`per_day` of them each day, oldest first); at the end of a day also learn from it."""
        if judging:
            self._calm_down()
            if self.day >= self._quiet_until:
                self._judge(now_s, recent, per_day)
            if end_of_day:
                self._refine(recent, per_day)
        if end_of_day:
            self._past = [s for s in self._past if _kept(self.day - s.day)]
            self._past.append(State(self.day, self.now.mean, self.now.cov, self.now.numbers))
            self._days = [*self._days[-DAYS_KEPT + 1 :], recent[-1]]
            self.day += 1
            self.now = self._update(self._predict(self.now, 1.0), recent[-1])
            self._forget_ended()

    def repaired(self, now_s: float, pipe: int) -> Leak | None:
        """Close the leak that was repaired in a pipe; None when none is known there: then every flow, and the pattern of the pipe, may change."""
        chances = [(float(leak.where @ self.near[pipe]), leak.number, leak) for leak in self.running()]
        if chances:
            chance, _, leak = max(chances, key=lambda c: c[:2])
            if chance > REPAIR_CHANCE_MIN:
                self.let_go(leak, now_s, Closing.REPAIRED)
                return leak
        for leak in self.running():
            leak.walk_m3ph, leak.calm_day = self.rules.unsettled_m3ph, self.day + SETTLE_DAYS
        cov = self.now.cov.copy()
        cov[: self.m, : self.m] += 4.0 * np.outer(self.signatures[pipe], self.signatures[pipe])
        self.now = State(self.now.day, self.now.mean, cov, self.now.numbers)
        self._mark_change()
        return None

    # -- the filter -----------------------------------------------------------------------------------------------------------------

    def _matrix(self, state: State) -> FloatArray:
        """Return how the signals depend on the state, shape (m, n)."""
        h = np.zeros((self.m, len(state.mean)))
        h[:, : self.m] = np.eye(self.m)
        for i, leak in self._known(state):
            h[:, i] = leak.pattern
        return h

    def _predict(self, state: State, days: float) -> State:
        cov = state.cov.copy()
        i = np.arange(self.m)
        cov[i, i] += self._drift * days
        for at, leak in self._known(state):
            cov[at, at] += leak.walk_m3ph**2 * days
            if leak.walk_m3ph > self.rules.steady_m3ph:
                cov[: self.m, : self.m] += leak.spread * (leak.walk_m3ph**2 * days)
        return State(state.day, state.mean, cov, state.numbers)

    def _update(self, state: State, y: FloatArray) -> State:
        ok = np.isfinite(y)
        if not ok.any():
            return state
        h, cov = self._matrix(state), state.cov
        r = np.where(ok, y, 0.0) - h @ state.mean
        z = r / np.sqrt(np.einsum("ij,ij->i", h @ cov, h) + np.diag(self._one))
        # one signal that is far off while the others are not is a faulty gauge, and its bias may go anywhere
        faulty = ok & (np.abs(z) > self.rules.fault_z) & (np.abs(z) > 8 * max(float(np.median(np.abs(z[ok]))), 1.0))
        if 0 < faulty.sum() <= 2:
            i = np.flatnonzero(faulty)
            cov = cov.copy()
            cov[i, i] += r[i] ** 2
        h, r = h[ok], r[ok]
        ph = cov @ h.T
        gain = np.linalg.solve(h @ ph + self._learned[np.ix_(ok, ok)], ph.T).T
        cov = cov - gain @ ph.T
        return State(state.day, state.mean + gain @ r, (cov + cov.T) / 2, state.numbers)

    # -- is there another leak? -----------------------------------------------------------------------------------------------------

    def _before(self, span: int) -> State | None:
        """Return the newest state that is at least `span` days old."""
        return next((s for s in reversed(self._past) if self.day - s.day >= span), None)

    def _judge(self, now_s: float, recent: Sequence[FloatArray], per_day: int) -> None:
        found: Verdict | None = None
        closing: tuple[float, tuple[Leak, ...]] | None = None
        for span in SPANS_DAYS:
            state: State | None = self.now if span == 1 else self._before(span)
            if state is None or self.day - span < DAYS_MIN or (span > 1 and state.day < self._changed):
                break
            days = 1 if span == 1 else self.day - state.day
            half = max(1, days // 2)
            y, ok = _mean(recent, half, per_day)
            if ok.sum() < SIGNALS_MIN:
                continue
            verdict, d, expected = self._compare(self._predict(state, float(days)), y, ok, half, days)
            if found is None or verdict.ratio > found.ratio:
                found = verdict
            closing = max((c for c in (closing, self._ended(state, d, expected)) if c is not None), key=lambda c: c[0], default=None)
        if found is None:
            return
        if closing is not None and closing[0] > max(self.rules.threshold, 0.8 * found.ratio):
            for leak in closing[1]:
                self.let_go(leak, now_s, Closing.PATTERN_GONE)
        elif found.ratio > self.rules.threshold:
            if found.unexplained > max(self.rules.unexplained * self.m, found.ratio) or len(self.leaks) >= LEAKS_MAX:
                self._learn_anew(found)
            else:
                self._open(now_s, found)

    def _ended(self, state: State, d: FloatArray, expected: FloatArray) -> tuple[float, tuple[Leak, ...]] | None:
        """Return (likelihood ratio, leaks) of what best explains differences as the end of a known leak, or of all known leaks of one place."""
        use = np.isfinite(d)
        running = [(i, leak, int(np.argmax(leak.where))) for i, leak in self._known(state) if leak.closed_s is None]
        groups = {tuple(other for other in running if self.near[pipe, other[2]]) for _, _, pipe in running} | {(one,) for one in running}
        best: tuple[float, tuple[Leak, ...]] | None = None
        for group in sorted(groups, key=lambda g: [x[1].number for x in g]):
            flows = np.array([max(float(state.mean[i]), 0.0) for i, _, _ in group])
            total = float(flows.sum())
            if total <= CLOSE_FLOW_M3PH:
                continue
            s = sum((q * leak.pattern for q, (_, leak, _) in zip(flows, group, strict=True)), np.zeros(self.m))[use] / total
            solved = np.linalg.solve(expected, np.column_stack((d[use], s)))
            size = float(s @ solved[:, 1])
            fall = -float(s @ solved[:, 0]) / size
            if fall > 0.5 * total and (best is None or fall * fall * size > best[0]):
                best = (fall * fall * size, tuple(leak for _, leak, _ in group))
        return best

    def _compare(self, state: State, y: FloatArray, ok: BoolArray, averaged: int, span: int) -> tuple[Verdict, FloatArray, FloatArray]:
        """Return the best new leak, the differences (NaN: left out) and their covariance."""
        h = self._matrix(state)
        d = np.where(ok, y - h @ state.mean, np.nan)
        full = h @ state.cov @ h.T + self.noise.of(averaged)
        for _ in range(3):
            use = np.isfinite(d)
            expected = full[np.ix_(use, use)]
            inverse = np.linalg.inv(expected)
            a = self.signatures[:, use]
            along = a @ (inverse @ d[use])
            size = np.einsum("ij,ij->i", a @ inverse, a)
            flow = along / size
            ratios = np.where(flow > 0, along * flow, 0.0)
            j = int(np.argmax(ratios))
            total = float(d[use] @ inverse @ d[use])
            rest = np.abs(d[use] - max(float(flow[j]), 0.0) * a[j]) / np.sqrt(np.diag(expected))
            worst = int(np.argmax(rest))
            others = np.delete(rest, worst)
            if total - ratios[j] < 60 or rest[worst] < self.rules.fault_z or len(others) < 2 or rest[worst] < 3 * others.max():
                break
            d[np.flatnonzero(use)[worst]] = np.nan
        use = np.isfinite(d)
        left = np.where(use, d, 0.0)
        return Verdict(float(ratios[j]), total - float(ratios[j]), flow, ratios, span, left), d, full[np.ix_(use, use)]

    def _where(self, found: Verdict) -> FloatArray:
        """Return a probability for each pipe; what is left unexplained says how far the model is off, and widens it."""
        freedom = max(self.m - 2.0, 1.0)
        tempered = found.ratios / (2.0 * (1.0 + 0.01 * found.ratio + found.unexplained / freedom / 4.0))
        weight = np.exp(tempered - tempered.max()) * self.length
        # to the precision in which it is stored
        return np.asarray((weight / weight.sum()).astype(np.float32), np.float64)

    def _spread(self, where: FloatArray, pattern: FloatArray) -> FloatArray:
        top = np.argsort(where, kind="stable")[::-1][:TOP_PIPES]
        weight = where[top] @ self._share[top]
        weight = weight / weight.sum()
        mean = weight @ self.signatures
        around = (self.signatures * weight[:, None]).T @ self.signatures - np.outer(mean, mean)
        around = (around + around.T) / 2
        return np.asarray(self.rules.place_error**2 * around + np.diag((self.rules.pattern_error * pattern) ** 2), np.float64)

    # -- what changes ---------------------------------------------------------------------------------------------------------------

    def _open(self, now_s: float, found: Verdict) -> None:
        rules = self.rules
        where = self._where(found)
        q = float(where @ found.flow_m3ph)
        abrupt = found.span <= 2 and q > rules.abrupt_m3ph
        pattern = where @ self.signatures
        begin = self._before(found.span + 1) or (self._past[0] if self._past else self.now)
        self.count += 1
        leak = Leak(
            self.count, where, pattern, self._spread(where, pattern), now_s - found.span * 86_400.0, now_s, abrupt,
            rules.unsettled_m3ph if abrupt else 1.0, rules.steady_m3ph if abrupt else rules.growth_m3ph, self.day + SETTLE_DAYS,
            self.day + (REFINE_DAYS_ABRUPT if abrupt else REFINE_DAYS), begin,
        )  # fmt: skip
        self.leaks.append(leak)
        self._again(leak, begin, q)
        self._mark_change()

    def _again(self, leak: Leak, begin: State, q: float) -> None:
        """Filter the days since `begin` once more, with the new leak among those that are known."""
        n = len(begin.mean)
        mean, cov = np.append(begin.mean, 0.0), np.zeros((n + 1, n + 1))
        cov[:n, :n] = begin.cov
        cov[n, n] = max(4.0, q * q)
        cov[: self.m, : self.m] += leak.spread * (q * q)
        state = State(begin.day, mean, cov, (*begin.numbers, leak.number))
        missing = [x for x in self.leaks if x.number not in state.numbers]
        for other in missing:  # a leak that was opened since: known from here on
            k = len(state.mean)
            mean, cov = np.append(state.mean, 0.0), np.zeros((k + 1, k + 1))
            cov[:k, :k], cov[k, k] = state.cov, 4.0
            state = State(state.day, mean, cov, (*state.numbers, other.number))
        back = self.day - begin.day
        past = [s for s in self._past if s.day < begin.day]
        for k, y in enumerate(self._days[len(self._days) - back :] if back else ()):
            past.append(State(begin.day + k, state.mean, state.cov, state.numbers))
            state = self._update(self._predict(state, 1.0), y)
        self._past, self.now = past, State(self.day, state.mean, state.cov, state.numbers)

    def _refine(self, recent: Sequence[FloatArray], per_day: int) -> None:
        """Look again where the newest leak is, while nothing else happened since: more days tell more."""
        leak = self.leaks[-1] if self.leaks else None
        if leak is None or leak.begin is None:
            return
        if leak.closed_s is not None or self.day >= leak.refine_day:
            leak.begin = None
            return
        begin, others = leak.begin, {x.number for x in self.leaks if x is not leak}
        if self.day < leak.calm_day - 1 or not others <= set(begin.numbers):
            return
        days = max(1, self.day - begin.day)
        y, ok = _mean(recent, max(1, min(self.day - leak.calm_day + 1, 4)), per_day)
        if ok.sum() < SIGNALS_MIN:
            return
        verdict, _, _ = self._compare(self._predict(begin, float(days)), y, ok, 1, days)
        if verdict.ratio > self.rules.threshold:
            leak.where = self._where(verdict)
            leak.pattern = leak.where @ self.signatures
            leak.spread = self._spread(leak.where, leak.pattern)

    def let_go(self, leak: Leak, now_s: float, why: Closing, pipe: int | None = None) -> None:
        """Believe that a leak has ended; where a crew found it changes nothing."""
        i = self._at(self.now, leak)
        q = float(self.now.mean[i])
        leak.closed_s, leak.closing, leak.closed_day = now_s, why, self.day
        leak.walk_m3ph, leak.calm_m3ph, leak.calm_day = self.rules.unsettled_m3ph, 0.02, self.day + SETTLE_DAYS
        cov = self.now.cov.copy()
        cov[i, :] = cov[:, i] = 0.0
        cov[i, i] = q * q + 25.0
        cov[: self.m, : self.m] += leak.spread * (q * q) + np.diag((self.rules.close_error * leak.pattern * q) ** 2)
        self.now = State(self.now.day, self.now.mean, cov, self.now.numbers)
        self._mark_change()

    def _learn_anew(self, found: Verdict) -> None:
        """A change that no pipe explains is no leak that could be found: the biases take it in."""
        cov = self.now.cov.copy()
        cov[: self.m, : self.m] += np.outer(found.left, found.left) + np.diag(found.left**2)
        self.now = State(self.now.day, self.now.mean, cov, self.now.numbers)
        self._mark_change()

    def _forget_ended(self) -> None:
        """Drop leaks that ended some days ago: what is left of them becomes part of the biases."""
        for leak in [x for x in self.leaks if x.closed_s is not None and self.day - x.closed_day >= CLOSED_KEPT_DAYS]:
            i = self._at(self.now, leak)
            to = np.delete(np.eye(len(self.now.mean)), i, axis=0)
            to[: self.m, i] = leak.pattern
            cov = to @ self.now.cov @ to.T
            self.now = State(self.now.day, to @ self.now.mean, (cov + cov.T) / 2, tuple(k for k in self.now.numbers if k != leak.number))
            self.leaks.remove(leak)
            self._past = [self._without(s, leak) for s in self._past]
            for other in self.leaks:
                if other.begin is not None:
                    other.begin = self._without(other.begin, leak)

    def _without(self, state: State, leak: Leak) -> State:
        if leak.number not in state.numbers:
            return state
        i = self._at(state, leak)
        to = np.delete(np.eye(len(state.mean)), i, axis=0)
        to[: self.m, i] = leak.pattern
        cov = to @ state.cov @ to.T
        return State(state.day, to @ state.mean, (cov + cov.T) / 2, tuple(k for k in state.numbers if k != leak.number))

    def _calm_down(self) -> None:
        rules = self.rules
        for leak in self.leaks:
            if self.day < leak.calm_day:
                continue
            leak.walk_m3ph = leak.calm_m3ph
            if rules.slowing and leak.closed_s is None and not leak.abrupt:
                before = self._before(6)
                q = self.flow(leak)
                known = before is not None and leak.number in before.numbers
                rate = abs(q - float(before.mean[self._at(before, leak)])) / 6 if before is not None and known else 1.0
                age = self.day - leak.calm_day + 3
                leak.walk_m3ph = min(rules.growth_m3ph, max(0.1, 0.35 * q / age, 1.2 * rate))

    def _mark_change(self) -> None:
        self._changed = self.day + 1
        self._quiet_until = self.day + SETTLE_DAYS

    # -- state ----------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Return everything that the next step depends on; patterns and spreads follow from where leaks are."""
        return {
            "day": self.day,
            "count": self.count,
            "changed": self._changed,
            "quiet_until": self._quiet_until,
            "now": _packed(self.now),
            "past": [_packed(s) for s in self._past],
            "days": np.array(self._days).reshape(-1, self.m),
            "leaks": [
                {
                    **{name: getattr(leak, name) for name in _LEAK},
                    "where": leak.where.astype(np.float32),
                    "begin": None if leak.begin is None else _packed(leak.begin),
                    "closing": None if leak.closing is None else leak.closing.value,
                }
                for leak in self.leaks
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.day, self.count = state["day"], state["count"]
        self._changed, self._quiet_until = state["changed"], state["quiet_until"]
        self.now, self._past = _unpacked(state["now"]), [_unpacked(s) for s in state["past"]]
        self._days = list(state["days"])
        self.leaks = []
        for one in state["leaks"]:
            where = one["where"].astype(np.float64)
            pattern = where @ self.signatures
            self.leaks.append(
                Leak(
                    **{name: one[name] for name in _LEAK},
                    where=where,
                    pattern=pattern,
                    spread=self._spread(where, pattern),
                    begin=None if one["begin"] is None else _unpacked(one["begin"]),
                    closing=None if one["closing"] is None else Closing(one["closing"]),
                )
            )


_LEAK = (
    "number", "opened_s", "alarm_s", "abrupt", "walk_m3ph", "calm_m3ph", "calm_day", "refine_day", "closed_s", "closed_day",
)  # fmt: skip


def _packed(state: State) -> list[object]:
    return [state.day, state.mean, state.cov, list(state.numbers)]


def _unpacked(state: Sequence[Any]) -> State:
    return State(state[0], state[1], state[2], tuple(state[3]))


def _kept(age: int) -> bool:
    """Return whether a state that old is still of use: the older, the fewer.

    Examples
    --------
    >>> [age for age in range(45) if _kept(age)]
    [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40]
    """
    return age <= 6 or (age <= 12 and age % 2 == 0) or (age <= 24 and age % 4 == 0) or (age <= 40 and age % 8 == 0)


def _mean(recent: Sequence[FloatArray], days: int, per_day: int) -> tuple[FloatArray, BoolArray]:
    """Return the mean of the last `days` daily means, and where half of them are there."""
    rows = np.array(recent[-1 : -(days * per_day) - 1 : -per_day])
    count = np.isfinite(rows).sum(0)
    return np.nansum(rows, 0) / np.maximum(count, 1), count >= (len(rows) + 1) // 2


def bytes_max(pipes: int, signals: int) -> int:
    """Return an upper limit of the packed state of a tracker."""
    return 18 * (signals + LEAKS_MAX) ** 2 * 8 + LEAKS_MAX * (4 * pipes + 200)
