"""The manifest: nothing in it is believed that does not hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cirrus_fast import Dataset, _kernels, load_criteo, load_libsvm, normalize
from cirrus_fast.data.manifest import Manifest, seal
from cirrus_fast.errors import BlockError, DatasetError

pytestmark = pytest.mark.usefixtures("storage_root")

TEXT = b"1 1:0.5 3:1\n-1 2:1\n-1\n1 3:-2 4:1e-3\n"
KEYS = [
    *("format_version", "rows", "features", "nnz", "longest_row", "positives", "weight"),
    *("positive_weight", "index_base", "hash_bits", "text_format", "label_weights"),
    *("allow_nonfinite", "labels", "weights", "dictionary", "columns", "scaling", "scaling_id"),
    *("lineage", "written_by", "shards", "crc32c"),
]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.svm"
    path.write_bytes(TEXT)
    return path


@pytest.fixture
def manifest(storage_root: Path, source: Path) -> Path:
    """Of a data set "d"."""
    return Path(load_libsvm(source, "d").uri) / "manifest.json"


def rewrite(path: Path, change: Change) -> None:
    """A manifest whose fields were changed by someone who knows the checksum."""
    body = json.loads(path.read_bytes())
    del body["checksum"]
    change(body)
    path.write_bytes(seal(body))


def test_a_manifest_survives_its_json(manifest: Path) -> None:
    found = Dataset("d").manifest
    assert Manifest.from_json(found.to_json(), "here") == found
    assert found.to_json() == manifest.read_bytes()


def test_the_writer_of_a_manifest_stays_who_it_was(manifest: Path) -> None:
    found = replace(Dataset("d").manifest, written_by="cirrus-fast 0.0.1")
    manifest.write_bytes(found.to_json())
    assert Dataset("d").manifest.written_by == "cirrus-fast 0.0.1"
    assert Dataset("d").manifest.to_json() == manifest.read_bytes()


def test_a_truncated_manifest_is_refused_at_every_length(manifest: Path) -> None:
    whole = manifest.read_bytes()
    for length in range(len(whole)):
        with pytest.raises(DatasetError, match=r"here: damaged manifest") as caught:
            Manifest.from_json(whole[:length], "here")
        assert "\n" not in str(caught.value)


def test_a_changed_byte_anywhere_in_a_manifest_is_noticed(manifest: Path) -> None:
    whole = manifest.read_bytes()
    for at in range(len(whole)):
        for flip in (1, 2, 0x10, 0x20, 0x80):
            bent = bytearray(whole)
            bent[at] ^= flip
            with pytest.raises(DatasetError, match=r"^here: ") as caught:
                Manifest.from_json(bytes(bent), "here")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [b"\n", b" ", b"x", b"{}"])
def test_bytes_behind_a_manifest_are_noticed(manifest: Path, more: bytes) -> None:
    with pytest.raises(DatasetError, match="damaged manifest"):
        Manifest.from_json(manifest.read_bytes() + more, "here")


def test_an_edited_manifest_says_that_it_was_edited(manifest: Path) -> None:
    manifest.write_bytes(manifest.read_bytes().replace(b'"positives": 2', b'"positives": 1'))
    with pytest.raises(DatasetError, match=r"manifest\.json: damaged .* it was edited.*overwrite"):
        Dataset("d")
    body = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps(body | {"checksum": "00000000"}))
    with pytest.raises(DatasetError, match="its checksum is missing"):  # it is no last line now
        Dataset("d")


@pytest.mark.parametrize(
    "raw",
    [
        *(b"[]", b"null", b"3", b'"x"', b"\xff", b"{}", b"", b"[" * 100_000, b"9" * 10_000),
        b'{"format": ["cirrus_fast data set"]}',
        b'{"format": "cirrus_fast data set"}',
    ],
)
def test_json_that_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(DatasetError, match=r"^here: ") as caught:
        Manifest.from_json(raw, "here")
    assert "\n" not in str(caught.value)


def put(**fields: Any) -> Change:
    return lambda body: body.update(fields)


def drop(key: str) -> Change:
    return lambda body: body.pop(key)


def in_shard(**fields: Any) -> Change:
    return lambda body: body["shards"][0].update(fields)


def in_block(place: int, value: Any) -> Change:
    return lambda body: body["shards"][0]["blocks"][0].__setitem__(place, value)


def again(body: dict[str, Any]) -> None:
    body["shards"] *= 2
    body.update(rows=8, nnz=10)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put(format="something"), "not a manifest of a cirrus_fast data set"),
        (put(format_version=99), "format version 99 is newer.*upgrade"),
        (put(format_version="1"), 'format_version is "1", not a whole number'),
        (put(format_version=0), "format_version is 0"),
        (put(rows=5), "rows is 5, but its blocks add up to 4"),
        (put(rows="4"), 'rows is "4", not a whole number'),
        (put(rows=True), "rows is true, not a whole number"),
        (put(nnz=6), "nnz is 6, but its blocks add up to 5"),
        (put(nnz=5.0), "nnz is 5.0, not a whole number"),
        (put(features=None), "features is null"),
        (put(features=-1), "features is -1"),
        (put(features=2**32 + 1), "features is 4294967297, not a whole number from 0 to"),
        (put(features=1), "longest_row is 2, not a whole number from 2 to 1"),
        (put(longest_row=1), "longest_row is 1, not a whole number from 2 to 4"),
        (put(longest_row=6), "longest_row is 6"),
        (put(positives=5), "positives is 5, not a whole number from 0 to 4"),
        (put(positives=-1), "positives is -1"),
        (put(weight=3.0), "weight is 3.0, not the number of rows, 4"),
        (put(weight=float("nan")), "weight is NaN, not a finite number"),
        (put(weight="4"), 'weight is "4", not a finite number'),
        (put(weight=10**400), "weight is 1000.*, not a finite number"),
        (put(positive_weight=1.0), "positive_weight is 1.0, not positives, 2"),
        (put(weights=True, positive_weight=5.0), "positive_weight is 5.0, not at most weight"),
        (put(weights=True, positive_weight=-1.0), "positive_weight is -1.0, not a finite number"),
        (put(weights=1), "weights is 1, not true or false"),
        (put(index_base="1"), 'index_base is "1"'),
        (put(index_base=2), "index_base is 2, not a whole number from 0 to 1"),
        (put(hash_bits=33), "hash_bits is 33, not a whole number from 1 to 32"),
        (put(hash_bits=0), "hash_bits is 0"),
        (put(hash_bits=5), "index_base is 1, not a whole number from 0 to 0"),
        (put(text_format="csv"), 'text_format is "csv"'),
        (put(text_format="criteo"), "hash_bits is null, not a whole number from 5 to 31"),
        (put(label_weights=None), "label_weights is null, not true or false"),
        (put(allow_nonfinite="no"), 'allow_nonfinite is "no"'),
        (put(labels=None), "labels is null, not an object"),
        (put(labels={"negative": [0]}), "labels: positive is missing"),
        (put(labels={"negative": [0], "positive": []}), "labels: positive is .*increasing numbers"),
        (put(labels={"negative": [-1], "positive": ["1"]}), "labels: positive is"),
        (put(labels={"negative": [1, -1], "positive": [2]}), "labels: negative is"),
        (put(labels={"negative": [-1], "positive": [float("inf")]}), "labels: positive is"),
        (put(labels={"negative": [1], "positive": [1]}), "one is both negative and positive"),
        (put(columns=None), "columns is null"),
        (put(columns="../../columns.npz"), 'columns is "../../columns.npz", not like columns-'),
        (put(columns="columns-00000000.npz"), "disagree about columns-"),
        (put(dictionary="/etc/passwd"), 'dictionary is "/etc/passwd"'),
        (put(dictionary=5), "dictionary is 5"),
        (put(dictionary=None), "disagree about dictionary-"),
        (put(scaling="scaling-00000000.npz"), "scaling and scaling_id"),
        (put(scaling_id="0123456789abcdef"), "scaling and scaling_id"),
        (put(scaling_id="x"), 'scaling_id is "x"'),
        (put(lineage=[]), r"lineage is \[\], not an object"),
        (put(lineage={"source": [1], "options": {}}), "lineage: a source is 1"),
        (put(lineage={"source": []}), "options is missing"),
        (put(lineage={"source": [{"path": 1}], "options": {}}), "a source: path is 1"),
        (put(lineage={"source": [{"bytes": "9"}], "options": {}}), 'a source: bytes is "9"'),
        (put(written_by=1), "written_by is 1"),
        (put(crc32c={}), "disagree about columns-"),
        (put(crc32c=None), "crc32c is null"),
        (lambda body: body["crc32c"].update(more="00000000"), "disagree about more"),
        (lambda body: body["crc32c"].update({body["columns"]: 7}), "crc32c: .* is 7"),
        (put(shards=None), "shards is null, not a list"),
        (put(shards=[1]), "a shard is 1, not an object"),
        (put(shards=[{"object": "x"}]), 'a shard: object is "x", not like shard-'),
        (in_shard(object="../shard-00000000-00000.cfs"), "a shard: object is"),
        (in_shard(object="shard-00000000-00000.cfs"), "disagree about shard-"),
        (in_shard(bytes=1), "bytes is 1, but its blocks add up to"),
        (in_shard(bytes=-1), "bytes is -1"),
        (in_shard(blocks=[]), "but its blocks add up to 0"),
        (in_shard(blocks=[[0, 9, 4]]), r"a block is \[0, 9, 4\], not four whole numbers"),
        (in_shard(blocks=7), "a shard: blocks is 7, not a list"),
        (in_block(0, -1), "impossible numbers"),
        (in_block(0, 1), "impossible numbers"),
        (in_block(1, 0), "impossible numbers"),
        (in_block(2, 0), "impossible numbers"),
        (in_block(2, 2**40), "impossible numbers"),
        (in_block(3, -5), "impossible numbers"),
        (in_block(3, 2**40), "impossible numbers"),
        (in_block(2, 4.0), "not four whole numbers"),
        (in_block(2, True), "not four whole numbers"),
        (again, "is named twice"),
        *[(drop(key), f"{key} is missing") for key in KEYS],
    ],
)
def test_a_manifest_is_refused_that_does_not_add_up(
    manifest: Path, change: Change, says: str
) -> None:
    rewrite(manifest, change)
    with pytest.raises(DatasetError, match=says) as caught:
        Dataset("d")
    assert str(manifest) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tests_know_every_key(manifest: Path) -> None:
    assert {*KEYS, "format", "checksum"} == json.loads(manifest.read_bytes()).keys()


def test_unknown_keys_are_passed_over(manifest: Path) -> None:
    rewrite(manifest, put(a_later_key=[1]))
    assert Dataset("d").n_rows == 4


def test_a_source_may_be_older_than_1970_and_have_any_name(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/two\nlines \xff.svm"
    Path(os.fsdecode(odd)).write_bytes(TEXT)
    os.utime(odd, (-5, -5))
    made = load_libsvm(os.fsdecode(odd), "d")
    assert made.manifest.lineage["source"][0]["mtime_ns"] == -5_000_000_000
    assert load_libsvm(os.fsdecode(odd), "d").id == made.id


def test_every_kind_of_data_set_reads_back(source: Path, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "w.svm").write_bytes(b"1:2 1:nan\n0:0.1 2:1\n0 3:1\n")
    made = [
        load_libsvm(source, "d", hash_bits=32),
        load_libsvm(tmp_path / "w.svm", "w", label_weights=True, allow_nonfinite=True),
        load_criteo(data_dir / "criteo_300.tsv", "c", 5),
        normalize("c", "n"),
        load_libsvm(source, "one", positive_labels=[-1, 1]),
        load_libsvm(source, "wide", n_features=2**32 - 2),
    ]
    for dataset in made:
        assert Dataset(dataset.name).manifest == dataset.manifest
        dataset.verify()


# What only the rows can tell


def rows(name: str) -> None:
    for block in (dataset := Dataset(name)).blocks:
        dataset.read_block(block)


def test_a_manifest_of_other_blocks_is_found_out(manifest: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        body.update(rows=5, weight=5.0)
        body["shards"][0]["blocks"][0][2] += 1

    rewrite(manifest, change)
    with pytest.raises(BlockError, match=r"\.cfs at byte 0: .*not the one its manifest"):
        rows("d")


def test_a_manifest_too_narrow_for_its_rows_is_found_out(manifest: Path) -> None:
    rewrite(manifest, put(features=3))
    with pytest.raises(DatasetError, match="beyond the manifest's width"):
        rows("d")


def test_the_checksum_is_that_of_the_bytes_before_it(manifest: Path) -> None:
    raw = manifest.read_bytes()
    before, _, rest = raw.partition(b',\n "checksum": ')
    assert rest == b'"%08x"\n}\n' % _kernels.crc32c(before)
