"""decode(encode(rows)) is rows, for any rows, with a dictionary from any others."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cirrus_fast.data.blocks import (
    Dictionary,
    MinibatchDecoder,
    decode_block,
    encode_block,
    read_header,
)
from cirrus_fast.data.csr import CSR

WORDS = st.integers(0, 2**32 - 1)
# Few distinct ids and values, so that samples and rows share some; and anything at all.
IDS = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**32 - 2, 2**32 - 1]), WORDS)
VALUES = st.one_of(st.sampled_from([0x3F800000, 0x40000000, 0x7FC00001, 0x80000000]), WORDS)


@st.composite
def csrs(draw: st.DrawFn, repeat: int = 1) -> CSR:
    rows = draw(st.lists(st.dictionaries(IDS, VALUES, max_size=40), max_size=12)) * repeat
    labels = draw(st.lists(VALUES, min_size=len(rows), max_size=len(rows)))
    weights = draw(st.none() | st.just([bits ^ 1 for bits in labels]))
    items = [sorted(row.items()) for row in rows]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in items])]).astype(np.int64)
    return CSR(
        np.array(labels, np.uint32).view(np.float32),
        indptr,
        np.array([id_ for row in items for id_, _ in row], np.uint32),
        np.array([bits for row in items for _, bits in row], np.uint32).view(np.float32),
        2**32,
        None if weights is None else np.array(weights, np.uint32).view(np.float32),
    )


def check(rows: CSR, dictionary: Dictionary | None) -> None:
    block = encode_block(
        rows.labels, rows.indptr, rows.indices, rows.data, rows.weights, dictionary
    )
    decoded = decode_block(block, dictionary)
    for name in ("labels", "indptr", "indices", "data", "weights"):
        before, after = getattr(rows, name), getattr(decoded, name)
        assert (before is None) == (after is None)
        assert before is None or before.tobytes() == after.tobytes()
    unordered = decode_block(block, dictionary, ordered=False)
    local = MinibatchDecoder(dictionary).decode(block, 5)
    assert local.data.tobytes() == unordered.data.tobytes()
    for i in range(rows.n_rows):
        entries = slice(*local.indptr[i : i + 2])
        ids = local.ids[local.offsets[i // 5] : local.offsets[i // 5 + 1]][local.local[entries]]
        assert ids.tolist() == unordered.indices[entries].tolist()
        assert sorted(ids) == rows.indices[entries].tolist()
    header = read_header(block)
    assert (header.n_rows, header.nnz, header.n_bytes) == (rows.n_rows, rows.nnz, len(block))
    assert max(header.n_rows, header.nnz) <= 8 * header.n_bytes


@settings(max_examples=150, deadline=None, derandomize=True)
@given(csrs())
def test_decode_inverts_encode(rows: CSR) -> None:
    check(rows, None)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(csrs(repeat=40), csrs())
def test_decode_inverts_encode_with_a_dictionary_of_other_rows(sample: CSR, rows: CSR) -> None:
    dictionary = Dictionary.build(sample)
    assert Dictionary.from_bytes(dictionary.to_bytes()).identity == dictionary.identity
    check(rows, dictionary)
    check(sample, dictionary)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(csrs(), st.data())
def test_any_cut_of_rows_encodes_alone(rows: CSR, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, rows.n_rows))
    end = data.draw(st.integers(begin, rows.n_rows))
    block = encode_block(
        rows.labels[begin:end], rows.indptr[begin : end + 1], rows.indices, rows.data
    )
    decoded = decode_block(block)
    first, last = rows.indptr[begin], rows.indptr[end]
    assert decoded.indices.tobytes() == rows.indices[first:last].tobytes()
    assert decoded.data.tobytes() == rows.data[first:last].tobytes()
    assert decoded.indptr.tolist() == (rows.indptr[begin : end + 1] - first).tolist()
