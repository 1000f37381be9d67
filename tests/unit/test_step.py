"""Mini-batches that learn from pulled weights, and the messages of their steps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from module_server import step_request

from cirrus_fast import _kernels
from cirrus_fast.errors import KernelError


def make_rows(n_ids: int, n_rows: int = 50, seed: int = 0, most: int = 12):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, most, n_rows)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    popular = (n_ids * rng.random(int(indptr[-1])) ** 4).astype(np.uint32)
    rows = [np.unique(popular[b:e]) for b, e in pairwise(indptr)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate([*rows, np.empty(0, np.uint32)]).astype(np.uint32)
    data = rng.normal(size=len(indices)).astype(np.float32)
    labels = rng.integers(0, 2, n_rows).astype(np.float32)
    return labels, indptr, indices, data


def localize(n_ids: int, indptr, indices, data, order, room: int | None = None):
    room = len(indices) if room is None else room
    table = np.full(n_ids, 7, np.uint32)
    bits = np.zeros(_kernels.pulled_words(n_ids), np.uint64)
    local, ids = np.empty(room, np.uint32), np.empty(room, np.uint32)
    n, k = _kernels.pulled_localize(indptr, indices, data, order, table, bits, local, ids)
    assert not bits.any()
    return local[:n], ids[:k]


@pytest.mark.parametrize("n_ids", [1, 63, 64, 65, 4096, 4097, 300_000])
@pytest.mark.parametrize("n_rows", [0, 1, 50])
def test_ids_of_a_mini_batch_increase_and_entries_lead_to_them(n_ids, n_rows):
    _, indptr, indices, data = make_rows(n_ids, n_rows, seed=n_ids)
    order = np.arange(n_rows, dtype=np.uint32)[::-1].copy()
    local, ids = localize(n_ids, indptr, indices, data, order)
    taken = [indices[indptr[i] : indptr[i + 1]] for i in order]
    expected = np.concatenate([*taken, np.empty(0, np.uint32)])
    np.testing.assert_array_equal(ids, np.unique(expected))
    np.testing.assert_array_equal(ids[local], expected)


def test_rows_that_cannot_be_are_refused_and_leave_no_bit():
    _, indptr, indices, data = make_rows(100)
    order = np.arange(50, dtype=np.uint32)
    for change in ("row", "id", "room", "indptr"):
        some, places, starts = order.copy(), indices.copy(), indptr.copy()
        room = len(indices)
        if change == "row":
            some[30] = 50
        elif change == "id":
            places[len(places) // 2] = 100
        elif change == "room":
            room -= 1
        else:
            starts[20] = 10**9
        bits = np.zeros(_kernels.pulled_words(100), np.uint64)
        out = np.empty(room, np.uint32), np.empty(room, np.uint32)
        with pytest.raises(KernelError):
            _kernels.pulled_localize(
                starts, places, data, some, np.zeros(100, np.uint32), bits, *out
            )
        assert not bits.any()


def test_the_gradient_is_that_of_a_model_in_memory():
    n_ids = 500
    labels, indptr, indices, data = make_rows(n_ids, 80)
    order = np.random.default_rng(1).permutation(80).astype(np.uint32)
    optimizer = _kernels.Optimizer("sgd", 0.1)
    state = np.random.default_rng(2).normal(size=n_ids + 1).astype(np.float32)
    penalties = np.full((n_ids, 2), 0.1, np.float32)  # so that touches are counted
    model = _kernels.TrainModel(
        optimizer, state, penalties, negative_weight=0.5, positive_weight=2.0
    )
    room = len(indices)
    scratch = _kernels.TrainScratch(
        np.zeros(n_ids, np.uint32), np.empty(room, np.uint32), np.empty(room + 1, np.uint32),
        *(np.empty(room, np.float32) for _ in range(3)),
    )  # fmt: skip
    k, intercept, loss, weight = model.gradient(labels, indptr, indices, data, None, order, scratch)
    local, ids = localize(n_ids, indptr, indices, data, order)
    gradient, touches = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
    mine = _kernels.pulled_gradient(
        labels, indptr, indices, data, None, order, local, state[ids], float(state[-1]),
        gradient, touches, negative_weight=0.5, positive_weight=2.0,
    )  # fmt: skip
    assert mine == (intercept, loss, weight)
    by_id = np.argsort(np.asarray(scratch.distinct)[:k])
    np.testing.assert_array_equal(gradient, np.asarray(scratch.gradient)[:k][by_id])
    np.testing.assert_array_equal(touches, np.asarray(scratch.touches)[:k][by_id])


def test_a_gradient_needs_the_places_of_its_own_rows():
    labels, indptr, indices, data = make_rows(40)
    order = np.arange(50, dtype=np.uint32)
    local, ids = localize(40, indptr, indices, data, order)
    out, w = np.empty(len(ids), np.float32), np.zeros(len(ids), np.float32)
    for bad_order, bad_local, k in (
        (order[:-10], local, len(ids)),
        (order, local[:-1], len(ids)),
        (order, local, len(ids) - 1),
        (order + np.uint32(1), local, len(ids)),
    ):
        with pytest.raises(KernelError):
            _kernels.pulled_gradient(
                labels, indptr, indices, data, None, bad_order, bad_local, w[:k], 0.0, out[:k], None
            )


def test_popular_ids_take_few_bytes():
    """A Zipf draw as of click data: under 2 bytes an id, where a plain list has 4."""
    rng = np.random.default_rng(5)
    ids = np.unique((500_000 * rng.random(7000) ** 6).astype(np.uint32))
    n = len(step_request(n_ids=500_000, pull_ids=ids)) - 64
    assert n < 1.7 * len(ids)


@pytest.mark.parametrize("ids", [[3, 2], [2, 2], [0, 10]])
def test_ids_that_do_not_increase_or_are_outside_are_refused(ids):
    with pytest.raises(ValueError, match="ids must increase"):
        step_request(n_ids=10, pull_ids=np.array(ids, np.uint32))


def test_an_answer_of_another_length_is_refused():
    answer = bytes([1, 0]) + bytes(30) + bytes(8)
    out = np.empty(2, np.float32)
    assert _kernels.step_answer(answer, out)[0] == 0
    for bad in (answer[:-1], answer + b"1234", b"", b"\2" + answer[1:], b"\1\3" + answer[2:]):
        with pytest.raises(KernelError, match="malformed"):
            _kernels.step_answer(bad, out)
    assert _kernels.step_answer(bytes([1, 2]) + bytes(30), out)[0] == 2
