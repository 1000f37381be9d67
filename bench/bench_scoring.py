"""A gradient, scores, and how good they are."""

from __future__ import annotations

import numpy as np
import pytest

from bench import data, limits, ours, peers

GRADIENT = "gradient of one localised mini-batch of 200 rows, 1 thread"
SCORING = "batch scoring from CSR, 1 thread"
EVALUATION = "evaluation: log-loss and exact AUC, 1 thread"


@pytest.mark.ours
def bench_gradient(measure):
    made = ours.Gradient(data.scaled()[0])
    measure(GRADIENT, "cirrus_fast", made.compute, n_rows=made.rows.n_rows)


def bench_gradient_scipy(measure):
    peers.need("sklearn")  # which brings SciPy
    made = ours.Gradient(data.scaled()[0])
    matrix, labels, w = made.rows.to_scipy(), made.rows.labels, made.w

    def compute():
        p = 1 / (1 + np.exp(-(matrix @ w + np.float32(made.intercept))))
        return (p - labels) @ matrix

    assert np.allclose(compute(), made.compute(), rtol=1e-4, atol=1e-4)
    measure(GRADIENT, "NumPy and SciPy", compute, n_rows=made.rows.n_rows)


@pytest.fixture(scope="module")
def weights():
    width = data.train_rows().n_features
    return np.random.default_rng(3).normal(0, 0.1, width).astype(np.float32)


@pytest.mark.ours
def bench_scoring(measure, weights):
    rows = data.train_rows()
    measure(SCORING, "cirrus_fast", lambda: ours.score(rows, weights, 0.5), n_rows=rows.n_rows)


def bench_scoring_scikit_learn(measure, weights):
    linear_model = peers.need("sklearn.linear_model")
    rows = data.train_rows()
    matrix = rows.to_scipy()
    fitted = linear_model.LogisticRegression()
    fitted.classes_, fitted.n_features_in_ = np.array([0, 1]), rows.n_features
    fitted.coef_, fitted.intercept_ = weights.reshape(1, -1), np.array([0.5], np.float32)
    expected = ours.score(rows, weights, 0.5)
    assert np.allclose(fitted.decision_function(matrix), expected, rtol=1e-4, atol=1e-4)
    measure(
        SCORING,
        "scikit-learn decision_function",
        lambda: fitted.decision_function(matrix),
        n_rows=rows.n_rows,
    )


def bench_scoring_limit(measure, weights):
    rows = data.train_rows()
    assert limits.dots(rows, weights) == pytest.approx(
        float(ours.score(rows, weights, 0.0).sum(dtype=np.float64)), rel=1e-3, abs=1
    )
    measure(
        SCORING,
        "limit: dot products only",
        lambda: limits.dots(rows, weights),
        n_rows=rows.n_rows,
    )


@pytest.mark.ours
def bench_evaluation(measure, weights):
    rows, _ = data.scaled()  # whose scores are of a size that a model's are
    margins = ours.score(rows, weights, -1.0)
    measure(EVALUATION, "cirrus_fast", lambda: ours.evaluate(margins, rows), n_rows=rows.n_rows)


def bench_evaluation_scikit_learn(measure, weights):
    metrics = peers.need("sklearn.metrics")
    rows, _ = data.scaled()  # whose scores are of a size that a model's are
    margins = ours.score(rows, weights, -1.0)

    def evaluate():
        p = 1 / (1 + np.exp(-margins.astype(np.float64)))
        return metrics.log_loss(rows.labels, p), metrics.roc_auc_score(rows.labels, margins)

    found = ours.evaluate(margins, rows)
    assert evaluate() == pytest.approx((found.logloss, found.auc), rel=1e-5)
    measure(
        EVALUATION,
        "scikit-learn log_loss and roc_auc_score",
        evaluate,
        n_rows=rows.n_rows,
    )
