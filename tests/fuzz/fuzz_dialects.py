"""Search for inputs that break a law of the decoders, guided by coverage (atheris).

``python tests/fuzz/fuzz_dialects.py TARGET [--seconds N] [--runs N]``, where TARGET is a dialect, ``sparkplug-host`` (streams of messages with
the memory of the dialect), ``mqtt`` (the codec of the protocol) or ``all`` (every dialect, chosen by the first byte). The corpus begins with the
golden payloads and grows in ``--folder``. An input that breaks a law is saved there, shown in hex, and repeated with ``--repeat FILE``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "contract")]

with atheris.instrument_imports(include=["ingest"]):
    from dialect_cases import case_folders, check_laws, read_case

    from ingest import mqtt_codec
    from ingest.decoded import Decoded
    from ingest.dialects import DIALECTS, Dialect
    from ingest.sparkplug_host import SparkplugHost

INPUT_BYTES_MAX = 8192
INPUT_SHOWN_BYTES_MAX = 512
STREAM_MESSAGES_MAX = 64
INPUT_S_MAX = 60
MEMORY_MB_MAX = 2048
STARTED_US = 1_772_331_300_000_000
NAMES = tuple(d.name for d in DIALECTS)
TARGETS = (*NAMES, "sparkplug-host", "mqtt", "all")

Run = Callable[[bytes], None]


class DialectTarget:
    """One dialect: the first byte chooses a golden topic, or a topic of the input's own."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.golden = [read_case(path) for path in case_folders(dialect.name)]
        self.topics = sorted({topic for topic, _ in self.golden})

    def __call__(self, data: bytes) -> None:
        chosen = data[0] % (len(self.topics) + 1) if data else 0
        if chosen < len(self.topics):
            check_laws(self.dialect.decode, self.topics[chosen], data[1:])
        else:
            topic, _, payload = data[1:].partition(b"\n")
            check_laws(self.dialect.decode, topic.decode(errors="replace"), payload)

    def seeds(self) -> Iterator[bytes]:
        for topic, payload in self.golden:
            if len(payload) < INPUT_BYTES_MAX:
                yield bytes((self.topics.index(topic),)) + payload
                yield bytes((len(self.topics),)) + topic.encode() + b"\n" + payload[:200]


class HostTarget:
    """The memory of Sparkplug: any messages in any order, each with its length before it; then what was saved is taken up again."""

    def __init__(self, dialect: Dialect) -> None:
        self.inner = DialectTarget(dialect)

    def __call__(self, data: bytes) -> None:
        host = SparkplugHost("underway")
        now_us = STARTED_US
        rows: dict[str, bytes] = {}
        for topic, payload in self.messages(data):
            now_us += 700_000
            decoded = self.inner.dialect.decode(topic, payload)
            seen: Decoded = host.observe(decoded, now_us)
            check_laws(lambda _topic, _payload, seen=seen: seen, topic, payload)
            host.due(now_us)
            host.presence_changes()
            for key, state in host.memory_changes(now_us):
                rows.pop(key, None)
                if state is not None:
                    rows[key] = state
        facts = host.facts()
        assert json.dumps(facts)
        again = SparkplugHost("underway")
        again.restore(rows.items(), now_us)

    def messages(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        at = 0
        for _ in range(STREAM_MESSAGES_MAX):
            if at >= len(data):
                return
            topic = self.inner.topics[data[at] % len(self.inner.topics)]
            size = int.from_bytes(data[at + 1 : at + 3], "big")
            yield topic, data[at + 3 : at + 3 + size]
            at += 3 + size

    def seeds(self) -> Iterator[bytes]:
        golden = [(topic, payload) for topic, payload in self.inner.golden if len(payload) < 1000]
        parts = [bytes((self.inner.topics.index(topic),)) + len(payload).to_bytes(2, "big") + payload for topic, payload in golden]
        births = b"".join(part for part, (topic, _) in zip(parts, golden, strict=True) if "BIRTH" in topic)
        for part in parts:
            yield births + part
            yield part + births


class AllTarget:
    """Every dialect: the first byte chooses."""

    def __init__(self) -> None:
        self.targets = [DialectTarget(dialect) for dialect in DIALECTS]

    def __call__(self, data: bytes) -> None:
        self.targets[data[0] % len(self.targets) if data else 0](data[1:])

    def seeds(self) -> Iterator[bytes]:
        for number, target in enumerate(self.targets):
            for seed in target.seeds():
                yield bytes((number,)) + seed


class MqttTarget:
    """The codec of MQTT, which has its own laws."""

    def __call__(self, data: bytes) -> None:
        mqtt_codec.fuzz(data)

    def seeds(self) -> Iterator[bytes]:
        for head in range(4):
            yield bytes((head,)) + bytes.fromhex("20020000")
            yield bytes((head,)) + bytes.fromhex("3212000a75772f612f742f78797a0001") + b'{"v":1}'


def target_of(name: str) -> DialectTarget | HostTarget | AllTarget | MqttTarget:
    if name == "all":
        return AllTarget()
    if name == "mqtt":
        return MqttTarget()
    dialect = next(d for d in DIALECTS if d.name == name.removesuffix("-host"))
    return HostTarget(dialect) if name.endswith("-host") else DialectTarget(dialect)


def words() -> Iterator[bytes]:
    """Yield what stands in quotes in golden payloads: names of fields, mostly."""
    for dialect in DIALECTS:
        for path in case_folders(dialect.name):
            yield from re.findall(rb'"[\w@.\-]{1,24}"', read_case(path)[1])


def prepare(folder: Path, target: DialectTarget | HostTarget | AllTarget | MqttTarget) -> tuple[Path, Path]:
    """Write corpus and dictionary, and return where they are."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    dictionary = folder / "words.dict"
    tokens = sorted({word.decode().replace('"', '\\"') for word in words()})
    dictionary.write_text("".join(f'"{token}"\n' for token in tokens), encoding="utf-8")
    return corpus, dictionary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=0, help="stop after so many seconds (default: never)")
    parser.add_argument("--runs", type=int, default=-1, help="stop after so many inputs (default: never)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0 chooses one")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "underway-fuzz", help="of corpus and broken laws")
    parser.add_argument("--repeat", type=Path, help="run this one input, and stop")
    given = parser.parse_args()
    target = target_of(given.target)
    if given.repeat is not None:
        target(given.repeat.read_bytes())
        print(f"{given.target}: {given.repeat} breaks no law")
        return

    folder = given.folder / given.target

    def one_input(data: bytes) -> None:
        try:
            target(data)
        except KeyboardInterrupt:
            raise
        except BaseException:
            file = folder / f"broken-{hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}.bin"
            file.write_bytes(data)
            print(f"\n{given.target}: an input of {len(data)} bytes breaks a law: {data[:INPUT_SHOWN_BYTES_MAX].hex()}", flush=True)
            print(f"again: python {Path(__file__).relative_to(ROOT)} {given.target} --repeat {file}", flush=True)
            raise

    corpus, dictionary = prepare(folder, target)
    options = [
        f"-max_total_time={given.seconds}",
        f"-runs={given.runs}",
        f"-seed={given.seed}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-dict={dictionary}",
        f"-artifact_prefix={folder}/",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        "-len_control=20",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()  # ends the process, with the number of inputs and the coverage on its last lines


if __name__ == "__main__":
    main()
