"""Addresses that are none are refused at once, in words that quote no password."""

from __future__ import annotations

import pytest

from underway.app.link import TownLink
from underway.app.settings import load_settings
from underway.model import SettingsError


@pytest.mark.parametrize("port", ["99999", "0", "pass/word@h"], ids=["too-large", "zero", "a-password"])
def test_settings_address_with_an_impossible_port_is_refused_without_quoting_it(port: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={"UNDERWAY_MQTT_URL": f"mqtt://broker:{port}"})
    assert str(caught.value) == "1 problem: UNDERWAY_MQTT_URL: must look like mqtt://host:1883 or mqtts://host:8883"


def test_settings_value_that_is_wrong_hides_neither_a_missing_nor_an_unsafe_one() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(("database_url", "mqtt_url", "secret_key"), {"UNDERWAY_MQTT_URL": "http://x", "UNDERWAY_SECRET_KEY": "short"})
    assert str(caught.value) == (
        "3 problems: UNDERWAY_MQTT_URL: must look like mqtt://host:1883 or mqtts://host:8883; "
        "UNDERWAY_DATABASE_URL is not set (PostgreSQL or TimescaleDB, postgresql://user:password@host/database); "
        "UNDERWAY_SECRET_KEY must have at least 32 characters, got 5"
    )


@pytest.mark.parametrize("url", ["http://broker", "mqtt://broker:99999", "broker"], ids=["scheme", "port", "none"])
def test_town_link_to_what_is_no_broker_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="the broker URL must look like 'mqtt://user:password@host:1883'"):
        TownLink(url)
