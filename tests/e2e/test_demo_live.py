"""A running demo as its three kinds of people meet it: the pages in a browser, the dashboards' SQL, the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
DEADLINE_S = 240
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A demo that lives on until the tests are over; yields what it wrote down about itself once an order is open."""
    folder: Path = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "underway", "demo", "--port", "0", "--folder", str(folder), "--json", "--seed", "2", "--speed", "900"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        facts = wait_for(lambda: read(folder), lambda f: f.get("phase") == "live", process)
        with psycopg.connect(facts["database_url"], autocommit=True) as conn:
            wait_for(lambda: order_states(conn), lambda states: any(s not in ("NEW", "APPROVED", "SCHEDULED") for s in states), process)
        yield facts
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "services.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def order_states(conn: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in conn.execute("SELECT state FROM work_order")]


def wait_for(look: Any, good: Any, process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = look()
        if good(found):
            return found
        assert process.poll() is None, f"the demo ended: {process.stderr.read() if process.stderr else ''}"
        time.sleep(0.2)
    raise AssertionError(f"not seen within {DEADLINE_S} s, last: {found!r}")


def browser(folder: Path, width: int, height: int, *, phone: bool = False) -> WebDriver:
    options = Options()
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    if phone:
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0}})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def text_of(driver: WebDriver) -> str:
    return driver.find_element(By.TAG_NAME, "body").text


def eventually(driver: WebDriver, *words: str) -> str:
    deadline = time.monotonic() + 60
    shown = ""
    while time.monotonic() < deadline:
        shown = text_of(driver)
        if all(word in shown for word in words):
            return shown
        time.sleep(0.3)
    raise AssertionError(f"expected {words} on the page, it shows:\n{shown}")


def requested(driver: WebDriver) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def test_demo_operator_page_says_what_is_wrong_where_and_who_is_on_it(demo: dict[str, Any], tmp_path: Path) -> None:
    driver = browser(tmp_path, 1366, 768)
    try:
        driver.get(demo["web_url"])
        shown = eventually(driver, "Burst leak", "WO-1001", "Water crew")
        assert "m³/h" in shown
        drawn = driver.execute_script("return [...document.querySelectorAll('svg path')].map(p => p.getAttribute('d').length)")
        assert sum(drawn) > 20_000, "the map has a thousand mains"
        assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
        assert [url for url in requested(driver) if url.startswith(("http", "ws")) and not url.startswith(demo["web_url"])] == []
    finally:
        driver.quit()


def test_demo_crew_page_shows_the_order_on_a_phone(demo: dict[str, Any], tmp_path: Path) -> None:
    with psycopg.connect(demo["database_url"]) as conn:
        row = conn.execute("SELECT crew_id FROM assignment ORDER BY assignment_id LIMIT 1").fetchone()
    assert row is not None
    driver = browser(tmp_path, 390, 844, phone=True)
    try:
        driver.get(f"{demo['web_url']}/demo/crew/{row[0]}")
        eventually(driver, "WO-1001")
        width = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1]
    finally:
        driver.quit()


def underway(demo: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "UNDERWAY_DATABASE_URL": demo["database_url"], "UNDERWAY_MQTT_URL": demo["mqtt_url"]}
    return subprocess.run([sys.executable, "-m", "underway", *arguments], env=env, capture_output=True, text=True, timeout=120)


def test_demo_data_fill_every_panel_of_the_dashboards(demo: dict[str, Any]) -> None:
    done = underway(demo, "grafana", "check", "--hours", "48", "--json")
    report = json.loads(done.stdout)
    assert [p for p in report["panels"] if p["problem"]] == []
    assert (done.returncode, report["ok"]) == (0, True)
    assert sum(p["rows"] > 0 for p in report["panels"]) >= 20


def test_demo_doctor_finds_database_broker_and_services(demo: dict[str, Any]) -> None:
    done = underway(demo, "doctor", "--json")
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert report["sections"]["broker"]["reachable"] == "yes"
    assert {"ingest", "workorders"} <= set(report["sections"]["services"])
    status = json.loads(underway(demo, "db", "status", "--json").stdout)
    assert status["pending"] == []
