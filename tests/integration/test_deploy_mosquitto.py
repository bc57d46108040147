"""The broker of docker-compose.yml, with exactly its files, on free ports: who may do what."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import paho.mqtt.client as paho
import pytest
from needs import missing
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

pytestmark = pytest.mark.integration

CONFIG = Path(__file__).resolve().parents[2] / "docker/mosquitto"
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
INGEST, WORKORDERS = "a1" * 16, "b2" * 16
WAIT_S = 10.0
# long enough for a message that must not come to come
QUIET_S = 0.5
NOT_AUTHORIZED = 135
# taken: success, or success without a subscriber (MQTT 5)
TAKEN = (0, 16)


@dataclass
class Broker:
    """A broker started by docker/mosquitto/start.sh in a folder of its own."""

    home: Path
    port: int
    tls_port: int
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    identity: dict[str, Any]

    def device(self, verb: str, device_id: str) -> subprocess.CompletedProcess[str]:
        script = [str(self.home / "config/device.sh"), verb, device_id]
        return subprocess.run(script, env=self.environment, capture_output=True, text=True, timeout=WAIT_S, check=False, **self.identity)

    def add(self, device_id: str) -> str:
        done = self.device("add", device_id)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@dataclass
class Client:
    """A connected client; ``got`` holds what was delivered, ``refused`` the reason of a refused connection."""

    mqtt: paho.Client
    got: Queue[tuple[str, bytes]] = field(default_factory=Queue)
    connected: Queue[int] = field(default_factory=Queue)
    acknowledged: Queue[int] = field(default_factory=Queue)

    def subscribe(self, topic: str) -> int:
        granted: Queue[int] = Queue()
        self.mqtt.on_subscribe = lambda _c, _u, _mid, reasons, _p: granted.put(reasons[0].value)
        self.mqtt.subscribe(topic, options=SubscribeOptions(qos=1))
        return granted.get(timeout=WAIT_S)

    def publish(self, topic: str, payload: bytes = b"{}") -> int:
        self.mqtt.publish(topic, payload, qos=1)
        return self.acknowledged.get(timeout=WAIT_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], capture_output=True, timeout=60, check=True)


def make_certificates(folder: Path, *, mutual: bool) -> None:
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-sha256"]
    openssl(
        *new,
        "-subj",
        "/CN=broker",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(folder / "server.key"),
        "-out",
        str(folder / "server.crt"),
    )
    if mutual:
        openssl(*new, "-subj", "/CN=ca", "-keyout", str(folder / "ca.key"), "-out", str(folder / "client-ca.crt"))
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pr-113", "-keyout", str(folder / "pr.key"), "-out", str(folder / "pr.csr")
        )
        signing = ["-CA", str(folder / "client-ca.crt"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "2", "-sha256"]
        openssl("x509", "-req", "-in", str(folder / "pr.csr"), *signing, "-out", str(folder / "pr.crt"))


@contextlib.contextmanager
def running(*, tls: bool = False, mutual: bool = False) -> Iterator[Broker]:
    if shutil.which("mosquitto", path=PATH) is None:
        missing("mosquitto is not installed")
    base = Path(tempfile.mkdtemp(prefix="uw-mosquitto-", dir="/tmp"))
    home, run = base / "home", base / "run"
    shutil.copytree(CONFIG, home / "config", ignore=shutil.ignore_patterns("certs"))
    for folder in (home / "data", home / "certs", run):
        folder.mkdir(parents=True)
    if tls:
        make_certificates(home / "certs", mutual=mutual)
    port, tls_port = free_port(), free_port()
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:  # the container's user is not root either
        user = pwd.getpwnam("nobody")
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        for path in (base, *base.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
    environment = {
        "PATH": PATH,
        "MOSQUITTO_HOME": str(home),
        "MOSQUITTO_RUN": str(run),
        "MOSQUITTO_PORT": str(port),
        "MOSQUITTO_TLS_PORT": str(tls_port),
        "MQTT_INGEST_PASSWORD": INGEST,
        "MQTT_WORKORDERS_PASSWORD": WORKORDERS,
    }
    with (base / "log").open("wb") as log:
        process = subprocess.Popen([str(home / "config/start.sh")], env=environment, stdout=log, stderr=log, **identity)
    try:
        for wanted in (port, tls_port) if tls else (port,):
            wait_for(wanted, process, base / "log")
        yield Broker(home, port, tls_port, process, environment | {"MOSQUITTO_PID": str(process.pid)}, identity)
    finally:
        process.terminate()
        process.wait(WAIT_S)
        shutil.rmtree(base, ignore_errors=True)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + WAIT_S
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise AssertionError(f"no listener on {port}: {log.read_text()}")


@contextlib.contextmanager
def client(port: int, user: str = "", password: str = "", context: ssl.SSLContext | None = None) -> Iterator[Client]:
    made = Client(paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False))
    if user:
        made.mqtt.username_pw_set(user, password)
    if context is not None:
        made.mqtt.tls_set_context(context)
    made.mqtt.on_connect = lambda _c, _u, _f, reason, _p: made.connected.put(reason.value)
    made.mqtt.on_message = lambda _c, _u, message: made.got.put((message.topic, message.payload))
    made.mqtt.on_publish = lambda _c, _u, _mid, reason, _p: made.acknowledged.put(reason.value)
    made.mqtt.connect("127.0.0.1", port)
    made.mqtt.loop_start()
    try:
        yield made
    finally:
        made.mqtt.disconnect()
        made.mqtt.loop_stop()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running() as started:
        yield started


@pytest.mark.parametrize(
    ("user", "password"),
    [
        pytest.param("", "", id="anonymous"),
        pytest.param("ingest", "wrong", id="wrong password"),
        pytest.param("pr-999", "", id="unknown device"),
    ],
)
def test_broker_refuses_whom_it_does_not_know(broker: Broker, user: str, password: str) -> None:
    with client(broker.port, user, password) as stranger:
        assert stranger.connected.get(timeout=WAIT_S) == NOT_AUTHORIZED


def test_device_publishes_under_its_own_id_only(broker: Broker) -> None:
    password = broker.add("pr-113")
    with client(broker.port, "ingest", INGEST) as ingest, client(broker.port, "pr-113", password) as device:
        assert ingest.connected.get(timeout=WAIT_S) == 0
        assert device.connected.get(timeout=WAIT_S) == 0
        assert ingest.subscribe("uw/+/+/telemetry") == 1
        for topic in ("uw/town/pr-114/telemetry", "uw/town/pr-113/truth", "uw/town/crew/pr-113/orders", "other"):
            assert device.publish(topic) == NOT_AUTHORIZED, topic
        assert device.publish("uw/town/pr-113/telemetry", b'{"values":{}}') in TAKEN
        assert ingest.got.get(timeout=WAIT_S) == ("uw/town/pr-113/telemetry", b'{"values":{}}')
        with pytest.raises(Empty):
            ingest.got.get(timeout=QUIET_S)


def test_device_hears_nothing_of_other_devices(broker: Broker) -> None:
    password, other = broker.add("pr-1"), broker.add("pr-2")
    with client(broker.port, "pr-1", password) as device, client(broker.port, "pr-2", other) as neighbour:
        device.subscribe("uw/#")
        assert neighbour.publish("uw/town/pr-2/telemetry") in TAKEN
        with pytest.raises(Empty):
            device.got.get(timeout=QUIET_S)


def test_crew_reads_its_own_orders_that_the_work_side_wrote(broker: Broker) -> None:
    password = broker.add("crew-1")
    with client(broker.port, "crew-1", password) as phone, client(broker.port, "workorders", WORKORDERS) as work:
        phone.subscribe("uw/town/crew/crew-1/orders")
        phone.subscribe("uw/town/crew/crew-2/orders")
        assert work.publish("uw/town/crew/crew-2/orders", b"theirs") in TAKEN
        assert work.publish("uw/town/crew/crew-1/orders", b"mine") in TAKEN
        assert phone.got.get(timeout=WAIT_S) == ("uw/town/crew/crew-1/orders", b"mine")
        with pytest.raises(Empty):
            phone.got.get(timeout=QUIET_S)
        assert phone.publish("uw/town/crew/crew-1/orders") == NOT_AUTHORIZED


def test_services_may_do_only_their_part(broker: Broker) -> None:
    with client(broker.port, "ingest", INGEST) as ingest, client(broker.port, "workorders", WORKORDERS) as work:
        assert ingest.publish("uw/town/crew/crew-1/orders") == NOT_AUTHORIZED
        assert work.publish("uw/town/pr-113/telemetry") == NOT_AUTHORIZED


def test_removed_device_is_refused_at_its_next_connection(broker: Broker) -> None:
    password = broker.add("pr-7")
    with client(broker.port, "pr-7", password) as device:
        assert device.connected.get(timeout=WAIT_S) == 0
    assert broker.device("remove", "pr-7").returncode == 0
    ends = time.monotonic() + WAIT_S
    answer = 0
    while answer != NOT_AUTHORIZED and time.monotonic() < ends:
        with client(broker.port, "pr-7", password) as device:
            answer = device.connected.get(timeout=WAIT_S)
    assert answer == NOT_AUTHORIZED


@pytest.mark.parametrize(("device_id", "topic"), [("PL-0042", "senml/lake-works/PL-0042"), ("RTU-017.B", "spBv1.0/north/NDATA/RTU-017.B")])
def test_device_with_an_id_of_its_maker_publishes_under_it(broker: Broker, device_id: str, topic: str) -> None:
    with client(broker.port, device_id, broker.add(device_id)) as device:
        assert device.connected.get(timeout=WAIT_S) == 0
        assert device.publish(topic) in TAKEN
        for other in (topic.lower(), topic.replace(".", "x").replace("0042", "0043") + "x"):
            assert device.publish(other) == NOT_AUTHORIZED, other


def test_device_script_takes_a_point_in_an_id_for_a_point(broker: Broker) -> None:
    password = broker.add("pr-x9")
    broker.add("pr.x9")
    assert broker.device("remove", "pr.x9").returncode == 0
    passwords = (broker.home / "data/devices.passwd").read_text()
    assert ("pr-x9:" in passwords, "pr.x9:" in passwords) == (True, False)
    with client(broker.port, "pr-x9", password) as device:
        assert device.connected.get(timeout=WAIT_S) == 0


@pytest.mark.parametrize("device_id", ["", "a/b", "+", "a+", "#", "%u", "a:b", "a\nb", "-a", ".a", "é", "ingest", "crew", "a b", "a" * 65])
def test_device_script_refuses_ids_that_would_be_more_than_a_device(broker: Broker, device_id: str) -> None:
    done = broker.device("add", device_id)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("device: ")


def test_health_check_of_the_compose_file_gets_an_answer(broker: Broker) -> None:
    secret = (Path(broker.environment["MOSQUITTO_RUN"]) / "health").read_text()
    command = [
        "mosquitto_sub",
        "-h",
        "127.0.0.1",
        "-p",
        str(broker.port),
        "-u",
        "health",
        "-P",
        secret,
        "-t",
        "$SYS/broker/uptime",
        "-C",
        "1",
        "-W",
        "5",
    ]
    done = subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "seconds" in done.stdout


def test_password_file_holds_only_hashes(broker: Broker) -> None:
    broker.add("pr-8")
    lines = (broker.home / "data/passwords").read_text().splitlines()
    assert {"ingest", "workorders", "health", "pr-8"} <= {line.split(":")[0] for line in lines}
    assert all(line.split(":", 1)[1].startswith("$7$") for line in lines)
    assert (broker.home / "data/passwords").stat().st_mode & 0o077 == 0


def test_start_without_a_password_says_which(tmp_path: Path) -> None:
    environment = {"PATH": PATH, "MOSQUITTO_HOME": str(tmp_path), "MOSQUITTO_RUN": str(tmp_path), "MQTT_INGEST_PASSWORD": "x"}
    done = subprocess.run([str(CONFIG / "start.sh")], env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode != 0
    assert "MQTT_WORKORDERS_PASSWORD" in done.stderr


def test_certificates_switch_tls_on_and_passwords_still_count() -> None:
    with running(tls=True) as broker:
        context = ssl.create_default_context(cafile=str(broker.home / "certs/server.crt"))
        with client(broker.tls_port, context=context) as stranger:
            assert stranger.connected.get(timeout=WAIT_S) == NOT_AUTHORIZED
        with client(broker.tls_port, "pr-113", broker.add("pr-113"), context) as device:
            assert device.connected.get(timeout=WAIT_S) == 0
            assert device.publish("uw/town/pr-113/telemetry") in TAKEN


def test_client_certificate_is_the_device_id() -> None:
    with running(tls=True, mutual=True) as broker:
        certs = broker.home / "certs"
        context = ssl.create_default_context(cafile=str(certs / "server.crt"))
        context.load_cert_chain(certs / "pr.crt", certs / "pr.key")
        with client(broker.tls_port, context=context) as device:
            assert device.connected.get(timeout=WAIT_S) == 0
            assert device.publish("uw/town/pr-114/telemetry") == NOT_AUTHORIZED
            assert device.publish("uw/town/pr-113/telemetry") in TAKEN
