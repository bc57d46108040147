"""Known operations in the database: written, told once, told again by a replay, withdrawn, never changed."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from underway.model import HOUR_US, Operation, OperationKind, OperatorError, to_us
from underway.store.operations import (
    mark_operations,
    operations_after,
    operations_between,
    pending_operations,
    record,
    views,
    withdraw,
)
from underway.store.telemetry import replay_after

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW_US = to_us(NOW_AT)
FLUSHING = Operation(0, "z1", OperationKind.FLUSHING, NOW_US, NOW_US + 2 * HOUR_US, None, 40.0, "op", "yearly flushing")


@pytest.fixture
def town(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    conn.execute("INSERT INTO site (site_id, name, latitude_deg, longitude_deg) VALUES ('town', 'Town', 52, 4) ON CONFLICT DO NOTHING")
    conn.execute("INSERT INTO zone (zone_id, site_id, name, kind) VALUES ('z1', 'town', 'Z', 'dma') ON CONFLICT DO NOTHING")
    return conn


def test_pending_operations_come_until_marked_and_again_for_a_replay(town: psycopg.Connection[Any]) -> None:
    number = record(town, FLUSHING, NOW_AT, uuid4())
    known = replace(FLUSHING, operation_id=number)
    assert pending_operations(town, "town") == (known,)
    assert pending_operations(town, "port") == ()
    mark_operations(town, [known], 11)
    assert pending_operations(town, "town") == ()
    assert withdraw(town, number, "op", "called off", NOW_AT)
    assert not withdraw(town, number, "op", "called off", NOW_AT)
    assert pending_operations(town, "town") == (replace(known, withdrawn=True),)
    mark_operations(town, pending_operations(town, "town"), 15)
    assert operations_after(town, 11) == ((15, replace(known, withdrawn=True)),)
    assert [(s.batch_id, s.operations) for s in replay_after(town, 0)] == [(11, (known,)), (15, (replace(known, withdrawn=True),))]


def test_operations_between_leave_out_what_was_withdrawn(town: psycopg.Connection[Any]) -> None:
    first, second = record(town, FLUSHING, NOW_AT, uuid4()), record(town, FLUSHING, NOW_AT, uuid4())
    withdraw(town, first, "op", "called off", NOW_AT)
    assert [o.operation_id for o in operations_between(town, NOW_US + 3 * HOUR_US, NOW_US + 9 * HOUR_US)] == [second]
    assert operations_between(town, NOW_US + 4 * HOUR_US, NOW_US + 9 * HOUR_US) == ()
    assert [v.withdrawn_by for v in views(town, NOW_AT - timedelta(hours=1))] == ["op", None]


def test_record_with_the_same_action_id_writes_nothing_new(town: psycopg.Connection[Any]) -> None:
    action = uuid4()
    assert record(town, FLUSHING, NOW_AT, action) == record(town, FLUSHING, NOW_AT, action)
    assert len(views(town, NOW_AT)) == 1


def test_record_in_a_zone_that_is_not_there_says_so(town: psycopg.Connection[Any]) -> None:
    with pytest.raises(OperatorError, match=re.escape("there is no zone 'z9'")):
        record(town, replace(FLUSHING, zone_id="z9"), NOW_AT, uuid4())


def test_operation_rows_refuse_every_other_change(town: psycopg.Connection[Any]) -> None:
    record(town, FLUSHING, NOW_AT, uuid4())
    with pytest.raises(psycopg.errors.RaiseException, match="the table operation only grows: UPDATE refused"), town.transaction():
        town.execute("UPDATE operation SET end_at = end_at + interval '1 day'")
