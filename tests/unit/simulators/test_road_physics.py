import numpy as np
import pytest

from simulators.road import Bridge, Culvert, Pavement, Weather


def test_bridge_frequency_has_a_knee_at_zero() -> None:
    def slope(t: float) -> float:
        return (Bridge(2.5, t + 1).frequency_hz - Bridge(2.5, t).frequency_hz) / 2.5

    assert slope(15.0) == pytest.approx(-0.0007)
    assert slope(-10.0) == pytest.approx(-0.0028)


def test_bridge_structure_lags_the_air() -> None:
    bridge = Bridge(2.5, 0.0)
    bridge.step(10.0, 8 * 3600.0)
    assert bridge.structure_cel == pytest.approx(10 * (1 - np.exp(-1)))


def test_bridge_bearing_fault_lowers_frequency_by_its_share() -> None:
    bridge = Bridge(2.5, 10.0)
    bridge.shift = -0.08
    assert bridge.frequency_hz == pytest.approx(2.5 * 0.92)


def test_culvert_without_rain_keeps_its_level() -> None:
    culvert = Culvert(18.0, 1.2)
    before = culvert.level_m
    for _ in range(100):
        culvert.step(0.0, 300.0)
    assert culvert.level_m == pytest.approx(before, rel=1e-3)


def test_culvert_steady_rain_reaches_the_level_of_the_formula() -> None:
    culvert = Culvert(18.0, 1.2)
    for _ in range(300):
        culvert.step(10.0, 300.0)
    # 10 mm/h on 18 ha, half of it sealed: 900 m3/h, and 20 m3/h always
    assert culvert.level_m == pytest.approx((920 / 4300) ** (2 / 3), rel=0.01)


def test_culvert_blocked_floods_but_stays_finite() -> None:
    culvert = Culvert(18.0, 1.2)
    culvert.blocked = 0.98
    for _ in range(300):
        culvert.step(30.0, 300.0)
    assert 1.2 < culvert.level_m < 20.0


def test_pavement_grows_slowly_and_steps_at_once() -> None:
    pavement = Pavement(2.0)
    assert pavement.iri_m_per_km(365.25 * 86_400) == pytest.approx(2.05)
    pavement.defect_m_per_km = 2.5
    assert pavement.iri_m_per_km(0.0) == pytest.approx(4.5)


def test_weather_winter_crosses_zero_and_it_rains_sometimes() -> None:
    weather = Weather(np.random.default_rng(1), 300)
    air, rain = [], []
    for i in range(14 * 288):
        weather.step(i * 300.0, i / 12 % 24, 47 + i / 288)
        air.append(weather.air_cel)
        rain.append(weather.rain_mmph)
    assert min(air) < 0.0 < max(air)
    assert min(rain) >= 0.0
    assert 0.5 < max(rain) < 40.0
    assert np.mean(np.array(rain) > 0) < 0.4
