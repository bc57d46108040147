"""What a town's devices would say: outstations, messages in the order of time, and that nothing is lost on the way to ingest's decoder."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from detectors.water.sections import CUSTOMER_ROLE
from ingest.dialects import native
from underway.app.bench.leaks_via_mqtt import CHANNELS_A_DEVICE, LiveReplay, Messages, outstations
from underway.model import HOUR_US, Channel, Quantity, ReadingBatch, Registry, Site

AT = datetime(2026, 1, 1, tzinfo=UTC)
SECOND_HOUR_US = 2 * HOUR_US


def channel(number: int, role: str, zone_id: str | None = "z") -> Channel:
    name = f"c{number}"
    return Channel(number, name, name, Quantity.FLOW, "m3/h", None, zone_id, role, -1e9, 1e9, 300.0)


def registry(*channels: Channel) -> Registry:
    return Registry(Site("bench", "1", "UTC", 0.0, 0.0), (), (), (), channels)


def test_outstations_customers_and_zones_stand_apart_and_none_has_too_many() -> None:
    meters = [channel(i, CUSTOMER_ROLE) for i in range(1, CHANNELS_A_DEVICE + 2)]
    found = outstations(registry(channel(100, "zone_inflow"), channel(101, "zone_inflow", None), *meters), AT)
    assert [d.device_id for d in found.devices] == ["amr-1", "amr-2", "rtu-3", "rtu-4"]
    assert [c.device_id for c in found.channels[:2]] == ["rtu-4", "rtu-3"]
    assert sum(c.device_id == "amr-1" for c in found.channels) == CHANNELS_A_DEVICE
    assert [c.name for c in found.channels] == ["c100", "c101", *(c.name for c in meters)]


def test_messages_any_values_come_out_of_the_decoder_as_they_were_in_order_of_time() -> None:
    planned = outstations(registry(channel(1, "zone_inflow"), channel(2, CUSTOMER_ROLE), channel(3, "zone_inflow")), AT)
    rng = np.random.default_rng(1)
    at = np.repeat(SECOND_HOUR_US + np.arange(24) * 300_000_000, 3)
    value = rng.normal(size=len(at)) * 10.0 ** rng.integers(-8, 8, len(at))
    batch = ReadingBatch.from_columns(np.tile([1, 2, 3], 24), at, value)
    hours = list(Messages(planned, planned, [1, 2, 3]).hours(batch))
    assert [(h, n) for h, n, _, _ in hours] == [(2, 36), (3, 36)]
    said = [native.decode(topic.decode(), payload) for _, _, messages, _ in hours for topic, payload in messages]
    assert not any(d.faults for d in said)
    instants = [d.observed_us[0] for d in said]
    assert instants == sorted(instants)
    got = {(name, when): v for d in said for name, when, v in zip(d.channel, d.observed_us, d.value, strict=True)}
    assert got == {(f"c{c}", int(t)): float(v) for c, t, v in zip(batch.channel_id, batch.observed_us, value, strict=True)}
    assert [last for _, _, _, last in hours] == [(3, SECOND_HOUR_US + 11 * 300_000_000), (3, SECOND_HOUR_US + 23 * 300_000_000)]


def test_live_replay_complains_when_a_reading_did_not_go_through_as_in_life() -> None:
    def replay(stored: int, flagged: int, quarantined: int) -> LiveReplay:
        return LiveReplay((), 10, 2, stored, flagged, quarantined, 1.0, 1.0, 1.0, "mosquitto")

    assert replay(10, 0, 0).complaint() == ""
    assert "9 are stored" in replay(9, 0, 0).complaint()
    assert "1 of them late" in replay(10, 1, 0).complaint()
    assert "1 messages are in quarantine" in replay(10, 0, 1).complaint()
