"""Measures of how good scores are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cirrus_fast import Evaluation
from cirrus_fast.data.evaluation import exact_auc
from cirrus_fast.errors import DatasetError

F32 = np.float32


def auc_by_pairs(scores, positives, weights=None):
    """Every pair of a positive and a negative row, one by one."""
    weights = np.ones(len(scores)) if weights is None else weights.astype(float)
    won = total = 0.0
    for i in np.flatnonzero(positives > 0):
        for j in np.flatnonzero(positives <= 0):
            pair = weights[i] * weights[j]
            won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
            total += pair
    return won / total


@pytest.mark.parametrize("distinct", [2, 3, 10, 10_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_is_that_of_all_pairs(distinct, weighted):
    rng = np.random.default_rng(distinct)
    for _ in range(5):
        scores = rng.integers(0, distinct, 60).astype(F32)
        positives = (rng.random(60) < 0.3).astype(F32)
        positives[:2] = 0, 1
        weights = rng.choice([0, 0.5, 2], 60).astype(F32) if weighted else None
        if weighted:
            weights[:2] = 1
        found = exact_auc(scores, positives, weights)
        np.testing.assert_allclose(found, auc_by_pairs(scores, positives, weights), rtol=1e-12)


def test_auc_is_scikit_learns_on_many_rows():
    rng = np.random.default_rng(1)
    positives = rng.integers(0, 2, 50_000).astype(F32)
    scores = np.round(rng.normal(size=50_000) + positives, 2).astype(F32)
    weights = rng.random(50_000).astype(F32)
    for w in (None, weights):
        expected = roc_auc_score(positives, scores, sample_weight=w)
        np.testing.assert_allclose(exact_auc(scores, positives, w), expected, rtol=1e-9)


def test_auc_of_perfect_reversed_and_constant_scores():
    positives = np.array([0, 0, 1, 1], F32)
    rising = np.arange(4, dtype=F32)
    assert exact_auc(rising, positives) == 1
    assert exact_auc(-rising, positives) == 0
    assert exact_auc(np.zeros(4, F32), positives) == 0.5
    assert exact_auc(np.array([-np.inf, 0, 0, np.inf], F32), positives) == 0.875


def test_auc_orders_scores_of_any_sign_and_size():
    tiny = np.finfo(F32).smallest_subnormal
    scores = np.array([-np.inf, -3e38, -1, -tiny, 0, tiny, 1, 3e38, np.inf], F32)
    for i in range(1, len(scores)):
        assert exact_auc(scores, (np.arange(9) >= i).astype(F32)) == 1
    assert exact_auc(np.array([-0.0, 0.0], F32), np.array([1, 0], F32)) == 0.5


def test_auc_reads_every_byte_of_a_score():
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 1 << 32, 4000, dtype=np.uint32)
    scores = bits.view(F32)
    scores = scores[~np.isnan(scores)]
    positives = (rng.random(len(scores)) < 0.3).astype(F32)
    expected = roc_auc_score(positives, np.argsort(np.argsort(scores)))
    np.testing.assert_allclose(exact_auc(scores, positives), expected, rtol=1e-12)


@pytest.mark.parametrize("positives", [[], [0, 0], [1, 1]])
def test_without_both_classes_there_is_no_auc(positives):
    positives = np.array(positives, F32)
    assert exact_auc(np.zeros(len(positives), F32), positives) is None
    weighed_out = np.array([1, 0], F32)
    assert exact_auc(np.zeros(2, F32), np.array([0, 1], F32), weighed_out) is None


def test_loss_accuracy_and_weights():
    margins = np.array([2, -1, 0.5, -3], F32)
    positives = np.array([1, 1, 0, 0], F32)
    losses = np.logaddexp(0, np.where(positives > 0, -1, 1) * margins.astype(float))
    plain = Evaluation.of(margins, positives)
    np.testing.assert_allclose(plain.logloss, losses.mean(), rtol=1e-12)
    assert (plain.accuracy, plain.n_rows) == (0.5, 4)
    weights = np.array([1, 0, 0, 3], F32)
    weighed = Evaluation.of(margins, positives, weights)
    np.testing.assert_allclose(weighed.logloss, (losses * weights).sum() / 4, rtol=1e-12)
    assert weighed.accuracy == 1
    assert weighed.auc == 1


def test_calibration_bins_hold_what_they_say():
    rng = np.random.default_rng(2)
    margins = (3 * rng.normal(size=2000)).astype(F32)
    p = 1 / (1 + np.exp(-margins.astype(float)))
    positives = (rng.random(2000) < p).astype(F32)
    bins = Evaluation.of(margins, positives).calibration
    assert sum(part.n_rows for part in bins) == 2000
    for part in bins:
        inside = (p >= part.low) & (p < part.high)
        assert abs(inside.sum() - part.n_rows) <= 1  # float32 at a border
        np.testing.assert_allclose(part.mean_predicted, p[inside].mean(), atol=1e-3)
        np.testing.assert_allclose(part.positive_rate, positives[inside].mean(), atol=1e-2)
        assert abs(part.mean_predicted - part.positive_rate) < 0.12


def test_certain_predictions_fall_into_the_outer_bins_and_empty_ones_are_left_out():
    bins = Evaluation.of(np.array([-1e4, 1e4, 1e4], F32), np.array([0, 1, 0], F32)).calibration
    assert [(part.low, part.high, part.n_rows) for part in bins] == [(0, 0.1, 1), (0.9, 1, 2)]
    assert bins[1].positive_rate == 0.5


def test_calibration_weighs_rows():
    margins, positives = np.zeros(2, F32), np.array([1, 0], F32)
    (part,) = Evaluation.of(margins, positives, np.array([3, 1], F32)).calibration
    assert (part.positive_rate, part.n_rows) == (0.75, 2)


def test_no_weight_at_all_has_no_measures():
    found = Evaluation.of(np.zeros(2, F32), np.array([1, 0], F32), np.zeros(2, F32))
    assert np.isnan(found.logloss)
    assert np.isnan(found.accuracy)
    assert found.auc is None
    assert found.calibration == ()


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(DatasetError, match="1 of 3 rows have a score that is no number"):
        Evaluation.of(np.array([0, np.nan, 1], F32), np.array([1, 0, 1], F32))


def test_an_evaluation_goes_into_json():
    found = Evaluation.of(np.array([1, -1], F32), np.array([1, 0], F32))
    body = json.loads(json.dumps(found.to_json()))
    assert body["auc"] == 1
    assert len(body["calibration"]) == 2
