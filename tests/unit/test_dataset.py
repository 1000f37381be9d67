"""Loading data into data sets, and reading them back."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from cirrus_fast import CSR, Dataset, load_csr, load_libsvm, normalize, parse_libsvm
from cirrus_fast.data import dataset_writer, sources, storage
from cirrus_fast.data.columns import MAX_ABS_SCALING, MIN_MAX_SCALING, SCALINGS, Scaling
from cirrus_fast.data.dataset import iterate, list_datasets, remove_dataset
from cirrus_fast.data.sources import Source
from cirrus_fast.errors import (
    BlockError,
    CirrusFastError,
    DatasetError,
    LibsvmParseError,
    OptionError,
    StorageError,
)

pytestmark = pytest.mark.usefixtures("storage_root")

TEXT = b"1 1:0.5 3:1\n-1 2:1\n-1\n1 3:-2 4:1e-3\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.svm"
    path.write_bytes(TEXT)
    return path


def rows_of(dataset: Dataset) -> CSR:
    """All blocks as one CSR."""
    parts = list(iterate(dataset))
    none = np.empty(0, np.float32)
    lengths = [np.diff(part.indptr) for part in parts]
    return CSR(
        np.concatenate([none, *(part.labels for part in parts)]),
        np.cumsum(np.concatenate([[0], *lengths])).astype(np.int64),
        np.concatenate([np.empty(0, np.uint32), *(part.indices for part in parts)]),
        np.concatenate([none, *(part.data for part in parts)]),
        dataset.n_features,
        np.concatenate([part.weights for part in parts if part.weights is not None])
        if dataset.manifest.has_weights
        else None,
    )


def assert_same_rows(left: CSR, right: CSR) -> None:
    assert left.n_features == right.n_features
    for name in ("labels", "indptr", "indices", "data", "weights"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            assert a.tobytes() == b.tobytes(), name


def many_rows(n_rows: int, seed: int = 5) -> bytes:
    """LibSVM text that needs several blocks."""
    draw = np.random.default_rng(seed)
    lines = []
    for i in range(n_rows):
        ids = np.sort(draw.choice(50, 3, replace=False)) + 1
        pairs = " ".join(f"{j}:{draw.integers(1, 9)}" for j in ids)
        lines.append(f"{i % 2} {pairs}\n")
    return "".join(lines).encode()


def files_under(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")} if root.exists() else set()


# What a load gives


def test_text_loads_as_it_parses(source: Path) -> None:
    loaded = load_libsvm(source, "d")
    assert_same_rows(rows_of(loaded), parse_libsvm(TEXT))
    manifest = loaded.manifest
    assert (manifest.n_rows, manifest.n_features, manifest.nnz) == (4, 4, 5)
    assert (manifest.n_positive, manifest.weight, manifest.positive_weight) == (2, 4.0, 2.0)
    assert (manifest.index_base, manifest.hash_bits, manifest.has_weights) == (1, None, False)
    assert loaded.scaling is None
    assert loaded.columns.ids.tolist() == [0, 1, 2, 3]
    assert loaded.columns.columns["count"].tolist() == [1, 1, 2, 1]
    assert loaded.columns.columns["min"].tolist() == [0.5, 1, -2, np.float32(1e-3)]


def test_a_data_set_can_be_opened_again_by_name_path_and_uri(
    source: Path, storage_root: Path
) -> None:
    loaded = load_libsvm(source, "d")
    for name in ("d", f"{storage_root}/d", f"file://{storage_root}/d"):
        again = Dataset(name)
        assert again.id == loaded.id
        assert_same_rows(rows_of(again), rows_of(loaded))
    assert list_datasets() == ["d"]


def test_the_index_base_is_decided_once_for_all_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The only id 0 is in the last row, long after the first chunks were stored.
    (tmp_path / "z.svm").write_bytes(b"1 2:1\n0 3:1\n" * 50 + b"1 0:1\n")
    monkeypatch.setattr(Source.chunks, "__defaults__", (40,))
    loaded = load_libsvm(tmp_path / "z.svm", "z")
    assert loaded.manifest.index_base == 0
    assert loaded.n_features == 4
    assert next(iter(iterate(loaded))).indices[0] == 2


@pytest.mark.parametrize("zero_based", [True, False])
def test_the_index_base_may_be_given(source: Path, zero_based: bool) -> None:
    loaded = load_libsvm(source, "d", zero_based=zero_based)
    assert loaded.n_features == (5 if zero_based else 4)
    assert_same_rows(rows_of(loaded), parse_libsvm(TEXT, zero_based=zero_based))


def test_hash_bits_fold_ids_as_the_parser_does(source: Path) -> None:
    loaded = load_libsvm(source, "h", hash_bits=6)
    assert loaded.manifest.hash_bits == 6
    assert loaded.n_features == 64
    assert_same_rows(rows_of(loaded), parse_libsvm(TEXT, hash_bits=6))


def test_n_features_widens_and_refuses_what_is_beyond(source: Path) -> None:
    assert load_libsvm(source, "wide", n_features=100).n_features == 100
    with pytest.raises(LibsvmParseError, match=r"feature index is too large \(line 4, column 8"):
        load_libsvm(source, "narrow", n_features=3)
    assert list_datasets() == ["wide"]


def test_label_weights_become_sample_weights(tmp_path: Path) -> None:
    (tmp_path / "w.svm").write_bytes(b"1:2 1:1\n0:0.5 2:1\n1 1:1\n")
    loaded = load_libsvm(tmp_path / "w.svm", "w", label_weights=True)
    assert rows_of(loaded).weights.tolist() == [2.0, 0.5, 1.0]
    assert (loaded.manifest.weight, loaded.manifest.positive_weight) == (3.5, 3.0)


def test_skipped_rows_are_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.svm").write_bytes(b"1 1:1\nx 1:1\n0 2:1\n1 1:\n")
    loaded = load_libsvm(tmp_path / "bad.svm", "b", skip_bad_rows=True)
    assert loaded.n_rows == 2
    assert "2 rows could not be read and were left out" in caplog.text
    assert "line 2" in caplog.text


def test_progress_counts_every_byte_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source.chunks, "__defaults__", (1000,))
    text = many_rows(300)
    (tmp_path / "m.svm").write_bytes(text)
    seen: list[int] = []
    load_libsvm(tmp_path / "m.svm", "m", on_progress=seen.append)
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == len(text)


# Sources


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1000])
@pytest.mark.parametrize("pack", ["plain", "gz", "bz2"])
def test_chunks_of_any_size_give_the_rows_of_one_parse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, pack: str
) -> None:
    text = b"# head\r\n" + many_rows(60) + b"\n  \t\n1 50:3"  # no final line end
    path = tmp_path / ("m.svm" + {"plain": "", "gz": ".gz", "bz2": ".bz2"}[pack])
    path.write_bytes(
        {"plain": bytes, "gz": gzip.compress, "bz2": bz2.compress}[pack](text)  # type: ignore
    )
    monkeypatch.setattr(Source.chunks, "__defaults__", (chunk_bytes,))
    loaded = load_libsvm(path, "m", n_threads=2)
    assert_same_rows(rows_of(loaded), parse_libsvm(text))


def test_every_thread_count_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage_root: Path
) -> None:
    (tmp_path / "m.svm").write_bytes(many_rows(500))
    monkeypatch.setattr(Source.chunks, "__defaults__", (700,))
    stored = []
    for n_threads in (1, 2, 5):
        load_libsvm(tmp_path / "m.svm", f"t{n_threads}", n_threads=n_threads)
        shards = sorted((storage_root / f"t{n_threads}").glob("*.cfs"))
        stored.append(b"".join(path.read_bytes() for path in shards))
    assert stored[0] == stored[1] == stored[2]


def test_globs_and_lists_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.svm").write_bytes(b"0 1:2\n")
    (tmp_path / "a.svm").write_bytes(b"1 1:1\n")
    (tmp_path / "c.svm.gz").write_bytes(gzip.compress(b"1 1:3\n"))
    assert rows_of(load_libsvm(str(tmp_path / "[ab].svm"), "g")).data.tolist() == [1, 2]
    listed = load_libsvm([tmp_path / "c.svm.gz", f"file://{tmp_path}/a.svm"], "l")
    assert rows_of(listed).data.tolist() == [3, 1]


def test_standard_input_is_read_and_never_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(text: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    give(TEXT)
    assert_same_rows(rows_of(load_libsvm("-", "s")), parse_libsvm(TEXT))
    give(TEXT)
    with pytest.raises(DatasetError, match="made of something else"):
        load_libsvm("-", "s")


@pytest.mark.parametrize("pack", ["plain", "gz"])
def test_an_error_says_where_in_the_whole_file_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: str
) -> None:
    text = many_rows(200) + b"1 3:1 2:1\n" + many_rows(10)
    path = tmp_path / ("m.svm" if pack == "plain" else "m.svm.gz")
    path.write_bytes(text if pack == "plain" else gzip.compress(text))
    monkeypatch.setattr(Source.chunks, "__defaults__", (512,))
    with pytest.raises(LibsvmParseError, match="must increase") as caught:
        load_libsvm(path, "m")
    error = caught.value
    assert error.source == str(path)
    assert (error.line, error.column) == (201, 7)
    assert error.offset == len(many_rows(200)) + 6


def test_a_wrong_path_a_folder_and_nothing_at_all_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.svm: no such file"):
        load_libsvm(tmp_path / "absent.svm", "d")
    with pytest.raises(StorageError, match="is a folder"):
        load_libsvm(tmp_path, "d")
    with pytest.raises(StorageError, match="no source"):
        load_libsvm([], "d")
    with pytest.raises(StorageError, match="s3://"):
        load_libsvm("s3://bucket/rows.svm", "d")


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_archive_is_a_storage_error_that_names_it(tmp_path: Path, damage: str) -> None:
    raw = bytearray(gzip.compress(many_rows(3000)))
    if damage == "cut":
        raw = raw[:-20]
    elif damage == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    else:
        raw = bytearray(TEXT)
    path = tmp_path / "rows.svm.gz"
    path.write_bytes(raw)
    with pytest.raises((StorageError, LibsvmParseError), match=re.escape(str(path))):
        load_libsvm(path, "d")
    assert list_datasets() == []


def test_a_stream_without_line_ends_is_not_read_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source.chunks, "__defaults__", (16,))
    (tmp_path / "x.svm.gz").write_bytes(gzip.compress(b"1 " * 5000))
    with pytest.raises(DatasetError, match="no line end in"):
        load_libsvm(tmp_path / "x.svm.gz", "d")


# Labels


@pytest.mark.parametrize(
    ("labels", "negative", "positive"),
    [
        ("0 1", 0, 1),
        ("1 0", 0, 1),
        ("-1 +1", -1, 1),
        ("1", 0, 1),
        ("0", 0, 1),
        ("-1", -1, 1),
        ("2 4", 2, 4),
        ("7.5 -3", -3, 7.5),
    ],
)
def test_the_larger_label_is_positive_and_conventions_may_lack_one(
    tmp_path: Path, labels: str, negative: float, positive: float
) -> None:
    text = "".join(f"{label} 1:1\n" for label in labels.split())
    (tmp_path / "l.svm").write_text(text)
    loaded = load_libsvm(tmp_path / "l.svm", "l")
    assert loaded.manifest.label_map.negative == (negative,)
    assert loaded.manifest.label_map.positive == (positive,)
    # As written in storage, whatever they mean.
    assert rows_of(loaded).labels.tolist() == [float(label) for label in labels.split()]
    assert loaded.manifest.n_positive == rows_of(loaded).labels.tolist().count(positive)


@pytest.mark.parametrize("labels", ["2", "1 2 3", "0 1 2", "-1 0 1"])
def test_labels_that_are_not_two_classes_are_refused_with_what_was_found(
    tmp_path: Path, labels: str
) -> None:
    (tmp_path / "l.svm").write_text("".join(f"{label} 1:1\n" for label in labels.split()))
    with pytest.raises(DatasetError, match="two classes are needed") as caught:
        load_libsvm(tmp_path / "l.svm", "l")
    for label in labels.split():
        assert f"{label} (1 rows)" in str(caught.value)
    assert list_datasets() == []


def test_labels_that_are_no_finite_numbers_are_refused(tmp_path: Path) -> None:
    for label in ("nan", "inf"):
        (tmp_path / "l.svm").write_text(f"{label} 1:1\n1 1:1\n")
        with pytest.raises(DatasetError, match=f"label {label}"):
            load_libsvm(tmp_path / "l.svm", "l", allow_nonfinite=True)


def test_positive_labels_choose_among_many_classes(tmp_path: Path) -> None:
    (tmp_path / "l.svm").write_text("1 1:1\n2 1:1\n3 1:1\n3 1:1\n")
    loaded = load_libsvm(tmp_path / "l.svm", "l", positive_labels=[3, 1])
    assert loaded.manifest.label_map.positive == (1, 3)
    assert loaded.manifest.label_map.negative == (2,)
    assert loaded.manifest.n_positive == 3
    with pytest.raises(DatasetError, match="positive_labels 9 not found; the labels are 1"):
        load_libsvm(tmp_path / "l.svm", "m", positive_labels=[9])


def test_real_valued_labels_are_taken_for_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.data.units.MOST_LABELS", 20)
    (tmp_path / "l.svm").write_text("".join(f"{i}.5 1:1\n" for i in range(30)))
    with pytest.raises(DatasetError, match="more than 20 different labels"):
        load_libsvm(tmp_path / "l.svm", "l")


@pytest.mark.parametrize("text", [b"", b"\n \t\n", b"# only a comment"])
def test_a_source_without_rows_is_refused(tmp_path: Path, storage_root: Path, text: bytes) -> None:
    (tmp_path / "empty.svm").write_bytes(text)
    with pytest.raises(DatasetError, match=r"^e: its source has no rows; a data set needs"):
        load_libsvm(tmp_path / "empty.svm", "e")
    with pytest.raises(DatasetError, match=r"^e: its source has no rows"):
        load_csr(np.empty((0, 3)), [], "e")
    assert files_under(storage_root) == set()
    assert parse_libsvm(text).n_rows == 0


def test_a_source_without_a_row_that_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.svm").write_bytes(b"x\ny\n")
    with pytest.raises(DatasetError, match=r"none of the 2 rows .* can be read; .* \(line 1"):
        load_libsvm(tmp_path / "bad.svm", "b", skip_bad_rows=True)
    assert list_datasets() == []


def test_rows_that_weigh_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.svm").write_bytes(b"1:0 1:1\n0:0 2:1\n")
    with pytest.raises(DatasetError, match="w: its rows weigh nothing"):
        load_libsvm(tmp_path / "w.svm", "w", label_weights=True)
    with pytest.raises(DatasetError, match="w: its rows weigh nothing"):
        load_csr(np.eye(2), [0, 1], "w", sample_weight=[0, 0])
    assert list_datasets() == []


# like=


def test_like_takes_base_width_and_labels_from_the_training_set(tmp_path: Path) -> None:
    (tmp_path / "tr.svm").write_bytes(b"3 1:1 9:1\n2 0:1\n")
    (tmp_path / "te.svm").write_bytes(b"3 1:1\n")
    load_libsvm(tmp_path / "tr.svm", "tr")
    te = load_libsvm(tmp_path / "te.svm", "te", like="tr")
    assert te.manifest.index_base == 0
    assert te.n_features == 10
    assert te.manifest.label_map == Dataset("tr").manifest.label_map
    assert te.manifest.n_positive == 1


def test_like_refuses_contradictions(tmp_path: Path, source: Path) -> None:
    load_libsvm(source, "one")
    load_libsvm(source, "hashed", hash_bits=5)
    with pytest.raises(OptionError, match="zero_based=True contradicts like='one'"):
        load_libsvm(source, "x", like="one", zero_based=True)
    with pytest.raises(OptionError, match="hash_bits=6 contradicts like='hashed'"):
        load_libsvm(source, "x", like="hashed", hash_bits=6)
    with pytest.raises(OptionError, match="positive_labels comes from like="):
        load_libsvm(source, "x", like="one", positive_labels=[1])
    (tmp_path / "five.svm").write_bytes(b"5 1:1\n")
    with pytest.raises(DatasetError, match="label 5 is neither negative"):
        load_libsvm(tmp_path / "five.svm", "x", like="one")
    (tmp_path / "zero.svm").write_bytes(b"1 0:1\n")
    with pytest.raises(LibsvmParseError, match="index 0 in one-based"):
        load_libsvm(tmp_path / "zero.svm", "x", like="one")
    assert load_libsvm(source, "x", like="hashed").manifest.hash_bits == 5


def test_like_one_based_data_refuses_arrays(source: Path) -> None:
    load_libsvm(source, "one")
    with pytest.raises(DatasetError, match="one-based"):
        load_csr(np.eye(2), [0, 1], "x", like="one")


# Reuse and overwrite


def test_the_same_source_with_the_same_options_is_reused_and_says_so(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_libsvm(source, "d")
    assert caplog.text == ""
    assert load_libsvm(source, "d").id == first.id
    assert "d: reused" in caplog.text
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno >= logging.WARNING  # shown without any set-up


@pytest.mark.parametrize("change", ["option", "bytes", "mtime", "other file"])
def test_something_else_of_the_same_name_is_refused_unless_overwrite(
    source: Path, tmp_path: Path, change: str
) -> None:
    first = load_libsvm(source, "d")
    options: dict[str, Any] = {}
    if change == "option":
        options = {"n_features": 10}
    elif change == "bytes":
        source.write_bytes(TEXT + b"1 1:1\n")
    elif change == "mtime":
        os.utime(source, (1, 1))
    else:
        source = Path(shutil.copy2(source, tmp_path / "copy.svm"))
    with pytest.raises(DatasetError, match="overwrite=True"):
        load_libsvm(source, "d", **options)
    assert Dataset("d").id == first.id
    second = load_libsvm(source, "d", overwrite=True, **options)
    assert Dataset("d").id == second.id != first.id


def test_overwriting_leaves_only_the_new_objects(source: Path, storage_root: Path) -> None:
    load_libsvm(source, "d")
    old = files_under(storage_root / "d")
    source.write_bytes(TEXT * 3)
    loaded = load_libsvm(source, "d", overwrite=True)
    new = files_under(storage_root / "d")
    assert len(new) == len(old)
    assert new & old == {"manifest.json"}
    assert loaded.n_rows == 12
    assert rows_of(loaded).n_rows == 12


def test_only_objects_of_a_data_set_are_ever_deleted(
    source: Path, storage_root: Path, tmp_path: Path
) -> None:
    folder = storage_root / "d"
    (folder / "inner").mkdir(parents=True)
    mine = ["model.npz", "notes.tmp", "vocabulary.cfd", "inner/file"]
    for name in mine:
        (folder / name).write_text("mine")
    load_libsvm(source, "d")
    load_libsvm(source, "d", n_features=9, overwrite=True)
    (tmp_path / "bad.svm").write_bytes(b"1 1:x\n")
    with pytest.raises(LibsvmParseError):
        load_libsvm(tmp_path / "bad.svm", "d", overwrite=True)
    assert Dataset("d").n_features == 9
    remove_dataset("d")
    assert files_under(folder) == {*mine, "inner"}


# Failing in the middle


def test_a_failed_load_raises_its_own_error_and_leaves_nothing(
    tmp_path: Path, storage_root: Path
) -> None:
    (tmp_path / "bad.svm").write_bytes(b"1 1:x\n")  # in the first row: nothing was written yet
    with pytest.raises(LibsvmParseError, match="not a number"):
        load_libsvm(tmp_path / "bad.svm", "d")
    assert files_under(storage_root) == set()


def test_a_failed_load_keeps_folders_that_were_there_before(
    tmp_path: Path, storage_root: Path
) -> None:
    kept = storage_root / "other" / "file"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    (tmp_path / "bad.svm").write_bytes(b"1 1:x\n")
    with pytest.raises(LibsvmParseError):
        load_libsvm(tmp_path / "bad.svm", f"{storage_root}/")
    assert kept.read_text() == "mine"


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, blocks and shards, so that little text needs many of each."""
    monkeypatch.setattr(Source.chunks, "__defaults__", (512,))
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 16)
    monkeypatch.setattr(dataset_writer, "SHARD_BYTES", 400)


@pytest.mark.usefixtures("tiny_pieces")
def test_data_over_many_shards_reads_back(tmp_path: Path) -> None:
    text = many_rows(400)
    (tmp_path / "m.svm").write_bytes(text)
    loaded = load_libsvm(tmp_path / "m.svm", "m")
    assert len(loaded.manifest.shard_sizes) > 5
    assert_same_rows(rows_of(Dataset("m")), parse_libsvm(text))
    assert loaded.n_bytes == sum(block.n_bytes for block in loaded.blocks)


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("at", [0.2, 0.9])
def test_an_aborted_load_leaves_nothing_and_keeps_the_old_data_set(
    tmp_path: Path, storage_root: Path, at: float
) -> None:
    path = tmp_path / "m.svm"
    path.write_bytes(many_rows(400))
    before = rows_of(load_libsvm(path, "m"))
    there = files_under(storage_root)
    lines = many_rows(400, seed=6).splitlines(keepends=True)
    lines[int(at * 400)] = b"1 5:1 5:1\n"
    path.write_bytes(b"".join(lines))
    for name in ("m", "new"):
        with pytest.raises(LibsvmParseError, match=f"line {int(at * 400) + 1}"):
            load_libsvm(path, name, overwrite=True)
    assert files_under(storage_root) == there
    assert_same_rows(rows_of(Dataset("m")), before)


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("write", [0, 1, 7, 25, -4, -3, -2, -1])
def test_a_full_disk_at_any_write_leaves_nothing_and_says_so(
    tmp_path: Path, storage_root: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    path = tmp_path / "m.svm"
    path.write_bytes(many_rows(400))
    real, count = storage._FileWriter.write, 0

    def counted(self: Any, data: bytes) -> None:
        nonlocal count
        count += 1
        real(self, data)

    monkeypatch.setattr(storage._FileWriter, "write", counted)
    load_libsvm(path, "all")
    fails_at, count = write % count, 0
    before = files_under(storage_root)

    def full(self: Any, data: bytes) -> None:
        nonlocal count
        if count == fails_at:
            with storage._naming(self._path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count += 1
        real(self, data)

    monkeypatch.setattr(storage._FileWriter, "write", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        load_libsvm(path, "full")
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    assert files_under(storage_root) == before


def test_a_limit_on_file_size_is_an_error_like_a_full_disk(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "m.svm").write_bytes(many_rows(4000))
    run = script(
        "import resource, signal, cirrus_fast\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n"
        "    cirrus_fast.load_libsvm('m.svm', 'm')\n"
        "except cirrus_fast.CirrusFastError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("StorageError [Errno 27] File too large")
    assert files_under(tmp_path / "cirrus_data") == set()


_KILLED_WHILE_LOADING = """
import os, signal, sys
from cirrus_fast import load_libsvm
from cirrus_fast.data import dataset_writer, loading
dataset_writer.SHARD_BYTES = 400
loading.BLOCK_ROWS = 16
real, shards = dataset_writer.UnitWriter.close, 0
def close(self):
    global shards
    real(self)
    shards += 1
    if shards == 3:
        os.kill(os.getpid(), signal.SIGKILL)
dataset_writer.UnitWriter.close = close
load_libsvm("m.svm", sys.argv[1], overwrite=True)
"""


def test_a_killed_load_reads_as_incomplete_and_can_be_repeated(
    script: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    storage_root: Path,
) -> None:
    (tmp_path / "m.svm").write_bytes(many_rows(400))
    run = script(_KILLED_WHILE_LOADING, str(storage_root / "m"))
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(files_under(storage_root / "m")) >= 3
    with pytest.raises(DatasetError, match=r"m: incomplete data set \(no manifest\.json"):
        Dataset("m")
    assert list_datasets() == []
    loaded = load_libsvm(tmp_path / "m.svm", "m")
    assert_same_rows(rows_of(loaded), parse_libsvm(many_rows(400)))
    assert len(files_under(storage_root / "m")) == 4  # and the remains are gone


def test_a_killed_load_does_not_touch_the_data_set_it_would_replace(
    script: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    storage_root: Path,
) -> None:
    (tmp_path / "old.svm").write_bytes(TEXT)
    old = load_libsvm(tmp_path / "old.svm", "m")
    (tmp_path / "m.svm").write_bytes(many_rows(400))
    assert script(_KILLED_WHILE_LOADING, str(storage_root / "m")).returncode < 0
    assert Dataset("m").id == old.id
    assert_same_rows(rows_of(Dataset("m")), parse_libsvm(TEXT))


def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path, storage_root: Path) -> None:
    (tmp_path / "m.svm").write_bytes(many_rows(100))

    def interrupt(_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_libsvm(tmp_path / "m.svm", "m", on_progress=interrupt)
    assert files_under(storage_root) == set()


# Damage


def manifest_path(root: Path, name: str = "d") -> Path:
    return root / name / "manifest.json"


def test_a_missing_data_set_and_one_without_manifest_are_told_apart(
    source: Path, storage_root: Path
) -> None:
    with pytest.raises(DatasetError, match="d: no data set in"):
        Dataset("d")
    load_libsvm(source, "d")
    manifest_path(storage_root).unlink()
    with pytest.raises(DatasetError, match="d: incomplete data set"):
        Dataset("d")


def shard_of(root: Path, name: str = "d") -> Path:
    (shard,) = (root / name).glob("*.cfs")
    return shard


def test_a_flipped_bit_anywhere_in_a_shard_names_the_shard(
    source: Path, storage_root: Path
) -> None:
    loaded = load_libsvm(source, "d")
    shard = shard_of(storage_root)
    whole = shard.read_bytes()
    for byte in range(len(whole)):
        bent = bytearray(whole)
        bent[byte] ^= 1 << byte % 8
        shard.write_bytes(bent)
        with pytest.raises(BlockError, match=re.escape(f"{shard} at byte 0: ")) as caught:
            rows_of(loaded)
        assert "\n" not in str(caught.value)


def test_a_shard_cut_short_or_gone_is_named(source: Path, storage_root: Path) -> None:
    loaded = load_libsvm(source, "d")
    shard = shard_of(storage_root)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StorageError, match=re.escape(str(shard)) + ".*cut short"):
        rows_of(loaded)
    shard.unlink()
    with pytest.raises(StorageError, match="No such file") as caught:
        rows_of(loaded)
    assert str(shard) in str(caught.value)


@pytest.mark.parametrize("pattern", ["*.cfd", "columns-*.npz", "scaling-*.npz"])
@pytest.mark.parametrize("damage", ["flipped", "empty", "gone", "text"])
def test_damage_beside_the_shards_names_the_object(
    source: Path, storage_root: Path, pattern: str, damage: str
) -> None:
    load_libsvm(source, "raw")
    normalize("raw", "d")
    (path,) = (storage_root / "d").glob(pattern)
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        raw[len(raw) // 3] ^= 0x10
    path.write_bytes({"flipped": raw, "text": b"no archive"}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    opened = Dataset("d")
    with pytest.raises(CirrusFastError) as caught:
        _ = opened.columns, opened.scaling, opened.dictionary
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: raw.replace(b"4", b"5"), lambda _: b""]
)
def test_a_damaged_data_set_can_be_removed_and_replaced(
    source: Path, storage_root: Path, damage: Callable[[bytes], bytes]
) -> None:
    for mend in (lambda: remove_dataset("d"), lambda: load_libsvm(source, "d", overwrite=True)):
        load_libsvm(source, "d")
        manifest = manifest_path(storage_root)
        manifest.write_bytes(damage(manifest.read_bytes()))
        with pytest.raises(DatasetError, match="damaged manifest"):
            load_libsvm(source, "d")
        mend()
        load_libsvm(source, "d")
        remove_dataset("d")


def test_remove_takes_the_manifest_first(
    source: Path, storage_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_libsvm(source, "d")
    deleted: list[str] = []
    real = storage.FileStorage.delete

    def delete(self: storage.FileStorage, name: str) -> None:
        deleted.append(name)
        real(self, name)

    monkeypatch.setattr(storage.FileStorage, "delete", delete)
    remove_dataset("d")
    assert deleted[0] == "manifest.json"
    assert not (storage_root / "d").exists()


def test_remove_takes_incomplete_data_sets_but_nothing_else(
    source: Path, storage_root: Path
) -> None:
    load_libsvm(source, "d")
    manifest_path(storage_root).unlink()
    remove_dataset("d")
    assert not (storage_root / "d").exists()
    (storage_root / "photos").mkdir()
    (storage_root / "photos" / "a.png").write_bytes(b"")
    for name in ("photos", "absent"):
        with pytest.raises(DatasetError, match=name):
            remove_dataset(name)
    (storage_root / "photos" / "manifest.json").write_text('{"name": "of some web application"}')
    with pytest.raises(DatasetError, match="is not a manifest of a cirrus_fast data set"):
        remove_dataset("photos")
    with pytest.raises(DatasetError, match="is not a manifest of a cirrus_fast data set"):
        load_libsvm(source, "photos", overwrite=True)
    assert files_under(storage_root / "photos") == {"a.png", "manifest.json"}


# Arrays


def dense_example() -> np.ndarray[Any, Any]:
    dense = np.zeros((5, 4), np.float64)
    dense[0, [1, 3]] = 2.5, -1
    dense[2, 0] = 1e-3
    dense[4] = 1, 2, 3, 4
    return dense


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        np.asfortranarray,
        lambda x: x.astype(np.float32),
        lambda x: x.tolist(),
        scipy.sparse.csr_matrix,
        scipy.sparse.csr_array,
        scipy.sparse.csc_matrix,
        scipy.sparse.coo_array,
        scipy.sparse.lil_matrix,
        lambda x: scipy.sparse.csr_matrix(x)[::-1][::-1],
    ],
)
def test_arrays_of_any_kind_load_alike(make: Callable[[Any], Any]) -> None:
    dense, y = dense_example(), [0, 1, 0, 1, 1]
    loaded = load_csr(make(dense), y, "a")
    rows = rows_of(loaded)
    np.testing.assert_array_equal(rows.to_scipy().toarray(), dense.astype(np.float32))
    assert rows.labels.tolist() == y
    assert loaded.manifest.index_base == 0
    assert loaded.n_features == 4


def test_duplicates_are_summed_and_unsorted_indices_sorted_without_touching_the_input() -> None:
    X = scipy.sparse.csr_matrix(
        (np.array([1.0, 2.0, 4.0, 8.0]), np.array([3, 1, 3, 0]), np.array([0, 3, 4])), shape=(2, 5)
    )
    kept = X.indices.copy(), X.data.copy()
    rows = rows_of(load_csr(X, [1, 0], "a"))
    assert rows.indices.tolist() == [1, 3, 0]
    assert rows.data.tolist() == [2, 5, 8]
    np.testing.assert_array_equal(X.indices, kept[0])
    np.testing.assert_array_equal(X.data, kept[1])
    triples = scipy.sparse.coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(1, 2))
    assert rows_of(load_csr(triples, [1], "b")).data.tolist() == [3]


def test_a_csr_brings_its_own_labels_and_weights() -> None:
    rows = replace(parse_libsvm(TEXT), weights=np.array([1, 2, 3, 4], np.float32))
    loaded = load_csr(rows, None, "a")
    assert_same_rows(rows_of(loaded), rows)
    assert loaded.manifest.weight == 10
    again = load_csr(rows, [0, 0, 1, 1], "b", sample_weight=[1, 1, 1, 0])
    assert rows_of(again).labels.tolist() == [0, 0, 1, 1]
    assert rows_of(again).weights.tolist() == [1, 1, 1, 0]


def test_explicit_zeros_and_empty_rows_survive() -> None:
    rows = CSR(
        np.array([0, 1, 1], np.float32),
        np.array([0, 0, 2, 2], np.int64),
        np.array([0, 7], np.uint32),
        np.array([0.0, -0.0], np.float32),
        9,
    )
    assert_same_rows(rows_of(load_csr(rows, None, "a")), rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"X": np.eye(3), "y": [0, 1]}, r"y has shape \(2,\), but X has 3 rows"),
        ({"X": np.eye(2), "y": [[0], [1]]}, r"y has shape \(2, 1\)"),
        ({"X": np.ones(3), "y": [0]}, "two dimensions, not 1"),
        ({"X": np.eye(2), "y": None}, "y is missing"),
        ({"X": np.eye(2), "y": [0, 1], "sample_weight": [1]}, "sample_weight has shape"),
        ({"X": np.eye(2), "y": [0, 1], "sample_weight": [1, -1]}, "-1 in row 1 .*numbers >= 0"),
        ({"X": np.eye(2), "y": [0, 1], "sample_weight": [np.nan, 1]}, "nan in row 0 "),
        ({"X": np.eye(2), "y": [0, 1], "sample_weight": [1, np.inf]}, "inf in row 1 "),
        ({"X": np.eye(2), "y": [0, 1], "sample_weight": [1, 1e39]}, "sample_weight has 1e\\+39"),
        ({"X": np.eye(2), "y": [0, np.nan]}, "y has nan in row 1 "),
        ({"X": np.eye(2), "y": [0, -np.inf]}, "y has -inf in row 1 "),
        ({"X": np.eye(2), "y": [0, 1e39]}, r"y has 1e\+39, outside the range of float32"),
        ({"X": [[1, 2], [0, np.inf]], "y": [0, 1]}, "X has inf in row 1, column 1 "),
        ({"X": scipy.sparse.csr_matrix([[0, 1], [np.nan, 0]]), "y": [0, 1]}, "row 1, column 0 "),
        ({"X": scipy.sparse.coo_array([[0.0, -1e39]]), "y": [1]}, r"X has -1e\+39, outside"),
        ({"X": np.eye(3), "y": [0, 1, 2]}, "two classes are needed"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        load_csr(arguments.pop("X"), arguments.pop("y"), "a", **arguments)
    assert list_datasets() == []


def test_only_values_of_rows_are_looked_at() -> None:
    data = np.array([np.nan, 1, 2, np.inf], np.float32)
    rows = CSR(
        np.array([0, 1], np.float32), np.array([1, 2, 3]), np.arange(4, dtype=np.uint32), data, 4
    )
    assert rows_of(load_csr(rows, None, "a")).data.tolist() == [1, 2]
    with pytest.raises(DatasetError, match="X has inf in row 1, column 3"):
        load_csr(replace(rows, indptr=np.array([1, 2, 4])), None, "b")


def test_nonfinite_values_are_stored_when_allowed() -> None:
    loaded = load_csr([[np.nan, 0, np.inf], [0, 1, 0]], [0, 1], "a", allow_nonfinite=True)
    assert str(rows_of(loaded).data.tolist()) == "[nan, inf, 1.0]"
    with pytest.raises(DatasetError, match="outside the range of float32"):
        load_csr([[np.nan, 1e39]], [0], "b", allow_nonfinite=True)
    with pytest.raises(DatasetError, match="y has nan in row 0"):
        load_csr([[1.0]], [np.nan], "b", allow_nonfinite=True)


@pytest.mark.parametrize(
    ("indptr", "indices"),
    [([0, 2], [1, 0]), ([0, 2], [1, 1]), ([0, 3], [0, 1]), ([1, 0], [0, 1]), ([0, 2], [0, 4])],
)
def test_a_csr_that_is_none_is_refused(indptr: list[int], indices: list[int]) -> None:
    rows = CSR(
        np.ones(1, np.float32),
        np.array(indptr, np.int64),
        np.array(indices, np.uint32),
        np.ones(2, np.float32),
        4,
    )
    with pytest.raises((DatasetError, ValueError)):
        load_csr(rows, None, "a")
    assert list_datasets() == []


@pytest.mark.parametrize("n_threads", [0, -1, True, 1.5])
def test_a_thread_count_that_is_none_is_refused(source: Path, n_threads: Any) -> None:
    with pytest.raises(OptionError, match="n_threads"):
        load_libsvm(source, "d", n_threads=n_threads)


# normalize


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.usefixtures("tiny_pieces")
def test_normalize_scales_as_the_scaling_of_the_whole_does(
    tmp_path: Path, scaling: str, base: int
) -> None:
    text = many_rows(300)
    (tmp_path / "m.svm").write_bytes(text)
    raw = load_libsvm(tmp_path / "m.svm", "m", zero_based=base == 0)
    scaled = normalize("m", "n", scaling)
    expected = Scaling.fit(scaling, raw.columns, raw.n_rows)
    assert_same_rows(rows_of(scaled), expected.apply_rows(parse_libsvm(text, zero_based=not base)))
    assert scaled.scaling is not None
    assert scaled.scaling.id == expected.id == scaled.manifest.scaling_id
    assert scaled.manifest.index_base == base
    assert scaled.manifest.label_map == raw.manifest.label_map
    # Its statistics are of what it holds.
    assert scaled.columns.columns["count"].sum() == raw.manifest.nnz
    if scaling != "standard":
        assert scaled.columns.columns["max"].max() == 1


def test_normalize_keeps_weights_width_and_hashing(source: Path) -> None:
    rows = replace(parse_libsvm(TEXT), weights=np.array([1, 2, 3, 4], np.float32), n_features=77)
    load_csr(rows, None, "w")
    scaled = normalize("w", "wn")
    assert rows_of(scaled).weights.tolist() == [1, 2, 3, 4]
    assert scaled.n_features == 77
    assert (scaled.manifest.weight, scaled.manifest.positive_weight) == (10, 5)
    load_libsvm(source, "h", hash_bits=9)
    assert normalize("h", "hn").manifest.hash_bits == 9


def test_normalize_like_uses_the_training_sets_scaling(tmp_path: Path) -> None:
    (tmp_path / "tr.svm").write_bytes(b"1 1:4 2:-2\n0 1:2\n")
    (tmp_path / "te.svm").write_bytes(b"1 1:8 2:1 3:5\n")
    load_libsvm(tmp_path / "tr.svm", "tr")
    load_libsvm(tmp_path / "te.svm", "te", like="tr")
    normalize("tr", "trn", MAX_ABS_SCALING)
    scaled = normalize("te", "ten", MAX_ABS_SCALING, like="trn")
    assert rows_of(scaled).data.tolist() == [2, 0.5, 5]  # not clipped, and 3 was never seen
    assert scaled.manifest.scaling_id == Dataset("trn").manifest.scaling_id
    with pytest.raises(OptionError, match="contradicts like='trn'"):
        normalize("te", "x", MIN_MAX_SCALING, like="trn")
    with pytest.raises(DatasetError, match="tr: is not scaled"):
        normalize("te", "x", MAX_ABS_SCALING, like="tr")
    load_libsvm(tmp_path / "te.svm", "te0", zero_based=True, positive_labels=[1])
    with pytest.raises(DatasetError, match="hash them differently"):
        normalize("te0", "x", MAX_ABS_SCALING, like="trn")


def test_normalize_is_reused_and_refused_like_a_load(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_libsvm(source, "d")
    first = normalize("d", "n")
    assert normalize("d", "n").id == first.id
    assert "n: reused" in caplog.text
    with pytest.raises(DatasetError, match="overwrite=True"):
        normalize("d", "n", MAX_ABS_SCALING)
    assert normalize("d", "n", MAX_ABS_SCALING, overwrite=True).id != first.id


def test_normalize_refuses_what_makes_no_sense(source: Path) -> None:
    load_libsvm(source, "d")
    normalize("d", "n")
    with pytest.raises(DatasetError, match="n: is scaled already"):
        normalize("n", "nn")
    with pytest.raises(DatasetError, match="onto itself"):
        normalize("d", "d", overwrite=True)
    with pytest.raises(OptionError, match="unknown scaling 'minmax'"):
        normalize("d", "x", "minmax")


def test_a_source_replaced_while_it_is_read_is_not_mixed_up(source: Path) -> None:
    opened = load_libsvm(source, "d")
    source.write_bytes(TEXT * 2)
    load_libsvm(source, "d", overwrite=True)
    with pytest.raises(StorageError, match="No such file"):
        rows_of(opened)


def test_the_module_has_no_leftover_state() -> None:
    assert sources.CHUNK_BYTES == 16 << 20
    assert dataset_writer.SHARD_BYTES == 64 << 20
