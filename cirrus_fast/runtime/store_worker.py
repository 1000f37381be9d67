"""What workers have in common whose model is in servers: the way to the run, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cirrus_fast import _kernels
from cirrus_fast.runtime.params.control import RemotePort, control_link, ended_here, read_run
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

    def run(self) -> WorkerReport:
        try:
            report = super().run()
            report.handed_over = self._port.handed_over
            return report
        finally:
            self._store.close()
