"""Data whose rows have numbers, and how often which worker has learnt from which."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from module_server import Server, first_program

import cirrus_fast
from cirrus_fast import Dataset
from cirrus_fast.data import loading
from cirrus_fast.runtime import stepping
from cirrus_fast.runtime import worker as worker_module
from cirrus_fast.runtime.remote import RemoteWorker
from cirrus_fast.runtime.stepping import SteppingWorker
from cirrus_fast.runtime.worker import Worker

N_ROWS = 6000

Counts = dict[int, Counter[int]]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cirrus_fast.runtime.memory.SMALL_GROUP_BYTES", 1)


@pytest.fixture
def numbered(storage_root: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Rows whose first value is their number, from 1, in many blocks."""
    monkeypatch.setattr(loading, "BLOCK_ROWS", 60)
    rng = np.random.default_rng(2)
    X = rng.random((N_ROWS, 4)).astype(np.float32)
    X[:, 0] = np.arange(N_ROWS) + 1
    return cirrus_fast.load_csr(X, rng.integers(0, 2, N_ROWS), "numbered")


def options(dataset: Dataset, **more: object) -> dict[str, Any]:
    return {"dataset": dataset.uri, "epsilon": 0, "minibatch_size": 20, "progress": False} | more


class Learning:
    """What is called with each worker and the rows it learns from, before it does."""

    def __init__(self) -> None:
        self.counts: Counts = {}
        self.pause_s: dict[int, float] = {}  # by worker, each time

    def __call__(self, worker: Any, rows: Any, order: Any) -> None:
        at = rows.indptr[order]
        numbers = rows.data[at] * worker._store.scale.divisor[rows.indices[at]]
        counts = self.counts.setdefault(worker._spec.worker, Counter())
        counts.update(np.rint(numbers).astype(int).tolist())
        time.sleep(self.pause_s.get(worker._spec.worker, 0))


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> Learning:
    found = Learning()
    train, learn, step = Worker._train, RemoteWorker._learn, SteppingWorker._learn
    window, following = SteppingWorker._window, SteppingWorker._next

    def in_memory(self: Worker, rows: Any, order: Any) -> None:
        found(self, rows, order)
        train(self, rows, order)

    def on_a_copy(self: Any, rows: Any, interval: Any) -> Any:
        found(self, rows, interval.order)
        return learn(self, rows, interval)

    def begin_window(self: Any, rows: Any, order: Any) -> bool:
        self.order_of_window, self.rows_of = order, {}
        return window(self, rows, order)

    def next_batch(self: Any, *, wait: bool) -> Any:
        first = self._done
        batch = following(self, wait=wait)
        if batch is not None:
            self.rows_of[id(batch)] = self.order_of_window[first : self._done]
        return batch

    def one_step(self: Any, batch: Any) -> float:
        found(self, self._rows, self.rows_of[id(batch)])
        return step(self, batch)

    monkeypatch.setattr(Worker, "_train", in_memory)
    monkeypatch.setattr(RemoteWorker, "_learn", on_a_copy)
    monkeypatch.setattr(SteppingWorker, "_window", begin_window)
    monkeypatch.setattr(SteppingWorker, "_next", next_batch)
    monkeypatch.setattr(SteppingWorker, "_learn", one_step)
    monkeypatch.setattr(worker_module, "CHUNK_ROWS", 40)
    monkeypatch.setattr(stepping, "CHUNK_ROWS", 40)
    return found


@pytest.fixture
def learnt(learning: Learning) -> Counts:
    """By worker, how often it has learnt from each row."""
    return learning.counts


def all_of(learnt: Counts) -> Counter[int]:
    return sum(learnt.values(), Counter())


def each(times: int) -> Counter[int]:
    return Counter(dict.fromkeys(range(1, N_ROWS + 1), times))


@pytest.fixture(scope="session")
def sharing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that holds models in both ways."""
    server = Server(first_program(), tmp_path_factory.mktemp("sharing"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "bitfield", "module"])
def store(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options for a model there."""
    if request.param == "memory":
        return {}
    server = request.getfixturevalue("sharing_server")
    url = f"redis://127.0.0.1:{server.port}?store={request.param}"
    return {"param_store": url} | ({"sync_rows": 40} if request.param == "bitfield" else {})
