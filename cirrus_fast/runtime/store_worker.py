"""What workers have in common whose model is in servers: the way to the run, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from cirrus_fast import _kernels
from cirrus_fast.data.csr import CSR, UInt32Array
from cirrus_fast.data.holdout import HoldOut
from cirrus_fast.data.manifest import Block
from cirrus_fast.runtime.claims import Claims
from cirrus_fast.runtime.minibatches import training_rows
from cirrus_fast.runtime.params.control import RemotePort, control_link, ended_here, read_run
from cirrus_fast.runtime.params.remote_claims import RemoteClaims
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.runtime.worker import Worker, WorkerReport, WorkerSpec
from cirrus_fast.store_url import parse_urls


class _Linked(Protocol):
    link: Link


class StoreModel:
    """What a worker knows of the model, in the place of the one that workers share in memory."""

    shards: Sequence[_Linked] = ()

    def __init__(self, spec: WorkerSpec) -> None:
        self.urls = parse_urls(spec.param_store)
        self._task = spec.task
        self.control = control_link(self.urls, spec.task, spec.clustered, self.ended)
        self.layout, self.scale = read_run(self.control, spec.task)
        self.optimizer = _kernels.Optimizer(self.layout.optimizer, self.layout.learning_rate)
        self.rows = 0  # by all workers, about

    def ended(self) -> bool:
        return ended_here(self._task)

    def close(self) -> None:
        for link in [self.control, *(shard.link for shard in self.shards)]:
            link.close()


class StoreWorker(Worker):
    """Lets go of its connections, however it ends."""

    _store: StoreModel  # type: ignore[assignment]
    _port: RemotePort  # type: ignore[assignment]

    def _open_claims(self, blocks: Sequence[Block], holdout: HoldOut) -> Claims | None:
        n = self._store.layout.n_blocks
        rows_of = partial(training_rows, blocks, holdout)
        return RemoteClaims(self._port, self._spec.task, n, rows_of) if n else None

    def _drain(self) -> None:
        """Waits until all that was sent is in the model, and reported."""
        raise NotImplementedError

    def _group(self, rows: CSR, order: UInt32Array) -> bool:
        """Others may have the blocks in the next epoch once this is over."""
        whole = self._window(rows, order)
        self._drain()
        return whole

    def run(self) -> WorkerReport:
        try:
            report = super().run()
            report.handed_over = self._port.handed_over
            return report
        finally:
            self._store.close()
