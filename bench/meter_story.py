"""Draw what one simulated customer meter counted, what was really used, and what was found.

    python bench/meter_story.py backflow 1 docs/images/meter-backward.svg

Arguments: a kind of fault (`simulators.customer_meters.HappeningKind`), seed, file. The first meter of that seed whose fault of that kind was
found is drawn, from six weeks before to twelve weeks after: bars are litres a day as counted, the line is what was really used, red is the fault,
solid and dashed marks stand where a finding was raised and cleared.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from detectors.bank import Bank
from simulators.customer_meters import DAY_S, Happening, HappeningKind, MeterYear, simulate_customer_meters
from underway.app.bench.meters import BEGIN_US, FOUND_BY, METER_DETECTORS, batches, make_registry
from underway.model import Finding, FindingPhase

WIDTH, HEIGHT, LEFT, TOP = 980, 300, 70, 46
BEFORE, AFTER = 42, 84
FONT = "font-family='sans-serif' font-size='11'"


def findings_of(year: MeterYear) -> list[Finding]:
    bank = Bank(make_registry(year))
    bank = bank.only([key for key, d in bank.detectors.items() if d.name in METER_DETECTORS])
    return [f for batch in batches(year) for f in bank.step(batch).findings]


def first_found(year: MeterYear, kind: HappeningKind, findings: list[Finding]) -> tuple[Happening, list[Finding]]:
    for h in year.faults:
        mine = [f for f in findings if f.asset_id == f"device:{h.device_id}"]
        if h.kind is kind and any(f.kind in FOUND_BY[kind] and f.detected_us >= BEGIN_US + h.begin_s * 1_000_000 for f in mine):
            return h, mine
    raise SystemExit(f"no fault of the kind {kind.value} was found in seed {year.seed}")


def daily(year: MeterYear, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (counted, used) litres of every day."""
    register = year.register_m3[number]
    place = np.maximum.accumulate(np.where(np.isfinite(register), np.arange(len(register)), 0))
    ends = register[place][23::24] * 1000.0
    return np.diff(ends, prepend=ends[0]), year.drawn_l[number].reshape(-1, 24).sum(axis=1)


def draw(year: MeterYear, h: Happening, mine: list[Finding]) -> str:
    number = next(i for i, m in enumerate(year.meters) if m.device_id == h.device_id)
    meter = year.meters[number]
    counted, used = daily(year, number)
    begin = h.begin_s // DAY_S
    first, last = max(begin - BEFORE, 0), min(begin + AFTER, year.days)
    top_l = float(np.quantile(used[first:last], 0.99)) * 1.15 + 1.0
    low_l = min(0.0, max(float(counted[first:last].min()), -top_l))
    bottom = HEIGHT - 30

    def x(day: float) -> float:
        return LEFT + (min(max(day, first), last) - first) / (last - first) * (WIDTH - LEFT - 12)

    def y(litres: float) -> float:
        return TOP + (bottom - TOP) * (1.0 - (min(max(litres, low_l), top_l) - low_l) / (top_l - low_l))

    title = f"Meter {h.device_id} ({meter.customer.value}, {meter.pulse_l:g} L a step): {h.kind.value}"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{title}'>",
        f"<title>{title}</title><rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        f"<text x='{LEFT}' y='16' {FONT}>{title}; bars: counted, line: really used, L a day</text>",
    ]
    end = max(h.end_s / DAY_S, h.begin_s / DAY_S + 0.3)
    parts.append(
        f"<rect x='{x(h.begin_s / DAY_S):.1f}' y='{TOP}' width='{x(end) - x(h.begin_s / DAY_S):.1f}' height='{bottom - TOP}' fill='#f9d9d5'/>"
    )
    for day in range(first, last):
        a, b = sorted((y(0.0), y(float(counted[day]))))
        parts.append(
            f"<rect x='{x(day) + 1:.1f}' y='{a:.1f}' width='{x(day + 1) - x(day) - 2:.1f}' height='{max(b - a, 0.8):.1f}' fill='#8fb8dc'/>"
        )
    points = " ".join(f"{x(day + 0.5):.1f},{y(float(used[day])):.1f}" for day in range(first, last))
    parts.append(f"<polyline points='{points}' fill='none' stroke='#1d2733' stroke-width='1'/>")
    for f in mine:
        at = (f.detected_us - BEGIN_US) / 1e6 / DAY_S
        if f.phase is FindingPhase.UPDATE or not first <= at <= last:
            continue
        dash = "" if f.phase is FindingPhase.RAISE else " stroke-dasharray='4 3'"
        parts.append(f"<line x1='{x(at):.1f}' x2='{x(at):.1f}' y1='{TOP - 10}' y2='{bottom}' stroke='#c0392b' stroke-width='1.6'{dash}/>")
        where = f"x='{x(at) + 3:.1f}'" if at < last - 12 else f"x='{x(at) - 3:.1f}' text-anchor='end'"
        parts.append(
            f"<text {where} y='{TOP - 2 if f.phase is FindingPhase.RAISE else TOP - 14}' {FONT} fill='#c0392b'>{f.kind.value} {f.phase.value}</text>"
        )
    parts.extend(
        f"<text x='{LEFT - 6}' y='{y(litres) + 4:.1f}' text-anchor='end' {FONT} fill='#67727e'>{litres:.0f}</text>"
        for litres in (low_l, 0.0, top_l)
    )
    weeks = range(first + -first % 14, last, 14)
    parts.extend(f"<text x='{x(day):.1f}' y='{HEIGHT - 12}' {FONT} fill='#67727e'>day {day}</text>" for day in weeks)
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    kind, seed, path = HappeningKind(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    year = simulate_customer_meters(seed)
    h, mine = first_found(year, kind, findings_of(year))
    path.write_text(draw(year, h, mine), encoding="utf-8")


if __name__ == "__main__":
    main()
