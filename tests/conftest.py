"""Fixtures shared by the tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def compile_core(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """compile_core(name, *sources, flags=()): a program of these sources and the whole core."""
    folder = tmp_path_factory.mktemp("core")

    def build(name: str, *sources: str, flags: tuple[str, ...] = ()) -> Path:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler")
        program = folder / name
        strict = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
        core = sorted(str(path) for path in (ROOT / "csrc").glob("*.c"))
        files = [*(str(ROOT / source) for source in sources), *core]
        command = [compiler, *strict, *flags, f"-I{ROOT / 'csrc'}", *files, "-lm", "-o", program]
        subprocess.run(command, check=True)
        return program

    return build
