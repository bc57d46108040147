"""A study for leak detection on L-Town: a nominal model, calibrated in two weeks, and a tracker of leaks on what it does not explain.

    python bench/leak_study ltown/101 --out detections.csv          # needs pyarrow (pip install pyarrow)

Reads a town of the benchmark (two years: the first to learn, the second is judged) and writes ``time,pipe,alarm_at,flow_m3ph,mass_300m,evidence``,
one line a dig, in the order of time. It is causal: a step sees what came before it. What it is and what it is not: README.md beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from nominal import Nominal
from numpy.typing import NDArray
from town import DIG_REACH_M, Hourly, Network
from tracker import LEARN_DAYS, Leak, Rules, Tracker

Floats = NDArray[np.float64]

DAY_H, STEP_H = 24, 6
DIG_M3PH_MIN = 0.5
TANK_AREA_M2 = np.pi * 8.0**2
JUDGED_FROM = "2025-01-01"


def residuals(measured: Floats, modelled: Floats, explaining: Floats) -> Floats:
    """Return measured minus modelled, less what a regression on `explaining` over the first two weeks makes of it."""
    left, learn = measured - modelled, slice(0, LEARN_DAYS * DAY_H)
    found = np.full_like(left, np.nan)
    for i in range(left.shape[1]):
        ok = np.isfinite(left[learn, i]) & np.isfinite(explaining[learn]).all(1)
        if ok.sum() > 2 * explaining.shape[1]:
            weights, *_ = np.linalg.lstsq(explaining[learn][ok], left[learn, i][ok], rcond=None)
            found[:, i] = left[:, i] - explaining @ weights
    return found


def daily_means(left: Floats, load: Floats) -> Iterator[tuple[int, Floats]]:
    """Yield (hour, mean over the 24 h before it) each six hours; `load` is how strongly a leak shows in an hour, 1 at the typical load."""
    for hour in range(DAY_H, len(left) + 1, STEP_H):
        rows, weight = left[hour - DAY_H : hour], load[hour - DAY_H : hour, None]
        ok = np.isfinite(rows * weight)
        size = (ok * weight**2).sum(0)
        mean = np.where(ok, rows * weight, 0.0).sum(0) / np.maximum(size, 1e-9)
        yield hour, np.where(ok.sum(0) >= DAY_H // 2, mean, np.nan)


def digs(
    left: Floats, load: Floats, hourly: Hourly, network: Network, signatures: Floats, rules: Rules, judged_s: float
) -> Iterator[tuple[float, str, float, float, float]]:
    """Yield (time, pipe, time of the alarm, flow, mass within 300 m) of every dig in one area.

    A leak is dug for when it is believed; what is known by the time from which digs count is dug for then, as far as it still runs.
    """
    inside = np.flatnonzero(np.isfinite(signatures).all(1))
    names = list(network.pipes["pipe"].to_numpy()[inside])
    near = network.distance_m[np.ix_(inside, inside)] <= DIG_REACH_M
    tracker = Tracker(signatures[inside], near, network.pipes["length_m"].to_numpy(np.float64)[inside], rules)
    repairs = [(at_s, names.index(pipe)) for at_s, pipe in hourly.repairs if pipe in names]
    recent: list[Floats] = []
    dug: set[Leak] = set()
    for hour, mean in daily_means(left, load):
        now_s = float(hourly.begin_s[hour - 1] + 3600)
        recent = [*recent[-33 * DAY_H // STEP_H :], mean]
        while repairs and repairs[0][0] <= now_s:
            tracker.repaired(*repairs.pop(0))
        tracker.step(now_s, recent, hour % DAY_H == 0, DAY_H // STEP_H)
        for leak in tracker.leaks if now_s >= judged_s else ():
            if leak not in dug:
                dug.add(leak)
                if leak.closed_s is None and (leak.alarm_s == now_s or tracker.flow(leak) >= DIG_M3PH_MIN):
                    pipe, mass = tracker.best(leak)
                    yield now_s, names[pipe], leak.alarm_s, tracker.flow(leak), mass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("town", type=Path, help="folder with scada.parquet; the network's files stand in the folder above")
    parser.add_argument("--out", type=Path, default=Path("detections.csv"))
    parser.add_argument("--judged-from", default=JUDGED_FROM, help="leaks that are known by then are dug for on that day")
    options = parser.parse_args()
    began_s = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - began_s:6.1f} s  {text}", file=sys.stderr, flush=True)

    network, hourly = Network.read(options.town.parent), Hourly.read(options.town)
    say("read")
    with Nominal(network) as nominal:
        modelled_ab = nominal.hours_ab(hourly, lambda share: say(f"nominal model of A and B: {share:.0%}"))
        signatures_ab = nominal.signatures_ab()
        modelled_c = nominal.hours_c(hourly)
        signatures_c = nominal.signatures_c()
        gauges_ab, gauges_c = nominal.gauges_ab, nominal.gauges_c
    say("modelled")

    inflow = hourly.inlet_1 + hourly.inlet_2
    load = (np.clip(inflow, 20.0, None) / 200.0) ** 0.85
    one = np.ones(len(inflow))
    explaining = np.c_[
        one, (np.clip(inflow - hourly.pump, 0, None) / 200) ** 1.85, hourly.pump / 45, (np.clip(inflow, 0, None) / 200) ** 1.85
    ]
    measured_ab = np.c_[np.array([hourly.pressure[name] for name in gauges_ab]).T, hourly.inlet_1]
    left_ab = residuals(measured_ab, modelled_ab, explaining)
    n = len(gauges_ab)
    rules_ab = Rules(np.r_[np.full(n, 0.0016), 0.04], np.r_[np.full(n, 0.0005), 0.0125])

    used = hourly.customers.sum(axis=1, min_count=hourly.customers.shape[1]).to_numpy(np.float64) / 1000.0
    filled = np.r_[np.diff(hourly.level), np.nan] * TANK_AREA_M2
    measured_c = np.c_[hourly.pump - filled, np.array([hourly.pressure[name] for name in gauges_c]).T]
    left_c = residuals(
        measured_c, np.c_[used, modelled_c], np.c_[one, (used / np.nanmean(used[: LEARN_DAYS * DAY_H])) ** 1.85, hourly.level]
    )
    m = len(gauges_c)
    rules_c = Rules(np.r_[0.12, np.full(m, 0.02)], np.r_[0.02, np.full(m, 0.004)], growth=0.5, threshold=60.0)

    judged_s = pd.Timestamp(options.judged_from, tz="UTC").timestamp()
    rows = []
    for area, found in (
        ("A and B", digs(left_ab, load, hourly, network, signatures_ab, rules_ab, judged_s)),
        ("C", digs(left_c, one, hourly, network, signatures_c, rules_c, judged_s)),
    ):
        rows += [(at_s, pipe, alarm_s, round(flow, 2), round(mass, 3), f"area {area}") for at_s, pipe, alarm_s, flow, mass in found]
        say(f"tracked {area}")
    rows.sort()
    table = pd.DataFrame(rows, columns=["time", "pipe", "alarm_at", "flow_m3ph", "mass_300m", "evidence"])
    for column in ("time", "alarm_at"):
        table[column] = [pd.Timestamp(at_s, unit="s", tz="UTC").isoformat() for at_s in table[column]]
    table.to_csv(options.out, index=False)
    say(f"{len(table)} digs in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
