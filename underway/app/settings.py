"""Settings: environment variables ``UNDERWAY_*`` over an optional TOML file; every problem is reported at once."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from underway.model import SettingsError

PREFIX = "UNDERWAY_"
CONFIG_VARIABLE = "UNDERWAY_CONFIG"
NOT_SETTINGS = frozenset(
    {
        CONFIG_VARIABLE,
        "UNDERWAY_TEST_DATABASE_URLS",
        "UNDERWAY_BENCH_DATABASE_URL",
        "UNDERWAY_NEW_PASSWORD",
        "UNDERWAY_GRAFANA_DATABASE_URL",
    }
)
GRAFANA_PREFIX = f"{PREFIX}GRAFANA_"
"""Of what Grafana's provisioning reads: people have it in the same environment."""
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
WEAK_SECRETS = ("change", "default", "example", "secret", "password", "underway")
SECRET_LENGTH_MIN = 32


class Settings(BaseModel):
    """What the services need to know; each field is the variable ``UNDERWAY_<FIELD>`` or a key of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database_url: str = Field(default="", description="PostgreSQL or TimescaleDB, postgresql://user:password@host/database")
    mqtt_url: str = Field(default="", description="broker, mqtt://user:password@host:1883 or mqtts://...:8883")
    secret_key: str = Field(default="", description="signs sessions and crew links; at least 32 random characters")
    clock: Literal["system", "town"] = Field(default="system", description="'town' follows the clock of a simulated town")
    site_id: str = Field(default="", description="the site that ingest serves; empty: the only one that is registered")
    web_host: str = Field(default="127.0.0.1", description="address that the web server binds")
    web_port: int = Field(default=8080, ge=1, le=65535, description="port that the web server binds")
    base_url: str = Field(default="", description="how people reach the web server; empty: http://<host>:<port>")
    mqtt_client_id: str = Field(default="underway-ingest", min_length=1, max_length=64, description="name of the persistent session")
    mqtt_ca_file: str = Field(default="", description="certificate authority for mqtts://; empty: the system's")
    dialects: str = Field(default="", description="dialects that are listened to, by name with commas; empty: all")
    batch_count: int = Field(default=10_000, ge=1, le=200_000, description="most messages a transaction holds")
    batch_readings: int = Field(default=20_000, ge=100, le=500_000, description="about the most readings a transaction holds")
    batch_age_s: float = Field(default=0.05, ge=0.005, le=60, description="longest wait before a batch is committed")
    queue_count: int = Field(default=20_000, ge=100, le=1_000_000, description="most messages held unacknowledged")
    queue_mb: int = Field(default=64, ge=1, le=4096, description="most payload held unacknowledged, MiB")
    checkpoint_s: float = Field(default=30.0, ge=1, le=3600, description="time between two checkpoints of the same detector state")
    future_s_max: float = Field(default=120.0, ge=0, le=86_400, description="furthest that a reading may be ahead of its reception")
    late_days_max: float = Field(default=30.0, gt=0, le=3650, description="oldest late data that is stored, days")
    late_settle_s: float = Field(
        default=60.0, ge=0, le=86_400, description="how long late data waits for more before it is judged again, ten times as long at most"
    )
    sparkplug_host_id: str = Field(default="underway", pattern=r"^[^+#/\s]{1,64}$", description="id of the Sparkplug host application")
    sparkplug_reorder_s: float = Field(default=5.0, ge=0.1, le=600, description="how long a missing Sparkplug message is waited for")
    quarantine_at_once: int = Field(default=60, ge=1, le=100_000, description="most new rows of quarantine at once, of one device")
    quarantine_per_hour: int = Field(default=600, ge=1, le=1_000_000, description="most new rows of quarantine in an hour, of one device")
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="address that ingest's metrics bind; anybody there may read them"
    )
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="port of ingest's metrics; 0: none are served")
    digs_from: datetime | None = Field(
        default=None,
        description="no crew is sent before for a leak that a hydraulic model places, an instant with its zone; empty: at once",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="how log lines are written: for people, or one JSON object each"
    )
    demo: bool = Field(default=False, description="loopback demonstration: one-click sign-in, simulated town")

    @field_validator("database_url")
    @classmethod
    def _database_scheme(cls, url: str) -> str:
        return _checked_url(url, ("postgresql", "postgres"), "postgresql://user:password@host/database")

    @field_validator("mqtt_url")
    @classmethod
    def _mqtt_scheme(cls, url: str) -> str:
        return _checked_url(url, ("mqtt", "mqtts"), "mqtt://host:1883 or mqtts://host:8883")

    @field_validator("digs_from", mode="before")
    @classmethod
    def _empty_is_at_once(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("digs_from")
    @classmethod
    def _instant_with_zone(cls, at: datetime | None) -> datetime | None:
        if at is not None and at.tzinfo is None:
            raise ValueError("must be an instant with its zone, like 2026-01-01T00:00:00Z")
        return at

    @property
    def dialect_names(self) -> tuple[str, ...]:
        """Return the names of the dialects that are listened to; empty: all. Whether there are such is asked where they are known."""
        return tuple(name.strip() for name in self.dialects.split(",") if name.strip())

    @property
    def public_url(self) -> str:
        """Return the address under which people reach the web server."""
        host = f"[{self.web_host}]" if ":" in self.web_host else self.web_host
        return self.base_url.rstrip("/") or f"http://{host}:{self.web_port}"


def _checked_url(url: str, schemes: tuple[str, ...], example: str) -> str:
    if url:
        try:
            parts = urlsplit(url)
            hosts = parts.netloc.rpartition("@")[2].split(",")  # libpq takes several, each with its port
            fits = parts.scheme in schemes and all(urlsplit(f"//{host}").port != 0 for host in hosts)
        except ValueError:  # a port that is none, a bracket that does not close; its message may quote a password
            fits = False
        if not fits:
            raise ValueError(f"must look like {example}")
    return url


def load_settings(needs: tuple[str, ...] = (), environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings, or say everything that is wrong with them.

    Parameters
    ----------
    needs : tuple of str
        Fields that must be set for what is about to start, for example ``("database_url", "mqtt_url")``.
    environ : mapping, optional
        The environment; default ``os.environ``.

    Raises
    ------
    SettingsError
        Lists every problem: what is missing, misspelt, out of range, unsafe.
    """
    env = os.environ if environ is None else environ
    problems: list[str] = []
    from_file = _read_file(env.get(CONFIG_VARIABLE, ""), problems)
    names = Settings.model_fields
    for variable in sorted(env):
        field = variable.removeprefix(PREFIX).lower()
        if variable.startswith(GRAFANA_PREFIX) or variable in NOT_SETTINGS:
            continue
        if variable.startswith(PREFIX) and field not in names:
            problems.append(f"{variable} is not a setting{_nearest(variable, [PREFIX + n.upper() for n in names])}")
    for key in [k for k in from_file if k not in names]:
        problems.append(f"'{key}' in the settings file is not a setting{_nearest(key, list(names))}")
        del from_file[key]
    values = from_file | {f: env[PREFIX + f.upper()] for f in names if PREFIX + f.upper() in env}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            field = str(detail["loc"][0])
            shown = "" if field in ("secret_key", "database_url", "mqtt_url") else f", got {detail['input']!r}"
            problems.append(f"{PREFIX}{field.upper()}: {_plain(detail['msg'])}{shown}")
            del values[field]
        settings = Settings.model_validate(values)
        needs = tuple(name for name in needs if name not in {str(detail["loc"][0]) for detail in error.errors()})
    problems += [f"{PREFIX}{name.upper()} is not set ({names[name].description})" for name in needs if not getattr(settings, name)]
    problems += _unsafe(settings, needs)
    if problems:
        raise SettingsError(problems)
    return settings


def _read_file(path: str, problems: list[str]) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{CONFIG_VARIABLE} must name a readable TOML file, got {path!r} ({error.strerror})")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path} must be TOML: {error}")
    return {}


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; nearest known: {close[0]}" if close else ""


def _unsafe(settings: Settings, needs: tuple[str, ...]) -> list[str]:
    """Return what must not go live: weak secrets, an anonymous broker or a bare web server on another address."""
    problems: list[str] = []
    if "secret_key" in needs and settings.secret_key:
        if len(settings.secret_key) < SECRET_LENGTH_MIN:
            problems.append(f"UNDERWAY_SECRET_KEY must have at least {SECRET_LENGTH_MIN} characters, got {len(settings.secret_key)}")
        elif any(word in settings.secret_key.lower() for word in WEAK_SECRETS) or len(set(settings.secret_key)) < 8:
            problems.append("UNDERWAY_SECRET_KEY must be random, got one that contains a well-known word or few characters")
    if "mqtt_url" in needs and settings.mqtt_url:
        broker = urlsplit(settings.mqtt_url)
        if broker.hostname not in LOOPBACK_HOSTS and not broker.username:
            problems.append(
                f"UNDERWAY_MQTT_URL must carry a user name for a broker on another address, got an anonymous one at {broker.hostname!r}"
            )
    if settings.web_host not in LOOPBACK_HOSTS and not settings.public_url.startswith("https://"):
        problems.append(
            "UNDERWAY_BASE_URL must be https:// (a TLS proxy stands before the web server) when UNDERWAY_WEB_HOST is not this machine alone,"
            f" got {settings.public_url!r} on {settings.web_host!r}"
        )
    if settings.demo and settings.web_host not in LOOPBACK_HOSTS:
        problems.append(f"UNDERWAY_DEMO is for loopback only, got UNDERWAY_WEB_HOST={settings.web_host!r}")
    return problems
