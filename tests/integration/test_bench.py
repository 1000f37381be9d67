"""The benchmarks run: on a few rows, with whatever peers are here."""

from __future__ import annotations

import re

# The package under test comes before the source tree, which is where bench/ is.
BENCH = """
import sys
sys.path.append(sys.argv.pop(1))
from bench.__main__ import main
sys.exit(main())
"""


def test_every_benchmark_runs_and_no_answer_differs(repository, run_python, tmp_path):
    report = tmp_path / "RESULTS.md"
    run_python(
        BENCH, repository, "--quick", "--rows=2000", "--no-other-impls", f"--output={report}"
    )
    text = report.read_text()
    assert "failed:" not in text
    groups = re.findall(r"^## (.*)$", text, re.MULTILINE)
    for work in (
        "streaming",
        "fresh CSR",
        "statistics",
        "gradient",
        "pass",
        "shards",
        "memory",
        "S3",
    ):
        assert any(work in group for group in groups), work
    assert any("reading from S3" in group for group in groups)
