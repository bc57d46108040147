"""Watch one standardised residual for a lasting shift: CUSUM, an open condition, and fresh evidence that it went away."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from detectors.cusum import likeliest_begin
from detectors.noise import NoiseModel
from underway.model import MINUTE_US, FindingPhase

Z_MAX, Z_MIN = 6.0, -4.0
SEPARATION = 6.0
CLEAR_SHARE = 0.3
SCORE_MAX = 100.0
UPDATE_US = 30 * MINUTE_US
NEVER_US = -(2**62)


@dataclass(frozen=True, slots=True)
class ShiftRules:
    """What counts as a shift.

    Attributes
    ----------
    threshold : float
        h of the CUSUM, see `detectors.cusum.cusum_threshold`.
    sides : tuple of int
        +1 upwards, -1 downwards, or both.
    readings_min : int
        Readings since onset before it speaks.
    effect_min : float
        Smallest mean residual since onset worth a finding, in the unit of the residual.
    window_min, window_max : int
        Readings that a CLEAR needs: enough for the shift to stand out by six standard deviations, within these limits.
    update_us : int
        Least event time between two updates.
    """

    threshold: float
    sides: tuple[int, ...]
    readings_min: int
    effect_min: float
    window_min: int
    window_max: int
    update_us: int = UPDATE_US


@dataclass(slots=True)
class ShiftReport:
    """What happened at one reading; means are over the newest readings since onset (at most ``window_min``)."""

    phase: FindingPhase
    onset_us: int
    side: int
    shift: float
    statistic: float
    score: float
    observed: float
    expected: float
    sd: float
    readings: int
    historical: bool
    dismissed: bool


@dataclass(slots=True)
class _Open:
    onset_us: int
    side: int
    shift: float
    updated_us: int
    historical: bool
    dismissed: bool = False


class ShiftMonitor:
    """CUSUM of ``z / c`` with reference k on one or both sides, c and k learned by `NoiseModel`.

    Notes
    -----
    ``S_t = max(0, S_{t-1} + side z_t / c - k)``, z clipped to -4..6. While a condition is open the greatest windowed mean of the residual is its
    size; it clears when the mean over the window is below 0.3 of that. A gap is no reading: nothing moves. Cost about 20 us a reading, state
    at most ``window_max`` rows of four doubles.

    References
    ----------
    Page (1954), doi 10.1093/biomet/41.1-2.100.

    Examples
    --------
    A shift of four standard deviations at k = 0.5 and h = 7 is found at the third reading (3 x 3.5 > 7):

    >>> monitor = ShiftMonitor(ShiftRules(7.0, (1,), 3, 0.1, 4, 8))
    >>> [None if r is None else r.phase.value for r in (monitor.judge(i, 4.0, 1.0, 4.0, 0.0, True, False) for i in range(3))]
    [None, None, 'raise']
    """

    def __init__(self, rules: ShiftRules) -> None:
        self.rules = rules
        self.noise = NoiseModel()
        self.statistic = np.zeros(len(rules.sides))
        self.onset_us = np.full(len(rules.sides), NEVER_US, np.int64)
        self.steps = np.zeros(len(rules.sides), np.int64)
        self.recent = np.empty((0, 4))
        self.open: _Open | None = None

    @property
    def suspicious(self) -> bool:
        """Whether a statistic is past half of the threshold: then nothing fast may adapt."""
        return bool(self.statistic.max() > self.rules.threshold / 2)

    def reset(self) -> None:
        """Start the statistics anew."""
        self.statistic[:], self.steps[:] = 0.0, 0

    def dismiss(self) -> float:
        """Return the present mean residual, to be added to what is normal, and wait for fresh evidence to clear."""
        if self.open is None or not len(self.recent):
            return 0.0
        shift = float(self.recent[-self.rules.window_min :, 1].mean())
        self.open.dismissed = True
        self.recent = np.empty((0, 4))
        return shift

    def judge(
        self, at_us: int, residual: float, sd: float, observed: float, expected: float, ready: bool, historical: bool, learn: bool = True
    ) -> ShiftReport | None:
        """Take one reading; say what happened, if anything did.

        Parameters
        ----------
        at_us : int
        residual, sd, observed, expected : float
            Finite, in one unit; sd above 0.
        ready : bool
            Whether the forecast behind it may be believed.
        historical : bool
            Whether the reading came late or as history.
        learn : bool
            False while held: noise is not learned.
        """
        rules, c = self.rules, self.noise.scale
        z = residual / sd
        if ready:
            k = self.noise.reference
            for i, side in enumerate(rules.sides):
                if self.statistic[i] <= 0.0:
                    self.onset_us[i], self.steps[i] = at_us, 0
                step = min(max(side * z / c, Z_MIN), Z_MAX) - k
                self.statistic[i] = min(max(0.0, self.statistic[i] + step), SCORE_MAX * rules.threshold)
                self.steps[i] += 1
        self.recent = np.concatenate((self.recent, [[float(at_us), residual, expected, observed]]))[-rules.window_max :]
        report = self._follow(at_us, sd * c, historical) if self.open is not None else self._begin(at_us, sd * c, historical, ready)
        if learn and self.open is None:
            self.noise.learn(z)
        return report

    def _begin(self, at_us: int, sd: float, historical: bool, ready: bool) -> ShiftReport | None:
        rules = self.rules
        for i, side in enumerate(rules.sides):
            if not ready or self.statistic[i] < rules.threshold or self.steps[i] < rules.readings_min:
                continue
            since = self.recent[self.recent[:, 0] >= self.onset_us[i]]
            since = since[likeliest_begin(side * since[:, 1], rules.readings_min) :]
            shift = float(since[:, 1].mean())
            if side * shift < rules.effect_min:
                continue
            self.recent = since
            self.open = _Open(int(since[0, 0]), side, shift, at_us, historical)
            return self._report(FindingPhase.RAISE, self.open, sd, historical)
        return None

    def _follow(self, at_us: int, sd: float, historical: bool) -> ShiftReport | None:
        rules, condition = self.rules, self.open
        assert condition is not None
        size = math.ceil((SEPARATION * sd / max(abs(condition.shift), 1e-12)) ** 2)
        size = min(max(size, rules.window_min), rules.window_max)
        residual = condition.side * self.recent[:, 1]
        greatest = abs(condition.shift)
        if len(residual) >= size:
            mean = float(residual[-size:].mean())
            if not condition.dismissed and mean > greatest:
                condition.shift = condition.side * mean
            if mean < CLEAR_SHARE * greatest and residual[-rules.window_min :].mean() < 0.5 * greatest:
                report = self._report(FindingPhase.CLEAR, condition, sd, historical)
                self.open, self.recent = None, np.empty((0, 4))
                self.reset()
                return report
        if condition.historical and not historical:
            condition.historical, condition.updated_us = False, at_us
            return self._report(FindingPhase.RAISE, condition, sd, historical)
        if at_us - condition.updated_us >= rules.update_us and not condition.dismissed:
            condition.updated_us = at_us
            return self._report(FindingPhase.UPDATE, condition, sd, historical)
        return None

    def _report(self, phase: FindingPhase, condition: _Open, sd: float, historical: bool) -> ShiftReport:
        last = self.recent[-self.rules.window_min :]
        number = self.rules.sides.index(condition.side)
        statistic = float(self.statistic[number])
        return ShiftReport(
            phase,
            condition.onset_us,
            condition.side,
            condition.shift,
            statistic,
            statistic / self.rules.threshold,
            float(last[:, 3].mean()),
            float(last[:, 2].mean()),
            sd / math.sqrt(len(last)),
            len(last),
            historical,
            condition.dismissed,
        )

    def state(self) -> dict[str, object]:
        """Return everything that the next reading depends on."""
        return {
            "noise": self.noise.state(),
            "statistic": self.statistic,
            "onset": self.onset_us,
            "steps": self.steps,
            "recent": self.recent,
            "open": None if self.open is None else asdict(self.open),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.noise.restore(state["noise"])
        self.statistic, self.onset_us, self.steps, self.recent = state["statistic"], state["onset"], state["steps"], state["recent"]
        self.open = None if state["open"] is None else _Open(**{f.name: state["open"][f.name] for f in fields(_Open)})


class HoldBook:
    """Which holds are on one asset, and since when its baseline is frozen."""

    def __init__(self) -> None:
        self.holds: dict[int, int] = {}

    def take(self, hold_id: int, held_us: int) -> None:
        """Note a hold; noting it twice changes nothing."""
        self.holds.setdefault(hold_id, held_us)

    def release(self, hold_id: int) -> bool:
        """Forget a hold; return whether it was the last one."""
        return self.holds.pop(hold_id, None) is not None and not self.holds

    def __bool__(self) -> bool:
        return bool(self.holds)

    @property
    def since_us(self) -> int:
        """Return when the first of the present holds began."""
        return min(self.holds.values())

    def state(self) -> list[list[int]]:
        """Return the holds."""
        return [[i, at] for i, at in sorted(self.holds.items())]

    def restore(self, state: list[list[int]]) -> None:
        """Take back what `state` returned."""
        self.holds = {int(i): int(at) for i, at in state}
