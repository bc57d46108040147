"""A demo that cannot do what was asked ends with a sentence and an exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from demo_process import start_demo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


def test_demo_timeout_ends_with_exit_code_1_and_a_result(tmp_path: Path) -> None:
    demo = start_demo(
        tmp_path, "--until", "closed", "--story", "quiet", "--network", "net3", "--speed", "600", "--history-days", "8", "--timeout", "12"
    )
    out, err = demo.communicate(timeout=120)
    assert demo.returncode == 1, err[-2000:]
    result = json.loads(out)
    assert result["orders_closed"] == 0
    assert result["readings"]["published"] == result["readings"]["stored"] > 0


def test_demo_taken_port_says_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "underway", "demo", "--port", str(port), "--until", "live"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert f"port {port} must be free for the web page" in done.stderr
