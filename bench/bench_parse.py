"""LibSVM text, in the page cache, to rows in memory."""

from __future__ import annotations

import numpy as np
import pytest

from bench import data, limits, ours, peers

STREAM = "parse text, streaming into blocks, 1 thread"
FRESH = "parse text to a fresh CSR, {}"
SLOW_ROWS = 50_000  # scikit-learn's loader takes 20 seconds for a million


def threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def size(path, rows) -> dict[str, int]:
    return {"n_bytes": path.stat().st_size, "n_rows": rows.n_rows}


def same(matrix, labels, rows) -> None:
    """Bit for bit what our parser found; some peers leave empty trailing columns out."""
    assert np.array_equal(matrix.indptr, rows.indptr)
    assert np.array_equal(matrix.indices, rows.indices)
    assert np.array_equal(matrix.data, rows.data)
    assert np.array_equal(np.asarray(labels) > 0, rows.labels > 0)


# Streaming


@pytest.mark.ours
def bench_stream(measure):
    text, rows = data.mapped(data.train_path()), data.train_rows()
    assert ours.parse_blocks(text) == (rows.n_rows, rows.nnz)
    measure(STREAM, "cirrus_fast", lambda: ours.parse_blocks(text), **size(data.train_path(), rows))


def bench_stream_vowpal(measure):
    peers.need("vowpalwabbit")
    path, _ = data.vowpal_paths()
    measure(
        STREAM,
        "Vowpal Wabbit, its own text, no learning (parser thread and main thread)",
        lambda: peers.vowpal("-d", path, "--noop"),
        **size(path, data.train_rows()),
    )


def bench_stream_xgboost(measure):
    _xgboost(measure, STREAM, 1)


def bench_stream_limit_copy(measure):
    source = np.frombuffer(data.mapped(data.train_path()), np.uint8)
    to = np.ones_like(source)
    extent = size(data.train_path(), data.train_rows())
    measure(STREAM, "limit: memcpy of the text, warm", lambda: limits.copy(to, source), **extent)


def bench_stream_limit_separators(measure):
    text, rows = data.mapped(data.train_path()), data.train_rows()
    found = limits.separators(text)
    assert found == sum(bytes(text).count(c) for c in (b" ", b":", b"\n"))
    extent = size(data.train_path(), rows)
    measure(STREAM, "limit: separators counted", lambda: limits.separators(text), **extent)


# To a fresh CSR


@pytest.mark.ours
@pytest.mark.parametrize("n_threads", [1, 2])
def bench_fresh(measure, n_threads):
    text, rows = data.mapped(data.train_path()), data.train_rows()
    found = ours.parse_csr(text, n_threads)
    same(found, found.labels, rows)
    del found
    measure(
        FRESH.format(threads(n_threads)),
        f"cirrus_fast, {threads(n_threads)}",
        lambda: ours.parse_csr(text, n_threads),
        **size(data.train_path(), rows),
    )


@pytest.mark.parametrize("n_threads", [1, 2])
def bench_fresh_xgboost(measure, n_threads):
    _xgboost(measure, FRESH.format(threads(n_threads)), n_threads)


def _xgboost(measure, group: str, n_threads: int) -> None:
    xgboost = peers.need("xgboost")
    path, rows = data.train_path(), data.train_rows()
    xgboost.set_config(verbosity=0)

    def load():
        return xgboost.DMatrix(f"{path}?format=libsvm&indexing_mode=1", nthread=n_threads)

    found = load()
    same(found.get_data(), found.get_label(), rows)
    del found
    name = f"xgboost DMatrix (dmlc), {threads(n_threads)}"
    measure(group, name, load, **size(path, rows))


def bench_fresh_svmloader(measure):
    svmloader = peers.need("svmloader")
    path, rows = data.train_path(), data.train_rows()

    def load():
        return svmloader.load_svmfile(
            str(path), dtype="f", ltype="i", nfeatures=rows.n_features, zero_based=False
        )

    same(*load(), rows)
    measure(FRESH.format("1 thread"), "svmloader, float32", load, **size(path, rows))


def bench_fresh_scikit_learn(measure):
    datasets = peers.need("sklearn.datasets")
    rows = data.first(data.train_rows(), SLOW_ROWS)
    path = data.short_path(SLOW_ROWS)

    def load():
        return datasets.load_svmlight_file(
            str(path), n_features=rows.n_features, dtype=np.float32, zero_based=False
        )

    same(*load(), rows)
    measure(
        FRESH.format("1 thread"),
        "scikit-learn load_svmlight_file",
        load,
        rounds=3,
        given=f"{rows.n_rows:,} rows",
        **size(path, rows),
    )


@pytest.mark.parametrize("n_threads", [1, 2])
def bench_fresh_limit(measure, n_threads):
    rows = data.train_rows()
    source = np.zeros(rows.nbytes, np.uint8)
    extent = size(data.train_path(), rows)
    name = "limit: memcpy of the CSR to fresh pages, 1 thread"
    group = FRESH.format(threads(n_threads))
    measure(group, name, lambda: limits.copy_fresh(source), **extent)
