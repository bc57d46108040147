"""The simple way, to compare with: a nominal model, a day's mean, a likelihood ratio, and a new reference after each find.

It shares with the product what reads a town and solves its model, and nothing that decides: the nominal roughness, residuals calibrated on the first
two weeks, load-weighted means over 24 h every 6 h, a generalised likelihood ratio against the signatures of all pipes with independent signals, a
crew to the pipe with most probability within 300 m, and after each find the present mean as the new reference.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from detectors.contract import FloatArray
from detectors.water.network_leaks import NetworkLeaks
from detectors.water.pipe_map import pipe_distance_m
from detectors.water.section_model import HOURS_LEARNED, FittedSection, Loads, weighted_mean
from detectors.water.sections import Section, sections
from underway.app.bench.leak_town import BenchTown
from underway.model import HOUR_US

THRESHOLD = 60.0
SETTLE_STEPS = 8
STEP_HOURS = 6
REACH_M = 300.0
WATCHED_M3PH = 0.5
SD_FACTOR = 6.0
"""Of 2, 4, 6 and 8 the one that did best on two towns that nothing is judged on."""


def baseline_digs(town: BenchTown, since_s: float, until: datetime | None = None) -> list[tuple[float, str]]:
    """Return (time, pipe) of the digs of the simple way, from `since_s` on.

    A leak that is found before is dug for at `since_s`, unless a repair within 300 m was reported since.
    """
    found, _ = sections(town.registry.channels, town.model)
    digs: list[tuple[float, str]] = []
    for section in found:
        digs += _section_digs(town, section, since_s, until)
    return sorted(digs)


def _hours(town: BenchTown, section: Section, until: datetime | None) -> tuple[int, FloatArray]:
    """Return (first hour, hourly means by channel of the section and the change of its tanks' volume)."""
    place = {c.channel_id: i for i, c in enumerate(section.channels)}
    first: int | None = None
    total: list[FloatArray] = []
    count: list[FloatArray] = []
    start_level: dict[tuple[int, int], float] = {}
    customers = {c.channel_id for c in section.customer_channels}
    tanks = {c.channel_id: k for k, c in enumerate(section.tank_channels)}
    for batch in town.batches(until):
        hour = batch.observed_us // HOUR_US
        begin = int(hour[0])
        first = begin if first is None else first
        n = int(hour[-1]) - begin + 1
        sums, counts = np.zeros((n, len(place))), np.zeros((n, len(place)))
        mine = np.array([place.get(int(c), -1) for c in range(int(batch.channel_id.max()) + 1)])[batch.channel_id]
        shift = np.isin(batch.channel_id, list(customers)).astype(np.int64)  # stamped at the end of the hour
        row = hour - shift - begin
        keep = (mine >= 0) & (row >= 0)
        np.add.at(sums, (row[keep], mine[keep]), batch.value[keep])
        np.add.at(counts, (row[keep], mine[keep]), 1.0)
        late = (mine >= 0) & (row < 0) & bool(total)
        for c, v in zip(mine[late].tolist(), batch.value[late].tolist(), strict=True):
            total[-1][-1, c] += v
            count[-1][-1, c] += 1.0
        for channel, k in tanks.items():
            at = (batch.channel_id == channel) & (batch.observed_us % HOUR_US == 0)
            start_level.update({(int(h), k): float(v) for h, v in zip(hour[at], batch.value[at], strict=True)})
        total.append(sums)
        count.append(counts)
    if first is None:
        return 0, np.zeros((0, len(place) + 1))
    sums, counts = np.concatenate(total), np.concatenate(count)
    with np.errstate(invalid="ignore"):
        mean = np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)
    fill = np.zeros(len(mean))
    for k, area in enumerate(section.tank_area_m2.tolist()):
        level = np.array([start_level.get((first + h, k), np.nan) for h in range(len(mean) + 1)])
        fill = fill + np.diff(level) * area
    return first, np.column_stack((mean, fill))


def _section_digs(town: BenchTown, section: Section, since_s: float, until: datetime | None) -> list[tuple[float, str]]:
    detector = NetworkLeaks(section, town.model, "UTC", {})
    first, rows = _hours(town, section, until)
    if len(rows) <= HOURS_LEARNED:
        return []
    loads = detector.loads(rows, first + len(rows) - 1)
    fitted = FittedSection(section)
    learning = Loads(*(getattr(loads, name)[:HOURS_LEARNED] for name in Loads.__dataclass_fields__))
    fit = fitted.learn(learning, nominal=True)
    signals = slice(None) if fitted.balanced else slice(-1)
    left, weight = (loads.measured - fitted.expected(loads))[:, signals], fitted.weight(loads)[:, signals]
    noise = (SD_FACTOR**2 * (fit.noise_own + np.diag(fit.noise_shared)))[signals]
    signature = fit.signatures[:, signals] / np.sqrt(noise)
    size = (signature**2).sum(1)
    near = pipe_distance_m(section) <= REACH_M
    reference = np.zeros(left.shape[1])
    quiet = 0
    known: list[tuple[int, float]] = []
    digs: list[tuple[float, str]] = []
    repairs = sorted((h.held_us / 1e6, section.pipes.index(h.asset_id)) for h in town.repairs if h.asset_id in section.pipes)
    opened = False
    for end in range(HOURS_LEARNED + 24, len(left) + 1, STEP_HOURS):
        now_s = (first + end) * 3600.0
        mean = weighted_mean(left[end - 24 : end], weight[end - 24 : end])
        reference = np.where(np.isfinite(reference), reference, mean)
        while repairs and repairs[0][0] <= now_s:
            _, pipe = repairs.pop(0)
            known = [k for k in known if not near[k[0], pipe]]
            quiet = SETTLE_STEPS
        if now_s >= since_s and not opened:
            opened = True
            digs += [(now_s, section.pipes[pipe]) for pipe, _ in known]
        if quiet:
            quiet -= 1
            if quiet == 0:
                reference = mean.copy()
            continue
        d = np.nan_to_num((mean - reference) / np.sqrt(noise))
        along = signature @ d
        ratio = np.where(along > 0, along**2 / size, 0.0)
        fall = np.where(along < 0, along**2 / size, 0.0)
        if max(ratio.max(), fall.max()) <= THRESHOLD:
            continue
        quiet = SETTLE_STEPS
        if fall.max() > ratio.max():
            continue
        where = np.exp((ratio - ratio.max()) / (2.0 * (1.0 + 0.02 * ratio.max())))
        pipe = int(np.argmax(near @ (where / where.sum())))
        if along[pipe] / size[pipe] < WATCHED_M3PH:
            continue
        if now_s >= since_s:
            digs.append((now_s, section.pipes[pipe]))
        else:
            known.append((pipe, now_s))
    return digs
