"""docs/shard-format.md is complete: a decoder written from it agrees with the core.

Everything here is slow and obvious on purpose, and knows nothing but the document.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

from cirrus_fast.data.blocks import Dictionary, decode_block, encode_block
from cirrus_fast.data.csr import CSR


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Bits:
    """A bit stream as one large integer."""

    def __init__(self, data: bytes) -> None:
        self.left = int.from_bytes(data, "little")
        self.size = 8 * len(data)

    def __call__(self, width: int) -> int:
        assert width <= self.size, "the stream ends early"
        value = self.left & ones(width)
        self.left >>= width
        self.size -= width
        return value

    def finish(self) -> None:
        assert self.size < 8
        assert self.left == 0, "writers leave unused bits 0"


def ones(width: int) -> int:
    return (1 << width) - 1


def gaps(bits: Bits, n: int, code: bytes) -> Iterator[int]:
    class_bits, *widths = code
    previous = -1
    for _ in range(n):
        previous += 1 + bits(widths[bits(class_bits)])
        assert previous < 1 << 32
        yield previous


class Table:
    def __init__(self, first_bits: int, second_bits: int, values: list[int]) -> None:
        self.first_bits, self.second_bits, self.values = first_bits, second_bits, values

    def value(self, bits: Bits) -> int:
        code = bits(self.first_bits)
        if code == ones(self.first_bits):
            second = bits(self.second_bits)
            if second == ones(self.second_bits):
                return bits(32)
            code = ones(self.first_bits) + second
        return self.values[code]


class ReferenceDictionary:
    def __init__(self, data: bytes) -> None:
        magic, checksum, length, version, flags = struct.unpack_from("<4sIIHH", data)
        assert (magic, length, version, flags) == (b"CFD1", len(data), 1, 0)
        assert checksum == crc32c(data[8:])
        self.sizes = list(struct.unpack_from("<6I", data, 16))
        n_tables, n_values, ids_bytes = struct.unpack_from("<3I", data, 40)
        self.n_tiers = data[52]
        at = 72 + ids_bytes
        bits = Bits(data[72:at])
        self.tiers = [list(gaps(bits, size, data[53:58])) for size in self.sizes]
        bits.finish()
        ids = [id_ for tier in self.tiers for id_ in tier]
        values = struct.unpack_from(f"<{n_values}I", data, at + 8 * n_tables)
        assert len(data) == at + 8 * n_tables + 4 * n_values + 16
        self.table_of: dict[int, Table] = {}
        begin = 0
        for i in range(n_tables):
            rank, n, first_bits, second_bits = struct.unpack_from("<IHBB", data, at + 8 * i)
            self.table_of[ids[rank]] = Table(
                first_bits, second_bits, list(values[begin : begin + n])
            )
            begin += n
        assert begin == n_values
        self.identity = 0xCBF29CE484222325
        for byte in data[8:]:
            self.identity = (self.identity ^ byte) * 0x100000001B3 & ones(64)


Row = tuple[int, int | None, list[tuple[int, int]]]  # label, weight, (id, value) in stored order


def reference_decode(data: bytes, dictionary: ReferenceDictionary | None) -> list[Row]:
    magic, checksum, length, version, flags = struct.unpack_from("<4sIIHH", data)
    assert (magic, length, version, flags & ~7) == (b"CFB1", len(data), 1, 0)
    assert checksum == crc32c(data[8:])
    n_rows, nnz, identity, longest = struct.unpack_from("<IIQI", data, 16)
    ids_bytes, values_bytes, n_exceptions, n_own = struct.unpack_from("<4I", data, 36)
    label_bits, n_labels, first_bits, second_bits = data[52:56]
    gap_code, count_bits = data[56:61], data[61:67]
    assert (identity != 0) == bool(flags & 2)
    if not flags & 2:
        sizes, n_tiers, tiers, table_of = [0] * 6, 0, [[]], {}
    else:
        assert dictionary is not None
        assert identity == dictionary.identity
        sizes, n_tiers = dictionary.sizes, dictionary.n_tiers
        tiers, table_of = dictionary.tiers, dictionary.table_of

    at = 72

    def take(n: int) -> bytes:
        nonlocal at
        at += n
        return data[at - n : at]

    label_table = struct.unpack(f"<{n_labels}I", take(4 * n_labels))
    bits = Bits(take((n_rows * label_bits + 7) // 8))
    codes = [bits(label_bits) for _ in range(n_rows)]
    bits.finish()
    labels = codes if label_bits == 32 else [label_table[code] for code in codes]
    weights: list[int | None] = [None] * n_rows
    if flags & 1:
        weights = list(struct.unpack(f"<{n_rows}I", take(4 * n_rows)))
    own = Table(first_bits, second_bits, list(struct.unpack(f"<{n_own}I", take(4 * n_own))))
    exceptions = dict(struct.iter_unpack("<II", take(8 * n_exceptions)))
    ids, values = Bits(take(ids_bytes)), Bits(take(values_bytes))
    assert len(data) == at + 16

    rows: list[Row] = []
    entry = 0
    for row in range(n_rows):
        n_outside = ids(count_bits[0])
        n = [0] + [ids(count_bits[t]) for t in range(1, n_tiers + 1)]
        present = [ids(1) for _ in range(sizes[0])]
        stored = [(tiers[0][i], True) for i, bit in enumerate(present) if bit]
        for t in range(1, n_tiers + 1):
            width = max(1, (sizes[t] - 1).bit_length())
            stored += [(tiers[t][ids(width)], True) for _ in range(n[t])]
        stored += [(id_, False) for id_ in gaps(ids, n_outside, gap_code)]
        assert len(stored) <= longest
        pairs = []
        for id_, named in stored:
            if named and id_ in table_of:
                value = table_of[id_].value(values)
            elif flags & 4:
                value = 0x3F800000
            else:
                value = own.value(values)
            pairs.append((id_, exceptions.pop(entry, value)))
            entry += 1
        rows.append((labels[row], weights[row], pairs))
    ids.finish()
    values.finish()
    assert entry == nnz
    assert not exceptions
    return rows


def as_rows(csr: CSR) -> list[Row]:
    values = csr.data.view(np.uint32).tolist()
    labels = csr.labels.view(np.uint32).tolist()
    weights = [None] * csr.n_rows if csr.weights is None else csr.weights.view(np.uint32).tolist()
    ids, ptr = csr.indices.tolist(), csr.indptr.tolist()
    return [
        (labels[i], weights[i], list(zip(ids[a:b], values[a:b], strict=True)))
        for i, (a, b) in enumerate(pairwise(ptr))
    ]


@pytest.mark.parametrize(
    "kind", ["ones", "numbers", "counts", "reals", "exceptions", "wide", "long"]
)
@pytest.mark.parametrize("with_dictionary", [False, True])
@pytest.mark.parametrize("with_weights", [False, True])
def test_core_agrees_with_the_document(
    make_rows: Callable[..., CSR], kind: str, with_dictionary: bool, with_weights: bool
) -> None:
    dictionary = Dictionary.build(make_rows(kind, 1500, seed=1)) if with_dictionary else None
    reference = ReferenceDictionary(dictionary.to_bytes()) if dictionary else None
    for n_rows in (0, 1, 90):
        rows = make_rows(kind, n_rows, seed=2, weights=with_weights)
        block = encode_block(
            rows.labels, rows.indptr, rows.indices, rows.data, rows.weights, dictionary
        )
        stored = reference_decode(block, reference)
        assert as_rows(decode_block(block, dictionary, ordered=False)) == stored
        in_order = [(label, weight, sorted(pairs)) for label, weight, pairs in stored]
        assert as_rows(decode_block(block, dictionary)) == in_order
        assert in_order == as_rows(rows)
    if reference:
        assert dictionary is not None
        assert len(dictionary) == sum(reference.sizes)
        if len(dictionary):
            assert dictionary.identity == f"{reference.identity:016x}"
