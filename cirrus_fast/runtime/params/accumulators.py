"""Adagrad's accumulators of workers that learn on copies, beside the model in its servers.

Each is about what a single worker that learns from all rows would have (csrc/cf_replica.h), so any
worker's will do for another's, and a coordinate that few touch has the accumulator of who did: the
larger counts. Those who take a worker's place begin with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cirrus_fast.data.csr import Float32Array
from cirrus_fast.errors import StoreError
from cirrus_fast.runtime.params.control import TTL_S
from cirrus_fast.runtime.params.resp import Link


class StateShard(Protocol):
    """Accumulator i is in the (i mod n_shards)-th."""

    @property
    def number(self) -> int: ...
    @property
    def n_shards(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def link(self) -> Link: ...
    def lost(self) -> StoreError: ...


def key_of(shard: StateShard) -> bytes:
    """Beside the model's."""
    return shard.key.removesuffix(b"model") + b"state"


def save_accumulators(shards: Sequence[StateShard], mine: Float32Array) -> None:
    """Puts them beside the model, where they are larger than those that are there."""
    for shard in shards:
        part = np.ascontiguousarray(mine[shard.number :: shard.n_shards])
        there = _read(shard, len(part))
        larger = part if there is None else np.maximum(part, there)
        shard.link.ask("SET", key_of(shard), larger.astype("<f4").tobytes(), "EX", TTL_S)


def read_accumulators(shards: Sequence[StateShard], n: int) -> Float32Array | None:
    """Those that workers have put beside a model of n coordinates; None if none has yet."""
    out = np.empty(n, np.float32)
    for shard in shards:
        part = _read(shard, len(out[shard.number :: shard.n_shards]))
        if part is None:
            return None
        out[shard.number :: shard.n_shards] = part
    return out


def _read(shard: StateShard, n: int) -> Float32Array | None:
    data = shard.link.ask("GET", key_of(shard))
    if data is None:
        return None
    if len(data) != 4 * n:
        raise shard.lost()
    return np.frombuffer(data, "<f4").astype(np.float32)
