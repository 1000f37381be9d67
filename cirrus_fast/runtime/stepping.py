"""A worker whose model is in servers with our module: it pulls weights, and pushes gradients.

Each mini-batch is a step: the gradient of the one before is pushed and its own weights are pulled
in one round trip, up to `pipeline_depth` steps under way at once. The optimiser, and who must wait
for whom, are the server's.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from cirrus_fast._kernels import StepBatch, Stepper, StepRows
from cirrus_fast.data.csr import CSR, UInt32Array
from cirrus_fast.errors import StoreError, TrainingError
from cirrus_fast.runtime.params.control import RemotePort
from cirrus_fast.runtime.params.module import Fenced, ModuleShard, Steps, Stopped, open_shards
from cirrus_fast.runtime.store_worker import StoreModel, StoreWorker
from cirrus_fast.runtime.worker import CHUNK_ROWS, WorkerSpec

# How often a worker tells how far it is, and looks whether the run goes on.
_TELL_S = 0.05


class ServedModel(StoreModel):
    """Servers have all of it."""

    shards: list[ModuleShard]

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self.shards = open_shards(self.urls, self.layout, self.ended)


class ServedPort(RemotePort):
    """Where the server itself makes workers wait for each other, nobody else does.

    Attributes
    ----------
    rounds : bsp: workers have mini-batches in turn, and pause together
    rows_seen : by all workers
    """

    def __init__(self, *arguments: object, rounds: bool, **more: object) -> None:
        self.rounds = rounds
        self.rows_seen = 0.0
        super().__init__(*arguments, strict=False, **more)  # type: ignore[arg-type]

    def give_back(self, rows: int) -> None:
        """Rows that were granted will not be learnt from."""
        self._slot["granted"] -= rows

    def _room(self) -> float:
        if not self.rounds:
            return super()._room()
        return math.inf if self._says["allowed_rows"] > self.rows_seen else 0.0


class SteppingWorker(StoreWorker):
    """Steps a model that servers hold."""

    _store: ServedModel
    _port: ServedPort
    _rows: CSR
    _taken: StepRows

    def _connect(self) -> None:
        spec = self._spec
        self._store = store = ServedModel(spec)
        port = self._port = ServedPort(
            store.control,
            spec.task,
            spec.worker,
            spec.generation,
            spec.staleness,
            rounds=spec.consistency == "bsp",
            deadline=self._deadline,
        )
        self._stepper = Stepper(
            store.layout.n_ids,
            len(store.shards),
            counts_touches=store.scale.penalties is not None and store.optimizer.kind != "ftrl",
        )
        # Half of the steps under way go together, while the others are answered.
        self._steps = Steps(
            store.shards,
            self._stepper,
            spec.worker,
            spec.generation,
            lambda: port.over,
            together=max(1, spec.pipeline_depth // 2),
            in_turn=spec.consistency != "async",
        )
        # Steps under way: what each pushed and pulled.
        self._under_way: deque[tuple[StepBatch | None, StepBatch | None]] = deque()
        self._spare: list[StepBatch] = []
        self._nothing = StepBatch(self._stepper)
        self._served = spec.consistency != "async"
        self._granted = self._done = 0
        self._learnt = port.rows  # rows, whether or not the server has them yet
        self._rate_now = 1.0
        self._traffic = port.record["traffic"]
        self._before = self._traffic.copy()  # by workers that had this one's place
        self._settled = _Settled()
        self._tell_at = 0.0

    def _prepare(self, _room: int) -> None:
        """The kernels that work on a model in memory are not needed."""

    def _epochs(self) -> None:
        try:
            self._steps.connect()
            super()._epochs()
            self._drain()
        except (Stopped, Fenced):
            return
        finally:
            if self._served:
                with suppress(StoreError, Stopped):
                    self._steps.leave()

    def _window(self, rows: CSR, order: UInt32Array) -> bool:
        negative, positive = self._spec.class_weight
        self._rows, self._done = rows, 0
        self._taken = StepRows(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            order,
            negative_weight=negative,
            positive_weight=positive,
        )
        depth = self._spec.pipeline_depth
        ahead: deque[StepBatch] = deque()
        while True:
            while len(ahead) < depth:
                batch = self._next(wait=False)
                if batch is None and not ahead:
                    self._drain()  # who grants rows wants to know of those that are done
                    batch = self._next(wait=True)
                if batch is None:
                    break
                self._submit(None, batch, 1.0)
                ahead.append(batch)
            if not ahead:
                return self._done == len(order)
            batch = ahead.popleft()
            while not batch.whole:
                self._settle()
            rate = self._learn(batch)
            following = self._next(wait=False)
            self._submit(batch, following, rate)
            if following is not None:
                ahead.append(following)

    def _next(self, *, wait: bool) -> StepBatch | None:
        """The next mini-batch of the window, if there is one and rows are granted."""
        size, left = self._spec.minibatch_size, self._taken.n - self._done
        if left == 0:
            return None
        if self._granted == 0:
            self._tell()
            chunk = size if self._port.rounds else max(1, CHUNK_ROWS // size) * size
            self._granted = self._port.grant(min(chunk, left), size, wait=wait)
            if self._granted == 0:
                return None
            self._rate_now = self._rate(self._store.rows + self._learnt - self._port.rows)
        started = time.perf_counter()
        n = min(size, self._granted)
        batch = self._spare.pop() if self._spare else StepBatch(self._stepper)
        self._stepper.locate(batch, self._taken, self._done, n)
        self._done += n
        self._granted -= n
        self._report.compute += time.perf_counter() - started
        return batch

    def _learn(self, batch: StepBatch) -> float:
        """Returns what multiplies the learning rate of the batch's step."""
        started = time.perf_counter()
        loss = self._stepper.learn(batch)
        if not math.isfinite(loss):
            raise TrainingError(self._blame(self._rows))
        self._learnt += batch.n_rows
        self._report.compute += time.perf_counter() - started
        # Of the round that this is for, or of the rows granted last.
        return self._rate(self._store.rows) if self._port.rounds else self._rate_now

    def _submit(self, pushed: StepBatch | None, pulled: StepBatch | None, rate: float) -> None:
        started = time.perf_counter()
        if pulled is None and self._served:  # a pull of nothing is answered when others are ready
            self._nothing.clear()
            self._steps.submit(pushed, self._nothing, rate)
        else:
            self._steps.submit(pushed, pulled, rate)
        self._under_way.append((pushed, pulled))
        self._report.push += time.perf_counter() - started

    def _settle(self) -> None:
        """Takes the oldest answer. Rows count once what was learnt from them is in the model."""
        started = time.perf_counter()
        pushed, pulled = self._under_way.popleft()
        if pulled is None:
            pulled = self._nothing
            pulled.clear()
        self._steps.settle(pulled)
        now = time.perf_counter()
        self._report.pull += now - started
        self._port.rows_seen = pulled.rows_seen
        self._store.rows = int(pulled.rows_seen)
        if pushed is not None:
            self._settled.add(pushed)
            self._spare.append(pushed)
        if now >= self._tell_at:
            self._tell()
            if self._port.stopping:
                self._port.give_back(self._granted)
                self._granted = 0

    def _drain(self) -> None:
        while self._under_way:
            self._settle()
        self._tell()

    def _tell(self) -> None:
        """Reports what was settled since it was last done, which costs as much as some steps."""
        self._tell_at = time.perf_counter() + _TELL_S
        done, self._settled = self._settled, _Settled()
        self._port.report(done.rows, done.updates, done.loss, done.weight)
        traffic, (sent, received) = self._traffic, self._steps.traffic
        traffic["exchanges"] += done.updates
        traffic["rollbacks"] = self._before["rollbacks"] + self._steps.rollbacks
        traffic["lost"] = self._before["lost"] + self._steps.lost
        traffic["bytes_sent"] = self._before["bytes_sent"] + sent
        traffic["bytes_received"] = self._before["bytes_received"] + received


@dataclass(eq=False, slots=True)
class _Settled:
    """Sums over mini-batches that are in the model."""

    rows: int = 0
    updates: int = 0
    loss: float = 0.0
    weight: float = 0.0

    def add(self, batch: StepBatch) -> None:
        self.rows += batch.n_rows
        self.updates += 1
        self.loss += batch.loss
        self.weight += batch.weight
