"""A broker of our own on the loopback address: Mosquitto when it is installed, else amqtt from pip."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from underway.model import OperatorError
from underway.store.embedded import ends_with_parent

BrokerKind = Literal["mosquitto", "amqtt"]
START_S_MAX = 30.0
STOP_S_MAX = 10.0
IN_FLIGHT_MAX = 20_000
"""Messages that a client may leave unacknowledged: ingest acknowledges a batch only after its commit."""
QUEUE_MAX = 1_000_000
"""Messages kept for a persistent session that is away."""
_ATTEMPTS = 3
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker.

    Attributes
    ----------
    url : str
        ``mqtt://127.0.0.1:<port>``; anonymous, because only this machine reaches it.
    mqtt_version : str
        The newest version of the protocol it speaks: ``"5.0"`` or ``"3.1.1"``.
    survives_restart : bool
        Whether sessions and their messages are kept on disk when the broker ends.
    """

    url: str
    kind: BrokerKind
    version: str
    mqtt_version: str
    survives_restart: bool
    port: int
    pid: int
    log_path: Path


@contextlib.contextmanager
def embedded_broker(folder: Path, *, kind: str = "auto", port: int = 0) -> Iterator[Broker]:
    """Run a broker for the length of a ``with`` block.

    Parameters
    ----------
    folder : Path
        For its configuration, log and persistent sessions; made when missing.
    kind : str
        ``"mosquitto"``, ``"amqtt"``, or ``"auto"``: Mosquitto when it is installed.
    port : int
        On 127.0.0.1; 0 takes a free one.

    Raises
    ------
    OperatorError
        When `kind` is unknown or not installed, the port is taken, or the broker does not start (with the end of its log).
    """
    program = _mosquitto_program()
    if kind not in ("auto", "mosquitto", "amqtt"):
        raise OperatorError(f"the broker must be 'auto', 'mosquitto' or 'amqtt', got {kind!r}")
    if kind == "mosquitto" and program is None:
        raise OperatorError("the broker 'mosquitto' is not installed; apt-get install mosquitto, or use 'amqtt'")
    chosen: BrokerKind = "amqtt" if program is None or kind == "amqtt" else "mosquitto"
    if port and not _is_free(port):
        raise OperatorError(
            f"the broker '{chosen}' cannot listen on 127.0.0.1:{port}: the port is taken; name another one, or none for a free one"
        )
    folder = folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / f"{chosen}.log"
    with log_path.open("ab") as log:
        process, taken = _start(chosen, program, folder, port, log, log_path)
        try:
            yield Broker(
                f"mqtt://127.0.0.1:{taken}",
                chosen,
                _version(chosen, program),
                "5.0" if chosen == "mosquitto" else "3.1.1",
                chosen == "mosquitto",
                taken,
                process.pid,
                log_path,
            )
        finally:
            _stop(process)


def _start(
    kind: BrokerKind, program: str | None, folder: Path, port: int, log: IO[bytes], log_path: Path
) -> tuple[subprocess.Popen[bytes], int]:
    """Start it and wait until it answers; another program may take a free port first, so a free one is looked for again."""
    for attempt in range(_ATTEMPTS):
        chosen = port or _free_port()
        command = (
            _mosquitto_command(program, folder, chosen)
            if kind == "mosquitto"
            else [sys.executable, "-m", "underway.app.amqtt_broker", str(chosen)]
        )
        log.truncate(0)
        process = subprocess.Popen(  # noqa: S603 our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ends_with_parent(signal.SIGTERM),
        )
        try:
            ready = _answers(process, chosen)
        except BaseException:
            _stop(process)
            raise
        if ready:
            return process, chosen
        _stop(process)
        if port or attempt == _ATTEMPTS - 1:
            said = "; ".join(line.strip() for line in log_path.read_text(errors="replace").splitlines()[-4:])
            raise OperatorError(f"the broker '{kind}' did not start on 127.0.0.1:{chosen}: {said or 'it said nothing'}")
    raise AssertionError("unreachable")


def _mosquitto_command(program: str | None, folder: Path, port: int) -> list[str]:
    """Write the configuration and return the command."""
    assert program is not None
    config = folder / "mosquitto.conf"
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_interval 30",
        f"max_inflight_messages {IN_FLIGHT_MAX}",
        f"max_queued_messages {QUEUE_MAX}",
        "max_queued_bytes 0",
        "queue_qos0_messages true",
        "connection_messages false",
        "log_dest stderr",
        *(f"log_type {kind}" for kind in ("error", "warning")),
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # otherwise it becomes the user 'mosquitto', who need not be able to write here
    config.write_text("\n".join(lines) + "\n")
    return [program, "-c", str(config)]


def _mosquitto_program() -> str | None:
    """Return the path of Mosquitto: on PATH, or where packages put it and a plain user's PATH does not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_SBIN))


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Say whether our process accepts an MQTT connection in time; a port that another program holds makes ours end."""
    ends_at = time.monotonic() + START_S_MAX
    while time.monotonic() < ends_at and process.poll() is None:
        if _connects(port):
            return process.poll() is None
        time.sleep(0.02)
    return False


def _connects(port: int) -> bool:
    """Say whether a client gets its CONNACK."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="underway-probe", clean_session=True, protocol=MQTTProtocolVersion.MQTTv311)
    try:
        client.connect("127.0.0.1", port, keepalive=10)
    except OSError:
        return False
    ends_at = time.monotonic() + 5.0
    while not client.is_connected() and time.monotonic() < ends_at:
        if client.loop(0.1) != paho.MQTT_ERR_SUCCESS:
            return False
    connected = client.is_connected()
    client.disconnect()
    return connected


def _version(kind: BrokerKind, program: str | None) -> str:
    if kind == "amqtt":
        from importlib.metadata import version

        return version("amqtt")
    assert program is not None
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout.split()  # noqa: S603 our own command
    return said[2] if len(said) > 2 and said[1] == "version" else "unknown"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it; Mosquitto saves its sessions then."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S_MAX)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
