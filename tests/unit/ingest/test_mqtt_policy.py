"""Which protocol is tried next, and when."""

from __future__ import annotations

from ingest.mqtt_codec import Version
from ingest.mqtt_policy import CONNACK_S_MAX, DELAY_S_MAX, LASTING_S, Outcome, Policy, spread


def test_policy_broker_without_mqtt_5_is_tried_with_the_other_at_once() -> None:
    for outcome in (Outcome.WRONG_VERSION, Outcome.CLOSED_EARLY, Outcome.SILENT):
        policy = Policy("me")
        assert policy.version is Version.V5
        assert policy.after(outcome, 0.0) == 0.0
        assert policy.version is Version.V311


def test_policy_change_back_and_forth_is_slowed_down() -> None:
    policy = Policy("me")
    delays = [policy.after(Outcome.CLOSED_EARLY, 0.0) for _ in range(8)]
    assert policy.version is Version.V5
    assert delays[0] == 0.0
    assert delays[1] >= 0.25
    assert delays[-1] >= 5


def test_policy_broker_that_answered_once_must_close_three_times() -> None:
    policy = Policy("me")
    policy.connected()
    seen = []
    for _ in range(3):
        policy.after(Outcome.CLOSED_EARLY, 0.0)
        seen.append(policy.version)
    assert seen == [Version.V5, Version.V5, Version.V311]


def test_policy_broker_that_was_replaced_by_a_newer_one_is_found_again() -> None:
    policy = Policy("me", Version.V311)
    policy.connected()
    policy.after(Outcome.SILENT, 0.0)
    assert policy.version is Version.V5


def test_policy_silence_makes_it_more_patient_up_to_a_limit_and_an_answer_less() -> None:
    policy = Policy("me")
    for _ in range(10):
        policy.after(Outcome.SILENT, 0.0)
    assert policy.patience_s == CONNACK_S_MAX
    policy.connected()
    assert policy.patience_s == 2.0


def test_policy_other_ends_keep_the_protocol() -> None:
    policy = Policy("me")
    for outcome in (Outcome.UNREACHABLE, Outcome.REFUSED, Outcome.LOST):
        policy.after(outcome, 0.0)
    assert policy.version is Version.V5


def test_policy_delay_grows_to_its_limit_and_starts_anew_after_a_lasting_connection() -> None:
    policy = Policy("me")
    delays = [policy.after(Outcome.UNREACHABLE, 0.0) for _ in range(12)]
    assert all(0.5 * 0.5 * 2**i <= delay <= 0.5 * 2**i for i, delay in enumerate(delays[:5]))
    assert all(DELAY_S_MAX / 2 <= delay <= DELAY_S_MAX for delay in delays[5:])
    assert policy.after(Outcome.LOST, LASTING_S - 1) >= 5
    assert policy.after(Outcome.LOST, LASTING_S) <= 0.5


def test_spread_differs_between_clients_and_is_the_same_each_time() -> None:
    values = [spread(f"client-{i}", 1) for i in range(200)]
    assert values == [spread(f"client-{i}", 1) for i in range(200)]
    assert min(values) < 0.1
    assert max(values) > 0.9
    assert all(0 <= value <= 1 for value in values)


def test_policy_broker_that_was_slow_once_is_not_left_at_the_old_protocol() -> None:
    policy = Policy("ingest")
    policy.connected()
    policy.after(Outcome.LOST, 60.0)
    policy.after(Outcome.SILENT, 0.0)
    assert policy.version is Version.V5, "one silence of a broker that spoke MQTT 5 is patience's matter"
    policy.after(Outcome.SILENT, 0.0)
    assert policy.version is Version.V311
    policy.connected()
    policy.after(Outcome.LOST, 60.0)
    assert policy.version is Version.V5
