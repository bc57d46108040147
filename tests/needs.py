"""What a test needs and a machine may lack."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test; where CI is set everything is installed, and what is missing is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}; in CI nothing may be missing", pytrace=False)
    pytest.skip(what)
