"""`python -m bench.memory WORK`: does one piece of work, for its memory to be watched from outside.

Prints a line when everything before the work is done, waits for one on standard input, works, and
prints the bytes of the buffers that the work was asked to fill (bench_memory.py).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import data, ours


def load_libsvm(scratch: Path) -> Callable[[], int]:
    """Text to shards on disk: no buffers are asked for."""

    def work() -> int:
        ours.load(data.train_path(), scratch / "set", 2)
        return 0

    return work


def parse_csr(_scratch: Path) -> Callable[[], int]:
    def work() -> int:
        return ours.parse_csr(data.mapped(data.train_path()), 1).nbytes

    return work


def xgboost(_scratch: Path) -> Callable[[], int]:
    import xgboost

    xgboost.set_config(verbosity=0)

    def work() -> int:
        xgboost.DMatrix(f"{data.train_path()}?format=libsvm&indexing_mode=1", nthread=1)
        return _text_as_csr()

    return work


def svmloader(_scratch: Path) -> Callable[[], int]:
    import svmloader

    def work() -> int:
        svmloader.load_svmfile(str(data.train_path()), dtype="f", ltype="i", zero_based=False)
        return _text_as_csr()

    return work


def train(scratch: Path) -> Callable[[], int]:
    """Shards to a model by the public way, two epochs on two workers."""
    dataset = ours.load(data.train_path(), scratch / "set", 2)

    def work() -> int:
        ours.run(str(scratch / "set"), 2, epochs=2)
        return ours.decoded_bytes(dataset)

    return work


def scikit_learn(_scratch: Path) -> Callable[[], int]:
    """Beyond the CSR, which is there before."""
    from sklearn.linear_model import SGDClassifier

    rows, _ = data.scaled()
    matrix = rows.to_scipy()

    def work() -> int:
        SGDClassifier(loss="log_loss", max_iter=2, tol=None).fit(matrix, rows.labels)
        return 0

    return work


def _text_as_csr() -> int:
    """Bytes of the text's rows in the arrays that a CSR of ours has, about what any keeps."""
    text = data.mapped(data.train_path())
    rows, entries = ours.parse_blocks(text)
    return 4 * rows + 8 * (rows + 1) + 8 * entries


WORK = {f.__name__: f for f in (load_libsvm, parse_csr, xgboost, svmloader, train, scikit_learn)}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work = WORK[sys.argv[1]](Path(scratch))
        print("ready", flush=True)
        sys.stdin.readline()
        asked = work()
        print(asked, flush=True)


if __name__ == "__main__":
    main()
