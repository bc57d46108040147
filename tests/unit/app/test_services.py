"""Services get what the settings say."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
import pytest

from underway.app import ingest_service, services, workside
from underway.app.clock import SystemClock
from underway.app.settings import Settings
from underway.model import InternalError, OperatorError, SettingsError, StoreUnavailable


@pytest.mark.parametrize(("name", "module"), [("ingest", ingest_service), ("workorders", workside)], ids=["ingest", "workorders"])
def test_services_that_speak_mqtt_get_the_certificate_authority(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def run(*positional: Any, **named: Any) -> None:
        given.update(named)
        if positional and isinstance(positional[-1], ingest_service.IngestOptions):
            given["ca_file"] = positional[-1].ca_file

    monkeypatch.setattr(module, "run", run)
    services._SERVICES[name](Settings(mqtt_ca_file="/etc/underway/ca.crt"), SystemClock(), threading.Event())
    assert given["ca_file"] == "/etc/underway/ca.crt"


def test_run_services_with_a_dialect_that_there_is_not_says_so_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATABASE_URL": "postgresql://h/d", "MQTT_URL": "mqtt://127.0.0.1", "DIALECTS": "native,nativ"}.items():
        monkeypatch.setenv(f"UNDERWAY_{name}", value)
    started: list[str] = []
    monkeypatch.setitem(services._SERVICES, "ingest", lambda *_: started.append("ingest"))
    with pytest.raises(SettingsError, match=r"^1 problem: UNDERWAY_DIALECTS: a dialect must be one of native, senml, .*, got 'nativ'$"):
        services.run_services("ingest")
    assert started == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        pytest.param(SettingsError(["no"]), "service 'ingest' ended: SettingsError: 1 problem: no", id="settings"),
        pytest.param(OperatorError("no such site"), "service 'ingest' ended: OperatorError: no such site", id="operator"),
        pytest.param(StoreUnavailable("no server"), "service 'ingest' ended: StoreUnavailable: no server", id="store"),
        pytest.param(
            psycopg.errors.UndefinedTable('relation "site" does not exist'),
            "service 'ingest' ended: OperatorError: the database must have the tables of this version of underway"
            " (relation \"site\" does not exist); run 'underway db migrate'",
            id="empty-database",
        ),
    ],
)
def test_guarded_service_whose_error_a_person_can_mend_logs_one_sentence(
    error: Exception, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert failed(error) == [error]
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [(sentence, None)]


def test_guarded_service_with_a_defect_logs_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = InternalError("an invariant is broken")
    assert failed(error) == [error]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def failed(error: Exception) -> list[BaseException]:
    def service(*_: Any) -> None:
        raise error

    failures: list[BaseException] = []
    stop = threading.Event()
    services._guarded("ingest", service, Settings(), SystemClock(), stop, failures)
    assert stop.is_set()
    return failures
