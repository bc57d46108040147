"""The fuzzer is a program of its own: imported here, it would instrument the decoders that other tests use."""

from __future__ import annotations

from typing import Any

collect_ignore = ["fuzz_dialects.py"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say with which seed was searched, when there was a search."""
    ran = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    said = {value for report in ran for name, value in report.user_properties if name == "fuzz"}
    for sentence in sorted(said):
        terminalreporter.write_line(sentence)
