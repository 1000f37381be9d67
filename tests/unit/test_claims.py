"""Words that workers claim: each by one of them, whoever tries at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast.runtime.claims import Claims, takers


def test_of_many_that_try_at_once_one_has_each() -> None:
    n, n_workers = 20_000, 4
    words = np.zeros(n, np.int64)
    numbers, start = np.arange(n, dtype=np.uint32), Barrier(n_workers)

    def work(worker: int) -> np.ndarray:
        claims, order = Claims(words, worker), np.random.default_rng(worker).permutation(numbers)
        start.wait()
        taken = [order[i : i + 50][claims.take(order[i : i + 50], 0)] for i in range(0, n, 50)]
        return np.concatenate(taken)

    with ThreadPoolExecutor(n_workers) as pool:
        taken = list(pool.map(work, range(n_workers)))
    assert np.array_equal(np.sort(np.concatenate(taken)), numbers)
    for worker, mine in enumerate(taken):
        assert np.array_equal(np.sort(mine), Claims(words, worker).mine())


def test_a_block_goes_from_epoch_to_epoch() -> None:
    words = np.zeros(4, np.int64)
    ours, theirs = Claims(words, 0), Claims(words, 700)
    blocks = np.array([1, 3], np.uint32)
    assert ours.take(blocks, 0).tolist() == [True, True]
    assert theirs.take(np.array([0, 1], np.uint32), 0).tolist() == [True, False]
    assert ours.take(blocks, 0).tolist() == [True, True]  # it has them still
    assert takers(words) == {0, 700}
    assert theirs.mine().tolist() == [0]
    assert ours.free(np.arange(4, dtype=np.uint32), 0).tolist() == [False, False, True, False]
    assert ours.open(np.arange(4, dtype=np.uint32), 0).tolist() == [False, True, True, True]
    assert not theirs.take(blocks, 1).any()  # an epoch ahead
    ours.done(blocks, 0)
    assert ours.epochs().tolist() == [0, 1, 0, 1]
    assert theirs.take(blocks, 1).all()
    ours.done(blocks, 0)  # said late, by one that was replaced
    assert theirs.mine().tolist() == [0, 1, 3]


def test_sums_of_many_lose_nothing() -> None:
    words = np.zeros(3, np.int64)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2000):
            pool.submit(_kernels.claim_add, words, 1, 3)
    assert words.tolist() == [0, 6000, 0]


def test_what_is_beyond_the_words_is_refused() -> None:
    words, out = np.zeros(3, np.int64), np.zeros(1, np.uint8)
    with pytest.raises(ValueError, match="beyond the words"):
        _kernels.claim(words, np.array([3], np.uint32), 0, 1, out)
    with pytest.raises(ValueError, match="as long as numbers"):
        _kernels.claim(words, np.array([1, 2], np.uint32), 0, 1, out)
    with pytest.raises(ValueError, match="beyond the words"):
        _kernels.claim_add(words, 3, 1)
    assert not words.any()
