"""The wheel holds exactly our packages and everything that they read at run time."""

import configparser
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOTS = {"detectors", "grafana", "ingest", "simulators", "underway", "web", "workorders"}
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "*.pyc")
NOT_SHIPPED = {".pyc"}
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a release is built from, in a folder of its own: a build leaves files beside its source."""
    folder = tmp_path_factory.mktemp("source")
    for name in sorted(ROOTS):
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as the build backend makes it (what pip runs with --no-build-isolation; needs no network)."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    return zipfile.ZipFile(folder / built.stdout.strip().splitlines()[-1])


def test_wheel_roots_are_exactly_ours(wheel: zipfile.ZipFile) -> None:
    metadata = f"underway-{PROJECT['project']['version']}.dist-info"
    assert {PurePosixPath(name).parts[0] for name in wheel.namelist()} == ROOTS | {metadata}


def test_wheel_files_are_the_files_of_the_packages(wheel: zipfile.ZipFile, source: Path) -> None:
    """Every module, migration, schema, page and table of the source is in the wheel, and nothing else is."""
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    packages = {name.replace(".", "/") for name in PROJECT["tool"]["setuptools"]["packages"]}
    written = {
        path.relative_to(source).as_posix()
        for root in ROOTS
        for path in (source / root).rglob("*")
        if path.is_file() and path.suffix not in NOT_SHIPPED
    }
    for_repository_only = {name for name in written if PurePosixPath(name).name in {"README.md"}}
    assert sorted(written - for_repository_only - shipped) == [], (
        "in the source but not in the wheel: name it under [tool.setuptools.package-data]"
    )
    assert sorted(shipped - written) == []
    assert {str(PurePosixPath(name).parent) for name in shipped if name.endswith(".py")} == packages


@pytest.mark.parametrize(
    "pattern",
    [
        "underway/store/migrations/*.sql",
        "ingest/schemas/*.json",
        "web/static/*.html",
        "web/static/*.js",
        "web/static/*.css",
        "workorders/*.toml",
    ],
)
def test_wheel_ships_what_is_read_at_run_time(wheel: zipfile.ZipFile, pattern: str) -> None:
    assert [name for name in wheel.namelist() if PurePosixPath(name).match(pattern)] != []


def test_wheel_console_script_is_the_command_line(wheel: zipfile.ZipFile) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(f"underway-{PROJECT['project']['version']}.dist-info/entry_points.txt").decode())
    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {
        "console_scripts": {"underway": "underway.app.cli:main"}
    }


def test_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    text = wheel.read(f"underway-{PROJECT['project']['version']}.dist-info/licenses/LICENSE").decode()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_wheel_packages_are_listed_one_by_one() -> None:
    """A folder with modules that nobody listed would work here and be missing after an installation."""
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for root in ROOTS
        for path in (ROOT / root).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert sorted(found) == sorted(PROJECT["tool"]["setuptools"]["packages"])
