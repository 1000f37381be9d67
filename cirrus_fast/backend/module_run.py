"""The supervisor's side of a run whose model is in servers with our module."""

from __future__ import annotations

from typing import Any

import numpy as np

from cirrus_fast.backend.redis_run import RedisRun
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.runtime.params import module
from cirrus_fast.runtime.params.local import Positions


class ModuleRun(RedisRun):
    """The control is in plain keys, as ever; weights and optimiser are the servers'."""

    store = "module"
    _shards: list[module.ModuleShard]  # type: ignore[assignment]

    def __init__(
        self,
        *arguments: Any,
        consistency: str,
        staleness: int,
        intercept_rate: float,
        **more: Any,
    ) -> None:
        """
        intercept_rate : multiplies the intercept's gradient; 0 where none is fitted
        arguments, more : RedisRun's
        """
        self._consistency, self._staleness = consistency, staleness
        self._intercept_rate = intercept_rate
        super().__init__(*arguments, sync_rows=1, **more)

    def _check_size(self, n: int, n_shards: int) -> None:
        """The server says what is too large for it."""

    def _merges(self, n_ids: int, sync_rows: int) -> bool:  # noqa: ARG002
        """What workers learn goes straight to the servers."""
        return False

    def _open(self) -> None:
        self._shards = module.open_shards(self.urls, self.header)

    def _create_model(self, intercept: float) -> None:
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
        return (shard.key,)

    def _weights(self) -> Float32Array:
        with self._lock:
            found, intercept = module.read_weights(self._shards, self._give_up_s)
        return np.append(found, np.float32(intercept))

    def merged_state(self) -> Float32Array:
        with self._lock:
            return module.read_state(self._shards, self.optimizer.width)

    def restore(self, state: Float32Array, positions: Positions, rounds: int) -> None:  # noqa: ARG002
        slots = positions.slots
        with self._lock:
            self._restore_positions(positions)
            module.write_state(
                self._shards, state, self.optimizer.width, slots["rows"], slots["updates"]
            )
