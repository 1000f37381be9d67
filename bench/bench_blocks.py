"""Shard blocks: how small, how fast."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from cirrus_fast.data.blocks import Dictionary, decode_block, encode_block
from cirrus_fast.data.loading import BLOCK_ROWS


@pytest.fixture(scope="session")
def coded(rows):
    dictionary = Dictionary.build(rows)
    return dictionary, [
        encode_block(
            rows.labels[begin : begin + BLOCK_ROWS],
            rows.indptr[begin : begin + BLOCK_ROWS + 1],
            rows.indices,
            rows.data,
            None,
            dictionary,
        )
        for begin in range(0, rows.n_rows, BLOCK_ROWS)
    ]


@pytest.mark.parametrize("ordered", [True, False])
def bench_decode(benchmark, peer, rows, coded, ordered):
    dictionary, blocks = coded
    first = decode_block(blocks[0], dictionary)
    assert np.array_equal(first.indices, rows.indices[: first.nnz])
    assert np.array_equal(first.data, rows.data[: first.nnz])
    size = sum(map(len, blocks)) + len(dictionary.to_bytes())
    peer(
        f"cirrus_fast, {'ordered' if ordered else 'unordered'}",
        "decode blocks",
        n_rows=rows.n_rows,
        bytes_per_row=round(size / rows.n_rows, 1),
    )
    benchmark(lambda: [decode_block(raw, dictionary, ordered=ordered) for raw in blocks])


def bench_encode(benchmark, peer, rows, coded):
    dictionary, _ = coded
    labels, indptr = rows.labels[:BLOCK_ROWS], rows.indptr[: BLOCK_ROWS + 1]
    peer("cirrus_fast", "encode blocks", n_rows=BLOCK_ROWS)
    benchmark(encode_block, labels, indptr, rows.indices, rows.data, None, dictionary)


def bench_gunzip(benchmark, peer, text, rows):
    packed = gzip.compress(text, 9)
    peer(
        "gzip -9 of the text, unpacked only",
        "decode blocks",
        n_rows=rows.n_rows,
        bytes_per_row=round(len(packed) / rows.n_rows, 1),
    )
    benchmark.pedantic(gzip.decompress, args=(packed,), rounds=1)
