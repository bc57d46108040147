"""The ingest process: MQTT to the store through the detectors, until it is told to stop."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from threading import Event

from detectors.bank import Bank
from ingest.batcher import BatchLimits
from ingest.dialects import DIALECTS
from ingest.mqtt import MqttSource
from underway.app.pipeline import Pipeline, PipelineSettings, PostgresStore, StandingBy
from underway.model import Clock, StoreUnavailable, to_us

CLIENT_ID = "underway-ingest"
STAND_BY_S = 0.5

log = logging.getLogger("underway.ingest")


def run(
    mqtt_url: str,
    database_url: str,
    clock: Clock,
    stop_event: Event,
    site_id: str | None = None,
    *,
    client_id: str = CLIENT_ID,
    ca_file: str = "",
    batch_count: int = 5_000,
    batch_age_s: float = 0.25,
    queue_count: int = 20_000,
    checkpoint_s: float = 30.0,
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
    client_id : str
        Name of the persistent session at the broker: one process a name.
    ca_file : str
        Certificate authority for ``mqtts://``; empty: the system's.
    batch_count : int
        Most messages a transaction holds.
    batch_age_s : float
        Longest wait before a batch is committed, in s.
    queue_count : int
        Most messages held unacknowledged.
    checkpoint_s : float
        Time between two checkpoints of detector state, in s.

    Raises
    ------
    SettingsError
        When `mqtt_url` is not one.
    OperatorError
        When `database_url` is not one.
    InternalError
        When messages cannot be taken for a reason that lies with us.
    """
    store = PostgresStore(database_url, site_id or None, os.getpid(), datetime.now(UTC))
    if not _stand_by(store, stop_event):
        return
    source = MqttSource(
        mqtt_url,
        client_id,
        [name for dialect in DIALECTS for name in dialect.topic_filters],
        lambda: to_us(clock.now_at()),
        queue_count_max=queue_count,
        ca_file=ca_file,
    )
    try:
        settings = PipelineSettings(limits=BatchLimits(count_max=batch_count, age_s_max=batch_age_s), checkpoint_s=checkpoint_s)
        Pipeline(source, store, Bank, clock, settings).run(stop_event)
    finally:
        source.close()


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
