"""MQTT subscribers side by side in one run: how fast each drains a backlog at QoS 1, how fast it follows a live stream at QoS 0, and what it costs.

``python bench/mqtt_clients.py`` starts a Mosquitto of its own and prints a table; ``--json`` the same for machines.

Each repetition of a client gets a persistent session of its own with a full backlog; repetitions are interleaved and the table shows medians, so that
what else the machine does touches all alike. At QoS 1 time runs from CONNECT to the last message (mosquitto_sub: from the start of the process,
some milliseconds more), at QoS 0 from the first message. CPU is that of the client's process from CONNECT on (mosquitto_sub: of the whole
process). ``paho`` and ``ours`` acknowledge by hand; ``aiomqtt`` and ``gmqtt`` acknowledge by themselves when a message arrives, for they know
nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ingest.mqtt import Publication
from ingest.mqtt_codec import Parser, PubAck, SubAck, Version, connect_packet, publish_packet, subscribe_packet

CLIENTS = ("mosquitto_sub", "paho", "aiomqtt", "gmqtt", "ours")
FILTER = "uw/+/+/telemetry"
READY = "ready"
STEP = 2_000
LAST_S = 60.0


def payload(number: int) -> bytes:
    """Return about 80 bytes of JSON."""
    return b'{"t":"2026-03-01T12:00:00.%06dZ","seq":%08d,"values":{"pressure":%07.3f}}' % (number % 1_000_000, number, 300 + number % 50)


def publication(number: int, qos: int) -> Publication:
    """Return one message of a town with 1,000 devices."""
    return Publication(f"uw/town/pr-{number % 1000}/telemetry", payload(number), qos)


# the broker's other side ---------------------------------------------------------------------------------------------------------------


class Peer:
    """A blocking connection that makes sessions and fills them."""

    def __init__(self, port: int, client_id: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parser = Parser(Version.V311, 1)
        self.sock.sendall(connect_packet(Version.V311, client_id, 0))
        self.heard(1)

    def heard(self, count: int) -> list[Any]:
        """Return the next `count` control packets."""
        found: list[Any] = []
        while len(found) < count:
            data = self.sock.recv(65_536)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self.parser.feed(data, 0)
            found += self.parser.parse().controls
        return found

    def subscribe(self) -> None:
        self.sock.sendall(subscribe_packet(Version.V311, 1, [FILTER]))
        assert any(isinstance(answer, SubAck) and answer.reasons == (1,) for answer in self.heard(1))

    def publish(self, count: int, qos: int, ready: Callable[[], object] = lambda: None) -> None:
        """Publish `count` messages, made beforehand; `ready` is called before the first goes out."""
        pieces = []
        for first in range(0, count, STEP):
            numbers = range(first, min(first + STEP, count))
            pieces.append((b"".join(publish_packet(Version.V311, publication(n, qos), 1 + n % 65_535) for n in numbers), len(numbers)))
        ready()
        for piece, size in pieces:
            self.sock.sendall(piece)
            if qos:
                assert all(isinstance(answer, PubAck) for answer in self.heard(size))

    def close(self) -> None:
        self.sock.sendall(b"\xe0\x00")
        self.sock.close()


# the clients, each in a process of its own ------------------------------------------------------------------------------------------------


class Meter:
    """Counts to N: from CONNECT on, or when live from the first message on."""

    def __init__(self, count: int, live: bool) -> None:
        self.count, self.live, self.seen = count, live, 0
        self.began_s = self.began_cpu_s = self.ended_s = 0.0
        self.done = threading.Event()
        self._lock = threading.Lock()

    def begin(self) -> None:
        self.began_cpu_s, self.began_s = _cpu_s(resource.RUSAGE_SELF), time.perf_counter()

    def ready(self) -> None:
        self._say(READY)

    def _say(self, line: str) -> None:
        with self._lock:
            print(line, flush=True)

    def add(self, count: int = 1) -> None:
        if not self.seen and self.live:
            self.began_s = time.perf_counter()
        self.seen += count
        if self.seen >= self.count and not self.done.is_set():
            self.ended_s = time.perf_counter()
            self.done.set()

    def report(self) -> None:
        found = {
            "seen": self.seen,
            "seconds": (self.ended_s or time.perf_counter()) - self.began_s,
            "cpu_s": _cpu_s(resource.RUSAGE_SELF) - self.began_cpu_s,
        }
        self._say(json.dumps(found))


def _cpu_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def run_paho(port: int, client_id: str, qos: int, meter: Meter) -> None:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False, protocol=MQTTProtocolVersion.MQTTv311, manual_ack=True
    )

    def on_message(_client: Any, _userdata: Any, message: Any) -> None:
        len(message.topic)
        if message.qos:
            client.ack(message.mid, message.qos)
        meter.add()

    client.on_message = on_message
    client.on_connect = lambda *_: client.subscribe(FILTER, qos)
    client.on_subscribe = lambda *_: meter.ready()
    meter.begin()
    client.connect("127.0.0.1", port)
    client.loop_start()
    meter.done.wait(LAST_S)
    meter.report()


def run_aiomqtt(port: int, client_id: str, qos: int, meter: Meter) -> None:
    import aiomqtt

    async def follow() -> None:
        meter.begin()
        async with aiomqtt.Client("127.0.0.1", port, identifier=client_id, clean_session=False) as client:
            await client.subscribe(FILTER, qos, timeout=LAST_S)  # the answer comes behind the backlog
            meter.ready()
            async for message in client.messages:
                len(message.topic.value)
                meter.add()
                if meter.done.is_set():
                    return

    asyncio.run(asyncio.wait_for(follow(), LAST_S))
    meter.report()


def run_gmqtt(port: int, client_id: str, qos: int, meter: Meter) -> None:
    import gmqtt

    async def follow() -> None:
        client = gmqtt.Client(client_id, clean_session=False, session_expiry_interval=3600, receive_maximum=65_535)
        done = asyncio.Event()

        def on_message(_client: Any, topic: str, _payload: bytes, _qos: int, _properties: Any) -> int:
            len(topic)
            meter.add()
            if meter.done.is_set():
                done.set()
            return 0

        client.on_message = on_message
        client.on_connect = lambda *_: client.subscribe(FILTER, qos)
        client.on_subscribe = lambda *_: meter.ready()
        meter.begin()
        await client.connect("127.0.0.1", port)
        await asyncio.wait_for(done.wait(), LAST_S)

    asyncio.run(follow())
    meter.report()


def run_ours(port: int, client_id: str, qos: int, meter: Meter) -> None:
    """Poll and acknowledge as the pipeline does, a batch at a time."""
    from ingest.mqtt import MqttSource

    meter.begin()
    source = MqttSource(f"mqtt://127.0.0.1:{port}", client_id, [FILTER], lambda: time.time_ns() // 1000, queue_count_max=20_000)
    told = False
    ends_s = time.perf_counter() + LAST_S
    while not meter.done.is_set() and time.perf_counter() < ends_s:
        if not told and source.facts()["subscribed"]:
            told = True
            meter.ready()
        messages = source.poll(5_000, 0.05)
        source.acknowledge(messages)
        meter.add(len(messages))
    meter.report()


PROGRAMS: dict[str, Callable[[int, str, int, Meter], None]] = {
    "paho": run_paho,
    "aiomqtt": run_aiomqtt,
    "gmqtt": run_gmqtt,
    "ours": run_ours,
}


# one measurement ------------------------------------------------------------------------------------------------------------------------


def measure(name: str, port: int, client_id: str, qos: int, count: int) -> dict[str, float]:
    """Run one client once; return messages seen, wall seconds and CPU seconds."""
    if qos:
        peer = Peer(port, client_id)
        peer.subscribe()
        peer.close()
        filler = Peer(port, "bench-filler")
        filler.publish(count, 1)
        filler.close()
    if name == "mosquitto_sub":
        return _measure_mosquitto_sub(port, client_id, qos, count)
    command = [
        sys.executable,
        __file__,
        "--child",
        name,
        "--port",
        str(port),
        "--id",
        client_id,
        "--qos",
        str(qos),
        "--messages",
        str(count),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        stream = None
        for line in lines:
            if line.strip() == READY and not qos:
                stream = _live(port, count)
            elif line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                break
        else:
            raise RuntimeError(f"{name} ended without a result")
        process.kill()
    if stream is not None:
        stream.join()
    return found


def _measure_mosquitto_sub(port: int, client_id: str, qos: int, count: int) -> dict[str, float]:
    command = ["mosquitto_sub", "-p", str(port), "-i", client_id, "-q", str(qos), "-t", FILTER, "-C", str(count), "-W", str(int(LAST_S))]
    before_s = _cpu_s(resource.RUSAGE_CHILDREN)
    began = [time.perf_counter()]
    with subprocess.Popen([*command, *(["-c"] if qos else [])], stdout=subprocess.DEVNULL) as process:
        if not qos:
            time.sleep(0.5)  # it does not say when it is subscribed
            _live(port, count, lambda: began.append(time.perf_counter())).join()
        code = process.wait()
    seconds = time.perf_counter() - began[-1]
    return {"seen": count if code == 0 else 0, "seconds": seconds, "cpu_s": _cpu_s(resource.RUSAGE_CHILDREN) - before_s}


def _live(port: int, count: int, ready: Callable[[], object] = lambda: None) -> threading.Thread:
    def publish() -> None:
        peer = Peer(port, "bench-live")
        peer.publish(count, 0, ready)
        peer.close()

    thread = threading.Thread(target=publish)
    thread.start()
    return thread


def compare(port: int, names: Iterable[str], count: int, repeats: int) -> list[dict[str, Any]]:
    """Measure every client `repeats` times, in turn; return one row a client and QoS."""
    names = list(names)
    rows = []
    for qos in (1, 0):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for repeat in range(repeats):
            for name in names:
                found[name].append(measure(name, port, f"bench-{name}-{qos}-{repeat}", qos, count))
        null = statistics.median(count / one["seconds"] for one in found["mosquitto_sub"])
        for name in names:
            rate = statistics.median(one["seen"] / one["seconds"] for one in found[name])
            rows.append(
                {
                    "client": name,
                    "qos": qos,
                    "messages_per_s": round(rate),
                    "ratio": round(rate / null, 3),
                    "cpu_us_per_message": round(statistics.median(one["cpu_s"] / max(one["seen"], 1) for one in found[name]) * 1e6, 2),
                    "missing": int(sum(count - one["seen"] for one in found[name])),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=30_000, help="a backlog, and a stream, of so many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", nargs="*", default=list(CLIENTS), choices=CLIENTS, help="mosquitto_sub is always among them")
    parser.add_argument("--json", action="store_true")
    for hidden, kind in (("--child", str), ("--port", int), ("--id", str), ("--qos", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        PROGRAMS[chosen.child](chosen.port, chosen.id, chosen.qos, Meter(chosen.messages, not chosen.qos))
        os._exit(0)  # some clients would wait for their threads
    from underway.app.brokers import embedded_broker

    if shutil.which("mosquitto_sub") is None:
        raise SystemExit("mosquitto_sub is not installed; apt-get install mosquitto-clients")
    names = dict.fromkeys(["mosquitto_sub", *chosen.clients])
    with tempfile.TemporaryDirectory() as folder, embedded_broker(Path(folder), kind="mosquitto") as broker:
        rows = compare(broker.port, names, chosen.messages, chosen.repeats)
        version = broker.version
    if chosen.json:
        print(
            json.dumps({"broker": f"mosquitto {version}", "messages": chosen.messages, "repeats": chosen.repeats, "rows": rows}, indent=2)
        )
        return
    print(f"mosquitto {version}, {chosen.messages} messages of {len(payload(0))} bytes, median of {chosen.repeats}")
    print(f"{'client':<15}{'QoS':>4}{'messages/s':>12}{'ratio':>8}{'CPU us/message':>16}{'missing':>9}")
    for row in rows:
        print(
            f"{row['client']:<15}{row['qos']:>4}{row['messages_per_s']:>12,}{row['ratio']:>8.2f}"
            f"{row['cpu_us_per_message']:>16.2f}{row['missing']:>9}"
        )


if __name__ == "__main__":
    main()
