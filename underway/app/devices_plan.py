"""What an import would do: rows that are new, changed (old -> new) and unchanged, for people and for machines. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from underway.app.devices_check import Wanted
from underway.model import CANONICAL_UNIT, Asset, Channel, Device, Registry, Site, Zone


class Change(StrEnum):
    """What becomes of a row."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the plan.

    Attributes
    ----------
    kind : str
        ``site``, ``zone``, ``asset``, ``device`` or ``channel``.
    row_id : str
        Of a channel ``device/name``.
    fields : mapping of str to (old, new)
        What is different; of a new row everything, with None as old.
    assumed : tuple of str
        Fields that the file did not say.
    """

    kind: str
    row_id: str
    change: Change
    fields: Mapping[str, tuple[Any, Any]]
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All rows, and the part of the registry that must be written."""

    site_id: str
    rows: tuple[Row, ...]
    to_write: Registry | None

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many rows of each kind are new, changed and unchanged."""
        found = Counter((row.kind, row.change) for row in self.rows)
        kinds = dict.fromkeys(row.kind for row in self.rows)
        return {kind: {change.value: found[kind, change] for change in Change} for kind in kinds}

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "site": self.site_id,
            "counts": self.counts(),
            "rows": [
                {
                    "kind": row.kind,
                    "id": row.row_id,
                    "is": row.change.value,
                    "fields": {name: [_plain(old), _plain(new)] for name, (old, new) in row.fields.items()},
                    **({"assumed": list(row.assumed)} if row.assumed else {}),
                }
                for row in self.rows
            ],
        }


def plan(known: Registry | None, wanted: Wanted) -> Plan:
    """Compare what a file asks for with what is registered."""
    now = wanted.registry
    rows: list[Row] = []
    old_site = None if known is None else known.site
    rows.append(_row("site", now.site.site_id, old_site, now.site))
    before = known or Registry(now.site)
    assumed = wanted.assumed
    rows += _rows("zone", [(z.zone_id, z) for z in now.zones], {z.zone_id: z for z in before.zones}, assumed)
    rows += _rows("asset", [(a.asset_id, a) for a in now.assets], {a.asset_id: a for a in before.assets}, assumed)
    rows += _rows("device", [(d.device_id, d) for d in now.devices], {d.device_id: d for d in before.devices}, assumed)
    rows += _rows("channel", [(_channel_row(c), c) for c in now.channels], {_channel_row(c): c for c in before.channels}, assumed)
    return Plan(now.site.site_id, tuple(rows), _to_write(now, rows))


def details(row: Row) -> str:
    """Return what a person wants to know of a row, on one line; ``*`` marks what was assumed."""
    if row.change is Change.UNCHANGED:
        return ""
    if row.change is Change.CHANGED:
        return ", ".join(f"{name} {_said(old)} -> {_said(new)}" for name, (old, new) in row.fields.items())
    value = {name: new for name, (_, new) in row.fields.items()}

    def star(*names: str) -> str:
        return "*" if any(name in row.assumed for name in names) else ""

    if row.kind == "channel":
        canonical = CANONICAL_UNIT[value["quantity"]]
        parts = [
            f"{value['quantity']} in {value['device_unit']}{star('unit')}",
            f"{value['role']}{star('role')}",
            f"{value['range_min']:g}..{value['range_max']:g} {canonical}{star('range_min', 'range_max')}",
            f"every {value['interval_s']:g} s{star('interval_s')}",
        ]
        if value["zone_id"] is not None:
            parts.append(f"zone {value['zone_id']}")
        if value["address"]:
            parts.append(f"called '{value['address']}'")
        return ", ".join(parts)
    shown = ("dialect", "address", "model", "zone_id", "asset_id", "status", "name", "kind", "asset_class", "timezone", "registered_at")
    said = [name for name in shown if value.get(name) not in (None, "") and name != f"{row.kind}_id"]
    return ", ".join(f"{name} {_said(value[name])}{star(name)}" for name in said)


def _rows(
    kind: str, now: Sequence[tuple[str, object]], before: Mapping[str, object], assumed: Mapping[tuple[str, str], tuple[str, ...]]
) -> Iterator[Row]:
    for row_id, value in now:
        yield _row(kind, row_id, before.get(row_id), value, assumed.get((kind, row_id), ()))


def _row(kind: str, row_id: str, old: Any, new: Any, assumed: tuple[str, ...] = ()) -> Row:
    if old == new:
        return Row(kind, row_id, Change.UNCHANGED, {})
    names = _NAMES[type(new)]
    if old is None:
        return Row(kind, row_id, Change.NEW, {name: (None, getattr(new, name)) for name in names}, assumed)
    different = {name: (getattr(old, name), getattr(new, name)) for name in names if getattr(old, name) != getattr(new, name)}
    return Row(kind, row_id, Change.CHANGED, different)


_NAMES: dict[type, tuple[str, ...]] = {
    kind: tuple(f.name for f in fields(kind) if f.name != "channel_id") for kind in (Site, Zone, Asset, Device, Channel)
}


def _to_write(now: Registry, rows: Sequence[Row]) -> Registry | None:
    """Return the rows that are not unchanged, with the devices that their channels need; None: nothing."""
    touched = {(row.kind, row.row_id) for row in rows if row.change is not Change.UNCHANGED}
    if not touched:
        return None
    channels = tuple(c for c in now.channels if ("channel", _channel_row(c)) in touched)
    owners = {c.device_id for c in channels}
    return Registry(
        now.site,
        tuple(z for z in now.zones if ("zone", z.zone_id) in touched),
        tuple(a for a in now.assets if ("asset", a.asset_id) in touched),
        tuple(d for d in now.devices if ("device", d.device_id) in touched or d.device_id in owners),
        channels,
    )


def _channel_row(channel: Channel) -> str:
    return f"{channel.device_id}/{channel.name}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value.value if isinstance(value, StrEnum) else value


def _said(value: Any) -> str:
    if value is None or value == "":
        return "none"
    plain = _plain(value)
    text = f"{plain:g}" if isinstance(plain, float) else str(plain)
    return text if len(text) <= 60 else text[:57] + "..."
