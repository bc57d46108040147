"""Readings as devices of each dialect send them: (topic, payload) pairs, made before anything is measured."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from ingest.sparkplug_schema import DataType, Payload
from underway.app.bench.town import CHANNELS_A_RTU, RTUS_AN_EDGE, Rounds, Town, rtu_address, text_of
from underway.app.bench.wire import varint
from underway.model import CANONICAL_UNIT, Quantity

Messages = list[tuple[bytes, bytes]]
PA_A_KPA = 1000.0
M3PS_A_M3PH = 1.0 / 3600.0
SEQ_MODULUS = 256


def native_messages(town: Town, rounds: Rounds) -> Messages:
    """Return one message a reading: JSON of about 80 bytes with the time as text and the unit."""
    heads = []
    for channel in town.registry.channels:
        topic = f"uw/{town.registry.site.site_id}/{channel.device_id}/telemetry".encode()
        heads.append((topic, f'","values":{{"{channel.name}":', f'}},"units":{{"{channel.name}":"{channel.device_unit}"}}}}'))
    text = {us: text_of(us) for us in np.unique(rounds.at_us).tolist()}
    found: Messages = []
    for index, at_us, value in zip(rounds.index.tolist(), rounds.at_us.tolist(), rounds.value.tolist(), strict=True):
        topic, middle, end = heads[index]
        found.append((topic, f'{{"at":"{text[at_us]}{middle}{value!r}{end}'.encode()))
    return found


def _packs(town: Town, rounds: Rounds) -> Iterator[tuple[int, int, list[int], list[float]]]:
    """Yield (RTU, instant, channels, values) of each pack: all channels of an RTU at one time."""
    for start in range(0, len(rounds), CHANNELS_A_RTU):
        part = slice(start, start + CHANNELS_A_RTU)
        index = rounds.index[part].tolist()
        yield index[0] // CHANNELS_A_RTU, int(rounds.at_us[start]), index, rounds.value[part].tolist()


def senml_messages(town: Town, rounds: Rounds) -> Messages:
    """Return one SenML JSON pack of 100 records a pack, in the units of RFC 8428."""
    names = [(c.name, c.quantity is Quantity.FLOW) for c in town.registry.channels]
    site_id = town.registry.site.site_id
    found: Messages = []
    for rtu, at_us, index, values in _packs(town, rounds):
        records: list[dict[str, Any]] = []
        for i, value in zip(index, values, strict=True):
            name, is_flow = names[i]
            records.append({"n": name, "u": "m3/s", "v": value * M3PS_A_M3PH} if is_flow else {"n": name, "u": "Pa", "v": value * PA_A_KPA})
        records[0] = {"bt": at_us // 1_000_000, **records[0]}
        found.append((f"senml/{rtu_address(site_id, 'senml', rtu)}".encode(), json.dumps(records, separators=(",", ":")).encode()))
    return found


class SparkplugFleet:
    """Edge nodes with five RTUs each; keeps the sequence number of every node.

    Parameters
    ----------
    town : Town
        Of RTUs with the dialect ``sparkplug``.
    """

    def __init__(self, town: Town) -> None:
        self._town = town
        self._site_id = town.registry.site.site_id
        self._rtus = town.size // CHANNELS_A_RTU
        self._seq = [0] * ((self._rtus + RTUS_AN_EDGE - 1) // RTUS_AN_EDGE)
        self._births = 0
        # tag of the alias, of the timestamp and of the double value stand in every metric at the same place
        self._alias = [b"\x10" + varint(_alias(i)) for i in range(town.size)]

    def births(self, rounds: Rounds) -> Messages:
        """Return the births of all nodes and devices; the values in them are those of `rounds`, which is one round."""
        self._births += 1
        at_ms = int(rounds.at_us[0]) // 1000
        found: Messages = []
        by_rtu = {rtu: (index, values) for rtu, _, index, values in _packs(self._town, rounds)}
        for node in range(len(self._seq)):
            payload = Payload(timestamp=at_ms, seq=0)
            payload.metrics.add(name="bdSeq", timestamp=at_ms, datatype=int(DataType.INT64), long_value=self._births % SEQ_MODULUS)
            payload.metrics.add(name="Node Control/Rebirth", timestamp=at_ms, datatype=int(DataType.BOOLEAN), boolean_value=False)
            found.append((f"spBv1.0/{self._site_id}/NBIRTH/edge-{node}".encode(), payload.SerializeToString()))
            self._seq[node] = 1
            for rtu in range(node * RTUS_AN_EDGE, min((node + 1) * RTUS_AN_EDGE, self._rtus)):
                payload = Payload(timestamp=at_ms, seq=self._next(node))
                for i, value in zip(*by_rtu[rtu], strict=True):
                    channel = self._town.registry.channels[i]
                    metric = payload.metrics.add(name=channel.name, alias=_alias(i), timestamp=at_ms, datatype=int(DataType.DOUBLE))
                    metric.double_value = value
                    unit = metric.properties
                    unit.keys.append("engUnit")
                    unit.values.add(type=int(DataType.STRING), string_value=CANONICAL_UNIT[channel.quantity])
                found.append((self._topic("DBIRTH", rtu), payload.SerializeToString()))
        return found

    def data(self, rounds: Rounds) -> Messages:
        """Return one DDATA of 100 aliased metrics a pack."""
        found: Messages = []
        for rtu, at_us, index, values in _packs(self._town, rounds):
            stamp = b"\x18" + varint(at_us // 1000)
            metrics = []
            for i, value in zip(index, values, strict=True):
                body = self._alias[i] + stamp + b"\x69" + struct.pack("<d", value)
                metrics.append(b"\x12" + varint(len(body)) + body)
            head = b"\x08" + varint(at_us // 1000)
            tail = b"\x18" + varint(self._next(rtu // RTUS_AN_EDGE))
            found.append((self._topic("DDATA", rtu), head + b"".join(metrics) + tail))
        return found

    def _next(self, node: int) -> int:
        seq = self._seq[node]
        self._seq[node] = (seq + 1) % SEQ_MODULUS
        return seq

    def _topic(self, kind: str, rtu: int) -> bytes:
        return f"spBv1.0/{self._site_id}/{kind}/edge-{rtu // RTUS_AN_EDGE}/rtu-{rtu:03d}".encode()


def _alias(index: int) -> int:
    """Return the alias of a channel: unique in its edge node."""
    return index % (CHANNELS_A_RTU * RTUS_AN_EDGE) + 1
