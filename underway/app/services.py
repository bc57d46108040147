"""Run the services of this installation in the present process: ingest, the work side, the web pages."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

from underway.app.clock import SystemClock, TownClock
from underway.app.logs import configure_logs
from underway.app.mistakes import told
from underway.app.settings import Settings, load_settings
from underway.model import Clock, SettingsError

NEEDS: dict[str, tuple[str, ...]] = {
    "ingest": ("database_url", "mqtt_url"),
    "workorders": ("database_url", "mqtt_url", "secret_key"),
    "web": ("database_url", "secret_key"),
}
PARENT_LOOK_S = 0.5
JOIN_S = 10.0

log = logging.getLogger("underway")


def run_services(only: str | None, *, stop_with_parent: bool = False) -> None:
    """Run one service or all of them until SIGTERM or SIGINT.

    Raises
    ------
    SettingsError
        When a setting that a service needs is missing or unsafe, or names a dialect that there is not.
    """
    names = tuple(NEEDS) if only is None else (only,)
    needs = tuple(dict.fromkeys(field for name in names for field in NEEDS[name]))
    settings = load_settings(needs)
    if "ingest" in names:
        _check_dialects(settings)
    configure_logs(settings.log_format, only or "underway")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if stop_with_parent:
        threading.Thread(target=_stop_without_parent, args=(stop, os.getppid()), name="parent-watch", daemon=True).start()
    clock: Clock = TownClock(settings.database_url) if settings.clock == "town" else SystemClock()
    failures: list[BaseException] = []
    threads = [
        threading.Thread(target=_guarded, args=(name, _SERVICES[name], settings, clock, stop, failures), name=name) for name in names
    ]
    for thread in threads:
        thread.start()
    log.info("started: %s", ", ".join(names))
    while not stop.wait(0.2):
        pass
    for thread in threads:
        thread.join(timeout=JOIN_S)
    if failures:
        raise failures[0]


def _guarded(
    name: str,
    service: Callable[[Settings, Clock, threading.Event], None],
    settings: Settings,
    clock: Clock,
    stop: threading.Event,
    failures: list[BaseException],
) -> None:
    """Run one service; when it ends by an error the process ends, and whoever supervises it starts it again."""
    try:
        service(settings, clock, stop)
    except BaseException as error:
        sentence = told(error)
        if sentence is None:
            log.exception("service '%s' ended by an error", name)
        else:
            log.error("service '%s' ended: %s", name, sentence)
        failures.append(error)
    finally:
        stop.set()


def _check_dialects(settings: Settings) -> None:
    from ingest.dialects import topic_filters

    try:
        topic_filters(settings.dialect_names)
    except SettingsError as error:
        raise SettingsError([f"UNDERWAY_DIALECTS: {problem}" for problem in error.problems]) from None


def _stop_without_parent(stop: threading.Event, parent: int) -> None:
    while not stop.wait(PARENT_LOOK_S):
        if os.getppid() != parent:
            log.info("the process that started us is gone: stopping")
            stop.set()


def _run_ingest(settings: Settings, clock: Clock, stop: threading.Event) -> None:
    from ingest.instants import TimeRules
    from underway.app import ingest_service

    options = ingest_service.IngestOptions(
        client_id=settings.mqtt_client_id,
        ca_file=settings.mqtt_ca_file,
        dialects=settings.dialect_names,
        batch_count=settings.batch_count,
        batch_readings=settings.batch_readings,
        batch_age_s=settings.batch_age_s,
        queue_count=settings.queue_count,
        queue_bytes=settings.queue_mb * 2**20,
        checkpoint_s=settings.checkpoint_s,
        host_id=settings.sparkplug_host_id,
        reorder_s=settings.sparkplug_reorder_s,
        digs_from=settings.digs_from,
        times=TimeRules(settings.future_s_max, settings.late_days_max),
        rejudge_settle_s=settings.late_settle_s,
        quarantine_at_once=settings.quarantine_at_once,
        quarantine_per_hour=settings.quarantine_per_hour,
        metrics_host=settings.metrics_host,
        metrics_port=settings.metrics_port,
    )
    ingest_service.run(settings.mqtt_url, settings.database_url, clock, stop, settings.site_id or None, options)


def _run_workorders(settings: Settings, clock: Clock, stop: threading.Event) -> None:
    from underway.app import workside

    workside.run(
        mqtt_url=settings.mqtt_url,
        database_url=settings.database_url,
        clock=clock,
        stop_event=stop,
        secret=settings.secret_key,
        base_url=settings.public_url,
        ca_file=settings.mqtt_ca_file,
    )


def _run_web(settings: Settings, clock: Clock, stop: threading.Event) -> None:
    import uvicorn

    from web.app import create_app
    from web.config import WebConfig

    config = WebConfig(
        database_url=settings.database_url,
        secret_key=settings.secret_key,
        clock=clock,
        demo=settings.demo,
        secure_cookies=settings.public_url.startswith("https://"),
    )
    app = create_app(config)
    server = uvicorn.Server(
        uvicorn.Config(app, host=settings.web_host, port=settings.web_port, log_level="warning", timeout_graceful_shutdown=2)
    )

    def stop_server() -> None:
        stop.wait()
        hub = getattr(app.state.web, "hub", None)
        if hub is not None:  # live pages end first, so that the server need not wait for them
            hub.stop()
        server.should_exit = True

    threading.Thread(target=stop_server, name="web-stop", daemon=True).start()
    server.run()


_SERVICES: dict[str, Callable[[Settings, Clock, threading.Event], None]] = {
    "ingest": _run_ingest,
    "workorders": _run_workorders,
    "web": _run_web,
}
