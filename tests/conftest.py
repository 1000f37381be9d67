"""Fixtures that tests of every kind share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cirrus_fast

DATA = Path(__file__).parent / "data"


@pytest.fixture
def storage_root(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder that bare data set names lie under."""
    root = tmp_path / "store"
    cirrus_fast.configure(storage=str(root))
    yield root
    cirrus_fast.configure(storage=None)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The public data sets that come with the tests."""
    return DATA


@pytest.fixture
def python_environment() -> dict[str, str]:
    """Environment in which a fresh interpreter imports the package that is under test."""
    home = str(Path(cirrus_fast.__file__).parents[1])
    return os.environ | {"PYTHONPATH": home, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def run_python(
    python_environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a fresh interpreter, in a temporary folder."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            env=python_environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
