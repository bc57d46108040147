"""What is usual at a quality station: every probe's day, what the others say of it, and how far all of them go together over minutes and hours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detectors.contract import BoolArray, FloatArray
from detectors.water.profile import BLOCK_SLOTS, BLOCKS, SlotProfile

RING = 24
LOOKS: tuple[tuple[int, int, int], ...] = ((1, 0, 0), (6, 0, 0), (24, 0, 0), (2, 2, 8), (6, 6, 24))
"""What is looked at: the mean of the last rows, less that of rows from .. to before them (none: 0, 0): three levels and two steps."""
LEVELS, STEPS = slice(0, 2), 4
SCALES = tuple(now for now, _, _ in LOOKS)
COVERED = 0.6
LEVEL_GAIN = 1.0 - math.exp(-5.0 / (12 * 60.0))
COV_MEMORY = 20.0 * 288
COV_ROWS_MIN = 288.0
CLIP = 4.0
RIDGE = 0.05
JOINT_RIDGE = 0.01
DAYS_KEPT = 28
DAYS_MIN = 5
RETURN_DAYS = 30 * 365.0
"""How seldom the peaks of quiet days reach the limit of one look."""
WHITE_LIMIT = 5.0
SPREAD_MIN = 0.25
LIMIT_UNKNOWN = 1e9
PROFILE_DAYS_MIN = 2
ROWS_OF_BLOCK = 20 * BLOCK_SLOTS
BLOCK_ROWS_MIN = 5


def normal_score(square: float, freedom: int) -> float:
    """Return how many standard deviations a chi-square value of `freedom` degrees stands out, by the cube root.

    References
    ----------
    Wilson and Hilferty (1931), The distribution of chi-square, doi 10.1073/pnas.17.12.684.

    Examples
    --------
    The 99.9 % point of six degrees of freedom is 22.46; that of a normal variable is 3.09.

    >>> round(normal_score(22.46, 6), 1)
    3.1
    """
    part = 2.0 / (9.0 * freedom)
    return float((math.cbrt(max(square, 0.0) / freedom) - (1.0 - part)) / math.sqrt(part))


def return_level(daily_peaks: FloatArray, days: float) -> float:
    """Return the height that daily peaks reach once in `days`, from a Gumbel law by median and quartiles.

    References
    ----------
    Coles (2001), An Introduction to Statistical Modeling of Extreme Values, ch. 3, doi 10.1007/978-1-4471-3675-0.

    Examples
    --------
    Peaks of 2.0 +- little: a few tenths for each factor e of time.

    >>> round(return_level(np.array([1.8, 1.9, 2.0, 2.1, 2.2]), math.exp(4.0)), 2)
    2.91
    """
    low, middle, high = np.quantile(daily_peaks, (0.25, 0.5, 0.75))
    # the lower half counts where it is narrower: days on which something happened stand in the upper one
    spread = max(min(float(high - low) / 1.5725, float(middle - low) / 0.6931), SPREAD_MIN)
    return float(middle) + spread * (math.log(days) - 0.3665)


def _mean(total: FloatArray, count: FloatArray, rows: int) -> FloatArray:
    return np.where(count >= max(1.0, COVERED * rows), total / np.maximum(count, 1.0), np.nan)


class QualityBaseline:
    """Day, level, spread and common variation of the probes of one station.

    Parameters
    ----------
    floor : ndarray of float64, shape (n,)
        Smallest standard deviation of each probe.

    Notes
    -----
    Residual ``r = x - profile[slot] - level``, the level with a time constant of 12 h. With the joint second moments R of r and ``P = R^-1`` the
    part of probe j that the others do not explain is ``u_j = sum_k P_jk r_k / P_jj``; ``z_j = u_j / sd_j[half hour]``. R is taken into use once a
    day. Five looks at z: means over 1, 6 and 24 grid times, and two steps (`LOOKS`). Of each look m the second moments C are kept over 20 days, z
    clipped to 4; ``T2 = m' C^-1 m`` over the probes that are there becomes a normal score w (Wilson and Hilferty), so that the number of probes does
    not matter. The limit of w is what its daily peaks reach once in thirty years by a Gumbel law, at least 5. State 4 kB a probe.
    """

    def __init__(self, floor: FloatArray) -> None:
        self.width = n = len(floor)
        self.profile = SlotProfile(floor, np.full(n, 2, np.int64))
        self.level = np.zeros(n)
        self.joint = np.zeros((n, n))
        self.joints = np.zeros((n, n))
        self.used = np.full((n, n), np.nan)
        self.square = np.zeros((BLOCKS, n))
        self.squares = np.zeros((BLOCKS, n))
        self._inverse: dict[bytes, tuple[FloatArray, FloatArray]] = {}
        self._floor = floor
        self.rest = np.full((RING, n), np.nan)
        self.wide = np.full((RING, n), np.nan)
        self.z = np.full((RING, n), np.nan)
        self.moment = np.zeros((len(SCALES), n, n))
        self.moments = np.zeros((len(SCALES), n, n))
        self.peaks = np.empty((0, len(SCALES)))
        self.today = np.full(len(SCALES), -np.inf)
        self.day = -1
        self.limit = np.full(len(SCALES), LIMIT_UNKNOWN)
        self._all = np.arange(n)

    def expect(self, slot: int) -> tuple[FloatArray, FloatArray]:
        """Return (expected, standard deviation) of every probe; NaN where less than three days are known."""
        mean, sd, days = self.profile.expect(np.full(self.width, slot), self._all)
        return np.where(days >= PROFILE_DAYS_MIN, mean + self.level, np.nan), sd

    def partial(self, rest: FloatArray, use: BoolArray) -> FloatArray:
        """Return what of each residual the other probes do not explain; NaN where unknown.

        Of a probe that must do without another one, less is explained: it is scaled down to what it would be with all of them.
        """
        out = np.full(self.width, np.nan)
        there = use & np.isfinite(rest) & np.isfinite(np.diag(self.used))
        if there.any():
            own, factor = self._precision(there)
            of = np.flatnonzero(there)
            out[of] = (own @ rest[of]) * factor
        return out

    def _precision(self, there: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return (rows of the precision over their diagonal, factor of each) of some probes."""
        key = there.tobytes()
        if key not in self._inverse:
            known = np.isfinite(np.diag(self.used))
            whole = np.zeros(self.width)
            whole[known] = np.diag(np.linalg.inv(self.used[np.ix_(known, known)]))
            of = np.flatnonzero(there)
            inverse = np.linalg.inv(self.used[np.ix_(of, of)])
            own = np.diag(inverse)
            if len(self._inverse) >= 64:
                self._inverse.clear()
            self._inverse[key] = inverse / own[:, None], np.sqrt(np.minimum(own / whole[of], 1.0))
        return self._inverse[key]

    def spread(self, slot: int) -> FloatArray:
        """Return the standard deviation of what is not explained, at the half hour of a slot and the nearer one beside it; NaN where unknown."""
        block = slot // BLOCK_SLOTS
        beside = (block + (-1 if slot % BLOCK_SLOTS < BLOCK_SLOTS // 2 else 1)) % BLOCKS
        count = self.squares[block] + self.squares[beside]
        square = self.squares[block] * self.square[block] + self.squares[beside] * self.square[beside]
        known = count >= BLOCK_ROWS_MIN
        return np.where(known, np.maximum(np.sqrt(square / np.maximum(count, 1.0)), self._floor), np.nan)

    def push(self, rest: FloatArray, slot: int, use: BoolArray) -> FloatArray:
        """Take the residuals of a grid time; return what of them the other probes do not explain."""
        own, wide = self.partial(rest, use), self.spread(slot)
        for ring, row in ((self.rest, rest), (self.wide, wide), (self.z, own / wide)):
            ring[:-1] = ring[1:]
            ring[-1] = row
        return own

    def forget(self, which: BoolArray) -> None:
        """Take what some probes said lately as not said."""
        self.rest[:, which] = np.nan

    def again(self, use: BoolArray) -> None:
        """Look at the last rows as if there were only the probes of `use`."""
        self.z = self.rows(self.rest, self.wide, use)

    def rows(self, rest: FloatArray, wide: FloatArray, use: BoolArray) -> FloatArray:
        """Return the standardised residuals of rows, each probe against those of `use` that were there."""
        out = np.full(rest.shape, np.nan)
        there = use & np.isfinite(rest) & np.isfinite(np.diag(self.used))
        if not len(rest) or not there.any():
            return out
        for pattern in np.unique(there, axis=0):
            if pattern.any():
                of, at = np.flatnonzero(pattern), np.flatnonzero((there == pattern).all(1))
                own, factor = self._precision(pattern)
                cells = np.ix_(at, of)
                out[cells] = (rest[cells] @ own.T) * factor / wide[cells]
        return out

    def means(self, z: FloatArray | None = None) -> FloatArray:
        """Return what `LOOKS` says of the last rows, shape (looks, n); NaN where less than 60 % is there."""
        ring = self.z if z is None else z
        good = np.isfinite(ring)
        value = np.where(good, ring, 0.0)
        out = np.full((len(SCALES), self.width), np.nan)
        count, total = np.zeros((RING + 1, self.width)), np.zeros((RING + 1, self.width))
        np.cumsum(good[::-1], axis=0, out=count[1:])
        np.cumsum(value[::-1], axis=0, out=total[1:])
        for i, (now, begin, end) in enumerate(LOOKS):
            mean = _mean(total[now], count[now], now)
            out[i] = mean if end == 0 else mean - _mean(total[end] - total[begin], count[end] - count[begin], end - begin)
        return out

    def covariance(self) -> FloatArray:
        """Return the second moments of what each look says, shape (looks, n, n)."""
        matrix = self.moment.copy()
        # a little of its own for each probe: two that always moved together need not do so for ever
        matrix[:, self._all, self._all] = np.maximum(matrix[:, self._all, self._all], 1e-6) * (1.0 + RIDGE)
        return matrix

    @property
    def known(self) -> BoolArray:
        """Return which probes have second moments."""
        return np.asarray(np.diag(self.moments[-1]) >= COV_ROWS_MIN)

    def scores(self, means: FloatArray, use: BoolArray) -> FloatArray:
        """Return w of every scale over the probes of `use` that are there; -inf without any."""
        out = np.full(len(SCALES), -np.inf)
        there = use & np.isfinite(means)
        matrix = self.covariance()
        left = np.asarray(there.any(1), np.bool_)
        while left.any():
            # the looks that see the same probes together
            pattern = there[int(np.argmax(left))]
            of, looks = np.flatnonzero(pattern), np.flatnonzero(left & (there == pattern).all(1))
            m = means[np.ix_(looks, of)]
            solved = np.linalg.solve(matrix[np.ix_(looks, of, of)], m[:, :, None])[:, :, 0]
            for i, square in zip(looks.tolist(), (m * solved).sum(1).tolist(), strict=True):
                out[i] = normal_score(square, len(of))
            left[looks] = False
        return out

    def ratio(self, use: BoolArray, looks: slice = slice(None)) -> float:
        """Return the greatest score over its limit, as if there were only the probes of `use`."""
        share = (self.scores(self.means(self.rows(self.rest, self.wide, use)), use) / self.limit)[looks]
        return float(share.max()) if len(share) and np.isfinite(share).any() else 0.0

    def learn(self, day: int, slot: int, x: FloatArray, own: FloatArray, means: FloatArray, scores: FloatArray) -> None:
        """Take a quiet grid time in; NaN is a gap."""
        if day != self.day:
            if np.isfinite(self.today).all():
                self.peaks = np.concatenate((self.peaks, self.today[None]))[-DAYS_KEPT:]
            if len(self.peaks) >= DAYS_MIN:
                self.limit = np.array([max(return_level(p, RETURN_DAYS), WHITE_LIMIT) for p in self.peaks.T])
            self.day, self.today = day, np.full(len(SCALES), -np.inf)
            self._settle()
        self.today = np.maximum(self.today, scores)
        base = np.full(self.width, slot)
        mean, sd, days = self.profile.expect(base, self._all)
        self.profile.learn(base, self._all, x, mean + self.level)
        known = (days >= 1) & np.isfinite(x)
        error = np.where(known, x - mean - self.level, 0.0)
        limit = np.where(np.isfinite(sd) & (days >= PROFILE_DAYS_MIN), CLIP * sd, np.inf)
        self.level += LEVEL_GAIN * np.clip(error, -limit, limit)
        self._learn_joint(slot, error, limit, own, known & (days >= PROFILE_DAYS_MIN))
        m = np.clip(means, -CLIP, CLIP)
        product = m[:, :, None] * m[:, None, :]
        good = np.isfinite(product)
        self.moments = np.minimum(self.moments + good, COV_MEMORY)
        self.moment += np.where(good, (np.where(good, product, 0.0) - self.moment) / np.maximum(self.moments, 1.0), 0.0)

    def _learn_joint(self, slot: int, error: FloatArray, limit: FloatArray, own: FloatArray, known: BoolArray) -> None:
        rest = np.where(known, np.clip(error, -limit, limit), np.nan)
        product = np.outer(rest, rest)
        good = np.isfinite(product)
        self.joints = np.minimum(self.joints + good, COV_MEMORY)
        self.joint += np.where(good, (np.where(good, product, 0.0) - self.joint) / np.maximum(self.joints, 1.0), 0.0)
        block = slot // BLOCK_SLOTS
        usual = self.spread(slot)
        bound = np.where(np.isfinite(usual) & (self.squares[block] >= 2 * BLOCK_SLOTS), CLIP * usual, np.inf)
        with np.errstate(invalid="ignore"):
            part = np.clip(own, -bound, bound)
        seen = np.isfinite(part)
        self.squares[block] = np.minimum(self.squares[block] + seen, ROWS_OF_BLOCK)
        self.square[block] += np.where(
            seen, (np.where(seen, part, 0.0) ** 2 - self.square[block]) / np.maximum(self.squares[block], 1.0), 0.0
        )

    def _settle(self) -> None:
        """Take the joint moments into use, once a day."""
        own = np.diag(self.joints) >= COV_ROWS_MIN
        matrix = np.where(np.outer(own, own), self.joint, np.nan)
        of = np.flatnonzero(own)
        matrix[of, of] = np.maximum(self.joint[of, of], self._floor[of] ** 2) * (1.0 + JOINT_RIDGE)
        self.used = matrix
        self._inverse.clear()

    @property
    def ready(self) -> bool:
        """Whether the limits are known."""
        return len(self.peaks) >= DAYS_MIN

    def state(self) -> dict[str, object]:
        """Return everything that the next grid time depends on."""
        return {"profile": self.profile.state(), **{name: getattr(self, name) for name in _FIELDS}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.profile.restore(state["profile"])
        for name in _FIELDS:
            setattr(self, name, state[name])
        self._inverse.clear()


_FIELDS = (
    "level",
    "joint",
    "joints",
    "used",
    "square",
    "squares",
    "rest",
    "wide",
    "z",
    "moment",
    "moments",
    "peaks",
    "today",
    "day",
    "limit",
)
