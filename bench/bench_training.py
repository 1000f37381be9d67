"""One training pass over rows in memory, and what it learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cirrus_fast import CSR, _kernels
from cirrus_fast.data.columns import ColumnStatistics
from cirrus_fast.data.evaluation import Evaluation
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.runtime.bsp import make_scratch


def prepared(rows):
    """Rows as training has them, their scale, the default learning rate, the base rate's margin."""
    statistics = ColumnStatistics.scan(rows.indices, rows.data, rows.n_features)
    scale = TrainingScale.of(
        statistics, rows.n_rows, optimizer="adagrad", l1=0.0, l2=0.0, mean_weight=1.0
    )
    ready = CSR(
        np.empty_like(rows.labels),
        np.empty_like(rows.indptr),
        np.empty_like(rows.indices),
        np.empty_like(rows.data),
        len(scale.ids),
    )
    _kernels.prepare_rows(
        rows.labels,
        rows.indptr,
        rows.indices,
        rows.data,
        None,
        np.random.default_rng(1).permutation(rows.n_rows).astype(np.uint32),
        scale.table(),
        len(scale.divisor),
        0,
        ready.labels,
        ready.indptr,
        ready.indices,
        ready.data,
        None,
    )
    rate = rows.labels.mean()
    return ready, scale, 0.6 / math.sqrt(rows.nnz / rows.n_rows), math.log(rate / (1 - rate))


@pytest.mark.parametrize("minibatch_size", [1, 20, 200])
def bench_adagrad(benchmark, peer, rows, test_rows, minibatch_size):
    ready, scale, rate, intercept = prepared(rows)
    optimizer = _kernels.Optimizer("adagrad", rate)
    state = np.empty((ready.n_features + 1) * optimizer.width, np.float32)
    model = _kernels.TrainModel(optimizer, state, None)
    order = np.arange(rows.n_rows, dtype=np.uint32)
    scratch = make_scratch(ready.n_features, int(np.diff(rows.indptr).max()) * minibatch_size)

    def one_pass():
        optimizer.clear(state, intercept)
        arrays = ready.labels, ready.indptr, ready.indices, ready.data, None
        model.train(*arrays, order, minibatch_size, scratch)

    one_pass()
    learnt, weights = np.empty(ready.n_features, np.float32), np.zeros(rows.n_features, np.float32)
    b = optimizer.weights(state, None, 0.0, learnt)
    weights[scale.ids] = learnt / scale.divisor
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
    ready, scale, _, _ = prepared(rows)
    matrix = ready.to_scipy()

    def one_pass():
        return linear_model.SGDClassifier(
            loss="log_loss",
            max_iter=1,
            tol=None,
            alpha=1e-6,
            learning_rate="constant",
            eta0=0.01,  # the best of 0.002, 0.005, 0.01, 0.02 and 0.05 here
            random_state=1,
        ).fit(matrix, ready.labels)

    fitted = one_pass()
    weights = np.zeros(rows.n_features)
    weights[scale.ids] = fitted.coef_[0] / scale.divisor
    margins = np.asarray(test_rows.to_scipy() @ weights + fitted.intercept_[0], np.float32)
    peer(
        "scikit-learn SGDClassifier",
        "one pass in memory, one thread",
        n_rows=rows.n_rows,
        logloss=round(Evaluation.of(margins, test_rows.labels).logloss, 4),
    )
    benchmark(one_pass)
