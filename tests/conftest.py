"""Paths and small helpers that several test files share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cirrus_fast

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def repository():
    """The source tree, for tests of the C sources themselves."""
    root = TESTS.parent
    if not (root / "csrc").is_dir():
        pytest.skip("needs the source tree")
    return root


@pytest.fixture(scope="session")
def data_dir():
    return TESTS / "data"


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Run a script in a fresh interpreter that imports the package under test; its output."""
    package_parent = str(Path(cirrus_fast.__file__).parents[1])

    def run(script, *args, **environment):
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        result = subprocess.run(
            [sys.executable, "-c", script, *map(str, args)],
            cwd=tmp_path_factory.mktemp("cwd"),
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def assert_same_rows():
    """Compare two CSR or ParsedText by dtype and bits."""

    def check(actual, expected):
        for name in ("labels", "indptr", "indices", "data", "weights"):
            ours, theirs = getattr(actual, name), getattr(expected, name)
            assert (ours is None) == (theirs is None), name
            if ours is None:
                continue
            assert ours.dtype == theirs.dtype, name
            assert len(ours) == len(theirs), name
            if ours.tobytes() != theirs.tobytes():
                as_bits = f"u{ours.dtype.itemsize}"
                (where,) = np.nonzero(ours.view(as_bits) != theirs.view(as_bits))
                at = where[0]
                pytest.fail(f"{name}[{at}] is {ours[at]!r}, not {theirs[at]!r}")
        for name in ("n_features", "min_index", "max_index", "n_skipped"):
            if hasattr(expected, name):
                assert getattr(actual, name) == getattr(expected, name), name

    return check
