"""The folder of named objects that data sets live in."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

import cirrus_fast
from cirrus_fast.data import storage as storage_module
from cirrus_fast.data.storage import (
    FileStorage,
    local_path,
    open_storage,
    resolve,
    storage_root,
    write_file,
)
from cirrus_fast.errors import CirrusFastError, StorageError


@pytest.fixture
def folder(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "folder")


def test_bare_names_lie_under_the_configured_root_then_the_environment_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CIRRUS_FAST_STORAGE", raising=False)
    cirrus_fast.configure(storage=None)
    assert resolve("clicks") == "cirrus_data/clicks"
    monkeypatch.setenv("CIRRUS_FAST_STORAGE", "/from/environment")
    assert resolve("clicks") == "/from/environment/clicks"
    cirrus_fast.configure(storage="/configured/")
    try:
        assert storage_root() == "/configured/"
        assert resolve("clicks") == "/configured/clicks"
    finally:
        cirrus_fast.configure(storage=None)
    assert resolve("clicks") == "/from/environment/clicks"


@pytest.mark.parametrize("name", ["./clicks", "/absolute/clicks", "file:///absolute/clicks"])
def test_names_with_a_slash_are_paths_of_their_own(name: str) -> None:
    assert resolve(name) == name


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_would_be_the_root_or_its_parent_are_refused(name: str) -> None:
    with pytest.raises(StorageError, match="not a data set name"):
        resolve(name)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3:///clicks", "give s3://bucket/prefix"),
        ("gs://bucket/clicks", "unknown storage scheme gs://"),
        ("file://elsewhere/clicks", "of another host"),
    ],
)
def test_storage_that_is_not_there_is_refused_by_name(uri: str, says: str) -> None:
    with pytest.raises(StorageError, match=says) as caught:
        open_storage(resolve(uri))
    assert uri in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, CirrusFastError)


def test_configure_refuses_a_root_that_no_storage_serves() -> None:
    with pytest.raises(StorageError, match="gs://"):
        cirrus_fast.configure(storage="gs://bucket")
    assert storage_module._configured_root is None


def test_file_uris_are_unquoted() -> None:
    assert local_path("file:///a%20b/c") == Path("/a b/c")
    assert local_path("file://localhost/a") == Path("/a")


def test_what_is_written_is_read_back_whole_and_in_ranges(folder: FileStorage) -> None:
    folder.write("object", b"0123456789")
    assert folder.read("object") == b"0123456789"
    out = memoryview(bytearray(4))
    folder.read_into("object", 3, out)
    assert out == b"3456"
    folder.read_into("object", 10, out[:0])
    assert folder.names() == ["object"]
    assert folder.exists("object")
    folder.delete("object")
    folder.delete("object")  # once more does no harm
    assert not folder.exists("object")


def test_a_range_beyond_the_end_says_that_the_file_was_cut_short(folder: FileStorage) -> None:
    folder.write("object", b"0123456789")
    with pytest.raises(StorageError, match=r"object: 4 bytes at 8 .* 2 are there.*cut short"):
        folder.read_into("object", 8, memoryview(bytearray(4)))


def test_reading_what_is_not_there_names_it(folder: FileStorage) -> None:
    for read in (
        lambda: folder.read("absent"),
        lambda: folder.read_into("absent", 0, memoryview(bytearray(1))),
    ):
        with pytest.raises(StorageError, match="absent") as caught:
            read()
        assert caught.value.errno == errno.ENOENT
    assert folder.names() == []
    assert folder.folders() == []


def test_an_object_appears_at_commit_and_not_before(folder: FileStorage) -> None:
    folder.write("object", b"old")
    writer = folder.writer("object")
    writer.write(b"new, and long enough to be flushed" * 10_000)
    assert folder.read("object") == b"old"
    writer.commit()
    assert folder.read("object").startswith(b"new")
    assert folder.names() == ["object"]


def test_an_aborted_object_leaves_nothing_and_keeps_the_old_one(folder: FileStorage) -> None:
    folder.write("object", b"old")
    writer = folder.writer("object")
    writer.write(b"new")
    writer.abort()
    assert folder.read("object") == b"old"
    assert folder.names() == ["object"]


def test_a_failing_write_leaves_nothing_and_keeps_the_old_object(
    folder: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("object", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        folder.write("object", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert str(folder.folder / "object") in str(caught.value)
    assert folder.names() == ["object"]
    assert folder.read("object") == b"old"


def test_objects_are_as_readable_as_other_files_of_the_user(folder: FileStorage) -> None:
    before = os.umask(0o027)
    try:
        folder.write("object", b"x")
        assert os.umask(0o027) == 0o027  # and the mask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder.folder / "object").stat().st_mode) == 0o640


def test_removing_a_folder_removes_only_an_empty_one(folder: FileStorage) -> None:
    folder.remove_folder()  # not there: nothing to do
    inner = folder.folder / "inner"
    inner.mkdir(parents=True)
    folder.remove_folder()
    assert inner.is_dir()
    inner.rmdir()
    folder.remove_folder()
    assert not folder.folder.exists()


def test_a_folder_in_the_way_of_an_object_is_named(folder: FileStorage) -> None:
    (folder.folder / "object").mkdir(parents=True)
    with pytest.raises(StorageError, match="object"):
        folder.write("object", b"x")
    assert folder.names() == []


def test_write_file_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    write_file(tmp_path / "new folder" / "file", b"x")
    assert (tmp_path / "new folder" / "file").read_bytes() == b"x"
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(StorageError, match="plain"):
        write_file(tmp_path / "plain" / "file", b"x")
