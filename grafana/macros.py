"""Expand what Grafana expands in a query, so that a panel's SQL can run without Grafana.

Follows the PostgreSQL data source of Grafana (``$__timeFilter`` and its family) and its template variables (``$name``,
``${name:format}``). The macro grammar is Grafana's own, with its limit: an argument cannot contain a closing parenthesis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from underway.model import InternalError, from_us, to_us

MACRO = re.compile(r"\$(__[A-Za-z0-9]+)\(([^)]*)\)")
VARIABLE = re.compile(r"\$\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|\$(?P<plain>[A-Za-z_]\w*)")
INTERVAL = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
UNIT_S: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# what Grafana rounds an automatic interval to, in seconds
INTERVAL_STEPS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 604_800)
POINTS_MAX = 1_000


class MacroError(InternalError):
    """A query uses something that Grafana would not expand, or would expand to something else."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a query is expanded with.

    Attributes
    ----------
    from_at, to_at : datetime
        The dashboard's time range, aware.
    variables : mapping of str to sequence of str
        Chosen values of every template variable.
    timescale : bool
        Whether the data source is marked as TimescaleDB; then ``$__timeGroup`` becomes ``time_bucket``.
    interval_s_min : float
        The panel's smallest interval in seconds.
    """

    from_at: datetime
    to_at: datetime
    variables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    timescale: bool = False
    interval_s_min: float = 1.0

    @property
    def interval_s(self) -> float:
        """Return the automatic interval in seconds: about `POINTS_MAX` points in the range, rounded up to a step."""
        wanted_s = max((self.to_at - self.from_at).total_seconds() / POINTS_MAX, self.interval_s_min)
        return float(next((step for step in INTERVAL_STEPS_S if step >= wanted_s), INTERVAL_STEPS_S[-1]))


def interval_seconds(text: str) -> float:
    """Return an interval such as ``5m`` in seconds.

    Raises
    ------
    MacroError
        When the text is no interval.

    Examples
    --------
    >>> interval_seconds("'5m'"), interval_seconds("1h"), interval_seconds("500ms")
    (300.0, 3600.0, 0.5)
    """
    match = INTERVAL.fullmatch(text.strip().strip("'\""))
    if match is None:
        raise MacroError(f"an interval must be a number and ms, s, m, h, d or w, got {text!r}")
    return float(match[1]) * UNIT_S[match[2]]


def interval_text(seconds: float) -> str:
    """Return seconds as Grafana writes an interval, in the largest unit that divides it.

    Examples
    --------
    >>> interval_text(300), interval_text(90), interval_text(3600)
    ('5m', '90s', '1h')
    """
    for unit in ("d", "h", "m"):
        if seconds % UNIT_S[unit] == 0:
            return f"{seconds / UNIT_S[unit]:.0f}{unit}"
    return f"{seconds:.0f}s"


def sql_string(value: str) -> str:
    """Return a value as an SQL literal, quotes doubled, as ``${name:sqlstring}`` does.

    Examples
    --------
    >>> sql_string("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"


FORMATS: Mapping[str, Callable[[Sequence[str]], str]] = {
    "": lambda values: values[0] if len(values) == 1 else "{" + ",".join(values) + "}",
    "raw": lambda values: ",".join(values),
    "csv": lambda values: ",".join(values),
    "sqlstring": lambda values: ",".join(sql_string(value) for value in values),
    "singlequote": lambda values: ",".join("'" + value.replace("'", "\\'") + "'" for value in values),
}


def _instant(at: datetime) -> str:
    return from_us(to_us(at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _time_filter(arguments: list[str], scope: Scope) -> str:
    return f"{arguments[0]} BETWEEN '{_instant(scope.from_at)}' AND '{_instant(scope.to_at)}'"


def _time_group(arguments: list[str], scope: Scope) -> str:
    seconds = interval_seconds(arguments[1])
    if scope.timescale:
        return f"time_bucket('{seconds:.3f}s',{arguments[0]})"
    return f"floor(extract(epoch from {arguments[0]})/{seconds:g})*{seconds:g}"


@dataclass(frozen=True, slots=True)
class Macro:
    """One macro: how many arguments it needs, and what it becomes."""

    arguments: int
    expand: Callable[[list[str], Scope], str]


MACROS: Mapping[str, Macro] = {
    "__time": Macro(1, lambda a, _: f'{a[0]} AS "time"'),
    "__timeEpoch": Macro(1, lambda a, _: f'extract(epoch from {a[0]}) as "time"'),
    "__timeFilter": Macro(1, _time_filter),
    "__timeFrom": Macro(0, lambda _, scope: f"'{_instant(scope.from_at)}'"),
    "__timeTo": Macro(0, lambda _, scope: f"'{_instant(scope.to_at)}'"),
    "__timeGroup": Macro(2, _time_group),
    "__timeGroupAlias": Macro(2, lambda a, scope: _time_group(a, scope) + ' AS "time"'),
    "__unixEpochFilter": Macro(
        1, lambda a, scope: f"{a[0]} >= {int(scope.from_at.timestamp())} AND {a[0]} <= {int(scope.to_at.timestamp())}"
    ),
}


def expand(sql: str, scope: Scope) -> str:
    """Return `sql` as Grafana would send it to the database.

    Parameters
    ----------
    sql : str
        With macros and template variables.
    scope : Scope
        Time range and variables.

    Raises
    ------
    MacroError
        For a macro or variable that does not exist, an unknown format, too few arguments, or no chosen value.

    Notes
    -----
    Variables first, then macros, as Grafana does: an interval variable may stand inside a macro's arguments.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> scope = Scope(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC), {"zone": ["z1", "z2"]})
    >>> expand("zone_id IN (${zone:sqlstring})", scope)
    "zone_id IN ('z1','z2')"
    >>> expand("$__timeGroupAlias(at, $__interval)", scope)
    'floor(extract(epoch from at)/120)*120 AS "time"'
    """
    return MACRO.sub(lambda match: _macro(match, scope), VARIABLE.sub(lambda match: _variable(match, scope), sql))


def _variable(match: re.Match[str], scope: Scope) -> str:
    name, form = match["braced"] or match["plain"], match["format"] or ""
    builtin = {"__interval": interval_text(scope.interval_s), "__interval_ms": f"{scope.interval_s * 1000:.0f}"}
    if name in builtin:
        return builtin[name]
    if name.startswith("__") and match.string[match.end() : match.end() + 1] == "(":
        return match[0]  # a macro
    values = scope.variables.get(name)
    if not values:
        raise MacroError(f"variable '{name}' must have a value, got {values!r}; known: {', '.join(sorted(scope.variables)) or 'none'}")
    if form not in FORMATS:
        raise MacroError(f"variable '{name}' must be written in one of the formats {', '.join(filter(None, FORMATS))}, got {form!r}")
    return FORMATS[form](values)


def _macro(match: re.Match[str], scope: Scope) -> str:
    macro = MACROS.get(match[1])
    arguments = [part.strip() for part in match[2].split(",")] if match[2].strip() else []
    if macro is None:
        raise MacroError(f"a macro must be one of {', '.join('$' + name for name in MACROS)}, got '${match[1]}'")
    if len(arguments) < macro.arguments:
        raise MacroError(f"'${match[1]}' needs {macro.arguments} arguments, got {match[0]!r}")
    return macro.expand(arguments, scope)
