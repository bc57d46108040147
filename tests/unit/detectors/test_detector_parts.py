import re

import numpy as np
import pytest

from detectors.bank import Bank
from detectors.cusum import cusum_threshold
from detectors.regression import BayesForecast
from detectors.snapshot import pack, unpack
from detectors.water.location import MODEL_ERROR, SCALE_SD, PressureEvidence, locate
from detectors.water.profile import SLOTS, LocalDay, SlotProfile
from underway.model import DAY_US, InternalError, ReadingBatch, Registry, Site


def test_cusum_threshold_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected at least 10 samples and a reference above 0 sd, got 5 and 0\.5$"):
        cusum_threshold(5)


def test_snapshot_that_does_not_decode_is_an_internal_error() -> None:
    with pytest.raises(InternalError, match=re.escape("expected detector state in MessagePack, got 1 bytes that do not decode")):
        unpack(b"\xc1")


def test_snapshot_keeps_dtype_shape_and_values() -> None:
    state = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": [np.array([True, False])], "c": {"d": np.array([np.nan])}, "e": None}
    back = unpack(pack(state))
    assert back["a"].dtype == np.int64
    assert back["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back["b"][0].tolist() == [True, False]
    assert np.isnan(back["c"]["d"][0])
    assert back["e"] is None
    assert pack(back) == pack(state)


def test_bank_state_of_another_version_is_an_internal_error() -> None:
    bank = Bank(Registry(Site("town", "Town", "UTC", 0, 0)))
    with pytest.raises(InternalError, match="expected the state of a bank of version '2', got '0'"):
        bank.restore(pack({"bank": "0", "lanes": {}}))


def test_bank_row_of_an_unknown_channel_is_counted() -> None:
    bank = Bank(Registry(Site("town", "Town", "UTC", 0, 0)))
    bank.step(ReadingBatch.from_columns([7], [0], [1.0]))
    assert bank.unknown_rows == 1


def test_local_day_follows_summer_time() -> None:
    local = LocalDay("Europe/Berlin")
    before, after = 1_774_742_400_000_000, 1_774_742_400_000_000 + DAY_US  # 29 March 2026 0 h UTC and a day later
    assert local(before)[2] == 12
    assert local(after)[2] == 24


ONE = np.zeros(1, np.int64)


def test_slot_profile_outlier_moves_the_mean_by_three_standard_deviations_at_most() -> None:
    profile = SlotProfile(np.array([0.1]), ONE + 2)
    rng = np.random.default_rng(1)
    for _ in range(10):
        for slot in range(SLOTS):
            profile.learn(ONE + slot, ONE, np.array([30 + rng.normal()]), np.array([np.nan]))
    before, sd, days = profile.expect(ONE + 100, ONE)
    profile.learn(ONE + 100, ONE, np.array([3000.0]), np.array([np.nan]))
    moved = profile.expect(ONE + 100, ONE)[0] - before
    assert 0 < moved[0] <= 3.1 * sd[0] * np.sqrt(1 + 1 / days[0]) / (days[0] + 1)


def test_slot_profile_gap_is_not_learned() -> None:
    profile = SlotProfile(np.array([0.1]), ONE + 2)
    profile.learn(ONE + 5, ONE, np.array([np.nan]), np.array([30.0]))
    assert profile.expect(ONE + 5, ONE)[2].tolist() == [0.0]


def test_slot_profile_series_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(2)
    both, alone = SlotProfile(np.array([0.1, 0.2]), np.array([2, 1])), SlotProfile(np.array([0.2]), ONE + 1)
    for step in range(4 * SLOTS):
        base, value = step % (2 * SLOTS), rng.normal(50, 3, 2)
        both.learn(np.array([base, base]), np.array([0, 1]), value, np.full(2, 50.0))
        alone.learn(np.array([base]), ONE, value[1:], np.full(1, 50.0))
    for base in (0, 100, 300):
        ours = both.expect(np.array([base]), np.array([1]))
        assert [a.tolist() for a in ours] == [a.tolist() for a in alone.expect(np.array([base]), ONE)]


@pytest.mark.parametrize("seed", range(8))
def test_locate_recovers_the_pipe_when_the_model_is_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    falls = rng.uniform(0.1, 1.0, (60, 8))
    true = int(rng.integers(60))
    seen = PressureEvidence(10 * falls[true] + rng.normal(0, 0.2, 8), np.zeros(8), np.eye(8) * 0.04)
    p = locate(seen, 10.0, 0.5, falls)
    assert int(np.argmax(p)) == true


def test_locate_without_a_sensor_gives_the_prior() -> None:
    seen = PressureEvidence(np.full(2, np.nan), np.zeros(2), np.eye(2))
    assert locate(seen, 10.0, 1.0, np.ones((2, 2)), np.array([3.0, 1.0])).round(6).tolist() == [0.75, 0.25]


def test_locate_is_as_sure_as_it_is_right() -> None:
    """With model errors as assumed, the probability given to the true pipe is on average what a fair forecaster gives."""
    rng = np.random.default_rng(3)
    given, hits = [], []
    for _ in range(200):
        falls = rng.uniform(0.2, 1.0, (30, 5))
        true = int(rng.integers(30))
        fall = 10 * falls[true] * rng.normal(1.0, MODEL_ERROR, 5) * rng.normal(1.0, SCALE_SD) + rng.normal(0, 0.4, 5)
        p = locate(PressureEvidence(fall, np.zeros(5), np.eye(5) * 0.16), 10.0, 0.5, falls)
        given.append(p.max())
        hits.append(int(np.argmax(p)) == true)
    assert abs(np.mean(given) - np.mean(hits)) < 0.12


def test_bayes_forecast_state_is_the_same_after_a_round_trip() -> None:
    rng = np.random.default_rng(1)
    first, second = BayesForecast(5, 0.5), BayesForecast(5, 0.5)
    for _ in range(200):
        x = rng.normal(size=5)
        first.learn(x, float(x.sum()))
    second.restore(unpack(pack(first.state())))
    x = rng.normal(size=5)
    assert first.predict(x) == second.predict(x)
    first.learn(x, 1.0)
    second.learn(x, 1.0)
    assert pack(first.state()) == pack(second.state())
