"""Files of the user's choosing: models, generated text, predictions."""

import os
from pathlib import Path
from threading import Thread

import pytest

from cirrus_fast.data.storage import file_writer, write_file
from cirrus_fast.errors import StorageError


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
