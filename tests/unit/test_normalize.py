"""How `normalize` goes about it: without scanning where statistics say it all, in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from cirrus_fast import CSR, load_csr, normalize
from cirrus_fast.data import loading, scaled
from cirrus_fast.data.columns import SCALINGS, ColumnCounter, ColumnStatistics
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.scaled import sample_blocks

pytestmark = pytest.mark.usefixtures("storage_root")

F32 = np.float32


def rows_of(n_rows=100, *, full):
    """Ones in most columns, and values in three; the first of which is in every row if `full`."""
    rng = np.random.default_rng(4)
    dense = (rng.random((n_rows, 9)) < 0.4).astype(F32)
    dense[:, :3] *= np.round(rng.normal(size=(n_rows, 3)) * 9, 1)
    if full:
        dense[:, 0] = rng.integers(3, 9, n_rows)
    at_row, ids = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(at_row, minlength=n_rows))])
    labels = np.arange(n_rows, dtype=F32) % 2
    return CSR(labels, indptr.astype(np.int64), ids.astype(np.uint32), dense[at_row, ids], 9)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(loading, "BLOCK_ROWS", 4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_its_statistics_are_those_of_its_rows(scaling, full):
    load_csr(rows_of(full=full), None, "raw")
    made = normalize("raw", "scaled", scaling)
    blocks = list(iterate(made))
    assert len(blocks) == 25
    indices, data = (np.concatenate([getattr(b, a) for b in blocks]) for a in ("indices", "data"))
    scanned = ColumnStatistics.scan(indices, data, 9)
    np.testing.assert_array_equal(made.columns.ids, scanned.ids)
    for field in ("count", "min", "max"):
        np.testing.assert_array_equal(made.columns.columns[field], scanned.columns[field])
    np.testing.assert_allclose(
        made.columns.columns["sum_squares"], scanned.columns["sum_squares"], rtol=1e-6
    )


def test_rows_are_not_scanned_where_nothing_is_shifted(monkeypatch):
    load_csr(rows_of(full=True), None, "raw")
    monkeypatch.setattr(ColumnCounter, "table", None)
    normalize("raw", "by_maximum", "max_abs")
    with pytest.raises(TypeError):
        normalize("raw", "shifted", "min_max")


@pytest.mark.parametrize("value", [3e38, 1e-38])
def test_another_data_sets_scaling_may_lead_out_of_the_range_of_float32(value):
    for name, first in (("small", F32(1 / value if value < 1 else 1e-30)), ("rows", F32(value))):
        data = np.array([first, 1, first], F32)
        ids, indptr = np.array([0, 1, 0], np.uint32), np.array([0, 2, 3])
        load_csr(CSR(np.array([0, 1], F32), indptr, ids, data, 2), None, name)
    normalize("small", "small_scaled", "max_abs")
    made = normalize("rows", "rows_scaled", "max_abs", like="small_scaled")
    indices, data = (
        np.concatenate([getattr(b, a) for b in iterate(made)]) for a in ("indices", "data")
    )
    scanned = ColumnStatistics.scan(indices, data, 2)
    assert made.columns.columns.tolist() == scanned.columns.tolist()


def test_a_scaling_names_only_columns_that_it_changes():
    load_csr(rows_of(full=True), None, "raw")
    assert normalize("raw", "scaled", "min_max").scaling.ids.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("small_blocks")
def test_its_dictionary_is_made_from_blocks_all_over_the_data_set():
    source = load_csr(rows_of(full=False), None, "raw")
    read = []

    def reading(block):
        read.append(source.blocks.index(block))
        return source.read_block(block)

    sample = sample_blocks(source, reading)
    assert read == [0, 3, 6, 9, 12, 15, 18, 21]
    blocks = [source.read_block(source.blocks[i]) for i in read]
    np.testing.assert_array_equal(sample.data, np.concatenate([b.data for b in blocks]))
    np.testing.assert_array_equal(sample.indices, np.concatenate([b.indices for b in blocks]))
    lengths = np.concatenate([np.diff(b.indptr) for b in blocks])
    np.testing.assert_array_equal(np.diff(sample.indptr), lengths)


@pytest.mark.usefixtures("small_blocks")
def test_few_blocks_of_long_rows_are_enough_for_a_dictionary(monkeypatch):
    source = load_csr(rows_of(full=False), None, "raw")
    longest = max(block.nnz for block in source.blocks)
    monkeypatch.setattr(scaled, "_SAMPLED_ENTRIES", 2 * longest)
    sample = sample_blocks(source, source.read_block)
    assert len(sample.labels) == 8
    monkeypatch.setattr(scaled, "_SAMPLED_ENTRIES", 1)
    sample = sample_blocks(source, source.read_block)
    assert len(sample.labels) == 4
