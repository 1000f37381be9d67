"""Files of the user's choosing: models, generated text, predictions."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast.cli.output import check_folder, refuse_existing
from cirrus_fast.data.storage import file_writer, write_file
from cirrus_fast.demo import prepare_demo
from cirrus_fast.errors import CirrusFastError, DatasetError, StorageError


def test_keeps_a_symbolic_link_and_writes_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_writes_into_a_pipe_and_leaves_it_there(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, b"rows")
    reader.join(timeout=10)
    assert read == [b"rows"]
    assert pipe.is_fifo()


def test_leaves_nothing_behind_when_aborted(tmp_path: Path) -> None:
    writer = file_writer(tmp_path / "model.npz")
    writer.write(b"half")
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=tmp_path.name):
        write_file(tmp_path, b"")


@pytest.mark.parametrize(
    "use",
    [
        lambda uri: write_file(uri, b"x"),
        check_folder,
        prepare_demo,
        lambda uri: cirrus_fast.make_clicks(uri, 10),
        lambda uri: cirrus_fast.export_libsvm("d", uri),
    ],
)
def test_what_lies_on_disk_only_is_not_put_in_s3(
    use: Callable[[str], object], storage_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage_root.mkdir()
    cirrus_fast.load_csr(np.eye(4), [0, 1, 0, 1], "d")
    monkeypatch.chdir(storage_root.parent)
    before = sorted(storage_root.parent.iterdir())
    for scheme in ("s3", "S3", "gs"):
        with pytest.raises(StorageError, match=rf"{scheme}://b/m\.npz: must be on disk"):
            use(f"{scheme}://b/m.npz")
    assert sorted(storage_root.parent.iterdir()) == before


def test_a_file_uri_is_the_path_behind_it(storage_root: Path, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/a%20b.svm"
    check_folder(uri)
    cirrus_fast.load_csr(np.eye(4), [0, 1, 0, 1], "d")
    cirrus_fast.export_libsvm("d", uri)
    assert (tmp_path / "a b.svm").read_bytes().count(b"\n") == 4
    with pytest.raises(DatasetError, match="exists"):
        cirrus_fast.export_libsvm("d", uri)
    with pytest.raises(CirrusFastError, match="exists"):
        refuse_existing(uri, overwrite=False)
