"""Sixteen models side by side: each is what it would be alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cirrus_fast import CSR, _kernels
from cirrus_fast.errors import KernelError
from cirrus_fast.runtime.bsp import make_scratch

F32, LANES = np.float32, _kernels.GRID_LANES
KINDS = ["sgd", "adagrad", "ftrl"]
N_IDS, N_ROWS = 40, 300
RATES = np.geomspace(0.01, 1.0, LANES).astype(F32)
STARTS = np.linspace(-1, 1, LANES).astype(F32)


def example(weights=False, longest=9, n_rows=N_ROWS, n_ids=N_IDS):
    rng = np.random.default_rng([longest, n_rows])
    lengths = rng.integers(0, longest, n_rows)
    ids = [np.sort(rng.choice(n_ids - 1, n, replace=False)) for n in lengths]
    return CSR(
        rng.integers(0, 2, n_rows).astype(F32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(ids).astype(np.uint32),
        rng.normal(size=lengths.sum()).astype(F32),
        n_ids,
        rng.choice([0.0, 0.5, 1.0, 3.0], n_rows).astype(F32) if weights else None,
    )


def arrays(rows):
    return rows.labels, rows.indptr, rows.indices, rows.data, rows.weights


class Lanes:
    """A group with options that differ in every lane."""

    def __init__(self, kind, *, penalized=False, n_ids=N_IDS, **options):
        self.kind, self.options, self.n_ids = kind, options, n_ids
        self.penalties = None
        self.l1, self.l2 = np.zeros(LANES, F32), np.zeros(LANES, F32)
        if penalized:
            rng = np.random.default_rng(5)
            self.penalties = (0.5 + rng.random((n_ids // 2, 2))).astype(F32)
            self.l1[1::2] = np.linspace(0.001, 0.05, LANES // 2)
            self.l2[2:] = np.linspace(0.0, 0.2, LANES - 2)
        self.class_weight = np.linspace(0.5, 2, 2 * LANES).reshape(2, LANES).astype(F32)
        width = _kernels.Optimizer(kind, 1.0).width
        self.state = np.empty(((n_ids + 1) * width, LANES), F32)
        self.model = _kernels.GridModel(
            kind,
            self.state.reshape(-1),
            self.penalties,
            RATES,
            self.l1,
            self.l2,
            self.class_weight,
            **options,
        )
        self.model.clear(STARTS)

    def train(self, rows, order, size, rows_seen=0, rate=1.0):
        batches = scratch = None
        order = np.asarray(order, np.uint32)
        if size > 1:
            room = int(np.diff(rows.indptr)[order].sum())
            batches = _kernels.GridBatches(
                np.zeros(self.n_ids, np.uint32),
                np.empty(room, np.uint32),
                np.empty(room + 1, np.uint32),
                np.empty(len(order), np.uint32),
            )
            most = batches.localize(rows.indptr, rows.indices, rows.data, order, size)
            floats = (np.empty(most * LANES, F32) for _ in range(2))
            scratch = _kernels.GridScratch(*floats, np.empty(most, F32))
        losses = np.empty(LANES)
        told = self.model.train(
            *arrays(rows), order, batches, scratch, losses, rows_seen=float(rows_seen), rate=rate
        )
        return losses, told

    def weights(self, lane, rows_seen):
        out = np.empty(self.n_ids, F32)
        return out, self.model.weights({lane: out}, rows_seen=float(rows_seen))[lane]

    def alone(self, lane, rows, order, size, rate=1.0):
        """(weights, intercept, loss sum) of the lane's model trained by itself."""
        rule = _kernels.Optimizer(self.kind, float(RATES[lane]))
        state, penalties = np.empty((self.n_ids + 1) * rule.width, F32), None
        rule.clear(state, float(STARTS[lane]))
        if self.penalties is not None:
            penalties = self.penalties * np.array([self.l1[lane], self.l2[lane]])
        negative, positive = self.class_weight[:, lane].tolist()
        model = _kernels.TrainModel(
            rule, state, penalties, negative_weight=negative, positive_weight=positive,
            **self.options,
        )  # fmt: skip
        order = np.asarray(order, np.uint32)
        scratch = make_scratch(self.n_ids, len(rows.indices) + 1)
        _, _, loss, _ = model.train(*arrays(rows), order, size, scratch, rate=rate)
        weights = np.empty(self.n_ids, F32)
        intercept = rule.weights(state, penalties, float(len(order)), weights)
        return weights, intercept, loss

    def check(self, rows, order, size, lanes=range(LANES), rate=1.0):
        losses, told = self.train(rows, order, size, rate=rate)
        for lane in lanes:
            weights, intercept, loss = self.alone(lane, rows, order, size, rate)
            found, own = self.weights(lane, len(order))
            np.testing.assert_allclose(found, weights, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(own, intercept, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(losses[lane], loss, rtol=1e-5)
        return told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("penalized", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_lane_is_its_single_run(kind, size, penalized, weighted):
    rows = example(weighted)
    order = np.random.default_rng(1).permutation(N_ROWS)
    n, updates, weight = Lanes(kind, penalized=penalized).check(rows, order, size)
    assert (n, updates) == (N_ROWS, -(-N_ROWS // size))
    assert weight == (N_ROWS if rows.weights is None else rows.weights.sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3])
def test_rows_longer_than_what_is_kept_of_them(kind, size):
    rows = example(longest=700, n_rows=6, n_ids=800)
    Lanes(kind, penalized=True, n_ids=800).check(rows, range(6), size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 20])
def test_without_an_intercept_and_with_other_rates(kind, size):
    group = Lanes(kind, fit_intercept=False)
    group.check(example(), range(N_ROWS), size, rate=0.5)
    assert [group.weights(i, N_ROWS)[1] for i in range(LANES)] == pytest.approx(STARTS.tolist())
    Lanes(kind, intercept_rate=0.25).check(example(), range(N_ROWS), size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 20])
@pytest.mark.parametrize("active", [0b1, 0b10010110, 0x8001, 0xFF00])
def test_lanes_that_are_off_stay_as_they_are_and_change_nothing(kind, size, active):
    rows, group, all_on = example(), Lanes(kind, penalized=True), Lanes(kind, penalized=True)
    for one in (group, all_on):
        one.train(rows, range(100), size)
    before = group.state.copy()
    group.model.active = active
    losses, _ = group.train(rows, range(100, 200), size, rows_seen=100)
    expected, _ = all_on.train(rows, range(100, 200), size, rows_seen=100)
    now = group.state
    for lane in range(LANES):
        if active >> lane & 1:
            assert losses[lane] == expected[lane]
            assert (now[:, lane] == all_on.state[:, lane]).all()
        else:
            assert (now[:, lane] == before[:, lane]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 20])
@pytest.mark.parametrize("wild", [np.nan, np.inf, 3e38])
def test_a_lane_that_diverges_leaves_the_others_alone(kind, size, wild):
    rows, group, calm = example(), Lanes(kind), Lanes(kind)
    group.state[:, 3] = wild
    losses, _ = group.train(rows, range(N_ROWS), size)
    expected, _ = calm.train(rows, range(N_ROWS), size)
    others = [lane for lane in range(LANES) if lane != 3]
    assert not np.isfinite(losses[3]) or losses[3] > 100 * expected[3]
    assert losses[others].tolist() == expected[others].tolist()
    states = [one.state[:, others] for one in (group, calm)]
    assert (states[0] == states[1]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("penalized", [False, True])
@pytest.mark.parametrize("active", [0xFFFF, 0x00A5])
def test_measured_losses_are_those_of_the_weights(kind, penalized, active):
    rows, group = example(weights=True), Lanes(kind, penalized=penalized)
    group.train(rows, range(N_ROWS), 10)
    group.model.active = active
    before = group.state.copy()
    margins, losses = np.empty((N_ROWS, LANES), F32), np.empty(LANES)
    total = group.model.measure(*arrays(rows), margins, losses, rows_seen=float(N_ROWS))
    assert total == rows.weights.sum()
    assert (group.state == before).all()
    for lane in range(LANES):
        if not active >> lane & 1:
            assert not margins[:, lane].any()
            continue
        weights, intercept = group.weights(lane, N_ROWS)
        expected = np.empty(N_ROWS, F32)
        _kernels.logistic_margins(
            rows.indptr, rows.indices, rows.data, weights, intercept, expected
        )
        np.testing.assert_allclose(margins[:, lane], expected, atol=1e-5)
        loss, _, _ = _kernels.logistic_loss(expected, rows.labels, rows.weights)
        np.testing.assert_allclose(losses[lane], loss, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_that_moves_learns_on_as_before(kind):
    rows, group, stays = example(), Lanes(kind, penalized=True), Lanes(kind, penalized=True)
    other = Lanes(kind, penalized=True)
    for one in (group, stays):
        one.train(rows, range(100), 5)
    group.model.move(13, other.model, 2)
    other.model.move(2, other.model, 6)
    order = range(100, N_ROWS)
    losses, _ = other.train(rows, order, 5, rows_seen=100)
    expected, _ = stays.train(rows, order, 5, rows_seen=100)
    assert losses[2] == losses[6] == expected[13]
    found, intercept = other.weights(6, N_ROWS)
    there, own = stays.weights(13, N_ROWS)
    assert found.tobytes() == there.tobytes()
    assert intercept == own


@pytest.mark.parametrize("size", [1, 4])
def test_bad_rows_are_refused_where_they_are(size):
    rows, group = example(), Lanes("adagrad")
    for bad, text in ((N_ROWS, "row number"), (2**32 - 1, "row number")):
        order = np.array([0, bad], np.uint32)
        with pytest.raises(KernelError, match=text) as caught:
            group.model.train(*arrays(rows), order, None, None, np.empty(LANES))
        assert caught.value.entry == 1
    small = Lanes("adagrad", n_ids=8)
    with pytest.raises(KernelError, match="outside the model"):
        small.train(rows, range(N_ROWS), size)


def test_batches_of_other_rows_are_refused():
    rows, group = example(), Lanes("sgd")
    order, losses = np.arange(100, dtype=np.uint32), np.empty(LANES)
    batches = _kernels.GridBatches(
        np.zeros(N_IDS, np.uint32), np.empty(2000, np.uint32), np.empty(2001, np.uint32),
        np.empty(50, np.uint32),
    )  # fmt: skip
    most = batches.localize(rows.indptr, rows.indices, rows.data, order[:50], 10)
    full = _kernels.GridScratch(
        *(np.empty(most * LANES, F32) for _ in range(2)), np.empty(most, F32)
    )
    none = _kernels.GridScratch(np.empty(0, F32), np.empty(0, F32), np.empty(0, F32))
    with pytest.raises(KernelError):  # of fewer rows
        group.model.train(*arrays(rows), order, batches, full, losses)
    with pytest.raises(KernelError, match="too small"):
        group.model.train(*arrays(rows), order[:50], batches, none, losses)
    batches.local[:] = 2**32 - 1
    with pytest.raises(KernelError, match="distinct"):
        group.model.train(*arrays(rows), order[:50], batches, full, losses)


def test_arrays_that_do_not_fit_are_refused():
    one = np.ones(LANES, F32)
    state, pair = np.zeros(LANES * 5, F32), np.ones((2, LANES), F32)
    for wrong in (
        ("sgd", state[:-1], None, one, one, one, pair),
        ("sgd", state, None, one[1:], one, one, pair),
        ("sgd", state, None, one - 1, one, one, pair),
        ("sgd", state, None, one, one, one, pair[:1]),
        ("sgd", state, np.ones((9, 2), F32), one, one, one, pair),
        ("other", state, None, one, one, one, pair),
    ):
        with pytest.raises(ValueError, match=r"lane|learning_rate|pairs|optimizer"):
            _kernels.GridModel(*wrong)
    model = _kernels.GridModel("sgd", state, None, one, one, one, pair)
    with pytest.raises(ValueError, match="lanes"):
        model.active = 1 << LANES
    with pytest.raises(ValueError, match="lanes"):
        model.weights({LANES: np.empty(4, F32)})
    with pytest.raises(ValueError, match="one optimiser and size"):
        model.move(0, Lanes("sgd").model, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kernels_agree(kind, run_python, tmp_path):
    """Bit for bit, but for adagrad, whose square roots they take in ways of their own."""
    script = """
import sys
sys.path.insert(0, {folder!r})
from test_grid import *
found = []
for size in (1, 30):
    for active in (0xffff, 0x7f):
        group = Lanes({kind!r}, penalized=True)
        group.model.active = active
        losses, _ = group.train(example(True), range(N_ROWS), size)
        found += [group.state.ravel(), losses[: active.bit_length()]]
np.save({path!r}, np.concatenate(found))
"""
    found = {}
    for impl in _kernels.implementations():
        path = str(tmp_path / f"{impl}.npy")
        code = script.format(folder=str(Path(__file__).parent), kind=kind, path=path)
        run_python(code, CIRRUS_FAST_FORCE_IMPL=impl)
        found[impl] = np.load(path)
    for impl, values in found.items():
        if kind == "adagrad":
            np.testing.assert_allclose(values, found["scalar"], rtol=1e-4, atol=1e-5, err_msg=impl)
        else:
            assert values.tobytes() == found["scalar"].tobytes(), impl


def test_all_lanes_weights_are_read_at_once():
    group = Lanes("ftrl", penalized=True)
    group.train(example(), range(N_ROWS), 1)
    into = {lane: np.empty(N_IDS, F32) for lane in (11, 0, 5)}
    intercepts = group.model.weights(into, rows_seen=float(N_ROWS))
    for lane, found in into.items():
        weights, intercept = group.weights(lane, N_ROWS)
        assert found.tobytes() == weights.tobytes()
        assert intercepts[lane] == intercept
    assert group.model.weights({}) == {}
    with pytest.raises(ValueError, match="shares memory"):
        group.model.weights({0: into[0], 1: into[0]})


def test_the_count_of_mini_batches_does_not_wrap():
    rows = example()
    room = np.empty(2000, np.uint32), np.empty(2001, np.uint32), np.empty(0, np.uint32)
    batches = _kernels.GridBatches(np.zeros(N_IDS, np.uint32), *room)
    for size in (2**64 - 1, 2**63, N_ROWS):
        with pytest.raises(ValueError, match="a place for every mini-batch"):
            batches.localize(
                rows.indptr, rows.indices, rows.data, np.arange(10, dtype=np.uint32), size
            )
