"""Who is at fault, as a class: the device, the operator, the store, or we ourselves.

Every message says what was expected (with its unit), what came (``repr``), where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class UnderwayError(Exception):
    """Base of every error that underway raises on purpose."""


class DeviceFault(UnderwayError):
    """A device or a message is wrong: quarantine it and keep going."""


class OperatorError(UnderwayError):
    """A person configured or asked for something impossible: stop at start, list every problem at once."""


class StoreUnavailable(UnderwayError):
    """The database or the broker cannot be reached now: retry with backoff."""


class InternalError(UnderwayError):
    """An invariant of ours is broken: crash loudly."""


class SettingsError(OperatorError):
    """One or more settings are wrong; every problem is listed.

    Parameters
    ----------
    problems : sequence of str
        One clause a problem, each naming the variable, what was expected and what came.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        super().__init__(f"{count} {noun}: " + "; ".join(self.problems))


class IllegalTransitionError(OperatorError):
    """A lifecycle was asked for a move that its table does not have.

    Parameters
    ----------
    subject : str
        What was asked, for example ``"order WO-412"``.
    state : str
        The state it is in.
    event : str
        The event that was refused.
    allowed : sequence of str
        The events that its state allows.
    """

    def __init__(self, subject: str, state: str, event: str, allowed: Sequence[str]) -> None:
        self.subject, self.state, self.event, self.allowed = subject, state, event, tuple(allowed)
        what = "allowed: " + ", ".join(self.allowed) if self.allowed else "nothing is allowed"
        super().__init__(f"{subject} is '{state}' and cannot '{event}'; from '{state}' {what}")


class GuardError(OperatorError):
    """A move is in the table, but a guard is not met; every unmet guard is listed.

    Parameters
    ----------
    subject, event : str
        As in `IllegalTransitionError`.
    unmet : sequence of str
        One clause a guard: what is missing.
    """

    def __init__(self, subject: str, event: str, unmet: Sequence[str]) -> None:
        self.subject, self.event, self.unmet = subject, event, tuple(unmet)
        super().__init__(f"{subject} cannot '{event}' yet: " + "; ".join(self.unmet))
