"""A short search on every decoder, and that the search would say so if it found something."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.dialects import DIALECTS

HERE = Path(__file__).resolve().parent
FUZZ = HERE / "fuzz_dialects.py"
RUNS = 500
SEED = datetime.now(UTC).toordinal()
"""Of the day, so that each day searches elsewhere; what it finds is shown and repeated by the input, not by the seed."""
BROKEN = """
import fuzz_dialects as fuzz

class Broken:
    def __call__(self, data):
        assert data != b"bad"

    def seeds(self):
        yield b"bad"

fuzz.target_of = lambda name: Broken()
fuzz.main()
"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is made for Linux and Python 3.11"),
]


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=HERE, capture_output=True, text=True, errors="replace", timeout=240, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("target", [*(d.name for d in DIALECTS), "sparkplug-host", "mqtt"])
def test_fuzz_short_search_breaks_no_law(target: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("fuzz", f"fuzz: searched with the seed of the day, {SEED} ({RUNS} inputs a target at least)")
    code, said = run(str(FUZZ), target, "--runs", str(RUNS), "--seed", str(SEED), "--folder", str(tmp_path))
    assert code == 0, f"seed {SEED}: {said[-4000:]}"
    ended = re.search(r"^#(\d+)\s+DONE\s+cov: (\d+)", said, re.M)
    assert ended is not None, said[-4000:]
    assert int(ended[1]) >= RUNS
    assert int(ended[2]) > 50, "the decoders must be instrumented"


def test_fuzz_input_that_breaks_a_law_is_saved_shown_and_repeated(tmp_path: Path) -> None:
    code, said = run("-c", BROKEN, "all", "--runs", "1000", "--folder", str(tmp_path))
    assert code != 0
    assert f"all: an input of 3 bytes breaks a law: {b'bad'.hex()}" in said
    (file,) = (tmp_path / "all").glob("broken-*.bin")
    assert f"all --repeat {file}" in said
    assert file.read_bytes() == b"bad"
    code, said = run("-c", BROKEN, "all", "--repeat", str(file))
    assert code != 0
    assert "AssertionError" in said
