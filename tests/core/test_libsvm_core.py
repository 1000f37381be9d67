"""Builds and runs test_libsvm.c: the core without Python, clean under strict warnings."""

import subprocess


def test_core_runs_without_python(compile_core):
    program = compile_core("test_libsvm", "tests/core/test_libsvm.c")
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr
