"""Who someone is and what they may do: the one place where roles are checked.

Three ways in: a session cookie after a login (argon2 hashes in table ``account``), a crew link (signed, expiring, carries only that
crew's rights), and in the demo, from loopback only, reading without login and a one-click sign-in. Sessions are checked against the
account at every request, so a disabled account, another role or a new password takes effect at once.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import HTTPConnection

from underway.desk.links import read_crew_link
from underway.model import OperatorError, Role
from underway.store import views
from web.config import WebConfig
from web.errors import ApiError

SESSION_COOKIE = "underway_session"
PASSWORD_CHARS_MIN = 10
PASSWORD_CHARS_MAX = 200
LOGIN_FAILURES_MAX = 5
LOGIN_WINDOW_S = 300.0
LIMITED_KEYS_MAX = 10_000


class Permission(StrEnum):
    """One thing that someone may do."""

    READ = "read"
    READ_OWN_ORDERS = "read own orders"
    ALARM_ACK = "acknowledge and comment alarms"
    ALARM_SHELVE = "shelve alarms"
    ALARM_OUT_OF_SERVICE = "take alarms out of service"
    ORDER_DISPATCH = "approve, assign and cancel orders"
    ORDER_SUPERVISE = "waive, reject and sign off orders"
    ORDER_WORK = "report work on orders"
    ORDER_COMMENT = "comment orders"
    OPERATION_TELL = "tell of planned work"


PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    # the control room reports for a crew that phones in: the lifecycle allows it and the event log names who did
    Role.OPERATOR: frozenset(
        {
            Permission.READ,
            Permission.ALARM_ACK,
            Permission.ALARM_SHELVE,
            Permission.ORDER_DISPATCH,
            Permission.ORDER_WORK,
            Permission.ORDER_COMMENT,
            Permission.OPERATION_TELL,
        }
    ),
    Role.SUPERVISOR: frozenset(
        {
            Permission.READ,
            Permission.ALARM_ACK,
            Permission.ALARM_SHELVE,
            Permission.ORDER_DISPATCH,
            Permission.ORDER_SUPERVISE,
            Permission.ORDER_WORK,
            Permission.ORDER_COMMENT,
            Permission.OPERATION_TELL,
        }
    ),
    Role.ENGINEER: frozenset(
        {Permission.READ, Permission.ALARM_ACK, Permission.ALARM_OUT_OF_SERVICE, Permission.ORDER_COMMENT, Permission.OPERATION_TELL}
    ),
    # a crew only on orders that are assigned to it, see `require_order`
    Role.CREW: frozenset({Permission.READ_OWN_ORDERS, Permission.ORDER_WORK, Permission.ORDER_COMMENT}),
}

# What a person may ask for over HTTP; every other event belongs to detectors, timers, rules and verification.
ALARM_EVENT_PERMISSION: Mapping[str, Permission] = {
    "ack": Permission.ALARM_ACK,
    "comment": Permission.ALARM_ACK,
    "shelve": Permission.ALARM_SHELVE,
    "unshelve": Permission.ALARM_SHELVE,
    "out_of_service": Permission.ALARM_OUT_OF_SERVICE,
    "return_to_service": Permission.ALARM_OUT_OF_SERVICE,
}

ORDER_EVENT_PERMISSION: Mapping[str, Permission] = {
    "receipt": Permission.ORDER_WORK,
    "accept": Permission.ORDER_WORK,
    "decline": Permission.ORDER_WORK,
    "depart": Permission.ORDER_WORK,
    "arrive": Permission.ORDER_WORK,
    "pause": Permission.ORDER_WORK,
    "resume": Permission.ORDER_WORK,
    "done": Permission.ORDER_WORK,
    "comment": Permission.ORDER_COMMENT,
    "approve": Permission.ORDER_DISPATCH,
    "assign": Permission.ORDER_DISPATCH,
    "reschedule": Permission.ORDER_WORK,
    "unschedule": Permission.ORDER_DISPATCH,
    "cancel": Permission.ORDER_DISPATCH,
    "reject": Permission.ORDER_SUPERVISE,
    "sign_off": Permission.ORDER_SUPERVISE,
    "waive": Permission.ORDER_SUPERVISE,
}


class Way(StrEnum):
    """How someone came in."""

    SESSION = "session"
    CREW_LINK = "crew_link"
    DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone at the door: ``actor`` is what the event log will say."""

    actor: str
    name: str
    role: Role
    way: Way
    crew_id: str | None = None
    read_only: bool = False

    def may(self, permission: Permission) -> bool:
        """Return whether this person holds `permission`."""
        if self.read_only and permission is not Permission.READ:
            return False
        return permission in PERMISSIONS[self.role]


# The demo reader sees what an operator sees and can change nothing until the one click that signs in.
DEMO_READER = Principal("demo:reader", "Demo (reading only)", Role.OPERATOR, Way.DEMO, read_only=True)

_hasher = PasswordHasher()
_hashing = threading.BoundedSemaphore(2)  # 64 MiB a hash: two at a time
_DUMMY_HASH = _hasher.hash("nobody has this password")


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password.

    Raises
    ------
    OperatorError
        When it has fewer than `PASSWORD_CHARS_MIN` or more than `PASSWORD_CHARS_MAX` characters.
    """
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise OperatorError(f"a password must have {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters, got {len(password)}")
    return _hasher.hash(password)


def password_fits(password_hash: str | None, password: str) -> bool:
    """Return whether `password` belongs to the hash; costs the same when there is no such account (hash None)."""
    with _hashing:
        try:
            _hasher.verify(password_hash or _DUMMY_HASH, password[:PASSWORD_CHARS_MAX])
        except (VerificationError, InvalidHashError):
            return False
    return password_hash is not None


def create_account(
    conn: psycopg.Connection[Any], account_id: str, name: str, role: Role, password: str, crew_id: str | None = None
) -> None:
    """Create an account, or give an existing one this name, role and password (which ends its sessions).

    Parameters
    ----------
    account_id : str
        What the person types at login, 1 to 64 characters.
    crew_id : str or None
        Needed for the role crew, refused for every other.

    Raises
    ------
    OperatorError
        For an unfit account id or password, or a crew that does not fit the role or does not exist.
    """
    if not 1 <= len(account_id) <= 64 or account_id.strip() != account_id:
        raise OperatorError(f"an account id must have 1 to 64 characters and no space around it, got {account_id!r}")
    if (role is Role.CREW) != (crew_id is not None):
        raise OperatorError(f"an account of role 'crew' needs a crew and no other role has one, got role '{role}' with crew {crew_id!r}")
    hashed = hash_password(password)
    try:
        with conn.transaction():
            conn.execute(
                """INSERT INTO account (account_id, name, role, crew_id, password_hash) VALUES (%s, %s, %s, %s, %s)
                   ON CONFLICT (account_id) DO UPDATE SET name = EXCLUDED.name, role = EXCLUDED.role, crew_id = EXCLUDED.crew_id,
                       password_hash = EXCLUDED.password_hash, disabled_at = NULL""",
                (account_id, name, role.value, crew_id, hashed),
            )
    except psycopg.errors.ForeignKeyViolation as exc:
        raise OperatorError(f"no crew {crew_id!r} is registered") from exc


class LoginLimiter:
    """Count failed logins a key (address, account) in a sliding window; bounded in keys, oldest forgotten first.

    Examples
    --------
    >>> limiter = LoginLimiter(failures_max=2, window_s=60)
    >>> limiter.failed("a", now_s=0), limiter.failed("a", now_s=10)
    (None, None)
    >>> limiter.wait_s("a", now_s=20)
    40
    >>> limiter.wait_s("a", now_s=61)
    0
    """

    def __init__(self, failures_max: int = LOGIN_FAILURES_MAX, window_s: float = LOGIN_WINDOW_S) -> None:
        self.failures_max, self.window_s = failures_max, window_s
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, key: str, now_s: float) -> int:
        """Return for how many whole seconds `key` must wait, 0 when it need not."""
        with self._lock:
            recent = [at for at in self._failures.get(key, ()) if at > now_s - self.window_s]
            if len(recent) < self.failures_max:
                return 0
            return max(1, int(recent[-self.failures_max] + self.window_s - now_s + 0.999))

    def failed(self, key: str, now_s: float) -> None:
        """Remember a failure of `key`."""
        with self._lock:
            recent = [at for at in self._failures.pop(key, ()) if at > now_s - self.window_s]
            self._failures[key] = [*recent, now_s][-self.failures_max :]
            while len(self._failures) > LIMITED_KEYS_MAX:
                self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Forget the failures of `key`."""
        with self._lock:
            self._failures.pop(key, None)


def _fingerprint(password_hash: str) -> str:
    return hashlib.sha256(password_hash.encode()).hexdigest()[:16]


def _signer(config: WebConfig) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(config.secret_key, salt="underway-session-1", signer_kwargs={"digest_method": hashlib.sha256})


def session_for(config: WebConfig, row: views.AccountRow) -> str:
    """Return the value of the session cookie of an account."""
    return str(_signer(config).dumps({"a": row.account_id, "p": _fingerprint(row.password_hash)}))


def demo_session_for(config: WebConfig, role: Role) -> str:
    """Return the value of the session cookie of a demo sign-in."""
    return str(_signer(config).dumps({"demo": role.value}))


def is_loopback(request: HTTPConnection) -> bool:
    """Return whether the client sits on this machine: loopback address, loopback host name, no proxy in between.

    The host name is checked because a page elsewhere may point its own name at 127.0.0.1 (DNS rebinding).
    """
    if request.client is None or any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip")):
        return False
    host = request.url.hostname or ""
    try:
        if not ipaddress.ip_address(request.client.host).is_loopback:
            return False
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def demo_allowed(config: WebConfig, request: HTTPConnection) -> bool:
    """Return whether the conveniences of the demo are open to this client."""
    return config.demo and is_loopback(request)


def bearer(request: HTTPConnection) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def identify(config: WebConfig, conn: psycopg.Connection[Any], request: HTTPConnection) -> Principal | None:
    """Return who is asking, None when nobody known is.

    A bearer token that does not fit is never replaced by a weaker way in: the caller gets None.
    """
    token = bearer(request)
    if token is not None:
        crew_id = crew_of_link(config, token)
        row = None if crew_id is None else views.crew(conn, crew_id, config.clock.now_at())
        return None if row is None else Principal(f"crew/{row.crew_id}", row.name, Role.CREW, Way.CREW_LINK, row.crew_id)
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie:
        found = _identify_session(config, conn, request, cookie)
        if found is not None:
            return found
    return DEMO_READER if demo_allowed(config, request) else None


def _identify_session(config: WebConfig, conn: psycopg.Connection[Any], request: HTTPConnection, cookie: str) -> Principal | None:
    try:
        facts = _signer(config).loads(cookie, max_age=int(config.session_hours * 3600))
    except BadSignature:  # expired ones too
        return None
    if "demo" in facts:
        if not demo_allowed(config, request):
            return None
        role = Role(facts["demo"])
        return Principal(f"demo:{role.value}", f"Demo {role.value}", role, Way.DEMO)
    row = views.account(conn, facts["a"])
    if row is None or row.disabled_at is not None or _fingerprint(row.password_hash) != facts["p"]:
        return None
    return Principal(row.account_id, row.name, Role(row.role), Way.SESSION, row.crew_id)


def crew_of_link(config: WebConfig, token: str) -> str | None:
    """Return the crew of a crew link's token, None when it is not ours or has expired by the people's clock."""
    return read_crew_link(config.secret_key, token, config.clock.now_at())


def require(principal: Principal | None, permission: Permission) -> Principal:
    """Return `principal` when it holds `permission`.

    Raises
    ------
    ApiError
        401 when nobody is known, 403 when someone is but may not.
    """
    if principal is None:
        raise ApiError(401, "login_required", "sign in, or open a crew link that has not expired")
    if not principal.may(permission):
        if principal.read_only:
            raise ApiError(403, "demo_read_only", f"sign in to {permission.value}; the demo reads without login but changes nothing")
        raise ApiError(403, "forbidden", f"the role '{principal.role}' may not {permission.value}")
    return principal


def require_order(principal: Principal | None, permission: Permission, crew_id: str | None) -> Principal:
    """Return `principal` when it may do this to an order that `crew_id` is assigned to; a crew only to its own.

    Raises
    ------
    ApiError
        401 or 403 as `require`; 403 also for another crew's order.
    """
    known = require(principal, permission)
    if known.role is Role.CREW and (known.crew_id is None or known.crew_id != crew_id):
        raise ApiError(403, "not_your_order", "this order is not assigned to your crew")
    return known
