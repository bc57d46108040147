"""Registration against real databases: import, export, the list of those that wait, and that ingest hears of it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from ingest.dialects import decode
from ingest.mqtt_types import Message
from ingest.resolve import Resolver
from underway.app.cli import app
from underway.app.devices import BEFORE_FIRST_HEARD, PROBLEMS_SHOWN_MAX, RegistrationError, accept, register
from underway.app.devices_fields import ROLES
from underway.app.devices_plan import Plan
from underway.app.devices_read import (
    CHANNEL_FIELDS,
    CSV_CHANNEL,
    DEPTH_MAX,
    DEVICE_FIELDS,
    FILE_BYTES_MAX,
    RECORDS_MAX,
    Problems,
    read_document,
)
from underway.app.devices_values import ATTRIBUTES_MAX
from underway.app.intake import Item
from underway.app.strangers import Strangers
from underway.model import OperatorError, Quantity, to_us
from underway.store.pending import (
    CHANNELS_MAX,
    PENDING_MAX,
    PendingEntry,
    PendingStatus,
    find_pending,
    list_pending,
    mark_pending,
    note_pending,
)
from underway.store.registry import load_registry
from underway.store.status import REGISTRY_CHANNEL

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EUI = "70b3d5499a1b2c3d"
TOWN = """
site: {site_id: north, name: North Water, timezone: Europe/Berlin, latitude: 52.52, longitude: 13.40}
zones:
- {zone_id: z1, name: Zone 1, kind: dma}
- {zone_id: r1, name: Main road, kind: corridor}
assets:
- {asset_id: pipe-1, asset_class: pipe, name: Pipe 1, zone_id: z1}
devices:
- device_id: pr-1
  dialect: chirpstack
  address: 70B3D5499A1B2C00
  zone_id: z1
  registered_at: 2026-01-01
  channels:
  - {name: pressure, address: pressure_bar.mean, quantity: pressure, unit: bar}
- device_id: fm-1
  zone_id: z1
  registered_at: 2026-01-01
  channels:
  - {name: flow, quantity: flow, unit: L/s, range_min: 0, range_max: 500, also_zone_id: r1}
"""


def imported(conn: psycopg.Connection[Any], name: str, text: str, site_id: str | None = None, dry_run: bool = False) -> Plan:
    problems = Problems()
    document = read_document(name, text.encode(), problems)
    assert not problems.count
    if document.site is not None:
        site_id = site_id or document.site.fields["site_id"]
    return register(conn, document, name, site_id, dry_run, NOW_AT, lambda _: None)


@pytest.fixture
def town(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    imported(conn, "town.yaml", TOWN)
    return conn


def entry(address: str = EUI, minutes: float = 0, **more: Any) -> PendingEntry:
    at = NOW_AT + timedelta(minutes=minutes)
    return replace(PendingEntry("chirpstack", address, "uplink", at, at, "application/a/device/x/event/up"), **more)


# import


def test_import_yaml_brings_site_zones_assets_and_devices(town: psycopg.Connection[Any]) -> None:
    registry = load_registry(town)
    assert (registry.site.site_id, [z.zone_id for z in registry.zones], [a.asset_id for a in registry.assets]) == (
        "north",
        ["r1", "z1"],
        ["pipe-1"],
    )
    assert [(d.device_id, d.spoken_address) for d in registry.devices] == [("fm-1", "fm-1"), ("pr-1", "70b3d5499a1b2c00")]
    assert {c.name: (c.spoken_address, c.role) for c in registry.channels} == {
        "pressure": ("pressure_bar.mean", "zone_pressure"),
        "flow": ("flow", "zone_inflow"),
    }


def test_import_again_writes_nothing_and_a_change_writes_that(town: psycopg.Connection[Any]) -> None:
    before = load_registry(town)
    assert imported(town, "town.yaml", TOWN).to_write is None
    found = imported(town, "a.csv", "device_id,channel,range_max\nfm-1,flow,900\n")
    assert found.counts()["channel"] == {"new": 0, "changed": 1, "unchanged": 0}
    after = load_registry(town)
    assert [c.channel_id for c in after.channels] == [c.channel_id for c in before.channels]
    assert {c.name: c.range_max for c in after.channels}["flow"] == 900.0


def test_import_dry_run_writes_nothing(town: psycopg.Connection[Any]) -> None:
    before = load_registry(town)
    assert imported(town, "a.csv", "device_id,zone_id\nfm-2,z1\n", dry_run=True).to_write is not None
    assert load_registry(town) == before


def test_import_with_one_problem_writes_nothing_at_all(town: psycopg.Connection[Any]) -> None:
    before = load_registry(town)
    with pytest.raises(RegistrationError) as caught:
        imported(town, "a.csv", "device_id,zone_id\nfm-2,z1\nfm-3,z7\n")
    assert str(caught.value) == (
        "1 problem in a.csv, nothing was written:\n  'zone_id' must be a zone that is registered, got 'z7'; known: r1, z1 (line 3)"
    )
    assert load_registry(town) == before


def test_import_of_ids_of_another_site_is_refused(town: psycopg.Connection[Any]) -> None:
    imported(town, "city.yaml", TOWN.replace("north", "city").split("zones:")[0])
    with pytest.raises(RegistrationError) as caught:
        imported(town, "a.csv", "device_id\nfm-1\n", "city")
    assert [str(problem) for problem in caught.value.problems] == [
        "device 'fm-1' must be of site 'city', it belongs to site 'north' (line 2)"
    ]
    with pytest.raises(OperatorError, match=r"^exactly one site must be registered; registered: 'city', 'north'$"):
        imported(town, "a.csv", "device_id\nfm-1\n")


def test_import_without_a_site_says_how_to_begin(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(RegistrationError, match=r"begin with a YAML file that has a section 'site'$"):
        imported(conn, "a.csv", "device_id\nfm-1\n")


def test_import_that_exchanges_two_addresses_works(town: psycopg.Connection[Any]) -> None:
    text = "device_id,dialect,address\n{},chirpstack,70b3d5499a1b2c00\n{},chirpstack,70b3d5499a1b2c01\n"
    for ids in (("pr-1", "pr-2"), ("pr-2", "pr-1")):
        imported(town, "a.csv", text.format(*ids))
    assert {d.device_id: d.address[-2:] for d in load_registry(town).devices if d.address} == {"pr-2": "00", "pr-1": "01"}


def test_import_of_many_rows_is_read_checked_and_written_at_once(town: psycopg.Connection[Any]) -> None:
    rows = "".join(f"m-{i // 2},{'z1' if i % 2 == 0 else ''},c{i % 2},flow,L/s\n" for i in range(12_000))
    found = imported(town, "a.csv", "device_id,zone_id,channel,quantity,unit\n" + rows)
    assert (found.counts()["device"]["new"], found.counts()["channel"]["new"]) == (6000, 12_000)
    assert len(load_registry(town).channels) == 12_002


# the list of those that wait


def test_note_pending_counts_merges_and_is_heard_once(town: psycopg.Connection[Any]) -> None:
    join = entry(minutes=-5, kind="join", model="Logger", details={"name": "logger-7"})
    assert note_pending(town, [entry(channels={"p": {"example": 3.4}}), join, entry(minutes=15, channels={"t": {"example": 8.0}})]) == 1
    assert note_pending(town, [entry(minutes=30, channels={"p": {"example": 3.5}}, details={"port": 2})]) == 0
    (row,) = list_pending(town)
    found = row.entry
    assert (found.kind, found.count, found.model, found.details) == ("join", 4, "Logger", {"name": "logger-7", "port": 2})
    assert (found.first_at, found.last_at) == (NOW_AT - timedelta(minutes=5), NOW_AT + timedelta(minutes=30))
    assert found.channels == {"p": {"example": 3.5}, "t": {"example": 8.0}}


def test_note_pending_of_odd_texts_keeps_what_a_database_can(town: psycopg.Connection[Any]) -> None:
    odd = entry("a", topic="t\x00", details={"a\x00": "b\ud800" + "x" * 999, "n": float("nan")}, channels={"c\x00": {"example": 1.0}})
    assert note_pending(town, [odd, entry("b\x00"), entry("\ud800")]) == 1
    (row,) = list_pending(town)
    assert (row.entry.topic, row.entry.details, row.entry.channels) == ("t?", {"a?": "b?" + "x" * 298, "n": None}, {"c?": {"example": 1.0}})


def test_note_pending_of_a_registered_device_notes_nothing(town: psycopg.Connection[Any]) -> None:
    assert note_pending(town, [entry("70b3d5499a1b2c00"), entry("fm-1", dialect="native")]) == 0
    assert list_pending(town, None, None) == ()


def test_note_pending_of_an_unknown_site_belongs_to_every_list(town: psycopg.Connection[Any]) -> None:
    note_pending(town, [entry("a", site_id="north"), entry("b", site_id="nowhere")])
    assert {row.entry.address: row.entry.site_id for row in list_pending(town, "north")} == {"a": "north", "b": None}
    assert [row.entry.address for row in list_pending(town, "other")] == ["b"]


def test_note_pending_beyond_the_limit_forgets_the_most_silent_and_ignored_ones_last(town: psycopg.Connection[Any]) -> None:
    note_pending(town, [entry("ignored", -99)])
    mark_pending(town, "chirpstack", "ignored", PendingStatus.IGNORED)
    note_pending(town, [entry(f"d{i}", i) for i in range(5)], pending_max=4)
    assert [row.entry.address for row in list_pending(town, None, None)] == ["d4", "d3", "d2", "ignored"]


def test_note_pending_keeps_what_was_ignored_and_wakes_what_was_accepted(town: psycopg.Connection[Any]) -> None:
    note_pending(town, [entry("a"), entry("b")])
    mark_pending(town, "chirpstack", "a", PendingStatus.IGNORED)
    mark_pending(town, "chirpstack", "b", PendingStatus.ACCEPTED)
    note_pending(town, [entry("a", 1), entry("b", 1)])
    assert {row.entry.address: row.status.value for row in list_pending(town, None, None)} == {"a": "ignored", "b": "pending"}


def waiting(conn: psycopg.Connection[Any], times: int = 6, eui: str = EUI) -> None:
    """A logger that nobody registered is heard every quarter of an hour."""
    topic = f"application/a/device/{eui}/event/up"
    for i in range(times):
        at = NOW_AT + timedelta(minutes=15 * i)
        message = {
            "time": at.isoformat(),
            "deviceInfo": {"devEui": eui, "deviceName": "logger-7", "deviceProfileName": "Logger"},
            "fCnt": i,
            "object": {"pressure_bar": {"mean": 3.4}, "pulses": 7},
            "rxInfo": [{"rssi": -98, "snr": 7}],
        }
        strangers = Strangers()
        dialect, decoded = decode(topic, json.dumps(message).encode())
        heard = Message(topic, b"", to_us(at), (1, i + 1))
        noted = strangers.note(Item(dialect, decoded, to_us(at), heard), lambda *_: False, "north")
        assert noted is not None
        note_pending(conn, [noted])


LATER_AT = NOW_AT + timedelta(hours=2)


def accepted(conn: psycopg.Connection[Any], *wishes: str, device_id: str = "pr-7", zone: str = "z1", dry_run: bool = False) -> Plan:
    return accept(conn, "chirpstack", EUI.upper(), device_id, zone, None, wishes, None, dry_run, LATER_AT)


def test_accept_registers_what_can_be_guessed_and_takes_it_off_the_list(town: psycopg.Connection[Any]) -> None:
    waiting(town)
    accepted(town)
    registry = load_registry(town)
    device = next(d for d in registry.devices if d.device_id == "pr-7")
    assert (device.dialect, device.address, device.zone_id, device.model, device.registered_at) == (
        "chirpstack",
        EUI,
        "z1",
        "Logger",
        NOW_AT - BEFORE_FIRST_HEARD,
    )
    assert device.attributes["name"] == "logger-7"
    mine = {c.name: c for c in registry.channels if c.device_id == "pr-7"}
    assert {n: (c.spoken_address, c.quantity, c.device_unit, c.role, c.interval_s) for n, c in mine.items()} == {
        "pressure_bar.mean": ("pressure_bar.mean", Quantity.PRESSURE, "bar", "zone_pressure", 900.0),
        "rssi": ("rssi", Quantity.SIGNAL, "dBm", "health", 900.0),
        "snr": ("snr", Quantity.SNR, "dB", "health", 900.0),
    }
    assert list_pending(town) == ()
    with pytest.raises(OperatorError) as caught:
        accepted(town)
    assert str(caught.value) == (
        "a device must be on the list to be accepted or ignored, got chirpstack device '70B3D5499A1B2C3D'; see 'underway device pending'"
    )


def test_accepted_device_gives_readings_of_what_it_said_first(town: psycopg.Connection[Any]) -> None:
    waiting(town)
    accepted(town, "pressure=pressure_bar.mean")
    registry = load_registry(town)
    said = {"time": NOW_AT.isoformat(), "deviceInfo": {"devEui": EUI}, "object": {"pressure_bar": {"mean": 3.4}}}
    topic, received_us = f"application/a/device/{EUI}/event/up", to_us(NOW_AT) + 700_000
    dialect, decoded = decode(topic, json.dumps(said).encode())
    resolved = Resolver(registry).resolve([Item(dialect, decoded, received_us, Message(topic, b"", received_us, (1, 1)))])
    assert [fault.message for _, fault in resolved.faults] == []
    pressure = next(c for c in registry.channels if c.device_id == "pr-7")
    assert (resolved.batch.channel_id.tolist(), resolved.batch.value.tolist()) == ([pressure.channel_id], [340.0])


def test_accept_with_channels_named_takes_only_those(town: psycopg.Connection[Any]) -> None:
    waiting(town)
    accepted(town, "pressure=pressure_bar.mean:pressure:health")
    assert {c.name: (c.address, c.device_unit, c.role) for c in load_registry(town).channels if c.device_id == "pr-7"} == {
        "pressure": ("pressure_bar.mean", "bar", "health")
    }


def test_accept_dry_run_and_refused_ones_stay_on_the_list(town: psycopg.Connection[Any]) -> None:
    waiting(town)
    before = load_registry(town)
    accepted(town, dry_run=True)
    with pytest.raises(RegistrationError) as caught:
        accepted(town, "pulses=pulses", zone="z7")
    assert [str(problem) for problem in caught.value.problems] == [
        "'zone_id' must be a zone that is registered, got 'z7'; known: r1, z1 (the command line)",
        f"a new channel must have 'quantity', one of {', '.join(Quantity)} (--channel pulses)",
    ]
    assert load_registry(town) == before
    assert [row.entry.address for row in list_pending(town)] == [EUI]


def test_accept_for_a_registered_device_exchanges_its_hardware(town: psycopg.Connection[Any]) -> None:
    waiting(town)
    found = accepted(town, "pressure=pressure_bar.mean", device_id="pr-1")
    assert [(row.kind, dict(row.fields)) for row in found.rows if row.change == "changed"] == [
        ("device", {"model": ("", "Logger"), "address": ("70b3d5499a1b2c00", EUI)}),
        ("channel", {"interval_s": (300.0, 900.0)}),
    ]
    device = next(d for d in load_registry(town).devices if d.device_id == "pr-1")
    assert device.registered_at == datetime(2025, 12, 31, 23, tzinfo=UTC)


def test_accept_of_a_device_whose_channels_say_nothing_asks_for_them(town: psycopg.Connection[Any]) -> None:
    note_pending(town, [entry(channels={"pulses": {"example": 7}})])
    with pytest.raises(OperatorError) as caught:
        accepted(town)
    assert str(caught.value) == (
        f"at least one channel must be known, got none that can be guessed for chirpstack device '{EUI}' (heard: pulses);"
        " name them with --channel NAME=ADDRESS:QUANTITY:ROLE"
    )


def test_accept_is_heard_by_those_that_listen_to_the_registry(town: psycopg.Connection[Any], database_url: str) -> None:
    waiting(town)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute(f"LISTEN {REGISTRY_CHANNEL}")
        accepted(town)
        assert next(other.notifies(timeout=10)).channel == REGISTRY_CHANNEL


# the command line


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("UNDERWAY_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["device", *words])


def test_command_line_imports_lists_exports_and_accepts(run: Any, conn: psycopg.Connection[Any]) -> None:
    Path("town.yaml").write_text(TOWN, encoding="utf-8")
    dry = run("import", "town.yaml", "--dry-run", "--json")
    assert (json.loads(dry.stdout)["written"], json.loads(dry.stdout)["counts"]["device"]["new"]) == (False, 2)
    said = run("import", "town.yaml").stdout
    assert "channels: 2 new, 0 changed, 0 unchanged" in said
    assert "-100..2500 kPa*" in said
    assert said.endswith("written\n")
    assert [d["id"] for d in json.loads(run("list", "--json", "--status", "active").stdout)["devices"]] == ["fm-1", "pr-1"]
    assert "pressure" in run("list").stdout
    for suffix in ("csv", "geojson", "yaml"):
        report = json.loads(run("export", f"out.{suffix}", "--json").stdout)
        assert (report["devices"], report["channels"]) == (2, 2)
        again = json.loads(run("import", f"out.{suffix}", "--json").stdout)
        assert (again["written"], again["counts"]["channel"]["unchanged"]) == (False, 2)
    waiting(conn)
    pending = json.loads(run("pending", "--json").stdout)["devices"]
    assert [(d["address"], d["count"], d["interval_s"]) for d in pending] == [(EUI, 6, 900)]
    assert {c["address"]: c["guess"] and c["guess"]["quantity"] for c in pending[0]["channels"]} == {
        "pressure_bar.mean": "pressure", "pulses": None, "rssi": "signal", "snr": "snr"
    }  # fmt: skip
    assert "pressure_bar.mean 3.4 *pressure in bar" in run("pending").stdout
    words = ("accept", "chirpstack", EUI, "--id", "pr-7", "--zone", "z1")
    assert "nothing was written: this is a dry run" in run(*words, "--dry-run").stdout
    taken = json.loads(run(*words, "--json").stdout)
    assert (taken["written"], taken["replay"]) == (True, f"underway quarantine replay --dialect chirpstack --device {EUI}")
    assert run("pending").stdout == "no device is pending\n"


def test_command_line_accept_says_how_to_send_again_what_came_before(run: Any, conn: psycopg.Connection[Any]) -> None:
    imported(conn, "town.yaml", TOWN)
    waiting(conn)
    words = ("accept", "chirpstack", EUI.upper(), "--id", "pr-7")
    assert "quarantine" not in run(*words, "--dry-run").stdout
    said = run(*words).stdout.splitlines()
    assert (
        said[-1] == f"what it said before is in quarantine; send it again: underway quarantine replay --dialect chirpstack --device {EUI}"
    )


def test_command_line_list_shows_presence_and_clock(run: Any, conn: psycopg.Connection[Any]) -> None:
    imported(conn, "town.yaml", TOWN)
    assert {d["id"]: (d["online"], d["clock_offset_s"]) for d in json.loads(run("list", "--json").stdout)["devices"]} == {
        "fm-1": (None, None), "pr-1": (None, None)
    }  # fmt: skip
    conn.execute("INSERT INTO device_presence VALUES ('pr-1', false, %s, 'node_death')", (NOW_AT,))
    conn.execute("INSERT INTO device_clock VALUES ('pr-1', 0, %s), ('fm-1', -90500, %s)", (NOW_AT, NOW_AT))
    fm, pr = json.loads(run("list", "--json").stdout)["devices"]
    assert (fm["online"], fm["online_since"], fm["clock_offset_s"], fm["clock_since"]) == (None, None, -90.5, "2026-03-01T12:00:00Z")
    assert (pr["online"], pr["online_since"], pr["online_reason"], pr["clock_offset_s"]) == (
        False, "2026-03-01T12:00:00Z", "node_death", 0
    )  # fmt: skip
    lines = {line.split()[1]: line for line in run("list").stdout.splitlines() if "active" in line}
    assert "90.5 s behind" in lines["fm-1"]
    assert "line since" not in lines["fm-1"]
    assert "offline since 2026-03-01T12:00 (node_death)" in lines["pr-1"]
    assert not re.search(r"ahead|behind", lines["pr-1"])


def test_command_line_site_that_is_not_the_one_of_the_file_is_one_problem(run: Any, conn: psycopg.Connection[Any]) -> None:
    imported(conn, "town.yaml", TOWN)
    Path("town.yaml").write_text(TOWN, encoding="utf-8")
    assert str(run("import", "town.yaml", "--site", "foo").exception) == (
        "1 problem in town.yaml, nothing was written:\n  'site_id' must be the site that is imported into, 'foo', got 'north';"
        " leave '--site' away, or correct one of the two (line 2)"
    )


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        (
            "a.yaml",
            "devices:\n- pr-1\n- {device_id: fm-2, zone_id: z7}\n",
            (
                "an item of 'devices' must be a mapping, got a single value (line 2)",
                "'zone_id' must be a zone that is registered, got 'z7'; known: r1, z1 (line 3)",
            ),
        ),
        (
            "a.geojson",
            '{"type": "FeatureCollection", "features": [{"type": "Feature"}, {"type": "Feature", "properties": {"device_id": "A"}}]}',
            (
                "a feature must have 'properties' with the fields of a device, got None (feature 1)",
                "'device_id' must be 1..64 of a-z, 0-9, '-' and '_', and begin with a letter or digit, got 'A' (feature 2)",
            ),
        ),
    ],
)
def test_command_line_item_that_is_no_device_hides_no_other_problem(
    run: Any, conn: psycopg.Connection[Any], name: str, text: str, messages: tuple[str, ...]
) -> None:
    imported(conn, "town.yaml", TOWN)
    before = load_registry(conn)
    Path(name).write_text(text, encoding="utf-8")
    assert str(run("import", name).exception) == f"2 problems in {name}, nothing was written:\n  " + "\n  ".join(messages)
    assert load_registry(conn) == before


def test_command_line_ignores_a_device(run: Any, conn: psycopg.Connection[Any]) -> None:
    imported(conn, "town.yaml", TOWN)
    note_pending(conn, [entry()])
    assert run("ignore", "chirpstack", EUI).stdout == f"ignored: chirpstack device '{EUI}'\n"
    row = find_pending(conn, "chirpstack", EUI)
    assert row is not None
    assert row.status is PendingStatus.IGNORED
    assert [d["address"] for d in json.loads(run("pending", "--status", "ignored", "--json").stdout)["devices"]] == [EUI]


def test_command_line_problems_are_json_for_machines(run: Any, conn: psycopg.Connection[Any]) -> None:
    imported(conn, "town.yaml", TOWN)
    Path("a.csv").write_text("device_id,zone_id\nfm-2,z7\n", encoding="utf-8")
    result = run("import", "a.csv", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "source": "a.csv",
        "written": False,
        "problems": [
            {"place": "line 2", "field": "zone_id", "message": "'zone_id' must be a zone that is registered, got 'z7'; known: r1, z1"}
        ],
        "problem_count": 1,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "missing.csv"), "'missing.csv' must be a readable file, got: No such file or directory"),
        (("export", "a.txt"), "a file must be named .csv, .geojson or .yaml, got '.txt'"),
        (("export", "no/such/folder.csv"), "'no/such/folder.csv' must be a file that can be written, got: No such file or directory"),
    ],
)
def test_command_line_mistake_is_one_sentence(run: Any, conn: psycopg.Connection[Any], words: tuple[str, ...], message: str) -> None:
    imported(conn, "town.yaml", TOWN)
    assert str(run(*words).exception) == message


# the page

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "devices.md").read_text(encoding="utf-8")


def test_page_of_devices_does_what_it_says(run: Any, conn: psycopg.Connection[Any]) -> None:
    for name, text in re.findall(r"File `([^`]+)`:\n\n```\w+\n(.*?)```", PAGE, re.S):
        Path(name).write_text(text, encoding="utf-8")
    commands = [shlex.split(line) for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]
    assert len(commands) >= 10
    for words in commands:
        assert words[:2] == ["underway", "device"]
        if words[2] == "pending" and len(words) == 3:
            waiting(conn, eui=EUI[:-2] + "99")
            note_pending(conn, [entry(EUI[:-2] + "98")])
        result = run(*words[2:])
        assert result.exit_code == 0, (words, result.output, result.exception)
    assert {d["id"] for d in json.loads(run("list", "--json").stdout)["devices"]} == {"fm-1", "pr-1", "lg-7", "lg-8", "lg-9", "br-1"}
    (said,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.S)
    assert str(run("import", "wrong.csv").exception) == said


def test_page_of_devices_names_every_field_quantity_role_and_limit() -> None:
    words = set(re.findall(r"[\w.]+", PAGE))
    named = {*DEVICE_FIELDS, *CHANNEL_FIELDS, *ROLES, *CSV_CHANNEL, *(quantity.value for quantity in Quantity)}
    assert sorted(named - words) == []
    for number in (
        PENDING_MAX,
        CHANNELS_MAX,
        FILE_BYTES_MAX // 2**20,
        f"{RECORDS_MAX:,}",
        ATTRIBUTES_MAX,
        PROBLEMS_SHOWN_MAX,
        f"{DEPTH_MAX} levels",
    ):
        assert str(number) in PAGE
