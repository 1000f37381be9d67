"""Builds and runs the C tests of cf_libsvm: no Python, clean under strict warnings."""

import subprocess

import pytest


@pytest.mark.parametrize("name", ["test_libsvm", "test_libsvm_lines"])
def test_core_runs_without_python(compile_core, name):
    program = compile_core(name, f"tests/core/{name}.c")
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr
