"""Column statistics and scaling of rows in memory."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast.data.columns import MAX_ABS_SCALING, ColumnStatistics, Scaling


def bench_statistics(benchmark, peer, rows):
    peer("cirrus_fast", "column statistics", n_rows=rows.n_rows)
    benchmark(ColumnStatistics.scan, rows.indices, rows.data, rows.n_features)


def bench_statistics_scikit_learn(benchmark, peer, rows):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    peer("scikit-learn MaxAbsScaler.fit", "column statistics", n_rows=rows.n_rows)
    benchmark(preprocessing.MaxAbsScaler().fit, rows.to_scipy())


def bench_scaling(benchmark, peer, rows):
    statistics = ColumnStatistics.scan(rows.indices, rows.data, rows.n_features)
    scaling = Scaling.fit(MAX_ABS_SCALING, statistics, rows.n_rows)
    peer("cirrus_fast", "scale to maximum 1", n_rows=rows.n_rows)
    benchmark(scaling.apply, rows.indices, rows.data)


def bench_scaling_scikit_learn(benchmark, peer, rows):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    matrix = rows.to_scipy()
    fitted = preprocessing.MaxAbsScaler().fit(matrix)
    statistics = ColumnStatistics.scan(rows.indices, rows.data, rows.n_features)
    scaled = Scaling.fit(MAX_ABS_SCALING, statistics, rows.n_rows).apply(rows.indices, rows.data)
    assert np.allclose(fitted.transform(matrix).data, scaled)
    peer("scikit-learn MaxAbsScaler.transform", "scale to maximum 1", n_rows=rows.n_rows)
    benchmark(fitted.transform, matrix)
