"""The dialects that ingest understands: one line each, the first matching topic filter wins."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.decoded import Decode, Decoded
from ingest.dialects import native
from underway.model import Fault, FaultReason


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format: its name, the MQTT topic filter it is spoken on, and its pure decoder."""

    name: str
    topic_filter: str
    decode: Decode


DIALECTS: tuple[Dialect, ...] = (
    Dialect(native.NAME, native.TOPIC_FILTER, native.decode),
)  # fmt: skip

NO_DIALECT = "none"


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Return whether an MQTT topic matches a filter (MQTT 5, section 4.7): ``+`` is one level, a last ``#`` any number.

    Examples
    --------
    >>> topic_matches("uw/+/+/telemetry", "uw/town/pr-113/telemetry"), topic_matches("uw/#", "uw"), topic_matches("#", "$SYS/load")
    (True, True, False)
    """
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))


def dialect_of(topic: str) -> Dialect | None:
    """Return the dialect spoken on a topic, or None."""
    return next((dialect for dialect in DIALECTS if topic_matches(dialect.topic_filter, topic)), None)


def decode(topic: str, payload: bytes) -> tuple[str, Decoded]:
    """Return the name of the dialect spoken on `topic` and what it makes of the message; never raises."""
    dialect = _ONLY if _ONLY is not None else dialect_of(topic)
    if dialect is None:
        fault = Fault(
            FaultReason.TOPIC_UNKNOWN,
            f"no dialect is spoken on topic {topic[:160]!r}; known: {', '.join(d.topic_filter for d in DIALECTS)}",
        )
        return NO_DIALECT, Decoded(None, (), (fault,))
    return dialect.name, dialect.decode(topic, payload)


_ONLY = DIALECTS[0] if len(DIALECTS) == 1 else None
"""With one dialect there is nothing to choose; its decoder judges the topic itself."""
