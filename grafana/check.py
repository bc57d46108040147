"""Run every SQL query of the dashboards against a real database, as Grafana would, and say which panel would show nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg

from grafana.dashboards import render
from grafana.macros import MacroError, Scope, expand, interval_seconds
from grafana.panels import MAY_BE_EMPTY

STATEMENT_TIMEOUT_MS = 30_000
REPEATS_MAX = 12
LONG_FORMAT_COLUMN = "metric"


@dataclass(frozen=True, slots=True)
class PanelResult:
    """What one query of one panel gave.

    Attributes
    ----------
    title : str
        Title of the panel; a repeated panel has its value in it, annotations are called ``annotations``.
    ref_id : str
        Which of the panel's queries.
    rows : int
        Number of rows.
    columns : tuple of str
        Names of the returned columns, in order.
    error : str or None
        Why the panel would fail: the database's message, a macro that does not exist, a configured column that is not there.
    empty_means : str
        What no rows mean; empty text when the query must return rows.
    """

    title: str
    ref_id: str
    rows: int
    columns: tuple[str, ...]
    error: str | None
    empty_means: str = ""

    @property
    def ok(self) -> bool:
        """Return whether a person would see what the panel promises."""
        return self.error is None and (self.rows > 0 or bool(self.empty_means))


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a dashboard with what its panel expects of the result."""

    title: str
    ref_id: str
    sql: str
    form: str
    interval_s_min: float
    repeat: str | None
    named: tuple[str, ...]
    empty_means: str


def queries(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    """Yield every SQL query of a dashboard: variables first, then panels, then annotations."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield Query(f"variable {variable['name']}", "", variable["query"], "table", 1, None, ("__value", "__text"), "")
    for panel in dashboard["panels"]:
        for target in panel.get("targets") or []:
            if "rawSql" not in target:  # one of Prometheus
                continue
            empty_means = panel["fieldConfig"]["defaults"].get("noValue") or MAY_BE_EMPTY.get((panel["title"], target["refId"]), "")
            minimum = interval_seconds(panel["interval"]) if panel.get("interval") else 1
            named = named_columns(panel, target["refId"])
            yield Query(
                panel["title"], target["refId"], target["rawSql"], target["format"], minimum, panel.get("repeat"), named, empty_means
            )
    for annotation in dashboard["annotations"]["list"]:
        empty_means = MAY_BE_EMPTY.get(("annotations", annotation["name"]), "")
        yield Query("annotations", annotation["name"], annotation["target"]["rawSql"], "table", 1, None, ("time", "text"), empty_means)


def named_columns(panel: Mapping[str, Any], ref_id: str) -> tuple[str, ...]:
    """Return the columns that a panel's options and overrides name, as far as they concern one of its queries."""
    options, names = panel.get("options") or {}, set()
    for layer in options.get("layers", []):
        if not _matches(layer["filterData"]["options"], ref_id):
            continue
        if layer["type"] == "network" and ref_id == "edges":
            names |= {"source", "target", *_fields(layer["config"]["edgeStyle"])}
            continue
        names |= {layer["location"]["longitude"], layer["location"]["latitude"], *_fields(layer["config"]["style"])}
        if layer["type"] == "network":
            names.add("id")
    if panel["type"] != "geomap":
        names |= {options[key] for key in ("xField", "colorByField") if options.get(key)}
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["id"] == "byName":
                names.add(override["matcher"]["options"])
            names |= {p["value"] for p in override["properties"] if p["id"] == "custom.fillBelowTo"}
    return tuple(sorted(names))


def _fields(style: Mapping[str, Any]) -> set[str]:
    return {part["field"] for part in style.values() if isinstance(part, dict) and part.get("field")}


def _matches(pattern: str, ref_id: str) -> bool:
    return ref_id in pattern.strip("/^$()").split("|")


def check_panels(
    conn: psycopg.Connection[Any],
    from_at: datetime,
    to_at: datetime,
    *,
    dashboards: Mapping[str, Mapping[str, Any]] | None = None,
    timescale: bool | None = None,
) -> list[PanelResult]:
    """Return the result of every query of every dashboard over a time range.

    Parameters
    ----------
    conn : psycopg.Connection
        To a migrated database; nothing is written, a transaction under way is left as it was.
    from_at, to_at : datetime
        Time range of the dashboard, aware.
    dashboards : mapping, optional
        File name -> dashboard JSON; default all that `render` gives.
    timescale : bool, optional
        Expand time groups with ``time_bucket``; default: when the database has the extension.

    Returns
    -------
    list of PanelResult
        One a query; a repeated panel gives one for each of its first `REPEATS_MAX` values.
    """
    if timescale is None:
        timescale = conn.execute("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')").fetchone() == (True,)
    results = []
    for dashboard in (render() if dashboards is None else dashboards).values():
        variables = _variables(conn, dashboard)
        for query in queries(dashboard):
            for title, chosen in _repeats(query, variables):
                results.append(_run(conn, query, title, Scope(from_at, to_at, chosen, timescale, query.interval_s_min)))
    return results


def _variables(conn: psycopg.Connection[Any], dashboard: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    values: dict[str, Sequence[str]] = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            with conn.transaction(force_rollback=True):
                values[variable["name"]] = [str(row[0]) for row in conn.execute(variable["query"])]
        else:
            current = variable["current"]["value"]
            values[variable["name"]] = [current] if isinstance(current, str) else list(current)
    return values


def _repeats(query: Query, variables: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Mapping[str, Sequence[str]]]]:
    if query.repeat is None:
        yield query.title, variables
        return
    for one in variables.get(query.repeat, [])[:REPEATS_MAX] or [""]:
        yield query.title.replace(f"${query.repeat}", one), {**variables, query.repeat: [one]}


def _run(conn: psycopg.Connection[Any], query: Query, title: str, scope: Scope) -> PanelResult:
    rows = 0
    columns: tuple[str, ...] = ()
    error: str | None = None
    try:
        sql = expand(query.sql, scope)
        with conn.transaction(force_rollback=True):
            conn.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")
            cursor = conn.execute(sql.encode())
            rows, columns = cursor.rowcount, tuple(column.name for column in cursor.description or ())
            fetched = cursor.fetchall()
        error = _shape_error(query, columns, fetched)
    except psycopg.Error as problem:
        error = str(problem).strip().splitlines()[0]
    except MacroError as problem:
        error = str(problem)
    return PanelResult(title, query.ref_id, rows, columns, error, query.empty_means)


def _shape_error(query: Query, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str | None:
    if len(set(columns)) < len(columns):
        return f"the columns must have different names, got {list(columns)!r}"
    if query.form == "time_series":
        if "time" not in columns:
            return f"a time series must have a column 'time', got {list(columns)!r}"
        at = [row[columns.index("time")] for row in rows]
        if any(later < earlier for earlier, later in pairwise(at)):
            return "a time series must be ordered by time"
        if LONG_FORMAT_COLUMN in columns:
            return None  # the overrides name values of 'metric', not columns
    missing = [name for name in query.named if name not in columns]
    if missing:
        return f"the panel names columns that its query does not return: {', '.join(missing)}; it returns {', '.join(columns)}"
    return None
