"""Every dialect decodes every golden payload, agrees with its schema and with its page, and never raises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.decoded import FAULTS_MAX, Decoded
from ingest.dialects import DIALECTS, Dialect, decode, dialect_of
from underway.model import FaultReason

ROOT = Path(__file__).resolve().parents[2]
PAYLOADS = ROOT / "tests" / "data" / "payloads"
TOPIC = "uw/town/pr-113/telemetry"


def cases() -> list[Any]:
    found = sorted(p for d in DIALECTS for p in (PAYLOADS / d.name).iterdir())
    return [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in found]


def read_case(path: Path) -> tuple[str, bytes]:
    (payload,) = path.glob("payload.*")
    return (path / "topic.txt").read_text().removesuffix("\n"), payload.read_bytes()


def plain(decoded: Decoded) -> dict[str, Any]:
    return {
        "device_id": decoded.device_id,
        "samples": [[s.channel, s.observed_us, s.value, s.unit, s.quality.name, s.reason.name] for s in decoded.samples],
        "faults": [[f.reason.value, f.channel, f.message] for f in decoded.faults],
    }


@pytest.fixture(scope="module")
def native_schema() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "ingest" / "schemas" / "native.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", cases())
def test_dialect_golden_payload_decodes_as_expected(path: Path) -> None:
    topic, payload = read_case(path)
    _, decoded = decode(topic, payload)
    assert plain(decoded) == json.loads((path / "expected.json").read_text())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_dialect_has_golden_payloads_of_both_kinds(dialect: Dialect) -> None:
    decoded = [dialect.decode(*read_case(path)) for path in (PAYLOADS / dialect.name).iterdir()]
    assert any(d.samples and not d.faults for d in decoded)
    assert any(d.samples and d.faults for d in decoded)
    assert any(d.faults and not d.samples for d in decoded)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
@given(topic=st.text(max_size=200), payload=st.binary(max_size=300))
def test_dialect_any_bytes_on_any_topic_never_raises(dialect: Dialect, topic: str, payload: bytes) -> None:
    for where in (topic, TOPIC):
        decoded = dialect.decode(where, payload)
        assert decoded.samples or decoded.faults
        assert len(decoded.faults) <= FAULTS_MAX


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(document=JSON)
def test_native_any_json_never_raises(document: Any) -> None:
    decoded = decode(TOPIC, json.dumps(document).encode())[1]
    assert decoded.samples or decoded.faults


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000,
        b'{"a":' * 60_000,
        b'{"at":1,"values":{"a":' + b"[" * 900 + b"]" * 900 + b"}}",
        b"9" * 10_000,
        b'{"at":' + b"9" * 400 + b"}",
    ],
    ids=["deep-array", "deep-object", "deep-value", "long-integer", "long-instant"],
)
def test_native_hostile_json_is_a_fault(payload: bytes) -> None:
    decoded = decode(TOPIC, payload)[1]
    assert not decoded.samples
    assert decoded.faults


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
    decoded = decode(TOPIC, payload)[1]
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


PAGE = (ROOT / "docs" / "dialects" / "native.md").read_text()


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)\n```", PAGE, re.S))
def test_native_page_example_does_what_the_page_says(native_schema: jsonschema.Draft202012Validator, example: str) -> None:
    decoded = decode(TOPIC, example.encode())[1]
    assert decoded.samples
    assert native_schema.is_valid(json.loads(example)) == (not decoded.faults)
    for fault in decoded.faults:
        assert fault.message in PAGE


def test_native_page_names_every_reason() -> None:
    assert [reason.value for reason in FaultReason if f"`{reason.value}`" not in PAGE] == []


def test_registry_topic_of_each_dialect_finds_it() -> None:
    for dialect in DIALECTS:
        topic = dialect.topic_filter.replace("+", "x").replace("#", "x/y")
        assert dialect_of(topic) is dialect
    assert dialect_of("nothing/we/know") is None
    assert decode("nothing/we/know", b"{}")[1].faults[0].reason is FaultReason.TOPIC_UNKNOWN
