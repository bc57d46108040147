from pathlib import Path

import pytest

from simulators.hydraulics import Engine, EngineError, Perturbation, level_drives, orifice_area_m2, orifice_flow_m3ph, write_inp
from simulators.network import LinkKind, load_network


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    network = load_network("net3")
    groups = {n: "z1" for n in network.nodes if network.nodes[n].kind == "junction"}
    write_inp(network, groups, Perturbation.none(), tmp_path / "n.inp")
    return Engine(tmp_path / "n.inp", network)


def test_engine_step_leaves_the_asked_instant(engine: Engine) -> None:
    with engine:
        for at_s in (0, 60, 300, 3600, 90_000):
            engine.step_to(at_s)
            assert engine.elapsed_s == at_s


def test_engine_time_backwards_is_refused(engine: Engine) -> None:
    with engine:
        engine.step_to(300)
        with pytest.raises(EngineError, match=r"^time must go forward, got 300 s after 300 s$"):
            engine.step_to(300)


def test_engine_closed_is_refused(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=r"^the engine is closed, got a call of 'EN_getpatternindex'$"):
        engine.set_demand_multiplier("z1", 1.0)


def test_engine_leak_loses_what_the_orifice_says_and_closes(engine: Engine) -> None:
    with engine:
        engine.step_to(3600)
        pipe = "189"
        link = engine.network.links[pipe]
        before = engine.demand_m3ph(link.start) + engine.demand_m3ph(link.end)
        pressure = (engine.pressure_kpa(link.start) + engine.pressure_kpa(link.end)) / 2
        engine.set_leak(pipe, orifice_area_m2(30.0, pressure))
        engine.step_to(3601)
        lost = engine.leak_flow_m3ph(pipe)
        assert 24.0 < lost <= 31.0
        after = engine.demand_m3ph(link.start) + engine.demand_m3ph(link.end)
        assert after - before == pytest.approx(lost, rel=0.01)
        engine.set_leak(pipe, 0.0)
        # EPANET stops iterating at 1e-4 of all flows; what is left of the emitter's flow halves with each solve
        for at_s in range(3602, 3612):
            engine.step_to(at_s)
        assert engine.demand_m3ph(link.start) + engine.demand_m3ph(link.end) == pytest.approx(before, abs=0.01)
        assert engine.leak_flow_m3ph(pipe) == 0.0


def test_engine_demand_multiplier_scales_what_leaves(engine: Engine) -> None:
    with engine:
        engine.set_demand_multiplier("z1", 1.0)
        engine.step_to(300)
        one = sum(engine.demand_m3ph(n) for n in engine.network.nodes if engine.network.nodes[n].kind == "junction")
        engine.set_demand_multiplier("z1", 0.5)
        engine.step_to(600)
        half = sum(engine.demand_m3ph(n) for n in engine.network.nodes if engine.network.nodes[n].kind == "junction")
        assert half == pytest.approx(one / 2, rel=1e-6)


def test_engine_closed_link_carries_nothing(engine: Engine) -> None:
    with engine:
        engine.step_to(300)
        busy = max((k.link_id for k in engine.network.of_kind(LinkKind.PIPE)), key=lambda k: abs(engine.flow_m3ph(k)))
        assert engine.is_open(busy)
        engine.set_link_open(busy, False)
        engine.step_to(301)
        assert not engine.is_open(busy)
        assert abs(engine.flow_m3ph(busy)) < 0.01


def test_engine_negative_pressure_is_counted_not_fatal(engine: Engine) -> None:
    with engine:
        engine.set_demand_multiplier("z1", 12.0)
        engine.step_to(300)
        assert engine.warnings
        assert all(code < 100 for code in engine.warnings)


def test_level_drives_ky4_on_off_pump_becomes_a_drive() -> None:
    assert [(d.pump, d.tank) for d in level_drives(load_network("ky4"))] == [("~@Pump-1", "T-3")]
    assert level_drives(load_network("net3")) == ()


def test_orifice_area_and_flow_are_inverse() -> None:
    assert orifice_flow_m3ph(orifice_area_m2(25.0, 350.0), 350.0) == pytest.approx(25.0)
    assert orifice_flow_m3ph(0.001, -5.0) == 0.0
