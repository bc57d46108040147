"""Settings: every problem at once, nothing unsafe goes live, no secret reaches a message."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from underway.app.settings import Settings, load_settings
from underway.model import SettingsError

SECRET = "k3J9-vQ2x_Z7mT4wB8nL1pR6sY0dF5hG"
LIVE = {
    "UNDERWAY_DATABASE_URL": "postgresql://u:p@db/underway",
    "UNDERWAY_MQTT_URL": "mqtts://ingest:p@broker:8883",
    "UNDERWAY_SECRET_KEY": SECRET,
}
NEEDS = ("database_url", "mqtt_url", "secret_key")


def test_settings_empty_environment_gives_safe_defaults() -> None:
    settings = load_settings(environ={})
    assert settings == Settings()
    assert settings.web_host == "127.0.0.1"
    assert settings.public_url == "http://127.0.0.1:8080"


def test_settings_live_environment_is_taken() -> None:
    settings = load_settings(NEEDS, LIVE | {"UNDERWAY_BATCH_AGE_S": "0.5", "UNDERWAY_BASE_URL": "https://ops.example/"})
    assert (settings.batch_age_s, settings.public_url) == (0.5, "https://ops.example")


def test_settings_instant_of_the_first_dig_needs_its_zone() -> None:
    assert load_settings(environ={"UNDERWAY_DIGS_FROM": ""}).digs_from is None
    assert load_settings(environ={"UNDERWAY_DIGS_FROM": "2026-01-01T01:00:00+01:00"}).digs_from == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(
        SettingsError, match=r"UNDERWAY_DIGS_FROM: must be an instant with its zone, like 2026-01-01T00:00:00Z, got '2026-01-01'"
    ):
        load_settings(environ={"UNDERWAY_DIGS_FROM": "2026-01-01"})


def test_settings_ipv6_host_gives_an_address_that_a_browser_takes() -> None:
    assert load_settings(environ={"UNDERWAY_WEB_HOST": "::1"}).public_url == "http://[::1]:8080"


def test_settings_several_problems_are_all_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(("database_url",), {"UNDERWAY_BATCH_AGE_S": "0", "UNDERWAY_MQTT_ULR": "x", "UNDERWAY_MQTT_URL": "http://x"})
    assert str(caught.value) == (
        "4 problems: UNDERWAY_MQTT_ULR is not a setting; nearest known: UNDERWAY_MQTT_URL; "
        "UNDERWAY_MQTT_URL: must look like mqtt://host:1883 or mqtts://host:8883; "
        "UNDERWAY_BATCH_AGE_S: input should be greater than or equal to 0.005, got '0'; "
        "UNDERWAY_DATABASE_URL is not set (PostgreSQL or TimescaleDB, postgresql://user:password@host/database)"
    )


def test_settings_missing_needs_are_named_even_when_other_values_are_wrong_later() -> None:
    with pytest.raises(
        SettingsError, match=r"3 problems: UNDERWAY_DATABASE_URL is not set .* UNDERWAY_MQTT_URL is not set .* UNDERWAY_SECRET_KEY"
    ):
        load_settings(NEEDS, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"UNDERWAY_SECRET_KEY": "short"}, "at least 32 characters, got 5", id="short-secret"),
        pytest.param({"UNDERWAY_SECRET_KEY": "please-change-me-please-change-me-1"}, "must be random", id="default-secret"),
        pytest.param({"UNDERWAY_SECRET_KEY": "a" * 40}, "must be random", id="one-letter-secret"),
        pytest.param({"UNDERWAY_MQTT_URL": "mqtt://broker:1883"}, "anonymous one at 'broker'", id="anonymous-broker"),
        pytest.param({"UNDERWAY_WEB_HOST": "0.0.0.0"}, "UNDERWAY_BASE_URL must be https://", id="bare-web-server"),
        pytest.param({"UNDERWAY_DEMO": "true", "UNDERWAY_WEB_HOST": "0.0.0.0"}, "UNDERWAY_DEMO is for loopback only", id="public-demo"),
    ],
)
def test_settings_unsafe_for_live_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(NEEDS, LIVE | change)


def test_settings_anonymous_broker_on_loopback_is_allowed() -> None:
    assert load_settings(NEEDS, LIVE | {"UNDERWAY_MQTT_URL": "mqtt://127.0.0.1:1883"}).mqtt_url == "mqtt://127.0.0.1:1883"


def test_settings_secrets_never_reach_a_message() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(NEEDS, LIVE | {"UNDERWAY_DATABASE_URL": "mysql://root:hunter2@db", "UNDERWAY_SECRET_KEY": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_settings_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    file = tmp_path / "underway.toml"
    file.write_text('web_port = 9000\nsite_id = "north"\n', encoding="utf-8")
    settings = load_settings(environ={"UNDERWAY_CONFIG": str(file), "UNDERWAY_WEB_PORT": "9001"})
    assert (settings.web_port, settings.site_id) == (9001, "north")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("web_prot = 9000", "'web_prot' in the settings file is not a setting; nearest known: web_port", id="misspelt"),
        pytest.param("web_port = ", "must be TOML", id="not-toml"),
    ],
)
def test_settings_bad_file_says_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "underway.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_settings(environ={"UNDERWAY_CONFIG": str(file)})


def test_settings_missing_file_says_so() -> None:
    with pytest.raises(SettingsError, match=r"must name a readable TOML file, got '/nowhere\.toml'"):
        load_settings(environ={"UNDERWAY_CONFIG": "/nowhere.toml"})


def test_settings_leave_the_variables_of_grafana_alone() -> None:
    names = ("UNDERWAY_GRAFANA_DB_HOST", "UNDERWAY_GRAFANA_DB_PASSWORD", "UNDERWAY_GRAFANA_PROMETHEUS_URL", "UNDERWAY_GRAFANA_DATABASE_URL")
    assert load_settings(environ=dict.fromkeys(names, "x")) == Settings()
    with pytest.raises(SettingsError, match=r"UNDERWAY_GRAFANADB_HOST is not a setting"):
        load_settings(environ={"UNDERWAY_GRAFANADB_HOST": "x"})


def test_settings_dialect_names_are_the_words_between_commas() -> None:
    assert load_settings(environ={"UNDERWAY_DIALECTS": "native, senml,"}).dialect_names == ("native", "senml")
    assert Settings().dialect_names == ()


def test_settings_database_url_may_name_several_hosts() -> None:
    url = "postgresql://u:p@a:5432,b:5433/d?target_session_attrs=read-write"
    assert load_settings(("database_url",), {"UNDERWAY_DATABASE_URL": url}).database_url == url
