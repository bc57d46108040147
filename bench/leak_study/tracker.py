"""Leaks from what a calibrated model does not explain: a Kalman filter over known leaks, and a likelihood ratio for the next one.

One vector of m signals a step (residuals of pressures in m, and of an inlet's share in m3/h, as means over 24 h, brought to one load). A leak of
q m3/h in pipe j adds ``q * signature[j]``. State: the bias of each signal, which drifts slowly, and the flow of each known leak, which wanders
slowly while it grows and hardly at all when it came at once. A new leak is what turns the difference between the mean of the last days and what
the state of some days ago foresaw into the pattern of one pipe, for one of six spans (generalised likelihood ratio, Willsky and Jones 1976). What is
known of a leak is not exact: its bias takes in what a pipe nearby would have shown, and a part of its own pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPANS_DAYS = (1, 2, 4, 8, 16, 32)
LEARN_DAYS = 14
UNSETTLED_M3PH = 6.0
"""Standard deviation of a flow from one day to the next while the mean over 24 h is a mixture of before and after."""
GONE_M3PH = 0.4
"""A leak whose flow is estimated below this has ended."""
SETTLE_DAYS = 2
"""After a change the mean over 24 h is a mixture; nothing is judged against it so long."""


@dataclass(frozen=True)
class Rules:
    """What the tracker believes, per step of a day.

    Attributes
    ----------
    noise, drift : ndarray, shape (m,)
        Standard deviation of a daily mean, and of the bias' step from one day to the next.
    threshold : float
        Likelihood ratio (twice its logarithm) from which on a leak is believed.
    pattern_error, place_error : float
        Part of a leak's pattern that the model gets wrong; part of the spread of patterns within 300 m that its place leaves open.
    growth, steadiness : float
        Standard deviation of a growing leak's, and of a steady leak's, flow from one day to the next, m3/h.
    abrupt_m3ph : float
        From this flow within two days on a leak came at once.
    fault_z : float
        A signal that lies so many deviations off what the best leak explains is faulty.
    """

    noise: Floats
    drift: Floats
    threshold: float = 45.0
    pattern_error: float = 0.05
    place_error: float = 0.35
    growth: float = 0.45
    steadiness: float = 0.08
    abrupt_m3ph: float = 3.0
    fault_z: float = 8.0


@dataclass(eq=False)
class Leak:
    """A leak that is believed: where (a probability for each pipe), since when, how large, and until when."""

    where: Floats
    pattern: Floats
    spread: Floats
    opened_s: float
    alarm_s: float
    abrupt: bool
    walk: float
    calm_walk: float
    calm_from: int
    before: tuple[Floats, Floats, int]
    refine_until: int
    closed_s: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The best new leak at a step: ratio, what is left unexplained, flows and ratios by pipe, and the span in days."""

    ratio: float
    unexplained: float
    flow: Floats
    ratios: Floats
    span: int


class Tracker:
    """Tracks leaks in one hydraulic area.

    Parameters
    ----------
    signatures : ndarray, shape (p, m)
        Change of each signal for 1 m3/h lost in each pipe, the inflow unchanged.
    near : ndarray of bool, shape (p, p)
        Whether two pipes lie within the distance at which a dig succeeds.
    length : ndarray, shape (p,)
        Of each pipe in m: a priori the chance of a leak.
    rules : Rules
    """

    def __init__(self, signatures: Floats, near: NDArray[np.bool_], length: Floats, rules: Rules) -> None:
        self.signatures, self.near, self.length, self.rules = signatures, near, length, rules
        self._share = near / np.maximum(near.sum(1, keepdims=True), 1)
        self.m = signatures.shape[1]
        self.x, self.cov = np.zeros(self.m), np.diag(rules.noise**2)
        self.leaks: list[Leak] = []
        self._states: list[tuple[Floats, Floats]] = []
        self._days: list[Floats] = []
        self._changed = self._quiet_until = -9

    # -- one step -------------------------------------------------------------------------------------------------------------------

    def step(self, now_s: float, recent: list[Floats], end_of_day: bool, per_day: int) -> None:
        """Judge the newest mean in `recent` (one each step); at the end of a day also learn from it."""
        y = recent[-1]
        if len(self._days) >= LEARN_DAYS:
            self._calm_down()
            if len(self._days) >= self._quiet_until:
                self._judge(now_s, recent, per_day)
            if end_of_day:
                self._refine(recent, per_day)
        if end_of_day:
            self._states.append((self.x, self.cov))
            self._days.append(y)
            self.x, self.cov = self._update(*self._predict(self.x, self.cov, 1.0), y)

    def flow(self, leak: Leak) -> float:
        """Return the present flow of a leak in m3/h."""
        return float(self.x[self.m + self.leaks.index(leak)])

    def best(self, leak: Leak) -> tuple[int, float]:
        """Return the pipe around which most probability lies, and how much."""
        mass = self.near @ leak.where
        return int(np.argmax(mass)), float(mass.max())

    def repaired(self, now_s: float, pipe: int) -> Leak | None:
        """Close the leak that was repaired in a pipe; None when none is known there: then every flow, and the pattern of the pipe, may change."""
        open_leaks = [(float(leak.where @ self.near[pipe]), i) for i, leak in enumerate(self.leaks) if leak.closed_s is None]
        if open_leaks and max(open_leaks)[0] > 0.15:
            leak = self.leaks[max(open_leaks)[1]]
            self._let_go(leak, now_s)
            return leak
        for leak in self.leaks:
            if leak.closed_s is None:
                leak.walk, leak.calm_from = UNSETTLED_M3PH, len(self._days) + SETTLE_DAYS
        self.cov[: self.m, : self.m] += 4.0 * np.outer(self.signatures[pipe], self.signatures[pipe])
        self._mark_change()
        return None

    # -- the filter -----------------------------------------------------------------------------------------------------------------

    def _pattern_matrix(self, n: int) -> Floats:
        return np.hstack([np.eye(self.m), *(leak.pattern[:, None] for leak in self.leaks[:n])])

    def _predict(self, x: Floats, cov: Floats, days: float) -> tuple[Floats, Floats]:
        cov = cov.copy()
        i = np.arange(self.m)
        cov[i, i] += self.rules.drift**2 * days
        for k, leak in enumerate(self.leaks[: len(x) - self.m]):
            cov[self.m + k, self.m + k] += leak.walk**2 * days
            if leak.walk > self.rules.steadiness:
                cov[: self.m, : self.m] += leak.spread * (leak.walk**2 * days)
        return x, cov

    def _update(self, x: Floats, cov: Floats, y: Floats) -> tuple[Floats, Floats]:
        patterns = self._pattern_matrix(len(x) - self.m)
        ok = np.isfinite(y)
        r, noise = np.where(ok, y, 0.0) - patterns @ x, self.rules.noise**2
        z = r / np.sqrt(np.einsum("ij,jk,ik->i", patterns, cov, patterns) + noise)
        # one signal that is far off while the others are not is a faulty gauge, and its bias may go anywhere
        typical = np.median(np.abs(z[ok])) if ok.any() else 0.0
        faulty = ok & (np.abs(z) > self.rules.fault_z) & (np.abs(z) > 8 * max(typical, 1.0))
        if 0 < faulty.sum() <= 2:
            i = np.flatnonzero(faulty)
            cov = cov.copy()
            cov[i, i] += r[i] ** 2
        patterns, r = patterns[ok], r[ok]
        expected = patterns @ cov @ patterns.T + np.diag(noise[ok])
        gain = np.linalg.solve(expected, patterns @ cov).T
        cov = cov - gain @ patterns @ cov
        return x + gain @ r, (cov + cov.T) / 2

    # -- is there another leak? -----------------------------------------------------------------------------------------------------

    def _mean(self, recent: list[Floats], days: int, per_day: int) -> tuple[Floats, NDArray[np.bool_]]:
        rows = np.array(recent[-1 : -(days * per_day) - 1 : -per_day])
        count = np.isfinite(rows).sum(0)
        with np.errstate(invalid="ignore"):
            return np.nansum(rows, 0) / np.maximum(count, 1), count >= (len(rows) + 1) // 2

    def _judge(self, now_s: float, recent: list[Floats], per_day: int) -> None:
        found: Verdict | None = None
        closing: tuple[float, Leak] | None = None
        for span in SPANS_DAYS:
            begin = len(self._days) - span
            if begin < 3 or (span > 1 and begin < self._changed):
                break
            x, cov = (self.x, self.cov) if span == 1 else self._states[begin]
            half = max(1, span // 2)
            y, ok = self._mean(recent, half, per_day)
            verdict, d, expected = self._compare(*self._predict(x, cov, float(span)), y, ok, half, span)
            if found is None or verdict.ratio > found.ratio:
                found = verdict
            for k, leak in enumerate(self.leaks[: len(x) - self.m]):
                if leak.closed_s is None and x[self.m + k] > 1.0:
                    s = leak.pattern[np.isfinite(d)]
                    v = np.linalg.solve(expected, d[np.isfinite(d)])
                    size = float(s @ np.linalg.solve(expected, s))
                    q = float(s @ v) / size
                    if -q > 0.5 * x[self.m + k] and (closing is None or q * q * size > closing[0]):
                        closing = (q * q * size, leak)
        if found is None:
            return
        if closing is not None and closing[0] > max(self.rules.threshold, 0.8 * found.ratio):
            self._let_go(closing[1], now_s)
        elif found.ratio > self.rules.threshold:
            self._open(now_s, found)

    def _compare(
        self, x: Floats, cov: Floats, y: Floats, ok: NDArray[np.bool_], averaged: int, span: int
    ) -> tuple[Verdict, Floats, Floats]:
        """Return the best new leak, the differences (NaN: left out) and their covariance."""
        patterns = self._pattern_matrix(len(x) - self.m)
        d = np.where(ok, y - patterns @ x, np.nan)
        full = patterns @ cov @ patterns.T + np.diag(self.rules.noise**2 / averaged)
        for _ in range(3):
            use = np.isfinite(d)
            expected = full[np.ix_(use, use)]
            inverse = np.linalg.inv(expected)
            a = self.signatures[:, use]
            along = a @ (inverse @ d[use])
            size = np.einsum("ij,jk,ik->i", a, inverse, a)
            flow = along / size
            ratios = np.where(flow > 0, along**2 / size, 0.0)
            j = int(np.argmax(ratios))
            total = float(d[use] @ inverse @ d[use])
            rest = (d[use] - max(flow[j], 0.0) * a[j]) / np.sqrt(np.diag(expected))
            worst = int(np.argmax(np.abs(rest)))
            others = np.delete(np.abs(rest), worst)
            if total - ratios[j] < 60 or abs(rest[worst]) < self.rules.fault_z or abs(rest[worst]) < 3 * others.max():
                break
            d[np.flatnonzero(use)[worst]] = np.nan
        use = np.isfinite(d)
        return Verdict(float(ratios[j]), total - float(ratios[j]), flow, ratios, span), d, full[np.ix_(use, use)]

    def _where(self, verdict: Verdict) -> Floats:
        """Return a probability for each pipe; what is left unexplained says how far the model is off, and widens it."""
        freedom = max(self.m - 2.0, 1.0)
        tempered = verdict.ratios / (2.0 * (1.0 + 0.01 * verdict.ratio + verdict.unexplained / freedom / 4.0))
        weight = np.exp(tempered - tempered.max()) * self.length
        return weight / weight.sum()

    def _spread(self, where: Floats, pattern: Floats) -> Floats:
        top = np.argsort(where)[::-1][:25]
        weight = where[top] @ self._share[top]
        weight /= weight.sum()
        mean = weight @ self.signatures
        around = (self.signatures * weight[:, None]).T @ self.signatures - np.outer(mean, mean)
        return self.rules.place_error**2 * around + np.diag((self.rules.pattern_error * pattern) ** 2)

    def _open(self, now_s: float, found: Verdict) -> None:
        where = self._where(found)
        q = float(where @ found.flow)
        abrupt = found.span <= 2 and q > self.rules.abrupt_m3ph
        pattern = where @ self.signatures
        calm = self.rules.steadiness if abrupt else self.rules.growth
        n = len(self._days)
        begin = max(0, n - found.span - 1)
        leak = Leak(
            where, pattern, self._spread(where, pattern), now_s - found.span * 86_400.0, now_s, abrupt, UNSETTLED_M3PH if abrupt else 1.0, calm,
            n + SETTLE_DAYS, (*self._states[begin], begin), n + (3 if abrupt else 15),
        )  # fmt: skip
        self.leaks.append(leak)
        self._again(leak, begin, q)
        self._mark_change()

    def _again(self, leak: Leak, begin: int, q: float) -> None:
        """Filter the days since `begin` once more, with the new leak among those that are known."""
        x0, cov0 = self._states[begin]
        size = self.m + len(self.leaks)
        x, cov = np.zeros(size), np.zeros((size, size))
        x[: len(x0)] = x0
        cov[: len(x0), : len(x0)] = cov0
        for k in range(len(x0), size):
            cov[k, k] = max(4.0, q * q)
        cov[: self.m, : self.m] += leak.spread * q * q
        for k in range(begin, len(self._days)):
            self._states[k] = (x, cov)
            x, cov = self._update(*self._predict(x, cov, 1.0), self._days[k])
        self.x, self.cov = x, cov

    def _refine(self, recent: list[Floats], per_day: int) -> None:
        """Look again where the newest leak is, while nothing else happened since: more days tell more."""
        if not self.leaks:
            return
        leak = self.leaks[-1]
        n = len(self._days)
        x0, cov0, begin = leak.before
        if leak.closed_s is not None or n >= leak.refine_until or n < leak.calm_from - 1 or len(x0) - self.m != len(self.leaks) - 1:
            return
        y, ok = self._mean(recent, max(1, min(n - leak.calm_from + 1, 4)), per_day)
        verdict, _, _ = self._compare(*self._predict(x0, cov0, float(n - begin)), y, ok, 1, n - begin)
        if verdict.ratio > self.rules.threshold:
            leak.where = self._where(verdict)
            leak.pattern = leak.where @ self.signatures
            leak.spread = self._spread(leak.where, leak.pattern)

    def _let_go(self, leak: Leak, now_s: float) -> None:
        i = self.m + self.leaks.index(leak)
        q = self.x[i]
        leak.closed_s, leak.walk, leak.calm_walk, leak.calm_from = now_s, UNSETTLED_M3PH, 0.02, len(self._days) + SETTLE_DAYS
        self.cov[i, :] = self.cov[:, i] = 0.0
        self.cov[i, i] = q * q + 25.0
        self.cov[: self.m, : self.m] += leak.spread * q * q
        self._mark_change()

    def _calm_down(self) -> None:
        for leak in self.leaks:
            if len(self._days) >= leak.calm_from:
                leak.walk = leak.calm_walk

    def _mark_change(self) -> None:
        self._changed = len(self._days) + 1
        self._quiet_until = len(self._days) + SETTLE_DAYS
