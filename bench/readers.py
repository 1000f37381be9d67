"""Workers that read training rows out of S3, each in its own way, from a plain port to ours.

A worker is a process (`main`): it gets what to do as JSON, says "ready" once it has imported what
it needs, waits for a line, reads its share of the rows and learns from them as they come, and says
how that went (bench_reading.py).
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cirrus_fast import Dataset, _kernels, parse_libsvm
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.early_reads import Piece
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.runtime.assignment import first_reads, share_of
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.minibatches import MiniBatches

BUCKET = "bucket"
SET, LONG, TEXT = f"s3://{BUCKET}/set", f"s3://{BUCKET}/long", "train.svm"
WORKER_SIZE_MB, _SEED = 2048, 1
_STREAM_BYTES = 1 << 20
# What a worker learns from at once, so that one that is slower than the link reads on meanwhile.
_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Task:
    """
    reader : a name in READERS
    worker, n_workers : whose share
    places : what its share consists of, for readers that need to be told: keys, or (begin, end) of
        the text
    zero_based : whether that counts ids from 0; dataset : where ours reads
    rows_a_second : that it learns from at most, or None
    checked : whether it is to add up what its rows have, too
    """

    reader: str
    worker: int
    n_workers: int
    places: list[Any]
    n_features: int
    zero_based: bool
    dataset: str
    rows_a_second: float | None = None
    checked: bool = False


@dataclass(slots=True)
class Outcome:
    """What rows came, and where the time went.

    Attributes
    ----------
    seconds : all of it; waited_s : for storage; requests : sent
    """

    rows: int = 0
    positives: int = 0
    entries: int = 0
    ids: int = 0
    values: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    requests: int = 0


@dataclass(slots=True)
class Reader:
    """What a way of reading has at hand, and what it is to count."""

    task: Task
    outcome: Outcome = field(default_factory=Outcome)
    _client: Any = None
    scale: TrainingScale | None = None
    first: list[Piece] = field(default_factory=list)

    def prepare(self) -> None:
        """What is imported and made before the clock starts."""
        if self.task.reader in _BOTO:
            import boto3

            self._client = boto3.client("s3")
        if self.task.reader in _OURS:
            # Training is told what it begins with, and given the scale; it does not read that.
            task = self.task
            dataset = Dataset(task.dataset)
            share = share_of(dataset, task.worker, task.n_workers)
            self.first = first_reads(dataset, share, _SEED, task.worker)
            self.scale = TrainingScale.of(
                dataset.columns,
                dataset.n_rows,
                optimizer="adagrad",
                l1=0.0,
                l2=0.0,
                mean_weight=1.0,
            )

    def parse(self, text: bytes | memoryview) -> CSR:
        return parse_libsvm(text, zero_based=self.task.zero_based)

    def get(self, key: str, **more: Any) -> Any:
        """The body of an object, as boto3 streams it."""
        self.outcome.requests += 1
        began = time.perf_counter()
        body = self._client.get_object(Bucket=BUCKET, Key=key, **more)["Body"]
        self.outcome.waited_s += time.perf_counter() - began
        return body

    def waiting(self, read: Callable[[], bytes]) -> bytes:
        began = time.perf_counter()
        found = read()
        self.outcome.waited_s += time.perf_counter() - began
        return found


def _text_objects(reader: Reader) -> Iterator[CSR]:
    for key in reader.task.places:
        yield reader.parse(reader.waiting(reader.get(key).read))


def _text_stream(reader: Reader) -> Iterator[CSR]:
    """One request for all of its part of the text; rows are parsed as they come."""
    begin, end = reader.task.places
    body = reader.get(TEXT, Range=f"bytes={begin}-{end - 1}")
    rest = b""
    while piece := reader.waiting(lambda: body.read(_STREAM_BYTES)):
        text = rest + piece
        cut = text.rfind(b"\n") + 1
        yield reader.parse(memoryview(text)[:cut])
        rest = text[cut:]
    if rest:
        yield reader.parse(rest)


def _pickles(reader: Reader) -> Iterator[CSR]:
    for key in reader.task.places:
        yield CSR(*pickle.loads(reader.waiting(reader.get(key).read)), reader.task.n_features)


def _npz(reader: Reader) -> Iterator[CSR]:
    for key in reader.task.places:
        raw = io.BytesIO(reader.waiting(reader.get(key).read))
        with np.load(raw, allow_pickle=False) as arrays:
            found = [arrays[name] for name in ("labels", "indptr", "indices", "data")]
        yield CSR(*found, reader.task.n_features)


def _blocks(reader: Reader) -> Iterator[CSR]:
    """A request for each block, decoded when it is there; the next is asked for then."""
    began = time.perf_counter()
    dataset = Dataset(reader.task.dataset)
    _ = dataset.dictionary
    reader.outcome.waited_s += time.perf_counter() - began
    for number in share_of(dataset, reader.task.worker, reader.task.n_workers):
        block = dataset.blocks[number]
        began = time.perf_counter()
        raw = dataset.read_bytes(block)
        reader.outcome.waited_s += time.perf_counter() - began
        yield dataset.decode(block, raw)
    reader.outcome.requests = dataset.reads.requests


def _stream(reader: Reader, epochs: int) -> tuple[Dataset, MiniBatches]:
    began = time.perf_counter()
    dataset = Dataset(reader.task.dataset, reader.first)
    reader.outcome.waited_s += time.perf_counter() - began
    assert reader.scale is not None
    stream = MiniBatches(
        dataset,
        share_of(dataset, reader.task.worker, reader.task.n_workers),
        HoldOut.none(dataset.blocks),
        reader.scale,
        epochs=epochs,
        memory=Memory.of(WORKER_SIZE_MB, 8 * reader.task.n_features),
        seed=_SEED,
        worker=reader.task.worker,
    )
    return dataset, stream


def _ahead(reader: Reader) -> Iterator[CSR]:
    """As a worker of ours reads in its first epoch."""
    dataset, stream = _stream(reader, 1)
    yield from _windows(stream, 0)
    stream.close()
    reader.outcome.waited_s += stream.times.storage_read
    reader.outcome.requests = dataset.reads.requests


def _cached(reader: Reader) -> Iterator[CSR]:
    """As it reads in every later one."""
    dataset, stream = _stream(reader, 2)
    for _ in stream.epoch(0):
        pass
    before, waited = dataset.reads.requests, stream.times.storage_read
    yield None  # type: ignore[misc] # the clock starts here
    yield from _windows(stream, 1)
    stream.close()
    reader.outcome.waited_s = stream.times.storage_read - waited
    reader.outcome.requests = dataset.reads.requests - before


def _windows(stream: MiniBatches, epoch: int) -> Iterator[CSR]:
    for window in stream.epoch(epoch):
        rows, order = window.rows, window.order
        first = int(order.min()) if len(order) < rows.n_rows else 0
        yield _part(rows, first, rows.n_rows)


READERS = {
    "text objects": _text_objects,
    "text stream": _text_stream,
    "pickles": _pickles,
    "npz": _npz,
    "blocks": _blocks,
    "ahead": _ahead,
    "long": _ahead,
    "cached": _cached,
}
_BOTO = ("text objects", "text stream", "pickles", "npz")
_OURS = ("ahead", "long", "cached")


def _part(rows: CSR, first: int, end: int) -> CSR:
    """Some rows; arrays are shared."""
    begin, last = int(rows.indptr[first]), int(rows.indptr[end])
    return CSR(
        rows.labels[first:end],
        rows.indptr[first : end + 1] - begin,
        rows.indices[begin:last],
        rows.data[begin:last],
        rows.n_features,
    )


class _Learner:
    """The same for all: one pass of AdaGrad over what comes, slowed down to a pace if there is."""

    def __init__(self, task: Task) -> None:
        self._optimizer = _kernels.Optimizer("adagrad", 0.1)
        self._state = np.empty((task.n_features + 1) * self._optimizer.width, np.float32)
        self._optimizer.clear(self._state, 0.0)
        self._model = _kernels.TrainModel(self._optimizer, self._state, None)
        self._row_s = 0.0 if task.rows_a_second is None else 1 / task.rows_a_second

    def learn(self, rows: CSR) -> None:
        labels = (rows.labels > 0).astype(np.float32)
        for first in range(0, rows.n_rows, _CHUNK_ROWS):
            began = time.perf_counter()
            order = np.arange(first, min(first + _CHUNK_ROWS, rows.n_rows), dtype=np.uint32)
            self._model.train(
                labels, rows.indptr, rows.indices, rows.data, None, order, 1, None
            )  # fmt: skip
            rest = len(order) * self._row_s - (time.perf_counter() - began)
            if rest > 0:
                time.sleep(rest)


def _note(outcome: Outcome, rows: CSR, scale: TrainingScale | None, checked: bool) -> None:
    outcome.rows += rows.n_rows
    outcome.entries += rows.nnz
    outcome.positives += int((rows.labels > 0).sum())
    if checked:
        ids, values = rows.indices, rows.data
        if scale is not None:  # they are places, and values divided
            ids, values = scale.ids[ids], values * scale.divisor[ids]
        outcome.ids += int(ids.sum(dtype=np.int64))
        outcome.values += float(values.sum(dtype=np.float64))


def main() -> None:
    """Reads as the task on standard input says."""
    task = Task(**json.loads(sys.stdin.readline()))
    reader = Reader(task)
    reader.prepare()
    learner = _Learner(task)
    outcome = reader.outcome
    come = READERS[task.reader](reader)
    if task.reader == "cached":
        next(come)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    for rows in come:
        _note(outcome, rows, reader.scale, task.checked)
        learner.learn(rows)
    outcome.seconds = time.perf_counter() - began
    print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
