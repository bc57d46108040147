"""The Sparkplug host as a table of events: what it makes of them, whom it counts as there, and what it publishes."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field

import pytest
from sparkplug_builder import AT_MS, DATETIME, DOUBLE, INT16, INT64, STRING, device_birth, metric, node_birth, node_death, payload

from ingest.decoded import Decoded
from ingest.dialects.sparkplug import decode
from ingest.mqtt_types import Publication
from ingest.sparkplug_host import BIRTH_GRACE_S, SAVE_S, STRANGERS_MAX, MemoryChange, Presence, SparkplugHost
from ingest.sparkplug_message import PresenceReason, Seen
from ingest.sparkplug_rebirth import PAUSE_S_MAX, PAUSE_S_MIN, rebirth_request
from underway.model import SECOND_US, FaultReason

AT_US = AT_MS * 1000
NODE, DEVICE = "north/rtu-017", "north/rtu-017/inlet"
BIRTH = (
    metric("Flow/m3h", 2, AT_MS, DOUBLE, double_value=41.5),
    metric("Pressure", 3, AT_MS, DOUBLE, told={"engUnit": "bar"}, double_value=3.5),
    metric("Temperature/Cel", 4, AT_MS, INT16, int_value=8),
    metric("Balance", 5, AT_MS, INT64, long_value=0),
    metric("Firmware", 7, AT_MS, STRING, string_value="2.4.1"),
    metric("Calibrated", 8, AT_MS, DATETIME, long_value=AT_MS),
)


def topic(kind: str, node: str = NODE, device: str = "inlet") -> str:
    group, edge = node.split("/")
    return f"spBv1.0/{group}/{kind}/{edge}" + (f"/{device}" if kind.startswith("D") else "")


@dataclass
class Wire:
    """A host, and a clock that the test sets, in s after `AT_US`."""

    host: SparkplugHost = field(default_factory=lambda: SparkplugHost("underway"))
    s: float = 0.0

    @property
    def now_us(self) -> int:
        return AT_US + round(self.s * SECOND_US)

    def send(self, kind: str, message: bytes, node: str = NODE, device: str = "inlet") -> Decoded:
        return self.host.observe(decode(topic(kind, node, device), message), self.now_us)

    def born(self, bd_seq: int | None = 3, seq: int = 0, node: str = NODE) -> Decoded:
        return self.send("NBIRTH", node_birth(bd_seq, seq), node)

    def device_born(self, seq: int = 1, node: str = NODE, metrics: tuple[bytes, ...] = BIRTH, device: str = "inlet") -> Decoded:
        return self.send("DBIRTH", device_birth(seq, AT_MS, metrics), node, device)

    def data(self, seq: int | None, *metrics: bytes, node: str = NODE, device: str = "inlet") -> Decoded:
        return self.send("DDATA", payload(metrics or [metric(alias=2, at_ms=AT_MS, double_value=1.5)], seq=seq), node, device)

    def up(self) -> Wire:
        self.born()
        self.device_born()
        return self

    def due(self) -> list[Publication]:
        return self.host.due(self.now_us)

    def count(self, name: str) -> int:
        value = self.host.facts()[name]
        assert isinstance(value, int)
        return value

    def is_there(self, address: str) -> bool:
        presence = self.host.presence_of(address)
        assert presence is not None
        return presence.online


def reasons(decoded: Decoded) -> list[FaultReason]:
    return [fault.reason for fault in decoded.faults]


def asked(publications: list[Publication]) -> list[str]:
    return [p.topic for p in publications if "/NCMD/" in p.topic]


# --- names, units and types of the birth


def test_observe_alias_data_get_the_names_and_units_of_the_birth() -> None:
    wire = Wire().up()
    got = wire.data(2, metric(alias=3, at_ms=AT_MS, double_value=3.5), metric(alias=2, at_ms=AT_MS, double_value=41.75))
    assert got.channel == ("Pressure", "Flow/m3h")
    assert got.unit == ("bar", "m3/h")
    assert list(got.value) == [3.5, 41.75]
    assert got.device == DEVICE
    assert got.faults == ()


def test_observe_integers_are_read_by_the_type_of_the_birth() -> None:
    got = Wire().up().data(2, metric(alias=4, at_ms=AT_MS, int_value=2**32 - 41), metric(alias=5, at_ms=AT_MS, long_value=2**64 - 1))
    assert list(got.value) == [-41.0, -1.0]


def test_observe_integer_beyond_the_type_of_the_birth_costs_that_value() -> None:
    got = Wire().up().data(2, metric(alias=4, at_ms=AT_MS, int_value=70_000), metric(alias=2, at_ms=AT_MS, double_value=1.5))
    assert got.channel == ("Flow/m3h",)
    assert [f.message for f in got.faults] == [f"'Temperature/Cel' must be a number of type INT16, got 70000 (device '{DEVICE}')"]


def test_observe_what_the_birth_calls_no_measurement_is_ignored_and_counted() -> None:
    wire = Wire().up()
    before = wire.count("ignored_values")
    got = wire.data(2, metric(alias=8, long_value=AT_MS), metric(alias=7, string_value="2.5"), metric(alias=2, double_value=1.5))
    assert got.channel == ("Flow/m3h",)
    assert got.faults == ()
    assert wire.count("ignored_values") == before + 2


def test_observe_unit_in_the_message_counts_before_that_of_the_birth() -> None:
    wire = Wire().up()
    wire.data(2, metric(alias=3, double_value=3500.0))
    assert wire.data(3, metric(alias=3, told={"engUnit": "mbar"}, double_value=3500.0)).unit == ("mbar",)
    assert wire.data(4, metric(alias=3, double_value=3.5)).unit == ("bar",)


def test_observe_history_and_quality_stay_with_their_sample() -> None:
    got = (
        Wire()
        .up()
        .data(
            2,
            metric(alias=8, at_ms=AT_MS, long_value=1),
            metric(alias=2, at_ms=AT_MS - 3_600_000, historical=True, double_value=40.5),
            metric(alias=3, at_ms=AT_MS, told={"Quality": 500}, double_value=3.5),
        )
    )
    assert got.channel == ("Flow/m3h", "Pressure")
    assert list(got.historical or ()) == [True, False]
    assert list(got.quality or ()) == [0, 1]
    assert list(got.observed_us) == [AT_US - 3600 * SECOND_US, AT_US]


def test_observe_birth_gives_samples_and_an_announcement() -> None:
    wire = Wire()
    wire.born()
    got = wire.device_born()
    assert got.channel == ("Flow/m3h", "Pressure", "Temperature/Cel", "Balance")
    assert got.announcement is not None
    assert [c.unit for c in got.announcement.channels] == ["m3/h", "bar", "Cel", None]


def test_observe_aliases_of_two_devices_do_not_mix() -> None:
    wire = Wire().up()
    wire.device_born(2, metrics=(metric("Level/m", 2, AT_MS, DOUBLE, double_value=2.5),), device="tank")
    assert wire.data(3, device="tank").channel == ("Level/m",)
    assert wire.data(4, device="inlet").channel == ("Flow/m3h",)


def test_observe_alias_of_no_birth_is_a_fault_and_asks_for_one() -> None:
    wire = Wire().up()
    got = wire.data(2, metric(alias=99, double_value=1.0), metric(alias=2, double_value=1.5))
    assert got.channel == ("Flow/m3h",)
    assert [f.message for f in got.faults] == [
        f"an alias must be one of the 6 in the birth of '{DEVICE}', got 1 that are not: 99; asked for a birth"
    ]
    assert asked(wire.due()) == ["spBv1.0/north/NCMD/rtu-017"]


def test_observe_rebirth_refreshes_aliases() -> None:
    wire = Wire().up()
    wire.born()
    wire.device_born(metrics=(metric("Level/m", 2, AT_MS, DOUBLE, double_value=2.5),))
    assert wire.data(2).channel == ("Level/m",)


# --- without a birth


@pytest.mark.parametrize("kind", ["NDATA", "DDATA", "DBIRTH", "DDEATH"])
def test_observe_node_without_birth_is_asked_for_one(kind: str) -> None:
    wire = Wire()
    wire.send(kind, payload([metric("x", 2, AT_MS, DOUBLE, double_value=1.5)], seq=4))
    assert wire.host.last_seen is Seen.UNBORN
    (request,) = wire.due()
    assert request == Publication("spBv1.0/north/NCMD/rtu-017", rebirth_request(AT_MS), 0, False)


def test_observe_data_without_birth_are_unresolved() -> None:
    wire = Wire()
    got = wire.data(4)
    assert len(got) == 0
    assert [(f.reason, f.message, f.device_id) for f in got.faults] == [
        (
            FaultReason.BIRTH_MISSING,
            f"a birth of '{DEVICE}' must come before its data, got 1 values by alias or without a type; asked for a birth",
            DEVICE,
        )
    ]
    assert wire.count("unresolved") == 1


def test_observe_named_data_without_birth_are_taken_and_a_birth_is_asked_for() -> None:
    wire = Wire()
    got = wire.data(4, metric("Flow/m3h", at_ms=AT_MS, double_value=1.5), metric(alias=2, at_ms=AT_MS, double_value=9.0))
    assert (got.channel, got.unit, list(got.value)) == (("Flow/m3h",), ("m3/h",), [1.5])
    assert reasons(got) == [FaultReason.BIRTH_MISSING]
    assert asked(wire.due()) == ["spBv1.0/north/NCMD/rtu-017"]


def test_observe_device_without_birth_is_asked_for_until_it_is_born() -> None:
    wire = Wire()
    wire.born()
    assert reasons(wire.data(1)) == [FaultReason.BIRTH_MISSING]
    assert wire.host.facts()["rebirths_wanted"] == 1
    wire.device_born(2)
    assert wire.host.facts()["rebirths_wanted"] == 0
    assert wire.due() == []


def test_request_for_a_birth_is_what_the_specification_says() -> None:
    decoded = decode("spBv1.0/north/NCMD/rtu-017", rebirth_request(AT_MS))
    assert rebirth_request(AT_MS) == payload([metric("Node Control/Rebirth", at_ms=AT_MS, datatype=11, boolean_value=True)])
    assert Wire().host.observe(decoded, AT_US) is decoded


# --- births and deaths


def test_presence_follows_births_and_deaths() -> None:
    wire = Wire().up()
    assert wire.host.presence_changes() == (
        Presence(NODE, True, AT_US, PresenceReason.BIRTH),
        Presence(DEVICE, True, AT_US, PresenceReason.BIRTH),
    )
    wire.s = 9
    wire.send("DDEATH", payload(at_ms=AT_MS + 4000, seq=2))
    assert wire.host.presence_changes() == (Presence(DEVICE, False, AT_US + 4 * SECOND_US, PresenceReason.DEVICE_DEATH),)
    wire.device_born(3)
    wire.s = 12
    wire.send("NDEATH", node_death(3, at_ms=AT_MS))
    assert set(wire.host.presence_changes()) == {
        Presence(DEVICE, False, wire.now_us, PresenceReason.NODE_DEATH),
        Presence(NODE, False, wire.now_us, PresenceReason.NODE_DEATH),
    }
    assert wire.host.presence_changes() == ()


@pytest.mark.parametrize(("told_ms", "expected_s"), [(AT_MS + 10**9, 0), (0, 0), (None, 0), (AT_MS - 60_000, -60)])
def test_device_death_is_dated_by_its_sender_where_that_can_be(told_ms: int | None, expected_s: int) -> None:
    wire = Wire().up()
    wire.send("DDEATH", payload(at_ms=told_ms, seq=2))
    presence = wire.host.presence_of(DEVICE)
    assert presence is not None
    assert presence.since_us == AT_US + expected_s * SECOND_US


@pytest.mark.parametrize(
    ("born_with", "dies_with", "seen", "online"),
    [
        (3, 3, Seen.DIED, False),
        (3, 2, Seen.DEATH_OF_OTHER_SESSION, True),
        (3, None, Seen.DEATH_WITHOUT_SESSION, True),
        (None, None, Seen.DIED, False),
        (255, 0, Seen.DEATH_OF_OTHER_SESSION, True),
    ],
)
def test_node_death_counts_only_for_its_own_session(born_with: int | None, dies_with: int | None, seen: Seen, online: bool) -> None:
    wire = Wire()
    wire.born(born_with)
    wire.device_born()
    wire.send("NDEATH", node_death(dies_with))
    assert wire.host.last_seen is seen
    assert (wire.is_there(NODE), wire.is_there(DEVICE)) == (online, online)
    assert wire.count("deaths_ignored") == online


def test_node_death_that_comes_again_or_of_a_stranger_is_ignored() -> None:
    wire = Wire().up()
    wire.send("NDEATH", node_death(3))
    wire.send("NDEATH", node_death(3))
    assert wire.host.last_seen is Seen.DEATH_OF_THE_DEAD
    wire.send("NDEATH", node_death(3), "north/other")
    assert wire.host.last_seen is Seen.DEATH_OF_THE_DEAD
    assert wire.count("strangers") == 0


def test_data_after_a_death_have_no_aliases_and_ask_for_a_birth() -> None:
    wire = Wire().up()
    wire.send("NDEATH", node_death(3))
    assert reasons(wire.data(2)) == [FaultReason.BIRTH_MISSING]
    assert asked(wire.due()) == ["spBv1.0/north/NCMD/rtu-017"]


def test_death_of_the_session_before_does_not_end_the_new_one() -> None:
    wire = Wire().up()
    wire.born(4)
    wire.device_born()
    wire.send("NDEATH", node_death(3))
    assert (wire.is_there(NODE), wire.is_there(DEVICE)) == (True, True)
    assert wire.data(2).channel == ("Flow/m3h",)


def test_rebirth_keeps_presence_and_a_device_that_does_not_follow_goes() -> None:
    wire = Wire().up()
    wire.host.presence_changes()
    wire.born()
    assert wire.host.last_seen is Seen.BORN_AGAIN
    assert (wire.is_there(NODE), wire.is_there(DEVICE)) == (True, True)
    assert wire.host.presence_changes() == ()
    wire.s = BIRTH_GRACE_S - 1
    wire.due()
    assert wire.is_there(DEVICE)
    wire.s = BIRTH_GRACE_S
    wire.due()
    assert wire.host.presence_changes() == (Presence(DEVICE, False, wire.now_us, PresenceReason.NOT_BORN_AGAIN),)
    assert wire.host.facts()["watched"] == 0


def test_birth_with_another_seq_than_zero_is_taken_and_counted_from() -> None:
    wire = Wire()
    assert reasons(wire.born(seq=7)) == [FaultReason.SCHEMA]
    wire.device_born(8)
    assert wire.host.last_seen is Seen.IN_ORDER


# --- the order of messages: (sequence numbers after the births, what each was, what is missing at the end)

ORDERS = {
    "in-order": ([2, 3, 4], ["in_order"] * 3, 0),
    "one-lost": ([2, 4], ["in_order", "gap_opened"], 1),
    "lost-then-more": ([2, 4, 5, 6], ["in_order", "gap_opened", "ahead_of_gap", "ahead_of_gap"], 1),
    "swapped": ([3, 2, 4], ["gap_opened", "gap_filled", "in_order"], 0),
    "three-late": ([5, 4, 2, 3, 6], ["gap_opened", "out_of_order", "out_of_order", "gap_filled", "in_order"], 0),
    "two-gaps": ([3, 5, 4], ["gap_opened", "gap_opened", "out_of_order"], 1),
    "twice": ([2, 2, 3], ["in_order", "out_of_order", "in_order"], 0),
    "old": ([2, 3, 1], ["in_order", "in_order", "out_of_order"], 0),
    "wraps": ([*range(2, 256), 0, 1], ["in_order"] * 256, 0),
    "wraps-over-a-gap": ([*range(2, 255), 0, 255], ["in_order"] * 253 + ["gap_opened", "gap_filled"], 0),
    "far-ahead": ([100], ["gap_opened"], 98),
    "no-number": ([None], ["no_seq"], 0),
}


@pytest.mark.parametrize(("seqs", "seen", "missing"), ORDERS.values(), ids=ORDERS)
def test_order_of_messages_is_seen_and_every_message_is_data(seqs: list[int | None], seen: list[str], missing: int) -> None:
    wire = Wire().up()
    found = []
    for seq in seqs:
        assert wire.data(seq).channel == ("Flow/m3h",)
        found.append(wire.host.last_seen.value)
    assert found == seen
    wire.s = 4.9
    assert wire.due() == []
    wire.s = 5.0
    assert bool(asked(wire.due())) == bool(missing)
    assert wire.count("missed") >= missing


@pytest.mark.parametrize("kind", ["NDATA", "DDATA", "DBIRTH", "DDEATH"])
def test_order_counts_over_all_kinds_of_a_node(kind: str) -> None:
    wire = Wire().up()
    wire.send(kind, payload([metric("Flow/m3h", 2, AT_MS, DOUBLE, double_value=1.0)], seq=2))
    assert wire.host.last_seen is Seen.IN_ORDER
    wire.send("NDEATH", node_death(9))
    wire.send("NCMD", rebirth_request(AT_MS))
    wire.send("NDATA", payload(seq=3))
    assert wire.host.last_seen is Seen.IN_ORDER


def test_order_round_that_passes_a_missing_number_asks_at_once() -> None:
    wire = Wire().up()
    for seq in [2, *range(4, 256), 0, 1, 2]:
        wire.data(seq)
    wire.data(4)
    assert wire.host.last_seen is Seen.LAPPED
    assert asked(wire.due()) == ["spBv1.0/north/NCMD/rtu-017"]


def test_reorder_timeout_is_a_parameter() -> None:
    wire = Wire(SparkplugHost("underway", reorder_s=1.5)).up()
    wire.data(3)
    wire.s = 1.4
    assert wire.due() == []
    wire.s = 1.5
    assert asked(wire.due()) == ["spBv1.0/north/NCMD/rtu-017"]


def test_gap_that_fills_after_the_request_ends_the_asking() -> None:
    wire = Wire().up()
    wire.data(3)
    wire.s = 5
    assert asked(wire.due())
    wire.data(2)
    wire.s = 100
    assert wire.due() == []
    assert wire.host.facts()["watched"] == 0


# --- how often it asks


def test_requests_to_a_silent_node_come_with_a_growing_pause() -> None:
    wire = Wire()
    wire.data(4)
    times = []
    for second in range(3000):
        wire.s = second
        times += [second] * len(wire.due())
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[0] == PAUSE_S_MIN
    assert pauses == sorted(pauses)
    assert all(b == min(2 * a, PAUSE_S_MAX) for a, b in itertools.pairwise(pauses))
    assert max(pauses) == PAUSE_S_MAX


def test_requests_to_a_node_that_loses_again_and_again_come_with_a_growing_pause() -> None:
    wire = Wire()
    times = []
    for second in range(1000):
        wire.s = second
        if second % 20 == 0:
            wire.up()
            wire.data(4)
        times += [second] * len(asked(wire.due()))
    assert 3 <= len(times) <= 8


def test_requests_of_all_nodes_together_are_limited_and_each_gets_its_turn() -> None:
    wire = Wire(SparkplugHost("underway", rebirths_per_s_max=10))
    for number in range(100):
        wire.data(4, node=f"north/rtu-{number}")
    found: list[str] = []
    for tick in range(100):
        wire.s = tick / 10
        got = asked(wire.due())
        assert len(got) <= 10
        found += got
    assert len(found) == 100
    assert len(set(found)) == 100
    assert wire.host.facts()["rebirths_asked_why"] == {"node_unborn": 100, "device_unborn": 0, "alias_unknown": 0, "gap": 0}


def test_birth_after_the_request_ends_the_asking() -> None:
    wire = Wire()
    wire.data(4)
    assert asked(wire.due())
    wire.up()
    wire.s = 1000
    assert wire.due() == []


# --- our own STATE


def test_greeting_will_and_hello_carry_the_same_instant() -> None:
    greeting = Wire().host.greeting(AT_US + 999)
    assert greeting.will == Publication("spBv1.0/STATE/underway", b'{"online":false,"timestamp":%d}' % AT_MS, 1, True)
    assert greeting.hello == (Publication("spBv1.0/STATE/underway", b'{"online":true,"timestamp":%d}' % AT_MS, 1, True),)


def test_farewell_is_offline_with_a_fresh_instant() -> None:
    wire = Wire()
    wire.host.greeting(AT_US)
    (farewell,) = wire.host.farewell(AT_US + 5 * SECOND_US)
    assert farewell == Publication("spBv1.0/STATE/underway", b'{"online":false,"timestamp":%d}' % (AT_MS + 5000), 1, True)


def test_instants_of_state_never_go_back() -> None:
    host = SparkplugHost("underway")
    host.greeting(AT_US)
    greeting = host.greeting(AT_US - 60 * SECOND_US)
    assert json.loads(greeting.hello[0].payload)["timestamp"] == AT_MS


def state(wire: Wire, online: bool, at_ms: int, host_id: str = "underway") -> None:
    said = json.dumps({"online": online, "timestamp": at_ms}).encode()
    wire.host.observe(decode(f"spBv1.0/STATE/{host_id}", said), wire.now_us)


def test_own_state_set_offline_is_corrected_at_once_with_the_instant_of_the_greeting() -> None:
    wire = Wire()
    hello = wire.host.greeting(AT_US).hello
    wire.s = 60
    state(wire, False, AT_MS - 5)
    assert wire.host.last_seen is Seen.STATE_TO_CORRECT
    assert tuple(wire.due()) == hello
    assert wire.due() == []


def test_two_hosts_of_one_name_do_not_make_a_storm() -> None:
    wire = Wire()
    wire.host.greeting(AT_US)
    corrections = 0
    for tick in range(1000):
        wire.s = tick / 100
        state(wire, False, AT_MS + tick)
        corrections += len(wire.due())
    assert corrections == 10
    assert wire.count("state_corrections") == 10


@pytest.mark.parametrize(
    ("host_id", "online", "at_ms", "seen"),
    [
        ("scada", False, AT_MS, Seen.STATE_OF_OTHER_HOST),
        ("underway", True, AT_MS, Seen.STATE_AS_OURS),
        ("underway", True, AT_MS + 1, Seen.STATE_CONFLICT),
    ],
)
def test_state_that_is_not_ours_or_true_is_left_alone(host_id: str, online: bool, at_ms: int, seen: Seen) -> None:
    wire = Wire()
    wire.host.greeting(AT_US)
    state(wire, online, at_ms, host_id)
    assert wire.host.last_seen is seen
    assert wire.due() == []
    assert wire.count("state_conflicts") == (seen is Seen.STATE_CONFLICT)


def test_state_after_farewell_and_before_greeting_is_not_corrected() -> None:
    wire = Wire()
    state(wire, False, AT_MS)
    assert wire.due() == []
    wire.host.greeting(AT_US)
    state(wire, False, AT_MS)
    wire.host.farewell(AT_US)
    state(wire, False, AT_MS)
    assert wire.due() == []


@pytest.mark.parametrize("host_id", ["", "a/b", "a+", "#", "x" * 65, "a\n"])
def test_host_id_that_is_none_is_refused(host_id: str) -> None:
    with pytest.raises(ValueError, match=r"a host id must be 1\.\.64 printable characters without '\+', '/' and '#', got "):
        SparkplugHost(host_id)


# --- what is kept


def kept(rows: dict[str, bytes], changes: tuple[MemoryChange, ...]) -> None:
    for key, saved in changes:
        if saved is None:
            rows.pop(key, None)
        else:
            rows[key] = saved


def restored(rows: dict[str, bytes], s: float = 0.0) -> Wire:
    wire = Wire(s=s)
    wire.host.restore(rows.items(), wire.now_us)
    return wire


def test_memory_after_a_restart_reads_data_at_once() -> None:
    wire, rows = Wire().up(), {}
    wire.data(2)
    kept(rows, wire.host.memory_changes(wire.now_us, everything=True))
    assert sorted(rows) == [NODE, f"{NODE}/", f"{NODE}/inlet"]
    again = restored(rows)
    assert again.host.facts()["metrics"] == wire.host.facts()["metrics"]
    got = again.data(3, metric(alias=3, double_value=3.5), metric(alias=4, int_value=2**32 - 1))
    assert again.host.last_seen is Seen.IN_ORDER
    assert (got.channel, got.unit, list(got.value)) == (("Pressure", "Temperature/Cel"), ("bar", "Cel"), [3.5, -1.0])
    again.send("NDEATH", node_death(2))
    assert again.is_there(DEVICE)
    again.send("NDEATH", node_death(3))
    assert not again.is_there(DEVICE)


def test_memory_restart_with_messages_missed_reads_data_and_asks_for_a_birth() -> None:
    wire, rows = Wire().up(), {}
    kept(rows, wire.host.memory_changes(wire.now_us))
    again = restored(rows)
    assert again.data(30).channel == ("Flow/m3h",)
    again.s = 5
    assert asked(again.due()) == ["spBv1.0/north/NCMD/rtu-017"]


@pytest.mark.parametrize("renamed", [False, True])
def test_birth_after_missed_messages_says_when_names_may_have_been_wrong(renamed: bool) -> None:
    wire, rows = Wire().up(), {}
    kept(rows, wire.host.memory_changes(wire.now_us))
    again = restored(rows)
    again.data(30)
    again.born(4)
    got = again.device_born(metrics=(metric("Level/m", 2, AT_MS, DOUBLE, double_value=2.5), *BIRTH[1:]) if renamed else BIRTH)
    assert again.count("renamed_unseen") == renamed
    if renamed:
        assert [f.message for f in got.faults] == [
            f"an alias must keep its name between two births that were seen, '{DEVICE}' gave one another name while messages were"
            " missing; values of up to 2 messages before this birth may stand under a wrong name"
        ]
    else:
        assert got.faults == ()


def test_birth_that_renames_while_nothing_is_missing_is_no_fault() -> None:
    wire = Wire().up()
    wire.data(3)
    wire.data(2)
    wire.born()
    assert wire.device_born(metrics=(metric("Level/m", 2, AT_MS, DOUBLE, double_value=2.5),)).faults == ()


def test_memory_sequence_numbers_are_saved_now_and_then_and_at_the_end() -> None:
    wire = Wire().up()
    assert len(wire.host.memory_changes(wire.now_us)) == 3
    wire.data(2)
    wire.s = SAVE_S - 0.1
    assert wire.host.memory_changes(wire.now_us) == ()
    assert [c.key for c in wire.host.memory_changes(wire.now_us, everything=True)] == [NODE]
    wire.data(3)
    wire.s = 2 * SAVE_S
    assert [c.key for c in wire.host.memory_changes(wire.now_us)] == [NODE]
    assert wire.host.memory_changes(wire.now_us, everything=True) == ()


def test_memory_births_and_deaths_are_saved_at_once() -> None:
    wire = Wire().up()
    wire.host.memory_changes(wire.now_us)
    wire.send("NDEATH", node_death(3))
    assert sorted(c.key for c in wire.host.memory_changes(wire.now_us)) == [NODE, f"{NODE}/", f"{NODE}/inlet"]
    wire.born()
    assert sorted(c.key for c in wire.host.memory_changes(wire.now_us)) == [NODE, f"{NODE}/", f"{NODE}/inlet"]


def test_memory_of_a_death_survives_a_restart() -> None:
    wire, rows = Wire().up(), {}
    wire.send("NDEATH", node_death(3))
    kept(rows, wire.host.memory_changes(wire.now_us))
    again = restored(rows)
    assert not again.is_there(DEVICE)
    assert reasons(again.data(2)) == [FaultReason.BIRTH_MISSING]


def test_memory_device_whose_birth_was_awaited_at_the_crash_goes_when_it_does_not_come() -> None:
    wire, rows = Wire().up(), {}
    wire.born()
    kept(rows, wire.host.memory_changes(wire.now_us))
    again = restored(rows, s=100)
    again.s = 100 + BIRTH_GRACE_S
    again.due()
    assert not again.is_there(DEVICE)


@pytest.mark.parametrize(
    "state", [b"", b"\xc1", b"\x93\x01", b"\x95\xc3\xc3\x00\xa3xyz\x90"], ids=["empty", "no-msgpack", "short", "reason"]
)
def test_memory_row_that_cannot_be_read_is_counted_and_left_out(state: bytes) -> None:
    wire = Wire()
    wire.host.restore([(NODE, state), (f"{NODE}/", state), ("x", state), (f"{NODE}/inlet", state)], AT_US)
    assert wire.count("unreadable_memory") == 4
    assert wire.count("nodes") == 0
    assert wire.up().data(2).channel == ("Flow/m3h",)


# --- from quarantine


def test_replay_reads_by_the_birth_and_remembers_nothing() -> None:
    wire = Wire()
    message = decode(topic("DDATA"), payload([metric(alias=2, at_ms=AT_MS, double_value=1.5)], seq=200))
    wire.host.observe(message, wire.now_us)
    wire.up()
    before = wire.host.facts()
    assert wire.host.replay(message).channel == ("Flow/m3h",)
    assert wire.host.replay(decode(topic("NDEATH"), node_death(3))).faults == ()
    assert wire.host.facts() == before
    assert wire.data(2).channel == ("Flow/m3h",)
    assert wire.host.last_seen is Seen.IN_ORDER


OLD = {
    "data-of-the-session-before": ("DDATA", payload([metric(alias=2, at_ms=AT_MS, double_value=1.5)], AT_MS - 60_000, 50)),
    "data-of-this-session": ("DDATA", payload([metric(alias=2, at_ms=AT_MS, double_value=1.5)], AT_MS + 500, 2)),
    "node-birth": ("NBIRTH", node_birth(2, 0, AT_MS - 60_000, [metric("Battery/V", 1, AT_MS, DOUBLE, double_value=3.5)])),
    "device-birth": ("DBIRTH", device_birth(1, AT_MS - 60_000, [metric("Level/m", 2, AT_MS, DOUBLE, double_value=2.5)])),
    "device-death": ("DDEATH", payload(at_ms=AT_MS - 60_000, seq=9)),
}


@pytest.mark.parametrize(("kind", "message"), OLD.values(), ids=OLD)
@pytest.mark.parametrize("restart", [False, True])
def test_old_message_that_comes_again_from_quarantine_gives_its_values_and_changes_nothing(
    kind: str, message: bytes, restart: bool
) -> None:
    wire = Wire().up()
    wire.send("DDATA", payload([metric(alias=2, at_ms=AT_MS, double_value=1.5)], AT_MS + 1000, 2))
    if restart:
        rows: dict[str, bytes] = {}
        kept(rows, wire.host.memory_changes(wire.now_us, everything=True))
        wire = restored(rows)
    wire.host.memory_changes(wire.now_us, everything=True)
    decoded = decode(topic(kind), message)
    got = wire.host.observe(decoded, wire.now_us, qos=1)
    assert wire.host.last_seen is Seen.REPLAYED
    assert len(got) == len(decoded)
    assert got.faults == ()
    assert wire.host.memory_changes(wire.now_us, everything=True) == ()
    assert wire.data(3).channel == ("Flow/m3h",)
    assert wire.host.last_seen is Seen.IN_ORDER
    assert wire.is_there(DEVICE)


def test_edge_that_sends_at_qos_1_is_heard_all_the_same() -> None:
    wire = Wire()
    for number, (kind, message) in enumerate(
        [
            ("NBIRTH", node_birth()),
            ("DBIRTH", device_birth(1, AT_MS, BIRTH)),
            ("DDATA", payload([metric(alias=2, at_ms=AT_MS, double_value=1.5)], AT_MS + 1, 2)),
            ("NBIRTH", node_birth(4, 0, AT_MS + 2)),
        ]
    ):
        wire.host.observe(decode(topic(kind), message), wire.now_us, qos=1)
        assert wire.host.last_seen is [Seen.BORN, Seen.IN_ORDER, Seen.IN_ORDER, Seen.BORN][number]


# --- limits


def test_nodes_without_room_are_visible_and_their_births_are_read_all_the_same() -> None:
    wire = Wire(SparkplugHost("underway", nodes_max=2))
    wire.up()
    wire.born(node="north/b")
    got = wire.send("NBIRTH", node_birth(metrics=[metric("Battery/V", 1, AT_MS, DOUBLE, double_value=3.5)]), "north/c")
    assert wire.host.last_seen is Seen.NO_ROOM
    assert got.channel == ("Battery/V",)
    assert [f.message for f in got.faults] == [
        "a birth must be remembered to read the data after it, that of 'north/c' was not: at most 2 edge nodes are"
    ]
    assert (wire.count("nodes"), wire.count("not_remembered")) == (2, 1)
    assert wire.data(2).channel == ("Flow/m3h",)


def test_nodes_dead_for_longest_make_room_and_leave_the_memory() -> None:
    rows: dict[str, bytes] = {}
    wire = Wire(SparkplugHost("underway", nodes_max=2)).up()
    wire.born(node="north/b")
    kept(rows, wire.host.memory_changes(wire.now_us))
    wire.send("NDEATH", node_death(3))
    wire.born(node="north/c")
    kept(rows, wire.host.memory_changes(wire.now_us))
    assert sorted(rows) == ["north/b", "north/b/", "north/c", "north/c/"]
    assert (wire.count("nodes"), wire.count("nodes_forgotten"), wire.count("devices"), wire.count("metrics")) == (2, 1, 0, 2)


def test_metrics_without_room_are_visible() -> None:
    wire = Wire(SparkplugHost("underway", metrics_max=5))
    wire.born()
    assert reasons(wire.device_born()) == [FaultReason.BIRTH_MISSING]
    assert wire.host.facts()["metrics"] == 1
    assert wire.device_born(metrics=BIRTH[:4]).faults == ()
    assert wire.host.facts()["metrics"] == 5
    assert wire.device_born(metrics=BIRTH[:3]).faults == ()
    assert wire.host.facts()["metrics"] == 4


def test_node_whose_birth_finds_no_room_for_its_metrics_is_not_kept() -> None:
    wire = Wire(SparkplugHost("underway", metrics_max=0))
    assert reasons(wire.born()) == [FaultReason.BIRTH_MISSING]
    assert wire.count("nodes") == 0
    assert wire.count("metrics") == 0


def test_strangers_are_limited() -> None:
    wire = Wire()
    for number in range(STRANGERS_MAX + 5):
        wire.data(4, node=f"north/rtu-{number}")
    assert (wire.count("strangers"), wire.count("watched"), wire.count("strangers_forgotten")) == (STRANGERS_MAX, STRANGERS_MAX, 5)
