"""``underway account``: people who may sign in."""

from __future__ import annotations

from underway.app.settings import load_settings
from underway.model import OperatorError, Role
from underway.store.connect import connect
from web.auth import create_account

PASSWORD_LENGTH_MIN = 10


def add_account(account_id: str, role: str, name: str, crew_id: str | None, password: str) -> None:
    """Create or change an account.

    Raises
    ------
    OperatorError
        When the role is unknown or the password too short.
    """
    if role not in set(Role):
        raise OperatorError(f"a role must be one of {', '.join(Role)}, got {role!r}")
    if len(password) < PASSWORD_LENGTH_MIN:
        raise OperatorError(f"a password must have at least {PASSWORD_LENGTH_MIN} characters, got {len(password)}")
    with connect(load_settings(("database_url",)).database_url, application_name="underway-account") as conn:
        create_account(conn, account_id, name, Role(role), password, crew_id)
        conn.commit()
