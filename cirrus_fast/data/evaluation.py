"""How good scores are: log-loss, AUC, accuracy, calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.errors import DatasetError

_BINS = 10


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Rows whose predicted probability lies in [low, high)."""

    low: float
    high: float
    n_rows: int
    mean_predicted: float
    positive_rate: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model does on labelled rows.

    Attributes
    ----------
    logloss : mean over rows (by sample weight), nats
    auc : exact area under the ROC curve, ties counted half; None if a class is absent
    accuracy : share of rows on the right side of probability 1/2
    calibration : ten bins of equal width; empty ones are left out
    n_rows : int
    """

    logloss: float
    auc: float | None
    accuracy: float
    calibration: tuple[CalibrationBin, ...]
    n_rows: int

    @classmethod
    def of(
        cls, margins: Float32Array, positives: Float32Array, weights: Float32Array | None = None
    ) -> Evaluation:
        """margins, positives (1 or 0), weights : float32[n_rows]; a margin that is nan is a
        DatasetError"""
        lost = int(np.isnan(margins).sum())
        if lost:
            raise DatasetError(f"{lost} of {len(margins)} rows have a score that is no number")
        loss, total, correct = _kernels.logistic_loss(margins, positives, weights)
        some = total > 0
        return cls(
            logloss=loss / total if some else float("nan"),
            auc=exact_auc(margins, positives, weights),
            accuracy=correct / total if some else float("nan"),
            calibration=_calibration(margins, positives, weights),
            n_rows=len(margins),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def exact_auc(
    scores: Float32Array, positives: Float32Array, weights: Float32Array | None = None
) -> float | None:
    """Chance that a positive row scores above a negative one; a tie counts half. None if a class
    has no rows, or none of any weight."""
    scratch = np.empty(2 * len(scores), np.uint64)
    won, positive, negative = _kernels.auc(scores, positives, weights, scratch)
    pairs = positive * negative
    return won / pairs if pairs > 0 else None


def _calibration(
    margins: Float32Array, positives: Float32Array, weights: Float32Array | None
) -> tuple[CalibrationBin, ...]:
    p = np.empty_like(margins)
    _kernels.logistic_probabilities(margins, p)
    place = np.minimum((p * _BINS).astype(np.int64), _BINS - 1)
    weight = np.ones(len(p)) if weights is None else weights.astype(np.float64)

    def total(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(place, values, minlength=_BINS).astype(np.float64)

    count, mass = np.bincount(place, minlength=_BINS), total(weight)
    predicted, positive = total(weight * p), total(weight * positives)
    return tuple(
        CalibrationBin(
            i / _BINS,
            (i + 1) / _BINS,
            int(count[i]),
            float(predicted[i] / mass[i]),
            float(positive[i] / mass[i]),
        )
        for i in range(_BINS)
        if mass[i] > 0
    )
