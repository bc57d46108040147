"""``underway bench leaks --via mqtt``: a small town goes through broker, ingest and database, and the digs are those of the direct replay."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from bench_run import bench

from simulators.disturbances import GaugeFault
from simulators.leak_town import SimulatedLeak, simulate_town, write_town
from underway.app.bench.leak_town import read_town
from underway.app.bench.leaks import digs_of, replay
from underway.app.bench.leaks_via_mqtt import differences
from underway.model import from_us, to_us

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
from network_town import write_network

pytestmark = pytest.mark.integration

DAYS = 28
LEAKS = (
    SimulatedLeak("h-3-2", 20.3, 20.3, 24.0, 0.013, True),
    SimulatedLeak("v-1-0", 25.1, 25.1, 40.0, 0.013, False),
)
FROM = "2024-01-20"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town with a leak that is repaired, one that runs on, and a gauge that sticks."""
    network = tmp_path_factory.mktemp("network")
    write_network(network)
    made = simulate_town(network, 5, leaks=LEAKS, days=DAYS, solve_every_min=60, disturbances=(GaugeFault.stuck("j-1-0", 22.2, 0.5),))
    write_town(made, network / "5")
    return network / "5"


def test_bench_leaks_via_mqtt_small_town_gives_the_digs_of_the_direct_replay(
    town: Path, mosquitto: object, embedded_admin_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "digs.csv"
    where = ("--town", str(town), "--via", "mqtt", "--check", "--database", embedded_admin_url, "--out", str(out))
    code, facts, said = bench("leaks", *where, "--from", FROM, "--days", "27", "--no-baseline", timeout_s=400)
    live = facts["towns"][0]["via_mqtt"]
    assert live["differing"] == [], said
    assert code == 0, said
    assert live["stored"] == facts["towns"][0]["readings"] > 50_000
    assert (live["flagged"], live["quarantined"]) == (0, 0)
    assert "the same as the direct replay" in said
    # compared here once more, with a replay of our own
    found = read_town(town)
    cut = from_us(to_us(found.begin_at()) + 27 * 86_400_000_000)
    findings, readings = replay(found, from_us(1_705_708_800_000_000), cut)
    with out.open(newline="", encoding="utf-8") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert readings == live["stored"]
    assert rows == [d.row() for d in digs_of(findings)]
    assert rows


def test_bench_leaks_check_finds_a_row_that_differs(town: Path) -> None:
    rows = [("2024-01-21T06:00:00+00:00", "h-3-2", "x"), ("2024-01-22T06:00:00+00:00", "v-1-0", "x")]
    other = [rows[0], (*rows[1][:2], "y")]
    assert differences(rows, rows) == []
    assert differences(rows, other) == [
        "only direct: 2024-01-22T06:00:00+00:00,v-1-0,x",
        "only via mqtt: 2024-01-22T06:00:00+00:00,v-1-0,y",
    ]
