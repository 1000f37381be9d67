"""Loads and scalings made by workers: the same bytes as made here, from disk and from S3."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from unfinished_loads import SMALL, killed, make_small, objects, put, text

from cirrus_fast import Dataset, load_criteo, load_libsvm, normalize
from cirrus_fast.data import sources
from cirrus_fast.data.manifest import UNFINISHED
from cirrus_fast.data.storage import open_storage
from cirrus_fast.errors import (
    DatasetError,
    LibsvmParseError,
    OptionError,
    TrainingError,
    WorkerDiedError,
)
from cirrus_fast.runtime.tasks import run_task

OPTIONS = {"label_weights": True, "skip_bad_rows": True}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, here and in worker processes."""
    make_small(monkeypatch)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SMALL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


@pytest.fixture(params=["disk", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "s3":
        request.getfixturevalue("s3")
        yield "s3://bucket/place"
    else:
        monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
        yield str(tmp_path / "place")


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.fixture
def few_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a process of its own, which takes a while to start."""
    monkeypatch.setattr(sources, "UNIT_BYTES", 8192)
    monkeypatch.setenv("UNIT_BYTES", "8192")


@pytest.mark.usefixtures("few_units")
def test_worker_processes_load_and_scale_s3_to_s3(s3: object) -> None:
    place = "s3://bucket/place"
    source = put(place, text())
    load_libsvm(source, f"{place}/here", **OPTIONS)
    loaded = load_libsvm(source, f"{place}/there", executor="processes", n_threads=2, **OPTIONS)
    assert objects(f"{place}/there") == objects(f"{place}/here")
    loaded.verify()
    normalize(f"{place}/here", f"{place}/scaled", "standard")
    normalize(f"{place}/there", f"{place}/scaled there", "standard", executor="processes")
    ours, theirs = objects(f"{place}/scaled there"), objects(f"{place}/scaled")
    assert {n: r for n, r in ours.items() if n != "manifest.json"} == {
        n: r for n, r in theirs.items() if n != "manifest.json"
    }


def test_any_executor_makes_the_same_bytes(place: str, threads: Executor) -> None:
    source = put(place, text())
    seen: list[int] = []
    load_libsvm(source, f"{place}/here", **OPTIONS)
    load_libsvm(
        source, f"{place}/there", executor=threads, on_progress=seen.append, **OPTIONS
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1] == len(text())
    assert objects(f"{place}/there") == objects(f"{place}/here")
    assert open_storage(f"{place}/there").exists("manifest.json")


@pytest.mark.parametrize("scaling", ["min_max", "standard"])
def test_scaling_that_has_to_look_at_the_columns_too(
    place: str, threads: Executor, scaling: str
) -> None:
    lines = [f"{i % 2} 1:{i + 3} 2:{(i * 7) % 5 - 2}\n" for i in range(400)]  # all rows have both
    source = put(place, "".join(lines).encode())
    load_libsvm(source, f"{place}/raw")
    normalize(f"{place}/raw", f"{place}/here", scaling)
    normalize(f"{place}/raw", f"{place}/there", scaling, executor=threads)
    assert objects(f"{place}/there") == objects(f"{place}/here")


def test_many_files_in_order(place: str, threads: Executor) -> None:
    folder = open_storage(place)
    for number in range(30):
        folder.write(f"{number:02}.svm", text(9 + number, seed=number))
    load_libsvm(f"{place}/*.svm", f"{place}/here", **OPTIONS)
    load_libsvm(f"{place}/*.svm", f"{place}/there", executor=threads, **OPTIONS)
    assert objects(f"{place}/there") == objects(f"{place}/here")


def test_criteo_rows(place: str, data_dir: Path, threads: Executor) -> None:
    open_storage(place).write("rows.tsv", (data_dir / "criteo_300.tsv").read_bytes() * 2)
    load_criteo(f"{place}/rows.tsv", f"{place}/here")
    load_criteo(f"{place}/rows.tsv", f"{place}/there", executor=threads)
    assert objects(f"{place}/there") == objects(f"{place}/here")


class _Dying(ThreadPoolExecutor):
    """Tasks with these numbers die, once they are done or before they begin."""

    def __init__(self, deaths: list[tuple[int, bool]]) -> None:
        super().__init__(2)
        self.deaths = deaths
        self.kinds: list[str] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        def run() -> Any:
            task = json.loads(args[0])
            self.kinds.append(task["kind"])
            for afterwards in (False, True):
                if (task.get("number"), afterwards) in self.deaths:
                    self.deaths.remove((task["number"], afterwards))
                    if afterwards:
                        fn(*args)
                    raise WorkerDiedError("a worker process died (signal SIGKILL)")
            return fn(*args)

        return super().submit(run)


class _Refusing(_Dying):
    """After some units there are no more workers."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if json.loads(args[0]).get("number") == 6:
            raise OSError("no more workers")
        return super().submit(fn, *args, **kwargs)


def test_a_dead_workers_part_is_done_by_another(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = put(place, text())
    load_libsvm(source, f"{place}/here", **OPTIONS)
    with _Dying([(2, False), (5, True), (5, False)]) as executor:
        load_libsvm(source, f"{place}/there", executor=executor, **OPTIONS)
    assert caplog.text.count("another does its part") == 3
    assert objects(f"{place}/there") == objects(f"{place}/here")


@pytest.mark.parametrize("goes_on", ["there", "here"])
def test_what_workers_have_made_is_used_again(
    place: str, caplog: pytest.LogCaptureFixture, goes_on: str
) -> None:
    source = put(place, text())
    load_libsvm(source, f"{place}/here", **OPTIONS)
    with _Refusing([]) as executor, pytest.raises(OSError, match="no more workers"):
        load_libsvm(source, f"{place}/there", executor=executor, n_threads=2, **OPTIONS)
    assert "rows are kept, and the same load goes on" in caplog.text
    assert open_storage(f"{place}/there").exists(UNFINISHED)
    caplog.clear()
    with _Dying([]) as executor:
        more: dict[str, Any] = {"executor": executor} if goes_on == "there" else {}
        load_libsvm(source, f"{place}/there", **OPTIONS, **more)
    assert "goes on where a load broke off" in caplog.text
    if goes_on == "there":
        assert executor.kinds.count("look again") >= 4
        assert executor.kinds.count("make dictionary") == 0
    assert objects(f"{place}/there") == objects(f"{place}/here")


def test_a_damaged_part_begins_anew(place: str, caplog: pytest.LogCaptureFixture) -> None:
    source = put(place, text())
    load_libsvm(source, f"{place}/here", **OPTIONS)
    with _Refusing([]) as executor, pytest.raises(OSError, match="no more workers"):
        load_libsvm(source, f"{place}/there", executor=executor, n_threads=2, **OPTIONS)
    folder = open_storage(f"{place}/there")
    shard = next(name for name in folder.names() if name.startswith("shard-"))
    folder.write(shard, folder.read(shard)[:-1] + b"?")
    with _Dying([]) as executor:
        load_libsvm(source, f"{place}/there", executor=executor, **OPTIONS)
    assert "is damaged; it begins anew" in caplog.text
    assert objects(f"{place}/there") == objects(f"{place}/here")


def test_a_row_at_fault_is_named_and_nothing_is_left(place: str, threads: Executor) -> None:
    lines = text().splitlines(keepends=True)
    lines[200], lines[500] = lines[0], b"1 5:x\n"
    source = put(place, b"".join(lines))
    at = len(b"".join(lines[:500]))
    with pytest.raises(LibsvmParseError, match=f"rows.svm: .*byte {at + 4}") as caught:
        load_libsvm(source, f"{place}/m", executor=threads, label_weights=True)
    assert caught.value.line == (None if place.startswith("s3:") else 501)
    assert open_storage(f"{place}/m").names() == []


def test_an_index_that_only_the_end_refuses(place: str, threads: Executor) -> None:
    lines = [f"{i % 2} 1:1 7:1\n" for i in range(400)]
    lines[300] = "1 0:1 9:1\n"  # so ids begin at 0, and there is no id 9
    with pytest.raises(LibsvmParseError, match="line 301") as caught:
        load_libsvm(put(place, "".join(lines).encode()), f"{place}/m", n_features=9,
                    executor=threads)  # fmt: skip
    assert caught.value.line == 301


def test_a_source_that_changes_is_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put(place, text())

    class Changing(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if json.loads(args[0]).get("number") == 3:
                put(place, text(seed=9))
            return super().submit(fn, *args, **kwargs)

    with Changing(1) as executor, pytest.raises(DatasetError, match="changed while it was read"):
        load_libsvm(source, f"{place}/m", executor=executor, n_threads=1, **OPTIONS)
    assert open_storage(f"{place}/m").names() == []


def test_what_cannot_be_cut_is_refused(tmp_path: Path, threads: Executor) -> None:
    import gzip

    (tmp_path / "rows.svm.gz").write_bytes(gzip.compress(text()))
    with pytest.raises(DatasetError, match=r"rows\.svm\.gz: .*cannot be cut into parts"):
        load_libsvm(tmp_path / "rows.svm.gz", str(tmp_path / "m"), executor=threads)
    with pytest.raises(OptionError, match='give "local", "processes", "lambda" or'):
        load_libsvm(tmp_path / "rows.svm.gz", str(tmp_path / "m"), executor="threads")


def test_a_task_of_another_kind_is_refused() -> None:
    with pytest.raises(TrainingError, match="unknown kind of task 'bake'"):
        run_task('{"kind": "bake"}')
    with pytest.raises(TrainingError, match="wrong fields"):
        run_task('{"kind": "train"}')
    with pytest.raises(TrainingError, match=r"are of version 0\.0\.0, this worker of"):
        run_task('{"kind": "load unit", "version": "0.0.0"}')


@pytest.mark.usefixtures("few_units")
def test_a_program_that_dies_while_processes_load_goes_on(s3: object, tmp_path: Path) -> None:
    place = "s3://bucket/place"
    source = put(place, text())
    load_libsvm(source, f"{place}/here", **OPTIONS)
    run = killed("processes", source, f"{place}/there", 3000)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert not open_storage(f"{place}/there").exists("manifest.json")
    load_libsvm(source, f"{place}/there", executor="processes", **OPTIONS)
    assert objects(f"{place}/there") == objects(f"{place}/here")
    assert Dataset(f"{place}/there").n_rows == 599
