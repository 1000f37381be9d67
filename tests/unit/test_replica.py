"""A worker's copy of a model that is held elsewhere (csrc/cf_replica.h)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from replicas import new_replica

from cirrus_fast.errors import KernelError

SCALE = 2.0**24


class Copy:
    """A replica and its arrays, by name."""

    def __init__(self, n: int, kind: str = "adagrad", n_workers: int = 1) -> None:
        self.replica = replica = new_replica(n, kind, n_workers)
        self.state, self.held = np.asarray(replica.state), np.asarray(replica.held)
        self.sent, self.residual = np.asarray(replica.sent), np.asarray(replica.residual)
        self.count = np.asarray(replica.count)
        self.weights = self.state[:: len(self.state) // n]

    def take(self, ids: list[int], counts: list[int], before: list[float]) -> dict[int, int]:
        n = len(ids)
        places, amounts = np.empty(n + 1, np.uint32), np.empty(n + 1, np.int32)
        self.n, self.bounded = self.replica.take(
            np.array(ids, "u4"), np.array(counts, "u4"), np.array(before, "f4"), places, amounts
        )
        return dict(zip(places[: self.n].tolist(), amounts[: self.n].tolist(), strict=True))


def rows(*ids: list[int]) -> tuple[np.ndarray, ...]:
    indptr = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    flat = np.array([one for row in ids for one in row], np.uint32)
    return np.zeros(len(ids), "f4"), indptr, flat, np.ones(len(flat), "f4")


def test_touches_are_counted_once_a_row_and_the_intercept_in_each() -> None:
    copy = Copy(10)
    ids, counts = np.empty(20, np.uint32), np.empty(20, np.uint32)
    order = np.array([2, 0, 2], np.uint32)
    n = copy.replica.touch(*rows([3, 5], [8], [5, 1]), order, ids, counts)
    assert ids[:n].tolist() == [1, 3, 5, 9]
    assert counts[:n].tolist() == [2, 1, 3, 3]
    assert not copy.count.any()


def test_ids_far_apart_come_in_increasing_order() -> None:
    copy = Copy(300_000)
    wanted = [64, 63, 299_998, 5, 8191, 8192, 64 * 64, 0, 131_072]
    ids, counts = np.empty(20, np.uint32), np.empty(20, np.uint32)
    for _ in range(2):  # nothing is left of the first time
        n = copy.replica.touch(*rows(wanted), np.zeros(1, "u4"), ids, counts)
        assert ids[:n].tolist() == [*sorted(wanted), 299_999]


@pytest.mark.parametrize(
    ("order", "says"), [([3], "row number"), ([0, 1], "outside the model"), ([0, 0], "too small")]
)
def test_rows_that_are_not_there_leave_no_counts(order: list[int], says: str) -> None:
    copy = Copy(10)
    room = 4 if says == "too small" else 30
    ids, counts = np.empty(room, np.uint32), np.empty(room, np.uint32)
    with pytest.raises(KernelError, match=says):
        copy.replica.touch(*rows([3, 5, 6], [9]), np.array(order, "u4"), ids, counts)
    assert not copy.count.any()


def test_a_worker_alone_sends_all_it_moved_and_keeps_it() -> None:
    copy = Copy(4)
    copy.weights[1], copy.weights[2] = 0.5, -1.25
    assert copy.take([1, 2, 0], [3, 1, 1], [1, 1, 1]) == {1: 2**23, 2: -5 * 2**22}
    assert copy.weights.tolist() == [0, 0.5, -1.25, 0]
    assert copy.held.tolist() == [0, 2**23, -5 * 2**22, 0]
    assert copy.take([1, 2], [1, 1], [1, 1]) == {}


@pytest.mark.parametrize("n_workers", [2, 10])
@pytest.mark.parametrize("count", [1, 7, 5000])
@pytest.mark.parametrize("s", [1.0, 30.0])
def test_of_several_workers_moves_a_share_counts(n_workers: int, count: int, s: float) -> None:
    copy = Copy(3, n_workers=n_workers)
    copy.weights[1], copy.state[3] = 0.75, s
    share = min(1.0, max(1 / n_workers, 5 * np.sqrt(s) / (n_workers * count)))
    sent = copy.take([1], [count], [0.5])
    assert sent[1] / SCALE == pytest.approx(share * 0.75, rel=1e-6)
    grown = 0.5 + max(1, n_workers * share) * (s - 0.5)
    assert copy.state[3] == pytest.approx(grown, rel=1e-6)
    assert copy.weights[1] == np.float32(sent[1] / SCALE)


def test_sgd_shares_by_crowd() -> None:
    copy = Copy(3, "sgd", n_workers=4)
    copy.weights[0] = copy.weights[1] = 1
    sent = copy.take([0, 1], [2, 8], [0, 0])
    assert sent == {0: 2**24, 1: 2**23}


def test_what_rounding_leaves_is_carried_over() -> None:
    copy = Copy(2)
    total = 0
    for _ in range(1000):
        copy.weights[0] += np.float32(0.3 / SCALE)
        total += copy.take([0], [1], [1]).get(0, 0)
    assert total == pytest.approx(300, abs=1)


def test_weights_that_no_place_can_hold_are_counted_and_bounded() -> None:
    copy = Copy(3)
    copy.weights[0], copy.weights[1], copy.weights[2] = 500, -500, np.nan
    sent = copy.take([0, 1, 2], [1, 1, 1], [1, 1, 1])
    assert copy.bounded == 3
    assert sent == {0: 2147483520, 1: -2147483520}


def test_the_holders_values_are_taken_over_with_what_was_sent_since() -> None:
    copy = Copy(4)
    copy.weights[1] = 1
    then = copy.sent[[1]].copy()
    copy.take([1], [1], [1])  # sent, not answered yet
    copy.replica.settle(np.array([1], "u4"), np.array([2**22], "i4"), then)
    assert copy.weights[1] == 1.25
    copy.replica.settle(np.array([1], "u4"), np.array([3 * 2**22], "i4"), None)
    assert copy.weights[1] == 0.75
    copy.replica.settle_run(0, 2, np.array([2**24, -(2**24)], "i4"), None)
    assert copy.weights.tolist() == [1, 0.75, -1, 0]


def test_only_what_is_neither_known_nor_in_a_run_is_asked_for() -> None:
    copy = Copy(100)
    ids, out = np.array([3, 50, 7, 60, 99], np.uint32), np.empty(5, np.uint32)
    n = copy.replica.missing(ids, np.array([60, 1], np.uint32), 5, out)
    assert out[:n].tolist() == [50, 7, 99]
    assert not copy.count.any()


def test_a_run_is_as_long_as_it_is_shorter() -> None:
    copy = Copy(5000)
    few = np.array([0, 1, 2, 3, 4, 5, 6, 7, 4000], np.uint32)
    assert copy.replica.dense(few, 43) == 8
    assert copy.replica.dense(np.array([4000], np.uint32), 43) == 0
    assert copy.replica.dense(np.arange(5000, dtype=np.uint32), 43) == 5000
    assert copy.replica.dense(np.empty(0, np.uint32), 43) == 0


def test_ids_outside_the_model_are_refused() -> None:
    copy = Copy(4)
    bad, one = np.array([4], np.uint32), np.zeros(2, np.int32)
    calls: list[Any] = [
        lambda: copy.replica.keep(bad, np.zeros(1, "f4")),
        lambda: copy.take([4], [1], [1]),
        lambda: copy.replica.settle(bad, one[:1], None),
        lambda: copy.replica.missing(bad, bad, 0, np.zeros(1, "u4")),
        lambda: copy.replica.dense(bad, 43),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="outside the model"):
            call()
    with pytest.raises(ValueError, match="longer than the model"):
        copy.replica.settle_run(3, 1, one, None)


def test_ftrl_is_refused() -> None:
    with pytest.raises(ValueError, match="does not add up"):
        Copy(4, "ftrl")
