"""ChirpStack v4, JSON integration: ``application/{application}/device/{DevEUI}/event/{event}`` (docs/dialects/chirpstack.md)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ingest.decoded import Announcement, Decoded, shown
from ingest.lorawan import (
    BATTERY,
    EUI_PATTERN,
    MARGIN,
    RSSI,
    SNR,
    Uplink,
    announce,
    base64_bytes,
    best_reception,
    details,
    part,
    read_object,
)
from ingest.parts import TOPIC_SHOWN_CHARS_MAX, instant_of
from underway.model import Fault, FaultReason

NAME = "chirpstack"
TOPIC_FILTERS = ("application/+/device/+/event/+",)
TOPIC_CHARS_MAX = 200
LOG_CHARS_MAX = 200
EVENTS = ("up", "status", "join", "ack", "txack", "log", "location", "integration")


def decode(topic: str, payload: bytes) -> Decoded:
    """Return what one event says; never raises.

    Parameters
    ----------
    topic : str
        ``application/{application}/device/{DevEUI}/event/{event}``.
    payload : bytes
        UTF-8 JSON as ChirpStack's JSON marshaler writes it, at most 256 kB.

    Returns
    -------
    Decoded
        ``device`` is the DevEUI in lower case. An ``up`` gives every number of ``object``, and ``rssi`` and ``snr`` of the gateway that heard it
        best; a ``status`` gives ``batteryLevel`` and ``margin``; every event announces the device. ``observed_us`` is ``time``.

    Notes
    -----
    The JSON leaves out what is zero, false or empty: without ``fCnt`` the counter is 0, but a value that is not there is none.

    Blind to the bytes of a frame: without a codec in the device profile there is no ``object``, which is a fault. A codec that leaves zeros out
    is not noticed.

    Examples
    --------
    >>> event = (b'{"time":"1970-01-01T00:00:02Z","deviceInfo":{"devEui":"70B3D5499A1B2C3D"},"devAddr":"01ab","fCnt":7,'
    ...     b'"object":{"tank":{"level":2.5}}}')
    >>> got = decode("application/a/device/70b3d5499a1b2c3d/event/up", event)
    >>> got.device, got.channel, got.value, got.observed_us, got.counter
    ('70b3d5499a1b2c3d', ('tank.level',), [2.5], [2000000], FrameCounter(session='01ab', counter=7))
    """
    address = _address(topic) if len(topic) <= TOPIC_CHARS_MAX else None
    if address is None:
        shape = f"'application/{{application}}/device/{{DevEUI}}/event/{{event}}' with an event of {', '.join(EVENTS)}"
        message = f"a topic must look like {shape}, got {topic[:TOPIC_SHOWN_CHARS_MAX]!a}"
        return Decoded(None, faults=(Fault(FaultReason.TOPIC_UNKNOWN, message),))
    device, event = address
    uplink = Uplink(topic, device)
    document = read_object(payload, uplink)
    if document is None:
        return uplink.decoded(None)
    info = part(document, "deviceInfo")
    said = info.get("devEui")
    if type(said) is not str or said.lower() != device:
        uplink.fault(FaultReason.SCHEMA, f"'deviceInfo.devEui' must be the DevEUI of the topic, got {shown(said)}; nothing was taken")
        return uplink.decoded(None)
    at = document.get("time")
    observed_us = None if at is None else instant_of(at)
    if at is not None and observed_us is None:
        uplink.fault(FaultReason.TIME_INVALID, f"'time' must be an RFC 3339 instant with zone, got {shown(at)}; no value was taken")
    elif event == "up":
        _up(document, uplink, observed_us)
    elif event == "status":
        _status(document, uplink, observed_us)
    elif event == "log" and document.get("level") == "ERROR":
        said = ascii(str(document.get("description", ""))[:LOG_CHARS_MAX])
        uplink.fault(FaultReason.SCHEMA, f"ChirpStack must have no error in the log of a device, got {shown(document.get('code'))}: {said}")
    return uplink.decoded(_announcement(event, info, document, uplink))


@lru_cache(maxsize=16_384)
def _address(topic: str) -> tuple[str, str] | None:
    parts = topic.split("/", 6)
    if len(parts) != 6 or (parts[0], parts[2], parts[4]) != ("application", "device", "event") or not parts[1]:
        return None
    if EUI_PATTERN.fullmatch(parts[3]) is None or parts[5] not in EVENTS:
        return None
    return parts[3].lower(), parts[5]


def _up(document: dict[str, Any], uplink: Uplink, observed_us: int | None) -> None:
    uplink.count(document.get("devAddr"), document.get("fCnt"), "fCnt")
    decoded = document.get("object")
    if type(decoded) is dict:
        uplink.add_object(decoded, observed_us, "object")
    elif decoded is not None:
        uplink.fault(FaultReason.SCHEMA, f"'object' must be an object of values, got {shown(decoded)}")
    elif size := base64_bytes(document.get("data")):
        uplink.fault(
            FaultReason.SCHEMA,
            f"an uplink must carry the decoded 'object', got only 'data' of {size} bytes; configure a codec in the device profile of ChirpStack",
        )
    rssi, snr = best_reception(document.get("rxInfo"))
    uplink.add_health(RSSI, rssi, observed_us)
    uplink.add_health(SNR, snr, observed_us)


def _status(document: dict[str, Any], uplink: Uplink, observed_us: int | None) -> None:
    if document.get("batteryLevelUnavailable") is not True and document.get("externalPowerSource") is not True:
        uplink.add_health(BATTERY, document.get("batteryLevel"), observed_us)
    uplink.add_health(MARGIN, document.get("margin"), observed_us)


def _announcement(event: str, info: dict[str, Any], document: dict[str, Any], uplink: Uplink) -> Announcement:
    told: list[tuple[str, object]] = [
        ("name", info.get("deviceName")),
        ("application", info.get("applicationName")),
        ("tenant", info.get("tenantName")),
    ]
    if event == "up":
        told.append(("port", document.get("fPort")))
    elif event == "location":
        place = part(document, "location")
        told += [(name, place.get(name)) for name in ("latitude", "longitude", "altitude", "accuracy")]
    elif event != "status":
        told += [("event", event), ("devAddr", document.get("devAddr"))]
    found = details(*told, tags=info.get("tags"))
    return announce("join" if event == "join" else "uplink", uplink.announced, info.get("deviceProfileName"), found)
