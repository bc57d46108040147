"""What a reader pastes from a dialect's page is stored: its file of devices, its lines, a real broker, a real database, the real process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from typer.testing import CliRunner

from ingest.dialects import DIALECTS
from underway.app.brokers import Broker
from underway.app.cli import app

pytestmark = pytest.mark.integration

PAGES = Path(__file__).resolve().parents[2] / "docs" / "dialects"
WAIT_S = 15.0
STORED = {
    "native": {"pr-113/flow": [150.12], "pr-113/pressure": [341.0]},
    "senml": {"sm-113/flow": [41.76], "pl-0042/pressure": [341.0]},
    "chirpstack": {"cs-71/pressure": [341.0]},
    "thethings": {"tt-72/pressure": [341.0]},
    "sensorthings": {"ds-5/flow": [150.192, 150.192]},
    "sparkplug": {
        "rtu-017/battery": [3.625],
        "dma-04-inlet/flow": [41.5, 41.75],
        "dma-04-inlet/pressure": [350.0, 362.5],
    },
}
"""What must be stored of each page's lines, in units of the quantity: m3/h, kPa, V."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_s, f"waited {WAIT_S:g} s in vain for {what}"
        time.sleep(0.05)


def lines_of(page: str) -> list[str]:
    """Return the lines that a page shows to be pasted, in their order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if re.search(r"\bmosquitto_|^underway ", line)]


@contextlib.contextmanager
def ingest(database_url: str, broker: Broker) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "UNDERWAY_MQTT_URL": broker.url, "UNDERWAY_DATABASE_URL": database_url}
    process = subprocess.Popen([sys.executable, "-m", "underway", "run", "--only", "ingest"], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def test_dialect_pages_lines_that_a_reader_pastes_are_stored(
    new_database: Callable[[], AbstractContextManager[str]], mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {dialect.name: (PAGES / f"{dialect.name}.md").read_text(encoding="utf-8") for dialect in DIALECTS}
    assert set(pages) == set(STORED)
    port = urlsplit(mosquitto.url).port
    monkeypatch.chdir(tmp_path)
    with new_database() as database_url, contextlib.ExitStack() as stack:
        monkeypatch.setenv("UNDERWAY_DATABASE_URL", database_url)
        conn = stack.enter_context(psycopg.connect(database_url, autocommit=True))

        def stored() -> dict[str, list[object]]:
            found: dict[str, list[object]] = {}
            for name, value in conn.execute(
                "SELECT device_id || '/' || name, value FROM reading JOIN channel USING (channel_id) ORDER BY observed_at, value"
            ):
                found.setdefault(name, []).append(pytest.approx(value))
            return found

        def refused() -> list[str]:
            return [row[0] for row in conn.execute("SELECT message FROM quarantine")]

        def paste(line: str) -> None:
            if line.startswith("underway "):
                result = CliRunner().invoke(app, line.split()[1:])
                assert result.exit_code == 0, (line, result.output, result.exception)
                return
            here = re.sub(r"\bmosquitto_(pub|sub)\b", rf"mosquitto_\1 -h 127.0.0.1 -p {port}", line)
            if "mosquitto_sub" in line:
                heard = stack.enter_context((tmp_path / "heard").open("wb"))
                watcher = subprocess.Popen(["sh", "-c", "exec " + here.removesuffix("&")], stdout=heard)
                stack.callback(watcher.wait)
                stack.callback(watcher.terminate)
                wait_until(lambda: b"spBv1.0/STATE/underway" in (tmp_path / "heard").read_bytes(), "the listener of the page")
                return
            subprocess.run(["sh", "-c", here], timeout=WAIT_S, check=True)

        imports = [line for page in pages.values() for line in lines_of(page) if line.startswith("underway ")]
        assert len(imports) == len(pages)
        for page in pages.values():
            for name, text in re.findall(r"File `([^`\n]+\.yaml)`:\n\n```yaml\n(.*?)```", page, re.S):
                Path(name).write_text(text, encoding="utf-8")
        for line in imports:
            paste(line)
        stack.enter_context(ingest(database_url, mosquitto))
        watch = ["mosquitto_sub", "-p", str(port), "-C", "1", "-W", f"{WAIT_S:g}", "-t", "spBv1.0/STATE/underway"]
        state = subprocess.run(watch, capture_output=True, check=True)
        assert json.loads(state.stdout)["online"] is True, "ingest says so when it has subscribed"
        for page in pages.values():
            for line in lines_of(page):
                if not line.startswith("underway "):
                    paste(line)
        wanted = {name: values for page in STORED.values() for name, values in page.items()}
        with contextlib.suppress(AssertionError):
            wait_until(lambda: stored() == wanted, "the readings")
        assert stored() == wanted, f"in quarantine: {refused()}"
        wait_until(lambda: b"spBv1.0/north/NCMD/rtu-017" in (tmp_path / "heard").read_bytes(), "the host to ask for a birth")
        assert [message for message in refused() if "alias" not in message] == []
