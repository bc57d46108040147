"""Where a broker is: the URL that an operator writes, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from underway.model import SettingsError


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where and how to reach a broker; the password is not part of its ``repr``."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """Return the address in ``mqtt://[user[:password]@]host[:port]``, or ``mqtts://`` for TLS.

        Raises
        ------
        SettingsError
            When `url` is not of that form.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("mqtt", "mqtts") or not host:
            raise SettingsError([f"the broker URL must look like 'mqtt://user:password@host:1883', got one with scheme {parts.scheme!r}"])
        tls = parts.scheme == "mqtts"
        user, secret = parts.username, parts.password
        return cls(host, port or (8883 if tls else 1883), tls, unquote(user) if user else None, unquote(secret) if secret else None)

    def __repr__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"
