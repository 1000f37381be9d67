"""The experiment runs as a whole, on few rows: what it measures adds up, and so does its report."""

from __future__ import annotations

import json
import re

import pytest

# The package under test comes before the source tree, which is where bench/ is.
PAPER = """
import sys
sys.path.append(sys.argv.pop(1))
from bench.paper.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(repository, run_python, tmp_path_factory):
    """Of one quick run."""
    folder = tmp_path_factory.mktemp("paper")
    run_python(PAPER, repository, "--quick", f"--output={folder}")
    return folder


@pytest.fixture(scope="module")
def kept(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "measured").glob("*")}


@pytest.fixture(scope="module")
def runs(kept, bench):
    systems = bench("paper.systems").SYSTEMS
    return [run for name in systems for run in kept[name]]


def test_phases_add_up_to_the_time_on_the_wall(runs):
    assert len({run["system"] for run in runs}) == 9
    for run in runs:
        assert sum(run["wall"].values()) == pytest.approx(run["wall_s"], rel=0.02), run["system"]
        # A worker is in one phase all the time.
        every = run["wall_s"] * run["steps"] / run["n_workers"]
        assert every == pytest.approx(run["seconds"], rel=0.02), run["system"]


def test_rows_add_up(runs, kept):
    for run in runs:
        assert run["rows"] == pytest.approx(run["size"] * run["updates"], rel=0.05), run["system"]
    n_rows = kept["machine"]["n_rows"]
    for points in kept["workers-learn"].values():
        assert points[-1][0] == 2 * n_rows


def test_simulated_equals_real_within_what_the_report_says(folder):
    text = (folder / "RESULTS.md").read_text()
    stated = re.search(r"Error: median \d+%, at most (\d+)%", text)
    assert stated is not None
    table = text[stated.end() : text.index("## How the loss falls")]
    rows = [re.findall(r"\(([+-]\d+)%\)", line) for line in table.splitlines()]
    errors = [[abs(int(error)) for error in row] for row in rows if row]
    assert len(errors) == 9
    # Over links and beside the servers, one worker; then two. The report hides none of them.
    assert max(row[2] for row in errors) <= int(stated[1])
    # Runs as short as these differ among themselves by up to a half. Of one worker nothing is
    # predicted but that no two parts of its step go on at once.
    assert max(row[2] for row in errors) <= 200
    assert max(max(row[:2]) for row in errors) <= 60


def test_the_report_has_everything(folder):
    text = (folder / "RESULTS.md").read_text()
    for heading in ("Claims", "Systems", "One machine", "By the number of workers", "Dollars"):
        assert f"## {heading}" in text
    for number in ("i", "ii", "iii", "iv", "v-a", "v-b", "vi", "vii", "viii", "ix", "x"):
        assert f"({number}) " in text, number
    pictures = {path.name for path in folder.glob("*.png")}
    assert {"figure0.png", "figure_a.png", "figure_b.png", "figure_c.png"} <= pictures


def test_a_run_goes_on_where_another_was_ended(folder, repository, run_python):
    kept = folder / "measured"
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    (kept / "learning.json").unlink()
    run_python(PAPER, repository, "--quick", "--no-report", f"--output={folder}")
    after = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {"learning.json"}
