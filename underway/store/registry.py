"""The address book: sites, zones, assets, devices, channels, crews, leak signatures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from underway.model import (
    Asset,
    AssetClass,
    Channel,
    Crew,
    Device,
    DeviceStatus,
    LeakSignatures,
    NetworkModel,
    OperatorError,
    Quantity,
    Registry,
    Shift,
    Site,
    Zone,
    ZoneKind,
)

_SITE = ("site_id", "name", "timezone", "latitude_deg", "longitude_deg")
_ZONE = ("zone_id", "site_id", "name", "kind", "geometry", "attributes")
_ASSET = ("asset_id", "site_id", "zone_id", "asset_class", "name", "geometry", "criticality", "attributes")
_DEVICE = (
    *("device_id", "site_id", "zone_id", "asset_id", "model", "dialect", "registered_at"),
    *("status", "geometry", "attributes", "address"),
)
_CHANNEL = (
    *("device_id", "name", "quantity", "device_unit", "asset_id", "zone_id", "role"),
    *("range_min", "range_max", "interval_s", "resolution", "sign", "also_zone_id", "address"),
)
_CREW = ("crew_id", "site_id", "name", "longitude_deg", "latitude_deg", "phone", "language", "speed_kmph")
_FLOATS = frozenset({"latitude_deg", "longitude_deg", "range_min", "range_max", "interval_s", "resolution", "speed_kmph"})
_TYPE = {
    **dict.fromkeys(_FLOATS, "float8"),
    **dict.fromkeys(("geometry", "attributes"), "jsonb"),
    **dict.fromkeys(("sign", "criticality"), "int2"),
    "registered_at": "timestamptz",
    "channel_id": "int4",
}
"""SQL type of each column that is no text."""
ROWS_A_STATEMENT = 10_000
ROWS_AT_ONCE = 5_000


def save_registry(conn: Connection[Any], registry: Registry, crews: Sequence[Crew] = ()) -> Registry:
    """Write what is registered, new or changed, and return it with the channel ids filled in.

    Saving the same again changes nothing, and a channel keeps its id for good. What is in the store and not in `registry` stays: retire a
    device by its status.

    Parameters
    ----------
    conn : Connection
        In a transaction of ours (a savepoint inside the caller's).
    registry : Registry
        A channel is known by (device, name); its ``channel_id`` is not read.
    crews : sequence of Crew
        With their skills and shifts; ``busy_order_id`` belongs to the work side and is not written.

    Raises
    ------
    OperatorError
        When an id already belongs to another site, something refers to what is not registered, or an address is taken.
    """
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        _refuse_foreign(cursor, registry, crews)
        try:
            _upsert(cursor, "site", _SITE, 1, [registry.site])
            _upsert(cursor, "zone", _ZONE, 1, registry.zones)
            _upsert(cursor, "asset", _ASSET, 1, registry.assets)
            _free_addresses(cursor, registry.devices)
            _upsert(cursor, "device", _DEVICE, 1, registry.devices)
            ids = _channel_ids(cursor, [device.device_id for device in registry.devices])
            known = [channel for channel in registry.channels if (channel.device_id, channel.name) in ids]
            fresh = [channel for channel in registry.channels if (channel.device_id, channel.name) not in ids]
            _free_channel_addresses(cursor, known, ids)
            _update_channels(cursor, known, ids)
            _upsert(cursor, "channel", _CHANNEL, 2, fresh)
            _save_crews(cursor, crews)
        except psycopg.errors.ForeignKeyViolation as error:
            raise OperatorError(
                f"the registry of site '{registry.site.site_id}' refers to what is not registered: {error.diag.message_detail}"
            ) from error
        except psycopg.errors.UniqueViolation as error:
            raise OperatorError(
                f"an address must belong to one device of a dialect, and to one channel of a device: {error.diag.message_detail}"
            ) from error
        ids = _channel_ids(cursor, [device.device_id for device in registry.devices])
    return replace(registry, channels=tuple(replace(c, channel_id=ids[c.device_id, c.name]) for c in registry.channels))


def load_registry(conn: Connection[Any], site_id: str | None = None) -> Registry:
    """Return everything that is registered for a site, each kind sorted by its id.

    Parameters
    ----------
    conn : Connection
    site_id : str or None
        None: the only site.

    Raises
    ------
    OperatorError
        When there is no such site, or None was given and there is not exactly one.
    """
    # rows in pieces, which takes a transaction: a large registry is not twice in memory
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        sites = cursor.execute("SELECT site_id, name, timezone, latitude_deg, longitude_deg FROM site ORDER BY site_id").fetchall()
        names = ", ".join(repr(site[0]) for site in sites) or "none"
        chosen = [Site(*site) for site in sites if site_id in (None, site[0])]
        if len(chosen) != 1:
            wanted = "exactly one site must be registered" if site_id is None else f"no site '{site_id}' is registered"
            raise OperatorError(f"{wanted}; registered: {names}")
        site = chosen[0]
        values: dict[Any, Any] = {}
        nothing: dict[str, Any] = {}

        def once(value: Any) -> Any:
            """Return one copy of each text and number: a large registry says few of them often."""
            if value == {}:
                return nothing
            return values.setdefault(value, value) if isinstance(value, (str, float)) else value

        def rows(columns: Sequence[str], source: str) -> Iterator[list[Any]]:
            statement = f"SELECT {', '.join(columns)} FROM {source} WHERE site_id = %s ORDER BY 1"  # noqa: S608 constants only
            with conn.cursor("registry", row_factory=tuple_row) as pieces:
                pieces.itersize = ROWS_AT_ONCE
                for row in pieces.execute(statement.encode(), (site.site_id,)):
                    yield [once(value) for value in row]

        zones = tuple(Zone(a, b, c, ZoneKind(kind), d, e) for a, b, c, kind, d, e in rows(_ZONE, "zone"))
        assets = tuple(Asset(a, b, c, AssetClass(kind), d, e, f, g) for a, b, c, kind, d, e, f, g in rows(_ASSET, "asset"))
        devices = tuple(
            Device(a, b, c, d, e, f, g, DeviceStatus(status), h, i, j) for a, b, c, d, e, f, g, status, h, i, j in rows(_DEVICE, "device")
        )
        wanted_columns = ("channel_id", *("channel." + name for name in _CHANNEL))
        channels = tuple(
            Channel(row[0], row[1], row[2], Quantity(row[3]), *row[4:])
            for row in rows(wanted_columns, "channel JOIN device USING (device_id)")
        )
    return Registry(site, zones, assets, devices, channels)


def site_ids(conn: Connection[Any]) -> tuple[str, ...]:
    """Return the sites that are registered."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return tuple(row[0] for row in cursor.execute("SELECT site_id FROM site ORDER BY site_id"))


def ids_elsewhere(
    conn: Connection[Any], site_id: str, zone_ids: Sequence[str], asset_ids: Sequence[str], device_ids: Sequence[str]
) -> dict[str, str]:
    """Return those of the ids that another site uses, as ``{"device pr-1": "town"}``: ids are unique across sites."""
    found: dict[str, str] = {}
    with conn.cursor(row_factory=tuple_row) as cursor:
        for table, ids in (("zone", zone_ids), ("asset", asset_ids), ("device", device_ids)):
            statement = f"SELECT {table}_id, site_id FROM {table} WHERE {table}_id = ANY(%s) AND site_id <> %s"  # noqa: S608 constants only
            found |= {f"{table} {row[0]}": row[1] for row in cursor.execute(statement.encode(), (list(ids), site_id))}
    return found


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """What ingest knows of a device beside its readings; None: nothing.

    Attributes
    ----------
    online : bool or None
        Whether it says that it is there (Sparkplug births and deaths).
    online_since_at : datetime or None
    online_reason : str
    clock_offset_ms : int or None
        Estimated offset of its clock; positive when it is ahead.
    clock_since_at : datetime or None
    """

    online: bool | None = None
    online_since_at: datetime | None = None
    online_reason: str = ""
    clock_offset_ms: int | None = None
    clock_since_at: datetime | None = None


def load_device_health(conn: Connection[Any], site_id: str) -> dict[str, DeviceHealth]:
    """Return presence and clock offset of the devices of a site of which either is known, by device id."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT device_id, presence.online, presence.since_at, coalesce(presence.reason, ''), clock.offset_ms, clock.since_at"
            " FROM device_presence AS presence FULL JOIN device_clock AS clock USING (device_id) JOIN device USING (device_id)"
            " WHERE site_id = %s",
            (site_id,),
        )
        return {row[0]: DeviceHealth(*row[1:]) for row in rows}


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """A device with its channels by name."""

    device: Device
    channels: dict[str, Channel]


def device_map(registry: Registry) -> dict[str, DeviceEntry]:
    """Return the devices of a registry by id: what ingest looks up for every message."""
    entries = {device.device_id: DeviceEntry(device, {}) for device in registry.devices}
    for channel in registry.channels:
        entries[channel.device_id].channels[channel.name] = channel
    return entries


def load_crews(conn: Connection[Any], site_id: str) -> tuple[Crew, ...]:
    """Return the crews of a site with skills and shifts; ``busy_order_id`` is left to the work side."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT crew_id, site_id, name, ARRAY(SELECT skill FROM crew_skill WHERE crew_skill.crew_id = crew.crew_id ORDER BY skill),"
            " longitude_deg, latitude_deg, phone, language, speed_kmph FROM crew WHERE site_id = %s ORDER BY crew_id",
            (site_id,),
        ).fetchall()
        shifts: dict[str, list[Shift]] = {}
        for crew_id, starts_at, ends_at in cursor.execute(
            "SELECT crew_id, starts_at, ends_at FROM shift JOIN crew USING (crew_id) WHERE site_id = %s ORDER BY starts_at", (site_id,)
        ):
            shifts.setdefault(crew_id, []).append(Shift(starts_at, ends_at))
    return tuple(Crew(row[0], row[1], row[2], tuple(row[3]), row[4], row[5], tuple(shifts.get(row[0], ())), *row[6:]) for row in rows)


def save_leak_signatures(conn: Connection[Any], signatures: Sequence[LeakSignatures], model: str, computed_at: datetime) -> None:
    """Replace the leak signatures of the zones named.

    Parameters
    ----------
    conn : Connection
    signatures : sequence of LeakSignatures
        With stored channel ids.
    model : str
        Which hydraulic model they come from, for people.
    computed_at : datetime
        Aware.
    """
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO leak_signature (zone_id, pipe_ids, channel_ids, fall_kpa_per_m3ph, model, computed_at) VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (zone_id) DO UPDATE SET pipe_ids = excluded.pipe_ids, channel_ids = excluded.channel_ids,"
            " fall_kpa_per_m3ph = excluded.fall_kpa_per_m3ph, model = excluded.model, computed_at = excluded.computed_at",
            [
                (s.zone_id, list(s.pipe_ids), list(s.channel_ids), s.fall_kpa_per_m3ph.astype("<f8").tobytes(), model, computed_at)
                for s in signatures
            ],
        )


def load_leak_signatures(conn: Connection[Any], site_id: str) -> tuple[LeakSignatures, ...]:
    """Return the leak signatures of a site's zones, by zone id."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT zone_id, pipe_ids, channel_ids, fall_kpa_per_m3ph FROM leak_signature JOIN zone USING (zone_id)"
            " WHERE site_id = %s ORDER BY zone_id",
            (site_id,),
        ).fetchall()
    return tuple(
        LeakSignatures(
            zone_id, tuple(pipes), tuple(channels), np.frombuffer(fall, "<f8").reshape(len(pipes), len(channels)).astype(np.float64)
        )
        for zone_id, pipes, channels, fall in rows
    )


def save_network_model(conn: Connection[Any], model: NetworkModel, saved_at: datetime) -> None:
    """Store a site's hydraulic model in place of the one before; the same model again changes nothing.

    Parameters
    ----------
    conn : Connection
    model : NetworkModel
    saved_at : datetime
        Aware.
    """
    conn.execute(
        "INSERT INTO hydraulic_model (site_id, inp, element_of, digest, saved_at) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (site_id) DO UPDATE SET inp = excluded.inp, element_of = excluded.element_of, digest = excluded.digest,"
        " saved_at = excluded.saved_at WHERE hydraulic_model.digest <> excluded.digest",
        (model.site_id, model.inp, Jsonb(dict(model.element_of)), model.digest, saved_at),
    )


def load_network_models(conn: Connection[Any], site_id: str) -> tuple[NetworkModel, ...]:
    """Return the hydraulic model of a site, if it has one."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute("SELECT site_id, inp, element_of FROM hydraulic_model WHERE site_id = %s", (site_id,)).fetchall()
    return tuple(NetworkModel(*row) for row in rows)


def _upsert(cursor: psycopg.Cursor[Any], table: str, columns: Sequence[str], keys: int, values: Sequence[object]) -> None:
    """Insert or update rows; the first `keys` columns are the key, and an unchanged row is not written."""
    key, rest = ", ".join(columns[:keys]), columns[keys:]
    change = ", ".join(f"{name} = excluded.{name}" for name in rest)
    old, new = (", ".join(f"{where}.{name}" for name in rest) for where in (table, "excluded"))
    statement = (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({_arrays(columns)})"  # noqa: S608 constants only
        f" ON CONFLICT ({key}) DO UPDATE SET {change} WHERE ({old}) IS DISTINCT FROM ({new})"
    )
    rows = {tuple(getattr(value, name) for name in columns[:keys]): value for value in values}  # the last of a key wins
    _by_columns(cursor, statement, columns, [_row(value, columns) for value in rows.values()])


def _update_channels(cursor: psycopg.Cursor[Any], channels: Sequence[Channel], ids: dict[tuple[str, str], int]) -> None:
    """Update known channels under their ids, so that saving again takes no number from the sequence."""
    columns = _CHANNEL[2:]
    old, new = (", ".join(f"{where}.{name}" for name in columns) for where in ("channel", "told"))
    statement = (
        f"UPDATE channel SET ({', '.join(columns)}) = ROW ({new})"  # noqa: S608 constants only
        f" FROM unnest({_arrays((*columns, 'channel_id'))}) AS told ({', '.join((*columns, 'channel_id'))})"
        f" WHERE channel.channel_id = told.channel_id AND ({old}) IS DISTINCT FROM ({new})"
    )
    _by_columns(cursor, statement, (*columns, "channel_id"), [[*_row(c, columns), ids[c.device_id, c.name]] for c in channels])


def _free_addresses(cursor: psycopg.Cursor[Any], devices: Sequence[Device]) -> None:
    """Let go of the addresses that change hands, so that two devices can swap theirs in one go."""
    told = [(device.device_id, device.dialect, device.address) for device in devices]
    for first in range(0, len(told), ROWS_A_STATEMENT):
        ids, dialects, addresses = zip(*told[first : first + ROWS_A_STATEMENT], strict=True)
        cursor.execute(
            "UPDATE device SET address = '' FROM unnest(%s::text[], %s::text[], %s::text[]) AS told (device_id, dialect, address)"
            " WHERE device.device_id = told.device_id AND device.address <> ''"
            " AND (device.dialect, device.address) IS DISTINCT FROM (told.dialect, told.address)",
            (list(ids), list(dialects), list(addresses)),
        )


def _free_channel_addresses(cursor: psycopg.Cursor[Any], channels: Sequence[Channel], ids: dict[tuple[str, str], int]) -> None:
    """Let go of the addresses that change hands between channels."""
    statement = (
        "UPDATE channel SET address = '' FROM unnest(%s::int4[], %s::text[]) AS told (channel_id, address)"
        " WHERE channel.channel_id = told.channel_id AND channel.address <> '' AND channel.address <> told.address"
    )
    _by_columns(cursor, statement, ("channel_id", "address"), [[ids[c.device_id, c.name], c.address] for c in channels])


def _arrays(columns: Sequence[str]) -> str:
    """Return one placeholder a column, each an array of the column's type."""
    return ", ".join(f"%s::{_TYPE.get(name, 'text')}[]" for name in columns)


def _by_columns(cursor: psycopg.Cursor[Any], statement: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement whose parameters are the columns of `rows`, in pieces."""
    for first in range(0, len(rows), ROWS_A_STATEMENT):
        piece = rows[first : first + ROWS_A_STATEMENT]
        cursor.execute(statement.encode(), [[row[i] for row in piece] for i in range(len(columns))])


def _row(value: object, columns: Sequence[str]) -> list[Any]:
    """Return the attributes named `columns`; mappings become jsonb."""
    found = []
    for name in columns:
        item = getattr(value, name)
        if item is not None and name in ("geometry", "attributes"):
            item = Jsonb(dict(item))
        elif name in _FLOATS:
            item = float(item)
        found.append(item)
    return found


def _channel_ids(cursor: psycopg.Cursor[Any], device_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    rows = cursor.execute("SELECT device_id, name, channel_id FROM channel WHERE device_id = ANY(%s)", (list(device_ids),))
    return {(device_id, name): channel_id for device_id, name, channel_id in rows}


def _refuse_foreign(cursor: psycopg.Cursor[Any], registry: Registry, crews: Sequence[Crew]) -> None:
    """Refuse ids that belong to another site already: ids are unique across sites."""
    wanted = {
        "zone": [zone.zone_id for zone in registry.zones],
        "asset": [asset.asset_id for asset in registry.assets],
        "device": [device.device_id for device in registry.devices],
        "crew": [crew.crew_id for crew in crews],
    }
    problems: list[str] = []
    for table, ids in wanted.items():
        statement = f"SELECT {table}_id, site_id FROM {table} WHERE {table}_id = ANY(%s) AND site_id <> %s ORDER BY 1 LIMIT 5"  # noqa: S608 constants only
        problems += [
            f"{table} '{row[0]}' is in site '{row[1]}'" for row in cursor.execute(statement.encode(), (ids, registry.site.site_id))
        ]
    if problems:
        raise OperatorError(f"site '{registry.site.site_id}' cannot use ids that belong to another site: " + "; ".join(problems))


def _save_crews(cursor: psycopg.Cursor[Any], crews: Sequence[Crew]) -> None:
    """Write crews; their skills and shifts become exactly those given."""
    if not crews:
        return
    ids = [crew.crew_id for crew in crews]
    skills = sorted({skill for crew in crews for skill in crew.skills})
    _upsert(cursor, "crew", _CREW, 1, crews)
    cursor.executemany("INSERT INTO skill (skill, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", [(s, s.replace("_", " ")) for s in skills])
    cursor.execute("DELETE FROM crew_skill WHERE crew_id = ANY(%s)", (ids,))
    cursor.executemany(
        "INSERT INTO crew_skill (crew_id, skill) VALUES (%s, %s)", [(crew.crew_id, s) for crew in crews for s in set(crew.skills)]
    )
    cursor.execute("DELETE FROM shift WHERE crew_id = ANY(%s)", (ids,))
    cursor.executemany(
        "INSERT INTO shift (crew_id, starts_at, ends_at) VALUES (%s, %s, %s)",
        [(crew.crew_id, shift.starts_at, shift.ends_at) for crew in crews for shift in crew.shifts],
    )
