from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.model import OperatorError, StoreUnavailable
from underway.store.connect import connect, redact_url, store_errors

CASES = {
    "url": ("postgresql://app:SECRET@db:5432/underway", "postgresql://app:***@db:5432/underway"),
    "url-with-at-sign": ("postgresql://app:SEC@RET@db/underway", "postgresql://app:***@db/underway"),
    "url-query": (
        "postgresql://db/underway?user=app&password=SECRET&sslmode=require",
        "postgresql://db/underway?user=app&password=***&sslmode=require",
    ),
    "keywords": ("host=db password=SECRET user=app", "host=db password=*** user=app"),
    "quoted": (r"host=db password='SEC \' RET' user=app", "host=db password=*** user=app"),
    "inside-a-message": ("no route to postgresql://app:SECRET@db now", "no route to postgresql://app:***@db now"),
    "no-password": ("postgresql://app@db/underway", "postgresql://app@db/underway"),
    "socket": ("postgresql://postgres@/underway?host=/run/x", "postgresql://postgres@/underway?host=/run/x"),
    "mqtt": ("mqtts://town:SECRET@broker:8883", "mqtts://town:***@broker:8883"),
}


@pytest.mark.parametrize(("text", "redacted"), CASES.values(), ids=CASES)
def test_redact_url_keeps_everything_but_the_password(text: str, redacted: str) -> None:
    assert redact_url(text) == redacted


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_redact_url_shows_no_password_whatever_it_holds(password: str) -> None:
    secret = f"<<{password}>>"
    assert secret not in redact_url(f"postgresql://app:{secret}@db:5432/underway")
    assert secret not in redact_url(f"could not connect to postgresql://app:{secret}@db:5432/underway within 5 s")


def test_connect_to_nothing_says_so_without_the_password() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        connect("postgresql://app:s3cret@127.0.0.1:1/underway")
    assert str(caught.value).startswith("no connection to postgresql://app:***@127.0.0.1:1/underway: ")
    assert "s3cret" not in str(caught.value)


def test_connect_with_a_broken_url_blames_the_operator() -> None:
    with pytest.raises(OperatorError) as caught:
        connect("postgresql://app:s3cret@db:5432/underway?colour=red")
    assert str(caught.value) == (
        "the database URL must look like 'postgresql://user:password@host:5432/underway',"
        " got 'postgresql://app:***@db:5432/underway?colour=red'"
    )


def test_store_errors_turns_a_lost_server_into_store_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match=r"^cannot append a batch now: gone; for good$"), store_errors("append a batch"):
        raise psycopg.OperationalError("gone\n  for good")


def test_store_errors_lets_our_own_mistakes_through() -> None:
    with pytest.raises(KeyError), store_errors("append a batch"):
        raise KeyError("no")


@pytest.mark.parametrize(
    "error", [psycopg.errors.InsufficientPrivilege("no"), psycopg.errors.UndefinedTable("no"), psycopg.errors.DiskFull("no")]
)
def test_store_errors_of_the_server_are_tried_again(error: psycopg.Error) -> None:
    with pytest.raises(StoreUnavailable, match="cannot store a batch now"), store_errors("store a batch"):
        raise error


@pytest.mark.parametrize("error", [psycopg.errors.NumericValueOutOfRange("no"), psycopg.errors.CheckViolation("no")])
def test_store_errors_of_the_data_pass_through(error: psycopg.Error) -> None:
    with pytest.raises(type(error)), store_errors("store a batch"):
        raise error
