"""Run ``underway bench`` as a person does, with no setting of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from underway.app.settings import PREFIX


def bench(*words: str, timeout_s: float) -> tuple[int, dict[str, Any], str]:
    """Return (exit code, what ``--json`` printed, what was said on the error stream)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    done = subprocess.run(
        [sys.executable, "-m", "underway", "bench", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout), done.stderr
