"""scripts/setup says what is wrong in one line, and leaves alone what stands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("pyproject.toml", "requirements.lock", "requirements-dev.lock", "scripts/setup")
NOT_TO_BE_RUN = "#!/bin/sh\necho 'this must not be run' >&2\nexit 97\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what set-up reads, in a folder whose name has a space."""
    folder = tmp_path / "my town"
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def set_up(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scripts/setup", *arguments],
        cwd=project,
        env=dict(os.environ) | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def stamp_of(project: Path, level: str) -> str:
    sums = subprocess.run(
        "cat requirements.lock requirements-dev.lock pyproject.toml scripts/setup | cksum",
        shell=True,
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    return f"path {project}\nsums {sums.stdout.strip()}\nlevel {level}\n"


def stand(project: Path, level: str) -> None:
    """Make what a finished set-up leaves, with a Python and a uv that must not be run."""
    executable(project / ".venv/bin/python", NOT_TO_BE_RUN)
    (project / ".venv/.underway-setup").write_text(stamp_of(project, level), encoding="utf-8")


def test_setup_with_an_unknown_level_says_what_it_expected(project: Path) -> None:
    done = set_up(project, "all")
    assert (done.returncode, done.stderr) == (2, "setup: expected 'run' or 'dev', got 'all'\n")


def test_setup_with_an_old_python_names_what_it_found(project: Path) -> None:
    old = executable(project / "old python", '#!/bin/sh\ncase "$2" in *print*) echo 3.9.2;; *) exit 1;; esac\n')
    done = set_up(project, "run", PYTHON=str(old), UV="none")
    assert done.returncode == 1
    assert done.stderr == (
        f"setup: underway needs Python 3.11 or later, found {old} is 3.9.2; install one, or name it: make PYTHON=/path/to/python3.11\n"
    )
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(("stands", "asked"), [("run", "run"), ("dev", "dev"), ("dev", "run")], ids=["run", "dev", "dev serves run"])
def test_setup_that_stands_does_nothing(project: Path, stands: str, asked: str) -> None:
    stand(project, stands)
    done = set_up(project, asked, PYTHON=str(project / ".venv/bin/python"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("case", ["lock changed", "more is asked", "unfinished", "moved"])
def test_setup_that_does_not_stand_begins(project: Path, case: str) -> None:
    """It then looks for a package installer; the one given here ends the run."""
    stand(project, "run")
    asked, said = "run", "making .venv again: "
    if case == "lock changed":
        with (project / "requirements.lock").open("a", encoding="utf-8") as lock:
            lock.write("# changed\n")
        said += "its Python does not start"
    elif case == "more is asked":
        asked = "dev"
        said += "its Python does not start"
    elif case == "unfinished":
        (project / ".venv/.underway-setup-unfinished").touch()
        said += "an earlier set-up did not finish"
    else:
        (project / ".venv/.underway-setup").write_text(stamp_of(project, "run").replace("my town", "old town"), encoding="utf-8")
        shutil.rmtree(project / ".venv/bin")
        executable(project / ".venv/bin/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        said += "it was made for another folder"
    done = set_up(project, asked, PYTHON=sys.executable, UV=str(executable(project / "uv", NOT_TO_BE_RUN)))
    assert done.returncode == 97
    assert done.stderr.splitlines()[0] == f"setup: {said}"
    assert "this must not be run" in done.stderr
    assert (project / ".venv/.underway-setup-unfinished").exists()
    assert not (project / ".venv/.underway-setup").exists()
