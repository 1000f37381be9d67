"""A worker that learns on a copy of a model in servers with our module (`sync_rows`)."""

from __future__ import annotations

from cirrus_fast.data.csr import UInt32Array
from cirrus_fast.runtime.params.bitfield import Int32Array
from cirrus_fast.runtime.params.module import Fenced, ModuleShard, open_shards
from cirrus_fast.runtime.params.moves import MovesExchange, Request
from cirrus_fast.runtime.remote import Interval, RemoteModel, RemoteWorker
from cirrus_fast.runtime.worker import WorkerSpec


class MovedModel(RemoteModel):
    """A worker's copy."""

    shards: list[ModuleShard]  # type: ignore[assignment]
    closing = False  # the worker ends, and waits for no server that is away

    def _open_shards(self, spec: WorkerSpec) -> None:  # noqa: ARG002
        self.shards = open_shards(self.urls, self.layout, lambda: self.closing or self.ended())


class MovingWorker(RemoteWorker):
    """As one of a plain Redis, but that what it moved goes by steps of the module."""

    _store: MovedModel
    _exchange: MovesExchange  # type: ignore[assignment]

    @property
    def _many_at_once(self) -> bool:
        return True

    def _open_model(self) -> MovedModel:
        return MovedModel(self._spec)

    def _make_exchange(self) -> MovesExchange:  # type: ignore[override]
        store, spec = self._store, self._spec
        return MovesExchange(
            store.replica,
            store.shards,
            spec.worker,
            spec.generation,
            spec.n_workers,
        )

    def _epochs(self) -> None:
        try:
            super()._epochs()
        except Fenced:
            return
        finally:
            self._store.closing = True
            self._exchange.close()

    def _exchange_moves(  # type: ignore[override]
        self,
        add: UInt32Array,
        amounts: Int32Array,
        read: UInt32Array,
        learnt: Interval | None,
    ) -> Request:
        ahead = self._spec.pipeline_depth > 1
        told = (0, 0.0, 0.0)
        if learnt is not None:
            told = len(learnt.order), learnt.loss, learnt.weight
        return self._exchange.submit(add, amounts, read, ahead=ahead, learnt=told)
