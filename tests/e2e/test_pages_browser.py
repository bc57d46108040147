"""The operator page and the crew page in a real browser, on a real database, with the real desk behind them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
import uvicorn
import web_town
from needs import missing
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from underway import desk
from underway.model import Role
from underway.store.connect import connect
from web.app import WebConfig, create_app

pytestmark = pytest.mark.e2e

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
WAIT_S = 60.0
"""Longest wait for what should come at once: machines are shared."""
SECRET = "e2e-only-0123456789abcdefghijkl"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)


@dataclass
class Town:
    """A served scene: the address of the pages, a connection to its database, and its clock."""

    url: str
    conn: psycopg.Connection[Any]
    clock: web_town.StillClock

    def crew_url(self, crew_id: str = "c1") -> str:
        return f"{self.url}/crew/{desk.crew_link(SECRET, crew_id, web_town.NOW_AT + timedelta(days=30))}"


Serve = Callable[..., AbstractContextManager[Town]]


@pytest.fixture
def serve(new_database: Callable[[], AbstractContextManager[str]]) -> Serve:
    @contextmanager
    def running(scene: str, **options: Any) -> Iterator[Town]:
        with new_database() as url, connect(url) as conn:
            web_town.fill(conn, scene, **options)
            clock = web_town.StillClock()
            app = create_app(WebConfig(url, SECRET, clock, demo=True, poll_s=0.2))
            server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1))
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            until = time.monotonic() + 15
            while not server.started and time.monotonic() < until:
                time.sleep(0.02)
            port = server.servers[0].sockets[0].getsockname()[1]
            try:
                yield Town(f"http://127.0.0.1:{port}", conn, clock)
            finally:
                app.state.web.hub.stop()
                server.should_exit = True
                thread.join(timeout=10)

    return running


class Browser:
    """A browser with an empty profile; at the end nothing may have failed, and nothing may have come from elsewhere."""

    def __init__(self, folder: Path, width: int, height: int, phone: bool = False) -> None:
        options = Options()
        options.binary_location = str(CHROMIUM)
        for flag in FLAGS.split():
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={folder}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}})
        self.driver: WebDriver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        self.driver.set_page_load_timeout(30)
        if not phone:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        self.driver.get(url)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str, seconds: float = WAIT_S) -> WebElement:
        self.until(lambda: bool(self.all(selector)), f"an element {selector}", seconds)
        return self.all(selector)[0]

    def text(self, selector: str) -> str:
        return str(self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def until(self, true: Callable[[], bool], what: str, seconds: float = WAIT_S) -> None:
        WebDriverWait(self.driver, seconds, 0.1).until(lambda _: true(), f"waited {seconds} s for {what}")

    def until_text(self, selector: str, part: str, seconds: float = WAIT_S) -> None:
        self.until(lambda: part in self.text(selector), f"{part!r} in {selector}", seconds)

    def click(self, selector: str) -> None:
        """Click once the element is there; one that was drawn anew meanwhile is looked for again."""

        def clicked() -> bool:
            try:
                element = self.one(selector)
                self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
                element.click()
            except StaleElementReferenceException:
                return False
            return True

        self.until(clicked, f"a click on {selector}")

    def problems(self) -> list[str]:
        """What the console complained about."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def foreign_requests(self, url: str) -> list[str]:
        """Every address asked for that is not of `url`'s host."""
        asked = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
        assert urls
        return [u for u in urls if urlsplit(u).scheme in ("http", "https", "ws", "wss") and urlsplit(u).netloc != urlsplit(url).netloc]


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    if not CHROMIUM.exists() or not DRIVER.exists():
        missing("Chromium and its driver are not installed (apt-get install chromium chromium-driver)")
    opened: list[Browser] = []

    def make(width: int, height: int, phone: bool = False) -> Browser:
        opened.append(Browser(tmp_path / f"profile-{len(opened)}", width, height, phone))
        return opened[-1]

    yield make
    for browser in opened:
        browser.driver.quit()


SIZES = [
    pytest.param(1920, 1080, False, id="control-room"),
    pytest.param(1366, 768, False, id="laptop"),
    pytest.param(390, 844, True, id="phone"),
]


@pytest.mark.parametrize(("width", "height", "phone"), SIZES)
def test_operator_page_burst_says_what_where_since_when_and_who(
    serve: Serve, browse: Callable[..., Browser], width: int, height: int, phone: bool
) -> None:
    with serve("dispatched") as town:
        browser = browse(width, height, phone)
        browser.open(town.url)
        browser.until_text("[data-testid=headline]", "Burst leak in Northgate since 04:05")
        alarm = browser.text("[data-testid=alarm]")
        assert "Burst leak" in alarm
        assert "Northgate" in alarm
        assert "1 h 3" in browser.text("[data-testid=age]") or "1 h 4" in browser.text("[data-testid=age]")
        assert "Crew Blue" in alarm
        assert "17.8 m³/h above" in alarm
        assert browser.text("[data-testid=unacked]") == "2"
        assert browser.text("[data-testid=lag]") == "4 min"
        assert browser.text("[data-testid=rate]") == "1,240"
        browser.until(lambda: len(browser.all("path.candidate")) == 3, "the three candidate pipes on the map")
        assert browser.all(".zone.urgent")
        assert "Observed" in browser.text("[data-testid=evidence]")
        browser.until(lambda: bool(browser.all(".chart path.observed")), "the observed line")
        for part in ("band", "expected", "outside"):
            drawn = f"document.querySelector('.chart path.{part}')?.getAttribute('d').length ?? 0"
            browser.until(lambda drawn=drawn: browser.driver.execute_script(f"return {drawn}") > 20, f"the {part} drawn")  # type: ignore[misc]
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, "the page must not scroll sideways"
        assert browser.problems() == []
        assert browser.foreign_requests(town.url) == []


def test_operator_page_calm_town_says_that_nothing_needs_a_person(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("calm") as town:
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.until_text("[data-testid=headline]", "Nothing needs a person")
        assert "No alarm needs attention" in browser.text("#alarm-empty")
        assert "No work order is open" in browser.text("#order-empty")
        browser.until(lambda: bool(browser.all(".chart path.observed")), "a chart even when all is well")
        assert not browser.all(".chart path.outside")
        assert browser.problems() == []


def test_operator_page_demo_sign_in_and_acknowledge_reaches_the_database(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.until_text("[data-testid=headline]", "Burst leak")
        assert not browser.all("[data-testid=ack]"), "a reader cannot acknowledge"
        browser.click("[data-testid=demo-operator]")
        browser.click("[data-testid=ack]")
        browser.until_text("[data-testid=unacked]", "1")
        row = town.conn.execute("SELECT ack FROM alarm WHERE alarm_type = 'leak.burst'").fetchone()
        assert row == ("acked",)
        event = town.conn.execute("SELECT actor, to_state FROM alarm_event WHERE event = 'ack' ORDER BY at DESC LIMIT 1").fetchone()
        assert event == ("demo:operator", "ACKED")
        assert browser.problems() == []


def test_operator_page_shelve_asks_for_a_reason_and_lists_the_alarm_as_shelved(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.click("[data-testid=demo-operator]")
        browser.click("[data-focus=shelve]")
        browser.one("#f-reason").send_keys("hydrant test until noon")
        browser.click("dialog button.main")
        browser.until_text("[data-testid=quiet-alarms]", "Burst leak")
        assert "SHLVD" in browser.text("[data-testid=quiet-alarms]")
        row = town.conn.execute("SELECT suppression, shelved_until FROM alarm WHERE alarm_type = 'leak.burst'").fetchone()
        assert row == ("shelved", web_town.NOW_AT + timedelta(hours=1))


def test_operator_page_changes_elsewhere_arrive_without_reload(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.until_text("[data-testid=orders]", "Sent to crew")
        browser.driver.execute_script("window.sameDocument = true")
        row = town.conn.execute("SELECT order_id FROM work_order WHERE order_type = 'leak_repair'").fetchone()
        assert row is not None
        web_town.act(town.conn, row[0], "accept", 10, {})
        browser.until_text("[data-testid=orders]", "Accepted", 8)
        assert "Accepted" in browser.text("[data-testid=feed]")
        assert browser.driver.execute_script("return window.sameDocument") is True
        assert browser.text("#live") == "live"


def test_operator_page_lost_connection_is_said(serve: Serve, browse: Callable[..., Browser]) -> None:
    browser = browse(1366, 768)
    with serve("calm") as town:
        browser.open(town.url)
        browser.until_text("#live", "live")
    browser.until_text("#lost", "Connection lost since", 20)


def test_operator_page_conflicting_report_is_read_and_settled(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("on_site") as town:
        found = town.conn.execute("SELECT order_id, version FROM work_order WHERE order_type = 'leak_repair'").fetchone()
        assert found is not None
        order_id, seen = found
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.click("[data-testid=demo-operator]")
        now_at = web_town.NOW_AT
        away = {"reason": "another fault is worse"}
        desk.act_on_order(town.conn, order_id, "reschedule", "ada", Role.OPERATOR, uuid4(), body=away, now_at=now_at)
        report = {"find_code": "leak_found", "note": "<b>found it</b>"}
        desk.act_on_order(town.conn, order_id, "done", "crew/c1", Role.CREW, uuid4(), seen, body=report, now_at=now_at, crew_id="c1")
        town.conn.commit()
        browser.until_text("#reviews", "1 conflicting report: decide", 8)
        browser.click("[data-testid=show-reviews]")
        browser.until_text("[data-testid=reviews]", "was moved by ada")
        assert "<b>found it</b>" in browser.text("[data-testid=reviews]")
        browser.click("[data-testid=settle]")
        browser.until(lambda: not browser.text("#reviews") and not browser.all("dialog[open]"), "nothing left to decide")
        assert town.conn.execute("SELECT count(*) FROM review_item WHERE resolved_at IS NULL").fetchone() == (0,)
        assert browser.problems() == []


def test_operator_page_refusal_is_said_in_front_of_the_dialog(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.click("[data-testid=demo-operator]")
        browser.click("[data-focus=shelve]")
        browser.one("#f-reason").send_keys("   ")
        browser.click("dialog button.main")
        browser.until_text("dialog [role=alert]", "reason")


def test_crew_page_newer_link_finds_what_an_older_one_has_not_sent(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(390, 844, phone=True)
        browser.open(f"{town.url}/crew/{desk.crew_link(SECRET, 'c1', web_town.NOW_AT + timedelta(hours=3))}")
        browser.until_text("[data-testid=state]", "New for you")
        browser.driver.execute_cdp_cmd("Network.enable", {})
        browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/actions"]})
        browser.click("[data-event=accept]")
        browser.until_text("[data-testid=queue]", "waiting to be sent")
        browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        browser.open(town.crew_url())
        browser.until(
            lambda: town.conn.execute("SELECT state FROM work_order WHERE order_type = 'leak_repair'").fetchone() == ("ACCEPTED",),
            "what was pressed on the older link",
        )


def test_operator_page_order_shows_history_with_reasons(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("verifying") as town:
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.until_text("[data-testid=orders]", "Verifying")
        assert "residual" in browser.text("[data-testid=verification]")
        label = "WO-" + str(town.conn.execute("SELECT order_id FROM work_order WHERE order_type = 'leak_repair'").fetchall()[0][0])
        card = next(el for el in browser.all("[data-testid=order]") if label in el.text)
        card.find_element(By.CSS_SELECTOR, "button").click()
        browser.until_text("[data-testid=history]", "crew on site")
        detail = browser.text("[data-testid=order-detail]")
        assert "Why this crew" in detail
        assert "has the skill 'leak_repair'" in detail
        assert "leak found" in detail
        assert browser.problems() == []


def test_operator_page_keyboard_reaches_alarms_first_and_every_control_has_a_name(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(1366, 768)
        browser.open(town.url)
        browser.click("[data-testid=demo-operator]")
        browser.one("[data-testid=ack]")
        browser.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
        body = browser.driver.find_element(By.TAG_NAME, "body")
        body.send_keys(Keys.TAB)
        names: list[str] = []
        for _ in range(40):
            names.append(
                browser.driver.execute_script(
                    "const e = document.activeElement;"
                    "return e.dataset?.testid || e.dataset?.focus || e.className?.baseVal || e.className || e.tagName"
                )
            )
            browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        assert "ack" in names
        assert names.index("ack") < next(i for i, n in enumerate(names) if n.startswith("o1"))
        nameless = browser.driver.execute_script(
            """return [...document.querySelectorAll('button, a[href], input, select, textarea, [role=button], svg[role=img]')]
                 .filter((e) => !e.closest('[hidden]') && !(e.getAttribute('aria-label') || e.innerText?.trim() || e.labels?.[0]?.innerText.trim()))
                 .map((e) => e.outerHTML.slice(0, 120))"""
        )
        assert nameless == []
        assert browser.driver.execute_script("return document.documentElement.lang") == "en"
        assert browser.all("#announce[aria-live=assertive]")


def test_crew_page_accept_to_verified_repair_on_a_phone(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched", fixed_min=35) as town:
        browser = browse(390, 844, phone=True)
        browser.open(town.crew_url())
        browser.until_text("[data-testid=state]", "New for you")
        assert "Northgate" in browser.text("[data-testid=order-card]")
        assert "17.8 m³/h above" in browser.text("[data-testid=order-card]")
        assert str(browser.one("[data-testid=navigate]").get_attribute("href")).startswith("geo:48.")
        assert len(browser.all(".sketch path.hot")) == 3
        small = browser.driver.execute_script(
            "return [...document.querySelectorAll('button, a.button, select')]"
            ".filter((e) => e.getBoundingClientRect().height < 48).map((e) => e.outerHTML)"
        )
        assert small == []
        browser.click("[data-event=accept]")
        browser.until_text("[data-testid=state]", "Accepted")
        town.clock.at += timedelta(minutes=8)
        browser.click("[data-event=depart]")
        browser.until_text("[data-testid=state]", "On the way")
        town.clock.at += timedelta(minutes=8)
        browser.click("[data-event=arrive]")
        browser.until_text("[data-testid=state]", "On site")
        town.clock.at += timedelta(minutes=30)
        browser.click("[data-event=done]")
        assert browser.driver.execute_script("return document.querySelectorAll('form input[type=radio]:checked').length") == 0
        browser.click("input[name=find_code][value=leak_found]")
        browser.click(f"input[name=asset_id][value={web_town.BURST_PIPE}]")
        for name, value in (("problem", "ELP"), ("cause", "corrosion"), ("remedy", "clamp")):
            browser.click(f"#f-{name} option[value={value}]")
        for item in ("traffic_safe", "isolated", "restored"):
            browser.click(f"input[name='check:{item}']")
        browser.click("[data-testid=send]")
        browser.until_text("[data-testid=crew-main]", "The sensors are checking your repair")
        row = town.conn.execute("SELECT state, report FROM work_order WHERE order_type = 'leak_repair'").fetchone()
        assert row is not None
        assert row[0] == "VERIFYING"
        assert row[1]["asset_id"] == web_town.BURST_PIPE
        for _ in range(24):
            town.clock.at += timedelta(hours=1)
            desk.tick(town.conn, town.clock.now_at())
        browser.until_text("#past", "Repaired. The sensors confirm it.", 15)
        assert browser.problems() == []
        assert browser.foreign_requests(town.url) == []


def test_crew_page_without_network_keeps_what_was_pressed_and_sends_it_later(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(390, 844, phone=True)
        browser.open(town.crew_url())
        browser.until_text("[data-testid=state]", "New for you")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.driver.execute_cdp_cmd("Network.enable", {})
        browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        browser.click("[data-event=accept]")
        browser.until_text("[data-testid=queue]", "waiting to be sent")
        browser.until_text("#banner", "No connection")
        browser.click("[data-event=depart]")
        browser.until_text("[data-testid=state]", "On the way")
        assert len(browser.all("[data-testid=queue] li")) == 2
        assert town.conn.execute("SELECT state FROM work_order WHERE order_type = 'leak_repair'").fetchone() == ("DISPATCHED",)
        browser.driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions", {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        )
        browser.until(lambda: not browser.all("[data-testid=queue] li"), "an empty queue", 20)
        assert town.conn.execute("SELECT state FROM work_order WHERE order_type = 'leak_repair'").fetchone() == ("EN_ROUTE",)
        browser.until_text("[data-testid=link]", "connected")


def test_crew_page_language_of_the_crew_is_used(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("dispatched") as town:
        browser = browse(390, 844, phone=True)
        browser.open(town.crew_url("c3"))
        browser.until_text("[data-testid=state]", "Nueva para usted")
        assert browser.text("[data-event=accept]") == "Aceptar"


def test_crew_page_expired_link_says_what_to_do(serve: Serve, browse: Callable[..., Browser]) -> None:
    with serve("calm") as town:
        browser = browse(390, 844, phone=True)
        browser.open(f"{town.url}/crew/{desk.crew_link(SECRET, 'c1', web_town.NOW_AT)}")
        browser.until_text("#banner", "This link has expired")


@pytest.mark.parametrize(("width", "height", "phone"), SIZES[1:])
def test_operator_page_planned_work_is_told_seen_and_called_off(
    serve: Serve, browse: Callable[..., Browser], tmp_path: Path, width: int, height: int, phone: bool
) -> None:
    with serve("calm") as town:
        browser = browse(width, height, phone)
        browser.open(town.url)
        browser.click("[data-testid=show-planned]")
        browser.until_text("[data-testid=planned]", "Nobody has told of planned work")
        assert not browser.all("[data-testid=tell-planned]"), "a reader cannot tell of any"
        browser.click("dialog button[aria-label=Close]")
        browser.click("[data-testid=demo-operator]")
        browser.click("[data-testid=show-planned]")
        browser.click("[data-testid=tell-planned]")
        browser.one("#f-reason").send_keys("permit 2026-117")
        browser.one("#f-flow_m3ph").send_keys("40")
        begin = browser.one("#f-begin_at").get_attribute("value") or ""  # on the town's clock, an hour ahead of UTC; the page's runs on
        assert "2026-03-11T05:40" <= begin < "2026-03-11T06:00"
        for name, wall in (("begin_at", "2026-03-11T05:30"), ("end_at", "2026-03-11T07:30")):
            browser.driver.execute_script(f"document.querySelector('#f-{name}').value = '{wall}'")
        browser.click("dialog button.main")
        browser.until_text("[data-testid=planned-list]", "Flushing, Northgate")
        assert "permit 2026-117" in browser.text("[data-testid=planned-list]")
        browser.until_text("[data-testid=show-planned]", "1 running")
        row = town.conn.execute("SELECT zone_id, kind, begin_at, end_at - begin_at, flow_m3ph, actor FROM operation").fetchone()
        begin_at = datetime(2026, 3, 11, 4, 30, tzinfo=UTC)
        assert row == ("z1", "flushing", begin_at, timedelta(hours=2), 40.0, "demo:operator")
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, "the page must not scroll sideways"
        browser.driver.save_screenshot(str(tmp_path / "planned.png"))
        browser.click("[data-testid=planned-list] button")
        browser.one("#f-reason").send_keys("rain")
        browser.click("dialog button.main")
        browser.until_text("[data-testid=planned-list]", "called off")
        assert town.conn.execute("SELECT actor, reason FROM operation_withdrawal").fetchall() == [("demo:operator", "rain")]
        assert browser.problems() == []
        assert browser.foreign_requests(town.url) == []
