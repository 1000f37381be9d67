"""Which rows are kept from training."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast.data.dataset import Block
from cirrus_fast.data.holdout import MOST_ROWS, HoldOut


def blocks(n, rows=1000):
    return tuple(Block("s", 0, 0, rows, 0, i * rows) for i in range(n))


def share(holdout, of):
    held = sum(int(holdout.mask(i, block).sum()) for i, block in enumerate(of))
    return held / sum(block.n_rows for block in of)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 30, 300])
def test_about_the_fraction_asked_for_is_held_out(fraction, n):
    of = blocks(n)
    held = share(HoldOut.plan(of, fraction, 3), of)
    assert abs(held - fraction) < 5 * (fraction * (1 - fraction) / (1000 * n)) ** 0.5


def test_a_row_is_held_out_or_not_whoever_asks_and_however_blocks_are_cut():
    """The choice is of the row's number in the data set, so block borders do not matter."""
    coarse, fine = blocks(2, 500), blocks(10, 100)
    one, two = HoldOut.plan(coarse, 0.3, 7), HoldOut.plan(fine, 0.3, 7)
    left = np.concatenate([one.mask(i, b) for i, b in enumerate(coarse)])
    right = np.concatenate([two.mask(i, b) for i, b in enumerate(fine)])
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(one.mask(1, coarse[1]), left[500:])


def test_seeds_choose_other_rows_and_the_same_seed_the_same():
    of = blocks(3)
    masks = [HoldOut.plan(of, 0.5, seed).mask(0, of[0]) for seed in (0, 0, 1, 2**63 - 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    for other in masks[2:]:
        agree = (masks[0] == other).mean()
        assert 0.4 < agree < 0.6  # as independent draws would


def test_neighbouring_rows_are_drawn_independently():
    of = blocks(1, 100_000)
    mask = HoldOut.plan(of, 0.5, 1).mask(0, of[0]).astype(float)
    assert abs(np.corrcoef(mask[1:], mask[:-1])[0, 1]) < 0.02


def test_of_many_blocks_only_some_are_touched():
    """Who wants only the held-out rows of large data need not read all of it."""
    of = blocks(1000)
    holdout = HoldOut.plan(of, 0.01, 3)
    touched = [i for i in range(1000) if holdout.shares[i] > 0]
    assert len(touched) == 40
    assert abs(share(holdout, of) - 0.01) < 0.002
    assert not holdout.mask(next(i for i in range(1000) if i not in touched), of[0]).any()
    other = HoldOut.plan(of, 0.01, 4)
    assert touched != [i for i in range(1000) if other.shares[i] > 0]


def test_by_default_5_percent_and_at_most_100_000_rows():
    small, large = blocks(40), blocks(100, 100_000)
    assert abs(share(HoldOut.default(small, 1), small) - 0.05) < 0.006
    held = share(HoldOut.default(large, 1), large) * 1e7
    assert abs(held - MOST_ROWS) < 0.02 * MOST_ROWS


def test_none_holds_nothing_out():
    of = blocks(3)
    assert share(HoldOut.none(of), of) == 0
    assert HoldOut.default((), 0).shares == ()
