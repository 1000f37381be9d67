"""Column statistics and scaling of rows in memory."""

from __future__ import annotations

import numpy as np
import pytest

from bench import data, limits, ours, peers

STATISTICS = "column statistics, 1 thread"
SCALING = "scaling columns, 1 thread"


@pytest.mark.ours
def bench_statistics(measure):
    rows = data.train_rows()
    measure(STATISTICS, "cirrus_fast", lambda: ours.statistics(rows), n_rows=rows.n_rows)


def bench_statistics_scikit_learn(measure):
    preprocessing = peers.need("sklearn.preprocessing")
    rows = data.train_rows()
    matrix = rows.to_scipy()
    found, statistics = preprocessing.MaxAbsScaler().fit(matrix), ours.statistics(rows)
    columns = statistics.columns
    largest = np.maximum(np.abs(columns["min"]), np.abs(columns["max"]))
    assert np.array_equal(found.max_abs_[statistics.ids].astype(np.float32), largest)
    measure(
        STATISTICS,
        "scikit-learn MaxAbsScaler.fit (the maximum alone)",
        lambda: preprocessing.MaxAbsScaler().fit(matrix),
        n_rows=rows.n_rows,
    )


def bench_statistics_limit(measure):
    rows = data.train_rows()
    measure(STATISTICS, "limit: reading the CSR", lambda: limits.read(rows), n_rows=rows.n_rows)


@pytest.mark.ours
def bench_scaling(measure):
    rows = data.train_rows()
    scaling = ours.MaxAbs(rows)
    measure(SCALING, "cirrus_fast", lambda: scaling.scale(rows), n_rows=rows.n_rows)


def bench_scaling_scikit_learn(measure):
    preprocessing = peers.need("sklearn.preprocessing")
    rows = data.train_rows()
    matrix = rows.to_scipy()
    fitted = preprocessing.MaxAbsScaler().fit(matrix)
    assert np.allclose(fitted.transform(matrix).data, ours.MaxAbs(rows).scale(rows))
    measure(
        SCALING,
        "scikit-learn MaxAbsScaler.transform",
        lambda: fitted.transform(matrix),
        n_rows=rows.n_rows,
    )


def bench_scaling_limit(measure):
    rows = data.train_rows()
    measure(
        SCALING,
        "limit: memcpy of the values to fresh pages",
        lambda: limits.copy_fresh(rows.data),
        n_rows=rows.n_rows,
    )
