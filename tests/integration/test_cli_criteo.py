"""cirrus-fast load-criteo and export."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cirrus_fast import Dataset, load_libsvm, parse_libsvm
from cirrus_fast.cli import cli
from cirrus_fast.data.criteo import parse_criteo

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIRRUS_FAST_STORAGE", raising=False)

    def call(*args: object, status: int = 0, text: bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=text)
        assert result.exit_code == status, result.output
        return result

    return call


@pytest.fixture
def tsv(data_dir: Path) -> Path:
    return data_dir / "criteo_300.tsv"


def test_load_criteo_says_what_it_made_and_reuses_it(run: Run, tsv: Path) -> None:
    assert run("load-criteo", tsv, "c").stdout.startswith("c: 300 rows, 524,288 features, ")
    assert "reused" in run("load-criteo", tsv, "c").stderr
    found = json.loads(run("load-criteo", tsv, "c", "--json").stdout)
    assert (found["rows"], found["hash_bits"], found["reused"]) == (300, 19, True)
    assert (found["text_format"], found["source_bytes"]) == ("criteo", tsv.stat().st_size)
    assert "categories hashed to 19 bits" in run("info", "c").stdout


def test_every_option_of_load_criteo_arrives(run: Run, tsv: Path) -> None:
    options = ("--bits", 12, "--labels", "--skip-bad-rows", "--n-threads", 1)
    run("load-criteo", tsv, "a", *options)
    wanted = {"bits": 12, "has_labels": True, "skip_bad_rows": True, "like": None}
    options_kept = Dataset("cirrus_data/a").manifest.lineage["options"]
    assert options_kept == {"format": "criteo", **wanted}
    assert (
        "4,096 features"
        in run("load-criteo", "-", "b", "--like", "a", text=tsv.read_bytes()).stdout
    )
    assert "--overwrite" in run("load-criteo", "-h").stdout
    run("load-criteo", tsv, "a", "--bits", 13, "--overwrite")
    assert Dataset("cirrus_data/a").n_features == 2**13
    unlabelled = b"\n".join(line[2:] for line in tsv.read_bytes().splitlines())
    run("load-criteo", "-", "u", "--no-labels", text=unlabelled)
    assert Dataset("cirrus_data/u").manifest.n_positive == 0


def test_bad_rows_are_one_line_with_their_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_bytes(b"1\tx\n")
    result = run("load-criteo", "bad.tsv", "c", status=1)
    assert result.stderr == (
        "cirrus-fast: error: bad.tsv: integer column is not a number (line 1, column 3, byte 2)\n"
    )
    assert "5<=x<=31" in run("load-criteo", "bad.tsv", "c", "--bits", 4, status=2).stderr


def test_rows_go_the_whole_way(run: Run, tsv: Path, data_dir: Path) -> None:
    """Load, train, and score the data set, its text, and the same log as CSV."""
    run("load-criteo", tsv, "c", "--bits", 12)
    run("train", "c", "--epochs", 1, "--n-workers", 1, "--output", "model.npz")
    scored = [
        json.loads(run("evaluate", "model.npz", data, "--json").stdout)["logloss"]
        for data in ("c", tsv)
    ]
    assert scored[0] == pytest.approx(scored[1], abs=1e-12)
    predicted = run("predict", "model.npz", data_dir / "criteo_200.csv").stdout.splitlines()
    assert len(predicted) >= 200


def test_export_writes_what_loads_again(run: Run, data_dir: Path, assert_same_rows) -> None:
    run("load", data_dir / "a1a", "a")
    assert run("export", "a", "out.svm").stdout.startswith("out.svm: 1,605 rows, ")
    assert_same_rows(
        parse_libsvm(Path("out.svm").read_bytes()), parse_libsvm((data_dir / "a1a").read_bytes())
    )
    found = json.loads(run("export", "a", "out.svm.gz", "--n-threads", 2, "--json").stdout)
    assert found["rows"] == 1605
    assert found["bytes"] == Path("out.svm.gz").stat().st_size
    assert gzip.decompress(Path("out.svm.gz").read_bytes()) == Path("out.svm").read_bytes()
    assert load_libsvm("out.svm.gz", "cirrus_data/b").manifest.nnz == 22_249


def test_exported_criteo_rows_are_zero_based_text(run: Run, tsv: Path, assert_same_rows) -> None:
    run("load-criteo", tsv, "c", "--bits", 10)
    run("export", "c", "c.svm")
    text = Path("c.svm").read_bytes()
    assert_same_rows(
        parse_libsvm(text, zero_based=True, n_features=1024), parse_criteo(tsv.read_bytes(), 10)
    )


def test_export_replaces_a_file_only_when_told(run: Run, data_dir: Path) -> None:
    run("load", data_dir / "a1a", "a")
    Path("out").write_text("precious")
    assert "--overwrite" in run("export", "a", "out", status=1).stderr
    assert Path("out").read_text() == "precious"
    run("export", "a", "out", "--overwrite")
    assert Path("out").read_bytes().startswith(b"-1 ")
    assert "no data set" in run("export", "nothing", "other", status=1).stderr
