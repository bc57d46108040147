"""Sparkplug B messages for tests, written byte by byte after the wire format of protobuf: a second opinion on `ingest.sparkplug_schema`.

``python tests/sparkplug_builder.py`` writes the golden payloads; ``python tests/contract/dialect_cases.py sparkplug`` then what comes of them.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "data" / "payloads" / "sparkplug"
INT16, INT32, INT64, UINT16, FLOAT, DOUBLE, BOOLEAN, STRING, DATETIME, DATASET, BYTES, TEMPLATE = 2, 3, 4, 6, 9, 10, 11, 12, 13, 16, 17, 19
AT_MS = 1_795_310_400_000
"""2026-11-22T01:20:00Z."""
Value = int | float | bool | str | bytes


def varint(number: int) -> bytes:
    number %= 1 << 64
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def field(number: int, value: Value, wire: str = "") -> bytes:
    """Return one field; `wire` is "float" or "double" for these, all others follow from the value."""
    if wire in ("float", "double"):
        return varint(number << 3 | (5 if wire == "float" else 1)) + struct.pack("<f" if wire == "float" else "<d", value)
    if isinstance(value, (str, bytes)):
        encoded = value.encode() if isinstance(value, str) else value
        return varint(number << 3 | 2) + varint(len(encoded)) + encoded
    return varint(number << 3) + varint(int(value))


def properties(values: Mapping[str, Value]) -> bytes:
    """Return a PropertySet: integers as Int32, texts as String, numbers as Double."""
    keys = b"".join(field(1, key) for key in values)
    written = b""
    for value in values.values():
        if isinstance(value, str):
            told = field(1, STRING) + field(8, value)
        elif isinstance(value, float):
            told = field(1, DOUBLE) + field(6, value, "double")
        else:
            told = field(1, INT32) + field(3, value)
        written += field(2, told)
    return keys + written


def metric(
    name: str | bytes = "",
    alias: int | None = None,
    at_ms: int | None = None,
    datatype: int | None = None,
    *,
    historical: bool | None = None,
    null: bool | None = None,
    told: Mapping[str, Value] | None = None,
    int_value: int | None = None,
    long_value: int | None = None,
    float_value: float | None = None,
    double_value: float | None = None,
    boolean_value: bool | None = None,
    string_value: str | None = None,
    bytes_value: bytes | None = None,
    dataset_value: bytes | None = None,
) -> bytes:
    written = b""
    for number, value in ((1, name or None), (2, alias), (3, at_ms), (4, datatype), (5, historical), (7, null)):
        if value is not None:
            written += field(number, value)
    if told is not None:
        written += field(9, properties(told))
    for number, value, wire in (
        (10, int_value, ""),
        (11, long_value, ""),
        (12, float_value, "float"),
        (13, double_value, "double"),
        (14, boolean_value, ""),
        (15, string_value, ""),
        (16, bytes_value, ""),
        (17, dataset_value, ""),
    ):
        if value is not None:
            written += field(number, value, wire)
    return written


def payload(metrics: Sequence[bytes] = (), at_ms: int | None = AT_MS, seq: int | None = None, uuid: str = "", body: bytes = b"") -> bytes:
    written = b"" if at_ms is None else field(1, at_ms)
    for one in metrics:
        written += field(2, one)
    if seq is not None:
        written += field(3, seq)
    if uuid:
        written += field(4, uuid)
    if body:
        written += field(5, body)
    return written


def compressed(packed: bytes, algorithm: str) -> bytes:
    return payload([metric("algorithm", datatype=STRING, string_value=algorithm)], None, uuid="SPBV1.0_COMPRESSED", body=packed)


def node_birth(bd_seq: int | None = 3, seq: int | None = 0, at_ms: int = AT_MS, metrics: Sequence[bytes] = ()) -> bytes:
    first = [] if bd_seq is None else [metric("bdSeq", at_ms=at_ms, datatype=INT64, long_value=bd_seq)]
    rebirth = metric("Node Control/Rebirth", at_ms=at_ms, datatype=BOOLEAN, boolean_value=False)
    return payload([*first, rebirth, *metrics], at_ms, seq)


def node_death(bd_seq: int | None = 3, at_ms: int = AT_MS) -> bytes:
    return payload([] if bd_seq is None else [metric("bdSeq", at_ms=at_ms, datatype=INT64, long_value=bd_seq)], at_ms)


INLET = (
    metric("Flow/m3h", 2, AT_MS - 1000, DOUBLE, double_value=41.5),
    metric("Pressure/bar", 3, AT_MS - 1000, FLOAT, float_value=3.5),
    metric("Temperature", 4, AT_MS - 1000, INT16, told={"engUnit": "Cel"}, int_value=8),
    metric("Door open", 5, AT_MS - 1000, BOOLEAN, boolean_value=False),
    metric("Totaliser/m3", 6, AT_MS - 1000, INT64, long_value=182_233),
    metric("Firmware", 7, AT_MS - 1000, STRING, string_value="2.4.1"),
    metric("Last calibration", 8, AT_MS - 1000, DATETIME, long_value=1_780_000_000_000),
)


def device_birth(seq: int | None = 1, at_ms: int = AT_MS, metrics: Sequence[bytes] = INLET) -> bytes:
    return payload(metrics, at_ms, seq)


N, D = "spBv1.0/north/{}/rtu-017", "spBv1.0/north/{}/rtu-017/dma-04-inlet"


def cases() -> dict[str, tuple[str, bytes]]:
    """Return the golden payloads: name -> (topic, payload)."""
    data, quality = D.format("DDATA"), {"Quality": 500}
    return {
        "node-birth": (
            N.format("NBIRTH"),
            node_birth(
                metrics=[
                    metric("Properties/Hardware Model", at_ms=AT_MS, datatype=STRING, string_value="RTU 17"),
                    metric("Battery/V", 1, AT_MS, FLOAT, float_value=3.625),
                ]
            ),
        ),
        "node-birth-seq-not-zero": (
            N.format("NBIRTH"),
            node_birth(seq=7, metrics=[metric("Battery/V", 1, AT_MS, FLOAT, float_value=3.625)]),
        ),
        "node-birth-no-bdseq": (N.format("NBIRTH"), node_birth(bd_seq=None)),
        "node-death": (N.format("NDEATH"), node_death()),
        "device-birth": (D.format("DBIRTH"), device_birth()),
        "device-death": (D.format("DDEATH"), payload(seq=9)),
        "alias-data": (
            data,
            payload([metric(alias=2, at_ms=AT_MS, double_value=41.75), metric(alias=3, at_ms=AT_MS, double_value=3.5)], seq=37),
        ),
        "alias-floats": (data, payload([metric(alias=3, at_ms=AT_MS, float_value=3.5), metric(alias=2, double_value=41.75)], seq=38)),
        "named-data": (data, payload([metric("Flow/m3h", at_ms=AT_MS, datatype=DOUBLE, double_value=41.75)], seq=255)),
        "history-quality-and-integers": (
            data,
            payload(
                [
                    metric(alias=2, at_ms=AT_MS - 3_600_000, historical=True, double_value=40.5),
                    metric(alias=2, at_ms=AT_MS - 200, double_value=41.75),
                    metric(alias=3, at_ms=AT_MS - 200, told=quality, double_value=3.5),
                    metric(alias=4, at_ms=AT_MS - 200, int_value=2**32 - 4),
                    metric(alias=6, at_ms=AT_MS - 200, long_value=182_234),
                ],
                seq=39,
            ),
        ),
        "quality-bad": (data, payload([metric(alias=3, at_ms=AT_MS, told={"Quality": 0, "engUnit": "mbar"}, float_value=0.0)], seq=40)),
        "quality-good-and-other": (
            data,
            payload(
                [metric(alias=3, told={"Quality": 192}, float_value=3.5), metric(alias=2, told={"Quality": 64}, float_value=41.5)], seq=40
            ),
        ),
        "null": (data, payload([metric(alias=2, at_ms=AT_MS, datatype=DOUBLE, null=True), metric(alias=3, float_value=3.5)], seq=41)),
        "negative-int16": (data, payload([metric("Temperature", at_ms=AT_MS, datatype=INT16, int_value=2**32 - 41)], seq=42)),
        "int16-beyond": (
            data,
            payload([metric("Temperature", at_ms=AT_MS, datatype=INT16, int_value=70_000), metric("Level/m", double_value=2.5)], seq=42),
        ),
        "texts-and-sets": (
            data,
            payload(
                [metric(alias=7, datatype=STRING, string_value="2.4.2"), metric("Log", datatype=DATASET, dataset_value=b"\x08\x01")], seq=43
            ),
        ),
        "no-timestamps": (data, payload([metric("Flow/m3h", datatype=DOUBLE, double_value=41.75)], None, 44)),
        "bad-metric-among-good": (
            data,
            payload(
                [
                    metric(b"\xff\xfe", at_ms=AT_MS, double_value=1.0),
                    metric("Flow/m3h", at_ms=AT_MS, double_value=float("nan")),
                    metric("Level/m", at_ms=2**63, double_value=1.0),
                    metric("Empty", at_ms=AT_MS),
                    metric(at_ms=AT_MS, double_value=1.0),
                    metric("Pressure/bar", at_ms=AT_MS, double_value=3.5),
                ],
                seq=45,
            ),
        ),
        "seq-beyond": (data, payload([metric("Flow/m3h", at_ms=AT_MS, double_value=41.75)], seq=256)),
        "compressed-gzip": (data, compressed(gzip.compress(payload([metric(alias=2, double_value=41.75)], seq=46), mtime=0), "GZIP")),
        "compressed-deflate": (data, compressed(zlib.compress(payload([metric(alias=2, double_value=41.75)], seq=46)), "DEFLATE")),
        "compressed-bomb": (data, compressed(gzip.compress(bytes(2_000_000), mtime=0), "GZIP")),
        "compressed-cut-off": (data, compressed(zlib.compress(payload([metric(alias=2, double_value=41.75)], seq=46))[:-5], "DEFLATE")),
        "compressed-unknown": (data, compressed(b"BZh9", "BZIP2")),
        "compressed-twice": (data, compressed(zlib.compress(compressed(zlib.compress(b""), "DEFLATE")), "DEFLATE")),
        "not-protobuf": (data, b'{"timestamp":1795310400000}'),
        "command": (N.format("NCMD"), payload([metric("Node Control/Rebirth", at_ms=AT_MS, datatype=BOOLEAN, boolean_value=True)])),
        "state-online": ("spBv1.0/STATE/underway", b'{"online":true,"timestamp":1795310400000}'),
        "state-offline": ("spBv1.0/STATE/scada-1", b'{"online":false,"timestamp":1795310400000}'),
        "state-of-an-older-version": ("spBv1.0/STATE/scada-1", b"ONLINE"),
        "other-topic": ("spBv1.0/north/DDATA/rtu-017", payload(seq=1)),
    }


def write() -> None:
    for name, (topic, message) in cases().items():
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "topic.txt").write_text(topic + "\n", encoding="utf-8")
        (folder / "payload.bin").write_bytes(message)


if __name__ == "__main__":
    write()
