"""Every dialect decodes every golden payload, agrees with its page, keeps the laws, and never raises."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import tracemalloc
import types
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from dialect_cases import PAGES, ROOT, Example, case_folders, check_laws, examples, plain, read_case, registrations, table_rows, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.decoded import PAYLOAD_BYTES_MAX
from ingest.dialects import DIALECTS, Dialect, decode, dialect_of
from underway.app.devices_fields import normal_address
from underway.model import FaultReason, to_us

TOPIC = "uw/north/pr-113/telemetry"
BY_NAME = {d.name: d for d in DIALECTS}
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
PLAUSIBLE = {d.name: sorted({read_case(path)[0] for path in case_folders(d.name)}) for d in DIALECTS}
GOLDEN = {d.name: [read_case(path) for path in case_folders(d.name)] for d in DIALECTS}
SPOKEN = {d.name: sorted({topic for topic, payload in GOLDEN[d.name] if len(d.decode(topic, payload))}) for d in DIALECTS}
"""Topics on which a golden payload gives samples."""


def cases() -> list[Any]:
    return [pytest.param(path, id=f"{d.name}/{path.name}") for d in DIALECTS for path in case_folders(d.name)]


# golden payloads


@pytest.mark.parametrize("path", cases())
def test_dialect_golden_payload_decodes_as_expected(path: Path) -> None:
    topic, payload = read_case(path)
    name, decoded = decode(topic, payload)
    assert plain(decoded) == json.loads((path / "expected.json").read_text(encoding="utf-8"))
    check_laws(BY_NAME[path.parent.name].decode, topic, payload)
    assert name in (path.parent.name, "none")


@each_dialect
def test_dialect_has_golden_payloads_of_all_kinds(dialect: Dialect) -> None:
    decoded = [dialect.decode(topic, payload) for topic, payload in GOLDEN[dialect.name]]
    assert any((len(d) or d.more is not None) and not d.faults for d in decoded), "one that is all good"
    assert any((len(d) or d.more is not None) and d.faults for d in decoded), "one that is half good"
    assert any(d.faults and not len(d) for d in decoded), "one of which nothing can be taken"


# arbitrary input

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@each_dialect
@given(topic=st.text(max_size=300), payload=st.binary(max_size=300))
def test_dialect_any_bytes_on_any_topic_keep_the_laws(dialect: Dialect, topic: str, payload: bytes) -> None:
    check_laws(dialect.decode, topic, payload)


@each_dialect
@given(data=st.data())
def test_dialect_any_bytes_on_its_topics_keep_the_laws(dialect: Dialect, data: st.DataObject) -> None:
    check_laws(dialect.decode, data.draw(st.sampled_from(PLAUSIBLE[dialect.name])), data.draw(st.binary(max_size=300)))


@each_dialect
@given(data=st.data(), document=JSON)
def test_dialect_any_json_on_its_topics_keeps_the_laws(dialect: Dialect, data: st.DataObject, document: Any) -> None:
    topic = data.draw(st.sampled_from(PLAUSIBLE[dialect.name]))
    check_laws(dialect.decode, topic, json.dumps(document).encode())


@each_dialect
@given(data=st.data())
def test_dialect_any_part_of_its_topic_replaced_keeps_the_laws(dialect: Dialect, data: st.DataObject) -> None:
    topic, payload = data.draw(st.sampled_from(GOLDEN[dialect.name]))
    levels = topic.split("/")
    levels[data.draw(st.integers(0, len(levels) - 1))] = data.draw(st.text(max_size=300))
    check_laws(dialect.decode, "/".join(levels), payload)


@each_dialect
@given(data=st.data())
def test_dialect_golden_payload_with_any_bytes_changed_keeps_the_laws(dialect: Dialect, data: st.DataObject) -> None:
    topic, payload = data.draw(st.sampled_from(GOLDEN[dialect.name]))
    begin = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(begin, min(len(payload), begin + 16)))
    check_laws(dialect.decode, topic, payload[:begin] + data.draw(st.binary(max_size=16)) + payload[end:])


def json_of(payload: bytes) -> Any:
    try:
        document = json.loads(payload.decode())
    except ValueError:
        return None
    return document if isinstance(document, (dict, list)) else None


DOCUMENTS = {
    name: [(topic, document) for topic, payload in golden if (document := json_of(payload)) is not None] for name, golden in GOLDEN.items()
}


@pytest.mark.parametrize("dialect", [d for d in DIALECTS if DOCUMENTS[d.name]], ids=lambda d: d.name)
@given(data=st.data(), leaf=JSON)
def test_dialect_golden_json_with_any_value_replaced_keeps_the_laws(dialect: Dialect, data: st.DataObject, leaf: Any) -> None:
    topic, document = data.draw(st.sampled_from(DOCUMENTS[dialect.name]))
    check_laws(dialect.decode, topic, json.dumps(replaced(document, data, leaf)).encode())


def replaced(document: Any, data: st.DataObject, leaf: Any) -> Any:
    """Return `document` with one value somewhere in it exchanged for `leaf`."""
    keys = list(document) if isinstance(document, dict) else list(range(len(document))) if isinstance(document, list) else []
    if not keys or data.draw(st.integers(0, 4)) == 0:
        return leaf
    key = data.draw(st.sampled_from(keys))
    copy = document.copy()
    copy[key] = replaced(document[key], data, leaf)
    return copy


# what somebody sends who means harm

HOSTILE = {
    "deep-array": b"[" * 100_000,
    "deep-object": b'{"a":' * 50_000,
    "deep-value": b'{"at":1,"values":{"a":' + b"[" * 900 + b"]" * 900 + b"}}",
    "deep-in-pack": b'[{"n":"a","v":' + b"[" * 100_000,
    "long-integer": b"9" * 10_000,
    "long-instant": b'{"at":' + b"9" * 400 + b"}",
    "long-number-in-pack": b'[{"n":"a","v":' + b"9" * 200_000 + b"}]",
    "wide-array": b"[" + b"1," * 130_000 + b"1]",
    "wide-pack": b"[" + b"{}," * 80_000 + b"{}]",
    "wide-object": b"{" + b",".join(b'"%d":0' % i for i in range(25_000)) + b"}",
    "many-samples": b"[" + b'{"v":1},' * 30_000 + b'{"v":1}]',
    "cbor-deep-array": b"\x81" * 260_000,
    "cbor-deep-map": b"\xa1\x00" * 130_000,
    "cbor-deep-tags": b"\xc1" * 260_000,
    "cbor-endless": b"\x9f" * 260_000,
    "cbor-huge-array": b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
    "cbor-huge-map": b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
    "cbor-huge-text": b"\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",
    "cbor-huge-bytes": b"\x81\xa1\x00\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
    "cbor-huge-fraction": b"\x81\xa2\x00\x61a\x02\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",
    "cbor-huge-bigfloat": b"\x81\xa2\x00\x61a\x02\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",
    "cbor-bignum": b"\x81\xa2\x00\x61a\x02\xc2\x59\x80\x00" + b"\xff" * 0x8000,
    "cbor-cycle": b"\xd8\x1c\x81\xd8\x1d\x00",
    "cbor-regex": b"\x81\xa2\x00\x61a\x02\xd8\x23\x66(a+)+$",
    "cbor-wide-pack": b"\x99\xff\xff" + b"\xa0" * 65_535,
    "protobuf-million-metrics": b"\x12\x00" * 130_000,
    "protobuf-deep-groups": b"\x0b" * 260_000,
    "protobuf-long-varint": b"\x08" + b"\xff" * 100_000,
    "gzip-bomb": gzip.compress(b" " * 50_000_000),
    "deflate-bomb": zlib.compress(b" " * 50_000_000),
}
MEMORY_BYTES_MAX = 100_000_000


@each_dialect
@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_dialect_hostile_payload_keeps_the_laws_and_costs_bounded_memory(dialect: Dialect, payload: bytes) -> None:
    assert len(payload) <= PAYLOAD_BYTES_MAX
    for topic in SPOKEN[dialect.name][:2]:
        tracemalloc.start()
        try:
            dialect.decode(topic, payload)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MEMORY_BYTES_MAX
        check_laws(dialect.decode, topic, payload)


@each_dialect
def test_dialect_payload_above_the_limit_is_refused(dialect: Dialect) -> None:
    tried = 0
    for topic, payload in GOLDEN[dialect.name]:
        if not len(dialect.decode(topic, payload)):
            continue
        tried += 1
        decoded = check_laws(dialect.decode, topic, payload + b" " * PAYLOAD_BYTES_MAX)
        assert not len(decoded)
        assert [fault.reason for fault in decoded.faults] == [FaultReason.PAYLOAD_TOO_LARGE]
    assert tried


# pages


def page_of(dialect: Dialect) -> str:
    path = PAGES / f"{dialect.name}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def page_examples() -> list[Any]:
    found = []
    for dialect in DIALECTS:
        shown = list(examples(page_of(dialect)))
        found += [pytest.param(dialect, example, id=f"{dialect.name}-{number}") for number, example in enumerate(shown, 1)]
    return found


@pytest.mark.parametrize(("dialect", "example"), page_examples())
def test_page_payload_gives_the_readings_that_the_page_shows(dialect: Dialect, example: Example) -> None:
    assert dialect_of(example.topic) is dialect
    decoded = check_laws(dialect.decode, example.topic, example.payload)
    assert decoded.device == example.device
    assert table_rows(decoded) == example.rows
    page = page_of(dialect)
    for fault in decoded.faults:
        assert fault.message in page


@each_dialect
def test_page_shows_readings_and_a_command_to_try(dialect: Dialect) -> None:
    page = page_of(dialect)
    assert any(example.rows for example in examples(page)), "docs/dialects/README.md says how an example is written"
    assert list(commands(page)), "a page must hold a mosquitto_pub line"
    assert f"]({dialect.name}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")


SITE = {"site_id": "north", "name": "North Water", "timezone": "Europe/Berlin", "latitude": 52.52, "longitude": 13.40}
QOS = {"sparkplug": ("0", "1"), "thethings": ("0", "1")}
"""The quality of service that devices of a dialect use; 1 for all others."""


PASTED_AT = datetime(2026, 3, 1, 2, 15, tzinfo=UTC)
SHELL = {"'$(date -u +%FT%TZ)'": "2026-03-01T02:15:00Z", "'$(date +%s)'": str(int(PASTED_AT.timestamp()))}
"""What a shell puts in place of the time, as if a line were pasted then."""


def commands(page: str) -> list[tuple[dict[str, str], bytes | None]]:
    """Return the options of every mosquitto_pub line in a shell block, and the payload where the line holds it."""
    found = []
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", page, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if "mosquitto_pub" not in line:
                continue
            for written, value in SHELL.items():
                line = line.replace(written, value)
            words = shlex.split(line.removeprefix("$ "))
            at = words.index("mosquitto_pub")
            options = {words[i]: words[i + 1] if i + 1 < len(words) else "" for i in range(at + 1, len(words)) if words[i].startswith("-")}
            payload = options["-m"].encode() if "-m" in options else None
            if words[at - 1 : at] == ["|"]:
                assert words[:2] == ["printf", "%s"], "bytes come from printf '%s' TEXT | xxd -r -p | or printf '%s' TEXT | base64 -d |"
                assert "-s" in options
                unpack = words[4:at]
                assert unpack in (["xxd", "-r", "-p", "|"], ["base64", "-d", "|"])
                payload = bytes.fromhex(words[2]) if unpack[0] == "xxd" else msgspec.convert(words[2], bytes)
            found.append((options, payload))
    return found


def page_commands() -> list[Any]:
    return [
        pytest.param(dialect, options, payload, id=f"{dialect.name}-{number}")
        for dialect in DIALECTS
        for number, (options, payload) in enumerate(commands(page_of(dialect)), 1)
    ]


@pytest.mark.parametrize(("dialect", "options", "payload"), page_commands())
def test_page_command_publishes_what_its_dialect_understands(dialect: Dialect, options: dict[str, str], payload: bytes | None) -> None:
    assert dialect_of(options["-t"]) is dialect
    assert options["-q"] in QOS.get(dialect.name, ("1",))
    assert payload is not None or "-f" in options
    if payload is not None:
        decoded = check_laws(dialect.decode, options["-t"], payload)
        assert len(decoded) or decoded.announcement is not None or decoded.more is not None
        assert not decoded.faults
        for us, from_reception in zip(decoded.observed_us, whole(decoded.from_reception, decoded), strict=True):
            assert from_reception or us == to_us(PASTED_AT), "a line must work on any day: $(date -u +%FT%TZ), or no time"


@each_dialect
def test_page_registers_the_devices_and_channels_that_its_commands_speak_of(dialect: Dialect) -> None:
    page = page_of(dialect)
    ((name, text),) = registrations(page)
    assert f"\nunderway device import {name}\n" in page[page.index(text) : page.index("mosquitto_pub", page.index(text))]
    document = yaml.safe_load(text)
    assert document["site"] == SITE
    heard: dict[str, set[str]] = {}
    for options, payload in commands(page):
        if payload is not None:
            decoded = dialect.decode(options["-t"], payload)
            assert decoded.device is not None
            heard.setdefault(decoded.device, set()).update(c for c in decoded.channel if not c.startswith("#"))
    assert heard == {
        normal_address(dialect.name, str(device.get("address", device["device_id"]))): {
            c.get("address", c["name"]) for c in device["channels"]
        }
        for device in document["devices"]
    }


def test_pages_register_devices_of_one_site_under_ids_of_their_own() -> None:
    ids = [d["device_id"] for x in DIALECTS for _, text in registrations(page_of(x)) for d in yaml.safe_load(text)["devices"]]
    assert len(ids) >= len(DIALECTS)
    assert len(set(ids)) == len(ids)
    ((_, first),) = [found for found in registrations((ROOT / "docs" / "devices.md").read_text(encoding="utf-8")) if "site:" in found[1]]
    assert yaml.safe_load(first)["site"] == SITE
    assert not set(ids) & {d["device_id"] for d in yaml.safe_load(first)["devices"]}


README = (PAGES / "README.md").read_text(encoding="utf-8")


def test_readme_example_dialect_is_complete_and_keeps_the_laws() -> None:
    source, line = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    count = types.ModuleType("count")
    exec(compile(source, "docs/dialects/README.md", "exec"), count.__dict__)
    dialect: Dialect = eval(line.rstrip().removesuffix(","), {"Dialect": Dialect, "count": count})
    outer = re.search(r"^````markdown\n(.*?)^````", README, re.M | re.S)
    assert outer is not None
    (example,) = examples(outer[1])
    decoded = check_laws(dialect.decode, example.topic, example.payload)
    assert (decoded.device, table_rows(decoded)) == (example.device, example.rows)
    for options, payload in commands(README):
        assert payload is not None
        assert plain(dialect.decode(options["-t"], payload)) == plain(decoded)
    for topic in ("", "count", "count/", "count/a/b", "count/well-7", "count/" + "x" * 300):
        for payload in (b"", b"nan", b"1e999", b"\xff", b"9" * 1000, b"41.5"):
            check_laws(dialect.decode, topic, payload)


def test_readme_lists_every_dialect_and_its_topics() -> None:
    rows = re.findall(r"^\| [^|\n]+ \| `([^`\n]+)`[^|\n]* \| \[(\w+)\]\((\w+)\.md\) \|$", README, re.M)
    assert sorted(name for _, name, _ in rows) == sorted(BY_NAME)
    for topic, name, file in rows:
        assert name == file
        found = dialect_of(re.sub(r"\{\w+\}", "x", topic))
        assert found is not None
        assert found.name == name


# the registry


@each_dialect
def test_registry_topic_of_each_dialect_finds_it(dialect: Dialect) -> None:
    for topic_filter in dialect.topic_filters:
        levels = topic_filter.split("/")
        assert all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels), "a wildcard is a whole level"
        assert "#" not in levels[:-1]
        assert dialect_of(topic_filter.replace("+", "x").replace("#", "x/y")) is dialect


@each_dialect
def test_registry_first_level_of_topics_belongs_to_one_dialect(dialect: Dialect) -> None:
    own = {f.partition("/")[0] for f in dialect.topic_filters}
    assert not own & {f.partition("/")[0] for d in DIALECTS if d is not dialect for f in d.topic_filters}
    assert not own & {"+", "#"}


def test_registry_topic_of_nobody_is_a_fault() -> None:
    assert dialect_of("nothing/we/know") is None
    name, decoded = decode("nothing/we/know", b"{}")
    assert name == "none"
    assert [fault.reason for fault in decoded.faults] == [FaultReason.TOPIC_UNKNOWN]


# the native dialect and its schema


@pytest.fixture(scope="module")
def native_schema() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "ingest" / "schemas" / "native.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


NAMES = st.sampled_from(["flow", "pressure", "battery", "level"]) | st.text(max_size=3)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
VALUES = NUMBERS | st.fixed_dictionaries({"v": NUMBERS}, optional={"q": st.sampled_from(["good", "bad", "suspect", "ok"])}) | JSON
INSTANTS = (
    st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat())
    | st.sampled_from(["2026-03-01T02:15:00Z", "2026-03-01 02:15:00.5z", "2026-03-01T24:00:00Z", "2026-03-01T02:15:00", ""])
    | st.integers(-1, 2**62)
    | st.floats(0, 1e15)
    | JSON
)
READINGS = st.fixed_dictionaries({"at": INSTANTS, "values": st.dictionaries(NAMES, VALUES, max_size=4)}) | JSON
UNITS = st.dictionaries(NAMES, st.sampled_from(["L/s", "kPa", "", "a unit that is much too long"]) | JSON, max_size=3) | JSON
MESSAGES = (
    st.fixed_dictionaries({"at": INSTANTS, "values": st.dictionaries(NAMES, VALUES, max_size=4)}, optional={"units": UNITS, "seq": JSON})
    | st.fixed_dictionaries({"readings": st.lists(READINGS, max_size=4) | JSON}, optional={"units": UNITS, "at": INSTANTS})
    | JSON
)


def has_unreal_day(document: Any) -> bool:
    """Return whether an instant of `document` fits the pattern and is none: a schema cannot count days."""
    readings = document.get("readings", [document]) if isinstance(document, dict) else []
    instants = [r.get("at") for r in readings if isinstance(r, dict)] if isinstance(readings, list) else []
    return any(isinstance(at, str) and re.match(r"[0-9]{4}-[0-9]{2}-(29|30|31)|0000", at) for at in instants)


@settings(max_examples=400)
@given(document=MESSAGES)
def test_native_schema_and_decoder_agree_on_what_is_taken_whole(native_schema: jsonschema.Draft202012Validator, document: Any) -> None:
    try:
        payload = msgspec.json.encode(document)
    except (UnicodeEncodeError, msgspec.MsgspecError):
        return
    document = json.loads(payload)
    if has_unreal_day(document) or b"\\n" in payload:
        return
    decoded = check_laws(BY_NAME["native"].decode, TOPIC, payload)
    assert native_schema.is_valid(document) == (not decoded.faults), (document, decoded.faults)


@pytest.mark.parametrize("path", [p for p in cases() if "native/" in str(p.id)])
def test_native_schema_and_decoder_agree_on_golden_payloads(native_schema: jsonschema.Draft202012Validator, path: Path) -> None:
    topic, payload = read_case(path)
    faults = decode(topic, payload)[1].faults
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        assert faults, "what is no JSON must be a fault"
        return
    if path.name in ("other-topic", "no-such-day"):
        assert faults, "neither a topic nor a calendar is the schema's matter"
        assert native_schema.is_valid(document)
        return
    assert native_schema.is_valid(document) == (not faults)


NATIVE_PAGE = page_of(BY_NAME["native"])


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)\n```", NATIVE_PAGE, re.S))
def test_native_page_example_does_what_the_page_says(native_schema: jsonschema.Draft202012Validator, example: str) -> None:
    decoded = decode(TOPIC, example.encode())[1]
    assert len(decoded)
    assert native_schema.is_valid(json.loads(example)) == (not decoded.faults)
    for fault in decoded.faults:
        assert fault.message in NATIVE_PAGE


def test_pages_name_every_reason() -> None:
    """What every dialect may meet stands on the native page, what one alone may meet on its own."""
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES.glob("*.md"))
    assert [reason.value for reason in FaultReason if f"`{reason.value}`" not in pages] == []
