from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

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
from underway.store.registry import (
    device_map,
    load_crews,
    load_leak_signatures,
    load_network_models,
    load_registry,
    save_leak_signatures,
    save_network_model,
    save_registry,
)

pytestmark = pytest.mark.integration

NOW_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SITE = Site("town", "Our Town", "Europe/Berlin", 52.5, 13.4)
POINT = {"type": "Point", "coordinates": [13.4, 52.5]}
ZONES = (
    Zone("r1", "town", "Main road", ZoneKind.CORRIDOR),
    Zone("z1", "town", "Zone Ä", ZoneKind.DMA, POINT, {"mains_km": 4.2, "people": 900}),
)
ASSETS = (
    Asset("dma:z1", "town", "z1", AssetClass.NETWORK, "Zone 1"),
    Asset("pipe-1", "town", "z1", AssetClass.PIPE, "Pipe 1", POINT, 4, {"length_m": 120.5, "material": "AC"}),
)
DEVICES = (
    Device("fm-1", "town", "z1", None, "Meter 3000", "native", NOW_AT),
    Device(
        "pr-1", "town", "z1", "pipe-1", "Logger", "chirpstack", NOW_AT, DeviceStatus.PENDING, POINT, {"height_m": 3.0}, "70b3d5499a1b2c3d"
    ),
)


def channel(device_id: str, name: str, **more: Any) -> Channel:
    values = {"quantity": Quantity.FLOW, "device_unit": "L/s", "asset_id": None, "zone_id": "z1", "role": "zone_inflow"}
    return Channel(0, device_id, name, **(values | {"range_min": 0.0, "range_max": 500.0, "interval_s": 300.0} | more))


CHANNELS = (
    channel(
        "pr-1",
        "pressure",
        quantity=Quantity.PRESSURE,
        device_unit="kPa",
        asset_id="pipe-1",
        role="zone_pressure",
        resolution=0.1,
        address="p.0",
    ),
    channel("fm-1", "flow", sign=-1, also_zone_id="r1", range_min=float("-inf"), range_max=float("inf")),
)
REGISTRY = Registry(SITE, ZONES, ASSETS, DEVICES, CHANNELS)


def rows_written(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    tables = ("site", "zone", "asset", "device", "channel", "crew")
    return [conn.execute(f"SELECT '{t}', xmin::text, ctid::text FROM {t} ORDER BY 1, 2, 3".encode()).fetchall() for t in tables]


def test_save_registry_gives_ids_and_load_returns_the_same(conn: psycopg.Connection[Any]) -> None:
    saved = save_registry(conn, REGISTRY)
    assert all(c.channel_id > 0 for c in saved.channels)
    assert [replace(c, channel_id=0) for c in saved.channels] == list(CHANNELS)
    expected = replace(saved, channels=tuple(sorted(saved.channels, key=lambda c: c.channel_id)))
    assert load_registry(conn) == load_registry(conn, "town") == expected


def test_save_registry_again_writes_nothing_and_keeps_the_ids(conn: psycopg.Connection[Any]) -> None:
    saved = save_registry(conn, REGISTRY)
    before = rows_written(conn)
    assert save_registry(conn, REGISTRY) == saved
    assert save_registry(conn, saved) == saved
    assert [row[:2] for row in before[:4]] == [row[:2] for row in rows_written(conn)[:4]]
    fresh = save_registry(conn, replace(REGISTRY, channels=(*CHANNELS, channel("fm-1", "battery"))))
    assert fresh.channels[-1].channel_id == max(c.channel_id for c in saved.channels) + 1


def test_save_registry_with_changes_updates_them(conn: psycopg.Connection[Any]) -> None:
    saved = save_registry(conn, REGISTRY)
    changed = replace(
        REGISTRY,
        site=replace(SITE, name="New Town"),
        devices=(replace(DEVICES[0], status=DeviceStatus.RETIRED), replace(DEVICES[1], geometry=None)),
        channels=(replace(CHANNELS[0], range_max=900.0, channel_id=99), CHANNELS[1]),
    )
    save_registry(conn, changed)
    found = load_registry(conn)
    assert (found.site.name, found.devices) == ("New Town", changed.devices)
    assert {c.channel_id: c.range_max for c in found.channels}[saved.channels[0].channel_id] == 900.0
    assert {c.channel_id for c in found.channels} == {c.channel_id for c in saved.channels}


def test_save_registry_that_refers_to_nothing_says_to_what(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(OperatorError) as caught:
        save_registry(conn, replace(REGISTRY, assets=(replace(ASSETS[0], zone_id="z9"),), devices=(), channels=()))
    assert str(caught.value) == (
        "the registry of site 'town' refers to what is not registered: Key (zone_id)=(z9) is not present in table \"zone\"."
    )
    assert conn.execute("SELECT count(*) FROM site").fetchone() == (0,)


def test_save_registry_with_the_ids_of_another_site_is_refused(conn: psycopg.Connection[Any]) -> None:
    save_registry(conn, REGISTRY)
    other = Registry(
        replace(SITE, site_id="city"), (replace(ZONES[0], site_id="city"),), (), (replace(DEVICES[0], site_id="city", zone_id=None),)
    )
    with pytest.raises(OperatorError) as caught:
        save_registry(conn, other)
    assert str(caught.value) == (
        "site 'city' cannot use ids that belong to another site: zone 'r1' is in site 'town'; device 'fm-1' is in site 'town'"
    )


def test_load_registry_without_a_clear_site_lists_them(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(OperatorError, match=r"^exactly one site must be registered; registered: none$"):
        load_registry(conn)
    save_registry(conn, Registry(SITE))
    save_registry(conn, Registry(replace(SITE, site_id="city")))
    with pytest.raises(OperatorError, match=r"^exactly one site must be registered; registered: 'city', 'town'$"):
        load_registry(conn)
    with pytest.raises(OperatorError, match=r"^no site 'village' is registered; registered: 'city', 'town'$"):
        load_registry(conn, "village")
    assert load_registry(conn, "town") == Registry(SITE)


def test_device_map_holds_each_device_with_its_channels(conn: psycopg.Connection[Any]) -> None:
    entries = device_map(save_registry(conn, REGISTRY))
    assert set(entries) == {"fm-1", "pr-1"}
    assert entries["pr-1"].device == DEVICES[1]
    assert list(entries["pr-1"].channels) == ["pressure"]


def test_crews_saved_again_have_exactly_the_skills_and_shifts_given(conn: psycopg.Connection[Any]) -> None:
    shifts = tuple(Shift(NOW_AT + timedelta(hours=8 * i), NOW_AT + timedelta(hours=8 * i + 8)) for i in range(3))
    crew = Crew("c1", "town", "Crew Ä", ("road", "water"), 13.4, 52.5, shifts, "+49 30 1", "de", 40.0)
    other = Crew("c2", "town", "Crew 2", (), 13.5, 52.6, busy_order_id=1001)
    for _ in range(2):
        save_registry(conn, REGISTRY, [other, crew])
    assert load_crews(conn, "town") == (crew, replace(other, busy_order_id=None))
    changed = replace(crew, skills=("bridge",), shifts=shifts[:1])
    save_registry(conn, REGISTRY, [changed])
    assert load_crews(conn, "town")[0] == changed
    assert load_crews(conn, "city") == ()


def test_leak_signatures_through_the_store_are_bit_by_bit_the_same(conn: psycopg.Connection[Any]) -> None:
    save_registry(conn, REGISTRY)
    fall = np.random.default_rng(3).normal(size=(5, 2))
    pipes = tuple(f"pipe-{i}" for i in range(5))
    save_leak_signatures(conn, [LeakSignatures("z1", pipes, (4, 9), fall)], "nominal", NOW_AT)
    newer = LeakSignatures("z1", pipes[:3], (4, 9), np.asfortranarray(fall[:3] * 2))
    save_leak_signatures(conn, [newer], "nominal 2", NOW_AT)
    (found,) = load_leak_signatures(conn, "town")
    assert (found.zone_id, found.pipe_ids, found.channel_ids) == ("z1", pipes[:3], (4, 9))
    np.testing.assert_array_equal(found.fall_kpa_per_m3ph, newer.fall_kpa_per_m3ph)
    assert found.fall_kpa_per_m3ph.flags.writeable
    assert load_leak_signatures(conn, "city") == ()


def test_save_registry_two_devices_and_two_channels_may_swap_their_addresses(conn: psycopg.Connection[Any]) -> None:
    devices = tuple(replace(d, dialect="chirpstack", address=a) for d, a in zip(DEVICES, ("aa", "bb"), strict=True))
    other = channel("pr-1", "temperature", quantity=Quantity.TEMPERATURE, device_unit="Cel", address="p.1")
    saved = save_registry(conn, replace(REGISTRY, devices=devices, channels=(*CHANNELS, other)))
    swapped = tuple(replace(d, address=a) for d, a in zip(devices, ("bb", "aa"), strict=True))
    crossed = tuple(replace(c, address={"p.0": "p.1", "p.1": "p.0"}.get(c.address, c.address)) for c in saved.channels)
    save_registry(conn, replace(saved, devices=swapped, channels=crossed))
    found = load_registry(conn)
    assert [(d.device_id, d.spoken_address) for d in found.devices] == [("fm-1", "bb"), ("pr-1", "aa")]
    assert {c.name: c.spoken_address for c in found.channels} == {"flow": "flow", "pressure": "p.1", "temperature": "p.0"}


def test_save_registry_with_an_address_that_is_taken_is_refused(conn: psycopg.Connection[Any]) -> None:
    save_registry(conn, REGISTRY)
    again = replace(DEVICES[1], device_id="pr-2")
    with pytest.raises(OperatorError) as caught:
        save_registry(conn, replace(REGISTRY, devices=(*DEVICES, again)))
    assert str(caught.value) == (
        "an address must belong to one device of a dialect, and to one channel of a device: "
        "Key (dialect, address)=(chirpstack, 70b3d5499a1b2c3d) already exists."
    )


def test_save_registry_of_ten_thousand_devices_and_more_writes_all_of_them(conn: psycopg.Connection[Any]) -> None:
    devices = tuple(replace(DEVICES[0], device_id=f"fm-{i}") for i in range(10_003))
    channels = tuple(replace(CHANNELS[1], device_id=device.device_id) for device in devices)
    saved = save_registry(conn, replace(REGISTRY, devices=devices, channels=channels))
    assert len({c.channel_id for c in saved.channels}) == len(channels)
    assert {d.device_id for d in load_registry(conn).devices} == {d.device_id for d in devices}


def test_network_model_through_the_store_is_the_same_and_site_by_site(conn: psycopg.Connection[Any]) -> None:
    save_registry(conn, REGISTRY)
    model = NetworkModel("town", "[JUNCTIONS]\n j-1 10\n", {"pipe-1": "p1", "b": "j-1"})
    save_network_model(conn, model, NOW_AT)
    assert load_network_models(conn, "town") == (model,)
    newer = NetworkModel("town", "[JUNCTIONS]\n j-2 10\n", {"pipe-1": "p1"})
    save_network_model(conn, newer, NOW_AT)
    (found,) = load_network_models(conn, "town")
    assert (found, found.digest) == (newer, newer.digest)
    assert found.digest != model.digest
    assert load_network_models(conn, "city") == ()
