"""Margins, logistic loss and gradient against float64."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast import CSR, _kernels
from cirrus_fast._reference import loss_gradient_reference
from cirrus_fast.errors import KernelError

F32 = np.float32


@pytest.fixture
def rows():
    """Rows of 0 to 9 entries over 20 columns, the last of which is in none."""
    rng = np.random.default_rng(11)
    lengths = rng.integers(0, 10, 60)
    return CSR(
        rng.integers(0, 2, 60).astype(F32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.sort(rng.choice(19, n, replace=False)) for n in lengths]).astype("u4"),
        rng.normal(size=lengths.sum()).astype(F32),
        20,
    )


def margins_of(rows, w, intercept):
    out = np.empty(rows.n_rows, F32)
    _kernels.logistic_margins(rows.indptr, rows.indices, rows.data, w, intercept, out)
    return out


def test_margins_are_the_product_with_the_weights(rows):
    w = np.random.default_rng(1).normal(size=20).astype(F32)
    expected = rows.to_scipy().astype(np.float64) @ w.astype(np.float64) + 0.25
    np.testing.assert_allclose(margins_of(rows, w, 0.25), expected, rtol=0, atol=3e-6)


def test_columns_beyond_the_weights_count_as_nothing(rows):
    w = np.random.default_rng(1).normal(size=20).astype(F32)
    short = margins_of(rows, w[:7].copy(), 1.0)
    np.testing.assert_array_equal(short, margins_of(rows, np.where(np.arange(20) < 7, w, 0), 1.0))
    np.testing.assert_array_equal(margins_of(rows, np.empty(0, F32), -2.0), F32(-2))


@pytest.mark.parametrize("n_weights", [1, 700, 655_360, 655_361, 1_000_000])
def test_many_weights_give_the_same_bits_as_few(n_weights):
    """They are asked for ahead where they are far; ids beyond the last one count as nothing."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 50, 90)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(0, n_weights, indptr[-1]).astype(np.uint32)
    some = rng.permutation(len(ids))[:40]
    beyond = [n_weights - 1, n_weights, n_weights + 1, 2**31 - 1, 2**31, 2**32 - 1]
    ids[some] = np.resize(np.array(beyond, np.uint32), 40)
    data, w = rng.normal(size=len(ids)).astype(F32), rng.normal(size=n_weights).astype(F32)
    known, places = np.unique(ids, return_inverse=True)
    few = np.append(w, np.zeros(len(beyond), F32))[np.minimum(known, n_weights)]

    many_way, few_way = np.empty(90, F32), np.empty(90, F32)
    _kernels.logistic_margins(indptr, ids, data, w, 0.5, many_way)
    _kernels.logistic_margins(indptr, places.astype(np.uint32), data, few, 0.5, few_way)
    np.testing.assert_array_equal(many_way, few_way)


def test_a_wild_value_in_an_unknown_column_is_not_looked_at():
    indptr, ids = np.array([0, 2], np.int64), np.array([0, 5], np.uint32)
    out = np.empty(1, F32)
    _kernels.logistic_margins(indptr, ids, np.array([2, np.inf], F32), np.ones(1, F32), 0, out)
    assert out[0] == 2


def test_no_rows_have_no_margins():
    out = np.empty(0, F32)
    none = np.empty(0, np.uint32)
    _kernels.logistic_margins(np.zeros(1, np.int64), none, out, np.ones(3, F32), 0.0, out)


@pytest.mark.parametrize("indptr", [[0, 3], [0, -1], [2, 1], [-1, 1], [0, 2**40], [1, 2, 1]])
def test_an_indptr_that_leads_outside_is_refused(indptr):
    ids, data, w = np.zeros(2, np.uint32), np.zeros(2, F32), np.ones(1, F32)
    out = np.empty(len(indptr) - 1, F32)
    with pytest.raises(KernelError, match="indptr"):
        _kernels.logistic_margins(np.array(indptr, np.int64), ids, data, w, 0.0, out)


EXTREMES = [0, 1e-20, 1e-7, 0.1, 1, 5, 17, 30, 80, 87, 88, 89, 103, 500, 1e4, 3e38]


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("size", EXTREMES)
def test_the_loss_is_exact_at_any_margin(size, sign, label):
    margin = np.array([sign * size], F32)
    loss, weight, _ = _kernels.logistic_loss(margin, np.array([label], F32), None)
    toward = margin.astype(np.float64)[0] * (1 if label else -1)
    np.testing.assert_allclose(loss, np.logaddexp(0, -toward), rtol=1e-14)
    assert weight == 1


def test_loss_weights_and_right_answers_add_up():
    margins = np.array([2, -1, 0, 3, -4], F32)
    labels = np.array([1, 1, 0, 0, 0], F32)
    weights = np.array([1, 2, 4, 8, 0.5], F32)
    each = np.logaddexp(0, np.where(labels, -1, 1) * margins.astype(float))
    loss, weight, correct = _kernels.logistic_loss(margins, labels, weights)
    np.testing.assert_allclose(loss, weights @ each, rtol=1e-14)
    assert weight == 15.5
    assert correct == 1 + 4 + 0.5  # margin 0 is on the negative side
    assert _kernels.logistic_loss(margins, labels, None)[1:] == (5, 3)


def test_losses_of_many_rows_keep_their_digits():
    """Many share a logarithm; small ones must not drown, nor large ones overflow."""
    rng = np.random.default_rng(3)
    for spread in (1e-3, 1, 30, 1e3):
        margins = (spread * rng.normal(size=1001)).astype(F32)
        labels = rng.integers(0, 2, 1001).astype(F32)
        weights = rng.choice([0.5, 1, 1, 1], 1001).astype(F32)
        each = np.logaddexp(0, np.where(labels, -1, 1) * margins.astype(float))
        np.testing.assert_allclose(
            _kernels.logistic_loss(margins, labels, None)[0], each.sum(), rtol=1e-13
        )
        np.testing.assert_allclose(
            _kernels.logistic_loss(margins, labels, weights)[0], weights @ each, rtol=1e-13
        )
    right = np.full(1001, 40, F32)
    expected = np.logaddexp(0, -right.astype(float)).sum()
    loss, _, _ = _kernels.logistic_loss(right, np.ones(1001, F32), None)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)


def test_a_margin_that_is_no_number_shows_in_the_loss():
    loss, _, correct = _kernels.logistic_loss(np.array([np.nan], F32), np.ones(1, F32), None)
    assert np.isnan(loss)
    assert correct == 0


def test_probabilities_keep_their_digits_on_both_sides():
    margins = np.concatenate([np.linspace(-87, 87, 200_001), [0.0, -0.0]]).astype(F32)
    p = np.empty_like(margins)
    _kernels.logistic_probabilities(margins, p)
    wide = margins.astype(np.float64)
    expected = np.exp(-np.logaddexp(0, -wide))
    np.testing.assert_allclose(p, expected, rtol=6e-7)  # 5 ulp: exp, a sum, a division
    assert p[-1] == p[-2] == 0.5
    assert (np.diff(p[:-2]) >= -1.2e-7).all()  # rising, to an ulp of 1


def test_a_probability_does_not_depend_on_its_neighbours():
    margins = np.concatenate([np.linspace(-90, 90, 998), [np.inf, -np.inf, -0.0]]).astype(F32)
    whole = np.empty_like(margins)
    _kernels.logistic_probabilities(margins, whole)
    for n in (1, 2, 3, 5):
        for begin in range(0, len(margins) - n, 7):
            p = margins[begin : begin + n].copy()
            _kernels.logistic_probabilities(p, p)
            np.testing.assert_array_equal(p, whole[begin : begin + n])


@pytest.mark.parametrize("margin", [-np.inf, -3e38, -1e4, -100, 100, 1e4, 3e38, np.inf])
def test_probabilities_of_extreme_margins_are_0_or_1_to_float32(margin):
    p = np.array([margin], F32)
    _kernels.logistic_probabilities(p, p)  # in place
    assert abs(float(p[0]) - (margin > 0)) < 2e-38
    assert 0 <= p[0] <= 1


def test_the_probability_of_nan_is_nan():
    p = np.array([np.nan], F32)
    _kernels.logistic_probabilities(p, p)
    assert np.isnan(p[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_the_references(rows, weighted):
    rng = np.random.default_rng(5)
    w = rng.normal(size=20).astype(F32)
    weights = rng.random(rows.n_rows).astype(F32) if weighted else None
    gradient = np.full(20, np.nan, F32)
    b, loss, weight = _kernels.logistic_gradient(
        rows.labels, rows.indptr, rows.indices, rows.data, weights, w, -0.5, gradient
    )
    weighed = CSR(rows.labels, rows.indptr, rows.indices, rows.data, 20, weights)
    expected = loss_gradient_reference(weighed, w.astype(float), -0.5)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=5e-6)
    np.testing.assert_allclose(b, expected[2], rtol=0, atol=5e-6)
    assert gradient[19] == 0  # set, though no row touches it
    np.testing.assert_allclose(weight, 60 if weights is None else weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 64, 65])
def test_a_row_may_name_a_column_again_and_batches_have_any_size(n_rows):
    rng = np.random.default_rng(n_rows)
    indptr = np.concatenate([[0], np.cumsum(rng.integers(0, 20, n_rows))]).astype(np.int64)
    nnz = int(indptr[-1])
    rows = CSR(
        rng.integers(0, 2, n_rows).astype(F32),
        indptr,
        rng.integers(0, 5, nnz).astype(np.uint32),
        rng.normal(size=nnz).astype(F32),
        5,
    )
    w, gradient = rng.normal(size=5).astype(F32), np.empty(5, F32)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, None
    b, loss, _ = _kernels.logistic_gradient(*arrays, w, 0.2, gradient)
    dense = np.zeros((n_rows, 5))
    np.add.at(dense, (np.repeat(np.arange(n_rows), np.diff(indptr)), rows.indices), rows.data)
    margins = dense @ w.astype(float) + np.float64(F32(0.2))
    error = 1 / (1 + np.exp(-margins)) - rows.labels
    np.testing.assert_allclose(gradient, error @ dense, rtol=0, atol=1e-5)
    np.testing.assert_allclose(b, error.sum(), rtol=0, atol=1e-5)
    each = np.logaddexp(0, np.where(rows.labels > 0, -1, 1) * margins)
    np.testing.assert_allclose(loss, each.sum(), rtol=1e-5)


def test_a_slice_of_rows_has_its_own_gradient(rows):
    w = np.random.default_rng(8).normal(size=20).astype(F32)
    part, whole = np.empty(20, F32), np.empty(20, F32)
    rest = rows.data, None, w, 0.0
    first = int(rows.indptr[10])
    _kernels.logistic_gradient(rows.labels[10:], rows.indptr[10:], rows.indices, *rest, part)
    moved = rows.indptr[10:] - first
    data = rows.data[first:]
    ids = rows.indices[first:]
    _kernels.logistic_gradient(rows.labels[10:], moved, ids, data, None, w, 0.0, whole)
    np.testing.assert_array_equal(part, whole)


def test_the_references_gradient_is_the_slope_of_its_loss(rows):
    """Finite differences in float64: what the kernels are compared with is right itself."""
    rng = np.random.default_rng(6)
    w, b, step = rng.normal(size=20), 0.3, 1e-6
    weighed = CSR(rows.labels, rows.indptr, rows.indices, rows.data, 20, rng.random(60).astype(F32))
    _, gradient, intercept_gradient = loss_gradient_reference(weighed, w, b)

    def loss(w, b):
        return loss_gradient_reference(weighed, w, b)[0]

    for j in range(20):
        side = step * (np.arange(20) == j)
        slope = (loss(w + side, b) - loss(w - side, b)) / (2 * step)
        np.testing.assert_allclose(gradient[j], slope, rtol=0, atol=1e-7)
    slope = (loss(w, b + step) - loss(w, b - step)) / (2 * step)
    np.testing.assert_allclose(intercept_gradient, slope, rtol=0, atol=1e-7)


def test_gradients_at_extreme_margins_are_finite():
    labels, ids = np.array([1, 0, 1, 0], F32), np.zeros(4, np.uint32)
    data, gradient = np.array([1e4, 1e4, -1e4, -1e4], F32), np.empty(1, F32)
    b, loss, _ = _kernels.logistic_gradient(
        labels, np.arange(5), ids, data, None, np.ones(1, F32), 0.0, gradient
    )
    np.testing.assert_allclose([b, loss, gradient[0]], [0, 2e4, 2e4], atol=1e-6)


def test_gradients_of_ids_outside_the_model_are_refused(rows):
    w, gradient = np.ones(9, F32), np.empty(9, F32)
    with pytest.raises(KernelError, match="outside the model"):
        _kernels.logistic_gradient(
            rows.labels, rows.indptr, rows.indices, rows.data, None, w, 0.0, gradient
        )


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.zeros(3, F32)},
        {"data": np.zeros(1, F32)},
        {"weights": np.zeros(1, F32)},
        {"gradient": np.zeros(1, F32)},
        {"indptr": np.zeros(0, np.int64)},
    ],
)
def test_lengths_that_disagree_are_refused(change):
    arguments = {
        "labels": np.zeros(2, F32),
        "indptr": np.array([0, 1, 2], np.int64),
        "indices": np.zeros(2, np.uint32),
        "data": np.zeros(2, F32),
        "weights": None,
        "w": np.zeros(2, F32),
        "intercept": 0.0,
        "gradient": np.zeros(2, F32),
    }
    _kernels.logistic_gradient(**arguments)
    with pytest.raises(ValueError, match="must"):
        _kernels.logistic_gradient(**arguments | change)


@pytest.mark.parametrize("bad", [np.zeros(2, np.float64), np.zeros(4, F32)[::2], None])
def test_arrays_of_another_type_or_with_gaps_are_refused(bad):
    with pytest.raises((ValueError, TypeError)):
        _kernels.logistic_loss(bad, np.zeros(2, F32), None)


def test_read_only_inputs_are_welcome_and_outputs_are_not():
    margins, labels = np.ones(2, F32), np.ones(2, F32)
    margins.flags.writeable = labels.flags.writeable = False
    _kernels.logistic_loss(margins, labels, labels)
    with pytest.raises(ValueError, match="read-only"):
        _kernels.logistic_probabilities(margins, margins)
