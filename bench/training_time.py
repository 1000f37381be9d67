"""How fast training in memory is: `python -m bench.training_time TRAIN.svm TEST.svm [RUNS]`.

Prints, for one pass with the defaults and for several passes that end where solvers end (FTRL, its
l1 worth three rows), on one worker and on one per core: seconds since the first step, rows per
second, and the loss on the test file after each pass. Rows are decoded before the first step.
The best of RUNS runs (default 3) by its time; through the public API, test rows measured beside.
"""

from __future__ import annotations

import sys
import tempfile

import cirrus_fast
from cirrus_fast.data.parallel import available_cores
from cirrus_fast.data.result import TrainResult


def best(runs: int, **options: object) -> TrainResult:
    found = [cirrus_fast.LogisticRegression(options).run() for _ in range(runs)]
    return min(found, key=lambda result: result.history[-1].seconds)


def show(name: str, result: TrainResult) -> None:
    for record in result.history:
        speed = record.rows / record.seconds / 1e6
        print(
            f"| {name} | {result.n_workers} | {record.rows / result.history[0].rows:.0f} "
            f"| {record.seconds:.3f} | {speed:.2f} | {record.test_loss:.5f} | {record.auc:.4f} |",
            flush=True,
        )


def main() -> None:
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    train, test = sys.argv[1:3]
    runs = int(sys.argv[3]) if len(sys.argv) == 4 else 3
    with tempfile.TemporaryDirectory() as storage:
        cirrus_fast.configure(storage=storage)
        dataset = cirrus_fast.load_libsvm(train, "train")
        cirrus_fast.load_libsvm(test, "test", like="train")
        shared = {
            "dataset": "train",
            "test_dataset": "test",
            "epsilon": 0,
            "eval_interval": 1.0,
            "progress": False,
        }
        print(f"{dataset.n_rows} rows, kernels {cirrus_fast.active_impl()}\n")
        print("| training | workers | passes | seconds | M rows/s | test log-loss | AUC |")
        print("|---|---|---|---|---|---|---|")
        for workers in sorted({1, available_cores()}):
            show("defaults", best(runs, n_workers=workers, epochs=1, **shared))
        for workers in sorted({1, available_cores()}):
            passes = best(
                runs,
                n_workers=workers,
                epochs=6,
                optimizer="ftrl",
                l1=3 / dataset.n_rows,
                **shared,
            )
            show("ftrl, l1 = 3/n", passes)


if __name__ == "__main__":
    main()
