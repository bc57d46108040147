"""The one reviewed file of alarm types, read and checked at start: every problem at once."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

from underway.model import FindingKind, Priority, SettingsError

DEFAULT_FILE = "alarm_types.toml"


class OrderPolicy(StrEnum):
    """What an alarm does about a work order when its incident has none open."""

    AUTOMATIC = "automatic"
    PROPOSED = "proposed"
    NONE = "none"


class VerificationTest(StrEnum):
    """Which test of the verification table decides."""

    BURST = "burst"
    NIGHTS = "nights"
    INSIDE_BAND = "inside_band"
    PASSES = "passes"


class GroupBy(StrEnum):
    """Which alarms of one incident kind have one cause: those of a zone, or those of an asset."""

    ZONE = "zone"
    ASSET = "asset"


@dataclass(frozen=True, slots=True)
class VerificationSpec:
    """How a repair of one alarm type is verified; thresholds come from data when the plan is frozen.

    Attributes
    ----------
    signals : tuple of str
        Templates with ``{zone_id}`` and ``{asset_id}``.
    pressures_of_zone : bool
        Also test the pressure signals of the zone.
    sigma_factor, excess_fraction : float
        The residual must come below ``max(sigma_factor * sigma, excess_fraction * excess)``.
    evidence_min, settle_min, fail_after_min : float
        Minutes of data needed; minutes after DONE that are left out; minutes of data after which FAIL may be said.
    fail_excess_fraction : float
        FAIL before the deadline only when the residual is still above this fraction of the excess.
    night_from, night_to : time or None
        Local night window.
    """

    test: VerificationTest
    signals: tuple[str, ...]
    sigma_factor: float
    excess_fraction: float
    evidence_min: float
    settle_min: float
    fail_after_min: float
    fail_excess_fraction: float
    deadline_h: float
    pressures_of_zone: bool = False
    night_from: time | None = None
    night_to: time | None = None
    passes: int = 0
    nights_needed: int = 0
    nights_of: int = 0


@dataclass(frozen=True, slots=True)
class AlarmType:
    """What one kind of finding means for people; durations in seconds."""

    kind: FindingKind
    priority: Priority
    on_delay_s: float
    off_delay_s: float
    realarm_s: float
    stale_after_s: float
    shelvable: bool
    safety: bool
    incident: str
    group_by: GroupBy
    group_window_s: float
    order: OrderPolicy
    order_type: str
    verification: VerificationSpec


@dataclass(frozen=True, slots=True)
class OrderType:
    """A type of work order: its title, the skill that it needs, the checklist items that DONE needs."""

    name: str
    title: str
    skill: str
    checklist: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlaTarget:
    """Minutes from ``aware_at`` until someone has acknowledged, and until a crew is on site."""

    ack_min: float
    on_site_min: float


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything of the reviewed file."""

    alarms: Mapping[str, AlarmType]
    orders: Mapping[str, OrderType]
    sla: Mapping[Priority, SlaTarget]
    no_receipt: Mapping[Priority, timedelta]
    alarm_ack_timer: timedelta
    skill_grace: timedelta
    dispatch_retry: timedelta
    detour_factor: float
    review_items_open_max: int
    warranty: timedelta
    rework_auto_max: int

    @property
    def skills(self) -> tuple[str, ...]:
        """Return every skill that an order can need, sorted."""
        return tuple(sorted({order.skill for order in self.orders.values()}))


class _Reader:
    """Reads typed fields out of a parsed table and remembers every problem."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def table(self, of: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
        value = of.get(key)
        if isinstance(value, Mapping):
            return value
        self.problems.append(f"[{where}] must be a table, got {value!r}")
        return {}

    def number(
        self, of: Mapping[str, Any], key: str, where: str, low: float = 0.0, high: float = 1e9, default: float | None = None
    ) -> float:
        value = of.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            self.problems.append(f"{where}.{key} must be a number in {low:g}..{high:g}, got {value!r}")
            return low
        return float(value)

    def flag(self, of: Mapping[str, Any], key: str, where: str) -> bool:
        value = of.get(key)
        if not isinstance(value, bool):
            self.problems.append(f"{where}.{key} must be true or false, got {value!r}")
            return False
        return value

    def text(self, of: Mapping[str, Any], key: str, where: str) -> str:
        value = of.get(key)
        if not isinstance(value, str) or not value.strip():
            self.problems.append(f"{where}.{key} must be a text, got {value!r}")
            return "?"
        return value

    def texts(self, of: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        value = of.get(key)
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.problems.append(f"{where}.{key} must be a list of texts, got {value!r}")
            return ()
        return tuple(value)

    def one_of(self, of: Mapping[str, Any], key: str, where: str, words: type[StrEnum]) -> StrEnum:
        value = of.get(key)
        members = list(words)
        if value not in {str(m) for m in members}:
            self.problems.append(f"{where}.{key} must be one of {', '.join(members)}, got {value!r}")
            return members[0]
        return words(str(value))

    def unknown(self, of: Mapping[str, Any], known: set[str], where: str) -> None:
        self.problems.extend(f"{where}.{key} is not a setting; known: {', '.join(sorted(known))}" for key in of if key not in known)

    def window(self, of: Mapping[str, Any], where: str) -> tuple[time | None, time | None]:
        value = of.get("night")
        if value is None:
            return None, None
        try:
            begin, end = (time.fromisoformat(part) for part in str(value).split("-"))
        except ValueError:
            begin = end = time(0)
        if begin >= end:
            self.problems.append(f"{where}.night must be a window HH:MM-HH:MM inside one day, got {value!r}")
            return None, None
        return begin, end


ALARM_KEYS = {
    "priority",
    "on_delay_s",
    "off_delay_s",
    "realarm_s",
    "stale_after_s",
    "shelvable",
    "safety",
    "incident",
    "group_by",
    "group_window_s",
    "order",
    "order_type",
    "verification",
}
VERIFICATION_KEYS = {
    "test",
    "signals",
    "pressures",
    "sigma_factor",
    "excess_fraction",
    "evidence_min",
    "settle_min",
    "fail_after_min",
    "fail_excess_fraction",
    "night",
    "passes",
    "nights_needed",
    "nights_of",
    "deadline_h",
}


def _verification(read: _Reader, raw: Mapping[str, Any], where: str) -> VerificationSpec:
    read.unknown(raw, VERIFICATION_KEYS, where)
    test = VerificationTest(read.one_of(raw, "test", where, VerificationTest))
    night_from, night_to = read.window(raw, where)
    if test in (VerificationTest.BURST, VerificationTest.NIGHTS) and "night" not in raw:
        read.problems.append(f"{where}.night must be given for test {str(test)!r}")
    if raw.get("pressures", "zone") != "zone":
        read.problems.append(f"{where}.pressures must be 'zone' or left out, got {raw['pressures']!r}")
    signals = read.texts(raw, "signals", where)
    for name in signals:
        try:
            name.format(zone_id="z", asset_id="a")
        except (KeyError, IndexError, ValueError):
            read.problems.append(f"{where}.signals may only use {{zone_id}} and {{asset_id}}, got {name!r}")
    needs_passes, needs_nights = test is VerificationTest.PASSES, test is VerificationTest.NIGHTS
    nights_needed = int(read.number(raw, "nights_needed", where, 1, 30)) if needs_nights else 0
    nights_of = int(read.number(raw, "nights_of", where, max(nights_needed, 1), 30)) if needs_nights else 0
    return VerificationSpec(
        test=test,
        signals=signals,
        sigma_factor=read.number(raw, "sigma_factor", where, 0.1, 10),
        excess_fraction=read.number(raw, "excess_fraction", where, 0, 1),
        evidence_min=read.number(raw, "evidence_min", where, 0, 20160),
        settle_min=read.number(raw, "settle_min", where, 0, 1440),
        fail_after_min=read.number(raw, "fail_after_min", where, 0, 20160),
        fail_excess_fraction=read.number(raw, "fail_excess_fraction", where, 0, 1),
        deadline_h=read.number(raw, "deadline_h", where, 0.1, 8760),
        pressures_of_zone="pressures" in raw,
        night_from=night_from,
        night_to=night_to,
        passes=int(read.number(raw, "passes", where, 1, 100000)) if needs_passes else 0,
        nights_needed=nights_needed,
        nights_of=nights_of,
    )


def _alarm(read: _Reader, kind: FindingKind, raw: Mapping[str, Any], order_types: Mapping[str, OrderType]) -> AlarmType:
    where = f"alarm.{kind}"
    read.unknown(raw, ALARM_KEYS, where)
    order_type = read.text(raw, "order_type", where)
    if order_type != "?" and order_type not in order_types:
        read.problems.append(f"{where}.order_type must be one of {', '.join(order_types)}, got {order_type!r}")
    return AlarmType(
        kind=kind,
        priority=Priority(read.one_of(raw, "priority", where, Priority)),
        on_delay_s=read.number(raw, "on_delay_s", where),
        off_delay_s=read.number(raw, "off_delay_s", where),
        realarm_s=read.number(raw, "realarm_s", where),
        stale_after_s=read.number(raw, "stale_after_s", where, 60),
        shelvable=read.flag(raw, "shelvable", where),
        safety=read.flag(raw, "safety", where),
        incident=read.text(raw, "incident", where),
        group_by=GroupBy(read.one_of(raw, "group_by", where, GroupBy)),
        group_window_s=read.number(raw, "group_window_s", where, 60),
        order=OrderPolicy(read.one_of(raw, "order", where, OrderPolicy)),
        order_type=order_type,
        verification=_verification(read, read.table(raw, "verification", f"{where}.verification"), f"{where}.verification"),
    )


def parse_policy(text: str) -> Policy:
    """Return the policy that a TOML text says.

    Raises
    ------
    SettingsError
        With every problem of the file at once.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"the file of alarm types must be TOML: {error}"]) from error
    read = _Reader()
    general = read.table(raw, "policy", "policy")
    receipts = read.table(general, "no_receipt_min", "policy.no_receipt_min")
    sla_raw = read.table(raw, "sla", "sla")
    order_raw = read.table(raw, "order", "order")
    alarm_raw = read.table(raw, "alarm", "alarm")
    orders = {}
    for name in order_raw:
        table, where = read.table(order_raw, name, f"order.{name}"), f"order.{name}"
        read.unknown(table, {"title", "skill", "checklist"}, where)
        orders[name] = OrderType(
            name, read.text(table, "title", where), read.text(table, "skill", where), read.texts(table, "checklist", where)
        )
    sla = {}
    for priority in Priority:
        table, where = read.table(sla_raw, priority, f"sla.{priority}"), f"sla.{priority}"
        sla[priority] = SlaTarget(read.number(table, "ack_min", where, 1), read.number(table, "on_site_min", where, 1))
    kinds = {str(kind) for kind in FindingKind}
    read.problems.extend(
        f"alarm.{name} is not a finding kind; known: {', '.join(sorted(kinds))}" for name in alarm_raw if name not in kinds
    )
    read.problems.extend(f"alarm.{kind} is missing" for kind in FindingKind if kind not in alarm_raw)
    alarms = {
        str(kind): _alarm(read, kind, read.table(alarm_raw, kind, f"alarm.{kind}"), orders) for kind in FindingKind if kind in alarm_raw
    }
    policy = Policy(
        alarms=alarms,
        orders=orders,
        sla=sla,
        no_receipt={p: timedelta(minutes=read.number(receipts, p, "policy.no_receipt_min", 1)) for p in Priority},
        alarm_ack_timer=timedelta(minutes=read.number(general, "alarm_ack_timer_min", "policy", 1)),
        skill_grace=timedelta(minutes=read.number(general, "crew_skill_grace_min", "policy")),
        dispatch_retry=timedelta(minutes=read.number(general, "dispatch_retry_min", "policy", 0.1)),
        detour_factor=read.number(general, "detour_factor", "policy", 1, 5),
        review_items_open_max=int(read.number(general, "review_items_open_max", "policy", 1)),
        warranty=timedelta(days=read.number(general, "warranty_days", "policy", 0, 3650)),
        rework_auto_max=int(read.number(general, "rework_auto_max", "policy", 0, 100)),
    )
    if read.problems:
        raise SettingsError(read.problems)
    return policy


def load_policy(path: Path | None = None) -> Policy:
    """Return the policy of a file, or the one that ships with underway.

    Raises
    ------
    SettingsError
        With every problem of the file at once.
    """
    try:
        text = files("workorders").joinpath(DEFAULT_FILE).read_text("utf-8") if path is None else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"the file of alarm types must be readable UTF-8, got {error} (path {str(path)!r})"]) from error
    return parse_policy(text)
