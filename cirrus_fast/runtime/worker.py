"""What a worker does: one function, a JSON text in, a JSON text out.

`run_worker` is all that an executor is ever asked to run, so a thread, a process and a rented
function are the same thing to the supervisor. Run as a program, it reads the text from standard
input and writes the answer to standard output (backend/processes.py).
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR, UInt32Array
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.early_reads import Piece
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.manifest import Block
from cirrus_fast.data.parallel import available_cores
from cirrus_fast.data.storage import is_s3
from cirrus_fast.data.traffic import Reads
from cirrus_fast.errors import CirrusFastError, KernelError, ParseError, TrainingError
from cirrus_fast.runtime.assignment import shares
from cirrus_fast.runtime.bsp import Rounds, make_scratch
from cirrus_fast.runtime.claims import Claims
from cirrus_fast.runtime.divergence import blame
from cirrus_fast.runtime.memory import Memory
from cirrus_fast.runtime.minibatches import MiniBatches, decoded_bytes
from cirrus_fast.runtime.params.local import Port, connect
from cirrus_fast.runtime.row_sources import begin_opening, open_rows
from cirrus_fast.runtime.sharing import SharedEpochs, SharedMiniBatches
from cirrus_fast.store_url import is_store_url

if TYPE_CHECKING:
    from cirrus_fast.data.text_dataset import TextDataset

# Rows given to the kernel at once: some milliseconds, so that stopping and reporting are prompt
# and the interpreter's lock is taken rarely.
CHUNK_ROWS = 16_384


def most_entries(dataset: Dataset | TextDataset, blocks: list[int], minibatch_size: int) -> int:
    """No mini-batch of these blocks has more."""
    all_entries = sum(dataset.blocks[i].nnz for i in blocks)
    return min(dataset.manifest.longest_row * minibatch_size, all_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All that a worker is told; which rows are its own follows from it."""

    task: str
    worker: int
    n_workers: int
    generation: int
    dataset: str
    dataset_id: str
    text_copy: tuple[str, str, str] | None
    reads_first: tuple[tuple[str, int, int | None], ...]  # of the data set's objects
    holdout_seed: int
    holdout_fraction: float
    param_store: str
    fit_intercept: bool
    intercept_rate: float
    class_weight: tuple[float, float]
    minibatch_size: int
    epochs: int
    worker_size: int
    seed: int
    rows_per_epoch: int
    consistency: str
    staleness: int
    store: str  # what holds the model: memory, bitfield or module
    # Where that is over a network:
    sync_rows: int  # between exchanges with it, at most; 0: each mini-batch is a step
    growth: float  # an interval is at most this share of the rows a worker has learnt from
    pipeline_depth: int  # intervals under way at once
    state_interval: float  # seconds after which a worker leaves its state of the optimiser there
    clustered: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        raw = json.loads(text)
        known = {field.name for field in fields(cls)}
        if set(raw) != known:
            raise TrainingError(f"worker spec has wrong fields: {sorted(set(raw) ^ known)}")
        return cls(
            **raw
            | {
                "class_weight": tuple(raw["class_weight"]),
                "text_copy": raw["text_copy"] and tuple(raw["text_copy"]),
                "reads_first": tuple(map(tuple, raw["reads_first"])),
            }
        )


@dataclass(slots=True)
class WorkerReport:
    """Where a worker's seconds went, and what it read from a server.

    for_a_core : seconds of pull and push in which it stood in line for a core; None: not known
    reads : of `data.traffic.Reads`, by epoch; those before the first under -1
    handed_over : its time ran out before its rows did: another goes on from where it stood
    """

    worker: int
    start_up: float = 0.0
    storage_read: float = 0.0
    decode: float = 0.0
    pull: float = 0.0
    compute: float = 0.0
    push: float = 0.0
    other: float = 0.0
    for_a_core: float | None = None
    reads: dict[int, Reads] = field(default_factory=dict)
    handed_over: bool = False


def run_worker(spec_json: str, deadline: float = math.inf) -> str:
    """Trains on the spec's blocks until its epochs are done, the store says stop, or its time is
    up: the monotonic clock is at `deadline`, and the model is in servers."""
    spec = WorkerSpec.from_json(spec_json)
    try:
        return json.dumps(asdict(_kind(spec)(spec, deadline).run()))
    except MemoryError as error:
        why = f" ({error})" if str(error) else ""
        raise TrainingError(
            f"worker {spec.worker} has no memory left{why}: lower worker_size or n_workers"
        ) from error


def _kind(spec: WorkerSpec) -> type[Worker]:
    if not is_store_url(spec.param_store):
        return Worker
    if spec.store == "module" and spec.sync_rows == 0:
        from cirrus_fast.runtime.stepping import SteppingWorker

        return SteppingWorker
    if spec.store == "module":
        from cirrus_fast.runtime.moving import MovingWorker

        return MovingWorker
    from cirrus_fast.runtime.remote import RemoteWorker

    return RemoteWorker


class Worker:
    """One whose model is in this machine's memory."""

    def __init__(self, spec: WorkerSpec, deadline: float = math.inf) -> None:
        self._started = time.perf_counter()
        self._spec, self._deadline = spec, deadline
        opening = None
        if is_s3(spec.dataset) and spec.text_copy is None:
            opening = begin_opening(spec.dataset, [Piece(*piece) for piece in spec.reads_first])
        self._connect()
        port = self._port  # a cycle would keep all rows until they are collected
        if opening is not None:
            import numpy.random  # noqa: F401 -- which is needed next; the manifest takes as long

            dataset: Dataset | TextDataset = opening.result()
        else:
            dataset = open_rows(spec.dataset, self._store.layout.model_size, spec.text_copy)
        self._longest_row = dataset.manifest.longest_row
        if dataset.id != spec.dataset_id:
            raise TrainingError(f"{spec.dataset}: was replaced after the run began")
        holdout = HoldOut.plan(dataset.blocks, spec.holdout_fraction, spec.holdout_seed)
        self._dataset = dataset
        self._shares = shares(dataset, spec.n_workers)
        self._blocks = self._shares[spec.worker]
        self._holdout = holdout
        self._memory = Memory.of(spec.worker_size, self._store.layout.n_bytes)
        self._sources: dict[str, Any] = {
            "seed": spec.seed,
            "worker": spec.worker,
            "stopping": lambda: port.stopping,
            "ahead": self._makes_rows_ahead(dataset),
        }
        arguments = dataset, self._blocks, holdout, self._store.scale
        more = self._sources | {"epochs": spec.epochs, "memory": self._memory}
        learns_from = self._blocks
        claims = self._open_claims(dataset.blocks, holdout)
        if claims is None:
            self._stream = MiniBatches(*arguments, **more)
        else:
            if len(claims) != len(dataset.blocks):
                raise TrainingError(
                    f"{spec.dataset}: has {len(dataset.blocks)} blocks for a worker, and "
                    f"{len(claims)} for the supervisor: is their version the same?"
                )
            self._claims = claims
            # What a worker learns between two exchanges with a store is of one group. Before the
            # next one it waits for all that is under way, so a group should be more than that.
            ahead = spec.pipeline_depth if spec.store == "module" else 0
            more["least_rows"] = (1 + ahead) * spec.sync_rows
            self._stream = SharedMiniBatches(*arguments, claims=claims, **more)
            learns_from = list(range(len(dataset.blocks)))
        self._prepare(most_entries(dataset, learns_from, spec.minibatch_size))
        self._port.join()
        self._report = WorkerReport(spec.worker)
        self._report.start_up = time.perf_counter() - self._started

    def _makes_rows_ahead(self, dataset: Dataset | TextDataset) -> bool:
        """Whether to have a thread for it. Where each core has a worker that waits for nothing, it
        would only stand in its way: a hand-over takes a turn of the interpreter's lock and of a
        core, twice a group. A worker that is alone keeps it, to end though a read hangs."""
        spec = self._spec
        waits = dataset.is_remote or spec.store != "memory" or spec.consistency != "async"
        return waits or spec.n_workers < max(2, available_cores())

    def _open_claims(self, blocks: Sequence[Block], holdout: HoldOut) -> Claims | None:  # noqa: ARG002
        """Who has which block, where workers take them from each other."""
        words = self._store.claims
        return None if words is None else Claims(words, self._spec.worker)

    def _prepare(self, room: int) -> None:
        """The kernels, for mini-batches of up to `room` entries."""
        spec = self._spec
        self._model = _kernels.TrainModel(
            self._store.optimizer,
            self._store.state,
            self._store.scale.penalties,
            intercept_rate=spec.intercept_rate,
            hot=self._store.hot_copies(spec.worker),
            fit_intercept=spec.fit_intercept,
            negative_weight=spec.class_weight[0],
            positive_weight=spec.class_weight[1],
        )
        self._scratch = make_scratch(self._store.layout.n_ids, room)
        self._rounds = None
        if spec.consistency == "bsp" and spec.n_workers > 1:
            self._rounds = Rounds(self._port, self._model)

    def _connect(self) -> None:
        spec = self._spec
        self._store = connect(spec.param_store, spec.task)
        self._port = Port(
            self._store,
            spec.worker,
            spec.generation,
            spec.staleness,
            strict=spec.consistency == "ssp",
        )

    def run(self) -> WorkerReport:
        try:
            self._epochs()
        finally:
            self._stream.close()
            self._port.finish()
        report, times = self._report, self._stream.times
        report.storage_read += times.storage_read
        report.decode += times.decode
        known = report.start_up + report.storage_read + report.decode
        known += report.pull + report.compute + report.push
        report.other = max(0.0, time.perf_counter() - self._started - known)
        return report

    def _epochs(self) -> None:
        """From where this worker, or the one whose place it took, stands to the last epoch."""
        if isinstance(self._stream, SharedMiniBatches):
            self._share_epochs(self._stream)
            return
        rows_an_epoch = self._stream.count(self._blocks)
        if rows_an_epoch == 0:
            return
        first, skip = divmod(self._port.rows, rows_an_epoch)
        self._report.reads[-1] = before = self._reads
        for epoch in range(first, self._spec.epochs):
            try:
                for window in self._stream.epoch(epoch, skip):
                    if not self._window(window.rows, window.order):
                        return
            finally:
                self._report.reads[epoch] = self._reads - before
            if self._port.stopping:
                return
            before = self._reads
            skip = 0

    def _share_epochs(self, stream: SharedMiniBatches) -> None:
        dataset, others = self._dataset, self._memory.for_others

        def open_blocks(blocks: list[int]) -> MiniBatches:
            arguments = dataset, blocks, self._holdout, self._store.scale
            more = {"epochs": 1, "memory": others}
            return MiniBatches(*arguments, **self._sources | more)

        blocks = dataset.blocks
        most = max(
            len(share) + sum(blocks[n].n_rows for n in share) // self._spec.minibatch_size
            for share in self._shares
        )
        shared = SharedEpochs(
            self._port,
            self._claims,
            stream,
            self._shares,
            self._group,
            open_blocks,
            lambda number: decoded_bytes(blocks[number]),
            clock=most,
            rows=self._spec.rows_per_epoch,
            is_far=dataset.is_remote,
        )
        self._report.reads[-1] = before = self._reads
        for epoch in shared.run(self._spec.epochs):
            self._report.reads[epoch] = self._reads - before
            before = self._reads
        self._report.storage_read += shared.times.storage_read
        self._report.decode += shared.times.decode

    @property
    def _reads(self) -> Reads:
        """From a server, so far; a text's are the supervisor's."""
        return self._dataset.reads if isinstance(self._dataset, Dataset) else Reads()

    def _group(self, rows: CSR, order: UInt32Array) -> bool:
        """The same, where it matters whether all of it is in the model."""
        return self._window(rows, order)

    def _window(self, rows: CSR, order: UInt32Array) -> bool:
        """Learns from the rows in order; False if the run is stopping."""
        size = self._spec.minibatch_size
        # Whole mini-batches, so that only the last of a window is smaller.
        chunk = size if self._rounds else max(1, CHUNK_ROWS // size) * size
        done = 0
        while done < len(order):
            wanted = min(chunk, len(order) - done)
            granted = self._port.grant(wanted, size, whole=self._rounds is not None)
            if granted == 0:
                return False
            part = order[done : done + granted]
            if self._rounds is None:
                self._train(rows, part)
            elif not self._synchronous_step(self._rounds, rows, part):
                return False
            done += granted
        return True

    def _train(self, rows: CSR, order: UInt32Array) -> None:
        started = time.perf_counter()
        seen = self._store.rows
        n, updates, loss, weight = self._model.train(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            order,
            self._spec.minibatch_size,
            self._scratch,
            rows_seen=float(seen),
            rate=self._rate(seen),
        )
        self._report.compute += time.perf_counter() - started
        if not math.isfinite(loss):
            raise TrainingError(self._blame(rows))
        self._port.report(n, updates, loss, weight)

    def _synchronous_step(self, rounds: Rounds, rows: CSR, order: UInt32Array) -> bool:
        """One mini-batch, summed into the model together with the other workers'."""
        started = time.perf_counter()
        n, intercept, loss, weight = self._model.gradient(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            order,
            self._scratch,
            rows_seen=float(self._store.rows),
        )
        self._report.compute += time.perf_counter() - started
        if not math.isfinite(loss):
            raise TrainingError(self._blame(rows))
        started = time.perf_counter()
        worker, store = self._spec.worker, self._store
        store.exchange_ids[worker, :n] = self._scratch.distinct[:n]
        store.exchange_values[worker, 0, :n] = self._scratch.gradient[:n]
        store.exchange_values[worker, 1, :n] = self._scratch.touches[:n]
        merged = rounds.step(len(order), n, intercept, loss, weight, self._rate(store.rows))
        self._report.push += time.perf_counter() - started
        return merged

    def _rate(self, rows_seen: int) -> float:
        """sgd's rate falls with the square root of the epochs done; the others adapt theirs."""
        if self._store.optimizer.kind != "sgd":
            return 1.0
        return 1 / math.sqrt(1 + rows_seen / self._spec.rows_per_epoch)

    def _blame(self, rows: CSR) -> str:
        store = self._store
        return blame(rows, store.scale, store.rows, store.layout.learning_rate)


def main() -> int:
    """One spec in, one answer out: {"report": ...} or {"error": [type, message, arguments]}.

    arguments : by name, of the types that are not made of a message
    """
    spec = sys.stdin.readline()
    # The other end stays open as long as the supervisor lives: without it there is nothing to do.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        answer = {"report": json.loads(_run(spec))}
    except CirrusFastError as error:
        told = vars(error) if isinstance(error, ParseError | KernelError) else {}
        answer = {"error": [type(error).__name__, str(error), told]}
    except Exception as error:  # a fault of ours or of the machine; another try would not help
        answer = {"error": ["TrainingError", f"{type(error).__name__}: {error}", {}]}
    print(json.dumps(answer), flush=True)
    return 0


def _run(spec: str) -> str:
    """Trains, or does what the spec says it is."""
    if "kind" not in json.loads(spec):
        return run_worker(spec)
    from cirrus_fast.runtime.tasks import run_task  # which training has no need of

    return run_task(spec)


def _exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
