"""A thread's own copies of popular coordinates: nothing learnt is lost, whoever learns beside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cirrus_fast import CSR, _kernels
from cirrus_fast.errors import KernelError

F32 = np.float32
N_IDS = 40


def clicks(n_rows=4000, seed=0):
    """Rows of 9 entries, of which 6 are of the ten most popular columns."""
    rng = np.random.default_rng([seed, 3])
    ids = [
        np.concatenate(
            [np.sort(rng.choice(10, 6, replace=False)), 10 + np.sort(rng.choice(30, 3, False))]
        )
        for _ in range(n_rows)
    ]
    return CSR(
        rng.integers(0, 2, n_rows).astype(F32),
        np.arange(0, 9 * n_rows + 1, 9, dtype=np.int64),
        np.concatenate(ids).astype(np.uint32),
        rng.normal(1, 0.3, 9 * n_rows).astype(F32),
        N_IDS,
    )


class Run:
    """A model that several threads train."""

    def __init__(self, kind, rate, n_threads, n_hot, every=50, penalties=None):
        self.rule = _kernels.Optimizer(kind, rate)
        self.penalties = penalties
        self.state = np.empty((N_IDS + 1) * self.rule.width, F32)
        self.rule.clear(self.state, 0.3)
        self.published = np.zeros((n_threads, (n_hot + 1) * self.rule.width), F32)
        self.models = []
        for thread in range(n_threads):
            own = np.empty(2 * self.published.shape[1], F32)
            hot = _kernels.HotCopies(self.rule, self.published, thread, own, every)
            self.models.append(_kernels.TrainModel(self.rule, self.state, penalties, hot=hot))

    def train(self, thread, rows, order, **options):
        arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
        order = np.asarray(order, np.uint32)
        return self.models[thread].train(*arrays, order, 1, None, **options)

    def weights(self, rows_seen=0.0):
        """All weights and then the intercept, of state and what was published."""
        width, state = self.rule.width, self.state.copy()
        told = self.published.sum(axis=0)
        state[: len(told) - width] += told[:-width]
        state[-width:] += told[-width:]
        out = np.empty(N_IDS, F32)
        intercept = self.rule.weights(state, self.penalties, rows_seen, out)
        return np.append(out, intercept)


def alone(kind, rate, rows, penalties=None):
    rule = _kernels.Optimizer(kind, rate)
    state = np.empty((N_IDS + 1) * rule.width, F32)
    rule.clear(state, 0.3)
    model = _kernels.TrainModel(rule, state, penalties)
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    told = model.train(*arrays, np.arange(rows.n_rows, dtype=np.uint32), 1, None)
    out = np.empty(N_IDS, F32)
    intercept = rule.weights(state, penalties, float(rows.n_rows), out)
    return np.append(out, intercept), told


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "ftrl"])
@pytest.mark.parametrize("n_hot", [0, 1, 10, N_IDS])
@pytest.mark.parametrize("penalized", [False, True])
def test_a_lone_thread_learns_what_it_learns_without_copies(kind, n_hot, penalized):
    rows = clicks()
    penalties = np.full((N_IDS, 2), 1e-3, F32) if penalized else None
    expected, told = alone(kind, 0.05, rows, penalties)
    run = Run(kind, 0.05, 1, n_hot, penalties=penalties)
    assert run.train(0, rows, range(rows.n_rows))[:2] == told[:2]
    np.testing.assert_allclose(run.weights(float(rows.n_rows)), expected, rtol=1e-3, atol=1e-4)


def test_hot_coordinates_of_the_state_stand_still():
    rows, run = clicks(), Run("adagrad", 0.1, 2, 10)
    before = run.state.copy()
    run.train(1, rows, range(500))
    assert run.state[:20].tobytes() == before[:20].tobytes()
    assert run.state[-2:].tobytes() == before[-2:].tobytes()
    assert (run.state[20:-2] != before[20:-2]).any()
    assert run.published[1].any()
    assert not run.published[0].any()  # a thread writes no other's part


def test_a_thread_goes_on_from_what_all_have_told():
    """What the first thread learnt is there for the second, and its own for itself."""
    rows = clicks()
    expected, _ = alone("adagrad", 0.05, rows)
    run = Run("adagrad", 0.05, 2, 10)
    for part in range(8):
        run.train(part % 2, rows, range(500 * part, 500 * part + 500))
    np.testing.assert_allclose(run.weights(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("every", [1, 7, 500])
def test_nothing_is_lost_between_threads_at_once(every):
    """With steps too small to change an error, what is learnt is a sum, in whatever order."""
    rows = clicks(20_000)
    rate = 1e-7
    expected, _ = alone("sgd", rate, rows)
    run = Run("sgd", rate, 3, N_IDS, every)
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda t: run.train(t, rows, range(t, rows.n_rows, 3)), range(3)))
    assert sum(n for n, *_ in told) == rows.n_rows
    np.testing.assert_allclose(run.weights(), expected, rtol=1e-3, atol=3e-8)


def test_rows_before_a_bad_one_are_told():
    rows, run = clicks(100), Run("adagrad", 0.1, 1, 10, every=8)
    with pytest.raises(KernelError, match="row number") as caught:
        run.train(0, rows, [*range(20), 100, 21])
    assert caught.value.entry == 20
    whole = Run("adagrad", 0.1, 1, 10, every=8)
    whole.train(0, rows, range(20))
    assert run.state.tobytes() == whole.state.tobytes()
    np.testing.assert_allclose(run.published, whole.published, atol=1e-6)


def test_copies_that_do_not_fit_are_refused():
    rule = _kernels.Optimizer("adagrad", 0.1)
    with pytest.raises(ValueError, match="below the number of threads"):
        _kernels.HotCopies(rule, np.zeros((2, 4), F32), 2, np.zeros(8, F32), 1)
    with pytest.raises(ValueError, match="whole coordinates"):
        _kernels.HotCopies(rule, np.zeros((2, 3), F32), 0, np.zeros(6, F32), 1)
    with pytest.raises(ValueError, match="twice as long"):
        _kernels.HotCopies(rule, np.zeros((2, 4), F32), 0, np.zeros(4, F32), 1)
    with pytest.raises(ValueError, match="every must be at least 1"):
        _kernels.HotCopies(rule, np.zeros((2, 4), F32), 0, np.zeros(8, F32), 0)
    big = _kernels.HotCopies(rule, np.zeros((1, 8), F32), 0, np.zeros(16, F32), 1)
    with pytest.raises(ValueError, match="made for another model"):
        _kernels.TrainModel(rule, np.zeros(6, F32), None, hot=big)
    rows = clicks(4)
    model = Run("adagrad", 0.1, 1, 3).models[0]
    arrays = rows.labels, rows.indptr, rows.indices, rows.data, rows.weights
    with pytest.raises(ValueError, match="mini-batches of one row"):
        model.train(*arrays, np.arange(4, dtype=np.uint32), 2, None)
