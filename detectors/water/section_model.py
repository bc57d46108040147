"""What a hydraulic model says of a section once it has been fitted to two weeks of its readings: residuals, signatures of leaks, and their noise.

1. *Roughness.* A nominal model is wrong in the same direction nearly everywhere. From the pressures at eight loads the roughness of every pipe is
   estimated (Bayes: one factor for all, one a class of pipes, one a pipe), beside unknown offsets of the gauges and an unknown spread of demand.
2. *Residual.* Measured less modelled, with the demand that the meters saw, less what a regression on the loads still explains.
3. *Signatures.* For each pipe the change of each residual for 1 m3/h lost there while the inflow stays the same.
4. *Noise.* The covariance of a daily mean of the residuals: each signal's own, and what moving demand and meters give all of them together.
5. *Steady part.* Customers follow the hours, a leak does not. Of the supply of a day, regressed on the usual supply of those hours, what is left as a
   constant is one more signal: all that leaks, wherever it is. Where customers are metered the balance is that signal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.contract import BoolArray, FloatArray, IntArray
from detectors.water.epanet import Engine
from detectors.water.sections import Section

HOURS_LEARNED = 14 * 24
FINITE_SHARE_MIN = 0.5
BINS_A_STATE = 4
ROUNDS = 2
ROUGHNESS_SD_ALL, ROUGHNESS_SD_CLASS, ROUGHNESS_SD_PIPE = 0.10, 0.05, 0.07
"""Relative errors of the nominal roughness."""
DEMAND_SD = 0.2
"""Relative error of the nominal share of a node in the demand."""
OFFSET_SD_M, OFFSET_SD_M3PH = 0.3, 3.0
MEAN_SD_M, MEAN_SD_M3PH = 0.003, 0.09
LOAD_SD = 0.01
"""Relative error of the load of a bin, and of the model beyond its roughness."""
LOG_FACTOR_MAX = 0.5
PROBES_M3PH = (5.0, 15.0)
LOAD_EXPONENT, LOSS_EXPONENT = 0.85, 1.85
DEMAND_MIN_M3PH = 1.0
OWN_SD_MIN_M, OWN_SD_MIN_M3PH = 0.0005, 0.01
STEP_M3PH = 2.0
STEADY_HOURS_MIN, STEADY_SPREAD_MIN, STEADY_DAYS_MIN = 20, 0.003, 3
"""A day tells its steady part when so many hours are whole, and the usual flow varies by that part of its square; so many days tell its noise."""


@dataclass(frozen=True, slots=True)
class Loads:
    """Hours of a section: what was measured and what it is loaded with.

    Attributes
    ----------
    measured : ndarray, shape (n, m)
        Pressures (m) of the gauges, flows (m3/h) of the metered links, and what is supplied (m3/h).
    demand : ndarray, shape (n,)
        What is drawn in the section, m3/h.
    pumps, levels, customers : ndarray, shapes (n, a), (n, t), (n, k)
        Flows of the pumps at the edge, levels of the tanks, flows of the metered customers.
    week_hour : ndarray of int64, shape (n,)
    """

    measured: FloatArray
    demand: FloatArray
    pumps: FloatArray
    levels: FloatArray
    customers: FloatArray
    week_hour: IntArray

    @property
    def whole(self) -> BoolArray:
        """Return which hours have all that a solution needs."""
        ok = np.isfinite(self.demand) & np.isfinite(self.levels).all(1) & np.isfinite(self.customers).all(1)
        return np.asarray(ok & np.isfinite(self.pumps).all(1), np.bool_)


@dataclass(frozen=True, slots=True)
class _Load:
    factors: dict[str, float]
    levels: dict[str, float]
    customers: FloatArray
    demand: float
    hours: int
    seen: FloatArray


@dataclass(frozen=True, slots=True)
class Fit:
    """All that was learned: what `FittedSection` needs to go on, as arrays.

    Attributes
    ----------
    roughness : ndarray, shape (p,)
    weights : ndarray, shape (f, m)
        Of the regression on the loads; `scale`, shape (3,), are the mean demand, inflow and pump flow behind its columns.
    signatures : ndarray, shape (p, m)
    noise_own, noise_shared : ndarray, shapes (m,) and (m, m)
    usual : ndarray, shape (168,)
        What is drawn in each hour of a week, m3/h.
    """

    roughness: FloatArray
    weights: FloatArray
    scale: FloatArray
    signatures: FloatArray
    noise_own: FloatArray
    noise_shared: FloatArray
    usual: FloatArray


class FittedSection:
    """A section with its engine: learns once, then gives residuals hour by hour.

    Parameters
    ----------
    section : Section
    fit : Fit, optional
        What an earlier `learn` found.
    """

    def __init__(self, section: Section, fit: Fit | None = None) -> None:
        self.section = section
        self.gauges, self.links = len(section.gauges), len(section.metered_links)
        self.balanced = bool(section.customer_places)
        self.m = self.gauges + self.links + 1
        self.fit = fit
        self._engine: Engine | None = None
        self._sign = np.array(section.link_sign, np.float64)

    @property
    def engine(self) -> Engine:
        """Return the engine, opened at first use."""
        if self._engine is None:
            self._engine = Engine(self.section)
            if self.fit is not None:
                self._engine.set_roughness(self.fit.roughness)
        return self._engine

    # -- hour by hour ---------------------------------------------------------------------------------------------------------------

    def modelled(self, loads: Loads, usual: FloatArray) -> FloatArray:
        """Return what the model gives for each signal and hour, shape (n, m); NaN where an hour is not whole, but for the supply."""
        found = np.full((len(loads.demand), self.m), np.nan)
        for k in np.flatnonzero(loads.whole):
            factors = self.section.factors(max(float(loads.demand[k]), DEMAND_MIN_M3PH), int(loads.week_hour[k]))
            pumps = {f"pump-{i}": max(float(v), 0.0) for i, v in enumerate(loads.pumps[k])}
            self.engine.load({**factors, **pumps}, dict(zip(self.section.tanks, loads.levels[k], strict=True)), loads.customers[k])
            found[k, : self.gauges + self.links] = self._signals(anew=True)
        found[:, -1] = loads.demand if self.balanced else usual[loads.week_hour]
        return found

    def expected(self, loads: Loads) -> FloatArray:
        """Return what each signal should be, as the model and the regression have it, shape (n, m)."""
        if self.fit is None:
            raise ValueError("a section must have learned before it expects something")
        return self.modelled(loads, self.fit.usual) + self._regressed(loads, self.fit.scale, self.fit.weights)

    def weight(self, loads: Loads) -> FloatArray:
        """Return how strongly a leak shows in each signal and hour, shape (n, m): pressures fall more when more flows."""
        weight = np.ones((len(loads.demand), self.m))
        if not self.balanced and self.fit is not None:
            weight[:, : self.gauges] = ((np.clip(loads.demand, DEMAND_MIN_M3PH, None) / self.fit.scale[0]) ** LOAD_EXPONENT)[:, None]
        return weight

    def mean_of_day(self, left: FloatArray, weight: FloatArray, expected: FloatArray) -> FloatArray:
        """Return what the hours of a day say of each signal, shape (m,); see `weighted_mean` and `steady_part`."""
        mean = weighted_mean(left, weight)
        if not self.balanced:
            mean[-1] = steady_part(left[:, -1] + expected[:, -1], expected[:, -1])
        return mean

    def _signals(self, *, anew: bool = False) -> FloatArray:
        found = self.engine.solve(anew=anew)
        found[self.gauges :] *= self._sign
        return found

    def _explaining(self, loads: Loads, scale: FloatArray) -> FloatArray:
        demand, inflow, pump = scale
        columns = [np.ones(len(loads.demand)), (np.clip(loads.demand, 0.0, None) / demand) ** LOSS_EXPONENT]
        if loads.pumps.shape[1] and not self.balanced:
            total = loads.pumps.sum(1)
            columns += [total / pump, (np.clip(loads.demand + total, 0.0, None) / inflow) ** LOSS_EXPONENT]
        columns += list(loads.levels.T)
        return np.column_stack(columns)

    def _regressed(self, loads: Loads, scale: FloatArray, weights: FloatArray) -> FloatArray:
        """Return what the loads explain, shape (n, m); nothing of a signal that was not regressed on them, also where they are not known."""
        return np.where(weights.any(0), self._explaining(loads, scale) @ weights, 0.0)

    # -- learning -------------------------------------------------------------------------------------------------------------------

    def learn(self, loads: Loads, *, nominal: bool = False) -> Fit:
        """Fit the model to some weeks of hours, and say what a leak looks like and how the residuals scatter.

        Parameters
        ----------
        loads : Loads
        nominal : bool
            Whether the roughness stays as it is in the file.

        Raises
        ------
        ValueError
            When too few hours are whole.
        """
        whole = loads.whole
        if whole.sum() < FINITE_SHARE_MIN * len(whole) or not whole.any():
            raise ValueError(f"at least half of {len(whole)} hours must have all flows and levels, got {int(whole.sum())}")
        pump = float(np.nanmean(loads.pumps.sum(1))) if loads.pumps.shape[1] else 0.0
        demand = max(float(np.nanmean(loads.demand)), DEMAND_MIN_M3PH)
        scale = np.array([demand, demand + pump, pump if pump > 0 else 1.0])
        bins = self._bins(loads)
        if not nominal:
            self._fit_roughness(bins)
        usual = usual_week(loads.demand, loads.week_hour)
        left = loads.measured - self.modelled(loads, usual)
        explaining = self._explaining(loads, scale)
        weights = np.zeros((explaining.shape[1], self.m))
        for i in range(self.m if self.balanced else self.m - 1):
            ok = np.isfinite(left[:, i]) & np.isfinite(explaining).all(1)
            if ok.sum() > 2 * explaining.shape[1]:
                weights[:, i] = np.linalg.lstsq(explaining[ok], left[ok, i], rcond=None)[0]
        left -= self._regressed(loads, scale, weights)
        self.fit = Fit(self.engine.roughness, weights, scale, np.zeros((0, self.m)), np.zeros(self.m), np.zeros((self.m, self.m)), usual)
        own, shared = self._noise(left, loads, bins)
        self.fit = Fit(self.engine.roughness, weights, scale, self._signatures(bins, scale), own, shared, usual)
        return self.fit

    def _bins(self, loads: Loads) -> list[_Load]:
        """Return the hours as some loads: by whether the first pump runs, and by demand."""
        whole = np.flatnonzero(loads.whole)
        groups = [whole]
        if loads.pumps.shape[1] and not self.balanced:
            runs = loads.pumps[whole, 0] > 0.5 * np.max(loads.pumps[whole, 0])
            groups = [g for g in (whole[runs], whole[~runs]) if len(g) >= 3 * BINS_A_STATE]
        found = []
        for group in groups or [whole]:
            for part in np.array_split(group[np.argsort(loads.demand[group], kind="stable")], BINS_A_STATE):
                each = [self.section.factors(max(float(loads.demand[k]), DEMAND_MIN_M3PH), int(loads.week_hour[k])) for k in part]
                factors = {name: float(np.mean([f[name] for f in each])) for name in self.section.base_m3ph}
                factors |= {f"pump-{i}": max(float(v), 0.0) for i, v in enumerate(loads.pumps[part].mean(0))}
                levels = dict(zip(self.section.tanks, loads.levels[part].mean(0).tolist(), strict=True))
                with np.errstate(invalid="ignore"):
                    seen = np.nansum(loads.measured[part], 0) / np.isfinite(loads.measured[part]).sum(0)
                found.append(_Load(factors, levels, loads.customers[part].mean(0), float(loads.demand[part].mean()), len(part), seen))
        return found

    def _set(self, load: _Load, more_m3ph: float = 0.0) -> None:
        """Load the engine; `more_m3ph` is drawn besides, so that the nominal demand is less and the inflow the same."""
        factors = dict(load.factors)
        for kind in self.section.base_m3ph:
            factors[kind] *= max(load.demand - more_m3ph, DEMAND_MIN_M3PH) / load.demand
        self.engine.load(factors, load.levels, load.customers)

    def _fit_roughness(self, bins: list[_Load]) -> None:
        """Estimate the roughness of all pipes (Gauss-Newton in the space of the data, for there are fewer gauges than pipes)."""
        section, engine, n = self.section, self.engine, self.gauges + self.links
        nominal = engine.roughness.copy()
        _, group = np.unique(np.column_stack((nominal, section.diameter_m)).round(4), axis=0, return_inverse=True)
        prior = (
            ROUGHNESS_SD_ALL**2
            + ROUGHNESS_SD_CLASS**2 * (group.ravel()[:, None] == group.ravel()[None])
            + ROUGHNESS_SD_PIPE**2 * np.eye(len(nominal))
        )
        offset = np.where(np.arange(n) < self.gauges, OFFSET_SD_M, OFFSET_SD_M3PH) ** 2
        mean_sd = np.where(np.arange(n) < self.gauges, MEAN_SD_M, MEAN_SD_M3PH)
        log_factor = np.zeros(len(nominal))
        for _ in range(ROUNDS):
            slopes, drawn, rest, load_error = [], [], [], []
            for load in bins:
                self._set(load)
                answer = engine.answer(load.customers)
                at = np.vstack((answer.per_m3ph, np.zeros(n)))
                at[:, self.gauges :] *= self._sign
                # a pipe that carries dq/q more at the same loss gives dq to its end and takes it from its begin
                slopes.append((answer.flow_m3ph[:, None] * (at[section.ends[:, 0]] - at[section.ends[:, 1]])).T)
                nodes = at[:-1]
                drawn.append(((answer.share * load.demand)[:, None] * (nodes - answer.share @ nodes)).T)
                load_error.append(LOAD_SD * load.demand * (answer.share @ nodes))
                answer.signal[self.gauges :] *= self._sign
                rest.append(load.seen[:n] - answer.signal + slopes[-1] @ log_factor)
            j, f, r = np.vstack(slopes), np.vstack(drawn), np.concatenate(rest)
            same = np.tile(np.eye(n), (len(bins), 1))
            off = np.concatenate(load_error)
            cov = j @ prior @ j.T + DEMAND_SD**2 * f @ f.T + (same * offset) @ same.T + np.diag(np.tile(mean_sd**2, len(bins)) + off**2)
            cov += np.kron(np.eye(len(bins)), np.ones((n, n))) * np.outer(off, off)
            ok = np.isfinite(r)
            log_factor = np.clip(prior @ j[ok].T @ np.linalg.solve(cov[np.ix_(ok, ok)], r[ok]), -LOG_FACTOR_MAX, LOG_FACTOR_MAX)
            engine.set_roughness(nominal * np.exp(log_factor))

    def _signatures(self, bins: list[_Load], scale: FloatArray) -> FloatArray:
        """Return the change of each signal for 1 m3/h lost in each pipe, as it shows in a mean that is weighted by the load."""
        section, engine, n = self.section, self.engine, self.gauges + self.links
        above, below = np.zeros((len(section.nodes), n)), np.zeros(n)
        for load in bins:
            self._set(load)
            base = self._signals()
            weight = np.ones(n)
            if not self.balanced:
                weight[: self.gauges] = (load.demand / scale[0]) ** LOAD_EXPONENT
            below += load.hours * len(PROBES_M3PH) * weight**2
            usual = dict(zip(section.customer_places, load.customers.tolist(), strict=True))
            for probe in PROBES_M3PH:
                self._set(load, 0.0 if self.balanced else probe)
                for place in range(len(section.nodes)):
                    engine.draw(place, usual.get(place, 0.0) + probe)
                    above[place] += load.hours * weight * (self._signals() - base) / probe
                    engine.draw(place, usual.get(place, 0.0))
        per_node = np.vstack((above / below, np.full(n, np.nan)))
        with np.errstate(invalid="ignore"):
            ends = per_node[section.ends]
            known = np.isfinite(ends)
            found = np.where(known, ends, 0.0).sum(1) / np.maximum(known.sum(1), 1)
        return np.column_stack((found, np.ones(len(found))))

    def _noise(self, left: FloatArray, loads: Loads, bins: list[_Load]) -> tuple[FloatArray, FloatArray]:
        """Return (own variances, shared covariance) of a daily mean, from how the days of the learning differ from one to the next."""
        from detectors.water.noise_parts import fit_parts

        days = daily_means(left, self.weight(loads))
        floor = np.full(self.m, OWN_SD_MIN_M3PH)
        floor[: self.gauges] = OWN_SD_MIN_M
        steps = np.diff(left, axis=0)
        own = np.maximum(np.nanmean(steps**2, axis=0) / 2 / 24, floor**2)
        change = np.diff(days, axis=0) / np.sqrt(2.0)
        if self.balanced:
            seen = np.nanmean(change**2, axis=0)
            return np.where(np.isfinite(seen), np.maximum(seen * 1.3, floor**2), own), np.zeros((self.m, self.m))
        own, shared = fit_parts(change[:, :-1], own[:-1], self._parts(bins))
        steady = max(steady_variance(loads.demand, loads.week_hour), OWN_SD_MIN_M3PH**2)
        return np.append(own, steady), np.pad(shared, (0, 1))

    def _parts(self, bins: list[_Load]) -> list[FloatArray]:
        """Return covariances of unit size: demand of single nodes, flows of pumps, the total."""
        engine = self.engine
        load = bins[len(bins) // 2]
        self._set(load)
        base = self._signals()
        answer = engine.answer(load.customers)
        answer.per_m3ph[:, self.gauges :] *= self._sign
        node = (answer.share * load.demand)[:, None] * (answer.per_m3ph - answer.share @ answer.per_m3ph)
        parts = [node.T @ node]
        for i in range(len(self.section.pumps)):
            self._set(load, STEP_M3PH)
            factors = {**engine.factors(), f"pump-{i}": load.factors[f"pump-{i}"] + STEP_M3PH}
            engine.load(factors, load.levels, load.customers)
            change = (self._signals() - base) / STEP_M3PH
            parts.append(np.outer(change, change))
        self._set(load, -0.01 * load.demand)
        change = self._signals() - base
        parts.append(np.outer(change, change))
        return parts


def usual_week(flow: FloatArray, week_hour: IntArray) -> FloatArray:
    """Return the mean of each hour of the week, shape (168,); an hour that was never seen is taken from the same hour of other days.

    Examples
    --------
    >>> usual_week(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 25]))[[0, 24, 1, 25]].tolist()
    [2.0, 2.0, 5.0, 5.0]
    """
    ok = np.isfinite(flow)
    found = np.full(168, np.nan)
    for hours, many in ((week_hour % 24, 24), (week_hour, 168)):
        count = np.bincount(hours[ok], minlength=many)
        mean = np.bincount(hours[ok], flow[ok], minlength=many) / np.maximum(count, 1)
        mean = np.tile(np.where(count > 0, mean, np.nan), 168 // many)
        found = np.where(np.isfinite(mean), mean, found)
    return np.where(np.isfinite(found), found, float(flow[ok].mean()) if ok.any() else 0.0)


def steady_part(flow: FloatArray, usual: FloatArray) -> float:
    """Return the part of a day's flow that does not follow the hours: the constant of a regression on the usual flow of those hours.

    NaN where too many hours are missing, or where the usual flow is the same at all hours.

    Examples
    --------
    >>> usual = np.tile([40.0, 160.0, 120.0, 80.0], 6)
    >>> round(steady_part(1.1 * usual + 7.0, usual), 6)
    7.0
    """
    ok = np.isfinite(flow) & np.isfinite(usual)
    if ok.sum() < STEADY_HOURS_MIN:
        return float("nan")
    around = usual[ok] - usual[ok].mean()
    spread = float(around @ around)
    if spread <= STEADY_SPREAD_MIN * float(usual[ok] @ usual[ok]):
        return float("nan")
    return float(flow[ok].mean() - (around @ flow[ok]) / spread * usual[ok].mean())


def steady_variance(flow: FloatArray, week_hour: IntArray) -> float:
    """Return the variance of the steady part of a day; each week is judged by what the others hold for usual.

    Notes
    -----
    With ``w`` weeks the usual flow of the others has ``1 / (w - 1)`` of the noise of a day; that of all, by which later days are judged, ``1 / w``.
    NaN hours are left out. When fewer than `STEADY_DAYS_MIN` days tell a steady part it could be as much as all that flows: then it says next to
    nothing, and the filters stay finite.
    """
    days, week = len(flow) // 24, np.arange(len(flow)) // 168
    many = max(int(week[: days * 24].max(initial=0)) + 1, 2)
    found = []
    for d in range(days):
        mine = slice(24 * d, 24 * d + 24)
        others = np.where(week == week[24 * d], np.nan, flow)
        found.append(steady_part(flow[mine], usual_week(others, week_hour)[week_hour[mine]]))
    parts = np.array([x for x in found if np.isfinite(x)])
    if len(parts) < STEADY_DAYS_MIN:
        return float(np.nanmean(flow**2))
    return float(parts.var(ddof=1)) * (1.0 + 1.0 / many) / (1.0 + 1.0 / (many - 1))


def daily_means(left: FloatArray, weight: FloatArray) -> FloatArray:
    """Return load-weighted means over whole days, shape (n // 24, m); see `weighted_mean`."""
    return np.array([weighted_mean(left[k : k + 24], weight[k : k + 24]) for k in range(0, len(left) - 23, 24)]).reshape(-1, left.shape[1])


def weighted_mean(left: FloatArray, weight: FloatArray) -> FloatArray:
    """Return what best explains residuals as ``weight`` times one number, for each signal; NaN where fewer than half of the hours are there.

    Examples
    --------
    >>> weighted_mean(np.array([[1.0], [2.0], [np.nan]]), np.array([[1.0], [2.0], [1.0]])).tolist()
    [1.0]
    """
    ok = np.isfinite(left) & np.isfinite(weight)
    w = np.where(ok, weight, 0.0)
    mean = np.where(ok, left * w, 0.0).sum(0) / np.maximum((w**2).sum(0), 1e-12)
    return np.where(ok.sum(0) * 2 >= len(left), mean, np.nan)
