"""A scikit-learn classifier: the same training behind `fit` and `predict`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from cirrus_fast.logistic_regression import LogisticRegression
from cirrus_fast.preprocessing import load_csr


class CirrusClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression of two classes on dense or sparse rows, whose columns are scaled inside.

    Rows pass through a data set in a temporary folder; training goes on all of them, unless
    test_fraction or epsilon ask for some to measure on.

    Parameters
    ----------
    optimizer, learning_rate, minibatch_size, l1, l2, fit_intercept, epochs, epsilon,
        test_fraction, n_workers : as in docs/options.md
    class_weight : {label: weight}, "balanced", or None
    random_state : int, RandomState or None; decides hold-out and shuffling

    Attributes
    ----------
    classes_ : the two labels
    coef_ : float64[1, n_features]; intercept_ : float64[1]
    result_ : TrainResult
    n_iter_ : passes over the rows
    """

    def __init__(
        self,
        *,
        optimizer: str = "adagrad",
        learning_rate: float | None = None,
        minibatch_size: int = 1,
        l1: float = 0.0,
        l2: float = 0.0,
        class_weight: Mapping[Any, float] | str | None = None,
        fit_intercept: bool = True,
        epochs: int = 10,
        epsilon: float = 0.0,
        test_fraction: float | None = None,
        n_workers: int | None = 1,
        random_state: Any = None,
    ) -> None:
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.minibatch_size = minibatch_size
        self.l1 = l1
        self.l2 = l2
        self.class_weight = class_weight
        self.fit_intercept = fit_intercept
        self.epochs = epochs
        self.epsilon = epsilon
        self.test_fraction = test_fraction
        self.n_workers = n_workers
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CirrusClassifier:
        """Trains on rows X [n_rows, n_features] with labels y, weighted if asked."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, places = np.unique(y, return_inverse=True)
        if len(self.classes_) > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is multiclass."
            )
        if len(self.classes_) < 2:
            raise ValueError(
                f"This solver needs samples of at least 2 classes in the data, but the data "
                f"contains only one class: {self.classes_[0]!r}"
            )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        given = {
            name: getattr(self, name)
            for name in (
                "optimizer",
                "learning_rate",
                "minibatch_size",
                "l1",
                "l2",
                "fit_intercept",
                "epochs",
                "epsilon",
                "test_fraction",
                "n_workers",
            )
        }
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with tempfile.TemporaryDirectory(prefix="cirrus-fit-") as folder:
            name = str(Path(folder, "rows"))
            load_csr(X, places.astype(np.float32), name, sample_weight)
            self.result_ = LogisticRegression(
                given,
                dataset=name,
                seed=seed,
                model_size=X.shape[1],
                class_weight=self._pair(),
                progress=False,
            ).run()
        self.coef_ = self.result_.model.weights.astype(np.float64).reshape(1, -1)
        self.intercept_ = np.array([float(self.result_.model.intercept)])
        self.n_iter_ = max(1, round(self.result_.rows_processed / X.shape[0]))
        return self

    def _pair(self) -> Any:
        """Class weights as our option has them."""
        if self.class_weight is None or isinstance(self.class_weight, str):
            return self.class_weight
        return [float(self.class_weight.get(label, 1.0)) for label in self.classes_]

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Margins of the second class, float64[n_rows]."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        margins = safe_sparse_dot(X, self.coef_.T, dense_output=True).ravel() + self.intercept_[0]
        return np.asarray(margins, np.float64)

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities of both classes, float64[n_rows, 2]."""
        margins = self.decision_function(X)
        small = np.exp(-np.abs(margins))
        likely = 1 / (1 + small)
        positive = np.where(margins >= 0, likely, small * likely)
        return np.column_stack([1 - positive, positive])

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The likelier class of each row."""
        margins = self.decision_function(X)
        labels: npt.NDArray[Any] = self.classes_[(margins > 0).astype(np.intp)]
        return labels
