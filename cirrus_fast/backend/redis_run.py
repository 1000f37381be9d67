"""The supervisor's side of a run whose model is in a Redis: what `LocalStore` is to one in memory.

What workers say is mirrored here each time it is asked for, a hundredth of a second old at most;
what the supervisor decides is written at once.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Event, Lock, RLock, Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import Float32Array
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.errors import StoreError, TrainingError
from cirrus_fast.runtime.params import bitfield, resp
from cirrus_fast.runtime.params.accumulators import (
    key_of,
    read_accumulators,
    save_accumulators,
)
from cirrus_fast.runtime.params.control import (
    RECORD,
    SAYS,
    STOP_FIELD,
    TTL_S,
    Names,
    RunHeader,
    control_link,
    current_records,
    end_here,
    ended_here,
    is_clustered,
    scale_to_bytes,
)
from cirrus_fast.runtime.params.local import (
    ACTIVE,
    FINISHED,
    STARTED,
    WAITING,
    LocalStore,
    Positions,
)
from cirrus_fast.runtime.params.merged import Bell, Merger, bell_of, inbox_of, pays
from cirrus_fast.runtime.params.remote_claims import check_claims, read_positions, string_of
from cirrus_fast.runtime.params.resp import key_slot, read_slots
from cirrus_fast.store_url import StoreUrl

# How often the workers' records are read, the supervisor shows that it lives, and keys are
# prolonged.
_POLL_S, _BEAT_S, _PROLONG_S = 0.01, 1.0, 300.0
_PIECE_BYTES = 1 << 25
# How long one wait for what workers push is, at most.
_BELL_S = 1.0
# Who is done with its own blocks counts as learning so long after it has learnt from another's.
_RESTS_S = 0.5
# What is counted of the time since workers were last looked at, for the supervisor may have been
# held up itself.
MOST_LOOK_S = 1.0
# How long the end of a run tries to delete its keys; else their time to live does.
_FAREWELL_S = 2.0


class RedisRun:
    """Model and control of one run.

    Attributes
    ----------
    slots : what workers say, record of `local.SLOT` each
    stop_asked : whether somebody else asks for the end of the run (cirrus-fast stop)
    store : how the model is held; this one: in plain strings
    """

    store = "bitfield"
    stop_asked = False
    _copies = True  # workers learn on copies of it

    def __init__(
        self,
        urls: Sequence[StoreUrl],
        optimizer: str,
        learning_rate: float,
        scale: TrainingScale,
        *,
        model_size: int,
        n_workers: int,
        n_shards: int,
        sync_rows: int,
        intercept: float,
        n_blocks: int,
        epochs: int,
        task: str,
    ) -> None:
        """Makes the run in the store, at weights 0 but for the intercept.

        n_blocks : of the data, where workers take over blocks of those that are slow; else 0
        """
        self.urls = tuple(urls)
        self.optimizer = _kernels.Optimizer(optimizer, learning_rate)
        self.scale = scale
        self.clustered = is_clustered(urls)
        self._deadline = math.inf
        self._check_size(len(scale.ids) + 1, n_shards)
        if n_blocks:
            check_claims(n_workers, n_blocks, epochs)
        self._task, self._names = task, Names(task)
        self._lock = RLock()
        self._link = control_link(urls, task, self.clustered, lambda: ended_here(task))
        self._deleted = self._launched = False
        self.header = RunHeader(
            task=task,
            model_size=model_size,
            n_ids=len(scale.ids),
            n_places=len(scale.place),
            optimizer=optimizer,
            learning_rate=learning_rate,
            penalized=scale.penalties is not None,
            n_workers=n_workers,
            clustered=self.clustered,
            shards=self._shard_keys(task, n_shards),
            places=tuple(k % len(urls) for k in range(n_shards)),
            mark=1 + secrets.randbelow(2**31 - 1),
            merged=self._merges(len(scale.ids), sync_rows),
            store=self.store,
            copies=self._copies,
            n_blocks=n_blocks,
        )
        self._merging: Merging | None = None
        self._open()
        self._records = np.zeros(n_workers, RECORD)
        self.slots: npt.NDArray[np.void] = self._records["slot"]
        self._generations = np.zeros(n_workers, np.int64)
        self._says = np.zeros(1, SAYS)[0]
        self._says["allowed_rows"] = math.inf
        self._first_step: float | None = None
        self._beat_at = self._prolonged = -math.inf
        self._ended: set[int] = set()  # workers that ended of themselves
        self._looked = time.monotonic()
        self._silence = np.zeros(n_workers)  # seconds
        self._learnt_at = np.full(n_workers, -math.inf)  # when rows of each were last heard of
        try:
            self._create(intercept)
        except BaseException:
            self.close()
            raise

    def _check_size(self, n: int, n_shards: int) -> None:
        if -(-n // n_shards) > bitfield.MOST_WEIGHTS:
            raise TrainingError(
                f"a Redis string holds {bitfield.MOST_WEIGHTS} weights, and {n} are wanted: raise "
                f"n_ps to {-(-n // bitfield.MOST_WEIGHTS)} at least"
            )

    def _merges(self, n_ids: int, sync_rows: int) -> bool:
        return pays(n_ids, sync_rows)

    def _open(self) -> None:
        self._shards = bitfield.open_shards(self.urls, self.header)
        if self.header.merged:
            self._merging = Merging(self.urls, self.header)

    def _shard_keys(self, task: str, n: int) -> tuple[str, ...]:
        """In a cluster, with tags that put them on its servers in turn."""
        if not self.clustered:
            return tuple(f"{{cirrus_fast:{task}:{k}}}:model" for k in range(n))
        masters = read_slots(self._link.ask("CLUSTER", "SLOTS"), self.urls[0].host)
        nodes = sorted({node for _, _, node in masters})
        keys: list[str] = []
        for k in range(n):
            for salt in range(10_000):
                key = f"{{cirrus_fast:{task}:{k}.{salt}}}:model"
                slot = key_slot(key.encode())
                if any(a <= slot <= b and node == nodes[k % len(nodes)] for a, b, node in masters):
                    break
            keys.append(key)
        return tuple(keys)

    def _create(self, intercept: float) -> None:
        names, header = self._names, self.header.to_json()

        if self._link.ask("SET", names.run, header, "NX", "EX", TTL_S) is None:
            self._deleted = True  # it is not ours to delete
            raise StoreError(
                f"{self._link.place}: a run {self._task} is there already, or was left behind; it "
                f"goes away by itself within {TTL_S} s"
            )
        data = scale_to_bytes(self.scale)
        for first in range(0, len(data), _PIECE_BYTES):
            self._link.ask("RPUSH", names.scale, data[first : first + _PIECE_BYTES])
        if self.header.n_blocks:
            self._link.ask("SET", names.claims, string_of(np.zeros(self.header.n_blocks, np.int64)))
        self._create_model(intercept)
        self._say()
        self._prolong()

    def _create_model(self, intercept: float) -> None:
        weights = np.zeros(len(self.scale.ids) + 1, np.float32)
        weights[-1] = intercept
        bitfield.create(self._shards, weights)
        if self._merging is not None:
            self._merging.begin(bitfield.to_whole(weights))

    def expect_end(self, deadline: float) -> None:
        """A store that is away is not waited for beyond this, by time.perf_counter."""
        self._deadline = deadline

    # What the supervisor says

    def allow(self, rows: float) -> None:
        """A worker alone pauses once this many rows are done."""
        with self._lock:
            self._says["allowed_rows"] = rows
            self._say()

    def stop(self) -> None:
        """Workers end at their next look."""
        with self._lock:
            if self._deleted or self._says["stop"]:
                return
            self._says["stop"] = 1
            end = self._give_up_s
            with suppress(StoreError):
                self._say(min(end, _FAREWELL_S))

    def admit(self, worker: int) -> int:
        """A new generation for a worker about to be started, which fences any older one; returns
        it. What the older one had begun may be learnt from twice: see `begun`."""
        with self._lock:
            slot = self.slots[worker]
            slot["state"] = WAITING
            slot["granted"] = 0
            self._ended.discard(worker)
            self._generations[worker] += 1
            generation = slot["generation"] = int(self._generations[worker])
            old = f"{worker}.{generation - 1}"
            record = self._records[worker].tobytes()
            self._ask_all(
                ("HSET", self._names.workers, f"{worker}.{generation}", record),
                ("EXPIRE", self._names.workers, TTL_S),
            )
            self._say()
            self._ask_all(("HDEL", self._names.workers, old))
            self._silence[worker] = 0.0
            self._launched = True
            return int(generation)

    def _say(self, give_up_s: float | None = None) -> None:
        self._says["beat"] += 1
        said = self._says.tobytes() + self._generations.tobytes()
        self._ask_all(("SET", self._names.control, said, "EX", TTL_S), give_up_s=give_up_s)
        self._beat_at = time.monotonic()

    # What the workers say

    def _look(self) -> None:
        """Mirrors the workers' records, and does what is due."""
        with self._lock:
            if self._merging is not None:
                self._merging.check()
            if not self._launched:
                return
            (pairs,) = self._ask_all(("HGETALL", self._names.workers))
            if not pairs:
                raise StoreError(f"{self._link.place}: the store has lost run {self._task}")
            self.stop_asked = STOP_FIELD in pairs[::2]
            now = time.monotonic()
            self._silence += min(now - self._looked, MOST_LOOK_S)
            self._looked = now
            for worker, record in current_records(pairs, self._generations).items():
                if worker in self._ended:
                    self._tell_again(worker, record)
                    continue
                # Compared as numbers, member by member, they take half a core.
                if record.tobytes() != self._records[worker].tobytes():
                    if record["slot"]["rows"] > self.slots[worker]["rows"]:
                        self._learnt_at[worker] = now
                    self._records[worker] = record
                    self._silence[worker] = 0.0
            began = self.slots["granted"].any() or self.slots["rows"].any()
            if self._first_step is None and began:
                self._first_step = now
            slots = self.slots
            learns = (slots["state"] == STARTED) | (slots["state"] == ACTIVE)
            # Who takes others' blocks is mostly heard of between two of them.
            learns &= (slots["resting"] == 0) | (now - self._learnt_at < _RESTS_S)
            now_so = int(slots["rows"].sum()), int(learns.sum())
            moved = now_so != (self._says["rows"], self._says["learning"])
            self._says["rows"], self._says["learning"] = now_so
            if moved or now - self._beat_at >= _BEAT_S:
                self._say()
            if now - self._prolonged >= _PROLONG_S:
                self._prolong()

    def ended(self, worker: int) -> None:
        """A worker ended of itself. Should a server lose its last word, others must not wait for
        it."""
        with self._lock:
            self._look()
            self.slots[worker]["state"] = FINISHED
            self._ended.add(worker)

    def _tell_again(self, worker: int, found: np.void) -> None:
        """What a worker that is gone had said, if it is no longer there."""
        said = self._records[worker].tobytes()
        if found.tobytes() != said:
            field = f"{worker}.{self._generations[worker]}"
            self._ask_all(("HSET", self._names.workers, field, said))

    def progress(self, worker: int) -> tuple[int, int, int]:
        """What changes as a worker gets on; the state comes first."""
        slot = self.slots[worker]
        return int(slot["state"]), int(slot["rows"]), 0

    def holds_up(self, worker: int) -> bool:
        """Whether a worker could go on, and others wait for it or soon will."""
        slots = self.slots
        if slots[worker]["state"] != ACTIVE:
            return bool(slots[worker]["state"] != FINISHED)
        running = slots["state"] != FINISHED
        clocks = slots["updates"] + slots["clock_base"]
        if self.header.n_blocks and running.sum() > 1:
            # Who has blocks is waited for, unless it waits itself for one that is further behind.
            running = slots["unit"] != 0
            return bool(running[worker] and clocks[worker] == clocks[running].min())
        may_go_on = slots["rows"].sum() < self._says["allowed_rows"]
        return bool(may_go_on and clocks[worker] == clocks[running].min())

    def silent_s(self, worker: int) -> float:
        """Seconds since a worker last said anything new, while the supervisor listened."""
        return float(self._silence[worker])

    @property
    def rows(self) -> int:
        """Rows learnt from, by all workers."""
        self._look()
        return int(self.slots["rows"].sum())

    @property
    def updates(self) -> int:
        return int(self.slots["updates"].sum())

    def losses(self) -> tuple[float, float]:
        """(loss sum, weight sum) of all rows so far, each measured before it was learnt from."""
        return float(self.slots["loss_sum"].sum()), float(self.slots["weight_sum"].sum())

    @property
    def first_step(self) -> float | None:
        """When a worker was first seen to learn, by the monotonic clock; None before that."""
        return self._first_step

    def begun(self, worker: int) -> int:
        """Rows a worker has begun and not reported."""
        return int(self.slots[worker]["granted"])

    def forfeit(self, worker: int) -> None:
        self.slots[worker]["granted"] = 0

    def wait(self, rows: float, timeout: float) -> int:
        """Waits until this many rows are done or all workers are, at most `timeout` seconds;
        returns the rows done."""
        until = time.monotonic() + timeout
        while True:
            done = self.rows
            finished = (self.slots["state"] == FINISHED).all()
            if done >= rows or finished or time.monotonic() >= until:
                return done
            time.sleep(_POLL_S)

    @property
    def repeated(self) -> int:
        """Rows that two workers have learnt from, since a server lost who had them."""
        return int(self._records["repeated"].sum())

    @property
    def exchanges(self) -> dict[str, float]:
        """What the workers say of their exchanges with the model (docs/redis.md)."""
        traffic, merging = self._records["traffic"], self._merging
        n = int(traffic["exchanges"].sum())
        return {
            "exchanges": n,
            "doubtful": int(traffic["doubtful"].sum()),
            "lost": int(traffic["lost"].sum()) + (merging.lost if merging else 0),
            "rollbacks": int(traffic["rollbacks"].sum()) + (merging.rollbacks if merging else 0),
            "staleness_mean": float(traffic["stale_sum"].sum()) / n if n else 0.0,
            "staleness_max": int(traffic["stale_max"].max()),
            "bytes_sent": int(traffic["bytes_sent"].sum()),
            "bytes_received": int(traffic["bytes_received"].sum()),
        }

    # The model

    def _weights(self) -> Float32Array:
        """Of all coordinates, the intercept last."""
        with self._lock:
            if self._merging is not None:
                whole = self._merging.weights(self._give_up_s)
            else:
                whole = bitfield.read_weights(self._shards, self._give_up_s)
        return (whole.astype(np.float64) / bitfield.SCALE).astype(np.float32)

    def snapshot(self) -> tuple[Float32Array, float]:
        """Weights for the data as given, float32[model_size], and the intercept."""
        found = self._weights()
        weights = np.zeros(self.header.model_size, np.float32)
        weights[self.scale.ids] = found[:-1] / self.scale.divisor
        return weights, float(found[-1])

    def merged_state(self) -> Float32Array:
        """The state of the optimiser: weights, and what workers have told of their accumulators."""
        weights, told = self._weights(), None
        if self.optimizer.kind == "adagrad":
            with self._lock:
                told = read_accumulators(self._shards, len(weights))
        return joined_state(self.optimizer, weights, told)

    @property
    def n_state(self) -> int:
        return (len(self.scale.ids) + 1) * self.optimizer.width

    @property
    def rounds(self) -> int:
        """There are no rounds of bsp."""
        return 0

    def positions(self) -> Positions:
        """Where the workers stand."""
        with self._lock:
            n_blocks = self.header.n_blocks
            if not n_blocks:
                return Positions.of_slots(self.slots.copy())
            return read_positions(self._ask_all, self._names, self.slots, n_blocks)

    def restore(self, state: Float32Array, positions: Positions, rounds: int) -> None:  # noqa: ARG002
        """The model and the workers' places of a run that went before; before they are started."""
        width = self.optimizer.width
        with self._lock:
            whole = bitfield.to_whole(state[::width])
            for shard in self._shards:
                bitfield.write_weights(shard, whole)
            if self._merging is not None:
                self._merging.begin(whole)
            if self.optimizer.kind == "adagrad":
                save_accumulators(self._shards, np.ascontiguousarray(state[1::2]))
            self._restore_positions(positions)

    def _restore_positions(self, positions: Positions) -> None:
        self.slots[:] = positions.slots
        if self.header.n_blocks:
            self.slots["clock_base"] += positions.helped
            self._link.ask("SET", self._names.claims, string_of(positions.claims), "EX", TTL_S)
        self._generations[:] = self.slots["generation"]
        self.slots["state"] = ACTIVE
        self.slots["granted"] = 0
        self.slots["first_step"] = 0

    # Keys and connections

    @property
    def _give_up_s(self) -> float:
        return max(1.0, min(resp.GIVE_UP_S, self._deadline - time.perf_counter()))

    def _ask_all(
        self, *commands: tuple[bytes | str | int | float, ...], give_up_s: float | None = None
    ) -> list[Any]:
        return self._link.ask_all(
            *commands, give_up_s=self._give_up_s if give_up_s is None else give_up_s
        )

    def _keys(self, shard: bitfield.Shard) -> tuple[bytes, ...]:
        return shard.key, key_of(shard), inbox_of(shard), bell_of(shard)

    def keep(self, plan: str, best: bytes | None) -> None:
        """What another supervisor would have to know; the best model where it is another now."""
        with self._lock:
            if best is not None:
                self._ask_all(("SET", self._names.best, best, "EX", TTL_S))
            self._ask_all(("SET", self._names.plan, plan, "EX", TTL_S))

    def remove(self, shards: Sequence[Any]) -> None:
        """What another run has of the model."""
        for shard in shards:
            shard.link.ask("UNLINK", *self._keys(shard))

    def _prolong(self) -> None:
        self._ask_all(*(("EXPIRE", key, TTL_S) for key in self._names.all()))
        for shard in self._shards:
            shard.link.ask_all(
                *(("EXPIRE", key, TTL_S) for key in self._keys(shard)), give_up_s=self._give_up_s
            )
        self._prolonged = time.monotonic()

    def close(self) -> None:
        """Deletes what the run has in the store, if the store is there."""
        with self._lock:
            if not self._deleted:
                self._deleted = True
                end_here(self._task)
                if self._merging is not None:
                    self._merging.end()
                for shard in self._shards:
                    shard.link.close()  # one long unused may be broken, and there is one attempt
                    with suppress(StoreError):  # `welcome` sees to it that they are this run's
                        shard.link.ask("UNLINK", *self._keys(shard), give_up_s=0)
                with suppress(StoreError):
                    self._ask_all(*(("UNLINK", key) for key in self._names.all()), give_up_s=0)
            for shard in self._shards:
                shard.link.close()
            self._link.close()


def joined_state(
    optimizer: _kernels.Optimizer, weights: Float32Array, told: Float32Array | None
) -> Float32Array:
    """The state of the optimiser: weights, and what workers have told of their accumulators."""
    state = np.empty(len(weights) * optimizer.width, np.float32)
    optimizer.clear(state)
    state[:: optimizer.width] = weights
    if told is not None:
        np.maximum(state[1::2], told, out=state[1::2])
    return state


class Merging:
    """Merges what workers push (runtime/params/merged.py), in a thread and on connections of its
    own."""

    def __init__(self, urls: Sequence[StoreUrl], header: RunHeader) -> None:
        self._over = Event()
        shards = bitfield.open_shards(urls, header, self._over.is_set)
        self._shards = shards
        self._bell = Bell(bitfield.open_shards(urls, header, self._over.is_set))
        # The answer comes after the wait.
        self._wait_s = min(_BELL_S, urls[0].timeout / 2)
        self._merger = Merger(shards, header.n_workers)
        self._lock = Lock()
        self._error: BaseException | None = None
        self._thread: Thread | None = None

    def begin(self, whole: bitfield.Int32Array) -> None:
        with self._lock:
            self._merger.begin(whole)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="cirrus-merge", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                with self._lock:
                    taken = self._merger.merge()
                if not taken:
                    self._bell.wait(self._wait_s)
        except BaseException as error:
            self._error = error

    def check(self) -> None:
        """Raises what ended the merging."""
        if self._error is not None and not self._over.is_set():
            raise self._error

    def weights(self, give_up_s: float) -> bitfield.Int32Array:
        """The model with all that was pushed."""
        self.check()
        with self._lock:
            self._merger.merge(give_up_s)  # once: workers that are fast never stop pushing
            return self._merger.whole

    @property
    def lost(self) -> int:
        """Strings that a server lost."""
        return self._merger.lost

    @property
    def rollbacks(self) -> int:
        """Times a server came back with an older model."""
        return sum(shard.rollbacks for shard in self._shards)

    def end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._bell.link.interrupt()
            self._thread.join(_FAREWELL_S)
        for link in (*(shard.link for shard in self._shards), self._bell.link):
            link.close()


# Who holds the model of a run, as the supervisor sees it.
Store = LocalStore | RedisRun
