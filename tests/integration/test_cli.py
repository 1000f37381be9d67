"""The command cirrus-fast, in this process and as one of its own."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import cirrus_fast
from cirrus_fast import Dataset, LinearModel, TrainResult, load_libsvm, make_clicks, normalize
from cirrus_fast.cli import COMMANDS, cli
from cirrus_fast.cli.flags import flag_of, rows
from cirrus_fast.data.columns import SCALINGS
from cirrus_fast.options import parse_options, table

ROWS = 3000
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, data sets and a model; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("home")
    for name, stream in (("train", 0), ("test", 1)):
        make_clicks(folder / f"{name}.svm", ROWS, seed=7, hash_bits=12, stream=stream)
    load_libsvm(folder / "train.svm", f"{folder}/data/train")
    load_libsvm(folder / "test.svm", f"{folder}/data/test", like=f"{folder}/data/train")
    normalize(f"{folder}/data/train", f"{folder}/data/scaled")
    options = {"epochs": 2, "seed": 1, "consistency": "bsp"}
    result = cirrus_fast.LogisticRegression(options, dataset=f"{folder}/data/scaled").run()
    result.save(folder / "model.npz")
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder, with the data sets of `home` under their bare names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIRRUS_FAST_STORAGE", str(home / "data"))

    def call(*args: object, status: int = 0, text: bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=text)
        assert result.exit_code == status, result.output
        return result

    return call


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    package_parent = str(Path(cirrus_fast.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "CIRRUS_FAST_STORAGE": str(home / "data")}
    # Without a buffer Python itself ignores that only a part was written to a closing pipe.
    environment.pop("PYTHONUNBUFFERED", None)
    return environment


def command(*args: object) -> list[str]:
    return [sys.executable, "-P", "-m", "cirrus_fast", *map(str, args)]


def error_line(result: Result) -> str:
    """The one line of an error, after checking that it is one."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("cirrus-fast: error: ")
    return line


# Data


def test_generate_writes_the_same_rows_as_make_clicks(run: Run, home: Path) -> None:
    args = ("--rows", ROWS, "--seed", 7, "--hash-bits", 12, "--stream", 1)
    result = run("generate", "rows.svm", *args)
    assert "3,000 rows" in result.stdout
    assert Path("rows.svm").read_bytes() == (home / "test.svm").read_bytes()


def test_generate_replaces_a_file_only_when_told(run: Run) -> None:
    Path("rows.svm").write_text("precious")
    assert "--overwrite" in error_line(run("generate", "rows.svm", "--rows", 10, status=1))
    assert Path("rows.svm").read_text() == "precious"
    found = json.loads(run("generate", "rows.svm", "--rows", 10, "--overwrite", "--json").stdout)
    assert found["rows"] == 10
    assert found["bytes"] == Path("rows.svm").stat().st_size


def test_load_reads_files_and_reuses_what_is_there(run: Run, home: Path) -> None:
    args = ("--storage", "mine", "load", home / "train.svm", home / "test.svm", "both")
    first = run(*args)
    assert "both: 6,000 rows, 4,096 features" in first.stdout
    again = run(*args)
    assert "reused" in again.stderr
    found = json.loads(run(*args, "--json").stdout)
    assert found["reused"] is True
    assert found["rows"] == found["positives"] + found["negatives"] == 2 * ROWS
    assert Path("mine/both/manifest.json").is_file()


def test_load_reads_standard_input(run: Run) -> None:
    text = b"3 1:1\n4 2:1\n5 1:1\n"
    args = ("--storage", ".", "load", "-", "piped", "--positive-labels", "4,5", "--zero-based")
    found = json.loads(run(*args, "--json", text=text).stdout)
    assert found["labels"] == {"negative": [3.0], "positive": [4.0, 5.0]}
    assert (found["index_base"], found["source_bytes"]) == (0, None)


def test_load_hands_every_option_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspect import signature

    from cirrus_fast import preprocessing

    given: dict[str, Any] = {}
    real = preprocessing.load_libsvm

    def spy(*args: Any, **options: Any) -> Dataset:
        given.update(options)
        return real(*args, **options)

    monkeypatch.setattr(preprocessing, "load_libsvm", spy)
    Path("rows.svm").write_text("1:2 1:1\n0 2:nan\nbad\n")
    result = run(
        "load", "rows.svm", "d", "--storage", "here", "--one-based", "--hash-bits", 5,
        "--label-weights", "--allow-nonfinite", "--skip-bad-rows", "--positive-labels", 1,
        "--overwrite", "--n-threads", 1, "--executor", "processes",
    )  # fmt: skip
    assert "1 rows could not be read" in result.stderr
    assert set(given) == {*signature(real).parameters} - {"source", "dataset"}
    assert given["zero_based"] is False
    assert given["positive_labels"] == (1.0,)


def test_load_names_the_place_of_a_bad_row(run: Run) -> None:
    Path("bad.svm").write_text("1 1:1\n0 3:1 2:1\n")
    line = error_line(run("load", "bad.svm", "bad", "--storage", ".", status=1))
    assert "bad.svm: feature indices must increase within a row (line 2, column 7" in line


def test_normalize_scales_a_test_set_like_its_training_set(run: Run, home: Path) -> None:
    goal = Path("scaled").absolute()
    found = json.loads(run("normalize", "test", goal, "--like", "scaled", "--json").stdout)
    assert found["scaling"] == "min_max"
    assert found["rows"] == ROWS
    ours = Dataset(str(goal)).manifest.scaling_id
    assert ours == Dataset(f"{home}/data/scaled").manifest.scaling_id
    run("normalize", "test", goal, "--scaling", "standard", status=1)
    assert "rows/s" in run("normalize", "test", goal, "--scaling", "max-abs", "--overwrite").stdout


def test_normalize_knows_every_scaling() -> None:
    from cirrus_fast.cli import datasets

    assert datasets.SCALINGS == SCALINGS


def test_info_tells_what_the_manifest_has(run: Run, home: Path) -> None:
    manifest = Dataset(f"{home}/data/train").manifest
    text = run("info", "train").stdout
    for fact in ("3,000", f"{manifest.n_positive:,} positive (1)", "train.svm", "bytes a row"):
        assert fact in text
    found = json.loads(run("info", "train", "--json").stdout)
    assert found["rows"] == manifest.n_rows
    assert found["entries"] == manifest.nnz
    assert found["bytes_per_row"] == pytest.approx(found["bytes"] / ROWS)
    assert found["columns"]["stored"] <= found["features"] == 4096
    assert found["lineage"]["source"][0]["path"] == str(home / "train.svm")


def test_ls_lists_complete_and_damaged_data_sets(run: Run) -> None:
    heading, *lines = run("ls").stdout.splitlines()
    assert heading.split()[0] == "name"
    assert [line.split()[0] for line in lines] == ["scaled", "test", "train"]
    Path("mine/hurt").mkdir(parents=True)
    Path("mine/hurt/manifest.json").write_text("{}")
    found = json.loads(run("ls", "--storage", "mine", "--json").stdout)
    assert found["datasets"] == []
    assert [item["dataset"] for item in found["damaged"]] == ["hurt"]
    empty = run("ls", "--storage", "nothing")
    assert empty.stdout == ""
    assert "no data sets under nothing" in empty.stderr


def test_rm_needs_yes_where_it_cannot_ask(run: Run, home: Path) -> None:
    for name in ("a", "b"):
        run("--storage", "mine", "load", home / "test.svm", name)
    assert "--yes" in error_line(run("--storage", "mine", "rm", "a", status=1))
    # One that is not there, and nothing is touched.
    assert "no data set" in error_line(run("--storage", "mine", "rm", "-y", "a", "x", status=1))
    assert Path("mine/a/manifest.json").exists()
    found = json.loads(run("--storage", "mine", "rm", "a", "b", "a", "--yes", "--json").stdout)
    assert found == {"removed": ["a", "b"]}
    assert list(Path("mine").iterdir()) == []


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_rm_asks_on_a_terminal(
    home: Path, tmp_path: Path, environment: dict[str, str], answer: str, gone: bool
) -> None:
    load_libsvm(home / "test.svm", f"{tmp_path}/a")
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        command("rm", f"{tmp_path}/a"),
        stdin=secondary,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        os.write(primary, answer.encode())
        _, error = process.communicate(timeout=30)
    os.close(primary)
    os.close(secondary)
    assert f"delete {tmp_path}/a? [y/N]" in error
    assert (tmp_path / "a").exists() != gone
    assert process.returncode == (0 if gone else 1)


# Models


def test_train_saves_the_result_and_a_picture(run: Run) -> None:
    args = ("train", "scaled", "--epochs", 2, "--seed", 1, "--consistency", "bsp")
    found = json.loads(run(*args, "-o", "m.npz", "--plot", "loss.png", "--json").stdout)
    result = TrainResult.load("m.npz")
    assert found["test_loss"] == result.test_loss
    assert found["params"]["epochs"] == 2
    assert len(found["history"]) == len(result.history)
    assert Path("loss.png").read_bytes().startswith(b"\x89PNG")
    text = run(*args, "-o", "m.npz").stdout
    assert f"log-loss {result.test_loss:.5f}" in text
    assert "m.npz" in text


def test_train_says_when_the_model_was_not_kept(run: Run) -> None:
    assert "--output" in run("train", "train", "--epochs", 1).stderr


def test_json_has_null_where_there_is_no_number(run: Run) -> None:
    found = json.loads(run("train", "train", "--epochs", 1, "--epsilon", 0, "--json").stdout)
    assert found["test_loss"] is found["auc"] is found["output"] is None


@pytest.mark.parametrize("row", [r for r in table() if r.metadata["flag"]], ids=lambda r: r.name)
def test_every_option_of_the_table_has_a_flag(run: Run, row: Any) -> None:
    if row.name == "dataset":
        return  # it is the argument
    for name in ("train", "grid"):
        text = run(name, "--help").stdout
        assert f" {flag_of(row.name)} " in text or f" {flag_of(row.name)}\n" in text
    assert row.name in rows()


def test_flags_mean_what_their_options_mean(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class Seen(Exception):
        pass

    def spy(given: dict[str, Any]) -> None:
        parse_options(given)
        seen.append(given)
        raise cirrus_fast.CirrusFastError("seen")

    user = "grid_search" if command == "grid" else "logistic_regression"
    monkeypatch.setattr(f"cirrus_fast.{user}.parse_options", spy)
    run(
        "train", "d", "--learning_rate", "0.5", "--no-fit-intercept", "--class-weight", "1:3",
        "--optimizer", "ftrl", "--epochs", 3, "--no-progress", status=1,
    )  # fmt: skip
    run("train", "d", "--class-weight", "balanced", "--progress", status=1)
    run("train", "d", status=1)
    assert seen == [
        {
            "dataset": "d",
            "learning_rate": 0.5,
            "fit_intercept": False,
            "class_weight": (1.0, 3.0),
            "optimizer": "ftrl",
            "epochs": 3,
            "progress": False,
        },
        {"dataset": "d", "class_weight": "balanced", "progress": True},
        {"dataset": "d"},
    ]


@pytest.mark.parametrize("name", rows())
@pytest.mark.parametrize("command", ["train", "grid"])
def test_every_flag_reaches_its_option(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    meta = rows()[name].metadata
    value: Any = {int: max(meta["low"] or 0, 3), float: 0.25, str: "text"}.get(meta["kind"], True)
    if meta["choices"]:
        value = meta["choices"][-1]
    if name == "class_weight":
        value = "balanced"
    seen: list[dict[str, Any]] = []

    def spy(given: dict[str, Any], **_more: Any) -> None:
        seen.append(given)
        raise cirrus_fast.CirrusFastError("seen")

    user = "grid_search" if command == "grid" else "logistic_regression"
    monkeypatch.setattr(f"cirrus_fast.{user}.parse_options", spy)
    flag = [flag_of(name)] if value is True else [flag_of(name), str(value)]
    more = ["--vary", "seed=1" if name != "seed" else "l2=0"] if command == "grid" else []
    run(command, "d", *flag, *more, status=1)
    assert seen[0][name] == value
    assert type(seen[0][name]) is type(value)


def test_evaluate_says_the_same_of_text_and_data_sets(run: Run, home: Path) -> None:
    model = home / "model.npz"
    expected = LinearModel.load(model).evaluate(f"{home}/data/test")
    for data in ("test", home / "test.svm"):
        found = json.loads(run("evaluate", model, data, "--json").stdout)
        assert found["n_rows"] == ROWS
        assert found["logloss"] == pytest.approx(expected.logloss, rel=1e-6)
        assert found["auc"] == pytest.approx(expected.auc, rel=1e-6)
        assert len(found["calibration"]) == len(expected.calibration)
    piped = run("evaluate", model, "-", text=(home / "test.svm").read_bytes()).stdout
    assert f"{expected.logloss:.5f} nats per row" in piped
    assert "0.1 to 0.2" in piped


def test_predict_writes_a_line_a_row(run: Run, home: Path) -> None:
    model = LinearModel.load(home / "model.npz")
    expected = model.predict_proba(f"{home}/data/test")[:, 1]
    lines = run("predict", home / "model.npz", home / "test.svm", "--proba").stdout.splitlines()
    np.testing.assert_array_equal(np.array(lines, np.float32), expected)
    done = run("predict", home / "model.npz", "test", "-o", "labels.txt").stdout
    assert done == "labels.txt: 3,000 rows\n"
    labels = np.loadtxt("labels.txt", np.float32)
    np.testing.assert_array_equal(labels, model.predict(f"{home}/data/test"))
    found = json.loads(run("predict", home / "model.npz", "test", "--json").stdout)
    assert found["values"] == labels.tolist()


def test_predict_streams_text_in_pieces(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("predict", home / "model.npz", home / "test.svm", "--proba").stdout
    monkeypatch.setattr("cirrus_fast.data.sources.Source.chunks.__defaults__", (10_000,))
    assert run("predict", home / "model.npz", home / "test.svm", "--proba").stdout == whole
    text = (home / "test.svm").read_bytes()
    assert run("predict", home / "model.npz", "-", "--proba", text=text).stdout == whole
    broken = text + b"1 x:1\n"
    line = run("predict", home / "model.npz", "-", text=broken, status=1).stderr
    assert f"standard input: feature index is not a whole number (line {ROWS + 1}, column 3" in line


def test_predict_leaves_no_half_file(run: Run, home: Path) -> None:
    Path("bad.svm").write_text("1 1:1\nx\n")
    error_line(run("predict", home / "model.npz", "bad.svm", "-o", "p.txt", status=1))
    assert not Path("p.txt").exists()


# The grid


def test_grid_prints_and_writes_models_best_first(run: Run) -> None:
    vary = ("--vary", "learning_rate=0.02,0.1:0.3:0.1", "--vary", "minibatch-size=1,20")
    args = ("grid", "scaled", *vary, "--epochs", 1, "--seed", 3, "--consistency", "bsp")
    found = json.loads(run(*args, "-o", "g.json", "--best", "best.npz", "--json").stdout)
    losses = [model["loss"] for model in found["models"]]
    assert len(losses) == 6
    assert losses == sorted(losses)
    assert json.loads(Path("g.json").read_text())["models"] == found["models"]
    assert TrainResult.load("best.npz").test_loss == losses[0]
    heading, *lines = run(*args, "-o", "g.csv").stdout.splitlines()
    assert heading.split()[:3] == ["learning_rate", "minibatch_size", "loss"]
    assert [float(line.split()[2]) for line in lines] == pytest.approx(losses, abs=1e-5)
    assert len(Path("g.csv").read_text().splitlines()) == 7


def test_ranges_are_those_of_numpy_arange() -> None:
    from cirrus_fast.cli.flags import vary

    assert vary("learning_rate=0.1:10:0.1") == ("learning_rate", np.arange(0.1, 10, 0.1).tolist())
    assert vary("epochs=1:7:2,10") == ("epochs", [1, 3, 5, 10])
    assert vary("class_weight=none,balanced,1:3") == (
        "class_weight",
        [None, "balanced", (1.0, 3.0)],
    )
    assert vary("fit_intercept=yes,no") == ("fit_intercept", [True, False])


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("learning_rate", "must be NAME=VALUES"),
        ("learning_rat=1", "did you mean learning_rate?"),
        ("epochs=1.5", "epochs: '1.5' is not a valid integer"),
        ("epochs=1:2", "is not start:stop:step"),
        ("epochs=5:1:1", "is empty"),
        ("l2=0:1:0", "is empty"),
        ("l2=0:1:1e-9", "more than 100000 values"),
        ("optimizer=adam", "is not one of"),
        ("dataset=a", "cannot be varied"),
    ],
)
def test_grid_refuses_what_it_cannot_vary(run: Run, vary: str, said: str) -> None:
    assert said in run("grid", "train", "--vary", vary, status=2).stderr


def test_grid_draws_and_halves_and_goes_on(run: Run) -> None:
    vary = ("--vary", "learning_rate=0.01:1:0.01", "--epochs", 1, "--seed", 2)
    drawn = ("--mode", "random", "--n-trials", 7, "--name", "drawn", "--json")
    found = json.loads(run("grid", "scaled", *vary, *drawn, "--plot", "p.png").stdout)
    assert len(found["models"]) == 7
    assert Path("p.png").stat().st_size > 1000
    again = run("grid", "scaled", *vary, *drawn)
    assert "goes on after 7 of its models" in again.stderr
    assert json.loads(again.stdout)["models"] == found["models"]
    halved = ("--mode", "halving", "--n-trials", 32, "--search-timeout", 60, "--json")
    models = json.loads(run("grid", "scaled", *vary, *halved).stdout)["models"]
    reasons = [model["stop_reason"] for model in models]
    assert (len(reasons), reasons.count("halved")) == (32, 30)


def test_grid_refuses_contradictions(run: Run) -> None:
    many = ("--vary", "l1=0:1:0.001", "--vary", "l2=0:1:0.001")
    assert "1,000,000 models" in run("grid", "train", *many, status=2).stderr
    assert "n_trials" in error_line(run("grid", "train", *many[:2], "--mode", "random", status=1))
    twice = ("--vary", "l2=0,1", "--vary", "l2=2")
    assert "varied twice" in run("grid", "train", *twice, status=2).stderr
    assert "--l2 is given" in run("grid", "train", "--vary", "l2=0,1", "--l2", 1, status=2).stderr
    odd = ("--vary", "l2=0,1", "-o", "x.txt")
    assert ".json or .csv" in run("grid", "train", *odd, status=2).stderr
    assert "must be at least 0" in error_line(run("grid", "train", "--vary", "l2=-1", status=1))


# Errors and help


@pytest.mark.parametrize(
    "args",
    [
        ("train", "nothing"),
        ("info", "nothing"),
        ("train", "train", "--learning-rate", "0"),
        ("train", "train", "--epsilon", "0", "--patience", "3"),
        ("load", "nothing.svm", "x"),
        ("evaluate", "nothing.npz", "test"),
        ("predict", "/dev/null", "test"),
        ("ls", "--storage", "ftp://x"),
        ("--storage", "s3://x", "ls"),
        ("train", "train", "-o", "/dev/null/x/model.npz"),
        ("demo", "-o", "/dev/null/x"),
    ],
    ids=" ".join,
)
def test_errors_are_one_line_and_status_1(run: Run, args: tuple[str, ...]) -> None:
    assert "Traceback" not in error_line(run(*args, status=1))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("trai",), "No such command 'trai': did you mean train? (see cirrus-fast --help)"),
        (("--nothing",), "No such option"),
        (("train",), "Missing argument 'DATASET' (see cirrus-fast train --help)"),
        (("train", "d", "e"), "unexpected extra argument"),
        (("train", "d", "--learning-rat", "1"), "--learning-rate"),
        (("train", "d", "--learning-rate"), "requires an argument"),
        (("train", "d", "--learning-rate", "x"), "'x' is not a valid float"),
        (("train", "d", "--optimizer", "adam"), "is not one of 'adagrad', 'ftrl', 'sgd'"),
        (("train", "d", "--class-weight", "x"), "must be balanced, or NEGATIVE:POSITIVE"),
        (("grid", "d"), "Missing option '--vary'"),
        (("grid", "d", "--vary", "zzz=1"), "unknown option"),
        (("--storage", "ls"), "Missing command"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_status_2(run: Run, args: tuple[str, ...], says: str) -> None:
    assert says in error_line(run(*args, status=2)).replace("see cli", "see cirrus-fast")


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    shown = run(status=2)
    assert "Commands:" in shown.stdout + shown.stderr
    assert "cirrus-fast: error" not in shown.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_cost", "3"),
        ("executor", "lambda"),
    ],
)
def test_what_means_nothing_by_itself_is_refused_as_in_python(
    run: Run, name: str, value: str
) -> None:
    kind = {row.name: row.metadata["kind"] for row in table()}[name]
    given = value if isinstance(kind, tuple) else kind(value)
    with pytest.raises(cirrus_fast.CirrusFastError, match=r"means nothing|cannot reach") as caught:
        parse_options({"dataset": "train", name: given})
    searches = (
        ("grid", "train", "--vary", f"{name}={value}"),
        ("grid", "train", "--vary", "l2=0,1", flag_of(name), value),
    )
    said = f"cirrus-fast: error: {caught.value}"
    assert error_line(run("train", "train", flag_of(name), value, status=1)) == said
    for args in searches:
        found = error_line(run(*args, status=1))
        if name == "executor":  # the models of a search need no server
            assert "is on this machine, where executor=lambda cannot read it" in found
        else:
            assert found == said


@pytest.mark.parametrize("name", ["absent/m.npz", "m.npz"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A folder that lets nothing in, to root either: /proc."""
    ran: list[object] = []
    monkeypatch.setattr(cirrus_fast.LogisticRegression, "run", lambda self: ran.append(self))
    for args in (
        ("train", "train", "-o", f"/proc/{name}"),
        ("train", "train", "--plot", f"/proc/{name}.png"),
        ("grid", "train", "--vary", "l2=0,1", "--best", f"/proc/{name}"),
        ("grid", "train", "--vary", "l2=0,1", "-o", f"/proc/{name}.csv"),
    ):
        assert "cannot be written" in error_line(run(*args, status=1))
    assert not ran


def test_trying_an_output_leaves_nothing_behind(run: Run) -> None:
    run("train", "nothing", "-o", "new/m.npz", status=1)
    assert not list(Path().iterdir())
    Path("old.npz").write_text("old")
    run("train", "nothing", "-o", "old.npz", status=1)
    assert [path.name for path in Path().iterdir()] == ["old.npz"]
    assert Path("old.npz").read_text() == "old"
    run("train", "train", "--epochs", 1, "-o", "/dev/null")


def test_debug_shows_the_traceback(run: Run) -> None:
    for args in (("--debug", "info", "nothing"), ("info", "nothing", "--debug")):
        lines = run(*args, status=1).stderr.splitlines()
        assert lines[0].startswith("Traceback")
        assert lines[-1].startswith("cirrus-fast: error: nothing: no data set")


def test_suggests_the_nearest_command_and_option(run: Run) -> None:
    assert "did you mean train?" in run("trai", status=2).stderr
    assert "there are demo, " in run("zzz", status=2).stderr
    wrong = run("train", "train", "--learning-rat", 1, status=2).stderr
    assert "--learning-rate" in wrong
    assert "is not one of" in run("train", "train", "--optimizer", "adam", status=2).stderr
    run("train", status=2)


def test_one_line_of_help_is_the_same_everywhere() -> None:
    for name, (_, line) in COMMANDS.items():
        made = cli.get_command(None, name)  # type: ignore[arg-type]
        assert made is not None
        assert made.name == name
        assert made.get_short_help_str(200) == line


@pytest.mark.parametrize("name", [name if name != "layer" else "layer build" for name in COMMANDS])
def test_each_command_explains_itself(run: Run, name: str) -> None:
    text = run(*name.split(), "-h").stdout
    assert text.startswith(f"Usage: cli {name} ")
    assert {"--json", "--storage", "--debug"} <= set(text.split())


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"cirrus-fast {cirrus_fast.__version__}\n"


# As a process of its own


def test_help_needs_click_alone(run_python: Callable[..., str]) -> None:
    script = """
import sys
from cirrus_fast.cli import cli
cli(["--help"], standalone_mode=False)
assert not {"numpy", "rich", "matplotlib", "logging.config"} & set(sys.modules), sys.modules
"""
    assert "Commands:" in run_python(script)


def test_module_and_pipes(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        command("train", "scaled", "--epochs", "1", "--progress"),
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=True,
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith("data set")
    assert " rows  train " in done.stderr
    listed = subprocess.run(command("ls"), capture_output=True, text=True, env=environment)
    assert "\x1b" not in listed.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_a_progress_bar(environment: dict[str, str], tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    environment |= {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        command("grid", "scaled", "--vary", "learning_rate=0.1,0.2", "--epochs", "1"),
        stdout=subprocess.PIPE,
        stderr=secondary,
        env=environment,
        cwd=tmp_path,
    )
    os.close(secondary)
    seen = b""
    with suppress(OSError):  # the end of a terminal is an error on Linux
        while piece := os.read(primary, 4096):
            seen += piece
    os.close(primary)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"searching" in seen
    assert b"\x1b[" in seen
    assert b"\x1b" not in out


def test_a_broken_pipe_is_quiet(environment: dict[str, str], home: Path) -> None:
    text = b"1 1:1\n" * 200_000  # more predictions than a pipe holds
    process = subprocess.Popen(
        command("predict", home / "model.npz", "-", "--proba"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(text)
    process.stdin.close()
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) != 0


def test_ctrl_c_saves_what_there_is(environment: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(
            "train", "scaled", "--epochs", 1_000_000, "--epsilon", 0, "--test-fraction", 0.1,
            "--eval-interval", 1, "--progress", "-o", "m.npz", "--json",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "train" in process.stderr.readline()  # the first evaluation
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["stop_reason"] == "interrupted"
    assert error.endswith("cirrus-fast: interrupted\n")
    assert "Traceback" not in error
    assert TrainResult.load(tmp_path / "m.npz").stop_reason == "interrupted"


def test_ctrl_c_ends_a_search_with_what_there_is(
    environment: dict[str, str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(
            "grid", "scaled", "--vary", "seed=0:5000:1", "--epochs", 3, "--epsilon", 0, "-o",
            "g.json", "--json", "--progress",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()  # the first evaluation
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert 0 < len(json.loads(out)["models"]) < 5000
    assert (tmp_path / "g.json").exists()
