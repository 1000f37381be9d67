"""Data sets as LibSVM text."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cirrus_fast import (
    CSR,
    Dataset,
    export_libsvm,
    load_criteo,
    load_csr,
    load_libsvm,
    normalize,
)
from cirrus_fast.data.dataset import iterate
from cirrus_fast.errors import DatasetError, OptionError, StorageError

pytestmark = pytest.mark.usefixtures("storage_root")


def load_again(dataset: Dataset, path: Path, name: str) -> Dataset:
    return load_libsvm(
        path,
        name,
        zero_based=dataset.manifest.index_base == 0,
        n_features=dataset.n_features,
        label_weights=dataset.manifest.has_weights,
        allow_nonfinite=True,
    )


def assert_equal(actual: Dataset, expected: Dataset) -> None:
    for ours, theirs in zip(iterate(actual), iterate(expected), strict=True):
        assert ours.n_features == theirs.n_features
        for name in ("labels", "indptr", "indices", "data", "weights"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None) == (b is None)
            assert a is None or a.tobytes() == b.tobytes(), name
    assert actual.manifest.label_map == expected.manifest.label_map


SOURCES = ["a1a", "iris.scale", "breast-cancer", "rcv1_small.libsvm.gz", "agaricus.txt.test"]


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".svm") for name in SOURCES), ("a1a", ".gz"), ("a1a", ".bz2")]
)
def test_what_was_exported_loads_as_it_was(
    name: str, suffix: str, data_dir: Path, tmp_path: Path
) -> None:
    positive = [3] if name.startswith("iris") else None
    loaded = load_libsvm(data_dir / name, "a", positive_labels=positive)
    path = tmp_path / f"out{suffix}"
    export_libsvm("a", path)
    again = load_libsvm(
        path,
        "b",
        zero_based=loaded.manifest.index_base == 0,
        n_features=loaded.n_features,
        positive_labels=positive,
    )
    assert_equal(again, loaded)


def test_kinds_of_rows(data_dir: Path, tmp_path: Path, make_rows) -> None:
    weighted = make_rows("reals", 5000, 3, True)
    rows = CSR(
        np.sign(weighted.labels - np.float32(0.5)),
        weighted.indptr,
        weighted.indices,
        weighted.data,
        int(weighted.indices.max()) + 5,
        weighted.weights,
    )
    load_csr(rows, None, "weighted")
    load_criteo(data_dir / "criteo_300.tsv", "criteo", 12)
    load_libsvm(data_dir / "a1a", "hashed", hash_bits=6)
    normalize("criteo", "scaled")
    for name in ("weighted", "criteo", "hashed", "scaled"):
        export_libsvm(name, tmp_path / name, n_threads=3)
        assert_equal(load_again(Dataset(name), tmp_path / name, f"{name}2"), Dataset(name))


def test_text_is_as_the_source_had_it(tmp_path: Path) -> None:
    text = b"1 1:0.5 3:1\n-1 2:1\n-1\n1 3:-2 4:0.001\n"
    (tmp_path / "a.svm").write_bytes(text)
    export_libsvm(load_libsvm(tmp_path / "a.svm", "a"), tmp_path / "b.svm")
    assert (tmp_path / "b.svm").read_bytes() == text
    (tmp_path / "w.svm").write_bytes(b"1:2 0:0.5\n0:0.25 2:1\n")
    load_libsvm(tmp_path / "w.svm", "w", label_weights=True)
    export_libsvm("w", tmp_path / "w2.svm")
    assert (tmp_path / "w2.svm").read_bytes() == b"1:2 0:0.5\n0:0.25 2:1\n"


def test_packed_text_is_the_same_in_every_run(data_dir: Path, tmp_path: Path) -> None:
    load_libsvm(data_dir / "a1a", "a")
    for name in ("one.gz", "two.gz"):
        export_libsvm("a", tmp_path / name)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    export_libsvm("a", tmp_path / "plain")
    unpacked = gzip.decompress((tmp_path / "one.gz").read_bytes())
    assert unpacked == (tmp_path / "plain").read_bytes()


def test_an_existing_file_is_replaced_only_on_request(data_dir: Path, tmp_path: Path) -> None:
    load_libsvm(data_dir / "a1a", "a")
    path = tmp_path / "mine.txt"
    path.write_bytes(b"precious")
    with pytest.raises(DatasetError, match=r"mine\.txt: exists; replace it with overwrite=True"):
        export_libsvm("a", path)
    assert path.read_bytes() == b"precious"
    export_libsvm("a", path, overwrite=True)
    assert path.read_bytes().startswith(b"-1 ")


def test_a_failure_leaves_what_was_there(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 100)
    loaded = load_libsvm(data_dir / "a1a", "a")
    shard = Path(loaded.uri) / loaded.blocks[-1].shard
    raw = bytearray(shard.read_bytes())
    raw[-12] ^= 1
    shard.write_bytes(raw)
    path = tmp_path / "out.svm"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="checksum mismatch"):
        export_libsvm("a", path, overwrite=True)
    assert path.read_bytes() == b"old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.svm", "store"]


def test_progress_counts_rows(data_dir: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 500)
    load_libsvm(data_dir / "a1a", "a")
    done: list[int] = []
    export_libsvm("a", tmp_path / "out", on_progress=done.append)
    assert done == [500, 1000, 1500, 1605]


def test_refuses_what_no_text_can_carry(tmp_path: Path) -> None:
    (tmp_path / "a.svm").write_bytes(b"1 1:1\n0 2:1\n")
    load_libsvm(tmp_path / "a.svm", "a")
    with pytest.raises(OptionError, match="n_threads=0"):
        export_libsvm("a", tmp_path / "out", n_threads=0)
    with pytest.raises(DatasetError, match="no data set"):
        export_libsvm("nothing", tmp_path / "out")
    with pytest.raises(StorageError):
        export_libsvm("a", tmp_path)
    assert not (tmp_path / "out").exists()
