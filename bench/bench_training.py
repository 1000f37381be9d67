"""One training pass over rows in memory, and what it learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast.data.columns import ColumnStatistics
from cirrus_fast.data.evaluation import Evaluation
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.runtime.bsp import make_scratch


def prepared(rows):
    """Scaled values, the scale, the default learning rate, the base rate's margin."""
    statistics = ColumnStatistics.scan(rows.indices, rows.data, rows.n_features)
    scale = TrainingScale.of(
        statistics,
        rows.n_features,
        rows.n_rows,
        optimizer="adagrad",
        l1=0.0,
        l2=0.0,
        mean_weight=1.0,
    )
    data = np.empty_like(rows.data)
    _kernels.columns_scale(rows.indices, rows.data, scale.pairs, data)
    rate = rows.labels.mean()
    return data, scale, 0.6 / math.sqrt(rows.nnz / rows.n_rows), math.log(rate / (1 - rate))


@pytest.mark.parametrize("minibatch_size", [1, 20, 200])
def bench_adagrad(benchmark, peer, rows, test_rows, minibatch_size):
    data, scale, rate, intercept = prepared(rows)
    optimizer = _kernels.Optimizer("adagrad", rate)
    state = np.empty((rows.n_features + 1) * optimizer.width, np.float32)
    model = _kernels.TrainModel(optimizer, state, None)
    order = np.random.default_rng(1).permutation(rows.n_rows).astype(np.uint32)
    scratch = make_scratch(rows.n_features, int(np.diff(rows.indptr).max()) * minibatch_size)

    def one_pass():
        optimizer.clear(state, intercept)
        model.train(
            rows.labels, rows.indptr, rows.indices, data, None, order, minibatch_size, scratch
        )

    one_pass()
    weights = np.empty(rows.n_features, np.float32)
    b = optimizer.weights(state, None, 0.0, weights)
    weights /= scale.divisor
    margins = np.empty(test_rows.n_rows, np.float32)
    _kernels.logistic_margins(
        test_rows.indptr, test_rows.indices, test_rows.data, weights, b, margins
    )
    loss = Evaluation.of(margins, test_rows.labels).logloss
    peer(
        f"cirrus_fast adagrad, mini-batch {minibatch_size}",
        "one pass in memory, one thread",
        n_rows=rows.n_rows,
        logloss=round(loss, 4),
    )
    benchmark(one_pass)


def bench_scikit_learn(benchmark, peer, rows, test_rows):
    linear_model = pytest.importorskip("sklearn.linear_model")
    data, scale, _, _ = prepared(rows)
    matrix = rows.to_scipy()
    matrix.data = data

    def one_pass():
        return linear_model.SGDClassifier(
            loss="log_loss",
            max_iter=1,
            tol=None,
            alpha=1e-6,
            learning_rate="constant",
            eta0=0.01,  # the best of 0.002, 0.005, 0.01, 0.02 and 0.05 here
            random_state=1,
        ).fit(matrix, rows.labels)

    fitted = one_pass()
    weights = (fitted.coef_[0] / scale.divisor).astype(np.float32)
    margins = np.asarray(test_rows.to_scipy() @ weights + fitted.intercept_[0], np.float32)
    peer(
        "scikit-learn SGDClassifier",
        "one pass in memory, one thread",
        n_rows=rows.n_rows,
        logloss=round(Evaluation.of(margins, test_rows.labels).logloss, 4),
    )
    benchmark(one_pass)
