"""``underway device``: register devices by file, and accept those that announced themselves."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from underway.app.devices_check import check
from underway.app.devices_export import export
from underway.app.devices_pending import ChannelWish, guess_channel, guess_interval_s, parse_wish
from underway.app.devices_plan import Plan, plan
from underway.app.devices_read import (
    FILE_BYTES_MAX,
    SUFFIXES,
    DeviceRecord,
    Document,
    Problem,
    Problems,
    Record,
    nearest,
    read_document,
    shown,
)
from underway.app.settings import Settings, load_settings
from underway.model import DeviceStatus, OperatorError, Registry
from underway.store.connect import connect
from underway.store.pending import PendingRow, PendingStatus, find_pending, list_pending, mark_pending
from underway.store.registry import DeviceHealth, ids_elsewhere, load_device_health, load_registry, save_registry, site_ids

PROBLEMS_SHOWN_MAX = 50
EXAMPLES_MAX = 5
BEFORE_FIRST_HEARD = timedelta(days=1)
"""Readings from before a device was registered are refused; its first messages, replayed from quarantine, say what was a while before."""

Told = Callable[[str], None]


class RegistrationError(OperatorError):
    """What was asked to be registered has problems; nothing was written.

    Attributes
    ----------
    source : str
        The file, or the command.
    problems : tuple of Problem
        The first ones.
    count : int
        How many there are.
    """

    def __init__(self, source: str, problems: Problems) -> None:
        self.source, self.problems, self.count = source, tuple(problems.kept), problems.count
        noun = "problem" if self.count == 1 else "problems"
        lines = [str(problem) for problem in self.problems[:PROBLEMS_SHOWN_MAX]]
        if self.count > len(lines):
            lines.append(f"and {self.count - len(lines)} more")
        super().__init__(f"{self.count} {noun} in {source}, nothing was written:\n  " + "\n  ".join(lines))

    def plain(self) -> dict[str, Any]:
        """Return the problems as plain JSON values."""
        return {
            "source": self.source,
            "written": False,
            "problems": [_plain_problem(problem) for problem in self.problems],
            "problem_count": self.count,
        }


def _plain_problem(problem: Problem) -> dict[str, Any]:
    return {"place": problem.place, "field": problem.field, "message": problem.message}


def import_devices(path: Path, site_id: str | None, dry_run: bool, told: Told) -> Plan:
    """Register what a file holds, all or nothing.

    Parameters
    ----------
    path : Path
    site_id : str or None
        None: the site of the file, else the one of the settings, else the only one.
    dry_run : bool
        Only say what would be done.
    told : callable (str) -> None
        Hears how far it is.

    Raises
    ------
    RegistrationError
        With every problem of the file.
    """
    gc.disable()  # a file makes millions of small objects that all stay: looking for cycles among them costs a fourth of the time
    try:
        problems = Problems()
        document = read_document(path.name, _bytes_of(path), problems)
        if problems.count and not (document.site or document.zones or document.assets or document.devices):
            raise RegistrationError(path.name, problems)
        channels = sum(len(device.channels) for device in document.devices)
        told(f"read {len(document.devices):,} devices with {channels:,} channels from {path.name}")
        settings = load_settings(("database_url",))
        with connect(settings.database_url, application_name="underway-device", statement_timeout_s=0) as conn:
            chosen = _site_of(document, site_id, settings)
            return register(conn, document, path.name, chosen, dry_run, datetime.now(UTC), told, problems)
    finally:
        gc.enable()


def register(
    conn: psycopg.Connection[Any],
    document: Document,
    source: str,
    site_id: str | None,
    dry_run: bool,
    now_at: datetime,
    told: Told,
    problems: Problems | None = None,
) -> Plan:
    """Check a document against what is registered and write what is new or changed, in one transaction; parameters as `import_devices`.

    `problems` are those of reading the document: they are told with the others, and nothing is written.
    """
    problems = problems or Problems()
    if _is_of_another_site(document, site_id, problems):
        raise RegistrationError(source, problems)  # against which of the two the rest must be checked is not known
    with conn.transaction():
        known = _known(conn, document, site_id)
        wanted = check(document, known, _elsewhere(conn, document, site_id or (known.site.site_id if known else "")), now_at, problems)
        if wanted is None:
            raise RegistrationError(source, problems)
        found = plan(known, wanted)
        told(f"checked: {_summary(found)}")
        if not dry_run and found.to_write is not None:
            save_registry(conn, found.to_write)
            told("written")
    return found


def list_devices(site_id: str | None, status: DeviceStatus | None) -> dict[str, Any]:
    """Return the registered devices with their channels as plain JSON values."""
    settings = load_settings(("database_url",))
    with connect(settings.database_url, application_name="underway-device") as conn:
        registry = load_registry(conn, site_id or settings.site_id or None)
        health = load_device_health(conn, registry.site.site_id)
    channels: dict[str, list[dict[str, Any]]] = {}
    for channel in registry.channels:
        channels.setdefault(channel.device_id, []).append(
            {
                "name": channel.name,
                "address": channel.spoken_address,
                "quantity": channel.quantity.value,
                "unit": channel.device_unit,
                "role": channel.role,
            }
        )
    return {
        "site": registry.site.site_id,
        "devices": [
            {
                "id": device.device_id,
                "dialect": device.dialect,
                "address": device.spoken_address,
                "model": device.model,
                "zone": device.zone_id,
                "asset": device.asset_id,
                "status": device.status.value,
                "registered_at": _instant(device.registered_at),
                **_plain_health(health.get(device.device_id, DeviceHealth())),
                "channels": channels.get(device.device_id, []),
            }
            for device in registry.devices
            if status is None or device.status is status
        ],
    }


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _plain_health(health: DeviceHealth) -> dict[str, Any]:
    """Return what ingest knows of a device; null: it never said whether it is there, its clock was never seen to be off."""
    return {
        "online": health.online,
        "online_since": None if health.online_since_at is None else _instant(health.online_since_at),
        "online_reason": health.online_reason,
        "clock_offset_s": None if health.clock_offset_ms is None else health.clock_offset_ms / 1000,
        "clock_since": None if health.clock_since_at is None else _instant(health.clock_since_at),
    }


def export_devices(path: Path, site_id: str | None) -> dict[str, Any]:
    """Write what is registered for a site into a file that an import takes back unchanged."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise OperatorError(f"a file must be named .csv, .geojson or .yaml, got {path.suffix or 'no suffix'!r}")
    settings = load_settings(("database_url",))
    with connect(settings.database_url, application_name="underway-device", statement_timeout_s=0) as conn:
        registry = load_registry(conn, site_id or settings.site_id or None)
    text, notes = export(kind, registry)
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise OperatorError(f"'{path}' must be a file that can be written, got: {error.strerror}") from error
    return {
        "site": registry.site.site_id,
        "file": str(path),
        "devices": len(registry.devices),
        "channels": len(registry.channels),
        "left out": list(notes),
    }


def pending_devices(site_id: str | None, status: PendingStatus) -> dict[str, Any]:
    """Return the devices that wait, with what can be guessed of their channels, as plain JSON values."""
    settings = load_settings(("database_url",))
    with connect(settings.database_url, application_name="underway-device") as conn:
        rows = list_pending(conn, site_id or settings.site_id or None, status)
    return {"status": status.value, "devices": [_plain_pending(row) for row in rows]}


def _plain_pending(row: PendingRow) -> dict[str, Any]:
    entry = row.entry
    channels = []
    for address, said in entry.channels.items():
        guess = guess_channel(address, said.get("unit"))
        may_be = None if guess is None else {"name": guess.name, "quantity": guess.quantity.value, "unit": guess.unit}
        channels.append({"address": address, **said, "guess": may_be})
    return {
        "dialect": entry.dialect,
        "address": entry.address,
        "site": entry.site_id,
        "kind": entry.kind,
        "model": entry.model,
        "first_at": _instant(entry.first_at),
        "last_at": _instant(entry.last_at),
        "count": entry.count,
        "interval_s": guess_interval_s(row),
        "topic": entry.topic,
        "details": dict(entry.details),
        "channels": channels,
    }


def accept_device(
    dialect: str,
    address: str,
    device_id: str,
    zone_id: str | None,
    asset_id: str | None,
    wishes: Sequence[str],
    site_id: str | None,
    dry_run: bool,
) -> tuple[Plan, str]:
    """Register a device of the list; ingest hears of it at once.

    Parameters
    ----------
    dialect, address : str
        As the list shows them.
    device_id : str
        What it is called from now on. One that exists gets this address: its hardware was exchanged.
    zone_id, asset_id : str or None
    wishes : sequence of str
        ``NAME=ADDRESS[:QUANTITY[:ROLE[:UNIT]]]``; none: every channel whose quantity can be guessed.
    site_id : str or None
    dry_run : bool

    Returns
    -------
    plan : Plan
    replay : str
        The command that takes what it said meanwhile out of quarantine.

    Raises
    ------
    RegistrationError
        With everything that does not fit.
    OperatorError
        When no such device waits, or no channel can be guessed.
    """
    settings = load_settings(("database_url",))
    with connect(settings.database_url, application_name="underway-device") as conn:
        address = _waiting(conn, dialect, address).entry.address
        chosen = site_id or settings.site_id or None
        found = accept(conn, dialect, address, device_id, zone_id, asset_id, wishes, chosen, dry_run, datetime.now(UTC))
    return found, replay_command(dialect, address)


def replay_command(dialect: str, address: str) -> str:
    """Return the command that sends again what a device said before it was registered: quarantine knows it by its address alone.

    Examples
    --------
    >>> replay_command("sensorthings", "Datastreams(5)")
    "underway quarantine replay --dialect sensorthings --device 'Datastreams(5)'"
    """
    return f"underway quarantine replay --dialect {shlex.quote(dialect)} --device {shlex.quote(address)}"


def accept(
    conn: psycopg.Connection[Any],
    dialect: str,
    address: str,
    device_id: str,
    zone_id: str | None,
    asset_id: str | None,
    wishes: Sequence[str],
    site_id: str | None,
    dry_run: bool,
    now_at: datetime,
) -> Plan:
    """Register a device of the list in one transaction; parameters as `accept_device`."""
    with conn.transaction():
        row = _waiting(conn, dialect, address)
        site_id = site_id or row.entry.site_id
        known = load_registry(conn, site_id)
        is_new = all(device.device_id != device_id for device in known.devices)
        document = Document(devices=[_accepted(row, device_id, zone_id, asset_id, wishes, is_new)])
        found = register(
            conn, document, f"the acceptance of {dialect} device '{address}'", known.site.site_id, dry_run, now_at, lambda _: None
        )
        if not dry_run:
            mark_pending(conn, dialect, row.entry.address, PendingStatus.ACCEPTED)
    return found


def ignore_device(dialect: str, address: str) -> dict[str, Any]:
    """Take a device off the list of those that wait; it may speak on, and is not heard."""
    settings = load_settings(("database_url",))
    with connect(settings.database_url, application_name="underway-device") as conn, conn.transaction():
        row = _waiting(conn, dialect, address)
        mark_pending(conn, dialect, row.entry.address, PendingStatus.IGNORED)
    return {"ignored": f"{dialect} device '{row.entry.address}'"}


def _waiting(conn: psycopg.Connection[Any], dialect: str, address: str) -> PendingRow:
    row = find_pending(conn, dialect, address) or find_pending(conn, dialect, address.lower())
    if row is None or row.status is PendingStatus.ACCEPTED:
        waiting = list_pending(conn, None, None)
        names = [r.entry.address for r in waiting if r.entry.dialect == dialect and r.status is not PendingStatus.ACCEPTED]
        others = sorted({r.entry.dialect for r in waiting if r.entry.address == address and r.status is not PendingStatus.ACCEPTED})
        hint = f"; it waits as a {others[0]} device" if others else nearest(address, names)
        raise OperatorError(
            f"a device must be on the list to be accepted or ignored, got {dialect} device '{address}'{hint}; see 'underway device pending'"
        )
    return row


def _accepted(
    row: PendingRow, device_id: str, zone_id: str | None, asset_id: str | None, wishes: Sequence[str], is_new: bool
) -> DeviceRecord:
    """Return a device of the list as a record, with channels as wished, else as guessed."""
    entry = row.entry
    fields: dict[str, Any] = {"device_id": device_id, "dialect": entry.dialect, "address": entry.address}
    if is_new:
        fields["registered_at"] = (entry.first_at - BEFORE_FIRST_HEARD).isoformat()
        fields["attributes"] = dict(entry.details)
    if entry.model:
        fields["model"] = entry.model
    fields |= {name: value for name, value in (("zone_id", zone_id), ("asset_id", asset_id)) if value is not None}
    record = DeviceRecord("the command line", fields)
    interval_s = guess_interval_s(row)
    for wish in [parse_wish(text) for text in wishes] or _guessed(row):
        said = entry.channels.get(wish.address, {})
        guess = guess_channel(wish.address, said.get("unit"))
        quantity = wish.quantity or (None if guess is None else guess.quantity.value)
        unit = wish.unit or said.get("unit") or (guess.unit if guess is not None and guess.quantity.value == quantity else None)
        channel = {
            "name": wish.name,
            "address": wish.address,
            "quantity": quantity,
            "role": wish.role,
            "unit": unit,
            "interval_s": interval_s,
        }
        record.channels.append(Record(f"--channel {wish.name}", {name: value for name, value in channel.items() if value is not None}))
    return record


def _guessed(row: PendingRow) -> list[ChannelWish]:
    guesses = [guess_channel(address, said.get("unit")) for address, said in row.entry.channels.items()]
    found: dict[str, ChannelWish] = {}
    for guess in guesses:
        if guess is not None:
            found.setdefault(guess.name, ChannelWish(guess.name, guess.address))
    if not found:
        heard = ", ".join(list(row.entry.channels)[:EXAMPLES_MAX]) or "none"
        raise OperatorError(
            f"at least one channel must be known, got none that can be guessed for {row.entry.dialect} device '{row.entry.address}' (heard: {heard});"
            " name them with --channel NAME=ADDRESS:QUANTITY:ROLE"
        )
    return list(found.values())


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            limit = FILE_BYTES_MAX // 2**20
            raise OperatorError(f"'{path}' must have at most {limit} MB, got {size / 2**20:.0f} MB; import it in parts")
        return path.read_bytes()
    except OSError as error:
        raise OperatorError(f"'{path}' must be a readable file, got: {error.strerror}") from error


def _site_of(document: Document, site_id: str | None, settings: Settings) -> str | None:
    said = document.site.fields.get("site_id") if document.site is not None else None
    return site_id or (str(said) if said is not None else None) or settings.site_id or None


def _is_of_another_site(document: Document, site_id: str | None, problems: Problems) -> bool:
    """Return whether a file names another site than the one that is asked for, which is a problem."""
    said = document.site.fields.get("site_id") if document.site is not None else None
    if document.site is None or site_id is None or not isinstance(said, str) or said == site_id:
        return False
    message = (
        f"'site_id' must be the site that is imported into, '{site_id}', got {shown(said)}; leave '--site' away, or correct one of the two"
    )
    problems.add(document.site.where("site_id"), "site_id", message)
    return True


def _known(conn: psycopg.Connection[Any], document: Document, site_id: str | None) -> Registry | None:
    """Return what is registered for the site; None when the file brings the site, or there is none."""
    registered = site_ids(conn)
    if site_id is None and not registered:
        return None
    if site_id is not None and site_id not in registered and document.site is not None:
        return None
    return load_registry(conn, site_id)


def _elsewhere(conn: psycopg.Connection[Any], document: Document, site_id: str) -> dict[str, str]:
    def ids(records: Sequence[Record], name: str) -> list[str]:
        return [value for record in records if isinstance(value := record.fields.get(name), str) and "\x00" not in value]

    return ids_elsewhere(
        conn, site_id, ids(document.zones, "zone_id"), ids(document.assets, "asset_id"), ids(document.devices, "device_id")
    )


def _summary(found: Plan) -> str:
    parts = []
    for kind, counts in found.counts().items():
        said = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
        if said and kind != "site":
            parts.append(f"{kind}s: {said}")
    return "; ".join(parts) or "nothing"
