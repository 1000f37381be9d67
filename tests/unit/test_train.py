"""Mini-batch steps on a model in memory against a slow float64 reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cirrus_fast import CSR, _kernels
from cirrus_fast._reference import loss_gradient_reference, train_reference
from cirrus_fast.errors import KernelError

F32 = np.float32
KINDS = ["sgd", "adagrad", "ftrl"]
N_IDS = 12


def example(n_rows=80, weights=False, seed=0, scale=1.0):
    """Rows of 0 to 5 entries over 11 of 12 columns."""
    rng = np.random.default_rng([seed, 9])
    lengths = rng.integers(0, 6, n_rows)
    ids = [np.sort(rng.choice(N_IDS - 1, n, replace=False)) for n in lengths]
    return CSR(
        rng.integers(0, 2, n_rows).astype(F32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(ids).astype(np.uint32),
        (scale * rng.normal(size=lengths.sum())).astype(F32),
        N_IDS,
        rng.choice([0.0, 0.5, 1.0, 3.0], n_rows).astype(F32) if weights else None,
    )


def scratch(room, n_ids=N_IDS):
    floats = (np.empty(room, F32) for _ in range(3))
    table, local = np.zeros(n_ids, np.uint32), np.empty(room, np.uint32)
    return _kernels.TrainScratch(table, local, np.empty(room + 1, np.uint32), *floats)


def train(rows, order, size, *, optimizer, rate=0.3, intercept=0.0, penalties=None, **options):
    """(weights, intercept, loss sum, weight sum, rows, updates)"""
    rule = _kernels.Optimizer(optimizer, rate)
    state = np.empty((N_IDS + 1) * rule.width, F32)
    rule.clear(state, intercept)
    model = _kernels.TrainModel(rule, state, penalties, **options)
    n, updates, loss, weight = model.train(
        rows.labels,
        rows.indptr,
        rows.indices,
        rows.data,
        rows.weights,
        np.asarray(order, np.uint32),
        size,
        scratch(rows.nnz * 4 + 8),
    )
    weights = np.empty(N_IDS, F32)
    learnt = rule.weights(state, penalties, float(n), weights)
    return weights, learnt, loss, weight, n, updates


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("size", [1, 2, 7, 80, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_pass_is_the_references(optimizer, size, weighted):
    rows = example(weights=weighted)
    order = np.random.default_rng(4).permutation(rows.n_rows).tolist()
    weights, intercept, loss, weight, n, updates = train(
        rows, order, size, optimizer=optimizer, intercept=-0.4
    )
    expected = train_reference(
        rows, order, size, optimizer=optimizer, learning_rate=0.3, intercept=-0.4
    )
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(intercept, expected[1], rtol=0, atol=2e-5)
    np.testing.assert_allclose(loss, expected[2], rtol=2e-6)
    assert weight == (80 if rows.weights is None else rows.weights.sum())
    assert (n, updates) == (80, -(-80 // size))
    assert weights[N_IDS - 1] == 0  # no row has it


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("size", [1, 6])
def test_penalties_and_class_weights_are_charged_as_the_reference_does(optimizer, size):
    rows = example(weights=True)
    rng = np.random.default_rng(5)
    penalties = (rng.random((N_IDS, 2)) * [0.05, 0.2]).astype(F32)
    order = rng.permutation(rows.n_rows).tolist()
    weights, intercept, loss, *_ = train(
        rows,
        order,
        size,
        optimizer=optimizer,
        penalties=penalties,
        negative_weight=0.5,
        positive_weight=4.0,
    )
    expected = train_reference(
        rows,
        order,
        size,
        optimizer=optimizer,
        learning_rate=0.3,
        penalties=penalties,
        class_weight=(0.5, 4.0),
    )
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(intercept, expected[1], rtol=0, atol=2e-5)
    # Reported losses know nothing of class weights.
    np.testing.assert_allclose(loss, expected[2], rtol=2e-6)


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("penalized", [False, True])
def test_rows_of_any_length_are_learnt_as_the_reference_does(optimizer, penalized):
    """Kernels take entries by the eight, and leave the longest rows to the scalar step."""
    rng = np.random.default_rng(6)
    lengths = [0, 1, 7, 8, 9, 15, 16, 17, 35, 511, 512, 513, 600, 64, 3]
    n_ids = 700
    ids = [np.sort(rng.choice(n_ids, n, replace=False)) for n in lengths]
    rows = CSR(
        rng.integers(0, 2, len(lengths)).astype(F32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(ids).astype(np.uint32),
        (rng.normal(size=sum(lengths)) / 10).astype(F32),
        n_ids,
    )
    penalties = np.full((n_ids, 2), [0.001, 0.02], F32) if penalized else None
    order = [*range(len(lengths))] * 2
    rule = _kernels.Optimizer(optimizer, 0.3)
    state = np.empty((n_ids + 1) * rule.width, F32)
    rule.clear(state, -0.2)
    model = _kernels.TrainModel(rule, state, penalties)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    model.train(*arrays, np.array(order, np.uint32), 1, None)
    weights = np.empty(n_ids, F32)
    intercept = rule.weights(state, penalties, float(len(order)), weights)
    expected = train_reference(
        rows,
        order,
        1,
        optimizer=optimizer,
        learning_rate=0.3,
        intercept=-0.2,
        penalties=penalties,
    )
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(intercept, expected[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("n_pairs", [1, 3, 20, 59])
def test_the_last_penalty_is_that_of_all_later_columns(optimizer, size, n_pairs):
    """Rows in ascending ids, as blocks have them, and shuffled, so that eight entries have pairs of
    their own, the last one, or both."""
    rng = np.random.default_rng(n_pairs)
    n_ids, n_rows, length = 60, 40, 25
    ids = np.stack([rng.choice(n_ids, length, replace=False) for _ in range(n_rows)])
    ids[::2].sort(axis=1)
    labels, data = rng.integers(0, 2, n_rows).astype(F32), rng.normal(size=ids.size).astype(F32)
    indptr = np.arange(0, ids.size + 1, length)
    order = np.arange(n_rows, dtype=np.uint32)
    short = (rng.random((n_pairs, 2)) * [0.02, 0.1]).astype(F32)
    full = np.concatenate([short, np.tile(short[-1], (n_ids - n_pairs, 1))])
    found = []
    for penalties in (short, full):
        rule = _kernels.Optimizer(optimizer, 0.3)
        state, weights = np.empty((n_ids + 1) * rule.width, F32), np.empty(n_ids, F32)
        rule.clear(state)
        model = _kernels.TrainModel(rule, state, penalties)
        indices = ids.astype(np.uint32).reshape(-1)
        model.train(labels, indptr, indices, data, None, order, size, scratch(200, n_ids))
        rule.weights(state, penalties, float(n_rows), weights)
        found.append(state.tobytes() + weights.tobytes())
    assert np.count_nonzero(weights)
    assert found[0] == found[1]


@pytest.mark.parametrize("optimizer", KINDS)
def test_penalties_for_no_column_or_too_many_are_refused(optimizer):
    rule = _kernels.Optimizer(optimizer, 0.1)
    state = np.zeros((N_IDS + 1) * rule.width, F32)
    for n in (0, N_IDS + 1):
        with pytest.raises(ValueError, match="pairs, one for every id"):
            _kernels.TrainModel(rule, state, np.zeros((n, 2), F32))


def test_the_intercepts_steps_of_several_rows_can_be_made_smaller():
    rows = example()
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    learnt = []
    for part in (1.0, 0.25):
        state = np.zeros(N_IDS + 1, F32)
        rule = _kernels.Optimizer("sgd", 0.01)
        model = _kernels.TrainModel(rule, state, None, intercept_rate=part)
        model.train(*arrays, np.arange(80, dtype=np.uint32), 80, scratch(rows.nnz))
        learnt.append(state)
    assert learnt[0][-1] != 0
    assert learnt[1][-1] == F32(0.25) * learnt[0][-1]
    assert learnt[0][:-1].tobytes() == learnt[1][:-1].tobytes()


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("size", [1, 5])
def test_without_an_intercept_it_stays_where_it_was(optimizer, size):
    rows = example()
    weights, intercept, *_ = train(
        rows, range(80), size, optimizer=optimizer, intercept=0.5, fit_intercept=False
    )
    assert intercept == 0.5
    assert np.count_nonzero(weights) == N_IDS - 1
    expected = train_reference(
        rows,
        list(range(80)),
        size,
        optimizer=optimizer,
        learning_rate=0.3,
        intercept=0.5,
        fit_intercept=False,
    )
    np.testing.assert_allclose(weights, expected[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_rows_are_taken_as_often_as_the_order_names_them(size):
    rows = example(4)
    each = [train(rows, [i], 1, optimizer="sgd", rate=1e-9)[2] for i in range(4)]
    _, _, loss, weight, n, _ = train(rows, [2, 2, 0, 3, 2], size, optimizer="sgd", rate=1e-9)
    np.testing.assert_allclose(loss, 3 * each[2] + each[0] + each[3], rtol=1e-6)
    assert (n, weight) == (5, 5)


@pytest.mark.parametrize("size", [1, 3])
def test_no_rows_change_nothing(size):
    weights, intercept, loss, weight, n, updates = train(
        example(), [], size, optimizer="adagrad", intercept=0.25
    )
    assert (intercept, loss, weight, n, updates) == (0.25, 0, 0, 0, 0)
    assert not weights.any()


def test_rows_of_weight_0_do_not_teach():
    rows = replace(example(), weights=np.zeros(80, F32))
    weights, intercept, loss, weight, n, _ = train(rows, range(80), 1, optimizer="adagrad")
    assert (intercept, loss, weight, n) == (0, 0, 0, 80)
    assert not weights.any()


@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0, 1e4])
def test_the_loss_sum_is_exact_at_any_margin(size, weighted, scale):
    """The kernel multiplies probabilities and takes few logarithms; nothing may be lost."""
    rows = example(3000, weighted, seed=8, scale=scale)
    rule = _kernels.Optimizer("sgd", 1e-30)  # the model stays where it is
    w = np.random.default_rng(1).normal(size=N_IDS + 1).astype(F32)
    model = _kernels.TrainModel(rule, w.copy(), None)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    order = np.arange(3000, dtype=np.uint32)
    _, _, loss, weight = model.train(*arrays, order, size, scratch(rows.nnz))
    expected, _, _ = loss_gradient_reference(rows, w[:-1].astype(float), float(w[-1]))
    # float32 margins: 1e-7 of their size, summed; probabilities near 1: 6e-8 a row.
    np.testing.assert_allclose(loss / weight, expected / weight, rtol=1e-6, atol=6e-8)


@pytest.mark.parametrize("label", [0, 1])
def test_the_loss_of_one_row_is_the_float64_one_over_a_sweep_of_margins(label):
    """cf_expf and the sigmoid made of it, through the loss and the gradient they give."""
    margins = np.concatenate([np.linspace(-120, 120, 4801), [-3e38, -1e4, 1e4, 3e38]]).astype(F32)
    rule = _kernels.Optimizer("sgd", 1.0)
    losses, errors = [], []
    one = np.ones(1, F32), np.array([0, 1]), np.zeros(1, np.uint32)
    for margin in margins:
        state = np.array([0.0, margin], F32)  # the weight is 0, the intercept the margin
        model = _kernels.TrainModel(rule, state, None, fit_intercept=False)
        _, _, loss, _ = model.train(
            np.array([label], F32), one[1], one[2], one[0], None, np.zeros(1, "u4"), 1, None
        )
        losses.append(loss)
        errors.append(-float(state[0]))
    toward = margins.astype(np.float64) * (1 if label else -1)
    exact = np.logaddexp(0, -toward)
    np.testing.assert_allclose(losses, exact, rtol=1e-6, atol=1.2e-7)  # 1 ulp of 1
    error = np.exp(-np.logaddexp(0, toward)) * (-1 if label else 1)
    # The smaller side keeps its digits (6e-7 is 5 ulp) until e^-87, where exp is clamped.
    np.testing.assert_allclose(errors, error, rtol=6e-7, atol=2e-38)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 2])
def test_values_that_are_no_numbers_show_in_the_loss(value, size):
    rows = example(6)
    rows.data[0] = value
    row = int(np.searchsorted(rows.indptr, 0, side="right")) - 1
    rows.labels[row] = 1 if value < 0 else 0  # so that an infinite margin is infinitely wrong
    state = np.ones(N_IDS + 1, F32)
    model = _kernels.TrainModel(_kernels.Optimizer("sgd", 0.1), state, None)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    order = np.tile(np.arange(6, dtype=np.uint32), 2)  # the second time w is no number either
    _, _, loss, _ = model.train(*arrays, order, size, scratch(rows.nnz * 2))
    assert not np.isfinite(loss)


def damaged(what):
    """(rows, order) with something wrong in the seventh row of the order."""
    rows, order = example(40, seed=3), list(range(40))
    begin, end = int(rows.indptr[6]), int(rows.indptr[7])
    assert begin < end
    if what == "order":
        order[6] = 40
    elif what == "id":
        rows.indices[end - 1] = N_IDS
    elif what == "largest id":
        rows.indices[end - 1] = 2**32 - 1
    elif what == "negative":
        rows.indptr[6], rows.indptr[7] = -1, 0
    elif what == "decreasing":
        rows.indptr[6], rows.indptr[7] = end, begin
    else:
        rows.indptr[7] = rows.nnz + 1
    return rows, order


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "what", ["order", "id", "largest id", "negative", "decreasing", "beyond nnz"]
)
def test_a_bad_mini_batch_is_refused_with_nothing_of_it_applied(optimizer, size, what):
    rows, order = damaged(what)
    first_bad = 5 if what == "negative" else 6  # row 5 ends where row 6 begins
    whole = first_bad // size * size
    rule = _kernels.Optimizer(optimizer, 0.3)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    states = []
    for n in (40, whole):
        state = np.empty((N_IDS + 1) * rule.width, F32)
        rule.clear(state)
        call = np.array(order[:n], np.uint32), size, scratch(200)
        model = _kernels.TrainModel(rule, state, None)
        if n == 40:
            with pytest.raises(KernelError) as caught:
                model.train(*arrays, *call)
            assert caught.value.entry == whole
        else:
            model.train(*arrays, *call)
        states.append(state)
    assert states[0].tobytes() == states[1].tobytes()


def test_scratch_that_is_too_small_is_refused_before_it_is_written():
    rows = example(40)
    model = _kernels.TrainModel(_kernels.Optimizer("sgd", 0.1), np.zeros(N_IDS + 1, F32), None)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    order = np.arange(40, dtype=np.uint32)
    with pytest.raises(KernelError, match="buffer too small"):
        model.train(*arrays, order, 40, scratch(rows.nnz - 1))
    with pytest.raises(ValueError, match="for a smaller model"):
        model.train(*arrays, order, 2, scratch(rows.nnz, N_IDS - 1))
    with pytest.raises(ValueError, match="need scratch"):
        model.train(*arrays, order, 2, None)
    with pytest.raises(ValueError, match="at least 1"):
        model.train(*arrays, order, 0, None)
    assert not np.asarray(model.state).any()
    model.train(*arrays, order, 40, scratch(rows.nnz))


def test_the_two_halves_of_a_step_are_the_step():
    rows = example(30, weights=True)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    penalties = np.full((N_IDS, 2), 0.01, F32)
    order = np.arange(30, dtype=np.uint32)
    for kind in KINDS:
        rule = _kernels.Optimizer(kind, 0.3)
        state = np.empty((N_IDS + 1) * rule.width, F32)
        rule.clear(state, 0.1)
        whole, halves = state.copy(), state.copy()
        one = _kernels.TrainModel(rule, whole, penalties, positive_weight=2.0)
        two = _kernels.TrainModel(rule, halves, penalties, positive_weight=2.0)
        mine, other = scratch(rows.nnz), scratch(rows.nnz)
        _, _, loss, weight = one.train(*arrays, order, 30, mine)
        n, b, loss2, weight2 = two.gradient(*arrays, order, mine)
        assert halves.tobytes() == state.tobytes()  # the model is left alone
        assert (loss2, weight2) == (loss, weight)
        parts = mine.distinct, mine.gradient, mine.touches
        ids, gradient, touches = (np.asarray(part)[:n].copy() for part in parts)
        two.apply(ids, gradient, touches, b, other, rows_seen=30.0)
        assert halves.tobytes() == whole.tobytes()


def test_gradients_of_several_workers_are_summed_in_their_order():
    rule = _kernels.Optimizer("sgd", 1.0)
    state = np.zeros(N_IDS + 1, F32)
    model = _kernels.TrainModel(rule, state, None)
    ids = np.array([3, 1, 3, 0, 3], np.uint32)
    gradient = np.array([1e8, 2, 1, 5, -1e8], F32)
    model.apply(ids, gradient, np.ones(5, F32), -7.0, scratch(5))
    assert state[[0, 1, 3]].tolist() == [-5, -2, 0]  # (1e8 + 1) - 1e8 in float32, in that order
    assert state[-1] == 7
    with pytest.raises(KernelError, match="buffer too small"):
        model.apply(ids, gradient, np.ones(5, F32), 0.0, scratch(4))
    with pytest.raises(KernelError, match=r"outside the model \(entry 1\)"):
        model.apply(
            ids + np.uint32(N_IDS - 1) * (ids == 1), gradient, np.ones(5, F32), 0.0, scratch(5)
        )
    with pytest.raises(ValueError, match="equally long"):
        model.apply(ids, gradient, np.ones(4, F32), 0.0, scratch(5))


def test_rate_multiplies_the_learning_rate():
    rows = example(1, seed=1)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    states = []
    for rule_rate, call_rate in ((0.2, 1.0), (0.8, 0.25)):
        state = np.zeros(N_IDS + 1, F32)
        model = _kernels.TrainModel(_kernels.Optimizer("sgd", rule_rate), state, None)
        model.train(*arrays, np.zeros(1, np.uint32), 1, None, rate=call_rate)
        states.append(state)
    assert states[0].any()
    np.testing.assert_array_equal(*states)


def test_the_model_keeps_its_arrays_alive():
    rule = _kernels.Optimizer("sgd", 0.1)
    model = _kernels.TrainModel(rule, np.full(N_IDS + 1, 3.0, F32), np.zeros((N_IDS, 2), F32))
    junk = [np.full(N_IDS + 1, -1.0, F32) for _ in range(100)]
    assert np.asarray(model.state).tolist() == [3.0] * (N_IDS + 1)
    assert model.optimizer is rule
    del junk


DIVERGING = """
import numpy as np
from cirrus_fast import _kernels
optimizer = _kernels.Optimizer("ftrl", 0.1)
for size in (1, 3):
    state = np.empty(2 * optimizer.width, np.float32)
    optimizer.clear(state, 0.0)
    model = _kernels.TrainModel(optimizer, state, None)
    f32, u32 = (lambda *x: np.array(x, np.float32)), (lambda *x: np.array(x, np.uint32))
    room = [np.empty(9, np.float32) for _ in range(3)]
    scratch = _kernels.TrainScratch(u32(0), np.empty(9, np.uint32), np.empty(10, np.uint32), *room)
    for _ in range(2):
        *_, loss, _ = model.train(
            f32(0, 1, 0), np.arange(4), u32(0, 0, 0), f32(1e20, 1, 1), None, u32(0, 1, 2), size,
            scratch,
        )
    assert not np.isfinite(loss), (_kernels.active_impl(), size, loss)
"""


@pytest.mark.parametrize("impl", _kernels.implementations())
def test_a_model_that_diverged_shows_in_the_loss(run_python, impl):
    """A NaN must not pass for a weight of 0, which would train on without the column."""
    run_python(DIVERGING, CIRRUS_FAST_FORCE_IMPL=impl)
