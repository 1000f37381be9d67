"""Loads that break off, and the next of the same, which go on: on disk and in S3."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from unfinished_loads import N_ROWS, killed, make_small, objects, put, text

from cirrus_fast import Dataset, load_criteo, load_csr, load_libsvm, normalize, remove_dataset
from cirrus_fast.data import dataset_writer, loading
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.manifest import UNFINISHED
from cirrus_fast.data.storage import is_s3, open_storage
from cirrus_fast.errors import DatasetError, LibsvmParseError, StorageError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture(params=["disk", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Where data sets and text are."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        yield "s3://bucket/place"
    else:
        monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
        yield str(tmp_path / "place")


def load(source: str, target: str, **more: object) -> Dataset:
    return load_libsvm(source, target, label_weights=True, skip_bad_rows=True, **more)


def test_a_load_that_is_killed_again_and_again_makes_the_same_data_set(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = put(place, text())
    load(source, f"{place}/whole")
    expected = objects(f"{place}/whole")
    assert len(expected) > 40
    draw = random.Random(1)
    said, deaths = "", 0
    times = 4 if is_s3(place) else 1  # a file is written in more steps
    for _ in range(40):
        run = killed("load", source, f"{place}/killed", draw.randint(20, 200) // times)
        said += run.stderr
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
        deaths += 1
        if open_storage(f"{place}/killed").exists("manifest.json"):
            load(source, f"{place}/killed")  # removes what it was still to remove
            break
    else:
        pytest.fail("it gets nowhere")
    assert deaths > 1
    assert "goes on where a load broke off, " in said
    assert objects(f"{place}/killed") == expected
    Dataset(f"{place}/killed").verify()
    caplog.clear()
    load(source, f"{place}/killed")
    assert "killed: reused" in caplog.text


def test_a_normalize_that_is_killed_goes_on(place: str) -> None:
    raw = load(put(place, text()), f"{place}/raw")
    assert len(raw.manifest.shard_sizes) > 10
    normalize(f"{place}/raw", f"{place}/whole", "standard")
    normalize(f"{place}/raw", f"{place}/min_max")
    said = ""
    for left in (50, 40, 45, 10_000) if is_s3(place) else (60, 90, 100, 10_000):
        run = killed("normalize", f"{place}/raw", f"{place}/killed", left)
        assert run.returncode == (0 if left == 10_000 else -signal.SIGKILL), run.stderr
        said += run.stderr
    assert said.count("goes on where a load broke off") == 3
    assert objects(f"{place}/killed") == objects(f"{place}/min_max")


@contextmanager
def losing_storage(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """What is done here is done with a storage that is gone after so many shards."""
    left = after
    real = dataset_writer.UnitWriter.close

    def close(self: dataset_writer.UnitWriter) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise StorageError("it is gone")
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(dataset_writer.UnitWriter, "close", close)
        with pytest.raises(StorageError, match="it is gone"):
            yield


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """broken(source, target): a load that lost its storage half-way."""

    def lose(source: str, target: str) -> None:
        with losing_storage(monkeypatch, 25):
            load(source, target)

    return lose


def test_a_lost_connection_keeps_what_is_finished(
    place: str, broken: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    source = put(place, text())
    load(source, f"{place}/whole")
    broken(source, f"{place}/m")
    assert "the load broke off; " in caplog.text
    with pytest.raises(DatasetError, match=r"incomplete data set.*goes on where it broke off"):
        Dataset(f"{place}/m")
    progress: list[int] = []
    caplog.clear()
    load(source, f"{place}/m", on_progress=progress.append)
    assert "m: goes on where a load broke off, " in caplog.text
    assert progress == sorted(progress)
    assert progress[-1] == len(text())
    assert objects(f"{place}/m") == objects(f"{place}/whole")


@pytest.mark.parametrize("packed", [False, True])
def test_only_what_is_missing_is_read_again(
    place: str, broken: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    import gzip

    source = put(place, text())
    if packed:
        open_storage(place).write("rows.svm.gz", gzip.compress(text()))
        source += ".gz"
    load(source, f"{place}/whole")
    broken(source, f"{place}/m")
    parsed: list[int] = []
    real = loading.Encoder.encode

    def encode(self: loading.Encoder, *arguments: object, **more: object) -> loading.Encoded:
        found = real(self, *arguments, **more)
        parsed.append(found.sums.n_rows)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(loading.Encoder, "encode", encode)
        load(source, f"{place}/m")
    assert 0 < sum(parsed) < 0.7 * N_ROWS
    theirs = {k: v for k, v in objects(f"{place}/whole").items() if k != "manifest.json"}
    ours = {k: v for k, v in objects(f"{place}/m").items() if k != "manifest.json"}
    assert ours == theirs


@pytest.mark.parametrize("change", ["source", "options", "package", "overwrite"])
def test_another_source_begins_anew_and_says_so(
    place: str,
    broken: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
) -> None:
    source = put(place, text())
    broken(source, f"{place}/m")
    more: dict[str, object] = {}
    if change == "source":
        put(place, text(seed=6))
    elif change == "options":
        more["n_features"] = 60
    elif change == "package":
        monkeypatch.setattr("cirrus_fast.data.units.__version__", "0.0.0")
    else:
        more["overwrite"] = True
    caplog.clear()
    loaded = load(source, f"{place}/m", **more)
    why = "as overwrite=True asks" if change == "overwrite" else "it was of something else"
    assert caplog.text.count(f"what an unfinished load left is removed, {why}") == 1
    assert "goes on" not in caplog.text
    assert loaded.n_rows == N_ROWS - 1
    load(source, f"{place}/whole", **more)
    assert objects(f"{place}/m") == objects(f"{place}/whole")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "dictionary", "record", "header"])
def test_nothing_that_was_left_is_trusted(
    place: str,
    broken: Callable[[str, str], None],
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    source = put(place, text())
    load(source, f"{place}/whole")
    broken(source, f"{place}/m")
    folder = open_storage(f"{place}/m")
    stem = {"dictionary": "dictionary-", "record": "unit-", "header": UNFINISHED}
    name = next(n for n in folder.names() if n.startswith(stem.get(damage, "shard-")))
    raw = folder.read(name)
    if damage == "gone":
        folder.delete(name)
    else:
        flipped = raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]
        folder.write(name, raw[:-1] if damage == "cut" else flipped)
    caplog.clear()
    load(source, f"{place}/m")
    assert objects(f"{place}/m") == objects(f"{place}/whole")
    if damage in ("flipped", "cut", "gone"):
        assert "it begins anew" in caplog.text


def test_rows_at_fault_leave_nothing(place: str) -> None:
    lines = text().splitlines(keepends=True)
    lines[200], lines[500] = lines[0], b"1 5:x\n"
    source = put(place, b"".join(lines))
    with pytest.raises(LibsvmParseError, match="line 501"):
        load_libsvm(source, f"{place}/m", label_weights=True)
    assert open_storage(f"{place}/m").names() == []


def test_what_was_left_can_be_removed(place: str, broken: Callable[[str, str], None]) -> None:
    broken(put(place, text()), f"{place}/m")
    assert len(open_storage(f"{place}/m").names()) > 5
    remove_dataset(f"{place}/m")
    assert open_storage(f"{place}/m").names() == []


def test_a_data_set_that_was_to_be_replaced_is_tidied_when_it_is_used_again(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = put(place, text())
    load(source, f"{place}/m")
    before = objects(f"{place}/m")
    other = put(f"{place}/other", text(seed=7))
    monkeypatch.setattr(
        dataset_writer.DatasetWriter, "_remove_all", lambda self: self._writer.remove()
    )
    with losing_storage(monkeypatch, 9):  # as if it were killed
        load(other, f"{place}/m", overwrite=True)
    folder = open_storage(f"{place}/m")
    assert folder.exists(UNFINISHED)
    load(source, f"{place}/m")
    assert "m: what an unfinished load left is removed" in caplog.text
    assert len(folder.names()) == len(before)
    assert objects(f"{place}/m") == before


def test_the_same_bytes_from_disk_and_from_s3(s3: object, tmp_path: Path) -> None:
    (tmp_path / "rows.svm").write_bytes(text())
    source = put("s3://bucket/place", text())
    load(str(tmp_path / "rows.svm"), str(tmp_path / "m"))
    load(source, "s3://bucket/place/m")
    ours, theirs = objects(str(tmp_path / "m")), objects("s3://bucket/place/m")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name != "manifest.json")


def test_parts_of_an_upload_that_died_are_given_up(s3: object) -> None:
    from cirrus_fast.data.s3 import client

    source = put("s3://bucket/place", text())
    for key in ("place/m/shard-00000000-00000.cfs", "place/m/inner/other", "place/more"):
        client().create_multipart_upload(Bucket="bucket", Key=key)
    load(source, "s3://bucket/place/m")
    uploads = client().list_multipart_uploads(Bucket="bucket")["Uploads"]
    assert [upload["Key"] for upload in uploads] == ["place/m/inner/other", "place/more"]
    for upload in uploads:
        client().abort_multipart_upload(
            Bucket="bucket", Key=upload["Key"], UploadId=upload["UploadId"]
        )


def test_criteo_rows_go_on_in_the_midst_of_a_file(
    place: str, data_dir: Path, broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage(place).write("rows.tsv", (data_dir / "criteo_300.tsv").read_bytes() * 2)
    load_criteo(f"{place}/rows.tsv", f"{place}/whole")
    monkeypatch.setattr(
        sys.modules[__name__], "load", lambda source, target: load_criteo(source, target)
    )
    broken(f"{place}/rows.tsv", f"{place}/m")
    load_criteo(f"{place}/rows.tsv", f"{place}/m")
    assert objects(f"{place}/m") == objects(f"{place}/whole")


def test_many_small_files_share_shards(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.svm").write_bytes(text(9, seed=number))
    loaded = load(str(tmp_path / "*.svm"), str(tmp_path / "m"))
    assert loaded.n_rows == 40 * 8
    (tmp_path / "all.txt").write_bytes(
        b"".join((tmp_path / f"{number:02}.svm").read_bytes() for number in range(40))
    )
    n_bytes = (tmp_path / "all.txt").stat().st_size
    assert len({int(name[15:-4]) // 100 for name in loaded.manifest.shard_sizes}) == -(
        -n_bytes // 2048
    )
    whole = load(str(tmp_path / "all.txt"), str(tmp_path / "whole"))
    for ours, theirs in zip(_rows(loaded), _rows(whole), strict=True):
        assert np.array_equal(ours, theirs)


def _rows(dataset: Dataset) -> tuple[np.ndarray, ...]:
    parts = list(iterate(dataset))
    return tuple(
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("labels", "indices", "data")
    )


def test_arrays_are_never_taken_for_those_of_before(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirrus_fast.preprocessing._UNIT_ENTRIES", 50)
    X = np.random.default_rng(1).random((300, 4))
    y = np.arange(300) % 2
    with losing_storage(monkeypatch, 9):
        load_csr(X, y, f"{place}/m")
    assert open_storage(f"{place}/m").names() == []


def test_storage_is_not_asked_for_more_than_before_where_little_is_loaded(s3: object) -> None:
    source = put("s3://bucket/place", text(20))
    del s3.application.requests[:]  # type: ignore[attr-defined]
    load(source, "s3://bucket/place/m")
    asked = [path for _, path, _ in s3.application.requests]  # type: ignore[attr-defined]
    assert not [path for path in asked if "/unit-" in path]
