"""The page on Sparkplug says what the code does: its limits, its waiting times, its units, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingest.decoded import ADDRESS_CHARS_MAX, PAYLOAD_BYTES_MAX, SAMPLES_MAX
from ingest.dialects.sparkplug import ID_CHARS_MAX
from ingest.sparkplug_host import BIRTH_GRACE_S, DEVICES_MAX, METRICS_MAX, NODES_MAX, REORDER_S
from ingest.sparkplug_names import UNIT_IN_NAME
from ingest.sparkplug_reader import ANNOUNCED_MAX
from ingest.sparkplug_rebirth import CALM_S, PAUSE_S_MAX, PAUSE_S_MIN, PER_S_MAX
from ingest.sparkplug_state import PAUSE_S

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "dialects" / "sparkplug.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


@pytest.mark.parametrize(
    "said",
    [
        f"{PAYLOAD_BYTES_MAX // 1024} kB a message",
        f"{SAMPLES_MAX:,} metrics of data",
        f"{ANNOUNCED_MAX:,} of a birth",
        f"ids of {ID_CHARS_MAX} characters",
        f"names of {ADDRESS_CHARS_MAX}",
        f"{NODES_MAX:,} nodes of {DEVICES_MAX:,} devices",
        f"{METRICS_MAX:,} metrics of all",
        f"waits {REORDER_S:g} s (`reorder_s`)",
        f"pass {PAUSE_S_MIN} s, then {2 * PAUSE_S_MIN} s, up to {PAUSE_S_MAX} s",
        f"at most {PER_S_MAX} a second",
        f"within {BIRTH_GRACE_S} s",
    ],
)
def test_page_says_the_limit_that_the_code_keeps(said: str) -> None:
    assert said in WORDS


def test_page_says_half_an_hour_and_once_a_second_as_the_code_does() -> None:
    assert (CALM_S, PAUSE_S) == (1800, 1)
    assert "until it was quiet for half an hour" in WORDS
    assert "then at most once a second" in WORDS


def test_page_lists_the_units_that_a_name_may_end_with() -> None:
    listed = re.search(r"else the last level of the name where that is one of(.*?);", WORDS)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == set(UNIT_IN_NAME)


def test_page_names_tests_that_exist() -> None:
    table = PAGE[PAGE.index("## What the specification asks of a host") :]
    named = re.findall(r"\b([HI]) `(test_\w+)`", table)
    assert len(named) >= 25
    files = {"H": "tests/unit/ingest/test_sparkplug_host.py", "I": "tests/integration/test_ingest_sparkplug.py"}
    for letter, test in named:
        assert files[letter] in table
        assert f"def {test}(" in (ROOT / files[letter]).read_text(encoding="utf-8"), test
