"""``underway bench ingest`` as a person runs it, small: it says what it measured, and both sides have the same count. Never a time."""

from __future__ import annotations

import psycopg
import pytest
from bench_run import bench

from underway.app.bench.figures import Bound

pytestmark = pytest.mark.integration


def test_bench_ingest_one_reading_tells_both_sides_and_judges_itself(mosquitto: object, embedded_admin_url: str) -> None:
    code, facts, said = bench("ingest", "--seconds", "25", "--only", "one-reading", "--database", embedded_admin_url, timeout_s=280)
    assert set(facts) == {"ok", "versions", "machine", "settings", "wall_s", "parts"}
    assert list(facts["parts"]) == ["one-reading"]
    part = facts["parts"]["one-reading"]
    assert part["counts"]["published"] > 0, part["notes"]
    assert part["counts"]["stored"] == part["counts"]["published"]
    assert part["counts"]["differing"] == part["counts"]["quarantined"] == 0
    figures = {figure["name"]: figure for figure in part["figures"]}
    assert set(figures) >= {"ingest, whole path, live", "ratio, live", "ratio, backlog"}
    for figure in figures.values():
        assert len(figure["repetitions"]) >= 1
        assert all(value > 0 for value in figure["repetitions"])
        assert min(figure["repetitions"]) <= figure["median"] <= max(figure["repetitions"])
    gates = {gate["name"]: gate for gate in part["gates"]}
    assert set(gates) == {"ingest / null subscriber, live", "ingest / null subscriber, backlog"}
    for how in ("live", "backlog"):
        rates = {name: figures[name]["median"] for name in figures if name.endswith(f", {how}") and not name.startswith("ratio")}
        gate = gates[f"ingest / null subscriber, {how}"]
        assert gate["value"] == pytest.approx(rates.pop(f"ingest, whole path, {how}") / rates.popitem()[1], rel=1e-3)
        assert (gate["bound"], gate["limit"]) == (Bound.AT_LEAST.value, 0.8)
        assert gate["pass"] is (gate["reason"] == "held")
    assert (code == 0) is facts["ok"] is part["pass"] is all(gate["pass"] for gate in gates.values())
    assert set(part["cpu_us_per_reading"]["process"]) >= {"ingest", "broker", "database"}
    assert facts["machine"]["cores"] >= 1
    assert facts["settings"]["database"]["fsync"] in ("on", "off")
    assert "one-reading 1/" in said
    with psycopg.connect(embedded_admin_url) as conn:
        left = conn.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'underway_bench_%'").fetchone()
    assert left == (0,)
