"""Rows that go into a data set come out of it bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cirrus_fast import CSR, Dataset, load_csr, load_libsvm, parse_libsvm
from cirrus_fast.data import dataset_writer
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.sources import Source
from cirrus_fast.data.text import write_libsvm

IDS = st.one_of(st.integers(0, 30), st.integers(0, 2**32 - 4), st.just(2**32 - 4))
BITS = st.sampled_from([0x3F800000, 0x40000000, 0x7FC00001, 0]) | st.integers(0, 2**32 - 1)


@st.composite
def csrs(draw, values=BITS, weights=True):
    rows = draw(st.lists(st.dictionaries(IDS, values, max_size=12), min_size=1, max_size=25))
    items = [sorted(row.items()) for row in rows]
    labels = draw(st.lists(st.sampled_from([-1, 1]), min_size=len(rows), max_size=len(rows)))
    mass = st.floats(0, 2.0**100, width=32)
    masses = st.lists(mass, min_size=len(rows), max_size=len(rows)).filter(any)
    weight = draw(st.none() | masses) if weights else None
    indices = np.array([i for row in items for i, _ in row], np.uint32)
    return CSR(
        np.array(labels, np.float32),
        np.concatenate([[0], np.cumsum([len(row) for row in items])]).astype(np.int64),
        indices,
        np.array([x for row in items for _, x in row], np.uint32).view(np.float32),
        int(indices.max(initial=0)) + 1 + draw(st.integers(0, 1)),
        None if weight is None else np.array(weight, np.float32),
    )


def concatenated(dataset):
    """All blocks in one, bit patterns as bytes: (labels, lengths, indices, data, weights)."""
    parts = list(iterate(dataset))
    weights = [part.weights for part in parts]
    return (
        b"".join(part.labels.tobytes() for part in parts),
        [int(n) for part in parts for n in np.diff(part.indptr)],
        b"".join(part.indices.tobytes() for part in parts),
        b"".join(part.data.tobytes() for part in parts),
        None
        if any(part is None for part in weights)
        else b"".join(part.tobytes() for part in weights),
    )


def as_bytes(rows):
    weights = None if rows.weights is None else rows.weights.tobytes()
    lengths = np.diff(rows.indptr).tolist()
    return rows.labels.tobytes(), lengths, rows.indices.tobytes(), rows.data.tobytes(), weights


@settings(max_examples=60, deadline=None)
@given(csrs(), st.integers(1, 30), st.integers(1, 500), st.integers(1, 3))
def test_arrays_come_out_as_they_went_in(rows, block_rows, shard_bytes, n_threads):
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("cirrus_fast.data.loading.BLOCK_ROWS", block_rows),
        mock.patch.object(dataset_writer, "SHARD_BYTES", shard_bytes),
    ):
        load_csr(rows, None, f"{folder}/d", allow_nonfinite=True, n_threads=n_threads)
        dataset = Dataset(f"{folder}/d")
        assert concatenated(dataset) == as_bytes(rows)
        dataset.verify()
        assert dataset.n_features == rows.n_features
        manifest = dataset.manifest
        assert (manifest.n_rows, manifest.nnz) == (rows.n_rows, rows.nnz)
        assert manifest.longest_row == np.diff(rows.indptr).max(initial=0)
        assert manifest.n_positive == (rows.labels > 0).sum()
        assert dataset.columns.ids.tolist() == np.unique(rows.indices).tolist()
        assert dataset.columns.columns["count"].sum() == rows.nnz


@settings(max_examples=60, deadline=None)
@given(
    csrs(values=st.integers(0, 0x7F7FFFFF), weights=False),
    st.integers(1, 200),
    st.integers(1, 30),
    st.integers(0, 1),
)
def test_text_in_chunks_of_any_size_comes_out_as_it_parses(rows, chunk_bytes, block_rows, base):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.svm"
        write_libsvm(rows, path, zero_based=base == 0)
        with (
            mock.patch("cirrus_fast.data.loading.BLOCK_ROWS", block_rows),
            mock.patch.object(Source.chunks, "__defaults__", (chunk_bytes,)),
        ):
            dataset = load_libsvm(path, f"{folder}/d", zero_based=base == 0)
        assert concatenated(dataset)[:4] == as_bytes(rows)[:4]
        assert as_bytes(parse_libsvm(path.read_bytes(), zero_based=base == 0)) == as_bytes(rows)
