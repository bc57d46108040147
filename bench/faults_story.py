"""Draw a simulated tank and pump, or a pressure reducing valve: what was measured, what was expected, and what was found.

    python bench/faults_story.py 1 48 62 docs/images/tank-and-pump.svg
    python bench/faults_story.py 3 79 98 docs/images/prv.svg prv

Arguments: seed, first and last day, file, what (station or prv). Readings are black, expected values blue, faults red, what only looks like one
grey; a line stands where a finding was raised (solid) or cleared (dashed).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from detectors.bank import Bank
from simulators.prv_station import PRV_FAULTS, simulate_prv
from simulators.water_faults import DAY_STEPS, FAULTS, STEP_S, simulate_faults
from underway.app.bench import prv
from underway.app.bench.fault_replay import BEGIN_US
from underway.app.bench.faults import CHANNELS, make_registry
from underway.model import Finding, FindingPhase, ReadingBatch

WIDTH, PANEL, LEFT = 980, 120, 90
FONT = "font-family='sans-serif' font-size='11'"
Series = dict[str, list[tuple[float, float, float]]]


Happened = list[tuple[str, float, float, bool]]


def station(seed: int, days: int) -> tuple[Bank, np.ndarray, Happened]:
    """Return a bank for a tank and a pump, what their gauges said, and what happened."""
    run, bank = simulate_faults(seed, days), Bank(make_registry())
    happened = [(h.what.value, h.begin / DAY_STEPS, h.end / DAY_STEPS, h.what in FAULTS) for h in run.happened]
    return bank, np.column_stack([run.signals[name] for name, *_ in CHANNELS]), happened


def valve(seed: int, days: int) -> tuple[Bank, np.ndarray, Happened]:
    """Return the same of a pressure reducing valve."""
    run, bank = simulate_prv(seed, days), Bank(prv.make_registry())
    happened = [(h.what.value, h.begin / DAY_STEPS, h.end / DAY_STEPS, h.what in PRV_FAULTS) for h in run.happened]
    return bank, np.column_stack([run.signals[name] for name, *_ in prv.CHANNELS]), happened


def replayed(bank: Bank, value: np.ndarray) -> tuple[list[Finding], Series]:
    """Return findings, and (day, observed, expected) of every signal."""
    bank = bank.only([key for key in bank.lane_keys if key.startswith(("tank-level", "pump-efficiency", "prv"))])
    findings: list[Finding] = []
    series: Series = {}
    for first in range(0, len(value), DAY_STEPS):
        row, column = np.nonzero(np.isfinite(value[first : first + DAY_STEPS]))
        at = BEGIN_US + (first + row) * STEP_S * 1_000_000
        out = bank.step(ReadingBatch.from_columns(column + 1, at, value[first + row, column]))
        findings += out.findings
        e = out.expectations
        for i in range(len(e)):
            day = (int(e.at_us[i]) - BEGIN_US) / 86_400e6
            series.setdefault(e.signals[int(e.signal[i])].name, []).append((day, float(e.observed[i]), float(e.expected[i])))
    return findings, series


def main() -> int:
    seed, begin, end, out = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
    of_valve = sys.argv[5:] == ["prv"]
    bank, value, happened = (valve if of_valve else station)(seed, int(end) + 6)
    findings, series = replayed(bank, value)

    def x(day: float) -> float:
        return LEFT + (min(max(day, begin), end) - begin) / (end - begin) * (WIDTH - LEFT - 10)

    height, title = (
        70 + PANEL * len(series),
        f"{'A valve' if of_valve else 'A tank and a pump'}: readings, what was expected, what was found",
    )
    parts = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'>"]
    parts += [f"<title>{title}</title>", f"<rect width='{WIDTH}' height='{height}' fill='white'/>"]
    for what, a, b, fault in happened:
        if b >= begin and a <= end:
            fill = "#f5b7b1" if fault else "#e3e6e8"
            parts.append(f"<rect x='{x(a):.1f}' y='36' width='{x(b) - x(a):.1f}' height='{height - 62}' fill='{fill}'/>")
            parts.append(f"<text x='{x(a):.1f}' y='{height - 10}' {FONT}>{what}</text>")
    for k, (name, rows) in enumerate(sorted(series.items())):
        top, seen = 42 + PANEL * k, [r for r in rows if begin <= r[0] <= end]
        low, high = min(min(r[1:]) for r in seen), max(max(r[1:]) for r in seen)
        parts.append(f"<text x='6' y='{top + 14}' {FONT}>{name.split('/')[2]}</text>")
        parts.append(f"<text x='6' y='{top + 30}' {FONT} fill='#67727e'>{low:.3g} to {high:.3g}</text>")
        for column, colour in ((1, "#1d2733"), (2, "#1f6fb2")):
            points = " ".join(f"{x(r[0]):.1f},{top + (PANEL - 16) * (1 - (r[column] - low) / (high - low or 1)):.1f}" for r in seen[::2])
            parts.append(f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1'/>")
    for n, f in enumerate(findings):
        day = (f.detected_us - BEGIN_US) / 86_400e6
        if f.phase is FindingPhase.UPDATE or not begin <= day <= end:
            continue
        dash = "" if f.phase is FindingPhase.RAISE else " stroke-dasharray='3 3'"
        parts.append(f"<line x1='{x(day):.1f}' y1='34' x2='{x(day):.1f}' y2='{height - 26}' stroke='#c0392b'{dash}/>")
        if f.phase is FindingPhase.RAISE:
            parts.append(f"<text x='{x(day):.1f}' y='{14 + 14 * (n % 2)}' {FONT} fill='#c0392b'>{f.kind.value}</text>")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
