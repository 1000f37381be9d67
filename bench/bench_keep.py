"""Rows kept in little room: bytes a row, everything included, and how fast they are rows again.

Ours become localised mini-batches of 200 rows, ready to learn from; a compressed text only becomes
text again, and is not parsed, which favours it.
"""

from __future__ import annotations

import gzip
import io
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from bench import data, ours, peers
from cirrus_fast.data.dataset import Dataset

GROUP = "keep rows: bytes a row, and reading them back, 1 thread"
LOAD = "text file to shards on disk, 2 threads"
# Compressing all of a large text as hard as possible takes minutes, and is no other a row.
PACKED_ROWS = 100_000


def short() -> tuple[bytes, object, dict[str, object]]:
    """The text and the rows that peers pack, and a note where these are not all."""
    rows = data.first(data.train_rows(), PACKED_ROWS)
    text = data.short_path(PACKED_ROWS).read_bytes()
    all_rows = rows.n_rows == data.train_rows().n_rows
    return text, rows, {"given": None if all_rows else f"{rows.n_rows:,} rows"}


@pytest.fixture(scope="module")
def coded(datasets):
    return ours.coded(Dataset(datasets[0]))


def bytes_a_row(folder: str) -> float:
    """Of everything in a data set's folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / data.train_rows().n_rows


def same_entries(found, rows) -> None:
    """Mini-batches hold the rows' entries, each with its value, in whatever order within one."""
    begin = 0
    for ids, values in found:
        at = slice(begin, begin + len(ids))
        order = np.lexsort((values, ids))
        expected = np.lexsort((rows.data[at], rows.indices[at]))
        assert np.array_equal(ids[order], rows.indices[at][expected])
        assert np.array_equal(values[order], rows.data[at][expected])
        begin = at.stop
    assert begin == rows.nnz


@pytest.mark.ours
def bench_localized(measure, datasets, coded):
    rows = data.train_rows()
    same_entries(ours.minibatches(coded, 200), rows)
    measure(
        GROUP,
        "cirrus_fast, decoded and localised into mini-batches of 200",
        lambda: ours.decode_minibatches(coded, 200),
        n_rows=rows.n_rows,
        bytes_a_row=bytes_a_row(datasets[0]),
    )


@pytest.mark.ours
@pytest.mark.parametrize("ordered", [False, True])
def bench_decode(measure, datasets, coded, ordered):
    rows = data.train_rows()
    if ordered:
        found = list(ours.decode(coded, ordered=True))
        assert np.array_equal(np.concatenate([block.indices for block in found]), rows.indices)
        assert np.array_equal(np.concatenate([block.data for block in found]), rows.data)
        del found
    measure(
        GROUP,
        f"cirrus_fast, decoded{', ids in order' if ordered else ''}",
        lambda: sum(block.n_rows for block in ours.decode(coded, ordered=ordered)),
        n_rows=rows.n_rows,
        bytes_a_row=bytes_a_row(datasets[0]),
    )


def bench_text(measure):
    """What all others are to be smaller than, read by a parser that is not ours."""
    svmloader = peers.need("svmloader")
    path, rows = data.train_path(), data.train_rows()
    measure(
        GROUP,
        "LibSVM text, svmloader",
        lambda: svmloader.load_svmfile(str(path), dtype="f", ltype="i", zero_based=False),
        n_rows=rows.n_rows,
        bytes_a_row=path.stat().st_size / rows.n_rows,
    )


def bench_gzip(measure):
    text, rows, note = short()
    packed = gzip.compress(text, 9)
    assert gzip.decompress(packed) == text
    measure(
        GROUP,
        "gzip -9 of the text, unpacked only",
        lambda: gzip.decompress(packed),
        n_rows=rows.n_rows,
        bytes_a_row=len(packed) / rows.n_rows,
        **note,
    )


def bench_zstd(measure):
    zstandard = peers.need("zstandard")
    text, rows, note = short()
    packed = zstandard.ZstdCompressor(level=19).compress(text)
    unpack = zstandard.ZstdDecompressor().decompress
    assert unpack(packed) == text
    measure(
        GROUP,
        "zstd -19 of the text, unpacked only",
        lambda: unpack(packed),
        n_rows=rows.n_rows,
        bytes_a_row=len(packed) / rows.n_rows,
        **note,
    )


def bench_savez_compressed(measure):
    _, rows, note = short()
    names = ("labels", "indptr", "indices", "data")
    packed = io.BytesIO()
    np.savez_compressed(packed, **{name: getattr(rows, name) for name in names})

    def read():
        packed.seek(0)
        with np.load(packed) as archive:
            return [archive[name] for name in names]

    assert all(
        np.array_equal(a, getattr(rows, name)) for a, name in zip(read(), names, strict=True)
    )
    measure(
        GROUP,
        "np.savez_compressed of the CSR",
        read,
        n_rows=rows.n_rows,
        bytes_a_row=packed.getbuffer().nbytes / rows.n_rows,
        **note,
    )


@pytest.mark.parametrize("all_rows", [True, False])
def bench_parquet(measure, all_rows):
    """Columns label, ids (lists) and values (lists); its dictionary pages have room for all ids."""
    pyarrow = peers.need("pyarrow")
    parquet = peers.need("pyarrow.parquet")
    rows = data.train_rows() if all_rows else data.first(data.train_rows(), PACKED_ROWS)
    if not all_rows and rows.n_rows == data.train_rows().n_rows:
        pytest.skip("the same as with all rows")
    ends = pyarrow.array(rows.indptr.astype(np.int32))
    table = pyarrow.table(
        {
            "label": pyarrow.array(rows.labels),
            "ids": pyarrow.ListArray.from_arrays(ends, pyarrow.array(rows.indices)),
            "values": pyarrow.ListArray.from_arrays(ends, pyarrow.array(rows.data)),
        }
    )
    packed = pyarrow.BufferOutputStream()
    parquet.write_table(
        table,
        packed,
        compression="zstd",
        compression_level=9 if all_rows else 19,
        dictionary_pagesize_limit=1 << 24,
    )
    packed = packed.getvalue()

    def read():
        found = parquet.read_table(pyarrow.BufferReader(packed), use_threads=False).combine_chunks()
        return [
            np.asarray(found["label"].combine_chunks()),
            *(np.asarray(found[name].combine_chunks().flatten()) for name in ("ids", "values")),
        ]

    expected = (rows.labels, rows.indices, rows.data)
    assert all(np.array_equal(a, b) for a, b in zip(read(), expected, strict=True))
    measure(
        GROUP,
        f"Parquet + zstd -{9 if all_rows else 19} of lists",
        read,
        n_rows=rows.n_rows,
        bytes_a_row=packed.size / rows.n_rows,
        given=None if all_rows else f"{rows.n_rows:,} rows",
    )


def bench_vowpal_cache(measure, tmp_path):
    peers.need("vowpalwabbit")
    path, _ = data.vowpal_paths()
    rows, cache = data.train_rows(), tmp_path / "cache"
    peers.vowpal("-d", path, "--cache_file", cache, "-k", "--noop")
    measure(
        GROUP,
        "Vowpal Wabbit cache, read without learning (parser thread and main thread)",
        lambda: peers.vowpal("-d", path, "--cache_file", cache, "--noop"),
        n_rows=rows.n_rows,
        bytes_a_row=cache.stat().st_size / rows.n_rows,
    )


# Text to shards


@pytest.mark.ours
def bench_load(measure, tmp_path):
    path, rows = data.train_path(), data.train_rows()
    # A new name every time: the same source and name again would find the work done.
    names = count()
    assert ours.load(path, tmp_path / "first", 2).n_rows == rows.n_rows
    measure(
        LOAD,
        "cirrus_fast load_libsvm",
        lambda: ours.load(path, tmp_path / str(next(names)), 2),
        n_rows=rows.n_rows,
        n_bytes=path.stat().st_size,
    )


def bench_load_vowpal(measure, tmp_path):
    peers.need("vowpalwabbit")
    path, _ = data.vowpal_paths()
    cache = tmp_path / "cache"
    measure(
        LOAD,
        "Vowpal Wabbit, its own text to its cache",
        lambda: peers.vowpal("-d", path, "--cache_file", cache, "-k", "--noop"),
        n_rows=data.train_rows().n_rows,
        n_bytes=path.stat().st_size,
    )
    assert cache.stat().st_size
