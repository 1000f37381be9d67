"""A search of many models beside one model, and beside peers that train them one after another.

    python -m bench.searches train.svm test.svm

Prints a table. With `--only functions` the paper's grid is trained by functions instead, on the
Lambda of this machine, from a server of S3's objects. scikit-learn's GridSearchCV over
SGDClassifier and VW search 16 learning rates, one pass each, on the same rows; VW from its cache,
which its first run makes. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import cirrus_fast
from bench.objects import served, speak_to
from cirrus_fast import GridSearch, LogisticRegression, load_libsvm, parse_libsvm
from cirrus_fast.local_lambda.function import Function, installed_layer
from cirrus_fast.local_lambda.server import LocalLambda

RATES = np.geomspace(0.02, 1.0, 16)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def best_of(n: int, work: Callable[[], Any]) -> tuple[float, Any]:
    return min((timed(work) for _ in range(n)), key=lambda one: one[0])


def papers_grid(base: dict[str, Any]) -> GridSearch:
    names, values = ["learning_rate", "minibatch_size"], [np.arange(0.1, 10, 0.1), [100, 1000]]
    return GridSearch(LogisticRegression, base, names, values)


def ours(base: dict[str, Any], repeats: int) -> list[tuple[str, float, float, str]]:
    """(what, seconds, best logloss, note)"""
    rows = []
    ones: dict[int, float] = {}
    for size in (1, 100, 1000):
        alone = {**base, "n_workers": 1, "minibatch_size": size}
        seconds, one = best_of(repeats, LogisticRegression(alone).run)
        ones[size] = seconds
        rows.append((f"one model, mini-batches of {size}, 1 thread", seconds, one.test_loss, ""))
        search = GridSearch(LogisticRegression, alone, ["learning_rate"], [RATES])
        seconds, found = best_of(repeats, search.run)
        note = f"{seconds / ones[size]:.2f} x one model"
        rows.append((f"16 rates, mini-batches of {size}, 1 thread", seconds, found.best.loss, note))
    seconds, found = best_of(repeats, papers_grid(base).run)
    note = f"{seconds / ones[1000]:.1f} x one model, {len(found)} models"
    rows.append(("the paper's grid, all threads", seconds, found.best.loss, note))
    values = [np.geomspace(1e-3, 3, 256), [0, 1e-8, 1e-7, 1e-6]]
    names = ["learning_rate", "l1"]
    draw = {"mode": "random", "n_trials": 64}
    full, everything = best_of(1, GridSearch(LogisticRegression, base, names, values, **draw).run)
    draw["mode"] = "halving"
    seconds, found = best_of(1, GridSearch(LogisticRegression, base, names, values, **draw).run)
    cost = [sum(t.result.rows_processed for t in one if t.result) for one in (everything, found)]
    note = (
        f"{cost[1] / cost[0]:.0%} of the rows and {seconds / full:.0%} of the seconds of all 64, "
        f"logloss {found.best.loss - everything.best.loss:+.5f}"
    )
    rows.append(("halving over 64 drawn models", seconds, found.best.loss, note))
    return rows


def on_functions(
    base: dict[str, Any], folder: Path, n: int, memory_mb: int
) -> list[tuple[str, float, float, str]]:
    """The first search begins the sandboxes, the others find them warm."""
    (folder / "s3").mkdir(exist_ok=True)
    (folder / "s3" / "bucket").symlink_to(folder.resolve())
    with served(folder / "s3") as address:
        speak_to(address)
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        layer = installed_layer(folder / "opt")
        function = Function("worker", layer, environment=aws, memory_mb=memory_mb)
        os.environ["CIRRUS_FAST_FUNCTION"] = "worker"
        cirrus_fast.configure(storage="s3://bucket")
        one = LogisticRegression({**base, "n_workers": 1}).run().reads
        there = {**base, "executor": "lambda", "n_workers": n, "worker_size": 512}
        rows = []
        with LocalLambda([function]) as local:
            os.environ["AWS_ENDPOINT_URL_LAMBDA"] = local.url
            for state in ("cold", "warm"):
                seconds, found = timed(papers_grid(there).run)
                bytes_read = max(sum(r.bytes for r in t.result.reads_by_epoch) for t in found)
                note = f"{len(found)} models, each function reads {bytes_read / one.bytes:.2f} x "
                note += f"what one model does, ${found.cost:.6f}"
                what = f"the paper's grid, {n} {state} functions of {memory_mb} MB"
                rows.append((what, seconds, found.best.loss, note))
    return rows


def scikit_learn(train: Path, test: Path) -> tuple[str, float, float, str]:
    from scipy.sparse import vstack
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.preprocessing import MaxAbsScaler

    parts = [parse_libsvm(path.read_bytes(), n_features=2**19) for path in (train, test)]
    X = MaxAbsScaler().fit_transform(vstack([part.to_scipy() for part in parts]))
    y = np.concatenate([part.labels for part in parts]) > 0
    split = PredefinedSplit(np.repeat([-1, 0], [part.n_rows for part in parts]))
    model = SGDClassifier(loss="log_loss", learning_rate="constant", max_iter=1, tol=None, alpha=0)
    search = GridSearchCV(
        model, {"eta0": RATES}, cv=split, scoring="neg_log_loss", refit=False, n_jobs=2
    )
    seconds, found = timed(lambda: search.fit(X, y))
    return "scikit-learn GridSearchCV, 16 rates, 2 jobs", seconds, -found.best_score_, "rows given"


def vowpal_wabbit(train: Path, test: Path, folder: Path) -> tuple[str, float, float, str]:
    """Its own format first, which is not counted."""
    files = []
    for path in (train, test):
        files.append(folder / path.name)
        if files[-1].exists():
            continue
        with path.open() as lines, files[-1].open("w") as out:
            for line in lines:
                label, _, rest = line.partition(" ")
                out.write(f"{1 if float(label) > 0 else -1} | {rest}")

    import vowpalwabbit

    def run(*more: str) -> float:
        words = ["--loss_function", "logistic", "-b", "20", "--quiet", *more]
        vw = vowpalwabbit.Workspace(arg_list=words)
        loss = vw.get_sum_loss() / vw.get_weighted_examples()
        vw.finish()
        return float(loss)

    def search() -> float:
        found = []
        for i, rate in enumerate(RATES):
            model = str(folder / f"{i}.vw")
            run("-d", str(files[0]), "-c", "-l", f"{rate:g}", "-f", model)
            found.append(run("-t", "-d", str(files[1]), "-i", model))
        return min(found)

    seconds, best = timed(search)
    return "VW, 16 rates one after another", seconds, best, "cache made by the first"


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.searches", description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps data in other formats here")
    parser.add_argument("--only", choices=["ours", "functions", "scikit-learn", "vw"])
    parser.add_argument("--functions", type=int, default=10, metavar="N", help="how many")
    parser.add_argument("--memory", type=int, default=1769, metavar="MB", help="of a function")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = str(chosen.folder or temporary)
        if chosen.only in (None, "ours", "functions"):
            cirrus_fast.configure(storage=scratch)
            load_libsvm(str(chosen.train), "train")
            load_libsvm(str(chosen.test), "test", like="train")
            base: dict[str, Any] = {"dataset": "train", "test_dataset": "test"}
            base |= {"epochs": 1, "epsilon": 0}
            base["progress"] = False
            if chosen.only == "functions":
                rows += on_functions(base, Path(scratch), chosen.functions, chosen.memory)
            else:
                rows += ours(base, chosen.repeats)
        if chosen.only in (None, "scikit-learn"):
            rows.append(scikit_learn(chosen.train, chosen.test))
        if chosen.only in (None, "vw") and importlib.util.find_spec("vowpalwabbit"):
            rows.append(vowpal_wabbit(chosen.train, chosen.test, Path(scratch)))
    print("| search | seconds | best logloss | |\n|---|---|---|---|")
    for what, seconds, best, note in rows:
        print(f"| {what} | {seconds:.2f} | {best:.4f} | {note} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
