"""Criteo rows into data sets, and what may be done with those."""

from __future__ import annotations

import bz2
import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from cirrus_fast import (
    CSR,
    Dataset,
    LinearModel,
    LogisticRegression,
    load_criteo,
    load_csr,
    load_libsvm,
    normalize,
)
from cirrus_fast.data.criteo import parse_criteo
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.sources import Source
from cirrus_fast.errors import CriteoParseError, DatasetError, OptionError

pytestmark = pytest.mark.usefixtures("storage_root")

NAMES = [f"I{n}" for n in range(1, 14)] + [f"C{n}" for n in range(1, 27)]


@pytest.fixture
def tsv(data_dir: Path) -> Path:
    return data_dir / "criteo_300.tsv"


def rows_of(dataset: Dataset) -> CSR:
    parts = list(iterate(dataset))
    lengths = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
    return CSR(
        np.concatenate([part.labels for part in parts]),
        np.cumsum(lengths).astype(np.int64),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.data for part in parts]),
        dataset.n_features,
    )


def as_csv(text: bytes, *, ident: bool = False, label: bool = True, end: bytes = b"\n") -> bytes:
    """Rows without header as CSV with one."""
    names = [*(["Id"] if ident else []), *(["Label"] if label else []), *NAMES]
    lines = [",".join(names).encode()]
    for number, line in enumerate(text.splitlines()):
        cells = line.split(b"\t")
        cells += [b""] * (40 - len(cells))
        cells = [b"%d" % (10**7 + number)] * ident + cells[not label :]
        lines.append(b",".join(cells))
    return end.join(lines) + end


def test_rows_are_those_of_the_parser(tsv: Path, assert_same_rows) -> None:
    loaded = load_criteo(tsv, "c")
    assert_same_rows(rows_of(loaded), parse_criteo(tsv.read_bytes()))
    manifest = loaded.manifest
    assert (manifest.n_features, manifest.index_base) == (2**19, 0)
    assert (manifest.hash_bits, manifest.text_format) == (19, "criteo")
    assert manifest.lineage["options"]["bits"] == 19
    assert manifest.lineage["options"]["format"] == "criteo"
    assert (manifest.n_rows, manifest.n_positive) == (300, int(rows_of(loaded).labels.sum()))
    assert loaded.manifest == Dataset("c").manifest


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("chunk_bytes", [11, 300, 5000])
@pytest.mark.parametrize("kind", ["tsv", "csv", "csv.gz"])
def test_chunks_and_threads_change_nothing(
    tsv: Path,
    tmp_path: Path,
    kind: str,
    chunk_bytes: int,
    n_threads: int,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_rows,
) -> None:
    text = b"".join(tsv.read_bytes().splitlines(keepends=True)[:12])
    path = tmp_path / f"rows.{kind}"
    raw = text if kind == "tsv" else as_csv(text, ident=True, end=b"\r\n")
    path.write_bytes(gzip.compress(raw) if kind.endswith("gz") else raw)
    monkeypatch.setattr(Source.chunks, "__defaults__", (chunk_bytes,))
    done: list[int] = []
    loaded = load_criteo(path, "c", n_threads=n_threads, on_progress=done.append)
    assert_same_rows(rows_of(loaded), parse_criteo(text))
    assert done == sorted(done)
    assert done[-1] == len(raw)


def test_every_file_of_a_pattern_says_its_own_layout(
    tsv: Path, tmp_path: Path, assert_same_rows
) -> None:
    text = tsv.read_bytes()
    lines = text.splitlines(keepends=True)
    (tmp_path / "part-1.tsv").write_bytes(b"".join(lines[:100]))
    (tmp_path / "part-2.csv").write_bytes(as_csv(b"".join(lines[100:200]), ident=True))
    (tmp_path / "part-3.csv.bz2").write_bytes(bz2.compress(as_csv(b"".join(lines[200:]))))
    loaded = load_criteo(f"{tmp_path}/part-*", "c")
    assert_same_rows(rows_of(loaded), parse_criteo(text))


def test_standard_input(tsv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(tsv.read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert load_criteo("-", "c").n_rows == 300


def test_a_bad_row_is_named_with_its_file_and_leaves_nothing(
    tsv: Path, tmp_path: Path, storage_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tsv.read_bytes()
    monkeypatch.setattr(Source.chunks, "__defaults__", (1000,))
    for name, wrap in (("bad.tsv", bytes), ("bad.tsv.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(wrap(good + b"0\tx\n"))
        with pytest.raises(CriteoParseError, match="integer column is not a number") as caught:
            load_criteo([tsv, path], "c")
        error = caught.value
        assert (error.source, error.line, error.column) == (str(path), 301, 3)
        assert error.offset == len(good) + 2
        assert not [item for item in storage_root.rglob("*") if item.is_file()]
    path.write_bytes(gzip.compress(b"a,b\n"))
    with pytest.raises(CriteoParseError, match="header is not") as caught:
        load_criteo(path, "c")
    assert caught.value.source == str(path)


def test_skipped_rows_are_counted_aloud(
    tsv: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(tsv.read_bytes() + b"0\tx\n")
    assert load_criteo(path, "c", skip_bad_rows=True).n_rows == 300
    assert "c: 1 rows could not be read" in caplog.text
    assert "line 301" in caplog.text


def test_same_source_and_options_are_reused(tsv: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = load_criteo(tsv, "c")
    assert load_criteo(tsv, "c").id == first.id
    assert load_criteo(tsv, "c", 19).id == first.id
    assert caplog.text.count("reused") == 2
    with pytest.raises(DatasetError, match="made of something else"):
        load_criteo(tsv, "c", 18)
    assert load_criteo(tsv, "c", 18, overwrite=True).n_features == 2**18


def test_labels_follow_the_convention_where_one_is_absent(tsv: Path, tmp_path: Path) -> None:
    for label in (True, False):
        path = tmp_path / f"test-{label}.csv"
        text = b"\n".join(b"0" + line[1:] for line in tsv.read_bytes().splitlines())
        path.write_bytes(as_csv(text, label=label))
        manifest = load_criteo(path, f"{tmp_path}/{label}").manifest
        assert (manifest.label_map.negative, manifest.label_map.positive) == ((0.0,), (1.0,))
        assert manifest.n_positive == 0


def test_text_without_labels_and_header(tsv: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_bytes(b"\n".join(line[2:] for line in tsv.read_bytes().splitlines()))
    loaded = load_criteo(path, "c", has_labels=False)
    assert not rows_of(loaded).labels.any()
    with pytest.raises(CriteoParseError):
        load_criteo(path, "d")


def test_like_takes_the_bits_of_the_training_set(tsv: Path) -> None:
    load_criteo(tsv, "train", 12)
    assert load_criteo(tsv, "test", like="train").n_features == 2**12
    assert load_criteo(tsv, "test2", 12, like="train").n_features == 2**12
    with pytest.raises(OptionError, match="bits=13 contradicts like='train', which has bits=12"):
        load_criteo(tsv, "x", 13, like="train")


def test_other_texts_are_not_like_criteo_rows(tsv: Path, tmp_path: Path) -> None:
    (tmp_path / "a.svm").write_bytes(b"1 1:1\n0 2:1\n")
    load_libsvm(tmp_path / "a.svm", "hashed", hash_bits=19)
    load_criteo(tsv, "criteo")
    with pytest.raises(OptionError, match="like='hashed' is not of Criteo rows"):
        load_criteo(tsv, "x", like="hashed")
    with pytest.raises(OptionError, match="like='criteo' is of criteo rows"):
        load_libsvm(tmp_path / "a.svm", "x", like="criteo")
    model = LogisticRegression(dataset="criteo", epochs=1).run().model
    with pytest.raises(DatasetError, match="ids hashed to 19 bits, the model has categories"):
        model.evaluate("hashed")


@pytest.mark.parametrize("bits", [4, 32, 2.0, "19"])
def test_bits_are_checked(tsv: Path, bits: object) -> None:
    with pytest.raises(OptionError, match=r"bits=.*give a whole number from 5 to 31"):
        load_criteo(tsv, "c", bits)  # type: ignore[arg-type]


def test_has_labels_is_checked(tsv: Path) -> None:
    with pytest.raises(OptionError, match="has_labels='no'"):
        load_criteo(tsv, "c", has_labels="no")  # type: ignore[arg-type]


def test_a_model_scores_what_was_loaded_the_same_way(tsv: Path, tmp_path: Path) -> None:
    load_criteo(tsv, "train", 14)
    normalize("train", "scaled")
    model = LogisticRegression(dataset="scaled", epochs=2, epsilon=0, seed=1).run().model
    assert (model.text_format, model.hash_bits, model.n_features) == ("criteo", 14, 2**14)
    model.save(tmp_path / "model.npz")
    again = LinearModel.load(tmp_path / "model.npz")
    expected = model.decision_function("train")
    # The data set, its text, and the text as CSV.
    assert np.array_equal(again.decision_function("train"), expected)
    assert np.array_equal(again.decision_function(tsv.read_bytes()), expected)
    csv = as_csv(tsv.read_bytes(), ident=True)
    assert np.array_equal(again.decision_function(csv), expected)
    load_criteo(tsv, "wider", 15)
    with pytest.raises(DatasetError, match="categories hashed to 15 bits, the model has"):
        again.evaluate("wider")


def test_arrays_loaded_like_criteo_rows_count_as_such(tsv: Path) -> None:
    load_criteo(tsv, "train", 10)
    rows = parse_criteo(tsv.read_bytes(), 10)
    made = load_csr(rows, None, "arrays", like="train")
    assert made.manifest.numbering == Dataset("train").manifest.numbering
