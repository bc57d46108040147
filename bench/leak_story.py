"""Draw what happened in a town of the leak benchmark: where it leaked and where crews were sent, and when.

    underway bench leaks --town network/7 --json > seven.json
    python bench/leak_story.py network/7 seven.json docs/images      # leak-map.svg, leak-time.svg, leak-reliability.svg

A map of the pipes with every leak of the judged year and every dig, and a line of time for each leak: thick while it ran, with the dig that found it.
"""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

INK, PIPE, LEAK, DIG, MISS = "#1d2733", "#b9c4cf", "#c0392b", "#1f6fb2", "#8a6d00"
FONT = "font-family='sans-serif' font-size='11'"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' role='img' aria-label='{title}'>"
    return "\n".join(
        [head, f"<title>{title}</title>", f"<rect width='{width:.0f}' height='{height:.0f}' fill='white'/>", *parts, "</svg>", ""]
    )


def draw_map(town: Path, result: dict[str, Any], leaks: list[dict[str, str]]) -> str:
    nodes = {n["node"]: (float(n["x"]), float(n["y"])) for n in table(town.parent / "nodes.csv")}
    pipes = {p["pipe"]: (p["n1"], p["n2"]) for p in table(town.parent / "pipes.csv")}
    xs, ys = zip(*nodes.values(), strict=True)
    scale = 900 / (max(xs) - min(xs))

    def at(xy: tuple[float, float]) -> tuple[float, float]:
        return 20 + (xy[0] - min(xs)) * scale, 20 + (max(ys) - xy[1]) * scale

    def middle(pipe: str) -> tuple[float, float] | None:
        ends = [at(nodes[e]) for e in pipes[pipe] if e in nodes]
        return (sum(x for x, _ in ends) / len(ends), sum(y for _, y in ends) / len(ends)) if ends else None

    parts = []
    for a, b in pipes.values():
        if a in nodes and b in nodes:
            (x1, y1), (x2, y2) = at(nodes[a]), at(nodes[b])
            parts.append(f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{PIPE}' stroke-width='1.5'/>")
    found = {f["pipe"]: f["dug"] for f in result["score"]["detail"]}
    for leak in leaks:
        place, dug = middle(leak["pipe"]), middle(found[leak["pipe"]]) if leak["pipe"] in found else None
        if place is None:
            continue
        x, y = place
        if dug:
            parts.append(f"<line x1='{x:.1f}' y1='{y:.1f}' x2='{dug[0]:.1f}' y2='{dug[1]:.1f}' stroke='{DIG}' stroke-width='1.5'/>")
        colour = LEAK if leak["pipe"] in found else MISS
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='6' fill='none' stroke='{colour}' stroke-width='2.5'/>")
        parts.append(f"<text x='{x + 8:.1f}' y='{y - 6:.1f}' {FONT} fill='{INK}'>{leak['pipe']}{'' if dug else ' (missed)'}</text>")
    for dig in result["digs"]:
        place = middle(dig["pipe"])
        if place and dig["at_us"] / 1e6 >= 0:
            x, y = place
            parts.append(f"<path d='M{x - 5:.1f},{y - 5:.1f} l10,10 m-10,0 l10,-10' stroke='{DIG}' stroke-width='2.5' fill='none'/>")
    height = 60 + (max(ys) - min(ys)) * scale
    parts.append(f"<text x='20' y='{height - 8:.0f}' {FONT} fill='{INK}'>o leak   x dig, with a line to the leak that it found</text>")
    return svg(940, height, f"Town {result['town']}: leaks and digs", parts)


def draw_time(result: dict[str, Any], leaks: list[dict[str, str]], since: datetime) -> str:
    def day(text: str) -> float:
        return (datetime.fromisoformat(text) - since).total_seconds() / 86_400

    found = {f["pipe"]: f for f in result["score"]["detail"]}
    rows = sorted(leaks, key=lambda leak: leak["start"])
    parts = []
    for month in range(0, 366, 30):
        x = 90 + month * 2.2
        parts.append(f"<line x1='{x:.0f}' y1='20' x2='{x:.0f}' y2='{30 + 20 * len(rows)}' stroke='#e6ebf0'/>")
        parts.append(f"<text x='{x + 2:.0f}' y='15' {FONT} fill='{INK}'>day {month}</text>")
    for i, leak in enumerate(rows):
        y = 38 + 20 * i
        begin, peak, end = (min(max(day(leak[k]), 0.0), 365.0) for k in ("start", "peak", "end"))
        hit = found.get(leak["pipe"])
        colour = LEAK if hit else MISS
        parts.append(f"<text x='8' y='{y + 4}' {FONT} fill='{INK}'>{leak['pipe']}</text>")
        if peak > begin:
            parts.append(
                f"<polygon points='{90 + begin * 2.2:.1f},{y} {90 + peak * 2.2:.1f},{y - 4} {90 + peak * 2.2:.1f},{y + 4}' fill='{colour}'/>"
            )
        parts.append(
            f"<rect x='{90 + peak * 2.2:.1f}' y='{y - 4}' width='{max(end - peak, 0.5) * 2.2:.1f}' height='8' fill='{colour}' opacity='0.75'/>"
        )
        if hit:
            x = 90 + (max(day(leak["start"]), 0.0) + hit["delay_h"] / 24) * 2.2
            parts.append(f"<path d='M{x - 5:.1f},{y - 7} l10,14 m-10,0 l10,-14' stroke='{DIG}' stroke-width='2.5'/>")
            parts.append(f"<text x='{x + 8:.1f}' y='{y + 4}' {FONT} fill='{INK}'>{hit['distance_m']:.0f} m off</text>")
        else:
            parts.append(f"<text x='{96 + end * 2.2:.0f}' y='{y + 4}' {FONT} fill='{INK}'>missed</text>")
    return svg(980, 60 + 20 * len(rows), f"Town {result['town']}: when it leaked and when a crew was sent", parts)


def draw_reliability(rows: list[dict[str, float]]) -> str:
    """Draw what was stated against what was true; the area of a point is the number of its digs."""
    side, left, top = 360, 60, 20
    parts = [
        f"<rect x='{left}' y='{top}' width='{side}' height='{side}' fill='none' stroke='{PIPE}'/>",
        f"<line x1='{left}' y1='{top + side}' x2='{left + side}' y2='{top}' stroke='{PIPE}' stroke-dasharray='5 4'/>",
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f"<text x='{left + tick * side - 8:.0f}' y='{top + side + 16}' {FONT} fill='{INK}'>{tick:g}</text>")
        parts.append(f"<text x='{left - 30}' y='{top + (1 - tick) * side + 4:.0f}' {FONT} fill='{INK}'>{tick:g}</text>")
    for row in rows:
        x, y, digs = left + row["stated"] * side, top + (1 - row["seen"]) * side, int(row["digs"])
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{2 + 2 * digs**0.5:.1f}' fill='{DIG}' fill-opacity='0.6'/>")
        parts.append(f"<text x='{x + 6 + 2 * digs**0.5:.1f}' y='{y + 4:.1f}' {FONT} fill='{INK}'>{digs}</text>")
    parts.append(f"<text x='{left + 60}' y='{top + side + 36}' {FONT} fill='{INK}'>stated probability of a leak within 300 m</text>")
    parts.append(
        f"<text x='14' y='{top + 240}' {FONT} fill='{INK}' transform='rotate(-90 14 {top + 240})'>share of digs where one was</text>"
    )
    return svg(460, 430, "Stated probability against what was true, digs of all towns", parts)


def main() -> int:
    town, results, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    since = datetime.fromisoformat(sys.argv[4]) if len(sys.argv) > 4 else datetime(2025, 1, 1, tzinfo=UTC)
    told = json.loads(results.read_text(encoding="utf-8")).get("reliability")
    if told:
        out.mkdir(parents=True, exist_ok=True)
        (out / "leak-reliability.svg").write_text(draw_reliability(told), encoding="utf-8")
    result = next(t for t in json.loads(results.read_text(encoding="utf-8"))["towns"] if t["town"] == town.name)
    leaks = [x for x in table(town / "truth" / "leaks.csv") if datetime.fromisoformat(x["end"]) > since]
    out.mkdir(parents=True, exist_ok=True)
    (out / "leak-map.svg").write_text(draw_map(town, result, leaks), encoding="utf-8")
    (out / "leak-time.svg").write_text(draw_time(result, leaks, since), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
