"""What a run is told, and the sizes that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PARTS = ("one-reading", "pack-senml", "pack-sparkplug", "memory", "latency")
SECONDS_FULL = 120.0
"""From this time on everything has its full size; below it towns and backlogs shrink in proportion."""

LOAD_PER_S_MAX = 30_000
"""Messages a second for which the history of a town leaves room until now; a greater load is on for a shorter time."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Options of ``underway bench ingest``.

    Attributes
    ----------
    seconds : float
        Wall time of the whole run.
    only : tuple of str
        Names of `PARTS`; empty: all.
    database_url : str
        A server to use; empty: an embedded one.
    profile : Path or None
        Where ingest leaves its profile.
    """

    seconds: float = 180.0
    only: tuple[str, ...] = ()
    database_url: str = ""
    broker: str = "auto"
    profile: Path | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts to run, in order."""
        return tuple(name for name in PARTS if not self.only or name in self.only)

    @property
    def scale(self) -> float:
        """Return the share of the full size, 0..1."""
        return min(1.0, self.seconds / SECONDS_FULL)

    @property
    def repetitions(self) -> int:
        """Return how often each drain is repeated, time permitting."""
        return 3 if self.scale >= 1 else 2

    @property
    def zones(self) -> int:
        """Return the zones of the towns that are driven: 40 with 2,000 channels at full size, an even number."""
        return max(4, round(20 * self.scale) * 2)

    @property
    def marked(self) -> int:
        """Return how many channels are to cause a finding each while latency is measured."""
        return max(40, round(400 * self.scale)) if "latency" in self.parts else 0

    @property
    def latency_s(self) -> float:
        """Return how long latency is measured."""
        return max(6.0, 20.0 * self.scale)

    def one_reading_messages(self, broker_kind: str) -> int:
        """Return the backlog of one repetition."""
        return 3_000 if broker_kind == "amqtt" else max(30_000, round(150_000 * self.scale))

    @property
    def pack_readings(self) -> int:
        """Return the readings of one repetition of packs."""
        return max(40_000, round(300_000 * self.scale))

    @property
    def memory_zones(self) -> int:
        """Return the zones of the large town: 2,000 at full size."""
        return max(20, round(2_000 * self.scale))

    def native_rounds(self, channels: int) -> int:
        """Return how many rounds all measurements of the native town may take: history ends so long ago."""
        drains = (self.repetitions + 1) * (2 * self.one_reading_messages("mosquitto") // channels + 2)
        return drains + round(self.latency_s * LOAD_PER_S_MAX / channels)
