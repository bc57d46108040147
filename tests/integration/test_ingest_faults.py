"""Ingest survives: real processes, real faults, both sides counted. Every published reading is stored exactly once, and nobody lends a hand.

Each scenario of `faults.scenarios` is a process with a database, a broker, an ingest and devices of its own. Those that mostly wait run side by side,
those that compute take turns, so that all of them take about as long as the longest. ``FAULTS_SEED=7`` repeats a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faults.postgres import wipe
from faults.scenarios import MOUNT_REFUSED, OUTAGE_S
from faults.world import make_template
from needs import missing

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
WAITING = ("database-away", "frozen-database", "cut-from-database", "cut-from-broker")
"""Long, and idle for most of their time."""
COMPUTING = (
    "kills-mqtt-3.1.1",
    "kills-mqtt-5",
    "failover",
    "data-disk-full",
    "broker-restarts",
    "database-restarts",
    "wal-disk-full",
    "broker-killed-alone",
    "qos-0-ingest-away",
)
LANES = 3
RUN_S_MAX = 360.0
LEAST_READINGS = 300


class Runs:
    """The scenarios, started together, each asked for its verdict."""

    def __init__(self, folder: Path, names: Sequence[str], seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._template = make_template(folder)
        self._done = {name: threading.Event() for name in names}
        self._said: dict[str, tuple[int, str]] = {}
        self._running: set[subprocess.Popen[str]] = set()
        self._ends = False
        self._turns = threading.Semaphore(LANES)
        self._threads = [threading.Thread(target=self._run, args=(name,), name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def verdict(self, name: str) -> dict[str, Any]:
        """Return what scenario `name` counted; fail with all it said when it went wrong."""
        assert self._done[name].wait(RUN_S_MAX + 100), f"scenario {name} did not end"
        code, text = self._said[name]
        print(text)
        if code == MOUNT_REFUSED:
            pytest.skip(text.strip().splitlines()[-1])
        assert code == 0, f"scenario {name}, seed {self._seed}, ended with {code}; what it said stands above"
        found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        return found

    def close(self) -> None:
        self._ends = True
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)
        for thread in self._threads:
            thread.join(30)

    def _run(self, name: str) -> None:
        with contextlib.nullcontext() if name in WAITING else self._turns:
            if not self._ends:
                self._said[name] = self._process(name)
                wipe(self._folder / name)
        self._done[name].set()

    def _process(self, name: str) -> tuple[int, str]:
        folder = self._folder / name
        folder.mkdir(mode=0o755)
        command = [sys.executable, "-m", "faults.scenarios", name, "--folder", str(folder)]
        command += ["--template", str(self._template), "--seed", str(self._seed)]
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._running.add(process)
        try:
            text, _ = process.communicate(timeout=RUN_S_MAX)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            text, _ = process.communicate(timeout=60)
            text += f"\nit took longer than {RUN_S_MAX:g} s"
        finally:
            self._running.discard(process)
        return process.returncode, text


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Every scenario that a selected test asks for, started at once."""
    if not (shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")):
        missing("mosquitto is not installed (apt-get install mosquitto)")
    params = [item.callspec.params for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    wanted = {found["verdict"] for found in params if "verdict" in found}
    folder = Path(tempfile.mkdtemp(prefix="underway-faults-"))
    folder.chmod(0o755)  # as root the servers run as another user
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(1_000_000))
    started = Runs(folder, [name for name in (*WAITING, *COMPUTING) if name in wanted], seed)
    yield started
    started.close()
    wipe(folder)


@pytest.fixture
def verdict(request: pytest.FixtureRequest, runs: Runs) -> dict[str, Any]:
    return runs.verdict(request.param)


def scenario(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("verdict", names, indirect=True)


def assert_each_once(verdict: dict[str, Any]) -> None:
    """Both sides agree: what the broker acknowledged to the devices is stored, once, as it was said, and nothing else is."""
    assert verdict["published"] > LEAST_READINGS, "too few readings for the scenario to mean anything"
    counted = {name: verdict[name] for name in ("missing", "extra", "twice", "differing", "quarantined", "findings")}
    assert counted == dict.fromkeys(counted, 0)
    assert verdict["stored"] == verdict["published"]
    assert verdict["status"]["unacked"] == 0, "everything stored is acknowledged in the end"
    assert verdict["status"]["poison"] == 0
    assert verdict["ended_by_itself"] == [], "ingest ended though nobody killed it"
    assert verdict["exit_code"] == 0


@scenario("database-away")
def test_ingest_database_away_for_a_minute_stores_each_reading_once(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)
    assert verdict["s"] > OUTAGE_S
    assert verdict["ingest_starts"] == 1
    assert verdict["status"]["retries"] >= 1


@scenario("kills-mqtt-5", "kills-mqtt-3.1.1")
def test_ingest_killed_at_random_moments_stores_each_reading_once(verdict: dict[str, Any], request: pytest.FixtureRequest) -> None:
    assert_each_once(verdict)
    assert verdict["ingest_starts"] == 1 + sum(verdict["kills"].values())
    assert min(verdict["kills"].values()) >= 1, "some kills hit the start, some the work"
    assert request.node.callspec.id.endswith(verdict["status"]["protocol"].removesuffix(".0"))


@scenario("database-restarts")
def test_ingest_database_restarted_while_busy_stores_each_reading_once(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)
    assert verdict["ingest_starts"] == 1
    assert verdict["status"]["rebuilds"] >= 2


@scenario("failover")
def test_ingest_database_fails_over_stores_each_reading_once_on_the_new_primary(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)
    assert verdict["ingest_starts"] == 1
    assert verdict["on_old_primary"] > 0


@scenario("broker-restarts")
def test_ingest_broker_restarted_and_killed_stores_each_reading_once(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)


@scenario("broker-killed-alone")
def test_ingest_broker_killed_while_ingest_is_away_loses_only_what_the_broker_had_not_written(verdict: dict[str, Any]) -> None:
    assert verdict["saved"] > 100
    assert verdict["unsaved"] > 50
    assert verdict["lost_of_saved"] == 0
    assert verdict["lost_of_later"] == 0
    assert verdict["missing"] == verdict["lost_of_unsaved"] <= verdict["unsaved"]
    assert verdict["extra"] == verdict["twice"] == verdict["differing"] == verdict["quarantined"] == 0


@scenario("qos-0-ingest-away")
def test_ingest_away_loses_of_qos_0_only_what_the_broker_does_not_keep(verdict: dict[str, Any]) -> None:
    assert verdict["meanwhile"] > 50
    assert verdict["lost_meanwhile"] == (0 if verdict["broker_keeps_qos_0"] else verdict["meanwhile"])
    assert verdict["missing"] == verdict["lost_meanwhile"]
    assert verdict["lost_otherwise"] == 0
    assert verdict["extra"] == verdict["twice"] == verdict["differing"] == verdict["quarantined"] == 0


@scenario("cut-from-broker")
def test_ingest_cut_from_the_broker_notices_by_itself_and_stores_each_reading_once(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)
    assert verdict["ingest_starts"] == 1
    assert "lost" in verdict["said"][0]


@scenario("cut-from-database", "frozen-database")
def test_ingest_silent_database_notices_by_itself_and_stores_each_reading_once(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)
    assert verdict["ingest_starts"] == 1
    assert len(verdict["said"]) == 1


@scenario("data-disk-full")
def test_ingest_data_disk_full_says_so_and_resumes_by_itself(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)
    assert "No space left on device" in verdict["said"][0]
    assert verdict["stored_while_full"] == 0
    assert verdict["ingest_starts"] == 2  # the second after the SIGKILL in the middle: nothing was acknowledged that was not stored


@scenario("wal-disk-full")
def test_ingest_log_disk_full_lives_on_while_the_server_is_down_and_resumes_by_itself(verdict: dict[str, Any]) -> None:
    assert_each_once(verdict)
    assert verdict["ingest_starts"] == 1
    assert verdict["server_up_while_full"] is False
