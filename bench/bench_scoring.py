"""A gradient, scores, and how good they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from bench import data, limits, ours, peers
from bench.conftest import in_turns, told

GRADIENT = "gradient of one localised mini-batch of 200 rows, 1 thread"
SCORING = "batch scoring from CSR, 1 thread"
EVALUATION = "evaluation: log-loss and exact AUC, 1 thread"
INTERCEPT = 0.5


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


@cache
def weights():
    width = data.train_rows().n_features
    return np.random.default_rng(3).normal(0, 0.1, width).astype(np.float32)


@cache
def scorers() -> dict[str, Callable[[], Any]]:
    """Everyone's that is here, of the same rows with the same weights."""
    rows, w = data.train_rows(), weights()
    found: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.score(rows, w, INTERCEPT),
        "limit": lambda: limits.dots(rows, w),
    }
    if importlib.util.find_spec("sklearn"):
        from sklearn.linear_model import LogisticRegression

        matrix, fitted = rows.to_scipy(), LogisticRegression()
        fitted.classes_, fitted.n_features_in_ = np.array([0, 1]), rows.n_features
        fitted.coef_, fitted.intercept_ = w.reshape(1, -1), np.array([INTERCEPT], np.float32)
        found["scikit-learn"] = lambda: fitted.decision_function(matrix)
    return found


@cache
def agrees(name: str) -> bool:
    """Whether that one's answer is ours."""
    expected, found = scorers()["ours"](), scorers()[name]()
    if name == "limit":  # which only adds the products up
        total = float(expected.sum(dtype=np.float64)) - INTERCEPT * len(expected)
        return bool(found == pytest.approx(total, rel=1e-3, abs=1))
    return np.allclose(found, expected, rtol=1e-4, atol=1e-4)


@cache
def scoring_seconds() -> dict[str, list[float]]:
    return in_turns({name: score for name, score in scorers().items() if agrees(name)})


def tell_scoring(measure, contender: str, name: str):
    assert agrees(name)
    measure.told(SCORING, contender, scoring_seconds()[name], n_rows=data.train_rows().n_rows)


@told
@pytest.mark.ours
def bench_scoring(measure):
    tell_scoring(measure, "cirrus_fast", "ours")


@told
def bench_scoring_scikit_learn(measure):
    peers.need("sklearn")
    tell_scoring(measure, "scikit-learn decision_function", "scikit-learn")


@told
def bench_scoring_limit(measure):
    tell_scoring(measure, "limit: dot products only", "limit")


@pytest.mark.ours
def bench_evaluation(measure):
    rows, _ = data.scaled()  # whose scores are of a size that a model's are
    margins = ours.score(rows, weights(), -1.0)
    measure(EVALUATION, "cirrus_fast", lambda: ours.evaluate(margins, rows), n_rows=rows.n_rows)


def bench_evaluation_scikit_learn(measure):
    metrics = peers.need("sklearn.metrics")
    rows, _ = data.scaled()  # whose scores are of a size that a model's are
    margins = ours.score(rows, weights(), -1.0)

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
