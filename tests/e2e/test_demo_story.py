"""The whole product as a new user runs it: ``underway demo`` until an order is closed, with processes killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
DEADLINE_S = 240


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "underway",
        "demo",
        "--port",
        "0",
        "--folder",
        str(folder),
        "--json",
        "--timeout",
        str(DEADLINE_S),
        *arguments,
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(demo: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    out, err = demo.communicate(timeout=DEADLINE_S + 120)
    logs = "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in sorted(folder.glob("*.log")))
    assert demo.returncode == 0, f"exit {demo.returncode}\n{out[-3000:]}\n{err[-3000:]}\n{logs}"
    result: dict[str, Any] = json.loads(out)
    return result


def pid_of(folder: Path, service: str, other_than: int | None = None) -> int:
    """Wait until a service runs, as another process than `other_than`."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            pid = json.loads((folder / "services.json").read_text())[service]["pid"]
        except (FileNotFoundError, KeyError):
            pid = None
        if pid and pid != other_than:
            return int(pid)
        time.sleep(0.1)
    raise AssertionError(f"service {service} must run within {DEADLINE_S} s")


def stored_so_far(folder: Path) -> int:
    """Return the highest count of stored readings that the demo has written down."""
    try:
        return int(json.loads((folder / "services.json").read_text())["readings"]["stored"])
    except (FileNotFoundError, KeyError):
        return 0


def states(order: dict[str, Any]) -> list[str]:
    return [t["to"] for t in order["transitions"]]


def test_demo_burst_with_ingest_killed_in_history_and_live_loses_nothing_and_closes_by_a_pass(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--until", "closed", "--seed", "1", "--speed", "1200")
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
    order = next(o for o in result["orders"] if o["outcome"] == "PASS")
    path = states(order)
    assert [s for s in ("DISPATCHED", "ACCEPTED", "EN_ROUTE", "IN_PROGRESS", "DONE", "VERIFYING", "CLOSED") if s in path][-1] == "CLOSED"
    assert path.index("DONE") < path.index("VERIFYING") < path.index("CLOSED")
    assert all(t["reason"] and t["actor"] for t in order["transitions"])
    assert result["detection_delay_min"] is not None
    assert result["location_distance_m"] is not None


def test_demo_failed_repair_fails_verification_goes_back_and_passes_after_rework(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--until", "closed", "--seed", "3", "--story", "failed-repair", "--speed", "1200")
    try:
        result = finish(demo, tmp_path)
    finally:
        demo.kill()
    order = next(o for o in result["orders"] if o["outcome"] == "PASS")
    path = states(order)
    assert order["rework"] >= 1
    assert path.count("DONE") >= 2
    first_done, last_done = path.index("DONE"), len(path) - 1 - path[::-1].index("DONE")
    assert first_done < last_done < path.index("CLOSED")
    assert [(t["event"], t["reason"]) for t in order["transitions"] if t["event"] in ("fail", "pass")] == [
        ("fail", "not_fixed"),
        ("pass", "verified"),
    ]


def test_demo_timeout_ends_with_exit_code_1_and_a_result(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--until", "closed", "--story", "quiet", "--network", "net3", "--speed", "600", "--timeout", "25")
    out, err = demo.communicate(timeout=120)
    assert demo.returncode == 1, err[-2000:]
    result = json.loads(out)
    assert result["orders_closed"] == 0
    assert result["readings"]["published"] == result["readings"]["stored"] > 0


def test_demo_taken_port_says_so(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "underway", "demo", "--port", str(port), "--until", "live"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert f"port {port} must be free for the web page" in done.stderr
