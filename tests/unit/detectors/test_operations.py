"""The operations that a lane remembers."""

import re

import numpy as np
import pytest

from detectors.operations import OPERATIONS_MAX, Operations, Told
from underway.model import DAY_US, HOUR_US, Operation, OperationKind, OperatorError


def operation(number: int = 1, begin_h: int = 10, end_h: int = 12, withdrawn: bool = False) -> Operation:
    return Operation(number, "z1", OperationKind.FLUSHING, begin_h * HOUR_US, end_h * HOUR_US, withdrawn=withdrawn)


def test_cover_of_overlapping_operations_lasts_until_an_hour_after_the_last() -> None:
    known = Operations()
    assert known.tell(operation(), 0) is Told.AHEAD
    assert known.tell(operation(2, 11, 14), 0) is Told.AHEAD
    assert known.cover(np.array([9, 10, 13, 15, 16]) * HOUR_US).tolist() == [False, True, True, True, False]


def test_cover_after_one_of_two_was_withdrawn_is_that_of_the_other() -> None:
    known = Operations()
    known.tell(operation(), 0)
    known.tell(operation(2, 11, 14), 0)
    assert known.tell(operation(2, 11, 14, withdrawn=True), 0) is Told.WITHDRAWN
    assert known.cover(np.array([11, 13, 14]) * HOUR_US).tolist() == [True, True, False]
    assert known.tell(operation(2, 11, 14, withdrawn=True), 0) is Told.KNOWN


def test_tell_after_its_begin_is_late_and_again_is_known() -> None:
    known = Operations()
    assert known.tell(operation(), 10 * HOUR_US) is Told.LATE
    assert known.tell(operation(), 10 * HOUR_US) is Told.KNOWN


def test_tell_beyond_the_limit_is_crowded_until_others_are_over() -> None:
    known = Operations()
    for i in range(OPERATIONS_MAX):
        known.tell(operation(i), 0)
    assert known.tell(operation(OPERATIONS_MAX), 0) is Told.CROWDED
    assert known.crowded == 1
    assert known.tell(operation(OPERATIONS_MAX, 90, 92), 13 * HOUR_US + 2 * DAY_US) is Told.AHEAD


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zone_id": ""}, "an operation must name its zone, or an asset that has one, got neither"),
        ({"end_us": 0}, "an operation must end after its begin 1970-01-01 00:00:00+00:00, got 1970-01-01 00:00:00+00:00"),
        ({"end_us": 40 * DAY_US}, "an operation must last at most 31 days, got 40.0; write the next one then"),
        ({"flow_m3ph": -1.0}, "the flow of an operation must be a number from 0 on in m3/h, got -1.0"),
    ],
    ids=["no-zone", "end-at-begin", "too-long", "negative-flow"],
)
def test_operation_with_an_impossible_field_says_what_is_expected(fields: dict[str, object], message: str) -> None:
    plain: dict[str, object] = {"operation_id": 1, "zone_id": "z1", "kind": OperationKind.VALVE, "begin_us": 0, "end_us": HOUR_US}
    with pytest.raises(OperatorError, match=re.escape(message)):
        Operation(**{**plain, **fields})  # type: ignore[arg-type]
