"""A demo as a process: started in a folder, followed by what it writes down about itself, its result read at the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
