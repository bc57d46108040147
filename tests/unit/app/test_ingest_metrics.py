from __future__ import annotations

import time

from underway.app.ingest_metrics import Stages


def burn(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def test_stages_inner_stage_counts_for_itself_alone() -> None:
    stages = Stages()
    began_s = time.thread_time()
    with stages.timed("commit"):
        burn(0.002)
        with stages.timed("detect", 5):
            burn(0.02)
        with stages.timed("detect", 5), stages.timed("store"):
            burn(0.01)
    spent_s = time.thread_time() - began_s
    assert stages.cpu_s["commit"] < stages.cpu_s["store"] < stages.cpu_s["detect"]
    assert abs(sum(stages.cpu_s.values()) - spent_s) < 0.002
    assert stages.readings["detect"] == 10
