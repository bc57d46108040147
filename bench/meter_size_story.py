"""Draw a week of one simulated bulk meter that was found too large, with its Q1, Q2 and Q3.

    python bench/meter_size_story.py 1 docs/images/meter-sizing.svg

Arguments: seed, file. The first meter of that seed that was found oversized is drawn; the flow stands on a logarithmic scale, what was shown as 0 at
its foot.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from simulators.bulk_meters import BulkMeter, simulate_bulk_meters
from underway.app.bench.meter_sizes import run_sizes

WIDTH, HEIGHT, LEFT, TOP = 980, 300, 70, 30
FONT = "font-family='sans-serif' font-size='11'"
DAYS = 7


def draw(meter: BulkMeter) -> str:
    flow = meter.shown_m3ph[7 * 96 : (7 + DAYS) * 96]
    q1 = meter.q3_m3ph / meter.ratio_r
    low, high, bottom = math.log(q1 / 20), math.log(meter.q3_m3ph * 1.4), HEIGHT - 30

    def x(i: float) -> float:
        return LEFT + i / len(flow) * (WIDTH - LEFT - 90)

    def y(q: float) -> float:
        return bottom - (bottom - TOP) * (min(max(math.log(max(q, 1e-9)), low), high) - low) / (high - low)

    title = f"Bulk meter {meter.device_id}: Q3 {meter.q3_m3ph:g} m3/h, R {meter.ratio_r:g}; {meter.lost_share:.1%} of what flows is not registered"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{title}'>",
        f"<title>{title}</title><rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        f"<text x='{LEFT}' y='16' {FONT}>{title}; shown flow, m3/h</text>",
        f"<rect x='{LEFT}' y='{y(1.6 * q1):.1f}' width='{x(len(flow)) - LEFT:.1f}' height='{bottom - y(1.6 * q1):.1f}' fill='#f9d9d5'/>",
    ]
    for name, q in (("Q1", q1), ("Q2", 1.6 * q1), ("Q3 / 2", meter.q3_m3ph / 2), ("Q3", meter.q3_m3ph)):
        parts.append(f"<line x1='{LEFT}' x2='{x(len(flow)):.1f}' y1='{y(q):.1f}' y2='{y(q):.1f}' stroke='#c0392b' stroke-dasharray='4 3'/>")
        parts.append(f"<text x='{x(len(flow)) + 4:.1f}' y='{y(q) + 4:.1f}' {FONT} fill='#c0392b'>{name} {q:.3g}</text>")
    points = " ".join(f"{x(i):.1f},{y(float(q)):.1f}" for i, q in enumerate(flow) if np.isfinite(q))
    parts.append(f"<polyline points='{points}' fill='none' stroke='#1f6fb2' stroke-width='1'/>")
    parts.extend(f"<text x='{x(96 * d):.1f}' y='{HEIGHT - 12}' {FONT} fill='#67727e'>day {d + 8}</text>" for d in range(DAYS))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    seed, path = int(sys.argv[1]), Path(sys.argv[2])
    score = run_sizes(seed)
    number = next(i for i, (truth, said) in enumerate(zip(score.truth, score.ours, strict=True)) if truth == said == "oversized")
    path.write_text(draw(simulate_bulk_meters(seed)[number]), encoding="utf-8")


if __name__ == "__main__":
    main()
