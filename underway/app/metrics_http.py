"""Serve metrics and the health of a service over HTTP: ``/metrics`` for Prometheus, ``/healthz`` for whoever restarts."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector

from underway import __version__
from underway.app.metrics import INGEST_METRICS, Facts, FactsCollector, Metric
from underway.model import OperatorError

REQUESTS_MAX = 8
"""Requests served at once; a further one is turned away."""
REQUEST_S_MAX = 10.0
ATTEMPTS_MAX = 3
TURN_S_MAX = 60.0
"""A service whose loop has not come round for so long hangs: longer than any statement and any wait of it takes."""

log = logging.getLogger("underway.metrics")


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a service should be left alone, and the reason as a sentence."""

    well: bool
    reason: str


def health(facts: Mapping[str, Any], turn_s_max: float = TURN_S_MAX) -> Health:
    """Return how a service is by its own facts: waiting for something outside is no reason to restart it, hanging is.

    Parameters
    ----------
    facts : mapping
        ``state``, and ``turn_age_s``: wall time since its loop came round last, in s (missing: not judged).
    turn_s_max : float
        From then on it hangs, in s.

    Examples
    --------
    >>> health({"state": "store away", "turn_age_s": 2.0}), health({"state": "running", "turn_age_s": 61.0}).well
    (Health(well=True, reason='store away'), False)
    """
    state = str(facts.get("state", "unknown"))
    age_s = facts.get("turn_age_s")
    if isinstance(age_s, (int, float)) and age_s > turn_s_max:
        return Health(False, f"hangs: the loop must come round within {turn_s_max:g} s, it has not for {age_s:.0f} s ({state})")
    error = str(facts.get("store_error") or "")
    return Health(True, f"{state}: {error}" if error and state != "running" else state)


class MetricsServer:
    """An HTTP server in threads of its own.

    Attributes
    ----------
    port : int
        The port that is bound.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="metrics-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=REQUEST_S_MAX)


def serve_metrics(host: str, port: int, facts: Facts, metrics: Sequence[Metric] = INGEST_METRICS) -> MetricsServer | None:
    """Serve ``/metrics`` and ``/healthz`` until closed.

    Parameters
    ----------
    host : str
        Address to bind. Whoever can reach it can read: there is no sign-in.
    port : int
        0: nothing is served and None is returned. The same when the address cannot be bound, with an error in the log: a service does not
        stand still for want of metrics.
    facts : callable () -> mapping
        Asked at each request, from another thread than the service's.
    metrics : sequence of Metric
        Which facts to show, under which names.
    """
    if port == 0:
        return None
    try:
        return bind_metrics(host, port, facts, metrics)
    except OperatorError as error:
        log.error("no metrics: %s", error)
        return None


def bind_metrics(host: str, port: int, facts: Facts, metrics: Sequence[Metric] = INGEST_METRICS) -> MetricsServer:
    """Serve as `serve_metrics` does; port 0 takes a free one.

    Raises
    ------
    OperatorError
        When the address cannot be bound.
    """
    facts = _steady(facts)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FactsCollector(facts, metrics))
    registry.register(_Build())
    ProcessCollector(registry=registry)
    try:
        server = _Server((host, port), _handler(facts, registry))
    except OSError as error:
        raise OperatorError(
            f"UNDERWAY_METRICS_HOST and UNDERWAY_METRICS_PORT must name an address that can be bound, got {host!r} and {port}"
            f" ({error.strerror}); choose another port, or 0 for none"
        ) from error
    log.info("metrics at http://%s:%d/metrics", host, server.server_address[1])
    return MetricsServer(server)


def _steady(facts: Facts) -> Facts:
    """Return `facts` that are asked again when the service changed a mapping of them while they were collected."""

    def asked() -> Mapping[str, Any]:
        for _ in range(ATTEMPTS_MAX - 1):
            try:
                return facts()
            except RuntimeError:
                continue
        return facts()

    return asked


class _Build(Collector):
    """The version, as a label."""

    def collect(self) -> list[GaugeMetricFamily]:
        family = GaugeMetricFamily("underway_build_info", "Always 1; the version is the label.", labels=("version",))
        family.add_metric([__version__], 1)
        return [family]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking the name service who we are."""
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a request, or turn it away."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""
        log.debug("a request from %s ended early", client_address, exc_info=True)


def _handler(facts: Facts, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S_MAX
        server_version = "underway"
        sys_version = ""

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            try:
                if path == "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(HTTPStatus.OK, content_type, encode(registry))
                elif path == "/healthz":
                    found = health(facts())
                    self._say(HTTPStatus.OK if found.well else HTTPStatus.SERVICE_UNAVAILABLE, found.reason)
                else:
                    self._say(HTTPStatus.NOT_FOUND, "there is /metrics and /healthz")
            except OSError:
                raise
            except Exception:  # whatever a fact breaks on, who asks gets an answer, and the log the reason
                log.exception("%s cannot be answered", path)
                self._say(HTTPStatus.INTERNAL_SERVER_ERROR, "the service cannot say how it is; its log says why")

        def do_HEAD(self) -> None:
            self.do_GET()

        def _say(self, status: HTTPStatus, text: str) -> None:
            self._answer(status, "text/plain; charset=utf-8", text.encode() + b"\n")

        def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Cache-Control", "no-store")
            if gzip_accepted(self.headers.get("Accept-Encoding", "")):
                body = gzip.compress(body, compresslevel=1)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log no requests."""

    return Handler
