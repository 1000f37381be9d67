"""Text files read piece by piece: where lines begin, chunks and pieces, files that change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import _kernels
from cirrus_fast.data import sources
from cirrus_fast.data.labels import LabelMap
from cirrus_fast.data.sources import Chunk, Source
from cirrus_fast.data.text_dataset import TextDataset
from cirrus_fast.data.text_file import TextFile
from cirrus_fast.errors import DatasetError, LibsvmParseError, ParseError, StorageError

TEXT = b"1 1:1\n\n0 2:2.5\n# none\n1 1:1 3:1\n0"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    there = tmp_path / "text.svm"
    there.write_bytes(TEXT)
    return there


def test_skipping_lines_counts_line_ends() -> None:
    ends = [i + 1 for i, byte in enumerate(TEXT) if byte == 10]
    for n, end in enumerate([0, *ends]):
        assert _kernels.libsvm_skip(TEXT, n) == (end, n)
    assert _kernels.libsvm_skip(TEXT, len(ends) + 3) == (len(TEXT), len(ends))
    assert _kernels.libsvm_skip(b"", 3) == (0, 0)
    assert _kernels.libsvm_skip(b"\n", 3) == (1, 1)


@pytest.mark.parametrize("step", [1, 2, 5, 9, 100])
def test_pieces_of_a_text_are_its_rows(step: int) -> None:
    for before in range(12):
        found = _kernels.libsvm_cut(TEXT, before, step)
        expected = []
        for mark in range(-(before % step), len(TEXT), step):
            begin, end, _, nnz = _kernels.libsvm_range(
                TEXT, max(mark, 0), min(mark + step, len(TEXT))
            )
            n_rows = len(cirrus_fast.parse_libsvm(TEXT[begin:end]).labels)
            if n_rows:
                expected.append((begin, end, n_rows, nnz))
        assert found == expected
    assert _kernels.libsvm_cut(b"", 3, step) == []


def test_lines_start_and_are_counted_as_in_the_text(path: Path) -> None:
    file = TextFile(str(path))
    starts = [0, *(i + 1 for i, byte in enumerate(TEXT) if byte == 10)]
    for pos in range(len(TEXT) + 1):
        assert file.line_start(pos) == min((s for s in starts if s >= pos), default=len(TEXT))
        assert file.lines_before(pos) == TEXT[:pos].count(b"\n")


def test_a_last_line_without_an_end_gets_one_between_others(path: Path) -> None:
    file, last = TextFile(str(path)), TEXT.rfind(b"\n") + 1
    spans = [(last, len(TEXT) - last), (0, 6)]
    assert bytes(file.read_lines(spans)) == b"0\n1 1:1\n"
    assert bytes(file.read_lines(spans[::-1])) == b"1 1:1\n0"
    assert bytes(file.read_lines([])) == b""


@pytest.mark.parametrize("chunk_bytes", [1, 5, 16, 1000])
@pytest.mark.parametrize("n_lines", [1, 2, 100])
@pytest.mark.parametrize("first_bytes", [1, 7, 1 << 16])
def test_chunks_and_their_pieces_are_the_text(
    path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, n_lines: int, first_bytes: int
) -> None:
    monkeypatch.setattr(sources, "_FIRST_BYTES", first_bytes)
    begin = 0
    for chunk in Source.find(str(path)).chunks(chunk_bytes):
        assert chunk.offset == begin
        pieces = [(at, bytes(text)) for at, text in chunk.pieces(n_lines)]
        assert b"".join(text for _, text in pieces) == TEXT[begin : begin + chunk.n_bytes]
        assert all(text.count(b"\n") == n_lines for _, text in pieces[:-1])
        for at, text in pieces:
            assert TEXT[begin + at :].startswith(text)
            assert chunk.lines_before(at) == TEXT[: begin + at].count(b"\n")
        begin += chunk.n_bytes
    assert begin == len(TEXT)


def test_a_chunk_at_hand_is_read_like_one_of_a_file(path: Path) -> None:
    held = Chunk("here", 0, len(TEXT), TEXT)
    file = Chunk("here", 0, len(TEXT), TextFile(str(path)))
    assert [(at, bytes(text)) for at, text in held.pieces(2)] == [
        (at, bytes(text)) for at, text in file.pieces(2)
    ]
    assert held.lines_before(9) == file.lines_before(9)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.svm"):
        TextFile(str(tmp_path / "none.svm"))


def long_text(tmp_path: Path) -> Path:
    path = tmp_path / "long.svm"
    path.write_bytes(b"1 1:1 2:0.5\n0 3:1\n" * 20_000)
    return path


def shrink(path: Path) -> None:
    os.truncate(path, 100_000)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [shrink, touch])
def test_a_text_cut_short_while_it_is_loaded_is_an_error_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change
) -> None:
    path = long_text(tmp_path)
    monkeypatch.setattr(Source.chunks, "__defaults__", (50_000,))
    with pytest.raises(DatasetError, match=r"long\.svm: changed while it was read"):
        cirrus_fast.load_libsvm(
            path, str(tmp_path / "set"), n_threads=1, on_progress=lambda _: change(path)
        )
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_text_cut_short_while_it_is_scored_is_an_error_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = long_text(tmp_path)
    labels = LabelMap((0.0,), (1.0,))
    model = cirrus_fast.LinearModel(np.ones(3, np.float32), 0.0, label_map=labels, index_base=1)
    monkeypatch.setattr(Source.chunks, "__defaults__", (50_000,))
    pieces = model.scorable(str(path))
    next(pieces)
    shrink(path)
    with pytest.raises(DatasetError, match=r"long\.svm: changed while it was read"):
        list(pieces)


@pytest.mark.parametrize("load", [cirrus_fast.load_libsvm, cirrus_fast.load_criteo])
def test_an_error_in_the_first_chunk_ends_the_others_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"neither label nor number\n" * 10_000)
    monkeypatch.setattr(Source.chunks, "__defaults__", (5_000,))
    with pytest.raises(ParseError):
        load(path, str(tmp_path / "set"), n_threads=3)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_column_statistics_do_not_depend_on_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    rng = np.random.default_rng(5)
    rows = (
        f"{i % 2} 1:{rng.normal():.4g} {rng.integers(2, 50)}:1 60:{rng.normal():.5g}\n"
        for i in range(3000)
    )
    path = tmp_path / "text.svm"
    path.write_text("".join(rows))
    monkeypatch.setattr(Source.chunks, "__defaults__", (5_000,))
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 64)
    found = [
        cirrus_fast.load_libsvm(path, str(tmp_path / f"set{n}"), n_threads=n).columns
        for n in (1, n_threads)
    ]
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    assert found[0].columns.tobytes() == found[1].columns.tobytes()


@pytest.mark.parametrize("bad_line", [0, 7, 250, 399])
def test_an_error_in_one_of_several_pieces_has_its_place_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_line: int
) -> None:
    lines = [b"1 1:1 2:0.5" if i % 2 else b"0 3:1 4:0.25" for i in range(400)]
    path = tmp_path / "text.svm"
    path.write_bytes(b"\n".join(lines))
    monkeypatch.setattr("cirrus_fast.data.text_dataset.PIECE_BYTES", 100)
    text = TextDataset(str(path), 10)
    lines[bad_line] = lines[bad_line][:-2] + b"xx"
    changed = tmp_path / "text2.svm"
    changed.write_bytes(b"\n".join(lines))
    text._file = TextFile(str(changed))
    n_rows, nnz = sum(b.n_rows for b in text.blocks), sum(b.nnz for b in text.blocks)
    order = [text.blocks[i] for i in np.random.default_rng(1).permutation(len(text.blocks))]
    with pytest.raises(LibsvmParseError) as error:
        text.read_into(
            order,
            np.empty(n_rows, np.float32),
            np.empty(n_rows, np.int64),
            np.empty(nnz, np.uint32),
            np.empty(nnz, np.float32),
        )
    assert error.value.line == bad_line + 1
    begin = sum(len(line) + 1 for line in lines[:bad_line])
    assert begin < error.value.offset < begin + len(lines[bad_line])
    assert error.value.offset == begin + error.value.column - 1
