"""LibSVM text to a CSR."""

from __future__ import annotations

import io

import numpy as np
import pytest

from cirrus_fast import parse_libsvm


def ours(text: bytes, n_threads: int):
    rows = parse_libsvm(text, n_features=1 << 19, n_threads=n_threads)
    return rows.indptr, rows.indices, rows.data, rows.labels


def scikit_learn(text: bytes):
    from sklearn.datasets import load_svmlight_file

    matrix, labels = load_svmlight_file(
        io.BytesIO(text), n_features=1 << 19, dtype=np.float32, zero_based=False
    )
    return matrix.indptr, matrix.indices, matrix.data, labels


PEERS = {
    "cirrus_fast, 1 thread": lambda text: ours(text, 1),
    "cirrus_fast, 2 threads": lambda text: ours(text, 2),
    "scikit-learn": scikit_learn,
}


@pytest.mark.parametrize("name", PEERS)
def bench_parse(benchmark, peer, text, rows, name):
    run = PEERS[name]
    expected = (rows.indptr, rows.indices, rows.data, rows.labels)
    found = run(text)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    peer(name, "parse text to a fresh CSR", n_bytes=len(text), n_rows=rows.n_rows)
    if name == "scikit-learn":
        benchmark.pedantic(run, args=(text,), rounds=1)
    else:
        benchmark(run, text)
