"""The scikit-learn classifier."""

from __future__ import annotations

from contextlib import suppress
from unittest import SkipTest

import numpy as np
import pytest
from scipy import sparse

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cirrus_fast.sklearn import CirrusClassifier

# Rows that come twice and rows of weight 2 are met in another order.
ORDER = "steps are taken a mini-batch at a time, so rows in another order make another model"
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": ORDER,
    "check_sample_weight_equivalence_on_sparse_data": ORDER,
}


@parametrize_with_checks([CirrusClassifier()], expected_failed_checks=lambda _: EXPECTED)
def test_it_is_an_estimator(estimator, check):
    with suppress(SkipTest):  # of what scikit-learn cannot check where pandas is not installed
        check(estimator)


@pytest.fixture(scope="module")
def rows():
    return make_classification(2000, 20, n_informative=8, random_state=1, class_sep=0.8)


def test_it_finds_what_scikit_learn_does(rows):
    X, y = rows
    ours = CirrusClassifier(optimizer="ftrl", epochs=30, random_state=0).fit(X, y)
    theirs = LogisticRegression(C=1e6, max_iter=1000).fit(X, y)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=0.01)
    both = [one.predict_proba(X)[:, 1] for one in (ours, theirs)]
    assert np.abs(both[0] - both[1]).max() < 0.05


def test_sparse_rows_and_text_labels(rows):
    X, y = rows
    labels = np.array(["no", "yes"])[y]
    dense = CirrusClassifier(random_state=3).fit(X, labels)
    thin = CirrusClassifier(random_state=3).fit(sparse.csr_matrix(X), labels)
    assert dense.classes_.tolist() == ["no", "yes"]
    np.testing.assert_allclose(dense.coef_, thin.coef_, rtol=1e-6)
    assert (dense.predict(X) == thin.predict(sparse.csr_array(X))).all()


def test_class_weights_move_the_balance(rows):
    X, y = rows
    shares = [
        CirrusClassifier(class_weight=weight, random_state=0).fit(X, y).predict(X).mean()
        for weight in ({0: 10.0}, None, {1: 10.0})
    ]
    assert shares == sorted(shares)
    assert shares[2] - shares[0] > 0.2


def test_in_a_pipeline_and_a_grid_search(rows):
    X, y = rows
    pipeline = make_pipeline(MaxAbsScaler(), CirrusClassifier(epochs=3, random_state=0))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.7
    found = GridSearchCV(
        pipeline, {"cirrusclassifier__l2": [0.0, 100.0]}, cv=3, scoring="neg_log_loss"
    ).fit(X, y)
    assert found.best_params_ == {"cirrusclassifier__l2": 0.0}


def test_what_is_wrong_is_said():
    X = np.eye(3)
    with pytest.raises(ValueError, match="binary"):
        CirrusClassifier().fit(X, [0, 1, 2])
    with pytest.raises(ValueError, match="learning_rate"):
        CirrusClassifier(learning_rate=-1).fit(X, [0, 1, 1])
