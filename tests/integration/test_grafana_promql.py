"""Every query of the ingest dashboard on a real Prometheus that asks our real ``/metrics``; its configuration by its own tool."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from needs import missing

from grafana.dashboards import SCRAPE_INTERVAL, ingest
from underway.app.ingest_metrics import Histogram
from underway.app.metrics import INGEST_METRICS, Kind
from underway.app.metrics_http import MetricsServer, bind_metrics
from underway.app.settings import Settings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SCRAPES = ROOT / "docker" / "prometheus" / "prometheus.yml"
TARGETS = [
    pytest.param(panel, target, id=f"{panel['title']} {target['refId']}")
    for panel in ingest()["panels"]
    for target in panel.get("targets") or []
]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (apt-get install --no-install-recommends prometheus)")
    return found


class Busy:
    """Facts of an ingest that works: every counter grows from one scrape to the next."""

    def __init__(self) -> None:
        self.asked = 0
        self.commits = Histogram((0.01, 0.1, 1.0))
        self.batches = Histogram((1.0, 100.0, 10_000.0))

    def facts(self) -> dict[str, Any]:
        self.asked += 1
        n = self.asked
        for _ in range(10):
            self.commits.add(0.05)
            self.batches.add(500.0)
        facts: dict[str, Any] = {}
        for metric in INGEST_METRICS:
            said: dict[Kind, Any] = {Kind.COUNTER: 10 * n, Kind.GAUGE: 3, Kind.STATE: "running", Kind.INSTANT: "2026-03-01T12:00:00+00:00"}
            if metric.kind in said:
                put(facts, metric.path.split("."), metric.word or said[metric.kind])
        facts |= {"commit_times": self.commits.facts(), "batch_sizes": self.batches.facts()}
        return facts


def put(facts: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        facts = facts.setdefault("some" if key == "*" else key, {})
    facts["some" if keys[-1] == "*" else keys[-1]] = value


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def asked() -> Iterator[MetricsServer]:
    bound = bind_metrics("127.0.0.1", 0, Busy().facts)
    yield bound
    bound.close()


@pytest.fixture(scope="module")
def prometheus_url(asked: MetricsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with the project's own configuration, but for address and pace, that has seen a few scrapes."""
    executable = program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load(SCRAPES.read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{asked.port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                executable,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={urlsplit(url).netloc}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: is_up(url), 60)
            wait_until(lambda: len(query(url, "count_over_time(underway_ingest_poison_messages_total[1m]) >= 6")) == 1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def query(url: str, expr: str) -> list[dict[str, Any]]:
    answer = httpx.post(f"{url}/api/v1/query", data={"query": expr}, timeout=10).json()
    assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


@pytest.mark.parametrize(("panel", "target"), TARGETS)
def test_query_on_a_real_prometheus_shows_a_number(prometheus_url: str, panel: dict[str, Any], target: dict[str, Any]) -> None:
    found = query(prometheus_url, target["expr"].replace("$__rate_interval", "1m"))
    assert found, f"{panel['title']}: nothing"
    for series in found:
        assert re.fullmatch(r"-?\d[\d.e+-]*", series["value"][1]), f"{panel['title']}: {series['value'][1]}"
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert series["metric"][label]
    if "rate(" in target["expr"] or "increase(" in target["expr"]:
        assert float(found[0]["value"][1]) > 0, panel["title"]


def test_metrics_satisfy_the_linter_of_prometheus(asked: MetricsServer) -> None:
    text = httpx.get(f"http://127.0.0.1:{asked.port}/metrics", timeout=10).content
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_scrape_configuration_of_the_compose_file_is_valid_and_names_the_default_port() -> None:
    done = subprocess.run([program("promtool"), "check", "config", str(SCRAPES)], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    config = yaml.safe_load(SCRAPES.read_text(encoding="utf-8"))
    assert config["global"]["scrape_interval"] == SCRAPE_INTERVAL
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "underway-ingest"
    assert job["static_configs"] == [{"targets": [f"ingest:{Settings.model_fields['metrics_port'].default}"]}]
