"""The documents agree with the code: commands, settings, links, modules, states, headings."""

import importlib
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import date
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

import underway.model as model
from underway.app import cli, settings

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("detectors", "grafana", "ingest", "simulators", "underway", "web", "workorders")
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(path for root in ROOTS for path in (ROOT / root).rglob("*.md"))})
FENCE = re.compile(r"^(```+|~~~+)([^\n]*)\n(.*?)^\1\s*$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.M)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
VARIABLE = re.compile(r"\bUNDERWAY_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)")

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # of the command line library that typer carries inside

# variables that are no settings of the services: name, who reads it
OTHER_VARIABLES = {
    "UNDERWAY_CONFIG": "names the settings file",
    "UNDERWAY_NEW_PASSWORD": "underway account add",
    "UNDERWAY_TEST_DATABASE_URLS": "tests/integration",
    "UNDERWAY_GRAFANA_DATABASE_URL": "underway grafana check",
    "UNDERWAY_BENCH_DATABASE_URL": "underway bench ingest",
}
# only in the environment of Grafana, whose data source file names them
GRAFANA_VARIABLES = {
    f"UNDERWAY_GRAFANA_{name}" for name in ("DB_HOST", "DB_NAME", "DB_PASSWORD", "DB_SSLMODE", "DB_USER", "PROMETHEUS_URL")
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Return a document without its code blocks."""
    return FENCE.sub("", text)


def code(text: str) -> Iterator[str]:
    """Yield every line of a shell block and every code span."""
    for _, language, body in FENCE.findall(text):
        if language.strip().split(" ")[0] in {"", "sh", "bash", "shell", "console"}:
            yield from re.sub(r"\\\n\s*", "", body).splitlines()
    yield from SPAN.findall(prose(text))


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda found: found.group(1) or "", heading)
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain.strip().lower()))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words after ``underway`` of every command line that a document names."""
    for line in code(text):
        stripped = re.sub(r"^\s*(\$ )?((?:[A-Z][A-Z0-9_]*=\S* +)*)(docker compose (?:exec|run) (?:-\S+ )*\S+ |\.venv/bin/)?", "", line)
        if re.match(r"underway( |$)", stripped):
            words = shlex.split(stripped.replace("...", ""), comments=True)[1:]
            stop = next((i for i, word in enumerate(words) if word in {"|", "||", "&&", "&", ";", ">", ">>", "2>"}), len(words))
            yield words[:stop]


def documented_commands() -> list[tuple[str, tuple[str, ...]]]:
    return sorted({(name_of(path), tuple(words)) for path in DOCUMENTS for words in commands(text_of(path))})


def resolve(words: list[str]) -> None:
    """Parse a command line as the program would, without running it."""
    command: Any = typer.main.get_command(cli.app)
    context = None
    rest = list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0].startswith("-"):
            command.make_context("underway", rest or ["--help"], parent=context, resilient_parsing=True)
            return
        name = rest.pop(0)
        assert name in command.commands, f"no command '{name}'; there are: {', '.join(command.commands)}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in options | {"--help"}]
    assert unknown == [], f"{name} has {', '.join(sorted(options))}"
    if any(word.startswith("-") for word in rest) and "--help" not in rest:
        command.make_context(name, rest)


@pytest.mark.parametrize(
    ("document", "words"), documented_commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value) or "underway"
)
def test_command_in_docs_exists(document: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERWAY_NEW_PASSWORD", "correct horse battery staple")
    monkeypatch.setenv("GRAFANA_TOKEN", "token")
    try:
        resolve(list(words))
    except USAGE_ERROR as error:
        pytest.fail(f"{document}: underway {' '.join(words)}: {error}")


def test_every_command_is_documented() -> None:
    """A command that no document names is a command that nobody finds."""
    named = {
        words[: 2 if words and words[0] in {"db", "grafana", "account", "device", "quarantine", "bench", "network"} else 1]
        for _, words in documented_commands()
    }

    def paths(command: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, sub in command.commands.items():
            if hasattr(sub, "commands"):
                yield from paths(sub, (*before, name))
            elif not sub.hidden:
                yield (*before, name)

    assert sorted(set(paths(typer.main.get_command(cli.app))) - named) == []


def test_make_targets_in_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", text_of(ROOT / "Makefile"), re.M))
    named = {
        (name_of(path), target)
        for path in DOCUMENTS
        for line in code(text_of(path))
        for target in re.findall(r"^\s*(?:\$ )?make (?:[A-Z]+=\S+ )*([a-z][a-z0-9-]*)", line)
    }
    assert sorted((document, target) for document, target in named if target not in targets) == []


def setting_names() -> set[str]:
    return {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}


def test_variables_in_docs_are_settings() -> None:
    named = {(name_of(path), name) for path in DOCUMENTS for name in VARIABLE.findall(text_of(path))}
    known = setting_names() | set(OTHER_VARIABLES) | GRAFANA_VARIABLES
    assert sorted((document, name) for document, name in named if name not in known) == []


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\|\s*`(UNDERWAY_[A-Z0-9_]+)`\s*\|([^|]*)\|", text_of(ROOT / "docs" / "settings.md"), re.M))
    assert sorted(setting_names() - set(rows)) == []
    for name, field in settings.Settings.model_fields.items():
        cell = rows[settings.PREFIX + name.upper()].strip().strip("`")
        default = str(field.default).lower() if isinstance(field.default, bool) else "" if field.default is None else str(field.default)
        assert cell == (default or "(empty)"), f"docs/settings.md says {cell!r} for {name}, the code {default!r}"


def test_variables_in_code_are_settings() -> None:
    """A variable that the code reads and nobody listed would be refused at start as a misspelling."""
    listed = setting_names() | set(OTHER_VARIABLES) | GRAFANA_VARIABLES
    read = {(name_of(path), name) for root in ROOTS for path in (ROOT / root).rglob("*.py") for name in VARIABLE.findall(text_of(path))}
    assert sorted((path, name) for path, name in read if name not in listed) == []
    assert sorted(set(OTHER_VARIABLES) - set(settings.NOT_SETTINGS)) == [], "settings refuse a variable that something else reads"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_resolve(path: Path) -> None:
    broken = []
    for target in LINK.findall(prose(text_of(path))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        if not linked.exists():
            broken.append(f"{target}: no such file")
        elif anchor and linked.suffix == ".md" and anchor not in {slug(title) for _, title in HEADING.findall(prose(text_of(linked)))}:
            broken.append(f"{target}: no such heading")
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_and_modules_in_docs_exist(path: Path) -> None:
    missing = []
    for span in SPAN.findall(prose(text_of(path))):
        if re.fullmatch(rf"(?:{'|'.join((*ROOTS, 'tests', 'docs', 'scripts', 'bench'))})/[\w./*-]*", span):
            if not (list(ROOT.glob(span.rstrip("/"))) if "*" in span else (ROOT / span).exists()):
                missing.append(f"{span}: no such file")
        elif re.fullmatch(rf"(?:{'|'.join(ROOTS)})(?:\.\w+)+", span) and not span.endswith((".md", ".toml")) and not exists(span):
            missing.append(f"{span}: no such module or name")
    assert missing == []


def exists(name: str) -> bool:
    """Say whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if error.name is not None and name.startswith(error.name):
                continue
            raise
        for part in parts[cut:]:
            if part in getattr(found, "__dataclass_fields__", {}) or part in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def glossary_terms() -> list[str]:
    return re.findall(r"^\|\s*\*\*(.+?)\*\*\s*\|", text_of(ROOT / "docs" / "GLOSSARY.md"), re.M)


TERMS = """site, zone, asset, device, channel, sample, reading, fault, finding, signal, expectation, hold, alarm, incident, work order, assignment,
crew, shift, skill, verdict, verification, quarantine, evidence, town clock, DMA, MNF, failure, onset"""


@pytest.mark.parametrize("term", re.split(r",\s+", TERMS))
def test_glossary_has_term(term: str) -> None:
    assert term in glossary_terms()


def test_glossary_terms_are_unique() -> None:
    terms = [term.lower() for term in glossary_terms()]
    assert sorted(term for term in set(terms) if terms.count(term) > 1) == []


VOCABULARY: list[type[Enum]] = [
    model.AlarmState,
    model.IncidentState,
    model.OrderState,
    model.VerificationOutcome,
    model.SlaState,
    model.WaitingReason,
    model.FindCode,
    model.FindingKind,
    model.Role,
    model.Priority,
]


@pytest.mark.parametrize("words", VOCABULARY, ids=lambda words: words.__name__)
def test_glossary_names_every_word_of_the_vocabulary(words: type[Enum]) -> None:
    spans = set(SPAN.findall(text_of(ROOT / "docs" / "GLOSSARY.md")))
    assert sorted(str(word.value) for word in words if str(word.value) not in spans) == []


def test_quarantine_page_names_every_reason() -> None:
    spans = set(SPAN.findall(text_of(ROOT / "docs" / "runbook" / "what-is-in-quarantine-and-how-do-i-read-it.md")))
    assert sorted(reason.value for reason in model.FaultReason if reason.value not in spans) == []


def tracked() -> list[Path]:
    """Return what the repository holds; without git (an unpacked archive), what stands in the folder."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        hidden = {".venv", ".hypothesis", "__pycache__", "build", "underway.egg-info", ".underway"}
        return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.relative_to(ROOT).parts)]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def readable() -> Iterator[tuple[str, str]]:
    for path in tracked():
        if path.suffix in {".png", ".svg", ".ico", ".bin", ".gz", ".parquet"} or path == Path(__file__):
            continue
        try:
            yield name_of(path), text_of(path)
        except UnicodeDecodeError:
            continue


def test_no_file_names_a_path_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.:{}])/(?:work|root|home/\w+|farm|Users/\w+)/[\w.-]+")
    assert [f"{name}: {found.group(0)}" for name, text in readable() for found in machine.finditer(text)] == []


def test_no_file_names_a_registry_host() -> None:
    """Where packages come from is a matter of the machine that installs them."""
    hosts = re.compile(
        r"--(?:extra-)?index-url\s+http|https?://\S+/(?:simple|packages)/|/simple/?\s*$|https?://\S+\.(?:whl|tgz|tar\.gz)\b", re.M
    )
    assert [f"{name}: {found.group(0)}" for name, text in readable() for found in hosts.finditer(text)] == []


def test_changelog_keeps_its_form() -> None:
    """Keep a Changelog 1.1: versions newest first, each with its date, only the six kinds of change."""
    text = text_of(ROOT / "CHANGELOG.md")
    headings = [(len(marks), title) for marks, title in HEADING.findall(text)]
    assert headings[0] == (1, "Changelog")
    assert headings[1] == (2, "[Unreleased]")
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", title) for level, title in headings[2:] if level == 2]
    assert all(released)
    days = [date.fromisoformat(found.group(2)) for found in released if found]
    assert all(newer >= older for newer, older in pairwise(days))
    assert {title for level, title in headings if level == 3} <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(level <= 3 for level, _ in headings)


def decisions() -> list[Path]:
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [path.name[:4] for path in decisions()] == [f"{number:04d}" for number in range(1, len(decisions()) + 1)]


@pytest.mark.parametrize("path", decisions(), ids=name_of)
def test_decision_says_what_a_decision_must(path: Path) -> None:
    headings = HEADING.findall(prose(text_of(path)))
    assert headings[0][1].startswith(f"{path.name[:4]}: ")
    assert [title for marks, title in headings if marks == "##"] == [
        "Context",
        "Decision",
        "What was rejected",
        "What would change our mind",
    ]
    assert len(text_of(path).splitlines()) <= 80, "a decision is one page"


def runbook() -> list[Path]:
    return sorted(path for path in (ROOT / "docs" / "runbook").glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("path", runbook(), ids=name_of)
def test_runbook_title_is_the_question(path: Path) -> None:
    title = HEADING.findall(text_of(path))[0][1]
    assert title.endswith("?")
    assert path.stem == re.sub(r"-+", "-", slug(title)), "the file has the name of the question"
    assert f"({path.name})" in text_of(ROOT / "docs" / "runbook" / "README.md"), "docs/runbook/README.md lists every page"


def test_documents_are_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        files = [target.partition("#")[0] for target in LINK.findall(prose(text_of(path))) if not re.match(r"[a-z][a-z0-9+.-]*:", target)]
        waiting += [(path.parent / file).resolve() for file in files if file.endswith(".md")]
    assert [name_of(path) for path in DOCUMENTS if path not in seen] == []


def test_readme_and_project_agree() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    readme = text_of(ROOT / "README.md")
    assert project["requires-python"].removeprefix(">=") in readme
    assert "make demo" in readme
    assert "make test" in readme
    assert importlib.import_module("underway").__version__ == project["version"]


def test_architecture_names_a_test_that_exists_for_each_invariant() -> None:
    section = text_of(ROOT / "docs" / "ARCHITECTURE.md").partition("## Invariants")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, f"no test named: {row}"
        for file, function in named:
            assert (ROOT / file).is_file(), f"{file}: no such file"
            assert not function or re.search(rf"def {function}\b", text_of(ROOT / file)), f"{file} has no {function}"
