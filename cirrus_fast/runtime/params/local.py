"""The model in memory that all workers of one machine share, and the control of their run.

One buffer holds everything: optimiser state, training scale, and a slot per worker. Between threads
it is plain memory, between processes a memory file. Workers update the state without locks
(csrc/cf_train.h). A slot is written by its worker alone and read by the supervisor, field by field,
each an aligned 8-byte number, so nothing needs a lock; whoever waits looks again every so often.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cirrus_fast import _kernels
from cirrus_fast.data.csr import Float32Array, Int64Array, UInt32Array
from cirrus_fast.data.parallel import fresh_memory
from cirrus_fast.data.training_scale import TrainingScale
from cirrus_fast.errors import TrainingError
from cirrus_fast.runtime.claims import NAP_S, takers
from cirrus_fast.runtime.params.place import Place

# What a worker tells. `rows` is the truth of where it stands: its epoch and its place in it follow.
SLOT = np.dtype(
    [
        ("generation", np.int64),  # of the worker that may write here; older ones are twins
        ("state", np.int64),  # WAITING, STARTED, ACTIVE or FINISHED
        ("rows", np.int64),  # learnt from, reported
        ("granted", np.int64),  # begun, not yet reported: learnt from twice if the worker dies
        ("updates", np.int64),
        ("first_step", np.float64),  # when the first grant was given, by the monotonic clock
        ("loss_sum", np.float64),
        ("weight_sum", np.float64),
        # One mini-batch of a bsp round (bsp.py)
        ("ready", np.int64),
        ("merged", np.int64),
        ("batch_ids", np.int64),
        ("batch_rows", np.int64),
        ("batch_loss", np.float64),
        ("batch_weight", np.float64),
        ("batch_intercept", np.float64),
        # The blocks that are being learnt from, where workers take them from each other
        # (runtime/sharing.py). `rows` is unit_base + unit_rows, whatever moment a worker dies at.
        ("unit", np.int64),  # 0: none; what blocks they are is for their worker to say
        ("unit_base", np.int64),
        ("unit_rows", np.int64),
        ("resting", np.int64),  # 1: done with its share of the epoch; nobody waits for it
        ("clock_base", np.int64),  # see `LocalStore.clocks`
    ]
)
_CONTROL = np.dtype(
    [("stop", np.int64), ("allowed_rows", np.float64), ("round", np.int64), ("pad", np.int64)]
)
# STARTED: there, and looking at the data, which takes long where they are text. With async nobody
# waits for such a worker.
WAITING, ACTIVE, FINISHED, STARTED = 0, 1, 2, 3

_HEADER_BYTES = 4096
_MAGIC = "cirrus_fast shared model 4"
# Popular coordinates a worker has its own copies of: seven of ten entries of click data are of
# these. All workers together have no more than MOST_COPIES, since each reads the others'.
MOST_HOT = 1024
MOST_COPIES = 16 * MOST_HOT
LONGEST_NAP_S = 0.003
# How often positions are looked at until none has moved on to other blocks meanwhile.
_LOOKS = 1000


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies where; the header of a shared buffer, as JSON."""

    model_size: int
    n_ids: int  # that some row has: coordinates beside the intercept's
    n_places: int  # entries of the scale's `place`
    optimizer: str
    learning_rate: float
    n_penalties: int  # pairs of the scale's `penalties`; 0: there are none
    n_workers: int
    n_hot: int  # coordinates that each worker has its own copy of, beside the intercept's
    exchange_rows: int  # rows after which it tells what it learnt of them; 0: no copies
    room: int  # entries of a mini-batch that workers exchange; 0 outside bsp
    n_blocks: int  # that workers take from each other; 0: each keeps to its own
    task: str  # of the run: a worker left over from another must not train this model
    owner: int  # process id of the supervisor
    magic: str = _MAGIC

    @property
    def n_bytes(self) -> int:
        """Of the buffer, and of what every worker makes to find its way in it."""
        return self.sections()["end"][0] + 8 * self.n_places + 4 * self.n_ids

    def sections(self) -> dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]]:
        """name -> (offset, dtype, shape)"""
        width = _kernels.Optimizer(self.optimizer, self.learning_rate).width
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "control": (_CONTROL, (1,)),
            "slots": (SLOT, (self.n_workers,)),
            "state": (np.dtype(np.float32), ((self.n_ids + 1) * width,)),
            "ids": (np.dtype(np.uint32), (self.n_ids,)),
            "place": (np.dtype(np.uint32), (self.n_places,)),
            "divisor": (np.dtype(np.float32), (self.n_ids,)),
            "penalties": (np.dtype(np.float32), (self.n_penalties, 2)),
            "hot": (
                np.dtype(np.float32),
                (self.n_workers if self.exchange_rows else 0, (self.n_hot + 1) * width),
            ),
            "exchange_ids": (np.dtype(np.uint32), (self.n_workers, self.room)),
            "exchange_values": (np.dtype(np.float32), (self.n_workers, 2, self.room)),
            "claims": (np.dtype(np.int64), (self.n_blocks,)),
            "helped": (np.dtype(np.int64), (self.n_workers,)),
        }
        sections, offset = {}, _HEADER_BYTES
        for name, (dtype, shape) in shapes.items():
            sections[name] = (offset, dtype, shape)
            offset += -(-dtype.itemsize * math.prod(shape) // 4096) * 4096
        sections["end"] = (offset, np.dtype(np.uint8), (0,))
        return sections


def units(slots: npt.NDArray[np.void]) -> list[tuple[int, int]]:
    """What blocks each worker is at: others than before, or none, if this has changed."""
    return list(zip(slots["unit"].tolist(), slots["unit_base"].tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Where workers stand. claims, helped : as in `LocalStore`; without entries where there are
    none"""

    slots: npt.NDArray[np.void]
    claims: Int64Array
    helped: Int64Array

    @classmethod
    def of_slots(cls, slots: npt.NDArray[np.void]) -> Positions:
        """Of workers who do not help each other."""
        none = np.empty(0, np.int64)
        return cls(slots, none, none)


class LocalStore:
    """Model and control of one run.

    Attributes
    ----------
    layout : Layout
    optimizer : kind and constants of the updates
    scale : column numbers, divisors and penalties that every worker uses
    state : float32[(n_ids + 1) * width]; the last coordinate is the intercept. Beside it, `hot`
        has what each worker learnt of the popular coordinates (csrc/cf_hot.h)
    stop_asked : nobody else reaches this store
    """

    stop_asked = False

    def __init__(self, buffer: mmap.mmap | memoryview, layout: Layout) -> None:
        self.layout = layout
        self.optimizer = _kernels.Optimizer(layout.optimizer, layout.learning_rate)
        arrays = {}
        for name, (offset, dtype, shape) in layout.sections().items():
            flat = np.frombuffer(buffer, dtype, math.prod(shape), offset)
            arrays[name] = flat.reshape(shape)
        self.state: Float32Array = arrays["state"]
        penalties = arrays["penalties"] if layout.n_penalties else None
        self.hot: Float32Array = arrays["hot"]
        self.scale = TrainingScale(arrays["ids"], arrays["place"], arrays["divisor"], penalties)
        self.exchange_ids: UInt32Array = arrays["exchange_ids"]
        self.exchange_values: Float32Array = arrays["exchange_values"]
        self.slots: npt.NDArray[np.void] = arrays["slots"]
        self.control: np.void = arrays["control"][0]
        # Who has which block (runtime/claims.py), and updates others made for each worker's share.
        self.claims: Int64Array | None = arrays["claims"] if layout.n_blocks else None
        self.helped: Int64Array = arrays["helped"]
        self._descriptor: int | None = None

    @classmethod
    def create(
        cls,
        optimizer: str,
        learning_rate: float,
        scale: TrainingScale,
        *,
        model_size: int,
        n_workers: int,
        intercept: float = 0.0,
        exchange_rows: int = 0,
        room: int = 0,
        n_blocks: int = 0,
        task: str = "",
        shared: bool = False,
    ) -> LocalStore:
        """A model at 0 but for the intercept. `shared` makes it reachable from other processes.

        n_blocks : of the data, where workers take over blocks of those that are slow
        """
        layout = Layout(
            model_size=model_size,
            n_ids=len(scale.ids),
            n_places=len(scale.place),
            optimizer=optimizer,
            learning_rate=learning_rate,
            n_penalties=0 if scale.penalties is None else len(scale.penalties),
            n_workers=n_workers,
            n_hot=min(len(scale.ids), MOST_HOT, MOST_COPIES // n_workers) if exchange_rows else 0,
            exchange_rows=exchange_rows,
            room=room,
            n_blocks=n_blocks,
            task=task,
            owner=os.getpid(),
        )
        n_bytes = layout.sections()["end"][0]
        descriptor = _memory_file(n_bytes) if shared else -1
        buffer: mmap.mmap | memoryview
        buffer = mmap.mmap(descriptor, n_bytes) if shared else fresh_memory(n_bytes)
        header = json.dumps(asdict(layout)).encode()
        buffer[: len(header)] = header
        store = cls(buffer, layout)
        store._descriptor = descriptor if shared else None
        store.scale.ids[:] = scale.ids
        store.scale.place[:] = scale.place
        store.scale.divisor[:] = scale.divisor
        if store.scale.penalties is not None and scale.penalties is not None:
            store.scale.penalties[:] = scale.penalties
        store.optimizer.clear(store.state, intercept)
        store.control["allowed_rows"] = math.inf
        return store

    @property
    def descriptor(self) -> int:
        """The file descriptor of a shared store, for a child process to inherit."""
        assert self._descriptor is not None, "the store is not shared"
        return self._descriptor

    def close(self) -> None:
        """Gives the memory file up; processes that have it keep their view."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def hot_copies(self, worker: int) -> _kernels.HotCopies | None:
        """A worker's copies of the popular coordinates, if workers have any."""
        if not self.layout.exchange_rows:
            return None
        own = np.empty(2 * self.hot.shape[1], np.float32)
        return _kernels.HotCopies(self.optimizer, self.hot, worker, own, self.layout.exchange_rows)

    # For the supervisor

    @property
    def rows(self) -> int:
        """Rows learnt from, by all workers."""
        return int(self.slots["rows"].sum())

    @property
    def updates(self) -> int:
        return int(self.slots["updates"].sum())

    def losses(self) -> tuple[float, float]:
        """(loss sum, weight sum) of all rows so far, each measured before it was learnt from."""
        return float(self.slots["loss_sum"].sum()), float(self.slots["weight_sum"].sum())

    @property
    def first_step(self) -> float | None:
        """When the first worker began to learn, by the monotonic clock; None before that."""
        times = self.slots["first_step"]
        return float(times[times > 0].min()) if (times > 0).any() else None

    def allow(self, rows: float) -> None:
        """Workers pause once this many rows are done in all."""
        self.control["allowed_rows"] = rows

    def stop(self) -> None:
        """Workers end at their next chunk."""
        self.control["stop"] = 1

    def admit(self, worker: int) -> int:
        """A new generation for a worker about to be started, which fences any older one; returns
        it. What the older one had begun may be learnt from twice: see `begun`."""
        slot = self.slots[worker]
        slot["state"] = WAITING
        slot["granted"] = slot["ready"] = slot["merged"] = 0
        if slot["unit"]:
            slot["rows"] = slot["unit_base"] + slot["unit_rows"]
        slot["generation"] += 1
        return int(slot["generation"])

    def begun(self, worker: int) -> int:
        """Rows a worker has begun and not reported."""
        return int(self.slots[worker]["granted"])

    @property
    def clocks(self) -> Int64Array:
        """Updates made with each worker's share, by whoever made them, where each epoch begins at
        the same for all: shares differ a little."""
        clocks: Int64Array = self.slots["updates"] + self.helped + self.slots["clock_base"]
        return clocks

    def expect_end(self, deadline: float) -> None:
        """Memory keeps nobody waiting."""

    def forfeit(self, worker: int) -> None:
        """A worker is gone, with what it had begun."""
        self.slots[worker]["granted"] = 0

    def positions(self) -> Positions:
        """Where all workers stand, at one moment: what they have taken, and how far each is."""
        for _ in range(_LOOKS):
            before = units(self.slots)
            claims, helped = self._claims_now()
            found = Positions(self.slots.copy(), claims, helped)
            if units(found.slots) == before:
                break
        return found

    def _claims_now(self) -> tuple[Int64Array, Int64Array]:
        if self.claims is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return self.claims.copy(), self.helped.copy()

    def restore(self, state: Float32Array, positions: Positions, rounds: int) -> None:
        """The model and the workers' places of a run that went before; before they are started."""
        self.state[:] = state
        self.slots[:] = positions.slots
        if self.claims is not None:
            self.claims[:] = positions.claims
            self.helped[:] = positions.helped
        self.slots["state"] = ACTIVE
        self.slots["granted"] = 0
        self.slots["first_step"] = 0
        self.control["round"] = rounds

    @property
    def n_state(self) -> int:
        """Numbers of `merged_state`."""
        return len(self.state)

    @property
    def rounds(self) -> int:
        """Of bsp, so far."""
        return int(self.control["round"])

    @property
    def repeated(self) -> int:
        """Memory loses nothing that workers have said."""
        return 0

    @property
    def exchanges(self) -> dict[str, float]:
        """There are none: workers learn on the model itself."""
        return {}

    def progress(self, worker: int) -> tuple[int, int, int]:
        """What changes as a worker gets on; the state comes first."""
        slot = self.slots[worker]
        return int(slot["state"]), int(slot["rows"]), int(slot["merged"])

    def holds_up(self, worker: int) -> bool:
        """Whether a worker could go on, and others wait for it or soon will."""
        slots = self.slots
        if slots[worker]["state"] != ACTIVE:
            return bool(slots[worker]["state"] != FINISHED)
        running = np.flatnonzero(slots["state"] != FINISHED)
        if self.claims is not None:
            # Who has blocks is waited for, unless it waits itself for one that is further behind;
            # and who is the last.
            busy, clocks = takers(self.claims), self.clocks
            if len(running) == 1:
                return True
            return worker in busy and bool(clocks[worker] == clocks[sorted(busy)].min())
        handed_in = slots["ready"] > self.control["round"]  # in bsp
        if handed_in[running].all():  # the first is to merge, or is at it
            return bool(running[0] == worker)
        return bool(
            self.rows < self.control["allowed_rows"]
            and slots[worker]["updates"] == slots["updates"][running].min()
            and not handed_in[worker]
        )

    def wait(self, rows: float, timeout: float) -> int:
        """Waits until this many rows are done or all workers are, at most `timeout` seconds;
        returns the rows done."""
        began, before = time.monotonic(), self.rows
        while True:
            finished = (self.slots["state"] == FINISHED).all()  # before its rows are looked at
            done, took = self.rows, time.monotonic() - began
            if done >= rows or took >= timeout:
                return done
            # Looked at ever more often as the end comes near: each look costs workers some time.
            left = took * (rows - done) / (done - before) if done > before else 0.0
            time.sleep(min(max(left / 4, NAP_S), LONGEST_NAP_S))
            if finished:
                return done

    def merged_state(self) -> Float32Array:
        """A copy of the state with all that the workers have told of the popular coordinates."""
        state = self.state.copy()
        if len(self.hot):
            told = self.hot.sum(axis=0)
            width = self.optimizer.width
            state[: len(told) - width] += told[:-width]
            state[-width:] += told[-width:]
        return state

    def snapshot(self) -> tuple[Float32Array, float]:
        """Weights for the data as given, float32[model_size], and the intercept."""
        learnt = np.empty(self.layout.n_ids, np.float32)
        rows, penalties = float(self.rows), self.scale.penalties
        intercept = self.optimizer.weights(self.state, penalties, rows, learnt)
        if len(self.hot):
            n, width = self.layout.n_hot, self.optimizer.width
            popular = self.hot.sum(axis=0)
            popular[:-width] += self.state[: n * width]
            popular[-width:] += self.state[-width:]
            if penalties is not None:
                penalties = penalties[:n]
            intercept = self.optimizer.weights(popular, penalties, rows, learnt[:n])
        learnt /= self.scale.divisor
        weights = np.zeros(self.layout.model_size, np.float32)
        weights[self.scale.ids] = learnt
        return weights, intercept


class Port(Place):
    """A worker's side of the store."""

    def __init__(
        self, store: LocalStore, worker: int, generation: int, staleness: int, *, strict: bool
    ) -> None:
        """strict : no further ahead of the slowest than `staleness` mini-batches"""
        self.store = store
        self.worker = worker
        self._slot = store.slots[worker]
        self._generation = generation
        self._staleness = staleness
        self._strict = strict
        self._owner_due = 0.0
        self._owner_gone = False
        if not self.fenced:
            self._slot["state"] = STARTED

    def join(self) -> None:
        """This worker is ready to learn."""
        if not self.fenced:
            self._slot["state"] = ACTIVE

    @property
    def fenced(self) -> bool:
        """Whether a later generation has taken this worker's place."""
        return int(self._slot["generation"]) != self._generation

    @property
    def stopping(self) -> bool:
        return bool(self.store.control["stop"]) or self.fenced or self._orphaned()

    def _orphaned(self) -> bool:
        """Whether the supervisor's process is gone; looked up now and then."""
        now = time.monotonic()
        if now >= self._owner_due:
            self._owner_due = now + 1.0
            owner = self.store.layout.owner
            self._owner_gone = owner != os.getpid() and not _runs(owner)
        return self._owner_gone

    def pauses_at(self, rows: float) -> bool:
        """Whether the model is measured, or copied, once this many rows are done in all."""
        return float(self.store.control["allowed_rows"]) <= rows

    @property
    def rows(self) -> int:
        """Rows this worker and its earlier generations have reported."""
        return int(self._slot["rows"])

    @property
    def _helped(self) -> int:
        return int(self.store.helped[self.worker])

    def grant(self, wanted: int, minibatch_size: int, *, whole: bool = False) -> int:
        """How many of the wanted rows may be taken now; waits while that is none. 0: stop.

        whole : all of them, or wait
        """
        while not self.stopping:
            room = float(self.store.control["allowed_rows"]) - self.store.rows
            room = min(room, self._lead_left() * minibatch_size)
            if room > 0:
                granted = wanted if whole else int(min(wanted, room))
                self._slot["granted"] = granted
                if not self._slot["first_step"]:
                    self._slot["first_step"] = time.monotonic()
                return granted
            time.sleep(NAP_S)
        return 0

    def _lead_left(self) -> float:
        """Mini-batches this worker may still take before it is too far ahead of the slowest."""
        # Who takes blocks from others is done with its own, and whom others help does not fall
        # behind by it.
        if not self._strict or self._helps is not None:
            return math.inf
        slots, clocks = self.store.slots, self.store.clocks
        running = (slots["state"] != FINISHED) & (slots["resting"] == 0)
        running[self.worker] = True
        slowest = int(clocks[running].min())
        return max(0, slowest + self._staleness + 1 - int(clocks[self.worker]))

    def report(self, rows: int, updates: int, loss_sum: float, weight_sum: float) -> None:
        """Adds what was done of the last grant."""
        if self.fenced:
            return
        slot = self._slot
        slot["loss_sum"] += loss_sum
        slot["weight_sum"] += weight_sum
        slot["updates"] += updates
        if self._helps is not None:
            slot["clock_base"] -= updates
            _kernels.claim_add(self.store.helped, self._helps, updates)
        slot["unit_rows"] += rows  # before the sum: see SLOT
        slot["rows"] += rows
        slot["granted"] = 0

    def finish(self) -> None:
        """Nobody need wait for this worker any more."""
        if not self.fenced:
            self._slot["state"] = FINISHED


_MEMORY, _SHARED = "memory://", "shared:"
_published: dict[str, LocalStore] = {}


def publish(task: str, store: LocalStore) -> str:
    """Makes a store reachable by threads of this process; returns its URL."""
    _published[task] = store
    return _MEMORY + task


def withdraw(task: str) -> None:
    _published.pop(task, None)


def shared_url(store: LocalStore, *, inherited: bool) -> str:
    """URL of a shared store: for processes that inherit its descriptor, or any others of this
    machine and user."""
    owner = "self" if inherited else os.getpid()
    return f"{_SHARED}/proc/{owner}/fd/{store.descriptor}"


def connect(url: str, task: str) -> LocalStore:
    """The store of a run at a URL that `publish` or `shared_url` gave."""
    if url.startswith(_MEMORY):
        if task not in _published:
            raise TrainingError(f"run {task} is over")
        return _published[task]
    path = url.removeprefix(_SHARED)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError as error:
        raise TrainingError(
            f"the model in the supervisor's memory cannot be reached from this worker ({error}): "
            "workers of param_store=memory must run on the supervisor's machine, as its user"
        ) from error
    try:
        buffer = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    header = json.loads(buffer[:_HEADER_BYTES].rstrip(b"\0"))
    if header.get("magic") != _MAGIC:
        raise TrainingError(f"{path} is not a shared model of this version of cirrus-fast")
    layout = Layout(**header)
    if layout.task != task:
        raise TrainingError(f"run {task} is over, and another has its place")
    return LocalStore(buffer, layout)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _memory_file(n_bytes: int) -> int:
    """A file in memory that is gone when the last process that has it is."""
    if not hasattr(os, "memfd_create"):
        raise TrainingError("workers in other processes need Linux (memfd_create)")
    descriptor = os.memfd_create("cirrus_fast model")
    os.ftruncate(descriptor, n_bytes)
    return descriptor
