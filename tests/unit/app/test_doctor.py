"""What ``doctor`` says of settings and of a broker that it cannot reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from underway.app.doctor import examine
from underway.app.settings import Settings


def test_doctor_shows_every_setting_and_no_secret() -> None:
    given = {"UNDERWAY_SECRET_KEY": "hunter2-hunter2", "UNDERWAY_BATCH_COUNT": "77", "UNDERWAY_SITE_ID": "north"}
    report = examine(given)
    shown = report["sections"]["settings"]
    assert list(shown) == [f"UNDERWAY_{name.upper()}" for name in Settings.model_fields]
    assert (shown["UNDERWAY_BATCH_COUNT"], shown["UNDERWAY_SITE_ID"], shown["UNDERWAY_DEMO"]) == (77, "north", False)
    assert (shown["UNDERWAY_SECRET_KEY"], shown["UNDERWAY_DATABASE_URL"], shown["UNDERWAY_DIALECTS"]) == ("set", "not set", "not set")
    assert shown["UNDERWAY_BASE_URL"] == "http://127.0.0.1:8080"
    assert "hunter2" not in str(report)
    assert report["problems"] == []


def test_doctor_redacts_passwords_in_addresses() -> None:
    report = examine({"UNDERWAY_MQTT_URL": "mqtt://ingest:hunter2@127.0.0.1:1"})
    assert report["sections"]["settings"]["UNDERWAY_MQTT_URL"] == "mqtt://ingest:***@127.0.0.1:1"
    assert "hunter2" not in str(report)


def test_doctor_names_a_dialect_that_there_is_not() -> None:
    (problem,) = examine({"UNDERWAY_DIALECTS": "native,nativ"})["problems"]
    assert problem.startswith("UNDERWAY_DIALECTS: a dialect must be one of native, senml, ")
    assert problem.endswith(", got 'nativ'")


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "not-a-certificate"])
def test_doctor_with_a_certificate_file_that_is_none_says_so(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    (problem,) = examine({"UNDERWAY_MQTT_URL": "mqtts://u:p@127.0.0.1:1", "UNDERWAY_MQTT_CA_FILE": str(file)})["problems"]
    assert problem.startswith(
        "the broker at mqtts://u:***@127.0.0.1:1 must accept a connection, got:"
        f" UNDERWAY_MQTT_CA_FILE must name a readable file of certificates, got '{file}' ("
    )


def test_doctor_logs_in_with_the_decoded_user_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(paho.Client, "username_pw_set", lambda self, *account: given.append(account))
    examine({"UNDERWAY_MQTT_URL": "mqtt://in%3Agest:p%40ssw@127.0.0.1:1"})
    assert given == [("in:gest", "p@ssw")] * 2  # MQTT 5, then 3.1.1
