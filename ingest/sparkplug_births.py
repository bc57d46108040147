"""Births of Sparkplug nodes and devices: what their aliases mean, and how data are read by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import ge
from typing import NamedTuple, TypeVar

import msgspec

from ingest.decoded import FAULTS_MAX, Decoded
from ingest.sparkplug_message import NUMERIC, SIGNED_BITS, BornMetric, PresenceReason, SparkplugMessage, Why, signed
from ingest.sparkplug_schema import DataType
from underway.model import Fault, FaultReason

PLANS_MAX = 64
"""Most message shapes that are kept for one birth."""
PLAN_ROWS_MAX = 500

T = TypeVar("T")


class Plan(NamedTuple):
    """How messages of one shape are read: found once, for the aliases of one birth.

    `keep` are the rows that are measurements (None: all), `datatype` the announced type of each row, `negative` the smallest bits of its type that
    mean a negative number (infinity: none do), `unknown` the aliases of no metric.
    """

    channel: tuple[str, ...]
    unit: tuple[str | None, ...] | None
    keep: tuple[int, ...] | None
    datatype: tuple[int, ...]
    negative: tuple[float, ...]
    unknown: tuple[int, ...]


class Birth:
    """What a node or a device announced, whether that still counts, and whether it is there."""

    __slots__ = ("by_alias", "by_name", "doubt", "metrics", "online", "plans", "reason", "since_us", "valid")

    def __init__(self) -> None:
        self.metrics: tuple[BornMetric, ...] = ()
        self.by_alias: dict[int, BornMetric] = {}
        self.by_name: dict[str, BornMetric] = {}
        self.plans: dict[object, Plan] = {}
        self.valid = False
        self.doubt = 0
        self.online = False
        self.since_us = 0
        self.reason = PresenceReason.BIRTH

    def announce(self, metrics: tuple[BornMetric, ...]) -> None:
        """Take a new birth in the place of the old one."""
        self.metrics = metrics
        self.by_alias = {m.alias: m for m in metrics if m.alias >= 0}
        self.by_name = {m.name: m for m in metrics}
        self.plans = {}
        self.valid = True
        self.doubt = 0

    def end(self) -> None:
        """Let the aliases count no more; what was announced stays known."""
        self.valid = False
        self.plans.clear()

    def renames(self, metrics: tuple[BornMetric, ...]) -> bool:
        """Return whether `metrics` give an alias another name than this birth."""
        known = self.by_alias
        return any(m.alias in known and known[m.alias].name != m.name for m in metrics)


def read(decoded: Decoded, more: SparkplugMessage, birth: Birth | None) -> tuple[Decoded, Why | None]:
    """Return the samples of a data message by the names, units and types of a birth, and why a birth has to be asked for.

    Parameters
    ----------
    decoded : Decoded
        As the dialect gave it.
    more : SparkplugMessage
        Its ``decoded.more``.
    birth : Birth or None
        Of the node or device that speaks.

    Returns
    -------
    (Decoded, Why or None)
        Without the samples that no birth explains; for these there is a fault `FaultReason.BIRTH_MISSING`.
    """
    if birth is None or not birth.valid:
        return _without_birth(decoded, more), Why.DEVICE_UNBORN
    plan = _plan(decoded, more, birth)
    value, faults, keep = decoded.value, decoded.faults, plan.keep
    if more.width is not None:
        value, faults, keep = _integers(decoded, more.width, plan)
    why = None
    if plan.unknown:
        told = ", ".join(str(alias) for alias in plan.unknown[:5])
        message = (
            f"an alias must be one of the {len(birth.by_alias)} in the birth of '{more.address}', got {len(plan.unknown)} that are not: {told};"
            " asked for a birth"
        )
        faults = _with(faults, Fault(FaultReason.BIRTH_MISSING, message, more.address))
        why = Why.ALIAS_UNKNOWN
    if keep is not None:
        return _kept(decoded, keep, plan.channel, plan.unit, value, faults), why
    return (
        Decoded(
            decoded.device,
            plan.channel,
            decoded.observed_us,
            value,
            plan.unit,
            decoded.quality,
            decoded.reason,
            decoded.from_reception,
            decoded.historical,
            faults,
            announcement=decoded.announcement,
            more=more,
        ),
        why,
    )


def read_birth(decoded: Decoded, more: SparkplugMessage, *faults: Fault) -> Decoded:
    """Return the samples of a birth, which tells names and units itself, with further `faults`."""
    if more.width is None and not faults:
        return decoded
    return msgspec.structs.replace(decoded, value=[float(v) for v in decoded.value], faults=_with(decoded.faults, *faults))


def _with(faults: tuple[Fault, ...], *more: Fault) -> tuple[Fault, ...]:
    """Return all faults, at most as many as a message may have; those of the host before the last of the decoder."""
    return (*faults[: FAULTS_MAX - len(more)], *more)


def _plan(decoded: Decoded, more: SparkplugMessage, birth: Birth) -> Plan:
    shape: object = more.aliases
    if decoded.unit is not None or more.aliases is None or -1 in more.aliases:
        shape = decoded.channel, decoded.unit, more.aliases
    plan = birth.plans.get(shape)
    if plan is None:
        plan = _planned(decoded.channel, decoded.unit, more.aliases, birth)
        if len(decoded) <= PLAN_ROWS_MAX:
            if len(birth.plans) >= PLANS_MAX:
                birth.plans.clear()
            birth.plans[shape] = plan
    return plan


def _planned(channel: Sequence[str], unit: Sequence[str | None] | None, aliases: tuple[int, ...] | None, birth: Birth) -> Plan:
    """Return how samples of this shape are read under a birth."""
    names: list[str] = []
    units: list[str | None] = []
    types: list[int] = []
    keep: list[int] = []
    unknown: list[int] = []
    for i, told in enumerate(channel):
        alias = -1 if aliases is None else aliases[i]
        metric = birth.by_name.get(told) if alias < 0 else birth.by_alias.get(alias)
        told_unit = None if unit is None else unit[i]
        names.append(told if metric is None else metric.name)
        # by alias a unit can only be told by a property of this message; by name it may be a guess from the name, and the birth knows better
        born_unit = None if metric is None else metric.unit
        units.append((told_unit or born_unit) if alias >= 0 else (born_unit or told_unit))
        types.append(DataType.UNKNOWN if metric is None else metric.datatype)
        if metric is None and alias >= 0:
            unknown.append(alias)
        elif metric is None or metric.is_measurement:
            keep.append(i)
    all_kept = len(keep) == len(names)
    no_unit = all(u is None for u in units)
    return Plan(
        tuple(names),
        None if no_unit else tuple(units),
        None if all_kept else tuple(keep),
        tuple(types),
        tuple([_NEGATIVE.get(t, math.inf) for t in types]),
        tuple(unknown),
    )


def _without_birth(decoded: Decoded, more: SparkplugMessage) -> Decoded:
    """Return the samples that tell their name and type themselves, and a fault for the others."""
    n = len(decoded)
    aliases = more.aliases or (-1,) * n
    width = more.width or bytes(n)
    keep = tuple([i for i in range(n) if aliases[i] < 0 and not width[i]])
    lost = n - len(keep)
    if not lost:
        return decoded
    message = f"a birth of '{more.address}' must come before its data, got {lost} values by alias or without a type; asked for a birth"
    faults = _with(decoded.faults, Fault(FaultReason.BIRTH_MISSING, message, more.address))
    return _kept(decoded, keep, decoded.channel, decoded.unit, decoded.value, faults)


def _integers(decoded: Decoded, width: bytes, plan: Plan) -> tuple[list[float], tuple[Fault, ...], tuple[int, ...] | None]:
    """Return the values with integers read by the types of the birth, the faults, and the rows that are kept (None: all)."""
    if not any(map(ge, decoded.value, plan.negative)):
        return list(map(float, decoded.value)), decoded.faults, plan.keep
    values: list[float] = []
    wrong: set[int] = set()
    first: Fault | None = None
    for i, (value, bits, datatype) in enumerate(zip(decoded.value, width, plan.datatype, strict=True)):
        read = signed(int(value), datatype, bits) if bits and datatype in NUMERIC else value
        if read is None:
            wrong.add(i)
            if first is None:
                message = (
                    f"'{plan.channel[i]}' must be a number of type {DataType(datatype).name}, got {int(value)} (device '{decoded.device}')"
                )
                first = Fault(FaultReason.VALUE_TYPE, message, decoded.device)
            read = value
        values.append(float(read))
    if first is None:
        return values, decoded.faults, plan.keep
    more = f"; and {len(wrong) - 1} more values of this message" if len(wrong) > 1 else ""
    fault = Fault(first.reason, first.message + more, first.device_id)
    kept = tuple([i for i in (range(len(values)) if plan.keep is None else plan.keep) if i not in wrong])
    return values, _with(decoded.faults, fault), kept


_NEGATIVE = {int(kind): 1 << (bits - 1) for kind, bits in SIGNED_BITS.items()}


def _kept(
    decoded: Decoded,
    keep: tuple[int, ...],
    channel: Sequence[str],
    unit: Sequence[str | None] | None,
    value: Sequence[float],
    faults: tuple[Fault, ...],
) -> Decoded:
    """Return the rows `keep` of a message."""

    def of(column: Sequence[T] | None) -> list[T] | None:
        return None if column is None else [column[i] for i in keep]

    return Decoded(
        decoded.device,
        tuple([channel[i] for i in keep]),
        [decoded.observed_us[i] for i in keep],
        [float(value[i]) for i in keep],
        None if unit is None else tuple([unit[i] for i in keep]),
        of(decoded.quality),
        of(decoded.reason),
        of(decoded.from_reception),
        of(decoded.historical),
        faults,
        announcement=decoded.announcement,
        more=decoded.more,
    )
