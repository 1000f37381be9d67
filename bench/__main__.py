"""Runs every benchmark and writes RESULTS.md beside this file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from bench.report import write_report

HERE = Path(__file__).parent


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        measured = Path(scratch) / "measured.json"
        status = pytest.main(
            [
                str(HERE),
                f"--rootdir={HERE}",
                f"--config-file={HERE / 'pytest.ini'}",
                f"--benchmark-json={measured}",
                *sys.argv[1:],
            ]
        )
        if measured.exists() and not sys.argv[1:]:
            write_report(measured, HERE / "RESULTS.md", "python -m bench")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
