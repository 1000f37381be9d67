"""Rows made ready for training: in another order, ids to places, values divided."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR

N_IDS = 500
NOWHERE = 2**32 - 1


def rows_of(draw: np.random.Generator, lengths: list[int]) -> CSR:
    indptr = np.cumsum([0, *lengths]).astype(np.int64)
    ids = [np.sort(draw.choice(N_IDS, n, replace=False)) for n in lengths]
    nnz = int(indptr[-1])
    return CSR(
        draw.normal(size=len(lengths)).astype(np.float32),
        indptr,
        np.concatenate([np.empty(0, np.int64), *ids]).astype(np.uint32),
        draw.normal(size=nnz).astype(np.float32),
        N_IDS,
        draw.random(len(lengths)).astype(np.float32),
    )


def prepare(
    rows: CSR,
    order: np.ndarray,
    places: np.ndarray,
    n_places: int,
    divisors: np.ndarray,
    first: int = 0,
) -> tuple[np.ndarray, ...]:
    nnz = int(np.diff(rows.indptr)[order].sum())
    out = (
        np.empty(len(order), np.float32),
        np.empty(len(order) + 1, np.int64),
        np.empty(nnz, np.uint32),
        np.empty(nnz, np.float32),
        np.empty(len(order), np.float32),
    )
    end = _kernels.prepare_rows(
        rows.labels,
        rows.indptr,
        rows.indices,
        rows.data,
        rows.weights,
        order,
        places,
        n_places,
        divisors,
        first,
        *out,
    )
    assert end == first + nnz
    return out


@pytest.mark.parametrize("n_divisors", [1, 2, 37, N_IDS])
def test_rows_in_order_with_places_and_divided_values(n_divisors: int) -> None:
    draw = np.random.default_rng(n_divisors)
    rows = rows_of(draw, [0, 1, 63, 64, 65, 0, 200, 3, N_IDS, 7])
    order = draw.permutation(10).astype(np.uint32)
    places = draw.permutation(N_IDS).astype(np.uint32)
    divisors = draw.uniform(0.1, 9, n_divisors).astype(np.float32)
    labels, indptr, indices, data, weights = prepare(rows, order, places, N_IDS, divisors, 11)
    assert rows.weights is not None
    assert np.array_equal(labels, rows.labels[order])
    assert np.array_equal(weights, rows.weights[order])
    assert indptr[0] == 11
    for i, row in enumerate(order):
        there = slice(int(rows.indptr[row]), int(rows.indptr[row + 1]))
        here = slice(int(indptr[i]) - 11, int(indptr[i + 1]) - 11)
        place = places[rows.indices[there]]
        assert np.array_equal(indices[here], place)
        divisor = divisors[np.minimum(place, n_divisors - 1)]
        assert np.array_equal(data[here], rows.data[there] / divisor)


@pytest.mark.parametrize("n_ids", [N_IDS, 250])
def test_an_id_without_a_place_is_told_by_its_entry(n_ids: int) -> None:
    draw = np.random.default_rng(n_ids)
    rows = rows_of(draw, [70, 70, 70])
    places = np.arange(n_ids, dtype=np.uint32)
    places[places % 50 == 49] = NOWHERE
    bad = (rows.indices >= n_ids) | (rows.indices % 50 == 49)
    first = int(np.flatnonzero(bad[70:])[0]) + 70
    order = np.array([1, 0, 2], np.uint32)
    with pytest.raises(ValueError, match=rf"\(entry {first}\)"):
        prepare(rows, order, places, n_ids, np.ones(1, np.float32))


def test_without_places_only_empty_rows_can_be_prepared() -> None:
    draw = np.random.default_rng(1)
    none = np.empty(0, np.uint32), 0, np.empty(0, np.float32)
    prepare(rows_of(draw, [0, 0]), np.arange(2, dtype=np.uint32), *none)
    with pytest.raises(ValueError, match=r"\(entry 0\)"):
        prepare(rows_of(draw, [0, 2]), np.arange(2, dtype=np.uint32), *none)
    with pytest.raises(ValueError, match="divisor"):
        prepare(
            rows_of(draw, [0]), np.arange(1, dtype=np.uint32), np.zeros(1, np.uint32), 1, none[2]
        )


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 63, 64, 65, 1000])
@pytest.mark.parametrize("n_divisors", [1, 37, N_IDS])
def test_entries_where_they_are(n: int, n_divisors: int) -> None:
    draw = np.random.default_rng(n)
    ids = draw.integers(N_IDS, size=n).astype(np.uint32)
    values = draw.normal(size=n).astype(np.float32)
    places = draw.permutation(N_IDS).astype(np.uint32)
    divisors = draw.uniform(0.1, 9, n_divisors).astype(np.float32)
    indices, data = ids.copy(), values.copy()
    _kernels.prepare_entries(indices, data, places, N_IDS, divisors)
    assert np.array_equal(indices, places[ids])
    assert np.array_equal(data, values / divisors[np.minimum(places[ids], n_divisors - 1)])


@pytest.mark.parametrize("bad_id", [50, N_IDS, N_IDS + 7, NOWHERE])
@pytest.mark.parametrize("at", [0, 7, 8, 77, 300, 999])
def test_the_first_entry_without_a_place_is_told_and_is_as_it_was(bad_id: int, at: int) -> None:
    draw = np.random.default_rng(at)
    ids = draw.integers(50, size=1000).astype(np.uint32)
    ids[at] = bad_id
    values = draw.normal(size=1000).astype(np.float32)
    places = np.arange(N_IDS, dtype=np.uint32)
    places[50:] = NOWHERE
    indices, data = ids.copy(), values.copy()
    with pytest.raises(ValueError, match=rf"\(entry {at}\)"):
        _kernels.prepare_entries(indices, data, places, N_IDS, np.full(1, 2, np.float32))
    assert np.array_equal(indices[at:], ids[at:])
    assert np.array_equal(data[at:], values[at:])
    assert np.array_equal(indices[:at], ids[:at])  # places are ids here
