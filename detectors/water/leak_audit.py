"""Which leaks explain all that was seen so far: the second look that a filter cannot take.

A filter decides as it goes, and what it took for the wrong leak stays wrong. The audit keeps the daily means, fits all leaks to all of them every few
days, and moves, ends, drops or adds leaks as long as that explains more. A leak has few unknowns: a pipe, a day on which it
begins, a day from which on it no longer grows, perhaps a day on which it ends, and a flow.

    y(t) = b(t) + sum over leaks of g(t) (q S[j] + e) + noise,        g a ramp from 0 to 1 that ends with the leak

The biases ``b`` wander, and ``e`` is what the model gets wrong in the pattern of a leak (a part of its size, in any direction); whitened by the noise
of a day both have the same covariance in time for every signal, so that all profiles and all pipes are judged by two products of matrices.

The steady part of the supply stands beside them: it says nothing of where a leak is, but how much leaks in all, and for years. Its bias hardly
wanders and it shows every leak with its flow, so it has a covariance in time of its own, and adds to the ratio of every pipe alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import nnls

from detectors.contract import BoolArray, FloatArray, IntArray
from detectors.water.leak_tracker import STEADY_DRIFT, Closing, Noise

FINE_DAYS, BLOCK_DAYS, BLOCKS_MAX = 119, 7, 104
"""Days are kept as they are for so long, then as weeks, at most two years of them."""
ENDED_MAX = 120
"""So many leaks that have ended are kept."""
DAYS_MIN = 16
GROWTH_DAYS = (1.0, 7.0, 14.0, 24.0, 36.0, 50.0, 70.0, 95.0)
SHIFT_DAYS = (-16.0, -8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
SHIFT_HOURS = (-12.0, -6.0, -3.0, -1.5, 1.5, 3.0, 6.0, 12.0)
"""A sudden begin or end is looked for to the hour: half of a day of a large leak is many times the noise of a day."""
STRETCH = (0.6, 0.8, 1.0, 1.25, 1.6)
END_DAYS = 45.0
END_RATIO = 20.0
FROZEN_DAYS = 60.0
FULL_AHEAD_DAYS = 40.0
NEW_MAX = 6
FLOW_MIN_M3PH = 0.15
ERROR_MIN = 1e-3
"""An error of a pattern with less variance than that, in parts of that of a day, is not felt."""
ABRUPT_DAYS = 2.0
FAULTY_Z, FAULTY_TIMES = 10.0, 3.0
FAULTY_MEAN_DAYS = 7
FAULT_RATIO, FAULT_SHARE = 40.0, 0.01
"""A gauge that errs alone is believed where it explains more than the best leak by that ratio and that part of it."""
FAULTS_SHARE_MAX = 0.25
SILENT_DAYS, SILENT_SHARE = 60, 0.3
SIGNALS_MIN = 2
"""A signal that was silent for more than that share of so many days is left out; with fewer others than that an audit does not look."""
STEADY_ERROR = 0.05
"""The steady part of the supply shows a leak larger or smaller by that part: its flow follows the pressure, which falls when customers draw."""
REPAIR_CHANCE_MIN = 0.15
MERGE_MASS = 0.3
MOVED_MASS = 0.2
"""A leak that moved so far that less of its probability lies where it was is another leak."""


@dataclass(frozen=True, slots=True)
class AuditRules:
    """What an audit believes.

    Attributes
    ----------
    every_days, phase_days : int
        When it looks.
    drift : float
        Step of a bias from one day to the next, in parts of the noise of a daily mean.
    knot_days : float
        How finely the biases may wander.
    bias : float
        What a bias may be at the begin, in the same parts.
    pattern_error : float
        Part of a signature that the model gets wrong, as norms.
    error_directions : int
        In how many directions the error of a pattern lies: it is no noise that all signals share, but looks like another leak nearby.
    after_error : float
        Part of that which stays when a leak has ended.
    temper : float
        How much less a likelihood ratio says where it is large, because the model is wrong in the same way every day.
    add_ratio, keep_ratio : float
        Likelihood ratios (twice the logarithm) from which on a leak is believed, and below which it is given up.
    leaks_max : int
    """

    every_days: int = 4
    phase_days: int = 0
    drift: float = 0.25
    knot_days: float = 15.0
    bias: float = 0.5
    pattern_error: float = 0.15
    error_directions: int = 8
    after_error: float = 0.5
    temper: float = 0.01
    add_ratio: float = 40.0
    keep_ratio: float = 25.0
    leaks_max: int = 24


@dataclass(eq=False, slots=True)
class AuditedLeak:
    """A leak that the audit believes in.

    Attributes
    ----------
    number : int
    pipe : int
        Most probable pipe; certain where `known` (a crew repaired it there).
    begin, full : float
        Days on which it begins and no longer grows.
    end : float or None
        Day on which it ended.
    full_m3ph : float
        Flow from `full` on.
    ratio : float
        Likelihood ratio against its not being there.
    where : ndarray, shape (p,)
    opened_s, alarm_s : float
    abrupt, known : bool
    closing : Closing or None
    """

    number: int
    pipe: int
    begin: float
    full: float
    end: float | None
    full_m3ph: float
    ratio: float
    where: FloatArray
    opened_s: float
    alarm_s: float
    abrupt: bool = False
    known: bool = False
    closing: Closing | None = None


@dataclass(frozen=True, slots=True)
class _Time:
    """Covariance in time of what is no leak: ``I + F V F'``, through `inside` = ``(1 / V + F'F)^-1``."""

    basis: FloatArray
    inside: FloatArray

    def inverse_times(self, x: FloatArray) -> FloatArray:
        return np.asarray(x - self.basis @ (self.inside @ (self.basis.T @ x)), np.float64)

    def sizes(self, profiles: FloatArray) -> FloatArray:
        """Return ``g' C^-1 g`` for each row."""
        seen = profiles @ self.basis
        return np.asarray(np.maximum((profiles * profiles).sum(1) - ((seen @ self.inside) * seen).sum(1), 1e-9), np.float64)


class LeakAudit:
    """All leaks of a section at once; speaks like a `LeakTracker`.

    Parameters
    ----------
    signatures : ndarray, shape (p, m)
        Change of each signal for 1 m3/h lost in each pipe.
    near : ndarray of bool, shape (p, p)
    length_m : ndarray, shape (p,)
    noise : Noise
    rules : AuditRules

    Notes
    -----
    Cost of a look: ``O(K n p m)`` for K leaks, n profiles and p pipes, about 0.1 s for 800 pipes and 31 signals; state 225 rows of m numbers.
    """

    def __init__(self, signatures: FloatArray, near: BoolArray, length_m: FloatArray, noise: Noise, rules: AuditRules) -> None:
        self.near, self.rules = near, rules
        self.m, self._steady = signatures.shape[1], noise.steady
        self._cov, self._signatures = noise.learned_from, signatures
        self._used: IntArray = np.zeros(0, np.int64)
        self._use(np.arange(self.m - self._steady))
        self._steady_sd = float(np.sqrt(self._cov[-1, -1])) if self._steady else np.inf
        self._prior = np.log(length_m / length_m.sum())
        self.leaks: list[AuditedLeak] = []
        self.count = 0
        self.day = 0
        self.looked_s = -np.inf
        self._rows: list[FloatArray] = []
        self._first: list[int] = []
        self._many: list[int] = []
        self._bad: list[int] = []
        self._shift: FloatArray = np.zeros((0, self.m))
        self._y: FloatArray = np.zeros((0, self.m))
        self._suspect: tuple[float, int] = (0.0, -1)
        self._supply: FloatArray = np.zeros(0)
        self._told: FloatArray = np.zeros(0)
        self._days: FloatArray = np.zeros(0)
        self._at: IntArray = np.zeros(0, np.int64)
        self._scale: FloatArray = np.zeros(0)
        self._wander: FloatArray = np.zeros((0, 0))
        self._known: dict[tuple[float, float, float | None], FloatArray] = {}
        self._steps: dict[float, FloatArray] = {}

    # -- what is known --------------------------------------------------------------------------------------------------------------

    def running(self) -> list[AuditedLeak]:
        """Return the leaks that are believed to run."""
        return [leak for leak in self.leaks if leak.end is None]

    @property
    def bad(self) -> Sequence[int]:
        """Return the signals that are left out because they err."""
        return self._bad

    def flow(self, leak: AuditedLeak) -> float:
        """Return the present flow of a leak in m3/h."""
        return leak.full_m3ph * float(np.clip((self.day - leak.begin) / max(leak.full - leak.begin, 1.0), 0.0, 1.0))

    def let_go(self, leak: AuditedLeak, now_s: float, why: Closing, pipe: int | None = None) -> None:
        """Believe that a leak has ended; `pipe` is where a crew found it."""
        leak.end, leak.closing = float(self.day), why
        if pipe is not None:
            leak.pipe, leak.known = pipe, True
            leak.where = np.zeros(len(self.near))
            leak.where[pipe] = 1.0

    def repaired(self, now_s: float, pipe: int) -> None:
        """Close the leak that was repaired in a pipe; where none is known, there was one, and the next look finds since when."""
        chances = [(float(leak.where @ self.near[pipe]), leak.number, leak) for leak in self.running()]
        chance, _, leak = max(chances, key=lambda c: c[:2], default=(0.0, 0, None))
        if leak is None or chance < REPAIR_CHANCE_MIN:
            self.count += 1
            begin = max(self.day - 30.0, 1.0)
            leak = AuditedLeak(self.count, pipe, begin, begin + 1, None, 1.0, 0.0, np.zeros(len(self.near)), now_s, now_s)
            self.leaks.append(leak)
        self.let_go(leak, now_s, Closing.REPAIRED, pipe)

    # -- one step -------------------------------------------------------------------------------------------------------------------

    def step(self, now_s: float, recent: Sequence[FloatArray], end_of_day: bool, per_day: int, judging: bool = True) -> None:
        """Keep the newest daily mean at the end of a day, and look every few days."""
        if not end_of_day:
            return
        self._rows.append(recent[-1])
        self._first.append(self.day)
        self._many.append(1)
        self.day += 1
        self._thin()
        if judging and self.day >= DAYS_MIN and self.day % self.rules.every_days == self.rules.phase_days:
            self.look(now_s)

    def look(self, now_s: float) -> None:
        """Fit all leaks anew, and see whether there are others; nothing while too few signals speak."""
        if not self._prepare():
            return
        self.looked_s = now_s
        self._fit_flows()
        self._sweep(now_s)
        new = 0
        while new < NEW_MAX and len(self.running()) < self.rules.leaks_max and self._add(now_s):
            new += 1
        if new:
            self._sweep(now_s)
        self._merge(now_s)
        if self._find_faulty():
            if not self._prepare():
                return
            self._sweep(now_s)
        self._keep_shift()
        self._forget()

    def _thin(self) -> None:
        """Put the oldest days together to a week."""
        if self._many.count(1) < FINE_DAYS + BLOCK_DAYS:
            return
        k = self._many.index(1)
        part = np.array(self._rows[k : k + BLOCK_DAYS])
        count = np.isfinite(part).sum(0)
        mean = np.where(count > 0, np.nansum(part, 0) / np.maximum(count, 1), np.nan)
        self._rows[k : k + BLOCK_DAYS], self._many[k : k + BLOCK_DAYS] = [mean], [BLOCK_DAYS]
        del self._first[k + 1 : k + BLOCK_DAYS]
        if k >= BLOCKS_MAX:
            del self._rows[0], self._first[0], self._many[0]

    # -- the model in time ----------------------------------------------------------------------------------------------------------

    def _prepare(self) -> bool:
        """Set the model in time up, and the rows that it is to explain; return whether enough signals speak."""
        first, many = np.array(self._first), np.array(self._many)
        self._days = np.arange(first[0], first[-1] + many[-1]) + 1.0
        self._at, self._scale = first - first[0], 1.0 / np.sqrt(many)
        self._known, self._steps = {}, {}
        knots = np.arange(self._days[0] + self.rules.knot_days, self._days[-1], self.rules.knot_days)
        wander = np.clip((self._days - knots[:, None]) / self.rules.knot_days + 1.0, 0.0, 1.0)
        self._wander = self._blocks(np.vstack((np.ones((1, len(self._days))), wander)))
        rows = np.array(self._rows)
        silent = (~np.isfinite(rows[-SILENT_DAYS:])).mean(0) > SILENT_SHARE
        silent[list(self._bad)] = True
        silent[self.m - self._steady :] = True
        if (~silent).sum() < min(SIGNALS_MIN, self.m):
            return False
        steady = rows[:, -1] / self._steady_sd * np.sqrt(many)
        self._told = np.isfinite(steady).astype(np.float64)
        self._supply = np.nan_to_num(steady)
        self._use(np.flatnonzero(~silent))
        rows = rows[:, self._used]
        gone = ~np.isfinite(rows)
        if gone.any():
            rows = self._filled(rows, gone)
        self._y = np.linalg.solve(self._root, rows.T).T * np.sqrt(many)[:, None]
        return True

    def _use(self, signals: IntArray) -> None:
        """Look at these signals only: one that is off or silent for long says nothing, and what it should say depends on what is searched for."""
        if np.array_equal(signals, self._used):
            return
        cov = self._cov[np.ix_(signals, signals)]
        self._used, self._root, self._sd = signals, np.linalg.cholesky(cov), np.sqrt(np.diag(cov))
        self._a = np.linalg.solve(self._root, self._signatures[:, signals].T).T
        self._size = (self._a**2).sum(1)
        self._alone = np.linalg.solve(self._root, np.diag(self._sd)).T

    def _filled(self, rows: FloatArray, gone: BoolArray) -> FloatArray:
        """Return rows with what is gone as it should be, given the leaks and what the other signals of that day are off."""
        expected, cov = self._expected(), self._cov[np.ix_(self._used, self._used)]
        left = np.where(gone, 0.0, rows - expected)
        for which in np.unique(gone[gone.any(1)], axis=0):
            same = (gone == which).all(1)
            seen = np.flatnonzero(~which)
            if len(seen):
                others = np.linalg.solve(cov[np.ix_(seen, seen)], cov[np.ix_(seen, which)])
                left[np.ix_(same, which)] = left[np.ix_(same, seen)] @ others
        return np.asarray(np.where(gone, expected + left, rows), np.float64)

    def _blocks(self, fine: FloatArray) -> FloatArray:
        """Return sums over blocks of days, divided by the root of their number."""
        return np.asarray(np.add.reduceat(fine, self._at, axis=-1) * self._scale, np.float64)

    def _profiles(self, begin: FloatArray, full: FloatArray, end: FloatArray) -> FloatArray:
        """Return profiles of leaks, shape (n, rows); `end` is NaN where a leak runs."""
        grown = np.clip((self._days - begin[:, None]) / np.maximum(full - begin, 1.0)[:, None], 0.0, 1.0)
        runs = np.clip(np.where(np.isnan(end), np.inf, end)[:, None] - self._days + 1.0, 0.0, 1.0)
        return self._blocks(grown * runs)

    def _of(self, leaks: Sequence[AuditedLeak]) -> FloatArray:
        missing = [x for x in leaks if (x.begin, x.full, x.end) not in self._known]
        if missing:
            found = self._profiles(*(np.array([np.nan if v is None else v for v in vs]) for vs in _columns(missing)))
            self._known.update({(x.begin, x.full, x.end): row for x, row in zip(missing, found, strict=True)})
        return np.array([self._known[x.begin, x.full, x.end] for x in leaks])

    def _after(self, end: float) -> FloatArray:
        """Return a step at the end of a leak."""
        if end not in self._steps:
            self._steps[end] = self._blocks(np.clip(self._days - end, 0.0, 1.0))
        return self._steps[end]

    def _time(self, leaks: Sequence[AuditedLeak]) -> _Time:
        """Return the covariance in time of what is no leak, in each signal that is whitened."""
        rules = self.rules
        parts = min(rules.error_directions, len(self._used))
        wrong = [(rules.pattern_error * x.full_m3ph) ** 2 * self._size[x.pipe] / parts for x in leaks]
        return self._covariance(leaks, wrong, rules.drift)

    def _steady_time(self, leaks: Sequence[AuditedLeak]) -> _Time:
        """Return the same of the steady part of the supply."""
        wrong = [(STEADY_ERROR * x.full_m3ph / self._steady_sd) ** 2 for x in leaks]
        return self._covariance(leaks, wrong, self.rules.drift * STEADY_DRIFT, self._told)

    def _covariance(self, leaks: Sequence[AuditedLeak], wrong: Sequence[float], drift: float, told: FloatArray | None = None) -> _Time:
        rules = self.rules
        basis, variance = list(self._wander), [rules.bias**2, *[drift**2 * rules.knot_days] * (len(self._wander) - 1)]
        felt = [(x, w) for x, w in zip(leaks, wrong, strict=True) if w > ERROR_MIN]
        over = [(x.end, w) for x, w in felt if x.end is not None]
        if felt:
            basis += [*(self._after(end) for end, _ in over), *self._of([x for x, _ in felt])]
            variance += [*(w * rules.after_error**2 for _, w in over), *(w for _, w in felt)]
        f = np.array(basis).T
        if told is not None:
            f *= told[:, None]
        upper, _ = lapack.dpotrf(f.T @ f + np.diag(1.0 / np.array(variance)))
        half, _ = lapack.dpotri(upper)
        return _Time(f, np.asarray(np.triu(half) + np.triu(half, 1).T, np.float64))

    def _steady_left(self, leaks: Sequence[AuditedLeak]) -> FloatArray:
        """Return the steady part of the supply less what leaks explain."""
        if not leaks:
            return self._supply
        return self._supply - self._told * (np.array([x.full_m3ph for x in leaks]) / self._steady_sd @ self._of(leaks))

    def _left(self, leaks: Sequence[AuditedLeak]) -> FloatArray:
        """Return the rows less what leaks explain."""
        if not leaks:
            return self._y
        return np.asarray(
            self._y - self._of(leaks).T @ (np.array([x.full_m3ph for x in leaks])[:, None] * self._a[[x.pipe for x in leaks]])
        )

    def _expected(self) -> FloatArray:
        """Return what leaks and biases make of every row, in the units of the signals that are used."""
        many = np.array(self._many)
        white = np.zeros((len(many), len(self._used)))
        if self.leaks:
            white += self._of(self.leaks).T @ (np.array([x.full_m3ph for x in self.leaks])[:, None] * self._a[[x.pipe for x in self.leaks]])
        found = np.asarray((white / np.sqrt(many)[:, None]) @ self._root.T, np.float64)
        known = min(len(self._shift), len(many))
        if known:
            found[:known] += self._shift[:known, self._used]
            found[known:] += self._shift[-1, self._used]
        return found

    def _keep_shift(self) -> None:
        """Keep what biases and errors of patterns make of every row, to fill gaps with next time."""
        time, left = self._time(self.leaks), self._left(self.leaks)
        white = time.basis @ (time.inside @ (time.basis.T @ left)) / np.sqrt(np.array(self._many))[:, None]
        self._shift = np.zeros((len(white), self.m))
        self._shift[:, self._used] = white @ self._root.T

    # -- the search -----------------------------------------------------------------------------------------------------------------

    def _fit_flows(self) -> None:
        """Fit the flows of all leaks together, none below 0."""
        if not self.leaks:
            return
        profiles, a = self._of(self.leaks), self._a[[x.pipe for x in self.leaks]]
        for _ in range(2):
            time = self._time(self.leaks)
            normal = (profiles @ time.inverse_times(profiles.T)) * (a @ a.T)
            seen = np.einsum("kd,dm,km->k", profiles, time.inverse_times(self._y), a)
            if self._steady:
                steady, shown = self._steady_time(self.leaks), profiles * self._told / self._steady_sd
                normal += shown @ steady.inverse_times(shown.T)
                seen += shown @ steady.inverse_times(self._supply)
            root = np.linalg.cholesky(normal + 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal)))
            flows, _ = nnls(root.T, np.linalg.solve(root, seen))
            for leak, q in zip(self.leaks, flows.tolist(), strict=True):
                leak.full_m3ph = q

    def _scan(
        self, others: Sequence[AuditedLeak], begin: FloatArray, full: FloatArray, end: FloatArray, pipe: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return (ratios, flows) of one more leak, shape (profiles, pipes)."""
        time, profiles = self._time(others), self._profiles(begin, full, end)
        a, size = (self._a, self._size) if pipe is None else (self._a[pipe : pipe + 1], self._size[pipe : pipe + 1])
        seen = profiles @ time.inverse_times(self._left(others))
        along = seen @ a.T
        own = time.sizes(profiles)[:, None]
        sizes = own * size
        if self._steady:
            steady, shown = self._steady_time(others), profiles * self._told / self._steady_sd
            along += (shown @ steady.inverse_times(self._steady_left(others)))[:, None]
            sizes += steady.sizes(shown)[:, None]
        flow = along / sizes
        ratios = np.maximum(along, 0.0) * flow
        if pipe is None:
            fault = (seen @ self._alone.T) ** 2 / (own * (self._alone**2).sum(1))
            k = int(np.argmax(fault.max(0)))
            self._suspect = (float(fault[:, k].max()) - FAULT_RATIO - (1.0 + FAULT_SHARE) * float(ratios.max()), int(self._used[k]))
        return ratios, flow

    def _suspected(self) -> bool:
        """Leave out the signal that explains more, were it alone at fault, than any leak of the last scan; return whether there is one."""
        more, signal = self._suspect
        if more <= 0.0 or len(self._bad) + 1 > FAULTS_SHARE_MAX * self.m or len(self._used) <= SIGNALS_MIN:
            return False
        self._bad.append(signal)
        return self._prepare()

    def _place(self, leak: AuditedLeak, ratios: FloatArray) -> None:
        if leak.known:
            return
        tempered = ratios / (2.0 * (1.0 + self.rules.temper * ratios)) + self._prior
        weight = np.exp(tempered - tempered.max())
        # to the precision in which it is stored
        leak.where = np.asarray((weight / weight.sum()).astype(np.float32), np.float64)

    def _add(self, now_s: float) -> bool:
        now = float(self.day)
        oldest = float(self._days[0]) + 2.0
        begin = np.concatenate(
            (
                np.arange(oldest, max(now - 100.0, oldest), 10.0),
                np.arange(max(now - 100.0, oldest), now - 14.0, 4.0),
                np.arange(max(now - 14.0, oldest), now - 0.5),
            )
        )
        grown = np.tile(GROWTH_DAYS, len(begin))
        begin = np.repeat(begin, len(GROWTH_DAYS))
        ok = begin + grown < now + FULL_AHEAD_DAYS
        begin, full = begin[ok], (begin + grown)[ok]
        ratios, flows = self._scan(self.leaks, begin, full, np.full(len(begin), np.nan))
        if self._suspected():
            self._fit_flows()
            self._sweep(now_s)
            return self._add(now_s)
        i, j = divmod(int(np.argmax(ratios)), ratios.shape[1])
        if ratios[i, j] < self.rules.add_ratio:
            return False
        self.count += 1
        leak = AuditedLeak(
            self.count,
            j,
            float(begin[i]),
            float(full[i]),
            None,
            float(flows[i, j]),
            float(ratios[i, j]),
            np.zeros(len(self.near)),
            now_s,
            now_s,
        )
        self._place(leak, ratios[i])
        self.leaks.append(leak)
        self._refine(leak, now_s)
        self._fit_flows()
        return True

    def _sweep(self, now_s: float) -> None:
        """Look at each leak again, given all others; give up what is not needed."""
        for leak in sorted(self.leaks, key=lambda x: (-x.begin, x.number)):
            if not self._frozen(leak):
                self._refine(leak, now_s)
        self._fit_flows()
        kept = [
            x
            for x in self.leaks
            if self._frozen(x) or (x.ratio >= self.rules.keep_ratio and x.full_m3ph >= FLOW_MIN_M3PH) or x.closing is not None
        ]
        if len(kept) < len(self.leaks):
            self.leaks = kept
            self._fit_flows()

    def _merge(self, now_s: float) -> None:
        """Make one of two leaks that run near each other, where one explains about as much."""
        for number in [x.number for x in sorted(self.running(), key=lambda x: (x.full_m3ph, x.number))]:
            small = next((x for x in self.running() if x.number == number), None)
            if small is None:
                continue
            beside = [x for x in self.running() if x is not small and float(x.where @ self.near[small.pipe]) > MERGE_MASS]
            if not beside:
                continue
            before = [replace(x) for x in self.leaks]
            large = max(beside, key=lambda x: (x.full_m3ph, -x.number))
            self.leaks = [x for x in self.leaks if x is not small]
            large.full_m3ph += small.full_m3ph
            large.begin, large.full = min(large.begin, small.begin), max(large.full, small.full)
            self._refine(large, now_s)
            self._fit_flows()
            ratios, _ = self._scan(self.leaks, np.array([small.begin]), np.array([small.full]), np.array([np.nan]))
            if float(ratios.max()) < self.rules.add_ratio:
                large.alarm_s = min(large.alarm_s, small.alarm_s)
            else:
                self.leaks = before

    def _frozen(self, leak: AuditedLeak) -> bool:
        return leak.end is not None and leak.end < self.day - FROZEN_DAYS

    def _refine(self, leak: AuditedLeak, now_s: float) -> None:
        """Move a leak in time and place to where it explains most."""
        now, grown = float(self.day), max(leak.full - leak.begin, 1.0)
        growths = sorted({round(grown * f) for f in STRETCH} | {1, 7})
        end = np.nan if leak.end is None else leak.end
        tried = [(leak.begin + s, leak.begin + s + g, end) for s in SHIFT_DAYS for g in growths]
        tried += [(leak.begin + h / 24, leak.begin + h / 24 + 1.0, end) for h in SHIFT_HOURS if leak.abrupt]
        if leak.end is not None:
            tried += [(leak.begin, leak.full, leak.end + h / 24) for h in SHIFT_HOURS]
        if not leak.known:
            if leak.end is None:
                tried += [(leak.begin, leak.full, e) for e in np.arange(max(leak.begin + 3.0, now - END_DAYS), now).tolist()]
            else:
                tried += [(leak.begin, leak.full, np.nan), *((leak.begin, leak.full, leak.end + d) for d in (-2.0, -1.0, 1.0, 2.0))]
        tried = [(b, f, e) for b, f, e in tried if self._days[0] <= b < now - 0.5 and not (e <= b + 1.0 or e > now)]
        if not tried:
            return
        begins, fulls, ends = np.array(tried).T
        others = [x for x in self.leaks if x is not leak]
        ratios, flows = self._scan(others, begins, fulls, ends, leak.pipe if leak.known else None)
        if not leak.known and self._suspected():
            ratios, flows = self._scan(others, begins, fulls, ends)
        net = ratios - np.where(np.isnan(ends) | leak.known, 0.0, END_RATIO)[:, None]
        i, j = divmod(int(np.argmax(net)), ratios.shape[1])
        before = leak.where
        if not leak.known:
            leak.pipe = j
            self._place(leak, ratios[i])
            if float(before @ self.near[j]) < MOVED_MASS and leak.ratio > 0.0:
                self.count += 1
                leak.number, leak.alarm_s = self.count, now_s
        leak.begin, leak.full, leak.end = float(begins[i]), float(fulls[i]), None if np.isnan(ends[i]) else float(ends[i])
        leak.full_m3ph, leak.ratio = max(float(flows[i, j]), 0.0), float(ratios[i, j])
        leak.closing = None if leak.end is None else leak.closing or Closing.PATTERN_GONE
        leak.abrupt = leak.full - leak.begin <= ABRUPT_DAYS
        leak.opened_s = now_s - (now - leak.begin) * 86_400.0

    def _find_faulty(self) -> bool:
        """Leave a signal out that alone is off."""
        fine = self._many.count(1)
        if fine < FAULTY_MEAN_DAYS or len(self._used) < 3:
            return False
        off = np.abs(self._left(self.leaks)[-fine:] @ self._root.T) / self._sd
        recent = off[-FAULTY_MEAN_DAYS:].mean(0)
        worst = int(np.argmax(recent))
        others = float(np.delete(recent, worst).max())
        if recent[worst] < FAULTY_Z or recent[worst] < FAULTY_TIMES * others:
            return False
        self._bad.append(int(self._used[worst]))
        return True

    def _forget(self) -> None:
        """Drop leaks that ended before the first row, and of those that ended the ones that explain least."""
        ended = sorted((x for x in self.leaks if x.end is not None and x.end > self._first[0]), key=lambda x: (x.known, x.ratio, x.number))
        kept = {x.number for x in ended[-ENDED_MAX:]}
        self.leaks = [x for x in self.leaks if x.end is None or x.number in kept]

    # -- state ----------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Return everything that the next step depends on."""
        return {
            "day": self.day,
            "count": self.count,
            "looked_s": self.looked_s,
            "rows": np.array(self._rows).reshape(-1, self.m),
            "first": list(self._first),
            "many": list(self._many),
            "bad": list(self._bad),
            "shift": self._shift,
            "leaks": [
                {
                    **{name: getattr(x, name) for name in _LEAK},
                    "where": x.where.astype(np.float32),
                    "closing": None if x.closing is None else x.closing.value,
                }
                for x in self.leaks
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.day, self.count, self.looked_s = state["day"], state["count"], state["looked_s"]
        self._rows, self._first, self._many = list(state["rows"]), list(state["first"]), list(state["many"])
        self._bad = list(state["bad"])
        self._shift = state["shift"]
        self.leaks = [
            AuditedLeak(
                **{name: x[name] for name in _LEAK},
                where=x["where"].astype(np.float64),
                closing=None if x["closing"] is None else Closing(x["closing"]),
            )
            for x in state["leaks"]
        ]


_LEAK = ("number", "pipe", "begin", "full", "end", "full_m3ph", "ratio", "opened_s", "alarm_s", "abrupt", "known")


def _columns(leaks: Sequence[AuditedLeak]) -> tuple[list[float], list[float], list[float | None]]:
    return [x.begin for x in leaks], [x.full for x in leaks], [x.end for x in leaks]


def bytes_max(pipes: int, signals: int, rules: AuditRules) -> int:
    """Return an upper limit of the packed state of an audit."""
    rows = FINE_DAYS + BLOCK_DAYS + BLOCKS_MAX
    return 2 * rows * (signals * 8 + 20) + (rules.leaks_max + NEW_MAX + ENDED_MAX) * (4 * pipes + 300) + 2_000
