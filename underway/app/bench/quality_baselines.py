"""What the detector of water quality is compared with: fixed limits, and two models of river. They share nothing with it that decides."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from simulators.quality_station import DAY_S, LEARNING_DAYS, STEP_S, StationRun

SETTLE_DAYS = 3
OF, NEEDED = 4, 3
CLEAR_STEPS = 12
LIMIT_QUANTILE = 0.001
LIMIT_MARGINS = (0.15, 1.0)
REGRESSION_QUANTILES = (0.98, 0.995)
TREES_QUANTILE = 0.95
"""Two settings of each: one that finds most on the tuning seeds, one with few false alarms; of the trees they are hardly different."""
REGRESSION_FADING = 0.002


FloatArray = NDArray[np.float64]


def _learning(run: StationRun) -> slice:
    return slice(SETTLE_DAYS * DAY_S // STEP_S, LEARNING_DAYS * DAY_S // STEP_S)


def raised(over: NDArray[np.bool_], run: StationRun) -> list[int]:
    """Return when 3 of 4 readings are over; again only after an hour in which none was."""
    alarms, window, quiet, is_open = [], deque([False] * OF, OF), 0, False
    for i, now in enumerate(over.tolist()):
        window.append(now)
        quiet = 0 if now else quiet + 1
        if is_open:
            is_open = quiet < CLEAR_STEPS
        elif sum(window) >= NEEDED:
            is_open = True
            alarms.append(int(run.at_s[i]))
    return alarms


def fixed_limits(run: StationRun, margin_share: float) -> list[int]:
    """Return alarms of limits that are the range of the learning days (0.1 % at each end), and a share of it more on both sides."""
    over = np.zeros(len(run.at_s), np.bool_)
    for value in run.signals.values():
        low, high = np.nanquantile(value[_learning(run)], (LIMIT_QUANTILE, 1.0 - LIMIT_QUANTILE))
        margin = margin_share * (high - low)
        with np.errstate(invalid="ignore"):
            over |= (value < low - margin) | (value > high + margin)
    return raised(over, run)


def regression_statistic(run: StationRun) -> FloatArray:
    """Return the sum of squared residuals, in running standard deviations, of one linear regression a probe from all others and the time of the day.

    It goes on learning, as river's models do.
    """
    from river import linear_model, optim, preprocessing, stats

    names = list(run.signals)
    models = {n: preprocessing.StandardScaler() | linear_model.LinearRegression(optim.SGD(0.005), intercept_lr=0.05) for n in names}
    spread = {n: stats.EWVar(REGRESSION_FADING) for n in names}
    statistic = np.zeros(len(run.at_s))
    last: dict[str, float] = {}
    for i, at_s in enumerate(run.at_s.tolist()):
        last |= {n: float(v[i]) for n, v in run.signals.items() if math.isfinite(v[i])}
        if len(last) < len(names):
            continue
        day = 2.0 * math.pi * (at_s % DAY_S) / DAY_S
        clock = {f"{f.__name__}{k}": f(k * day) for k in (1, 2, 3) for f in (math.sin, math.cos)}
        total = 0.0
        for n in names:
            x = {**{m: v for m, v in last.items() if m != n}, **clock}
            error = last[n] - models[n].predict_one(x)
            sd = math.sqrt(max(spread[n].get(), 1e-12))
            total += (error / sd) ** 2
            models[n].learn_one(x, last[n])
            spread[n].update(min(max(error, -6.0 * sd), 6.0 * sd) if i > DAY_S // STEP_S else error)
        statistic[i] = total
    return statistic


def trees_statistic(run: StationRun) -> FloatArray:
    """Return the score that half-space trees give the scaled probes."""
    from river import anomaly, preprocessing

    model = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=25, height=8, window_size=3 * DAY_S // STEP_S, seed=7)
    names = list(run.signals)
    statistic = np.zeros(len(run.at_s))
    last: dict[str, float] = {}
    for i in range(len(run.at_s)):
        last |= {n: float(v[i]) for n, v in run.signals.items() if math.isfinite(v[i])}
        if len(last) == len(names):
            statistic[i] = model.score_one(last)
            model.learn_one(last)
    return statistic


def over_quantile(statistic: FloatArray, run: StationRun, quantile: float) -> list[int]:
    """Return alarms of a statistic whose limit is a quantile of the learning days."""
    return raised(statistic > np.quantile(statistic[_learning(run)], quantile), run)
