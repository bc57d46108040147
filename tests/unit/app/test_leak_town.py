"""A town of the benchmark as files: simulated, read, replayed by the command, and what is said of a folder that is none."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from simulators.disturbances import Draw, GaugeFault
from simulators.leak_town import SimulatedLeak, simulate_town, write_town
from underway.app.bench.leak_town import read_town
from underway.app.cli import app
from underway.model import OperatorError, Quantity

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "contract"))
from network_town import GAUGES, INLETS, write_network

LEAK = SimulatedLeak("h-3-2", 20.3, 20.3, 40.0, 0.013, False)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    write_network(folder)
    return folder


@pytest.fixture(scope="module")
def town(network: Path) -> Path:
    write_town(simulate_town(network, 5, leaks=[LEAK], days=26, solve_every_min=60), network / "5")
    return network / "5"


def test_simulated_town_same_seed_is_the_same_and_another_is_not(network: Path) -> None:
    a, b, c = (simulate_town(network, seed, days=3, solve_every_min=60, leaks=()) for seed in (1, 1, 2))
    assert all(np.array_equal(a.scada[k], b.scada[k], equal_nan=True) for k in a.scada)
    assert not np.array_equal(a.scada["Q_in-1"], c.scada["Q_in-1"], equal_nan=True)


def test_simulated_town_leak_obeys_the_orifice_law_and_shows_in_the_inflow(network: Path) -> None:
    leak = SimulatedLeak("h-3-2", 2.0, 2.0, 5.0, 0.013, False)
    dry, wet = (simulate_town(network, 3, leaks=x, days=6, solve_every_min=60) for x in ((), (leak,)))
    lost = wet.leak_flow_m3ph["h-3-2"]
    assert (lost[: 2 * 24] == 0).all()
    # 0.75 A sqrt(2 g p), A = 1.327 cm2, p about 50 m: 11 m3/h
    assert lost[3 * 24] == pytest.approx(3600 * 0.75 * np.pi / 4 * 0.013**2 * np.sqrt(2 * 9.80665 * 50), rel=0.15)
    more = sum(np.nanmean(wet.scada[q][3 * 288 : 4 * 288]) - np.nanmean(dry.scada[q][3 * 288 : 4 * 288]) for q in ("Q_in-1", "Q_in-2"))
    assert more == pytest.approx(lost[3 * 24 : 4 * 24].mean(), rel=0.1)


def test_simulated_town_disturbances_do_what_they_say(network: Path) -> None:
    draw, stuck = Draw("j-2-2", 1.0, 0.5, 12.0), GaugeFault.stuck("j-0-2", 2.0, 1.0)
    calm, disturbed = (simulate_town(network, 3, leaks=(), days=4, solve_every_min=60, disturbances=x) for x in ((), (draw, stuck)))
    extra = sum(np.nan_to_num(disturbed.scada[q] - calm.scada[q]) for q in ("Q_in-1", "Q_in-2"))
    assert np.median(extra[288 + 24 : 288 + 120]) == pytest.approx(12.0, rel=0.1)
    seen = disturbed.scada["P_j-0-2"][2 * 288 : 3 * 288]
    assert len(np.unique(seen[np.isfinite(seen)])) == 1


def test_read_town_gives_channels_model_and_readings_in_event_order(town: Path) -> None:
    found = read_town(town)
    assert len(found.registry.channels) == len(GAUGES) + len(INLETS)
    assert {c.quantity for c in found.registry.channels} == {Quantity.PRESSURE, Quantity.FLOW}
    assert {c.zone_id for c in found.registry.channels} == {"zone-j-0-0"}
    batches = list(found.batches())
    assert len(batches) == 26
    assert all((np.diff(b.observed_us) >= 0).all() for b in batches)
    assert all(np.isfinite(b.value).all() for b in batches)
    pressure = batches[0].value[batches[0].channel_id == 1]
    assert 400 < np.median(pressure) < 600  # kPa


def test_read_town_folder_that_is_none_says_all_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "town").mkdir()
    with pytest.raises(OperatorError) as caught:
        read_town(tmp_path / "town")
    text = str(caught.value)
    assert all(name in text for name in ("scada.parquet", "pipes.csv", "nodes.csv", "sensors.csv", "*.inp"))


def test_bench_leaks_replays_a_town_scores_it_and_writes_the_digs(town: Path, tmp_path: Path) -> None:
    out = tmp_path / "digs.csv"
    result = CliRunner().invoke(
        app, ["bench", "leaks", "--town", str(town), "--out", str(out), "--from", "2024-01-20", "--json"], catch_exceptions=False
    )
    facts = json.loads(result.stdout)
    (one,) = facts["towns"]
    assert one["score"]["leaks"] == 1
    assert one["score"]["found"] == 1
    assert one["baseline"] is not None
    assert {row["measure"] for row in facts["summary"]} >= {"share_strict", "false_digs", "repeats", "distance_m", "replay"}
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["time", "pipe", "alarm_at", "flow_m3ph", "mass_300m", "evidence"]
    assert len(rows) == len(one["digs"])
    assert "instead of" in rows[0]["evidence"]


def test_bench_leaks_town_cut_at_a_date_has_the_same_digs_before_it(town: Path, tmp_path: Path) -> None:
    rows = {}
    for name, more in (("whole", []), ("cut", ["--until", "2024-01-24"])):
        out = tmp_path / f"{name}.csv"
        CliRunner().invoke(app, ["bench", "leaks", "--town", str(town), "--out", str(out), "--from", "2024-01-20", "--no-baseline", *more])
        rows[name] = [r for r in out.read_text().splitlines()[1:] if r < "2024-01-23T18"]
    assert rows["whole"]
    assert rows["whole"] == rows["cut"]
