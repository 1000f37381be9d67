"""The models of a group in servers that have our module loaded, as one model there.

Its coordinates are the lanes', side by side: S j + i is coordinate j of lane i of S, and behind the
features' come the intercepts. So one STEP pushes what all lanes learnt from a mini-batch, and
brings their weights for the next. The learning rate there is 1: with weights divided by a lane's
own rate, and its l2 multiplied by it, each optimiser makes the same steps. Lanes that have ended
are left out of what is sent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast._kernels import StepBatch, Stepper
from cirrus_fast.data.csr import Float32Array, UInt32Array
from cirrus_fast.errors import StoreError
from cirrus_fast.runtime.params.control import TTL_S
from cirrus_fast.runtime.params.module import ModuleShard, Steps, create, read_weights
from cirrus_fast.runtime.params.resp import GIVE_UP_S, Link
from cirrus_fast.store_url import StoreUrl, parse_urls

LANES = _kernels.GRID_LANES
# How often the keys' time to live is renewed.
_PROLONG_S = 300.0


@dataclass(frozen=True, slots=True)
class LaneStore:
    """Where a search keeps its groups.

    Attributes
    ----------
    task : of the search
    n_keys : that a group is spread over
    """

    task: str
    param_store: str
    n_keys: int
    clustered: bool

    @property
    def urls(self) -> tuple[StoreUrl, ...]:
        return tuple(parse_urls(self.param_store))

    def shards(self, group: int, n: int) -> list[ModuleShard]:
        """The keys of a group with n coordinates."""
        urls, found = self.urls, []
        for k in range(self.n_keys):
            key = f"{{cirrus_fast:{self.task}:{group}.{k}}}:model".encode()
            at = urls if self.clustered else (urls[k % len(urls)],)
            link = Link(at, key, clustered=self.clustered)
            here = max(0, -(-(n - k) // self.n_keys))
            found.append(ModuleShard(k, self.n_keys, key, here, link))
        return found

    def delete(self, groups: Sequence[int]) -> None:
        """Nobody needs these groups any more; what cannot be deleted now goes away by itself."""
        for group in groups:
            for shard in self.shards(group, 0):
                try:
                    shard.link.ask("UNLINK", shard.key, give_up_s=2)
                except StoreError:
                    return
                finally:
                    shard.link.close()


class ServedLanes:
    """What `GridModel` is to lanes in memory.

    Attributes
    ----------
    active : bit i says whether lane i learns
    """

    def __init__(
        self,
        store: LaneStore,
        group: int,
        kind: str,
        n_ids: int,
        penalties: Float32Array | None,
        learning_rate: Float32Array,
        l1: Float32Array,
        l2: Float32Array,
        class_weight: Float32Array,
        *,
        n_lanes: int,
        minibatch_size: int,
        fit_intercept: bool,
        intercept_rate: float,
    ) -> None:
        """
        group : its number
        penalties, learning_rate, l1, l2, class_weight : GridModel's
        n_lanes : that are used, of LANES
        """
        self.active = (1 << n_lanes) - 1
        self._n_ids, self._n_lanes, self._size = n_ids, n_lanes, minibatch_size
        self._optimizer = _kernels.Optimizer(kind, 1.0)
        self._rates, self._class_weight = learning_rate, class_weight
        self._intercept_rate = np.float32(intercept_rate if fit_intercept else 0)
        self._shards = store.shards(group, (n_ids + 1) * n_lanes)
        self._counts = penalties is not None and kind != "ftrl"
        self._create(penalties, l1[:n_lanes], l2[:n_lanes])
        self._prolong_at = time.monotonic() + _PROLONG_S
        self._stepper = Stepper(
            (n_ids + 1) * n_lanes, len(self._shards), counts_touches=self._counts
        )
        self._steps: Steps | None = None
        self._spare = [StepBatch(self._stepper) for _ in range(2)]
        self._nothing = StepBatch(self._stepper)
        self._table = np.empty(n_ids, np.uint32)
        self._room = 0
        self._read: Float32Array | None = None  # all weights, until more is learnt

    def _create(self, penalties: Float32Array | None, l1: Float32Array, l2: Float32Array) -> None:
        pairs = None
        if penalties is not None:
            each = penalties[np.minimum(np.arange(self._n_ids), len(penalties) - 1)]
            charges = np.zeros((self._n_ids + 1, self._n_lanes, 2), np.float32)
            charges[:-1, :, 0] = each[:, :1] * l1
            charges[:-1, :, 1] = each[:, 1:] * (l2 * self._rates[: self._n_lanes])
            pairs = charges.reshape(-1, 2)
        for shard in self._shards:  # of a worker that died, and whose place this one has
            shard.link.ask("UNLINK", shard.key)
        create(
            self._shards,
            self._optimizer.kind,
            1.0,
            pairs,
            n_workers=1,
            consistency="async",
            staleness=0,
            intercept=0.0,
            intercept_rate=0.0,
        )

    def clear(self, intercept: Float32Array) -> None:
        """Lanes begin at weight 0 everywhere, and these intercepts."""
        width, n = self._optimizer.width, len(self._shards)
        state = np.empty(width, np.float32)
        offsets = [shard.tell()["state_offset"] for shard in self._shards]
        for lane in range(self._n_lanes):
            self._optimizer.clear(state, float(intercept[lane] / self._rates[lane]))
            place = self._n_ids * self._n_lanes + lane
            shard, at = self._shards[place % n], place // n
            where = offsets[shard.number] + 4 * width * at
            shard.link.ask("SETRANGE", shard.key, where, state.astype("<f4").tobytes())
        for shard in self._shards:
            shard.link.close()  # the next connection is the worker's
        self._steps = Steps(self._shards, self._stepper, 0, 1, lambda: False)
        self._steps.connect()

    @property
    def _running(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.active >> np.arange(LANES) & 1)

    def close(self) -> None:
        for shard in self._shards:
            shard.link.close()

    def train(
        self,
        labels: Float32Array,
        indptr: npt.NDArray[np.int64],
        indices: UInt32Array,
        data: Float32Array,
        weights: Float32Array | None,
        order: UInt32Array,
        batches: object,  # noqa: ARG002
        scratch: object,  # noqa: ARG002
        losses: npt.NDArray[np.float64],
        *,
        rows_seen: float,  # noqa: ARG002
        rate: float,
    ) -> tuple[int, int, float]:
        """GridModel's, of mini-batches of this model's size. The server counts the rows itself, and
        numbers are the mini-batch's own in increasing order, so nothing is shared with others."""
        self._read = None
        self._prolong()
        lanes = self._running
        rows = labels, indptr, indices, data, weights
        losses[:] = 0.0
        pushed, updates, weight = None, 0, 0.0
        part_losses = np.zeros(LANES)
        for first in range(0, len(order), self._size):
            part = order[first : first + self._size]
            distinct, n_entries = self._localize(indptr, indices, data, part)
            places = np.argsort(distinct)
            wanted = np.append(distinct[places], np.uint32(self._n_ids)).astype(np.uint32)
            coordinates = (wanted[:, None] * np.uint32(self._n_lanes) + lanes).astype(np.uint32)
            batch = self._exchange(pushed, coordinates.ravel(), rate)
            # From here on as if these were all the ids there are, in the order they come in.
            pulled = np.empty(coordinates.size, np.float32)
            batch.take(pulled)
            state = np.zeros((len(distinct) + 1, LANES), np.float32)
            into = np.append(places, len(distinct))[:, None]
            state[into, lanes] = pulled.reshape(-1, len(lanes)) * self._rates[lanes]
            start = state[-1].copy()
            self._distinct[: len(distinct)] = np.arange(len(distinct), dtype=np.uint32)
            one = self._here(state.reshape(-1), lanes)
            _, _, more = one.train(*rows, part, self._batches, self._scratch, part_losses)
            gradient = np.empty((len(distinct) + 1, LANES), np.float32)
            gradient[:-1] = self._gradient[: len(distinct)][places]
            # At rate 1 the intercept's step was its gradient.
            gradient[-1] = (start - state[-1]) * self._intercept_rate
            losses += part_losses
            updates, weight = updates + 1, weight + more
            fine = np.isfinite(gradient[:, lanes]).all(axis=0) & np.isfinite(losses[lanes])
            if not fine.all():  # no server takes it, and the lane ends after this call
                gradient[:, lanes[~fine]] = 0.0
                losses[lanes[~fine]] = np.nan
            touches = None
            if self._counts:
                counts = np.bincount(self._local[:n_entries], minlength=len(distinct))[places]
                touches = np.repeat(np.append(counts, 0), len(lanes)).astype(np.float32)
            values = np.ascontiguousarray(gradient[:, lanes]).reshape(-1)
            self._stepper.give(batch, len(part), values, touches)
            pushed = batch
            if not fine.all():
                lanes = lanes[fine]
            if len(lanes) == 0:
                break
        if pushed is not None:
            self._exchange(pushed, None, rate)
        return len(order), updates, weight

    def _exchange(
        self, pushed: StepBatch | None, wanted: UInt32Array | None, rate: float
    ) -> StepBatch:
        """Sends what was learnt last, and waits for the weights that are wanted."""
        assert self._steps is not None
        if wanted is None:
            self._steps.submit(pushed, None, rate)
            self._nothing.clear()
            self._steps.settle(self._nothing)
            return self._nothing
        batch = next(one for one in self._spare if one is not pushed)
        batch.choose(wanted)
        self._steps.submit(pushed, batch, rate)
        self._steps.settle(batch)
        return batch

    def _localize(
        self,
        indptr: npt.NDArray[np.int64],
        indices: UInt32Array,
        data: Float32Array,
        part: UInt32Array,
    ) -> tuple[UInt32Array, int]:
        """Renumbers a mini-batch's entries; returns a copy of its distinct ids, and how many
        entries it has."""
        n = int((indptr[1:][part] - indptr[:-1][part]).sum())
        if n > self._room or self._room == 0:
            self._room = room = n + n // 4 + 1
            self._local, self._distinct = (np.empty(room + i, np.uint32) for i in range(2))
            self._batches = _kernels.GridBatches(
                self._table, self._local, self._distinct, np.empty(1, np.uint32)
            )
            both = (np.empty((room, LANES), np.float32) for _ in range(2))
            weights, self._gradient = both
            self._scratch = _kernels.GridScratch(
                weights.reshape(-1), self._gradient.reshape(-1), np.empty(room, np.float32)
            )
        found = self._batches.localize(indptr, indices, data, part, max(2, self._size))
        return self._distinct[:found].copy(), n

    def _here(self, weights: Float32Array, lanes: npt.NDArray[np.int64]) -> _kernels.GridModel:
        """Lanes with these weights, as the kernels have them in memory; it learns at rate 1."""
        one, none = np.ones(LANES, np.float32), np.zeros(LANES, np.float32)
        model = _kernels.GridModel("sgd", weights, None, one, none, none, self._class_weight)
        model.active = int((1 << lanes).sum())
        return model

    def measure(
        self,
        labels: Float32Array,
        indptr: npt.NDArray[np.int64],
        indices: UInt32Array,
        data: Float32Array,
        weights: Float32Array | None,
        margins: Float32Array,
        losses: npt.NDArray[np.float64],
        *,
        rows_seen: float,  # noqa: ARG002
    ) -> float:
        """GridModel's."""
        lanes = self._running
        state = np.zeros((self._n_ids + 1, LANES), np.float32)
        state[:, lanes] = self._weights()[:, lanes]
        model = self._here(state.reshape(-1), lanes)
        return model.measure(labels, indptr, indices, data, weights, margins, losses)

    def weights(
        self,
        into: dict[int, Float32Array],
        *,
        rows_seen: float,  # noqa: ARG002
    ) -> dict[int, float]:
        """GridModel's."""
        found = self._weights()
        for lane, out in into.items():
            out[:] = found[:-1, lane]
        return {lane: float(found[-1, lane]) for lane in into}

    def _weights(self) -> Float32Array:
        if self._read is None:
            found, _ = read_weights(self._shards, GIVE_UP_S)
            self._read = found.reshape(-1, self._n_lanes) * self._rates[: self._n_lanes]
        return self._read

    def _prolong(self) -> None:
        if time.monotonic() < self._prolong_at:
            return
        self._prolong_at = time.monotonic() + _PROLONG_S
        for shard in self._shards:
            shard.link.ask("EXPIRE", shard.key, TTL_S)
