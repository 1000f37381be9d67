"""What a worker does: one function, a JSON text in, a JSON text out.

`run_worker` is all that an executor is ever asked to run, so a thread, a process and a rented
function are the same thing to the supervisor.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, fields

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR
from cirrus_fast.data.dataset import Dataset
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.errors import TrainingError
from cirrus_fast.runtime.minibatches import MiniBatches, Window
from cirrus_fast.runtime.params.local import LocalStore, connect

# Rows given to the kernel at once: some milliseconds, so that stopping and reporting are prompt
# and the interpreter's lock is taken rarely.
CHUNK_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All that a worker is told. `blocks` are numbers into the data set's blocks."""

    task: str
    worker: int
    dataset: str
    dataset_id: str
    blocks: list[int]
    holdout_seed: int
    holdout_shares: list[float]
    param_store: str
    optimizer: str
    learning_rate: float
    fit_intercept: bool
    class_weight: tuple[float, float]
    minibatch_size: int
    epochs: int
    worker_size: int
    seed: int
    rows_per_epoch: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        raw = json.loads(text)
        known = {field.name for field in fields(cls)}
        if set(raw) != known:
            raise TrainingError(f"worker spec has wrong fields: {sorted(set(raw) ^ known)}")
        return cls(**raw | {"class_weight": tuple(raw["class_weight"])})


@dataclass(slots=True)
class WorkerReport:
    """What a worker did, and where its seconds went."""

    worker: int
    rows: int = 0
    updates: int = 0
    start_up: float = 0.0
    storage_read: float = 0.0
    decode: float = 0.0
    pull: float = 0.0
    compute: float = 0.0
    push: float = 0.0
    other: float = 0.0


def run_worker(spec_json: str) -> str:
    """Trains on the spec's blocks until its epochs are done or the store says stop."""
    return json.dumps(asdict(_Worker(WorkerSpec.from_json(spec_json)).run()))


class _Worker:
    def __init__(self, spec: WorkerSpec) -> None:
        self._started = time.perf_counter()
        self._spec = spec
        self._store: LocalStore = connect(spec.param_store)
        dataset = Dataset(spec.dataset)
        if dataset.id != spec.dataset_id:
            raise TrainingError(f"{spec.dataset}: was replaced after the run began")
        self._stream = MiniBatches(
            dataset,
            spec.blocks,
            HoldOut(spec.holdout_seed, tuple(spec.holdout_shares)),
            self._store.scale,
            spec.worker_size,
            spec.seed,
            spec.worker,
        )
        # Whole mini-batches, so that only the last of a window is smaller.
        self._chunk = max(1, CHUNK_ROWS // spec.minibatch_size) * spec.minibatch_size
        self._scratch: _kernels.TrainScratch | None = None
        self._scratch_room = 0
        self._report = WorkerReport(spec.worker)
        self._report.start_up = time.perf_counter() - self._started

    def run(self) -> WorkerReport:
        try:
            self._epochs()
        finally:
            self._store.notify()
        report, times = self._report, self._stream.times
        report.storage_read, report.decode = times.storage_read, times.decode
        known = report.start_up + report.storage_read + report.decode + report.compute
        report.other = max(0.0, time.perf_counter() - self._started - known)
        return report

    def _epochs(self) -> None:
        for epoch in range(self._spec.epochs):
            for window in self._stream.epoch(epoch):
                done = 0
                while done < len(window.order):
                    granted = self._store.grant(min(self._chunk, len(window.order) - done))
                    if granted == 0:
                        return
                    self._train(window, done, granted)
                    done += granted

    def _train(self, window: Window, begin: int, n_rows: int) -> None:
        spec, store, rows = self._spec, self._store, window.rows
        started = time.perf_counter()
        seen = store.rows_seen
        n, updates, loss, weight = _kernels.train(
            self._optimizer(seen),
            store.state,
            store.scale.penalties,
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            window.order[begin : begin + n_rows],
            spec.minibatch_size,
            self._scratch_for(rows),
            fit_intercept=spec.fit_intercept,
            negative_weight=spec.class_weight[0],
            positive_weight=spec.class_weight[1],
            rows_seen=float(seen),
        )
        self._report.compute += time.perf_counter() - started
        if not math.isfinite(loss):
            raise TrainingError(self._blame(rows))
        self._report.rows += n
        self._report.updates += updates
        store.report(n, updates, loss, weight)

    def _optimizer(self, rows_seen: int) -> _kernels.Optimizer:
        """sgd's rate falls with the square root of the epochs done; the others adapt theirs."""
        if self._spec.optimizer != "sgd":
            return self._store.optimizer
        rate = self._spec.learning_rate / math.sqrt(1 + rows_seen / self._spec.rows_per_epoch)
        return _kernels.Optimizer("sgd", rate)

    def _scratch_for(self, rows: CSR) -> _kernels.TrainScratch | None:
        size = self._spec.minibatch_size
        if size == 1:
            return None
        longest = int(np.diff(rows.indptr).max(initial=0))
        room = min(longest * size, rows.nnz)
        if self._scratch is None or room > self._scratch_room:
            self._scratch_room = room
            self._scratch = _kernels.TrainScratch(
                np.zeros(len(self._store.scale.divisor), np.uint32),
                np.empty(room, np.uint32),
                np.empty(room + 1, np.uint32),
                np.empty(3 * room, np.float32),
            )
        return self._scratch

    def _blame(self, rows: CSR) -> str:
        """Why the loss is no number: the column with the wildest values, and what to do."""
        size = np.abs(rows.data)
        worst = int(np.argmax(np.where(np.isnan(size), np.inf, size))) if rows.nnz else 0
        column = f"feature {rows.indices[worst]} (0-based)" if rows.nnz else "no feature"
        value = rows.data[worst] * self._store.scale.divisor[rows.indices[worst]]
        return (
            f"the loss is no longer a finite number after {self._store.rows_seen} rows; the "
            f"likely cause is {column}, with a value of {value:g}: lower learning_rate "
            f"(now {self._spec.learning_rate:g}), or normalize the data set"
        )
