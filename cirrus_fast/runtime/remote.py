"""A worker whose model is in a parameter store over a network.

It learns on a copy (csrc/cf_replica.h), an interval of rows at a time: `sync_rows` of them, fewer
at the beginning, when the weights still move a lot. What it learnt from an interval is added to the
model by one request, which brings the weights that the next interval needs; up to `pipeline_depth`
intervals ahead, so that the network and the kernels work at the same time.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR, Float32Array, UInt32Array
from cirrus_fast.errors import TrainingError
from cirrus_fast.runtime.core_wait import CoreWait
from cirrus_fast.runtime.params.accumulators import read_accumulators, save_accumulators
from cirrus_fast.runtime.params.bitfield import Exchange, Int32Array, Request, Shard, open_shards
from cirrus_fast.runtime.params.control import RemotePort
from cirrus_fast.runtime.params.merged import MergedExchange
from cirrus_fast.runtime.params.resp import nothing
from cirrus_fast.runtime.store_worker import StoreModel, StoreWorker
from cirrus_fast.runtime.worker import WorkerReport, WorkerSpec

# Rows of the first interval, where each weight exchanged costs, and where many go in one piece;
# they grow from there (Plan.growth).
_FIRST_ROWS, _FIRST_ROWS_OF_MANY = 20, 500
_NO_IDS = np.empty(0, np.uint32)
_NO_AMOUNTS = np.empty(0, np.int32)


class RemoteModel(StoreModel):
    """A worker's copy."""

    shards: list[Shard]

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        header = self.layout
        n = header.n_ids + 1
        self.state: Float32Array = np.zeros(n * self.optimizer.width, np.float32)
        self.optimizer.clear(self.state)
        self._open_shards(spec)
        self.replica = _kernels.Replica(
            self.optimizer,
            self.state,
            np.zeros(n, np.int32),
            np.zeros(n, np.uint32),
            np.zeros(n, np.float32),
            np.zeros(n, np.uint32),
            header.n_workers,
        )

    def _open_shards(self, spec: WorkerSpec) -> None:
        self.shards = open_shards(self.urls, self.layout, self.ended, spec.worker)
        for shard in self.shards:
            shard.link.again(nothing)

    def hot_copies(self, worker: int) -> None:  # noqa: ARG002
        """Copies of popular coordinates are for workers that share memory."""
        return

    def fetch_state(self) -> None:
        """Accumulators that other workers left."""
        if self.optimizer.kind != "adagrad":
            return
        there = read_accumulators(self.shards, len(self.state) // 2)
        if there is not None:
            np.maximum(self.state[1::2], there, out=self.state[1::2])

    def leave_state(self) -> None:
        if self.optimizer.kind == "adagrad":
            save_accumulators(self.shards, self.state[1::2])


@dataclass(eq=False)
class Interval:
    """Some rows, from being asked for to being part of the model."""

    order: UInt32Array
    ids: UInt32Array
    counts: UInt32Array
    read: Request | None = None
    updates: int = 0
    loss: float = 0.0
    weight: float = 0.0


class RemoteWorker(StoreWorker):
    """Learns on a copy, and exchanges what it learnt."""

    _store: RemoteModel

    def _connect(self) -> None:
        spec = self._spec
        self._store = self._open_model()
        self._port = RemotePort(
            self._store.control,
            spec.task,
            spec.worker,
            spec.generation,
            spec.staleness,
            strict=spec.consistency == "ssp",
            deadline=self._deadline,
        )
        self._exchange = self._make_exchange()
        self._sent: deque[tuple[Interval, Request]] = deque()
        # In turn, so that some worker's is there soon.
        first = spec.state_interval * (spec.worker + 1) / spec.n_workers
        self._state_due = time.monotonic() + first
        self._ids = self._counts = np.empty(0, np.uint32)
        self._learnt = self._port.rows  # rows, whether or not the store has them yet
        self._traffic = self._port.record["traffic"]
        self._before = self._traffic.copy()  # by workers that had this one's place

    @property
    def _many_at_once(self) -> bool:
        return self._store.layout.merged

    def _open_model(self) -> RemoteModel:
        return RemoteModel(self._spec)

    def _make_exchange(self) -> Exchange | MergedExchange:
        store, spec, port = self._store, self._spec, self._port
        if not store.layout.merged:
            return Exchange(store.replica, store.shards)
        return MergedExchange(
            store.replica,
            store.shards,
            spec.worker,
            spec.generation,
            spec.n_workers,
            spec.pipeline_depth,
            lambda: port.over,
        )

    def run(self) -> WorkerReport:
        self._cores = CoreWait()
        self._report.for_a_core = 0.0
        try:
            return super().run()
        finally:
            self._cores.close()

    def _epochs(self) -> None:
        self._store.fetch_state()
        super()._epochs()
        self._drain()
        if self._port.rows and not self._port.fenced:
            self._store.leave_state()

    def _window(self, rows: CSR, order: UInt32Array) -> bool:
        depth, done = self._spec.pipeline_depth, 0
        ahead: deque[Interval] = deque()
        while True:
            while len(ahead) < depth and done < len(order):
                planned = self._plan(rows, order[done:], wait=False)
                if planned is None and not ahead:
                    self._drain()  # who grants rows wants to know of those that are done
                    planned = self._plan(rows, order[done:], wait=True)
                if planned is None:
                    break
                planned.read = self._submit(_NO_IDS, _NO_AMOUNTS, planned.ids)
                done += len(planned.order)
                ahead.append(planned)
            if not ahead:
                return done == len(order)
            interval = ahead.popleft()
            places, amounts = self._learn(rows, interval)
            following = self._plan(rows, order[done:], wait=False) if done < len(order) else None
            read = _NO_IDS if following is None else following.ids
            request = self._submit(places, amounts, read, interval)
            self._sent.append((interval, request))
            if following is not None:
                following.read = request
                done += len(following.order)
                ahead.append(following)
            if time.monotonic() >= self._state_due:
                self._drain()
                self._store.leave_state()
                self._state_due = time.monotonic() + self._spec.state_interval

    def _plan(self, rows: CSR, left: UInt32Array, *, wait: bool) -> Interval | None:
        """The next interval, if rows are granted, and what it touches."""
        size = self._spec.minibatch_size
        wanted = self._spec.sync_rows
        if self._spec.n_workers > 1:
            begun = self._port.rows + self._port.begun
            first = _FIRST_ROWS_OF_MANY if self._many_at_once else _FIRST_ROWS
            wanted = min(wanted, first + int(self._spec.growth * begun))
        wanted = max(1, wanted // size)
        # In equal parts, for a short rest costs as much as any interval.
        wanted = -(-len(left) // size // -(-len(left) // (wanted * size)))
        wanted = min(wanted * size, len(left))
        granted = self._port.grant(wanted, size, wait=wait, least=wanted // 2)
        if granted == 0:
            return None
        order = left[:granted]
        n, longest = len(self._store.replica.held), self._longest_row
        room = min(n, granted * longest) + longest + 1
        if room > len(self._ids):
            self._ids, self._counts = np.empty(room, np.uint32), np.empty(room, np.uint32)
        started = time.perf_counter()
        n_ids = self._store.replica.touch(
            rows.labels, rows.indptr, rows.indices, rows.data, order, self._ids, self._counts
        )
        self._report.compute += time.perf_counter() - started
        return Interval(order, self._ids[:n_ids].copy(), self._counts[:n_ids].copy())

    def _submit(
        self,
        add: UInt32Array,
        amounts: Int32Array,
        read: UInt32Array,
        learnt: Interval | None = None,
    ) -> Request:
        with self._spent_on("push"):
            return self._exchange_moves(add, amounts, read, learnt)

    @contextmanager
    def _spent_on(self, phase: str) -> Iterator[None]:
        report, cores = self._report, self._cores
        started, in_line = time.perf_counter(), cores.seconds()
        yield
        assert report.for_a_core is not None
        report.for_a_core += cores.seconds() - in_line
        setattr(report, phase, getattr(report, phase) + time.perf_counter() - started)

    def _exchange_moves(
        self,
        add: UInt32Array,
        amounts: Int32Array,
        read: UInt32Array,
        learnt: Interval | None,  # noqa: ARG002
    ) -> Request:
        ahead = self._spec.pipeline_depth > 1
        return self._exchange.submit(add, amounts, read, ahead=ahead)

    def _learn(self, rows: CSR, interval: Interval) -> tuple[UInt32Array, Int32Array]:
        """Takes the rows of an interval, once its weights are there; returns what to add where."""
        assert interval.read is not None
        while not interval.read.settled:
            self._settle()
        started = time.perf_counter()
        replica, ids, n = self._store.replica, interval.ids, len(interval.ids)
        seen = self._store.rows = self._port.rows_of_all(self._learnt)
        before = np.empty(n, np.float32)
        replica.keep(ids, before)
        _, interval.updates, interval.loss, interval.weight = self._model.train(
            rows.labels,
            rows.indptr,
            rows.indices,
            rows.data,
            rows.weights,
            interval.order,
            self._spec.minibatch_size,
            self._scratch,
            rows_seen=float(seen),
            rate=self._rate(seen),
        )
        self._learnt += len(interval.order)
        replica.n_workers = self._port.n_learning
        if not math.isfinite(interval.loss):
            raise TrainingError(self._blame(rows))
        places, amounts = np.empty(n + 1, np.uint32), np.empty(n + 1, np.int32)
        n_places, bounded = replica.take(ids, interval.counts, before, places, amounts)
        self._report.compute += time.perf_counter() - started
        if bounded or self._exchange.bounded:
            raise TrainingError(self._out_of_bounds())
        return places[:n_places], amounts[:n_places]

    def _settle(self) -> None:
        """Takes the oldest answer. Rows count once what was learnt from them is in the model."""
        with self._spent_on("pull"):
            request = self._exchange.settle()
        traffic = self._traffic
        if self._sent and self._sent[0][1] is request:
            interval, _ = self._sent.popleft()
            read = interval.read
            assert read is not None
            stale = (request.count - read.count) - (request.own - read.own)
            if request.adds:
                traffic["stale_sum"] += max(0, stale)
                traffic["stale_max"] = max(int(traffic["stale_max"]), stale)
            traffic["exchanges"] += 1
            sent, received = self._exchange.traffic
            for name, value in (
                ("doubtful", self._exchange.doubtful),
                ("lost", self._exchange.lost),
                ("rollbacks", self._exchange.rollbacks),
                ("bytes_sent", sent),
                ("bytes_received", received),
            ):
                traffic[name] = self._before[name] + value
            self._port.report(len(interval.order), interval.updates, interval.loss, interval.weight)

    def _drain(self) -> None:
        while self._exchange.n_under_way:
            self._settle()

    def _out_of_bounds(self) -> str:
        return (
            f"a weight has left the range of +-128 that a Redis holds, after {self._store.rows} "
            f"rows: lower learning_rate (now {self._store.layout.learning_rate:g}), or normalize "
            "the data set"
        )
