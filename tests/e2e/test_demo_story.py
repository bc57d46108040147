"""The whole product as a new user runs it: ``underway demo`` until an order is closed, with processes killed on the way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from demo_process import finish, pid_of, start_demo, states, stored_so_far

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


def test_demo_failed_repair_with_ingest_killed_in_history_and_live_loses_nothing_and_closes_by_the_second_pass(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--until", "closed", "--seed", "3", "--story", "failed-repair", "--speed", "1800")
    try:
        for wanted in (60_000, 200_000):
            while stored_so_far(tmp_path) < wanted and demo.poll() is None:
                time.sleep(0.05)
            os.kill(pid_of(tmp_path, "ingest"), signal.SIGKILL)
            time.sleep(1.0)
        while "live" not in (tmp_path / "services.json").read_text() and demo.poll() is None:
            time.sleep(0.1)
        time.sleep(3.0)
        os.kill(pid_of(tmp_path, "ingest"), signal.SIGKILL)
        result = finish(demo, tmp_path)
    finally:
        demo.kill()
    assert result["readings"]["published"] == result["readings"]["stored"] > 300_000
    assert result["services"]["ingest"]["restarts"] >= 3
    assert result["detection_delay_min"] is not None
    assert result["location_distance_m"] is not None

    order = next(o for o in result["orders"] if o["outcome"] == "PASS")
    path = states(order)
    assert [s for s in path if s in ("DISPATCHED", "ACCEPTED", "EN_ROUTE", "IN_PROGRESS", "DONE", "VERIFYING", "CLOSED")][-1] == "CLOSED"
    assert all(t["reason"] and t["actor"] for t in order["transitions"])
    # the first repair does not hold: the sensors say so, the order goes back, and only the second repair closes it
    assert order["rework"] >= 1
    assert path.count("DONE") >= 2
    first_done, last_done = path.index("DONE"), len(path) - 1 - path[::-1].index("DONE")
    assert first_done < path.index("VERIFYING") < last_done < path.index("CLOSED")
    assert [(t["event"], t["reason"]) for t in order["transitions"] if t["event"] in ("fail", "pass")] == [
        ("fail", "not_fixed"),
        ("pass", "verified"),
    ]
