"""A mini-batch's distinct ids."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast.errors import KernelError


def localize(ids: np.ndarray, n_ids: int, table: np.ndarray | None = None):
    ids = np.asarray(ids, np.uint32)
    table = np.zeros(n_ids, np.uint32) if table is None else table
    local, distinct = np.empty(len(ids), np.uint32), np.empty(len(ids) + 1, np.uint32)
    n = _kernels.localize(ids, table, local, distinct)
    return local, distinct[:n]


def test_ids_are_numbered_by_first_sight():
    local, distinct = localize([7, 3, 7, 0, 3, 9], 10)
    assert local.tolist() == [0, 1, 0, 2, 1, 3]
    assert distinct.tolist() == [7, 3, 0, 9]


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000])
@pytest.mark.parametrize("n_ids", [1, 5, 1 << 16])
def test_local_numbers_lead_back_to_the_ids(n, n_ids):
    ids = np.random.default_rng([n, n_ids]).integers(0, n_ids, n).astype(np.uint32)
    local, distinct = localize(ids, n_ids)
    np.testing.assert_array_equal(distinct[local], ids)
    assert len(set(distinct.tolist())) == len(distinct)
    first_seen = sorted(set(ids.tolist()), key=ids.tolist().index)
    assert distinct.tolist() == first_seen


def test_what_the_table_holds_does_not_matter():
    """Nothing clears it between mini-batches, so leftovers of any kind must do no harm."""
    rng = np.random.default_rng(3)
    tables = [
        np.zeros(50, np.uint32),
        np.full(50, 2**32 - 1, np.uint32),
        np.arange(50, dtype=np.uint32),
        rng.integers(0, 2**32, 50).astype(np.uint32),
        rng.integers(0, 60, 50).astype(np.uint32),
    ]
    for _ in range(20):
        ids = rng.integers(0, 50, 60).astype(np.uint32)
        expected = localize(ids, 50)
        for table in tables:  # each keeps what the last round left in it
            local, distinct = localize(ids, 50, table)
            np.testing.assert_array_equal(local, expected[0])
            np.testing.assert_array_equal(distinct, expected[1])


def test_local_may_be_the_ids_themselves():
    ids = np.random.default_rng(4).integers(0, 90, 500).astype(np.uint32)
    expected, _ = localize(ids, 90)
    distinct = np.empty(501, np.uint32)
    _kernels.localize(ids, np.zeros(90, np.uint32), ids, distinct)
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(("bad", "at"), [(10, 0), (2**32 - 1, 3)])
def test_an_id_outside_the_model_is_refused_with_its_entry(bad, at):
    ids = np.arange(6, dtype=np.uint32)
    ids[at] = bad
    with pytest.raises(KernelError, match=rf"outside the model \(entry {at}\)") as caught:
        localize(ids, 10)
    assert caught.value.entry == at


def test_outputs_without_room_are_refused():
    ids, table = np.zeros(3, np.uint32), np.zeros(1, np.uint32)
    with pytest.raises(ValueError, match="distinct must be longer"):
        _kernels.localize(ids, table, np.empty(3, np.uint32), np.empty(3, np.uint32))
    with pytest.raises(ValueError, match="local must be as long"):
        _kernels.localize(ids, table, np.empty(2, np.uint32), np.empty(4, np.uint32))
