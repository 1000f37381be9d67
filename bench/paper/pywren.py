"""Workers as one would write them first, from a plain port to PyWren up to long-lived ones.

A worker is a process (`main`): it gets what to do as JSON, says "ready", waits for a line, makes
steps for so many seconds and says where its time went. A step takes a mini-batch, pulls the model
of somewhere, sums the gradient and pushes what follows from it.

Each is given what makes it faster and is not what it is about: clients that are open, checksums and
signatures of S3 left out, ids localised and values scaled beforehand, our kernels for the gradient.
What a call of a function itself takes is waited for (`invocation_s`); the driver's part, looking
for results, is free, and every function finds a warm sandbox.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.paper.phases import Clock
from bench.redis_stores import RATE, HashStore, PickledStore
from cirrus_fast import Dataset, _kernels
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import iterate
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.runtime.bsp import make_scratch

BUCKET = "bucket"
# What PyWren keeps in S3 for each call beside the data: a pickled function with the modules it
# comes with, its arguments; its answer and how it went.
FUNCTION_BYTES, ARGUMENTS_BYTES, ANSWER_BYTES = 10_000, 500, 1_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to do it.

    Attributes
    ----------
    stateless : a function per mini-batch, which is called and gets code, arguments and rows of S3;
        else a process that goes on, with its rows in memory
    store : of the model: s3; model or hash, whole or by weight in a Redis
    """

    stateless: bool
    store: str

    @property
    def gets(self) -> int:
        """Of S3, a step."""
        return 3 * self.stateless + (self.store == "s3")

    @property
    def puts(self) -> int:
        return 2 * self.stateless + (self.store == "s3")


KINDS = {
    "pywren": Kind(True, "s3"),
    "pywren-redis": Kind(True, "model"),
    "pywren-sparse": Kind(True, "hash"),
    "workers-model": Kind(False, "model"),
    "workers-sparse": Kind(False, "hash"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """
    chunks : numbers of those that are its own; each is a mini-batch
    """

    kind: str
    redis: str
    size: int
    chunks: list[int]
    n_weights: int
    seconds: float
    invocation_s: float


@dataclass(slots=True)
class Outcome:
    steps: int = 0
    rows: int = 0
    seconds: float = 0.0  # by a clock of its own
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)


class Bucket:
    """S3 as PickledStore would have a client of Redis, and objects."""

    def __init__(self) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.handlers import add_expect_header

        plain = {"request_checksum_calculation": "when_required",
                 "response_checksum_validation": "when_required"}  # fmt: skip
        self._client = boto3.client("s3", config=Config(signature_version=UNSIGNED, **plain))
        # It would ask whether it may send a body, which takes a second round trip.
        self._client.meta.events.unregister("before-call.s3", add_expect_header)

    def get(self, key: str) -> bytes:
        found: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found

    def set(self, key: str, value: bytes, *, nx: bool = False) -> None:
        if not nx:  # the model is there from the beginning
            self._client.put_object(Bucket=BUCKET, Key=key, Body=value)


def chunk_key(size: int, number: int) -> str:
    return f"chunks/{size}/{number:06}.pickle"


def write_objects(folder: Path, uri: str, sizes: tuple[int, ...], most: int) -> tuple[int, int]:
    """What workers find in S3: for each size up to `most` mini-batches, rescaled and with places in
    the model as ids. Returns how many weights there are, and chunks."""
    dataset = Dataset(uri)
    scale = TrainingScale.of(
        dataset.columns, dataset.n_rows, optimizer="sgd", l1=0, l2=0, mean_weight=1
    )
    base = folder / BUCKET
    n_weights = len(scale.ids) + 1
    fewest = most
    for size in sizes:
        (base / "chunks" / str(size)).mkdir(parents=True, exist_ok=True)
        number = 0
        for rows in iterate(dataset, range(len(dataset.blocks))):
            rows.labels[:] = dataset.manifest.label_map.positives(rows.labels)
            places = scale.place[rows.indices]
            values = rows.data / scale.divisor[places]
            for first in range(0, rows.n_rows - size + 1, size):
                if number == most:
                    break
                at = slice(int(rows.indptr[first]), int(rows.indptr[first + size]))
                indptr = rows.indptr[first : first + size + 1] - rows.indptr[first]
                arrays = rows.labels[first : first + size], indptr, places[at], values[at]
                (base / chunk_key(size, number)).write_bytes(pickle.dumps(arrays, 5))
                number += 1
        fewest = min(fewest, number)
    (base / "function").write_bytes(bytes(FUNCTION_BYTES))
    (base / "arguments").write_bytes(bytes(ARGUMENTS_BYTES))
    (base / "pickled").write_bytes(pickle.dumps(np.zeros(n_weights, np.float32)))
    return n_weights, fewest


class Learner:
    """What a mini-batch needs of the model, and what it does to it: a step of plain SGD."""

    def __init__(self, n_weights: int, room: int) -> None:
        self._state = np.zeros(n_weights, np.float32)
        self._model = _kernels.TrainModel(_kernels.Optimizer("sgd", RATE), self._state, None)
        self._scratch = make_scratch(n_weights - 1, room)

    def ids(self, rows: CSR) -> np.ndarray:
        """Its distinct ones; the kernel finds them in less time than anything else here would."""
        n = self._gradient(rows)
        return np.asarray(self._scratch.distinct)[:n].copy()

    def moves(self, rows: CSR, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
        self._state[ids] = weights
        n = self._gradient(rows)
        return -RATE * np.asarray(self._scratch.gradient)[:n]

    def _gradient(self, rows: CSR) -> int:
        parts = rows.labels, rows.indptr, rows.indices, rows.data, None
        order = np.arange(rows.n_rows, dtype=np.uint32)
        return self._model.gradient(*parts, order, self._scratch)[0]


class Worker:
    def __init__(self, task: Task) -> None:
        self._task, self._kind = task, KINDS[task.kind]
        self._bucket = Bucket()
        self._store = self._open()
        self._cached = [] if self._kind.stateless else [self._read(n) for n in task.chunks]
        entries = max(rows.nnz for rows in self._cached or [self._read(n) for n in task.chunks])
        self._learner = Learner(task.n_weights, entries)

    def _open(self) -> Any:
        if self._kind.store == "s3":
            return PickledStore(self._bucket, self._task.n_weights)
        import redis

        kinds: dict[str, Callable[..., Any]] = {"model": PickledStore, "hash": HashStore}
        return kinds[self._kind.store](redis.Redis.from_url(self._task.redis), self._task.n_weights)

    def _read(self, number: int) -> CSR:
        return self._rows(self._bucket.get(chunk_key(self._task.size, number)))

    def _rows(self, raw: bytes) -> CSR:
        return CSR(*pickle.loads(raw), self._task.n_weights - 1)

    def run(self) -> Outcome:
        clock, found = Clock(), Outcome()
        began = time.perf_counter()
        until = began + self._task.seconds
        while time.perf_counter() < until:
            found.rows += self._step(clock, found.steps)
            found.steps += 1
        clock.enter("other")
        found.seconds = time.perf_counter() - began
        found.wall, found.cpu = clock.wall, clock.cpu
        return found

    def _step(self, clock: Clock, number: int) -> int:
        chunk = number % len(self._task.chunks)
        if self._kind.stateless:
            clock.enter("function")
            time.sleep(self._task.invocation_s)
            self._bucket.get("function")
            self._bucket.get("arguments")
            clock.enter("storage_read")
            raw = self._bucket.get(chunk_key(self._task.size, self._task.chunks[chunk]))
            clock.enter("decode")
            rows = self._rows(raw)
        else:
            rows = self._cached[chunk]
        clock.enter("compute")
        ids = self._learner.ids(rows)
        clock.enter("pull")
        weights = self._store.pull(ids)
        clock.enter("compute")
        moves = self._learner.moves(rows, ids, weights)
        clock.enter("push")
        self._store.push(ids, moves)
        if self._kind.stateless:
            clock.enter("function")
            self._bucket.set("answer", bytes(ANSWER_BYTES))
            self._bucket.set("status", bytes(ANSWER_BYTES))
        clock.enter("other")
        return rows.n_rows


def main() -> None:
    task = Task(**json.loads(sys.stdin.readline()))
    worker = Worker(task)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(worker.run())), flush=True)


if __name__ == "__main__":
    main()
