"""Towns of the benchmark and what their devices send: decoded again, it is what the town read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from detectors.sensor.flat_line import READINGS_MIN, FlatLine
from ingest.dialects import decode
from ingest.sparkplug_schema import Payload
from underway.app.bench.drain import differing_rows, join, steady_rate
from underway.app.bench.options import BenchOptions
from underway.app.bench.payloads import SparkplugFleet, native_messages, senml_messages
from underway.app.bench.prepared import LEARN_ROUNDS, Trained, train
from underway.app.bench.town import (
    CHANNELS_A_RTU,
    MARKED_EQUAL,
    ROUND_US,
    Mix,
    Rounds,
    Town,
    build_town,
    last_values,
    marked_history,
)
from underway.model import FindingKind, FindingPhase, Quantity, to_us
from underway.store.measure import StoredBatch

NOW_AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
FIRST_US = to_us(NOW_AT)


def numbered(town: Town) -> Town:
    """Return a town with ids as a store would give them."""
    channels = tuple(replace(c, channel_id=number) for number, c in enumerate(town.registry.channels, 1))
    return town.registered(replace(town.registry, channels=channels))


def rtus(dialect: str = "native", zones: int = 4) -> Town:
    return numbered(build_town("bench", Mix.RTUS, zones, NOW_AT, dialect=dialect, spread=False))


@pytest.mark.parametrize("mix", list(Mix), ids=[mix.value for mix in Mix])
def test_town_zone_of_every_mix_has_fifty_channels_and_one_inflow(mix: Mix) -> None:
    town = build_town("bench", mix, 4, NOW_AT)
    by_zone: dict[str | None, list[str]] = {}
    for channel in town.registry.channels:
        by_zone.setdefault(channel.zone_id, []).append(channel.role)
    assert [len(roles) for roles in by_zone.values()] == [50] * 4
    assert [roles.count("zone_inflow") for roles in by_zone.values()] == [1] * 4
    assert len({(c.device_id, c.name) for c in town.registry.channels}) == 200


def test_town_rounds_same_seed_same_readings_in_event_order() -> None:
    town = numbered(build_town("bench", Mix.LOGGERS, 4, NOW_AT))
    one, other = town.rounds(FIRST_US, 7, 3), town.rounds(FIRST_US, 7, 3)
    assert one.value.tolist() == other.value.tolist()
    assert len(one) == 600
    assert (np.diff(one.at_us) >= 0).all()
    assert len({(i, at) for i, at in zip(one.index.tolist(), one.at_us.tolist(), strict=True)}) == 600
    # every instant lies nearer to its own grid time than to another one
    assert (np.abs((one.at_us + ROUND_US // 2) % ROUND_US - ROUND_US // 2) < ROUND_US // 2).all()


def test_native_messages_decoded_are_the_readings_of_the_town() -> None:
    town = numbered(build_town("bench", Mix.LOGGERS, 4, NOW_AT))
    rounds = town.rounds(FIRST_US, 0, 2)
    messages = native_messages(town, rounds)
    for place, (topic, payload) in enumerate(messages):
        name, found = decode(topic.decode(), payload)
        channel = town.registry.channels[int(rounds.index[place])]
        assert (name, found.device, found.channel, found.unit, found.faults) == (
            "native",
            channel.device_id,
            (channel.name,),
            (channel.device_unit,),
            (),
        )
        assert (list(found.observed_us), list(found.value)) == ([int(rounds.at_us[place])], [float(rounds.value[place])])
    assert 70 <= np.mean([len(payload) for _, payload in messages]) <= 90


def test_senml_messages_decoded_are_the_readings_of_the_town() -> None:
    town = rtus("senml")
    rounds = town.rounds(FIRST_US, 0, 2)
    messages = senml_messages(town, rounds)
    assert len(messages) == len(rounds) // CHANNELS_A_RTU
    place = 0
    for topic, payload in messages:
        name, found = decode(topic.decode(), payload)
        assert (name, len(found), found.faults) == ("senml", CHANNELS_A_RTU, ())
        assert found.device in {device.spoken_address for device in town.registry.devices}
        for k in range(CHANNELS_A_RTU):
            channel = town.registry.channels[int(rounds.index[place])]
            assert found.unit is not None
            factor = {"Pa": 1000.0, "m3/s": 1 / 3600.0}[str(found.unit[k])]
            assert (found.channel[k], found.observed_us[k]) == (channel.name, rounds.at_us[place])
            assert found.value[k] == pytest.approx(rounds.value[place] * factor, rel=1e-12)
            assert (found.unit[k] == "Pa") is (channel.quantity is Quantity.PRESSURE)
            place += 1
    assert place == len(rounds)


def test_sparkplug_data_read_by_the_schema_is_the_town_and_numbers_run_on() -> None:
    town = rtus("sparkplug", zones=12)
    fleet = SparkplugFleet(town)
    born, rounds = town.rounds(FIRST_US, 0, 1), town.rounds(FIRST_US, 1, 60)
    births = fleet.births(born)
    names: dict[tuple[str, int], str] = {}
    seqs: dict[str, list[int]] = {}
    values: list[float] = []
    for topic, data in births + fleet.data(rounds):
        _, _, kind, edge, *device = topic.decode().split("/")
        payload = Payload.FromString(data)
        seqs.setdefault(edge, []).append(payload.seq)
        for metric in payload.metrics:
            if kind == "DBIRTH":
                names[edge, metric.alias] = f"{device[0]}/{metric.name}"
            if kind in ("DBIRTH", "DDATA"):
                values.append(metric.double_value)
                assert names[edge, metric.alias].startswith(device[0])
                assert metric.timestamp == payload.timestamp
    assert values == [*born.value.tolist(), *rounds.value.tolist()]
    assert len(names) == town.size
    assert all(seq == [k % 256 for k in range(len(seq))] for seq in seqs.values())
    assert max(len(seq) for seq in seqs.values()) > 256


def test_sparkplug_births_come_again_with_sequence_zero() -> None:
    town = rtus("sparkplug")
    fleet = SparkplugFleet(town)
    fleet.births(town.rounds(FIRST_US, 0, 1))
    fleet.data(town.rounds(FIRST_US, 1, 2))
    again = fleet.births(town.rounds(FIRST_US, 3, 1))
    assert [Payload.FromString(data).seq for _, data in again] == [0, 1, 2]


@pytest.fixture(scope="module")
def learned() -> tuple[Town, int, Trained]:
    """A town whose detectors have learned, and the instant of its first round; history ends at NOW_AT."""
    town = numbered(build_town("bench", Mix.LOGGERS, 6, NOW_AT, marked=3))
    first_us = FIRST_US - LEARN_ROUNDS * ROUND_US
    return town, first_us, train(town, first_us, 12, float("inf"), lambda sentence: None)


def test_marked_history_once_more_is_a_finding_of_the_flat_line_detector(learned: tuple[Town, int, Trained]) -> None:
    town, _, trained = learned
    stands = last_values(marked_history(town, FIRST_US - ROUND_US), town)
    assert MARKED_EQUAL == READINGS_MIN + 1
    assert sorted(stands) == [town.size, town.size + 1, town.size + 2]
    for place, value in stands.items():
        once_more = Rounds(np.array([place]), np.array([FIRST_US]), np.array([value]))
        found = trained.bank.step(once_more.readings(town.channel_ids)).findings
        assert [(f.detector, f.phase, f.asset_id, f.historical) for f in found] == [
            (FlatLine.name, FindingPhase.RAISE, f"device:{town.registry.channels[place].device_id}", False)
        ]


def test_train_every_zone_knows_its_history_and_sees_a_burst(learned: tuple[Town, int, Trained]) -> None:
    town, first_us, trained = learned
    assert (trained.complete, trained.rounds, trained.findings) == (True, LEARN_ROUNDS, 0)
    quiet = town.rounds(first_us, LEARN_ROUNDS, 6)
    out = trained.bank.step(quiet.readings(town.channel_ids))
    assert out.findings == ()
    inflow = {signal.name for signal in out.expectations.signals if signal.name.endswith("/inflow")}
    assert inflow == {f"zone/{zone.zone_id}/inflow" for zone in town.registry.zones}
    burst = town.rounds(first_us, LEARN_ROUNDS + 6, 6)
    # the sixth zone took what the second had learned
    meter = next(i for i, c in enumerate(town.registry.channels) if c.role == "zone_inflow" and c.zone_id == town.registry.zones[5].zone_id)
    more = Rounds(burst.index, burst.at_us, burst.value + np.where(burst.index == meter, 25.0, 0.0))
    findings = trained.bank.step(more.readings(town.channel_ids)).findings
    assert [(f.kind, f.phase, f.zone_id) for f in findings] == [
        (FindingKind.LEAK_BURST, FindingPhase.RAISE, town.registry.zones[5].zone_id)
    ]


def test_train_at_its_deadline_says_that_it_is_not_complete() -> None:
    town = numbered(build_town("bench", Mix.LOGGERS, 4, NOW_AT))
    assert train(town, FIRST_US, 12, 0.0, lambda sentence: None).complete is False


def test_differing_rows_both_sides_are_counted() -> None:
    sent = Rounds(np.array([0, 0, 1]), np.array([10, 20, 10]), np.array([1.0, 2.0, 3.0]))
    ids = np.array([7, 8], np.int32)
    stored = {"channel_id": np.array([7, 7, 8]), "observed_us": np.array([10, 20, 10]), "value": np.array([1.0, 2.0 + 1e-13, 3.0])}
    assert differing_rows(sent, ids, stored) == 0
    stored["observed_us"][0] = 11
    assert differing_rows(sent, ids, stored) == 2
    assert differing_rows(join([sent, sent]), ids, stored) == 2


def test_steady_rate_runs_from_the_first_reception_to_the_last_transaction() -> None:
    def batch(number: int, readings: int, received: int, recorded: int) -> StoredBatch:
        def at(second: int) -> datetime:
            return datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)

        return StoredBatch(number, readings, at(recorded), at(received))

    # batches may be given in any order; the last one's readings came after the instant that ends the time
    assert steady_rate([batch(4, 1, 7, 8), batch(1, 300, 2, 3), batch(2, 300, 3, 4), batch(3, 300, 4, 5)]) == 150.0
    assert steady_rate([batch(1, 300, 1, 1)]) is None
    assert steady_rate([]) is None


@pytest.mark.parametrize(("seconds", "zones", "repetitions"), [(25, 8, 2), (180, 40, 3), (3600, 40, 3)])
def test_options_short_runs_are_smaller_and_even(seconds: float, zones: int, repetitions: int) -> None:
    options = BenchOptions(seconds)
    assert (options.zones, options.repetitions) == (zones, repetitions)
    assert options.zones % 2 == 0
    assert BenchOptions(seconds, ("memory",)).parts == ("memory",)
