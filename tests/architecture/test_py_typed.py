"""Every package says that it is typed."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_py_typed(package: str) -> None:
    assert (ROOT / package.replace(".", "/") / "py.typed").is_file()


def test_mypy_checks_every_root_strictly() -> None:
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert mypy["strict"] is True
    assert sorted(mypy["packages"]) == sorted({name.split(".")[0] for name in PACKAGES})
