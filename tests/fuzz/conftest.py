"""The fuzzer is a program of its own: imported here, it would instrument the decoders that other tests use."""

from __future__ import annotations

import sys
from typing import Any

collect_ignore = ["fuzz_dialects.py"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say with which seed was searched, when there was a search."""
    ran = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    if any("test_fuzz_short_search" in report.nodeid for report in ran):
        module = next(module for name, module in sys.modules.items() if name.rpartition(".")[2] == "test_fuzz")
        terminalreporter.write_line(f"fuzz: searched with the seed of the day, {module.SEED} ({module.RUNS} inputs a target at least)")
