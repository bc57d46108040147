"""Services get what the settings say."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from underway.app import ingest_service, services, workside
from underway.app.clock import SystemClock
from underway.app.settings import Settings


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
