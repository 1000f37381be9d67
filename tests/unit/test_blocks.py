"""Blocks and dictionaries from Python: every mode, every way to be wrong."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cirrus_fast import _kernels
from cirrus_fast.data.blocks import (
    BlockHeader,
    Dictionary,
    MinibatchDecoder,
    decode_block,
    decode_block_into,
    encode_block,
    read_header,
)
from cirrus_fast.data.csr import CSR
from cirrus_fast.errors import BlockError

ROOT = Path(__file__).parents[2]
KINDS = ["ones", "numbers", "counts", "reals", "exceptions", "wide", "dense", "long"]


def encode(rows: CSR, dictionary: Dictionary | None = None) -> bytes:
    return encode_block(rows.labels, rows.indptr, rows.indices, rows.data, rows.weights, dictionary)


def same_bits(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def same_rows(a: CSR, b: CSR) -> bool:
    names = ("labels", "indptr", "indices", "data", "weights")
    return all(same_bits(getattr(a, name), getattr(b, name)) for name in names)


def patched(block: bytes, offset: int, layout: str, value: int) -> bytes:
    """A field changed and the checksum made right again."""
    out = bytearray(block)
    struct.pack_into(layout, out, offset, value)
    struct.pack_into("<I", out, 4, _kernels.crc32c(out[8:]))
    return bytes(out)


def small_block(make_rows: Callable[..., CSR]) -> tuple[bytes, Dictionary]:
    dictionary = Dictionary.build(make_rows("numbers", 3000))
    return encode(make_rows("numbers", 8, seed=4, weights=True), dictionary), dictionary


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [False, True])
def test_rows_survive_with_and_without_dictionary(
    make_rows: Callable[..., CSR], kind: str, weights: bool
) -> None:
    rows = make_rows(kind, 700, seed=2, weights=weights)
    for dictionary in (None, Dictionary.build(make_rows(kind, 3000, seed=1))):
        block = encode(rows, dictionary)
        header = read_header(block)
        assert header == BlockHeader(700, rows.nnz, weights, len(block), header.dictionary_identity)
        assert same_rows(decode_block(block, dictionary), rows)


def test_each_kind_of_rows_takes_its_mode(make_rows: Callable[..., CSR]) -> None:
    def modes(kind: str) -> tuple[int, int, int, int]:
        dictionary = Dictionary.build(make_rows(kind, 3000, seed=1))
        block = encode(make_rows(kind, 700, seed=2), dictionary)
        flags, exceptions, own = (
            struct.unpack_from(layout, block, at)[0]
            for layout, at in (("<H", 14), ("<I", 88), ("<I", 76))
        )
        tables = sum(struct.unpack_from("<II", dictionary.to_bytes(), 32)) if flags & 2 else 0
        return flags & 7, exceptions, own, tables

    dictionary_flag, ones_flag = 2, 4
    assert modes("ones") == (dictionary_flag | ones_flag, 0, 0, 0)
    flags, exceptions, own, tables = modes("numbers")
    assert (flags, own) == (dictionary_flag | ones_flag, 0)
    assert tables >= 5
    flags, exceptions, own, _ = modes("exceptions")
    assert flags & ones_flag
    assert exceptions > 10
    flags, exceptions, own, tables = modes("counts")
    assert not flags & ones_flag
    assert own > 2
    flags, exceptions, own, tables = modes("reals")
    assert (flags & ones_flag, own, tables) == (0, 0, 0)
    assert modes("wide")[0] == 0


def test_empty_things_survive() -> None:
    f, i, p = np.empty(0, np.float32), np.empty(0, np.uint32), np.zeros(1, np.int64)
    empty = CSR(f, p, i, f, 0)
    labels_only = CSR(np.float32([1, 2, 3]), np.zeros(4, np.int64), i, f, 0)
    for dictionary in (None, Dictionary.build(empty)):
        for rows in (empty, labels_only):
            decoded = decode_block(encode(rows, dictionary), dictionary)
            assert same_rows(decoded, rows)
            assert decoded.n_features == 0
    assert len(Dictionary.build(empty)) == 0
    assert len(encode(empty)) == 136
    with_weights = CSR(f, p, i, f, 0, f)
    assert decode_block(encode(with_weights)).weights is not None


def test_odd_floats_survive_bit_for_bit() -> None:
    bits = np.array(
        [0, 0x80000000, 1, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFFFFFFF, 0x7F800001, 0x3F800000],
        np.uint32,
    )
    floats = bits.view(np.float32)
    indices = np.array([0, 1, 2, 3, 4, 5, 6, 2**31, 2**32 - 1], np.uint32)
    rows = CSR(floats, np.arange(10), indices, floats, 2**32, floats)
    decoded = decode_block(encode(rows))
    assert same_rows(decoded, rows)
    assert decoded.n_features == 2**32


@pytest.mark.parametrize("n_labels", [1, 2, 3, 4, 16, 17, 200, 256, 2000])
def test_labels_of_any_number_survive(n_labels: int) -> None:
    n = 3000
    labels = (np.arange(n) % n_labels).astype(np.float32)
    f, i = np.empty(0, np.float32), np.empty(0, np.uint32)
    rows = CSR(labels, np.zeros(n + 1, np.int64), i, f, 0)
    block = encode(rows)
    assert same_rows(decode_block(block), rows)
    assert len(block) <= 136 + 2 * n + (4 * n_labels + n if n_labels <= 255 else 4 * n)


def test_long_rows_and_crowded_tiers_survive(make_rows: Callable[..., CSR]) -> None:
    dictionary = Dictionary.build(make_rows("numbers", 3000))
    known = np.unique(make_rows("numbers", 3000).indices)  # far more than any count can say
    indptr = np.array([0, len(known), len(known), len(known) + 3], np.int64)
    indices = np.concatenate([known, [1, 2, 3]]).astype(np.uint32)
    data = np.ones(len(indices), np.float32)
    rows = CSR(np.zeros(3, np.float32), indptr, indices, data, 1 << 32)
    many = make_rows("numbers", 500, seed=9)
    mixed = CSR(
        np.concatenate([many.labels, rows.labels]),
        np.concatenate([many.indptr, many.indptr[-1] + rows.indptr[1:]]),
        np.concatenate([many.indices, rows.indices]),
        np.concatenate([many.data, rows.data]),
        1 << 32,
    )
    for case in (rows, mixed):
        assert same_rows(decode_block(encode(case, dictionary), dictionary), case)


def test_slices_of_a_larger_csr_are_encoded_without_copy(make_rows: Callable[..., CSR]) -> None:
    rows = make_rows("numbers", 300)
    block = encode_block(rows.labels[100:250], rows.indptr[100:251], rows.indices, rows.data)
    begin, end = rows.indptr[100], rows.indptr[250]
    decoded = decode_block(block)
    assert same_bits(decoded.indptr, rows.indptr[100:251] - begin)
    assert same_bits(decoded.indices, rows.indices[begin:end])
    assert same_bits(decoded.data, rows.data[begin:end])


def test_blocks_fill_one_csr_in_place(make_rows: Callable[..., CSR]) -> None:
    rows = make_rows("counts", 100, weights=True)
    dictionary = Dictionary.build(rows)
    n, nnz = rows.n_rows, rows.nnz
    out = CSR(
        np.empty(n, np.float32),
        np.empty(n + 1, np.int64),
        np.empty(nnz, np.uint32),
        np.empty(nnz, np.float32),
        0,
        np.empty(n, np.float32),
    )
    assert out.weights is not None
    assert rows.weights is not None
    e = 0
    for r in range(0, n, 30):
        end = min(r + 30, n)
        block = encode_block(
            rows.labels[r:end],
            rows.indptr[r : end + 1],
            rows.indices,
            rows.data,
            rows.weights[r:end],
            dictionary,
        )
        more = read_header(block).nnz
        decode_block_into(
            block,
            dictionary,
            out.labels[r:end],
            out.indptr[r : end + 1],
            out.indices[e : e + more],
            out.data[e : e + more],
            out.weights[r:end],
            entry_offset=e,
        )
        e += more
    assert same_rows(out, rows)


def test_weights_may_be_left_out_and_default_to_one(make_rows: Callable[..., CSR]) -> None:
    for with_weights in (False, True):
        rows = make_rows("ones", 5, weights=with_weights)
        arrays = [np.empty_like(a) for a in (rows.labels, rows.indptr, rows.indices, rows.data)]
        decode_block_into(encode(rows), None, *arrays, None)
        weights = np.zeros(5, np.float32)
        decode_block_into(encode(rows), None, *arrays, weights)
        assert same_bits(weights, rows.weights if with_weights else np.ones(5, np.float32))
        with pytest.raises(ValueError, match="arrays' lengths"):
            decode_block_into(encode(rows), None, *arrays, weights[:4])


def test_base_is_subtracted_and_bounds_ids() -> None:
    f = np.ones(3, np.float32)
    rows = CSR(f[:1], np.array([0, 3]), np.array([1, 5, 9], np.uint32), f, 10)
    block = encode(rows)
    for ordered in (False, True):
        decoded = decode_block(block, base=1, ordered=ordered)
        assert decoded.indices.tolist() == [0, 4, 8]
        assert decoded.n_features == 9
        with pytest.raises(BlockError, match="contradict"):
            decode_block(block, base=2, ordered=ordered)
    for base in (-1, 2**32):
        with pytest.raises(ValueError, match="base"):
            decode_block(block, base=base)


def test_unordered_rows_hold_the_same_entries(make_rows: Callable[..., CSR]) -> None:
    rows = make_rows("numbers", 400, seed=3)
    dictionary = Dictionary.build(make_rows("numbers", 3000))
    block = encode(rows, dictionary)
    unordered = decode_block(block, dictionary, ordered=False)
    assert not same_rows(unordered, rows)
    for i in range(rows.n_rows):
        a, b = rows.indptr[i], rows.indptr[i + 1]
        order = np.argsort(unordered.indices[a:b]) + a
        assert same_bits(unordered.indices[order], rows.indices[a:b])
        assert same_bits(unordered.data[order], rows.data[a:b])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("minibatch_size", [1, 7, 200, 10_000])
def test_minibatches_are_the_unordered_rows_renumbered(
    make_rows: Callable[..., CSR], kind: str, minibatch_size: int
) -> None:
    rows = make_rows(kind, 300, seed=3, weights=kind == "counts")
    for dictionary in (None, Dictionary.build(make_rows(kind, 3000))):
        block = encode(rows, dictionary)
        expected = decode_block(block, dictionary, ordered=False)
        decoder = MinibatchDecoder(dictionary)
        for _ in range(2):  # the second time with what the first left
            found = decoder.decode(block, minibatch_size)
            assert found.minibatch_size == minibatch_size
            assert found.n_features == expected.n_features
            assert same_bits(found.labels, expected.labels)
            assert same_bits(found.indptr, expected.indptr)
            assert same_bits(found.data, expected.data)
            assert same_bits(found.weights, expected.weights)
            assert len(found.offsets) == -(-300 // minibatch_size) + 1
            for i in range(len(found.offsets) - 1):
                ids = found.ids[found.offsets[i] : found.offsets[i + 1]]
                ends = expected.indptr[[i * minibatch_size, min((i + 1) * minibatch_size, 300)]]
                entries = slice(*ends)
                assert same_bits(ids[found.local[entries]], expected.indices[entries])
                assert np.array_equal(np.unique(ids), np.unique(expected.indices[entries]))
                assert len(np.unique(ids)) == len(ids)
    assert found.offsets[-1] == len(found.ids)


def test_a_minibatch_decoder_takes_blocks_of_any_size_and_minds_its_base(
    make_rows: Callable[..., CSR],
) -> None:
    dictionary = Dictionary.build(make_rows("numbers", 3000))
    decoder = MinibatchDecoder(dictionary, base=1)
    for n_rows in (40, 3, 0, 900, 41):
        rows = make_rows("numbers", n_rows, seed=n_rows)
        rows.indices[:] += 1
        expected = decode_block(encode(rows, dictionary), dictionary, base=1, ordered=False)
        found = decoder.decode(encode(rows, dictionary), 20)
        assert same_bits(found.data, expected.data)
        assert found.n_features == expected.n_features
    with pytest.raises(BlockError, match="contradict"):
        MinibatchDecoder(dictionary, base=2**31).decode(encode(rows, dictionary), 20)
    with pytest.raises(BlockError, match="another dictionary"):
        MinibatchDecoder().decode(encode(rows, dictionary), 20)
    for size, base in ((0, 0), (5, -1), (5, 2**32)):
        with pytest.raises(ValueError, match=r"minibatch_size|base"):
            MinibatchDecoder(base=base).decode(encode(rows), size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r | {"indices": np.array([2, 2, 3], np.uint32)}, "increase within a row"),
        (lambda r: r | {"indices": np.array([3, 2, 4], np.uint32)}, "increase within a row"),
        (lambda r: r | {"indptr": np.array([0, 4])}, "indptr runs"),
        (lambda r: r | {"indptr": np.array([-1, 3])}, "indptr runs"),
        (lambda r: r | {"indptr": np.array([0, 1, 3])}, "positions for"),
        (lambda r: r | {"data": np.ones(2, np.float32)}, "indptr runs"),
        (lambda r: r | {"weights": np.ones(2, np.float32)}, "weights for"),
        (
            lambda r: r | {"labels": np.ones(3, np.float32), "indptr": np.array([0, 2, 1, 3])},
            "indptr must",
        ),
        (
            lambda r: r | {"labels": np.ones(3, np.float32), "indptr": np.array([0, 9, 1, 3])},
            "indptr must",
        ),
    ],
)
def test_refuses_rows_that_are_no_csr(
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], message: str
) -> None:
    rows = {
        "labels": np.ones(1, np.float32),
        "indptr": np.array([0, 3]),
        "indices": np.array([1, 2, 3], np.uint32),
        "data": np.ones(3, np.float32),
    }
    encode_block(**rows)
    with pytest.raises(ValueError, match=message):
        encode_block(**change(rows))
    if "increase" not in message:
        with pytest.raises(ValueError, match=message):
            Dictionary.build(CSR(n_features=9, **change(rows)))


def test_refuses_more_rows_than_a_block_holds() -> None:
    n = 2**27 + 1
    labels = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (n,), (0,))
    indptr = np.lib.stride_tricks.as_strided(np.zeros(1, np.int64), (n + 1,), (0,))
    with pytest.raises(ValueError, match="too many for one block"):
        encode_block(labels, indptr, np.empty(0, np.uint32), np.empty(0, np.float32))


def test_refuses_every_truncation(make_rows: Callable[..., CSR]) -> None:
    block, dictionary = small_block(make_rows)
    for n in range(len(block)):
        with pytest.raises(BlockError, match=f"ends early .byte {n}.|not a cirrus_fast"):
            decode_block(block[:n], dictionary)
    assert read_header(block[:104]) == read_header(block)
    longer = decode_block(block + b"the next block", dictionary)
    assert same_rows(longer, decode_block(block, dictionary))
    serialised = dictionary.to_bytes()
    for n in range(0, len(serialised), 7):
        with pytest.raises(BlockError, match="dictionary: "):
            Dictionary.from_bytes(serialised[:n])
    with pytest.raises(BlockError, match="dictionary: "):
        Dictionary.from_bytes(serialised + b"x")


def test_refuses_every_flipped_bit(make_rows: Callable[..., CSR]) -> None:
    block, dictionary = small_block(make_rows)
    for data, read in (
        (block, lambda b: decode_block(b, dictionary)),
        (dictionary.to_bytes()[:], Dictionary.from_bytes),
    ):
        for bit in range(0, 8 * len(data), 1 if data is block else 5):
            damaged = bytearray(data)
            damaged[bit >> 3] ^= 1 << (bit & 7)
            with pytest.raises(BlockError):
                read(damaged)


def test_flipped_bits_under_a_right_checksum_never_crash(make_rows: Callable[..., CSR]) -> None:
    block, dictionary = small_block(make_rows)
    refused = 0
    for bit in range(64, 8 * len(block)):
        damaged = bytearray(block)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        damaged[4:8] = struct.pack("<I", _kernels.crc32c(damaged[8:]))
        try:
            rows = decode_block(damaged, dictionary)
        except BlockError:
            refused += 1
        else:
            assert all(
                np.all(np.diff(rows.indices[a:b].astype(np.int64)) > 0)
                for a, b in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
            )
    assert refused > 8 * 40  # nearly all of the header at least


def test_refuses_another_dictionary(make_rows: Callable[..., CSR]) -> None:
    block, dictionary = small_block(make_rows)
    assert read_header(block).dictionary_identity == dictionary.identity
    other = Dictionary.build(make_rows("ones", 3000))
    for wrong in (None, other):
        with pytest.raises(BlockError, match="another dictionary"):
            decode_block(block, wrong)
    rows = make_rows("ones", 4)
    assert same_rows(decode_block(encode(rows), other), rows), "a block without takes any"


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (0, "<I", 0, "not a cirrus_fast block"),
        (12, "<H", 2, "newer format version"),
        (12, "<H", 0, "contradict"),
        (14, "<H", 32 | 3, "contradict"),
        (14, "<H", 4 | 1, "contradict"),
        (8, "<I", 2**32 - 1, "contradict"),
        *((at, "<I", 2**32 - 1, "contradict") for at in range(16, 92, 4) if at not in (24, 28)),
        (20, "<I", 8, "contradict"),
        (32, "<I", 1, "contradict"),
        (92, "<B", 0, "contradict"),
        (92, "<B", 3, "contradict"),
        (93, "<B", 255, "contradict"),
        (94, "<B", 16, "contradict"),
        (95, "<B", 0, "contradict"),
        (95, "<B", 5, "contradict"),
        (96, "<H", 513, "contradict"),
        (98, "<B", 1, "contradict"),
    ],
)
def test_refuses_hostile_headers(
    make_rows: Callable[..., CSR], offset: int, layout: str, value: int, message: str
) -> None:
    block, dictionary = small_block(make_rows)
    with pytest.raises(BlockError, match=message):
        decode_block(patched(block, offset, layout, value), dictionary)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [(16, "<I", 4097), (20, "<I", 257), (24, "<I", 4097), (28, "<I", 65537), (32, "<I", 257),
     (36, "<I", 2**31), (40, "<I", 2**31), (44, "<I", 1), (48, "<B", 3), (49, "<B", 33),
     (53, "<B", 1)],
)  # fmt: skip
def test_refuses_hostile_dictionaries(
    make_rows: Callable[..., CSR], offset: int, layout: str, value: int
) -> None:
    serialised = small_block(make_rows)[1].to_bytes()
    with pytest.raises(BlockError, match=r"dictionary: .*contradict.* \(byte \d+\)"):
        Dictionary.from_bytes(patched(serialised, offset, layout, value))


def serialised_dictionary(ids: np.ndarray, n_values: int) -> bytes:
    """A tier of 16 bits of these ids as gaps of 32 bits, or one id with a wide table of equal
    values."""
    gaps = (np.diff(ids.astype(np.int64), prepend=-1) - 1).astype("<u4").tobytes()
    tables = struct.pack("<I", n_values) if n_values else b""
    sizes = (1, 0, 0, 0, 0, 1) if n_values else (0, 0, 0, len(ids), 0, 0)
    header = struct.pack("<HH8I5B3x", 1, 0, *sizes, n_values, len(gaps), 0, 32, 0, 0, 0)
    body = header + gaps + tables + bytes(4 * n_values + 16)
    return patched(b"CFD1" + struct.pack("<II", 0, len(body) + 12) + body, 12, "<H", 1)


def test_keys_made_to_meet_in_a_hash_are_refused_soon() -> None:
    # Finding places for them would take n^2 / 2 steps. Only writing needs the hash.
    factor = np.uint64(0x9E3779B97F4A7C15)
    ids = np.arange(1 << 27, dtype=np.uint64)
    ids = ids[ids * factor >> np.uint64(52) == 0][:30_000]
    no_rows = [np.empty(0, np.float32), np.zeros(1, np.int64)]
    no_rows += [np.empty(0, np.uint32), np.empty(0, np.float32)]
    for colliding, n_values in [(ids, 0), (ids[:1], 30_000)]:
        few = Dictionary.from_bytes(serialised_dictionary(colliding[:5000], min(n_values, 5000)))
        encode_block(*no_rows, None, few)
        many = Dictionary.from_bytes(serialised_dictionary(colliding, n_values))
        with pytest.raises(BlockError, match="contradict"):
            encode_block(*no_rows, None, many)


def test_ids_made_to_meet_in_a_minibatch_are_refused_soon() -> None:
    ids = np.arange(1 << 25, dtype=np.uint64)
    ids = ids[ids * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(50) == 0].astype(np.uint32)
    data = np.ones(len(ids), np.float32)
    block = encode_block(data[:1], np.array([0, len(ids)]), ids, data)
    assert decode_block(block).nnz == len(ids)
    with pytest.raises(BlockError, match="contradict"):
        MinibatchDecoder().decode(block, 10)


def test_more_exceptions_than_entries_are_refused(make_rows: Callable[..., CSR]) -> None:
    rows = make_rows("ones", 5)
    block, more = bytearray(encode(rows)), rows.nnz + 1
    block[-32:-32] = bytes(8 * more)
    with pytest.raises(BlockError, match=r"contradict.* \(byte 88\)"):
        decode_block(patched(patched(bytes(block), 8, "<I", len(block)), 88, "<I", more))


def test_arrays_of_a_dictionary_and_block_must_fit(make_rows: Callable[..., CSR]) -> None:
    rows = make_rows("ones", 5)
    arrays = [np.empty_like(a) for a in (rows.labels, rows.indptr, rows.indices, rows.data)]
    for i in range(4):
        short = [a[:-1] if i == k else a for k, a in enumerate(arrays)]
        with pytest.raises(ValueError, match="arrays' lengths"):
            decode_block_into(encode(rows), None, *short, None)
    for bad in (-1, 2**20 + 1):
        with pytest.raises(ValueError, match="max_ids"):
            Dictionary.build(rows, max_ids=bad)


def test_dictionary_survives_bytes_and_pickle(make_rows: Callable[..., CSR]) -> None:
    rows = make_rows("numbers", 3000)
    dictionary = Dictionary.build(rows)
    assert len(dictionary) > 50
    block = encode(rows, dictionary)
    for again in (
        Dictionary.from_bytes(memoryview(dictionary.to_bytes())),
        pickle.loads(pickle.dumps(dictionary)),
    ):
        assert again.identity == dictionary.identity
        assert len(again) == len(dictionary)
        assert same_rows(decode_block(block, again), rows)
    small = Dictionary.build(rows, max_ids=60)
    assert len(small) <= 60
    assert small.identity != dictionary.identity
    assert len(Dictionary.build(rows, max_ids=0)) == 0


def test_one_dictionary_serves_many_threads(make_rows: Callable[..., CSR]) -> None:
    dictionary = Dictionary.build(make_rows("numbers", 3000))

    def work(seed: int) -> bool:
        rows = make_rows("numbers", 200, seed=seed)
        return same_rows(decode_block(encode(rows, dictionary), dictionary), rows)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(24)))


def test_buffers_may_be_read_only_and_of_any_kind(
    make_rows: Callable[..., CSR], tmp_path: Path
) -> None:
    rows = make_rows("numbers", 30)
    block = encode(rows)
    (tmp_path / "block").write_bytes(block)
    for buffer in (
        bytearray(block),
        memoryview(block),
        np.frombuffer(block, np.uint8),
        np.memmap(tmp_path / "block", np.uint8, "r"),
    ):
        assert same_rows(decode_block(buffer), rows)
    for array in (rows.labels, rows.indptr, rows.indices, rows.data):
        array.flags.writeable = False
    assert encode(rows) == block


def test_a_mini_batch_that_fails_leaves_the_next_block_alone():
    """Ids that a damaged block brought up must not be taken as seen in a later one."""
    rng = np.random.default_rng(5)
    n_rows, per_row = 300, 30
    ids = np.sort(rng.choice(2**32 - 1, (n_rows, per_row), replace=False), axis=1)
    rows = CSR(
        np.zeros(n_rows, np.float32),
        np.arange(0, ids.size + 1, per_row),
        ids.ravel().astype(np.uint32),
        rng.integers(0, 100, ids.size).astype(np.float32),
        2**32 - 1,
    )
    bad, good = bytearray(encode(rows)), encode(rows)
    decoder, failed = MinibatchDecoder(), 0
    expected = MinibatchDecoder().decode(good, 40)
    kept = expected.local.copy(), expected.ids.copy(), expected.offsets.copy()
    for at in range(len(bad) - 60, len(bad) // 2, -37):
        damaged = bad.copy()
        damaged[at] ^= 0xFF
        damaged[4:8] = _kernels.crc32c(bytes(damaged[8:])).to_bytes(4, "little")
        try:
            decoder.decode(damaged, 40)
        except BlockError:
            failed += 1
        found = decoder.decode(good, 40)
        for ours, theirs in zip((found.local, found.ids, found.offsets), kept, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert failed > 5


def test_every_kernel_writes_and_reads_the_same_bytes(
    make_rows: Callable[..., CSR], tmp_path: Path
) -> None:
    rows = make_rows("numbers", 3000)
    np.savez(
        tmp_path / "rows", **{k: getattr(rows, k) for k in ("labels", "indptr", "indices", "data")}
    )
    program = """if True:
        import hashlib, sys, numpy as np
        from cirrus_fast import _kernels
        from cirrus_fast.data.blocks import Dictionary, decode_block, encode_block
        from cirrus_fast.data.csr import CSR
        z = np.load(sys.argv[1])
        rows = [z[k] for k in ("labels", "indptr", "indices", "data")]
        dictionary = Dictionary.build(CSR(*rows, 0))
        block = encode_block(*rows, None, dictionary)
        out = decode_block(block, dictionary)
        for a, b in zip(rows, (out.labels, out.indptr, out.indices, out.data)):
            assert a.tobytes() == b.tobytes()
        print(_kernels.active_impl(), hashlib.sha256(dictionary.to_bytes() + block).hexdigest(),
              _kernels.crc32c(b"123456789"))
    """
    found = {}
    for impl in _kernels.implementations():
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "rows.npz")],
            env={**os.environ, "CIRRUS_FAST_FORCE_IMPL": impl, "PYTHONPATH": ":".join(sys.path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        name, digest, checksum = done.stdout.split()
        assert name == impl
        assert int(checksum) == 0xE3069283
        found[impl] = digest
    assert len(set(found.values())) == 1


def test_checksums_go_on_where_they_stopped() -> None:
    data = np.random.default_rng(0).bytes(20000)
    assert _kernels.crc32c(b"") == 0
    whole = _kernels.crc32c(data)
    for cut in (0, 1, 7, 8, 6143, 6144, 13000, 20000):
        assert _kernels.crc32c(data[cut:], _kernels.crc32c(data[:cut])) == whole


def test_checksum_table_is_what_its_script_writes() -> None:
    written = subprocess.run(
        [sys.executable, ROOT / "csrc/gen_crc32c_table.py"], capture_output=True, check=True
    ).stdout
    assert (ROOT / "csrc/cf_crc32c_table.h").read_bytes() == written
