"""``underway quarantine`` on a real database and a real broker."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import psycopg
import pytest
from needs import missing
from paho.mqtt.enums import CallbackAPIVersion
from typer.testing import CliRunner

from ingest.dialects import REPLAY_PREFIX
from ingest.quarantine import QuarantineBudget
from underway.app import brokers
from underway.app.brokers import Broker
from underway.app.cli import app
from underway.app.clock import SystemClock
from underway.app.quarantine_replay import Publisher, replay_rows
from underway.model import Fault, FaultReason, OperatorError, StoreUnavailable
from underway.store.quarantine import QuarantineEntry, save_quarantine
from underway.store.quarantine_rows import QuarantineFilter, find_quarantine

pytestmark = pytest.mark.integration

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOPIC = "uw/town/pr-1/telemetry"
GOOD = b'{"at": "2026-03-01T12:00:00Z", "values": {"pressure": 310}}'


def entry(
    payload: bytes, reason: FaultReason, minute: int = 0, topic: str = TOPIC, device: str | None = "pr-1", **more: Any
) -> QuarantineEntry:
    fault = Fault(reason, f"a sentence about {reason.value} [x]", device)
    return QuarantineEntry(AT + timedelta(minutes=minute), more.pop("dialect", "native"), topic, payload, fault, **more)


@pytest.fixture
def filled(conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, database_url: str) -> psycopg.Connection[Any]:
    """Six entries: ids 1 to 6, and an overflow of one device."""
    monkeypatch.setenv("UNDERWAY_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    entries = [
        entry(GOOD, FaultReason.DEVICE_UNKNOWN),
        entry(GOOD, FaultReason.CHANNEL_UNKNOWN, 1),
        entry(b"\x00\xff\x0asomething", FaultReason.PAYLOAD_NOT_UTF8, 2),
        entry(b"[" * 5000, FaultReason.PAYLOAD_TOO_LARGE, 3, size=10_000_000),
        entry(b"{}", FaultReason.TOPIC_UNKNOWN, 4, "strange/topic", None, dialect="none"),
        entry(GOOD, FaultReason.SCHEMA, 5, "(the topic is not UTF-8)", None, dialect="none"),
    ]
    for one in entries:  # one by one: the id is the number
        save_quarantine(conn, [one], QuarantineBudget(), AT)
    save_quarantine(conn, [entry(b"%d" % n, FaultReason.SCHEMA, device="mad") for n in range(7)], QuarantineBudget(at_once=0), AT)
    return conn


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["quarantine", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def run_json(*words: str, code: int = 0) -> Any:
    return json.loads(run(*words, "--json", code=code))


def states(conn: psycopg.Connection[Any]) -> dict[int, str]:
    return {row.quarantine_id: row.state.value for row in find_quarantine(conn, QuarantineFilter(), 100)}


@contextmanager
def listening(broker: Broker) -> Iterator[list[tuple[str, bytes]]]:
    """Collect everything that is published."""
    heard: list[tuple[str, bytes]] = []
    ready: list[bool] = []
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: heard.append((message.topic, bytes(message.payload)))
    client.on_subscribe = lambda *_: ready.append(True)
    address = urlsplit(broker.url)
    client.connect(address.hostname or "", address.port or 1883)
    client.loop_start()
    client.subscribe("#", qos=1)
    wait_until(lambda: bool(ready))
    yield heard
    client.disconnect()
    client.loop_stop()


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)


# list and show


def test_list_shows_entries_seen_last_first_and_the_overflow(filled: psycopg.Connection[Any]) -> None:
    text = run("list", "--limit", "2")
    assert text.index("(the topic is not UTF-8)") < text.index("strange/topic")
    assert "a sentence about topic_unknown [x]" in text
    assert "2 of 6 entries" in text
    assert "mad: 7 x schema, last 2026-03-01 12:00:00" in text


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        pytest.param(["--reason", "schema"], [6], id="reason"),
        pytest.param(["--device", "pr-1"], [4, 3, 2, 1], id="device"),
        pytest.param(["--dialect", "none"], [6, 5], id="dialect"),
        pytest.param(["--since", "2026-03-01T12:04:00Z"], [6, 5], id="since"),
        pytest.param(["--since", "1h"], [], id="since-an-age"),
        pytest.param(["--device", "pr-1", "--reason", "device_unknown"], [1], id="both"),
    ],
)
def test_list_with_filters_shows_only_what_was_asked_for(filled: psycopg.Connection[Any], words: list[str], ids: list[int]) -> None:
    report = run_json("list", *words)
    assert [found["id"] for found in report["entries"]] == ids
    assert report["total"] == len(ids)


def test_show_tells_payload_and_what_the_decoder_says_today(filled: psycopg.Connection[Any]) -> None:
    text = run("show", "1")
    assert "reason: device_unknown" in text
    assert GOOD.decode() in text
    assert "pressure = 310 at 2026-03-01T12:00:00+00:00" in text
    assert "replay: possible" in text
    dump = run("show", "3")
    assert "0000  00 ff 0a 73 6f 6d 65 74 68 69 6e 67" in dump
    assert "payload_not_utf8" in dump
    cut = run_json("show", "4")
    assert (cut["payload_bytes"], cut["payload_kept"]) == (10_000_000, 2048)
    assert cut["decoded_now"]["note"] == "only the first 2048 of 10000000 bytes were kept, so it cannot be decoded"


def test_show_of_an_id_that_is_not_there_says_where_to_look(filled: psycopg.Connection[Any]) -> None:
    with pytest.raises(OperatorError, match=r"^an entry of quarantine must exist, got 99; see 'underway quarantine list'$"):
        run("show", "99")


@pytest.mark.parametrize(
    ("words", "sources"),
    [
        pytest.param([], ["mad"], id="no-filter"),
        pytest.param(["--reason", "schema"], ["mad"], id="reason"),
        pytest.param(["--reason", "device_unknown"], [], id="another-reason"),
        pytest.param(["--device", "mad"], ["mad"], id="device"),
        pytest.param(["--device", "pr-1"], [], id="another-device"),
        pytest.param(["--dialect", "native"], [], id="dialect-is-not-known-of-what-is-only-counted"),
        pytest.param(["--since", "2026-03-01T12:00:00Z"], ["mad"], id="since"),
        pytest.param(["--since", "2026-03-01T12:00:01Z"], [], id="since-later"),
    ],
)
def test_list_with_filters_narrows_what_was_only_counted_too(filled: psycopg.Connection[Any], words: list[str], sources: list[str]) -> None:
    assert [row["source"] for row in run_json("list", *words)["overflow"]] == sources


def test_list_of_a_dialect_that_there_is_not_names_those_that_there_are(filled: psycopg.Connection[Any]) -> None:
    with pytest.raises(OperatorError, match=r"^a dialect must be one of native, .*sparkplug, none, got 'klingon'$"):
        run("list", "--dialect", "klingon")


@pytest.mark.parametrize("words", [["show"], ["replay", "--dry-run"], ["forget", "--yes"]], ids=lambda words: words[0])
def test_id_beyond_what_a_table_numbers_is_refused_as_a_word(filled: psycopg.Connection[Any], words: list[str]) -> None:
    assert "Input should be less than or equal to 9223372036854775807" in run(*words, "99999999999999999999999", code=2)


@pytest.mark.parametrize("text", ["yesterday", "12", "2026-03-01T12:00", "xh", "nanh", "-5h"])
def test_since_that_is_no_time_says_how_to_write_one(filled: psycopg.Connection[Any], text: str) -> None:
    with pytest.raises(OperatorError, match=rf"^a time must be ISO 8601 with a zone, or an age like 30m, 12h or 7d, got '{text}'$"):
        run("list", "--since", text)


# replay


def test_replay_sends_each_message_once_as_it_was_and_says_what_it_cannot(
    filled: psycopg.Connection[Any], mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERWAY_MQTT_URL", mosquitto.url)
    with listening(mosquitto) as heard:
        planned = run_json("replay", "--all", "--dry-run", code=1)
        assert (planned["sent"], planned["messages"], heard) == ([1, 2, 3, 5], 3, [])
        assert set(states(filled).values()) == {"open"}
        text = run("replay", "--all", code=1)
        wait_until(lambda: len(heard) >= 3)
    again = [(TOPIC, GOOD), (TOPIC, b"\x00\xff\x0asomething"), ("strange/topic", b"{}")]
    assert sorted(heard) == sorted((REPLAY_PREFIX + topic, payload) for topic, payload in again)
    assert "3 messages sent again (4 entries)" in text
    assert "4 cannot be sent again: only the first 2048 of 10000000 bytes were kept (at most 2048 are)" in text
    assert "6 cannot be sent again: its topic was not kept as it was, or is none to publish on" in text
    assert states(filled) == {1: "replayed", 2: "replayed", 3: "replayed", 4: "open", 5: "replayed", 6: "open"}


def test_replay_again_takes_only_what_failed_again_unless_named(
    filled: psycopg.Connection[Any], mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERWAY_MQTT_URL", mosquitto.url)
    assert run_json("replay", "--device", "pr-1", "--reason", "device_unknown")["sent"] == [1]
    assert run_json("replay", "--reason", "device_unknown")["sent"] == []
    assert run_json("replay", "1")["sent"] == [1]
    again = entry(GOOD, FaultReason.DEVICE_UNKNOWN)
    later = QuarantineEntry(datetime.now(UTC) + timedelta(seconds=1), again.dialect, again.topic, again.payload, again.fault)
    save_quarantine(filled, [later], QuarantineBudget(), later.received_at)
    assert states(filled)[1] == "failed again"
    assert "(failed again)" in run("list", "--reason", "device_unknown")
    assert run_json("replay", "--reason", "device_unknown")["sent"] == [1]


def test_replay_of_a_message_that_the_broker_refuses_says_so_and_leaves_it_open(filled: psycopg.Connection[Any], tmp_path: Path) -> None:
    program = brokers._mosquitto_program()
    if program is None:
        missing("mosquitto is not installed (apt-get install mosquitto)")
    port = brokers._free_port()
    (tmp_path / "acl").write_text("topic read #\n")
    (tmp_path / "acl").chmod(0o644)
    tmp_path.chmod(0o755)
    (tmp_path / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {tmp_path}/acl\nuser root\n")
    process = subprocess.Popen([program, "-c", str(tmp_path / "conf")], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: brokers._connects(port))
        rows = find_quarantine(filled, QuarantineFilter(ids=[1]), 1)
        with Publisher(f"mqtt://127.0.0.1:{port}") as publisher:
            report = replay_rows(filled, rows, publisher.publish, SystemClock())
    finally:
        process.terminate()
        process.wait(10)
    assert report.refused == {1: "the broker refused it: Not authorized; may this account publish on that topic?"}
    assert (report.sent, report.messages, report.ok) == ([], 0, False)
    assert states(filled)[1] == "open"


def test_publisher_speaks_the_newest_protocol_that_the_broker_takes(broker: Broker) -> None:
    with listening(broker) as heard, Publisher(broker.url) as publisher:
        assert publisher.publish(TOPIC, GOOD) == ""
        wait_until(lambda: heard == [(TOPIC, GOOD)])


def test_publisher_where_no_broker_listens_says_so_without_the_password() -> None:
    with pytest.raises(
        StoreUnavailable,
        match=r"^the broker at mqtt://me:\*+@127\.0\.0\.1:9 must accept a connection, got: \[Errno 111\] Connection refused$",
    ):
        Publisher("mqtt://me:hunter2@127.0.0.1:9").__enter__()


def test_replay_of_nothing_named_is_a_mistake(filled: psycopg.Connection[Any]) -> None:
    for words, came in ((["replay"], "neither"), (["forget", "--all", "1"], "both")):
        with pytest.raises(
            OperatorError, match=rf"^name entries by id or by --reason, --device, --dialect, --since, or take --all of them, got {came}$"
        ):
            run(*words)
    with pytest.raises(OperatorError, match=r"^entries of quarantine must exist, got 98, 99; see 'underway quarantine list'$"):
        run("replay", "1", "99", "98", "--dry-run")


# forget


def test_forget_asks_first_and_deletes_what_was_chosen(filled: psycopg.Connection[Any]) -> None:
    refused = CliRunner().invoke(app, ["quarantine", "forget", "--device", "pr-1"], input="n\n")
    assert refused.exit_code == 1
    assert "delete 4 entries for good?" in refused.output
    assert len(states(filled)) == 6
    assert "4 entries deleted" in run("forget", "--device", "pr-1", "--yes")
    assert run_json("forget", "--all", "--yes") == {"deleted": 2}
    assert states(filled) == {}
