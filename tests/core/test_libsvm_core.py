"""Builds and runs test_libsvm.c: the core without Python, clean under strict warnings."""

import shutil
import subprocess
from pathlib import Path

import pytest

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_core_runs_without_python(repository, tmp_path):
    program = tmp_path / "test_libsvm"
    sources = [Path(__file__).with_name("test_libsvm.c"), *sorted(repository.glob("csrc/*.c"))]
    command = ["cc", *STRICT, "-O1", "-I", repository / "csrc", *sources, "-lm", "-o", program]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "ok\n")
