"""Golden payloads and pages of the dialects: how a case is read, how it is written down, and the laws of whatever a decoder returns.

``python tests/contract/dialect_cases.py [DIALECT ...]`` writes every ``expected.json`` anew from what the decoders return now, for review
with ``git diff``; no test does.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ingest.decoded import ADDRESS_CHARS_MAX, FAULTS_MAX, SAMPLES_MAX, UNIT_CHARS_MAX, Decode, Decoded
from ingest.dialects import DIALECTS, decode
from underway.model import Quality, QualityReason, from_us

ROOT = Path(__file__).resolve().parents[2]
PAYLOADS = ROOT / "tests" / "data" / "payloads"
PAGES = ROOT / "docs" / "dialects"
MESSAGE_CHARS_MAX = 2500


def case_folders(dialect: str) -> list[Path]:
    folder = PAYLOADS / dialect
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def read_case(path: Path) -> tuple[str, bytes]:
    """Return topic and payload; the payload is the one file ``payload.*`` as it is, byte for byte."""
    (payload,) = path.glob("payload.*")
    return (path / "topic.txt").read_text(encoding="utf-8").removesuffix("\n"), payload.read_bytes()


def plain(decoded: Decoded) -> dict[str, Any]:
    """Return everything that a decoder said as plain JSON values; what it did not say is left out."""
    rows = zip(
        decoded.channel,
        [f"{us:+d}" if away else us for us, away in zip(decoded.observed_us, whole(decoded.from_reception, decoded), strict=True)],
        decoded.value,
        decoded.unit or [None] * len(decoded),
        [Quality(q).name for q in whole(decoded.quality, decoded)],
        [QualityReason(r).name for r in whole(decoded.reason, decoded)],
        [bool(h) for h in whole(decoded.historical, decoded)],
        strict=True,
    )
    found: dict[str, Any] = {
        "device": decoded.device,
        "samples": [list(row) for row in rows],
        "faults": [[f.reason.value, f.channel, f.message] for f in decoded.faults],
    }
    if decoded.site_id is not None:
        found["site_id"] = decoded.site_id
    for name in ("counter", "announcement", "more"):
        part = getattr(decoded, name)
        if part is not None:
            found[name] = msgspec.to_builtins(part, enc_hook=repr, str_keys=True)
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # tuples are arrays now


def whole(column: Any, decoded: Decoded) -> list[Any]:
    """Return a column that may be None as a list."""
    return [0] * len(decoded) if column is None else list(column)


def written(found: dict[str, Any]) -> str:
    """Return `found` as JSON with one sample or fault a line, so that a difference is read at a glance."""
    parts = []
    for key, value in found.items():
        if key in ("samples", "faults") and value:
            lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
            parts.append(f' "{key}": [\n{lines}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def check_laws(decode_one: Decode, topic: str, payload: bytes) -> Decoded:
    """Assert the laws that hold for any decoder and any message; return what was decoded."""
    decoded = decode_one(topic, payload)
    n = len(decoded.value)
    assert type(decoded.channel) is tuple
    assert len(decoded.channel) == n
    assert len(decoded.observed_us) == n
    assert decoded.unit is None or (type(decoded.unit) is tuple and len(decoded.unit) == n)
    for name in ("quality", "reason", "from_reception", "historical"):
        column = getattr(decoded, name)
        assert column is None or len(column) == n, f"{name} must have {n} rows"
    assert n <= SAMPLES_MAX
    assert all(map(math.isfinite, decoded.value))
    assert all(type(us) is int and abs(us) < 2**62 for us in decoded.observed_us), "an instant must fit a column of int64"
    assert all(type(name) is str and 1 <= len(name) <= ADDRESS_CHARS_MAX for name in decoded.channel)
    assert all(unit is None or 1 <= len(unit) <= UNIT_CHARS_MAX for unit in decoded.unit or ())
    assert {int(q) for q in whole(decoded.quality, decoded)} <= set(Quality)
    assert {int(r) for r in whole(decoded.reason, decoded)} <= set(QualityReason)
    assert n == 0 or decoded.device, "samples must belong to somebody"
    assert decoded.device is None or 1 <= len(decoded.device) <= ADDRESS_CHARS_MAX
    assert type(decoded.faults) is tuple
    assert len(decoded.faults) <= FAULTS_MAX
    for fault in decoded.faults:
        assert fault.device_id == decoded.device
        assert 1 <= len(fault.message) <= MESSAGE_CHARS_MAX
        assert fault.message.isprintable(), "a message is one line that a terminal can show"
    assert n or decoded.faults or decoded.announcement is not None or decoded.more is not None, "something must come of every message"
    assert plain(decode_one(topic, payload)) == plain(decoded), "a decoder is pure"
    return decoded


@dataclass(frozen=True)
class Example:
    """One payload of a page, and the readings that the page promises."""

    topic: str
    device: str
    payload: bytes
    rows: tuple[tuple[str, ...], ...]


EXAMPLE = re.compile(
    r"^topic: `(?P<topic>[^`\n]+)`, device: `(?P<device>[^`\n]+)`\n\n?"
    r"```(?P<kind>json|hex|base64)\n(?P<payload>.*?)\n```\n\n?"
    r"(?P<table>(?:^\|[^\n]*\n)*)",
    re.M | re.S,
)
HEADER = ("channel", "observed", "value", "unit", "quality")


def examples(page: str) -> Iterator[Example]:
    """Yield the examples of a page (docs/dialects/README.md says how they are written)."""
    for found in EXAMPLE.finditer(page):
        lines = [tuple(cell.strip().strip("`") for cell in line.strip().strip("|").split("|")) for line in found["table"].splitlines()]
        assert not lines or lines[0] == HEADER, f"the table of readings must have the columns {HEADER}, got {lines[0]}"
        yield Example(found["topic"], found["device"], payload_of(found["kind"], found["payload"]), tuple(lines[2:]))


def registrations(page: str) -> list[tuple[str, str]]:
    """Return name and text of each YAML file of devices that stands on a page."""
    return re.findall(r"File `([^`\n]+\.yaml)`:\n\n```yaml\n(.*?)```", page, re.S)


def payload_of(kind: str, text: str) -> bytes:
    """Return the bytes of a fenced block."""
    if kind == "hex":
        return bytes.fromhex("".join(text.split()))
    if kind == "base64":
        return msgspec.convert("".join(text.split()), bytes)
    return text.encode()


def table_rows(decoded: Decoded) -> tuple[tuple[str, ...], ...]:
    """Return the rows of a page's table of readings."""
    return tuple(
        (channel, observed(us, bool(away)), f"{value:.12g}", unit or "", Quality(quality).name.lower())
        for channel, us, away, value, unit, quality in zip(
            decoded.channel,
            decoded.observed_us,
            whole(decoded.from_reception, decoded),
            decoded.value,
            decoded.unit or [None] * len(decoded),
            whole(decoded.quality, decoded),
            strict=True,
        )
    )


def observed(us: int, from_reception: bool) -> str:
    """Return an instant as a page shows it.

    Examples
    --------
    >>> observed(2_000_000, False), observed(2_500_000, False), observed(0, True), observed(-60_000_000, True), observed(500_000, True)
    ('1970-01-01T00:00:02Z', '1970-01-01T00:00:02.5Z', 'reception', 'reception - 60 s', 'reception + 0.5 s')
    """
    if from_reception:
        return "reception" if us == 0 else f"reception {'-' if us < 0 else '+'} {abs(us) / 1e6:.12g} s"
    return re.sub(r"\.?0*\+00:00$" if us % 1_000_000 else r"\+00:00$", "Z", from_us(us).isoformat())


def rewrite(names: list[str]) -> None:
    """Write every expected.json of the named dialects (of all, when none is named) from what the decoders return."""
    for dialect in DIALECTS:
        if names and dialect.name not in names:
            continue
        for path in case_folders(dialect.name):
            topic, payload = read_case(path)
            check_laws(dialect.decode, topic, payload)
            (path / "expected.json").write_text(written(plain(decode(topic, payload)[1])), encoding="utf-8")
            print(f"{dialect.name}/{path.name}")


if __name__ == "__main__":
    rewrite(sys.argv[1:])
