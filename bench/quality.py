"""How good the models are: `python -m bench.quality [FOLDER]` prints two tables.

Defaults: test log-loss with nothing tuned, beside scikit-learn's liblinear run to convergence at
the best of some strengths. Optimum: how near a long run comes to the least value of the objective
F, found for these sets by Newton's method. FOLDER may hold more LibSVM files (the frappe pair).
"""

from __future__ import annotations

import gzip
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression as Peer
from sklearn.metrics import log_loss

import cirrus_fast
from cirrus_fast.data.csr import CSR

DATA = Path(__file__).parents[1] / "tests" / "data"
FRAPPE = ("frappe.validation.libfm.gz", "frappe.test.libfm.gz")
STRENGTHS = (0.02, 0.08, 0.3, 1.0, 5.0)  # C, that is 1 / (n l2)

# Least value of n F with l2 = 1/n and a free intercept, and options that come near it.
OPTIMA = {
    "a9a.gz": (10528.572431, {"optimizer": "ftrl", "epochs": 2000}),
    "a1a": (515.530202, {"optimizer": "ftrl", "learning_rate": 1.0, "epochs": 3000}),
    "heart_scale": (94.655224, {"optimizer": "ftrl", "learning_rate": 1.0, "epochs": 400}),
    "rcv1_small.libsvm.gz": (476.664631, {"optimizer": "ftrl", "epochs": 400}),
    "w8a.gz": (2540.862920, {"optimizer": "adagrad", "epochs": 400}),
}


def read(path: Path, n_features: int | None = None) -> CSR:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return cirrus_fast.parse_libsvm(raw, n_features=n_features)


def pairs(folder: Path | None) -> Iterator[tuple[str, CSR, CSR]]:
    """(name, training rows, test rows)"""
    yield "a9a", read(DATA / "a9a.gz", 123), read(DATA / "a9a.t.gz", 123)
    train, test = DATA / "rcv1_small.libsvm.gz", DATA / "rcv1_small_test.libsvm.gz"
    yield "rcv1_small", read(train, 47236), read(test, 47236)
    whole = read(DATA / "w8a.gz", 300)
    order = np.random.default_rng(0).permutation(whole.n_rows)
    cut = whole.n_rows * 4 // 5
    yield "w8a, 4/5 and 1/5", take(whole, order[:cut]), take(whole, order[cut:])
    if folder is not None and (folder / FRAPPE[0]).exists():
        yield "frappe", *(read(folder / name, 5382) for name in FRAPPE)
    with tempfile.TemporaryDirectory() as scratch:
        clicks = []
        for stream, n_rows in enumerate((200_000, 50_000)):
            path = Path(scratch) / "clicks.svm"
            cirrus_fast.make_clicks(path, n_rows, seed=1, stream=stream)
            clicks.append(read(path, 1 << 19))
    yield "made-up clicks, 200,000 rows", *clicks


def take(rows: CSR, order: np.ndarray) -> CSR:
    matrix = rows.to_scipy()[order]
    return CSR(
        rows.labels[order],
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.uint32),
        matrix.data,
        rows.n_features,
    )


def peer_loss(train: CSR, test: CSR) -> float:
    """The best test log-loss of converged models of several strengths."""
    losses = []
    for strength in STRENGTHS:
        model = Peer(C=strength, solver="liblinear", tol=1e-4).fit(train.to_scipy(), train.labels)
        losses.append(log_loss(test.labels, model.predict_proba(test.to_scipy())[:, 1]))
    return min(losses)


def defaults(folder: Path | None) -> None:
    print("| data | defaults: test loss | AUC | seconds | converged peer | above it |")
    print("|---|---|---|---|---|---|")
    for name, train, test in pairs(folder):
        dataset = cirrus_fast.load_csr(train, None, "train", overwrite=True)
        started = time.perf_counter()
        result = cirrus_fast.LogisticRegression({"dataset": dataset.uri}).run()
        seconds = time.perf_counter() - started
        found = result.model.evaluate(test)
        best = peer_loss(train, test)
        print(
            f"| {name} | {found.logloss:.4f} | {found.auc:.4f} | {seconds:.2f} | {best:.4f} "
            f"| {found.logloss / best - 1:+.2%} |",
            flush=True,
        )


def optima() -> None:
    print("\n| data | options | n F | least | above it | seconds |")
    print("|---|---|---|---|---|---|")
    for name, (least, options) in OPTIMA.items():
        dataset = cirrus_fast.load_csr(read(DATA / name), None, "train", overwrite=True)
        n_rows = dataset.n_rows
        started = time.perf_counter()
        model = (
            cirrus_fast.LogisticRegression(
                dataset=dataset.uri,
                l2=1 / n_rows,
                epsilon=0,
                eval_interval=float(options["epochs"]),
                consistency="bsp",
                **options,
            )
            .run()
            .model
        )
        seconds = time.perf_counter() - started
        squares = float((model.weights.astype(np.float64) ** 2).sum())
        value = model.evaluate(dataset).logloss * n_rows + squares / 2
        text = ", ".join(f"{key}={option}" for key, option in options.items())
        print(
            f"| {name} | {text} | {value:.3f} | {least:.3f} | {value / least - 1:.1e} "
            f"| {seconds:.1f} |",
            flush=True,
        )


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as storage:
        cirrus_fast.configure(storage=storage)
        defaults(folder)
        optima()


if __name__ == "__main__":
    main()
