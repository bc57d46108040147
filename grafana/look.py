"""Colours, value mappings and small builders that every panel shares.

The colours follow the idea of ISA-101: greys for what is normal, colour only for what needs a person, the same colour for the
same priority everywhere. They are readable on Grafana's light and dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

DATASOURCE_TYPE = "grafana-postgresql-datasource"
DATASOURCE_UID = "underway-postgres"
DATASOURCE_NAME = "underway"
PROMETHEUS_TYPE = "prometheus"
PROMETHEUS_UID = "underway-prometheus"
PROMETHEUS_NAME = "underway metrics"
PROMETHEUS_VARIABLE = "prometheus"

URGENT = "#C0392B"
HIGH = "#D08A1D"
MEDIUM = "#B7A03A"
LOW = "#6B87A3"
QUIET = "#8A9099"
OBSERVED = "#5E7488"
EXPECTED = "#A3A9AF"
BAND = "#A3A9AF"

PRIORITY_COLOR: Mapping[str, str] = {"urgent": URGENT, "high": HIGH, "medium": MEDIUM, "low": LOW, "journal": QUIET}
ALARM_STATE_TEXT: Mapping[str, tuple[str, str]] = {
    "UNACK": ("not acknowledged", HIGH),
    "ACKED": ("acknowledged", QUIET),
    "RTNUN": ("gone, not acknowledged", LOW),
    "NORM": ("normal", QUIET),
    "SHLVD": ("shelved", QUIET),
    "DSUPR": ("suppressed by design", QUIET),
    "OOSRV": ("out of service", QUIET),
}
SLA_STATE_COLOR: Mapping[str, str] = {"RUNNING": QUIET, "PAUSED": LOW, "MET": QUIET, "BREACHED": URGENT}
OUTCOME_COLOR: Mapping[str, str] = {"PASS": QUIET, "FAIL": HIGH, "INCONCLUSIVE": MEDIUM, "WAIVED": LOW, "PENDING": QUIET}


class SqlQuery(Dataquery):
    """One SQL query of a panel, in the shape that Grafana's PostgreSQL data source stores."""

    def __init__(self, ref_id: str, sql: str, form: str) -> None:
        self.ref_id, self.sql, self.form = ref_id, sql, form

    def to_json(self) -> dict[str, object]:
        """Return the target as Grafana stores it."""
        return {
            "refId": self.ref_id,
            "datasource": datasource(),
            "editorMode": "code",
            "format": self.form,
            "rawQuery": True,
            "rawSql": self.sql,
        }


class Sql(Builder[Dataquery]):
    """Builder of one `SqlQuery`.

    Parameters
    ----------
    sql : str
        PostgreSQL with Grafana's macros and variables; runs on plain PostgreSQL and on TimescaleDB.
    ref_id : str
        Name of the query inside its panel.
    form : str
        ``table`` or ``time_series``; a time series needs a rising column ``time``, and may have a text column ``metric``.
    """

    def __init__(self, sql: str, ref_id: str = "A", form: str = "table") -> None:
        self._query = SqlQuery(ref_id, "\n".join(line.rstrip() for line in sql.strip().splitlines()), form)

    def build(self) -> SqlQuery:
        """Return the query."""
        return self._query


class PromQuery(Dataquery):
    """One PromQL query of a panel, in the shape that Grafana's Prometheus data source stores."""

    def __init__(self, ref_id: str, expr: str, legend_format: str, *, now: bool) -> None:
        self.ref_id, self.expr, self.legend_format, self.now = ref_id, expr, legend_format, now

    def to_json(self) -> dict[str, object]:
        """Return the target as Grafana stores it."""
        return {
            "refId": self.ref_id,
            "datasource": prometheus(),
            "editorMode": "code",
            "expr": self.expr,
            "legendFormat": self.legend_format,
            "instant": self.now,
            "range": not self.now,
        }


class Prom(Builder[Dataquery]):
    """Builder of one `PromQuery`.

    Parameters
    ----------
    expr : str
        PromQL; may use ``$__rate_interval``.
    legend_format : str
        Name of each series; ``{{label}}`` stands for the value of a label.
    ref_id : str
        Name of the query inside its panel.
    now : bool
        Only the newest value, for a panel that shows one number.
    """

    def __init__(self, expr: str, legend_format: str, ref_id: str = "A", *, now: bool = False) -> None:
        self._query = PromQuery(ref_id, " ".join(expr.split()), legend_format, now=now)

    def build(self) -> PromQuery:
        """Return the query."""
        return self._query


def prometheus() -> models.DataSourceRef:
    """Return the reference to the Prometheus that the dashboard's variable names."""
    return models.DataSourceRef(type_val=PROMETHEUS_TYPE, uid=f"${{{PROMETHEUS_VARIABLE}}}")


def datasource() -> models.DataSourceRef:
    """Return the reference to the provisioned data source."""
    return models.DataSourceRef(type_val=DATASOURCE_TYPE, uid=DATASOURCE_UID)


def value(name: str, content: object) -> models.DynamicConfigValue:
    """Return one property of a field override."""
    return models.DynamicConfigValue(id_val=name, value=content)


def fixed_color(color: str) -> models.DynamicConfigValue:
    """Return the override that gives a field one colour."""
    return value("color", {"mode": "fixed", "fixedColor": color})


def text_map(texts: Mapping[str, tuple[str, str]]) -> models.ValueMap:
    """Return a value mapping: stored word -> (shown text, colour)."""
    return models.ValueMap(
        options={
            word: models.ValueMappingResult(text=shown, color=color, index=n) for n, (word, (shown, color)) in enumerate(texts.items())
        }
    )


def colored(colors: Mapping[str, str]) -> list[models.DynamicConfigValue]:
    """Return the properties of a table column whose words have colours; the word itself is shown."""
    return colored_text({word: (word, color) for word, color in colors.items()})


def colored_text(texts: Mapping[str, tuple[str, str]]) -> list[models.DynamicConfigValue]:
    """Return the properties of a table column whose words are shown as other words, in colour."""
    return [value("mappings", [text_map(texts)]), value("custom.cellOptions", {"type": "color-text"})]


def steps(*limits: tuple[float | None, str]) -> dashboard_builders.ThresholdsConfig:
    """Return absolute thresholds; the first limit is None (from minus infinity)."""
    return (
        dashboard_builders.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=limit, color=color) for limit, color in limits])
    )


def steps_value(*limits: tuple[float | None, str]) -> models.DynamicConfigValue:
    """Return thresholds as a property of a field override."""
    return value("thresholds", {"mode": "absolute", "steps": [{"value": limit, "color": color} for limit, color in limits]})


def by_threshold() -> dashboard_builders.FieldColor:
    """Return the colour mode in which the thresholds decide."""
    return dashboard_builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)


def all_rows() -> common_builders.ReduceDataOptions:
    """Return the reduction that shows the last value of each column."""
    return common_builders.ReduceDataOptions().values(False).calcs(["lastNotNull"]).fields("")


def legend(placement: common.LegendPlacement = common.LegendPlacement.BOTTOM) -> common_builders.VizLegendOptions:
    """Return a legend without numbers."""
    return common_builders.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST).placement(placement).calcs([])


def tooltip() -> common_builders.VizTooltipOptions:
    """Return a tooltip with all series of the instant, largest first."""
    return common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)


def columns(widths: Mapping[str, int]) -> Sequence[tuple[str, list[models.DynamicConfigValue]]]:
    """Return overrides that fix the widths of table columns, in pixels."""
    return [(name, [value("custom.width", width)]) for name, width in widths.items()]
