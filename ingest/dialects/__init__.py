"""The dialects that ingest understands: one line each, the first matching topic filter wins."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ingest.decoded import Decode, Decoded
from ingest.dialects import chirpstack, native, senml, sensorthings, sparkplug, thethings
from underway.model import Fault, FaultReason, SettingsError


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format: its name, the MQTT topic filters it is spoken on (also those of its subscription), and its pure decoder."""

    name: str
    topic_filters: tuple[str, ...]
    decode: Decode


DIALECTS: tuple[Dialect, ...] = (
    Dialect(native.NAME, native.TOPIC_FILTERS, native.decode),
    Dialect(senml.NAME, senml.TOPIC_FILTERS, senml.decode),
    Dialect(sensorthings.NAME, sensorthings.TOPIC_FILTERS, sensorthings.decode),
    Dialect(chirpstack.NAME, chirpstack.TOPIC_FILTERS, chirpstack.decode),
    Dialect(thethings.NAME, thethings.TOPIC_FILTERS, thethings.decode),
    Dialect(sparkplug.NAME, sparkplug.TOPIC_FILTERS, sparkplug.decode),
)  # fmt: skip

NO_DIALECT = "none"
REPLAY_PREFIX = "underway/replay/"
"""A message from quarantine is sent again on its old topic behind this: whoever remembers messages knows that it is no new one."""


def topic_filters(names: Collection[str] = ()) -> list[str]:
    """Return what to subscribe to for some dialects, or for all, and for what comes again from quarantine.

    Raises
    ------
    SettingsError
        When a name is not one of a dialect.

    Examples
    --------
    >>> topic_filters(["native"])
    ['uw/+/+/telemetry', 'underway/replay/#']
    """
    known = [dialect.name for dialect in DIALECTS]
    problems = [f"a dialect must be one of {', '.join(known)}, got {name!r}" for name in names if name not in known]
    if problems:
        raise SettingsError(problems)
    return [*(f for dialect in DIALECTS if not names or dialect.name in names for f in dialect.topic_filters), f"{REPLAY_PREFIX}#"]


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
    return next((d for d in DIALECTS if any(topic_matches(f, topic) for f in d.topic_filters)), None)


_FIRST_LEVEL: dict[str, Dialect | None] = {}
"""Where the first level of a topic decides alone, which it does: each dialect has its own."""
for _dialect in DIALECTS:
    for _filter in _dialect.topic_filters:
        _level = _filter.partition("/")[0]
        _FIRST_LEVEL[_level] = None if _FIRST_LEVEL.get(_level, _dialect) is not _dialect else _dialect


def decode(topic: str, payload: bytes) -> tuple[str, Decoded]:
    """Return the name of the dialect spoken on `topic` and what it makes of the message; never raises.

    The first level of the topic chooses the dialect, whose decoder judges the rest of the topic itself.
    """
    dialect = _FIRST_LEVEL.get(topic.partition("/")[0]) or dialect_of(topic)
    if dialect is None:
        filters = ", ".join(f for d in DIALECTS for f in d.topic_filters)
        fault = Fault(FaultReason.TOPIC_UNKNOWN, f"no dialect is spoken on topic {topic[:160]!a}; known: {filters}")
        return NO_DIALECT, Decoded(None, faults=(fault,))
    return dialect.name, dialect.decode(topic, payload)
