"""Taking rows out of S3, from a plain port to ours, over one link, by one worker and by ten.

Each worker is a process of its own (readers.py), which learns from what it reads. Before anything
is timed, the rows of each way of reading are compared with the text's, over no link.
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import data, ours
from bench.conftest import SECONDS, told
from bench.link import Link
from bench.objects import served, speak_to
from bench.readers import BUCKET, LONG, SET, TEXT, Outcome, Task
from bench.reads import multiply
from cirrus_fast.data.csr import CSR

pytest.importorskip("boto3")

ROOT = Path(__file__).parents[1]
RATE, ROUND_TRIP_S = 75e6, 0.030
_ROUNDS, _MANY = (1, 2) if SECONDS < 1 else (3, 10)
# The mini-batch of the port; more would be a bother to wait for.
_BATCH_ROWS, _BATCHES = 1000, 200
_CHUNK_ROWS = 16_384
# A worker that learns from no more rows a second than this needs less than the link gives.
_PACE = 1e6
# Beginning and ending cost the same however many rows there are: so often over, they are few.
_TIMES = 5

LADDER = {
    "text objects": f"a text object for each mini-batch of {_BATCH_ROWS} (boto3)",
    "text stream": "one stream of text (boto3)",
    "pickles": f"pickled arrays of {_CHUNK_ROWS} rows (boto3)",
    "npz": f"np.savez_compressed of {_CHUNK_ROWS} rows (boto3)",
    "blocks": "cirrus_fast, blocks one by one",
    "ahead": "cirrus_fast, read ahead",
    "long": f"cirrus_fast, read ahead, the rows {_TIMES} times over",
    "cached": "cirrus_fast, second epoch",
}


@dataclass(frozen=True, slots=True)
class Store:
    """Where the rows are, in each shape."""

    address: str
    rows: CSR
    zero_based: bool
    places: dict[str, list[Any]]

    def task(self, reader: str, worker: int, n_workers: int) -> Task:
        places = self.places.get(reader, [])
        name = LONG if reader == "long" else SET
        if reader == "text stream":
            mine = self._part(worker, n_workers)
        else:
            mine = places[worker::n_workers]
        return Task(reader, worker, n_workers, mine, self.rows.n_features, self.zero_based, name)

    def _part(self, worker: int, n_workers: int) -> list[int]:
        """Bytes of the text, cut where a row ends."""
        text = data.mapped(data.train_path())
        cuts = [0, *(len(text) * i // n_workers for i in range(1, n_workers)), len(text)]
        cuts[1:-1] = [text.find(b"\n", cut) + 1 for cut in cuts[1:-1]]
        return cuts[worker : worker + 2]

    def rows_of(self, reader: str) -> CSR:
        """What it reads, but for how often."""
        few = _BATCH_ROWS * _BATCHES
        return data.first(self.rows, few) if reader == "text objects" else self.rows

    def n_rows(self, reader: str) -> int:
        return self.rows_of(reader).n_rows * (_TIMES if reader == "long" else 1)


@pytest.fixture(scope="module")
def store(datasets: tuple[str, str]) -> Iterator[Store]:
    root = data.folder() / "objects"
    bucket = root / BUCKET
    if not bucket.exists():
        shutil.rmtree(root, ignore_errors=True)
        unfinished = root / "unfinished"
        unfinished.mkdir(parents=True)
        (unfinished / TEXT).symlink_to(data.train_path().absolute())
        _write_batches(unfinished)
        _write_chunks(unfinished)
        unfinished.rename(bucket)
    shutil.rmtree(bucket / "set", ignore_errors=True)
    shutil.rmtree(bucket / "long", ignore_errors=True)
    shutil.copytree(datasets[0], bucket / "set")
    multiply(bucket / "set", bucket / "long", _TIMES)
    places = {
        reader: sorted(path.name for path in bucket.glob(f"*{suffix}"))
        for reader, suffix in (("text objects", ".batch"), ("pickles", ".pickle"), ("npz", ".npz"))
    }
    base = ours.Dataset(datasets[0]).manifest.index_base
    with served(root) as address:
        yield Store(address, data.train_rows(), base == 0, places)


def _write_batches(bucket: Path) -> None:
    """The first rows of the text, an object for each mini-batch."""
    with data.train_path().open("rb") as text:
        for number in range(_BATCHES):
            lines = [line for line in (text.readline() for _ in range(_BATCH_ROWS)) if line]
            if lines:
                (bucket / f"{number:06}.batch").write_bytes(b"".join(lines))


def _write_chunks(bucket: Path) -> None:
    """The rows as arrays, an object for so many rows, pickled and compressed."""
    rows = data.train_rows()

    def write(begin: int) -> None:
        end = min(begin + _CHUNK_ROWS, rows.n_rows)
        first, last = int(rows.indptr[begin]), int(rows.indptr[end])
        arrays = {
            "labels": rows.labels[begin:end],
            "indptr": rows.indptr[begin : end + 1] - first,
            "indices": rows.indices[first:last],
            "data": rows.data[first:last],
        }
        (bucket / f"{begin:09}.pickle").write_bytes(pickle.dumps(tuple(arrays.values()), 5))
        np.savez_compressed(bucket / f"{begin:09}.npz", **arrays)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(0, rows.n_rows, _CHUNK_ROWS)))


def _run(tasks: list[Task], go: Callable[[], object]) -> list[Outcome]:
    """Starts all, lets them begin together, and waits for the last; `go` is called just before."""
    program = f"import sys; sys.path.append({str(ROOT)!r}); from bench.readers import main; main()"
    with ExitStack() as stack:
        workers = []
        for task in tasks:
            worker = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            workers.append(stack.enter_context(worker))
            told = {name: getattr(task, name) for name in task.__slots__}
            worker.stdin.write(json.dumps(told) + "\n")
            worker.stdin.flush()
        for worker in workers:
            if worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"a worker that reads {tasks[0].reader} ended early")
        go()
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return [Outcome(**json.loads(worker.stdout.readline())) for worker in workers]


@pytest.fixture(scope="module")
def compared(store: Store) -> Callable[[str], None]:
    """Fails where a way of reading brings other rows than the text has."""
    done: set[str] = set()

    def compare(reader: str) -> None:
        if reader in done:
            return
        speak_to(store.address)
        wanted, times = store.rows_of(reader), _TIMES if reader == "long" else 1
        tasks = [replace(store.task(reader, i, 2), checked=True) for i in range(2)]
        found = _run(tasks, lambda: None)
        assert sum(one.rows for one in found) == times * wanted.n_rows
        assert sum(one.entries for one in found) == times * wanted.nnz
        assert sum(one.positives for one in found) == times * int(wanted.labels.sum())
        assert sum(one.ids for one in found) == times * int(wanted.indices.sum(dtype=np.int64))
        values = times * float(wanted.data.sum(dtype=np.float64))
        assert math.isclose(sum(one.values for one in found), values, rel_tol=1e-5)
        done.add(reader)

    return compare


@dataclass(slots=True)
class Timed:
    seconds: float
    notes: dict[str, object]
    n_bytes: int


def _timed(store: Store, reader: str, n_workers: int, pace: float | None) -> Timed:
    """From the moment that all workers may begin until the last has done."""
    with Link(store.address, rate=RATE, round_trip=ROUND_TRIP_S) as link:
        speak_to(link.address)
        tasks = [store.task(reader, i, n_workers) for i in range(n_workers)]
        if pace is not None:
            tasks = [replace(task, rows_a_second=pace / n_workers) for task in tasks]
        before: dict[str, float] = {}
        found = _run(tasks, lambda: before.update(link.traffic()))
        after = link.traffic()
    carried = {key: after[key] - before[key] for key in after}
    seconds = max(one.seconds for one in found)
    total = sum(one.seconds for one in found)
    waited = sum(one.waited_s for one in found)
    notes: dict[str, object] = {
        "link_used_%": 100 * carried["down_busy_s"] / seconds,
        "waiting_%": 100 * waited / total,
        "GETs": sum(one.requests for one in found),
    }
    return Timed(seconds, notes, int(carried["down_bytes"]))


def _measure(measure, store: Store, reader: str, group: str, n_workers: int, pace: float | None):
    rounds = [_timed(store, reader, n_workers, pace) for _ in range(_ROUNDS)]
    middle = sorted(rounds, key=lambda one: one.seconds)[len(rounds) // 2]
    measure.told(
        group,
        LADDER[reader],
        [one.seconds for one in rounds],
        n_rows=store.n_rows(reader),
        n_bytes=middle.n_bytes,
        **middle.notes,
    )


@told
@pytest.mark.parametrize("n_workers", [1, _MANY])
@pytest.mark.parametrize("reader", LADDER)
def bench_reading(measure, store: Store, compared, reader: str, n_workers: int) -> None:
    compared(reader)
    who = "1 worker" if n_workers == 1 else f"{n_workers} workers"
    group = f"reading from S3 over one link of 75 MB/s, 30 ms to the first byte, {who}"
    _measure(measure, store, reader, group, n_workers, None)


@told
@pytest.mark.parametrize("reader", ["text stream", "npz", "blocks", "ahead", "long", "cached"])
def bench_reading_paced(measure, store: Store, compared, reader: str) -> None:
    compared(reader)
    group = f"the same, 1 worker that learns from {_PACE / 1e6:g} M rows/s at most"
    _measure(measure, store, reader, group, 1, _PACE)
