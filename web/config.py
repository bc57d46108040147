"""What the web application is told at start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from underway.model import Clock


@dataclass(frozen=True, slots=True)
class WebConfig:
    """Settings of the web application.

    Attributes
    ----------
    database_url : str
        libpq connection string; it may hold a password and is never printed.
    secret_key : str
        Signs sessions and crew links, at least 16 characters.
    clock : Clock
        The time that people see: the town's clock in the demo, the system's otherwise. Sessions do not use it: they end by wall time.
    demo : bool
        Pages are readable from loopback without login, and offer a one-click demo sign-in there.
    title : str
        Name on the pages; empty takes the site's name.
    secure_cookies : bool
        Set the Secure attribute and HSTS: on behind TLS.
    session_hours : float
        A session ends after this many hours of wall time.
    poll_s : float
        How often the database is asked whether something changed, once for all clients, in wall seconds.
    clients_max : int
        Live pages served at a time; the next one gets 503 and polls.
    pool_max : int
        Database connections.
    monotonic_s : callable
        Wall seconds for limits; passed in so that tests own it.
    """

    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    clock: Clock
    demo: bool = False
    title: str = ""
    secure_cookies: bool = False
    session_hours: float = 12.0
    poll_s: float = 0.7
    clients_max: int = 200
    pool_max: int = 6
    monotonic_s: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if len(self.secret_key) < 16:
            raise ValueError(f"secret_key must have at least 16 characters, got {len(self.secret_key)}")
