"""One machine of two cores: Bösen's design, Vowpal Wabbit, scikit-learn, and our own kernels.

Each gives points (seconds, test log-loss), the clock standing still while test rows are measured,
from the first byte of text on unless it says something else. A peer that is not installed is None.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench import data, ours, peers
from bench.paper.learning import FTRL, Point, reached

CORES = 2
# The best of some: mini-batches of 200 to 2,000, staleness 0 to 16, rates 0.005 to 0.015, decays
# 0.3 to 0.7. One thread needs as many rows.
BOSEN = {"batch": 2000, "staleness": 4, "rate": 0.01, "decay": 0.4}
_SOURCE = Path(__file__).with_name("bosen.c")


def bosen(numbers: str, targets: tuple[float, ...], epochs: int, runs: int) -> list[Point]:
    """The run that reached the first target soonest; each ends at the last."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "bosen"
        subprocess.run(
            [
                "cc",
                "-std=gnu11",
                "-O3",
                "-march=native",
                "-o",
                program,
                _SOURCE,
                "-lm",
                "-lpthread",
            ],
            check=True,
        )
        settings = [str(value) for value in (CORES, *BOSEN.values(), epochs, numbers, min(targets))]
        found = []
        for _ in range(runs):
            told = subprocess.run(
                [program, data.train_path(), data.test_path(), *settings],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            lines = map(json.loads, told.splitlines())
            found.append([(line["seconds"], line["loss"]) for line in lines])
    return min(found, key=lambda points: reached(points, max(targets)) or float("inf"))


def vowpal() -> list[Point] | None:
    """One pass from its own text."""
    if importlib.util.find_spec("vowpalwabbit") is None:
        return None
    train, test = data.vowpal_paths()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        took = _least(lambda: peers.vowpal("-d", train, *peers.VOWPAL_LEARNER, "-f", model), runs=2)
        rows = data.test_rows()
        loss = ours.evaluate(peers.vowpal_margins(model, test), rows).logloss
    return [(took, loss)]


def scikit_learn(epochs: int) -> list[Point] | None:
    """Averaged SGD, part after part, on rows that our parser read and scaled from the text."""
    if importlib.util.find_spec("sklearn") is None:
        return None
    from sklearn.linear_model import SGDClassifier

    began = time.perf_counter()
    rows = ours.parse_csr(data.mapped(data.train_path()), CORES)
    took = time.perf_counter() - began
    scaled, test = data.scaled()
    learner = SGDClassifier(
        loss="log_loss", learning_rate="constant", eta0=0.03, alpha=0, average=True
    )
    X, y = scaled.to_scipy(), scaled.labels
    every, points = max(1, rows.n_rows // 5), []
    for _ in range(epochs):
        for first in range(0, rows.n_rows, every):
            began = time.perf_counter()
            learner.partial_fit(X[first : first + every], y[first : first + every], [0, 1])
            took += time.perf_counter() - began
            weights = learner.coef_[0].astype(np.float32)
            loss = ours.logloss(weights, float(learner.intercept_[0]), test)
            points.append((took, loss))
    return points


def kernels(dataset: str, *, text: bool) -> dict[str, float]:
    """Ours in memory on two cores, from text or from a data set: rows a second of one pass, with
    all that comes before and after it."""
    n_rows = data.train_rows().n_rows
    ftrl = {"learning_rate": FTRL["rate"], "l1": FTRL["l1_rows"] / n_rows}
    took = []
    for optimizer, more in (("adagrad", {}), ("ftrl", ftrl)):
        options: dict[str, object] = {"optimizer": optimizer, "epochs": 1, "eval_interval": 1.0}
        source = dataset
        if text:
            source = str(data.train_path())
            options["model_size"] = data.train_rows().n_features
        took.append(_least(partial(ours.run, source, CORES, **options | more)))
    return {"rows_a_second": n_rows / min(took)}


def _least(run: Callable[[], object], runs: int = 3) -> float:
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return min(took)
