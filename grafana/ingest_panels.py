"""The panels of the ingest dashboard, each with its PromQL and with a description that says what to do.

The names of the metrics are those of `docs/metrics.md`. A panel that may rightly be empty says what that means in its ``noValue`` text.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

from grafana.look import (
    EXPECTED,
    HIGH,
    LOW,
    MEDIUM,
    OBSERVED,
    QUIET,
    URGENT,
    Prom,
    by_threshold,
    fixed_color,
    legend,
    prometheus,
    steps,
    tooltip,
    value,
)

BEHIND = "docs/runbook/ingest-is-behind-or-stopped-what-do-i-do.md"
QUARANTINE = "docs/runbook/what-is-in-quarantine-and-how-do-i-read-it.md"
NO_SPARKPLUG = "no Sparkplug edge node was heard"
LIMIT = "limit"


def _stat(title: str, description: str, query: Prom, unit: str = "short", decimals: int = 0) -> stat.Panel:
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(prometheus())
        .with_target(query)
        .height(4)
        .span(6)
        .unit(unit)
        .decimals(decimals)
        .color_scheme(by_threshold())
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .justify_mode(common.BigValueJustifyMode.AUTO)
        .text_mode(common.BigValueTextMode.VALUE)
        .orientation(common.VizOrientation.VERTICAL)
        .reduce_options(common_builders.ReduceDataOptions().values(False).calcs(["lastNotNull"]).fields(""))
        .thresholds(steps((None, QUIET)))
        .no_value("no metrics: is ingest running, and does Prometheus reach it?")
    )


def _lines(title: str, description: str, unit: str, *queries: Prom) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(prometheus())
        .height(8)
        .span(8)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(0)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(legend())
        .tooltip(tooltip())
        .thresholds(steps((None, QUIET)))
    )
    for query in queries:
        panel = panel.with_target(query)
    return panel


def _stacked(panel: timeseries.Panel) -> timeseries.Panel:
    return panel.fill_opacity(40).stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))


def _limit_line() -> list[models.DynamicConfigValue]:
    return [fixed_color(URGENT), value("custom.lineStyle", {"fill": "dash", "dash": [8, 8]})]


# ------------------------------------------------------------------------------------------------------------- now


def state_now() -> stat.Panel:
    """Return what ingest is doing."""
    return _stat(
        "Ingest",
        "What ingest is doing. 'running' is well; 'store away' means that the database cannot be reached and the broker keeps what comes; "
        f"'replaying' ends by itself after a start. Nothing here: start it, then read {BEHIND}.",
        Prom("max by (state) (underway_ingest_state)", "{{state}}", now=True),
    ).text_mode(common.BigValueTextMode.NAME)


def broker_now() -> stat.Panel:
    """Return whether the connection to the broker stands."""
    words = models.ValueMap(
        options={
            "0": models.ValueMappingResult(text="away", color=URGENT, index=0),
            "1": models.ValueMappingResult(text="connected", color=QUIET, index=1),
        }
    )
    return _stat(
        "Broker",
        "Whether the connection to the broker stands. 'away': see whether the broker runs and whether the account of ingest may sign in; "
        "the broker keeps for our session what devices publish meanwhile.",
        Prom("min(underway_ingest_broker_connected)", "broker", now=True),
    ).mappings([words])


def full_now() -> stat.Panel:
    """Return how full the memory for messages is."""
    return _stat(
        "Memory for messages",
        "How full it is with messages that are not committed yet. Above 80 % the database does not keep up; at 100 % ingest stops reading and "
        f"the broker holds the rest, nothing is lost. Find out why commits are slow: {BEHIND}.",
        Prom("max(underway_ingest_full_ratio)", "full", now=True),
        "percentunit",
    ).thresholds(steps((None, QUIET), (0.8, HIGH), (1.0, URGENT)))


def lag_now() -> stat.Panel:
    """Return how far the newest reading is behind the clock."""
    return _stat(
        "Newest reading is behind by",
        "Age of the newest observed instant. It grows when devices are silent, when the link is cut, or when ingest does not keep up: "
        "compare with 'Memory for messages', which is empty in the first two cases.",
        Prom("min(underway_ingest_lag_seconds)", "behind", now=True),
        "s",
    ).thresholds(steps((None, QUIET), (900, MEDIUM), (3600, HIGH)))


# ------------------------------------------------------------------------------------------------------------ rates


def messages() -> timeseries.Panel:
    """Return messages a second by dialect."""
    return _stacked(
        _lines(
            "Messages per second by dialect",
            "Messages taken in. A dialect that falls to zero is a gateway or a network server that is gone: look there first, "
            "the broker's log second.",
            "short",
            Prom("sum by (dialect) (rate(underway_ingest_messages_total[$__rate_interval]))", "{{dialect}}"),
        )
    ).decimals(1)


def readings() -> timeseries.Panel:
    """Return readings a second by dialect, and how many of them were new."""
    return (
        _lines(
            "Readings per second by dialect",
            "Readings in the messages that came, by dialect, and those stored for the first time. What comes and is not stored was sent before, "
            f"or was refused: then see the row below and {QUARANTINE}.",
            "short",
            Prom("sum by (dialect) (rate(underway_ingest_readings_total[$__rate_interval]))", "{{dialect}}"),
            Prom("sum(rate(underway_ingest_stored_readings_total[$__rate_interval]))", "stored", "B"),
        )
        .decimals(1)
        .override_by_name("stored", [fixed_color(OBSERVED), value("custom.lineWidth", 2)])
    )


def lag() -> timeseries.Panel:
    """Return the lag over time."""
    return _lines(
        "Lag",
        "Age of the newest observed instant. A saw tooth as wide as the interval of the devices is normal; a ramp is silence or a jam: "
        "with messages waiting it is a jam.",
        "s",
        Prom("min(underway_ingest_lag_seconds)", "newest reading"),
        Prom("max(time() - underway_ingest_last_commit_timestamp_seconds)", "last commit", "B"),
    ).override_by_name("last commit", [fixed_color(LOW)])


# ---------------------------------------------------------------------------------------------------------- batches


def commits() -> timeseries.Panel:
    """Return how long a batch takes."""
    return (
        _lines(
            "Time of a batch",
            "From the first decoding to the end of the commit. The 99th percentile above a second: the database is busy or its disk is slow; "
            f"look at its own statistics, then at {BEHIND}.",
            "s",
            Prom("histogram_quantile(0.5, sum by (le) (rate(underway_ingest_commit_seconds_bucket[$__rate_interval])))", "half"),
            Prom("histogram_quantile(0.99, sum by (le) (rate(underway_ingest_commit_seconds_bucket[$__rate_interval])))", "99 of 100", "B"),
        )
        .override_by_name("half", [fixed_color(OBSERVED)])
        .override_by_name("99 of 100", [fixed_color(MEDIUM)])
        .no_value("no batch in this time")
    )


def batch_sizes() -> timeseries.Panel:
    """Return how many messages a batch has."""
    return (
        _lines(
            "Messages of a batch",
            "Batches grow when more arrives than one commit takes; that is how ingest catches up. Always at the limit (UNDERWAY_BATCH_COUNT): "
            "it is behind, give the database more or partition by site.",
            "short",
            Prom("histogram_quantile(0.5, sum by (le) (rate(underway_ingest_batch_messages_bucket[$__rate_interval])))", "half"),
            Prom("histogram_quantile(0.99, sum by (le) (rate(underway_ingest_batch_messages_bucket[$__rate_interval])))", "99 of 100", "B"),
        )
        .decimals(0)
        .override_by_name("half", [fixed_color(OBSERVED)])
        .override_by_name("99 of 100", [fixed_color(LOW)])
        .no_value("no batch in this time")
    )


def stages() -> timeseries.Panel:
    """Return the CPU time of a reading by stage."""
    return (
        _stacked(
            _lines(
                "CPU of a reading by stage",
                "CPU time of our process for one reading, by stage of the path: the widest band is what to make faster next. It rises when "
                "messages hold few readings, and when detectors have much to say.",
                "µs",
                Prom(
                    "1e6 * sum by (stage) (rate(underway_ingest_stage_cpu_seconds_total[$__rate_interval])) / on () group_left ()"
                    " (sum(rate(underway_ingest_readings_total[$__rate_interval])) > 0)",
                    "{{stage}}",
                ),
            )
        )
        .decimals(1)
        .no_value("no readings in this time")
    )


# ------------------------------------------------------------------------------------------------------------- held


def held_messages() -> timeseries.Panel:
    """Return the messages held against their limit."""
    return (
        _lines(
            "Messages held",
            "Received and not acknowledged, with the limit (UNDERWAY_QUEUE_COUNT). At the limit ingest stops reading and the broker keeps the rest: "
            "see that its queue for our session is long enough, and why commits are slow.",
            "short",
            Prom("sum(underway_ingest_held_messages)", "held"),
            Prom("sum(underway_ingest_queued_messages)", "not taken up yet", "B"),
            Prom("sum(underway_ingest_held_messages_limit)", LIMIT, "C"),
        )
        .decimals(0)
        .override_by_name("held", [fixed_color(OBSERVED)])
        .override_by_name("not taken up yet", [fixed_color(EXPECTED)])
        .override_by_name(LIMIT, _limit_line())
    )


def held_bytes() -> timeseries.Panel:
    """Return the payload held against its limit."""
    return (
        _lines(
            "Payload held",
            "Bytes of the messages that are not acknowledged, with their limit. Near the limit with few messages: somebody sends very large ones, "
            f"find out who in quarantine ({QUARANTINE}).",
            "bytes",
            Prom("sum(underway_ingest_held_bytes)", "held"),
            Prom("sum(underway_ingest_held_bytes_limit)", LIMIT, "B"),
        )
        .override_by_name("held", [fixed_color(OBSERVED)])
        .override_by_name(LIMIT, _limit_line())
    )


def broker() -> timeseries.Panel:
    """Return the connection to the broker over time."""
    return (
        _lines(
            "Connection to the broker",
            "Whether we are connected, whether reading stands still because memory is full, and how often we connected anew. Many new connections: "
            "two processes with one client id, a broker that restarts, or a network that cuts.",
            "short",
            Prom("min(underway_ingest_broker_connected)", "connected"),
            Prom("max(underway_ingest_paused)", "paused", "B"),
            Prom("sum(increase(underway_ingest_broker_reconnects_total[$__rate_interval]))", "new connections", "C"),
        )
        .decimals(0)
        .override_by_name("connected", [fixed_color(OBSERVED)])
        .override_by_name("paused", [fixed_color(HIGH)])
        .override_by_name("new connections", [fixed_color(MEDIUM)])
    )


# ---------------------------------------------------------------------------------------------------------- refused


def quarantined() -> timeseries.Panel:
    """Return faults a minute by reason."""
    return (
        _stacked(
            _lines(
                "Quarantined by reason",
                "Faults of messages a minute, by reason. A step is new firmware, a new device or a wrong clock: 'underway quarantine list --reason' "
                f"names the devices, {QUARANTINE} says what to do for each reason.",
                "cpm",
                Prom("60 * sum by (reason) (rate(underway_ingest_quarantined_total[$__rate_interval]))", "{{reason}}"),
            )
        )
        .decimals(1)
        .no_value("nothing was quarantined since ingest began")
    )


def not_kept() -> timeseries.Panel:
    """Return rows a minute that quarantine did not keep."""
    return (
        _stacked(
            _lines(
                "Quarantine: not kept",
                "Rows a minute that were only counted, because the share of their sender ('source_spent') or of all ('all_spent') was used up. "
                "A device is mad: 'underway quarantine list' names it; mend it, or take away its account.",
                "cpm",
                Prom("60 * sum by (room) (rate(underway_ingest_quarantine_refused_rows_total[$__rate_interval]))", "{{room}}"),
            )
        )
        .decimals(1)
        .override_by_name("source_spent", [fixed_color(MEDIUM)])
        .override_by_name("all_spent", [fixed_color(HIGH)])
        .no_value("nothing was left out since ingest began")
    )


def troubles() -> timeseries.Panel:
    """Return what went wrong inside."""
    return (
        _lines(
            "Troubles",
            "Poison messages, batches tried again, detectors built anew: each is handled and nothing is lost, but each has a cause. "
            f"The log of ingest names it at that time; what to do stands in {BEHIND}.",
            "short",
            Prom("sum(increase(underway_ingest_poison_messages_total[$__rate_interval]))", "poison messages"),
            Prom("sum(increase(underway_ingest_store_retries_total[$__rate_interval]))", "tried again", "B"),
            Prom("sum(increase(underway_ingest_rebuilds_total[$__rate_interval]))", "detectors built", "C"),
            Prom("sum(increase(underway_ingest_oversized_messages_total[$__rate_interval]))", "too large", "D"),
        )
        .decimals(0)
        .override_by_name("poison messages", [fixed_color(URGENT)])
        .override_by_name("tried again", [fixed_color(HIGH)])
        .override_by_name("detectors built", [fixed_color(MEDIUM)])
        .override_by_name("too large", [fixed_color(LOW)])
    )


# ------------------------------------------------------------------------------------------------- order and clocks


def late() -> timeseries.Panel:
    """Return late and repeated readings a minute."""
    return (
        _lines(
            "Late and repeated readings",
            "Late ones came after detectors had judged their time; they are stored, and their time is judged again without paging anybody. "
            "Many: a gateway that buffers. Repeated ones were stored before: a redelivery, or a device that repeats.",
            "cpm",
            Prom("60 * sum(rate(underway_ingest_late_readings_total[$__rate_interval]))", "late"),
            Prom("60 * sum(rate(underway_ingest_duplicates_total[$__rate_interval]))", "repeated", "B"),
        )
        .decimals(0)
        .override_by_name("late", [fixed_color(MEDIUM)])
        .override_by_name("repeated", [fixed_color(LOW)])
    )


def waiting() -> timeseries.Panel:
    """Return what waits for its turn."""
    return (
        _lines(
            "Waiting for its turn",
            "Readings in the reorder window (a missing one is waited for), and windows of late data that wait to be judged again. Windows that only "
            "grow: the worker that judges them does not keep up, its log says why.",
            "short",
            Prom("sum(underway_ingest_reorder_waiting_readings)", "readings in the window"),
            Prom("sum(underway_ingest_late_windows)", "windows of late data", "B"),
        )
        .decimals(0)
        .override_by_name("readings in the window", [fixed_color(OBSERVED)])
        .override_by_name("windows of late data", [fixed_color(MEDIUM)])
    )


def clocks() -> timeseries.Panel:
    """Return wrong clocks and the largest offset."""
    return (
        _lines(
            "Wrong clocks",
            "Devices whose clock is wrong and corrected, and the largest offset. One device with days: its battery was changed, set its clock. "
            "Many at once: a gateway or a time server; 'underway doctor' counts them.",
            "short",
            Prom("max(underway_ingest_clock_offset_devices)", "devices"),
            Prom("max(underway_ingest_clock_offset_max_seconds)", "largest offset", "B"),
        )
        .decimals(0)
        .override_by_name("devices", [fixed_color(OBSERVED)])
        .override_by_name("largest offset", [fixed_color(MEDIUM), value("unit", "s"), value("custom.axisPlacement", "right")])
    )


# ------------------------------------------------------------------------------------------ Sparkplug and the process


def sparkplug() -> timeseries.Panel:
    """Return edge nodes and what goes wrong with them."""
    return (
        _lines(
            "Sparkplug edge nodes",
            "Nodes known and online, gaps in their sequence numbers and births that were asked for, a minute. Gaps that last mean a lossy link "
            "between node and broker; many births asked for, a node that does not answer.",
            "short",
            Prom("sum(underway_ingest_sparkplug_nodes)", "known"),
            Prom("sum(underway_ingest_sparkplug_nodes_online)", "online", "B"),
            Prom("60 * sum(rate(underway_ingest_sparkplug_gaps_total[$__rate_interval]))", "gaps a minute", "C"),
            Prom("60 * sum(rate(underway_ingest_sparkplug_rebirths_total[$__rate_interval]))", "births asked for a minute", "D"),
        )
        .decimals(0)
        .override_by_name("known", [fixed_color(EXPECTED)])
        .override_by_name("online", [fixed_color(OBSERVED)])
        .override_by_name("gaps a minute", [fixed_color(MEDIUM)])
        .override_by_name("births asked for a minute", [fixed_color(HIGH)])
        .no_value(NO_SPARKPLUG)
    )


def memory() -> timeseries.Panel:
    """Return the resident memory of the process."""
    return _lines(
        "Memory of the process",
        "Resident memory of ingest. It holds the state of the detectors and the messages that are not committed, both bounded, so it is flat; "
        "a ramp over days is a fault of ours: report it.",
        "bytes",
        Prom('sum(process_resident_memory_bytes{job="underway-ingest"})', "resident"),
    ).override_by_name("resident", [fixed_color(OBSERVED)])


def cpu() -> timeseries.Panel:
    """Return the CPU of the process."""
    return _lines(
        "CPU of the process",
        "Cores that ingest uses. Near one whole core for long: it is at its limit, partition by site; 'CPU of a reading by stage' says what "
        "takes the time.",
        "percentunit",
        Prom('sum(rate(process_cpu_seconds_total{job="underway-ingest"}[$__rate_interval]))', "cores"),
    ).override_by_name("cores", [fixed_color(OBSERVED)])
