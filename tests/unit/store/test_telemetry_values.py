from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.model import Candidate, Driver, Evidence
from underway.store.copy import first_occurrence
from underway.store.telemetry import evidence_from_json, evidence_to_json, safe_text

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=40)
DRIVERS = st.builds(Driver, WORDS, FINITE, FINITE, FINITE, WORDS, st.none() | st.integers(0, 2**31 - 1))
EVIDENCE = st.builds(
    Evidence,
    *(WORDS, FINITE, FINITE),
    FINITE | st.just(-math.inf),
    FINITE | st.just(math.inf),
    *(WORDS, FINITE, FINITE, WORDS),
    st.lists(DRIVERS, max_size=3).map(tuple),
    st.lists(st.builds(Candidate, WORDS, st.floats(0, 1)), max_size=3).map(tuple),
    st.dictionaries(WORDS, FINITE | WORDS | st.booleans() | st.none() | st.lists(FINITE, max_size=2), max_size=3),
)


@given(EVIDENCE)
def test_evidence_through_json_is_the_same(evidence: Evidence) -> None:
    text = json.dumps(evidence_to_json(evidence), allow_nan=False)
    assert evidence_from_json(json.loads(text)) == evidence


def test_evidence_with_numpy_values_and_nan_becomes_plain_json() -> None:
    details = {"scores": np.array([1.0, np.nan]), "count": np.int64(3), "deep": {"x": (np.float32(0.5), math.inf)}}
    plain = evidence_to_json(Evidence("s", math.nan, 1.0, 0.0, 2.0, "kPa", 1.0, 1.0, "b", details=details))
    assert json.loads(json.dumps(plain, allow_nan=False))["details"] == {"scores": [1.0, None], "count": 3, "deep": {"x": [0.5, None]}}
    assert math.isnan(evidence_from_json(plain).observed)


def test_evidence_with_an_object_in_its_details_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="evidence must hold plain values or numpy ones, got <object"):
        evidence_to_json(Evidence("s", 0.0, 1.0, 0.0, 2.0, "kPa", 1.0, 1.0, "b", details={"x": object()}))


@given(st.text(max_size=60), st.integers(1, 40))
def test_safe_text_of_anything_is_what_postgresql_takes(text: str, chars_max: int) -> None:
    safe = safe_text(text, chars_max)
    assert len(safe) <= chars_max
    assert "\x00" not in safe
    safe.encode()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_first_occurrence_keeps_exactly_the_first_row_of_each_key(keys: list[tuple[int, int]]) -> None:
    columns = [np.array([key[i] for key in keys], np.int64) for i in (0, 1)]
    assert first_occurrence(*columns).tolist() == [key not in keys[:i] for i, key in enumerate(keys)]
