"""The part of ``underway bench meters`` that asks which meters are too large or too small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detectors.bank import Bank
from detectors.water.meter_sizing import MeterSizing
from simulators.bulk_meters import STEP_S, BulkMeter, simulate_bulk_meters
from underway.model import (
    EPOCH_AT,
    Channel,
    Device,
    Finding,
    FindingPhase,
    Quantity,
    ReadingBatch,
    Registry,
    Site,
    Zone,
    ZoneKind,
)

BEGIN_US = 1_771_200_000_000_000  # 2026-02-16T00:00Z, a Monday
MEAN_SHARE = 0.05
"""The limit beside it: a mean flow below this share of Q3 is a meter too large, one reading above Q3 a meter too small."""


@dataclass(frozen=True, slots=True)
class SizeScore:
    """What both methods said of the meters of one seed: the truth, and what each said (``right`` where it said nothing).

    ``lost_m3`` are (true, estimated, at most) of meters that were found too large, over the four weeks before the finding.
    """

    seed: int
    truth: tuple[str, ...]
    ours: tuple[str, ...]
    limits: tuple[str, ...]
    lost_m3: tuple[tuple[float, float, float], ...]


def run_sizes(seed: int, count: int = 100) -> SizeScore:
    """Let the bank and a limit on means judge simulated bulk meters."""
    meters = simulate_bulk_meters(seed, count=count)
    found = {f.asset_id.removeprefix("device:"): f for f in _replay(meters) if f.phase is FindingPhase.RAISE}
    said = [found[m.device_id].kind.value.removeprefix("meter.") if m.device_id in found else "right" for m in meters]
    lost = []
    for m in meters:
        if m.device_id in found and said[meters.index(m)] == "oversized":
            details = found[m.device_id].evidence.details
            scale = 28.0 * 86_400.0 / (len(m.shown_m3ph) * STEP_S)
            lost.append((m.lost_m3 * scale, details["unregistered_m3"], details["unregistered_m3_at_most"]))
    return SizeScore(seed, tuple(m.truth for m in meters), tuple(said), tuple(_limits(m) for m in meters), tuple(lost))


def _replay(meters: Sequence[BulkMeter]) -> list[Finding]:
    devices = tuple(
        Device(m.device_id, "bench", "z1", None, "meter", "native", EPOCH_AT, attributes={"q3_m3ph": m.q3_m3ph, "ratio_r": m.ratio_r})
        for m in meters
    )
    channels = tuple(
        Channel(i, m.device_id, "flow", Quantity.FLOW, "m3/h", None, "z1", "customer_meter", -1e4, 1e4, float(STEP_S), 0.001)
        for i, m in enumerate(meters, start=1)
    )
    registry = Registry(Site("bench", "Bench", "UTC", 0.0, 0.0), (Zone("z1", "bench", "z1", ZoneKind.DMA),), (), devices, channels)
    bank = Bank(registry)
    bank = bank.only([key for key, d in bank.detectors.items() if d.name == MeterSizing.name])
    value = np.stack([m.shown_m3ph for m in meters], axis=1)
    findings: list[Finding] = []
    for first in range(0, len(value), 96):
        row, column = np.nonzero(np.isfinite(value[first : first + 96]))
        at = BEGIN_US + (first + row + 1) * STEP_S * 1_000_000
        findings += bank.step(ReadingBatch.from_columns(column + 1, at, value[first + row, column])).findings
    return findings


def _limits(m: BulkMeter) -> str:
    if np.nanmax(m.shown_m3ph) > m.q3_m3ph:
        return "undersized"
    return "oversized" if np.nanmean(m.shown_m3ph) < MEAN_SHARE * m.q3_m3ph else "right"


def size_summary(scores: Sequence[SizeScore]) -> list[dict[str, Any]]:
    """Return one row a method and kind: how many there are, found, and said of others; and how well the loss was estimated."""
    rows: list[dict[str, Any]] = []
    for method in ("detectors", "fixed-limits"):
        pairs = [p for s in scores for p in zip(s.truth, s.ours if method == "detectors" else s.limits, strict=True)]
        rows.extend(_said(method, kind, pairs) for kind in ("oversized", "undersized"))
    return rows


def _said(method: str, kind: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "method": method,
        "kind": kind,
        "meters": sum(truth == kind for truth, _ in pairs),
        "found": sum(truth == said == kind for truth, said in pairs),
        "false": sum(said == kind != truth for truth, said in pairs),
        "others": sum(truth != kind for truth, _ in pairs),
    }


def loss_ratio(scores: Sequence[SizeScore]) -> dict[str, float] | None:
    """Return quartiles of the estimated loss over the true one, and how often the truth lay between the estimate and its upper limit."""
    lost = np.array([pair for s in scores for pair in s.lost_m3])
    if not len(lost):
        return None
    ratio = lost[:, 1] / np.maximum(lost[:, 0], 1e-9)
    q1, q2, q3 = np.quantile(ratio, [0.25, 0.5, 0.75])
    inside = (lost[:, 1] <= lost[:, 0]) & (lost[:, 0] <= lost[:, 2])
    return {
        "low": round(float(q1), 2),
        "median": round(float(q2), 2),
        "high": round(float(q3), 2),
        "below_limit": round(float(inside.mean()), 2),
    }


def sizes_as_plain(scores: Sequence[SizeScore]) -> dict[str, Any]:
    """Return everything as plain values."""
    return {"sizes": size_summary(scores), "loss_estimated_over_true": loss_ratio(scores), "size_scores": [asdict(s) for s in scores]}
