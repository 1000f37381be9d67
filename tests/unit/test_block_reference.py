"""docs/shard-format.md is complete: a decoder written from it agrees with the core.

Everything here is slow and obvious on purpose, and knows nothing but the document.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from types import SimpleNamespace

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


class ReferenceDictionary:
    def __init__(self, data: bytes) -> None:
        magic, checksum, length, version, flags = struct.unpack_from("<4sIIHH", data)
        assert (magic, length, version, flags) == (b"CFD1", len(data), 1, 0)
        assert checksum == crc32c(data[8:])
        self.sizes = list(struct.unpack_from("<4I", data, 16))
        self.n_narrow, n_wide, n_values, ids_bytes = struct.unpack_from("<4I", data, 32)
        n_tables = self.n_narrow + n_wide
        runs = [self.n_narrow, n_wide, self.sizes[0] - n_tables, *self.sizes[1:]]
        at = 56 + ids_bytes
        bits = Bits(data[56:at])
        ids = [id_ for size in runs for id_ in gaps(bits, size, data[48:53])]
        bits.finish()
        assert len(set(ids)) == len(ids)
        ends = list(accumulate(self.sizes, initial=0))
        self.tiers = [ids[a:b] for a, b in pairwise(ends)]
        lengths = struct.unpack_from(f"<{n_tables}I", data, at)
        values = struct.unpack_from(f"<{n_values}I", data, at + 4 * n_tables)
        assert len(data) == at + 4 * n_tables + 4 * n_values + 16
        starts = list(accumulate(lengths, initial=0))
        assert starts[-1] == n_values
        self.tables = [values[a:b] for a, b in pairwise(starts)]
        self.identity = 0xCBF29CE484222325
        for word in (data[at : at + 8] for at in range(8, len(data), 8)):
            self.identity ^= int.from_bytes(word, "little")
            self.identity = self.identity * 0x100000001B3 & ones(64)


NO_DICTIONARY = SimpleNamespace(sizes=[0] * 4, tiers=[[]] * 4, tables=[], n_narrow=0)
Row = tuple[int, int | None, list[tuple[int, int]]]  # label, weight, (id, value) in stored order


def reference_decode(data: bytes, given: ReferenceDictionary | None) -> list[Row]:
    magic, checksum, length, version, flags = struct.unpack_from("<4sIIHH", data)
    assert (magic, length, version, flags & ~31) == (b"CFB1", len(data), 1, 0)
    assert checksum == crc32c(data[8:])
    n_rows, nnz, identity, longest, n_rests = struct.unpack_from("<IIQII", data, 16)
    *n_codes, outside_bytes = struct.unpack_from("<5I", data, 40)
    n_narrow, n_wide, n_second, n_raw = struct.unpack_from("<4I", data, 60)
    n_own, n_plain_second, n_plain_raw, n_exceptions = struct.unpack_from("<4I", data, 76)
    label_bits, n_labels, plain_bits, width, bitmap_bytes = struct.unpack_from("<4BH", data, 92)
    assert (identity != 0) == bool(flags & 2)
    dictionary = NO_DICTIONARY
    if flags & 2:
        assert given is not None
        assert identity == given.identity
        dictionary = given
    assert bitmap_bytes == (dictionary.sizes[0] + 7) // 8
    at = 104

    def take(n: int) -> bytes:
        nonlocal at
        at += n
        return data[at - n : at]

    def numbers(layout: str, n: int) -> Iterator[int]:
        size = struct.calcsize(f"<{layout}")
        return iter(struct.unpack(f"<{n}{layout}", take(size * n)))

    def bit_stream(n: int, bits: int) -> Bits:
        return Bits(take((n * bits + 7) // 8))

    label_table = list(numbers("I", n_labels))
    bits = bit_stream(n_rows, label_bits)
    codes = [bits(label_bits) for _ in range(n_rows)]
    bits.finish()
    labels = codes if label_bits == 32 else [label_table[code] for code in codes]
    weights: list[int | None] = [None] * n_rows
    if flags & 1:
        weights = list(numbers("I", n_rows))
    own = list(numbers("I", n_own))
    exceptions = dict(struct.iter_unpack("<II", take(8 * n_exceptions)))
    bitmaps = [int.from_bytes(take(bitmap_bytes), "little") for _ in range(n_rows)]
    count_bits = 8 if flags & 8 else 4
    counts = list(numbers("I" if flags & 8 else "H", n_rows))
    rests = numbers("I", n_rests)
    first = numbers("B", n_codes[0])
    second = bit_stream(n_codes[1], 12)
    third = numbers("H", n_codes[2])
    next_code = [first.__next__, lambda: second(12), third.__next__]
    lengths = bit_stream(n_codes[3], 2) if flags & 16 else Bits(b"")
    outside = Bits(take(outside_bytes))
    narrow, wide = numbers("B", n_narrow), numbers("H", n_wide)
    seconds, raw = numbers("H", n_second), numbers("I", n_raw)
    n_plain = 0 if flags & 4 or plain_bits == 32 else nnz - n_narrow - n_wide
    plain = bit_stream(n_plain, plain_bits)
    plain_seconds, plain_raw = numbers("H", n_plain_second), numbers("I", n_plain_raw)
    assert len(data) == at + 32

    def table_value(number: int) -> int:
        values = dictionary.tables[number]
        if number >= dictionary.n_narrow:
            code = next(wide)
            return next(raw) if code == 65535 else values[code]
        code = next(narrow)
        if code < 255:
            return values[code] if code < len(values) else 0
        code = next(seconds)
        return next(raw) if code == 65535 else values[255 + code]

    def plain_value() -> int:
        if flags & 4:
            return 0x3F800000
        if plain_bits == 32:
            return next(plain_raw)
        code = plain(plain_bits)
        if code == ones(plain_bits):
            code = next(plain_seconds)
            if code == 65535:
                return next(plain_raw)
            code += ones(plain_bits)
        return own[code]

    rows: list[Row] = []
    entry = 0
    for row in range(n_rows):
        n = [counts[row] >> count_bits * t & ones(count_bits) for t in range(4)]
        n = [count + next(rests) if count == ones(count_bits) else count for count in n]
        members = [i for i in range(8 * bitmap_bytes) if bitmaps[row] >> i & 1]
        stored = [dictionary.tiers[0][i] for i in members]
        n_tables = len(dictionary.tables)
        values = [table_value(i) for i in members if i < n_tables]
        for t in range(3):
            stored += [dictionary.tiers[t + 1][next_code[t]()] for _ in range(n[t])]
        previous = -1
        for _ in range(n[3]):
            if flags & 16:
                previous += 1 + outside(8 * (1 + lengths(2)))
            else:
                previous = outside(8 * width)
            stored.append(previous)
        assert len(stored) <= longest
        values += [plain_value() for _ in range(len(stored) - len(values))]
        pairs = []
        for id_, value in zip(stored, values, strict=True):
            pairs.append((id_, exceptions.pop(entry, value)))
            entry += 1
        rows.append((labels[row], weights[row], pairs))
    for stream in (second, lengths, outside, plain):
        stream.finish()
    for numbers_left in (rests, first, third, narrow, wide, seconds, raw, plain_seconds, plain_raw):
        assert not list(numbers_left)
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
