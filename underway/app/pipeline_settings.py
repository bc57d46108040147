"""Bounds of the pipeline, and the words for what it is doing."""

from __future__ import annotations

from dataclasses import dataclass, field

from ingest.batcher import BatchLimits
from ingest.instants import TimeRules
from underway.model import MINUTE_US


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """Bounds of the pipeline; times are wall time in s unless the name says otherwise.

    Attributes
    ----------
    checkpoint_s, checkpoint_batches, checkpoint_readings
        Every part of the detectors' state is written when one of these has passed since it was written last: it bounds what a restart replays.
        The parts take turns, so that none of them holds the path up for long.
    tick_us : int
        Silence is judged once in this time of the clock, in microseconds.
    quiet_s : float
        How long nothing must have come before the clock itself, not the newest reading, is the present.
    history_quiet_s : float
        The same when what came last was history: more of it may be on its way.
    registry_look_s, unknown_look_s : float
        The registry is read again at most so often after news of a change, and for the sake of an unknown device without news.
    aside_s : float
        What was set aside is acknowledged when another message went through, or when nothing came for so long.
    poison_max : int
        So many messages in a row that neither store nor detectors can take end the process: then the fault is ours.
    times : TimeRules
        Which observed instants are plausible.
    """

    limits: BatchLimits = field(default_factory=BatchLimits)
    idle_wait_s: float = 0.1
    status_s: float = 1.0
    checkpoint_s: float = 30.0
    checkpoint_batches: int = 2_000
    checkpoint_readings: int = 1_000_000
    tick_us: int = MINUTE_US
    quiet_s: float = 1.0
    history_quiet_s: float = 60.0
    registry_look_s: float = 1.0
    unknown_look_s: float = 5.0
    backoff_s_min: float = 0.1
    backoff_s_max: float = 10.0
    aside_s: float = 5.0
    poison_max: int = 10
    times: TimeRules = field(default_factory=TimeRules)


class PipelineState:
    """Words for what the pipeline is doing."""

    STARTING = "starting"
    WAITING_FOR_REGISTRY = "waiting for a registered site"
    REPLAYING = "replaying"
    RUNNING = "running"
    STORE_AWAY = "store away"
    STOPPED = "stopped"
