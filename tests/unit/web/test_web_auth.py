from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from starlette.requests import Request

from underway.desk import PEOPLE_ALARM_EVENTS, PEOPLE_ORDER_EVENTS
from underway.model import OperatorError, Role
from web import auth
from web.auth import Permission, Principal, Way
from web.config import WebConfig
from web.errors import ApiError


class Still:
    def now_at(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)


def request(host: str = "127.0.0.1", client: str | None = "127.0.0.1", headers: Mapping[str, str] | None = None) -> Request:
    named = {"host": host, **(headers or {})}
    return Request(
        {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "query_string": b"",
            "server": ("127.0.0.1", 8080),
            "client": (client, 5000) if client else None,
            "headers": [(k.encode(), v.encode()) for k, v in named.items()],
        }
    )


def person(role: Role, crew_id: str | None = None) -> Principal:
    return Principal(f"test {role}", "Test", role, Way.SESSION, crew_id)


CASES = [
    (Role.OPERATOR, Permission.ALARM_ACK, True),
    (Role.OPERATOR, Permission.ORDER_DISPATCH, True),
    (Role.OPERATOR, Permission.ORDER_SUPERVISE, False),
    (Role.SUPERVISOR, Permission.ORDER_SUPERVISE, True),
    (Role.ENGINEER, Permission.ALARM_OUT_OF_SERVICE, True),
    (Role.ENGINEER, Permission.ORDER_DISPATCH, False),
    (Role.CREW, Permission.ORDER_WORK, True),
    (Role.OPERATOR, Permission.OPERATION_TELL, True),
    (Role.ENGINEER, Permission.OPERATION_TELL, True),
    (Role.CREW, Permission.OPERATION_TELL, False),
    (Role.CREW, Permission.READ, False),
    (Role.CREW, Permission.ALARM_ACK, False),
]


@pytest.mark.parametrize(("role", "permission", "expected"), CASES, ids=[f"{r}-{p}" for r, p, _ in CASES])
def test_permission_table_role_holds_what_it_should(role: Role, permission: Permission, expected: bool) -> None:
    assert person(role).may(permission) is expected


def test_permission_table_every_event_that_people_may_send_has_one() -> None:
    assert set(auth.ALARM_EVENT_PERMISSION) == {str(e) for e in PEOPLE_ALARM_EVENTS}
    assert set(auth.ORDER_EVENT_PERMISSION) == {str(e) for e in PEOPLE_ORDER_EVENTS} | {"assign"}


def test_require_nobody_is_401_and_the_wrong_role_403() -> None:
    with pytest.raises(ApiError, match="sign in, or open a crew link") as nobody:
        auth.require(None, Permission.READ)
    assert nobody.value.status == 401
    with pytest.raises(ApiError, match="the role 'crew' may not acknowledge and comment alarms") as wrong:
        auth.require(person(Role.CREW, "c1"), Permission.ALARM_ACK)
    assert wrong.value.status == 403


def test_require_order_crew_acts_only_on_its_own() -> None:
    crew = person(Role.CREW, "c1")
    assert auth.require_order(crew, Permission.ORDER_WORK, "c1") is crew
    for other in ("c2", None):
        with pytest.raises(ApiError, match="not assigned to your crew"):
            auth.require_order(crew, Permission.ORDER_WORK, other)


def test_demo_reader_reads_and_changes_nothing() -> None:
    assert auth.DEMO_READER.may(Permission.READ)
    assert [p for p in Permission if auth.DEMO_READER.may(p)] == [Permission.READ]


LOOPBACK = [
    ("127.0.0.1:8080", "127.0.0.1", {}, True),
    ("localhost:8080", "127.0.0.1", {}, True),
    ("[::1]:8080", "::1", {}, True),
    ("127.0.0.1:8080", "192.0.2.7", {}, False),
    ("evil.example:8080", "127.0.0.1", {}, False),
    ("127.0.0.1:8080", "127.0.0.1", {"x-forwarded-for": "192.0.2.7"}, False),
    ("127.0.0.1:8080", "127.0.0.1", {"forwarded": "for=192.0.2.7"}, False),
    ("127.0.0.1:8080", None, {}, False),
]


@pytest.mark.parametrize(
    ("host", "client", "headers", "expected"),
    LOOPBACK,
    ids=["ip", "localhost", "ipv6", "elsewhere", "rebound-name", "behind-proxy", "behind-proxy-rfc7239", "unknown"],
)
def test_is_loopback(host: str, client: str | None, headers: Mapping[str, str], expected: bool) -> None:
    assert auth.is_loopback(request(host, client, headers)) is expected


def test_demo_allowed_only_in_the_demo() -> None:
    for demo in (True, False):
        config = WebConfig("", "0123456789abcdef", Still(), demo=demo)
        assert auth.demo_allowed(config, request()) is demo


@pytest.mark.parametrize(
    ("header", "token"), [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None), ("Bearer ", None), ("", None)]
)
def test_bearer(header: str, token: str | None) -> None:
    assert auth.bearer(request(headers={"authorization": header})) == token


def test_hash_password_short_is_refused_and_long_enough_fits_only_itself() -> None:
    with pytest.raises(OperatorError, match="a password must have 10 to 200 characters, got 5"):
        auth.hash_password("short")
    hashed = auth.hash_password("correct horse battery")
    assert "correct" not in hashed
    assert hashed.startswith("$argon2id$")
    assert auth.password_fits(hashed, "correct horse battery")
    assert not auth.password_fits(hashed, "correct horse batterz")
    assert not auth.password_fits(None, "nobody has this password")
    assert not auth.password_fits("no hash at all", "correct horse battery")


def test_login_limiter_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "LIMITED_KEYS_MAX", 3)
    limiter = auth.LoginLimiter(failures_max=1)
    for n in range(10):
        limiter.failed(f"key {n}", 0.0)
    assert limiter.wait_s("key 9", 1.0) > 0
    assert limiter.wait_s("key 0", 1.0) == 0
    limiter.succeeded("key 9")
    assert limiter.wait_s("key 9", 1.0) == 0


def test_web_config_short_secret_is_refused_and_never_shown() -> None:
    with pytest.raises(ValueError, match="secret_key must have at least 16 characters, got 5"):
        WebConfig("", "short", Still())
    shown = repr(WebConfig("postgresql://u:hidden@h/d", "0123456789abcdef", Still()))
    assert "hidden" not in shown
    assert "0123456789abcdef" not in shown
