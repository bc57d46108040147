from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from simulators.network import NetworkError
from simulators.quality_station import DAY_S, LEARNING_DAYS, STANDARDS, STEP_S, HappeningKind, StationRun, simulate_station

DAYS = 34


@cache
def run(seed: int, happenings: bool = True) -> StationRun:
    return simulate_station("net3", seed, days=DAYS, happenings=happenings)


def test_station_same_seed_is_the_same_and_another_is_not() -> None:
    again = simulate_station("net3", 11, days=DAYS)
    assert all(np.array_equal(run(11).signals[k], again.signals[k], equal_nan=True) for k in again.signals)
    assert run(11).happenings == again.happenings
    assert not np.array_equal(run(11).signals["toc"], run(12).signals["toc"], equal_nan=True)


def test_station_contaminant_comes_after_it_was_injected_and_chlorine_or_conductivity_answers() -> None:
    spikes = [h for seed in (11, 12) for h in run(seed).happenings if h.kind is HappeningKind.CONTAMINATION]
    assert spikes
    assert all(h.begin_s <= h.seen_from_s < h.seen_until_s for h in spikes)
    assert all(h.begin_s >= LEARNING_DAYS * DAY_S for h in spikes)
    assert all(h.node for h in spikes)
    for seed in (11, 12):
        for h in run(seed).happenings:
            if h.kind is HappeningKind.CONTAMINATION and h.what in ("sewage", "pesticide") and h.strength > 0.5:
                seen = slice(h.seen_from_s // STEP_S, h.seen_until_s // STEP_S)
                before = slice(h.seen_from_s // STEP_S - 6, h.seen_from_s // STEP_S)
                toc = run(seed).signals["toc"]
                assert np.nanmax(toc[seen]) > np.nanmean(toc[before]) + 0.3 * h.strength


def test_station_chlorine_decays_and_the_mixture_of_two_waters_shows() -> None:
    calm = run(11, False)
    assert not calm.happenings
    chlorine = calm.signals["chlorine"][3 * 288 :]
    assert 0.3 < np.nanmedian(chlorine) < 0.95
    rest = {k: v[3 * 288 :] for k, v in calm.signals.items()}
    good = np.isfinite(rest["conductivity"]) & np.isfinite(rest["toc"])
    assert np.corrcoef(rest["conductivity"][good], rest["toc"][good])[0, 1] > 0.7


def test_station_a_probe_in_calibration_stands_at_a_standard() -> None:
    found = [h for seed in (11, 12) for h in run(seed).happenings if h.kind is HappeningKind.CALIBRATION]
    assert found
    for seed in (11, 12):
        for h in run(seed).happenings:
            if h.kind is HappeningKind.CALIBRATION:
                values = run(seed).signals[h.what][h.begin_s // STEP_S : h.end_s // STEP_S]
                assert set(np.unique(values[np.isfinite(values)]).round(3).tolist()) <= {round(v, 3) for v in STANDARDS[h.what]}


def test_station_too_short_or_no_junction_is_refused() -> None:
    with pytest.raises(ValueError, match="days must be at least 25, got 3"):
        simulate_station("net3", 1, days=3)
    with pytest.raises(NetworkError, match="the station must be a junction of 'net3', got 'nowhere'"):
        simulate_station("net3", 1, days=25, station="nowhere")
