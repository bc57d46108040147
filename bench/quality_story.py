"""Draw what a simulated quality station measured, what was expected of it, and what was found.

    python bench/quality_story.py 1 61.2 65.0 docs/images/quality-station.svg

Arguments: seed, first and last day, file. The readings are black, what the day lets expect is blue, a contaminant is red, probes in maintenance or
calibration yellow, operations green; a mark stands where a finding was raised or cleared.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from detectors.bank import Bank
from detectors.water.quality import WaterQuality
from simulators.quality_station import DAY_S, OPERATIONS, HappeningKind, StationRun, simulate_station
from underway.app.bench.quality import BEGIN_US, batches, make_registry
from underway.model import CANONICAL_UNIT, Finding, FindingPhase, Quantity

WIDTH, PANEL, LEFT = 980, 92, 90
COLOUR = {"event": "#c0392b", "sensor": "#8a6d00", "operation": "#2e7d4f"}
FONT = "font-family='sans-serif' font-size='11'"


def replayed(run: StationRun) -> tuple[list[Finding], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return findings, and (days, expected) of every quantity."""
    bank = Bank(make_registry(run))
    bank = bank.only([key for key, d in bank.detectors.items() if isinstance(d, WaterQuality)])
    findings: list[Finding] = []
    rows: dict[str, list[tuple[float, float]]] = {}
    for _, batch in batches(run):
        out = bank.step(batch)
        findings += out.findings
        e = out.expectations
        for i in range(len(e)):
            name = e.signals[int(e.signal[i])].name.split("/")[2]
            rows.setdefault(name, []).append(((int(e.at_us[i]) - BEGIN_US) / 1e6 / DAY_S, float(e.expected[i])))
    return findings, {n: tuple(np.array(r).T) for n, r in rows.items()}  # type: ignore[misc]


def draw(run: StationRun, findings: list[Finding], expected: dict[str, tuple[np.ndarray, np.ndarray]], begin: float, end: float) -> str:
    def x(day: float) -> float:
        return LEFT + (min(max(day, begin), end) - begin) / (end - begin) * (WIDTH - LEFT - 10)

    height = 60 + PANEL * len(run.signals)
    title = f"Station {run.station}: readings, what was expected, what was found"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'>",
        f"<title>{title}</title>",
    ]
    parts.append(f"<rect width='{WIDTH}' height='{height}' fill='white'/>")
    for h in run.happenings:
        a, b = h.seen_from_s / DAY_S, h.seen_until_s / DAY_S
        if h.kind is HappeningKind.DRIFT or b < begin or a > end:
            continue
        fill = "#f5b7b1" if h.kind is HappeningKind.CONTAMINATION else "#cdebd8" if h.kind in OPERATIONS else "#fdeeb0"
        parts.append(f"<rect x='{x(a):.1f}' y='24' width='{max(x(b) - x(a), 1.5):.1f}' height='{height - 50}' fill='{fill}'/>")
        parts.append(f"<text x='{x(a):.1f}' y='{height - 12}' {FONT}>{h.kind.value} {h.what.split('+')[0]}</text>")
    day = run.at_s / DAY_S
    inside = np.flatnonzero((day >= begin) & (day <= end))[::2]
    for k, (name, value) in enumerate(run.signals.items()):
        top = 28 + PANEL * k
        seen = value[inside]
        at, want = expected[name]
        of = (at >= begin) & (at <= end)
        both = np.concatenate((seen[np.isfinite(seen)], want[of]))
        low, high = float(both.min()), float(both.max())

        def y(v: float, top: float = top, low: float = low, high: float = high) -> float:
            return top + (PANEL - 14) * (1.0 - (v - low) / max(high - low, 1e-9))

        unit = CANONICAL_UNIT[Quantity(name)]
        parts.append(f"<text x='6' y='{top + 14}' {FONT}>{name}</text><text x='6' y='{top + 28}' {FONT} fill='#67727e'>{unit}</text>")
        parts.append(f"<text x='6' y='{top + 50}' {FONT} fill='#67727e'>{low:.4g} to {high:.4g}</text>")
        for points, colour in (
            ([(float(day[i]), float(value[i])) for i in inside if np.isfinite(value[i])], "#1d2733"),
            (list(zip(at[of].tolist(), want[of].tolist(), strict=True)), "#1f6fb2"),
        ):
            line = " ".join(f"{x(d):.1f},{y(v):.1f}" for d, v in points)
            parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='1'/>")
    for f in findings:
        d = (f.detected_us - BEGIN_US) / 1e6 / DAY_S
        if f.phase is FindingPhase.UPDATE or not begin <= d <= end:
            continue
        kind = f.kind.value.split(".")[1]
        dash = "" if f.phase is FindingPhase.RAISE else " stroke-dasharray='3 3'"
        parts.append(f"<line x1='{x(d):.1f}' y1='20' x2='{x(d):.1f}' y2='{height - 26}' stroke='{COLOUR[kind]}' stroke-width='1.5'{dash}/>")
        if f.phase is FindingPhase.RAISE:
            parts.append(f"<text x='{x(d):.1f}' y='15' {FONT} fill='{COLOUR[kind]}'>{kind}</text>")
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    seed, begin, end, out = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
    run = simulate_station("net3", seed)
    findings, expected = replayed(run)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(draw(run, findings, expected, begin, end), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
