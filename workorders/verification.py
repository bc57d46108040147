"""Is the fault gone? The sensors decide, against the baseline that was frozen before the fault, with a plan that was frozen at dispatch.

Notes
-----
Missing data are never a PASS: at the deadline they are INCONCLUSIVE. A wrong repair comes back early: after enough evidence a residual
that is still clearly there is a FAIL, without waiting for the deadline. Rows that rest on another baseline than the one in force before
DONE are no evidence and are left out. Cost: linear in the rows since DONE.

Blind to: a fault that the signals of the plan cannot see, and a second fault that hides the repair of the first (it is a FAIL).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from underway.model import MINUTE_US, SECOND_US, VerificationOutcome, from_us, to_us
from workorders.alarm_types import VerificationSpec, VerificationTest

COVERAGE_MIN = 0.8
"""Share of a window that must be covered by data."""
EXCESS_CAP = 0.5
"""A threshold never exceeds this share of the excess: otherwise a fault would pass unrepaired."""
PRESSURE_Z_MIN = -0.5
PRESSURE_LOW_QUANTILE = 0.025
PRESSURE_FALL_SHARE = 0.25
NIGHT_GRACE = timedelta(minutes=30)
INSIDE_SIGMAS = 4.0
INSIDE_SHARE_MIN = 0.9
BEFORE_SPAN = timedelta(hours=72)
"""How much of the time before the onset says what is normal."""
RECENT_SPAN = timedelta(minutes=60)


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of one signal, in time order.

    Attributes
    ----------
    at_us : ndarray of int64, shape (n,)
    observed, expected, sigma : ndarray of float64, shape (n,)
        In the signal's unit.
    baseline : tuple of str, length n
        Which baseline each expected value rests on.
    unit : str
    """

    at_us: NDArray[np.int64]
    observed: NDArray[np.float64]
    expected: NDArray[np.float64]
    sigma: NDArray[np.float64]
    baseline: tuple[str, ...]
    unit: str = ""

    def __len__(self) -> int:
        return len(self.at_us)

    @property
    def residual(self) -> NDArray[np.float64]:
        """Return observed minus expected."""
        return self.observed - self.expected

    def where(self, mask: NDArray[np.bool_]) -> Series:
        """Return the rows of a mask."""
        kept = tuple(b for b, keep in zip(self.baseline, mask.tolist(), strict=True) if keep)
        return Series(self.at_us[mask], self.observed[mask], self.expected[mask], self.sigma[mask], kept, self.unit)

    def between(self, from_at_us: int, to_at_us: int) -> Series:
        """Return the rows of the half-open interval (from, to]."""
        return self.where((self.at_us > from_at_us) & (self.at_us <= to_at_us))

    def usable(self) -> Series:
        """Return the rows whose numbers are all finite."""
        return self.where(np.isfinite(self.observed) & np.isfinite(self.expected) & np.isfinite(self.sigma))

    @classmethod
    def of(
        cls,
        at_us: Sequence[int],
        observed: Sequence[float],
        expected: Sequence[float],
        sigma: Sequence[float],
        baseline: Sequence[str] | str = "b",
        unit: str = "",
    ) -> Series:
        """Return a series of plain columns."""
        names = (baseline,) * len(at_us) if isinstance(baseline, str) else tuple(baseline)
        return cls(
            np.asarray(at_us, np.int64),
            np.asarray(observed, np.float64),
            np.asarray(expected, np.float64),
            np.asarray(sigma, np.float64),
            names,
            unit,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """What verification knows now: the outcome, one sentence for people, and the numbers behind it."""

    outcome: VerificationOutcome
    sentence: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values for the order row."""
        return {**self.facts, "outcome": str(self.outcome), "sentence": self.sentence}


# -- freezing the plan ---------------------------------------------------------------------------------------------------------------


def signal_names(spec: VerificationSpec, zone_id: str | None, asset_id: str) -> tuple[str, ...]:
    """Return the names of the primary signals of an order's asset."""
    return tuple(name.format(zone_id=zone_id or "", asset_id=asset_id) for name in spec.signals)


def freeze(
    spec: VerificationSpec,
    primary: Mapping[str, Series],
    pressures: Mapping[str, Series],
    onset_at: datetime,
    now_at: datetime,
    timezone: str,
    evidence: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the verification plan as plain values, frozen at dispatch.

    Parameters
    ----------
    primary, pressures : Mapping of signal name to Series
        Rows from `BEFORE_SPAN` before the onset until now; signals without any row are left out of the plan.
    evidence : Mapping
        Evidence of the finding, for what the series do not say (``observed``, ``expected``, ``baseline_id``).

    Returns
    -------
    dict
        Without ``signals`` nothing can decide, and a supervisor signs off.
    """
    onset_us, now_us = to_us(onset_at), to_us(now_at)
    signals = []
    for name, series in primary.items():
        rows = series.usable()
        if len(rows):
            signals.append(_freeze_signal(spec, name, rows, onset_us, now_us, evidence))
    plan: dict[str, Any] = {
        "test": str(spec.test),
        "frozen_at": now_at.isoformat(),
        "onset_at": onset_at.isoformat(),
        "baseline_id": str(evidence.get("baseline_id", "")),
        "timezone": timezone,
        "evidence_min": spec.evidence_min,
        "settle_min": spec.settle_min,
        "fail_after_min": spec.fail_after_min,
        "fail_excess_fraction": spec.fail_excess_fraction,
        "deadline_h": spec.deadline_h,
        "signals": signals,
    }
    if spec.night_from is not None and spec.night_to is not None:
        plan["night"] = [f"{spec.night_from:%H:%M}", f"{spec.night_to:%H:%M}"]
    if spec.test is VerificationTest.PASSES:
        plan["passes"] = spec.passes
    if spec.test is VerificationTest.NIGHTS:
        plan["nights_needed"], plan["nights_of"] = spec.nights_needed, spec.nights_of
    if spec.pressures_of_zone:
        plan["pressures"] = _freeze_pressures(spec, pressures, onset_us, now_us)
    return plan


def _step_s(rows: Series) -> float:
    if len(rows) < 2:
        return 300.0
    return float(np.clip(np.median(np.diff(rows.at_us)) / SECOND_US, 1.0, 86400.0))


def _sigma(before: Series, rows: Series) -> float:
    """Return the scale of a healthy residual: what the detector says of it, or what it was, whichever is larger."""
    said = before if len(before) else rows
    stated = float(np.median(said.sigma))
    measured = float(1.4826 * np.median(np.abs(before.residual))) if len(before) >= 12 else 0.0
    return max(stated, measured, 1e-9)


def _freeze_signal(
    spec: VerificationSpec, name: str, rows: Series, onset_us: int, now_us: int, evidence: Mapping[str, Any]
) -> dict[str, Any]:
    before = rows.where(rows.at_us < onset_us)
    recent = rows.between(max(onset_us, now_us - int(RECENT_SPAN.total_seconds()) * SECOND_US), now_us)
    sigma = _sigma(before, rows)
    observed, expected = evidence.get("observed"), evidence.get("expected")
    told = float(observed) - float(expected) if isinstance(observed, int | float) and isinstance(expected, int | float) else math.nan
    same_unit = evidence.get("unit") in (None, "", rows.unit)
    if len(recent) >= 3:
        excess = float(np.mean(recent.residual))
    elif same_unit and math.isfinite(told):
        excess = told
    else:
        excess = float(rows.residual[-1])
    threshold = max(spec.sigma_factor * sigma, spec.excess_fraction * abs(excess))
    if abs(excess) > sigma:
        threshold = min(threshold, EXCESS_CAP * abs(excess))
    before_median = float(np.median(before.observed)) if len(before) else float(np.median(rows.expected))
    return {
        "name": name,
        "unit": rows.unit,
        "sigma": round(sigma, 6),
        "excess": round(excess, 6),
        "side": 1 if excess >= 0 else -1,
        "threshold": round(threshold, 6),
        "step_s": _step_s(before if len(before) > 1 else rows),
        "before_median": round(before_median, 6),
        "before_rows": len(before),
    }


def _freeze_pressures(spec: VerificationSpec, pressures: Mapping[str, Series], onset_us: int, now_us: int) -> dict[str, Any]:
    """Return the sensors, their sigmas, and how low their pooled residual may be.

    That is -0.5 sigma, or what these sensors do when nothing leaks, or a quarter of what they fell by in the fault, whichever allows
    more: the flow decides how much may be left, the pressures only that the flow is not deceived.
    """
    names, sigmas, pooled_at, pooled_z = [], [], [], []
    fallen: list[NDArray[np.float64]] = []
    for name, series in sorted(pressures.items()):
        rows = series.usable()
        before = rows.where(rows.at_us < onset_us)
        if len(before) < 12:
            continue
        sigma = _sigma(before, rows)
        names.append(name)
        sigmas.append(round(sigma, 6))
        pooled_at.append(before.at_us)
        pooled_z.append(before.residual / sigma)
        fallen.append(rows.between(onset_us, now_us).residual / sigma)
    limit = PRESSURE_Z_MIN
    if names:
        fall = np.concatenate(fallen)
        if len(fall) >= len(names):
            limit = min(limit, PRESSURE_FALL_SHARE * float(fall.mean()))
        pool = _Pool.of(pooled_at, pooled_z)
        ends = np.unique(pool.at_us)
        means, counts = pool.means(ends - int(spec.evidence_min) * MINUTE_US, ends)
        healthy = means[counts >= len(names)]
        if len(healthy) >= 24:
            # what these sensors do when nothing leaks: a forecast that is off now and then must not fail a good repair
            limit = min(limit, float(np.quantile(healthy, PRESSURE_LOW_QUANTILE)))
    return {"names": names, "sigmas": sigmas, "z_min": round(limit, 4)}


@dataclass(frozen=True, slots=True)
class _Pool:
    """Values of several signals in time order, for means over many intervals at once."""

    at_us: NDArray[np.int64]
    total: NDArray[np.float64]

    @classmethod
    def of(cls, at_us: Sequence[NDArray[np.int64]], values: Sequence[NDArray[np.float64]]) -> _Pool:
        at = np.concatenate(at_us) if at_us else np.empty(0, np.int64)
        value = np.concatenate(values) if values else np.empty(0, np.float64)
        order = np.argsort(at, kind="stable")
        return cls(at[order], np.concatenate(([0.0], np.cumsum(value[order]))))

    def means(self, from_us_: NDArray[np.int64], to_us_: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return mean and count of the values in each half-open interval (from, to]; the mean is nan without values."""
        low = np.searchsorted(self.at_us, from_us_, side="right")
        high = np.searchsorted(self.at_us, to_us_, side="right")
        count = (high - low).astype(np.int64)
        total = self.total[high] - self.total[low]
        return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def volume_m3(series: Series, onset_at: datetime, done_at: datetime) -> float | None:
    """Return the volume in m3 that a flow signal in m3/h says was lost between onset and repair; None without data or in another unit.

    Notes
    -----
    Each residual stands for the time since the row before it, at most an hour: longer gaps are not filled in, the volume is then too small.

    Examples
    --------
    >>> hour = 3_600_000_000
    >>> flow = Series.of([0, hour, 2 * hour], [40.0, 52.0, 52.0], [40.0, 40.0, 40.0], [1.0, 1.0, 1.0], unit="m3/h")
    >>> volume_m3(flow, from_us(0), from_us(2 * hour))
    24.0
    """
    rows = series.usable()
    if rows.unit != "m3/h" or not len(rows):
        return None
    since = np.diff(rows.at_us, prepend=to_us(onset_at)) / (3600 * SECOND_US)
    inside = (rows.at_us > to_us(onset_at)) & (rows.at_us <= to_us(done_at))
    return round(max(0.0, float((rows.residual * np.clip(since, 0.0, 1.0))[inside].sum())), 3)


# -- evaluating ----------------------------------------------------------------------------------------------------------------------


def evaluate(plan: Mapping[str, Any], series: Mapping[str, Series], done_at: datetime, now_at: datetime, extensions: int = 0) -> Progress:
    """Return what the signals say since DONE.

    Parameters
    ----------
    plan : Mapping
        As `freeze` returned it.
    series : Mapping of signal name to Series
        Rows from the dispatch on; rows before DONE only tell which baseline was in force.
    done_at : datetime
        When the crew reported done.
    extensions : int
        How often the deadline was extended already.
    """
    if not plan.get("signals"):
        return Progress(VerificationOutcome.INCONCLUSIVE, "no signal can decide: a supervisor signs off")
    first = plan["signals"][0]
    start_us = to_us(done_at) + int(float(plan["settle_min"]) * MINUTE_US)
    rows, ignored = _evidence(series.get(first["name"]), to_us(done_at), start_us, to_us(now_at))
    deadline_at = deadline_of(plan, done_at, extensions)
    match VerificationTest(plan["test"]):
        case VerificationTest.BURST:
            progress = _burst(plan, first, rows, series, done_at, start_us, now_at >= deadline_at)
        case VerificationTest.NIGHTS:
            progress = _nights(plan, first, rows, start_us, now_at, now_at >= deadline_at)
        case VerificationTest.PASSES:
            progress = _passes(plan, first, rows, now_at >= deadline_at)
        case VerificationTest.INSIDE_BAND:
            progress = _inside_band(plan, first, rows, now_at >= deadline_at)
    facts = {
        **progress.facts,
        "signal": first["name"],
        "unit": first["unit"],
        "excess": first["excess"],
        "threshold": first["threshold"],
        "rows": len(rows),
        "rows_of_another_baseline": ignored,
        "evidence_until": from_us(int(rows.at_us[-1])).isoformat() if len(rows) else None,
        "deadline_at": deadline_at.isoformat(),
        "extensions": extensions,
    }
    sentence = progress.sentence + (f" ({ignored} rows rest on another baseline and do not count)" if ignored else "")
    return Progress(progress.outcome, sentence, facts)


def deadline_of(plan: Mapping[str, Any], done_at: datetime, extensions: int = 0) -> datetime:
    """Return when verification must have decided: the plan's hours, but never before the night that it needs is over."""
    deadline_at = done_at + timedelta(hours=float(plan["deadline_h"])) * (1 + extensions)
    if plan.get("test") == VerificationTest.BURST and "night" in plan:
        settled_at = done_at + timedelta(minutes=float(plan["settle_min"]) + float(plan["evidence_min"]))
        _, night_end = _night_after(plan, settled_at, float(plan["evidence_min"]))
        deadline_at = max(deadline_at, night_end + NIGHT_GRACE)
    return deadline_at


def _evidence(series: Series | None, done_us: int, start_us: int, now_us: int) -> tuple[Series, int]:
    """Return the usable rows after `start_us` on the baseline that was in force at DONE, and how many rest on another."""
    if series is None:
        return Series.of([], [], [], []), 0
    rows = series.usable()
    rows = rows.where(rows.at_us <= now_us)
    before = [b for b, at in zip(rows.baseline, rows.at_us.tolist(), strict=True) if at <= done_us]
    after = rows.where(rows.at_us > start_us)
    if not len(after):
        return after, 0
    reference = before[-1] if before else after.baseline[0]
    same = np.fromiter((b == reference for b in after.baseline), np.bool_, len(after))
    return after.where(same), int((~same).sum())


def _minutes(rows: Series, step_s: float) -> float:
    return len(rows) * step_s / 60


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "?"
    size = abs(value)
    digits = 1 if size >= 1 else 2 if size >= 0.1 else 3
    return f"{value:.{digits}f}"


def _need(first: Mapping[str, Any]) -> str:
    sign = "<" if first["side"] > 0 else ">"
    return f"need {sign} {_number(first['side'] * first['threshold'])}"


def _change(first: Mapping[str, Any], now: float) -> str:
    """Return ``residual 11.8 -> 0.6 m3/h``."""
    return f"residual {_number(first['excess'])} -> {_number(first['side'] * now)} {first['unit']}"


def _trailing(rows: Series, minutes: float) -> Series:
    if not len(rows):
        return rows
    return rows.where(rows.at_us > int(rows.at_us[-1]) - int(minutes * MINUTE_US))


def _clearly_there(plan: Mapping[str, Any], first: Mapping[str, Any], value: float) -> bool:
    return value > max(float(first["threshold"]), float(plan["fail_excess_fraction"]) * abs(float(first["excess"])))


def _local_night(plan: Mapping[str, Any], day: date) -> tuple[datetime, datetime]:
    zone = ZoneInfo(str(plan["timezone"]))
    begin, end = (time.fromisoformat(t) for t in plan["night"])
    return datetime.combine(day, begin, zone), datetime.combine(day, end, zone)


def _night_after(plan: Mapping[str, Any], at: datetime, evidence_min: float) -> tuple[datetime, datetime]:
    """Return the first night window of which enough is left after `at` (what is left of it)."""
    local = at.astimezone(ZoneInfo(str(plan["timezone"])))
    need = timedelta(minutes=evidence_min)
    for days in range(3):
        begin, end = _local_night(plan, local.date() + timedelta(days=days))
        left = max(begin, at.astimezone(begin.tzinfo))
        if end - left >= need:
            return left, end
    return begin, end


def _burst(
    plan: Mapping[str, Any],
    first: Mapping[str, Any],
    rows: Series,
    series: Mapping[str, Series],
    done_at: datetime,
    start_us: int,
    over: bool,
) -> Progress:
    side, threshold, step_s = float(first["side"]), float(first["threshold"]), float(first["step_s"])
    need_min = float(plan["evidence_min"])
    pool = _pressure_pool(plan, series, to_us(done_at), start_us, int(rows.at_us[-1]) if len(rows) else start_us)
    z_min = float(plan.get("pressures", {}).get("z_min", PRESSURE_Z_MIN))
    value = side * rows.residual
    flow = _Pool.of([rows.at_us], [value])
    span_us = int(need_min * MINUTE_US)
    # a window that ends at each row, as soon as a whole one fits after the start
    ends = rows.at_us[rows.at_us >= start_us + int(COVERAGE_MIN * span_us)]
    mean, count = flow.means(ends - span_us, ends)
    z, z_count = pool.means(ends - span_us, ends)
    covered = count * step_s >= COVERAGE_MIN * need_min * 60
    calm = covered & (mean < threshold) & ((z_count == 0) | (z > z_min))
    quiet_us = int(ends[np.argmax(calm)]) if calm.any() else None

    now_value = float(mean[-1]) if len(ends) and covered[-1] else (float(value.mean()) if len(rows) else math.nan)
    settled_at = from_us(start_us) + timedelta(minutes=need_min)
    night_begin, night_end = _night_after(plan, settled_at, need_min)
    night = rows.between(to_us(night_begin), to_us(night_end))
    night_mean = float((side * night.residual).mean()) if len(night) else math.nan
    # the same again, in a window that lies inside the night
    of_night = (ends >= to_us(night_begin) + int(COVERAGE_MIN * span_us)) & (ends <= to_us(night_end))
    night_enough = bool((covered & of_night).any())
    night_calm = bool((calm & of_night).any())
    night_z = z[of_night]

    label = f"{plan['night'][0]}-{plan['night'][1]}"
    facts: dict[str, Any] = {
        "residual": _rounded(now_value * side),
        "quiet_at": None if quiet_us is None else from_us(quiet_us).isoformat(),
        "night_begin": from_us(to_us(night_begin)).isoformat(),
        "night_residual": _rounded(night_mean * side),
        "evidence_min": round(_minutes(rows, step_s), 1),
        "pressure_z": _rounded(float(z[-1]) if len(z) else math.nan),
        "night_pressure_z": _rounded(float(night_z.max()) if len(night_z) else math.nan),
        "pressure_z_min": z_min if plan.get("pressures", {}).get("names") else None,
    }
    change, need = _change(first, now_value), f"{_need(first)} for {need_min:.0f} min"
    if quiet_us is not None and night_calm:
        return Progress(VerificationOutcome.PASS, f"{change}, {need}: met, and again in the night window {label}", facts)
    evidence_min = _minutes(rows, step_s)
    if evidence_min >= float(plan["fail_after_min"]) and len(ends) and covered[-1] and _clearly_there(plan, first, float(mean[-1])):
        return Progress(VerificationOutcome.FAIL, f"{change}, {need}: still there after {evidence_min:.0f} min of data", facts)
    if over:
        if len(ends) and covered[-1] and (mean[-1] >= threshold or (night_enough and night_mean >= threshold)):
            return Progress(VerificationOutcome.FAIL, f"{change}, {need}: not met until the deadline", facts)
        return Progress(VerificationOutcome.INCONCLUSIVE, f"{change}, {need}: the data until the deadline do not decide", facts)
    if not len(rows):
        return Progress(
            VerificationOutcome.PENDING, f"residual was {_number(first['excess'])} {first['unit']}: no data since done yet", facts
        )
    if quiet_us is None:
        low = len(ends) > 0 and bool(covered[-1]) and mean[-1] < threshold
        why = "pressure is still low" if low else f"{min(evidence_min, need_min):.0f} of {need_min:.0f} min seen"
        return Progress(VerificationOutcome.PENDING, f"{change}, {need}: {why}", facts)
    if night_enough:
        seen = ": pressure is still low" if night_mean < threshold else f": residual {_number(side * night_mean)}"
    else:
        seen = f": {_minutes(night, step_s):.0f} of {need_min:.0f} min seen" if len(night) else " still to come"
    return Progress(VerificationOutcome.PENDING, f"{change}, {need}: met; night window {label}{seen}", facts)


def _pressure_pool(plan: Mapping[str, Any], series: Mapping[str, Series], done_us: int, start_us: int, now_us: int) -> _Pool:
    pressures = plan.get("pressures", {})
    at_us, values = [], []
    for name, sigma in zip(pressures.get("names", ()), pressures.get("sigmas", ()), strict=True):
        rows, _ = _evidence(series.get(name), done_us, start_us, now_us)
        at_us.append(rows.at_us)
        values.append(rows.residual / float(sigma))
    return _Pool.of(at_us, values)


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _nights(plan: Mapping[str, Any], first: Mapping[str, Any], rows: Series, start_us: int, now_at: datetime, over: bool) -> Progress:
    side, threshold, step_s = float(first["side"]), float(first["threshold"]), float(first["step_s"])
    zone = ZoneInfo(str(plan["timezone"]))
    need_min, needed, of = float(plan["evidence_min"]), int(plan["nights_needed"]), int(plan["nights_of"])
    day, last = from_us(start_us).astimezone(zone).date(), now_at.astimezone(zone).date()
    values: list[float] = []
    while day <= last and len(values) < 60:
        begin, end = _local_night(plan, day)
        night = rows.between(max(to_us(begin), start_us), to_us(end))
        if _minutes(night, step_s) >= need_min and to_us(end) <= to_us(now_at):
            values.append(float((side * night.residual).mean()))
        day += timedelta(days=1)
    recent = values[-of:]
    good = sum(v < threshold for v in recent)
    bad = sum(_clearly_there(plan, first, v) for v in recent)
    now_value = values[-1] if values else math.nan
    facts = {"residual": _rounded(now_value * side), "nights": [_rounded(v * side) for v in recent], "nights_good": good}
    text = f"{_change(first, now_value)}, {_need(first)} in {needed} of {of} nights: {good} of {len(recent)} so far"
    if good >= needed:
        return Progress(VerificationOutcome.PASS, text, facts)
    if len(recent) == of and bad > of - needed:
        return Progress(VerificationOutcome.FAIL, text, facts)
    if over:
        return Progress(VerificationOutcome.FAIL if len(recent) == of else VerificationOutcome.INCONCLUSIVE, text, facts)
    return Progress(VerificationOutcome.PENDING, text, facts)


def _inside_band(plan: Mapping[str, Any], first: Mapping[str, Any], rows: Series, over: bool) -> Progress:
    side, threshold, step_s, sigma = float(first["side"]), float(first["threshold"]), float(first["step_s"]), float(first["sigma"])
    need_min, fail_min = float(plan["evidence_min"]), float(plan["fail_after_min"])
    seen_min = _minutes(rows, step_s)
    window = _trailing(rows, need_min)
    value = side * window.residual
    mean = float(value.mean()) if len(window) else math.nan
    inside = float((np.abs(value) <= INSIDE_SIGMAS * sigma + threshold).mean()) if len(window) else 0.0
    short = _trailing(rows, min(need_min, fail_min))
    short_mean = float((side * short.residual).mean()) if len(short) else math.nan
    facts = {"residual": _rounded(mean * side), "inside_share": round(inside, 3), "evidence_min": round(seen_min, 1)}
    text = f"{_change(first, mean)}, {_need(first)} over {need_min / 60:g} h"
    enough = seen_min >= need_min and _minutes(window, step_s) >= COVERAGE_MIN * need_min
    if enough and abs(mean) < threshold and inside >= INSIDE_SHARE_MIN:
        return Progress(VerificationOutcome.PASS, f"{text}: met", facts)
    if (
        seen_min >= fail_min
        and _minutes(short, step_s) >= COVERAGE_MIN * min(need_min, fail_min)
        and _clearly_there(plan, first, short_mean)
    ):
        return Progress(VerificationOutcome.FAIL, f"{text}: still there after {seen_min / 60:.1f} h of data", facts)
    if over:
        outcome = VerificationOutcome.FAIL if enough else VerificationOutcome.INCONCLUSIVE
        return Progress(outcome, f"{text}: {'not met until the deadline' if enough else 'too little data until the deadline'}", facts)
    return Progress(VerificationOutcome.PENDING, f"{text}: {min(seen_min, need_min) / 60:.1f} of {need_min / 60:g} h seen", facts)


def _passes(plan: Mapping[str, Any], first: Mapping[str, Any], rows: Series, over: bool) -> Progress:
    side, threshold, need = float(first["side"]), float(first["threshold"]), int(plan["passes"])
    window = rows.where(np.arange(len(rows)) >= len(rows) - need)
    above = side * (float(np.median(window.observed)) - float(first["before_median"])) if len(window) else math.nan
    median = float(np.median(window.observed)) if len(window) else math.nan
    facts = {"residual": _rounded(above * side), "passes": len(rows), "median": _rounded(median)}
    text = (
        f"median of {min(len(rows), need)} passes {_number(median)} {first['unit']}, before the fault {_number(first['before_median'])},"
        f" at most {_number(first['threshold'])} from it needed over {need} passes"
    )
    if len(window) >= need:
        if above < threshold:
            return Progress(VerificationOutcome.PASS, f"{text}: met", facts)
        if _clearly_there(plan, first, above):
            return Progress(VerificationOutcome.FAIL, f"{text}: still there", facts)
        if over:
            return Progress(VerificationOutcome.FAIL, f"{text}: not met until the deadline", facts)
    elif over:
        return Progress(VerificationOutcome.INCONCLUSIVE, f"{text}: too few passes until the deadline", facts)
    return Progress(VerificationOutcome.PENDING, text, facts)
