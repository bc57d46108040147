"""``underway demo``: a whole town with everything in it, in one command and without any service prepared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.live import Live as RichLive
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from simulators.stories import StoryAction, plan_story
from simulators.town import Town, build_town
from simulators.world import World
from underway import desk
from underway.app import report
from underway.app.brokers import Broker, embedded_broker
from underway.app.crews import CrewPhones, crew_topics
from underway.app.link import TownLink
from underway.app.live import Snapshot, render
from underway.app.supervise import Supervisor, supervised
from underway.app.town import STEP_US, TownRunner, register, wait_until
from underway.model import OperatorError, StoreUnavailable, from_us, to_us
from underway.store import views, work
from underway.store.clock import ClockRow, write_clock
from underway.store.connect import connect
from underway.store.embedded import embedded_postgres
from underway.store.migrate import migrate

LIVE_AT = datetime(2026, 3, 2, 14, 0, tzinfo=UTC)
SERVICES = ("ingest", "workorders", "web")
SETTLE_S = 60.0
DRAIN_S = 30.0
IDLE_S = 5.0
SHOT_S = 0.4
BEHIND_S_MAX = 15 * 60.0
CLOCK_AHEAD_S = 120.0
CLOCK_AHEAD_WALL_S = 0.3
UNTIL_WORDS = {"closed": "the first order is closed by a PASS", "all-closed": "every order is closed by a PASS", "live": "the town is live"}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asked for; see ``underway demo --help``."""

    seed: int
    story: str
    speed: float
    history_days: int
    until: str | None
    timeout_s: float
    network: str
    broker: str
    port: int
    folder: Path | None
    json_output: bool


def run_demo(options: DemoOptions) -> int:
    """Run the demo and return the exit code: 0 when what ``--until`` names has come (or a person ended it), 1 on timeout.

    Raises
    ------
    OperatorError
        When the port is taken, the broker asked for is not there, or a service cannot stay up.
    """
    console = Console(stderr=True)
    began = time.monotonic()
    with _signals() as finish_undisturbed, contextlib.ExitStack() as stack:
        folder = stack.enter_context(_working_folder(options.folder))
        port = _free_port() if options.port == 0 else _require_port(options.port)
        say = _Teller(console, quiet=options.json_output)
        try:
            say("building the town")
            town = build_town(
                options.seed,
                options.network,
                start_at=LIVE_AT.replace(hour=0) - timedelta(days=options.history_days),
                folder=folder / "epanet",
            )
            say("starting PostgreSQL, the broker and the services")
            database_url = stack.enter_context(embedded_postgres(folder / "postgres"))
            broker = stack.enter_context(embedded_broker(folder / "broker", kind=options.broker))
            demo = _Demo(options, console, say, folder, town, database_url, broker, port, began)
            supervisor = stack.enter_context(supervised(folder, demo.environment()))
            return asyncio.run(demo.run(supervisor))
        except KeyboardInterrupt:
            say("stopping")
            return 130 if options.until else 0
        finally:
            finish_undisturbed()


class _Demo:
    """One run, with all that it was started with."""

    stored: report.StoredCount

    def __init__(
        self,
        options: DemoOptions,
        console: Console,
        say: _Teller,
        folder: Path,
        town: Town,
        database_url: str,
        broker: Broker,
        port: int,
        began: float,
    ) -> None:
        self.options, self.console, self.say, self.folder, self.town = options, console, say, folder, town
        self.database_url, self.broker, self.port, self.began = database_url, broker, port, began
        self.secret = secrets.token_urlsafe(48)
        self.url = f"http://127.0.0.1:{port}"
        self.truth = report.Truth(None, None, town.distance_m)
        self.timings: dict[str, float] = {}
        self._stored_last = (-1, 0.0)
        self._phase = "starting"
        self._town_at = LIVE_AT

    def environment(self) -> dict[str, str]:
        """Return the settings of the services."""
        return {
            "UNDERWAY_DATABASE_URL": self.database_url,
            "UNDERWAY_MQTT_URL": self.broker.url,
            "UNDERWAY_SECRET_KEY": self.secret,
            "UNDERWAY_CLOCK": "town",
            "UNDERWAY_WEB_HOST": "127.0.0.1",
            "UNDERWAY_WEB_PORT": str(self.port),
            "UNDERWAY_BASE_URL": self.url,
            "UNDERWAY_DEMO": "true",
            "UNDERWAY_SITE_ID": self.town.site_id,
            "PYTHONUNBUFFERED": "1",
        }

    async def run(self, supervisor: Supervisor) -> int:
        """Register the town, fill in its history, live."""
        conn = connect(self.database_url, application_name="underway-demo")
        migrate(conn, datetime.now(UTC))
        write_clock(conn, ClockRow(LIVE_AT, datetime.now(UTC), 0.0, 0.0))
        signatures = register(conn, self.town, LIVE_AT)
        for name in SERVICES:
            supervisor.start(name)
        self._write_services(supervisor)
        story = plan_story(self.town, self.options.story, LIVE_AT, signatures)
        burst = story.first(StoryAction.BURST)
        faults = sum(event.action != StoryAction.SHOWER for event in story.events)
        self.truth = report.Truth(burst.asset_id if burst else None, burst.at_us if burst else None, self.town.distance_m, max(faults, 1))
        self._mark("ready")
        async with TownLink(self.broker.url, (crew_topics(self.town.site_id),)) as link, CrewPhones(self.url, self.town, story) as phones:
            runner = TownRunner(World(self.town), story, link, to_us(LIVE_AT))
            self.stored = report.StoredCount(connect(self.database_url, application_name="underway-demo-count"))
            if not await wait_until(lambda: self._listening(conn, supervisor), SETTLE_S):
                raise StoreUnavailable(f"ingest must subscribe within {SETTLE_S:g} s of its start; see {self.folder / 'ingest.log'}")
            self._phase = "history"
            await self._history(runner, supervisor)
            self._mark("history")
            if self.options.until == "live":
                return self._finish(conn, runner, supervisor, 0)
            return await self._live(conn, runner, phones, supervisor)

    async def _history(self, runner: TownRunner, supervisor: Supervisor) -> None:
        """Publish two weeks as fast as they are stored, and wait until the detectors have seen them all."""
        begin_us, end_us = to_us(self.town.start_at), to_us(LIVE_AT)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self.console, disable=self.options.json_output, transient=True) as bar:
            task = bar.add_task(f"{self.options.history_days} days of history", total=end_us - begin_us)

            def advanced(reached_us: int, published: int) -> None:
                self._settled(runner, supervisor)
                self._write_services(supervisor)
                bar.update(
                    task,
                    completed=reached_us - begin_us,
                    description=f"{self.options.history_days} days of history, {published:,} readings",
                )

            await runner.history(self.stored, advanced)
            bar.update(task, description="waiting until the last reading is stored and judged")
            if not await wait_until(lambda: self._settled(runner, supervisor), SETTLE_S):
                raise StoreUnavailable(
                    f"history must be stored within {SETTLE_S:g} s of its publication, got {self.stored():,} of {runner.published:,} readings;"
                    f" see {self.folder / 'ingest.log'}"
                )
        self.say(f"{self.stored():,} readings of history stored")
        self._phase = "live"

    def _listening(self, conn: psycopg.Connection[Any], supervisor: Supervisor) -> bool:
        """Return whether ingest has subscribed: before its first subscription the broker keeps nothing for it."""
        supervisor.check()
        return any(s.service == "ingest" and s.facts.get("subscribed") for s in views.services(conn))

    def _settled(self, runner: TownRunner, supervisor: Supervisor) -> bool:
        """Return whether all that was published is stored or in quarantine: every reading, or ingest has nothing left to do."""
        supervisor.check()
        stored = self.stored()
        if stored != self._stored_last[0]:
            self._stored_last = (stored, time.monotonic())
        return stored >= runner.published or time.monotonic() - self._stored_last[1] > IDLE_S

    async def _live(self, conn: psycopg.Connection[Any], runner: TownRunner, phones: CrewPhones, supervisor: Supervisor) -> int:
        """Live until what was asked for has come, the time is over, or a person ends it."""
        options = self.options
        if options.until:
            self.say(f"live at {options.speed:g} times real time; ends when {UNTIL_WORDS[options.until]}")
        else:
            self.say(f"live: {self.url}")
        shows = self.console.is_terminal and not options.json_output
        code = 1
        shot_due = 0.0
        with RichLive(console=self.console, screen=shows, auto_refresh=False) if shows else contextlib.nullcontext() as screen:

            async def each_step() -> bool:
                nonlocal code, shot_due
                supervisor.check()
                self._town_at = from_us(runner.town_us)
                # one step ahead: a message must not seem to come from the future while services still read the last row
                lead_at = from_us(runner.town_us + STEP_US)
                write_clock(
                    conn, ClockRow(lead_at, datetime.now(UTC), options.speed, max(CLOCK_AHEAD_S, CLOCK_AHEAD_WALL_S * options.speed))
                )
                phones.hear(runner.link.inbox, runner.town_us)
                await phones.act(runner.world, runner.town_us)
                if time.monotonic() < shot_due:
                    return False
                shot_due = time.monotonic() + SHOT_S
                self._write_services(supervisor)
                if screen is not None:
                    screen.update(render(await asyncio.to_thread(self._shot, conn, runner, supervisor)), refresh=True)
                if not options.until:
                    return False
                if await asyncio.to_thread(self._come, conn):
                    code = 0
                    return True
                return time.monotonic() - self.began > options.timeout_s

            await runner.live(options.speed, lambda: self._behind_s(conn, runner), each_step, BEHIND_S_MAX)
        await wait_until(lambda: self._settled(runner, supervisor), DRAIN_S)
        self._mark("live")
        return self._finish(conn, runner, supervisor, code)

    def _behind_s(self, conn: psycopg.Connection[Any], runner: TownRunner) -> float:
        """Return how far the services are behind the town, in simulated s; without end while the work side has a finding or a card to deal with.

        A crew has simulated minutes to answer, which are less than a second here: a busy machine must not make the story another one.
        """
        findings, cards = work.backlog(conn, desk.READER, from_us(runner.town_us))
        if findings or cards:
            return math.inf
        newest_at = views.latest_observed_at(conn)
        return (runner.town_us - to_us(newest_at)) / 1e6 if newest_at else math.inf

    def _come(self, conn: psycopg.Connection[Any]) -> bool:
        """Return whether what ``--until`` names has come: an order (or every order of the story) was closed by a PASS."""
        closed = [outcome for _, outcome in report.closed_orders(conn)]
        if self.options.until == "all-closed":
            return closed.count("PASS") >= self.truth.orders_expected and report.open_order_count(conn) == 0
        return "PASS" in closed

    def _shot(self, conn: psycopg.Connection[Any], runner: TownRunner, supervisor: Supervisor) -> Snapshot:
        progress = report.Progress(runner.published, from_us(runner.town_us), runner.speed_measured, runner.readings_per_s)
        services = " ".join(
            f"{s.name} {'up' if s.pid else 'DOWN'}" + (f" ({s.restarts} restarts)" if s.restarts else "") for s in supervisor.services
        )
        title = f"underway: {self.town.registry.site.name}, story '{self.options.story}', seed {self.options.seed}"
        return report.snapshot(conn, title, self.url, progress, services, self.stored())

    def _finish(self, conn: psycopg.Connection[Any], runner: TownRunner, supervisor: Supervisor, code: int) -> int:
        facts = report.result(conn, self.options.seed, self.options.story, runner.published, self.stored(), self.truth)
        facts["wall_s"] = {name: round(seconds, 1) for name, seconds in self.timings.items()}
        facts["services"] = _services(supervisor)
        facts["broker"] = f"{self.broker.kind} {self.broker.version}"
        facts["exit_code"] = code
        if self.options.json_output:
            print(json.dumps(facts, indent=2))
        else:
            for line in report.summary(facts):
                self.say(line)
        return code

    def _mark(self, name: str) -> None:
        self.timings[name] = time.monotonic() - self.began

    def _write_services(self, supervisor: Supervisor) -> None:
        """Keep process ids and progress beside the logs, for people who look and for tests that kill."""
        facts: dict[str, Any] = _services(supervisor)
        facts["readings"] = {"stored": self._stored_last[0]}
        facts["phase"] = self._phase
        facts["town_at"] = self._town_at.isoformat()
        facts |= {"database_url": self.database_url, "mqtt_url": self.broker.url, "web_url": self.url}
        path = self.folder / "services.json"
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(facts))
        draft.replace(path)


def _services(supervisor: Supervisor) -> dict[str, Any]:
    return {s.name: {"pid": s.pid, "restarts": s.restarts, "log": str(s.log_path)} for s in supervisor.services}


class _Teller:
    """Says what happens, or nothing when machines listen."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console, self._quiet = console, quiet

    def __call__(self, sentence: str) -> None:
        if not self._quiet:
            self._console.print(sentence, markup=False, highlight=False)


@contextlib.contextmanager
def _working_folder(wanted: Path | None) -> Iterator[Path]:
    """Yield the folder asked for, or a temporary one that is removed at the end."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="underway-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _require_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OperatorError(
                f"port {port} must be free for the web page, it is taken ({error.strerror}); choose another with --port, or 0"
            ) from error
    return port


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does; yield what makes it deaf to all three while it puts things away."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def finish_undisturbed() -> None:
        for number in before:
            signal.signal(number, _nothing)

    signal.signal(signal.SIGTERM, _interrupt)
    if before[signal.SIGHUP] is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        yield finish_undisturbed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _nothing(*_: object) -> None:
    pass
