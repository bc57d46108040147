"""The Things Stack v3, MQTT integration: ``v3/{application}@{tenant}/devices/{device}/up`` (docs/dialects/thethings.md)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ingest.decoded import ADDRESS_CHARS_MAX, Announcement, Decoded, shown
from ingest.lorawan import (
    BATTERY,
    EUI_PATTERN,
    OBJECT_VALUES_MAX,
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
from underway.model import DAY_US, Fault, FaultReason

NAME = "thethings"
TOPIC_FILTERS = ("v3/+/devices/+/up", "v3/+/devices/+/join", "v3/+/devices/+/location/solved")
EVENTS = ("up", "join", "location/solved")
GATEWAY_AHEAD_US_MAX = 5_000_000
GATEWAY_BEHIND_US_MAX = DAY_US
"""A gateway's own time counts when it is this close to the network server's: some have no satellite, some keep frames for hours."""


def decode(topic: str, payload: bytes) -> Decoded:
    """Return what one message says; never raises.

    Parameters
    ----------
    topic : str
        ``v3/{application}@{tenant}/devices/{device}/up``, ``.../join`` or ``.../location/solved``.
    payload : bytes
        UTF-8 JSON, at most 256 kB.

    Returns
    -------
    Decoded
        ``device`` is the DevEUI in lower case; for a device without one ``{application}@{tenant}/{device}``. An ``up`` gives every number of
        ``decoded_payload`` (where that is missing, of ``normalized_payload``), and ``rssi`` and ``snr`` of the gateway that heard it best.
        What is ``simulated`` is history and suspect.

    Notes
    -----
    The JSON leaves out what is zero, false or empty: without ``f_cnt`` the counter is 0, but a value that is not there is none.

    Blind to what was published while we were not connected: the server speaks quality of service 0.

    Examples
    --------
    >>> message = (b'{"end_device_ids":{"dev_eui":"70B3D5499A1B2C3D"},"uplink_message":{"session_key_id":"AX==",'
    ...     b'"received_at":"1970-01-01T00:00:02Z","decoded_payload":{"level":2.5}}}')
    >>> got = decode("v3/town@ttn/devices/level-7/up", message)
    >>> got.device, got.channel, got.value, got.observed_us, got.counter
    ('70b3d5499a1b2c3d', ('level',), [2.5], [2000000], FrameCounter(session='AX==', counter=0))
    """
    address = _address(topic) if len(topic) <= ADDRESS_CHARS_MAX else None
    if address is None:
        message = (
            f"a topic must look like 'v3/{{application}}@{{tenant}}/devices/{{device}}/{{event}}' with an event of {', '.join(EVENTS)},"
            f" got {topic[:TOPIC_SHOWN_CHARS_MAX]!a}"
        )
        return Decoded(None, faults=(Fault(FaultReason.TOPIC_UNKNOWN, message),))
    by_topic, event = address
    uplink = Uplink(topic, by_topic)
    document = read_object(payload, uplink)
    if document is None:
        return uplink.decoded(None)
    ids = part(document, "end_device_ids")
    eui = ids.get("dev_eui")
    if eui is not None:
        if type(eui) is not str or EUI_PATTERN.fullmatch(eui) is None:
            uplink.fault(FaultReason.SCHEMA, f"'end_device_ids.dev_eui' must be 16 hexadecimal digits, got {shown(eui)}; nothing was taken")
            return uplink.decoded(None)
        uplink = Uplink(topic, eui.lower())
    simulated = document.get("simulated") is True
    message_of = part(document, _PART[event])
    if not message_of:
        uplink.fault(FaultReason.SCHEMA, f"a message must carry '{_PART[event]}', got an object of {len(document)} without it")
        return uplink.decoded(None)
    if event == "up":
        _up(document, message_of, ids, uplink, simulated)
    return uplink.decoded(_announcement(event, ids, message_of, uplink, simulated), simulated)


_PART = {"up": "uplink_message", "join": "join_accept", "location/solved": "location_solved"}


@lru_cache(maxsize=16_384)
def _address(topic: str) -> tuple[str, str] | None:
    parts = topic.split("/", 4)
    if len(parts) != 5 or parts[0] != "v3" or parts[2] != "devices" or not parts[1] or not parts[3] or parts[4] not in EVENTS:
        return None
    return f"{parts[1]}/{parts[3]}", parts[4]


def _up(document: dict[str, Any], message: dict[str, Any], ids: dict[str, Any], uplink: Uplink, simulated: bool) -> None:
    observed_us, problem = _observed_us(document, message)
    if problem is not None:
        uplink.fault(FaultReason.TIME_INVALID, f"{problem}; no value was taken")
        return
    if not simulated:  # a frame that nobody sent must not stand for one that somebody sends
        uplink.count(message.get("session_key_id") or ids.get("dev_addr"), message.get("f_cnt"), "f_cnt")
    _values(message, uplink, observed_us)
    rssi, snr = best_reception(message.get("rx_metadata"))
    uplink.add_health(RSSI, rssi, observed_us)
    uplink.add_health(SNR, snr, observed_us)
    battery = part(message, "last_battery_percentage")
    if battery and battery.get("f_cnt", 0) == message.get("f_cnt", 0):  # it comes again with every uplink: once is enough
        uplink.add_health(BATTERY, battery.get("value"), observed_us)


def _values(message: dict[str, Any], uplink: Uplink, observed_us: int | None) -> None:
    decoded, normalized = message.get("decoded_payload"), message.get("normalized_payload")
    size = base64_bytes(message.get("frm_payload"))
    taken = 0
    if type(decoded) is dict:
        taken = uplink.add_object(decoded, observed_us, "decoded_payload")
    elif decoded is not None:
        uplink.fault(FaultReason.SCHEMA, f"'decoded_payload' must be an object of values, got {shown(decoded)}")
        return
    elif normalized is not None:
        _normalized(normalized, uplink, observed_us)
        return
    elif size:
        uplink.fault(
            FaultReason.SCHEMA,
            f"an uplink must carry 'decoded_payload', got only 'frm_payload' of {size} bytes; configure a payload formatter in The Things Stack",
        )
        return
    warnings = message.get("decoded_payload_warnings")
    if size and not taken and type(warnings) is list and warnings:
        uplink.fault(
            FaultReason.SCHEMA, f"the payload formatter must return values, got none of {size} bytes and the warning {shown(warnings[0])}"
        )


def _normalized(normalized: object, uplink: Uplink, observed_us: int | None) -> None:
    """Add the measurements of a normalized payload; each may have its own time."""
    measurements = normalized if type(normalized) is list else [normalized]
    for number, measurement in enumerate(measurements[:OBJECT_VALUES_MAX], 1):
        if type(measurement) is not dict:
            uplink.fault(
                FaultReason.SCHEMA, f"'normalized_payload' must hold objects, got {shown(measurement)} as {number} of {len(measurements)}"
            )
            continue
        own = measurement.get("time")
        at_us = observed_us if own is None else instant_of(own)
        if own is not None and at_us is None:
            uplink.fault(
                FaultReason.TIME_INVALID,
                f"'normalized_payload.time' must be an RFC 3339 instant with zone, got {shown(own)}; it was not taken",
            )
            continue
        uplink.add_object({name: value for name, value in measurement.items() if name != "time"}, at_us, "normalized_payload")


def _observed_us(document: dict[str, Any], message: dict[str, Any]) -> tuple[int | None, str | None]:
    """Return when a frame was received at the gateway (None: not told), or what is wrong with the time that is told."""
    told = message.get("received_at")
    if told is None:
        told = document.get("received_at")
    received_us = None if told is None else instant_of(told)
    if told is not None and received_us is None:
        return None, f"'received_at' must be an RFC 3339 instant with zone, got {shown(told)}"
    gateway_us = instant_of(part(message, "settings").get("time"))
    if gateway_us is None or received_us is None:
        return received_us if gateway_us is None else gateway_us, None
    credible = -GATEWAY_AHEAD_US_MAX <= received_us - gateway_us <= GATEWAY_BEHIND_US_MAX
    return gateway_us if credible else received_us, None


def _announcement(event: str, ids: dict[str, Any], message: dict[str, Any], uplink: Uplink, simulated: bool) -> Announcement:
    version = part(message, "version_ids")
    told: list[tuple[str, object]] = [
        ("device", ids.get("device_id")),
        ("application", part(ids, "application_ids").get("application_id")),
        ("joinEui", ids.get("join_eui")),
    ]
    if event == "up":
        told += [("port", message.get("f_port")), ("firmware", version.get("firmware_version"))]
        warnings = message.get("decoded_payload_warnings")
        if type(warnings) is list and warnings:
            told.append(("warning", warnings[0]))
    elif event == "location/solved":
        place = part(message, "location")
        told += [(name, place.get(name)) for name in ("latitude", "longitude", "altitude", "accuracy")]
    if simulated:
        told.append(("simulated", True))
    model = " ".join(text for text in (version.get("brand_id"), version.get("model_id")) if type(text) is str)
    found = details(*told, tags=message.get("attributes"))
    return announce("join" if event == "join" else "uplink", uplink.announced, model, found)
