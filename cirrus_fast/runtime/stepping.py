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

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR, Float32Array, UInt32Array
from cirrus_fast.errors import StoreError, TrainingError
from cirrus_fast.runtime.params.control import RemotePort
from cirrus_fast.runtime.params.module import (
    Fenced,
    ModuleShard,
    Pulled,
    Push,
    Steps,
    Stopped,
    open_shards,
)
from cirrus_fast.runtime.store_worker import StoreModel, StoreWorker
from cirrus_fast.runtime.worker import CHUNK_ROWS, WorkerSpec

_NO_IDS = np.empty(0, np.uint32)
_NO_WEIGHTS = np.empty(0, np.float32)


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

    def __init__(self, *arguments: object, consistency: str, **more: object) -> None:
        self._served = consistency != "async"
        self.rounds = consistency == "bsp"
        self.rows_seen = 0.0
        super().__init__(*arguments, **more)  # type: ignore[arg-type]

    def _lead(self, minibatch_size: int) -> float:
        return math.inf if self._served else super()._lead(minibatch_size)

    def _room(self) -> float:
        if not self.rounds:
            return super()._room()
        return math.inf if self._says["allowed_rows"] > self.rows_seen else 0.0


@dataclass(eq=False)
class _Batch:
    """A mini-batch, from being asked for to being part of the model."""

    order: UInt32Array
    local: UInt32Array
    pulled: Pulled
    weights: Float32Array
    rate: float
    intercept: float = 0.0
    arrived: bool = False
    loss: float = 0.0
    weight: float = 0.0


class SteppingWorker(StoreWorker):
    """Steps a model that servers hold."""

    _store: ServedModel
    _port: ServedPort

    def _connect(self) -> None:
        spec = self._spec
        self._store = store = ServedModel(spec)
        port = self._port = ServedPort(
            store.control,
            spec.task,
            spec.worker,
            spec.generation,
            spec.staleness,
            strict=False,
            deadline=self._deadline,
            consistency=spec.consistency,
        )
        # Half of the steps under way go together, while the others are answered.
        self._steps = Steps(
            store.shards,
            spec.worker,
            spec.generation,
            lambda: port.over,
            max(1, spec.pipeline_depth // 2),
        )
        # Steps under way: what each pushed and pulled.
        self._under_way: deque[tuple[_Batch | None, _Batch | None]] = deque()
        self._served = spec.consistency != "async"
        self._granted = self._done = 0
        self._learnt = port.rows  # rows, whether or not the server has them yet
        self._chunk_rate = 1.0
        n_ids = store.layout.n_ids
        self._table = np.empty(n_ids, np.uint32)
        self._bits = np.zeros(_kernels.pulled_words(n_ids), np.uint64)
        self._charged = store.scale.penalties is not None and store.optimizer.kind != "ftrl"
        self._traffic = port.record["traffic"]
        self._before = self._traffic.copy()  # by workers that had this one's place

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
                with suppress(StoreError):
                    self._steps.leave()

    def _window(self, rows: CSR, order: UInt32Array) -> bool:
        depth = self._spec.pipeline_depth
        ahead: deque[_Batch] = deque()
        self._done = 0
        while True:
            while len(ahead) < depth:
                batch = self._next(rows, order, wait=False)
                if batch is None and not ahead:
                    self._drain()  # who grants rows wants to know of those that are done
                    batch = self._next(rows, order, wait=True)
                if batch is None:
                    break
                self._submit(None, None, batch)
                ahead.append(batch)
            if not ahead:
                return self._done == len(order)
            batch = ahead.popleft()
            while not batch.arrived:
                self._settle()
            push = self._learn(rows, batch)
            following = self._next(rows, order, wait=False)
            self._submit(batch, push, following)
            if following is not None:
                ahead.append(following)

    def _next(self, rows: CSR, order: UInt32Array, *, wait: bool) -> _Batch | None:
        """The next mini-batch of the window, if there is one and rows are granted."""
        size, left = self._spec.minibatch_size, len(order) - self._done
        if left == 0:
            return None
        if self._granted == 0:
            chunk = size if self._port.rounds else max(1, CHUNK_ROWS // size) * size
            self._granted = self._port.grant(min(chunk, left), size, wait=wait)
            if self._granted == 0:
                return None
            self._chunk_rate = self._rate(self._store.rows + self._learnt - self._port.rows)
        n = min(size, self._granted)
        taken = order[self._done : self._done + n]
        self._done += n
        self._granted -= n
        started = time.perf_counter()
        room = n * self._longest_row
        local, ids = np.empty(room, np.uint32), np.empty(room, np.uint32)
        n_entries, n_ids = _kernels.pulled_localize(
            rows.indptr, rows.indices, rows.data, taken, self._table, self._bits, local, ids
        )
        pulled = self._steps.pulled(ids[:n_ids])
        weights = np.empty(n_ids, np.float32)
        self._report.compute += time.perf_counter() - started
        return _Batch(taken, local[:n_entries], pulled, weights, self._chunk_rate)

    def _learn(self, rows: CSR, batch: _Batch) -> Push:
        started = time.perf_counter()
        n = len(batch.weights)
        gradient = np.empty(n, np.float32)
        touches = np.empty(n, np.float32) if self._charged else None
        negative, positive = self._spec.class_weight
        intercept, batch.loss, batch.weight = _kernels.pulled_gradient(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            batch.order,
            batch.local,
            batch.weights,
            batch.intercept,
            gradient,
            touches,
            negative_weight=negative,
            positive_weight=positive,
        )
        if not math.isfinite(batch.loss):
            raise TrainingError(self._blame(rows))
        if self._port.rounds:  # of the round that this is for
            batch.rate = self._rate(self._store.rows)
        n_rows = len(batch.order)
        self._learnt += n_rows
        push = Push(
            batch.pulled, gradient, touches, intercept, n_rows, batch.loss, batch.weight, batch.rate
        )
        self._report.compute += time.perf_counter() - started
        return push

    def _submit(self, pushed: _Batch | None, push: Push | None, pulled: _Batch | None) -> None:
        started = time.perf_counter()
        ids = pulled.pulled if pulled is not None else None
        if ids is None and self._served:  # a pull of nothing is answered when others are ready
            ids = self._steps.pulled(_NO_IDS)
        self._steps.submit(push, ids)
        self._under_way.append((pushed, pulled))
        self._report.push += time.perf_counter() - started

    def _settle(self) -> None:
        """Takes the oldest answer. Rows count once what was learnt from them is in the model."""
        started = time.perf_counter()
        pushed, pulled = self._under_way.popleft()
        answer = self._steps.settle(_NO_WEIGHTS if pulled is None else pulled.weights)
        self._report.pull += time.perf_counter() - started
        self._store.rows = int(answer.rows_seen)
        self._port.rows_seen = answer.rows_seen
        if pulled is not None:
            pulled.intercept, pulled.arrived = answer.intercept, True
        if pushed is not None:
            self._traffic["exchanges"] += 1
            self._port.report(len(pushed.order), 1, pushed.loss, pushed.weight)

    def _drain(self) -> None:
        while self._under_way:
            self._settle()
        self._tell_traffic()

    def _tell_traffic(self) -> None:
        traffic, (sent, received) = self._traffic, self._steps.traffic
        traffic["rollbacks"] = self._before["rollbacks"] + self._steps.rollbacks
        traffic["bytes_sent"] = self._before["bytes_sent"] + sent
        traffic["bytes_received"] = self._before["bytes_received"] + received
