"""The block codec as plain C: compiled with strict warnings, run without Python."""

import subprocess
from collections.abc import Callable
from pathlib import Path


def test_block_program_passes(compile_core: Callable[..., Path]) -> None:
    program = compile_core("test_block", "tests/core/test_block.c")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
