"""The ingest process: MQTT to the store through the detectors, until it is told to stop."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from threading import Event, Thread
from typing import Any

from detectors.bank import Bank
from detectors.water.leak_committee import DigRules
from ingest.batcher import BatchLimits
from ingest.dialects import DIALECTS, topic_filters
from ingest.instants import TimeRules
from ingest.mqtt import MqttSource
from ingest.quarantine import NEW_ROWS_AT_ONCE, NEW_ROWS_PER_HOUR, QuarantineBudget
from ingest.sparkplug_host import SparkplugHost
from underway.app.ingest_metrics import Stages
from underway.app.ingest_store import PostgresStore, StandingBy
from underway.app.intake import Intake
from underway.app.metrics_http import serve_metrics
from underway.app.pipeline import Pipeline
from underway.app.pipeline_settings import PipelineSettings
from underway.app.rejudge import Rejudge
from underway.model import Clock, LeakSignatures, NetworkModel, Registry, StoreUnavailable, to_us

CLIENT_ID = "underway-ingest"
STAND_BY_S = 0.5
JOIN_S = 10.0
SWITCH_S = 0.0001
"""How soon a thread that waits for the interpreter gets it: the network and COPY need it for microseconds, and everything waits for them."""
GARBAGE_THRESHOLD = 50_000
"""Allocations between two looks of the garbage collector: messages make no cycles, so there is little for it to find."""

log = logging.getLogger("underway.ingest")


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What ingest may be told; the settings of the same names say what they mean (docs/settings.md).

    Attributes
    ----------
    client_id : str
        Name of the persistent session at the broker: one process a name.
    ca_file : str
        Certificate authority for ``mqtts://``; empty: the system's.
    dialects : tuple of str
        Names of the dialects that are listened to; empty: all.
    batch_count, batch_readings : int
        Most messages, and about the most readings, that a transaction holds.
    batch_age_s : float
        Longest wait before a batch is committed, in s.
    queue_count, queue_bytes : int
        Most messages and bytes held unacknowledged.
    checkpoint_s : float
        Time between two checkpoints of the same detector state, in s.
    host_id : str
        Of the Sparkplug host application.
    reorder_s : float
        How long a missing Sparkplug message is waited for, in s.
    digs_from : datetime or None
        No crew is sent before for a leak that a hydraulic model places.
    rejudge : bool
        Whether the windows of late data are judged again by this process.
    quarantine_at_once, quarantine_per_hour : int
        Most new rows of quarantine of one device.
    metrics_host, metrics_port
        Where ``/metrics`` is served; port 0: nowhere.
    """

    client_id: str = CLIENT_ID
    ca_file: str = ""
    dialects: tuple[str, ...] = ()
    batch_count: int = 10_000
    batch_readings: int = 20_000
    batch_age_s: float = 0.05
    queue_count: int = 20_000
    queue_bytes: int = 64 * 2**20
    checkpoint_s: float = 30.0
    host_id: str = "underway"
    reorder_s: float = 5.0
    times: TimeRules = field(default_factory=TimeRules)
    digs_from: datetime | None = None
    rejudge: bool = True
    rejudge_settle_s: float = 60.0
    quarantine_at_once: int = NEW_ROWS_AT_ONCE
    quarantine_per_hour: int = NEW_ROWS_PER_HOUR
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0


class LaneBanks:
    """Builds detectors for one lane, to judge a window of late data again.

    Parameters
    ----------
    lane_channels : callable (lane) -> channel ids or None, optional
        What feeds a lane, where that is known: then the rest of a large registry need not be looked at.
    digs : DigRules, optional
        When a crew is sent for a leak.
    """

    def __init__(self, lane_channels: Callable[[str], Collection[int] | None] = lambda lane: None, digs: DigRules | None = None) -> None:
        self._lane_channels, self._digs = lane_channels, digs

    def for_lane(
        self,
        registry: Registry,
        signatures: Sequence[LeakSignatures],
        lane: str,
        channel_ids: Sequence[int],
        models: Sequence[NetworkModel] = (),
    ) -> tuple[Bank, Sequence[int], int] | None:
        """Return fresh detectors of a lane, the channels that feed them and how much history they want; None: no such lane any more."""
        feeding = self._lane_channels(lane)
        if feeding is not None:
            ids = frozenset(feeding)
            channels = tuple(c for c in registry.channels if c.channel_id in ids)
            devices = {c.device_id for c in channels}
            registry = replace(registry, channels=channels, devices=tuple(d for d in registry.devices if d.device_id in devices))
        bank = Bank(registry, signatures, [lane], channel_ids, models, self._digs)
        if lane not in bank.lane_keys:
            return None
        return bank, bank.lane_channels(lane), bank.warm_up_us(lane)


def run(
    mqtt_url: str,
    database_url: str,
    clock: Clock,
    stop_event: Event,
    site_id: str | None = None,
    options: IngestOptions | None = None,
) -> None:
    """Run ingest until `stop_event` is set.

    Parameters
    ----------
    mqtt_url : str
        ``mqtt://`` or ``mqtts://``. A broker that is away is waited for.
    database_url : str
        A store that is away is waited for; nothing is acknowledged meanwhile.
    clock : Clock
        Stamps messages when they arrive.
    site_id : str or None
        None or empty: the only site.
    options : IngestOptions, optional

    Raises
    ------
    SettingsError
        When `mqtt_url` is not one, or a dialect is not known.
    OperatorError
        When `database_url` is not one.
    InternalError
        When messages cannot be taken for a reason that lies with us.
    """
    options = options or IngestOptions()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)
    sys.setswitchinterval(SWITCH_S)
    topic_filters(options.dialects)  # a wrong name is said before anything begins
    while not stop_event.is_set():
        stages = Stages()
        budget = QuarantineBudget(options.quarantine_at_once, options.quarantine_per_hour)
        store = PostgresStore(database_url, site_id or None, os.getpid(), datetime.now(UTC), budget, stages)
        if not _stand_by(store, stop_event):
            return
        try:
            _serve(mqtt_url, database_url, clock, stop_event, site_id or None, options, store, budget, stages)
        except StandingBy as error:
            # the store was away, and another process was there first when it came back: the session at the broker is its own now
            log.warning("%s", error)


def _serve(
    mqtt_url: str,
    database_url: str,
    clock: Clock,
    stop_event: Event,
    site_id: str | None,
    options: IngestOptions,
    store: PostgresStore,
    budget: QuarantineBudget,
    stages: Stages,
) -> None:
    """Take messages in until told to stop, or until another process took the site over."""

    def now_us() -> int:
        return to_us(clock.now_at())

    filters = topic_filters(options.dialects)
    intake = Intake(SparkplugHost(options.host_id, reorder_s=options.reorder_s))
    speaks_sparkplug = any(f.startswith("spBv1.0/") for f in filters)
    source = MqttSource(
        mqtt_url,
        options.client_id,
        filters,
        now_us,
        queue_count_max=options.queue_count,
        queue_bytes_max=options.queue_bytes,
        ca_file=options.ca_file,
        greeting=intake.greeting if speaks_sparkplug else None,
    )
    settings = PipelineSettings(
        limits=BatchLimits(count_max=options.batch_count, readings_max=options.batch_readings, age_s_max=options.batch_age_s),
        checkpoint_s=options.checkpoint_s,
        times=options.times,
    )
    digs = None if options.digs_from is None else DigRules(from_us=to_us(options.digs_from))
    pipeline = Pipeline(source, store, partial(Bank, digs=digs), clock, settings, intake=intake, stages=stages, settle=_settle)
    with ExitStack() as ending:
        ending.callback(lambda: source.close(intake.farewell(now_us()) if speaks_sparkplug else ()))
        rejudge: Rejudge | None = None
        if options.rejudge:
            banks, ended = LaneBanks(pipeline.lane_channels, digs), Event()
            rejudge = Rejudge(database_url, site_id, banks, clock, options.rejudge_settle_s, lambda: pipeline.address_book)
            thread = Thread(target=rejudge.run, args=(ended,), name="rejudge", daemon=True)
            thread.start()
            ending.callback(thread.join, JOIN_S)
            ending.callback(ended.set)
        if options.metrics_port:

            def facts() -> dict[str, Any]:
                found = pipeline.facts() | {"quarantine_budget": budget.facts()}
                return found if rejudge is None else found | {"rejudge": rejudge.facts(), "late_windows": rejudge.waiting}

            server = serve_metrics(options.metrics_host, options.metrics_port, facts)
            if server is not None:
                ending.callback(server.close)
        log.info("listening to %s", ", ".join(d.name for d in DIALECTS if not options.dialects or d.name in options.dialects))
        pipeline.run(stop_event)


def _settle() -> None:
    """Take what stays, a registry and detectors, out of the garbage collector's sight; let go of what stood there before."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _stand_by(store: PostgresStore, stop_event: Event) -> bool:
    """Wait while another ingest serves the site, before its session at the broker is taken from it; False when told to stop meanwhile."""
    told = False
    while not stop_event.is_set():
        try:
            store.open()
        except StandingBy as error:
            if not told:
                log.warning("%s", error)
            told = True
            stop_event.wait(STAND_BY_S)
            continue
        except StoreUnavailable:
            return True  # the pipeline waits for the store, and the broker keeps what comes meanwhile
        return True
    return False
