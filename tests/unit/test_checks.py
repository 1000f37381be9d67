"""What `make check` looks at is whole, and the hooks before a commit are the same."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import cirrus_fast


def test_hooks_call_the_parts_of_make_check(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    found = re.search(r"^check: ([^#\n]*)", makefile, re.MULTILINE)
    assert found is not None
    parts = found[1].split()
    assert len(parts) == 4
    hooks = (repository / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"entry: make (\S+)", hooks) == parts
    for part in parts:
        assert re.search(rf"^{part}:", makefile, re.MULTILINE)


def test_the_types_of_every_public_name_are_checked(repository: Path) -> None:
    tree = ast.parse((repository / "tests" / "typing" / "public_api.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "cirrus_fast"
        for alias in node.names
    }
    assert imported == set(cirrus_fast.__all__) - {"__version__"}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert imported <= used


def test_the_soak_test_runs(repository: Path) -> None:
    """One round of it, so that it is there when it is needed."""
    done = subprocess.run(
        [
            sys.executable,
            *(repository / "tests" / "soak" / "soak.py", "--minutes", "0.001", "--seed", "2"),
            *("--fault", "stop", "--fault", "none"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 rounds" in done.stdout
