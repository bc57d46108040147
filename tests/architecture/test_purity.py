"""Below underway.app nothing reads a clock, draws from a global random source, or prints; SQL stands in one place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("detectors", "grafana", "ingest", "simulators", "underway", "web", "workorders")
ABOVE = ROOT / "underway" / "app"  # the composition root: clocks and processes belong there

CLOCKS = {
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
    "time.localtime",
    "time.gmtime",
    "time.sleep",
}
RANDOM = {"os.urandom", "uuid.uuid1", "uuid.uuid4"}
RANDOM_MODULES = {"random", "secrets"}
NUMPY_RANDOM_ALLOWED = {"Generator", "default_rng", "SeedSequence", "PCG64", "Philox", "BitGenerator"}  # values that carry their own state
ENTRY_POINTS = {"underway/__main__.py"}

# (file, what): why it may. Each line is looked for: one that no longer applies fails.
ALLOWED: dict[tuple[str, str], str] = {
    ("simulators/export.py", "print"): "a command line of its own: python -m simulators.export",
    ("underway/store/embedded.py", "time.monotonic"): "how long it waits for a server process; no decision about data rests on it",
    ("underway/store/embedded.py", "time.sleep"): "waits for a server process",
    ("ingest/mqtt.py", "time.monotonic"): "the default of a parameter, for keepalive and waiting; no decision about data rests on it",
    ("web/config.py", "time.monotonic"): "the default of a field, for the waiting time after failed sign-ins; tests give another",
}

SQL = re.compile(
    r"\b(select\s.+\sfrom\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|truncate\s+\w|create\s+(table|index)\s)", re.I | re.S
)
SQL_CLOCK = re.compile(
    r"\b(now\s*\(\s*\)|clock_timestamp\s*\(|current_timestamp\b|statement_timestamp\s*\(|random\s*\(\s*\)|gen_random_uuid)", re.I
)
SQL_ALLOWED: dict[str, str] = {
    "underway/app/dashboards.py": "asks when the newest expectation was, to look at the panels at that time",
    "underway/app/doctor.py": "asks on an installation whose schema may be older than the store's code",
    "underway/app/report.py": "counts rows for the result of a demonstration; nothing is decided by it",
    "web/auth.py": "writes an account beside the hash that it makes; the row is read through underway.store.views",
}
SQL_CLOCK_ALLOWED: dict[str, str] = {
    "underway/store/ingest_health.py": "the age of a status line, which the database's own clock stamped",
    "underway/store/status.py": "when a service last spoke is wall time: the service itself may hang",
    "underway/store/views.py": "the age of that",
    "underway/store/migrations/0007_boards.sql": "Grafana has no clock of ours: board_now() follows the town's row and is the system's without one",
}


def below() -> list[Path]:
    files = sorted(path for root in ROOTS for path in (ROOT / root).rglob("*.py"))
    return [path for path in files if ABOVE not in path.parents]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """Return what an attribute chain names, through the imports of its file: ``dt.now`` is ``datetime.datetime.now``."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, names)) is not None:
        return f"{base}.{node.attr}"
    return None


def imported_names(tree: ast.AST) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def impure(path: Path) -> Iterator[tuple[str, int]]:
    """Yield what a file reads that it should have been told, with the line."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            target = dotted(node.func, names)
            if target == "numpy.random.default_rng" and not node.args and not node.keywords:
                yield "numpy.random.default_rng()", node.lineno
            if isinstance(node.func, ast.Name) and node.func.id in {"print", "input"}:
                yield node.func.id, node.lineno
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            target = dotted(node, names)
            if target is None:
                continue
            parts = target.split(".")
            if target in CLOCKS or target in RANDOM or (parts[0] in RANDOM_MODULES and len(parts) == 2):
                yield target, node.lineno
            if parts[:2] == ["numpy", "random"] and len(parts) == 3 and parts[2] not in NUMPY_RANDOM_ALLOWED:
                yield target, node.lineno


def strings(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every string of a file that is not a docstring, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node.lineno


@pytest.mark.parametrize("path", below(), ids=name_of)
def test_module_below_app_is_told_the_time_and_its_randomness(path: Path) -> None:
    name = name_of(path)
    found = [f"{name}:{line} uses {what}" for what, line in impure(path) if (name, what) not in ALLOWED and name not in ENTRY_POINTS]
    assert found == []


def test_impurity_that_is_allowed_is_still_there() -> None:
    used = {(name_of(path), what) for path in below() for what, _ in impure(path)}
    assert sorted(set(ALLOWED) - used) == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("from datetime import datetime as dt\nx = dt.now", "datetime.datetime.now"),
        ("import datetime\ndatetime.datetime.utcnow()", "datetime.datetime.utcnow"),
        ("import time\ntime.time()", "time.time"),
        ("from time import monotonic\nmonotonic()", "time.monotonic"),
        ("import numpy as np\nnp.random.normal()", "numpy.random.normal"),
        ("import numpy as np\nnp.random.default_rng()", "numpy.random.default_rng()"),
        ("from random import choice\nchoice([1])", "random.choice"),
        ("from uuid import uuid4\nuuid4()", "uuid.uuid4"),
        ("print(1)", "print"),
    ],
    ids=lambda text: text if "\n" not in text else "",
)
def test_impure_names_what_it_must_see(source: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(source, encoding="utf-8")
    assert [name for name, _ in impure(path)] == [what]


def test_impure_lets_values_that_carry_their_state_pass(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import numpy as np\ndef f(rng: np.random.Generator): return np.random.default_rng(7)\n", encoding="utf-8")
    assert list(impure(path)) == []


def test_sql_stands_in_the_store_alone() -> None:
    """Tables and columns are known in one place; Grafana's panels carry their queries because Grafana runs them."""
    speakers = {
        name_of(path)
        for root in ROOTS
        for path in (ROOT / root).rglob("*.py")
        if root != "grafana" and ROOT / "underway" / "store" not in path.parents and any(SQL.search(text) for text, _ in strings(path))
    }
    assert sorted(speakers - set(SQL_ALLOWED)) == []
    assert sorted(set(SQL_ALLOWED) - speakers) == [], "no longer needed"


def test_database_is_told_the_time() -> None:
    """A service follows the town's clock or the system's: the database must not mix its own in."""
    readers = {
        name_of(path)
        for path in (ROOT / "underway" / "store").rglob("*.sql")
        if SQL_CLOCK.search(re.sub(r"--.*", "", path.read_text(encoding="utf-8")))
    }
    readers |= {
        name_of(path) for path in (ROOT / "underway" / "store").rglob("*.py") if any(SQL_CLOCK.search(text) for text, _ in strings(path))
    }
    assert sorted(readers - set(SQL_CLOCK_ALLOWED)) == []
    assert sorted(set(SQL_CLOCK_ALLOWED) - readers) == [], "no longer needed"
