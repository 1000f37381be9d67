"""One writer at a time in a data set's folder."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast import Dataset, load_csr, load_libsvm, normalize
from cirrus_fast.data import lock as locks
from cirrus_fast.data.dataset import list_datasets, remove_dataset
from cirrus_fast.data.lock import LOCK, Holder, Lock
from cirrus_fast.data.storage import FileStorage
from cirrus_fast.errors import DatasetError, StorageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.svm"
    path.write_bytes(b"1 1:1\n0 2:1\n" * 300)
    return path


@pytest.fixture
def folder(storage_root: Path) -> FileStorage:
    """Where the data set "d" lies."""
    return FileStorage(storage_root / "d")


def lock_of(folder: FileStorage) -> Path:
    return folder.folder / LOCK


def leave(folder: FileStorage, holder: Holder | bytes) -> Path:
    """A lock as another process would have left it."""
    folder.folder.mkdir(parents=True, exist_ok=True)
    path = lock_of(folder)
    path.write_bytes(holder if isinstance(holder, bytes) else holder.to_bytes())
    return path


def me(**fields: object) -> Holder:
    return replace(Holder.this_process(), **fields)  # type: ignore[arg-type]


def elsewhere(hours: float) -> Holder:
    since = datetime.now(UTC) - timedelta(hours=hours)
    return me(host="other", since=since.isoformat(timespec="seconds"))


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


# Loads


def test_a_second_load_of_a_name_is_refused_at_once(source: Path, folder: FileStorage) -> None:
    second: list[str] = []

    def load_again(_done: int) -> None:
        for overwrite in (False, True):
            with pytest.raises(DatasetError, match=r"^d: is being written by process") as caught:
                load_csr(np.eye(2), [0, 1], "d", overwrite=overwrite)
            second.append(str(caught.value))

    loaded = load_libsvm(source, "d", on_progress=load_again)
    assert loaded.n_rows == 600
    assert f"process {os.getpid()} since 20" in second[0]
    assert second[0].endswith("try again when that is done")
    assert "\n" not in second[0]
    assert not lock_of(folder).exists()


@pytest.mark.usefixtures("folder")
def test_replacing_scaling_and_removing_respect_a_load(source: Path) -> None:
    load_libsvm(source, "d")
    load_csr(np.eye(2), [0, 1], "other")

    def disturb(_done: int) -> None:
        for act in (
            lambda: remove_dataset("d"),
            lambda: normalize("other", "d", overwrite=True),
            lambda: load_libsvm(source, "d", n_features=7, overwrite=True),
        ):
            with pytest.raises(DatasetError, match=r"^d: is being written by process"):
                act()
        # Readers see the data set that is about to be replaced.
        old = Dataset("d")
        assert old.read_block(old.blocks[0]).n_rows == 600
        assert load_libsvm(source, "d").id == old.id
        assert list_datasets() == ["d", "other"]

    loaded = load_libsvm(source, "d", n_features=9, overwrite=True, on_progress=disturb)
    assert Dataset("d").id == loaded.id
    remove_dataset("d")
    assert list_datasets() == ["other"]


@pytest.mark.usefixtures("folder")
def test_a_data_set_on_its_way_says_so_to_readers(source: Path) -> None:
    def read(_done: int) -> None:
        with pytest.raises(DatasetError, match=r"^d: is being written by process"):
            Dataset("d")
        assert list_datasets() == []

    load_libsvm(source, "d", on_progress=read)


@pytest.mark.usefixtures("folder")
def test_of_many_loads_at_once_one_is_done_and_nothing_is_left(source: Path) -> None:
    outcomes: list[str] = []

    def load(width: int) -> None:
        try:
            load_libsvm(source, "d", n_features=width, overwrite=True)
            outcomes.append("done")
        except DatasetError as error:
            outcomes.append(str(error))

    together(lambda i: load(10 + i))
    assert "done" in outcomes
    assert all(text == "done" or text.startswith("d: ") for text in outcomes)
    Dataset("d").verify()
    assert len(list(Path(Dataset("d").uri).iterdir())) == 4


def test_a_data_set_made_since_the_caller_looked_is_not_replaced(
    source: Path, folder: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lock.acquire

    def late(self: Lock) -> None:
        monkeypatch.setattr(Lock, "acquire", real)
        load_csr(np.eye(2), [0, 1], "d")
        real(self)

    monkeypatch.setattr(Lock, "acquire", late)
    with pytest.raises(DatasetError, match="d: a data set of this name was made meanwhile"):
        load_libsvm(source, "d")
    assert Dataset("d").n_rows == 2
    assert not lock_of(folder).exists()


_LOAD = """
import sys, time
from cirrus_fast import load_libsvm
def wait(_done):
    print("loading", flush=True)
    time.sleep(600)
load_libsvm(sys.argv[1], sys.argv[2], n_features=3, overwrite=True, on_progress=wait)
"""


@contextmanager
def loading(source: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a load."""
    package_parent = str(Path(cirrus_fast.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _LOAD, str(source), name],
        env={**os.environ, "PYTHONPATH": package_parent},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "loading\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("reaped", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_load_of_another_process_counts_until_it_is_killed(
    source: Path, folder: FileStorage, there: bool, reaped: bool
) -> None:
    if there:
        load_libsvm(source, "d")
    with loading(source, folder.uri) as process:
        busy = f"d: is being written by process {process.pid} since"
        for act in (
            lambda: load_libsvm(source, "d", n_features=5, overwrite=True),
            lambda: remove_dataset("d"),
        ):
            with pytest.raises(DatasetError, match=busy):
                act()
        if there:
            assert Dataset("d").n_rows == 600
        os.kill(process.pid, signal.SIGKILL)
        if reaped:
            process.wait()
        else:  # a dead process that its parent has not asked about yet
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if there:
            assert Dataset("d").n_rows == 600
        else:
            with pytest.raises(DatasetError, match="d: incomplete data set"):
                Dataset("d")
        assert load_libsvm(source, "d", n_features=5, overwrite=True).n_features == 5
    assert len(folder.names()) == 4  # and no remains of the killed one


def test_what_a_killed_load_left_can_be_removed(source: Path, folder: FileStorage) -> None:
    with loading(source, folder.uri) as process:
        process.kill()
        process.wait()
    assert LOCK in folder.names()
    remove_dataset("d")
    assert not folder.folder.exists()


def test_an_interrupted_load_lets_the_next_one_in(source: Path, folder: FileStorage) -> None:
    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_libsvm(source, "d", on_progress=interrupt)
    assert not folder.folder.exists()
    load_libsvm(source, "d")


# The lock


def test_a_lock_says_who_holds_it(folder: FileStorage) -> None:
    with Lock(folder, "d"):
        body = json.loads(lock_of(folder).read_bytes())
        assert body["format"] == "cirrus_fast lock"
        assert (body["pid"], body["host"]) == (os.getpid(), os.uname().nodename)
        with pytest.raises(DatasetError, match="is being written"), Lock(folder, "d"):
            pass
        assert json.loads(lock_of(folder).read_bytes()) == body
    assert not folder.folder.exists()


@pytest.mark.parametrize("kind", ["dead", "number used again", "before the machine started again"])
def test_a_lock_of_a_dead_process_is_taken_over(folder: FileStorage, kind: str, dead: int) -> None:
    holder = {
        "dead": me(pid=dead),
        "number used again": me(started=me().started + 1),
        "before the machine started again": me(boot="another"),
    }[kind]
    path = leave(folder, holder)
    with Lock(folder, "d"):
        assert Holder.from_bytes(path.read_bytes()) != holder
    assert not path.exists()


@pytest.mark.parametrize(
    "holder",
    [
        me(),
        me(started=0),
        me(pid=1, started=0),
        me(pid_space="of a container", pid=2**22 - 1),
        elsewhere(0),
        elsewhere(5),
        elsewhere(-1),  # whose clock is ahead
    ],
)
def test_a_lock_of_a_process_that_may_live_is_respected(
    folder: FileStorage, holder: Holder
) -> None:
    path = leave(folder, holder)
    with pytest.raises(DatasetError, match="try again when that is done"), Lock(folder, "d"):
        pass
    assert path.read_bytes() == holder.to_bytes()


def test_a_lock_that_cannot_be_compared_in_time_is_judged_by_the_number_alone(
    folder: FileStorage, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no /proc."""
    monkeypatch.setattr(locks.Path, "read_bytes", _not_there)
    assert me(started=0).started == 0
    assert not me(started=0).is_gone()
    assert not me(started=7).is_gone()
    assert me(pid=dead).is_gone()
    monkeypatch.undo()
    assert folder.names() == []


def _not_there(path: Path) -> bytes:
    raise FileNotFoundError(errno.ENOENT, "no such file", str(path))


def test_an_old_lock_from_elsewhere_says_what_to_do(folder: FileStorage) -> None:
    path = leave(folder, elsewhere(30))
    with pytest.raises(DatasetError) as caught, Lock(folder, "d"):
        pass
    assert str(caught.value).startswith(
        f"d: is being written by process {os.getpid()} on other since"
    )
    assert str(caught.value).endswith(f"; if that is no longer so, delete {path}")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"format": "cirrus_fast lock"}',
        me().to_bytes()[:-9],
        me(pid="1").to_bytes(),
        me(host=None).to_bytes(),
        me(host="two\nlines").to_bytes(),
        me(since="yesterday").to_bytes(),
        me(since="2026-01-01").to_bytes(),
        me(since=5).to_bytes(),
    ],
)
def test_a_lock_that_cannot_be_read_is_respected_and_named(folder: FileStorage, raw: bytes) -> None:
    path = leave(folder, raw)
    with pytest.raises(DatasetError) as caught, Lock(folder, "d"):
        pass
    assert str(caught.value).startswith("d: is locked")
    assert str(caught.value).endswith(f"delete {path}")
    assert path.read_bytes() == raw


def test_a_lock_deleted_by_hand_is_not_taken_from_the_next_holder(folder: FileStorage) -> None:
    first = Lock(folder, "d")
    first.acquire()
    lock_of(folder).unlink()
    with Lock(folder, "d"):
        held = lock_of(folder).read_bytes()
        first.release()
        assert lock_of(folder).read_bytes() == held


def together(work: Callable[[int], object], n: int = 6) -> None:
    """work(0) .. work(n - 1) at the same time."""
    threads = [Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("repeat", range(20))
def test_of_many_that_find_a_dead_lock_one_takes_it_over(
    folder: FileStorage, dead: int, repeat: int
) -> None:
    leave(folder, me(pid=dead, token=str(repeat)))
    inside: list[int] = []
    most: list[int] = []
    refused: list[int] = []

    def enter(i: int) -> None:
        try:
            with Lock(folder, "d"):
                inside.append(i)
                time.sleep(0.001)
                most.append(len(inside))
                inside.remove(i)
        except DatasetError:
            refused.append(i)

    together(enter)
    assert max(most) == 1
    assert len(most) + len(refused) == 6
    assert not folder.folder.exists()


# What it is made with


def test_create_writes_only_where_nothing_is(folder: FileStorage) -> None:
    assert folder.create("object", b"first")
    assert not folder.create("object", b"second")
    assert folder.read("object") == b"first"
    assert folder.names() == ["object"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_create_does_without_links(
    folder: FileStorage, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_links(_self: Path, _target: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    test_create_writes_only_where_nothing_is(folder)


def test_create_without_links_leaves_no_half_object(
    folder: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_self: Path, *_args: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(Path, "hardlink_to", fails)
    monkeypatch.setattr(Path, "read_bytes", fails)  # as the disk is full once the file is made
    with pytest.raises(StorageError, match="object"):
        folder.create("object", b"first")
    assert folder.names() == []


def test_create_names_what_it_could_not_write(
    folder: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "hardlink_to", full)
    with pytest.raises(StorageError, match=r"No space left on device.*object"):
        folder.create("object", b"first")
    assert folder.names() == []


def test_replace_writes_only_over_what_was_expected(folder: FileStorage) -> None:
    assert not folder.replace("object", b"", b"new")
    folder.write("object", b"old")
    assert not folder.replace("object", b"other", b"new")
    assert folder.read("object") == b"old"
    assert folder.replace("object", b"old", b"new")
    assert folder.read("object") == b"new"
    assert folder.names() == ["object"]


@pytest.mark.parametrize("repeat", range(20))
def test_of_many_that_replace_the_same_one_does(folder: FileStorage, repeat: int) -> None:
    folder.write("object", b"old")
    done: list[bool] = []
    together(lambda i: done.append(folder.replace("object", b"old", b"%d %d" % (i, repeat))))
    assert sum(done) == 1
    assert folder.read("object").endswith(b" %d" % repeat)


@pytest.mark.parametrize("repeat", range(20))
def test_of_many_that_create_the_same_one_does(folder: FileStorage, repeat: int) -> None:
    done: list[bool] = []
    together(lambda i: done.append(folder.create("object", b"%d %d" % (i, repeat))))
    assert sum(done) == 1
    assert folder.names() == ["object"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        load_libsvm(source, f"{tmp_path}/file/d")
