"""The whole path on made-up data: no server, no account, seconds.

Everything lies in one folder, which may be thrown away. A list of what the demonstration made is
kept in it, so that a second run replaces those files and no others.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cirrus_fast._kernels import active_impl
from cirrus_fast.cli.output import byte_rate, number_of, row_rate
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.evaluation import Evaluation
from cirrus_fast.data.generators import make_clicks
from cirrus_fast.data.parallel import available_cores
from cirrus_fast.data.result import TrainResult
from cirrus_fast.data.storage import local_path, write_file
from cirrus_fast.errors import CirrusFastError, OptionError
from cirrus_fast.grid_search import GridResults, GridSearch
from cirrus_fast.logistic_regression import LogisticRegression
from cirrus_fast.preprocessing import MIN_MAX_SCALING, load_libsvm, normalize

SEED = 0
FEWEST_ROWS = 1000
DEFAULT_ROWS = 200_000
GRID: dict[str, list[Any]] = {"learning_rate": [0.05, 0.1, 0.2], "minibatch_size": [1, 20]}

_MADE = ".cirrus_demo.json"
_DATA = ("train", "test", "train_scaled", "test_scaled")
_FILES = ("train.svm", "test.svm", "model.npz", "loss.png", "results.md")


@dataclass(frozen=True, slots=True)
class Step:
    """One step done: what it did with how many rows or bytes, and in how long."""

    name: str
    did: str
    seconds: float
    n_rows: int | None = None
    n_bytes: int | None = None

    @property
    def rate(self) -> str:
        if self.n_bytes is not None:
            return byte_rate(self.n_bytes, self.seconds)
        return "" if self.n_rows is None else row_rate(self.n_rows, self.seconds)


@dataclass(slots=True)
class Demo:
    """What came of it; `files` are those left in `folder`, with what they are."""

    folder: Path
    n_train: int
    n_test: int
    steps: list[Step] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    result: TrainResult | None = None
    evaluation: Evaluation | None = None
    grid: GridResults | None = None
    seconds: float = 0.0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def dataset(self, name: str) -> str:
        return str(self.data.absolute() / name)

    @property
    def baseline(self) -> float:
        """The test loss of always predicting the share of positive training rows."""
        train, test = (Dataset(self.dataset(name)).manifest for name in ("train", "test"))
        p = train.n_positive / train.n_rows
        share = test.n_positive / test.n_rows
        return -share * math.log(p) - (1 - share) * math.log(1 - p)


def prepare_demo(folder: str | Path, rows: int = DEFAULT_ROWS) -> Demo:
    """Checks that there is room: nothing that somebody else made may be replaced.

    Parameters
    ----------
    folder : made if it is not there; files in it that no demonstration made are left alone
    rows : training rows; a quarter as many test rows

    Raises
    ------
    CirrusFastError : a file of the same name as one to be made is there and somebody else's
    """
    if rows < FEWEST_ROWS:
        raise OptionError(f"rows={rows}: must be at least {FEWEST_ROWS}")
    demo = Demo(local_path(os.fspath(folder)), n_train=rows, n_test=max(rows // 4, FEWEST_ROWS))
    _claim(demo.folder)
    return demo


def run_demo(demo: Demo, on_step: Callable[[Step], object] = lambda _: None) -> None:
    """Makes data, loads, scales, trains, evaluates and searches; leaves model, picture, report.

    `on_step` is called after each step.
    """
    began = time.perf_counter()
    for name, work in _STEPS.items():
        start = time.perf_counter()
        did = work(demo)
        demo.steps.append(Step(name, seconds=time.perf_counter() - start, **did))
        on_step(demo.steps[-1])
    demo.seconds = time.perf_counter() - began
    _report(demo)


def _claim(folder: Path) -> None:
    """Notes down what will be made, and refuses if any of it is there and not ours."""
    names = [*_FILES, *(f"data/{name}" for name in _DATA)]
    marker = folder / _MADE
    ours: list[str] = []
    if marker.is_file():
        try:
            ours = list(json.loads(marker.read_text())["made"])
        except (ValueError, KeyError, TypeError) as error:
            raise CirrusFastError(f"{marker}: damaged; remove it or use another folder") from error
    for name in names:
        if (folder / name).exists() and name not in ours:
            raise CirrusFastError(
                f"{folder / name}: is there and not from an earlier demo; use another folder"
            )
    write_file(marker, json.dumps({"made": names}).encode())


# What a step says of itself: the fields of Step.
_Did = dict[str, Any]


def _make(demo: Demo) -> _Did:
    train, test = demo.folder / "train.svm", demo.folder / "test.svm"
    make_clicks(train, demo.n_train, seed=SEED)
    make_clicks(test, demo.n_test, seed=SEED, stream=1)
    demo.files["train.svm, test.svm"] = "the data as LibSVM text"
    did = f"{demo.n_train:,} training and {demo.n_test:,} test rows of LibSVM text"
    return {"did": did, "n_rows": demo.n_train + demo.n_test}


def _load(demo: Demo) -> _Did:
    n_bytes = made = 0
    for name, like in (("train", None), ("test", demo.dataset("train"))):
        text = demo.folder / f"{name}.svm"
        dataset = load_libsvm(text, demo.dataset(name), like=like, overwrite=True)
        n_bytes += text.stat().st_size
        made += dataset.n_bytes
    demo.files["data/"] = "data sets: " + ", ".join(_DATA)
    rows = demo.n_train + demo.n_test
    did = f"text of {n_bytes / rows:.0f} bytes a row into data sets of {made / rows:.0f}"
    return {"did": did, "n_bytes": n_bytes}


def _normalize(demo: Demo) -> _Did:
    for name, like in (("train", None), ("test", demo.dataset("train_scaled"))):
        normalize(
            demo.dataset(name),
            demo.dataset(f"{name}_scaled"),
            MIN_MAX_SCALING,
            like=like,
            overwrite=True,
        )
    did = "min-max scaling; the test rows by what the training rows say"
    return {"did": did, "n_rows": demo.n_train + demo.n_test}


def _train(demo: Demo) -> _Did:
    task = LogisticRegression(dataset=demo.dataset("train_scaled"), progress=False)
    demo.result = result = _finished(task.run())
    result.save(demo.folder / "model.npz")
    demo.files["model.npz"] = "the model and how it came about"
    passes = result.rows_processed / demo.n_train
    workers = number_of(result.n_workers, "worker")
    did = f"{passes:.1f} passes over the rows by {workers}, stopped: {result.stop_reason}"
    return {"did": did, "n_rows": result.rows_processed}


def _finished(result: TrainResult) -> TrainResult:
    """A run ends with what there is on Ctrl-C; here that ends everything."""
    if result.stop_reason == "interrupted":
        raise KeyboardInterrupt
    return result


def _evaluate(demo: Demo) -> _Did:
    assert demo.result is not None
    demo.evaluation = found = demo.result.model.evaluate(demo.dataset("test_scaled"))
    auc = "" if found.auc is None else f", AUC {found.auc:.4f}"
    did = f"unseen rows: log-loss {found.logloss:.4f}{auc}, accuracy {found.accuracy:.1%}"
    return {"did": did, "n_rows": found.n_rows}


def _search(demo: Demo) -> _Did:
    search = GridSearch(
        param_base={"dataset": demo.dataset("train_scaled"), "progress": False},
        hyper_vars=list(GRID),
        hyper_params=list(GRID.values()),
    )
    demo.grid = grid = search.run()
    for trial in grid:
        if trial.result is not None:
            _finished(trial.result)
    rows = sum(t.result.rows_processed for t in grid if t.result is not None)
    best = ", ".join(f"{name}={value}" for name, value in grid.best_params_.items())
    return {"did": f"{len(grid)} models; best {best}: {grid.best.loss:.4f}", "n_rows": rows}


def _draw(demo: Demo) -> _Did:
    assert demo.result is not None
    try:
        demo.result.plot(demo.folder / "loss.png")
    except CirrusFastError as error:
        demo.notes.append(f"no picture: {error}")
        return {"did": "left out, matplotlib is not there"}
    demo.files["loss.png"] = "the loss while it trained"
    return {"did": "the loss while it trained, as a picture"}


_STEPS: Mapping[str, Callable[[Demo], _Did]] = {
    "make data": _make,
    "load": _load,
    "normalize": _normalize,
    "train": _train,
    "evaluate": _evaluate,
    "search": _search,
    "draw": _draw,
}


# The report


def _report(demo: Demo) -> None:
    assert demo.evaluation is not None
    assert demo.grid is not None
    found = demo.evaluation
    auc = "" if found.auc is None else f", AUC {found.auc:.4f}"
    lines = [
        "# What the cirrus_fast demo measured",
        "",
        f"{demo.n_train:,} training rows and {demo.n_test:,} test rows, "
        f"{number_of(available_cores(), 'core')}, {active_impl()} kernels, "
        f"{demo.seconds:.1f} s in all.",
        "",
        *_markdown(
            ("step", "what", "seconds", "rate"),
            [(s.name, s.did, f"{s.seconds:.2f}", s.rate) for s in demo.steps],
        ),
        "",
        "## On the test rows",
        "",
        f"Log-loss {found.logloss:.4f} nats per row (always guessing the average: "
        f"{demo.baseline:.4f}){auc}, accuracy {found.accuracy:.2%}.",
        "",
        *_markdown(
            ("predicted", "rows", "mean predicted", "really positive"),
            [
                (
                    f"{b.low:.1f} to {b.high:.1f}",
                    f"{b.n_rows:,}",
                    f"{b.mean_predicted:.4f}",
                    f"{b.positive_rate:.4f}",
                )
                for b in found.calibration
            ],
        ),
        "",
        "## The search, best first",
        "",
        *_markdown(
            (*GRID, "test loss", "AUC", "seconds", "stopped"),
            [
                (
                    *(f"{value:g}" for value in trial.params.values()),
                    *(
                        ("-", "-", "-", str(trial.error))
                        if trial.result is None
                        else (
                            f"{trial.loss:.4f}",
                            "-" if trial.result.auc is None else f"{trial.result.auc:.4f}",
                            f"{trial.result.seconds:.2f}",
                            trial.result.stop_reason,
                        )
                    ),
                )
                for trial in demo.grid
            ],
        ),
    ]
    write_file(demo.folder / "results.md", ("\n".join(lines) + "\n").encode())
    demo.files["results.md"] = "the tables"


def _markdown(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [heading, ("---",) * len(heading), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
