from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from underway.model import FindingKind, Priority, SettingsError
from workorders.alarm_types import OrderPolicy, load_policy, parse_policy

TEXT = files("workorders").joinpath("alarm_types.toml").read_text("utf-8")


def test_policy_shipped_file_knows_every_finding_kind() -> None:
    policy = load_policy()
    assert set(policy.alarms) == {str(k) for k in FindingKind}
    assert policy.alarms["leak.burst"].priority is Priority.URGENT
    assert policy.alarms["leak.burst"].order is OrderPolicy.AUTOMATIC
    assert policy.sla[Priority.URGENT].ack_min == 15


def test_policy_every_problem_is_listed_at_once() -> None:
    text = TEXT.replace('priority = "urgent"', 'priority = "panic"', 1).replace("shelvable = true", 'shelvable = "yes"', 1)
    text = text.replace('order_type = "leak_repair"', 'order_type = "dig"', 1).replace("ack_min = 15", "ack_min = 0", 1)
    text = text.replace("deadline_h = 24\n", "deadline_h = 24\nbeer = 1\n", 1)
    with pytest.raises(SettingsError) as caught:
        parse_policy(text)
    assert caught.value.problems == (
        "sla.urgent.ack_min must be a number in 1..1e+09, got 0",
        "alarm.leak.burst.order_type must be one of leak_repair, road_repair, bridge_inspection, drain_clearing, sensor_check, water_quality, "
        "tank_check, pump_service, prv_service,"
        " got 'dig'",
        "alarm.leak.burst.priority must be one of urgent, high, medium, low, journal, got 'panic'",
        "alarm.leak.burst.shelvable must be true or false, got 'yes'",
        caught.value.problems[4],
    )
    assert caught.value.problems[4].startswith("alarm.leak.burst.verification.beer is not a setting; known: deadline_h, ")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'night = "02:00-04:00"',
            'night = "04:00-02:00"',
            "alarm.leak.burst.verification.night must be a window HH:MM-HH:MM inside one day",
        ),
        ("zone/{zone_id}/inflow", "zone/{dma}/inflow", r"alarm.leak.burst.verification.signals may only use {zone_id} and {asset_id}"),
        ('alarm."road.flood"', 'alarm."road.lava"', "alarm.road.lava is not a finding kind"),
        ('alarm."road.flood"', 'alarm."road.lava"', "alarm.road.flood is missing"),
        ("night", "nigth", "alarm.leak.burst.verification.night must be given for test 'burst'"),
    ],
    ids=["window", "template", "unknown-kind", "missing-kind", "night-missing"],
)
def test_policy_one_wrong_field_is_named(old: str, new: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(problem)):
        parse_policy(TEXT.replace(old, new))


def test_policy_no_toml_is_an_operators_problem() -> None:
    with pytest.raises(SettingsError, match="1 problem: the file of alarm types must be TOML"):
        parse_policy("= 3")


def test_policy_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"must be readable UTF-8.*none\.toml"):
        load_policy(tmp_path / "none.toml")
