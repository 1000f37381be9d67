"""Dataset.verify: every lie of every object is found, and named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cirrus_fast import Dataset, _kernels, load_csr, load_libsvm, normalize
from cirrus_fast.data import dataset_writer
from cirrus_fast.data.columns import ColumnStatistics
from cirrus_fast.data.manifest import Manifest, seal
from cirrus_fast.data.verification import find_faults
from cirrus_fast.errors import CirrusFastError, DatasetError, OptionError

pytestmark = pytest.mark.usefixtures("storage_root")


@pytest.fixture
def scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Of several shards of several blocks, with weights, a dictionary and a scaling."""
    monkeypatch.setattr("cirrus_fast.data.loading.BLOCK_ROWS", 16)
    monkeypatch.setattr(dataset_writer, "SHARD_BYTES", 500)
    rng = np.random.default_rng(4)
    popularity = 1 / np.arange(1.0, 51)  # so that a dictionary is of use
    lines = []
    for i in range(200):
        ids = np.sort(rng.choice(50, 12, replace=False, p=popularity / popularity.sum())) + 1
        lines.append(f"{i % 3 % 2}:{i % 7 + 1} " + " ".join(f"{j}:{j % 4 + 1}" for j in ids))
    (tmp_path / "rows.svm").write_text("\n".join(lines))
    load_libsvm(tmp_path / "rows.svm", "raw", label_weights=True)
    made = normalize("raw", "d")
    assert len(made.manifest.shard_sizes) > 2
    assert len(made.blocks) > 5
    assert made.manifest.dictionary is not None
    return made


def rewrite(dataset: Dataset, **fields: Any) -> Manifest:
    """A manifest that holds something else, and is whole."""
    changed = replace(dataset.manifest, **fields)
    (Path(dataset.uri) / "manifest.json").write_bytes(changed.to_json())
    return changed


def the_fault(name: str = "d") -> str:
    (fault,) = find_faults(Dataset(name), n_threads=1)
    with pytest.raises(DatasetError, match=f"^{re.escape(fault)}$"):
        Dataset(name).verify()
    assert "\n" not in fault
    return fault


@pytest.mark.parametrize("n_threads", [None, 1, 3])
def test_a_whole_data_set_has_no_fault(scaled: Dataset, n_threads: int | None) -> None:
    done: list[int] = []
    scaled.verify(n_threads=n_threads, on_progress=done.append)
    assert done == [block.first_row + block.n_rows for block in scaled.blocks]
    Dataset("raw").verify()


def test_arguments_are_checked(scaled: Dataset) -> None:
    with pytest.raises(OptionError, match="n_threads=0"):
        scaled.verify(n_threads=0)


def test_nan_and_infinity_are_no_fault() -> None:
    X = [[np.nan, np.inf, 1], [0, -np.inf, 2], [np.nan, 3, 0]]
    load_csr(X, [0, 1, 1], "n", allow_nonfinite=True).verify()


def test_a_changed_byte_anywhere_is_found(scaled: Dataset) -> None:
    rng = np.random.default_rng(1)
    for path in sorted(Path(scaled.uri).iterdir()):
        raw = path.read_bytes()
        for at in [0, len(raw) - 1, *rng.integers(0, len(raw), 12).tolist()]:
            bent = bytearray(raw)
            bent[at] ^= 1 << at % 8
            path.write_bytes(bent)
            with pytest.raises(CirrusFastError) as caught:
                Dataset("d").verify()
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)
        path.write_bytes(raw)
    Dataset("d").verify()


@pytest.mark.parametrize("damage", ["gone", "cut", "longer"])
def test_an_object_that_is_gone_cut_or_longer_is_named(scaled: Dataset, damage: str) -> None:
    for path in sorted(Path(scaled.uri).iterdir()):
        if path.name == "manifest.json":
            continue
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] if damage == "cut" else raw + b"\0")
        if damage == "gone":
            path.unlink()
        assert path.name in the_fault()
        path.write_bytes(raw)


def test_every_damaged_shard_is_named_and_the_error_counts_them(scaled: Dataset) -> None:
    shards = list(scaled.manifest.shard_sizes)[:2]
    for shard in shards:
        path = Path(scaled.uri) / shard
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 0x40
        path.write_bytes(raw)
    found = list(find_faults(Dataset("d")))
    assert [shard in fault for shard, fault in zip(shards, found, strict=True)] == [True, True]
    with pytest.raises(DatasetError, match=r"\(and 1 more\)$") as caught:
        Dataset("d").verify()
    assert str(caught.value).startswith(found[0])


def test_shards_in_each_others_place_are_found(scaled: Dataset) -> None:
    """Blocks that are whole, but not these: their own checksums hold."""
    first, second = scaled.blocks[0], scaled.blocks[1]
    assert first.shard == second.shard
    path = Path(scaled.uri) / first.shard
    raw = path.read_bytes()
    swapped = raw[second.offset :][: second.n_bytes] + raw[: first.n_bytes]
    path.write_bytes(swapped + raw[len(swapped) :])
    blocks = (
        replace(first, n_bytes=second.n_bytes),
        replace(second, offset=second.n_bytes, n_bytes=first.n_bytes),
        *scaled.blocks[2:],
    )
    nnz = [second.nnz, first.nnz]
    blocks = tuple(replace(b, nnz=n) for b, n in zip(blocks, nnz, strict=False)) + blocks[2:]
    rewrite(scaled, blocks=blocks)
    assert the_fault().endswith(f"{first.shard}: its checksum is not the manifest's")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("n_positive", 66, "the manifest's positives is 66, its rows have"),
        ("longest_row", 13, "the manifest's longest_row is 13, its rows have 12"),
        ("weight", 700.0, r"the manifest's weight is 700\.0, its rows have"),
        ("positive_weight", 1.0, r"the manifest's positive_weight is 1\.0, its rows have"),
        ("n_features", 49, "feature 49 is beyond the manifest's width"),
        ("index_base", 0, "feature 50 is beyond the manifest's width"),
        ("scaling_id", "0123456789abcdef", "is another scaling than its manifest speaks of"),
    ],
)
def test_a_manifest_that_lies_about_its_rows_is_found(
    scaled: Dataset, field: str, value: Any, says: str
) -> None:
    rewrite(scaled, **{field: value})
    found = list(find_faults(Dataset("d")))
    assert any(re.search(says, fault) for fault in found), found


def test_labels_and_weights_that_the_manifest_does_not_know_are_found(scaled: Dataset) -> None:
    manifest = scaled.manifest
    rewrite(scaled, label_map=replace(manifest.label_map, negative=(-1.0,)))
    found = list(find_faults(Dataset("d")))
    assert len(found) == len(scaled.blocks)
    assert "label 0 is in neither class of the manifest" in found[0]
    rows, positives = float(manifest.n_rows), float(manifest.n_positive)
    rewrite(scaled, has_weights=False, weight=rows, positive_weight=positives)
    assert "rows have sample weights" in next(find_faults(Dataset("d")))


def test_weights_that_no_row_has_are_found(tmp_path: Path) -> None:
    (tmp_path / "rows.svm").write_text("1 1:1\n0 2:1\n")
    rewrite(load_libsvm(tmp_path / "rows.svm", "d"), has_weights=True)
    assert "the manifest's weights is True, its rows have False" in the_fault()


@pytest.mark.parametrize("field", ["count", "min", "max", "sum_squares", "ids"])
def test_statistics_of_other_rows_are_found(scaled: Dataset, field: str) -> None:
    """Whole, and vouched for by the manifest, but wrong."""
    statistics = scaled.columns
    if field == "ids":
        wrong = replace(statistics, ids=statistics.ids + np.uint32(1))
    else:
        wrong = ColumnStatistics(statistics.ids, statistics.columns.copy())
        wrong.columns[field][7] *= 2
    raw = wrong.to_bytes()
    name = scaled.manifest.columns
    (Path(scaled.uri) / name).write_bytes(raw)
    rewrite(scaled, checksums={**scaled.manifest.checksums, name: _kernels.crc32c(raw)})
    assert the_fault().endswith(f"{name}: not the statistics of its rows")


def test_objects_of_another_load_are_found(tmp_path: Path) -> None:
    """Each is whole; only together they are not."""
    for name, first, value in (("a", 1, 1), ("b", 3, 7)):
        entries = " ".join(f"{i}:{value}" for i in range(first, first + 20))
        (tmp_path / "rows.svm").write_text(f"1 {entries}\n0 {entries}\n" * 200)
        load_libsvm(tmp_path / "rows.svm", name)
    a, b = Dataset("a"), Dataset("b")
    for ours, theirs in zip(
        sorted(a.manifest.checksums), sorted(b.manifest.checksums), strict=True
    ):
        path = Path(a.uri) / ours
        kept = path.read_bytes()
        path.write_bytes((Path(b.uri) / theirs).read_bytes())
        with pytest.raises(DatasetError, match=re.escape(ours)):
            Dataset("a").verify()
        path.write_bytes(kept)
    a.verify()


def test_a_manifest_without_any_use_for_its_objects_is_found(scaled: Dataset) -> None:
    body = json.loads((Path(scaled.uri) / "manifest.json").read_bytes())
    del body["checksum"]
    del body["crc32c"][body["dictionary"]]
    body["dictionary"] = None
    (Path(scaled.uri) / "manifest.json").write_bytes(seal(body))
    found = list(find_faults(Dataset("d")))
    assert found
    assert all("dictionary" in fault for fault in found)
