"""The panels of the operations dashboard, each with its SQL and with a description that says what to do.

Every query reads the views ``board_*`` (migration 0007) or base tables, runs on plain PostgreSQL and on TimescaleDB, and bounds
its rows. A panel that may rightly be empty says what that means in its ``noValue`` text; a panel without one must show rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import barchart, geomap, stat, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import geomap as geomap_models

from grafana.look import (
    ALARM_STATE_TEXT,
    BAND,
    EXPECTED,
    HIGH,
    LOW,
    MEDIUM,
    OBSERVED,
    OUTCOME_COLOR,
    PRIORITY_COLOR,
    QUIET,
    SLA_STATE_COLOR,
    URGENT,
    Sql,
    all_rows,
    by_threshold,
    colored,
    colored_text,
    columns,
    datasource,
    fixed_color,
    legend,
    steps,
    steps_value,
    tooltip,
    value,
)

# queries that may rightly return no row although their panel has no noValue text: (title, ref id) -> what that means
MAY_BE_EMPTY: Mapping[tuple[str, str], str] = {
    ("Where", "alarms"): "no alarm is live",
    ("annotations", "alarms"): "no alarm was raised in this time",
    ("annotations", "orders"): "no order moved in this time",
}
# a tile that comes out of the dashboard itself (one transparent pixel): the map never asks a tile server
NO_TILE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def _stat(title: str, description: str, sql: str, unit: str = "short", decimals: int = 0) -> stat.Panel:
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(datasource())
        .with_target(Sql(sql))
        .height(4)
        .unit(unit)
        .decimals(decimals)
        .color_scheme(by_threshold())
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .justify_mode(common.BigValueJustifyMode.AUTO)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
        .orientation(common.VizOrientation.VERTICAL)
        .reduce_options(all_rows())
        .thresholds(steps((None, QUIET)))
    )


def _table(title: str, description: str, sql: str, widths: Mapping[str, int]) -> table.Panel:
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(datasource())
        .with_target(Sql(sql))
        .height(10)
        .show_header(True)
        .cell_height(common.TableCellHeight.SM)
        .thresholds(steps((None, QUIET)))
    )
    for name, properties in columns(widths):
        panel = panel.override_by_name(name, properties)
    return panel


def _link(base_url: str, number: str) -> models.DynamicConfigValue:
    url = f"{base_url.rstrip('/')}/#order-${{__data.fields.{number}}}"
    return value("links", [{"title": "open the order in underway", "url": url, "targetBlank": True}])


def _lines(title: str, description: str, sql: str, unit: str, form: str = "time_series") -> timeseries.Panel:
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(datasource())
        .with_target(Sql(sql, form=form))
        .height(8)
        .unit(unit)
        .line_width(1)
        .fill_opacity(0)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(legend())
        .tooltip(tooltip())
        .thresholds(steps((None, QUIET)))
    )


# ------------------------------------------------------------------------------------------------------------- now


def alarms_now() -> stat.Panel:
    """Return how many live alarms wait for an acknowledgement, and of which priority the live ones are."""
    panel = _stat(
        "Alarms now",
        "Live alarms. Anything but zero under 'to acknowledge' needs a person now: acknowledge it in underway, most urgent first.",
        """
SELECT count(*) FILTER (WHERE state IN ('UNACK', 'RTNUN')) AS "to acknowledge",
       count(*) FILTER (WHERE rank = 4) AS "urgent",
       count(*) FILTER (WHERE rank = 3) AS "high",
       count(*) FILTER (WHERE rank = 2) AS "medium",
       count(*) FILTER (WHERE rank = 1) AS "low",
       count(*) FILTER (WHERE state IN ('SHLVD', 'DSUPR', 'OOSRV')) AS "suppressed"
FROM board_alarm WHERE closed_at IS NULL
""",
    ).span(9)
    for name, color in {"to acknowledge": HIGH, "urgent": URGENT, "high": HIGH, "medium": MEDIUM, "low": LOW}.items():
        panel = panel.override_by_name(name, [steps_value((None, QUIET), (1, color))])
    return panel


def orders_now() -> stat.Panel:
    """Return how many orders are open, waiting, in verification, or ask for a review."""
    return (
        _stat(
            "Orders now",
            "Open orders. 'No crew' and 'to review' need a dispatcher: assign a crew, or decide which of two conflicting reports holds.",
            """
SELECT count(*) AS "open",
       count(*) FILTER (WHERE crew_id IS NULL AND state IN ('NEW', 'APPROVED', 'SCHEDULED')) AS "no crew",
       count(*) FILTER (WHERE state = 'WAITING') AS "waiting",
       count(*) FILTER (WHERE state IN ('DONE', 'VERIFYING')) AS "verifying"
FROM work_order WHERE state NOT IN ('CLOSED', 'CANCELLED')
""",
        )
        .span(6)
        .override_by_name("no crew", [steps_value((None, QUIET), (1, HIGH))])
        .override_by_name("waiting", [steps_value((None, QUIET), (1, MEDIUM))])
    )


def clocks_now() -> stat.Panel:
    """Return how many service clocks of open orders are late or nearly so."""
    return (
        _stat(
            "Clocks now",
            "Clocks of open orders. 'Soon late' has used 80 % of its time: call the crew. 'Late' is breached: tell the supervisor.",
            """
SELECT count(*) FILTER (WHERE state = 'RUNNING' AND used >= 0.8) AS "soon late",
       count(*) FILTER (WHERE state = 'BREACHED') AS "late"
FROM board_sla WHERE order_state NOT IN ('CLOSED', 'CANCELLED')
""",
        )
        .span(4)
        .override_by_name("soon late", [steps_value((None, QUIET), (1, HIGH))])
        .override_by_name("late", [steps_value((None, QUIET), (1, URGENT))])
    )


def data_now() -> stat.Panel:
    """Return how old the newest reading is, and how many channels are silent."""
    return (
        _stat(
            "Data now",
            "Age of the newest reading, and channels that missed three readings in a row. When both rise, look at the broker and at "
            "'Services' below; when only 'silent' rises, send someone to the devices. Silence never clears an alarm.",
            """
WITH newest AS (
    SELECT c.interval_s, (SELECT max(r.observed_at) FROM reading r WHERE r.channel_id = c.channel_id) AS at
    FROM channel c JOIN device d USING (device_id) WHERE d.status = 'active')
SELECT greatest(extract(epoch FROM board_now() - max(at)), 0)::double precision AS "newest reading",
       count(*) FILTER (WHERE at IS NULL OR at < board_now() - make_interval(secs => 3 * interval_s)) AS "silent channels",
       count(*) AS "channels"
FROM newest
""",
        )
        .span(5)
        .override_by_name("newest reading", [value("unit", "s"), steps_value((None, QUIET), (1_200, HIGH), (3_600, URGENT))])
        .override_by_name("silent channels", [steps_value((None, QUIET), (1, HIGH))])
    )


# ----------------------------------------------------------------------------------------------------------- where

SEGMENTS = """
WITH suspect AS (
    SELECT c ->> 'asset_id' AS asset_id, max(board_rank(a.priority)) AS rank
    FROM alarm a CROSS JOIN jsonb_array_elements(coalesce(a.evidence -> 'candidates', '[]')) c
    WHERE a.closed_at IS NULL AND (c ->> 'probability')::double precision >= 0.05 GROUP BY 1)
SELECT s.asset_id || '/' || s.n AS "id", s.longitude || ' ' || s.latitude AS "source", s.to_longitude || ' ' || s.to_latitude AS "target",
       s.name AS "asset", s.asset_class AS "class", coalesce(p.rank, 0) AS "rank"
FROM board_segment s LEFT JOIN suspect p USING (asset_id) ORDER BY coalesce(p.rank, 0) DESC, 1 LIMIT 6000
"""

VERTICES = """
SELECT longitude || ' ' || latitude AS "id", longitude::double precision AS "longitude", latitude::double precision AS "latitude"
FROM (SELECT longitude, latitude FROM board_segment UNION SELECT to_longitude, to_latitude FROM board_segment) v ORDER BY 1 LIMIT 12000
"""

PLACES = """
SELECT p[1] AS "longitude", p[2] AS "latitude", name AS "name", what AS "what", zone AS "zone" FROM (
    SELECT board_point(coalesce(d.geometry, a.geometry)) AS p, d.device_id AS name, 'device ' || d.model AS what, d.zone_id AS zone
    FROM device d LEFT JOIN asset a USING (asset_id) WHERE d.status = 'active'
    UNION ALL
    SELECT board_point(geometry), name, asset_class, zone_id FROM asset WHERE asset_class NOT IN ('pipe', 'road_section', 'network', 'junction')
) places WHERE p IS NOT NULL ORDER BY 3 LIMIT 4000
"""

CREWS = """
SELECT c.longitude_deg AS "longitude", c.latitude_deg AS "latitude", c.name AS "crew", o.work_order AS "order", o.state AS "state"
FROM crew c LEFT JOIN LATERAL (SELECT b.work_order, b.state FROM board_order b WHERE b.crew = c.name AND b.state NOT IN ('CLOSED', 'CANCELLED')
                               ORDER BY b.order_id DESC LIMIT 1) o ON true
ORDER BY 3 LIMIT 500
"""

ALARM_PLACES = """
SELECT point[1] AS "longitude", point[2] AS "latitude", rank AS "rank", priority AS "priority", alarm_type AS "what", asset AS "asset",
       zone AS "zone", evidence AS "evidence", occurred_at AS "since", work_order AS "order", crew AS "crew"
FROM board_alarm WHERE closed_at IS NULL AND point IS NOT NULL ORDER BY rank, alarm_id LIMIT 200
"""


def _layer(kind: str, name: str, refs: Sequence[str], config: Mapping[str, object], opacity: int = 1) -> common_builders.MapLayerOptions:
    pattern = refs[0] if len(refs) == 1 else "/^(" + "|".join(refs) + ")$/"
    return (
        common_builders.MapLayerOptions()
        .type(kind)
        .name(name)
        .config(dict(config))
        .location(
            common_builders.FrameGeometrySource().mode(common.FrameGeometrySourceMode.COORDS).longitude("longitude").latitude("latitude")
        )
        .filter_data({"id": "byRefId", "options": pattern})
        .opacity(opacity)
        .tooltip(True)
    )


def _style(color: Mapping[str, object], size: float, symbol: str = "circle", label: str = "") -> dict[str, object]:
    style: dict[str, object] = {
        "color": dict(color),
        "opacity": 0.9,
        "size": {"fixed": size, "min": 2, "max": 15},
        "symbol": {"mode": "fixed", "fixed": f"img/icons/marker/{symbol}.svg"},
        "symbolAlign": {"horizontal": "center", "vertical": "center"},
        "rotation": {"mode": "mod", "fixed": 0, "min": -360, "max": 360},
        "textConfig": {"fontSize": 11, "offsetX": 0, "offsetY": -14, "textAlign": "center", "textBaseline": "middle"},
    }
    if label:
        style["text"] = {"mode": "field", "field": label, "fixed": ""}
    return style


def town_map() -> geomap.Panel:
    """Return the map: mains and roads, devices, crews, and on top the live alarms; it needs no tile server."""
    panel = (
        geomap.Panel()
        .title("Where")
        .description(
            "Mains and roads in grey, coloured where a live alarm suspects them; squares are crews, small dots devices. "
            "A coloured marker is a live alarm: point at it to read the evidence, then see the list on the right for who is on it. "
            "At most 6,000 segments are drawn, suspected mains first."
        )
        .datasource(datasource())
        .height(15)
        .span(9)
        .with_target(Sql(VERTICES, "nodes"))
        .with_target(Sql(SEGMENTS, "edges"))
        .with_target(Sql(PLACES, "places"))
        .with_target(Sql(CREWS, "crews"))
        .with_target(Sql(ALARM_PLACES, "alarms"))
        .view(geomap.MapViewConfig().id(geomap_models.MapCenterID.FIT).all_layers(True).padding(8).zoom(15).max_zoom(19))
        .controls(geomap.ControlsOptions().show_zoom(True).mouse_wheel_zoom(False).show_attribution(False).show_scale(True))
        .tooltip(geomap.TooltipOptions().mode(geomap_models.TooltipMode.DETAILS))
        .basemap(common_builders.MapLayerOptions().type("xyz").name("no tiles").config({"url": NO_TILE, "attribution": ""}))
        .color_scheme(by_threshold())
        .thresholds(steps((None, QUIET), (1, LOW), (2, MEDIUM), (3, HIGH), (4, URGENT)))
    )
    grey = {"fixed": QUIET}
    by_rank = {"field": "rank", "fixed": QUIET}
    return panel.layers(
        [
            _layer(
                "network",
                "mains and roads",
                ["nodes", "edges"],
                {"style": _style(grey, 1), "edgeStyle": _style(by_rank, 2), "showLegend": False, "arrow": 0},
            ),
            _layer("markers", "devices and structures", ["places"], {"style": _style(grey, 3), "showLegend": False}),
            _layer("markers", "crews", ["crews"], {"style": _style({"fixed": OBSERVED}, 7, "square", "crew"), "showLegend": False}),
            _layer("markers", "alarms", ["alarms"], {"style": _style(by_rank, 9, "circle", "what"), "showLegend": False}),
        ]
    )


def alarm_list(base_url: str) -> table.Panel:
    """Return the list of live alarms, most urgent first."""
    return (
        _table(
            "Active alarms",
            "Work from the top. State says whether someone has seen it, Evidence why the detector speaks, Who is on it. "
            "An alarm without an order and without a crew after its time to respond (urgent 15 min, high 1 h) is the first thing to fix. "
            "'Evidence stale' means the data stopped: the alarm stays, silence is not recovery.",
            """
SELECT state AS "State", priority AS "Priority", alarm_type AS "What", asset AS "Asset", zone AS "Zone", occurred_at AS "Since",
       extract(epoch FROM board_now() - occurred_at)::double precision AS "Age", evidence AS "Evidence", work_order AS "Order",
       order_state AS "Order state", crew AS "Who", evidence_stale_since AS "Evidence stale since", alarm_id AS "Alarm", order_id AS "Number"
FROM board_alarm WHERE closed_at IS NULL
ORDER BY (state IN ('SHLVD', 'DSUPR', 'OOSRV')), rank DESC, (state = 'ACKED'), occurred_at, alarm_id LIMIT 200
""",
            {
                "State": 150,
                "Priority": 75,
                "What": 130,
                "Asset": 130,
                "Zone": 110,
                "Since": 150,
                "Age": 75,
                "Evidence": 420,
                "Order": 90,
                "Order state": 110,
                "Who": 110,
            },
        )
        .height(15)
        .span(15)
        .no_value("no alarm is live")
        .override_by_name("State", colored_text(ALARM_STATE_TEXT))
        .override_by_name("Priority", colored(PRIORITY_COLOR))
        .override_by_name("Age", [value("unit", "s"), value("decimals", 0)])
        .override_by_name("Evidence", [value("custom.cellOptions", {"type": "auto", "wrapText": True})])
        .override_by_name("Alarm", [value("custom.hidden", True)])
        .override_by_name("Order", [_link(base_url, "Number")])
        .override_by_name("Number", [value("custom.hidden", True)])
        .override_by_name("What", [value("links", [{"title": "open underway", "url": base_url, "targetBlank": True}])])
    )


# ----------------------------------------------------------------------------------------------------------- water


def zone_inflow() -> timeseries.Panel:
    """Return the inflow of one zone with its expected band; repeated for every chosen zone."""
    band = {"custom.lineWidth": 0, "custom.hideFrom": {"legend": True, "tooltip": False, "viz": False}}
    return (
        _lines(
            "Inflow, $zone",
            "Net inflow against what the detector expects; the band is the expectation ± $band sigma. Amber points lie outside. "
            "A night that stays above the band is a leak until someone proves otherwise: look for the alarm, then at pressure.",
            """
SELECT $__timeGroupAlias(e.at, $__interval), avg(e.observed) AS "observed", avg(e.expected) AS "expected",
       avg(e.expected - ${band} * e.sigma) AS "band low", avg(e.expected + ${band} * e.sigma) AS "band high",
       avg(e.observed) FILTER (WHERE abs(e.observed - e.expected) > ${band} * e.sigma) AS "outside"
FROM expectation e JOIN signal s USING (signal_id)
WHERE s.name LIKE 'zone/%/inflow' AND s.zone_id IN (${zone:sqlstring}) AND $__timeFilter(e.at) GROUP BY 1 ORDER BY 1
""",
            "m3/h",
        )
        .interval("1m")
        .repeat("zone")
        .repeat_direction("h")
        .max_per_row(3)
        .span(8)
        .axis_soft_min(0)
        .override_by_name("observed", [fixed_color(OBSERVED), value("custom.lineWidth", 2)])
        .override_by_name(
            "expected", [fixed_color(EXPECTED), value("custom.lineStyle", {"fill": "dash", "dash": [6, 4]}), value("custom.lineWidth", 1)]
        )
        .override_by_name("band low", [fixed_color(BAND), *(value(name, content) for name, content in band.items())])
        .override_by_name(
            "band high",
            [
                fixed_color(BAND),
                value("custom.fillBelowTo", "band low"),
                value("custom.fillOpacity", 18),
                *(value(name, content) for name, content in band.items()),
            ],
        )
        .override_by_name(
            "outside",
            [
                fixed_color(HIGH),
                value("custom.drawStyle", "points"),
                value("custom.showPoints", "always"),
                value("custom.pointSize", 4),
            ],
        )
    )


def pressure_residuals() -> timeseries.Panel:
    """Return observed minus expected pressure of the chosen zones' sensors, in sigma."""
    return (
        _lines(
            "Pressure residuals",
            "Observed minus expected pressure, in sigma of each sensor. Near a burst several sensors of one zone fall together and stay down; "
            "one sensor alone is more likely the sensor. Below -3 for an hour: check the zone's inflow.",
            """
SELECT $__timeGroupAlias(e.at, $__interval), coalesce(a.name, s.asset_id) AS "metric", avg((e.observed - e.expected) / nullif(e.sigma, 0)) AS "sigmas"
FROM expectation e JOIN signal s USING (signal_id) LEFT JOIN asset a USING (asset_id)
WHERE s.name LIKE 'asset/%/pressure' AND s.zone_id IN (${zone:sqlstring}) AND $__timeFilter(e.at) GROUP BY 1, 2 ORDER BY 1, 2
""",
            "short",
        )
        .interval("1m")
        .span(12)
        .height(9)
        .decimals(1)
        .thresholds(steps((None, "transparent"), (-3, LOW), (3, LOW)))
        .thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    )


def pressure_now() -> table.Panel:
    """Return the sensors whose pressure is lowest against the expectation now."""
    return (
        _table(
            "Pressure now, largest fall first",
            "The newest value of every pressure sensor against its expectation. Start looking near the sensors on top.",
            """
SELECT coalesce(a.name, s.asset_id) AS "Sensor at", coalesce(z.name, s.zone_id) AS "Zone", e.at AS "At", e.observed AS "Observed",
       e.expected AS "Expected", e.observed - e.expected AS "Residual", (e.observed - e.expected) / nullif(e.sigma, 0) AS "Sigmas"
FROM signal s
CROSS JOIN LATERAL (SELECT at, observed, expected, sigma FROM expectation x WHERE x.signal_id = s.signal_id AND x.at <= $__timeTo()
                    ORDER BY x.at DESC LIMIT 1) e
LEFT JOIN asset a USING (asset_id) LEFT JOIN zone z ON z.zone_id = s.zone_id
WHERE s.name LIKE 'asset/%/pressure' AND s.zone_id IN (${zone:sqlstring}) ORDER BY 7 NULLS LAST, 1 LIMIT 20
""",
            {"At": 150},
        )
        .span(6)
        .height(9)
        .override_by_name("Observed", [value("unit", "pressurekpa"), value("decimals", 1)])
        .override_by_name("Expected", [value("unit", "pressurekpa"), value("decimals", 1)])
        .override_by_name("Residual", [value("unit", "pressurekpa"), value("decimals", 1)])
        .override_by_name(
            "Sigmas",
            [
                value("decimals", 1),
                value("custom.cellOptions", {"type": "color-text"}),
                steps_value((None, HIGH), (-3, QUIET), (3, LOW)),
            ],
        )
    )


def night_flow() -> barchart.Panel:
    """Return last night's minimum flow of every zone, against its baseline."""
    return (
        barchart.Panel()
        .title("Night flow, last night")
        .description(
            "Flow between the night hours, when people sleep and leaks do not. What stands above 'expected' is water lost: "
            "one zone rising slowly over weeks is background leakage and wants a planned search."
        )
        .datasource(datasource())
        .with_target(
            Sql(
                """
SELECT coalesce(z.name, s.zone_id) AS "zone", e.observed AS "observed", e.expected AS "expected"
FROM signal s
CROSS JOIN LATERAL (SELECT at, observed, expected FROM expectation x WHERE x.signal_id = s.signal_id AND x.at <= $__timeTo()
                    ORDER BY x.at DESC LIMIT 1) e
LEFT JOIN zone z ON z.zone_id = s.zone_id
WHERE s.name LIKE 'zone/%/night_flow' ORDER BY 1 LIMIT 50
"""
            )
        )
        .span(6)
        .height(9)
        .unit("m3/h")
        .decimals(1)
        .x_field("zone")
        .orientation(common.VizOrientation.HORIZONTAL)
        .show_value(common.VisibilityMode.AUTO)
        .legend(legend())
        .tooltip(tooltip())
        .fill_opacity(80)
        .override_by_name("observed", [fixed_color(OBSERVED)])
        .override_by_name("expected", [fixed_color(EXPECTED)])
    )


def road_deviations() -> timeseries.Panel:
    """Return how far roads, bridges and drains are from their baselines, in sigma."""
    return (
        _lines(
            "Roads, bridges and drains against their baselines",
            "Frequency of bridges (temperature taken out), roughness of road sections and level of drains, as deviation in sigma. "
            "A step that stays is a change of the structure or of the sensor; a slow drift is wear and goes into the plan.",
            """
SELECT $__timeGroupAlias(e.at, $__interval), coalesce(a.name, s.asset_id) || ' ' || split_part(s.name, '/', 3) AS "metric",
       avg((e.observed - e.expected) / nullif(e.sigma, 0)) AS "sigmas"
FROM expectation e JOIN signal s USING (signal_id) LEFT JOIN asset a USING (asset_id)
WHERE (s.name LIKE 'asset/%/frequency' OR s.name LIKE 'asset/%/roughness' OR s.name LIKE 'asset/%/level') AND $__timeFilter(e.at)
GROUP BY 1, 2 ORDER BY 1, 2
""",
            "short",
        )
        .interval("10m")
        .span(12)
        .height(9)
        .decimals(1)
        .span_nulls(True)
        .thresholds(steps((None, "transparent"), (-4, LOW), (4, LOW)))
        .thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    )


def finding_list() -> table.Panel:
    """Return what the detectors said in the time range."""
    return (
        _table(
            "Findings",
            "What detectors concluded in the time range, newest first. Score is the statistic over its threshold (1 is just enough). "
            "'Historical' findings rest on late data: they are dated and page nobody. No alarm followed? See the alarm's event log.",
            """
SELECT f.detected_at AS "Detected", f.phase AS "Phase", f.kind AS "What", coalesce(a.name, f.asset_id) AS "Asset", f.zone_id AS "Zone",
       f.onset_at AS "Onset", f.score AS "Score", f.historical AS "Historical", f.evidence ->> 'summary' AS "Evidence",
       f.detector || ' ' || f.detector_version AS "Detector"
FROM finding f LEFT JOIN asset a USING (asset_id)
WHERE $__timeFilter(f.detected_at) ORDER BY f.detected_at DESC, f.seq DESC LIMIT 200
""",
            {
                "Detected": 150,
                "Phase": 70,
                "What": 150,
                "Asset": 130,
                "Zone": 70,
                "Onset": 150,
                "Score": 65,
                "Historical": 85,
                "Detector": 150,
            },
        )
        .span(12)
        .height(9)
        .no_value("no detector spoke in this time")
        .override_by_name("Phase", colored({"raise": HIGH, "update": QUIET, "clear": LOW}))
        .override_by_name("Score", [value("decimals", 1)])
    )


# ------------------------------------------------------------------------------------------------------------ work


def order_list(base_url: str) -> table.Panel:
    """Return open and lately closed work orders with the progress of their verification."""
    return (
        _table(
            "Work orders",
            "Open orders, then those closed in the time range. An order closes only when the sensors agree: 'Verified' is the share of the excess "
            "that is gone. "
            "FAIL sends it back to the crew (rework). INCONCLUSIVE needs a supervisor: extend, or waive with a reason.",
            """
SELECT work_order AS "Order", priority AS "Priority", state AS "State", since_at AS "Since", title AS "Title", zone AS "Zone", crew AS "Who",
       due_at AS "Due", waiting_reason AS "Waits for", rework AS "Rework", outcome AS "Verdict",
       CASE WHEN outcome IN ('PASS', 'WAIVED') THEN 1
            WHEN state IN ('DONE', 'VERIFYING') THEN least(greatest(coalesce(1 -
                (abs((verification ->> 'residual')::double precision) - abs((verification ->> 'threshold')::double precision))
                / nullif(abs((verification ->> 'excess')::double precision) - abs((verification ->> 'threshold')::double precision), 0),
                0), 0), 1) END AS "Verified",
       coalesce(verification ->> 'sentence', since_reason) AS "Because", order_id AS "Number"
FROM board_order WHERE state NOT IN ('CLOSED', 'CANCELLED') OR $__timeFilter(closed_at)
ORDER BY (state IN ('CLOSED', 'CANCELLED')), rank DESC, created_at DESC, order_id DESC LIMIT 200
""",
            {
                "Order": 85,
                "Priority": 75,
                "State": 110,
                "Since": 150,
                "Title": 260,
                "Zone": 90,
                "Who": 110,
                "Due": 150,
                "Waits for": 95,
                "Rework": 65,
                "Verdict": 110,
                "Verified": 140,
            },
        )
        .span(16)
        .no_value("no order is open, and none was closed in this time")
        .override_by_name("Priority", colored(PRIORITY_COLOR))
        .override_by_name("Verdict", colored(OUTCOME_COLOR))
        .override_by_name("Rework", [value("custom.cellOptions", {"type": "color-text"}), steps_value((None, QUIET), (1, HIGH))])
        .override_by_name(
            "Verified",
            [
                value("unit", "percentunit"),
                value("min", 0),
                value("max", 1),
                value("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
                steps_value((None, LOW)),
            ],
        )
        .override_by_name("Number", [value("custom.hidden", True)])
        .override_by_name("Order", [_link(base_url, "Number")])
    )


def sla_list() -> table.Panel:
    """Return the service clocks, the one that is late soonest on top."""
    return (
        _table(
            "Service clocks",
            "How much of its time each clock has used; 100 % is late. Clocks start when the utility could have known (aware), "
            "not when the alarm rang. Only the listed reasons pause a clock.",
            """
SELECT work_order AS "Order", name AS "Clock", state AS "State", due_at AS "Due", used AS "Used", paused_s AS "Paused"
FROM board_sla WHERE order_state NOT IN ('CLOSED', 'CANCELLED') OR $__timeFilter(due_at)
ORDER BY (state IN ('MET')), used DESC NULLS LAST, order_id, name LIMIT 200
""",
            {"Order": 85, "Clock": 90, "State": 90, "Due": 150, "Paused": 75},
        )
        .span(8)
        .no_value("no clock runs")
        .override_by_name("State", colored(SLA_STATE_COLOR))
        .override_by_name("Paused", [value("unit", "s")])
        .override_by_name(
            "Used",
            [
                value("unit", "percentunit"),
                value("decimals", 0),
                value("min", 0),
                value("max", 1),
                value("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
                steps_value((None, QUIET), (0.5, LOW), (0.8, HIGH), (1, URGENT)),
            ],
        )
    )


def response_times() -> stat.Panel:
    """Return the times from onset to detection, acknowledgement and restoration, and the share of verified repairs."""
    return (
        _stat(
            "Response",
            "Medians over alarms and incidents of the time range: onset to detection, annunciation to acknowledgement, aware to restored; "
            "and the share of verdicts that are PASS. Detection slow? Look at findings. Acknowledgement slow? Look at alarm load.",
            """
SELECT (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM detected_at - occurred_at))
        FROM alarm WHERE $__timeFilter(raised_at))::double precision AS "to detect",
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM e.at - a.raised_at))
        FROM alarm a CROSS JOIN LATERAL (SELECT min(x.at) AS at FROM alarm_event x WHERE x.subject_id = a.alarm_id AND x.event = 'ack') e
        WHERE $__timeFilter(a.raised_at))::double precision AS "to acknowledge",
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM coalesce(restored_at, resolved_at) - aware_at))
        FROM incident WHERE $__timeFilter(aware_at))::double precision AS "to restore",
       (SELECT count(*) FILTER (WHERE outcome = 'PASS')::double precision / nullif(count(*), 0)
        FROM work_order WHERE outcome IN ('PASS', 'FAIL', 'INCONCLUSIVE', 'WAIVED') AND $__timeFilter(created_at)) AS "verified repairs",
       (SELECT count(*) FILTER (WHERE state = 'MET')::double precision / nullif(count(*), 0)
        FROM sla_clock WHERE state IN ('MET', 'BREACHED') AND $__timeFilter(started_at)) AS "clocks met"
""",
            unit="s",
            decimals=1,
        )
        .span(12)
        .override_by_name("verified repairs", [value("unit", "percentunit"), value("decimals", 0)])
        .override_by_name("clocks met", [value("unit", "percentunit"), value("decimals", 0)])
    )


def alarm_quality() -> stat.Panel:
    """Return the numbers by which ISA-18.2 judges an alarm system."""
    return (
        _stat(
            "Alarm load",
            "ISA-18.2: about 6 announced alarms an hour are acceptable, 12 manageable; more than 10 in 10 minutes is a flood; none should be "
            "stale (live for more than 24 h) or chatter. Above that, fix the top sources below before adding another detector.",
            """
WITH raised AS (
    SELECT e.at FROM alarm_event e JOIN alarm a ON a.alarm_id = e.subject_id
    WHERE e.to_state = 'UNACK' AND e.from_state <> 'UNACK' AND a.priority <> 'journal' AND $__timeFilter(e.at))
SELECT (SELECT count(*) FROM raised) / greatest(extract(epoch FROM $__timeTo()::timestamptz - $__timeFrom()::timestamptz) / 3600, 1)::double precision
           AS "announced an hour",
       (SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM raised GROUP BY floor(extract(epoch FROM at) / 600)) w) AS "most in 10 min",
       (SELECT count(*) FROM board_alarm WHERE closed_at IS NULL AND state IN ('UNACK', 'ACKED') AND raised_at < board_now() - interval '24 hours')
           AS "stale",
       (SELECT count(*) FROM alarm WHERE flaps >= 3 AND $__timeFilter(raised_at)) AS "chattering"
""",
        )
        .span(12)
        .override_by_name("announced an hour", [value("decimals", 1), steps_value((None, QUIET), (6, MEDIUM), (12, HIGH))])
        .override_by_name("most in 10 min", [steps_value((None, QUIET), (10, HIGH))])
        .override_by_name("stale", [steps_value((None, QUIET), (5, MEDIUM))])
        .override_by_name("chattering", [steps_value((None, QUIET), (1, MEDIUM))])
    )


def alarm_rate() -> timeseries.Panel:
    """Return alarms raised per hour by priority, as stacked bars."""
    panel = (
        _lines(
            "Alarms raised per hour",
            "Announced alarms by priority. A tall bar is a flood: look for the one cause (a main, a gateway, a storm) before working the list.",
            """
SELECT $__timeGroupAlias(raised_at, '1h'), priority AS "metric", count(*) AS "alarms"
FROM alarm WHERE $__timeFilter(raised_at) GROUP BY 1, 2 ORDER BY 1, 2
""",
            "short",
        )
        .span(8)
        .draw_style(common.GraphDrawStyle.BARS)
        .fill_opacity(70)
        .line_width(0)
        .decimals(0)
        .stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
        .no_value("no alarm was raised in this time")
    )
    for priority, color in PRIORITY_COLOR.items():
        panel = panel.override_by_name(priority, [fixed_color(color)])
    return panel


def alarm_sources() -> barchart.Panel:
    """Return the ten assets and types with most occurrences."""
    return (
        barchart.Panel()
        .title("Top ten sources")
        .description(
            "Where the alarms of the time range come from. One source above 5 % of the load is a bad actor: repair the asset, or tune its detector."
        )
        .datasource(datasource())
        .with_target(
            Sql(
                """
SELECT asset || ', ' || alarm_type AS "source", sum(occurrence + flaps) AS "occurrences"
FROM board_alarm WHERE $__timeFilter(raised_at) GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10
"""
            )
        )
        .span(8)
        .height(8)
        .x_field("source")
        .orientation(common.VizOrientation.HORIZONTAL)
        .show_value(common.VisibilityMode.ALWAYS)
        .legend(common_builders.VizLegendOptions().show_legend(False))
        .fill_opacity(80)
        .no_value("no alarm was raised in this time")
        .override_by_name("occurrences", [fixed_color(OBSERVED), value("decimals", 0)])
    )


def priority_mix() -> table.Panel:
    """Return the share of each priority against the guideline."""
    return (
        _table(
            "Priority mix",
            "Share of announced alarms of the time range. The guideline is about 80 % low, 15 % medium, 5 % high and urgent: "
            "when everything is urgent, nothing is. Re-rank in the alarm table of underway.",
            """
SELECT p.priority AS "Priority", count(a.alarm_id) AS "Alarms",
       count(a.alarm_id)::double precision / nullif(sum(count(a.alarm_id)) OVER (), 0)::double precision AS "Share", p.guideline AS "Guideline"
FROM (VALUES ('urgent', 4, '5 % with high'), ('high', 3, '5 % with urgent'), ('medium', 2, '15 %'), ('low', 1, '80 %')) p (priority, rank, guideline)
LEFT JOIN alarm a ON a.priority = p.priority AND $__timeFilter(a.raised_at)
GROUP BY p.priority, p.rank, p.guideline ORDER BY p.rank DESC
""",
            {"Priority": 90, "Alarms": 80, "Guideline": 130},
        )
        .span(8)
        .height(8)
        .override_by_name("Priority", colored(PRIORITY_COLOR))
        .override_by_name(
            "Share",
            [
                value("unit", "percentunit"),
                value("decimals", 0),
                value("min", 0),
                value("max", 1),
                value("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
                steps_value((None, OBSERVED)),
            ],
        )
    )


# ------------------------------------------------------------------------------------------------------------ data


def reading_rate() -> timeseries.Panel:
    """Return readings per minute by grade."""
    return (
        _lines(
            "Readings per minute",
            "By the time of measurement and the grade. A hole means that devices or the link were silent; a fill-up later closes it "
            "(devices buffer). Amber is suspect or bad: open the device's page to see why it was graded so.",
            """
SELECT $__timeGroupAlias(observed_at, $__interval), CASE quality WHEN 0 THEN 'good' WHEN 1 THEN 'suspect' ELSE 'bad' END AS "metric",
       count(*) / ($__interval_ms / 60000.0) AS "readings per minute"
FROM reading WHERE $__timeFilter(observed_at) GROUP BY 1, 2 ORDER BY 1, 2
""",
            "short",
        )
        .interval("5m")
        .span(8)
        .fill_opacity(40)
        .stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
        .override_by_name("good", [fixed_color(OBSERVED)])
        .override_by_name("suspect", [fixed_color(MEDIUM)])
        .override_by_name("bad", [fixed_color(HIGH)])
    )


def lag() -> timeseries.Panel:
    """Return how late live readings arrive and how long they take to the table."""
    return (
        _lines(
            "Lag",
            "From measurement to arrival (devices, network, broker) and from arrival to the table (our own work), 95th percentile of live "
            "readings. The first rising: the field. The second rising: the database or the ingest service.",
            """
SELECT $__timeGroupAlias(observed_at, $__interval),
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM received_at - observed_at))::double precision AS "measured to received",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM recorded_at - received_at))::double precision AS "received to stored"
FROM reading WHERE $__timeFilter(observed_at) AND flags & 2 = 0 GROUP BY 1 ORDER BY 1
""",
            "s",
        )
        .interval("5m")
        .span(8)
        .no_value("no live readings in this time, only back-filled ones")
        .override_by_name("measured to received", [fixed_color(LOW)])
        .override_by_name("received to stored", [fixed_color(OBSERVED)])
    )


def batches() -> timeseries.Panel:
    """Return how many transactions stored readings, and how large they were."""
    return (
        _lines(
            "Batches",
            "Transactions per minute and readings in each. Large batches mean the database is the bottleneck (that is how it catches up); "
            "one reading a batch at a high rate means the age limit is too short.",
            """
SELECT $__timeGroupAlias(recorded_at, $__interval), count(*) / ($__interval_ms / 60000.0) AS "batches per minute", avg(n) AS "readings per batch"
FROM (SELECT batch_id, max(recorded_at) AS recorded_at, count(*) AS n FROM reading WHERE $__timeFilter(observed_at) GROUP BY batch_id) b
GROUP BY 1 ORDER BY 1
""",
            "short",
        )
        .interval("1m")
        .span(8)
        .decimals(1)
        .override_by_name("batches per minute", [fixed_color(OBSERVED)])
        .override_by_name("readings per batch", [fixed_color(LOW), value("custom.axisPlacement", "right")])
    )


def completeness() -> table.Panel:
    """Return how much of what each zone's channels should have sent is there."""
    return (
        _table(
            "Completeness by zone",
            "Good readings stored against what the channels should have sent in the time range. Below 95 % detectors of that zone see badly: "
            "visit its gateway first, then single devices.",
            """
WITH got AS (
    SELECT channel_id, count(*) AS n, count(*) FILTER (WHERE quality = 0) AS good FROM reading WHERE $__timeFilter(observed_at) GROUP BY channel_id)
SELECT coalesce(z.name, c.zone_id, 'no zone') AS "Zone", count(*) AS "Channels", coalesce(sum(g.n), 0) AS "Readings",
       least(coalesce(sum(g.good), 0) / nullif(sum(greatest(extract(epoch FROM
           least($__timeTo()::timestamptz, board_now()) - greatest($__timeFrom()::timestamptz, d.registered_at)) / c.interval_s, 0)), 0),
           1)::double precision AS "Complete"
FROM channel c JOIN device d USING (device_id) LEFT JOIN got g USING (channel_id) LEFT JOIN zone z ON z.zone_id = c.zone_id
WHERE d.status = 'active' GROUP BY 1 ORDER BY 4 NULLS LAST, 1 LIMIT 100
""",
            {"Channels": 85, "Readings": 95},
        )
        .span(8)
        .height(9)
        .override_by_name(
            "Complete",
            [
                value("unit", "percentunit"),
                value("decimals", 1),
                value("min", 0),
                value("max", 1),
                value("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
                steps_value((None, HIGH), (0.95, QUIET)),
            ],
        )
    )


def quarantine() -> table.Panel:
    """Return what could not be taken, by reason."""
    return (
        _table(
            "Quarantine",
            "Messages, or parts of them, that could not be taken, by reason; nothing is dropped silently. 'device_unknown' wants a registration, "
            "'time_future' a clock repair, 'schema' a look at the device's firmware. The newest example tells who to call.",
            """
SELECT q.reason AS "Reason", sum(q.count)::bigint AS "Messages", count(DISTINCT q.topic) AS "Topics", max(q.last_at) AS "Last",
       (array_agg(q.message ORDER BY q.last_at DESC))[1] AS "Newest example"
FROM quarantine q WHERE $__timeFilter(q.last_at) GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50
""",
            {"Reason": 150, "Messages": 90, "Topics": 70, "Last": 150},
        )
        .span(8)
        .height(9)
        .no_value("nothing was quarantined in this time")
    )


def services() -> table.Panel:
    """Return what every service said of itself last."""
    return (
        _table(
            "Services",
            "Heartbeat of each service and the facts it reports. A heartbeat older than a minute means that it hangs or is gone: "
            "look at its log, start it again; nothing acknowledged is lost by that.",
            """
SELECT service AS "Service", extract(epoch FROM now() - updated_at)::double precision AS "Heartbeat", facts ->> 'state' AS "State",
       coalesce(facts -> 'source' ->> 'state', facts ->> 'broker') AS "Broker", (facts ->> 'queued')::double precision AS "Queued",
       (facts ->> 'commit_ms')::double precision AS "Commit", started_at AS "Started", pid AS "Process", facts::text AS "All facts"
FROM service_status ORDER BY 1 LIMIT 50
""",
            {"Service": 95, "Heartbeat": 85, "State": 80, "Broker": 90, "Queued": 70, "Commit": 75, "Started": 150, "Process": 75},
        )
        .span(8)
        .height(9)
        .override_by_name("Commit", [value("unit", "ms"), value("decimals", 0)])
        .override_by_name(
            "Heartbeat",
            [
                value("unit", "s"),
                value("decimals", 0),
                value("custom.cellOptions", {"type": "color-text"}),
                steps_value((None, QUIET), (60, HIGH)),
            ],
        )
    )


def devices_in_trouble() -> table.Panel:
    """Return the devices that are offline by their death, and those whose clock is corrected."""
    return (
        _table(
            "Devices that are gone or whose clock is wrong",
            "Gone: the device or its edge node reported its death and no birth since; its last values are stale. Visit it, or its gateway first "
            "when several went at the same moment. Wrong clock: it is ahead by so much, readings keep its time and detectors take the offset off; "
            "set it right.",
            """
SELECT d.device_id AS "Device", w.what AS "What", w.since_at AS "Since", w.ahead_s AS "Clock ahead", w.why AS "Why", d.model AS "Model",
       d.dialect AS "Dialect"
FROM (SELECT device_id, 'gone' AS what, since_at, NULL::double precision AS ahead_s, reason AS why FROM device_presence WHERE NOT online
      UNION ALL SELECT device_id, 'wrong clock', since_at, offset_ms::double precision / 1000, 'its messages come before their own time'
      FROM device_clock WHERE offset_ms <> 0) w
JOIN device d USING (device_id) WHERE d.status = 'active' ORDER BY w.what, w.since_at DESC, d.device_id LIMIT 200
""",
            {"Device": 180, "What": 110, "Since": 160, "Clock ahead": 110, "Dialect": 110},
        )
        .span(24)
        .height(8)
        .no_value("no device is gone, and no clock is known to be wrong")
        .override_by_name("Clock ahead", [value("unit", "s"), value("decimals", 0)])
    )


def event_feed() -> table.Panel:
    """Return the latest steps of all lifecycles."""
    return (
        _table(
            "What happened",
            "Every step of alarms, incidents and orders in the time range: who, when, from where to where, and why. Read it at shift handover.",
            """
SELECT at AS "At", subject AS "Subject", event AS "Event", from_state AS "From", to_state AS "To", actor AS "Who", reason AS "Reason", note AS "Note"
FROM (SELECT at, 'alarm ' || subject_id AS subject, seq, event, from_state, to_state, actor, reason, note
      FROM alarm_event WHERE $__timeFilter(at)
      UNION ALL SELECT at, 'incident ' || subject_id, seq, event, from_state, to_state, actor, reason, note
      FROM incident_event WHERE $__timeFilter(at)
      UNION ALL SELECT at, 'WO-' || subject_id, seq, event, from_state, to_state, actor, reason, note
      FROM order_event WHERE $__timeFilter(at)) e
ORDER BY at DESC, subject, seq DESC LIMIT 200
""",
            {"At": 150, "Subject": 100, "Event": 130, "From": 110, "To": 110, "Who": 130},
        )
        .span(24)
        .no_value("nothing happened in this time")
    )


ANNOTATIONS: Mapping[str, tuple[str, str]] = {
    "alarms": (
        HIGH,
        """
SELECT a.raised_at AS "time", a.closed_at AS "timeend", a.priority || ': ' || a.evidence AS "text",
       a.alarm_type || ',' || coalesce(a.zone_id, '') AS "tags"
FROM board_alarm a WHERE $__timeFilter(a.raised_at) AND a.priority <> 'journal' ORDER BY 1 LIMIT 200
""",
    ),
    "orders": (
        OBSERVED,
        """
SELECT e.at AS "time", 'WO-' || e.subject_id || ' ' || e.to_state || ': ' || e.reason AS "text", 'order' AS "tags"
FROM order_event e WHERE $__timeFilter(e.at) AND e.to_state IN ('DISPATCHED', 'IN_PROGRESS', 'DONE', 'CLOSED') ORDER BY 1 LIMIT 200
""",
    ),
}


def zone_options() -> str:
    """Return the query behind the template variable ``zone``."""
    return "SELECT zone_id AS __value, name AS __text FROM zone WHERE kind = 'dma' ORDER BY name, zone_id LIMIT 200"
