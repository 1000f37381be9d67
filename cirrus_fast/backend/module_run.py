"""The supervisor's side of a run whose model is in servers with our module."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from cirrus_fast.backend.redis_run import RedisRun
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.runtime.params import module
from cirrus_fast.runtime.params.accumulators import key_of, save_accumulators
from cirrus_fast.runtime.params.local import Positions

# How often servers are told who has ended: one may have come back with a model in which others wait
# for a worker that is gone.
_LEAVE_S = 1.0


class ModuleRun(RedisRun):
    """The control is in plain keys, as ever; weights and optimiser are the servers'. Where workers
    learn on copies (sync_rows > 0), the optimiser is theirs, and the servers add their moves up."""

    store = "module"
    _shards: list[module.ModuleShard]  # type: ignore[assignment]

    def __init__(
        self,
        *arguments: Any,
        consistency: str,
        staleness: int,
        intercept_rate: float,
        sync_rows: int,
        **more: Any,
    ) -> None:
        """
        sync_rows : 0: each mini-batch is a step
        intercept_rate : multiplies the intercept's gradient; 0 where none is fitted
        arguments, more : RedisRun's
        """
        self._consistency, self._staleness = consistency, staleness
        self._intercept_rate = intercept_rate
        self._copies = sync_rows > 0
        self._leave_at = 0.0
        super().__init__(*arguments, sync_rows=sync_rows, **more)

    def _check_size(self, n: int, n_shards: int) -> None:
        """The server says what is too large for it."""

    def _merges(self, n_ids: int, sync_rows: int) -> bool:  # noqa: ARG002
        """What workers learn goes straight to the servers."""
        return False

    def _open(self) -> None:
        self._shards = module.open_shards(self.urls, self.header)

    def _create_model(self, intercept: float) -> None:
        if self._copies:
            module.create_sum(self._shards, self.header.n_workers, intercept)
            return
        module.create(
            self._shards,
            self.optimizer.kind,
            self.header.learning_rate,
            self.scale.penalties,
            n_workers=self.header.n_workers,
            consistency=self._consistency,
            staleness=self._staleness,
            intercept=intercept,
            intercept_rate=self._intercept_rate,
        )

    def _keys(self, shard: module.ModuleShard) -> tuple[bytes, ...]:  # type: ignore[override]
        return (shard.key, key_of(shard)) if self._copies else (shard.key,)

    def _look(self) -> None:
        super()._look()
        waited_for = self._consistency != "async" and not self._copies
        if not (waited_for and self._ended) or time.monotonic() < self._leave_at:
            return
        self._leave_at = time.monotonic() + _LEAVE_S
        with self._lock:
            gone = {worker: int(self._generations[worker]) for worker in self._ended}
            module.leave(self._shards, gone, self._give_up_s)

    def _weights(self) -> Float32Array:
        with self._lock:
            found, intercept = module.read_weights(self._shards, self._give_up_s)
        return np.append(found, np.float32(intercept))

    def merged_state(self) -> Float32Array:
        if self._copies:
            return super().merged_state()
        with self._lock:
            return module.read_state(self._shards, self.optimizer.width)

    def restore(self, state: Float32Array, positions: Positions, rounds: int) -> None:  # noqa: ARG002
        slots, width = positions.slots, self.optimizer.width
        with self._lock:
            self._restore_positions(positions)
            if self._copies and self.optimizer.kind == "adagrad":
                save_accumulators(self._shards, np.ascontiguousarray(state[1::2]))
            if self._copies:
                state, width = np.ascontiguousarray(state[::width]), 1
            module.write_state(self._shards, state, width, slots["rows"], slots["updates"])
