"""Devices that publish at a steady rate, keep what the broker has not acknowledged, and write down what they said."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from underway.model import Channel, Device, Quantity, Registry, Site, Zone, ZoneKind

DEVICES = 20
SITE = "town"


def registry() -> Registry:
    """Return the site whose devices these are."""
    since_at = datetime.now(UTC).replace(microsecond=0) - timedelta(days=60)
    names = [f"pr-{i}" for i in range(DEVICES)]
    return Registry(
        Site(SITE, "Town", "UTC", 0.0, 0.0),
        (Zone("z1", SITE, "Zone 1", ZoneKind.DMA),),
        (),
        tuple(Device(name, SITE, "z1", None, "m", "native", since_at) for name in names),
        tuple(Channel(0, name, "pressure", Quantity.PRESSURE, "kPa", None, "z1", "zone_pressure", 0.0, 1000.0, 300.0) for name in names),
    )


@dataclass(frozen=True, slots=True)
class Said:
    """One published reading; no two have the same device and time, and few the same value."""

    device: str
    at_ms: int
    value: float


class Devices:
    """All devices of the site, on one connection that comes back by itself.

    Parameters
    ----------
    port : int
        Of the broker on 127.0.0.1.
    per_s : float
        Readings a second, one a message, of all devices together.
    qos : int
        1; or 0, for what cannot be confirmed.
    """

    def __init__(self, port: int, per_s: float, qos: int = 1) -> None:
        self.said: list[Said] = []
        self._per_s, self._qos = per_s, qos
        self._confirmed = 0
        self._ends = threading.Event()
        self._pauses = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="devices", clean_session=False, protocol=MQTTProtocolVersion.MQTTv311)
        client.max_inflight_messages_set(1000)
        client.max_queued_messages_set(0)
        client.reconnect_delay_set(1, 2)
        client.on_publish = self._on_publish
        client.connect("127.0.0.1", port, keepalive=20)
        client.loop_start()
        self.client = client
        self._thread = threading.Thread(target=self._publish, name="devices", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def pause(self) -> None:
        self._pauses.set()

    def resume(self) -> None:
        self._pauses.clear()

    @property
    def unconfirmed(self) -> int:
        """Return how many the broker has not acknowledged."""
        return len(self.said) - self._confirmed

    def finish(self, seconds: float = 60.0) -> None:
        """Stop publishing, and wait until the broker has acknowledged everything."""
        self._ends.set()
        self._thread.join(10)
        end_s = time.monotonic() + seconds
        while self.unconfirmed:
            assert time.monotonic() < end_s, f"the broker did not acknowledge {self.unconfirmed} of {len(self.said)} messages"
            time.sleep(0.05)

    def close(self) -> None:
        self._ends.set()
        self.client.disconnect()
        self.client.loop_stop()

    def _on_publish(self, *_: object) -> None:
        self._confirmed += 1

    def _publish(self) -> None:
        due_s, last_ms, number = time.monotonic(), [0] * DEVICES, 0
        while not self._ends.is_set():
            if self._pauses.is_set():
                time.sleep(0.02)
                due_s = time.monotonic()
                continue
            index = number % DEVICES
            at_ms = last_ms[index] = max(time.time_ns() // 1_000_000, last_ms[index] + 1)
            # small steps that never repeat for a device: nothing that a detector calls a burst or a stuck sensor
            value = 300.0 + index / 10 + (number // DEVICES * 617 % 10_007) / 10_007
            said = Said(f"pr-{index}", at_ms, value)
            payload = json.dumps({"at": at_ms, "values": {"pressure": value}}).encode()
            self.said.append(said)
            self.client.publish(f"uw/{SITE}/{said.device}/telemetry", payload, qos=self._qos)  # kept by the client until it is acknowledged
            number += 1
            due_s += 1 / self._per_s
            time.sleep(max(0.0, due_s - time.monotonic()))
