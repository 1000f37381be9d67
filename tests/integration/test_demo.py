"""The demonstration: what it leaves, twice in a row, and what it never touches."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cirrus_fast import Dataset, TrainResult
from cirrus_fast.cli import cli
from cirrus_fast.data.dataset import exists
from cirrus_fast.plots import plot_history

ROWS = 2000


def demo(*args: object) -> Result:
    return CliRunner().invoke(cli, ["demo", "--rows", str(ROWS), *map(str, args)])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of a first run, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    result = demo("--output", folder)
    assert result.exit_code == 0, result.output
    return folder, result


def test_leaves_what_it_says(shown: tuple[Path, Result]) -> None:
    folder, result = shown
    said = result.stdout.split("Left in ")[1]
    for name in ("train.svm", "test.svm", "model.npz", "loss.png", "results.md"):
        assert (folder / name).stat().st_size > 0
        assert name in said
    for name, n_rows in (("train_scaled", ROWS), ("test_scaled", 1000)):
        assert Dataset(f"{folder}/data/{name}").n_rows == n_rows
        assert name in said
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert TrainResult.load(folder / "model.npz").model.scaling is not None


def test_shows_every_step_with_its_time(shown: tuple[Path, Result]) -> None:
    _, result = shown
    lines = result.stdout.splitlines()
    steps = ("make data", "load", "normalize", "train", "evaluate", "search", "draw")
    for name in steps:
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert " s " in line
        assert line.startswith("draw") or "/s " in line
    assert "always guessing the average" in result.stdout
    assert "Try next:" in lines
    assert "\x1b" not in result.stdout


def test_writes_the_tables_down(shown: tuple[Path, Result]) -> None:
    folder, _ = shown
    text = (folder / "results.md").read_text()
    assert "mean predicted" in text
    search = text.split("## The search")[1]
    assert search.count("\n|") == 2 + 6  # heading, rule, models


def test_a_second_run_replaces_only_its_own(shown: tuple[Path, Result]) -> None:
    folder, _ = shown
    (folder / "notes.txt").write_text("mine")
    (folder / "data" / "notes.txt").write_text("mine")
    result = demo("--output", folder, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["rows"] == ROWS
    assert found["evaluation"]["logloss"] < found["baseline_logloss"]
    assert len(found["steps"]) == 7
    assert "train " in result.stderr
    for place in (folder, folder / "data"):
        assert (place / "notes.txt").read_text() == "mine"


def test_refuses_to_replace_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "model.npz").write_text("precious")
    result = demo("--output", tmp_path)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "not from an earlier demo" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]
    assert not exists(f"{tmp_path}/data/train")


def test_goes_on_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = demo("--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "pip install 'cirrus-fast[plot]'" in result.stdout
    assert not (tmp_path / "loss.png").exists()
    assert "loss.png" not in result.stdout
    assert (tmp_path / "results.md").exists()


def test_the_picture_shows_where_training_got_to(shown: tuple[Path, Result]) -> None:
    result = TrainResult.load(shown[0] / "model.npz")
    assert result.test_loss is not None
    axes = plot_history({"": result}).axes[0]
    low, high = axes.get_ylim()
    assert low < result.test_loss < high
    (best,) = (line for line in axes.lines if line.get_label() == "best model, the one kept")
    assert best.get_ydata()[0] == result.test_loss
    assert f"{result.test_loss:.4f}" in axes.get_title(loc="left")


def test_several_results_share_a_picture(shown: tuple[Path, Result], tmp_path: Path) -> None:
    result = TrainResult.load(shown[0] / "model.npz")
    figure = plot_history({"one": result, "two": result}, tmp_path / "both.svg")
    labels = {str(line.get_label()) for line in figure.axes[0].lines}
    assert {"one", "two"} <= labels
    assert (tmp_path / "both.svg").exists()


def test_an_unknown_kind_of_picture_is_refused(shown: tuple[Path, Result], tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli,
        ["train", f"{shown[0]}/data/train", "--epochs", "1", "--plot", f"{tmp_path}/loss.xyz"],
    )
    assert result.exit_code == 1
    assert "no picture can be written as .xyz" in result.stderr
    assert result.stdout == ""
