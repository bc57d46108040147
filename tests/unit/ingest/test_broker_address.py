from __future__ import annotations

import pytest

from ingest.mqtt import BrokerAddress
from underway.model import SettingsError


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "username", "password"),
    [
        ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884, False, None, None),
        ("mqtt://broker", "broker", 1883, False, None, None),
        ("mqtts://broker", "broker", 8883, True, None, None),
        ("mqtt://app:p%40ss@broker", "broker", 1883, False, "app", "p@ss"),
        ("mqtt://[::1]:1883", "::1", 1883, False, None, None),
    ],
)
def test_address_parses(url: str, host: str, port: int, tls: bool, username: str | None, password: str | None) -> None:
    assert BrokerAddress.parse(url) == BrokerAddress(host, port, tls, username, password)


@pytest.mark.parametrize("url", ["", "broker:1883", "http://broker", "mqtt://", "mqtt://u:s3cret@broker:99999", "mqtt://[::1"])
def test_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^1 problem: the broker URL must look like 'mqtt://user:password@host:1883', got one with scheme"
    ) as refused:
        BrokerAddress.parse(url)
    assert "s3cret" not in str(refused.value)


def test_address_does_not_show_its_password() -> None:
    assert repr(BrokerAddress.parse("mqtts://app:s3cret@broker")) == "mqtts://broker:8883"
