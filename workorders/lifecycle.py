"""A tiny engine for lifecycles that are tables: pick the row, check its guards, say where to go and why.

The tables stand in ``alarms``, ``incidents`` and ``orders``; the pictures in ``docs/lifecycles.md`` are drawn from them.

The generic classes have no slots: ``typing`` could not build them through an alias (Python 3.11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from underway.model import GuardError, IllegalTransitionError

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)
C = TypeVar("C")


@dataclass(frozen=True)
class Guard(Generic[C]):
    """What must be true before a move; ``unmet`` returns one clause saying what is missing, or None when it is met."""

    name: str
    unmet: Callable[[C], str | None]


@dataclass(frozen=True)
class When(Generic[C]):
    """Which of several rows of one event applies; ``says`` is shown in the picture."""

    says: str
    holds: Callable[[C], bool]


@dataclass(frozen=True)
class Transition(Generic[S, E, C]):
    """One row of a lifecycle table.

    Attributes
    ----------
    label : str
        Name of the row in the specification, for example ``T1``.
    from_states : tuple of S
    event : E
    to : S or None
        None stays in the state that it came from.
    reason : StrEnum
        Why, unless the caller gives a more exact one.
    guards : tuple of Guard
        All are checked; every unmet one is reported.
    effects : tuple of StrEnum
        What must be done with the move, in order; the owner of the table says how.
    when : When or None
        Rows of one (state, event) are tried in table order, the first whose ``when`` holds is taken.
    sets : Mapping
        Stored facts that the move changes.
    """

    label: str
    from_states: tuple[S, ...]
    event: E
    to: S | None
    reason: StrEnum
    guards: tuple[Guard[C], ...] = ()
    effects: tuple[StrEnum, ...] = ()
    when: When[C] | None = None
    sets: Mapping[str, StrEnum] = field(default_factory=dict)


@dataclass(frozen=True)
class Step(Generic[S, E, C]):
    """A move that the table allows and whose guards are met."""

    transition: Transition[S, E, C]
    from_state: S
    to_state: S


@dataclass(frozen=True)
class Table(Generic[S, E, C]):
    """A lifecycle: its name, where it starts, where it ends, and all its moves."""

    name: str
    states: tuple[S, ...]
    initial: S
    terminal: tuple[S, ...]
    transitions: tuple[Transition[S, E, C], ...]

    def rows(self, state: str, event: str) -> tuple[Transition[S, E, C], ...]:
        """Return the rows of one state and event, in table order."""
        return tuple(t for t in self.transitions if t.event == event and state in t.from_states)

    def allowed(self, state: str) -> tuple[str, ...]:
        """Return the events that `state` allows, in table order."""
        return tuple(dict.fromkeys(str(t.event) for t in self.transitions if state in t.from_states))

    def step(self, subject: str, state: S, event: str, context: C) -> Step[S, E, C]:
        """Return the move of `event` from `state`.

        Parameters
        ----------
        subject : str
            What moves, for the message: ``"order WO-412"``.
        context : C
            What guards and conditions look at.

        Raises
        ------
        IllegalTransitionError
            When the table has no such row; lists what is allowed.
        GuardError
            When the row exists and something is missing; lists everything that is missing.
        """
        rows = self.rows(state, event)
        if not rows:
            raise IllegalTransitionError(subject, state, event, self.allowed(state))
        for row in rows:
            if row.when is None or row.when.holds(context):
                unmet = [clause for guard in row.guards if (clause := guard.unmet(context)) is not None]
                if unmet:
                    raise GuardError(subject, event, unmet)
                return Step(row, state, state if row.to is None else row.to)
        raise GuardError(subject, event, [f"only when {row.when.says}" for row in rows if row.when is not None])


def mermaid(table: Table[S, E, C]) -> str:
    """Return the table as a Mermaid state diagram; moves that stay are left to the list below the picture."""
    lines = ["stateDiagram-v2", f"    [*] --> {table.initial}"]
    for row in table.transitions:
        for state in row.from_states:
            if row.to is not None and row.to != state:
                condition = f" [{row.when.says}]" if row.when is not None else ""
                lines.append(f"    {state} --> {row.to}: {row.event}{condition}")
    lines += [f"    {state} --> [*]" for state in table.terminal]
    return "\n".join(lines)


def markdown_table(table: Table[S, E, C]) -> str:
    """Return the table as Markdown, one line a row."""
    lines = ["| row | from | event | only when | guards | to | effects | reason |", "|---|---|---|---|---|---|---|---|"]
    for row in table.transitions:
        cells = (
            row.label,
            ", ".join(row.from_states),
            row.event,
            row.when.says if row.when is not None else "",
            "; ".join(guard.name for guard in row.guards),
            "(stays)" if row.to is None else row.to,
            ", ".join(row.effects),
            row.reason,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
