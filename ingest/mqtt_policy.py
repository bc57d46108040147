"""Which protocol to try next, and when: pure decisions about a broker that does not answer as hoped."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum

from ingest.mqtt_codec import Version

CLOSED_BEFORE_CONNACK_MAX = 3
SILENT_MAX = 2
CONNACK_S_MIN, CONNACK_S_MAX = 2.0, 30.0
DELAY_S_MIN, DELAY_S_MAX = 0.5, 10.0
LASTING_S = 10.0


class Outcome(StrEnum):
    """How an attempt to connect, or a connection, ended."""

    UNREACHABLE = "unreachable"
    CLOSED_EARLY = "closed before the first answer"
    SILENT = "no answer"
    WRONG_VERSION = "refused: unsupported protocol version"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(slots=True)
class Policy:
    """Chooses the protocol and the delay before the next attempt.

    Parameters
    ----------
    client_id : str
        Spreads the delays: many clients do not come back at the same instant.

    Notes
    -----
    MQTT 5 is tried first. The other protocol is tried when the broker says so, when it closes the connection before its first answer (at once
    as long as no connection was ever made, else after three times in a row), or when it says nothing for `patience_s` (twice where MQTT 5
    worked before), which doubles each time from 2 s to 30 s. It works in both directions: a broker that was replaced is found again. After a
    connection was lost, MQTT 5 is tried first where it worked before: a broker that was slow once is not spoken to in 3.1.1 for good.

    The delay doubles from 0.5 s to 10 s over attempts in a row, times a factor of 0.5 to 1 that client id and attempt give; it starts anew after a
    connection that lasted 10 s. The first change of protocol waits for nothing.

    Blind to why a broker closes a connection: one that is overloaded is tried with both protocols in turn.

    Examples
    --------
    >>> policy = Policy("ingest")
    >>> policy.after(Outcome.CLOSED_EARLY, 0.0), policy.version.text
    (0.0, '3.1.1')
    >>> 0.25 <= policy.after(Outcome.UNREACHABLE, 0.0) <= 0.5 <= policy.after(Outcome.UNREACHABLE, 0.0) <= 1.0
    True
    """

    client_id: str
    version: Version = Version.V5
    patience_s: float = CONNACK_S_MIN
    attempt: int = 0
    _established: bool = False
    _closed_early: int = 0
    _silent: int = 0
    _spoke_5: bool = False
    _changed: bool = False

    def connected(self) -> None:
        """Take note that the broker said yes."""
        self._established, self._closed_early, self._silent, self.patience_s = True, 0, 0, CONNACK_S_MIN
        self._spoke_5 = self._spoke_5 or self.version is Version.V5

    def after(self, outcome: Outcome, lasted_s: float) -> float:
        """Return the time to wait before the next attempt, in s; `version` and `patience_s` are those of that attempt.

        Parameters
        ----------
        outcome : Outcome
        lasted_s : float
            How long a connection held, in s; 0 when there was none.
        """
        if lasted_s >= LASTING_S:
            self.attempt = 0
        changes = outcome is Outcome.WRONG_VERSION
        if outcome is Outcome.SILENT:
            self.patience_s = min(2 * self.patience_s, CONNACK_S_MAX)
            self._silent += 1
            changes = self._silent >= (SILENT_MAX if self._spoke_5 and self.version is Version.V5 else 1)
        elif outcome is Outcome.CLOSED_EARLY:
            self._closed_early += 1
            changes = self._closed_early >= (CLOSED_BEFORE_CONNACK_MAX if self._established else 1)
        elif outcome is Outcome.LOST and self._spoke_5:
            self.version = Version.V5
        if changes:
            self._closed_early = self._silent = 0
            self.version = self.version.other
            if not self._changed:
                self._changed = True
                return 0.0
        delay_s = min(DELAY_S_MIN * 2.0**self.attempt, DELAY_S_MAX)
        self.attempt = min(self.attempt + 1, 16)
        return delay_s * (0.5 + 0.5 * spread(self.client_id, self.attempt))


def spread(client_id: str, attempt: int) -> float:
    """Return a number in 0..1 that looks random and is the same each time."""
    return zlib.crc32(f"{client_id} {attempt}".encode()) / 2**32
