"""The address that Prometheus asks: what it says, also when the service cannot answer or the address is taken."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from underway import __version__
from underway.app.metrics_http import REQUESTS_MAX, MetricsServer, bind_metrics, serve_metrics
from underway.model import OperatorError

pytestmark = pytest.mark.integration

FACTS: dict[str, Any] = {"state": "running", "turn_age_s": 0.0, "dialects": {"native": {"messages": 5, "readings": 50}}}


@pytest.fixture
def said() -> dict[str, Any]:
    return dict(FACTS)


@pytest.fixture
def address(said: dict[str, Any]) -> Iterator[MetricsServer]:
    def facts() -> dict[str, Any]:
        if "error" in said:
            raise ValueError("no facts")
        if said.get("changes"):
            said["changes"] -= 1
            raise RuntimeError("dictionary changed size during iteration")
        return said

    bound = bind_metrics("127.0.0.1", 0, facts)
    yield bound
    bound.close()


def get(address: MetricsServer, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{address.port}{path}", headers=headers, timeout=10)


def test_metrics_are_served_as_text_and_as_openmetrics(address: MetricsServer) -> None:
    answer = get(address, "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'underway_ingest_messages_total{dialect="native"} 5.0' in answer.text
    assert f'underway_build_info{{version="{__version__}"}} 1.0' in answer.text
    assert "process_resident_memory_bytes " in answer.text
    modern = get(address, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


def test_healthz_follows_the_facts(address: MetricsServer, said: dict[str, Any]) -> None:
    assert (get(address, "/healthz").status_code, get(address, "/healthz").text) == (200, "running\n")
    said["turn_age_s"] = 3600.0
    assert get(address, "/healthz").status_code == 503
    assert get(address, "/").status_code == 404


def test_facts_that_fail_are_an_answer_and_the_server_goes_on(
    address: MetricsServer, said: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    said["error"] = True
    for path in ("/metrics", "/healthz"):
        answer = get(address, path)
        assert (answer.status_code, answer.text) == (500, "the service cannot say how it is; its log says why\n")
    assert "no facts" in caplog.text
    del said["error"]
    assert get(address, "/metrics").status_code == 200


def test_facts_that_change_while_they_are_collected_are_asked_again(address: MetricsServer, said: dict[str, Any]) -> None:
    said["changes"] = 2
    assert get(address, "/metrics").status_code == 200
    assert said["changes"] == 0


def test_idle_connections_take_no_more_than_their_places(address: MetricsServer) -> None:
    others = set(threading.enumerate())  # those of servers before may still be ending
    idle = [socket.create_connection(("127.0.0.1", address.port), timeout=10) for _ in range(REQUESTS_MAX)]
    with pytest.raises(httpx.TransportError):
        get(address, "/metrics")
    begun = [thread for thread in threading.enumerate() if thread not in others]
    assert len(begun) == REQUESTS_MAX
    assert all(thread.name.endswith("(process_request_thread)") for thread in begun)
    for connection in idle:
        connection.close()


def test_port_that_is_taken_costs_the_metrics_and_not_the_service(address: MetricsServer, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        OperatorError, match=r"must name an address that can be bound, got '127\.0\.0\.1' and .* choose another port, or 0 for none"
    ):
        bind_metrics("127.0.0.1", address.port, lambda: FACTS)
    with caplog.at_level(logging.ERROR):
        assert serve_metrics("127.0.0.1", address.port, lambda: FACTS) is None
    assert "no metrics" in caplog.text
    assert serve_metrics("127.0.0.1", 0, lambda: FACTS) is None


def test_close_gives_the_port_back() -> None:
    first = bind_metrics("::1", 0, lambda: FACTS)
    first.close()
    again = bind_metrics("::1", first.port, lambda: FACTS)
    again.close()
