"""Signed links that let a crew in without a password, until they expire."""

from __future__ import annotations

from datetime import datetime

from itsdangerous import BadSignature, URLSafeSerializer

SALT = "underway crew link 1"
TOKEN_LENGTH_MAX = 512


def crew_link(secret: str, crew_id: str, expires_at: datetime) -> str:
    """Return the token of a crew link; the page is ``/crew/<token>``.

    Parameters
    ----------
    secret : str
        Signing key of the installation.
    expires_at : datetime
        Aware instant from which the token is refused; cut to whole seconds.

    Examples
    --------
    >>> from datetime import UTC
    >>> end = datetime(2026, 3, 1, tzinfo=UTC)
    >>> token = crew_link("a secret", "c1", end)
    >>> read_crew_link("a secret", token, datetime(2026, 2, 28, tzinfo=UTC))
    'c1'
    >>> read_crew_link("a secret", token, end) is None, read_crew_link("another", token, end) is None
    (True, True)
    """
    return str(_serializer(secret).dumps([crew_id, int(expires_at.timestamp())]))


def read_crew_link(secret: str, token: str, now_at: datetime) -> str | None:
    """Return the crew of a token, or None when it was not signed by us, was changed, or has expired."""
    if len(token) > TOKEN_LENGTH_MAX:
        return None
    try:
        facts = _serializer(secret).loads(token)
    except BadSignature:
        return None
    match facts:
        case [str(crew_id), int(expires_s)] if now_at.timestamp() < expires_s:
            return crew_id
        case _:
            return None


def link_of(base_url: str, token: str) -> str:
    """Return the address that a crew opens.

    Examples
    --------
    >>> link_of("http://127.0.0.1:8080/", "abc")
    'http://127.0.0.1:8080/crew/abc'
    """
    return f"{base_url.rstrip('/')}/crew/{token}"


def _serializer(secret: str) -> URLSafeSerializer:
    return URLSafeSerializer(secret, salt=SALT)
