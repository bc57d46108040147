"""The compose file: nothing floats, nothing is open, nothing has a default secret, and what it calls exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from grafana.dashboards import render_provisioning
from grafana.panels import NO_TILE
from underway.app.cli import app
from underway.app.services import NEEDS
from underway.app.settings import NOT_SETTINGS, Settings

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN")
VARIABLE = re.compile(r"\$\{(\w+)(:?[-?])?([^}]*)\}")
OURS = ("migrate", "ingest", "workorders", "web")
# what an image must contain besides a shell, by the image's own documentation
PROGRAMS = {"mosquitto": {"mosquitto_sub", "cat"}, "timescaledb": {"pg_isready"}, "grafana": {"wget"}, "prometheus": {"promtool"}}


def load() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


COMPOSE = load()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [str(value)]


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_health_check_or_says_that_it_is_one_shot(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name == "migrate":
        assert check == {"disable": True}
        assert SERVICES[name]["restart"].startswith("on-failure:")
        return
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(check)
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_service_runs_a_pinned_image(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert re.match(r"v?\d+\.\d+\.\d+", tag), f"{name}: {tag}"


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    if name == "timescaledb":
        assert set(service["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
        return
    assert service["read_only"] is True
    assert not service["user"].startswith("0"), "must not run as root"
    assert "cap_add" not in service


def test_every_secret_must_be_given_and_none_has_a_default() -> None:
    seen = set()
    for name, operator, rest in VARIABLE.findall("\n".join(texts(SERVICES))):
        if SECRET.search(name):
            seen.add(name)
            assert operator == ":?", f"{name} must refuse to be empty"
            assert rest == f"set {name} in .env"
        else:
            assert operator in (":?", ":-"), name
    assert len(seen) == 7
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert VARIABLE.fullmatch(str(value)), f"{name} must come from .env"


def test_env_file_can_be_read_into_a_shell_that_runs_underway() -> None:
    # settings refuse a variable UNDERWAY_* that they do not know, so .env may hold only real ones
    names = re.findall(r"^(UNDERWAY_\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.removeprefix("UNDERWAY_").lower() for name in names} <= set(Settings.model_fields)


def test_env_example_names_every_variable_and_holds_no_secret() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used = {name for name, _, _ in VARIABLE.findall((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))}
    assert set(example) == used
    assert all(value == "" for name, value in example.items() if SECRET.search(name))


def test_only_broker_tls_web_and_grafana_are_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert published == {
        "mosquitto": ["${MQTT_BIND:-0.0.0.0}:8883:8883"],
        "web": ["${WEB_BIND:-127.0.0.1}:8080:8080"],
        "grafana": ["${GRAFANA_BIND:-127.0.0.1}:3000:3000"],
    }


def test_zones_of_the_network_are_kept_apart() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert not networks["web"] & networks["mosquitto"], "the public zone must not reach the broker"
    assert not networks["grafana"] & networks["mosquitto"]
    assert not networks["timescaledb"] & networks["mosquitto"]
    assert networks["timescaledb"] == networks["prometheus"] == {"core"}
    assert {name for name, nets in networks.items() if "field" in nets} == {"mosquitto"}
    assert {name for name, nets in networks.items() if "public" in nets} == {"web", "grafana"}
    assert {name for name, network in COMPOSE["networks"].items() if network.get("internal")} == {"broker", "core"}


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_commands_that_the_program_has(name: str) -> None:
    command = SERVICES[name]["command"]
    group = typer.main.get_command(app)
    words = list(command)
    while words and hasattr(group, "commands"):
        group = group.commands[words.pop(0)]
    if words:
        assert words == ["--only", name]
        assert name in NEEDS
        assert "--only" in {option for parameter in group.params for option in parameter.opts}


@pytest.mark.parametrize("name", OURS)
def test_our_services_get_the_settings_that_they_need_and_no_unknown_ones(name: str) -> None:
    given = {variable.removeprefix("UNDERWAY_").lower() for variable in SERVICES[name].get("environment", {})}
    assert given <= set(Settings.model_fields)
    assert set(NEEDS.get(name, ("database_url",))) <= given


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_health_command_exists(name: str) -> None:
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    if name in OURS:
        assert kind == "CMD"
        assert command[:2] == ["python", "/opt/underway/health.py"]
        assert command[2:] == [name]
        assert "COPY docker/health.py /opt/underway/health.py" in (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
        return
    called = set(re.findall(r"\b(mosquitto_sub|cat|pg_isready|wget|curl|nc|promtool)\b(?!/)", " ".join(command)))
    assert called <= PROGRAMS[name]
    assert called


def test_health_script_is_python_and_asks_a_route_that_exists() -> None:
    text = (ROOT / "docker/health.py").read_text(encoding="utf-8")
    ast.parse(text)
    assert "/readyz" in text
    assert '"/readyz"' in (ROOT / "web/api.py").read_text(encoding="utf-8")


def test_mounted_files_exist_and_scripts_are_executable() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                path = ROOT / source
                assert path.exists(), source
                if path.suffix == ".sh":
                    assert path.stat().st_mode & 0o111, source
            else:
                assert source in COMPOSE["volumes"], source
            assert target.startswith("/")
    for script in (ROOT / "docker/mosquitto").glob("*.sh"):
        assert script.stat().st_mode & 0o111, script.name


def test_grafana_gets_what_its_provisioning_asks_for() -> None:
    asked = set(re.findall(r"\$(UNDERWAY_\w+)", "\n".join(render_provisioning().values())))
    assert asked <= set(SERVICES["grafana"]["environment"])
    assert asked
    assert SERVICES["grafana"]["environment"]["UNDERWAY_GRAFANA_DB_USER"] == "underway_reader"
    assert "CREATE ROLE underway_reader" in (ROOT / "docker/timescaledb/10-roles.sh").read_text(encoding="utf-8")


def test_prometheus_asks_ingest_where_it_serves_its_metrics() -> None:
    (job,) = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    ((host, port),) = [target.rsplit(":", 1) for group in job["static_configs"] for target in group["targets"]]
    environment = SERVICES[host]["environment"]
    assert int(port) == int(environment.get("UNDERWAY_METRICS_PORT", Settings.model_fields["metrics_port"].default))
    assert environment["UNDERWAY_METRICS_HOST"] == "0.0.0.0"
    assert set(SERVICES[host]["networks"]) & set(SERVICES["prometheus"]["networks"])
    assert SERVICES["grafana"]["environment"]["UNDERWAY_GRAFANA_PROMETHEUS_URL"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_grafana_calls_nobody() -> None:
    environment = SERVICES["grafana"]["environment"]
    for name in (
        "GF_ANALYTICS_ENABLED",
        "GF_ANALYTICS_REPORTING_ENABLED",
        "GF_ANALYTICS_CHECK_FOR_UPDATES",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
        "GF_NEWS_NEWS_FEED_ENABLED",
        "GF_SNAPSHOTS_EXTERNAL_ENABLED",
        "GF_AUTH_ANONYMOUS_ENABLED",
        "GF_USERS_ALLOW_SIGN_UP",
        "GF_PLUGINS_PLUGIN_ADMIN_ENABLED",
    ):
        assert environment[name] == "false", name
    for name in ("GF_SECURITY_DISABLE_GRAVATAR", "GF_PLUGINS_PREINSTALL_DISABLED", "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED"):
        assert environment[name] == "true", name
    assert NO_TILE in environment["GF_GEOMAP_DEFAULT_BASELAYER_CONFIG"]


def test_image_installs_the_lock_with_hashes_and_runs_as_nobody_in_particular() -> None:
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    assert text.count("FROM python:3.11-slim-bookworm") == 2
    assert "--require-hashes" in text
    assert "-r requirements.lock" in text
    assert text.rindex("USER 10001:10001") > text.rindex("FROM")


def test_image_context_holds_every_package_of_the_wheel_and_no_secret() -> None:
    ignored = (ROOT / "docker/Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "**"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    packages = {"underway", "ingest", "detectors", "workorders", "simulators", "grafana", "web"}
    assert packages | {"pyproject.toml", "requirements.lock", "README.md", "LICENSE", "docker/health.py"} == allowed


def test_deploy_page_lists_every_service_with_its_networks() -> None:
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([a-z, ]+) \| [^|]+ \|$", page, re.MULTILINE))
    assert {name: set(nets.split(", ")) for name, nets in rows.items()} == {
        name: set(service["networks"]) for name, service in SERVICES.items()
    }


def test_deploy_page_lists_the_rights_of_the_broker() -> None:
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    for line in (ROOT / "docker/mosquitto/acl.conf").read_text(encoding="utf-8").splitlines():
        kind, _, rest = line.partition(" ")
        if kind in ("topic", "pattern") and "$SYS" not in line:
            verb, topic = rest.split()
            shown = topic.replace("uw/+/%u", "uw/<site>/<id>").replace("uw/+/crew/%u", "uw/<site>/crew/<id>")
            assert f"`{shown}`" in page, topic
            assert {"write": "publish", "read": "read"}[verb] in page


def test_deploy_page_names_settings_and_commands_that_exist() -> None:
    page = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("deploy.md", "grafana.md"))
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for variable in set(re.findall(r"UNDERWAY_[A-Z_]+", page)):
        known = variable in compose or variable in NOT_SETTINGS or variable.removeprefix("UNDERWAY_").lower() in Settings.model_fields
        assert known, variable
    root: Any = typer.main.get_command(app)
    for words in re.findall(r"underway ((?:db|grafana|account|run|doctor)[a-z ]*)", page):
        group = root
        for word in words.split():
            if not hasattr(group, "commands"):
                break
            assert word in group.commands, words
            group = group.commands[word]
